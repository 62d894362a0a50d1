//! Several control threads: what crosses between them, and what happens when it cannot.

use crate::harness::*;
use edge_proto::b2bua::owner_of;
use edge_proto::id::{ConnectionId, CoreId, ListenerId};

/// A world of four cores, in which a call of `caller` is owned by core 0 whatever core accepts its connection.
fn four() -> World {
    World::new(config(), 4)
}

/// A caller on a connection of `at`, whose call belongs to `owner`.
fn caller_of(w: &mut World, at: u8, owner: u8) -> Ua {
    let connection = w.connect_at(ListenerId(0), w.site.carrier, CoreId(at));
    let mut caller = Ua::caller_on(
        w,
        Link::Stream(connection),
        w.site.carrier,
        NUMBER,
        CALLER_RTP,
    );
    for attempt in 0.. {
        caller.call_id = format!("try{attempt}@caller");
        let text = caller.clone().request("INVITE", &[], "");
        let message = Message::parse(text.into(), &Default::default()).expect("a message");
        if owner_of(&message, &[2; 32], CoreId(at), 4) == Some(CoreId(owner)) {
            return caller;
        }
    }
    unreachable!()
}

fn connection(link: Link) -> ConnectionId {
    match link {
        Link::Stream(connection) => connection,
        Link::Datagram(_) => panic!("over TCP"),
    }
}

#[test]
fn a_call_of_another_core() {
    let mut w = four();
    let w = &mut w;
    let mut caller = caller_of(w, 1, 0);
    caller.invites(w);
    caller.gets(w, "100 INVITE");
    let (agent, invite) = invited(w, w.site.ai, AGENT_RTP);
    // Media, dialogs and new connections are the owner's.
    assert!(w.open.keys().all(|(core, _)| *core == CoreId(0)));
    assert_eq!(w.connects[0].connection.core(), CoreId(0));
    let crossed = w.handoffs;
    assert!(crossed > 0, "the INVITE crossed cores");
    let (mut caller, mut agent) = answering(w, caller, agent, &invite);
    assert_eq!(connection(caller.link).core(), CoreId(1));
    // The REFER comes over a connection of a third core.
    agent.link = Link::Stream(w.connect_at(ListenerId(0), w.site.ai, CoreId(2)));
    referred(w, &mut agent, TARGET, &[]);
    assert!(w.handoffs > crossed + 4, "REFER, 401, 202 and NOTIFY did");
    let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
    let last = bridging(w, &mut agent, &mut human, &invite);
    assert_eq!(connection(agent.link).core(), CoreId(2));
    agent.answers(w, &last, 200);
    gets_bye(w, &mut agent);
    hang_up(w, &mut caller, &mut [&mut human]);
    w.assert_all_over();
}

#[test]
fn a_new_call_that_finds_the_queue_full_is_refused() {
    let mut w = four();
    let w = &mut w;
    w.queues_full = true;
    let mut caller = caller_of(w, 1, 0);
    caller.invites(w);
    let refusal = caller.gets(w, "503 INVITE");
    assert_eq!(refusal.header(HeaderName::RetryAfter), Some("5"));
    w.assert_told(&["overflow: the handoff queue was full"]);
    w.queues_full = false;
    caller.acks(w, &refusal);
    w.assert_silent(w.site.ai);
    w.assert_all_over();
}

#[test]
fn a_bye_and_a_refer_wait_for_room() {
    let mut w = four();
    let w = &mut w;
    let mut caller = caller_of(w, 1, 0);
    caller.invites(w);
    caller.gets(w, "100 INVITE");
    let (agent, invite) = invited(w, w.site.ai, AGENT_RTP);
    let (mut caller, mut agent) = answering(w, caller, agent, &invite);
    agent.link = Link::Stream(w.connect_at(ListenerId(0), w.site.ai, CoreId(2)));
    w.queues_full = true;
    agent.sends(w, "REFER", &[&format!("Refer-To: {TARGET}")], "");
    caller.says(w, "BYE");
    w.advance(seconds(1));
    w.assert_silent(w.site.ai);
    w.assert_silent(w.site.carrier);
    w.queues_full = false;
    w.advance(seconds(1));
    // Both were kept; which of them came first is nobody's promise.
    caller.gets(w, "200 BYE");
    let mut seen = Vec::new();
    while let Some((link, message)) = w.try_recv(w.site.ai) {
        agent.link = link;
        match message.method() {
            Some(_) => agent.answers(w, &message, 200),
            None => assert!(matches!(message.status(), Some(401 | 481))),
        }
        seen.push(message.cseq().method.as_str().to_owned());
    }
    seen.sort();
    assert_eq!(seen, ["BYE", "REFER"]);
    w.assert_all_over();
}

#[test]
fn a_connection_of_another_core_is_gone() {
    let mut w = four();
    let w = &mut w;
    let mut caller = caller_of(w, 1, 0);
    caller.invites(w);
    caller.gets(w, "100 INVITE");
    let (agent, invite) = invited(w, w.site.ai, AGENT_RTP);
    let (mut caller, mut agent) = answering(w, caller, agent, &invite);
    // The owner does not know it yet.
    w.reset(connection(caller.link));
    agent.says(w, "BYE");
    agent.gets(w, "200 BYE");
    // The BYE finds it gone, and goes to the caller's Contact.
    let bye = gets_bye(w, &mut caller);
    assert_eq!(connection(caller.link).core(), CoreId(0));
    assert!(bye.to_tag().is_some());
    w.assert_all_over();
}

#[test]
fn every_core_can_own_calls() {
    let mut w = four();
    let w = &mut w;
    for owner in 0..4 {
        let mut caller = caller_of(w, 3, owner);
        caller.invites(w);
        caller.gets(w, "100 INVITE");
        let (agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        let (mut caller, mut agent) = answering(w, caller, agent, &invite);
        assert!(w.open.keys().all(|(core, _)| *core == CoreId(owner)));
        hang_up(w, &mut caller, &mut [&mut agent]);
    }
    w.assert_all_over();
}
