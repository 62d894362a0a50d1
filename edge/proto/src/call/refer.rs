//! Transfers: the verdict on a REFER, the new leg's attempts, and how they end.
//!
//! ```text
//!  REFER ─► check_refer ─► 202, NOTIFY 100 ─► attempt ─► answered ─► (re-INVITE caller) ─► bridged ─► NOTIFY 200 ─► BYE AI
//!                                               ▲    └─ failed ─┐
//!                                               └── fallback ───┴─► NOTIFY 4xx, the caller stays with the AI
//! ```

use super::Call;
use super::invite::{InviteTemplate, host_of, sip_uri};
use super::leg::{Leg, LegState};
use super::notify::Notice;
use super::outcome::Outcome;
use super::policy::{self, AuthOutcome, Families, HeaderSources, ReferFacts, Target};
use super::release::reason;
use super::reoffer::offer_for;
use super::target::result_of;
use crate::b2bua::{Context, TimerKind};
use crate::config::{Config, PresentedCredentials, TransferPolicy, Trunk};
use crate::event::{Cause, Direction, EventKind, HangupBy, LegNumber, ReferRecord, TransferRecord};
use crate::sdp;
use crate::sip::auth::DigestFailure;
use crate::sip::transaction::ServerKey;
use crate::sip::{HeaderName, Message, NameAddr, Uri};
use crate::time::Instant;
use std::collections::VecDeque;
use std::sync::Arc;

/// Seconds that the subscription outlives all attempts (resolving, connecting, challenges).
const SUBSCRIPTION_SLACK_S: u64 = 60;

/// The longest Refer-To that is reported.
const MAX_SHOWN: usize = 512;

/// What is known of the sender of a REFER before it is judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// It is in the leg's dialog.
    pub known: bool,
    /// It came from a source that the leg's trunk lists.
    pub listed: bool,
}

/// What a REFER asks for, as it is reported.
pub(crate) fn target_shown(refer_to: &[&str]) -> String {
    let mut shown = refer_to.join(", ");
    if shown.len() > MAX_SHOWN {
        let end = shown.floor_char_boundary(MAX_SHOWN);
        shown.truncate(end);
        shown.push_str("...");
    }
    shown
}

/// A transfer between its 202 and its outcome.
pub(crate) struct Transfer {
    pub(super) id: u32,
    pub(super) transferor: LegNumber,
    pub(super) transferee: LegNumber,
    /// The transferor's trunk, whose policy applies.
    pub(super) trunk: Arc<Trunk>,
    pub(super) policy: TransferPolicy,
    pub(super) target: Option<LegNumber>,
    pub(super) attempt: u32,
    pub(super) fallbacks: VecDeque<String>,
    /// Headers of the REFER, names as received.
    pub(super) headers: Vec<(String, String)>,
    pub(super) referred_by: String,
    pub(super) accepted_at: Instant,
    /// `Event` of the NOTIFYs; `None`: the transferor wants none (RFC 4488).
    pub(super) event: Option<String>,
    pub(super) expires_s: u64,
    /// The target answered and the caller is re-INVITEd.
    pub(super) reoffering: bool,
}

impl Transfer {
    /// What is shown to `target` when it challenges: its own credentials, and for `via` those of the transferor where it has
    /// none. No other trunk ever sees these.
    fn present_to(&self, target: &Trunk) -> Option<PresentedCredentials> {
        let via = self.policy.via.as_deref() == Some(&*target.name);
        let own = target.present.clone();
        own.or_else(|| self.trunk.present.clone().filter(|_| via))
    }

    /// The address families in which `target` may be called while `transferee` stays; fallbacks are held to them, too.
    fn families(
        &self,
        config: &Config,
        transferee: &Leg,
        target: &Trunk,
    ) -> Result<Families, (u16, Cause)> {
        let lease = transferee.media.lease.ok_or((481, Cause::Cancelled))?;
        let stays = policy::Transferee::live(lease.bind.ip(), &transferee.trunk);
        policy::family_check(config, &self.trunk, stays, target)
            .map_err(|_| (403, Cause::NetworkMismatch))
    }
}

impl Call {
    /// A REFER within the dialog of `leg`.
    pub(super) fn on_refer(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        key: ServerKey,
        request: &Message,
        standing: Standing,
    ) {
        let config = cx.config.clone();
        let Some(l) = self.legs.get(leg) else {
            return cx.reply(key, request, 481);
        };
        // The trunk's policy as it is now: a reload applies to the next REFER, not to the next call.
        let trunk = config
            .trunk_named(&l.trunk.name)
            .unwrap_or(&l.trunk)
            .clone();
        let refer_to: Vec<&str> = request.headers(HeaderName::ReferTo).collect();
        let transferee = self.other(leg);
        let stays = transferee.and_then(|n| self.legs.get(n));
        let pending = self.transfer_pending();
        let facts = ReferFacts {
            transferor: standing.known.then_some(&*trunk),
            source_allowed: standing.listed,
            answered: l.is_answered() && (pending || stays.is_some_and(|s| s.is_answered())),
            transfer_pending: pending,
            transfers_done: self.transfers_bridged,
            refers_tried: self.refers_tried,
            refer_to: &refer_to,
            transferee: match stays.and_then(|s| s.media.lease.as_ref().map(|lease| (s, lease))) {
                Some((other, lease)) => policy::Transferee::live(lease.bind.ip(), &other.trunk),
                None => policy::Transferee::possible(&config, &l.trunk),
            },
        };
        let mut shown = None;
        let verdict = policy::check_refer(&config, &facts, &mut || {
            let result = cx.verify_digest(request, &trunk);
            shown = Some(result);
            match result {
                Ok(()) => AuthOutcome::Accepted,
                Err(DigestFailure::Missing) => AuthOutcome::Missing,
                Err(failure) => AuthOutcome::Refused(failure.outcome()),
            }
        });
        if let Some(result) = shown {
            cx.digest_verdict(Some((self.id.clone(), leg)), &trunk, result);
        }
        let stale = shown.is_some_and(|result| result.is_err_and(DigestFailure::is_stale));
        let authenticated =
            |s: &policy::StepResult| s.passed && s.step == policy::ReferStep::Authenticated;
        self.refers_tried += u32::from(verdict.steps.iter().any(authenticated));
        let shown = target_shown(&refer_to);
        match (verdict.result, transferee) {
            (Ok(target), Some(transferee)) => {
                self.judged(cx, leg, shown, 202, None, target.text.clone());
                self.accept_refer(cx, leg, transferee, trunk, key, request, target);
            }
            (Ok(_), None) => cx.reply(key, request, 481),
            (Err(refusal), _) => {
                let (status, cause) = (refusal.status, refusal.cause);
                self.judged(cx, leg, shown, status, Some(cause), refusal.detail);
                if status == 401 {
                    return cx.challenge(key, request, &trunk, stale);
                }
                self.deny_refer(cx, leg, &trunk, key, request, (status, cause));
            }
        }
    }

    /// A refusal that no credentials would change.
    fn deny_refer(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        trunk: &Trunk,
        key: ServerKey,
        request: &Message,
        (status, cause): (u16, Cause),
    ) {
        let response = cx
            .response(request, status, None)
            .header(HeaderName::Reason, reason(status, cause));
        cx.respond(key, status, response);
        self.transfer_ended(cx, leg, trunk, 0, "denied", cause);
    }

    /// Whether a transfer is under way, or its outcome not confirmed yet.
    fn transfer_pending(&self) -> bool {
        self.transfer.is_some() || self.legs.iter().any(|l| l.releasing.is_some())
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
        if let Some(l) = self.legs.get_mut(leg)
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
        let attempts = 1 + policy.fallback.len() as u64;
        let expires_s = SUBSCRIPTION_SLACK_S
            + attempts * (policy.ring_timeout.as_secs() + policy.auth_timeout.as_secs() + 5);
        let Some(l) = self.legs.get_mut(transferor) else {
            return;
        };
        l.referred = Some(request.cseq().number);
        let event = (!quiet).then(|| l.notifier.subscribe(request.cseq().number));
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
    pub(super) fn tell_transferor(
        &mut self,
        cx: &mut Context,
        code: u16,
        cause: Option<Cause>,
        last: bool,
    ) {
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
    pub(super) fn attempt(&mut self, cx: &mut Context, target: Target) {
        let Some(transfer) = self.transfer.as_mut() else {
            return;
        };
        transfer.attempt += 1;
        let (id, attempt) = (transfer.id, transfer.attempt);
        let transferor = transfer.transferor;
        let via: Arc<str> = target.trunk.name.clone();
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
        let before = self.last_leg;
        match self.call_target(cx, &target) {
            Ok(leg) => {
                let Some(transfer) = self.transfer.as_mut() else {
                    return;
                };
                transfer.target = Some(leg);
                let ring = transfer.policy.ring_timeout;
                if let Some(l) = self.legs.get_mut(leg) {
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
                let record = TransferRecord {
                    id,
                    attempt,
                    target: target.text,
                    via,
                    result: result_of(cause),
                };
                self.record_uncalled(cx, before, &target.trunk, target.user, cause, record);
                self.attempt_failed(cx, &outcome);
            }
        }
    }

    /// Every attempt has its CDR line, also one that never sent an INVITE. `before` is the last leg before the attempt: a
    /// later one is the attempt's own.
    fn record_uncalled(
        &mut self,
        cx: &mut Context,
        before: LegNumber,
        trunk: &Arc<Trunk>,
        number: String,
        cause: Cause,
        record: TransferRecord,
    ) {
        let now = cx.now;
        let own = (self.last_leg > before).then_some(self.last_leg);
        let leg = own.or_else(|| {
            let leg = self.add_leg(|n| {
                let mut leg = Leg::new(n, Direction::Outbound, trunk.clone(), LegState::Over, now);
                leg.to = number.as_str().into();
                leg.end = Some(now);
                leg.cause = Some(cause);
                leg
            })?;
            let kind = EventKind::LegStarted {
                trunk: record.via.clone(),
                direction: Direction::Outbound,
                sip_call_id: String::new(),
                from: String::new(),
                to: number,
            };
            self.event(cx, leg, kind);
            Some(leg)
        });
        if let Some(l) = leg.and_then(|leg| self.legs.get_mut(leg)) {
            l.transfer = Some(record);
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
            .get(transfer.transferee)
            .ok_or((481, Cause::Cancelled))?;
        let families = transfer.families(&cx.config, transferee, &target.trunk)?;
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
            number: target.user.as_str().into(),
            caller: transferee.identity.clone(),
            headers,
            codecs,
            max_forwards: 70,
            present: transfer.present_to(&target.trunk),
            auth_timeout: Some(transfer.policy.auth_timeout),
            families,
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

    pub(super) fn is_target(&self, leg: LegNumber) -> bool {
        self.transfer
            .as_ref()
            .is_some_and(|transfer| transfer.target == Some(leg))
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
        Ok(Uri::Tel(tel)) => Some(tel.number.into()),
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
