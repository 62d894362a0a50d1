//! The owner of the protocol on a control thread. What is waiting is handled, then the outputs are carried out, before anything more.

use super::connection::{Connection, Expiry, QueueFull, State};
use super::listener::ActiveListener;
use super::load::Load;
use super::outlets::Outlets;
use super::pace::Pace;
use super::resolver::Resolver;
use super::tls::{TlsSession, TlsSettings};
use super::{ControlLimits, CoreStatus};
use crate::cdr::EarlyJournal;
use crate::clock::Clock;
use bytes::Bytes;
use edge_proto::b2bua::{B2bua, CloseReason, Input, Output, TlsTarget};
use edge_proto::config::{Config, Transport};
use edge_proto::event::{Event, EventKind};
use edge_proto::id::{ConnectionId, CoreId, ListenerId};
use edge_proto::relay::MediaCommand;
use edge_proto::time::{Duration, Instant};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// What a control thread drives: the B2BUA, or a script in tests.
pub trait Protocol: 'static {
    /// Something happened.
    fn handle(&mut self, now: Instant, input: Input);
    /// What to do about it; called until `None`.
    fn poll_output(&mut self) -> Option<Output>;
    /// When it wants `Input::Timeout`.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Whether nothing is left to finish: no call, and no transaction whose answer a peer still waits for.
    fn is_idle(&self) -> bool;
}

impl Protocol for B2bua {
    fn handle(&mut self, now: Instant, input: Input) {
        B2bua::handle(self, now, input);
    }

    fn poll_output(&mut self) -> Option<Output> {
        B2bua::poll_output(self)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        B2bua::poll_timeout(self)
    }

    fn is_idle(&self) -> bool {
        B2bua::is_idle(self)
    }
}

/// What a driver is made of, besides the protocol.
pub(super) struct Parts {
    pub core: CoreId,
    pub clock: Clock,
    pub config: Arc<Config>,
    pub tls: Arc<TlsSettings>,
    pub limits: ControlLimits,
    /// `sip.batch_us`.
    pub batch: Duration,
    pub outlets: Outlets,
    pub early: EarlyJournal,
    pub status: Arc<CoreStatus>,
    pub resolver: Rc<Resolver>,
}

pub(super) struct Driver<P> {
    pub(super) parts: Parts,
    protocol: P,
    /// Those of the inputs at hand; empty between turns.
    outputs: Vec<Output>,
    /// Inputs that outputs gave rise to.
    pub(super) inputs: VecDeque<Input>,
    pub(super) connections: HashMap<ConnectionId, Rc<Connection>>,
    pub(super) listeners: Vec<ActiveListener>,
    /// Serial of the next accepted connection.
    serial: u64,
    pub(super) deadline: Option<Instant>,
    pub(super) draining: bool,
    pub(super) pace: Pace,
    pub(super) load: Load,
    /// Woken when something was handled after which the turn has to be ended: inputs gather, or the media thread has to be told.
    pub(super) turn: Rc<Notify>,
    /// The turn is being ended.
    ending: bool,
    /// Woken when `deadline` changes.
    pub(super) timer: Rc<Notify>,
    /// Woken when an outlet has a backlog.
    pub(super) retry: Rc<Notify>,
    /// Woken when the last connection is gone.
    pub(super) empty: Rc<Notify>,
}

impl<P: Protocol> Driver<P> {
    pub(super) fn new(parts: Parts, protocol: P) -> Self {
        Driver {
            pace: Pace::new(parts.batch),
            load: Load::new(parts.limits.overload, parts.limits.sweep),
            turn: Rc::new(Notify::new()),
            ending: false,
            parts,
            protocol,
            outputs: Vec::new(),
            inputs: VecDeque::new(),
            connections: HashMap::new(),
            listeners: Vec::new(),
            serial: 0,
            deadline: None,
            draining: false,
            timer: Rc::new(Notify::new()),
            retry: Rc::new(Notify::new()),
            empty: Rc::new(Notify::new()),
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.parts.clock.now()
    }

    /// Handles every waiting input, then carries out the outputs of all of them, in order, and so on with the inputs that these
    /// gave rise to. Returns the tasks to start.
    pub(super) fn pump(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        while !self.inputs.is_empty() {
            let now = self.now();
            self.pace.note(now, self.inputs.len());
            if let Some(behind) = self.load.news(now) {
                self.inputs.push_front(Input::Overloaded(behind));
            }
            let mut outputs = std::mem::take(&mut self.outputs);
            while let Some(input) = self.inputs.pop_front() {
                self.protocol.handle(now, input);
                while let Some(output) = self.protocol.poll_output() {
                    match output {
                        Output::Event(event) => self.tell(&event),
                        output => outputs.push(output),
                    }
                }
            }
            // Before any of it is known to somebody else.
            self.parts.early.flush();
            for output in outputs.drain(..) {
                effects.extend(self.execute(now, output));
            }
            self.outputs = outputs;
        }
        self.parts.outlets.report();
        let unended = self.pace.is_gathering() || self.parts.outlets.is_unannounced();
        if unended && !self.ending {
            self.turn.notify_one();
        }
        if self.parts.outlets.has_backlog() {
            self.retry.notify_one();
        }
        let deadline = self.protocol.poll_timeout();
        if deadline != self.deadline {
            self.deadline = deadline;
            self.timer.notify_one();
        }
        if self.draining {
            let idle = self.protocol.is_idle();
            self.parts.status.idle.store(idle, Ordering::Release);
        }
        effects
    }

    /// The turn comes to its end, and need not be told again that it should. Gives whether inputs gather.
    pub(super) fn begin_end(&mut self) -> bool {
        self.ending = true;
        self.pace.is_gathering()
    }

    /// Everything that was ready is done. Gives how long to rest before the next turn.
    pub(super) fn end_turn(&mut self) -> Duration {
        self.ending = false;
        // The media thread takes the core as soon as it is woken, which is best done when there is nothing else to do.
        self.parts.outlets.announce();
        let now = self.now();
        self.pace.rest(now)
    }

    fn execute(&mut self, now: Instant, output: Output) -> Option<Effect> {
        match output {
            Output::Connect {
                connection,
                transport,
                local,
                remote,
                tls,
            } => return self.connect(now, connection, transport, (local, remote), tls),
            Output::Resolve { id, query } => return Some(Effect::Resolve { id, query }),
            Output::Transmit { connection, bytes } => self.transmit(connection, bytes),
            Output::Datagram {
                listener,
                destination,
                bytes,
            } => self.send_datagram(listener, destination, &bytes),
            Output::Close { connection } => self.close(now, connection),
            Output::Media(command) => self.media(command),
            Output::Handoff { core, message } => {
                let delivered = if core == self.parts.core {
                    self.inputs.push_back(Input::Handoff(message));
                    Ok(())
                } else {
                    count(&self.parts.status.handoffs);
                    self.parts.outlets.handoff(core, message)
                };
                if let Err(message) = delivered {
                    count(&self.parts.status.handoffs_rejected);
                    self.inputs
                        .push_back(Input::HandoffRejected { core, message });
                }
            }
            // Told when it came up.
            Output::Event(event) => self.tell(&event),
        }
        None
    }

    fn media(&mut self, command: MediaCommand) {
        if let Some(refusal) = self.parts.outlets.media(command) {
            self.inputs.push_back(Input::Media(refusal));
        }
    }

    /// Reports `event` with the others of this turn.
    fn tell(&mut self, event: &Event) {
        match self.parts.outlets.event(event) {
            Some(packed) => self.parts.early.note(event, packed),
            None => count(&self.parts.status.events_dropped),
        }
    }

    /// A line about a connection for the log.
    pub(super) fn note(&mut self, connection: &Connection, detail: String) {
        let event = Event {
            at: self.now(),
            call: None,
            leg: None,
            kind: EventKind::Connection {
                transport: connection.transport,
                remote: connection.remote,
                detail,
                // The protocol reports that.
                failed: false,
            },
        };
        self.tell(&event);
    }

    fn connect(
        &mut self,
        now: Instant,
        id: ConnectionId,
        transport: Transport,
        (local, remote): (IpAddr, SocketAddr),
        tls: Option<TlsTarget>,
    ) -> Option<Effect> {
        let session = self.prepare_tls(transport, tls);
        let connection = Connection::new(id, transport, remote, now, &self.parts.limits);
        let limit = self.parts.config.sip.limits.connections;
        let refusal = match session {
            Err(fault) => Some(CloseReason::TlsFailed(fault)),
            Ok(_) if self.connections.len() >= limit => {
                count(&self.parts.status.refused);
                Some(CloseReason::ConnectFailed(format!(
                    "the limit of {limit} connections is reached"
                )))
            }
            Ok(_) if self.connections.contains_key(&id) => {
                Some(CloseReason::ConnectFailed(format!("{id:?} is in use")))
            }
            Ok(session) => {
                connection.tasks.set(1);
                self.insert(connection.clone());
                return Some(Effect::Connect {
                    connection,
                    local,
                    session,
                });
            }
        };
        if let Some(reason) = refusal {
            self.inputs.push_back(Input::Closed {
                connection: id,
                reason,
            });
        }
        None
    }

    /// The client side of TLS for a connection to be opened, `None` for plain TCP.
    fn prepare_tls(
        &self,
        transport: Transport,
        target: Option<TlsTarget>,
    ) -> Result<Option<TlsSession>, String> {
        if transport != Transport::Tls {
            return Ok(None);
        }
        let target = target.ok_or_else(|| "no name to verify was given".to_owned())?;
        let config = self
            .parts
            .tls
            .clients
            .get(&*target.trunk)
            .ok_or_else(|| format!("trunk {} has no TLS settings", target.trunk))?;
        TlsSession::client(config.clone(), &target.server_name).map(Some)
    }

    fn transmit(&mut self, id: ConnectionId, bytes: Bytes) {
        let Some(connection) = self.connections.get(&id).cloned() else {
            // Closed while the message was on its way: the protocol has been told, or asked for it.
            tracing::debug!(?id, "bytes for a connection that is gone");
            return;
        };
        if let Err(QueueFull) = connection.transmit(bytes) {
            let limit = self.parts.limits.write_queue_bytes;
            self.note(
                &connection,
                format!("closed: peer does not read, {limit} bytes waited for it"),
            );
            self.report_closed(&connection, CloseReason::Local);
            connection.abort();
        }
    }

    fn send_datagram(&self, id: ListenerId, destination: SocketAddr, bytes: &Bytes) {
        let socket = self
            .listeners
            .iter()
            .find(|listener| listener.id.get() == id)
            .and_then(|listener| listener.datagram.as_ref());
        // UDP may lose what a full socket buffer loses too: transactions retransmit.
        match socket.map(|socket| socket.try_send_to(bytes, destination)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => tracing::debug!(%destination, %error, "datagram not sent"),
            None => tracing::debug!(?id, "datagram for a listener that is gone"),
        }
    }

    fn close(&mut self, now: Instant, id: ConnectionId) {
        if let Some(connection) = self.connections.get(&id) {
            connection.reported.set(true);
            connection.close(now);
        }
    }

    /// Tells the protocol once that a connection is gone.
    pub(super) fn report_closed(&mut self, connection: &Connection, reason: CloseReason) {
        if !connection.reported.replace(true) {
            self.inputs.push_back(Input::Closed {
                connection: connection.id,
                reason,
            });
        }
    }

    fn insert(&mut self, connection: Rc<Connection>) {
        self.connections.insert(connection.id, connection);
        self.publish_connections();
    }

    pub(super) fn remove(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
        self.publish_connections();
        if self.connections.is_empty() {
            self.empty.notify_one();
        }
    }

    fn publish_connections(&self) {
        let open = u64::try_from(self.connections.len()).unwrap_or(u64::MAX);
        self.parts.status.connections.store(open, Ordering::Relaxed);
    }

    /// The connection that a listener accepted, or `None` when there is no room for it.
    pub(super) fn admit(
        &mut self,
        listener: ListenerId,
        transport: Transport,
        remote: SocketAddr,
    ) -> Option<Rc<Connection>> {
        self.serial += 1;
        let id = ConnectionId::accepted(self.parts.core, self.serial);
        let connection = Connection::new(id, transport, remote, self.now(), &self.parts.limits);
        // An eighth stays free for connections that the edge opens: peers cannot keep it from reaching others.
        let limit = self.parts.config.sip.limits.connections;
        if self.connections.len() >= limit - limit / 8 {
            count(&self.parts.status.refused);
            tracing::debug!(?listener, %remote, "connection limit reached");
            return None;
        }
        count(&self.parts.status.accepted);
        self.insert(connection.clone());
        Some(connection)
    }

    pub(super) fn expire(&mut self, connection: &Connection, expiry: Expiry) {
        let limits = self.parts.limits;
        let (detail, reason) = match expiry {
            Expiry::Handshake => {
                let fault = format!("no TLS handshake within {:?}", limits.handshake);
                (fault.clone(), CloseReason::TlsFailed(fault))
            }
            Expiry::FirstBytes => (
                format!("closed: nothing received within {:?}", limits.first_bytes),
                CloseReason::Local,
            ),
            Expiry::Stalled => (
                format!("closed: peer has read nothing for {:?}", limits.write_stall),
                CloseReason::Local,
            ),
            Expiry::Idle => (
                format!("closed: idle for {:?}", limits.idle),
                CloseReason::Local,
            ),
            Expiry::Linger => {
                connection.abort();
                return;
            }
        };
        self.note(connection, detail);
        self.report_closed(connection, reason);
        if matches!(expiry, Expiry::Idle | Expiry::FirstBytes) {
            connection.flush(self.parts.clock.now());
        } else {
            connection.abort();
        }
    }

    /// The TLS handshake is over and the peer is who it should be.
    pub(super) fn verified(&mut self, connection: &Connection) {
        if let Some(summary) = connection.tls_summary() {
            self.note(connection, format!("TLS established: {summary}"));
        }
        if let Some(local) = connection.local.get()
            && connection.id.is_originated()
            && !connection.reported.get()
        {
            self.inputs.push_back(Input::Connected {
                connection: connection.id,
                local,
            });
        }
    }

    /// A connection is over for the protocol; what it had queued still goes out.
    pub(super) fn end(&mut self, connection: &Rc<Connection>, reason: CloseReason) {
        let reason = match (connection.state(), reason) {
            (State::Handshaking, CloseReason::Peer) => CloseReason::TlsFailed(
                "peer closed the connection during the TLS handshake".to_owned(),
            ),
            (_, reason) => reason,
        };
        self.report_closed(connection, reason);
        if matches!(connection.state(), State::Connecting) {
            connection.abort();
        } else {
            connection.flush(self.parts.clock.now());
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Work that goes on after the driver has been left: tasks that will come back with inputs.
pub(super) enum Effect {
    Connect {
        connection: Rc<Connection>,
        local: IpAddr,
        session: Option<TlsSession>,
    },
    Resolve {
        id: edge_proto::id::ResolveId,
        query: edge_proto::b2bua::ResolveQuery,
    },
}
