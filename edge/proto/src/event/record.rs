//! What a CDR line says, before serialization.

use super::{CallId, Cause, Direction, LegNumber};
use crate::relay::MediaStats;
use crate::time::Instant;
use std::net::SocketAddr;
use std::sync::Arc;

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
