//! The decisions of sip-edge: SIP, calls, transfers and the relay, without I/O.
//!
//! Nothing in this crate reads a clock, opens a socket, asks the OS for randomness or uses `unsafe`. Callers hand in bytes
//! and a time ([`time::Instant`]) and carry out what comes back. `clippy.toml` beside this crate makes the boundary a lint.
#![forbid(unsafe_code)]

pub mod b2bua;
pub mod call;
pub mod config;
pub mod event;
mod fingerprint;
pub mod id;
pub mod relay;
pub mod rtp;
pub mod sdp;
pub mod sip;
pub mod table;
pub mod time;
pub mod timer;
pub mod trunk;
