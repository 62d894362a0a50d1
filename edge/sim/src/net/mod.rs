//! The network between the edge and its peers, and the plan of everything that is going to happen.

mod packets;
mod stream;
mod trace;

pub use packets::Packet;
pub use stream::Conn;
pub use trace::Trace;

use crate::agenda::Agenda;
use crate::coverage::Coverage;
use crate::dice::Dice;
use crate::peers::{Act, Prank, UaId};
use crate::scenario::Scenario;
use edge_proto::b2bua::CloseReason;
use edge_proto::id::{AllocationId, ConnectionId, CoreId, ResolveId};
use edge_proto::time::{Duration, Instant};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

/// One thing that is going to happen.
#[derive(Debug)]
pub enum Happening {
    /// A core's timer.
    Wake(CoreId),
    /// A peer's connection reaches the edge.
    Accept(ConnectionId),
    /// The edge's connection is up.
    Connected(ConnectionId),
    /// Bytes that wait in a connection's pipe arrive.
    ToEdge(ConnectionId),
    ToPeer(ConnectionId),
    EdgeClosed(ConnectionId, CloseReason),
    PeerClosed(ConnectionId),
    /// A core looks into its queue from other cores.
    Handoffs(CoreId),
    /// A media thread looks into its queue of commands.
    MediaCommands(CoreId),
    /// A control thread looks into its queue of media events.
    MediaEvents(CoreId),
    /// The host has released an allocation's ports.
    Released(CoreId, AllocationId),
    RelayWake(CoreId),
    Resolved(CoreId, ResolveId, Result<Vec<SocketAddr>, String>),
    /// A peer does what it planned.
    Act(UaId, Act),
    /// Somebody who belongs to no call does something.
    Prank(Prank),
    PacketToEdge(Packet),
    /// What was relayed arrives.
    PacketToPeer,
    /// A core cannot keep up from now on, or can again.
    Overloaded(CoreId, bool),
    Reload,
    Drain,
    /// The process is about to end.
    End,
    /// The network may break something now.
    Misfortune,
}

/// The network: connections, datagrams, and what is going to happen.
pub struct Net {
    pub now: Instant,
    pub agenda: Agenda<Happening>,
    pub dice: Dice,
    pub scenario: Rc<Scenario>,
    pub coverage: Coverage,
    pub trace: Trace,
    conns: BTreeMap<ConnectionId, Conn>,
    serial: u64,
}

impl Net {
    pub fn new(scenario: Rc<Scenario>, trace: Trace) -> Net {
        Net {
            now: Instant::ZERO,
            agenda: Agenda::default(),
            dice: Dice::new(scenario.seed, 2),
            scenario,
            coverage: Coverage::default(),
            trace,
            conns: BTreeMap::new(),
            serial: 0,
        }
    }

    /// Plans something for `delay` from now.
    pub fn after(&mut self, delay: Duration, what: Happening) {
        self.agenda.plan(self.now + delay, what);
    }

    /// True in `permille` of 1000 throws, scaled by how rude this scenario's peers are.
    pub fn rude(&mut self, permille: u32) -> bool {
        let scaled = permille * self.scenario.rudeness / 1000;
        self.dice.chance(scaled)
    }

    pub fn latency(&mut self) -> Duration {
        let (low, high) = self.scenario.network.latency_ms;
        self.dice.millis(low, high)
    }
}
