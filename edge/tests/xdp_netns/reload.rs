//! Reloads under traffic: no verdict is wrong, either way.

use crate::xdp_support::netns::Peer;
use crate::xdp_support::privileged;
use crate::xdp_support::traffic::{connect, echo_server, echoes, ping, receive, udp};
use crate::{bare, drops, options, setup, start};
use edge_proto::config::Config;
use sip_edge::access::{Access, FlowSource, Mode, Reason};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const RELOADS: usize = 60;

/// The same sources listed in two ways: other trunks with other numbers, and thousands of other prefixes around them.
fn configurations() -> [Config; 2] {
    let mut other = setup();
    let crowd = |network: u32| {
        (0..3_000u32).map(move |n| format!("10.{network}.{}.{}/32", n / 250, n % 250))
    };
    other.trunks.insert(0, (crowd(1).collect(), vec![]));
    other
        .trunks
        .insert(0, (vec!["192.0.2.0/28".to_owned()], vec![2, 5]));
    let mut first = setup();
    first.trunks.push((crowd(2).collect(), vec![]));
    [first.config(), other.config()]
}

/// A UDP socket of the edge that sends everything back.
fn echo_datagrams(socket: UdpSocket, unwanted: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((length, source)) = socket.recv_from(&mut bytes) {
            if bytes.starts_with(b"unlisted") {
                unwanted.fetch_add(1, Ordering::Relaxed);
            }
            let _ = socket.send_to(&bytes[..length], source);
        }
    });
}

/// One family's traffic, all of it in every round.
struct Parties {
    edge: &'static str,
    listed: &'static str,
    unlisted: &'static str,
}

const PARTIES: [Parties; 2] = [
    Parties {
        edge: "192.0.2.1",
        listed: "192.0.2.10",
        unlisted: "192.0.2.20",
    },
    Parties {
        edge: "[2001:db8::1]",
        listed: "[2001:db8::10]",
        unlisted: "[2001:db8::20]",
    },
];

/// Rounds of traffic until told to stop; returns how many. Every packet of a listed source is answered before the next is sent,
/// so one that was dropped stops the traffic, and the packet of the unlisted source before it has been judged, too.
fn traffic(parties: &Parties, stop: &AtomicBool) -> u64 {
    let Parties {
        edge,
        listed,
        unlisted,
    } = *parties;
    let at = |port: u16| format!("{edge}:{port}");
    let mut signalling = connect(&format!("{listed}:0"), &at(5060));
    let mut other = connect(&format!("{unlisted}:0"), &at(8080));
    let [known, unknown] = [listed, unlisted].map(|host| udp(&format!("{host}:0")));
    let [speaker, stranger] = [listed, unlisted].map(|host| udp(&format!("{host}:4000")));
    let ask = |socket: &UdpSocket, port: u16, text: &[u8]| {
        socket.send_to(text, at(port)).unwrap();
        assert_eq!(receive(socket).0, text);
    };
    let mut rounds = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let number = rounds.to_be_bytes();
        unknown.send_to(b"unlisted", at(5060)).unwrap();
        ask(&known, 5060, &number);
        stranger.send_to(b"unlisted", at(10_000)).unwrap();
        ask(&speaker, 10_000, &number);
        echoes(&mut signalling, &number);
        echoes(&mut other, &number);
        ping(&bare(unlisted), &bare(edge), 7);
        if rounds.is_multiple_of(16) {
            connect(&format!("{listed}:0"), &at(5061));
        }
        rounds += 1;
    }
    rounds
}

/// The edge's sockets. Returns what counts the packets that should never have arrived.
fn serve(access: &Access) -> Arc<AtomicU64> {
    let unwanted = Arc::new(AtomicU64::new(0));
    let mut guard = access.media_guard();
    for Parties { edge, listed, .. } in &PARTIES {
        for port in [5060, 5061, 8080] {
            echo_server(&TcpListener::bind(format!("{edge}:{port}")).unwrap());
        }
        let media: SocketAddr = format!("{edge}:10000").parse().unwrap();
        let source: SocketAddr = format!("{listed}:4000").parse().unwrap();
        guard.allow_latching(media, &[FlowSource::from(source)]);
        for socket in [udp(&format!("{edge}:5060")), udp(&media.to_string())] {
            echo_datagrams(socket, Arc::clone(&unwanted));
        }
    }
    unwanted
}

fn reload_under_traffic(mode: Mode) {
    let configurations = configurations();
    let peer = Peer::linked();
    let mut access = start(&configurations[0], mode);
    let unwanted = serve(&access);
    let stop = Arc::new(AtomicBool::new(false));
    let halt = Arc::clone(&stop);
    let pending = peer.start(move || {
        // Both families on threads of the same namespace.
        std::thread::scope(|scope| {
            let [v4, v6] = PARTIES.each_ref().map(|parties| {
                let stop = &halt;
                scope.spawn(move || traffic(parties, stop))
            });
            [v4.join().unwrap(), v6.join().unwrap()]
        })
    });
    for reload in 0..RELOADS {
        let config = &configurations[(reload + 1) % 2];
        access.apply(config, options(mode));
        let status = access.view().get();
        assert!(status.is_complete(), "{status}");
    }
    stop.store(true, Ordering::Relaxed);
    let rounds = pending.get();
    println!("{rounds:?} rounds of traffic during {RELOADS} reloads");
    assert!(rounds.iter().all(|rounds| *rounds > 0));
    assert_eq!(
        unwanted.load(Ordering::Relaxed),
        0,
        "unlisted packets that arrived"
    );
    // Every packet of an unlisted source was dropped and counted, and no other.
    for (Parties { edge, .. }, rounds) in PARTIES.iter().zip(rounds) {
        let udp = format!("udp:{edge}:5060");
        assert_eq!(drops(&mut access, &udp, Reason::Unlisted), rounds);
        for listener in [format!("tcp:{edge}:5060"), format!("tls:{edge}:5061")] {
            assert_eq!(
                drops(&mut access, &listener, Reason::Unlisted),
                0,
                "{listener}"
            );
        }
    }
    assert_eq!(
        drops(&mut access, "media", Reason::Stranger),
        rounds.iter().sum::<u64>()
    );
}

#[test]
fn no_verdict_is_wrong_while_native_xdp_is_reloaded() {
    if privileged("no_verdict_is_wrong_while_native_xdp_is_reloaded") {
        reload_under_traffic(Mode::Native);
    }
}

#[test]
fn no_verdict_is_wrong_while_generic_xdp_is_reloaded() {
    if privileged("no_verdict_is_wrong_while_generic_xdp_is_reloaded") {
        reload_under_traffic(Mode::Generic);
    }
}

#[test]
fn media_is_guarded_as_it_was_at_the_start_whatever_a_reload_says() {
    if !privileged("media_is_guarded_as_it_was_at_the_start_whatever_a_reload_says") {
        return;
    }
    let mut setup = setup();
    setup.ports = 20_000..=20_999;
    let peer = Peer::linked();
    let mut access = start(&setup.config(), Mode::Native);
    let mut other = setup;
    other.media = vec!["2001:db8::1"];
    other.ports = 30_000..=30_999;
    access.apply(&other.config(), options(Mode::Native));
    let mut guard = access.media_guard();
    for (n, Parties { edge, listed, .. }) in (1..).zip(&PARTIES) {
        let [old, new] = [20_000, 30_000].map(|port| format!("{edge}:{port}"));
        let local: SocketAddr = old.parse().unwrap();
        guard.allow_latching(local, &[FlowSource::from(local.ip())]);
        let outside = udp(&new);
        let (listed, to) = (format!("{listed}:4000"), new.clone());
        peer.run(move || {
            let socket = udp(&listed);
            // Not from where it may come.
            socket.send_to(b"stranger", &old).unwrap();
            socket.send_to(b"no media", &to).unwrap();
        });
        assert_eq!(receive(&outside).0, b"no media");
        // Packets of a veth pair stay in order.
        assert_eq!(drops(&mut access, "media", Reason::Stranger), n);
        assert_eq!(drops(&mut access, "media", Reason::Unallocated), 0);
    }
}
