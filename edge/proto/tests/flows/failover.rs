//! Where a call goes when the first place does not take it: addresses, URIs, trunks.

use crate::harness::*;

/// `ai` at two addresses behind one name.
fn named() -> Config {
    trunk_with("ai", |trunk| {
        trunk.uris = vec![named_uri("ai.example.net", None)];
        trunk.allow.push(V4.spare.ip().into());
    })
}

/// `ai` with two URIs.
fn two_uris() -> Config {
    trunk_with("ai", |trunk| {
        trunk.uris = vec![uri(V4.ai), uri(V4.spare)];
        trunk.allow.push(V4.spare.ip().into());
    })
}

/// The route has two trunks.
fn two_trunks() -> Config {
    config_with(|config| config.routes[0].to = vec!["ai".into(), "spare".into()])
}

/// The call that goes on at the spare address is answered and hung up.
fn goes_on(w: &mut World, caller: Ua) {
    let (mut agent, invite) = invited(w, w.site.spare, SPARE_RTP);
    agent.answers(w, &invite, 180);
    let mut caller = caller;
    caller.gets(w, "180 INVITE");
    let (mut caller, mut agent) = answering(w, caller, agent, &invite);
    w.assert_bridges(&["4000<>4300"]);
    hang_up(w, &mut caller, &mut [&mut agent]);
}

#[test]
fn the_next_address_of_a_name() {
    flow(named, |w| {
        let caller = calling(w);
        let query = w.resolve(Ok(vec![w.site.ai, w.site.spare]));
        assert_eq!(
            (query.host.as_str(), query.port, query.transport),
            ("ai.example.net", None, Transport::Tcp)
        );
        assert!(query.ipv4 && query.ipv6);
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        assert_eq!(
            invite.request_uri(),
            Some("sip:+19995550123@ai.example.net;transport=tcp")
        );
        agent.answers(w, &invite, 503);
        agent.gets(w, "ACK");
        goes_on(w, caller);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            "2 out ai 200 completed local",
        ]);
    });
}

#[test]
fn an_address_that_refuses_connections() {
    flow(named, |w| {
        w.refusing = vec![w.site.ai];
        let caller = calling(w);
        w.resolve(Ok(vec![w.site.ai, w.site.spare]));
        w.assert_silent(w.site.ai);
        goes_on(w, caller);
        w.assert_told(&["2 unreachable: 192.0.2.20:5070: connect failed: connection refused"]);
    });
}

#[test]
fn an_address_that_does_not_respond() {
    flow(named, |w| {
        let caller = calling(w);
        w.resolve(Ok(vec![w.site.ai, w.site.spare]));
        invited(w, w.site.ai, AGENT_RTP);
        w.advance(seconds(31));
        w.assert_silent(w.site.spare);
        w.advance(seconds(1));
        goes_on(w, caller);
        w.assert_told(&["2 unreachable: 192.0.2.20:5070: no response [signalling_timeout]"]);
    });
}

#[test]
fn a_connection_that_is_lost_before_the_answer() {
    flow(named, |w| {
        let caller = calling(w);
        w.resolve(Ok(vec![w.site.ai, w.site.spare]));
        let (agent, _) = invited(w, w.site.ai, AGENT_RTP);
        let Link::Stream(connection) = agent.link else {
            panic!("over TCP");
        };
        w.reset(connection);
        goes_on(w, caller);
        w.assert_told(&["2 unreachable: 192.0.2.20:5070: connection lost [unreachable]"]);
    });
}

#[test]
fn a_port_in_the_uri_is_asked_for() {
    let config = || {
        trunk_with("ai", |trunk| {
            trunk.uris = vec![named_uri("ai.example.net", Some(5070))];
            trunk.network = Network::Ipv4;
        })
    };
    flow(config, |w| {
        let mut caller = calling(w);
        let query = w.resolve(Ok(vec![w.site.ai]));
        assert_eq!(query.port, Some(5070));
        assert!(query.ipv4 && !query.ipv6);
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        assert_eq!(
            invite.request_uri(),
            Some("sip:+19995550123@ai.example.net:5070;transport=tcp")
        );
        agent.answers(w, &invite, 603);
        agent.gets(w, "ACK");
        let refusal = caller.gets(w, "603 INVITE");
        caller.acks(w, &refusal);
    });
}

#[test]
fn a_name_that_does_not_resolve() {
    flow(named, |w| {
        let mut caller = calling(w);
        w.resolve(Err("no such name".into()));
        let refusal = caller.gets(w, "502 INVITE");
        caller.acks(w, &refusal);
        w.assert_told(&["2 failed: ai.example.net cannot be resolved: no such name [unreachable]"]);
        w.assert_cdr(&[
            "1 in carrier 502 unreachable edge",
            "2 out ai - unreachable edge",
        ]);
    });
}

#[test]
fn the_next_uri() {
    flow(two_uris, |w| {
        let caller = calling(w);
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        agent.answers(w, &invite, 100);
        agent.answers(w, &invite, 500);
        agent.gets(w, "ACK");
        goes_on(w, caller);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            "2 out ai 200 completed local",
        ]);
    });
}

#[test]
fn the_next_uri_when_the_first_does_not_resolve() {
    let config = || {
        trunk_with("ai", |trunk| {
            trunk.uris = vec![named_uri("ai.example.net", None), uri(V4.spare)];
            trunk.allow.push(V4.spare.ip().into());
        })
    };
    flow(config, |w| {
        let caller = calling(w);
        w.resolve(Err("no such name".into()));
        goes_on(w, caller);
    });
}

#[test]
fn another_server_is_not_shown_the_credentials_for_the_first() {
    flow(two_uris, |w| {
        let caller = calling(w);
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        let challenge = "WWW-Authenticate: Digest realm=\"ai\", nonce=\"n1\", qop=\"auth\"";
        agent.answers_with(w, &invite, 401, &[challenge], "");
        agent.gets(w, "ACK");
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        verify_digest(&invite, HeaderName::Authorization, "trunk-user", "s3cret");
        agent.answers(w, &invite, 503);
        agent.gets(w, "ACK");
        let (mut agent, invite) = invited(w, w.site.spare, SPARE_RTP);
        assert_eq!(invite.header(HeaderName::Authorization), None);
        // It may ask, too.
        let challenge = "WWW-Authenticate: Digest realm=\"spare\", nonce=\"n2\", qop=\"auth\"";
        agent.answers_with(w, &invite, 401, &[challenge], "");
        agent.gets(w, "ACK");
        let (agent, invite) = invited(w, w.site.spare, SPARE_RTP);
        verify_digest(&invite, HeaderName::Authorization, "trunk-user", "s3cret");
        assert!(invite.to_header().contains("192.0.2.40"));
        let (mut caller, mut agent) = answering(w, caller, agent, &invite);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn the_next_trunk_of_the_route() {
    flow(two_trunks, |w| {
        let caller = calling(w);
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        agent.answers(w, &invite, 503);
        agent.gets(w, "ACK");
        goes_on(w, caller);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            "2 out ai 503 rejected remote",
            "3 out spare 200 completed local",
        ]);
        w.assert_told(&[
            "1 routed: number +19995550123 goes to trunk ai",
            "1 routed: number +19995550123 goes to trunk spare",
        ]);
    });
}

#[test]
fn every_trunk_of_the_route_fails() {
    flow(two_trunks, |w| {
        w.refusing = vec![w.site.ai, w.site.spare];
        let mut caller = calling(w);
        let refusal = caller.gets(w, "502 INVITE");
        caller.acks(w, &refusal);
        w.assert_cdr(&[
            "1 in carrier 502 unreachable edge",
            "2 out ai - unreachable edge",
            "3 out spare - unreachable edge",
        ]);
    });
}

#[test]
fn a_decision_of_the_callee_is_final() {
    flow(two_trunks, |w| {
        let mut caller = calling(w);
        let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        agent.answers(w, &invite, 486);
        agent.gets(w, "ACK");
        let busy = caller.gets(w, "486 INVITE");
        caller.acks(w, &busy);
        w.assert_silent(w.site.spare);
    });
}

#[test]
fn a_full_trunk_leads_to_the_next() {
    let config = || {
        config_with(|config| {
            config.routes[0].to = vec!["ai".into(), "spare".into()];
            edit_trunk(config, "ai", |trunk| trunk.max_calls = 1);
        })
    };
    flow(config, |w| {
        let (mut first, mut agent) = answered(w);
        let mut caller = calling(w);
        let (mut other, invite) = invited(w, w.site.spare, SPARE_RTP);
        other.answers(w, &invite, 486);
        other.gets(w, "ACK");
        let busy = caller.gets(w, "486 INVITE");
        caller.acks(w, &busy);
        hang_up(w, &mut first, &mut [&mut agent]);
        w.assert_told(&["2 leg_ended: leg to ai ended by the edge after 0.000 s, not answered, INVITE got no final response [trunk_limit"]);
    });
}

#[test]
fn a_trunk_whose_addresses_are_of_the_wrong_family() {
    flow(named, |w| {
        let mut caller = calling(w);
        w.resolve(Ok(vec![V6.ai]));
        let refusal = caller.gets(w, "488 INVITE");
        caller.acks(w, &refusal);
        w.assert_cdr(&[
            "1 in carrier 488 network_mismatch edge",
            "2 out ai - network_mismatch edge",
        ]);
    });
}

/// A site with both families; `ai` is behind a name.
fn dual() -> Config {
    config_with(|config| {
        config
            .listeners
            .push(listener(1, "six", Transport::Tcp, V6.edge));
        config.media.ipv6 = Some(media_address(V6.edge));
        edit_trunk(config, "ai", |trunk| {
            trunk.uris = vec![named_uri("ai.example.net", None)];
            trunk.listen.push(edge_proto::id::ListenerId(1));
            trunk.allow.push(V6.ai.ip().into());
        });
    })
}

#[test]
fn the_next_address_is_of_the_other_family() {
    flow(dual, |w| {
        let caller = calling(w);
        w.resolve(Ok(vec![V6.ai, w.site.ai]));
        let (mut agent, invite) = invited(w, V6.ai, AGENT_RTP);
        let body = String::from_utf8_lossy(invite.body()).into_owned();
        assert!(body.contains("c=IN IP6 2001:db8::1\r\n"), "{body}");
        assert!(text(&invite).contains("Via: SIP/2.0/TCP [2001:db8::1]:5060;"));
        agent.answers(w, &invite, 503);
        agent.gets(w, "ACK");
        let (agent, invite) = invited(w, w.site.ai, AGENT_RTP);
        let shown = text(&invite);
        assert!(shown.contains("c=IN IP4 192.0.2.1\r\n"), "{shown}");
        assert!(!shown.contains("2001:db8"), "{shown}");
        let (mut caller, mut agent) = answering(w, caller, agent, &invite);
        w.assert_bridges(&["4000<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
        w.assert_cdr(&[
            "1 in carrier 200 completed remote",
            "2 out ai 200 completed local",
        ]);
    });
}

#[test]
fn an_open_connection_is_used_again() {
    flow(config, |w| {
        let (mut first, mut agent) = answered(w);
        let opened = w.connects.len();
        hang_up(w, &mut first, &mut [&mut agent]);
        for _ in 0..4 {
            let (mut caller, mut agent) = answered(w);
            hang_up(w, &mut caller, &mut [&mut agent]);
        }
        // One for each core that had a call.
        assert_eq!(opened, 1);
        assert!(w.connects.len() <= w.cores.len());
    });
}

/// So many callers at once, who have heard 100 Trying.
fn callers(w: &mut World, count: u16) -> Vec<Ua> {
    let call = |n| {
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP + 2 * n);
        caller.invites(w);
        caller.gets(w, "100 INVITE");
        caller
    };
    (0..count).map(call).collect()
}

/// Each of them, in whatever order.
fn refused(w: &mut World, callers: &mut [Ua]) {
    for _ in 0..callers.len() {
        let (_, refusal) = w.recv(w.site.carrier);
        assert_eq!(refusal.status(), Some(502));
        let mut callers = callers.iter_mut();
        let whose = callers.find(|caller| caller.call_id == refusal.call_id());
        whose.unwrap().acks(w, &refusal);
    }
}

/// A connection that was never open says nothing about one that was: nobody tries again because of it, or each of many calls would
/// as often as there are others.
#[test]
fn calls_that_waited_for_a_connection_fail_with_it() {
    flow(config, |w| {
        w.undecided = vec![w.site.ai];
        let mut callers = callers(w, 8);
        w.refusing = vec![w.site.ai];
        w.decide();
        refused(w, &mut callers);
        // One for each core that had a call.
        assert!(w.connects.len() <= w.cores.len(), "{}", w.connects.len());
    });
}

/// The connection closes again as calls are sent over it: that says something about the peer after all.
#[test]
fn a_connection_that_closes_on_each_invite_is_not_tried_for_ever() {
    const CALLS: u16 = 4;
    flow(config, |w| {
        let (mut first, mut agent) = answered(w);
        hang_up(w, &mut first, &mut [&mut agent]);
        let mut callers = callers(w, CALLS);
        let mut invites = 0;
        while let Some((link, _)) = w.try_recv(w.site.ai) {
            let Link::Stream(connection) = link else {
                panic!("over TCP");
            };
            invites += 1;
            w.reset(connection);
        }
        assert!(invites <= 2 * CALLS, "{invites}");
        refused(w, &mut callers);
    });
}

#[test]
fn two_trunks_at_one_address_have_connections_of_their_own() {
    let config = || {
        config_with(|config| {
            config.routes.push(route("carrier", "+1888*", &["spare"]));
            edit_trunk(config, "spare", |trunk| {
                trunk.uris = vec![uri(V4.ai)];
                trunk.allow.clear();
            });
        })
    };
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        let mut other = Ua::caller(w, w.site.carrier, "+18885550123", 4050);
        other.invites(w);
        other.gets(w, "100 INVITE");
        let (callee, invite) = invited(w, w.site.ai, 4150);
        let (mut other, mut callee) = answering(w, other, callee, &invite);
        assert_ne!(callee.link, agent.link);
        // What arrives on a connection counts for the trunk that it was opened for.
        hang_up(w, &mut callee, &mut [&mut other]);
        hang_up(w, &mut agent, &mut [&mut caller]);
    });
}
