//! SIP: framing, messages, typed header values, digest, transactions and dialogs.

pub mod auth;
