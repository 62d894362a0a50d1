//! No dialog is forgotten: each that was answered is ended by a BYE from one side or the other, forked ones too.

use super::{Checker, Ending, Facts, Seen};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Hangups {
    /// Dialogs of second endpoints, by Call-ID and To-tag: whether they were ended.
    forks: BTreeMap<(String, String), bool>,
    acked: BTreeSet<(String, String)>,
}

impl Checker for Hangups {
    fn name(&self) -> &'static str {
        "hangups"
    }

    fn see(&mut self, facts: &Facts<'_>, seen: &Seen<'_>, _: &mut Vec<String>) {
        match seen {
            Seen::Received { sip, .. }
                if sip.cseq().1 == "INVITE" && (200..300).contains(&sip.code()) =>
            {
                let fork = facts
                    .book
                    .leg(sip.call_id())
                    .is_some_and(|leg| !leg.inbound && leg.peer_tag != sip.to_tag());
                if fork {
                    let key = (sip.call_id().to_owned(), sip.to_tag().to_owned());
                    self.forks.entry(key).or_default();
                }
            }
            Seen::Received { sip, .. } if sip.method() == "BYE" => {
                let key = (sip.call_id().to_owned(), sip.from_tag().to_owned());
                self.forks.entry(key).and_modify(|ended| *ended = true);
            }
            Seen::Sent { sip, .. } => {
                let key = (sip.call_id().to_owned(), sip.to_tag().to_owned());
                match sip.method() {
                    "BYE" => {
                        self.forks.entry(key).and_modify(|ended| *ended = true);
                    }
                    "ACK" => {
                        self.acked.insert(key);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, facts: &Facts<'_>, _: &Ending, faults: &mut Vec<String>) {
        for (call_id, leg) in facts.book.legs() {
            // A 2xx that came when the edge had long given up is not even acknowledged.
            let heard = leg.inbound
                || self
                    .acked
                    .contains(&(call_id.to_owned(), leg.peer_tag.clone()));
            if leg.is_up() && heard {
                faults.push(format!(
                    "nobody hung up the {} {:?} leg {call_id} of call {}",
                    if leg.inbound { "inbound" } else { "outbound" },
                    leg.side,
                    leg.call
                ));
            }
        }
        for ((call_id, tag), ended) in &self.forks {
            if !ended && self.acked.contains(&(call_id.clone(), tag.clone())) {
                faults.push(format!("the fork {tag} of {call_id} was left hanging"));
            }
        }
    }
}
