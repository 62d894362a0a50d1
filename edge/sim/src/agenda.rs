//! What is going to happen, in the order of time. What happens at the same instant happens in the order it was planned.

use edge_proto::time::Instant;
use std::collections::BTreeMap;

/// A queue of future happenings.
#[derive(Debug)]
pub struct Agenda<T> {
    entries: BTreeMap<(Instant, u64), T>,
    planned: u64,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Agenda {
            entries: BTreeMap::new(),
            planned: 0,
        }
    }
}

impl<T> Agenda<T> {
    /// Plans `what` for `at`.
    pub fn plan(&mut self, at: Instant, what: T) {
        self.planned += 1;
        self.entries.insert((at, self.planned), what);
    }

    /// The next happening.
    pub fn next(&mut self) -> Option<(Instant, T)> {
        self.entries.pop_first().map(|((at, _), what)| (at, what))
    }
}
