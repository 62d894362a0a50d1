//! What process-level tests are made of: the daemon, SIPp parties, RTP parties.

// The tests and the demo each need another part of it.
#![allow(dead_code, unused_imports)]

pub mod baresip;
pub mod client;
pub mod counted;
pub mod digest;
pub mod edge;
pub mod main_job;
pub mod net;
pub mod parties;
pub mod pki;
pub mod rtp;
pub mod scenario;
pub mod scene;
pub mod sipp;
pub mod staging;
pub mod tunnel;
pub mod wait;
pub mod wire;

pub use client::Client;
pub use counted::{Conversation, Counted};
pub use edge::{Edge, EdgeConfig};
pub use net::Net;
pub use pki::Pki;
pub use rtp::RtpParty;
pub use scenario::Scenario;
pub use scene::{Scene, Story};
pub use sipp::Sipp;
pub use staging::{Play, Staging};
pub use tunnel::Tunnel;
pub use wire::Wire;

/// Whether SIPp is installed; says so when a test is skipped for it.
pub fn have_sipp() -> bool {
    let found = std::process::Command::new("sipp")
        .arg("-v")
        .output()
        .is_ok();
    if !found {
        eprintln!("SKIPPED: sipp is not installed (apt install sip-tester)");
    }
    found
}
