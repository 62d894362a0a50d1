//! A simulation of sip-edge: its real control and media protocols, on one to four cores, in the middle of carriers, AI
//! platforms and humans that misbehave, on a network that cuts, delays, loses, repeats and breaks. One seed is one run.
//!
//! ```text
//!  scenario ──► world ──► Subject (B2bua per core) ──► outputs ──► network ──► peers
//!                 ▲            │ inputs, outputs                                 │
//!                 │            ▼                                                 │
//!                 └──────── checkers                ◄────── what they send ◄─────┘
//! ```
//!
//! Checkers see what enters and leaves the cores and nothing else of them. `tests/` shows that each reports a subject that
//! was sabotaged to break its rule, and that the seeds of an ordinary test run meet everything they should.

mod agenda;
pub mod check;
pub mod coverage;
mod dice;
mod digest;
mod net;
mod peers;
pub mod sabotage;
pub mod scenario;
pub mod subject;
mod wire;
pub mod world;

pub use net::Trace;
pub use world::{Outcome, play};

use scenario::Scenario;
use subject::real;

/// Lines of trace that are kept for the report of a violation.
const TRACE_LINES: usize = 400;

/// Plays a seed with the real B2BUA.
pub fn run(seed: u64) -> Outcome {
    play(Scenario::draw(seed), &real, Trace::off())
}

/// Plays a seed again and keeps the trace.
pub fn run_traced(seed: u64) -> Outcome {
    play(Scenario::draw(seed), &real, Trace::keeping(TRACE_LINES))
}
