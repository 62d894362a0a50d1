//! What `relay compare` measures: every relay in turn, in rounds whose order alternates, so that what else the machine does
//! falls on all alike.

use crate::generator::{Load, Outcome};
use crate::measure::{Bed, Cores, Sample};
use crate::netns::Network;
use crate::relay::Kind;
use anyhow::{Result, bail};
use serde::Serialize;
use std::time::Duration;

/// Share of packets that may be missing at a rate that counts as lossless: a moment in which the machine runs something else
/// must not decide.
pub const LOSSLESS: f64 = 1e-4;
/// Of the packets, 99 in 100 have to be there sooner: what a queue takes in for as long as the load lasts is not relayed, and nobody
/// hears it.
pub const SUSTAINED_US: f64 = 100_000.0;
/// A rate at which no relay is expected to fail, where the search for the limit begins.
const SEARCH_START: f64 = 100_000.0;
const SEARCH_STEP: f64 = 1.3;
/// Halvings of the last step.
const SEARCH_HALVINGS: u32 = 3;
/// What one generator cannot exceed anyway.
const SEARCH_END: f64 = 1_500_000.0;
/// For our own relay.
const HALF_A_CORE: [&str; 3] = ["--scheduling", "ordinary", "--busy-control"];
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);
/// Load beside which a busy control thread is measured.
const SCHEDULING_RATE: f64 = 50_000.0;

/// How much to do.
#[derive(Clone, Debug, Serialize)]
pub struct Extent {
    pub rounds: u32,
    /// Rounds of the search for the highest lossless rate, latency at half of it, and recovery.
    pub searches: u32,
    pub rates: Vec<f64>,
    pub flows: Vec<u16>,
    /// Flows while searching.
    pub search_flows: u16,
    pub seconds: f64,
    pub overload_seconds: f64,
}

impl Extent {
    pub fn full() -> Extent {
        Extent {
            rounds: 3,
            searches: 2,
            rates: vec![100_000.0, 300_000.0],
            flows: vec![1, 100, 1000, 5000],
            search_flows: 1000,
            seconds: 2.0,
            overload_seconds: 10.0,
        }
    }

    /// Shows that everything runs; its numbers mean little.
    pub fn quick() -> Extent {
        Extent {
            rounds: 1,
            searches: 1,
            rates: vec![50_000.0],
            flows: vec![1, 100],
            search_flows: 100,
            seconds: 0.5,
            overload_seconds: 1.0,
        }
    }
}

/// One measurement at a given rate.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    pub relay: Kind,
    pub round: u32,
    pub flows: u16,
    pub rate: f64,
    pub sample: Sample,
}

/// One search for the highest lossless rate, and what follows from it.
#[derive(Clone, Debug, Serialize)]
pub struct Limit {
    pub relay: Kind,
    /// It has half a core: an ordinary thread, which shares the core with another that never sleeps. Where the generator cannot
    /// offer twice what a whole core relays, it can so.
    pub half_core: bool,
    pub round: u32,
    /// Packets per second.
    pub lossless: f64,
    /// The generator could do no more, so the relay may be able to.
    pub generator_bound: bool,
    /// At half of it.
    pub half: Sample,
    pub overload: Sample,
    /// At half of it again, right after the overload.
    pub recovery: Outcome,
}

/// Latency of our media thread while another thread of its core never sleeps.
#[derive(Clone, Debug, Serialize)]
pub struct Scheduling {
    pub scheduling: &'static str,
    pub busy_control: bool,
    pub round: u32,
    pub sample: Sample,
}

#[derive(Clone, Debug, Serialize)]
pub struct Results {
    pub extent: Extent,
    pub cores: Cores,
    pub machine: Machine,
    pub costs: Vec<Cost>,
    pub limits: Vec<Limit>,
    pub scheduling: Vec<Scheduling>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub kernel: String,
    pub processor: String,
    pub cores: usize,
    /// Of the last minute, before and after.
    pub load: [String; 2],
    pub rtpengine: String,
}

pub struct Suite<'a> {
    pub network: &'a Network,
    pub cores: Cores,
    pub extent: Extent,
    pub kinds: Vec<Kind>,
}

impl Suite<'_> {
    /// Runs everything. A relay that fails is told in the results and does not end the bench.
    pub fn run(&self) -> Result<Results> {
        let mut results = Results {
            extent: self.extent.clone(),
            cores: self.cores,
            machine: machine(),
            costs: Vec::new(),
            limits: Vec::new(),
            scheduling: Vec::new(),
            failures: Vec::new(),
        };
        for round in 0..self.extent.rounds.max(self.extent.searches) {
            for kind in self.order(round) {
                if round < self.extent.rounds {
                    for &flows in &self.extent.flows {
                        let costs = self.costs(kind, round, flows);
                        keep(&mut results.costs, costs, &mut results.failures);
                    }
                }
                if round < self.extent.searches {
                    let limits = self.limits(kind, round);
                    keep(&mut results.limits, limits, &mut results.failures);
                }
            }
            if round < self.extent.searches && self.kinds.contains(&Kind::Ours) {
                let scheduling = self.scheduling(round);
                keep(&mut results.scheduling, scheduling, &mut results.failures);
            }
        }
        results.machine.load[1] = load();
        Ok(results)
    }

    /// Every relay comes first, second and last equally often.
    fn order(&self, round: u32) -> Vec<Kind> {
        let mut order = self.kinds.clone();
        let shift = round as usize % order.len().max(1);
        order.rotate_left(shift);
        order
    }

    fn bed(&self, kind: Kind, flows: u16, tuning: &[&str]) -> Result<Bed> {
        let tuning: Vec<String> = tuning.iter().map(|&text| text.to_owned()).collect();
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match Bed::new(kind, self.network, flows, self.cores, &tuning) {
                Ok(bed) => return Ok(bed),
                Err(error) => last = Some(error),
            }
            // Ports of the relay before may be taken for a moment.
            std::thread::sleep(PAUSE);
        }
        match last {
            Some(error) => Err(error),
            None => bail!("never tried"),
        }
    }

    fn load(&self, rate: f64, seconds: f64) -> Load {
        Load {
            rate,
            time: Duration::from_secs_f64(seconds),
        }
    }

    fn costs(&self, kind: Kind, round: u32, flows: u16) -> Result<Vec<Cost>> {
        let mut bed = self.bed(kind, flows, &[])?;
        let mut costs = Vec::new();
        for &rate in &self.extent.rates {
            let sample = bed.run(self.network, self.load(rate, self.extent.seconds))?;
            tell(kind, flows, &sample);
            costs.push(Cost {
                relay: kind,
                round,
                flows,
                rate,
                sample,
            });
        }
        Ok(costs)
    }

    fn limits(&self, kind: Kind, round: u32) -> Result<Vec<Limit>> {
        let mut limits = vec![self.limit(kind, round, &[])?];
        let doubled = limits.iter().all(|limit| limit.overload.outcome.reached());
        if kind == Kind::Ours && !doubled {
            limits.push(self.limit(kind, round, &HALF_A_CORE)?);
        }
        Ok(limits)
    }

    fn limit(&self, kind: Kind, round: u32, tuning: &[&str]) -> Result<Limit> {
        let flows = self.extent.search_flows;
        let (lossless, generator_bound) = self.search(kind, flows, tuning)?;
        let mut bed = self.bed(kind, flows, tuning)?;
        let half = self.load(lossless / 2.0, self.extent.seconds);
        let at_half = bed.run(self.network, half)?;
        tell(kind, flows, &at_half);
        let overload = self.load(lossless * 2.0, self.extent.overload_seconds);
        let overload = bed.run(self.network, overload)?;
        tell(kind, flows, &overload);
        let recovery = bed.run(self.network, half)?;
        tell(kind, flows, &recovery);
        Ok(Limit {
            relay: kind,
            half_core: !tuning.is_empty(),
            round,
            lossless,
            generator_bound,
            half: at_half,
            overload,
            recovery: recovery.outcome,
        })
    }

    /// The highest rate without loss, and whether it was the generator that ended the search.
    fn search(&self, kind: Kind, flows: u16, tuning: &[&str]) -> Result<(f64, bool)> {
        let (mut good, mut bad) = (0.0f64, None);
        let mut rate = SEARCH_START;
        while rate < SEARCH_END {
            // A new relay each time: one that was overloaded might not recover.
            let mut bed = self.bed(kind, flows, tuning)?;
            match self.is_lossless(&mut bed, kind, flows, rate)? {
                Verdict::Lossless(offered) => {
                    good = good.max(offered);
                    rate *= SEARCH_STEP;
                }
                Verdict::Lossy => {
                    bad = Some(rate);
                    break;
                }
                Verdict::GeneratorBound(offered) => return Ok((good.max(offered), true)),
            }
        }
        let Some(mut bad) = bad else {
            return Ok((good, true));
        };
        for _ in 0..SEARCH_HALVINGS {
            let middle = f64::midpoint(good, bad);
            let mut bed = self.bed(kind, flows, tuning)?;
            match self.is_lossless(&mut bed, kind, flows, middle)? {
                Verdict::Lossless(offered) => good = good.max(offered),
                Verdict::Lossy => bad = middle,
                Verdict::GeneratorBound(offered) => return Ok((good.max(offered), true)),
            }
        }
        Ok((good, false))
    }

    /// Two of three trials decide.
    fn is_lossless(&self, bed: &mut Bed, kind: Kind, flows: u16, rate: f64) -> Result<Verdict> {
        let (mut lossy, mut offered) = (0, Vec::new());
        let mut bound = 0;
        while lossy < 2 && offered.len() < 2 {
            let sample = bed.run(self.network, self.load(rate, self.extent.seconds))?;
            tell(kind, flows, &sample);
            let late = sample.outcome.latency_us.p99 > SUSTAINED_US;
            if late || sample.outcome.loss() > LOSSLESS {
                lossy += 1;
                continue;
            }
            bound += u32::from(!sample.outcome.reached());
            offered.push(sample.outcome.offered);
        }
        let best = offered.iter().copied().fold(0.0, f64::max);
        Ok(match (lossy, bound) {
            (2.., _) => Verdict::Lossy,
            (_, 2..) => Verdict::GeneratorBound(best),
            _ => Verdict::Lossless(best),
        })
    }

    fn scheduling(&self, round: u32) -> Result<Vec<Scheduling>> {
        let mut found = Vec::new();
        for busy_control in [false, true] {
            for scheduling in ["preferred", "nice", "ordinary"] {
                let mut tuning = vec!["--scheduling", scheduling];
                tuning.extend(busy_control.then_some("--busy-control"));
                let mut bed = self.bed(Kind::Ours, 100, &tuning)?;
                let load = self.load(SCHEDULING_RATE, self.extent.seconds);
                let sample = bed.run(self.network, load)?;
                tell(Kind::Ours, 100, &sample);
                found.push(Scheduling {
                    scheduling,
                    busy_control,
                    round,
                    sample,
                });
            }
        }
        Ok(found)
    }
}

enum Verdict {
    /// At this rate.
    Lossless(f64),
    Lossy,
    /// Without loss, but the generator fell behind.
    GeneratorBound(f64),
}

fn keep<T>(all: &mut Vec<T>, found: Result<Vec<T>>, failures: &mut Vec<String>) {
    match found {
        Ok(found) => all.extend(found),
        Err(error) => {
            eprintln!("failed: {error:#}");
            failures.push(format!("{error:#}"));
        }
    }
}

fn tell(kind: Kind, flows: u16, sample: &Sample) {
    let Outcome {
        offered,
        latency_us,
        ..
    } = sample.outcome;
    eprintln!(
        "{:9} {flows:5} flows {:7.0} packets/s: {:5.2} us each, {} lost, latency {:.0}/{:.0}/{:.0} us",
        kind.name(),
        offered,
        sample.cpu_us,
        sample.outcome.lost(),
        latency_us.p50,
        latency_us.p99,
        latency_us.p999,
    );
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

fn machine() -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned());
    let rtpengine = std::process::Command::new("rtpengine")
        .arg("--version")
        .output();
    let rtpengine = rtpengine.map(|output| {
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).trim().to_owned()
    });
    Machine {
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        processor,
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        load: [load(), String::new()],
        rtpengine: rtpengine.unwrap_or_else(|_| "not installed".to_owned()),
    }
}
