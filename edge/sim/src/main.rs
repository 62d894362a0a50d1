//! Plays seeds until one breaks a rule.
//!
//! `edge-sim --seeds N [--first S]` plays N seeds; `edge-sim --seed S [--verbose]` plays one, with its trace.

use edge_sim::coverage::Coverage;
use edge_sim::scenario::Scenario;
use edge_sim::subject::real;
use edge_sim::{Outcome, Trace, play, run, run_traced};
use std::process::ExitCode;

const USAGE: &str = "usage: edge-sim [--seeds N] [--first S] | --seed S [--verbose]";

struct Options {
    first: u64,
    seeds: u64,
    /// Play this one only.
    seed: Option<u64>,
    verbose: bool,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        first: 0,
        seeds: 200,
        seed: None,
        verbose: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let text = arguments.next().unwrap_or_default();
            text.parse::<u64>()
                .map_err(|_| format!("{argument} wants a number, not {text:?}"))
        };
        match argument.as_str() {
            "--first" => options.first = number()?,
            "--seeds" => options.seeds = number()?,
            "--seed" => options.seed = Some(number()?),
            "--verbose" => options.verbose = true,
            _ => return Err(format!("{argument} is unknown")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(fault) => {
            eprintln!("{fault}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Some(seed) = options.seed {
        println!("{:#?}", Scenario::draw(seed));
        let trace = match options.verbose {
            true => Trace::live(),
            false => Trace::off(),
        };
        let outcome = play(Scenario::draw(seed), &real, trace);
        println!("{}", outcome.coverage);
        println!(
            "seed {seed}: {:?}, fingerprint {:016x}",
            outcome.ended_at, outcome.fingerprint
        );
        return verdict(&outcome);
    }
    let mut coverage = Coverage::default();
    for seed in options.first..options.first.saturating_add(options.seeds) {
        let outcome = run(seed);
        coverage.add(&outcome.coverage);
        if outcome.violation.is_some() {
            let traced = run_traced(seed);
            for line in &traced.trace {
                println!("{line}");
            }
            return verdict(&outcome);
        }
    }
    println!(
        "{} seeds from {} on, no violation",
        options.seeds, options.first
    );
    println!("{coverage}");
    ExitCode::SUCCESS
}

/// Says what was violated and how to see it again.
fn verdict(outcome: &Outcome) -> ExitCode {
    let Some(violation) = &outcome.violation else {
        return ExitCode::SUCCESS;
    };
    println!(
        "seed {}: {} violated at {:?}: {}",
        outcome.seed, violation.checker, violation.at, violation.text
    );
    println!(
        "again: cargo run -p edge-sim -- --seed {} --verbose",
        outcome.seed
    );
    ExitCode::FAILURE
}
