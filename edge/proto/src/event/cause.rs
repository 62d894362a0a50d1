//! Why something ended or was refused.

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

    /// The CDR's `cause_code`: only the two that carriers know by number have one.
    pub const fn code(self) -> Option<u16> {
        match self {
            Cause::SipAuthFailed => Some(4240),
            Cause::SipAuthTimeout => Some(4250),
            _ => None,
        }
    }
}
