//! How long the media thread lets packets gather before it wakes for them.
//!
//! A wake-up costs as much as relaying a packet or two. Where packets come so fast that several arrive within the time that
//! they may be kept (`media.batch_us`), turns begin no more often than that: what comes meanwhile is relayed together. The time
//! that a turn itself takes counts, so under load, when packets gather anyway, nothing waits. Where packets come slowly each is
//! relayed at once, since waiting would save nothing.

use edge_proto::time::{Duration, Instant};

/// How often the rate is looked at.
const WINDOW: Duration = Duration::from_millis(1);
/// Packets expected within the time, from which on it is worth waiting.
const WORTHWHILE: u128 = 3;

/// Decides by the rate of the last [`WINDOW`].
#[derive(Debug)]
pub struct Pace {
    /// `media.batch_us`.
    batch: Duration,
    since: Instant,
    packets: u32,
    gathering: bool,
    /// When the present turn began.
    turn: Instant,
}

impl Pace {
    pub fn new(batch: Duration) -> Self {
        Pace {
            batch,
            since: Instant::ZERO,
            packets: 0,
            gathering: false,
            turn: Instant::ZERO,
        }
    }

    /// A turn begins with `packets`.
    pub fn begin(&mut self, now: Instant, packets: usize) {
        self.turn = now;
        let packets = u32::try_from(packets).unwrap_or(u32::MAX);
        self.packets = self.packets.saturating_add(packets);
        let elapsed = now.saturating_since(self.since);
        if elapsed >= WINDOW {
            let expected = u128::from(self.packets) * self.batch.as_nanos() / elapsed.as_nanos();
            self.gathering = expected >= WORTHWHILE;
            self.since = now;
            self.packets = 0;
        }
    }

    /// Whether packets may have to gather before the next turn.
    pub fn is_gathering(&self) -> bool {
        self.gathering
    }

    /// For how long they should from `now` on.
    pub fn gather(&self, now: Instant) -> Duration {
        if self.gathering {
            self.batch.saturating_sub(now.saturating_since(self.turn))
        } else {
            Duration::ZERO
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: Duration = Duration::from_micros(50);

    #[test]
    fn packets_gather_only_while_they_come_fast() {
        let mut pace = Pace::new(BATCH);
        let mut now = Instant::from_millis(1000);
        pace.begin(now, 1);
        assert_eq!(pace.gather(now), Duration::ZERO);
        // 60 packets per millisecond, for which a batch of 50 us holds 3; the verdict comes after a window.
        for _ in 0..2 {
            now = now + WINDOW / 2;
            pace.begin(now, 30);
        }
        assert_eq!(pace.gather(now), BATCH);
        now = now + WINDOW;
        pace.begin(now, 59);
        assert_eq!(pace.gather(now), Duration::ZERO);
    }

    #[test]
    fn what_a_turn_takes_counts() {
        let mut pace = Pace::new(BATCH);
        let now = Instant::from_millis(1000);
        pace.begin(now, 1000);
        assert!(!pace.is_gathering());
        let now = now + WINDOW;
        pace.begin(now, 1000);
        assert!(pace.is_gathering());
        assert_eq!(
            pace.gather(now + Duration::from_micros(20)),
            Duration::from_micros(30)
        );
        assert_eq!(pace.gather(now + BATCH * 2), Duration::ZERO);
    }

    #[test]
    fn without_a_time_to_gather_no_rate_makes_it_wait() {
        let mut pace = Pace::new(Duration::ZERO);
        pace.begin(Instant::from_millis(1), 1_000_000);
        pace.begin(Instant::from_millis(2), 1_000_000);
        assert!(!pace.is_gathering());
    }
}
