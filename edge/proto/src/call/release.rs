//! Ending legs: BYE and CANCEL in both directions, refusals, and what is still owed afterwards.

use super::Call;
use super::leg::{Leg, LegState};
use super::outcome::{Outcome, Refusal, status_of};
use crate::b2bua::{ClientPurpose, Context, TimerKind, may_signal};
use crate::event::{Cause, HangupBy, LegNumber};
use crate::sip::status::reason_phrase;
use crate::sip::transaction::{ClientKey, ServerKey};
use crate::sip::{HeaderName, Message, Method};

/// `Reason` for our own causes (RFC 3326): the SIP status it amounts to, and the cause by name and number.
pub(super) fn reason(code: u16, cause: Cause) -> String {
    match cause.code() {
        Some(number) => format!("SIP;cause={code};text=\"{} {number}\"", cause.as_str()),
        None => format!("SIP;cause={code};text=\"{}\"", cause.as_str()),
    }
}

impl Call {
    /// Ends a leg as its state demands: refuses it, cancels it or says BYE. Its media is closed at once.
    pub(super) fn end_leg(&mut self, cx: &mut Context, leg: LegNumber, cause: Cause, by: HangupBy) {
        let code = match cause {
            Cause::Completed => 200,
            Cause::Cancelled => 487,
            // Another edge may take the call.
            Cause::EdgeRestart => 503,
            _ => 480,
        };
        let outcome = Outcome::new(None, cause, by, String::new());
        match self.legs.get(leg).map(|l| l.state) {
            Some(LegState::Incoming) => {
                self.reject_incoming(cx, leg, Refusal { code, cause, by });
            }
            Some(_) => self.end_leg_as(cx, leg, &outcome),
            None => {}
        }
    }

    /// Ends an outbound or answered leg.
    pub(super) fn end_leg_as(&mut self, cx: &mut Context, leg: LegNumber, outcome: &Outcome) {
        let key = self.key;
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        match l.state {
            LegState::Preparing => l.state = LegState::Over,
            LegState::Calling if outcome.code.is_some() => l.state = LegState::Over,
            LegState::Calling => {
                let client = l.origination.as_ref().and_then(|o| o.client);
                l.state = if client.is_some() {
                    LegState::Cancelling
                } else {
                    LegState::Over
                };
                if let Some(client) = client {
                    let value = reason(status_of(outcome.cause), outcome.cause);
                    cx.transactions.cancel(
                        cx.now,
                        client,
                        &[(HeaderName::Reason.as_str(), &value)],
                    );
                    let at = cx.now + cx.transaction_timeout() + cx.config.sip.t4;
                    cx.set_timer(key, leg, TimerKind::LegEnd, at);
                }
            }
            LegState::Confirmed => self.send_bye(cx, leg, outcome.cause),
            LegState::Incoming | LegState::Cancelling | LegState::Ending | LegState::Over => {}
        }
        self.finish(cx, leg, outcome.cause, outcome.by);
    }

    /// Notes the end of a leg, once, and closes its media.
    pub(super) fn finish(&mut self, cx: &mut Context, leg: LegNumber, cause: Cause, by: HangupBy) {
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        if l.end.is_none() {
            l.end = Some(cx.now);
            l.cause = Some(cause);
            l.hangup_by = by;
        }
        l.awaited_ack = None;
        for kind in [TimerKind::Ring, TimerKind::Auth, TimerKind::Reinvite] {
            cx.cancel_timer(self.key, leg, kind);
        }
        self.close_media(cx, leg);
    }

    fn send_bye(&mut self, cx: &mut Context, leg: LegNumber, cause: Cause) {
        let why = reason(status_of(cause), cause);
        let sent = self.send_in_dialog(cx, leg, ClientPurpose::Bye, Method::Bye, |request| {
            request.header(HeaderName::Reason, &why)
        });
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        l.bye = sent;
        if sent.is_some() {
            return self.await_bye(cx, leg);
        }
        l.state = LegState::Over;
        self.note(
            cx,
            leg,
            "bye",
            "the peer cannot be reached any more".to_owned(),
            Some(Cause::Unreachable.as_str().to_owned()),
        );
    }

    /// Our BYE is out: the leg is over when it is answered, and at the latest when no answer can come any more.
    pub(super) fn await_bye(&mut self, cx: &mut Context, leg: LegNumber) {
        if let Some(l) = self.legs.get_mut(leg) {
            l.state = LegState::Ending;
        }
        let at = cx.now + cx.transaction_timeout() + cx.config.sip.t4;
        cx.set_timer(self.key, leg, TimerKind::LegEnd, at);
    }

    /// A BYE was answered, or never will be. That of a fork ends nothing but the fork.
    pub fn on_bye_response(&mut self, cx: &mut Context, leg: LegNumber, key: ClientKey) {
        if self.legs.get(leg).is_some_and(|l| l.bye == Some(key)) {
            self.leg_over(cx, leg);
        }
    }

    /// Our BYE had no answer. If its connection was lost it may not have arrived: it is sent once more, over another.
    pub fn on_bye_failure(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        key: ClientKey,
        transport: bool,
    ) {
        let Some(l) = self.legs.get_mut(leg).filter(|l| l.bye == Some(key)) else {
            return;
        };
        let worth = transport && l.dialog.is_some() && l.is_listed(cx);
        if worth && !std::mem::replace(&mut l.bye_again, true) {
            let cause = l.cause.unwrap_or(Cause::Completed);
            return self.send_bye(cx, leg, cause);
        }
        self.leg_over(cx, leg);
    }

    /// Nothing is owed to the leg's peer any more.
    pub(super) fn leg_over(&mut self, cx: &mut Context, leg: LegNumber) {
        cx.cancel_timer(self.key, leg, TimerKind::LegEnd);
        if let Some(l) = self.legs.get_mut(leg) {
            l.state = LegState::Over;
        }
    }

    /// Ends every leg. A transferor that may still be spoken to is first told how its transfer ended, and released when it
    /// has answered.
    pub(super) fn end_call(&mut self, cx: &mut Context, cause: Cause) {
        self.cause = cause;
        self.bridge = None;
        self.setup = None;
        if self.transferor().is_some_and(|leg| self.is_listed(cx, leg)) {
            let outcome = Outcome::new(None, cause, HangupBy::Edge, String::new());
            self.give_up_transfer(cx, &outcome);
        } else {
            self.abandon_transfer(cx, cause);
        }
        let legs: Vec<LegNumber> = self.legs.iter().map(|l| l.number).collect();
        for leg in legs {
            if self.is_listed(cx, leg) {
                self.release_leg(cx, leg, cause, HangupBy::Edge);
            } else {
                self.end_leg(cx, leg, cause, HangupBy::Edge);
            }
        }
    }

    /// Whether the peer of a leg may still signal, under the present configuration.
    fn is_listed(&self, cx: &Context, leg: LegNumber) -> bool {
        self.legs.get(leg).is_some_and(|leg| leg.is_listed(cx))
    }

    /// A final refusal of the caller's INVITE.
    pub(super) fn reject_incoming(&mut self, cx: &mut Context, leg: LegNumber, refusal: Refusal) {
        let Refusal { code, cause, by } = refusal;
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        if let Some((key, request)) = l.invite.take() {
            let mut response = cx
                .response(&request, code, Some(&l.local_tag))
                .header(HeaderName::Reason, reason(code, cause))
                .maybe(HeaderName::Accept, super::modify::accept(code));
            if let Some(fault) = super::modify::fault_in(&request, code, cause) {
                response = response.because(&fault);
            }
            if code == 503 || code == 500 {
                response = response.header(HeaderName::RetryAfter, crate::b2bua::RETRY_AFTER_S);
            }
            if matches!(
                cause,
                Cause::NumberMissing
                    | Cause::NoCommonCodec
                    | Cause::EncryptionRequired
                    | Cause::NetworkMismatch
            ) {
                response = response.header(
                    HeaderName::Warning,
                    format!("399 sip-edge \"{}\"", explain(cause)),
                );
            }
            cx.respond(key, code, response);
        }
        l.state = LegState::Over;
        l.sip_status = Some(code);
        self.finish(cx, leg, cause, by);
    }

    /// The peer's BYE.
    pub(super) fn on_bye(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        key: ServerKey,
        request: &Message,
    ) {
        cx.reply(key, request, 200);
        let reason = request.header(HeaderName::Reason).map(str::to_owned);
        self.note(cx, leg, "hangup", "the peer hung up".to_owned(), reason);
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        if l.state == LegState::Ending {
            // Both sides hung up at once; our own BYE still gets its answer.
            return;
        }
        if let Some((invite, original)) = l.invite.take() {
            // RFC 3261 §15.1.2: a BYE in an early dialog ends its INVITE.
            let response = cx.response(&original, 487, Some(&l.local_tag));
            l.sip_status = Some(487);
            cx.respond(invite, 487, response);
        }
        if let Some(awaited) = l.awaited_ack.take() {
            // Whoever says BYE has seen our 2xx.
            cx.transactions.acknowledged(awaited.server);
        }
        l.state = LegState::Over;
        let answered = l.answer.is_some();
        let cause = if answered {
            Cause::Completed
        } else {
            Cause::Cancelled
        };
        self.finish(cx, leg, cause, HangupBy::Remote);
        self.on_leg_left(cx, leg, cause);
    }

    /// A leg of the call is gone because its peer left: what that means for the others.
    fn on_leg_left(&mut self, cx: &mut Context, leg: LegNumber, cause: Cause) {
        if self.setup.as_ref().is_some_and(|s| s.caller == leg) {
            return self.caller_gave_up(cx, cause);
        }
        if self.transfer_leg_left(cx, leg) {
            return;
        }
        if let Some(other) = self.other(leg) {
            self.bridge = None;
            self.cause = cause;
            self.release_leg(cx, other, cause, HangupBy::Local);
        }
    }

    fn caller_gave_up(&mut self, cx: &mut Context, cause: Cause) {
        self.cause = cause;
        self.bridge = None;
        if let Some(callee) = self.setup.take().and_then(|setup| setup.callee) {
            self.end_leg(cx, callee, Cause::Cancelled, HangupBy::Local);
        }
    }

    /// CANCEL of the INVITE behind `invite`.
    pub fn on_cancel(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        invite: ServerKey,
        cancel: ServerKey,
        request: &Message,
        why: Option<String>,
    ) {
        let Some(l) = self.legs.get_mut(leg) else {
            return cx.reply(cancel, request, 481);
        };
        let response = cx.response(request, 200, Some(&l.local_tag));
        cx.respond(cancel, 200, response);
        let pending = l.invite.as_ref().is_some_and(|(key, _)| *key == invite);
        if !pending {
            // RFC 3261 §9.2: no effect once the INVITE was finally answered.
            return;
        }
        self.note(cx, leg, "cancel", "the caller gave up".to_owned(), why);
        let refusal = Refusal {
            code: 487,
            cause: Cause::Cancelled,
            by: HangupBy::Remote,
        };
        self.reject_incoming(cx, leg, refusal);
        self.caller_gave_up(cx, Cause::Cancelled);
    }

    /// A 2xx of ours was never acknowledged (RFC 3261 §13.3.1.4: the session should be ended).
    pub fn on_no_ack(&mut self, cx: &mut Context, leg: LegNumber, key: ServerKey) {
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        if l.awaited_ack.take_if(|a| a.server == key).is_none() {
            return;
        }
        self.note(
            cx,
            leg,
            "no_ack",
            "our 2xx was never acknowledged".to_owned(),
            Some(Cause::SignallingTimeout.as_str().to_owned()),
        );
        self.lose_leg(cx, leg, Cause::SignallingTimeout);
    }

    /// Ends a leg for a fault of its own, and with it whoever it was bridged to.
    pub(super) fn lose_leg(&mut self, cx: &mut Context, leg: LegNumber, cause: Cause) {
        self.end_leg(cx, leg, cause, HangupBy::Edge);
        self.on_leg_left(cx, leg, cause);
    }

    /// Something on our side failed before the leg was answered.
    pub(super) fn fail_leg(&mut self, cx: &mut Context, leg: LegNumber, code: u16, cause: Cause) {
        match self.legs.get(leg).map(|l| l.state) {
            Some(LegState::Incoming) => {
                // Its ports are opened together with the caller's.
                if let Some(callee) = self.setup.as_ref().and_then(|setup| setup.callee) {
                    self.end_leg(cx, callee, cause, HangupBy::Edge);
                }
                self.refuse_caller(cx, leg, Refusal::by_edge(code, cause));
            }
            Some(LegState::Preparing | LegState::Calling) => {
                let outcome = Outcome::new(None, cause, HangupBy::Edge, reason_phrase(code));
                self.leg_failed(cx, leg, outcome);
            }
            _ => {}
        }
    }

    /// A new configuration is in force: a peer that may not signal any more loses its calls.
    pub fn on_reload(&mut self, cx: &mut Context) {
        let lost = self
            .legs
            .iter()
            .find(|leg| leg.is_alive() && !leg.is_listed(cx));
        if let Some(number) = lost.map(|leg| leg.number) {
            self.note(
                cx,
                number,
                "access",
                "this peer is not listed any more".to_owned(),
                Some(Cause::AccessRemoved.as_str().to_owned()),
            );
            self.end_call(cx, Cause::AccessRemoved);
        }
    }

    /// The process is about to end. A call that is ending already goes on with that.
    pub fn on_end(&mut self, cx: &mut Context) {
        let alive = self.legs.iter().find(|leg| leg.is_alive());
        if let Some(number) = alive.map(|leg| leg.number) {
            let why = Some(Cause::EdgeRestart.as_str().to_owned());
            self.note(cx, number, "end", "the edge stops".to_owned(), why);
            self.end_call(cx, Cause::EdgeRestart);
        }
    }
}

fn explain(cause: Cause) -> &'static str {
    match cause {
        Cause::NumberMissing => "the Request-URI has no user part",
        Cause::NoCommonCodec => "no common codec",
        Cause::EncryptionRequired => "media encryption does not fit the trunk",
        Cause::NetworkMismatch => "no media address of the offered family",
        _ => "refused",
    }
}

impl Leg {
    /// Whether its peer, where there is one yet, may signal under the present configuration.
    fn is_listed(&self, cx: &Context) -> bool {
        let called = self.located.as_ref().map(|located| &located.uri);
        self.peer
            .is_none_or(|peer| may_signal(&cx.config, &self.trunk.name, peer, called).is_some())
    }
}
