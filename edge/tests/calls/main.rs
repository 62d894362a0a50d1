//! The daemon as a process, between real SIPp endpoints on loopback. Each party sends RTP with a payload of its own, so that
//! a test can say who heard whom. Where SIPp is missing, every test says that it is skipped.

mod access;
mod challenged;
mod cores;
mod crash;
mod drain;
mod harness;
mod ipv6;
mod load;
mod modify;
mod originated;
mod reloads;
mod setup;
mod tls;
mod transfer;
