//! The filter on a veth pair between two network namespaces, with real sockets on both sides.

mod capabilities;
mod daemon;
mod detached;
mod forwarded;
mod reload;
#[path = "../xdp_support/mod.rs"]
mod xdp_support;

use edge_proto::config::{Config, Transport};
use sip_edge::access::{Access, AccessOptions, AttachMode, InterfaceState, Mode, Reason};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};
use xdp_support::netns::Peer;
use xdp_support::traffic::{connect, echo_server, echoes, knock, ping, receive, udp, until};
use xdp_support::{Setup, privileged};

/// .10 is listed, .20 and .30 are not.
fn setup() -> Setup {
    Setup {
        listeners: vec![
            (Transport::Tcp, "192.0.2.1:5060"),
            (Transport::Tls, "192.0.2.1:5061"),
            (Transport::Udp, "192.0.2.1:5060"),
            (Transport::Tcp, "[2001:db8::1]:5060"),
            (Transport::Tls, "[2001:db8::1]:5061"),
            (Transport::Udp, "[2001:db8::1]:5060"),
        ],
        trunks: vec![(
            vec!["192.0.2.10/32".to_owned(), "2001:db8::10/128".to_owned()],
            vec![],
        )],
        media: vec!["192.0.2.1", "2001:db8::1"],
        ports: 10_000..=60_000,
    }
}

fn options(mode: Mode) -> AccessOptions {
    AccessOptions {
        interfaces: vec!["edge0".to_owned()],
        mode,
        pins: None,
    }
}

/// An access filter on `edge0` that is attached as it was asked to be.
fn start(config: &Config, mode: Mode) -> Access {
    let access = Access::start(config, options(mode));
    let expected = match mode {
        Mode::Generic => AttachMode::Generic,
        _ => AttachMode::Native,
    };
    let status = access.view().get();
    assert!(status.is_complete(), "{status}");
    assert_eq!(
        status.interfaces[0].state,
        InterfaceState::Attached {
            mode: expected,
            pinned: false
        }
    );
    access
}

/// Drops counted so far.
fn drops(access: &mut Access, listener: &str, reason: Reason) -> u64 {
    access.poll();
    let status = access.view().get();
    let counted = status
        .drops
        .iter()
        .find(|drop| drop.listener == listener && drop.reason == reason);
    counted.map_or(0, |drop| drop.packets)
}

const HOSTS: [(&str, &str, &str); 2] = [
    ("192.0.2.1", "192.0.2.10", "192.0.2.20"),
    ("[2001:db8::1]", "[2001:db8::10]", "[2001:db8::20]"),
];

fn bare(host: &str) -> String {
    host.trim_matches(['[', ']']).to_owned()
}

/// TCP and TLS listeners: who is listed talks, nobody else gets an answer.
fn streams(access: &mut Access, peer: &Peer) {
    for (edge, listed, unlisted) in HOSTS {
        for (transport, port) in [("tcp", 5060), ("tls", 5061)] {
            let address = format!("{edge}:{port}");
            let listener = TcpListener::bind(&address).unwrap();
            let (from, to) = (format!("{listed}:0"), address.clone());
            let pending = peer.start(move || {
                let mut stream = connect(&from, &to);
                echoes(&mut stream, b"OPTIONS");
            });
            let (stream, _) = listener.accept().unwrap();
            std::io::copy(&mut &stream, &mut &stream).unwrap();
            pending.get();

            let name = format!("{transport}:{address}");
            assert_eq!(drops(access, &name, Reason::Unlisted), 0);
            let (from, to) = (format!("{unlisted}:0"), address.clone());
            let knocker = peer.run(move || knock(&from, &to));
            until("a dropped SYN", || {
                drops(access, &name, Reason::Unlisted) > 0
            });
            assert_eq!(
                knocker.peer_addr().unwrap_err().kind(),
                ErrorKind::NotConnected
            );
            listener.set_nonblocking(true).unwrap();
            let fault = listener.accept().unwrap_err();
            assert_eq!(fault.kind(), ErrorKind::WouldBlock);
        }
    }
}

/// A UDP listener hears the listed source alone.
fn datagrams(access: &mut Access, peer: &Peer) {
    for (edge, listed, unlisted) in HOSTS {
        let address = format!("{edge}:5060");
        let socket = udp(&address);
        let [from, not_from] = [listed, unlisted].map(|host| format!("{host}:0"));
        let to = address.clone();
        let sent_from = peer.run(move || {
            udp(&not_from).send_to(b"unlisted", &to).unwrap();
            let socket = udp(&from);
            socket.send_to(b"listed", &to).unwrap();
            socket.local_addr().unwrap()
        });
        // Packets of a veth pair stay in order.
        assert_eq!(receive(&socket), (b"listed".to_vec(), sent_from));
        let name = format!("udp:{address}");
        assert_eq!(drops(access, &name, Reason::Unlisted), 1);
    }
}

/// Media ports: latching, latched, closed, and sockets of the host in the same range.
fn media(access: &mut Access, peer: &Peer) {
    let mut guard = access.media_guard();
    let mut strangers = 0;
    for (edge, host, stranger) in HOSTS {
        let local: SocketAddr = format!("{edge}:10000").parse().unwrap();
        let described: IpAddr = "203.0.113.1".parse().unwrap();
        let signalling: IpAddr = bare(host).parse().unwrap();
        guard.allow_latching(local, &[described.into(), signalling.into()]);
        let socket = udp(&local.to_string());
        let (from, not_from) = (format!("{host}:4000"), format!("{stranger}:4000"));
        let (mine, other) = peer.run(move || (udp(&from), udp(&not_from)));
        let send = |from: &std::net::UdpSocket, text: &[u8]| {
            from.send_to(text, local).unwrap();
        };
        send(&other, b"stranger");
        send(&mine, b"latching");
        assert_eq!(receive(&socket).0, b"latching");
        guard.allow_exact(local, mine.local_addr().unwrap());
        send(&other, b"stranger");
        let elsewhere = format!("{host}:4002");
        let moved = peer.run(move || udp(&elsewhere));
        send(&moved, b"another port");
        send(&mine, b"latched");
        assert_eq!(receive(&socket).0, b"latched");
        strangers += 3;
        assert_eq!(drops(access, "media", Reason::Stranger), strangers);
        drop(socket);
        guard.remove(local);
        send(&mine, b"closed");

        // An answer to the host's own question, to a port in the media range.
        let client = udp(&format!("{edge}:33000"));
        let server_at = format!("{host}:53");
        let server = peer.run({
            let at = server_at.clone();
            move || udp(&at)
        });
        client.send_to(b"question", &server_at).unwrap();
        let (_, asked_by) = receive(&server);
        server.send_to(b"answer", asked_by).unwrap();
        assert_eq!(receive(&client).0, b"answer");
    }
    assert_eq!(drops(access, "media", Reason::Unallocated), 2);
}

/// What is not the edge's: ICMP and another TCP port, from a host that nobody lists.
fn other_traffic(peer: &Peer) {
    for (edge, _, unlisted) in HOSTS {
        let listener = TcpListener::bind(format!("{edge}:8080")).unwrap();
        echo_server(&listener);
        peer.run(move || {
            ping(&bare(unlisted), &bare(edge), 1);
            let mut stream = connect(&format!("{unlisted}:0"), &format!("{edge}:8080"));
            echoes(&mut stream, b"not for the edge");
        });
    }
}

fn everything(mode: Mode) {
    let config = setup().config();
    let peer = Peer::linked();
    let mut access = start(&config, mode);
    streams(&mut access, &peer);
    datagrams(&mut access, &peer);
    media(&mut access, &peer);
    other_traffic(&peer);
    drop(access);
    // Detached: the kernel answers for itself again.
    let listener = TcpListener::bind("192.0.2.1:5060").unwrap();
    peer.run(|| connect("192.0.2.20:0", "192.0.2.1:5060"));
    listener.accept().unwrap();
}

#[test]
fn native_xdp_lets_in_who_is_listed_and_nobody_else() {
    if privileged("native_xdp_lets_in_who_is_listed_and_nobody_else") {
        everything(Mode::Native);
    }
}

#[test]
fn generic_xdp_lets_in_who_is_listed_and_nobody_else() {
    if privileged("generic_xdp_lets_in_who_is_listed_and_nobody_else") {
        everything(Mode::Generic);
    }
}
