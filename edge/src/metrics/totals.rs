//! Counters that live elsewhere (a media thread's atomics, an XDP map) and are read at scrape time.

use super::{Metrics, lock};
use crate::control::CoreStatus;
use edge_proto::id::CoreId;
use prometheus::IntCounterVec;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The last reading of each foreign counter, by family and labels.
pub type Totals = HashMap<(&'static str, Vec<String>), u64>;

impl Metrics {
    /// `packets`: how many the lane (`io_uring`, `xdp`) of `core` has passed in `direction` (`inbound`, `outbound`) so far.
    pub fn rtp_packets_total(
        &self,
        core: CoreId,
        lane: &'static str,
        direction: &'static str,
        packets: u64,
    ) {
        let core = core.to_string();
        self.advance(
            "rtp_packets",
            &self.rtp_packets,
            &[&core, lane, direction],
            packets,
        );
    }

    /// `packets`: how many the media thread of `core` has sent past the kernel's IP so far.
    pub fn rtp_link_packets_total(&self, core: CoreId, packets: u64) {
        let core = core.to_string();
        // Zero is worth telling: it is what there is where nothing leaves so.
        self.rtp_link_packets.with_label_values(&[core.as_str()]);
        self.advance("rtp_link", &self.rtp_link_packets, &[&core], packets);
    }

    /// `packets`: how many the media thread of `core` has dropped for `reason` so far.
    pub fn rtp_dropped_total(&self, core: CoreId, reason: &'static str, packets: u64) {
        let core = core.to_string();
        self.advance("rtp_dropped", &self.rtp_dropped, &[&core, reason], packets);
    }

    /// `packets`: how many were dropped before a socket, for `listener` (a name, `media` or `any`), because of `reason`, so far.
    pub fn access_dropped_total(&self, listener: &str, reason: &'static str, packets: u64) {
        self.advance(
            "access_dropped",
            &self.access_dropped,
            &[listener, reason],
            packets,
        );
    }

    /// `losses`: how often the program was found taken off `interface` so far.
    pub fn xdp_detached_total(&self, interface: &str, losses: u64) {
        self.advance("xdp_detached", &self.xdp_detached, &[interface], losses);
    }

    /// Counts at each scrape what the control thread of `core` handed to other cores, and what it could not hand on: `handoff`
    /// to other cores, `event` to the reporter.
    pub fn watch_control(&self, core: CoreId, status: Arc<CoreStatus>) {
        self.begin_core(core);
        self.on_scrape(move |metrics| {
            let events = status.events_dropped.load(Ordering::Relaxed);
            metrics.ring_overflow_total(core, "event", events);
            let handoffs = status.handoffs_rejected.load(Ordering::Relaxed);
            metrics.ring_overflow_total(core, "handoff", handoffs);
            let handoffs = status.handoffs.load(Ordering::Relaxed);
            let label = core.to_string();
            metrics.advance("handoffs", &metrics.handoffs, &[&label], handoffs);
        });
    }

    /// `items`: how many found the ring of `core` full so far.
    pub fn ring_overflow_total(&self, core: CoreId, ring: &'static str, items: u64) {
        let core = core.to_string();
        self.advance("ring_overflow", &self.ring_overflow, &[&core, ring], items);
    }

    /// Counts what came on top since the last reading; a smaller total means that its owner started anew.
    fn advance(&self, family: &'static str, counters: &IntCounterVec, labels: &[&str], total: u64) {
        let key = (family, labels.iter().map(|l| (*l).to_owned()).collect());
        let last = lock(&self.totals).insert(key, total).unwrap_or(0);
        let more = total.checked_sub(last).unwrap_or(total);
        counters.with_label_values(labels).inc_by(more);
    }
}
