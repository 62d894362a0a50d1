//! Wildcard listeners and media on a host that routes: what is for the host is judged, whatever address it is for, and what is for
//! another host passes, whatever port it is for.

use crate::xdp_support::netns::{Peer, ip};
use crate::xdp_support::traffic::{connect, echo_server, echoes, knock, ping, receive, udp, until};
use crate::xdp_support::{Setup, privileged};
use crate::{bare, drops, options};
use edge_proto::config::Transport;
use sip_edge::access::{Access, Mode, Reason};
use std::net::{SocketAddr, TcpListener};

fn setup() -> Setup {
    Setup {
        listeners: vec![
            (Transport::Tcp, "0.0.0.0:5060"),
            (Transport::Udp, "0.0.0.0:5060"),
            (Transport::Tcp, "[::]:5060"),
            (Transport::Udp, "[::]:5060"),
        ],
        trunks: vec![(
            vec!["192.0.2.10/32".to_owned(), "2001:db8::10/128".to_owned()],
            vec![],
        )],
        media: vec!["0.0.0.0", "::"],
        ports: 10_000..=60_999,
    }
}

/// One family: addresses of the host on either side, a host inside, who is listed and who is not.
struct Places {
    wildcard: &'static str,
    edge: [&'static str; 2],
    inside: &'static str,
    listed: &'static str,
    unlisted: &'static str,
}

const PLACES: [Places; 2] = [
    Places {
        wildcard: "0.0.0.0",
        edge: ["192.0.2.1", "203.0.113.1"],
        inside: "203.0.113.9",
        listed: "192.0.2.10",
        unlisted: "192.0.2.20",
    },
    Places {
        wildcard: "[::]",
        edge: ["[2001:db8::1]", "[2001:db8:1::1]"],
        inside: "[2001:db8:1::9]",
        listed: "[2001:db8::10]",
        unlisted: "[2001:db8::20]",
    },
];

/// The host between `outside`, which [`Peer::linked`] made, and a network inside.
fn route(outside: &Peer) -> Peer {
    let (inside, thread) = Peer::alone();
    ip(&format!(
        "link add edge1 type veth peer name inside0 netns {thread}"
    ));
    ip("address add 203.0.113.1/24 dev edge1");
    ip("address add 2001:db8:1::1/64 dev edge1 nodad");
    ip("link set edge1 up");
    for forwarding in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{forwarding}"), "1").unwrap();
    }
    inside.run(|| {
        ip("address add 203.0.113.9/24 dev inside0");
        ip("address add 2001:db8:1::9/64 dev inside0 nodad");
        ip("link set inside0 up");
        ip("route add default via 203.0.113.1");
        ip("-6 route add default via 2001:db8:1::1");
    });
    outside.run(|| {
        ip("route add 203.0.113.0/24 via 192.0.2.1");
        ip("-6 route add 2001:db8:1::/64 via 2001:db8::1");
    });
    inside
}

/// Ports of the host inside that are the edge's here: of a listener, and of media.
const UDP_PORTS: [u16; 2] = [5060, 20_000];

/// The host inside answers on the edge's ports.
fn serve(inside: &Peer) {
    inside.run(|| {
        for Places { inside, .. } in &PLACES {
            echo_server(&TcpListener::bind(format!("{inside}:5060")).unwrap());
            for port in UDP_PORTS {
                let socket = udp(&format!("{inside}:{port}"));
                std::thread::spawn(move || {
                    let mut bytes = [0; 2048];
                    while let Ok((length, source)) = socket.recv_from(&mut bytes) {
                        let _ = socket.send_to(&bytes[..length], source);
                    }
                });
            }
        }
    });
}

/// Whoever is not listed reaches the host inside, on every port.
fn passes(outside: &Peer, places: &'static Places) {
    outside.run(|| {
        let Places {
            inside, unlisted, ..
        } = places;
        ping(&bare(unlisted), &bare(inside), 1);
        let mut stream = connect(&format!("{unlisted}:0"), &format!("{inside}:5060"));
        echoes(&mut stream, b"not for the edge");
        // The answers' port is in the media range.
        let socket = udp(&format!("{unlisted}:40000"));
        for port in UDP_PORTS {
            let to = format!("{inside}:{port}");
            socket.send_to(b"nor this", &to).unwrap();
            assert_eq!(receive(&socket).0, b"nor this", "{to}");
        }
    });
}

/// To an address of the host itself, listed sources are let in and others dropped.
fn is_guarded(access: &mut Access, outside: &Peer, places: &'static Places, edge: &'static str) {
    let Places {
        wildcard,
        listed,
        unlisted,
        ..
    } = places;
    let to = format!("{edge}:5060");
    outside.run({
        let to = to.clone();
        move || echoes(&mut connect(&format!("{listed}:0"), &to), b"OPTIONS")
    });
    let name = format!("tcp:{wildcard}:5060");
    let before = drops(access, &name, Reason::Unlisted);
    let _knocker = outside.run(move || knock(&format!("{unlisted}:0"), &to));
    until("a dropped SYN", || {
        drops(access, &name, Reason::Unlisted) > before
    });
    let datagrams = format!("udp:{wildcard}:5060");
    let before = [
        drops(access, &datagrams, Reason::Unlisted),
        drops(access, "media", Reason::Unallocated),
    ];
    outside.run(move || {
        let socket = udp(&format!("{unlisted}:0"));
        for port in UDP_PORTS {
            let to: SocketAddr = format!("{edge}:{port}").parse().unwrap();
            socket.send_to(b"unlisted", to).unwrap();
        }
    });
    until("dropped datagrams", || {
        let after = [
            drops(access, &datagrams, Reason::Unlisted),
            drops(access, "media", Reason::Unallocated),
        ];
        after == before.map(|count| count + 1)
    });
}

fn on_a_router(mode: Mode) {
    let outside = Peer::linked();
    let inside = route(&outside);
    serve(&inside);
    for Places { wildcard, .. } in &PLACES {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(format!("{wildcard}:5060").parse().unwrap()),
            socket2::Type::STREAM,
            None,
        )
        .unwrap();
        if *wildcard == "[::]" {
            socket.set_only_v6(true).unwrap();
        }
        let address: SocketAddr = format!("{wildcard}:5060").parse().unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(64).unwrap();
        echo_server(&socket.into());
    }
    let mut asked = options(mode);
    asked.interfaces.push("edge1".to_owned());
    let mut access = Access::start(&setup().config(), asked);
    let status = access.view().get();
    assert!(status.is_complete(), "{status}");
    for places in &PLACES {
        passes(&outside, places);
        for edge in places.edge {
            is_guarded(&mut access, &outside, places, edge);
        }
        passes(&outside, places);
    }
}

#[test]
fn native_xdp_on_a_router_judges_what_is_for_the_host_alone() {
    if privileged("native_xdp_on_a_router_judges_what_is_for_the_host_alone") {
        on_a_router(Mode::Native);
    }
}

#[test]
fn generic_xdp_on_a_router_judges_what_is_for_the_host_alone() {
    if privileged("generic_xdp_on_a_router_judges_what_is_for_the_host_alone") {
        on_a_router(Mode::Generic);
    }
}
