//! What one message may be at most.

use crate::config::Limits;

/// Bounds on one message. Checked while it is being received, before anything beyond them is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MessageLimits {
    /// Bytes of the whole message.
    pub message_bytes: usize,
    /// Header lines, folded ones counting once.
    pub headers: usize,
    /// Bytes of one line with its CRLF; a folded header is one line.
    pub line_bytes: usize,
    /// Via values. A request that passed this many proxies is in a loop (RFC 3261 §8.1.1.6 starts Max-Forwards at 70).
    pub vias: usize,
}

impl Default for MessageLimits {
    fn default() -> MessageLimits {
        MessageLimits::from(&Limits::default())
    }
}

impl From<&Limits> for MessageLimits {
    fn from(limits: &Limits) -> MessageLimits {
        MessageLimits {
            message_bytes: limits.message_bytes,
            headers: limits.headers,
            line_bytes: 8_192.min(limits.message_bytes),
            vias: 70,
        }
    }
}
