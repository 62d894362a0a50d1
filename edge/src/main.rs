//! sip-edge: arguments, to configuration, to the supervisor.

use clap::Parser;
use std::process::ExitCode;

/// Many small buffers are made on one thread and freed on another, which this allocator is built for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sip_edge::memory::give_back_at_once();
    sip_edge::cli::Cli::parse().run()
}
