//! No limit is exceeded: calls and connections per core, calls per trunk, transfers per call, new calls per second.

use super::{Checker, Facts, Seen};
use crate::scenario::Side;
use edge_proto::b2bua::Output;
use edge_proto::event::EventKind;
use std::collections::BTreeMap;

#[derive(Default)]
pub struct LimitsKept {
    bridged: BTreeMap<String, u32>,
    /// Legs that were started to a trunk in each second.
    started: BTreeMap<(String, u64), u32>,
}

impl Checker for LimitsKept {
    fn name(&self) -> &'static str {
        "limits"
    }

    fn see(&mut self, facts: &Facts<'_>, seen: &Seen<'_>, faults: &mut Vec<String>) {
        match seen {
            Seen::Handled {
                core,
                calls,
                connections,
            } => {
                let limits = &facts.scenario.limits;
                if *calls > limits.calls {
                    faults.push(format!(
                        "{calls} calls on core {core}, {} allowed",
                        limits.calls
                    ));
                }
                if *connections > limits.connections {
                    faults.push(format!(
                        "{connections} connections on core {core}, {} allowed",
                        limits.connections
                    ));
                }
                check_trunks(facts, faults);
            }
            Seen::Output(_, Output::Event(event)) => match &event.kind {
                EventKind::TransferBridged { .. } => {
                    let id = event.call.as_deref().unwrap_or_default().to_owned();
                    let count = self.bridged.entry(id).or_default();
                    *count += 1;
                    let most = facts.scenario.policy.max_transfers;
                    if *count > most {
                        faults.push(format!("{count} transfers of one call, {most} allowed"));
                    }
                }
                EventKind::LegStarted { trunk, .. } => {
                    let second = facts.now.as_nanos() / 1_000_000_000;
                    let count = self.started.entry((trunk.to_string(), second)).or_default();
                    *count += 1;
                    let most = facts
                        .config
                        .trunk_named(trunk)
                        .map_or(0, |trunk| trunk.max_calls_per_s);
                    if most > 0 && *count > most {
                        faults.push(format!("{count} new legs to {trunk} in a second"));
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }
}

/// `max_calls`: legs whose INVITE is under way or answered.
fn check_trunks(facts: &Facts<'_>, faults: &mut Vec<String>) {
    let limits = [
        (Side::Platform, facts.scenario.limits.platform_max_calls),
        (Side::Agents, facts.scenario.limits.agents_max_calls),
    ];
    for (side, most) in limits.into_iter().filter(|&(_, most)| most > 0) {
        let live = facts.book.legs().filter(|(_, leg)| {
            // The peer's INVITEs may still wait for a verdict.
            let begun = !leg.inbound || leg.answered_at.is_some();
            let over = leg.bye_received.or(leg.bye_sent).or(leg.refused_at);
            leg.side == side && begun && over.or(leg.cancelled_at).is_none()
        });
        let count = live.count() as u32;
        if count > most {
            faults.push(format!("{count} legs of {}, {most} allowed", side.name()));
        }
    }
}
