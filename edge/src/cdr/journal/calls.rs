//! The legs that are open, as a sequence of notes leaves them.

use super::{Line, add};
use crate::cdr::leg::{LegId, OpenLeg, OpenRefer, OpenTransfer};
use crate::cdr::note::Note;
use edge_proto::event::{CallId, LegNumber};
use edge_proto::table::settle;
use std::collections::HashMap;

/// Calls that are kept: more than the edge can carry. Those beyond are not journaled.
const MAX_CALLS: usize = 500_000;

/// A leg, and what the file says of it.
#[derive(Debug)]
struct Kept {
    leg: OpenLeg,
    /// The file has it, in some state.
    told: bool,
    /// The file has it as it is.
    current: bool,
}

#[derive(Default, Debug)]
struct OpenCall {
    legs: Vec<Kept>,
    /// A REFER was accepted on that leg, and no leg has started for it yet. Told together with the first that does: a
    /// verdict on a transfer that no leg tells would look like a lost record.
    accepted: Option<(LegNumber, OpenRefer)>,
    /// The attempt whose leg has not started yet.
    attempt: Option<OpenTransfer>,
    /// The file has these two as they are.
    transfer_told: bool,
    /// It is in [`OpenCalls::changed`].
    changed: bool,
}

impl OpenCall {
    fn leg(&mut self, number: LegNumber) -> Option<&mut Kept> {
        self.legs.iter_mut().find(|kept| kept.leg.id.leg == number)
    }

    /// The transfer that a new leg belongs to. The leg whose REFER asked for it is told with it, if that was not told yet.
    fn take_transfer(&mut self) -> Option<OpenTransfer> {
        let attempt = self.attempt.take()?;
        if let Some((number, refer)) = self.accepted.take()
            && let Some(kept) = self.leg(number)
        {
            kept.leg.refers.push(refer);
            kept.current = false;
        }
        Some(attempt)
    }

    /// The lines that make the file current: one for all legs, half of which would not make sense.
    fn tell_news(&mut self, id: &CallId, lines: &mut Vec<u8>) {
        let mut news = Vec::new();
        for kept in self.legs.iter_mut().filter(|kept| !kept.current) {
            (kept.told, kept.current) = (true, true);
            news.push(&kept.leg);
        }
        if !news.is_empty() {
            add(lines, &Line::Open(news));
        }
        self.changed = false;
        if std::mem::replace(&mut self.transfer_told, true) {
            return;
        }
        if let Some((leg, refer)) = &self.accepted {
            let leg = LegId {
                call: id.clone(),
                leg: *leg,
            };
            let refer = refer.clone();
            add(lines, &Line::Note::<OpenLeg>(Note::Refer { leg, refer }));
        }
        if let Some(transfer) = &self.attempt {
            let (call, transfer) = (id.clone(), transfer.clone());
            let note = Note::Attempt { call, transfer };
            add(lines, &Line::Note::<OpenLeg>(note));
        }
    }
}

/// By call, and what the file does not say yet.
#[derive(Default, Debug)]
pub(in crate::cdr) struct OpenCalls {
    calls: HashMap<CallId, OpenCall>,
    /// Calls with something to tell; some may be over.
    changed: Vec<CallId>,
    /// Legs that are over, and that the file has.
    over: Vec<LegId>,
}

impl OpenCalls {
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    pub fn into_legs(self) -> impl Iterator<Item = OpenLeg> {
        let legs = self.calls.into_values().flat_map(|call| call.legs);
        legs.map(|kept| kept.leg)
    }

    /// Whether [`OpenCalls::tell_news`] has something to tell.
    pub fn has_news(&self) -> bool {
        !self.changed.is_empty() || !self.over.is_empty()
    }

    /// What changed since it was told last: each leg once, however often it changed, and none that came and went.
    pub fn tell_news(&mut self, lines: &mut Vec<u8>) {
        for id in self.changed.drain(..) {
            if let Some(call) = self.calls.get_mut(&id) {
                call.tell_news(&id, lines);
            }
        }
        for leg in self.over.drain(..) {
            add(lines, &Line::Over::<OpenLeg>(leg));
        }
    }

    /// Everything, for a file that begins anew.
    pub fn tell(&mut self, lines: &mut Vec<u8>) {
        self.changed.clear();
        self.over.clear();
        for (id, call) in &mut self.calls {
            call.legs.iter_mut().for_each(|kept| kept.current = false);
            call.transfer_told = false;
            call.tell_news(id, lines);
        }
    }

    /// The call, whose changes will be told.
    fn change(&mut self, id: &CallId) -> Option<&mut OpenCall> {
        let call = self.calls.get_mut(id)?;
        if !std::mem::replace(&mut call.changed, true) {
            self.changed.push(id.clone());
        }
        Some(call)
    }

    pub fn apply(&mut self, note: Note) {
        match note {
            Note::Start(leg) => self.start(*leg),
            Note::Response {
                leg,
                code,
                outbound,
                at,
            } => {
                let open = self.calls.get_mut(&leg.call).and_then(|c| c.leg(leg.leg));
                if let Some(kept) = open
                    && kept.leg.responded(code, outbound, at)
                {
                    kept.current = false;
                    self.change(&leg.call);
                }
            }
            Note::Refer { leg, refer } => self.refer(leg, refer),
            Note::Attempt { call, transfer } => {
                if let Some(open) = self.change(&call) {
                    open.attempt = Some(transfer);
                    open.transfer_told = false;
                }
            }
            Note::Bridged { call, transfer } => self.bridged(&call, transfer),
            Note::End { leg, .. } => self.over(&leg),
        }
    }

    fn refer(&mut self, id: LegId, refer: OpenRefer) {
        let Some(call) = self.change(&id.call) else {
            return;
        };
        if refer.is_accepted() {
            call.accepted = Some((id.leg, refer));
            call.transfer_told = false;
        } else if let Some(kept) = call.leg(id.leg)
            && kept.leg.referred(refer)
        {
            kept.current = false;
        }
    }

    /// Keeps a leg until it is [over](OpenCalls::over).
    pub fn start(&mut self, mut leg: OpenLeg) {
        if self.calls.len() >= MAX_CALLS && !self.calls.contains_key(&leg.id.call) {
            return;
        }
        let id = leg.id.call.clone();
        let call = self.calls.entry(id.clone()).or_default();
        if call.legs.iter().any(|known| known.leg.id == leg.id) {
            return;
        }
        if leg.transfer.is_none() {
            leg.transfer = call.take_transfer();
        }
        call.legs.push(Kept {
            leg,
            told: false,
            current: false,
        });
        self.change(&id);
    }

    /// What a line of a journal says about a leg, in the place of what was known.
    pub fn replace(&mut self, leg: OpenLeg) {
        let call = self.calls.entry(leg.id.call.clone()).or_default();
        // A transfer's first leg is told together with the REFER that asked for it.
        if leg.transfer.is_some() && call.leg(leg.id.leg).is_none() {
            call.attempt = None;
            call.accepted = None;
        }
        match call.leg(leg.id.leg) {
            Some(known) => known.leg = leg,
            None => call.legs.push(Kept {
                leg,
                told: true,
                current: true,
            }),
        }
    }

    fn bridged(&mut self, id: &CallId, transfer: u32) {
        let legs = self.calls.get_mut(id).map(|call| &mut call.legs);
        // The last attempt is the one that worked.
        let kept = legs
            .into_iter()
            .flatten()
            .rfind(|kept| kept.leg.transfer.as_ref().is_some_and(|t| t.id == transfer));
        if let Some(kept) = kept {
            if let Some(transfer) = &mut kept.leg.transfer {
                transfer.completed = true;
            }
            kept.current = false;
            self.change(id);
        }
    }

    /// The leg's line is in the CDR file.
    pub fn over(&mut self, leg: &LegId) {
        let Some(call) = self.calls.get_mut(&leg.call) else {
            return;
        };
        let place = call.legs.iter().position(|kept| kept.leg.id == *leg);
        if let Some(kept) = place.map(|place| call.legs.remove(place))
            && kept.told
        {
            self.over.push(leg.clone());
        }
        if call.legs.is_empty() {
            self.calls.remove(&leg.call);
            settle(&mut self.calls);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reporter::WallClock;
    use crate::test_support::call_with_transfer;
    use edge_proto::time::Instant;

    #[test]
    fn room_for_a_busy_hour_goes_back_while_a_call_is_under_way() {
        let clock = WallClock::new(Instant::ZERO, jiff::Timestamp::UNIX_EPOCH);
        let mut start = call_with_transfer().remove(0);
        let mut calls = OpenCalls::default();
        let ids: Vec<CallId> = (0..10_000)
            .map(|n| CallId::from(format!("{n:032x}")))
            .collect();
        for id in &ids {
            start.call = Some(id.clone());
            calls.apply(Note::of(&start, &clock).unwrap());
        }
        assert!(calls.calls.capacity() >= ids.len());
        for id in &ids[1..] {
            let call = id.clone();
            calls.over(&LegId { call, leg: 1 });
        }
        assert_eq!(calls.calls.len(), 1);
        assert!(calls.calls.capacity() <= ids.len() / 4);
    }
}
