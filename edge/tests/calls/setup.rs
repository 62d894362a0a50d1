//! Setting up calls: what is refused, cancelled, tried elsewhere, heard before the answer, or offered late.

use crate::harness::parties::{NUMBER, agent_answers, caller, caller_refused, hangs_up_at_cue};
use crate::harness::scenario::{Scenario, sdp};
use crate::harness::sipp::media_of;
use crate::harness::wire::header;
use crate::harness::{EdgeConfig, Net, Scene, Sipp, Wire, have_sipp};
use std::net::SocketAddr;

#[test]
fn a_request_uri_without_a_user_is_refused_with_484_and_the_reason() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let nobody = Scenario::new()
        .send(
            "INVITE sip:[remote_ip]:[remote_port];transport=tcp SIP/2.0
             Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
             Max-Forwards: 70
             From: <sip:+15550100@[local_ip]>;tag=[pid]C[call_number]
             To: <sip:[remote_ip]>
             Call-ID: [call_id]
             CSeq: 1 INVITE
             Contact: <sip:caller@[local_ip]:[local_port];transport=[transport]>",
            &sdp(scene.carrier.address),
        )
        .recv_optional(100)
        .recv(484)
        .send(
            "ACK sip:[remote_ip]:[remote_port];transport=tcp SIP/2.0
             [last_Via:]
             Max-Forwards: 70
             [last_From:]
             [last_To:]
             Call-ID: [call_id]
             CSeq: 1 ACK",
            "",
        );
    let mut carrier = scene.carrier_calls(&nobody);
    carrier.passes();
    let refusal = carrier.until_received("the refusal", |m| m.starts_with("SIP/2.0 484 "));
    let reason = header(&refusal, "Reason").unwrap_or_default();
    assert!(reason.contains("number_missing"), "{refusal}");
    let story = scene.story(1);
    assert_eq!(story.leg("carrier")["cause"], "number_missing");
    assert_eq!(story.leg("carrier")["sip_status"], 484);
    story.tells(&[
        "response 484",
        "number_missing: the Request-URI has no user part",
    ]);
}

#[test]
fn options_from_a_listed_source_is_answered_without_a_challenge() {
    if !have_sipp() {
        return;
    }
    // Its calls are challenged, its probes are not.
    let config = EdgeConfig {
        ai: EdgeConfig::default().ai.replace("\"ip\"", "\"digest+ip\""),
        ..EdgeConfig::default()
    };
    let scene = Scene::new(Net::v4(), &config);
    let mut wire = Wire::connect(scene.net.ai, scene.edge.sip);
    let local = wire.local();
    wire.send(
        &format!(
            "OPTIONS sip:{} SIP/2.0
             Via: SIP/2.0/TCP {local};branch=z9hG4bKprobe
             Max-Forwards: 70
             From: <sip:probe@{local}>;tag=1
             To: <sip:{}>
             Call-ID: probe
             CSeq: 1 OPTIONS",
            scene.edge.sip, scene.edge.sip
        ),
        "",
    );
    let answer = wire.next().expect("an answer");
    assert!(answer.starts_with("SIP/2.0 200 OK\r\n"), "{answer}");
    let allow = header(&answer, "Allow").unwrap_or_default();
    assert!(
        allow.contains("REFER") && allow.contains("NOTIFY"),
        "{allow}"
    );
    let answered = r#"sip_edge_sip_responses_total{code="200",direction="outbound",method="OPTIONS",trunk="ai"}"#;
    scene.edge.counts(answered, 1.0);
}

#[test]
fn a_busy_callee_is_told_to_the_caller() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let busy = Scenario::new()
        .recv_invite()
        .respond_invite("180 Ringing", "", "")
        .respond_invite("486 Busy Here", "", "")
        .recv_request("ACK");
    let mut ai = scene.ai_answers(&busy);
    let mut carrier = scene.carrier_calls(&caller_refused(scene.carrier.address, 486));
    ai.passes();
    carrier.passes();
    let story = scene.story(2);
    assert_eq!(story.leg("ai")["cause"], "busy");
    assert_eq!(story.leg("ai")["hangup_by"], "remote");
    assert_eq!(story.leg("carrier")["cause"], "busy");
    assert_eq!(story.leg("carrier")["sip_status"], 486);
    assert_eq!(story.leg("carrier")["hangup_by"], "local");
    story.tells(&[
        "response 180 Ringing to INVITE sent to carrier",
        "response 486 Busy Here to INVITE received from ai",
        "response 486 Busy Here to INVITE sent to carrier",
    ]);
    let busy = r#"sip_edge_calls_total{cause="busy",direction="inbound",trunk="carrier"}"#;
    scene.edge.counts(busy, 1.0);
}

#[test]
fn a_caller_that_gives_up_cancels_the_callee() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let rings = Scenario::new()
        .recv_invite()
        .respond_invite("180 Ringing", "", "")
        .recv_cancel();
    let gives_up = Scenario::new()
        .caller_invite(NUMBER, 1, "", &sdp(scene.carrier.address))
        .recv_optional(100)
        .recv(180)
        .caller_cancels(NUMBER, 1)
        .recv(200)
        .recv(487)
        .caller_acks_refusal(NUMBER, 1);
    let mut ai = scene.ai_answers(&rings);
    let mut carrier = scene.carrier_calls(&gives_up);
    carrier.passes();
    ai.passes();
    let story = scene.story(2);
    for trunk in ["carrier", "ai"] {
        assert_eq!(story.leg(trunk)["cause"], "cancelled");
        assert_eq!(story.leg(trunk)["sip_status"], 487);
        assert_eq!(story.leg(trunk)["answer"], serde_json::Value::Null);
    }
    assert_eq!(story.leg("carrier")["hangup_by"], "remote");
    story.tells(&[
        "request CANCEL received from carrier",
        "cancel the caller gave up",
        "call_ended the call is over cancelled",
    ]);
}

/// A trunk with two addresses, the second of which answers.
fn next_address(refuses: impl FnOnce(&Scene, SocketAddr) -> Option<Sipp>, told: &[&str]) {
    if !have_sipp() {
        return;
    }
    let net = Net::v4();
    let ai = net.ai;
    let config = EdgeConfig {
        ai_uri: Some(format!(
            "[\"sip:{ai}:5069;transport=tcp\", \"sip:{ai}:5070;transport=tcp\"]"
        )),
        ..EdgeConfig::default()
    };
    let scene = Scene::new(net, &config);
    let refusing = refuses(&scene, SocketAddr::new(ai, 5069));
    let mut ai = scene.ai_answers(&agent_answers(scene.ai.address));
    let mut carrier = scene.carrier_calls(&caller(scene.carrier.address));
    scene.talk((&scene.carrier, &carrier), (&scene.ai, &ai));
    ai.cue("ACK");
    ai.passes();
    carrier.passes();
    if let Some(mut refusing) = refusing {
        refusing.passes();
    }
    let story = scene.story(2);
    assert_eq!(story.leg("ai")["cause"], "completed");
    assert_eq!(story.leg("ai")["source"], format!("{}:5070", scene.net.ai));
    story.tells(told);
}

#[test]
fn the_next_address_is_called_when_nobody_listens_at_the_first() {
    next_address(
        |_, _| None,
        &[
            ":5069: connect failed",
            "response 200 OK to INVITE received from ai",
        ],
    );
}

#[test]
fn the_next_address_is_called_when_the_first_refuses_with_503() {
    let refuses = Scenario::new()
        .recv_invite()
        .respond_invite("503 Service Unavailable", "", "")
        .recv_request("ACK");
    next_address(
        |scene, first| Some(scene.called("full", &refuses, first)),
        &[
            "response 503 Service Unavailable to INVITE received from ai",
            "response 200 OK to INVITE received from ai",
        ],
    );
}

#[test]
fn early_media_is_heard_before_the_answer() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let announces = Scenario::new()
        .recv_invite()
        .respond_invite("183 Session Progress", "", &sdp(scene.ai.address))
        .await_cue()
        .respond_invite("200 OK", "", &sdp(scene.ai.address))
        .recv_request("ACK");
    let mut ai = scene.ai_answers(&hangs_up_at_cue(announces));
    let mut carrier = scene.carrier_calls(&caller(scene.carrier.address));
    scene.talk((&scene.carrier, &carrier), (&scene.ai, &ai));
    assert!(
        !carrier
            .received()
            .iter()
            .any(|m| m.starts_with("SIP/2.0 200")),
        "heard before the answer"
    );
    ai.cue("SIP/2.0 183");
    scene.carrier.hears(&scene.ai, 5);
    scene.ai.hears(&scene.carrier, 5);
    ai.cue("ACK");
    ai.passes();
    carrier.passes();
    let story = scene.story(2);
    assert_eq!(story.leg("ai")["cause"], "completed");
    story.tells(&[
        "response 183 Session Progress to INVITE sent to carrier",
        "first_rtp",
        "response 200 OK to INVITE sent to carrier",
    ]);
    for media in ["carrier", "ai"].map(|trunk| &story.leg(trunk)["media"]) {
        assert_eq!(media["codec"], "PCMU");
        assert!(media["received"]["packets"].as_u64() >= Some(10), "{media}");
        assert!(media["sent"]["packets"].as_u64() >= Some(10), "{media}");
    }
}

#[test]
fn an_invite_without_sdp_gets_our_offer_in_the_answer() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let late = Scenario::new()
        .caller_invite(NUMBER, 1, "", "")
        .recv_optional(100)
        .recv_optional(180)
        .recv(200)
        .caller_request("ACK", 1, "", &sdp(scene.carrier.address))
        .recv_request("BYE")
        .respond("200 OK", "", "");
    let mut ai = scene.ai_answers(&agent_answers(scene.ai.address));
    let mut carrier = scene.carrier_calls(&late);
    scene.talk((&scene.carrier, &carrier), (&scene.ai, &ai));
    ai.cue("ACK");
    ai.passes();
    carrier.passes();
    let offer = ai.received().into_iter().find(|m| m.starts_with("INVITE "));
    let offer = offer.expect("an INVITE");
    assert!(offer.contains("a=rtpmap:0 PCMU/8000"), "we offer: {offer}");
    assert!(media_of(&offer).is_some(), "{offer}");
    let story = scene.story(2);
    assert_eq!(story.leg("carrier")["cause"], "completed");
    assert_eq!(story.leg("carrier")["media"]["codec"], "PCMU");
}
