//! The control facade: one [`B2bua`] per control thread. Bytes, media events and time go in as [`Input`]; what to do comes
//! out as [`Output`]. Mutate once, drain the outputs, repeat.
//!
//! ```text
//!  Input ──► ingress (frame, parse, owner?) ──► transactions ──► Call ──► Context ──► Output
//!                        │ other core                                       ▲
//!                        └────────► Output::Handoff                 timers, ports, tags
//! ```

mod connections;
mod context;
mod dispatch;
mod ingress;
mod io;
mod locate;
mod orphan;
mod ownership;
mod parking;
mod ports;
mod reload;

pub use io::{CloseReason, HandoffMessage, Hop, Input, Output, ResolveQuery, TlsTarget};
pub use ownership::owner_of;

pub(crate) use connections::Origin;
pub(crate) use context::{ALLOW, CallTimer, ClientPurpose, ClientUse, Context, PRODUCT, TimerKind};
pub(crate) use dispatch::received;
pub(crate) use ingress::RETRY_AFTER_S;
pub(crate) use locate::{Candidate, Reach};
pub(crate) use ports::{Family, Lease};
pub(crate) use reload::may_signal;

use crate::call::{Call, CallKey};
use crate::config::Config;
use crate::id::CoreId;
use crate::sip::transaction::{TransactionEvent, TransactionOutput};
use crate::time::Instant;
use slab::Slab;
use std::sync::Arc;

/// Room for so many calls is kept while there is none.
const KEPT_CALLS: usize = 256;

/// Secrets that every core of one process shares, so that any core recognises what another minted.
#[derive(Clone)]
pub struct SharedKeys {
    /// Keys the digest nonces.
    pub nonce: [u8; 32],
    /// Keys the hash that assigns a new dialog to a core.
    pub owner: [u8; 32],
}

/// What a [`B2bua`] is made from.
#[derive(Clone)]
pub struct B2buaParams {
    pub config: Arc<Config>,
    pub core: CoreId,
    /// How many cores there are, 1 to [`CoreId::MAX_CORES`].
    pub cores: u8,
    /// Seeds the only source of randomness: tags, branches, call ids.
    pub seed: [u8; 32],
    pub keys: SharedKeys,
}

/// All signalling of one core: its connections, transactions, dialogs and calls.
pub struct B2bua {
    pub(crate) cx: Context,
    pub(crate) calls: Slab<Call>,
    generation: u32,
}

impl B2bua {
    /// A facade without calls. `now` starts its clock.
    pub fn new(params: B2buaParams, now: Instant) -> Self {
        B2bua {
            cx: Context::new(params, now),
            calls: Slab::new(),
            generation: 0,
        }
    }

    /// Takes in one thing that happened. Afterwards drain [`B2bua::poll_output`].
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.cx.now = now;
        if !matches!(input, Input::HandoffRejected { .. }) {
            self.retry_parked();
        }
        match input {
            Input::Accepted {
                connection,
                listener,
                local,
                remote,
            } => self.cx.accept(connection, listener, local, remote),
            Input::Connected { connection, local } => self.cx.connected(connection, local),
            Input::Received { connection, bytes } => self.on_bytes(connection, bytes),
            Input::Datagram {
                listener,
                source,
                bytes,
            } => self.on_datagram(listener, source, bytes),
            Input::Closed { connection, reason } => self.cx.closed(connection, &reason),
            Input::Resolved { id, result } => self.on_resolved(id, result),
            Input::Media(event) => self.on_media(event),
            Input::Handoff(message) => self.on_handoff(message),
            Input::HandoffRejected { core, message } => self.on_handoff_rejected(core, message),
            Input::Timeout => {}
            Input::Reload(config) => self.on_reload(config),
            Input::Overloaded(overloaded) => self.cx.overloaded = overloaded,
            Input::Drain => self.cx.draining = true,
            Input::End => self.on_end(),
        }
        self.settle();
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.cx.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due; `None`: nothing is waiting.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [
            self.cx.timers.next(),
            self.cx.transactions.poll_timeout(),
            self.cx.unfinished.next(),
            self.cx.parked_handoffs.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Calls alive on this core, including those whose last answers or media counters are still awaited.
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// Whether nothing is left to finish: no call, no transaction whose answer a peer still waits for, nothing on its way to
    /// another core. Transactions that only absorb retransmissions that no reliable transport makes are no reason to stay.
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty()
            && self.cx.transactions.is_quiet()
            && self.cx.parked_handoffs.len() == 0
    }

    /// What is still held on behalf of calls and transactions, by name and count; empty when nothing is. Connections are not
    /// counted: they stay open between calls. For checks that nothing is ever left behind.
    pub fn leftovers(&self) -> Vec<(&'static str, usize)> {
        let mut held = self.cx.held();
        held.push(("calls", self.calls.len()));
        held.retain(|&(_, count)| count > 0);
        held
    }

    /// Whether new calls are refused.
    pub fn is_draining(&self) -> bool {
        self.cx.draining
    }

    /// Runs due timers and whatever the transaction layer has to say, until nothing is left to do at this instant.
    fn settle(&mut self) {
        loop {
            self.cx.transactions.handle_timeout(self.cx.now);
            if let Some(timer) = self.cx.timers.pop_expired(self.cx.now) {
                self.on_timer(timer);
                continue;
            }
            if let Some(connection) = self.cx.unfinished.pop_expired(self.cx.now) {
                self.on_unfinished(connection);
                continue;
            }
            if let Some((id, result)) = self.cx.local_resolutions.pop_front() {
                self.on_resolved(id, result);
                continue;
            }
            match self.cx.transactions.poll_output() {
                Some(TransactionOutput::Transmit { hop, bytes }) => self.cx.transmit(hop, bytes),
                Some(TransactionOutput::Event(event)) => self.on_transaction_event(event),
                None => break,
            }
        }
        self.cx.hop_faults.clear();
    }

    fn on_transaction_event(&mut self, event: TransactionEvent) {
        match event {
            TransactionEvent::ClientTimeout(key) => self.on_client_failure(key, false),
            TransactionEvent::TransportFailed(key) => self.on_client_failure(key, true),
            TransactionEvent::ClientDone(key) => self.cx.client_done(key),
            TransactionEvent::NoAck(key) => {
                if let Some(server) = self.cx.server_use(key) {
                    self.with_call(server.call, |call, cx| call.on_no_ack(cx, server.leg, key));
                }
            }
            TransactionEvent::Stranded(key) => self.cx.reopen_for(key),
            TransactionEvent::ServerDone(key) => self.cx.server_done(key),
        }
    }

    fn on_timer(&mut self, timer: CallTimer) {
        self.with_call(timer.call, |call, cx| {
            call.on_timer(cx, timer.leg, timer.kind)
        });
    }

    /// Creates a call and hands it to `start`.
    pub(crate) fn new_call(&mut self, start: impl FnOnce(&mut Call, &mut Context)) {
        self.generation = self.generation.wrapping_add(1);
        let entry = self.calls.vacant_entry();
        let key = CallKey {
            index: entry.key() as u32,
            generation: self.generation,
        };
        entry.insert(Call::new(key, &mut self.cx));
        self.with_call(key, start);
    }

    /// Runs `f` on a call if it still exists, then drops the call when it is over.
    pub(crate) fn with_call(&mut self, key: CallKey, f: impl FnOnce(&mut Call, &mut Context)) {
        let Some(call) = self
            .calls
            .get_mut(key.index as usize)
            .filter(|call| call.key == key)
        else {
            return;
        };
        f(call, &mut self.cx);
        call.advance(&mut self.cx);
        if call.is_over() {
            call.retire(&mut self.cx);
            self.calls.remove(key.index as usize);
            // A busy hour's room goes back when it is over.
            if self.calls.is_empty() && self.calls.capacity() > KEPT_CALLS {
                self.calls = Slab::new();
            }
        }
    }
}

impl std::fmt::Debug for B2bua {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("B2bua")
            .field("core", &self.cx.core)
            .field("calls", &self.calls.len())
            .finish_non_exhaustive()
    }
}
