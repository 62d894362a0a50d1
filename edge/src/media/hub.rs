//! The sockets that the flows of a media thread share: one that receives per family, and one that sends.
//!
//! What a flow costs beside its packets' own work is mostly memory that the processor has not in its caches: several kilobytes of sockets,
//! files and their bookkeeping for each flow and direction. Shared sockets stay in the caches however many flows there are, and one of
//! them wakes the thread once for the packets of all.
//!
//! Ports keep a socket of their own all the same. It reserves the port, it receives until the peer is known, and it takes what
//! [`super::steering`] does not give to the shared one.

use super::counters::MediaCounters;
use super::endpoint::SETTLE;
use super::received::SharedShape;
use super::ring::Ring;
use super::sockets::{MediaSocket, RawSender};
use super::steering::{SharedSocket, SteeringError, ThreadSteering};
use super::token::Token;
use edge_proto::id::AllocationId;
use edge_proto::relay::DropReason;
use edge_proto::time::Instant;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;

/// Receivers at most: per family one that tells when it received a packet, and one that does not.
const RECEIVERS: u32 = 4;
/// Entries of the file table that a hub needs: its receivers, then a sender per family.
pub const FILES: u32 = RECEIVERS + 2;

/// Half the ports of a family: RTP's are even, and RTCP is not steered, since a packet every few seconds gains nothing.
const LEASES: usize = 1 << 15;

/// A socket that receives for many flows.
#[derive(Debug)]
struct Receiver {
    address: IpAddr,
    socket: MediaSocket,
    shared: SharedSocket,
    /// Stamped: it tells when it received a packet, for the flows whose latency is measured.
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
    /// Their place is their number, and their file's from the first.
    receivers: Vec<Receiver>,
    /// By family (0: IPv4).
    senders: [Option<Sender>; 2],
    /// By family and half the port: whose it is.
    leases: [Vec<Option<AllocationId>>; 2],
    first_file: u32,
    faults: Vec<SteeringError>,
}

impl Hub {
    /// Opens the shared sockets, at none of the ports that flows have (`ports`), and shows them to the program. What cannot be had is left to
    /// the flows' own sockets, and told by [`Hub::faults`]. Unless `send`, flows share only the sockets that receive.
    pub fn open(mut steering: ThreadSteering, ports: &RangeInclusive<u16>, send: bool) -> Hub {
        let mut receivers = Vec::new();
        let mut senders = [None, None];
        let mut leases = [Vec::new(), Vec::new()];
        let mut faults = Vec::new();
        for address in steering.addresses().to_vec() {
            let opened = [false, true]
                .map(|stamped| receiver(&mut steering, (address, ports), stamped))
                .into_iter()
                .collect::<Result<Vec<_>, _>>();
            match opened {
                Ok(opened) => receivers.extend(opened),
                Err(error) => faults.push(error),
            }
            let sender = match RawSender::open(address) {
                _ if !send => None,
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
                leases.resize(LEASES, None);
            }
        }
        Hub {
            steering,
            receivers,
            senders,
            leases,
            first_file: 0,
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

    /// From now on `local` (an RTP port) is `allocation`'s.
    pub fn lease(&mut self, local: SocketAddr, allocation: AllocationId) {
        if let Some(lease) = self.lease_mut(local) {
            *lease = Some(allocation);
        }
    }

    /// `local` is nobody's.
    pub fn end_lease(&mut self, local: SocketAddr) {
        if let Some(lease) = self.lease_mut(local) {
            *lease = None;
        }
    }

    /// Whose RTP port `local` is.
    pub fn owner(&self, local: SocketAddr) -> Option<AllocationId> {
        let leases = self.leases.get(family(local.ip()))?;
        let lease = leases.get(usize::from(local.port() / 2))?;
        lease.filter(|_| local.port().is_multiple_of(2))
    }

    /// Packets from `source` to `local` are received by a shared socket from now on, one that tells when (`stamped`) or one that does
    /// not. False where that is not to be had.
    pub fn steer(&mut self, local: SocketAddr, source: SocketAddr, stamped: bool) -> bool {
        let mut receivers = self.receivers.iter();
        let receiver =
            receivers.find(|one| one.address == local.ip() && one.shape.stamped == stamped);
        receiver.is_some_and(|one| self.steering.steer(local, source, one.shared).is_ok())
    }

    /// All packets to `local` are received by its own socket from now on.
    pub fn stop_steering(&mut self, local: SocketAddr) {
        // It fails for no address that was ever steered.
        let _ = self.steering.stop(local);
    }

    /// The file of the raw socket that sends for `local`.
    pub fn sender(&self, local: SocketAddr) -> Option<u32> {
        self.sender_of(local.ip())?;
        Some(self.first_file + RECEIVERS + family(local.ip()) as u32)
    }

    /// Counts what the shared sockets had no room for since the last call. One system call for each.
    pub fn count_overflows(&mut self, counters: &MediaCounters) {
        for receiver in &mut self.receivers {
            let Ok(overflows) = receiver.socket.overflows() else {
                continue;
            };
            let new = overflows.wrapping_sub(receiver.overflows);
            receiver.overflows = overflows;
            counters.drop_packets(DropReason::QueueFull, u64::from(new));
        }
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
    stamped: bool,
) -> Result<Receiver, SteeringError> {
    let open = || {
        let Some(socket) = MediaSocket::shared(address, ports)? else {
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
    steering.close(own)?;
    Ok(Receiver {
        shared: steering.enlist(&socket)?,
        address,
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

fn family(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}
