//! The worker's dealings with the ways past the kernel's IP.

use super::Worker;
use crate::media::buffers::Buffer;
use crate::media::headers::{self, ETHERNET};
use crate::media::link::table::Change;
use edge_proto::id::AllocationId;
use edge_proto::relay::{Component, DropReason};
use std::net::SocketAddr;
use std::ops::Range;

impl Worker {
    /// Takes what has become of the ways, and of the frames that were given to them.
    pub(super) fn take_ways(&mut self) {
        let Some(ways) = &mut self.ways else { return };
        // Before a link of the same number takes its place.
        while let Some(failed) = self.ring.take_failed_link() {
            ways.close(failed.link, failed.sender, failed.error);
        }
        while let Some(Change::Open { link, sender }) = ways.update() {
            if let Some(before) = self.ring.open_link(link, sender) {
                ways.retire(before);
            }
        }
        let lost = self.ring.take_link_losses();
        if lost > 0 {
            self.counters.send_errors.add(lost);
            self.counters.drop_packets(DropReason::SendFailed, lost);
        }
    }

    /// `peer` is where the packets of this part of the flow go to from now on; `None`: that is not settled. RTCP has no way: it keeps the
    /// kernel's view of the neighbour fresh.
    pub(super) fn lead(
        &mut self,
        allocation: AllocationId,
        component: Component,
        peer: Option<SocketAddr>,
    ) {
        if component != Component::Rtp || self.ways.is_none() {
            return;
        }
        let Some(local) = self.flow_mut(allocation).map(|flow| flow.local) else {
            return;
        };
        if let Some(ways) = &mut self.ways {
            match peer {
                Some(peer) => ways.follow(allocation.slot, local.ip(), peer.ip()),
                None => ways.leave(allocation.slot),
            }
        }
    }

    /// Sends a packet that has its IP and UDP headers past the kernel's IP, if there is a way. Otherwise hands it back.
    pub(super) fn send_by_link(
        &mut self,
        to: AllocationId,
        component: Component,
        buffer: Buffer,
        packet: Range<usize>,
    ) -> Option<Buffer> {
        let way = match (&self.ways, component) {
            (Some(ways), Component::Rtp) => ways.way(to.slot),
            _ => None,
        };
        let (Some(way), Some(start)) = (way, packet.start.checked_sub(ETHERNET)) else {
            return Some(buffer);
        };
        let frame = start..packet.end;
        let written = self
            .ring
            .bytes(&buffer, frame.clone())
            .is_some_and(|octets| headers::write_ethernet(octets, &way.header));
        if !written {
            return Some(buffer);
        }
        match self.ring.send_by_link(way.link, buffer, frame) {
            Ok(()) => {
                self.counters.io_uring.sent.add(1);
                self.counters.sent_by_link.add(1);
                None
            }
            Err(buffer) => Some(buffer),
        }
    }
}
