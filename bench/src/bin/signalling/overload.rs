//! More calls than the edge may or can take: what becomes of each, and how busy that keeps the core.

use crate::load::{Load, Outcome, play};
use crate::subject::{CPU, Kind, Subject};
use anyhow::Result;
use edge_bench::process::Process;
use serde::Serialize;
use std::collections::BTreeMap;
use std::process::Stdio;

/// Calls per second that the carrier's trunk may make, where that is the limit.
const ALLOWED: u32 = 500;
/// What it makes.
const OFFERED: u32 = 2_000;
/// Calls that it may have at a time, where that is the limit; with what a call of the load lasts, about as many per second.
const AT_A_TIME: u32 = 250;
/// Programs that never sleep, beside the edge on its core.
const OTHERS: usize = 7;

/// What keeps the edge from taking all calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Nothing does: as many calls as the limits let through, for comparison.
    None,
    /// `max_calls_per_s` of the trunk.
    Rate,
    /// `max_calls` of the trunk.
    Calls,
    /// Others use the core.
    Core,
}

impl Limit {
    const ALL: [Limit; 4] = [Limit::None, Limit::Rate, Limit::Calls, Limit::Core];

    /// What it is, for people.
    pub fn name(self) -> String {
        match self {
            Limit::None => "none".to_owned(),
            Limit::Rate => format!("`max_calls_per_s = {ALLOWED}`"),
            Limit::Calls => format!("`max_calls = {AT_A_TIME}`"),
            Limit::Core => format!("{OTHERS} busy programs on its core"),
        }
    }

    /// The line of the carrier's trunk.
    fn key(self) -> String {
        match self {
            Limit::None | Limit::Core => String::new(),
            Limit::Rate => format!("max_calls_per_s = {ALLOWED}\n"),
            Limit::Calls => format!("max_calls = {AT_A_TIME}\n"),
        }
    }

    const fn offered(self) -> u32 {
        match self {
            Limit::None => ALLOWED,
            Limit::Rate | Limit::Calls | Limit::Core => OFFERED,
        }
    }
}

/// One limit, met by the load kit's `overload`.
#[derive(Clone, Debug, Serialize)]
pub struct Overload {
    pub limit: Limit,
    pub outcome: Outcome,
    /// How the carrier's legs ended, by cause, as the edge counts.
    pub causes: BTreeMap<String, u64>,
}

/// Every limit in turn, for `seconds` each.
pub fn measure(seconds: u32) -> Result<Vec<Overload>> {
    let each = |limit| against(limit, seconds);
    Limit::ALL.into_iter().map(each).collect()
}

fn against(limit: Limit, seconds: u32) -> Result<Overload> {
    let carrier = "name = \"carrier\"\n";
    let subject = Subject::start_with(Kind::Edge, |text| {
        text.replace(carrier, &[carrier, &limit.key()].concat())
    })?;
    let others = if limit == Limit::Core { OTHERS } else { 0 };
    let others = (0..others).map(|_| {
        Process::start("sh", CPU, |command| {
            command.args(["-c", "while :; do :; done"]);
            command.stdin(Stdio::null());
        })
    });
    let others = others.collect::<Result<Vec<_>>>()?;
    let outcome = play(
        &subject,
        Load::of("overload", limit.offered(), seconds),
        || {},
    )?;
    drop(others);
    let overload = Overload {
        limit,
        outcome,
        causes: causes(&subject.metrics()?),
    };
    tell(&overload);
    Ok(overload)
}

fn tell(overload: &Overload) {
    let outcome = &overload.outcome;
    println!(
        "sip-edge: {}/s, limit {}: {} accepted, {} refused, {} otherwise, {} failed; core {:.0} % busy",
        outcome.load.rate,
        overload.limit.name(),
        outcome.accepted,
        outcome.refused,
        outcome.unexpected,
        outcome.failed,
        outcome.busy * 100.0
    );
}

/// Ended legs of the carrier by cause.
fn causes(metrics: &str) -> BTreeMap<String, u64> {
    let mut causes = BTreeMap::new();
    for line in metrics.lines() {
        let Some((labels, count)) = line
            .strip_prefix("sip_edge_calls_total{")
            .and_then(|rest| rest.split_once('}'))
        else {
            continue;
        };
        let count = count.trim().parse().unwrap_or(0);
        let cause = labels.split("cause=\"").nth(1);
        let cause = cause.and_then(|rest| rest.split('"').next());
        if let Some(cause) = cause.filter(|_| count > 0 && labels.contains("trunk=\"carrier\"")) {
            *causes.entry(cause.to_owned()).or_default() += count;
        }
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happened_to_the_carrier_is_counted() {
        let metrics = "\
sip_edge_calls_total{cause=\"busy\",direction=\"inbound\",trunk=\"carrier\"} 0
sip_edge_calls_total{cause=\"completed\",direction=\"inbound\",trunk=\"carrier\"} 7
sip_edge_calls_total{cause=\"completed\",direction=\"outbound\",trunk=\"ai\"} 7
sip_edge_calls_total{cause=\"trunk_limit\",direction=\"inbound\",trunk=\"carrier\"} 3
";
        let wanted = [("completed", 7), ("trunk_limit", 3)];
        let wanted = wanted.map(|(cause, count)| (cause.to_owned(), count));
        assert_eq!(causes(metrics), wanted.into());
    }
}
