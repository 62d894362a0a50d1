//! Which counts of which nonces have been used.

use super::nonce::Stamp;
use crate::time::Instant;
use std::collections::BTreeMap;

/// How far a nonce count may lag behind the highest one seen, in counts: requests overtake each other on the way.
const WINDOW: u32 = 64;

/// What became of a nonce count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    /// Never used before, and used now.
    Fresh,
    /// Used before.
    Replayed,
    /// No longer known whether it was used.
    Forgotten,
}

/// The counts seen of one nonce: bit `n` of `seen` is count `highest - n`.
#[derive(Clone, Copy, Debug)]
struct Window {
    highest: u32,
    seen: u64,
}

/// Windows of the nonces that were answered correctly, at most `capacity` of them.
///
/// When it is full the oldest nonce goes, and with it every older one is over: `floor` remembers where the knowledge ends, so
/// forgetting never lets a used count through again.
#[derive(Debug)]
pub(super) struct ReplayWindows {
    capacity: usize,
    /// No nonce up to this one is admitted unless it has a window.
    floor: Option<Stamp>,
    windows: BTreeMap<Stamp, Window>,
}

impl ReplayWindows {
    pub(super) fn new(capacity: usize) -> Self {
        ReplayWindows {
            capacity,
            floor: None,
            windows: BTreeMap::new(),
        }
    }

    /// Uses count `nc` of the nonce `stamp`. The caller refuses nonces minted before `oldest`, and `oldest` never goes back.
    pub(super) fn admit(&mut self, oldest: Instant, stamp: Stamp, nc: u32) -> Admission {
        while let Some(entry) = self.windows.first_entry() {
            if entry.key().minted >= oldest {
                break;
            }
            entry.remove();
        }
        if let Some(window) = self.windows.get_mut(&stamp) {
            return window.admit(nc);
        }
        if self.floor.is_some_and(|floor| stamp <= floor) {
            return Admission::Forgotten;
        }
        self.windows.insert(
            stamp,
            Window {
                highest: nc,
                seen: 1,
            },
        );
        if self.windows.len() > self.capacity
            && let Some((evicted, _)) = self.windows.pop_first()
        {
            self.floor = self.floor.max(Some(evicted));
        }
        Admission::Fresh
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.windows.len()
    }
}

impl Window {
    fn admit(&mut self, nc: u32) -> Admission {
        if let Some(ahead) = nc.checked_sub(self.highest).filter(|&ahead| ahead > 0) {
            self.seen = self.seen.checked_shl(ahead).unwrap_or(0) | 1;
            self.highest = nc;
            return Admission::Fresh;
        }
        let behind = self.highest - nc;
        if behind >= WINDOW {
            return Admission::Forgotten;
        }
        let bit = 1 << behind;
        if self.seen & bit != 0 {
            return Admission::Replayed;
        }
        self.seen |= bit;
        Admission::Fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn stamp(serial: u32) -> Stamp {
        Stamp {
            minted: Instant::from_millis(u64::from(serial)),
            serial,
        }
    }

    #[test]
    fn counts_out_of_order_pass_once() {
        let mut windows = ReplayWindows::new(4);
        let mut admit = |nc| windows.admit(Instant::ZERO, stamp(1), nc);
        assert_eq!(admit(5), Admission::Fresh);
        assert_eq!(admit(2), Admission::Fresh);
        assert_eq!(admit(5), Admission::Replayed);
        assert_eq!(admit(2), Admission::Replayed);
        assert_eq!(admit(68), Admission::Fresh);
        assert_eq!(admit(5), Admission::Replayed);
        assert_eq!(admit(4), Admission::Forgotten);
        assert_eq!(admit(u32::MAX), Admission::Fresh);
        assert_eq!(admit(68), Admission::Forgotten);
        assert_eq!(admit(u32::MAX), Admission::Replayed);
    }

    #[test]
    fn an_evicted_nonce_stays_over() {
        let mut windows = ReplayWindows::new(2);
        for serial in [10, 20, 30] {
            assert_eq!(
                windows.admit(Instant::ZERO, stamp(serial), 1),
                Admission::Fresh
            );
        }
        assert_eq!(windows.len(), 2);
        for serial in [5, 10] {
            assert_eq!(
                windows.admit(Instant::ZERO, stamp(serial), 2),
                Admission::Forgotten
            );
        }
        assert_eq!(windows.admit(Instant::ZERO, stamp(20), 2), Admission::Fresh);
    }

    #[test]
    fn expired_nonces_take_no_memory() {
        let mut windows = ReplayWindows::new(100);
        for serial in 0..50 {
            windows.admit(Instant::ZERO, stamp(serial), 1);
        }
        windows.admit(Instant::from_millis(50), stamp(50), 1);
        assert_eq!(windows.len(), 1);
    }

    proptest! {
        /// Against a reference that never forgets: nothing is admitted twice, and memory stays bounded.
        #[test]
        fn nothing_is_admitted_twice(uses in proptest::collection::vec((0u32..12, 1u32..200), 0..400)) {
            let mut windows = ReplayWindows::new(4);
            let mut used = BTreeSet::new();
            for (serial, nc) in uses {
                let verdict = windows.admit(Instant::ZERO, stamp(serial), nc);
                if verdict == Admission::Fresh {
                    prop_assert!(used.insert((serial, nc)));
                } else if verdict == Admission::Replayed {
                    prop_assert!(used.contains(&(serial, nc)));
                }
                prop_assert!(windows.len() <= 4);
            }
        }
    }
}
