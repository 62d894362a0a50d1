//! Transfers: the verdict on a REFER, the new leg's attempts, and how they end.
//!
//! ```text
//!  REFER ─► check_refer ─► 202, NOTIFY 100 ─► attempt ─► answered ─► (re-INVITE caller) ─► bridged ─► NOTIFY 200 ─► BYE AI
//!                                               ▲    └─ failed ─┐
//!                                               └── fallback ───┴─► NOTIFY 4xx, the caller stays with the AI
//! ```

use super::Call;
use super::leg::LegState;
use super::modify::Reoffer;
use super::notify::Notice;
use super::originate::{InviteTemplate, Outcome, host_of, sip_uri};
use super::policy::{self, AuthOutcome, HeaderSources, ReferFacts, Target};
use super::release::reason;
use crate::b2bua::{Context, Origin, TimerKind};
use crate::config::{OnFailure, TransferPolicy, Trunk};
use crate::event::{Cause, EventKind, HangupBy, LegNumber, ReferRecord, TransferRecord};
use crate::sdp::{self, Codec};
use crate::sip::auth::DigestFailure;
use crate::sip::transaction::ServerKey;
use crate::sip::{HeaderName, Message, NameAddr, Uri};
use crate::time::Instant;
use std::collections::VecDeque;
use std::sync::Arc;

/// Seconds that the subscription outlives all attempts (resolving, connecting, challenges).
const SUBSCRIPTION_SLACK_S: u64 = 60;

/// A transfer between its 202 and its outcome.
pub(crate) struct Transfer {
    id: u32,
    transferor: LegNumber,
    transferee: LegNumber,
    /// The transferor's trunk, whose policy applies.
    trunk: Arc<Trunk>,
    policy: TransferPolicy,
    target: Option<LegNumber>,
    attempt: u32,
    fallbacks: VecDeque<String>,
    /// Headers of the REFER, names as received.
    headers: Vec<(String, String)>,
    referred_by: String,
    accepted_at: Instant,
    /// `Event` of the NOTIFYs; `None`: the transferor wants none (RFC 4488).
    event: Option<String>,
    expires_s: u64,
    /// The target answered and the caller is re-INVITEd.
    reoffering: bool,
}

impl Call {
    /// A REFER within the dialog of `leg`.
    pub(super) fn on_refer(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        _origin: &Origin,
        key: ServerKey,
        request: &Message,
    ) {
        let config = cx.config.clone();
        let Some(l) = self.legs.get(&leg) else {
            return cx.reply(key, request, 481);
        };
        // The trunk's policy as it is now: a reload applies to the next REFER, not to the next call.
        let trunk = config
            .trunk_named(&l.trunk.name)
            .unwrap_or(&l.trunk)
            .clone();
        let refer_to: Vec<&str> = request.headers(HeaderName::ReferTo).collect();
        let transferee = self.other(leg);
        let stays = transferee.and_then(|n| self.legs.get(&n));
        let facts = ReferFacts {
            transferor: Some(&trunk),
            source_allowed: true,
            answered: l.is_answered() && stays.is_some_and(|other| other.is_answered()),
            transfer_pending: self.transfer.is_some() || self.releasing.is_some(),
            transfers_done: self.transfers_bridged,
            refers_tried: self.refers_tried,
            refer_to: &refer_to,
            transferee: match stays.and_then(|s| s.media.lease.as_ref().map(|lease| (s, lease))) {
                Some((other, lease)) => policy::Transferee::live(lease.bind.ip(), &other.trunk),
                None => policy::Transferee::possible(&config, &l.trunk),
            },
        };
        let mut stale = false;
        let verdict = policy::check_refer(&config, &facts, &mut || {
            let result = cx.verify_digest(request, &trunk);
            stale = result.is_err_and(DigestFailure::is_stale);
            match result {
                Ok(()) => AuthOutcome::Accepted,
                Err(DigestFailure::Missing) => AuthOutcome::Missing,
                Err(failure) => AuthOutcome::Refused(failure.outcome()),
            }
        });
        if let Some(outcome) = digest_outcome(&verdict) {
            cx.digest_event(&trunk, outcome);
        }
        if verdict
            .steps
            .iter()
            .any(|step| step.passed && step.step == policy::ReferStep::Authenticated)
        {
            self.refers_tried += 1;
        }
        let shown = refer_to.join(", ");
        match (verdict.result, transferee) {
            (Ok(target), Some(transferee)) => {
                self.judged(cx, leg, shown, 202, None, target.text.clone());
                self.accept_refer(cx, leg, transferee, trunk, key, request, target);
            }
            (Ok(_), None) => cx.reply(key, request, 481),
            (Err(refusal), _) => {
                self.judged(
                    cx,
                    leg,
                    shown,
                    refusal.status,
                    Some(refusal.cause),
                    refusal.detail.clone(),
                );
                if refusal.status == 401 {
                    cx.challenge(key, request, &trunk, stale);
                } else {
                    let response = cx
                        .response(request, refusal.status, None)
                        .header(HeaderName::Reason, reason(refusal.status, refusal.cause));
                    cx.respond(key, refusal.status, response);
                }
                if refusal.status != 401 {
                    let result = "denied";
                    self.transfer_ended(cx, &trunk, 0, result, refusal.cause);
                }
            }
        }
    }

    /// A REFER from a source that the dialog's trunk does not list.
    pub(super) fn refuse_refer_source(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        key: ServerKey,
        request: &Message,
    ) {
        let Some(trunk) = self.legs.get(&leg).map(|l| l.trunk.clone()) else {
            return;
        };
        let shown = request.header(HeaderName::ReferTo).unwrap_or_default();
        let cause = Cause::TransferUnauthorized;
        let detail = "the source is not listed by the dialog's trunk".to_owned();
        self.judged(cx, leg, shown.to_owned(), 403, Some(cause), detail);
        let response = cx
            .response(request, 403, None)
            .header(HeaderName::Reason, reason(403, cause));
        cx.respond(key, 403, response);
        self.transfer_ended(cx, &trunk, 0, "denied", cause);
    }

    /// Records a verdict where the CDR and the timeline find it.
    fn judged(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        target: String,
        status: u16,
        cause: Option<Cause>,
        detail: String,
    ) {
        self.event(
            cx,
            leg,
            EventKind::Refer {
                target: target.clone(),
                status,
                cause,
                detail,
            },
        );
        if let Some(l) = self.legs.get_mut(&leg)
            && l.refers.len() < policy::MAX_REFERS_TRIED as usize * 2
        {
            l.refers.push(ReferRecord {
                at: cx.now,
                target,
                status,
                cause,
            });
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn accept_refer(
        &mut self,
        cx: &mut Context,
        transferor: LegNumber,
        transferee: LegNumber,
        trunk: Arc<Trunk>,
        key: ServerKey,
        request: &Message,
        target: Target,
    ) {
        let Some(policy) = trunk.transfer.clone() else {
            return cx.reply(key, request, 403);
        };
        self.transfers_started += 1;
        let quiet = request
            .header(HeaderName::ReferSub)
            .is_some_and(|value| value.trim().eq_ignore_ascii_case("false"));
        let event = (!quiet).then(|| match self.transfers_started {
            1 => "refer".to_owned(),
            _ => format!("refer;id={}", request.cseq().number),
        });
        let attempts = 1 + policy.fallback.len() as u64;
        let expires_s = SUBSCRIPTION_SLACK_S
            + attempts * (policy.ring_timeout.as_secs() + policy.auth_timeout.as_secs() + 5);
        let Some(l) = self.legs.get_mut(&transferor) else {
            return;
        };
        let mut response = cx
            .response(request, 202, None)
            .header(HeaderName::Contact, &l.contact);
        if quiet {
            response = response.header(HeaderName::ReferSub, "false");
        }
        let transfer = Transfer {
            id: self.transfers_started,
            transferor,
            transferee,
            fallbacks: policy.fallback.iter().cloned().collect(),
            trunk,
            policy,
            target: None,
            attempt: 0,
            headers: request
                .all_headers()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            referred_by: referred_by(request, &l.contact),
            accepted_at: cx.now,
            event,
            expires_s,
            reoffering: false,
        };
        cx.respond(key, 202, response);
        self.transfer = Some(transfer);
        self.tell_transferor(cx, 100, None, false);
        self.attempt(cx, target);
    }

    /// A NOTIFY about the transfer, if the transferor wants any.
    fn tell_transferor(&mut self, cx: &mut Context, code: u16, cause: Option<Cause>, last: bool) {
        let Some(transfer) = self.transfer.as_ref() else {
            return;
        };
        let Some(event) = transfer.event.clone() else {
            return;
        };
        let elapsed = cx.now.saturating_since(transfer.accepted_at).as_secs();
        let notice = Notice {
            event,
            code,
            reason: cause.map(|cause| reason(code, cause)),
            expires_s: (!last).then(|| transfer.expires_s.saturating_sub(elapsed).max(1)),
        };
        let leg = transfer.transferor;
        self.notify(cx, leg, notice);
    }

    /// Calls a target.
    fn attempt(&mut self, cx: &mut Context, target: Target) {
        let Some(transfer) = self.transfer.as_mut() else {
            return;
        };
        transfer.attempt += 1;
        let (id, attempt) = (transfer.id, transfer.attempt);
        let transferor = transfer.transferor;
        let via: Arc<str> = Arc::from(target.trunk.name.as_str());
        self.event(
            cx,
            transferor,
            EventKind::TransferAttempt {
                id,
                attempt,
                target: target.text.clone(),
                via: via.clone(),
            },
        );
        match self.call_target(cx, &target) {
            Ok(leg) => {
                let Some(transfer) = self.transfer.as_mut() else {
                    return;
                };
                transfer.target = Some(leg);
                let ring = transfer.policy.ring_timeout;
                if let Some(l) = self.legs.get_mut(&leg) {
                    l.transfer = Some(TransferRecord {
                        id,
                        attempt,
                        target: target.text,
                        via,
                        result: "failed",
                    });
                }
                cx.set_timer(self.key, leg, TimerKind::Ring, cx.now + ring);
            }
            Err((code, cause)) => {
                let outcome =
                    Outcome::new(None, cause, HangupBy::Edge, "the target cannot be called");
                self.note(
                    cx,
                    transferor,
                    "failed",
                    format!("{} cannot be called ({code})", target.text),
                    Some(cause.as_str().to_owned()),
                );
                self.attempt_failed(cx, &outcome);
            }
        }
    }

    fn call_target(
        &mut self,
        cx: &mut Context,
        target: &Target,
    ) -> Result<LegNumber, (u16, Cause)> {
        let transfer = self.transfer.as_ref().ok_or((500, Cause::EdgeOverload))?;
        let transferee = self
            .legs
            .get(&transfer.transferee)
            .ok_or((481, Cause::Cancelled))?;
        let codecs = offer_for(transferee, &target.trunk);
        if !sdp::has_speech(&codecs) {
            return Err((488, Cause::NoCommonCodec));
        }
        let refer: Vec<(&str, &str)> = transfer
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let copied = policy::copy_headers(
            &transfer.policy,
            HeaderSources {
                refer: &refer,
                embedded: &target.embedded,
                trunk: &target.trunk.headers,
            },
        );
        let mut headers = vec![(
            HeaderName::ReferredBy.as_str().to_owned(),
            transfer.referred_by.clone(),
        )];
        headers.extend(copied.copied);
        headers.extend(copied.own);
        let template = InviteTemplate {
            number: target.user.clone(),
            caller: transferee.identity.clone(),
            headers,
            codecs,
            max_forwards: 70,
            present: target
                .trunk
                .present
                .clone()
                .or_else(|| transfer.trunk.present.clone()),
            auth_timeout: Some(transfer.policy.auth_timeout),
        };
        let transferor = transfer.transferor;
        for dropped in copied.dropped {
            self.event(
                cx,
                transferor,
                EventKind::HeaderDropped {
                    name: dropped.name,
                    rule: dropped.rule,
                },
            );
        }
        self.originate(cx, target.trunk.clone(), template)
    }

    fn is_target(&self, leg: LegNumber) -> bool {
        self.transfer
            .as_ref()
            .is_some_and(|transfer| transfer.target == Some(leg))
    }

    /// The target rings.
    pub(super) fn on_target_progress(&mut self, cx: &mut Context, leg: LegNumber, code: u16) {
        if self.is_target(leg) {
            self.tell_transferor(cx, code, None, false);
        }
    }

    /// The target answered: bridge it with the caller, after a re-INVITE where the codecs demand one.
    pub(super) fn on_target_answered(&mut self, cx: &mut Context, leg: LegNumber) {
        if !self.is_target(leg) {
            return self.end_leg(cx, leg, Cause::Cancelled, HangupBy::Edge);
        }
        let Some(transfer) = self.transfer.as_ref() else {
            return;
        };
        let transferee = transfer.transferee;
        let (Some(caller), Some(target)) = (self.legs.get(&transferee), self.legs.get(&leg)) else {
            return;
        };
        if understand_each_other(caller, target) {
            return self.bridge_target(cx);
        }
        let codecs = reoffer_for(caller, target);
        if let Some(transfer) = self.transfer.as_mut() {
            transfer.reoffering = true;
        }
        self.note(
            cx,
            transferee,
            "reoffer",
            "the target chose a codec that the caller does not use; the caller is asked to change"
                .to_owned(),
            None,
        );
        if !sdp::has_speech(&codecs) || !self.reoffer(cx, transferee, &codecs) {
            self.on_reoffer_done(cx, transferee, Reoffer::Refused(None));
        }
    }

    /// The caller took, or refused, the codecs of the target.
    pub(super) fn on_reoffer_done(&mut self, cx: &mut Context, leg: LegNumber, result: Reoffer) {
        let Some(transfer) = self
            .transfer
            .as_ref()
            .filter(|t| t.reoffering && t.transferee == leg)
        else {
            return;
        };
        let target = transfer.target;
        let understood = match (self.legs.get(&leg), target.and_then(|n| self.legs.get(&n))) {
            (Some(caller), Some(target)) => understand_each_other(caller, target),
            _ => false,
        };
        match result {
            Reoffer::Accepted if understood => self.bridge_target(cx),
            Reoffer::Accepted => self.drop_answered_target(cx, None),
            Reoffer::Refused(code) => self.drop_answered_target(cx, code),
        }
    }

    /// The target answered but cannot be connected: it is released, and the caller stays where it was.
    fn drop_answered_target(&mut self, cx: &mut Context, code: Option<u16>) {
        let Some(transfer) = self.transfer.as_mut() else {
            return;
        };
        transfer.reoffering = false;
        // The caller said no, not the target: another target would meet the same refusal.
        transfer.fallbacks.clear();
        let Some(target) = transfer.target.take() else {
            return;
        };
        let detail = match code {
            Some(code) => format!("the caller answered the re-INVITE with {code}"),
            None => "the caller did not take the re-INVITE".to_owned(),
        };
        let outcome = Outcome::new(None, Cause::CallerRefused, HangupBy::Edge, detail);
        self.set_result(target, &outcome);
        self.end_leg(cx, target, Cause::CallerRefused, HangupBy::Edge);
        self.rebridge(cx);
        self.attempt_failed(cx, &outcome);
    }

    /// Success: caller and target hear each other, the transferor hears nothing and is released once it knows.
    fn bridge_target(&mut self, cx: &mut Context) {
        let Some(transfer) = self.transfer.as_ref() else {
            return;
        };
        let Some(target) = transfer.target else {
            return;
        };
        let (id, trunk, transferor) = (transfer.id, transfer.trunk.clone(), transfer.transferor);
        let elapsed = cx.now.saturating_since(transfer.accepted_at);
        let notifies = transfer.event.is_some();
        self.bridge = Some((transfer.transferee, target));
        self.rebridge(cx);
        self.transfers_bridged += 1;
        if let Some(record) = self.legs.get_mut(&target).and_then(|l| l.transfer.as_mut()) {
            record.result = "completed";
        }
        self.event(
            cx,
            target,
            EventKind::TransferBridged {
                trunk: Arc::from(trunk.name.as_str()),
                id,
                elapsed,
            },
        );
        self.transfer_ended(cx, &trunk, id, "completed", Cause::Completed);
        if self.legs.get(&transferor).is_some_and(|l| l.is_answered()) {
            self.releasing = Some(transferor);
            self.tell_transferor(cx, 200, None, true);
            if !notifies {
                self.releasing = None;
                self.end_leg(cx, transferor, Cause::Completed, HangupBy::Edge);
            }
        }
        self.transfer = None;
    }

    /// The target's leg ended before it was bridged.
    pub(super) fn on_target_failed(&mut self, cx: &mut Context, leg: LegNumber, outcome: &Outcome) {
        if !self.is_target(leg) {
            return;
        }
        self.set_result(leg, outcome);
        if let Some(transfer) = self.transfer.as_mut() {
            transfer.target = None;
            transfer.reoffering = false;
        }
        self.attempt_failed(cx, outcome);
    }

    fn set_result(&mut self, leg: LegNumber, outcome: &Outcome) {
        if let Some(record) = self.legs.get_mut(&leg).and_then(|l| l.transfer.as_mut()) {
            record.result = result_of(outcome.cause);
        }
    }

    /// One attempt failed: the next fallback, or the end of the transfer.
    fn attempt_failed(&mut self, cx: &mut Context, outcome: &Outcome) {
        let config = cx.config.clone();
        loop {
            let Some(transfer) = self.transfer.as_mut() else {
                return;
            };
            let Some(uri) = transfer.fallbacks.pop_front() else {
                break;
            };
            match policy::evaluate_fallback(&config, &transfer.trunk, &uri) {
                Ok(target) => return self.attempt(cx, target),
                Err(refusal) => {
                    let leg = transfer.transferor;
                    self.note(cx, leg, "fallback", uri, Some(refusal.detail));
                }
            }
        }
        self.transfer_failed(cx, outcome);
    }

    /// All attempts failed: the caller stays with the transferor, or the call ends where it has left.
    fn transfer_failed(&mut self, cx: &mut Context, outcome: &Outcome) {
        self.tell_transferor(cx, notify_code(outcome), Some(outcome.cause), true);
        let Some(transfer) = self.transfer.take() else {
            return;
        };
        self.transfer_ended(
            cx,
            &transfer.trunk,
            transfer.id,
            result_of(outcome.cause),
            outcome.cause,
        );
        let stays = self
            .legs
            .get(&transfer.transferor)
            .is_some_and(|l| l.state == LegState::Confirmed);
        if stays && transfer.policy.on_failure == OnFailure::Return {
            return;
        }
        self.cause = outcome.cause;
        self.bridge = None;
        self.end_leg(cx, transfer.transferee, outcome.cause, HangupBy::Local);
        if stays {
            self.release_after_notify(cx, transfer.transferor, transfer.event.is_some());
        }
    }

    /// Says BYE to the transferor once its final NOTIFY was answered.
    fn release_after_notify(&mut self, cx: &mut Context, leg: LegNumber, notified: bool) {
        let waiting = cx
            .timers
            .deadline(crate::b2bua::CallTimer {
                call: self.key,
                leg,
                kind: TimerKind::FinalNotify,
            })
            .is_some();
        if notified && waiting {
            self.releasing = Some(leg);
        } else {
            self.end_leg(cx, leg, Cause::Completed, HangupBy::Edge);
        }
    }

    fn transfer_ended(
        &self,
        cx: &mut Context,
        trunk: &Trunk,
        id: u32,
        result: &'static str,
        cause: Cause,
    ) {
        cx.event(
            Some(self.id.clone()),
            self.transfer.as_ref().map(|t| t.transferor),
            EventKind::TransferEnded {
                trunk: Arc::from(trunk.name.as_str()),
                id,
                result,
                cause,
            },
        );
    }

    /// A peer left while a transfer runs. `true`: the transfer has dealt with it.
    pub(super) fn transfer_leg_left(&mut self, cx: &mut Context, leg: LegNumber) -> bool {
        if self.releasing == Some(leg) {
            self.releasing = None;
            cx.cancel_timer(self.key, leg, TimerKind::FinalNotify);
            return true;
        }
        let Some(transfer) = self.transfer.as_ref() else {
            return false;
        };
        if transfer.transferor == leg {
            // RFC 5589 §6.1: it may leave right after the 202; the transfer goes on, untold.
            self.bridge = None;
            return true;
        }
        if transfer.target == Some(leg) {
            let outcome = Outcome::new(
                None,
                Cause::Rejected,
                HangupBy::Remote,
                "the target hung up before it was connected",
            );
            self.on_target_failed(cx, leg, &outcome);
            return true;
        }
        if transfer.transferee != leg {
            return false;
        }
        let (transferor, target) = (transfer.transferor, transfer.target);
        let notified = transfer.event.is_some();
        let outcome = Outcome::new(
            None,
            Cause::Cancelled,
            HangupBy::Local,
            "the caller hung up",
        );
        self.tell_transferor(cx, 487, Some(Cause::Cancelled), true);
        self.bridge = None;
        self.abandon_transfer(cx, outcome.cause);
        if let Some(target) = target {
            self.end_leg(cx, target, Cause::Cancelled, HangupBy::Local);
        }
        if self.legs.get(&transferor).is_some_and(|l| l.is_answered()) {
            self.release_after_notify(cx, transferor, notified);
        }
        true
    }

    /// Forgets the transfer; its target's leg is ended by the caller of this.
    pub(super) fn abandon_transfer(&mut self, cx: &mut Context, cause: Cause) {
        let Some(transfer) = self.transfer.take() else {
            return;
        };
        if let Some(record) = transfer
            .target
            .and_then(|n| self.legs.get_mut(&n))
            .and_then(|l| l.transfer.as_mut())
        {
            record.result = "cancelled";
        }
        self.transfer_ended(cx, &transfer.trunk, transfer.id, "cancelled", cause);
    }
}

fn digest_outcome(verdict: &policy::ReferVerdict) -> Option<&'static str> {
    let step = verdict
        .steps
        .iter()
        .find(|step| step.step == policy::ReferStep::Authenticated)?;
    (step.passed && step.detail.contains("credentials")).then_some("accepted")
}

/// What the target is offered: what the caller uses first, so that no re-INVITE is needed, then whatever else it can do.
fn offer_for(transferee: &super::leg::Leg, trunk: &Trunk) -> Vec<Codec> {
    let in_use = transferee.media.local.iter().flat_map(|l| &l.codecs);
    let mut codecs: Vec<Codec> = Vec::new();
    for codec in in_use.chain(&transferee.media.capabilities) {
        let known = codecs
            .iter()
            .any(|c| sdp::same_codec(c, codec) || c.payload_type == codec.payload_type);
        if !known {
            codecs.push(codec.clone());
        }
    }
    let ours = sdp::offer_codecs(&codecs, &transferee.trunk.codecs);
    sdp::offer_codecs(&ours, &trunk.codecs)
}

/// Whether speech passes both ways between two legs as they are described now.
fn understand_each_other(a: &super::leg::Leg, b: &super::leg::Leg) -> bool {
    let speech = |from: &super::leg::Leg, to: &super::leg::Leg| {
        let (Some(local), Some(remote)) = (&from.media.local, &to.media.remote) else {
            return false;
        };
        local
            .codecs
            .iter()
            .any(|c| c.is_speech() && remote.codecs.iter().any(|r| sdp::same_codec(c, r)))
    };
    speech(a, b) && speech(b, a)
}

/// What the caller is re-offered: the target's codecs under the caller's own numbers.
fn reoffer_for(caller: &super::leg::Leg, target: &super::leg::Leg) -> Vec<Codec> {
    let chosen = target.media.remote.iter().flat_map(|r| &r.codecs);
    chosen
        .filter_map(|codec| {
            caller
                .media
                .capabilities
                .iter()
                .find(|known| sdp::same_codec(known, codec))
                .cloned()
        })
        .collect()
}

/// `result` of a CDR line and of the transfer counter.
fn result_of(cause: Cause) -> &'static str {
    match cause {
        Cause::Completed => "completed",
        Cause::Busy => "busy",
        Cause::NoAnswer => "no-answer",
        Cause::SipAuthTimeout | Cause::SignallingTimeout => "timeout",
        Cause::Cancelled => "cancelled",
        _ => "failed",
    }
}

/// The status of the final NOTIFY. The target's own is passed on, but a challenge to us is nobody else's to answer.
fn notify_code(outcome: &Outcome) -> u16 {
    match outcome.code {
        Some(401 | 407) => 403,
        Some(code) if (300..400).contains(&code) => 480,
        Some(code) if code >= 400 => code,
        _ => match outcome.cause {
            Cause::SipAuthFailed => 403,
            Cause::NoAnswer | Cause::SipAuthTimeout | Cause::SignallingTimeout => 408,
            Cause::Cancelled => 487,
            Cause::NoCommonCodec | Cause::NetworkMismatch | Cause::CallerRefused => 488,
            Cause::Rejected => 480,
            _ => 503,
        },
    }
}

/// Referred-By of the new INVITE (RFC 3892): the transferor's own, else one made from who it is.
fn referred_by(request: &Message, contact: &str) -> String {
    if let Some(value) = request.header(HeaderName::ReferredBy)
        && NameAddr::parse(value).is_ok()
    {
        return value.to_owned();
    }
    let user = match NameAddr::parse(request.from_header()).map(|from| from.uri) {
        Ok(Uri::Sip(uri)) => uri.user,
        Ok(Uri::Tel(tel)) => Some(tel.number),
        _ => None,
    };
    // Its host would show the platform's topology to the target.
    let host = match NameAddr::parse(contact).map(|own| own.uri) {
        Ok(Uri::Sip(uri)) => uri.host,
        _ => host_of("invalid"),
    };
    let uri = sip_uri(false, user.as_deref(), host);
    format!("<{uri}>")
}
