//! Originating a leg: locating its trunk, sending the INVITE, answering challenges, trying the next address.

use super::Call;
use super::invite::InviteTemplate;
use super::leg::{Leg, LegState};
use super::outcome::Outcome;
use super::setup::CallerIdentity;
use crate::b2bua::{Candidate, ClientPurpose, ClientUse, Context, Family, TimerKind, may_signal};
use crate::config::{Trunk, TrunkUri};
use crate::event::{Cause, Direction, EventKind, HangupBy, LegNumber};
use crate::sdp::{self, LocalDescription};
use crate::sip::transaction::ClientKey;
use crate::sip::{HeaderName, Method, NameAddr};
use crate::time::Duration;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

/// RFC 3261 §16.6: more than three minutes of ringing is nobody's call.
pub(super) const TIMER_C: Duration = Duration::from_secs(181);
/// An outgoing INVITE's state, until the leg is answered.
pub(crate) struct Origination {
    pub template: InviteTemplate,
    uris: VecDeque<TrunkUri>,
    candidates: VecDeque<Candidate>,
    /// Addresses that resolved but cannot be used for their family.
    wrong_family: bool,
    pub client: Option<ClientKey>,
    /// The INVITE went over a connection that was open, and nothing came back yet: the peer may be about to close it.
    pub reused: bool,
    /// That happened, and the INVITE was sent again.
    pub repeated: bool,
    pub cseq: u32,
    pub authorization: Option<(HeaderName, String)>,
    pub challenges: u8,
    /// As the INVITE says, but for the tag.
    pub from: Option<NameAddr>,
    pub to: String,
    pub last: Outcome,
}

impl Origination {
    fn new(cx: &mut Context, template: InviteTemplate, uris: VecDeque<TrunkUri>) -> Self {
        Origination {
            template,
            uris,
            candidates: VecDeque::new(),
            wrong_family: false,
            client: None,
            reused: false,
            repeated: false,
            cseq: 1 + cx.random_below(1 << 16),
            authorization: None,
            challenges: 0,
            from: None,
            to: String::new(),
            last: Outcome::unreachable("no address"),
        }
    }

    /// Another server is tried: it has asked for no credentials yet, and its name goes into To. The number counts up, lest two
    /// servers that share their state take the INVITE for a merged one (RFC 3261 §8.2.2.2).
    pub fn start_over(&mut self) {
        self.authorization = None;
        self.challenges = 0;
        self.cseq += 1;
        self.from = None;
        self.to.clear();
    }
}

impl Call {
    /// Starts a leg to `trunk`. Its progress, answer or failure is told to whoever the leg is for.
    pub(super) fn originate(
        &mut self,
        cx: &mut Context,
        trunk: Arc<Trunk>,
        template: InviteTemplate,
    ) -> Result<LegNumber, (u16, Cause)> {
        let now = cx.now;
        let mut uris: VecDeque<TrunkUri> = trunk.uris.iter().cloned().collect();
        let first = uris.pop_front().ok_or((404, Cause::Unreachable))?;
        let tag = cx.tag();
        let sip_call_id = cx.random_hex(16);
        let from = template.caller.user.clone().unwrap_or_default();
        let to = template.number.clone();
        let number = self
            .add_leg(|n| {
                let mut leg = Leg::new(
                    n,
                    Direction::Outbound,
                    trunk.clone(),
                    LegState::Preparing,
                    now,
                );
                leg.sip_call_id = sip_call_id.clone();
                leg.local_tag = tag;
                leg.from = from.clone();
                leg.to = to.clone();
                leg.identity = CallerIdentity {
                    display: None,
                    user: Some(template.number.clone()),
                };
                leg.origination = Some(Box::new(Origination::new(cx, template, uris)));
                leg
            })
            .ok_or((503, Cause::EdgeOverload))?;
        self.event(
            cx,
            number,
            EventKind::LegStarted {
                trunk: trunk.name.clone(),
                direction: Direction::Outbound,
                sip_call_id,
                from: from.into(),
                to: to.into(),
            },
        );
        let Some(leg) = self.legs.get_mut(number) else {
            return Err((500, Cause::EdgeOverload));
        };
        if !leg.count() || !trunk.admit_rate(now) {
            leg.state = LegState::Over;
            leg.end = Some(now);
            leg.cause = Some(Cause::TrunkLimit);
            return Err((503, Cause::TrunkLimit));
        }
        cx.dialog_started(&leg.local_tag, self.key, number);
        cx.locate(self.key, number, trunk.network, &first);
        // The URI being located stays at the front, so that the answer knows what was asked.
        if let Some(origination) = self.origination(number) {
            origination.uris.push_front(first);
        }
        Ok(number)
    }

    pub(super) fn origination(&mut self, leg: LegNumber) -> Option<&mut Origination> {
        self.legs.get_mut(leg)?.origination.as_deref_mut()
    }

    /// The resolver's answer.
    pub fn on_located(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        result: Result<Vec<SocketAddr>, String>,
    ) {
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        if l.state != LegState::Preparing {
            return;
        }
        let trunk = l.trunk.clone();
        let Some(origination) = l.origination.as_deref_mut() else {
            return;
        };
        let Some(uri) = origination.uris.pop_front() else {
            return;
        };
        match result {
            Ok(addresses) => {
                for address in addresses {
                    let usable = trunk.network.permits(address.ip())
                        && origination.template.families.contain(address.ip())
                        && cx
                            .listener_for(&trunk, uri.transport, address.ip())
                            .is_some()
                        && cx.leases.has(Family::of(address.ip()));
                    if usable {
                        origination.candidates.push_back(Candidate {
                            uri: uri.clone(),
                            address,
                        });
                    } else {
                        origination.wrong_family = true;
                    }
                }
            }
            Err(fault) => {
                origination.last =
                    Outcome::unreachable(format!("{} cannot be resolved: {fault}", uri.host));
            }
        }
        self.try_next_candidate(cx, leg);
    }

    /// Sends the INVITE to the next address, asks for the next URI's, or gives the leg up.
    pub(super) fn try_next_candidate(&mut self, cx: &mut Context, leg: LegNumber) {
        let key = self.key;
        let Some(l) = self.legs.get_mut(leg) else {
            return;
        };
        let network = l.trunk.network;
        let Some(origination) = l.origination.as_deref_mut() else {
            return;
        };
        origination.client = None;
        if let Some(candidate) = origination.candidates.pop_front() {
            if l.located.is_some() {
                origination.start_over();
            }
            let family = Family::of(candidate.address.ip());
            l.peer = Some(candidate.address);
            l.located = Some(candidate);
            let ready = l
                .media
                .lease
                .as_ref()
                .is_some_and(|lease| Family::of(lease.bind.ip()) == family);
            if ready && l.media.opened {
                return self.send_invite(cx, leg);
            }
            l.state = LegState::Preparing;
            if l.media.lease.is_some() {
                // Ports of the other family are given back first; the new ones are opened when that is done.
                l.media.reopen = Some(family);
                return self.close_media(cx, leg);
            }
            if !self.open_media(cx, leg, family) {
                self.leg_failed(
                    cx,
                    leg,
                    Outcome::new(
                        None,
                        Cause::EdgeOverload,
                        HangupBy::Edge,
                        "no media port is free",
                    ),
                );
            }
            return;
        }
        if let Some(uri) = origination.uris.front() {
            let uri = uri.clone();
            l.state = LegState::Preparing;
            return cx.locate(key, leg, network, &uri);
        }
        let mut outcome = origination.last.clone();
        if origination.wrong_family && outcome.code.is_none() && l.located.is_none() {
            outcome = Outcome::new(
                None,
                Cause::NetworkMismatch,
                HangupBy::Edge,
                "the trunk's addresses are of a family that it, or this edge, does not speak",
            );
        }
        self.leg_failed(cx, leg, outcome);
    }

    /// The media ports of a leg are open: what waited for them goes on.
    pub(super) fn on_media_opened(&mut self, cx: &mut Context, leg: LegNumber) {
        match self.legs.get(leg).map(|l| (l.state, l.direction)) {
            Some((LegState::Preparing, Direction::Outbound)) => self.send_invite(cx, leg),
            Some((LegState::Incoming, _)) => self.on_caller_media_opened(cx),
            _ => {}
        }
    }

    /// Sends the INVITE to the located address; where that fails at once, the next address is tried.
    pub(super) fn send_invite(&mut self, cx: &mut Context, leg: LegNumber) {
        if self.must_wait(leg) {
            return;
        }
        if let Err(outcome) = self.try_send_invite(cx, leg) {
            if let Some(origination) = self.origination(leg) {
                origination.last = outcome;
            }
            self.try_next_candidate(cx, leg);
        }
    }

    fn try_send_invite(&mut self, cx: &mut Context, leg: LegNumber) -> Result<(), Outcome> {
        let key = self.key;
        let id = self.id.clone();
        let gone = || Outcome::unreachable("the leg is not being called");
        let l = self.legs.get_mut(leg).ok_or_else(gone)?;
        let located = l.located.clone().ok_or_else(gone)?;
        let transport = located.uri.transport;
        let advertised = cx
            .sent_by(&l.trunk, transport, located.address)
            .ok_or_else(|| Outcome::unreachable("no listener speaks its transport and family"))?;
        may_signal(
            &cx.config,
            &l.trunk.name,
            located.address,
            Some(&located.uri),
        )
        .ok_or_else(|| Outcome::unreachable("a reload took the address from the trunk"))?;
        let (hop, reused) = cx
            .has_room_to(&l.trunk, transport, located.address)
            .then(|| {
                cx.hop_to(
                    &l.trunk,
                    transport,
                    located.address,
                    &located.uri.host,
                    Some(&located.uri),
                )
            })
            .flatten()
            .ok_or_else(|| Outcome::overload("the limit on connections is reached"))?;
        let local = l.first_offer(cx).ok_or_else(gone)?;
        l.hop = Some(hop);
        l.contact = Context::contact(transport, advertised, located.uri.sips);
        l.transport = Some(transport);
        l.state = LegState::Calling;
        let branch = cx.branch();
        let bytes = l
            .build_invite(&branch, &located, advertised, &local)
            .ok_or_else(gone)?;
        let user = ClientUse {
            call: key,
            leg,
            purpose: ClientPurpose::Invite,
            method: Method::Invite,
            trunk: l.label.clone(),
            sent_at: cx.now,
            hop,
        };
        let client = cx
            .send_request(&branch, bytes, user, id)
            .ok_or_else(|| Outcome::overload("the limit on transactions is reached"))?;
        let origination = self.origination(leg).ok_or_else(gone)?;
        origination.client = Some(client);
        origination.reused = reused;
        if origination.authorization.is_some()
            && let Some(timeout) = origination.template.auth_timeout
        {
            cx.set_timer(key, leg, TimerKind::Auth, cx.now + timeout);
        }
        Ok(())
    }

    /// Nobody answered within the ring time.
    pub(super) fn on_ring_timeout(&mut self, cx: &mut Context, leg: LegNumber) {
        let outcome = Outcome::new(
            None,
            Cause::NoAnswer,
            HangupBy::Edge,
            "not answered within the ring timeout",
        );
        self.leg_failed(cx, leg, outcome);
    }

    /// The INVITE with credentials was met with silence.
    pub(super) fn on_auth_timeout(&mut self, cx: &mut Context, leg: LegNumber) {
        let outcome = Outcome::new(
            None,
            Cause::SipAuthTimeout,
            HangupBy::Edge,
            "no response to the INVITE with credentials",
        );
        self.leg_failed(cx, leg, outcome);
    }

    /// An outbound leg will not be answered. Whatever is pending with its peer is cancelled; whom it was for is told.
    pub(super) fn leg_failed(&mut self, cx: &mut Context, leg: LegNumber, outcome: Outcome) {
        self.note(
            cx,
            leg,
            "failed",
            outcome.detail.clone(),
            Some(outcome.cause.as_str().to_owned()),
        );
        self.end_leg_as(cx, leg, &outcome);
        if self.is_setup_callee(leg) {
            self.on_callee_failed(cx, &outcome);
        } else {
            self.on_target_failed(cx, leg, &outcome);
        }
    }
}

impl Leg {
    /// Whether everything that its INVITE needs of its own is there.
    pub(super) fn waits_for_caller(&self) -> bool {
        let media = &self.media;
        self.state == LegState::Preparing
            && self.located.is_some()
            && media.opened
            && media.lease.is_some()
            && !media.closing
    }

    /// What the INVITE offers. It stays the same for another try at a challenge or at another address, as long as our port does.
    fn first_offer(&mut self, cx: &mut Context) -> Option<LocalDescription> {
        let port = self.media.lease.map(|lease| lease.bind.port());
        if let Some(local) = &self.media.local
            && Some(local.rtp_port) == port
        {
            return Some(local.clone());
        }
        let codecs = self.origination.as_deref()?.template.codecs.clone();
        self.media.describe(cx, codecs, sdp::Direction::SendRecv)
    }
}
