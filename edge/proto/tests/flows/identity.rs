//! What an INVITE of the edge says: numbers, caller, headers; and what it never says.

use crate::harness::*;

/// Looks at the INVITE of a call that the agent then declines.
fn called(config: impl Fn() -> Config, extra: &[&str], look: impl Fn(&Message)) {
    flow(config, |w| {
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        let body = caller.sdp.text();
        caller.sends(w, "INVITE", extra, &body);
        caller.gets(w, "100 INVITE");
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        look(&invite);
        agent.answers(w, &invite, 603);
        agent.gets(w, "ACK");
        let declined = caller.gets(w, "603 INVITE");
        caller.acks(w, &declined);
    });
}

fn one<'a>(message: &'a Message, name: &'a str) -> Option<&'a str> {
    let values: Vec<_> = message.named(name).collect();
    assert!(values.len() <= 1, "{name} is there {} times", values.len());
    values.first().copied()
}

#[test]
fn the_platform_learns_call_and_caller() {
    called(config, &[], |invite| {
        assert_eq!(
            invite.request_uri(),
            Some("sip:+19995550123@192.0.2.20:5070;transport=tcp")
        );
        let from = invite.from_header();
        assert!(
            from.starts_with("Caller <sip:+15550100@192.0.2.1>;tag="),
            "{from}"
        );
        assert_eq!(invite.to_header(), "<sip:+19995550123@192.0.2.20>");
        assert_eq!(
            invite.header(HeaderName::Contact),
            Some("<sip:edge@192.0.2.1:5060;transport=tcp>")
        );
        assert_eq!(invite.max_forwards(), Some(69));
        let allow = invite.header(HeaderName::Allow).expect("Allow");
        assert!(allow.contains("REFER") && allow.contains("NOTIFY"));
        assert_eq!(one(invite, "X-CALL-ID").map(str::len), Some(32));
        assert_eq!(one(invite, "X-CALLER-ID"), Some("+15550100"));
    });
}

#[test]
fn the_cdr_and_the_platform_know_the_call_by_the_same_name() {
    flow(config, |w| {
        let mut caller = calling(w);
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        let id = one(&invite, "X-CALL-ID").expect("it").to_owned();
        agent.answers(w, &invite, 603);
        agent.gets(w, "ACK");
        let declined = caller.gets(w, "603 INVITE");
        caller.acks(w, &declined);
        let records = w.records();
        assert!(records.iter().all(|record| *record.call == *id));
        let caller_leg = records[0];
        assert_eq!(caller_leg.from, CALLER);
        assert_eq!(caller_leg.to, NUMBER);
        assert_eq!(caller_leg.sip_call_id, caller.call_id);
        assert_eq!(caller_leg.source, Some(w.site.carrier));
        assert_eq!(records[1].sip_call_id, invite.call_id());
        assert_eq!(records[1].source, Some(w.site.ai));
        assert_eq!(records[1].from, CALLER);
        assert_eq!(records[1].to, NUMBER);
    });
}

#[test]
fn values_that_arrive_on_the_call_win() {
    called(
        config,
        &["x-call-id: c-1", "X-Caller-Id: +15550199"],
        |invite| {
            assert_eq!(one(invite, "X-CALL-ID"), Some("c-1"));
            assert_eq!(one(invite, "X-CALLER-ID"), Some("+15550199"));
        },
    );
}

#[test]
fn a_trunk_that_may_not_transfer_is_told_neither() {
    let config = || trunk_with("ai", |trunk| trunk.transfer = None);
    called(config, &["X-CALL-ID: c-1"], |invite| {
        assert_eq!(one(invite, "X-CALL-ID"), None);
        assert_eq!(one(invite, "X-CALLER-ID"), None);
    });
}

#[test]
fn headers_of_the_trunk_keep_their_case() {
    let config = || {
        trunk_with("ai", |trunk| {
            trunk.headers = vec![
                ("X-Provider".into(), "acme".into()),
                ("x-lower".into(), "one, two".into()),
            ];
        })
    };
    called(config, &[], |invite| {
        let shown = text(invite);
        assert!(shown.contains("\r\nX-Provider: acme\r\n"), "{shown}");
        assert!(shown.contains("\r\nx-lower: one, two\r\n"), "{shown}");
    });
}

#[test]
fn a_header_that_the_call_brought_is_not_sent_twice() {
    // The platform's own names win over the trunk's.
    let config = || {
        trunk_with("ai", |trunk| {
            trunk.headers = vec![("x-call-id".into(), "configured".into())];
        })
    };
    called(config, &["X-CALL-ID: c-1"], |invite| {
        assert_eq!(one(invite, "X-CALL-ID"), Some("c-1"));
    });
}

#[test]
fn other_headers_of_the_caller_are_not_passed_on() {
    let extra = [
        "X-Secret: 1",
        "P-Asserted-Identity: <sip:+15550100@192.0.2.10>",
        "Subject: hello",
        "Route: <sip:192.0.2.1:5060;lr>",
        "Record-Route: <sip:192.0.2.10;lr>",
        "User-Agent: caller/1.0",
    ];
    called(config, &extra, |invite| {
        for name in [
            "X-Secret",
            "P-Asserted-Identity",
            "Subject",
            "Route",
            "Record-Route",
        ] {
            assert_eq!(one(invite, name), None);
        }
        assert!(
            invite
                .header(HeaderName::UserAgent)
                .expect("it")
                .starts_with("sip-edge/")
        );
    });
}

#[test]
fn a_fixed_caller_where_a_carrier_refuses_foreign_ones() {
    let config = || {
        trunk_with("ai", |trunk| {
            trunk.present_as = PresentAs::Fixed("+15550000".into());
        })
    };
    called(config, &[], |invite| {
        let from = invite.from_header();
        assert!(from.starts_with("<sip:+15550000@192.0.2.1>;tag="), "{from}");
        // Who really calls is still told by name.
        assert_eq!(one(invite, "X-CALLER-ID"), Some("+15550100"));
    });
}

#[test]
fn numbers_are_rewritten() {
    let config = || {
        config_with(|config| {
            config.routes[0].rewrite = Some(Rewrite {
                strip: "+1".into(),
                prepend: "00".into(),
            });
        })
    };
    called(config, &[], |invite| {
        assert_eq!(
            invite.request_uri(),
            Some("sip:009995550123@192.0.2.20:5070;transport=tcp")
        );
        assert_eq!(invite.to_header(), "<sip:009995550123@192.0.2.20>");
    });
}

#[test]
fn any_text_may_be_called() {
    flow(
        || config_with(|config| config.routes.insert(0, route("carrier", "*", &["ai"]))),
        |w| {
            for user in ["support", "a%20b%40c", "1;isub=2", "%2b1"] {
                let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
                caller.target = format!("sip:{user}@192.0.2.1");
                caller.invites(w);
                caller.gets(w, "100 INVITE");
                let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
                let called = invite.uri().and_then(|uri| match uri {
                    edge_proto::sip::Uri::Sip(uri) => uri.user.clone(),
                    _ => None,
                });
                let expected = user
                    .replace("%20", " ")
                    .replace("%40", "@")
                    .replace("%2b", "+");
                assert_eq!(called.as_deref(), Some(expected.as_str()));
                agent.answers(w, &invite, 603);
                agent.gets(w, "ACK");
                let declined = caller.gets(w, "603 INVITE");
                caller.acks(w, &declined);
            }
        },
    );
}

#[test]
fn a_caller_without_a_number() {
    flow(config, |w| {
        for (from, shown) in [
            (
                "<sip:anonymous@anonymous.invalid>;tag=a",
                "<sip:anonymous@192.0.2.1>",
            ),
            ("<sip:192.0.2.10>;tag=b", "<sip:anonymous@192.0.2.1>"),
            ("<tel:+15550199>;tag=c", "<sip:+15550199@192.0.2.1>"),
            (
                "\"A \\\"B\\\" <C>\" <sip:d@192.0.2.10>;tag=d",
                "\"A \\\"B\\\" <C>\" <sip:d@192.0.2.1>",
            ),
        ] {
            let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
            caller.local = from.into();
            caller.invites(w);
            caller.gets(w, "100 INVITE");
            let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
            assert!(
                invite.from_header().starts_with(&format!("{shown};tag=")),
                "{}",
                invite.from_header()
            );
            agent.answers(w, &invite, 603);
            agent.gets(w, "ACK");
            let declined = caller.gets(w, "603 INVITE");
            caller.acks(w, &declined);
        }
    });
}

#[test]
fn the_edge_behind_a_one_to_one_nat() {
    let config = || {
        config_with(|config| {
            config.listeners[0].advertised = "203.0.113.10:5060".parse().expect("an address");
            let media = config.media.ipv4.as_mut().expect("IPv4");
            media.advertised = "203.0.113.10".parse().expect("an address");
        })
    };
    flow(config, |w| {
        let caller = calling(w);
        let (agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        let shown = text(&invite);
        assert!(!shown.contains("192.0.2.1:"), "{shown}");
        assert!(shown.contains("c=IN IP4 203.0.113.10\r\n"), "{shown}");
        assert!(shown.contains("Via: SIP/2.0/TCP 203.0.113.10:5060;"));
        let (mut caller, mut agent) = answering(w, caller, agent, &invite);
        assert_eq!(caller.target, "sip:edge@203.0.113.10:5060;transport=tcp");
        // Sockets are bound where they can be.
        assert!(w.open.values().all(|port| port.ip() == w.site.edge.ip()));
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn the_answer_goes_back_through_a_nat() {
    flow(config, |w| {
        let mut ua = Ua::caller(w, w.site.carrier, NUMBER, 4000);
        let text = ua
            .request("OPTIONS", &[], "")
            .replace("TCP 192.0.2.10:5060;", "TCP 10.0.0.7:5060;rport;");
        w.send(ua.link, ua.address, text);
        let ok = ua.gets(w, "200 OPTIONS");
        let via = ok.header(HeaderName::Via).expect("Via");
        assert!(
            via.contains(";received=192.0.2.10") && via.contains(";rport=5060"),
            "{via}"
        );
    });
}

#[test]
fn what_reaches_the_caller_is_about_its_own_leg() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        assert_eq!(caller.target, "sip:edge@192.0.2.1:5060;transport=tcp");
        let agent_side = agent.call_id.clone();
        hang_up(w, &mut caller, &mut [&mut agent]);
        for crossing in &w.crossings {
            let text = String::from_utf8_lossy(&crossing.bytes).into_owned();
            if crossing.peer == w.site.carrier {
                assert!(!text.contains(&agent_side), "{text}");
                assert!(!text.contains("callee4100"), "{text}");
            } else {
                assert!(!text.contains(&caller.call_id), "{text}");
                assert!(!text.contains("caller4000"), "{text}");
            }
        }
    });
}
