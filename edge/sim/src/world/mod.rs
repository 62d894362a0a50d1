//! The edge's cores in the network of their peers: takes what happens next, lets the cores handle it, carries out what they
//! want, and shows all of it to the checkers.

mod core;
mod fingerprint;
mod media;
mod outputs;

use self::core::Core;
use crate::check::{Checks, Configs, CoreEnding, Ending, Party, Seen, Violation};
use crate::coverage::Coverage;
use crate::net::{Happening, Net, Trace};
use crate::peers::{Peers, Prank, UaId};
use crate::scenario::{Change, Scenario, build};
use crate::subject::Make;
use bytes::Bytes;
use edge_proto::b2bua::{B2buaParams, Input, SharedKeys};
use edge_proto::id::{ConnectionId, CoreId};
use edge_proto::time::{Duration, Instant};
use fingerprint::Fingerprint;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

/// After the last peer has gone home, whatever is left has this long: a ring timeout (RFC 3261 timer C), a CANCEL and a BYE
/// that nobody answers, a media timeout.
const WIND_DOWN: Duration = Duration::from_secs(420);
/// The network breaks things, if at all, in these steps.
const MISFORTUNE: Duration = Duration::from_millis(500);

/// How a run ended.
pub struct Outcome {
    pub seed: u64,
    pub violation: Option<Violation>,
    /// The same for the same seed, whatever machine it runs on.
    pub fingerprint: u64,
    pub coverage: Coverage,
    pub trace: Vec<String>,
    /// Virtual time at the end.
    pub ended_at: Instant,
}

/// Plays a scenario with subjects made by `make`.
pub fn play(scenario: Scenario, make: &Make, trace: Trace) -> Outcome {
    let mut world = World::new(scenario, make, trace);
    world.run();
    world.finish()
}

struct World {
    net: Net,
    peers: Peers,
    cores: Vec<Core>,
    configs: Configs,
    checks: Checks,
    fingerprint: Fingerprint,
    /// The core that runs writes what another one has decided.
    forwarding: bool,
    /// What found no room in a queue, and will come again.
    rejected: BTreeSet<Bytes>,
    /// Nothing may happen after this.
    end: Instant,
    quiet: bool,
}

impl World {
    fn new(scenario: Scenario, make: &Make, trace: Trace) -> World {
        let scenario = Rc::new(scenario);
        let mut net = Net::new(scenario.clone(), trace);
        let config = Arc::new(build(&scenario, None, None));
        let keys = SharedKeys {
            nonce: net.dice.bytes(),
            owner: net.dice.bytes(),
        };
        let cores = (0..scenario.cores)
            .map(|core| {
                let params = B2buaParams {
                    config: config.clone(),
                    core: CoreId(core),
                    cores: scenario.cores,
                    seed: net.dice.bytes(),
                    keys: keys.clone(),
                };
                Core::new(CoreId(core), make(params, Instant::ZERO), &config)
            })
            .collect();
        let peers = Peers::new(&mut net);
        if let Some((at, _)) = scenario.reload {
            net.after(at, Happening::Reload);
        }
        if let Some((core, at, time)) = scenario.overload {
            net.after(at, Happening::Overloaded(core, true));
            net.after(at + time, Happening::Overloaded(core, false));
        }
        if let Some(at) = scenario.drain {
            net.after(at, Happening::Drain);
            // Not every operator waits for the last call.
            if at.as_millis() % 2 == 0 {
                net.after(at + at / 4, Happening::End);
            }
        }
        net.after(MISFORTUNE, Happening::Misfortune);
        World {
            peers,
            cores,
            configs: Configs {
                now: config,
                before: None,
            },
            checks: Checks::default(),
            fingerprint: Fingerprint::default(),
            forwarding: false,
            rejected: BTreeSet::new(),
            end: Instant::ZERO + scenario.span + Peers::STAY + WIND_DOWN,
            quiet: true,
            net,
        }
    }

    fn run(&mut self) {
        while let Some((at, what)) = self.net.agenda.next() {
            if at > self.end {
                self.quiet = false;
                return;
            }
            self.net.now = at;
            self.happen(what);
            if self.checks.violation.is_some() {
                return;
            }
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Wake(core) => self.wake(core),
            Happening::Accept(id) => self.accept(id),
            Happening::Connected(id) => self.connected(id),
            Happening::ToEdge(id) => self.deliver(id),
            Happening::ToPeer(id) => {
                for sip in self.net.take_down(id) {
                    self.peers.on_message(&mut self.net, id, &sip);
                }
                self.hear_complaints();
            }
            Happening::EdgeClosed(connection, reason) => {
                if self.net.edge_learns_end(connection) {
                    self.see(&Seen::Ended(connection));
                    self.input(connection.core(), Input::Closed { connection, reason });
                }
            }
            Happening::PeerClosed(id) => {
                self.net.peer_learns_end(id);
                self.peers.on_closed(id);
            }
            Happening::Handoffs(core) => {
                while let Some(message) = self.core(core).handoffs.pop_front() {
                    self.net.coverage.hit("handoff: delivered");
                    self.input(core, Input::Handoff(message));
                }
            }
            Happening::MediaCommands(core) => self.media_commands(core),
            Happening::MediaEvents(core) => {
                while let Some(event) = self.core(core).events.pop_front() {
                    self.input(core, Input::Media(event));
                }
            }
            Happening::Released(core, allocation) => self.released(core, allocation),
            Happening::RelayWake(core) => self.relay_wake(core),
            Happening::Resolved(core, id, result) => {
                self.input(core, Input::Resolved { id, result });
            }
            Happening::Act(id, act) => self.peers.act(&mut self.net, id, act),
            Happening::Prank(prank) => self.prank(prank),
            Happening::PacketToEdge(packet) => self.packet(packet),
            Happening::PacketToPeer => self.net.coverage.hit("media: heard"),
            Happening::Overloaded(core, overloaded) => {
                self.input(core, Input::Overloaded(overloaded));
            }
            Happening::Reload => self.reload(),
            Happening::Drain => self.operator("operator: drain", &Input::Drain),
            Happening::End => self.operator("operator: end", &Input::End),
            Happening::Misfortune => {
                self.net.misfortune();
                if self.net.now + WIND_DOWN < self.end {
                    self.net.after(MISFORTUNE, Happening::Misfortune);
                }
            }
        }
    }

    /// Every core is told the same.
    fn operator(&mut self, what: &str, input: &Input) {
        self.net.coverage.hit(what);
        for core in 0..self.cores.len() {
            self.input(CoreId(core as u8), input.clone());
        }
    }

    fn core(&mut self, id: CoreId) -> &mut Core {
        &mut self.cores[usize::from(id.0)]
    }

    /// Shows something to the checkers.
    fn see(&mut self, seen: &Seen<'_>) {
        let scenario = self.net.scenario.clone();
        self.checks
            .see(self.net.now, &scenario, &self.configs, seen);
    }

    fn accept(&mut self, connection: ConnectionId) {
        // As the effect layer does: an eighth stays free for connections that the edge opens.
        let limit = self.net.scenario.limits.connections;
        if self.net.held_by(connection.core()) >= limit - limit / 8 {
            self.net.coverage.hit("edge: connection limit");
            return self.net.reset(connection);
        }
        if !self.net.accepted(connection) {
            return;
        }
        let Some(conn) = self.net.conn(connection) else {
            return;
        };
        let input = Input::Accepted {
            connection,
            listener: conn.listener,
            local: conn.edge_address,
            remote: conn.peer_address,
        };
        self.net.trace.line(self.net.now, || format!("{input:?}"));
        self.input(connection.core(), input);
    }

    fn connected(&mut self, connection: ConnectionId) {
        if self.net.connected(connection)
            && let Some(local) = self.net.conn(connection).map(|conn| conn.edge_address)
        {
            self.input(connection.core(), Input::Connected { connection, local });
        }
    }

    fn deliver(&mut self, conn: ConnectionId) {
        let Some((bytes, complete)) = self.net.take_up(conn) else {
            return;
        };
        let from = self.net.conn(conn).map(|conn| conn.peer_address);
        for sip in &complete {
            self.net
                .trace
                .line(self.net.now, || format!("{conn:?} <- {}", sip.summary()));
            if let Some(from) = from {
                self.see(&Seen::Received { conn, from, sip });
            }
        }
        let input = Input::Received {
            connection: conn,
            bytes,
        };
        self.input(conn.core(), input);
    }

    fn hear_complaints(&mut self) {
        for text in std::mem::take(&mut self.peers.complaints) {
            self.see(&Seen::Complaint(&text));
        }
    }

    fn prank(&mut self, prank: Prank) {
        let ports: Vec<SocketAddr> = self
            .cores
            .iter()
            .flat_map(|core| core.sockets.keys().copied())
            .collect();
        self.peers.prank(&mut self.net, prank, &ports);
    }

    fn reload(&mut self) {
        let scenario = self.net.scenario.clone();
        let Some((_, change)) = scenario.reload else {
            return;
        };
        self.net
            .coverage
            .hit(format!("operator: reload {change:?}"));
        let config = Arc::new(build(&scenario, Some(change), Some(&self.configs.now)));
        let before = std::mem::replace(&mut self.configs.now, config.clone());
        self.configs.before = Some((before, self.net.now));
        self.peers.passwords_changed = change == Change::Passwords;
        for core in 0..self.cores.len() {
            self.input(CoreId(core as u8), Input::Reload(config.clone()));
        }
    }

    fn party(&self, id: UaId) -> Party {
        self.peers.party(id)
    }

    fn finish(mut self) -> Outcome {
        let ending = Ending {
            quiet: self.quiet,
            cores: self
                .cores
                .iter()
                .map(|core| CoreEnding {
                    calls: core.subject.calls(),
                    idle: core.subject.is_idle(),
                    timeout: core.subject.poll_timeout(),
                    leftovers: core.subject.leftovers(),
                    allocations: core.relay.len(),
                })
                .collect(),
        };
        let scenario = self.net.scenario.clone();
        self.checks
            .end(self.net.now, &scenario, &self.configs, &ending);
        Outcome {
            seed: scenario.seed,
            violation: self.checks.violation,
            fingerprint: self.fingerprint.value(),
            coverage: self.net.coverage,
            trace: self.net.trace.into_lines(),
            ended_at: self.net.now,
        }
    }
}
