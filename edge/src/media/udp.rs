//! The header that a raw socket's packets need and the kernel does not write: UDP's (RFC 768).

use std::net::{IpAddr, SocketAddr};

/// Octets of a UDP header.
pub const HEADER: usize = 8;

/// Writes the UDP header of a datagram into its first [`HEADER`] octets, the payload behind them; `source` and `destination` are of one
/// family. False where `datagram` is too short or too long to be one.
#[must_use]
pub fn write_header(datagram: &mut [u8], source: SocketAddr, destination: SocketAddr) -> bool {
    let Ok(length) = u16::try_from(datagram.len()) else {
        return false;
    };
    let Some(header) = datagram.first_chunk_mut::<HEADER>() else {
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
    if let Some([_, _, _, _, _, _, high, low]) = datagram.first_chunk_mut::<HEADER>() {
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
    let pseudo = u64::from(libc::IPPROTO_UDP.unsigned_abs()) + datagram.len() as u64;
    // Sums of words in the machine's order give the checksum in that order (RFC 1071 §2 B), so the rest has to be in it, too.
    let pseudo = u64::from((pseudo as u16).to_be()) + u64::from(((pseudo >> 16) as u16).to_be());
    let mut total = addresses(source) + addresses(destination) + pseudo + sum(datagram);
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
        fn a_header_holds_what_was_asked_and_adds_up(
            payload in prop::collection::vec(any::<u8>(), 0..1500),
            ipv6 in any::<bool>(),
            octets in any::<[u8; 32]>(),
            ports in any::<[u16; 2]>(),
        ) {
            let address = |from: usize| -> IpAddr {
                if ipv6 {
                    <[u8; 16]>::try_from(&octets[from..from + 16]).unwrap().into()
                } else {
                    <[u8; 4]>::try_from(&octets[from..from + 4]).unwrap().into()
                }
            };
            let source = SocketAddr::new(address(0), ports[0]);
            let destination = SocketAddr::new(address(16), ports[1]);
            let mut datagram = vec![0xaa; HEADER];
            datagram.extend(&payload);
            prop_assert!(write_header(&mut datagram, source, destination));
            prop_assert_eq!(&datagram[..2], ports[0].to_be_bytes());
            prop_assert_eq!(&datagram[2..4], ports[1].to_be_bytes());
            prop_assert_eq!(&datagram[4..6], (datagram.len() as u16).to_be_bytes());
            prop_assert_eq!(&datagram[HEADER..], &payload[..]);
            prop_assert_ne!(&datagram[6..8], [0, 0]);
            prop_assert_eq!(reference(&pseudo(source, destination, &datagram)), 0);
            prop_assert_eq!(checksum(&datagram, source.ip(), destination.ip()), 0);
        }
    }

    #[test]
    fn what_is_no_datagram_is_refused() {
        let [a, b] = ["192.0.2.1:1", "192.0.2.2:2"].map(|text| text.parse().unwrap());
        assert!(!write_header(&mut [0; HEADER - 1], a, b));
        assert!(!write_header(&mut vec![0; 1 << 16], a, b));
        assert!(write_header(&mut [0; HEADER], a, b));
    }
}
