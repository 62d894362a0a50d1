//! Those who belong to no call: strangers who signal or spray RTP, and listed hosts that send noise.

use super::Peers;
use super::media::{self, STRANGER};
use super::ua::parsed;
use crate::net::{Happening, Net, Packet};
use crate::scenario::{HostId, Side};
use bytes::Bytes;
use edge_proto::config::Transport;
use edge_proto::id::ConnectionId;
use edge_proto::time::Duration;
use std::net::SocketAddr;

/// What they do.
#[derive(Clone, Debug)]
pub enum Prank {
    /// An unlisted source sends an INVITE.
    Intrude,
    /// A listed source sends something that is not SIP, or is broken.
    Noise,
    /// A listed source connects and says nothing, or leaves in the middle of a message.
    Half,
    /// A listed source opens more connections than a core may hold, and leaves after a while.
    Crowd,
    /// One of them closes its connection.
    Leave(ConnectionId),
    /// A listed source asks whether we live.
    Probe,
    /// RTP from nowhere to ports that are in use.
    Spray,
    /// All peers go home.
    Curfew,
}

/// Plans the pranks of a run.
pub fn plan(net: &mut Net) {
    let span = net.scenario.span.as_millis() as u32 + 30_000;
    for (prank, most) in [
        (Prank::Intrude, 3),
        (Prank::Noise, 6),
        (Prank::Half, 4),
        (Prank::Probe, 3),
        (Prank::Crowd, 1),
        (Prank::Spray, 40),
    ] {
        for _ in 0..net.dice.between(0, most) {
            let at = net.dice.millis(0, span);
            net.after(at, Happening::Prank(prank.clone()));
        }
    }
}

/// Bytes that are no SIP, or SIP that nobody should take.
const NOISE: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: example.net\r\n\r\n",
    "\0\0\0\0\0\0\0\0",
    "INVITE sip:+1999000001@192.0.2.1 SIP/2.0\r\nVia: x\r\nContent-Length: 0\r\n\r\n",
    "INVITE sip:+1999000001@192.0.2.1 SIP/2.0\r\nContent-Length: 99999999999\r\n\r\n",
    "SIP/2.0 200 OK\r\nVia: SIP/2.0/TCP 192.0.2.1:5060;branch=z9hG4bK00ffffffffffffffffffffffff\r\nFrom: <sip:a@192.0.2.1>;tag=a\r\nTo: <sip:b@192.0.2.1>;tag=b\r\nCall-ID: nobody\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n",
    "BYE sip:edge@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/TCP 198.51.100.1;branch=z9hG4bKforged\r\nMax-Forwards: 70\r\nFrom: <sip:a@192.0.2.1>;tag=a\r\nTo: <sip:b@192.0.2.1>;tag=00deadbeefdeadbeefdeadbeefdeadbeef\r\nCall-ID: nobody\r\nCSeq: 1 BYE\r\nContent-Length: 0\r\n\r\n",
    "\r\n\r\n",
    "REFER sip:edge@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/TCP 198.51.100.1;branch=z9hG4bKrefer\r\nMax-Forwards: 70\r\nFrom: <sip:a@192.0.2.1>;tag=a\r\nTo: <sip:b@192.0.2.1>\r\nCall-ID: nobody\r\nCSeq: 1 REFER\r\nContact: <sip:a@198.51.100.1>\r\nRefer-To: <sip:+1234567890@edge.example.net>\r\nContent-Length: 0\r\n\r\n",
];

impl Peers {
    /// Does it. `ports` are the media ports that the edge holds open.
    pub fn prank(&mut self, net: &mut Net, prank: Prank, ports: &[SocketAddr]) {
        match prank {
            Prank::Intrude => {
                net.coverage.hit("prank: unlisted source");
                let strangers: Vec<HostId> = net.scenario.places.hosts_of(Side::Stranger).collect();
                let host = *net.dice.pick(&strangers);
                let conn = net.open_apart(host);
                let text = invite_of(net, host);
                net.peer_send(conn, &parsed(text));
            }
            Prank::Noise => {
                net.coverage.hit("prank: noise");
                let host = listed(net);
                let conn = net.open_apart(host);
                let noise = *net.dice.pick(NOISE);
                net.peer_write(conn, Bytes::from_static(noise.as_bytes()));
            }
            Prank::Half => {
                net.coverage.hit("prank: half a message");
                let host = listed(net);
                let conn = net.open_apart(host);
                let text = invite_of(net, host);
                let half = net.dice.below(text.len() as u32) as usize;
                net.peer_write(conn, Bytes::from(text).slice(..half));
                if net.dice.chance(500) {
                    net.peer_close(conn);
                }
            }
            Prank::Crowd => {
                net.coverage.hit("prank: crowd of connections");
                let host = listed(net);
                for _ in 0..60 {
                    let conn = net.open_apart(host);
                    let stay = net.dice.millis(5_000, 20_000);
                    net.after(stay, Happening::Prank(Prank::Leave(conn)));
                }
            }
            Prank::Leave(conn) => net.peer_close(conn),
            Prank::Probe => {
                net.coverage.hit("prank: OPTIONS");
                let host = listed(net);
                let conn = net.open_apart(host);
                let text = invite_of(net, host).replace("INVITE", "OPTIONS");
                net.peer_send(conn, &parsed(text));
            }
            Prank::Spray => spray(net, ports),
            Prank::Curfew => self.curfew(net),
        }
    }
}

fn listed(net: &mut Net) -> HostId {
    let side = *net.dice.pick(&Side::TRUNKS);
    let hosts: Vec<HostId> = net.scenario.places.hosts_of(side).collect();
    *net.dice.pick(&hosts)
}

fn invite_of(net: &mut Net, host: HostId) -> String {
    let edge = net.scenario.places.listener_for(host).1;
    let host = &net.scenario.places.hosts[host];
    let transport = match host.transport {
        Transport::Tls => "TLS",
        _ => "TCP",
    };
    let address = host.address;
    let word = net.dice.word();
    format!(
        "INVITE sip:+1999999999@{edge} SIP/2.0\r\nVia: SIP/2.0/{transport} {address};branch=z9hG4bKprank{word}\r\nMax-Forwards: 70\r\nFrom: <sip:+1555999999@192.0.2.1>;tag=prank{word}\r\nTo: <sip:+1999999999@192.0.2.1>\r\nCall-ID: prank-{word}\r\nCSeq: 1 INVITE\r\nContact: <sip:x@{address}>\r\nContent-Length: 0\r\n\r\n"
    )
}

fn spray(net: &mut Net, ports: &[SocketAddr]) {
    if ports.is_empty() {
        return;
    }
    net.coverage.hit("prank: RTP sprayed");
    for round in 0..6u16 {
        let destination = *net.dice.pick(ports);
        let source = media::stranger_address(&net.scenario.places, destination.is_ipv6());
        let bytes = match destination.port().is_multiple_of(2) {
            true => media::rtp(STRANGER, 0, round),
            false => media::rtcp(STRANGER),
        };
        let packet = Packet {
            source,
            destination,
            bytes,
        };
        let delay = net.dice.millis(0, 500) + Duration::from_millis(u64::from(round));
        net.after(delay, Happening::PacketToEdge(packet));
    }
}
