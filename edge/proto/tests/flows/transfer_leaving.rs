//! Parties that leave in the middle of a transfer.

use crate::harness::*;

const VIA: &str = "sip:+1234567890@edge.example.net via agents";
const REFERS: &str = "refer:401 transfer_unauthorized refer:202";

/// The agent hangs up right after the 202, before it has answered the first NOTIFY.
fn agent_leaves(w: &mut World) -> (Ua, Ua, Message) {
    let (caller, mut agent) = answered(w);
    refers(w, &mut agent, TARGET, &[]);
    agent.gets(w, "202 REFER");
    let notify = agent.gets(w, "NOTIFY");
    let (human, invite) = invited(w, w.site.human, HUMAN_RTP);
    agent.says(w, "BYE");
    agent.gets(w, "200 BYE");
    // RFC 5589 §6.1: it may; the NOTIFY finds no dialog any more.
    agent.answers(w, &notify, 481);
    w.assert_silent(w.site.carrier);
    w.assert_bridges(&[]);
    (caller, human, invite)
}

#[test]
fn the_agent_right_after_the_202_and_the_transfer_succeeds() {
    flow(config, |w| {
        let (mut caller, mut human, invite) = agent_leaves(w);
        human.answers(w, &invite, 180);
        human.accepts(w, &invite, 200);
        human.gets(w, "ACK");
        w.assert_bridges(&["4000<>4200"]);
        w.assert_silent(w.site.ai);
        w.advance(seconds(60));
        hang_up(w, &mut caller, &mut [&mut human]);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            &format!("2 out ai 200 completed remote {REFERS}"),
            &format!("3 out agents 200 completed local transfer:1.1 {VIA}: completed"),
        ]);
    });
}

#[test]
fn the_agent_right_after_the_202_and_the_transfer_fails() {
    flow(config, |w| {
        let (mut caller, mut human, invite) = agent_leaves(w);
        human.answers(w, &invite, 486);
        human.gets(w, "ACK");
        // Nobody is left to return to.
        let bye = gets_bye(w, &mut caller);
        assert_eq!(
            bye.header(HeaderName::Reason),
            Some("SIP;cause=486;text=\"busy\"")
        );
        w.assert_silent(w.site.ai);
        w.assert_cdr(&[
            "1 in carrier 200 busy edge",
            &format!("2 out ai 200 completed remote {REFERS}"),
            &format!("3 out agents 486 busy remote transfer:1.1 {VIA}: busy"),
        ]);
    });
}

#[test]
fn the_agent_right_after_the_202_and_a_fallback_is_left() {
    let config = || policy_with(|policy| policy.fallback = vec!["sip:desk@192.0.2.40".into()]);
    flow(config, |w| {
        let (mut caller, mut human, invite) = agent_leaves(w);
        human.answers(w, &invite, 486);
        human.gets(w, "ACK");
        let (mut desk, invite) = invited(w, w.site.spare, SPARE_RTP);
        desk.accepts(w, &invite, 200);
        desk.gets(w, "ACK");
        w.assert_bridges(&["4000<>4300"]);
        hang_up(w, &mut caller, &mut [&mut desk]);
    });
}

#[test]
fn the_agent_and_then_the_caller() {
    flow(config, |w| {
        let (mut caller, mut human, invite) = agent_leaves(w);
        human.answers(w, &invite, 180);
        caller.says(w, "BYE");
        caller.gets(w, "200 BYE");
        let cancel = human.gets(w, "CANCEL");
        human.answers(w, &cancel, 200);
        human.answers(w, &invite, 487);
        human.gets(w, "ACK");
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            &format!("2 out ai 200 completed remote {REFERS}"),
            &format!("3 out agents 487 cancelled local transfer:1.1 {VIA}: cancelled"),
        ]);
    });
}

#[test]
fn the_agent_before_it_has_answered_the_final_notify() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = transferring(w);
        let last = bridging(w, &mut agent, &mut human, &invite);
        agent.says(w, "BYE");
        agent.gets(w, "200 BYE");
        agent.answers(w, &last, 200);
        w.advance(seconds(60));
        w.assert_silent(w.site.ai);
        w.assert_bridges(&["4000<>4200"]);
        hang_up(w, &mut caller, &mut [&mut human]);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            &format!("2 out ai 200 completed remote {REFERS}"),
            &format!("3 out agents 200 completed local transfer:1.1 {VIA}: completed"),
        ]);
    });
}

#[test]
fn the_agent_while_our_bye_is_on_its_way() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = transferring(w);
        let last = bridging(w, &mut agent, &mut human, &invite);
        agent.answers(w, &last, 200);
        let bye = agent.gets(w, "BYE");
        agent.says(w, "BYE");
        agent.gets(w, "200 BYE");
        agent.answers(w, &bye, 200);
        w.assert_bridges(&["4000<>4200"]);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
}

#[test]
fn the_agent_after_a_failure() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = transferring(w);
        human.answers(w, &invite, 486);
        human.gets(w, "ACK");
        let last = agent.gets(w, "NOTIFY");
        assert_eq!(sipfrag(&last), "486 Busy Here");
        agent.says(w, "BYE");
        agent.gets(w, "200 BYE");
        agent.answers(w, &last, 200);
        gets_bye(w, &mut caller);
        w.assert_cdr(&[
            "1 in carrier 200 completed local",
            &format!("2 out ai 200 completed remote {REFERS}"),
            &format!("3 out agents 486 busy remote transfer:1.1 {VIA}: busy"),
        ]);
    });
}

#[test]
fn the_caller_while_the_human_rings() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = transferring(w);
        human.answers(w, &invite, 180);
        gets_notify(w, &mut agent, "180 Ringing");
        caller.says(w, "BYE");
        caller.gets(w, "200 BYE");
        let cancel = human.gets(w, "CANCEL");
        assert_eq!(
            cancel.header(HeaderName::Reason),
            Some("SIP;cause=487;text=\"cancelled\"")
        );
        human.answers(w, &cancel, 200);
        human.answers(w, &invite, 487);
        human.gets(w, "ACK");
        // The agent is told, and then released.
        let last = agent.gets(w, "NOTIFY");
        assert_eq!(sipfrag(&last), "487 Request Terminated");
        w.assert_silent(w.site.ai);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        w.assert_bridges(&[]);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            &format!("2 out ai 200 completed edge {REFERS}"),
            &format!("3 out agents 487 cancelled local transfer:1.1 {VIA}: cancelled"),
        ]);
        w.assert_told(&["2 transfer_ended: transfer 1: cancelled"]);
    });
}

#[test]
fn the_caller_as_the_human_answers() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = transferring(w);
        human.answers(w, &invite, 180);
        gets_notify(w, &mut agent, "180 Ringing");
        caller.says(w, "BYE");
        caller.gets(w, "200 BYE");
        let cancel = human.gets(w, "CANCEL");
        human.accepts(w, &invite, 200);
        human.gets(w, "ACK");
        let bye = human.gets(w, "BYE");
        human.answers(w, &cancel, 481);
        human.answers(w, &bye, 200);
        gets_notify(w, &mut agent, "487 Request Terminated");
        gets_bye(w, &mut agent);
        w.assert_bridges(&[]);
        assert_eq!(w.record("agents").sip_status, Some(200));
    });
}

#[test]
fn the_caller_before_the_human_was_reached() {
    let config = || {
        trunk_with("agents", |trunk| {
            trunk.uris = vec![named_uri("agents.example.net", None)];
        })
    };
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        referred(w, &mut agent, TARGET, &[]);
        caller.says(w, "BYE");
        caller.gets(w, "200 BYE");
        gets_notify(w, &mut agent, "487 Request Terminated");
        gets_bye(w, &mut agent);
        w.resolve(Ok(vec![w.site.human]));
        w.assert_silent(w.site.human);
    });
}

#[test]
fn the_caller_after_the_human_answered() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = transferring(w);
        let last = bridging(w, &mut agent, &mut human, &invite);
        // The agent has not yet heard of the success.
        caller.says(w, "BYE");
        caller.gets(w, "200 BYE");
        gets_bye(w, &mut human);
        w.assert_silent(w.site.ai);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            &format!("2 out ai 200 completed edge {REFERS}"),
            &format!("3 out agents 200 completed local transfer:1.1 {VIA}: completed"),
        ]);
    });
}

#[test]
fn the_human_at_once() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = transferring(w);
        // The BYE follows the 200 before anything else happens.
        human.accepts(w, &invite, 200);
        let ack = human.gets(w, "ACK");
        human.says(w, "BYE");
        human.gets(w, "200 BYE");
        assert_eq!(ack.cseq().number, invite.cseq().number);
        // They were connected: the call is over.
        gets_bye(w, &mut caller);
        let last = agent.gets(w, "NOTIFY");
        assert_eq!(sipfrag(&last), "200 OK");
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        w.assert_cdr(&[
            "1 in carrier 200 completed local",
            &format!("2 out ai 200 completed edge {REFERS}"),
            &format!("3 out agents 200 completed remote transfer:1.1 {VIA}: completed"),
        ]);
    });
}

#[test]
fn the_human_after_the_agent_was_released() {
    flow(config, |w| {
        let (mut caller, mut human) = transferred(w);
        hang_up(w, &mut human, &mut [&mut caller]);
        w.assert_cdr(&[
            "1 in carrier 200 completed local",
            &format!("2 out ai 200 completed edge {REFERS}"),
            &format!("3 out agents 200 completed remote transfer:1.1 {VIA}: completed"),
        ]);
    });
}

#[test]
fn the_agents_connection_and_a_new_one_is_made() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = transferring(w);
        for connection in w.connections(w.site.ai) {
            w.reset(connection);
        }
        let connects = w.connects.len();
        let last = bridging(w, &mut agent, &mut human, &invite);
        assert_eq!(w.connects.len(), connects + 1);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
}

#[test]
fn the_agents_connection_with_a_notify_on_its_way() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = transferring(w);
        human.accepts(w, &invite, 200);
        human.gets(w, "ACK");
        agent.gets(w, "NOTIFY");
        for connection in w.connections(w.site.ai) {
            w.reset(connection);
        }
        // It may never have arrived: it is sent again over a new connection.
        let last = agent.gets(w, "NOTIFY");
        assert_eq!(sipfrag(&last), "200 OK");
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
}

#[test]
fn a_connection_with_a_bye_on_its_way() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        caller.says(w, "BYE");
        caller.gets(w, "200 BYE");
        agent.gets(w, "BYE");
        for connection in w.connections(w.site.ai) {
            w.reset(connection);
        }
        gets_bye(w, &mut agent);
    });
    // Once: a peer that closes every connection is not called again and again.
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        caller.says(w, "BYE");
        caller.gets(w, "200 BYE");
        for _ in 0..2 {
            agent.gets(w, "BYE");
            for connection in w.connections(w.site.ai) {
                w.reset(connection);
            }
        }
        w.assert_silent(w.site.ai);
    });
}

#[test]
fn the_callers_connection_and_its_contact_is_called() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        for connection in w.connections(w.site.carrier) {
            w.reset(connection);
        }
        agent.says(w, "BYE");
        agent.gets(w, "200 BYE");
        assert_eq!(
            w.connects.last().map(|connect| connect.remote),
            Some(w.site.carrier)
        );
        gets_bye(w, &mut caller);
    });
    // A Contact that the trunk does not list is not called: the caller cannot be reached.
    flow(config, |w| {
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        caller.contact = "<sip:ua@198.51.100.9:5060;transport=tcp>".into();
        caller.invites(w);
        caller.gets(w, "100 INVITE");
        let (agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        let (_, mut agent) = answering(w, caller, agent, &invite);
        for connection in w.connections(w.site.carrier) {
            w.reset(connection);
        }
        let connects = w.connects.len();
        agent.says(w, "BYE");
        agent.gets(w, "200 BYE");
        assert_eq!(w.connects.len(), connects);
        w.assert_told(&["1 bye: the peer cannot be reached any more [unreachable]"]);
    });
}

#[test]
fn a_contact_that_names_another_trunks_peer() {
    flow(config, |w| {
        // A human is on the line: there is a connection to their trunk.
        let (mut first, mut human) = transferred(w);
        let (caller, mut agent, invite) = ringing(w);
        agent.contact = format!("<sip:x@{};transport=tcp>", w.site.human);
        w.laws.may_show.push("192.0.2.30".into());
        let (mut caller, mut agent) = answering(w, caller, agent, &invite);
        caller.says(w, "BYE");
        caller.gets(w, "200 BYE");
        w.assert_silent(w.site.human);
        gets_bye(w, &mut agent);
        hang_up(w, &mut first, &mut [&mut human]);
    });
}
