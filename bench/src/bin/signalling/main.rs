//! Signalling under load: the edge on one core, SIPp with the load kit of `bench/sipp` on another, kamailio in the edge's
//! place for comparison.
//!
//! `cargo run --release -p edge-bench --bin signalling [--quick]` writes `bench/report/signalling.md`, plots and
//! `signalling.json`; `signalling voice` tells what a call hears beside too much signalling, `signalling overload` what becomes of
//! more calls than the edge may take, `signalling memory` what established calls take. Needs SIPp and two CPUs, kamailio for the
//! comparison, and root for all of its calls at once.

mod load;
mod overload;
mod report;
mod subject;
mod suite;
mod voice;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use edge_bench::namespace;
use serde::Serialize;
use std::path::PathBuf;
use std::process::Command;
use suite::Ports;

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    /// Only this part, told and not written.
    part: Option<Part>,
    /// Only shows that everything runs.
    #[arg(long)]
    quick: bool,
    /// Where the report goes.
    #[arg(long, default_value = "bench/report")]
    report: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    /// A call's media beside too much signalling.
    Voice,
    /// Memory of established calls.
    Memory,
    /// More calls than the edge may or can take.
    Overload,
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
    // Where media ports need no sockets, the limit of open files does not limit calls.
    let ports = match namespace::enter(subject::PORTS)? {
        true => Ports::Free,
        false => {
            eprintln!(
                "not root, so not in a network namespace of its own, and each media port has a socket"
            );
            Ports::Sockets
        }
    };
    match arguments.part {
        None => {}
        Some(Part::Voice) => return print(&suite::voice(arguments.quick)?),
        Some(Part::Overload) => return print(&suite::overload(arguments.quick)?),
        Some(Part::Memory) => return print(&suite::memory(arguments.quick, ports)?),
    }
    let results = suite::run(arguments.quick, there("kamailio"), ports);
    let text = report::write(&results, &arguments.report)?;
    println!("{text}");
    ensure!(
        results.failures.is_empty(),
        "{} parts failed",
        results.failures.len()
    );
    Ok(())
}

fn print(results: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(results)?);
    Ok(())
}

fn there(program: &str) -> bool {
    let found = Command::new(program).arg("-v").output().is_ok();
    if !found {
        eprintln!("{program} is not installed");
    }
    found
}
