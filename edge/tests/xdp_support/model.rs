//! The rules of `ebpf/README.md`, written once more from the text: what a frame's verdict has to be. Knows the configuration and
//! the open ports, none of the program's maps.

use super::frame::{AH, DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING, TCP, UDP};
use edge_proto::config::{Config, Listener, Transport};
use ipnet::IpNet;
use sip_edge::access::{FlowSource, Reason};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What becomes of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Pass,
    /// Counted for a listener (`media`, or `any`), for a reason.
    Drop(String, Reason),
}

/// Who may send to an open media port.
#[derive(Clone, Debug)]
pub enum Open {
    Anyone,
    Sources(Vec<FlowSource>),
}

/// What the verdict depends on besides the frame.
pub struct Model<'a> {
    pub config: &'a Config,
    /// By family (whether IPv4) and port.
    pub open: BTreeMap<(bool, u16), Open>,
    /// Unconnected UDP sockets of the host; one on [::] takes IPv4, too.
    pub sockets: Vec<SocketAddr>,
    /// Connected ones: (own address, server).
    pub connected: Vec<(SocketAddr, SocketAddr)>,
    /// What the host routes on instead of taking it in.
    pub routed: Vec<IpNet>,
}

/// What can be read off a frame.
#[derive(Clone, Debug)]
struct Shown {
    source: IpAddr,
    destination: IpAddr,
    rerouted: bool,
    protocol: Option<u8>,
    /// Source and destination port, or why they are not shown.
    ports: Result<(u16, u16), Reason>,
}

enum Look {
    /// Nothing for a guarded port, whatever the configuration.
    Foreign,
    /// Not even the addresses can be seen.
    Blind(Reason),
    Seen(Shown),
}

/// Bytes that run out instead of panicking.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }
}

impl Model<'_> {
    pub fn verdict(&self, frame: &[u8]) -> Verdict {
        match look(frame) {
            Look::Foreign => Verdict::Pass,
            Look::Blind(reason) => {
                if self.config.listeners.is_empty() && self.media_families().next().is_none() {
                    Verdict::Pass
                } else {
                    Verdict::Drop("any".to_owned(), reason)
                }
            }
            Look::Seen(shown) => match shown.ports {
                Ok((source_port, port)) => self.judge(&shown, source_port, port),
                Err(reason) => self.unjudged(&shown, reason),
            },
        }
    }

    fn judge(&self, shown: &Shown, source_port: u16, port: u16) -> Verdict {
        let mut matching: Vec<&Listener> = self
            .config
            .listeners
            .iter()
            .filter(|l| l.address.port() == port && Some(protocol(l)) == shown.protocol)
            .filter(|l| self.reached(l.address.ip(), shown))
            .collect();
        // A listener on one address is meant before one on all.
        matching.sort_by_key(|l| l.address.ip().is_unspecified());
        if let Some(listener) = matching.first() {
            if self.goes_on(listener.address.ip(), shown) {
                return Verdict::Pass;
            }
            let drop = |reason| Verdict::Drop(listener.name.clone(), reason);
            if shown.rerouted {
                return drop(Reason::SourceRouted);
            }
            if is_mapped(shown.source) {
                return drop(Reason::MappedSource);
            }
            return if self
                .config
                .allow
                .lookup(listener.id, shown.source)
                .is_empty()
            {
                drop(Reason::Unlisted)
            } else {
                Verdict::Pass
            };
        }
        let media = shown.protocol == Some(UDP)
            && self.config.media.ports.contains(&port)
            && self.media_reached(shown);
        if media {
            self.judge_media(shown, source_port, port)
        } else {
            Verdict::Pass
        }
    }

    fn judge_media(&self, shown: &Shown, source_port: u16, port: u16) -> Verdict {
        let bind = self
            .media_families()
            .find(|bind| self.reached(*bind, shown));
        if bind.is_some_and(|bind| self.goes_on(bind, shown)) {
            return Verdict::Pass;
        }
        let drop = |reason| Verdict::Drop("media".to_owned(), reason);
        if shown.rerouted {
            return drop(Reason::SourceRouted);
        }
        if is_mapped(shown.source) {
            return drop(Reason::MappedSource);
        }
        match self.open.get(&(shown.destination.is_ipv4(), port)) {
            Some(Open::Anyone) => Verdict::Pass,
            Some(Open::Sources(sources)) => {
                let may = sources.iter().any(|s| {
                    s.address == shown.source && s.port.is_none_or(|port| port == source_port)
                });
                if may {
                    Verdict::Pass
                } else {
                    drop(Reason::Stranger)
                }
            }
            None => {
                let local = SocketAddr::new(shown.destination, port);
                let server = SocketAddr::new(shown.source, source_port);
                let taken_by = |socket: &SocketAddr| match socket.ip() {
                    ip if ip == shown.destination => true,
                    IpAddr::V4(ip) => ip.is_unspecified() && shown.destination.is_ipv4(),
                    IpAddr::V6(ip) => ip.is_unspecified(),
                };
                let awaited = self.connected.contains(&(local, server))
                    || self
                        .sockets
                        .iter()
                        .any(|socket| socket.port() == port && taken_by(socket));
                if awaited {
                    Verdict::Pass
                } else {
                    drop(Reason::Unallocated)
                }
            }
        }
    }

    fn unjudged(&self, shown: &Shown, reason: Reason) -> Verdict {
        let possible = |guarded: u8| shown.protocol.is_none_or(|p| p == guarded);
        let listener = self
            .config
            .listeners
            .iter()
            .find(|l| possible(protocol(l)) && self.reached(l.address.ip(), shown));
        if let Some(listener) = listener {
            if self.goes_on(listener.address.ip(), shown) {
                return Verdict::Pass;
            }
            return Verdict::Drop(listener.name.clone(), reason);
        }
        let media = self
            .media_families()
            .find(|bind| self.reached(*bind, shown));
        if let (true, Some(bind)) = (possible(UDP), media) {
            if self.goes_on(bind, shown) {
                return Verdict::Pass;
            }
            return Verdict::Drop("media".to_owned(), reason);
        }
        Verdict::Pass
    }

    fn reached(&self, guarded: IpAddr, shown: &Shown) -> bool {
        guarded.is_ipv4() == shown.destination.is_ipv4()
            && (guarded.is_unspecified() || shown.rerouted || guarded == shown.destination)
    }

    /// Whether a packet, though `guarded` is reached by its address, is for another host.
    fn goes_on(&self, guarded: IpAddr, shown: &Shown) -> bool {
        (guarded.is_unspecified() || shown.rerouted)
            && self
                .routed
                .iter()
                .any(|net| net.contains(&shown.destination))
    }

    fn media_families(&self) -> impl Iterator<Item = IpAddr> {
        let media = &self.config.media;
        [media.ipv4, media.ipv6]
            .into_iter()
            .flatten()
            .map(|m| m.bind)
    }

    fn media_reached(&self, shown: &Shown) -> bool {
        self.media_families().any(|bind| self.reached(bind, shown))
    }
}

fn protocol(listener: &Listener) -> u8 {
    match listener.transport {
        Transport::Udp => UDP,
        Transport::Tcp | Transport::Tls => TCP,
    }
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

fn look(frame: &[u8]) -> Look {
    let mut reader = Reader(frame);
    let mut types = Reader(frame.get(12..).unwrap_or_default());
    let _ = reader.take(14);
    let Some(mut ether_type) = types.u16() else {
        return Look::Foreign;
    };
    for tag in 0.. {
        match ether_type {
            0x8100 | 0x88a8 if tag == 4 => return Look::Blind(Reason::TooDeep),
            0x8100 | 0x88a8 => {
                let (Some(_), Some(_)) = (reader.take(4), types.u16()) else {
                    return Look::Foreign;
                };
                let Some(inner) = types.u16() else {
                    return Look::Foreign;
                };
                ether_type = inner;
            }
            0x0800 => return ipv4(reader.0),
            0x86dd => return ipv6(reader.0),
            _ => break,
        }
    }
    Look::Foreign
}

fn ipv4(packet: &[u8]) -> Look {
    let Some(fixed) = packet.first_chunk::<20>() else {
        return Look::Foreign;
    };
    let protocol = fixed[9];
    if fixed[0] >> 4 != 4 || ![TCP, UDP, AH].contains(&protocol) {
        return Look::Foreign;
    }
    let address = |at: usize| {
        IpAddr::V4(Ipv4Addr::new(
            fixed[at],
            fixed[at + 1],
            fixed[at + 2],
            fixed[at + 3],
        ))
    };
    let mut shown = Shown {
        source: address(12),
        destination: address(16),
        rerouted: false,
        protocol: (protocol != AH).then_some(protocol),
        ports: Err(Reason::Truncated),
    };
    let fragment = u16::from_be_bytes([fixed[6], fixed[7]]);
    match fragment & 0x1fff {
        0 => {}
        1 if protocol == TCP => {
            shown.ports = Err(Reason::Overlap);
            return Look::Seen(shown);
        }
        _ => return Look::Foreign,
    }
    let first = fragment & 0x2000 != 0;
    let header = usize::from(fixed[0] & 15) * 4;
    let stated = match u16::from_be_bytes([fixed[2], fixed[3]]) {
        0 => packet.len(),
        stated => usize::from(stated),
    };
    if header < 20 || stated < header || packet.len() < header {
        return Look::Seen(shown);
    }
    let options = &packet[20..header];
    shown.rerouted = options.iter().any(|byte| SOURCE_ROUTES.contains(byte)) && !harmless(options);
    let mut rest = Reader(&packet[header..stated.min(packet.len())]);
    let cut = if first {
        Reason::ShortFragment
    } else {
        Reason::Truncated
    };
    if protocol == AH {
        match authenticated(&mut rest) {
            Authenticated::Inner(inner) => shown.protocol = Some(inner),
            Authenticated::Foreign => return Look::Foreign,
            Authenticated::Nested => {
                shown.ports = Err(Reason::TooDeep);
                return Look::Seen(shown);
            }
            Authenticated::Cut(inner) => {
                shown.protocol = inner;
                shown.ports = Err(cut);
                return Look::Seen(shown);
            }
        }
    }
    shown.ports = ports(rest, cut);
    Look::Seen(shown)
}

/// Loose and strict.
const SOURCE_ROUTES: [u8; 2] = [131, 137];

/// Whether the options can be read to their end and none is a source route.
fn harmless(options: &[u8]) -> bool {
    match options {
        [] | [0, ..] => true,
        [1, rest @ ..] => harmless(rest),
        [131 | 137, ..] | [_] => false,
        [_, length, ..] => {
            let length = usize::from(*length);
            length >= 2 && options.get(length..).is_some_and(harmless)
        }
    }
}

enum Authenticated {
    Inner(u8),
    Foreign,
    Nested,
    Cut(Option<u8>),
}

fn authenticated(rest: &mut Reader) -> Authenticated {
    // The program reads the header's first 8 bytes at once.
    let Some(&[next, length, ..]) = rest.0.first_chunk::<8>() else {
        return Authenticated::Cut(None);
    };
    match next {
        AH => Authenticated::Nested,
        TCP | UDP => match rest.take((usize::from(length) + 2) * 4) {
            Some(_) => Authenticated::Inner(next),
            None => Authenticated::Cut(Some(next)),
        },
        _ => Authenticated::Foreign,
    }
}

fn ports(mut rest: Reader, cut: Reason) -> Result<(u16, u16), Reason> {
    match (rest.u16(), rest.u16()) {
        (Some(source), Some(destination)) => Ok((source, destination)),
        _ => Err(cut),
    }
}

fn ipv6(packet: &[u8]) -> Look {
    let Some((fixed, payload)) = packet.split_first_chunk::<40>() else {
        return Look::Foreign;
    };
    if fixed[0] >> 4 != 6 {
        return Look::Foreign;
    }
    let address = |at: usize| {
        let octets: [u8; 16] = fixed[at..at + 16].try_into().unwrap();
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    let mut shown = Shown {
        source: address(8),
        destination: address(24),
        rerouted: false,
        protocol: None,
        ports: Err(Reason::TooDeep),
    };
    let stated = match u16::from_be_bytes([fixed[4], fixed[5]]) {
        0 => payload.len(),
        stated => usize::from(stated),
    };
    let mut rest = Reader(&payload[..stated.min(payload.len())]);
    let mut kind = fixed[6];
    let mut cut = Reason::Truncated;
    for followed in 0.. {
        match kind {
            TCP | UDP => {
                shown.protocol = Some(kind);
                shown.ports = ports(rest, cut);
                return Look::Seen(shown);
            }
            HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION | AH if followed == 8 => break,
            HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION | AH => {}
            _ => return Look::Foreign,
        }
        let Some(&[next, length, _, segments_left, ..]) = rest.0.first_chunk::<8>() else {
            shown.ports = Err(cut);
            break;
        };
        let mut size = (usize::from(length) + 1) * 8;
        match kind {
            AH => size = (usize::from(length) + 2) * 4,
            ROUTING => shown.rerouted |= segments_left > 0,
            FRAGMENT => {
                size = 8;
                let field = u16::from_be_bytes([rest.0[2], rest.0[3]]);
                match field >> 3 {
                    0 if field & 1 != 0 => cut = Reason::ShortFragment,
                    0 => {}
                    1 if next == TCP => {
                        shown.protocol = Some(TCP);
                        shown.ports = Err(Reason::Overlap);
                        return Look::Seen(shown);
                    }
                    _ => return Look::Foreign,
                }
            }
            _ => {}
        }
        if rest.take(size).is_none() {
            shown.ports = Err(cut);
            break;
        }
        kind = next;
    }
    Look::Seen(shown)
}
