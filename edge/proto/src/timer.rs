//! One queue for every deadline of an owner, indexed so that a deadline can be moved or withdrawn by name.

use crate::table::Table;
use crate::time::Instant;
use std::collections::BTreeSet;
use std::hash::Hash;

/// Deadlines by key: at most one per key, taken out in order of time and, at the same instant, in order of the key, so that
/// the same inputs always give the same outputs.
///
/// Every operation is O(log n) in the number of deadlines set. Memory is proportional to that number: moving or cancelling
/// a deadline leaves nothing behind (no tombstones that a busy owner could pile up).
#[derive(Clone, Debug)]
pub struct TimerQueue<K> {
    by_time: BTreeSet<(Instant, K)>,
    by_key: Table<K, Instant>,
}

impl<K> Default for TimerQueue<K> {
    fn default() -> Self {
        TimerQueue {
            by_time: BTreeSet::new(),
            by_key: Table::default(),
        }
    }
}

impl<K: Ord + Hash + Copy> TimerQueue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the deadline of `key`, replacing the one it had; returns that one.
    pub fn set(&mut self, key: K, at: Instant) -> Option<Instant> {
        let earlier = self.by_key.insert(key, at);
        if let Some(earlier) = earlier {
            self.by_time.remove(&(earlier, key));
        }
        self.by_time.insert((at, key));
        earlier
    }

    /// Withdraws the deadline of `key`; returns it, or `None` when there was none.
    pub fn cancel(&mut self, key: K) -> Option<Instant> {
        let at = self.by_key.remove(&key)?;
        self.by_time.remove(&(at, key));
        Some(at)
    }

    /// The deadline of `key`.
    pub fn deadline(&self, key: K) -> Option<Instant> {
        self.by_key.get(&key).copied()
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|&(at, _)| at)
    }

    /// Takes out the earliest deadline that is not later than `now`.
    pub fn pop_expired(&mut self, now: Instant) -> Option<K> {
        self.pop_expired_at(now).map(|(_, key)| key)
    }

    /// As [`Self::pop_expired`], with the instant that was set: a late wake-up can still count from when it was due.
    pub fn pop_expired_at(&mut self, now: Instant) -> Option<(Instant, K)> {
        let &(at, key) = self.by_time.first().filter(|&&(at, _)| at <= now)?;
        self.by_time.pop_first();
        self.by_key.remove(&key);
        Some((at, key))
    }

    /// How many deadlines are set.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn deadlines_come_out_in_order_of_time_then_key() {
        let mut queue = TimerQueue::new();
        queue.set(3, ms(10));
        queue.set(1, ms(20));
        queue.set(2, ms(10));
        assert_eq!(queue.next(), Some(ms(10)));
        assert_eq!(queue.pop_expired(ms(9)), None);
        assert_eq!(queue.pop_expired(ms(25)), Some(2));
        assert_eq!(queue.pop_expired_at(ms(25)), Some((ms(10), 3)));
        assert_eq!(queue.pop_expired(ms(25)), Some(1));
        assert_eq!(queue.pop_expired(ms(25)), None);
        assert!(queue.is_empty());
    }

    #[test]
    fn setting_again_moves_the_deadline() {
        let mut queue = TimerQueue::new();
        assert_eq!(queue.set('a', ms(10)), None);
        assert_eq!(queue.set('a', ms(30)), Some(ms(10)));
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.pop_expired(ms(29)), None);
        assert_eq!(queue.cancel('a'), Some(ms(30)));
        assert_eq!(queue.cancel('a'), None);
        assert_eq!(queue.next(), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(u8, u64),
        Cancel(u8),
        Pop(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..12u8, 0..50u64).prop_map(|(key, at)| Step::Set(key, at)),
            (0..12u8).prop_map(Step::Cancel),
            (0..50u64).prop_map(Step::Pop),
        ]
    }

    proptest! {
        /// Against a plain list that is searched from end to end.
        #[test]
        fn agrees_with_a_list(steps in prop::collection::vec(step(), 0..200)) {
            let mut queue = TimerQueue::new();
            let mut list: Vec<(Instant, u8)> = Vec::new();
            for step in steps {
                match step {
                    Step::Set(key, at) => {
                        list.retain(|&(_, k)| k != key);
                        list.push((ms(at), key));
                        queue.set(key, ms(at));
                    }
                    Step::Cancel(key) => {
                        let had = list.iter().find(|&&(_, k)| k == key).map(|&(at, _)| at);
                        list.retain(|&(_, k)| k != key);
                        prop_assert_eq!(queue.cancel(key), had);
                    }
                    Step::Pop(now) => {
                        let due = list.iter().copied().filter(|&(at, _)| at <= ms(now)).min();
                        list.retain(|&entry| Some(entry) != due);
                        prop_assert_eq!(queue.pop_expired_at(ms(now)), due);
                    }
                }
                prop_assert_eq!(queue.len(), list.len());
                prop_assert_eq!(queue.by_time.len(), list.len());
                prop_assert_eq!(queue.next(), list.iter().map(|&(at, _)| at).min());
            }
        }
    }
}
