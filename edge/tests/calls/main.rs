//! The daemon as a process, between real SIPp endpoints on loopback. Each party sends RTP with a payload of its own, so that
//! a test can say who heard whom. Where SIPp is missing, every test says that it is skipped.

mod access;
#[path = "../xdp_support/bpf.rs"]
#[allow(dead_code, reason = "the XDP tests use the rest")]
mod bpf;
mod challenged;
mod cores;
mod crash;
mod disk;
mod drain;
mod harness;
mod ipv6;
mod kit;
mod load;
mod modify;
#[path = "../xdp_support/netns.rs"]
#[allow(dead_code, reason = "the XDP tests use the rest")]
mod netns;
mod originated;
mod overload;
mod redaction;
mod reloads;
mod setup;
mod tls;
#[path = "../xdp_support/traffic.rs"]
#[allow(dead_code, reason = "the XDP tests use the rest")]
mod traffic;
mod transfer;
