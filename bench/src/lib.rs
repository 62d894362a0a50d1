//! What the benches share: spreads of figures, other processes, plots.

pub mod namespace;
pub mod process;
pub mod stats;
pub mod svg;
