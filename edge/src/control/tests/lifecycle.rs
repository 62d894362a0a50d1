//! Accepted connections: bytes both ways, and every way to end.

use super::*;
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::{Shutdown, UdpSocket};

#[test]
fn bytes_arrive_in_order_however_they_are_cut() {
    let edge = Edge::start(Options::default());
    let mut client = edge.client();
    let Input::Accepted {
        connection,
        listener,
        local,
        remote,
    } = edge.next()
    else {
        panic!("expected Accepted");
    };
    assert_eq!(listener, ListenerId(0));
    assert_eq!(local, edge.address());
    assert_eq!(remote, client.local_addr().unwrap());
    assert_eq!(connection.core(), CoreId(0));
    assert!(!connection.is_originated());
    client.set_nodelay(true).unwrap();
    let sent = pattern(300);
    for byte in sent.chunks(1) {
        client.write_all(byte).unwrap();
    }
    assert_eq!(edge.received(connection, sent.len()), sent);
}

#[test]
fn much_data_passes_both_ways_without_loss() {
    let edge = Edge::start(Options {
        reaction: echo(),
        ..Options::default()
    });
    let mut client = edge.client();
    let sent = pattern(6_000_000);
    let mut writer = client.try_clone().unwrap();
    let copy = sent.clone();
    // Never more in flight than the write queue holds, or the edge would rightly call the client a slow reader.
    let (credit, permits) = mpsc::sync_channel(8);
    let writing = std::thread::spawn(move || {
        for piece in copy.chunks(100_000) {
            credit.send(()).unwrap();
            writer.write_all(piece).unwrap();
        }
    });
    for piece in sent.chunks(100_000) {
        let mut back = vec![0; piece.len()];
        client.read_exact(&mut back).unwrap();
        assert!(back == piece);
        permits.recv_timeout(DEADLINE).unwrap();
    }
    writing.join().unwrap();
}

#[test]
fn small_messages_are_joined_in_order() {
    let edge = Edge::start(Options::default());
    let (mut client, connection) = edge.accepted();
    let sent = pattern(50_000);
    edge.does(
        sent.chunks(7)
            .map(|piece| transmit(connection, piece.to_vec())),
    );
    let mut got = vec![0; sent.len()];
    client.read_exact(&mut got).unwrap();
    assert!(got == sent);
}

#[test]
fn close_flushes_first_and_ends_with_eof() {
    let edge = Edge::start(Options::default());
    let (mut client, connection) = edge.accepted();
    let sent = pattern(900_000);
    edge.does([
        transmit(connection, sent.clone()),
        Output::Close { connection },
        transmit(connection, "after the close: never sent"),
    ]);
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert!(got == sent);
    drop(client);
    edge.wait_until_empty();
}

#[test]
fn a_refused_source_gets_no_answer_and_a_close() {
    let edge = Edge::start(Options {
        reaction: Box::new(|input| match input {
            Input::Accepted { connection, .. } => vec![Output::Close {
                connection: *connection,
            }],
            _ => Vec::new(),
        }),
        ..Options::default()
    });
    let mut client = edge.client();
    let mut got = Vec::new();
    // EOF, or a reset where the client had already written.
    let _ = client.read_to_end(&mut got);
    assert_eq!(got, b"");
    edge.wait_until_empty();
    assert!(matches!(edge.next(), Input::Accepted { .. }));
    assert!(edge.seen.try_recv().is_err(), "nothing else was reported");
}

#[test]
fn a_half_closed_peer_still_gets_its_answer() {
    let edge = Edge::start(Options {
        reaction: echo(),
        ..Options::default()
    });
    let (mut client, connection) = edge.accepted();
    let sent = pattern(10_000);
    client.write_all(&sent).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(edge.received(connection, sent.len()), sent);
    assert_eq!(edge.closed(connection), CloseReason::Peer);
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert!(got == sent);
    edge.wait_until_empty();
}

#[test]
fn eof_inside_a_message_is_reported_after_its_bytes() {
    let edge = Edge::start(Options::default());
    let (mut client, connection) = edge.accepted();
    client.write_all(b"INVITE sip:").unwrap();
    drop(client);
    assert_eq!(edge.received(connection, 11), b"INVITE sip:");
    assert_eq!(edge.closed(connection), CloseReason::Peer);
    edge.wait_until_empty();
}

#[test]
fn a_reset_is_reported_once() {
    let edge = Edge::start(Options::default());
    let (client, connection) = edge.accepted();
    SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    assert_eq!(edge.closed(connection), CloseReason::Peer);
    edge.wait_until_empty();
    edge.does([
        transmit(connection, "to nobody"),
        Output::Close { connection },
    ]);
    let next = edge.accepted();
    assert_ne!(next.1, connection);
}

#[test]
fn a_peer_that_does_not_close_its_side_is_given_up() {
    let edge = Edge::start(Options {
        limits: ControlLimits {
            linger: Duration::from_millis(20),
            sweep: Duration::from_millis(5),
            ..ControlLimits::default()
        },
        ..Options::default()
    });
    let (mut client, connection) = edge.accepted();
    edge.does([Output::Close { connection }]);
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"");
    // The client keeps its side open, and the edge forgets it all the same.
    edge.wait_until_empty();
}

#[test]
fn stop_flushes_and_closes_what_is_open() {
    let edge = Edge::start(Options::default());
    let (mut client, connection) = edge.accepted();
    let sent = pattern(200_000);
    edge.does([transmit(connection, sent.clone())]);
    let reading = std::thread::spawn(move || {
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        got
    });
    // The poke is taken before the command.
    while !is_poke(&edge.seen.recv_timeout(DEADLINE).unwrap()) {}
    edge.stop();
    assert!(reading.join().unwrap() == sent);
}

#[test]
fn datagrams_come_and_go_through_the_listener() {
    let edge = Edge::start(Options {
        transports: vec![Transport::Udp],
        reaction: Box::new(|input| match input {
            Input::Datagram {
                listener,
                source,
                bytes,
            } => vec![Output::Datagram {
                listener: *listener,
                destination: *source,
                bytes: bytes.clone(),
            }],
            _ => Vec::new(),
        }),
        ..Options::default()
    });
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.connect(edge.address()).unwrap();
    for size in [0, 1, 1_300, 60_000] {
        let sent = pattern(size);
        client.send(&sent).unwrap();
        let mut got = vec![0; 65_536];
        let length = client.recv(&mut got).unwrap();
        assert!(got[..length] == sent);
    }
}
