//! Changing an established session: the peer's re-INVITE and UPDATE, and our own re-INVITE of the caller after a transfer.

use super::Call;
use super::leg::{AwaitedAck, LegState, Owed, Reoffer, ReofferPurpose};
use crate::b2bua::{ALLOW, CallTimer, ClientPurpose, Context, Family, TimerKind};
use crate::event::{Cause, Direction, LegNumber};
use crate::sdp::{self, Answer, LocalDescription, Offer, SdpError};
use crate::sip::dialog::Dialog;
use crate::sip::transaction::{ClientKey, ServerKey};
use crate::sip::{HeaderName, Message, Method};
use crate::time::Duration;
use crate::trunk::TrunkSet;

/// How often a re-INVITE that met the peer's own, or lost its connection, is tried again.
const MAX_RETRIES: u8 = 3;

const SDP: &str = "application/sdp";

/// The offer in an INVITE or UPDATE, if there is a body; else the status and cause to refuse it with.
pub(super) fn offer_in(request: &Message) -> Result<Option<Offer>, (u16, Cause)> {
    let body = request.body();
    if body.is_empty() {
        return Ok(None);
    }
    if request.content_type().is_some() && !request.has_content_type(SDP) {
        return Err((415, Cause::Malformed));
    }
    match Offer::parse(body) {
        Ok(offer) => Ok(Some(offer)),
        Err(fault) => Err((fault.status(), fault.cause())),
    }
}

/// What is wrong with a request that is refused with `code` for `cause`, where it is the peer's fault. In our own words: nothing of
/// the request is repeated.
pub(super) fn fault_in(request: &Message, code: u16, cause: Cause) -> Option<String> {
    if cause != Cause::Malformed || !matches!(code, 400 | 488) {
        return None;
    }
    if request.to_tag().is_none()
        && let Err(fault) = Dialog::uas(request, "")
    {
        return Some(fault.to_string());
    }
    match Offer::parse(request.body()).err()? {
        SdpError::Malformed(_) => Some("a line of the session description is malformed".to_owned()),
        fault => Some(format!("the session description: {fault}")),
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
        let Some(l) = self.legs.get_mut(leg) else {
            return cx.reply(key, &request, 481);
        };
        if l.modification.offered.is_some() {
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
        let Some(l) = self.legs.get_mut(leg) else {
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
        let Some(l) = self.legs.get_mut(leg) else {
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
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        let body = request.body();
        let answer = l
            .media
            .local
            .as_ref()
            .and_then(|local| Answer::parse_shaped(body, local, &l.media.shape).ok());
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
        let Some(l) = self.legs.get_mut(leg) else {
            return cx.reply(key, request, 481);
        };
        let owed = l.awaited_ack.as_ref().is_some_and(|ack| ack.owes.is_some());
        if has_offer && (owed || l.modification.offered.is_some()) {
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
        let Some(l) = self.legs.get_mut(leg) else {
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
        let mut response = cx
            .response(request, code, None)
            .header(HeaderName::Reason, super::release::reason(code, cause))
            .maybe(HeaderName::Accept, accept(code));
        if let Some(fault) = fault_in(request, code, cause) {
            response = response.because(&fault);
        }
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
            .get_mut(leg)
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

    /// Offers the leg something else in a re-INVITE, as soon as that may be; [`Call::on_reoffered`] hears the result. `false`: it
    /// cannot be sent.
    pub(super) fn reoffer(&mut self, cx: &mut Context, leg: LegNumber, reoffer: Reoffer) -> bool {
        let Some(l) = self.legs.get_mut(leg) else {
            return false;
        };
        if l.state != LegState::Confirmed {
            return false;
        }
        if l.awaited_ack.is_some() || l.modification.offered.is_some() {
            // RFC 3261 §14.1: one INVITE at a time, in either direction.
            l.modification.waiting = Some(reoffer);
            return true;
        }
        // Until it is accepted the old description is in force.
        let before = (l.media.local.clone(), l.media.codec.clone());
        let codecs = reoffer.codecs.clone();
        let offer = l.media.describe(cx, codecs, sdp::Direction::SendRecv);
        (l.media.local, l.media.codec) = before;
        let Some(offer) = offer else {
            return false;
        };
        let bytes = offer.reoffer_bytes(&l.media.shape);
        let (purpose, method) = (ClientPurpose::Reinvite, Method::Invite);
        let sent = self.send_in_dialog(cx, leg, purpose, method, |request| {
            request.header(HeaderName::Allow, ALLOW).body(SDP, &bytes)
        });
        let (Some(client), Some(l)) = (sent, self.legs.get_mut(leg)) else {
            return false;
        };
        l.modification.offered = Some((client, offer, reoffer));
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
        let Some((offer, reoffer)) = self
            .legs
            .get_mut(leg)
            .filter(|_| code >= 200)
            .and_then(|l| l.modification.finish(key))
        else {
            return;
        };
        match code {
            200..=299 => {
                let taken = self.take_reinvite_answer(cx, leg, offer, message);
                let refused = (!taken).then_some(488);
                self.reinvited(cx, leg, reoffer.purpose, refused, taken);
            }
            491 if reoffer.retries < MAX_RETRIES => self.wait_after_glare(cx, leg, reoffer),
            // RFC 3261 §12.2.1.2: the dialog is gone.
            481 => self.lose_leg(cx, leg, Cause::SignallingTimeout),
            code => self.reinvited(cx, leg, reoffer.purpose, Some(code), false),
        }
    }

    /// Takes in the answer to our offer. `false`: it cannot be used, and the session is as it was.
    fn take_reinvite_answer(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        offer: LocalDescription,
        message: &Message,
    ) -> bool {
        let Some(l) = self.legs.get_mut(leg) else {
            return false;
        };
        let Ok(answer) = Answer::parse_shaped(message.body(), &offer, &l.media.shape) else {
            return false;
        };
        l.media.accept(offer, answer.audio());
        let remote = answer.audio().clone();
        self.set_remote(cx, leg, remote);
        true
    }

    /// Our re-INVITE has ended. What waited behind it is sent now, and decides; else whoever asked for it goes on.
    fn reinvited(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        purpose: ReofferPurpose,
        refused: Option<u16>,
        accepted: bool,
    ) {
        let next = self
            .legs
            .get_mut(leg)
            .and_then(|l| l.modification.waiting.take());
        match next {
            Some(next) if self.reoffer(cx, leg, next.clone()) => {}
            Some(next) => self.on_reoffered(cx, leg, next.purpose, None, false),
            None => self.on_reoffered(cx, leg, purpose, refused, accepted),
        }
    }

    /// Ours met the peer's own (491). RFC 3261 §14.1: the owner of the Call-ID waits 2.1 to 4 s, the other side 0 to 2 s, in
    /// units of 10 ms.
    fn wait_after_glare(&mut self, cx: &mut Context, leg: LegNumber, reoffer: Reoffer) {
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        l.modification.waiting.get_or_insert(Reoffer {
            retries: reoffer.retries + 1,
            ..reoffer
        });
        let wait = match l.direction {
            Direction::Outbound => 2_100 + 10 * u64::from(cx.random_below(190)),
            Direction::Inbound => 10 * u64::from(cx.random_below(200)),
        };
        let at = cx.now + Duration::from_millis(wait);
        cx.set_timer(self.key, leg, TimerKind::Reinvite, at);
    }

    fn ack_reinvite(&mut self, cx: &mut Context, leg: LegNumber, message: &Message) {
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        let Some(mut dialog) = l.dialog.take() else {
            return;
        };
        // A 2xx without a usable Contact keeps the old target.
        let _ = dialog.refresh_target(message);
        let ack = l.build_ack(cx, &mut dialog, message.cseq().number);
        let hop = cx.dialog_hop(dialog.next_hop(), l.reach());
        l.dialog = Some(dialog);
        if let (Some(ack), Some(hop)) = (ack, hop) {
            l.hop = Some(hop);
            cx.transmit(hop, ack);
        }
    }

    /// Our re-INVITE had no final response. If its connection was lost it is tried again, over another.
    pub fn on_reinvite_failure(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        key: ClientKey,
        transport: bool,
    ) {
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        let Some((_, reoffer)) = l.modification.finish(key) else {
            return;
        };
        let purpose = reoffer.purpose;
        if transport && reoffer.retries < MAX_RETRIES {
            l.modification.waiting.get_or_insert(Reoffer {
                retries: reoffer.retries + 1,
                ..reoffer
            });
        }
        self.reinvited(cx, leg, purpose, None, false);
    }

    /// The re-INVITE that waits may go out now, if nothing else stands in its way.
    pub(super) fn retry_reinvite(&mut self, cx: &mut Context, leg: LegNumber) {
        let next = self
            .legs
            .get_mut(leg)
            .filter(|l| l.modification.offered.is_none())
            .and_then(|l| l.modification.waiting.take());
        if let Some(next) = next
            && !self.reoffer(cx, leg, next.clone())
        {
            self.on_reoffered(cx, leg, next.purpose, None, false);
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

    /// The reason for a re-INVITE of this leg that has not been sent yet is gone.
    pub(super) fn withdraw_reoffer(&mut self, cx: &mut Context, leg: LegNumber) {
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        let gone = |next: &mut Reoffer| next.purpose == ReofferPurpose::Transfer;
        if l.modification.waiting.take_if(gone).is_some() {
            cx.cancel_timer(self.key, leg, TimerKind::Reinvite);
        }
    }
}
