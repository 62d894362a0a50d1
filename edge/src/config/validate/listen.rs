//! `[[listen]]`.

use crate::access::CounterRows;
use crate::config::credential::Files;
use crate::config::diagnostic::{At, Place, Sink};
use crate::config::raw::RawListen;
use crate::control::tls::{TlsServerFiles, server_config, warnings};
use edge_proto::config::{Config, Listener, Transport};
use edge_proto::id::ListenerId;
use rustls::ServerConfig;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

const MAX_LISTENERS: usize = 64;

/// The listeners of a file.
#[derive(Debug)]
pub(super) struct Listeners {
    pub list: Vec<Listener>,
    pub tls: HashMap<ListenerId, Arc<ServerConfig>>,
    /// Of all listeners, also those that are refused, so that no trunk is blamed for naming one.
    pub names: Vec<String>,
    /// Every listener of the file is in `list`.
    pub complete: bool,
}

/// `previous`: the configuration in force, whose listeners keep their ids.
pub(super) fn listeners(
    sink: &mut Sink<'_>,
    raw: &[RawListen],
    files: Files<'_>,
    previous: Option<&Config>,
) -> Listeners {
    let mut listeners = Listeners {
        list: Vec::new(),
        tls: HashMap::new(),
        names: Vec::new(),
        complete: true,
    };
    if raw.is_empty() {
        sink.error(
            &Place::file(),
            "there is no [[listen]]; expected at least one",
        );
        listeners.complete = false;
    }
    if let Some(extra) = raw.get(MAX_LISTENERS) {
        sink.error(
            &extra.place,
            format!("expected at most {MAX_LISTENERS} listeners"),
        );
    }
    for raw in raw {
        let id = id_for(raw, previous, &listeners.list);
        if let Some(name) = &raw.name {
            listeners.names.push(name.value.clone());
        }
        match listener(sink, raw, id, &listeners.list) {
            Some(listener) => {
                if raw.name.is_none() {
                    listeners.names.push(listener.name.clone());
                }
                if let Some(config) = tls_config(sink, raw, listener.transport, files) {
                    listeners.tls.insert(id, config);
                }
                listeners.list.push(listener);
            }
            None => listeners.complete = false,
        }
    }
    listeners
}

/// The id that the listener has already; for a new one the first that neither the configuration in force nor this one uses.
fn id_for(raw: &RawListen, previous: Option<&Config>, others: &[Listener]) -> ListenerId {
    let before = previous.map_or(&[][..], |config| &config.listeners);
    let same = before.iter().find(|old| {
        let key = (raw.transport.as_ref(), raw.address.as_ref());
        matches!(key, (Some(transport), Some(address))
            if (transport.value, address.value) == (old.transport, old.address))
    });
    let is_free = |id: &ListenerId| !before.iter().chain(others).any(|other| other.id == *id);
    same.map(|old| old.id)
        .or_else(|| (0..u16::MAX).map(ListenerId).find(is_free))
        .unwrap_or(ListenerId(u16::MAX))
}

fn listener(
    sink: &mut Sink<'_>,
    raw: &RawListen,
    id: ListenerId,
    others: &[Listener],
) -> Option<Listener> {
    let (transport, address) = (raw.transport.as_ref()?, raw.address.as_ref()?);
    if transport.value == Transport::Udp {
        sink.error(
            &transport.place,
            "SIP over UDP is not built yet; expected \"tcp\" or \"tls\"",
        );
        return None;
    }
    let advertised = advertised(sink, raw, address)?;
    let name = match &raw.name {
        Some(name) => name.value.clone(),
        None => format!("{}:{}", transport.value.uri_name(), address.value),
    };
    let place = raw.name.as_ref().map_or(&raw.place, |name| &name.place);
    // Beside a listener's own count, one series would show two totals in turns.
    if [CounterRows::MEDIA, CounterRows::ANY].contains(&name.as_str()) {
        sink.error(
            place,
            format!(
                "sip_edge_access_dropped_packets_total counts other things as listener=\"{name}\"; expected another name"
            ),
        );
    }
    if others.iter().any(|other| other.name == name) {
        sink.error(
            place,
            format!("another listener is already named \"{name}\""),
        );
    }
    if let Some(other) = others.iter().find(|other| other.address == address.value) {
        let other = &other.name;
        sink.error(
            &address.place,
            format!("listener \"{other}\" already has this address"),
        );
    }
    Some(Listener {
        id,
        name,
        transport: transport.value,
        address: address.value,
        advertised,
    })
}

/// What peers are told.
fn advertised(
    sink: &mut Sink<'_>,
    raw: &RawListen,
    address: &At<SocketAddr>,
) -> Option<SocketAddr> {
    let bound = address.value;
    if bound.ip().is_multicast() {
        sink.error(
            &address.place,
            "expected an address of this machine, found a multicast address",
        );
        return None;
    }
    if bound.ip().to_canonical() != bound.ip() {
        let v4 = bound.ip().to_canonical();
        sink.error(
            &address.place,
            format!("{} is an IPv4 address; write {v4}", bound.ip()),
        );
        return None;
    }
    let Some(advertise) = &raw.advertise else {
        if bound.ip().is_unspecified() {
            sink.error(
                &address.place,
                format!("{} means every address, so peers cannot be told one; expected advertise beside it", bound.ip()),
            );
            return None;
        }
        return Some(bound);
    };
    let ip = advertise.value.ip;
    if !is_usable(ip) {
        sink.error(
            &advertise.place,
            format!("expected an address that peers can reach, found {ip}"),
        );
        return None;
    }
    if ip.is_ipv4() != bound.is_ipv4() {
        let family = if bound.is_ipv4() { "IPv4" } else { "IPv6" };
        sink.error(
            &advertise.place,
            format!("expected an {family} address like the listener's own, found {ip}"),
        );
        return None;
    }
    Some(SocketAddr::new(
        ip,
        advertise.value.port.unwrap_or(bound.port()),
    ))
}

/// Whether a peer could send to it.
pub(super) fn is_usable(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast()
}

/// The TLS of a listener; reports what is wrong with its files.
fn tls_config(
    sink: &mut Sink<'_>,
    raw: &RawListen,
    transport: Transport,
    files: Files<'_>,
) -> Option<Arc<ServerConfig>> {
    if transport != Transport::Tls {
        let files = [&raw.certificate, &raw.private_key, &raw.client_ca];
        for file in files.into_iter().flatten() {
            sink.error(
                &file.place,
                "only a listener with transport = \"tls\" has certificates",
            );
        }
        return None;
    }
    let (Some(certificate), Some(key)) = (&raw.certificate, &raw.private_key) else {
        sink.error(
            &raw.place,
            "transport = \"tls\" needs the keys \"certificate\" and \"private_key\"",
        );
        return None;
    };
    let files = TlsServerFiles {
        certificate: files.path(sink, certificate)?,
        private_key: files.path(sink, key)?,
        client_ca: match &raw.client_ca {
            Some(ca) => Some(files.path(sink, ca)?),
            None => None,
        },
    };
    for warning in warnings(&files.certificate).unwrap_or_default() {
        sink.warning(&certificate.place, warning);
    }
    match server_config(&files) {
        Ok(config) => Some(config),
        Err(fault) => {
            sink.error(&certificate.place, fault.to_string());
            None
        }
    }
}
