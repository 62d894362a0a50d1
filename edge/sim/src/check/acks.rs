//! Every final response to an INVITE of the edge is acknowledged.

use super::{Checker, Ending, Facts, Seen};
use crate::wire::Sip;
use edge_proto::id::ConnectionId;
use edge_proto::time::Instant;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Acks {
    /// INVITEs of the edge by branch.
    invites: BTreeMap<String, Invite>,
    owed: BTreeMap<Due, (ConnectionId, String)>,
    /// What was acknowledged before.
    paid: BTreeSet<Due>,
    ended: BTreeSet<ConnectionId>,
}

struct Invite {
    conn: ConnectionId,
    sent_at: Instant,
    provisional: bool,
    cancelled_at: Option<Instant>,
    /// The first final response.
    answered: Option<(Instant, u16)>,
}

/// What an ACK must name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// For a failure: the INVITE's own branch.
    Branch(String),
    /// For a 2xx: Call-ID, To-tag and CSeq.
    Dialog(String, String, u32),
}

impl Checker for Acks {
    fn name(&self) -> &'static str {
        "acks"
    }

    fn see(&mut self, facts: &Facts<'_>, seen: &Seen<'_>, _: &mut Vec<String>) {
        match seen {
            Seen::Sent { conn, sip, .. } => self.sent(facts.now, *conn, sip),
            Seen::Received { conn, sip, .. } if sip.cseq().1 == "INVITE" && !sip.is_request() => {
                self.received(facts, *conn, sip);
            }
            Seen::Ended(conn) => {
                self.ended.insert(*conn);
                // With its connection the INVITE's transaction failed (RFC 3261 §17.1.4).
                self.invites
                    .retain(|_, invite| invite.conn != *conn || invite.answered.is_some());
            }
            _ => {}
        }
    }

    fn end(&mut self, _: &Facts<'_>, _: &Ending, faults: &mut Vec<String>) {
        for (conn, summary) in self.owed.values() {
            if !self.ended.contains(conn) {
                faults.push(format!("never acknowledged: {summary}"));
            }
        }
    }
}

impl Acks {
    fn sent(&mut self, now: Instant, conn: ConnectionId, sip: &Sip) {
        match sip.method() {
            "INVITE" => {
                let invite = Invite {
                    conn,
                    sent_at: now,
                    provisional: false,
                    cancelled_at: None,
                    answered: None,
                };
                self.invites.insert(sip.branch().to_owned(), invite);
            }
            "CANCEL" => {
                if let Some(invite) = self.invites.get_mut(sip.branch()) {
                    invite.cancelled_at.get_or_insert(now);
                }
            }
            "ACK" => {
                for due in [Due::Branch(sip.branch().to_owned()), dialog(sip)] {
                    self.owed.remove(&due);
                    self.paid.insert(due);
                }
            }
            _ => {}
        }
    }

    fn received(&mut self, facts: &Facts<'_>, conn: ConnectionId, sip: &Sip) {
        let patience = facts.t1() * 64;
        let Some(invite) = self.invites.get_mut(sip.branch()) else {
            return;
        };
        if sip.code() < 200 {
            invite.provisional = true;
            return;
        }
        // Whether the INVITE's transaction can still be there (RFC 3261 timer B, RFC 6026 timer M).
        let elapsed = |since| facts.now.saturating_since(since) < patience;
        let alive = match (invite.answered, invite.cancelled_at) {
            (Some((at, code)), _) => code < 300 && sip.code() < 300 && elapsed(at),
            (None, Some(at)) => elapsed(at),
            (None, None) => invite.provisional || elapsed(invite.sent_at),
        };
        invite.answered.get_or_insert((facts.now, sip.code()));
        if alive {
            let due = match sip.code() {
                200..=299 => dialog(sip),
                _ => Due::Branch(sip.branch().to_owned()),
            };
            // Who repeats what was acknowledged, in a dialog that has ended, gets BYE's answer to it.
            let ended = facts
                .book
                .leg(sip.call_id())
                .is_some_and(|leg| leg.bye_sent.or(leg.bye_received).is_some());
            if ended && self.paid.contains(&due) {
                return;
            }
            self.owed.insert(due, (conn, sip.summary()));
        }
    }
}

fn dialog(sip: &Sip) -> Due {
    Due::Dialog(
        sip.call_id().to_owned(),
        sip.to_tag().to_owned(),
        sip.cseq().0,
    )
}
