//! When to try again to attach what was taken off or could not be attached: soon, but never again and again. Somebody who takes
//! the program off on purpose, or holds the interface with a program of his own, meets one attempt a minute at most.

use std::time::{Duration, Instant};

/// Before the first attempt. Long enough that readiness and the log show the gap.
const FIRST: Duration = Duration::from_secs(1);
/// Before any attempt.
const MOST: Duration = Duration::from_secs(60);
/// An attachment that lasted so long was no part of a quarrel: the next loss starts from [`FIRST`] again.
const SETTLED: Duration = Duration::from_secs(300);

/// The waits of one interface, doubling from one second to a minute.
#[derive(Debug)]
pub(super) struct Backoff {
    /// Before the attempt after the next.
    wait: Duration,
    due: Option<Instant>,
    attached_at: Option<Instant>,
}

impl Backoff {
    pub fn new() -> Self {
        Backoff {
            wait: FIRST,
            due: None,
            attached_at: None,
        }
    }

    /// Whether it is time for an attempt.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| now >= due)
    }

    /// An attempt succeeded.
    pub fn attached(&mut self, now: Instant) {
        self.due = None;
        self.attached_at = Some(now);
    }

    /// An attempt failed.
    pub fn failed(&mut self, now: Instant) {
        self.due = now.checked_add(self.wait);
        self.wait = (2 * self.wait).min(MOST);
    }

    /// What was attached is not any more.
    pub fn lost(&mut self, now: Instant) {
        let lasted = |since| now.saturating_duration_since(since) >= SETTLED;
        if self.attached_at.take().is_some_and(lasted) {
            self.wait = FIRST;
        }
        self.failed(now);
    }

    /// Somebody asked for an attempt, which has failed.
    pub fn failed_on_demand(&mut self, now: Instant) {
        self.wait = FIRST;
        self.failed(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds until the next attempt, asked every second.
    fn seconds(backoff: &Backoff, now: Instant) -> u64 {
        let due = |s: &u64| backoff.is_due(now + Duration::from_secs(*s));
        (0..1_000).find(due).expect("an attempt is due")
    }

    #[test]
    fn the_waits_double_up_to_a_minute_and_go_on() {
        let mut now = Instant::now();
        let mut backoff = Backoff::new();
        backoff.attached(now);
        assert!(!backoff.is_due(now + Duration::from_secs(100_000)));
        backoff.lost(now);
        let waits: Vec<u64> = (0..9)
            .map(|_| {
                let wait = seconds(&backoff, now);
                now += Duration::from_secs(wait);
                backoff.failed(now);
                wait
            })
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn a_quarrel_slows_it_down_and_peace_forgives() {
        let mut now = Instant::now();
        let mut backoff = Backoff::new();
        let mut waits = Vec::new();
        // Somebody takes it off as soon as it is on.
        for _ in 0..4 {
            backoff.attached(now);
            backoff.lost(now);
            waits.push(seconds(&backoff, now));
            now += Duration::from_secs(60);
        }
        assert_eq!(waits, [1, 2, 4, 8]);
        backoff.attached(now);
        now += SETTLED;
        backoff.lost(now);
        assert_eq!(seconds(&backoff, now), 1);
    }

    #[test]
    fn a_reload_starts_anew() {
        let now = Instant::now();
        let mut backoff = Backoff::new();
        for _ in 0..10 {
            backoff.failed(now);
        }
        backoff.failed_on_demand(now);
        assert_eq!(seconds(&backoff, now), 1);
    }
}
