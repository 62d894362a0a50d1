//! The admin API: HTTP with JSON, for operators, their tools and Prometheus.
//!
//! One thread with a plain tokio runtime. It reads the call book, the metrics and the configuration, and asks the
//! supervisor, through [`EdgeControl`], for what changes something.
//!
//! Who may: on a loopback listener, health, metrics and trunks are open to every local user, calls and events are listed
//! with their numbers masked. The bearer token shows everything; call details and everything that acts always need it, and
//! off loopback every request does.

mod access;
mod allow;
pub mod client;
mod error;
mod routes;
mod server;
mod stream;
mod supervised;
mod token;
mod view;

pub use server::{AdminServer, AdminStop};
pub use token::Token;

use edge_proto::config::Config;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// What the supervisor lets the admin API see and do. Called from the admin thread or a helper of it.
pub trait EdgeControl: Send + Sync + 'static {
    /// The configuration in force.
    fn config(&self) -> Arc<Config>;

    /// Whether new calls are taken, and if not, why.
    fn readiness(&self) -> Readiness;

    /// Reads the configuration file again and puts it in force. May block; never called twice at once by the API. An error
    /// means that nothing has changed, and says why.
    fn reload(&self) -> Result<ReloadReport, String>;

    /// Refuses new calls from now on. Returns at once; calls under way go on. An error means that it was not even noted.
    fn drain(&self) -> Result<(), String>;
}

/// Answer of `/readyz`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Readiness {
    /// New calls are taken and everything they need works.
    pub ready: bool,
    pub draining: bool,
    /// What is wrong, one sentence each, also while calls are still taken (`XDP was detached from eth0`).
    #[serde(default)]
    pub problems: Vec<String>,
}

/// Answer of `POST /v1/reload`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReloadReport {
    #[serde(default)]
    pub trunks_added: Vec<String>,
    #[serde(default)]
    pub trunks_removed: Vec<String>,
    /// Keys that changed in the file but need a restart, each with what stays in force.
    #[serde(default)]
    pub needs_restart: Vec<String>,
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Why the admin API cannot start.
#[derive(thiserror::Error, Debug)]
pub enum AdminError {
    #[error("the admin API cannot listen on {address}: {source}")]
    Bind {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("the admin token: {0}")]
    Token(#[from] token::TokenError),
    #[error("the admin thread cannot start: {0}")]
    Runtime(io::Error),
}

#[cfg(test)]
mod tests;
