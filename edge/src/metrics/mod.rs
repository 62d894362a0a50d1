//! What Prometheus scrapes. Names and labels are the contract with dashboards; every label set is bounded.

mod labels;
mod latency;
mod observe;
mod totals;
mod zeros;

use crate::cdr::CdrCounters;
use crate::media::MediaCounters;
use edge_proto::config::Config;
use edge_proto::id::CoreId;
use labels::Labels;
use latency::RelayLatency;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};
use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};
use totals::Totals;

pub use labels::{KNOWN_METHODS, fold_code, fold_method};
pub use observe::Observer;

/// Media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Response times: a trunk next door answers OPTIONS in under a millisecond, a human answers INVITE within a minute or so.
/// The powers around T1 and timers B/F (0.5, 4, 32 s) are where retransmissions and timeouts show.
const RESPONSE_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0,
    180.0,
];

/// From 202 to bridged: a machine answers at once, a human after some rings, a fallback after the first has given up.
const TRANSFER_BUCKETS: &[f64] = &[
    0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0,
];

type ScrapeSource = Box<dyn Fn(&Metrics) + Send + Sync>;

/// All metrics of the process. Shared; every method takes `&self`.
pub struct Metrics {
    registry: Registry,
    names: Vec<String>,
    labels: Labels,
    totals: Mutex<Totals>,
    sources: Mutex<Vec<ScrapeSource>>,
    calls_active: IntGaugeVec,
    calls: IntCounterVec,
    transfers: IntCounterVec,
    sip_requests: IntCounterVec,
    sip_responses: IntCounterVec,
    sip_response_seconds: HistogramVec,
    transfer_seconds: HistogramVec,
    digest: IntCounterVec,
    rtp_packets: IntCounterVec,
    rtp_dropped: IntCounterVec,
    rtp_link_packets: IntCounterVec,
    rtp_steered: IntGaugeVec,
    relay_latency: RelayLatency,
    access_dropped: IntCounterVec,
    xdp_attached: IntGaugeVec,
    xdp_detached: IntCounterVec,
    ring_overflow: IntCounterVec,
    handoffs: IntCounterVec,
    malformed: IntCounter,
    reloads: IntCounterVec,
    ready: IntGauge,
    draining: IntGauge,
    cdr: CdrCounters,
}

impl Metrics {
    /// Every family registered, with a series at zero for each trunk of `config`.
    ///
    /// # Errors
    /// Only when a name or label is not valid for Prometheus or registered twice, which is a defect that any test finds.
    pub fn new(config: &Config) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let family = Families {
            registry: &registry,
            names: RefCell::default(),
        };
        let build = family.gauges(
            "build_info",
            "Constant 1; the version is a label.",
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let start: Gauge = family.register(Gauge::new(
            "process_start_time_seconds",
            "Start time of the process, in seconds since the Unix epoch.",
        )?)?;
        start.set(jiff::Timestamp::now().as_millisecond() as f64 / 1_000.0);
        let cdr_records = family.counters(
            "cdr_records_total",
            "Call detail records, by what became of them: written, lost.",
            &["outcome"],
        )?;
        let metrics = Metrics {
            labels: Labels::default(),
            totals: Mutex::default(),
            sources: Mutex::default(),
            calls_active: family.gauges("calls_active", "Call legs alive now.", &["trunk"])?,
            calls: family.counters(
                "calls_total",
                "Call legs that ended, by cause.",
                &["trunk", "direction", "cause"],
            )?,
            transfers: family.counters(
                "transfers_total",
                "REFERs refused (result denied) and transfers that ended; the trunk is the transferor's.",
                &["trunk", "result", "cause"],
            )?,
            sip_requests: family.counters(
                "sip_requests_total",
                "SIP requests, retransmissions not counted.",
                &["trunk", "method", "direction"],
            )?,
            sip_responses: family.counters(
                "sip_responses_total",
                "SIP responses, retransmissions not counted.",
                &["trunk", "method", "code", "direction"],
            )?,
            sip_response_seconds: family.histograms(
                "sip_response_seconds",
                "From a SIP request to its final response.",
                RESPONSE_BUCKETS,
                &["trunk", "method"],
            )?,
            transfer_seconds: family.histograms(
                "transfer_seconds",
                "From the 202 to a REFER to caller and target being bridged.",
                TRANSFER_BUCKETS,
                &["trunk"],
            )?,
            digest: family.counters(
                "digest_challenges_total",
                "Digest challenges and verdicts on credentials, by outcome.",
                &["trunk", "outcome"],
            )?,
            rtp_packets: family.counters(
                "rtp_packets_total",
                "RTP and RTCP packets, by lane; inbound is received, outbound is sent.",
                &["core", "lane", "direction"],
            )?,
            rtp_dropped: family.counters(
                "rtp_dropped_total",
                "Media packets that were not relayed, by reason.",
                &["core", "reason"],
            )?,
            rtp_link_packets: family.counters(
                "rtp_link_packets_total",
                "Of the RTP packets sent, those that went to an interface past the kernel's IP.",
                &["core"],
            )?,
            rtp_steered: family.gauges(
                "rtp_steered_flows",
                "Media flows (RTP and RTCP) of known peers that come by the shared sockets of their core now.",
                &["core"],
            )?,
            relay_latency: family.register(RelayLatency::new(&Families::opts(
                "rtp_relay_latency_seconds",
                "From the kernel's receive timestamp of an RTP packet to the end of its send; of one leg in 16, at most one batch \
                 of packets per millisecond.",
            ))?)?,
            xdp_attached: family.gauges(
                "access_xdp_attached",
                "1 while XDP filters on an interface of access.interfaces, 0 while userspace alone does.",
                &["interface", "mode"],
            )?,
            xdp_detached: family.counters(
                "access_xdp_detached_total",
                "How often somebody took XDP off an interface; the edge attaches it again.",
                &["interface"],
            )?,
            access_dropped: family.counters(
                "access_dropped_packets_total",
                "Packets and connections refused because of their source.",
                &["listener", "reason"],
            )?,
            ring_overflow: family.counters(
                "ring_overflow_total",
                "Items that found a bounded queue or ring full.",
                &["core", "ring"],
            )?,
            handoffs: family.counters(
                "handoffs_total",
                "Messages that a core received or answered for another, which owns their call or connection.",
                &["core"],
            )?,
            malformed: family.counter(
                "malformed_messages_total",
                "SIP messages that could not be understood.",
            )?,
            reloads: family.counters(
                "reloads_total",
                "Configuration reloads, by result: applied, refused.",
                &["result"],
            )?,
            ready: family.gauge("ready", "1 when the edge takes new calls.")?,
            draining: family.gauge("draining", "1 while the edge drains: no new calls.")?,
            cdr: CdrCounters {
                written: cdr_records.with_label_values(&["written"]),
                lost: cdr_records.with_label_values(&["lost"]),
                write_errors: family.counter(
                    "cdr_write_errors_total",
                    "Failed attempts to write or open the CDR file.",
                )?,
                backlog: family.gauge(
                    "cdr_backlog_records",
                    "Call detail records in memory that wait for the file.",
                )?,
            },
            names: family.names.take(),
            registry,
        };
        metrics.update(config);
        Ok(metrics)
    }

    /// Takes over the trunks and listeners of a new configuration. Series of removed trunks stay: their calls go on.
    pub fn update(&self, config: &Config) {
        self.labels.update(config);
        self.begin_at_zero(config);
    }

    /// The full name of every family, also of those that have no series yet.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Adds a reader of somebody else's counters, called before each scrape (media threads, XDP maps). It must not block.
    pub fn on_scrape(&self, source: impl Fn(&Metrics) + Send + Sync + 'static) {
        lock(&self.sources).push(Box::new(source));
    }

    /// Prometheus text format, version 0.0.4.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        for source in lock(&self.sources).iter() {
            source(self);
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|e| prometheus::Error::Msg(e.to_string()))
    }

    /// What the CDR writer counts.
    pub fn cdr(&self) -> CdrCounters {
        self.cdr.clone()
    }

    /// Media flows of `core` that share sockets.
    pub fn set_steered_flows(&self, core: CoreId, flows: u64) {
        self.rtp_steered
            .with_label_values(&[core.to_string().as_str()])
            .set(i64::try_from(flows).unwrap_or(i64::MAX));
    }

    /// Tells from now on how long the media thread of `core` keeps packets.
    pub fn watch_relay_latency(&self, core: CoreId, counters: Arc<MediaCounters>) {
        self.relay_latency.watch(core, counters);
    }

    /// The overflow counter of one queue. `ring` names the queue: `event`, `handoff`, `media`, `calls`, `transactions`.
    fn ring_overflow(&self, core: CoreId, ring: &'static str) -> IntCounter {
        self.ring_overflow
            .with_label_values(&[core.to_string().as_str(), ring])
    }

    /// Counts a reload.
    pub fn reloaded(&self, applied: bool) {
        let result = if applied { "applied" } else { "refused" };
        self.reloads.with_label_values(&[result]).inc();
    }

    /// Tells on which of the interfaces that XDP was asked for it filters: (interface, mode, whether it does).
    pub fn set_xdp_attached<'a>(&self, interfaces: impl Iterator<Item = (&'a str, &'a str, bool)>) {
        // An interface that a reload removed, and the mode it had before, are no series any more.
        self.xdp_attached.reset();
        for (interface, mode, attached) in interfaces {
            self.xdp_attached
                .with_label_values(&[interface, mode])
                .set(i64::from(attached));
        }
    }

    /// Call legs alive now, of all trunks.
    pub fn legs_alive(&self) -> i64 {
        let families = self.calls_active.collect();
        let legs = families.iter().flat_map(|family| family.get_metric());
        legs.map(|leg| leg.get_gauge().value() as i64).sum()
    }

    /// Tells whether new calls are taken, and whether that is because of a drain.
    pub fn set_state(&self, ready: bool, draining: bool) {
        self.ready.set(i64::from(ready));
        self.draining.set(i64::from(draining));
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Counters stay usable whatever panicked while holding the lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes and registers families under the `sip_edge` namespace.
struct Families<'a> {
    registry: &'a Registry,
    /// Of what was registered, in order.
    names: RefCell<Vec<String>>,
}

impl Families<'_> {
    fn register<C: Collector + Clone + 'static>(&self, c: C) -> Result<C, prometheus::Error> {
        let named = c.desc().into_iter().map(|d| d.fq_name.clone());
        self.names.borrow_mut().extend(named);
        self.registry.register(Box::new(c.clone()))?;
        Ok(c)
    }

    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(name, help).namespace("sip_edge")
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.register(IntCounter::with_opts(Self::opts(name, help))?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.register(IntGauge::with_opts(Self::opts(name, help))?)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.register(IntCounterVec::new(Self::opts(name, help), labels)?)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.register(IntGaugeVec::new(Self::opts(name, help), labels)?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        labels: &[&str],
    ) -> Result<HistogramVec, prometheus::Error> {
        let opts = HistogramOpts::from(Self::opts(name, help)).buckets(buckets.to_vec());
        self.register(HistogramVec::new(opts, labels)?)
    }
}

#[cfg(test)]
mod tests;
