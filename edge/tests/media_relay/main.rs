//! A media thread and real sockets on loopback: every party sends payloads of its own, and the tests assert who heard whom.

mod bench;
mod latch;
mod life;
mod overload;
mod relay;
