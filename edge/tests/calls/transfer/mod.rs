//! Transfers by REFER, between processes: signalling, who hears whom, CDR and timeline.

mod auth;
mod cast;
mod codecs;
mod endings;
mod failures;
mod fallback;
mod policy;
mod success;
mod targets;
