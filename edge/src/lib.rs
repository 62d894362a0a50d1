//! Every side effect of sip-edge: sockets, threads, kernel programs, files. What to do is decided in [`edge_proto`].
//!
//! A library beside the binary so that the tests and benches that need the kernel drive the same code as the daemon.

#![deny(unsafe_code)]

/// Tells aya that the maps' values are plain data.
#[allow(unsafe_code)]
pub mod access;
pub mod admin;
pub mod cdr;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod handoff;
pub mod log;
/// What the kernel is told to read and write of ours.
#[allow(unsafe_code)]
pub mod media;
pub mod memory;
pub mod metrics;
pub mod reporter;
pub mod supervisor;

#[cfg(test)]
mod test_support;
