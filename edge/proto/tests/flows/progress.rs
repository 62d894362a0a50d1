//! From the INVITE to the answer: progress, early media, the callee's refusals, offer and answer.

use crate::harness::*;
use edge_proto::relay::MediaCommand;

/// The callee refuses with `status`; the caller gets `told`.
fn refused(status: u16, told: u16, cause: &str) {
    flow(config, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        agent.answers(w, &invite, status);
        agent.gets(w, "ACK");
        let refusal = caller.gets(w, &format!("{told} INVITE"));
        caller.acks(w, &refusal);
        let number = match cause {
            "sip_auth_failed" => " 4240",
            _ => "",
        };
        let reason = format!("SIP;cause={told};text=\"{cause}{number}\"");
        assert_eq!(refusal.header(HeaderName::Reason), Some(reason.as_str()));
        w.assert_bridges(&[]);
        w.assert_cdr(&[
            &format!("1 in carrier {told} {cause} local"),
            &format!("2 out ai {status} {cause} remote"),
        ]);
    });
}

#[test]
fn refusals_of_the_callee() {
    refused(486, 486, "busy");
    refused(600, 600, "busy");
    refused(480, 480, "no-answer");
    refused(403, 403, "rejected");
    refused(404, 404, "rejected");
    refused(603, 603, "rejected");
    refused(488, 488, "no_common_codec");
    // RFC 3261 §16.7: that the callee has no room does not mean that this edge has none.
    refused(503, 500, "rejected");
    refused(500, 500, "rejected");
    refused(504, 504, "rejected");
    refused(408, 408, "no-answer");
    // Nobody cancelled.
    refused(487, 480, "no-answer");
    // A redirection is not followed: no request goes where no trunk leads.
    refused(302, 480, "rejected");
    // What is said to the edge alone is not for the caller.
    refused(401, 502, "sip_auth_failed");
    refused(407, 502, "sip_auth_failed");
    refused(420, 502, "rejected");
    refused(421, 502, "rejected");
    refused(405, 502, "rejected");
    refused(416, 502, "rejected");
}

#[test]
fn progress_is_passed_on() {
    flow(config, |w| {
        let mut caller = calling(w);
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        agent.answers(w, &invite, 100);
        w.assert_silent(w.site.carrier);
        for code in [180, 181, 182, 183] {
            agent.answers(w, &invite, code);
            let progress = caller.gets(w, &format!("{code} INVITE"));
            assert!(progress.body().is_empty());
            assert!(progress.contact().is_some(), "it makes an early dialog");
        }
        // RFC 6228: this one is about a dialog of the other side.
        agent.answers(w, &invite, 199);
        w.assert_silent(w.site.carrier);
        w.assert_bridges(&[]);
        let (mut caller, mut agent) = answering(w, caller, agent, &invite);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn early_media_is_heard() {
    flow(config, |w| {
        let mut caller = calling(w);
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        agent.accepts(w, &invite, 183);
        let early = caller.gets(w, "183 INVITE");
        assert_eq!(formats(early.body()), [0, 101]);
        w.assert_bridges(&["4000<>4100"]);
        agent.answers(w, &invite, 180);
        caller.gets(w, "180 INVITE");
        // The 2xx repeats the description, or leaves it out.
        agent.answers(w, &invite, 200);
        agent.gets(w, "ACK");
        let ok = caller.gets(w, "200 INVITE");
        assert_eq!(ok.body(), early.body());
        caller.acks(w, &ok);
        w.assert_bridges(&["4000<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn early_media_of_a_callee_that_then_refuses() {
    flow(config, |w| {
        let mut caller = calling(w);
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        agent.accepts(w, &invite, 183);
        caller.gets(w, "183 INVITE");
        agent.answers(w, &invite, 603);
        agent.gets(w, "ACK");
        let refusal = caller.gets(w, "603 INVITE");
        caller.acks(w, &refusal);
        w.assert_bridges(&[]);
    });
}

#[test]
fn nobody_answers_within_timer_c() {
    flow(config, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        w.advance(seconds(180));
        w.assert_silent(w.site.carrier);
        w.advance(seconds(2));
        let refusal = caller.gets(w, "480 INVITE");
        caller.acks(w, &refusal);
        let cancel = agent.gets(w, "CANCEL");
        agent.answers(w, &cancel, 200);
        agent.answers(w, &invite, 487);
        agent.gets(w, "ACK");
        w.assert_cdr(&[
            "1 in carrier 480 no-answer edge",
            "2 out ai 487 no-answer edge",
        ]);
    });
}

#[test]
fn a_callee_that_never_responds() {
    flow(config, |w| {
        let mut caller = calling(w);
        invited(w, w.site.ai, AGENT_RTP);
        w.advance(millis(31_999));
        w.assert_silent(w.site.carrier);
        w.advance(millis(1));
        let refusal = caller.gets(w, "504 INVITE");
        caller.acks(w, &refusal);
        w.assert_silent(w.site.ai);
        w.assert_cdr(&[
            "1 in carrier 504 signalling_timeout edge",
            "2 out ai - signalling_timeout edge",
        ]);
    });
}

#[test]
fn an_invite_without_an_offer() {
    flow(config, |w| {
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        caller.says(w, "INVITE");
        caller.gets(w, "100 INVITE");
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        assert_eq!(formats(invite.body()), [0, 8, 9, 101]);
        agent.sdp = agent.sdp.codecs(&[8, 101]);
        agent.answers(w, &invite, 180);
        assert!(caller.gets(w, "180 INVITE").body().is_empty());
        agent.accepts(w, &invite, 200);
        agent.gets(w, "ACK");
        // Our offer is in the 2xx, the answer in the ACK.
        let ok = caller.gets(w, "200 INVITE");
        assert_eq!(formats(ok.body()), [8, 101]);
        w.assert_bridges(&["0|4100"]);
        caller.sdp = caller.sdp.codecs(&[8]);
        let answer = caller.sdp.text();
        caller.acks_with(w, &ok, &answer);
        w.assert_bridges(&["4000<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn an_ack_without_the_answer_that_it_owes() {
    flow(config, |w| {
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        caller.says(w, "INVITE");
        caller.gets(w, "100 INVITE");
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        agent.accepts(w, &invite, 200);
        agent.gets(w, "ACK");
        let ok = caller.gets(w, "200 INVITE");
        caller.acks(w, &ok);
        gets_bye(w, &mut caller);
        gets_bye(w, &mut agent);
        w.assert_cdr(&[
            "1 in carrier 200 no_common_codec edge",
            "2 out ai 200 no_common_codec edge",
        ]);
        w.assert_told(&["sdp: the ACK carries no usable answer to our offer"]);
    });
}

/// The caller's offer is refused before anybody is called.
fn offer_refused(change: impl Fn(Sdp) -> Sdp, status: u16, cause: &str) {
    flow(config, |w| {
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        caller.sdp = change(caller.sdp.clone());
        caller.invites(w);
        caller.gets(w, "100 INVITE");
        let refusal = caller.gets(w, &format!("{status} INVITE"));
        caller.acks(w, &refusal);
        w.assert_silent(w.site.ai);
        w.assert_cdr(&[&format!("1 in carrier {status} {cause} edge")]);
    });
}

#[test]
fn offers_that_cannot_be_had() {
    offer_refused(|sdp| sdp.codecs(&[18]), 488, "no_common_codec");
    offer_refused(|sdp| sdp.codecs(&[101]), 488, "no_common_codec");
    offer_refused(|sdp| sdp.port(0), 488, "no_common_codec");
    offer_refused(|sdp| sdp.profile("RTP/SAVP"), 488, "encryption_required");
    offer_refused(
        |sdp| sdp.profile("UDP/TLS/RTP/SAVPF"),
        488,
        "encryption_required",
    );
    // No media address of that family.
    offer_refused(
        |mut sdp| {
            sdp.address = V6.carrier.ip();
            sdp
        },
        488,
        "network_mismatch",
    );
}

#[test]
fn an_offer_that_is_not_sdp() {
    flow(config, |w| {
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        caller.sends(w, "INVITE", &[], "hello");
        caller.gets(w, "100 INVITE");
        let refusal = caller.gets(w, "400 INVITE");
        let told = "Bad Request: a line of the session description is malformed";
        assert_eq!(refusal.reason(), Some(told));
        caller.acks(w, &refusal);
        w.assert_cdr(&["1 in carrier 400 malformed edge"]);
    });
    flow(config, |w| {
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        let contact = format!("Contact: {}\r\n", caller.contact);
        let body = caller.sdp.text();
        let text = caller.request("INVITE", &[], &body).replace(&contact, "");
        w.send(caller.link, caller.address, text);
        caller.gets(w, "100 INVITE");
        let refusal = caller.gets(w, "400 INVITE");
        let told = "Bad Request: the request has no Contact";
        assert_eq!(refusal.reason(), Some(told));
        caller.acks(w, &refusal);
    });
    // RFC 3261 §8.2.3.
    flow(config, |w| {
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        caller.sends(w, "INVITE", &["Content-Type: text/plain"], "hello");
        caller.gets(w, "100 INVITE");
        let refusal = caller.gets(w, "415 INVITE");
        assert_eq!(refusal.header(HeaderName::Accept), Some("application/sdp"));
        caller.acks(w, &refusal);
        w.assert_cdr(&["1 in carrier 415 malformed edge"]);
    });
}

#[test]
fn a_codec_that_only_the_trunk_lacks() {
    let config = || trunk_with("ai", |trunk| trunk.codecs = vec!["G722".into()]);
    flow(config, |w| {
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        caller.invites(w);
        caller.gets(w, "100 INVITE");
        let refusal = caller.gets(w, "488 INVITE");
        caller.acks(w, &refusal);
        w.assert_cdr(&["1 in carrier 488 no_common_codec edge"]);
    });
}

#[test]
fn payload_types_are_renumbered() {
    flow(config, |w| {
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        caller.invites(w);
        caller.gets(w, "100 INVITE");
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        // RFC 3264 §6.1: the answer may number dynamic types its own way.
        agent.sdp = agent.sdp.codecs(&[0, 96]);
        let (mut caller, mut agent) = answering(w, caller, agent, &invite);
        assert_eq!(w.renumbered(CALLER_RTP), [(0, 0), (101, 96)]);
        assert_eq!(w.renumbered(AGENT_RTP), [(0, 0), (101, 101)]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

/// The callee's answer is unusable: it is hung up, and the caller refused.
fn answer_unusable(body: impl Fn(&Ua) -> String) {
    flow(config, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        let body = body(&agent);
        agent.answers_with(w, &invite, 200, &[], &body);
        agent.gets(w, "ACK");
        gets_bye(w, &mut agent);
        let refusal = caller.gets(w, "488 INVITE");
        caller.acks(w, &refusal);
        w.assert_cdr(&[
            "1 in carrier 488 no_common_codec edge",
            "2 out ai 200 no_common_codec edge",
        ]);
    });
}

#[test]
fn answers_that_cannot_be_used() {
    answer_unusable(|_| String::new());
    answer_unusable(|_| "hello".into());
    answer_unusable(|agent| agent.sdp.clone().codecs(&[18]).text());
    answer_unusable(|agent| agent.sdp.clone().port(0).text());
    answer_unusable(|agent| agent.sdp.clone().profile("RTP/SAVP").text());
}

#[test]
fn a_2xx_that_is_never_acknowledged() {
    flow(config, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        agent.accepts(w, &invite, 200);
        agent.gets(w, "ACK");
        caller.gets(w, "200 INVITE");
        // RFC 3261 §13.3.1.4: repeated for 64*T1 also over a reliable transport, then given up with BYE.
        w.advance(seconds(33));
        let mut repetitions = 0;
        while let Some((_, message)) = w.try_recv(w.site.carrier) {
            match message.status() {
                Some(200) => repetitions += 1,
                _ => {
                    assert_eq!(message.method().expect("a method").as_str(), "BYE");
                    caller.answers(w, &message, 200);
                    break;
                }
            }
        }
        assert_eq!(repetitions, 10);
        gets_bye(w, &mut agent);
        w.assert_cdr(&[
            "1 in carrier 200 signalling_timeout edge",
            "2 out ai 200 signalling_timeout local",
        ]);
        w.assert_told(&["no_ack"]);
    });
}

/// The ACK was lost with its connection: the callee, which has not seen it, has another by now.
#[test]
fn a_2xx_is_acknowledged_again_when_the_ack_was_lost_with_its_connection() {
    flow(config, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        agent.accepts(w, &invite, 200);
        agent.gets(w, "ACK");
        let ok = caller.gets(w, "200 INVITE");
        caller.acks(w, &ok);
        let Link::Stream(first) = agent.link else {
            panic!("a connection");
        };
        w.reset(first);
        agent.reconnects(w);
        agent.accepts(w, &invite, 200);
        agent.gets(w, "ACK");
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn a_2xx_that_is_repeated_is_acknowledged_again() {
    flow(config, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        let ok = agent.response(&invite, 200, &[], &agent.sdp.text());
        w.send(agent.link, agent.address, ok.clone());
        let first = agent.gets(w, "ACK");
        let answer = caller.gets(w, "200 INVITE");
        caller.acks(w, &answer);
        w.send(agent.link, agent.address, ok.clone());
        assert_eq!(agent.gets(w, "ACK").raw(), first.raw());
        hang_up(w, &mut caller, &mut [&mut agent]);
        w.send(agent.link, agent.address, ok);
        w.assert_silent(w.site.carrier);
    });
}

#[test]
fn a_second_fork_answers() {
    flow(config, |w| {
        let (caller, agent, invite) = ringing(w);
        let mut fork = agent.fork(4150);
        let (mut caller, mut agent) = answering(w, caller, agent, &invite);
        // RFC 3261 §13.2.2.4: acknowledged, then ended.
        let ok = fork.response(&invite, 200, &[], &fork.sdp.text());
        w.send(fork.link, fork.address, ok.clone());
        let ack = fork.gets(w, "ACK");
        assert_eq!(ack.to_tag(), Some("fork4150"));
        let bye = fork.gets(w, "BYE");
        assert_eq!(bye.to_tag(), Some("fork4150"));
        // Repeated: acknowledged again, and no second BYE.
        w.send(fork.link, fork.address, ok);
        fork.gets(w, "ACK");
        fork.answers(w, &bye, 200);
        w.assert_bridges(&["4000<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            "2 out ai 200 completed local",
        ]);
        w.assert_told(&["2 fork: a second endpoint answered"]);
    });
}

/// Both send from behind the address that signals. Who lost must not be taken for the peer by the media thread, which keeps whom it
/// hears first.
#[test]
fn while_a_second_fork_may_speak_only_who_is_described_is_heard() {
    flow(config, |w| {
        let (caller, mut agent, invite) = ringing(w);
        agent.sdp.address = "198.51.100.200".parse().expect("an address");
        let mut fork = agent.fork(4150);
        let (mut caller, mut agent) = answering(w, caller, agent, &invite);
        let (described, signalling) = (agent.sdp.address, agent.address.ip());
        let heard = |w: &World| {
            let remotes = w
                .media
                .iter()
                .rev()
                .filter_map(|(_, command)| match command {
                    MediaCommand::SetRemote { remote, .. } => Some(remote),
                    _ => None,
                });
            let mut remotes = remotes.filter(|remote| remote.rtp.port() == AGENT_RTP);
            let last = remotes.next().expect("it was described");
            (last.rtp.ip(), last.signalling)
        };
        assert_eq!(heard(w), (described, signalling));
        let ok = fork.response(&invite, 200, &[], &fork.sdp.text());
        w.send(fork.link, fork.address, ok);
        fork.gets(w, "ACK");
        let bye = fork.gets(w, "BYE");
        assert_eq!(heard(w), (described, described));
        // Media that follows the BYE's answer is late, no more.
        fork.answers(w, &bye, 200);
        assert_eq!(heard(w), (described, described));
        w.advance(Duration::from_secs(2));
        assert_eq!(heard(w), (described, signalling));
        w.assert_bridges(&["4000<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn the_fork_that_rang_is_not_the_one_that_answers() {
    flow(config, |w| {
        let mut caller = calling(w);
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        let mut fork = agent.fork(4150);
        agent.accepts(w, &invite, 183);
        caller.gets(w, "183 INVITE");
        w.assert_bridges(&["4000<>4100"]);
        fork.accepts(w, &invite, 200);
        fork.gets(w, "ACK");
        let ok = caller.gets(w, "200 INVITE");
        caller.acks(w, &ok);
        w.assert_bridges(&["4000<>4150"]);
        hang_up(w, &mut caller, &mut [&mut fork]);
    });
}

#[test]
fn a_media_port_that_is_taken() {
    flow(config, |w| {
        w.ports_taken = 1;
        let (mut caller, mut agent) = answered(w);
        w.assert_told(&["1 media: port"]);
        w.assert_bridges(&["4000<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
    // Never as many as there are: the leg is given up.
    flow(config, |w| {
        w.ports_taken = 100;
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        caller.invites(w);
        caller.gets(w, "100 INVITE");
        let refusal = caller.gets(w, "503 INVITE");
        assert!(refusal.header(HeaderName::RetryAfter).is_some());
        caller.acks(w, &refusal);
        // Five for either leg.
        assert_eq!(w.ports_taken, 90);
        w.assert_silent(w.site.ai);
        w.assert_cdr(&[
            "1 in carrier 503 media_failed edge",
            "2 out ai - media_failed edge",
        ]);
    });
}

/// Each round with the media thread costs as much as a message: there is one before the callee's INVITE.
#[test]
fn the_ports_of_both_legs_are_opened_in_one_go() {
    flow(config, |w| {
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        caller.invites(w);
        let commands = w.media.iter().map(|(_, command)| match command {
            MediaCommand::Open { .. } => "open",
            MediaCommand::SetRemote { remote, .. } if remote.rtp.port() == CALLER_RTP => "caller",
            other => panic!("{other:?}"),
        });
        assert_eq!(commands.collect::<Vec<_>>(), ["open", "caller", "open"]);
        caller.gets(w, "100 INVITE");
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        agent.accepts(w, &invite, 200);
        agent.gets(w, "ACK");
        let ok = caller.gets(w, "200 INVITE");
        caller.acks(w, &ok);
        w.assert_bridges(&["4000<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn nobody_is_called_without_ports_for_the_caller() {
    flow(config, |w| {
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        // The callee's can be opened, and then none.
        w.ports_taken = 1;
        w.ports_taken_after = Some((1, 100));
        caller.invites(w);
        caller.gets(w, "100 INVITE");
        let refusal = caller.gets(w, "503 INVITE");
        caller.acks(w, &refusal);
        assert_eq!(w.ports_taken, 96);
        w.assert_silent(w.site.ai);
        assert!(w.open.is_empty());
        w.assert_cdr(&[
            "1 in carrier 503 media_failed edge",
            "2 out ai - media_failed edge",
        ]);
    });
}

#[test]
fn the_callees_ports_are_taken() {
    flow(config, |w| {
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        let body = caller.sdp.text();
        let invite = caller.request("INVITE", &[], &body);
        w.ports_taken_after = Some((1, 100));
        w.send(caller.link, caller.address, invite);
        caller.gets(w, "100 INVITE");
        let refusal = caller.gets(w, "503 INVITE");
        caller.acks(w, &refusal);
        w.assert_silent(w.site.ai);
        w.assert_cdr(&[
            "1 in carrier 503 media_failed edge",
            "2 out ai - media_failed edge",
        ]);
    });
}
