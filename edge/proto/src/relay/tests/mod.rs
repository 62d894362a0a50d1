//! The relay as its callers see it.

mod model;
mod silence;

use super::*;
use crate::id::AllocationId;
use crate::time::{Duration, Instant};
use std::net::SocketAddr;

const TIMEOUT: Duration = Duration::from_secs(60);

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn id(slot: u32) -> AllocationId {
    AllocationId {
        slot,
        generation: 1,
    }
}

/// Payload type 0 as itself and 101 as 96.
fn map() -> PayloadMap {
    PayloadMap {
        entries: vec![(0, 0), (101, 96)],
        telephone_event: Some(101),
        clock_rates: vec![],
    }
}

fn rtp(payload_type: u8, sequence: u16) -> Vec<u8> {
    let [high, low] = sequence.to_be_bytes();
    let mut packet = vec![
        0x80,
        0x80 | payload_type,
        high,
        low,
        0,
        0,
        0,
        160,
        0,
        0,
        0,
        7,
    ];
    packet.extend(b"speech");
    packet
}

/// An empty receiver report.
fn rtcp() -> Vec<u8> {
    vec![0x80, 201, 0, 1, 0, 0, 0, 7]
}

/// SDP address of the peer of allocation `slot`; its signalling address is 198.51.100.`slot`.
fn peer(slot: u32) -> SocketAddr {
    at(&format!("192.0.2.{slot}:4000"))
}

fn remote(rtp: SocketAddr, slot: u32) -> RemoteMedia {
    RemoteMedia {
        rtp,
        rtcp: SocketAddr::new(rtp.ip(), rtp.port() + 1),
        signalling: format!("198.51.100.{slot}").parse().unwrap(),
    }
}

/// A relay whose effect layer does at once what it is told.
struct Bench {
    relay: Relay,
    now: Instant,
    outputs: Vec<RelayOutput>,
}

impl Bench {
    fn new() -> Self {
        Bench {
            relay: Relay::new(RelayConfig {
                capacity: 8,
                timeout: TIMEOUT,
            }),
            now: Instant::from_millis(1000),
            outputs: Vec::new(),
        }
    }

    /// Allocations 1..=`count`, open, with their peers' SDP known.
    fn open(count: u32) -> Self {
        let mut bench = Bench::new();
        for slot in 1..=count {
            bench.command(open(slot, LatchMode::Signalling));
            bench.command(set_remote(slot, peer(slot)));
        }
        bench.outputs.clear();
        bench
    }

    fn command(&mut self, command: MediaCommand) {
        self.relay.handle(self.now, command);
        self.pump();
    }

    fn pump(&mut self) {
        while let Some(output) = self.relay.poll_output() {
            match output {
                RelayOutput::Bind { allocation, .. } => self.relay.bound(allocation, Ok(())),
                RelayOutput::Release { allocation } => self.relay.released(allocation),
                _ => {}
            }
            self.outputs.push(output);
        }
    }

    fn packet(
        &mut self,
        slot: u32,
        component: Component,
        source: SocketAddr,
        mut bytes: Vec<u8>,
    ) -> (Verdict, Vec<u8>) {
        let verdict = self
            .relay
            .relay(self.now, id(slot), component, source, &mut bytes);
        self.pump();
        (verdict, bytes)
    }

    fn verdict(&mut self, slot: u32, source: SocketAddr) -> Verdict {
        self.packet(slot, Component::Rtp, source, rtp(0, 1)).0
    }

    fn events(&mut self) -> Vec<MediaEvent> {
        let outputs = self.outputs.drain(..);
        outputs
            .filter_map(|output| match output {
                RelayOutput::Event(event) => Some(event),
                _ => None,
            })
            .collect()
    }

    fn stats(&self, slot: u32) -> MediaStats {
        self.relay.stats(id(slot)).unwrap()
    }
}

fn open(slot: u32, latch: LatchMode) -> MediaCommand {
    MediaCommand::Open {
        allocation: id(slot),
        local: local(slot),
        latch,
    }
}

fn set_remote(slot: u32, address: SocketAddr) -> MediaCommand {
    MediaCommand::SetRemote {
        allocation: id(slot),
        remote: remote(address, slot),
    }
}

fn bridge(a: u32, b: u32) -> MediaCommand {
    MediaCommand::Bridge {
        a: id(a),
        b: id(b),
        a_to_b: Some(map()),
        b_to_a: Some(map()),
    }
}

/// Where the RTP of an allocation is.
fn local(slot: u32) -> SocketAddr {
    SocketAddr::new(at("203.0.113.1:0").ip(), 10_000 + 2 * slot as u16)
}

fn forward(to: u32, component: Component, destination: SocketAddr) -> Verdict {
    Verdict::Forward {
        to: id(to),
        component,
        local: component.address(local(to)),
        destination,
    }
}

fn dropped(reason: DropReason) -> Verdict {
    Verdict::Drop(reason)
}

#[test]
fn packets_cross_both_ways_with_their_payload_types_translated() {
    let mut bench = Bench::open(2);
    bench.command(bridge(1, 2));
    let (verdict, bytes) = bench.packet(1, Component::Rtp, peer(1), rtp(101, 1));
    assert_eq!(verdict, forward(2, Component::Rtp, peer(2)));
    assert_eq!(bytes, rtp(96, 1));
    assert_eq!(
        bench.verdict(2, peer(2)),
        forward(1, Component::Rtp, peer(1))
    );
    let (verdict, _) = bench.packet(1, Component::Rtp, peer(1), rtp(8, 2));
    assert_eq!(verdict, dropped(DropReason::PayloadType));
    let stats = bench.stats(1);
    assert_eq!((stats.received.packets, stats.sent.packets), (2, 1));
    assert_eq!(stats.received.bytes, 36);
    assert_eq!(stats.received.first_packet, Some(bench.now));
    assert_eq!(bench.stats(2).sent.bytes, 18);
}

#[test]
fn a_learned_source_is_answered_connected_and_reported_once() {
    let mut bench = Bench::open(2);
    bench.command(bridge(1, 2));
    let behind_nat = at("198.51.100.1:61000");
    assert_eq!(
        bench.verdict(1, behind_nat),
        forward(2, Component::Rtp, peer(2))
    );
    assert_eq!(
        bench.outputs,
        [
            RelayOutput::Connect {
                allocation: id(1),
                component: Component::Rtp,
                remote: behind_nat
            },
            RelayOutput::Admit {
                allocation: id(1),
                component: Component::Rtp,
                admission: Admission::Exact(behind_nat),
            },
            // The same two hosts may still send RTCP: nothing to tell.
            RelayOutput::Event(MediaEvent::FirstPacket {
                allocation: id(1),
                source: behind_nat
            }),
        ]
    );
    bench.outputs.clear();
    assert_eq!(
        bench.verdict(2, peer(2)),
        forward(1, Component::Rtp, behind_nat)
    );
    bench.outputs.clear();
    // The SDP's own address comes too late.
    assert_eq!(bench.verdict(1, peer(1)), dropped(DropReason::Stranger));
    assert_eq!(
        bench.verdict(1, behind_nat),
        forward(2, Component::Rtp, peer(2))
    );
    assert_eq!(bench.outputs, []);
    assert_eq!(bench.stats(1).strangers, 1);
}

#[test]
fn a_stranger_is_never_relayed_before_during_or_after() {
    let mut bench = Bench::open(2);
    bench.command(bridge(1, 2));
    let stranger = at("203.0.113.99:4000");
    assert_eq!(bench.verdict(1, stranger), dropped(DropReason::Stranger));
    assert_eq!(
        bench.verdict(1, peer(1)),
        forward(2, Component::Rtp, peer(2))
    );
    for source in [stranger, at("192.0.2.1:4002"), at("198.51.100.1:4000")] {
        assert_eq!(bench.verdict(1, source), dropped(DropReason::Stranger));
    }
    bench.command(set_remote(1, peer(7)));
    for source in [stranger, peer(1)] {
        assert_eq!(bench.verdict(1, source), dropped(DropReason::Stranger));
    }
    assert_eq!(
        bench.verdict(1, peer(7)),
        forward(2, Component::Rtp, peer(2))
    );
    assert_eq!(bench.stats(1).strangers, 6);
    assert_eq!(bench.stats(1).received.packets, 2);
}

#[test]
fn only_media_latches() {
    let mut bench = Bench::open(2);
    bench.command(bridge(1, 2));
    let port = |port| SocketAddr::new(peer(1).ip(), port);
    let not_rtp = [b"\r\n\r\n".to_vec(), vec![0; 40], rtp(0, 1)[..11].to_vec()];
    for bytes in not_rtp {
        let (verdict, _) = bench.packet(1, Component::Rtp, port(5000), bytes);
        assert_eq!(verdict, dropped(DropReason::NotRtp));
    }
    let (verdict, _) = bench.packet(1, Component::Rtcp, port(5001), rtp(0, 1));
    assert_eq!(verdict, dropped(DropReason::NotRtcp));
    assert_eq!(
        bench.verdict(1, port(6000)),
        forward(2, Component::Rtp, peer(2))
    );
    let (verdict, _) = bench.packet(1, Component::Rtcp, port(6001), rtcp());
    assert_eq!(
        verdict,
        forward(2, Component::Rtcp, SocketAddr::new(peer(2).ip(), 4001))
    );
}

#[test]
fn an_unchanged_description_keeps_the_latch_and_a_changed_one_reopens_it() {
    let mut bench = Bench::open(2);
    bench.command(bridge(1, 2));
    bench.verdict(1, peer(1));
    bench.packet(
        1,
        Component::Rtcp,
        SocketAddr::new(peer(1).ip(), 4001),
        rtcp(),
    );
    bench.outputs.clear();
    bench.command(set_remote(1, peer(1)));
    assert_eq!(bench.outputs, []);
    bench.command(set_remote(1, at("192.0.2.1:4444")));
    let disconnect = |component| RelayOutput::Disconnect {
        allocation: id(1),
        component,
    };
    let admit = |component| RelayOutput::Admit {
        allocation: id(1),
        component,
        admission: Admission::Hosts([peer(1).ip(), "198.51.100.1".parse().unwrap()]),
    };
    let expected = [Component::ALL.map(disconnect), Component::ALL.map(admit)];
    assert_eq!(bench.outputs, expected.as_flattened());
    // Until the peer shows itself again, it is sought where it says it is.
    assert_eq!(
        bench.verdict(2, peer(2)),
        forward(1, Component::Rtp, at("192.0.2.1:4444"))
    );
}

#[test]
fn a_new_bridge_replaces_the_old_ones_of_both_sides() {
    let mut bench = Bench::open(3);
    bench.command(bridge(1, 2));
    bench.command(bridge(1, 3));
    assert_eq!(
        bench.verdict(1, peer(1)),
        forward(3, Component::Rtp, peer(3))
    );
    assert_eq!(
        bench.verdict(3, peer(3)),
        forward(1, Component::Rtp, peer(1))
    );
    assert_eq!(bench.verdict(2, peer(2)), dropped(DropReason::Unbridged));
    let (verdict, _) = bench.packet(
        2,
        Component::Rtcp,
        SocketAddr::new(peer(2).ip(), 4001),
        rtcp(),
    );
    assert_eq!(verdict, dropped(DropReason::Unbridged));
    assert_eq!(bench.stats(2).received.packets, 1);
    bench.command(MediaCommand::Unbridge { allocation: id(3) });
    assert_eq!(bench.verdict(1, peer(1)), dropped(DropReason::Unbridged));
}

#[test]
fn an_impossible_bridge_still_ends_the_old_one() {
    for b in [1, 7] {
        let mut bench = Bench::open(2);
        bench.command(bridge(1, 2));
        bench.command(bridge(1, b));
        assert_eq!(bench.verdict(1, peer(1)), dropped(DropReason::Unbridged));
        assert_eq!(bench.verdict(2, peer(2)), dropped(DropReason::Unbridged));
    }
}

#[test]
fn a_muted_direction_carries_rtcp_alone() {
    let mut bench = Bench::open(2);
    bench.command(MediaCommand::Bridge {
        a: id(1),
        b: id(2),
        a_to_b: None,
        b_to_a: Some(map()),
    });
    assert_eq!(bench.verdict(1, peer(1)), dropped(DropReason::Muted));
    assert_eq!(
        bench.verdict(2, peer(2)),
        forward(1, Component::Rtp, peer(1))
    );
    let source = SocketAddr::new(peer(1).ip(), 4001);
    let (verdict, _) = bench.packet(1, Component::Rtcp, source, rtcp());
    assert!(matches!(verdict, Verdict::Forward { .. }));
}

#[test]
fn nothing_is_sent_where_no_address_is_known_or_reachable() {
    let mut bench = Bench::open(1);
    bench.command(open(2, LatchMode::Any));
    bench.command(bridge(1, 2));
    assert_eq!(
        bench.verdict(1, peer(1)),
        dropped(DropReason::NoDestination)
    );
    assert_eq!(bench.verdict(2, peer(2)), dropped(DropReason::NoRemote));
    bench.command(set_remote(2, at("[2001:db8::2]:4000")));
    assert_eq!(
        bench.verdict(1, peer(1)),
        dropped(DropReason::NoDestination)
    );
    bench.command(set_remote(2, at("0.0.0.0:4000")));
    assert_eq!(
        bench.verdict(1, peer(1)),
        dropped(DropReason::NoDestination)
    );
}

#[test]
fn a_slot_has_one_user_at_a_time() {
    let mut bench = Bench::open(1);
    let next = AllocationId {
        slot: 1,
        generation: 2,
    };
    let reopen = MediaCommand::Open {
        allocation: next,
        local: at("203.0.113.1:10010"),
        latch: LatchMode::Off,
    };
    bench.command(reopen.clone());
    assert!(
        matches!(&bench.events()[..], [MediaEvent::OpenFailed { allocation, .. }] if *allocation == next)
    );
    bench.verdict(1, peer(1));
    bench.command(MediaCommand::Close { allocation: id(1) });
    let events = bench.events();
    assert!(
        matches!(&events[..], [MediaEvent::FirstPacket { .. }, MediaEvent::Closed { allocation, stats }]
            if *allocation == id(1) && stats.received.packets == 1),
        "{events:?}"
    );
    bench.command(reopen);
    assert_eq!(bench.events(), [MediaEvent::Opened { allocation: next }]);
    // A late packet and a late command for the first user.
    assert_eq!(bench.verdict(1, peer(1)), dropped(DropReason::NoAllocation));
    bench.command(MediaCommand::Close { allocation: id(1) });
    assert_eq!(bench.relay.len(), 1);
}

#[test]
fn every_close_is_answered_once() {
    let mut bench = Bench::new();
    let closed = |slot| MediaEvent::Closed {
        allocation: id(slot),
        stats: MediaStats::default(),
    };
    bench.command(MediaCommand::Close { allocation: id(1) });
    assert_eq!(bench.events(), [closed(1)]);
    // Closed twice before the effect layer came to either.
    bench.relay.handle(bench.now, open(2, LatchMode::Off));
    for _ in 0..2 {
        bench
            .relay
            .handle(bench.now, MediaCommand::Close { allocation: id(2) });
    }
    bench.pump();
    assert_eq!(bench.events(), [closed(2)]);
    assert!(bench.relay.is_empty());
}

#[test]
fn a_failed_bind_and_an_impossible_slot_or_port_are_told() {
    let mut bench = Bench::new();
    bench.relay.handle(bench.now, open(1, LatchMode::Off));
    assert!(matches!(
        bench.relay.poll_output(),
        Some(RelayOutput::Bind { .. })
    ));
    bench.relay.bound(id(1), Err("address in use".into()));
    bench.command(open(8, LatchMode::Off));
    bench.command(MediaCommand::Open {
        allocation: id(2),
        local: at("203.0.113.1:65535"),
        latch: LatchMode::Off,
    });
    let failed: Vec<_> = bench
        .events()
        .iter()
        .map(|event| match event {
            MediaEvent::OpenFailed { allocation, .. } => allocation.slot,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(failed, [1, 8, 2]);
    assert!(bench.relay.is_empty());
}
