//! The owner of the protocol on a control thread. One input at a time; its outputs are carried out before the next.

use super::connection::{Connection, Expiry, QueueFull, State};
use super::listener::{ActiveListener, ListenSocket, ListenerSetup};
use super::outlets::Outlets;
use super::resolver::{Resolver, ResolverSettings};
use super::tls::{TlsSession, TlsSettings};
use super::{ControlLimits, CoreStatus, tasks};
use crate::clock::Clock;
use bytes::Bytes;
use edge_proto::b2bua::{CloseReason, Input, Output, TlsTarget};
use edge_proto::config::{Config, Transport};
use edge_proto::event::{Event, EventKind};
use edge_proto::id::{ConnectionId, CoreId, ListenerId};
use edge_proto::relay::MediaCommand;
use edge_proto::time::Instant;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
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

/// What a driver is made of, besides the protocol.
pub(super) struct Parts {
    pub core: CoreId,
    pub clock: Clock,
    pub config: Arc<Config>,
    pub tls: Arc<TlsSettings>,
    pub limits: ControlLimits,
    pub outlets: Outlets,
    pub status: Arc<CoreStatus>,
    pub resolver: Rc<Resolver>,
}

pub(super) struct Driver<P> {
    parts: Parts,
    protocol: P,
    /// Inputs that outputs gave rise to.
    inputs: VecDeque<Input>,
    connections: HashMap<ConnectionId, Rc<Connection>>,
    listeners: Vec<ActiveListener>,
    /// Serial of the next accepted connection.
    serial: u64,
    deadline: Option<Instant>,
    draining: bool,
    /// Woken when `deadline` changes.
    timer: Rc<Notify>,
    /// Woken when an outlet has a backlog.
    retry: Rc<Notify>,
    /// Woken when the last connection is gone.
    empty: Rc<Notify>,
}

impl<P: Protocol> Driver<P> {
    pub(super) fn new(parts: Parts, protocol: P) -> Self {
        Driver {
            parts,
            protocol,
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

    fn now(&self) -> Instant {
        self.parts.clock.now()
    }

    /// Handles every waiting input, carrying out the outputs of each before the next. Returns the tasks to start.
    fn pump(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        while let Some(input) = self.inputs.pop_front() {
            let now = self.now();
            self.protocol.handle(now, input);
            while let Some(output) = self.protocol.poll_output() {
                effects.extend(self.execute(now, output));
            }
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
                    self.parts.outlets.handoff(core, message)
                };
                if let Err(message) = delivered {
                    count(&self.parts.status.handoffs_rejected);
                    self.inputs
                        .push_back(Input::HandoffRejected { core, message });
                }
            }
            Output::Event(event) => self.event(event),
        }
        None
    }

    fn media(&mut self, command: MediaCommand) {
        if let Some(refusal) = self.parts.outlets.media(command) {
            self.inputs.push_back(Input::Media(refusal));
        }
    }

    fn event(&mut self, event: Event) {
        if !self.parts.outlets.event(self.parts.core, event) {
            count(&self.parts.status.events_dropped);
        }
    }

    /// A line about a connection for the log.
    fn note(&mut self, connection: &Connection, detail: String) {
        let event = Event {
            at: self.now(),
            call: None,
            leg: None,
            kind: EventKind::Connection {
                transport: connection.transport,
                remote: connection.remote,
                detail,
            },
        };
        self.event(event);
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
            .get(&target.trunk)
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
    fn report_closed(&mut self, connection: &Connection, reason: CloseReason) {
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

    fn remove(&mut self, id: ConnectionId) {
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
    fn admit(
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

    fn expire(&mut self, connection: &Connection, expiry: Expiry) {
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
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Work that goes on after the driver has been left: tasks that will come back with inputs.
enum Effect {
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

/// The thread's handle to its driver. Every method returns with the driver at rest; none is held across an await.
pub(super) struct Control<P>(Rc<RefCell<Driver<P>>>);

impl<P> Clone for Control<P> {
    fn clone(&self) -> Self {
        Control(self.0.clone())
    }
}

impl<P: Protocol> Control<P> {
    pub(super) fn new(driver: Driver<P>) -> Self {
        Control(Rc::new(RefCell::new(driver)))
    }

    pub(super) fn clock(&self) -> Clock {
        self.0.borrow().parts.clock
    }

    pub(super) fn now(&self) -> Instant {
        self.0.borrow().now()
    }

    /// Something happened.
    pub(super) fn input(&self, input: Input) {
        self.step(|driver| driver.inputs.push_back(input));
    }

    /// Lets `change` happen, then the protocol handle what came of it.
    fn step<R>(&self, change: impl FnOnce(&mut Driver<P>) -> R) -> R {
        let (result, effects) = {
            let mut driver = self.0.borrow_mut();
            let result = change(&mut driver);
            (result, driver.pump())
        };
        for effect in effects {
            self.begin(effect);
        }
        result
    }

    fn begin(&self, effect: Effect) {
        match effect {
            Effect::Connect {
                connection,
                local,
                session,
            } => {
                let timeout = self.0.borrow().parts.limits.connect;
                tokio_uring::spawn(tasks::connect(
                    self.clone(),
                    connection,
                    local,
                    session,
                    timeout,
                ));
            }
            Effect::Resolve { id, query } => {
                let resolver = self.0.borrow().parts.resolver.clone();
                let control = self.clone();
                tokio_uring::spawn(async move {
                    let result = resolver.resolve(query).await;
                    control.input(Input::Resolved { id, result });
                });
            }
        }
    }

    /// A listener accepted a connection. The protocol hears of it first: a source that it does not want gets no answer, no
    /// handshake, only the close.
    pub(super) fn accepted(
        &self,
        listener: ListenerId,
        transport: Transport,
        stream: std::net::TcpStream,
        local: SocketAddr,
        remote: SocketAddr,
    ) {
        let Some(connection) = self.step(|driver| {
            let connection = driver.admit(listener, transport, remote)?;
            driver.inputs.push_back(Input::Accepted {
                connection: connection.id,
                listener,
                local,
                remote,
            });
            Some(connection)
        }) else {
            return;
        };
        self.step(|driver| {
            if !connection.is_live() {
                driver.remove(connection.id);
                return;
            }
            let session = match (transport, driver.parts.tls.servers.get(&listener)) {
                (Transport::Tls, Some(config)) => TlsSession::server(config.clone()).map(Some),
                (Transport::Tls, None) => Err("listener has no certificate".to_owned()),
                _ => Ok(None),
            };
            match session {
                Ok(session) => {
                    connection.attach(stream, session, driver.parts.clock.now());
                    tasks::start(self, &connection);
                }
                Err(fault) => {
                    driver.report_closed(&connection, CloseReason::TlsFailed(fault));
                    driver.remove(connection.id);
                }
            }
        });
    }

    /// The connector succeeded. For TLS the handshake comes next, and `Connected` after it.
    pub(super) fn established(
        &self,
        connection: &Rc<Connection>,
        stream: std::net::TcpStream,
        session: Option<TlsSession>,
    ) {
        self.step(|driver| {
            if connection.state() == State::Dead {
                return;
            }
            let local = stream.local_addr();
            connection.attach(stream, session, driver.parts.clock.now());
            tasks::start(self, connection);
            match local {
                Ok(local) => {
                    connection.local.set(Some(local));
                    if connection.state() == State::Open {
                        driver.inputs.push_back(Input::Connected {
                            connection: connection.id,
                            local,
                        });
                    }
                }
                // Only a socket that has failed in the meantime has no address.
                Err(_) => connection.shut_down(),
            }
        });
    }

    /// Bytes came from the socket.
    pub(super) fn received(&self, connection: &Rc<Connection>, bytes: Bytes) {
        if !connection.is_live() {
            // Waiting for the peer's FIN: what it still says is for nobody.
            return;
        }
        let (fault, peer_closed) = self.step(|driver| {
            let now = driver.now();
            let (fed, verified) = connection.receive(bytes, now);
            if verified {
                driver.verified(connection);
            }
            if !fed.plaintext.is_empty() && !connection.reported.get() {
                driver.inputs.push_back(Input::Received {
                    connection: connection.id,
                    bytes: fed.plaintext,
                });
            }
            (fed.fault, fed.peer_closed)
        });
        // A step of its own: the answers to what came before the end are queued now, and still go out.
        if fault.is_some() || peer_closed {
            self.step(|driver| {
                let reason = match fault {
                    Some(fault) => {
                        driver.note(connection, format!("TLS failed: {fault}"));
                        CloseReason::TlsFailed(fault)
                    }
                    None => CloseReason::Peer,
                };
                driver.end(connection, reason);
            });
        }
    }

    /// The peer ended or reset the connection, or it could not be made.
    pub(super) fn ended(&self, connection: &Rc<Connection>, reason: CloseReason) {
        self.step(|driver| driver.end(connection, reason));
    }

    /// A reader, writer or connector is done; with the last one the connection is.
    pub(super) fn task_ended(&self, connection: &Rc<Connection>) {
        let left = connection.tasks.get().saturating_sub(1);
        connection.tasks.set(left);
        if left == 0 {
            self.step(|driver| {
                driver.report_closed(connection, CloseReason::Peer);
                driver.remove(connection.id);
            });
        }
    }

    /// Enforces the time limits of all connections.
    pub(super) fn sweep(&self) {
        self.step(|driver| {
            let now = driver.now();
            let limits = driver.parts.limits;
            let expired: Vec<_> = driver
                .connections
                .values()
                .filter_map(|connection| {
                    Some((connection.clone(), connection.expired(now, &limits)?))
                })
                .collect();
            for (connection, expiry) in expired {
                driver.expire(&connection, expiry);
            }
        });
    }

    /// Starts the listeners of the first configuration.
    pub(super) fn listen(&self, setups: Vec<ListenerSetup>) -> io::Result<()> {
        self.replace_listeners(setups)
    }

    /// A new configuration: the protocol hears of it before the first connection of a new listener.
    pub(super) fn reload(
        &self,
        config: Arc<Config>,
        tls: Arc<TlsSettings>,
        resolver: &ResolverSettings,
        listeners: Vec<ListenerSetup>,
    ) -> io::Result<()> {
        self.step(|driver| {
            // Anew even when the settings stay: /etc/hosts and /etc/resolv.conf may have changed.
            driver.parts.resolver = Resolver::new(resolver);
            driver.parts.config = config.clone();
            driver.parts.tls = tls;
            driver.inputs.push_back(Input::Reload(config));
        });
        self.replace_listeners(listeners)
    }

    fn replace_listeners(&self, setups: Vec<ListenerSetup>) -> io::Result<()> {
        let mut old = std::mem::take(&mut self.0.borrow_mut().listeners);
        let mut new = Vec::with_capacity(setups.len());
        for setup in setups {
            let same = old
                .iter()
                .position(|l| l.transport == setup.transport && l.address == setup.address);
            match (setup.socket, same) {
                (None, Some(index)) => {
                    let listener = old.swap_remove(index);
                    listener.id.set(setup.id);
                    new.push(listener);
                }
                (Some(socket), _) => {
                    new.push(self.start(setup.id, setup.transport, setup.address, socket)?);
                }
                (None, None) => tracing::error!(
                    address = %setup.address,
                    "a reload names a listener that this core does not have"
                ),
            }
        }
        self.0.borrow_mut().listeners = new;
        Ok(())
    }

    fn start(
        &self,
        id: ListenerId,
        transport: Transport,
        address: SocketAddr,
        socket: ListenSocket,
    ) -> io::Result<ActiveListener> {
        ActiveListener::start(self, id, transport, address, socket)
    }

    /// New calls are refused from now on.
    pub(super) fn drain(&self) {
        self.step(|driver| {
            driver.draining = true;
            driver.inputs.push_back(Input::Drain);
        });
    }

    /// Closes everything; returns when the last connection is flushed and closed, or its linger time is over.
    pub(super) async fn shut_down(&self) {
        let empty = {
            let mut driver = self.0.borrow_mut();
            driver.listeners.clear();
            let now = driver.now();
            for connection in driver.connections.values() {
                connection.reported.set(true);
                connection.close(now);
            }
            driver.empty.clone()
        };
        while !self.0.borrow().connections.is_empty() {
            empty.notified().await;
        }
    }

    /// An accept failed for a reason of ours.
    pub(super) fn note_accept_failure(&self, listener: ListenerId, error: &io::Error) {
        let core = self.0.borrow().parts.core;
        tracing::warn!(%core, listener = listener.0, %error, "cannot accept");
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.borrow().deadline
    }

    pub(super) fn timer(&self) -> Rc<Notify> {
        self.0.borrow().timer.clone()
    }

    pub(super) fn retry_signal(&self) -> Rc<Notify> {
        self.0.borrow().retry.clone()
    }

    /// Sends what waits for other threads; true when nothing is left.
    pub(super) fn retry_outlets(&self) -> bool {
        self.0.borrow_mut().parts.outlets.retry()
    }
}

impl<P: Protocol> Driver<P> {
    /// The TLS handshake is over and the peer is who it should be.
    fn verified(&mut self, connection: &Connection) {
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
    fn end(&mut self, connection: &Rc<Connection>, reason: CloseReason) {
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
