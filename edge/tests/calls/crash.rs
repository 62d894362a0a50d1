//! kill -9 under load: after the next start, each call has one complete set of CDR lines.

use crate::harness::{Edge, EdgeConfig, Net, have_sipp, wait};
use crate::load::{Party, host};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// Rounds of load and kill; `CRASH_ROUNDS` asks for more.
const ROUNDS: u64 = 4;

/// A moment within the first seconds of the load, as bytes that the caller has traced: the same for the same seed.
fn moment(seed: u64) -> u64 {
    // SplitMix64.
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    30_000 + (z ^ (z >> 31)) % 300_000
}

/// Whether a killed edge's early journal of that core tells of a call: its header has a record behind it.
fn has_news(dir: &Path, core: u8) -> bool {
    const HEADER: usize = 16;
    const RECORD: u8 = 0xea;
    let ring = fs::read(dir.join(format!("cdr.jsonl.open.core{core}"))).expect("readable");
    ring.starts_with(b"early ") && ring.get(HEADER) == Some(&RECORD)
}

#[test]
fn killed_under_load_it_closes_each_call_once_at_the_next_start() {
    if !have_sipp() {
        return;
    }
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let rounds: u64 = number("CRASH_ROUNDS").unwrap_or(ROUNDS);
    let first: u64 = number("CRASH_SEED").unwrap_or(0);
    let net = Net::v4();
    let dir = TempDir::new().expect("a directory");
    let config = EdgeConfig {
        transfer:
            "max_transfers = 1\nauth = \"dialog\"\nvia = \"agents\"\ntargets = [\"+1234567890\"]"
                .into(),
        agents: String::new(),
        // Each has its own early journal; calls of one connection are spread over both.
        edge: "cores = [0, 1]\ndomains = [\"edge.example.net\"]".into(),
        ..EdgeConfig::default()
    };
    let mut told_by = BTreeSet::new();
    let mut answered: Vec<BTreeSet<String>> = Vec::new();
    for seed in first..first + rounds {
        let edge = Edge::start(&net, dir.path(), &config);
        let _agent = Party::start(
            dir.path(),
            "transfer-agent",
            (&host(net.ai), 5070),
            &["-d", "300"],
        );
        let _human = Party::start(
            dir.path(),
            "human",
            (&host(net.human), 5080),
            &["-d", "300"],
        );
        let caller = Party::start(
            dir.path(),
            "transfer-caller",
            (&host(net.carrier), 5062),
            &[&edge.sip.to_string(), "-r", "60", "-l", "60"],
        );
        let moment = moment(seed);
        wait::until(&format!("the moment of seed {seed}"), || {
            (caller.traced() >= moment).then_some(())
        });
        // SIGKILL.
        drop(edge);
        told_by.extend((0..2).filter(|core| has_news(dir.path(), *core)));
        answered.push(caller.answered());
    }
    assert_eq!(told_by.len(), 2, "both cores had calls: {told_by:?}");
    let edge = Edge::start(&net, dir.path(), &config);
    let verdict = Command::new(env!("CARGO_BIN_EXE_sip-edge"))
        .args(["cdr", "verify"])
        .arg(dir.path().join("cdr.jsonl"))
        .output()
        .expect("the command runs");
    let verdict = String::from_utf8_lossy(&verdict.stdout).into_owned();
    assert!(verdict.ends_with("nothing wrong\n"), "{verdict}");
    let lines = edge.cdr();
    let mut legs: BTreeMap<&str, usize> = BTreeMap::new();
    for line in &lines {
        *legs
            .entry(line["call"].as_str().expect("an id"))
            .or_default() += 1;
    }
    let callers: BTreeMap<&str, &str> = lines
        .iter()
        .filter(|line| line["leg"] == 1)
        .filter_map(|line| Some((line["sip_call_id"].as_str()?, line["call"].as_str()?)))
        .collect();
    assert_eq!(
        callers.len(),
        legs.len(),
        "each call has its caller's line, each caller one call"
    );
    let mut known = 0;
    for call_id in answered.iter().flatten() {
        let call = callers.get(call_id.as_str());
        let told = call.is_some_and(|call| legs.get(call).is_some_and(|legs| *legs >= 2));
        assert!(told, "{call_id} was answered, and nothing is told of it");
        known += 1;
    }
    let restarts = lines.iter().filter(|line| line["cause"] == "edge_restart");
    println!(
        "{rounds} kills: all {known} answered calls told; {} calls in {} lines, {} of them edge_restart",
        legs.len(),
        lines.len(),
        restarts.clone().count()
    );
    assert!(restarts.count() > 0, "no kill met a call");
    let metric = edge.metrics();
    assert!(
        metric.contains("cause=\"edge_restart\""),
        "the last start counts what it closed"
    );
}
