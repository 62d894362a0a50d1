//! Every allocation that is opened is closed, and no port belongs to two at a time.

use super::{Checker, Ending, Facts, Seen};
use edge_proto::b2bua::{Input, Output};
use edge_proto::id::{AllocationId, CoreId};
use edge_proto::relay::{MediaCommand, MediaEvent};
use std::collections::BTreeMap;
use std::net::SocketAddr;

#[derive(Default)]
pub struct Allocations {
    open: BTreeMap<(CoreId, AllocationId), Allocation>,
}

struct Allocation {
    local: SocketAddr,
    closing: bool,
}

impl Checker for Allocations {
    fn name(&self) -> &'static str {
        "allocations"
    }

    fn see(&mut self, facts: &Facts<'_>, seen: &Seen<'_>, faults: &mut Vec<String>) {
        match seen {
            Seen::Output(core, Output::Media(command)) => {
                if let Err(fault) = self.commanded(facts, *core, command) {
                    faults.push(format!("{fault}: {command:?} on core {core}"));
                }
            }
            Seen::Input(
                core,
                Input::Media(
                    MediaEvent::Closed { allocation, .. }
                    | MediaEvent::OpenFailed { allocation, .. },
                ),
            ) => {
                self.open.remove(&(*core, *allocation));
            }
            _ => {}
        }
    }

    fn end(&mut self, _: &Facts<'_>, ending: &Ending, faults: &mut Vec<String>) {
        for ((core, id), allocation) in &self.open {
            faults.push(format!(
                "{id:?} on core {core} ({}) was never closed",
                allocation.local
            ));
        }
        for (core, end) in ending.cores.iter().enumerate() {
            if end.allocations > 0 {
                faults.push(format!(
                    "the media thread of core {core} still has {} allocations",
                    end.allocations
                ));
            }
        }
    }
}

impl Allocations {
    fn commanded(
        &mut self,
        facts: &Facts<'_>,
        core: CoreId,
        command: &MediaCommand,
    ) -> Result<(), &'static str> {
        match command {
            MediaCommand::Open {
                allocation, local, ..
            } => {
                if self.open.values().any(|other| other.local == *local) {
                    return Err("the port is another allocation's");
                }
                let media = &facts.config.media;
                if !media.ports.contains(&local.port()) || local.port() % 2 != 0 {
                    return Err("the port is none of the configuration's");
                }
                let allocation = (core, *allocation);
                let entry = Allocation {
                    local: *local,
                    closing: false,
                };
                match self.open.insert(allocation, entry) {
                    Some(_) => Err("it is open"),
                    None => Ok(()),
                }
            }
            MediaCommand::Close { allocation } => {
                let entry = self.open.get_mut(&(core, *allocation));
                let entry = entry.ok_or("it is not open")?;
                match std::mem::replace(&mut entry.closing, true) {
                    true => Err("it is closed twice"),
                    false => Ok(()),
                }
            }
            MediaCommand::Bridge { a, b, .. } => {
                [a, b].iter().try_for_each(|&id| self.live(core, id))
            }
            MediaCommand::SetRemote { allocation, .. } => self.live(core, allocation),
            MediaCommand::Unbridge { .. } => Ok(()),
        }
    }

    fn live(&self, core: CoreId, allocation: &AllocationId) -> Result<(), &'static str> {
        match self.open.get(&(core, *allocation)) {
            Some(entry) if !entry.closing => Ok(()),
            Some(_) => Err("it is being closed"),
            None => Err("it is not open"),
        }
    }
}
