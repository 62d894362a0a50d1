//! Who lives where. Addresses are from the documentation ranges (RFC 5737, RFC 3849); media uses the benchmark range
//! (RFC 2544), where every party has an address of its own, so that a packet tells whose it is.

use crate::dice::Dice;
use edge_proto::config::Transport;
use edge_proto::id::ListenerId;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Whose peer it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Side {
    Carrier,
    Platform,
    Agents,
    Pbx,
    Stranger,
}

impl Side {
    /// Those with a trunk, in the order of the configuration.
    pub const TRUNKS: [Side; 4] = [Side::Carrier, Side::Platform, Side::Agents, Side::Pbx];

    /// The trunk's name.
    pub const fn name(self) -> &'static str {
        match self {
            Side::Carrier => "carrier",
            Side::Platform => "platform",
            Side::Agents => "agents",
            Side::Pbx => "pbx",
            Side::Stranger => "stranger",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Side::Carrier => 0,
            Side::Platform => 1,
            Side::Agents => 2,
            Side::Pbx => 3,
            Side::Stranger => 4,
        }
    }

    const fn sip_port(self) -> u16 {
        match self {
            Side::Carrier => 5060,
            Side::Platform => 5070,
            Side::Agents => 5080,
            Side::Pbx => 5090,
            Side::Stranger => 5060,
        }
    }

    /// Host name in the trunk's `uri`; `None`: addresses.
    pub const fn domain(self) -> Option<&'static str> {
        match self {
            Side::Pbx => Some("pbx.example.net"),
            _ => None,
        }
    }
}

/// Index into [`Places::hosts`].
pub type HostId = usize;

/// One machine of a peer.
#[derive(Clone, Debug)]
pub struct Host {
    pub side: Side,
    /// Where it listens.
    pub address: SocketAddr,
    pub transport: Transport,
    /// Nothing listens there.
    pub dead: bool,
    /// No trunk's `uri` names it: another server behind the same load balancer.
    pub unnamed: bool,
}

/// All machines.
#[derive(Clone, Debug)]
pub struct Places {
    pub hosts: Vec<Host>,
}

/// The edge's own addresses, by listener: TCP and TLS, IPv4 and IPv6.
pub const LISTENERS: [(&str, Transport, &str); 4] = [
    ("tcp4", Transport::Tcp, "192.0.2.1:5060"),
    ("tls4", Transport::Tls, "192.0.2.1:5061"),
    ("tcp6", Transport::Tcp, "[2001:db8::1]:5060"),
    ("tls6", Transport::Tls, "[2001:db8::1]:5061"),
];

impl Places {
    pub fn draw(dice: &mut Dice) -> Places {
        let everywhere = *dice.pick(&[Some(false), Some(false), Some(false), Some(true), None]);
        let mut hosts = Vec::new();
        for side in Side::TRUNKS {
            let v6 = everywhere.unwrap_or_else(|| dice.chance(500));
            let transport = match dice.chance(200) {
                true => Transport::Tls,
                false => Transport::Tcp,
            };
            let first_dead = side != Side::Carrier && dice.chance(200);
            for index in 0..3u8 {
                hosts.push(Host {
                    side,
                    address: address(side, index, v6),
                    transport,
                    dead: first_dead && index == 0,
                    unnamed: index == 2 || (side == Side::Carrier && index == 0),
                });
            }
        }
        for v6 in [false, true] {
            hosts.push(Host {
                side: Side::Stranger,
                address: address(Side::Stranger, 0, v6),
                transport: Transport::Tcp,
                dead: false,
                unnamed: true,
            });
        }
        Places { hosts }
    }

    /// The hosts of a side that live.
    pub fn hosts_of(&self, side: Side) -> impl Iterator<Item = HostId> {
        self.hosts
            .iter()
            .enumerate()
            .filter(move |(_, host)| host.side == side && !host.dead)
            .map(|(id, _)| id)
    }

    /// The host that listens at `address`.
    pub fn listening_at(&self, address: SocketAddr) -> Option<HostId> {
        self.hosts
            .iter()
            .position(|host| host.address == address && !host.dead)
    }

    /// Whose signalling address it is.
    pub fn side_of(&self, address: IpAddr) -> Option<Side> {
        self.hosts
            .iter()
            .find(|host| host.address.ip() == address)
            .map(|host| host.side)
    }

    /// The edge's listener for a host.
    pub fn listener_for(&self, host: HostId) -> (ListenerId, SocketAddr) {
        let host = &self.hosts[host];
        let index =
            usize::from(host.transport == Transport::Tls) + 2 * usize::from(host.address.is_ipv6());
        (ListenerId(index as u16), parse(LISTENERS[index].2))
    }
}

/// A socket address that is known to be one.
pub fn parse(text: &str) -> SocketAddr {
    text.parse().expect("a socket address")
}

fn address(side: Side, index: u8, v6: bool) -> SocketAddr {
    let ip = match (side, v6) {
        (Side::Stranger, false) => IpAddr::V4(Ipv4Addr::new(203, 0, 113, 66)),
        (_, false) => IpAddr::V4(Ipv4Addr::new(198, 51, 100, side.number() * 32 + 1 + index)),
        (_, true) => IpAddr::V6(Ipv6Addr::new(
            0x2001,
            0xdb8,
            0x100 + u16::from(side.number()),
            0,
            0,
            0,
            0,
            1 + u16::from(index),
        )),
    };
    SocketAddr::new(ip, side.sip_port())
}

/// The networks that a side's trunk allows.
pub fn networks(side: Side) -> [String; 2] {
    [
        format!("198.51.100.{}/27", side.number() * 32),
        format!("2001:db8:{:x}::/48", 0x100 + u16::from(side.number())),
    ]
}

/// The media address of a party.
pub fn media_address(party: u32, v6: bool) -> IpAddr {
    let [_, _, high, low] = party.to_be_bytes();
    if v6 {
        IpAddr::V6(Ipv6Addr::new(
            0x2001,
            0xdb8,
            0xffff,
            0,
            0,
            0,
            (party >> 16) as u16,
            party as u16,
        ))
    } else {
        IpAddr::V4(Ipv4Addr::new(198, 18, high, low))
    }
}
