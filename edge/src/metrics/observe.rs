//! Events become counters here and nowhere else.

use super::labels::OTHER;
use super::{Metrics, fold_code, fold_method};
use edge_proto::event::{Cause, Direction, Event, EventKind};
use edge_proto::id::CoreId;
use edge_proto::sip::Method;
use prometheus::{Histogram, IntCounter};
use std::collections::HashMap;
use std::sync::Arc;

/// What requests and responses of one sort are counted by.
#[derive(PartialEq, Eq, Hash, Debug)]
struct Sort {
    /// Its name by where that is: that of a series stays there.
    trunk: usize,
    method: Method,
    /// 0: a request.
    code: u16,
    direction: Direction,
}

#[derive(Debug)]
struct Series {
    count: IntCounter,
    elapsed: Option<Histogram>,
    /// Keeps the name of its [`Sort`] where it is.
    _trunk: Arc<str>,
}

/// Series at hand; more than so many belong to names that changed.
const SERIES: usize = 4_096;

/// Counts events for one thread, which need not look up the labels of what comes again and again.
#[derive(Default, Debug)]
pub struct Observer {
    series: HashMap<Sort, Series>,
    /// Of the labels that they have.
    generation: u64,
}

impl Observer {
    /// Counts one event.
    pub fn observe(&mut self, metrics: &Metrics, core: CoreId, event: &Event) {
        match &event.kind {
            EventKind::Request {
                trunk,
                method,
                direction,
            } => self
                .series(metrics, (trunk, method), 0, *direction)
                .count
                .inc(),
            EventKind::Response {
                trunk,
                method,
                code,
                direction,
                elapsed,
            } => {
                let series = self.series(metrics, (trunk, method), (*code).max(1), *direction);
                series.count.inc();
                if let (Some(elapsed), Some(histogram)) = (elapsed, &series.elapsed) {
                    histogram.observe(elapsed.as_secs_f64());
                }
            }
            _ => metrics.observe(core, event),
        }
    }

    fn series(
        &mut self,
        metrics: &Metrics,
        (trunk, method): (&Arc<str>, &Method),
        code: u16,
        direction: Direction,
    ) -> &Series {
        let generation = metrics.labels.generation();
        if self.generation != generation || self.series.len() >= SERIES {
            self.series.clear();
            self.generation = generation;
        }
        let sort = Sort {
            trunk: trunk.as_ptr().addr(),
            method: method.clone(),
            code,
            direction,
        };
        self.series.entry(sort).or_insert_with(|| {
            let name = trunk.clone();
            let trunk = metrics.labels.trunk(trunk);
            let method = fold_method(method.as_str());
            let direction = direction.as_str();
            let (count, elapsed) = match code {
                0 => {
                    let labels = [trunk, method, direction];
                    (metrics.sip_requests.with_label_values(&labels), None)
                }
                code => {
                    let labels = [trunk, method, &fold_code(code), direction];
                    let seconds = &metrics.sip_response_seconds;
                    (
                        metrics.sip_responses.with_label_values(&labels),
                        // A provisional one has no time, and would make a series for nothing.
                        (code >= 200).then(|| seconds.with_label_values(&[trunk, method])),
                    )
                }
            };
            Series {
                count,
                elapsed,
                _trunk: name,
            }
        })
    }
}

impl Metrics {
    /// Counts one event, but for the requests and responses, which are an [`Observer`]'s.
    fn observe(&self, core: CoreId, event: &Event) {
        let trunk = |name| self.labels.trunk(name);
        match &event.kind {
            EventKind::Request { .. } | EventKind::Response { .. } => {}
            EventKind::Digest {
                trunk: name,
                outcome,
            } => self
                .digest
                .with_label_values(&[trunk(name), *outcome])
                .inc(),
            // Within a call, a refusal is told by `TransferEnded`, but for a challenge, which refuses nothing yet.
            EventKind::Refer {
                cause: Some(cause), ..
            } if event.call.is_none() => self
                .transfers
                .with_label_values(&[OTHER, "denied", cause.as_str()])
                .inc(),
            EventKind::TransferBridged {
                trunk: name,
                elapsed,
                ..
            } => self
                .transfer_seconds
                .with_label_values(&[trunk(name)])
                .observe(elapsed.as_secs_f64()),
            EventKind::TransferEnded {
                trunk: name,
                result,
                cause,
                ..
            } => self
                .transfers
                .with_label_values(&[trunk(name), *result, cause.as_str()])
                .inc(),
            EventKind::LegEnded(record) => {
                self.leg_closed(&record.trunk, record.direction, record.cause);
            }
            EventKind::AccessDropped {
                listener, reason, ..
            } => self
                .access_dropped
                .with_label_values(&[self.labels.listener(listener), *reason])
                .inc(),
            EventKind::Malformed { .. } => self.malformed.inc(),
            // The control thread counts these two itself: an event about a full queue is easily lost.
            EventKind::Overflow {
                queue: "handoff" | "event",
            } => {}
            EventKind::Overflow { queue } => self.ring_overflow(core, queue).inc(),
            EventKind::CallStarted { .. }
            | EventKind::LegStarted { .. }
            | EventKind::Routed { .. }
            | EventKind::Refer { .. }
            | EventKind::HeaderDropped { .. }
            | EventKind::TransferAttempt { .. }
            | EventKind::FirstRtp { .. }
            | EventKind::Note { .. }
            | EventKind::CallEnded { .. }
            | EventKind::Connection { .. } => {}
        }
    }

    /// Counts a leg that has ended.
    pub fn leg_closed(&self, trunk: &str, direction: Direction, cause: Cause) {
        let trunk = self.labels.trunk(trunk);
        self.calls
            .with_label_values(&[trunk, direction.as_str(), cause.as_str()])
            .inc();
    }

    /// A leg of `trunk` came to life (`true`) or ended.
    pub fn leg_alive(&self, trunk: &str, alive: bool) {
        let gauge = self
            .calls_active
            .with_label_values(&[self.labels.trunk(trunk)]);
        if alive {
            gauge.inc();
        } else {
            gauge.dec();
        }
    }
}
