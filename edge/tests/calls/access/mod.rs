//! Who may speak to the edge at all: on loopback, where userspace alone decides, and on a veth pair with XDP in front.

mod detached;
mod removed;
mod strangers;
mod veth;

use crate::harness::{Edge, Wire};
use std::fs;
use std::net::SocketAddr;

/// A request that a listed source has answered.
fn options(wire: &mut Wire, edge: SocketAddr) {
    let local = wire.local();
    wire.send(
        &format!(
            "OPTIONS sip:{edge} SIP/2.0
             Via: SIP/2.0/TCP {local};branch=z9hG4bKprobe
             Max-Forwards: 70
             From: <sip:probe@{local}>;tag=1
             To: <sip:{edge}>
             Call-ID: probe
             CSeq: 1 OPTIONS"
        ),
        "",
    );
}

/// Asserts that a request on the connection is answered.
fn is_served(wire: &mut Wire, edge: SocketAddr) {
    options(wire, edge);
    let answer = wire.next().expect("an answer");
    assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");
}

/// Changes the configuration file: each (old, new) text, which has to be there.
fn rewrite(edge: &Edge, changes: &[(String, String)]) {
    let mut text = fs::read_to_string(edge.file()).expect("the configuration");
    for (old, new) in changes {
        assert!(text.contains(old), "no {old} in {text}");
        text = text.replace(old, new);
    }
    fs::write(edge.file(), text).expect("writable");
}
