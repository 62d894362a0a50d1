//! Who hears whom in a transfer, and the re-INVITE of the caller where the target's answer needs one.

use crate::harness::*;

const VIA: &str = "sip:+1234567890@edge.example.net via agents";
const REFERS: &str = "refer:401 transfer_unauthorized refer:202";

/// A caller that offers PCMU and PCMA, an agent that takes PCMU alone, and a human that wants PCMA alone and has answered so.
fn other_codec(w: &mut World) -> (Ua, Ua, Ua) {
    let (caller, agent, human, invite) = before_the_other_codec(w);
    let (mut caller, agent, human) = wants_the_other(w, caller, agent, human, &invite);
    let reinvite = caller.gets(w, "INVITE");
    assert_eq!(formats(reinvite.body()), [8, 101]);
    // Until the caller agrees everything stays.
    w.assert_bridges(&["4000<>4100"]);
    w.assert_silent(w.site.ai);
    (caller, agent, human)
}

fn before_the_other_codec(w: &mut World) -> (Ua, Ua, Ua, Message) {
    let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
    caller.sdp = caller.sdp.codecs(&[0, 8, 101]);
    caller.invites(w);
    caller.gets(w, "100 INVITE");
    let (agent, invite) = invited(w, w.site.ai, AGENT_RTP);
    let (caller, mut agent) = answering(w, caller, agent, &invite);
    referred(w, &mut agent, TARGET, &[]);
    let (human, invite) = invited(w, w.site.human, HUMAN_RTP);
    // What is in use comes first, so that no re-INVITE is needed; then what else the caller can do.
    assert_eq!(formats(invite.body()), [0, 101, 8]);
    (caller, agent, human, invite)
}

fn wants_the_other(
    w: &mut World,
    caller: Ua,
    agent: Ua,
    mut human: Ua,
    invite: &Message,
) -> (Ua, Ua, Ua) {
    human.sdp = human.sdp.codecs(&[8, 101]);
    human.accepts(w, invite, 200);
    human.gets(w, "ACK");
    w.assert_told(&["1 reoffer: the target chose a codec that the caller does not use"]);
    (caller, agent, human)
}

/// The INVITE that the caller got last, to answer it.
fn pending(w: &World, caller: &Ua) -> Message {
    let bytes = w
        .crossings
        .iter()
        .rev()
        .find(|c| !c.to_edge && c.peer == caller.address && c.bytes.starts_with(b"INVITE"))
        .map(|c| c.bytes.clone())
        .expect("an INVITE");
    Message::parse(bytes, &Default::default()).expect("a message")
}

/// The transfer failed because of the caller: the human is hung up, the agent told, and everything is as before.
fn back_to_the_agent(w: &mut World, mut caller: Ua, mut agent: Ua, mut human: Ua) {
    gets_bye(w, &mut human);
    gets_failure(w, &mut agent, "488 Not Acceptable Here", "caller_refused");
    w.assert_bridges(&["4000<>4100"]);
    assert_eq!(w.renumbered(CALLER_RTP), [(0, 0), (101, 101)]);
    hang_up(w, &mut caller, &mut [&mut agent]);
    w.assert_cdr(&[
        "1 in carrier 200 completed remote",
        &format!("2 out ai 200 completed local {REFERS}"),
        &format!("3 out agents 200 caller_refused edge transfer:1.1 {VIA}: failed"),
    ]);
}

#[test]
fn nothing_is_asked_of_the_caller_when_it_is_understood() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = transferring(w);
        assert_eq!(formats(invite.body()), [0, 101]);
        let last = bridging(w, &mut agent, &mut human, &invite);
        w.assert_silent(w.site.carrier);
        w.assert_bridges(&["4000<>4200"]);
        // The agent hears nothing from now on, and is not heard.
        agent.reinvites(w, |sdp| sdp.port(4110));
        let ok = agent.gets(w, "200 INVITE");
        agent.acks(w, &ok);
        w.assert_bridges(&["4000<>4200"]);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
}

#[test]
fn the_caller_changes_its_codec() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human) = other_codec(w);
        let reinvite = pending(w, &caller);
        caller.sdp = caller.sdp.codecs(&[8, 101]);
        caller.accepts(w, &reinvite, 200);
        caller.gets(w, "ACK");
        w.assert_bridges(&["4000<>4200"]);
        assert_eq!(w.renumbered(CALLER_RTP), [(8, 8), (101, 101)]);
        let last = agent.gets(w, "NOTIFY");
        assert_eq!(sipfrag(&last), "200 OK");
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            &format!("2 out ai 200 completed edge {REFERS}"),
            &format!("3 out agents 200 completed local transfer:1.1 {VIA}: completed"),
        ]);
    });
}

#[test]
fn the_caller_refuses() {
    for status in [488, 603, 500, 606] {
        flow(config, |w| {
            let (mut caller, agent, human) = other_codec(w);
            let reinvite = pending(w, &caller);
            caller.answers(w, &reinvite, status);
            caller.gets(w, "ACK");
            back_to_the_agent(w, caller, agent, human);
            w.assert_told(&["2 transfer_ended: transfer 1: failed [caller_refused"]);
        });
    }
}

#[test]
fn the_caller_accepts_without_a_usable_answer() {
    flow(config, |w| {
        let (mut caller, agent, human) = other_codec(w);
        let reinvite = pending(w, &caller);
        caller.answers(w, &reinvite, 200);
        caller.gets(w, "ACK");
        back_to_the_agent(w, caller, agent, human);
    });
}

#[test]
fn the_caller_never_answers_the_change() {
    flow(config, |w| {
        let (caller, agent, human) = other_codec(w);
        w.advance(seconds(31));
        w.assert_silent(w.site.human);
        w.advance(seconds(1));
        back_to_the_agent(w, caller, agent, human);
    });
}

#[test]
fn the_caller_knows_no_such_dialog() {
    // RFC 3261 §12.2.1.2: its leg is gone, and so is the call.
    flow(config, |w| {
        let (mut caller, mut agent, mut human) = other_codec(w);
        let reinvite = pending(w, &caller);
        caller.answers(w, &reinvite, 481);
        caller.gets(w, "ACK");
        gets_bye(w, &mut caller);
        gets_bye(w, &mut human);
        gets_notify(w, &mut agent, "487 Request Terminated");
        gets_bye(w, &mut agent);
    });
}

#[test]
fn a_caller_that_refuses_when_the_agent_has_left() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human) = other_codec(w);
        agent.says(w, "BYE");
        agent.gets(w, "200 BYE");
        let reinvite = pending(w, &caller);
        caller.answers(w, &reinvite, 488);
        caller.gets(w, "ACK");
        gets_bye(w, &mut human);
        gets_bye(w, &mut caller);
        w.assert_cdr(&[
            "1 in carrier 200 caller_refused edge",
            &format!("2 out ai 200 completed remote {REFERS}"),
            &format!("3 out agents 200 caller_refused edge transfer:1.1 {VIA}: failed"),
        ]);
    });
}

#[test]
fn the_change_meets_the_callers_own() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human) = other_codec(w);
        let ours = pending(w, &caller);
        // Both at once: each refuses the other's.
        caller.reinvites(w, |sdp| sdp.port(4010));
        let glare = caller.gets(w, "491 INVITE");
        caller.acks(w, &glare);
        caller.answers(w, &ours, 491);
        caller.gets(w, "ACK");
        w.assert_silent(w.site.carrier);
        // While ours waits, the caller's is taken.
        caller.reinvites(w, |sdp| sdp);
        let ok = caller.gets(w, "200 INVITE");
        caller.acks(w, &ok);
        w.assert_bridges(&["4010<>4100"]);
        // RFC 3261 §14.1: within two seconds ours is tried again.
        w.advance(seconds(2));
        let again = caller.gets(w, "INVITE");
        assert_eq!(formats(again.body()), [8, 101]);
        caller.sdp = caller.sdp.codecs(&[8, 101]);
        caller.accepts(w, &again, 200);
        caller.gets(w, "ACK");
        w.assert_bridges(&["4010<>4200"]);
        gets_notify(w, &mut agent, "200 OK");
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
}

#[test]
fn the_change_meets_the_callers_own_again_and_again() {
    flow(config, |w| {
        let (mut caller, agent, human) = other_codec(w);
        for _ in 0..3 {
            let ours = pending(w, &caller);
            caller.answers(w, &ours, 491);
            caller.gets(w, "ACK");
            w.advance(seconds(2));
            caller.gets(w, "INVITE");
        }
        let ours = pending(w, &caller);
        caller.answers(w, &ours, 491);
        caller.gets(w, "ACK");
        back_to_the_agent(w, caller, agent, human);
    });
}

#[test]
fn the_change_waits_for_the_callers_ack() {
    flow(config, |w| {
        let (mut caller, agent, human, invite) = before_the_other_codec(w);
        caller.reinvites(w, |sdp| sdp.port(4010));
        let ok = caller.gets(w, "200 INVITE");
        let (mut caller, mut agent, mut human) = wants_the_other(w, caller, agent, human, &invite);
        // RFC 3261 §14.1: no INVITE while another is not finished.
        w.assert_silent(w.site.carrier);
        caller.acks(w, &ok);
        let ours = caller.gets(w, "INVITE");
        caller.sdp = caller.sdp.codecs(&[8, 101]);
        caller.accepts(w, &ours, 200);
        caller.gets(w, "ACK");
        w.assert_bridges(&["4010<>4200"]);
        gets_notify(w, &mut agent, "200 OK");
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
}

#[test]
fn the_human_hangs_up_before_the_caller_agreed() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human) = other_codec(w);
        let ours = pending(w, &caller);
        human.says(w, "BYE");
        human.gets(w, "200 BYE");
        gets_failure(w, &mut agent, "480 Temporarily Unavailable", "rejected");
        // The caller agrees too late: it is asked to go back to what the agent understands.
        let before = caller.sdp.clone();
        caller.sdp = caller.sdp.codecs(&[8, 101]);
        caller.accepts(w, &ours, 200);
        caller.gets(w, "ACK");
        let back = caller.gets(w, "INVITE");
        assert_eq!(formats(back.body()), [0, 101]);
        caller.sdp = before;
        caller.accepts(w, &back, 200);
        caller.gets(w, "ACK");
        w.assert_bridges(&["4000<>4100"]);
        assert_eq!(w.renumbered(CALLER_RTP), [(0, 0), (101, 101)]);
        hang_up(w, &mut caller, &mut [&mut agent]);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            &format!("2 out ai 200 completed local {REFERS}"),
            &format!("3 out agents 200 completed remote transfer:1.1 {VIA}: failed"),
        ]);
    });
}

#[test]
fn the_caller_hangs_up_instead_of_agreeing() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human) = other_codec(w);
        let ours = pending(w, &caller);
        caller.says(w, "BYE");
        caller.gets(w, "200 BYE");
        caller.answers(w, &ours, 487);
        caller.gets(w, "ACK");
        gets_bye(w, &mut human);
        gets_notify(w, &mut agent, "487 Request Terminated");
        gets_bye(w, &mut agent);
        w.assert_bridges(&[]);
    });
}

#[test]
fn a_codec_of_the_target_that_the_caller_does_not_send_first() {
    // The caller and the agent agreed on both; the caller speaks the first of them.
    flow(config, |w| {
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        caller.sdp = caller.sdp.codecs(&[0, 8, 101]);
        caller.invites(w);
        caller.gets(w, "100 INVITE");
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        agent.sdp = agent.sdp.codecs(&[0, 8, 101]);
        let (mut caller, mut agent) = answering(w, caller, agent, &invite);
        referred(w, &mut agent, TARGET, &[]);
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        human.sdp = human.sdp.codecs(&[8, 101]);
        human.accepts(w, &invite, 200);
        human.gets(w, "ACK");
        let reinvite = caller.gets(w, "INVITE");
        assert_eq!(formats(reinvite.body()), [8, 101]);
        caller.sdp = caller.sdp.codecs(&[8, 101]);
        caller.accepts(w, &reinvite, 200);
        caller.gets(w, "ACK");
        w.assert_bridges(&["4000<>4200"]);
        gets_notify(w, &mut agent, "200 OK");
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
}

#[test]
fn a_change_by_the_agent_while_the_human_rings() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = transferring(w);
        human.answers(w, &invite, 180);
        gets_notify(w, &mut agent, "180 Ringing");
        // It puts the caller on hold, as some do.
        agent.reinvites(w, |sdp| sdp.direction("sendonly"));
        let ok = agent.gets(w, "200 INVITE");
        agent.acks(w, &ok);
        w.assert_bridges(&["4000<4100"]);
        let last = bridging(w, &mut agent, &mut human, &invite);
        w.assert_bridges(&["4000<>4200"]);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
}

#[test]
fn a_caller_that_holds_while_the_human_rings() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = transferring(w);
        caller.reinvites(w, |sdp| sdp.direction("sendonly"));
        let ok = caller.gets(w, "200 INVITE");
        caller.acks(w, &ok);
        let last = bridging(w, &mut agent, &mut human, &invite);
        w.assert_bridges(&["4000>4200"]);
        caller.reinvites(w, |sdp| sdp.direction("sendrecv"));
        let ok = caller.gets(w, "200 INVITE");
        caller.acks(w, &ok);
        w.assert_bridges(&["4000<>4200"]);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
}

#[test]
fn early_media_of_the_target_is_not_for_the_caller() {
    flow(config, |w| {
        let (caller, mut agent, mut human, invite) = transferring(w);
        human.accepts(w, &invite, 183);
        gets_notify(w, &mut agent, "183 Session Progress");
        w.assert_bridges(&["4000<>4100"]);
        human.answers(w, &invite, 486);
        human.gets(w, "ACK");
        gets_failure(w, &mut agent, "486 Busy Here", "busy");
        returned(w, caller, agent);
    });
}

#[test]
fn silence_of_the_agent_after_the_bridge_is_nothing() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = transferring(w);
        let last = bridging(w, &mut agent, &mut human, &invite);
        w.silence(AGENT_RTP);
        w.assert_bridges(&["4000<>4200"]);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
}

#[test]
fn silence_of_the_human_ends_the_call() {
    flow(config, |w| {
        let (mut caller, mut human) = transferred(w);
        w.silence(HUMAN_RTP);
        gets_bye(w, &mut caller);
        gets_bye(w, &mut human);
        w.assert_cdr(&[
            "1 in carrier 200 media_timeout edge",
            &format!("2 out ai 200 completed edge {REFERS}"),
            &format!("3 out agents 200 media_timeout edge transfer:1.1 {VIA}: completed"),
        ]);
    });
}

/// An edge with both families, and live agents that speak IPv6 only.
fn six_agents(bridge: bool) -> Config {
    config_with(|config| {
        config
            .listeners
            .push(listener(1, "six", Transport::Tcp, V6.edge));
        config.media.ipv6 = Some(media_address(V6.edge));
        edit_trunk(config, "agents", |trunk| {
            trunk.listen.push(edge_proto::id::ListenerId(1));
            trunk.allow = vec![V6.human.ip().into()];
            trunk.uris = vec![uri(V6.human)];
            trunk.network = Network::Ipv6;
            trunk.bridge_families = bridge;
        });
    })
}

#[test]
fn families_that_do_not_match() {
    flow(
        || six_agents(false),
        |w| {
            let (mut caller, mut agent) = answered(w);
            refers(w, &mut agent, TARGET, &[]);
            let refusal = agent.gets(w, "403 REFER");
            assert_eq!(
                refusal.header(HeaderName::Reason),
                Some("SIP;cause=403;text=\"network_mismatch\"")
            );
            assert_eq!(
                w.verdicts(),
                ["401 transfer_unauthorized", "403 network_mismatch"]
            );
            assert!(w.connects.iter().all(|c| c.remote == w.site.ai));
            hang_up(w, &mut caller, &mut [&mut agent]);
        },
    );
}

#[test]
fn families_that_are_bridged() {
    flow(
        || six_agents(true),
        |w| {
            let (mut caller, mut agent) = answered(w);
            referred(w, &mut agent, TARGET, &[]);
            let (mut human, invite) = invited(w, V6.human, HUMAN_RTP);
            let shown = text(&invite);
            assert!(shown.contains("c=IN IP6 2001:db8::1\r\n"), "{shown}");
            let last = bridging(w, &mut agent, &mut human, &invite);
            w.assert_bridges(&["4000<>4200"]);
            agent.answers(w, &last, 200);
            gets_bye(w, &mut agent);
            hang_up(w, &mut caller, &mut [&mut human]);
        },
    );
}

#[test]
fn addresses_of_the_other_family_are_passed_over() {
    // The agents' name leads to both families; the call is IPv4.
    let config = || {
        let mut config = six_agents(false);
        edit_trunk(&mut config, "agents", |trunk| {
            trunk.network = Network::Dual;
            trunk.allow.push(V4.human.ip().into());
            trunk.uris = vec![named_uri("agents.example.net", None)];
        });
        config
    };
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        referred(w, &mut agent, TARGET, &[]);
        w.resolve(Ok(vec![V6.human, w.site.human]));
        w.assert_silent(V6.human);
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        let last = bridging(w, &mut agent, &mut human, &invite);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
    flow(config, |w| {
        let (caller, mut agent) = answered(w);
        referred(w, &mut agent, TARGET, &[]);
        w.resolve(Ok(vec![V6.human]));
        gets_failure(w, &mut agent, "488 Not Acceptable Here", "network_mismatch");
        returned(w, caller, agent);
    });
}

#[test]
fn a_fallback_of_the_other_family_is_passed_over() {
    let config = || {
        let mut config = six_agents(false);
        edit_policy(&mut config, |policy| {
            policy.via = Some("spare".into());
            policy.fallback = vec![
                "sip:x@[2001:db8::30]:5080".into(),
                "sip:desk@192.0.2.40".into(),
            ];
        });
        config
    };
    flow(config, |w| {
        let (caller, mut agent) = answered(w);
        referred(w, &mut agent, TARGET, &[]);
        for _ in 0..2 {
            let (mut desk, invite) = invited(w, w.site.spare, SPARE_RTP);
            desk.answers(w, &invite, 486);
            desk.gets(w, "ACK");
        }
        w.assert_silent(V6.human);
        gets_failure(w, &mut agent, "486 Busy Here", "busy");
        returned(w, caller, agent);
        assert!(
            w.cdr().contains(
                &"4 out agents - network_mismatch edge transfer:1.2 sip:x@[2001:db8::30]:5080 via agents: failed".to_owned()
            ),
            "{:?}",
            w.cdr()
        );
    });
}
