//! XDP is taken off by hand while everything goes on: calls, who is refused, and what is none of the edge's business. No verdict is
//! wrong, before, during and after.

use super::veth::{Host, addresses, on_veth};
use super::{is_served, rewrite};
use crate::bpf;
use crate::harness::parties::{agent_answers, caller};
use crate::harness::{Conversation, Counted, Edge, EdgeConfig, Net, Scene, Sipp, Wire, wait};
use crate::traffic::{DEADLINE, connect, echo_server, echoes, knock, ping, udp};
use aya::programs::XdpMode;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Far denser than a phone's: the moment of a detachment is short.
const PACE: Duration = Duration::from_millis(2);
/// Rounds of each kind of traffic that a phase has to see.
const ROUNDS: u64 = 20;
const PACKETS: usize = 20;

/// What has happened so far.
#[derive(Default)]
struct Seen {
    /// Requests of a listed source, answered.
    served: AtomicU64,
    /// Attempts of a stranger that got no answer at all: XDP's doing.
    dropped: AtomicU64,
    /// Those that were closed without a byte: userspace's doing.
    refused: AtomicU64,
    /// Echoes of another service of the host, and replies to pings, of a source that nobody lists.
    other: AtomicU64,
    over: AtomicBool,
}

/// Where everybody is.
#[derive(Clone, Copy)]
struct Places {
    edge: IpAddr,
    listed: IpAddr,
    stranger: IpAddr,
    /// Media ports of the call.
    media: [SocketAddr; 2],
}

impl Places {
    fn sip(&self) -> SocketAddr {
        SocketAddr::new(self.edge, 5060)
    }
}

/// Requests of a listed source, on a connection that stays and on new ones.
fn listed(places: Places, seen: &Seen) {
    let mut stays = Wire::connect(places.listed, places.sip());
    while !seen.over.load(Ordering::Relaxed) {
        is_served(&mut stays, places.sip());
        let mut fresh = Wire::connect(places.listed, places.sip());
        is_served(&mut fresh, places.sip());
        seen.served.fetch_add(1, Ordering::Relaxed);
    }
}

/// A stranger's attempts to connect, and packets to the call's media ports. To a listener of its own, so that what is dropped at
/// the other one is a listed source's. The ping's reply comes behind whatever the SYN is answered with.
fn strangers(places: Places, seen: &Seen) {
    let from = SocketAddr::new(places.stranger, 0).to_string();
    let to = SocketAddr::new(places.edge, 5062).to_string();
    let voice = udp(&from);
    let packet = [0xee; 172];
    while !seen.over.load(Ordering::Relaxed) {
        for port in places.media {
            voice.send_to(&packet, port).expect("sends");
        }
        let attempt = knock(&from, &to);
        ping(&places.stranger.to_string(), &places.edge.to_string(), 3);
        if attempt.peer_addr().is_err() {
            seen.dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        attempt.set_nonblocking(false).expect("a socket option");
        let mut stream = TcpStream::from(attempt);
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        match stream.read(&mut [0; 16]) {
            Ok(0) => {}
            Err(fault) if fault.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("a stranger gets {other:?}"),
        }
        seen.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// What is not the edge's: ICMP and another TCP port.
fn other(places: Places, seen: &Seen) {
    let from = SocketAddr::new(places.stranger, 0).to_string();
    let to = SocketAddr::new(places.edge, 8080).to_string();
    let mut stays = connect(&from, &to);
    while !seen.over.load(Ordering::Relaxed) {
        echoes(&mut stays, b"not for the edge");
        echoes(&mut connect(&from, &to), b"nor this");
        ping(&places.stranger.to_string(), &places.edge.to_string(), 4);
        seen.other.fetch_add(1, Ordering::Relaxed);
    }
}

/// All of it at once, in the calling thread's namespace.
struct Traffic {
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
    call: Conversation,
    parties: [Sipp; 2],
}

impl Traffic {
    fn start(scene: &Scene) -> Traffic {
        let net = &scene.net;
        let (one, another) = (Counted::bind(net.carrier), Counted::bind(net.ai));
        let platform = scene.ai_answers(&agent_answers(another.address()));
        let carrier = scene.carrier_calls(&caller(one.address()));
        let media = [carrier.remote_media(), platform.remote_media()];
        let call = Conversation::begins_at(PACE, (one, media[0]), (another, media[1]));
        call.is_up();
        let places = Places {
            edge: net.edge,
            listed: net.human,
            stranger: net.stranger,
            media,
        };
        let seen = Arc::new(Seen::default());
        let threads = [listed, strangers, other].map(|kind| {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || kind(places, &seen))
        });
        Traffic {
            seen,
            threads: threads.into(),
            call,
            parties: [platform, carrier],
        }
    }

    /// Waits until every kind of traffic has gone on, and strangers were turned away by `refusing`.
    fn goes_on(&self, refusing: &AtomicU64) {
        let seen = &self.seen;
        for count in [&seen.served, &seen.other, refusing] {
            let goal = count.load(Ordering::Relaxed) + ROUNDS;
            wait::until("the traffic goes on", || {
                let ended = self.threads.iter().any(JoinHandle::is_finished);
                assert!(!ended, "some traffic was stopped");
                (count.load(Ordering::Relaxed) >= goal).then_some(())
            });
        }
        self.call.goes_on(PACKETS);
    }

    fn ends(self) {
        self.seen.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no verdict was wrong");
        }
        let sent = self.call.ends();
        let [mut platform, mut carrier] = self.parties;
        platform.cue("ACK");
        platform.passes();
        carrier.passes();
        let counts = [
            &self.seen.served,
            &self.seen.dropped,
            &self.seen.refused,
            &self.seen.other,
        ];
        let counts = counts.map(|count| count.load(Ordering::Relaxed));
        println!(
            "served, dropped, refused, other: {counts:?}; {} packets each way",
            sent
        );
    }
}

/// Listener and reason of what was turned away so far.
fn turned_away(edge: &Edge) -> Vec<String> {
    let metrics = edge.metrics();
    let series = metrics.lines().filter_map(|line| {
        let line = line.strip_prefix("sip_edge_access_dropped_packets_total{")?;
        let (labels, count) = line.split_once('}')?;
        // What may happen is there at zero.
        (count.trim() != "0").then(|| labels.to_owned())
    });
    series.collect()
}

fn is_attached(edge: &Edge, losses: f64) {
    let losses_series = "sip_edge_access_xdp_detached_total{interface=\"edge0\"}";
    wait::until("the loss is noticed", || {
        (edge.metric(losses_series).unwrap_or(0.0) >= losses).then_some(())
    });
    wait::until("XDP is attached", || {
        let metrics = edge.metrics();
        let mut lines = metrics.lines();
        lines
            .any(|line| line.starts_with("sip_edge_access_xdp_attached{") && line.ends_with(" 1"))
            .then_some(())
    });
}

fn detached_under_traffic(scene: &Scene, host: &Host) {
    let edge = &scene.edge;
    is_attached(edge, 0.0);
    host.run({
        let at = SocketAddr::new(scene.net.edge, 8080);
        move || echo_server(&TcpListener::bind(at).expect("a free port"))
    });
    let traffic = Traffic::start(scene);
    let seen = &traffic.seen;
    traffic.goes_on(&seen.dropped);
    // Taken off; it comes back by itself.
    host.run(|| bpf::detach("edge0"));
    is_attached(edge, 1.0);
    traffic.goes_on(&seen.dropped);
    // Taken off, and kept off for a while: userspace alone.
    let keeper = host.run(|| {
        bpf::detach("edge0");
        bpf::Occupied::new("edge0", XdpMode::Skb)
    });
    traffic.goes_on(&seen.refused);
    // A reload in that state changes nothing for anybody.
    rewrite(edge, &[("[cdr]".to_owned(), "# again\n[cdr]".to_owned())]);
    edge.reload();
    traffic.goes_on(&seen.refused);
    host.run(move || drop(keeper));
    is_attached(edge, 2.0);
    traffic.goes_on(&seen.dropped);
    assert!(seen.refused.load(Ordering::Relaxed) > 0);
    traffic.ends();
    // Nobody but strangers was turned away from anywhere. (Without XDP it is the call's sockets, connected once they have latched,
    // that do not take what they send to media ports; the end of the call says that it reached nobody.)
    let mut turned_away = turned_away(edge);
    turned_away.sort();
    assert_eq!(
        turned_away,
        [
            "listener=\"media\",reason=\"stranger\"",
            "listener=\"second\",reason=\"unlisted\""
        ]
    );
    for leg in edge.cdrs(2) {
        assert_eq!(leg["cause"], "completed", "{leg}");
    }
}

/// The usual configuration, with a listener for strangers.
fn config(ipv4: bool) -> EdgeConfig {
    let host = Net::host(addresses(ipv4).edge);
    EdgeConfig {
        tail: format!(
            "[[listen]]\nname = \"second\"\ntransport = \"tcp\"\naddress = \"{host}:5062\"\n"
        ),
        ..EdgeConfig::default()
    }
}

#[test]
fn no_verdict_is_wrong_while_native_xdp_is_taken_off_and_comes_back() {
    let test = "no_verdict_is_wrong_while_native_xdp_is_taken_off_and_comes_back";
    let access = "interfaces = [\"edge0\"]\nmode = \"native\"";
    on_veth(test, true, config(true), access, detached_under_traffic);
}

#[test]
fn no_verdict_is_wrong_while_generic_xdp_is_taken_off_and_comes_back() {
    let test = "no_verdict_is_wrong_while_generic_xdp_is_taken_off_and_comes_back";
    let access = "interfaces = [\"edge0\"]\nmode = \"generic\"";
    on_veth(test, false, config(false), access, detached_under_traffic);
}
