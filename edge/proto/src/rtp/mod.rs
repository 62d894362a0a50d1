//! Views of RTP and RTCP packets over borrowed bytes (RFC 3550). Nothing is copied, and no byte sequence panics.

mod packet;
mod rtcp;

pub use packet::{RtpError, RtpPacket, RtpPacketMut};
pub use rtcp::{RtcpCompound, RtcpError, RtcpPacket, RtcpPackets, packet_type};

/// The protocol version in the top two bits of every RTP and RTCP packet (RFC 3550 §5.1).
pub const VERSION: u8 = 2;

/// Whether a packet with version 2 is RTCP rather than RTP, judged by its second octet (RFC 5761 §4).
///
/// RTCP packet types 192-223 are the RTP payload types 64-95 with the marker bit, which RFC 3551 keeps free for this.
pub fn is_rtcp(packet: &[u8]) -> bool {
    packet
        .get(1)
        .is_some_and(|octet| (192..=223).contains(octet))
}
