//! Which trunk a source may speak for.

use crate::id::{ListenerId, TrunkId};
use std::net::IpAddr;

/// A set of trunks of one configuration, as a bit set. The same words are the value of the XDP allowlist's prefixes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TrunkSet(pub [u64; 4]);

impl TrunkSet {
    /// The most trunks a configuration may have.
    pub const CAPACITY: usize = 256;

    pub const EMPTY: TrunkSet = TrunkSet([0; 4]);

    pub fn insert(&mut self, trunk: TrunkId) {
        if let Some(word) = self.0.get_mut(usize::from(trunk.0) / 64) {
            *word |= 1 << (trunk.0 % 64);
        }
    }

    pub fn contains(&self, trunk: TrunkId) -> bool {
        self.0
            .get(usize::from(trunk.0) / 64)
            .is_some_and(|word| word & (1 << (trunk.0 % 64)) != 0)
    }

    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    pub fn union(self, other: TrunkSet) -> TrunkSet {
        TrunkSet([
            self.0[0] | other.0[0],
            self.0[1] | other.0[1],
            self.0[2] | other.0[2],
            self.0[3] | other.0[3],
        ])
    }

    /// The trunks, in the order of the configuration.
    pub fn iter(self) -> impl Iterator<Item = TrunkId> {
        (0..Self::CAPACITY as u16)
            .map(TrunkId)
            .filter(move |&t| self.contains(t))
    }
}

/// Source address -> trunks that allow it, per listener; longest-prefix match in which a prefix's value is the union of all
/// prefixes that cover it.
#[derive(Debug, Default)]
pub struct AllowTable {}

impl AllowTable {
    /// The trunks that allow `source` (IPv4-mapped IPv6 is judged as IPv4) on `listener`.
    pub fn lookup(&self, _listener: ListenerId, _source: IpAddr) -> TrunkSet {
        TrunkSet::EMPTY
    }
}
