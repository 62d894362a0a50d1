//! Changing an established session: the peer's re-INVITE and UPDATE, and our own re-INVITE of the caller after a transfer.

use super::Call;
use super::leg::{AwaitedAck, LegState, Modification};
use crate::b2bua::{ALLOW, ClientPurpose, ClientUse, Context, TimerKind};
use crate::event::{Cause, Direction, LegNumber};
use crate::sdp::{self, Answer, Codec, Offer};
use crate::sip::transaction::{ClientKey, ServerKey};
use crate::sip::{HeaderName, Message, Method};
use crate::time::Duration;

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
        if l.modification != Modification::None {
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
        let (body, expects_answer) = match answer {
            Some(body) => (Some(body), false),
            None => (
                // RFC 3261 §14.2: without an offer in it, the 2xx carries ours; nothing new is offered.
                l.media
                    .local
                    .as_ref()
                    .map(|local| local.reoffer_bytes(&l.media.shape)),
                true,
            ),
        };
        if let Some(dialog) = l.dialog.as_mut() {
            // A change without a Contact keeps the old target.
            let _ = dialog.refresh_target(&request);
        }
        l.awaited_ack = Some(AwaitedAck {
            server: key,
            cseq: request.cseq().number,
            expects_answer,
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
        if has_offer && l.modification != Modification::None {
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

    /// Offers the leg `codecs` in a re-INVITE; [`Call::on_reoffer_done`] hears the result. `false`: it could not be sent.
    pub(super) fn reoffer(&mut self, cx: &mut Context, leg: LegNumber, codecs: &[Codec]) -> bool {
        let Some(l) = self.legs.get_mut(&leg) else {
            return false;
        };
        if l.state != LegState::Confirmed {
            return false;
        }
        let retries = match l.modification {
            Modification::Retrying(retries) => retries,
            _ => 0,
        };
        let before = (l.media.local.clone(), l.media.codec.clone());
        let Some(offer) = l
            .media
            .describe(cx, codecs.to_vec(), sdp::Direction::SendRecv)
        else {
            return false;
        };
        // Until it is accepted the old description is in force.
        (l.media.local, l.media.codec) = before;
        let bytes = offer.reoffer_bytes(&l.media.shape);
        let key = self.key;
        let id = self.id.clone();
        let sent = l
            .send_in_dialog(cx, &Method::Invite, |request| {
                request
                    .header(HeaderName::Allow, ALLOW)
                    .body("application/sdp", &bytes)
            })
            .and_then(|(hop, branch, bytes)| {
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
        let Some(client) = sent else {
            return false;
        };
        l.media.reoffer = Some((offer, retries));
        l.modification = Modification::Offered(client);
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
        let Some(l) = self.legs.get_mut(&leg) else {
            return;
        };
        if l.modification != Modification::Offered(key) || code < 200 {
            return;
        }
        let Some((offer, retries)) = l.media.reoffer.take() else {
            return;
        };
        l.modification = Modification::None;
        match code {
            200..=299 => {
                let shape = &l.media.shape;
                let answer = Answer::parse_shaped(&message.body(), &offer, shape).ok();
                match answer {
                    Some(answer) if sdp::has_speech(&answer.audio().codecs) => {
                        l.media.codec = answer
                            .audio()
                            .codecs
                            .iter()
                            .find(|codec| !codec.is_telephone_event())
                            .map(|codec| codec.name.clone());
                        l.media.local = Some(offer);
                        let remote = answer.audio().clone();
                        self.set_remote(cx, leg, remote);
                        self.on_reoffer_done(cx, leg, Reoffer::Accepted);
                    }
                    _ => self.on_reoffer_done(cx, leg, Reoffer::Refused(Some(488))),
                }
            }
            491 if retries < MAX_GLARE_RETRIES => {
                l.modification = Modification::Retrying(retries + 1);
                l.media.reoffer = Some((offer, retries + 1));
                // RFC 3261 §14.1: the owner of the Call-ID waits 2.1 to 4 s, the other side 0 to 2 s, in units of 10 ms.
                let wait = match l.direction {
                    Direction::Outbound => 2_100 + 10 * u64::from(cx.random_below(190)),
                    Direction::Inbound => 10 * u64::from(cx.random_below(200)),
                };
                let at = cx.now + Duration::from_millis(wait);
                cx.set_timer(self.key, leg, TimerKind::Reinvite, at);
            }
            code => self.on_reoffer_done(cx, leg, Reoffer::Refused(Some(code))),
        }
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
        let Some(l) = self.legs.get_mut(&leg) else {
            return;
        };
        if l.modification == Modification::Offered(key) {
            l.modification = Modification::None;
            l.media.reoffer = None;
            self.on_reoffer_done(cx, leg, Reoffer::Refused(None));
        }
    }

    /// Time to try again after a 491.
    pub(super) fn retry_reinvite(&mut self, cx: &mut Context, leg: LegNumber) {
        let Some(l) = self.legs.get_mut(&leg) else {
            return;
        };
        let Some((offer, _)) = l.media.reoffer.take() else {
            return;
        };
        if !self.reoffer(cx, leg, &offer.codecs) {
            if let Some(l) = self.legs.get_mut(&leg) {
                l.modification = Modification::None;
            }
            self.on_reoffer_done(cx, leg, Reoffer::Refused(None));
        }
    }
}
