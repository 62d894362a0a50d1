//! Transfers that succeed: caller and human hear each other, and the AI is released knowing it.

use super::cast::*;
use crate::harness::main_job::MainJob;
use crate::harness::wire::header;
use crate::harness::{EdgeConfig, Scenario, Scene, Sipp};

#[test]
fn the_main_job() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    MainJob::over_tcp(&scene).plays(&scene);
    for (metric, value) in [
        (
            "sip_edge_transfers_total{cause=\"completed\",result=\"completed\",trunk=\"ai\"}",
            1.0,
        ),
        ("sip_edge_transfer_seconds_count{trunk=\"ai\"}", 1.0),
        ("sip_edge_calls_active{trunk=\"ai\"}", 0.0),
    ] {
        assert_eq!(scene.edge.metric(metric), Some(value), "{metric}");
    }
}

#[test]
fn credentials_by_sha_256() {
    // SIPp knows MD5 only. The response is computed from RFC 7616's text, not with the edge's code.
    let Some(scene) = Scene::v4(&both_algorithms()) else {
        return;
    };
    let human = Scenario::new().challenges(CHALLENGE);
    let mut human = scene.human_answers(&human.rings_and_answers(scene.human.address).hangs_up());
    let mut call = OwnAgent::talks(&scene);
    let agent = &mut call.agent;
    let challenge = agent.is_challenged(&format!("<{TARGET}>"));
    let answer = agent.answer_to(&challenge, "SHA-256");
    agent.refers(&format!("<{TARGET}>"), &answer);
    let accepted = agent.gets("202 REFER");
    assert!(header(&accepted, "Contact").is_some(), "{accepted}");
    assert_eq!(notice(&agent.is_notified()), "100 Trying active");
    assert_eq!(notice(&agent.is_notified()), "180 Ringing active");
    scene.still_with_the_ai();
    human.cue("SIP/2.0 180");
    assert_eq!(notice(&agent.is_notified()), SUCCESS);
    agent.is_hung_up_on();
    the_human_hangs_up(&scene, &mut human, &mut call.carrier);
    let story = scene.story(3);
    story.is(&[
        "carrier 200 completed local",
        "ai 200 completed edge refer:401 transfer_unauthorized refer:202",
        "agents 200 completed remote transfer:1.1 via agents: completed",
    ]);
    story.tells(&[
        "credentials of ai accepted",
        "accepted with 202",
        "407",
        "caller and target are bridged",
        "transfer 1: completed",
    ]);
}

/// Caller and human talk; then the human hangs up, and so ends the caller's leg.
fn the_human_hangs_up(scene: &Scene, human: &mut Sipp, carrier: &mut Sipp) {
    scene.with_the_human(human);
    human.cue("ACK");
    human.passes();
    carrier.passes();
}

/// A transfer that needs no credentials: the trunk trusts the dialog. `agent` does everything after the 202.
fn connects(sip: &str, agent: impl FnOnce(Scenario) -> Scenario, told: &[&str]) {
    let config = EdgeConfig {
        sip: sip.into(),
        ..trusting()
    };
    let Some(scene) = Scene::v4(&config) else {
        return;
    };
    let human = Scenario::human(scene.human.address).hangs_up();
    let mut human = scene.human_answers(&human);
    let refers = Scenario::agent(scene.ai.address).refers_plainly(TARGET, 10, 202);
    let mut talk = Talk::begins(&scene, &agent(refers));
    talk.ai.cue("ACK");
    scene.told(&talk.ai, &told[..2]);
    scene.still_with_the_ai();
    human.cue("SIP/2.0 180");
    talk.ai.passes();
    the_human_hangs_up(&scene, &mut human, &mut talk.carrier);
    scene.told(&talk.ai, told);
    let story = scene.story(3);
    story.is(&[
        "carrier 200 completed local",
        "ai 200 completed edge refer:202",
        "agents 200 completed remote transfer:1.1 via agents: completed",
    ]);
    story.never_tells("response 401 ");
    story.tells(&["accepted with 202", "transfer 1: completed"]);
}

const TOLD: [&str; 3] = ["100 Trying active", "180 Ringing active", SUCCESS];

#[test]
fn trust_in_the_dialog() {
    connects("", |agent| agent.notified(3).hung_up(), &TOLD);
}

#[test]
fn an_agent_that_knows_no_subscription_any_more_is_released_all_the_same() {
    let agent = |agent: Scenario| {
        agent
            .notified(2)
            .recv_request("NOTIFY")
            .respond("481 Call/Transaction Does Not Exist", "", "")
            .hung_up()
    };
    connects("", agent, &TOLD);
}

#[test]
fn an_agent_that_never_answers_the_outcome_is_released_after_a_while() {
    // 8 * T1.
    let agent = |agent: Scenario| agent.notified(2).recv_request("NOTIFY").hung_up();
    connects("t1_ms = 50", agent, &TOLD);
}

#[test]
fn an_agent_that_wants_no_subscription_is_told_nothing() {
    let Some(scene) = Scene::v4(&trusting()) else {
        return;
    };
    let human = Scenario::human(scene.human.address).hangs_up();
    let mut human = scene.human_answers(&human);
    let mut call = OwnAgent::talks(&scene);
    let agent = &mut call.agent;
    let refer_to = format!("Refer-To: <{TARGET}>");
    agent.says("REFER", &[&refer_to, "Refer-Sub: false"]);
    let accepted = agent.gets("202 REFER");
    assert_eq!(header(&accepted, "Refer-Sub"), Some("false"), "RFC 4488");
    human.until_received("an INVITE", |m| m.starts_with("INVITE "));
    scene.still_with_the_ai();
    human.cue("SIP/2.0 180");
    // The very next thing it hears of us.
    agent.is_hung_up_on();
    the_human_hangs_up(&scene, &mut human, &mut call.carrier);
    scene.story(3).never_tells("NOTIFY");
}
