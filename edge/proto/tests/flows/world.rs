//! A world of virtual time around the B2BUA: its cores, the connections to its peers, and a media thread that obeys.

use bytes::Bytes;
use edge_proto::b2bua::{
    B2bua, B2buaParams, CloseReason, HandoffMessage, Input, Output, ResolveQuery, SharedKeys,
};
use edge_proto::config::*;
use edge_proto::event::{Cause, Event, EventKind, LegRecord};
use edge_proto::id::{AllocationId, ConnectionId, CoreId, ListenerId, ResolveId, TrunkId};
use edge_proto::relay::{MediaCommand, MediaEvent, MediaStats};
use edge_proto::sip::{Frame, Message, MessageLimits, StreamFramer};
use edge_proto::time::{Duration, Instant};
use edge_proto::trunk::AllowTable;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub const EDGE: &str = "192.0.2.1:5060";
pub const CARRIER: &str = "192.0.2.10:5060";
pub const AI: &str = "192.0.2.20:5070";
pub const HUMAN: &str = "192.0.2.30:5080";
pub const STRANGER: &str = "203.0.113.66:5060";

pub fn addr(text: &str) -> SocketAddr {
    text.parse().expect("a socket address")
}

/// The trunks of most tests: carrier -> ai, transfers via agents.
pub fn config() -> Config {
    config_with(|_| {})
}

/// The same with a change.
pub fn config_with(change: impl FnOnce(&mut Config)) -> Config {
    let listener = Listener {
        id: ListenerId(0),
        name: "public".into(),
        transport: Transport::Tcp,
        address: addr(EDGE),
        advertised: addr(EDGE),
    };
    let trunk = |index: u16, name: &str, allow: &str, uri: Option<&str>| {
        let mut trunk = Trunk::new(TrunkId(index), name, vec![ListenerId(0)]);
        trunk.allow = vec![allow.parse().expect("a network")];
        trunk.uris = uri
            .map(addr)
            .map(|address| TrunkUri {
                host: address.ip().to_string(),
                port: Some(address.port()),
                transport: Transport::Tcp,
                sips: false,
            })
            .into_iter()
            .collect();
        trunk
    };
    let carrier = trunk(0, "carrier", "192.0.2.10/32", Some(CARRIER));
    let mut ai = trunk(1, "ai", "192.0.2.20/32", Some(AI));
    let credentials = Credentials {
        username: "trunk-user".into(),
        password: Secret::new("s3cret"),
    };
    ai.present = Some(PresentedCredentials {
        username: credentials.username.clone(),
        password: credentials.password.clone(),
        realm: None,
    });
    ai.credentials = Some(credentials);
    ai.transfer = Some(policy());
    let mut agents = trunk(2, "agents", "192.0.2.30/32", Some(HUMAN));
    agents.present = Some(PresentedCredentials {
        username: "edge".into(),
        password: Secret::new("agents-s3cret"),
        realm: None,
    });
    let mut config = Config {
        domains: vec!["edge.example.net".into(), "192.0.2.1".into()],
        sip: SipConfig::default(),
        listeners: vec![listener],
        media: MediaConfig {
            ipv4: Some(MediaAddress {
                bind: "192.0.2.1".parse().expect("an address"),
                advertised: "192.0.2.1".parse().expect("an address"),
            }),
            ipv6: None,
            ports: 20_000..=20_999,
            timeout: Duration::from_secs(60),
        },
        trunks: vec![Arc::new(carrier), Arc::new(ai), Arc::new(agents)],
        routes: vec![
            route("carrier", "+1999*", &["ai"]),
            route("ai", "+44*", &["carrier"]),
        ],
        allow: AllowTable::default(),
    };
    change(&mut config);
    config.allow = AllowTable::build(&config.listeners, &config.trunks);
    config
}

pub fn policy() -> TransferPolicy {
    TransferPolicy {
        max_transfers: 1,
        auth: ReferAuth::Digest,
        via: Some("agents".into()),
        targets: vec!["+1234567890".into(), "sip:*@192.0.2.30".into()],
        pass_headers: vec!["X-*".into()],
        drop_headers: vec!["X-Secret*".into()],
        fallback: Vec::new(),
        ring_timeout: Duration::from_secs(30),
        auth_timeout: Duration::from_secs(5),
        on_failure: OnFailure::Return,
    }
}

pub fn route(from: &str, number: &str, to: &[&str]) -> Route {
    Route {
        from: from.into(),
        number: number.into(),
        to: to.iter().map(|&name| name.to_owned()).collect(),
        rewrite: None,
    }
}

/// Changes one trunk of a configuration in place.
pub fn edit_trunk(config: &mut Config, name: &str, change: impl FnOnce(&mut Trunk)) {
    let slot = config
        .trunks
        .iter_mut()
        .find(|trunk| trunk.name == name)
        .expect("the trunk exists");
    change(Arc::get_mut(slot).expect("the trunk is not shared yet"));
}

/// Changes the AI trunk's transfer policy in place.
pub fn edit_policy(config: &mut Config, change: impl FnOnce(&mut TransferPolicy)) {
    edit_trunk(config, "ai", |trunk| {
        change(trunk.transfer.as_mut().expect("a policy"));
    });
}

struct Wire {
    peer: SocketAddr,
    framer: StreamFramer,
    open: bool,
}

/// Everything outside the B2BUA.
pub struct World {
    pub now: Instant,
    pub cores: Vec<B2bua>,
    wires: BTreeMap<ConnectionId, Wire>,
    /// Messages that reached each peer, with the connection.
    inboxes: BTreeMap<SocketAddr, VecDeque<(ConnectionId, Message)>>,
    pub events: Vec<Event>,
    pub media: Vec<MediaCommand>,
    /// Allocations that are open on each core.
    pub open: BTreeMap<(CoreId, AllocationId), SocketAddr>,
    pub handoffs: usize,
    pub connects: Vec<SocketAddr>,
    pub resolves: Vec<(CoreId, ResolveId, ResolveQuery)>,
    /// Peers that refuse connections.
    pub refusing: Vec<SocketAddr>,
    pub closed: Vec<ConnectionId>,
    serial: u64,
}

impl World {
    pub fn new(config: Config, cores: u8) -> World {
        let config = Arc::new(config);
        let keys = SharedKeys {
            nonce: [1; 32],
            owner: [2; 32],
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
            wires: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            events: Vec::new(),
            media: Vec::new(),
            open: BTreeMap::new(),
            handoffs: 0,
            connects: Vec::new(),
            resolves: Vec::new(),
            refusing: Vec::new(),
            closed: Vec::new(),
            serial: 0,
        }
    }

    /// A peer connects; the kernel gives the connection to `core`.
    pub fn connect(&mut self, peer: SocketAddr, core: u8) -> ConnectionId {
        self.serial += 1;
        let core = CoreId(core % self.cores.len() as u8);
        let connection = ConnectionId::accepted(core, self.serial);
        self.wire(connection, peer);
        self.input(
            core,
            Input::Accepted {
                connection,
                listener: ListenerId(0),
                local: addr(EDGE),
                remote: peer,
            },
        );
        connection
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

    /// Bytes from a peer.
    pub fn send(&mut self, connection: ConnectionId, bytes: impl Into<Bytes>) {
        self.input(
            connection.core(),
            Input::Received {
                connection,
                bytes: bytes.into(),
            },
        );
    }

    /// The peer resets the connection.
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
    pub fn try_recv(&mut self, peer: SocketAddr) -> Option<(ConnectionId, Message)> {
        self.inboxes.get_mut(&peer)?.pop_front()
    }

    pub fn recv(&mut self, peer: SocketAddr) -> (ConnectionId, Message) {
        self.try_recv(peer)
            .unwrap_or_else(|| panic!("nothing reached {peer}; events: {:#?}", self.tail()))
    }

    /// Nothing (more) reached `peer`.
    pub fn assert_silent(&self, peer: SocketAddr) {
        if let Some((_, message)) = self.inboxes.get(&peer).and_then(|inbox| inbox.front()) {
            panic!("unexpected for {peer}:\n{}", text(message));
        }
    }

    fn tail(&self) -> Vec<&Event> {
        self.events.iter().rev().take(12).rev().collect()
    }

    /// Hands an input to a core and carries out everything that follows from it, on all cores.
    pub fn input(&mut self, core: CoreId, input: Input) {
        let mut pending = VecDeque::from([(core, input)]);
        while let Some((core, input)) = pending.pop_front() {
            let index = usize::from(core.0);
            self.cores[index].handle(self.now, input);
            while let Some(output) = self.cores[index].poll_output() {
                self.output(core, output, &mut pending);
            }
        }
    }

    fn output(&mut self, core: CoreId, output: Output, pending: &mut VecDeque<(CoreId, Input)>) {
        match output {
            Output::Connect {
                connection, remote, ..
            } => {
                self.connects.push(remote);
                let input = if self.refusing.contains(&remote) {
                    Input::Closed {
                        connection,
                        reason: CloseReason::ConnectFailed("refused".into()),
                    }
                } else {
                    self.wire(connection, remote);
                    Input::Connected {
                        connection,
                        local: addr("192.0.2.1:40000"),
                    }
                };
                pending.push_back((core, input));
            }
            Output::Transmit { connection, bytes } => self.deliver(connection, &bytes),
            Output::Datagram { .. } => panic!("no listener here speaks UDP"),
            Output::Close { connection } => {
                self.closed.push(connection);
                if let Some(wire) = self.wires.get_mut(&connection) {
                    wire.open = false;
                }
            }
            Output::Resolve { id, query } => self.resolves.push((core, id, query)),
            Output::Media(command) => {
                if let Some(event) = self.media_thread(core, &command) {
                    pending.push_back((core, Input::Media(event)));
                }
                self.media.push(command);
            }
            Output::Handoff { core, message } => {
                self.handoffs += 1;
                pending.push_back((core, Input::Handoff(message)));
            }
            Output::Event(event) => self.events.push(event),
        }
    }

    fn deliver(&mut self, connection: ConnectionId, bytes: &[u8]) {
        let Some(wire) = self.wires.get_mut(&connection).filter(|wire| wire.open) else {
            return;
        };
        wire.framer.push(bytes);
        while let Some(frame) = wire.framer.next().expect("the edge frames its messages") {
            if let Frame::Message(raw) = frame {
                let message = Message::parse(raw, &MessageLimits::default())
                    .expect("the edge sends well-formed messages");
                self.inboxes
                    .entry(wire.peer)
                    .or_default()
                    .push_back((connection, message));
            }
        }
    }

    fn media_thread(&mut self, core: CoreId, command: &MediaCommand) -> Option<MediaEvent> {
        match *command {
            MediaCommand::Open {
                allocation, local, ..
            } => {
                let taken = self.open.values().any(|&port| port == local);
                assert!(!taken, "{local} is leased twice");
                self.open.insert((core, allocation), local);
                Some(MediaEvent::Opened { allocation })
            }
            MediaCommand::Close { allocation } => {
                self.open.remove(&(core, allocation));
                Some(MediaEvent::Closed {
                    allocation,
                    stats: MediaStats::default(),
                })
            }
            _ => None,
        }
    }

    /// Answers the oldest question to the resolver.
    pub fn resolve(&mut self, result: Result<Vec<SocketAddr>, String>) -> ResolveQuery {
        let (core, id, query) = self.resolves.remove(0);
        self.input(core, Input::Resolved { id, result });
        query
    }

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

    /// Lets enough time pass for everything to end, and checks that nothing is left.
    pub fn assert_all_over(&mut self) {
        self.advance(Duration::from_secs(300));
        for core in &self.cores {
            assert_eq!(core.calls(), 0, "a call is left: {:#?}", self.tail());
            assert_eq!(core.poll_timeout(), None, "a timer is left");
        }
        assert!(self.open.is_empty(), "allocations left: {:?}", self.open);
    }

    /// The CDR lines so far.
    pub fn records(&self) -> Vec<&LegRecord> {
        self.events
            .iter()
            .filter_map(|event| match &event.kind {
                EventKind::LegEnded(record) => Some(&**record),
                _ => None,
            })
            .collect()
    }

    /// The CDR line of the only leg of `trunk`.
    pub fn record(&self, trunk: &str) -> &LegRecord {
        let records: Vec<_> = self
            .records()
            .into_iter()
            .filter(|record| &*record.trunk == trunk)
            .collect();
        match records.as_slice() {
            [one] => one,
            other => panic!("{} CDR lines of {trunk}", other.len()),
        }
    }

    /// Status and cause of the REFERs so far.
    pub fn verdicts(&self) -> Vec<(u16, Option<Cause>)> {
        self.events
            .iter()
            .filter_map(|event| match &event.kind {
                EventKind::Refer { status, cause, .. } => Some((*status, *cause)),
                _ => None,
            })
            .collect()
    }

    /// Addresses (RTP) that hear each other now, as the media thread was told last.
    pub fn bridged(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let mut pairs: Vec<(AllocationId, AllocationId)> = Vec::new();
        for command in &self.media {
            match *command {
                MediaCommand::Bridge { a, b, .. } => {
                    pairs.retain(|&(x, y)| ![x, y].contains(&a) && ![x, y].contains(&b));
                    pairs.push((a, b));
                }
                MediaCommand::Unbridge { allocation } | MediaCommand::Close { allocation } => {
                    pairs.retain(|&(x, y)| x != allocation && y != allocation);
                }
                _ => {}
            }
        }
        let remote = |allocation| {
            self.media.iter().rev().find_map(|command| match command {
                MediaCommand::SetRemote {
                    allocation: a,
                    remote,
                } if *a == allocation => Some(remote.rtp),
                _ => None,
            })
        };
        pairs
            .into_iter()
            .filter_map(|(a, b)| Some((remote(a)?, remote(b)?)))
            .collect()
    }

    pub fn set_now_config(&mut self, config: Config) {
        let config = Arc::new(config);
        for core in 0..self.cores.len() {
            self.input(CoreId(core as u8), Input::Reload(config.clone()));
        }
    }
}

/// A message as text, for assertions and panics.
pub fn text(message: &Message) -> String {
    String::from_utf8_lossy(message.raw()).into_owned()
}

#[allow(dead_code)]
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[allow(dead_code)]
pub fn is_transmit(message: &HandoffMessage) -> bool {
    matches!(message, HandoffMessage::Transmit { .. })
}
