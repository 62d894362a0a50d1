//! Carrying out what a core wants.

use super::World;
use crate::check::Seen;
use crate::net::Happening;
use crate::wire::Sip;
use bytes::Bytes;
use edge_proto::b2bua::{HandoffMessage, Input, Output, ResolveQuery};
use edge_proto::event::{Event, EventKind};
use edge_proto::id::{ConnectionId, CoreId, ResolveId};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

impl World {
    pub(super) fn output(&mut self, core: CoreId, output: Output, inputs: &mut VecDeque<Input>) {
        match output {
            Output::Connect {
                connection,
                local,
                remote,
                ..
            } => {
                let local = SocketAddr::new(local, 49_152);
                self.net.connect(connection, local, remote);
            }
            Output::Transmit { connection, bytes } => self.transmit(connection, bytes),
            Output::Datagram { .. } => self.net.coverage.hit("edge: datagram"),
            Output::Close { connection } => {
                self.net.trace.line(self.net.now, || {
                    format!("{connection:?} closed by the edge")
                });
                self.net.edge_close(connection);
                self.see(&Seen::Ended(connection));
            }
            Output::Resolve { id, query } => self.resolve(core, id, &query),
            Output::Media(command) => {
                self.core(core).commands.push_back(command);
                let delay = self.queue_delay(self.net.scenario.network.media_delay_ms);
                self.net.after(delay, Happening::MediaCommands(core));
            }
            Output::Handoff { core: to, message } => {
                self.decided(&message);
                let capacity = self.net.scenario.network.handoff_capacity;
                if self.core(to).handoffs.len() >= capacity {
                    self.net.coverage.hit("handoff: queue full");
                    if let HandoffMessage::Transmit { bytes, .. } = &message {
                        self.rejected.insert(bytes.clone());
                    }
                    inputs.push_back(Input::HandoffRejected { core: to, message });
                    return;
                }
                self.core(to).handoffs.push_back(message);
                let delay = self.queue_delay(self.net.scenario.network.handoff_delay_ms);
                self.net.after(delay, Happening::Handoffs(to));
            }
            Output::Event(event) => self.event(&event),
        }
    }

    fn transmit(&mut self, conn: ConnectionId, bytes: Bytes) {
        let Some(to) = self.net.conn(conn).map(|conn| conn.peer_address) else {
            let to = SocketAddr::from(([0, 0, 0, 0], 0));
            let fault = "it goes to a connection that never was";
            return self.see(&Seen::Gibberish {
                to,
                text: "",
                fault,
            });
        };
        if &bytes[..] == b"\r\n" {
            // The answer to a keep-alive.
            return self.net.edge_send(conn, bytes, None);
        }
        match Sip::parse(&bytes) {
            Ok(sip) => {
                let sip = Rc::new(sip);
                self.net
                    .trace
                    .line(self.net.now, || format!("{conn:?} -> {}", sip.summary()));
                if !self.forwarding {
                    self.see(&Seen::Decided {
                        conn,
                        to,
                        sip: &sip,
                    });
                }
                self.see(&Seen::Sent {
                    conn,
                    to,
                    sip: &sip,
                });
                self.net.edge_send(conn, bytes, Some(sip));
            }
            Err(fault) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                self.see(&Seen::Gibberish {
                    to,
                    text: &text,
                    fault: &fault,
                });
            }
        }
    }

    /// A message leaves its owner for the core that holds the connection.
    fn decided(&mut self, message: &HandoffMessage) {
        let HandoffMessage::Transmit {
            connection, bytes, ..
        } = message
        else {
            return;
        };
        // What found no room and comes again was seen before.
        if !self.rejected.remove(bytes)
            && let Some(to) = self.net.conn(*connection).map(|conn| conn.peer_address)
            && let Ok(sip) = Sip::parse(bytes)
        {
            let sip = Rc::new(sip);
            self.see(&Seen::Decided {
                conn: *connection,
                to,
                sip: &sip,
            });
        }
    }

    fn resolve(&mut self, core: CoreId, id: ResolveId, query: &ResolveQuery) {
        let knobs = self.net.scenario.network.clone();
        let mut found: Vec<SocketAddr> = self
            .net
            .scenario
            .places
            .hosts
            .iter()
            .filter(|host| host.side.domain() == Some(query.host.as_str()) && !host.unnamed)
            .map(|host| host.address)
            .filter(|address| match address.is_ipv4() {
                true => query.ipv4,
                false => query.ipv6,
            })
            .collect();
        self.net.dice.shuffle(&mut found);
        let result = if self.net.dice.chance(knobs.resolver_fails) {
            self.net.coverage.hit("resolver: failed");
            Err("SERVFAIL".to_owned())
        } else if found.is_empty() {
            Err("no address".to_owned())
        } else {
            Ok(found)
        };
        let delay = self.net.dice.millis(1, knobs.resolver_late_ms);
        self.net.after(delay, Happening::Resolved(core, id, result));
    }

    /// Counts what an event says about the run.
    fn event(&mut self, event: &Event) {
        self.net.trace.line(self.net.now, || {
            let call = event.call.as_deref().and_then(|id| id.get(..6));
            format!(
                "    {} {:?} {:?}",
                call.unwrap_or("-"),
                event.leg,
                event.kind
            )
        });
        let coverage = &mut self.net.coverage;
        match &event.kind {
            EventKind::LegEnded(record) => {
                coverage.hit(format!("leg ended: {}", record.cause.as_str()));
                if let Some(transfer) = &record.transfer {
                    coverage.hit(format!("transfer leg: {}", transfer.result));
                }
            }
            EventKind::CallEnded { .. } => coverage.hit("call ended"),
            EventKind::TransferBridged { .. } => coverage.hit("transfer bridged"),
            EventKind::TransferEnded { result, cause, .. } => {
                coverage.hit(format!("transfer: {result} ({})", cause.as_str()));
            }
            EventKind::Refer { status, cause, .. } => {
                let cause = cause.map_or("accepted", |cause| cause.as_str());
                coverage.hit(format!("refer: {status} {cause}"));
            }
            EventKind::Digest { outcome, .. } => coverage.hit(format!("digest: {outcome}")),
            EventKind::Overflow { queue } => coverage.hit(format!("overflow: {queue}")),
            EventKind::AccessDropped { reason, .. } => coverage.hit(format!("access: {reason}")),
            EventKind::Malformed { .. } => coverage.hit("edge: malformed input"),
            EventKind::Note { kind, .. } => coverage.hit(format!("note: {kind}")),
            EventKind::TransferAttempt { attempt, .. } if *attempt > 1 => {
                coverage.hit("transfer: fallback tried");
            }
            _ => {}
        }
    }
}
