//! The call book: calls that are alive, and those that ended recently, as the admin API shows them.

mod timeline;

use super::clock::WallClock;
use edge_proto::event::packed;
use edge_proto::event::{CallId, Cause, Direction, Event, EventKind, LegNumber, LegRecord};
use edge_proto::id::CoreId;
use edge_proto::sip::Method;
use edge_proto::table::settle;
use edge_proto::time::Instant;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use timeline::{Kept, Spares, Timeline};

/// Legs of a call that are told apart: the edge's own limits are far below.
const MAX_LEGS: usize = 64;

/// How much the book remembers.
#[derive(Clone, Copy, Debug)]
pub struct BookLimits {
    /// Calls alive: cores times the limit per core.
    pub active: usize,
    /// Calls that ended, the latest ones.
    pub ended: usize,
}

impl Default for BookLimits {
    fn default() -> Self {
        BookLimits {
            active: 100_000,
            ended: 2_000,
        }
    }
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    pub id: CallId,
    pub core: CoreId,
    /// Tells this call's times.
    pub clock: WallClock,
    pub started: Instant,
    pub ended: Option<(Instant, Cause)>,
    /// In the order of their numbers.
    pub legs: Vec<Leg>,
    events: Timeline,
}

/// A line of a timeline, or the number of lines left out at this place.
#[derive(Clone, Debug)]
pub enum TimelineItem {
    Event(Event),
    Omitted(u64),
}

/// One leg of a call.
#[derive(Clone, Debug)]
pub struct Leg {
    pub number: LegNumber,
    pub direction: Direction,
    pub trunk: Arc<str>,
    pub state: LegState,
    pub start: Instant,
    pub ring: Option<Instant>,
    pub answer: Option<Instant>,
    /// The event it began with.
    began: Kept,
    /// The event that holds its record, once it is over.
    ended: Kept,
}

/// How far a leg has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LegState {
    Trying,
    Ringing,
    Answered,
    Ended,
}

impl LegState {
    pub const fn as_str(self) -> &'static str {
        match self {
            LegState::Trying => "trying",
            LegState::Ringing => "ringing",
            LegState::Answered => "answered",
            LegState::Ended => "ended",
        }
    }
}

impl Leg {
    /// A final or provisional response to the leg's INVITE went by.
    fn responded(&mut self, code: u16, at: Instant) {
        match code {
            180..=183 if self.state == LegState::Trying => {
                self.state = LegState::Ringing;
                self.ring = Some(at);
            }
            200..=299 if self.state < LegState::Answered => {
                self.state = LegState::Answered;
                self.answer = Some(at);
            }
            _ => {}
        }
    }
}

impl Call {
    fn new(id: CallId, core: CoreId, clock: WallClock, started: Instant, events: Timeline) -> Self {
        Call {
            id,
            core,
            clock,
            started,
            ended: None,
            legs: Vec::new(),
            events,
        }
    }

    /// The events, in order.
    pub fn timeline(&self) -> impl Iterator<Item = TimelineItem> {
        let omitted = self.events.omitted();
        let omitted = (omitted > 0).then_some(TimelineItem::Omitted(omitted));
        let (head, tail) = (self.events.head(&self.id), self.events.tail(&self.id));
        head.map(TimelineItem::Event)
            .chain(omitted)
            .chain(tail.map(TimelineItem::Event))
    }

    /// A leg's record, once it is over.
    pub fn record(&self, leg: &Leg) -> Option<LegRecord> {
        match self.events.get(&leg.ended, &self.id)?.kind {
            EventKind::LegEnded(record) => Some(*record),
            _ => None,
        }
    }

    /// The leg's From and To, as its record tells them, or its start.
    pub fn parties(&self, leg: &Leg) -> Option<(String, String)> {
        if let Some(record) = self.record(leg) {
            return Some((record.from, record.to));
        }
        match self.events.get(&leg.began, &self.id)?.kind {
            EventKind::CallStarted { from, to, .. } | EventKind::LegStarted { from, to, .. } => {
                Some((from, to))
            }
            _ => None,
        }
    }

    pub fn leg(&self, number: LegNumber) -> Option<&Leg> {
        self.legs.iter().find(|l| l.number == number)
    }

    fn is_over(&self) -> bool {
        !self.legs.is_empty() && self.legs.iter().all(|l| l.state == LegState::Ended)
    }

    /// The leg, made if it is new. `None`: too many.
    fn leg_mut(
        &mut self,
        new: impl FnOnce() -> Leg,
        number: LegNumber,
    ) -> Option<(&mut Leg, bool)> {
        let place = self.legs.partition_point(|l| l.number < number);
        let known = self.legs.get(place).is_some_and(|l| l.number == number);
        if !known {
            if self.legs.len() >= MAX_LEGS {
                return None;
            }
            self.legs.insert(place, new());
        }
        self.legs.get_mut(place).map(|leg| (leg, !known))
    }
}

/// What came of an event, for the metrics and the CDR.
#[derive(Debug)]
pub struct Noted {
    /// The clock of the event's call.
    pub clock: WallClock,
    /// Trunk of the leg that came to life with this event.
    pub opened: Option<Arc<str>>,
    /// Trunk of the leg that ended with it.
    pub closed: Option<Arc<str>>,
}

/// Answer to [`Book::find`].
#[derive(Debug)]
pub enum Lookup<'a> {
    Found(&'a Call),
    /// Several calls start with this prefix.
    Ambiguous,
    Unknown,
}

/// All calls. Single writer (the reporter); readers lock it for a moment.
#[derive(Debug)]
pub struct Book {
    limits: BookLimits,
    active: HashMap<CallId, Box<Call>>,
    ended: VecDeque<Box<Call>>,
    /// How many had ended before each of them: its place, with `forgotten` taken off.
    ended_after: HashMap<CallId, usize>,
    /// How many have left `ended` again.
    forgotten: usize,
    /// Calls that did not fit since the last look.
    untracked: u64,
    spares: Spares,
}

/// The shortest part of a call's id that is looked up.
const MIN_PREFIX: usize = 4;

impl Book {
    pub fn new(limits: BookLimits) -> Self {
        Book {
            limits,
            active: HashMap::new(),
            ended: VecDeque::new(),
            ended_after: HashMap::new(),
            forgotten: 0,
            untracked: 0,
            spares: Spares::default(),
        }
    }

    /// Takes note of an event, which `packed` is too. `clock` is given to a call that starts with it.
    pub fn apply(&mut self, core: CoreId, clock: WallClock, event: &Event, packed: &[u8]) -> Noted {
        let mut noted = Noted {
            clock,
            opened: None,
            closed: None,
        };
        let Some(id) = &event.call else { return noted };
        let Some(call) = self.call_mut(id, core, clock, event.at) else {
            return noted;
        };
        noted.clock = call.clock;
        let Some(packed) = packed::without_call(packed) else {
            return noted;
        };
        let place = call.events.add(packed);
        let keep = || place.map_or_else(|| Kept::Apart(packed.into()), Kept::At);
        note_leg(call, event, keep, &mut noted);
        if let EventKind::CallEnded { cause } = event.kind
            && call.ended.is_none()
        {
            call.ended = Some((event.at, cause));
            self.archive(id);
        }
        noted
    }

    /// The call of an event: alive, else recently ended (an answer that came late), else new. `None`: no room.
    fn call_mut(
        &mut self,
        id: &CallId,
        core: CoreId,
        clock: WallClock,
        at: Instant,
    ) -> Option<&mut Call> {
        let room = self.active.len() < self.limits.active;
        match self.active.entry(id.clone()) {
            Entry::Occupied(call) => Some(call.into_mut()),
            Entry::Vacant(place) => {
                if let Some(&after) = self.ended_after.get(id) {
                    let place = after.checked_sub(self.forgotten)?;
                    return self.ended.get_mut(place).map(Box::as_mut);
                }
                if !room {
                    self.untracked += 1;
                    return None;
                }
                let events = Timeline::new(&mut self.spares);
                let call = Call::new(id.clone(), core, clock, at, events);
                Some(place.insert(Box::new(call)))
            }
        }
    }

    fn archive(&mut self, id: &CallId) {
        let Some(mut call) = self.active.remove(id) else {
            return;
        };
        settle(&mut self.active);
        call.events.settle(&mut self.spares);
        self.ended_after
            .insert(id.clone(), self.forgotten + self.ended.len());
        self.ended.push_back(call);
        while self.ended.len() > self.limits.ended {
            if let Some(oldest) = self.ended.pop_front() {
                self.ended_after.remove(&oldest.id);
            }
            self.forgotten += 1;
        }
    }

    /// Regular upkeep: a full book lets go of calls whose end it was never told.
    pub fn sweep(&mut self) {
        let untracked = std::mem::take(&mut self.untracked);
        if untracked == 0 {
            return;
        }
        let over: Vec<CallId> = self
            .active
            .values()
            .filter(|c| c.is_over())
            .map(|c| c.id.clone())
            .collect();
        tracing::warn!(
            untracked,
            released = over.len(),
            "more calls than the call book holds: some are missing from the admin API"
        );
        for id in over {
            self.archive(&id);
        }
    }

    pub fn active_calls(&self) -> usize {
        self.active.len()
    }

    /// Calls alive, newest first.
    pub fn active(&self) -> Vec<&Call> {
        let mut calls: Vec<&Call> = self.active.values().map(Box::as_ref).collect();
        calls.sort_by(|a, b| (b.started, &b.id).cmp(&(a.started, &a.id)));
        calls
    }

    /// Calls that ended, the latest first.
    pub fn ended(&self) -> impl Iterator<Item = &Call> {
        self.ended.iter().rev().map(Box::as_ref)
    }

    /// A call by its id or by the first characters of it.
    pub fn find(&self, prefix: &str) -> Lookup<'_> {
        if let Some(call) = self.active.get(prefix) {
            return Lookup::Found(call);
        }
        if prefix.len() < MIN_PREFIX {
            return Lookup::Unknown;
        }
        let mut found = self
            .active
            .values()
            .chain(&self.ended)
            .filter(|c| c.id.starts_with(prefix));
        match (found.next(), found.next()) {
            (Some(call), None) => Lookup::Found(call),
            (Some(_), Some(_)) => Lookup::Ambiguous,
            (None, _) => Lookup::Unknown,
        }
    }
}

/// What an event says about its leg; `keep` tells where the event is.
fn note_leg(call: &mut Call, event: &Event, keep: impl Fn() -> Kept, noted: &mut Noted) {
    let number = match event.kind {
        EventKind::CallStarted { .. } => event.leg.unwrap_or(1),
        _ => match event.leg {
            Some(number) => number,
            None => return,
        },
    };
    let new_leg = |trunk: &Arc<str>, direction, start| Leg {
        number,
        direction,
        trunk: trunk.clone(),
        state: LegState::Trying,
        start,
        ring: None,
        answer: None,
        began: Kept::Nothing,
        ended: Kept::Nothing,
    };
    match &event.kind {
        EventKind::CallStarted { trunk, .. } => {
            let make = || new_leg(trunk, Direction::Inbound, event.at);
            if let Some((leg, new)) = call.leg_mut(make, number) {
                leg.began = keep();
                noted.opened = new.then(|| trunk.clone());
            }
        }
        EventKind::LegStarted {
            trunk, direction, ..
        } => {
            let make = || new_leg(trunk, *direction, event.at);
            if let Some((leg, new)) = call.leg_mut(make, number) {
                if leg.began.is_nothing() {
                    leg.began = keep();
                }
                noted.opened = new.then(|| trunk.clone());
            }
        }
        EventKind::LegEnded(record) => {
            let make = || new_leg(&record.trunk, record.direction, record.start);
            if let Some((leg, new)) = call.leg_mut(make, number) {
                // A leg whose start was never told was not counted as alive.
                noted.closed = (!new && leg.state != LegState::Ended).then(|| leg.trunk.clone());
                leg.state = LegState::Ended;
                leg.ring = record.ring;
                leg.answer = record.answer;
                leg.ended = keep();
            }
        }
        kind => {
            if let Some(leg) = call.legs.iter_mut().find(|l| l.number == number) {
                note_progress(leg, kind, event.at);
            }
        }
    }
}

fn note_progress(leg: &mut Leg, kind: &EventKind, at: Instant) {
    if let EventKind::Response {
        method,
        code,
        direction,
        ..
    } = kind
        && *method == Method::Invite
        && *direction != leg.direction
    {
        leg.responded(*code, at);
    }
}

#[cfg(test)]
mod tests;
