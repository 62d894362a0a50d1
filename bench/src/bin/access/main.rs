//! What the XDP allowlist costs, and what a flood of unlisted packets costs the calls with and without it.
//!
//! `cargo run --release -p edge-bench --bin access [verdicts] [flood]`; both parts without an argument. Needs root, for the
//! second part SIPp and two CPUs. Writes `bench/report/access.md`, `access.json`
//! and, with the flood, `access-flood.svg`.

mod flood;
#[path = "../../../../edge/tests/xdp_support/frame.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod frame;
#[path = "../../../../edge/tests/xdp_support/netns.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod netns;
mod verdicts;

use anyhow::{Context as _, bail};
use serde::Serialize;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Everything that was measured.
#[derive(Serialize, Default)]
struct Report {
    kernel: String,
    cpu: String,
    verdicts: Option<verdicts::Measured>,
    flood: Option<Vec<flood::Measured>>,
}

fn main() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("root is needed, to load XDP programs and to make network namespaces");
    }
    let parts: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    let mut report = Report {
        kernel: first_line("/proc/sys/kernel/osrelease"),
        cpu: cpu(),
        ..Report::default()
    };
    if wanted("verdicts") {
        report.verdicts = Some(verdicts::measure()?);
    }
    if wanted("flood") {
        report.flood = flood::measure()?;
    }
    let text = markdown(&report)?;
    println!("{text}");
    let directory = Path::new("bench/report");
    fs::create_dir_all(directory)
        .and_then(|()| match &report.flood {
            Some(runs) => fs::write(directory.join("access-flood.svg"), flood::plot(runs)),
            None => Ok(()),
        })
        .and_then(|()| fs::write(directory.join("access.md"), &text))
        .and_then(|()| {
            fs::write(
                directory.join("access.json"),
                serde_json::to_vec_pretty(&report)?,
            )
        })
        .context("writing bench/report")
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

fn markdown(report: &Report) -> anyhow::Result<String> {
    let mut text = String::from("# Access: the XDP allowlist\n\n");
    writeln!(text, "Linux {}, {}.\n", report.kernel, report.cpu)?;
    if let Some(measured) = &report.verdicts {
        verdicts::tell(&mut text, measured)?;
    }
    if let Some(measured) = &report.flood {
        flood::tell(&mut text, measured)?;
    }
    Ok(text)
}
