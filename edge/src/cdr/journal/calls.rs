//! The legs that are open, as a sequence of notes leaves them.

use super::{Line, add};
use crate::cdr::leg::{LegId, OpenLeg, OpenRefer, OpenTransfer};
use crate::cdr::note::Note;
use edge_proto::event::{CallId, LegNumber};
use std::collections::HashMap;

/// Calls that are kept: more than the edge can carry. Those beyond are not journaled.
const MAX_CALLS: usize = 500_000;

#[derive(Default, Debug)]
struct OpenCall {
    legs: Vec<OpenLeg>,
    /// A REFER was accepted on that leg, and no leg has started for it yet. Told together with the first that does: a
    /// verdict on a transfer that no leg tells would look like a lost record.
    accepted: Option<(LegNumber, OpenRefer)>,
    /// The attempt whose leg has not started yet.
    attempt: Option<OpenTransfer>,
}

impl OpenCall {
    fn leg(&mut self, number: LegNumber) -> Option<&mut OpenLeg> {
        self.legs.iter_mut().find(|leg| leg.id.leg == number)
    }

    /// The transfer that a new leg belongs to, and the leg whose REFER asked for it, if that was not told yet.
    fn take_transfer(&mut self) -> (Option<OpenTransfer>, Option<&OpenLeg>) {
        let Some(attempt) = self.attempt.take() else {
            return (None, None);
        };
        let Some((number, refer)) = self.accepted.take() else {
            return (Some(attempt), None);
        };
        let transferor = self.leg(number).map(|leg| {
            leg.refers.push(refer);
            &*leg
        });
        (Some(attempt), transferor)
    }
}

/// By call. Every change gives the lines that tell it.
#[derive(Default, Debug)]
pub(in crate::cdr) struct OpenCalls(HashMap<CallId, OpenCall>);

impl OpenCalls {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn legs(&self) -> impl Iterator<Item = &OpenLeg> {
        self.0.values().flat_map(|call| &call.legs)
    }

    pub fn into_legs(self) -> impl Iterator<Item = OpenLeg> {
        self.0.into_values().flat_map(|call| call.legs)
    }

    /// Everything, for a file that begins anew.
    pub fn tell(&self, lines: &mut Vec<u8>) {
        for leg in self.legs() {
            add(lines, &Line::Open(vec![leg]));
        }
        for (id, call) in &self.0 {
            if let Some((leg, refer)) = &call.accepted {
                let leg = LegId {
                    call: id.clone(),
                    leg: *leg,
                };
                let refer = refer.clone();
                add(lines, &Line::Note::<OpenLeg>(Note::Refer { leg, refer }));
            }
            if let Some(transfer) = &call.attempt {
                let (call, transfer) = (id.clone(), transfer.clone());
                let note = Note::Attempt { call, transfer };
                add(lines, &Line::Note::<OpenLeg>(note));
            }
        }
    }

    pub fn apply(&mut self, note: Note, lines: &mut Vec<u8>) {
        match note {
            Note::Start(leg) => self.start(*leg, lines),
            Note::Response {
                leg,
                code,
                outbound,
                at,
            } => {
                let open = self.0.get_mut(&leg.call).and_then(|c| c.leg(leg.leg));
                if let Some(open) = open
                    && open.responded(code, outbound, at)
                {
                    add(lines, &Line::Open(vec![&*open]));
                }
            }
            Note::Refer { leg, refer } => self.refer(leg, refer, lines),
            Note::Attempt { call, transfer } => {
                if let Some(open) = self.0.get_mut(&call) {
                    open.attempt = Some(transfer.clone());
                    let note = Note::Attempt { call, transfer };
                    add(lines, &Line::Note::<OpenLeg>(note));
                }
            }
            Note::Bridged { call, transfer } => self.bridged(&call, transfer, lines),
            Note::End { leg, .. } => self.over(&leg, lines),
        }
    }

    fn refer(&mut self, id: LegId, refer: OpenRefer, lines: &mut Vec<u8>) {
        let Some(call) = self.0.get_mut(&id.call) else {
            return;
        };
        if refer.is_accepted() {
            call.accepted = Some((id.leg, refer.clone()));
            let note = Note::Refer { leg: id, refer };
            add(lines, &Line::Note::<OpenLeg>(note));
        } else if let Some(leg) = call.leg(id.leg)
            && leg.referred(refer)
        {
            add(lines, &Line::Open(vec![&*leg]));
        }
    }

    /// Keeps a leg until it is [over](OpenCalls::over).
    pub fn start(&mut self, mut leg: OpenLeg, lines: &mut Vec<u8>) {
        if self.0.len() >= MAX_CALLS && !self.0.contains_key(&leg.id.call) {
            return;
        }
        let call = self.0.entry(leg.id.call.clone()).or_default();
        if call.legs.iter().any(|known| known.id == leg.id) {
            return;
        }
        if leg.transfer.is_none() {
            let (transfer, transferor) = call.take_transfer();
            leg.transfer = transfer;
            let news = transferor.into_iter().chain([&leg]).collect();
            add(lines, &Line::Open(news));
        } else {
            add(lines, &Line::Open(vec![&leg]));
        }
        call.legs.push(leg);
    }

    /// What a line of a journal says about a leg, in the place of what was known.
    pub fn replace(&mut self, leg: OpenLeg) {
        let call = self.0.entry(leg.id.call.clone()).or_default();
        // A transfer's first leg is told together with the REFER that asked for it.
        if leg.transfer.is_some() && call.leg(leg.id.leg).is_none() {
            call.attempt = None;
            call.accepted = None;
        }
        match call.leg(leg.id.leg) {
            Some(known) => *known = leg,
            None => call.legs.push(leg),
        }
    }

    fn bridged(&mut self, call: &CallId, transfer: u32, lines: &mut Vec<u8>) {
        let legs = self.0.get_mut(call).map(|call| &mut call.legs);
        // The last attempt is the one that worked.
        let leg = legs
            .into_iter()
            .flatten()
            .rfind(|leg| leg.transfer.as_ref().is_some_and(|t| t.id == transfer));
        if let Some(leg) = leg {
            if let Some(transfer) = &mut leg.transfer {
                transfer.completed = true;
            }
            add(lines, &Line::Open(vec![&*leg]));
        }
    }

    /// The leg's line is in the CDR file.
    pub fn over(&mut self, leg: &LegId, lines: &mut Vec<u8>) {
        let Some(call) = self.0.get_mut(&leg.call) else {
            return;
        };
        let before = call.legs.len();
        call.legs.retain(|open| open.id != *leg);
        if call.legs.len() < before {
            add(lines, &Line::Over::<OpenLeg>(leg.clone()));
        }
        if call.legs.is_empty() {
            self.0.remove(&leg.call);
        }
    }
}
