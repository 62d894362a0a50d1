//! One packet's way through the worker: found in its buffer, judged, and sent from there.

use super::super::buffers::Buffer;
use super::super::token::{Kind, Token};
use super::{Worker, endpoint};
use edge_proto::id::AllocationId;
use edge_proto::relay::{Component, DropReason, Verdict};
use edge_proto::time::Instant;
use std::net::SocketAddr;
use std::ops::Range;

/// A packet in its buffer.
struct Packet {
    source: SocketAddr,
    payload: Range<usize>,
    truncated: bool,
    /// When the kernel received it (nanoseconds of the wall clock), if its leg is one of those that are sampled.
    stamp: Option<u64>,
}

/// A packet that has to be sent.
struct Forward {
    to: AllocationId,
    component: Component,
    destination: SocketAddr,
    payload: Range<usize>,
}

impl Worker {
    pub(super) fn receive(&mut self, now: Instant, token: Token, buffer: Buffer, length: usize) {
        self.counters.io_uring.received.add(1);
        match self.judge(now, token, &buffer, length) {
            Ok(forward) => self.send(forward, buffer),
            Err(reason) => {
                self.counters.drop_packet(reason);
                self.ring.recycle(buffer);
            }
        }
    }

    /// Asks the relay about a received packet.
    fn judge(
        &mut self,
        now: Instant,
        token: Token,
        buffer: &Buffer,
        length: usize,
    ) -> Result<Forward, DropReason> {
        let Token {
            allocation,
            component,
            ..
        } = token;
        let packet = self
            .packet(token, buffer, length)
            .ok_or(DropReason::NoAllocation)?;
        if packet.truncated {
            return Err(DropReason::Truncated);
        }
        let bytes = self
            .ring
            .bytes(buffer, packet.payload.clone())
            .ok_or(DropReason::Truncated)?;
        #[cfg(test)]
        self.addresses.push((bytes.as_ptr().addr(), 0));
        let verdict = self
            .relay
            .relay(now, allocation, component, packet.source, bytes);
        match verdict {
            Verdict::Forward {
                to,
                component,
                destination,
            } => {
                if let Some(stamp) = packet.stamp {
                    self.latency.note(now, stamp);
                }
                Ok(Forward {
                    to,
                    component,
                    destination,
                    payload: packet.payload,
                })
            }
            Verdict::Drop(reason) => Err(reason),
        }
    }

    /// Finds the datagram in its buffer, and who sent it; `None` when its allocation is gone.
    fn packet(&mut self, token: Token, buffer: &Buffer, length: usize) -> Option<Packet> {
        let from = endpoint(&mut self.flows, token.allocation, token.component)?;
        from.heard();
        match token.kind {
            Kind::ReceiveFrom => {
                let received = self.ring.received_from(buffer, length)?;
                Some(Packet {
                    source: received.source,
                    payload: received.payload,
                    truncated: received.truncated,
                    stamp: None,
                })
            }
            Kind::ReceiveStamped => {
                let source = from.connected()?;
                let received = self.ring.received_stamped(buffer, length)?;
                Some(Packet {
                    source,
                    payload: received.payload,
                    truncated: received.truncated,
                    stamp: received.at,
                })
            }
            _ => Some(Packet {
                source: from.connected()?,
                payload: 0..length,
                // A plain receive does not tell; no packet of a real network is as large as a buffer.
                truncated: length >= self.ring.buffer_bytes(),
                stamp: None,
            }),
        }
    }

    fn send(&mut self, forward: Forward, buffer: Buffer) {
        let Forward {
            to,
            component,
            destination,
            payload,
        } = forward;
        #[cfg(test)]
        if let (Some(last), Some(bytes)) = (
            self.addresses.last_mut(),
            self.ring.bytes(&buffer, payload.clone()),
        ) {
            last.1 = bytes.as_ptr().addr();
        }
        let refused = match endpoint(&mut self.flows, to, component) {
            Some(endpoint) => {
                let address = (endpoint.connected() != Some(destination)).then_some(destination);
                let token = endpoint.token(Kind::Send);
                self.ring
                    .send(endpoint.file(), token, buffer, payload, address)
                    .err()
            }
            None => Some(buffer),
        };
        match refused {
            None => self.counters.io_uring.sent.add(1),
            Some(buffer) => {
                self.counters.drop_packet(DropReason::SendFailed);
                self.ring.recycle(buffer);
            }
        }
    }
}
