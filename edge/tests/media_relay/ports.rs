//! What must be true where no port has a socket of its own.

use crate::bench::{Bench, Party, V4, V6, conversation, talk};
use edge_proto::relay::{Component, DropReason, LatchMode};
use rustix::process::{Resource, getrlimit};
use sip_edge::media::MediaOptions;
use std::net::UdpSocket;

#[test]
fn legs_open_no_files_and_are_not_limited_by_them() {
    if crate::hub().is_none() {
        return;
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    // More than there may be files, unless there may be more than anybody wants.
    let allocations = u32::try_from(limit).unwrap_or(u32::MAX).min(1 << 20) + 1000;
    let mut bench = Bench::with(MediaOptions {
        allocations,
        ..MediaOptions::default()
    });
    let parties = [V4, V6].map(|ip| (Party::new("caller", ip), Party::new("human", ip)));
    for (a, b) in &parties {
        let mut legs: Vec<_> = (0..50)
            .map(|_| bench.leg(a, LatchMode::Signalling))
            .collect();
        let (leg_a, leg_b) = conversation(&mut bench, a, b);
        legs.extend([leg_a, leg_b]);
        for address in legs.iter().flat_map(|leg| [leg.rtp, leg.rtcp]) {
            UdpSocket::bind(address).unwrap();
        }
    }
    assert_eq!(bench.counters.allocations.get(), 2 * 52);
    assert_eq!(bench.counters.capacity.get(), u64::from(allocations));
}

/// What has no room in the smallest packet that every path takes needs the kernel to cut it, which a raw socket's packets are not.
#[test]
fn large_packets_leave_from_the_same_port() {
    if crate::hub().is_none() {
        return;
    }
    for ip in [V4, V6] {
        let mut bench = Bench::new();
        let (a, b) = (Party::new("caller", ip), Party::new("human", ip));
        let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
        UdpSocket::bind(leg_b.rtp).unwrap();
        for number in 2..50 {
            let mut large = a.packet(0, number);
            large.resize(1400, 0x44);
            a.raw(Component::Rtp, leg_a.rtp, &large);
            assert_eq!(b.receive(Component::Rtp), (large, leg_b.rtp));
            // They do not change who receives.
            talk(&a, leg_a, &b, leg_b, number);
        }
        // Only the leg that needed it has sockets now.
        UdpSocket::bind(leg_b.rtp).unwrap_err();
        UdpSocket::bind(leg_a.rtp).unwrap();
        bench.close(leg_b);
        UdpSocket::bind(leg_b.rtp).unwrap();
    }
}

#[test]
fn reports_come_and_go_by_shared_sockets_too() {
    if crate::hub().is_none() {
        return;
    }
    for ip in [V4, V6] {
        let mut bench = Bench::new();
        let (a, b) = (Party::new("caller", ip), Party::new("human", ip));
        let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
        for _ in 0..20 {
            a.raw(Component::Rtcp, leg_a.rtcp, &a.report());
            let (bytes, source) = b.receive(Component::Rtcp);
            assert!(String::from_utf8_lossy(&bytes).contains("caller"));
            assert_eq!(source, leg_b.rtcp);
        }
        // RTP of both, and RTCP of the one that sent it.
        assert_eq!(bench.counters.steered_flows.get(), 3);
        bench.close(leg_a);
        assert_eq!(bench.counters.steered_flows.get(), 1);
    }
}

/// A port is not asked twice by one edge either: no socket would say so.
#[test]
fn a_port_has_one_leg_at_a_time() {
    if crate::hub().is_none() {
        return;
    }
    let mut bench = Bench::new();
    let first = bench.open(V4, LatchMode::Any);
    let error = bench.try_open(first.rtp, LatchMode::Any).unwrap_err();
    assert!(error.contains(&first.rtp.to_string()), "{error}");
    let (a, b) = (Party::new("caller", V4), Party::new("human", V4));
    bench.describe(first, &a);
    let leg_b = bench.leg(&b, LatchMode::Signalling);
    bench.bridge(first, leg_b);
    bench.settle_commands();
    talk(&a, first, &b, leg_b, 1);
}

/// Ports that wait for their peers have a queue of their own, which nobody who is latched uses. Each packet is accounted for.
#[test]
fn a_flood_of_a_port_that_waits_is_bounded_counted_and_harms_no_other() {
    if crate::hub().is_none() {
        return;
    }
    const FLOOD: u64 = 100_000;
    let mut bench = Bench::new();
    let (a, b) = (Party::new("caller", V4), Party::new("human", V4));
    let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
    bench.wait_connected(2);
    let waiting = bench.open(V4, LatchMode::Signalling);
    let received = bench.counters.io_uring.received.get();
    let stranger = Party::new("stranger", "127.0.0.9");
    let mut said = 0;
    for number in 0..FLOOD {
        stranger.raw(Component::Rtp, waiting.rtp, &stranger.packet(0, 1));
        if number % 1000 == 0 {
            talk(&a, leg_a, &b, leg_b, 2);
            said += 2;
        }
    }
    bench.wait_until("every packet of the flood is counted", |c| {
        let lost = [
            DropReason::Stranger,
            DropReason::NoRemote,
            DropReason::QueueFull,
        ];
        lost.map(|reason| c.dropped(reason)).iter().sum::<u64>() == FLOOD
    });
    let judged = bench.counters.io_uring.received.get() - received - said;
    assert!(judged > 0);
    assert!(judged < FLOOD / 2, "{judged} of {FLOOD}");
    b.has_heard_nothing();
}
