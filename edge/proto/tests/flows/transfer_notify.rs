//! The subscription of a REFER: what the agent is told, in which order, and what becomes of an agent that does not listen.

use crate::harness::*;

#[test]
fn every_step_is_told_in_order() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        refers(w, &mut agent, TARGET, &[]);
        agent.gets(w, "202 REFER");
        // RFC 3515 §2.4.4: at once, and one at a time.
        let first = agent.gets(w, "NOTIFY");
        assert_eq!(sipfrag(&first), "100 Trying");
        assert_eq!(first.header(HeaderName::Event), Some("refer"));
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        human.answers(w, &invite, 180);
        human.answers(w, &invite, 183);
        w.assert_silent(w.site.ai);
        agent.answers(w, &first, 200);
        gets_notify(w, &mut agent, "180 Ringing");
        gets_notify(w, &mut agent, "183 Session Progress");
        let last = bridging(w, &mut agent, &mut human, &invite);
        assert_eq!(
            last.header(HeaderName::SubscriptionState),
            Some("terminated;reason=noresource")
        );
        assert_eq!(last.header(HeaderName::Reason), None);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
}

#[test]
fn the_agent_knows_no_subscription() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        refers(w, &mut agent, TARGET, &[]);
        agent.gets(w, "202 REFER");
        let first = agent.gets(w, "NOTIFY");
        agent.answers(w, &first, 481);
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        human.answers(w, &invite, 180);
        w.assert_silent(w.site.ai);
        // The transfer goes on; the agent is released without another word.
        human.accepts(w, &invite, 200);
        human.gets(w, "ACK");
        w.assert_bridges(&["4000<>4200"]);
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
}

#[test]
fn the_final_notify_is_refused() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = transferring(w);
        let last = bridging(w, &mut agent, &mut human, &invite);
        agent.answers(w, &last, 481);
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
}

#[test]
fn the_final_notify_is_never_answered() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = transferring(w);
        bridging(w, &mut agent, &mut human, &invite);
        w.advance(millis(3_999));
        w.assert_silent(w.site.ai);
        w.advance(millis(1));
        gets_bye(w, &mut agent);
        w.assert_bridges(&["4000<>4200"]);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
}

#[test]
fn no_notify_is_ever_answered() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        refers(w, &mut agent, TARGET, &[]);
        agent.gets(w, "202 REFER");
        agent.gets(w, "NOTIFY");
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        human.accepts(w, &invite, 200);
        human.gets(w, "ACK");
        w.assert_silent(w.site.ai);
        // The outcome is told all the same.
        w.advance(seconds(4));
        let last = agent.gets(w, "NOTIFY");
        assert_eq!(sipfrag(&last), "200 OK");
        w.advance(seconds(4));
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
}

/// What waits behind others has its time from when these have had theirs.
#[test]
fn an_outcome_waits_for_the_answer_to_a_notify_that_has_only_just_left() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = transferring(w);
        human.answers(w, &invite, 486);
        human.gets(w, "ACK");
        let failed = agent.gets(w, "NOTIFY");
        assert_eq!(sipfrag(&failed), "486 Busy Here");
        refers(w, &mut agent, TARGET, &[]);
        agent.gets(w, "202 REFER");
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        human.accepts(w, &invite, 200);
        human.gets(w, "ACK");
        w.advance(millis(3_900));
        w.assert_silent(w.site.ai);
        agent.answers(w, &failed, 200);
        let first = agent.gets(w, "NOTIFY");
        assert_eq!(sipfrag(&first), "100 Trying");
        w.advance(millis(3_900));
        w.assert_silent(w.site.ai);
        agent.answers(w, &first, 200);
        let last = agent.gets(w, "NOTIFY");
        assert_eq!(sipfrag(&last), "200 OK");
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
}

#[test]
fn no_subscription_is_wanted() {
    // RFC 4488.
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        let extra = ["Refer-Sub: false", "Require: norefersub"];
        refers(w, &mut agent, TARGET, &extra);
        let accepted = agent.gets(w, "202 REFER");
        assert_eq!(accepted.header(HeaderName::ReferSub), Some("false"));
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        human.answers(w, &invite, 180);
        w.assert_silent(w.site.ai);
        human.accepts(w, &invite, 200);
        human.gets(w, "ACK");
        gets_bye(w, &mut agent);
        w.assert_bridges(&["4000<>4200"]);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
    flow(config, |w| {
        let (caller, mut agent) = answered(w);
        refers(w, &mut agent, TARGET, &["Refer-Sub: false"]);
        agent.gets(w, "202 REFER");
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        human.answers(w, &invite, 486);
        human.gets(w, "ACK");
        returned(w, caller, agent);
    });
}

#[test]
fn a_second_refer_of_the_same_dialog() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = transferring(w);
        human.answers(w, &invite, 486);
        human.gets(w, "ACK");
        gets_failure(w, &mut agent, "486 Busy Here", "busy");
        refers(w, &mut agent, TARGET, &[]);
        let event = format!("refer;id={}", agent.cseq);
        agent.gets(w, "202 REFER");
        let first = gets_notify(w, &mut agent, "100 Trying");
        assert_eq!(first.header(HeaderName::Event), Some(event.as_str()));
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        let last = bridging(w, &mut agent, &mut human, &invite);
        assert_eq!(last.header(HeaderName::Event), Some(event.as_str()));
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
        let transfers: Vec<_> = w
            .records()
            .into_iter()
            .filter_map(|record| record.transfer.as_ref())
            .map(|transfer| (transfer.id, transfer.attempt, transfer.result))
            .collect();
        assert_eq!(transfers, [(1, 1, "busy"), (2, 1, "completed")]);
    });
}

#[test]
fn a_refer_that_comes_again_transfers_once() {
    // Without digest no nonce count tells the copy from a new REFER, and its transaction is not the first one's: its number does.
    let config = || policy_with(|policy| policy.auth = ReferAuth::Dialog);
    for extra in [&[][..], &["Refer-Sub: false"]] {
        flow(config, |w| {
            let (caller, mut agent) = answered(w);
            let mut lines = vec![format!("Refer-To: {TARGET}")];
            lines.extend(extra.iter().map(|line| (*line).to_owned()));
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            agent.sends(w, "REFER", &lines, "");
            agent.gets(w, "202 REFER");
            if extra.is_empty() {
                gets_notify(w, &mut agent, "100 Trying");
            }
            let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
            human.answers(w, &invite, 486);
            human.gets(w, "ACK");
            if extra.is_empty() {
                gets_failure(w, &mut agent, "486 Busy Here", "busy");
            }
            // As after a lost connection (RFC 3263 §4.3): another branch, the same number.
            agent.cseq -= 1;
            agent.sends(w, "REFER", &lines, "");
            agent.gets(w, "500 REFER");
            w.assert_silent(w.site.human);
            returned(w, caller, agent);
        });
    }
}

#[test]
fn the_human_transfers_on() {
    let config = || {
        config_with(|config| {
            edit_policy(config, |policy| policy.max_transfers = 2);
            edit_trunk(config, "agents", |trunk| {
                trunk.transfer = Some(TransferPolicy {
                    max_transfers: 2,
                    auth: ReferAuth::Dialog,
                    via: Some("spare".into()),
                    targets: vec!["+1*".into()],
                    ..TransferPolicy::default()
                });
            });
        })
    };
    flow(config, |w| {
        let (mut caller, mut human) = transferred(w);
        human.sends(w, "REFER", &["Refer-To: <tel:+1555>"], "");
        human.gets(w, "202 REFER");
        // It is the first REFER of this dialog.
        let first = gets_notify(w, &mut human, "100 Trying");
        assert_eq!(first.header(HeaderName::Event), Some("refer"));
        let (mut expert, invite) = invited(w, w.site.spare, SPARE_RTP);
        assert!(invite.from_header().contains(CALLER));
        let last = bridging(w, &mut human, &mut expert, &invite);
        w.assert_bridges(&["4000<>4300"]);
        human.answers(w, &last, 200);
        gets_bye(w, &mut human);
        hang_up(w, &mut caller, &mut [&mut expert]);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            "2 out ai 200 completed edge refer:401 transfer_unauthorized refer:202",
            "3 out agents 200 completed edge refer:202 transfer:1.1 sip:+1234567890@edge.example.net via agents: completed",
            "4 out spare 200 completed local transfer:2.1 tel:+1555 via spare: completed",
        ]);
    });
}
