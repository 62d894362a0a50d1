//! A whole call: do its legs tell who called, who answered, and what became of each REFER?

use super::Place;
use super::record::Leg;
use std::collections::{BTreeMap, BTreeSet};

/// The legs of one call, by number.
#[derive(Default)]
pub struct CallLegs(BTreeMap<u64, (Place, Leg)>);

impl CallLegs {
    /// Adds a leg; gives the place of an earlier record of the same leg, which is kept.
    pub fn insert(&mut self, place: Place, leg: Leg) -> Option<Place> {
        if let Some((first, _)) = self.0.get(&leg.number) {
            return Some(*first);
        }
        self.0.insert(leg.number, (place, leg));
        None
    }

    /// Transfers that were tried.
    pub fn transfers(&self) -> usize {
        let tried = self.0.values().filter_map(|(_, leg)| leg.transfer.as_ref());
        tried.map(|t| t.id).collect::<BTreeSet<_>>().len()
    }

    /// What does not add up.
    pub fn problems(&self) -> Vec<(Place, String)> {
        let mut problems = Vec::new();
        self.check_numbers(&mut problems);
        self.check_transfers(&mut problems);
        problems
    }

    fn check_numbers(&self, problems: &mut Vec<(Place, String)>) {
        let mut expected = 1;
        let mut first_start = None;
        for (&number, (place, leg)) in &self.0 {
            if number > expected {
                let missing = match number - expected {
                    1 => format!("leg {expected} has no record"),
                    _ => format!("legs {expected} to {} have no record", number - 1),
                };
                problems.push((*place, missing));
            }
            expected = number + 1;
            if (number == 1) != leg.inbound {
                let what = if number == 1 {
                    "leg 1 is the caller's and must be inbound"
                } else {
                    "only leg 1 can be inbound"
                };
                problems.push((*place, what.to_owned()));
            }
            if number == 1 {
                first_start = leg.start;
            } else if leg.start < first_start {
                problems.push((*place, "starts before leg 1".to_owned()));
            }
        }
    }

    fn check_transfers(&self, problems: &mut Vec<(Place, String)>) {
        let accepted: u64 = self.0.values().map(|(_, leg)| leg.accepted_refers).sum();
        // Transfer id -> attempts, in the order of the legs.
        let mut attempts: BTreeMap<u64, Vec<(Place, u64)>> = BTreeMap::new();
        let mut completed = BTreeSet::new();
        for (place, leg) in self.0.values() {
            let Some(transfer) = &leg.transfer else {
                continue;
            };
            if transfer.id > accepted {
                problems.push((
                    *place,
                    format!(
                        "this leg belongs to transfer {}, but only {accepted} REFERs were accepted",
                        transfer.id
                    ),
                ));
            }
            attempts
                .entry(transfer.id)
                .or_default()
                .push((*place, transfer.attempt));
            if transfer.completed && !completed.insert(transfer.id) {
                problems.push((*place, format!("transfer {} completed twice", transfer.id)));
            }
        }
        for (id, tried) in &attempts {
            // Not every attempt gets as far as a leg, so numbers may be left out.
            for pair in tried.windows(2) {
                if let [(_, before), (place, attempt)] = pair
                    && attempt <= before
                {
                    problems.push((
                        *place,
                        format!("transfer {id} has attempt {attempt} after attempt {before}"),
                    ));
                }
            }
        }
        let Some((place, _)) = self.0.values().next() else {
            return;
        };
        for id in (1..=accepted).filter(|id| !attempts.contains_key(id)) {
            problems.push((
                *place,
                format!("REFER {id} was accepted, but no leg tells what became of transfer {id}"),
            ));
        }
    }
}
