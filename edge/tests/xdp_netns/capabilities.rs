//! What the filter needs of a process that is not root: CAP_BPF and CAP_NET_ADMIN. (CAP_PERFMON makes it faster.)

use crate::xdp_support::daemon::{Site, get};
use crate::xdp_support::netns::Peer;
use crate::xdp_support::privileged;
use crate::xdp_support::traffic::{connect, knock, until};
use crate::{drops, options, setup, start};
use rustix::process::Signal;
use rustix::thread::{
    CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities,
};
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
    // There, although nothing could be tried: `== 0` is what the alert waits for.
    let [interface] = status.interfaces.as_slice() else {
        panic!("{status:?}");
    };
    assert_eq!(interface.name, "edge0");
    assert!(!interface.state.is_attached(), "{}", interface.state);
    assert_eq!(interface::query("edge0").unwrap().native, None);
    let listener = TcpListener::bind("192.0.2.1:5060").unwrap();
    peer.run(|| connect("192.0.2.20:0", "192.0.2.1:5060"));
    listener.accept().unwrap();
}

#[test]
fn a_daemon_without_them_has_the_series_that_the_alert_waits_for() {
    if !privileged("a_daemon_without_them_has_the_series_that_the_alert_waits_for") {
        return;
    }
    let _peer = Peer::linked();
    // Not in the bounding set, they do not come back with the next program that root starts.
    for capability in [
        CapabilitySet::BPF,
        CapabilitySet::NET_ADMIN,
        CapabilitySet::SYS_ADMIN,
    ] {
        remove_capability_from_bounding_set(capability).unwrap();
    }
    let site = Site::new();
    site.write(r#"interfaces = ["edge0"]"#, r#""192.0.2.10/32""#);
    let daemon = site.run();
    assert!(get("/readyz").contains("userspace only: the kernel refused"));
    let series = "sip_edge_access_xdp_attached{interface=\"edge0\",mode=\"none\"} 0";
    let metrics = get("/metrics");
    assert!(metrics.lines().any(|line| line == series), "{metrics}");
    daemon.end(Signal::TERM);
}

#[test]
fn what_the_kernel_refused_once_is_tried_again() {
    if !privileged("what_the_kernel_refused_once_is_tried_again") {
        return;
    }
    let peer = Peer::linked();
    let both = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
    let have = |effective| {
        let sets = CapabilitySets {
            effective,
            permitted: both,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets).unwrap();
    };
    let _ = aya::features();
    have(CapabilitySet::empty());
    let mut access = Access::start(&setup().config(), options(Mode::Native));
    access.poll();
    assert!(!access.view().get().is_complete());
    have(both);
    until("the program is loaded and attached", || {
        access.poll();
        access.view().get().is_complete()
    });
    let _knocker = peer.run(|| knock("192.0.2.20:0", "192.0.2.1:5060"));
    until("a dropped SYN", || {
        drops(&mut access, "tcp:192.0.2.1:5060", Reason::Unlisted) > 0
    });
}
