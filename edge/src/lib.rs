//! Every side effect of sip-edge: sockets, threads, kernel programs, files. What to do is decided in [`edge_proto`].
//!
//! A library beside the binary so that the tests and benches that need the kernel drive the same code as the daemon.

pub mod access;
pub mod admin;
pub mod cdr;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod handoff;
pub mod log;
pub mod media;
pub mod metrics;
pub mod reporter;
pub mod supervisor;

#[cfg(test)]
mod test_support;
