//! The worker, turned by hand.

use super::*;
use crate::handoff::bounded;
use crate::media::MediaOptions;
use edge_proto::relay::{LatchMode, PayloadMap, RemoteMedia};
use std::net::UdpSocket;
use std::sync::atomic::AtomicU32;

const READ_TIMEOUT: Duration = Duration::from_secs(20);

struct Bench {
    worker: Worker,
    commands: Sender<MediaCommand>,
    events: Receiver<MediaEvent>,
    counters: Arc<MediaCounters>,
}

fn id(slot: u32) -> AllocationId {
    AllocationId {
        slot,
        generation: 7,
    }
}

fn bench(options: MediaOptions, events_capacity: usize) -> Bench {
    let (commands, command_receiver) = bounded(64).unwrap();
    let (event_sender, events) = bounded(events_capacity).unwrap();
    let counters = Arc::new(MediaCounters::default());
    let worker = Worker::new(Setup {
        clock: Clock::start(),
        options,
        commands: command_receiver,
        events: event_sender,
        counters: Arc::clone(&counters),
        guard: MediaGuard::absent(),
        hub: None,
        ways: None,
        stop: Arc::new(AtomicBool::new(false)),
    })
    .unwrap();
    Bench {
        worker,
        commands,
        events,
        counters,
    }
}

fn options() -> MediaOptions {
    MediaOptions {
        allocations: 8,
        buffers: 64,
        ..MediaOptions::default()
    }
}

fn peer() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
    socket
}

/// An RTP packet of payload type 0 that carries `number`.
fn rtp(number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    let mut packet = vec![0x80, 0, high, low, 0, 0, 0, 0, 1, 2, 3, 4];
    packet.extend([0x55; 160]);
    packet
}

impl Bench {
    /// Opens a slot at a free pair of ports, for `peer`. Returns the RTP address.
    fn open(&mut self, slot: u32, peer: &UdpSocket) -> SocketAddr {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        for _ in 0..1000 {
            let port = 21_000 + (NEXT.fetch_add(2, Ordering::Relaxed) % 8000) as u16;
            let local = SocketAddr::from(([127, 0, 0, 1], port));
            self.command(MediaCommand::Open {
                allocation: id(slot),
                local,
                latch: LatchMode::Off,
            });
            match self.event() {
                MediaEvent::Opened { .. } => {
                    let rtp = peer.local_addr().unwrap();
                    self.command(MediaCommand::SetRemote {
                        allocation: id(slot),
                        remote: RemoteMedia {
                            rtp,
                            rtcp: SocketAddr::from(([127, 0, 0, 1], rtp.port() ^ 1)),
                            signalling: rtp.ip(),
                        },
                    });
                    return local;
                }
                MediaEvent::OpenFailed { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        panic!("no free pair of ports");
    }

    fn bridge(&mut self) {
        let map = || {
            Some(PayloadMap {
                entries: vec![(0, 0)],
                ..PayloadMap::default()
            })
        };
        self.command(MediaCommand::Bridge {
            a: id(0),
            b: id(1),
            a_to_b: map(),
            b_to_a: map(),
        });
    }

    fn command(&mut self, command: MediaCommand) {
        self.commands.try_send(command).unwrap();
        self.worker.turn().unwrap();
    }

    /// The next event; turns until there is one, so something must be on its way.
    fn event(&mut self) -> MediaEvent {
        loop {
            if let Some(event) = self.events.try_recv() {
                return event;
            }
            self.worker.turn().unwrap();
        }
    }

    /// Sends one packet through and returns what arrived.
    fn pass(&mut self, from: &UdpSocket, at: SocketAddr, to: &UdpSocket, number: u16) -> Vec<u8> {
        from.send_to(&rtp(number), at).unwrap();
        let sent = self.counters.io_uring.sent.get();
        while self.counters.io_uring.sent.get() == sent {
            self.worker.turn().unwrap();
        }
        self.worker.ring.submit();
        let mut buffer = [0; 2048];
        let length = to.recv(&mut buffer).unwrap();
        buffer[..length].to_vec()
    }

    fn both_connected(&self) -> bool {
        self.counters.connected_sockets.get() == 2
    }
}

/// Both lanes of a socket's life: while it tells sources, and connected.
#[test]
fn a_packet_is_sent_from_the_address_it_was_received_into() {
    let mut bench = bench(options(), 64);
    let (a, b) = (peer(), peer());
    let (at_a, at_b) = (bench.open(0, &a), bench.open(1, &b));
    bench.bridge();
    let mut number = 0;
    while !bench.both_connected() || number < 10 {
        number += 1;
        assert_eq!(bench.pass(&a, at_a, &b, number), rtp(number));
        assert_eq!(bench.pass(&b, at_b, &a, number), rtp(number));
    }
    number += 1;
    assert_eq!(bench.pass(&a, at_a, &b, number), rtp(number));
    assert_eq!(bench.worker.addresses.len(), 2 * usize::from(number) - 1);
    for &(received, sent) in &bench.worker.addresses {
        assert_eq!(received, sent);
    }
}

#[test]
fn every_buffer_comes_back() {
    let mut bench = bench(options(), 64);
    let (a, b) = (peer(), peer());
    let (at_a, at_b) = (bench.open(0, &a), bench.open(1, &b));
    bench.bridge();
    // Ten times as many packets as buffers, forwarded and dropped alike.
    for number in 0..320 {
        a.send_to(b"not RTP", at_a).unwrap();
        assert_eq!(bench.pass(&a, at_a, &b, number), rtp(number));
        assert_eq!(bench.pass(&b, at_b, &a, number), rtp(number));
    }
    assert_eq!(bench.counters.dropped(DropReason::NotRtp), 320);
    assert_eq!(bench.counters.buffers_exhausted.get(), 0);
}

/// More than a socket's queue holds.
const FLOOD: u16 = 2000;

/// Sends the flood to a socket that nobody reads meanwhile, and reads what it could hold.
fn flood(bench: &mut Bench, from: &UdpSocket, at: SocketAddr) -> u64 {
    for number in 0..FLOOD {
        // Loopback has delivered it, or dropped it, when this returns.
        from.send_to(&rtp(number), at).unwrap();
    }
    let (mut received, mut quiet) = (0, 0);
    while quiet < 3 {
        // Answered even when there is nothing to receive, so that no turn sleeps.
        bench.command(MediaCommand::Close { allocation: id(99) });
        while bench.events.try_recv().is_some() {}
        let now = bench.counters.io_uring.received.get();
        quiet = if now == received { quiet + 1 } else { 0 };
        received = now;
    }
    assert!(received < u64::from(FLOOD), "the queue held everything");
    received
}

#[test]
fn what_a_full_queue_refused_is_counted_to_the_packet() {
    let mut bench = bench(options(), 64);
    let (a, b) = (peer(), peer());
    let (at_a, _) = (bench.open(0, &a), bench.open(1, &b));
    let received = flood(&mut bench, &a, at_a);
    bench.command(MediaCommand::Close { allocation: id(0) });
    while bench.counters.allocations.get() > 1 {
        bench.worker.turn().unwrap();
    }
    let refused = bench.counters.dropped(DropReason::QueueFull);
    assert_eq!(received + refused, u64::from(FLOOD));
}

#[test]
fn what_a_full_queue_refused_is_told_while_the_call_goes_on() {
    let mut bench = bench(options(), 64);
    let (a, b) = (peer(), peer());
    let (at_a, _) = (bench.open(0, &a), bench.open(1, &b));
    let received = flood(&mut bench, &a, at_a);
    let deadline = std::time::Instant::now() + READ_TIMEOUT;
    while bench.counters.dropped(DropReason::QueueFull) == 0 {
        assert!(std::time::Instant::now() < deadline, "never told");
        a.send_to(&rtp(0), at_a).unwrap();
        bench.worker.turn().unwrap();
    }
    assert_eq!(
        bench.counters.dropped(DropReason::QueueFull) + received,
        u64::from(FLOOD)
    );
}

#[test]
fn while_events_cannot_be_delivered_no_command_is_taken_and_none_is_lost() {
    let mut bench = bench(options(), 1);
    for slot in 100..110 {
        bench
            .commands
            .try_send(MediaCommand::Close {
                allocation: id(slot),
            })
            .unwrap();
    }
    for _ in 0..5 {
        bench.worker.turn().unwrap();
    }
    assert_eq!(bench.commands.len(), 8);
    assert!(bench.counters.events_delayed.get() >= 1);
    for slot in 100..110 {
        assert!(
            matches!(bench.event(), MediaEvent::Closed { allocation, .. } if allocation == id(slot))
        );
    }
    assert_eq!(bench.commands.len(), 0);
}

#[test]
fn stopping_closes_every_socket() {
    let mut bench = bench(options(), 64);
    let (a, b) = (peer(), peer());
    let (at_a, at_b) = (bench.open(0, &a), bench.open(1, &b));
    bench.bridge();
    assert_eq!(bench.pass(&a, at_a, &b, 1), rtp(1));
    bench.worker.stop.store(true, Ordering::Release);
    let counters = Arc::clone(&bench.counters);
    bench.worker.run().unwrap();
    assert_eq!(counters.allocations.get(), 0);
    for at in [at_a, at_b] {
        UdpSocket::bind(at).unwrap();
    }
}
