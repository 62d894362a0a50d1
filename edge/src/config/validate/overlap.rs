//! Trunks that share sources: can a request be told to belong to one of them?

use crate::config::diagnostic::{Place, Sink};
use crate::config::raw::RawTrunk;
use edge_proto::config::{Config, InboundAuth, Trunk};
use edge_proto::id::TrunkId;
use edge_proto::trunk::TrunkSet;
use ipnet::IpNet;
use std::collections::{BTreeSet, HashSet};

/// Two trunks, a prefix that both allow, and the listener where they meet.
struct Shared<'a> {
    first: &'a Trunk,
    second: &'a Trunk,
    net: IpNet,
    listener: &'a str,
}

/// Reports pairs of trunks between which a request could not be decided.
pub(super) fn check(sink: &mut Sink<'_>, config: &Config, raw: &[RawTrunk]) {
    let mut judged: BTreeSet<(TrunkId, TrunkId)> = BTreeSet::new();
    for listener in &config.listeners {
        // The value of a prefix is what all prefixes that cover it grant, so every pair that meets at all meets in a value.
        let mut seen: HashSet<TrunkSet> = HashSet::new();
        for (net, set) in config.allow.prefixes(listener.id) {
            if !seen.insert(set) {
                continue;
            }
            let trunks: Vec<&Trunk> = set
                .iter()
                .filter_map(|id| config.trunk(id))
                .map(|t| &**t)
                .collect();
            for (index, &first) in trunks.iter().enumerate() {
                for &second in trunks.iter().skip(index + 1) {
                    if judged.insert((first.id, second.id)) {
                        let listener = &listener.name;
                        let shared = Shared {
                            first,
                            second,
                            net,
                            listener,
                        };
                        let place = raw.get(usize::from(second.id.0)).map(|raw| &raw.place);
                        judge(sink, &shared, place.unwrap_or(&Place::file()));
                    }
                }
            }
        }
    }
}

fn judge(sink: &mut Sink<'_>, shared: &Shared<'_>, place: &Place) {
    let Shared {
        first,
        second,
        net,
        listener,
    } = shared;
    if told_apart_by_host(first, second) {
        return;
    }
    let meet = format!(
        "{net} on listener \"{listener}\" may be trunk \"{}\" or \"{}\"",
        first.name, second.name
    );
    match (first.auth, second.auth) {
        (InboundAuth::Ip, InboundAuth::Ip) => sink.error(
            place,
            format!("{meet}, and nothing tells them apart; expected request_hosts, or digest with different user names"),
        ),
        (InboundAuth::Ip, _) => warn_of_silence(sink, first, second, &meet, place),
        (_, InboundAuth::Ip) => warn_of_silence(sink, second, first, &meet, place),
        _ => {
            let name = |trunk: &Trunk| trunk.credentials.as_ref().map(|c| c.username.clone());
            if name(first) == name(second) {
                sink.error(place, format!("{meet}, and both demand the same user name; expected different ones, or request_hosts"));
            } else if first.realm != second.realm {
                sink.error(
                    place,
                    format!("{meet} until it shows a user name, and they challenge for different realms; expected one realm, or request_hosts"),
                );
            }
        }
    }
}

/// Whether the host of a Request-URI decides: one names hosts and the other none, or each names its own.
fn told_apart_by_host(first: &Trunk, second: &Trunk) -> bool {
    let shared = first
        .request_hosts
        .iter()
        .any(|host| second.request_hosts.contains(host));
    let either = !first.request_hosts.is_empty() || !second.request_hosts.is_empty();
    either && !shared
}

/// A source that a trunk without credentials lists narrowly is that trunk's until it shows credentials of the other.
fn warn_of_silence(sink: &mut Sink<'_>, by_ip: &Trunk, digest: &Trunk, meet: &str, place: &Place) {
    // A trunk for everyone overlaps with every other, and nobody expects its clients at another trunk's addresses.
    let covering = |net: &IpNet| net.prefix_len() == 0;
    if !digest.allow.iter().any(covering) {
        sink.warning(
            place,
            format!(
                "{meet}; without credentials of \"{}\" it is \"{}\"",
                digest.name, by_ip.name
            ),
        );
    }
}
