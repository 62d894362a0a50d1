//! Media datagrams: lost, repeated and out of order.

use super::{Happening, Net};
use bytes::Bytes;
use edge_proto::time::Duration;
use std::net::SocketAddr;

/// One UDP datagram of media.
#[derive(Clone, Debug)]
pub struct Packet {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub bytes: Bytes,
}

impl Net {
    /// Sends a datagram to the edge, or from it to a peer.
    pub fn send_packet(&mut self, packet: Packet, to_edge: bool) {
        let knobs = self.scenario.network.clone();
        if self.dice.chance(knobs.lose) {
            return self.coverage.hit("net: packet lost");
        }
        let mut copies = 1;
        if self.dice.chance(knobs.duplicate) {
            self.coverage.hit("net: packet duplicated");
            copies = 2;
        }
        for _ in 0..copies {
            let mut delay = Duration::from_micros(200 + u64::from(self.dice.below(800)));
            if self.dice.chance(knobs.reorder) {
                self.coverage.hit("net: packet delayed past others");
                delay += self.dice.millis(1, 900);
            }
            let what = match to_edge {
                true => Happening::PacketToEdge(packet.clone()),
                false => Happening::PacketToPeer,
            };
            self.after(delay, what);
        }
    }
}
