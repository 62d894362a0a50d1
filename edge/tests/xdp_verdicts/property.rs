//! Random packets, valid and mangled, under random configurations: the program and the model agree.

use crate::xdp_support::frame::*;
use crate::xdp_support::kernel::Kernel;
use crate::xdp_support::model::{Model, Open, Verdict};
use crate::xdp_support::{Setup, privileged};
use crate::{by_family, host_sockets, open_ports, tell};
use edge_proto::config::{Config, Transport};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{TestCaseError, TestRunner};
use sip_edge::access::Reason;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const ADDRESSES4: [&str; 10] = [
    "192.0.2.1",
    "192.0.2.2",
    "192.0.2.3",
    "198.51.100.0",
    "198.51.100.127",
    "198.51.100.255",
    "203.0.113.50",
    "203.0.113.53",
    "0.0.0.0",
    "255.255.255.255",
];
const ADDRESSES6: [&str; 9] = [
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8:100::",
    "2001:db8:100:0:8000::",
    "2001:db8:100:ffff:ffff:ffff:ffff:ffff",
    "2001:db8:300::50",
    "::ffff:198.51.100.7",
    "::",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
];
const PORTS: [u16; 17] = [
    53, 4000, 5060, 5061, 5070, 9_999, 10_000, 10_002, 10_004, 10_006, 10_008, 33_000, 33_002,
    33_004, 33_006, 60_000, 60_001,
];

fn v4() -> impl Strategy<Value = Ipv4Addr> {
    let known = select(&ADDRESSES4[..]).prop_map(|text| text.parse().unwrap());
    prop_oneof![8 => known, 1 => any::<u32>().prop_map(Ipv4Addr::from)]
}

fn v6() -> impl Strategy<Value = Ipv6Addr> {
    let known = select(&ADDRESSES6[..]).prop_map(|text| text.parse().unwrap());
    prop_oneof![8 => known, 1 => any::<u128>().prop_map(Ipv6Addr::from)]
}

/// Mostly addresses of the edge.
fn destination4() -> impl Strategy<Value = Ipv4Addr> {
    let edge = select(&ADDRESSES4[..3]).prop_map(|text| text.parse().unwrap());
    prop_oneof![4 => edge, 1 => v4()]
}

fn destination6() -> impl Strategy<Value = Ipv6Addr> {
    let edge = select(&ADDRESSES6[..2]).prop_map(|text| text.parse().unwrap());
    prop_oneof![4 => edge, 1 => v6()]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![8 => select(&PORTS[..]), 1 => any::<u16>()]
}

fn prefix() -> impl Strategy<Value = String> {
    let v4 = (v4(), 0u8..=32).prop_map(|(ip, length)| format!("{ip}/{length}"));
    let v6 = (v6(), 0u8..=128).prop_map(|(ip, length)| format!("{ip}/{length}"));
    prop_oneof![v4, v6]
}

fn setup() -> impl Strategy<Value = Config> {
    let transport = select(&[Transport::Tcp, Transport::Tls, Transport::Udp][..]);
    let address = select(
        &[
            "192.0.2.1:5060",
            "192.0.2.1:5061",
            "192.0.2.2:5060",
            "192.0.2.1:10002",
            "0.0.0.0:5060",
            "0.0.0.0:5070",
            "[2001:db8::1]:5060",
            "[2001:db8::1]:10002",
            "[2001:db8::2]:5060",
            "[::]:5060",
            "[::]:5070",
        ][..],
    );
    let listeners = proptest::collection::btree_set((transport, address), 0..16);
    let media4 = select(&[None, Some("192.0.2.1"), Some("192.0.2.1"), Some("0.0.0.0")][..]);
    let media6 = select(&[None, Some("2001:db8::1"), Some("2001:db8::1"), Some("::")][..]);
    let trunks = vec((vec(prefix(), 0..6), vec(0u16..16, 0..6)), 0..6);
    (listeners, trunks, media4, media6).prop_map(|(listeners, trunks, media4, media6)| {
        let count = u16::try_from(listeners.len()).unwrap();
        Setup {
            listeners: listeners.into_iter().collect(),
            trunks: trunks
                .into_iter()
                .map(|(allow, mut listen)| {
                    listen.retain(|listener| *listener < count);
                    (allow, listen)
                })
                .collect(),
            media: media4.into_iter().chain(media6).collect(),
            ports: 10_000..=60_000,
        }
        .config()
    })
}

fn extension() -> impl Strategy<Value = Extension> {
    let kind = select(&[HOP_BY_HOP, ROUTING, FRAGMENT, AH, DESTINATION, ESP][..]);
    prop_oneof![
        3 => (1u8..4).prop_map(|units| Extension::options(DESTINATION, units)),
        1 => (1u8..4).prop_map(|units| Extension::options(HOP_BY_HOP, units)),
        2 => (select(&[0u16, 0, 1, 2][..]), any::<bool>())
            .prop_map(|(offset, more)| Extension::fragment(offset, more)),
        1 => (0u8..3, v6()).prop_map(|(left, via)| Extension::routing(4, left, via)),
        1 => (0u8..5).prop_map(|words| Extension::authentication(words * 4)),
        1 => (kind, vec(any::<u8>(), 0..24)).prop_map(|(kind, bytes)| Extension { kind, bytes }),
    ]
}

fn options() -> impl Strategy<Value = Vec<u8>> {
    let words = vec(
        prop_oneof![
            Just([1, 1, 1, 1]),
            Just([7, 4, 4, 0]),
            Just([131, 4, 4, 0]),
            Just([0, 137, 4, 0]),
            any::<[u8; 4]>(),
        ],
        0..=10,
    );
    prop_oneof![4 => Just(Vec::new()), 1 => words.prop_map(|words| words.concat())]
}

/// What can lie about a packet: (IP version, IPv4 header words, stated length, where the frame ends).
type Lies = (Option<u8>, Option<u8>, Option<u16>, Option<usize>);

fn lies() -> impl Strategy<Value = Lies> {
    let length = prop_oneof![0u16..80, Just(u16::MAX), Just(0)];
    (
        weighted(0.02, 0u8..16),
        weighted(0.05, 0u8..16),
        weighted(0.15, length),
        weighted(0.15, 14usize..120),
    )
}

fn described() -> impl Strategy<Value = Packet> {
    let addresses = prop_oneof![
        (v4(), destination4()).prop_map(|(a, b)| (IpAddr::V4(a), IpAddr::V4(b))),
        (v6(), destination6()).prop_map(|(a, b)| (IpAddr::V6(a), IpAddr::V6(b))),
    ];
    let protocol = prop_oneof![
        5 => Just(TCP),
        5 => Just(UDP),
        1 => select(&[ICMP, ICMPV6, ESP, AH, NO_NEXT][..]),
    ];
    let tags = prop_oneof![
        5 => Just(Vec::new()),
        1 => vec(select(&[DOT1Q, DOT1AD, 0x9100][..]), 0..6),
    ];
    let fragment = prop_oneof![
        4 => Just((0, false)),
        1 => (select(&[0u16, 1, 2, 0x1fff, 0x4000][..]), any::<bool>()),
    ];
    let extensions = prop_oneof![2 => Just(Vec::new()), 1 => vec(extension(), 0..11)];
    let shape = (tags, fragment, options(), extensions);
    (
        addresses,
        protocol,
        port(),
        port(),
        shape,
        lies(),
        0usize..24,
    )
        .prop_map(
            |((source, destination), protocol, from, to, shape, lies, payload)| {
                // The text is the constructor's; the addresses are set right below.
                let mut packet = Packet::new(protocol, ("0.0.0.0", from), ("0.0.0.0", to));
                (packet.source, packet.destination) = (source, destination);
                (
                    packet.tags,
                    packet.fragment,
                    packet.options,
                    packet.extensions,
                ) = shape;
                (
                    packet.version,
                    packet.header_words,
                    packet.length,
                    packet.cut,
                ) = lies;
                if source.is_ipv6() {
                    packet.options.clear();
                } else {
                    packet.extensions.retain(|extension| extension.kind == AH);
                }
                packet
                    .payload
                    .truncate(packet.payload.len().min(payload.max(4)));
                packet
            },
        )
}

/// A frame, mangled now and then. The kernel runs nothing shorter than an Ethernet header.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let mangled = vec((12usize..120, any::<u8>()), 1..4);
    (described(), weighted(0.3, mangled)).prop_map(|(packet, mangled)| {
        let mut frame = packet.bytes();
        for (at, byte) in mangled.unwrap_or_default() {
            if let Some(slot) = frame.get_mut(at) {
                *slot = byte;
            }
        }
        frame.resize(frame.len().max(14), 0);
        frame
    })
}

#[test]
fn random_packets_get_the_verdict_of_the_model() {
    if !privileged("random_packets_get_the_verdict_of_the_model") {
        return;
    }
    let sockets = host_sockets();
    let open: Vec<(SocketAddr, Open)> = open_ports();
    let mut kernel = Kernel::load(&crate::config());
    tell(&mut kernel.guard, &open);
    let kernel = RefCell::new(kernel);
    // What was seen, to show that the packets are of every kind.
    let seen = RefCell::new(BTreeMap::<String, u64>::new());
    let strategy = (setup(), vec(frame(), 64));
    let config = ProptestConfig {
        source_file: Some(file!()),
        ..ProptestConfig::default()
    };
    TestRunner::new(config)
        .run(&strategy, |(config, frames)| {
            let mut kernel = kernel.borrow_mut();
            kernel.apply(&config);
            let model = Model {
                config: &config,
                open: by_family(open.clone()),
                sockets: sockets.unconnected.clone(),
                connected: sockets.connected.clone(),
                routed: Vec::new(),
            };
            for frame in frames {
                let (real, expected) = (kernel.verdict(&frame), model.verdict(&frame));
                if real != expected {
                    return Err(TestCaseError::fail(format!(
                        "the program says {real:?}, the model {expected:?}: {frame:02x?}"
                    )));
                }
                let kind = match real {
                    Verdict::Pass => "pass".to_owned(),
                    Verdict::Drop(_, reason) => reason.as_str().to_owned(),
                };
                *seen.borrow_mut().entry(kind).or_default() += 1;
            }
            Ok(())
        })
        .unwrap();
    let seen = seen.into_inner();
    println!("{seen:?}");
    for reason in Reason::ALL {
        let reason = reason.as_str();
        assert!(
            seen.contains_key(reason),
            "no packet was dropped for {reason}"
        );
    }
}
