//! Calls while one core is flooded with packets of unlisted sources: with XDP, with the allowlist in userspace alone, and
//! without a flood, in turn.
//!
//! Two namespaces on a veth pair of two queues. The edge, SIPp and their queue are on CPU 0. The flood is sent on CPU 1, and what
//! the kernel makes of it happens there, too: a veth raises the receive interrupt on the CPU that sends, and transmit queue n
//! (and with it receive queue n) belongs to CPU n (XPS). With one queue for both, calls would wait behind the flood in its
//! ring of 256 packets, or find it full; a network card with as many queues as the machine has cores is like the former.

use super::netns::{Peer, ip, mount_sys};
use anyhow::{Context as _, bail, ensure};
use edge_bench::stats::Spread;
use edge_bench::svg::{Bar, Group};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Of every kind of run, in turn, and the calls of each; to see that it runs: [`QUICK`].
const FULL: (usize, u32) = (3, 400);
const QUICK: (usize, u32) = (1, 50);
const CALLS_PER_S: u32 = 50;
const EDGE: &str = "192.0.2.1";
const CALLER: &str = "192.0.2.10";
const ANSWERER: &str = "192.0.2.30";

/// What the flood consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
enum Flood {
    None,
    /// TCP SYNs to the SIP listener.
    Syn,
    /// UDP to the media ports that calls use.
    Media,
}

impl Flood {
    const fn name(self) -> &'static str {
        match self {
            Flood::None => "none",
            Flood::Syn => "TCP SYN to the SIP listener",
            Flood::Media => "UDP to the media ports",
        }
    }
}

/// One run.
#[derive(Serialize)]
pub struct Measured {
    round: usize,
    flood: Flood,
    xdp: bool,
    flood_packets_per_s: u64,
    dropped_by_xdp: u64,
    calls: u32,
    failed: u32,
    /// INVITE to 200, at SIPp, in milliseconds.
    response_ms: Percentiles,
    /// CPU time of the edge's process during the run.
    edge_cpu_ms: u64,
    /// Time that each CPU spent in software interrupts, per cent of the run.
    softirq_percent: [f64; 2],
}

#[derive(Serialize, Default)]
struct Percentiles {
    p50: f64,
    p99: f64,
    max: f64,
}

/// `None` where the machine cannot show it; says why.
pub fn measure(quick: bool) -> anyhow::Result<Option<Vec<Measured>>> {
    let cpus = std::thread::available_parallelism()?.get();
    let sipp = Command::new("sipp").arg("-v").output().is_ok();
    if cpus < 2 || !sipp {
        println!("SKIPPED the flood: it needs SIPp (apt install sip-tester) and two CPUs");
        return Ok(None);
    }
    let edge = std::env::current_exe()?.with_file_name("sip-edge");
    ensure!(
        edge.exists(),
        "{} is missing: build sip-edge with the same profile",
        edge.display()
    );
    let (rounds, calls) = if quick { QUICK } else { FULL };
    let mut runs = Vec::new();
    for round in 1..=rounds {
        for (flood, xdp) in KINDS {
            let edge = edge.clone();
            // A thread of its own, and with it namespaces of its own.
            let run = std::thread::spawn(move || run(&edge, (round, calls), flood, xdp));
            let run = run.join().map_err(|_| anyhow::anyhow!("a run panicked"))?;
            runs.push(run.with_context(|| flood.name())?);
        }
    }
    Ok(Some(runs))
}

/// Flood, and whether XDP is there. In this order, each round.
const KINDS: [(Flood, bool); 6] = [
    (Flood::None, true),
    (Flood::None, false),
    (Flood::Syn, true),
    (Flood::Syn, false),
    (Flood::Media, true),
    (Flood::Media, false),
];

/// Makes CPU n send by queue n of an interface of the calling thread's namespace.
fn spread_queues(interface: &str) -> anyhow::Result<()> {
    for cpu in 0..2 {
        let file = format!("/sys/class/net/{interface}/queues/tx-{cpu}/xps_cpus");
        fs::write(&file, format!("{:x}", 1 << cpu)).context(file)?;
    }
    Ok(())
}

/// Ticks in software interrupts so far, of CPU 0 and 1.
fn softirq_ticks() -> anyhow::Result<[u64; 2]> {
    let text = fs::read_to_string("/proc/stat")?;
    let of = |cpu: &str| {
        let line = text.lines().find(|line| line.starts_with(cpu))?;
        line.split_ascii_whitespace().nth(7)?.parse().ok()
    };
    let [Some(first), Some(second)] = ["cpu0 ", "cpu1 "].map(of) else {
        bail!("/proc/stat does not name two CPUs");
    };
    Ok([first, second])
}

fn run(
    edge: &Path,
    (round, count): (usize, u32),
    flood: Flood,
    xdp: bool,
) -> anyhow::Result<Measured> {
    netns()?;
    let peer = Peer::linked_with("numtxqueues 2 numrxqueues 2");
    spread_queues("edge0")?;
    peer.run(|| {
        mount_sys();
        spread_queues("peer0")
    })?;
    // Answers to the flood's sources go back where they came from.
    ip(&format!("route add default via {CALLER}"));
    let directory = tempfile::tempdir()?;
    let edge = Edge::start(edge, directory.path(), xdp)?;
    let (answerer, caller) = {
        let directory = directory.path().to_owned();
        peer.run(move || -> anyhow::Result<_> {
            let answerer = ["-sn", "uas", "-i", ANSWERER, "-p", "5070", "-t", "t1"];
            let answerer = sipp(&directory, &answerer)?;
            let calls = format!("{EDGE}:5060");
            let (count, rate) = (count.to_string(), CALLS_PER_S.to_string());
            // A connection for each call, so that a listener that is flooded shows.
            let mut arguments = vec![calls.as_str(), "-sn", "uac", "-i", CALLER, "-d", "500"];
            arguments.extend(["-t", "tn", "-max_socket", "1000"]);
            arguments.extend(["-m", &count, "-r", &rate, "-trace_rtt", "-rtt_freq", "1"]);
            arguments.extend(["-trace_stat", "-stf", "stat.csv", "-fd", "1"]);
            Ok((answerer, sipp(&directory, &arguments)?))
        })?
    };
    let mut caller = caller;
    let cpu_before = edge.cpu_ms()?;
    let ticks = softirq_ticks()?;
    let stop = Arc::new(AtomicBool::new(false));
    let halt = stop.clone();
    let flooding = peer.start(move || send(flood, &halt));
    let end = Instant::now() + Duration::from_secs(120);
    while caller.0.try_wait()?.is_none() {
        ensure!(Instant::now() < end, "the calls do not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    stop.store(true, Ordering::Relaxed);
    let (sent, seconds) = flooding.get()?;
    let softirq = softirq_ticks()?;
    let percent = |cpu: usize| -> f64 {
        let spent = softirq
            .get(cpu)
            .zip(ticks.get(cpu))
            .map_or(0, |(after, before)| after - before);
        spent as f64 * 100.0 / rustix::param::clock_ticks_per_second() as f64 / seconds
    };
    let edge_cpu_ms = edge.cpu_ms()?.saturating_sub(cpu_before);
    let dropped_by_xdp = edge.dropped()?;
    drop(answerer);
    let (calls, failed) = counts(&directory.path().join("stat.csv"))?;
    Ok(Measured {
        round,
        flood,
        xdp,
        flood_packets_per_s: (sent as f64 / seconds) as u64,
        dropped_by_xdp,
        calls,
        failed,
        response_ms: responses(directory.path())?,
        edge_cpu_ms,
        softirq_percent: [percent(0), percent(1)],
    })
}

fn netns() -> anyhow::Result<()> {
    super::netns::enter().context("no network namespace to be had")?;
    mount_sys();
    Ok(())
}

/// A child that ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// On CPU 0.
fn on_cpu_0(program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "0", program]).stdin(Stdio::null());
    command
}

fn sipp(directory: &Path, arguments: &[&str]) -> anyhow::Result<Process> {
    let mut command = on_cpu_0("sipp");
    command
        .args(arguments)
        .args(["-nostdin", "-nd", "-timeout", "100"])
        .current_dir(directory)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(Process(command.spawn().context("sipp")?))
}

struct Edge {
    process: Process,
}

impl Edge {
    fn start(binary: &Path, directory: &Path, xdp: bool) -> anyhow::Result<Edge> {
        let mode = if xdp { "native" } else { "userspace" };
        let file = directory.join("edge.toml");
        fs::write(
            &file,
            format!(
                r#"
                [edge]
                cores = [0]
                [media]
                addresses = ["{EDGE}"]
                ports = "20000-20999"
                [access]
                interfaces = ["edge0"]
                mode = "{mode}"
                [admin]
                address = "127.0.0.1:9090"
                token_file = "token"
                [cdr]
                path = "cdr.jsonl"
                [[listen]]
                transport = "tcp"
                address = "{EDGE}:5060"
                [[trunk]]
                name = "carrier"
                allow = ["{CALLER}"]
                [[trunk]]
                name = "ai"
                allow = ["{ANSWERER}"]
                uri = "sip:{ANSWERER}:5070;transport=tcp"
                [[route]]
                from = "carrier"
                number = "*"
                to = "ai"
                "#
            ),
        )?;
        let mut child = on_cpu_0(binary.to_str().context("a path")?)
            .args(["run", "--config"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = BufReader::new(child.stderr.take().context("no stderr")?);
        let process = Process(child);
        let mut lines = stderr.lines().map_while(Result::ok);
        let mut before = Vec::new();
        loop {
            match lines.next() {
                Some(line) if line.contains("sip-edge ready") => break,
                Some(line) => before.push(line),
                None => bail!("the edge does not start: {before:#?}"),
            }
        }
        // A full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Edge { process })
    }

    /// User and system time so far.
    fn cpu_ms(&self) -> anyhow::Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.0.id()))?;
        let (_, fields) = stat.rsplit_once(')').context("no process name")?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok());
        let ticks = ticks(11).zip(ticks(12)).context("no times")?;
        // USER_HZ is 100 on every platform.
        Ok((ticks.0 + ticks.1) * 10)
    }

    fn dropped(&self) -> anyhow::Result<u64> {
        use std::io::{Read as _, Write as _};
        // The daemon reads XDP's counters once a second.
        std::thread::sleep(Duration::from_millis(1100));
        let mut stream = std::net::TcpStream::connect("127.0.0.1:9090")?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let lines = text
            .lines()
            .filter(|line| line.starts_with("sip_edge_access_dropped_packets_total{"));
        let counts = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
        Ok(counts.sum())
    }
}

/// Sends as fast as one core can, from sources that change with every packet, until told to stop. Returns packets and seconds.
fn send(flood: Flood, stop: &AtomicBool) -> anyhow::Result<(u64, f64)> {
    let mut cpus = CpuSet::new();
    cpus.set(1);
    sched_setaffinity(None, &cpus)?;
    let start = Instant::now();
    if flood == Flood::None {
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        return Ok((0, start.elapsed().as_secs_f64()));
    }
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)))?;
    let to = SockAddr::from(SocketAddr::new(EDGE.parse()?, 0));
    let edge: Ipv4Addr = EDGE.parse()?;
    let mut sent = 0u64;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..256 {
            // 198.18.0.0/15 is for benchmarks (RFC 2544); the edge lists none of it.
            let number = (sent as u32).wrapping_mul(0x9e37_79b1);
            let source = Ipv4Addr::from(0xc612_0000 | (number >> 15));
            let packet = packet(flood, source, edge, number);
            // A full queue is part of the flood.
            sent += u64::from(socket.send_to(&packet, &to).is_ok());
        }
    }
    Ok((sent, start.elapsed().as_secs_f64()))
}

/// An IPv4 packet; the kernel fills in total length, identification and the header's checksum.
fn packet(flood: Flood, source: Ipv4Addr, destination: Ipv4Addr, number: u32) -> Vec<u8> {
    let [a, b, c, d] = number.to_be_bytes();
    let (protocol, port, body): (u8, u16, Vec<u8>) = match flood {
        Flood::Media => (
            17,
            20_000 + (number % 64) as u16,
            vec![0x80, 0, a, b, c, d, 0, 0, 0, 0, 0, 0],
        ),
        _ => (
            6,
            5060,
            vec![a, b, c, d, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0],
        ),
    };
    let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend((1024 | number as u16).to_be_bytes());
    bytes.extend(port.to_be_bytes());
    if protocol == 17 {
        // No checksum, which IPv4 allows.
        bytes.extend([0, 20, 0, 0]);
        bytes.extend(body);
    } else {
        bytes.extend(body);
        let checksum = tcp_checksum(&bytes);
        if let Some(slot) = bytes.get_mut(36..38) {
            slot.copy_from_slice(&checksum.to_be_bytes());
        }
    }
    bytes
}

/// RFC 9293 §3.1, over a packet with a 20-byte IP header.
fn tcp_checksum(packet: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        let pairs = bytes.as_chunks::<2>().0.iter();
        pairs.map(|pair| u32::from(u16::from_be_bytes(*pair))).sum()
    };
    let segment = packet.get(20..).unwrap_or_default();
    let addresses = packet.get(12..20).unwrap_or_default();
    let sum = words(addresses) + words(segment) + 6 + segment.len() as u32;
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// Successful and failed calls of SIPp's statistics.
fn counts(file: &Path) -> anyhow::Result<(u32, u32)> {
    let text = fs::read_to_string(file).context("SIPp wrote no statistics")?;
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().context("no header")?.split(';').collect();
    let last: Vec<&str> = lines.next_back().context("no line")?.split(';').collect();
    let value = |name: &str| -> anyhow::Result<u32> {
        let index = names
            .iter()
            .position(|n| *n == name)
            .context("no such column")?;
        Ok(last.get(index).context("a short line")?.parse()?)
    };
    Ok((value("SuccessfulCall(C)")?, value("FailedCall(C)")?))
}

fn responses(directory: &Path) -> anyhow::Result<Percentiles> {
    let files: Vec<PathBuf> = fs::read_dir(directory)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with("_rtt.csv"))
        .collect();
    let mut times = Vec::new();
    for file in files {
        let text = fs::read_to_string(file)?;
        let values = text
            .lines()
            .filter_map(|line| line.split(';').nth(1)?.parse::<f64>().ok());
        times.extend(values);
    }
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        let index = times.len().saturating_sub(1) * percent / 100;
        times.get(index).copied().unwrap_or(f64::NAN)
    };
    Ok(Percentiles {
        p50: at(50),
        p99: at(99),
        max: at(100),
    })
}

/// All runs of a kind.
fn of_kind(runs: &[Measured], (flood, xdp): (Flood, bool)) -> Vec<&Measured> {
    let kind = |run: &&Measured| run.flood == flood && run.xdp == xdp;
    runs.iter().filter(kind).collect()
}

/// Of one figure of several runs.
fn spread(runs: &[&Measured], figure: impl Fn(&Measured) -> f64) -> Spread {
    let none = Spread {
        median: f64::NAN,
        least: f64::NAN,
        most: f64::NAN,
    };
    Spread::of(runs.iter().map(|run| figure(run))).unwrap_or(none)
}

pub fn tell(text: &mut String, runs: &[Measured]) -> std::fmt::Result {
    let rounds = runs.iter().map(|run| run.round).max().unwrap_or(0);
    let calls = runs.first().map_or(0, |run| run.calls);
    writeln!(
        text,
        "## Calls under a flood\n\n{calls} calls at {CALLS_PER_S}/s of half a second each, every one on a TCP connection of its own, SIPp \
         to SIPp through the edge, while one core sends as fast as it can from unlisted sources, another one with every packet. The \
         edge and SIPp share CPU 0. The flood is sent on CPU 1, and what the kernel makes of it is done there: the two namespaces are \
         linked by a veth pair of two queues, and each CPU has one. {rounds} rounds of all kinds in turn: median (least-most), failed \
         calls of all rounds together. XDP is native. SIPp's clock ticks every 4 ms where the kernel's does (HZ=250).\n",
    )?;
    writeln!(
        text,
        "| flood | allowlist | packets/s of the flood | dropped by XDP | calls | failed | 200 p50 ms | p99 ms | max ms | edge CPU ms | softirq CPU 0 % | CPU 1 % |"
    )?;
    writeln!(
        text,
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    )?;
    for kind in KINDS {
        let runs = of_kind(runs, kind);
        let figure = |digits, figure: fn(&Measured) -> f64| spread(&runs, figure).text(digits);
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            kind.0.name(),
            allowlist(kind.1),
            figure(0, |run| run.flood_packets_per_s as f64),
            figure(0, |run| run.dropped_by_xdp as f64),
            runs.iter().map(|run| run.calls).sum::<u32>(),
            runs.iter().map(|run| run.failed).sum::<u32>(),
            figure(1, |run| run.response_ms.p50),
            figure(1, |run| run.response_ms.p99),
            figure(1, |run| run.response_ms.max),
            figure(0, |run| run.edge_cpu_ms as f64),
            figure(0, |run| run.softirq_percent[0]),
            figure(0, |run| run.softirq_percent[1]),
        )?;
    }
    writeln!(text, "\n![Response times](access-flood.svg)\n")
}

const fn allowlist(xdp: bool) -> &'static str {
    if xdp { "XDP" } else { "userspace alone" }
}

/// The 99th percentile of the time to a 200, by flood.
pub fn plot(runs: &[Measured]) -> String {
    let bar = |kind: (Flood, bool)| {
        let p99 = spread(&of_kind(runs, kind), |run| run.response_ms.p99);
        Bar {
            name: allowlist(kind.1),
            value: p99.median,
            least: p99.least,
            most: p99.most,
        }
    };
    let group = |flood: Flood| Group {
        name: match flood {
            Flood::None => "no flood",
            Flood::Syn => "SYN flood",
            Flood::Media => "UDP to media",
        }
        .to_owned(),
        bars: [true, false].map(|xdp| bar((flood, xdp))).into(),
    };
    let groups = [Flood::None, Flood::Syn, Flood::Media].map(group);
    edge_bench::svg::bars("INVITE to 200, 99th percentile, ms", &groups)
}
