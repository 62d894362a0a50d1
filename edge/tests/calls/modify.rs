//! Changes of an answered call: hold, resume, session refresh. The other side never notices.

use crate::harness::parties::NUMBER;
use crate::harness::scenario::{Scenario, sdp};
use crate::harness::wire::header;
use crate::harness::{EdgeConfig, Scene, Sipp};

/// The caller, answered.
fn answered(scene: &Scene) -> Scenario {
    Scenario::new()
        .caller_invite(NUMBER, 1, "", &sdp(scene.carrier.address))
        .recv_optional(100)
        .recv_optional(180)
        .recv(200)
        .caller_request("ACK", 1, "", "")
}

/// A re-INVITE at its cue.
fn reinvites(caller: Scenario, cseq: u32, body: &str) -> Scenario {
    caller
        .await_cue()
        .caller_request("INVITE", cseq, "", body)
        .recv_optional(100)
        .recv(200)
        .caller_request("ACK", cseq, "", "")
}

fn ends(caller: Scenario, cseq: u32) -> Scenario {
    caller
        .await_cue()
        .caller_request("BYE", cseq, "", "")
        .recv(200)
}

/// The agent, who is hung up on, and was not bothered before.
fn hears_nothing_of_it(scene: &Scene) -> Sipp {
    let agent = Scenario::new()
        .recv_invite()
        .respond_invite("180 Ringing", "", "")
        .respond_invite("200 OK", "", &sdp(scene.ai.address))
        .recv_request("ACK")
        .recv_request("BYE")
        .respond("200 OK", "", "");
    scene.ai_answers(&agent)
}

fn answers(carrier: &Sipp) -> Vec<String> {
    let mut received = carrier.received();
    received.retain(|m| m.starts_with("SIP/2.0 200") && m.contains("INVITE"));
    received
}

/// Waits for the answer to the re-INVITE, the `count`th 200 of all.
fn answer(carrier: &Sipp, count: usize) -> String {
    crate::harness::wait::until("the re-INVITE is answered", || {
        answers(carrier).into_iter().nth(count - 1)
    })
}

#[test]
fn a_held_caller_hears_nothing_and_is_still_heard_until_it_resumes() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let plain = sdp(scene.carrier.address);
    let held = plain.replace("a=sendrecv", "a=sendonly");
    let caller = reinvites(reinvites(answered(&scene), 2, &held), 3, &plain);
    let mut ai = hears_nothing_of_it(&scene);
    let mut carrier = scene.carrier_calls(&ends(caller, 4));
    let (caller, agent) = (&scene.carrier, &scene.ai);
    scene.talk((caller, &carrier), (agent, &ai));

    carrier.cue("ACK");
    let hold = answer(&carrier, 2);
    assert!(hold.contains("a=recvonly"), "{hold}");
    // What was under way when the hold was answered has been heard by then.
    agent.hears(caller, 5);
    let before = caller.heard_anything();
    agent.hears(caller, 20);
    assert_eq!(
        caller.heard_anything(),
        before,
        "a held caller hears nothing"
    );

    carrier.cue_after("ACK", 2);
    let resumed = answer(&carrier, 3);
    assert!(resumed.contains("a=sendrecv"), "{resumed}");
    caller.hears(agent, 5);
    agent.hears(caller, 5);
    carrier.cue_after("ACK", 3);
    carrier.passes();
    ai.passes();

    let story = scene.story(2);
    assert_eq!(story.leg("carrier")["cause"], "completed");
    assert_eq!(story.leg("carrier")["hangup_by"], "remote");
    let described = |message: &str| {
        let origin = message
            .lines()
            .find_map(|l| l.strip_prefix("o="))
            .map(str::to_owned);
        origin
            .expect("an o= line")
            .split(' ')
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let versions: Vec<Vec<String>> = answers(&carrier).iter().map(|m| described(m)).collect();
    assert!(
        versions.iter().all(|o| o[1] == versions[0][1]),
        "one session: {versions:?}"
    );
    let number = |o: &Vec<String>| o[2].parse::<u64>().expect("a version");
    assert!(
        versions
            .windows(2)
            .all(|w| number(&w[1]) == number(&w[0]) + 1),
        "{versions:?}"
    );
}

#[test]
fn a_session_refresh_changes_nothing() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    // The same description again, then none at all: the answer offers, and the ACK answers (RFC 3261 §14.2).
    let plain = sdp(scene.carrier.address);
    let caller = reinvites(answered(&scene), 2, &plain)
        .await_cue()
        .caller_request("INVITE", 3, "", "")
        .recv_optional(100)
        .recv(200)
        .caller_request("ACK", 3, "", &plain)
        .await_cue()
        .caller_request("UPDATE", 4, "", "")
        .recv(200);
    let mut ai = hears_nothing_of_it(&scene);
    let mut carrier = scene.carrier_calls(&ends(caller, 5));
    let (caller, agent) = (&scene.carrier, &scene.ai);
    scene.talk((caller, &carrier), (agent, &ai));
    for count in [1, 2] {
        carrier.cue_after("ACK", count);
        answer(&carrier, count + 1);
        caller.hears(agent, 5);
        agent.hears(caller, 5);
    }
    carrier.cue_after("ACK", 3);
    carrier.until_received("the answer to UPDATE", |m| {
        m.starts_with("SIP/2.0 200") && header(m, "CSeq") == Some("4 UPDATE")
    });
    caller.hears(agent, 5);
    agent.hears(caller, 5);
    carrier.cue_after("SIP/2.0 200", 4);
    carrier.passes();
    ai.passes();
    let origins: Vec<String> = answers(&carrier)
        .iter()
        .filter_map(|m| Some(m.lines().find(|l| l.starts_with("o="))?.to_owned()))
        .collect();
    assert_eq!(origins.len(), 3);
    assert!(
        origins.iter().all(|o| *o == origins[0]),
        "unchanged: {origins:?}"
    );
    let story = scene.story(2);
    assert_eq!(story.leg("carrier")["cause"], "completed");
    assert_eq!(story.leg("ai")["cause"], "completed");
}

#[test]
fn a_change_without_a_common_codec_is_refused_and_the_call_goes_on() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let other = crate::harness::scenario::sdp_codecs(scene.carrier.address, "3", &["3 GSM/8000"]);
    let caller = answered(&scene)
        .await_cue()
        .caller_request("INVITE", 2, "", &other)
        .recv_optional(100)
        .recv(488)
        .caller_acks_refused_change(2);
    let mut ai = hears_nothing_of_it(&scene);
    let mut carrier = scene.carrier_calls(&ends(caller, 3));
    let (caller, agent) = (&scene.carrier, &scene.ai);
    scene.talk((caller, &carrier), (agent, &ai));
    carrier.cue("ACK");
    let refusal = carrier.until_received("488", |m| m.starts_with("SIP/2.0 488"));
    assert!(header(&refusal, "Reason").is_some_and(|r| r.contains("no_common_codec")));
    caller.hears(agent, 5);
    agent.hears(caller, 5);
    carrier.cue_after("ACK", 2);
    carrier.passes();
    ai.passes();
    let story = scene.story(2);
    assert_eq!(story.leg("carrier")["cause"], "completed");
    story.tells(&["modify a change of the session was refused"]);
}
