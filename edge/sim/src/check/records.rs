//! Exactly one CDR per leg, one end per call, and one outcome per transfer.

use super::{Checker, Ending, Facts, Seen};
use edge_proto::b2bua::Output;
use edge_proto::event::{Cause, Event, EventKind, LegRecord};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Records {
    calls: BTreeMap<String, Call>,
    /// CDRs by the leg's Call-ID.
    by_call_id: BTreeMap<String, u32>,
    /// Call-IDs of INVITEs that the edge sent.
    originated: BTreeSet<String>,
}

#[derive(Default)]
struct Call {
    legs: BTreeSet<u8>,
    recorded: BTreeSet<u8>,
    transfers: BTreeMap<u32, u32>,
    accepted: u32,
    ended: u32,
}

impl Checker for Records {
    fn name(&self) -> &'static str {
        "records"
    }

    fn see(&mut self, _: &Facts<'_>, seen: &Seen<'_>, faults: &mut Vec<String>) {
        match seen {
            Seen::Sent { sip, .. } if sip.is_initial_invite() => {
                self.originated.insert(sip.call_id().to_owned());
            }
            Seen::Output(_, Output::Event(event)) => {
                if let Err(fault) = self.event(event) {
                    faults.push(format!("{fault}: {event:?}"));
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, _: &Facts<'_>, _: &Ending, faults: &mut Vec<String>) {
        for (id, call) in &self.calls {
            if call.ended != 1 {
                faults.push(format!("call {id} ended {} times", call.ended));
            }
            if call.legs != call.recorded {
                faults.push(format!(
                    "call {id} has legs {:?} and CDRs of {:?}",
                    call.legs, call.recorded
                ));
            }
            let outcomes: u32 = call.transfers.values().sum();
            if outcomes != call.accepted || call.transfers.values().any(|&count| count != 1) {
                faults.push(format!(
                    "call {id} has {} accepted REFERs and outcomes {:?}",
                    call.accepted, call.transfers
                ));
            }
        }
        for call_id in &self.originated {
            let records = self.by_call_id.get(call_id).copied().unwrap_or_default();
            if records != 1 {
                faults.push(format!("the INVITE of {call_id} has {records} CDRs"));
            }
        }
    }
}

impl Records {
    fn event(&mut self, event: &Event) -> Result<(), String> {
        let Some(id) = event.call.as_deref() else {
            return Ok(());
        };
        let call = self.calls.entry(id.to_owned()).or_default();
        if call.ended > 0 {
            return Err("an event of a call that has ended".to_owned());
        }
        match &event.kind {
            EventKind::CallStarted { .. } | EventKind::LegStarted { .. } => {
                call.legs.extend(event.leg);
            }
            EventKind::Refer { status: 202, .. } => call.accepted += 1,
            EventKind::TransferEnded { id, .. } if *id > 0 => {
                *call.transfers.entry(*id).or_default() += 1;
            }
            EventKind::LegEnded(record) => {
                *self
                    .by_call_id
                    .entry(record.sip_call_id.clone())
                    .or_default() += 1;
                // A leg that a limit refused was never started, and has its CDR all the same.
                call.legs.insert(record.leg);
                if !call.recorded.insert(record.leg) {
                    return Err("a second CDR of one leg".to_owned());
                }
                check_record(record)?;
            }
            EventKind::CallEnded { .. } => call.ended += 1,
            _ => {}
        }
        Ok(())
    }
}

/// What a CDR may say.
fn check_record(record: &LegRecord) -> Result<(), String> {
    let times = [
        Some(record.start),
        record.ring,
        record.answer,
        Some(record.end),
    ];
    let known: Vec<_> = times.into_iter().flatten().collect();
    if !known.is_sorted() {
        return Err("its times are not in order".to_owned());
    }
    // A call that a failed transfer ends has the transfer's cause on every leg.
    if record.cause.code().is_some() && record.answer.is_some() && record.transfer.is_some() {
        return Err("an answered leg failed to authenticate".to_owned());
    }
    let Some(transfer) = &record.transfer else {
        return Ok(());
    };
    const RESULTS: [&str; 7] = [
        "completed",
        "failed",
        "timeout",
        "no-answer",
        "busy",
        "denied",
        "cancelled",
    ];
    if !RESULTS.contains(&transfer.result) {
        return Err(format!("{} is no result", transfer.result));
    }
    if transfer.result == "completed" && record.answer.is_none() {
        return Err("a transfer was completed that nobody answered".to_owned());
    }
    if record.cause == Cause::SipAuthTimeout && transfer.result != "timeout" {
        return Err("sip_auth_timeout is a timeout".to_owned());
    }
    Ok(())
}
