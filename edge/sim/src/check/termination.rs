//! Everything comes to an end: a bounded time after the last peer has gone home nothing is left, no call, no timer.

use super::{Checker, Ending, Facts, Seen};
use edge_proto::b2bua::Input;
use edge_proto::id::CoreId;
use edge_proto::time::Instant;
use std::collections::BTreeMap;

/// More wake-ups than this at one instant are a core that spins.
const MAX_WAKES: u32 = 1_000;

#[derive(Default)]
pub struct Termination {
    wakes: BTreeMap<CoreId, (Instant, u32)>,
}

impl Checker for Termination {
    fn name(&self) -> &'static str {
        "termination"
    }

    fn see(&mut self, facts: &Facts<'_>, seen: &Seen<'_>, faults: &mut Vec<String>) {
        let Seen::Input(core, Input::Timeout) = seen else {
            return;
        };
        let (at, count) = self.wakes.entry(*core).or_insert((facts.now, 0));
        if *at != facts.now {
            (*at, *count) = (facts.now, 0);
        }
        *count += 1;
        if *count > MAX_WAKES {
            faults.push(format!("core {core} wakes up for ever"));
        }
    }

    fn end(&mut self, _: &Facts<'_>, ending: &Ending, faults: &mut Vec<String>) {
        if !ending.quiet {
            faults.push("things still happen long after everybody has gone home".to_owned());
        }
        for (core, end) in ending.cores.iter().enumerate() {
            let done = end.calls == 0 && end.idle && end.leftovers.is_empty();
            if !done || end.timeout.is_some() {
                faults.push(format!(
                    "core {core} is not done: {} calls, idle {}, next timer {:?}, it holds {:?}",
                    end.calls, end.idle, end.timeout, end.leftovers
                ));
            }
        }
    }
}
