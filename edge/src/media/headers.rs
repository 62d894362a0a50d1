//! The headers that a raw socket's packets bring: IP (RFC 791, RFC 8200) and UDP (RFC 768).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Octets of a UDP header.
pub const UDP: usize = 8;
const IPV4: usize = 20;
const IPV6: usize = 40;

/// Octets that every path takes whole (RFC 791 §3.2, RFC 8200 §5): what the kernel does not fragment stays below.
const SMALLEST_MTU: [usize; 2] = [576, 1280];

/// Octets of a packet to `host` that every path takes whole.
pub fn smallest_mtu(host: IpAddr) -> u32 {
    match host {
        IpAddr::V4(_) => SMALLEST_MTU[0] as u32,
        IpAddr::V6(_) => SMALLEST_MTU[1] as u32,
    }
}

/// Hops that a packet may take (RFC 1700), as the kernel's own sockets give it by default.
const HOPS: u8 = 64;

/// Octets of both headers for packets from `local`.
pub fn octets(local: IpAddr) -> usize {
    match local {
        IpAddr::V4(_) => IPV4 + UDP,
        IpAddr::V6(_) => IPV6 + UDP,
    }
}

/// Writes both headers into the first [`octets`] of `packet`, the payload behind them. False where the two are not of one family, or
/// where `packet` is too short to have headers or longer than every path takes.
#[must_use]
pub fn write(packet: &mut [u8], source: SocketAddr, destination: SocketAddr) -> bool {
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let Some((header, datagram)) = packet.split_first_chunk_mut::<IPV4>() else {
                return false;
            };
            *header = ipv4(from, to);
            write_udp(datagram, source, destination) && packet.len() <= SMALLEST_MTU[0]
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let Some((header, datagram)) = packet.split_first_chunk_mut::<IPV6>() else {
                return false;
            };
            *header = ipv6(from, to, datagram.len() as u16);
            write_udp(datagram, source, destination) && packet.len() <= SMALLEST_MTU[1]
        }
        _ => false,
    }
}

/// Octets of an Ethernet header (IEEE 802.3).
pub const ETHERNET: usize = 14;

/// Makes an Ethernet frame of what [`write`] has made a packet, whose place begins after the first [`ETHERNET`] octets of `frame`: writes
/// `header` before it, and in it what the kernel would have filled in. False where there is no packet.
#[must_use]
pub fn write_ethernet(frame: &mut [u8], header: &[u8; ETHERNET]) -> bool {
    let Some((place, packet)) = frame.split_first_chunk_mut::<ETHERNET>() else {
        return false;
    };
    *place = *header;
    match packet.first() {
        Some(0x45) => complete_ipv4(packet),
        Some(0x60) => true,
        _ => false,
    }
}

/// Length and checksum of an IPv4 header without options that has neither (RFC 791 §3.1).
fn complete_ipv4(packet: &mut [u8]) -> bool {
    let Ok(length) = u16::try_from(packet.len()) else {
        return false;
    };
    let Some(header) = packet.first_chunk_mut::<IPV4>() else {
        return false;
    };
    let [_, _, l0, l1, ..] = header;
    [*l0, *l1] = length.to_be_bytes();
    let [.., c0, c1, _, _, _, _, _, _, _, _] = header;
    [*c0, *c1] = [0, 0];
    let checksum = folded(sum(header));
    let [.., c0, c1, _, _, _, _, _, _, _, _] = header;
    [*c0, *c1] = checksum.to_be_bytes();
    true
}

/// RFC 791 §3.1. Length, identification and checksum are the kernel's to fill in (raw(7)).
fn ipv4(source: Ipv4Addr, destination: Ipv4Addr) -> [u8; IPV4] {
    const VERSION_AND_WORDS: u8 = 0x45;
    const DONT_FRAGMENT: u8 = 0x40;
    let [s0, s1, s2, s3] = source.octets();
    let [d0, d1, d2, d3] = destination.octets();
    [
        VERSION_AND_WORDS,
        0,
        0,
        0,
        0,
        0,
        DONT_FRAGMENT,
        0,
        HOPS,
        PROTOCOL,
        0,
        0,
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
    ]
}

/// RFC 8200 §3, for a payload of `length` octets.
fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, length: u16) -> [u8; IPV6] {
    const VERSION: u8 = 0x60;
    let [l0, l1] = length.to_be_bytes();
    let mut header = [0; IPV6];
    let (first, addresses) = header.split_at_mut(8);
    first.copy_from_slice(&[VERSION, 0, 0, 0, l0, l1, PROTOCOL, HOPS]);
    let (from, to) = addresses.split_at_mut(16);
    from.copy_from_slice(&source.octets());
    to.copy_from_slice(&destination.octets());
    header
}

/// UDP, in IP.
const PROTOCOL: u8 = libc::IPPROTO_UDP as u8;

/// Writes the UDP header of a datagram into its first octets; false where it has none or is too long to be one.
fn write_udp(datagram: &mut [u8], source: SocketAddr, destination: SocketAddr) -> bool {
    let Ok(length) = u16::try_from(datagram.len()) else {
        return false;
    };
    let Some(header) = datagram.first_chunk_mut::<UDP>() else {
        return false;
    };
    let [s0, s1] = source.port().to_be_bytes();
    let [d0, d1] = destination.port().to_be_bytes();
    let [l0, l1] = length.to_be_bytes();
    *header = [s0, s1, d0, d1, l0, l1, 0, 0];
    // Zero would say that there is none (RFC 768), which IPv6 forbids (RFC 8200 §8.1).
    let checksum = match checksum(datagram, source.ip(), destination.ip()) {
        0 => u16::MAX,
        checksum => checksum,
    };
    if let Some([_, _, _, _, _, _, high, low]) = datagram.first_chunk_mut::<UDP>() {
        [*high, *low] = checksum.to_be_bytes();
    }
    true
}

/// RFC 768 with the pseudo-header of IPv4 (there) or IPv6 (RFC 8200 §8.1); zero for a datagram that has the right one.
pub fn checksum(datagram: &[u8], source: IpAddr, destination: IpAddr) -> u16 {
    let addresses = |address| match address {
        IpAddr::V4(v4) => sum(&v4.octets()),
        IpAddr::V6(v6) => sum(&v6.octets()),
    };
    let pseudo = u64::from(PROTOCOL) + datagram.len() as u64;
    // Sums of words in the machine's order give the checksum in that order (RFC 1071 §2 B), so the rest has to be in it, too.
    let pseudo = u64::from((pseudo as u16).to_be()) + u64::from(((pseudo >> 16) as u16).to_be());
    folded(addresses(source) + addresses(destination) + pseudo + sum(datagram))
}

/// The Internet checksum (RFC 1071) of words in the machine's order that add up to `total`.
fn folded(mut total: u64) -> u16 {
    while total > u64::from(u16::MAX) {
        total = (total & u64::from(u16::MAX)) + (total >> 16);
    }
    u16::from_be(!(total as u16))
}

/// The words of `bytes`, in the machine's order, added up; an odd last octet is followed by zero. 32 bits at a time: the carries
/// between both halves come together when the sum is folded.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let whole: u64 = words
        .iter()
        .map(|word| u64::from(u32::from_ne_bytes(*word)))
        .sum();
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    whole + u64::from(u32::from_ne_bytes(last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The sum of RFC 1071 §4.1, as it is written there.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum: u32 = 0;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn pseudo(source: SocketAddr, destination: SocketAddr, datagram: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for address in [source, destination] {
            match address.ip() {
                IpAddr::V4(v4) => bytes.extend(v4.octets()),
                IpAddr::V6(v6) => bytes.extend(v6.octets()),
            }
        }
        bytes.extend((datagram.len() as u32).to_be_bytes());
        bytes.extend([0, 0, 0, 17]);
        bytes.extend(datagram);
        bytes
    }

    proptest! {
        #[test]
        fn headers_hold_what_was_asked_and_add_up(
            payload in prop::collection::vec(any::<u8>(), 0..1500),
            ipv6 in any::<bool>(),
            bytes in any::<[u8; 32]>(),
            ports in any::<[u16; 2]>(),
        ) {
            let address = |from: usize| -> IpAddr {
                if ipv6 {
                    <[u8; 16]>::try_from(&bytes[from..from + 16]).unwrap().into()
                } else {
                    <[u8; 4]>::try_from(&bytes[from..from + 4]).unwrap().into()
                }
            };
            let source = SocketAddr::new(address(0), ports[0]);
            let destination = SocketAddr::new(address(16), ports[1]);
            let before = octets(source.ip());
            let mut packet = vec![0xaa; before];
            packet.extend(&payload);
            let most = if ipv6 { 1280 } else { 576 };
            prop_assert_eq!(write(&mut packet, source, destination), packet.len() <= most);
            if packet.len() > most {
                return Ok(());
            }
            prop_assert_eq!(&packet[before..], &payload[..]);
            let (ip, datagram) = packet.split_at(before - UDP);
            let addresses = if ipv6 { 8 } else { 12 };
            let (first, addresses) = ip.split_at(addresses);
            if ipv6 {
                let [high, low] = (datagram.len() as u16).to_be_bytes();
                prop_assert_eq!(first, [0x60, 0, 0, 0, high, low, 17, 64]);
                prop_assert_eq!(addresses, &bytes[..]);
            } else {
                prop_assert_eq!(first, [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0]);
                prop_assert_eq!(addresses, [&bytes[..4], &bytes[16..20]].concat());
            }
            prop_assert_eq!(&datagram[..2], ports[0].to_be_bytes());
            prop_assert_eq!(&datagram[2..4], ports[1].to_be_bytes());
            prop_assert_eq!(&datagram[4..6], (datagram.len() as u16).to_be_bytes());
            prop_assert_ne!(&datagram[6..8], [0, 0]);
            prop_assert_eq!(reference(&pseudo(source, destination, datagram)), 0);
            prop_assert_eq!(checksum(datagram, source.ip(), destination.ip()), 0);
            let (packet, header) = (packet.clone(), [7; ETHERNET]);
            // What is sent a second time has the checksum of the first.
            let mut frame = [&[0; ETHERNET][..], &packet].concat();
            for _ in 0..2 {
                prop_assert!(write_ethernet(&mut frame, &header));
                prop_assert_eq!(&frame[..ETHERNET], &header[..]);
                let rest = &frame[ETHERNET..];
                if ipv6 {
                    prop_assert_eq!(rest, &packet[..]);
                } else {
                    prop_assert_eq!(&rest[2..4], (rest.len() as u16).to_be_bytes());
                    prop_assert_eq!(reference(&rest[..20]), 0);
                    let same = [&packet[..2], &rest[2..4], &packet[4..10], &rest[10..12], &packet[12..]];
                    prop_assert_eq!(rest, same.concat());
                }
            }
        }
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        let [a, b, c] =
            ["192.0.2.1:1", "192.0.2.2:2", "[2001:db8::1]:3"].map(|text| text.parse().unwrap());
        assert!(!write(&mut [0; 27], a, b));
        assert!(write(&mut [0; 28], a, b));
        assert!(!write(&mut [0; 100], a, c));
        assert!(!write(&mut [0; 47], c, c));
        assert!(write(&mut [0; 48], c, c));
        assert!(!write(&mut vec![0; 1 << 17], c, c));
        for frame in [
            &mut [0x45; 13][..],
            &mut [0x45; 14],
            &mut [0x45; 33],
            &mut [0; 60],
        ] {
            assert!(!write_ethernet(frame, &[0; ETHERNET]));
        }
    }
}
