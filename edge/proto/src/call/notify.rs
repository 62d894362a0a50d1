//! The notifier of a REFER's implicit subscription (RFC 3515 §2.4, RFC 6665): one NOTIFY at a time, in order, and exactly one
//! final status.

use super::Call;
use super::leg::LegState;
use crate::b2bua::{ClientPurpose, Context, TimerKind};
use crate::event::{Cause, HangupBy, LegNumber};
use crate::sip::status::reason_phrase;
use crate::sip::transaction::ClientKey;
use crate::sip::{HeaderName, Method, sipfrag};
use crate::time::Instant;
use std::collections::VecDeque;

/// NOTIFYs that wait while one is unanswered. Provisional ones beyond it are left out; a final one never is.
const MAX_QUEUED: usize = 8;
/// In multiples of T1: how long the final NOTIFY's answer is waited for before the transferor is released.
const FINAL_WAIT_T1: u32 = 8;

/// One NOTIFY to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Notice {
    /// `refer`, or `refer;id=CSeq` from a dialog's second REFER on (RFC 3515 §2.4.6).
    pub event: String,
    /// The status of the new leg, as a sipfrag.
    pub code: u16,
    pub reason: Option<String>,
    /// Seconds left of the subscription; `None`: this is the final one.
    pub expires_s: Option<u64>,
}

/// The NOTIFYs of one leg, about all of its REFERs.
#[derive(Default, Debug)]
pub(crate) struct Notifier {
    queue: VecDeque<Notice>,
    in_flight: Option<InFlight>,
    /// `Event` of subscriptions that the peer has refused a NOTIFY of; no more than REFERs were accepted.
    dead: Vec<String>,
    subscriptions: u32,
}

/// A NOTIFY without an answer.
#[derive(Debug)]
struct InFlight {
    client: ClientKey,
    notice: Notice,
    sent_at: Instant,
    /// It was sent before, over a connection that was lost.
    again: bool,
}

impl Notice {
    fn is_final(&self) -> bool {
        self.expires_s.is_none()
    }
}

/// Whether this answer to a NOTIFY says that there is no subscription (RFC 6665 §4.2.2).
const fn ends_subscription(code: u16) -> bool {
    matches!(code, 404 | 405 | 410 | 416 | 480..=485 | 489 | 501 | 604)
}

impl Notifier {
    /// A REFER with this CSeq was accepted: it makes a subscription of its own. Returns its `Event`, which from the dialog's
    /// second on has the CSeq as its id (RFC 3515 §2.4.6).
    pub fn subscribe(&mut self, cseq: u32) -> String {
        self.subscriptions += 1;
        match self.subscriptions {
            1 => "refer".to_owned(),
            _ => format!("refer;id={cseq}"),
        }
    }

    /// Whether the peer has still to be told, or to confirm, an outcome.
    fn owes_outcome(&self) -> bool {
        let sent = self.in_flight.as_ref().map(|sent| &sent.notice);
        sent.into_iter().chain(&self.queue).any(Notice::is_final)
    }

    fn is_dead(&self, event: &str) -> bool {
        self.dead.iter().any(|dead| dead == event)
    }

    /// Leaves out what the outcome has overtaken, except for a first NOTIFY (RFC 3515 §2.4.4).
    fn drop_progress(&mut self) {
        self.queue
            .retain(|notice| notice.code == 100 || notice.is_final());
    }
}

impl Call {
    /// Queues a NOTIFY for the transferor and sends it if none is unanswered.
    pub(super) fn notify(&mut self, cx: &mut Context, leg: LegNumber, notice: Notice) {
        let key = self.key;
        let Some(l) = self.legs.get_mut(leg) else {
            return self.final_notify_done(cx, leg);
        };
        if notice.is_final() {
            l.notifier.drop_progress();
            let at = cx.now + cx.config.sip.t1 * FINAL_WAIT_T1;
            cx.set_timer(key, leg, TimerKind::FinalNotify, at);
        } else if l.notifier.queue.len() >= MAX_QUEUED || l.notifier.queue.back() == Some(&notice) {
            return;
        }
        l.notifier.queue.push_back(notice);
        self.pump_notifier(cx, leg);
    }

    /// Sends the next NOTIFY, if none is unanswered.
    fn pump_notifier(&mut self, cx: &mut Context, leg: LegNumber) {
        while let Some(l) = self.legs.get_mut(leg) {
            if l.state != LegState::Confirmed {
                let owed = l.notifier.owes_outcome();
                l.notifier.queue.clear();
                if owed {
                    self.final_notify_done(cx, leg);
                }
                return;
            }
            if l.notifier.in_flight.is_some() {
                return;
            }
            let Some(notice) = l.notifier.queue.pop_front() else {
                return;
            };
            let last = notice.is_final();
            let dead = l.notifier.is_dead(&notice.event);
            if (dead || !self.send_notice(cx, leg, notice, false)) && last {
                self.outcome_settled(cx, leg);
            }
        }
    }

    /// Sends one NOTIFY. `again`: it was sent before. `false`: the transferor cannot be reached.
    fn send_notice(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        notice: Notice,
        again: bool,
    ) -> bool {
        let state = match notice.expires_s {
            Some(seconds) => format!("active;expires={seconds}"),
            None => "terminated;reason=noresource".to_owned(),
        };
        let fragment = sipfrag::emit(notice.code, "");
        let (purpose, method) = (ClientPurpose::Notify, Method::Notify);
        let sent = self.send_in_dialog(cx, leg, purpose, method, |request| {
            request
                .header(HeaderName::Event, &notice.event)
                .header(HeaderName::SubscriptionState, &state)
                .maybe(HeaderName::Reason, notice.reason.as_deref())
                .body(sipfrag::CONTENT_TYPE, &fragment)
        });
        let detail = format!("{} {} ({state})", notice.code, reason_phrase(notice.code));
        let why = match sent {
            Some(_) => notice.reason.clone(),
            None => Some("the transferor cannot be reached".to_owned()),
        };
        self.note(cx, leg, "notify", detail, why);
        let Some(l) = self.legs.get_mut(leg) else {
            return false;
        };
        let Some(client) = sent else {
            l.notifier.dead.push(notice.event);
            return false;
        };
        if notice.is_final() {
            // It has its time from when it leaves, not from when it began to wait for an earlier one's answer.
            let at = cx.now + cx.config.sip.t1 * FINAL_WAIT_T1;
            cx.set_timer(self.key, leg, TimerKind::FinalNotify, at);
        }
        l.notifier.in_flight = Some(InFlight {
            client,
            notice,
            sent_at: cx.now,
            again,
        });
        true
    }

    /// A NOTIFY was answered.
    pub fn on_notify_response(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        key: ClientKey,
        code: u16,
    ) {
        let Some(sent) = self.take_in_flight(leg, key) else {
            return;
        };
        if ends_subscription(code) {
            let what = format!("the transferor answered {code}; it is told nothing more");
            self.stop_notifying(cx, leg, &sent.notice, what);
        }
        self.on_told(cx, leg, &sent.notice);
    }

    /// A NOTIFY had no answer. If its connection was lost it is sent once more, over another.
    pub fn on_notify_failure(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        key: ClientKey,
        transport: bool,
    ) {
        let Some(sent) = self.take_in_flight(leg, key) else {
            return;
        };
        let speaks = self
            .legs
            .get(leg)
            .is_some_and(|l| l.state == LegState::Confirmed);
        let notice = sent.notice.clone();
        if transport && speaks && !sent.again && self.send_notice(cx, leg, sent.notice, true) {
            return;
        }
        let what = "the transferor does not answer; it is told nothing more".to_owned();
        self.stop_notifying(cx, leg, &notice, what);
        self.on_told(cx, leg, &notice);
    }

    fn take_in_flight(&mut self, leg: LegNumber, key: ClientKey) -> Option<InFlight> {
        let notifier = &mut self.legs.get_mut(leg)?.notifier;
        notifier.in_flight.take_if(|sent| sent.client == key)
    }

    /// A subscription is gone; the transfer goes on without it.
    fn stop_notifying(&mut self, cx: &mut Context, leg: LegNumber, told: &Notice, what: String) {
        if let Some(l) = self.legs.get_mut(leg) {
            l.notifier.dead.push(told.event.clone());
        }
        self.note(cx, leg, "notify", what, None);
    }

    fn on_told(&mut self, cx: &mut Context, leg: LegNumber, notice: &Notice) {
        self.pump_notifier(cx, leg);
        if notice.is_final() {
            self.outcome_settled(cx, leg);
        }
    }

    /// The transferor was given its time. A final NOTIFY that still waits behind an unanswered one is sent now: who answers
    /// nothing may listen all the same. Not so where that one has not had its own time, as behind an earlier transfer's last.
    pub(super) fn on_final_notify_timeout(&mut self, cx: &mut Context, leg: LegNumber) {
        if let Some(l) = self.legs.get_mut(leg) {
            let sent_at = l.notifier.in_flight.as_ref().map(|sent| sent.sent_at);
            let due = sent_at.map(|at| at + cx.config.sip.t1 * FINAL_WAIT_T1);
            if let Some(due) = due.filter(|due| *due > cx.now) {
                return cx.set_timer(self.key, leg, TimerKind::FinalNotify, due);
            }
            l.notifier.in_flight = None;
            l.notifier.drop_progress();
            if l.notifier.owes_outcome() {
                let at = cx.now + cx.config.sip.t1 * FINAL_WAIT_T1;
                cx.set_timer(self.key, leg, TimerKind::FinalNotify, at);
                return self.pump_notifier(cx, leg);
            }
        }
        self.final_notify_done(cx, leg);
    }

    /// One outcome was confirmed, or cannot be told. Another may still be due.
    fn outcome_settled(&mut self, cx: &mut Context, leg: LegNumber) {
        let owes = self
            .legs
            .get(leg)
            .is_some_and(|l| l.notifier.owes_outcome());
        if !owes {
            self.final_notify_done(cx, leg);
        }
    }

    /// Ends a leg; where its peer has not confirmed yet how its transfer ended, after it has. Some peers answer 481 to a NOTIFY
    /// that meets its dialog's BYE.
    pub(super) fn release_leg(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        cause: Cause,
        by: HangupBy,
    ) {
        let waits = self
            .legs
            .get_mut(leg)
            .filter(|l| l.state == LegState::Confirmed && l.notifier.owes_outcome());
        match waits {
            Some(l) => {
                l.releasing.get_or_insert((cause, by));
            }
            None => self.end_leg(cx, leg, cause, by),
        }
    }

    /// The transferor knows every outcome, or cannot be told: it is released if that was waited for.
    fn final_notify_done(&mut self, cx: &mut Context, leg: LegNumber) {
        cx.cancel_timer(self.key, leg, TimerKind::FinalNotify);
        let released = self.legs.get_mut(leg).and_then(|l| l.releasing.take());
        if let Some((cause, by)) = released {
            self.end_leg(cx, leg, cause, by);
        }
    }
}
