//! The layout of the maps that the XDP program shares: `ebpf/layout.h` in Rust. A test compares both through the object's BTF.
//!
//! Addresses are in network byte order, an IPv4 address in word 0; ports are in host byte order.

use aya::Pod;
use std::net::IpAddr;

/// Names the directory of the pins: an upgraded daemon never reads what another layout wrote.
pub const LAYOUT_VERSION: u32 = 1;
/// How often each table exists: one in force, one to be filled.
pub const GENERATIONS: u32 = 2;
/// Most listener entries of a generation.
pub const LISTENERS: u32 = 256;
/// Most listeners on one port and protocol.
pub const CHAIN: usize = 64;
/// Ports of one generation in the map `ports`.
pub const PORTS: u32 = 65_536;
/// Room for intervals of one family, and for distinct sets of trunks, in one generation; the object's maps have it for all.
/// Any 131,000 prefixes fit.
pub const BOUNDS: u32 = 262_144;
/// See [`BOUNDS`].
pub const SETS: u32 = 16_384;
/// The most intervals that the program's search gets to the end of.
pub const MOST_BOUNDS: u32 = 1 << 20;
/// Rows of the drop counters.
pub const COUNTER_ROWS: u32 = 512;
/// The row of media ports.
pub const COUNTER_MEDIA: u32 = 0;
/// The row of packets for which no listener can be named.
pub const COUNTER_ANY: u32 = 1;
/// Columns of the drop counters.
pub const REASONS: u32 = 16;
/// Sources of one media port.
pub const FLOW_SOURCES: usize = 2;

pub const FAMILY_IPV4: u8 = 4;
pub const FAMILY_IPV6: u8 = 6;

pub const MEDIA_NONE: u8 = 0;
pub const MEDIA_ADDRESS: u8 = 1;
pub const MEDIA_ANY: u8 = 2;

/// Why a packet was dropped. The discriminant is a column of the drop counters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u32)]
pub enum Reason {
    Unlisted = 0,
    Stranger = 1,
    Unallocated = 2,
    Truncated = 3,
    ShortFragment = 4,
    Overlap = 5,
    TooDeep = 6,
    SourceRouted = 7,
    MappedSource = 8,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 9] = [
        Reason::Unlisted,
        Reason::Stranger,
        Reason::Unallocated,
        Reason::Truncated,
        Reason::ShortFragment,
        Reason::Overlap,
        Reason::TooDeep,
        Reason::SourceRouted,
        Reason::MappedSource,
    ];

    /// The `reason` label of `sip_edge_access_dropped_packets_total`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Unlisted => "unlisted",
            Reason::Stranger => "stranger",
            Reason::Unallocated => "unallocated",
            Reason::Truncated => "truncated",
            Reason::ShortFragment => "short_fragment",
            Reason::Overlap => "overlap",
            Reason::TooDeep => "too_deep",
            Reason::SourceRouted => "source_routed",
            Reason::MappedSource => "mapped_source",
        }
    }
}

/// `struct edge_control`: 0 lets everything pass, n puts generation n - 1 in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Control {
    pub active: u32,
}

/// `struct edge_scope`: where media is, per generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Scope {
    pub media4: u32,
    pub media6: [u32; 4],
    pub media_low: u16,
    pub media_high: u16,
    pub media4_scope: u8,
    pub media6_scope: u8,
    pub listeners: u16,
    pub bounds4_first: u32,
    pub bounds4: u32,
    pub bounds6_first: u32,
    pub bounds6: u32,
    pub sets_first: u32,
}

/// `struct edge_port`: the first listener of a port, 0 for none, n for entry n - 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Port {
    pub tcp: u16,
    pub udp: u16,
}

/// `struct edge_trunks`: the words of a [`edge_proto::trunk::TrunkSet`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Trunks {
    pub words: [u64; 4],
}

/// `struct edge_listener`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct ListenerEntry {
    pub trunks: Trunks,
    pub address: [u32; 4],
    pub counter: u32,
    pub port: u16,
    pub next: u16,
    pub family: u8,
    pub protocol: u8,
    pub any: u8,
    pub reserved: [u8; 5],
}

/// `struct edge_bound4`: sources from `start` (host byte order) up to the next bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Bound4 {
    pub start: u32,
    pub set: u32,
}

/// `struct edge_bound6`: [`Bound4`] for IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Bound6 {
    pub start_high: u64,
    pub start_low: u64,
    pub set: u32,
    pub reserved: u32,
}

/// `struct edge_flow_key`: an open media port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct FlowKey {
    pub port: u16,
    pub family: u16,
}

/// `struct edge_source`: port 0 is any port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Source {
    pub address: [u32; 4],
    pub port: u16,
    pub reserved: u16,
}

/// `struct edge_flow`: who may send to an open media port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Flow {
    pub sources: [Source; FLOW_SOURCES],
    pub count: u16,
    pub any: u16,
    /// For the fast path, 0 until there is one.
    pub relay: u32,
}

// SAFETY: `#[repr(C)]`, integers only, and no padding: the test that compares the layout with the object's BTF finds that the
// members fill each struct.
unsafe impl Pod for Control {}
// SAFETY: as above.
unsafe impl Pod for Scope {}
// SAFETY: as above.
unsafe impl Pod for Port {}
// SAFETY: as above.
unsafe impl Pod for Trunks {}
// SAFETY: as above.
unsafe impl Pod for ListenerEntry {}
// SAFETY: as above.
unsafe impl Pod for Bound4 {}
// SAFETY: as above.
unsafe impl Pod for Bound6 {}
// SAFETY: as above.
unsafe impl Pod for FlowKey {}
// SAFETY: as above.
unsafe impl Pod for Flow {}

/// The family and the words of an address, IPv4-mapped IPv6 as IPv4.
pub fn words(address: IpAddr) -> (u8, [u32; 4]) {
    match address.to_canonical() {
        IpAddr::V4(v4) => (FAMILY_IPV4, [u32::from_ne_bytes(v4.octets()), 0, 0, 0]),
        IpAddr::V6(v6) => {
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(v6.octets().as_chunks::<4>().0) {
                *word = u32::from_ne_bytes(*bytes);
            }
            (FAMILY_IPV6, words)
        }
    }
}
