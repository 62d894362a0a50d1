//! The transfer target's leg: progress, answer, bridging, failure and fallback.

use super::Call;
use super::leg::LegState;
use super::outcome::Outcome;
use super::policy;
use crate::b2bua::{Context, TimerKind};
use crate::config::{OnFailure, Trunk};
use crate::event::{Cause, EventKind, HangupBy, LegNumber};

impl Call {
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
        let Some(transferee) = self.transfer.as_ref().map(|t| t.transferee) else {
            return;
        };
        if self.understand_each_other(transferee, leg) {
            self.bridge_target(cx);
        } else {
            self.reoffer_for_target(cx, transferee, leg);
        }
    }

    /// The target answered but cannot be connected: it is released, and the caller stays where it was.
    pub(super) fn drop_answered_target(&mut self, cx: &mut Context, code: Option<u16>) {
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
    pub(super) fn bridge_target(&mut self, cx: &mut Context) {
        let Some(transfer) = self.transfer.as_ref() else {
            return;
        };
        let Some(target) = transfer.target else {
            return;
        };
        let (id, trunk, transferor) = (transfer.id, transfer.trunk.clone(), transfer.transferor);
        let elapsed = cx.now.saturating_since(transfer.accepted_at);
        self.bridge = Some((transfer.transferee, target));
        self.rebridge(cx);
        self.transfers_bridged += 1;
        if let Some(record) = self.legs.get_mut(target).and_then(|l| l.transfer.as_mut()) {
            record.result = "completed";
        }
        self.event(
            cx,
            target,
            EventKind::TransferBridged {
                trunk: trunk.name.clone(),
                id,
                elapsed,
            },
        );
        self.transfer_ended(cx, transferor, &trunk, id, "completed", Cause::Completed);
        if self.legs.get(transferor).is_some_and(|l| l.is_answered()) {
            self.tell_transferor(cx, 200, None, true);
            self.release_leg(cx, transferor, Cause::Completed, HangupBy::Edge);
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
            let transferee = transfer.transferee;
            self.withdraw_reoffer(cx, transferee);
        }
        self.attempt_failed(cx, outcome);
    }

    fn set_result(&mut self, leg: LegNumber, outcome: &Outcome) {
        if let Some(record) = self.legs.get_mut(leg).and_then(|l| l.transfer.as_mut()) {
            record.result = result_of(outcome.cause);
        }
    }

    /// One attempt failed: the next fallback, or the end of the transfer.
    pub(super) fn attempt_failed(&mut self, cx: &mut Context, outcome: &Outcome) {
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
        self.tell_transferor(cx, outcome.notify_code(), Some(outcome.cause), true);
        let Some(transfer) = self.transfer.take() else {
            return;
        };
        self.transfer_ended(
            cx,
            transfer.transferor,
            &transfer.trunk,
            transfer.id,
            result_of(outcome.cause),
            outcome.cause,
        );
        let stays = self
            .legs
            .get(transfer.transferor)
            .is_some_and(|l| l.state == LegState::Confirmed);
        if stays && transfer.policy.on_failure == OnFailure::Return {
            return;
        }
        self.cause = outcome.cause;
        self.bridge = None;
        self.end_leg(cx, transfer.transferee, outcome.cause, HangupBy::Edge);
        if stays {
            self.release_leg(cx, transfer.transferor, Cause::Completed, HangupBy::Edge);
        }
    }

    pub(super) fn transfer_ended(
        &self,
        cx: &mut Context,
        transferor: LegNumber,
        trunk: &Trunk,
        id: u32,
        result: &'static str,
        cause: Cause,
    ) {
        self.event(
            cx,
            transferor,
            EventKind::TransferEnded {
                trunk: trunk.name.clone(),
                id,
                result,
                cause,
            },
        );
    }

    /// Who asked for the transfer that runs.
    pub(super) fn transferor(&self) -> Option<LegNumber> {
        self.transfer.as_ref().map(|transfer| transfer.transferor)
    }

    /// A peer left while a transfer runs. `true`: the transfer has dealt with it.
    pub(super) fn transfer_leg_left(&mut self, cx: &mut Context, leg: LegNumber) -> bool {
        let released = self.legs.get_mut(leg).and_then(|l| l.releasing.take());
        if released.is_some() {
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
        let outcome = Outcome::new(
            None,
            Cause::Cancelled,
            HangupBy::Local,
            "the caller hung up",
        );
        self.give_up_transfer(cx, &outcome);
        true
    }

    /// Nobody is left to be transferred: the target is not wanted any more, and the transferor is told and released.
    pub(super) fn give_up_transfer(&mut self, cx: &mut Context, outcome: &Outcome) {
        let Some(transfer) = self.transfer.as_ref() else {
            return;
        };
        let (transferor, target) = (transfer.transferor, transfer.target);
        self.tell_transferor(cx, outcome.notify_code(), Some(outcome.cause), true);
        self.bridge = None;
        self.abandon_transfer(cx, outcome.cause);
        if let Some(target) = target {
            self.end_leg(cx, target, outcome.cause, outcome.by);
        }
        if self.legs.get(transferor).is_some_and(|l| l.is_answered()) {
            let cause = match outcome.cause {
                Cause::Cancelled => Cause::Completed,
                cause => cause,
            };
            self.release_leg(cx, transferor, cause, HangupBy::Edge);
        }
    }

    /// Forgets the transfer; its target's leg is ended by the caller of this.
    pub(super) fn abandon_transfer(&mut self, cx: &mut Context, cause: Cause) {
        let Some(transfer) = self.transfer.take() else {
            return;
        };
        self.withdraw_reoffer(cx, transfer.transferee);
        if let Some(record) = transfer
            .target
            .and_then(|n| self.legs.get_mut(n))
            .and_then(|l| l.transfer.as_mut())
        {
            record.result = "cancelled";
        }
        self.transfer_ended(
            cx,
            transfer.transferor,
            &transfer.trunk,
            transfer.id,
            "cancelled",
            cause,
        );
    }
}

/// `result` of a CDR line and of the transfer counter.
pub(super) fn result_of(cause: Cause) -> &'static str {
    match cause {
        Cause::Completed => "completed",
        Cause::Busy => "busy",
        Cause::NoAnswer => "no-answer",
        Cause::SipAuthTimeout | Cause::SignallingTimeout => "timeout",
        Cause::Cancelled => "cancelled",
        _ => "failed",
    }
}
