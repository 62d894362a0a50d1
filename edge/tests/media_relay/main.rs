//! A media thread and real sockets on loopback: every party sends payloads of its own, and the tests assert who heard whom.

mod bench;
mod latch;
mod life;
mod overload;
mod relay;

/// Each flow has sockets of its own. `media_steered` runs the same tests where flows share them.
fn hub() -> Option<sip_edge::media::Hub> {
    None
}

/// To be called after somebody has bound a port, or has given it back. Ports with sockets of their own need no look.
fn look_at_ports() {}
