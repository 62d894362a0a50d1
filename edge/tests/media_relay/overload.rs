//! More packets than buffers, and more senders than one.

use crate::bench::*;
use edge_proto::relay::{Component, LatchMode};
use sip_edge::media::{MediaCounters, MediaOptions};
use std::sync::atomic::{AtomicBool, Ordering};

/// Packets that fit into a socket's queue with the default limits, whatever the buffers do.
const BURST: u16 = 60;

/// With eight buffers a burst exhausts them again and again. What waits in the sockets' queues is not lost, and nothing stalls.
#[test]
fn a_burst_beyond_the_buffers_is_relayed_to_the_last_packet() {
    let mut bench = Bench::with(MediaOptions {
        allocations: 8,
        buffers: 8,
        shared_buffers: 8,
        entries: 8,
        ..MediaOptions::default()
    });
    let (a, b) = (Party::new("caller", V4), Party::new("human", V4));
    let (c, d) = (
        Party::new("second caller", V4),
        Party::new("second human", V4),
    );
    let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
    let (leg_c, leg_d) = conversation(&mut bench, &c, &d);
    let mut bursts = 0;
    // In both of a socket's lives: telling sources, and connected.
    for connected in [false, true] {
        if connected {
            bench.wait_connected(4);
        }
        let exhausted = |counters: &MediaCounters| {
            counters.buffers_exhausted.get() + counters.shared_refills.get()
        };
        let before = exhausted(&bench.counters);
        let deadline = std::time::Instant::now() + DEADLINE;
        while exhausted(&bench.counters) == before {
            assert!(std::time::Instant::now() < deadline, "never exhausted");
            bursts += 1;
            for number in 0..BURST {
                a.say(leg_a, number);
                c.say(leg_c, number);
            }
            for number in 0..BURST {
                b.hears(&a, number, leg_b);
                d.hears(&c, number, leg_d);
            }
        }
        talk(&a, leg_a, &b, leg_b, 9);
        talk(&c, leg_c, &d, leg_d, 9);
    }
    let stats = bench.close(leg_a);
    // A restarted sequence number is no loss, and nothing else was missing.
    assert_eq!(stats.received.packets, u64::from(BURST) * bursts + 3);
}

/// Many conversations at once, in lockstep: every packet arrives at its own party and at no other.
#[test]
fn many_conversations_do_not_mix() {
    const NAMES: [&str; 16] = [
        "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "b0", "b1", "b2", "b3", "b4", "b5", "b6",
        "b7",
    ];
    let mut bench = Bench::new();
    let parties = NAMES.map(|name| Party::new(name, V4));
    let legs: Vec<Leg> = parties
        .iter()
        .map(|party| bench.leg(party, LatchMode::Signalling))
        .collect();
    let (callers, humans) = parties.split_at(8);
    for pair in 0..8 {
        bench.bridge(legs[pair], legs[pair + 8]);
    }
    bench.settle_commands();
    for number in 0..300 {
        for (party, leg) in parties.iter().zip(&legs) {
            party.say(*leg, number);
        }
        for (pair, (caller, human)) in callers.iter().zip(humans).enumerate() {
            human.hears(caller, number, legs[pair + 8]);
            caller.hears(human, number, legs[pair]);
        }
    }
    assert_eq!(bench.counters.io_uring.sent.get(), 300 * 16);
}

/// A flood of what nobody may send does not keep a conversation from going on.
#[test]
fn a_flood_of_strangers_does_not_stop_a_conversation() {
    let mut bench = Bench::new();
    let (a, b) = (
        Party::new("caller", "127.0.0.1"),
        Party::new("human", "127.0.0.2"),
    );
    let waiting = bench.open(V4, LatchMode::Signalling);
    bench.set_remote(waiting, a.rtp(), a.rtcp(), a.ip());
    let (leg_a, leg_b) = conversation(&mut bench, &a, &b);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also when a party does not hear what it should: the scope waits for the flood's thread.
        let _ended = SetOnDrop(&stop);
        scope.spawn(|| {
            let stranger = Party::new("stranger", "127.0.0.9");
            while !stop.load(Ordering::Relaxed) {
                stranger.raw(Component::Rtp, waiting.rtp, &stranger.packet(0, 1));
            }
        });
        for number in 2..500 {
            talk(&a, leg_a, &b, leg_b, number);
        }
    });
    a.has_heard_nothing();
    b.has_heard_nothing();
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
