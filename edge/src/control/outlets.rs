//! What a control thread sends to other threads. Nothing blocks: what does not fit waits here in order, within bounds, and
//! is retried; what may not wait is refused to the sender.

use crate::handoff::{Full, Sender};
use crate::reporter::Batch;
use edge_proto::b2bua::HandoffMessage;
use edge_proto::event::{Event, EventKind};
use edge_proto::id::CoreId;
use edge_proto::relay::{MediaCommand, MediaEvent};
use std::collections::VecDeque;

/// While so many media commands wait, allocations are refused. Commands for allocations that exist still wait: there are
/// few of them per allocation, and a teardown may not get lost.
const MEDIA_BACKLOG: usize = 1024;

/// While so many events wait, those about a call are dropped.
const EVENT_BACKLOG: usize = 64 * 1024;

/// What belongs to no call may be a stranger's doing, and may take only a part of that room.
const NOISE_BACKLOG: usize = EVENT_BACKLOG / 8;

/// The starts and ends of calls and legs are what bills are made of: they go only when the reporter has been stuck for very
/// long.
const RECORD_BACKLOG: usize = 4 * EVENT_BACKLOG;

/// How many events may wait before `event` is dropped.
fn backlog_limit(event: &Event) -> usize {
    match event.kind {
        EventKind::CallStarted { .. }
        | EventKind::LegStarted { .. }
        | EventKind::LegEnded(_)
        | EventKind::CallEnded { .. } => RECORD_BACKLOG,
        _ if event.call.is_some() => EVENT_BACKLOG,
        _ => NOISE_BACKLOG,
    }
}

/// Queues to other threads.
#[derive(Debug)]
pub struct Outlets {
    media: Sender<MediaCommand>,
    cores: Vec<Sender<HandoffMessage>>,
    events: Sender<Batch>,
    media_backlog: VecDeque<MediaCommand>,
    /// Commands are in the queue that the media thread was not woken for.
    media_unannounced: bool,
    /// Events since [`Outlets::report`], and those that the queue had no room for.
    gathered: Batch,
    /// What is too large to be added to.
    event_backlog: VecDeque<Batch>,
    /// Events in it.
    events_waiting: usize,
}

impl Outlets {
    /// Those of `core`. `cores`: one queue per core, by [`CoreId`]; the own one is never used.
    pub fn new(
        core: CoreId,
        media: Sender<MediaCommand>,
        cores: Vec<Sender<HandoffMessage>>,
        events: Sender<Batch>,
    ) -> Self {
        Outlets {
            media,
            cores,
            events,
            media_backlog: VecDeque::new(),
            media_unannounced: false,
            gathered: Batch::new(core),
            event_backlog: VecDeque::new(),
            events_waiting: 0,
        }
    }

    /// To this core's media thread, which looks at it after [`Outlets::announce`] at the latest. Some event: the refusal, as the
    /// media thread would have answered.
    pub(super) fn media(&mut self, command: MediaCommand) -> Option<MediaEvent> {
        if let MediaCommand::Open { allocation, .. } = command
            && self.media_backlog.len() >= MEDIA_BACKLOG
        {
            return Some(MediaEvent::OpenFailed {
                allocation,
                reason: "the media thread is overloaded".to_owned(),
            });
        }
        self.media_backlog.push_back(command);
        let before = self.media_backlog.len();
        fill(&mut self.media_backlog, &self.media);
        self.media_unannounced |= self.media_backlog.len() < before;
        None
    }

    /// Wakes the media thread if there is something new for it. It goes before the control thread: woken for each command, it
    /// would take the core for each.
    pub(super) fn announce(&mut self) {
        if std::mem::take(&mut self.media_unannounced) {
            self.media.wake();
        }
    }

    /// Whether [`Outlets::announce`] has something to tell.
    pub(super) fn is_unannounced(&self) -> bool {
        self.media_unannounced
    }

    #[expect(
        clippy::result_large_err,
        reason = "the message moves on either way; a box would cost an allocation"
    )]
    /// To another core's control thread; the message comes back when there is no room or no such core.
    pub(super) fn handoff(
        &self,
        core: CoreId,
        message: HandoffMessage,
    ) -> Result<(), HandoffMessage> {
        match self.cores.get(usize::from(core.0)) {
            Some(queue) => queue.try_send(message).map_err(|Full(message)| message),
            None => Err(message),
        }
    }

    /// To the reporter, with the next [`Outlets::report`]. Gives its octets; `None`: the event was dropped.
    pub(super) fn event(&mut self, event: &Event) -> Option<&[u8]> {
        let waiting = self.events_waiting + self.gathered.len();
        if waiting >= backlog_limit(event) {
            return None;
        }
        if self.gathered.is_large() {
            let next = Batch::new(self.gathered.core);
            let full = std::mem::replace(&mut self.gathered, next);
            self.events_waiting += full.len();
            self.event_backlog.push_back(full);
        }
        Some(self.gathered.add(event))
    }

    /// Hands the events of a turn to the reporter; true when there is room for all.
    pub(super) fn report(&mut self) -> bool {
        let mut queued = false;
        while let Some(batch) = self.event_backlog.pop_front() {
            let events = batch.len();
            if let Err(Full(batch)) = self.events.try_queue(batch) {
                self.event_backlog.push_front(batch);
                break;
            }
            self.events_waiting -= events;
            queued = true;
        }
        if self.event_backlog.is_empty() && !self.gathered.is_empty() {
            let next = Batch::new(self.gathered.core);
            let batch = std::mem::replace(&mut self.gathered, next);
            match self.events.try_queue(batch) {
                Ok(()) => queued = true,
                // More is added until it is large.
                Err(Full(batch)) => self.gathered = batch,
            }
        }
        if queued {
            self.events.wake();
        }
        self.gathered.is_empty() && self.event_backlog.is_empty()
    }

    /// Tries again what waits; true when nothing is left.
    pub(super) fn retry(&mut self) -> bool {
        fill(&mut self.media_backlog, &self.media);
        self.media.wake();
        let events = self.report();
        self.media_backlog.is_empty() && events
    }

    /// Whether something waits that there was no room for.
    pub(super) fn has_backlog(&self) -> bool {
        !self.media_backlog.is_empty()
            || !self.gathered.is_empty()
            || !self.event_backlog.is_empty()
    }
}

/// Moves items from `backlog` to `queue` until one of them is exhausted, without a word to the receiver.
fn fill<T>(backlog: &mut VecDeque<T>, queue: &Sender<T>) {
    while let Some(item) = backlog.pop_front() {
        if let Err(Full(item)) = queue.try_queue(item) {
            backlog.push_front(item);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::bounded;
    use edge_proto::event::Cause;
    use edge_proto::event::packed::{self, Names};
    use edge_proto::id::AllocationId;
    use edge_proto::relay::LatchMode;
    use edge_proto::time::Instant;

    fn allocation(slot: u32) -> AllocationId {
        AllocationId {
            slot,
            generation: 0,
        }
    }

    fn open(slot: u32) -> MediaCommand {
        MediaCommand::Open {
            allocation: allocation(slot),
            local: "127.0.0.1:10000".parse().unwrap(),
            latch: LatchMode::Off,
        }
    }

    fn close(slot: u32) -> MediaCommand {
        MediaCommand::Close {
            allocation: allocation(slot),
        }
    }

    fn event(kind: EventKind) -> Event {
        Event {
            at: Instant::ZERO,
            call: None,
            leg: None,
            kind,
        }
    }

    #[test]
    fn media_commands_wait_in_order_and_only_openings_are_refused() {
        let (media, commands) = bounded(1).unwrap();
        let (events, _events) = bounded(1).unwrap();
        let mut outlets = Outlets::new(CoreId(0), media, Vec::new(), events);
        for slot in 0..=MEDIA_BACKLOG as u32 {
            assert_eq!(outlets.media(open(slot)), None);
        }
        let refusal = outlets.media(open(99_999)).unwrap();
        assert!(
            matches!(refusal, MediaEvent::OpenFailed { allocation: a, .. } if a == allocation(99_999))
        );
        assert_eq!(outlets.media(close(0)), None);
        let mut seen = Vec::new();
        while let Some(command) = commands.try_recv() {
            seen.push(command);
            outlets.retry();
        }
        assert!(!outlets.has_backlog());
        assert_eq!(seen.len(), MEDIA_BACKLOG + 2);
        assert_eq!(seen.first(), Some(&open(0)));
        assert_eq!(seen.last(), Some(&close(0)));
    }

    #[test]
    fn noise_goes_first_and_records_last_when_the_reporter_is_stuck() {
        let (media, _commands) = bounded(1).unwrap();
        let (events, received) = bounded(1).unwrap();
        let mut outlets = Outlets::new(CoreId(3), media, Vec::new(), events);
        let overflow = || event(EventKind::Overflow { queue: "media" });
        let of_a_call = || Event {
            call: Some("00112233445566778899aabbccddeeff".into()),
            ..overflow()
        };
        let record = event(EventKind::CallEnded {
            cause: Cause::Completed,
        });
        let mut tell = |event: &Event| {
            let told = outlets.event(event).is_some();
            outlets.report();
            told
        };
        // One is in the queue, the others wait.
        for _ in 0..=NOISE_BACKLOG {
            assert!(tell(&overflow()));
        }
        assert!(!tell(&overflow()));
        for _ in NOISE_BACKLOG..EVENT_BACKLOG {
            assert!(tell(&of_a_call()));
        }
        assert!(!tell(&of_a_call()));
        for _ in EVENT_BACKLOG..RECORD_BACKLOG {
            assert!(tell(&record));
        }
        assert!(!tell(&record));
        let names = &mut Names::default();
        let mut seen = Vec::new();
        while let Some(batch) = received.try_recv() {
            assert_eq!(batch.core, CoreId(3));
            seen.extend(
                batch
                    .iter()
                    .map(|bytes| packed::unpack(bytes, names).unwrap()),
            );
            outlets.retry();
        }
        assert!(outlets.retry() && !outlets.has_backlog());
        assert_eq!(seen.len(), RECORD_BACKLOG + 1);
        assert_eq!(
            (seen.first(), seen.last()),
            (Some(&overflow()), Some(&record))
        );
        assert!(seen.is_sorted_by_key(|event| match event.kind {
            EventKind::CallEnded { .. } => 2,
            _ => usize::from(event.call.is_some()),
        }));
    }

    #[test]
    fn a_handoff_comes_back_when_the_queue_is_full_or_the_core_unknown() {
        let (media, _commands) = bounded(1).unwrap();
        let (events, _events) = bounded(1).unwrap();
        let (core, _queue) = bounded(1).unwrap();
        let outlets = Outlets::new(CoreId(0), media, vec![core], events);
        let message = || HandoffMessage::ConnectionGone {
            connection: edge_proto::id::ConnectionId::accepted(CoreId(0), 1),
        };
        assert!(outlets.handoff(CoreId(0), message()).is_ok());
        assert!(outlets.handoff(CoreId(0), message()).is_err());
        assert!(outlets.handoff(CoreId(7), message()).is_err());
    }
}
