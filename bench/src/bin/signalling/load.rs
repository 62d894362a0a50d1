//! One scenario of the load kit at one rate, and what SIPp says about it.

use crate::subject::{PEERS_CPU, Subject, kit};
use anyhow::{Context as _, Result, bail, ensure};
use edge_bench::process::Process;
use edge_bench::stats::quantile;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// What to play.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Load {
    pub scenario: &'static str,
    /// New calls per second.
    pub rate: u32,
    pub calls: u32,
    /// How long the carrier, or of transfers the human, talks.
    pub hold_ms: u32,
}

impl Load {
    /// `seconds` of it.
    pub fn of(scenario: &'static str, rate: u32, seconds: u32) -> Load {
        Load {
            scenario,
            rate,
            calls: rate * seconds,
            hold_ms: 500,
        }
    }

    /// What a call takes besides signalling.
    fn talk(&self) -> Duration {
        // The platform waits for half a second before it transfers: see `run`.
        let before = if self.scenario == "transfer" { 500 } else { 0 };
        Duration::from_millis((self.hold_ms + before).into())
    }
}

/// Upper bounds, in milliseconds; infinite: more than a second.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
}

impl Percentiles {
    pub fn of(buckets: &[(f64, u64)]) -> Option<Percentiles> {
        Some(Percentiles {
            p50: quantile(buckets, 0.5)?,
            p90: quantile(buckets, 0.9)?,
            p99: quantile(buckets, 0.99)?,
        })
    }
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub load: Load,
    /// Every call of every party went as its scenario says.
    pub clean: bool,
    /// Calls per second that were really begun.
    pub rate: f64,
    /// Calls that failed, as the carrier counts; `unexpected`: those of them that met a message which their scenario does not have.
    pub failed: u64,
    pub unexpected: u64,
    /// Calls whose INVITE was answered with 200, and with 503 and Retry-After.
    pub accepted: u64,
    pub refused: u64,
    /// INVITE to 200, INVITE to 503, BYE to 200 at the carrier.
    pub setup_ms: Option<Percentiles>,
    pub refusal_ms: Option<Percentiles>,
    pub release_ms: Option<Percentiles>,
    /// Processor time per call.
    pub cpu_us: f64,
    /// Share of its core.
    pub busy: f64,
}

impl Outcome {
    /// Whether the rate was held without a failure.
    pub fn sustained(&self) -> bool {
        self.clean && self.rate >= 0.95 * f64::from(self.load.rate)
    }
}

/// Plays `load`; `meanwhile` is done ten times a second.
pub fn play(subject: &Subject, load: Load, mut meanwhile: impl FnMut()) -> Result<Outcome> {
    let out = subject.directory().join("run.out");
    let output = fs::File::create(&out)?;
    let errors = output.try_clone()?;
    let script = kit().join("run");
    let cpu_before = subject.process.cpu();
    let begun = Instant::now();
    let script = script.to_str().context("a path that is no text")?;
    let mut run = Process::start(script, PEERS_CPU, |command| {
        let places = [("CARRIER", 2), ("PLATFORM", 3), ("HUMAN", 4)];
        command
            .arg(load.scenario)
            .env("TMPDIR", subject.directory())
            .env("EDGE", format!("{}:5060", subject.address(1)))
            .envs(places.map(|(name, last)| (name, subject.address(last))))
            .env("RATE", load.rate.to_string())
            .env("CALLS", load.calls.to_string())
            .env("HOLD_MS", load.hold_ms.to_string())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
    })?;
    let wanted = Duration::from_secs((load.calls / load.rate).into()) + load.talk();
    let deadline = begun + wanted * 2 + Duration::from_secs(15);
    let clean = loop {
        if let Some(clean) = run.ended()? {
            break clean;
        }
        if Instant::now() > deadline {
            break false;
        }
        meanwhile();
        std::thread::sleep(Duration::from_millis(100));
    };
    let cpu = subject.process.cpu().saturating_sub(cpu_before);
    drop(run);
    let text = fs::read_to_string(&out)?;
    let named = text.lines().find_map(|l| l.strip_prefix("results are in "));
    let statistics = match named {
        Some(directory) => statistics(Path::new(directory), load.scenario)?,
        // It was stopped before it could say so.
        None if !clean => Vec::new(),
        None => bail!("the load kit does not say where its results are:\n{text}"),
    };
    let number = |name: &str| number(&statistics, name).unwrap_or(0);
    let [setup, refusal] = ["setup", "refused"].map(|name| repartition(&statistics, name));
    let count = |buckets: &[(f64, u64)]| buckets.iter().map(|(_, count)| count).sum();
    let elapsed = elapsed(&statistics).unwrap_or(begun.elapsed());
    let active = elapsed.saturating_sub(load.talk()).as_secs_f64().max(0.001);
    Ok(Outcome {
        load,
        clean,
        rate: number("TotalCallCreated") as f64 / active,
        failed: number("FailedCall(C)"),
        unexpected: number("FailedUnexpectedMessage(C)"),
        accepted: count(&setup),
        refused: count(&refusal),
        setup_ms: Percentiles::of(&setup),
        refusal_ms: Percentiles::of(&refusal),
        release_ms: Percentiles::of(&repartition(&statistics, "release")),
        cpu_us: cpu.as_secs_f64() * 1e6 / f64::from(load.calls),
        busy: cpu.as_secs_f64() / elapsed.as_secs_f64().max(0.001),
    })
}

/// Names and values of the last line of the carrier's statistics.
fn statistics(directory: &Path, scenario: &str) -> Result<Vec<(String, String)>> {
    let file: PathBuf = directory.join(format!("{scenario}-caller.csv"));
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let mut lines = text.lines();
    let names = lines.next().unwrap_or_default();
    let fields = names.split(';').count();
    // The last one may be cut off, where SIPp was stopped.
    let values = lines.rfind(|line| line.split(';').count() >= fields);
    let values = values.unwrap_or_default().split(';');
    let all: Vec<_> = names
        .split(';')
        .zip(values)
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    ensure!(!all.is_empty(), "{} is empty", file.display());
    Ok(all)
}

fn value<'a>(statistics: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let entry = statistics.iter().find(|(known, _)| known == name)?;
    Some(&entry.1)
}

fn number(statistics: &[(String, String)], name: &str) -> Option<u64> {
    value(statistics, name)?.parse().ok()
}

/// From the start to the last line.
fn elapsed(statistics: &[(String, String)]) -> Option<Duration> {
    // Date, time and seconds since 1970, with tabs between.
    let seconds = |name: &str| value(statistics, name)?.split('\t').nth(2)?.parse().ok();
    let (from, to): (f64, f64) = (seconds("StartTime")?, seconds("CurrentTime")?);
    Duration::try_from_secs_f64(to - from).ok()
}

/// Buckets of a response time in milliseconds: upper bound and count.
fn repartition(statistics: &[(String, String)], name: &str) -> Vec<(f64, u64)> {
    let prefix = format!("ResponseTimeRepartition{name}_");
    let buckets = statistics.iter().filter_map(|(name, count)| {
        let limit = name.strip_prefix(&prefix)?;
        let bound = match limit.strip_prefix('<') {
            Some(bound) => bound.parse().ok()?,
            None => f64::INFINITY,
        };
        Some((bound, count.parse().ok()?))
    });
    buckets.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sipp_writes_is_read() {
        let entry = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let statistics = [
            ("StartTime", "2026-01-01\t00:00:00.000000\t1000.250000"),
            ("CurrentTime", "2026-01-01\t00:00:02.000000\t1002.500000"),
            ("FailedCall(C)", "3"),
            ("ResponseTimeRepartitionsetup", ""),
            ("ResponseTimeRepartitionsetup_<1", "98"),
            ("ResponseTimeRepartitionsetup_<2", "1"),
            ("ResponseTimeRepartitionsetup_>=2", "1"),
        ]
        .map(entry);
        assert_eq!(elapsed(&statistics), Some(Duration::from_millis(2250)));
        assert_eq!(number(&statistics, "FailedCall(C)"), Some(3));
        let buckets = repartition(&statistics, "setup");
        assert_eq!(buckets, [(1.0, 98), (2.0, 1), (f64::INFINITY, 1)]);
        let percentiles = Percentiles::of(&buckets).unwrap();
        assert_eq!((percentiles.p50, percentiles.p99), (1.0, 2.0));
    }
}
