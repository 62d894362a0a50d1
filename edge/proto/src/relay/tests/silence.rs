//! Media timeout.

use super::*;

fn timeout(slot: u32) -> MediaEvent {
    MediaEvent::Timeout {
        allocation: id(slot),
    }
}

impl Bench {
    /// Moves time on, handling each deadline when it comes; returns what was reported.
    fn pass(&mut self, duration: Duration) -> Vec<MediaEvent> {
        let end = self.now + duration;
        while let Some(at) = self.relay.poll_timeout().filter(|&at| at <= end) {
            self.relay.handle_timeout(at);
            assert!(self.relay.poll_timeout().is_none_or(|next| next > at));
        }
        self.relay.handle_timeout(end);
        self.now = end;
        self.pump();
        self.events()
    }
}

#[test]
fn silence_is_reported_once_and_again_after_speech() {
    let mut bench = Bench::open(2);
    assert_eq!(bench.pass(TIMEOUT * 3), [], "not bridged");
    bench.command(bridge(1, 2));
    for _ in 0..5 {
        assert_eq!(bench.pass(TIMEOUT / 2), []);
        bench.verdict(1, peer(1));
        bench.verdict(2, peer(2));
        bench.outputs.clear();
    }
    assert_eq!(bench.pass(TIMEOUT / 2), []);
    bench.verdict(2, peer(2));
    assert_eq!(bench.pass(TIMEOUT * 3 / 4), [timeout(1)]);
    assert_eq!(bench.pass(TIMEOUT * 3), [timeout(2)]);
    bench.verdict(1, peer(1));
    assert_eq!(bench.pass(TIMEOUT * 3), [timeout(1)]);
    assert_eq!(bench.relay.poll_timeout(), None);
}

#[test]
fn rtcp_and_unmapped_types_are_signs_of_life_but_strangers_are_not() {
    let mut bench = Bench::open(2);
    bench.command(bridge(1, 2));
    for _ in 0..4 {
        bench.packet(
            1,
            Component::Rtcp,
            SocketAddr::new(peer(1).ip(), 4001),
            rtcp(),
        );
        bench.packet(2, Component::Rtp, peer(2), rtp(13, 1));
        bench.outputs.clear();
        assert_eq!(bench.pass(TIMEOUT * 3 / 4), []);
    }
    bench.verdict(1, at("203.0.113.99:4000"));
    assert_eq!(bench.pass(TIMEOUT), [timeout(1), timeout(2)]);
}

#[test]
fn a_muted_direction_may_be_silent() {
    let mut bench = Bench::open(2);
    bench.command(MediaCommand::Bridge {
        a: id(1),
        b: id(2),
        a_to_b: None,
        b_to_a: Some(map()),
    });
    assert_eq!(bench.pass(TIMEOUT * 3), [timeout(2)]);
    bench.command(bridge(1, 2));
    assert_eq!(bench.pass(TIMEOUT * 3), [timeout(1), timeout(2)]);
}

#[test]
fn a_bridge_starts_the_clock_anew_and_its_end_stops_it() {
    let mut bench = Bench::open(3);
    bench.command(bridge(1, 2));
    assert_eq!(bench.pass(TIMEOUT * 3 / 4), []);
    bench.command(bridge(1, 3));
    assert_eq!(bench.pass(TIMEOUT * 3 / 4), []);
    bench.command(MediaCommand::Unbridge { allocation: id(1) });
    assert_eq!(bench.relay.poll_timeout(), None);
    assert_eq!(bench.pass(TIMEOUT * 3), []);
}

#[test]
fn zero_means_never() {
    let mut bench = Bench::open(2);
    bench.relay = Relay::new(RelayConfig {
        capacity: 8,
        timeout: Duration::ZERO,
    });
    for slot in 1..=2 {
        bench.command(open(slot, LatchMode::Any));
    }
    bench.command(bridge(1, 2));
    assert_eq!(bench.relay.poll_timeout(), None);
}
