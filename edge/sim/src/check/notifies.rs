//! Every accepted REFER gets its NOTIFYs in order, and exactly one final one while its transferor lives.

use super::subscriptions::Subscriptions;
use super::{Checker, Ending, Facts, Seen};

#[derive(Default)]
pub struct Notifies {
    subscriptions: Subscriptions,
}

impl Checker for Notifies {
    fn name(&self) -> &'static str {
        "notifies"
    }

    fn see(&mut self, facts: &Facts<'_>, seen: &Seen<'_>, faults: &mut Vec<String>) {
        self.subscriptions.see(facts, seen, faults);
    }

    fn end(&mut self, facts: &Facts<'_>, _: &Ending, faults: &mut Vec<String>) {
        for (call_id, list) in &self.subscriptions.all {
            for subscription in list {
                let told = subscription.final_at.is_some();
                let left = facts
                    .book
                    .leg(call_id)
                    .is_some_and(|leg| leg.bye_received.is_some());
                if !told && !subscription.is_beyond_help() && !left && !subscription.quiet {
                    faults.push(format!(
                        "the REFER with CSeq {} of {call_id} has no final NOTIFY",
                        subscription.cseq
                    ));
                }
            }
        }
    }
}
