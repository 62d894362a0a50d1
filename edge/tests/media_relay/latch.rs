//! Strangers, and peers that are not where they said or do not stay there.

use crate::bench::*;
use edge_proto::relay::{Component, DropReason, LatchMode};
use std::net::SocketAddr;

#[test]
fn a_stranger_is_never_relayed_before_during_or_after_latching() {
    let mut bench = Bench::new();
    let (a, b) = (
        Party::new("caller", "127.0.0.1"),
        Party::new("human", "127.0.0.2"),
    );
    let stranger = Party::new("stranger", "127.0.0.9");
    let leg_a = bench.leg(&a, LatchMode::Signalling);
    let leg_b = bench.leg(&b, LatchMode::Signalling);
    bench.bridge(leg_a, leg_b);
    bench.settle_commands();
    let attack = |number| {
        for leg in [leg_a, leg_b] {
            stranger.raw(Component::Rtp, leg.rtp, &stranger.packet(0, number));
            stranger.raw(Component::Rtcp, leg.rtcp, &stranger.report());
        }
    };
    // Before: and the attack does not keep the peers out.
    attack(1);
    bench.wait_until("strangers", |c| c.dropped(DropReason::Stranger) == 4);
    talk(&a, leg_a, &b, leg_b, 1);
    // During: between the first packet and the moment the kernel keeps strangers out, then beyond it.
    let mut number = 2;
    let mut rounds_after = 0;
    while rounds_after < 20 {
        attack(number);
        talk(&a, leg_a, &b, leg_b, number);
        number += 1;
        rounds_after += u32::from(bench.connected() == 2);
    }
    for party in [&a, &b, &stranger] {
        party.has_heard_nothing();
    }
    let stats = bench.close(leg_a);
    assert_eq!(stats.received.packets, u64::from(number - 1));
    assert!(stats.strangers >= 2);
}

/// What a stranger sent just before the peer latched is queued behind the peer's packet when the socket is connected.
#[test]
fn a_stranger_queued_around_the_moment_of_latching_is_not_relayed() {
    for round in 0..50 {
        let mut bench = Bench::new();
        let (a, b) = (
            Party::new("caller", "127.0.0.1"),
            Party::new("human", "127.0.0.2"),
        );
        let stranger = Party::new("stranger", "127.0.0.9");
        let leg_a = bench.leg(&a, LatchMode::Signalling);
        let leg_b = bench.leg(&b, LatchMode::Signalling);
        bench.bridge(leg_a, leg_b);
        bench.settle_commands();
        for number in 0..30 {
            stranger.say(leg_a, number);
            if number == round % 30 {
                a.say(leg_a, 77);
            }
        }
        a.say(leg_a, 78);
        b.hears(&a, 77, leg_b);
        b.hears(&a, 78, leg_b);
    }
}

#[test]
fn without_latching_only_the_described_port_is_heard() {
    let mut bench = Bench::new();
    let (a, b) = (Party::new("caller", V4), Party::new("human", V4));
    let neighbour = Party::new("neighbour", V4);
    let leg_a = bench.leg(&a, LatchMode::Off);
    let leg_b = bench.leg(&b, LatchMode::Off);
    bench.bridge(leg_a, leg_b);
    bench.settle_commands();
    neighbour.say(leg_a, 1);
    neighbour.raw(Component::Rtcp, leg_a.rtcp, &neighbour.report());
    talk(&a, leg_a, &b, leg_b, 2);
    bench.wait_until("strangers", |c| c.dropped(DropReason::Stranger) == 2);
    b.has_heard_nothing();
}

/// Behind NAT: the SDP's address is private, media comes from the signalling address, and is answered there.
#[test]
fn a_peer_behind_nat_is_answered_where_it_speaks_from() {
    for latch in [LatchMode::Signalling, LatchMode::Any] {
        let mut bench = Bench::new();
        let (a, b) = (
            Party::new("caller", "127.0.0.3"),
            Party::new("human", "127.0.0.2"),
        );
        let leg_a = bench.open(V4, latch);
        let private: SocketAddr = "127.77.0.1:4000".parse().unwrap();
        let private_rtcp: SocketAddr = "127.77.0.1:4001".parse().unwrap();
        bench.set_remote(leg_a, private, private_rtcp, a.ip());
        let leg_b = bench.leg(&b, latch);
        bench.bridge(leg_a, leg_b);
        bench.settle_commands();
        talk(&a, leg_a, &b, leg_b, 1);
        a.raw(Component::Rtcp, leg_a.rtcp, &a.report());
        assert_eq!(b.receive(Component::Rtcp).0, a.report());
        b.raw(Component::Rtcp, leg_b.rtcp, &b.report());
        assert_eq!(a.receive(Component::Rtcp).0, b.report());
        bench.wait_connected(4);
        talk(&a, leg_a, &b, leg_b, 2);
    }
}

/// A re-INVITE moves the peer: before and after the kernel's filter is up.
#[test]
fn a_changed_description_moves_the_latch_and_shuts_the_former_source_out() {
    for connected in [false, true] {
        let mut bench = Bench::new();
        let (a, b) = (
            Party::new("caller", "127.0.0.1"),
            Party::new("human", "127.0.0.2"),
        );
        let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
        if connected {
            bench.wait_connected(2);
        }
        let moved = Party::new("moved caller", "127.0.0.4");
        bench.describe(leg_a, &moved);
        bench.settle_commands();
        if connected {
            // Until then the kernel refuses everybody but the former source.
            bench.wait_connected(1);
        }
        // The former source is a stranger now; the peer is sought at its new address before it speaks from there.
        a.say(leg_a, 5);
        b.say(leg_b, 6);
        moved.hears(&b, 6, leg_a);
        talk(&moved, leg_a, &b, leg_b, 7);
        bench.wait_until("stranger", |c| c.dropped(DropReason::Stranger) >= 1);
        bench.wait_connected(2);
        talk(&moved, leg_a, &b, leg_b, 8);
        a.say(leg_a, 9);
        talk(&moved, leg_a, &b, leg_b, 10);
        for party in [&a, &b, &moved] {
            party.has_heard_nothing();
        }
    }
}

/// A peer that moves to another port of its host speaks from the old one until it has the answer.
#[test]
fn a_peer_that_changes_its_port_is_heard_throughout() {
    for ip in [V4, V6] {
        let mut bench = Bench::new();
        let (a, b) = (Party::new("caller", ip), Party::new("human", ip));
        let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
        bench.wait_connected(2);
        let moved = Party::new("moved caller", ip);
        bench.describe(leg_a, &moved);
        bench.wait_connected(1);
        a.say(leg_a, 5);
        b.hears(&a, 5, leg_b);
        talk(&moved, leg_a, &b, leg_b, 6);
        a.say(leg_a, 7);
        talk(&moved, leg_a, &b, leg_b, 8);
        b.has_heard_nothing();
    }
}

#[test]
fn the_same_description_again_changes_nothing() {
    let mut bench = Bench::new();
    let (a, b) = (
        Party::new("caller", "127.0.0.1"),
        Party::new("human", "127.0.0.2"),
    );
    let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
    bench.wait_connected(2);
    bench.describe(leg_a, &a);
    bench.settle_commands();
    assert_eq!(bench.connected(), 2);
    talk(&a, leg_a, &b, leg_b, 2);
}

/// The description changes back and forth faster than receives can be ended and armed.
#[test]
fn a_description_that_flaps_ends_in_a_working_state() {
    let mut bench = Bench::new();
    let (a, b) = (
        Party::new("caller", "127.0.0.1"),
        Party::new("human", "127.0.0.2"),
    );
    let elsewhere = Party::new("elsewhere", "127.0.0.5");
    let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
    for round in 0..30 {
        if round % 3 == 0 {
            bench.wait_connected(2);
        }
        for _ in 0..5 {
            bench.describe(leg_a, &elsewhere);
            bench.describe(leg_a, &a);
            a.say(leg_a, 1000);
        }
        bench.settle_commands();
        a.say(leg_a, 2000 + round);
        loop {
            let (bytes, _) = b.receive(Component::Rtp);
            if bytes == a.packet(0, 2000 + round) {
                break;
            }
            assert_eq!(bytes, a.packet(0, 1000));
        }
        b.say(leg_b, round);
        a.hears(&b, round, leg_a);
    }
    elsewhere.has_heard_nothing();
}
