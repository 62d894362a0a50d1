//! TLS for SIP: certificate files to configurations ([`files`]), who the peer must be ([`identity`]), and one connection's
//! records between owned buffers ([`session`]). Nothing here touches a socket.

mod fault;
mod files;
mod identity;
mod session;

pub use fault::describe;
pub use files::{
    TlsClientFiles, TlsFileError, TlsServerFiles, client_config, server_config, warnings,
};
pub use session::{Fed, TlsSession};

use edge_proto::id::ListenerId;
use rustls::{ClientConfig, ServerConfig};
use std::collections::HashMap;
use std::sync::Arc;

/// The TLS side of one configuration; shared by all cores, replaced as a whole by a reload.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// For each listener with `transport = "tls"`.
    pub servers: HashMap<ListenerId, Arc<ServerConfig>>,
    /// By trunk name, for each trunk with a TLS `uri`.
    pub clients: HashMap<String, Arc<ClientConfig>>,
}
