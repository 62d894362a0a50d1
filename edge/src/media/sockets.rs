//! UDP sockets of an allocation.

use rustix::net::connect_unspec;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

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

    /// From now on a received datagram comes with the time at which the kernel got it.
    pub fn stamp_receives(&self) -> io::Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the pointer and the length are those of a local that outlives the call.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_TIMESTAMPNS,
                (&raw const on).cast(),
                std::mem::size_of_val(&on) as libc::socklen_t,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
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
