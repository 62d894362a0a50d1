//! A map by keys that this process made up.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// Entries for which room is kept while there is none.
const KEPT: usize = 1024;

/// A hash table for keys that no peer chooses: they are serial numbers of our own, or fingerprints, so a hash without a secret is
/// safe, and a simple one spreads them. It has no order and is never walked through.
#[derive(Clone, Debug)]
pub(crate) struct Table<K, V>(HashMap<K, V, BuildHasherDefault<Mixer>>);

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Table(HashMap::default())
    }
}

impl<K: Hash + Eq, V> Table<K, V> {
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key)
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.0.get_mut(key)
    }

    /// Returns what was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.0.insert(key, value)
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let value = self.0.remove(key);
        // A busy hour's room goes back when it is over.
        if self.0.is_empty() && self.0.capacity() > KEPT {
            self.0 = HashMap::default();
        }
        value
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Multiplies by an odd constant for each number, as Fibonacci hashing does.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Mixer(u64);

impl Mixer {
    fn mix(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(26) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.mix(byte.into());
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.mix(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.mix(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.mix(number);
    }

    fn write_isize(&mut self, number: isize) {
        self.mix(number as u64);
    }

    fn finish(&self) -> u64 {
        // The table takes the lowest bits for the place and the highest for a first comparison.
        self.0 ^ self.0 >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart_and_room_goes_back() {
        let mut table = Table::default();
        for n in 0..=KEPT as u32 {
            assert_eq!(table.insert((n, n % 7), n), None);
        }
        assert_eq!(table.insert((3, 3), 33), Some(3));
        assert_eq!(table.get(&(3, 3)), Some(&33));
        assert_eq!(table.get(&(3, 4)), None);
        for n in 0..=KEPT as u32 {
            assert!(table.remove(&(n, n % 7)).is_some());
        }
        assert!(table.is_empty());
        assert_eq!(table.0.capacity(), 0);
    }

    #[test]
    fn serial_numbers_spread() {
        let place = |key: (u32, u32)| {
            use std::hash::BuildHasher;
            BuildHasherDefault::<Mixer>::default().hash_one(key) % 4096
        };
        let mut places: Vec<u64> = (0..4096).map(|n| place((n % 300, n))).collect();
        places.sort_unstable();
        places.dedup();
        // 4096 balls in as many urns leave about 2590 of them occupied.
        assert!(places.len() > 2_300, "{} places", places.len());
    }
}
