//! Calls, their legs, and transfers.

pub mod policy;
