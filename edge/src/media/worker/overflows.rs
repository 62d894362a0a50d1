//! Packets that never reached the thread: those for which a socket's queue in the kernel had no room.
//!
//! The kernel counts them per socket. The thread asks when a socket is closed, and meanwhile a few sockets at a time, so that an
//! operator sees a loss while it happens.

use super::Worker;
use super::flows::Flow;
use crate::media::counters::MediaCounters;
use edge_proto::relay::DropReason;
use edge_proto::time::{Duration, Instant};

/// How often some sockets are asked, while packets come; an idle thread is not woken for it.
const INTERVAL: Duration = Duration::from_millis(100);
/// Allocations asked at a time: two system calls of a fraction of a microsecond each.
const ALLOCATIONS: usize = 64;

/// Where the search goes on, and when.
#[derive(Debug, Default)]
pub(super) struct OverflowSearch {
    slot: usize,
    next: Instant,
}

impl Worker {
    /// Asks the next few sockets, if it is time.
    pub(super) fn look_for_overflows(&mut self, now: Instant) {
        if now < self.overflow_search.next {
            return;
        }
        self.overflow_search.next = now + INTERVAL;
        if let Some(hub) = &mut self.hub {
            hub.count_lost(&self.counters);
        }
        let first = self.overflow_search.slot;
        for flow in self
            .flows
            .iter_mut()
            .skip(first)
            .take(ALLOCATIONS)
            .flatten()
        {
            flow.count_overflows(&self.counters);
        }
        let after = first + ALLOCATIONS;
        self.overflow_search.slot = if after < self.flows.len() { after } else { 0 };
    }
}

impl Flow {
    /// Counts what its sockets had no room for since they were last asked.
    pub(super) fn count_overflows(&mut self, counters: &MediaCounters) {
        for endpoint in self.endpoints.iter_mut().flatten() {
            counters.drop_packets(DropReason::QueueFull, endpoint.take_overflows());
        }
    }
}
