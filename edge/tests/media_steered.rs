//! The tests of `media_relay` where latched flows share sockets, but ports have their own, and what is only true then.

#[path = "media_relay/bench.rs"]
mod bench;
#[path = "media_relay/latch.rs"]
mod latch;
#[path = "media_relay/life.rs"]
mod life;
#[path = "media_relay/overload.rs"]
mod overload;
#[path = "media_relay/relay.rs"]
mod relay;
#[path = "media_relay/shared.rs"]
mod shared;
#[path = "media_relay/steered.rs"]
mod steered;

use sip_edge::media::{Hub, Sharing};

fn hub() -> Option<Hub> {
    shared::hub(Sharing::Senders)
}

fn look_at_ports() {}

/// What media by a raw socket would escape is noticed.
#[test]
fn ipsec_policies_are_counted() {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    let thread = std::thread::spawn(|| {
        // SAFETY: NEWNET does not touch the table of file descriptors.
        if unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.is_err() {
            println!("SKIPPED: no network namespace of its own is permitted here");
            return;
        }
        assert_eq!(sip_edge::media::ipsec::outbound_policies().unwrap(), 0);
        let add = "xfrm policy add src 192.0.2.1 dst 192.0.2.2 proto udp sport 10000 dir out action block";
        let added = std::process::Command::new("ip")
            .args(add.split(' '))
            .output()
            .unwrap();
        if !added.status.success() {
            println!("SKIPPED: this kernel has no IPsec");
            return;
        }
        assert_eq!(sip_edge::media::ipsec::outbound_policies().unwrap(), 1);
    });
    thread.join().unwrap();
}
