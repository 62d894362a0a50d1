//! The verdict on a REFER that nobody sent.

use super::family::{Transferee, other_parties};
use super::refer::{AuthOutcome, ReferFacts, ReferStep, ReferVerdict, check_refer};
use super::target::as_refer_to;
use crate::config::{Config, Trunk};
use std::net::IpAddr;

/// A REFER as an operator imagines it. What is not said is supposed to be in order: the dialog is known and answered, no
/// transfer is pending, the credentials are right.
#[derive(Clone, Copy, Debug)]
pub struct DryRun<'a> {
    /// The trunk that sends it.
    pub transferor: &'a Trunk,
    /// A URI or number, or a whole Refer-To value in angle brackets.
    pub refer_to: &'a str,
    /// Where it comes from; `None`: from an address that the trunk lists.
    pub source: Option<IpAddr>,
    /// Transfers that the call already had.
    pub transfers_done: u32,
}

impl DryRun<'_> {
    /// Whether the answer of a step is supposed rather than found.
    pub fn supposes(&self, step: ReferStep) -> bool {
        match step {
            ReferStep::Dialog | ReferStep::Answered | ReferStep::NonePending => true,
            ReferStep::Source => self.source.is_none(),
            _ => false,
        }
    }

    /// Asks [`check_refer`] once for each trunk that the other party of the call may be on. The first refusal counts, else
    /// the first verdict.
    pub fn judge(&self, config: &Config) -> ReferVerdict {
        let refer_to = as_refer_to(self.refer_to);
        let check = |other: &Trunk| {
            let facts = ReferFacts {
                transferor: Some(self.transferor),
                source_allowed: self.source.is_none_or(|source| self.lists(config, source)),
                answered: true,
                transfer_pending: false,
                transfers_done: self.transfers_done,
                refers_tried: self.transfers_done,
                refer_to: &[&refer_to],
                transferee: Transferee::possible(config, other),
            };
            check_refer(config, &facts, &mut || AuthOutcome::Assumed)
        };
        let mut first = None;
        for other in other_parties(config, self.transferor) {
            let verdict = check(other);
            if verdict.result.is_err() {
                return verdict;
            }
            first.get_or_insert(verdict);
        }
        first.unwrap_or_else(|| check(self.transferor))
    }

    fn lists(&self, config: &Config, source: IpAddr) -> bool {
        let mut listeners = self.transferor.listen.iter();
        listeners.any(|&listener| {
            let trunks = config.allow.lookup(listener, source);
            trunks.contains(self.transferor.id)
        })
    }
}
