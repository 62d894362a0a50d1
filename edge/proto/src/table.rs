//! A map by keys that this process made up, and room that maps give back.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};

/// Entries for which a map may keep room whatever is in it.
const KEPT: usize = 1024;
/// How many times the room of its entries a map may have.
const SPARSE: usize = 8;

/// After an entry was removed: gives room back when few are left of many. That takes time in proportion to what is left, and
/// several times as many entries have been removed since the last time.
pub fn settle<K: Hash + Eq, V, S: BuildHasher>(map: &mut HashMap<K, V, S>) {
    let (room, left) = (map.capacity(), map.len());
    if room > 2 * KEPT && room / SPARSE > left {
        // Twice: room that is given back is not wanted again at once.
        map.shrink_to(KEPT.max(2 * left));
    }
}

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
        if value.is_some() {
            settle(&mut self.0);
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
    use proptest::prelude::*;

    #[test]
    fn keys_are_told_apart_and_room_goes_back() {
        let mut table = Table::default();
        for n in 0..=KEPT as u32 {
            assert_eq!(table.insert((n, n % 7), n), None);
        }
        assert_eq!(table.insert((3, 3), 33), Some(3));
        assert_eq!(table.get(&(3, 3)), Some(&33));
        assert_eq!(table.get(&(3, 4)), None);
        let last = 8 * KEPT as u32;
        for n in 0..last {
            table.insert((n, n % 7), n);
        }
        for n in 0..last - 1 {
            assert!(table.remove(&(n, n % 7)).is_some());
        }
        assert!(table.0.capacity() <= 2 * KEPT, "one is left");
        assert_eq!(table.remove(&(last - 1, (last - 1) % 7)), Some(last - 1));
        assert!(table.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Room is in proportion to the entries, however they come and go, and what is given back is not wanted again at once.
        #[test]
        fn room_follows_the_entries(numbers in prop::collection::vec(0..8 * KEPT, 1..8)) {
            let mut map = HashMap::new();
            for number in numbers {
                for n in map.len()..number {
                    map.insert(n, n);
                }
                for n in (number..map.len()).rev() {
                    prop_assert_eq!(map.remove(&n), Some(n));
                    let before = map.capacity();
                    settle(&mut map);
                    prop_assert!(map.capacity() <= (2 * KEPT).max(SPARSE * (n + 1)));
                    prop_assert!(map.capacity() == before || map.capacity() >= 2 * n);
                }
                prop_assert!((0..number).all(|n| map.get(&n) == Some(&n)));
            }
        }
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
