//! Everything that the edge sends is SIP, to its own parser and to an independent one, and of one piece with what it sent
//! before in the same dialog.

use super::{Checker, Facts, Seen};
use crate::wire::Sip;
use edge_proto::sip::{Message, MessageLimits};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct Wellformed {
    /// Call-ID and our tag -> CSeq of the last request that was no ACK or CANCEL.
    sequence: BTreeMap<(String, String), u32>,
}

impl Checker for Wellformed {
    fn name(&self) -> &'static str {
        "wellformed"
    }

    fn see(&mut self, facts: &Facts<'_>, seen: &Seen<'_>, faults: &mut Vec<String>) {
        match seen {
            Seen::Gibberish { to, text, fault } => {
                faults.push(format!("what was sent to {to} is no SIP: {fault}\n{text}"));
            }
            Seen::Sent { to, sip, .. } => {
                let parsed = Message::parse(sip.raw.clone(), &MessageLimits::default());
                if let Err(fault) = parsed {
                    faults.push(format!(
                        "the edge's own parser refuses what was sent to {to}: {fault}\n{}",
                        sip.text()
                    ));
                }
                self.check_sequence(sip, faults);
                check_secrets(facts, sip, faults);
            }
            _ => {}
        }
    }
}

impl Wellformed {
    /// RFC 3261 §12.2.1.1: CSeq rises strictly within a dialog.
    fn check_sequence(&mut self, sip: &Sip, faults: &mut Vec<String>) {
        if !sip.is_request() || matches!(sip.method(), "ACK" | "CANCEL") || sip.to_tag().is_empty()
        {
            return;
        }
        // Forks share our tag and not the peer's.
        let key = (sip.call_id().to_owned(), sip.to_tag().to_owned());
        let (number, _) = sip.cseq();
        if let Some(before) = self.sequence.insert(key, number)
            && number <= before
        {
            faults.push(format!("CSeq {number} follows {before}: {}", sip.summary()));
        }
    }
}

/// Passwords never travel, and of what peers said nothing that the policy drops.
fn check_secrets(facts: &Facts<'_>, sip: &Sip, faults: &mut Vec<String>) {
    let text = sip.text();
    if text.contains("s3cret") {
        faults.push(format!("a password was sent:\n{text}"));
    }
    if sip.is_request() && text.contains("Twilio-Secret") {
        faults.push(format!("a header that the policy drops was sent:\n{text}"));
    }
    // Topology: no peer learns another's signalling address.
    let Some(leg) = facts.book.leg(sip.call_id()) else {
        return;
    };
    for host in &facts.scenario.places.hosts {
        let foreign = host.side != leg.side;
        let shown = sip
            .all_headers()
            .filter(|(name, _)| !matches!(*name, "via" | "referred-by") && !name.starts_with("x-"))
            .any(|(_, value)| contains_address(value, &host.address.ip().to_string()));
        if foreign && shown {
            faults.push(format!(
                "the address {} of a {:?} host was shown to a {:?}:\n{text}",
                host.address.ip(),
                host.side,
                leg.side
            ));
        }
    }
}

/// Whether `address` stands in `text` with nothing of an address right behind it.
fn contains_address(text: &str, address: &str) -> bool {
    text.match_indices(address).any(|(at, _)| {
        let after = text
            .get(at + address.len()..)
            .and_then(|rest| rest.chars().next());
        !after.is_some_and(|c| c.is_ascii_hexdigit())
    })
}
