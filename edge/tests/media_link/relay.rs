//! A media thread that sends past the kernel's IP, to parties in another network namespace.

use crate::bench::{Bench, DEADLINE, Leg, Party};
use crate::xdp_support::netns::{Peer, enter, ip};
use edge_proto::relay::{DropReason, LatchMode};
use sip_edge::media::link::service::{LinkService, LinkStop};
use sip_edge::media::occupied::OccupiedPorts;
use sip_edge::media::steering::Steering;
use sip_edge::media::{Hub, MediaOptions, Sharing};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

const EDGE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const CALLER: [&str; 2] = ["192.0.2.10", "2001:db8::10"];
const HUMAN: [&str; 2] = ["192.0.2.20", "2001:db8::20"];

/// Two parties at the other end of a veth pair, and the media thread between them.
struct Call {
    bench: Bench,
    a: Party,
    leg_a: Leg,
    b: Party,
    leg_b: Leg,
    said: u16,
}

/// The service and its thread.
struct Links {
    stop: LinkStop,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Runs `test` in a namespace linked to another, with media threads that have ways to it, or says that it cannot.
fn linked<const N: usize>(
    queues: &str,
    test: impl FnOnce(&Peer, [Bench; N], Links) + Send + 'static,
) {
    let queues = queues.to_owned();
    let thread = std::thread::spawn(move || {
        if enter().is_none() {
            println!("SKIPPED: no network namespace of its own is permitted here");
            return;
        }
        let peer = Peer::linked_with(&queues);
        let (service, mut ways) = LinkService::new(N).unwrap();
        let stop = service.stopper();
        let thread = Some(std::thread::spawn(move || service.run()));
        let addresses = EDGE.map(|text| text.parse::<IpAddr>().unwrap());
        let steering = Steering::attach(addresses).unwrap();
        let occupied = Arc::new(OccupiedPorts::new(addresses));
        let benches = std::array::from_fn(|core| {
            let ports = (&(10_000..=60_000), occupied.clone());
            let hub = Hub::open(steering.thread(core as u8).unwrap(), ports, Sharing::Ports);
            assert!(hub.faults().is_empty(), "{:?}", hub.faults());
            let options = MediaOptions {
                allocations: 64,
                ..MediaOptions::default()
            };
            Bench::sharing(options, || {}, (Some(hub), Some(ways.remove(0))))
        });
        // The media threads first, as in the daemon.
        test(&peer, benches, Links { stop, thread });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Whether `packet` arrives in a moment; whatever comes before it is passed over.
fn hears_soon(party: &Party, packet: &[u8]) -> bool {
    let moment = Instant::now() + Duration::from_millis(20);
    while Instant::now() < moment {
        if party.poll().is_some_and(|heard| heard == packet) {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

impl Call {
    fn begin(peer: &Peer, mut bench: Bench, family: usize) -> Call {
        let [caller, human] = [CALLER[family], HUMAN[family]];
        let (a, b) = peer.run(move || (Party::new("caller", caller), Party::new("human", human)));
        let [leg_a, leg_b] = [&a, &b].map(|party| {
            let leg = bench.open(EDGE[family], LatchMode::Signalling);
            bench.describe(leg, party);
            leg
        });
        bench.bridge(leg_a, leg_b);
        bench.settle_commands();
        Call {
            bench,
            a,
            leg_a,
            b,
            leg_b,
            said: 0,
        }
    }

    /// One packet each way; each must be heard, from the port that the other side was told.
    fn talk(&mut self) {
        self.said += 1;
        let (a, b) = (&self.a, &self.b);
        crate::bench::talk(a, self.leg_a, b, self.leg_b, self.said);
    }

    /// Packets that left past the kernel's IP.
    fn linked(&self) -> u64 {
        self.bench.counters.sent_by_link.get()
    }

    /// How many of a few packets leave past the kernel's IP now.
    fn share(&mut self) -> u64 {
        let before = self.linked();
        (0..10).for_each(|_| self.talk());
        self.linked() - before
    }

    /// Talks, whatever is lost, until both hear each other again, and nothing of what was said is still under way.
    fn meet_again(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        for (from, leg, to) in [
            (&self.a, self.leg_a, &self.b),
            (&self.b, self.leg_b, &self.a),
        ] {
            loop {
                self.said += 1;
                from.say(leg, self.said);
                if hears_soon(to, &from.packet(0, self.said)) {
                    break;
                }
                assert!(Instant::now() < deadline, "nothing arrives any more");
            }
        }
    }

    /// Talks until all packets leave past the kernel's IP, or none does.
    fn until(&mut self, linked: bool) {
        let deadline = Instant::now() + DEADLINE;
        while self.share() != if linked { 20 } else { 0 } {
            assert!(Instant::now() < deadline, "linked: {}", self.linked());
            std::thread::yield_now();
        }
    }
}

#[test]
fn latched_rtp_leaves_past_the_kernels_ip() {
    for family in [0, 1] {
        linked("", move |peer, [bench], links| {
            let mut call = Call::begin(peer, bench, family);
            call.until(true);
            // A peer that has moved is nobody's way until it is heard.
            let (leg, caller) = (call.leg_a, CALLER[family]);
            call.a = peer.run(move || Party::new("caller", caller));
            call.bench.describe(leg, &call.a);
            call.bench.settle_commands();
            let before = call.linked();
            call.b.say(call.leg_b, 7);
            call.a.hears(&call.b, 7, leg);
            assert_eq!(call.linked(), before);
            call.until(true);
            assert_eq!(call.bench.dropped(DropReason::SendFailed), 0);
            for leg in [call.leg_a, call.leg_b] {
                call.bench.close(leg);
            }
            drop(call);
            drop(links);
        });
    }
}

/// A packet socket for everything on all interfaces.
fn capture() -> Socket {
    let all = Protocol::from(libc::c_int::from((libc::ETH_P_ALL as u16).to_be()));
    Socket::new(Domain::from(libc::AF_PACKET), Type::RAW, Some(all)).unwrap()
}

#[test]
fn a_capture_sees_what_leaves() {
    linked("", |peer, [bench], links| {
        let mut call = Call::begin(peer, bench, 0);
        call.until(true);
        let capture = capture();
        call.until(false);
        capture.set_nonblocking(true).unwrap();
        let mut frame = [MaybeUninit::uninit(); 2048];
        while capture.recv(&mut frame).is_ok() {}
        call.talk();
        let mut seen = 0;
        loop {
            match capture.recv(&mut frame) {
                Ok(octets) => seen += usize::from(octets == 14 + 28 + 12 + 160),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        assert_eq!(seen, 4, "both packets, received and sent");
        drop(capture);
        call.until(true);
        drop(call);
        drop(links);
    });
}

#[test]
fn a_neighbour_with_another_address_is_followed() {
    linked("", |peer, [bench], links| {
        let mut call = Call::begin(peer, bench, 0);
        call.until(true);
        peer.run(|| ip("link set peer0 address 02:00:00:00:00:77"));
        for host in [CALLER[0], HUMAN[0]] {
            ip(&format!(
                "neighbour replace {host} lladdr 02:00:00:00:00:77 dev edge0"
            ));
        }
        // Frames to the old address are nobody's.
        call.meet_again();
        call.until(true);
        drop(call);
        drop(links);
    });
}

#[test]
fn an_interface_that_goes_down_costs_its_packets_alone() {
    linked("", |peer, [bench], links| {
        let mut call = Call::begin(peer, bench, 0);
        call.until(true);
        ip("link set edge0 down");
        // The other end cannot be reached, and cannot send: whoever still has something for it is this host.
        let local = std::net::UdpSocket::bind("192.0.2.1:0").unwrap();
        let to_a = call.leg_a.rtp;
        local.send_to(b"stranger", to_a).unwrap();
        call.bench.wait_until("the thread lives", |counters| {
            counters.dropped(DropReason::NotRtp) + counters.dropped(DropReason::Stranger) > 0
        });
        ip("link set edge0 up");
        call.meet_again();
        call.until(true);
        drop(call);
        drop(links);
    });
}

#[test]
fn where_the_interface_has_no_queue_left_the_kernel_sends() {
    let one_queue = "numrxqueues 1 numtxqueues 1";
    linked(one_queue, |peer, [first, second], links| {
        let mut first = Call::begin(peer, first, 0);
        first.until(true);
        let mut second = Call::begin(peer, second, 0);
        second.talk();
        // Who asks later is answered later: a new host of the first thread's shows that the second has its answer.
        let third = peer.run(|| Party::new("third", "192.0.2.30"));
        let leg = first.bench.open(EDGE[0], LatchMode::Signalling);
        first.bench.describe(leg, &third);
        first.bench.bridge(first.leg_a, leg);
        first.bench.settle_commands();
        (first.b, first.leg_b) = (third, leg);
        first.until(true);
        second.talk();
        assert_eq!(second.linked(), 0);
        assert_eq!(first.share(), 20);
        drop((first, second));
        drop(links);
    });
}

/// What the host's own sockets get is no way's.
#[test]
fn a_peer_on_the_same_host_is_reached_through_the_kernel() {
    linked("", |peer, [mut bench], links| {
        let [a, b] = ["caller", "human"].map(|name| Party::new(name, EDGE[0]));
        let (leg_a, leg_b) = crate::bench::conversation(&mut bench, &a, &b);
        crate::bench::talk(&a, leg_a, &b, leg_b, 2);
        // Who asks later is answered later: packets to another host that leave past the kernel show that the answer is here.
        let mut far = Call::begin(peer, bench, 0);
        far.until(true);
        let before = far.linked();
        for number in 3..50 {
            crate::bench::talk(&a, leg_a, &b, leg_b, number);
        }
        let bench = far.bench;
        assert_eq!(bench.counters.sent_by_link.get(), before);
        drop(bench);
        drop(links);
    });
}

/// Queues that the interface has but does not send by take frames and keep them.
#[test]
fn queues_that_send_nothing_are_not_used() {
    let one_that_sends = "numrxqueues 4 numtxqueues 1";
    linked(one_that_sends, |peer, [first, second], links| {
        let mut calls = [first, second].map(|bench| Call::begin(peer, bench, 0));
        let [first, second] = &mut calls;
        first.until(true);
        second.talk();
        assert_eq!(second.linked() + second.share(), 0);
        drop(calls);
        drop(links);
    });
}

/// The interface below it may have filters of its own.
#[test]
fn an_interface_made_of_others_is_left_to_the_kernel() {
    linked("", |peer, [bench], links| {
        let mut call = Call::begin(peer, bench, 0);
        call.until(true);
        ip("link add bridge0 type bridge");
        ip("link set bridge0 up");
        ip("link set edge0 master bridge0");
        ip("address flush dev edge0");
        ip("address add 192.0.2.1/24 dev bridge0");
        call.meet_again();
        call.until(false);
        drop(call);
        drop(links);
    });
}

#[test]
fn an_interface_that_comes_back_is_used_again() {
    linked("", |peer, [bench], links| {
        let mut call = Call::begin(peer, bench, 0);
        call.until(true);
        ip("link del edge0");
        let thread = peer.run(|| rustix::thread::gettid().as_raw_nonzero());
        ip(&format!(
            "link add edge0 type veth peer name peer0 netns {thread}"
        ));
        ip("address add 192.0.2.1/24 dev edge0");
        ip("link set edge0 up");
        peer.run(|| {
            for host in [CALLER[0], HUMAN[0]] {
                ip(&format!("address add {host}/24 dev peer0"));
            }
            ip("link set peer0 up");
        });
        call.meet_again();
        call.until(true);
        drop(call);
        drop(links);
    });
}
