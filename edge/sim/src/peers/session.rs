//! What peers do in an answered call, apart from transfers.

use super::ua::{OurInvite, Phase};
use super::{Act, Peers, UaId, media};
use crate::net::Net;
use crate::scenario::Side;
use edge_proto::time::Duration;

impl Peers {
    /// Plans everything that a peer will do in a call that was just answered.
    pub(super) fn plan_session(&mut self, net: &mut Net, id: UaId) {
        let ua = &self.uas[id as usize];
        let side = ua.side;
        // Somebody always hangs up: the carrier's side does.
        let life = match side {
            Side::Carrier => net.dice.millis(2_000, 55_000),
            Side::Platform if net.dice.chance(350) => net.dice.millis(0, 40_000),
            Side::Agents | Side::Pbx if net.dice.chance(400) => {
                // Some at once.
                let most = *net.dice.pick(&[50, 30_000]);
                net.dice.millis(0, most)
            }
            _ => Duration::from_secs(3600),
        };
        if life < Duration::from_secs(3600) {
            ua.plan(net, life, Act::Hangup);
        }
        for (act, permille) in [
            (Act::Reinvite, 250),
            (Act::Reinvite, 100),
            (Act::Update, 100),
            (Act::Options, 60),
        ] {
            if net.dice.chance(permille) {
                let delay = net.dice.millis(0, 25_000);
                ua.plan(net, delay, act);
            }
        }
        if net.rude(60) {
            let delay = net.dice.millis(0, 30_000);
            ua.plan(net, delay, Act::Vanish);
        }
        self.plan_refers(net, id);
    }

    pub(super) fn hang_up(&mut self, net: &mut Net, id: UaId) {
        let Some(ua) = self.ua(id).filter(|ua| !ua.bye_sent) else {
            return;
        };
        let early = ua.phase == Phase::Calling && ua.remote.contains(";tag=");
        if !early && ua.phase != Phase::Up {
            return;
        }
        ua.bye_sent = true;
        if early {
            net.coverage.hit("peer: BYE in an early dialog");
        }
        let sip = ua.send(net, "BYE", &[], "");
        let act = Act::ByeDone {
            cseq: sip.cseq().0,
            tries: 0,
        };
        ua.plan(net, Duration::from_secs(4), act);
    }

    /// The BYE again, where it got lost with its connection.
    pub(super) fn bye_done(&mut self, net: &mut Net, id: UaId, cseq: u32, tries: u8) {
        let Some(ua) = self.ua(id) else {
            return;
        };
        if !ua.open_requests.contains_key(&cseq) || ua.phase == Phase::Gone {
            return;
        }
        if tries >= 12 {
            ua.phase = Phase::Gone;
            return;
        }
        ua.open_requests.remove(&cseq);
        ua.conn = None;
        let sip = ua.send(net, "BYE", &[], "");
        let act = Act::ByeDone {
            cseq: sip.cseq().0,
            tries: tries + 1,
        };
        ua.plan(net, Duration::from_secs(4), act);
    }

    /// Hold, resume, move, refresh, or ask for an offer.
    pub(super) fn reinvite(&mut self, net: &mut Net, id: UaId) {
        let kind = net.dice.below(6);
        let Some(ua) = self
            .ua(id)
            .filter(|ua| ua.is_up() && !ua.bye_sent && !ua.ghost)
        else {
            return;
        };
        if ua.invite.as_ref().is_some_and(|invite| !invite.done) {
            return;
        }
        if ua
            .asked
            .as_ref()
            .is_some_and(|a| a.final_code.is_none() || !a.acked)
        {
            // RFC 3261 §14.1: not while the other's is pending.
            return;
        }
        let wants_offer = kind == 0;
        ua.media.direction = match kind {
            1 => "sendonly",
            2 => "inactive",
            _ => "sendrecv",
        };
        if kind == 3 {
            net.coverage.hit("peer: moved to other ports");
            media::move_ports(ua);
        }
        let body = match wants_offer {
            true => String::new(),
            false => ua.media.offer(),
        };
        net.coverage.hit(match kind {
            0 => "peer: re-INVITE without SDP",
            1 | 2 => "peer: hold",
            _ => "peer: re-INVITE",
        });
        let conn = ua.path(net);
        ua.cseq += 1;
        let branch = ua.branch();
        let uri = ua.target.clone();
        let sip = ua.request(net, conn, "INVITE", &uri, ua.cseq, &branch, &[], &body);
        ua.invite = Some(OurInvite {
            cseq: ua.cseq,
            branch,
            uri,
            initial: false,
            wants_offer,
            provisional: false,
            done: false,
            cancelled: false,
        });
        net.peer_send(conn, &sip);
        ua.maybe_repeat(net, conn, &sip);
    }

    pub(super) fn update(&mut self, net: &mut Net, id: UaId) {
        let refresh = net.dice.chance(500);
        let Some(ua) = self
            .ua(id)
            .filter(|ua| ua.is_up() && !ua.bye_sent && !ua.ghost)
        else {
            return;
        };
        net.coverage.hit("peer: UPDATE");
        let body = match refresh {
            true => String::new(),
            false => ua.media.offer(),
        };
        ua.send(net, "UPDATE", &[], &body);
    }

    pub(super) fn options(&mut self, net: &mut Net, id: UaId) {
        if let Some(ua) = self
            .ua(id)
            .filter(|ua| ua.is_up() && !ua.bye_sent && !ua.ghost)
        {
            ua.send(net, "OPTIONS", &[], "");
        }
    }

    /// It falls silent for good. Not while on hold: silence is no sign of death then, and nobody would end the call.
    pub(super) fn vanish(&mut self, net: &mut Net, id: UaId) {
        let Some(ua) = self.ua(id).filter(|ua| ua.is_up()) else {
            return;
        };
        let busy = ua.invite.as_ref().is_some_and(|i| !i.initial && !i.done);
        if ua.media.direction == "sendrecv" && !busy {
            net.coverage.hit("peer: vanished");
            ua.vanished = true;
        }
    }

    /// Everybody goes home.
    pub(super) fn curfew(&mut self, net: &mut Net) {
        self.curfew = true;
        for ua in &mut self.uas {
            let delay = Duration::from_millis(u64::from(ua.id));
            // Where nothing helps, the light goes out.
            ua.plan(net, Duration::from_secs(100), Act::Leave);
            match ua.phase {
                Phase::Calling => ua.plan(net, delay, Act::Cancel),
                // Whoever has not answered yet will not.
                Phase::Called => {
                    ua.phase = Phase::Gone;
                    if let Some(asked) = ua.asked.clone().filter(|a| a.final_code.is_none()) {
                        ua.respond(net, asked.conn, &asked.request, 480, &[], "");
                    }
                }
                _ => ua.plan(net, delay, Act::Hangup),
            }
        }
    }
}
