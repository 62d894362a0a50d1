//! The connections that carry SIP, as far as decisions depend on them: who is at the other end, and which one to reuse.

use super::context::Context;
use super::io::{CloseReason, Hop, Output, TlsTarget};
use super::may_signal;
use crate::config::{Transport, Trunk, TrunkUri};
use crate::event::EventKind;
use crate::id::{ConnectionId, ListenerId};
use crate::sip::StreamFramer;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Where a message came from, complete enough to judge and answer it on any core.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub hop: Hop,
    /// The listener that accepted; `None` on a connection that the edge opened.
    pub listener: Option<ListenerId>,
    /// The trunk a connection was opened to.
    pub trunk: Option<Arc<str>>,
    /// See [`Stream::called`].
    pub called: Option<Arc<TrunkUri>>,
    pub transport: Transport,
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// One TCP or TLS connection of this core.
pub(crate) struct Stream {
    pub framer: StreamFramer,
    pub listener: Option<ListenerId>,
    /// Name of the trunk that an outgoing connection was opened to.
    pub trunk: Option<Arc<str>>,
    /// The `uri` of that trunk that last led here. `None`: the trunk's `allow` is all that speaks for the address.
    pub called: Option<Arc<TrunkUri>>,
    pub transport: Transport,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// It is open: bytes do not wait for it any more.
    established: bool,
}

/// Key of a connection that may carry requests of other dialogs too (RFC 3261 §18.1.1, RFC 5923). One that the edge opened is
/// its trunk's alone: over TLS its peer was verified for that trunk, and what arrives on it counts for that trunk. One that was
/// accepted has none; over TLS it proves nothing about who may be called over it.
type ReuseKey = (Transport, SocketAddr, Option<Arc<str>>);

/// All connections of this core.
#[derive(Default)]
pub(crate) struct Connections {
    streams: BTreeMap<ConnectionId, Stream>,
    reuse: BTreeMap<ReuseKey, ConnectionId>,
    serial: u64,
}

impl Connections {
    pub fn get(&self, id: ConnectionId) -> Option<&Stream> {
        self.streams.get(&id)
    }

    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Stream> {
        self.streams.get_mut(&id)
    }

    pub fn contains(&self, id: ConnectionId) -> bool {
        self.streams.contains_key(&id)
    }

    pub fn len(&self) -> usize {
        self.streams.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Stream)> {
        self.streams.iter().map(|(&id, stream)| (id, stream))
    }

    fn key(stream: &Stream) -> ReuseKey {
        (stream.transport, stream.remote, stream.trunk.clone())
    }

    fn insert(&mut self, id: ConnectionId, stream: Stream) {
        if stream.transport != Transport::Tls || stream.trunk.is_some() {
            self.reuse.insert(Self::key(&stream), id);
        }
        self.streams.insert(id, stream);
    }

    pub fn remove(&mut self, id: ConnectionId) -> Option<Stream> {
        let stream = self.streams.remove(&id)?;
        let key = Self::key(&stream);
        if self.reuse.get(&key) == Some(&id) {
            self.reuse.remove(&key);
        }
        Some(stream)
    }

    /// A connection to `remote` that a request for `trunk` may use.
    pub fn reusable(
        &self,
        transport: Transport,
        remote: SocketAddr,
        trunk: &str,
    ) -> Option<ConnectionId> {
        let of = |trunk| self.reuse.get(&(transport, remote, trunk)).copied();
        of(Some(Arc::from(trunk))).or_else(|| of(None))
    }
}

impl Context {
    /// A listener accepted a connection: kept when some trunk lists its source, else closed without a word.
    pub fn accept(
        &mut self,
        connection: ConnectionId,
        listener: ListenerId,
        local: SocketAddr,
        remote: SocketAddr,
    ) {
        if self.config.allow.lookup(listener, remote.ip()).is_empty() {
            self.access_dropped(listener, remote.ip(), "unlisted");
            self.outputs.push_back(Output::Close { connection });
            return;
        }
        if self.connections.len() >= self.config.sip.limits.connections {
            self.access_dropped(listener, remote.ip(), "connection_limit");
            self.outputs.push_back(Output::Close { connection });
            return;
        }
        let Some(transport) = self.config.listener(listener).map(|l| l.transport) else {
            self.outputs.push_back(Output::Close { connection });
            return;
        };
        let framer = StreamFramer::new(self.message_limits());
        self.connections.insert(
            connection,
            Stream {
                framer,
                listener: Some(listener),
                trunk: None,
                called: None,
                transport,
                local,
                remote,
                established: true,
            },
        );
    }

    pub fn access_dropped(&mut self, listener: ListenerId, source: IpAddr, reason: &'static str) {
        let known = self.config.listener(listener);
        let listener = Arc::from(known.map_or("unknown", |listener| listener.name.as_str()));
        self.event(
            None,
            None,
            EventKind::AccessDropped {
                listener,
                source,
                reason,
            },
        );
    }

    /// An outgoing connection is up.
    pub fn connected(&mut self, connection: ConnectionId, local: SocketAddr) {
        if let Some(stream) = self.connections.get_mut(connection) {
            stream.local = local;
            stream.established = true;
        }
    }

    /// A connection is gone: what waits on it fails now, not at a timeout.
    pub fn closed(&mut self, connection: ConnectionId, reason: &CloseReason) {
        let Some(stream) = self.connections.remove(connection) else {
            return;
        };
        self.unfinished.cancel(connection);
        let detail = match reason {
            CloseReason::Peer => "closed by peer".to_owned(),
            CloseReason::Local => "closed".to_owned(),
            CloseReason::ConnectFailed(why) => format!("connect failed: {why}"),
            CloseReason::TlsFailed(why) => format!("TLS failed: {why}"),
        };
        let failed = !matches!(reason, CloseReason::Peer | CloseReason::Local);
        if failed {
            self.hop_faults
                .insert(Hop::Stream(connection), detail.clone());
        }
        self.event(
            None,
            None,
            EventKind::Connection {
                transport: stream.transport,
                remote: stream.remote,
                detail,
                failed,
            },
        );
        self.transactions
            .hop_failed(self.now, Hop::Stream(connection));
    }

    /// Notes whether a message on the connection waits for its rest, which must come within 64*T1.
    pub fn expect_rest(&mut self, connection: ConnectionId, unfinished: bool) {
        if !unfinished {
            self.unfinished.cancel(connection);
        } else if self.unfinished.deadline(connection).is_none() {
            let at = self.now + self.transaction_timeout();
            self.unfinished.set(connection, at);
        }
    }

    /// Closes a connection from this side.
    pub fn close(&mut self, connection: ConnectionId) {
        if self.connections.remove(connection).is_some() {
            self.unfinished.cancel(connection);
            self.outputs.push_back(Output::Close { connection });
            self.transactions
                .hop_failed(self.now, Hop::Stream(connection));
        }
    }

    /// Whether a new leg finds a connection to `remote`, or room for one. The last sixteenth of the connections is for requests
    /// of the legs that exist, so that calls can be ended while new ones are refused.
    pub fn has_room_to(&self, trunk: &Trunk, transport: Transport, remote: SocketAddr) -> bool {
        let limit = self.config.sip.limits.connections;
        transport == Transport::Udp
            || self.connections.len() < limit - limit / 16
            || self
                .connections
                .reusable(transport, remote, &trunk.name)
                .is_some()
    }

    /// The hop to `remote` for requests of `trunk`, and whether it is a connection that is open; else it is being opened.
    ///
    /// `called`: the `uri` of the trunk that led to `remote`. No connection is made to an address that the present configuration
    /// gives the trunk neither by that `uri` nor by `allow`, since whatever comes back on it counts for the trunk.
    ///
    /// `None` when no listener has the transport and family (the source address and Contact come from it), when the address is
    /// not the trunk's any more, or at the limit.
    pub fn hop_to(
        &mut self,
        trunk: &Trunk,
        transport: Transport,
        remote: SocketAddr,
        server_name: &str,
        called: Option<&TrunkUri>,
    ) -> Option<(Hop, bool)> {
        let listener = self.listener_for(trunk, transport, remote.ip())?;
        if transport == Transport::Udp {
            return Some((Hop::Datagram { listener, remote }, false));
        }
        if let Some(open) = self.connections.reusable(transport, remote, &trunk.name) {
            let now = self.config.trunk_named(&trunk.name);
            // A leg from before a reload may still name a `uri` that speaks for nothing any more.
            let called = called.filter(|&uri| now.is_some_and(|now| now.uris.contains(uri)));
            let stream = self.connections.get_mut(open)?;
            if let Some(uri) = called
                && stream.trunk.is_some()
                && stream.called.as_deref() != called
            {
                stream.called = Some(Arc::new(uri.clone()));
            }
            return Some((Hop::Stream(open), stream.established));
        }
        may_signal(&self.config, &trunk.name, remote, called)?;
        if self.connections.len() >= self.config.sip.limits.connections {
            return None;
        }
        let local = self.config.listener(listener)?.address.ip();
        self.connections.serial += 1;
        let connection = ConnectionId::originated(self.core, self.connections.serial);
        let framer = StreamFramer::for_originated(self.message_limits());
        self.connections.insert(
            connection,
            Stream {
                framer,
                listener: None,
                trunk: Some(trunk.name.clone()),
                called: called.cloned().map(Arc::new),
                transport,
                local: SocketAddr::new(local, 0),
                remote,
                established: false,
            },
        );
        self.outputs.push_back(Output::Connect {
            connection,
            transport,
            local,
            remote,
            tls: (transport == Transport::Tls).then(|| TlsTarget {
                server_name: server_name.to_owned(),
                trunk: trunk.name.clone(),
            }),
        });
        Some((Hop::Stream(connection), false))
    }

    /// The trunk's listener that speaks `transport` in the family of `remote`.
    pub fn listener_for(
        &self,
        trunk: &Trunk,
        transport: Transport,
        remote: IpAddr,
    ) -> Option<ListenerId> {
        trunk.listen.iter().copied().find(|&id| {
            self.config.listener(id).is_some_and(|l| {
                l.transport == transport && l.address.is_ipv4() == remote.is_ipv4()
            })
        })
    }
}
