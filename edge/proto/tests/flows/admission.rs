//! Whose call it is: digest of an INVITE, trunks that share a source, limits, drain and reload.

use crate::harness::*;
use edge_proto::id::{CoreId, ListenerId};

/// The carrier has to show credentials.
fn demanding() -> Config {
    trunk_with("carrier", |trunk| {
        trunk.auth = InboundAuth::DigestAndIp;
        trunk.credentials = Some(credentials("trunk-user", "s3cret"));
        trunk.realm = "carriers".into();
    })
}

/// An INVITE with credentials; the 401 to the one without is given.
fn invites_with(w: &mut World, caller: &mut Ua, line: &str) {
    let body = caller.sdp.text();
    caller.sends(w, "INVITE", &[line], &body);
}

fn challenged(w: &mut World) -> (Ua, Message) {
    let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
    caller.invites(w);
    let challenge = caller.gets(w, "401 INVITE");
    caller.acks(w, &challenge);
    caller.remote = without_tag(&caller.remote).to_owned();
    (caller, challenge)
}

/// The call is admitted: it gets through to the agent, who is busy.
fn admitted(w: &mut World, mut caller: Ua) {
    caller.gets(w, "100 INVITE");
    let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
    agent.answers(w, &invite, 486);
    agent.gets(w, "ACK");
    let busy = caller.gets(w, "486 INVITE");
    caller.acks(w, &busy);
}

/// Another challenge, with or without `stale=true`.
fn refused(w: &mut World, caller: &mut Ua, stale: bool) -> Message {
    let challenge = caller.gets(w, "401 INVITE");
    caller.acks(w, &challenge);
    let value = challenge
        .header(HeaderName::WwwAuthenticate)
        .expect("a challenge");
    assert_eq!(value.contains("stale=true"), stale, "{value}");
    w.assert_silent(w.site.ai);
    caller.remote = without_tag(&caller.remote).to_owned();
    challenge
}

#[test]
fn credentials_are_asked_for_and_accepted() {
    for algorithm in ["SHA-256", "MD5"] {
        flow(demanding, |w| {
            let (mut caller, challenge) = challenged(w);
            // RFC 8760 §2.4: one header per algorithm, in the order of preference.
            let offered: Vec<_> = challenge.headers(HeaderName::WwwAuthenticate).collect();
            assert!(offered[0].contains("algorithm=SHA-256"), "{offered:?}");
            assert!(offered[1].contains("algorithm=MD5"), "{offered:?}");
            assert!(offered[0].contains("realm=\"carriers\""), "{offered:?}");
            let mut answering = Answering::new("INVITE", &caller.target);
            answering.algorithm = algorithm.into();
            let line = answering.line(&challenge);
            invites_with(w, &mut caller, &line);
            admitted(w, caller);
            assert_eq!(w.digests(), ["challenged", "accepted"]);
        });
    }
}

#[test]
fn wrong_credentials_are_challenged_again() {
    for (outcome, change) in [
        (
            "wrong_credentials",
            (|a: &mut Answering| a.password = "other".into()) as fn(&mut Answering),
        ),
        ("wrong_credentials", |a| a.username = "nobody".into()),
        ("wrong_realm", |a| a.realm = Some("other".into())),
        ("wrong_uri", |a| a.uri = "sip:other@192.0.2.1".into()),
    ] {
        flow(demanding, |w| {
            let (mut caller, challenge) = challenged(w);
            let mut answering = Answering::new("INVITE", &caller.target);
            change(&mut answering);
            let line = answering.line(&challenge);
            invites_with(w, &mut caller, &line);
            refused(w, &mut caller, false);
            assert_eq!(w.digests(), ["challenged", outcome, "challenged"]);
            w.assert_cdr(&[]);
        });
    }
}

#[test]
fn a_nonce_grows_stale() {
    flow(demanding, |w| {
        let (mut caller, challenge) = challenged(w);
        w.advance(seconds(31));
        let line = Answering::new("INVITE", &caller.target).line(&challenge);
        invites_with(w, &mut caller, &line);
        let fresh = refused(w, &mut caller, true);
        let line = Answering::new("INVITE", &caller.target).line(&fresh);
        invites_with(w, &mut caller, &line);
        admitted(w, caller);
        assert_eq!(
            w.digests(),
            ["challenged", "stale", "challenged", "accepted"]
        );
    });
}

#[test]
fn a_nonce_count_is_used_once() {
    flow(demanding, |w| {
        let (mut caller, challenge) = challenged(w);
        let line = Answering::new("INVITE", &caller.target).line(&challenge);
        invites_with(w, &mut caller, &line);
        let again = caller.clone();
        admitted(w, caller);
        let mut caller = again;
        invites_with(w, &mut caller, &line);
        refused(w, &mut caller, true);
        assert_eq!(
            w.digests(),
            ["challenged", "accepted", "replayed", "challenged"]
        );
    });
}

#[test]
fn a_nonce_belongs_to_its_call() {
    flow(demanding, |w| {
        let (caller, challenge) = challenged(w);
        let line = Answering::new("INVITE", &caller.target).line(&challenge);
        let mut other = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        other.local = caller.local.clone();
        invites_with(w, &mut other, &line);
        let challenge = other.gets(w, "401 INVITE");
        other.acks(w, &challenge);
        w.assert_silent(w.site.ai);
    });
}

#[test]
fn a_source_that_is_not_listed_has_no_use_for_credentials() {
    flow(demanding, |w| {
        let stranger = w.site.stranger;
        let connection = w.connect(stranger);
        assert!(!w.is_open(connection));
    });
}

#[test]
fn credentials_alone() {
    let config = || {
        let mut config = trunk_with("carrier", |trunk| {
            trunk.auth = InboundAuth::Digest;
            trunk.allow = vec!["0.0.0.0/0".parse().expect("a network")];
            trunk.credentials = Some(credentials("trunk-user", "s3cret"));
        });
        config.trunks.truncate(2);
        config
    };
    flow(config, |w| {
        // Anyone may ask, and has to answer.
        let mut caller = Ua::caller(w, w.site.stranger, NUMBER, CALLER_RTP);
        caller.invites(w);
        let challenge = caller.gets(w, "401 INVITE");
        caller.acks(w, &challenge);
        caller.remote = without_tag(&caller.remote).to_owned();
        let line = Answering::new("INVITE", &caller.target).line(&challenge);
        invites_with(w, &mut caller, &line);
        admitted(w, caller);
        w.assert_cdr(&["1 in carrier 486 busy local", "2 out ai 486 busy remote"]);
    });
}

/// Two more trunks at the carrier's address, told apart by the host that was called.
fn by_host() -> Config {
    config_with(|config| {
        edit_trunk(config, "carrier", |trunk| {
            trunk.request_hosts = vec!["one.example.net".into()];
        });
        let mut second = trunk(4, "second", V4.carrier);
        second.request_hosts = vec!["two.example.net".into()];
        config.trunks.push(std::sync::Arc::new(second));
        config.routes.push(route("second", "*", &["spare"]));
    })
}

#[test]
fn the_host_that_was_called_selects_the_trunk() {
    flow(by_host, |w| {
        for (host, trunk) in [
            ("one.example.net", "carrier"),
            ("TWO.example.net", "second"),
        ] {
            let callee = if trunk == "carrier" {
                w.site.ai
            } else {
                w.site.spare
            };
            let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
            caller.target = format!("sip:{NUMBER}@{host}");
            caller.invites(w);
            caller.gets(w, "100 INVITE");
            let (mut agent, invite) = invited(w, callee, AGENT_RTP);
            agent.answers(w, &invite, 486);
            agent.gets(w, "ACK");
            let busy = caller.gets(w, "486 INVITE");
            caller.acks(w, &busy);
            let inbound = w.records().into_iter().rfind(|r| r.leg == 1);
            assert_eq!(inbound.map(|r| r.trunk.to_string()).as_deref(), Some(trunk));
        }
        // Neither: nothing tells them apart.
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        caller.invites(w);
        let refusal = caller.gets(w, "403 INVITE");
        caller.acks(w, &refusal);
        w.assert_told(&[
            "malformed: a message from 192.0.2.10:5060 could not be understood [several trunks",
        ]);
    });
}

/// Two trunks at one address that both ask for credentials, in one realm.
fn by_username() -> Config {
    let mut config = config_with(|config| {
        edit_trunk(config, "carrier", |trunk| {
            trunk.auth = InboundAuth::DigestAndIp;
            trunk.credentials = Some(credentials("one", "one-s3cret"));
        });
        let mut second = trunk(4, "second", V4.carrier);
        second.auth = InboundAuth::DigestAndIp;
        second.credentials = Some(credentials("two", "two-s3cret"));
        config.trunks.push(std::sync::Arc::new(second));
        config.routes.push(route("second", "*", &["ai"]));
    });
    config.routes.rotate_left(0);
    config
}

#[test]
fn the_user_name_selects_the_trunk() {
    for (user, password, trunk) in [
        ("one", "one-s3cret", "carrier"),
        ("two", "two-s3cret", "second"),
    ] {
        flow(by_username, |w| {
            let (mut caller, challenge) = challenged(w);
            let mut answering = Answering::new("INVITE", &caller.target);
            answering.username = user.into();
            answering.password = password.into();
            let line = answering.line(&challenge);
            invites_with(w, &mut caller, &line);
            admitted(w, caller);
            assert_eq!(&*w.records()[0].trunk, trunk);
        });
    }
    // Nobody's name, and one trunk's name with the other's password.
    for (user, password) in [("three", "one-s3cret"), ("one", "two-s3cret")] {
        flow(by_username, |w| {
            let (mut caller, challenge) = challenged(w);
            let mut answering = Answering::new("INVITE", &caller.target);
            answering.username = user.into();
            answering.password = password.into();
            let line = answering.line(&challenge);
            invites_with(w, &mut caller, &line);
            refused(w, &mut caller, false);
        });
    }
}

#[test]
fn a_full_trunk() {
    flow(
        || trunk_with("carrier", |trunk| trunk.max_calls = 1),
        |w| {
            let (mut caller, mut agent) = answered(w);
            let mut second = calling(w);
            let refusal = second.gets(w, "503 INVITE");
            assert!(refusal.header(HeaderName::RetryAfter).is_some());
            second.acks(w, &refusal);
            hang_up(w, &mut caller, &mut [&mut agent]);
            // There is room again.
            let (mut caller, mut agent) = answered(w);
            hang_up(w, &mut caller, &mut [&mut agent]);
            assert!(
                w.cdr()
                    .contains(&"1 in carrier 503 trunk_limit edge".to_owned())
            );
        },
    );
}

#[test]
fn a_trunk_that_calls_too_fast() {
    flow(
        || trunk_with("carrier", |trunk| trunk.max_calls_per_s = 1),
        |w| {
            let first = calling(w);
            let mut second = calling(w);
            let refusal = second.gets(w, "503 INVITE");
            second.acks(w, &refusal);
            let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
            agent.answers(w, &invite, 486);
            agent.gets(w, "ACK");
            let mut first = first;
            let busy = first.gets(w, "486 INVITE");
            first.acks(w, &busy);
            w.advance(seconds(1));
            let third = calling(w);
            let (mut agent, invite) = invited(w, w.site.ai, AGENT_RTP);
            let (mut third, mut agent) = answering(w, third, agent_of(&mut agent), &invite);
            hang_up(w, &mut third, &mut [&mut agent]);
        },
    );
}

fn agent_of(agent: &mut Ua) -> Ua {
    agent.clone()
}

#[test]
fn as_many_calls_as_the_edge_takes() {
    let config = || config_with(|config| config.sip.limits.calls = 0);
    flow(config, |w| {
        let mut caller = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        caller.invites(w);
        let refusal = caller.gets(w, "503 INVITE");
        assert!(refusal.header(HeaderName::RetryAfter).is_some());
        caller.acks(w, &refusal);
        w.assert_told(&["overflow: the calls queue was full"]);
    });
}

#[test]
fn as_many_connections_as_the_edge_takes() {
    let config = || config_with(|config| config.sip.limits.connections = 1);
    flow(config, |w| {
        let first = w.connect_at(ListenerId(0), w.site.carrier, CoreId(0));
        let second = w.connect_at(ListenerId(0), w.site.carrier, CoreId(0));
        assert!(w.is_open(first) && !w.is_open(second));
        w.assert_told(&[
            "access_dropped: 192.0.2.10 dropped at listener public [connection_limit]",
        ]);
    });
}

#[test]
fn as_many_transactions_as_the_edge_takes() {
    // 8, of which one is for dialogs that exist.
    let config = || config_with(|config| config.sip.limits.transactions = 8);
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        // An INVITE that is being answered holds its transaction.
        let connection = w.connect(w.site.carrier);
        let mut refused = 0;
        for _ in 0..8 {
            let link = Link::Stream(connection);
            let mut other = Ua::caller_on(w, link, w.site.carrier, NUMBER, 4050);
            other.local = caller.local.clone();
            other.call_id = caller.call_id.clone() + &other.call_id;
            other.invites(w);
            while let Some((_, message)) = w.try_recv(w.site.carrier) {
                if message.status() == Some(503) {
                    refused += 1;
                    assert!(message.header(HeaderName::RetryAfter).is_some());
                }
            }
        }
        assert!(w.cores.len() > 1 || refused > 0);
        while w.try_recv(w.site.ai).is_some() {}
        // The call that exists can still be ended.
        caller.says(w, "BYE");
        caller.gets(w, "200 BYE");
        gets_bye(w, &mut agent);
        w.advance(seconds(200));
        while w.try_recv(w.site.carrier).is_some() {}
        while w.try_recv(w.site.ai).is_some() {}
    });
}

#[test]
fn draining_refuses_new_calls_and_finishes_the_old() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        w.input_all(Input::Drain);
        let mut second = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        second.invites(w);
        let refusal = second.gets(w, "503 INVITE");
        assert_eq!(refusal.header(HeaderName::RetryAfter), Some("5"));
        second.acks(w, &refusal);
        // Transfers of the calls that there are go on.
        referred(w, &mut agent, TARGET, &[]);
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        let last = bridging(w, &mut agent, &mut human, &invite);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
    });
}

#[test]
fn an_edge_that_is_behind_refuses_new_calls_and_goes_on_with_the_old() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        let pending = calling(w);
        w.input_all(Input::Overloaded(true));
        let mut second = Ua::caller(w, w.site.carrier, NUMBER, CALLER_RTP);
        second.invites(w);
        let refusal = second.gets(w, "503 INVITE");
        assert_eq!(refusal.header(HeaderName::RetryAfter), Some("5"));
        second.acks(w, &refusal);
        w.assert_told(&["overflow: the signalling queue was full"]);
        // What had begun is finished, transfers included.
        let (mut other, invite) = invited(w, w.site.ai, AGENT_RTP);
        let (mut pending, mut other) = answering(w, pending, agent_of(&mut other), &invite);
        hang_up(w, &mut pending, &mut [&mut other]);
        referred(w, &mut agent, TARGET, &[]);
        let (mut human, invite) = invited(w, w.site.human, HUMAN_RTP);
        let last = bridging(w, &mut agent, &mut human, &invite);
        agent.answers(w, &last, 200);
        gets_bye(w, &mut agent);
        hang_up(w, &mut caller, &mut [&mut human]);
        w.input_all(Input::Overloaded(false));
        let (mut caller, mut agent) = answered(w);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn a_reload_that_takes_the_caller_off_the_list() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        let Link::Stream(connection) = caller.link else {
            panic!("over TCP");
        };
        w.reload(trunk_with("carrier", |trunk| {
            trunk.allow = vec!["192.0.2.11/32".parse().expect("a network")];
        }));
        // The BYE still leaves; then the connection is closed.
        let bye = caller.gets(w, "BYE");
        assert!(!w.is_open(connection));
        assert_eq!(
            bye.header(HeaderName::Reason),
            Some("SIP;cause=403;text=\"access_removed\"")
        );
        gets_bye(w, &mut agent);
        w.assert_bridges(&[]);
        let reconnected = w.connect(w.site.carrier);
        assert!(!w.is_open(reconnected));
        w.advance(seconds(40));
        w.assert_cdr(&[
            "1 in carrier 200 access_removed edge",
            "2 out ai 200 access_removed edge",
        ]);
    });
}

#[test]
fn a_reload_that_takes_a_caller_off_the_list_before_its_ack() {
    flow(config, |w| {
        let (mut caller, mut agent, invite) = ringing(w);
        agent.accepts(w, &invite, 200);
        agent.gets(w, "ACK");
        caller.gets(w, "200 INVITE");
        w.reload(trunk_with("carrier", |trunk| {
            trunk.allow = vec!["192.0.2.11/32".parse().expect("a network")];
        }));
        caller.gets(w, "BYE");
        gets_bye(w, &mut agent);
        // The 200 that nobody has acknowledged opens no way back to where access was taken from.
        assert_eq!(w.connections(w.site.carrier), []);
        w.advance(seconds(40));
        w.assert_silent(w.site.carrier);
        assert_eq!(w.connections(w.site.carrier), []);
        w.assert_cdr(&[
            "1 in carrier 200 access_removed edge",
            "2 out ai 200 access_removed edge",
        ]);
    });
}

#[test]
fn a_reload_that_takes_the_transfer_away() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        w.reload(trunk_with("ai", |trunk| trunk.transfer = None));
        agent.sends(w, "REFER", &[&format!("Refer-To: {TARGET}")], "");
        agent.gets(w, "403 REFER");
        assert_eq!(w.verdicts(), ["403 transfer_disabled"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn a_reload_that_changes_nothing_for_a_call() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        w.reload(config_with(|config| {
            edit_trunk(config, "spare", |trunk| trunk.allow.clear());
            config.routes.clear();
        }));
        w.assert_bridges(&["4000<>4100"]);
        hang_up(w, &mut caller, &mut [&mut agent]);
    });
}

#[test]
fn a_reload_that_moves_the_platform() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        // Its calls go elsewhere from now on, and it may still signal: the call stays.
        w.reload(trunk_with("ai", |trunk| trunk.uris = vec![uri(V4.spare)]));
        w.assert_bridges(&["4000<>4100"]);
        hang_up(w, &mut agent, &mut [&mut caller]);
    });
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        // Gone altogether: the call ends.
        w.reload(trunk_with("ai", |trunk| {
            trunk.uris = vec![uri(V4.spare)];
            trunk.allow = vec![V4.spare.ip().into()];
        }));
        gets_bye(w, &mut caller);
        agent.gets(w, "BYE");
        w.advance(seconds(40));
        w.assert_cdr(&[
            "1 in carrier 200 access_removed edge",
            "2 out ai 200 access_removed edge",
        ]);
    });
}
