//! Who may refer: credentials, their absence, and their misuse.

use super::cast::*;
use crate::harness::client::kind;
use crate::harness::digest::{self, Parameters};
use crate::harness::wire::header;
use crate::harness::{EdgeConfig, Scenario, Scene};

/// Waits until credentials of the AI trunk had this outcome so often.
fn counted(scene: &Scene, outcome: &str, times: f64) {
    let series = format!("sip_edge_digest_challenges_total{{outcome=\"{outcome}\",trunk=\"ai\"}}");
    scene.edge.counts(&series, times);
}

#[test]
fn without_credentials_nothing_happens() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let agent = Scenario::agent(scene.ai.address)
        .refers_plainly(TARGET, 10, 401)
        .hangs_up();
    let mut talk = Talk::begins(&scene, &agent);
    talk.ai.cue("ACK");
    let challenge = talk
        .ai
        .until_received("a challenge", |m| m.starts_with("SIP/2.0 401"));
    let challenge = digest::credentials(&challenge, "WWW-Authenticate");
    assert_eq!(challenge["realm"], "sip-edge");
    assert_eq!(challenge["algorithm"], "MD5");
    assert_eq!(challenge["qop"], "auth");
    assert!(!challenge.contains_key("stale"), "{challenge:?}");
    scene.still_with_the_ai();
    talk.ai.cue("SIP/2.0 401");
    talk.passes();
    let story = scene.story(2);
    story.is(&[
        "carrier 200 completed local",
        "ai 200 completed remote refer:401 transfer_unauthorized",
    ]);
    story.tells(&[
        "REFER received from ai",
        "refused with 401 transfer_unauthorized: it shows no credentials and is challenged",
        "ai is asked for credentials",
    ]);
    counted(&scene, "challenged", 1.0);
    human_was_not_called(&scene.edge);
}

#[test]
fn with_a_wrong_password_it_is_challenged_again() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let refer_to = format!("Refer-To: <{TARGET}>");
    let wrong = "[authentication username=trunk-user password=guess]";
    let agent = Scenario::agent(scene.ai.address)
        .await_cue()
        .callee_request("REFER", 10, &refer_to, "")
        .recv_challenge(401)
        .callee_request("REFER", 11, &format!("{refer_to}\n{wrong}"), "")
        .recv_challenge(401)
        .hangs_up();
    let mut talk = Talk::begins(&scene, &agent);
    talk.ai.cue("ACK");
    let again = talk.ai.until_received("another challenge", |m| {
        m.starts_with("SIP/2.0 401") && m.contains("CSeq: 11 REFER")
    });
    assert!(!again.contains("stale"), "{again}");
    scene.still_with_the_ai();
    talk.ai.cue("SIP/2.0 401");
    talk.passes();
    let story = scene.story(2);
    story.is(&[
        "carrier 200 completed local",
        "ai 200 completed remote refer:401 transfer_unauthorized refer:401 transfer_unauthorized",
    ]);
    story.tells(&[
        "it shows no credentials",
        "its credentials are refused: wrong_credentials",
    ]);
    counted(&scene, "wrong_credentials", 1.0);
    human_was_not_called(&scene.edge);
}

#[test]
fn credentials_with_any_part_wrong_are_refused() {
    let Some(scene) = Scene::v4(&both_algorithms()) else {
        return;
    };
    let mut human = scene.human_answers(&Scenario::refusing("486 Busy Here"));
    let mut call = OwnAgent::talks(&scene);
    let agent = &mut call.agent;
    let mut challenge = agent.is_challenged(&format!("<{TARGET}>"));
    let algorithms: Vec<String> = digest::challenges(&challenge)
        .into_iter()
        .map(|challenge| challenge["algorithm"].clone())
        .collect();
    assert_eq!(algorithms, ["SHA-256", "MD5"], "RFC 8760: preferred first");

    type Change = fn(&mut Parameters);
    let wrong: [(&str, Change); 11] = [
        ("wrong_credentials", |a| set(a, "username", "somebody")),
        ("wrong_credentials", |a| set(a, "username", "")),
        ("wrong_realm", |a| set(a, "realm", "elsewhere")),
        ("wrong_uri", |a| set(a, "uri", "sip:edge@192.0.2.1")),
        ("wrong_algorithm", |a| set(a, "algorithm", "SHA-512-256")),
        ("malformed", |a| set(a, "qop", "auth-int")),
        ("malformed", |a| set(a, "nc", "1")),
        ("malformed", |a| drop(a.remove("nc"))),
        ("malformed", |a| drop(a.remove("cnonce"))),
        ("malformed", |a| drop(a.remove("qop"))),
        ("malformed", |a| drop(a.remove("nonce"))),
    ];
    for (outcome, change) in &wrong {
        let mut answer = agent.answer_to(&challenge, "SHA-256");
        change(&mut answer);
        agent.refers(&format!("<{TARGET}>"), &answer);
        challenge = agent.gets("401 REFER");
        assert!(!challenge.contains("stale"), "{outcome}: {challenge}");
    }
    // The method is part of what is signed.
    let answer = agent.answer_to(&challenge, "MD5");
    let borrowed = digest::signed(&answer, "BYE", "s3cret");
    let borrowed = format!("Authorization: {borrowed}");
    agent.says("REFER", &[&format!("Refer-To: <{TARGET}>"), &borrowed]);
    challenge = agent.gets("401 REFER");
    human_was_not_called(&scene.edge);

    // And right ones are still good.
    agent.refers(&format!("<{TARGET}>"), &agent.answer_to(&challenge, "MD5"));
    agent.gets("202 REFER");
    assert_eq!(notice(&agent.is_notified()), "100 Trying active");
    let last = notice(&agent.is_notified());
    assert_eq!(last, failure("486 Busy Here", "busy"));
    human.passes();
    call.ends(&scene);
    let story = scene.story(3);
    for (outcome, _) in &wrong {
        story.tells(&[&format!("its credentials are refused: {outcome}")]);
    }
    let refused = story.lines()[1]
        .matches("refer:401 transfer_unauthorized")
        .count();
    assert_eq!(refused, 1 + wrong.len() + 1, "{}", story.lines()[1]);
    counted(&scene, "wrong_credentials", 3.0);
    counted(&scene, "malformed", 6.0);
}

fn set(parameters: &mut Parameters, key: &str, value: &str) {
    parameters.insert(key.to_owned(), value.to_owned());
}

#[test]
fn a_nonce_that_is_not_this_calls_is_stale() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let mut human = scene.human_answers(&Scenario::refusing("486 Busy Here"));
    let mut call = OwnAgent::talks(&scene);
    // The nonce of another call, whose credentials are the same.
    let borrowed = call.agent.is_challenged(&format!("<{TARGET}>"));
    let borrowed = digest::challenges(&borrowed)[0]["nonce"].clone();
    call.ends(&scene);
    let mut call = call.talks_again(&scene);

    let agent = &mut call.agent;
    let mut challenge = agent.is_challenged(&format!("<{TARGET}>"));
    for nonce in [borrowed.as_str(), "f00d", ""] {
        let mut answer = agent.answer_to(&challenge, "MD5");
        set(&mut answer, "nonce", nonce);
        agent.refers(&format!("<{TARGET}>"), &answer);
        challenge = agent.gets("401 REFER");
        // RFC 7616 §3.3: the password is right, only the nonce is not.
        let stale = digest::challenges(&challenge)[0].get("stale").cloned();
        assert_eq!(stale.as_deref(), Some("true"), "{nonce}: {challenge}");
    }
    // With a wrong password, too, it is only wrong: an oracle for guesses otherwise.
    let mut guess = agent.answer_to(&challenge, "MD5");
    set(&mut guess, "nonce", &borrowed);
    let guess = digest::signed(&guess, "REFER", "guess");
    let guess = format!("Authorization: {guess}");
    agent.says("REFER", &[&format!("Refer-To: <{TARGET}>"), &guess]);
    challenge = agent.gets("401 REFER");
    assert!(!challenge.contains("stale"), "{challenge}");
    human_was_not_called(&scene.edge);

    agent.refers(&format!("<{TARGET}>"), &agent.answer_to(&challenge, "MD5"));
    agent.gets("202 REFER");
    agent.is_notified();
    let last = notice(&agent.is_notified());
    assert_eq!(last, failure("486 Busy Here", "busy"));
    human.passes();
    call.ends(&scene);
    counted(&scene, "stale", 3.0);
}

#[test]
fn a_replayed_nonce_count_is_refused() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let mut human = scene.human_answers(&Scenario::refusing("486 Busy Here"));
    let mut call = OwnAgent::talks(&scene);
    let agent = &mut call.agent;
    let target = format!("<{TARGET}>");
    let challenge = agent.is_challenged(&target);
    let answer = agent.answer_to(&challenge, "MD5");
    agent.refers(&target, &answer);
    let accepted = agent.cseq;
    agent.gets("202 REFER");
    agent.is_notified();
    agent.is_notified();
    human.passes();

    // The very same credentials in a new request.
    agent.refers(&target, &answer);
    let again = agent.gets("401 REFER");
    let stale = digest::challenges(&again)[0].get("stale").cloned();
    assert_eq!(stale.as_deref(), Some("true"), "{again}");
    // The very same request under another branch: RFC 3261 §12.2.2 wants its CSeq higher.
    let now = std::mem::replace(&mut agent.cseq, accepted);
    let authorization = digest::signed(&answer, "REFER", "s3cret");
    let authorization = format!("Authorization: {authorization}");
    let replay = agent.request("REFER", &[&format!("Refer-To: {target}"), &authorization]);
    agent
        .wire
        .send(&replay.replace("z9hG4bK", "z9hG4bKnew"), "");
    agent.gets("500 REFER");
    agent.cseq = now;
    scene.still_with_the_ai();
    // The next count of the same nonce is good.
    let mut human = scene.called(
        "human-again",
        &Scenario::refusing("486 Busy Here"),
        (scene.net.human, 5080).into(),
    );
    let mut next = answer.clone();
    set(&mut next, "nc", "00000002");
    agent.refers(&target, &next);
    agent.gets("202 REFER");
    agent.is_notified();
    agent.is_notified();
    human.passes();
    call.ends(&scene);
    let story = scene.story(4);
    story.tells(&[
        "accepted with 202",
        "its credentials are refused: replayed",
        "accepted with 202",
    ]);
    counted(&scene, "replayed", 1.0);
}

#[test]
fn a_challenge_of_our_own_is_not_answered_when_it_is_reflected() {
    // Without credentials of its own, the agents' trunk is shown those that the AI's trunk has to show to us: an attacker who
    // is called there would like to have our nonce answered.
    let config = EdgeConfig {
        agents: String::new(),
        ..EdgeConfig::default()
    };
    let Some(scene) = Scene::v4(&config) else {
        return;
    };
    let mut call = OwnAgent::talks(&scene);
    let agent = &mut call.agent;
    let challenge = agent.is_challenged(&format!("<{TARGET}>"));
    let ours = header(&challenge, "WWW-Authenticate").expect("a challenge");
    let ours = ours.trim_start_matches("Digest ");
    let mut human = scene.human_answers(&Scenario::new().challenges(ours));
    agent.refers(&format!("<{TARGET}>"), &agent.answer_to(&challenge, "MD5"));
    agent.gets("202 REFER");
    assert_eq!(notice(&agent.is_notified()), "100 Trying active");
    let last = notice(&agent.is_notified());
    assert_eq!(last, failure("403 Forbidden", "sip_auth_failed 4240"));
    human.passes();
    let sent: Vec<String> = human.received().iter().map(|m| kind(m)).collect();
    assert_eq!(sent, ["INVITE", "ACK"], "no INVITE with an answer");
    call.ends(&scene);
    let story = scene.story(3);
    story.is(&[
        "carrier 200 completed local",
        "ai 200 completed remote refer:401 transfer_unauthorized refer:202",
        "agents 407 sip_auth_failed remote 4240 transfer:1.1 via agents: failed",
    ]);
    story.tells(&["a nonce that this edge minted", "a nonce of our own"]);
}

#[test]
fn the_transferors_credentials_are_shown_where_the_target_has_none() {
    let config = EdgeConfig {
        agents: String::new(),
        ..EdgeConfig::default()
    };
    let Some(scene) = Scene::v4(&config) else {
        return;
    };
    let human = Scenario::new()
        .challenges(CHALLENGE)
        .refuses("486 Busy Here");
    let mut human = scene.human_answers(&human);
    let mut call = OwnAgent::talks(&scene);
    let agent = &mut call.agent;
    let challenge = agent.is_challenged(&format!("<{TARGET}>"));
    agent.refers(&format!("<{TARGET}>"), &agent.answer_to(&challenge, "MD5"));
    agent.gets("202 REFER");
    agent.is_notified();
    agent.is_notified();
    human.passes();
    let invite = human.received()[2].clone();
    let shown = digest::credentials(&invite, "Proxy-Authorization");
    assert_eq!(shown["username"], "trunk-user");
    assert_eq!(shown["nonce"], "f00d");
    assert_eq!(shown["uri"], invite.split(' ').nth(1).unwrap_or_default());
    assert_eq!(
        shown["response"],
        digest::response(&shown, "INVITE", "s3cret")
    );
    call.ends(&scene);
}
