//! Everything that is told to the outside, from the one stream of typed events.
//!
//! Control threads put events into a bounded queue; one reporter thread takes them out and feeds the call book (for the
//! admin API), the metrics, the CDR file, the log and the live event stream. Nothing here is on the path of a packet, and
//! nothing here can hold a call up: a full queue is counted by the sender.

mod book;
mod clock;
mod feed;
mod log;
mod requests;

pub use book::{Book, BookLimits, Call, Leg, LegState, Lookup, TimelineItem};
pub use clock::{Stamp, WallClock, rfc3339};
pub use feed::Batch;
pub(crate) use log::EventLog;

use crate::cdr::Records;
use crate::clock::Clock;
use crate::handoff::{Receiver, Waker};
use crate::metrics::{Metrics, Observer};
use edge_proto::event::Event;
use edge_proto::event::packed::{self, Names};
use edge_proto::id::CoreId;
use jiff::Timestamp;
use requests::Requests;
use std::io;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast;

/// Room in the queue of [`ReporterOptions`] for batches of each core: more than come while the reporter lets them gather. What does
/// not fit waits at its core.
pub const QUEUE_PER_CORE: usize = 1_024;
/// Events a slow reader of the live stream may lag behind before it loses some, and is told how many.
const STREAM_CAPACITY: usize = 4_096;
const TICK: Duration = Duration::from_secs(1);
/// After it has reported something, the reporter lets events gather for so long before it looks again, the longer the fewer there are;
/// only when nothing came does it ask to be woken. A call makes dozens of events, and a wake-up and some writes for each message would
/// cost the control threads, which share their cores with it, more than reporting does. Whoever reads what it knows waits for none of
/// that: see [`Shared::caught_up`]. A kill within that time loses no record: see [`crate::cdr::EarlyJournal`].
const GATHER: RangeInclusive<Duration> = Duration::from_millis(20)..=Duration::from_millis(100);
/// From so many batches at once on, fewer gather the next time: their memory should be warm when they are read.
const MANY: u32 = 64;

/// An event as the live stream carries it.
#[derive(Clone, Debug)]
pub struct Published {
    pub core: CoreId,
    /// Tells the event's time.
    pub clock: WallClock,
    pub event: Arc<Event>,
}

/// The read side, shared with the admin API.
#[derive(Debug)]
pub struct Shared {
    book: Mutex<Book>,
    stream: broadcast::Sender<Published>,
    requests: Requests,
}

impl Shared {
    fn new(limits: BookLimits, waker: Waker) -> Self {
        Shared {
            requests: Requests::new(waker),
            book: Mutex::new(Book::new(limits)),
            stream: broadcast::channel(STREAM_CAPACITY).0,
        }
    }

    /// The calls, active and recently ended. Held for as short as possible: the reporter waits for it.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        // A panic while it was held leaves a book that is at worst one event behind.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when all events that the reporter has been sent are told (book, metrics, records), or soon where that takes long.
    pub async fn caught_up(&self) {
        self.requests.caught_up().await;
    }

    /// Live streams that are open.
    #[cfg(test)]
    pub(crate) fn listeners(&self) -> usize {
        self.stream.receiver_count()
    }

    /// Events that the slowest live stream has not taken yet.
    #[cfg(test)]
    pub(crate) fn backlog(&self) -> usize {
        self.stream.len()
    }

    /// Events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Published> {
        self.stream.subscribe()
    }
}

/// What a [`Reporter`] is made of.
pub struct ReporterOptions {
    /// From the control threads. The reporter sleeps on its waker and on nothing else.
    pub events: Receiver<Batch>,
    pub metrics: Arc<Metrics>,
    pub cdr: Records,
    pub limits: BookLimits,
    /// The one that stamps events.
    pub clock: Clock,
}

/// The reporter thread's state. The supervisor spawns a thread that calls [`Reporter::run`].
pub struct Reporter {
    events: Receiver<Batch>,
    names: Names,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    observer: Observer,
    cdr: Records,
    clock: WallClock,
    process_clock: Clock,
    log: EventLog,
    stopping: Arc<AtomicBool>,
}

/// Ends a [`Reporter`]. Use it after the control threads have ended, or their last events are lost.
#[derive(Clone, Debug)]
pub struct ReporterStop {
    stopping: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl ReporterStop {
    /// What is queued now is still reported.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.shared.requests.ask();
    }
}

impl Reporter {
    pub fn new(options: ReporterOptions) -> Reporter {
        for leg in options.cdr.closed() {
            options
                .metrics
                .leg_closed(&leg.trunk, leg.direction, leg.cause);
        }
        let waker = options.events.waker().clone();
        Reporter {
            events: options.events,
            names: Names::default(),
            shared: Arc::new(Shared::new(options.limits, waker)),
            observer: Observer::default(),
            metrics: options.metrics,
            cdr: options.cdr,
            clock: WallClock::of_process(&options.clock),
            process_clock: options.clock,
            log: EventLog::default(),
            stopping: Arc::default(),
        }
    }

    /// For whoever spawns the thread.
    pub fn stopper(&self) -> ReporterStop {
        ReporterStop {
            stopping: self.stopping.clone(),
            shared: self.shared.clone(),
        }
    }

    /// The read side for the admin API.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Reports until [`ReporterStop::stop`]; then what is queued, and the CDR file is written to the end and made durable
    /// before it returns. Fails only when the system refuses to let the thread sleep.
    pub fn run(mut self) -> io::Result<()> {
        self.shared.requests.set_running(true);
        let ended = self.report_all();
        self.shared.requests.set_running(false);
        ended
    }

    fn report_all(&mut self) -> io::Result<()> {
        let mut next_tick = std::time::Instant::now() + TICK;
        // Batches since the last pause.
        let mut taken = 0;
        let mut gather = *GATHER.start();
        loop {
            // Before the queue is looked at: what was queued before the stop, or before a request, is seen after it.
            let made = self.shared.requests.made();
            let stopping = self.stopping.load(Ordering::Acquire);
            if let Some(batch) = self.events.try_recv() {
                self.take(&batch);
                taken += 1;
            } else {
                // While there is time.
                self.cdr.flush();
                self.shared.requests.meet(made);
                if stopping {
                    return Ok(());
                }
                if taken > 0 {
                    gather = self.next_pause(gather, taken);
                    self.shared.requests.pause(made, gather);
                } else {
                    let left = next_tick.saturating_duration_since(std::time::Instant::now());
                    self.sleep(made, left)?;
                }
                taken = 0;
            }
            let now = std::time::Instant::now();
            if now >= next_tick {
                self.tick();
                next_tick = now + TICK;
            }
        }
    }

    /// How long events gather, where they have for `last` and `taken` batches came.
    fn next_pause(&self, last: Duration, taken: u32) -> Duration {
        let (least, most) = GATHER.into_inner();
        match taken {
            // Somebody looks on.
            _ if self.shared.stream.receiver_count() > 0 => least,
            MANY.. => (last / 2).max(least),
            _ => (last * 2).min(most),
        }
    }

    /// Waits for events, or for more requests than `made`, for so long.
    fn sleep(&self, made: u64, time: Duration) -> io::Result<()> {
        let waker = self.events.waker();
        waker.announce_sleep();
        if !self.events.is_empty() || self.shared.requests.made() != made {
            waker.cancel_sleep();
            return Ok(());
        }
        waker.wait(Some(time)).map(drop)
    }

    fn tick(&mut self) {
        self.cdr.tick();
        if let Some(step) = self
            .clock
            .resync(self.process_clock.now(), Timestamp::now())
        {
            tracing::warn!(
                seconds = step as f64 / 1e9,
                "the system's clock was set: calls that are under way keep the old time"
            );
        }
        self.shared.book().sweep();
    }

    fn take(&mut self, batch: &Batch) {
        for packed in batch.iter() {
            // Packed by this very program.
            if let Some(event) = packed::unpack(packed, &mut self.names) {
                self.tell(batch.core, event, packed);
            }
        }
    }

    /// One event, as if it had come alone.
    #[cfg(test)]
    pub(crate) fn report(&mut self, core: CoreId, event: &Event) {
        let mut batch = Batch::new(core);
        batch.add(event);
        self.take(&batch);
    }

    fn tell(&mut self, core: CoreId, event: Event, packed: &[u8]) {
        let noted = self.shared.book().apply(core, self.clock, &event, packed);
        // First of all: what is not in the journal when the process is killed has no record.
        self.cdr.note(core, &event, &noted.clock);
        self.log.event(core, &event, &noted.clock);
        if let Some(trunk) = &noted.opened {
            self.metrics.leg_alive(trunk, true);
        }
        if let Some(trunk) = &noted.closed {
            self.metrics.leg_alive(trunk, false);
        }
        self.observer.observe(&self.metrics, core, &event);
        if self.shared.stream.receiver_count() > 0 {
            // An error means that nobody listens any more.
            let _ = self.shared.stream.send(Published {
                core,
                clock: noted.clock,
                event: Arc::new(event),
            });
        }
    }
}

#[cfg(test)]
mod tests;
