//! A second transfer of the same call: after one that failed, and onwards from the human who answered.

use super::cast::*;
use crate::harness::wire::header;
use crate::harness::{EdgeConfig, Net, Scenario, Scene, Sipp, have_sipp};

/// The `Event` of each NOTIFY.
fn events(agent: &Sipp) -> Vec<String> {
    let received = agent.received();
    let notifies = received.iter().filter(|m| m.starts_with("NOTIFY "));
    notifies
        .map(|notify| header(notify, "Event").unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn after_one_that_failed() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let at = (scene.net.human, 5080).into();
    let mut first = scene.human_answers(&Scenario::refusing("486 Busy Here"));
    let agent = Scenario::agent(scene.ai.address)
        .refers(TARGET)
        .notified(2)
        .refers_with(TARGET, 20, "", 202)
        .notified(3)
        .hung_up();
    let mut talk = Talk::begins(&scene, &agent);
    talk.ai.cue("ACK");
    let busy = failure("486 Busy Here", "busy");
    scene.told(&talk.ai, &[RINGING[0], &busy]);
    first.passes();
    scene.still_with_the_ai();
    let human = Scenario::human(scene.human.address).hangs_up();
    let mut second = scene.called("human-again", &human, at);
    talk.ai.cue("NOTIFY");
    scene.told(&talk.ai, &[RINGING[0], &busy, RINGING[0], RINGING[1]]);
    scene.still_with_the_ai();
    second.cue("SIP/2.0 180");
    talk.ai.passes();
    scene.told(
        &talk.ai,
        &[RINGING[0], &busy, RINGING[0], RINGING[1], SUCCESS],
    );
    // RFC 3515 §2.4.6: the second REFER's subscription has a name of its own.
    let id = "refer;id=21";
    assert_eq!(events(&talk.ai), ["refer", "refer", id, id, id]);
    scene.with_the_human(&second);
    second.cue("ACK");
    second.passes();
    talk.carrier.passes();
    let story = scene.story(4);
    story.is(&[
        "carrier 200 completed local",
        "ai 200 completed edge refer:401 transfer_unauthorized refer:202 refer:401 transfer_unauthorized refer:202",
        "agents 486 busy remote transfer:1.1 via agents: busy",
        "agents 200 completed remote transfer:2.1 via agents: completed",
    ]);
    story.tells(&["transfer 1: busy", "transfer 2: completed"]);
}

#[test]
fn onwards_from_the_human_who_answered() {
    let Some(net) = have_sipp().then(Net::v4) else {
        return;
    };
    let config = EdgeConfig::default();
    let config = EdgeConfig {
        agents: format!(
            "{}\n[trunk.transfer]\nmax_transfers = 2\nauth = \"dialog\"\nvia = \"backup\"\ntargets = [\"+1*\"]",
            config.agents
        ),
        tail: backup_trunk(&net),
        ..config
    };
    let scene = Scene::new(net, &config);
    let voice = scene.backup();
    let human = Scenario::human(scene.human.address)
        .refers_plainly("tel:+1234567891", 10, 202)
        .notified(3)
        .hung_up();
    let mut human = scene.human_answers(&human);
    let expert = Scenario::human(voice.address).hangs_up();
    let mut expert = scene.backup_answers(&expert);
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
    scene.told(&human, &RINGING);
    scene.carrier.hears(&scene.human, 5);
    expert.cue("SIP/2.0 180");
    human.passes();
    scene.told(&human, &[RINGING[0], RINGING[1], SUCCESS]);
    scene.bridged_to(&voice, &expert);
    let before = scene.human.heard_anything();
    scene.carrier.hears(&voice, 20);
    assert_eq!(
        scene.human.heard_anything(),
        before,
        "the human hears nothing"
    );
    expert.cue("ACK");
    expert.passes();
    talk.carrier.passes();
    scene.story(4).is(&[
        "carrier 200 completed local",
        "ai 200 completed edge refer:401 transfer_unauthorized refer:202",
        "agents 200 completed edge refer:202 transfer:1.1 via agents: completed",
        "backup 200 completed remote transfer:2.1 via backup: completed",
    ]);
}
