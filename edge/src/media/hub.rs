//! The sockets that the flows of a media thread share: a few that receive per family, and one that sends.
//!
//! What a flow costs beside its packets' own work is mostly memory that the processor has not in its caches: several kilobytes of sockets,
//! files and their bookkeeping for each flow and direction. Shared sockets stay in the caches however many flows there are, and one of
//! them wakes the thread once for the packets of all.
//!
//! How much is shared ([`Sharing`]) depends on what the host permits. Where ports have sockets of their own all the same, these reserve
//! them, receive until the peer is known, and take what [`super::steering`] does not give to a shared one.

use super::counters::MediaCounters;
use super::endpoint::SETTLE;
use super::occupied::OccupiedPorts;
use super::received::SharedShape;
use super::ring::Ring;
use super::sockets::{MediaSocket, RawSender};
use super::steered::SharedSocket;
use super::steering::{SteeringError, ThreadSteering};
use super::token::Token;
use edge_proto::id::AllocationId;
use edge_proto::relay::{Component, DropReason};
use edge_proto::time::Instant;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Receivers at most: each [`Role`] for two families.
const RECEIVERS: u32 = 2 * Role::ALL.len() as u32;
/// Entries of the file table that a hub needs: its receivers, then a sender per family.
pub const FILES: u32 = RECEIVERS + 2;

/// Pairs of ports that a family has: even ones are RTP's, and the next is its RTCP's.
const PAIRS: usize = 1 << 15;

/// What the flows of a thread share, where the kernel permits it. Each includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Sharing {
    /// Sockets that receive the RTP of latched flows.
    Receivers,
    /// The socket that sends.
    Senders,
    /// Everything: ports have no sockets of their own, so nothing but the claim on the range keeps them from others.
    Ports,
}

/// What a shared socket receives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    /// Packets of latched sources, as many as audio has.
    Steady,
    /// The same, and tells when: for the flows whose latency is measured.
    Timed,
    /// What comes to RTP ports that are not latched.
    Unlatched,
    /// What others than its source send to a latched port, what that sends beyond the rate of any audio, and RTCP that is not latched.
    Excess,
}

impl Role {
    const ALL: [Role; 4] = [Role::Steady, Role::Timed, Role::Unlatched, Role::Excess];

    /// What a hub needs.
    fn of(sharing: Sharing) -> impl Iterator<Item = Role> {
        let ports = sharing == Sharing::Ports;
        Role::ALL
            .into_iter()
            .filter(move |role| ports || matches!(role, Role::Steady | Role::Timed))
    }
}

/// A socket that receives for many flows.
#[derive(Debug)]
struct Receiver {
    address: IpAddr,
    role: Role,
    socket: MediaSocket,
    shared: SharedSocket,
    shape: SharedShape,
    armed: bool,
    /// Not to be armed before.
    pause: Instant,
    /// What [`MediaSocket::overflows`] told last.
    overflows: u32,
}

/// A socket that sends for many flows: all that are at its address.
#[derive(Debug)]
struct Sender {
    address: IpAddr,
    socket: RawSender,
}

/// See the module. One media thread's.
#[derive(Debug)]
pub struct Hub {
    steering: ThreadSteering,
    sharing: Sharing,
    occupied: Arc<OccupiedPorts>,
    /// Their place is their number, and their file's from the first.
    receivers: Vec<Receiver>,
    /// By family (0: IPv4).
    senders: [Option<Sender>; 2],
    /// By family and half the port: whose it is.
    leases: [Vec<Option<AllocationId>>; 2],
    first_file: u32,
    /// What [`ThreadSteering::refused`] told last.
    refused: u64,
    faults: Vec<SteeringError>,
}

impl Hub {
    /// Opens the shared sockets, at none of the ports that flows have (`ports`), and shows them to the program. What cannot be had is left to
    /// the flows' own sockets, and told by [`Hub::faults`]. Of `occupied`
    /// ports none becomes a flow's that has no socket of its own.
    pub fn open(
        mut steering: ThreadSteering,
        (ports, occupied): (&RangeInclusive<u16>, Arc<OccupiedPorts>),
        sharing: Sharing,
    ) -> Hub {
        let mut receivers = Vec::new();
        let mut senders = [None, None];
        let mut leases = [Vec::new(), Vec::new()];
        let mut faults = Vec::new();
        for address in steering.addresses().to_vec() {
            let opened = Role::of(sharing)
                .map(|role| receiver(&mut steering, (address, ports), role))
                .collect::<Result<Vec<_>, _>>();
            match opened {
                Ok(opened) => receivers.extend(opened),
                Err(error) => faults.push(error),
            }
            let sender = match RawSender::open(address) {
                _ if sharing < Sharing::Senders => None,
                Ok(socket) => Some(Sender { address, socket }),
                Err(error) => {
                    faults.push(SteeringError::system("opening a raw socket")(error));
                    None
                }
            };
            let place = (
                senders.get_mut(family(address)),
                leases.get_mut(family(address)),
            );
            if let (Some(place), Some(leases)) = place {
                *place = sender;
                leases.resize(PAIRS, None);
            }
        }
        Hub {
            steering,
            sharing,
            occupied,
            receivers,
            senders,
            leases,
            first_file: 0,
            refused: 0,
            faults,
        }
    }

    /// Why flows share less than they could.
    pub fn faults(&self) -> &[SteeringError] {
        &self.faults
    }

    /// Puts the sockets into the ring's file table, from `first` on, [`FILES`] of them at most.
    pub fn register(&mut self, ring: &mut Ring, first: u32) -> io::Result<()> {
        self.first_file = first;
        for (file, receiver) in (first..).zip(&self.receivers) {
            ring.set_files(file, [Some(receiver.socket.as_fd())])?;
        }
        for (file, sender) in (first + RECEIVERS..).zip(&self.senders) {
            if let Some(sender) = sender {
                ring.set_files(file, [Some(sender.socket.as_fd())])?;
            }
        }
        Ok(())
    }

    /// Arms the receives that are not. Returns when to call again for those that have to wait.
    pub fn arm(&mut self, now: Instant, ring: &mut Ring) -> Option<Instant> {
        for (number, receiver) in (0..).zip(&mut self.receivers) {
            if !receiver.armed && receiver.pause <= now {
                let file = self.first_file + number;
                let armed = ring.receive_shared(file, Token::shared(number), receiver.shape);
                receiver.armed = armed.is_ok();
            }
        }
        let waiting = self.receivers.iter().filter(|receiver| !receiver.armed);
        waiting.map(|receiver| receiver.pause.max(now)).min()
    }

    /// What the receive of [`Token::shared`] leaves in a buffer.
    pub fn shape(&self, number: u32) -> Option<SharedShape> {
        let receiver = self.receivers.get(number as usize)?;
        Some(receiver.shape)
    }

    /// The receive of [`Token::shared`] has ended with `result` (a count, or a negative errno). For want of buffers it is armed again at
    /// once, after any other error later.
    pub fn ended(&mut self, now: Instant, number: u32, result: i32, counters: &MediaCounters) {
        let Some(receiver) = self.receivers.get_mut(number as usize) else {
            return;
        };
        receiver.armed = false;
        if result < 0 && result != -libc::ENOBUFS {
            counters.socket_errors.add(1);
            receiver.pause = now + SETTLE;
        }
    }

    /// Whether the ports at `address` need no sockets of their own.
    pub fn replaces_sockets(&self, address: IpAddr) -> bool {
        self.sharing == Sharing::Ports
            && self.sender_of(address).is_some()
            && self.receiver(address, Role::Excess).is_some()
    }

    /// The same of all addresses.
    pub fn replaces_all_sockets(&self) -> bool {
        let addresses = self.steering.addresses();
        !addresses.is_empty() && addresses.iter().all(|&one| self.replaces_sockets(one))
    }

    /// From now on `local` (an RTP port) and the next (its RTCP's) are `allocation`'s. Where they need no sockets of their own, shared ones
    /// receive what comes there; the error says why not.
    pub fn lease(&mut self, local: SocketAddr, allocation: AllocationId) -> Result<(), String> {
        if self.replaces_sockets(local.ip()) {
            if self.owner(local).is_some() {
                return Err(format!("{local} has an owner"));
            }
            let ports = Component::ALL.map(|component| component.address(local));
            if let Some(port) = ports.iter().find(|port| self.occupied.contains(**port)) {
                return Err(format!("{port} is bound by another socket"));
            }
            for port in ports {
                self.unlatch(port);
            }
        }
        if let Some(lease) = self.lease_mut(local) {
            *lease = Some(allocation);
        }
        Ok(())
    }

    /// From now on `local` (an RTP port) and the next are nobody's.
    pub fn end_lease(&mut self, local: SocketAddr) {
        for component in Component::ALL {
            self.steering.unlatch(component.address(local), None);
            // A socket that only sent may have been seen there.
            self.occupied.forget(component.address(local));
        }
        if let Some(lease) = self.lease_mut(local) {
            *lease = None;
        }
    }

    /// Whose port `local` is.
    pub fn owner(&self, local: SocketAddr) -> Option<(AllocationId, Component)> {
        let leases = self.leases.get(family(local.ip()))?;
        let allocation = (*leases.get(usize::from(local.port() / 2))?)?;
        Some((allocation, component(local)))
    }

    /// Packets from `source` to the port `local` are received by a shared socket from now on, one that tells when (`timed`) or one that does
    /// not. False where that is not to be had.
    pub fn latch(&mut self, local: SocketAddr, source: SocketAddr, timed: bool) -> bool {
        let role = if timed { Role::Timed } else { Role::Steady };
        let Some(socket) = self.receiver(local.ip(), role) else {
            return false;
        };
        let others = self.others(local.ip(), Role::Excess);
        self.steering.latch(local, (source, socket), others);
        true
    }

    /// Whatever comes to the port `local` is received by its own socket from now on, or by the one that all such ports share.
    pub fn unlatch(&mut self, local: SocketAddr) {
        // Many peers never send RTCP: ports that wait for it for ever are not among those of new calls.
        let role = match component(local) {
            Component::Rtp => Role::Unlatched,
            Component::Rtcp => Role::Excess,
        };
        let others = self.others(local.ip(), role);
        self.steering.unlatch(local, others);
    }

    /// The file of the raw socket that sends for `local`.
    pub fn sender(&self, local: SocketAddr) -> Option<u32> {
        self.sender_of(local.ip())?;
        Some(self.first_file + RECEIVERS + family(local.ip()) as u32)
    }

    /// Counts what the shared sockets had no room for, and what the program refused, since the last call. One system call for each.
    pub fn count_lost(&mut self, counters: &MediaCounters) {
        for receiver in &mut self.receivers {
            let Ok(overflows) = receiver.socket.overflows() else {
                continue;
            };
            let new = overflows.wrapping_sub(receiver.overflows);
            receiver.overflows = overflows;
            counters.drop_packets(DropReason::QueueFull, u64::from(new));
        }
        let refused = self.steering.refused();
        counters.drop_packets(DropReason::Stranger, refused.saturating_sub(self.refused));
        self.refused = self.refused.max(refused);
    }

    /// The socket for what is not of a latched source; `None`: that of the port itself.
    fn others(&self, address: IpAddr, role: Role) -> Option<SharedSocket> {
        let socket = self.receiver(address, role);
        socket.filter(|_| self.replaces_sockets(address))
    }

    fn receiver(&self, address: IpAddr, role: Role) -> Option<SharedSocket> {
        let mut receivers = self.receivers.iter();
        let receiver = receivers.find(|one| one.address == address && one.role == role)?;
        Some(receiver.shared)
    }

    fn sender_of(&self, address: IpAddr) -> Option<&Sender> {
        let sender = self.senders.get(family(address))?.as_ref();
        sender.filter(|sender| sender.address == address)
    }

    fn lease_mut(&mut self, local: SocketAddr) -> Option<&mut Option<AllocationId>> {
        let leases = self.leases.get_mut(family(local.ip()))?;
        leases.get_mut(usize::from(local.port() / 2))
    }
}

fn receiver(
    steering: &mut ThreadSteering,
    (address, ports): (IpAddr, &RangeInclusive<u16>),
    role: Role,
) -> Result<Receiver, SteeringError> {
    let stamped = role == Role::Timed;
    let open = || {
        let for_media = matches!(role, Role::Steady | Role::Timed);
        let Some(socket) = MediaSocket::shared(address, ports, for_media)? else {
            return Ok(None);
        };
        if stamped {
            socket.stamp_receives()?;
        }
        Ok(Some((socket.local()?, socket)))
    };
    let opened = open().map_err(SteeringError::system("opening a shared socket"))?;
    let (own, socket) = opened.ok_or(SteeringError::NoPort(address))?;
    // Only what is steered may reach it: whoever sent to its own port would fill the queue of all.
    steering.close(own);
    Ok(Receiver {
        shared: steering.enlist(&socket)?,
        address,
        role,
        socket,
        shape: SharedShape {
            ipv6: address.is_ipv6(),
            stamped,
        },
        armed: false,
        pause: Instant::ZERO,
        overflows: 0,
    })
}

/// Of what the port is: RTP's are even (RFC 3550 §11).
fn component(local: SocketAddr) -> Component {
    match local.port() % 2 {
        0 => Component::Rtp,
        _ => Component::Rtcp,
    }
}

fn family(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}
