//! Targets that do not take the call: the caller stays with the agent, who is told why; or another target is tried.

use crate::harness::*;

const VIA: &str = "sip:+1234567890@edge.example.net via agents";

/// The human's leg ends as the script has it; the agent is told `status` and `cause`, and the call goes on.
fn fails(script: impl Fn(&mut World, &mut Ua, &Message), status: &str, cause: &str, human: &str) {
    flow(config, |w| {
        let (caller, mut agent, mut human_ua, invite) = transferring(w);
        w.assert_bridges(&["4000<>4100"]);
        script(w, &mut human_ua, &invite);
        gets_failure(w, &mut agent, status, cause);
        returned(w, caller, agent);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            "2 out ai 200 completed local refer:401 transfer_unauthorized refer:202",
            human,
        ]);
    });
}

fn refuses(status: u16, told: &str, cause: &str, result: &str) {
    fails(
        |w, human, invite| {
            human.answers(w, invite, 180);
            human.answers(w, invite, status);
            human.gets(w, "ACK");
            let (_, ringing) = w.recv(w.site.ai);
            assert_eq!(sipfrag(&ringing), "180 Ringing");
            let link = Link::Stream(w.connections(w.site.ai)[0]);
            let agent = Ua::callee(link, &ringing, w.site.ai, AGENT_RTP);
            let ok = agent.response(&ringing, 200, &[], "");
            w.send(link, w.site.ai, ok);
        },
        told,
        cause,
        &format!("3 out agents {status} {cause} remote transfer:1.1 {VIA}: {result}"),
    );
}

#[test]
fn refusals() {
    refuses(486, "486 Busy Here", "busy", "busy");
    refuses(600, "600 Busy Everywhere", "busy", "busy");
    refuses(603, "603 Decline", "rejected", "failed");
    refuses(404, "404 Not Found", "rejected", "failed");
    refuses(480, "480 Temporarily Unavailable", "no-answer", "no-answer");
    refuses(408, "408 Request Timeout", "no-answer", "no-answer");
    refuses(487, "480 Temporarily Unavailable", "no-answer", "no-answer");
    refuses(503, "503 Service Unavailable", "rejected", "failed");
    refuses(302, "480 Temporarily Unavailable", "rejected", "failed");
    refuses(488, "488 Not Acceptable Here", "no_common_codec", "failed");
}

#[test]
fn nobody_answers() {
    flow(config, |w| {
        let (caller, mut agent, mut human, invite) = transferring(w);
        human.answers(w, &invite, 180);
        gets_notify(w, &mut agent, "180 Ringing");
        w.advance(millis(29_999));
        w.assert_silent(w.site.human);
        w.advance(millis(1));
        let cancel = human.gets(w, "CANCEL");
        assert_eq!(
            cancel.header(HeaderName::Reason),
            Some("SIP;cause=408;text=\"no-answer\"")
        );
        gets_failure(w, &mut agent, "408 Request Timeout", "no-answer");
        human.answers(w, &cancel, 200);
        human.answers(w, &invite, 487);
        human.gets(w, "ACK");
        w.assert_told(&[
            "3 failed: not answered within the ring timeout [no-answer]",
            "2 transfer_ended: transfer 1: no-answer",
        ]);
        returned(w, caller, agent);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            "2 out ai 200 completed local refer:401 transfer_unauthorized refer:202",
            &format!("3 out agents 487 no-answer edge transfer:1.1 {VIA}: no-answer"),
        ]);
    });
}

#[test]
fn the_answer_crosses_the_cancel() {
    flow(config, |w| {
        let (caller, mut agent, mut human, invite) = transferring(w);
        human.answers(w, &invite, 180);
        gets_notify(w, &mut agent, "180 Ringing");
        w.advance(seconds(30));
        let cancel = human.gets(w, "CANCEL");
        gets_failure(w, &mut agent, "408 Request Timeout", "no-answer");
        human.accepts(w, &invite, 200);
        human.gets(w, "ACK");
        let bye = human.gets(w, "BYE");
        human.answers(w, &cancel, 200);
        human.answers(w, &bye, 200);
        returned(w, caller, agent);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            "2 out ai 200 completed local refer:401 transfer_unauthorized refer:202",
            &format!("3 out agents 200 no-answer edge transfer:1.1 {VIA}: no-answer"),
        ]);
    });
}

#[test]
fn a_target_that_never_says_anything() {
    // Timer B is later than the ring timeout.
    flow(config, |w| {
        let (caller, mut agent, _, _) = transferring(w);
        w.advance(seconds(30));
        gets_failure(w, &mut agent, "408 Request Timeout", "no-answer");
        w.advance(seconds(5));
        w.assert_silent(w.site.human);
        returned(w, caller, agent);
    });
    // And earlier than a longer one.
    let patient = || policy_with(|policy| policy.ring_timeout = seconds(60));
    flow(patient, |w| {
        let (caller, mut agent, _, _) = transferring(w);
        w.advance(seconds(32));
        gets_failure(w, &mut agent, "408 Request Timeout", "signalling_timeout");
        returned(w, caller, agent);
        assert_eq!(
            w.record("agents")
                .transfer
                .as_ref()
                .map(|transfer| transfer.result),
            Some("timeout")
        );
    });
}

#[test]
fn a_trunk_that_cannot_be_reached() {
    flow(config, |w| {
        w.refusing = vec![w.site.human];
        let (caller, mut agent) = answered(w);
        referred(w, &mut agent, TARGET, &[]);
        gets_failure(w, &mut agent, "503 Service Unavailable", "unreachable");
        returned(w, caller, agent);
        w.assert_told(&["3 unreachable: 192.0.2.30:5080: connect failed: connection refused"]);
    });
}

/// A challenge of the human's trunk.
const CHALLENGE: &str =
    "Proxy-Authenticate: Digest realm=\"agents\", nonce=\"n1\", algorithm=MD5, qop=\"auth\"";

/// The human's trunk challenges the first INVITE; the one with credentials is returned.
fn challenged(w: &mut World) -> (Ua, Ua, Ua, Message) {
    let (caller, agent, mut human, invite) = transferring(w);
    human.answers_with(w, &invite, 407, &[CHALLENGE], "");
    human.gets(w, "ACK");
    let (human, invite) = invited(w, w.site.human, HUMAN_RTP);
    verify_digest(
        &invite,
        HeaderName::ProxyAuthorization,
        "edge",
        "agents-s3cret",
    );
    (caller, agent, human, invite)
}

#[test]
fn credentials_that_are_refused() {
    for status in [407, 403] {
        flow(config, |w| {
            let (caller, mut agent, mut human, invite) = challenged(w);
            human.answers_with(w, &invite, status, &[CHALLENGE], "");
            human.gets(w, "ACK");
            gets_failure(w, &mut agent, "403 Forbidden", "sip_auth_failed 4240");
            returned(w, caller, agent);
            w.assert_cdr(&[
                "1 in carrier 200 completed remote",
                "2 out ai 200 completed local refer:401 transfer_unauthorized refer:202",
                &format!("3 out agents {status} sip_auth_failed remote transfer:1.1 {VIA}: failed"),
            ]);
            assert_eq!(w.record("agents").cause.code(), Some(4240));
            w.assert_told(&["2 transfer_ended: transfer 1: failed [sip_auth_failed: "]);
        });
    }
}

#[test]
fn a_403_without_credentials_is_not_about_them() {
    fails(
        |w, human, invite| {
            human.answers(w, invite, 403);
            human.gets(w, "ACK");
        },
        "403 Forbidden",
        "rejected",
        &format!("3 out agents 403 rejected remote transfer:1.1 {VIA}: failed"),
    );
}

#[test]
fn a_stale_nonce_is_answered_again() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = challenged(w);
        human.answers_with(w, &invite, 407, &[&format!("{CHALLENGE}, stale=true")], "");
        human.gets(w, "ACK");
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        verify_digest(
            &invite,
            HeaderName::ProxyAuthorization,
            "edge",
            "agents-s3cret",
        );
        let last = bridging(w, &mut agent, &mut human, &invite);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
}

#[test]
fn no_credentials_to_show() {
    let config = || {
        config_with(|config| {
            edit_trunk(config, "agents", |trunk| trunk.present = None);
            edit_trunk(config, "ai", |trunk| trunk.present = None);
        })
    };
    flow(config, |w| {
        let (caller, mut agent, mut human, invite) = transferring(w);
        human.answers_with(w, &invite, 407, &[CHALLENGE], "");
        human.gets(w, "ACK");
        gets_failure(w, &mut agent, "403 Forbidden", "sip_auth_failed 4240");
        w.assert_silent(w.site.human);
        returned(w, caller, agent);
        w.assert_told(&["3 failed: no credentials are configured for this trunk"]);
    });
}

#[test]
fn via_without_credentials_shows_those_of_the_transferor() {
    let config = || trunk_with("agents", |trunk| trunk.present = None);
    flow(config, |w| {
        let (caller, mut agent, mut human, invite) = transferring(w);
        human.answers_with(w, &invite, 407, &[CHALLENGE], "");
        human.gets(w, "ACK");
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        verify_digest(
            &invite,
            HeaderName::ProxyAuthorization,
            "trunk-user",
            "s3cret",
        );
        human.answers(w, &invite, 486);
        human.gets(w, "ACK");
        gets_failure(w, &mut agent, "486 Busy Here", "busy");
        returned(w, caller, agent);
    });
}

#[test]
fn another_trunk_than_via_is_not_shown_those_of_the_transferor() {
    let config = || policy_with(|policy| policy.targets = vec!["sip:*@192.0.2.40".into()]);
    flow(config, |w| {
        let (caller, mut agent) = answered(w);
        referred(w, &mut agent, "<sip:desk@192.0.2.40>", &[]);
        let (mut human, invite) = invited(w, w.site.spare, SPARE_RTP);
        human.answers_with(w, &invite, 407, &[CHALLENGE], "");
        human.gets(w, "ACK");
        w.assert_silent(w.site.spare);
        gets_failure(w, &mut agent, "403 Forbidden", "sip_auth_failed 4240");
        returned(w, caller, agent);
    });
}

#[test]
fn silence_after_credentials() {
    flow(config, |w| {
        let (caller, mut agent, mut human, invite) = challenged(w);
        w.advance(millis(4_999));
        w.assert_silent(w.site.ai);
        w.advance(millis(1));
        gets_failure(
            w,
            &mut agent,
            "408 Request Timeout",
            "sip_auth_timeout 4250",
        );
        // RFC 3261 §9.1: a CANCEL has to wait for a provisional response, if one ever comes.
        w.assert_silent(w.site.human);
        human.answers(w, &invite, 100);
        let cancel = human.gets(w, "CANCEL");
        human.answers(w, &cancel, 200);
        human.answers(w, &invite, 487);
        human.gets(w, "ACK");
        returned(w, caller, agent);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            "2 out ai 200 completed local refer:401 transfer_unauthorized refer:202",
            &format!("3 out agents 487 sip_auth_timeout edge transfer:1.1 {VIA}: timeout"),
        ]);
        assert_eq!(w.record("agents").cause.code(), Some(4250));
    });
}

#[test]
fn any_response_ends_the_wait_after_credentials() {
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = challenged(w);
        w.advance(seconds(4));
        human.answers(w, &invite, 100);
        w.advance(seconds(20));
        w.assert_silent(w.site.ai);
        let last = bridging(w, &mut agent, &mut human, &invite);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
}

/// A first and two further targets.
fn with_fallbacks() -> Config {
    policy_with(|policy| {
        policy.fallback = vec!["sip:desk@192.0.2.40".into(), "tel:+1555".into()];
    })
}

#[test]
fn a_fallback_takes_the_call() {
    flow(with_fallbacks, |w| {
        let (mut caller, mut agent, mut human, invite) = transferring(w);
        human.answers(w, &invite, 180);
        gets_notify(w, &mut agent, "180 Ringing");
        human.answers(w, &invite, 486);
        human.gets(w, "ACK");
        // A failed target with others left is no final status.
        w.assert_silent(w.site.ai);
        let (mut desk, invite) = invited(w, w.site.spare, SPARE_RTP);
        assert_eq!(
            invite.request_uri(),
            Some("sip:desk@192.0.2.40:5090;transport=tcp")
        );
        desk.answers(w, &invite, 180);
        gets_notify(w, &mut agent, "180 Ringing");
        let last = bridging(w, &mut agent, &mut desk, &invite);
        w.assert_bridges(&["4000<>4300"]);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut desk]);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            "2 out ai 200 completed edge refer:401 transfer_unauthorized refer:202",
            &format!("3 out agents 486 busy remote transfer:1.1 {VIA}: busy"),
            "4 out spare 200 completed local transfer:1.2 sip:desk@192.0.2.40 via spare: completed",
        ]);
        w.assert_told(&[
            "2 transfer_attempt: transfer 1, attempt 1: calling sip:+1234567890@edge.example.net over trunk agents",
            "3 failed: the peer answered 486 Busy Here [busy]",
            "2 transfer_attempt: transfer 1, attempt 2: calling sip:desk@192.0.2.40 over trunk spare",
            "4 transfer_bridged: transfer 1",
            "2 transfer_ended: transfer 1: completed",
        ]);
    });
}

#[test]
fn every_fallback_fails() {
    flow(with_fallbacks, |w| {
        let (caller, mut agent, mut human, invite) = transferring(w);
        human.answers(w, &invite, 486);
        human.gets(w, "ACK");
        let (mut desk, invite) = invited(w, w.site.spare, SPARE_RTP);
        desk.answers(w, &invite, 603);
        desk.gets(w, "ACK");
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        assert_eq!(
            invite.request_uri(),
            Some("sip:+1555@192.0.2.30:5080;transport=tcp")
        );
        // The ring time starts anew for each.
        w.advance(seconds(29));
        w.assert_silent(w.site.ai);
        human.answers(w, &invite, 480);
        human.gets(w, "ACK");
        gets_failure(w, &mut agent, "480 Temporarily Unavailable", "no-answer");
        returned(w, caller, agent);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            "2 out ai 200 completed local refer:401 transfer_unauthorized refer:202",
            &format!("3 out agents 486 busy remote transfer:1.1 {VIA}: busy"),
            "4 out spare 603 rejected remote transfer:1.2 sip:desk@192.0.2.40 via spare: failed",
            "5 out agents 480 no-answer remote transfer:1.3 tel:+1555 via agents: no-answer",
        ]);
    });
}

#[test]
fn a_fallback_that_leads_nowhere_is_passed_over() {
    let config = || {
        policy_with(|policy| {
            policy.fallback = vec![
                "sip:x@evil.example.com".into(),
                "nonsense".into(),
                "sip:desk@192.0.2.40".into(),
            ];
        })
    };
    flow(config, |w| {
        let (caller, mut agent, mut human, invite) = transferring(w);
        human.answers(w, &invite, 486);
        human.gets(w, "ACK");
        let (mut desk, invite) = invited(w, w.site.spare, SPARE_RTP);
        desk.answers(w, &invite, 486);
        desk.gets(w, "ACK");
        gets_failure(w, &mut agent, "486 Busy Here", "busy");
        returned(w, caller, agent);
        w.assert_told(&[
            "2 fallback: sip:x@evil.example.com",
            "2 fallback: nonsense",
            "attempt 2: calling sip:desk@192.0.2.40",
        ]);
    });
}

#[test]
fn a_full_trunk_of_the_target() {
    let config = || {
        config_with(|config| {
            edit_policy(config, |policy| {
                policy.fallback = vec!["sip:desk@192.0.2.40".into()]
            });
            edit_trunk(config, "agents", |trunk| trunk.max_calls = 1);
        })
    };
    flow(config, |w| {
        let (mut first, mut one) = transferred(w);
        let (caller, mut agent) = answered(w);
        referred(w, &mut agent, TARGET, &[]);
        let (mut desk, invite) = invited(w, w.site.spare, SPARE_RTP);
        desk.answers(w, &invite, 486);
        desk.gets(w, "ACK");
        gets_failure(w, &mut agent, "486 Busy Here", "busy");
        hang_up(w, &mut first, &mut [&mut one]);
        returned(w, caller, agent);
        assert!(
            w.cdr().contains(&format!(
                "3 out agents - trunk_limit edge transfer:1.1 {VIA}: failed"
            )),
            "{:?}",
            w.cdr()
        );
    });
}

#[test]
fn the_subscription_outlives_every_target() {
    flow(with_fallbacks, |w| {
        let (caller, mut agent) = answered(w);
        refers(w, &mut agent, TARGET, &[]);
        agent.gets(w, "202 REFER");
        let notify = gets_notify(w, &mut agent, "100 Trying");
        let state = notify
            .header(HeaderName::SubscriptionState)
            .expect("a state");
        let expires: u64 = state
            .strip_prefix("active;expires=")
            .and_then(|seconds| seconds.parse().ok())
            .expect("seconds");
        // Three targets with 30 s of ringing and 5 s for credentials each.
        assert!(expires > 3 * (30 + 5), "{expires}");
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        w.advance(seconds(10));
        human.answers(w, &invite, 180);
        let ringing = gets_notify(w, &mut agent, "180 Ringing");
        assert_eq!(
            ringing.header(HeaderName::SubscriptionState),
            Some(format!("active;expires={}", expires - 10).as_str())
        );
        human.answers(w, &invite, 486);
        human.gets(w, "ACK");
        for peer in [w.site.spare, w.site.human] {
            let (mut next, invite) = invited(w, peer, HUMAN_RTP);
            next.answers(w, &invite, 486);
            next.gets(w, "ACK");
        }
        gets_failure(w, &mut agent, "486 Busy Here", "busy");
        returned(w, caller, agent);
    });
}

#[test]
fn a_policy_that_hangs_up_on_failure() {
    let config = || policy_with(|policy| policy.on_failure = OnFailure::Hangup);
    flow(config, |w| {
        let (mut caller, mut agent, mut human, invite) = transferring(w);
        human.answers(w, &invite, 486);
        human.gets(w, "ACK");
        gets_bye(w, &mut caller);
        // The agent hears why before it is released.
        let last = agent.gets(w, "NOTIFY");
        assert_eq!(sipfrag(&last), "486 Busy Here");
        w.assert_silent(w.site.ai);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        w.assert_cdr(&[
            "1 in carrier 200 busy edge",
            "2 out ai 200 completed edge refer:401 transfer_unauthorized refer:202",
            &format!("3 out agents 486 busy remote transfer:1.1 {VIA}: busy"),
        ]);
    });
}

#[test]
fn the_answer_of_the_target_cannot_be_used() {
    for body in [
        |_: &Ua| String::new(),
        |human: &Ua| human.sdp.clone().codecs(&[18]).text(),
        |human: &Ua| human.sdp.clone().profile("RTP/SAVP").text(),
    ] {
        flow(config, |w| {
            let (caller, mut agent, mut human, invite) = transferring(w);
            let body = body(&human);
            human.answers_with(w, &invite, 200, &[], &body);
            human.gets(w, "ACK");
            gets_bye(w, &mut human);
            gets_failure(w, &mut agent, "488 Not Acceptable Here", "no_common_codec");
            returned(w, caller, agent);
            w.assert_cdr(&[
                "1 in carrier 200 completed remote",
                "2 out ai 200 completed local refer:401 transfer_unauthorized refer:202",
                &format!("3 out agents 200 no_common_codec edge transfer:1.1 {VIA}: failed"),
            ]);
        });
    }
}

#[test]
fn the_ports_of_the_target_are_taken() {
    flow(config, |w| {
        let (caller, mut agent) = answered(w);
        w.ports_taken = 100;
        referred(w, &mut agent, TARGET, &[]);
        w.assert_silent(w.site.human);
        gets_failure(w, &mut agent, "503 Service Unavailable", "media_failed");
        w.ports_taken = 0;
        returned(w, caller, agent);
    });
}

#[test]
fn the_trunk_of_the_target_has_no_codec_of_the_caller() {
    let config = || trunk_with("agents", |trunk| trunk.codecs = vec!["G722".into()]);
    flow(config, |w| {
        let (caller, mut agent) = answered(w);
        referred(w, &mut agent, TARGET, &[]);
        w.assert_silent(w.site.human);
        gets_failure(w, &mut agent, "488 Not Acceptable Here", "no_common_codec");
        returned(w, caller, agent);
    });
}
