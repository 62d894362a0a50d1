//! What is reported. Log lines, counters, CDR lines and the timeline all derive from these events; nothing else reports.

use crate::config::Transport;
use crate::id::ListenerId;
use crate::relay::MediaStats;
use crate::time::{Duration, Instant};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The edge's id of a call: 128 random bits as 32 lower-case hex digits, the CDR's `call` and `X-CALL-ID`.
pub type CallId = Arc<str>;

/// Which leg of a call: 1 is the caller's (`a`), 2 the first callee's (`b`), 3 and on are transfer targets.
pub type LegNumber = u8;

/// One thing that happened.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    pub at: Instant,
    /// `None` for what belongs to no call (OPTIONS, refused sources, connections).
    pub call: Option<CallId>,
    pub leg: Option<LegNumber>,
    pub kind: EventKind,
}

/// Direction of a message or a leg, seen from the edge.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub const fn as_str(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }
}

#[derive(Clone, PartialEq, Debug)]
pub enum EventKind {
    /// A new call was admitted (a dialog-creating INVITE passed trunk and limits).
    CallStarted {
        trunk: Arc<str>,
        from: String,
        to: String,
        sip_call_id: String,
        source: SocketAddr,
    },
    /// A leg was created towards a trunk.
    LegStarted {
        trunk: Arc<str>,
        direction: Direction,
    },
    /// A SIP request was received or sent (retransmissions that a transaction absorbed are not reported).
    Request {
        trunk: Arc<str>,
        method: Arc<str>,
        direction: Direction,
    },
    /// A SIP response was received or sent. `elapsed`: from the request to this (final) response.
    Response {
        trunk: Arc<str>,
        method: Arc<str>,
        code: u16,
        direction: Direction,
        elapsed: Option<Duration>,
    },
    /// A request was challenged, or credentials were judged. `outcome`: `challenged`, `accepted`, `stale`, `replayed`,
    /// `wrong_realm`, `wrong_uri`, `wrong_credentials`, `malformed`, `reflected`, `answered` (we answered a peer's challenge).
    Digest {
        trunk: Arc<str>,
        outcome: &'static str,
    },
    /// Routing chose a trunk for the call, or the next after a failure.
    Routed { to: Arc<str>, number: String },
    /// The verdict on a REFER. `cause` is `None` when it was accepted; `status` is the response sent.
    Refer {
        target: String,
        status: u16,
        cause: Option<Cause>,
        detail: String,
    },
    /// A header of the REFER was not copied to the new INVITE.
    HeaderDropped { name: String, rule: String },
    /// A transfer attempt started towards a target.
    TransferAttempt {
        id: u32,
        attempt: u32,
        target: String,
        via: Arc<str>,
    },
    /// Caller and target are bridged; `elapsed` since the 202.
    TransferBridged {
        trunk: Arc<str>,
        id: u32,
        elapsed: Duration,
    },
    /// The transfer ended. `trunk` is the transferor's; `result`: completed, failed, timeout, no-answer, busy, denied, cancelled.
    TransferEnded {
        trunk: Arc<str>,
        id: u32,
        result: &'static str,
        cause: Cause,
    },
    /// The first RTP packet from a leg's peer.
    FirstRtp { source: SocketAddr },
    /// Anything else worth a line in the timeline.
    Note {
        kind: &'static str,
        detail: String,
        reason: Option<String>,
    },
    /// A leg is over and its media closed: everything the CDR says.
    LegEnded(Box<LegRecord>),
    /// The last leg of the call is over.
    CallEnded { cause: Cause },
    /// A source that no trunk lists.
    AccessDropped {
        listener: ListenerId,
        source: IpAddr,
        reason: &'static str,
    },
    /// A SIP connection opened or closed.
    Connection {
        transport: Transport,
        remote: SocketAddr,
        detail: String,
    },
    /// A message that could not be understood; the text names the fault.
    Malformed { source: SocketAddr, fault: String },
    /// A queue was full. `queue`: `handoff`, `media`, `event`.
    Overflow { queue: &'static str },
}

/// A CDR line before serialization. Times are [`Instant`]s; `edge` turns them into UTC.
#[derive(Clone, PartialEq, Debug)]
pub struct LegRecord {
    pub call: CallId,
    pub leg: LegNumber,
    pub direction: Direction,
    pub trunk: Arc<str>,
    pub sip_call_id: String,
    pub from: String,
    pub to: String,
    /// The peer's signalling address; `None` when it was never located.
    pub source: Option<SocketAddr>,
    pub start: Instant,
    pub ring: Option<Instant>,
    pub answer: Option<Instant>,
    pub end: Instant,
    /// Final status of the leg's INVITE, as sent or received.
    pub sip_status: Option<u16>,
    pub cause: Cause,
    pub hangup_by: HangupBy,
    /// REFERs that arrived on this leg, in order.
    pub refers: Vec<ReferRecord>,
    /// On a leg that a transfer originated.
    pub transfer: Option<TransferRecord>,
    pub media: Option<MediaRecord>,
}

/// Who ended a leg.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HangupBy {
    /// The other leg of the call.
    Local,
    /// The leg's own peer.
    Remote,
    /// The edge: a timeout, a policy, a transfer that released it.
    Edge,
}

impl HangupBy {
    pub const fn as_str(self) -> &'static str {
        match self {
            HangupBy::Local => "local",
            HangupBy::Remote => "remote",
            HangupBy::Edge => "edge",
        }
    }
}

/// One REFER and its verdict.
#[derive(Clone, PartialEq, Debug)]
pub struct ReferRecord {
    pub at: Instant,
    pub target: String,
    /// Response sent: 202, or a refusal.
    pub status: u16,
    /// `None` when accepted.
    pub cause: Option<Cause>,
}

/// `transfer` of a CDR line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransferRecord {
    /// Counts the call's accepted REFERs from 1.
    pub id: u32,
    /// 1 is the Refer-To target, 2 and on are fallbacks.
    pub attempt: u32,
    pub target: String,
    pub via: Arc<str>,
    /// completed, failed, timeout, no-answer, busy, denied, cancelled.
    pub result: &'static str,
}

/// `media` of a CDR line.
#[derive(Clone, PartialEq, Debug)]
pub struct MediaRecord {
    pub codec: Option<String>,
    pub encryption: &'static str,
    pub lane: &'static str,
    pub stats: MediaStats,
}

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

/// One line of a call's timeline, `{at, leg, kind, detail, reason}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimelineEntry {
    pub at: Instant,
    pub leg: Option<LegNumber>,
    pub kind: String,
    pub detail: String,
    pub reason: Option<String>,
}
