//! The results as Markdown, plots and JSON.

use crate::measure::Sample;
use crate::plan;
use crate::relay::Kind;
use crate::suite::{Cost, LOSSLESS, Limit, Results, SUSTAINED_US};
use anyhow::{Context, Result};
use edge_bench::stats::Spread;
use edge_bench::svg::{Bar, Group, bars};
use std::fmt::Write as _;
use std::path::Path;

/// Writes `relay.md`, `relay.json` and the plots into `directory`; returns the Markdown.
pub fn write(results: &Results, directory: &Path) -> Result<String> {
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let put = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    };
    put("relay.json", &serde_json::to_string_pretty(results)?)?;
    put("relay-cpu.svg", &cpu_plot(results))?;
    put("relay-rate.svg", &rate_plot(results))?;
    put("relay-flows.svg", &flows_plot(results))?;
    let text = markdown(results);
    put("relay.md", &text)?;
    Ok(text)
}

fn kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter()
}

fn cpu(results: &Results, kind: Kind, flows: u16, rate: f64) -> Option<Spread> {
    let matching = |cost: &&Cost| cost.relay == kind && cost.flows == flows && cost.rate == rate;
    Spread::of(
        results
            .costs
            .iter()
            .filter(matching)
            .map(|c| c.sample.cpu_us),
    )
}

fn limits(results: &Results, kind: Kind) -> impl Iterator<Item = &Limit> {
    let whole = results.limits.iter().filter(|limit| !limit.half_core);
    whole.filter(move |limit| limit.relay == kind)
}

fn lossless(results: &Results, kind: Kind) -> Option<Spread> {
    Spread::of(limits(results, kind).map(|limit| limit.lossless))
}

fn markdown(results: &Results) -> String {
    let mut text = String::new();
    method(&mut text, results);
    costs(&mut text, results);
    rates(&mut text, results);
    recovery(&mut text, results);
    scheduling(&mut text, results);
    ratios(&mut text, results);
    if !results.failures.is_empty() {
        text.push_str("\n## Not measured\n\n");
        for failure in &results.failures {
            let _ = writeln!(text, "- {failure}");
        }
    }
    text
}

fn method(text: &mut String, results: &Results) {
    let machine = &results.machine;
    let _ = write!(
        text,
        "# RTP relay\n\n\
         {} on {} cores, Linux {}, {}. Load average {} before, {} after.\n\n\
         Each relay runs alone on core {} in a network namespace, a generator on core {} floods it over a veth pair, as from behind a router, with RTP \
         ({} octets of UDP payload) and accounts for every packet: {} rounds with alternating order, {} s each; given is the \
         median (least-most). A flow is one stream in one direction. CPU is the user and system time of the relay's process per \
         packet that came through. The kernel handles a packet to the relay on the generator's core and one from the relay on \
         the relay's, for all relays alike. Lossless is a rate at which at most {} % of the packets are missing in two of three \
         trials. Latency is from before the generator's send to the kernel's timestamp of the copy's arrival. Relays and \
         generator run as real-time processes where permitted.\n\n\
         *sip-edge* is the daemon's media thread with its default settings, fed with the daemon's commands; *plain* is epoll \
         with recvmmsg and sendmmsg on connected sockets, which looks at nothing in a packet; *rtpengine* runs in userspace with \
         one worker thread.\n",
        machine.processor,
        machine.cores,
        machine.kernel,
        machine.rtpengine,
        machine.load[0],
        machine.load[1],
        results.cores.relay,
        results.cores.generator,
        plan::PAYLOAD,
        results.extent.rounds,
        results.extent.seconds,
        LOSSLESS * 100.0,
    );
}

fn header(text: &mut String, first: &str) {
    let names: Vec<_> = kinds().map(Kind::name).collect();
    let _ = writeln!(text, "| {first} | {} |", names.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(names.len()));
}

fn row(text: &mut String, first: &str, cell: impl Fn(Kind) -> Option<String>) {
    let cells: Vec<_> = kinds()
        .map(|kind| cell(kind).unwrap_or_else(|| "-".to_owned()))
        .collect();
    let _ = writeln!(text, "| {first} | {} |", cells.join(" | "));
}

fn costs(text: &mut String, results: &Results) {
    text.push_str("\n## CPU per packet, in microseconds\n\n![](relay-cpu.svg)\n\n");
    header(text, "packets/s, flows");
    for &rate in &results.extent.rates {
        for &flows in &results.extent.flows {
            row(text, &format!("{rate:.0}, {flows}"), |kind| {
                let matching =
                    |cost: &&Cost| cost.relay == kind && cost.flows == flows && cost.rate == rate;
                let loss = results.costs.iter().filter(matching);
                let loss = Spread::of(loss.map(|c| c.sample.outcome.loss()))?.median;
                let cpu = cpu(results, kind, flows, rate)?.text(2);
                Some(if loss > LOSSLESS {
                    format!("{cpu}, {:.2} % lost", loss * 100.0)
                } else {
                    cpu
                })
            });
        }
    }
    text.push_str("\n![](relay-flows.svg)\n");
}

fn rates(text: &mut String, results: &Results) {
    let flows = results.extent.search_flows;
    let _ = write!(
        text,
        "\n## Highest lossless rate, and latency at half of it ({flows} flows)\n\nA rate counts whose packets come through, 99 in 100 of \
         them within {} ms: what piles up in queues while the load lasts is not relayed.\n\n![](relay-rate.svg)\n\n",
        SUSTAINED_US / 1000.0
    );
    header(text, "");
    row(text, "lossless, packets/s", |kind| {
        let spread = lossless(results, kind)?.text(0);
        let bound = limits(results, kind).any(|limit| limit.generator_bound);
        Some(format!(
            "{spread}{}",
            if bound {
                " or more: the generator's limit"
            } else {
                ""
            }
        ))
    });
    type Quantile = fn(&Limit) -> f64;
    let quantiles: [(&str, Quantile); 3] = [
        ("p50, us", |limit| limit.half.outcome.latency_us.p50),
        ("p99, us", |limit| limit.half.outcome.latency_us.p99),
        ("p99.9, us", |limit| limit.half.outcome.latency_us.p999),
    ];
    for (name, quantile) in quantiles {
        row(text, name, |kind| {
            Spread::of(limits(results, kind).map(quantile)).map(|spread| spread.text(0))
        });
    }
}

fn recovery(text: &mut String, results: &Results) {
    let _ = write!(
        text,
        "\n## After {} s at twice that rate\n\nThen half the rate again, at once. Every packet is accounted for: sent, come back, or \
         missing; of those missing, what the kernel had no room for in the relay's sockets, what the relay received and counts as \
         dropped (where it tells), what left it and the generator had no room for, and the rest. Where the generator cannot offer twice what a core relays, ours is given half a core \
         besides: an ordinary thread, beside another that never sleeps.\n\n\
         | relay | round | lossless/s | offered/s | sent | missing | sockets full | dropped by the relay | generator full | unaccounted | flows silent \
         after | missing after |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        results.extent.overload_seconds
    );
    let told = |count: Option<i64>| count.map_or_else(|| "not told".to_owned(), |n| n.to_string());
    for limit in &results.limits {
        let Sample {
            outcome,
            socket_drops,
            relay_drops,
            ..
        } = &limit.overload;
        let _ = writeln!(
            text,
            "| {}{} | {} | {:.0} | {:.0} | {} | {} | {} | {} | {} | {} | {} | {} |",
            limit.relay.name(),
            if limit.half_core { ", half a core" } else { "" },
            limit.round + 1,
            limit.lossless,
            outcome.offered,
            outcome.sent,
            outcome.lost(),
            socket_drops,
            told(relay_drops.map(|drops| drops as i64)),
            limit.overload.unheard(),
            told(limit.overload.unaccounted()),
            limit.recovery.flows_silent,
            limit.recovery.lost(),
        );
    }
}

fn scheduling(text: &mut String, results: &Results) {
    text.push_str(
        "\n## A busy control thread on the media thread's core\n\nLatency of sip-edge in microseconds, p50 / p99 / p99.9 (medians), at \
         50,000 packets/s over 100 flows.\n\n| media thread | control thread idle | control thread never sleeps |\n|---|---|---|\n",
    );
    for (scheduling, name) in [
        ("preferred", "as in the daemon (real time, else nice)"),
        ("nice", "nice -20"),
        ("ordinary", "ordinary"),
    ] {
        let cell = |busy: bool| {
            let matching = || {
                let all = results.scheduling.iter();
                all.filter(move |s| s.scheduling == scheduling && s.busy_control == busy)
                    .map(|s| s.sample.outcome.latency_us)
            };
            let medians = [
                Spread::of(matching().map(|l| l.p50)),
                Spread::of(matching().map(|l| l.p99)),
                Spread::of(matching().map(|l| l.p999)),
            ];
            medians
                .map(|m| m.map_or_else(|| "-".to_owned(), |m| format!("{:.0}", m.median)))
                .join(" / ")
        };
        let _ = writeln!(text, "| {name} | {} | {} |", cell(false), cell(true));
    }
}

/// The targets. Quotients are of medians.
fn ratios(text: &mut String, results: &Results) {
    text.push_str("\n## Against the targets\n\n| | measured | target |\n|---|---|---|\n");
    let mut line = |what: &str, quotient: Option<f64>, target: &str| {
        let measured = quotient.map_or_else(|| "-".to_owned(), |q| format!("{q:.2}"));
        let _ = writeln!(text, "| {what} | {measured} | {target} |");
    };
    let flows = results.extent.search_flows;
    let rate = results.extent.rates.iter().copied().fold(0.0, f64::max);
    let quotient = |a: Option<Spread>, b: Option<Spread>| Some(a?.median / b?.median);
    let at = |kind, flows| cpu(results, kind, flows, rate);
    line(
        &format!("CPU per packet at {rate:.0}/s beside rtpengine"),
        quotient(at(Kind::Ours, flows), at(Kind::Rtpengine, flows)),
        "<= 0.5",
    );
    for (peer, target) in [(Kind::Rtpengine, ">= 1.6"), (Kind::Plain, ">= 1.2")] {
        line(
            &format!("lossless rate beside {}", peer.name()),
            quotient(lossless(results, Kind::Ours), lossless(results, peer)),
            target,
        );
    }
    line(
        "CPU per packet at 5,000 flows beside 100",
        quotient(at(Kind::Ours, 5000), at(Kind::Ours, 100)),
        "<= 1.15",
    );
}

fn bar(kind: Kind, spread: Option<Spread>, scale: f64) -> Option<Bar> {
    let spread = spread?;
    Some(Bar {
        name: kind.name(),
        value: spread.median * scale,
        least: spread.least * scale,
        most: spread.most * scale,
    })
}

fn cpu_plot(results: &Results) -> String {
    let flows = results.extent.search_flows;
    let groups = results.extent.rates.iter().map(|&rate| Group {
        name: format!("{:.0}k packets/s", rate / 1000.0),
        bars: kinds()
            .filter_map(|kind| bar(kind, cpu(results, kind, flows, rate), 1.0))
            .collect(),
    });
    bars(
        &format!("CPU per packet, us ({flows} flows)"),
        &groups.collect::<Vec<_>>(),
    )
}

fn flows_plot(results: &Results) -> String {
    let rate = results.extent.rates.iter().copied().fold(0.0, f64::max);
    let groups = results.extent.flows.iter().map(|&flows| Group {
        name: format!("{flows} flows"),
        bars: kinds()
            .filter_map(|kind| bar(kind, cpu(results, kind, flows, rate), 1.0))
            .collect(),
    });
    bars(
        &format!("CPU per packet, us ({:.0}k packets/s)", rate / 1000.0),
        &groups.collect::<Vec<_>>(),
    )
}

fn rate_plot(results: &Results) -> String {
    let group = Group {
        name: format!("{} flows", results.extent.search_flows),
        bars: kinds()
            .filter_map(|kind| bar(kind, lossless(results, kind), 1e-3))
            .collect(),
    };
    bars("Highest lossless rate, thousand packets/s", &[group])
}
