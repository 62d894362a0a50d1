//! Why something ended or was refused.

use super::Direction;

/// Why a leg, a call or a transfer ended, or why something was refused. The name is the CDR's `cause` and the metric label.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cause {
    Completed,
    Cancelled,
    Busy,
    NoAnswer,
    Rejected,
    Unreachable,
    SipAuthFailed,
    SipAuthTimeout,
    TransferDisabled,
    TransferLimit,
    TransferUnauthorized,
    TransferPending,
    DialogUnknown,
    NotAnswered,
    TargetInvalid,
    TargetNotAllowed,
    NetworkMismatch,
    EncryptionRequired,
    NoCommonCodec,
    TrunkLimit,
    MediaTimeout,
    MediaFailed,
    EdgeRestart,
    EdgeOverload,
    AccessRemoved,
    Unauthorized,
    NoRoute,
    NumberMissing,
    SignallingTimeout,
    CallerRefused,
    Malformed,
}

impl Cause {
    /// Every cause, for the README's table and its test.
    pub const ALL: &'static [Cause] = &[
        Cause::Completed,
        Cause::Cancelled,
        Cause::Busy,
        Cause::NoAnswer,
        Cause::Rejected,
        Cause::Unreachable,
        Cause::SipAuthFailed,
        Cause::SipAuthTimeout,
        Cause::TransferDisabled,
        Cause::TransferLimit,
        Cause::TransferUnauthorized,
        Cause::TransferPending,
        Cause::DialogUnknown,
        Cause::NotAnswered,
        Cause::TargetInvalid,
        Cause::TargetNotAllowed,
        Cause::NetworkMismatch,
        Cause::EncryptionRequired,
        Cause::NoCommonCodec,
        Cause::TrunkLimit,
        Cause::MediaTimeout,
        Cause::MediaFailed,
        Cause::EdgeRestart,
        Cause::EdgeOverload,
        Cause::AccessRemoved,
        Cause::Unauthorized,
        Cause::NoRoute,
        Cause::NumberMissing,
        Cause::SignallingTimeout,
        Cause::CallerRefused,
        Cause::Malformed,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Cause::Completed => "completed",
            Cause::Cancelled => "cancelled",
            Cause::Busy => "busy",
            Cause::NoAnswer => "no-answer",
            Cause::Rejected => "rejected",
            Cause::Unreachable => "unreachable",
            Cause::SipAuthFailed => "sip_auth_failed",
            Cause::SipAuthTimeout => "sip_auth_timeout",
            Cause::TransferDisabled => "transfer_disabled",
            Cause::TransferLimit => "transfer_limit",
            Cause::TransferUnauthorized => "transfer_unauthorized",
            Cause::TransferPending => "transfer_pending",
            Cause::DialogUnknown => "dialog_unknown",
            Cause::NotAnswered => "not_answered",
            Cause::TargetInvalid => "target_invalid",
            Cause::TargetNotAllowed => "target_not_allowed",
            Cause::NetworkMismatch => "network_mismatch",
            Cause::EncryptionRequired => "encryption_required",
            Cause::NoCommonCodec => "no_common_codec",
            Cause::TrunkLimit => "trunk_limit",
            Cause::MediaTimeout => "media_timeout",
            Cause::MediaFailed => "media_failed",
            Cause::EdgeRestart => "edge_restart",
            Cause::EdgeOverload => "edge_overload",
            Cause::AccessRemoved => "access_removed",
            Cause::Unauthorized => "unauthorized",
            Cause::NoRoute => "no_route",
            Cause::NumberMissing => "number_missing",
            Cause::SignallingTimeout => "signalling_timeout",
            Cause::CallerRefused => "caller_refused",
            Cause::Malformed => "malformed",
        }
    }

    /// What it means, for the timeline and the README's table.
    pub const fn meaning(self) -> &'static str {
        match self {
            Cause::Completed => "answered, and hung up in the ordinary way",
            Cause::Cancelled => "the caller gave up before an answer",
            Cause::Busy => "the called party is busy (486, 600)",
            Cause::NoAnswer => {
                "the called party did not answer in time (408, 480 or the ring timeout)"
            }
            Cause::Rejected => "the called party refused the call (other 4xx, 5xx, 6xx)",
            Cause::Unreachable => "no connection to the trunk, or its name did not resolve",
            Cause::SipAuthFailed => "the trunk rejected the credentials we showed",
            Cause::SipAuthTimeout => "the trunk never responded to the INVITE with credentials",
            Cause::TransferDisabled => "the trunk may not transfer",
            Cause::TransferLimit => {
                "the call has used up its transfers, or too many REFERs were tried"
            }
            Cause::TransferUnauthorized => {
                "the REFER did not show valid credentials, or came from a source the trunk does not list"
            }
            Cause::TransferPending => "another transfer of this call is still under way",
            Cause::DialogUnknown => "REFER that belongs to no call of this edge",
            Cause::NotAnswered => "REFER before the call was answered",
            Cause::TargetInvalid => {
                "Refer-To is missing, malformed or of a scheme that is not supported"
            }
            Cause::TargetNotAllowed => {
                "the target matches no pattern of the trunk, or leads to no trunk"
            }
            Cause::NetworkMismatch => "the trunks of the transfer share no IP version",
            Cause::EncryptionRequired => "the trunk requires SRTP and the peer does not offer it",
            Cause::NoCommonCodec => {
                "the peer and the trunk share no codec, or the peer says so (415, 488, 606)"
            }
            Cause::TrunkLimit => "the trunk's limit of concurrent or new calls is reached",
            Cause::MediaTimeout => "no RTP for longer than media.timeout_s",
            Cause::MediaFailed => "no media port could be opened",
            Cause::EdgeRestart => "the edge stopped or was restarted during the call",
            Cause::EdgeOverload => "a limit of the edge was reached, or it is draining",
            Cause::AccessRemoved => {
                "a reload took the peer's address off the trunk's allow list, or took away the uri that led to it"
            }
            Cause::Unauthorized => "the INVITE did not show valid credentials",
            Cause::NoRoute => "no route matches the trunk and number called from",
            Cause::NumberMissing => "the Request-URI has no user part to route by",
            Cause::SignallingTimeout => "the peer stopped responding (RFC 3261 timers B, F or H)",
            Cause::CallerRefused => {
                "the caller refused the re-INVITE that bridges it to the target"
            }
            Cause::Malformed => "a message of the dialog could not be understood",
        }
    }

    /// Whether it only says why a REFER was refused: no leg ends with it, no transfer begins.
    const fn refuses_refer(self) -> bool {
        matches!(
            self,
            Cause::TransferDisabled
                | Cause::TransferLimit
                | Cause::TransferUnauthorized
                | Cause::TransferPending
                | Cause::DialogUnknown
                | Cause::NotAnswered
                | Cause::TargetInvalid
                | Cause::TargetNotAllowed
        )
    }

    /// Whether a leg of this direction can end with it.
    pub const fn ends_leg(self, direction: Direction) -> bool {
        match self {
            // Before there is a callee.
            Cause::NoRoute | Cause::NumberMissing => matches!(direction, Direction::Inbound),
            // Refused before there is a leg.
            Cause::Unauthorized => false,
            other => !other.refuses_refer(),
        }
    }

    /// With which results a transfer can have it as its cause: see [`EventKind::TransferEnded`](super::EventKind).
    pub const fn transfer_results(self) -> &'static [&'static str] {
        match self {
            other if other.refuses_refer() => &["denied"],
            Cause::NoRoute | Cause::NumberMissing | Cause::Unauthorized => &[],
            Cause::NetworkMismatch => &["denied", "failed"],
            Cause::Completed => &["completed", "cancelled"],
            Cause::Busy => &["busy", "cancelled"],
            Cause::NoAnswer => &["no-answer", "cancelled"],
            Cause::SipAuthTimeout | Cause::SignallingTimeout => &["timeout", "cancelled"],
            Cause::Cancelled => &["cancelled"],
            _ => &["failed", "cancelled"],
        }
    }

    /// The CDR's `cause_code`: only the two that carriers know by number have one.
    pub const fn code(self) -> Option<u16> {
        match self {
            Cause::SipAuthFailed => Some(4240),
            Cause::SipAuthTimeout => Some(4250),
            _ => None,
        }
    }
}
