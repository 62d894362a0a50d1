//! What the kernel would do with packets to a host, asked by rtnetlink(7): by which interface they leave, and which Ethernet header
//! they get there.

use super::interface::{Link, Mac};
use super::netlink::{Channel, Events, invalid, payload};
use netlink_packet_core::ParseableParametrized as _;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
    NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use thiserror::Error;

/// What may change a path is told to these groups (rtnetlink(7)).
const GROUPS: [u32; 9] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV6_RULE,
    // Next hops that routes share.
    libc::RTNLGRP_NEXTHOP,
];

/// Datagrams of events read at once; who changes more than that has changed something.
const EVENTS: usize = 4096;

/// Neighbours whose events are told from one another. With more, every neighbour's event counts.
const NEIGHBOURS: usize = 16_384;

/// Ethernet types (RFC 894, RFC 2464).
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// Where packets to a host leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    pub interface: u32,
    /// What goes before the IP header: destination, source, type.
    pub ethernet: [u8; 14],
    /// Who gets them there: a gateway, or the host itself.
    pub neighbour: IpAddr,
    /// Octets that a packet may have, its IP header included, to leave whole.
    pub mtu: u32,
}

/// Why packets to a host have to go through the kernel's IP.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Detour {
    #[error("{0} is a link-local address, which does not tell the interface")]
    LinkLocal(IpAddr),
    #[error("there is no route to {0}")]
    NoRoute(IpAddr),
    #[error("{0} is unreachable by its route")]
    Unreachable(IpAddr),
    #[error("the route to {0} prohibits it")]
    Prohibited(IpAddr),
    #[error("the route to {0} is a black hole")]
    BlackHole(IpAddr),
    #[error(
        "nothing may leave from {0}: this host has no such address, or it is a loopback address"
    )]
    Source(IpAddr),
    #[error("{0} is an address of this host itself")]
    Local(IpAddr),
    #[error("{0} is no address of one host: its route is not unicast")]
    NotUnicast(IpAddr),
    #[error("the route to {0} encapsulates packets")]
    Encapsulated(IpAddr),
    #[error("the route to {0} has several next hops")]
    Spread(IpAddr),
    #[error("the route to {0} is by a next hop of others as well (ip-nexthop(8)), maybe several")]
    SharedHop(IpAddr),
    #[error("{0} is no Ethernet interface")]
    NotEthernet(String),
    #[error("{0} does without neighbours' addresses (NOARP)")]
    NoArp(String),
    #[error("{0} is part of a VRF")]
    Vrf(String),
    #[error("{interface} is a {kind}: others have a say in what leaves by the interface below it")]
    Stacked { interface: String, kind: String },
    #[error("{0} is down")]
    Down(String),
    #[error("{0} has no carrier")]
    NoCarrier(String),
    #[error("interface {0} has just gone")]
    Gone(u32),
    #[error("the Ethernet address of {neighbour} on {interface} is not known yet")]
    UnknownNeighbour {
        neighbour: IpAddr,
        interface: String,
    },
}

/// Why there is no path: a [`Detour`], or the question failed.
enum Obstacle {
    Detour(Detour),
    Failed(io::Error),
}

impl From<Detour> for Obstacle {
    fn from(detour: Detour) -> Self {
        Obstacle::Detour(detour)
    }
}

impl From<io::Error> for Obstacle {
    fn from(error: io::Error) -> Self {
        Obstacle::Failed(error)
    }
}

/// Asks, in the network namespace of the thread that opened it. Needs no privilege but for [`Routes::confirm`].
pub struct Routes {
    requests: Channel,
    events: Events,
    /// What was last told about each neighbour (by interface) that a path was asked for.
    neighbours: HashMap<(u32, IpAddr), Option<Mac>>,
}

impl Routes {
    pub fn open() -> io::Result<Routes> {
        Ok(Routes {
            // Before the first answer.
            events: Events::open(NETLINK_ROUTE, &GROUPS)?,
            requests: Channel::open(NETLINK_ROUTE)?,
            neighbours: HashMap::new(),
        })
    }

    /// Where packets from `local`, an address of this host or a wildcard, to `host` leave: what an unconnected raw socket that is bound to `local`
    /// would get, of this process's user, without mark and ports. Rules that select by ports, for UDP alone, would not get it either.
    /// The error: the kernel could not be asked.
    ///
    /// The answer holds until [`Routes::changed`] says otherwise, but for two things that the kernel tells nobody: ICMP redirects and
    /// what it finds out about the path's MTU. So ask again now and then.
    pub fn path(&mut self, local: IpAddr, host: IpAddr) -> io::Result<Result<Path, Detour>> {
        match self.find(local, host) {
            Ok(path) => Ok(Ok(path)),
            Err(Obstacle::Detour(detour)) => Ok(Err(detour)),
            Err(Obstacle::Failed(error)) => Err(error),
        }
    }

    fn find(&mut self, local: IpAddr, host: IpAddr) -> Result<Path, Obstacle> {
        if local.is_ipv4() != host.is_ipv4() {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "addresses of two families");
            return Err(error.into());
        }
        if is_link_local(host) {
            return Err(Detour::LinkLocal(host).into());
        }
        let route = self.route(local, host)?;
        let link = self.link(route.interface)?;
        let link = link.ok_or(Detour::Gone(route.interface))?;
        let source = link.usable()?;
        let entry = self.neighbour(route.interface, route.neighbour)?;
        let address = entry.and_then(|entry| entry.address());
        self.remember(route.interface, route.neighbour, address);
        let Some(destination) = address else {
            return Err(Detour::UnknownNeighbour {
                neighbour: route.neighbour,
                interface: link.name,
            }
            .into());
        };
        Ok(Path {
            interface: route.interface,
            ethernet: ethernet(destination, source, host),
            neighbour: route.neighbour,
            mtu: route.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
        })
    }

    /// The route that the kernel would take, if it is one of those that an Ethernet header is all there is to.
    fn route(&mut self, local: IpAddr, host: IpAddr) -> Result<NextHop, Obstacle> {
        let route = match self.ask_route(local, host, RouteFlags::empty()) {
            Ok(route) => route,
            Err(error) => return Err(self.refusal(local, host, error)),
        };
        match route.header.kind {
            RouteType::Unicast => {}
            RouteType::Local => return Err(Detour::Local(host).into()),
            _ => return Err(Detour::NotUnicast(host).into()),
        }
        let next = NextHop::read(&route, host)?;
        // Where there are several next hops, the answer was one of them, and not necessarily a raw socket's: the choice may depend
        // on the protocol (fib_multipath_hash_policy in ip-sysctl.rst).
        let entry = self.ask_route(local, host, RouteFlags::FibMatch)?;
        let has = |is: fn(&RouteAttribute) -> bool| entry.attributes.iter().any(is);
        let shared = has(|attribute| matches!(attribute, RouteAttribute::NhId(_)));
        if shared && host.is_ipv6() {
            // This may be the entry of another route by the same next hop: they share what the kernel keeps for each processor
            // (rt6_get_pcpu_route, net/ipv6/route.c), and with it where that came from.
            return Err(Detour::SharedHop(host).into());
        }
        let several = has(|attribute| matches!(attribute, RouteAttribute::MultiPath(_)));
        // Which one, or that it is several, may be told by its number alone (nexthop_compat_mode).
        let one = has(|attribute| matches!(attribute, RouteAttribute::Oif(_)));
        if several || !one {
            return Err(Detour::Spread(host).into());
        }
        Ok(next)
    }

    /// What the kernel means by an error instead of a route (fib_props in net/ipv4/fib_semantics.c).
    fn refusal(&mut self, local: IpAddr, host: IpAddr, error: io::Error) -> Obstacle {
        match error.raw_os_error() {
            Some(libc::EHOSTUNREACH) => Detour::Unreachable(host).into(),
            Some(libc::EACCES) => Detour::Prohibited(host).into(),
            // The kernel says the same of a source that may not be.
            Some(libc::EINVAL | libc::ENETUNREACH) if !self.may_send(local) => {
                Detour::Source(local).into()
            }
            Some(libc::EINVAL) => Detour::BlackHole(host).into(),
            Some(libc::ENETUNREACH) => Detour::NoRoute(host).into(),
            _ => error.into(),
        }
    }

    /// Whether packets from `local` may leave this host at all.
    fn may_send(&mut self, local: IpAddr) -> bool {
        let own = |route: RouteMessage| route.header.kind == RouteType::Local;
        local.is_unspecified()
            || !local.is_loopback()
                && self
                    .ask_route(unspecified(local), local, RouteFlags::empty())
                    .is_ok_and(own)
    }

    fn ask_route(
        &mut self,
        local: IpAddr,
        host: IpAddr,
        flags: RouteFlags,
    ) -> io::Result<RouteMessage> {
        let mut request = RouteMessage::default();
        let bits = if host.is_ipv4() { 32 } else { 128 };
        request.header.address_family = family(host);
        request.header.destination_prefix_length = bits;
        request.header.flags = flags;
        let destination = RouteAddress::from(host);
        request
            .attributes
            .push(RouteAttribute::Destination(destination));
        if !local.is_unspecified() {
            request.header.source_prefix_length = bits;
            let source = RouteAddress::from(local);
            request.attributes.push(RouteAttribute::Source(source));
        }
        match self.ask(&RouteNetlinkMessage::GetRoute(request))? {
            Some(RouteNetlinkMessage::NewRoute(route)) => Ok(route),
            _ => Err(invalid("rtnetlink: no route in the answer")),
        }
    }

    /// What an interface is; `None`: there is none of this number.
    pub fn link(&mut self, interface: u32) -> io::Result<Option<Link>> {
        Link::ask(&mut self.requests, interface)
    }

    fn neighbour(&mut self, interface: u32, address: IpAddr) -> io::Result<Option<Neighbour>> {
        let request = neighbour(interface, address);
        match self.ask(&RouteNetlinkMessage::GetNeighbour(request)) {
            Ok(Some(RouteNetlinkMessage::NewNeighbour(entry))) => Ok(Some(Neighbour(entry))),
            Ok(_) => Err(invalid("rtnetlink: no neighbour in the answer")),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn remember(&mut self, interface: u32, neighbour: IpAddr, address: Option<Mac>) {
        let key = (interface, neighbour);
        if self.neighbours.len() <= NEIGHBOURS || self.neighbours.contains_key(&key) {
            self.neighbours.insert(key, address);
        }
    }

    /// Readable when [`Routes::changed`] has something to look at.
    pub fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Whether any path may be another than it was when it was asked for: then all have to be asked for again. Does not wait. A
    /// neighbour that no path was asked for does not matter, nor that the kernel checks one and finds it where it was.
    pub fn changed(&mut self) -> io::Result<bool> {
        let mut changed = false;
        for _ in 0..EVENTS {
            match self.events.next() {
                Ok(Some(messages)) => {
                    for message in messages {
                        // What makes no sense may be a change.
                        changed |= message.map_or(true, |message| {
                            matters(&self.neighbours, message.kind, message.payload)
                        });
                    }
                }
                Ok(None) => {
                    if changed {
                        self.neighbours.clear();
                    }
                    return Ok(changed);
                }
                // Some are lost.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                Err(error) => return Err(error),
            }
        }
        self.neighbours.clear();
        Ok(true)
    }

    /// Has the kernel check that the neighbour of `path` is still there, as it does for those that its own IP sends to: an address that nothing is
    /// known to use ages, and is forgotten in the end. To be called every few seconds; needs CAP_NET_ADMIN. The path is not another
    /// for it, and [`Routes::changed`] does not count it as a change.
    ///
    /// Only an entry that is `STALE` is asked to be checked (`NTF_USE`, which makes it `DELAY`, then `PROBE`): the kernel looks after the others,
    /// and `NTF_USE` would make a permanent one none at all (__neigh_update, net/core/neighbour.c).
    pub fn confirm(&mut self, path: &Path) -> io::Result<()> {
        let Some(entry) = self.neighbour(path.interface, path.neighbour)? else {
            return Ok(());
        };
        if !entry.may_be_checked() {
            return Ok(());
        }
        let mut request = neighbour(path.interface, path.neighbour);
        // Left out, EXT_LEARNED would be taken from the entry.
        request.header.flags =
            NeighbourFlags::Use | entry.0.header.flags & NeighbourFlags::ExtLearned;
        let request = RouteNetlinkMessage::NewNeighbour(request);
        let kind = request.message_type();
        match self.requests.ask(kind, &payload(&request), |_, _| {}) {
            // It has gone meanwhile, and is not made again.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }

    /// The last message of the answer.
    fn ask(&mut self, request: &RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        let mut answer = None;
        self.requests.ask(
            request.message_type(),
            &payload(request),
            |kind, payload| {
                answer = Some(RouteNetlinkMessage::parse_with_param(payload, kind));
            },
        )?;
        let answer = answer.transpose();
        answer.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// What a route says.
struct NextHop {
    interface: u32,
    neighbour: IpAddr,
    mtu: Option<u32>,
}

impl NextHop {
    fn read(route: &RouteMessage, host: IpAddr) -> Result<NextHop, Obstacle> {
        let mut next = NextHop {
            interface: 0,
            neighbour: host,
            mtu: None,
        };
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => {
                    return Err(Detour::Encapsulated(host).into());
                }
                RouteAttribute::MultiPath(_) => return Err(Detour::Spread(host).into()),
                RouteAttribute::Oif(interface) => next.interface = *interface,
                RouteAttribute::Gateway(RouteAddress::Inet(gateway))
                | RouteAttribute::Via(RouteVia::Inet(gateway)) => {
                    next.neighbour = (*gateway).into();
                }
                // An IPv4 route may have an IPv6 gateway (RFC 8950), by RTA_VIA.
                RouteAttribute::Gateway(RouteAddress::Inet6(gateway))
                | RouteAttribute::Via(RouteVia::Inet6(gateway)) => {
                    next.neighbour = (*gateway).into();
                }
                RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => {
                    return Err(invalid("rtnetlink: a gateway of no IP address").into());
                }
                RouteAttribute::Metrics(metrics) => {
                    next.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        match next.interface {
            0 => Err(invalid("rtnetlink: a route by no interface").into()),
            _ => Ok(next),
        }
    }
}

/// What the kernel knows of a neighbour.
struct Neighbour(NeighbourMessage);

impl Neighbour {
    fn key(&self) -> Option<(u32, IpAddr)> {
        let address = self
            .0
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some((*ip).into()),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some((*ip).into()),
                _ => None,
            });
        Some((self.0.header.ifindex, address?))
    }

    /// Its address, where the kernel would send to it without asking first: `NUD_VALID` (linux/neighbour.h) but for `NOARP`, which
    /// no unicast neighbour of an Ethernet interface is.
    fn address(&self) -> Option<Mac> {
        use NeighbourState::{Delay, Permanent, Probe, Reachable, Stale};
        let state = self.0.header.state;
        if ![Reachable, Stale, Delay, Probe, Permanent].contains(&state) {
            return None;
        }
        self.0
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok(),
                _ => None,
            })
    }

    /// Whether the kernel would not do so by itself.
    fn may_be_checked(&self) -> bool {
        let kept = NeighbourExtFlags::Managed | NeighbourExtFlags::ExtValidated;
        let kept = |attribute: &NeighbourAttribute| match attribute {
            NeighbourAttribute::ExtFlags(flags) => flags.intersects(kept),
            _ => false,
        };
        self.0.header.state == NeighbourState::Stale && !self.0.attributes.iter().any(kept)
    }
}

/// Whether an event may change a path.
fn matters(known: &HashMap<(u32, IpAddr), Option<Mac>>, kind: u16, payload: &[u8]) -> bool {
    let (entry, address) = match kind {
        libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
            let entry = match RouteNetlinkMessage::parse_with_param(payload, kind) {
                Ok(
                    RouteNetlinkMessage::NewNeighbour(entry)
                    | RouteNetlinkMessage::DelNeighbour(entry),
                ) => Neighbour(entry),
                _ => return true,
            };
            let address = match kind {
                libc::RTM_NEWNEIGH => entry.address(),
                _ => None,
            };
            (entry, address)
        }
        // A program is asked to find a neighbour (arpd).
        libc::RTM_GETNEIGH => return false,
        _ => return true,
    };
    // Neighbours of a bridge have none.
    let Some(key) = entry.key() else {
        return false;
    };
    match known.get(&key) {
        Some(before) => *before != address,
        None => known.len() > NEIGHBOURS,
    }
}

/// An entry of the neighbour table as requests name it.
fn neighbour(interface: u32, address: IpAddr) -> NeighbourMessage {
    let mut request = NeighbourMessage::default();
    request.header.family = family(address);
    request.header.ifindex = interface;
    let destination = NeighbourAttribute::Destination(address.into());
    request.attributes.push(destination);
    request
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn ethernet([d0, d1, d2, d3, d4, d5]: Mac, [s0, s1, s2, s3, s4, s5]: Mac, to: IpAddr) -> [u8; 14] {
    let [t0, t1] = if to.is_ipv4() { IPV4 } else { IPV6 };
    [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10));

    fn event(interface: u32, neighbour_at: IpAddr, state: NeighbourState, mac: Mac) -> Vec<u8> {
        let mut entry = neighbour(interface, neighbour_at);
        entry.header.state = state;
        let address = NeighbourAttribute::LinkLayerAddress(mac.to_vec());
        entry.attributes.push(address);
        payload(&RouteNetlinkMessage::NewNeighbour(entry))
    }

    #[test]
    fn a_neighbours_event_matters_if_it_was_asked_for_and_is_elsewhere_now() {
        use NeighbourState::{
            Delay, Failed, Incomplete, Noarp, Permanent, Probe, Reachable, Stale,
        };
        let (here, there) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let known = HashMap::from([((7, HOST), Some(here))]);
        let unknown = HashMap::from([((7, HOST), None)]);
        let moved =
            |known, state, mac| matters(known, libc::RTM_NEWNEIGH, &event(7, HOST, state, mac));
        for state in [Reachable, Stale, Delay, Probe, Permanent] {
            assert!(!moved(&known, state, here), "{state}");
            assert!(moved(&known, state, there), "{state}");
            assert!(moved(&unknown, state, here), "{state}");
        }
        for state in [Incomplete, Failed, Noarp, NeighbourState::None] {
            assert!(moved(&known, state, here), "{state}");
            assert!(!moved(&unknown, state, here), "{state}");
        }
        let gone = event(7, HOST, Reachable, here);
        assert!(matters(&known, libc::RTM_DELNEIGH, &gone));
        assert!(!matters(&unknown, libc::RTM_DELNEIGH, &gone));
        // Another interface's, another host's; a request of the kernel's; what is not understood.
        let other = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 11));
        for event in [
            event(8, HOST, Reachable, there),
            event(7, other, Reachable, there),
        ] {
            assert!(!matters(&known, libc::RTM_NEWNEIGH, &event));
        }
        assert!(!matters(&known, libc::RTM_GETNEIGH, &gone));
        assert!(matters(&known, libc::RTM_NEWNEIGH, &gone[..5]));
        assert!(matters(&known, libc::RTM_NEWROUTE, &[]));
    }

    /// Above the limit nobody can be told from those that a path was asked for.
    #[test]
    fn with_too_many_neighbours_each_matters() {
        let ip = |n: u32| IpAddr::from(std::net::Ipv4Addr::from(n));
        let known: HashMap<_, _> = (0..=NEIGHBOURS as u32)
            .map(|n| ((7, ip(n)), None))
            .collect();
        let event = event(7, HOST, NeighbourState::Reachable, [2; 6]);
        assert!(matters(&known, libc::RTM_NEWNEIGH, &event));
    }

    proptest! {
        #[test]
        fn anything_may_be_told(octets in prop::collection::vec(any::<u8>(), 0..120), kind in 16u16..32) {
            let _ = matters(&HashMap::new(), kind, &octets);
            if let Ok(RouteNetlinkMessage::NewRoute(route)) =
                RouteNetlinkMessage::parse_with_param(&octets[..], libc::RTM_NEWROUTE)
            {
                let _ = NextHop::read(&route, HOST);
            }
        }
    }
}
