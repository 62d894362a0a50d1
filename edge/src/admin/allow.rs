//! `GET /v1/trunks/{name}/allow?ip=...`: may this address signal as this trunk, and why (not)?

use edge_proto::config::{Config, Trunk};
use serde::Serialize;
use std::net::IpAddr;

#[derive(Serialize, PartialEq, Eq, Debug)]
pub struct AllowTest<'a> {
    pub trunk: &'a str,
    pub ip: IpAddr,
    /// On at least one listener.
    pub allowed: bool,
    pub reason: String,
    pub listeners: Vec<ListenerVerdict<'a>>,
}

#[derive(Serialize, PartialEq, Eq, Debug)]
pub struct ListenerVerdict<'a> {
    pub listener: &'a str,
    pub transport: &'static str,
    pub address: String,
    pub allowed: bool,
    /// All trunks that the address may speak for there; the request decides among them.
    pub trunks: Vec<&'a str>,
}

/// Asks the table that decides about live traffic.
pub fn test<'a>(config: &'a Config, trunk: &'a Trunk, ip: IpAddr) -> AllowTest<'a> {
    let ip = ip.to_canonical();
    let listeners: Vec<ListenerVerdict<'_>> = trunk
        .listen
        .iter()
        .filter_map(|id| config.listener(*id))
        .map(|listener| {
            let set = config.allow.lookup(listener.id, ip);
            ListenerVerdict {
                listener: &listener.name,
                transport: listener.transport.uri_name(),
                address: listener.address.to_string(),
                allowed: set.contains(trunk.id),
                trunks: set
                    .iter()
                    .filter_map(|id| config.trunk(id))
                    .map(|t| &*t.name)
                    .collect(),
            }
        })
        .collect();
    let allowed = listeners.iter().any(|l| l.allowed);
    AllowTest {
        trunk: &trunk.name,
        ip,
        allowed,
        reason: reason(trunk, ip, allowed),
        listeners,
    }
}

fn reason(trunk: &Trunk, ip: IpAddr, allowed: bool) -> String {
    let covering: Vec<String> = trunk
        .allow
        .iter()
        .filter(|net| net.contains(&ip))
        .map(ToString::to_string)
        .collect();
    match (allowed, covering.is_empty()) {
        (true, _) => format!("allow contains {}", covering.join(", ")),
        (false, true) if trunk.allow.is_empty() => {
            "the trunk has no allow list: it only receives calls".to_owned()
        }
        (false, true) => "no network of allow contains the address".to_owned(),
        (false, false) => format!(
            "allow contains {}, but no listener takes the address for this trunk",
            covering.join(", ")
        ),
    }
}
