//! One guarded interface: attaching, noticing that the attachment is gone, detaching.

use super::backoff::Backoff;
use super::filter::{Filter, told};
use super::interface::{self, Interface, InterfaceError};
use super::pins::{Pins, Remains};
use super::status::{AttachMode, InterfaceState, Mode};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, XdpMode};
use std::time::Instant;
use tracing::{debug, info, warn};

const OCCUPIED: &str = "another XDP program is attached";

/// Keeps the program attached while it lives.
#[derive(Debug)]
enum Attachment {
    /// `None` only while it is dropped.
    Pinned(Option<PinnedLink>),
    #[expect(dead_code, reason = "held, never read")]
    Plain(XdpLink),
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // The pin alone would keep the program attached.
        if let Attachment::Pinned(link) = self
            && let Some(link) = link.take()
            && let Err(fault) = link.unpin()
        {
            warn!(%fault, "an attachment cannot be unpinned");
        }
    }
}

/// One interface of `access.interfaces`.
#[derive(Debug)]
pub(super) struct Guarded {
    name: String,
    state: InterfaceState,
    index: u32,
    attachment: Option<Attachment>,
    /// Why the attachment is not pinned although there are pins.
    unpinned: Option<String>,
    backoff: Backoff,
    losses: u64,
}

impl Guarded {
    pub fn new(name: &str) -> Self {
        Guarded {
            name: name.to_owned(),
            // Until the first attempt, for which the program has to be loaded.
            state: InterfaceState::Failed {
                reason: "the program is not loaded".to_owned(),
            },
            index: 0,
            attachment: None,
            unpinned: None,
            backoff: Backoff::new(),
            losses: 0,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn state(&self) -> &InterfaceState {
        &self.state
    }

    /// How often somebody took the program off.
    pub fn losses(&self) -> u64 {
        self.losses
    }

    /// Why a crash would detach the program although there are pins.
    pub fn unpinned(&self) -> Option<&str> {
        self.unpinned.as_deref()
    }

    /// Attaches the program because somebody asked for it, taking over what an earlier process left attached; does nothing where
    /// it is attached already.
    pub fn attach(
        &mut self,
        filter: &mut Filter,
        mode: Mode,
        pins: Option<&Pins>,
        remains: &mut Remains,
    ) {
        if self.state.is_attached() && self.attachment.is_some() {
            return;
        }
        let now = Instant::now();
        if !self.attempt(now, filter, mode, pins, remains) {
            self.backoff.failed_on_demand(now);
        }
    }

    /// One attempt; whether it succeeded.
    fn attempt(
        &mut self,
        now: Instant,
        filter: &mut Filter,
        mode: Mode,
        pins: Option<&Pins>,
        remains: &mut Remains,
    ) -> bool {
        let state = self
            .try_attach(filter, mode, pins, remains)
            .unwrap_or_else(|reason| match reason {
                None => InterfaceState::Absent,
                Some(reason) => InterfaceState::Failed { reason },
            });
        let attached = state.is_attached();
        if attached {
            self.backoff.attached(now);
        }
        self.change(state);
        attached
    }

    /// `Err(None)`: there is no such interface.
    fn try_attach(
        &mut self,
        filter: &mut Filter,
        mode: Mode,
        pins: Option<&Pins>,
        remains: &mut Remains,
    ) -> Result<InterfaceState, Option<String>> {
        self.attachment = None;
        self.unpinned = None;
        let found = self.query()?;
        if !found.ethernet {
            return Err(Some("it does not carry Ethernet frames".to_owned()));
        }
        let link = match remains.take(&self.name) {
            Some(link) => match take_over(filter, link, found, mode) {
                Some(link) => link,
                None => {
                    interface::await_release(&self.name, found);
                    attach_new(filter, found.index, mode).map_err(Some)?
                }
            },
            // Whoever holds it is left alone: no attempt is made that the kernel would have to refuse.
            None if found.native.or(found.generic).is_some() => {
                return Err(Some(OCCUPIED.to_owned()));
            }
            None => attach_new(filter, found.index, mode).map_err(Some)?,
        };
        let (attachment, unpinned) = self.hold(filter, link, found.index, mode, pins)?;
        // What the kernel says, not what was asked for.
        let found = self.query()?;
        let mode = attached_mode(found, filter.program_id())
            .ok_or_else(|| Some("the kernel does not show it as attached".to_owned()))?;
        let pinned = matches!(attachment, Attachment::Pinned(_));
        self.attachment = Some(attachment);
        self.unpinned = unpinned;
        self.index = found.index;
        Ok(InterfaceState::Attached { mode, pinned })
    }

    /// Pins the link where pins are to be had, and says why not where they should be. Somebody may have removed their directory:
    /// then the program is attached anew without, since the attempt to pin costs the attachment.
    fn hold(
        &self,
        filter: &mut Filter,
        link: XdpLink,
        index: u32,
        mode: Mode,
        pins: Option<&Pins>,
    ) -> Result<(Attachment, Option<String>), Option<String>> {
        let Some(pins) = pins else {
            return Ok((Attachment::Plain(link), None));
        };
        let before = self.query()?;
        let link = FdLink::try_from(link).map_err(|fault| Some(told(&fault)))?;
        let fault = match pins.pin_link(&self.name, link) {
            Ok(pinned) => return Ok((Attachment::Pinned(Some(pinned)), None)),
            Err(fault) => fault.to_string(),
        };
        info!(
            interface = self.name,
            fault, "XDP is not pinned: a crash of this process would detach it"
        );
        interface::await_release(&self.name, before);
        let link = attach_new(filter, index, mode).map_err(Some)?;
        Ok((Attachment::Plain(link), Some(fault)))
    }

    fn query(&self) -> Result<Interface, Option<String>> {
        interface::query(&self.name).map_err(|error| match error {
            InterfaceError::Absent => None,
            other => Some(other.to_string()),
        })
    }

    /// Compares with what the kernel says. An interface that came (again) is attached to at once; where somebody took the program
    /// off, or it could not be attached, it is tried again and again, more and more rarely.
    pub fn poll(&mut self, now: Instant, filter: &mut Filter, mode: Mode, pins: Option<&Pins>) {
        let found = match interface::query(&self.name) {
            Ok(found) => found,
            Err(InterfaceError::Absent) => {
                self.attachment = None;
                return self.change(InterfaceState::Absent);
            }
            // Nothing is known: asked again at the next poll.
            Err(_) => return,
        };
        let due = match self.state {
            InterfaceState::Attached { mode: was, .. } => {
                if attached_mode(found, filter.program_id()).is_some() {
                    return;
                }
                self.attachment = None;
                if found.index == self.index {
                    self.losses += 1;
                    self.backoff.lost(now);
                    return self.change(InterfaceState::Detached { mode: was });
                }
                true
            }
            InterfaceState::Absent => true,
            InterfaceState::Failed { .. } | InterfaceState::Detached { .. } => {
                self.backoff.is_due(now)
            }
        };
        if due && !self.attempt(now, filter, mode, pins, &mut Remains::default()) {
            self.backoff.failed(now);
        }
    }

    /// Detaches the program, if it is attached; it is off when this returns.
    fn detach(&mut self) {
        if self.attachment.is_none() {
            return;
        }
        let before = interface::query(&self.name);
        self.attachment = None;
        if let Ok(before) = before {
            interface::await_release(&self.name, before);
        }
    }

    fn change(&mut self, state: InterfaceState) {
        if self.state == state {
            return;
        }
        let interface = self.name.as_str();
        match &state {
            InterfaceState::Attached { .. } => info!(interface, "{state}"),
            _ => warn!(
                interface,
                "{state}: userspace alone refuses unlisted sources here"
            ),
        }
        self.state = state;
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.detach();
    }
}

fn attached_mode(found: Interface, program: u32) -> Option<AttachMode> {
    if found.native == Some(program) {
        Some(AttachMode::Native)
    } else if found.generic == Some(program) {
        Some(AttachMode::Generic)
    } else {
        None
    }
}

/// Puts the program in the place of the one that `link` holds, without a moment between the two. `None` when the link
/// cannot be used: then it is gone, and so is its attachment.
fn take_over(filter: &mut Filter, link: FdLink, found: Interface, mode: Mode) -> Option<XdpLink> {
    let fits = match mode {
        Mode::Auto => found.native.is_some() || found.generic.is_some(),
        Mode::Native => found.native.is_some(),
        Mode::Generic => found.generic.is_some(),
        Mode::Userspace => false,
    };
    if !fits {
        return None;
    }
    let link = XdpLink::try_from(link)
        .inspect_err(|fault| debug!(%fault, "the pinned attachment is no XDP link"))
        .ok()?;
    let program = filter.program().ok()?;
    let id = program
        .attach_to_link(link)
        .inspect_err(|fault| debug!(%fault, "the pinned attachment cannot be taken over"))
        .ok()?;
    program.take_link(id).ok()
}

fn attach_new(filter: &mut Filter, index: u32, mode: Mode) -> Result<XdpLink, String> {
    let modes: &[XdpMode] = match mode {
        Mode::Auto => &[XdpMode::Driver, XdpMode::Skb],
        Mode::Native => &[XdpMode::Driver],
        Mode::Generic => &[XdpMode::Skb],
        Mode::Userspace => &[],
    };
    let program = filter.program().map_err(|fault| fault.to_string())?;
    let mut reason = "userspace mode".to_owned();
    for &mode in modes {
        match program.attach_to_if_index(index, mode) {
            Ok(id) => return program.take_link(id).map_err(|fault| told(&fault)),
            Err(fault) => {
                debug!(?mode, %fault, "XDP cannot be attached");
                reason = explain(&fault);
            }
        }
    }
    Err(reason)
}

fn explain(fault: &ProgramError) -> String {
    let ProgramError::SyscallError(syscall) = fault else {
        return told(fault);
    };
    match syscall.io_error.raw_os_error() {
        // EEXIST: in the other mode.
        Some(libc::EBUSY | libc::EEXIST) => OCCUPIED.to_owned(),
        Some(libc::EPERM) => "CAP_NET_ADMIN and CAP_BPF are needed".to_owned(),
        Some(libc::EOPNOTSUPP) => "the driver has no native XDP".to_owned(),
        _ => told(syscall),
    }
}
