//! What was seen of each leg: the facts that several checkers need, gathered once.

use super::Seen;
use crate::scenario::{Scenario, Side};
use crate::wire::{Sip, uri_in, user_of};
use edge_proto::b2bua::Output;
use edge_proto::event::EventKind;
use edge_proto::time::Instant;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// One leg, by its Call-ID.
#[derive(Clone, Debug)]
pub struct Leg {
    /// The simulated call that it belongs to, by what its INVITE says.
    pub call: u32,
    pub side: Side,
    /// The peer called the edge.
    pub inbound: bool,
    /// Where its INVITE came from.
    pub from: Option<IpAddr>,
    /// User part of the INVITE's Request-URI.
    pub number: String,
    pub invited_at: Instant,
    /// CSeq of the last initial INVITE: it comes again with credentials.
    cseq: u32,
    /// The dialog's tags, once both are known.
    pub edge_tag: String,
    pub peer_tag: String,
    pub answered_at: Option<Instant>,
    /// The edge's INVITE was refused for good, or the edge refused the peer's.
    pub refused_at: Option<Instant>,
    pub cancelled_at: Option<Instant>,
    /// When the edge took the peer's BYE, and when it sent its own.
    pub bye_received: Option<Instant>,
    pub bye_sent: Option<Instant>,
}

impl Leg {
    /// Whether it is answered and nobody has said BYE.
    pub fn is_up(&self) -> bool {
        self.answered_at.is_some() && self.bye_received.is_none() && self.bye_sent.is_none()
    }
}

/// All legs.
#[derive(Default)]
pub struct Book {
    legs: BTreeMap<String, Leg>,
    /// The edge's call id -> the simulated call.
    calls: BTreeMap<String, u32>,
}

impl Book {
    pub fn leg(&self, call_id: &str) -> Option<&Leg> {
        self.legs.get(call_id)
    }

    pub fn legs(&self) -> impl Iterator<Item = (&str, &Leg)> {
        self.legs.iter().map(|(id, leg)| (id.as_str(), leg))
    }

    /// The simulated call behind an id of the edge's.
    pub fn call(&self, id: &str) -> Option<u32> {
        self.calls.get(id).copied()
    }

    pub(super) fn see(&mut self, now: Instant, scenario: &Scenario, seen: &Seen<'_>) {
        match seen {
            Seen::Received { from, sip, .. } => {
                if sip.is_initial_invite()
                    && let Some(side) = scenario.places.side_of(from.ip())
                {
                    self.invite(now, sip, side, Some(from.ip()));
                }
                self.message(now, sip, true);
            }
            Seen::Decided { to, sip, .. } => {
                if sip.is_initial_invite()
                    && let Some(side) = scenario.places.side_of(to.ip())
                {
                    self.invite(now, sip, side, None);
                }
                self.message(now, sip, false);
            }
            Seen::Output(_, Output::Event(event)) => {
                if let (Some(id), EventKind::CallStarted { sip_call_id, .. }) =
                    (&event.call, &event.kind)
                    && let Some(leg) = self.legs.get(sip_call_id)
                {
                    self.calls.insert(id.to_string(), leg.call);
                }
            }
            _ => {}
        }
    }

    fn invite(&mut self, now: Instant, sip: &Sip, side: Side, from: Option<IpAddr>) {
        let inbound = from.is_some();
        let tag = sip.from_tag().to_owned();
        let leg = self
            .legs
            .entry(sip.call_id().to_owned())
            .or_insert_with(|| Leg {
                call: call_of(sip),
                side,
                inbound,
                from,
                number: user_of(sip.uri()).to_owned(),
                invited_at: now,
                cseq: 0,
                edge_tag: String::new(),
                peer_tag: String::new(),
                answered_at: None,
                refused_at: None,
                cancelled_at: None,
                bye_received: None,
                bye_sent: None,
            });
        // A copy of one that was challenged before: what it is answered with is not about the call.
        if sip.cseq().0 < leg.cseq {
            return;
        }
        // It comes again with credentials: the challenge was no refusal.
        leg.refused_at = None;
        leg.cseq = sip.cseq().0;
        leg.note_tag(inbound, tag);
    }

    fn message(&mut self, now: Instant, sip: &Sip, received: bool) {
        let Some(leg) = self.legs.get_mut(sip.call_id()) else {
            return;
        };
        let initial = !sip.is_request() && sip.cseq().1 == "INVITE" && leg.inbound != received;
        match (sip.method(), sip.code()) {
            // Where no room is left for a transaction, a BYE is refused and comes again.
            ("", 200..=299 | 481) if !received && sip.cseq().1 == "BYE" => {
                leg.bye_received.get_or_insert(now);
            }
            ("BYE", _) if leg.peer_tag.is_empty() || sip.to_tag() == leg.peer_tag => {
                leg.bye_sent.get_or_insert(now);
            }
            ("CANCEL", _) => {
                leg.cancelled_at.get_or_insert(now);
            }
            ("", 200..=299) if initial && leg.answered_at.is_none() => {
                leg.answered_at = Some(now);
                leg.note_tag(!leg.inbound, sip.to_tag().to_owned());
            }
            ("", 300..) if initial && leg.answered_at.is_none() && sip.cseq().0 == leg.cseq => {
                leg.refused_at = Some(now);
            }
            _ => {}
        }
    }
}

impl Leg {
    /// Notes a tag of the peer (`peer`) or of the edge.
    fn note_tag(&mut self, peer: bool, tag: String) {
        if peer {
            self.peer_tag = tag;
        } else {
            self.edge_tag = tag;
        }
    }
}

/// The simulated call that an INVITE belongs to: the last six digits of the caller's number.
pub fn call_of(sip: &Sip) -> u32 {
    let user = user_of(uri_in(sip.header("from")));
    user.len()
        .checked_sub(6)
        .and_then(|at| user.get(at..)?.parse().ok())
        .unwrap_or(u32::MAX)
}
