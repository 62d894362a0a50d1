//! What a new configuration leaves of the connections that the edge itself opened: what comes back on them counts for their
//! trunk, so they stay as long as the address is the trunk's, and no longer.

use crate::harness::*;
use edge_proto::id::CoreId;

/// The platform is somewhere else, in `uri` and in `allow`.
fn moved() -> Config {
    trunk_with("ai", |trunk| {
        trunk.uris = vec![uri(V4.stranger)];
        trunk.allow = vec![V4.stranger.ip().into()];
    })
}

/// The platform is called at the addresses of `host`, and not listed.
fn unlisted(host: &'static str) -> impl Fn() -> Config {
    move || {
        trunk_with("ai", |trunk| {
            trunk.uris = vec![named_uri(host, None)];
            trunk.allow.clear();
        })
    }
}

/// [`answered`] by a platform that is called by name.
fn answered_by_name(w: &mut World) -> (Ua, Ua) {
    let caller = calling(w);
    w.resolve(Ok(vec![w.site.ai]));
    let (agent, invite) = invited(w, w.site.ai, AGENT_RTP);
    answering(w, caller, agent, &invite)
}

/// The one connection that is open to `peer`.
fn connection(w: &World, peer: SocketAddr) -> edge_proto::id::ConnectionId {
    let open = w.connections(peer);
    assert_eq!(open.len(), 1);
    open[0]
}

/// A request of a new dialog from the platform's old address.
fn asks(w: &mut World, over: edge_proto::id::ConnectionId, method: &str) {
    let link = Link::Stream(over);
    let mut ua = Ua::caller_on(w, link, w.site.ai, "+441632960000", AGENT_RTP);
    let body = ua.sdp.text();
    ua.sends(w, method, &[], if method == "INVITE" { &body } else { "" });
}

#[test]
fn a_platform_that_moved_away() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        let old = connection(w, w.site.ai);
        hang_up(w, &mut caller, &mut [&mut agent]);
        w.reload(moved());
        assert_eq!(w.connections(w.site.ai), []);
        // What was under way on it starts no call.
        asks(w, old, "INVITE");
        w.assert_silent(w.site.ai);
        w.assert_silent(w.site.carrier);
    });
    // With a call, whose BYE still leaves over it.
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        w.reload(moved());
        gets_bye(w, &mut caller);
        agent.gets(w, "BYE");
        assert_eq!(w.connections(w.site.ai), []);
        w.advance(seconds(40));
        assert_eq!(w.connections(w.site.ai), []);
    });
}

#[test]
fn a_platform_that_moved_away_in_two_steps() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        let old = connection(w, w.site.ai);
        let halfway = || trunk_with("ai", |trunk| trunk.uris = vec![uri(V4.stranger)]);
        w.reload(halfway());
        assert!(w.is_open(old));
        w.assert_bridges(&["4000<>4100"]);
        // Its list is all that spoke for the old address.
        w.reload(moved());
        gets_bye(w, &mut caller);
        agent.gets(w, "BYE");
        assert_eq!(w.connections(w.site.ai), []);
        asks(w, old, "INVITE");
        w.assert_silent(w.site.ai);
        w.assert_silent(w.site.carrier);
    });
}

#[test]
fn a_platform_that_moved_while_its_address_was_looked_up() {
    flow(unlisted("ai.example.net"), |w| {
        let mut caller = calling(w);
        w.reload(unlisted("other.example.net")());
        w.resolve(Ok(vec![w.site.ai]));
        let refusal = caller.gets(w, "502 INVITE");
        caller.acks(w, &refusal);
        assert!(w.connects.is_empty());
        w.assert_cdr(&[
            "1 in carrier 502 unreachable edge",
            "2 out ai - unreachable edge",
        ]);
    });
}

#[test]
fn a_platform_whose_name_stays() {
    flow(unlisted("ai.example.net"), |w| {
        let (mut caller, mut agent) = answered_by_name(w);
        let open = connection(w, w.site.ai);
        let again = unlisted("ai.example.net");
        w.reload(again());
        w.reload(again());
        assert!(w.is_open(open));
        w.assert_bridges(&["4000<>4100"]);
        agent.reinvites(w, |sdp| sdp);
        let ok = agent.gets(w, "200 INVITE");
        agent.acks(w, &ok);
        // Another name is another platform.
        w.reload(unlisted("other.example.net")());
        gets_bye(w, &mut caller);
        agent.gets(w, "BYE");
        assert_eq!(w.connections(w.site.ai), []);
    });
}

#[test]
fn a_platform_that_gets_a_second_address() {
    let called_at = |uris: &[SocketAddr]| {
        trunk_with("ai", |trunk| {
            trunk.uris = uris.iter().copied().map(uri).collect();
            trunk.allow.clear();
        })
    };
    flow(
        || called_at(&[V4.ai]),
        |w| {
            let (mut caller, mut agent) = answered(w);
            let open = connection(w, w.site.ai);
            w.reload(called_at(&[V4.stranger, V4.ai]));
            assert!(w.is_open(open));
            w.assert_bridges(&["4000<>4100"]);
            // And is left with that one.
            w.reload(called_at(&[V4.stranger]));
            gets_bye(w, &mut caller);
            agent.gets(w, "BYE");
            assert_eq!(w.connections(w.site.ai), []);
        },
    );
}

#[test]
fn a_caller_that_was_called_back_and_taken_off_the_list() {
    let named = |allow: &'static str| {
        trunk_with("carrier", |trunk| {
            trunk.uris = vec![named_uri("carrier.example.net", None)];
            trunk.allow = vec![allow.parse().expect("a network")];
        })
    };
    flow(
        || named("192.0.2.10/32"),
        |w| {
            let (mut caller, mut agent) = answered(w);
            for connection in w.connections(w.site.carrier) {
                w.reset(connection);
            }
            hang_up(w, &mut agent, &mut [&mut caller]);
            let opened = connection(w, w.site.carrier);
            assert_eq!(w.connects.last().map(|c| c.connection), Some(opened));
            w.reload(named("192.0.2.0/24"));
            assert!(w.is_open(opened));
            // Its `uri` is the same, but never led there.
            w.reload(named("192.0.2.11/32"));
            assert_eq!(w.connections(w.site.carrier), []);
        },
    );
}

#[test]
fn a_core_that_has_not_heard_of_the_reload_yet() {
    flow(config, |w| {
        let (mut caller, mut agent) = answered(w);
        let old = connection(w, w.site.ai);
        hang_up(w, &mut caller, &mut [&mut agent]);
        w.config = std::sync::Arc::new(moved());
        let (last, cores) = (old.core(), w.cores.len());
        for core in (0..cores as u8).map(CoreId).filter(|&core| core != last) {
            w.input(core, Input::Reload(w.config.clone()));
        }
        // It passes on what it reads, and is not believed that this is the trunk's.
        let mut passed_on = 0;
        for _ in 0..16 {
            let before = w.handoffs;
            asks(w, old, "OPTIONS");
            let handed_over = w.handoffs > before;
            passed_on += usize::from(handed_over);
            assert_eq!(w.try_recv(w.site.ai).is_none(), handed_over);
        }
        assert_eq!(passed_on > 0, cores > 1);
        w.input(last, Input::Reload(w.config.clone()));
        assert_eq!(w.connections(w.site.ai), []);
    });
}

#[test]
fn an_answer_to_a_platform_that_is_called_and_not_listed() {
    flow(unlisted("ai.example.net"), |w| {
        let (mut caller, mut agent) = answered_by_name(w);
        agent.reinvites(w, |sdp| sdp);
        agent.gets(w, "200 INVITE");
        // It may have been lost with its connection.
        let old = connection(w, w.site.ai);
        w.reset(old);
        let ok = agent.gets(w, "200 INVITE");
        agent.acks(w, &ok);
        let new = connection(w, w.site.ai);
        assert_eq!(w.connects.last().map(|c| c.connection), Some(new));
        w.advance(seconds(40));
        w.assert_bridges(&["4000<>4100"]);
        hang_up(w, &mut agent, &mut [&mut caller]);
    });
}
