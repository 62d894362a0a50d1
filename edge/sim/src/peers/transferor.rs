//! Transferring: REFERs, honest and not.

use super::{Act, Peers, UaId, challenge};
use crate::digest::parameter;
use crate::net::Net;
use crate::scenario::{Side, TARGETS, Target, password_of};
use crate::wire::Sip;
use edge_proto::time::Duration;
use std::rc::Rc;

/// How a REFER is going to be proved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// The challenge is answered rightly.
    Right,
    /// The challenge is not answered.
    Never,
    WrongPassword,
    /// The challenge is answered when its nonce is too old.
    TooLate,
    /// With the nonce of another call.
    BorrowedNonce,
    /// With the nonce and count of a REFER that was accepted.
    Replayed,
    /// For another Request-URI.
    OtherUri,
    Garbage,
}

/// Where a REFER comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    Own,
    /// A listed source of another trunk, that knows the dialog's tags.
    Carrier,
}

/// One planned REFER.
#[derive(Clone, Debug)]
pub struct Refer {
    pub target: &'static Target,
    pub proof: Proof,
    pub source: Source,
    pub quiet: bool,
    /// Leave right after the 202.
    pub leaves: bool,
    pub tries: u8,
    pub cseq: u32,
    /// What was accepted, to be replayed.
    pub shown: Option<String>,
}

impl Peers {
    /// Plans the REFERs of a party whose call was answered.
    pub(super) fn plan_refers(&mut self, net: &mut Net, id: UaId) {
        let ua = &self.uas[id as usize];
        let counts: &[u32] = match ua.side {
            Side::Platform => &[15, 55, 20, 10],
            Side::Agents => &[70, 30],
            _ => &[96, 4],
        };
        let count = net.dice.weighted(counts);
        let mut at = Duration::ZERO;
        for index in 0..count {
            at += net.dice.millis(200, 9_000);
            let refer = draw(net);
            if let Some(ua) = self.ua(id) {
                ua.refers.push(refer);
                ua.plan(net, at, Act::Refer(index));
            }
        }
        if net.rude(20)
            && let Some(ua) = self.ua(id)
        {
            // More than a call may try.
            net.coverage.hit("peer: floods REFER");
            for index in count..count + 40 {
                let refer = draw(net);
                ua.refers.push(refer);
                at += Duration::from_millis(150);
                ua.plan(net, at, Act::Refer(index));
            }
        }
    }

    /// Sends a REFER.
    pub(super) fn refer(&mut self, net: &mut Net, id: UaId, index: usize, shown: Option<String>) {
        let carrier: Vec<usize> = net.scenario.places.hosts_of(Side::Carrier).collect();
        let replay = self.replayable(id);
        let Some(ua) = self.ua(id).filter(|ua| ua.is_up() && !ua.bye_sent) else {
            return;
        };
        let Some(refer) = ua.refers.get(index).cloned() else {
            return;
        };
        let mut extra: Vec<String> = refer
            .target
            .lines
            .iter()
            .map(|line| format!("Refer-To: {line}"))
            .collect();
        extra.push(format!("X-Conversation-ID: {}", ua.call));
        extra.push("Twilio-Secret: dropped".to_owned());
        if refer.quiet {
            extra.push("Refer-Sub: false".to_owned());
        }
        let mut shown = shown;
        if shown.is_none() && refer.proof == Proof::Replayed {
            shown = replay;
            net.coverage.hit("peer: credentials replayed");
        }
        extra.extend(shown.iter().map(|value| format!("Authorization: {value}")));
        if refer.source == Source::Carrier {
            net.coverage.hit("peer: REFER from another trunk's source");
            let host = *net.dice.pick(&carrier);
            let conn = net.open(host);
            ua.send_on(net, conn, "REFER", &extra, "");
            return;
        }
        let sip = ua.send(net, "REFER", &extra, "");
        if let Some(refer) = ua.refers.get_mut(index) {
            refer.tries += 1;
            refer.cseq = sip.cseq().0;
            refer.shown = shown;
        }
        net.coverage.hit("peer: REFER");
    }

    fn replayable(&self, id: UaId) -> Option<String> {
        let ua = self.uas.get(id as usize)?;
        ua.refers.iter().find_map(|refer| refer.shown.clone())
    }

    /// A response to a REFER of ours.
    pub(super) fn on_refer_response(&mut self, net: &mut Net, id: UaId, sip: &Rc<Sip>) {
        let cseq = sip.cseq().0;
        let code = sip.code();
        if code < 200 {
            return;
        }
        net.coverage.hit(format!("REFER answered {code}"));
        let Some(ua) = self.ua(id) else {
            return;
        };
        let Some(index) = ua.refers.iter().position(|refer| refer.cseq == cseq) else {
            return;
        };
        let refer = ua.refers[index].clone();
        if (200..300).contains(&code) && refer.leaves {
            net.coverage.hit("peer: transferor left after the 202");
            let delay = net.dice.millis(0, 20);
            return ua.plan(net, delay, Act::Hangup);
        }
        if code == 401 && refer.tries < 3 {
            self.answer_challenge(net, id, index, sip);
        }
    }

    fn answer_challenge(&mut self, net: &mut Net, id: UaId, index: usize, sip: &Rc<Sip>) {
        let side = self.uas[id as usize].side;
        let password = password_of(side, self.passwords_changed);
        let borrowed = self
            .edge_nonces
            .iter()
            .rev()
            .find(|nonce| !sip.text().contains(nonce.as_str()))
            .cloned();
        let Some(ua) = self.ua(id) else {
            return;
        };
        let refer = ua.refers[index].clone();
        let Some(header) = sip.headers("www-authenticate").next() else {
            return;
        };
        let Some(nonce) = parameter(header, "nonce") else {
            return;
        };
        let mut uri = ua.target.clone();
        let mut secret = password;
        let mut used = nonce;
        let mut delay = Duration::from_millis(10);
        net.coverage.hit(format!("proof: {:?}", refer.proof));
        match refer.proof {
            Proof::Never => return,
            Proof::WrongPassword => secret = "a guess".to_owned(),
            Proof::TooLate => delay = Duration::from_secs(32),
            Proof::BorrowedNonce => used = borrowed.unwrap_or_else(|| "none".to_owned()),
            Proof::OtherUri => uri = "sip:somebody@example.net".to_owned(),
            Proof::Right | Proof::Replayed | Proof::Garbage => {}
        }
        let user = format!("{}-user", side.name());
        let mut shown = challenge::credentials(header, &used, &user, &secret, "REFER", &uri, 1);
        if refer.proof == Proof::Garbage {
            shown = "Digest nonsense, realm=".to_owned();
        }
        ua.plan(net, delay, Act::ReferWith(index, shown));
    }
}

fn draw(net: &mut Net) -> Refer {
    let honest = !net.rude(350);
    let target = match honest {
        true => &TARGETS[net.dice.below(Target::HONEST as u32) as usize],
        false => net.dice.pick(TARGETS),
    };
    let proof = match net.rude(350) {
        false => Proof::Right,
        true => *net.dice.pick(&[
            Proof::Never,
            Proof::WrongPassword,
            Proof::TooLate,
            Proof::BorrowedNonce,
            Proof::Replayed,
            Proof::Replayed,
            Proof::OtherUri,
            Proof::Garbage,
        ]),
    };
    let source = match net.rude(50) {
        true => Source::Carrier,
        false => Source::Own,
    };
    Refer {
        target,
        proof,
        source,
        quiet: net.dice.chance(80),
        leaves: net.dice.chance(120),
        tries: 0,
        cseq: 0,
        shown: None,
    }
}
