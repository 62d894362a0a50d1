//! What a control thread sends to other threads. Nothing blocks: what does not fit waits here in order, within bounds, and
//! is retried; what may not wait is refused to the sender.

use crate::handoff::{Full, Sender};
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
    events: Sender<(CoreId, Event)>,
    media_backlog: VecDeque<MediaCommand>,
    /// Commands are in the queue that the media thread was not woken for.
    media_unannounced: bool,
    event_backlog: VecDeque<(CoreId, Event)>,
}

impl Outlets {
    /// `cores`: one queue per core, by [`CoreId`]; the own one is never used.
    pub fn new(
        media: Sender<MediaCommand>,
        cores: Vec<Sender<HandoffMessage>>,
        events: Sender<(CoreId, Event)>,
    ) -> Self {
        Outlets {
            media,
            cores,
            events,
            media_backlog: VecDeque::new(),
            media_unannounced: false,
            event_backlog: VecDeque::new(),
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

    /// To the reporter. False: the event was dropped.
    pub(super) fn event(&mut self, core: CoreId, event: Event) -> bool {
        if self.event_backlog.len() >= backlog_limit(&event) {
            return false;
        }
        self.event_backlog.push_back((core, event));
        drain(&mut self.event_backlog, &self.events);
        true
    }

    /// Tries again what waits; true when nothing is left.
    pub(super) fn retry(&mut self) -> bool {
        let media = drain(&mut self.media_backlog, &self.media);
        let events = drain(&mut self.event_backlog, &self.events);
        media && events
    }

    /// Whether something waits to be sent.
    pub(super) fn has_backlog(&self) -> bool {
        !self.media_backlog.is_empty() || !self.event_backlog.is_empty()
    }
}

/// Moves items from `backlog` to `queue` until one of them is exhausted, and wakes the receiver once; true when the backlog is
/// empty.
fn drain<T>(backlog: &mut VecDeque<T>, queue: &Sender<T>) -> bool {
    let before = backlog.len();
    fill(backlog, queue);
    if backlog.len() < before {
        queue.wake();
    }
    backlog.is_empty()
}

/// The same without a word to the receiver.
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
        let mut outlets = Outlets::new(media, Vec::new(), events);
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
        let mut outlets = Outlets::new(media, Vec::new(), events);
        let overflow = || event(EventKind::Overflow { queue: "media" });
        let of_a_call = || Event {
            call: Some("00112233445566778899aabbccddeeff".into()),
            ..overflow()
        };
        let record = event(EventKind::CallEnded {
            cause: Cause::Completed,
        });
        // One is in the queue, the others wait.
        for _ in 0..=NOISE_BACKLOG {
            assert!(outlets.event(CoreId(0), overflow()));
        }
        assert!(!outlets.event(CoreId(0), overflow()));
        for _ in NOISE_BACKLOG..EVENT_BACKLOG {
            assert!(outlets.event(CoreId(0), of_a_call()));
        }
        assert!(!outlets.event(CoreId(0), of_a_call()));
        for _ in EVENT_BACKLOG..RECORD_BACKLOG {
            assert!(outlets.event(CoreId(0), record.clone()));
        }
        assert!(!outlets.event(CoreId(0), record.clone()));
        let mut last = None;
        while let Some(item) = received.try_recv() {
            last = Some(item);
            outlets.retry();
        }
        assert!(outlets.retry());
        assert_eq!(last, Some((CoreId(0), record)));
    }

    #[test]
    fn a_handoff_comes_back_when_the_queue_is_full_or_the_core_unknown() {
        let (media, _commands) = bounded(1).unwrap();
        let (events, _events) = bounded(1).unwrap();
        let (core, _queue) = bounded(1).unwrap();
        let outlets = Outlets::new(media, vec![core], events);
        let message = || HandoffMessage::ConnectionGone {
            connection: edge_proto::id::ConnectionId::accepted(CoreId(0), 1),
        };
        assert!(outlets.handoff(CoreId(0), message()).is_ok());
        assert!(outlets.handoff(CoreId(0), message()).is_err());
        assert!(outlets.handoff(CoreId(7), message()).is_err());
    }
}
