//! What the kernel tells of a network interface (rtnetlink(7), netdevice(7)).

use super::netlink::{Channel, attribute, invalid, name, payload};
use super::routes::Detour;
use libc::{IFLA_ADDRESS, IFLA_IFNAME, IFLA_LINKINFO, IFLA_MTU, IFLA_NUM_TX_QUEUES};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    LinkAttribute, LinkExtentMask, LinkFlags, LinkHeader, LinkLayerType, LinkMessage,
};
use std::io;

/// Octets of a `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
/// Inside `IFLA_LINKINFO` (linux/if_link.h): what the interface that this one is enslaved to is.
const INFO_SLAVE_KIND: u16 = 4;

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

/// A network interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    pub interface: u32,
    pub name: String,
    /// Octets of an IP packet at most.
    pub mtu: u32,
    /// Queues for what it sends.
    pub queues: u32,
    /// Its own address, where it has one of Ethernet's.
    pub address: Option<Mac>,
    kind: LinkLayerType,
    flags: LinkFlags,
    routed_apart: bool,
}

impl Link {
    /// Asks for the interface of a number; `None`: there is none.
    pub(super) fn ask(channel: &mut Channel, interface: u32) -> io::Result<Option<Link>> {
        let mut request = LinkMessage::default();
        request.header.index = interface;
        let mask = vec![LinkExtentMask::SkipStats];
        request.attributes.push(LinkAttribute::ExtMask(mask));
        let request = RouteNetlinkMessage::GetLink(request);
        let mut link = None;
        let asked = channel.ask(request.message_type(), &payload(&request), |_, answer| {
            link = Link::read(answer);
        });
        match asked {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => match link {
                Some(link) if link.interface == interface => Ok(Some(link)),
                _ => Err(invalid("rtnetlink: no link in the answer")),
            },
        }
    }

    /// Of its attributes, more than fifty, five tell what is of interest here; one that is new need not be understood.
    fn read(payload: &[u8]) -> Option<Link> {
        let header = LinkHeader::parse(payload).ok()?;
        let attributes = payload.get(LINK_HEADER..)?;
        let number = |kind| {
            let octets = attribute(attributes, kind)?.try_into().ok()?;
            Some(u32::from_ne_bytes(octets))
        };
        let master = attribute(attributes, IFLA_LINKINFO)
            .and_then(|info| attribute(info, INFO_SLAVE_KIND))
            .map(name);
        Some(Link {
            interface: header.index,
            name: name(attribute(attributes, IFLA_IFNAME)?),
            mtu: number(IFLA_MTU)?,
            queues: number(IFLA_NUM_TX_QUEUES)?,
            address: attribute(attributes, IFLA_ADDRESS).and_then(|mac| mac.try_into().ok()),
            kind: header.link_layer_type,
            flags: header.flags,
            routed_apart: master.is_some_and(|kind| kind == "vrf"),
        })
    }

    /// Its address, if nothing but an Ethernet header goes before the packets that leave by it.
    pub(super) fn usable(&self) -> Result<Mac, Detour> {
        let name = || self.name.clone();
        if self.kind != LinkLayerType::Ether || self.flags.contains(LinkFlags::Loopback) {
            return Err(Detour::NotEthernet(name()));
        }
        if self.flags.contains(LinkFlags::Noarp) {
            return Err(Detour::NoArp(name()));
        }
        if self.routed_apart {
            return Err(Detour::Vrf(name()));
        }
        if !self.flags.contains(LinkFlags::Up) {
            return Err(Detour::Down(name()));
        }
        if !self.flags.contains(LinkFlags::LowerUp | LinkFlags::Running) {
            return Err(Detour::NoCarrier(name()));
        }
        self.address.ok_or_else(|| Detour::NotEthernet(name()))
    }
}
