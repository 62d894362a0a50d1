//! From the configuration to the tables that the XDP program reads, without touching the kernel.

use super::layout::{
    self, Bound4, Bound6, CHAIN, COUNTER_ANY, COUNTER_MEDIA, COUNTER_ROWS, FAMILY_IPV4, LISTENERS,
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
    #[error("more than {CHAIN} listeners share port {0}")]
    TooManyOnPort(u16),
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
    /// The tables of `config`, but for its media, of which `media` is in force. `rows` names a row of the drop counters for each
    /// listener.
    pub fn build(
        config: &Config,
        media: &MediaConfig,
        rows: &mut CounterRows,
    ) -> Result<Tables, TableError> {
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
            scope: scope(media, listeners.len()),
            listeners,
            ports: BTreeMap::new(),
            bounds4: bounds4.collect(),
            bounds6: bounds6.collect(),
            sets: sets.all,
        };
        tables.chain()?;
        Ok(tables)
    }

    /// Links the listeners of each port in their order, wildcard addresses last: the program takes the first that matches.
    fn chain(&mut self) -> Result<(), TableError> {
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
        self.ports
            .iter()
            .find(|(_, port)| self.length(port.tcp) > CHAIN || self.length(port.udp) > CHAIN)
            .map_or(Ok(()), |(&port, _)| Err(TableError::TooManyOnPort(port)))
    }

    /// Listeners of a chain.
    fn length(&self, head: u16) -> usize {
        let entry = |number: u16| self.listeners.get(usize::from(number.checked_sub(1)?));
        std::iter::successors(entry(head), |listener| entry(listener.next)).count()
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

#[cfg(test)]
mod tests {
    use super::*;
    use edge_proto::config::{MediaAddress, SipConfig, Trunk};
    use edge_proto::id::{ListenerId, TrunkId};
    use edge_proto::time::Duration;
    use edge_proto::trunk::AllowTable;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::sync::Arc;

    fn config(listeners: &[&str], trunks: &[(Vec<IpNet>, Vec<u16>)]) -> Config {
        let listeners: Vec<Listener> = (0..)
            .zip(listeners)
            .map(|(n, address)| Listener {
                id: ListenerId(n),
                name: format!("l{n}"),
                transport: Transport::Tcp,
                address: address.parse().unwrap(),
                advertised: address.parse().unwrap(),
            })
            .collect();
        let trunks: Vec<_> = (0..)
            .zip(trunks)
            .map(|(n, (allow, listen))| {
                let listen = listen.iter().map(|&n| ListenerId(n)).collect();
                let mut trunk = Trunk::new(TrunkId(n), format!("t{n}"), listen);
                trunk.allow.clone_from(allow);
                Arc::new(trunk)
            })
            .collect();
        let media = |address: &str| {
            Some(MediaAddress {
                bind: address.parse().unwrap(),
                advertised: address.parse().unwrap(),
            })
        };
        Config {
            domains: Vec::new(),
            sip: SipConfig::default(),
            media: MediaConfig {
                ipv4: media("192.0.2.1"),
                ipv6: media("::"),
                ports: 10_000..=60_000,
                timeout: Duration::from_secs(60),
            },
            allow: AllowTable::build(&listeners, &trunks),
            listeners,
            trunks,
            routes: Vec::new(),
        }
    }

    /// What the program finds: the trunks of the interval, as far as they use the listener.
    fn lookup(tables: &Tables, listener: usize, source: IpAddr) -> [u64; 4] {
        let set = match source {
            IpAddr::V4(ip) => {
                let after = tables.bounds4.partition_point(|b| b.start <= u32::from(ip));
                tables.bounds4[after - 1].set
            }
            IpAddr::V6(ip) => {
                let start = |b: &Bound6| u128::from(b.start_high) << 64 | u128::from(b.start_low);
                let after = tables
                    .bounds6
                    .partition_point(|b| start(b) <= u128::from(ip));
                tables.bounds6[after - 1].set
            }
        };
        let (found, users) = (
            tables.sets[set as usize].words,
            tables.listeners[listener].trunks.words,
        );
        std::array::from_fn(|n| found[n] & users[n])
    }

    fn near4() -> impl Strategy<Value = Ipv4Addr> {
        // Few bits differ, so that prefixes cover each other and addresses fall on their edges.
        any::<[bool; 6]>().prop_map(|bits| {
            let [a, b, c, d, e, f] = bits.map(u32::from);
            Ipv4Addr::from(a << 31 | b << 30 | c << 16 | d << 15 | e << 1 | f)
        })
    }

    fn near6() -> impl Strategy<Value = Ipv6Addr> {
        any::<[bool; 6]>().prop_map(|bits| {
            let [a, b, c, d, e, f] = bits.map(u128::from);
            Ipv6Addr::from(a << 127 | b << 65 | c << 64 | d << 63 | e << 1 | f)
        })
    }

    fn net() -> impl Strategy<Value = IpNet> {
        let v4 = (near4(), 0u8..=32);
        let v6 = (near6(), 0u8..=128);
        prop_oneof![
            v4.prop_map(|(ip, length)| IpNet::new(ip.into(), length).unwrap()),
            v6.prop_map(|(ip, length)| IpNet::new(ip.into(), length).unwrap()),
        ]
    }

    proptest! {
        #[test]
        fn the_intervals_say_what_the_allow_table_says(
            trunks in vec((vec(net(), 0..8), vec(0u16..3, 0..3)), 0..6),
            sources in vec(prop_oneof![near4().prop_map(IpAddr::V4), near6().prop_map(IpAddr::V6)], 1..64),
        ) {
            let config = config(&["192.0.2.1:5060", "192.0.2.2:5060", "[::]:5061"], &trunks);
            let tables = Tables::build(&config, &config.media, &mut CounterRows::new()).unwrap();
            let edges = trunks.iter().flat_map(|(allow, _)| allow).flat_map(|net| {
                [net.network(), net.broadcast()]
            });
            for source in sources.iter().copied().chain(edges) {
                // A mapped address is refused before it is looked up.
                prop_assume!(source.to_canonical() == source);
                for listener in 0..3u16 {
                    let expected = config.allow.lookup(ListenerId(listener), source);
                    prop_assert_eq!(lookup(&tables, listener.into(), source), expected.0);
                }
            }
        }
    }

    #[test]
    fn intervals_are_in_order_and_differ_from_their_neighbours() {
        let nets = [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.0.0.0/9",
            "255.255.255.255/32",
        ];
        let nets = nets.map(|net| net.parse().unwrap()).to_vec();
        let config = config(&["192.0.2.1:5060"], &[(nets, vec![0])]);
        let tables = Tables::build(&config, &config.media, &mut CounterRows::new()).unwrap();
        // One trunk everywhere: one interval.
        assert_eq!(tables.bounds4, [Bound4 { start: 0, set: 1 }]);
        assert_eq!(tables.bounds6.len(), 1);
        assert_eq!(tables.sets.len(), 2);
    }

    #[test]
    fn a_specific_address_comes_before_the_wildcard_of_its_port() {
        let listeners = [
            "0.0.0.0:5060",
            "192.0.2.1:5060",
            "192.0.2.2:5060",
            "[::]:5061",
        ];
        let config = config(&listeners, &[]);
        let tables = Tables::build(&config, &config.media, &mut CounterRows::new()).unwrap();
        let chain = |mut number: u16| {
            let mut all = Vec::new();
            while number > 0 {
                all.push(number - 1);
                number = tables.listeners[usize::from(number - 1)].next;
            }
            all
        };
        assert_eq!(chain(tables.ports[&5060].tcp), [1, 2, 0]);
        assert_eq!(chain(tables.ports[&5061].tcp), [3]);
        assert_eq!(tables.ports[&5060].udp, 0);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_number() {
        let addresses: Vec<String> = (0..300)
            .map(|n| format!("192.0.2.1:{}", 5000 + n))
            .collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let built = |config: &Config| Tables::build(config, &config.media, &mut CounterRows::new());
        let build = |addresses: &[&str]| built(&config(addresses, &[])).map(drop);
        assert_eq!(build(&addresses), Err(TableError::TooManyListeners(300)));
        assert_eq!(build(&addresses[..256]), Ok(()));
        let crowd: Vec<String> = (0..65).map(|n| format!("192.0.2.{n}:5060")).collect();
        let crowd: Vec<&str> = crowd.iter().map(String::as_str).collect();
        assert_eq!(build(&crowd), Err(TableError::TooManyOnPort(5060)));
        assert_eq!(build(&crowd[..64]), Ok(()));
    }

    #[test]
    fn a_listener_keeps_its_row_of_counters_whatever_its_number() {
        let mut rows = CounterRows::new();
        let first = config(&["192.0.2.1:5060", "192.0.2.2:5060"], &[]);
        Tables::build(&first, &first.media, &mut rows).unwrap();
        let mut second = config(&["192.0.2.2:5060", "192.0.2.3:5060"], &[]);
        (second.listeners[0].name, second.listeners[1].name) = ("l1".to_owned(), "new".to_owned());
        let tables = Tables::build(&second, &second.media, &mut rows).unwrap();
        let names: Vec<&str> = tables
            .listeners
            .iter()
            .map(|listener| rows.names()[listener.counter as usize].as_str())
            .collect();
        assert_eq!(names, ["l1", "new"]);
        assert_eq!(rows.names(), ["media", "any", "l0", "l1", "new"]);
    }

    #[test]
    fn a_listener_called_media_is_not_counted_as_media() {
        let mut config = config(&["192.0.2.1:5060"], &[]);
        config.listeners[0].name = "media".to_owned();
        let tables = Tables::build(&config, &config.media, &mut CounterRows::new()).unwrap();
        assert_eq!(tables.listeners[0].counter, 2);
    }

    #[test]
    fn media_is_guarded_where_the_configuration_has_it() {
        let config = config(&[], &[]);
        let scope = Tables::build(&config, &config.media, &mut CounterRows::new())
            .unwrap()
            .scope;
        assert_eq!((scope.media_low, scope.media_high), (10_000, 60_000));
        assert_eq!(
            (scope.media4_scope, scope.media6_scope),
            (MEDIA_ADDRESS, MEDIA_ANY)
        );
        assert_eq!(scope.media4.to_ne_bytes(), [192, 0, 2, 1]);
    }
}
