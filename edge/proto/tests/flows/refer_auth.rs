//! REFER with digest: the challenge, right and wrong answers, and trust in the dialog.

use crate::harness::*;

/// A REFER without credentials: its challenge.
fn challenged(w: &mut World, agent: &mut Ua) -> Message {
    agent.sends(w, "REFER", &[&format!("Refer-To: {TARGET}")], "");
    agent.gets(w, "401 REFER")
}

/// A REFER with this Authorization line.
fn refers_with(w: &mut World, agent: &mut Ua, line: &str) {
    let refer_to = format!("Refer-To: {TARGET}");
    agent.sends(w, "REFER", &[&refer_to, line], "");
}

/// It was accepted; the caller hangs up.
fn accepted(w: &mut World, mut caller: Ua, mut agent: Ua) {
    agent.gets(w, "202 REFER");
    gets_notify(w, &mut agent, "100 Trying");
    let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
    human.answers(w, &invite, 486);
    human.gets(w, "ACK");
    gets_failure(w, &mut agent, "486 Busy Here", "busy");
    hang_up(w, &mut caller, &mut [&mut agent]);
}

/// Another challenge; nobody was called, and the caller still talks to the agent.
fn refused(w: &mut World, agent: &mut Ua, stale: bool) -> Message {
    let challenge = agent.gets(w, "401 REFER");
    for value in challenge.headers(HeaderName::WwwAuthenticate) {
        assert_eq!(value.contains("stale=true"), stale, "{value}");
    }
    w.assert_silent(w.site.human);
    w.assert_bridges(&["4000<>4100"]);
    challenge
}

#[test]
fn each_algorithm() {
    for algorithm in ["SHA-256", "MD5"] {
        flow(config, |w| {
            let (caller, mut agent) = answered(w);
            let challenge = challenged(w, &mut agent);
            let offered: Vec<_> = challenge.headers(HeaderName::WwwAuthenticate).collect();
            assert_eq!(offered.len(), 2);
            assert!(offered[0].contains("algorithm=SHA-256"), "{offered:?}");
            assert!(offered[1].contains("algorithm=MD5"), "{offered:?}");
            let mut answering = Answering::new("REFER", &agent.target);
            answering.algorithm = algorithm.into();
            let line = answering.line(&challenge);
            refers_with(w, &mut agent, &line);
            accepted(w, caller, agent);
            assert_eq!(w.digests(), ["challenged", "accepted"]);
            w.assert_told(&[
                "2 digest: ai is asked for credentials",
                "2 digest: credentials of ai accepted",
            ]);
            assert_eq!(w.verdicts(), ["401 transfer_unauthorized", "202"]);
        });
    }
}

#[test]
fn only_md5() {
    let config = || {
        trunk_with("ai", |trunk| {
            trunk.digest_algorithms = vec![DigestAlgorithm::Md5];
        })
    };
    flow(config, |w| {
        let (caller, mut agent) = answered(w);
        let challenge = challenged(w, &mut agent);
        assert_eq!(challenge.headers(HeaderName::WwwAuthenticate).count(), 1);
        let mut answering = Answering::new("REFER", &agent.target);
        answering.algorithm = "MD5".into();
        let line = answering.line(&challenge);
        refers_with(w, &mut agent, &line);
        accepted(w, caller, agent);
    });
}

#[test]
fn wrong_answers() {
    for (outcome, change) in [
        (
            "wrong_credentials",
            (|a: &mut Answering| a.password = "wrong".into()) as fn(&mut Answering),
        ),
        ("wrong_credentials", |a| a.username = "other".into()),
        ("wrong_credentials", |a| a.method = "INVITE".into()),
        ("wrong_realm", |a| a.realm = Some("other".into())),
        ("wrong_uri", |a| a.uri = "sip:other@192.0.2.1".into()),
    ] {
        flow(config, |w| {
            let (mut caller, mut agent) = answered(w);
            let challenge = challenged(w, &mut agent);
            let mut answering = Answering::new("REFER", &agent.target);
            change(&mut answering);
            let line = answering.line(&challenge);
            refers_with(w, &mut agent, &line);
            refused(w, &mut agent, false);
            assert_eq!(w.digests(), ["challenged", outcome, "challenged"]);
            assert_eq!(
                w.verdicts(),
                ["401 transfer_unauthorized", "401 transfer_unauthorized"]
            );
            w.assert_told(&[
                &format!("2 digest: credentials of ai refused [{outcome}: "),
                &format!("refused with 401 [transfer_unauthorized: its credentials are refused: {outcome}]"),
            ]);
            hang_up(w, &mut caller, &mut [&mut agent]);
            w.assert_cdr(&[
                "1 in carrier 200 completed remote",
                "2 out ai 200 completed local refer:401 transfer_unauthorized refer:401 transfer_unauthorized",
            ]);
        });
    }
}

#[test]
fn malformed_answers() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        let challenge = challenged(w, &mut agent);
        let line = Answering::new("REFER", &agent.target).line(&challenge);
        for change in [
            line.replace(", nc=00000001", ""),
            line.replace("cnonce=\"0a4f113b\", ", ""),
            line.replace(", qop=auth", ""),
            line.replace("nc=00000001", "nc=1"),
            line.replace("username=", "user="),
            "Authorization: Digest".into(),
            "Authorization: Basic dHJ1bmstdXNlcjpzM2NyZXQ=".into(),
        ] {
            refers_with(w, &mut agent, &change);
            refused(w, &mut agent, false);
        }
        // The nonce is still good for the right answer.
        refers_with(w, &mut agent, &line);
        accepted(w, caller.clone(), agent.clone());
        let _ = (&mut caller, &mut agent);
    });
}

#[test]
fn a_stale_nonce() {
    flow(config, |w| {
        let (caller, mut agent) = answered(w);
        let challenge = challenged(w, &mut agent);
        w.advance(seconds(31));
        let line = Answering::new("REFER", &agent.target).line(&challenge);
        refers_with(w, &mut agent, &line);
        let fresh = refused(w, &mut agent, true);
        let line = Answering::new("REFER", &agent.target).line(&fresh);
        refers_with(w, &mut agent, &line);
        accepted(w, caller, agent);
        assert_eq!(
            w.digests(),
            ["challenged", "stale", "challenged", "accepted"]
        );
    });
}

#[test]
fn a_wrong_password_for_a_stale_nonce_is_not_stale() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        let challenge = challenged(w, &mut agent);
        w.advance(seconds(31));
        let mut answering = Answering::new("REFER", &agent.target);
        answering.password = "wrong".into();
        let line = answering.line(&challenge);
        refers_with(w, &mut agent, &line);
        refused(w, &mut agent, false);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn a_replayed_nonce_count() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        let challenge = challenged(w, &mut agent);
        let line = Answering::new("REFER", &agent.target).line(&challenge);
        refers_with(w, &mut agent, &line);
        agent.gets(w, "202 REFER");
        gets_notify(w, &mut agent, "100 Trying");
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        human.answers(w, &invite, 486);
        human.gets(w, "ACK");
        gets_failure(w, &mut agent, "486 Busy Here", "busy");
        // Who recorded the REFER cannot repeat it.
        refers_with(w, &mut agent, &line);
        refused(w, &mut agent, true);
        // The next count is fine.
        let mut answering = Answering::new("REFER", &agent.target);
        answering.nc = "00000002".into();
        let line = answering.line(&challenge);
        refers_with(w, &mut agent, &line);
        agent.gets(w, "202 REFER");
        let trying = gets_notify(w, &mut agent, "100 Trying");
        assert!(
            trying
                .header(HeaderName::Event)
                .is_some_and(|event| event.starts_with("refer;id="))
        );
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        human.answers(w, &invite, 486);
        human.gets(w, "ACK");
        gets_failure(w, &mut agent, "486 Busy Here", "busy");
        hang_up(w, &mut caller, &mut [&mut agent]);
        assert_eq!(
            w.digests(),
            [
                "challenged",
                "accepted",
                "replayed",
                "challenged",
                "accepted"
            ]
        );
    });
}

#[test]
fn the_challenge_of_another_call() {
    flow(config, |w| {
        let (mut first, mut one) = answered(w);
        let (mut second, mut two) = answered(w);
        let challenge = challenged(w, &mut one);
        let line = Answering::new("REFER", &two.target).line(&challenge);
        refers_with(w, &mut two, &line);
        let again = two.gets(w, "401 REFER");
        let value = again.header(HeaderName::WwwAuthenticate).expect("it");
        assert!(value.contains("stale=true"), "right, for another call");
        w.assert_silent(w.site.human);
        hang_up(w, &mut first, &mut [&mut one]);
        hang_up(w, &mut second, &mut [&mut two]);
    });
}

#[test]
fn trust_in_the_dialog() {
    let config = || policy_with(|policy| policy.auth = ReferAuth::Dialog);
    flow(config, |w| {
        let (caller, mut agent) = answered(w);
        agent.sends(w, "REFER", &[&format!("Refer-To: {TARGET}")], "");
        accepted(w, caller, agent);
        assert!(w.digests().is_empty());
        assert_eq!(w.verdicts(), ["202"]);
    });
}

#[test]
fn the_tags_are_not_to_be_guessed() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        // 128 random bits behind the core's number.
        for remote in [&caller.remote, &agent.remote] {
            let tag = remote.split(";tag=").nth(1).expect("a tag");
            assert_eq!(tag.len(), 34, "{tag}");
        }
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}
