//! RTP relays beside each other: the media thread of sip-edge, rtpengine, and the relay that anybody would write first.
//!
//! `cargo run --release -p edge-bench --bin relay compare [--quick]` runs each in a network namespace of its own on one core, fed by
//! a generator on another, and writes `bench/report/relay.md`, plots and `relay.json`; `relay try` runs one load through one
//! relay. Needs root, two CPUs and rtpengine (Debian: rtpengine-daemon).

mod generator;
mod measure;
mod netns;
mod packet;
mod plan;
mod process;
mod relay;
mod report;
mod suite;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use generator::Load;
use measure::{Bed, Cores};
use netns::Network;
use relay::{Kind, ours};
use std::path::PathBuf;
use std::time::Duration;
use suite::{Extent, Suite};

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// All relays beside each other; writes a report.
    Compare(Compare),
    /// One load through one relay, as JSON.
    Try(Try),
    /// (internal) The media thread of sip-edge as a relay.
    #[command(hide = true)]
    RelayOurs {
        #[arg(long)]
        legs: u16,
        #[arg(long)]
        core: usize,
        #[command(flatten)]
        tuning: ours::Tuning,
    },
    /// (internal) The plain relay.
    #[command(hide = true)]
    RelayPlain {
        #[arg(long)]
        legs: u16,
        #[arg(long)]
        core: usize,
    },
}

#[derive(clap::Args)]
struct Compare {
    /// Only shows that everything runs.
    #[arg(long)]
    quick: bool,
    /// Where the report goes.
    #[arg(long, default_value = "bench/report")]
    report: PathBuf,
    /// Only these relays.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Kind>,
    #[arg(long)]
    rounds: Option<u32>,
    #[arg(long)]
    searches: Option<u32>,
    #[arg(long, default_value_t = 1)]
    relay_core: usize,
    #[arg(long, default_value_t = 0)]
    generator_core: usize,
}

#[derive(clap::Args)]
struct Try {
    #[arg(long, value_enum, default_value = "ours")]
    relay: Kind,
    #[arg(long, default_value_t = 1000)]
    flows: u16,
    /// Packets per second over all flows.
    #[arg(long, default_value_t = 300_000.0)]
    rate: f64,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    #[arg(long, default_value_t = 1)]
    times: u32,
    #[arg(long, default_value_t = 1)]
    relay_core: usize,
    #[arg(long, default_value_t = 0)]
    generator_core: usize,
    /// For our own relay.
    #[arg(last = true)]
    tuning: Vec<String>,
}

fn main() -> Result<()> {
    let command = Arguments::parse().command;
    // A relay was started preferred.
    let is_relay = matches!(
        command,
        Command::RelayOurs { .. } | Command::RelayPlain { .. }
    );
    if !is_relay && let Some(status) = process::in_own_session()? {
        std::process::exit(status);
    }
    match command {
        Command::RelayOurs { legs, core, tuning } => ours::run(legs, core, &tuning),
        Command::RelayPlain { legs, core } => relay::plain::run(legs, core),
        Command::Compare(arguments) => compare(&arguments),
        Command::Try(arguments) => try_once(&arguments),
    }
}

fn compare(arguments: &Compare) -> Result<()> {
    let mut extent = if arguments.quick {
        Extent::quick()
    } else {
        Extent::full()
    };
    extent.rounds = arguments.rounds.unwrap_or(extent.rounds);
    extent.searches = arguments.searches.unwrap_or(extent.searches);
    let network = Network::new()?;
    let suite = Suite {
        network: &network,
        cores: Cores {
            relay: arguments.relay_core,
            generator: arguments.generator_core,
        },
        extent,
        kinds: if arguments.only.is_empty() {
            Kind::ALL.to_vec()
        } else {
            arguments.only.clone()
        },
    };
    let results = suite.run()?;
    println!("{}", report::write(&results, &arguments.report)?);
    ensure!(
        results.failures.is_empty(),
        "{} measurements failed",
        results.failures.len()
    );
    Ok(())
}

fn try_once(arguments: &Try) -> Result<()> {
    ensure!(
        (1..=plan::MAX_FLOWS).contains(&arguments.flows),
        "1 to {} flows",
        plan::MAX_FLOWS
    );
    let network = Network::new()?;
    let cores = Cores {
        relay: arguments.relay_core,
        generator: arguments.generator_core,
    };
    let mut bed = Bed::new(
        arguments.relay,
        &network,
        arguments.flows,
        cores,
        &arguments.tuning,
    )?;
    eprintln!("relay process {}", bed.relay.pid());
    for _ in 0..arguments.times {
        let load = Load {
            rate: arguments.rate,
            time: Duration::from_secs_f64(arguments.seconds),
        };
        let sample = bed.run(&network, load)?;
        println!("{}", serde_json::to_string(&sample)?);
    }
    if arguments.relay == Kind::Ours {
        eprintln!("{}", bed.relay.counters()?);
    }
    Ok(())
}
