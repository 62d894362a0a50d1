//! Changing an established session: the peer's re-INVITE and UPDATE, and our own re-INVITE of the caller after a transfer.

use super::Call;
use super::leg::{AwaitedAck, LegState, Modification, Owed};
use crate::b2bua::{ALLOW, CallTimer, ClientPurpose, ClientUse, Context, Family, TimerKind};
use crate::event::{Cause, Direction, LegNumber};
use crate::sdp::{self, Answer, Codec, LocalDescription, Offer};
use crate::sip::transaction::{ClientKey, ServerKey};
use crate::sip::{HeaderName, Message, Method};
use crate::time::Duration;
use crate::trunk::TrunkSet;

/// How often a re-INVITE that met the peer's own is tried again.
const MAX_GLARE_RETRIES: u8 = 3;

const SDP: &str = "application/sdp";

/// How our re-INVITE ended.
pub(super) enum Reoffer {
    Accepted,
    /// Refused or unanswered; the session is as it was. The status, where there was one.
    Refused(Option<u16>),
}

/// The offer in an INVITE or UPDATE, if there is a body; else the status and cause to refuse it with.
pub(super) fn offer_in(request: &Message) -> Result<Option<Offer>, (u16, Cause)> {
    let body = request.body();
    if body.is_empty() {
        return Ok(None);
    }
    if request.content_type().is_some() && !request.has_content_type(SDP) {
        return Err((415, Cause::Malformed));
    }
    match Offer::parse(&body) {
        Ok(offer) => Ok(Some(offer)),
        Err(fault) => Err((fault.status(), fault.cause())),
    }
}

/// What a refusal with 415 has to say (RFC 3261 §21.4.13).
pub(super) fn accept(code: u16) -> Option<&'static str> {
    (code == 415).then_some(SDP)
}

impl Call {
    /// The peer's re-INVITE: hold, session refresh, a moved endpoint. Answered here, since media is anchored here.
    pub(super) fn on_reinvite(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        key: ServerKey,
        request: Message,
    ) {
        let Some(l) = self.legs.get_mut(&leg) else {
            return cx.reply(key, &request, 481);
        };
        if matches!(l.modification, Modification::Offered { .. }) {
            // RFC 3261 §14.2: ours is pending.
            return cx.reply(key, &request, 491);
        }
        if l.awaited_ack.is_some() || l.state != LegState::Confirmed {
            return cx.reply_retry_after(key, &request, 500);
        }
        let answer = match self.answer_change(cx, leg, &request) {
            Ok(answer) => answer,
            Err((code, cause)) => return self.refuse_change(cx, leg, key, &request, code, cause),
        };
        let Some(l) = self.legs.get_mut(&leg) else {
            return;
        };
        let owes = answer.is_none().then_some(Owed::Answer);
        // RFC 3261 §14.2: without an offer in it, the 2xx carries ours; nothing new is offered, but no hold kept up either.
        let body = answer.or_else(|| {
            let in_use = l.media.local.as_ref()?.codecs.clone();
            let offer = l.media.describe(cx, in_use, sdp::Direction::SendRecv)?;
            Some(offer.reoffer_bytes(&l.media.shape))
        });
        if let Some(dialog) = l.dialog.as_mut() {
            // A change without a Contact keeps the old target.
            let _ = dialog.refresh_target(&request);
        }
        l.awaited_ack = Some(AwaitedAck {
            server: key,
            cseq: request.cseq().number,
            owes,
        });
        let contact = l.contact.clone();
        let mut response = cx
            .response(&request, 200, None)
            .copy_record_routes(&request)
            .header(HeaderName::Contact, contact)
            .header(HeaderName::Allow, ALLOW);
        if let Some(body) = body {
            response = response.body("application/sdp", &body);
        }
        cx.server_belongs(key, self.key, self.id.clone(), leg);
        cx.respond(key, 200, response);
        self.rebridge(cx);
    }

    /// The ACK of a 2xx of ours.
    pub fn on_ack(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        candidates: TrunkSet,
        request: &Message,
    ) {
        if !self.source_allowed(cx, leg, candidates) {
            return;
        }
        let Some(l) = self.legs.get_mut(&leg) else {
            return;
        };
        let of_dialog = l.dialog.as_ref().is_some_and(|d| d.contains(request));
        let Some(awaited) = l
            .awaited_ack
            .take_if(|awaited| of_dialog && awaited.cseq == request.cseq().number)
        else {
            return;
        };
        cx.transactions.acknowledged(awaited.server);
        if let Some(owed) = awaited.owes {
            self.take_owed_answer(cx, leg, owed, request);
        }
        self.reinvite_if_waiting(cx, leg);
    }

    /// The answer that an ACK carries when the offer was in our 2xx.
    fn take_owed_answer(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        owed: Owed,
        request: &Message,
    ) {
        let Some(l) = self.legs.get_mut(&leg) else {
            return;
        };
        let body = request.body();
        let answer = l
            .media
            .local
            .as_ref()
            .and_then(|local| Answer::parse_shaped(&body, local, &l.media.shape).ok());
        if let Some(answer) = answer {
            let remote = answer.audio().clone();
            self.set_remote(cx, leg, remote);
            return self.rebridge(cx);
        }
        self.note(
            cx,
            leg,
            "sdp",
            "the ACK carries no usable answer to our offer".to_owned(),
            Some(Cause::NoCommonCodec.as_str().to_owned()),
        );
        match owed {
            Owed::FirstAnswer => self.end_call(cx, Cause::NoCommonCodec),
            // The session goes on as it was.
            Owed::Answer => {}
        }
    }

    /// The peer's UPDATE (RFC 3311): the same without ACK.
    pub(super) fn on_update(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        key: ServerKey,
        request: &Message,
    ) {
        let has_offer = !request.body().is_empty();
        let Some(l) = self.legs.get_mut(&leg) else {
            return cx.reply(key, request, 481);
        };
        let owed = l.awaited_ack.as_ref().is_some_and(|ack| ack.owes.is_some());
        if has_offer && (owed || matches!(l.modification, Modification::Offered { .. })) {
            // RFC 3311 §5.2: an offer of ours is unanswered.
            return cx.reply(key, request, 491);
        }
        if has_offer && l.state != LegState::Confirmed {
            // RFC 3311 §5.2: the first offer is still being answered.
            return cx.reply_retry_after(key, request, 500);
        }
        let answer = match self.answer_change(cx, leg, request) {
            Ok(answer) => answer,
            Err((code, cause)) => return self.refuse_change(cx, leg, key, request, code, cause),
        };
        let Some(l) = self.legs.get_mut(&leg) else {
            return;
        };
        if let Some(dialog) = l.dialog.as_mut() {
            let _ = dialog.refresh_target(request);
        }
        let contact = l.contact.clone();
        let mut response = cx
            .response(request, 200, None)
            .header(HeaderName::Contact, contact)
            .header(HeaderName::Allow, ALLOW);
        if let Some(body) = answer {
            response = response.body("application/sdp", &body);
        }
        cx.respond(key, 200, response);
        self.rebridge(cx);
    }

    fn refuse_change(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        key: ServerKey,
        request: &Message,
        code: u16,
        cause: Cause,
    ) {
        self.note(
            cx,
            leg,
            "modify",
            "a change of the session was refused; it stays as it was".to_owned(),
            Some(cause.as_str().to_owned()),
        );
        let response = cx
            .response(request, code, None)
            .header(HeaderName::Reason, super::release::reason(code, cause))
            .maybe(HeaderName::Accept, accept(code));
        cx.respond(key, code, response);
    }

    /// Our answer to an offer within the dialog; `None` when the request has no body. The codecs stay those in use, so that
    /// the other leg is not touched.
    fn answer_change(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        request: &Message,
    ) -> Result<Option<Vec<u8>>, (u16, Cause)> {
        let Some(offer) = offer_in(request)? else {
            return Ok(None);
        };
        let l = self
            .legs
            .get_mut(&leg)
            .ok_or((481, Cause::SignallingTimeout))?;
        let in_use = l
            .media
            .local
            .as_ref()
            .map(|local| local.codecs.clone())
            .unwrap_or_default();
        let address = offer.audio().rtp.ip();
        let ours = l.media.lease.map(|lease| Family::of(lease.bind.ip()));
        if !address.is_unspecified() && ours != Some(Family::of(address)) {
            return Err((488, Cause::NetworkMismatch));
        }
        let codecs = sdp::answer_codecs(&offer.audio().codecs, &in_use);
        if !sdp::has_speech(&codecs) {
            return Err((488, Cause::NoCommonCodec));
        }
        let direction = offer.audio().direction.mirrored();
        let local = l
            .media
            .describe(cx, codecs, direction)
            .ok_or((500, Cause::MediaFailed))?;
        let answer = local.answer_bytes(&offer);
        l.media.shape = offer.shape().clone();
        let remote = offer.audio().clone();
        self.set_remote(cx, leg, remote);
        Ok(Some(answer))
    }

    /// Offers the leg `codecs` in a re-INVITE; [`Call::on_reoffer_done`] hears the result. `false`: it cannot be sent.
    pub(super) fn reoffer(&mut self, cx: &mut Context, leg: LegNumber, codecs: Vec<Codec>) -> bool {
        self.try_reoffer(cx, leg, codecs, 0)
    }

    /// `retries`: how often it has met the peer's own so far.
    fn try_reoffer(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        codecs: Vec<Codec>,
        retries: u8,
    ) -> bool {
        let key = self.key;
        let id = self.id.clone();
        let Some(l) = self.legs.get_mut(&leg) else {
            return false;
        };
        if l.state != LegState::Confirmed {
            return false;
        }
        if l.awaited_ack.is_some() {
            // RFC 3261 §14.1: one INVITE at a time; ours goes out when the peer's is acknowledged.
            l.modification = Modification::Waiting { codecs, retries };
            return true;
        }
        // Until it is accepted the old description is in force.
        let before = (l.media.local.clone(), l.media.codec.clone());
        let offer = l.media.describe(cx, codecs, sdp::Direction::SendRecv);
        (l.media.local, l.media.codec) = before;
        let Some(offer) = offer else {
            return false;
        };
        let bytes = offer.reoffer_bytes(&l.media.shape);
        let sent = l.send_in_dialog(cx, &Method::Invite, |request| {
            request
                .header(HeaderName::Allow, ALLOW)
                .body("application/sdp", &bytes)
        });
        let client = sent.and_then(|(hop, branch, bytes)| {
            let user = ClientUse {
                call: key,
                leg,
                purpose: ClientPurpose::Reinvite,
                method: Method::Invite,
                trunk: l.label.clone(),
                sent_at: cx.now,
            };
            cx.send_request(hop, &branch, bytes, user, id)
        });
        let Some(client) = client else {
            return false;
        };
        l.modification = Modification::Offered {
            client,
            offer,
            retries,
        };
        true
    }

    /// A response to our re-INVITE.
    pub fn on_reinvite_response(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        key: ClientKey,
        message: &Message,
    ) {
        let code = message.status().unwrap_or_default();
        if (200..300).contains(&code) {
            self.ack_reinvite(cx, leg, message);
        }
        let Some((offer, retries)) = self
            .legs
            .get_mut(&leg)
            .filter(|_| code >= 200)
            .and_then(|l| l.modification.finish(key))
        else {
            return;
        };
        match code {
            200..=299 => self.take_reinvite_answer(cx, leg, offer, message),
            491 if retries < MAX_GLARE_RETRIES => {
                self.wait_after_glare(cx, leg, offer.codecs, retries + 1);
            }
            // RFC 3261 §12.2.1.2: the dialog is gone.
            481 => self.lose_leg(cx, leg, Cause::SignallingTimeout),
            code => self.on_reoffer_done(cx, leg, Reoffer::Refused(Some(code))),
        }
    }

    fn take_reinvite_answer(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        offer: LocalDescription,
        message: &Message,
    ) {
        let Some(l) = self.legs.get_mut(&leg) else {
            return;
        };
        let shape = &l.media.shape;
        let Ok(answer) = Answer::parse_shaped(&message.body(), &offer, shape) else {
            return self.on_reoffer_done(cx, leg, Reoffer::Refused(Some(488)));
        };
        l.media.accept(offer, answer.audio());
        let remote = answer.audio().clone();
        self.set_remote(cx, leg, remote);
        self.on_reoffer_done(cx, leg, Reoffer::Accepted);
    }

    /// Ours met the peer's own (491). RFC 3261 §14.1: the owner of the Call-ID waits 2.1 to 4 s, the other side 0 to 2 s, in
    /// units of 10 ms.
    fn wait_after_glare(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        codecs: Vec<Codec>,
        retries: u8,
    ) {
        let Some(l) = self.legs.get_mut(&leg) else {
            return;
        };
        l.modification = Modification::Waiting { codecs, retries };
        let wait = match l.direction {
            Direction::Outbound => 2_100 + 10 * u64::from(cx.random_below(190)),
            Direction::Inbound => 10 * u64::from(cx.random_below(200)),
        };
        let at = cx.now + Duration::from_millis(wait);
        cx.set_timer(self.key, leg, TimerKind::Reinvite, at);
    }

    fn ack_reinvite(&mut self, cx: &mut Context, leg: LegNumber, message: &Message) {
        let Some(l) = self.legs.get_mut(&leg) else {
            return;
        };
        let Some(mut dialog) = l.dialog.take() else {
            return;
        };
        let _ = dialog.refresh_target(message);
        let ack = l.build_ack(cx, &mut dialog, message.cseq().number);
        l.dialog = Some(dialog);
        if let (Some(ack), Some(hop)) = (ack, l.hop) {
            cx.transmit(hop, ack);
        }
    }

    /// Our re-INVITE had no final response.
    pub fn on_reinvite_failure(&mut self, cx: &mut Context, leg: LegNumber, key: ClientKey) {
        let ours = self
            .legs
            .get_mut(&leg)
            .and_then(|l| l.modification.finish(key));
        if ours.is_some() {
            self.on_reoffer_done(cx, leg, Reoffer::Refused(None));
        }
    }

    /// Time to try again after a 491.
    pub(super) fn retry_reinvite(&mut self, cx: &mut Context, leg: LegNumber) {
        let Some(l) = self.legs.get_mut(&leg) else {
            return;
        };
        let Some((codecs, retries)) = l.modification.stop_waiting() else {
            return;
        };
        if !self.try_reoffer(cx, leg, codecs, retries) {
            self.on_reoffer_done(cx, leg, Reoffer::Refused(None));
        }
    }

    /// The peer's INVITE is acknowledged: ours may go out, unless it has to wait for longer.
    fn reinvite_if_waiting(&mut self, cx: &mut Context, leg: LegNumber) {
        let timer = CallTimer {
            call: self.key,
            leg,
            kind: TimerKind::Reinvite,
        };
        if cx.timers.deadline(timer).is_none() {
            self.retry_reinvite(cx, leg);
        }
    }
}
