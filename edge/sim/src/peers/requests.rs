//! Requests of the edge within a dialog: re-INVITE, BYE, NOTIFY and the rest.

use super::callee::{Body, Step};
use super::ua::{Listening, Phase};
use super::{Act, Peers, UaId};
use crate::net::Net;
use crate::wire::Sip;
use edge_proto::id::ConnectionId;
use edge_proto::time::Duration;
use std::rc::Rc;

impl Peers {
    pub(super) fn on_request(
        &mut self,
        net: &mut Net,
        id: UaId,
        conn: ConnectionId,
        sip: &Rc<Sip>,
    ) {
        let Some(ua) = self.ua(id).filter(|ua| !ua.vanished) else {
            return;
        };
        match sip.method() {
            "BYE" => {
                if !matches!(ua.phase, Phase::Up) {
                    net.coverage.hit("race: BYE crossed BYE");
                }
                ua.phase = Phase::Gone;
                if net.rude(40) {
                    net.coverage.hit("peer: BYE unanswered");
                    return;
                }
                ua.respond(net, conn, sip, 200, &[], "");
            }
            "NOTIFY" => self.on_notify(net, id, conn, sip),
            _ if ua.phase == Phase::Gone => ua.respond(net, conn, sip, 481, &[], ""),
            "INVITE" => self.on_reinvite(net, id, conn, sip),
            "OPTIONS" | "UPDATE" => ua.respond(net, conn, sip, 200, &[], ""),
            _ => ua.respond(net, conn, sip, 405, &[], ""),
        }
    }

    /// The edge asks to change the session.
    fn on_reinvite(&mut self, net: &mut Net, id: UaId, conn: ConnectionId, sip: &Rc<Sip>) {
        let choice = net.dice.below(10);
        let rude = net.rude(600);
        let Some(ua) = self.ua(id) else {
            return;
        };
        net.coverage.hit("edge: re-INVITE");
        let pending = ua.invite.as_ref().is_some_and(|i| !i.initial && !i.done);
        if pending {
            net.coverage.hit("glare: the edge's re-INVITE met ours");
            return ua.respond(net, conn, sip, 491, &[], "");
        }
        let code = match (rude, choice) {
            (true, 0..3) => {
                // Both at once: ours is on its way already.
                ua.plan(net, Duration::ZERO, Act::Reinvite);
                net.coverage.hit("glare: the edge's re-INVITE met ours");
                491
            }
            (true, 3..5) => 488,
            (true, 5) => 481,
            (true, 6) => 500,
            (true, 7) => {
                net.coverage.hit("peer: re-INVITE unanswered");
                return;
            }
            _ => 200,
        };
        if code != 200 {
            net.coverage.hit(format!("peer: re-INVITE answered {code}"));
            return ua.respond(net, conn, sip, code, &[], "");
        }
        let step = Step {
            after: net.dice.millis(1, 1_500),
            code,
            body: Body::Answer,
        };
        self.ask(net, id, conn, sip, vec![step]);
    }

    fn on_notify(&mut self, net: &mut Net, id: UaId, conn: ConnectionId, sip: &Rc<Sip>) {
        let last = sip.header("subscription-state").starts_with("terminated");
        let leaves = net.dice.chance(400);
        let delay = net.dice.millis(1, 1_200);
        let Some(ua) = self.ua(id) else {
            return;
        };
        if last && leaves {
            // As a widely used platform does.
            ua.plan(net, delay, Act::Hangup);
        }
        if last {
            net.coverage.hit("edge: final NOTIFY");
        }
        match ua.listening {
            Listening::AtOnce => ua.respond(net, conn, sip, 200, &[], ""),
            Listening::Unknown481 => {
                net.coverage.hit("peer: NOTIFY answered 481");
                ua.respond(net, conn, sip, 481, &[], "");
            }
            Listening::Broken500 => ua.respond(net, conn, sip, 500, &[], ""),
            Listening::Late => {
                let delay = net.dice.millis(100, 6_000);
                ua.plan(net, delay, Act::Answer(conn, sip.clone(), 200));
            }
            Listening::Never => net.coverage.hit("peer: NOTIFY unanswered"),
        }
    }
}
