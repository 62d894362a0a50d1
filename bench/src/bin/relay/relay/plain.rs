//! The relay that anybody would write first, written well: one connected socket per leg, level-triggered epoll, many packets per
//! recvmmsg and sendmmsg where a socket has many. It looks at nothing in a packet.

use crate::plan;
use crate::process;
use anyhow::{Context, Result};
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};

/// Packets per system call.
const BATCH: usize = 32;
const PACKET: usize = 2048;
/// Sockets per epoll_wait.
const EVENTS: usize = 256;

/// Relays between legs 2k and 2k+1 for ever.
pub fn run(legs: u16, core: usize) -> Result<()> {
    super::raise_open_files();
    process::pin(core)?;
    let sockets = (0..legs).map(socket).collect::<Result<Vec<_>>>()?;
    let descriptors: Vec<RawFd> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: epoll_create1 takes no pointers; the events are locals.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    for (leg, &fd) in descriptors.iter().enumerate() {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: leg as u64,
        };
        // SAFETY: as above.
        if unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) } != 0 {
            return Err(io::Error::last_os_error()).context("epoll_ctl");
        }
    }
    println!("ready");
    std::thread::spawn(|| {
        // Its input ends when nobody needs it any more.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let mut buffers = Buffers::new();
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
    loop {
        // SAFETY: room for EVENTS events.
        let count = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), EVENTS as i32, -1) };
        let count = usize::try_from(count).unwrap_or(0);
        for event in &events[..count] {
            let leg = event.u64 as usize;
            buffers.pass(descriptors[leg], descriptors[leg ^ 1]);
        }
    }
}

fn socket(leg: u16) -> Result<UdpSocket> {
    let local = plan::local(leg);
    let socket = UdpSocket::bind(local).with_context(|| format!("binding {local}"))?;
    socket.connect(plan::peer(leg))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The messages of one system call, and their octets.
struct Buffers {
    vectors: Box<[libc::iovec]>,
    messages: Box<[libc::mmsghdr]>,
    /// Pointed to by `vectors`.
    _octets: Box<[u8]>,
}

impl Buffers {
    fn new() -> Buffers {
        let mut octets = vec![0u8; BATCH * PACKET].into_boxed_slice();
        let mut vectors: Box<[libc::iovec]> = octets
            .chunks_mut(PACKET)
            .map(|chunk| libc::iovec {
                iov_base: chunk.as_mut_ptr().cast(),
                iov_len: PACKET,
            })
            .collect();
        let messages = vectors
            .iter_mut()
            .map(|vector| {
                // SAFETY: zeros are a valid mmsghdr.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = vector;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        Buffers {
            vectors,
            messages,
            _octets: octets,
        }
    }

    fn pass(&mut self, from: RawFd, to: RawFd) {
        // SAFETY: BATCH messages, whose vectors point to BATCH buffers of the length they say.
        let received = unsafe {
            libc::recvmmsg(
                from,
                self.messages.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let Ok(received) = usize::try_from(received) else {
            return;
        };
        for (vector, message) in self.vectors.iter_mut().zip(&self.messages).take(received) {
            vector.iov_len = message.msg_len as usize;
        }
        // SAFETY: as above; the vectors now say what was received.
        unsafe {
            libc::sendmmsg(
                to,
                self.messages.as_mut_ptr(),
                received as u32,
                libc::MSG_DONTWAIT,
            )
        };
        for vector in self.vectors.iter_mut().take(received) {
            vector.iov_len = PACKET;
        }
    }
}
