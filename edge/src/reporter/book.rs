//! The call book: calls that are alive, and those that ended recently, as the admin API shows them.

use super::clock::WallClock;
use edge_proto::event::{CallId, Cause, Direction, Event, EventKind, LegNumber, LegRecord};
use edge_proto::id::CoreId;
use edge_proto::time::Instant;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Events of a call that are kept from its start on.
const HEAD: usize = 192;
/// Events that are kept from the end; what lies between is counted.
const TAIL: usize = 64;
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
    head: Vec<Arc<Event>>,
    tail: VecDeque<Arc<Event>>,
    omitted: u64,
}

/// A line of a timeline, or the number of lines left out at this place.
#[derive(Clone, Debug)]
pub enum TimelineItem<'a> {
    Event(&'a Event),
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
    /// The event that holds its record, once it is over.
    ended: Option<Arc<Event>>,
    pub from: Option<String>,
    pub to: Option<String>,
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
    /// Its record, once it is over.
    pub fn record(&self) -> Option<&LegRecord> {
        match &self.ended.as_ref()?.kind {
            EventKind::LegEnded(record) => Some(record),
            _ => None,
        }
    }

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
    fn new(id: CallId, core: CoreId, clock: WallClock, started: Instant) -> Self {
        Call {
            id,
            core,
            clock,
            started,
            ended: None,
            legs: Vec::new(),
            head: Vec::new(),
            tail: VecDeque::new(),
            omitted: 0,
        }
    }

    /// The events, in order.
    pub fn timeline(&self) -> impl Iterator<Item = TimelineItem<'_>> {
        let omitted = (self.omitted > 0).then_some(TimelineItem::Omitted(self.omitted));
        let event = |e| TimelineItem::Event(Arc::as_ref(e));
        self.head
            .iter()
            .map(event)
            .chain(omitted)
            .chain(self.tail.iter().map(event))
    }

    pub fn leg(&self, number: LegNumber) -> Option<&Leg> {
        self.legs.iter().find(|l| l.number == number)
    }

    fn is_over(&self) -> bool {
        !self.legs.is_empty() && self.legs.iter().all(|l| l.state == LegState::Ended)
    }

    fn remember(&mut self, event: &Arc<Event>) {
        if self.head.len() < HEAD {
            self.head.push(event.clone());
            return;
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
            self.omitted += 1;
        }
        self.tail.push_back(event.clone());
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
    active: HashMap<CallId, Call>,
    ended: VecDeque<Call>,
    /// How many had ended before each of them: its place, with `forgotten` taken off.
    ended_after: HashMap<CallId, usize>,
    /// How many have left `ended` again.
    forgotten: usize,
    /// Calls that did not fit since the last look.
    untracked: u64,
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
        }
    }

    /// Takes note of an event. `clock` is given to a call that starts with it.
    pub fn apply(&mut self, core: CoreId, clock: WallClock, event: &Arc<Event>) -> Noted {
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
        note_leg(call, event, &mut noted);
        call.remember(event);
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
                    return self.ended.get_mut(after.checked_sub(self.forgotten)?);
                }
                if !room {
                    self.untracked += 1;
                    return None;
                }
                Some(place.insert(Call::new(id.clone(), core, clock, at)))
            }
        }
    }

    fn archive(&mut self, id: &CallId) {
        let Some(call) = self.active.remove(id) else {
            return;
        };
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
        let mut calls: Vec<&Call> = self.active.values().collect();
        calls.sort_by(|a, b| (b.started, &b.id).cmp(&(a.started, &a.id)));
        calls
    }

    /// Calls that ended, the latest first.
    pub fn ended(&self) -> impl Iterator<Item = &Call> {
        self.ended.iter().rev()
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

/// What an event says about its leg.
fn note_leg(call: &mut Call, event: &Arc<Event>, noted: &mut Noted) {
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
        ended: None,
        from: None,
        to: None,
    };
    match &event.kind {
        EventKind::CallStarted {
            trunk, from, to, ..
        } => {
            let make = || new_leg(trunk, Direction::Inbound, event.at);
            if let Some((leg, new)) = call.leg_mut(make, number) {
                leg.from = Some(from.clone());
                leg.to = Some(to.clone());
                noted.opened = new.then(|| trunk.clone());
            }
        }
        EventKind::LegStarted {
            trunk,
            direction,
            from,
            to,
            ..
        } => {
            let make = || new_leg(trunk, *direction, event.at);
            if let Some((leg, new)) = call.leg_mut(make, number) {
                leg.from.get_or_insert_with(|| from.clone());
                leg.to.get_or_insert_with(|| to.clone());
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
                leg.from = Some(record.from.clone());
                leg.to = Some(record.to.clone());
                leg.ended = Some(event.clone());
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
    match kind {
        EventKind::Response {
            method,
            code,
            direction,
            ..
        } if &**method == "INVITE" && *direction != leg.direction => leg.responded(*code, at),
        EventKind::Routed { number, .. } if leg.direction == Direction::Outbound => {
            leg.to = Some(number.clone());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
