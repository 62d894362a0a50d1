//! TLS towards trunks.

use crate::config::credential::Files;
use crate::config::diagnostic::{At, Sink};
use crate::config::raw::RawTrunk;
use crate::control::tls::{TlsClientFiles, client_config, warnings};
use edge_proto::config::{Transport, Trunk};
use rustls::ClientConfig;
use std::collections::HashMap;
use std::sync::Arc;

/// By name, the TLS of each trunk with a TLS `uri`.
pub(in super::super) fn clients(
    sink: &mut Sink<'_>,
    raw: &[RawTrunk],
    trunks: &[Arc<Trunk>],
    files: Files<'_>,
) -> HashMap<String, Arc<ClientConfig>> {
    let mut clients = HashMap::new();
    for (raw, trunk) in raw.iter().zip(trunks) {
        let keys = [&raw.tls_ca, &raw.tls_certificate, &raw.tls_private_key];
        let first = keys.into_iter().flatten().next();
        if !trunk.uris.iter().any(|uri| uri.transport == Transport::Tls) {
            if let Some(unused) = first {
                sink.warning(&unused.place, "no uri of this trunk uses TLS");
            }
            continue;
        }
        let path = |key: &Option<At<String>>| key.as_ref().and_then(|p| files.path(sink, p));
        let [ca, certificate, private_key] = keys.map(path);
        let files = TlsClientFiles {
            ca,
            certificate,
            private_key,
            wildcards: raw.tls_wildcards.as_ref().is_some_and(|w| w.value),
        };
        let uri = raw.uri.as_ref().map(|uri| &uri.place);
        let place = first.map(|key| &key.place).or(uri).unwrap_or(&raw.place);
        let expiry = files.certificate.as_deref().map(warnings);
        for warning in expiry.and_then(Result::ok).unwrap_or_default() {
            sink.warning(place, warning);
        }
        match client_config(&files) {
            Ok(config) => drop(clients.insert(trunk.name.to_string(), config)),
            Err(fault) => sink.error(place, fault.to_string()),
        }
    }
    clients
}
