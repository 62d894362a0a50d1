//! Connections that the edge opens.

use super::*;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};

fn connect(connection: ConnectionId, local: &str, remote: SocketAddr) -> Output {
    Output::Connect {
        connection,
        transport: Transport::Tcp,
        local: local.parse().unwrap(),
        remote,
        tls: None,
    }
}

const FIRST: ConnectionId = ConnectionId::originated(CoreId(0), 1);

#[test]
fn bytes_wait_for_the_connection_and_the_peer_sees_the_address_asked_for() {
    let edge = Edge::start(Options::default());
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let sent = pattern(100_000);
    edge.does([
        connect(FIRST, "127.0.0.7", peer.local_addr().unwrap()),
        transmit(FIRST, sent[..10].to_vec()),
        transmit(FIRST, sent[10..].to_vec()),
    ]);
    let (mut stream, source) = peer.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(source.ip(), "127.0.0.7".parse::<IpAddr>().unwrap());
    let Input::Connected { connection, local } = edge.next() else {
        panic!("expected Connected");
    };
    assert_eq!((connection, local), (FIRST, source));
    let mut got = vec![0; sent.len()];
    stream.read_exact(&mut got).unwrap();
    assert!(got == sent);
    stream.write_all(b"SIP/2.0 200 OK").unwrap();
    assert_eq!(edge.received(FIRST, 14), b"SIP/2.0 200 OK");
    edge.does([Output::Close { connection: FIRST }]);
    assert_eq!(stream.read(&mut got).unwrap(), 0);
}

#[test]
fn ipv6_works_in_both_directions() {
    let edge = Edge::start(Options {
        reaction: echo(),
        ..Options::default()
    });
    let peer = TcpListener::bind("[::1]:0").unwrap();
    edge.does([connect(FIRST, "::1", peer.local_addr().unwrap())]);
    let (mut stream, source) = peer.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    assert!(matches!(edge.next(), Input::Connected { local, .. } if local == source));
    stream.write_all(b"OPTIONS").unwrap();
    let mut got = [0; 7];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"OPTIONS");
}

#[test]
fn a_refused_connection_names_both_ends_and_the_error() {
    let edge = Edge::start(Options::default());
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    edge.does([
        connect(FIRST, "127.0.0.1", closed),
        transmit(FIRST, "lost with it"),
    ]);
    let CloseReason::ConnectFailed(text) = edge.closed(FIRST) else {
        panic!("expected ConnectFailed");
    };
    assert!(text.contains(&closed.to_string()), "{text}");
    assert!(text.contains("refused"), "{text}");
    edge.wait_until_empty();
}

#[test]
fn an_address_that_is_not_ours_cannot_be_the_source() {
    let edge = Edge::start(Options::default());
    edge.does([connect(FIRST, "192.0.2.1", edge.address())]);
    let CloseReason::ConnectFailed(text) = edge.closed(FIRST) else {
        panic!("expected ConnectFailed");
    };
    assert!(text.contains("192.0.2.1"), "{text}");
}

/// A peer that answers no SYN: its queue of connections is full.
fn deaf_peer() -> (TcpListener, Vec<std::net::TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let listener: TcpListener = socket.into();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(50))
    {
        queued.push(stream);
        assert!(queued.len() < 100, "the queue never fills");
    }
    (listener, queued)
}

#[test]
fn a_connection_that_is_not_answered_times_out() {
    let mut options = Options::default();
    options.limits.connect = Duration::from_millis(30);
    let edge = Edge::start(options);
    let (peer, _queued) = deaf_peer();
    edge.does([connect(FIRST, "127.0.0.1", peer.local_addr().unwrap())]);
    let CloseReason::ConnectFailed(text) = edge.closed(FIRST) else {
        panic!("expected ConnectFailed");
    };
    assert!(text.contains("no answer within 30ms"), "{text}");
}

#[test]
fn closing_before_it_is_open_gives_the_connection_up() {
    let edge = Edge::start(Options::default());
    let (peer, _queued) = deaf_peer();
    edge.does([connect(FIRST, "127.0.0.1", peer.local_addr().unwrap())]);
    edge.wait_until_open(1);
    // The connector runs; the close ends it long before its own timeout.
    edge.does([Output::Close { connection: FIRST }]);
    edge.wait_until_empty();
}

#[test]
fn closing_with_bytes_waiting_delivers_them_first() {
    let edge = Edge::start(Options::default());
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    edge.does([
        connect(FIRST, "127.0.0.1", peer.local_addr().unwrap()),
        transmit(FIRST, "BYE"),
        Output::Close { connection: FIRST },
    ]);
    let (mut stream, _) = peer.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"BYE");
    drop(stream);
    edge.wait_until_empty();
}

#[test]
fn bytes_for_a_connection_in_the_making_are_bounded() {
    let edge = Edge::start(Options::default());
    let (peer, _queued) = deaf_peer();
    let half = ControlLimits::default().write_queue_bytes / 2;
    edge.does([
        connect(FIRST, "127.0.0.1", peer.local_addr().unwrap()),
        transmit(FIRST, pattern(half)),
        transmit(FIRST, pattern(half)),
        transmit(FIRST, "one too many"),
    ]);
    assert_eq!(edge.closed(FIRST), CloseReason::Local);
    edge.wait_until_empty();
}
