//! Calls, their legs, and transfers.
//!
//! A [`Call`] owns all of its legs. It reacts to what its peers, its media and its timers say, and acts on the world only
//! through [`Context`].

mod admission;
mod answer;
mod invite;
mod leg;
mod legs;
mod media;
mod modify;
mod notify;
mod originate;
mod outcome;
mod outgoing;
pub mod policy;
mod refer;
mod release;
mod reoffer;
mod setup;
mod target;

pub(crate) use admission::Admission;
pub(crate) use refer::target_shown;

use crate::b2bua::{Context, Origin, TimerKind};
use crate::event::{CallId, Cause, EventKind, LegNumber};
use crate::sip::dialog::Dialog;
use crate::sip::transaction::ServerKey;
use crate::sip::{HeaderName, Message, Method};
use crate::trunk::TrunkSet;
use leg::{Leg, LegState};
use legs::Legs;
use refer::{Standing, Transfer};
use setup::Setup;
use std::sync::Arc;

/// Index of a call in its core's table; the generation tells a late message for an earlier user of the slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct CallKey {
    pub index: u32,
    pub generation: u32,
}

/// Legs a call may have had in its life; far above what transfers need.
const MAX_LEGS: LegNumber = 64;

/// One call: the caller's leg, the callee's, and while a transfer runs the target's.
pub(crate) struct Call {
    pub key: CallKey,
    pub id: CallId,
    legs: Legs,
    last_leg: LegNumber,
    /// The legs that hear each other.
    bridge: Option<(LegNumber, LegNumber)>,
    /// While the caller waits for an answer.
    setup: Option<Setup>,
    transfer: Option<Transfer>,
    /// Accepted REFERs, and bridged ones.
    transfers_started: u32,
    transfers_bridged: u32,
    refers_tried: u32,
    /// Why it ended, for the last event.
    cause: Cause,
}

impl Call {
    pub fn new(key: CallKey, cx: &mut Context) -> Self {
        Call {
            key,
            id: Arc::from(cx.random_hex(16)),
            legs: Legs::default(),
            last_leg: 0,
            bridge: None,
            setup: None,
            transfer: None,
            transfers_started: 0,
            transfers_bridged: 0,
            refers_tried: 0,
            cause: Cause::Completed,
        }
    }

    /// The trunk of a leg, for reports.
    pub fn leg_label(&self, leg: LegNumber) -> Option<Arc<str>> {
        self.legs.get(leg).map(|leg| leg.label.clone())
    }

    pub(super) fn event(&self, cx: &mut Context, leg: LegNumber, kind: EventKind) {
        cx.event(Some(self.id.clone()), Some(leg), kind);
    }

    pub(super) fn note(
        &self,
        cx: &mut Context,
        leg: LegNumber,
        kind: &'static str,
        detail: String,
        reason: Option<String>,
    ) {
        self.event(
            cx,
            leg,
            EventKind::Note {
                kind,
                detail,
                reason,
            },
        );
    }

    /// Adds a leg. `None` at the limit.
    pub(super) fn add_leg(&mut self, make: impl FnOnce(LegNumber) -> Leg) -> Option<LegNumber> {
        if self.last_leg >= MAX_LEGS {
            return None;
        }
        self.last_leg += 1;
        self.legs.push(make(self.last_leg));
        Some(self.last_leg)
    }

    /// The leg that `leg` is bridged to.
    pub(super) fn other(&self, leg: LegNumber) -> Option<LegNumber> {
        match self.bridge {
            Some((a, b)) if a == leg => Some(b),
            Some((a, b)) if b == leg => Some(a),
            _ => None,
        }
    }

    /// A request within the dialog of `leg`.
    pub fn on_request(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        origin: &Origin,
        candidates: TrunkSet,
        key: ServerKey,
        request: Message,
    ) {
        let Some(method) = request.method() else {
            return;
        };
        let listed = self.source_allowed(cx, leg, candidates);
        let Some(l) = self.legs.get_mut(leg) else {
            return cx.reply(key, &request, 481);
        };
        let known = l.takes(&request);
        if method == Method::Refer && !(known && listed) {
            return self.on_refer(cx, leg, key, &request, Standing { known, listed });
        }
        if !listed {
            let what = format!("{} from {}", method.as_str(), origin.remote);
            let why = "the source is not listed by the dialog's trunk".to_owned();
            self.note(cx, leg, "refused", what, Some(why));
            return cx.reply(key, &request, 403);
        }
        if !known {
            let code = if l.notes_early_bye(&request) {
                200
            } else {
                481
            };
            return cx.reply(key, &request, code);
        }
        let number = request.cseq().number;
        // A new request has a new number (RFC 3261 §12.2.1.1). One that comes again in another transaction, or over TCP when its own
        // is over, may be answered again as long as that does nothing again; a second transfer is not nothing.
        let transfers_again = method == Method::Refer && l.referred == Some(number);
        let in_order = |dialog: &mut Dialog| dialog.accept(number).is_ok();
        if transfers_again || !l.dialog.as_mut().is_none_or(in_order) {
            // RFC 3261 §12.2.2.
            return cx.reply(key, &request, 500);
        }
        l.hop = Some(origin.hop);
        l.transport = Some(origin.transport);
        l.peer = Some(origin.remote);
        match method {
            Method::Bye => self.on_bye(cx, leg, key, &request),
            Method::Invite => self.on_reinvite(cx, leg, key, request),
            Method::Update => self.on_update(cx, leg, key, &request),
            Method::Refer => self.on_refer(cx, leg, key, &request, Standing { known, listed }),
            Method::Options => {
                let response = cx
                    .response(&request, 200, None)
                    .header(HeaderName::Allow, crate::b2bua::ALLOW);
                cx.respond(key, 200, response);
            }
            Method::Notify => cx.reply(key, &request, 481),
            _ => {
                let response = cx
                    .response(&request, 405, None)
                    .header(HeaderName::Allow, crate::b2bua::ALLOW);
                cx.respond(key, 405, response);
            }
        }
    }

    /// Whether a message from a source with these trunks may speak in the dialog of `leg`.
    pub(crate) fn source_allowed(
        &self,
        cx: &Context,
        leg: LegNumber,
        candidates: TrunkSet,
    ) -> bool {
        self.legs
            .get(leg)
            .and_then(|leg| cx.config.trunk_named(&leg.trunk.name))
            .is_some_and(|trunk| candidates.contains(trunk.id))
    }

    /// One of the leg's deadlines has come.
    pub fn on_timer(&mut self, cx: &mut Context, leg: LegNumber, kind: TimerKind) {
        match kind {
            TimerKind::Ring => self.on_ring_timeout(cx, leg),
            TimerKind::Auth => self.on_auth_timeout(cx, leg),
            TimerKind::FinalNotify => self.on_final_notify_timeout(cx, leg),
            TimerKind::LegEnd => self.leg_over(cx, leg),
            TimerKind::MediaClosed => self.media_closed(cx, leg),
            TimerKind::Reinvite => self.retry_reinvite(cx, leg),
            TimerKind::Fork => self.fork_is_silent(cx, leg),
        }
    }

    /// Writes the CDR lines that are due and forgets legs with nothing left to do.
    pub fn advance(&mut self, cx: &mut Context) {
        for leg in self.legs.iter_mut() {
            // A cancelled INVITE's final status is part of the record.
            let ended = leg.end.is_some() && leg.state != LegState::Cancelling;
            if ended && leg.media.lease.is_none() && !leg.recorded {
                leg.recorded = true;
                leg.uncount();
                let record = leg.record(self.id.clone(), cx.now);
                cx.event(
                    Some(self.id.clone()),
                    Some(leg.number),
                    EventKind::LegEnded(Box::new(record)),
                );
            }
        }
        let is_done = |leg: &mut Leg| leg.recorded && leg.state == LegState::Over;
        for leg in self.legs.extract(is_done) {
            cx.dialog_over(&leg.local_tag);
            cx.forget_timers(self.key, leg.number);
        }
    }

    /// Whether nothing of it is left.
    pub fn is_over(&self) -> bool {
        self.legs.is_empty()
    }

    /// The last word about it.
    pub fn retire(&mut self, cx: &mut Context) {
        cx.event(
            Some(self.id.clone()),
            None,
            EventKind::CallEnded { cause: self.cause },
        );
    }
}
