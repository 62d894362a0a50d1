//! What shared sockets must not change, and their limits.

use crate::bench::{Bench, DEADLINE, Party, V4, V6, conversation, talk};
use edge_proto::relay::{Component, DropReason};
use sip_edge::media::steering::STEERED_PER_WINDOW;
use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

/// A latched flow's packets come by another socket than its port's, which is what [`Bench::wait_connected`] waits for, too; both have
/// the right UDP checksum, or loopback would not deliver them.
#[test]
fn latched_flows_are_steered_and_sent_from_their_own_ports() {
    if crate::hub().is_none() {
        return;
    }
    for ip in [V4, V6] {
        let mut bench = Bench::new();
        let parties: Vec<_> = (0..10).map(|_| Party::new("someone", ip)).collect();
        let mut legs = Vec::new();
        for pair in parties.chunks(2) {
            legs.push(conversation(&mut bench, &pair[0], &pair[1]));
        }
        bench.wait_connected(10);
        assert_eq!(bench.counters.steered_flows.get(), 10);
        for number in 2..200 {
            for (pair, &(a, b)) in parties.chunks(2).zip(&legs) {
                talk(&pair[0], a, &pair[1], b, number);
            }
        }
        assert_eq!(bench.counters.socket_errors.get(), 0);
    }
}

/// The port's own socket, not the shared one, takes what is more than any audio; nothing is lost where there is room.
#[test]
fn a_flow_beyond_the_limit_is_relayed_all_the_same() {
    if crate::hub().is_none() {
        return;
    }
    let mut bench = Bench::new();
    let (a, b) = (Party::new("caller", V4), Party::new("human", V4));
    let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
    bench.wait_connected(2);
    // In portions that any queue has room for.
    for _ in 0..STEERED_PER_WINDOW * 10 / 50 {
        for number in 0..50 {
            a.say(leg_a, number);
        }
        for _ in 0..50 {
            assert_eq!(b.receive(Component::Rtp).0.len(), 172);
        }
    }
    talk(&a, leg_a, &b, leg_b, 1);
}

/// Each stranger on a latched port is counted up to a rate, beyond which the kernel drops them; the latched peer is heard throughout.
#[test]
fn strangers_on_a_latched_port_are_counted_but_not_at_any_price() {
    if crate::hub().is_none() {
        return;
    }
    const STRANGERS: u64 = 100_000;
    let mut bench = Bench::new();
    let (a, b) = (Party::new("caller", V4), Party::new("human", V4));
    let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
    bench.wait_connected(2);
    let stranger = UdpSocket::bind("127.0.0.2:0").unwrap();
    let began = Instant::now();
    let (received, mut said) = (bench.counters.io_uring.received.get(), 0);
    for number in 0..STRANGERS {
        stranger.send_to(&a.packet(0, 1), leg_a.rtp).unwrap();
        if number % 1000 == 0 {
            talk(&a, leg_a, &b, leg_b, 2);
            said += 2;
        }
    }
    let windows = began.elapsed().as_millis() as u64 / 67 + 2;
    // What was dropped in the kernel is counted as well.
    bench.wait_until("every stranger is counted", |c| {
        c.dropped(DropReason::Stranger) + c.dropped(DropReason::QueueFull) == STRANGERS
    });
    let judged = bench.counters.io_uring.received.get() - received - said;
    assert!(judged > 0);
    assert!(
        judged <= windows * 67 * 2,
        "{judged} strangers in {windows} windows"
    );
    b.has_heard_nothing();
}

/// A port that another process has is refused, and one that a closed leg had is not this edge's any more.
#[test]
fn a_closed_port_is_nobodys() {
    if crate::hub().is_none() {
        return;
    }
    let mut bench = Bench::new();
    let (a, b) = (Party::new("caller", V4), Party::new("human", V4));
    let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
    bench.wait_connected(2);
    talk(&a, leg_a, &b, leg_b, 2);
    bench.close(leg_a);
    bench.close(leg_b);
    let other = UdpSocket::bind(leg_a.rtp).unwrap();
    other.set_read_timeout(Some(DEADLINE)).unwrap();
    // From the very source that was latched.
    a.say(leg_a, 3);
    let mut buffer = [0; 2048];
    let (length, source) = other.recv_from(&mut buffer).unwrap();
    assert_eq!((length, source), (172, a.rtp()));
}

/// The ports of a leg are used again by another: nothing of the first one's steering is left.
#[test]
fn the_next_leg_at_a_port_is_steered_for_its_own_peer() {
    if crate::hub().is_none() {
        return;
    }
    let mut bench = Bench::new();
    let (a, b) = (Party::new("caller", V4), Party::new("human", V4));
    let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
    bench.wait_connected(2);
    bench.close(leg_a);
    let next = Party::new("next", V4);
    let leg = bench
        .try_open(leg_a.rtp, edge_proto::relay::LatchMode::Signalling)
        .unwrap();
    bench.describe(leg, &next);
    bench.bridge(leg, leg_b);
    bench.settle_commands();
    talk(&next, leg, &b, leg_b, 1);
    bench.wait_connected(2);
    for number in 2..100 {
        a.raw(Component::Rtp, leg.rtp, &a.packet(0, number));
        talk(&next, leg, &b, leg_b, number);
    }
    b.has_heard_nothing();
}

/// A peer that answers with ICMP harms no other flow of the same sockets.
#[test]
fn a_flow_that_cannot_be_sent_harms_no_other() {
    if crate::hub().is_none() {
        return;
    }
    let mut bench = Bench::new();
    let (a, b) = (Party::new("caller", V4), Party::new("human", V4));
    let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
    let (c, gone) = (Party::new("other", V4), Party::new("gone", V4));
    let (leg_c, leg_gone) = conversation(&mut bench, &c, &gone);
    bench.wait_connected(4);
    // Refused by the kernel as it is sent: a broadcast address.
    let nowhere: SocketAddr = "127.255.255.255:4000".parse().unwrap();
    bench.set_remote(leg_gone, nowhere, nowhere, nowhere.ip());
    bench.settle_commands();
    for number in 2..500 {
        c.say(leg_c, number);
        talk(&a, leg_a, &b, leg_b, number);
    }
    bench.wait_until("failed sends are counted", |c| c.send_errors.get() >= 498);
    assert_eq!(bench.dropped(DropReason::SendFailed), 498);
}

/// What is not steered never reaches a shared socket, not even at its own port, which is easy to guess.
#[test]
fn nobody_reaches_a_shared_socket_directly() {
    if crate::hub().is_none() {
        return;
    }
    for ip in [V4, V6] {
        let mut bench = Bench::new();
        let (a, b) = (Party::new("caller", ip), Party::new("human", ip));
        let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
        bench.wait_connected(2);
        let before = bench.counters.io_uring.received.get();
        // Shared sockets are at the highest ports that are free.
        for port in 65_400..=65_535 {
            a.raw(
                Component::Rtp,
                SocketAddr::new(leg_a.rtp.ip(), port),
                &a.packet(0, 9),
            );
        }
        talk(&a, leg_a, &b, leg_b, 2);
        bench.settle_commands();
        assert_eq!(bench.counters.io_uring.received.get(), before + 2);
    }
}

/// An empty datagram ends a multishot receive: of a shared socket it would end that of every flow.
#[test]
fn empty_datagrams_do_not_interrupt_other_flows() {
    if crate::hub().is_none() {
        return;
    }
    for ip in [V4, V6] {
        let mut bench = Bench::new();
        let (a, b) = (Party::new("caller", ip), Party::new("human", ip));
        let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
        let (c, d) = (Party::new("other", ip), Party::new("fourth", ip));
        let (leg_c, _) = conversation(&mut bench, &c, &d);
        bench.wait_connected(4);
        let before = bench.counters.io_uring.received.get();
        for number in 2..502 {
            c.raw(Component::Rtp, leg_c.rtp, b"");
            talk(&a, leg_a, &b, leg_b, number);
        }
        bench.settle_commands();
        assert_eq!(bench.counters.io_uring.received.get(), before + 1000);
    }
}
