//! The results as Markdown, plots and JSON.

use crate::load::{Outcome, Percentiles};
use crate::overload::Overload;
use crate::subject::{CPU, Kind, PEERS_CPU};
use crate::suite::{RATES, Results, Round};
use crate::voice::{Heard, Voice};
use anyhow::{Context as _, Result};
use edge_bench::stats::Spread;
use edge_bench::svg::{Bar, Group, bars};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Writes `signalling.md`, `signalling.json` and the plots into `directory`; returns the Markdown.
pub fn write(results: &Results, directory: &Path) -> Result<String> {
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let put = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())
    };
    put("signalling.json", &serde_json::to_string_pretty(results)?)?;
    put("signalling-cpu.svg", &cpu_plot(results))?;
    put("signalling-memory.svg", &memory_plot(results))?;
    let mut text = String::new();
    tell(&mut text, results)?;
    put("signalling.md", &text)?;
    Ok(text)
}

fn tell(text: &mut String, results: &Results) -> Result<()> {
    writeln!(text, "# Signalling\n")?;
    writeln!(
        text,
        "{}, Linux {}, {:.0} s; load average {} before, {} after.\n",
        results.cpu,
        results.kernel,
        results.seconds,
        results.load_average[0],
        results.load_average[1]
    )?;
    writeln!(
        text,
        "The edge (release build, `cores = [{CPU}]`, the load kit's `staging.toml`) on CPU {CPU}, all SIPp parties of the load kit on \
         CPU {PEERS_CPU}, TCP over loopback, one connection each. A call is INVITE, 100, 180, 200, ACK, BYE, 200 on both sides. CPU \
         is user and system time of the process with all its threads and children (/proc/PID/stat) per call, media sockets, CDR and \
         journal included.\n"
    )?;
    if !results.failures.is_empty() {
        writeln!(text, "What failed, and is missing below:\n")?;
        for failure in &results.failures {
            writeln!(text, "- {failure}")?;
        }
        writeln!(text)?;
    }
    cpu(text, results)?;
    rates(text, results)?;
    times(text, results)?;
    overload(text, &results.overload)?;
    memory(text, results)?;
    voice(text, &results.voice)?;
    writeln!(
        text,
        "\n![CPU](signalling-cpu.svg)\n![memory](signalling-memory.svg)"
    )?;
    Ok(())
}

fn cost(results: &Results, kind: Kind, rate: u32) -> Option<Spread> {
    // Where calls failed, or came late and then many at once, time per call says nothing.
    let such = |round: &&Round| {
        round.kind == kind && round.outcome.load.rate == rate && round.outcome.sustained()
    };
    Spread::of(results.rounds.iter().filter(such).map(|r| r.outcome.cpu_us))
}

fn cpu(text: &mut String, results: &Results) -> Result<()> {
    writeln!(text, "## CPU per call\n")?;
    writeln!(
        text,
        "kamailio is a stateful proxy with record-routing and nothing else (one process for TCP), with the same SIPp parties at the \
         same rates in alternated rounds. Median (least-most), in microseconds; to reach: 0.5.\n"
    )?;
    writeln!(
        text,
        "| calls/s | sip-edge | kamailio | ratio |\n|---|---|---|---|"
    )?;
    for rate in RATES {
        let [edge, other] = Kind::ALL.map(|kind| cost(results, kind, rate));
        let told = |spread: Option<Spread>| spread.map_or("-".to_owned(), |s| s.text(0));
        let ratio = edge
            .zip(other)
            .map(|(edge, other)| edge.median / other.median);
        let ratio = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        writeln!(
            text,
            "| {rate} | {} | {} | {ratio} |",
            told(edge),
            told(other)
        )?;
    }
    let failed = results
        .rounds
        .iter()
        .filter(|round| !round.outcome.sustained())
        .count();
    writeln!(
        text,
        "\nOf {} runs, {failed} had a failure or did not keep the rate, and do not count.",
        results.rounds.len()
    )?;
    Ok(())
}

fn rates(text: &mut String, results: &Results) -> Result<()> {
    writeln!(text, "\n## Highest rates\n")?;
    writeln!(
        text,
        "Sustained for 4 s: every call of every party went as its scenario says, and at least 95 % of the rate was begun. SIPp has one \
         core for all its parties: where the edge's core was not busy, SIPp was the limit.\n"
    )?;
    writeln!(
        text,
        "| | per second | core busy then | tried |\n|---|---|---|---|"
    )?;
    for kind in Kind::ALL {
        let steps = results.calls_search.iter().filter(|r| r.kind == kind);
        let steps: Vec<&Outcome> = steps.map(|round| &round.outcome).collect();
        highest(text, &format!("calls, {}", kind.name()), &steps)?;
    }
    let steps: Vec<&Outcome> = results.transfers_search.iter().collect();
    highest(text, "transfers, sip-edge", &steps)
}

fn highest(text: &mut String, name: &str, steps: &[&Outcome]) -> Result<()> {
    if steps.is_empty() {
        return Ok(());
    }
    let sustained = steps.iter().filter(|step| step.sustained());
    let best = sustained.max_by_key(|step| step.load.rate);
    let (rate, busy) = match best {
        Some(best) => (
            best.load.rate.to_string(),
            format!("{:.0} %", best.busy * 100.0),
        ),
        None => ("none".to_owned(), "-".to_owned()),
    };
    let tried: Vec<String> = steps
        .iter()
        .map(|step| {
            let verdict = if step.sustained() { "yes" } else { "no" };
            format!("{} {verdict}", step.load.rate)
        })
        .collect();
    writeln!(text, "| {name} | {rate} | {busy} | {} |", tried.join(", "))?;
    Ok(())
}

fn times(text: &mut String, results: &Results) -> Result<()> {
    writeln!(text, "\n## Response times\n")?;
    writeln!(
        text,
        "Upper bounds of the buckets, in milliseconds, of the last round. SIPp's: INVITE to 200 with the platform's answer in it, BYE \
         to 200. The edge's: `sip_edge_sip_response_seconds` of the carrier's INVITEs, of all rates.\n"
    )?;
    writeln!(text, "| | p50 | p90 | p99 |\n|---|---|---|---|")?;
    for rate in RATES {
        for kind in Kind::ALL {
            let such = |round: &&Round| round.kind == kind && round.outcome.load.rate == rate;
            let Some(round) = results.rounds.iter().rfind(such) else {
                continue;
            };
            let (name, outcome) = (kind.name(), &round.outcome);
            let told = |what: &str| format!("{name}, {what} at {rate}/s (SIPp)");
            row(text, &told("INVITE"), outcome.setup_ms)?;
            row(text, &told("BYE"), outcome.release_ms)?;
        }
    }
    row(text, "sip-edge, INVITE (its own)", results.edge_response_ms)
}

fn row(text: &mut String, name: &str, percentiles: Option<Percentiles>) -> Result<()> {
    if let Some(Percentiles { p50, p90, p99 }) = percentiles {
        writeln!(text, "| {name} | {p50} | {p90} | {p99} |")?;
    }
    Ok(())
}

fn overload(text: &mut String, runs: &[Overload]) -> Result<()> {
    writeln!(text, "\n## More calls than it may take\n")?;
    writeln!(
        text,
        "The load kit's `overload` against a limit of the carrier's trunk, or beside programs that take its core from it. Accepted: 200, \
         and every message of the call up to the end; refused: 503 with Retry-After; otherwise: any other answer; failed: all that did \
         neither. Response times as SIPp sees them, p50 / p99, upper bounds in milliseconds. What refusing costs is what keeps the core \
         busier than the first line does, which has about as many accepted calls and nothing to refuse.\n"
    )?;
    writeln!(
        text,
        "| limit | offered | accepted | refused | otherwise | failed | 200 after | 503 after | core busy |\n\
         |---|---|---|---|---|---|---|---|---|"
    )?;
    for run in runs {
        let outcome = &run.outcome;
        let told = |percentiles: Option<Percentiles>| match percentiles {
            Some(Percentiles { p50, p99, .. }) => format!("{p50} / {p99}"),
            None => "-".to_owned(),
        };
        writeln!(
            text,
            "| {} | {} at {}/s | {} | {} | {} | {} | {} | {} | {:.0} % |",
            run.limit.name(),
            outcome.load.calls,
            outcome.load.rate,
            outcome.accepted,
            outcome.refused,
            outcome.unexpected,
            outcome.failed,
            told(outcome.setup_ms),
            told(outcome.refusal_ms),
            outcome.busy * 100.0
        )?;
    }
    Ok(())
}

fn memory(text: &mut String, results: &Results) -> Result<()> {
    let memory = &results.memory;
    let mb = |bytes: u64| bytes as f64 / 1e6;
    writeln!(text, "\n## Memory\n")?;
    writeln!(
        text,
        "Resident memory of the process: {:.1} MB at the start, {:.1} MB (the baseline) after the first calls, when the book of ended \
         calls is full.\n",
        mb(memory.at_start),
        mb(memory.baseline)
    )?;
    writeln!(
        text,
        "| calls at once | MB | kB per call | MB when they had ended | back | over the baseline |\n|---|---|---|---|---|---|"
    )?;
    for held in &memory.established {
        writeln!(
            text,
            "| {} | {:.1} | {:.1} | {:.1} | {:.1} MB after {:.1} s | {:+.1} % |",
            held.calls,
            mb(held.rss),
            held.per_call / 1e3,
            mb(held.at_end),
            mb(held.after),
            held.after_s,
            (held.after as f64 / memory.baseline.max(1) as f64 - 1.0) * 100.0
        )?;
        if held.calls < held.wanted {
            writeln!(text)?;
            writeln!(
                text,
                "{} calls were wanted: a call takes four sockets, and the limit of open files of this machine is {}.",
                held.wanted, memory.files
            )?;
        }
    }
    Ok(())
}

fn voice(text: &mut String, rounds: &[Voice]) -> Result<()> {
    let Some(first) = rounds.first() else {
        return Ok(());
    };
    writeln!(text, "\n## A call's media beside too much signalling\n")?;
    writeln!(
        text,
        "One established call, RTP of 172 octets, 50 packets/s each way, numbered; from the sender's send to the kernel's receive \
         timestamp at the other party, in microseconds (loopback and relay). First while nothing else happens, then while the load \
         kit's `overload` calls {}/s of {} ms each on the same core; the media thread was a {} thread. Medians (least-most) of {} \
         rounds; lost: of all of them.\n",
        first.load.load.rate,
        first.load.load.hold_ms,
        first.media_thread,
        rounds.len()
    )?;
    writeln!(
        text,
        "| | p50 | p99 | most | lost | core busy |\n|---|---|---|---|---|---|"
    )?;
    type State = fn(&Voice) -> &Heard;
    let states: [(&str, State); 2] = [
        ("no signalling", |voice| &voice.quiet),
        ("overload", |voice| &voice.loaded),
    ];
    for (name, state) in states {
        let spread = |value: fn(&Heard) -> f64, digits| {
            let spread = Spread::of(rounds.iter().map(|round| value(state(round))));
            spread.map_or("-".to_owned(), |spread| spread.text(digits))
        };
        let sum = |value: fn(&Heard) -> u64| rounds.iter().map(|r| value(state(r))).sum::<u64>();
        writeln!(
            text,
            "| {name} | {} | {} | {} | {} of {} | {} % |",
            spread(|heard| heard.p50_us, 0),
            spread(|heard| heard.p99_us, 0),
            spread(|heard| heard.max_us, 0),
            sum(|heard| heard.lost),
            sum(|heard| heard.sent),
            spread(|heard| heard.busy * 100.0, 0)
        )?;
    }
    let begun = Spread::of(rounds.iter().map(|round| round.load.rate));
    let failed: u64 = rounds.iter().map(|round| round.load.failed).sum();
    writeln!(
        text,
        "\nOf the overload {} calls/s were begun; {failed} failed.",
        begun.map_or("-".to_owned(), |spread| spread.text(0))
    )?;
    Ok(())
}

fn bar(name: &'static str, spread: Spread) -> Bar {
    Bar {
        name,
        value: spread.median,
        least: spread.least,
        most: spread.most,
    }
}

fn cpu_plot(results: &Results) -> String {
    let groups: Vec<Group> = RATES
        .iter()
        .map(|&rate| Group {
            name: format!("{rate} calls/s"),
            bars: Kind::ALL
                .iter()
                .filter_map(|&kind| Some(bar(kind.name(), cost(results, kind, rate)?)))
                .collect(),
        })
        .collect();
    bars("CPU per call, microseconds", &groups)
}

fn memory_plot(results: &Results) -> String {
    let one = |name: &'static str, bytes: u64| {
        let value = bytes as f64 / 1e6;
        Bar {
            name,
            value,
            least: value,
            most: value,
        }
    };
    let groups: Vec<Group> = results
        .memory
        .established
        .iter()
        .map(|held| Group {
            name: format!("{} calls", held.calls),
            bars: vec![
                one("before", results.memory.baseline),
                one("established", held.rss),
                one("after", held.after),
            ],
        })
        .collect();
    bars("Resident memory, MB", &groups)
}
