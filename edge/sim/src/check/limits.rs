//! No limit is exceeded: calls and connections per core, calls per trunk, transfers per call, new calls per second.

use super::{Checker, Facts, Seen};
use crate::scenario::Side;
use edge_proto::b2bua::Output;
use edge_proto::event::{Cause, Direction, EventKind};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct LimitsKept {
    bridged: BTreeMap<String, u32>,
    /// Legs that were started to each trunk in the second that runs.
    started: BTreeMap<String, i32>,
    second: u64,
    /// Call-IDs of legs that nobody answered and that are given up; a CANCEL that waits for a provisional response shows
    /// nothing of it (RFC 3261 §9.1).
    given_up: BTreeSet<String>,
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
                self.check_trunks(facts, faults);
                self.check_rates(facts, faults);
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
                EventKind::LegStarted { trunk, .. } => *self.second(facts, trunk) += 1,
                EventKind::LegEnded(record) if record.direction == Direction::Outbound => {
                    if record.answer.is_none() {
                        self.given_up.insert(record.sip_call_id.clone());
                    }
                    // Started and refused in one breath: it never was a call.
                    if record.cause == Cause::TrunkLimit {
                        *self.second(facts, &record.trunk) -= 1;
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }
}

impl LimitsKept {
    /// Legs that were started to a trunk in this second.
    fn second(&mut self, facts: &Facts<'_>, trunk: &str) -> &mut i32 {
        let second = facts.now.as_nanos() / 1_000_000_000;
        if self.second != second {
            self.second = second;
            self.started.clear();
        }
        self.started.entry(trunk.to_owned()).or_default()
    }

    /// `max_calls_per_s`.
    fn check_rates(&self, facts: &Facts<'_>, faults: &mut Vec<String>) {
        for (trunk, &count) in &self.started {
            let trunk = facts.config.trunk_named(trunk);
            let most = trunk.map_or(0, |trunk| trunk.max_calls_per_s);
            if most > 0 && count > most as i32 {
                faults.push(format!("{count} new legs in a second, {most} allowed"));
            }
        }
    }

    /// `max_calls`: legs whose INVITE is under way or answered.
    fn check_trunks(&self, facts: &Facts<'_>, faults: &mut Vec<String>) {
        let limits = [
            (Side::Platform, facts.scenario.limits.platform_max_calls),
            (Side::Agents, facts.scenario.limits.agents_max_calls),
        ];
        for (side, most) in limits.into_iter().filter(|&(_, most)| most > 0) {
            let live = facts.book.legs().filter(|(call_id, leg)| {
                // The peer's INVITEs may still wait for a verdict.
                let begun = !leg.inbound || leg.answered_at.is_some();
                let over = leg.bye_received.or(leg.bye_sent).or(leg.refused_at);
                let over = over.or(leg.cancelled_at).is_some() || self.given_up.contains(*call_id);
                leg.side == side && begun && !over
            });
            let count = live.count() as u32;
            if count > most {
                faults.push(format!("{count} legs of {}, {most} allowed", side.name()));
            }
        }
    }
}
