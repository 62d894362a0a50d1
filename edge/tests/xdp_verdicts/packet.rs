//! Reads the packets of `verdicts.txt`: `PROTOCOL SOURCE > DESTINATION [FIELD=VALUE]...`

use crate::xdp_support::frame::{DESTINATION, Extension, HOP_BY_HOP, Packet, TCP, UDP};

/// The addresses that the table has names for.
const NAMES: [(&str, &str); 6] = [
    ("edge4", "192.0.2.1"),
    ("edge6", "2001:db8::1"),
    ("in4", "198.51.100.7"),
    ("in6", "2001:db8:100::7"),
    ("out4", "198.51.101.7"),
    ("out6", "2001:db8:101::7"),
];

/// The port of a source that is given without one.
const SOURCE_PORT: u16 = 40_000;

pub fn parse(text: &str) -> Packet {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [protocol, source, ">", destination, fields @ ..] = words.as_slice() else {
        panic!("not a packet: {text}");
    };
    let protocol = match *protocol {
        "tcp" => TCP,
        "udp" => UDP,
        other => panic!("not a protocol: {other}"),
    };
    let mut packet = Packet::new(protocol, endpoint(source), endpoint(destination));
    for field in fields {
        let (name, value) = field.split_once('=').expect("FIELD=VALUE");
        set(&mut packet, name, value);
    }
    packet
}

/// `address`, `address:port` or `[address]:port`, the address by name where it has one.
fn endpoint(text: &str) -> (&str, u16) {
    let known = |host| {
        let named = NAMES.iter().find(|(name, _)| *name == host);
        named.map_or(host, |(_, address)| *address)
    };
    if known(text).parse::<std::net::IpAddr>().is_ok() {
        return (known(text), SOURCE_PORT);
    }
    let (host, port) = text.rsplit_once(':').expect("address:port");
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (known(host), port.parse().unwrap())
}

fn set(packet: &mut Packet, name: &str, value: &str) {
    let number = || value.parse::<usize>().unwrap();
    match name {
        // Tag protocol identifiers, outermost first.
        "tags" => packet.tags = value.split(',').map(hex).collect(),
        "type" => packet.ether_type = Some(hex(value)),
        "version" => packet.version = Some(value.parse().unwrap()),
        "words" => packet.header_words = Some(value.parse().unwrap()),
        // IPv4 options in hexadecimal, or one byte so many times.
        "options" => {
            let (bytes, times) = repeated(value);
            let bytes = bytes.as_bytes().chunks(2);
            let bytes: Vec<u8> = bytes
                .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect();
            packet.options = bytes.repeat(times);
        }
        // The IPv4 fragment field: offset in units of 8 bytes, + for more to come.
        "fragment" => packet.fragment = fragment(value),
        "headers" => packet.extensions = value.split(',').flat_map(header).collect(),
        "protocol" => packet.protocol = value.parse().unwrap(),
        // What the IP header says about the length.
        "length" => packet.length = Some(value.parse().unwrap()),
        // Bytes behind the IP headers that are really there.
        "payload" => packet.payload.truncate(number()),
        "trailer" => {
            let pairs = value.as_bytes().chunks(2);
            packet.trailer = pairs
                .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect();
        }
        // Bytes of the frame that are really there.
        "cut" => packet.cut = Some(number()),
        other => panic!("not a field: {other}"),
    }
}

fn hex(text: &str) -> u16 {
    u16::from_str_radix(text, 16).unwrap()
}

fn repeated(text: &str) -> (&str, usize) {
    match text.split_once('*') {
        Some((what, times)) => (what, times.parse().unwrap()),
        None => (text, 1),
    }
}

fn fragment(text: &str) -> (u16, bool) {
    match text.strip_suffix('+') {
        Some(offset) => (offset.parse().unwrap(), true),
        None => (text.parse().unwrap(), false),
    }
}

/// `hop:UNITS`, `dst:UNITS`, `route:TYPE:SEGMENTS_LEFT`, `frag:OFFSET[+]` or `ah`, any of them `*TIMES`.
fn header(text: &str) -> Vec<Extension> {
    let (what, times) = repeated(text);
    let parts: Vec<&str> = what.split(':').collect();
    let extension = match parts.as_slice() {
        ["hop", units] => Extension::options(HOP_BY_HOP, units.parse().unwrap()),
        ["dst", units] => Extension::options(DESTINATION, units.parse().unwrap()),
        ["route", kind, left] => {
            let edge = NAMES[1].1.parse().unwrap();
            Extension::routing(kind.parse().unwrap(), left.parse().unwrap(), edge)
        }
        ["frag", offset] => {
            let (offset, more) = fragment(offset);
            Extension::fragment(offset, more)
        }
        ["ah"] => Extension::authentication(12),
        _ => panic!("not a header: {text}"),
    };
    vec![extension; times]
}
