//! What the peers have to put on their own allowlists.

use edge_proto::config::{Config, MediaAddress, Network, Trunk};
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// The addresses of this edge that one trunk's peer sees.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PeerAddresses {
    pub trunk: String,
    /// Where SIP comes from and is sent to: `tcp 203.0.113.10:5060`. Connections that the edge opens come from the same
    /// addresses and any port.
    pub signalling: Vec<String>,
    /// Where RTP and RTCP come from and are sent to: `udp 203.0.113.10:10000-60000`.
    pub media: Vec<String>,
}

/// For each trunk, the addresses that its peer has to list.
pub fn peer_addresses(config: &Config) -> Vec<PeerAddresses> {
    config
        .trunks
        .iter()
        .map(|trunk| of_trunk(config, trunk))
        .collect()
}

fn of_trunk(config: &Config, trunk: &Trunk) -> PeerAddresses {
    let listeners = trunk.listen.iter().filter_map(|&id| config.listener(id));
    let permitted = listeners.filter(|l| trunk.network.permits(l.advertised.ip()));
    let signalling: BTreeSet<String> = permitted
        .map(|l| format!("{} {}", l.transport.uri_name(), l.advertised))
        .collect();
    PeerAddresses {
        trunk: trunk.name.to_string(),
        signalling: signalling.into_iter().collect(),
        media: media(config, trunk.network),
    }
}

fn media(config: &Config, network: Network) -> Vec<String> {
    let addresses = [config.media.ipv4, config.media.ipv6].into_iter().flatten();
    let permitted = addresses.filter(|address| network.permits(address.advertised));
    let range = |address: MediaAddress| {
        let first = SocketAddr::new(address.advertised, *config.media.ports.start());
        format!("udp {first}-{}", config.media.ports.end())
    };
    permitted.map(range).collect()
}
