//! The client half of the layer: requests sent, responses received.

use super::action::{Actions, ClientAction};
use super::client_invite::{self, ClientInvite};
use super::client_non_invite::{self, ClientNonInvite};
use super::timing::{ResponseClass, Timer};
use super::{
    ClientKey, Full, OWN_MESSAGES, ResponseDisposition, TimerKey, TransactionEvent,
    TransactionLayer, derived,
};
use crate::b2bua::Hop;
use crate::fingerprint::Fingerprint;
use crate::sip::message::Message;
use crate::sip::method::Method;
use crate::time::Instant;
use bytes::Bytes;

/// One client transaction.
#[derive(Debug)]
pub(super) struct Client {
    machine: Machine,
    hop: Hop,
    reliable: bool,
    index: Fingerprint,
    method: Method,
    /// The request, while it may be sent again or an ACK or a CANCEL may have to be made from it; then empty.
    request: Bytes,
    /// The ACK for a 3xx-6xx, once made.
    ack: Bytes,
    cancel: Cancel,
    /// A CANCEL of the layer's own, of which the user hears nothing.
    internal: bool,
}

#[derive(Debug)]
enum Machine {
    Invite(ClientInvite),
    NonInvite(ClientNonInvite),
}

/// Whether a CANCEL for an INVITE was asked for.
#[derive(Debug, Default)]
enum Cancel {
    #[default]
    No,
    /// It waits for a provisional response (RFC 3261 §9.1), with the headers to add.
    Deferred(Vec<(String, String)>),
    Sent,
}

/// What a machine is told.
#[derive(Clone, Copy)]
enum Event {
    Response(ResponseClass),
    Timer(Timer),
    TransportError,
    Cancelled,
}

impl Machine {
    fn on(&mut self, event: Event) -> Actions<ClientAction> {
        match self {
            Machine::Invite(machine) => machine.on(match event {
                Event::Response(class) => client_invite::Event::Response(class),
                Event::Timer(timer) => client_invite::Event::Timer(timer),
                Event::TransportError => client_invite::Event::TransportError,
                Event::Cancelled => client_invite::Event::Cancelled,
            }),
            Machine::NonInvite(machine) => machine.on(match event {
                Event::Response(class) => client_non_invite::Event::Response(class),
                Event::Timer(timer) => client_non_invite::Event::Timer(timer),
                Event::TransportError => client_non_invite::Event::TransportError,
                Event::Cancelled => return Actions::new(),
            }),
        }
    }

    fn is_terminated(&self) -> bool {
        match self {
            Machine::Invite(machine) => machine.state() == client_invite::State::Terminated,
            Machine::NonInvite(machine) => machine.state() == client_non_invite::State::Terminated,
        }
    }

    fn is_accepted(&self) -> bool {
        matches!(self, Machine::Invite(machine) if machine.state() == client_invite::State::Accepted)
    }

    /// Whether the final response is still to come.
    fn is_waiting(&self) -> bool {
        match self {
            Machine::Invite(machine) => matches!(
                machine.state(),
                client_invite::State::Calling | client_invite::State::Proceeding
            ),
            Machine::NonInvite(machine) => matches!(
                machine.state(),
                client_non_invite::State::Trying | client_non_invite::State::Proceeding
            ),
        }
    }

    /// The timers that may be running.
    fn timers(&self) -> &'static [Timer] {
        match self {
            Machine::Invite(_) => &[Timer::A, Timer::B, Timer::D, Timer::M, Timer::Cancelled],
            Machine::NonInvite(_) => &[Timer::E, Timer::F, Timer::K],
        }
    }
}

impl Client {
    /// Whether the final response is still to come.
    pub(super) fn is_waiting(&self) -> bool {
        self.machine.is_waiting()
    }
}

impl TransactionLayer {
    /// Sends a request in a new client transaction; `bytes` is the whole message, whose top Via carries `branch`. Never for
    /// ACK, which has no transaction.
    ///
    /// `branch` is unique: it begins with [`crate::sip::via::MAGIC_COOKIE`] and is not used by another request.
    ///
    /// # Errors
    /// [`Full`]: the limit on transactions is reached (for INVITE some way before it is); nothing was sent.
    pub fn start(
        &mut self,
        now: Instant,
        hop: Hop,
        reliable: bool,
        method: Method,
        branch: &str,
        bytes: Bytes,
    ) -> Result<ClientKey, Full> {
        if !self.has_room(method != Method::Invite) {
            return Err(Full);
        }
        let client = Client {
            machine: Machine::NonInvite(ClientNonInvite::start(self.timings, reliable).0),
            hop,
            reliable,
            index: self.keys.client(branch, &method),
            method,
            request: bytes,
            ack: Bytes::new(),
            cancel: Cancel::No,
            internal: false,
        };
        Ok(self.insert_client(now, client))
    }

    /// Cancels an INVITE that has no final response yet (RFC 3261 §9.1). The CANCEL goes out now, or as soon as a
    /// provisional response comes; never, when a final response comes first. The INVITE's own final response is still
    /// delivered (487 as a rule, but a 2xx that crossed the CANCEL has to be acknowledged and its dialog ended), or
    /// [`TransactionEvent::ClientTimeout`] 64*T1 after the CANCEL.
    ///
    /// `extra_headers`: names and values to add, such as Reason (RFC 3326). Returns whether there was something to cancel.
    pub fn cancel(&mut self, now: Instant, key: ClientKey, extra_headers: &[(&str, &str)]) -> bool {
        let Some(client) = self.clients.get_mut(key.slot()) else {
            return false;
        };
        let Machine::Invite(machine) = &client.machine else {
            return false;
        };
        if !client.machine.is_waiting() || !matches!(client.cancel, Cancel::No) {
            return false;
        }
        let proceeding = machine.state() == client_invite::State::Proceeding;
        client.cancel = Cancel::Deferred(
            extra_headers
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        );
        if proceeding {
            self.send_deferred_cancel(now, key);
        }
        true
    }

    /// Gives a received response to its transaction.
    pub fn on_response(&mut self, now: Instant, response: &Message) -> ResponseDisposition {
        let (Some(code), Some(branch)) = (response.status(), response.top_via().branch()) else {
            return ResponseDisposition::Stray;
        };
        // More than one Via: it was meant for someone behind us, and we are no proxy (§8.1.3.3).
        if response.via_count() != 1 {
            return ResponseDisposition::Stray;
        }
        let index = self.keys.client(branch, &response.cseq().method);
        let Some(&key) = self.client_index.get(&index) else {
            return ResponseDisposition::Stray;
        };
        let Some(client) = self.clients.get_mut(key.slot()) else {
            return ResponseDisposition::Stray;
        };
        let class = ResponseClass::of(code);
        let was_accepted = client.machine.is_accepted();
        let internal = client.internal;
        let actions = client.machine.on(Event::Response(class));
        let delivered = self.apply_client(now, key, &actions, Some(response));
        if class == ResponseClass::Provisional {
            self.send_deferred_cancel(now, key);
        }
        match class {
            _ if internal || !delivered => ResponseDisposition::Absorbed,
            ResponseClass::Provisional => ResponseDisposition::Provisional(key),
            _ if was_accepted => ResponseDisposition::Retransmitted2xx(key),
            _ => ResponseDisposition::Final(key),
        }
    }

    /// Where a client transaction sends.
    pub fn client_hop(&self, key: ClientKey) -> Option<Hop> {
        self.clients.get(key.slot()).map(|client| client.hop)
    }

    pub(super) fn client_timer(&mut self, now: Instant, key: ClientKey, timer: Timer) {
        let Some(client) = self.clients.get_mut(key.slot()) else {
            return;
        };
        let actions = client.machine.on(Event::Timer(timer));
        self.apply_client(now, key, &actions, None);
    }

    pub(super) fn clients_failed(&mut self, now: Instant, hop: Hop) {
        let keys: Vec<ClientKey> = self
            .client_hops
            .range((hop, ClientKey::FIRST)..=(hop, ClientKey::LAST))
            .map(|&(_, key)| key)
            .collect();
        for key in keys {
            let Some(client) = self.clients.get_mut(key.slot()) else {
                continue;
            };
            let actions = client.machine.on(Event::TransportError);
            self.apply_client(now, key, &actions, None);
        }
    }

    /// Stores a client transaction and starts its machine.
    fn insert_client(&mut self, now: Instant, mut client: Client) -> ClientKey {
        let first = if client.method == Method::Invite {
            let (machine, first) = ClientInvite::start(self.timings, client.reliable);
            client.machine = Machine::Invite(machine);
            first
        } else {
            let (machine, first) = ClientNonInvite::start(self.timings, client.reliable);
            client.machine = Machine::NonInvite(machine);
            first
        };
        let (hop, index) = (client.hop, client.index);
        let (slot, generation) = self.clients.insert_with(|_, _| client);
        let key = ClientKey {
            index: slot,
            generation,
        };
        self.client_index.insert(index, key);
        self.client_hops.insert((hop, key));
        self.apply_client(now, key, &first, None);
        key
    }

    /// Sends the CANCEL that waits at `key`, if one does and its INVITE has a provisional response and no final one.
    fn send_deferred_cancel(&mut self, now: Instant, key: ClientKey) {
        let Some(invite) = self.clients.get_mut(key.slot()) else {
            return;
        };
        if !invite.machine.is_waiting() || !matches!(invite.cancel, Cancel::Deferred(_)) {
            return;
        }
        let Cancel::Deferred(headers) = std::mem::replace(&mut invite.cancel, Cancel::Sent) else {
            return;
        };
        let Ok(message) = Message::parse(invite.request.clone(), &OWN_MESSAGES) else {
            // Not a message that this layer could ever have been asked to send by a correct user.
            return;
        };
        let extra = headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        let branch = message.top_via().branch().unwrap_or_default();
        let index = self.keys.client(branch, &Method::Cancel);
        let cancel = Client {
            machine: Machine::NonInvite(ClientNonInvite::start(self.timings, invite.reliable).0),
            hop: invite.hop,
            reliable: invite.reliable,
            index,
            method: Method::Cancel,
            request: derived::cancel(&message, extra),
            ack: Bytes::new(),
            cancel: Cancel::No,
            internal: true,
        };
        let actions = invite.machine.on(Event::Cancelled);
        self.apply_client(now, key, &actions, None);
        self.insert_client(now, cancel);
    }

    /// Carries out what a machine asked for. Returns whether the response at hand is for the user.
    fn apply_client(
        &mut self,
        now: Instant,
        key: ClientKey,
        actions: &[ClientAction],
        response: Option<&Message>,
    ) -> bool {
        let mut delivered = false;
        for action in actions {
            match *action {
                ClientAction::Send => self.send_request(key),
                ClientAction::Ack => self.send_ack(key, response),
                ClientAction::Deliver => delivered = true,
                ClientAction::Timeout => {
                    self.emit_client(key, TransactionEvent::ClientTimeout(key));
                }
                ClientAction::TransportFailed => {
                    self.emit_client(key, TransactionEvent::TransportFailed(key));
                }
                ClientAction::Set(timer, after) => {
                    self.timers.set(TimerKey::Client(key, timer), now + after);
                }
                ClientAction::Clear(timer) => {
                    self.timers.cancel(TimerKey::Client(key, timer));
                }
            }
        }
        self.settle_client(key);
        delivered
    }

    fn send_request(&mut self, key: ClientKey) {
        if let Some(client) = self.clients.get(key.slot()) {
            let (hop, bytes) = (client.hop, client.request.clone());
            self.transmit(hop, bytes);
        }
    }

    /// Sends the ACK, made from the first 3xx-6xx: a later one is the same response again.
    fn send_ack(&mut self, key: ClientKey, response: Option<&Message>) {
        let Some(client) = self.clients.get_mut(key.slot()) else {
            return;
        };
        if client.ack.is_empty()
            && let Some(response) = response
            && let Ok(invite) = Message::parse(client.request.clone(), &OWN_MESSAGES)
        {
            client.ack = derived::ack(&invite, response);
        }
        if !client.ack.is_empty() {
            let (hop, bytes) = (client.hop, client.ack.clone());
            self.transmit(hop, bytes);
        }
    }

    fn emit_client(&mut self, key: ClientKey, event: TransactionEvent) {
        if self.clients.get(key.slot()).is_some_and(|c| !c.internal) {
            self.emit(event);
        }
    }

    /// Lets go of what the transaction's state needs no more, and of the transaction itself once it is over.
    fn settle_client(&mut self, key: ClientKey) {
        let Some(client) = self.clients.get_mut(key.slot()) else {
            return;
        };
        if !client.machine.is_waiting() && !client.request.is_empty() {
            client.request = Bytes::new();
            client.cancel = Cancel::Sent;
            self.client_hops.remove(&(client.hop, key));
        }
        if !client.machine.is_terminated() {
            return;
        }
        self.emit_client(key, TransactionEvent::ClientDone(key));
        let Some(client) = self.clients.remove(key.slot()) else {
            return;
        };
        for &timer in client.machine.timers() {
            self.timers.cancel(TimerKey::Client(key, timer));
        }
        if self.client_index.get(&client.index) == Some(&key) {
            self.client_index.remove(&client.index);
        }
    }
}

impl ClientKey {
    const FIRST: ClientKey = ClientKey {
        index: 0,
        generation: 0,
    };
    const LAST: ClientKey = ClientKey {
        index: u32::MAX,
        generation: u32::MAX,
    };
}
