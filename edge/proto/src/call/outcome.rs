//! Why a leg was not answered, and what others are told about it.

use crate::event::{Cause, HangupBy};
use crate::sip::status::reason_phrase;

/// Why a leg was not answered.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The peer's final status; `None` when there was none.
    pub code: Option<u16>,
    pub cause: Cause,
    pub by: HangupBy,
    pub detail: String,
}

impl Outcome {
    pub fn new(code: Option<u16>, cause: Cause, by: HangupBy, detail: impl Into<String>) -> Self {
        Outcome {
            code,
            cause,
            by,
            detail: detail.into(),
        }
    }

    pub(super) fn unreachable(detail: impl Into<String>) -> Self {
        Outcome::new(None, Cause::Unreachable, HangupBy::Edge, detail)
    }

    pub(super) fn overload(detail: impl Into<String>) -> Self {
        Outcome::new(None, Cause::EdgeOverload, HangupBy::Edge, detail)
    }

    pub(super) fn of_code(code: u16) -> Self {
        let cause = match code {
            486 | 600 => Cause::Busy,
            // 487 without a CANCEL of ours: whoever was rung is not rung any more.
            408 | 480 | 487 => Cause::NoAnswer,
            415 | 488 | 606 => Cause::NoCommonCodec,
            _ => Cause::Rejected,
        };
        let detail = format!("the peer answered {code} {}", reason_phrase(code));
        Outcome::new(Some(code), cause, HangupBy::Remote, detail)
    }

    /// Whether another address or trunk may do better: the peer is broken or absent, it did not decide.
    pub fn try_elsewhere(&self) -> bool {
        match self.code {
            Some(code) => (500..600).contains(&code) || code == 408,
            None => matches!(
                self.cause,
                Cause::Unreachable
                    | Cause::SignallingTimeout
                    | Cause::MediaFailed
                    | Cause::NetworkMismatch
                    | Cause::TrunkLimit
            ),
        }
    }

    /// The status of the final NOTIFY. The target's own is passed on, but a challenge to us is nobody else's to answer.
    pub fn notify_code(&self) -> u16 {
        match self.code {
            Some(401 | 407) => 403,
            Some(300..=399 | 487) => 480,
            Some(code) if code >= 400 => code,
            _ => status_of(self.cause),
        }
    }

    /// The status the caller sees. What the peer says about our own request (challenges, extensions, scheme, method) is nobody
    /// else's business, redirections are not followed, and a 503 would make the carrier avoid this edge (RFC 3261 §16.7).
    pub fn caller_code(&self) -> u16 {
        match self.code {
            Some(401 | 405..=407 | 413 | 414 | 416 | 420..=423 | 494) => 502,
            Some(415) => 488,
            Some(503) => 500,
            Some(300..=399 | 487) => 480,
            Some(code) => code,
            None => match self.cause {
                Cause::NoAnswer => 480,
                Cause::SignallingTimeout | Cause::SipAuthTimeout => 504,
                Cause::NoCommonCodec | Cause::NetworkMismatch => 488,
                Cause::TrunkLimit | Cause::EdgeOverload | Cause::MediaFailed => 503,
                Cause::SipAuthFailed => 502,
                _ => 502,
            },
        }
    }
}

/// The SIP status that one of our own causes amounts to, for NOTIFY and Reason.
pub(super) const fn status_of(cause: Cause) -> u16 {
    match cause {
        Cause::Completed => 200,
        Cause::SipAuthFailed | Cause::AccessRemoved => 403,
        Cause::NoAnswer
        | Cause::SipAuthTimeout
        | Cause::SignallingTimeout
        | Cause::MediaTimeout => 408,
        Cause::Rejected => 480,
        Cause::Busy => 486,
        Cause::Cancelled => 487,
        Cause::NoCommonCodec | Cause::NetworkMismatch | Cause::CallerRefused => 488,
        _ => 503,
    }
}

/// What a caller is refused with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    pub code: u16,
    pub cause: Cause,
    pub by: HangupBy,
}

impl Refusal {
    /// By a rule or a limit of this edge.
    pub fn by_edge(code: u16, cause: Cause) -> Self {
        Refusal {
            code,
            cause,
            by: HangupBy::Edge,
        }
    }
}

impl From<&Outcome> for Refusal {
    /// What became of the callee's leg, as the caller is told.
    fn from(outcome: &Outcome) -> Self {
        Refusal {
            code: outcome.caller_code(),
            cause: outcome.cause,
            by: match outcome.by {
                HangupBy::Remote => HangupBy::Local,
                by => by,
            },
        }
    }
}
