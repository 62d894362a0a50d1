//! How long packets stay in the relay: from the kernel's receive timestamp to the end of the send, on a sample of them.
//!
//! The RTP sockets of every [`SAMPLED_LEGS`]th slot take timestamps, and of their packets those of at most one turn per
//! [`INTERVAL`] are measured, since the measurement costs a system call of its own. An HDR histogram of the thread collects them;
//! once per [`PUBLISH`] it is added to counters that the metrics read. Nothing of it allocates after the start, or locks.

use super::counters::Counter;
use edge_proto::time::{Duration, Instant};
use hdrhistogram::{CreationError, Histogram};
use std::time::{SystemTime, UNIX_EPOCH};

/// One slot in this many is sampled; slots are taken from the lowest, so even a single call is likely to be.
pub const SAMPLED_LEGS: u32 = 16;
const INTERVAL: Duration = Duration::from_millis(1);
const PUBLISH: Duration = Duration::from_secs(1);
/// Packets measured in one turn at most.
const MOST: usize = 64;

/// Upper bounds of the published buckets in nanoseconds; a last bucket has none.
pub const BOUNDS_NS: [u64; 16] = [
    10_000,
    20_000,
    35_000,
    50_000,
    75_000,
    100_000,
    150_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
];

/// The longest time that the histogram tells apart: a minute, in nanoseconds.
const LONGEST_NS: u64 = 60_000_000_000;

/// What is published: samples per bucket (not cumulative), and the sum of all in nanoseconds. Written by the media thread alone.
#[derive(Debug, Default)]
pub struct LatencyCounters {
    buckets: [Counter; BOUNDS_NS.len() + 1],
    sum_ns: Counter,
}

impl LatencyCounters {
    /// Samples at or below each of [`BOUNDS_NS`], then all samples; and the sum of all in nanoseconds.
    pub fn cumulative(&self) -> ([u64; BOUNDS_NS.len() + 1], u64) {
        let mut total = 0;
        let cumulative = self.buckets.each_ref().map(|bucket| {
            total += bucket.get();
            total
        });
        (cumulative, self.sum_ns.get())
    }
}

/// Collects samples on the media thread.
#[derive(Debug)]
pub struct LatencySampler {
    histogram: Histogram<u64>,
    sum_ns: u64,
    /// Receive timestamps (nanoseconds of the wall clock) of packets that were decided in this turn and have not been sent yet.
    pending: Vec<u64>,
    next: Instant,
    publish_at: Option<Instant>,
}

impl LatencySampler {
    pub fn new() -> Result<Self, CreationError> {
        Ok(LatencySampler {
            // Two significant digits: finer than any bucket that is published.
            histogram: Histogram::new_with_bounds(1, LONGEST_NS, 2)?,
            sum_ns: 0,
            pending: Vec::with_capacity(MOST),
            next: Instant::ZERO,
            publish_at: None,
        })
    }

    /// Takes a packet that is about to be sent and was received at `stamp`, if it is time for a sample.
    pub fn note(&mut self, now: Instant, stamp: u64) {
        if now >= self.next && self.pending.len() < MOST {
            self.pending.push(stamp);
        }
    }

    /// Whether [`LatencySampler::sent`] has to be called once this turn's packets are sent.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The packets noted have been sent just now.
    pub fn sent(&mut self, now: Instant) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall = wall.map_or(0, |wall| u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX));
        for stamp in self.pending.drain(..) {
            // A clock that was set back meanwhile gives zero, one that was set ahead at most the longest.
            let latency = wall.saturating_sub(stamp).min(LONGEST_NS);
            self.histogram.saturating_record(latency);
            self.sum_ns += latency;
        }
        self.next = now + INTERVAL;
        self.publish_at.get_or_insert(now + PUBLISH);
    }

    /// When [`LatencySampler::publish`] has something to do.
    pub fn publish_at(&self) -> Option<Instant> {
        self.publish_at
    }

    /// Publishes what was collected, if it is due.
    pub fn publish(&mut self, now: Instant, counters: &LatencyCounters) {
        if self.publish_at.is_none_or(|at| now < at) {
            return;
        }
        // First, so that whoever sees the samples sees their sum.
        counters.sum_ns.add(self.sum_ns);
        for step in self.histogram.iter_recorded() {
            let value = step.value_iterated_to();
            let bucket = BOUNDS_NS.partition_point(|&bound| bound < value);
            if let Some(counter) = counters.buckets.get(bucket) {
                counter.add(step.count_at_value());
            }
        }
        self.histogram.reset();
        self.sum_ns = 0;
        self.publish_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall() -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_nanos() as u64
    }

    #[test]
    fn samples_are_published_once_a_second_and_only_once() {
        let mut sampler = LatencySampler::new().unwrap();
        let counters = LatencyCounters::default();
        let now = Instant::from_millis(10);
        assert!(!sampler.is_pending());
        // An hour ago, and in the future: the last bucket and the first.
        sampler.note(now, wall() - 3_600_000_000_000);
        sampler.note(now, u64::MAX);
        assert!(sampler.is_pending());
        sampler.sent(now);
        assert!(!sampler.is_pending());
        assert_eq!(sampler.publish_at(), Some(now + PUBLISH));
        sampler.publish(now, &counters);
        assert_eq!(counters.cumulative().0.last(), Some(&0));
        for _ in 0..2 {
            sampler.publish(now + PUBLISH, &counters);
            let (buckets, sum) = counters.cumulative();
            assert_eq!(buckets.first(), Some(&1));
            assert_eq!(buckets.get(BOUNDS_NS.len() - 1), Some(&1));
            assert_eq!(buckets.last(), Some(&2));
            assert_eq!(sum, LONGEST_NS);
            assert_eq!(sampler.publish_at(), None);
        }
    }

    #[test]
    fn one_turn_per_interval_is_measured_and_of_it_a_limited_number() {
        let mut sampler = LatencySampler::new().unwrap();
        let now = Instant::from_millis(10);
        for _ in 0..2 * MOST {
            sampler.note(now, wall());
        }
        assert_eq!(sampler.pending.len(), MOST);
        assert_eq!(sampler.pending.capacity(), MOST);
        sampler.sent(now);
        sampler.note(now, wall());
        assert!(!sampler.is_pending());
        sampler.note(now + INTERVAL, wall());
        assert!(sampler.is_pending());
    }
}
