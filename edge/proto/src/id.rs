//! Identifiers that cross the boundary. All are small, `Copy` and meaningful only within one process.

use core::fmt;

/// One control thread and its media thread. At most [`CoreId::MAX_CORES`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CoreId(pub u8);

impl CoreId {
    /// The largest number of cores an edge runs on.
    pub const MAX_CORES: u8 = 64;
}

impl fmt::Display for CoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One of [`crate::config::Config::listeners`]. A reload keeps the id of a listener whose transport and address stay, and gives a
/// new listener one that the configuration before it did not use: connections and messages under way keep their meaning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ListenerId(pub u16);

/// Index into [`crate::config::Config::trunks`]; valid for one configuration only (a reload renumbers).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TrunkId(pub u16);

/// One TCP or TLS connection for SIP. Layout: core (8 bits), who opened it (1 bit), serial (55 bits).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    const ORIGINATED: u64 = 1 << 55;
    const SERIAL: u64 = Self::ORIGINATED - 1;

    /// A connection that the control thread of `core` accepted; `serial` counts up per core.
    pub const fn accepted(core: CoreId, serial: u64) -> Self {
        ConnectionId(((core.0 as u64) << 56) | (serial & Self::SERIAL))
    }

    /// A connection that the B2BUA of `core` asked for; `serial` counts up per core.
    pub const fn originated(core: CoreId, serial: u64) -> Self {
        ConnectionId(((core.0 as u64) << 56) | Self::ORIGINATED | (serial & Self::SERIAL))
    }

    /// The core whose control thread holds the socket.
    pub const fn core(self) -> CoreId {
        CoreId((self.0 >> 56) as u8)
    }

    /// Whether the edge opened it (as opposed to accepted it).
    pub const fn is_originated(self) -> bool {
        self.0 & Self::ORIGINATED != 0
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_originated() { "out" } else { "in" };
        write!(f, "conn-{}-{kind}-{}", self.core().0, self.0 & Self::SERIAL)
    }
}

/// One media allocation (an RTP and an RTCP port of this edge, facing one leg's peer).
///
/// `slot` indexes the media thread's tables and is reused; `generation` tells a late completion or command for an earlier
/// user of the slot from the present one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AllocationId {
    pub slot: u32,
    pub generation: u32,
}

/// A question to the resolver.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ResolveId(pub u64);
