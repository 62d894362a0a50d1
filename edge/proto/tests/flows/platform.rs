//! Calls that the platform makes, and the whole timeline of a transfer.

use crate::harness::*;

#[test]
fn a_call_of_the_platform_is_challenged() {
    let config = || trunk_with("ai", |trunk| trunk.auth = InboundAuth::DigestAndIp);
    flow(config, |w| {
        let mut agent = Ua::caller(w, w.site.ai, "+441632960000", AGENT_RTP);
        agent.invites(w);
        let challenge = agent.gets(w, "401 INVITE");
        agent.acks(w, &challenge);
        agent.remote = without_tag(&agent.remote).to_owned();
        w.assert_silent(w.site.carrier);
        let line = Answering::new("INVITE", &agent.target).line(&challenge);
        let body = agent.sdp.text();
        agent.sends(w, "INVITE", &[&line], &body);
        agent.gets(w, "100 INVITE");
        let (callee, invite) = invited(w, w.site.carrier, CALLER_RTP);
        assert_eq!(invite.header(HeaderName::Authorization), None);
        let (mut agent, mut callee) = answering(w, agent, callee, &invite);
        w.assert_bridges(&["4100<>4000"]);
        hang_up(w, &mut callee, &mut [&mut agent]);
        assert_eq!(w.digests(), ["challenged", "accepted"]);
        w.assert_cdr(&[
            "1 in ai 200 completed local",
            "2 out carrier 200 completed remote",
        ]);
    });
}

#[test]
fn the_timeline_of_a_transfer() {
    flow(config, |w| {
        let (mut caller, mut human) = transferred(w);
        hang_up(w, &mut human, &mut [&mut caller]);
        w.assert_told(&[
            "1 call_started: call from +15550100 to +19995550123, from trunk carrier at 192.0.2.10:5060",
            "1 request: INVITE received from carrier",
            "1 response: 100 Trying to INVITE sent to carrier",
            "1 routed: number +19995550123 goes to trunk ai",
            "2 leg_started: outbound leg to trunk ai",
            "2 request: INVITE sent to ai",
            "2 response: 180 Ringing to INVITE received from ai",
            "1 response: 180 Ringing to INVITE sent to carrier",
            "2 response: 200 OK to INVITE received from ai",
            "1 response: 200 OK to INVITE sent to carrier",
            "2 request: REFER received from ai",
            "2 response: 401 Unauthorized to REFER sent to ai",
            "2 request: REFER received from ai",
            "2 digest: credentials of ai accepted",
            "2 refer: REFER to <sip:+1234567890@edge.example.net> accepted with 202",
            "2 response: 202 Accepted to REFER sent to ai",
            "2 request: NOTIFY sent to ai",
            "2 transfer_attempt: transfer 1, attempt 1: calling sip:+1234567890@edge.example.net over trunk agents",
            "3 leg_started: outbound leg to trunk agents",
            "3 request: INVITE sent to agents",
            "3 response: 200 OK to INVITE received from agents",
            "3 transfer_bridged: transfer 1: caller and target are bridged",
            "2 transfer_ended: transfer 1: completed",
            "2 request: NOTIFY sent to ai",
            "2 response: 200 OK to NOTIFY received from ai",
            "2 request: BYE sent to ai",
            "2 leg_ended",
            "3 request: BYE received from agents",
            "3 hangup: the peer hung up",
            "1 request: BYE sent to carrier",
            "- call_ended: the call is over [completed",
        ]);
    });
}
