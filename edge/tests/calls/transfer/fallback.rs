//! The target fails and another one is tried.

use super::cast::*;
use crate::harness::{EdgeConfig, Net, Scenario, Scene, have_sipp};

/// A second way to live agents, and the policy to use it when the first fails.
fn scene(more: &str) -> Option<Scene> {
    let net = have_sipp().then(Net::v4)?;
    let config = EdgeConfig::default();
    let backup = net.stranger;
    let config = EdgeConfig {
        transfer: format!(
            "{}\nfallback = [\"sip:backup@{backup}\"]\n{more}",
            config.transfer
        ),
        tail: backup_trunk(&net),
        ..config
    };
    Some(Scene::new(net, &config))
}

const CARRIER: &str = "carrier 200 completed local";

#[test]
fn the_fallback_answers() {
    let Some(scene) = scene("") else { return };
    let mut first = scene.human_answers(&Scenario::refusing("486 Busy Here"));
    let voice = scene.backup();
    let mut second = scene.backup_answers(&Scenario::human(voice.address).hangs_up());
    let agent = Scenario::agent(scene.ai.address)
        .refers(TARGET)
        .notified(3)
        .hung_up();
    let mut talk = Talk::begins(&scene, &agent);
    talk.ai.cue("ACK");
    first.passes();
    scene.told(&talk.ai, &RINGING);
    scene.still_with_the_ai();
    second.cue("SIP/2.0 180");
    scene.bridged_to(&voice, &second);
    talk.ai.passes();
    scene.told(
        &talk.ai,
        &["100 Trying active", "180 Ringing active", SUCCESS],
    );
    second.cue("ACK");
    second.passes();
    talk.carrier.passes();
    let story = scene.story(4);
    story.is(&[
        CARRIER,
        "ai 200 completed edge refer:401 transfer_unauthorized refer:202",
        "agents 486 busy remote transfer:1.1 via agents: busy",
        "backup 200 completed remote transfer:1.2 via backup: completed",
    ]);
    story.tells(&[
        "transfer 1, attempt 1",
        "486",
        "transfer 1, attempt 2",
        "caller and target are bridged",
        "transfer 1: completed",
    ]);
}

#[test]
fn the_fallback_is_tried_when_nobody_answers() {
    let Some(scene) = scene("ring_timeout_s = 1") else {
        return;
    };
    let ringing = Scenario::new()
        .recv_invite()
        .respond_invite("180 Ringing", "", "")
        .recv_cancel();
    let mut first = scene.human_answers(&ringing);
    let mut second = scene.backup_answers(&Scenario::refusing("480 Temporarily Unavailable"));
    let agent = Scenario::agent(scene.ai.address)
        .refers(TARGET)
        .notified(3)
        .hangs_up();
    let mut talk = Talk::begins(&scene, &agent);
    talk.ai.cue("ACK");
    // No final status while a target is left, and the last target's when none is.
    let told = failure("480 Temporarily Unavailable", "no-answer");
    scene.told(
        &talk.ai,
        &["100 Trying active", "180 Ringing active", &told],
    );
    first.passes();
    second.passes();
    scene.still_with_the_ai();
    talk.ai.cue("NOTIFY");
    talk.passes();
    let story = scene.story(4);
    story.is(&[
        CARRIER,
        "ai 200 completed remote refer:401 transfer_unauthorized refer:202",
        "agents 487 no-answer edge transfer:1.1 via agents: no-answer",
        "backup 480 no-answer remote transfer:1.2 via backup: no-answer",
    ]);
    story.tells(&[
        "attempt 1",
        "not answered within the ring timeout",
        "attempt 2",
        "transfer 1: no-answer",
    ]);
}
