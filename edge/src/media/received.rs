//! What a multishot recvmsg leaves in a provided buffer: a header, the source, control messages, and the datagram (io_uring_prep_recvmsg_multishot(3)).

use io_uring::types::RecvMsgOut;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ops::Range;

/// Room that each [`ReceivedFrom`] buffer keeps for the source.
const NAME_OCTETS: usize = std::mem::size_of::<libc::sockaddr_in6>();

/// Octets of `struct io_uring_recvmsg_out`, which precedes the source.
const RECVMSG_HEADER: usize = 16;

/// Room that each [`ReceivedStamped`] buffer keeps for the time of arrival: a control message with a timespec.
const STAMP_OCTETS: usize = CONTROL_HEADER + 16;

/// Octets of a `cmsghdr` on a 64-bit machine.
const CONTROL_HEADER: usize = 16;

/// A packet of a [`super::token::Kind::ReceiveFrom`] completion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReceivedFrom {
    pub source: SocketAddr,
    /// Where in the buffer the datagram is.
    pub payload: Range<usize>,
    pub truncated: bool,
}

/// A packet of a [`super::token::Kind::ReceiveStamped`] completion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReceivedStamped {
    /// Where in the buffer the datagram is.
    pub payload: Range<usize>,
    pub truncated: bool,
    /// When the kernel received it: nanoseconds of the wall clock. `None` where it does not say.
    pub at: Option<u64>,
}

/// A packet of a [`super::token::Kind::ReceiveShared`] completion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReceivedShared {
    pub source: SocketAddr,
    /// Where it was sent to.
    pub local: SocketAddr,
    /// Where in the buffer the datagram is.
    pub payload: Range<usize>,
    pub truncated: bool,
    /// When the kernel received it: nanoseconds of the wall clock. `None` for a socket that does not say.
    pub at: Option<u64>,
}

impl ReceivedFrom {
    /// Tells the kernel how much room each part needs.
    pub fn shape() -> libc::msghdr {
        shape(NAME_OCTETS, 0)
    }

    /// Takes apart the octets that a receive of that shape has written.
    pub fn read(bytes: &[u8], shape: &libc::msghdr) -> Option<Self> {
        let out = RecvMsgOut::parse(bytes, shape).ok()?;
        let start = RECVMSG_HEADER + NAME_OCTETS;
        Some(ReceivedFrom {
            source: socket_address(out.name_data())?,
            payload: start..start + out.payload_data().len(),
            truncated: out.is_payload_truncated(),
        })
    }
}

impl ReceivedStamped {
    /// See [`ReceivedFrom::shape`].
    pub fn shape() -> libc::msghdr {
        shape(0, STAMP_OCTETS)
    }

    /// See [`ReceivedFrom::read`].
    pub fn read(bytes: &[u8], shape: &libc::msghdr) -> Option<Self> {
        let out = RecvMsgOut::parse(bytes, shape).ok()?;
        let start = RECVMSG_HEADER + STAMP_OCTETS;
        Some(ReceivedStamped {
            payload: start..start + out.payload_data().len(),
            truncated: out.is_payload_truncated(),
            at: stamp(out.control_data()),
        })
    }
}

/// What a shared socket tells of each packet. As little as possible is set aside for it: what lies between header and payload costs memory
/// that the packet has to be fetched with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedShape {
    pub ipv6: bool,
    pub stamped: bool,
}

impl SharedShape {
    /// Every shape, in the order of [`SharedShape::index`].
    pub const ALL: [SharedShape; 4] = {
        const fn of(ipv6: bool, stamped: bool) -> SharedShape {
            SharedShape { ipv6, stamped }
        }
        [
            of(false, false),
            of(false, true),
            of(true, false),
            of(true, true),
        ]
    };

    pub const fn index(self) -> usize {
        (self.ipv6 as usize) * 2 + self.stamped as usize
    }

    /// Octets of the source, and of the control messages: the address that the packet was sent to, and the time of arrival.
    const fn octets(self) -> (usize, usize) {
        let address = if self.ipv6 {
            NAME_OCTETS
        } else {
            std::mem::size_of::<libc::sockaddr_in>()
        };
        let stamp = if self.stamped { STAMP_OCTETS } else { 0 };
        // Control messages are multiples of 8 octets.
        let control = (CONTROL_HEADER + address).next_multiple_of(8) + stamp;
        (address, control)
    }

    /// See [`ReceivedFrom::shape`].
    pub fn shape(self) -> libc::msghdr {
        let (name, control) = self.octets();
        shape(name, control)
    }
}

impl ReceivedShared {
    /// See [`ReceivedFrom::read`].
    pub fn read(bytes: &[u8], shape: &libc::msghdr) -> Option<Self> {
        let out = RecvMsgOut::parse(bytes, shape).ok()?;
        let start = RECVMSG_HEADER + shape.msg_namelen as usize + shape.msg_controllen;
        let (mut local, mut at) = (None, None);
        for message in control_messages(out.control_data()) {
            match (message.level, message.kind) {
                (libc::SOL_IP, libc::IP_ORIGDSTADDR) | (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR) => {
                    local = socket_address(message.data)
                }
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => at = timespec(message.data),
                _ => {}
            }
        }
        Some(ReceivedShared {
            source: socket_address(out.name_data())?,
            local: local?,
            payload: start..start + out.payload_data().len(),
            truncated: out.is_payload_truncated(),
            at,
        })
    }
}

/// Only the lengths matter: a multishot recvmsg puts everything into the buffer.
fn shape(name_octets: usize, control_octets: usize) -> libc::msghdr {
    // SAFETY: all zeros is a valid msghdr: null pointers and zero lengths.
    let mut shape: libc::msghdr = unsafe { std::mem::zeroed() };
    shape.msg_namelen = name_octets as libc::socklen_t;
    shape.msg_controllen = control_octets;
    shape
}

/// One control message (cmsg(3)).
struct ControlMessage<'a> {
    level: i32,
    kind: i32,
    data: &'a [u8],
}

/// The control messages of a packet; ends at the first that is none.
fn control_messages(mut control: &[u8]) -> impl Iterator<Item = ControlMessage<'_>> {
    std::iter::from_fn(move || {
        let (length, rest) = control.split_first_chunk::<8>()?;
        let (level, rest) = rest.split_first_chunk::<4>()?;
        let (kind, _) = rest.split_first_chunk::<4>()?;
        let length = usize::from_ne_bytes(*length);
        let data = control.get(CONTROL_HEADER..length)?;
        control = control
            .get(length.next_multiple_of(8)..)
            .unwrap_or_default();
        Some(ControlMessage {
            level: i32::from_ne_bytes(*level),
            kind: i32::from_ne_bytes(*kind),
            data,
        })
    })
}

/// The time that a socket with SO_TIMESTAMPNS adds: nanoseconds of the wall clock.
fn stamp(control: &[u8]) -> Option<u64> {
    let stamp = control_messages(control)
        .find(|m| (m.level, m.kind) == (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS))?;
    timespec(stamp.data)
}

/// Reads a `struct timespec`: nanoseconds.
fn timespec(data: &[u8]) -> Option<u64> {
    let (seconds, rest) = data.split_first_chunk::<8>()?;
    let nanos = rest.first_chunk::<8>()?;
    let seconds = u64::try_from(i64::from_ne_bytes(*seconds)).ok()?;
    let nanos = u64::try_from(i64::from_ne_bytes(*nanos)).ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// Reads a `sockaddr_in` or `sockaddr_in6`.
fn socket_address(name: &[u8]) -> Option<SocketAddr> {
    let (family, rest) = name.split_first_chunk::<2>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => {
            let address = rest.first_chunk::<4>()?;
            Some((Ipv4Addr::from(*address), port).into())
        }
        libc::AF_INET6 => {
            let (_flow, rest) = rest.split_first_chunk::<4>()?;
            let (address, rest) = rest.split_first_chunk::<16>()?;
            let scope = u32::from_ne_bytes(*rest.first_chunk::<4>()?);
            // A flow label says nothing about who the source is.
            Some(SocketAddrV6::new(Ipv6Addr::from(*address), port, 0, scope).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockAddr;

    #[test]
    fn a_source_is_read_as_the_kernel_writes_it() {
        for text in ["192.0.2.1:4000", "[2001:db8::1]:4001", "[fe80::1%3]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            let raw = SockAddr::from(address);
            // SAFETY: a SockAddr has `len` initialised octets.
            let bytes = unsafe {
                std::slice::from_raw_parts(raw.as_ptr().cast::<u8>(), raw.len() as usize)
            };
            assert_eq!(socket_address(bytes), Some(address));
            assert_eq!(socket_address(&bytes[..bytes.len() - 13]), None);
        }
        assert_eq!(socket_address(&[0; 28]), None);
    }

    #[test]
    fn a_stamp_is_read_and_nothing_else() {
        let mut control = [0; STAMP_OCTETS];
        control[..8].copy_from_slice(&STAMP_OCTETS.to_ne_bytes());
        control[8..12].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
        control[12..16].copy_from_slice(&libc::SCM_TIMESTAMPNS.to_ne_bytes());
        control[16..24].copy_from_slice(&3i64.to_ne_bytes());
        control[24..].copy_from_slice(&14i64.to_ne_bytes());
        assert_eq!(stamp(&control), Some(3_000_000_014));
        assert_eq!(stamp(&control[..31]), None);
        control[12] ^= 1;
        assert_eq!(stamp(&control), None);
        assert_eq!(stamp(&[]), None);
    }

    #[test]
    fn control_messages_are_read_one_after_the_other_and_a_bad_length_ends_them() {
        let mut control = Vec::new();
        for (kind, data) in [(1, &[1u8; 12][..]), (2, &[2; 16]), (3, &[3; 4])] {
            control.extend((CONTROL_HEADER + data.len()).to_ne_bytes());
            control.extend(7i32.to_ne_bytes());
            control.extend(i32::to_ne_bytes(kind));
            control.extend(data);
            control.resize(control.len().next_multiple_of(8), 0);
        }
        let seen: Vec<_> = control_messages(&control)
            .map(|m| (m.level, m.kind, m.data.len()))
            .collect();
        assert_eq!(seen, [(7, 1, 12), (7, 2, 16), (7, 3, 4)]);
        for length in [0, 15, 1000, usize::MAX] {
            control[..8].copy_from_slice(&usize::to_ne_bytes(length));
            assert_eq!(control_messages(&control).count(), 0, "{length}");
        }
    }
}
