//! One media thread per core on a raw io_uring: it receives into provided buffers, asks [`edge_proto::relay`] about each
//! packet, and sends it from the buffer that it came in. Nothing per packet copies, allocates or locks.
//!
//! - [`worker`] is the loop. It owns everything below and is owned by one thread.
//! - [`ring`] and [`buffers`] hold what the kernel may touch, behind a safe interface ([`received`] reads what it wrote): with [`sockets`] and [`endpoint`] (which
//!   receive is armed on a socket, and when it may be connected) and [`link`] this is the home of `unsafe` in this crate.
//! - [`hub`] holds the sockets that flows share, [`steering`] is the BPF program that gives them their packets, and [`headers`]
//!   writes what precedes the payload of what leaves by them. Where the kernel does not permit them, each flow has sockets of its own alone.
//! - [`link`] sends past the kernel's IP where nothing in it has a say in what media sends.
//! - [`claim`] keeps edges of one host apart whose ports have no sockets of their own; [`files`] lends the ring's file table to those that have.
//! - [`pace`] decides when packets may gather, [`latency`] measures on a sample how long they stay.
//! - [`priority`] puts the thread before the others of its core.
//! - [`counters`] are read by the metrics.
//!
//! The supervisor makes the thread and pins it; on it, [`priority::prefer`], [`Worker::new`], then [`Worker::run`].

mod buffers;
pub mod claim;
mod counters;
mod endpoint;
mod error;
mod files;
mod headers;
mod hub;
pub mod ipsec;
mod latency;
pub mod link;
pub mod occupied;
mod pace;
pub mod priority;
mod received;
mod ring;
mod sockets;
pub mod steered;
pub mod steering;
mod token;
mod worker;

pub use counters::{Counter, LaneCounters, MediaCounters};
pub use error::{KERNEL_FLOOR, MediaError};
pub use hub::{Hub, Sharing};
pub use latency::{BOUNDS_NS, LatencyCounters, SAMPLED_LEGS};
pub use worker::Worker;

use crate::access::MediaGuard;
use crate::clock::Clock;
use crate::handoff::{Receiver, Sender};
use edge_proto::relay::{MediaCommand, MediaEvent};
use edge_proto::time::Duration;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Sizes of one media thread.
#[derive(Clone, Copy, Debug)]
pub struct MediaOptions {
    /// Allocations (legs) at once, and so the number of slots that the control thread may use. Less where RLIMIT_NOFILE is below
    /// twice this: see [`Worker::capacity`].
    pub allocations: u32,
    /// Receive buffers, a power of two, where each flow has its own sockets: each receive that finds none has to be armed again.
    pub buffers: u16,
    /// The same where flows share sockets: what one turn takes, few enough to stay in the processor's caches. What bridges a moment
    /// in which the thread does not run is the shared sockets' queue.
    pub shared_buffers: u16,
    /// Octets of a buffer: a datagram plus 124 at most for its addresses and time.
    pub buffer_bytes: usize,
    /// Packets sent per system call at most.
    pub entries: u32,
    /// `media.timeout_s`; zero: never.
    pub timeout: Duration,
    /// `media.batch_us`: how long packets may gather at most, on a busy core, to be relayed together; zero: not at all.
    pub batch: Duration,
    /// `media.busy_poll_us`: how long the thread looks for packets before it sleeps; zero: not at all.
    pub busy_poll: Duration,
}

impl Default for MediaOptions {
    fn default() -> Self {
        MediaOptions {
            allocations: 25_000,
            buffers: 4096,
            shared_buffers: 512,
            buffer_bytes: 2048,
            entries: 1024,
            timeout: Duration::from_secs(60),
            batch: Duration::from_micros(400),
            busy_poll: Duration::ZERO,
        }
    }
}

/// Whether this kernel has what a media thread needs; the error names what is missing.
pub fn probe_kernel() -> Result<(), MediaError> {
    let options = ring::RingOptions {
        entries: 8,
        buffers: 8,
        buffer_bytes: 64,
        files: 1,
    };
    ring::Ring::new(options).map(drop)
}

/// Whether this process may have a socket that sends for all ports at `address`.
pub fn probe_shared_sender(address: IpAddr) -> io::Result<()> {
    sockets::RawSender::open(address).map(drop)
}

/// Everything a media thread is given.
#[derive(Debug)]
pub struct Setup {
    pub clock: Clock,
    pub options: MediaOptions,
    /// Its waker must be this thread's alone.
    pub commands: Receiver<MediaCommand>,
    pub events: Sender<MediaEvent>,
    pub counters: Arc<MediaCounters>,
    /// Told who may send to which port.
    pub guard: MediaGuard,
    /// The sockets that flows share; `None`: each has its own alone.
    pub hub: Option<Hub>,
    /// The ways past the kernel's IP, for those whose packets the hub's sockets send; `None`: there is none.
    pub ways: Option<link::table::WayTable>,
    /// Set it, then wake the commands' waker: [`Worker::run`] closes every socket and returns.
    pub stop: Arc<AtomicBool>,
}
