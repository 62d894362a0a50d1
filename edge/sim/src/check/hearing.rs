//! Who hears whom: only the two parties of one call that are connected, never a stranger, never a transferor whom the
//! transfer has released.

use super::{Checker, Facts, Party, Seen};
use crate::peers::STRANGER;
use crate::scenario::Side;
use edge_proto::b2bua::Output;
use edge_proto::event::EventKind;
use edge_proto::time::{Duration, Instant};
use std::collections::BTreeMap;

/// How long what was decided needs to reach the media threads, through queues and other cores.
const SETTLING: Duration = Duration::from_millis(400);

#[derive(Default)]
pub struct Hearing {
    /// The dialog of each call's last accepted REFER.
    transferors: BTreeMap<u32, String>,
    /// Dialogs that a transfer has cut off.
    released: BTreeMap<String, Instant>,
}

impl Checker for Hearing {
    fn name(&self) -> &'static str {
        "hearing"
    }

    fn see(&mut self, facts: &Facts<'_>, seen: &Seen<'_>, faults: &mut Vec<String>) {
        match seen {
            Seen::Decided { sip, .. }
                if sip.cseq().1 == "REFER" && (200..300).contains(&sip.code()) =>
            {
                if let Some(leg) = facts.book.leg(sip.call_id()) {
                    self.transferors.insert(leg.call, sip.call_id().to_owned());
                }
            }
            Seen::Output(_, Output::Event(event)) => {
                let call = event.call.as_ref().and_then(|id| facts.book.call(id));
                if let (EventKind::TransferBridged { .. }, Some(call)) = (&event.kind, call)
                    && let Some(transferor) = self.transferors.get(&call)
                {
                    self.released.insert(transferor.clone(), facts.now);
                }
            }
            Seen::Heard { speaker, listener } => {
                if let Err(fault) = self.judge(facts, speaker, listener) {
                    faults.push(format!("{fault}: {speaker:?} is heard by {listener:?}"));
                }
            }
            _ => {}
        }
    }
}

impl Hearing {
    fn judge(
        &self,
        facts: &Facts<'_>,
        speaker: &Party,
        listener: &Party,
    ) -> Result<(), &'static str> {
        if speaker.id == STRANGER {
            return Err("a stranger is heard");
        }
        if speaker.call != listener.call {
            return Err("calls are crossed");
        }
        let carriers = [speaker, listener]
            .iter()
            .filter(|party| party.side == Side::Carrier)
            .count();
        if carriers != 1 {
            return Err("two that are never connected hear each other");
        }
        for party in [speaker, listener] {
            self.judge_party(facts, party)?;
        }
        Ok(())
    }

    fn judge_party(&self, facts: &Facts<'_>, party: &Party) -> Result<(), &'static str> {
        let long_ago =
            |at: Option<Instant>| at.is_some_and(|at| facts.now.saturating_since(at) > SETTLING);
        let Some(leg) = facts.book.leg(&party.call_id) else {
            return Err("one of them has no leg");
        };
        if long_ago(self.released.get(&party.call_id).copied()) {
            return Err("a transferor is connected after it was released");
        }
        if long_ago(leg.bye_received) || long_ago(leg.bye_sent) {
            return Err("one of them has hung up");
        }
        if leg.answered_at.is_none() && long_ago(leg.refused_at) {
            return Err("one of them was refused");
        }
        if leg.answered_at.is_some() && party.tag != leg.peer_tag {
            return Err("one of them is an endpoint that came second");
        }
        if leg.answered_at.is_none() && matches!(party.side, Side::Agents | Side::Pbx) {
            return Err("a transfer target is connected before it answered");
        }
        Ok(())
    }
}
