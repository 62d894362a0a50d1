//! What the worker has open for each allocation, from `Bind` to `Release`.

use super::Worker;
use crate::media::MediaOptions;
use crate::media::endpoint::{Endpoint, SETTLE};
use crate::media::error::MediaError;
use crate::media::hub::{self, Hub};
use crate::media::latency::SAMPLED_LEGS;
use crate::media::sockets::bind_pair;
use crate::media::token::MAX_SLOTS;
use edge_proto::id::AllocationId;
use edge_proto::relay::{Admission, Component};
use edge_proto::time::Instant;
use std::net::SocketAddr;
use std::os::fd::AsFd;

/// What one allocation has open.
#[derive(Debug)]
pub(super) struct Flow {
    pub allocation: AllocationId,
    /// Where RTP is received; RTCP is at the next port.
    pub local: SocketAddr,
    /// The sockets of the ports.
    pub endpoints: [Option<Endpoint>; 2],
    /// Their entries in the file table.
    pub files: Option<u32>,
    /// The hub receives what comes to its ports; sockets of its own, if any, only send.
    pub received_by_hub: bool,
    /// Sockets could not be opened for sending; not to be tried again before.
    pub sender_pause: Instant,
    /// By component: what comes from the latched source is received by a socket of the hub.
    pub steered: [bool; 2],
}

/// How much a worker can have open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Room {
    pub allocations: u32,
    /// Of those, how many can have sockets of their own.
    pub file_pairs: u32,
}

impl Room {
    /// What was asked for, or what RLIMIT_NOFILE allows: a fixed-file table may not be larger, and every socket is a file besides.
    pub fn new(options: &MediaOptions, hub: Option<&Hub>) -> Result<Room, MediaError> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
            .current
            .unwrap_or(u64::from(u32::MAX));
        let fitting =
            u32::try_from(limit.saturating_sub(u64::from(hub::FILES)) / 2).unwrap_or(u32::MAX);
        let wanted = options.allocations.clamp(1, MAX_SLOTS);
        let file_pairs = wanted.min(fitting);
        let room = Room {
            allocations: match hub.is_some_and(Hub::replaces_all_sockets) {
                true => wanted,
                false => file_pairs,
            },
            file_pairs,
        };
        match room.allocations {
            0 => Err(MediaError::Files { limit }),
            _ => Ok(room),
        }
    }
}

impl Worker {
    pub(super) fn open(
        &mut self,
        now: Instant,
        allocation: AllocationId,
        local: SocketAddr,
    ) -> Result<(), String> {
        let slot = allocation.slot as usize;
        if self.flows.len() <= slot {
            self.flows.resize_with(slot + 1, || None);
        }
        // Before there is a socket that could be taken for one of the host's own.
        for component in Component::ALL {
            self.guard.allow_latching(component.address(local), &[]);
        }
        let opened = self
            .open_ports(allocation, local)
            .inspect_err(|_| self.guard_closed(local))?;
        if let Some(flow) = self.flows.get_mut(slot) {
            *flow = Some(Box::new(opened));
            self.counters.allocations.add(1);
        }
        for component in Component::ALL {
            self.steer(now, allocation, component);
        }
        Ok(())
    }

    /// Lets packets to both ports come, by shared sockets or by their own.
    fn open_ports(&mut self, allocation: AllocationId, local: SocketAddr) -> Result<Flow, String> {
        let mut flow = Flow {
            allocation,
            local,
            endpoints: [None, None],
            files: None,
            received_by_hub: false,
            sender_pause: Instant::ZERO,
            steered: [false; 2],
        };
        if let Some(hub) = &mut self.hub {
            hub.lease(local, allocation)?;
            flow.received_by_hub = hub.replaces_sockets(local.ip());
        }
        if flow.received_by_hub {
            return Ok(flow);
        }
        let opened = self.open_sockets(&mut flow);
        if opened.is_err()
            && let Some(hub) = &mut self.hub
        {
            hub.end_lease(local);
        }
        opened.map(|()| flow)
    }

    /// Gives a flow sockets of its own. They receive nothing before they are steered.
    fn open_sockets(&mut self, flow: &mut Flow) -> Result<(), String> {
        let first = self.files.take().ok_or("no room in the file table")?;
        let opened = bind_pair(flow.local).and_then(|[rtp, rtcp]| {
            let files = [Some(rtp.as_fd()), Some(rtcp.as_fd())];
            match self.ring.set_files(first, files) {
                Ok(()) => Ok([rtp, rtcp]),
                Err(error) => Err(format!("cannot register sockets: {error}")),
            }
        });
        let [rtp, rtcp] = opened.inspect_err(|_| self.files.give_back(first))?;
        let id = flow.allocation;
        flow.endpoints = [
            Some(Endpoint::new(
                id,
                Component::Rtp,
                first,
                rtp,
                is_sampled(id),
            )),
            Some(Endpoint::new(id, Component::Rtcp, first + 1, rtcp, false)),
        ];
        flow.files = Some(first);
        Ok(())
    }

    /// The socket from which `allocation` sends what the shared one does not take. Where the hub receives for its ports, it is opened
    /// when it is first wanted, and only sends.
    pub(super) fn own_sender(
        &mut self,
        now: Instant,
        allocation: AllocationId,
        component: Component,
    ) -> Option<&mut Endpoint> {
        let flow = self.flow_mut(allocation)?;
        if flow.files.is_none() && flow.sender_pause <= now {
            let slot = allocation.slot as usize;
            let mut flow = self.flows.get_mut(slot)?.take()?;
            if self.open_sockets(&mut flow).is_err() {
                self.counters.socket_errors.add(1);
                flow.sender_pause = now + SETTLE;
            }
            *self.flows.get_mut(slot)? = Some(flow);
        }
        self.endpoint(allocation, component)
    }

    /// Tells the filter in front of the sockets who may send.
    pub(super) fn admit(
        &mut self,
        allocation: AllocationId,
        component: Component,
        admission: Admission,
    ) {
        let flow = self.flows.get(allocation.slot as usize);
        let Some(Some(flow)) = flow else { return };
        if flow.allocation != allocation {
            return;
        }
        let local = component.address(flow.local);
        match admission {
            Admission::Nobody => self.guard.allow_latching(local, &[]),
            Admission::Hosts(hosts) => self.guard.allow_latching(local, &hosts.map(Into::into)),
            Admission::Anyone => self.guard.allow_any(local),
            Admission::Exact(source) => self.guard.allow_exact(local, source),
        }
    }

    fn guard_closed(&mut self, local: SocketAddr) {
        for component in Component::ALL {
            self.guard.remove(component.address(local));
        }
    }

    pub(super) fn release(&mut self, now: Instant, allocation: AllocationId) {
        if !self.has_flow(allocation) {
            self.relay.released(allocation);
            return;
        }
        for component in Component::ALL {
            self.lead(allocation, component, None);
            self.share(allocation, component, None);
            if let Some(endpoint) = self.endpoint(allocation, component) {
                endpoint.close();
                self.steer(now, allocation, component);
            }
        }
        self.release_if_quiet(allocation);
    }

    pub(super) fn release_if_quiet(&mut self, allocation: AllocationId) {
        let Some(slot) = self.flows.get_mut(allocation.slot as usize) else {
            return;
        };
        let quiet = slot.as_ref().is_some_and(|flow| {
            flow.allocation == allocation && flow.endpoints.iter().flatten().all(Endpoint::is_quiet)
        });
        if !quiet {
            return;
        }
        let Some(mut flow) = slot.take() else { return };
        if let Some(files) = flow.files {
            match self.ring.set_files(files, [None, None]) {
                Ok(()) => self.files.give_back(files),
                // Their ports stay taken, and these entries of the table.
                Err(_) => self.counters.socket_errors.add(1),
            }
        }
        flow.count_overflows(&self.counters);
        let local = flow.local;
        // Its own sockets first: a packet may find them as soon as the hub does not receive any more.
        drop(flow);
        if let Some(hub) = &mut self.hub {
            hub.end_lease(local);
        }
        self.guard_closed(local);
        self.counters.allocations.subtract(1);
        self.relay.released(allocation);
    }

    fn has_flow(&self, allocation: AllocationId) -> bool {
        let flow = self.flows.get(allocation.slot as usize);
        matches!(flow, Some(Some(flow)) if flow.allocation == allocation)
    }

    pub(super) fn flow_mut(&mut self, allocation: AllocationId) -> Option<&mut Flow> {
        flow_mut(&mut self.flows, allocation)
    }

    pub(super) fn endpoint(
        &mut self,
        allocation: AllocationId,
        component: Component,
    ) -> Option<&mut Endpoint> {
        endpoint(&mut self.flows, allocation, component)
    }
}

/// Whether the latency of an allocation's packets is measured.
pub(super) fn is_sampled(allocation: AllocationId) -> bool {
    allocation.slot.is_multiple_of(SAMPLED_LEGS)
}

fn flow_mut(flows: &mut [Option<Box<Flow>>], allocation: AllocationId) -> Option<&mut Flow> {
    let flow = flows.get_mut(allocation.slot as usize)?.as_deref_mut()?;
    (flow.allocation == allocation).then_some(flow)
}

/// For those who hold another part of the worker meanwhile.
pub(super) fn endpoint(
    flows: &mut [Option<Box<Flow>>],
    allocation: AllocationId,
    component: Component,
) -> Option<&mut Endpoint> {
    let flow = flow_mut(flows, allocation)?;
    flow.endpoints.get_mut(component.index())?.as_mut()
}
