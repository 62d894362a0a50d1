//! The BPF program that tells which of the sockets that a media thread's flows share receives a packet (`ebpf/steer.bpf.c`, a
//! `sk_lookup` program), and the maps that tell it which port is whose.
//!
//! A socket of its own for each flow costs cold memory per packet, a wake-up per flow, and four system calls or more per port; one socket
//! for all of them has none of it.

use super::steered::{SharedSocket, SteeredPorts};
use crate::access::{layout::words, told};
use aya::maps::{Array, Map, MapData, MapError, SockMap};
use aya::programs::{ProgramError, SkLookup};
use aya::{Ebpf, EbpfError, Pod, include_bytes_aligned};
use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::sync::Arc;
use thiserror::Error;

/// The compiled `ebpf/steer.bpf.c`.
pub static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

const PROGRAM: &str = "edge_steer";
/// `EDGE_STEER_THREADS`.
const THREADS: u8 = 64;
/// Most shared sockets of one thread; all threads of them fit into the map.
const SOCKETS_PER_THREAD: u32 = 16;
/// Packets of a latched source in a window of 2^26 ns that go to its socket: 10,000 per second. The rest is treated like those of others.
pub const STEERED_PER_WINDOW: u32 = 671;

/// `struct edge_steer_scope`: where media is, zero for a family without.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Scope {
    pub media4: u32,
    pub media6: [u32; 4],
}

// SAFETY: `#[repr(C)]`, integers only, and no padding: the test that compares the layout with the object's BTF finds that the
// members fill the struct.
unsafe impl Pod for Scope {}

/// Why flows keep sockets of their own.
#[derive(Debug, Error)]
pub enum SteeringError {
    #[error("the kernel refused the object: {}", told(.0))]
    Object(#[from] EbpfError),
    #[error("the kernel refused the program: {}", told(.0))]
    Program(#[from] ProgramError),
    #[error("the kernel refused a map: {}", told(.0))]
    Map(#[from] MapError),
    #[error("the object has no {0}")]
    Missing(&'static str),
    #[error("{doing}: {error}")]
    System {
        doing: &'static str,
        error: io::Error,
    },
    #[error("media has no address but wildcards")]
    NoAddress,
    #[error("no port of {0} outside media.ports is free for a shared socket")]
    NoPort(IpAddr),
}

impl SteeringError {
    pub(super) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> SteeringError {
        move |error| SteeringError::System { doing, error }
    }
}

/// The program, attached to the network namespace of the thread that called [`Steering::attach`] for as long as this or a
/// [`ThreadSteering`] of it lives; a process that ends by any means takes it off.
#[derive(Clone, Debug)]
pub struct Steering(Arc<Attached>);

#[derive(Debug)]
struct Attached {
    ebpf: Ebpf,
    addresses: Vec<IpAddr>,
    ports: SteeredPorts,
}

impl Steering {
    /// Loads and attaches the program for media at `addresses`: at most one of each family counts, and no wildcard. Until a thread
    /// steers a flow it changes nothing.
    pub fn attach(addresses: impl IntoIterator<Item = IpAddr>) -> Result<Steering, SteeringError> {
        let addresses: Vec<_> = addresses
            .into_iter()
            .filter(|address| !address.is_unspecified())
            .collect();
        let scope = scope(&addresses);
        if scope == Scope::default() {
            return Err(SteeringError::NoAddress);
        }
        let mut ebpf = Ebpf::load(OBJECT)?;
        let map = ebpf
            .map_mut("steer_scope")
            .ok_or(SteeringError::Missing("steer_scope"))?;
        Array::<_, Scope>::try_from(map)?.set(0, scope, 0)?;
        let program: &mut SkLookup = ebpf
            .program_mut(PROGRAM)
            .ok_or(SteeringError::Missing(PROGRAM))?
            .try_into()?;
        program.load()?;
        let namespace = File::open("/proc/thread-self/ns/net").map_err(SteeringError::system(
            "opening the thread's network namespace",
        ))?;
        program.attach(namespace)?;
        let Some(Map::Array(steered)) = ebpf.map("steered") else {
            return Err(SteeringError::Missing("steered"));
        };
        let ports = SteeredPorts::new(steered.fd().as_fd())
            .map_err(SteeringError::system("mapping the map of ports"))?;
        Ok(Steering(Arc::new(Attached {
            ebpf,
            addresses,
            ports,
        })))
    }

    /// The part of media thread `thread` (0 to 63), which no other may have too.
    pub fn thread(&self, thread: u8) -> Result<ThreadSteering, SteeringError> {
        let Attached {
            ebpf, addresses, ..
        } = &*self.0;
        if thread >= THREADS {
            return Err(SteeringError::Missing("room for another thread"));
        }
        let Some(Map::SockMap(sockets)) = ebpf.map("sockets") else {
            return Err(SteeringError::Missing("sockets"));
        };
        let Some(Map::Array(refused)) = ebpf.map("steer_refused") else {
            return Err(SteeringError::Missing("steer_refused"));
        };
        Ok(ThreadSteering {
            thread,
            addresses: addresses.clone(),
            refused: Array::try_from(again(refused)?)?,
            sockets: SockMap::try_from(again(sockets)?)?,
            first: u32::from(thread) * SOCKETS_PER_THREAD,
            enlisted: 0,
            attached: Arc::clone(&self.0),
        })
    }
}

/// Another handle to the same map.
fn again(map: &MapData) -> Result<Map, SteeringError> {
    let fd: OwnedFd = map
        .fd()
        .as_fd()
        .try_clone_to_owned()
        .map_err(SteeringError::system("another descriptor of a map"))?;
    Ok(Map::from_map_data(MapData::from_fd(fd)?)?)
}

fn scope(addresses: &[IpAddr]) -> Scope {
    let mut scope = Scope::default();
    for &address in addresses {
        match (address.to_canonical(), words(address).1) {
            (IpAddr::V4(_), [word, ..]) => scope.media4 = word,
            (IpAddr::V6(_), words) => scope.media6 = words,
        }
    }
    scope
}

/// One media thread's handle. No method waits.
pub struct ThreadSteering {
    thread: u8,
    addresses: Vec<IpAddr>,
    refused: Array<MapData, u64>,
    sockets: SockMap<MapData>,
    /// The thread's first entry in `sockets`, and how many it has.
    first: u32,
    enlisted: u32,
    /// The program, too, which stays attached meanwhile.
    attached: Arc<Attached>,
}

impl fmt::Debug for ThreadSteering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ThreadSteering");
        debug.field("addresses", &self.addresses);
        debug.field("first", &self.first);
        debug.finish_non_exhaustive()
    }
}

impl ThreadSteering {
    /// The addresses at which flows can be steered.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Makes a bound UDP socket one that flows can be steered to.
    pub fn enlist(&mut self, socket: &impl AsRawFd) -> Result<SharedSocket, SteeringError> {
        let full = || SteeringError::Missing("room for another socket");
        if self.enlisted >= SOCKETS_PER_THREAD {
            return Err(full());
        }
        let index = self.first + self.enlisted;
        let number = u16::try_from(index + 1).map_err(|_| full())?;
        self.sockets.set(index, socket, 0)?;
        self.enlisted += 1;
        Ok(SharedSocket(number))
    }

    /// See [`SteeredPorts::latch`].
    pub fn latch(
        &self,
        local: SocketAddr,
        latched: (SocketAddr, SharedSocket),
        others: Option<SharedSocket>,
    ) {
        let thread = self.thread.into();
        self.attached.ports.latch(local, latched, others, thread);
    }

    /// See [`SteeredPorts::unlatch`].
    pub fn unlatch(&self, local: SocketAddr, others: Option<SharedSocket>) {
        let thread = self.thread.into();
        self.attached.ports.unlatch(local, others, thread);
    }

    /// See [`SteeredPorts::close`].
    pub fn close(&self, local: SocketAddr) {
        self.attached.ports.close(local);
    }

    /// Packets to this thread's ports that the program dropped since it was attached, because too many came from others than the latched
    /// source.
    pub fn refused(&self) -> u64 {
        let count = self.refused.get(&u32::from(self.thread), 0);
        count.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scope_has_both_families() {
        let addresses = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
        let scope = scope(&addresses);
        assert_eq!(scope.media4.to_ne_bytes(), [192, 0, 2, 1]);
        let [first, .., last] = scope.media6.map(u32::to_ne_bytes);
        assert_eq!((first, last), ([0x20, 0x01, 0x0d, 0xb8], [0, 0, 0, 1]));
    }

    #[test]
    fn a_wildcard_address_is_none_to_steer_at() {
        for any in ["0.0.0.0", "::"] {
            let error = Steering::attach([any.parse().unwrap()]).unwrap_err();
            assert!(matches!(error, SteeringError::NoAddress), "{error}");
        }
    }
}
