//! `uri` of a trunk.

use super::Scope;
use crate::config::diagnostic::{Place, Sink};
use crate::config::raw::RawTrunk;
use edge_proto::config::{Listener, Transport, Trunk, TrunkUri};
use std::net::IpAddr;

const MAX_URIS: usize = 8;

/// The places that calls to the trunk go to, in order.
pub(super) fn uris(
    sink: &mut Sink<'_>,
    raw: &RawTrunk,
    trunk: &Trunk,
    scope: &Scope<'_>,
) -> Vec<TrunkUri> {
    let Some(listed) = &raw.uri else {
        return Vec::new();
    };
    if listed.written > MAX_URIS {
        sink.error(&listed.place, format!("expected at most {MAX_URIS} URIs"));
    }
    let mut uris: Vec<TrunkUri> = Vec::new();
    for uri in &listed.items {
        check(sink, &uri.value, &uri.place, trunk, scope);
        if uris.contains(&uri.value) {
            sink.error(&uri.place, "this URI is listed twice");
        }
        uris.push(uri.value.clone());
    }
    uris
}

fn check(sink: &mut Sink<'_>, uri: &TrunkUri, place: &Place, trunk: &Trunk, scope: &Scope<'_>) {
    if uri.transport == Transport::Udp {
        sink.error(
            place,
            "SIP over UDP is not built yet; expected transport=tcp or transport=tls",
        );
        return;
    }
    let address = uri.host.parse::<IpAddr>().ok();
    if let Some(address) = address {
        if address.is_unspecified() || address.is_multicast() {
            sink.error(
                place,
                format!("expected an address that can be called, found {address}"),
            );
            return;
        }
        if !trunk.network.permits(address) {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            sink.error(
                place,
                format!("{address} is {family}, which the network of this trunk excludes"),
            );
            return;
        }
    }
    let port = uri.port.unwrap_or(uri.transport.default_port());
    let own_port = |l: &Listener| l.address.port() == port || l.advertised.port() == port;
    if scope.domains.contains(&uri.host) && scope.listen.list.iter().any(own_port) {
        sink.error(
            place,
            "this is the edge itself; calls would go round in a circle",
        );
        return;
    }
    let serves = |listener: &Listener| {
        let family = |ip: IpAddr| match address {
            Some(address) => ip.is_ipv4() == address.is_ipv4(),
            None => trunk.network.permits(ip),
        };
        listener.transport == uri.transport
            && trunk.listen.contains(&listener.id)
            && family(listener.address.ip())
    };
    if scope.listen.complete && !scope.listen.list.iter().any(serves) {
        let transport = uri.transport.uri_name();
        let family = match address {
            Some(address) if address.is_ipv4() => "IPv4 ",
            Some(_) => "IPv6 ",
            None => "",
        };
        sink.error(
            place,
            format!("this trunk has no {family}listener with transport = \"{transport}\", from which its calls would be made and to which answers come"),
        );
    }
}
