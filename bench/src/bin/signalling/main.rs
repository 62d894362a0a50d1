//! Signalling under load: the edge on one core, SIPp with the load kit of `bench/sipp` on another, kamailio in the edge's
//! place for comparison.
//!
//! `cargo run --release -p edge-bench --bin signalling [--quick]` writes `bench/report/signalling.md`, plots and
//! `signalling.json`. Needs SIPp and two CPUs, and kamailio for the comparison.

mod load;
mod report;
mod subject;
mod suite;

use anyhow::{Result, ensure};
use clap::Parser;
use std::path::PathBuf;
use std::process::Command;

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    /// Only shows that everything runs.
    #[arg(long)]
    quick: bool,
    /// Where the report goes.
    #[arg(long, default_value = "bench/report")]
    report: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let cpus = std::thread::available_parallelism()?.get();
    if cpus < 2 || !there("sipp") {
        println!("SKIPPED: it needs SIPp (apt install sip-tester) and two CPUs");
        return Ok(());
    }
    ensure!(
        subject::kit().join("run").exists(),
        "the load kit is not where it was built: {}",
        subject::kit().display()
    );
    let results = suite::run(arguments.quick, there("kamailio"))?;
    let text = report::write(&results, &arguments.report)?;
    println!("{text}");
    Ok(())
}

fn there(program: &str) -> bool {
    let found = Command::new(program).arg("-v").output().is_ok();
    if !found {
        eprintln!("{program} is not installed");
    }
    found
}
