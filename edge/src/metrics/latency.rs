//! Relay latency, read from the media threads' counters at each scrape: they keep histograms of their own.

use super::lock;
use crate::media::{BOUNDS_NS, MediaCounters};
use edge_proto::id::CoreId;
use prometheus::core::{Collector, Desc, Opts};
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

const LABELS: [&str; 2] = ["core", "lane"];
const NANOS_PER_SECOND: f64 = 1e9;

/// The media threads.
type Threads = Vec<(CoreId, Arc<MediaCounters>)>;

/// The histogram of all cores.
#[derive(Clone)]
pub struct RelayLatency {
    desc: Desc,
    threads: Arc<Mutex<Threads>>,
}

impl RelayLatency {
    pub fn new(opts: &Opts) -> Result<Self, prometheus::Error> {
        let labels = LABELS.map(str::to_owned).to_vec();
        Ok(RelayLatency {
            desc: Desc::new(opts.fq_name(), opts.help.clone(), labels, HashMap::new())?,
            threads: Arc::default(),
        })
    }

    /// Adds a media thread.
    pub fn watch(&self, core: CoreId, counters: Arc<MediaCounters>) {
        lock(&self.threads).push((core, counters));
    }
}

impl Collector for RelayLatency {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let threads = lock(&self.threads);
        let metrics = threads.iter().map(|(core, counters)| {
            let values = [core.to_string(), "io_uring".to_owned()];
            let labels = LABELS.iter().zip(values).map(|(name, value)| {
                let mut label = LabelPair::default();
                label.set_name((*name).to_owned());
                label.set_value(value);
                label
            });
            let mut metric = Metric::from_label(labels.collect());
            metric.set_histogram(histogram(counters));
            metric
        });
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(metrics.collect());
        // A family without series is not a valid one.
        if family.get_metric().is_empty() {
            return Vec::new();
        }
        vec![family]
    }
}

fn histogram(counters: &MediaCounters) -> Histogram {
    let (cumulative, sum_ns) = counters.relay_latency.cumulative();
    let buckets = BOUNDS_NS.iter().zip(cumulative).map(|(&bound, count)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound as f64 / NANOS_PER_SECOND);
        bucket.set_cumulative_count(count);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(cumulative.last().copied().unwrap_or(0));
    histogram.set_sample_sum(sum_ns as f64 / NANOS_PER_SECOND);
    histogram
}
