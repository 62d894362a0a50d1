//! From the process's monotonic time to UTC.

use crate::clock::Clock;
use edge_proto::time::Instant;
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use std::fmt;

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

    /// The one that the process began with. Whoever tells times begins with this: two readings of the system's clocks differ by
    /// microseconds, and what happened at once would seem to have happened one after the other.
    pub fn of_process(clock: &Clock) -> Self {
        let utc = Timestamp::try_from(clock.wall(Instant::ZERO)).unwrap_or_default();
        WallClock::new(Instant::ZERO, utc)
    }

    /// The UTC time of [`Instant::ZERO`], in nanoseconds since 1970: all there is to it.
    pub fn origin(&self) -> i64 {
        let nanos = self.utc.as_nanosecond() - i128::from(self.instant.as_nanos());
        // Until the year 2262.
        i64::try_from(nanos).unwrap_or_default()
    }

    /// The one of that [`origin`](WallClock::origin).
    pub fn of_origin(nanos: i64) -> Self {
        let utc = Timestamp::from_nanosecond(nanos.into()).unwrap_or_default();
        WallClock::new(Instant::ZERO, utc)
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

/// A time as records and log lines tell it, RFC 3339, UTC, microseconds: `2026-03-01T12:00:00.123456Z`. Takes no memory of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Stamp([u8; 27]);

impl Stamp {
    /// Years before 0 are told as year 0, those that jiff does not know do not come up.
    pub fn new(time: Timestamp) -> Stamp {
        // Before 1970 jiff's nanoseconds are negative.
        let (second, nanos) = (time.as_second(), time.subsec_nanosecond());
        let seconds = second - i64::from(nanos < 0);
        let fraction = i64::from(nanos.rem_euclid(1_000_000_000) / 1_000);
        let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil(day);
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let fields = [
            (0, 4, year.clamp(0, 9_999)),
            (5, 2, month),
            (8, 2, day),
            (11, 2, second / 3_600),
            (14, 2, second / 60 % 60),
            (17, 2, second % 60),
            (20, 6, fraction),
        ];
        for (at, digits, value) in fields {
            let mut rest = value;
            for digit in text.iter_mut().skip(at).take(digits).rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
        Stamp(text)
    }

    pub fn as_str(&self) -> &str {
        // Digits and what the template has between them.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Year, month and day of a day counted from 1970-01-01 (proleptic Gregorian calendar). The year begins in March, so that the
/// leap day is its last, and 400 of them are 146,097 days.
fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months from March on are 31, 30, 31, 30, 31 days, and again.
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (400 * era + year_of_era + i64::from(month <= 2), month, day)
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The text of a [`Stamp`].
pub fn rfc3339(time: Timestamp) -> String {
    Stamp::new(time).as_str().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> WallClock {
        let utc = "2026-03-01T12:00:00Z".parse().expect("a valid time");
        WallClock::new(Instant::from_millis(10_000), utc)
    }

    #[test]
    fn everybody_begins_with_the_same() {
        let clock = Clock::start();
        let first = WallClock::of_process(&clock);
        assert_eq!(first, WallClock::of_process(&clock));
        let now = Timestamp::now();
        let told = first.at(clock.now());
        assert!(told.duration_since(now).abs() < jiff::SignedDuration::from_secs(60));
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
    fn a_stamp_is_what_jiff_tells() {
        let told = |seconds: i64, nanos: i32| {
            let time = Timestamp::new(seconds, nanos).expect("a time");
            assert_eq!(Stamp::new(time).as_str(), format!("{time:.6}"), "{seconds}");
        };
        // Each day of 1600 to 2400 or so, at a time that changes.
        for day in -135_000..157_000_i64 {
            told(day * 86_400 + day.rem_euclid(86_400), 999_999_999);
        }
        for (seconds, nanos) in [
            (0, 0),
            (-1, -1),
            (0, -1),
            (951_782_400, 1_500),
            (253_402_207_000, 0),
        ] {
            told(seconds, nanos);
        }
        assert!(
            serde_json::to_string(&Stamp::new(Timestamp::MIN)).is_ok_and(|text| text.len() == 29)
        );
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
