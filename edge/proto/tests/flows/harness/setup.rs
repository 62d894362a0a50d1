//! Configurations.

use super::peers::{Site, V4};
use edge_proto::config::*;
use edge_proto::id::{ListenerId, TrunkId};
use edge_proto::time::Duration;
use edge_proto::trunk::AllowTable;
use std::net::SocketAddr;
use std::sync::Arc;

/// The trunks of most flows: `carrier` calls `ai`, whose REFERs go out by `agents`; `spare` is another way to live agents.
pub fn config() -> Config {
    config_at(V4, |_| {})
}

/// The same with a change.
pub fn config_with(change: impl FnOnce(&mut Config)) -> Config {
    config_at(V4, change)
}

pub fn listener(index: u16, name: &str, transport: Transport, address: SocketAddr) -> Listener {
    Listener {
        id: ListenerId(index),
        name: name.into(),
        transport,
        address,
        advertised: address,
    }
}

/// A trunk that lists the address of `peer` and calls it.
pub fn trunk(index: u16, name: &str, peer: SocketAddr) -> Trunk {
    let mut trunk = Trunk::new(TrunkId(index), name, vec![ListenerId(0)]);
    trunk.allow = vec![peer.ip().into()];
    trunk.uris = vec![uri(peer)];
    trunk
}

/// Where a trunk's calls go, over TCP.
pub fn uri(peer: SocketAddr) -> TrunkUri {
    TrunkUri {
        host: peer.ip().to_string(),
        port: Some(peer.port()),
        transport: Transport::Tcp,
        sips: false,
    }
}

/// A host name to be resolved.
pub fn named_uri(host: &str, port: Option<u16>) -> TrunkUri {
    TrunkUri {
        host: host.into(),
        port,
        transport: Transport::Tcp,
        sips: false,
    }
}

pub fn credentials(username: &str, password: &str) -> Credentials {
    Credentials {
        username: username.into(),
        password: Secret::new(password),
    }
}

pub fn presented(username: &str, password: &str) -> PresentedCredentials {
    PresentedCredentials {
        username: username.into(),
        password: Secret::new(password),
        realm: None,
    }
}

pub fn media_address(address: SocketAddr) -> MediaAddress {
    MediaAddress {
        bind: address.ip(),
        advertised: address.ip(),
    }
}

/// The trunks of most flows at `site`.
pub fn config_at(site: Site, change: impl FnOnce(&mut Config)) -> Config {
    let carrier = trunk(0, "carrier", site.carrier);
    let mut ai = trunk(1, "ai", site.ai);
    ai.credentials = Some(credentials("trunk-user", "s3cret"));
    ai.present = Some(presented("trunk-user", "s3cret"));
    ai.transfer = Some(policy(site));
    let mut agents = trunk(2, "agents", site.human);
    agents.present = Some(presented("edge", "agents-s3cret"));
    let spare = trunk(3, "spare", site.spare);
    let media = Some(media_address(site.edge));
    let v4 = site.edge.is_ipv4();
    let mut config = Config {
        domains: vec!["edge.example.net".into(), site.edge.ip().to_string()],
        sip: SipConfig::default(),
        listeners: vec![listener(0, "public", Transport::Tcp, site.edge)],
        media: MediaConfig {
            ipv4: media.filter(|_| v4),
            ipv6: media.filter(|_| !v4),
            ports: 20_000..=20_999,
            timeout: Duration::from_secs(60),
        },
        trunks: [carrier, ai, agents, spare].map(Arc::new).to_vec(),
        routes: vec![
            route("carrier", "+1999*", &["ai"]),
            route("ai", "+44*", &["carrier"]),
        ],
        allow: AllowTable::default(),
    };
    change(&mut config);
    config.allow = AllowTable::build(&config.listeners, &config.trunks);
    config
}

fn policy(site: Site) -> TransferPolicy {
    let host = match site.human.ip() {
        std::net::IpAddr::V4(ip) => ip.to_string(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
    };
    TransferPolicy {
        max_transfers: 1,
        auth: ReferAuth::Digest,
        via: Some("agents".into()),
        targets: vec!["+1234567890".into(), format!("sip:*@{host}")],
        ..TransferPolicy::default()
    }
}

pub fn route(from: &str, number: &str, to: &[&str]) -> Route {
    Route {
        from: from.into(),
        number: number.into(),
        to: to.iter().map(|&name| name.to_owned()).collect(),
        rewrite: None,
    }
}

/// Changes one trunk of a configuration in place.
pub fn edit_trunk(config: &mut Config, name: &str, change: impl FnOnce(&mut Trunk)) {
    let slot = config
        .trunks
        .iter_mut()
        .find(|trunk| *trunk.name == *name)
        .expect("the trunk exists");
    change(Arc::get_mut(slot).expect("the trunk is not shared yet"));
}

/// Changes the AI trunk's transfer policy in place.
pub fn edit_policy(config: &mut Config, change: impl FnOnce(&mut TransferPolicy)) {
    edit_trunk(config, "ai", |trunk| {
        change(trunk.transfer.as_mut().expect("a policy"));
    });
}

/// The usual configuration with another transfer policy.
pub fn policy_with(change: impl FnOnce(&mut TransferPolicy)) -> Config {
    config_with(|config| edit_policy(config, change))
}

/// The usual configuration with another trunk.
pub fn trunk_with(name: &str, change: impl FnOnce(&mut Trunk)) -> Config {
    config_with(|config| edit_trunk(config, name, change))
}
