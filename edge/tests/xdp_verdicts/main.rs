//! The verdict of the XDP program for every rule of `ebpf/README.md`, and against an independent model of those rules.

mod packet;
mod property;
#[path = "../xdp_support/mod.rs"]
mod xdp_support;

use edge_proto::config::{Config, Transport};
use ipnet::IpNet;
use sip_edge::access::{FlowSource, MediaGuard};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use xdp_support::kernel::Kernel;
use xdp_support::model::{Model, Open, Verdict};
use xdp_support::{Setup, netns, privileged};

/// What `verdicts.txt` is about.
fn config() -> Config {
    let nets = |list: &[&str]| list.iter().map(|&net| net.to_owned()).collect::<Vec<_>>();
    Setup {
        listeners: vec![
            (Transport::Tcp, "192.0.2.1:5060"),
            (Transport::Tls, "192.0.2.1:5061"),
            (Transport::Udp, "192.0.2.1:5060"),
            (Transport::Tcp, "[2001:db8::1]:5060"),
            (Transport::Tls, "[2001:db8::1]:5061"),
            (Transport::Udp, "[2001:db8::1]:5060"),
            (Transport::Tcp, "0.0.0.0:5070"),
            (Transport::Tcp, "[::]:5070"),
            (Transport::Udp, "192.0.2.1:12000"),
            (Transport::Tcp, "192.0.2.3:5060"),
            (Transport::Tcp, "192.0.2.3:5070"),
        ],
        // The prefixes overlap, and trunks share addresses.
        trunks: vec![
            (nets(&["198.51.100.0/24", "2001:db8:100::/48"]), vec![]),
            (
                nets(&["198.51.100.128/25", "203.0.113.7/32", "2001:db8:100:1::/64"]),
                vec![9, 4],
            ),
            (nets(&["203.0.113.0/24", "2001:db8:200::/40"]), vec![1]),
            (nets(&["233.252.0.0/24"]), vec![10]),
        ],
        media: vec!["192.0.2.1", "2001:db8::1"],
        ports: 10_000..=60_000,
    }
    .config()
}

/// Open media ports: (address of the edge, who may send).
fn open_ports() -> Vec<(SocketAddr, Open)> {
    let open = |local: &str, sources: &[&str]| {
        let sources = sources.iter().map(|text| match text.parse::<IpAddr>() {
            Ok(address) => FlowSource::from(address),
            Err(_) => FlowSource::from(text.parse::<SocketAddr>().unwrap()),
        });
        (local.parse().unwrap(), Open::Sources(sources.collect()))
    };
    vec![
        open("192.0.2.1:10000", &["203.0.113.50", "203.0.113.51"]),
        open("192.0.2.1:10002", &["203.0.113.50:4000"]),
        ("192.0.2.1:10004".parse().unwrap(), Open::Anyone),
        open("192.0.2.1:10006", &[]),
        open("192.0.2.1:10008", &["203.0.113.50"]),
        open(
            "[2001:db8::1]:10000",
            &["2001:db8:300::50", "2001:db8:300::51"],
        ),
        open("[2001:db8::1]:10002", &["[2001:db8:300::50]:4000"]),
        ("[2001:db8::1]:10004".parse().unwrap(), Open::Anyone),
    ]
}

fn by_family(ports: Vec<(SocketAddr, Open)>) -> BTreeMap<(bool, u16), Open> {
    let keyed = ports
        .into_iter()
        .map(|(local, open)| ((local.is_ipv4(), local.port()), open));
    keyed.collect()
}

fn tell(guard: &mut MediaGuard, ports: &[(SocketAddr, Open)]) {
    for (local, open) in ports {
        match open {
            Open::Anyone => guard.allow_any(*local),
            Open::Sources(sources) => guard.allow_latching(*local, sources),
        }
    }
}

/// The host's own sockets.
struct HostSockets {
    _bound: Vec<UdpSocket>,
    unconnected: Vec<SocketAddr>,
    /// (own address, server)
    connected: Vec<(SocketAddr, SocketAddr)>,
}

fn host_sockets() -> HostSockets {
    for address in ["192.0.2.1/32", "2001:db8::1/128"] {
        netns::ip(&format!("address add {address} dev lo nodad"));
    }
    netns::ip("route add 203.0.113.53/32 dev lo");
    let unconnected = [
        "192.0.2.1:33000",
        "0.0.0.0:33002",
        "[2001:db8::1]:33000",
        "[::]:33004",
    ];
    let mut bound: Vec<_> = unconnected.map(|a| UdpSocket::bind(a).unwrap()).into();
    let unconnected = unconnected.map(|a| a.parse().unwrap()).into();
    let connected = UdpSocket::bind("192.0.2.1:33006").unwrap();
    connected.connect("203.0.113.53:53").unwrap();
    let addresses = (
        connected.local_addr().unwrap(),
        connected.peer_addr().unwrap(),
    );
    bound.push(connected);
    HostSockets {
        _bound: bound,
        unconnected,
        connected: vec![addresses],
    }
}

/// Makes the host a router; what it routes on.
fn route_on() -> Vec<IpNet> {
    for file in ["ipv4/conf/lo", "ipv6/conf/lo", "ipv6/conf/all"] {
        std::fs::write(format!("/proc/sys/net/{file}/forwarding"), "1").unwrap();
    }
    let routed = ["198.18.0.0/15", "2001:db8:f000::/36"];
    for net in routed {
        netns::ip(&format!("route add {net} dev lo"));
    }
    routed.map(|net| net.parse().unwrap()).into()
}

fn written(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Pass => "pass".to_owned(),
        Verdict::Drop(listener, reason) => format!("drop {listener} {}", reason.as_str()),
    }
}

#[test]
fn every_rule_has_its_verdict() {
    if !privileged("every_rule_has_its_verdict") {
        return;
    }
    let config = config();
    let mut kernel = Kernel::load(&config);
    let sockets = host_sockets();
    tell(&mut kernel.guard, &open_ports());
    let model = Model {
        config: &config,
        open: by_family(open_ports()),
        sockets: sockets.unconnected.clone(),
        connected: sockets.connected.clone(),
        routed: route_on(),
    };
    let mut wrong = Vec::new();
    let mut lines = 0;
    for line in include_str!("verdicts.txt").lines() {
        if line.is_empty() || line.starts_with('#') || line.starts_with("==") {
            continue;
        }
        let columns: Vec<&str> = line.split(" |").map(str::trim).collect();
        let [name, packet, expected] = columns.as_slice() else {
            panic!("not a line of the table: {line}");
        };
        lines += 1;
        let frame = packet::parse(packet).bytes();
        let real = written(&kernel.verdict(&frame));
        let modelled = written(&model.verdict(&frame));
        if real != *expected || modelled != *expected {
            wrong.push(format!(
                "{name}: expected {expected}, is {real}, the model says {modelled}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{lines} verdicts");
}
