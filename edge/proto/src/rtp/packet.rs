//! RTP data packets (RFC 3550 §5.1).

use super::VERSION;
use core::fmt;
use core::ops::Range;
use thiserror::Error;

/// Octets of the fixed header.
const HEADER: usize = 12;

/// What is wrong with a packet that a peer sent as RTP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum RtpError {
    #[error("{0} octets, fewer than an RTP header's 12")]
    TooShort(usize),
    #[error("version {0}, not 2")]
    Version(u8),
    #[error("the packet ends inside its list of contributing sources")]
    CsrcTruncated,
    #[error("the packet ends inside its header extension")]
    ExtensionTruncated,
    #[error("its padding count is zero or larger than what follows the header")]
    Padding,
}

/// Where the parts behind the fixed header are, relative to its end. All ranges are within the packet.
#[derive(Clone, Debug)]
struct Layout {
    csrc: usize,
    extension: Option<(u16, Range<usize>)>,
    payload: Range<usize>,
}

impl Layout {
    fn check(header: &[u8; HEADER], rest: &[u8]) -> Result<Layout, RtpError> {
        let version = header[0] >> 6;
        if version != VERSION {
            return Err(RtpError::Version(version));
        }
        let csrc = usize::from(header[0] & 0x0f) * 4;
        let (_, behind) = rest.split_at_checked(csrc).ok_or(RtpError::CsrcTruncated)?;
        let (extension, start) = if header[0] & 0x10 != 0 {
            let (&[p0, p1, l0, l1], _) = behind
                .split_first_chunk::<4>()
                .ok_or(RtpError::ExtensionTruncated)?;
            let begin = csrc + 4;
            let end = begin + usize::from(u16::from_be_bytes([l0, l1])) * 4;
            if end > rest.len() {
                return Err(RtpError::ExtensionTruncated);
            }
            (Some((u16::from_be_bytes([p0, p1]), begin..end)), end)
        } else {
            (None, csrc)
        };
        let mut end = rest.len();
        if header[0] & 0x20 != 0 {
            let padding = rest.last().copied().map_or(0, usize::from);
            if padding == 0 || padding > end - start {
                return Err(RtpError::Padding);
            }
            end -= padding;
        }
        Ok(Layout {
            csrc,
            extension,
            payload: start..end,
        })
    }
}

/// A checked view of one RTP packet: every length in it is known to be right.
#[derive(Clone)]
pub struct RtpPacket<'a> {
    header: &'a [u8; HEADER],
    rest: &'a [u8],
    layout: Layout,
}

impl<'a> RtpPacket<'a> {
    /// Checks version, CSRC count, extension and padding against the length of `bytes`, which is one datagram.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RtpError> {
        let (header, rest) = bytes
            .split_first_chunk::<HEADER>()
            .ok_or(RtpError::TooShort(bytes.len()))?;
        let layout = Layout::check(header, rest)?;
        Ok(RtpPacket {
            header,
            rest,
            layout,
        })
    }

    /// The marker bit; its meaning is the profile's (RFC 3551: the first packet after silence).
    pub fn marker(&self) -> bool {
        self.header[1] & 0x80 != 0
    }

    /// The payload type, 0-127.
    pub fn payload_type(&self) -> u8 {
        self.header[1] & 0x7f
    }

    pub fn sequence_number(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// In units of the payload type's clock.
    pub fn timestamp(&self) -> u32 {
        let h = self.header;
        u32::from_be_bytes([h[4], h[5], h[6], h[7]])
    }

    /// The synchronisation source: one stream.
    pub fn ssrc(&self) -> u32 {
        let h = self.header;
        u32::from_be_bytes([h[8], h[9], h[10], h[11]])
    }

    /// The contributing sources, at most 15.
    pub fn csrcs(&self) -> impl Iterator<Item = u32> + 'a {
        let (list, _) = self
            .rest
            .split_at_checked(self.layout.csrc)
            .unwrap_or_default();
        list.as_chunks::<4>()
            .0
            .iter()
            .map(|&octets| u32::from_be_bytes(octets))
    }

    /// The header extension: the profile's 16 bits and the data behind the length field (a multiple of 4 octets).
    pub fn extension(&self) -> Option<(u16, &'a [u8])> {
        let (profile, range) = self.layout.extension.clone()?;
        Some((profile, self.rest.get(range)?))
    }

    /// The payload without padding; empty for a keep-alive.
    pub fn payload(&self) -> &'a [u8] {
        self.rest
            .get(self.layout.payload.clone())
            .unwrap_or_default()
    }
}

impl fmt::Debug for RtpPacket<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RtpPacket")
            .field("payload_type", &self.payload_type())
            .field("marker", &self.marker())
            .field("sequence_number", &self.sequence_number())
            .field("timestamp", &self.timestamp())
            .field("ssrc", &self.ssrc())
            .field("payload_octets", &self.payload().len())
            .finish()
    }
}

/// The same view of a packet that may be rewritten in place. Nothing it sets changes a length.
pub struct RtpPacketMut<'a> {
    header: &'a mut [u8; HEADER],
    rest: &'a mut [u8],
    layout: Layout,
}

impl<'a> RtpPacketMut<'a> {
    /// See [`RtpPacket::parse`].
    pub fn parse(bytes: &'a mut [u8]) -> Result<Self, RtpError> {
        let length = bytes.len();
        let (header, rest) = bytes
            .split_first_chunk_mut::<HEADER>()
            .ok_or(RtpError::TooShort(length))?;
        let layout = Layout::check(header, rest)?;
        Ok(RtpPacketMut {
            header,
            rest,
            layout,
        })
    }

    /// The packet as it is now.
    pub fn view(&self) -> RtpPacket<'_> {
        RtpPacket {
            header: self.header,
            rest: self.rest,
            layout: self.layout.clone(),
        }
    }

    /// Sets the payload type (its low 7 bits count) and leaves the marker bit.
    pub fn set_payload_type(&mut self, payload_type: u8) {
        self.header[1] = (self.header[1] & 0x80) | (payload_type & 0x7f);
    }

    pub fn set_marker(&mut self, marker: bool) {
        self.header[1] = (self.header[1] & 0x7f) | (u8::from(marker) << 7);
    }

    pub fn set_sequence_number(&mut self, sequence_number: u16) {
        [self.header[2], self.header[3]] = sequence_number.to_be_bytes();
    }

    pub fn set_timestamp(&mut self, timestamp: u32) {
        let h = &mut *self.header;
        [h[4], h[5], h[6], h[7]] = timestamp.to_be_bytes();
    }

    pub fn set_ssrc(&mut self, ssrc: u32) {
        let h = &mut *self.header;
        [h[8], h[9], h[10], h[11]] = ssrc.to_be_bytes();
    }

    /// The payload without padding.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.rest
            .get_mut(self.layout.payload.clone())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(first: u8) -> Vec<u8> {
        vec![
            first, 0xe5, 0x12, 0x34, 0, 0, 1, 0x40, 0xde, 0xad, 0xbe, 0xef,
        ]
    }

    #[test]
    fn fields_are_where_rfc_3550_puts_them() {
        let mut bytes = header(0x80);
        bytes.extend(b"speech");
        let packet = RtpPacket::parse(&bytes).unwrap();
        assert!(packet.marker());
        assert_eq!(packet.payload_type(), 101);
        assert_eq!(packet.sequence_number(), 0x1234);
        assert_eq!(packet.timestamp(), 320);
        assert_eq!(packet.ssrc(), 0xdead_beef);
        assert_eq!(packet.csrcs().count(), 0);
        assert_eq!(packet.extension(), None);
        assert_eq!(packet.payload(), b"speech");
    }

    #[test]
    fn csrcs_extension_and_padding_are_taken_off_the_payload() {
        let mut bytes = header(0xb2);
        bytes.extend([0, 0, 0, 7, 0, 0, 0, 8]);
        bytes.extend([0xbe, 0xde, 0, 1, 1, 2, 3, 4]);
        bytes.extend(b"speech");
        bytes.extend([0, 0, 3]);
        let packet = RtpPacket::parse(&bytes).unwrap();
        assert_eq!(packet.csrcs().collect::<Vec<_>>(), [7, 8]);
        assert_eq!(packet.extension(), Some((0xbede, &[1, 2, 3, 4][..])));
        assert_eq!(packet.payload(), b"speech");
    }

    #[test]
    fn each_fault_has_its_name() {
        let error = |bytes: &[u8]| RtpPacket::parse(bytes).unwrap_err();
        assert_eq!(error(&[0x80; 11]), RtpError::TooShort(11));
        assert_eq!(error(&header(0x40)), RtpError::Version(1));
        assert_eq!(error(&header(0xc0)), RtpError::Version(3));
        assert_eq!(error(&header(0x81)), RtpError::CsrcTruncated);
        assert_eq!(error(&header(0x90)), RtpError::ExtensionTruncated);
        let mut lying = header(0x90);
        lying.extend([0, 0, 0, 2, 1, 2, 3, 4]);
        assert_eq!(error(&lying), RtpError::ExtensionTruncated);
        assert_eq!(error(&header(0xa0)), RtpError::Padding);
        for count in [0, 3] {
            let mut padded = header(0xa0);
            padded.extend([9, count]);
            assert_eq!(error(&padded), RtpError::Padding, "{count} of 2");
        }
    }

    #[test]
    fn a_packet_of_padding_alone_is_a_keep_alive() {
        let mut bytes = header(0xa0);
        bytes.extend([0, 2]);
        assert_eq!(RtpPacket::parse(&bytes).unwrap().payload(), b"");
    }

    /// RFC 3550 §5.1, read a second time: (CSRCs, extension octets, payload) or `None` for a malformed packet.
    fn reference(bytes: &[u8]) -> Option<(usize, usize, &[u8])> {
        if bytes.len() < 12 || bytes[0] >> 6 != 2 {
            return None;
        }
        let csrcs = usize::from(bytes[0] & 15);
        let mut at = 12 + csrcs * 4;
        let mut extension = 0;
        if bytes[0] & 16 != 0 {
            if bytes.len() < at + 4 {
                return None;
            }
            extension = (usize::from(bytes[at + 2]) * 256 + usize::from(bytes[at + 3])) * 4;
            at += 4 + extension;
        }
        if at > bytes.len() {
            return None;
        }
        let mut end = bytes.len();
        if bytes[0] & 32 != 0 {
            let padding = usize::from(*bytes.last()?);
            if padding == 0 || end - at < padding {
                return None;
            }
            end -= padding;
        }
        Some((csrcs, extension, &bytes[at..end]))
    }

    /// Arbitrary bytes rarely have version 2 and a length that fits: these often do.
    fn nearly_rtp() -> impl Strategy<Value = Vec<u8>> {
        (0x80u8..=0xff, proptest::collection::vec(any::<u8>(), 0..96)).prop_map(
            |(first, mut bytes)| {
                if let Some(byte) = bytes.first_mut() {
                    *byte = first & 0xbf;
                }
                // A short extension length and padding count make well-formed packets likely.
                let csrcs = usize::from(first & 15) * 4;
                if let Some(high) = bytes.get_mut(12 + csrcs + 2) {
                    *high = 0;
                }
                if let Some(low) = bytes.get_mut(12 + csrcs + 3) {
                    *low &= 3;
                }
                if let Some(last) = bytes.last_mut() {
                    *last &= 7;
                }
                bytes
            },
        )
    }

    proptest! {
        #[test]
        fn any_bytes_get_the_verdict_of_the_reference(
            bytes in prop_oneof![nearly_rtp(), proptest::collection::vec(any::<u8>(), 0..64)]
        ) {
            let parsed = RtpPacket::parse(&bytes).ok();
            let seen = parsed.as_ref().map(|p| {
                (p.csrcs().count(), p.extension().map_or(0, |(_, data)| data.len()), p.payload())
            });
            prop_assert_eq!(seen, reference(&bytes));
        }

        #[test]
        fn what_is_set_is_read_and_nothing_else_changes(
            bytes in nearly_rtp(), pt: u8, marker: bool, seq: u16, timestamp: u32, ssrc: u32
        ) {
            let mut changed = bytes.clone();
            let Ok(mut packet) = RtpPacketMut::parse(&mut changed) else { return Ok(()) };
            packet.set_payload_type(pt);
            packet.set_marker(marker);
            packet.set_sequence_number(seq);
            packet.set_timestamp(timestamp);
            packet.set_ssrc(ssrc);
            packet.payload_mut().fill(0x55);
            let view = packet.view();
            prop_assert_eq!(view.payload_type(), pt & 0x7f);
            prop_assert_eq!(view.marker(), marker);
            prop_assert_eq!(view.sequence_number(), seq);
            prop_assert_eq!(view.timestamp(), timestamp);
            prop_assert_eq!(view.ssrc(), ssrc);
            prop_assert!(view.payload().iter().all(|&octet| octet == 0x55));
            let before = RtpPacket::parse(&bytes).unwrap();
            let after = RtpPacket::parse(&changed).unwrap();
            prop_assert_eq!(bytes[0], changed[0]);
            prop_assert_eq!(before.csrcs().collect::<Vec<_>>(), after.csrcs().collect::<Vec<_>>());
            prop_assert_eq!(before.extension(), after.extension());
            prop_assert_eq!(before.payload().len(), after.payload().len());
        }
    }
}
