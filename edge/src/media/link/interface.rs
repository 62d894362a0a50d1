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
/// The same of the interface itself, where it is not a device's.
const INFO_KIND: u16 = 1;
/// A kind that has no other interface of this host below it.
const VETH: &str = "veth";

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
    /// What it is, where it is made of others.
    made_of: Option<String>,
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
        let made_of = attribute(attributes, IFLA_LINKINFO)
            .and_then(|info| attribute(info, INFO_KIND))
            .map(name)
            .filter(|kind| kind != VETH);
        Some(Link {
            made_of,
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
        if let Some(kind) = &self.made_of {
            return Err(Detour::Stacked {
                interface: name(),
                kind: kind.clone(),
            });
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

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::{DefaultNla, Emitable as _};
    use proptest::prelude::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    fn nested(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let attribute = |(kind, value): &(u16, &[u8])| DefaultNla::new(*kind, value.to_vec());
        let attributes: Vec<_> = attributes.iter().map(attribute).collect();
        let mut octets = vec![0; attributes.as_slice().buffer_len()];
        attributes.as_slice().emit(&mut octets);
        octets
    }

    /// An interface that is up, with more attributes.
    fn told(kind: u16, flags: LinkFlags, more: &[(u16, &[u8])]) -> Vec<u8> {
        let mut octets = vec![0, 0];
        octets.extend(kind.to_ne_bytes());
        octets.extend(7u32.to_ne_bytes());
        octets.extend(flags.bits().to_ne_bytes());
        octets.extend([0; 4]);
        let (mtu, queues) = (1500u32.to_ne_bytes(), 4u32.to_ne_bytes());
        let usual: [(u16, &[u8]); 4] = [
            (IFLA_IFNAME, b"edge0\0"),
            (9_999, b"of a newer kernel"),
            (IFLA_MTU, &mtu),
            (IFLA_NUM_TX_QUEUES, &queues),
        ];
        octets.extend(nested(&usual));
        octets.extend(nested(more));
        octets
    }

    #[test]
    fn an_interface_is_usable_if_it_is_up_and_speaks_ethernet_alone() {
        let up = LinkFlags::Up | LinkFlags::Running | LinkFlags::LowerUp;
        let address: (u16, &[u8]) = (IFLA_ADDRESS, &MAC);
        let ether = libc::ARPHRD_ETHER;
        let usable =
            |kind, flags, more: &[_]| Link::read(&told(kind, flags, more)).unwrap().usable();
        let name = || "edge0".to_owned();
        assert_eq!(usable(ether, up, &[address]), Ok(MAC));
        let slave_of = |kind: &[u8]| nested(&[(1, b"veth\0"), (INFO_SLAVE_KIND, kind)]);
        let (vrf, bridge) = (slave_of(b"vrf\0"), slave_of(b"bridge\0"));
        assert_eq!(
            usable(ether, up, &[address, (IFLA_LINKINFO, &vrf)]),
            Err(Detour::Vrf(name()))
        );
        assert_eq!(
            usable(ether, up, &[address, (IFLA_LINKINFO, &bridge)]),
            Ok(MAC)
        );
        for (kind, flags, detour) in [
            (libc::ARPHRD_NONE, up, Detour::NotEthernet(name())),
            (libc::ARPHRD_LOOPBACK, up, Detour::NotEthernet(name())),
            (ether, up | LinkFlags::Loopback, Detour::NotEthernet(name())),
            (ether, up | LinkFlags::Noarp, Detour::NoArp(name())),
            (ether, LinkFlags::empty(), Detour::Down(name())),
            (ether, LinkFlags::Up, Detour::NoCarrier(name())),
            (
                ether,
                LinkFlags::Up | LinkFlags::LowerUp,
                Detour::NoCarrier(name()),
            ),
        ] {
            assert_eq!(
                usable(kind, flags, &[address]),
                Err(detour),
                "{kind} {flags}"
            );
        }
        // No address, or one of another length.
        assert_eq!(usable(ether, up, &[]), Err(Detour::NotEthernet(name())));
        let long: (u16, &[u8]) = (IFLA_ADDRESS, &[0; 8]);
        assert_eq!(usable(ether, up, &[long]), Err(Detour::NotEthernet(name())));
    }

    #[test]
    fn what_is_told_of_an_interface_is_read() {
        let link = Link::read(&told(libc::ARPHRD_ETHER, LinkFlags::Up, &[])).unwrap();
        let Link {
            interface,
            name,
            mtu,
            queues,
            address,
            ..
        } = link;
        assert_eq!(
            (interface, name.as_str(), mtu, queues, address),
            (7, "edge0", 1500, 4, None)
        );
        let octets = told(libc::ARPHRD_ETHER, LinkFlags::Up, &[]);
        for end in 0..octets.len() {
            assert!(Link::read(&octets[..end]).is_none(), "{end}");
        }
    }

    proptest! {
        #[test]
        fn anything_may_be_told(octets in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = Link::read(&octets).map(|link| link.usable());
        }
    }
}
