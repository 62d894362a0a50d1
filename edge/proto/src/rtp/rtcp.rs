//! RTCP compound packets (RFC 3550 §6, checked as §A.2 says).

use super::VERSION;
use thiserror::Error;

/// Packet types (RFC 3550 §12.1).
pub mod packet_type {
    /// Sender report.
    pub const SR: u8 = 200;
    /// Receiver report.
    pub const RR: u8 = 201;
    /// Source description.
    pub const SDES: u8 = 202;
    /// Goodbye.
    pub const BYE: u8 = 203;
    /// Application-defined.
    pub const APP: u8 = 204;
}

/// Octets of the header that all packet types share.
const HEADER: usize = 4;

/// What is wrong with a datagram that a peer sent as RTCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum RtcpError {
    #[error("it ends inside a packet")]
    Truncated,
    #[error("a packet has version {0}, not 2")]
    Version(u8),
    #[error("it begins with packet type {0} instead of a sender or receiver report")]
    FirstNotReport(u8),
    #[error("a packet that is not the last one is padded")]
    PaddingBeforeLast,
    #[error("its padding count is zero, no multiple of four, or larger than the last packet")]
    Padding,
    #[error("a packet of type {0} is too short for what its header announces")]
    TooShort(u8),
}

/// A checked compound packet: one datagram whose packets fill it exactly, the first a report.
///
/// Reduced-size RTCP (RFC 5506) has to be negotiated, which the edge never does, so it is refused.
#[derive(Clone, Copy, Debug)]
pub struct RtcpCompound<'a> {
    bytes: &'a [u8],
}

impl<'a> RtcpCompound<'a> {
    /// Checks every packet in `bytes`, which is one datagram.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RtcpError> {
        let mut rest = bytes;
        let mut first = true;
        loop {
            let (packet, behind) = RtcpPacket::split(rest)?;
            if first && !matches!(packet.packet_type(), packet_type::SR | packet_type::RR) {
                return Err(RtcpError::FirstNotReport(packet.packet_type()));
            }
            if packet.padded && !behind.is_empty() {
                return Err(RtcpError::PaddingBeforeLast);
            }
            packet.check_length()?;
            if behind.is_empty() {
                return Ok(RtcpCompound { bytes });
            }
            first = false;
            rest = behind;
        }
    }

    /// The packets in it, at least one.
    pub fn packets(&self) -> RtcpPackets<'a> {
        RtcpPackets { rest: self.bytes }
    }

    /// Who sent it: the SSRC of the first report.
    pub fn sender(&self) -> Option<u32> {
        self.packets().next()?.ssrc()
    }
}

/// Iterates over a compound packet.
#[derive(Clone, Debug)]
pub struct RtcpPackets<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for RtcpPackets<'a> {
    type Item = RtcpPacket<'a>;

    fn next(&mut self) -> Option<RtcpPacket<'a>> {
        let (packet, rest) = RtcpPacket::split(self.rest).ok()?;
        self.rest = rest;
        Some(packet)
    }
}

/// One packet of a compound packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RtcpPacket<'a> {
    packet_type: u8,
    count: u8,
    padded: bool,
    body: &'a [u8],
}

impl<'a> RtcpPacket<'a> {
    /// Cuts the first packet off `bytes`.
    fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), RtcpError> {
        let (&[first, packet_type, l0, l1], _) = bytes
            .split_first_chunk::<HEADER>()
            .ok_or(RtcpError::Truncated)?;
        if first >> 6 != VERSION {
            return Err(RtcpError::Version(first >> 6));
        }
        // The length is in 32-bit words minus one (RFC 3550 §6.4.1).
        let length = (usize::from(u16::from_be_bytes([l0, l1])) + 1) * 4;
        let (packet, rest) = bytes.split_at_checked(length).ok_or(RtcpError::Truncated)?;
        let (_, mut body) = packet
            .split_at_checked(HEADER)
            .ok_or(RtcpError::Truncated)?;
        let padded = first & 0x20 != 0;
        if padded {
            let padding = body.last().copied().map_or(0, usize::from);
            if padding == 0 || padding % 4 != 0 {
                return Err(RtcpError::Padding);
            }
            let end = body.len().checked_sub(padding).ok_or(RtcpError::Padding)?;
            body = body.get(..end).unwrap_or_default();
        }
        let packet = RtcpPacket {
            packet_type,
            count: first & 0x1f,
            padded,
            body,
        };
        Ok((packet, rest))
    }

    fn check_length(&self) -> Result<(), RtcpError> {
        let count = usize::from(self.count);
        let least = match self.packet_type {
            packet_type::SR => 24 + count * 24,
            packet_type::RR => 4 + count * 24,
            packet_type::SDES | packet_type::BYE => count * 4,
            packet_type::APP => 8,
            _ => 0,
        };
        if self.body.len() < least {
            return Err(RtcpError::TooShort(self.packet_type));
        }
        Ok(())
    }

    /// See [`packet_type`].
    pub fn packet_type(&self) -> u8 {
        self.packet_type
    }

    /// The five bits that count report blocks, sources or chunks, or hold an APP's subtype.
    pub fn count(&self) -> u8 {
        self.count
    }

    /// What follows the four octets of the common header, without padding.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The first word of the body: the sender's SSRC in all types of RFC 3550 but an SDES or BYE without sources.
    pub fn ssrc(&self) -> Option<u32> {
        self.body
            .first_chunk()
            .map(|&word| u32::from_be_bytes(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One packet; `body` must be a multiple of four octets.
    fn packet(first: u8, packet_type: u8, body: &[u8]) -> Vec<u8> {
        assert_eq!(body.len() % 4, 0);
        let words = u16::try_from(body.len() / 4).unwrap().to_be_bytes();
        let mut bytes = vec![first, packet_type, words[0], words[1]];
        bytes.extend(body);
        bytes
    }

    fn report() -> Vec<u8> {
        packet(0x80, packet_type::RR, &[0, 0, 0, 9])
    }

    #[test]
    fn a_compound_of_reports_description_and_goodbye_is_taken_apart() {
        let mut bytes = packet(0x81, packet_type::SR, &[1; 48]);
        bytes.extend(packet(
            0x81,
            packet_type::SDES,
            &[0, 0, 0, 9, 1, 2, b'a', b'b', 0, 0, 0, 0],
        ));
        bytes.extend(packet(0xa1, packet_type::BYE, &[0, 0, 0, 9, 0, 0, 0, 4]));
        let compound = RtcpCompound::parse(&bytes).unwrap();
        let types: Vec<_> = compound
            .packets()
            .map(|p| (p.packet_type(), p.count(), p.body().len()))
            .collect();
        assert_eq!(types, [(200, 1, 48), (202, 1, 12), (203, 1, 4)]);
        assert_eq!(compound.sender(), Some(0x0101_0101));
    }

    #[test]
    fn each_fault_has_its_name() {
        let error = |parts: &[&[u8]]| RtcpCompound::parse(&parts.concat()).unwrap_err();
        let rr = report();
        assert_eq!(error(&[]), RtcpError::Truncated);
        assert_eq!(error(&[&rr[..6]]), RtcpError::Truncated);
        assert_eq!(error(&[&rr, &[0x80]]), RtcpError::Truncated);
        assert_eq!(error(&[&packet(0x40, 201, &[0; 4])]), RtcpError::Version(1));
        assert_eq!(
            error(&[&rr, &packet(0xc0, 203, &[])]),
            RtcpError::Version(3)
        );
        assert_eq!(
            error(&[&packet(0x80, 203, &[])]),
            RtcpError::FirstNotReport(203)
        );
        assert_eq!(
            error(&[&packet(0xa0, 201, &[0, 0, 0, 9, 0, 0, 0, 4]), &rr]),
            RtcpError::PaddingBeforeLast
        );
        for count in [0, 3, 12] {
            assert_eq!(
                error(&[&rr, &packet(0xa0, 203, &[0, 0, 0, 9, 0, 0, 0, count])]),
                RtcpError::Padding,
                "{count}"
            );
        }
        assert_eq!(
            error(&[&packet(0x81, 201, &[0; 24])]),
            RtcpError::TooShort(201)
        );
        assert_eq!(
            error(&[&packet(0x80, 200, &[0; 20])]),
            RtcpError::TooShort(200)
        );
        assert_eq!(
            error(&[&rr, &packet(0x82, 203, &[0; 4])]),
            RtcpError::TooShort(203)
        );
    }

    #[test]
    fn the_second_octet_tells_rtcp_from_rtp() {
        assert!(super::super::is_rtcp(&report()));
        assert!(!super::super::is_rtcp(&[0x80, 0x80]));
        assert!(!super::super::is_rtcp(&[0x80, 0x65]));
        assert!(!super::super::is_rtcp(&[0x80]));
    }

    fn any_packet() -> impl Strategy<Value = Vec<u8>> {
        (
            0x80u8..=0xbf,
            198u8..=206,
            proptest::collection::vec(any::<[u8; 4]>(), 0..8),
        )
            .prop_map(|(first, packet_type, mut words)| {
                if let Some(last) = words.last_mut() {
                    last[3] &= 0x0f;
                }
                packet(first & 0xa3, packet_type, &words.concat())
            })
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = RtcpCompound::parse(&bytes).map(|c| c.packets().count());
        }

        /// An accepted compound is covered by its packets, octet for octet, and a cut or an extra octet is noticed.
        #[test]
        fn an_accepted_compound_is_covered_exactly(
            parts in proptest::collection::vec(any_packet(), 1..5), cut in 1usize..4
        ) {
            let bytes = parts.concat();
            let Ok(compound) = RtcpCompound::parse(&bytes) else { return Ok(()) };
            prop_assert_eq!(compound.packets().count(), parts.len());
            prop_assert!(matches!(parts[0][1], 200 | 201));
            prop_assert!(parts.iter().rev().skip(1).all(|part| part[0] & 0x20 == 0));
            for (seen, part) in compound.packets().zip(&parts) {
                prop_assert_eq!(seen.packet_type(), part[1]);
                prop_assert!(part[4..].starts_with(seen.body()));
            }
            prop_assert!(RtcpCompound::parse(&bytes[..bytes.len() - cut]).is_err());
            let longer = [&bytes[..], &vec![0x80; cut]].concat();
            prop_assert!(RtcpCompound::parse(&longer).is_err());
        }
    }
}
