//! From a message of this core to the call, transaction or refusal it belongs to.

use super::connections::Origin;
use super::context::{ALLOW, ClientPurpose};
use super::{B2bua, may_signal};
use crate::call::{Admission, CallKey, target_shown};
use crate::event::{CallId, Cause, Direction, EventKind, LegNumber};
use crate::id::ResolveId;
use crate::relay::MediaEvent;
use crate::sip::transaction::{ClientKey, RequestDisposition, ResponseDisposition, ServerKey};
use crate::sip::{HeaderName, Message, Method};
use crate::trunk::TrunkSet;
use std::net::SocketAddr;
use std::sync::Arc;

/// What a trunk that no request could be assigned to is called in metrics.
const NO_TRUNK: &str = "none";
/// Option tags this edge understands in Require (RFC 4488; the rest is answered 420).
const SUPPORTED: &[&str] = &["norefersub"];

/// Whose dialog a request is in.
struct DialogOwner {
    call: CallKey,
    id: CallId,
    leg: LegNumber,
    trunk: Arc<str>,
}

impl B2bua {
    pub(super) fn on_message(&mut self, origin: &Origin, message: Message) {
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
            ResponseDisposition::Stray => {
                return self.malformed(origin.remote, "response to no transaction".to_owned());
            }
        };
        let Some(user) = self.cx.client_use(key).cloned() else {
            return;
        };
        let code = message.status().unwrap_or_default();
        let now = self.cx.now;
        let lives = self
            .calls
            .get(user.call.index as usize)
            .is_some_and(|call| call.key == user.call && call.leg_label(user.leg).is_some());
        if user.method == Method::Invite && (200..300).contains(&code) {
            let new = self.cx.is_new_answer(key, message);
            if !lives {
                return self.cx.disown(origin, message, user.purpose, new);
            }
        }
        self.with_call(user.call, |call, cx| {
            let elapsed = (code >= 200).then(|| now.saturating_since(user.sent_at));
            cx.event(
                Some(call.id.clone()),
                Some(user.leg),
                EventKind::Response {
                    trunk: user.trunk.clone(),
                    method: user.method.clone(),
                    code,
                    direction: Direction::Inbound,
                    elapsed,
                },
            );
            match user.purpose {
                ClientPurpose::Invite => call.on_invite_response(cx, user.leg, origin, message),
                ClientPurpose::Reinvite => call.on_reinvite_response(cx, user.leg, key, message),
                _ if code < 200 => {}
                ClientPurpose::Bye => call.on_bye_response(cx, user.leg, key),
                ClientPurpose::Notify => call.on_notify_response(cx, user.leg, key, code),
            }
        });
    }

    pub(super) fn on_client_failure(&mut self, key: ClientKey, transport: bool) {
        let Some(user) = self.cx.client_use(key).cloned() else {
            return;
        };
        self.with_call(user.call, |call, cx| {
            if transport {
                call.on_hop_lost(user.leg, user.hop);
            }
            match user.purpose {
                ClientPurpose::Invite => call.on_invite_failure(cx, user.leg, user.hop, transport),
                ClientPurpose::Reinvite => {
                    call.on_reinvite_failure(cx, user.leg, key, transport);
                }
                ClientPurpose::Bye => call.on_bye_failure(cx, user.leg, key, transport),
                ClientPurpose::Notify => call.on_notify_failure(cx, user.leg, key, transport),
            }
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
                self.on_cancel(origin, candidates, &request, cancel, invite);
            }
            RequestDisposition::Merged(key) => {
                let (trunk, method) = (self.trunk_label(candidates), &request.cseq().method);
                self.cx.server_started(key, trunk.clone(), origin, &request);
                self.cx.event(None, None, received(trunk, method));
                self.cx.reply(key, &request, 482);
            }
            RequestDisposition::Overload => {
                self.cx.event(
                    None,
                    None,
                    EventKind::Overflow {
                        queue: "transactions",
                    },
                );
                self.cx.refuse_stateless(origin.hop, &request);
            }
        }
    }

    /// The trunks that may signal from where the message came.
    fn candidates(&self, origin: &Origin) -> TrunkSet {
        if let Some(listener) = origin.listener {
            return self.cx.config.allow.lookup(listener, origin.remote.ip());
        }
        let mut set = TrunkSet::EMPTY;
        // By address too, not by name alone: the core that holds the connection may not have heard of a reload yet.
        if let Some(trunk) = origin.trunk.as_deref().and_then(|name| {
            let called = origin.called.as_deref();
            may_signal(&self.cx.config, name, origin.remote, called)
        }) {
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
        let dialog = self.dialog_of(&request);
        let trunk = match &dialog {
            Some(owner) => owner.trunk.clone(),
            None => self.trunk_label(candidates),
        };
        self.cx.server_started(key, trunk.clone(), origin, &request);
        if let Some(owner) = &dialog {
            self.cx
                .server_belongs(key, owner.call, owner.id.clone(), owner.leg);
        }
        // An INVITE that starts a call is reported with the call.
        if dialog.is_some() || method != Method::Invite {
            self.cx.event(
                dialog.as_ref().map(|owner| owner.id.clone()),
                dialog.as_ref().map(|owner| owner.leg),
                received(trunk, &method),
            );
        }
        if let Some(unsupported) = unsupported(&request) {
            let response = self
                .cx
                .response(&request, 420, None)
                .header(HeaderName::Unsupported, unsupported);
            return self.cx.respond(key, 420, response);
        }
        match dialog {
            Some(owner) => self.with_call(owner.call, |call, cx| {
                call.on_request(cx, owner.leg, origin, candidates, key, request);
            }),
            None if method == Method::Refer => {
                self.refuse_refer(origin, candidates, key, &request);
            }
            None if request.to_tag().is_some() => self.cx.reply(key, &request, 481),
            None => self.on_out_of_dialog(origin, candidates, key, &method, request),
        }
    }

    /// The leg in whose dialog the request is, by the tag that this edge minted for it.
    fn dialog_of(&self, request: &Message) -> Option<DialogOwner> {
        let (key, leg) = self.cx.dialog_owner(request.to_tag()?)?;
        let call = self.calls.get(key.index as usize)?;
        Some(DialogOwner {
            call: key,
            id: call.id.clone(),
            leg,
            trunk: call.leg_label(leg)?,
        })
    }

    /// The trunk a request outside any dialog counts for, as long as nothing more is known.
    fn trunk_label(&self, candidates: TrunkSet) -> Arc<str> {
        let mut trunks = candidates.iter();
        match (trunks.next(), trunks.next()) {
            (Some(only), None) => self
                .cx
                .config
                .trunk(only)
                .map_or_else(|| Arc::from(NO_TRUNK), |t| t.name.clone()),
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
                    self.new_call(|call, cx| call.on_invite(cx, trunk, origin, key, request));
                }
                Admission::Answered => {
                    let trunk = self.trunk_label(candidates);
                    self.cx.event(None, None, received(trunk, method));
                }
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

    /// The first check of a REFER: without a dialog there is nothing to transfer.
    fn refuse_refer(
        &mut self,
        origin: &Origin,
        candidates: TrunkSet,
        key: ServerKey,
        request: &Message,
    ) {
        let refer_to: Vec<&str> = request.headers(HeaderName::ReferTo).collect();
        let names = self.names(candidates);
        self.cx.event(
            None,
            None,
            EventKind::Refer {
                target: target_shown(&refer_to),
                status: 481,
                cause: Some(Cause::DialogUnknown),
                detail: format!(
                    "outside any dialog, from {} (trunks {names})",
                    origin.remote
                ),
            },
        );
        self.cx.reply(key, request, 481);
    }

    fn names(&self, set: TrunkSet) -> String {
        let names: Vec<&str> = set
            .iter()
            .filter_map(|id| self.cx.config.trunk(id))
            .map(|trunk| &*trunk.name)
            .collect();
        names.join(", ")
    }

    fn on_ack(&mut self, candidates: TrunkSet, request: &Message) {
        let owner = request.to_tag().and_then(|tag| self.cx.dialog_owner(tag));
        let Some((call, leg)) = owner else {
            return;
        };
        self.with_call(call, |call, cx| call.on_ack(cx, leg, candidates, request));
    }

    fn on_cancel(
        &mut self,
        origin: &Origin,
        candidates: TrunkSet,
        request: &Message,
        cancel: ServerKey,
        invite: Option<ServerKey>,
    ) {
        let user = invite.and_then(|key| self.cx.server_use(key));
        let owner = user.as_ref().and_then(|user| {
            let call = self.calls.get(user.call.index as usize)?;
            Some((call, user.leg, call.leg_label(user.leg)?))
        });
        let trunk = match &owner {
            Some((_, _, trunk)) => trunk.clone(),
            None => self.trunk_label(candidates),
        };
        // It cannot be challenged, so its source has to do: whoever may not speak in the dialog has nothing to cancel.
        let strange = owner
            .as_ref()
            .is_some_and(|(call, leg, _)| !call.source_allowed(&self.cx, *leg, candidates));
        let whose = owner.map(|(call, leg, _)| (call.id.clone(), leg)).unzip();
        self.cx
            .server_started(cancel, trunk.clone(), origin, request);
        self.cx
            .event(whose.0.clone(), whose.1, received(trunk, &Method::Cancel));
        if strange || invite.is_none() {
            return self.cx.reply(cancel, request, 481);
        }
        // RFC 3261 §9.2: of an INVITE that was answered it has no effect.
        let (Some(invite), Some(user), Some(_)) = (invite, user, whose.0) else {
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
}

/// The report of a request that was received.
pub(crate) fn received(trunk: Arc<str>, method: &Method) -> EventKind {
    EventKind::Request {
        trunk,
        method: method.clone(),
        direction: Direction::Inbound,
    }
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
