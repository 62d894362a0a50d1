//! Addresses and packets that generator and relays agree on.
//!
//! A *leg* is one party of a call: a port of the generator and the relay's port for it. Legs 2k and 2k+1 are bridged. A *flow*
//! is one RTP stream: flow i is sent by leg i and comes back to leg i^1. With an odd number of flows the last call is one-way.

use std::net::{Ipv4Addr, SocketAddrV4};

pub const RELAY: Ipv4Addr = Ipv4Addr::new(10, 199, 0, 1);
/// Behind it are the generator's peers, as carriers and platforms are behind a router.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 199, 0, 2);
/// Of the network for benchmarks (RFC 2544).
pub const PEERS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
pub const PREFIX: u8 = 24;

/// The generator's first port, and the relay's; both even, RTCP is the next.
const PEER_PORTS: u16 = 10_000;
const RELAY_PORTS: u16 = 30_000;
/// The ports that a relay may choose from.
pub const RELAY_RANGE: (u16, u16) = (RELAY_PORTS, 49_999);

pub const MAX_FLOWS: u16 = 9_000;

/// UDP payload: an RTP header and 20 ms of G.711.
pub const PAYLOAD: usize = 172;
const ETHERNET: usize = 14;
const IP: usize = 20;
const UDP: usize = 8;
pub const FRAME: usize = ETHERNET + IP + UDP + PAYLOAD;
const RTP: usize = ETHERNET + IP + UDP;
/// Where the generator's own data is in the RTP payload.
const MARK: usize = RTP + 12;
const MAGIC: u32 = 0x5eed_ed9e;

/// Legs that `flows` flows need.
pub fn legs(flows: u16) -> u16 {
    flows.next_multiple_of(2)
}

pub fn peer(leg: u16) -> SocketAddrV4 {
    SocketAddrV4::new(PEERS, PEER_PORTS + leg * 2)
}

/// The relay's address for a leg, where the relay lets us choose.
pub fn local(leg: u16) -> SocketAddrV4 {
    SocketAddrV4::new(RELAY, RELAY_PORTS + leg * 2)
}

/// One flow's Ethernet frame, all but what changes from packet to packet.
pub fn frame(flow: u16, to: SocketAddrV4, macs: ([u8; 6], [u8; 6])) -> [u8; FRAME] {
    let mut frame = [0x55; FRAME];
    let (destination, source) = macs;
    frame[0..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let total = (IP + UDP + PAYLOAD) as u16;
    let ip = &mut frame[ETHERNET..ETHERNET + IP];
    ip.copy_from_slice(&[
        0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ]);
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[12..16].copy_from_slice(&PEERS.octets());
    ip[16..20].copy_from_slice(&to.ip().octets());
    let checksum = checksum(ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let udp = &mut frame[ETHERNET + IP..RTP];
    udp[0..2].copy_from_slice(&peer(flow).port().to_be_bytes());
    udp[2..4].copy_from_slice(&to.port().to_be_bytes());
    udp[4..6].copy_from_slice(&((UDP + PAYLOAD) as u16).to_be_bytes());
    // No checksum, which UDP over IPv4 allows.
    udp[6..8].fill(0);
    frame[RTP] = 0x80;
    frame[RTP + 1] = 0;
    frame[RTP + 8..RTP + 12].copy_from_slice(&(u32::from(flow) + 1).to_be_bytes());
    frame[MARK..MARK + 4].copy_from_slice(&MAGIC.to_be_bytes());
    frame[MARK + 4..MARK + 8].copy_from_slice(&u32::from(flow).to_be_bytes());
    frame
}

/// Makes a frame the flow's packet `number`, sent at `stamp` (nanoseconds of the wall clock).
pub fn stamp(frame: &mut [u8; FRAME], number: u64, stamp: u64) {
    frame[RTP + 2..RTP + 4].copy_from_slice(&(number as u16).to_be_bytes());
    frame[RTP + 4..RTP + 8].copy_from_slice(&((number as u32).wrapping_mul(160)).to_be_bytes());
    frame[MARK + 8..MARK + 16].copy_from_slice(&number.to_be_bytes());
    frame[MARK + 16..MARK + 24].copy_from_slice(&stamp.to_be_bytes());
}

/// What a frame that came back says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Returned {
    pub flow: u16,
    pub number: u64,
    pub stamp: u64,
}

/// Reads a frame (from its Ethernet header on) that the relay sent; `None` for anything else. A packet of a flow that came to a
/// leg which must not hear it is anything else too.
pub fn returned(frame: &[u8]) -> Option<Returned> {
    if frame.len() < MARK + 24 || frame[12..14] != [0x08, 0x00] || frame[ETHERNET] != 0x45 {
        return None;
    }
    let word = |at: usize| Some(u32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_be_bytes(frame.get(at..at + 8)?.try_into().ok()?));
    if frame[ETHERNET + 9] != 17 || word(MARK)? != MAGIC {
        return None;
    }
    let port = u16::from_be_bytes([frame[ETHERNET + IP + 2], frame[ETHERNET + IP + 3]]);
    let flow = u16::try_from(word(MARK + 4)?).ok()?;
    (flow < MAX_FLOWS && port == peer(flow ^ 1).port()).then_some(Returned {
        flow,
        number: long(MARK + 8)?,
        stamp: long(MARK + 16)?,
    })
}

fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

    #[test]
    fn a_frame_that_reaches_the_other_leg_is_read_back_and_no_other() {
        for flow in [0, 1, 6, MAX_FLOWS - 1] {
            let mut sent = frame(flow, local(flow), MACS);
            stamp(&mut sent, 70_000, 123_456_789);
            assert_eq!(returned(&sent), None, "it is on its way to the relay");
            sent[ETHERNET + IP + 2..ETHERNET + IP + 4]
                .copy_from_slice(&peer(flow ^ 1).port().to_be_bytes());
            let expected = Returned {
                flow,
                number: 70_000,
                stamp: 123_456_789,
            };
            assert_eq!(returned(&sent), Some(expected));
            assert_eq!(returned(&sent[..MARK + 20]), None);
            sent[MARK] ^= 1;
            assert_eq!(returned(&sent), None);
        }
    }

    #[test]
    fn the_ip_header_adds_up() {
        let frame = frame(3, local(3), MACS);
        assert_eq!(checksum(&frame[ETHERNET..ETHERNET + IP]), 0);
    }

    #[test]
    fn ports_of_all_legs_are_distinct_and_in_range() {
        let last = legs(MAX_FLOWS) - 1;
        assert!(peer(last).port() < RELAY_PORTS);
        assert!(local(last).port() < RELAY_RANGE.1);
    }
}
