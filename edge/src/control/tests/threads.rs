//! What goes between a control thread and other threads: handoffs, media, commands, time.

use super::*;
use edge_proto::b2bua::Hop;
use edge_proto::id::AllocationId;
use std::io::{Read, Write};

/// Two control threads that know each other's queue.
fn two_cores(capacity: usize) -> (Edge, Edge) {
    let queue = || {
        let waker = Waker::new().unwrap();
        let (sender, receiver) = bounded_on(capacity, &waker);
        (waker, sender, receiver)
    };
    let (first, second) = (queue(), queue());
    let cores = vec![first.1.clone(), second.1.clone()];
    let start = |core, handoffs, cores: &Vec<_>| {
        Edge::start(Options {
            core: CoreId(core),
            handoffs: Some(handoffs),
            cores: cores.clone(),
            ..Options::default()
        })
    };
    (start(0, first, &cores), start(1, second, &cores))
}

#[test]
fn a_message_goes_to_its_core_and_the_answer_back_to_the_connection() {
    let (zero, one) = two_cores(64);
    let (mut client, connection) = one.accepted();
    assert_eq!(connection.core(), CoreId(1));
    client.write_all(b"REFER").unwrap();
    assert_eq!(one.received(connection, 5), b"REFER");
    let remote = client.local_addr().unwrap();
    one.does([Output::Handoff {
        core: CoreId(0),
        message: HandoffMessage::Message {
            hop: Hop::Stream(connection),
            listener: Some(ListenerId(0)),
            trunk: None,
            called: None,
            transport: Transport::Tcp,
            local: one.address(),
            remote,
            raw: Bytes::from_static(b"REFER"),
        },
    }]);
    let Input::Handoff(HandoffMessage::Message { hop, raw, .. }) = zero.next() else {
        panic!("expected Handoff");
    };
    assert_eq!((hop, &raw[..]), (Hop::Stream(connection), &b"REFER"[..]));
    zero.does([Output::Handoff {
        core: CoreId(1),
        message: HandoffMessage::Transmit {
            from: CoreId(0),
            connection,
            bytes: Bytes::from_static(b"202"),
        },
    }]);
    let Input::Handoff(HandoffMessage::Transmit {
        connection, bytes, ..
    }) = one.next()
    else {
        panic!("expected Handoff");
    };
    one.does([transmit(connection, bytes)]);
    let mut got = [0; 3];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"202");
}

#[test]
fn a_handoff_that_finds_no_room_comes_back() {
    // The other core's queue exists, but nobody empties it.
    let (full, _queue) = bounded(1).unwrap();
    let edge = Edge::start(Options {
        cores: vec![full.clone(), full],
        ..Options::default()
    });
    let gone = |serial| HandoffMessage::ConnectionGone {
        connection: ConnectionId::accepted(CoreId(1), serial),
    };
    edge.does([1, 2].map(|serial| Output::Handoff {
        core: CoreId(1),
        message: gone(serial),
    }));
    let Input::HandoffRejected {
        core: CoreId(1),
        message: HandoffMessage::ConnectionGone { connection },
    } = edge.next()
    else {
        panic!("expected HandoffRejected");
    };
    assert_eq!(connection, ConnectionId::accepted(CoreId(1), 2));
    assert_eq!(edge.status.handoffs_rejected.load(Ordering::Relaxed), 1);
}

#[test]
fn media_commands_and_events_cross_in_order_even_when_the_queue_is_short() {
    let edge = Edge::start(Options::default());
    let allocation = |slot| AllocationId {
        slot,
        generation: 1,
    };
    edge.does((0..200).map(|slot| {
        Output::Media(MediaCommand::Close {
            allocation: allocation(slot),
        })
    }));
    for slot in 0..200 {
        let command = edge.media.recv_timeout(Some(DEADLINE)).unwrap();
        let expected = MediaCommand::Close {
            allocation: allocation(slot),
        };
        assert_eq!(command, Some(expected));
    }
    let opened = MediaEvent::Opened {
        allocation: allocation(7),
    };
    edge.media_events.try_send(opened.clone()).unwrap();
    assert!(matches!(edge.next(), Input::Media(event) if event == opened));
}

#[test]
fn a_timeout_comes_when_it_was_asked_for() {
    let edge = Edge::start(Options::default());
    for after in [0, 30] {
        let at = edge.clock.now() + Duration::from_millis(after);
        *edge.timeout.lock().unwrap() = Some(at);
        edge.does([]);
        // The script checks that it is not early.
        assert!(matches!(edge.next(), Input::Timeout));
    }
}

#[test]
fn drain_reaches_the_protocol_and_idleness_the_supervisor() {
    let edge = Edge::start(Options::default());
    assert!(!edge.status.idle.load(Ordering::Acquire));
    edge.commands.try_send(ControlCommand::Drain).unwrap();
    assert!(matches!(edge.next(), Input::Drain));
    let start = std::time::Instant::now();
    while !edge.status.idle.load(Ordering::Acquire) {
        assert!(start.elapsed() < DEADLINE);
        std::thread::yield_now();
    }
}

#[test]
fn a_reload_keeps_connections_and_unchanged_listeners_and_closes_the_others() {
    let edge = Edge::start(Options {
        transports: vec![Transport::Tcp, Transport::Tcp],
        ..Options::default()
    });
    let (mut client, connection) = edge.accepted();
    let (mut added, added_addresses) = listeners(&[Transport::Tcp]);
    added[0].id = ListenerId(0);
    // The second listener stays, now as the second of another list; the first goes.
    let reload = ControlCommand::Reload {
        config: config(50),
        tls: Arc::default(),
        resolver: ResolverSettings::default(),
        listeners: vec![
            added.remove(0),
            ListenerSetup {
                id: ListenerId(1),
                transport: Transport::Tcp,
                address: edge.addresses[1],
                socket: None,
            },
        ],
    };
    edge.commands.try_send(reload).unwrap();
    assert!(matches!(edge.next(), Input::Reload(config) if config.sip.limits.connections == 50));
    let _kept = super::client(edge.addresses[1]);
    assert!(matches!(
        edge.next(),
        Input::Accepted {
            listener: ListenerId(1),
            ..
        }
    ));
    let _new = super::client(added_addresses[0]);
    assert!(
        matches!(edge.next(), Input::Accepted { listener: ListenerId(0), local, .. } if local == added_addresses[0])
    );
    let start = std::time::Instant::now();
    while TcpStream::connect(edge.addresses[0]).is_ok() {
        assert!(
            start.elapsed() < DEADLINE,
            "the removed listener still listens"
        );
    }
    client.write_all(b"still here").unwrap();
    loop {
        // A connection that slipped in before the listener closed is told of first.
        match edge.next() {
            Input::Received {
                connection: c,
                bytes,
            } if c == connection => {
                assert!(b"still here".starts_with(&bytes));
                break;
            }
            Input::Accepted { .. } | Input::Closed { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}
