//! The supervisor, as the admin API asks it.

use super::{EdgeControl, Readiness, ReloadReport};
use crate::supervisor::{Phase, SupervisorHandle};
use edge_proto::config::Config;
use std::sync::Arc;

impl EdgeControl for SupervisorHandle {
    fn config(&self) -> Arc<Config> {
        SupervisorHandle::config(self)
    }

    fn readiness(&self) -> Readiness {
        readiness(self.phase(), self.problems())
    }

    fn reload(&self) -> Result<ReloadReport, String> {
        let done = SupervisorHandle::reload(self).map_err(|error| error.to_string())?;
        Ok(ReloadReport {
            trunks_added: done.trunks_added,
            trunks_removed: done.trunks_removed,
            needs_restart: done.needs_restart,
            warnings: done.warnings,
        })
    }

    fn drain(&self) -> Result<(), String> {
        SupervisorHandle::drain(self).map_err(|error| error.to_string())
    }
}

fn readiness(phase: Phase, problems: Vec<String>) -> Readiness {
    let problem = match phase {
        Phase::Ready => None,
        Phase::Starting => Some("not every core accepts calls yet"),
        Phase::Draining => Some("draining: new calls are refused"),
        Phase::Stopping => Some("stopping"),
    };
    Readiness {
        ready: phase == Phase::Ready,
        draining: matches!(phase, Phase::Draining | Phase::Stopping),
        problems: problem
            .into_iter()
            .map(str::to_owned)
            .chain(problems)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_started_edge_that_does_not_drain_is_ready() {
        let ready = readiness(Phase::Ready, Vec::new());
        assert!(ready.ready && !ready.draining && ready.problems.is_empty());
        for phase in [Phase::Starting, Phase::Draining, Phase::Stopping] {
            let not = readiness(phase, Vec::new());
            assert!(!not.ready && not.problems.len() == 1, "{phase:?}");
            assert_eq!(not.draining, phase != Phase::Starting);
        }
    }
}
