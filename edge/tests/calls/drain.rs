//! The end of a process that carries calls: it waits for them, or ends them so that everybody knows and every leg has its line.

use crate::harness::parties::{agent_answers, caller, caller_refused};
use crate::harness::wire::header;
use crate::harness::{Conversation, Counted, EdgeConfig, Scenario, Scene};
use crate::transfer::cast::{RINGING, TARGET, Talk};
use rustix::process::Signal;
use std::net::SocketAddr;

/// Another call is refused, and told when to come again.
fn refuses_new_calls(scene: &Scene) {
    let late = SocketAddr::new(scene.net.carrier, 5066);
    let scenario = caller_refused(scene.carrier.address, 503);
    let mut second = scene.calls("second", &scenario, late);
    second.passes();
    let refusal = second.until_received("a refusal", |m| m.starts_with("SIP/2.0 503"));
    assert_eq!(header(&refusal, "Retry-After"), Some("5"));
}

/// It is over as it was meant to be: every record written, nothing left open for the next start.
fn ends_well(scene: &mut Scene, legs: usize) {
    let status = scene.edge.ends();
    assert!(status.success(), "{status}:\n{}", scene.edge.log());
    assert_eq!(scene.edge.cdr().len(), legs);
    let verdict = scene.edge.verdict();
    assert!(verdict.ends_with("nothing wrong\n"), "{verdict}");
    let files = std::fs::read_dir(scene.dir.path()).expect("the directory");
    let names = files.flatten().map(|file| file.file_name());
    let left: Vec<_> = names
        .filter(|name| name.to_string_lossy().contains(".open"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn ctl_drain_waits_for_the_running_call_which_loses_no_packet() {
    let Some(mut scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let (one, other) = (
        Counted::bind(scene.net.carrier),
        Counted::bind(scene.net.ai),
    );
    let mut agent = scene.ai_answers(&agent_answers(other.address()));
    let mut carrier = scene.carrier_calls(&caller(one.address()));
    let talk = Conversation::begins((one, carrier.remote_media()), (other, agent.remote_media()));
    talk.is_up();
    scene.edge.ctl(&["drain"]);
    assert_eq!(scene.edge.metric("sip_edge_draining"), Some(1.0));
    assert_eq!(scene.edge.metric("sip_edge_ready"), Some(0.0));
    assert_eq!(scene.edge.readiness(), 503);
    refuses_new_calls(&scene);
    talk.goes_on(50);
    let sent = talk.ends();
    agent.cue("ACK");
    agent.passes();
    carrier.passes();
    ends_well(&mut scene, 2);
    let causes: Vec<_> = scene
        .edge
        .cdr()
        .iter()
        .map(|leg| leg["cause"].clone())
        .collect();
    assert_eq!(causes, ["completed", "completed"]);
    println!("{sent} packets each way, none lost");
}

#[test]
fn a_transfer_still_works_after_sigterm_and_the_last_hang_up_ends_the_process() {
    let Some(mut scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let mut human = scene.human_answers(&Scenario::human(scene.human.address).hangs_up());
    let agent = Scenario::agent(scene.ai.address);
    let mut call = Talk::begins(&scene, &agent.refers(TARGET).notified(3).hung_up());
    scene.edge.signal(Signal::TERM);
    scene.edge.until_logged("draining");
    refuses_new_calls(&scene);
    scene.still_with_the_ai();
    call.ai.cue("ACK");
    human.until_received("an INVITE", |m| m.starts_with("INVITE "));
    scene.told(&call.ai, &RINGING);
    human.cue("SIP/2.0 180");
    scene.with_the_human(&human);
    human.cue("ACK");
    human.passes();
    call.passes();
    ends_well(&mut scene, 3);
    let legs = scene.edge.cdr();
    assert!(
        legs.iter().all(|leg| leg["cause"] == "completed"),
        "{legs:#?}"
    );
}

#[test]
fn the_second_sigterm_hangs_up_on_everybody_and_writes_every_record() {
    let Some(mut scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let agent = Scenario::agent(scene.ai.address).hung_up();
    let call = Talk::begins(&scene, &agent);
    scene.edge.signal(Signal::TERM);
    scene.edge.until_logged("draining");
    scene.still_with_the_ai();
    scene.edge.signal(Signal::TERM);
    is_hung_up_on(&mut scene, call);
}

#[test]
fn a_drain_lasts_no_longer_than_the_configuration_says() {
    let config = EdgeConfig::default();
    let Some(mut scene) = Scene::v4(&EdgeConfig {
        edge: format!("{}\ndrain_timeout_s = 1", config.edge),
        ..config
    }) else {
        return;
    };
    let agent = Scenario::agent(scene.ai.address).hung_up();
    let call = Talk::begins(&scene, &agent);
    scene.edge.signal(Signal::TERM);
    is_hung_up_on(&mut scene, call);
    let log = scene.edge.log();
    assert!(log.contains("edge.drain_timeout_s is over"), "{log}");
}

/// Both sides get BYE with the reason; the records say who ended it, and what was heard.
fn is_hung_up_on(scene: &mut Scene, mut call: Talk) {
    call.passes();
    for party in [&call.carrier, &call.ai] {
        let bye = party.until_received("BYE", |m| m.starts_with("BYE "));
        let why = "SIP;cause=503;text=\"edge_restart\"";
        assert_eq!(header(&bye, "Reason"), Some(why));
    }
    ends_well(scene, 2);
    for leg in scene.edge.cdr() {
        assert_eq!(leg["cause"], "edge_restart", "{leg:#}");
        assert_eq!(leg["hangup_by"], "edge", "{leg:#}");
        let packets = leg["media"]["received"]["packets"].as_u64();
        assert!(packets > Some(0), "{leg:#}");
    }
}
