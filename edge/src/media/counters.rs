//! What a media thread counts. Written by the thread alone, read by whoever reports.

use super::latency::LatencyCounters;
use edge_proto::relay::DropReason;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writer: a plain addition, not a locked one.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Only the owning thread may call this.
    pub(super) fn add(&self, count: u64) {
        let value = self.0.load(Ordering::Relaxed);
        self.0.store(value.wrapping_add(count), Ordering::Relaxed);
    }

    /// For gauges. Only the owning thread may call this.
    pub(super) fn subtract(&self, count: u64) {
        let value = self.0.load(Ordering::Relaxed);
        self.0.store(value.saturating_sub(count), Ordering::Relaxed);
    }

    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Packets of one lane, RTP and RTCP.
#[derive(Debug, Default)]
pub struct LaneCounters {
    pub received: Counter,
    /// Handed to the kernel; those that it then refused are in [`MediaCounters::send_errors`] too.
    pub sent: Counter,
}

/// One media thread's counters, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct MediaCounters {
    /// Turns of the loop: an idle thread makes one whenever its waker is called, so one that makes none is stuck.
    pub turns: Counter,
    pub io_uring: LaneCounters,
    /// Of those sent, the ones that left past the kernel's IP.
    pub sent_by_link: Counter,
    /// Receive timestamp to send, on a sample of the packets.
    pub relay_latency: LatencyCounters,
    dropped: [Counter; DropReason::ALL.len()],
    /// Completions that the kernel had to keep aside because the completion queue was full.
    pub completion_overflows: Counter,
    /// Receives that stopped because every buffer was in use; they are armed again at once.
    pub buffers_exhausted: Counter,
    /// Receives of shared sockets that had taken as much as one turn relays; what waits in their queue comes with the next. No fault.
    pub shared_refills: Counter,
    /// Events that waited because the control thread's queue was full. None is lost.
    pub events_delayed: Counter,
    /// Sends that the kernel refused. The packet is counted under [`DropReason::SendFailed`] as well.
    pub send_errors: Counter,
    /// Sockets that could not be armed, connected or disconnected as they should; tried again.
    pub socket_errors: Counter,
    /// Sockets that only their learned peer can reach (a gauge).
    pub connected_sockets: Counter,
    /// Flows that share sockets, since their peer is known (a gauge).
    pub steered_flows: Counter,
    /// Allocations that are not closed (a gauge).
    pub allocations: Counter,
    /// Allocations that the thread has room for; set once.
    pub capacity: Counter,
}

impl MediaCounters {
    /// Packets dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped.get(reason.index()).map_or(0, Counter::get)
    }

    pub(super) fn drop_packet(&self, reason: DropReason) {
        self.drop_packets(reason, 1);
    }

    pub(super) fn drop_packets(&self, reason: DropReason, packets: u64) {
        if let Some(counter) = self.dropped.get(reason.index()) {
            counter.add(packets);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_is_counted_under_its_reason_alone() {
        let counters = MediaCounters::default();
        for (count, &reason) in DropReason::ALL.iter().enumerate() {
            for _ in 0..count {
                counters.drop_packet(reason);
            }
        }
        for (count, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(counters.dropped(reason), count as u64);
        }
        assert_eq!(counters.io_uring.sent.get(), 0);
    }
}
