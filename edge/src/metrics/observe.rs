//! Events become counters here and nowhere else.

use super::labels::OTHER;
use super::{Metrics, fold_code, fold_method};
use edge_proto::event::{Cause, Direction, Event, EventKind};
use edge_proto::id::CoreId;

impl Metrics {
    /// Counts one event.
    pub fn observe(&self, core: CoreId, event: &Event) {
        let trunk = |name| self.labels.trunk(name);
        match &event.kind {
            EventKind::Request {
                trunk: name,
                method,
                direction,
            } => self
                .sip_requests
                .with_label_values(&[trunk(name), fold_method(method), direction.as_str()])
                .inc(),
            EventKind::Response {
                trunk: name,
                method,
                code,
                direction,
                elapsed,
            } => {
                let (name, method) = (trunk(name), fold_method(method));
                self.sip_responses
                    .with_label_values(&[name, method, &fold_code(*code), direction.as_str()])
                    .inc();
                if let Some(elapsed) = elapsed {
                    self.sip_response_seconds
                        .with_label_values(&[name, method])
                        .observe(elapsed.as_secs_f64());
                }
            }
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
