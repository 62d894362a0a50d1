//! Who is where. Each flow uses one of two sites, which differ in their address family only.

use std::net::SocketAddr;

/// The addresses of a site.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    pub edge: SocketAddr,
    /// The telephone network's side: callers come from here.
    pub carrier: SocketAddr,
    /// The voice platform: it answers as the AI agent, and sends REFERs.
    pub ai: SocketAddr,
    /// The trunk to the live agents.
    pub human: SocketAddr,
    /// A second trunk to live agents.
    pub spare: SocketAddr,
    /// Listed by no trunk.
    pub stranger: SocketAddr,
}

const fn v4(last: u8, port: u16) -> SocketAddr {
    SocketAddr::new(
        std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, last)),
        port,
    )
}

const fn v6(last: u16, port: u16) -> SocketAddr {
    SocketAddr::new(
        std::net::IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)),
        port,
    )
}

pub const V4: Site = Site {
    edge: v4(1, 5060),
    carrier: v4(10, 5060),
    ai: v4(20, 5070),
    human: v4(30, 5080),
    spare: v4(40, 5090),
    stranger: v4(66, 5060),
};

pub const V6: Site = Site {
    edge: v6(1, 5060),
    carrier: v6(0x10, 5060),
    ai: v6(0x20, 5070),
    human: v6(0x30, 5080),
    spare: v6(0x40, 5090),
    stranger: v6(0x66, 5060),
};

/// RTP ports, by which the bridges of a flow are told apart.
pub const CALLER_RTP: u16 = 4000;
pub const AGENT_RTP: u16 = 4100;
pub const HUMAN_RTP: u16 = 4200;
pub const SPARE_RTP: u16 = 4300;

/// The number that callers dial to reach the AI agent, and their own.
pub const NUMBER: &str = "+19995550123";
pub const CALLER: &str = "+15550100";
