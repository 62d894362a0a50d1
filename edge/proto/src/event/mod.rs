//! What is reported. Log lines, counters, CDR lines and the timeline all derive from these events; nothing else reports.

mod cause;
pub mod packed;
mod record;
mod redact;
mod timeline;

pub use cause::Cause;
pub use record::{HangupBy, LegRecord, MediaRecord, ReferRecord, TransferRecord};
pub use redact::{Number, Privacy, Text};
pub use timeline::{Description, TimelineEntry};

use crate::config::Transport;
use crate::sip::Method;
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

/// What [`EventKind::Digest`] tells: a challenge of ours and verdicts on its answer; `answered`: we answered a peer's challenge;
/// `unanswered`: we could not; `reflected`: it was one of our own, played back to us.
pub const DIGEST_OUTCOMES: [&str; 12] = [
    "challenged",
    "accepted",
    "stale",
    "replayed",
    "wrong_realm",
    "wrong_uri",
    "wrong_algorithm",
    "wrong_credentials",
    "malformed",
    "reflected",
    "answered",
    "unanswered",
];

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
    /// A leg was created towards a trunk. The last three as in its record.
    LegStarted {
        trunk: Arc<str>,
        direction: Direction,
        sip_call_id: String,
        from: String,
        to: String,
    },
    /// A SIP request was received or sent (retransmissions that a transaction absorbed are not reported).
    Request {
        trunk: Arc<str>,
        method: Method,
        direction: Direction,
    },
    /// A SIP response was received or sent. `elapsed`: from the request to this (final) response.
    Response {
        trunk: Arc<str>,
        method: Method,
        code: u16,
        direction: Direction,
        elapsed: Option<Duration>,
    },
    /// A request was challenged, or credentials were judged. `outcome`: one of [`DIGEST_OUTCOMES`].
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
        /// Its name.
        listener: Arc<str>,
        source: IpAddr,
        reason: &'static str,
    },
    /// A SIP connection opened or closed.
    Connection {
        transport: Transport,
        remote: SocketAddr,
        detail: String,
        /// It could not be opened, or its peer could not be trusted.
        failed: bool,
    },
    /// A message that could not be understood; the text names the fault.
    Malformed { source: SocketAddr, fault: String },
    /// A queue was full. `queue`: `handoff`, `media`, `event`.
    Overflow { queue: &'static str },
}
