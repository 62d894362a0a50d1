//! One packet's way through the worker: found in its buffer, judged, and sent from there.

use super::super::buffers::Buffer;
use super::super::headers;
use super::super::token::{Kind, Token};
use super::Worker;
use super::flows::endpoint;
use edge_proto::id::AllocationId;
use edge_proto::relay::{Component, DropReason, Verdict};
use edge_proto::time::Instant;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;

/// A packet in its buffer.
struct Packet {
    /// Whose it is.
    allocation: AllocationId,
    component: Component,
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
    local: SocketAddr,
    destination: SocketAddr,
    payload: Range<usize>,
}

impl Worker {
    pub(super) fn receive(&mut self, now: Instant, token: Token, buffer: Buffer, length: usize) {
        self.counters.io_uring.received.add(1);
        match self.judge(now, token, &buffer, length) {
            Ok(forward) => self.send(now, forward, buffer),
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
        let verdict = self.relay.relay(
            now,
            packet.allocation,
            packet.component,
            packet.source,
            bytes,
        );
        match verdict {
            Verdict::Forward {
                to,
                component,
                local,
                destination,
            } => {
                if let Some(stamp) = packet.stamp {
                    self.latency.note(now, stamp);
                }
                Ok(Forward {
                    to,
                    component,
                    local,
                    destination,
                    payload: packet.payload,
                })
            }
            Verdict::Drop(reason) => Err(reason),
        }
    }

    /// Finds the datagram in its buffer, and whose it is; `None` when its allocation is gone.
    fn packet(&mut self, token: Token, buffer: &Buffer, length: usize) -> Option<Packet> {
        if token.kind == Kind::ReceiveShared {
            let hub = self.hub.as_ref()?;
            let shape = hub.shape(token.allocation.slot)?;
            let received = self.ring.received_shared(buffer, length, shape)?;
            let (allocation, component) = hub.owner(received.local)?;
            return Some(Packet {
                allocation,
                component,
                source: received.source,
                payload: received.payload,
                truncated: received.truncated,
                stamp: received.at,
            });
        }
        let from = endpoint(&mut self.flows, token.allocation, token.component)?;
        from.heard();
        let packet = |source, payload, truncated, stamp| Packet {
            allocation: token.allocation,
            component: token.component,
            source,
            payload,
            truncated,
            stamp,
        };
        Some(match token.kind {
            Kind::ReceiveFrom => {
                let received = self.ring.received_from(buffer, length)?;
                packet(received.source, received.payload, received.truncated, None)
            }
            Kind::ReceiveStamped => {
                let source = from.connected()?;
                let received = self.ring.received_stamped(buffer, length)?;
                packet(source, received.payload, received.truncated, received.at)
            }
            // A plain receive does not tell whether it was cut; no packet of a real network is as large as a buffer.
            _ => packet(
                from.connected()?,
                0..length,
                length >= self.ring.buffer_bytes(),
                None,
            ),
        })
    }

    fn send(&mut self, now: Instant, forward: Forward, buffer: Buffer) {
        let Forward {
            to,
            component,
            local,
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
        if let Some(file) = self.hub.as_ref().and_then(|hub| hub.sender(local))
            && let Some(start) = payload.start.checked_sub(headers::octets(local.ip()))
            && let Some(bytes) = self.ring.bytes(&buffer, start..payload.end)
            && headers::write(bytes, local, destination)
        {
            let Some(buffer) = self.send_by_link(to, component, buffer, start..payload.end) else {
                return;
            };
            let token = Token {
                kind: Kind::Send,
                allocation: to,
                component,
            };
            return self.send_raw(file, token, (buffer, start..payload.end), destination);
        }
        let refused = match self.own_sender(now, to, component) {
            Some(endpoint) => {
                let address = (endpoint.connected() != Some(destination)).then_some(destination);
                let (file, token) = (endpoint.file(), endpoint.token(Kind::Send));
                self.ring.send(file, token, buffer, payload, address).err()
            }
            None => Some(buffer),
        };
        self.sent(refused);
    }

    /// Sends a packet that has its headers by the socket that all flows share.
    fn send_raw(
        &mut self,
        file: u32,
        token: Token,
        (buffer, packet): (Buffer, Range<usize>),
        destination: SocketAddr,
    ) {
        // A raw socket's address has a protocol in the place of the port, or zero (raw(7)).
        let host = match destination {
            SocketAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(*v6.ip(), 0, 0, v6.scope_id())),
            SocketAddr::V4(v4) => SocketAddr::V4(SocketAddrV4::new(*v4.ip(), 0)),
        };
        let refused = self
            .ring
            .send(file, token, buffer, packet, Some(host))
            .err();
        self.sent(refused);
    }

    /// Counts a packet as sent, or as one that could not be.
    fn sent(&mut self, refused: Option<Buffer>) {
        match refused {
            None => self.counters.io_uring.sent.add(1),
            Some(buffer) => {
                self.counters.drop_packet(DropReason::SendFailed);
                self.ring.recycle(buffer);
            }
        }
    }
}
