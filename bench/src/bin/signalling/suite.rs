//! What is measured, in which order.

use crate::load::{Load, Outcome, Percentiles, play};
use crate::overload::{self, Overload};
use crate::subject::{Kind, Subject};
use crate::voice::{self, Voice};
use anyhow::Result;
use edge_bench::process::raise_open_files;
use serde::Serialize;
use std::fs;
use std::time::{Duration, Instant};

/// Rates of the comparison: where threads mostly sleep, and where they are busy.
pub const RATES: [u32; 3] = [100, 500, 1_500];
/// Established calls whose memory is measured, where the limit of open files allows.
const ESTABLISHED: [u32; 2] = [1_000, 10_000];
/// The edge's files per call where each port has a socket: RTP and RTCP of two legs.
const FILES_PER_CALL: u64 = 4;
/// Files that it has besides.
const OTHER_FILES: u64 = 1_000;
/// Calls before the first memory figure, so that what the edge keeps on purpose (the book of ended calls) is there.
const WARM_UP: u32 = 3_000;
/// How long memory may take to come back.
const RETURN: Duration = Duration::from_secs(40);

/// Whether the edge needs a socket for each media port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ports {
    #[default]
    Sockets,
    Free,
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub struct Results {
    pub kernel: String,
    pub cpu: String,
    pub load_average: [String; 2],
    pub kamailio: bool,
    /// One entry per round, rate and subject.
    pub rounds: Vec<Round>,
    /// The steps of each search, in order.
    pub calls_search: Vec<Round>,
    pub transfers_search: Vec<Outcome>,
    /// The edge's own view at the highest rate of the comparison: request received to final response, INVITEs of the carrier.
    pub edge_response_ms: Option<Percentiles>,
    pub overload: Vec<Overload>,
    pub memory: Memory,
    /// One entry per round.
    pub voice: Vec<Voice>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
    pub seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct Round {
    pub kind: Kind,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Memory in RAM of the edge's process, in bytes.
#[derive(Debug, Default, Serialize)]
pub struct Memory {
    pub files: u64,
    pub ports: Ports,
    pub at_start: u64,
    /// After the warm-up.
    pub baseline: u64,
    pub established: Vec<Established>,
}

#[derive(Debug, Serialize)]
pub struct Established {
    pub wanted: u32,
    /// All at once, as the edge counted.
    pub calls: u32,
    pub clean: bool,
    pub rss: u64,
    pub per_call: f64,
    /// When the calls had ended, and `after_s` later.
    pub at_end: u64,
    pub after: u64,
    pub after_s: f64,
}

impl Results {
    /// Runs a part of the suite. One that fails is told in the report, and loses nothing of the others.
    fn part(&mut self, name: &str, run: impl FnOnce(&mut Results) -> Result<()>) {
        if let Err(error) = run(self) {
            let failure = format!("{name}: {error:#}");
            eprintln!("FAILED {failure}");
            self.failures.push(failure);
        }
    }
}

/// Runs everything; `kamailio`: whether it is there.
pub fn run(quick: bool, kamailio: bool, ports: Ports) -> Results {
    let begun = Instant::now();
    let mut results = Results {
        kernel: first_line("/proc/sys/kernel/osrelease"),
        cpu: cpu(),
        kamailio,
        ..Results::default()
    };
    results.load_average[0] = first_line("/proc/loadavg");
    raise_files();
    let kinds = if kamailio {
        &Kind::ALL[..]
    } else {
        &[Kind::Edge]
    };
    let (rounds, steps) = if quick { (1, 1) } else { (5, 5) };
    results.part("CPU per call", |results| compare(results, kinds, rounds));
    for &kind in kinds {
        let name = format!("highest rate of calls, {}", kind.name());
        results.part(&name, |results| {
            let subject = Subject::start(kind)?;
            search(&subject, "call", 800, steps, |outcome| {
                results.calls_search.push(Round { kind, outcome });
            })
        });
    }
    results.part("highest rate of transfers", |results| {
        let subject = Subject::start(Kind::Edge)?;
        search(&subject, "transfer", 300, steps, |outcome| {
            results.transfers_search.push(outcome);
        })
    });
    results.part("overload", |results| {
        results.overload = overload(quick)?;
        Ok(())
    });
    results.part("memory", |results| {
        results.memory = memory(quick, ports)?;
        Ok(())
    });
    results.part("voice", |results| {
        results.voice = voice(quick)?;
        Ok(())
    });
    results.load_average[1] = first_line("/proc/loadavg");
    results.seconds = begun.elapsed().as_secs_f64();
    results
}

/// What becomes of more calls than the edge may or can take.
pub fn overload(quick: bool) -> Result<Vec<Overload>> {
    raise_files();
    overload::measure(if quick { 2 } else { 4 })
}

/// One call's media with and without the overload.
pub fn voice(quick: bool) -> Result<Vec<Voice>> {
    raise_files();
    let (rounds, seconds) = if quick { (1, 2) } else { (3, 6) };
    voice::measure(rounds, seconds)
}

fn raise_files() -> u64 {
    raise_open_files(u64::from(ESTABLISHED[1]) * FILES_PER_CALL + OTHER_FILES)
}

/// The same calls at the same rates through each, in turn; who is first alternates.
fn compare(results: &mut Results, kinds: &[Kind], rounds: usize) -> Result<()> {
    for round in 0..rounds {
        let mut kinds = kinds.to_vec();
        if round % 2 == 1 {
            kinds.reverse();
        }
        for kind in kinds {
            let subject = Subject::start(kind)?;
            for rate in RATES {
                let outcome = play(&subject, Load::of("call", rate, 4), || {})?;
                tell(kind, &outcome);
                results.rounds.push(Round { kind, outcome });
            }
            if kind == Kind::Edge {
                results.edge_response_ms = Percentiles::of(&responses(&subject.metrics()?));
            }
        }
    }
    Ok(())
}

/// Looks for the highest rate that is sustained: up by half until it is not, then in between; `steps` at most. Each is given to
/// `keep`.
fn search(
    subject: &Subject,
    scenario: &'static str,
    first: u32,
    steps: usize,
    mut keep: impl FnMut(Outcome),
) -> Result<()> {
    let (mut good, mut bad) = (0, None);
    let mut rate = first;
    for _ in 0..steps {
        let outcome = play(subject, Load::of(scenario, rate, 4), || {})?;
        tell(subject.kind, &outcome);
        let sustained = outcome.sustained();
        keep(outcome);
        if sustained {
            good = rate;
        } else {
            bad = Some(rate);
            // What a rate too high has left behind ends before the next.
            std::thread::sleep(Duration::from_secs(1));
        }
        rate = match bad {
            None => rate + rate / 2,
            Some(bad) => u32::midpoint(good, bad),
        };
    }
    Ok(())
}

/// Memory while calls are up, and after.
pub fn memory(quick: bool, ports: Ports) -> Result<Memory> {
    let files = raise_files();
    let established = if quick { &[200][..] } else { &ESTABLISHED };
    let subject = Subject::start(Kind::Edge)?;
    let at_start = subject.process.rss()?;
    play(
        &subject,
        Load {
            hold_ms: 100,
            ..Load::of("call", 500, WARM_UP / 500)
        },
        || {},
    )?;
    let mut memory = Memory {
        files,
        ports,
        at_start,
        baseline: subject.process.rss()?,
        established: Vec::new(),
    };
    let fits = match ports {
        Ports::Free => u32::MAX,
        Ports::Sockets => {
            let calls = files.saturating_sub(OTHER_FILES) / FILES_PER_CALL;
            u32::try_from(calls).unwrap_or(u32::MAX)
        }
    };
    for &wanted in established {
        let entry = hold(&subject, wanted, wanted.min(fits), memory.baseline)?;
        println!(
            "sip-edge: {} calls at once, {:.1} kB each; {:.1} MB before, {:.1} MB {:.0} s after",
            entry.calls,
            entry.per_call / 1e3,
            memory.baseline as f64 / 1e6,
            entry.after as f64 / 1e6,
            entry.after_s
        );
        memory.established.push(entry);
    }
    Ok(memory)
}

fn hold(subject: &Subject, wanted: u32, calls: u32, baseline: u64) -> Result<Established> {
    let rate = 400;
    // The first call lasts until well after the last one began.
    let load = Load {
        scenario: "call",
        rate,
        calls,
        hold_ms: calls / rate * 1000 + 6_000,
    };
    let (mut most, mut rss) = (0, 0);
    let outcome = play(subject, load, || {
        let up = subject.active();
        if up >= most {
            most = up;
            rss = rss.max(subject.process.rss().unwrap_or(0));
        }
    })?;
    let ended = Instant::now();
    let at_end = subject.process.rss()?;
    let mut after = at_end;
    while after > baseline + baseline / 20 && ended.elapsed() < RETURN {
        std::thread::sleep(Duration::from_millis(500));
        after = subject.process.rss()?;
    }
    Ok(Established {
        wanted,
        calls: most,
        clean: outcome.clean,
        rss,
        per_call: rss.saturating_sub(baseline) as f64 / f64::from(most.max(1)),
        at_end,
        after,
        after_s: ended.elapsed().as_secs_f64(),
    })
}

fn tell(kind: Kind, outcome: &Outcome) {
    println!(
        "{}: {} at {}/s: {:.0}/s, {} failed, {:.0} us of CPU each, core {:.0} % busy",
        kind.name(),
        outcome.load.scenario,
        outcome.load.rate,
        outcome.rate,
        outcome.failed,
        outcome.cpu_us,
        outcome.busy * 100.0
    );
}

/// Buckets of the carrier's INVITEs in milliseconds.
fn responses(metrics: &str) -> Vec<(f64, u64)> {
    let mut before = 0;
    let buckets = metrics.lines().filter_map(|line| {
        let labels = line.strip_prefix("sip_edge_sip_response_seconds_bucket{")?;
        let (labels, count) = labels.split_once('}')?;
        if !labels.contains("method=\"INVITE\"") || !labels.contains("trunk=\"carrier\"") {
            return None;
        }
        let (_, bound) = labels.split_once("le=\"")?;
        let bound = bound.split('"').next()?;
        let bound: f64 = if bound == "+Inf" {
            f64::INFINITY
        } else {
            bound.parse().ok()?
        };
        let count: u64 = count.trim().parse().ok()?;
        let alone = count.saturating_sub(before);
        before = count;
        Some((bound * 1000.0, alone))
    });
    buckets.collect()
}

fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let name = name.unwrap_or_default();
    name.trim_start_matches(['\t', ' ', ':']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_edge_exposes_is_read() {
        let metrics = "\
sip_edge_sip_response_seconds_bucket{method=\"INVITE\",trunk=\"carrier\",le=\"0.001\"} 4
sip_edge_sip_response_seconds_bucket{method=\"BYE\",trunk=\"carrier\",le=\"0.001\"} 9
sip_edge_sip_response_seconds_bucket{method=\"INVITE\",trunk=\"carrier\",le=\"+Inf\"} 5
";
        assert_eq!(responses(metrics), [(1.0, 4), (f64::INFINITY, 1)]);
    }
}
