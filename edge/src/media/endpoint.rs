//! One socket on the ring: which receive is armed on it, and how it gets from hearing everybody to hearing one peer and back.
//!
//! A connected socket is cheaper (no source in each buffer, no address with each send) and the kernel keeps strangers out of
//! it. But datagrams that were queued before connect() are still delivered after it, and a plain receive tells no source. So a
//! socket that was just connected keeps telling sources until it has been for [`SETTLE`], in which whatever was in flight in
//! the kernel arrives, and was then seen empty.

use super::counters::MediaCounters;
use super::ring::Ring;
use super::sockets::MediaSocket;
use super::token::{Kind, Token};
use edge_proto::id::AllocationId;
use edge_proto::relay::Component;
use edge_proto::time::{Duration, Instant};
use std::io;
use std::net::SocketAddr;

/// From connecting to the first look whether the queue is empty; also the pause after something failed.
pub const SETTLE: Duration = Duration::from_millis(100);

/// Receives that end in an error one after another before the next is armed only after a pause.
const MAX_FAILURES: u32 = 8;

/// The receive that is armed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Armed {
    No,
    /// [`Kind::ReceiveFrom`].
    TellingSource,
    /// [`Kind::Receive`], or [`Kind::ReceiveStamped`]; every packet is from the connected peer.
    Connected,
}

#[derive(Debug)]
pub struct Endpoint {
    allocation: AllocationId,
    component: Component,
    /// Index in the ring's file table.
    file: u32,
    socket: MediaSocket,
    armed: Armed,
    /// A cancellation of the armed receive is under way.
    cancelling: bool,
    /// The peer that the relay wants connected.
    wanted: Option<SocketAddr>,
    /// The peer that the socket is connected to.
    connected: Option<SocketAddr>,
    /// Nothing but the connected peer's packets can be queued any more.
    clean: bool,
    /// When to look whether it is clean.
    settled_at: Instant,
    /// Errors since the last packet.
    failures: u32,
    closing: bool,
    /// Counted as connected.
    exclusive: bool,
    /// Tells when its packets were received, once it is connected.
    stamped: bool,
    /// What [`MediaSocket::overflows`] told last.
    overflows: u32,
    /// A visit is planned.
    pub planned: bool,
}

impl Endpoint {
    pub fn new(
        allocation: AllocationId,
        component: Component,
        file: u32,
        socket: MediaSocket,
        stamped: bool,
    ) -> Self {
        Endpoint {
            stamped: stamped && socket.stamp_receives().is_ok(),
            allocation,
            component,
            file,
            socket,
            armed: Armed::No,
            cancelling: false,
            wanted: None,
            connected: None,
            clean: false,
            settled_at: Instant::ZERO,
            failures: 0,
            closing: false,
            exclusive: false,
            overflows: 0,
            planned: false,
        }
    }

    pub fn file(&self) -> u32 {
        self.file
    }

    pub fn token(&self, kind: Kind) -> Token {
        Token {
            kind,
            allocation: self.allocation,
            component: self.component,
        }
    }

    /// The peer of a connected socket: the source of every packet of a receive that tells none, and where a send without address goes.
    pub fn connected(&self) -> Option<SocketAddr> {
        self.connected
    }

    /// Says which peer to connect, `None` for none. Takes effect by [`Endpoint::steer`].
    pub fn want(&mut self, peer: Option<SocketAddr>) {
        self.wanted = peer;
    }

    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Whether a closing endpoint's socket can be closed: the kernel has no operation on it.
    pub fn is_quiet(&self) -> bool {
        self.closing && self.armed == Armed::No
    }

    /// Datagrams that the socket had no room for since the last call. One system call.
    pub fn take_overflows(&mut self) -> u64 {
        let Ok(overflows) = self.socket.overflows() else {
            return 0;
        };
        let new = overflows.wrapping_sub(self.overflows);
        self.overflows = overflows;
        u64::from(new)
    }

    /// A packet arrived: the socket works.
    pub fn heard(&mut self) {
        self.failures = 0;
    }

    /// The armed receive ended with `result` (a count, or a negative errno); [`Endpoint::steer`] arms the next.
    pub fn ended(&mut self, now: Instant, result: i32) {
        self.armed = Armed::No;
        self.cancelling = false;
        match -result {
            // Ended by us, or for want of buffers, or by an empty datagram; or an ICMP error was delivered, of which there
            // is at most one per packet sent.
            libc::ECANCELED | libc::ENOBUFS | libc::ECONNREFUSED => {}
            errno if errno <= 0 => {}
            _ => self.failures += 1,
        }
        if self.failures > MAX_FAILURES {
            self.settled_at = now + SETTLE;
        }
    }

    /// The cancellation found nothing, or could not end it. If the receive is armed yet, it is cancelled again.
    pub fn cancel_failed(&mut self) {
        self.cancelling = false;
    }

    /// Takes the next step towards what is wanted. Returns when to call again if nothing happens before.
    pub fn steer(
        &mut self,
        now: Instant,
        ring: &mut Ring,
        counters: &MediaCounters,
    ) -> Option<Instant> {
        let again = self.step(now, ring, counters);
        let exclusive = self.armed == Armed::Connected;
        match (self.exclusive, exclusive) {
            (false, true) => counters.connected_sockets.add(1),
            (true, false) => counters.connected_sockets.subtract(1),
            _ => {}
        }
        self.exclusive = exclusive;
        match again {
            Ok(again) => again,
            Err(_) => {
                counters.socket_errors.add(1);
                Some(now + SETTLE)
            }
        }
    }

    fn step(
        &mut self,
        now: Instant,
        ring: &mut Ring,
        counters: &MediaCounters,
    ) -> io::Result<Option<Instant>> {
        if self.closing {
            self.cancel(ring)?;
            return Ok(None);
        }
        match self.armed {
            Armed::Connected => {
                // First end the receive that tells no source, then let others in.
                if self.wanted != self.connected {
                    self.cancel(ring)?;
                }
                Ok(None)
            }
            Armed::TellingSource => {
                self.reconnect(now, counters)?;
                if self.connected.is_none() {
                    return Ok(None);
                }
                if now < self.settled_at {
                    return Ok(Some(self.settled_at));
                }
                self.cancel(ring)?;
                Ok(None)
            }
            Armed::No => {
                if self.failures > MAX_FAILURES {
                    if now < self.settled_at {
                        return Ok(Some(self.settled_at));
                    }
                    self.failures = 0;
                }
                self.reconnect(now, counters)?;
                self.arm(now, ring)
            }
        }
    }

    fn arm(&mut self, now: Instant, ring: &mut Ring) -> io::Result<Option<Instant>> {
        if self.connected.is_some() && !self.clean && now >= self.settled_at {
            self.clean = !self.socket.has_input();
            if !self.clean {
                // Packets come faster than they are read just now: look again later.
                self.settled_at = now + SETTLE;
            }
        }
        if self.connected.is_some() && self.clean {
            match self.connected_kind() {
                Kind::ReceiveStamped => {
                    ring.receive_stamped(self.file, self.token(Kind::ReceiveStamped))?;
                }
                kind => ring.receive(self.file, self.token(kind))?,
            }
            self.armed = Armed::Connected;
            return Ok(None);
        }
        ring.receive_from(self.file, self.token(Kind::ReceiveFrom))?;
        self.armed = Armed::TellingSource;
        Ok(self.connected.is_some().then_some(self.settled_at))
    }

    /// The receive for a connected socket.
    fn connected_kind(&self) -> Kind {
        if self.stamped {
            Kind::ReceiveStamped
        } else {
            Kind::Receive
        }
    }

    /// Connects or disconnects the socket. Must not be called while a receive is armed that tells no source.
    fn reconnect(&mut self, now: Instant, counters: &MediaCounters) -> io::Result<()> {
        if self.wanted == self.connected {
            return Ok(());
        }
        self.clean = false;
        match self.wanted {
            Some(peer) => match self.socket.connect(peer) {
                Ok(()) => {
                    self.connected = Some(peer);
                    self.settled_at = now + SETTLE;
                    Ok(())
                }
                // There is no route to it, say. An unconnected socket is as good, and the relay judges the sources.
                Err(_) => {
                    counters.socket_errors.add(1);
                    self.wanted = None;
                    self.disconnect()
                }
            },
            None => self.disconnect(),
        }
    }

    fn disconnect(&mut self) -> io::Result<()> {
        if self.connected.is_some() {
            self.socket.disconnect()?;
            self.connected = None;
        }
        Ok(())
    }

    fn cancel(&mut self, ring: &mut Ring) -> io::Result<()> {
        let kind = match self.armed {
            Armed::No => return Ok(()),
            Armed::TellingSource => Kind::ReceiveFrom,
            Armed::Connected => self.connected_kind(),
        };
        if !self.cancelling {
            ring.cancel(self.token(kind))?;
            self.cancelling = true;
        }
        Ok(())
    }
}
