//! The checks of a REFER, in their order, each with its own status, cause and reason.

use crate::harness::*;

/// Sends a REFER without credentials, and expects this answer.
fn refused(w: &mut World, ua: &mut Ua, target: &str, status: u16) -> Message {
    ua.sends(w, "REFER", &[&format!("Refer-To: {target}")], "");
    ua.gets(w, &format!("{status} REFER"))
}

fn reason(message: &Message) -> &str {
    message.header(HeaderName::Reason).expect("a Reason")
}

/// The policy trusts whoever is in the dialog, so that the checks behind authentication are reached at once.
fn trusting() -> Config {
    policy_with(|policy| policy.auth = ReferAuth::Dialog)
}

#[test]
fn outside_any_dialog() {
    flow(config, |w| {
        let mut ua = Ua::caller(w, w.site.ai, NUMBER, AGENT_RTP);
        refused(w, &mut ua, TARGET, 481);
        assert_eq!(w.verdicts(), ["481 dialog_unknown"]);
        w.assert_told(&[
            "- refer: REFER to <sip:+1234567890@edge.example.net> refused with 481 [dialog_unknown: ",
        ]);
        w.assert_silent(w.site.human);
    });
}

#[test]
fn with_tags_of_no_dialog() {
    flow(trusting, |w| {
        let (mut caller, mut agent) = answered(w);
        // Our tag is right, the peer's is not.
        let mut other = agent.clone();
        other.local = other.local.replace("callee4100", "other");
        refused(w, &mut other, TARGET, 481);
        // The peer's is right, ours is not.
        let mut other = agent.clone();
        other.remote.push('0');
        other.cseq += 1;
        refused(w, &mut other, TARGET, 481);
        assert_eq!(w.verdicts(), ["481 dialog_unknown", "481 dialog_unknown"]);
        w.assert_silent(w.site.human);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn from_a_source_that_the_dialogs_trunk_does_not_list() {
    flow(trusting, |w| {
        let (mut caller, mut agent) = answered(w);
        let mut thief = agent.clone();
        thief.address = w.site.human;
        thief.contact = "<sip:thief@192.0.2.30:5080;transport=tcp>".into();
        thief.reconnects(w);
        w.laws.may_show.push("192.0.2.20".into());
        let refusal = refused(w, &mut thief, TARGET, 403);
        assert_eq!(
            reason(&refusal),
            "SIP;cause=403;text=\"transfer_unauthorized\""
        );
        assert_eq!(w.verdicts(), ["403 transfer_unauthorized"]);
        w.assert_told(&[
            "2 refer: REFER to <sip:+1234567890@edge.example.net> refused with 403 [transfer_unauthorized: the source is not in the allow list of trunk \"ai\"]",
        ]);
        w.assert_silent(w.site.human);
        hang_up(w, &mut caller, &mut [&mut agent]);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            "2 out ai 200 completed local refer:403 transfer_unauthorized",
        ]);
    });
}

#[test]
fn before_the_call_is_answered() {
    flow(trusting, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        let refusal = refused(w, &mut agent, TARGET, 403);
        assert_eq!(reason(&refusal), "SIP;cause=403;text=\"not_answered\"");
        assert_eq!(w.verdicts(), ["403 not_answered"]);
        agent.answers(w, &invite, 603);
        agent.gets(w, "ACK");
        let declined = caller.gets(w, "603 INVITE");
        caller.acks(w, &declined);
        w.assert_cdr(&[
            "1 in carrier 603 rejected local",
            "2 out ai 603 rejected remote refer:403 not_answered",
        ]);
    });
}

#[test]
fn between_the_answer_and_its_ack() {
    // RFC 3515 lets a REFER race the ACK: the call is answered.
    flow(trusting, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        agent.accepts(w, &invite, 200);
        agent.gets(w, "ACK");
        let ok = caller.gets(w, "200 INVITE");
        agent.sends(w, "REFER", &[&format!("Refer-To: {TARGET}")], "");
        agent.gets(w, "202 REFER");
        gets_notify(w, &mut agent, "100 Trying");
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        caller.acks(w, &ok);
        let last = bridging(w, &mut agent, &mut human, &invite);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
}

#[test]
fn while_another_transfer_is_pending() {
    flow(trusting, |w| {
        let (mut caller, mut agent) = answered(w);
        agent.sends(w, "REFER", &[&format!("Refer-To: {TARGET}")], "");
        agent.gets(w, "202 REFER");
        gets_notify(w, &mut agent, "100 Trying");
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        let refusal = refused(w, &mut agent, TARGET, 491);
        assert_eq!(reason(&refusal), "SIP;cause=491;text=\"transfer_pending\"");
        // Also while the outcome is being told.
        let last = bridging(w, &mut agent, &mut human, &invite);
        refused(w, &mut agent, TARGET, 491);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
        assert_eq!(
            w.verdicts(),
            ["202", "491 transfer_pending", "491 transfer_pending"]
        );
    });
}

#[test]
fn where_transfers_are_disabled() {
    for config in [
        (|| trunk_with("ai", |trunk| trunk.transfer = None)) as fn() -> Config,
        || policy_with(|policy| policy.max_transfers = 0),
    ] {
        flow(config, |w| {
            let (mut caller, mut agent) = answered(w);
            // Nothing is asked for: there is nothing that credentials could buy.
            let refusal = refused(w, &mut agent, TARGET, 403);
            assert_eq!(reason(&refusal), "SIP;cause=403;text=\"transfer_disabled\"");
            assert_eq!(w.verdicts(), ["403 transfer_disabled"]);
            assert!(w.digests().is_empty());
            w.assert_silent(w.site.human);
            hang_up(w, &mut caller, &mut [&mut agent]);
            w.assert_cdr(&[
                "1 in carrier 200 completed remote",
                "2 out ai 200 completed local refer:403 transfer_disabled",
            ]);
        });
    }
}

#[test]
fn from_the_caller() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        refused(w, &mut caller, TARGET, 403);
        assert_eq!(w.verdicts(), ["403 transfer_disabled"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote refer:403 transfer_disabled",
            "2 out ai 200 completed local",
        ]);
    });
}

#[test]
fn without_transfers_left() {
    let config = || {
        config_with(|config| {
            edit_policy(config, |policy| policy.auth = ReferAuth::Dialog);
            // The human may transfer, too; the call has used up its transfers.
            edit_trunk(config, "agents", |trunk| {
                trunk.transfer = Some(TransferPolicy {
                    max_transfers: 1,
                    auth: ReferAuth::Dialog,
                    via: Some("spare".into()),
                    targets: vec!["+1*".into()],
                    ..TransferPolicy::default()
                });
            });
        })
    };
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        agent.sends(w, "REFER", &[&format!("Refer-To: {TARGET}")], "");
        agent.gets(w, "202 REFER");
        gets_notify(w, &mut agent, "100 Trying");
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        let last = bridging(w, &mut agent, &mut human, &invite);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        let refusal = refused(w, &mut human, TARGET, 403);
        assert_eq!(reason(&refusal), "SIP;cause=403;text=\"transfer_limit\"");
        w.assert_told(&[
            "3 refer: REFER to <sip:+1234567890@edge.example.net> refused with 403 [transfer_limit: the call already had 1 of 1 transfers]",
        ]);
        w.assert_bridges(&["4000<>4200"]);
        hang_up(w, &mut caller, &mut [&mut human]);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            "2 out ai 200 completed edge refer:202",
            "3 out agents 200 completed local refer:403 transfer_limit transfer:1.1 sip:+1234567890@edge.example.net via agents: completed",
        ]);
    });
}

#[test]
fn too_many_tries() {
    flow(trusting, |w| {
        let (mut caller, mut agent) = answered(w);
        for _ in 0..32 {
            refused(w, &mut agent, "<sip:guess@edge.example.net>", 403);
        }
        // Not even the right one any more.
        let refusal = refused(w, &mut agent, TARGET, 403);
        assert_eq!(reason(&refusal), "SIP;cause=403;text=\"transfer_limit\"");
        let verdicts = w.verdicts();
        assert_eq!(verdicts.len(), 33);
        assert_eq!(verdicts[31], "403 target_not_allowed");
        assert_eq!(verdicts[32], "403 transfer_limit");
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn with_an_extension_that_is_unknown() {
    flow(trusting, |w| {
        let (mut caller, mut agent) = answered(w);
        let lines = [format!("Refer-To: {TARGET}"), "Require: frobnicate".into()];
        agent.sends(w, "REFER", &[&lines[0], &lines[1]], "");
        let refusal = agent.gets(w, "420 REFER");
        assert_eq!(refusal.header(HeaderName::Unsupported), Some("frobnicate"));
        w.assert_silent(w.site.human);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

/// Each fault is in the same REFER as all that come after it in the order; the first one decides.
#[test]
fn the_first_check_that_fails_decides() {
    let everything_wrong = || {
        config_with(|config| {
            edit_policy(config, |policy| {
                policy.max_transfers = 0;
                policy.targets.clear();
                policy.via = None;
            });
        })
    };
    flow(everything_wrong, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        // Not answered, disabled, not authenticated, no Refer-To, no target.
        agent.says(w, "REFER");
        agent.gets(w, "403 REFER");
        let (mut caller, mut agent) = {
            agent.accepts(w, &invite, 200);
            agent.gets(w, "ACK");
            let ok = caller.gets(w, "200 INVITE");
            caller.acks(w, &ok);
            (caller, agent)
        };
        agent.says(w, "REFER");
        agent.gets(w, "403 REFER");
        w.reload(policy_with(|policy| {
            policy.targets.clear();
            policy.via = None;
        }));
        agent.says(w, "REFER");
        agent.gets(w, "401 REFER");
        w.reload(policy_with(|policy| {
            policy.auth = ReferAuth::Dialog;
            policy.targets.clear();
            policy.via = None;
        }));
        agent.says(w, "REFER");
        agent.gets(w, "400 REFER");
        refused(w, &mut agent, "<http://example.net/>", 416);
        refused(w, &mut agent, "<sip:x@198.51.100.1>", 403);
        assert_eq!(
            w.verdicts(),
            [
                "403 not_answered",
                "403 transfer_disabled",
                "401 transfer_unauthorized",
                "400 target_invalid",
                "416 target_invalid",
                "403 target_not_allowed",
            ]
        );
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn of_a_call_that_the_platform_made() {
    flow(trusting, |w| {
        // The AI agent calls out: it is leg 1, and the callee is transferred.
        let mut agent = Ua::caller(w, w.site.ai, "+441632960000", AGENT_RTP);
        agent.invites(w);
        agent.gets(w, "100 INVITE");
        let (callee, invite) = invited(w, w.site.carrier, CALLER_RTP);
        let (mut agent, mut callee) = answering(w, agent, callee, &invite);
        agent.sends(w, "REFER", &[&format!("Refer-To: {TARGET}")], "");
        agent.gets(w, "202 REFER");
        gets_notify(w, &mut agent, "100 Trying");
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        // The human sees who is on the line: the number that was called.
        assert!(
            invite.from_header().starts_with("<sip:+441632960000@"),
            "{}",
            invite.from_header()
        );
        let last = bridging(w, &mut agent, &mut human, &invite);
        w.assert_bridges(&["4000<>4200"]);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut callee, &mut [&mut human]);
        w.assert_cdr(&[
            "1 in ai 200 completed edge refer:202",
            "2 out carrier 200 completed remote",
            "3 out agents 200 completed local transfer:1.1 sip:+1234567890@edge.example.net via agents: completed",
        ]);
    });
}
