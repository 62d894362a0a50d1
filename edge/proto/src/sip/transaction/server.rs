//! The server half of the layer: requests received, responses sent.

use super::action::{Actions, ServerAction};
use super::matching::sent_by_port;
use super::server_invite::{self, ServerInvite};
use super::server_non_invite::{self, ServerNonInvite};
use super::timing::{ResponseClass, Timer};
use super::{
    OWN_MESSAGES, RequestDisposition, ServerKey, TimerKey, TransactionEvent, TransactionLayer,
};
use crate::b2bua::Hop;
use crate::fingerprint::Fingerprint;
use crate::sip::message::Message;
use crate::sip::method::Method;
use crate::sip::via::Via;
use crate::time::Instant;
use bytes::Bytes;
use std::net::SocketAddr;

/// One server transaction.
#[derive(Debug)]
pub(super) struct Server {
    machine: Machine,
    /// Where responses go.
    hop: Hop,
    /// The connection is gone: responses are held back.
    stranded: bool,
    index: Fingerprint,
    /// Its entry in the index by what survives forking.
    request_index: Option<Fingerprint>,
    /// The latest response, while it may have to be sent again; else empty.
    response: Bytes,
    /// Its status, 0 before the first.
    code: u16,
    /// For a request without the magic cookie: the To tag of the final response, which its ACK has to match.
    old_style_tag: Option<Box<str>>,
    old_style: bool,
}

#[derive(Debug)]
enum Machine {
    Invite(ServerInvite),
    NonInvite(ServerNonInvite),
}

/// What a machine is told.
#[derive(Clone, Copy)]
enum Event {
    Request,
    Ack,
    Respond(ResponseClass),
    Acknowledged,
    Timer(Timer),
}

impl Machine {
    fn on(&mut self, event: Event) -> Actions<ServerAction> {
        match self {
            Machine::Invite(machine) => machine.on(match event {
                Event::Request => server_invite::Event::Request,
                Event::Ack => server_invite::Event::Ack,
                Event::Respond(class) => server_invite::Event::Respond(class),
                Event::Acknowledged => server_invite::Event::Acknowledged,
                Event::Timer(timer) => server_invite::Event::Timer(timer),
            }),
            Machine::NonInvite(machine) => machine.on(match event {
                Event::Request => server_non_invite::Event::Request,
                Event::Respond(class) => server_non_invite::Event::Respond(class),
                Event::Timer(timer) => server_non_invite::Event::Timer(timer),
                Event::Ack | Event::Acknowledged => return Actions::new(),
            }),
        }
    }

    fn is_terminated(&self) -> bool {
        match self {
            Machine::Invite(machine) => machine.state() == server_invite::State::Terminated,
            Machine::NonInvite(machine) => machine.state() == server_non_invite::State::Terminated,
        }
    }

    fn is_final(&self) -> bool {
        match self {
            Machine::Invite(machine) => machine.is_final(),
            Machine::NonInvite(machine) => machine.is_final(),
        }
    }

    fn set_reliable(&mut self, reliable: bool) {
        match self {
            Machine::Invite(machine) => machine.set_reliable(reliable),
            Machine::NonInvite(machine) => machine.set_reliable(reliable),
        }
    }

    /// The timers that may be running.
    fn timers(&self) -> &'static [Timer] {
        match self {
            Machine::Invite(_) => &[Timer::G, Timer::H, Timer::I, Timer::L, Timer::Success],
            Machine::NonInvite(_) => &[Timer::J],
        }
    }
}

impl Server {
    /// Whether the peer still waits for something, or we for its ACK. Over a reliable transport a final response to any
    /// request but an INVITE ends the transaction, so one that is left may have to answer again.
    pub(super) fn is_owed(&self) -> bool {
        match &self.machine {
            Machine::Invite(machine) => !machine.is_acknowledged(),
            Machine::NonInvite(_) => true,
        }
    }

    /// Whether a copy of its request that comes by another path is a merged request (RFC 3261 §8.2.2.2). Not after an answer
    /// that invites the client to try again: a second try by another address repeats Call-ID, From tag and CSeq
    /// (RFC 3263 §4.3), and some clients do not count CSeq up when they answer a challenge.
    fn is_ongoing(&self) -> bool {
        !matches!(self.code, 401 | 407 | 503)
    }
}

impl TransactionLayer {
    /// Gives a received request to its transaction, or makes one. `hop`: where it came from; over UDP without `rport` the
    /// response goes to that address and the port of the top Via (RFC 3261 §18.2.2, RFC 3581 §4).
    pub fn on_request(
        &mut self,
        now: Instant,
        hop: Hop,
        reliable: bool,
        request: &Message,
    ) -> RequestDisposition {
        let Some(method) = request.method() else {
            return RequestDisposition::Absorbed;
        };
        if method == Method::Ack {
            return self.on_ack(now, request);
        }
        let to_tag = request.to_tag().unwrap_or_default();
        let index = self.keys.server(request, &method, to_tag);
        if let Some(&key) = self.server_index.get(&index) {
            if !self.rebind_stranded(key, hop, reliable, request) {
                self.drive_server(now, key, Event::Request);
            }
            return RequestDisposition::Absorbed;
        }
        if method == Method::Cancel {
            return self.on_cancel(hop, reliable, request, index);
        }
        let in_dialog = request.to_tag().is_some();
        if !self.has_room(in_dialog) {
            return RequestDisposition::Overload;
        }
        let shared = self.keys.request(request, &method);
        let earlier = self.request_index.get(&shared).copied();
        let merged = !in_dialog
            && earlier
                .and_then(|key| self.servers.get(key.slot()))
                .is_some_and(Server::is_ongoing);
        let key = self.insert_server(hop, reliable, request, &method, index);
        if merged {
            return RequestDisposition::Merged(key);
        }
        // Inside a dialog only the INVITE has to be found again, by the ACK for its 2xx.
        if !in_dialog || method == Method::Invite {
            self.index_request(key, shared);
        }
        RequestDisposition::New(key)
    }

    /// Sends a response. Provisional ones as often as liked; one final response, and after a 2xx to INVITE further 2xx.
    /// Returns `false`, and sends nothing, when the key is done or a final response was sent before.
    pub fn respond(&mut self, now: Instant, key: ServerKey, code: u16, bytes: Bytes) -> bool {
        let Some(server) = self.servers.get_mut(key.slot()) else {
            return false;
        };
        let class = ResponseClass::of(code);
        if server.old_style && class != ResponseClass::Provisional {
            server.old_style_tag = Message::parse(bytes.clone(), &OWN_MESSAGES)
                .ok()
                .and_then(|response| response.to_tag().map(Box::from));
        }
        let actions = server.machine.on(Event::Respond(class));
        if !actions.contains(&ServerAction::Send) {
            return false;
        }
        server.response = bytes;
        server.code = code;
        self.apply_server(now, key, &actions);
        true
    }

    /// The ACK for the 2xx to this INVITE came: its retransmission ends. Harmless when repeated or late.
    pub fn acknowledged(&mut self, key: ServerKey) {
        let Some(server) = self.servers.get_mut(key.slot()) else {
            return;
        };
        let actions = server.machine.on(Event::Acknowledged);
        if actions.is_empty() {
            return;
        }
        server.response = Bytes::new();
        self.server_hops.remove(&(server.hop, key));
        self.timers.cancel(TimerKey::Server(key, Timer::Success));
    }

    /// Ends a server transaction without a response, as for a request whose sender is not to learn anything.
    /// [`TransactionEvent::ServerDone`] follows.
    pub fn abandon(&mut self, key: ServerKey) {
        self.remove_server(key);
    }

    /// Whether a final response was sent (also when the key is done): a CANCEL has no effect then.
    pub fn is_final(&self, key: ServerKey) -> bool {
        self.servers
            .get(key.slot())
            .is_none_or(|server| server.machine.is_final())
    }

    /// The status of the latest response, when one was sent and the key is not done.
    pub fn latest_status(&self, key: ServerKey) -> Option<u16> {
        self.servers
            .get(key.slot())
            .map(|server| server.code)
            .filter(|&code| code != 0)
    }

    /// Where responses of this transaction go; `None` when the key is done.
    pub fn server_hop(&self, key: ServerKey) -> Option<Hop> {
        self.servers.get(key.slot()).map(|server| server.hop)
    }

    /// Sends responses of this transaction elsewhere from now on (RFC 3261 §18.2.2: when the connection that a request came
    /// by is gone, a new one is opened). If the connection had failed, the latest response goes out at once:
    /// it may have been lost, or held back.
    pub fn set_server_hop(&mut self, key: ServerKey, hop: Hop, reliable: bool) {
        let Some(server) = self.servers.get_mut(key.slot()) else {
            return;
        };
        if self.server_hops.remove(&(server.hop, key)) {
            self.server_hops.insert((hop, key));
        }
        server.hop = hop;
        server.machine.set_reliable(reliable);
        if std::mem::take(&mut server.stranded) {
            self.send_response(key);
        }
    }

    pub(super) fn server_timer(&mut self, now: Instant, key: ServerKey, timer: Timer) {
        self.drive_server(now, key, Event::Timer(timer));
    }

    /// The connection under these transactions is gone. They count as unreliable from now on: the peer may repeat its
    /// request over a new connection, and what it repeats has to be recognized.
    pub(super) fn servers_stranded(&mut self, hop: Hop) {
        let range = (hop, ServerKey::FIRST)..=(hop, ServerKey::LAST);
        let keys: Vec<ServerKey> = self.server_hops.range(range).map(|&(_, key)| key).collect();
        for key in keys {
            if let Some(server) = self.servers.get_mut(key.slot()) {
                server.stranded = true;
                server.machine.set_reliable(false);
            }
            if self.is_final(key) {
                self.emit(TransactionEvent::Stranded(key));
            }
        }
    }

    /// Whether the transaction's connection is gone and no other was found.
    pub fn is_stranded(&self, key: ServerKey) -> bool {
        self.servers
            .get(key.slot())
            .is_some_and(|server| server.stranded)
    }

    /// An ACK: of a 3xx-6xx by the INVITE's branch, else of a 2xx by what it shares with its INVITE.
    fn on_ack(&mut self, now: Instant, ack: &Message) -> RequestDisposition {
        if let Some(key) = self.find_acknowledged(ack) {
            let Some(server) = self.servers.get_mut(key.slot()) else {
                return RequestDisposition::Ack(None);
            };
            let actions = server.machine.on(Event::Ack);
            let deliver = actions.contains(&ServerAction::DeliverAck);
            self.apply_server(now, key, &actions);
            return if deliver {
                RequestDisposition::Ack(Some(key))
            } else {
                RequestDisposition::Absorbed
            };
        }
        let shared = self.keys.request(ack, &Method::Invite);
        let key = self.request_index.get(&shared).copied().filter(|key| {
            self.servers.get(key.slot()).is_some_and(|server| {
                matches!(&server.machine, Machine::Invite(machine)
                    if machine.state() == server_invite::State::Accepted)
            })
        });
        RequestDisposition::Ack(key)
    }

    /// The INVITE transaction that an ACK matches by §17.2.3.
    fn find_acknowledged(&mut self, ack: &Message) -> Option<ServerKey> {
        let to_tag = ack.to_tag().unwrap_or_default();
        let index = self.keys.server(ack, &Method::Invite, to_tag);
        if let Some(&key) = self.server_index.get(&index) {
            return Some(key);
        }
        if ack.top_via().rfc3261_branch().is_some() {
            return None;
        }
        // Of RFC 2543: the INVITE had no To tag yet, and the ACK's is that of our response.
        let index = self.keys.server(ack, &Method::Invite, "");
        let key = *self.server_index.get(&index)?;
        let server = self.servers.get(key.slot())?;
        (server.old_style_tag.as_deref().unwrap_or_default() == to_tag).then_some(key)
    }

    fn on_cancel(
        &mut self,
        hop: Hop,
        reliable: bool,
        cancel: &Message,
        index: Fingerprint,
    ) -> RequestDisposition {
        let to_tag = cancel.to_tag().unwrap_or_default();
        let invite_index = self.keys.server(cancel, &Method::Invite, to_tag);
        let invite = self.server_index.get(&invite_index).copied();
        // One that cancels something always finds room: there is at most one per INVITE, and it makes room.
        if invite.is_none() && !self.has_room(true) {
            return RequestDisposition::Overload;
        }
        let cancel = self.insert_server(hop, reliable, cancel, &Method::Cancel, index);
        RequestDisposition::Cancel { cancel, invite }
    }

    fn insert_server(
        &mut self,
        hop: Hop,
        reliable: bool,
        request: &Message,
        method: &Method,
        index: Fingerprint,
    ) -> ServerKey {
        let hop = response_hop(hop, request.top_via());
        let machine = if *method == Method::Invite {
            Machine::Invite(ServerInvite::start(self.timings, reliable))
        } else {
            Machine::NonInvite(ServerNonInvite::start(self.timings, reliable))
        };
        let server = Server {
            machine,
            hop,
            stranded: false,
            index,
            request_index: None,
            response: Bytes::new(),
            code: 0,
            old_style_tag: None,
            old_style: request.top_via().rfc3261_branch().is_none(),
        };
        let (slot, generation) = self.servers.insert_with(|_, _| server);
        let key = ServerKey {
            index: slot,
            generation,
        };
        self.server_index.insert(index, key);
        self.server_hops.insert((hop, key));
        key
    }

    fn index_request(&mut self, key: ServerKey, shared: Fingerprint) {
        if let Some(server) = self.servers.get_mut(key.slot()) {
            server.request_index = Some(shared);
            self.request_index.insert(shared, key);
        }
    }

    /// A request repeated over another connection, after its own was lost, moves its transaction there. Returns whether
    /// that sent the latest response already.
    fn rebind_stranded(
        &mut self,
        key: ServerKey,
        hop: Hop,
        reliable: bool,
        request: &Message,
    ) -> bool {
        let stranded = self
            .servers
            .get(key.slot())
            .is_some_and(|server| server.stranded);
        if stranded {
            let hop = response_hop(hop, request.top_via());
            self.set_server_hop(key, hop, reliable);
        }
        stranded
    }

    fn drive_server(&mut self, now: Instant, key: ServerKey, event: Event) {
        if let Some(server) = self.servers.get_mut(key.slot()) {
            let actions = server.machine.on(event);
            self.apply_server(now, key, &actions);
        }
    }

    /// Carries out what a machine asked for, but for `DeliverAck`, which is the caller's to report.
    fn apply_server(&mut self, now: Instant, key: ServerKey, actions: &[ServerAction]) {
        for action in actions {
            match *action {
                ServerAction::Send => self.send_response(key),
                ServerAction::DeliverAck => {}
                ServerAction::NoAck => self.emit(TransactionEvent::NoAck(key)),
                ServerAction::Set(timer, after) => {
                    self.timers.set(TimerKey::Server(key, timer), now + after);
                }
                ServerAction::Clear(timer) => {
                    self.timers.cancel(TimerKey::Server(key, timer));
                }
            }
        }
        let Some(server) = self.servers.get_mut(key.slot()) else {
            return;
        };
        if matches!(&server.machine, Machine::Invite(machine)
            if machine.state() == server_invite::State::Confirmed)
        {
            server.response = Bytes::new();
        }
        if server.machine.is_terminated() {
            self.remove_server(key);
        }
    }

    fn send_response(&mut self, key: ServerKey) {
        let Some(server) = self.servers.get(key.slot()) else {
            return;
        };
        if server.stranded || server.response.is_empty() {
            return;
        }
        let (hop, bytes) = (server.hop, server.response.clone());
        self.transmit(hop, bytes);
    }

    fn remove_server(&mut self, key: ServerKey) {
        let Some(server) = self.servers.remove(key.slot()) else {
            return;
        };
        for &timer in server.machine.timers() {
            self.timers.cancel(TimerKey::Server(key, timer));
        }
        self.server_hops.remove(&(server.hop, key));
        if self.server_index.get(&server.index) == Some(&key) {
            self.server_index.remove(&server.index);
        }
        if let Some(shared) = server.request_index
            && self.request_index.get(&shared) == Some(&key)
        {
            self.request_index.remove(&shared);
        }
        self.emit(TransactionEvent::ServerDone(key));
    }
}

/// Where the responses to a request from `hop` go.
fn response_hop(hop: Hop, via: &Via) -> Hop {
    match hop {
        Hop::Datagram { listener, remote } if via.rport().is_none() => Hop::Datagram {
            listener,
            remote: SocketAddr::new(remote.ip(), sent_by_port(via)),
        },
        hop => hop,
    }
}

impl ServerKey {
    const FIRST: ServerKey = ServerKey {
        index: 0,
        generation: 0,
    };
    const LAST: ServerKey = ServerKey {
        index: u32::MAX,
        generation: u32::MAX,
    };
}
