//! Originating a leg: locating its trunk, sending the INVITE, answering challenges, trying the next address.

use super::Call;
use super::leg::{Leg, LegState};
use super::setup::CallerIdentity;
use crate::b2bua::{
    ALLOW, Candidate, ClientPurpose, ClientUse, Context, Family, Origin, PRODUCT, TimerKind,
};
use crate::config::{PresentAs, PresentedCredentials, Transport, Trunk, TrunkUri};
use crate::event::{Cause, Direction, EventKind, HangupBy, LegNumber};
use crate::sdp::{self, Answer, Codec, LocalDescription};
use crate::sip::auth;
use crate::sip::dialog::{Dialog, ViaLine};
use crate::sip::transaction::ClientKey;
use crate::sip::{HeaderName, Host, Message, Method, NameAddr, RequestBuilder, SipUri};
use crate::time::Duration;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

/// RFC 3261 §16.6: more than three minutes of ringing is nobody's call.
pub(super) const TIMER_C: Duration = Duration::from_secs(181);
/// Challenges with `stale=true` that are answered before giving up.
const MAX_CHALLENGES: u8 = 3;

/// What the INVITE of a new leg says.
#[derive(Clone, Debug)]
pub(crate) struct InviteTemplate {
    /// User part of the Request-URI and of To.
    pub number: String,
    pub caller: CallerIdentity,
    /// Further headers, in order, the trunk's own among them.
    pub headers: Vec<(String, String)>,
    /// Offered, in order of preference.
    pub codecs: Vec<Codec>,
    pub max_forwards: u8,
    /// Shown when challenged.
    pub present: Option<PresentedCredentials>,
    /// How long the peer may leave an INVITE with credentials without any response; `None`: as long as any INVITE.
    pub auth_timeout: Option<Duration>,
}

/// An outgoing INVITE's state, until the leg is answered.
pub(crate) struct Origination {
    pub template: InviteTemplate,
    uris: VecDeque<TrunkUri>,
    candidates: VecDeque<Candidate>,
    /// Addresses that resolved but cannot be used for their family.
    wrong_family: bool,
    pub client: Option<ClientKey>,
    cseq: u32,
    authorization: Option<(HeaderName, String)>,
    challenges: u8,
    from: String,
    to: String,
    last: Outcome,
}

/// Why a leg was not answered.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The peer's final status; `None` when there was none.
    pub code: Option<u16>,
    pub cause: Cause,
    pub by: HangupBy,
    pub detail: String,
}

impl Outcome {
    pub fn new(code: Option<u16>, cause: Cause, by: HangupBy, detail: impl Into<String>) -> Self {
        Outcome {
            code,
            cause,
            by,
            detail: detail.into(),
        }
    }

    fn unreachable(detail: impl Into<String>) -> Self {
        Outcome::new(None, Cause::Unreachable, HangupBy::Edge, detail)
    }

    fn of_code(code: u16) -> Self {
        let cause = match code {
            486 | 600 => Cause::Busy,
            408 | 480 => Cause::NoAnswer,
            487 => Cause::Cancelled,
            415 | 488 | 606 => Cause::NoCommonCodec,
            _ => Cause::Rejected,
        };
        Outcome::new(Some(code), cause, HangupBy::Remote, String::new())
    }

    /// Whether another address or trunk may do better: the peer is broken or absent, it did not decide.
    pub fn try_elsewhere(&self) -> bool {
        match self.code {
            Some(code) => (500..600).contains(&code) || code == 408,
            None => matches!(
                self.cause,
                Cause::Unreachable
                    | Cause::SignallingTimeout
                    | Cause::MediaFailed
                    | Cause::NetworkMismatch
                    | Cause::TrunkLimit
            ),
        }
    }

    /// The status the caller sees. Our own challenges and redirections are nobody else's business, and a 503 would make
    /// the carrier avoid this edge (RFC 3261 §16.7).
    pub fn caller_code(&self) -> u16 {
        match self.code {
            Some(401 | 407) => 502,
            Some(503) => 500,
            Some(code) if (300..400).contains(&code) => 480,
            Some(code) => code,
            None => match self.cause {
                Cause::NoAnswer => 480,
                Cause::SignallingTimeout | Cause::SipAuthTimeout => 504,
                Cause::NoCommonCodec | Cause::NetworkMismatch => 488,
                Cause::TrunkLimit | Cause::EdgeOverload | Cause::MediaFailed => 503,
                Cause::SipAuthFailed => 502,
                _ => 502,
            },
        }
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
        let number = self
            .add_leg(|n| {
                let mut leg = Leg::new(
                    n,
                    Direction::Outbound,
                    trunk.clone(),
                    LegState::Preparing,
                    now,
                );
                leg.sip_call_id = sip_call_id;
                leg.local_tag = tag;
                leg.from = template.caller.user.clone().unwrap_or_default();
                leg.to = template.number.clone();
                leg.identity = CallerIdentity {
                    display: None,
                    user: Some(template.number.clone()),
                };
                leg.origination = Some(Box::new(Origination {
                    template,
                    uris,
                    candidates: VecDeque::new(),
                    wrong_family: false,
                    client: None,
                    cseq: 1 + cx.random_below(1 << 16),
                    authorization: None,
                    challenges: 0,
                    from: String::new(),
                    to: String::new(),
                    last: Outcome::unreachable("no address"),
                }));
                leg
            })
            .ok_or((503, Cause::EdgeOverload))?;
        let Some(leg) = self.legs.get_mut(&number) else {
            return Err((500, Cause::EdgeOverload));
        };
        if !leg.count() || !trunk.admit_rate(now) {
            leg.state = LegState::Over;
            leg.end = Some(now);
            leg.cause = Some(Cause::TrunkLimit);
            return Err((503, Cause::TrunkLimit));
        }
        cx.dialogs.insert(leg.local_tag.clone(), (self.key, number));
        self.event(
            cx,
            number,
            EventKind::LegStarted {
                trunk: Arc::from(trunk.name.as_str()),
                direction: Direction::Outbound,
            },
        );
        cx.locate(self.key, number, trunk.network, &first);
        // The URI being located stays at the front, so that the answer knows what was asked.
        if let Some(origination) = self.origination(number) {
            origination.uris.push_front(first);
        }
        Ok(number)
    }

    fn origination(&mut self, leg: LegNumber) -> Option<&mut Origination> {
        self.legs.get_mut(&leg)?.origination.as_deref_mut()
    }

    /// The resolver's answer.
    pub fn on_located(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        result: Result<Vec<SocketAddr>, String>,
    ) {
        let Some(l) = self.legs.get_mut(&leg) else {
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
    fn try_next_candidate(&mut self, cx: &mut Context, leg: LegNumber) {
        let key = self.key;
        let Some(l) = self.legs.get_mut(&leg) else {
            return;
        };
        let network = l.trunk.network;
        let Some(origination) = l.origination.as_deref_mut() else {
            return;
        };
        origination.client = None;
        if let Some(candidate) = origination.candidates.pop_front() {
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
        match self.legs.get(&leg).map(|l| (l.state, l.direction)) {
            Some((LegState::Preparing, Direction::Outbound)) => self.send_invite(cx, leg),
            Some((LegState::Incoming, _)) => self.on_caller_media_opened(cx, leg),
            _ => {}
        }
    }

    fn send_invite(&mut self, cx: &mut Context, leg: LegNumber) {
        match self.try_send_invite(cx, leg) {
            Some(()) => {}
            None => {
                if let Some(origination) = self.origination(leg) {
                    origination.last = Outcome::unreachable(
                        "no listener for the transport, or too many connections",
                    );
                }
                self.try_next_candidate(cx, leg);
            }
        }
    }

    fn try_send_invite(&mut self, cx: &mut Context, leg: LegNumber) -> Option<()> {
        let key = self.key;
        let id = self.id.clone();
        let l = self.legs.get_mut(&leg)?;
        let located = l.located.clone()?;
        let transport = located.uri.transport;
        let advertised = cx.sent_by(&l.trunk, transport, located.address)?;
        let hop = cx.hop_to(&l.trunk, transport, located.address, &located.uri.host)?;
        let codecs = l.origination.as_deref()?.template.codecs.clone();
        let local = match &l.media.local {
            // The same offer again: a challenge or another address does not change what we say.
            Some(local) if Some(local.rtp_port) == l.media.lease.map(|x| x.bind.port()) => {
                local.clone()
            }
            _ => l.media.describe(cx, codecs, sdp::Direction::SendRecv)?,
        };
        l.hop = Some(hop);
        l.contact = Context::contact(transport, advertised, located.uri.sips);
        l.state = LegState::Calling;
        let branch = cx.branch();
        let bytes = l.build_invite(&branch, &located, advertised, &local)?;
        l.sent_invite = Message::parse(bytes.clone(), &cx.message_limits()).ok();
        let user = ClientUse {
            call: key,
            leg,
            purpose: ClientPurpose::Invite,
            method: Method::Invite,
            trunk: l.label.clone(),
            sent_at: cx.now,
        };
        let client = cx.send_request(hop, &branch, bytes, user, id)?;
        let origination = self.origination(leg)?;
        origination.client = Some(client);
        if origination.authorization.is_some()
            && let Some(timeout) = origination.template.auth_timeout
        {
            cx.set_timer(key, leg, TimerKind::Auth, cx.now + timeout);
        }
        Some(())
    }

    /// A response to the leg's INVITE.
    pub fn on_invite_response(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        key: ClientKey,
        origin: &Origin,
        message: &Message,
    ) {
        let code = message.status().unwrap_or_default();
        let Some(l) = self.legs.get_mut(&leg) else {
            return;
        };
        cx.cancel_timer(self.key, leg, TimerKind::Auth);
        match (l.state, code) {
            (LegState::Calling, 100) => {}
            (LegState::Calling, 101..=199) => self.on_provisional(cx, leg, code, message),
            (LegState::Calling, 200..=299) => {
                l.hop = Some(origin.hop);
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
            (LegState::Cancelling, 200..=299) => {
                // The answer crossed our CANCEL.
                self.disown_2xx(cx, leg, message);
            }
            (LegState::Cancelling, 300..) => {
                l.sip_status = Some(code);
                self.leg_over(cx, leg);
            }
            (_, 200..=299) => self.on_repeated_2xx(cx, leg, key, message),
            _ => {}
        }
    }

    fn is_authenticated(&mut self, leg: LegNumber) -> bool {
        self.origination(leg)
            .is_some_and(|origination| origination.authorization.is_some())
    }

    fn on_provisional(&mut self, cx: &mut Context, leg: LegNumber, code: u16, message: &Message) {
        let Some(l) = self.legs.get_mut(&leg) else {
            return;
        };
        l.ring.get_or_insert(cx.now);
        if self.is_setup_callee(leg) {
            self.take_answer(cx, leg, message);
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
        let local = self.legs.get(&leg)?.media.local.clone()?;
        match Answer::parse(&body, &local) {
            Ok(answer) if sdp::has_speech(&answer.audio().codecs) => {
                let remote = answer.audio().clone();
                if let Some(l) = self.legs.get_mut(&leg) {
                    l.media.codec = remote
                        .codecs
                        .iter()
                        .find(|codec| !codec.is_telephone_event())
                        .map(|codec| codec.name.clone());
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
            // A 2xx without a usable Contact or tag: nothing can be sent to it, not even a BYE.
            let outcome = Outcome::new(
                message.status(),
                Cause::Malformed,
                HangupBy::Edge,
                "the 2xx has no usable Contact or To-tag",
            );
            if let Some(l) = self.legs.get_mut(&leg) {
                l.state = LegState::Over;
            }
            return self.leg_failed(cx, leg, outcome);
        }
        let taken = self.take_answer(cx, leg, message);
        let early = self
            .legs
            .get(&leg)
            .is_some_and(|l| l.media.remote.is_some());
        if taken == Some(false) || (taken.is_none() && !early) {
            let outcome = Outcome::new(
                message.status(),
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
        let Some(l) = self.legs.get_mut(&leg) else {
            return false;
        };
        let Some(origination) = l.origination.take() else {
            return false;
        };
        let dialog = l
            .sent_invite
            .as_ref()
            .and_then(|invite| Dialog::uac(invite, message).ok());
        let Some(mut dialog) = dialog else {
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
        let hop = cx.dialog_hop(&l.trunk, dialog.next_hop(), l.hop, l.located.as_ref());
        l.dialog = Some(dialog);
        l.last_ack = Some(ack.clone());
        if let Some(hop) = hop {
            l.hop = Some(hop);
            cx.transmit(hop, ack);
        }
        true
    }

    /// A 2xx after the first: the same one again is ACKed again; another fork's is ACKed and ended (RFC 3261 §13.2.2.4).
    fn on_repeated_2xx(
        &mut self,
        cx: &mut Context,
        leg: LegNumber,
        _key: ClientKey,
        message: &Message,
    ) {
        let Some(l) = self.legs.get(&leg) else {
            return;
        };
        let same = l
            .dialog
            .as_ref()
            .is_some_and(|dialog| message.to_tag() == Some(dialog.remote_tag.as_str()));
        if !same {
            self.note(
                cx,
                leg,
                "fork",
                "a second endpoint answered; it is ended".to_owned(),
                None,
            );
            return self.disown_2xx(cx, leg, message);
        }
        if let (Some(ack), Some(hop)) = (l.last_ack.clone(), l.hop) {
            cx.transmit(hop, ack);
        }
    }

    /// ACKs a 2xx that nobody wants and sends BYE in its dialog.
    fn disown_2xx(&mut self, cx: &mut Context, leg: LegNumber, message: &Message) {
        let key = self.key;
        let id = self.id.clone();
        let Some(l) = self.legs.get_mut(&leg) else {
            return;
        };
        let dialog = l
            .sent_invite
            .as_ref()
            .and_then(|invite| Dialog::uac(invite, message).ok());
        let Some(mut dialog) = dialog else {
            return;
        };
        let Some(hop) = cx.dialog_hop(&l.trunk, dialog.next_hop(), l.hop, l.located.as_ref())
        else {
            return;
        };
        if let Some(ack) = l.build_ack(cx, &mut dialog, message.cseq().number) {
            cx.transmit(hop, ack);
        }
        let branch = cx.branch();
        let Some((transport, sent_by)) = l.via(cx) else {
            return;
        };
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
        };
        cx.send_request(hop, &branch, bytes, user, id);
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
        let Some(l) = self.legs.get_mut(&leg) else {
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
            None => Err("no credentials are configured for this trunk".to_owned()),
            Some(present) => auth::answer(
                challenges.iter().copied(),
                present,
                Method::Invite.as_str(),
                &uri,
                &cnonce,
                1,
                &cx.digest,
            )
            .map_err(|fault| fault.to_string()),
        };
        match answer {
            Ok(value) => {
                origination.authorization = Some((credentials, value));
                origination.challenges += 1;
                origination.cseq += 1;
                cx.digest_event(&trunk, "answered");
                self.send_invite(cx, leg);
            }
            Err(fault) => {
                let outcome =
                    Outcome::new(Some(code), Cause::SipAuthFailed, HangupBy::Remote, fault);
                self.on_invite_rejected(cx, leg, outcome);
            }
        }
    }

    /// A final refusal: the next address where the server is at fault, else the end of the leg.
    fn on_invite_rejected(&mut self, cx: &mut Context, leg: LegNumber, outcome: Outcome) {
        let elsewhere = outcome.try_elsewhere();
        if let Some(l) = self.legs.get_mut(&leg) {
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
        _key: ClientKey,
        transport: bool,
    ) {
        let Some(l) = self.legs.get_mut(&leg) else {
            return;
        };
        if l.state == LegState::Cancelling {
            return self.leg_over(cx, leg);
        }
        if l.state != LegState::Calling {
            return;
        }
        cx.cancel_timer(self.key, leg, TimerKind::Auth);
        let detail = l
            .hop
            .and_then(|hop| cx.hop_faults.get(&hop).cloned())
            .unwrap_or_else(|| {
                if transport {
                    "connection lost"
                } else {
                    "no response"
                }
                .to_owned()
            });
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
    /// The Via of our next request in this leg's transport.
    pub(super) fn via(&self, cx: &Context) -> Option<(Transport, String)> {
        let hop = self.hop?;
        let peer = self.peer?;
        let transport = cx.hop_transport(hop);
        let sent_by = match self.located.as_ref() {
            Some(located) => cx.sent_by(&self.trunk, located.uri.transport, located.address),
            None => cx.sent_by(&self.trunk, transport, peer),
        }
        .or_else(|| contact_address(&self.contact))?;
        Some((transport, sent_by.to_string()))
    }

    /// The Request-URI of the leg's INVITE: the number at the trunk's host, port and transport, whatever anybody asked for.
    pub(super) fn request_uri(&self) -> String {
        let (Some(located), Some(origination)) = (&self.located, &self.origination) else {
            return String::new();
        };
        target_uri(&located.uri, &origination.template.number)
    }

    fn build_invite(
        &mut self,
        branch: &str,
        located: &Candidate,
        advertised: SocketAddr,
        local: &LocalDescription,
    ) -> Option<bytes::Bytes> {
        let request_uri = self.request_uri();
        let trunk = self.trunk.clone();
        let origination = self.origination.as_deref_mut()?;
        let template = &origination.template;
        if origination.from.is_empty() {
            let caller = match &trunk.present_as {
                PresentAs::Caller => template.caller.clone(),
                PresentAs::Fixed(number) => CallerIdentity {
                    display: None,
                    user: Some(number.clone()),
                },
            };
            origination.from = from_value(&caller, advertised, located.uri.sips);
            origination.to = format!("<{}>", plain_uri(&located.uri, &template.number));
        }
        let mut request = RequestBuilder::new(&Method::Invite, &request_uri)
            .header(
                HeaderName::Via,
                format!(
                    "SIP/2.0/{} {advertised};branch={branch}{}",
                    located.uri.transport.via_name(),
                    if located.uri.transport == Transport::Udp {
                        ";rport"
                    } else {
                        ""
                    }
                ),
            )
            .header(HeaderName::MaxForwards, template.max_forwards)
            .header(
                HeaderName::From,
                format!("{};tag={}", origination.from, self.local_tag),
            )
            .header(HeaderName::To, &origination.to)
            .header(HeaderName::CallId, &self.sip_call_id)
            .header(HeaderName::CSeq, format!("{} INVITE", origination.cseq))
            .header(HeaderName::Contact, &self.contact)
            .header(HeaderName::Allow, ALLOW)
            .header(HeaderName::Supported, "norefersub")
            .header(HeaderName::UserAgent, PRODUCT);
        if let Some((name, value)) = &origination.authorization {
            request = request.header(*name, value);
        }
        for (name, value) in &template.headers {
            request = request.header(name.as_str(), value);
        }
        Some(
            request
                .body("application/sdp", &local.offer_bytes())
                .build(),
        )
    }

    pub(super) fn build_ack(
        &self,
        cx: &mut Context,
        dialog: &mut Dialog,
        cseq: u32,
    ) -> Option<bytes::Bytes> {
        let branch = cx.branch();
        let (transport, sent_by) = self.via(cx)?;
        let via = ViaLine {
            transport,
            sent_by: &sent_by,
            branch: &branch,
        };
        Some(dialog.ack(cseq, &via).build())
    }
}

/// A URI of `user` at `host`.
pub(super) fn sip_uri(sips: bool, user: Option<&str>, host: Host) -> SipUri {
    let mut uri = SipUri::new(host);
    uri.sips = sips;
    uri.user = user.map(str::to_owned);
    uri
}

/// A configured host; the configuration check has refused what is none.
pub(super) fn host_of(text: &str) -> Host {
    Host::parse_lenient(text).unwrap_or_else(|_| Host::Name("invalid".to_owned()))
}

/// `user` at the trunk's own host, port and transport.
fn target_uri(uri: &TrunkUri, user: &str) -> String {
    let mut text = plain_uri(uri, user);
    if let Some(port) = uri.port {
        text.push_str(&format!(":{port}"));
    }
    match uri.transport {
        Transport::Tls if uri.sips => {}
        Transport::Udp => {}
        transport => text.push_str(&format!(";transport={}", transport.uri_name())),
    }
    text
}

/// Scheme, user and host only, as To and From show them.
fn plain_uri(uri: &TrunkUri, user: &str) -> String {
    sip_uri(uri.sips, Some(user), host_of(&uri.host)).to_string()
}

fn from_value(caller: &CallerIdentity, advertised: SocketAddr, sips: bool) -> String {
    let user = caller.user.as_deref().unwrap_or("anonymous");
    let mut from = NameAddr::new(sip_uri(sips, Some(user), advertised.ip().into()));
    from.display = caller.display.clone();
    from.to_string()
}

fn contact_address(contact: &str) -> Option<SocketAddr> {
    let rest = contact.split_once('@')?.1;
    let end = rest.find([';', '>'])?;
    rest.get(..end)?.parse().ok()
}
