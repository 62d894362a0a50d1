//! Whether the control thread is behind: what peers send waits too long before it is looked at.
//!
//! The wait itself is nowhere to be read, since it is spent in sockets and in the scheduler. Two things bound it. A socket that was never
//! found empty for some time holds, at its head, what came at most so long ago, and it will not be emptied by itself as long as as
//! much comes as is taken. And a timer that fires late tells how long everything else that is ready waits, too: once may be a
//! moment in which the machine did something else, twice in a row is a state.
//!
//! While it is behind, new calls are refused, which costs a small part of carrying one. That brings the thread to where it has
//! emptied its sockets, and then it takes calls again.

use edge_proto::time::{Duration, Instant};

/// How long a wait that was too long is remembered after a socket was found full, or after a sweep: until the next is due.
const HOLD: Duration = Duration::from_millis(50);
const SWEEPS: u32 = 2;

/// Since when a socket has not been found empty.
#[derive(Debug, Default)]
pub(super) struct Standing(Option<Instant>);

impl Standing {
    /// Something was taken from the socket at `now`; `more`: it was not empty then. How long it has not been.
    pub fn taken(&mut self, now: Instant, more: bool) -> Duration {
        match more {
            true => now.saturating_since(*self.0.get_or_insert(now)),
            false => {
                self.0 = None;
                Duration::ZERO
            }
        }
    }
}

/// Decides.
#[derive(Debug)]
pub(super) struct Load {
    /// `sip.overload_ms`; zero: never behind.
    limit: Duration,
    /// Time between sweeps.
    sweep: Duration,
    /// The last sweep came too late.
    late: bool,
    /// Behind until then.
    until: Instant,
    told: bool,
}

impl Load {
    pub fn new(limit: Duration, sweep: Duration) -> Self {
        Load {
            limit,
            sweep,
            late: false,
            until: Instant::ZERO,
            told: false,
        }
    }

    /// A socket has not been found empty for so long, at `now`.
    pub fn stood(&mut self, now: Instant, time: Duration) {
        if self.is_too_long(time) {
            self.until = self.until.max(now + HOLD);
        }
    }

    /// A sweep began at `now`, so long after it was due.
    pub fn swept(&mut self, now: Instant, late: Duration) {
        let late = self.is_too_long(late);
        if late && self.late {
            self.until = self.until.max(now + self.sweep * SWEEPS + self.limit);
        }
        self.late = late;
    }

    fn is_too_long(&self, time: Duration) -> bool {
        !self.limit.is_zero() && time >= self.limit
    }

    /// Whether the thread is behind at `now`, if that is news.
    pub fn news(&mut self, now: Instant) -> Option<bool> {
        let behind = now < self.until;
        (std::mem::replace(&mut self.told, behind) != behind).then_some(behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(200);
    const SWEEP: Duration = Duration::from_millis(100);

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    /// Reads every 10 ms from `from` to `to`, each of which leaves something or not.
    fn reads(load: &mut Load, standing: &mut Standing, (from, to): (u64, u64), more: bool) {
        for ms in (from..to).step_by(10) {
            let now = at(ms);
            load.stood(now, standing.taken(now, more));
        }
    }

    #[test]
    fn a_socket_that_is_never_empty_is_too_much_and_one_that_was_is_not() {
        let (mut load, mut standing) = (Load::new(LIMIT, SWEEP), Standing::default());
        reads(&mut load, &mut standing, (0, 200), true);
        assert_eq!(load.news(at(200)), None);
        reads(&mut load, &mut standing, (200, 300), true);
        assert_eq!(load.news(at(300)), Some(true));
        assert_eq!(load.news(at(300)), None);
        reads(&mut load, &mut standing, (300, 310), false);
        assert_eq!(load.news(at(350)), Some(false));
        // From the beginning.
        reads(&mut load, &mut standing, (350, 550), true);
        assert_eq!(load.news(at(550)), None);
    }

    #[test]
    fn one_late_sweep_is_a_moment_and_two_are_a_state() {
        let mut load = Load::new(LIMIT, SWEEP);
        load.swept(at(400), LIMIT);
        load.swept(at(500), Duration::ZERO);
        load.swept(at(900), LIMIT);
        assert_eq!(load.news(at(900)), None);
        load.swept(at(1_300), LIMIT);
        assert_eq!(load.news(at(1_300)), Some(true));
        load.swept(at(1_400), Duration::ZERO);
        assert_eq!(load.news(at(1_699)), None);
        assert_eq!(load.news(at(1_700)), Some(false));
    }

    #[test]
    fn zero_is_never() {
        let (mut load, mut standing) = (Load::new(Duration::ZERO, SWEEP), Standing::default());
        reads(&mut load, &mut standing, (0, 10_000), true);
        load.swept(at(10_000), Duration::from_secs(5));
        load.swept(at(20_000), Duration::from_secs(5));
        assert_eq!(load.news(at(20_000)), None);
    }
}
