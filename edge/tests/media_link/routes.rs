//! Where packets leave, and by which header.

use crate::xdp_support::netns::{Peer, attempt, ip};
use crate::xdp_support::privileged;
use crate::xdp_support::traffic::{DEADLINE, until};
use crate::{ETH_P_ALL, index, ip_address, keep_capabilities, packet_socket};
use rustix::thread::CapabilitySet;
use sip_edge::media::link::routes::{Detour, Path, Routes};
use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, UdpSocket};
use std::process::Command;

const LOCAL: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// This host's address of the family of `host`.
fn local(host: &str) -> IpAddr {
    let [ipv4, ipv6] = LOCAL.map(ip_address);
    if ip_address(host).is_ipv4() {
        ipv4
    } else {
        ipv6
    }
}

fn ask(routes: &mut Routes, host: &str) -> Result<Path, Detour> {
    routes.path(local(host), ip_address(host)).unwrap()
}

/// Has the kernel send a datagram to `host`.
fn send(host: &str) {
    let socket = UdpSocket::bind((local(host), 0)).unwrap();
    socket
        .send_to(b"datagram", (ip_address(host), PORT))
        .unwrap();
}

/// To which nothing but [`send`] sends.
const PORT: u16 = 4321;

/// Asks until the kernel has found the neighbour.
fn known(routes: &mut Routes, host: &str) -> Path {
    send(host);
    until("the neighbour's address", || ask(routes, host).is_ok());
    ask(routes, host).unwrap()
}

/// The first octets of the frame in which the kernel's own datagram to `host` reaches the peer.
fn header_by_kernel(peer: &Peer, host: &str) -> [u8; 14] {
    let mut socket = peer.run(|| packet_socket(ETH_P_ALL, index("peer0")));
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    send(host);
    loop {
        let mut frame = [0; 2048];
        let length = socket.read(&mut frame).expect("the datagram");
        let frame = &frame[..length];
        let sent_here = [&PORT.to_be_bytes()[..], &16u16.to_be_bytes()].concat();
        if frame.ends_with(b"datagram") && frame[length - 14..].starts_with(&sent_here) {
            return frame[..14].try_into().unwrap();
        }
    }
}

/// The kernel's entry for a neighbour by `edge0`, as `ip` writes it.
fn entry(neighbour: &str) -> String {
    let arguments = ["neighbour", "show", "to", neighbour, "dev", "edge0"];
    let output = Command::new("ip").args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn is_unknown(answer: &Result<Path, Detour>) -> bool {
    matches!(answer, Err(Detour::UnknownNeighbour { .. }))
}

#[test]
fn hosts_on_the_link_and_behind_gateways_get_the_header_that_the_kernel_writes() {
    if !privileged("hosts_on_the_link_and_behind_gateways_get_the_header_that_the_kernel_writes") {
        return;
    }
    let peer = Peer::linked();
    ip("route add 203.0.113.0/24 via 192.0.2.20 mtu 1400");
    ip("-6 route add 2001:db8:1::/64 via 2001:db8::20");
    // An IPv4 network behind an IPv6 router.
    ip("route add 198.51.100.0/24 via inet6 2001:db8::30 dev edge0");
    let hosts = [
        ("192.0.2.10", "192.0.2.10", 1500),
        ("2001:db8::10", "2001:db8::10", 1500),
        ("203.0.113.9", "192.0.2.20", 1400),
        ("2001:db8:1::9", "2001:db8::20", 1500),
        ("198.51.100.9", "2001:db8::30", 1500),
    ];
    let mut routes = Routes::open().unwrap();
    for (host, neighbour, mtu) in hosts {
        let unknown = Err(Detour::UnknownNeighbour {
            neighbour: ip_address(neighbour),
            interface: "edge0".to_owned(),
        });
        assert_eq!(ask(&mut routes, host), unknown);
        let path = known(&mut routes, host);
        let expected = Path {
            interface: index("edge0"),
            ethernet: header_by_kernel(&peer, host),
            neighbour: ip_address(neighbour),
            mtu,
        };
        assert_eq!(path, expected, "{host}");
        // The same without a source.
        let any = if ip_address(host).is_ipv4() {
            "0.0.0.0"
        } else {
            "::"
        };
        let path = routes.path(ip_address(any), ip_address(host)).unwrap();
        assert_eq!(path, Ok(expected), "{host} from anywhere");
    }
    let link = routes.link(index("edge0")).unwrap().unwrap();
    assert_eq!((link.name.as_str(), link.mtu), ("edge0", 1500));
    assert!(link.queues >= 1);
    assert_eq!(routes.link(9_999).unwrap(), None);
}

/// What the peer's own address is does not matter here, only what the kernel holds it for.
#[test]
fn a_neighbour_that_moves_is_noticed_and_one_that_stays_is_not() {
    if !privileged("a_neighbour_that_moves_is_noticed_and_one_that_stays_is_not") {
        return;
    }
    let _peer = Peer::linked();
    let mut routes = Routes::open().unwrap();
    for host in ["192.0.2.10", "2001:db8::10"] {
        let known = |state: &str, mac: &str| {
            ip(&format!(
                "neighbour replace {host} lladdr {mac} nud {state} dev edge0"
            ));
        };
        known("reachable", "02:00:00:00:00:0a");
        routes.changed().unwrap();
        let path = ask(&mut routes, host).unwrap();
        assert_eq!(path.ethernet[..6], [2, 0, 0, 0, 0, 0x0a]);
        assert!(!routes.changed().unwrap());
        for state in ["stale", "delay", "permanent", "reachable"] {
            known(state, "02:00:00:00:00:0a");
            assert!(!routes.changed().unwrap(), "{state}");
            assert_eq!(ask(&mut routes, host), Ok(path), "{state}");
        }
        // Somebody else's neighbour.
        let other = if host.contains(':') {
            "2001:db8::77"
        } else {
            "192.0.2.77"
        };
        ip(&format!(
            "neighbour replace {other} lladdr 02:00:00:00:00:77 dev edge0"
        ));
        assert!(!routes.changed().unwrap());

        known("reachable", "02:00:00:00:00:0b");
        assert!(routes.changed().unwrap());
        assert!(!routes.changed().unwrap());
        let moved = ask(&mut routes, host).unwrap();
        assert_eq!(moved.ethernet[..6], [2, 0, 0, 0, 0, 0x0b]);
        assert_eq!(moved.ethernet[6..], path.ethernet[6..]);

        ip(&format!("neighbour del {host} dev edge0"));
        assert!(routes.changed().unwrap());
        assert!(is_unknown(&ask(&mut routes, host)));
        known("reachable", "02:00:00:00:00:0b");
        assert!(routes.changed().unwrap());
        assert_eq!(ask(&mut routes, host), Ok(moved));
    }
}

/// More is told than the socket has room for: what was lost may have been of interest.
#[test]
fn lost_events_count_as_a_change() {
    if !privileged("lost_events_count_as_a_change") {
        return;
    }
    let _peer = Peer::linked();
    let mut routes = Routes::open().unwrap();
    ip("neighbour replace 192.0.2.10 lladdr 02:00:00:00:00:0a dev edge0");
    routes.changed().unwrap();
    let path = ask(&mut routes, "192.0.2.10");
    let batch = tempfile::NamedTempFile::new().unwrap();
    // Somebody else's neighbour, back and forth.
    let line = |n: u32| {
        let side = n % 2;
        format!("neighbour replace 198.18.0.1 lladdr 02:00:00:00:00:0{side} dev edge0\n")
    };
    let fill = |lines: u32| {
        std::fs::write(batch.path(), (0..lines).map(line).collect::<String>()).unwrap();
        ip(&format!("-batch {}", batch.path().display()));
    };
    fill(20);
    assert!(!routes.changed().unwrap());
    fill(20_000);
    assert!(routes.changed().unwrap());
    assert!(!routes.changed().unwrap());
    assert_eq!(ask(&mut routes, "192.0.2.10"), path);
}

#[test]
fn routes_and_interfaces_that_go_are_noticed() {
    if !privileged("routes_and_interfaces_that_go_are_noticed") {
        return;
    }
    let peer = Peer::linked();
    let mut routes = Routes::open().unwrap();
    for (host, network, gateway) in [
        ("203.0.113.9", "203.0.113.0/24", "192.0.2.20"),
        ("2001:db8:1::9", "2001:db8:1::/64", "2001:db8::20"),
    ] {
        assert_eq!(
            ask(&mut routes, host),
            Err(Detour::NoRoute(ip_address(host)))
        );
        ip(&format!(
            "neighbour replace {gateway} lladdr 02:00:00:00:00:0a dev edge0"
        ));
        routes.changed().unwrap();
        let change = |routes: &mut Routes, command: &str| {
            assert!(!routes.changed().unwrap(), "before {command}");
            ip(command);
            assert!(routes.changed().unwrap(), "{command}");
            ask(routes, host)
        };
        let path = change(&mut routes, &format!("route add {network} via {gateway}")).unwrap();
        let inet6 = if host.contains(':') { "-6" } else { "-4" };
        let refused = change(
            &mut routes,
            &format!("{inet6} rule add to {network} prohibit"),
        );
        assert_eq!(refused, Err(Detour::Prohibited(ip_address(host))));
        let again = change(
            &mut routes,
            &format!("{inet6} rule del to {network} prohibit"),
        );
        assert_eq!(again, Ok(path));
        let gone = change(&mut routes, &format!("route del {network} via {gateway}"));
        assert_eq!(gone, Err(Detour::NoRoute(ip_address(host))));
        change(&mut routes, &format!("route add {network} via {gateway}")).unwrap();

        peer.run(|| ip("link set peer0 down"));
        until("the carrier is lost", || {
            ask(&mut routes, host) == Err(Detour::NoCarrier("edge0".to_owned()))
        });
        assert!(routes.changed().unwrap());
        peer.run(|| ip("link set peer0 up"));
        until("there is a carrier", || {
            ask(&mut routes, host).is_ok() || is_unknown(&ask(&mut routes, host))
        });
    }
    routes.changed().unwrap();
    ip("link set edge0 down");
    assert!(routes.changed().unwrap());
    for host in ["192.0.2.10", "203.0.113.9"] {
        let gone = Detour::NoRoute(ip_address(host));
        assert_eq!(ask(&mut routes, host), Err(gone));
    }
    // An IPv6 address goes with its interface.
    for host in ["2001:db8::10", "2001:db8:1::9"] {
        assert_eq!(ask(&mut routes, host), Err(Detour::Source(local(host))));
    }
}

#[test]
fn what_an_ethernet_header_is_not_enough_for_takes_a_detour() {
    if !privileged("what_an_ethernet_header_is_not_enough_for_takes_a_detour") {
        return;
    }
    let _peer = Peer::linked();
    let mut routes = Routes::open().unwrap();
    for kind in [
        "unreachable 203.0.113.1",
        "prohibit 203.0.113.2",
        "blackhole 203.0.113.3",
    ] {
        ip(&format!("route add {kind}"));
    }
    for kind in [
        "unreachable 2001:db8:1::1",
        "prohibit 2001:db8:1::2",
        "blackhole 2001:db8:1::3",
    ] {
        ip(&format!("-6 route add {kind}"));
    }
    type Why = fn(IpAddr) -> Detour;
    let expected: [(&str, Why); 16] = [
        ("203.0.113.1", Detour::Unreachable),
        ("203.0.113.2", Detour::Prohibited),
        ("203.0.113.3", Detour::BlackHole),
        ("203.0.113.4", Detour::NoRoute),
        ("192.0.2.1", Detour::Local),
        ("127.0.0.1", Detour::Local),
        ("192.0.2.255", Detour::NotUnicast),
        ("255.255.255.255", Detour::NotUnicast),
        ("224.0.0.1", Detour::NotUnicast),
        ("2001:db8:1::1", Detour::Unreachable),
        ("2001:db8:1::2", Detour::Prohibited),
        ("2001:db8:1::3", Detour::BlackHole),
        ("2001:db8:1::4", Detour::NoRoute),
        ("2001:db8::1", Detour::Local),
        ("fe80::10", Detour::LinkLocal),
        ("ff05::1", Detour::NotUnicast),
    ];
    for (host, detour) in expected {
        assert_eq!(ask(&mut routes, host), Err(detour(ip_address(host))));
    }
    // Sources that may not be.
    for (source, host) in [("198.51.100.1", "192.0.2.10"), ("127.0.0.1", "192.0.2.10")] {
        let (source, host) = (ip_address(source), ip_address(host));
        let answer = routes.path(source, host).unwrap();
        assert_eq!(answer, Err(Detour::Source(source)));
    }
    let two_families = routes.path(ip_address("192.0.2.1"), ip_address("2001:db8::10"));
    assert_eq!(two_families.unwrap_err().kind(), ErrorKind::InvalidInput);
    ip("link set edge0 arp off");
    let answer = ask(&mut routes, "192.0.2.10");
    assert_eq!(answer, Err(Detour::NoArp("edge0".to_owned())));
}

#[test]
fn routes_with_several_next_hops_take_a_detour() {
    if !privileged("routes_with_several_next_hops_take_a_detour") {
        return;
    }
    let _peer = Peer::linked();
    for host in ["192.0.2.10", "192.0.2.20", "2001:db8::10", "2001:db8::20"] {
        ip(&format!(
            "neighbour replace {host} lladdr 02:00:00:00:00:0a dev edge0"
        ));
    }
    ip("route add 203.0.113.0/24 nexthop via 192.0.2.10 nexthop via 192.0.2.20");
    ip("-6 route add 2001:db8:1::/64 nexthop via 2001:db8::10 nexthop via 2001:db8::20");
    // Next hops that routes share.
    for (id, gateway) in [
        (1, "192.0.2.10"),
        (2, "192.0.2.20"),
        (3, "2001:db8::10"),
        (4, "2001:db8::20"),
    ] {
        ip(&format!("nexthop add id {id} via {gateway} dev edge0"));
    }
    ip("nexthop add id 12 group 1/2");
    ip("nexthop add id 34 group 3/4");
    ip("route add 198.51.100.0/25 nhid 12");
    ip("route add 198.51.100.128/25 nhid 1");
    ip("-6 route add 2001:db8:2::/64 nhid 34");
    ip("-6 route add 2001:db8:3::/64 nhid 3");
    let mut routes = Routes::open().unwrap();
    let by_numbers = "/proc/sys/net/ipv4/nexthop_compat_mode";
    for compatible in ["1", "0"] {
        std::fs::write(by_numbers, compatible).unwrap();
        for host in ["203.0.113.9", "198.51.100.9", "2001:db8:1::9"] {
            let answer = ask(&mut routes, host);
            assert_eq!(answer, Err(Detour::Spread(ip_address(host))));
        }
        for host in ["2001:db8:2::9", "2001:db8:3::9"] {
            let answer = ask(&mut routes, host);
            assert_eq!(answer, Err(Detour::SharedHop(ip_address(host))));
        }
    }
    std::fs::write(by_numbers, "1").unwrap();
    ask(&mut routes, "198.51.100.129").unwrap();
    routes.changed().unwrap();
    ip("nexthop replace id 1 via 192.0.2.30 dev edge0");
    assert!(routes.changed().unwrap());
}

#[test]
fn routes_that_encapsulate_and_interfaces_without_ethernet_take_a_detour() {
    const TEST: &str = "routes_that_encapsulate_and_interfaces_without_ethernet_take_a_detour";
    if !privileged(TEST) {
        return;
    }
    let _peer = Peer::linked();
    let mut routes = Routes::open().unwrap();
    let encapsulated = [
        (
            "2001:db8:5::9",
            "-6 route add 2001:db8:5::/64 encap seg6 mode encap segs 2001:db8::9 dev edge0",
        ),
        (
            "203.0.113.9",
            "route add 203.0.113.0/24 encap ip id 7 dst 192.0.2.9 dev edge0",
        ),
    ];
    for (host, command) in encapsulated {
        match attempt("ip", command) {
            (true, _) => {
                let answer = ask(&mut routes, host);
                assert_eq!(answer, Err(Detour::Encapsulated(ip_address(host))));
            }
            (false, why) => println!("SKIPPED {TEST}: ip {command}: {}", why.trim()),
        }
    }
    match attempt("ip", "tuntap add dev tun0 mode tun") {
        (true, _) => {
            ip("link set tun0 up");
            ip("route add 198.51.100.0/24 dev tun0");
            let answer = ask(&mut routes, "198.51.100.9");
            assert_eq!(answer, Err(Detour::NotEthernet("tun0".to_owned())));
        }
        (false, why) => println!("SKIPPED {TEST}: no tun interface: {}", why.trim()),
    }
}

/// An entry that is stale stays so until somebody sends by it, or says that he did.
#[test]
fn a_stale_neighbour_is_checked_and_others_are_left_alone() {
    if !privileged("a_stale_neighbour_is_checked_and_others_are_left_alone") {
        return;
    }
    let _peer = Peer::linked();
    let mut routes = Routes::open().unwrap();
    for host in ["192.0.2.10", "2001:db8::10"] {
        let path = known(&mut routes, host);
        let mac: Vec<_> = path.ethernet[..6]
            .iter()
            .map(|octet| format!("{octet:02x}"))
            .collect();
        let mac = mac.join(":");
        let set = |state: &str| {
            ip(&format!(
                "neighbour replace {host} lladdr {mac} nud {state} dev edge0"
            ));
        };
        // A permanent one is none any more if it is asked to be checked.
        set("permanent");
        routes.confirm(&path).unwrap();
        assert!(entry(host).ends_with("PERMANENT"), "{}", entry(host));
        // What a routing daemon has learnt is still its own.
        set("stale extern_learn");
        assert!(
            entry(host).ends_with("extern_learn STALE"),
            "{}",
            entry(host)
        );
        routes.changed().unwrap();
        assert_eq!(ask(&mut routes, host), Ok(path));
        routes.confirm(&path).unwrap();
        until("the kernel checks", || {
            ["DELAY", "PROBE", "REACHABLE"]
                .iter()
                .any(|state| entry(host).ends_with(state))
        });
        assert!(entry(host).contains("extern_learn"), "{}", entry(host));
        assert!(entry(host).contains(&mac), "{}", entry(host));
        assert!(!routes.changed().unwrap());
        assert_eq!(ask(&mut routes, host), Ok(path));
        // Nor is one made where there is none.
        ip(&format!("neighbour del {host} dev edge0"));
        routes.confirm(&path).unwrap();
        assert_eq!(entry(host), "");
    }
}

/// Anybody may ask; to have a neighbour checked takes a capability.
#[test]
fn paths_are_anybodys_to_ask_for() {
    if !privileged("paths_are_anybodys_to_ask_for") {
        return;
    }
    let _peer = Peer::linked();
    ip("neighbour replace 192.0.2.10 lladdr 02:00:00:00:00:0a nud stale dev edge0");
    keep_capabilities(CapabilitySet::empty());
    let mut routes = Routes::open().unwrap();
    let path = ask(&mut routes, "192.0.2.10").unwrap();
    let refused = routes.confirm(&path).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    assert!(!routes.changed().unwrap());
}
