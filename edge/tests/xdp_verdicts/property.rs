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
const ADDRESSES6: [&str; 10] = [
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8:100::",
    "2001:db8:100:0:8000::",
    "2001:db8:100:ffff:ffff:ffff:ffff:ffff",
    "2001:db8:300::50",
    "::ffff:198.51.100.7",
    "::ffff:192.0.2.1",
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
        4 => Just(Vec::new()),
        1 => Just(vec![DOT1AD, DOT1Q]),
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

/// Protocols that carry another packet; what is inside is not for a port of this host before somebody has unpacked it.
const IPV4_INSIDE: u8 = 4;
const IPV6_INSIDE: u8 = 41;
const GRE: u8 = 47;

/// A packet inside another: in a tunnel, or quoted by an ICMP error.
fn wrapped() -> impl Strategy<Value = Packet> {
    (described(), described()).prop_map(|(mut outer, mut inner)| {
        let ipv4 = inner.source.is_ipv4();
        (inner.tags, inner.cut) = (Vec::new(), None);
        let quoted = inner.bytes().split_off(14);
        let head: &[u8] = match (outer.payload.len() % 3, outer.source.is_ipv4(), ipv4) {
            (0, _, true) => {
                outer.protocol = IPV4_INSIDE;
                &[]
            }
            (0, _, false) => {
                outer.protocol = IPV6_INSIDE;
                &[]
            }
            (1, _, _) => {
                outer.protocol = GRE;
                if ipv4 {
                    &[0, 0, 8, 0]
                } else {
                    &[0, 0, 0x86, 0xdd]
                }
            }
            (_, true, _) => {
                outer.protocol = ICMP;
                &[3, 3, 0, 0, 0, 0, 0, 0]
            }
            _ => {
                outer.protocol = ICMPV6;
                &[1, 4, 0, 0, 0, 0, 0, 0]
            }
        };
        outer.payload = [head, &quoted].concat();
        outer
    })
}

/// What is remarkable about a packet, so that the test can say that it met every kind.
fn kinds(packet: &Packet) -> Vec<&'static str> {
    let fragments = packet.extensions.iter().filter(|e| e.kind == FRAGMENT);
    let field = |e: &Extension| u16::from_be_bytes([e.bytes[1], e.bytes[2]]);
    let mut fields = fragments.filter(|e| e.bytes.len() > 2).map(field);
    let (offset, more) = match fields.next() {
        Some(field) => (field >> 3, field & 1 != 0),
        None => (packet.fragment.0 & 0x1fff, packet.fragment.1),
    };
    let ipv6 = packet.source.is_ipv6();
    let fragment = offset > 0 || more;
    let tagged = packet.tags.contains(&DOT1Q) && packet.tags.contains(&DOT1AD);
    let sized = |size| packet.extensions.iter().any(|e| e.bytes.len() + 1 == size);
    let mapped = |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    let route = |byte: &u8| matches!(byte, 131 | 137);
    let all = [
        ("one tag", packet.tags.len() == 1),
        ("QinQ", packet.tags.len() == 2 && tagged),
        ("more tags", (3..=4).contains(&packet.tags.len())),
        ("too many tags", packet.tags.len() > 4),
        ("options", !packet.options.is_empty()),
        ("forty bytes of options", packet.options.len() == 40),
        ("a source route's number", packet.options.iter().any(route)),
        ("an extension header", ipv6 && packet.extensions.len() == 1),
        (
            "headers",
            ipv6 && (2..=8).contains(&packet.extensions.len()),
        ),
        ("too many headers", ipv6 && packet.extensions.len() > 8),
        ("a header of 8 bytes", ipv6 && sized(8)),
        ("a header of 16 bytes", ipv6 && sized(16)),
        ("a header of 24 bytes", ipv6 && sized(24)),
        (
            "authentication",
            packet.extensions.iter().any(|e| e.kind == AH),
        ),
        ("a first fragment", offset == 0 && more),
        ("offset one", offset == 1),
        ("a later fragment", offset > 1),
        (
            "tags, headers and a fragment",
            !packet.tags.is_empty() && packet.extensions.len() > 1 && fragment,
        ),
        ("a mapped source", mapped(packet.source)),
        ("a mapped destination", mapped(packet.destination)),
        ("a stated length of zero", packet.length == Some(0)),
        ("a stated length too long", packet.length == Some(u16::MAX)),
        ("another stated length", packet.length.is_some()),
        ("a frame cut off", packet.cut.is_some()),
        ("header words that lie", packet.header_words.is_some()),
        (
            "IP in IP",
            matches!(packet.protocol, IPV4_INSIDE | IPV6_INSIDE),
        ),
        ("GRE", packet.protocol == GRE),
        ("ICMP", matches!(packet.protocol, ICMP | ICMPV6)),
    ];
    let is = |(kind, is): (&'static str, bool)| is.then_some(kind);
    all.into_iter().filter_map(is).collect()
}

/// Kinds of which some must pass and some be dropped. (A packet may be of several.)
const EITHER_WAY: [&str; 20] = [
    "one tag",
    "QinQ",
    "more tags",
    "options",
    "forty bytes of options",
    "a source route's number",
    "an extension header",
    "headers",
    "too many headers",
    "a header of 8 bytes",
    "a header of 16 bytes",
    "a header of 24 bytes",
    "authentication",
    "a first fragment",
    "offset one",
    "tags, headers and a fragment",
    "a stated length of zero",
    "a stated length too long",
    "another stated length",
    "a frame cut off",
];
/// Kinds of which some must pass.
const PASSING: [&str; 5] = [
    "a later fragment",
    "a mapped destination",
    "IP in IP",
    "GRE",
    "ICMP",
];
/// Kinds of which some must be dropped.
const DROPPED: [&str; 3] = ["too many tags", "a mapped source", "header words that lie"];

/// A frame, mangled now and then, and its kinds. The kernel runs nothing shorter than an Ethernet header.
fn frame() -> impl Strategy<Value = (Vec<&'static str>, Vec<u8>)> {
    let mangled = vec((12usize..120, any::<u8>()), 1..4);
    let packet = prop_oneof![9 => described(), 1 => wrapped()];
    (packet, weighted(0.3, mangled)).prop_map(|(packet, mangled)| {
        let mut frame = packet.bytes();
        // Whatever it was, it may be something else now.
        let kinds = match mangled {
            None => kinds(&packet),
            Some(_) => Vec::new(),
        };
        for (at, byte) in mangled.unwrap_or_default() {
            if let Some(slot) = frame.get_mut(at) {
                *slot = byte;
            }
        }
        frame.resize(frame.len().max(14), 0);
        (kinds, frame)
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
            for (kinds, frame) in frames {
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
                let verdict = if kind == "pass" {
                    "passes"
                } else {
                    "is dropped"
                };
                let mut seen = seen.borrow_mut();
                for kind in kinds {
                    *seen.entry(format!("{kind} {verdict}")).or_default() += 1;
                }
                *seen.entry(kind).or_default() += 1;
            }
            Ok(())
        })
        .unwrap();
    let seen = seen.into_inner();
    println!("{seen:#?}");
    let passing = EITHER_WAY
        .iter()
        .chain(&PASSING)
        .map(|kind| format!("{kind} passes"));
    let dropped = EITHER_WAY
        .iter()
        .chain(&DROPPED)
        .map(|kind| format!("{kind} is dropped"));
    for kind in passing.chain(dropped) {
        assert!(seen.contains_key(&kind), "never: {kind}");
    }
    for reason in Reason::ALL {
        let reason = reason.as_str();
        assert!(
            seen.contains_key(reason),
            "no packet was dropped for {reason}"
        );
    }
}
