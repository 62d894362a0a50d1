//! Peers that challenge our INVITE: an AI platform that wants credentials before it answers.

use crate::harness::digest::{credentials, response};
use crate::harness::parties::{caller, caller_refused, hangs_up_at_cue};
use crate::harness::scenario::{Scenario, sdp};
use crate::harness::wire::header;
use crate::harness::{EdgeConfig, Scene};

/// The platform: refuses with each of `challenges` (status line, header) in turn, then answers.
fn platform(scene: &Scene, challenges: &[(&str, &str)]) -> Scenario {
    let answers = challenged(challenges)
        .recv_invite()
        .respond_invite("180 Ringing", "", "")
        .respond_invite("200 OK", "", &sdp(scene.ai.address))
        .recv_request("ACK");
    hangs_up_at_cue(answers)
}

fn challenged(challenges: &[(&str, &str)]) -> Scenario {
    let start = Scenario::new();
    challenges.iter().fold(start, |scenario, (line, header)| {
        scenario
            .recv_invite()
            .respond_invite(line, header, "")
            .recv_request("ACK")
    })
}

/// One call over a platform that challenges once; the credentials are checked here, not by SIPp.
fn is_answered(line: &str, challenge: &str, answer: &str) {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let mut ai = scene.ai_answers(&platform(&scene, &[(line, challenge)]));
    let mut carrier = scene.carrier_calls(&caller(scene.carrier.address));
    scene.talk((&scene.carrier, &carrier), (&scene.ai, &ai));
    ai.cue("ACK");
    ai.passes();
    carrier.passes();

    let invites: Vec<String> = ai
        .received()
        .into_iter()
        .filter(|m| m.starts_with("INVITE "))
        .collect();
    let [first, second] = invites.as_slice() else {
        panic!("not two INVITEs: {invites:#?}");
    };
    assert!(!first.contains("uthorization"), "{first}");
    for name in ["From", "Call-ID"] {
        assert_eq!(header(first, name), header(second, name), "{name}");
    }
    let number = |m: &str| -> u32 {
        let cseq = header(m, "CSeq").expect("a CSeq");
        cseq.split(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .expect("a number")
    };
    assert_eq!(number(second), number(first) + 1, "a new transaction");
    let shown = credentials(second, answer);
    assert_eq!(shown["username"], "trunk-user");
    assert_eq!(shown["realm"], "platform");
    let request_uri = second.split(' ').nth(1).expect("a Request-URI");
    assert_eq!(shown["uri"], request_uri);
    assert_eq!(shown.contains_key("qop"), challenge.contains("qop"));
    assert_eq!(shown["response"], response(&shown, "INVITE", "s3cret"));
    assert!(!second.contains("s3cret"), "{second}");

    let story = scene.story(2);
    assert_eq!(story.leg("ai")["cause"], "completed");
    assert_eq!(story.leg("ai")["sip_status"], 200);
    let code = &line[..3];
    story.tells(&[
        &format!("response {code}"),
        "digest ai asks for credentials",
        "request INVITE sent to ai",
        "response 200 OK to INVITE received from ai",
    ]);
    let answered = r#"sip_edge_digest_challenges_total{outcome="answered",trunk="ai"}"#;
    scene.edge.counts(answered, 1.0);
}

#[test]
fn a_401_with_qop_is_answered_with_the_trunks_own_credentials() {
    is_answered(
        "401 Unauthorized",
        r#"WWW-Authenticate: Digest realm="platform", nonce="n0nce", algorithm=MD5, qop="auth""#,
        "Authorization",
    );
}

#[test]
fn a_407_with_qop_is_answered() {
    is_answered(
        "407 Proxy Authentication Required",
        r#"Proxy-Authenticate: Digest realm="platform", nonce="n0nce", algorithm=MD5, qop="auth,auth-int""#,
        "Proxy-Authorization",
    );
}

#[test]
fn a_challenge_without_qop_is_answered_as_in_rfc_2069() {
    is_answered(
        "401 Unauthorized",
        r#"WWW-Authenticate: Digest realm="platform", nonce="n0nce""#,
        "Authorization",
    );
}

#[test]
fn a_second_challenge_is_answered_only_when_the_nonce_was_merely_stale() {
    let Some(scene) = Scene::v4(&EdgeConfig::default()) else {
        return;
    };
    let challenges = [
        (
            "401 Unauthorized",
            r#"WWW-Authenticate: Digest realm="platform", nonce="one", algorithm=MD5, qop="auth""#,
        ),
        (
            "401 Unauthorized",
            r#"WWW-Authenticate: Digest realm="platform", nonce="two", algorithm=MD5, qop="auth", stale=true"#,
        ),
    ];
    let mut ai = scene.ai_answers(&platform(&scene, &challenges));
    let mut carrier = scene.carrier_calls(&caller(scene.carrier.address));
    scene.talk((&scene.carrier, &carrier), (&scene.ai, &ai));
    ai.cue("SIP/2.0 200");
    ai.passes();
    carrier.passes();
    let last = ai
        .received()
        .into_iter()
        .rfind(|m| m.starts_with("INVITE "));
    let shown = credentials(&last.expect("an INVITE"), "Authorization");
    assert_eq!(shown["nonce"], "two");
    assert_eq!(shown["response"], response(&shown, "INVITE", "s3cret"));
    assert_eq!(scene.story(2).leg("ai")["cause"], "completed");
}

/// The caller is not bothered with our credentials: it gets 502, and the reports say what is wrong.
fn fails(challenges: &[(&str, &str)], config: &EdgeConfig, told: &str) {
    let Some(scene) = Scene::v4(config) else {
        return;
    };
    let mut ai = scene.ai_answers(&challenged(challenges));
    let mut carrier = scene.carrier_calls(&caller_refused(scene.carrier.address, 502));
    ai.passes();
    carrier.passes();
    let refusal = carrier.until_received("the refusal", |m| m.starts_with("SIP/2.0 502"));
    let reason = header(&refusal, "Reason").unwrap_or_default();
    assert!(reason.contains("sip_auth_failed 4240"), "{refusal}");
    let story = scene.story(2);
    for trunk in ["ai", "carrier"] {
        assert_eq!(story.leg(trunk)["cause"], "sip_auth_failed");
        assert_eq!(story.leg(trunk)["cause_code"], 4240);
    }
    assert_eq!(story.leg("ai")["sip_status"], 401);
    assert_eq!(story.leg("carrier")["sip_status"], 502);
    story.tells(&[told]);
    let ended = r#"sip_edge_calls_total{cause="sip_auth_failed",direction="outbound",trunk="ai"}"#;
    scene.edge.counts(ended, 1.0);
}

#[test]
fn credentials_that_the_platform_refuses_end_the_call_with_4240() {
    let challenge = (
        "401 Unauthorized",
        r#"WWW-Authenticate: Digest realm="platform", nonce="n", algorithm=MD5, qop="auth""#,
    );
    fails(
        &[challenge, challenge],
        &EdgeConfig::default(),
        "the peer refused our credentials",
    );
}

#[test]
fn a_challenge_of_another_realm_is_not_answered() {
    let config = EdgeConfig {
        ai: format!(
            "{}\n[trunk.present]\nusername = \"edge\"\npassword = \"pl4tform\"\nrealm = \"platform\"",
            EdgeConfig::default().ai
        ),
        ..EdgeConfig::default()
    };
    let challenge =
        r#"WWW-Authenticate: Digest realm="elsewhere", nonce="n", algorithm=MD5, qop="auth""#;
    fails(&[("401 Unauthorized", challenge)], &config, "realm");
}
