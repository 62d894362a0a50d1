//! What surrounds the B2BUA in these tests: peers that are scripted by hand, connections, a media thread that obeys, time
//! that only moves when told to, and laws that hold in every flow.

mod digest;
mod laws;
mod peers;
mod report;
mod sdp;
mod setup;
mod steps;
mod ua;
mod world;

pub use digest::{Answering, verify_digest};
pub use peers::*;
pub use sdp::*;
pub use setup::*;
pub use steps::*;
pub use ua::*;
pub use world::*;

pub use edge_proto::b2bua::Input;
pub use edge_proto::config::*;
pub use edge_proto::event::Cause;
pub use edge_proto::sip::{HeaderName, Message};
pub use edge_proto::time::{Duration, Instant};
pub use std::net::SocketAddr;

/// Runs a flow with one and with four control threads. Afterwards every message has been looked at, everything has ended,
/// and nothing is left over.
pub fn flow(config: impl Fn() -> Config, script: impl Fn(&mut World)) {
    for cores in [1, 4] {
        let mut world = World::new(config(), cores);
        script(&mut world);
        world.assert_all_over();
    }
}

pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}
