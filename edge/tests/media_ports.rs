//! The tests of `media_relay` and of `media_steered` where ports have no sockets of their own, and what is only true then.

#[path = "media_relay/bench.rs"]
mod bench;
#[path = "media_relay/latch.rs"]
mod latch;
#[path = "media_relay/life.rs"]
mod life;
#[path = "media_relay/overload.rs"]
mod overload;
#[path = "media_relay/ports.rs"]
mod ports;
#[path = "media_relay/relay.rs"]
mod relay;
#[path = "media_relay/shared.rs"]
mod shared;
#[path = "media_relay/steered.rs"]
mod steered;

use sip_edge::media::{Hub, Sharing};

fn hub() -> Option<Hub> {
    shared::hub(Sharing::Ports)
}

fn look_at_ports() {
    shared::occupied().look().unwrap();
}
