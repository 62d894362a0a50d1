//! Peers that challenge our INVITE.

use crate::harness::*;
use edge_proto::sip::auth::DigestServer;

/// The platform challenges the first INVITE with `status` and these lines; what comes next is returned.
fn challenged(w: &mut World, status: u16, lines: &[&str]) -> (Ua, Ua, Message) {
    let caller = calling(w);
    let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
    assert_eq!(invite.header(HeaderName::Authorization), None);
    assert_eq!(invite.header(HeaderName::ProxyAuthorization), None);
    agent.answers_with(w, &invite, status, lines, "");
    agent.gets(w, "ACK");
    let (agent, again) = invited(w, w.site.ai, AGENT_RTP);
    // RFC 3261 §22.2: the same request but for the credentials, the branch and CSeq.
    assert_eq!(again.call_id(), invite.call_id());
    assert_eq!(again.from_header(), invite.from_header());
    assert_eq!(again.to_header(), invite.to_header());
    assert_eq!(again.request_uri(), invite.request_uri());
    assert_eq!(again.cseq().number, invite.cseq().number + 1);
    assert_eq!(again.body(), invite.body());
    (caller, agent, again)
}

fn answers(status: u16, lines: &[&str], header: HeaderName) {
    flow(config, |w| {
        let (caller, mut agent, invite) = challenged(w, status, lines);
        verify_digest(&invite, header, "trunk-user", "s3cret");
        agent.accepts(w, &invite, 200);
        let ack = agent.gets(w, "ACK");
        // RFC 3261 §22.1: an ACK cannot be challenged, and has the INVITE's credentials.
        assert_eq!(ack.header(header), invite.header(header));
        let mut caller = caller;
        let ok = caller.gets(w, "200 INVITE");
        caller.acks(w, &ok);
        assert_eq!(w.digests(), ["answered"]);
        w.assert_told(&["2 digest: ai asks for credentials"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            "2 out ai 200 completed local",
        ]);
    });
}

#[test]
fn with_401_and_qop() {
    answers(
        401,
        &["WWW-Authenticate: Digest realm=\"ai\", nonce=\"n1\", qop=\"auth\""],
        HeaderName::Authorization,
    );
}

#[test]
fn with_407_and_qop() {
    answers(
        407,
        &[
            "Proxy-Authenticate: Digest realm=\"ai\", nonce=\"n1\", qop=\"auth-int,auth\", opaque=\"o\"",
        ],
        HeaderName::ProxyAuthorization,
    );
}

#[test]
fn without_qop() {
    answers(
        401,
        &["WWW-Authenticate: Digest realm=\"ai\", nonce=\"n1\", algorithm=MD5"],
        HeaderName::Authorization,
    );
    answers(
        407,
        &["Proxy-Authenticate: Digest realm=\"ai\", nonce=\"n1\""],
        HeaderName::ProxyAuthorization,
    );
}

#[test]
fn with_sha_256_first() {
    flow(config, |w| {
        let lines = [
            "WWW-Authenticate: Digest realm=\"ai\", nonce=\"n1\", qop=\"auth\", algorithm=SHA-256",
            "WWW-Authenticate: Digest realm=\"ai\", nonce=\"n1\", qop=\"auth\", algorithm=MD5",
        ];
        let (mut caller, mut agent, invite) = challenged(w, 401, &lines);
        let value = invite
            .header(HeaderName::Authorization)
            .expect("credentials");
        assert!(value.contains("algorithm=SHA-256"), "{value}");
        verify_digest(&invite, HeaderName::Authorization, "trunk-user", "s3cret");
        agent.answers(w, &invite, 486);
        agent.gets(w, "ACK");
        let busy = caller.gets(w, "486 INVITE");
        caller.acks(w, &busy);
    });
}

#[test]
fn stale_nonces_are_answered_again_a_few_times() {
    flow(config, |w| {
        let lines = ["WWW-Authenticate: Digest realm=\"ai\", nonce=\"n1\", qop=\"auth\""];
        let (mut caller, _, mut invite) = challenged(w, 401, &lines);
        let stale =
            ["WWW-Authenticate: Digest realm=\"ai\", nonce=\"n2\", qop=\"auth\", stale=true"];
        for _ in 0..2 {
            let mut agent = Ua::callee(
                Link::Stream(w.connections(w.site.ai)[0]),
                &invite,
                w.site.ai,
                AGENT_RTP,
            );
            agent.answers_with(w, &invite, 401, &stale, "");
            agent.gets(w, "ACK");
            (_, invite) = invited(w, w.site.ai, AGENT_RTP);
            verify_digest(&invite, HeaderName::Authorization, "trunk-user", "s3cret");
        }
        let link = Link::Stream(w.connections(w.site.ai)[0]);
        let mut agent = Ua::callee(link, &invite, w.site.ai, AGENT_RTP);
        agent.answers_with(w, &invite, 401, &stale, "");
        agent.gets(w, "ACK");
        w.assert_silent(w.site.ai);
        let refusal = caller.gets(w, "502 INVITE");
        caller.acks(w, &refusal);
        w.assert_cdr(&[
            "1 in carrier 502 sip_auth_failed local",
            "2 out ai 401 sip_auth_failed remote",
        ]);
    });
}

#[test]
fn a_second_challenge_is_a_refusal() {
    flow(config, |w| {
        let lines = ["WWW-Authenticate: Digest realm=\"ai\", nonce=\"n1\", qop=\"auth\""];
        let (mut caller, mut agent, invite) = challenged(w, 401, &lines);
        agent.answers_with(w, &invite, 401, &lines, "");
        agent.gets(w, "ACK");
        let refusal = caller.gets(w, "502 INVITE");
        caller.acks(w, &refusal);
        w.assert_told(&["2 failed: the peer refused our credentials [sip_auth_failed]"]);
        w.assert_cdr(&[
            "1 in carrier 502 sip_auth_failed local",
            "2 out ai 401 sip_auth_failed remote",
        ]);
    });
}

#[test]
fn a_403_after_credentials_is_about_them() {
    flow(config, |w| {
        let lines = ["WWW-Authenticate: Digest realm=\"ai\", nonce=\"n1\", qop=\"auth\""];
        let (mut caller, mut agent, invite) = challenged(w, 401, &lines);
        agent.answers(w, &invite, 403);
        agent.gets(w, "ACK");
        let refusal = caller.gets(w, "403 INVITE");
        caller.acks(w, &refusal);
        w.assert_cdr(&[
            "1 in carrier 403 sip_auth_failed local",
            "2 out ai 403 sip_auth_failed remote",
        ]);
    });
}

/// The platform's challenge is not answered; the timeline says why.
fn not_answered(config: impl Fn() -> Config, line: &str, outcome: &[&str], why: &str) {
    flow(config, |w| {
        let mut caller = calling(w);
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        agent.answers_with(w, &invite, 401, &[line], "");
        agent.gets(w, "ACK");
        w.assert_silent(w.site.ai);
        let refusal = caller.gets(w, "502 INVITE");
        caller.acks(w, &refusal);
        assert_eq!(w.digests(), outcome);
        w.assert_told(&[why]);
        w.assert_cdr(&[
            "1 in carrier 502 sip_auth_failed local",
            "2 out ai 401 sip_auth_failed remote",
        ]);
    });
}

#[test]
fn challenges_that_are_not_answered() {
    let good = "WWW-Authenticate: Digest realm=\"ai\", nonce=\"n1\", qop=\"auth\"";
    not_answered(
        || trunk_with("ai", |trunk| trunk.present = None),
        good,
        &["unanswered"],
        "2 failed: no credentials are configured for this trunk [sip_auth_failed]",
    );
    let only = || {
        trunk_with("ai", |trunk| {
            trunk.present.as_mut().expect("credentials").realm = Some("other".into());
        })
    };
    not_answered(
        only,
        good,
        &["unanswered"],
        "2 failed: the challenge is for a realm that our credentials are not for",
    );
    not_answered(
        config,
        "WWW-Authenticate: Digest realm=\"ai\", nonce=\"n1\", algorithm=WHIRLPOOL",
        &["unanswered"],
        "2 failed: no algorithm of the challenge is known here",
    );
    not_answered(
        config,
        "WWW-Authenticate: Digest realm=\"ai\", nonce=\"n1\", qop=\"auth-int\"",
        &["unanswered"],
        "2 failed: the challenge demands a quality of protection other than auth",
    );
    not_answered(
        config,
        "WWW-Authenticate: Basic realm=\"ai\"",
        &["unanswered"],
        "2 failed: the response carries no Digest challenge",
    );
}

#[test]
fn a_nonce_of_our_own_is_never_answered() {
    // The platform asks the edge for a challenge, and reflects it: the edge would compute its own response.
    let reflected = DigestServer::new([1; 32], edge_proto::id::CoreId(0)).challenges(
        Instant::ZERO,
        "sip-edge",
        &[DigestAlgorithm::Md5],
        "x",
        false,
    );
    not_answered(
        config,
        &format!("WWW-Authenticate: {}", reflected[0]),
        &["reflected"],
        "2 digest: the challenge of ai is not answered [reflected",
    );
}

#[test]
fn the_realm_that_the_credentials_are_for() {
    let config = || {
        trunk_with("ai", |trunk| {
            trunk.present.as_mut().expect("credentials").realm = Some("ai".into());
        })
    };
    flow(config, |w| {
        let lines = [
            "WWW-Authenticate: Digest realm=\"other\", nonce=\"n1\", qop=\"auth\"",
            "WWW-Authenticate: Digest realm=\"ai\", nonce=\"n2\", qop=\"auth\"",
        ];
        let (mut caller, mut agent, invite) = challenged(w, 401, &lines);
        verify_digest(&invite, HeaderName::Authorization, "trunk-user", "s3cret");
        let value = invite.header(HeaderName::Authorization).expect("it");
        assert!(value.contains("n2"), "{value}");
        agent.answers(w, &invite, 486);
        agent.gets(w, "ACK");
        let busy = caller.gets(w, "486 INVITE");
        caller.acks(w, &busy);
    });
}

#[test]
fn while_the_caller_gives_up() {
    flow(config, |w| {
        let lines = ["WWW-Authenticate: Digest realm=\"ai\", nonce=\"n1\", qop=\"auth\""];
        let mut caller = calling(w);
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        caller.cancels(w);
        caller.gets(w, "200 CANCEL");
        let ended = caller.gets(w, "487 INVITE");
        caller.acks(w, &ended);
        // The challenge crosses: nothing is sent again.
        agent.answers_with(w, &invite, 401, &lines, "");
        agent.gets(w, "ACK");
        w.assert_silent(w.site.ai);
        w.assert_cdr(&[
            "1 in carrier 487 cancelled remote",
            "2 out ai 401 cancelled local",
        ]);
    });
}
