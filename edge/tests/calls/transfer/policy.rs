//! REFERs that the policy refuses: limits, the state of the call, where they come from.

use super::cast::*;
use crate::harness::wire::{Wire, header};
use crate::harness::{EdgeConfig, Net, RtpParty, Scenario, Scene, have_sipp};
use std::net::{IpAddr, SocketAddr};

/// A policy in place of the usual one.
fn policy(transfer: &str) -> EdgeConfig {
    EdgeConfig {
        transfer: transfer.into(),
        ..EdgeConfig::default()
    }
}

/// A REFER that is refused before anybody is asked for credentials.
fn is_refused(scene: Option<Scene>, status: u16, cause: &str, why: &str) {
    let Some(scene) = scene else {
        return;
    };
    let agent = Scenario::agent(scene.ai.address)
        .refers_plainly(TARGET, 10, status)
        .hangs_up();
    let mut talk = Talk::begins(&scene, &agent);
    talk.ai.cue("ACK");
    let line = format!("SIP/2.0 {status}");
    let refusal = talk
        .ai
        .until_received("the refusal", |m| m.starts_with(&line));
    let reason = format!("SIP;cause={status};text=\"{cause}\"");
    assert_eq!(header(&refusal, "Reason"), Some(reason.as_str()));
    scene.still_with_the_ai();
    talk.ai.cue(&line);
    talk.passes();
    let story = scene.story(2);
    story.is(&[
        "carrier 200 completed local",
        &format!("ai 200 completed remote refer:{status} {cause}"),
    ]);
    story.tells(&[&format!("refused with {status} {cause}: {why}")]);
    human_was_not_called(&scene.edge);
    let denied =
        format!("sip_edge_transfers_total{{cause=\"{cause}\",result=\"denied\",trunk=\"ai\"}}");
    scene.edge.counts(&denied, 1.0);
}

#[test]
fn a_trunk_without_a_transfer_policy_may_not_transfer() {
    let why = "trunk \"ai\" has no [trunk.transfer]";
    is_refused(Scene::v4(&policy("")), 403, "transfer_disabled", why);
}

#[test]
fn max_transfers_0_disables_transfers() {
    let config = policy("max_transfers = 0\nvia = \"agents\"\ntargets = [\"+1234567890\"]");
    let why = "max_transfers of trunk \"ai\" is 0";
    is_refused(Scene::v4(&config), 403, "transfer_disabled", why);
}

/// An IPv6 call, whose transfers go over a via that speaks nothing but IPv4. `keys` are those of both trunks.
fn two_families(keys: &str) -> Option<Scene> {
    let config = EdgeConfig {
        transfer:
            "max_transfers = 1\nauth = \"dialog\"\nvia = \"four\"\ntargets = [\"+1234567890\"]"
                .into(),
        carrier: keys.into(),
        tail: format!(
            r#"
            [[listen]]
            name = "four"
            transport = "tcp"
            address = "127.0.0.1:5060"
            [[trunk]]
            name = "four"
            allow = ["127.0.0.4/32"]
            network = "ipv4"
            uri = "sip:127.0.0.4:5080;transport=tcp"
            {keys}"#
        ),
        other_media: Some([127, 0, 0, 1].into()),
        ..EdgeConfig::default()
    };
    let net = have_sipp().then(Net::v6).flatten()?;
    Some(Scene::new(net, &config))
}

#[test]
fn networks_that_do_not_match() {
    let why = "the other party's leg is IPv6 only, trunk \"four\" is IPv4 only";
    is_refused(two_families(""), 403, "network_mismatch", why);
}

#[test]
fn networks_are_bridged_where_the_operator_says_so() {
    let Some(scene) = two_families("bridge_families = true") else {
        return;
    };
    let at = IpAddr::from([127, 0, 0, 4]);
    let voice = RtpParty::new(at, 0x44);
    let human = Scenario::human(voice.address).hangs_up();
    let mut human = scene.called("human", &human, SocketAddr::new(at, 5080));
    let agent = Scenario::agent(scene.ai.address)
        .refers_plainly(TARGET, 10, 202)
        .notified(3)
        .hung_up();
    let mut talk = Talk::begins(&scene, &agent);
    talk.ai.cue("ACK");
    scene.told(&talk.ai, &RINGING);
    human.cue("SIP/2.0 180");
    scene.bridged_to(&voice, &human);
    human.cue("ACK");
    human.passes();
    talk.passes();
    scene.story(3).is(&[
        "carrier 200 completed local",
        "ai 200 completed edge refer:202",
        "four 200 completed remote transfer:1.1 via four: completed",
    ]);
}

#[test]
fn more_transfers_than_the_call_may_have() {
    // The human may refer the caller on, but the call's one transfer is used up.
    let config = EdgeConfig::default();
    let config = EdgeConfig {
        agents: format!(
            "{}\n[trunk.transfer]\nmax_transfers = 1\nauth = \"dialog\"\nvia = \"agents\"\ntargets = [\"+1*\"]",
            config.agents
        ),
        ..config
    };
    let Some(scene) = Scene::v4(&config) else {
        return;
    };
    let human = Scenario::human(scene.human.address)
        .refers_plainly("tel:+1234567891", 10, 403)
        .hangs_up();
    let mut human = scene.human_answers(&human);
    let agent = Scenario::agent(scene.ai.address)
        .refers(TARGET)
        .notified(3)
        .hung_up();
    let mut talk = Talk::begins(&scene, &agent);
    talk.ai.cue("ACK");
    scene.told(&talk.ai, &RINGING);
    human.cue("SIP/2.0 180");
    scene.with_the_human(&human);
    talk.ai.passes();
    human.cue("ACK");
    let refusal = human.until_received("the refusal", |m| m.starts_with("SIP/2.0 403"));
    let reason = "SIP;cause=403;text=\"transfer_limit\"";
    assert_eq!(header(&refusal, "Reason"), Some(reason));
    scene.with_the_human(&human);
    human.cue("SIP/2.0 403");
    human.passes();
    talk.carrier.passes();
    let story = scene.story(3);
    story.is(&[
        "carrier 200 completed local",
        "ai 200 completed edge refer:401 transfer_unauthorized refer:202",
        "agents 200 completed remote refer:403 transfer_limit transfer:1.1 via agents: completed",
    ]);
    story.tells(&["transfer_limit: the call already had 1 of 1 transfers"]);
}

#[test]
fn a_second_refer_while_one_is_under_way() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let human = Scenario::human(scene.human.address).hangs_up();
    let mut human = scene.human_answers(&human);
    let agent = Scenario::agent(scene.ai.address)
        .refers(TARGET)
        .notified(2)
        .refers_plainly(TARGET, 20, 491)
        .notified(1)
        .hung_up();
    let mut talk = Talk::begins(&scene, &agent);
    talk.ai.cue("ACK");
    scene.told(&talk.ai, &RINGING);
    talk.ai.cue("NOTIFY");
    talk.ai
        .until_received("the refusal", |m| m.starts_with("SIP/2.0 491"));
    scene.still_with_the_ai();
    human.cue("SIP/2.0 180");
    scene.with_the_human(&human);
    talk.ai.passes();
    human.cue("ACK");
    human.passes();
    talk.carrier.passes();
    scene.story(3).is(&[
        "carrier 200 completed local",
        "ai 200 completed edge refer:401 transfer_unauthorized refer:202 refer:491 transfer_pending",
        "agents 200 completed remote transfer:1.1 via agents: completed",
    ]);
}

#[test]
fn before_the_call_is_answered() {
    let Some(scene) = Scene::v4(&trusting()) else {
        return;
    };
    let (mut agent, invite, carrier) = OwnAgent::rings(&scene);
    agent.answers(&invite, "180 Ringing", "");
    carrier.until_received("ringing", |m| m.starts_with("SIP/2.0 180"));
    agent.says("REFER", &[&format!("Refer-To: <{TARGET}>")]);
    let refusal = agent.gets("403 REFER");
    let reason = "SIP;cause=403;text=\"not_answered\"";
    assert_eq!(header(&refusal, "Reason"), Some(reason));
    // The call goes on as if nothing had been.
    let mut call = OwnAgent::connected(&scene, agent, &invite, carrier);
    call.ends(&scene);
    let story = scene.story(2);
    story.is(&[
        "carrier 200 completed local",
        "ai 200 completed remote refer:403 not_answered",
    ]);
    story.tells(&["not_answered: the call is not answered yet"]);
    human_was_not_called(&scene.edge);
}

#[test]
fn outside_a_dialog() {
    let Some(scene) = Scene::v4(&trusting()) else {
        return;
    };
    let mut call = OwnAgent::talks(&scene);
    let agent = &mut call.agent;
    let own = (agent.remote.clone(), agent.local.clone());
    let bare = own.0.split(";tag=").next().unwrap_or_default();
    for (remote, local) in [
        (bare.to_owned(), own.1.clone()),
        (
            format!("{bare};tag=00112233445566778899aabbccddeeff00"),
            own.1.clone(),
        ),
        // The edge's tag is right, ours is not.
        (own.0.clone(), format!("{}x", own.1)),
    ] {
        (agent.remote, agent.local) = (remote, local);
        agent.says("REFER", &[&format!("Refer-To: <{TARGET}>")]);
        agent.gets("481 REFER");
    }
    (agent.remote, agent.local) = own;
    call.ends(&scene);
    // The third has the tag of a leg, which tells of it.
    scene.story(2).is(&[
        "carrier 200 completed local",
        "ai 200 completed remote refer:481 dialog_unknown",
    ]);
    human_was_not_called(&scene.edge);
}

#[test]
fn from_a_source_of_another_trunk() {
    for config in [trusting(), EdgeConfig::default()] {
        let Some(scene) = Scene::v4(&config) else {
            return;
        };
        let mut call = OwnAgent::talks(&scene);
        // It knows everything about the dialog, and even the credentials.
        let (ours, cseq) = (call.agent.target.clone(), call.agent.cseq);
        let at_home = std::mem::replace(
            &mut call.agent.wire,
            Wire::connect(scene.net.human, scene.edge.sip),
        );
        for method in ["REFER", "BYE"] {
            call.agent.says(method, &[&format!("Refer-To: <{TARGET}>")]);
            let refusal = call.agent.gets(&format!("403 {method}"));
            if method == "REFER" {
                let reason = "SIP;cause=403;text=\"transfer_unauthorized\"";
                assert_eq!(header(&refusal, "Reason"), Some(reason));
                assert!(!refusal.contains("WWW-Authenticate"), "{refusal}");
            }
        }
        assert_eq!(call.agent.target, ours);
        (call.agent.wire, call.agent.cseq) = (at_home, cseq);
        call.ends(&scene);
        let story = scene.story(2);
        story.is(&[
            "carrier 200 completed local",
            "ai 200 completed remote refer:403 transfer_unauthorized",
        ]);
        story
            .tells(&["transfer_unauthorized: the source is not in the allow list of trunk \"ai\""]);
        human_was_not_called(&scene.edge);
    }
}

#[test]
fn from_a_source_that_nobody_lists() {
    let Some(scene) = Scene::v4(&trusting()) else {
        return;
    };
    let mut call = OwnAgent::talks(&scene);
    let mut stranger = Wire::connect(scene.net.stranger, scene.edge.sip);
    let refer = call
        .agent
        .request("REFER", &[&format!("Refer-To: <{TARGET}>")]);
    stranger.send(&refer, "");
    assert_eq!(stranger.next(), None, "no answer, a close");
    assert_eq!(stranger.rest(), b"");
    call.ends(&scene);
    scene
        .story(2)
        .is(&["carrier 200 completed local", "ai 200 completed remote"]);
    human_was_not_called(&scene.edge);
}

#[test]
fn a_call_may_try_only_so_many_refers() {
    let Some(scene) = Scene::v4(&trusting()) else {
        return;
    };
    let mut call = OwnAgent::talks(&scene);
    let agent = &mut call.agent;
    for number in 0..33 {
        let target = format!("Refer-To: <tel:+12345{number:05}>");
        agent.says("REFER", &[&target]);
        let refusal = agent.gets("403 REFER");
        let cause = if number < 32 {
            "target_not_allowed"
        } else {
            "transfer_limit"
        };
        let reason = header(&refusal, "Reason").unwrap_or_default();
        assert!(reason.contains(cause), "{number}: {refusal}");
    }
    // Not even to a target that is allowed.
    agent.says("REFER", &[&format!("Refer-To: <{TARGET}>")]);
    agent.gets("403 REFER");
    call.ends(&scene);
    human_was_not_called(&scene.edge);
}
