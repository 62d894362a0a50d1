//! The only source of chance. One seed gives one run.

use edge_proto::time::Duration;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

/// Seeded randomness with the few shapes that a simulation asks for.
pub struct Dice(ChaCha20Rng);

impl Dice {
    /// Dice of `seed` for one purpose: what one purpose throws does not shift what another sees.
    pub fn new(seed: u64, purpose: u8) -> Self {
        let mut key = [purpose; 32];
        for (slot, byte) in key.iter_mut().zip(seed.to_le_bytes()) {
            *slot = byte;
        }
        Dice(ChaCha20Rng::from_seed(key))
    }

    /// A number in `0..bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        match bound {
            0 => 0,
            // The bias is below 2^-32 * bound, and nothing here depends on it.
            _ => ((u64::from(self.0.next_u32()) * u64::from(bound)) >> 32) as u32,
        }
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u32, high: u32) -> u32 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True in `permille` of 1000 throws.
    pub fn chance(&mut self, permille: u32) -> bool {
        self.below(1000) < permille
    }

    /// One of `choices`, which must not be empty.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u32) as usize]
    }

    /// An index in proportion to `weights`, which must not all be zero.
    pub fn weighted(&mut self, weights: &[u32]) -> usize {
        let mut left = self.below(weights.iter().sum());
        for (index, &weight) in weights.iter().enumerate() {
            if left < weight {
                return index;
            }
            left -= weight;
        }
        weights.len() - 1
    }

    /// A time between `low` and `high` milliseconds, to the microsecond.
    pub fn millis(&mut self, low: u32, high: u32) -> Duration {
        let span = u64::from(high.saturating_sub(low)) * 1000;
        let micros = match u32::try_from(span) {
            Ok(span) => u64::from(self.below(span.saturating_add(1))),
            Err(_) => self.0.next_u64() % (span + 1),
        };
        Duration::from_micros(u64::from(low) * 1000 + micros)
    }

    /// Random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// A short random word, for tags, branches and nonces of peers.
    pub fn word(&mut self) -> String {
        format!("{:08x}", self.0.next_u32())
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u32 + 1) as usize;
            items.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_and_purpose_give_one_sequence() {
        let throw = |seed, purpose| {
            let mut dice = Dice::new(seed, purpose);
            (0..8).map(|_| dice.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(throw(7, 1), throw(7, 1));
        assert_ne!(throw(7, 1), throw(8, 1));
        assert_ne!(throw(7, 1), throw(7, 2));
    }

    #[test]
    fn throws_stay_within_their_bounds() {
        let mut dice = Dice::new(1, 0);
        for _ in 0..1000 {
            assert!(dice.below(3) < 3);
            assert!((5..=9).contains(&dice.between(5, 9)));
            assert!(dice.millis(10, 20) <= Duration::from_millis(20));
            assert!([1, 3].contains(&dice.weighted(&[0, 2, 0, 1])));
        }
        assert_eq!(dice.below(0), 0);
        assert!(!dice.chance(0));
        assert!(dice.chance(1000));
    }
}
