//! TCP has no message boundaries: however the bytes of a call are cut, the edge does the same.

use crate::harness::*;

/// A whole call with a transfer that is challenged on both sides: everything that left the edge, and everything it reported.
fn whole_call(cores: u8, cut: Cut) -> (Vec<Crossing>, Vec<String>) {
    let mut world = World::new(config(), cores);
    let w = &mut world;
    w.cut = cut;
    let (mut caller, mut agent, mut human, invite) = transferring(w);
    let challenge =
        "Proxy-Authenticate: Digest realm=\"agents\", nonce=\"n1\", algorithm=MD5, qop=\"auth\"";
    human.answers_with(w, &invite, 407, &[challenge], "");
    human.gets(w, "ACK");
    let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
    human.answers(w, &invite, 180);
    gets_notify(w, &mut agent, "180 Ringing");
    let last = bridging(w, &mut agent, &mut human, &invite);
    agent.answers(w, &last, 200);
    gets_bye(w, &mut agent);
    hang_up(w, &mut human, &mut [&mut caller]);
    world.assert_all_over();
    let sent = world.crossings.iter().filter(|c| !c.to_edge).cloned();
    (sent.collect(), world.timeline())
}

#[test]
fn cut_at_every_offset() {
    for cores in [1, 4] {
        let whole = whole_call(cores, Cut::Whole);
        let longest = 1_000;
        // Four cores are given fewer: what differs is where a piece is put together, not how.
        let step = if cores == 1 { 1 } else { 23 };
        for offset in (1..longest).step_by(step) {
            assert!(
                whole_call(cores, Cut::At(offset)) == whole,
                "cut at {offset} with {cores} core(s)"
            );
        }
    }
}

#[test]
fn one_byte_at_a_time() {
    for cores in [1, 4] {
        assert!(whole_call(cores, Cut::Bytes) == whole_call(cores, Cut::Whole));
    }
}

#[test]
fn several_messages_in_one_piece() {
    flow(config, |w| {
        let mut caller = calling(w);
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        let body = agent.sdp.text();
        let pieces = [
            agent.response(&invite, 100, &[], ""),
            agent.response(&invite, 180, &[], ""),
            agent.response(&invite, 200, &[], &body),
        ];
        w.send(agent.link, agent.address, pieces.concat());
        caller.gets(w, "180 INVITE");
        let ok = caller.gets(w, "200 INVITE");
        caller.acks(w, &ok);
        agent.gets(w, "ACK");
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}
