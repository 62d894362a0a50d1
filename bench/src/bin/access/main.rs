//! What the XDP allowlist costs, and what a flood of unlisted packets costs the calls with and without it.
//!
//! `cargo run --release -p edge-bench --bin access [--quick] [verdicts] [flood]`; both parts without an argument. Needs root, for
//! the second part SIPp and two CPUs. Writes `bench/report/access.md`, `access.json` and, with the flood, `access-flood.svg`.

mod flood;
#[path = "../../../../edge/tests/xdp_support/frame.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod frame;
#[path = "../../../../edge/tests/xdp_support/netns.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod netns;
mod verdicts;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use serde::Serialize;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    /// Only these parts.
    parts: Vec<Part>,
    /// Only shows that everything runs.
    #[arg(long)]
    quick: bool,
    /// Where the report goes.
    #[arg(long, default_value = "bench/report")]
    report: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The time of one verdict.
    Verdicts,
    /// Calls beside a flood.
    Flood,
}

/// Everything that was measured.
#[derive(Serialize, Default)]
struct Report {
    kernel: String,
    cpu: String,
    verdicts: Option<verdicts::Measured>,
    flood: Option<Vec<flood::Measured>>,
    /// What could not be measured, and why.
    failures: Vec<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if !rustix::process::geteuid().is_root() {
        bail!("root is needed, to load XDP programs and to make network namespaces");
    }
    let wanted = |part| arguments.parts.is_empty() || arguments.parts.contains(&part);
    let mut report = Report {
        kernel: first_line("/proc/sys/kernel/osrelease"),
        cpu: cpu(),
        ..Report::default()
    };
    // A part that fails is told in the report, and loses nothing of the other.
    if wanted(Part::Verdicts) {
        let measured = verdicts::measure().map(Some);
        report.verdicts = keep(measured, "verdicts", &mut report.failures);
    }
    if wanted(Part::Flood) {
        let measured = flood::measure(arguments.quick);
        report.flood = keep(measured, "flood", &mut report.failures);
    }
    let text = markdown(&report)?;
    println!("{text}");
    let put = |name: &str, text: &str| {
        let path = arguments.report.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())
    };
    fs::create_dir_all(&arguments.report)
        .with_context(|| arguments.report.display().to_string())?;
    if let Some(runs) = &report.flood {
        put("access-flood.svg", &flood::plot(runs))?;
    }
    put("access.md", &text)?;
    put("access.json", &serde_json::to_string_pretty(&report)?)?;
    let failed = report.failures.len();
    ensure!(failed == 0, "{failed} parts failed");
    Ok(())
}

fn keep<T>(measured: Result<Option<T>>, name: &str, failures: &mut Vec<String>) -> Option<T> {
    measured.unwrap_or_else(|error| {
        let failure = format!("{name}: {error:#}");
        eprintln!("FAILED {failure}");
        failures.push(failure);
        None
    })
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
    name.map(|name| name.trim_start_matches(['\t', ' ', ':']).to_owned())
        .unwrap_or_default()
}

fn markdown(report: &Report) -> Result<String> {
    let mut text = String::from("# Access: the XDP allowlist\n\n");
    writeln!(text, "Linux {}, {}.\n", report.kernel, report.cpu)?;
    if !report.failures.is_empty() {
        writeln!(text, "What failed, and is missing below:\n")?;
        for failure in &report.failures {
            writeln!(text, "- {failure}")?;
        }
        writeln!(text)?;
    }
    if let Some(measured) = &report.verdicts {
        verdicts::tell(&mut text, measured)?;
    }
    if let Some(measured) = &report.flood {
        flood::tell(&mut text, measured)?;
    }
    Ok(text)
}
