//! The process's one clock: edge-proto's [`Instant`] counts from the process start, and one reading of the wall clock at
//! that moment maps it to UTC.

use edge_proto::time::Instant;
use std::time::SystemTime;

/// Copied into every thread, so that instants of different threads compare.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: std::time::Instant,
    wall_at_start: SystemTime,
}

impl Clock {
    /// Starts the clock. Called once, when the process starts.
    pub fn start() -> Self {
        Clock {
            start: std::time::Instant::now(),
            wall_at_start: SystemTime::now(),
        }
    }

    /// Monotonic time since the start.
    pub fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The wall-clock time of `at`. A step of the system clock after the start does not show: durations stay true.
    pub fn wall(&self, at: Instant) -> SystemTime {
        self.wall_at_start + at.saturating_since(Instant::ZERO)
    }

    /// `at` for timers of the standard library and tokio.
    pub fn monotonic(&self, at: Instant) -> std::time::Instant {
        self.start + at.saturating_since(Instant::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn instants_map_to_both_clocks_by_the_same_distance() {
        let clock = Clock::start();
        let at = Instant::from_millis(1_500);
        assert_eq!(
            clock.monotonic(at) - clock.monotonic(Instant::ZERO),
            Duration::from_millis(1_500)
        );
        assert_eq!(
            clock.wall(at),
            clock.wall(Instant::ZERO) + Duration::from_millis(1_500)
        );
        assert!(clock.now() <= clock.now());
    }
}
