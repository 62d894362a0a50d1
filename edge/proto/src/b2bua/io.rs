//! What crosses the boundary of the control facade: [`Input`] in, [`Output`] out.

use crate::config::{Config, Transport, TrunkUri};
use crate::event::Event;
use crate::id::{ConnectionId, CoreId, ListenerId, ResolveId};
use crate::relay::{MediaCommand, MediaEvent};
use bytes::Bytes;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What happened. Handed to [`super::B2bua::handle`].
#[derive(Clone, Debug)]
pub enum Input {
    /// A listener accepted a connection (for TLS: the TCP connection, before any handshake). The answer to a source that no
    /// trunk lists is an immediate [`Output::Close`].
    Accepted {
        connection: ConnectionId,
        listener: ListenerId,
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// An [`Output::Connect`] succeeded (for TLS: handshake done, peer verified).
    Connected {
        connection: ConnectionId,
        local: SocketAddr,
    },
    /// Plaintext bytes from a connection, in order, cut anywhere.
    Received {
        connection: ConnectionId,
        bytes: Bytes,
    },
    /// One UDP datagram.
    Datagram {
        listener: ListenerId,
        source: SocketAddr,
        bytes: Bytes,
    },
    /// The connection is gone or could not be made; its id is not used again.
    Closed {
        connection: ConnectionId,
        reason: CloseReason,
    },
    /// Answer to [`Output::Resolve`]: addresses in the order to try, never empty when `Ok`.
    Resolved {
        id: ResolveId,
        result: Result<Vec<SocketAddr>, String>,
    },
    Media(MediaEvent),
    /// From another core.
    Handoff(HandoffMessage),
    /// The queue to another core was full and [`Output::Handoff`] could not be delivered.
    HandoffRejected {
        core: CoreId,
        message: HandoffMessage,
    },
    /// A time returned by [`super::B2bua::poll_timeout`] has come. Harmless when early.
    Timeout,
    /// A new configuration is in force.
    Reload(Arc<Config>),
    /// Whether what peers send waits too long on this core: while it does, new calls are refused (503 + Retry-After), and what
    /// belongs to a call goes on.
    Overloaded(bool),
    /// Refuse new calls (503 + Retry-After), finish the old.
    Drain,
    /// The process is about to end: refuse new calls, and end the old with the cause `edge_restart`, telling their peers.
    End,
}

/// Why a connection ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// The peer closed or reset it.
    Peer,
    /// It could not be established: refused, unreachable, timed out.
    ConnectFailed(String),
    /// TLS failed: certificate expired, unknown issuer, wrong name, protocol version. The text names the fault.
    TlsFailed(String),
    /// [`Output::Close`], or a limit or idle time of this side.
    Local,
}

/// What to do. Taken from [`super::B2bua::poll_output`] until `None`.
#[derive(Clone, Debug)]
pub enum Output {
    /// Open a connection. Bytes may be transmitted at once: they wait for it (bounded), and are lost with it.
    /// Answered by `Connected` or `Closed`.
    Connect {
        connection: ConnectionId,
        transport: Transport,
        /// Source address to bind, so that the peer sees an address it lists; port chosen by the system.
        local: IpAddr,
        remote: SocketAddr,
        /// For TLS: the name to verify (RFC 5922) and the trunk whose CA and client certificate apply.
        tls: Option<TlsTarget>,
    },
    /// Bytes for a connection of this core.
    Transmit {
        connection: ConnectionId,
        bytes: Bytes,
    },
    /// One UDP datagram out of a listener's socket.
    Datagram {
        listener: ListenerId,
        destination: SocketAddr,
        bytes: Bytes,
    },
    /// Close once everything transmitted so far is written. No `Closed` input is owed, one is harmless.
    Close { connection: ConnectionId },
    /// Find the addresses of a host (RFC 3263). Answered by `Resolved`.
    Resolve { id: ResolveId, query: ResolveQuery },
    /// To this core's media thread.
    Media(MediaCommand),
    /// To another core's control thread.
    Handoff {
        core: CoreId,
        message: HandoffMessage,
    },
    /// Something to report.
    Event(Event),
}

/// Who must be at the other end of a TLS connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsTarget {
    /// DNS name or IP literal that the certificate must carry: the host of the trunk's `uri`.
    pub server_name: String,
    /// Selects `tls_ca`, `tls_certificate`, `tls_private_key`.
    pub trunk: Arc<str>,
}

/// A host to locate. IP literals never get here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResolveQuery {
    pub host: String,
    /// Given: A/AAAA only. Absent: SRV `_sip._tcp` / `_sips._tcp` / `_sip._udp` first, then A/AAAA with the default port.
    pub port: Option<u16>,
    pub transport: Transport,
    /// Families wanted.
    pub ipv4: bool,
    pub ipv6: bool,
}

/// Where a SIP message came from, and so where its answer goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Hop {
    Stream(ConnectionId),
    Datagram {
        listener: ListenerId,
        remote: SocketAddr,
    },
}

/// From one core's control thread to another's.
#[derive(Clone, Debug)]
pub enum HandoffMessage {
    /// A complete SIP message that belongs to the receiving core.
    Message {
        hop: Hop,
        /// `None` for connections that the edge opened.
        listener: Option<ListenerId>,
        /// The trunk that a connection was opened to.
        trunk: Option<Arc<str>>,
        /// The `uri` of that trunk that led there; `None` where the connection was not made for one.
        called: Option<Arc<TrunkUri>>,
        transport: Transport,
        local: SocketAddr,
        remote: SocketAddr,
        raw: Bytes,
    },
    /// Bytes for a connection that the receiving core holds.
    Transmit {
        from: CoreId,
        connection: ConnectionId,
        bytes: Bytes,
    },
    /// The answer when that connection is gone.
    ConnectionGone { connection: ConnectionId },
}
