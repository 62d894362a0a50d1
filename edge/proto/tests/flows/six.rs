//! Everything over IPv6.

use crate::harness::*;

fn six() -> Config {
    config_at(V6, |_| {})
}

#[test]
fn a_call() {
    flow(six, |w| {
        let (mut caller, mut agent) = answered(w);
        assert_eq!(caller.target, "sip:edge@[2001:db8::1]:5060;transport=tcp");
        w.assert_bridges(&["4000<>4100"]);
        assert!(w.open.values().all(|port| port.is_ipv6()));
        hang_up(w, &mut caller, &mut [&mut agent]);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            "2 out ai 200 completed local",
        ]);
    });
}

#[test]
fn a_transfer() {
    flow(six, |w| {
        let (mut caller, mut agent) = answered(w);
        agent.reconnects(w);
        referred(w, &mut agent, &at("desk", w.site.human), &["X-A: 1"]);
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        assert_eq!(
            invite.request_uri(),
            Some("sip:desk@[2001:db8::30]:5080;transport=tcp")
        );
        let shown = text(&invite);
        assert!(shown.contains("Via: SIP/2.0/TCP [2001:db8::1]:5060;branch="));
        assert!(shown.contains("c=IN IP6 2001:db8::1\r\n"), "{shown}");
        let challenge = "WWW-Authenticate: Digest realm=\"agents\", nonce=\"n1\", qop=\"auth\"";
        human.answers_with(w, &invite, 401, &[challenge], "");
        human.gets(w, "ACK");
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        verify_digest(&invite, HeaderName::Authorization, "edge", "agents-s3cret");
        human.answers(w, &invite, 180);
        gets_notify(w, &mut agent, "180 Ringing");
        let last = bridging(w, &mut agent, &mut human, &invite);
        w.assert_bridges(&["4000<>4200"]);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut human, &mut [&mut caller]);
        w.assert_cdr(&[
            "1 in carrier 200 completed local",
            "2 out ai 200 completed edge refer:401 transfer_unauthorized refer:202",
            "3 out agents 200 completed remote transfer:1.1 sip:desk@[2001:db8::30] via agents: completed",
        ]);
    });
}

#[test]
fn a_transfer_that_fails() {
    flow(six, |w| {
        let (caller, mut agent, mut human, invite) = transferring(w);
        human.answers(w, &invite, 486);
        human.gets(w, "ACK");
        gets_failure(w, &mut agent, "486 Busy Here", "busy");
        returned(w, caller, agent);
    });
}

#[test]
fn a_stranger_and_hold() {
    flow(six, |w| {
        let connection = w.connect(w.site.stranger);
        assert!(!w.is_open(connection));
        let (mut caller, mut agent) = answered(w);
        caller.reinvites(w, Sdp::unspecified);
        let ok = caller.gets(w, "200 INVITE");
        caller.acks(w, &ok);
        w.assert_bridges(&["4000>4100"]);
        hang_up(w, &mut agent, &mut [&mut caller]);
    });
}
