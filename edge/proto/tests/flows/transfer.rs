//! Transfers by REFER.

use crate::basic::answered;
use crate::ua::{Ua, expect_invite};
use crate::world::*;
use edge_proto::config::{PresentedCredentials, Secret};
use edge_proto::event::Cause;
use edge_proto::id::CoreId;
use edge_proto::sip::auth::{self, DigestServer};
use edge_proto::sip::{HeaderName, Message};

/// The Authorization value for a REFER, as a platform computes it.
pub fn authorize(challenge: &Message, uri: &str, password: &str) -> String {
    let present = PresentedCredentials {
        username: "trunk-user".into(),
        password: Secret::new(password),
        realm: None,
    };
    // A client with a key of its own: the edge's nonces are not its own.
    let own = DigestServer::new([99; 32], CoreId(0));
    auth::answer(
        challenge.headers(HeaderName::WwwAuthenticate),
        &present,
        "REFER",
        uri,
        "abcdef0123456789",
        1,
        &own,
    )
    .expect("a challenge that can be answered")
}

/// Sends a REFER and answers its challenge; the edge accepts it.
pub fn refer(world: &mut World, agent: &mut Ua, target: &str, extra: &[&str]) {
    let refer_to = format!("Refer-To: {target}");
    let mut lines = vec![refer_to.as_str()];
    lines.extend(extra);
    agent.send(world, "REFER", &lines, "");
    let challenge = agent.expect(world, 401, "REFER");
    let authorization = format!(
        "Authorization: {}",
        authorize(&challenge, &agent.target, "s3cret")
    );
    lines.push(&authorization);
    agent.send(world, "REFER", &lines, "");
}

/// The next NOTIFY, answered: its sipfrag's status and Subscription-State.
pub fn notified(world: &mut World, agent: &mut Ua) -> (String, String, Message) {
    let notify = agent.expect_request(world, "NOTIFY");
    agent.respond(world, &notify, 200, &[], "");
    let body = String::from_utf8_lossy(&notify.body()).into_owned();
    let state = notify
        .header(HeaderName::SubscriptionState)
        .expect("Subscription-State")
        .to_owned();
    (
        body.lines().next().unwrap_or_default().to_owned(),
        state,
        notify,
    )
}

#[test]
fn success() {
    for cores in [1, 4] {
        let mut world = World::new(config(), cores);
        let (mut caller, mut agent) = answered(&mut world, 0);
        // The REFER comes on a fresh connection, which another core accepts.
        agent.connection = world.connect(addr(AI), 1);
        refer(
            &mut world,
            &mut agent,
            "<sip:+1234567890@edge.example.net>",
            &["X-Conversation-ID: c-1"],
        );
        agent.expect(&mut world, 202, "REFER");
        let (status, state, notify) = notified(&mut world, &mut agent);
        assert_eq!(status, "SIP/2.0 100 Trying");
        assert!(state.starts_with("active;expires="), "{state}");
        assert_eq!(notify.header(HeaderName::Event), Some("refer"));
        let (mut human, invite) = expect_invite(&mut world, addr(HUMAN), 4200);
        assert!(invite.header(HeaderName::Authorization).is_none());
        assert!(invite.header(HeaderName::ProxyAuthorization).is_none());
        assert!(
            invite.from_header().contains("+15550100"),
            "the caller's number"
        );
        assert_eq!(invite.named("X-Conversation-ID").next(), Some("c-1"));
        assert!(invite.header(HeaderName::ReferredBy).is_some());
        let challenge = "Proxy-Authenticate: Digest realm=\"agents\", nonce=\"n1\", algorithm=MD5, qop=\"auth\"";
        human.respond(&mut world, &invite, 407, &[challenge], "");
        human.expect_request(&mut world, "ACK");
        let (mut human, invite) = expect_invite(&mut world, addr(HUMAN), 4200);
        assert!(invite.header(HeaderName::ProxyAuthorization).is_some());
        human.respond(&mut world, &invite, 180, &[], "");
        let (status, _, _) = notified(&mut world, &mut agent);
        assert_eq!(status, "SIP/2.0 180 Ringing");
        let body = human.sdp();
        human.respond(&mut world, &invite, 200, &[], &body);
        human.expect_request(&mut world, "ACK");
        assert_eq!(
            world.bridged(),
            [(addr("192.0.2.10:4000"), addr("192.0.2.30:4200"))]
        );
        let last = agent.expect_request(&mut world, "NOTIFY");
        assert!(String::from_utf8_lossy(&last.body()).starts_with("SIP/2.0 200 OK"));
        assert_eq!(
            last.header(HeaderName::SubscriptionState),
            Some("terminated;reason=noresource")
        );
        world.assert_silent(addr(AI));
        agent.respond(&mut world, &last, 200, &[], "");
        let bye = agent.expect_request(&mut world, "BYE");
        agent.respond(&mut world, &bye, 200, &[], "");
        world.assert_silent(addr(CARRIER));
        human.send(&mut world, "BYE", &[], "");
        human.expect(&mut world, 200, "BYE");
        let bye = caller.expect_request(&mut world, "BYE");
        caller.respond(&mut world, &bye, 200, &[], "");
        world.assert_all_over();
        let record = world
            .record("agents")
            .transfer
            .clone()
            .expect("a transfer record");
        assert_eq!(
            (record.id, record.attempt, record.result),
            (1, 1, "completed")
        );
        assert_eq!(world.record("ai").refers.len(), 2);
        assert_eq!(world.record("ai").cause, Cause::Completed);
        assert_eq!(world.verdicts().last(), Some(&(202, None)));
        if cores > 1 {
            assert!(world.handoffs > 0, "the REFER crossed cores");
        }
    }
}
