//! How long a control thread lets inputs gather before its next turn.
//!
//! A turn has its price, whatever it finds to do: a wake-up, a look at every ring and queue, a write for each peer, one for the early
//! journal, a wake-up of the media thread. So while inputs come fast, turns begin no more often than every `sip.batch_us`, and what
//! comes meanwhile is handled together. The time that a turn itself takes counts: under overload, when inputs gather anyway,
//! nothing waits. Nor does anything where inputs come too slowly for two to meet within the time.

use edge_proto::time::{Duration, Instant};

/// How often the rate of inputs is looked at.
const WINDOW: Duration = Duration::from_millis(10);
/// Inputs expected within the time, from which on it is worth waiting.
const WORTHWHILE: u128 = 2;

/// Decides by the rate of the last [`WINDOW`].
#[derive(Debug)]
pub(super) struct Pace {
    /// `sip.batch_us`.
    batch: Duration,
    /// When the present window began, and the inputs since.
    since: Instant,
    inputs: u32,
    gathering: bool,
    /// When the present turn began; `None`: nothing has come since the last rest.
    turn: Option<Instant>,
}

impl Pace {
    pub fn new(batch: Duration) -> Self {
        Pace {
            batch,
            since: Instant::ZERO,
            inputs: 0,
            gathering: false,
            turn: None,
        }
    }

    /// Inputs are handled at `now`.
    pub fn note(&mut self, now: Instant, inputs: usize) {
        self.turn.get_or_insert(now);
        let inputs = u32::try_from(inputs).unwrap_or(u32::MAX);
        self.inputs = self.inputs.saturating_add(inputs);
        let elapsed = now.saturating_since(self.since);
        if elapsed >= WINDOW {
            let expected = u128::from(self.inputs) * self.batch.as_nanos() / elapsed.as_nanos();
            self.gathering = expected >= WORTHWHILE;
            self.since = now;
            self.inputs = 0;
        }
    }

    /// Whether to rest when the turn is over.
    pub fn is_gathering(&self) -> bool {
        self.gathering
    }

    /// The turn is over at `now`: how long to rest before the next.
    pub fn rest(&mut self, now: Instant) -> Duration {
        match self.turn.take() {
            Some(turn) if self.gathering => self.batch.saturating_sub(now.saturating_since(turn)),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: Duration = Duration::from_millis(1);

    fn at(us: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(us)
    }

    /// One that was handed so many inputs a second, one each turn, for a tenth of a second.
    fn after(batch: Duration, per_s: u64) -> (Pace, u64) {
        let mut pace = Pace::new(batch);
        let mut now = 0;
        while now < 100_000 {
            now += 1_000_000 / per_s;
            pace.rest(at(now));
            pace.note(at(now), 1);
        }
        (pace, now)
    }

    #[test]
    fn inputs_that_come_fast_wait_for_each_other() {
        let (mut pace, now) = after(BATCH, 3_000);
        assert!(pace.is_gathering());
        // Measured from the beginning of the turn, and once for each.
        assert_eq!(pace.rest(at(now + 300)), Duration::from_micros(700));
        assert_eq!(pace.rest(at(now + 300)), Duration::ZERO);
    }

    #[test]
    fn nothing_waits_for_one_that_will_hardly_come() {
        let (mut pace, now) = after(BATCH, 1_000);
        assert!(!pace.is_gathering());
        assert_eq!(pace.rest(at(now)), Duration::ZERO);
    }

    #[test]
    fn a_turn_that_took_longer_is_followed_by_the_next() {
        let (mut pace, now) = after(BATCH, 3_000);
        assert_eq!(pace.rest(at(now + 1_500)), Duration::ZERO);
    }

    #[test]
    fn what_comes_after_a_silence_waits_for_nothing_more() {
        let (mut pace, now) = after(BATCH, 3_000);
        pace.note(at(now + 1_000_000), 1);
        assert!(!pace.is_gathering());
    }

    #[test]
    fn zero_is_never() {
        let (pace, _) = after(Duration::ZERO, 100_000);
        assert!(!pace.is_gathering());
    }
}
