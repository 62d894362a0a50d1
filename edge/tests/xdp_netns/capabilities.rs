//! What the filter needs of a process that is not root: CAP_BPF and CAP_NET_ADMIN. (CAP_PERFMON makes it faster.)

use crate::xdp_support::netns::Peer;
use crate::xdp_support::privileged;
use crate::xdp_support::traffic::{connect, knock, until};
use crate::{drops, options, setup, start};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use sip_edge::access::{Access, Mode, Reason, interface};
use std::net::TcpListener;

/// Takes all other capabilities from the calling thread.
fn keep(capabilities: CapabilitySet) {
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

#[test]
fn two_capabilities_are_enough() {
    if !privileged("two_capabilities_are_enough") {
        return;
    }
    let peer = Peer::linked();
    keep(CapabilitySet::BPF | CapabilitySet::NET_ADMIN);
    let mut access = start(&setup().config(), Mode::Native);
    let _knocker = peer.run(|| knock("192.0.2.20:0", "192.0.2.1:5060"));
    until("a dropped SYN", || {
        drops(&mut access, "tcp:192.0.2.1:5060", Reason::Unlisted) > 0
    });
}

#[test]
fn without_them_the_status_says_so_and_nothing_is_touched() {
    if !privileged("without_them_the_status_says_so_and_nothing_is_touched") {
        return;
    }
    let peer = Peer::linked();
    keep(CapabilitySet::empty());
    let access = Access::start(&setup().config(), options(Mode::Auto));
    let status = access.view().get();
    assert!(!status.is_complete());
    let text = status.to_string();
    assert!(
        text.starts_with("userspace only: the kernel refused"),
        "{text}"
    );
    assert_eq!(interface::query("edge0").unwrap().native, None);
    let listener = TcpListener::bind("192.0.2.1:5060").unwrap();
    peer.run(|| connect("192.0.2.20:0", "192.0.2.1:5060"));
    listener.accept().unwrap();
}
