//! UDP sockets: those of an allocation, and those that many share.

use super::headers;
use rustix::net::connect_unspec;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// Room in the queue of a socket that many flows share, in octets; the kernel doubles it, and counts 768 to 2,304 for a packet. So it is for some
/// 10,000 packets: as many as a thread relays in a moment in which it does not run, and not so many that they would wait for longer than
/// is of use. The same for what leaves, where an interface or a neighbour takes nothing for a moment.
const SHARED_QUEUE: libc::c_int = 8 << 20;
/// The same of a socket that receives the media of latched flows: what comes at the highest rate in 30 ms, for which a virtual machine
/// may not be run now and then.
const MEDIA_QUEUE: libc::c_int = 16 << 20;

/// Ports tried for a shared socket.
const SHARED_TRIES: usize = 1000;
const FIRST_UNPRIVILEGED: u16 = 1024;

/// One UDP socket, bound to one address: what is sent from it carries the address that packets were received on.
#[derive(Debug)]
pub struct MediaSocket(Socket);

impl MediaSocket {
    pub fn bind(local: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        if local.is_ipv6() {
            // Otherwise an IPv6 wildcard would take the IPv4 port too.
            socket.set_only_v6(true)?;
        }
        socket.bind(&local.into())?;
        Ok(MediaSocket(socket))
    }

    /// From now on the kernel delivers packets of `remote` alone. What had been delivered before stays queued.
    pub fn connect(&self, remote: SocketAddr) -> io::Result<()> {
        self.0.connect(&remote.into())
    }

    /// Any source is delivered again. The socket stays bound, since its port was chosen explicitly.
    pub fn disconnect(&self) -> io::Result<()> {
        match connect_unspec(&self.0) {
            // Some kernels say so although it worked.
            Err(rustix::io::Errno::AFNOSUPPORT) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A socket at `address` for packets that were sent to other ports there, `for_media` or for less: it tells which. Its own is none of `avoid`, which flows
    /// will want; `None` where no other is free. Needs CAP_NET_ADMIN for its large queue.
    pub fn shared(
        address: IpAddr,
        avoid: &RangeInclusive<u16>,
        for_media: bool,
    ) -> io::Result<Option<Self>> {
        // From above, where the kernel's own choice of ports does not reach by default.
        let mut free = (FIRST_UNPRIVILEGED..=u16::MAX)
            .rev()
            .filter(|port| !avoid.contains(port))
            .take(SHARED_TRIES);
        let bind = |port| match MediaSocket::bind(SocketAddr::new(address, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
            bound => Some(bound),
        };
        let Some(socket) = free.find_map(bind).transpose()? else {
            return Ok(None);
        };
        match address {
            IpAddr::V4(_) => socket.set(libc::SOL_IP, libc::IP_RECVORIGDSTADDR, 1)?,
            IpAddr::V6(_) => socket.set(libc::SOL_IPV6, libc::IPV6_RECVORIGDSTADDR, 1)?,
        }
        let queue = if for_media { MEDIA_QUEUE } else { SHARED_QUEUE };
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, queue)?;
        // An empty datagram is no RTP, and would end the receive of all.
        socket.0.attach_filter(&[
            SockFilter::new(LOAD_LENGTH, 0, 0, 0),
            SockFilter::new(JUMP_IF_EQUAL, 0, 1, headers::UDP as u32),
            SockFilter::new(RETURN, 0, 0, 0),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
        ])?;
        Ok(Some(socket))
    }

    pub fn local(&self) -> io::Result<SocketAddr> {
        let local = self.0.local_addr()?.as_socket();
        local.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// From now on a received datagram comes with the time at which the kernel got it.
    pub fn stamp_receives(&self) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        set_option(&self.0, level, option, value)
    }

    /// Datagrams that the kernel had no room for in this socket's queue (or found damaged) since it was made; wraps.
    pub fn overflows(&self) -> io::Result<u32> {
        let mut told = [0u32; libc::SK_MEMINFO_DROPS as usize + 1];
        let mut length = std::mem::size_of_val(&told) as libc::socklen_t;
        // SAFETY: the pointers are to locals that outlive the call, and `length` is that of `told`.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                told.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        match (result, told) {
            (0, [.., drops]) => Ok(drops),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Whether a datagram (or an error) waits to be received.
    pub fn has_input(&self) -> bool {
        let mut octet = [MaybeUninit::uninit()];
        let peeked = self
            .0
            .recv_with_flags(&mut octet, libc::MSG_PEEK | libc::MSG_DONTWAIT);
        !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl AsFd for MediaSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for MediaSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A raw socket that sends IP packets, headers included, from one address and any of its ports. It receives nothing.
///
/// It is not connected, so queueing disciplines and network cards tell its flows apart by their packets, as they do for sockets of their
/// own. The routing of what it sends knows neither protocol nor ports.
#[derive(Debug)]
pub struct RawSender(Socket);

impl RawSender {
    /// Needs CAP_NET_RAW, and CAP_NET_ADMIN for its large queue.
    pub fn open(address: IpAddr) -> io::Result<Self> {
        let local = SocketAddr::new(address, 0);
        // With this protocol the packets bring their IP header (raw(7)), and those that arrive with it are nobody's.
        let protocol = Protocol::from(libc::IPPROTO_RAW);
        let socket = Socket::new(Domain::for_address(local), Type::RAW, Some(protocol))?;
        socket.attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)])?;
        socket.bind(&local.into())?;
        set_option(
            &socket,
            libc::SOL_SOCKET,
            libc::SO_SNDBUFFORCE,
            SHARED_QUEUE,
        )?;
        Ok(RawSender(socket))
    }
}

impl AsFd for RawSender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Instructions of classic BPF: return a constant (octets to keep), load the packet's length (from its UDP header on), compare it.
const RETURN: u16 = 0x06;
const LOAD_LENGTH: u16 = 0x80;
const JUMP_IF_EQUAL: u16 = 0x15;

fn set_option(
    socket: &Socket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of a local that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            std::mem::size_of_val(&value) as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Binds RTP at `local` and RTCP at the next port; the error names the address that could not be had.
pub fn bind_pair(local: SocketAddr) -> Result<[MediaSocket; 2], String> {
    let bind = |local: SocketAddr| {
        MediaSocket::bind(local).map_err(|error| format!("cannot bind {local}: {error}"))
    };
    let Some(next) = local.port().checked_add(1) else {
        return Err(format!("no port after {local} for RTCP"));
    };
    let mut rtcp = local;
    rtcp.set_port(next);
    Ok([bind(local)?, bind(rtcp)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    /// A socket whose port was chosen by the caller, as in production: one chosen by the kernel is lost by disconnecting.
    fn bound(any: &str) -> MediaSocket {
        for _ in 0..100 {
            let free = UdpSocket::bind(any).unwrap().local_addr().unwrap();
            if let Ok(socket) = MediaSocket::bind(free) {
                return socket;
            }
        }
        panic!("no free port");
    }

    fn local(socket: &MediaSocket) -> SocketAddr {
        socket.0.local_addr().unwrap().as_socket().unwrap()
    }

    #[test]
    fn connecting_admits_one_source_and_disconnecting_all_again() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let media = bound(any);
            let at = local(&media);
            let [peer, stranger] = [(); 2].map(|()| UdpSocket::bind(any).unwrap());
            stranger.send_to(b"early", at).unwrap();
            media.connect(peer.local_addr().unwrap()).unwrap();
            // What was queued before is still there: the reason to check sources after connecting.
            assert!(media.has_input());
            let mut buffer = [MaybeUninit::uninit(); 16];
            assert_eq!(media.0.recv(&mut buffer).unwrap(), 5);
            assert!(!media.has_input());
            // Loopback delivers before send returns.
            let _ = stranger.send_to(b"late", at);
            assert!(!media.has_input());
            media.disconnect().unwrap();
            assert_eq!(local(&media), at);
            stranger.send_to(b"again", at).unwrap();
            assert!(media.has_input());
        }
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind_pair(address).unwrap_err();
        assert!(error.contains(&address.to_string()), "{error}");
        let error = bind_pair("127.0.0.1:65535".parse().unwrap()).unwrap_err();
        assert!(error.contains("RTCP"), "{error}");
    }
}
