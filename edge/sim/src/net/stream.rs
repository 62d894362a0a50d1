//! TCP and TLS connections: ordered, cut anywhere, slow, and at times broken.

use super::{Happening, Net};
use crate::scenario::HostId;
use crate::wire::Sip;
use bytes::{Bytes, BytesMut};
use edge_proto::b2bua::CloseReason;
use edge_proto::id::{ConnectionId, CoreId, ListenerId};
use edge_proto::time::{Duration, Instant};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

/// How far one end is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Connecting,
    Open,
    Closed,
}

/// One direction: bytes on their way, and where messages end in them.
#[derive(Debug, Default)]
struct Pipe {
    queue: VecDeque<Bytes>,
    /// Nothing arrives before what was sent earlier.
    free_at: Instant,
    written: u64,
    read: u64,
    ends: VecDeque<(u64, Rc<Sip>)>,
}

impl Pipe {
    /// Takes one chunk, or all of them, out. Gives the messages that are complete now.
    fn take(&mut self, all: bool) -> Option<(Bytes, Vec<Rc<Sip>>)> {
        let mut bytes = self.queue.pop_front()?;
        if all && !self.queue.is_empty() {
            let mut joined = BytesMut::from(&bytes[..]);
            while let Some(next) = self.queue.pop_front() {
                joined.extend_from_slice(&next);
            }
            bytes = joined.freeze();
        }
        self.read += bytes.len() as u64;
        let mut complete = Vec::new();
        while let Some((end, _)) = self.ends.front()
            && *end <= self.read
        {
            complete.extend(self.ends.pop_front().map(|(_, sip)| sip));
        }
        Some((bytes, complete))
    }
}

/// One connection.
#[derive(Debug)]
pub struct Conn {
    pub host: HostId,
    pub core: CoreId,
    pub listener: ListenerId,
    pub edge_address: SocketAddr,
    pub peer_address: SocketAddr,
    pub edge: End,
    pub peer: End,
    up: Pipe,
    down: Pipe,
    /// What the edge wrote before the connection was up.
    waiting: Vec<(Bytes, Option<Rc<Sip>>)>,
    broken: bool,
}

impl Net {
    pub fn conn(&self, id: ConnectionId) -> Option<&Conn> {
        self.conns.get(&id)
    }

    /// Whether the peer can write to it.
    pub fn is_usable(&self, id: ConnectionId) -> bool {
        self.conns
            .get(&id)
            .is_some_and(|conn| conn.peer == End::Open && !conn.broken)
    }

    /// Connections that the edge holds on a core.
    pub fn held_by(&self, core: CoreId) -> usize {
        let held = |(id, conn): &(&ConnectionId, &Conn)| match conn.edge {
            End::Open => conn.core == core,
            // The edge counts its own attempts, and does not know of others'.
            End::Connecting => conn.core == core && id.is_originated(),
            End::Closed => false,
        };
        self.conns.iter().filter(held).count()
    }

    /// A peer connects; which core accepts is chance.
    pub fn open(&mut self, host: HostId) -> ConnectionId {
        // Some peers connect from the port that they listen at, so that the edge may use it both ways.
        let listens = self.dice.chance(300);
        self.open_from(host, listens)
    }

    /// The same from a port that nobody will send requests to.
    pub fn open_apart(&mut self, host: HostId) -> ConnectionId {
        self.open_from(host, false)
    }

    fn open_from(&mut self, host: HostId, listens: bool) -> ConnectionId {
        self.serial += 1;
        let core = CoreId(self.dice.below(u32::from(self.scenario.cores)) as u8);
        let id = ConnectionId::accepted(core, self.serial);
        let (listener, edge_address) = self.scenario.places.listener_for(host);
        let mut peer_address = self.scenario.places.hosts[host].address;
        let taken = |conn: &Conn| conn.peer_address == peer_address && conn.edge != End::Closed;
        if !listens || self.conns.values().any(taken) {
            peer_address.set_port(10_000 + (self.serial % 20_000) as u16);
        }
        self.conns.insert(
            id,
            Conn {
                host,
                core,
                listener,
                edge_address,
                peer_address,
                edge: End::Connecting,
                peer: End::Open,
                up: Pipe::default(),
                down: Pipe::default(),
                waiting: Vec::new(),
                broken: false,
            },
        );
        let delay = self.latency();
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.up.free_at = self.now + delay;
        }
        self.after(delay, Happening::Accept(id));
        id
    }

    /// The edge connects to `remote`.
    pub fn connect(&mut self, id: ConnectionId, edge: SocketAddr, remote: SocketAddr) {
        let delay = self.latency();
        let host = self.scenario.places.listening_at(remote);
        let refused = self.dice.chance(self.scenario.network.refuse);
        let listener = host.map(|host| self.scenario.places.listener_for(host).0);
        self.conns.insert(
            id,
            Conn {
                host: host.unwrap_or_default(),
                core: id.core(),
                listener: listener.unwrap_or(ListenerId(0)),
                edge_address: edge,
                peer_address: remote,
                edge: End::Connecting,
                peer: End::Connecting,
                up: Pipe::default(),
                down: Pipe::default(),
                waiting: Vec::new(),
                broken: false,
            },
        );
        if host.is_some() && !refused {
            return self.after(delay, Happening::Connected(id));
        }
        self.coverage.hit("net: connection refused");
        let reason = match self.dice.below(2) {
            0 => CloseReason::ConnectFailed("refused".to_owned()),
            _ => CloseReason::TlsFailed("certificate expired".to_owned()),
        };
        // Refused at once, or found unreachable after a while.
        let delay = delay + self.dice.millis(0, 3_000);
        self.after(delay, Happening::EdgeClosed(id, reason));
    }

    /// The peer took the edge's connection. False: it broke meanwhile.
    pub fn connected(&mut self, id: ConnectionId) -> bool {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.broken) else {
            return false;
        };
        if conn.edge != End::Connecting {
            return false;
        }
        conn.edge = End::Open;
        conn.peer = End::Open;
        for (bytes, sip) in std::mem::take(&mut conn.waiting) {
            self.edge_send(id, bytes, sip);
        }
        true
    }

    /// The edge took the peer's connection. False: it broke meanwhile.
    pub fn accepted(&mut self, id: ConnectionId) -> bool {
        match self.conns.get_mut(&id) {
            Some(conn) if !conn.broken && conn.edge == End::Connecting => {
                conn.edge = End::Open;
                true
            }
            _ => false,
        }
    }

    /// The edge writes.
    pub fn edge_send(&mut self, id: ConnectionId, bytes: Bytes, sip: Option<Rc<Sip>>) {
        match self.conns.get_mut(&id) {
            Some(conn) if conn.edge == End::Connecting => conn.waiting.push((bytes, sip)),
            Some(conn) if conn.edge == End::Open && !conn.broken => {
                self.write(id, bytes, sip, false);
            }
            _ => {}
        }
    }

    /// A peer writes a message. False: the connection is of no use any more.
    pub fn peer_send(&mut self, id: ConnectionId, sip: &Rc<Sip>) -> bool {
        if !self.is_usable(id) {
            return false;
        }
        self.write(id, sip.raw.clone(), Some(sip.clone()), true);
        true
    }

    /// A peer writes bytes that are no message.
    pub fn peer_write(&mut self, id: ConnectionId, bytes: Bytes) {
        if self.is_usable(id) {
            self.write(id, bytes, None, true);
        }
    }

    fn write(&mut self, id: ConnectionId, bytes: Bytes, sip: Option<Rc<Sip>>, up: bool) {
        let pieces = self.pieces(bytes);
        for piece in pieces {
            let latency = self.latency();
            let Some(conn) = self.conns.get_mut(&id) else {
                return;
            };
            let pipe = if up { &mut conn.up } else { &mut conn.down };
            let at = pipe.free_at.max(self.now + latency);
            pipe.free_at = at;
            pipe.written += piece.len() as u64;
            pipe.queue.push_back(piece);
            let what = if up {
                Happening::ToEdge(id)
            } else {
                Happening::ToPeer(id)
            };
            self.agenda.plan(at, what);
        }
        if let Some(sip) = sip
            && let Some(conn) = self.conns.get_mut(&id)
        {
            let pipe = if up { &mut conn.up } else { &mut conn.down };
            let end = pipe.written;
            pipe.ends.push_back((end, sip));
        }
    }

    /// Cuts bytes at random offsets, at times at every one.
    fn pieces(&mut self, bytes: Bytes) -> Vec<Bytes> {
        let length = bytes.len() as u32;
        if length < 2 || !self.dice.chance(self.scenario.network.cut) {
            return vec![bytes];
        }
        self.coverage.hit("net: message cut");
        if length < 600 && self.dice.chance(20) {
            return (0..bytes.len()).map(|at| bytes.slice(at..=at)).collect();
        }
        let mut cuts: Vec<u32> = (0..self.dice.between(1, 4))
            .map(|_| self.dice.between(1, length - 1))
            .collect();
        cuts.extend([0, length]);
        cuts.sort_unstable();
        cuts.dedup();
        cuts.windows(2)
            .map(|pair| bytes.slice(pair[0] as usize..pair[1] as usize))
            .collect()
    }

    /// What arrives at the edge now: bytes, and the messages that they complete.
    pub fn take_up(&mut self, id: ConnectionId) -> Option<(Bytes, Vec<Rc<Sip>>)> {
        let all = self.dice.chance(200);
        let conn = self.conns.get_mut(&id)?;
        (conn.edge == End::Open && !conn.broken)
            .then(|| conn.up.take(all))
            .flatten()
    }

    /// The messages that are complete at the peer now.
    pub fn take_down(&mut self, id: ConnectionId) -> Vec<Rc<Sip>> {
        match self.conns.get_mut(&id) {
            Some(conn) if conn.peer == End::Open && !conn.broken => {
                conn.down.take(false).map_or(Vec::new(), |(_, sips)| sips)
            }
            _ => Vec::new(),
        }
    }

    /// The edge closes: what it wrote still arrives, what comes in is lost.
    pub fn edge_close(&mut self, id: ConnectionId) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.edge = End::Closed;
        let at = conn.down.free_at.max(self.now);
        self.agenda.plan(at, Happening::PeerClosed(id));
    }

    /// The peer closes in good order.
    pub fn peer_close(&mut self, id: ConnectionId) {
        let Some(conn) = self.conns.get_mut(&id).filter(|c| c.peer == End::Open) else {
            return;
        };
        conn.peer = End::Closed;
        let at = conn.up.free_at.max(self.now) + Duration::from_millis(1);
        self.agenda
            .plan(at, Happening::EdgeClosed(id, CloseReason::Peer));
    }

    /// The connection breaks: what is on its way is lost, and both ends learn of it.
    pub fn reset(&mut self, id: ConnectionId) {
        let Some(conn) = self.conns.get_mut(&id).filter(|conn| !conn.broken) else {
            return;
        };
        conn.broken = true;
        let (edge, peer) = (self.latency(), self.latency());
        self.after(edge, Happening::EdgeClosed(id, CloseReason::Peer));
        self.after(peer, Happening::PeerClosed(id));
    }

    /// The edge is told of an end. False: it closed the connection itself, or was told before.
    pub fn edge_learns_end(&mut self, id: ConnectionId) -> bool {
        match self.conns.get_mut(&id) {
            Some(conn) if conn.edge != End::Closed => {
                conn.edge = End::Closed;
                conn.broken = true;
                true
            }
            _ => false,
        }
    }

    pub fn peer_learns_end(&mut self, id: ConnectionId) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.peer = End::Closed;
        }
    }

    /// Breaks some connection, if fate wills it.
    pub fn misfortune(&mut self) {
        if !self.dice.chance(self.scenario.network.resets) {
            return;
        }
        let live: Vec<ConnectionId> = self
            .conns
            .iter()
            .filter(|(_, conn)| !conn.broken && conn.edge == End::Open && conn.peer == End::Open)
            .map(|(&id, _)| id)
            .collect();
        if !live.is_empty() {
            let id = *self.dice.pick(&live);
            self.coverage.hit("net: connection reset");
            self.trace.line(self.now, || format!("{id:?} is reset"));
            self.reset(id);
        }
    }
}
