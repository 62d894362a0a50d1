//! How long the media thread lets packets gather before it wakes for them.
//!
//! A wake-up costs as much as relaying a packet or two, and the kernel is quicker with many packets in a row than with each by
//! itself. So while the core is busy, turns begin no more often than a part of `media.batch_us`: what comes meanwhile is relayed
//! together. The part grows with the share of its time that the thread runs, from nothing at [`CALM`] to all of it at [`BUSY`]: where
//! there is processor time to spare, each packet is relayed at once. The time that a turn itself takes counts, so under overload,
//! when packets gather anyway, nothing waits; and nothing waits where too few packets would come to save anything.

use edge_proto::time::{Duration, Instant};

/// How often rate and load are looked at.
const WINDOW: Duration = Duration::from_millis(4);
/// Percent of its time that the thread runs: up to here no packet is kept.
const CALM: u128 = 20;
/// From here on packets are kept for all of the time that they may be.
const BUSY: u128 = 60;
/// Packets expected within the time, from which on it is worth waiting.
const WORTHWHILE: u128 = 3;

/// Decides by rate and load of the last [`WINDOW`].
#[derive(Debug)]
pub struct Pace {
    /// `media.batch_us`.
    batch: Duration,
    since: Instant,
    packets: u32,
    /// Processor time of the thread at `since`.
    used: Duration,
    /// From the beginning of a turn to that of the next.
    interval: Duration,
    /// When the present turn began.
    turn: Instant,
}

impl Pace {
    pub fn new(batch: Duration) -> Self {
        Pace {
            batch,
            since: Instant::ZERO,
            packets: 0,
            used: Duration::ZERO,
            interval: Duration::ZERO,
            turn: Instant::ZERO,
        }
    }

    /// A turn begins with `packets`. Returns whether [`Pace::measure`] is due.
    pub fn begin(&mut self, now: Instant, packets: usize) -> bool {
        self.turn = now;
        let packets = u32::try_from(packets).unwrap_or(u32::MAX);
        self.packets = self.packets.saturating_add(packets);
        !self.batch.is_zero() && now.saturating_since(self.since) >= WINDOW
    }

    /// Decides for the next window; `used` is the processor time that the thread has used since it began.
    pub fn measure(&mut self, now: Instant, used: Duration) {
        let elapsed = now.saturating_since(self.since).as_nanos().max(1);
        let busy = used.saturating_sub(self.used).as_nanos() * 100 / elapsed;
        let part = busy.clamp(CALM, BUSY) - CALM;
        let interval = self.batch.as_nanos() * part / (BUSY - CALM);
        let expected = u128::from(self.packets) * interval / elapsed;
        self.interval = if expected >= WORTHWHILE {
            Duration::from_nanos(u64::try_from(interval).unwrap_or(u64::MAX))
        } else {
            Duration::ZERO
        };
        self.since = now;
        self.packets = 0;
        self.used = used;
    }

    /// Whether packets may have to gather before the next turn.
    pub fn is_gathering(&self) -> bool {
        !self.interval.is_zero()
    }

    /// For how long they should from `now` on.
    pub fn gather(&self, now: Instant) -> Duration {
        self.interval
            .saturating_sub(now.saturating_since(self.turn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: Duration = Duration::from_micros(400);

    /// A pace after one window with `packets`, of which the thread ran `percent`.
    fn after(batch: Duration, packets: usize, percent: u32) -> (Pace, Instant) {
        let mut pace = Pace::new(batch);
        let start = Instant::from_millis(1000);
        pace.begin(start, 0);
        pace.measure(start, Duration::ZERO);
        assert!(!pace.is_gathering());
        let now = start + WINDOW;
        assert_eq!(pace.begin(now, packets), !batch.is_zero());
        pace.measure(now, WINDOW * percent / 100);
        (pace, now)
    }

    #[test]
    fn packets_are_kept_the_longer_the_busier_the_thread_is() {
        for (percent, part) in [
            (0, 0),
            (20, 0),
            (30, 1),
            (40, 2),
            (50, 3),
            (60, 4),
            (100, 4),
        ] {
            let (pace, now) = after(BATCH, 1000, percent);
            assert_eq!(pace.gather(now), BATCH * part / 4, "{percent} %");
            assert_eq!(pace.is_gathering(), part > 0);
        }
    }

    #[test]
    fn nothing_waits_where_few_packets_would_come() {
        // A tenth of the window is `BATCH`.
        let (pace, now) = after(BATCH, 29, 100);
        assert_eq!(pace.gather(now), Duration::ZERO);
        let (pace, now) = after(BATCH, 30, 100);
        assert_eq!(pace.gather(now), BATCH);
    }

    #[test]
    fn what_a_turn_takes_counts() {
        let (pace, now) = after(BATCH, 1000, 100);
        assert_eq!(pace.gather(now + BATCH / 4), BATCH * 3 / 4);
        assert_eq!(pace.gather(now + BATCH * 2), Duration::ZERO);
    }

    #[test]
    fn it_looks_again_only_after_a_window() {
        let (mut pace, now) = after(BATCH, 1000, 100);
        assert!(!pace.begin(now + WINDOW / 2, 1));
        assert!(pace.is_gathering());
        assert!(pace.begin(now + WINDOW, 1));
        pace.measure(now + WINDOW, WINDOW * 2);
        assert!(!pace.is_gathering());
    }

    #[test]
    fn without_a_time_to_gather_no_load_makes_it_wait() {
        let (pace, _) = after(Duration::ZERO, 1_000_000, 100);
        assert!(!pace.is_gathering());
    }
}
