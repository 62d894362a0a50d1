//! The map of media ports that `ebpf/steer.bpf.c` looks at, in this process's memory: a port changes its receiver without a system call.

use crate::access::layout::words;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

/// Entries: the ports of IPv4, then those of IPv6.
const ENTRIES: usize = 2 << 16;
/// In the place of a socket: `EDGE_STEER_CLOSED`.
const CLOSED: u16 = u16::MAX;

/// `struct edge_steered`: addresses in network byte order, ports in the host's. The program reads it at any time.
#[derive(Default, Debug)]
#[repr(C)]
pub struct Steered {
    /// The latched source; port 0: none.
    pub source: [AtomicU32; 4],
    pub port: AtomicU16,
    /// For what comes from there. 0: as `others`; 65535: nobody may send there; n: entry n - 1 of the map of sockets.
    pub socket: AtomicU16,
    /// For what else comes. 0: the socket that is bound there.
    pub others: AtomicU16,
    /// The media thread whose port it is.
    pub thread: AtomicU16,
    /// What the program has counted: see its source.
    pub window: AtomicU32,
    pub packets: AtomicU32,
    pub strangers: AtomicU32,
}

/// Octets from one entry to the next: the kernel aligns them (bpf_map_alloc of an array).
const STRIDE: usize = std::mem::size_of::<Steered>().next_multiple_of(8);

/// A socket in the program's map: its number there, from 1 on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedSocket(pub(super) u16);

/// The whole map. Each media thread writes the entries of its own ports, and nobody else does.
#[derive(Debug)]
pub struct SteeredPorts {
    base: NonNull<u8>,
}

// SAFETY: what it points to is the kernel's memory, mapped until it is dropped, and is read and written by atomic operations alone.
unsafe impl Send for SteeredPorts {}
// SAFETY: as above.
unsafe impl Sync for SteeredPorts {}

impl SteeredPorts {
    /// Maps the memory of `map`, a BPF array of [`Steered`] with BPF_F_MMAPABLE and an entry for each port of both families.
    pub fn new(map: impl AsFd) -> io::Result<SteeredPorts> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice. It refuses one that is longer than the map.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                ENTRIES * STRIDE,
                access,
                MapFlags::SHARED,
                map,
                0,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(SteeredPorts { base })
    }

    /// From now on packets from `source` to `local`, a port of `thread`, go to `socket`, and what else comes there to `others` (`None`: the socket that is
    /// bound there).
    pub fn latch(
        &self,
        local: SocketAddr,
        (source, socket): (SocketAddr, SharedSocket),
        others: Option<SharedSocket>,
        thread: u16,
    ) {
        // Not half of the old source and half of the new at any moment: first none.
        self.unlatch(local, others, thread);
        let port = self.port(local);
        for (word, value) in port.source.iter().zip(words(source.ip()).1) {
            word.store(value, Ordering::Relaxed);
        }
        port.port.store(source.port(), Ordering::Relaxed);
        port.socket.store(socket.0, Ordering::Release);
    }

    /// From now on all packets to `local`, a port of `thread`, go to `others` (`None`: the socket that is bound there).
    pub fn unlatch(&self, local: SocketAddr, others: Option<SharedSocket>, thread: u16) {
        let port = self.port(local);
        port.socket.store(0, Ordering::Release);
        port.port.store(0, Ordering::Release);
        for word in &port.source {
            word.store(0, Ordering::Relaxed);
        }
        for count in [&port.packets, &port.strangers] {
            count.store(0, Ordering::Relaxed);
        }
        port.thread.store(thread, Ordering::Relaxed);
        port.others
            .store(others.map_or(0, |socket| socket.0), Ordering::Release);
    }

    /// From now on nobody reaches `local`, whichever socket is bound there.
    pub fn close(&self, local: SocketAddr) {
        self.port(local).socket.store(CLOSED, Ordering::Release);
    }

    fn port(&self, local: SocketAddr) -> &Steered {
        // SAFETY: `index` is below ENTRIES, so the entry is within the mapping, which lives as long as `self`; entries are aligned to 8,
        // any bits are valid for them, and this process reads and writes them by atomic operations alone.
        unsafe { self.base.add(index(local) * STRIDE).cast().as_ref() }
    }
}

impl Drop for SteeredPorts {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; no reference to it outlives `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), ENTRIES * STRIDE) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// Where a media port is in the map: below [`ENTRIES`].
fn index(local: SocketAddr) -> usize {
    let family = match local.ip().to_canonical() {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => ENTRIES / 2,
    };
    family + usize::from(local.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_has_ports_of_its_own() {
        let index = |text: &str| index(text.parse().unwrap());
        assert_eq!(index("192.0.2.1:0"), 0);
        assert_eq!(index("192.0.2.1:65535"), 65_535);
        assert_eq!(index("[2001:db8::1]:0"), 65_536);
        assert_eq!(index("[2001:db8::1]:65535"), 131_071);
        assert_eq!(index("[::ffff:192.0.2.1]:7"), 7);
    }
}
