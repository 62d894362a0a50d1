//! The transaction layer (RFC 3261 §17, RFC 6026): one machine per file, and the layer that owns their instances, matches
//! messages to them and runs their timers.
//!
//! | machine | role | file |
//! |---|---|---|
//! | [`client_invite::ClientInvite`] | we sent INVITE | `client_invite.rs` |
//! | [`client_non_invite::ClientNonInvite`] | we sent any other request but ACK | `client_non_invite.rs` |
//! | [`server_invite::ServerInvite`] | we received INVITE | `server_invite.rs` |
//! | [`server_non_invite::ServerNonInvite`] | we received any other request but ACK | `server_non_invite.rs` |
//!
//! # The contract with the transaction user
//!
//! - A request is sent by [`TransactionLayer::start`]. Exactly one of these follows: [`ResponseDisposition::Final`],
//!   [`TransactionEvent::ClientTimeout`], [`TransactionEvent::TransportFailed`]. [`TransactionEvent::ClientDone`] is always
//!   the last that is heard of a key.
//! - Every request that comes as `New`, `Merged` or `Cancel` is owed one final response by [`TransactionLayer::respond`] (or
//!   [`TransactionLayer::abandon`]). [`TransactionEvent::ServerDone`] is always the last that is heard of its key.
//! - The layer sends: retransmissions, ACK for 3xx-6xx, CANCEL. The user sends: 100 Trying (at once, so the layer has no
//!   200 ms timer), ACK for 2xx (on [`ResponseDisposition::Final`] with a 2xx and on every
//!   [`ResponseDisposition::Retransmitted2xx`]), and whatever limits how long a phone may ring (Timer C is the user's).
//! - A 2xx to an INVITE is retransmitted by the layer until [`TransactionLayer::acknowledged`].
//! - Mutate once, then drain [`TransactionLayer::poll_output`]: outputs are in the order in which they have to happen.

pub mod action;
mod arena;
mod client;
pub mod client_invite;
pub mod client_non_invite;
mod derived;
mod matching;
mod server;
pub mod server_invite;
pub mod server_non_invite;
pub mod timing;

use crate::b2bua::Hop;
use crate::config::{Limits, SipConfig};
use crate::fingerprint::{Fingerprint, Fingerprints};
use crate::sip::message::MessageLimits;
use crate::table::Table;
use crate::time::Instant;
use crate::timer::TimerQueue;
use arena::Arena;
use bytes::Bytes;
use client::Client;
use matching::Keys;
use server::Server;
use std::collections::{BTreeSet, VecDeque};
use timing::{Timer, Timings};

/// A client transaction of one layer. Never refers to another transaction once this one is done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientKey {
    index: u32,
    generation: u32,
}

/// A server transaction of one layer. Never refers to another transaction once this one is done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServerKey {
    index: u32,
    generation: u32,
}

impl ClientKey {
    fn slot(self) -> (u32, u32) {
        (self.index, self.generation)
    }
}

impl ServerKey {
    fn slot(self) -> (u32, u32) {
        (self.index, self.generation)
    }
}

/// The limit on transactions is reached; nothing was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the limit on SIP transactions is reached")]
pub struct Full;

/// What a received request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestDisposition {
    /// A new request; a final response is owed.
    New(ServerKey),
    /// The same request came by a second path (RFC 3261 §8.2.2.2); 482 is owed.
    Merged(ServerKey),
    /// A CANCEL. Owed: 200 to `cancel` when there is an `invite`, else 481; and 487 to the `invite` unless it
    /// [has a final response](TransactionLayer::is_final) already, in which case the CANCEL has no effect (§9.2).
    Cancel {
        cancel: ServerKey,
        invite: Option<ServerKey>,
    },
    /// An ACK for a 2xx: of the INVITE whose Call-ID, From tag and CSeq number it has, where that is still known. Whether it
    /// is really of the dialog is the user's to check before it calls [`TransactionLayer::acknowledged`].
    Ack(Option<ServerKey>),
    /// A retransmission, or the ACK for a 3xx-6xx: nothing to do.
    Absorbed,
    /// No room for another transaction: 503 without one, or nothing.
    Overload,
}

/// What a received response is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponseDisposition {
    /// 1xx.
    Provisional(ClientKey),
    /// The one final response. A 2xx to INVITE has to be acknowledged by the user; a 3xx-6xx was by the layer.
    Final(ClientKey),
    /// A further 2xx to an INVITE: the same again (acknowledge it again) or another fork's, told by its To tag (acknowledge
    /// it, then end that dialog with BYE).
    Retransmitted2xx(ClientKey),
    /// A retransmission, or the answer to the layer's own CANCEL: nothing to do.
    Absorbed,
    /// No transaction of ours: to be dropped (RFC 6026 §8.9).
    Stray,
}

/// What happened to a transaction without a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransactionEvent {
    /// No final response (INVITE: no response at all, or none after CANCEL) within 64*T1: as if 408 had come (§8.1.3.1).
    ClientTimeout(ClientKey),
    /// The connection failed before the final response came: as if 503 had come (§8.1.3.1).
    TransportFailed(ClientKey),
    /// The key means nothing any more.
    ClientDone(ClientKey),
    /// Our 2xx was not acknowledged within 64*T1: the dialog has to be ended with BYE (§13.3.1.4).
    NoAck(ServerKey),
    /// The connection that our final response goes to is gone, perhaps with the response: a new hop may be
    /// [set](TransactionLayer::set_server_hop) (§18.2.2).
    Stranded(ServerKey),
    /// The key means nothing any more.
    ServerDone(ServerKey),
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TransactionOutput {
    Transmit { hop: Hop, bytes: Bytes },
    Event(TransactionEvent),
}

/// Limits for reading back what this side wrote: none that could stand in the way of an ACK.
const OWN_MESSAGES: MessageLimits = MessageLimits {
    message_bytes: usize::MAX,
    headers: usize::MAX,
    line_bytes: usize::MAX,
    vias: usize::MAX,
};

/// Whose timer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum TimerKey {
    Client(ClientKey, Timer),
    Server(ServerKey, Timer),
}

/// All transactions of one control thread.
///
/// Bounded by [`Limits::transactions`], client and server together. The last eighth is for requests inside dialogs, so that
/// calls can be ended while new ones are refused. The CANCEL of an INVITE that is there, sent or received, always finds
/// room: at most one per INVITE.
#[derive(Debug)]
pub struct TransactionLayer {
    timings: Timings,
    limits: Limits,
    clients: Arena<Client>,
    servers: Arena<Server>,
    client_index: Table<Fingerprint, ClientKey>,
    server_index: Table<Fingerprint, ServerKey>,
    /// Requests by what survives forking; see [`Keys::request`].
    request_index: Table<Fingerprint, ServerKey>,
    /// Those that wait for a response.
    client_hops: BTreeSet<(Hop, ClientKey)>,
    /// Those that owe a response, or may have to repeat one.
    server_hops: BTreeSet<(Hop, ServerKey)>,
    timers: TimerQueue<TimerKey>,
    outputs: VecDeque<TransactionOutput>,
    keys: Keys,
}

impl TransactionLayer {
    /// An empty layer with the timers and limits of `config`.
    pub(crate) fn new(config: &SipConfig, names: Fingerprints) -> Self {
        TransactionLayer {
            timings: Timings::from(config),
            limits: config.limits,
            clients: Arena::default(),
            servers: Arena::default(),
            client_index: Table::default(),
            server_index: Table::default(),
            request_index: Table::default(),
            client_hops: BTreeSet::new(),
            server_hops: BTreeSet::new(),
            timers: TimerQueue::new(),
            outputs: VecDeque::new(),
            keys: Keys::new(names),
        }
    }

    /// Timers and limits of a new configuration, for transactions that begin from now on.
    pub fn reconfigure(&mut self, config: &SipConfig) {
        self.timings = Timings::from(config);
        self.limits = config.limits;
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<TransactionOutput> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Fires every timer that is due at `now`. Harmless when early.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(key) = self.timers.pop_expired(now) {
            match key {
                TimerKey::Client(key, timer) => self.client_timer(now, key, timer),
                TimerKey::Server(key, timer) => self.server_timer(now, key, timer),
            }
        }
    }

    /// A connection is gone, or datagrams cannot be delivered. Client transactions that wait for a final response on it
    /// fail. Server transactions stay: those of a connection hold back what they would send, and send it when the peer
    /// repeats its request over another connection or the user calls [`Self::set_server_hop`]; those over UDP go on as if
    /// the datagram had been lost.
    pub fn hop_failed(&mut self, now: Instant, hop: Hop) {
        self.clients_failed(now, hop);
        if matches!(hop, Hop::Stream(_)) {
            self.servers_stranded(hop);
        }
    }

    /// How many client and server transactions there are.
    pub fn counts(&self) -> (usize, usize) {
        (self.clients.len(), self.servers.len())
    }

    /// Whether nothing is on its way: no response awaited or owed, no ACK awaited, nothing that may have to be sent again.
    pub fn is_quiet(&self) -> bool {
        self.clients.iter().all(|client| !client.is_waiting())
            && self.servers.iter().all(|server| !server.is_owed())
    }

    /// Whether there is room; `reserved`: whether the request may use the part kept for dialogs that exist.
    fn has_room(&self, reserved: bool) -> bool {
        let limit = self.limits.transactions;
        let limit = if reserved { limit } else { limit - limit / 8 };
        self.clients.len() + self.servers.len() < limit
    }

    fn transmit(&mut self, hop: Hop, bytes: Bytes) {
        self.outputs
            .push_back(TransactionOutput::Transmit { hop, bytes });
    }

    fn emit(&mut self, event: TransactionEvent) {
        self.outputs.push_back(TransactionOutput::Event(event));
    }
}

#[cfg(test)]
mod tests;
