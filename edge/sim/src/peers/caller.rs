//! Calling: INVITE, CANCEL, ACK, and what responses to our INVITEs lead to.

use super::media;
use super::ua::{OurInvite, Phase};
use super::{Act, Peers, UaId, challenge};
use crate::net::Net;
use crate::scenario::{Side, password_of};
use crate::wire::Sip;
use edge_proto::id::ConnectionId;
use edge_proto::time::Duration;
use std::rc::Rc;

impl Peers {
    /// Sends the initial INVITE.
    pub(super) fn start_call(&mut self, net: &mut Net, id: UaId) {
        if self.curfew {
            return;
        }
        let host = self.uas[id as usize].host;
        let conn = match net.dice.chance(600) {
            true => self.shared_conn(net, host),
            false => net.open(host),
        };
        let Some(ua) = self.ua(id) else {
            return;
        };
        let edge = net.scenario.places.listener_for(host).1;
        let call = ua.call;
        // The last six digits name the call, on every leg of it.
        let (from, number) = match ua.side {
            Side::Platform => (format!("+1777{call:06}"), format!("+44{call:06}")),
            _ => (format!("+1555{call:06}"), format!("+1999{call:06}")),
        };
        let mut uri = format!("sip:{number}@{edge}");
        if net.rude(25) {
            net.coverage.hit("peer: number nobody has");
            uri = format!("sip:+7000@{edge}");
        } else if net.rude(25) {
            net.coverage.hit("peer: no number");
            uri = format!("sip:{edge}");
        }
        ua.conn = Some(conn);
        ua.call_id = format!("c{call}-{}", net.dice.word());
        ua.local = format!("<sip:{from}@{}>;tag={}", edge.ip_text(), ua.local_tag);
        ua.remote = format!("<{uri}>");
        ua.target = uri;
        ua.phase = Phase::Calling;
        ua.cseq = net.dice.between(1, 1000);
        let mut extra = Vec::new();
        if net.rude(15) {
            net.coverage.hit("peer: unknown extension required");
            extra.push("Require: nobody-knows-this".to_owned());
        }
        if net.dice.chance(100) {
            extra.push("X-CALLER-ID: from-the-call".to_owned());
        }
        self.send_invite(net, id, &extra);
        self.plan_giving_up(net, id);
    }

    fn send_invite(&mut self, net: &mut Net, id: UaId, extra: &[String]) {
        let delayed = net.dice.chance(80);
        let Some(ua) = self.ua(id) else {
            return;
        };
        let Some(conn) = ua
            .conn
            .filter(|&conn| net.is_usable(conn))
            .or_else(|| Some(ua.path(net)))
        else {
            return;
        };
        ua.cseq += 1;
        let body = match delayed {
            true => String::new(),
            false => ua.media.offer(),
        };
        if delayed {
            net.coverage.hit("peer: INVITE without SDP");
        }
        let branch = ua.branch();
        let uri = ua.target.clone();
        let sip = ua.request(net, conn, "INVITE", &uri, ua.cseq, &branch, extra, &body);
        ua.invite = Some(OurInvite {
            cseq: ua.cseq,
            branch,
            uri,
            initial: true,
            wants_offer: delayed,
            provisional: false,
            done: false,
            cancelled: false,
        });
        net.peer_send(conn, &sip);
        ua.maybe_repeat(net, conn, &sip);
        if net.rude(10) {
            // The connection dies under it.
            net.coverage.hit("peer: connection dropped after INVITE");
            net.reset(conn);
        }
    }

    fn plan_giving_up(&mut self, net: &mut Net, id: UaId) {
        let early_bye = net.rude(30);
        let cancel = net.dice.chance(120);
        let delay = net.dice.millis(0, 9_000);
        let Some(ua) = self.ua(id) else {
            return;
        };
        if early_bye {
            ua.plan(net, delay, Act::Hangup);
        } else if cancel {
            ua.plan(net, delay, Act::Cancel);
        }
        // Nobody waits for ever.
        ua.plan(net, Duration::from_secs(60), Act::Cancel);
    }

    pub(super) fn invite_again(&mut self, net: &mut Net, id: UaId, credentials: String) {
        let waiting = self
            .ua(id)
            .is_some_and(|ua| ua.phase == Phase::Calling && !ua.bye_sent);
        if waiting {
            self.send_invite(net, id, &[credentials]);
        }
    }

    /// Gives up while the call is not answered.
    pub(super) fn cancel(&mut self, net: &mut Net, id: UaId) {
        let rude = net.rude(300);
        let Some(ua) = self.ua(id).filter(|ua| ua.phase == Phase::Calling) else {
            return;
        };
        let Some(invite) = ua.invite.clone().filter(|i| !i.done && !i.cancelled) else {
            return;
        };
        if !invite.provisional && !rude {
            // RFC 3261 §9.1: not before a provisional response.
            return ua.plan(net, Duration::from_millis(700), Act::Cancel);
        }
        if let Some(own) = ua.invite.as_mut() {
            own.cancelled = true;
        }
        net.coverage.hit("peer: CANCEL");
        let Some(conn) = ua.conn.filter(|&conn| net.is_usable(conn)) else {
            return;
        };
        let OurInvite {
            uri, cseq, branch, ..
        } = invite;
        let sip = ua.request(net, conn, "CANCEL", &uri, cseq, &branch, &[], "");
        net.peer_send(conn, &sip);
        ua.maybe_repeat(net, conn, &sip);
    }

    /// A response to an INVITE or re-INVITE of ours.
    pub(super) fn on_invite_response(
        &mut self,
        net: &mut Net,
        id: UaId,
        conn: ConnectionId,
        sip: &Rc<Sip>,
    ) {
        let Some(ua) = self.ua(id) else {
            return;
        };
        let Some(invite) = ua.invite.as_mut().filter(|i| i.cseq == sip.cseq().0) else {
            if sip.code() >= 200 && sip.code() < 300 {
                self.ack(net, id, sip, "");
            }
            return;
        };
        let first_final = sip.code() >= 200 && !invite.done;
        invite.provisional |= sip.code() < 200;
        invite.done |= sip.code() >= 200;
        let initial = invite.initial;
        let cancelled = invite.cancelled;
        ua.conn = Some(conn);
        if initial && (101..300).contains(&sip.code()) && !sip.to_tag().is_empty() {
            ua.remote = sip.header("to").to_owned();
        }
        if !sip.contact().is_empty() && sip.code() < 300 {
            ua.target = sip.contact().to_owned();
        }
        match sip.code() {
            100..=199 if initial => media::hear(net, ua, &sip.body),
            100..=199 => {}
            200..=299 => self.on_accepted(net, id, sip, initial && first_final, cancelled),
            code => {
                self.ack(net, id, sip, "");
                if first_final {
                    self.on_refused(net, id, sip, initial, code);
                }
            }
        }
    }

    fn on_accepted(
        &mut self,
        net: &mut Net,
        id: UaId,
        sip: &Rc<Sip>,
        starts: bool,
        cancelled: bool,
    ) {
        let lazy = net.rude(25);
        let delay = match net.rude(100) {
            true => net.dice.millis(0, 2_000),
            false => Duration::from_micros(500),
        };
        let Some(ua) = self.ua(id) else {
            return;
        };
        let wants_offer = ua.invite.as_ref().is_some_and(|i| i.wants_offer);
        let body = match (wants_offer, super::sdp::read(&sip.body)) {
            (true, Some(offer)) => ua.media.answer(&offer, false).unwrap_or_default(),
            _ => String::new(),
        };
        media::hear(net, ua, &sip.body);
        if lazy {
            net.coverage.hit("peer: no ACK");
        } else {
            let ack = Act::Ack {
                response: sip.clone(),
                body,
            };
            ua.plan(net, delay, ack);
        }
        if !starts {
            return;
        }
        ua.phase = Phase::Up;
        if cancelled || ua.bye_sent {
            net.coverage.hit("race: 200 crossed CANCEL or BYE");
            ua.bye_sent = false;
            return ua.plan(net, delay + Duration::from_millis(5), Act::Hangup);
        }
        self.plan_session(net, id);
    }

    fn on_refused(&mut self, net: &mut Net, id: UaId, sip: &Rc<Sip>, initial: bool, code: u16) {
        let right = !net.rude(150);
        let side = self.uas[id as usize].side;
        let password = match right {
            true => password_of(side, self.passwords_changed),
            false => "a guess".to_owned(),
        };
        let Some(ua) = self.ua(id) else {
            return;
        };
        if !initial {
            if code == 491 {
                net.coverage.hit("glare: our re-INVITE met the edge's");
                let delay = net.dice.millis(0, 4_000);
                ua.plan(net, delay, Act::Reinvite);
            }
            return;
        }
        if code == 401 && ua.challenged < 2 && !ua.bye_sent {
            ua.challenged += 1;
            let user = format!("{}-user", side.name());
            let header = challenge::answer(sip, &user, &password, "INVITE", &ua.target, 1);
            if !right {
                net.coverage.hit("peer: INVITE with a wrong password");
            }
            if let Some(header) = header {
                let act = Act::InviteWith(format!("Authorization: {header}"));
                return ua.plan(net, Duration::from_millis(20), act);
            }
        }
        net.coverage.hit(format!("caller got {code}"));
        ua.phase = Phase::Gone;
    }

    /// Acknowledges a final response.
    pub(super) fn ack(&mut self, net: &mut Net, id: UaId, response: &Rc<Sip>, body: &str) {
        let Some(ua) = self.ua(id) else {
            return;
        };
        let cseq = response.cseq().0;
        let Some(conn) = ua.conn.filter(|&conn| net.is_usable(conn)) else {
            let conn = net.open(ua.host);
            ua.conn = Some(conn);
            return ua.plan(
                net,
                Duration::from_millis(1),
                Act::Ack {
                    response: response.clone(),
                    body: body.to_owned(),
                },
            );
        };
        let own = ua.invite.clone().filter(|invite| invite.cseq == cseq);
        let (uri, branch) = match own {
            Some(invite) if response.code() >= 300 => (invite.uri, invite.branch),
            _ => (ua.target.clone(), ua.branch()),
        };
        // The response's To, which a fork's may differ from the dialog's.
        let remote = std::mem::replace(&mut ua.remote, response.header("to").to_owned());
        let sip = ua.request(net, conn, "ACK", &uri, cseq, &branch, &[], body);
        if !remote.is_empty() {
            ua.remote = remote;
        }
        net.peer_send(conn, &sip);
    }
}

/// An address as it stands in a URI.
trait IpText {
    fn ip_text(&self) -> String;
}

impl IpText for std::net::SocketAddr {
    fn ip_text(&self) -> String {
        match self {
            std::net::SocketAddr::V4(address) => address.ip().to_string(),
            std::net::SocketAddr::V6(address) => format!("[{}]", address.ip()),
        }
    }
}
