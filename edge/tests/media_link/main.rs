//! Media that leaves past the kernel's IP, and what real kernels tell of where packets leave and who else wants them, in network
//! namespaces of the tests' own.

#[path = "../media_relay/bench.rs"]
#[allow(dead_code)]
mod bench;
mod bpf;
mod bystanders;
mod relay;
mod routes;
#[path = "../xdp_support/mod.rs"]
mod xdp_support;

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use std::net::IpAddr;

const ETH_P_ALL: u16 = 3;

fn ip_address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The number of an interface of the calling thread's namespace.
fn index(interface: &str) -> u32 {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    rustix::net::netdevice::name_to_index(&socket, interface).unwrap()
}

/// A packet(7) socket for what passes an interface (0: any), as captures have them.
fn packet_socket(protocol: u16, interface: u32) -> Socket {
    let family = Domain::from(libc::AF_PACKET);
    // It hears nothing before it is bound.
    let socket = Socket::new(family, Type::RAW, Some(Protocol::from(0))).unwrap();
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is one of any family, and is this family's from here on.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = interface.cast_signed();
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: an address of that length has just been written.
    let address = unsafe { SockAddr::new(storage, length) };
    socket.bind(&address).unwrap();
    socket
}

/// Takes all other capabilities from the calling thread, which is the test's own.
fn keep_capabilities(capabilities: CapabilitySet) {
    // What aya finds out about the kernel holds for the process: found out with these capabilities, it would be wrong for
    // the other tests.
    let _ = aya::features();
    let sets = CapabilitySets {
        effective: capabilities,
        permitted: capabilities,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).unwrap();
}

/// Each test of the relay opens its own.
fn hub() -> Option<sip_edge::media::Hub> {
    None
}
