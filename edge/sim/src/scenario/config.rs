//! The edge's configuration of a scenario, before and after its reload.

use super::places::{LISTENERS, networks, parse};
use super::targets::{FALLBACKS, VIA_NUMBER};
use super::{Scenario, Side};
use edge_proto::config::*;
use edge_proto::id::{ListenerId, TrunkId};
use edge_proto::trunk::AllowTable;
use std::sync::Arc;

/// What a reload changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// The platform may not transfer any more.
    TransfersOff,
    /// The carrier's first host is not listed any more.
    CarrierHostGone,
    /// Everybody's password is another.
    Passwords,
    /// The trunks come in another order, so that their numbers change.
    Order,
    /// The target list is empty.
    NoTargets,
}

impl Change {
    pub const ALL: [Change; 5] = [
        Change::TransfersOff,
        Change::CarrierHostGone,
        Change::Passwords,
        Change::Order,
        Change::NoTargets,
    ];
}

/// The password that a side's trunk demands and shows, before or after a change of passwords.
pub fn password_of(side: Side, changed: bool) -> String {
    let generation = if changed { "new" } else { "old" };
    format!("{}-{generation}-s3cret", side.name())
}

/// The configuration, after `change` if there is one. Counters of `before` live on.
pub fn build(scenario: &Scenario, change: Option<Change>, before: Option<&Config>) -> Config {
    let listeners: Vec<Listener> = LISTENERS
        .iter()
        .enumerate()
        .map(|(index, &(name, transport, address))| Listener {
            id: ListenerId(index as u16),
            name: name.to_owned(),
            transport,
            address: parse(address),
            advertised: parse(address),
        })
        .collect();
    let mut sides = Side::TRUNKS;
    if change == Some(Change::Order) {
        sides.reverse();
    }
    let trunks: Vec<Arc<Trunk>> = sides
        .iter()
        .enumerate()
        .map(|(index, &side)| {
            let load = before.and_then(|config| config.trunk_named(side.name()));
            let mut trunk = trunk(scenario, TrunkId(index as u16), side, change);
            if let Some(old) = load {
                trunk.load = old.load.clone();
            }
            Arc::new(trunk)
        })
        .collect();
    let limits = &scenario.limits;
    Config {
        domains: ["edge.example.net", "192.0.2.1", "2001:db8::1"]
            .map(str::to_owned)
            .to_vec(),
        sip: SipConfig {
            t1: scenario.policy.t1,
            limits: Limits {
                calls: limits.calls,
                transactions: limits.transactions,
                connections: limits.connections,
                ..Limits::default()
            },
            ..SipConfig::default()
        },
        media: media(scenario),
        routes: vec![
            route("carrier", "+1999*", "platform"),
            route("platform", "+44*", "carrier"),
        ],
        allow: AllowTable::build(&listeners, &trunks),
        listeners,
        trunks,
    }
}

fn media(scenario: &Scenario) -> MediaConfig {
    let address = |index: usize| {
        let ip = parse(LISTENERS[index].2).ip();
        Some(MediaAddress {
            bind: ip,
            advertised: ip,
        })
    };
    MediaConfig {
        ipv4: address(0),
        ipv6: address(2),
        ports: 20_000..=20_000 + 2 * scenario.limits.port_pairs - 1,
        timeout: scenario.policy.media_timeout,
    }
}

fn route(from: &str, number: &str, to: &str) -> Route {
    Route {
        from: from.to_owned(),
        number: number.to_owned(),
        to: vec![to.to_owned()],
        rewrite: None,
    }
}

fn trunk(scenario: &Scenario, id: TrunkId, side: Side, change: Option<Change>) -> Trunk {
    let knobs = &scenario.policy;
    let listeners = (0..LISTENERS.len() as u16).map(ListenerId).collect();
    let mut trunk = Trunk::new(id, side.name(), listeners);
    trunk.allow = allow(side, change);
    trunk.uris = uris(scenario, side);
    trunk.bridge_families = knobs.bridge_families;
    trunk.latch = knobs.latch;
    let password = password_of(side, change == Some(Change::Passwords));
    trunk.credentials = Some(Credentials {
        username: format!("{}-user", side.name()),
        password: Secret::new(password.as_str()),
    });
    trunk.present = Some(PresentedCredentials {
        username: format!("{}-user", side.name()),
        password: Secret::new(password.as_str()),
        realm: None,
    });
    match side {
        Side::Carrier => {
            trunk.auth = knobs.carrier_auth;
            trunk.max_calls_per_s = scenario.limits.carrier_calls_per_s;
        }
        Side::Platform => {
            trunk.auth = knobs.platform_auth;
            trunk.max_calls = scenario.limits.platform_max_calls;
            trunk.transfer = platform_policy(scenario, change);
        }
        Side::Agents => {
            trunk.max_calls = scenario.limits.agents_max_calls;
            trunk.transfer = knobs.agents_transfer.then(|| TransferPolicy {
                auth: ReferAuth::Dialog,
                via: Some("pbx".to_owned()),
                ..common_policy(scenario)
            });
            if knobs.agents_pcma_only {
                trunk.codecs = vec!["PCMA".to_owned(), "telephone-event".to_owned()];
            }
        }
        Side::Pbx | Side::Stranger => {}
    }
    trunk
}

fn allow(side: Side, change: Option<Change>) -> Vec<ipnet::IpNet> {
    let all = networks(side);
    if side == Side::Carrier && change == Some(Change::CarrierHostGone) {
        // The first host is .1 / ::1; the others keep their place.
        return ["198.51.100.2/31", "2001:db8:100::2/127"]
            .iter()
            .map(|net| net.parse().expect("a network"))
            .collect();
    }
    all.iter()
        .map(|net| net.parse().expect("a network"))
        .collect()
}

fn uris(scenario: &Scenario, side: Side) -> Vec<TrunkUri> {
    let named = scenario
        .places
        .hosts
        .iter()
        .filter(|host| host.side == side && !host.unnamed);
    let mut uris: Vec<TrunkUri> = named
        .map(|host| TrunkUri {
            host: match side.domain() {
                Some(domain) => domain.to_owned(),
                None => host.address.ip().to_string(),
            },
            port: side.domain().is_none().then(|| host.address.port()),
            transport: host.transport,
            sips: false,
        })
        .collect();
    // One name stands for all of its hosts.
    uris.dedup();
    uris
}

fn common_policy(scenario: &Scenario) -> TransferPolicy {
    let knobs = &scenario.policy;
    TransferPolicy {
        max_transfers: knobs.max_transfers,
        targets: vec![VIA_NUMBER.to_owned(), "sip:*@pbx.example.net".to_owned()],
        fallback: FALLBACKS
            .iter()
            .take(knobs.fallbacks)
            .map(|(uri, ..)| (*uri).to_owned())
            .collect(),
        ring_timeout: knobs.ring_timeout,
        auth_timeout: knobs.auth_timeout,
        on_failure: knobs.on_failure,
        ..TransferPolicy::default()
    }
}

fn platform_policy(scenario: &Scenario, change: Option<Change>) -> Option<TransferPolicy> {
    let mut policy = TransferPolicy {
        auth: scenario.policy.refer_auth,
        via: Some("agents".to_owned()),
        ..common_policy(scenario)
    };
    match change {
        Some(Change::TransfersOff) => return None,
        Some(Change::NoTargets) => policy.targets.clear(),
        _ => {}
    }
    Some(policy)
}
