//! What calls may do to the world: everything a [`Call`](crate::call::Call) needs beside its own state.

use super::B2buaParams;
use super::connections::{Connections, Origin};
use super::ingress::RETRY_AFTER_S;
use super::io::{HandoffMessage, Hop, Output};
use super::may_signal;
use super::ownership::MAGIC_COOKIE;
use super::parking::Parked;
use super::ports::Leases;
use crate::call::CallKey;
use crate::config::{Config, Transport, Trunk, TrunkUri};
use crate::event::{CallId, Direction, Event, EventKind, LegNumber, packed};
use crate::fingerprint::{Fingerprint, Fingerprints};
use crate::id::{AllocationId, ConnectionId, CoreId, ResolveId};
use crate::sip::auth::DigestServer;
use crate::sip::transaction::{ClientKey, ServerKey, TransactionLayer};
use crate::sip::{HeaderName, Message, MessageLimits, Method, ResponseBuilder, Uri};
use crate::table::Table;
use crate::time::Instant;
use crate::timer::TimerQueue;
use bytes::Bytes;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

/// The methods this edge takes, for Allow.
pub(crate) const ALLOW: &str = "INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE, REFER, NOTIFY";
/// The product's name in User-Agent and Server.
pub(crate) const PRODUCT: &str = concat!("sip-edge/", env!("CARGO_PKG_VERSION"));

/// Why a client transaction exists, so that its responses find their way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ClientPurpose {
    Invite,
    Reinvite,
    Bye,
    Notify,
}

/// Who started a client transaction.
#[derive(Clone, Debug)]
pub(crate) struct ClientUse {
    pub call: CallKey,
    pub leg: LegNumber,
    pub purpose: ClientPurpose,
    pub method: Method,
    pub trunk: Arc<str>,
    pub sent_at: Instant,
    pub hop: Hop,
}

/// Who answers a server transaction.
#[derive(Clone, Debug)]
pub(crate) struct ServerUse {
    pub call: CallKey,
    pub leg: LegNumber,
}

/// Facts about a server transaction that its answers are reported with.
#[derive(Clone, Debug)]
struct ServerFacts {
    call: Option<(CallKey, CallId, LegNumber)>,
    trunk: Arc<str>,
    method: Method,
    received_at: Instant,
    /// Where it came from, for the Via of the answer.
    source: SocketAddr,
    transport: Transport,
    /// See [`Origin::called`].
    called: Option<Arc<TrunkUri>>,
    /// Port in the top Via, where its sender takes answers if its connection is gone.
    sent_by_port: u16,
    /// A new connection was opened for its answer.
    reopened: bool,
}

/// What a call waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(crate) enum TimerKind {
    /// The new leg was not answered in time (RFC 3261 timer C for ordinary legs, `ring_timeout_s` for transfers).
    Ring,
    /// No response at all to the INVITE with credentials (`auth_timeout_s`).
    Auth,
    /// The final NOTIFY was not answered.
    FinalNotify,
    /// A cancelled or ended leg's peer did not answer.
    LegEnd,
    /// The media thread did not report the closed allocation's counters.
    MediaClosed,
    /// Try the re-INVITE again after 491 (RFC 3261 §14.1).
    Reinvite,
    /// An endpoint whose answer was not wanted has stopped to send by now.
    Fork,
}

impl TimerKind {
    const ALL: [TimerKind; 7] = [
        TimerKind::Ring,
        TimerKind::Auth,
        TimerKind::FinalNotify,
        TimerKind::LegEnd,
        TimerKind::MediaClosed,
        TimerKind::Reinvite,
        TimerKind::Fork,
    ];
}

/// One deadline of one leg.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(crate) struct CallTimer {
    pub call: CallKey,
    pub leg: LegNumber,
    pub kind: TimerKind,
}

/// The services of one core.
pub(crate) struct Context {
    pub config: Arc<Config>,
    pub core: CoreId,
    pub cores: u8,
    pub now: Instant,
    pub draining: bool,
    /// See [`super::Input::Overloaded`].
    pub overloaded: bool,
    pub owner_key: [u8; 32],
    pub transactions: TransactionLayer,
    pub digest: DigestServer,
    pub connections: Connections,
    pub leases: Leases,
    pub timers: TimerQueue<CallTimer>,
    /// Connections with half a message, and when it must be whole.
    pub unfinished: TimerQueue<ConnectionId>,
    pub outputs: VecDeque<Output>,
    pub local_resolutions: VecDeque<(ResolveId, Result<Vec<SocketAddr>, String>)>,
    pub resolves: BTreeMap<ResolveId, (CallKey, LegNumber)>,
    pub resolve_serial: u64,
    /// Local tag -> the dialog's owner.
    dialogs: Table<Fingerprint, (CallKey, LegNumber)>,
    pub names: Fingerprints,
    pub allocations: Table<AllocationId, (CallKey, LegNumber)>,
    /// Why connections failed, kept until the failures they caused have been told.
    pub hop_faults: BTreeMap<Hop, String>,
    pub parked_handoffs: Parked,
    clients: Table<ClientKey, ClientUse>,
    /// To-tags of those who answered an INVITE.
    pub answers: Table<ClientKey, SmallVec<[Fingerprint; 1]>>,
    servers: Table<ServerKey, ServerFacts>,
    rng: ChaCha20Rng,
}

impl Context {
    pub fn new(params: B2buaParams, now: Instant) -> Self {
        let B2buaParams {
            config,
            core,
            cores,
            seed,
            keys,
        } = params;
        let names = Fingerprints::new(secret(seed));
        Context {
            transactions: TransactionLayer::new(&config.sip, names),
            digest: DigestServer::new(keys.nonce, core),
            connections: Connections::default(),
            leases: Leases::new(&config.media, core, cores),
            timers: TimerQueue::new(),
            unfinished: TimerQueue::new(),
            outputs: VecDeque::new(),
            local_resolutions: VecDeque::new(),
            resolves: BTreeMap::new(),
            resolve_serial: 0,
            dialogs: Table::default(),
            names,
            allocations: Table::default(),
            hop_faults: BTreeMap::new(),
            parked_handoffs: Parked::default(),
            clients: Table::default(),
            answers: Table::default(),
            servers: Table::default(),
            rng: ChaCha20Rng::from_seed(seed),
            owner_key: keys.owner,
            draining: false,
            overloaded: false,
            config,
            core,
            cores,
            now,
        }
    }

    /// Everything that is kept for a call, a leg or a transaction, by name and count.
    pub fn held(&self) -> Vec<(&'static str, usize)> {
        let (clients, servers) = self.transactions.counts();
        vec![
            ("client transactions", clients),
            ("server transactions", servers),
            ("users of client transactions", self.clients.len()),
            ("answers", self.answers.len()),
            ("users of server transactions", self.servers.len()),
            ("dialogs", self.dialogs.len()),
            ("allocations", self.allocations.len()),
            ("questions to the resolver", self.resolves.len()),
            ("timers", self.timers.len()),
            ("handoffs", self.parked_handoffs.len()),
        ]
    }

    pub fn message_limits(&self) -> MessageLimits {
        MessageLimits {
            message_bytes: self.config.sip.limits.message_bytes,
            headers: self.config.sip.limits.headers,
            ..MessageLimits::default()
        }
    }

    // --- names -----------------------------------------------------------------------------------------------------

    /// `N` random bytes in lower-case hex.
    pub fn random_hex(&mut self, bytes: usize) -> String {
        let mut text = String::with_capacity(bytes * 2);
        self.push_random_hex(&mut text, bytes);
        text
    }

    fn push_random_hex(&mut self, text: &mut String, bytes: usize) {
        let length = text.len() + bytes * 2;
        while text.len() < length {
            let word = self.rng.next_u32();
            let digits = (0..8).rev().map(|place| word >> (place * 4) & 0xf);
            text.extend(digits.filter_map(|digit| char::from_digit(digit, 16)));
        }
        text.truncate(length);
    }

    /// A tag for our side of a dialog: the core, then 128 random bits (RFC 3261 §19.3 asks for 32).
    pub fn tag(&mut self) -> String {
        let mut tag = String::with_capacity(34);
        self.push_core(&mut tag);
        self.push_random_hex(&mut tag, 16);
        tag
    }

    /// A branch: magic cookie, the core, 96 random bits.
    pub fn branch(&mut self) -> String {
        let mut branch = String::with_capacity(MAGIC_COOKIE.len() + 26);
        branch.push_str(MAGIC_COOKIE);
        self.push_core(&mut branch);
        self.push_random_hex(&mut branch, 12);
        branch
    }

    /// Two hex digits that tell whose a name of ours is.
    fn push_core(&self, text: &mut String) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{:02x}", self.core.0);
    }

    /// A number in `0..bound`.
    pub fn random_below(&mut self, bound: u32) -> u32 {
        self.rng.next_u32() % bound.max(1)
    }

    /// A session id for SDP: 62 bits, so that every reader's signed integer takes it.
    pub fn session_id(&mut self) -> u64 {
        self.rng.next_u64() >> 2
    }

    // --- reports ---------------------------------------------------------------------------------------------------

    pub fn event(&mut self, call: Option<CallId>, leg: Option<LegNumber>, kind: EventKind) {
        debug_assert!(packed::is_whole(&kind), "a new word in {kind:?}");
        self.outputs.push_back(Output::Event(Event {
            at: self.now,
            call,
            leg,
            kind,
        }));
    }

    // --- sending ---------------------------------------------------------------------------------------------------

    /// Whether the transport of `hop` retransmits by itself.
    fn is_reliable(&self, hop: Hop) -> bool {
        // A connection of another core is TCP or TLS.
        self.known_transport(hop).is_none_or(Transport::is_reliable)
    }

    /// The transport of a hop of this core.
    pub fn known_transport(&self, hop: Hop) -> Option<Transport> {
        match hop {
            Hop::Datagram { .. } => Some(Transport::Udp),
            Hop::Stream(id) => self.connections.get(id).map(|stream| stream.transport),
        }
    }

    /// Starts a client transaction. `None`: the transaction limit is reached.
    pub fn send_request(
        &mut self,
        branch: &str,
        bytes: Bytes,
        user: ClientUse,
        call: CallId,
    ) -> Option<ClientKey> {
        let (hop, method) = (user.hop, user.method.clone());
        let reliable = self.is_reliable(hop);
        let key = self
            .transactions
            .start(self.now, hop, reliable, method, branch, bytes)
            .ok()?;
        self.event(
            Some(call),
            Some(user.leg),
            EventKind::Request {
                trunk: user.trunk.clone(),
                method: user.method.clone(),
                direction: Direction::Outbound,
            },
        );
        self.clients.insert(key, user);
        Some(key)
    }

    pub fn client_use(&self, key: ClientKey) -> Option<&ClientUse> {
        self.clients.get(&key)
    }

    pub fn client_done(&mut self, key: ClientKey) {
        self.clients.remove(&key);
        self.answers.remove(&key);
    }

    /// Bytes to a hop, wherever its socket is.
    pub fn transmit(&mut self, hop: Hop, bytes: Bytes) {
        match hop {
            Hop::Datagram { listener, remote } => self.outputs.push_back(Output::Datagram {
                listener,
                destination: remote,
                bytes,
            }),
            Hop::Stream(connection) if connection.core() != self.core => {
                let from = self.core;
                self.outputs.push_back(Output::Handoff {
                    core: connection.core(),
                    message: HandoffMessage::Transmit {
                        from,
                        connection,
                        bytes,
                    },
                });
            }
            Hop::Stream(connection) if self.connections.contains(connection) => {
                self.outputs
                    .push_back(Output::Transmit { connection, bytes });
            }
            Hop::Stream(_) => self.transactions.hop_failed(self.now, hop),
        }
    }

    // --- dialogs ---------------------------------------------------------------------------------------------------

    fn dialog_key(&self, local_tag: &str) -> Fingerprint {
        self.names.begin(b'd').text(local_tag).finish()
    }

    /// A dialog with this tag of ours begins.
    pub fn dialog_started(&mut self, local_tag: &str, call: CallKey, leg: LegNumber) {
        let key = self.dialog_key(local_tag);
        self.dialogs.insert(key, (call, leg));
    }

    /// Whose dialog has this tag of ours.
    pub fn dialog_owner(&self, local_tag: &str) -> Option<(CallKey, LegNumber)> {
        self.dialogs.get(&self.dialog_key(local_tag)).copied()
    }

    pub fn dialog_over(&mut self, local_tag: &str) {
        let key = self.dialog_key(local_tag);
        self.dialogs.remove(&key);
    }

    // --- server transactions ---------------------------------------------------------------------------------------

    /// Notes what a server transaction is about.
    pub fn server_started(
        &mut self,
        key: ServerKey,
        trunk: Arc<str>,
        origin: &Origin,
        request: &Message,
    ) {
        let (_, port) = request.top_via().sent_by();
        self.servers.insert(
            key,
            ServerFacts {
                call: None,
                trunk,
                method: request.cseq().method.clone(),
                received_at: self.now,
                source: origin.remote,
                transport: origin.transport,
                called: origin.called.clone(),
                sent_by_port: port.unwrap_or(origin.transport.default_port()),
                reopened: false,
            },
        );
    }

    /// The request belongs to this leg.
    pub fn server_belongs(&mut self, key: ServerKey, call: CallKey, id: CallId, leg: LegNumber) {
        if let Some(facts) = self.servers.get_mut(&key) {
            facts.call = Some((call, id, leg));
        }
    }

    /// Whose request it is turned out later.
    pub fn server_trunk(&mut self, key: ServerKey, trunk: Arc<str>) {
        if let Some(facts) = self.servers.get_mut(&key) {
            facts.trunk = trunk;
        }
    }

    /// The leg that a request belongs to, for reports.
    pub fn server_owner(&self, key: ServerKey) -> Option<(CallId, LegNumber)> {
        let (_, id, leg) = self.servers.get(&key)?.call.as_ref()?;
        Some((id.clone(), *leg))
    }

    pub fn server_use(&self, key: ServerKey) -> Option<ServerUse> {
        let (call, _, leg) = self.servers.get(&key)?.call.as_ref()?;
        Some(ServerUse {
            call: *call,
            leg: *leg,
        })
    }

    pub fn server_done(&mut self, key: ServerKey) {
        self.servers.remove(&key);
    }

    /// Sends a response within its transaction.
    pub fn respond(&mut self, key: ServerKey, code: u16, mut response: ResponseBuilder) {
        if let Some(facts) = self.servers.get(&key).cloned() {
            response = response.received_from(facts.source);
            let (call, leg) = match facts.call {
                Some((_, id, leg)) => (Some(id), Some(leg)),
                None => (None, None),
            };
            let elapsed = (code >= 200).then(|| self.now.saturating_since(facts.received_at));
            self.event(
                call,
                leg,
                EventKind::Response {
                    trunk: facts.trunk,
                    method: facts.method,
                    code,
                    direction: Direction::Outbound,
                    elapsed,
                },
            );
        }
        let bytes = response.header(HeaderName::Server, PRODUCT).build();
        self.transactions.respond(self.now, key, code, bytes);
        if code >= 200 && self.transactions.is_stranded(key) {
            self.reopen_for(key);
        }
    }

    /// The connection that the request of a call came over is gone: its final answer takes a new one, to where the Via says
    /// (RFC 3261 §18.2.2), unless a reload has taken access from that address since. Tried once.
    pub fn reopen_for(&mut self, key: ServerKey) {
        let Some(facts) = self.servers.get_mut(&key) else {
            return;
        };
        if facts.call.is_none() || std::mem::replace(&mut facts.reopened, true) {
            return;
        }
        let (transport, source) = (facts.transport, facts.source);
        let remote = SocketAddr::new(source.ip(), facts.sent_by_port);
        let called = facts.called.clone();
        let now = may_signal(&self.config, &facts.trunk, remote, called.as_deref());
        let Some(trunk) = now.cloned() else {
            return;
        };
        let name = match trunk.uris.first() {
            Some(uri) => uri.host.clone(),
            None => remote.ip().to_string(),
        };
        let called = called.as_deref();
        if let Some((hop, _)) = self.hop_to(&trunk, transport, remote, &name, called) {
            self.transactions
                .set_server_hop(key, hop, transport.is_reliable());
        }
    }

    /// 503 without a transaction: there is no room for one here, or at the core that the request belongs to.
    pub fn refuse_stateless(&mut self, hop: Hop, request: &Message) {
        let response = self
            .response(request, 503, None)
            .header(HeaderName::RetryAfter, RETRY_AFTER_S)
            .header(HeaderName::Server, PRODUCT);
        self.transmit(hop, response.build());
    }

    /// A plain response without a body; a To-tag is added to everything but 100.
    pub fn reply(&mut self, key: ServerKey, request: &Message, code: u16) {
        let response = self.response(request, code, None);
        self.respond(key, code, response);
    }

    /// A response with `tag` as our To-tag, or a fresh one where the request had none.
    pub fn response(&mut self, request: &Message, code: u16, tag: Option<&str>) -> ResponseBuilder {
        let response = ResponseBuilder::to(request, code);
        if code == 100 || request.to_tag().is_some() {
            return response;
        }
        match tag {
            Some(tag) => response.to_tag(tag),
            None => {
                let tag = self.tag();
                response.to_tag(&tag)
            }
        }
    }

    /// `sent-by` and Contact host for requests to `trunk` over `transport` towards `remote`.
    pub fn sent_by(
        &self,
        trunk: &Trunk,
        transport: Transport,
        remote: SocketAddr,
    ) -> Option<SocketAddr> {
        let id = self.listener_for(trunk, transport, remote.ip())?;
        Some(self.config.listener(id)?.advertised)
    }

    /// Our Contact for a dialog over `transport` at `advertised`.
    pub fn contact(transport: Transport, advertised: SocketAddr, sips: bool) -> String {
        let (scheme, parameter) = match (transport, sips) {
            (Transport::Tls, true) => ("sips", ""),
            (Transport::Udp, _) => ("sip", ""),
            (Transport::Tcp, _) => ("sip", ";transport=tcp"),
            (Transport::Tls, false) => ("sip", ";transport=tls"),
        };
        format!("<{scheme}:edge@{advertised}{parameter}>")
    }

    /// The Contact for a dialog that `request` from `origin` starts; `sips:` where the request's URI is (RFC 3261 §12.1.1).
    pub fn contact_for(&self, origin: &Origin, trunk: &Trunk, request: &Message) -> String {
        let uri = request.request_uri().unwrap_or_default();
        let sips = matches!(Uri::parse(uri), Ok(Uri::Sip(uri)) if uri.sips);
        let advertised = origin
            .listener
            .and_then(|id| self.config.listener(id))
            .map(|l| l.advertised)
            .or_else(|| self.sent_by(trunk, origin.transport, origin.remote))
            .unwrap_or(origin.local);
        Self::contact(origin.transport, advertised, sips)
    }

    // --- timers ----------------------------------------------------------------------------------------------------

    pub fn set_timer(&mut self, call: CallKey, leg: LegNumber, kind: TimerKind, at: Instant) {
        self.timers.set(CallTimer { call, leg, kind }, at);
    }

    pub fn cancel_timer(&mut self, call: CallKey, leg: LegNumber, kind: TimerKind) {
        self.timers.cancel(CallTimer { call, leg, kind });
    }

    /// Drops every deadline of a leg that is gone.
    pub fn forget_timers(&mut self, call: CallKey, leg: LegNumber) {
        for kind in TimerKind::ALL {
            self.cancel_timer(call, leg, kind);
        }
    }

    /// 64*T1: how long any answer may take (RFC 3261 timers B, F, H).
    pub fn transaction_timeout(&self) -> std::time::Duration {
        self.config.sip.t1 * 64
    }
}

/// The key of this core's fingerprints: of the same seed as its random numbers, which it does not use up.
fn secret(seed: [u8; 32]) -> [u8; 16] {
    let mut rng = ChaCha20Rng::from_seed(seed);
    rng.set_stream(1);
    let mut key = [0; 16];
    rng.fill_bytes(&mut key);
    key
}
