//! Who may speak to the edge, and what it says to what it cannot take.

use crate::harness::*;
use edge_proto::id::ListenerId;

#[test]
fn a_source_that_no_trunk_lists_gets_no_answer_and_a_close() {
    flow(config, |w| {
        let stranger = w.site.stranger;
        let connection = w.connect(stranger);
        assert_eq!(w.closed, [connection]);
        // What it had sent already is not looked at either.
        let mut ua = Ua::caller_on(w, Link::Stream(connection), stranger, NUMBER, 4000);
        ua.invites(w);
        w.assert_silent(stranger);
        w.assert_cdr(&[]);
        w.assert_told(&["access_dropped: 192.0.2.66 dropped at listener public [unlisted]"]);
    });
}

#[test]
fn options_of_a_listed_source_are_answered_without_a_challenge() {
    let config = || trunk_with("carrier", |trunk| trunk.auth = InboundAuth::DigestAndIp);
    flow(config_demanding(config), |w| {
        let mut ua = Ua::caller(w, w.site.carrier, NUMBER, 4000);
        ua.target = format!("sip:{};transport=tcp", w.site.edge);
        ua.says(w, "OPTIONS");
        let ok = ua.gets(w, "200 OPTIONS");
        let allow = ok.header(HeaderName::Allow).expect("Allow");
        assert!(allow.contains("REFER") && allow.contains("NOTIFY"));
        assert_eq!(ok.header(HeaderName::Accept), Some("application/sdp"));
        assert!(w.digests().is_empty());
    });
}

/// Gives the carrier trunk credentials, which digest needs.
fn config_demanding(config: impl Fn() -> Config) -> impl Fn() -> Config {
    move || {
        let mut config = config();
        edit_trunk(&mut config, "carrier", |trunk| {
            trunk.credentials = Some(credentials("carrier-user", "carrier-s3cret"));
        });
        config
    }
}

#[test]
fn options_within_a_dialog_are_answered() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        agent.says(w, "OPTIONS");
        assert!(
            agent
                .gets(w, "200 OPTIONS")
                .header(HeaderName::Allow)
                .is_some()
        );
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn requests_outside_a_dialog() {
    flow(config, |w| {
        for (method, status) in [
            ("BYE", 481),
            ("NOTIFY", 481),
            ("UPDATE", 481),
            ("INFO", 481),
            ("PRACK", 481),
            ("REGISTER", 405),
            ("SUBSCRIBE", 405),
            ("PUBLISH", 405),
            ("MESSAGE", 405),
            ("FROBNICATE", 405),
        ] {
            let mut ua = Ua::caller(w, w.site.carrier, NUMBER, 4000);
            ua.says(w, method);
            let response = ua.gets(w, &format!("{status} {method}"));
            assert_eq!(
                response.header(HeaderName::Allow).is_some(),
                status == 405,
                "405 says what is allowed"
            );
        }
        w.assert_cdr(&[]);
    });
}

#[test]
fn requests_with_a_tag_that_the_edge_never_minted() {
    flow(config, |w| {
        for method in ["BYE", "INVITE", "REFER", "UPDATE", "OPTIONS"] {
            for tag in ["00ffffffffffffffffffffffffffffffff", "ff", "x"] {
                let mut ua = Ua::caller(w, w.site.carrier, NUMBER, 4000);
                ua.remote.push_str(&format!(";tag={tag}"));
                ua.sends(w, method, &[&format!("Refer-To: {TARGET}")], "");
                let answer = ua.gets(w, &format!("481 {method}"));
                if method == "INVITE" {
                    ua.acks(w, &answer);
                }
            }
        }
        w.assert_cdr(&[]);
    });
}

#[test]
fn an_ack_of_nothing_is_not_answered() {
    flow(config, |w| {
        let mut ua = Ua::caller(w, w.site.carrier, NUMBER, 4000);
        let text = ua.request("ACK", &[], "");
        w.send(ua.link, ua.address, text);
        ua.remote
            .push_str(";tag=00ffffffffffffffffffffffffffffffff");
        let text = ua.request("ACK", &[], "");
        w.send(ua.link, ua.address, text);
        w.assert_silent(w.site.carrier);
    });
}

#[test]
fn an_extension_that_is_required_and_unknown() {
    flow(config, |w| {
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        let body = caller.sdp.text();
        caller.sends(w, "INVITE", &["Require: 100rel, norefersub, timer"], &body);
        let refused = caller.gets(w, "420 INVITE");
        assert_eq!(
            refused.header(HeaderName::Unsupported),
            Some("100rel, timer")
        );
        caller.acks(w, &refused);
        // RFC 4488: the one that is known is no obstacle.
        let mut caller = calling_with(w, &["Require: norefersub"]);
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        agent.answers(w, &invite, 486);
        agent.gets(w, "ACK");
        let busy = caller.gets(w, "486 INVITE");
        caller.acks(w, &busy);
    });
}

/// A caller whose INVITE with further headers was answered with 100 Trying.
fn calling_with(w: &mut World, extra: &[&str]) -> Ua {
    let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
    let body = caller.sdp.text();
    caller.sends(w, "INVITE", extra, &body);
    caller.gets(w, "100 INVITE");
    caller
}

/// An INVITE that is refused: with what it is sent, what the caller gets, and the CDR's cause.
fn refused(w: &mut World, target: &str, extra: &[&str], status: u16, cause: &str) -> Message {
    let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
    caller.target = target.to_owned();
    let body = caller.sdp.text();
    caller.sends(w, "INVITE", extra, &body);
    caller.gets(w, "100 INVITE");
    let refusal = caller.gets(w, &format!("{status} INVITE"));
    caller.acks(w, &refusal);
    let reason = format!("SIP;cause={status};text=\"{cause}\"");
    assert_eq!(refusal.header(HeaderName::Reason), Some(reason.as_str()));
    w.assert_cdr(&[&format!("1 in carrier {status} {cause} edge")]);
    w.assert_silent(w.site.ai);
    refusal
}

#[test]
fn a_request_uri_without_a_user() {
    flow(config, |w| {
        let refusal = refused(w, "sip:192.0.2.1:5060", &[], 484, "number_missing");
        assert_eq!(
            refusal.header(HeaderName::Warning),
            Some("399 sip-edge \"the Request-URI has no user part\"")
        );
    });
}

#[test]
fn a_number_that_no_route_matches() {
    flow(config, |w| {
        refused(w, "sip:+441632960000@192.0.2.1", &[], 404, "no_route");
    });
    // A leading + is significant.
    flow(config, |w| {
        refused(w, "sip:19995550123@192.0.2.1", &[], 404, "no_route");
    });
}

#[test]
fn max_forwards_used_up() {
    for value in ["0", "00"] {
        flow(config, |w| {
            let target = format!("sip:{NUMBER}@192.0.2.1");
            let line = format!("Max-Forwards: {value}");
            refused(w, &target, &[&line], 483, "rejected");
        });
    }
}

#[test]
fn a_request_uri_that_is_not_sip() {
    flow(config, |w| {
        for target in ["tel:+19995550123", "urn:service:sos"] {
            let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
            caller.target = target.to_owned();
            caller.invites(w);
            let refusal = caller.gets(w, "416 INVITE");
            caller.acks(w, &refusal);
        }
    });
}

#[test]
fn the_same_request_by_two_paths() {
    flow(config, |w| {
        let mut caller = calling(w);
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        // RFC 3261 §8.2.2.2: another branch, everything else the same.
        let mut merged = caller.clone();
        merged.reconnects(w);
        merged.cseq -= 1;
        merged.invites(w);
        let looped = merged.gets(w, "482 INVITE");
        merged.acks(w, &looped);
        agent.answers(w, &invite, 486);
        agent.gets(w, "ACK");
        let busy = caller.gets(w, "486 INVITE");
        caller.acks(w, &busy);
        w.assert_cdr(&["1 in carrier 486 busy local", "2 out ai 486 busy remote"]);
    });
}

#[test]
fn a_retransmitted_invite_is_one_call() {
    flow(config, |w| {
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        let body = caller.sdp.text();
        let text = caller.request("INVITE", &[], &body);
        w.send(caller.link, caller.address, text.clone());
        caller.gets(w, "100 INVITE");
        // The second copy comes over another connection, and so to another core.
        let link = Link::Stream(w.connect(w.site.carrier));
        w.send(link, caller.address, text);
        caller.gets(w, "100 INVITE");
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        w.assert_silent(w.site.ai);
        let (mut caller, mut agent) = {
            agent.accepts(w, &invite, 200);
            agent.gets(w, "ACK");
            let ok = caller.gets(w, "200 INVITE");
            caller.acks(w, &ok);
            (caller, agent)
        };
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn messages_that_cannot_be_understood() {
    flow(config, |w| {
        let carrier = w.site.carrier;
        let connection = w.connect(carrier);
        let link = Link::Stream(connection);
        // Enough can be read to say 400.
        let mut ua = Ua::caller_on(w, link, carrier, NUMBER, 4000);
        let text = ua.request("OPTIONS", &["Max-Forwards: x"], "");
        w.send(link, carrier, text);
        let (_, bad) = w.recv(carrier);
        assert_eq!(bad.status(), Some(400));
        // RFC 3261 §21.4.1: the phrase tells what is wrong.
        let told = "Bad Request: Max-Forwards is not a number from 0 to 255";
        assert_eq!(bad.reason(), Some(told));
        // RFC 3261 §21.4.5, 21.5.6.
        let text = ua
            .request("OPTIONS", &[], "")
            .replace("SIP/2.0\r\n", "SIP/3.0\r\n");
        w.send(link, carrier, text);
        let (_, bad) = w.recv(carrier);
        assert_eq!(bad.status(), Some(505));
        assert!(w.is_open(connection));
        w.assert_told(&["malformed: a message from 192.0.2.10:5060", "malformed"]);
        // A response and an ACK are never answered.
        let text = ua.request("ACK", &["Max-Forwards: x"], "");
        w.send(link, carrier, text);
        w.send(link, carrier, "SIP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n");
        w.assert_silent(carrier);
        assert!(w.is_open(connection));
    });
}

#[test]
fn a_stream_that_cannot_be_cut_into_messages_is_closed() {
    for garbage in [
        "GET / HTTP/1.1\r\nHost: edge\r\n\r\n",
        "\u{0}\u{1}\u{2}",
        "INVITE sip:x@y SIP/2.0\nVia: SIP/2.0/TCP h\n\n",
    ] {
        flow(config, |w| {
            let carrier = w.site.carrier;
            let connection = w.connect(carrier);
            w.send(Link::Stream(connection), carrier, garbage);
            assert!(!w.is_open(connection));
            w.assert_silent(carrier);
            w.assert_told(&["malformed: a message from 192.0.2.10:5060"]);
        });
    }
}

#[test]
fn a_message_without_its_length_is_refused_and_its_connection_closed() {
    flow(config, |w| {
        let carrier = w.site.carrier;
        for (length, status, told) in [
            ("", 400, "a message on a stream has no Content-Length"),
            (
                "Content-Length: x\r\n",
                400,
                "Content-Length is not one number",
            ),
            (
                "Content-Length: 99999999\r\n",
                513,
                "the message is larger than allowed",
            ),
        ] {
            let connection = w.connect(carrier);
            let mut ua = Ua::caller_on(w, Link::Stream(connection), carrier, NUMBER, 4000);
            let text = ua
                .request("OPTIONS", &[], "")
                .replace("Content-Length: 0\r\n", length);
            w.send(ua.link, carrier, text);
            let (_, refusal) = w.recv(carrier);
            assert_eq!(refusal.status(), Some(status), "{length}");
            let reason = refusal.reason().expect("a phrase");
            assert!(reason.ends_with(told), "{reason}");
            assert!(!w.is_open(connection));
        }
    });
}

#[test]
fn keep_alives_are_answered() {
    flow(config, |w| {
        let carrier = w.site.carrier;
        let connection = w.connect(carrier);
        w.send(Link::Stream(connection), carrier, "\r\n\r\n");
        let last = w.crossings.last().expect("an answer");
        assert_eq!((last.to_edge, &last.bytes[..]), (false, &b"\r\n"[..]));
    });
}

#[test]
fn a_response_to_nothing_is_dropped() {
    flow(config, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        let stray = agent
            .response(&invite, 200, &[], "")
            .replace("branch=z9hG4bK", "branch=z9hG4bKff");
        w.send(agent.link, agent.address, stray);
        w.assert_silent(w.site.carrier);
        w.assert_told(&["malformed"]);
        caller.cancels(w);
        caller.gets(w, "200 CANCEL");
        let ended = caller.gets(w, "487 INVITE");
        caller.acks(w, &ended);
        let cancel = agent.gets(w, "CANCEL");
        agent.answers(w, &cancel, 200);
        agent.answers(w, &invite, 487);
        agent.gets(w, "ACK");
    });
}

#[test]
fn the_listener_decides_too() {
    // The carrier may only use the second listener.
    let config = || {
        config_with(|config| {
            config.listeners.push(listener(
                1,
                "second",
                Transport::Tcp,
                "192.0.2.1:5070".parse().expect("an address"),
            ));
            edit_trunk(config, "carrier", |trunk| {
                trunk.listen = vec![ListenerId(1)]
            });
        })
    };
    flow(config, |w| {
        let carrier = w.site.carrier;
        let connection = w.connect(carrier);
        assert!(!w.is_open(connection));
        let connection = w.connect_to(ListenerId(1), carrier);
        assert!(w.is_open(connection));
        let mut caller = Ua::caller_on(w, Link::Stream(connection), carrier, NUMBER, CALLER_RTP);
        caller.invites(w);
        caller.gets(w, "100 INVITE");
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        agent.answers(w, &invite, 603);
        agent.gets(w, "ACK");
        let declined = caller.gets(w, "603 INVITE");
        caller.acks(w, &declined);
    });
}
