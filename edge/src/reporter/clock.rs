//! From the process's monotonic time to UTC.

use edge_proto::time::Instant;
use jiff::Timestamp;

/// One moment, read on both clocks.
///
/// A call keeps the pair that was in force when it started, so that its times stay in order and its durations true even
/// when the wall clock is stepped during the call; new calls get a fresh pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WallClock {
    instant: Instant,
    utc: Timestamp,
}

/// A wall clock that runs ahead or behind by more than this was stepped: slewing (NTP) moves both clocks.
const STEP_NANOS: i128 = 100_000_000;

impl WallClock {
    /// `instant` and `utc` are the same moment.
    pub fn new(instant: Instant, utc: Timestamp) -> Self {
        WallClock { instant, utc }
    }

    /// The UTC time of `instant`, which may lie before the pair.
    pub fn at(&self, instant: Instant) -> Timestamp {
        let nanos = self.utc.as_nanosecond() + i128::from(instant.as_nanos())
            - i128::from(self.instant.as_nanos());
        // Out of jiff's range (year 9999) only for an Instant that no clock gives.
        Timestamp::from_nanosecond(nanos).unwrap_or(if nanos > 0 {
            Timestamp::MAX
        } else {
            Timestamp::MIN
        })
    }

    /// The instant of a UTC time; zero for times before the epoch.
    pub fn instant_of(&self, utc: Timestamp) -> Instant {
        let nanos =
            utc.as_nanosecond() - self.utc.as_nanosecond() + i128::from(self.instant.as_nanos());
        Instant::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
    }

    /// Compares with a fresh reading of both clocks and takes it over if the wall clock was stepped. Returns the step in
    /// nanoseconds.
    pub fn resync(&mut self, instant: Instant, utc: Timestamp) -> Option<i128> {
        let step = utc.as_nanosecond() - self.at(instant).as_nanosecond();
        (step.abs() > STEP_NANOS).then(|| {
            *self = WallClock::new(instant, utc);
            step
        })
    }
}

/// RFC 3339, UTC, microseconds: `2026-03-01T12:00:00.123456Z`.
pub fn rfc3339(time: Timestamp) -> String {
    format!("{time:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> WallClock {
        let utc = "2026-03-01T12:00:00Z".parse().expect("a valid time");
        WallClock::new(Instant::from_millis(10_000), utc)
    }

    #[test]
    fn times_are_utc_with_microseconds() {
        let at = |ms| rfc3339(clock().at(Instant::from_millis(ms)));
        assert_eq!(at(10_000), "2026-03-01T12:00:00.000000Z");
        assert_eq!(at(9_999), "2026-03-01T11:59:59.999000Z");
        let late = Instant::from_nanos(10_000_123_456);
        assert_eq!(rfc3339(clock().at(late)), "2026-03-01T12:00:00.000123Z");
        assert_eq!(clock().instant_of(clock().at(late)), late);
    }

    #[test]
    fn an_absurd_instant_is_no_panic() {
        let far = clock().at(Instant::from_nanos(u64::MAX));
        assert!(far > clock().at(Instant::ZERO));
    }

    #[test]
    fn only_a_stepped_wall_clock_is_taken_over() {
        let mut clock = clock();
        let now = Instant::from_millis(70_000);
        let slewed = "2026-03-01T12:01:00.09Z".parse().expect("a valid time");
        assert_eq!(clock.resync(now, slewed), None);
        let stepped: Timestamp = "2026-03-01T12:01:02Z".parse().expect("a valid time");
        assert_eq!(clock.resync(now, stepped), Some(2_000_000_000));
        assert_eq!(clock.at(now), stepped);
    }
}
