//! Messages for other cores whose queues are full. Nothing blocks: a new call is refused, everything else waits here for room,
//! because what belongs to a call or is owed to a peer is repeated by nobody on a reliable transport.

use super::B2bua;
use super::io::{HandoffMessage, Hop, Output};
use crate::event::EventKind;
use crate::id::CoreId;
use crate::sip::{Message, Method};
use crate::time::{Duration, Instant};
use std::collections::VecDeque;

/// How many messages wait. One is as large as a SIP message.
const MAX_PARKED: usize = 4096;
/// When full queues are tried again.
const RETRY: Duration = Duration::from_millis(10);

/// What waits for room in the queues of other cores, in order.
#[derive(Default)]
pub(crate) struct Parked {
    messages: VecDeque<(CoreId, HandoffMessage)>,
    retry_at: Instant,
}

impl Parked {
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// When the queues are tried again; `None`: nothing waits.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.messages.is_empty()).then_some(self.retry_at)
    }

    /// Takes a message that found no room, or gives it back when too many wait.
    fn park(
        &mut self,
        now: Instant,
        core: CoreId,
        message: HandoffMessage,
    ) -> Option<HandoffMessage> {
        if self.messages.len() >= MAX_PARKED {
            return Some(message);
        }
        if self.messages.is_empty() {
            self.retry_at = now + RETRY;
        }
        self.messages.push_back((core, message));
        None
    }
}

impl B2bua {
    /// Tries again what did not fit into another core's queue, when it is time.
    pub(super) fn retry_parked(&mut self) {
        let parked = &mut self.cx.parked_handoffs;
        if parked.retry_at > self.cx.now {
            return;
        }
        let again = parked.messages.drain(..);
        self.cx
            .outputs
            .extend(again.map(|(core, message)| Output::Handoff { core, message }));
    }

    /// Another core's queue is full.
    pub(super) fn on_handoff_rejected(&mut self, core: CoreId, message: HandoffMessage) {
        self.cx
            .event(None, None, EventKind::Overflow { queue: "handoff" });
        if let Some((hop, request)) = self.new_work(&message) {
            return self.cx.refuse_stateless(hop, &request);
        }
        let now = self.cx.now;
        match self.cx.parked_handoffs.park(now, core, message) {
            // Its owner must not wait for an answer to what was never sent.
            Some(HandoffMessage::Transmit { connection, .. }) => {
                let hop = Hop::Stream(connection);
                self.cx.transactions.hop_failed(now, hop);
            }
            Some(HandoffMessage::Message { hop, raw, .. }) => {
                let message = Message::parse(raw, &self.cx.message_limits());
                if let Ok(request) = message
                    && request.is_request()
                    && request.method() != Some(Method::Ack)
                {
                    self.cx.refuse_stateless(hop, &request);
                }
            }
            Some(HandoffMessage::ConnectionGone { .. }) | None => {}
        }
    }

    /// The request in `message` if it starts something: overload is told to those who can go elsewhere.
    fn new_work(&self, message: &HandoffMessage) -> Option<(Hop, Message)> {
        let HandoffMessage::Message { hop, raw, .. } = message else {
            return None;
        };
        let request = Message::parse(raw.clone(), &self.cx.message_limits()).ok()?;
        let method = request.method()?;
        // A CANCEL has no To-tag either, and is teardown.
        let starts = request.to_tag().is_none() && !matches!(method, Method::Ack | Method::Cancel);
        starts.then_some((*hop, request))
    }
}
