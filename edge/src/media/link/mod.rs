//! Sending past the kernel's IP: where nothing in it has a say in what media sends, the RTP of latched flows goes straight to the interface
//! that the kernel would have chosen, with the Ethernet header that it would have written. Of what a packet costs, the kernel's way out is
//! the larger part.
//!
//! - [`service`] is a thread that knows the ways: it asks the kernel for routes and neighbours ([`routes`]), and who else on the host has a
//!   say in what leaves, or wants to see it ([`bystanders`]). It tells each media thread the way to each host that its flows send to, and takes it back as
//!   soon as one of these changes.
//!   [`cgroup`] and [`netfilter`] are two of these, [`netlink`] is how all ask, and [`interface`] what they learn of one;
//!   [`interfaces`] are those in use, [`driver`] what theirs tell.
//! - [`table`] is what a media thread has been told: a look into it per packet.
//! - [`sender`] is the socket of a media thread at an interface.
//!
//! A host without a way is not worse off: packets to it leave through the kernel, as do RTCP and whatever comes before a flow is latched,
//! which also keeps the kernel's view of its neighbours fresh.

pub mod bystanders;
pub mod cgroup;
mod driver;
mod interface;
mod interfaces;
mod netfilter;
mod netlink;
pub mod routes;
pub mod sender;
pub mod service;
pub mod table;

pub use interface::Link;

use crate::media::buffers::Memory;
use sender::LinkSender;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

/// Interfaces that a media thread can send to.
pub const LINKS: usize = 4;

/// An Ethernet header: destination, source, type (IEEE 802.3).
pub type EthernetHeader = [u8; 14];

/// How packets to a host leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    pub header: EthernetHeader,
    /// Which of the thread's senders, below [`LINKS`].
    pub link: u8,
}

/// What a media thread asks the service for.
#[derive(Debug)]
enum Request {
    /// Its memory, before anything else.
    Memory(Arc<Memory>),
    /// Which way packets from `local` to `host` leave, now and whenever that changes. The answers bear `number`.
    Follow {
        number: u16,
        local: IpAddr,
        host: IpAddr,
    },
    /// The host of `number` does not matter any more.
    Forget { number: u16 },
    /// The sender of `link` that came with `serial` has failed.
    Failed {
        link: u8,
        serial: u64,
        error: io::Error,
    },
    /// Close this, where nothing waits for that.
    Retire(Box<LinkSender>),
}

/// What the service tells a media thread.
#[derive(Debug)]
enum Update {
    /// Use this for `link` from now on, and forget the ways that led by it.
    Open {
        link: u8,
        serial: u64,
        sender: Box<LinkSender>,
    },
    /// The way to `host`, which is `number`; `None`: through the kernel.
    Way {
        number: u16,
        host: IpAddr,
        way: Option<Way>,
    },
}
