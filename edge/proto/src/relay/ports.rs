//! Which RTP ports of a core are free.

use crate::id::CoreId;
use rand_core::Rng;
use std::collections::VecDeque;
use std::ops::RangeInclusive;

/// Leases pairs of ports: an even one for RTP and the next for RTCP (RFC 3550 §11). Each core has a share of the range to
/// itself, so cores never ask each other.
///
/// The port that has been free longest is leased first: packets that are still on their way to a call that ended find nobody.
#[derive(Debug)]
pub struct PortAllocator {
    /// The first even port of this core's share.
    first: u16,
    /// What each pair of the share is, by (port - first) / 2.
    pairs: Vec<Pair>,
    free: VecDeque<u16>,
    /// Taken by somebody else when it was last tried; leased only when nothing else is left.
    suspect: VecDeque<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pair {
    Free,
    Leased,
}

impl PortAllocator {
    /// The share of `core` out of `cores` equal parts of `range`, in ascending order. Both ports of every pair are in the range.
    pub fn new(range: RangeInclusive<u16>, core: CoreId, cores: u8) -> Self {
        let first = u32::from(*range.start()).next_multiple_of(2);
        let end = u32::from(*range.end()) + 1;
        let pairs = end.saturating_sub(first) / 2;
        let cores = u32::from(cores.max(1));
        let core = u32::from(core.0).min(cores);
        let begin = pairs * core / cores;
        let end = pairs * (core + 1).min(cores) / cores;
        let port = |pair: u32| u16::try_from(first + pair * 2).ok();
        let free: VecDeque<u16> = (begin..end).filter_map(port).collect();
        PortAllocator {
            first: free.front().copied().unwrap_or_default(),
            pairs: vec![Pair::Free; free.len()],
            free,
            suspect: VecDeque::new(),
        }
    }

    /// Puts the free ports in random order: a port that cannot be guessed is one more thing a forger has to know.
    pub fn shuffle(&mut self, rng: &mut impl Rng) {
        let ports = self.free.make_contiguous();
        // Fisher-Yates; the bias of the modulo is below 2^-48 for at most 32768 pairs.
        for last in (1..ports.len()).rev() {
            let other = rng.next_u64() % (last as u64 + 1);
            ports.swap(last, other as usize);
        }
    }

    /// An RTP port whose pair is nobody's, until it is given back by `release` or `quarantine`. `None`: all are leased.
    pub fn lease(&mut self) -> Option<u16> {
        let port = self.free.pop_front().or_else(|| self.suspect.pop_front())?;
        *self.pair_mut(port)? = Pair::Leased;
        Some(port)
    }

    /// Takes a leased port back. Anything else is ignored.
    pub fn release(&mut self, port: u16) {
        if self.end_lease(port) {
            self.free.push_back(port);
        }
    }

    /// Takes a leased port back that could not be bound: it is tried again when no other is left.
    pub fn quarantine(&mut self, port: u16) {
        if self.end_lease(port) {
            self.suspect.push_back(port);
        }
    }

    /// Pairs that can be leased now, those in quarantine included.
    pub fn available(&self) -> usize {
        self.free.len() + self.suspect.len()
    }

    /// All pairs of this core's share.
    pub fn capacity(&self) -> usize {
        self.pairs.len()
    }

    fn end_lease(&mut self, port: u16) -> bool {
        match self.pair_mut(port) {
            Some(pair @ Pair::Leased) => {
                *pair = Pair::Free;
                true
            }
            _ => false,
        }
    }

    fn pair_mut(&mut self, port: u16) -> Option<&mut Pair> {
        let offset = port.checked_sub(self.first)?;
        if !offset.is_multiple_of(2) {
            return None;
        }
        self.pairs.get_mut(usize::from(offset / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;
    use std::collections::BTreeSet;

    fn drain(allocator: &mut PortAllocator) -> Vec<u16> {
        std::iter::from_fn(|| allocator.lease()).collect()
    }

    #[test]
    fn both_ports_of_a_pair_are_in_the_range() {
        let all = |range| drain(&mut PortAllocator::new(range, CoreId(0), 1));
        assert_eq!(all(10_000..=10_005), [10_000, 10_002, 10_004]);
        assert_eq!(all(10_001..=10_006), [10_002, 10_004]);
        assert_eq!(all(10_000..=10_000), []);
        assert_eq!(all(10_001..=10_002), []);
        assert_eq!(all(65_532..=65_535), [65_532, 65_534]);
        assert_eq!(all(65_535..=65_535), []);
        assert_eq!(
            PortAllocator::new(0..=65_535, CoreId(0), 1).capacity(),
            32_768
        );
        #[expect(clippy::reversed_empty_ranges)]
        let reversed = 20..=10;
        assert_eq!(all(reversed), []);
    }

    #[test]
    fn a_port_freed_last_is_leased_last_and_a_suspect_one_after_it() {
        let mut ports = PortAllocator::new(10_000..=10_007, CoreId(0), 1);
        let (first, second) = (ports.lease().unwrap(), ports.lease().unwrap());
        ports.quarantine(second);
        ports.release(first);
        assert_eq!(ports.available(), 4);
        assert_eq!(drain(&mut ports), [10_004, 10_006, first, second]);
        assert_eq!(ports.lease(), None);
        assert_eq!(ports.available(), 0);
    }

    #[test]
    fn what_was_not_leased_cannot_be_given_back() {
        let mut ports = PortAllocator::new(10_000..=10_003, CoreId(0), 1);
        let leased = ports.lease().unwrap();
        for port in [leased + 1, 10_002, 9_998, 10_004, 0, 65_535] {
            ports.release(port);
            ports.quarantine(port);
        }
        ports.release(leased);
        ports.release(leased);
        assert_eq!(drain(&mut ports), [10_002, 10_000]);
    }

    proptest! {
        #[test]
        fn the_cores_share_the_range_evenly_and_without_overlap(start: u16, end: u16, cores in 1u8..=64) {
            let shares: Vec<_> = (0..cores)
                .map(|core| drain(&mut PortAllocator::new(start..=end, CoreId(core), cores))).collect();
            let together: BTreeSet<u16> = shares.iter().flatten().copied().collect();
            prop_assert_eq!(together.len(), shares.iter().map(Vec::len).sum::<usize>());
            let expected: BTreeSet<u16> = (start..=end)
                .filter(|port| port % 2 == 0 && *port < end).collect();
            prop_assert_eq!(together, expected);
            let sizes = shares.iter().map(Vec::len);
            prop_assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
            prop_assert_eq!(PortAllocator::new(start..=end, CoreId(cores), cores).capacity(), 0);
        }

        /// Leases never overlap, nothing is lost, and shuffling loses nothing either.
        #[test]
        fn leases_are_exclusive(
            seed: u64, steps in proptest::collection::vec((0u8..4, any::<prop::sample::Index>()), 0..300)
        ) {
            let mut ports = PortAllocator::new(10_001..=10_060, CoreId(0), 1);
            ports.shuffle(&mut ChaCha20Rng::seed_from_u64(seed));
            let all = ports.capacity();
            let mut leased = Vec::new();
            for (step, index) in steps {
                match step {
                    0 | 1 => match ports.lease() {
                        Some(port) => {
                            prop_assert!(port % 2 == 0 && (10_002..10_060).contains(&port));
                            prop_assert!(!leased.contains(&port));
                            leased.push(port);
                        }
                        None => prop_assert_eq!(leased.len(), all),
                    },
                    _ if leased.is_empty() => {}
                    _ => {
                        let port = leased.swap_remove(index.index(leased.len()));
                        if step == 2 { ports.release(port) } else { ports.quarantine(port) }
                    }
                }
                prop_assert_eq!(ports.available() + leased.len(), all);
            }
        }
    }
}
