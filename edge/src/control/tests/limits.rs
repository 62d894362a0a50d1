//! A limit on everything: connections, bytes that wait, and every wait.

use super::*;
use std::io::Read;

fn quick(change: impl FnOnce(&mut ControlLimits)) -> Options {
    let mut options = Options::default();
    change(&mut options.limits);
    options
}

#[test]
fn connections_beyond_the_limit_are_closed_and_counted() {
    let edge = Edge::start(Options {
        // An eighth is kept for connections that the edge opens: 14 may come in.
        connections: 16,
        ..Options::default()
    });
    let mut kept: Vec<_> = (0..14).map(|_| edge.accepted()).collect();
    let mut refused = edge.client();
    let mut got = Vec::new();
    let _ = refused.read_to_end(&mut got);
    assert_eq!(got, b"");
    assert_eq!(edge.status.refused.load(Ordering::Relaxed), 1);
    assert_eq!(edge.status.accepted.load(Ordering::Relaxed), 14);
    // A place that becomes free is used again.
    let (client, connection) = kept.pop().unwrap();
    drop(client);
    assert_eq!(edge.closed(connection), CloseReason::Peer);
    edge.wait_until_open(13);
    edge.accepted();
}

#[test]
fn outbound_connections_beyond_the_limit_fail_with_the_reason() {
    let edge = Edge::start(Options {
        connections: 1,
        ..Options::default()
    });
    let (_client, _) = edge.accepted();
    let connection = ConnectionId::originated(CoreId(0), 1);
    edge.does([Output::Connect {
        connection,
        transport: Transport::Tcp,
        local: "127.0.0.1".parse().unwrap(),
        remote: edge.address(),
        tls: None,
    }]);
    assert_eq!(
        edge.closed(connection),
        CloseReason::ConnectFailed("the limit of 1 connections is reached".into())
    );
}

#[test]
fn a_peer_that_does_not_read_is_closed_when_too_much_waits() {
    let edge = Edge::start(Options::default());
    let (_client, connection) = edge.accepted();
    let limit = ControlLimits::default().write_queue_bytes;
    // The kernel's buffers take some megabytes; what is beyond them and the limit is too much.
    let mut waiting = 0;
    let reason = loop {
        edge.does([transmit(connection, pattern(limit / 4))]);
        waiting += limit / 4;
        match edge.seen.recv_timeout(DEADLINE).unwrap() {
            Input::Closed { reason, .. } => break reason,
            _ => assert!(waiting < 256 * limit, "no limit"),
        }
    };
    assert_eq!(reason, CloseReason::Local);
    assert!(edge.noted().contains("peer does not read"));
    edge.wait_until_empty();
}

#[test]
fn a_write_without_progress_is_given_up() {
    let edge = Edge::start(quick(|limits| {
        limits.write_stall = Duration::from_millis(20);
        limits.write_queue_bytes = 64 * 1024 * 1024;
    }));
    let (_client, connection) = edge.accepted();
    edge.does([transmit(connection, pattern(32 * 1024 * 1024))]);
    assert_eq!(edge.closed(connection), CloseReason::Local);
    assert!(edge.noted().contains("peer has read nothing"));
    edge.wait_until_empty();
}

#[test]
fn a_connection_that_brings_nothing_is_closed() {
    let edge = Edge::start(quick(|limits| {
        limits.first_bytes = Duration::from_millis(20)
    }));
    let (mut client, connection) = edge.accepted();
    assert_eq!(edge.closed(connection), CloseReason::Local);
    assert!(edge.noted().contains("nothing received"));
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"");
}

#[test]
fn a_silent_connection_is_closed() {
    let edge = Edge::start(quick(|limits| limits.idle = Duration::from_millis(20)));
    let (mut client, connection) = edge.accepted();
    assert_eq!(edge.closed(connection), CloseReason::Local);
    assert!(edge.noted().contains("idle"));
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"");
}

/// One that needs a while for each input, and says that it is behind at the first opportunity.
fn slow(transport: Transport) -> Edge {
    let mut options = quick(|limits| limits.overload = Duration::from_millis(5));
    options.transports = vec![transport];
    options.reaction = Box::new(|input| {
        if matches!(input, Input::Received { .. } | Input::Datagram { .. }) {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Vec::new()
    });
    Edge::start(options)
}

/// What the protocol is told next about the load; `meanwhile` is done until then.
fn overloaded(edge: &Edge, mut meanwhile: impl FnMut()) -> bool {
    let start = std::time::Instant::now();
    loop {
        assert!(start.elapsed() < DEADLINE, "nothing is told");
        meanwhile();
        std::thread::yield_now();
        while let Ok(input) = edge.seen.try_recv() {
            if let Input::Overloaded(overloaded) = input {
                return overloaded;
            }
        }
    }
}

#[test]
fn one_that_is_behind_what_a_connection_brings_says_so_until_it_has_caught_up() {
    use std::io::Write;
    let edge = slow(Transport::Tcp);
    let (mut client, _) = edge.accepted();
    client.set_nonblocking(true).unwrap();
    let chunk = pattern(64 * 1024);
    // As fast as the socket takes it.
    assert!(overloaded(&edge, || drop(client.write(&chunk))));
    assert!(!overloaded(&edge, || drop(edge.handoffs.try_send(poke()))));
}

#[test]
fn one_that_is_behind_what_comes_by_udp_says_so_until_it_has_caught_up() {
    let edge = slow(Transport::Udp);
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(edge.address()).unwrap();
    assert!(overloaded(&edge, || drop(client.send(b"more"))));
    assert!(!overloaded(&edge, || drop(edge.handoffs.try_send(poke()))));
}
