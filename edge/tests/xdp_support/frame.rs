//! Frames by description.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;
pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const ESP: u8 = 50;
pub const AH: u8 = 51;
pub const NO_NEXT: u8 = 59;
pub const DESTINATION: u8 = 60;

pub const DOT1Q: u16 = 0x8100;
pub const DOT1AD: u16 = 0x88a8;

/// A header between the IP header and the ports.
#[derive(Clone, Debug)]
pub struct Extension {
    pub kind: u8,
    /// Everything after the next-header byte.
    pub bytes: Vec<u8>,
}

impl Extension {
    /// Padding (Pad1 options) that fills `units` times 8 bytes.
    pub fn options(kind: u8, units: u8) -> Extension {
        let mut bytes = vec![0; usize::from(units) * 8 - 1];
        bytes[0] = units - 1;
        Extension { kind, bytes }
    }

    /// `offset` in units of 8 bytes.
    pub fn fragment(offset: u16, more: bool) -> Extension {
        let field = (offset << 3) | u16::from(more);
        let [high, low] = field.to_be_bytes();
        Extension {
            kind: FRAGMENT,
            bytes: vec![0, high, low, 0, 0, 0, 7],
        }
    }

    pub fn routing(kind: u8, segments_left: u8, address: Ipv6Addr) -> Extension {
        let mut bytes = vec![2, kind, segments_left, 0, 0, 0, 0];
        bytes.extend(address.octets());
        Extension {
            kind: ROUTING,
            bytes,
        }
    }

    pub fn authentication(icv: u8) -> Extension {
        let mut bytes = vec![0; 11 + usize::from(icv)];
        bytes[0] = 1 + icv / 4;
        Extension { kind: AH, bytes }
    }
}

/// A description that [`Packet::bytes`] turns into a frame; the fields that lie override what would be true.
#[derive(Clone, Debug)]
pub struct Packet {
    pub tags: Vec<u16>,
    pub ether_type: Option<u16>,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub version: Option<u8>,
    pub header_words: Option<u8>,
    pub options: Vec<u8>,
    /// IPv4 fragment field: (offset in units of 8 bytes, more fragments).
    pub fragment: (u16, bool),
    pub extensions: Vec<Extension>,
    pub protocol: u8,
    /// IPv4 total length or IPv6 payload length.
    pub length: Option<u16>,
    /// What follows the IP headers; ports first, for TCP and UDP.
    pub payload: Vec<u8>,
    /// Bytes after the end of the IP packet.
    pub trailer: Vec<u8>,
    /// The frame ends after so many bytes.
    pub cut: Option<usize>,
}

impl Packet {
    pub fn new(protocol: u8, source: (&str, u16), destination: (&str, u16)) -> Packet {
        let mut payload = Vec::new();
        payload.extend(source.1.to_be_bytes());
        payload.extend(destination.1.to_be_bytes());
        if protocol == TCP {
            payload.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
        } else {
            payload.extend([0, 20, 0, 0]);
            payload.extend([0x80; 12]);
        }
        Packet {
            tags: Vec::new(),
            ether_type: None,
            source: source.0.parse().unwrap(),
            destination: destination.0.parse().unwrap(),
            version: None,
            header_words: None,
            options: Vec::new(),
            fragment: (0, false),
            extensions: Vec::new(),
            protocol,
            length: None,
            payload,
            trailer: Vec::new(),
            cut: None,
        }
    }

    /// Bytes before the payload.
    pub fn header_bytes(&self) -> usize {
        let extensions: usize = self.extensions.iter().map(|e| 1 + e.bytes.len()).sum();
        let ip = if self.source.is_ipv4() { 20 } else { 40 };
        14 + 4 * self.tags.len() + ip + self.options.len() + extensions
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in &self.tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 5]);
        }
        let ether_type = if self.source.is_ipv4() {
            0x0800
        } else {
            0x86dd
        };
        frame.extend(self.ether_type.unwrap_or(ether_type).to_be_bytes());
        let mut body = Vec::new();
        for (n, extension) in self.extensions.iter().enumerate() {
            let next = self.extensions.get(n + 1).map_or(self.protocol, |e| e.kind);
            body.push(next);
            body.extend(&extension.bytes);
        }
        body.extend(&self.payload);
        let protocol = self.extensions.first().map_or(self.protocol, |e| e.kind);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.ipv4(&mut frame, source, destination, protocol, body.len());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let length = self.length.unwrap_or(u16::try_from(body.len()).unwrap());
                frame.push(self.version.unwrap_or(6) << 4);
                frame.extend([0, 0, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([protocol, 64]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
            }
            _ => panic!("addresses of two families"),
        }
        frame.extend(body);
        frame.extend(&self.trailer);
        frame.truncate(self.cut.unwrap_or(usize::MAX));
        frame
    }

    fn ipv4(
        &self,
        frame: &mut Vec<u8>,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: u8,
        body: usize,
    ) {
        let header = 20 + self.options.len();
        assert_eq!(header % 4, 0, "options come in words");
        let words = self
            .header_words
            .unwrap_or(u8::try_from(header / 4).unwrap());
        let length = self.length.unwrap_or(u16::try_from(header + body).unwrap());
        let (offset, more) = self.fragment;
        frame.push((self.version.unwrap_or(4) << 4) | words);
        frame.push(0);
        frame.extend(length.to_be_bytes());
        frame.extend([0, 7]);
        frame.extend((offset | if more { 0x2000 } else { 0 }).to_be_bytes());
        frame.extend([64, protocol, 0, 0]);
        frame.extend(source.octets());
        frame.extend(destination.octets());
        frame.extend(&self.options);
    }
}
