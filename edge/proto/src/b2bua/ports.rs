//! Leases of media ports: which allocation has which port of which local address.

use crate::config::{MediaAddress, MediaConfig};
use crate::id::{AllocationId, CoreId};
use crate::relay::PortAllocator;
use std::net::{IpAddr, SocketAddr};

/// A leased RTP port (RTCP is the next one).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lease {
    pub id: AllocationId,
    /// Where the media thread binds RTP.
    pub bind: SocketAddr,
    /// What the SDP says.
    pub advertised: IpAddr,
}

/// Address family of an allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        }
    }
}

struct Pool {
    address: MediaAddress,
    ports: PortAllocator,
}

/// The ports of this core, per family. A port belongs to one allocation from [`Leases::lease`] to [`Leases::release`].
pub(crate) struct Leases {
    v4: Option<Pool>,
    v6: Option<Pool>,
    /// Generation of the last user of each slot.
    generations: Vec<u32>,
    free: Vec<u32>,
}

impl Leases {
    pub fn new(media: &MediaConfig, core: CoreId, cores: u8) -> Self {
        let pool = |address: Option<MediaAddress>| {
            address.map(|address| Pool {
                address,
                ports: PortAllocator::new(media.ports.clone(), core, cores),
            })
        };
        Leases {
            v4: pool(media.ipv4),
            v6: pool(media.ipv6),
            generations: Vec::new(),
            free: Vec::new(),
        }
    }

    fn pool(&mut self, family: Family) -> Option<&mut Pool> {
        match family {
            Family::V4 => self.v4.as_mut(),
            Family::V6 => self.v6.as_mut(),
        }
    }

    /// Whether the edge has a media address of the family.
    pub fn has(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4.is_some(),
            Family::V6 => self.v6.is_some(),
        }
    }

    /// A port of `family`; `None`: no such address, or all ports are taken.
    pub fn lease(&mut self, family: Family) -> Option<Lease> {
        let pool = self.pool(family)?;
        let port = pool.ports.lease()?;
        let MediaAddress { bind, advertised } = pool.address;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.generations.push(0);
            self.generations.len() as u32 - 1
        });
        let generation = self
            .generations
            .get_mut(slot as usize)
            .map(|generation| {
                *generation = generation.wrapping_add(1);
                *generation
            })
            .unwrap_or_default();
        Some(Lease {
            id: AllocationId { slot, generation },
            bind: SocketAddr::new(bind, port),
            advertised,
        })
    }

    /// The media thread is done with it.
    pub fn release(&mut self, lease: &Lease) {
        if let Some(pool) = self.pool(Family::of(lease.bind.ip())) {
            pool.ports.release(lease.bind.port());
        }
        self.free.push(lease.id.slot);
    }

    /// The port could not be bound: somebody else on this host has it. It rests before it is tried again.
    pub fn quarantine(&mut self, lease: &Lease) {
        if let Some(pool) = self.pool(Family::of(lease.bind.ip())) {
            pool.ports.quarantine(lease.bind.port());
        }
        self.free.push(lease.id.slot);
    }
}
