//! Calls that the AI platform makes: challenged by us, and routed to the carrier.

use crate::harness::parties::agent_answers;
use crate::harness::scenario::{Scenario, sdp};
use crate::harness::wire::header;
use crate::harness::{EdgeConfig, Scene};

const NUMBER: &str = "+442079460123";

fn config() -> EdgeConfig {
    EdgeConfig {
        ai: EdgeConfig::default().ai.replace("\"ip\"", "\"digest+ip\""),
        ..EdgeConfig::default()
    }
}

/// The platform's INVITE, challenged, and again with credentials.
fn platform(scene: &Scene, password: &str) -> Scenario {
    let credentials = format!("[authentication username=trunk-user password={password}]");
    Scenario::new()
        .caller_invite(NUMBER, 1, "", &sdp(scene.ai.address))
        .recv_challenge(401)
        .caller_acks_refusal(NUMBER, 1)
        .caller_invite(NUMBER, 2, &credentials, &sdp(scene.ai.address))
}

#[test]
fn a_call_of_the_platform_is_challenged_and_reaches_the_carrier() {
    let Some(scene) = Scene::v4(&config()) else {
        return;
    };
    let calls = platform(&scene, "s3cret")
        .recv_optional(100)
        .recv_optional(180)
        .recv(200)
        .caller_request("ACK", 2, "", "")
        .recv_request("BYE")
        .respond("200 OK", "", "");
    let mut carrier = scene.carrier_answers(&agent_answers(scene.carrier.address));
    let mut ai = scene.ai_calls(&calls, NUMBER);
    scene.talk((&scene.ai, &ai), (&scene.carrier, &carrier));
    carrier.cue("ACK");
    ai.passes();
    carrier.passes();
    let challenge = ai.until_received("the challenge", |m| m.starts_with("SIP/2.0 401"));
    let demanded = header(&challenge, "WWW-Authenticate").unwrap_or_default();
    assert!(
        demanded.contains("qop=\"auth\"") && demanded.contains("algorithm=MD5"),
        "{challenge}"
    );
    let invite = carrier.until_received("an INVITE", |m| m.starts_with("INVITE "));
    assert!(
        invite.starts_with(&format!("INVITE sip:{NUMBER}@{}", scene.net.carrier)),
        "{invite}"
    );
    assert!(
        !invite.contains("uthorization"),
        "credentials stay on their leg: {invite}"
    );
    assert!(
        header(&invite, "From").is_some_and(|f| f.contains("+15550100")),
        "{invite}"
    );
    let story = scene.story(2);
    assert_eq!(story.leg("ai")["direction"], "inbound");
    assert_eq!(story.leg("ai")["cause"], "completed");
    assert_eq!(story.leg("carrier")["direction"], "outbound");
    assert_eq!(story.leg("carrier")["cause"], "completed");
    assert_eq!(story.leg("carrier")["to"], NUMBER);
    story.tells(&[
        "call_started",
        "routed number +442079460123 goes to trunk carrier",
        "response 200 OK to INVITE sent to ai",
    ]);
    for outcome in ["challenged", "accepted"] {
        let series =
            format!(r#"sip_edge_digest_challenges_total{{outcome="{outcome}",trunk="ai"}}"#);
        scene.edge.counts(&series, 1.0);
    }
}

#[test]
fn a_wrong_password_is_challenged_again_and_nothing_reaches_the_carrier() {
    let Some(scene) = Scene::v4(&config()) else {
        return;
    };
    let carrier = scene.carrier_answers(&agent_answers(scene.carrier.address));
    let calls = platform(&scene, "guessed")
        .recv_challenge(401)
        .caller_acks_refusal(NUMBER, 2);
    let mut ai = scene.ai_calls(&calls, NUMBER);
    ai.passes();
    let again = ai.received().pop().expect("a second challenge");
    assert!(
        !again.contains("stale=true"),
        "a wrong password is not a stale nonce: {again}"
    );
    for (outcome, times) in [
        ("challenged", 2.0),
        ("wrong_credentials", 1.0),
        ("accepted", 0.0),
    ] {
        let series =
            format!(r#"sip_edge_digest_challenges_total{{outcome="{outcome}",trunk="ai"}}"#);
        scene.edge.counts(&series, times);
    }
    assert_eq!(carrier.trace(), "", "nobody is called");
    let calls: serde_json::Value =
        serde_json::from_str(&scene.edge.get("/v1/calls")).expect("JSON");
    assert_eq!(calls["calls"].as_array().map(Vec::len), Some(0));
    assert_eq!(scene.edge.cdr().len(), 0);
}
