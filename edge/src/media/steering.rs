//! The BPF program that tells which of the sockets that a media thread's flows share receives a packet (`ebpf/steer.bpf.c`, a
//! `sk_lookup` program), and the maps that tell it which port is whose.
//!
//! A socket of its own for each flow costs cold memory per packet, a wake-up per flow, and four system calls or more per port; one socket
//! for all of them has none of it.

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
const PORTS: u32 = 1 << 16;
/// `EDGE_STEER_THREADS`.
const THREADS: u8 = 64;
/// Most shared sockets of one thread; all threads of them fit into the map.
const SOCKETS_PER_THREAD: u32 = 16;
/// In the place of a socket: `EDGE_STEER_CLOSED`.
const CLOSED: u16 = u16::MAX;
/// Packets of a latched source in a window of 2^26 ns that go to its socket: 10,000 per second. The rest is treated like those of others.
pub const STEERED_PER_WINDOW: u32 = 671;

/// `struct edge_steer_scope`: where media is, zero for a family without.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Scope {
    pub media4: u32,
    pub media6: [u32; 4],
}

/// `struct edge_steered`: addresses in network byte order, ports in the host's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Steered {
    /// The latched source; port 0: none.
    pub source: [u32; 4],
    pub port: u16,
    /// For what comes from there. 0: as `others`; 65535: nobody may send there; n: entry n - 1 of the map of sockets.
    pub socket: u16,
    /// For what else comes. 0: the socket that is bound there.
    pub others: u16,
    /// The media thread whose port it is.
    pub thread: u16,
    /// What the program has counted: see its source.
    pub window: u32,
    pub packets: u32,
    pub strangers: u32,
}

// SAFETY: `#[repr(C)]`, integers only, and no padding: the test that compares the layout with the object's BTF finds that the
// members fill each struct.
unsafe impl Pod for Scope {}
// SAFETY: as above.
unsafe impl Pod for Steered {}

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
        Ok(Steering(Arc::new(Attached { ebpf, addresses })))
    }

    /// The part of media thread `thread` (0 to 63), which no other may have too.
    pub fn thread(&self, thread: u8) -> Result<ThreadSteering, SteeringError> {
        let Attached { ebpf, addresses } = &*self.0;
        if thread >= THREADS {
            return Err(SteeringError::Missing("room for another thread"));
        }
        let Some(Map::Array(steered)) = ebpf.map("steered") else {
            return Err(SteeringError::Missing("steered"));
        };
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
            steered: Array::try_from(again(steered)?)?,
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

/// A socket in the program's map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedSocket(u16);

/// One media thread's handle. Each method is a system call or two, and never waits.
pub struct ThreadSteering {
    thread: u8,
    addresses: Vec<IpAddr>,
    refused: Array<MapData, u64>,
    steered: Array<MapData, Steered>,
    sockets: SockMap<MapData>,
    /// The thread's first entry in `sockets`, and how many it has.
    first: u32,
    enlisted: u32,
    #[expect(dead_code, reason = "keeps the program attached")]
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

    /// From now on packets from `source` to `local` go to `socket`, and what else comes there to `others` (`None`: the socket that is
    /// bound there).
    pub fn latch(
        &mut self,
        local: SocketAddr,
        (source, socket): (SocketAddr, SharedSocket),
        others: Option<SharedSocket>,
    ) -> Result<(), SteeringError> {
        // Not half of the old source and half of the new at any moment: first none.
        self.unlatch(local, others)?;
        let flow = Steered {
            source: words(source.ip()).1,
            port: source.port(),
            socket: socket.0,
            ..self.unlatched(others)
        };
        Ok(self.steered.set(index(local), flow, 0)?)
    }

    /// From now on all packets to `local` go to `others` (`None`: the socket that is bound there).
    pub fn unlatch(
        &mut self,
        local: SocketAddr,
        others: Option<SharedSocket>,
    ) -> Result<(), SteeringError> {
        Ok(self.steered.set(index(local), self.unlatched(others), 0)?)
    }

    /// From now on nobody reaches `local`, whichever socket is bound there.
    pub fn close(&mut self, local: SocketAddr) -> Result<(), SteeringError> {
        let closed = Steered {
            socket: CLOSED,
            ..Steered::default()
        };
        Ok(self.steered.set(index(local), closed, 0)?)
    }

    /// Packets to this thread's ports that the program dropped since it was attached, because too many came from others than the latched
    /// source.
    pub fn refused(&self) -> u64 {
        let count = self.refused.get(&u32::from(self.thread), 0);
        count.unwrap_or_default()
    }

    fn unlatched(&self, others: Option<SharedSocket>) -> Steered {
        Steered {
            others: others.map_or(0, |socket| socket.0),
            thread: self.thread.into(),
            ..Steered::default()
        }
    }
}

/// Where a media port is in the map.
fn index(local: SocketAddr) -> u32 {
    let family = match local.ip().to_canonical() {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => PORTS,
    };
    family + u32::from(local.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_has_ports_of_its_own() {
        assert_eq!(index("192.0.2.1:0".parse().unwrap()), 0);
        assert_eq!(index("192.0.2.1:65535".parse().unwrap()), 65_535);
        assert_eq!(index("[2001:db8::1]:0".parse().unwrap()), 65_536);
        assert_eq!(index("[2001:db8::1]:65535".parse().unwrap()), 131_071);
    }

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
