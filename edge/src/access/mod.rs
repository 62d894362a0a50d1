//! The allowlist in the kernel: XDP drops what no trunk lists before it reaches a socket.
//!
//! Userspace decides about everything that passes ([`edge_proto::trunk::AllowTable`] for SIP, the relay's latch for media);
//! XDP is its early drop. So nothing here can open the edge, and nothing here stops it: where XDP cannot be loaded or attached,
//! or is taken off, the [`AccessStatus`] says so and userspace goes on alone. What the program drops and why is written in
//! `ebpf/README.md`.

mod attach;
mod backoff;
mod filter;
mod guard;
pub mod interface;
pub mod layout;
mod pins;
mod status;
mod tables;

pub(crate) use filter::told;
pub use filter::{Filter, FilterError, OBJECT, PASS_PROGRAM};
pub use guard::{FlowSource, MediaGuard};
pub use layout::Reason;
pub use pins::DEFAULT_ROOT;
pub use status::{
    AccessStatus, AccessView, AttachMode, DropCount, InterfaceState, InterfaceStatus, Mode,
};
pub use tables::{CounterRows, TableError, Tables};

use attach::Guarded;
use backoff::Backoff;
use edge_proto::config::{Config, MediaConfig};
use guard::SharedFlows;
use pins::{Pins, Remains};
use rustix::thread::{CapabilitySet, capabilities};
use std::path::PathBuf;
use std::time::Instant;
use tracing::{debug, info, warn};

/// `[access]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessOptions {
    /// Where XDP attaches; empty: nowhere.
    pub interfaces: Vec<String>,
    pub mode: Mode,
    /// Directory on a BPF file system; made when missing. `None`: nothing is pinned, and nothing found there is taken over.
    pub pins: Option<PathBuf>,
}

impl Default for AccessOptions {
    fn default() -> Self {
        AccessOptions {
            interfaces: Vec::new(),
            mode: Mode::Auto,
            pins: Some(PathBuf::from(DEFAULT_ROOT)),
        }
    }
}

impl AccessOptions {
    fn wants_xdp(&self) -> bool {
        self.mode != Mode::Userspace && !self.interfaces.is_empty()
    }
}

/// Tables that could not be put in force, and when that is tried again.
#[derive(Debug)]
struct Unfilled {
    tables: Tables,
    backoff: Backoff,
}

/// The access filter of this process. Dropping it detaches everything.
#[derive(Debug)]
pub struct Access {
    options: AccessOptions,
    /// Of the start: media threads go on with it until a restart, whatever a reload brings.
    media: MediaConfig,
    rows: CounterRows,
    guarded: Vec<Guarded>,
    filter: Option<Filter>,
    pins: Option<Pins>,
    flows: SharedFlows,
    fault: Option<String>,
    /// `None` without a fault, and with one that only another configuration can mend.
    unfilled: Option<Unfilled>,
    unpinned: Option<String>,
    view: AccessView,
}

impl Access {
    /// Loads and attaches what `options` ask for. Whatever goes wrong is in the status; the process goes on without.
    ///
    /// Works on the network namespace of the calling thread; [`Access::apply`] and [`Access::poll`] have to be called in the same.
    pub fn start(config: &Config, options: AccessOptions) -> Access {
        let mut access = Access {
            options: AccessOptions::default(),
            media: config.media.clone(),
            rows: CounterRows::new(),
            guarded: Vec::new(),
            filter: None,
            pins: None,
            flows: SharedFlows::default(),
            fault: None,
            unfilled: None,
            unpinned: None,
            view: AccessView::default(),
        };
        let remains = options
            .pins
            .as_deref()
            .map(Remains::find)
            .unwrap_or_default();
        access.enforce(config, options, remains);
        access
    }

    /// Puts a new configuration in force, but for its media, which only a restart changes. Interfaces that stay are guarded throughout, by the old tables or by the new;
    /// where XDP was taken off or failed, it is attached again.
    pub fn apply(&mut self, config: &Config, options: AccessOptions) {
        // What was taken off since the last poll is to be attached again, too.
        self.poll();
        self.enforce(config, options, Remains::default());
    }

    fn enforce(&mut self, config: &Config, options: AccessOptions, mut remains: Remains) {
        let same_mode = self.options.mode == options.mode;
        self.options = options;
        self.guarded.retain(|guarded| {
            same_mode && self.options.interfaces.iter().any(|i| i == guarded.name())
        });
        self.fault = None;
        self.unfilled = None;
        if self.options.wants_xdp() {
            self.fault = self.fill(config).err();
            if let Some(fault) = &self.fault {
                warn!(
                    fault,
                    "XDP is off: userspace alone refuses unlisted sources"
                );
            }
            self.attach(&mut remains);
        }
        self.publish();
    }

    /// Loads the program unless it is, and gives it the tables of `config`.
    fn fill(&mut self, config: &Config) -> Result<(), String> {
        Tables::build(config, &self.media, &mut self.rows)
            .map_err(|fault| fault.to_string())
            .and_then(|tables| {
                let result = self.install(&tables);
                if result.is_err() {
                    let mut backoff = Backoff::new();
                    backoff.failed_on_demand(Instant::now());
                    self.unfilled = Some(Unfilled { tables, backoff });
                }
                result
            })
            .inspect_err(|_| self.disarm())
    }

    /// Loads the program unless it is, and gives it `tables`.
    fn install(&mut self, tables: &Tables) -> Result<(), String> {
        if self.filter.is_none() {
            let filter = Filter::load(tables).map_err(|fault| fault.to_string())?;
            if !capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::PERFMON))
            {
                warn!(
                    "without CAP_PERFMON the kernel makes each XDP verdict some 0.3 us instead of 0.05 us long"
                );
            }
            self.share(&filter)?;
            self.filter = Some(filter);
        }
        match &mut self.filter {
            Some(filter) => filter.switch(tables).map_err(|fault| fault.to_string()),
            None => Ok(()),
        }
    }

    /// The tables in force would drop the sources that the new configuration adds: lets everything pass.
    fn disarm(&mut self) {
        if let Some(filter) = &mut self.filter
            && let Err(fault) = filter.disarm()
        {
            warn!(%fault, "XDP keeps the tables of the configuration before: detaching it");
            self.guarded.clear();
        }
    }

    /// Tries again, when it is time to, what failed when it was asked for: the kernel may have been short of memory.
    fn retry(&mut self, now: Instant) {
        let Some(mut unfilled) = self.unfilled.take_if(|u| u.backoff.is_due(now)) else {
            return;
        };
        match self.install(&unfilled.tables) {
            Ok(()) => {
                info!("XDP is loaded");
                self.fault = None;
                self.attach(&mut Remains::default());
            }
            Err(fault) => {
                debug!(fault, "XDP is still off");
                self.fault = Some(fault);
                unfilled.backoff.failed(now);
                self.unfilled = Some(unfilled);
            }
        }
    }

    /// Lets the media threads and later daemons reach the maps of the program just loaded.
    fn share(&mut self, filter: &Filter) -> Result<(), String> {
        let flows = filter.flows().map_err(|fault| fault.to_string())?;
        // Empty until now: the program is loaded once.
        let _ = self.flows.set(flows);
        if let Some(root) = &self.options.pins {
            match Pins::create(root, filter) {
                Ok(pins) => self.pins = Some(pins),
                Err(fault) => {
                    info!(%fault, "XDP is not pinned: a crash of this process would detach it");
                    self.unpinned = Some(fault.to_string());
                }
            }
        }
        Ok(())
    }

    fn attach(&mut self, remains: &mut Remains) {
        // Whatever fails, each has a state and so a series: one that is missing would raise no alert.
        for name in &self.options.interfaces {
            if !self.guarded.iter().any(|guarded| guarded.name() == name) {
                self.guarded.push(Guarded::new(name));
            }
        }
        if let (Some(filter), None) = (&mut self.filter, &self.fault) {
            for guarded in &mut self.guarded {
                guarded.attach(filter, self.options.mode, self.pins.as_ref(), remains);
            }
        }
    }

    /// Notices interfaces that came, went or lost the program, loads and attaches it again where it is time to, and reads the
    /// drop counters. To be called about once a second.
    pub fn poll(&mut self) {
        let now = Instant::now();
        self.retry(now);
        if let (Some(filter), None) = (&mut self.filter, &self.fault) {
            for guarded in &mut self.guarded {
                guarded.poll(now, filter, self.options.mode, self.pins.as_ref());
            }
        }
        self.publish();
    }

    /// The latest status, for other threads.
    pub fn view(&self) -> AccessView {
        self.view.clone()
    }

    /// A media thread's handle to the map of open media ports.
    pub fn media_guard(&self) -> MediaGuard {
        MediaGuard::new(self.flows.clone())
    }

    fn publish(&self) {
        let interfaces = self.guarded.iter().map(|guarded| InterfaceStatus {
            name: guarded.name().to_owned(),
            state: guarded.state().clone(),
            losses: guarded.losses(),
        });
        self.view.set(AccessStatus {
            interfaces: interfaces.collect(),
            fault: self.fault.clone(),
            unpinned: self.unpinned.clone().or_else(|| {
                let unpinned = self.guarded.iter().find_map(Guarded::unpinned);
                unpinned.map(str::to_owned)
            }),
            drops: self.drops(),
        });
    }

    fn drops(&self) -> Vec<DropCount> {
        let Some(filter) = &self.filter else {
            return Vec::new();
        };
        let mut drops = Vec::new();
        for (row, listener) in (0..).zip(self.rows.names()) {
            for reason in Reason::ALL {
                if let Ok(packets) = filter.drops(row, reason) {
                    drops.push(DropCount {
                        listener: listener.clone(),
                        reason,
                        packets,
                    });
                }
            }
        }
        drops
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let attached = self.guarded.iter().any(|g| g.state().is_attached());
        self.guarded.clear();
        // Before the program goes.
        self.pins = None;
        if attached {
            info!("XDP is detached");
        }
    }
}
