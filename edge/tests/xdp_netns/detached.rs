//! XDP that is taken off, cannot be put on, or loses its interface.

use crate::xdp_support::netns::{Peer, attempt, ip, mount_sys};
use crate::xdp_support::traffic::{connect, knock, until};
use crate::xdp_support::{bpf, privileged};
use crate::{drops, options, setup, start};
use aya::programs::XdpMode;
use sip_edge::access::{Access, AttachMode, DEFAULT_ROOT, InterfaceState, Mode, Reason, interface};
use std::net::TcpListener;

#[test]
fn a_program_taken_off_by_hand_is_noticed_and_put_back() {
    if !privileged("a_program_taken_off_by_hand_is_noticed_and_put_back") {
        return;
    }
    let config = setup().config();
    let peer = Peer::linked();
    let mut access = start(&config, Mode::Native);
    // The ordinary command is refused: the attachment is a link of the daemon's.
    assert!(!attempt("ip", "link set dev edge0 xdp off").0);
    bpf::detach("edge0");
    access.poll();
    let status = access.view().get();
    assert!(!status.is_complete());
    assert_eq!(
        status.interfaces[0].state,
        InterfaceState::Detached {
            mode: AttachMode::Native
        }
    );
    assert_eq!(status.interfaces[0].losses, 1);
    assert!(
        status.to_string().contains("detached by someone else"),
        "{status}"
    );
    // XDP is off: what it dropped now reaches the socket, where userspace decides.
    let listener = TcpListener::bind("192.0.2.1:5060").unwrap();
    peer.run(|| connect("192.0.2.20:0", "192.0.2.1:5060"));
    listener.accept().unwrap();
    // It comes back by itself, and drops.
    comes_back(&mut access);
    let _knocker = peer.run(|| knock("192.0.2.20:0", "192.0.2.1:5060"));
    until("a dropped SYN", || {
        drops(&mut access, "tcp:192.0.2.1:5060", Reason::Unlisted) > 0
    });
    // A reload waits for nothing.
    bpf::detach("edge0");
    access.apply(&config, options(Mode::Native));
    assert!(access.view().get().is_complete());
    assert_eq!(access.view().get().interfaces[0].losses, 2);
}

fn comes_back(access: &mut Access) {
    until("XDP is attached again", || {
        access.poll();
        access.view().get().is_complete()
    });
}

#[test]
fn without_the_directory_of_its_pins_it_is_attached_again_unpinned() {
    if !privileged("without_the_directory_of_its_pins_it_is_attached_again_unpinned") {
        return;
    }
    mount_sys();
    let peer = Peer::linked();
    let mut asked = options(Mode::Native);
    asked.pins = Some(DEFAULT_ROOT.into());
    let mut access = Access::start(&setup().config(), asked);
    let state = |pinned| InterfaceState::Attached {
        mode: AttachMode::Native,
        pinned,
    };
    let status = access.view().get();
    assert_eq!(status.interfaces[0].state, state(true));
    assert_eq!(status.unpinned, None);
    std::fs::remove_dir_all(DEFAULT_ROOT).unwrap();
    bpf::detach("edge0");
    access.poll();
    comes_back(&mut access);
    let status = access.view().get();
    assert_eq!(status.interfaces[0].state, state(false));
    let unpinned = status.unpinned.clone().expect("a reason");
    assert!(unpinned.contains("link-edge0"), "{unpinned}");
    let _knocker = peer.run(|| knock("192.0.2.20:0", "192.0.2.1:5060"));
    until("a dropped SYN", || {
        drops(&mut access, "tcp:192.0.2.1:5060", Reason::Unlisted) > 0
    });
    drop(access);
    assert_eq!(bpf::program("edge0"), None);
}

#[test]
fn who_took_the_interface_keeps_it_and_when_he_goes_xdp_comes_back() {
    if !privileged("who_took_the_interface_keeps_it_and_when_he_goes_xdp_comes_back") {
        return;
    }
    let config = setup().config();
    let peer = Peer::linked();
    let listener = TcpListener::bind("192.0.2.1:5060").unwrap();
    for (ours, theirs) in [
        (Mode::Native, XdpMode::Driver),
        (Mode::Native, XdpMode::Skb),
        (Mode::Auto, XdpMode::Driver),
        (Mode::Auto, XdpMode::Skb),
        (Mode::Generic, XdpMode::Driver),
    ] {
        let mut access = start(&config, ours);
        bpf::detach("edge0");
        let other = bpf::Occupied::new("edge0", theirs);
        until("the attempts are refused", || {
            access.poll();
            let status = access.view().get();
            status.to_string().contains("another XDP program")
        });
        // Asked for by a reload, it is no different.
        access.apply(&config, options(ours));
        let status = access.view().get();
        assert!(status.to_string().contains("another XDP program"));
        assert!(other.is_alone_on("edge0"), "{ours:?} {theirs:?}");
        peer.run(|| connect("192.0.2.20:0", "192.0.2.1:5060"));
        listener.accept().unwrap();
        drop(other);
        comes_back(&mut access);
        let _knocker = peer.run(|| knock("192.0.2.20:0", "192.0.2.1:5060"));
        until("a dropped SYN", || {
            drops(&mut access, "tcp:192.0.2.1:5060", Reason::Unlisted) > 0
        });
    }
}

#[test]
fn an_interface_that_comes_again_is_guarded_again() {
    if !privileged("an_interface_that_comes_again_is_guarded_again") {
        return;
    }
    let config = setup().config();
    let mut access = Access::start(&config, options(Mode::Auto));
    let state = |access: &Access| access.view().get().interfaces[0].state.clone();
    assert_eq!(state(&access), InterfaceState::Absent);
    for _ in 0..2 {
        ip("link add edge0 type veth peer name peer0");
        access.poll();
        assert!(state(&access).is_attached(), "{}", state(&access));
        ip("link delete edge0");
        access.poll();
        assert_eq!(state(&access), InterfaceState::Absent);
    }
}

#[test]
fn what_cannot_be_attached_says_why_and_another_program_is_left_alone() {
    if !privileged("what_cannot_be_attached_says_why_and_another_program_is_left_alone") {
        return;
    }
    let config = setup().config();
    ip("link add edge0 type veth peer name peer0");
    let first = start(&config, Mode::Native);
    let holder = interface::query("edge0").unwrap().native;
    let second = Access::start(&config, options(Mode::Native));
    let status = second.view().get();
    assert!(
        status.to_string().contains("another XDP program"),
        "{status}"
    );
    drop(second);
    assert_eq!(interface::query("edge0").unwrap().native, holder);
    drop(first);
    assert_eq!(interface::query("edge0").unwrap().native, None);

    // lo has no driver to run it.
    let mut on_lo = options(Mode::Native);
    on_lo.interfaces = vec!["lo".to_owned()];
    let access = Access::start(&config, on_lo.clone());
    let status = access.view().get();
    assert!(status.to_string().contains("no native XDP"), "{status}");
    drop(access);
    on_lo.mode = Mode::Auto;
    let access = Access::start(&config, on_lo.clone());
    let lo = access.view().get().interfaces[0].state.clone();
    assert!(
        matches!(
            lo,
            InterfaceState::Attached {
                mode: AttachMode::Generic,
                ..
            }
        ),
        "{lo}"
    );
    drop(access);
    on_lo.mode = Mode::Userspace;
    let access = Access::start(&config, on_lo);
    assert!(access.view().get().is_complete());
    assert_eq!(interface::query("lo").unwrap().generic, None);
}

#[test]
fn a_reload_follows_the_list_of_interfaces_and_the_mode() {
    if !privileged("a_reload_follows_the_list_of_interfaces_and_the_mode") {
        return;
    }
    let config = setup().config();
    ip("link add edge0 type veth peer name peer0");
    // Pinned, as it is on a real host: what is not guarded any more must not be held by its pin.
    mount_sys();
    let mut asked = options(Mode::Native);
    asked.pins = Some(DEFAULT_ROOT.into());
    let mut access = Access::start(&config, asked.clone());
    let attached = || {
        ["edge0", "peer0", "lo"].map(|name| {
            let found = interface::query(name).unwrap();
            (found.native.is_some(), found.generic.is_some())
        })
    };
    let (off, native, generic) = ((false, false), (true, false), (false, true));
    assert_eq!(attached(), [native, off, off]);
    asked.interfaces = vec!["peer0".to_owned(), "edge0".to_owned()];
    access.apply(&config, asked.clone());
    assert_eq!(attached(), [native, native, off]);
    asked.mode = Mode::Generic;
    asked.interfaces.push("lo".to_owned());
    access.apply(&config, asked.clone());
    assert_eq!(attached(), [generic, generic, generic]);
    asked.interfaces.clear();
    access.apply(&config, asked.clone());
    assert_eq!(attached(), [off, off, off]);
    assert!(access.view().get().is_complete());
    asked.interfaces = vec!["edge0".to_owned()];
    access.apply(&config, asked.clone());
    assert_eq!(attached(), [generic, off, off]);
    asked.mode = Mode::Userspace;
    access.apply(&config, asked);
    assert_eq!(attached(), [off, off, off]);
}

#[test]
fn tables_that_do_not_fit_open_nothing_and_lock_nobody_out() {
    if !privileged("tables_that_do_not_fit_open_nothing_and_lock_nobody_out") {
        return;
    }
    let config = setup().config();
    let peer = Peer::linked();
    let mut access = start(&config, Mode::Native);
    let mut crowded = setup();
    let addresses: Vec<String> = (0..300)
        .map(|n| format!("192.0.2.1:{}", 6000 + n))
        .collect();
    crowded.listeners = addresses
        .iter()
        .map(|address| (edge_proto::config::Transport::Tcp, &*address.clone().leak()))
        .collect();
    access.apply(&crowded.config(), options(Mode::Native));
    let status = access.view().get();
    assert!(status.to_string().contains("300 listeners"), "{status}");
    // The old tables are out of force: they know nothing of what the new configuration lists.
    let listener = TcpListener::bind("192.0.2.1:5060").unwrap();
    peer.run(|| connect("192.0.2.20:0", "192.0.2.1:5060"));
    listener.accept().unwrap();
    access.apply(&config, options(Mode::Native));
    assert!(access.view().get().is_complete());
}
