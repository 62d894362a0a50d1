//! What the XDP tests share: configurations, and frames by description.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod bpf;
pub mod daemon;
pub mod frame;
pub mod kernel;
pub mod model;
pub mod netns;
pub mod traffic;

use edge_proto::config::{
    Config, Listener, MediaAddress, MediaConfig, SipConfig, Transport, Trunk,
};
use edge_proto::id::{ListenerId, TrunkId};
use edge_proto::time::Duration;
use edge_proto::trunk::AllowTable;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// A configuration as far as the filter reads one.
pub struct Setup {
    pub listeners: Vec<(Transport, &'static str)>,
    /// (prefixes, listeners by number; empty: all)
    pub trunks: Vec<(Vec<String>, Vec<u16>)>,
    pub media: Vec<&'static str>,
    pub ports: RangeInclusive<u16>,
}

impl Setup {
    pub fn config(&self) -> Config {
        let listeners: Vec<Listener> = (0..)
            .zip(&self.listeners)
            .map(|(n, (transport, address))| {
                let address: SocketAddr = address.parse().unwrap();
                Listener {
                    id: ListenerId(n),
                    name: format!("{}:{address}", transport.uri_name()),
                    transport: *transport,
                    address,
                    advertised: address,
                }
            })
            .collect();
        let all: Vec<ListenerId> = listeners.iter().map(|listener| listener.id).collect();
        let trunks: Vec<Arc<Trunk>> = (0..)
            .zip(&self.trunks)
            .map(|(n, (allow, listen))| {
                let listen = match listen.as_slice() {
                    [] => all.clone(),
                    some => some.iter().map(|&n| ListenerId(n)).collect(),
                };
                let mut trunk = Trunk::new(TrunkId(n), format!("trunk{n}"), listen);
                trunk.allow = allow.iter().map(|net| net.parse().unwrap()).collect();
                Arc::new(trunk)
            })
            .collect();
        let media = |ipv4| {
            let mut addresses = self.media.iter().map(|a| a.parse::<IpAddr>().unwrap());
            let bind = addresses.find(|address| address.is_ipv4() == ipv4)?;
            Some(MediaAddress {
                bind,
                advertised: bind,
            })
        };
        Config {
            domains: Vec::new(),
            sip: SipConfig::default(),
            allow: AllowTable::build(&listeners, &trunks),
            listeners,
            media: MediaConfig {
                ipv4: media(true),
                ipv6: media(false),
                ports: self.ports.clone(),
                timeout: Duration::from_secs(60),
            },
            trunks,
            routes: Vec::new(),
        }
    }
}

/// Whether this process may load XDP programs and make network namespaces; says so where it may not. The calling thread is in a
/// namespace of its own afterwards.
pub fn privileged(test: &str) -> bool {
    let able = rustix::process::geteuid().is_root() && netns::enter().is_some();
    if !able {
        println!("SKIPPED {test}: it needs root, to load XDP programs and make network namespaces");
    }
    able
}
