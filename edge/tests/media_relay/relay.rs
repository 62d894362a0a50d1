//! Who hears whom.

use crate::bench::*;
use edge_proto::relay::{Component, DropReason, LatchMode, MediaCommand, MediaEvent, PayloadMap};
use sip_edge::media::MediaCounters;

/// Runs `test` on both families.
fn both_families(test: impl Fn(&str)) {
    test(V4);
    test(V6);
}

#[test]
fn two_parties_hear_each_other_before_and_after_their_sockets_are_connected() {
    both_families(|ip| {
        let mut bench = Bench::new();
        let (a, b) = (Party::new("caller", ip), Party::new("human", ip));
        let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
        talk(&a, leg_a, &b, leg_b, 2);
        bench.wait_connected(2);
        for number in 3..200 {
            talk(&a, leg_a, &b, leg_b, number);
        }
        let stats = bench.close(leg_a);
        assert_eq!(stats.received.packets, 199);
        assert_eq!(stats.received.bytes, 199 * 172);
        assert_eq!(stats.received.lost, 0);
        assert_eq!(stats.sent.packets, 199);
        assert_eq!(stats.strangers, 0);
        let counters = &bench.counters;
        assert_eq!(counters.io_uring.received.get(), 398);
        assert_eq!(counters.io_uring.sent.get(), 398);
        assert_eq!(counters.send_errors.get(), 0);
    });
}

#[test]
fn the_first_packet_of_each_leg_is_reported_with_its_source() {
    let mut bench = Bench::new();
    let (a, b) = (Party::new("caller", V4), Party::new("human", V4));
    let leg_a = bench.leg(&a, LatchMode::Signalling);
    let leg_b = bench.leg(&b, LatchMode::Signalling);
    bench.bridge(leg_a, leg_b);
    bench.settle_commands();
    for (party, leg) in [(&a, leg_a), (&b, leg_b)] {
        party.say(leg, 1);
        party.say(leg, 2);
        assert_eq!(
            bench.event(),
            MediaEvent::FirstPacket {
                allocation: leg.id,
                source: party.rtp()
            }
        );
    }
    bench.send(MediaCommand::Close {
        allocation: leg_a.id,
    });
    assert!(
        matches!(bench.event(), MediaEvent::Closed { .. }),
        "reported once"
    );
}

#[test]
fn reports_cross_between_bridged_legs_alone() {
    both_families(|ip| {
        let mut bench = Bench::new();
        let (a, b) = (Party::new("caller", ip), Party::new("human", ip));
        let leg_a = bench.leg(&a, LatchMode::Signalling);
        let leg_b = bench.leg(&b, LatchMode::Signalling);
        bench.settle_commands();
        a.raw(Component::Rtcp, leg_a.rtcp, &a.report());
        bench.wait_until("unbridged", |c| c.dropped(DropReason::Unbridged) == 1);
        bench.bridge(leg_a, leg_b);
        bench.settle_commands();
        b.has_heard_nothing();
        a.raw(Component::Rtcp, leg_a.rtcp, b"no report at all");
        a.raw(Component::Rtcp, leg_a.rtcp, &a.report());
        assert_eq!(b.receive(Component::Rtcp), (a.report(), leg_b.rtcp));
        b.raw(Component::Rtcp, leg_b.rtcp, &b.report());
        assert_eq!(a.receive(Component::Rtcp), (b.report(), leg_a.rtcp));
        assert_eq!(bench.dropped(DropReason::NotRtcp), 1);
    });
}

#[test]
fn payload_types_are_translated_and_unmapped_ones_dropped() {
    let mut bench = Bench::new();
    let (a, b) = (Party::new("caller", V4), Party::new("human", V4));
    let leg_a = bench.leg(&a, LatchMode::Signalling);
    let leg_b = bench.leg(&b, LatchMode::Signalling);
    let back = PayloadMap {
        entries: vec![(0, 0), (96, 101)],
        ..PayloadMap::default()
    };
    bench.bridge_mapped(leg_a, leg_b, Some(plain_map()), Some(back));
    bench.settle_commands();
    for marker in [0, 0x80] {
        a.raw(Component::Rtp, leg_a.rtp, &a.packet(8, 1));
        a.raw(Component::Rtp, leg_a.rtp, &a.packet(marker | 101, 2));
        assert_eq!(b.receive(Component::Rtp).0, a.packet(marker | 96, 2));
        b.raw(Component::Rtp, leg_b.rtp, &b.packet(101, 1));
        b.raw(Component::Rtp, leg_b.rtp, &b.packet(marker | 96, 2));
        assert_eq!(a.receive(Component::Rtp).0, b.packet(marker | 101, 2));
    }
    assert_eq!(bench.dropped(DropReason::PayloadType), 4);
}

#[test]
fn a_muted_direction_is_silent_and_the_other_is_not() {
    let mut bench = Bench::new();
    let (a, b) = (Party::new("caller", V4), Party::new("agent", V4));
    let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
    bench.bridge_mapped(leg_a, leg_b, None, Some(plain_map()));
    bench.settle_commands();
    a.say(leg_a, 2);
    b.say(leg_b, 3);
    a.hears(&b, 3, leg_a);
    bench.wait_until("muted", |c| c.dropped(DropReason::Muted) == 1);
    b.has_heard_nothing();
}

/// The heart of a transfer: the caller is bridged to the human, and the AI agent hears nothing from then on.
#[test]
fn after_a_bridge_moved_the_former_party_hears_nothing() {
    both_families(|ip| {
        let mut bench = Bench::new();
        let parties = ["caller", "agent", "human"].map(|name| Party::new(name, ip));
        let [caller, agent, human] = &parties;
        let (leg_caller, leg_agent) = conversation(&mut bench, caller, agent);
        let leg_human = bench.leg(human, LatchMode::Signalling);
        bench.settle_commands();
        for round in 0..20 {
            // Packets are under way while the bridge moves.
            for number in 0..20 {
                caller.say(leg_caller, round * 100 + number);
            }
            bench.bridge(leg_caller, leg_human);
            bench.settle_commands();
            let mut heard = 0;
            agent_hears_at_most(agent, caller, round * 100, &mut heard);
            caller.say(leg_caller, round * 100 + 50);
            loop {
                let (bytes, _) = human.receive(Component::Rtp);
                if bytes == caller.packet(0, round * 100 + 50) {
                    break;
                }
                heard += 1;
            }
            assert_eq!(heard, 20, "every packet was heard by one of the two");
            agent.has_heard_nothing();
            // The agent speaks on, to nobody.
            agent.say(leg_agent, 1);
            human.say(leg_human, 2);
            caller.hears(human, 2, leg_caller);
            bench.bridge(leg_caller, leg_agent);
            bench.settle_commands();
            talk(caller, leg_caller, agent, leg_agent, 7);
            human.has_heard_nothing();
        }
    });
}

/// Takes what the agent heard before the command was acknowledged: nothing but the caller's packets from `first` on, in order.
fn agent_hears_at_most(agent: &Party, caller: &Party, first: u16, heard: &mut u16) {
    while let Some(bytes) = agent.poll() {
        assert_eq!(bytes, caller.packet(0, first + *heard));
        *heard += 1;
    }
}

#[test]
fn legs_of_different_families_are_bridged() {
    let mut bench = Bench::new();
    let (a, b) = (Party::new("caller", V4), Party::new("human", V6));
    let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
    bench.wait_connected(2);
    talk(&a, leg_a, &b, leg_b, 2);
}

/// Slot 0 is one of those that are sampled; what is measured is published within a second or so.
#[test]
fn the_latency_of_a_sampled_leg_is_measured() {
    let mut bench = Bench::new();
    let (a, b) = (Party::new("caller", V4), Party::new("human", V4));
    let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
    bench.wait_connected(2);
    let samples = |counters: &MediaCounters| counters.relay_latency.cumulative().0.last().copied();
    assert_eq!(samples(&bench.counters), Some(0));
    talk(&a, leg_a, &b, leg_b, 2);
    bench.wait_until("measured", |counters| samples(counters) == Some(1));
    assert!(bench.counters.relay_latency.cumulative().1 > 0);
}
