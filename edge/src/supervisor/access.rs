//! The access filter's place among the supervisor's things.

use crate::access::{AccessOptions, AccessView, DEFAULT_ROOT, Mode};
use crate::config::{AccessMode, AccessSettings};
use crate::metrics::Metrics;
use std::path::PathBuf;

pub(super) fn access_options(settings: &AccessSettings) -> AccessOptions {
    AccessOptions {
        interfaces: settings.interfaces.clone(),
        mode: match settings.mode {
            AccessMode::Auto => Mode::Auto,
            AccessMode::Native => Mode::Native,
            AccessMode::Generic => Mode::Generic,
            AccessMode::Userspace => Mode::Userspace,
        },
        pins: Some(pins()),
    }
}

/// Where on a BPF file system: the packaged unit lets the edge, which is not root there, see a directory of its own.
fn pins() -> PathBuf {
    std::env::var_os("SIP_EDGE_BPF_DIR").map_or_else(|| DEFAULT_ROOT.into(), PathBuf::from)
}

/// Reads the filter's latest status at each scrape.
pub(super) fn watch_access(metrics: &Metrics, view: AccessView) {
    metrics.on_scrape(move |metrics| {
        let status = view.get();
        for drop in &status.drops {
            metrics.access_dropped_total(&drop.listener, drop.reason.as_str(), drop.packets);
        }
        for interface in &status.interfaces {
            metrics.xdp_detached_total(&interface.name, interface.losses);
        }
        metrics.set_xdp_attached(status.interfaces.iter().map(|interface| {
            let attached = status.fault.is_none() && interface.state.is_attached();
            (interface.name.as_str(), interface.state.mode(), attached)
        }));
    });
}
