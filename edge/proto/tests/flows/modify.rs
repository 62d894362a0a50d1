//! Changes of an established session: hold and resume, refresh, moved endpoints, glare.

use crate::harness::*;

/// `ua` changes its session, and the edge agrees: what the 200 says.
fn changes(w: &mut World, ua: &mut Ua, change: impl FnOnce(Sdp) -> Sdp) -> Message {
    ua.reinvites(w, change);
    let ok = ua.gets(w, "200 INVITE");
    ua.acks(w, &ok);
    ok
}

#[test]
fn hold_and_resume_by_either_side() {
    for (hold, answer, caller_held, agent_held) in [
        ("sendonly", "recvonly", "4000>4100", "4000<4100"),
        ("inactive", "inactive", "4000|4100", "4000|4100"),
        ("recvonly", "sendonly", "4000<4100", "4000>4100"),
    ] {
        flow(config, |w| {
            let (mut caller, mut agent) = answered(w);
            let ok = changes(w, &mut caller, |sdp| sdp.direction(hold));
            assert_eq!(direction(ok.body()), answer);
            w.assert_bridges(&[caller_held]);
            // The other side is not bothered.
            w.assert_silent(w.site.ai);
            let ok = changes(w, &mut caller, |sdp| sdp.direction("sendrecv"));
            assert_eq!(direction(ok.body()), "sendrecv");
            w.assert_bridges(&["4000<>4100"]);
            changes(w, &mut agent, |sdp| sdp.direction(hold));
            w.assert_bridges(&[agent_held]);
            changes(w, &mut agent, |sdp| sdp.direction("sendrecv"));
            w.assert_bridges(&["4000<>4100"]);
            w.assert_silent(w.site.carrier);
            hang_up(w, &mut caller, &mut [&mut agent]);
            w.assert_cdr(&[
                "1 in carrier 200 completed remote",
                "2 out ai 200 completed local",
            ]);
        });
    }
}

#[test]
fn hold_with_an_unspecified_address() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        let ok = changes(w, &mut caller, Sdp::unspecified);
        assert_eq!(direction(ok.body()), "recvonly");
        w.assert_bridges(&["4000>4100"]);
        let back = w.site.carrier;
        changes(w, &mut caller, |mut sdp| {
            sdp.address = back.ip();
            sdp
        });
        w.assert_bridges(&["4000<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn both_hold() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        changes(w, &mut caller, |sdp| sdp.direction("sendonly"));
        changes(w, &mut agent, |sdp| sdp.direction("sendonly"));
        w.assert_bridges(&["4000|4100"]);
        changes(w, &mut caller, |sdp| sdp.direction("sendrecv"));
        // The agent still holds: it speaks and does not listen.
        w.assert_bridges(&["4000<4100"]);
        changes(w, &mut agent, |sdp| sdp.direction("sendrecv"));
        w.assert_bridges(&["4000<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn an_endpoint_that_moves() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        let ok = changes(w, &mut caller, |sdp| sdp.port(4010));
        assert_eq!(direction(ok.body()), "sendrecv");
        w.assert_bridges(&["4010<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn a_new_contact_is_where_later_requests_go() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        agent.contact = "<sip:moved@192.0.2.20:5070;transport=tcp>".into();
        changes(w, &mut agent, |sdp| sdp);
        caller.says(w, "BYE");
        caller.gets(w, "200 BYE");
        let bye = gets_bye(w, &mut agent);
        assert_eq!(
            bye.request_uri(),
            Some("sip:moved@192.0.2.20:5070;transport=tcp")
        );
    });
}

#[test]
fn a_refresh_without_an_offer() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        caller.says(w, "INVITE");
        let ok = caller.gets(w, "200 INVITE");
        // Our offer is what is in use; the answer comes with the ACK.
        assert_eq!(formats(ok.body()), [0, 101]);
        assert_eq!(direction(ok.body()), "sendrecv");
        let answer = caller.sdp.clone().port(4010).text();
        caller.acks_with(w, &ok, &answer);
        w.assert_bridges(&["4010<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn a_refresh_without_an_offer_ends_a_hold() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        changes(w, &mut caller, |sdp| sdp.direction("sendonly"));
        w.assert_bridges(&["4000>4100"]);
        caller.says(w, "INVITE");
        let ok = caller.gets(w, "200 INVITE");
        // RFC 3261 §14.2: an offer of what we can do, not of what the peer's hold left of it.
        assert_eq!(direction(ok.body()), "sendrecv");
        let answer = caller.sdp.clone().direction("sendrecv").text();
        caller.acks_with(w, &ok, &answer);
        w.assert_bridges(&["4000<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn a_refresh_whose_answer_never_comes_changes_nothing() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        caller.says(w, "INVITE");
        let ok = caller.gets(w, "200 INVITE");
        caller.acks(w, &ok);
        w.assert_bridges(&["4000<>4100"]);
        w.assert_told(&["1 sdp: the ACK carries no usable answer to our offer"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn update_with_and_without_an_offer() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        caller.says(w, "UPDATE");
        assert!(caller.gets(w, "200 UPDATE").body().is_empty());
        w.assert_bridges(&["4000<>4100"]);
        let hold = agent.sdp.clone().direction("sendonly").text();
        agent.sends(w, "UPDATE", &[], &hold);
        let ok = agent.gets(w, "200 UPDATE");
        assert_eq!(direction(ok.body()), "recvonly");
        assert!(ok.header(HeaderName::Contact).is_some());
        w.assert_bridges(&["4000<4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn an_update_before_the_answer() {
    flow(config, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        // RFC 3311 §5.2: our answer is still owed.
        let body = caller.sdp.text();
        caller.sends(w, "UPDATE", &[], &body);
        let refusal = caller.gets(w, "500 UPDATE");
        assert!(refusal.header(HeaderName::RetryAfter).is_some());
        caller.says(w, "UPDATE");
        caller.gets(w, "200 UPDATE");
        agent.answers(w, &invite, 603);
        agent.gets(w, "ACK");
        let declined = caller.gets(w, "603 INVITE");
        caller.acks(w, &declined);
    });
}

/// A change that is refused leaves everything as it was.
fn refused(change: impl Fn(Sdp) -> Sdp, status: u16, cause: &str) {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        let before = caller.sdp.clone();
        caller.reinvites(w, &change);
        let refusal = caller.gets(w, &format!("{status} INVITE"));
        caller.acks(w, &refusal);
        let reason = format!("SIP;cause={status};text=\"{cause}\"");
        assert_eq!(refusal.header(HeaderName::Reason), Some(reason.as_str()));
        w.assert_bridges(&["4000<>4100"]);
        // The same by UPDATE.
        let body = caller.sdp.text();
        caller.sends(w, "UPDATE", &[], &body);
        caller.gets(w, &format!("{status} UPDATE"));
        w.assert_bridges(&["4000<>4100"]);
        // RFC 3261 §14.1: and the session can still be changed.
        changes(w, &mut caller, |_| before.port(4010));
        w.assert_bridges(&["4010<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn changes_that_cannot_be_had() {
    refused(|sdp| sdp.codecs(&[8, 101]), 488, "no_common_codec");
    refused(|sdp| sdp.codecs(&[101]), 488, "no_common_codec");
    refused(|sdp| sdp.port(0), 488, "no_common_codec");
    refused(|sdp| sdp.profile("RTP/SAVP"), 488, "encryption_required");
    refused(
        |mut sdp| {
            sdp.address = V6.carrier.ip();
            sdp
        },
        488,
        "network_mismatch",
    );
}

#[test]
fn a_change_that_is_not_sdp() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        caller.sends(w, "INVITE", &[], "hello");
        let refusal = caller.gets(w, "400 INVITE");
        let told = "Bad Request: a line of the session description is malformed";
        assert_eq!(refusal.reason(), Some(told));
        caller.acks(w, &refusal);
        caller.sends(w, "INVITE", &["Content-Type: text/plain"], "hello");
        let refusal = caller.gets(w, "415 INVITE");
        assert_eq!(refusal.header(HeaderName::Accept), Some("application/sdp"));
        caller.acks(w, &refusal);
        w.assert_bridges(&["4000<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn a_request_out_of_order() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        caller.says(w, "OPTIONS");
        caller.gets(w, "200 OPTIONS");
        // RFC 3261 §12.2.2.
        let now = caller.cseq;
        caller.cseq = now - 2;
        caller.reinvites(w, |sdp| sdp.port(4010));
        let refusal = caller.gets(w, "500 INVITE");
        caller.acks(w, &refusal);
        w.assert_bridges(&["4000<>4100"]);
        // Gaps are fine.
        caller.cseq = now + 1000;
        changes(w, &mut caller, |sdp| sdp.port(4020));
        w.assert_bridges(&["4020<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn a_second_invite_before_the_first_is_answered() {
    flow(config, |w| {
        let (caller, mut agent, invite) = ringing(w);
        // RFC 3261 §14.2.
        let mut hasty = caller.clone();
        hasty.invites(w);
        let refusal = hasty.gets(w, "500 INVITE");
        assert!(refusal.header(HeaderName::RetryAfter).is_some());
        hasty.acks(w, &refusal);
        agent.answers(w, &invite, 603);
        agent.gets(w, "ACK");
        let mut caller = caller;
        let declined = caller.gets(w, "603 INVITE");
        caller.acks(w, &declined);
    });
}

#[test]
fn a_second_change_before_the_first_is_acknowledged() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        caller.reinvites(w, |sdp| sdp.port(4010));
        let ok = caller.gets(w, "200 INVITE");
        let first = caller.clone();
        caller.reinvites(w, |sdp| sdp.port(4020));
        let refusal = caller.gets(w, "500 INVITE");
        caller.acks(w, &refusal);
        let mut first = first;
        first.acks(w, &ok);
        w.assert_bridges(&["4010<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn a_change_that_is_never_acknowledged() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        caller.reinvites(w, |sdp| sdp.port(4010));
        w.advance(seconds(33));
        let mut repetitions = 0;
        while let Some((_, message)) = w.try_recv(w.site.carrier) {
            if message.status() == Some(200) {
                repetitions += 1;
            } else {
                caller.answers(w, &message, 200);
            }
        }
        assert_eq!(repetitions, 11);
        gets_bye(w, &mut agent);
        w.assert_cdr(&[
            "1 in carrier 200 signalling_timeout edge",
            "2 out ai 200 signalling_timeout local",
        ]);
    });
}

#[test]
fn a_change_from_somebody_else() {
    flow(config, |w| {
        let (caller, mut agent) = answered(w);
        // The human's trunk has learnt all about the dialog.
        let mut thief = caller.clone();
        thief.address = w.site.human;
        thief.contact = "<sip:thief@192.0.2.30:5080;transport=tcp>".into();
        thief.reconnects(w);
        w.laws.may_show.push("192.0.2.10".into());
        for method in ["INVITE", "UPDATE", "BYE", "OPTIONS"] {
            let body = thief.sdp.clone().port(6666).text();
            thief.sends(w, method, &[], &body);
            let refusal = thief.gets(w, &format!("403 {method}"));
            if method == "INVITE" {
                thief.acks(w, &refusal);
            }
        }
        w.assert_bridges(&["4000<>4100"]);
        w.assert_told(&["1 refused: INVITE from 192.0.2.30:5080 [the source is not listed"]);
        // It has not used up sequence numbers of the dialog either.
        let mut caller = caller;
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn a_change_with_the_tag_of_another_dialog() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        let mut other = caller.clone();
        other.local = other.local.replace("caller4000", "other");
        other.reinvites(w, |sdp| sdp.port(6666));
        let refusal = other.gets(w, "481 INVITE");
        other.acks(w, &refusal);
        // The right tags and another Call-ID.
        let mut other = caller.clone();
        other.call_id = "other@caller".into();
        other.reinvites(w, |sdp| sdp.port(6666));
        let refusal = other.gets(w, "481 INVITE");
        other.acks(w, &refusal);
        w.assert_bridges(&["4000<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn video_is_refused_in_its_place() {
    flow(config, |w| {
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        caller.sdp = caller.sdp.clone().line("m=video 4002 RTP/AVP 96");
        caller.invites(w);
        caller.gets(w, "100 INVITE");
        let (agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        assert!(!text(&invite).contains("video"));
        let (mut caller, mut agent) = {
            let mut agent = agent;
            agent.accepts(w, &invite, 200);
            agent.gets(w, "ACK");
            let ok = caller.gets(w, "200 INVITE");
            assert!(
                text(&ok).ends_with("m=video 0 RTP/AVP 96\r\n"),
                "{}",
                text(&ok)
            );
            caller.acks(w, &ok);
            (caller, agent)
        };
        // The place stays in every later description (RFC 3264 §8).
        caller.says(w, "INVITE");
        let ok = caller.gets(w, "200 INVITE");
        assert!(
            text(&ok).contains("m=video 0 RTP/AVP 96\r\n"),
            "{}",
            text(&ok)
        );
        let answer = caller.sdp.text();
        caller.acks_with(w, &ok, &answer);
        w.assert_bridges(&["4000<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn silence_of_a_peer_that_should_speak_ends_the_call() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        w.silence(CALLER_RTP);
        gets_bye(w, &mut caller);
        gets_bye(w, &mut agent);
        w.assert_told(&["1 media_timeout: no RTP from the peer [media_timeout]"]);
        w.assert_cdr(&[
            "1 in carrier 200 media_timeout edge",
            "2 out ai 200 media_timeout edge",
        ]);
    });
    // One that holds the call need not speak.
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        changes(w, &mut caller, |sdp| sdp.direction("inactive"));
        w.silence(CALLER_RTP);
        w.assert_bridges(&["4000|4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}
