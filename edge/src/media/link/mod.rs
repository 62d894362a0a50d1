//! What lies between the edge and its peers' network interfaces, as far as packets may be handed to an interface directly, past the
//! kernel's IP.
//!
//! - [`routes`] asks the kernel where packets to a host leave, and by which Ethernet header.
//! - [`bystanders`] looks for who else on this host has a say in them, or wants to see them.
//! - [`netlink`] is how both ask.
//!
//! All of it is for an ordinary thread: answers take some 10 µs each, and are waited for.

pub mod bystanders;
mod interface;
mod netfilter;
mod netlink;
pub mod routes;

pub use interface::Link;
