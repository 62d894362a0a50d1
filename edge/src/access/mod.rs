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

pub use filter::{Filter, FilterError, OBJECT, PASS_PROGRAM};
pub use guard::{FlowSource, MediaGuard};
pub use layout::Reason;
pub use pins::DEFAULT_ROOT;
pub use status::{
    AccessStatus, AccessView, AttachMode, DropCount, InterfaceState, InterfaceStatus, Mode,
};
pub use tables::{CounterRows, TableError, Tables};

use attach::Guarded;
use edge_proto::config::Config;
use guard::SharedFlows;
use pins::{Pins, Remains};
use rustix::thread::{CapabilitySet, capabilities};
use std::path::PathBuf;
use std::time::Instant;
use tracing::{info, warn};

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

/// The access filter of this process. Dropping it detaches everything.
#[derive(Debug)]
pub struct Access {
    options: AccessOptions,
    rows: CounterRows,
    guarded: Vec<Guarded>,
    filter: Option<Filter>,
    pins: Option<Pins>,
    flows: SharedFlows,
    fault: Option<String>,
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
            rows: CounterRows::new(),
            guarded: Vec::new(),
            filter: None,
            pins: None,
            flows: SharedFlows::default(),
            fault: None,
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

    /// Puts a new configuration in force. Interfaces that stay are guarded throughout, by the old tables or by the new;
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
        let tables = Tables::build(config, &mut self.rows).map_err(|fault| fault.to_string());
        if let (None, Ok(tables)) = (&self.filter, &tables) {
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
        let Some(filter) = &mut self.filter else {
            return tables.map(drop);
        };
        tables
            .and_then(|tables| filter.switch(&tables).map_err(|fault| fault.to_string()))
            .inspect_err(|_| {
                // The old tables would drop the sources that the new configuration adds.
                if let Err(fault) = filter.disarm() {
                    warn!(%fault, "XDP keeps the tables of the configuration before: detaching it");
                    self.guarded.clear();
                }
            })
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
        let Some(filter) = &mut self.filter else {
            return;
        };
        for name in &self.options.interfaces {
            if !self.guarded.iter().any(|guarded| guarded.name() == name) {
                self.guarded.push(Guarded::new(name));
            }
        }
        if self.fault.is_none() {
            for guarded in &mut self.guarded {
                guarded.attach(filter, self.options.mode, self.pins.as_ref(), remains);
            }
        }
    }

    /// Notices interfaces that came, went or lost the program, attaches it again where it is time to, and reads the drop
    /// counters. To be called about once a second.
    pub fn poll(&mut self) {
        if let (Some(filter), None) = (&mut self.filter, &self.fault) {
            let now = Instant::now();
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
            unpinned: self.unpinned.clone(),
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
