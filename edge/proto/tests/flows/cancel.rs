//! Callers that give up.

use crate::harness::*;

/// The caller's CANCEL is answered, and its INVITE with 487.
fn cancelled(w: &mut World, caller: &mut Ua) {
    caller.cancels(w);
    let ok = caller.gets(w, "200 CANCEL");
    let ended = caller.gets(w, "487 INVITE");
    // RFC 3261 §9.2: both carry the same tag.
    assert_eq!(ok.to_tag(), ended.to_tag());
    caller.acks(w, &ended);
}

#[test]
fn while_the_callee_rings() {
    flow(config, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        cancelled(w, &mut caller);
        let cancel = agent.gets(w, "CANCEL");
        // RFC 3261 §9.1: everything by which it is matched is the INVITE's.
        assert_eq!(cancel.request_uri(), invite.request_uri());
        assert_eq!(
            cancel.headers(HeaderName::Via).collect::<Vec<_>>(),
            invite.headers(HeaderName::Via).collect::<Vec<_>>()
        );
        assert_eq!(cancel.cseq().number, invite.cseq().number);
        assert_eq!(
            cancel.header(HeaderName::Reason),
            Some("SIP;cause=487;text=\"cancelled\"")
        );
        agent.answers(w, &cancel, 200);
        agent.answers(w, &invite, 487);
        agent.gets(w, "ACK");
        w.assert_cdr(&[
            "1 in carrier 487 cancelled remote",
            "2 out ai 487 cancelled local",
        ]);
    });
}

#[test]
fn before_the_callee_said_anything() {
    flow(config, |w| {
        let mut caller = calling(w);
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        cancelled(w, &mut caller);
        // RFC 3261 §9.1: not before a provisional response.
        w.assert_silent(w.site.ai);
        w.advance(seconds(3));
        agent.answers(w, &invite, 100);
        let cancel = agent.gets(w, "CANCEL");
        agent.answers(w, &cancel, 200);
        agent.answers(w, &invite, 487);
        agent.gets(w, "ACK");
        w.assert_silent(w.site.carrier);
        w.assert_cdr(&[
            "1 in carrier 487 cancelled remote",
            "2 out ai 487 cancelled local",
        ]);
    });
}

#[test]
fn of_a_callee_that_never_says_anything() {
    flow(config, |w| {
        let mut caller = calling(w);
        invited(w, w.site.ai, AGENT_RTP);
        cancelled(w, &mut caller);
        w.advance(seconds(33));
        w.assert_silent(w.site.ai);
        w.assert_cdr(&[
            "1 in carrier 487 cancelled remote",
            "2 out ai - cancelled local",
        ]);
    });
}

#[test]
fn of_a_callee_that_only_answers_the_cancel() {
    flow(config, |w| {
        let (mut caller, mut agent, _) = ringing(w);
        cancelled(w, &mut caller);
        let cancel = agent.gets(w, "CANCEL");
        agent.answers(w, &cancel, 200);
        w.advance(seconds(40));
        w.assert_cdr(&[
            "1 in carrier 487 cancelled remote",
            "2 out ai - cancelled local",
        ]);
    });
}

#[test]
fn racing_the_answer_before_anything_was_said() {
    flow(config, |w| {
        let mut caller = calling(w);
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        cancelled(w, &mut caller);
        // The answer comes first: no CANCEL is sent at all.
        agent.accepts(w, &invite, 200);
        agent.gets(w, "ACK");
        gets_bye(w, &mut agent);
        w.assert_cdr(&[
            "1 in carrier 487 cancelled remote",
            "2 out ai 200 cancelled local",
        ]);
    });
}

#[test]
fn racing_the_answer() {
    flow(config, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        cancelled(w, &mut caller);
        let cancel = agent.gets(w, "CANCEL");
        // It had answered already.
        let ok = agent.response(&invite, 200, &[], &agent.sdp.text());
        w.send(agent.link, agent.address, ok.clone());
        agent.gets(w, "ACK");
        let bye = agent.gets(w, "BYE");
        agent.answers(w, &cancel, 200);
        w.send(agent.link, agent.address, ok);
        agent.gets(w, "ACK");
        agent.answers(w, &bye, 200);
        w.assert_bridges(&[]);
        w.assert_cdr(&[
            "1 in carrier 487 cancelled remote",
            "2 out ai 200 cancelled local",
        ]);
    });
}

#[test]
fn too_late() {
    flow(config, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        agent.accepts(w, &invite, 200);
        agent.gets(w, "ACK");
        // The CANCEL crosses our 200.
        caller.cancels(w);
        let ok = caller.gets(w, "200 INVITE");
        caller.gets(w, "200 CANCEL");
        caller.acks(w, &ok);
        w.assert_bridges(&["4000<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn of_an_invite_that_was_refused() {
    flow(config, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        agent.answers(w, &invite, 486);
        agent.gets(w, "ACK");
        caller.cancels(w);
        let busy = caller.gets(w, "486 INVITE");
        caller.gets(w, "200 CANCEL");
        caller.acks(w, &busy);
    });
}

#[test]
fn of_nothing() {
    flow(config, |w| {
        let mut ua = Ua::caller(w, w.site.carrier, NUMBER, 4000);
        let text = ua.request("INVITE", &[], "");
        drop(text);
        ua.cancels(w);
        ua.gets(w, "481 CANCEL");
        w.assert_cdr(&[]);
    });
}

#[test]
fn over_another_connection() {
    flow(config, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        caller.reconnects(w);
        caller.cancels(w);
        let answers = caller.gets_all(w, &["200 CANCEL", "487 INVITE"]);
        caller.acks(w, &answers[1]);
        let cancel = agent.gets(w, "CANCEL");
        agent.answers(w, &cancel, 200);
        agent.answers(w, &invite, 487);
        agent.gets(w, "ACK");
    });
}

#[test]
fn by_somebody_else() {
    flow(config, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        // The human's trunk has learnt the branch.
        w.laws.may_show.push("192.0.2.10".into());
        let link = Link::Stream(w.connect(w.site.human));
        let text = caller.cancel_text();
        w.send(link, w.site.human, text);
        let (_, refusal) = w.recv(w.site.human);
        assert_eq!(refusal.status(), Some(481));
        w.assert_silent(w.site.carrier);
        agent.answers(w, &invite, 486);
        agent.gets(w, "ACK");
        let busy = caller.gets(w, "486 INVITE");
        caller.acks(w, &busy);
    });
}

#[test]
fn while_the_callee_is_looked_up() {
    let config = || {
        trunk_with("ai", |trunk| {
            trunk.uris = vec![named_uri("ai.example.net", None)];
        })
    };
    flow(config, |w| {
        let mut caller = calling(w);
        cancelled(w, &mut caller);
        w.resolve(Ok(vec![w.site.ai]));
        w.assert_silent(w.site.ai);
        w.assert_cdr(&[
            "1 in carrier 487 cancelled remote",
            "2 out ai - cancelled local",
        ]);
    });
}

#[test]
fn a_bye_in_the_early_dialog() {
    flow(config, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        // RFC 3261 §15: a caller may do that, too.
        caller.says(w, "BYE");
        caller.gets(w, "200 BYE");
        let ended = caller.gets(w, "487 INVITE");
        caller.acks(w, &ended);
        let cancel = agent.gets(w, "CANCEL");
        agent.answers(w, &cancel, 200);
        agent.answers(w, &invite, 487);
        agent.gets(w, "ACK");
        w.assert_cdr(&[
            "1 in carrier 487 cancelled remote",
            "2 out ai 487 cancelled local",
        ]);
    });
}
