//! Transfers that succeed.

use crate::harness::*;

#[test]
fn success() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        // The REFER comes on a fresh connection, which another core accepts.
        agent.reconnects(w);
        refers(w, &mut agent, TARGET, &["X-Conversation-ID: c-1"]);
        agent.gets(w, "202 REFER");
        let notify = gets_notify(w, &mut agent, "100 Trying");
        assert_eq!(notify.header(HeaderName::Event), Some("refer"));
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        assert!(invite.header(HeaderName::Authorization).is_none());
        assert!(invite.header(HeaderName::ProxyAuthorization).is_none());
        assert!(invite.from_header().contains(CALLER));
        assert_eq!(invite.named("X-Conversation-ID").next(), Some("c-1"));
        let challenge = "Proxy-Authenticate: Digest realm=\"agents\", nonce=\"n1\", algorithm=MD5, qop=\"auth\"";
        human.answers_with(w, &invite, 407, &[challenge], "");
        human.gets(w, "ACK");
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        verify_digest(
            &invite,
            HeaderName::ProxyAuthorization,
            "edge",
            "agents-s3cret",
        );
        human.answers(w, &invite, 180);
        gets_notify(w, &mut agent, "180 Ringing");
        w.assert_bridges(&["4000<>4100"]);
        let last = bridging(w, &mut agent, &mut human, &invite);
        w.assert_bridges(&["4000<>4200"]);
        w.assert_silent(w.site.ai);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut human, &mut [&mut caller]);
        w.assert_cdr(&[
            "1 in carrier 200 completed local",
            "2 out ai 200 completed edge refer:401 transfer_unauthorized refer:202",
            "3 out agents 200 completed remote transfer:1.1 sip:+1234567890@edge.example.net via agents: completed",
        ]);
        if w.cores.len() > 1 {
            assert!(w.handoffs > 0, "the REFER crossed cores");
        }
    });
}
