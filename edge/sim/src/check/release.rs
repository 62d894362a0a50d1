//! A transferor is released only when it has answered the final NOTIFY, or has had its time to.

use super::subscriptions::{CAP_T1, Subscriptions};
use super::{Checker, Facts, Seen};

#[derive(Default)]
pub struct Release {
    subscriptions: Subscriptions,
}

impl Checker for Release {
    fn name(&self) -> &'static str {
        "release"
    }

    fn see(&mut self, facts: &Facts<'_>, seen: &Seen<'_>, faults: &mut Vec<String>) {
        // Faults in the order of NOTIFYs are another checker's.
        self.subscriptions.see(facts, seen, &mut Vec::new());
        let Seen::Decided { sip, .. } = seen else {
            return;
        };
        let own = facts
            .book
            .leg(sip.call_id())
            .is_some_and(|leg| sip.method() == "BYE" && sip.to_tag() == leg.peer_tag);
        if !own {
            return;
        }
        for subscription in self
            .subscriptions
            .all
            .get(sip.call_id())
            .into_iter()
            .flatten()
        {
            if subscription.quiet || subscription.is_beyond_help() {
                continue;
            }
            let capped = |at| facts.now.saturating_since(at) >= facts.t1() * CAP_T1;
            let fault = match (&subscription.open, subscription.final_at) {
                (None, Some(_)) => continue,
                (Some((_, _, at)), Some(_)) if capped(*at) => continue,
                (Some(_), Some(_)) => "before the final NOTIFY was answered",
                (_, None) => "before the final NOTIFY was sent",
            };
            faults.push(format!(
                "BYE to a transferor {fault} (REFER with CSeq {}): {}",
                subscription.cseq,
                sip.summary()
            ));
        }
    }
}
