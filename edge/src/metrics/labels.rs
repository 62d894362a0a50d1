//! Label values from a bounded set, whatever peers send.

use edge_proto::config::Config;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

/// Stands for everything outside the known set.
pub const OTHER: &str = "other";

/// Methods that get a label of their own.
pub const KNOWN_METHODS: &[&str] = &[
    "INVITE",
    "ACK",
    "BYE",
    "CANCEL",
    "OPTIONS",
    "REGISTER",
    "REFER",
    "NOTIFY",
    "SUBSCRIBE",
    "INFO",
    "UPDATE",
    "PRACK",
    "MESSAGE",
    "PUBLISH",
];

/// Names that reloads may add up to before new ones become [`OTHER`].
const MAX_NAMES: usize = 1_024;

/// A method's label. Methods are case-sensitive (RFC 3261 §7.1): `invite` is not INVITE.
pub fn fold_method(method: &str) -> &'static str {
    KNOWN_METHODS
        .iter()
        .find(|m| **m == method)
        .copied()
        .unwrap_or(OTHER)
}

/// A status code's label: the code where RFCs register it, else its class (`4xx`), else [`OTHER`].
pub fn fold_code(code: u16) -> Cow<'static, str> {
    const REGISTERED: &[u16] = &[
        100, 180, 181, 182, 183, 199, 200, 202, 204, 300, 301, 302, 305, 380, 400, 401, 402, 403,
        404, 405, 406, 407, 408, 410, 412, 413, 414, 415, 416, 417, 420, 421, 422, 423, 424, 425,
        428, 429, 430, 433, 436, 437, 438, 439, 440, 469, 470, 480, 481, 482, 483, 484, 485, 486,
        487, 488, 489, 491, 493, 494, 500, 501, 502, 503, 504, 505, 513, 555, 580, 600, 603, 604,
        606, 607, 608,
    ];
    if REGISTERED.binary_search(&code).is_ok() {
        return Cow::Owned(code.to_string());
    }
    Cow::Borrowed(match code {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        500..=599 => "5xx",
        600..=699 => "6xx",
        _ => OTHER,
    })
}

/// Names that come from the configuration.
#[derive(Debug, Default)]
pub struct Labels {
    names: RwLock<Names>,
    generation: AtomicU64,
}

#[derive(Debug, Default)]
struct Names {
    trunks: BTreeSet<String>,
    listeners: BTreeSet<String>,
}

impl Labels {
    pub fn update(&self, config: &Config) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        for trunk in &config.trunks {
            if names.trunks.len() < MAX_NAMES {
                names.trunks.insert(trunk.name.to_string());
            }
        }
        names.listeners = config
            .listeners
            .iter()
            .map(|listener| listener.name.clone())
            .collect();
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Another than before: a name may have another label now.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// `trunk` itself if any configuration since the start had it.
    pub fn trunk<'a>(&self, trunk: &'a str) -> &'a str {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        if names.trunks.contains(trunk) {
            trunk
        } else {
            OTHER
        }
    }

    /// `listener` itself if the present configuration has it.
    pub fn listener<'a>(&self, listener: &'a str) -> &'a str {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        if names.listeners.contains(listener) {
            listener
        } else {
            OTHER
        }
    }
}
