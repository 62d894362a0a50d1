//! Setting a call up: the caller's INVITE, routing, the callee's progress and answer.

use super::invite::InviteTemplate;
use super::leg::{AwaitedAck, Leg, LegState, Owed};
use super::modify::offer_in;
use super::outcome::{Outcome, Refusal};
use super::{Call, policy};
use crate::b2bua::{Context, Family, Origin, TimerKind, received};
use crate::config::Trunk;
use crate::event::{Cause, Direction, EventKind, HangupBy, LegNumber};
use crate::sdp::{self, Offer};
use crate::sip::dialog::Dialog;
use crate::sip::transaction::ServerKey;
use crate::sip::{HeaderName, Message, Method, NameAddr, Uri};
use compact_str::{CompactString, ToCompactString as _};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

/// The caller's number as sent to a platform, and the call's id (EL's names; values that arrived on the call win).
const X_CALL_ID: &str = "X-CALL-ID";
const X_CALLER_ID: &str = "X-CALLER-ID";

/// A caller without a number.
pub(super) const ANONYMOUS: &str = "anonymous";

/// What is known while the caller waits.
pub(crate) struct Setup {
    pub caller: LegNumber,
    /// The leg being tried.
    pub callee: Option<LegNumber>,
    /// `None`: the caller sent no SDP and expects our offer in the 2xx.
    offer: Option<Offer>,
    /// Number to dial, after the route's rewrite.
    number: CompactString,
    /// Trunks of the route that have not been tried.
    trunks: VecDeque<Arc<Trunk>>,
}

impl Call {
    /// A new call: an authenticated INVITE outside any dialog.
    pub fn on_invite(
        &mut self,
        cx: &mut Context,
        trunk: Arc<Trunk>,
        origin: &Origin,
        key: ServerKey,
        request: Message,
    ) {
        let now = cx.now;
        let tag = cx.tag();
        let contact = cx.contact_for(origin, &trunk, &request);
        let user = request_user(&request);
        let label: Arc<str> = trunk.name.clone();
        let Some(caller) = self.add_leg(|n| {
            let mut leg = Leg::new(n, Direction::Inbound, trunk, LegState::Incoming, now);
            leg.sip_call_id = request.call_id().to_owned();
            leg.local_tag = tag;
            leg.from = party(request.from());
            leg.to = user.clone().unwrap_or_else(|| party(request.to()));
            leg.identity = caller_identity(&request);
            leg.contact = contact;
            leg.hop = Some(origin.hop);
            leg.transport = Some(origin.transport);
            leg.peer = Some(origin.remote);
            leg.invite = Some((key, request.clone()));
            leg
        }) else {
            return;
        };
        cx.server_belongs(key, self.key, self.id.clone(), caller);
        cx.server_trunk(key, label.clone());
        let from = party(request.from()).into();
        self.event(
            cx,
            caller,
            EventKind::CallStarted {
                trunk: label.clone(),
                from,
                to: user.clone().unwrap_or_default().into(),
                sip_call_id: request.call_id().to_owned(),
                source: origin.remote,
            },
        );
        self.event(cx, caller, received(label, &Method::Invite));
        let trying = cx.response(&request, 100, None);
        cx.respond(key, 100, trying);
        match self.begin(cx, caller, user, origin.remote, &request) {
            // Both legs' ports are opened in one go: each round with the media thread costs as much as a message.
            Ok(()) => self.try_next_trunk(cx, Refusal::by_edge(404, Cause::NoRoute)),
            Err((code, cause)) => {
                self.refuse_caller(cx, caller, Refusal::by_edge(code, cause));
            }
        }
    }

    /// Checks the INVITE, opens the caller's media and tells the media thread about the caller.
    fn begin(
        &mut self,
        cx: &mut Context,
        caller: LegNumber,
        user: Option<CompactString>,
        origin: SocketAddr,
        request: &Message,
    ) -> Result<(), (u16, Cause)> {
        let leg = self
            .legs
            .get_mut(caller)
            .ok_or((500, Cause::EdgeOverload))?;
        if !leg.count() || !leg.trunk.admit_rate(cx.now) {
            return Err((503, Cause::TrunkLimit));
        }
        if request.max_forwards() == Some(0) {
            return Err((483, Cause::Rejected));
        }
        let config = cx.config.clone();
        leg.dialog =
            Some(Dialog::uas(request, &leg.local_tag).map_err(|_| (400, Cause::Malformed))?);
        cx.dialog_started(&leg.local_tag, self.key, caller);
        let route = policy::route(&config, &leg.trunk, user.as_deref())
            .map_err(|refusal| (refusal.status(), refusal.cause()))?;
        let trunks = route.trunks.into();
        let number = route.number.into();
        let offer = offer_in(request)?;
        let address = match &offer {
            Some(offer) => offer.audio().rtp.ip(),
            None => origin.ip(),
        };
        if !leg.trunk.network.permits(address) {
            return Err((488, Cause::NetworkMismatch));
        }
        let family = Family::of(address);
        let remote = offer.as_ref().map(|offer| offer.audio().clone());
        self.setup = Some(Setup {
            caller,
            callee: None,
            offer,
            number,
            trunks,
        });
        if !self.open_media(cx, caller, family) {
            return Err(match cx.leases.has(family) {
                true => (503, Cause::EdgeOverload),
                false => (488, Cause::NetworkMismatch),
            });
        }
        if let Some(remote) = remote {
            self.set_remote(cx, caller, remote);
        }
        Ok(())
    }

    /// The caller's ports are open: the callee may be called.
    pub(super) fn on_caller_media_opened(&mut self, cx: &mut Context) {
        let callee = self.setup.as_ref().and_then(|setup| setup.callee);
        if let Some(callee) = callee
            && self.legs.get(callee).is_some_and(Leg::waits_for_caller)
        {
            self.send_invite(cx, callee);
        }
    }

    /// Whether `leg` is a callee that is not called yet, since the caller's ports are not open: without them there is no call.
    pub(super) fn must_wait(&self, leg: LegNumber) -> bool {
        self.setup.as_ref().is_some_and(|setup| {
            let caller = self.legs.get(setup.caller);
            setup.callee == Some(leg) && caller.is_some_and(|caller| !caller.media.opened)
        })
    }

    /// Calls the route's next trunk, or refuses the caller with what the last one said.
    fn try_next_trunk(&mut self, cx: &mut Context, last: Refusal) {
        let mut last = last;
        loop {
            let Some(setup) = self.setup.as_mut() else {
                return;
            };
            let caller = setup.caller;
            let Some(trunk) = setup.trunks.pop_front() else {
                return self.refuse_caller(cx, caller, last);
            };
            match self.call_trunk(cx, trunk) {
                Ok(()) => return,
                Err((code, cause)) => last = Refusal::by_edge(code, cause),
            }
        }
    }

    fn call_trunk(&mut self, cx: &mut Context, trunk: Arc<Trunk>) -> Result<(), (u16, Cause)> {
        let setup = self.setup.as_ref().ok_or((500, Cause::EdgeOverload))?;
        let caller = setup.caller;
        let a = self.legs.get(caller).ok_or((500, Cause::EdgeOverload))?;
        let codecs = match &setup.offer {
            Some(offer) => {
                let allowed = sdp::offer_codecs(&offer.audio().codecs, &a.trunk.codecs);
                sdp::offer_codecs(&allowed, &trunk.codecs)
            }
            None => sdp::offer_codecs(&sdp::default_codecs(&a.trunk.codecs), &trunk.codecs),
        };
        if !sdp::has_speech(&codecs) {
            return Err((488, Cause::NoCommonCodec));
        }
        let (_, request) = a.invite.as_ref().ok_or((500, Cause::EdgeOverload))?;
        let headers = headers_for(&trunk, request, &self.id, a.identity.user.as_deref());
        let template = InviteTemplate {
            number: setup.number.clone(),
            caller: a.identity.clone(),
            headers,
            codecs,
            max_forwards: request
                .max_forwards()
                .map_or(70, |left| left.saturating_sub(1)),
            present: trunk.present.clone(),
            auth_timeout: None,
            families: policy::Families::BOTH,
        };
        let number = setup.number.to_string();
        let name: Arc<str> = trunk.name.clone();
        self.event(cx, caller, EventKind::Routed { to: name, number });
        let callee = self.originate(cx, trunk, template)?;
        if let Some(setup) = self.setup.as_mut() {
            setup.callee = Some(callee);
        }
        cx.set_timer(
            self.key,
            callee,
            TimerKind::Ring,
            cx.now + super::originate::TIMER_C,
        );
        Ok(())
    }

    /// Whether `leg` is the callee that the caller waits for.
    pub(super) fn is_setup_callee(&self, leg: LegNumber) -> bool {
        self.setup
            .as_ref()
            .is_some_and(|setup| setup.callee == Some(leg))
    }

    /// The callee rings, or sends early media (RFC 3960): the caller is told the same.
    pub(super) fn on_callee_progress(&mut self, cx: &mut Context, callee: LegNumber, code: u16) {
        let Some(caller) = self.setup.as_ref().map(|setup| setup.caller) else {
            return;
        };
        let early = self
            .legs
            .get(callee)
            .is_some_and(|leg| leg.media.remote.is_some());
        let answer = if early {
            self.answer_to_caller(cx, caller, callee)
        } else {
            None
        };
        let Some(a) = self.legs.get_mut(caller) else {
            return;
        };
        a.ring.get_or_insert(cx.now);
        let Some((key, request)) = a.invite.clone() else {
            return;
        };
        let mut response = cx
            .response(&request, code, Some(&a.local_tag))
            .copy_record_routes(&request)
            .header(HeaderName::Contact, &a.contact);
        if let Some(answer) = answer {
            response = response.body("application/sdp", &answer);
            self.bridge = Some((caller, callee));
            self.rebridge(cx);
        }
        cx.respond(key, code, response);
    }

    /// Our answer to the caller's offer, as the callee's answer allows; `None` without an offer or a common codec.
    fn answer_to_caller(
        &mut self,
        cx: &mut Context,
        caller: LegNumber,
        callee: LegNumber,
    ) -> Option<Vec<u8>> {
        let chosen = self.legs.get(callee)?.media.remote.as_ref()?.codecs.clone();
        let offer = self.setup.as_ref()?.offer.as_ref()?;
        let codecs = sdp::answer_codecs(&offer.audio().codecs, &chosen);
        if !sdp::has_speech(&codecs) {
            return None;
        }
        let direction = offer.audio().direction.mirrored();
        let a = self.legs.get_mut(caller)?;
        let local = a.media.describe(cx, codecs, direction)?;
        a.media.shape = offer.shape().clone();
        Some(local.answer_bytes(offer))
    }

    /// The callee answered: answer the caller.
    pub(super) fn on_callee_answered(&mut self, cx: &mut Context, callee: LegNumber) {
        let Some(setup) = self.setup.as_ref() else {
            return;
        };
        let caller = setup.caller;
        let delayed = setup.offer.is_none();
        let body = if delayed {
            self.delayed_offer(cx, caller, callee)
        } else {
            self.answer_to_caller(cx, caller, callee)
        };
        let Some(body) = body else {
            self.end_leg(cx, callee, Cause::NoCommonCodec, HangupBy::Edge);
            return self.refuse_caller(cx, caller, Refusal::by_edge(488, Cause::NoCommonCodec));
        };
        let Some(a) = self.legs.get_mut(caller) else {
            return;
        };
        let Some((key, request)) = a.invite.take() else {
            return;
        };
        a.state = LegState::Confirmed;
        a.answer = Some(cx.now);
        a.sip_status = Some(200);
        a.awaited_ack = Some(AwaitedAck {
            server: key,
            cseq: request.cseq().number,
            owes: delayed.then_some(Owed::FirstAnswer),
        });
        let response = cx
            .response(&request, 200, Some(&a.local_tag))
            .copy_record_routes(&request)
            .header(HeaderName::Contact, &a.contact)
            .header(HeaderName::Allow, crate::b2bua::ALLOW)
            .header(HeaderName::Supported, "norefersub")
            .body("application/sdp", &body);
        cx.respond(key, 200, response);
        self.setup = None;
        self.bridge = Some((caller, callee));
        self.rebridge(cx);
    }

    fn delayed_offer(
        &mut self,
        cx: &mut Context,
        caller: LegNumber,
        callee: LegNumber,
    ) -> Option<Vec<u8>> {
        let chosen = self.legs.get(callee)?.media.remote.as_ref()?.codecs.clone();
        let a = self.legs.get_mut(caller)?;
        let local = a.media.describe(cx, chosen, sdp::Direction::SendRecv)?;
        Some(local.offer_bytes())
    }

    /// The callee could not be had.
    pub(super) fn on_callee_failed(&mut self, cx: &mut Context, outcome: &Outcome) {
        if let Some(setup) = self.setup.as_mut() {
            setup.callee = None;
        }
        if outcome.try_elsewhere() {
            return self.try_next_trunk(cx, outcome.into());
        }
        if let Some(caller) = self.setup.as_ref().map(|setup| setup.caller) {
            self.refuse_caller(cx, caller, outcome.into());
        }
    }

    /// Final failure response to the caller.
    pub(super) fn refuse_caller(&mut self, cx: &mut Context, caller: LegNumber, refusal: Refusal) {
        self.setup = None;
        self.bridge = None;
        self.cause = refusal.cause;
        self.reject_incoming(cx, caller, refusal);
    }
}

/// The trunk's own headers, and for one that may transfer the call's id and the caller's number. What arrived on the call under
/// those names goes first, then what the trunk's headers say.
fn headers_for(
    trunk: &Trunk,
    request: &Message,
    call: &str,
    caller: Option<&str>,
) -> Vec<(String, String)> {
    let mut headers = trunk.headers.clone();
    if trunk.transfer.is_none() {
        return headers;
    }
    for (name, known) in [(X_CALLER_ID, caller), (X_CALL_ID, Some(call))] {
        let named = |header: &(String, String)| header.0.eq_ignore_ascii_case(name);
        let value = match request.named(name).next() {
            Some(arrived) => arrived,
            None if headers.iter().any(named) => continue,
            None => known.unwrap_or(ANONYMOUS),
        };
        headers.retain(|header| !named(header));
        headers.insert(0, (name.to_owned(), value.to_owned()));
    }
    headers
}

/// The user part of the Request-URI; a leading + is significant.
fn request_user(request: &Message) -> Option<CompactString> {
    let user = request.uri()?.as_sip()?.user.as_ref();
    user.filter(|user| !user.is_empty()).cloned()
}

/// The user (or host, without one) of a From or To value, for the CDR.
fn party(value: &NameAddr) -> CompactString {
    match &value.uri {
        Uri::Sip(uri) => match &uri.user {
            Some(user) => user.clone(),
            None => uri.host.to_compact_string(),
        },
        Uri::Tel(tel) => (&tel.number).into(),
        other => other.to_compact_string(),
    }
}

/// Display name and user of the caller, as a callee shall see them.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallerIdentity {
    pub display: Option<CompactString>,
    pub user: Option<CompactString>,
}

fn caller_identity(request: &Message) -> CallerIdentity {
    let from = request.from();
    let user = match &from.uri {
        Uri::Sip(uri) => uri.user.clone(),
        Uri::Tel(tel) => Some((&tel.number).into()),
        _ => None,
    };
    CallerIdentity {
        display: from.display.clone(),
        user,
    }
}
