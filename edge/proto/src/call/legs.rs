//! The legs of one call.

use super::leg::Leg;
use crate::event::LegNumber;

/// Legs in order of their numbers. There are two as a rule, and hardly ever more than three: looking through them is quicker than
/// any index, and a tree's node would have room for eleven.
#[derive(Default)]
pub(super) struct Legs(Vec<Leg>);

impl Legs {
    pub fn get(&self, number: LegNumber) -> Option<&Leg> {
        self.0.iter().find(|leg| leg.number == number)
    }

    pub fn get_mut(&mut self, number: LegNumber) -> Option<&mut Leg> {
        self.0.iter_mut().find(|leg| leg.number == number)
    }

    /// Adds a leg, whose number is higher than any before.
    pub fn push(&mut self, leg: Leg) {
        if self.0.is_empty() {
            self.0.reserve_exact(2);
        }
        self.0.push(leg);
    }

    /// Takes out those that `is_over` picks.
    pub fn extract(&mut self, is_over: impl FnMut(&mut Leg) -> bool) -> impl Iterator<Item = Leg> {
        self.0.extract_if(.., is_over)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Leg> {
        self.0.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Leg> {
        self.0.iter_mut()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
