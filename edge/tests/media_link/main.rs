//! Media that leaves past the kernel's IP, between network namespaces of the tests' own.

#[path = "../media_relay/bench.rs"]
#[allow(dead_code)]
mod bench;
#[path = "../xdp_support/netns.rs"]
#[allow(dead_code)]
mod netns;
mod relay;

/// Each test opens its own.
fn hub() -> Option<sip_edge::media::Hub> {
    None
}
