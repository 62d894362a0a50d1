//! SIP syntax from outside: the torture messages, properties, damaged messages, fuzz seeds, and rsip as a second opinion.

mod agreement;
mod corpus;
/// The fuzz targets' own checks.
#[path = "../../../fuzz/src/lib.rs"]
mod fuzz;
mod properties;
mod rsip_oracle;
mod seeds;
mod torture;
