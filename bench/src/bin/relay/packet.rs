//! The generator's packet sockets: frames out past the queueing discipline, and frames in from a ring that the kernel fills,
//! each with the time at which it arrived.

use crate::plan::FRAME;
use anyhow::{Context, Result};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// Frames per system call at most.
pub const BATCH: usize = 32;

/// Small, so that writing a packet does not have to fetch memory; together room for some 40 ms of the highest rate.
const BLOCK: usize = 1 << 17;
const BLOCKS: usize = 32;
/// Octets of a frame that are kept: what [`crate::plan::returned`] reads. The kernel receives on the relay's core (veth), so whatever
/// it does more falls on the relay.
const KEPT: u32 = 96;
/// After how many milliseconds the kernel hands over a block that is not full.
const RETIRE_MS: u32 = 2;

fn packet_socket(protocol: u16) -> Result<OwnedFd> {
    // SAFETY: socket takes no pointers, and its result is checked before it is owned.
    unsafe {
        let fd = libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            i32::from(protocol.to_be()),
        );
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("packet socket (CAP_NET_RAW)");
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn set<T>(socket: &OwnedFd, option: i32, value: T) -> Result<()> {
    // SAFETY: the pointer and the length are those of `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const value).cast(),
            size_of::<T>() as u32,
        )
    };
    (result == 0)
        .then_some(())
        .ok_or_else(io::Error::last_os_error)
        .with_context(|| format!("packet socket option {option}"))
}

/// Keeps the first `octets` of each frame.
fn keep(socket: &OwnedFd, octets: u32) -> Result<()> {
    const RETURN: u16 = 0x06;
    let mut program = [libc::sock_filter {
        code: RETURN,
        jt: 0,
        jf: 0,
        k: octets,
    }];
    let program = libc::sock_fprog {
        len: 1,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the pointer and the length are those of a local, which refers to another; both outlive the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as u32,
        )
    };
    (result == 0)
        .then_some(())
        .ok_or_else(io::Error::last_os_error)
        .context("packet filter")
}

fn bind(socket: &OwnedFd, protocol: u16, link: &str) -> Result<()> {
    let name = CString::new(link)?;
    // SAFETY: a sockaddr_ll is plain data; the pointers are to locals that outlive the calls.
    let result = unsafe {
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    (result == 0)
        .then_some(())
        .ok_or_else(io::Error::last_os_error)
        .with_context(|| format!("binding to {link}"))
}

/// Sends frames.
pub struct Transmitter(OwnedFd);

impl Transmitter {
    /// To be called in the namespace of `link`.
    pub fn new(link: &str) -> Result<Transmitter> {
        let socket = packet_socket(0)?;
        set(&socket, libc::PACKET_QDISC_BYPASS, 1i32)?;
        bind(&socket, 0, link)?;
        Ok(Transmitter(socket))
    }

    /// Sends up to [`BATCH`] frames; returns how many were taken, from the first on.
    pub fn send(&self, frames: &[[u8; FRAME]]) -> usize {
        // SAFETY: plain data; zeroed entries beyond `frames` are not used.
        let mut vectors: [libc::iovec; BATCH] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        let count = frames.len().min(BATCH);
        for ((vector, message), frame) in vectors.iter_mut().zip(&mut messages).zip(frames) {
            vector.iov_base = frame.as_ptr().cast_mut().cast();
            vector.iov_len = FRAME;
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: `count` messages are filled in; the kernel only reads the frames.
        let sent = unsafe {
            libc::sendmmsg(
                self.0.as_raw_fd(),
                messages.as_mut_ptr(),
                count as u32,
                libc::MSG_DONTWAIT,
            )
        };
        usize::try_from(sent).unwrap_or(0)
    }
}

/// Frames that arrive at an interface (TPACKET_V3).
pub struct Receiver {
    socket: OwnedFd,
    memory: NonNull<u8>,
    next: usize,
}

// SAFETY: the mapping is this value's alone, and nothing in it is bound to a thread.
unsafe impl Send for Receiver {}

impl Receiver {
    /// To be called in the namespace of `link`.
    pub fn new(link: &str) -> Result<Receiver> {
        const IP: u16 = libc::ETH_P_IP as u16;
        let socket = packet_socket(0)?;
        set(
            &socket,
            libc::PACKET_VERSION,
            libc::tpacket_versions::TPACKET_V3 as i32,
        )?;
        set(&socket, libc::PACKET_IGNORE_OUTGOING, 1i32)?;
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK as u32,
            tp_block_nr: BLOCKS as u32,
            tp_frame_size: 2048,
            tp_frame_nr: (BLOCK / 2048 * BLOCKS) as u32,
            tp_retire_blk_tov: RETIRE_MS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        // Before there is a ring, which would fill with whole frames.
        keep(&socket, KEPT)?;
        set(&socket, libc::PACKET_RX_RING, request)?;
        // SAFETY: a new mapping of the size just asked for.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                BLOCK * BLOCKS,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("mapping the receive ring");
        }
        bind(&socket, IP, link)?;
        Ok(Receiver {
            socket,
            memory: NonNull::new(memory.cast()).context("a mapping at zero")?,
            next: 0,
        })
    }

    /// Calls `each` with the frames of at most one block, and the wall-clock nanoseconds at which the kernel got each. Returns
    /// whether there was a block.
    pub fn poll(&mut self, mut each: impl FnMut(&[u8], u64)) -> bool {
        // SAFETY: the block lies within the mapping. The kernel fills it, then sets TP_STATUS_USER; after that it is this
        // side's until the status is zero again. Offsets and lengths within are the kernel's.
        unsafe {
            let block = self.memory.as_ptr().add(self.next * BLOCK);
            let header = &raw mut (*block.cast::<libc::tpacket_block_desc>()).hdr.bh1;
            let status = &*(&raw mut (*header).block_status).cast::<AtomicU32>();
            if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                return false;
            }
            let mut at = block.add((*header).offset_to_first_pkt as usize);
            for _ in 0..(*header).num_pkts {
                let frame = &*at.cast::<libc::tpacket3_hdr>();
                let bytes = std::slice::from_raw_parts(
                    at.add(usize::from(frame.tp_mac)),
                    frame.tp_snaplen as usize,
                );
                let nanos = u64::from(frame.tp_sec) * 1_000_000_000 + u64::from(frame.tp_nsec);
                each(bytes, nanos);
                at = at.add(frame.tp_next_offset as usize);
            }
            fence(Ordering::SeqCst);
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        }
        self.next = (self.next + 1) % BLOCKS;
        true
    }

    /// Frames for which the ring had no room since the last call.
    pub fn dropped(&self) -> Result<u64> {
        // SAFETY: plain data, and the pointers are to locals.
        let (result, statistics) = unsafe {
            let mut statistics: libc::tpacket_stats_v3 = std::mem::zeroed();
            let mut length = size_of::<libc::tpacket_stats_v3>() as u32;
            let result = libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            );
            (result, statistics)
        };
        if result != 0 {
            return Err(io::Error::last_os_error()).context("PACKET_STATISTICS");
        }
        Ok(u64::from(statistics.tp_drops))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and no slice of it outlives `poll`.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), BLOCK * BLOCKS) };
    }
}
