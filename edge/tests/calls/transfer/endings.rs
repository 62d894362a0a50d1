//! Somebody leaves while a transfer is under way, or right behind it; and messages that cross.

use super::cast::*;
use crate::harness::parties;
use crate::harness::scenario::sdp;
use crate::harness::{EdgeConfig, Scenario, Scene};

const CARRIER: &str = "carrier 200 completed local";
const LEFT: &str = "ai 200 completed remote refer:401 transfer_unauthorized refer:202";
const RELEASED: &str = "ai 200 completed edge refer:401 transfer_unauthorized refer:202";

/// A human whose phone rings, and who is given up.
fn rings_in_vain() -> Scenario {
    Scenario::new()
        .recv_invite()
        .respond_invite("180 Ringing", "", "")
        .recv_cancel()
}

#[test]
fn the_caller_hangs_up_while_the_human_rings() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let mut human = scene.human_answers(&rings_in_vain());
    let agent = Scenario::agent(scene.ai.address)
        .refers(TARGET)
        .notified(3)
        .hung_up();
    let caller = caller_who_leaves(scene.carrier.address);
    let mut talk = Talk::begins_with(&scene, &agent, &caller);
    talk.ai.cue("ACK");
    scene.told(&talk.ai, &RINGING);
    scene.still_with_the_ai();
    talk.carrier.cue("ACK");
    talk.passes();
    human.passes();
    let told = failure("487 Request Terminated", "cancelled");
    scene.told(&talk.ai, &[RINGING[0], RINGING[1], &told]);
    let cancel = human.until_received("CANCEL", |m| m.starts_with("CANCEL "));
    assert!(cancel.contains("cancelled"), "{cancel}");
    let story = scene.story(3);
    story.is(&[
        "carrier 200 completed remote",
        RELEASED,
        "agents 487 cancelled local transfer:1.1 via agents: cancelled",
    ]);
    story.tells(&["BYE received from carrier", "transfer 1: cancelled"]);
}

#[test]
fn the_agent_hangs_up_right_behind_the_202() {
    // RFC 5589 §6.1 lets it; the transfer goes on, untold.
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let human = Scenario::human(scene.human.address).hangs_up();
    let mut human = scene.human_answers(&human);
    let mut call = the_agent_leaves(&scene);
    human.cue("SIP/2.0 180");
    scene.with_the_human(&human);
    human.cue("ACK");
    human.passes();
    call.carrier.passes();
    let story = scene.story(3);
    story.is(&[
        CARRIER,
        LEFT,
        "agents 200 completed remote transfer:1.1 via agents: completed",
    ]);
    story.tells(&[
        "accepted with 202",
        "BYE received from ai",
        "caller and target are bridged",
        "transfer 1: completed",
    ]);
}

/// The agent says BYE at once when its REFER is accepted; the first NOTIFY is on its way by then. The caller is left alone.
fn the_agent_leaves(scene: &Scene) -> OwnAgent {
    let mut call = OwnAgent::talks(scene);
    let agent = &mut call.agent;
    let challenge = agent.is_challenged(&format!("<{TARGET}>"));
    agent.refers(&format!("<{TARGET}>"), &agent.answer_to(&challenge, "MD5"));
    agent.gets("202 REFER");
    agent.says("BYE", &[]);
    let notify = agent.gets("NOTIFY");
    assert_eq!(notice(&notify), RINGING[0]);
    agent.answers(&notify, "481 Call/Transaction Does Not Exist", "");
    agent.gets("200 BYE");
    call
}

#[test]
fn the_agent_has_left_and_the_human_is_busy() {
    // Nobody is left whom the caller could return to.
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let human = Scenario::new()
        .recv_invite()
        .respond_invite("180 Ringing", "", "")
        .await_cue()
        .respond_invite("486 Busy Here", "", "")
        .recv_request("ACK");
    let mut human = scene.human_answers(&human);
    let mut call = the_agent_leaves(&scene);
    human.cue("SIP/2.0 180");
    human.passes();
    call.carrier.passes();
    let story = scene.story(3);
    story.is(&[
        "carrier 200 busy edge",
        LEFT,
        "agents 486 busy remote transfer:1.1 via agents: busy",
    ]);
    story.tells(&[
        "BYE received from ai",
        "transfer 1: busy",
        "BYE sent to carrier",
    ]);
}

#[test]
fn the_human_hangs_up_at_once() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    // The BYE is behind the 200 on the wire, before any ACK.
    let human = Scenario::new()
        .recv_invite()
        .respond_invite("180 Ringing", "", "")
        .await_cue()
        .respond_invite("200 OK", "", &sdp(scene.human.address))
        .callee_request("BYE", 90, "", "")
        .recv_request("ACK")
        .recv(200);
    let mut human = scene.human_answers(&human);
    let agent = Scenario::agent(scene.ai.address)
        .refers(TARGET)
        .notified(3)
        .hung_up();
    let mut talk = Talk::begins(&scene, &agent);
    talk.ai.cue("ACK");
    scene.told(&talk.ai, &RINGING);
    scene.still_with_the_ai();
    human.cue("SIP/2.0 180");
    human.passes();
    talk.passes();
    scene.told(&talk.ai, &[RINGING[0], RINGING[1], SUCCESS]);
    let story = scene.story(3);
    story.is(&[
        CARRIER,
        RELEASED,
        "agents 200 completed remote transfer:1.1 via agents: completed",
    ]);
    story.tells(&[
        "transfer 1: completed",
        "BYE received from agents",
        "BYE sent to carrier",
    ]);
}

/// The human picks up when the edge has given up already: the answer and our CANCEL cross.
fn answers_too_late(scene: &Scene) -> Scenario {
    Scenario::new()
        .recv_invite()
        .respond_invite("180 Ringing", "", "")
        .recv_request("CANCEL")
        .respond("200 OK", "", "")
        .respond_invite("200 OK", "", &sdp(scene.human.address))
        .recv_request("ACK")
        .hung_up()
}

#[test]
fn an_answer_that_crosses_the_cancel_of_the_ring_timeout() {
    let config = EdgeConfig::default();
    let config = EdgeConfig {
        transfer: format!("{}\nring_timeout_s = 1", config.transfer),
        ..config
    };
    let Some(scene) = Scene::v4(&config) else {
        return;
    };
    let mut human = scene.human_answers(&answers_too_late(&scene));
    let agent = Scenario::agent(scene.ai.address)
        .refers(TARGET)
        .notified(3)
        .hangs_up();
    let mut talk = Talk::begins(&scene, &agent);
    talk.ai.cue("ACK");
    human.passes();
    // Nobody is bridged to somebody who was given up.
    let told = failure("408 Request Timeout", "no-answer");
    scene.told(&talk.ai, &[RINGING[0], RINGING[1], &told]);
    scene.still_with_the_ai();
    talk.ai.cue("NOTIFY");
    talk.passes();
    scene.story(3).is(&[
        CARRIER,
        LEFT,
        "agents 200 no-answer edge transfer:1.1 via agents: no-answer",
    ]);
}

#[test]
fn an_answer_that_crosses_the_cancel_of_a_caller_who_left() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let mut human = scene.human_answers(&answers_too_late(&scene));
    let agent = Scenario::agent(scene.ai.address)
        .refers(TARGET)
        .notified(3)
        .hung_up();
    let caller = caller_who_leaves(scene.carrier.address);
    let mut talk = Talk::begins_with(&scene, &agent, &caller);
    talk.ai.cue("ACK");
    scene.told(&talk.ai, &RINGING);
    talk.carrier.cue("ACK");
    human.passes();
    talk.passes();
    scene.story(3).is(&[
        "carrier 200 completed remote",
        RELEASED,
        "agents 200 cancelled local transfer:1.1 via agents: cancelled",
    ]);
    assert_eq!(scene.human.heard_anything(), 0);
}

#[test]
fn a_caller_that_leaves_behind_the_bridge_ends_the_humans_leg() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let human = Scenario::human(scene.human.address).hung_up();
    let mut human = scene.human_answers(&human);
    let agent = Scenario::agent(scene.ai.address)
        .refers(TARGET)
        .notified(3)
        .hung_up();
    let caller = caller_who_leaves(scene.carrier.address);
    let mut talk = Talk::begins_with(&scene, &agent, &caller);
    talk.ai.cue("ACK");
    scene.told(&talk.ai, &RINGING);
    human.cue("SIP/2.0 180");
    scene.with_the_human(&human);
    talk.ai.passes();
    talk.carrier.cue("ACK");
    talk.carrier.passes();
    human.passes();
    scene.story(3).is(&[
        "carrier 200 completed remote",
        RELEASED,
        "agents 200 completed local transfer:1.1 via agents: completed",
    ]);
}

/// A caller who hangs up on its cue.
fn caller_who_leaves(rtp: std::net::SocketAddr) -> Scenario {
    Scenario::new()
        .caller_invite(parties::NUMBER, 1, "", &sdp(rtp))
        .recv_optional(100)
        .recv_optional(180)
        .recv(200)
        .caller_request("ACK", 1, "", "")
        .await_cue()
        .caller_request("BYE", 2, "", "")
        .recv(200)
}
