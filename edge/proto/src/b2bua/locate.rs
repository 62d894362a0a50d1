//! Finding the next hop: of a new leg from its trunk's `uri`, of a request within a dialog from the dialog.

use super::context::Context;
use super::io::{Hop, Output, ResolveQuery};
use crate::call::CallKey;
use crate::config::{Network, Transport, Trunk, TrunkUri};
use crate::event::LegNumber;
use crate::id::ResolveId;
use crate::sip::{Host, Uri};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// One address that a new leg's INVITE may be sent to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Candidate {
    pub uri: TrunkUri,
    pub address: SocketAddr,
}

/// What is known of where a dialog's peer can be reached.
#[derive(Clone, Copy)]
pub(crate) struct Reach<'a> {
    pub trunk: &'a Trunk,
    /// Where the dialog's last message came from or went to, unless that is in the clear and must not be.
    pub own: Option<(Hop, SocketAddr)>,
    /// Where the trunk's `uri` led when the leg was called.
    pub located: Option<&'a Candidate>,
    /// The dialog was made by a `sips:` URI: whatever its peer's Contact says, TLS it is (RFC 3261 §12.1).
    pub secure: bool,
}

impl Context {
    /// Asks for the addresses behind `uri`; the answer arrives as [`crate::call::Call::on_located`]. An IP literal needs no
    /// resolver but takes the same way, so that there is only one.
    pub fn locate(&mut self, call: CallKey, leg: LegNumber, network: Network, uri: &TrunkUri) {
        self.resolve_serial += 1;
        let id = ResolveId(self.resolve_serial);
        self.resolves.insert(id, (call, leg));
        if let Ok(address) = uri.host.parse::<IpAddr>() {
            let port = uri.port.unwrap_or(uri.transport.default_port());
            self.local_resolutions
                .push_back((id, Ok(vec![SocketAddr::new(address, port)])));
            return;
        }
        self.outputs.push_back(Output::Resolve {
            id,
            query: ResolveQuery {
                host: uri.host.clone(),
                port: uri.port,
                transport: uri.transport,
                ipv4: network != Network::Ipv6,
                ipv6: network != Network::Ipv4,
            },
        });
    }

    /// The hop for a request within a dialog to the URI `next_hop` (RFC 3261 §12.2.1.1).
    ///
    /// The dialog's own connection goes first while it leads to that address: what follows an answer on it stays behind the
    /// answer. Then an open connection to the address, then the dialog's own wherever it leads, then a new one. An address
    /// counts only if the trunk lists it or its `uri` led there: a peer's Contact must not make the edge speak to anyone else.
    pub fn dialog_hop(&mut self, next_hop: &str, reach: Reach<'_>) -> Option<Hop> {
        let Reach {
            trunk,
            own,
            located,
            secure,
        } = reach;
        let own = own.filter(|&(hop, _)| self.hop_is_open(hop));
        let target = literal_target(next_hop)
            .filter(|&(transport, _)| !secure || transport == Transport::Tls);
        if let (Some((hop, peer)), Some((_, address))) = (own, target)
            && peer.ip() == address.ip()
        {
            return Some(hop);
        }
        let now = self.config.trunk_named(&trunk.name).cloned();
        let target = target.filter(|(_, address)| {
            let lists = |now: &Arc<Trunk>| now.allow.iter().any(|net| net.contains(&address.ip()));
            let listed = now.as_ref().is_some_and(lists);
            listed || located.is_some_and(|c| c.address.ip() == address.ip())
        });
        if let Some((transport, address)) = target
            && let Some(open) = self.connections.reusable(transport, address, &trunk.name)
        {
            return Some(Hop::Stream(open));
        }
        if let Some((hop, _)) = own {
            return Some(hop);
        }
        let (transport, address, name) = match (target, located) {
            (Some((transport, address)), Some(c)) => (transport, address, c.uri.host.clone()),
            (Some((transport, address)), None) => (transport, address, address.ip().to_string()),
            (None, Some(c)) => (c.uri.transport, c.address, c.uri.host.clone()),
            (None, None) => return None,
        };
        let led_here = located.filter(|c| c.address.ip() == address.ip());
        let called = led_here.map(|c| &c.uri);
        let (hop, _) = self.hop_to(trunk, transport, address, &name, called)?;
        Some(hop)
    }

    /// Whether something can be sent there. Connections of other cores count as open: their core reports otherwise.
    pub fn hop_is_open(&self, hop: Hop) -> bool {
        match hop {
            Hop::Stream(id) => id.core() != self.core || self.connections.contains(id),
            Hop::Datagram { .. } => true,
        }
    }
}

/// Transport and address of a SIP URI whose host is an IP literal.
fn literal_target(uri: &str) -> Option<(Transport, SocketAddr)> {
    let Ok(Uri::Sip(uri)) = Uri::parse(uri) else {
        return None;
    };
    let transport = match uri.transport() {
        Some(name) if name.eq_ignore_ascii_case("udp") => Transport::Udp,
        Some(name) if name.eq_ignore_ascii_case("tls") => Transport::Tls,
        Some(name) if name.eq_ignore_ascii_case("tcp") && !uri.sips => Transport::Tcp,
        Some(name) if name.eq_ignore_ascii_case("tcp") => Transport::Tls,
        Some(_) => return None,
        None if uri.sips => Transport::Tls,
        None => Transport::Udp,
    };
    let address = match uri.host {
        Host::V4(address) => IpAddr::V4(address),
        Host::V6(address) => IpAddr::V6(address),
        Host::Name(_) => return None,
    };
    let port = uri.port.unwrap_or(transport.default_port());
    Some((transport, SocketAddr::new(address, port)))
}
