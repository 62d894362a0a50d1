//! The access filter's place among the supervisor's things.

use crate::access::{AccessOptions, AccessView, Mode};
use crate::config::{AccessMode, AccessSettings};
use crate::metrics::Metrics;

pub(super) fn access_options(settings: &AccessSettings) -> AccessOptions {
    AccessOptions {
        interfaces: settings.interfaces.clone(),
        mode: match settings.mode {
            AccessMode::Auto => Mode::Auto,
            AccessMode::Native => Mode::Native,
            AccessMode::Generic => Mode::Generic,
            AccessMode::Userspace => Mode::Userspace,
        },
        ..AccessOptions::default()
    }
}

/// Reads the filter's latest status at each scrape.
pub(super) fn watch_access(metrics: &Metrics, view: AccessView) {
    metrics.on_scrape(move |metrics| {
        let status = view.get();
        for drop in &status.drops {
            metrics.access_dropped_total(&drop.listener, drop.reason.as_str(), drop.packets);
        }
        metrics.set_xdp_attached(status.interfaces.iter().map(|interface| {
            let attached = status.fault.is_none() && interface.state.is_attached();
            (interface.name.as_str(), interface.state.mode(), attached)
        }));
    });
}
