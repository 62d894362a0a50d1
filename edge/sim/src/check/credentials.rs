//! The edge shows credentials only to whom asks for them, rightly, and never answers a nonce of its own.

use super::judge::Nonces;
use super::{Checker, Facts, Seen};
use crate::digest::parameter;
use std::collections::BTreeSet;

#[derive(Default)]
pub struct CredentialUse {
    nonces: Nonces,
    /// Dialogs whose peer asked.
    challenged: BTreeSet<String>,
}

impl Checker for CredentialUse {
    fn name(&self) -> &'static str {
        "credentials"
    }

    fn see(&mut self, facts: &Facts<'_>, seen: &Seen<'_>, faults: &mut Vec<String>) {
        match seen {
            Seen::Complaint(text) => faults.push((*text).to_owned()),
            Seen::Received { sip, .. } if matches!(sip.code(), 401 | 407) => {
                self.challenged.insert(sip.call_id().to_owned());
            }
            Seen::Decided { sip, .. } => {
                self.nonces.note(facts.now, sip);
                let shown = sip
                    .headers("authorization")
                    .chain(sip.headers("proxy-authorization"));
                for header in shown {
                    if !self.challenged.contains(sip.call_id()) {
                        faults.push(format!("credentials that nobody asked for: {}", sip.text()));
                    }
                    let nonce = parameter(header, "nonce").unwrap_or_default();
                    if self.nonces.is_minted(&nonce) {
                        faults.push(format!("the edge answered its own nonce: {}", sip.text()));
                    }
                }
            }
            _ => {}
        }
    }
}
