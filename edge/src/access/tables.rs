//! From the configuration to the tables that the XDP program reads, without touching the kernel.

use super::layout::{
    self, Bound4, Bound6, COUNTER_ANY, COUNTER_MEDIA, COUNTER_ROWS, FAMILY_IPV4, LISTENERS,
    ListenerEntry, MEDIA_ADDRESS, MEDIA_ANY, MEDIA_NONE, Port, Scope, Trunks,
};
use edge_proto::config::{Config, Listener, MediaConfig, Transport};
use edge_proto::trunk::TrunkSet;
use ipnet::IpNet;
use std::collections::BTreeMap;
use thiserror::Error;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The configuration asks for more than the maps hold.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum TableError {
    #[error("{0} listeners are more than the {LISTENERS} that XDP can guard")]
    TooManyListeners(usize),
    #[error(
        "the allowed prefixes are {needed} intervals of one address family, and XDP has room for {room} until it is restarted"
    )]
    TooManyPrefixes { needed: usize, room: usize },
    #[error(
        "the prefixes allow {needed} different sets of trunks, and XDP has room for {room} until it is restarted"
    )]
    TooManySets { needed: usize, room: usize },
    #[error("more than {} listeners were configured since the start, too many to count their drops apart", COUNTER_ROWS - 2)]
    TooManyCounters,
}

/// One generation of everything that the program looks up.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Tables {
    /// Without the positions in the maps, which depend on the generation.
    pub scope: Scope,
    /// Entry n of `listeners`.
    pub listeners: Vec<ListenerEntry>,
    /// Ports with a listener.
    pub ports: BTreeMap<u16, Port>,
    /// Source addresses cut into intervals; never empty.
    pub bounds4: Vec<Bound4>,
    pub bounds6: Vec<Bound6>,
    /// What the intervals refer to; the first is empty.
    pub sets: Vec<Trunks>,
}

impl Tables {
    /// The tables of `config`. `rows` names a row of the drop counters for each listener.
    pub fn build(config: &Config, rows: &mut CounterRows) -> Result<Tables, TableError> {
        if config.listeners.len() > LISTENERS as usize {
            return Err(TableError::TooManyListeners(config.listeners.len()));
        }
        let mut listeners = Vec::with_capacity(config.listeners.len());
        for listener in &config.listeners {
            let (family, address) = layout::words(listener.address.ip());
            listeners.push(ListenerEntry {
                trunks: Trunks {
                    words: users(config, listener).0,
                },
                address,
                counter: rows.row(&listener.name)?,
                port: listener.address.port(),
                family,
                protocol: match listener.transport {
                    Transport::Udp => UDP,
                    Transport::Tcp | Transport::Tls => TCP,
                },
                any: u8::from(listener.address.ip().is_unspecified()),
                ..ListenerEntry::default()
            });
        }
        let mut sets = Sets::new();
        let (prefixes4, prefixes6) = prefixes(config);
        let bounds4 = intervals(&prefixes4, &mut sets)
            .into_iter()
            .map(|(start, set)| Bound4 {
                // Left-aligned: the address is in the upper 32 bits.
                start: u32::try_from(start >> 96).unwrap_or(u32::MAX),
                set,
            });
        let bounds6 = intervals(&prefixes6, &mut sets)
            .into_iter()
            .map(|(start, set)| Bound6 {
                start_high: u64::try_from(start >> 64).unwrap_or(u64::MAX),
                start_low: u64::try_from(start & u128::from(u64::MAX)).unwrap_or(u64::MAX),
                set,
                reserved: 0,
            });
        let mut tables = Tables {
            scope: scope(&config.media, listeners.len()),
            listeners,
            ports: BTreeMap::new(),
            bounds4: bounds4.collect(),
            bounds6: bounds6.collect(),
            sets: sets.all,
        };
        tables.chain();
        Ok(tables)
    }

    /// Links the listeners of each port in their order, wildcard addresses last: the program takes the first that matches.
    fn chain(&mut self) {
        let mut order: Vec<usize> = (0..self.listeners.len()).collect();
        order.sort_by_key(|&n| self.listeners.get(n).map(|entry| entry.any));
        // Backwards, because each entry becomes the head of its chain.
        for n in order.into_iter().rev() {
            let number = u16::try_from(n + 1).unwrap_or(0);
            let Some(entry) = self.listeners.get_mut(n) else {
                continue;
            };
            let port = self.ports.entry(entry.port).or_default();
            let head = if entry.protocol == TCP {
                &mut port.tcp
            } else {
                &mut port.udp
            };
            entry.next = std::mem::replace(head, number);
        }
    }
}

/// The trunks that allow some source on the listener.
fn users(config: &Config, listener: &Listener) -> TrunkSet {
    config
        .allow
        .prefixes(listener.id)
        .fold(TrunkSet::EMPTY, |users, (_, set)| users.union(set))
}

fn scope(media: &MediaConfig, listeners: usize) -> Scope {
    let mut scope = Scope {
        media_low: *media.ports.start(),
        media_high: *media.ports.end(),
        listeners: u16::try_from(listeners).unwrap_or(u16::MAX),
        media4_scope: MEDIA_NONE,
        media6_scope: MEDIA_NONE,
        ..Scope::default()
    };
    for address in [media.ipv4, media.ipv6].into_iter().flatten() {
        let kind = if address.bind.is_unspecified() {
            MEDIA_ANY
        } else {
            MEDIA_ADDRESS
        };
        let (family, words) = layout::words(address.bind);
        if family == FAMILY_IPV4 {
            scope.media4 = words[0];
            scope.media4_scope = kind;
        } else {
            scope.media6 = words;
            scope.media6_scope = kind;
        }
    }
    scope
}

/// A prefix as (first address, length), the address left-aligned, so that one order and one mask serve both families.
type Prefix = (u128, u8);

/// Prefixes with the trunks that list them.
type Prefixes = Vec<(Prefix, TrunkSet)>;

/// The prefixes of all listeners, IPv4 and IPv6, each once and right before those that it covers. A trunk's prefixes are the
/// same on every listener that it uses, so the trunks that allow a source on one listener are those that allow it anywhere and
/// use the listener.
fn prefixes(config: &Config) -> (Prefixes, Prefixes) {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (net, set) in config
        .listeners
        .iter()
        .flat_map(|listener| config.allow.prefixes(listener.id))
    {
        match net.trunc() {
            IpNet::V4(net) => {
                let first = u128::from(u32::from(net.network())) << 96;
                v4.push(((first, net.prefix_len()), set));
            }
            IpNet::V6(net) => v6.push(((u128::from(net.network()), net.prefix_len()), set)),
        }
    }
    for prefixes in [&mut v4, &mut v6] {
        prefixes.sort_by_key(|&(prefix, _)| prefix);
        prefixes.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                earlier.1 = earlier.1.union(later.1);
            }
            same
        });
    }
    (v4, v6)
}

/// Cuts the addresses into intervals, as (first address, number of the set of trunks), the first from address zero. Each has the
/// union of all prefixes that cover it.
fn intervals(prefixes: &[(Prefix, TrunkSet)], sets: &mut Sets) -> Vec<(u128, u32)> {
    let mut cuts: Vec<(u128, TrunkSet)> = vec![(0, TrunkSet::EMPTY)];
    // The prefixes around the present one, widest first: (last address, union so far).
    let mut around: Vec<(u128, TrunkSet)> = Vec::new();
    let closed = |cuts: &mut Vec<_>, around: &mut Vec<(u128, TrunkSet)>, before: Option<u128>| {
        while let Some((last, _)) =
            around.pop_if(|(last, _)| before.is_none_or(|address| *last < address))
        {
            // What covers the closed prefix goes on behind it.
            if let Some(next) = last.checked_add(1) {
                cuts.push((next, around.last().map_or(TrunkSet::EMPTY, |outer| outer.1)));
            }
        }
    };
    for &((first, length), set) in prefixes {
        closed(&mut cuts, &mut around, Some(first));
        let hosts = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
        let union = around.last().map_or(set, |outer| outer.1.union(set));
        cuts.push((first, union));
        around.push((first | hosts, union));
    }
    closed(&mut cuts, &mut around, None);
    let mut intervals: Vec<(u128, u32)> = Vec::with_capacity(cuts.len());
    for (start, set) in cuts {
        let set = sets.number(set);
        // Of two cuts at one address the later one is the narrower prefix, or what goes on behind several.
        intervals.pop_if(|last| last.0 == start);
        if intervals.last().is_none_or(|last| last.1 != set) {
            intervals.push((start, set));
        }
    }
    intervals
}

/// Numbers the distinct sets of trunks; 0 is the empty one.
struct Sets {
    numbers: BTreeMap<[u64; 4], u32>,
    all: Vec<Trunks>,
}

impl Sets {
    fn new() -> Self {
        let mut sets = Sets {
            numbers: BTreeMap::new(),
            all: Vec::new(),
        };
        sets.number(TrunkSet::EMPTY);
        sets
    }

    fn number(&mut self, set: TrunkSet) -> u32 {
        let next = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        *self.numbers.entry(set.0).or_insert_with(|| {
            self.all.push(Trunks { words: set.0 });
            next
        })
    }
}

/// Rows of the drop counters by the listener's name. A listener keeps its row across reloads, so that its counters only grow.
#[derive(Clone, Debug)]
pub struct CounterRows {
    names: Vec<String>,
}

impl CounterRows {
    /// The label of media ports.
    pub const MEDIA: &'static str = "media";
    /// The label of packets for which no listener can be named.
    pub const ANY: &'static str = "any";

    pub fn new() -> Self {
        let mut names = vec![String::new(); 2];
        for (row, name) in [(COUNTER_MEDIA, Self::MEDIA), (COUNTER_ANY, Self::ANY)] {
            if let Some(slot) = names.get_mut(row as usize) {
                name.clone_into(slot);
            }
        }
        CounterRows { names }
    }

    /// The names, in the order of the rows.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    fn row(&mut self, name: &str) -> Result<u32, TableError> {
        // The first two rows are not for listeners, whatever they are called.
        let known = self.names.iter().skip(2).position(|known| known == name);
        let row = known.map_or(self.names.len(), |n| n + 2);
        if row >= COUNTER_ROWS as usize {
            return Err(TableError::TooManyCounters);
        }
        if known.is_none() {
            self.names.push(name.to_owned());
        }
        u32::try_from(row).map_err(|_| TableError::TooManyCounters)
    }
}

impl Default for CounterRows {
    fn default() -> Self {
        Self::new()
    }
}
