//! Putting a changed configuration file in force, as a whole or not at all.

use super::access::access_options;
use super::handle::{Reloaded, SupervisorHandle};
use super::start::{Core, Running, open_listeners, resolver_settings};
use crate::config::{Settings, load_after};
use crate::control::ControlCommand;

impl Running {
    /// Reads the file again. An error in it, or an address that cannot be had, changes nothing and is the answer.
    pub(super) async fn reload(&mut self, handle: &SupervisorHandle) -> Result<Reloaded, String> {
        self.manager.reloading();
        let result = self.try_reload(handle).await;
        self.metrics.reloaded(result.is_ok());
        match &result {
            Ok(done) => {
                for warning in &done.warnings {
                    tracing::warn!("{warning}");
                }
                for key in &done.needs_restart {
                    tracing::warn!("{key} changed: in force after a restart");
                }
                tracing::info!(
                    added = ?done.trunks_added,
                    removed = ?done.trunks_removed,
                    "configuration reloaded"
                );
            }
            Err(fault) => tracing::error!(%fault, "configuration not reloaded, the old one stays"),
        }
        self.manager.ready();
        result
    }

    async fn try_reload(&mut self, handle: &SupervisorHandle) -> Result<Reloaded, String> {
        let old = &self.settings;
        let new = load_after(&old.file, Some(&old.protocol)).map_err(|error| error.to_string())?;
        let sockets = open_listeners(&new.protocol, Some(&old.protocol), self.cores.len())
            .map_err(|error| error.to_string())?;
        // From here on nothing can fail.
        let done = Reloaded {
            trunks_added: only_in(&new, old),
            trunks_removed: only_in(old, &new),
            needs_restart: needs_restart(old, &new),
            warnings: new.warnings.iter().map(ToString::to_string).collect(),
        };
        self.metrics.update(&new.protocol);
        // Userspace decides either way; XDP goes first so that a source that was added is not dropped before it is asked.
        self.access
            .apply(&new.protocol, access_options(&new.access));
        let before: Vec<u64> = self.cores.iter().map(Core::reloads).collect();
        for (core, listeners) in self.cores.iter().zip(sockets) {
            core.command(ControlCommand::Reload {
                config: new.protocol.clone(),
                tls: new.tls.clone(),
                resolver: resolver_settings(&new),
                listeners,
            })
            .await;
        }
        // Whoever asked is answered when no core judges by the old configuration any more.
        for (core, before) in self.cores.iter().zip(before) {
            core.reloaded(before).await;
        }
        handle.put_in_force(new.protocol.clone());
        self.settings = new;
        self.log_listeners();
        Ok(done)
    }
}

/// Names of the trunks of `these` that `those` does not have.
fn only_in(these: &Settings, those: &Settings) -> Vec<String> {
    these
        .protocol
        .trunks
        .iter()
        .map(|trunk| &trunk.name)
        .filter(|name| those.protocol.trunk_named(name).is_none())
        .map(ToString::to_string)
        .collect()
}

/// The keys that differ but that only a restart puts in force.
fn needs_restart(old: &Settings, new: &Settings) -> Vec<String> {
    let media = |s: &Settings| {
        let media = &s.protocol.media;
        (media.ipv4, media.ipv6, media.ports.clone(), media.timeout)
    };
    [
        ("edge.cores", old.cores != new.cores),
        ("sip.batch_us", old.sip_batch != new.sip_batch),
        ("sip.overload_ms", old.sip_overload != new.sip_overload),
        ("[media]", media(old) != media(new)),
        ("media.fast_path", old.fast_path != new.fast_path),
        ("media.steering", old.media.steering != new.media.steering),
        ("media.batch_us", old.media.batch != new.media.batch),
        (
            "media.busy_poll_us",
            old.media.busy_poll != new.media.busy_poll,
        ),
        ("[admin]", old.admin != new.admin),
        ("cdr.path", old.cdr_path != new.cdr_path),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(key, _)| key.to_owned())
    .collect()
}
