//! The control thread's handle to its driver: what its tasks call.

use super::connection::{Connection, State};
use super::driver::{Driver, Effect, Protocol};
use super::listener::{ActiveListener, ListenerSetup};
use super::load::Standing;
use super::resolver::{Resolver, ResolverSettings};
use super::tasks;
use super::tls::{TlsSession, TlsSettings};
use crate::clock::Clock;
use bytes::Bytes;
use edge_proto::b2bua::{CloseReason, Input};
use edge_proto::config::{Config, Transport};
use edge_proto::id::ListenerId;
use edge_proto::time::{Duration, Instant};
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::Notify;

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

    /// Several things happened, in this order.
    pub(super) fn inputs(&self, inputs: impl Iterator<Item = Input>) {
        self.step(|driver| driver.inputs.extend(inputs));
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

    /// Something was taken from a socket, which had `more`.
    pub(super) fn taken(&self, standing: &mut Standing, more: bool) {
        let mut driver = self.0.borrow_mut();
        let now = driver.now();
        driver.load.stood(now, standing.taken(now, more));
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

    /// Enforces the time limits of all connections, so `late` after that was due.
    pub(super) fn sweep(&self, late: Duration) {
        self.step(|driver| {
            let now = driver.now();
            driver.load.swept(now, late);
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
        self.replace_listeners(listeners)?;
        let status = self.0.borrow().parts.status.clone();
        status.reloads.fetch_add(1, Ordering::Release);
        Ok(())
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
                    let (transport, address) = (setup.transport, setup.address);
                    new.push(ActiveListener::start(
                        self, setup.id, transport, address, socket,
                    )?);
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

    /// New calls are refused from now on. `how`: [`Input::Drain`] or [`Input::End`].
    pub(super) fn drain(&self, how: Input) {
        self.step(|driver| {
            driver.draining = true;
            driver.inputs.push_back(how);
        });
        let status = self.0.borrow().parts.status.clone();
        status.draining.store(true, Ordering::Release);
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

    pub(super) fn turn_signal(&self) -> Rc<Notify> {
        self.0.borrow().turn.clone()
    }

    /// Wakes the media thread if there is something new for it.
    pub(super) fn announce(&self) {
        self.0.borrow_mut().parts.outlets.announce();
    }

    /// See [`Driver::begin_end`].
    pub(super) fn begin_end(&self) -> bool {
        self.0.borrow_mut().begin_end()
    }

    /// See [`Driver::end_turn`].
    pub(super) fn end_turn(&self) -> Duration {
        self.0.borrow_mut().end_turn()
    }

    pub(super) fn retry_signal(&self) -> Rc<Notify> {
        self.0.borrow().retry.clone()
    }

    /// Sends what waits for other threads; true when nothing is left.
    pub(super) fn retry_outlets(&self) -> bool {
        self.0.borrow_mut().parts.outlets.retry()
    }
}
