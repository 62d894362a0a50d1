//! Which trunk a source may speak for.

use crate::config::{Config, Listener, Trunk};
use crate::id::{ListenerId, TrunkId};
use indexmap::IndexMap;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::{Prefix, PrefixMap};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// A set of trunks of one configuration, as a bit set. The same words are the value of the XDP allowlist's prefixes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
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
        (0..).step_by(64).zip(self.0).flat_map(|(first, mut left)| {
            std::iter::from_fn(move || {
                let next = (left != 0).then(|| TrunkId(first + left.trailing_zeros() as u16));
                left &= left.wrapping_sub(1);
                next
            })
        })
    }
}

/// Source address -> trunks that allow it, per listener; longest-prefix match in which a prefix's value is the union of all
/// prefixes that cover it.
///
/// Because every value already holds what its covering prefixes grant, one longest-prefix match gives the whole answer, in
/// userspace and in the BPF maps that are filled from [`AllowTable::prefixes`].
#[derive(Debug, Default)]
pub struct AllowTable {
    /// [`ListenerId`] -> index into `tables`. Listeners with the same trunks share a table.
    by_listener: BTreeMap<ListenerId, usize>,
    tables: Vec<Prefixes>,
}

/// The prefixes of one set of trunks.
#[derive(Debug, Default)]
struct Prefixes {
    v4: PrefixMap<Ipv4Net, TrunkSet>,
    v6: PrefixMap<Ipv6Net, TrunkSet>,
}

impl AllowTable {
    /// Builds the table of `listeners` from the `allow` lists of `trunks` that use them.
    ///
    /// A prefix of a family that the trunk's `network` excludes grants nothing. Prefixes within ::ffff:0:0/96 count as the IPv4
    /// prefix they mean.
    pub fn build(listeners: &[Listener], trunks: &[Arc<Trunk>]) -> AllowTable {
        let mut tables: IndexMap<TrunkSet, Prefixes> = IndexMap::new();
        let mut by_listener = BTreeMap::new();
        for listener in listeners {
            let users = trunks.iter().filter(|t| t.listen.contains(&listener.id));
            let mut set = TrunkSet::EMPTY;
            users.clone().for_each(|t| set.insert(t.id));
            let entry = tables.entry(set);
            by_listener.insert(listener.id, entry.index());
            entry.or_insert_with(|| Prefixes::of(users));
        }
        AllowTable {
            by_listener,
            tables: tables.into_values().collect(),
        }
    }

    /// The trunks that allow `source` (IPv4-mapped IPv6 is judged as IPv4) on `listener`.
    pub fn lookup(&self, listener: ListenerId, source: IpAddr) -> TrunkSet {
        self.table(listener)
            .map_or(TrunkSet::EMPTY, |table| table.lookup(source))
    }

    /// The trunks that allow `source` on any listener: for requests that arrive on a connection which the edge opened.
    pub fn lookup_any(&self, source: IpAddr) -> TrunkSet {
        self.tables.iter().fold(TrunkSet::EMPTY, |set, table| {
            set.union(table.lookup(source))
        })
    }

    /// Every distinct prefix of `listener` with the union of what all prefixes that cover it grant, IPv4 first, each family
    /// in address order with a covering prefix before the ones it covers.
    pub fn prefixes(&self, listener: ListenerId) -> impl Iterator<Item = (IpNet, TrunkSet)> + '_ {
        self.table(listener).into_iter().flat_map(|table| {
            let v4 = table.v4.iter().map(|(net, &set)| (IpNet::V4(net), set));
            let v6 = table.v6.iter().map(|(net, &set)| (IpNet::V6(net), set));
            v4.chain(v6)
        })
    }

    fn table(&self, listener: ListenerId) -> Option<&Prefixes> {
        let index = *self.by_listener.get(&listener)?;
        self.tables.get(index)
    }
}

impl Prefixes {
    fn of<'a>(trunks: impl Iterator<Item = &'a Arc<Trunk>>) -> Prefixes {
        let mut prefixes = Prefixes::default();
        for trunk in trunks {
            for &net in &trunk.allow {
                let net = canonical_net(net);
                if trunk.network.permits(net.addr()) {
                    match net {
                        IpNet::V4(net) => prefixes.v4.entry(net).or_default().insert(trunk.id),
                        IpNet::V6(net) => prefixes.v6.entry(net).or_default().insert(trunk.id),
                    }
                }
            }
        }
        inherit(&mut prefixes.v4);
        inherit(&mut prefixes.v6);
        prefixes
    }

    fn lookup(&self, source: IpAddr) -> TrunkSet {
        match source.to_canonical() {
            IpAddr::V4(v4) => longest(&self.v4, &host_v4(v4)),
            IpAddr::V6(v6) => longest(&self.v6, &host_v6(v6)),
        }
    }
}

fn longest<P: Prefix>(map: &PrefixMap<P, TrunkSet>, host: &P) -> TrunkSet {
    map.get_lpm(host)
        .map_or(TrunkSet::EMPTY, |(_, &trunks)| trunks)
}

/// Adds to each prefix what the prefixes covering it grant, in one pass: iteration visits a prefix before those it covers.
fn inherit<P: Prefix + Copy>(map: &mut PrefixMap<P, TrunkSet>) {
    let mut covering: Vec<(P, TrunkSet)> = Vec::new();
    for (prefix, set) in map.iter_mut() {
        while covering
            .pop_if(|(outer, _)| !outer.contains(&prefix))
            .is_some()
        {}
        if let Some((_, granted)) = covering.last() {
            *set = set.union(*granted);
        }
        covering.push((prefix, *set));
    }
}

fn host_v4(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::from(address)
}

fn host_v6(address: Ipv6Addr) -> Ipv6Net {
    Ipv6Net::from(address)
}

/// `net` with its host bits cleared, and as IPv4 where it lies within ::ffff:0:0/96.
pub fn canonical_net(net: IpNet) -> IpNet {
    match net.trunc() {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => v6
            .addr()
            .to_ipv4_mapped()
            .and_then(|v4| Ipv4Net::new(v4, v6.prefix_len() - 96).ok())
            .map_or(IpNet::V6(v6), IpNet::V4),
        other => other,
    }
}

/// The answer to "whose request is this?".
#[derive(Clone, Debug)]
pub enum Identified {
    /// Exactly one trunk.
    Trunk(Arc<Trunk>),
    /// Several trunks that demand digest remain; the user name of the credentials tells them apart, and the request shows none
    /// or one of nobody's. In the order of the configuration, never fewer than two. The configuration check makes sure that
    /// they share one realm, so any of them can be challenged for.
    NeedUsername(Vec<Arc<Trunk>>),
    /// No trunk allows the source here.
    Unlisted,
    /// Several trunks remain and nothing tells them apart. The configuration check refuses what can lead here, except for
    /// Request-URI hosts that no trunk of the source names.
    Ambiguous,
}

/// The trunk of a request that is outside any dialog.
///
/// `listener` is `None` for a connection that the edge opened. `request_uri_host` is compared without regard to case; brackets
/// of an IPv6 literal do not matter. `digest_username` is the user name in the request's Authorization, unverified.
///
/// Among several trunks that allow the source: those whose `request_hosts` name the host, else those without `request_hosts`;
/// among these, the one that demands `digest_username`, else the only one that asks for no credentials.
pub fn identify(
    config: &Config,
    listener: Option<ListenerId>,
    source: IpAddr,
    request_uri_host: &str,
    digest_username: Option<&str>,
) -> Identified {
    let set = match listener {
        Some(listener) => config.allow.lookup(listener, source),
        None => config.allow.lookup_any(source),
    };
    let listed: Vec<&Arc<Trunk>> = set.iter().filter_map(|id| config.trunk(id)).collect();
    match listed.as_slice() {
        [] => return Identified::Unlisted,
        [only] => return Identified::Trunk(Arc::clone(only)),
        _ => {}
    }
    let candidates = by_request_host(&listed, request_uri_host);
    if let [only] = candidates.as_slice() {
        return Identified::Trunk(Arc::clone(only));
    }
    by_username(&candidates, digest_username)
}

fn by_request_host<'a>(listed: &[&'a Arc<Trunk>], host: &str) -> Vec<&'a Arc<Trunk>> {
    let host = canonical_host(host);
    let naming: Vec<_> = listed
        .iter()
        .copied()
        .filter(|t| t.request_hosts.contains(&host))
        .collect();
    if naming.is_empty() {
        listed
            .iter()
            .copied()
            .filter(|t| t.request_hosts.is_empty())
            .collect()
    } else {
        naming
    }
}

fn by_username(candidates: &[&Arc<Trunk>], username: Option<&str>) -> Identified {
    let (digest, by_ip): (Vec<&Arc<Trunk>>, Vec<&Arc<Trunk>>) =
        candidates.iter().partition(|t| t.auth.demands_digest());
    if let Some(username) = username {
        let demands = |t: &&&Arc<Trunk>| {
            let credentials = t.credentials.as_ref();
            credentials.is_some_and(|c| c.username == username)
        };
        let mut named = digest.iter().filter(demands);
        match (named.next(), named.next()) {
            (Some(one), None) => return Identified::Trunk(Arc::clone(one)),
            (Some(_), Some(_)) => return Identified::Ambiguous,
            (None, _) => {}
        }
    }
    match (by_ip.as_slice(), digest.as_slice()) {
        ([one], _) => Identified::Trunk(Arc::clone(one)),
        ([], [_, _, ..]) => Identified::NeedUsername(digest.into_iter().cloned().collect()),
        _ => Identified::Ambiguous,
    }
}

/// `host` as hosts are compared everywhere: lower case, no brackets, no trailing dot, addresses in their shortest form
/// (RFC 5952), IPv4-mapped IPv6 as IPv4.
pub fn canonical_host(host: &str) -> String {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return address.to_canonical().to_string();
    }
    bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        Credentials, InboundAuth, MediaConfig, Network, Secret, SipConfig, Transport,
    };
    use crate::time::Duration;
    use proptest::prelude::*;

    fn listener(id: u16) -> Listener {
        Listener {
            id: ListenerId(id),
            name: format!("l{id}"),
            transport: Transport::Tcp,
            address: "127.0.0.1:5060".parse().unwrap(),
            advertised: "127.0.0.1:5060".parse().unwrap(),
        }
    }

    fn trunk(id: u16, allow: &[&str]) -> Trunk {
        let mut trunk = Trunk::new(TrunkId(id), format!("t{id}"), vec![ListenerId(0)]);
        trunk.allow = allow.iter().map(|net| net.parse().unwrap()).collect();
        trunk
    }

    fn digest(mut trunk: Trunk, username: &str) -> Trunk {
        trunk.auth = InboundAuth::Digest;
        trunk.credentials = Some(Credentials {
            username: username.to_owned(),
            password: Secret::new("secret"),
        });
        trunk
    }

    fn config(trunks: Vec<Trunk>) -> Config {
        let listeners = vec![listener(0), listener(1)];
        let trunks: Vec<_> = trunks.into_iter().map(Arc::new).collect();
        Config {
            domains: Vec::new(),
            sip: SipConfig::default(),
            media: MediaConfig {
                ipv4: None,
                ipv6: None,
                ports: 10_000..=10_999,
                timeout: Duration::from_secs(60),
            },
            allow: AllowTable::build(&listeners, &trunks),
            listeners,
            trunks,
            routes: Vec::new(),
        }
    }

    fn set(ids: &[u16]) -> TrunkSet {
        let mut set = TrunkSet::EMPTY;
        ids.iter().for_each(|&id| set.insert(TrunkId(id)));
        set
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn who(config: &Config, source: &str, host: &str, username: Option<&str>) -> String {
        match identify(config, Some(ListenerId(0)), ip(source), host, username) {
            Identified::Trunk(trunk) => trunk.name.to_string(),
            Identified::NeedUsername(trunks) => {
                let names: Vec<_> = trunks.iter().map(|t| &*t.name).collect();
                format!("username of {}", names.join(" "))
            }
            Identified::Unlisted => "unlisted".to_owned(),
            Identified::Ambiguous => "ambiguous".to_owned(),
        }
    }

    #[test]
    fn a_prefix_grants_what_its_covering_prefixes_grant() {
        let config = config(vec![
            trunk(0, &["192.0.2.0/24"]),
            trunk(1, &["192.0.2.128/25", "2001:db8::/32"]),
            trunk(2, &["192.0.2.129/32", "2001:db8:1::/48"]),
        ]);
        let at = |source| config.allow.lookup(ListenerId(0), ip(source));
        assert_eq!(at("192.0.2.1"), set(&[0]));
        assert_eq!(at("192.0.2.130"), set(&[0, 1]));
        assert_eq!(at("192.0.2.129"), set(&[0, 1, 2]));
        assert_eq!(at("198.51.100.1"), TrunkSet::EMPTY);
        assert_eq!(at("2001:db8::1"), set(&[1]));
        assert_eq!(at("2001:db8:1::1"), set(&[1, 2]));
        let all: Vec<_> = config.allow.prefixes(ListenerId(0)).collect();
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        assert_eq!(
            all,
            [
                (net("192.0.2.0/24"), set(&[0])),
                (net("192.0.2.128/25"), set(&[0, 1])),
                (net("192.0.2.129/32"), set(&[0, 1, 2])),
                (net("2001:db8::/32"), set(&[1])),
                (net("2001:db8:1::/48"), set(&[1, 2])),
            ]
        );
    }

    #[test]
    fn ipv4_mapped_addresses_and_prefixes_are_ipv4() {
        let config = config(vec![
            trunk(0, &["192.0.2.0/24"]),
            trunk(1, &["::ffff:198.51.100.0/120"]),
            trunk(2, &["::/0"]),
        ]);
        let at = |source| config.allow.lookup(ListenerId(0), ip(source));
        assert_eq!(at("::ffff:192.0.2.1"), set(&[0]));
        assert_eq!(at("198.51.100.7"), set(&[1]));
        assert_eq!(at("::ffff:203.0.113.1"), TrunkSet::EMPTY);
        assert_eq!(at("2001:db8::1"), set(&[2]));
    }

    #[test]
    fn a_listener_knows_only_its_trunks_and_a_trunk_only_its_family() {
        let mut other = trunk(1, &["0.0.0.0/0", "::/0"]);
        other.listen = vec![ListenerId(1)];
        other.network = Network::Ipv6;
        let config = config(vec![trunk(0, &["192.0.2.0/24"]), other]);
        let at = |listener, source| config.allow.lookup(ListenerId(listener), ip(source));
        assert_eq!(at(0, "192.0.2.1"), set(&[0]));
        assert_eq!(at(1, "192.0.2.1"), TrunkSet::EMPTY);
        assert_eq!(at(1, "2001:db8::1"), set(&[1]));
        assert_eq!(at(7, "192.0.2.1"), TrunkSet::EMPTY);
        assert_eq!(config.allow.lookup_any(ip("2001:db8::1")), set(&[1]));
    }

    #[test]
    fn request_hosts_come_before_the_username() {
        let mut sales = trunk(0, &["192.0.2.0/24"]);
        sales.request_hosts = vec!["sales.example.net".to_owned(), "2001:db8::5".to_owned()];
        let mut support = digest(trunk(1, &["192.0.2.0/24"]), "u1");
        support.request_hosts = vec!["support.example.net".to_owned()];
        let config = config(vec![sales, support]);
        assert_eq!(who(&config, "192.0.2.9", "Sales.Example.net.", None), "t0");
        assert_eq!(who(&config, "192.0.2.9", "[2001:DB8:0::5]", None), "t0");
        assert_eq!(who(&config, "192.0.2.9", "support.example.net", None), "t1");
        assert_eq!(who(&config, "192.0.2.9", "example.net", None), "ambiguous");
        assert_eq!(who(&config, "203.0.113.1", "example.net", None), "unlisted");
    }

    #[test]
    fn a_host_that_no_trunk_names_goes_to_the_trunk_without_request_hosts() {
        let mut named = trunk(0, &["192.0.2.0/24"]);
        named.request_hosts = vec!["sales.example.net".to_owned()];
        let config = config(vec![named, trunk(1, &["192.0.2.0/24"])]);
        assert_eq!(who(&config, "192.0.2.9", "sales.example.net", None), "t0");
        assert_eq!(who(&config, "192.0.2.9", "example.net", None), "t1");
    }

    #[test]
    fn the_username_tells_digest_trunks_apart() {
        let config = config(vec![
            digest(trunk(0, &["0.0.0.0/0"]), "alpha"),
            digest(trunk(1, &["192.0.2.0/24"]), "beta"),
            trunk(2, &["198.51.100.0/24"]),
        ]);
        assert_eq!(who(&config, "192.0.2.9", "h", None), "username of t0 t1");
        assert_eq!(who(&config, "192.0.2.9", "h", Some("alpha")), "t0");
        assert_eq!(who(&config, "192.0.2.9", "h", Some("beta")), "t1");
        assert_eq!(
            who(&config, "192.0.2.9", "h", Some("gamma")),
            "username of t0 t1"
        );
        // A source listed by a trunk that asks for no credentials is that trunk unless it shows those of another.
        assert_eq!(who(&config, "198.51.100.9", "h", None), "t2");
        assert_eq!(who(&config, "198.51.100.9", "h", Some("alpha")), "t0");
        assert_eq!(who(&config, "198.51.100.9", "h", Some("gamma")), "t2");
        assert_eq!(who(&config, "203.0.113.1", "h", None), "t0");
    }

    #[test]
    fn what_nothing_tells_apart_is_ambiguous() {
        let by_ip = config(vec![
            trunk(0, &["192.0.2.0/24"]),
            trunk(1, &["192.0.2.9/32"]),
        ]);
        assert_eq!(who(&by_ip, "192.0.2.9", "h", None), "ambiguous");
        let same_user = config(vec![
            digest(trunk(0, &["192.0.2.0/24"]), "u"),
            digest(trunk(1, &["192.0.2.0/24"]), "u"),
        ]);
        assert_eq!(who(&same_user, "192.0.2.9", "h", Some("u")), "ambiguous");
    }

    #[test]
    fn a_hundred_thousand_prefixes() {
        let mut big = trunk(0, &["10.0.0.0/8"]);
        big.allow.extend(
            (0..100_000u32).map(|n| {
                IpNet::V4(Ipv4Net::new(Ipv4Addr::from(0x0a00_0000 | (n << 7)), 25).unwrap())
            }),
        );
        let config = config(vec![big, trunk(1, &["10.0.1.0/24"])]);
        let at = |source| config.allow.lookup(ListenerId(0), ip(source));
        assert_eq!(config.allow.prefixes(ListenerId(0)).count(), 100_002);
        assert_eq!(at("10.0.1.3"), set(&[0, 1]));
        assert_eq!(at("10.255.0.3"), set(&[0]));
    }

    /// Prefixes crowded into few bits, so that they cover each other.
    fn crowded_net() -> impl Strategy<Value = IpNet> {
        let v4 = (any::<u8>(), 0u8..=32).prop_map(|(low, len)| {
            let address = Ipv4Addr::from(0xc000_0200 | u32::from(low));
            IpNet::V4(Ipv4Net::new(address, len).unwrap())
        });
        let v6 = (any::<u8>(), 0u8..=128, any::<bool>()).prop_map(|(low, len, mapped)| {
            let base: u128 = if mapped {
                0xffff_c000_0200
            } else {
                0x2001_0db8 << 96
            };
            let address = Ipv6Addr::from(base | u128::from(low));
            IpNet::V6(Ipv6Net::new(address, len).unwrap())
        });
        prop_oneof![v4, v6]
    }

    /// The trunks one of whose prefixes covers all of `source`.
    fn brute_force(trunks: &[Arc<Trunk>], listener: ListenerId, source: IpNet) -> TrunkSet {
        let mut set = TrunkSet::EMPTY;
        for trunk in trunks.iter().filter(|t| t.listen.contains(&listener)) {
            let grants = |net: &IpNet| {
                let net = canonical_net(*net);
                trunk.network.permits(net.addr()) && net.contains(&source)
            };
            if trunk.allow.iter().any(grants) {
                set.insert(trunk.id);
            }
        }
        set
    }

    proptest! {
        #[test]
        fn lookups_agree_with_trying_every_prefix(
            lists in proptest::collection::vec(
                (proptest::collection::vec(crowded_net(), 0..12), 0u8..3, 1u8..4), 1..9),
            sources in proptest::collection::vec(crowded_net(), 1..20),
        ) {
            let trunks: Vec<Arc<Trunk>> = lists.into_iter().zip((0u16..).step_by(31)).map(|((allow, network, listen), id)| {
                let listen = (0..2).filter(|bit| listen & (1 << bit) != 0).map(ListenerId).collect();
                let mut trunk = Trunk::new(TrunkId(id), "t", listen);
                trunk.allow = allow;
                trunk.network = [Network::Dual, Network::Ipv4, Network::Ipv6][usize::from(network)];
                Arc::new(trunk)
            }).collect();
            let table = AllowTable::build(&[listener(0), listener(1)], &trunks);
            for id in [ListenerId(0), ListenerId(1)] {
                for source in sources.iter().map(IpNet::addr) {
                    let host = IpNet::from(source.to_canonical());
                    prop_assert_eq!(table.lookup(id, source), brute_force(&trunks, id, host));
                }
                for (net, granted) in table.prefixes(id) {
                    prop_assert_eq!(granted, brute_force(&trunks, id, net));
                }
            }
        }
    }
}
