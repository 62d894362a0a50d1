//! The human answers with another codec than the caller uses: the caller is asked to change, and may refuse.

use super::cast::*;
use crate::harness::parties;
use crate::harness::scenario::sdp_codecs;
use crate::harness::{EdgeConfig, Scenario, Scene};
use std::net::SocketAddr;

fn both(rtp: SocketAddr) -> String {
    sdp_codecs(
        rtp,
        "0 8 101",
        &["0 PCMU/8000", "8 PCMA/8000", "101 telephone-event/8000"],
    )
}

fn pcma(rtp: SocketAddr) -> String {
    sdp_codecs(rtp, "8 101", &["8 PCMA/8000", "101 telephone-event/8000"])
}

/// The payload types of the audio in a message's SDP.
fn media_formats(message: &str) -> Vec<&str> {
    let line = message
        .lines()
        .find_map(|line| line.strip_prefix("m=audio "));
    let line = line.unwrap_or_else(|| panic!("no audio in {message}"));
    line.trim().split(' ').skip(2).collect()
}

/// A caller of both codecs up to our re-INVITE; the agent takes PCMU.
fn caller(scene: &Scene) -> Scenario {
    Scenario::new()
        .caller_invite(parties::NUMBER, 1, "", &both(scene.carrier.address))
        .recv_optional(100)
        .recv_optional(180)
        .recv(200)
        .caller_request("ACK", 1, "", "")
        .recv_request("INVITE")
}

#[test]
fn the_caller_refuses_to_change() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let human = Scenario::new()
        .rings_and_answers_with(&pcma(scene.human.address))
        .hung_up();
    let mut human = scene.human_answers(&human);
    let agent = Scenario::agent(scene.ai.address)
        .refers(TARGET)
        .notified(3)
        .hangs_up();
    let caller = caller(&scene)
        .respond("488 Not Acceptable Here", "", "")
        .recv_request("ACK")
        .hung_up();
    let mut talk = Talk::begins_with(&scene, &agent, &caller);
    talk.ai.cue("ACK");
    scene.told(&talk.ai, &RINGING);
    scene.still_with_the_ai();
    human.cue("SIP/2.0 180");
    human.passes();
    let told = failure("488 Not Acceptable Here", "caller_refused");
    scene.told(&talk.ai, &[RINGING[0], RINGING[1], &told]);
    scene.still_with_the_ai();
    talk.ai.cue("NOTIFY");
    talk.passes();
    let invite = human.received()[0].clone();
    assert_eq!(
        media_formats(&invite),
        ["0", "101", "8"],
        "what the caller uses, then what else it can do"
    );
    let reinvite = talk
        .carrier
        .until_received("a re-INVITE", |m| m.starts_with("INVITE "));
    assert_eq!(media_formats(&reinvite), ["8", "101"]);
    let story = scene.story(3);
    story.is(&[
        "carrier 200 completed local",
        "ai 200 completed remote refer:401 transfer_unauthorized refer:202",
        "agents 200 caller_refused edge transfer:1.1 via agents: failed",
    ]);
    story.tells(&[
        "the caller is asked to change",
        "488 Not Acceptable Here to INVITE received from carrier",
        "BYE sent to agents",
        "transfer 1: failed caller_refused",
    ]);
}

#[test]
fn the_caller_changes() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let human = Scenario::new()
        .rings_and_answers_with(&pcma(scene.human.address))
        .hangs_up();
    let mut human = scene.human_answers(&human);
    let agent = Scenario::agent(scene.ai.address)
        .refers(TARGET)
        .notified(3)
        .hung_up();
    let caller = caller(&scene)
        .respond("200 OK", "", &pcma(scene.carrier.address))
        .recv_request("ACK")
        .hung_up();
    let mut talk = Talk::begins_with(&scene, &agent, &caller);
    talk.ai.cue("ACK");
    scene.told(&talk.ai, &RINGING);
    scene.still_with_the_ai();
    human.cue("SIP/2.0 180");
    talk.ai.passes();
    scene.told(&talk.ai, &[RINGING[0], RINGING[1], SUCCESS]);
    scene.carrier.uses_payload_type(8);
    scene.human.uses_payload_type(8);
    scene.with_the_human(&human);
    human.cue("ACK");
    human.passes();
    talk.carrier.passes();
    let story = scene.story(3);
    story.is(&[
        "carrier 200 completed local",
        "ai 200 completed edge refer:401 transfer_unauthorized refer:202",
        "agents 200 completed remote transfer:1.1 via agents: completed",
    ]);
    assert_eq!(story.leg("carrier")["media"]["codec"], "PCMA");
    assert_eq!(story.leg("agents")["media"]["codec"], "PCMA");
}

#[test]
fn the_human_can_do_nothing_of_what_the_caller_can() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    // It answers all the same, with a codec that was never offered.
    let g729 = sdp_codecs(scene.human.address, "18", &["18 G729/8000"]);
    let human = Scenario::new().rings_and_answers_with(&g729).hung_up();
    let mut human = scene.human_answers(&human);
    let agent = Scenario::agent(scene.ai.address)
        .refers(TARGET)
        .notified(3)
        .hangs_up();
    let mut talk = Talk::begins(&scene, &agent);
    talk.ai.cue("ACK");
    scene.told(&talk.ai, &RINGING);
    human.cue("SIP/2.0 180");
    human.passes();
    let told = failure("488 Not Acceptable Here", "no_common_codec");
    scene.told(&talk.ai, &[RINGING[0], RINGING[1], &told]);
    scene.still_with_the_ai();
    talk.ai.cue("NOTIFY");
    talk.passes();
    let invite = human.received()[0].clone();
    let offered = media_formats(&invite);
    assert_eq!(offered, ["0", "101"], "no more than the caller offered");
    scene.story(3).is(&[
        "carrier 200 completed local",
        "ai 200 completed remote refer:401 transfer_unauthorized refer:202",
        "agents 200 no_common_codec edge transfer:1.1 via agents: failed",
    ]);
}
