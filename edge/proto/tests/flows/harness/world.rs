//! A world of virtual time around the B2BUA: its cores, the connections to its peers, and a media thread that obeys.

use super::laws::Laws;
use super::peers::{Site, V4, V6};
use bytes::Bytes;
use edge_proto::b2bua::{
    B2bua, B2buaParams, CloseReason, Input, Output, ResolveQuery, SharedKeys, TlsTarget,
};
use edge_proto::config::*;
use edge_proto::event::Event;
use edge_proto::id::{AllocationId, ConnectionId, CoreId, ListenerId, ResolveId};
use edge_proto::relay::{MediaCommand, MediaEvent, MediaStats};
use edge_proto::sip::{Frame, Message, MessageLimits, StreamFramer};
use edge_proto::time::{Duration, Instant};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

/// What a peer's messages travel by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Link {
    Stream(ConnectionId),
    /// Datagrams to this listener.
    Datagram(ListenerId),
}

struct Wire {
    peer: SocketAddr,
    framer: StreamFramer,
    open: bool,
}

/// How peers' bytes are cut on their way to the edge.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Cut {
    /// A message is one piece.
    #[default]
    Whole,
    /// Each message that is longer is cut at this offset.
    At(usize),
    /// Every byte comes alone.
    Bytes,
}

/// Something that crossed the border, for the ladder that a failing test prints, and to compare two runs by.
#[derive(Clone, PartialEq, Debug)]
pub struct Crossing {
    pub at: Instant,
    pub to_edge: bool,
    pub peer: SocketAddr,
    pub bytes: Bytes,
}

/// A connection that the edge asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connect {
    pub connection: ConnectionId,
    pub transport: Transport,
    pub remote: SocketAddr,
    pub tls: Option<TlsTarget>,
}

/// Everything outside the B2BUA.
pub struct World {
    pub now: Instant,
    pub cores: Vec<B2bua>,
    pub config: Arc<Config>,
    pub site: Site,
    wires: BTreeMap<ConnectionId, Wire>,
    /// Messages that reached each peer.
    inboxes: BTreeMap<SocketAddr, VecDeque<(Link, Message)>>,
    pub events: Vec<Event>,
    pub media: Vec<(CoreId, MediaCommand)>,
    /// Allocations that are open on each core.
    pub open: BTreeMap<(CoreId, AllocationId), SocketAddr>,
    /// Those that could not be opened, which the core has not heard yet.
    unopened: Vec<(CoreId, AllocationId)>,
    pub crossings: Vec<Crossing>,
    pub cut: Cut,
    pub handoffs: usize,
    /// Queues between cores are full.
    pub queues_full: bool,
    pub connects: Vec<Connect>,
    pub resolves: VecDeque<(CoreId, ResolveId, ResolveQuery)>,
    /// Peers that refuse connections.
    pub refusing: Vec<SocketAddr>,
    /// Peers that let connections wait until [`World::decide`].
    pub undecided: Vec<SocketAddr>,
    waiting: Vec<(CoreId, ConnectionId, SocketAddr)>,
    /// Peers whose TLS does not verify, and why.
    pub untrusted: Vec<(SocketAddr, &'static str)>,
    pub closed: Vec<ConnectionId>,
    /// How many of the next media ports cannot be opened.
    pub ports_taken: usize,
    /// The same once so many others were opened: (others, taken).
    pub ports_taken_after: Option<(usize, usize)>,
    /// Datagrams that get lost on their way to each peer, from the next one on.
    pub losing: BTreeMap<SocketAddr, usize>,
    pub laws: Laws,
    serial: u64,
    names: u64,
}

impl World {
    pub fn new(config: Config, cores: u8) -> World {
        let config = Arc::new(config);
        let keys = SharedKeys {
            nonce: [1; 32],
            owner: [2; 32],
        };
        let site = if config.listeners.iter().all(|l| l.address.is_ipv6()) {
            V6
        } else {
            V4
        };
        let cores = (0..cores)
            .map(|core| {
                B2bua::new(
                    B2buaParams {
                        config: config.clone(),
                        core: CoreId(core),
                        cores,
                        seed: [core + 10; 32],
                        keys: keys.clone(),
                    },
                    Instant::ZERO,
                )
            })
            .collect();
        World {
            now: Instant::ZERO,
            cores,
            config,
            site,
            wires: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            events: Vec::new(),
            media: Vec::new(),
            open: BTreeMap::new(),
            unopened: Vec::new(),
            crossings: Vec::new(),
            cut: Cut::Whole,
            handoffs: 0,
            queues_full: false,
            connects: Vec::new(),
            resolves: VecDeque::new(),
            refusing: Vec::new(),
            undecided: Vec::new(),
            waiting: Vec::new(),
            untrusted: Vec::new(),
            closed: Vec::new(),
            ports_taken: 0,
            ports_taken_after: None,
            losing: BTreeMap::new(),
            laws: Laws::default(),
            serial: 0,
            names: 0,
        }
    }

    // --- peers -----------------------------------------------------------------------------------------------------

    /// A peer connects; the kernel gives each new connection to the next core.
    pub fn connect(&mut self, peer: SocketAddr) -> ConnectionId {
        self.connect_to(ListenerId(0), peer)
    }

    pub fn connect_to(&mut self, listener: ListenerId, peer: SocketAddr) -> ConnectionId {
        let core = self.serial % self.cores.len() as u64;
        self.connect_at(listener, peer, CoreId(core as u8))
    }

    pub fn connect_at(
        &mut self,
        listener: ListenerId,
        peer: SocketAddr,
        core: CoreId,
    ) -> ConnectionId {
        self.serial += 1;
        let connection = ConnectionId::accepted(core, self.serial);
        self.wire(connection, peer);
        let local = self.config.listeners[usize::from(listener.0)].address;
        self.input(
            core,
            Input::Accepted {
                connection,
                listener,
                local,
                remote: peer,
            },
        );
        connection
    }

    /// A number that was not given out before.
    pub fn fresh(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    fn wire(&mut self, connection: ConnectionId, peer: SocketAddr) {
        self.wires.insert(
            connection,
            Wire {
                peer,
                framer: StreamFramer::new(MessageLimits::default()),
                open: true,
            },
        );
    }

    pub fn is_open(&self, connection: ConnectionId) -> bool {
        self.wires.get(&connection).is_some_and(|wire| wire.open)
    }

    /// Connections that are open to `peer`.
    pub fn connections(&self, peer: SocketAddr) -> Vec<ConnectionId> {
        self.wires
            .iter()
            .filter(|(_, wire)| wire.open && wire.peer == peer)
            .map(|(&id, _)| id)
            .collect()
    }

    /// A message from a peer at `address`.
    pub fn send(&mut self, link: Link, address: SocketAddr, text: impl Into<Bytes>) {
        let bytes: Bytes = text.into();
        self.crossings.push(Crossing {
            at: self.now,
            to_edge: true,
            peer: address,
            bytes: bytes.clone(),
        });
        match link {
            Link::Stream(connection) => {
                for piece in self.pieces(bytes) {
                    self.input(
                        connection.core(),
                        Input::Received {
                            connection,
                            bytes: piece,
                        },
                    );
                }
            }
            Link::Datagram(listener) => {
                // The kernel spreads datagrams over the cores by their addresses.
                let core = CoreId((usize::from(address.port()) % self.cores.len()) as u8);
                self.input(
                    core,
                    Input::Datagram {
                        listener,
                        source: address,
                        bytes,
                    },
                );
            }
        }
    }

    fn pieces(&self, mut bytes: Bytes) -> Vec<Bytes> {
        match self.cut {
            Cut::At(offset) if offset < bytes.len() => {
                let head = bytes.split_to(offset);
                vec![head, bytes]
            }
            Cut::Whole | Cut::At(_) => vec![bytes],
            Cut::Bytes => (0..bytes.len()).map(|i| bytes.slice(i..=i)).collect(),
        }
    }

    /// The peer closes the connection.
    pub fn reset(&mut self, connection: ConnectionId) {
        if let Some(wire) = self.wires.get_mut(&connection) {
            wire.open = false;
        }
        self.input(
            connection.core(),
            Input::Closed {
                connection,
                reason: CloseReason::Peer,
            },
        );
    }

    /// The next message that reached `peer`.
    pub fn try_recv(&mut self, peer: SocketAddr) -> Option<(Link, Message)> {
        self.inboxes.get_mut(&peer)?.pop_front()
    }

    pub fn recv(&mut self, peer: SocketAddr) -> (Link, Message) {
        self.try_recv(peer)
            .unwrap_or_else(|| panic!("nothing (more) reached {peer}"))
    }

    /// Nothing (more) reached `peer`.
    pub fn assert_silent(&self, peer: SocketAddr) {
        if let Some((_, message)) = self.inboxes.get(&peer).and_then(|inbox| inbox.front()) {
            panic!("unexpected for {peer}:\n{}", text(message));
        }
    }

    fn assert_all_silent(&self) {
        for &peer in self.inboxes.keys() {
            self.assert_silent(peer);
        }
    }

    // --- the driver ------------------------------------------------------------------------------------------------

    /// Hands an input to a core and carries out everything that follows from it, on all cores.
    pub fn input(&mut self, core: CoreId, input: Input) {
        let mut pending = VecDeque::from([(core, input)]);
        while let Some((core, input)) = pending.pop_front() {
            if let Input::Media(MediaEvent::OpenFailed { allocation, .. }) = input {
                self.unopened.retain(|known| *known != (core, allocation));
            }
            let index = usize::from(core.0);
            self.cores[index].handle(self.now, input);
            while let Some(output) = self.cores[index].poll_output() {
                self.output(core, output, &mut pending);
            }
        }
    }

    /// The same input for every core.
    pub fn input_all(&mut self, input: Input) {
        for core in 0..self.cores.len() {
            self.input(CoreId(core as u8), input.clone());
        }
    }

    /// Connections that wait are taken or refused, and none waits any more.
    pub fn decide(&mut self) {
        self.undecided.clear();
        for (core, connection, remote) in std::mem::take(&mut self.waiting) {
            let input = self.connecting(connection, remote);
            self.input(core, input);
        }
    }

    fn output(&mut self, core: CoreId, output: Output, pending: &mut VecDeque<(CoreId, Input)>) {
        match output {
            Output::Connect {
                connection,
                transport,
                remote,
                tls,
                ..
            } => {
                assert_eq!(connection.core(), core);
                if self.undecided.contains(&remote) {
                    self.waiting.push((core, connection, remote));
                } else {
                    pending.push_back((core, self.connecting(connection, remote)));
                }
                self.connects.push(Connect {
                    connection,
                    transport,
                    remote,
                    tls,
                });
            }
            Output::Transmit { connection, bytes } => {
                assert_eq!(connection.core(), core, "a connection of another core");
                self.deliver(connection, &bytes);
            }
            Output::Datagram {
                listener,
                destination,
                bytes,
            } => self.deliver_datagram(listener, destination, bytes),
            Output::Close { connection } => {
                self.closed.push(connection);
                if let Some(wire) = self.wires.get_mut(&connection) {
                    wire.open = false;
                }
            }
            Output::Resolve { id, query } => self.resolves.push_back((core, id, query)),
            Output::Media(command) => {
                if let Some(event) = self.media_thread(core, &command) {
                    pending.push_back((core, Input::Media(event)));
                }
                self.media.push((core, command));
            }
            Output::Handoff { core: to, message } => {
                assert_ne!(to, core, "a handoff to itself");
                self.handoffs += 1;
                pending.push_back(if self.queues_full {
                    (core, Input::HandoffRejected { core: to, message })
                } else {
                    (to, Input::Handoff(message))
                });
            }
            Output::Event(event) => self.events.push(event),
        }
    }

    fn connecting(&mut self, connection: ConnectionId, remote: SocketAddr) -> Input {
        let untrusted = self.untrusted.iter().find(|(peer, _)| *peer == remote);
        let reason = if self.refusing.contains(&remote) {
            CloseReason::ConnectFailed("connection refused".into())
        } else if let Some((_, why)) = untrusted {
            CloseReason::TlsFailed((*why).into())
        } else {
            self.wire(connection, remote);
            return Input::Connected {
                connection,
                local: SocketAddr::new(self.site.edge.ip(), 40_000),
            };
        };
        Input::Closed { connection, reason }
    }

    fn deliver(&mut self, connection: ConnectionId, bytes: &Bytes) {
        let Some(wire) = self.wires.get_mut(&connection).filter(|wire| wire.open) else {
            return;
        };
        let peer = wire.peer;
        self.crossings.push(Crossing {
            at: self.now,
            to_edge: false,
            peer,
            bytes: bytes.clone(),
        });
        wire.framer.push(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = wire.framer.next().expect("the edge frames its messages") {
            frames.push(frame);
        }
        for frame in frames {
            if let Frame::Message(raw) = frame {
                self.take_in(peer, Link::Stream(connection), raw);
            }
        }
    }

    fn deliver_datagram(&mut self, listener: ListenerId, peer: SocketAddr, bytes: Bytes) {
        if let Some(left) = self.losing.get_mut(&peer).filter(|left| **left > 0) {
            *left -= 1;
            return;
        }
        self.crossings.push(Crossing {
            at: self.now,
            to_edge: false,
            peer,
            bytes: bytes.clone(),
        });
        self.take_in(peer, Link::Datagram(listener), bytes);
    }

    fn take_in(&mut self, peer: SocketAddr, link: Link, raw: Bytes) {
        let message = Message::parse(raw, &MessageLimits::default())
            .expect("the edge sends well-formed messages");
        self.laws.sent(&self.site, peer, &message);
        self.inboxes
            .entry(peer)
            .or_default()
            .push_back((link, message));
    }

    fn media_thread(&mut self, core: CoreId, command: &MediaCommand) -> Option<MediaEvent> {
        match *command {
            MediaCommand::Open { allocation, .. } if self.ports_taken > 0 => {
                self.ports_taken -= 1;
                self.unopened.push((core, allocation));
                Some(MediaEvent::OpenFailed {
                    allocation,
                    reason: "address in use".into(),
                })
            }
            MediaCommand::Open {
                allocation, local, ..
            } => {
                let taken = self.open.values().any(|&port| port == local);
                assert!(!taken, "{local} is leased twice");
                self.open.insert((core, allocation), local);
                if let Some((others, count)) = self.ports_taken_after.as_mut() {
                    *others -= 1;
                    if *others == 0 {
                        self.ports_taken = *count;
                        self.ports_taken_after = None;
                    }
                }
                Some(MediaEvent::Opened { allocation })
            }
            MediaCommand::Close { allocation } => {
                self.assert_wanted(core, allocation);
                self.open.remove(&(core, allocation));
                Some(MediaEvent::Closed {
                    allocation,
                    stats: MediaStats::default(),
                })
            }
            MediaCommand::SetRemote { allocation, .. } | MediaCommand::Unbridge { allocation } => {
                self.assert_wanted(core, allocation);
                None
            }
            MediaCommand::Bridge { a, b, .. } => {
                assert!(self.open.contains_key(&(core, a)));
                assert!(self.open.contains_key(&(core, b)));
                None
            }
        }
    }

    /// An allocation that is open, as far as the core can know.
    fn assert_wanted(&self, core: CoreId, allocation: AllocationId) {
        let id = (core, allocation);
        let wanted = self.open.contains_key(&id) || self.unopened.contains(&id);
        assert!(wanted, "{allocation:?} is not open");
    }

    /// The media thread reports that the peer whose RTP port is `port` has gone silent.
    pub fn silence(&mut self, port: u16) {
        let (core, allocation) = self
            .media
            .iter()
            .rev()
            .find_map(|(core, command)| match command {
                MediaCommand::SetRemote { allocation, remote } if remote.rtp.port() == port => {
                    Some((*core, *allocation))
                }
                _ => None,
            })
            .expect("a leg with that port");
        self.input(core, Input::Media(MediaEvent::Timeout { allocation }));
    }

    /// Answers the oldest question to the resolver.
    pub fn resolve(&mut self, result: Result<Vec<SocketAddr>, String>) -> ResolveQuery {
        let (core, id, query) = self.resolves.pop_front().expect("a question");
        self.input(core, Input::Resolved { id, result });
        query
    }

    pub fn reload(&mut self, config: Config) {
        self.config = Arc::new(config);
        self.input_all(Input::Reload(self.config.clone()));
    }

    // --- time ------------------------------------------------------------------------------------------------------

    /// Lets `time` pass, firing every timer on the way.
    pub fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let due = self
                .cores
                .iter()
                .enumerate()
                .filter_map(|(index, core)| Some((core.poll_timeout()?, index)))
                .min();
            let Some((at, index)) = due.filter(|&(at, _)| at <= end) else {
                break;
            };
            self.now = self.now.max(at);
            self.input(CoreId(index as u8), Input::Timeout);
        }
        self.now = end;
    }

    /// Checks that every message was looked at, lets enough time pass for everything to end, and checks that nothing is left.
    pub fn assert_all_over(&mut self) {
        self.assert_all_silent();
        self.advance(Duration::from_secs(300));
        self.assert_all_silent();
        for core in &self.cores {
            assert_eq!(core.leftovers(), []);
            assert!(core.is_idle());
            assert_eq!(core.poll_timeout(), None, "a timer is left");
        }
        assert!(self.open.is_empty(), "allocations left: {:?}", self.open);
        assert!(self.resolves.is_empty(), "questions left");
        for trunk in &self.config.trunks {
            let legs = trunk.load.legs.load(std::sync::atomic::Ordering::Relaxed);
            assert_eq!(legs, 0, "legs of {} are still counted", trunk.name);
        }
        super::laws::reported(&self.events);
    }
}

/// A failing test shows what crossed the border, and the last events.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        eprintln!("--- {} core(s), {:?} ---", self.cores.len(), self.now);
        for crossing in &self.crossings {
            let way = if crossing.to_edge { "->" } else { "<-" };
            let text = String::from_utf8_lossy(&crossing.bytes).into_owned();
            let first = text.lines().next().unwrap_or_default();
            let cseq = text
                .lines()
                .find(|line| line.starts_with("CSeq"))
                .unwrap_or_default();
            eprintln!("{:?} {} {way} {first} | {cseq}", crossing.at, crossing.peer);
        }
        for line in self.timeline() {
            eprintln!("{line}");
        }
    }
}

/// A message as text, for assertions and panics.
pub fn text(message: &Message) -> String {
    String::from_utf8_lossy(message.raw()).into_owned()
}
