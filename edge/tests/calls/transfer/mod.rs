//! Transfers by REFER, between processes: signalling, who hears whom, CDR and timeline.

mod again;
mod auth;
pub(crate) mod cast;
mod codecs;
mod endings;
mod failures;
mod fallback;
mod headers;
mod policy;
mod success;
mod targets;
