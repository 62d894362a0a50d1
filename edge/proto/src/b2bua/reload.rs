//! What concerns every call at once: a new configuration and what it takes away, and the end of the process.

use super::{B2bua, Context};
use crate::call::Call;
use crate::config::{Config, Trunk, TrunkUri};
use crate::id::ConnectionId;
use std::net::SocketAddr;
use std::sync::Arc;

impl B2bua {
    /// A new configuration: sources that lost their place lose their connections and their calls.
    pub(super) fn on_reload(&mut self, config: Arc<Config>) {
        self.cx.transactions.reconfigure(&config.sip);
        self.cx.config = config;
        let lost: Vec<ConnectionId> = self
            .cx
            .connections
            .iter()
            .filter(|(_, stream)| match (stream.listener, &stream.trunk) {
                (Some(listener), _) => self
                    .cx
                    .config
                    .allow
                    .lookup(listener, stream.remote.ip())
                    .is_empty(),
                (None, Some(trunk)) => {
                    let called = stream.called.as_deref();
                    may_signal(&self.cx.config, trunk, stream.remote, called).is_none()
                }
                (None, None) => false,
            })
            .map(|(id, _)| id)
            .collect();
        // Calls first, so that their BYEs still leave over the connections that are about to close.
        self.with_each_call(Call::on_reload);
        self.settle();
        for connection in lost {
            self.cx.close(connection);
        }
    }

    /// The process ends: what is left of each call is told to its peers, and recorded.
    pub(super) fn on_end(&mut self) {
        self.cx.draining = true;
        self.with_each_call(Call::on_end);
    }

    fn with_each_call(&mut self, act: impl Fn(&mut Call, &mut Context)) {
        let keys: Vec<_> = self.calls.iter().map(|(_, call)| call.key).collect();
        for key in keys {
            self.with_call(key, &act);
        }
    }
}

/// The trunk `name` of the present configuration, if `peer` may signal for it: its `allow` lists the address, or it still has the
/// `uri` that led there. `called`: that `uri`; a platform need not be listed to be called.
pub(crate) fn may_signal<'a>(
    config: &'a Config,
    name: &str,
    peer: SocketAddr,
    called: Option<&TrunkUri>,
) -> Option<&'a Arc<Trunk>> {
    config.trunk_named(name).filter(|now| {
        now.allow.iter().any(|net| net.contains(&peer.ip()))
            || called.is_some_and(|uri| now.uris.contains(uri))
    })
}
