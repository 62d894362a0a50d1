//! The media facade: what the control thread tells the media thread, what it hears back, and the [`Relay`] that decides about
//! each packet.

mod allocation;
mod commands;
mod latch;
mod ports;
mod stats;
mod table;
#[cfg(test)]
mod tests;
mod translation;
mod verdict;

pub use crate::config::LatchMode;
pub use commands::{DirectionStats, MediaCommand, MediaEvent, MediaStats, PayloadMap, RemoteMedia};
pub use latch::Admission;
pub use ports::PortAllocator;
pub use table::{Relay, RelayConfig, RelayOutput};
pub use verdict::{Component, DropReason, Verdict};
