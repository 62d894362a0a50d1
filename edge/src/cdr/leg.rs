//! A leg that is under way, as the journal keeps it.

use crate::reporter::WallClock;
use edge_proto::event::{CallId, Direction, Event, EventKind, LegNumber};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;

/// Names a leg of a call.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct LegId {
    pub call: CallId,
    pub leg: LegNumber,
}

/// What the CDR line of a leg will say, as far as it is known. Times as in the CDR.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct OpenLeg {
    #[serde(flatten)]
    pub id: LegId,
    pub inbound: bool,
    pub trunk: String,
    pub sip_call_id: String,
    pub from: String,
    pub to: String,
    /// Known of callers only: where a callee is, is not known yet when its leg starts.
    pub source: Option<SocketAddr>,
    pub start: Timestamp,
    pub ring: Option<Timestamp>,
    pub answer: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refers: Vec<OpenRefer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<OpenTransfer>,
    /// When an earlier start closed it, but could not write its line yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Timestamp>,
}

/// A REFER and its verdict.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct OpenRefer {
    pub at: Timestamp,
    pub target: String,
    pub status: u16,
    pub cause: Option<String>,
}

/// What a leg is to a transfer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct OpenTransfer {
    pub id: u32,
    pub attempt: u32,
    pub target: String,
    pub via: String,
    /// Caller and target are bridged.
    pub completed: bool,
}

/// REFERs of a leg that are kept: as many as the edge itself tells.
const MAX_REFERS: usize = 32;

impl OpenRefer {
    /// The REFER that this event tells.
    pub fn new(event: &Event, clock: &WallClock) -> Option<OpenRefer> {
        let EventKind::Refer {
            target,
            status,
            cause,
            ..
        } = &event.kind
        else {
            return None;
        };
        Some(OpenRefer {
            at: clock.at(event.at),
            target: target.clone(),
            status: *status,
            cause: cause.map(|c| c.as_str().to_owned()),
        })
    }

    pub fn is_accepted(&self) -> bool {
        self.status < 300
    }
}

impl OpenLeg {
    /// The leg that starts with this event.
    pub fn started(event: &Event, clock: &WallClock) -> Option<OpenLeg> {
        let call = event.call.clone()?;
        let start = clock.at(event.at);
        let text = |text: &Arc<str>| String::from(&**text);
        let (inbound, trunk, sip_call_id, from, to, source) = match &event.kind {
            EventKind::CallStarted {
                trunk,
                from,
                to,
                sip_call_id,
                source,
            } => (true, text(trunk), sip_call_id, from, to, Some(*source)),
            EventKind::LegStarted {
                trunk,
                direction,
                sip_call_id,
                from,
                to,
            } => {
                let inbound = *direction == Direction::Inbound;
                (inbound, text(trunk), sip_call_id, from, to, None)
            }
            _ => return None,
        };
        let leg = event.leg.or(inbound.then_some(1))?;
        Some(OpenLeg {
            id: LegId { call, leg },
            inbound,
            trunk,
            sip_call_id: sip_call_id.clone(),
            from: from.clone(),
            to: to.clone(),
            source,
            start,
            ring: None,
            answer: None,
            refers: Vec::new(),
            transfer: None,
            end: None,
        })
    }

    /// A response to its INVITE went by; `outbound`: it was ours. True: worth a line at once.
    pub fn responded(&mut self, code: u16, outbound: bool, at: Timestamp) -> bool {
        if outbound != self.inbound || self.answer.is_some() {
            return false;
        }
        match code {
            180..=183 => {
                self.ring.get_or_insert(at);
                false
            }
            200..=299 => {
                self.answer = Some(at);
                true
            }
            _ => false,
        }
    }

    /// A REFER arrived on it. True: worth a line.
    pub fn referred(&mut self, refer: OpenRefer) -> bool {
        let room = self.refers.len() < MAX_REFERS && !self.refers.contains(&refer);
        if room {
            self.refers.push(refer);
        }
        room
    }

    /// The latest time that is known of it.
    pub fn latest(&self) -> Timestamp {
        let times = [Some(self.start), self.ring, self.answer, self.end];
        let refers = self.refers.iter().map(|refer| refer.at);
        times
            .into_iter()
            .flatten()
            .chain(refers)
            .max()
            .unwrap_or(self.start)
    }
}
