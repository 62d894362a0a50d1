//! One SIP connection: its state, its queues and its limits. Nothing here waits; [`super::tasks`] reads, writes and connects,
//! the driver decides.

use super::ControlLimits;
use super::tls::{Fed, TlsSession};
use bytes::{Bytes, BytesMut};
use edge_proto::config::Transport;
use edge_proto::id::ConnectionId;
use edge_proto::time::{Duration, Instant};
use rustix::io::Errno;
use rustix::net::SendFlags;
use socket2::{SockRef, TcpKeepalive};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use tokio::sync::Notify;

/// The most that one write carries: bounds the copy that joins small messages.
const WRITE_CHUNK: usize = 64 * 1024;

/// Socket options of every SIP connection, accepted or originated.
pub(super) fn tune(socket: &SockRef<'_>) -> io::Result<()> {
    // A response must not wait for the acknowledgement of the one before.
    socket.set_tcp_nodelay(true)?;
    // A peer that vanished without a word is found within two minutes of silence, and sooner when data waits for it.
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(Duration::from_secs(60))
            .with_interval(Duration::from_secs(15))
            .with_retries(4),
    )?;
    socket.set_tcp_user_timeout(Some(Duration::from_secs(32)))
}

/// Where a connection is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// TCP is being opened.
    Connecting,
    /// TCP is open, TLS is not.
    Handshaking,
    /// Plaintext flows.
    Open,
    /// Nothing more is taken from the protocol; what was queued is being written.
    Flushing,
    /// Everything is written and we said so (FIN); the peer's FIN is awaited, since closing before it could reset the
    /// connection and destroy what the peer has not read yet.
    Lingering,
    /// Given up: tasks end as soon as they notice.
    Dead,
}

/// A limit that a connection reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Expiry {
    Handshake,
    FirstBytes,
    Stalled,
    Idle,
    Linger,
}

/// Bytes that did not fit under `write_queue_bytes`: the peer does not read.
#[derive(Debug)]
pub(super) struct QueueFull;

pub(super) struct Connection {
    pub id: ConnectionId,
    pub transport: Transport,
    pub remote: SocketAddr,
    /// Known once TCP is open; only of connections that the edge opened.
    pub local: Cell<Option<SocketAddr>>,
    state: Cell<State>,
    /// Whether the protocol was told that it is gone, or asked for it.
    pub reported: Cell<bool>,
    /// Reader, writer and connector that still run.
    pub tasks: Cell<u8>,
    stream: OnceCell<Rc<tokio_uring::net::TcpStream>>,
    /// The same socket for what needs no ring: the ring's stream lends its descriptor to nobody.
    socket: OnceCell<std::net::TcpStream>,
    tls: RefCell<Option<TlsSession>>,
    /// Plaintext that waits for the connection to open.
    pending: RefCell<VecDeque<Bytes>>,
    /// Bytes for the socket.
    outgoing: RefCell<VecDeque<Bytes>>,
    /// Bytes in `pending`, in `outgoing` and in the write in flight.
    queued: Cell<usize>,
    limit: usize,
    /// `Output::Close` came before the connection was open.
    close_when_open: Cell<bool>,
    heard: Cell<bool>,
    since: Cell<Instant>,
    active: Cell<Instant>,
    writing_since: Cell<Option<Instant>>,
    /// Wakes the writer, and the connector when it must give up.
    pub wake: Notify,
}

impl Connection {
    pub(super) fn new(
        id: ConnectionId,
        transport: Transport,
        remote: SocketAddr,
        now: Instant,
        limits: &ControlLimits,
    ) -> Rc<Self> {
        Rc::new(Connection {
            id,
            transport,
            remote,
            local: Cell::new(None),
            state: Cell::new(State::Connecting),
            reported: Cell::new(false),
            tasks: Cell::new(0),
            stream: OnceCell::new(),
            socket: OnceCell::new(),
            tls: RefCell::new(None),
            pending: RefCell::default(),
            outgoing: RefCell::default(),
            queued: Cell::new(0),
            limit: limits.write_queue_bytes,
            close_when_open: Cell::new(false),
            heard: Cell::new(false),
            since: Cell::new(now),
            active: Cell::new(now),
            writing_since: Cell::new(None),
            wake: Notify::new(),
        })
    }

    pub(super) fn state(&self) -> State {
        self.state.get()
    }

    /// Whether the protocol may still send and hear.
    pub(super) fn is_live(&self) -> bool {
        matches!(
            self.state(),
            State::Connecting | State::Handshaking | State::Open
        )
    }

    pub(super) fn stream(&self) -> Option<Rc<tokio_uring::net::TcpStream>> {
        self.stream.get().cloned()
    }

    /// TCP is open. With `tls` the handshake begins (the connecting side's first record is queued), without it the
    /// connection is open.
    pub(super) fn attach(
        &self,
        stream: std::net::TcpStream,
        tls: Option<TlsSession>,
        now: Instant,
    ) -> State {
        // Without a descriptor to spare, the ring does it all.
        if let Ok(socket) = stream.try_clone() {
            let _ = self.socket.set(socket);
        }
        let _ = self
            .stream
            .set(Rc::new(tokio_uring::net::TcpStream::from_std(stream)));
        self.since.set(now);
        self.active.set(now);
        if tls.is_some() {
            self.tls.replace(tls);
            self.state.set(State::Handshaking);
            self.take_ciphertext();
        } else {
            self.open(now);
        }
        self.state()
    }

    /// What waited for the connection goes out.
    fn open(&self, now: Instant) {
        self.state.set(State::Open);
        self.since.set(now);
        for bytes in self.pending.take() {
            self.queued
                .set(self.queued.get().saturating_sub(bytes.len()));
            self.enqueue(bytes);
        }
        if self.close_when_open.get() {
            self.close(now);
        }
    }

    /// Queues plaintext for the peer. Ignored once the connection is closing.
    pub(super) fn transmit(&self, bytes: Bytes) -> Result<(), QueueFull> {
        if !self.is_live() || bytes.is_empty() || self.close_when_open.get() {
            return Ok(());
        }
        if self.queued.get().saturating_add(bytes.len()) > self.limit {
            return Err(QueueFull);
        }
        if self.state() == State::Open {
            self.enqueue(bytes);
        } else {
            self.queued.set(self.queued.get() + bytes.len());
            self.pending.borrow_mut().push_back(bytes);
        }
        Ok(())
    }

    fn enqueue(&self, plaintext: Bytes) {
        let encrypted = {
            let mut tls = self.tls.borrow_mut();
            match tls.as_mut() {
                Some(session) => {
                    session.write(&plaintext);
                    true
                }
                None => false,
            }
        };
        if encrypted {
            self.take_ciphertext();
        } else {
            self.push_outgoing(plaintext);
        }
    }

    fn push_outgoing(&self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.queued.set(self.queued.get() + bytes.len());
        self.outgoing.borrow_mut().push_back(bytes);
        self.wake.notify_one();
    }

    fn take_ciphertext(&self) {
        let output = match self.tls.borrow_mut().as_mut() {
            Some(session) => session.take_output(),
            None => return,
        };
        self.push_outgoing(output);
    }

    /// Bytes from the socket to plaintext. For TLS the second value tells whether the handshake ended with them.
    pub(super) fn receive(&self, bytes: Bytes, now: Instant) -> (Fed, bool) {
        self.active.set(now);
        let fed = {
            let mut tls = self.tls.borrow_mut();
            let Some(session) = tls.as_mut() else {
                self.heard.set(true);
                let plaintext = bytes;
                return (
                    Fed {
                        plaintext,
                        ..Fed::default()
                    },
                    false,
                );
            };
            let fed = session.feed(&bytes);
            self.heard
                .set(self.heard.get() || !fed.plaintext.is_empty());
            fed
        };
        self.take_ciphertext();
        let verified = self.state() == State::Handshaking
            && fed.fault.is_none()
            && self
                .tls
                .borrow()
                .as_ref()
                .is_some_and(|s| !s.is_handshaking());
        if verified {
            self.open(now);
        }
        (fed, verified)
    }

    /// For the log: protocol version and cipher suite.
    pub(super) fn tls_summary(&self) -> Option<String> {
        self.tls.borrow().as_ref().map(TlsSession::summary)
    }

    /// The next bytes to write, small messages joined.
    pub(super) fn next_chunk(&self, now: Instant) -> Option<Bytes> {
        let mut outgoing = self.outgoing.borrow_mut();
        let first = outgoing.pop_front()?;
        self.writing_since.set(Some(now));
        if outgoing
            .front()
            .is_none_or(|next| first.len() + next.len() > WRITE_CHUNK)
        {
            return Some(first);
        }
        let mut joined = BytesMut::from(first);
        while let Some(next) =
            outgoing.pop_front_if(|next| joined.len() + next.len() <= WRITE_CHUNK)
        {
            joined.extend_from_slice(&next);
        }
        Some(joined.freeze())
    }

    /// A chunk was written.
    pub(super) fn written(&self, length: usize, now: Instant) {
        self.queued.set(self.queued.get().saturating_sub(length));
        self.writing_since.set(None);
        self.active.set(now);
    }

    /// Nothing more from the protocol: flush, then close. Before the connection is open: when it is, or at once when nothing
    /// waits for it.
    pub(super) fn close(&self, now: Instant) {
        match self.state() {
            State::Connecting | State::Handshaking if self.pending.borrow().is_empty() => {
                self.abort();
            }
            State::Connecting | State::Handshaking => self.close_when_open.set(true),
            State::Open => self.flush(now),
            State::Flushing | State::Lingering | State::Dead => {}
        }
    }

    /// Writes what is queued (for TLS: also the alert or close_notify), then shuts down.
    pub(super) fn flush(&self, now: Instant) {
        if !self.is_live() {
            return;
        }
        if let Some(session) = self.tls.borrow_mut().as_mut() {
            session.close();
        }
        self.take_ciphertext();
        self.state.set(State::Flushing);
        self.since.set(now);
        self.wake.notify_one();
    }

    /// Writes as much of `bytes` as the socket takes at once; returns how much.
    pub(super) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let Some(socket) = self.socket.get() else {
            return Ok(0);
        };
        match rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => Ok(sent.min(bytes.len())),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether bytes of the peer wait in the socket.
    pub(super) fn has_more(&self) -> bool {
        let waiting = self.socket.get().map(rustix::io::ioctl_fionread);
        matches!(waiting, Some(Ok(1..)))
    }

    /// Everything is written: says so to the peer.
    pub(super) fn finish_writing(&self) {
        if let Some(stream) = self.stream.get() {
            let _ = stream.shutdown(Shutdown::Write);
        }
        if self.state() == State::Flushing {
            self.state.set(State::Lingering);
        }
    }

    /// Ends reading and writing now; what is queued is lost.
    pub(super) fn abort(&self) {
        self.state.set(State::Dead);
        self.pending.take();
        self.outgoing.take();
        // A read or write in flight on the ring is never dropped: this makes it return.
        self.shut_down();
        self.wake.notify_one();
    }

    /// Makes reads and writes in flight return; what was received can still be read.
    pub(super) fn shut_down(&self) {
        if let Some(stream) = self.stream.get() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Which limit has been reached, if any.
    pub(super) fn expired(&self, now: Instant, limits: &ControlLimits) -> Option<Expiry> {
        let age = now.saturating_since(self.since.get());
        match self.state() {
            // The connector has its own timeout.
            State::Connecting | State::Dead => None,
            State::Handshaking => (age > limits.handshake).then_some(Expiry::Handshake),
            State::Open => {
                let stalled = self
                    .writing_since
                    .get()
                    .is_some_and(|since| now.saturating_since(since) > limits.write_stall);
                let silent = !self.heard.get() && !self.id.is_originated();
                if stalled {
                    Some(Expiry::Stalled)
                } else if silent && age > limits.first_bytes {
                    Some(Expiry::FirstBytes)
                } else if now.saturating_since(self.active.get()) > limits.idle {
                    Some(Expiry::Idle)
                } else {
                    None
                }
            }
            State::Flushing | State::Lingering => (age > limits.linger).then_some(Expiry::Linger),
        }
    }
}
