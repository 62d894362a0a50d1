//! Being called: how INVITEs of the edge are answered, initial ones and those within a dialog.

use super::challenge::{self, Style};
use super::ua::{Asked, Listening, Phase, write_response};
use super::{Act, Peers, UaId, media, sdp};
use crate::digest;
use crate::net::Net;
use crate::scenario::{Side, password_of};
use crate::wire::{Sip, uri_in, user_of};
use edge_proto::id::ConnectionId;
use edge_proto::time::Duration;
use std::rc::Rc;

/// One response, some time after the one before.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub after: Duration,
    pub code: u16,
    pub body: Body,
}

/// What a response carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    None,
    Answer,
    Garbage,
}

fn step(after: Duration, code: u16, body: Body) -> Step {
    Step { after, code, body }
}

impl Peers {
    /// An INVITE that starts a dialog: a new one, or one that comes again with credentials.
    pub(super) fn on_initial_invite(&mut self, net: &mut Net, conn: ConnectionId, sip: &Rc<Sip>) {
        let known = self
            .by_call_id
            .get(sip.call_id())
            .and_then(|ids| ids.first());
        let id = match known.copied() {
            Some(id) => id,
            None => self.be_called(net, conn, sip),
        };
        let challenge_again = self.judge(net, id, conn, sip);
        if challenge_again {
            return;
        }
        let steps = self.draw_steps(net, id, sip);
        self.ask(net, id, conn, sip, steps);
    }

    fn be_called(&mut self, net: &mut Net, conn: ConnectionId, sip: &Rc<Sip>) -> UaId {
        let host = net.conn(conn).map_or(0, |conn| conn.host);
        let side = net.scenario.places.hosts[host].side;
        let from = user_of(uri_in(sip.header("from")));
        let digits = from.len().saturating_sub(6);
        let call = from.get(digits..).and_then(|text| text.parse().ok());
        let id = self.add(net, call.unwrap_or(u32::MAX), side, host);
        let listening = match net.rude(300) {
            false => Listening::AtOnce,
            true => *net.dice.pick(&[
                Listening::Late,
                Listening::Unknown481,
                Listening::Broken500,
                Listening::Never,
            ]),
        };
        let Some(ua) = self.ua(id) else {
            return id;
        };
        ua.listening = listening;
        ua.call_id = sip.call_id().to_owned();
        ua.local = format!("{};tag={}", sip.header("to"), ua.local_tag);
        ua.remote = sip.header("from").to_owned();
        ua.target = sip.contact().to_owned();
        ua.phase = Phase::Called;
        ua.cseq = net.dice.between(1, 1000);
        self.by_call_id
            .entry(sip.call_id().to_owned())
            .or_default()
            .push(id);
        id
    }

    /// Challenges the edge, or judges its credentials. True: it was answered.
    fn judge(&mut self, net: &mut Net, id: UaId, conn: ConnectionId, sip: &Rc<Sip>) -> bool {
        let ua = &self.uas[id as usize];
        let side = ua.side;
        let header = sip
            .headers("authorization")
            .chain(sip.headers("proxy-authorization"))
            .next()
            .map(str::to_owned);
        let asks = match side {
            Side::Agents | Side::Pbx => 500,
            Side::Platform => 250,
            _ => 80,
        };
        match header {
            None if ua.challenged == 0 => {
                let asks = net.dice.chance(asks);
                asks && self.challenge(net, id, conn, sip, false)
            }
            None => false,
            Some(header) => self.judge_credentials(net, id, conn, sip, &header),
        }
    }

    fn challenge(
        &mut self,
        net: &mut Net,
        id: UaId,
        conn: ConnectionId,
        sip: &Rc<Sip>,
        stale: bool,
    ) -> bool {
        let rude = net.rude(100);
        let style = challenge::draw(&mut net.dice, rude);
        let (code, name) = match net.dice.chance(500) {
            true => (401, "WWW-Authenticate"),
            false => (407, "Proxy-Authenticate"),
        };
        let own = net.dice.word();
        let nonce = match (style, self.edge_nonces.last()) {
            (Style::Reflected, Some(theirs)) => {
                net.coverage.hit("peer: nonce reflected");
                theirs.clone()
            }
            _ => own,
        };
        net.coverage.hit("peer: INVITE challenged");
        let lines = challenge::lines(style, name, &nonce, stale);
        let Some(ua) = self.ua(id) else {
            return true;
        };
        ua.challenged += 1;
        ua.respond(net, conn, sip, code, &lines, "");
        true
    }

    fn judge_credentials(
        &mut self,
        net: &mut Net,
        id: UaId,
        conn: ConnectionId,
        sip: &Rc<Sip>,
        header: &str,
    ) -> bool {
        let side = self.uas[id as usize].side;
        let password = password_of(side, self.passwords_changed);
        let earlier = password_of(side, !self.passwords_changed);
        let right = digest::is_right(header, &password, "INVITE")
            || digest::is_right(header, &earlier, "INVITE");
        let uri = digest::parameter(header, "uri").unwrap_or_default();
        if !right || uri != sip.uri() {
            self.complaints.push(format!(
                "the edge answered a challenge wrongly: {header} for {}",
                sip.uri()
            ));
        }
        let Some(ua) = self.ua(id) else {
            return true;
        };
        if ua.challenged < 3 && net.rude(100) {
            net.coverage.hit("peer: challenged again, stale");
            return self.challenge(net, id, conn, sip, true);
        }
        if net.rude(100) {
            net.coverage.hit("peer: credentials refused");
            if net.dice.chance(500) {
                return self.challenge(net, id, conn, sip, false);
            }
            ua.respond(net, conn, sip, 403, &[], "");
            return true;
        }
        if net.rude(120) {
            net.coverage.hit("peer: silent after credentials");
            ua.asked = None;
            return true;
        }
        false
    }

    /// How an initial INVITE is going to be answered.
    fn draw_steps(&mut self, net: &mut Net, id: UaId, _sip: &Sip) -> Vec<Step> {
        let side = self.uas[id as usize].side;
        let ms = Duration::from_millis;
        let trying = step(ms(2), 100, Body::None);
        let ringing = step(net.dice.millis(1, 700), 180, Body::None);
        let answer = step(net.dice.millis(0, 4_000), 200, Body::Answer);
        let willing = match side {
            Side::Platform => 850,
            _ => 600,
        };
        if net.dice.chance(willing) {
            return match net.dice.below(5) {
                0 => vec![step(net.dice.millis(0, 300), 200, Body::Answer)],
                1 => vec![trying, step(ms(200), 183, Body::Answer), answer],
                2 => vec![ringing, answer],
                _ => vec![trying, ringing, answer],
            };
        }
        let code = *net.dice.pick(&[486, 486, 600, 603, 480, 404, 488, 302]);
        let refusal = step(net.dice.millis(0, 3_000), code, Body::None);
        match net.dice.below(10) {
            0..3 => vec![trying, ringing, refusal],
            3..5 => vec![refusal],
            5 => vec![
                trying,
                step(ms(50), *net.dice.pick(&[500, 503]), Body::None),
            ],
            // Rings for ever.
            6 => vec![trying, ringing],
            7 => vec![trying],
            8 if net.rude(1000) => {
                net.coverage.hit("peer: silent to INVITE");
                vec![]
            }
            9 if net.rude(1000) => {
                net.coverage.hit("peer: 200 with a body that is no SDP");
                let body = *net.dice.pick(&[Body::None, Body::Garbage]);
                vec![trying, step(ms(300), 200, body)]
            }
            _ => vec![trying, ringing, answer],
        }
    }

    /// Begins to answer an INVITE of the edge.
    pub(super) fn ask(
        &mut self,
        net: &mut Net,
        id: UaId,
        conn: ConnectionId,
        sip: &Rc<Sip>,
        steps: Vec<Step>,
    ) {
        let Some(ua) = self.ua(id) else {
            return;
        };
        ua.generation += 1;
        ua.conn = Some(conn);
        let first = steps.first().copied();
        ua.asked = Some(Asked {
            request: sip.clone(),
            conn,
            steps,
            generation: ua.generation,
            final_code: None,
            acked: false,
        });
        if let Some(first) = first {
            let act = Act::Step {
                generation: ua.generation,
                index: 0,
            };
            ua.plan(net, first.after, act);
        }
    }

    /// Sends one response of the plan, and plans the next.
    pub(super) fn step(&mut self, net: &mut Net, id: UaId, generation: u32, index: usize) {
        let first_only = net.dice.chance(500);
        let Some(ua) = self.ua(id) else {
            return;
        };
        let Some(asked) = ua
            .asked
            .clone()
            .filter(|asked| asked.generation == generation)
        else {
            return;
        };
        let (Some(current), None) = (asked.steps.get(index).copied(), asked.final_code) else {
            return;
        };
        let offer = sdp::read(&asked.request.body);
        let mut code = current.code;
        let body = match (current.body, &offer) {
            (Body::None, _) => String::new(),
            (Body::Garbage, _) => "v=0\r\nm=nonsense\r\n".to_owned(),
            (Body::Answer, None) => ua.media.offer(),
            (Body::Answer, Some(offer)) => match ua.media.answer(offer, first_only) {
                Some(answer) => answer,
                None if code >= 200 => {
                    code = 488;
                    String::new()
                }
                None => String::new(),
            },
        };
        if !body.is_empty() && code < 300 {
            media::hear(net, ua, &asked.request.body);
        }
        ua.respond(net, asked.conn, &asked.request, code, &[], &body);
        if code < 200 {
            if let Some(next) = asked.steps.get(index + 1) {
                let act = Act::Step {
                    generation,
                    index: index + 1,
                };
                ua.plan(net, next.after, act);
            }
            return;
        }
        if let Some(asked) = ua.asked.as_mut() {
            asked.final_code = Some(code);
        }
        self.on_final_sent(net, id, generation, code);
    }

    fn on_final_sent(&mut self, net: &mut Net, id: UaId, generation: u32, code: u16) {
        let fork = net.rude(60);
        let Some(ua) = self.ua(id) else {
            return;
        };
        let initial = ua.phase == Phase::Called;
        if code >= 300 {
            if initial {
                ua.phase = Phase::Gone;
            }
            return;
        }
        let act = Act::Repeat2xx {
            generation,
            tries: 0,
        };
        ua.plan(net, Duration::from_millis(500), act);
        if !initial {
            return;
        }
        ua.phase = Phase::Up;
        if fork {
            let delay = net.dice.millis(0, 400);
            ua.plan(net, delay, Act::Fork { generation });
        }
        self.plan_session(net, id);
    }

    /// The 2xx again, until the ACK comes or patience ends.
    pub(super) fn repeat_2xx(&mut self, net: &mut Net, id: UaId, generation: u32, tries: u8) {
        let Some(ua) = self.ua(id) else {
            return;
        };
        let Some(asked) = ua
            .asked
            .clone()
            .filter(|a| a.generation == generation && !a.acked)
        else {
            return;
        };
        if tries >= 6 {
            net.coverage.hit("peer: its 2xx was never acknowledged");
            return ua.plan(net, Duration::ZERO, Act::Hangup);
        }
        let body = ua.media.described.map(|rtp| {
            let speech = ua.media.speech.get(..1).unwrap_or_default();
            sdp::write(rtp, ua.media.version, speech, None, "sendrecv")
        });
        // The same dialog again; that its bytes differ a little is the peer's freedom.
        ua.respond(
            net,
            asked.conn,
            &asked.request,
            200,
            &[],
            &body.unwrap_or_default(),
        );
        let act = Act::Repeat2xx {
            generation,
            tries: tries + 1,
        };
        ua.plan(net, Duration::from_millis(1_000) * (1 << tries), act);
    }

    /// A second endpoint answers the same INVITE.
    pub(super) fn fork(&mut self, net: &mut Net, id: UaId, generation: u32) {
        let ua = &self.uas[id as usize];
        let Some(asked) = ua.asked.clone().filter(|a| a.generation == generation) else {
            return;
        };
        let (call, side, host) = (ua.call, ua.side, ua.host);
        let ghost = self.add(net, call, side, host);
        net.coverage.hit("peer: second endpoint answered");
        let Some(ua) = self.ua(ghost) else {
            return;
        };
        ua.ghost = true;
        ua.call_id = asked.request.call_id().to_owned();
        ua.local = format!("{};tag={}", asked.request.header("to"), ua.local_tag);
        ua.remote = asked.request.header("from").to_owned();
        ua.target = asked.request.contact().to_owned();
        ua.conn = Some(asked.conn);
        ua.phase = Phase::Up;
        let body = match sdp::read(&asked.request.body) {
            Some(offer) => ua.media.answer(&offer, true).unwrap_or_default(),
            None => String::new(),
        };
        media::hear(net, ua, &asked.request.body);
        ua.respond(net, asked.conn, &asked.request, 200, &[], &body);
    }

    /// The edge acknowledged.
    pub(super) fn on_ack(&mut self, net: &mut Net, id: UaId, sip: &Rc<Sip>) {
        let Some(ua) = self.ua(id) else {
            return;
        };
        if let Some(asked) = ua.asked.as_mut()
            && asked.request.cseq().0 == sip.cseq().0
        {
            asked.acked = true;
        }
        media::hear(net, ua, &sip.body);
    }

    /// The edge gave up.
    pub(super) fn on_cancel(&mut self, net: &mut Net, conn: ConnectionId, sip: &Rc<Sip>) {
        let stubborn = net.rude(200);
        let late = net.dice.millis(0, 300);
        let ids = self
            .by_call_id
            .get(sip.call_id())
            .cloned()
            .unwrap_or_default();
        let found = ids.into_iter().find(|&id| {
            let asked = self.uas[id as usize].asked.as_ref();
            asked.is_some_and(|asked| asked.request.branch() == sip.branch())
        });
        let Some(ua) = found.and_then(|id| self.ua(id)).filter(|ua| !ua.vanished) else {
            let to = format!("{};tag=none", sip.header("to"));
            let answer = write_response(sip, 481, &to, None, &[], "");
            net.peer_send(conn, &answer);
            return;
        };
        ua.respond(net, conn, sip, 200, &[], "");
        let Some(asked) = ua.asked.as_mut().filter(|asked| asked.final_code.is_none()) else {
            net.coverage.hit("race: CANCEL crossed a final response");
            return;
        };
        let code = match stubborn {
            true => 200,
            false => 487,
        };
        if stubborn {
            net.coverage.hit("peer: 200 after CANCEL");
        }
        let body = match stubborn {
            true => Body::Answer,
            false => Body::None,
        };
        asked.steps = vec![step(late, code, body)];
        asked.generation = ua.generation + 1;
        ua.generation += 1;
        let act = Act::Step {
            generation: ua.generation,
            index: 0,
        };
        ua.plan(net, late, act);
    }
}
