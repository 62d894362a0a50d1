//! Finding the addresses of a host (RFC 3263).

use edge_proto::b2bua::ResolveQuery;
use std::net::SocketAddr;
use std::rc::Rc;

/// How names are resolved.
#[derive(Clone, Debug, Default)]
pub struct ResolverSettings {
    /// Asked instead of the servers of /etc/resolv.conf.
    pub servers: Vec<SocketAddr>,
}

/// One per control thread.
pub(super) struct Resolver {}

impl Resolver {
    pub(super) fn new(_settings: &ResolverSettings) -> Result<Rc<Self>, String> {
        Ok(Rc::new(Resolver {}))
    }

    pub(super) async fn resolve(&self, query: ResolveQuery) -> Result<Vec<SocketAddr>, String> {
        Err(format!("{}: names cannot be resolved yet", query.host))
    }
}
