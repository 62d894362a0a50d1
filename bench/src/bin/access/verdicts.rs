//! The time of one verdict, by BPF_PROG_TEST_RUN: the kernel runs the program many times on one packet and tells the average.

use super::frame::{DOT1AD, DOT1Q, Extension, Packet, TCP, UDP};
use anyhow::Context as _;
use aya::TestRunOptions;
use aya::programs::{TestRun as _, Xdp};
use edge_proto::config::{
    Config, Listener, MediaAddress, MediaConfig, SipConfig, Transport, Trunk,
};
use edge_proto::id::{ListenerId, TrunkId};
use edge_proto::time::Duration;
use edge_proto::trunk::AllowTable;
use serde::Serialize;
use sip_edge::access::{CounterRows, Filter, FlowSource, Tables};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Prefixes of each family.
const PREFIXES: usize = 100_000;
/// Sources measured per case, and runs of each.
const SOURCES: usize = 40;
const RUNS: u32 = 200_000;
const XDP_PASS: u32 = 2;

/// To reach, in nanoseconds.
const UNLISTED_NS: u64 = 100;
const ADDED_NS: u64 = 60;

/// One kind of packet.
#[derive(Serialize)]
struct Case {
    name: &'static str,
    passes: bool,
    /// Of a program that does nothing, on the same packets in turn.
    baseline_ns: u64,
    /// Median over the sources, and the 10th and 90th percentile.
    verdict_ns: u64,
    spread_ns: (u64, u64),
    /// Median of the differences.
    added_ns: u64,
}

#[derive(Serialize)]
pub struct Measured {
    prefixes_per_family: usize,
    intervals: (usize, usize),
    cases: Vec<Case>,
}

/// A small generator with a fixed seed, so that every run measures the same prefixes (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Prefixes as operators have them: hosts, small nets and platforms, some inside others.
struct Prefixes {
    v4: BTreeSet<(u32, u8)>,
    v6: BTreeSet<(u128, u8)>,
}

impl Prefixes {
    fn random() -> Prefixes {
        let mut random = Random(7);
        let (mut v4, mut v6) = (BTreeSet::new(), BTreeSet::new());
        while v4.len() < PREFIXES {
            let length = [32, 32, 32, 29, 28, 27, 24][random.next() as usize % 7];
            let address = random.next() as u32 & (u32::MAX << (32 - length));
            // The upper half of the addresses stays free of prefixes.
            v4.insert((address & 0x7fff_ffff, length as u8));
        }
        while v6.len() < PREFIXES {
            let length = [128, 64, 64, 64, 56, 48][random.next() as usize % 6];
            let bits = u128::from(random.next()) << 64 | u128::from(random.next());
            let address = (bits & (u128::MAX << (128 - length))) >> 3 | 1 << 125;
            v6.insert((address & (u128::MAX << (128 - length)), length as u8));
        }
        Prefixes { v4, v6 }
    }

    fn listed(&self, ipv4: bool) -> Vec<IpAddr> {
        let step = PREFIXES / SOURCES;
        if ipv4 {
            let all = self.v4.iter().step_by(step).take(SOURCES);
            all.map(|&(a, _)| Ipv4Addr::from(a).into()).collect()
        } else {
            let all = self.v6.iter().step_by(step).take(SOURCES);
            all.map(|&(a, _)| Ipv6Addr::from(a).into()).collect()
        }
    }

    /// The addresses right behind prefixes, which nobody lists.
    fn neighbours(&self, ipv4: bool, config: &Config) -> Vec<IpAddr> {
        let next4 = |&(a, length): &(u32, u8)| {
            let behind = a.checked_add(1u32.checked_shl(32 - u32::from(length)).unwrap_or(0));
            behind.map(|a| IpAddr::V4(Ipv4Addr::from(a)))
        };
        let next6 = |&(a, length): &(u128, u8)| {
            let behind = a.checked_add(1u128 << (128 - u32::from(length)));
            behind.map(|a| IpAddr::V6(Ipv6Addr::from(a)))
        };
        let unlisted = |source: &IpAddr| config.allow.lookup_any(*source).is_empty();
        let step = PREFIXES / SOURCES / 2;
        if ipv4 {
            let all = self.v4.iter().step_by(step).filter_map(next4);
            all.filter(unlisted).take(SOURCES).collect()
        } else {
            let all = self.v6.iter().step_by(step).filter_map(next6);
            all.filter(unlisted).take(SOURCES).collect()
        }
    }
}

fn config(prefixes: &Prefixes) -> anyhow::Result<Config> {
    let addresses = [
        (Transport::Tcp, "192.0.2.1:5060"),
        (Transport::Tls, "192.0.2.1:5061"),
        (Transport::Udp, "192.0.2.1:5060"),
        (Transport::Tcp, "[2001:db8::1]:5060"),
        (Transport::Tls, "[2001:db8::1]:5061"),
        (Transport::Udp, "[2001:db8::1]:5060"),
    ];
    let mut listeners = Vec::new();
    for ((transport, address), id) in addresses.into_iter().zip((0..).map(ListenerId)) {
        let address: SocketAddr = address.parse()?;
        listeners.push(Listener {
            id,
            name: format!("{}:{address}", transport.uri_name()),
            transport,
            address,
            advertised: address,
        });
    }
    // Four trunks share the prefixes and use every listener.
    let all: Vec<ListenerId> = listeners.iter().map(|listener| listener.id).collect();
    let mut trunks: Vec<Trunk> = (0..4)
        .map(|n| Trunk::new(TrunkId(n), format!("trunk{n}"), all.clone()))
        .collect();
    let v4 = prefixes
        .v4
        .iter()
        .map(|&(a, length)| (IpAddr::V4(a.into()), length));
    let v6 = prefixes
        .v6
        .iter()
        .map(|&(a, length)| (IpAddr::V6(a.into()), length));
    for (n, (address, length)) in v4.chain(v6).enumerate() {
        let net = format!("{address}/{length}").parse()?;
        if let Some(trunk) = trunks.get_mut(n % 4) {
            trunk.allow.push(net);
        }
    }
    let trunks: Vec<Arc<Trunk>> = trunks.into_iter().map(Arc::new).collect();
    let media = |address: &str| {
        let bind: IpAddr = address.parse()?;
        anyhow::Ok(MediaAddress {
            bind,
            advertised: bind,
        })
    };
    Ok(Config {
        domains: Vec::new(),
        sip: SipConfig::default(),
        allow: AllowTable::build(&listeners, &trunks),
        listeners,
        media: MediaConfig {
            ipv4: Some(media("192.0.2.1")?),
            ipv6: Some(media("2001:db8::1")?),
            ports: 10_000..=60_000,
            timeout: Duration::ZERO,
        },
        trunks,
        routes: Vec::new(),
    })
}

fn packets(sources: &[IpAddr], protocol: u8, port: u16) -> Vec<Packet> {
    let to_edge = |source: &IpAddr| {
        let (from, edge) = if source.is_ipv4() {
            ("0.0.0.0", "192.0.2.1")
        } else {
            ("::", "2001:db8::1")
        };
        let mut packet = Packet::new(protocol, (from, 40_000), (edge, port));
        packet.source = *source;
        packet
    };
    sources.iter().map(to_edge).collect()
}

fn changed(mut packets: Vec<Packet>, change: impl Fn(&mut Packet)) -> Vec<Packet> {
    packets.iter_mut().for_each(change);
    packets
}

pub fn measure() -> anyhow::Result<Measured> {
    let prefixes = Prefixes::random();
    let config = config(&prefixes)?;
    let tables = Tables::build(&config, &config.media, &mut CounterRows::new())?;
    let mut filter = Filter::load(&tables)?;
    filter.switch(&tables)?;
    let (listed4, listed6) = (prefixes.listed(true), prefixes.listed(false));
    let (near4, near6) = (
        prefixes.neighbours(true, &config),
        prefixes.neighbours(false, &config),
    );
    let far4: Vec<IpAddr> = (0..SOURCES as u32)
        .map(|n| Ipv4Addr::from(0xc633_6400 + n).into())
        .collect();
    let mut guard = filter.media_guard()?;
    let flows = [
        ("192.0.2.1:10000", &listed4),
        ("[2001:db8::1]:10000", &listed6),
    ];
    for (local, listed) in flows {
        let source = listed.first().context("no prefixes")?;
        guard.allow_latching(local.parse()?, &[FlowSource::from(*source)]);
    }
    let tagged = |packets| changed(packets, |packet| packet.tags = vec![DOT1AD, DOT1Q]);
    let extended = |packets, headers| {
        changed(packets, |packet: &mut Packet| {
            packet.extensions = vec![Extension::options(60, 1); headers];
        })
    };
    let grown = |packets, units, headers| {
        changed(packets, |packet: &mut Packet| {
            packet.extensions = vec![Extension::options(60, units); headers];
        })
    };
    let optioned = |packets, options: &'static [u8]| {
        changed(packets, |packet: &mut Packet| {
            packet.options = options.to_vec();
        })
    };
    let cases: Vec<(&'static str, Vec<Packet>)> = vec![
        (
            "TCP to a listener, listed, IPv4",
            packets(&listed4, TCP, 5060),
        ),
        (
            "TCP to a listener, listed, IPv6",
            packets(&listed6, TCP, 5060),
        ),
        (
            "UDP to a listener, listed, IPv4",
            packets(&listed4, UDP, 5060),
        ),
        (
            "the same with two VLAN tags",
            tagged(packets(&listed4, UDP, 5060)),
        ),
        (
            "TCP, listed, one IPv6 extension header",
            extended(packets(&listed6, TCP, 5060), 1),
        ),
        (
            "TCP, listed, two IPv6 extension headers",
            extended(packets(&listed6, TCP, 5060), 2),
        ),
        (
            "TCP, listed, eight IPv6 extension headers",
            extended(packets(&listed6, TCP, 5060), 8),
        ),
        (
            "TCP, listed, one of 24 bytes",
            grown(packets(&listed6, TCP, 5060), 3, 1),
        ),
        (
            "TCP, listed, one of 32 bytes",
            grown(packets(&listed6, TCP, 5060), 4, 1),
        ),
        (
            "TCP, listed, IPv4 router alert",
            optioned(packets(&listed4, TCP, 5060), &[148, 4, 0, 0]),
        ),
        (
            "RTP of an open flow, IPv4",
            packets(&listed4[..1], UDP, 10_000),
        ),
        (
            "RTP of an open flow, IPv6",
            packets(&listed6[..1], UDP, 10_000),
        ),
        (
            "TCP to another port of the host",
            packets(&listed4, TCP, 443),
        ),
        (
            "TCP to a listener, unlisted, IPv4",
            packets(&far4, TCP, 5060),
        ),
        (
            "the same right behind a listed prefix",
            packets(&near4, TCP, 5060),
        ),
        ("the same, IPv6", packets(&near6, TCP, 5060)),
        (
            "the same with eight IPv6 extension headers",
            extended(packets(&near6, TCP, 5060), 8),
        ),
        (
            "the same with eight of 32 bytes",
            grown(packets(&near6, TCP, 5060), 4, 8),
        ),
        (
            "IPv4, 40 bytes of no-ops",
            optioned(packets(&near4, TCP, 5060), &[1; 40]),
        ),
        (
            "UDP to an open media port, stranger",
            packets(&near4, UDP, 10_000),
        ),
        ("UDP to a closed media port", packets(&near4, UDP, 20_000)),
    ];
    let mut measured = Vec::new();
    for (name, packets) in cases {
        measured.push(case(&mut filter, name, &packets).context(name)?);
    }
    Ok(Measured {
        prefixes_per_family: PREFIXES,
        intervals: (tables.bounds4.len(), tables.bounds6.len()),
        cases: measured,
    })
}

fn case(filter: &mut Filter, name: &'static str, packets: &[Packet]) -> anyhow::Result<Case> {
    let (mut baseline, mut verdict, mut added) = (Vec::new(), Vec::new(), Vec::new());
    let mut passes = None;
    let rounds = (SOURCES / packets.len()).max(1);
    for packet in (0..rounds).flat_map(|_| packets) {
        let frame = packet.bytes();
        let (_, base) = run(filter.pass_program()?, &frame)?;
        let (code, time) = run(filter.program()?, &frame)?;
        let pass = code == XDP_PASS;
        anyhow::ensure!(
            *passes.get_or_insert(pass) == pass,
            "the packets have different verdicts"
        );
        baseline.push(base);
        verdict.push(time);
        added.push(time.saturating_sub(base));
    }
    for values in [&mut baseline, &mut verdict, &mut added] {
        values.sort_unstable();
    }
    Ok(Case {
        name,
        passes: passes.unwrap_or(false),
        baseline_ns: at(&baseline, 50),
        verdict_ns: at(&verdict, 50),
        spread_ns: (at(&verdict, 10), at(&verdict, 90)),
        added_ns: at(&added, 50),
    })
}

fn run(program: &Xdp, frame: &[u8]) -> anyhow::Result<(u32, u64)> {
    let result = program.test_run(TestRunOptions {
        data_in: Some(frame),
        repeat: RUNS,
        ..TestRunOptions::new()
    })?;
    let nanoseconds = u64::try_from(result.duration.as_nanos())?;
    Ok((result.return_value, nanoseconds))
}

/// A percentile of sorted values.
fn at(sorted: &[u64], percent: usize) -> u64 {
    let index = sorted.len().saturating_sub(1) * percent / 100;
    sorted.get(index).copied().unwrap_or_default()
}

pub fn tell(text: &mut String, measured: &Measured) -> std::fmt::Result {
    writeln!(
        text,
        "## Verdicts\n\n{} prefixes of each family ({} and {} intervals), four trunks, six listeners. Average of {RUNS} runs on one \
         packet (BPF_PROG_TEST_RUN, so with warm caches), in turn with a program that passes everything; median over up to \
         {SOURCES} sources. To reach: an unlisted source <= {UNLISTED_NS} ns, added to an accepted packet <= {ADDED_NS} ns.\n",
        measured.prefixes_per_family, measured.intervals.0, measured.intervals.1,
    )?;
    writeln!(
        text,
        "| packet | verdict | ns | p10-p90 | pass-through ns | added ns | |"
    )?;
    writeln!(text, "|---|---|---:|---:|---:|---:|---|")?;
    for case in &measured.cases {
        let reached = if case.passes {
            case.added_ns <= ADDED_NS
        } else {
            case.verdict_ns <= UNLISTED_NS
        };
        writeln!(
            text,
            "| {} | {} | {} | {}-{} | {} | {} | {} |",
            case.name,
            if case.passes { "pass" } else { "drop" },
            case.verdict_ns,
            case.spread_ns.0,
            case.spread_ns.1,
            case.baseline_ns,
            case.added_ns,
            if reached { "reached" } else { "**missed**" },
        )?;
    }
    writeln!(text)
}
