//! Slots that are reused, behind keys that are not.

use slab::Slab;

/// Slots that are kept while none is used.
const KEPT: usize = 1024;

/// A slab whose keys carry a generation, so that a late timer or a late call for an earlier user of a slot finds nothing.
#[derive(Debug)]
pub(super) struct Arena<T> {
    slots: Slab<(u32, T)>,
    /// Counts insertions; a key repeats only when the same slot is used again exactly 2^32 insertions later.
    generation: u32,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Arena {
            slots: Slab::new(),
            generation: 0,
        }
    }
}

impl<T> Arena<T> {
    /// Stores what `make` gives for its own `(index, generation)`.
    pub(super) fn insert_with(&mut self, make: impl FnOnce(u32, u32) -> T) -> (u32, u32) {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let entry = self.slots.vacant_entry();
        // The limit on transactions keeps the slab far below 2^32 slots.
        let index = u32::try_from(entry.key()).unwrap_or(u32::MAX);
        entry.insert((generation, make(index, generation)));
        (index, generation)
    }

    pub(super) fn get(&self, (index, generation): (u32, u32)) -> Option<&T> {
        self.slots
            .get(index as usize)
            .filter(|(g, _)| *g == generation)
            .map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, (index, generation): (u32, u32)) -> Option<&mut T> {
        self.slots
            .get_mut(index as usize)
            .filter(|(g, _)| *g == generation)
            .map(|(_, value)| value)
    }

    pub(super) fn remove(&mut self, key: (u32, u32)) -> Option<T> {
        self.get(key)?;
        let (_, value) = self.slots.try_remove(key.0 as usize)?;
        // A busy hour's room goes back when it is over. Keys go on: their generation does.
        if self.slots.is_empty() && self.slots.capacity() > KEPT {
            self.slots = Slab::new();
        }
        Some(value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().map(|(_, (_, value))| value)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_an_earlier_user_finds_nothing() {
        let mut arena = Arena::default();
        let first = arena.insert_with(|_, _| "first");
        assert_eq!(arena.remove(first), Some("first"));
        let second = arena.insert_with(|_, _| "second");
        assert_eq!(first.0, second.0, "the slot is reused");
        assert_eq!(arena.get(first), None);
        assert_eq!(arena.get_mut(first), None);
        assert_eq!(arena.remove(first), None);
        assert_eq!(arena.get(second), Some(&"second"));
        assert_eq!(arena.len(), 1);
    }

    #[test]
    fn room_goes_back_when_nothing_is_left_and_old_keys_stay_unknown() {
        let mut arena = Arena::default();
        let keys: Vec<_> = (0..=KEPT).map(|n| arena.insert_with(|_, _| n)).collect();
        for (n, &key) in keys.iter().enumerate() {
            assert!(arena.slots.capacity() > KEPT);
            assert_eq!(arena.remove(key), Some(n));
        }
        assert_eq!(arena.slots.capacity(), 0);
        let again = arena.insert_with(|_, _| 7);
        assert_eq!(again.0, 0);
        assert_eq!(arena.get(keys[0]), None);
        assert_eq!(arena.get(again), Some(&7));
    }
}
