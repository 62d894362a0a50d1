//! Counters at zero before their first event: to `rate()` and `increase()` a series that begins at 1 has never grown, so an alert
//! would miss the first transfer that failed. The label sets are bounded by the configuration and the causes there are.

use super::Metrics;
use super::labels::OTHER;
use edge_proto::config::{Config, Trunk};
use edge_proto::event::{Cause, DIGEST_OUTCOMES, Direction};
use edge_proto::id::CoreId;

impl Metrics {
    /// What trunks and listeners of a configuration may come to count. Those that count already are left alone.
    pub(super) fn begin_at_zero(&self, config: &Config) {
        for trunk in &config.trunks {
            self.begin_trunk(trunk);
        }
        for listener in &config.listeners {
            self.access_dropped
                .with_label_values(&[listener.name.as_str(), "unlisted"]);
        }
        // A REFER of no call of ours is no trunk's.
        for cause in [Cause::DialogUnknown, Cause::TransferUnauthorized] {
            self.transfers
                .with_label_values(&[OTHER, "denied", cause.as_str()]);
        }
        for outcome in ["applied", "refused"] {
            self.reloads.with_label_values(&[outcome]);
        }
    }

    fn begin_trunk(&self, trunk: &Trunk) {
        let name = self.labels.trunk(&trunk.name);
        self.calls_active.with_label_values(&[name]);
        self.transfer_seconds.with_label_values(&[name]);
        for outcome in DIGEST_OUTCOMES {
            self.digest.with_label_values(&[name, outcome]);
        }
        for &cause in Cause::ALL {
            for direction in [Direction::Inbound, Direction::Outbound] {
                if cause.ends_leg(direction) {
                    self.calls
                        .with_label_values(&[name, direction.as_str(), cause.as_str()]);
                }
            }
            for &result in cause.transfer_results() {
                // A trunk that may not transfer can only be denied it.
                if trunk.transfer.is_some() || result == "denied" {
                    self.transfers
                        .with_label_values(&[name, result, cause.as_str()]);
                }
            }
        }
    }

    /// What a core may come to count by events; the rest is read from its counters at each scrape.
    pub(super) fn begin_core(&self, core: CoreId) {
        for ring in ["calls", "transactions", "signalling"] {
            self.ring_overflow(core, ring);
        }
    }
}
