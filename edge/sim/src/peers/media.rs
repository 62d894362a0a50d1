//! What peers say and hear: RTP and RTCP whose payload tells whose it is.

use super::sdp::{self, Audio};
use super::ua::{Phase, Ua};
use super::{Act, UaId};
use crate::net::{Net, Packet};
use crate::scenario::{Places, Side};
use bytes::Bytes;
use edge_proto::time::Duration;
use std::net::SocketAddr;

/// RTP of party N comes from this port + 4 * N, wherever it speaks from.
const FIRST_PORT: u32 = 30_000;
/// Marks a payload of ours.
const MAGIC: [u8; 4] = *b"sim!";
/// Who sprays.
pub const STRANGER: UaId = u32::MAX;

/// One party's media.
#[derive(Clone, Debug, Default)]
pub struct Media {
    /// Where its SDP says it receives.
    pub described: Option<SocketAddr>,
    /// Where it really speaks from: elsewhere behind NAT.
    pub source: Option<SocketAddr>,
    /// The edge's side of it.
    pub remote: Option<Audio>,
    pub speech: Vec<u8>,
    pub events: Option<u8>,
    /// The direction that its own description says.
    pub direction: &'static str,
    pub version: u32,
    /// It never says a word.
    pub mute: bool,
    /// Talk is planned.
    pub talking: bool,
    sequence: u16,
}

impl Media {
    /// Its description.
    pub fn offer(&mut self) -> String {
        self.version += 1;
        let Some(rtp) = self.described else {
            return String::new();
        };
        sdp::write(rtp, self.version, &self.speech, self.events, self.direction)
    }

    /// Its answer to an offer; `None`: nothing fits.
    pub fn answer(&mut self, offer: &Audio, first_only: bool) -> Option<String> {
        let mut chosen: Vec<u8> = offer
            .formats
            .iter()
            .copied()
            .filter(|format| self.speech.contains(format))
            .collect();
        if first_only {
            chosen.truncate(1);
        }
        if chosen.is_empty() {
            return None;
        }
        self.version += 1;
        let direction = match (offer.sends, offer.receives) {
            (true, true) => "sendrecv",
            (true, false) => "recvonly",
            (false, true) => "sendonly",
            (false, false) => "inactive",
        };
        self.direction = direction;
        let rtp = self.described?;
        Some(sdp::write(
            rtp,
            self.version,
            &chosen,
            offer.events,
            direction,
        ))
    }

    fn speaks(&self) -> bool {
        matches!(self.direction, "sendrecv" | "sendonly") && !self.mute
    }
}

/// Gives a party its addresses.
pub fn settle(net: &mut Net, ua: &mut Ua) {
    let places = &net.scenario.places;
    let signalling = places.hosts[ua.host].address.ip();
    let port = (FIRST_PORT + 4 * ua.id) as u16;
    let public = SocketAddr::new(
        crate::scenario::media_address(ua.id, signalling.is_ipv6()),
        port,
    );
    // Behind NAT, media comes from the signalling address and another port than the SDP says.
    let natted = net.dice.chance(150);
    ua.media.described = Some(public);
    ua.media.source = Some(match natted {
        true => SocketAddr::new(signalling, port),
        false => public,
    });
    ua.media.direction = "sendrecv";
    ua.media.mute = net.rude(60);
    ua.media.events = net.dice.chance(700).then_some(101);
    ua.media.speech = match net.dice.below(5) {
        0 => vec![sdp::PCMU],
        1 => vec![sdp::PCMA, sdp::PCMU],
        2 => vec![sdp::G722, sdp::PCMU, sdp::PCMA],
        _ => vec![sdp::PCMU, sdp::PCMA],
    };
    if ua.side == Side::Carrier && net.rude(25) {
        // Nothing that any trunk takes.
        ua.media.speech = vec![111];
    }
}

/// Moves a party to other ports of the same address.
pub fn move_ports(ua: &mut Ua) {
    for address in [&mut ua.media.described, &mut ua.media.source]
        .into_iter()
        .flatten()
    {
        let port = address.port();
        address.set_port(port ^ 2);
    }
}

/// The party that a media address of a peer belongs to.
pub fn party_at(address: SocketAddr) -> Option<UaId> {
    let port = u32::from(address.port());
    port.checked_sub(FIRST_PORT).map(|offset| offset / 4)
}

/// The media address that strangers speak from.
pub fn stranger_address(places: &Places, v6: bool) -> SocketAddr {
    let host = places
        .hosts
        .iter()
        .find(|host| host.side == Side::Stranger && host.address.is_ipv6() == v6);
    let ip = host.map(|host| host.address.ip());
    SocketAddr::new(
        ip.unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
        40_000,
    )
}

/// An RTP packet of a party.
pub fn rtp(party: UaId, payload_type: u8, sequence: u16) -> Bytes {
    let mut packet = vec![0x80, payload_type & 0x7f];
    packet.extend(sequence.to_be_bytes());
    packet.extend((u32::from(sequence) * 160).to_be_bytes());
    packet.extend(party.to_be_bytes());
    packet.extend(MAGIC);
    packet.extend(party.to_be_bytes());
    packet.extend([0xd5; 24]);
    Bytes::from(packet)
}

/// A receiver report and a source description of a party.
pub fn rtcp(party: UaId) -> Bytes {
    let mut packet = vec![0x80, 201, 0, 1];
    packet.extend(party.to_be_bytes());
    // SDES with one chunk: SSRC, CNAME of 8 octets, end and padding.
    packet.extend([0x81, 202, 0, 4]);
    packet.extend(party.to_be_bytes());
    packet.extend([1, 8]);
    packet.extend(MAGIC);
    packet.extend(party.to_be_bytes());
    packet.extend([0, 0]);
    Bytes::from(packet)
}

/// Whose packet it is, by what it carries.
pub fn speaker(packet: &[u8]) -> Option<UaId> {
    let at = packet
        .windows(MAGIC.len())
        .position(|window| window == MAGIC)?;
    let bytes = packet.get(at + 4..at + 8)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// Says one packet, and plans the next.
pub fn talk(net: &mut Net, ua: &mut Ua) {
    ua.media.talking = false;
    let live = matches!(ua.phase, Phase::Up | Phase::Called | Phase::Calling) && !ua.vanished;
    let (Some(remote), Some(source)) = (ua.media.remote.clone(), ua.media.source) else {
        return;
    };
    if !live || ua.bye_sent {
        return;
    }
    if ua.media.speaks() {
        ua.media.sequence = ua.media.sequence.wrapping_add(1);
        let events = ua.media.events.filter(|_| net.dice.chance(50));
        let speech = remote.formats.first().copied().unwrap_or_default();
        let packet = Packet {
            source,
            destination: remote.rtp,
            bytes: rtp(ua.id, events.unwrap_or(speech), ua.media.sequence),
        };
        net.send_packet(packet, true);
    }
    if net.dice.chance(150) {
        let port = |address: SocketAddr| SocketAddr::new(address.ip(), address.port() + 1);
        let packet = Packet {
            source: port(source),
            destination: port(remote.rtp),
            bytes: rtcp(ua.id),
        };
        net.send_packet(packet, true);
    }
    start(net, ua);
}

/// Plans the next packet where none is planned.
pub fn start(net: &mut Net, ua: &mut Ua) {
    if !ua.media.talking && ua.media.remote.is_some() {
        ua.media.talking = true;
        let delay = net.dice.millis(300, 500);
        ua.plan(net, delay.max(Duration::from_millis(1)), Act::Talk);
    }
}

/// Takes in the edge's description.
pub fn hear(net: &mut Net, ua: &mut Ua, body: &str) {
    if let Some(audio) = sdp::read(body) {
        ua.media.remote = Some(audio);
        start(net, ua);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge_proto::rtp::{RtcpCompound, RtpPacket};

    #[test]
    fn packets_are_valid_and_tell_their_speaker() {
        let packet = rtp(0x0102_0304, 8, 77);
        let view = RtpPacket::parse(&packet).unwrap();
        assert_eq!((view.payload_type(), view.sequence_number()), (8, 77));
        assert_eq!(speaker(&packet), Some(0x0102_0304));
        let report = rtcp(9);
        assert_eq!(RtcpCompound::parse(&report).unwrap().sender(), Some(9));
        assert_eq!(speaker(&report), Some(9));
        assert_eq!(speaker(b"nobody's"), None);
    }
}
