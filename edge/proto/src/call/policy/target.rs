//! Refer-To: what it names, whether the transferor may call it, and which trunk makes the call.

use super::pattern::{Candidate, TargetPattern, is_dialled, is_separator};
use crate::config::{Config, Transport, Trunk, TrunkUri};
use crate::event::Cause;
use crate::sip::name_addr::NameAddr;
use crate::sip::uri::{SipUri, TelUri, Uri};
use crate::trunk::canonical_host;
use std::borrow::Cow;
use std::sync::Arc;

/// The most headers that a Refer-To URI may carry.
pub const MAX_EMBEDDED_HEADERS: usize = 32;
/// The longest user part or number of a target, in bytes.
pub const MAX_USER_BYTES: usize = 256;

/// A Refer-To value whose form is right; nothing is allowed yet.
#[derive(Clone, PartialEq, Debug)]
pub struct ReferTo {
    /// `tel:` number without separators, or the unescaped user part.
    pub user: String,
    /// `None`: a telephone number, which has no host.
    address: Option<SipAddress>,
    /// Headers inside the URI, unescaped, free of control characters.
    pub embedded: Vec<(String, String)>,
}

#[derive(Clone, PartialEq, Debug)]
struct SipAddress {
    sips: bool,
    /// As [`canonical_host`] writes it.
    host: String,
    port: Option<u16>,
    /// `maddr`, a password or a method: understood, and never allowed.
    forbidden: Option<&'static str>,
}

/// A target that may be called, and how.
#[derive(Clone, Debug)]
pub struct Target {
    /// User part of the new Request-URI, unescaped. Host, port and transport are those of the trunk's `uri`: no request ever
    /// goes to a host that the transferor chose.
    pub user: String,
    /// Originates the new leg.
    pub trunk: Arc<Trunk>,
    /// Headers that the Refer-To URI carried, subject to [`super::copy_headers`].
    pub embedded: Vec<(String, String)>,
    /// Scheme, user, host and port of the target as they were understood; without parameters and headers. Like the details of
    /// refusals it holds numbers: [`crate::event`] masks them where they must not be seen.
    pub text: String,
}

/// Why a target is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetRefusal {
    /// 400, 403 or 416.
    pub status: u16,
    pub cause: Cause,
    /// One sentence for the timeline and the operator.
    pub detail: String,
}

impl TargetRefusal {
    fn malformed(detail: impl Into<String>) -> TargetRefusal {
        TargetRefusal {
            status: 400,
            cause: Cause::TargetInvalid,
            detail: detail.into(),
        }
    }

    fn scheme(scheme: &str) -> TargetRefusal {
        TargetRefusal {
            status: 416,
            cause: Cause::TargetInvalid,
            detail: format!("the scheme {scheme}: cannot be called; sip:, sips: and tel: can"),
        }
    }

    fn forbidden(detail: impl Into<String>) -> TargetRefusal {
        TargetRefusal {
            status: 403,
            cause: Cause::TargetNotAllowed,
            detail: detail.into(),
        }
    }
}

impl ReferTo {
    /// Scheme, user, host and port.
    pub fn text(&self) -> String {
        let Some(address) = &self.address else {
            return format!("tel:{}", self.user);
        };
        let scheme = if address.sips { "sips" } else { "sip" };
        let (open, close) = if address.host.contains(':') {
            ("[", "]")
        } else {
            ("", "")
        };
        let port = address
            .port
            .map_or(String::new(), |port| format!(":{port}"));
        format!("{scheme}:{}@{open}{}{close}{port}", self.user, address.host)
    }
}

/// Reads the value of a Refer-To header (RFC 3515 §2.1): a name-addr, a bare URI, or an E.164 number.
///
/// Refusals: 400 for what is malformed, has no user, or carries control characters; 416 for a scheme that cannot be called.
pub fn parse_refer_to(value: &str) -> Result<ReferTo, TargetRefusal> {
    let value = value.trim_matches([' ', '\t']);
    if let Some(number) = bare_number(value) {
        return tel(number);
    }
    let parsed = NameAddr::parse(value)
        .map_err(|fault| TargetRefusal::malformed(format!("the target is malformed: {fault}")))?;
    match &parsed.uri {
        Uri::Sip(uri) => sip(uri),
        Uri::Tel(TelUri { number, params }) => {
            if params.contains("phone-context") {
                return Err(TargetRefusal::malformed(
                    "a local number with phone-context cannot be called; a global one can",
                ));
            }
            tel(number)
        }
        Uri::Other { scheme, .. } => Err(TargetRefusal::scheme(scheme)),
    }
}

/// The telephone number that stands where a URI belongs, as in `<+1234567890>`.
fn bare_number(value: &str) -> Option<&str> {
    let inner = match value.split_once('<') {
        Some((_, rest)) => rest.strip_suffix('>')?,
        None => value,
    };
    let phone = |c: char| c.is_ascii_digit() || is_separator(c);
    let digits = inner.strip_prefix('+').unwrap_or(inner);
    (digits.chars().any(|c| c.is_ascii_digit()) && digits.chars().all(phone)).then_some(inner)
}

fn tel(number: &str) -> Result<ReferTo, TargetRefusal> {
    let user = number.replace(is_separator, "");
    check_user(&user)?;
    Ok(ReferTo {
        user,
        address: None,
        embedded: Vec::new(),
    })
}

fn sip(uri: &SipUri) -> Result<ReferTo, TargetRefusal> {
    check_embedded(&uri.headers)?;
    let Some(user) = uri.user.as_deref() else {
        return Err(TargetRefusal::malformed(
            "the target has no user part: nobody is named",
        ));
    };
    let is_phone = |kind: &str| kind.eq_ignore_ascii_case("phone");
    let user = if uri.params.value("user").is_some_and(is_phone) {
        subscriber(user)
    } else {
        user.to_owned()
    };
    check_user(&user)?;
    Ok(ReferTo {
        user,
        address: Some(SipAddress {
            sips: uri.sips,
            host: canonical_host(&uri.host.to_string()),
            port: uri.port,
            forbidden: forbidden_part(uri),
        }),
        embedded: uri.headers.clone(),
    })
}

/// The number in a user part marked `user=phone` (RFC 3261 §19.1.6), without separators and tel: parameters.
fn subscriber(user: &str) -> String {
    let number = user.split_once(';').map_or(user, |(number, _)| number);
    if number.chars().all(|c| is_dialled(c) || is_separator(c)) {
        number.replace(is_separator, "")
    } else {
        number.to_owned()
    }
}

fn check_user(user: &str) -> Result<(), TargetRefusal> {
    if user.is_empty() {
        return Err(TargetRefusal::malformed(
            "the target has no user part: nobody is named",
        ));
    }
    if user.len() > MAX_USER_BYTES {
        return Err(TargetRefusal::malformed(format!(
            "the target's user part is longer than {MAX_USER_BYTES} bytes"
        )));
    }
    if user.chars().any(char::is_control) {
        return Err(TargetRefusal::malformed(
            "the target's user part contains control characters",
        ));
    }
    Ok(())
}

fn check_embedded(headers: &[(String, String)]) -> Result<(), TargetRefusal> {
    if headers.len() > MAX_EMBEDDED_HEADERS {
        return Err(TargetRefusal::malformed(format!(
            "the Refer-To URI carries more than {MAX_EMBEDDED_HEADERS} headers"
        )));
    }
    let controls = |text: &str| text.chars().any(char::is_control);
    if headers
        .iter()
        .any(|(name, value)| controls(name) || controls(value))
    {
        return Err(TargetRefusal::malformed(
            "a header inside the Refer-To URI contains control characters",
        ));
    }
    Ok(())
}

fn forbidden_part(uri: &SipUri) -> Option<&'static str> {
    let other_method = |method: &str| !method.eq_ignore_ascii_case("INVITE");
    let replaces = |name: &str| name.eq_ignore_ascii_case("Replaces");
    if uri.password.is_some() {
        Some("a password in the target is not allowed")
    } else if uri.params.contains("maddr") {
        Some("maddr in the target is not allowed")
    } else if uri.params.contains("method") && uri.params.value("method").is_none_or(other_method) {
        Some("a method other than INVITE in the target is not allowed")
    } else if uri.headers.iter().any(|(name, _)| replaces(name)) {
        Some("attended transfer (Replaces in the target) is not supported")
    } else {
        None
    }
}

/// Parses and judges the value of a Refer-To header of a REFER that arrived from `transferor`: [`parse_refer_to`], then
/// [`allow_target`].
pub fn evaluate_refer_to(
    config: &Config,
    transferor: &Trunk,
    refer_to: &str,
) -> Result<Target, TargetRefusal> {
    allow_target(config, transferor, parse_refer_to(refer_to)?)
}

/// Resolves an entry of the transferor's `fallback`, which the operator wrote: `targets` need not list it.
pub fn evaluate_fallback(
    config: &Config,
    transferor: &Trunk,
    uri: &str,
) -> Result<Target, TargetRefusal> {
    let target = parse_refer_to(&as_refer_to(uri))?;
    let trunk = originating_trunk(config, transferor, &target)?;
    Ok(resolved(target, trunk))
}

/// The Refer-To value for a URI: in angle brackets, without which its parameters would be taken for the header's.
pub fn as_refer_to(uri: &str) -> Cow<'_, str> {
    if uri.contains('<') {
        Cow::Borrowed(uri)
    } else {
        Cow::Owned(format!("<{uri}>"))
    }
}

/// Finds the trunk that would call `refer_to`, and whether the transferor's `targets` allow it. Refusals: 403.
pub fn allow_target(
    config: &Config,
    transferor: &Trunk,
    refer_to: ReferTo,
) -> Result<Target, TargetRefusal> {
    let trunk = originating_trunk(config, transferor, &refer_to)?;
    let policy = transferor.transfer.as_ref();
    let via = policy.and_then(|policy| policy.via.as_deref());
    let candidate = match &refer_to.address {
        None => Candidate::Tel {
            number: &refer_to.user,
        },
        Some(address) => Candidate::Sip {
            sips: address.sips,
            user: &refer_to.user,
            host: &address.host,
            port: address.port,
            to_via: via == Some(&*trunk.name),
        },
    };
    let mut patterns = policy.into_iter().flat_map(|policy| &policy.targets);
    // The configuration check has refused what is no pattern; such an entry allows nothing.
    let allows = |text: &String| TargetPattern::parse(text).is_ok_and(|p| p.matches(&candidate));
    if !patterns.any(allows) {
        return Err(TargetRefusal::forbidden(format!(
            "no pattern in the targets of trunk \"{}\" matches {}",
            transferor.name,
            refer_to.text()
        )));
    }
    Ok(resolved(refer_to, trunk))
}

fn resolved(refer_to: ReferTo, trunk: Arc<Trunk>) -> Target {
    Target {
        text: refer_to.text(),
        user: refer_to.user,
        trunk,
        embedded: refer_to.embedded,
    }
}

/// The trunk that calls the target: one whose `uri` has exactly its host and port; `via` for telephone numbers and for hosts
/// that mean this edge; else the one whose `uri` has its host.
fn originating_trunk(
    config: &Config,
    transferor: &Trunk,
    target: &ReferTo,
) -> Result<Arc<Trunk>, TargetRefusal> {
    let via = || via_trunk(config, transferor);
    let Some(address) = &target.address else {
        return via();
    };
    if let Some(forbidden) = address.forbidden {
        return Err(TargetRefusal::forbidden(forbidden));
    }
    let find = |accepts: &dyn Fn(&TrunkUri) -> bool| {
        let serves = |trunk: &Arc<Trunk>| trunk.uris.iter().any(accepts);
        // Where trunks share a host, `via` is what the operator chose.
        via()
            .ok()
            .filter(serves)
            .or_else(|| config.trunks.iter().find(|t| serves(t)).cloned())
    };
    let same_host = |uri: &TrunkUri| canonical_host(&uri.host) == address.host;
    if address.port.is_some() {
        let exact = find(&|uri| same_host(uri) && uri.port == address.port);
        if let Some(trunk) = exact {
            return Ok(trunk);
        }
    }
    if config.domains.contains(&address.host) && is_own_port(config, address.port) {
        return via();
    }
    let usual = |uri: &TrunkUri| match address.port {
        None => true,
        Some(port) => uri.port.is_none() && is_default_port(port),
    };
    find(&|uri| same_host(uri) && usual(uri)).ok_or_else(|| {
        TargetRefusal::forbidden(format!(
            "{} is neither this edge nor the uri of a trunk",
            target.text()
        ))
    })
}

fn via_trunk(config: &Config, transferor: &Trunk) -> Result<Arc<Trunk>, TargetRefusal> {
    let policy = transferor.transfer.as_ref();
    let Some(name) = policy.and_then(|policy| policy.via.as_deref()) else {
        return Err(TargetRefusal::forbidden(format!(
            "trunk \"{}\" has no via that could call a telephone number",
            transferor.name
        )));
    };
    let trunk = config
        .trunk_named(name)
        .filter(|trunk| !trunk.uris.is_empty());
    trunk.cloned().ok_or_else(|| {
        TargetRefusal::forbidden(format!("trunk \"{name}\", the via, cannot make calls"))
    })
}

/// Whether a port that a target wrote behind a host of this edge is one of this edge's.
fn is_own_port(config: &Config, port: Option<u16>) -> bool {
    port.is_none_or(|port| {
        let listens =
            |l: &crate::config::Listener| l.address.port() == port || l.advertised.port() == port;
        is_default_port(port) || config.listeners.iter().any(listens)
    })
}

fn is_default_port(port: u16) -> bool {
    port == Transport::Tcp.default_port() || port == Transport::Tls.default_port()
}
