//! A media thread of the test's own, and parties that talk through it.

use edge_proto::id::AllocationId;
use edge_proto::relay::{
    Component, DropReason, LatchMode, MediaCommand, MediaEvent, MediaStats, PayloadMap, RemoteMedia,
};
use edge_proto::time::Duration;
use sip_edge::access::MediaGuard;
use sip_edge::clock::Clock;
use sip_edge::handoff::{Receiver, Sender, Waker, bounded, bounded_on};
use sip_edge::media::claim::{PortClaim, Use};
use sip_edge::media::link::table::WayTable;
use sip_edge::media::{Hub, MediaCounters, MediaError, MediaOptions, Setup, Worker};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

/// How long anything may take before the test fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub const V4: &str = "127.0.0.1";
pub const V6: &str = "::1";

pub struct Bench {
    pub commands: Sender<MediaCommand>,
    events: Receiver<MediaEvent>,
    pub counters: Arc<MediaCounters>,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<Result<(), MediaError>>>,
    slots: u32,
}

/// An open allocation.
#[derive(Clone, Copy, Debug)]
pub struct Leg {
    pub id: AllocationId,
    pub rtp: SocketAddr,
    pub rtcp: SocketAddr,
}

impl Bench {
    pub fn new() -> Bench {
        Bench::with(MediaOptions {
            allocations: 64,
            ..MediaOptions::default()
        })
    }

    pub fn with(options: MediaOptions) -> Bench {
        Bench::start(options, || {})
    }

    /// `first` runs on the media thread before anything else.
    pub fn start(options: MediaOptions, first: impl FnOnce() + Send + 'static) -> Bench {
        Bench::sharing(options, first, (crate::hub(), None))
    }

    /// The same with `hub` and `ways`.
    pub fn sharing(
        options: MediaOptions,
        first: impl FnOnce() + Send + 'static,
        (hub, ways): (Option<Hub>, Option<WayTable>),
    ) -> Bench {
        let waker = Waker::new().unwrap();
        let (commands, command_receiver) = bounded_on(256, &waker);
        let (event_sender, events) = bounded(256).unwrap();
        let counters = Arc::new(MediaCounters::default());
        let stop = Arc::new(AtomicBool::new(false));
        let setup = Setup {
            clock: Clock::start(),
            options,
            commands: command_receiver,
            events: event_sender,
            counters: Arc::clone(&counters),
            guard: MediaGuard::absent(),
            hub,
            ways,
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::spawn(move || {
            first();
            Worker::new(setup)?.run()
        });
        Bench {
            commands,
            events,
            counters,
            stop,
            waker,
            thread: Some(thread),
            slots: 0,
        }
    }

    pub fn send(&self, command: MediaCommand) {
        self.commands.try_send(command).unwrap();
    }

    /// The next event.
    pub fn event(&self) -> MediaEvent {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(event) = self.events.recv_timeout(Some(DEADLINE)).unwrap() {
                return event;
            }
            assert!(Instant::now() < deadline, "no event");
        }
    }

    /// The next event that `wanted` accepts; others are passed over.
    pub fn event_where<T>(&self, wanted: impl Fn(MediaEvent) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.event()) {
                return found;
            }
        }
    }

    /// Tries to open the next slot at a given RTP port.
    pub fn try_open(&mut self, rtp: SocketAddr, latch: LatchMode) -> Result<Leg, String> {
        let id = AllocationId {
            slot: self.slots,
            generation: 1,
        };
        self.slots += 1;
        self.send(MediaCommand::Open {
            allocation: id,
            local: rtp,
            latch,
        });
        self.event_where(|event| match event {
            MediaEvent::Opened { allocation } if allocation == id => Some(Ok(())),
            MediaEvent::OpenFailed { allocation, reason } if allocation == id => Some(Err(reason)),
            _ => None,
        })?;
        let mut rtcp = rtp;
        rtcp.set_port(rtp.port() + 1);
        Ok(Leg { id, rtp, rtcp })
    }

    /// Opens an allocation on `ip`.
    pub fn open(&mut self, ip: &str, latch: LatchMode) -> Leg {
        for _ in 0..1000 {
            let rtp = SocketAddr::new(ip.parse().unwrap(), next_port());
            match self.try_open(rtp, latch) {
                Ok(leg) => return leg,
                Err(_) => self.slots -= 1,
            }
        }
        panic!("no free pair of ports");
    }

    /// Opens an allocation for `party`, whose SDP says where it really is.
    pub fn leg(&mut self, party: &Party, latch: LatchMode) -> Leg {
        let leg = self.open(&party.ip().to_string(), latch);
        self.describe(leg, party);
        leg
    }

    pub fn describe(&self, leg: Leg, party: &Party) {
        self.set_remote(leg, party.rtp(), party.rtcp(), party.ip());
    }

    pub fn set_remote(&self, leg: Leg, rtp: SocketAddr, rtcp: SocketAddr, signalling: IpAddr) {
        self.send(MediaCommand::SetRemote {
            allocation: leg.id,
            remote: RemoteMedia {
                rtp,
                rtcp,
                signalling,
            },
        });
    }

    pub fn bridge(&self, a: Leg, b: Leg) {
        self.bridge_mapped(a, b, Some(plain_map()), Some(plain_map()));
    }

    pub fn bridge_mapped(
        &self,
        a: Leg,
        b: Leg,
        a_to_b: Option<PayloadMap>,
        b_to_a: Option<PayloadMap>,
    ) {
        self.send(MediaCommand::Bridge {
            a: a.id,
            b: b.id,
            a_to_b,
            b_to_a,
        });
    }

    /// Returns once every command sent so far has been carried out, and every packet decided before has left.
    pub fn settle_commands(&self) {
        let nobody = AllocationId {
            slot: u32::MAX,
            generation: 0,
        };
        self.send(MediaCommand::Close { allocation: nobody });
        self.event_where(|event| {
            matches!(event, MediaEvent::Closed { allocation, .. } if allocation == nobody)
                .then_some(())
        });
    }

    pub fn close(&self, leg: Leg) -> MediaStats {
        self.send(MediaCommand::Close { allocation: leg.id });
        self.event_where(|event| match event {
            MediaEvent::Closed { allocation, stats } if allocation == leg.id => Some(stats),
            _ => None,
        })
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.counters.dropped(reason)
    }

    /// Waits until the media thread has counted what it must.
    pub fn wait_until(&self, what: &str, reached: impl Fn(&MediaCounters) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !reached(&self.counters) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.counters);
            std::thread::yield_now();
        }
    }

    /// Waits until `count` flows are reachable for their learned peers alone.
    pub fn wait_connected(&self, count: u64) {
        self.wait_until("connected", |_| self.connected() == count);
    }

    /// Flows that only their learned peers can reach, by a socket of their own or by steering.
    pub fn connected(&self) -> u64 {
        self.counters.connected_sockets.get() + self.counters.steered_flows.get()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        let result = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            result.unwrap().unwrap();
            assert_eq!(self.counters.allocations.get(), 0);
            assert_eq!(self.counters.completion_overflows.get(), 0);
            assert_eq!(self.counters.socket_errors.get(), 0);
        }
    }
}

/// An even port below the ephemeral ones that no other test has: without sockets of their own, two that had the same would not notice.
pub fn next_port() -> u16 {
    const PORTS: u16 = 64;
    static CLAIMED: Mutex<(Vec<PortClaim>, Range<u16>)> = Mutex::new((Vec::new(), 0..0));
    let mut claimed = CLAIMED.lock().unwrap();
    let (claims, free) = &mut *claimed;
    if free.start == free.end {
        let claim = |first: u16| {
            let ports = first..=first + PORTS - 1;
            // At an address for documentation: an edge of this machine has its own claims, and is in the way of none.
            let claim = PortClaim::take("192.0.2.1".parse().unwrap(), ports, Use::Sole);
            Some((claim.ok()?, first))
        };
        let found = (11_000..21_000).step_by(PORTS.into()).find_map(claim);
        let (claim, first) = found.expect("no free range of ports");
        claims.push(claim);
        *free = first..first + PORTS;
    }
    let port = free.start;
    free.start += 2;
    port
}

/// Payload type 0 as itself and 101 as 96.
pub fn plain_map() -> PayloadMap {
    PayloadMap {
        entries: vec![(0, 0), (101, 96)],
        telephone_event: Some(101),
        clock_rates: vec![],
    }
}

/// Somebody with an RTP and an RTCP socket, whose payloads all carry its name.
pub struct Party {
    pub name: &'static str,
    rtp: UdpSocket,
    rtcp: UdpSocket,
}

impl Party {
    pub fn new(name: &'static str, ip: &str) -> Party {
        let socket = || {
            let socket = UdpSocket::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket
        };
        Party {
            name,
            rtp: socket(),
            rtcp: socket(),
        }
    }

    pub fn ip(&self) -> IpAddr {
        self.rtp().ip()
    }

    pub fn rtp(&self) -> SocketAddr {
        self.rtp.local_addr().unwrap()
    }

    pub fn rtcp(&self) -> SocketAddr {
        self.rtcp.local_addr().unwrap()
    }

    fn socket(&self, component: Component) -> &UdpSocket {
        match component {
            Component::Rtp => &self.rtp,
            Component::Rtcp => &self.rtcp,
        }
    }

    /// An RTP packet of this party.
    pub fn packet(&self, payload_type: u8, number: u16) -> Vec<u8> {
        let [high, low] = number.to_be_bytes();
        let mut packet = vec![0x80, payload_type, high, low, 0, 0, 0, 0, 1, 2, 3, 4];
        packet.extend(self.name.bytes().cycle().take(160));
        packet
    }

    /// An RTCP packet of this party: an empty receiver report and an APP with its name.
    pub fn report(&self) -> Vec<u8> {
        let mut packet = vec![0x80, 201, 0, 1, 1, 2, 3, 4, 0x80, 204, 0, 4, 1, 2, 3, 4];
        packet.extend(self.name.bytes().cycle().take(12));
        packet
    }

    /// Sends RTP. A refusal (ICMP) that an earlier packet met is passed over.
    pub fn say(&self, leg: Leg, number: u16) {
        self.raw(Component::Rtp, leg.rtp, &self.packet(0, number));
    }

    pub fn raw(&self, component: Component, to: SocketAddr, bytes: &[u8]) {
        self.socket(component).send_to(bytes, to).unwrap();
    }

    /// The next datagram and where it came from.
    pub fn receive(&self, component: Component) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 65_536];
        let (length, source) = match self.socket(component).recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) => panic!("{} heard nothing: {error}", self.name),
        };
        (buffer[..length].to_vec(), source)
    }

    /// The next RTP datagram if one has arrived.
    pub fn poll(&self) -> Option<Vec<u8>> {
        let mut buffer = [0; 2048];
        self.rtp.set_nonblocking(true).unwrap();
        let length = self.rtp.recv(&mut buffer).ok();
        self.rtp.set_nonblocking(false).unwrap();
        length.map(|length| buffer[..length].to_vec())
    }

    /// The next datagram must be `other`'s RTP packet `number`, sent by `through`.
    pub fn hears(&self, other: &Party, number: u16, through: Leg) {
        let (bytes, source) = self.receive(Component::Rtp);
        assert_eq!(
            bytes,
            other.packet(0, number),
            "{} hears {}",
            self.name,
            other.name
        );
        assert_eq!(source, through.rtp);
    }

    /// Nothing has arrived. Only meaningful once the media thread has dealt with all that could have caused something: loopback
    /// delivers before a send returns.
    pub fn has_heard_nothing(&self) {
        for socket in [&self.rtp, &self.rtcp] {
            socket.set_nonblocking(true).unwrap();
            let mut buffer = [0; 2048];
            match socket.recv(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => panic!("{} heard {other:?}: {:?}", self.name, &buffer[..32]),
            }
            socket.set_nonblocking(false).unwrap();
        }
    }
}

/// Two parties that hear each other through the media thread: `a`'s leg, `b`'s leg.
pub fn conversation(bench: &mut Bench, a: &Party, b: &Party) -> (Leg, Leg) {
    let leg_a = bench.leg(a, LatchMode::Signalling);
    let leg_b = bench.leg(b, LatchMode::Signalling);
    bench.bridge(leg_a, leg_b);
    bench.settle_commands();
    talk(a, leg_a, b, leg_b, 1);
    (leg_a, leg_b)
}

/// One RTP packet each way.
pub fn talk(a: &Party, leg_a: Leg, b: &Party, leg_b: Leg, number: u16) {
    a.say(leg_a, number);
    b.hears(a, number, leg_b);
    b.say(leg_b, number);
    a.hears(b, number, leg_a);
}
