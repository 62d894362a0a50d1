//! Opening, closing, and peers that come and go.

use crate::bench::*;
use edge_proto::relay::{Component, DropReason, LatchMode, MediaCommand, MediaEvent};
use edge_proto::time::Duration;
use sip_edge::media::MediaOptions;
use std::net::UdpSocket;

#[test]
fn closing_frees_the_ports_at_once_in_every_state() {
    for ip in [V4, V6] {
        let mut bench = Bench::new();
        let (a, b) = (Party::new("caller", ip), Party::new("human", ip));
        let fresh = bench.open(ip, LatchMode::Any);
        let (latched, other) = conversation(&mut bench, &a, &b);
        for leg in [fresh, latched] {
            bench.close(leg);
            for address in [leg.rtp, leg.rtcp] {
                UdpSocket::bind(address).unwrap();
            }
        }
        let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
        bench.close(other);
        bench.wait_connected(2);
        for leg in [leg_a, leg_b] {
            bench.close(leg);
            for address in [leg.rtp, leg.rtcp] {
                UdpSocket::bind(address).unwrap();
            }
        }
        assert_eq!(bench.counters.allocations.get(), 0);
        assert_eq!(bench.connected(), 0);
    }
}

#[test]
fn a_port_that_is_taken_is_told_and_leaves_nothing_behind() {
    let mut bench = Bench::new();
    // Taken: the RTP port, then the RTCP port of an otherwise free pair.
    for taken in [0, 1] {
        let free = bench.open(V4, LatchMode::Any);
        bench.close(free);
        let holder = UdpSocket::bind([free.rtp, free.rtcp][taken]).unwrap();
        crate::look_at_ports();
        let error = bench.try_open(free.rtp, LatchMode::Any).unwrap_err();
        assert!(
            error.contains(&[free.rtp, free.rtcp][taken].to_string()),
            "{error}"
        );
        drop(holder);
        crate::look_at_ports();
        let again = bench.try_open(free.rtp, LatchMode::Any).unwrap();
        bench.close(again);
    }
    let error = bench
        .try_open("192.0.2.1:20000".parse().unwrap(), LatchMode::Any)
        .unwrap_err();
    assert!(error.contains("192.0.2.1:20000"), "{error}");
}

#[test]
fn a_slot_is_used_again_and_again() {
    let mut bench = Bench::new();
    let (a, b) = (Party::new("caller", V4), Party::new("human", V4));
    let leg_b = bench.leg(&b, LatchMode::Signalling);
    let first = bench.leg(&a, LatchMode::Signalling);
    bench.close(first);
    for generation in 2..100 {
        let mut leg = first;
        leg.id.generation = generation;
        bench.send(MediaCommand::Open {
            allocation: leg.id,
            local: leg.rtp,
            latch: LatchMode::Signalling,
        });
        bench.describe(leg, &a);
        bench.bridge(leg, leg_b);
        bench.settle_commands();
        talk(&a, leg, &b, leg_b, generation as u16);
        let stats = bench.close(leg);
        assert_eq!((stats.received.packets, stats.sent.packets), (1, 1));
    }
}

/// The peer's port answers with ICMP for a while: receives and sends on the connected socket fail, and must work again after.
#[test]
fn a_peer_that_is_away_for_a_while_is_heard_when_it_is_back() {
    for ip in [V4, V6] {
        let mut bench = Bench::new();
        let b = Party::new("human", ip);
        let away = UdpSocket::bind((ip, 0)).unwrap();
        let address = away.local_addr().unwrap();
        let leg_a = bench.open(ip, LatchMode::Off);
        let mut rtcp = address;
        rtcp.set_port(address.port() ^ 1);
        bench.set_remote(leg_a, address, rtcp, address.ip());
        let leg_b = bench.leg(&b, LatchMode::Off);
        bench.bridge(leg_a, leg_b);
        bench.settle_commands();
        away.send_to(&b.packet(0, 1), leg_a.rtp).unwrap();
        b.hears(&b, 1, leg_b);
        bench.wait_connected(1);
        drop(away);
        for number in 0..50 {
            b.say(leg_b, number);
        }
        bench.wait_until("all sent", |c| c.io_uring.received.get() == 51);
        let back = UdpSocket::bind(address).unwrap();
        back.set_read_timeout(Some(DEADLINE)).unwrap();
        back.send_to(&b.packet(0, 2), leg_a.rtp).unwrap();
        b.hears(&b, 2, leg_b);
        // Errors that were pending may cost packets to the peer, but only so many.
        let mut buffer = [0; 2048];
        b.say(leg_b, 99);
        b.say(leg_b, 99);
        assert_eq!(back.recv(&mut buffer).unwrap(), 172);
    }
}

#[test]
fn empty_and_oversized_datagrams_harm_nobody() {
    let mut bench = Bench::new();
    let (a, b) = (Party::new("caller", V4), Party::new("human", V4));
    let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
    for connected in [false, true] {
        if connected {
            bench.wait_connected(2);
        }
        let mut large = a.packet(0, 1);
        large.resize(4000, 0);
        for _ in 0..20 {
            a.raw(Component::Rtp, leg_a.rtp, b"");
            a.raw(Component::Rtp, leg_a.rtp, &large);
            a.raw(Component::Rtcp, leg_a.rtcp, b"");
        }
        talk(&a, leg_a, &b, leg_b, 7);
        let mut fits = a.packet(0, 8);
        fits.resize(1472, 0x33);
        a.raw(Component::Rtp, leg_a.rtp, &fits);
        assert_eq!(b.receive(Component::Rtp).0, fits);
    }
    assert_eq!(bench.dropped(DropReason::Truncated), 40);
}

#[test]
fn a_silent_leg_is_reported_while_the_other_speaks() {
    let mut bench = Bench::with(MediaOptions {
        allocations: 8,
        timeout: Duration::from_millis(300),
        ..MediaOptions::default()
    });
    let (a, b) = (Party::new("caller", V4), Party::new("human", V4));
    let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in (0..u16::MAX).cycle() {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                b.say(leg_b, number);
                // Paced by the relay, not by a clock: the packet comes back out.
                a.hears(&b, number, leg_a);
            }
        });
        let silent = bench.event_where(|event| match event {
            MediaEvent::Timeout { allocation } => Some(allocation),
            _ => None,
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(silent, leg_a.id);
    });
}

#[test]
fn more_allocations_than_there_is_room_for_are_refused() {
    let mut bench = Bench::with(MediaOptions {
        allocations: 2,
        ..MediaOptions::default()
    });
    bench.open(V4, LatchMode::Any);
    bench.open(V4, LatchMode::Any);
    let address = format!("{V4}:{}", next_port()).parse().unwrap();
    let error = bench.try_open(address, LatchMode::Any).unwrap_err();
    assert!(error.contains("full"), "{error}");
    assert_eq!(bench.counters.capacity.get(), 2);
}
