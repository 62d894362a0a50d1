//! An AF_XDP socket that only sends: frames go from the memory in which they were received to a network interface, past the kernel's IP
//! (the kernel's Documentation/networking/af_xdp.rst).
//!
//! It is bound in copy mode: the kernel copies a frame while [`LinkSender::flush`] tells it to send, and never looks at the memory
//! otherwise. So a buffer is free once the kernel has taken its descriptor, whatever the interface does with the copy. Some drivers do without
//! that copy all the same; their interfaces are not for this ([`super::driver::copies`]).

use crate::media::buffers::{Buffer, BufferPool, Memory};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XdpDesc,
    XdpDescOptions, XdpRingOffset, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, bind, send, socket_with, sockopt,
};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The least that the kernel takes for the size of a chunk; with unaligned chunks, a bound of a frame's length alone.
const CHUNK: u32 = 2048;
/// Octets of copies that the interface has not sent yet, as the kernel counts them (768 and more for a packet).
const QUEUE: usize = 8 << 20;
/// Frames that one system call may send at most (`XDP_MAX_TX_SKB_BUDGET` of linux/if_xdp.h, kernel 6.17 on).
const SOL_XDP: libc::c_int = 283;
const MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// The same without that option.
const BUDGET: usize = 32;
/// Frames that are kept for one flush: few enough to be in the processor's caches still, and that all links of a thread together never
/// keep its buffers from the receives.
const MOST: usize = 64;
/// Flushes in which an interface took nothing, after which it is given up: with no other packets they are a millisecond apart.
const PATIENCE: u32 = 50;
/// Queues of an interface that are tried at most.
const QUEUES_TRIED: u32 = 64;

/// See the module. Belongs to the media thread whose buffers it sends.
#[derive(Debug)]
pub struct LinkSender {
    frames: Queue<XdpDesc>,
    completed: Queue<u64>,
    socket: OwnedFd,
    #[expect(dead_code, reason = "what was registered stays where it is")]
    memory: Arc<Memory>,
    /// What the kernel has not taken yet, oldest first.
    in_flight: VecDeque<Buffer>,
    /// Flushes in a row in which it took nothing.
    in_vain: u32,
    /// Descriptors written so far; wraps.
    written: u32,
    /// Descriptors that the kernel had taken when it was last looked at; wraps.
    taken: u32,
}

/// The first kernel that is trusted with this. Among those before are some that crash when such a socket sends by a network card,
/// stable ones included, and a version does not tell which.
const KERNEL: (u32, u32) = (6, 18);

/// Whether this process may have such sockets: not where its service's RestrictAddressFamilies= lacks AF_XDP, or without CAP_NET_RAW.
pub fn probe() -> io::Result<()> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    if version(&release).is_none_or(|version| version < KERNEL) {
        let (major, minor) = KERNEL;
        let text = format!(
            "Linux {} may fail when an AF_XDP socket sends; {major}.{minor} or newer is needed",
            release.trim()
        );
        return Err(io::Error::other(text));
    }
    socket().map(drop)
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse().ok();
    Some((number()?, number()?))
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(socket_with(
        AddressFamily::XDP,
        SocketType::RAW,
        flags,
        None,
    )?)
}

impl LinkSender {
    /// A sender of frames from `memory` to `interface`. Of its `queues` the first one from `queue` on that no other
    /// AF_XDP socket has. Needs CAP_NET_RAW, and CAP_NET_ADMIN for its queue; RLIMIT_MEMLOCK has to permit `memory`.
    pub fn open(
        memory: Arc<Memory>,
        interface: u32,
        (queue, queues): (u32, u32),
    ) -> io::Result<LinkSender> {
        let socket = socket()?;
        let (addr, len) = memory.place();
        let area = XdpUmemReg {
            addr,
            len,
            chunk_size: CHUNK,
            headroom: 0,
            // A frame begins where its packet was received.
            flags: XdpUmemRegFlags::XDP_UMEM_UNALIGNED_CHUNK_FLAG,
            tx_metadata_len: 0,
        };
        let entries = MOST.next_power_of_two() as u32;
        sockopt::set_xdp_umem_reg(&socket, area)?;
        // Nothing is received, but the kernel wants that queue.
        sockopt::set_xdp_umem_fill_ring_size(&socket, 1)?;
        // A frame is completed when its copy is freed, which may be later than the next is sent.
        sockopt::set_xdp_umem_completion_ring_size(&socket, entries * 4)?;
        sockopt::set_xdp_tx_ring_size(&socket, entries)?;
        sockopt::set_socket_send_buffer_size_force(&socket, QUEUE)?;
        raise_budget(&socket, entries);
        let offsets = sockopt::xdp_mmap_offsets(&socket)?;
        let frames = Queue::map(&socket, entries, &offsets.tx, XDP_PGOFF_TX_RING)?;
        let completed = Queue::map(
            &socket,
            entries * 4,
            &offsets.cr,
            XDP_UMEM_PGOFF_COMPLETION_RING,
        )?;
        bind_free(&socket, interface, queue, queues)?;
        Ok(LinkSender {
            frames,
            completed,
            socket,
            memory,
            in_flight: VecDeque::with_capacity(MOST),
            in_vain: 0,
            written: 0,
            taken: 0,
        })
    }

    /// Sends the `octets` at `place` of the memory, which are in `buffer`, with the next [`LinkSender::flush`]. An error hands the buffer back:
    /// flush first, and where that makes no room, the interface takes less than comes.
    pub fn push(&mut self, buffer: Buffer, place: usize, octets: usize) -> Result<(), Buffer> {
        if self.in_flight.len() >= MOST {
            return Err(buffer);
        }
        let frame = XdpDesc {
            addr: place as u64,
            len: octets as u32,
            options: XdpDescOptions::empty(),
        };
        self.frames.write(self.written, frame);
        self.written = self.written.wrapping_add(1);
        self.in_flight.push_back(buffer);
        Ok(())
    }

    /// Lets the kernel take what was pushed, and gives the buffers of what it took back to `pool`. Returns how many frames the interface refused.
    /// What it does not take at present stays, for a while. An error is the end of this sender: nothing that it still has is sent.
    pub fn flush(&mut self, pool: &mut BufferPool) -> io::Result<u32> {
        let mut refused = 0;
        self.frames
            .producer()
            .store(self.written, Ordering::Release);
        // A call may end early without telling what it took (before kernel 6.17): the next one goes on from there, and tells.
        let mut calls = self.in_flight.len() / BUDGET + 2;
        while !self.in_flight.is_empty() && calls > 0 {
            self.completed.skip();
            let sent = send(&self.socket, &[], SendFlags::DONTWAIT);
            match sent {
                // Nothing is left that would be taken now.
                Ok(_) => calls = 0,
                Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => calls -= 1,
                // The last one taken is lost; each is lost once.
                Err(Errno::BUSY) => refused += 1,
                Err(error) => return Err(error.into()),
            }
            if self.take_back(pool) > 0 {
                self.in_vain = 0;
            }
            if refused as usize > MOST {
                break;
            }
        }
        if !self.in_flight.is_empty() {
            self.in_vain += 1;
            if self.in_vain > PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(refused)
    }

    /// Buffers that the kernel has not taken.
    pub fn waiting(&self) -> usize {
        self.in_flight.len()
    }

    /// Gives what was not sent back to `pool`. Nothing must be pushed any more.
    pub fn abandon(&mut self, pool: &mut BufferPool) {
        for buffer in self.in_flight.drain(..) {
            pool.recycle(buffer);
        }
    }

    /// Frees the buffers of what the kernel has taken since the last call; how many those were.
    fn take_back(&mut self, pool: &mut BufferPool) -> u32 {
        let taken = self.frames.consumer().load(Ordering::Acquire);
        let count = taken.wrapping_sub(self.taken);
        self.taken = taken;
        for _ in 0..count {
            if let Some(buffer) = self.in_flight.pop_front() {
                pool.recycle(buffer);
            }
        }
        count
    }
}

/// Binds to the first queue that nobody has.
fn bind_free(socket: &OwnedFd, interface: u32, first: u32, queues: u32) -> io::Result<()> {
    let queues = queues.clamp(1, QUEUES_TRIED);
    let mut last = Errno::NODEV;
    for queue in (0..queues).map(|next| (first + next) % queues) {
        let address = SocketAddrXdp::new(SocketAddrXdpFlags::XDP_COPY, interface, queue);
        match bind(socket, &address) {
            Ok(()) => return Ok(()),
            // Taken, or not in use by the interface.
            Err(error @ (Errno::BUSY | Errno::INVAL)) => last = error,
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.into())
}

/// Lets one system call send all `frames` of the ring, where the kernel can.
fn raise_budget(socket: &OwnedFd, frames: u32) {
    // SAFETY: the pointer and the length are those of a local that outlives the call.
    let _ = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            SOL_XDP,
            MAX_TX_SKB_BUDGET,
            (&raw const frames).cast(),
            std::mem::size_of_val(&frames) as libc::socklen_t,
        )
    };
}

/// A ring that is shared with the kernel: entries, how many were produced, and how many were consumed. Both counts wrap.
#[derive(Debug)]
struct Queue<T> {
    mapping: Mapping,
    producer: usize,
    consumer: usize,
    entries: usize,
    mask: u32,
    of: PhantomData<T>,
}

impl<T: Copy> Queue<T> {
    /// Maps the ring of `count` entries (a power of two) that is at `page` of the socket.
    fn map(
        socket: &OwnedFd,
        count: u32,
        offsets: &XdpRingOffset,
        page: u64,
    ) -> io::Result<Queue<T>> {
        let word = std::mem::size_of::<AtomicU32>();
        let [producer, consumer, entries] =
            [offsets.producer, offsets.consumer, offsets.desc].map(|at| at as usize);
        let octets = entries + count as usize * std::mem::size_of::<T>();
        let aligned = entries.is_multiple_of(std::mem::align_of::<T>())
            && producer.is_multiple_of(word)
            && consumer.is_multiple_of(word);
        if !aligned || producer + word > octets || consumer + word > octets {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Queue {
            mapping: Mapping::of(socket, octets, page)?,
            producer,
            consumer,
            entries,
            mask: count - 1,
            of: PhantomData,
        })
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: within the mapping and aligned, as checked by `map`; both sides use it as an atomic word.
        unsafe { self.mapping.start.byte_add(self.producer).cast().as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.mapping.start.byte_add(self.consumer).cast().as_ref() }
    }

    /// Writes the entry of `number`, which the kernel must not have to read any more: at most as many as the ring has are produced and
    /// not consumed.
    fn write(&mut self, number: u32, entry: T) {
        let index = (number & self.mask) as usize;
        // SAFETY: the mask keeps the index below the number of entries, all of which are in the mapping and aligned.
        unsafe {
            let entries = self.mapping.start.byte_add(self.entries).cast::<T>();
            entries.add(index).write(entry);
        }
    }

    /// Consumes whatever was produced.
    fn skip(&self) {
        let produced = self.producer().load(Ordering::Acquire);
        self.consumer().store(produced, Ordering::Release);
    }
}

/// Memory of a socket's.
#[derive(Debug)]
struct Mapping {
    start: NonNull<c_void>,
    octets: usize,
}

// SAFETY: the mapping belongs to no thread.
unsafe impl Send for Mapping {}

impl Mapping {
    fn of(socket: &OwnedFd, octets: usize, page: u64) -> io::Result<Mapping> {
        // SAFETY: a new mapping at a place of the kernel's choice.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                octets,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                socket,
                page,
            )?
        };
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, octets })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is this mapping, of which no reference outlives it.
        let _ = unsafe { munmap(self.start.as_ptr(), self.octets) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_told_by_its_first_two_numbers() {
        for (release, expected) in [
            ("6.12.57+deb13-amd64\n", Some((6, 12))),
            ("6.18.44", Some((6, 18))),
            ("7.0-rc1", Some((7, 0))),
            ("7", None),
            ("", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
        assert!((6, 8) < KERNEL && (7, 0) > KERNEL);
    }
}
