//! Responses to our INVITE: progress, the answer, forks, challenges, refusals.

use super::Call;
use super::leg::{Disowned, LegState};
use super::media::speech_name;
use super::outcome::Outcome;
use crate::b2bua::{ClientPurpose, ClientUse, Context, Hop, Origin, PRODUCT, TimerKind};
use crate::event::{Cause, HangupBy, LegNumber};
use crate::sdp::{self, Answer};
use crate::sip::auth::{self, AnswerError};
use crate::sip::dialog::ViaLine;
use crate::sip::transaction::ClientKey;
use crate::sip::{HeaderName, Message, Method};

/// Challenges with `stale=true` that are answered before giving up.
const MAX_CHALLENGES: u8 = 3;
/// Endpoints whose surplus answers one INVITE may have; further ones are left to give up by themselves.
const MAX_DISOWNED: usize = 8;

impl Call {
    /// A response to the leg's INVITE.
    pub fn on_invite_response(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        origin: &Origin,
        message: &Message,
    ) {
        let code = message.status().unwrap_or_default();
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        cx.cancel_timer(self.key, leg, TimerKind::Auth);
        if let Some(origination) = l.origination.as_deref_mut() {
            origination.reused = false;
        }
        match (l.state, code) {
            (LegState::Calling, 100) => {}
            // RFC 6228: 199 ends an early dialog of the peer's forking, which is nobody's business but its own.
            (LegState::Calling, 199) => {}
            (LegState::Calling, 101..=198) => self.on_provisional(cx, leg, code, message),
            (LegState::Calling, 200..=299) => {
                l.hop = Some(origin.hop);
                l.peer = Some(origin.remote);
                self.on_invite_answered(cx, leg, message);
            }
            (LegState::Calling, 401 | 407) => self.on_challenge(cx, leg, code, message),
            (LegState::Calling, 300..) => {
                let mut outcome = Outcome::of_code(code);
                if code == 403 && self.is_authenticated(leg) {
                    outcome.cause = Cause::SipAuthFailed;
                }
                self.on_invite_rejected(cx, leg, outcome);
            }
            (LegState::Cancelling, 200..=299) => self.on_crossed_2xx(cx, leg, message),
            (LegState::Cancelling, 300..) => {
                l.sip_status = Some(code);
                self.leg_over(cx, leg);
            }
            (_, 200..=299) => self.on_repeated_2xx(cx, leg, message),
            _ => {}
        }
    }

    fn is_authenticated(&mut self, leg: LegNumber) -> bool {
        self.origination(leg)
            .is_some_and(|origination| origination.authorization.is_some())
    }

    fn on_provisional(&mut self, cx: &mut Context, leg: LegNumber, code: u16, message: &Message) {
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        l.ring.get_or_insert(cx.now);
        self.take_answer(cx, leg, message);
        if self.is_setup_callee(leg) {
            self.on_callee_progress(cx, leg, code);
        } else {
            self.on_target_progress(cx, leg, code);
        }
    }

    /// Takes in the SDP of a response to our offer. `Some(false)`: it is unusable; `None`: there is none.
    fn take_answer(&mut self, cx: &mut Context, leg: LegNumber, message: &Message) -> Option<bool> {
        let body = message.body();
        if body.is_empty() {
            return None;
        }
        let local = self.legs.get(leg)?.media.local.clone()?;
        match Answer::parse(body, &local) {
            Ok(answer) if sdp::has_speech(&answer.audio().codecs) => {
                let remote = answer.audio().clone();
                if let Some(l) = self.legs.get_mut(leg) {
                    l.media.codec = speech_name(&remote.codecs);
                }
                self.set_remote(cx, leg, remote);
                Some(true)
            }
            Ok(_) => Some(false),
            Err(fault) => {
                self.note(
                    cx,
                    leg,
                    "sdp",
                    "the answer is unusable".to_owned(),
                    Some(fault.to_string()),
                );
                Some(false)
            }
        }
    }

    fn on_invite_answered(&mut self, cx: &mut Context, leg: LegNumber, message: &Message) {
        let key = self.key;
        cx.cancel_timer(key, leg, TimerKind::Ring);
        if !self.confirm(cx, leg, message) {
            // A 2xx without a usable Contact: nothing can be sent to it, not even a BYE.
            let outcome = Outcome::new(
                None,
                Cause::Malformed,
                HangupBy::Edge,
                "the 2xx has no usable Contact",
            );
            if let Some(l) = self.legs.get_mut(leg) {
                l.state = LegState::Over;
            }
            return self.leg_failed(cx, leg, outcome);
        }
        if let Some(l) = self.legs.get_mut(leg).filter(|l| l.has_left_early()) {
            l.state = LegState::Over;
            let outcome = Outcome::new(
                None,
                Cause::Rejected,
                HangupBy::Remote,
                "it hung up before its answer arrived",
            );
            return self.leg_failed(cx, leg, outcome);
        }
        let taken = self.take_answer(cx, leg, message);
        let early = self.legs.get(leg).is_some_and(|l| l.media.remote.is_some());
        if taken == Some(false) || (taken.is_none() && !early) {
            let outcome = Outcome::new(
                None,
                Cause::NoCommonCodec,
                HangupBy::Edge,
                "the answer has no codec that was offered",
            );
            return self.leg_failed(cx, leg, outcome);
        }
        if self.is_setup_callee(leg) {
            self.on_callee_answered(cx, leg);
        } else {
            self.on_target_answered(cx, leg);
        }
    }

    /// Builds the dialog of a 2xx and ACKs it.
    fn confirm(&mut self, cx: &mut Context, leg: LegNumber, message: &Message) -> bool {
        let Some(l) = self.legs.get_mut(leg) else {
            return false;
        };
        let Some(origination) = l.origination.take() else {
            return false;
        };
        let Some(mut dialog) = l.dialog_by(message) else {
            l.origination = Some(origination);
            return false;
        };
        l.state = LegState::Confirmed;
        l.answer = Some(cx.now);
        l.sip_status = message.status();
        let Some(ack) = l.build_ack(cx, &mut dialog, message.cseq().number) else {
            l.dialog = Some(dialog);
            return true;
        };
        let hop = cx.dialog_hop(dialog.next_hop(), l.reach());
        l.dialog = Some(dialog);
        l.last_ack = Some(ack.clone());
        if let Some(hop) = hop {
            l.hop = Some(hop);
            cx.transmit(hop, ack);
        }
        true
    }

    /// The answer crossed our CANCEL: the dialog that nobody wants any more is made, and ended.
    fn on_crossed_2xx(&mut self, cx: &mut Context, leg: LegNumber, message: &Message) {
        let bye = self.disown_2xx(cx, leg, message);
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        l.sip_status = message.status();
        l.bye = bye;
        match bye {
            Some(_) => self.await_bye(cx, leg),
            None => self.leg_over(cx, leg),
        }
    }

    /// A 2xx after the first: the same one again is ACKed again; another fork's is ACKed and ended (RFC 3261 §13.2.2.4).
    fn on_repeated_2xx(&mut self, cx: &mut Context, leg: LegNumber, message: &Message) {
        let Some(l) = self.legs.get(leg) else {
            return;
        };
        let tag = message.to_tag().unwrap_or_default();
        if let Some(dialog) = l.dialog.as_ref().filter(|dialog| dialog.remote_tag == tag) {
            // By whichever way there is now: the ACK may have been lost with its connection.
            let hop = cx.dialog_hop(dialog.next_hop(), l.reach());
            if let Some((ack, hop)) = l.last_ack.clone().zip(hop) {
                cx.transmit(hop, ack);
            }
            return;
        }
        let known = l.disowned.iter().find(|fork| fork.tag == tag);
        match known.map(|fork| (fork.ack.clone(), fork.hop)) {
            Some((ack, hop)) => cx.transmit(hop, ack),
            None if l.disowned.len() < MAX_DISOWNED => {
                let what = "a second endpoint answered; it is ended".to_owned();
                self.note(cx, leg, "fork", what, None);
                self.disown_2xx(cx, leg, message);
                self.fork_may_speak(cx, leg);
            }
            None => {}
        }
    }

    /// ACKs a 2xx that nobody wants and sends BYE in its dialog.
    fn disown_2xx(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        message: &Message,
    ) -> Option<ClientKey> {
        let key = self.key;
        let id = self.id.clone();
        let l = self.legs.get_mut(leg)?;
        let mut dialog = l.dialog_by(message)?;
        let hop = cx.dialog_hop(dialog.next_hop(), l.reach())?;
        let ack = l.build_ack(cx, &mut dialog, message.cseq().number)?;
        cx.transmit(hop, ack.clone());
        l.disowned.push(Disowned {
            tag: dialog.remote_tag.clone(),
            ack,
            hop,
        });
        let branch = cx.branch();
        let (transport, sent_by) = l.via(cx)?;
        let via = ViaLine {
            transport,
            sent_by: &sent_by,
            branch: &branch,
        };
        let bytes = dialog
            .request(&Method::Bye, &via, None)
            .header(HeaderName::UserAgent, PRODUCT)
            .build();
        let user = ClientUse {
            call: key,
            leg,
            purpose: ClientPurpose::Bye,
            method: Method::Bye,
            trunk: l.label.clone(),
            sent_at: cx.now,
            hop,
        };
        cx.send_request(&branch, bytes, user, id)
    }

    /// 401 or 407: answered once, and again only when the peer says that merely the nonce was stale.
    fn on_challenge(&mut self, cx: &mut Context, leg: LegNumber, code: u16, message: &Message) {
        let (challenge, credentials) = if code == 401 {
            (HeaderName::WwwAuthenticate, HeaderName::Authorization)
        } else {
            (
                HeaderName::ProxyAuthenticate,
                HeaderName::ProxyAuthorization,
            )
        };
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        let trunk = l.trunk.clone();
        let uri = l.request_uri();
        let Some(origination) = l.origination.as_deref_mut() else {
            return;
        };
        let challenges: Vec<&str> = message.headers(challenge).collect();
        let again = origination.authorization.is_some();
        if again
            && (!auth::stale(challenges.iter().copied())
                || origination.challenges >= MAX_CHALLENGES)
        {
            let outcome = Outcome::new(
                Some(code),
                Cause::SipAuthFailed,
                HangupBy::Remote,
                "the peer refused our credentials",
            );
            return self.on_invite_rejected(cx, leg, outcome);
        }
        let cnonce = cx.random_hex(8);
        let answer = match &origination.template.present {
            None => Err((
                "no credentials are configured for this trunk".to_owned(),
                "unanswered",
            )),
            Some(present) => auth::answer(
                challenges.iter().copied(),
                present,
                Method::Invite.as_str(),
                &uri,
                &cnonce,
                1,
                &cx.digest,
            )
            .map_err(|fault| match fault {
                AnswerError::OwnNonce => (fault.to_string(), fault.outcome()),
                _ => (fault.to_string(), "unanswered"),
            }),
        };
        let whose = Some((self.id.clone(), leg));
        match answer {
            Ok(value) => {
                origination.authorization = Some((credentials, value));
                origination.challenges += 1;
                origination.cseq += 1;
                cx.digest_event(whose, &trunk, "answered");
                self.send_invite(cx, leg);
            }
            Err((fault, report)) => {
                cx.digest_event(whose, &trunk, report);
                let outcome =
                    Outcome::new(Some(code), Cause::SipAuthFailed, HangupBy::Remote, fault);
                self.on_invite_rejected(cx, leg, outcome);
            }
        }
    }

    /// A final refusal: the next address where the server is at fault, else the end of the leg.
    fn on_invite_rejected(&mut self, cx: &mut Context, leg: LegNumber, outcome: Outcome) {
        let elsewhere = outcome.try_elsewhere();
        if let Some(l) = self.legs.get_mut(leg) {
            l.sip_status = outcome.code;
        }
        if elsewhere && let Some(origination) = self.origination(leg) {
            origination.last = outcome;
            return self.try_next_candidate(cx, leg);
        }
        self.leg_failed(cx, leg, outcome);
    }

    /// The INVITE had no final response: its connection failed (`transport`) or timer B fired.
    pub fn on_invite_failure(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        hop: Hop,
        transport: bool,
    ) {
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        if l.state == LegState::Cancelling {
            return self.leg_over(cx, leg);
        }
        if l.state != LegState::Calling {
            return;
        }
        cx.cancel_timer(self.key, leg, TimerKind::Auth);
        if transport
            && let Some(origination) = l.origination.as_deref_mut()
            && std::mem::take(&mut origination.reused)
            && !std::mem::replace(&mut origination.repeated, true)
        {
            // The connection had been open, and closed as the INVITE was sent: that says nothing about the peer, once. Many calls
            // lose a connection together; were each tried for as long as another finds one, they would take turns at it.
            origination.start_over();
            return self.send_invite(cx, leg);
        }
        let silent = if transport {
            "connection lost"
        } else {
            "no response"
        };
        let fault = cx.hop_faults.get(&hop).cloned();
        let detail = fault.unwrap_or_else(|| silent.to_owned());
        let address = l.peer;
        let cause = if transport {
            Cause::Unreachable
        } else {
            Cause::SignallingTimeout
        };
        let text = match address {
            Some(address) => format!("{address}: {detail}"),
            None => detail,
        };
        self.note(
            cx,
            leg,
            "unreachable",
            text.clone(),
            Some(cause.as_str().to_owned()),
        );
        let outcome = Outcome::new(None, cause, HangupBy::Edge, text);
        if let Some(origination) = self.origination(leg) {
            origination.last = outcome;
        }
        self.try_next_candidate(cx, leg);
    }
}
