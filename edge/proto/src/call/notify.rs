//! The notifier of a REFER's implicit subscription (RFC 3515 §2.4, RFC 6665): one NOTIFY at a time, in order, and exactly one
//! final status.

use super::Call;
use super::leg::LegState;
use crate::b2bua::{ClientPurpose, ClientUse, Context, TimerKind};
use crate::event::{Cause, HangupBy, LegNumber};
use crate::sip::status::reason_phrase;
use crate::sip::transaction::ClientKey;
use crate::sip::{HeaderName, Method};
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

/// The NOTIFYs of one leg.
#[derive(Default, Debug)]
pub(crate) struct Notifier {
    queue: VecDeque<Notice>,
    in_flight: Option<(ClientKey, bool)>,
    /// The peer has said that it knows no such subscription, or has left.
    dead: bool,
}

impl Call {
    /// Queues a NOTIFY for the transferor and sends it if none is unanswered.
    pub(super) fn notify(&mut self, cx: &mut Context, leg: LegNumber, notice: Notice) {
        let key = self.key;
        let Some(l) = self.legs.get_mut(&leg) else {
            return self.final_notify_done(cx, leg);
        };
        let last = notice.expires_s.is_none();
        if last {
            // What was not told yet is overtaken by the outcome, except for the first NOTIFY (RFC 3515 §2.4.4).
            l.notifier
                .queue
                .retain(|queued| queued.code == 100 || queued.expires_s.is_none());
            let at = cx.now + cx.config.sip.t1 * FINAL_WAIT_T1;
            cx.set_timer(key, leg, TimerKind::FinalNotify, at);
        } else if l.notifier.queue.len() >= MAX_QUEUED || l.notifier.queue.back() == Some(&notice) {
            return;
        }
        l.notifier.queue.push_back(notice);
        self.pump_notifier(cx, leg);
    }

    fn pump_notifier(&mut self, cx: &mut Context, leg: LegNumber) {
        let key = self.key;
        let id = self.id.clone();
        let Some(l) = self.legs.get_mut(&leg) else {
            return;
        };
        if l.notifier.dead || l.state != LegState::Confirmed {
            let had_final = l.notifier.queue.iter().any(|n| n.expires_s.is_none());
            l.notifier.queue.clear();
            if had_final {
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
        let state = match notice.expires_s {
            Some(seconds) => format!("active;expires={seconds}"),
            None => "terminated;reason=noresource".to_owned(),
        };
        let fragment = format!("SIP/2.0 {} {}\r\n", notice.code, reason_phrase(notice.code));
        let sent = l
            .send_in_dialog(cx, &Method::Notify, |request| {
                let request = request
                    .header(HeaderName::Event, &notice.event)
                    .header(HeaderName::SubscriptionState, &state);
                let request = match &notice.reason {
                    Some(reason) => request.header(HeaderName::Reason, reason),
                    None => request,
                };
                request.body("message/sipfrag;version=2.0", fragment.as_bytes())
            })
            .and_then(|(hop, branch, bytes)| {
                let user = ClientUse {
                    call: key,
                    leg,
                    purpose: ClientPurpose::Notify,
                    method: Method::Notify,
                    trunk: l.label.clone(),
                    sent_at: cx.now,
                };
                cx.send_request(hop, &branch, bytes, user, id)
            });
        let last = notice.expires_s.is_none();
        let detail = format!("{} {} ({state})", notice.code, reason_phrase(notice.code));
        match sent {
            Some(client) => {
                l.notifier.in_flight = Some((client, last));
                if last {
                    // It has its time from when it leaves, not from when it began to wait for an earlier one's answer.
                    let at = cx.now + cx.config.sip.t1 * FINAL_WAIT_T1;
                    cx.set_timer(key, leg, TimerKind::FinalNotify, at);
                }
                self.note(cx, leg, "notify", detail, notice.reason);
            }
            None => {
                l.notifier.dead = true;
                self.note(
                    cx,
                    leg,
                    "notify",
                    detail,
                    Some("the transferor cannot be reached".to_owned()),
                );
                if last {
                    self.final_notify_done(cx, leg);
                }
            }
        }
    }

    /// A NOTIFY was answered; `code` 408 also stands for no answer.
    pub fn on_notify_response(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        key: ClientKey,
        code: u16,
    ) {
        if code < 200 {
            return;
        }
        let Some(l) = self.legs.get_mut(&leg) else {
            return;
        };
        let Some((_, last)) = l.notifier.in_flight.take_if(|(sent, _)| *sent == key) else {
            return;
        };
        if code >= 300 {
            // RFC 6665 §4.2.2: the subscription is gone; the transfer goes on without it.
            l.notifier.dead = true;
            self.note(
                cx,
                leg,
                "notify",
                format!("the transferor answered {code}; it is told nothing more"),
                None,
            );
        }
        if last {
            self.final_notify_done(cx, leg);
        }
        self.pump_notifier(cx, leg);
    }

    /// The transferor was given its time. A final NOTIFY that still waits behind an unanswered one is sent now: who answers
    /// nothing may listen all the same.
    pub(super) fn on_final_notify_timeout(&mut self, cx: &mut Context, leg: LegNumber) {
        let waits = self.legs.get_mut(&leg).is_some_and(|l| {
            l.notifier.in_flight = None;
            l.notifier.queue.retain(|notice| notice.expires_s.is_none());
            !l.notifier.queue.is_empty()
        });
        if waits {
            self.pump_notifier(cx, leg);
        } else {
            self.final_notify_done(cx, leg);
        }
    }

    /// The transferor knows the outcome, or cannot be told: it is released if the transfer succeeded.
    fn final_notify_done(&mut self, cx: &mut Context, leg: LegNumber) {
        cx.cancel_timer(self.key, leg, TimerKind::FinalNotify);
        if self
            .releasing
            .take_if(|releasing| *releasing == leg)
            .is_some()
        {
            self.end_leg(cx, leg, Cause::Completed, HangupBy::Edge);
        }
    }
}
