//! What the access filter says about itself: to the log, to readiness and to the metrics.

use super::layout::Reason;
use arc_swap::ArcSwap;
use std::fmt;
use std::sync::Arc;

/// `access.mode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Native where the driver can, else generic.
    #[default]
    Auto,
    Native,
    Generic,
    /// No XDP: userspace alone.
    Userspace,
}

/// How a program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachMode {
    /// In the driver, before the kernel has made anything of the packet.
    Native,
    /// In the network stack, for drivers without XDP.
    Generic,
}

impl AttachMode {
    /// The `mode` label of `sip_edge_access_xdp_attached`.
    pub const fn as_str(self) -> &'static str {
        match self {
            AttachMode::Native => "native",
            AttachMode::Generic => "generic",
        }
    }
}

/// How one interface is guarded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InterfaceState {
    /// XDP drops what no trunk lists. `pinned`: a crash of the daemon leaves it in force.
    Attached { mode: AttachMode, pinned: bool },
    /// The program could not be attached; tried again after 1, 2, 4 ... and at most 60 s.
    Failed { reason: String },
    /// It was attached and somebody took it off; attached again soon.
    Detached { mode: AttachMode },
    /// There is no such interface; attached when it comes.
    Absent,
}

impl InterfaceState {
    pub const fn is_attached(&self) -> bool {
        matches!(self, InterfaceState::Attached { .. })
    }

    /// The `mode` label of `sip_edge_access_xdp_attached`: how it is or was attached, else `none`.
    pub const fn mode(&self) -> &'static str {
        match self {
            InterfaceState::Attached { mode, .. } | InterfaceState::Detached { mode } => {
                mode.as_str()
            }
            InterfaceState::Failed { .. } | InterfaceState::Absent => "none",
        }
    }
}

impl fmt::Display for InterfaceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InterfaceState::Attached { mode, pinned } => {
                let pinned = if *pinned { "" } else { ", not pinned" };
                write!(f, "XDP attached ({}{pinned})", mode.as_str())
            }
            InterfaceState::Failed { reason } => {
                write!(
                    f,
                    "XDP not attached: {reason}; tried again by itself, after a minute at most"
                )
            }
            InterfaceState::Detached { .. } => {
                f.write_str("XDP was detached by someone else and is about to be attached again")
            }
            InterfaceState::Absent => f.write_str("no such interface"),
        }
    }
}

/// One interface of `access.interfaces`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceStatus {
    pub name: String,
    pub state: InterfaceState,
    /// How often somebody took the program off.
    pub losses: u64,
}

/// Packets that XDP dropped since the daemon started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DropCount {
    /// A listener's name, `media`, or `any` where no listener can be named.
    pub listener: String,
    pub reason: Reason,
    pub packets: u64,
}

/// The state of the access filter at one moment. Userspace decides whatever it says: nothing is open because XDP is off.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AccessStatus {
    /// In the order of the configuration; empty where userspace alone was asked for.
    pub interfaces: Vec<InterfaceStatus>,
    /// Why XDP lets everything pass although it was asked for.
    pub fault: Option<String>,
    /// Why nothing is pinned although there is something to pin.
    pub unpinned: Option<String>,
    /// Every listener and reason that XDP can drop for, those that it never did included; empty without XDP.
    pub drops: Vec<DropCount>,
}

impl AccessStatus {
    /// Whether XDP filters wherever it was asked to.
    pub fn is_complete(&self) -> bool {
        self.fault.is_none() && self.interfaces.iter().all(|i| i.state.is_attached())
    }
}

impl fmt::Display for AccessStatus {
    /// One line for readiness.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(fault) = &self.fault {
            return write!(f, "userspace only: {fault}");
        }
        if self.interfaces.is_empty() {
            return f.write_str("userspace only, as configured");
        }
        for (n, interface) in self.interfaces.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", interface.name, interface.state)?;
        }
        Ok(())
    }
}

/// The latest [`AccessStatus`], for any thread.
#[derive(Clone, Debug, Default)]
pub struct AccessView(Arc<ArcSwap<AccessStatus>>);

impl AccessView {
    /// As of the last poll.
    pub fn get(&self) -> Arc<AccessStatus> {
        self.0.load_full()
    }

    pub(super) fn set(&self, status: AccessStatus) {
        self.0.store(Arc::new(status));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_its_reason_and_that_it_is_tried_again_within_a_minute() {
        let reason = "the driver has no native XDP".to_owned();
        assert_eq!(
            InterfaceState::Failed { reason }.to_string(),
            "XDP not attached: the driver has no native XDP; tried again by itself, after a minute at most"
        );
    }
}
