//! From bytes to the call they belong to.

use super::B2bua;
use super::connections::Origin;
use super::context::{ALLOW, ClientPurpose};
use super::io::{HandoffMessage, Hop, Output};
use super::ownership::owner_of;
use crate::call::Admission;
use crate::config::{Config, Transport, Trunk};
use crate::event::{Cause, Direction, EventKind};
use crate::id::{ConnectionId, CoreId, ListenerId, ResolveId};
use crate::relay::MediaEvent;
use crate::sip::transaction::{ClientKey, RequestDisposition, ResponseDisposition, ServerKey};
use crate::sip::{Frame, HeaderName, Message, Method, ResponseBuilder};
use crate::trunk::TrunkSet;
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;

/// What a trunk that no request could be assigned to is called in metrics.
const NO_TRUNK: &str = "none";
/// Option tags this edge understands in Require (RFC 4488; the rest is answered 420).
const SUPPORTED: &[&str] = &["norefersub"];
/// Seconds that a refused caller is asked to wait (RFC 3261 §20.33).
pub(crate) const RETRY_AFTER_S: u32 = 5;

impl B2bua {
    pub(super) fn on_bytes(&mut self, connection: ConnectionId, bytes: Bytes) {
        let Some(stream) = self.cx.connections.get_mut(connection) else {
            return;
        };
        stream.framer.push(&bytes);
        // One message may close the connection, so it is looked up again for each.
        while let Some(stream) = self.cx.connections.get_mut(connection) {
            match stream.framer.next() {
                Ok(Some(Frame::Message(raw))) => {
                    let origin = Origin {
                        hop: Hop::Stream(connection),
                        listener: stream.listener,
                        trunk: stream.trunk.clone(),
                        transport: stream.transport,
                        local: stream.local,
                        remote: stream.remote,
                    };
                    self.on_raw(origin, raw);
                }
                Ok(Some(Frame::KeepAlivePing)) => self.cx.outputs.push_back(Output::Transmit {
                    connection,
                    bytes: Bytes::from_static(b"\r\n"),
                }),
                Ok(Some(Frame::KeepAlivePong)) => {}
                Ok(None) => return,
                Err(fault) => {
                    let source = stream.remote;
                    self.cx.event(
                        None,
                        None,
                        EventKind::Malformed {
                            source,
                            fault: fault.to_string(),
                        },
                    );
                    self.cx.close(connection);
                    return;
                }
            }
        }
    }

    pub(super) fn on_datagram(&mut self, listener: ListenerId, source: SocketAddr, bytes: Bytes) {
        if self
            .cx
            .config
            .allow
            .lookup(listener, source.ip())
            .is_empty()
        {
            self.cx.access_dropped(listener, source.ip(), "unlisted");
            return;
        }
        let Some(local) = self.cx.config.listener(listener).map(|l| l.address) else {
            return;
        };
        match crate::sip::frame_datagram(bytes) {
            // A keep-alive (RFC 5626 §3.5.2).
            Ok(raw) if raw.is_empty() => {}
            Ok(raw) => self.on_raw(
                Origin {
                    hop: Hop::Datagram {
                        listener,
                        remote: source,
                    },
                    listener: Some(listener),
                    trunk: None,
                    transport: Transport::Udp,
                    local,
                    remote: source,
                },
                raw,
            ),
            Err(fault) => self.cx.event(
                None,
                None,
                EventKind::Malformed {
                    source,
                    fault: fault.to_string(),
                },
            ),
        }
    }

    fn on_raw(&mut self, origin: Origin, raw: Bytes) {
        let message = match Message::parse(raw, &self.cx.message_limits()) {
            Ok(message) => message,
            Err(fault) => {
                self.cx.event(
                    None,
                    None,
                    EventKind::Malformed {
                        source: origin.remote,
                        fault: fault.to_string(),
                    },
                );
                // A 400 where enough could be read to address one; never for a response or an ACK.
                if let Some(hint) = &fault.response_hint {
                    let tag = self.cx.tag();
                    let answer = ResponseBuilder::to_hint(hint, fault.status()).to_tag(&tag);
                    self.cx.transmit(origin.hop, answer.build());
                }
                return;
            }
        };
        let owner = owner_of(&message, &self.cx.owner_key, self.cx.core, self.cx.cores);
        match owner {
            Some(core) if core == self.cx.core => self.on_message(&origin, message),
            Some(core) => self.cx.outputs.push_back(Output::Handoff {
                core,
                message: HandoffMessage::Message {
                    hop: origin.hop,
                    listener: origin.listener,
                    trunk: origin.trunk,
                    transport: origin.transport,
                    local: origin.local,
                    remote: origin.remote,
                    raw: message.raw().clone(),
                },
            }),
            None => self.stray(&origin, "response to nothing that was sent"),
        }
    }

    pub(super) fn on_handoff(&mut self, message: HandoffMessage) {
        match message {
            HandoffMessage::Message {
                hop,
                listener,
                trunk,
                transport,
                local,
                remote,
                raw,
            } => {
                // It was parsed once where it arrived; a failure here cannot happen and costs only this message.
                if let Ok(message) = Message::parse(raw, &self.cx.message_limits()) {
                    let origin = Origin {
                        hop,
                        listener,
                        trunk,
                        transport,
                        local,
                        remote,
                    };
                    self.on_message(&origin, message);
                }
            }
            HandoffMessage::Transmit {
                from,
                connection,
                bytes,
            } => {
                if self.cx.connections.contains(connection) {
                    self.cx
                        .outputs
                        .push_back(Output::Transmit { connection, bytes });
                } else {
                    self.cx.outputs.push_back(Output::Handoff {
                        core: from,
                        message: HandoffMessage::ConnectionGone { connection },
                    });
                }
            }
            HandoffMessage::ConnectionGone { connection } => {
                self.cx
                    .transactions
                    .hop_failed(self.cx.now, Hop::Stream(connection));
            }
        }
    }

    /// The other core's queue is full. A new call is refused here; everything else is retried by its sender's transaction,
    /// or, on a reliable transport, by this core once.
    pub(super) fn on_handoff_rejected(&mut self, core: CoreId, message: HandoffMessage) {
        self.cx
            .event(None, None, EventKind::Overflow { queue: "handoff" });
        let HandoffMessage::Message { hop, ref raw, .. } = message else {
            // Lost bytes and lost bad news both surface as a transaction timeout at the owner.
            return;
        };
        let Ok(request) = Message::parse(raw.clone(), &self.cx.message_limits()) else {
            return;
        };
        if !request.is_request() || request.method() == Some(Method::Ack) {
            self.cx.parked_handoffs.push_back((core, message));
            return;
        }
        if request.to_tag().is_some() && self.cx.parked_handoffs.len() < super::MAX_PARKED {
            // Teardown and transfers of existing calls are retried, not refused.
            self.cx.parked_handoffs.push_back((core, message));
            return;
        }
        let answer = ResponseBuilder::to(&request, 503)
            .header(HeaderName::RetryAfter, RETRY_AFTER_S)
            .build();
        self.cx.transmit(hop, answer);
    }

    fn stray(&mut self, origin: &Origin, what: &str) {
        self.cx.event(
            None,
            None,
            EventKind::Malformed {
                source: origin.remote,
                fault: what.to_owned(),
            },
        );
    }

    fn on_message(&mut self, origin: &Origin, message: Message) {
        if message.is_request() {
            self.on_request(origin, message);
        } else {
            self.on_response(origin, &message);
        }
    }

    fn on_response(&mut self, origin: &Origin, message: &Message) {
        let key = match self.cx.transactions.on_response(self.cx.now, message) {
            ResponseDisposition::Provisional(key)
            | ResponseDisposition::Final(key)
            | ResponseDisposition::Retransmitted2xx(key) => key,
            ResponseDisposition::Absorbed => return,
            ResponseDisposition::Stray => return self.stray(origin, "response to no transaction"),
        };
        let Some(user) = self.cx.client_use(key).cloned() else {
            return;
        };
        let code = message.status().unwrap_or_default();
        let now = self.cx.now;
        self.with_call(user.call, |call, cx| {
            let elapsed = (code >= 200).then(|| now.saturating_since(user.sent_at));
            cx.event(
                Some(call.id.clone()),
                Some(user.leg),
                EventKind::Response {
                    trunk: user.trunk.clone(),
                    method: Arc::from(user.method.as_str()),
                    code,
                    direction: Direction::Inbound,
                    elapsed,
                },
            );
            match user.purpose {
                ClientPurpose::Invite => {
                    call.on_invite_response(cx, user.leg, key, origin, message)
                }
                ClientPurpose::Reinvite => call.on_reinvite_response(cx, user.leg, key, message),
                ClientPurpose::Bye => call.on_bye_response(cx, user.leg),
                ClientPurpose::Notify => call.on_notify_response(cx, user.leg, key, code),
            }
        });
    }

    pub(super) fn on_client_failure(&mut self, key: ClientKey, transport: bool) {
        let Some(user) = self.cx.client_use(key).cloned() else {
            return;
        };
        self.with_call(user.call, |call, cx| match user.purpose {
            ClientPurpose::Invite => call.on_invite_failure(cx, user.leg, key, transport),
            ClientPurpose::Reinvite => call.on_reinvite_failure(cx, user.leg, key),
            ClientPurpose::Bye => call.on_bye_response(cx, user.leg),
            ClientPurpose::Notify => call.on_notify_response(cx, user.leg, key, 408),
        });
        self.cx.client_done(key);
    }

    fn on_request(&mut self, origin: &Origin, request: Message) {
        let candidates = self.candidates(origin);
        if candidates.is_empty() {
            // The connection was accepted under an older configuration, or the packet came over another core's.
            if let Some(listener) = origin.listener {
                self.cx
                    .access_dropped(listener, origin.remote.ip(), "unlisted");
            }
            return;
        }
        let reliable = origin.transport.is_reliable();
        let disposition =
            self.cx
                .transactions
                .on_request(self.cx.now, origin.hop, reliable, &request);
        match disposition {
            RequestDisposition::New(key) => self.on_new_request(origin, candidates, key, request),
            RequestDisposition::Absorbed => {}
            RequestDisposition::Ack(_) => self.on_ack(candidates, &request),
            RequestDisposition::Cancel { cancel, invite } => {
                self.on_cancel(&request, cancel, invite);
            }
            RequestDisposition::Merged(key) => self.cx.reply(key, &request, 482),
            RequestDisposition::Overload => {
                self.cx.event(
                    None,
                    None,
                    EventKind::Overflow {
                        queue: "transactions",
                    },
                );
                let answer = ResponseBuilder::to(&request, 503)
                    .header(HeaderName::RetryAfter, RETRY_AFTER_S)
                    .build();
                self.cx.transmit(origin.hop, answer);
            }
        }
    }

    /// The trunks that may signal from where the message came.
    fn candidates(&self, origin: &Origin) -> TrunkSet {
        if let Some(listener) = origin.listener {
            return self.cx.config.allow.lookup(listener, origin.remote.ip());
        }
        let mut set = TrunkSet::EMPTY;
        if let Some(trunk) = origin
            .trunk
            .as_deref()
            .and_then(|name| self.cx.config.trunk_named(name))
        {
            set.insert(trunk.id);
        }
        set
    }

    fn on_new_request(
        &mut self,
        origin: &Origin,
        candidates: TrunkSet,
        key: ServerKey,
        request: Message,
    ) {
        let Some(method) = request.method() else {
            return;
        };
        let dialog = request
            .to_tag()
            .and_then(|tag| self.cx.dialogs.get(tag))
            .copied();
        let trunk = dialog
            .and_then(|(call, leg)| self.calls.get(call.index as usize)?.leg_label(leg))
            .unwrap_or_else(|| self.trunk_label(candidates));
        self.cx.server_started(key, trunk.clone(), &method);
        if let Some((call, leg)) = dialog {
            let id = self
                .calls
                .get(call.index as usize)
                .map(|call| call.id.clone());
            if let Some(id) = id {
                self.cx.server_belongs(key, call, id, leg);
            }
        }
        let call_id = dialog
            .and_then(|(call, _)| self.calls.get(call.index as usize))
            .map(|call| call.id.clone());
        self.cx.event(
            call_id,
            dialog.map(|(_, leg)| leg),
            EventKind::Request {
                trunk,
                method: Arc::from(method.as_str()),
                direction: Direction::Inbound,
            },
        );
        if let Some(unsupported) = unsupported(&request) {
            let response = self
                .cx
                .response(&request, 420, None)
                .header(HeaderName::Unsupported, unsupported);
            return self.cx.respond(key, 420, response);
        }
        match dialog {
            Some((call, leg)) => self.with_call(call, |call, cx| {
                call.on_request(cx, leg, origin, candidates, key, request);
            }),
            None if request.to_tag().is_some() => self.cx.reply(key, &request, 481),
            None => self.on_out_of_dialog(origin, candidates, key, &method, request),
        }
    }

    /// The trunk a request outside any dialog counts for, as long as nothing more is known.
    fn trunk_label(&self, candidates: TrunkSet) -> Arc<str> {
        let mut trunks = candidates.iter();
        match (trunks.next(), trunks.next()) {
            (Some(only), None) => self
                .cx
                .config
                .trunk(only)
                .map_or_else(|| Arc::from(NO_TRUNK), |t| Arc::from(t.name.as_str())),
            _ => Arc::from(NO_TRUNK),
        }
    }

    fn on_out_of_dialog(
        &mut self,
        origin: &Origin,
        candidates: TrunkSet,
        key: ServerKey,
        method: &Method,
        request: Message,
    ) {
        match method {
            Method::Invite => match self.admit(origin, key, &request) {
                Admission::Admitted(trunk) => {
                    let origin = origin.clone();
                    self.new_call(|call, cx| call.on_invite(cx, trunk, &origin, key, request));
                }
                Admission::Answered => {}
            },
            Method::Options => {
                let response = self
                    .cx
                    .response(&request, 200, None)
                    .header(HeaderName::Allow, ALLOW)
                    .header(HeaderName::Accept, "application/sdp")
                    .header(HeaderName::Supported, SUPPORTED.join(", "));
                self.cx.respond(key, 200, response);
            }
            Method::Refer => {
                // X1's first check: a REFER without a dialog has nothing to transfer.
                let target = request.header(HeaderName::ReferTo).unwrap_or_default();
                self.cx.event(
                    None,
                    None,
                    EventKind::Refer {
                        target: target.to_owned(),
                        status: 481,
                        cause: Some(Cause::TransferUnauthorized),
                        detail: format!(
                            "REFER outside a dialog from {} (trunks {})",
                            origin.remote,
                            self.names(candidates)
                        ),
                    },
                );
                self.cx.reply(key, &request, 481);
            }
            Method::Bye | Method::Notify | Method::Update | Method::Info | Method::Prack => {
                self.cx.reply(key, &request, 481);
            }
            _ => {
                let response = self
                    .cx
                    .response(&request, 405, None)
                    .header(HeaderName::Allow, ALLOW);
                self.cx.respond(key, 405, response);
            }
        }
    }

    fn names(&self, set: TrunkSet) -> String {
        let names: Vec<&str> = set
            .iter()
            .filter_map(|id| self.cx.config.trunk(id))
            .map(|trunk| trunk.name.as_str())
            .collect();
        names.join(", ")
    }

    fn on_ack(&mut self, candidates: TrunkSet, request: &Message) {
        let Some(&(call, leg)) = request.to_tag().and_then(|tag| self.cx.dialogs.get(tag)) else {
            return;
        };
        self.with_call(call, |call, cx| call.on_ack(cx, leg, candidates, request));
    }

    fn on_cancel(&mut self, request: &Message, cancel: ServerKey, invite: Option<ServerKey>) {
        let user = invite.and_then(|key| self.cx.server_use(key));
        self.cx
            .server_started(cancel, Arc::from(NO_TRUNK), &Method::Cancel);
        let Some(invite) = invite else {
            return self.cx.reply(cancel, request, 481);
        };
        // RFC 3261 §9.2: the To-tag of the CANCEL's answer is the INVITE's.
        let Some(user) = user else {
            return self.cx.reply(cancel, request, 200);
        };
        let reason = request.header(HeaderName::Reason).map(str::to_owned);
        self.with_call(user.call, |call, cx| {
            call.on_cancel(cx, user.leg, invite, cancel, request, reason);
        });
    }

    pub(super) fn on_resolved(&mut self, id: ResolveId, result: Result<Vec<SocketAddr>, String>) {
        let Some((call, leg)) = self.cx.resolves.remove(&id) else {
            return;
        };
        self.with_call(call, |call, cx| call.on_located(cx, leg, result));
    }

    pub(super) fn on_media(&mut self, event: MediaEvent) {
        let Some(&(call, leg)) = self.cx.allocations.get(&event.allocation()) else {
            return;
        };
        self.with_call(call, |call, cx| call.on_media(cx, leg, event));
    }

    /// A new configuration: sources that lost their place lose their connections and their calls.
    pub(super) fn on_reload(&mut self, config: Arc<Config>) {
        self.cx.transactions.reconfigure(&config.sip);
        self.cx.config = config;
        let lost: Vec<ConnectionId> = self
            .cx
            .connections
            .iter()
            .filter(|(_, stream)| match (stream.listener, &stream.trunk) {
                (Some(listener), _) => self
                    .cx
                    .config
                    .allow
                    .lookup(listener, stream.remote.ip())
                    .is_empty(),
                (None, Some(trunk)) => self.cx.config.trunk_named(trunk).is_none(),
                (None, None) => false,
            })
            .map(|(id, _)| id)
            .collect();
        // Calls first, so that their BYEs still leave over the connections that are about to close.
        let keys: Vec<_> = self.calls.iter().map(|(_, call)| call.key).collect();
        for key in keys {
            self.with_call(key, |call, cx| call.on_reload(cx));
        }
        self.settle();
        for connection in lost {
            self.cx.close(connection);
        }
    }
}

/// Whether a source may still signal for `trunk`, by name, under the present configuration.
pub(crate) fn still_listed(config: &Config, trunk: &Trunk, source: SocketAddr) -> bool {
    config.trunk_named(&trunk.name).is_some_and(|now| {
        now.allow.iter().any(|net| net.contains(&source.ip()))
            || !trunk.uris.is_empty() && now.uris == trunk.uris
    })
}

/// Option tags in Require that this edge does not understand (RFC 3261 §8.2.2.3).
fn unsupported(request: &Message) -> Option<String> {
    let unknown: Vec<&str> = request
        .values(HeaderName::Require)
        .filter(|tag| {
            !SUPPORTED
                .iter()
                .any(|known| tag.eq_ignore_ascii_case(known))
        })
        .collect();
    (!unknown.is_empty()).then(|| unknown.join(", "))
}
