//! Requests received.

use super::*;

const OPTIONS: Request<'static> = Request {
    method: "OPTIONS",
    branch: ";branch=z9hG4bK-o",
    ..INVITE
};

/// The ACK for a 3xx-6xx to [`INVITE`].
const ACK: Request<'static> = Request {
    method: "ACK",
    to_tag: ";tag=to-1",
    ..INVITE
};

/// The ACK for a 2xx to [`INVITE`].
const ACK_2XX: Request<'static> = Request {
    branch: ";branch=z9hG4bK-ack",
    ..ACK
};

#[test]
fn a_repeated_invite_gets_the_latest_provisional_response_again() {
    let mut layer = layer();
    let key = INVITE.receive(&mut layer, at(0), udp());
    let repeat = |layer: &mut TransactionLayer| {
        assert_eq!(
            INVITE.offer(layer, at(500), udp()),
            RequestDisposition::Absorbed
        );
        drain(layer)
    };
    assert_eq!(repeat(&mut layer), Vec::<String>::new());
    for code in [100, 180] {
        respond(&mut layer, at(100), key, &INVITE.message(), code);
        assert_eq!(drain(&mut layer), [code.to_string()]);
        assert_eq!(layer.latest_status(key), Some(code));
        assert_eq!(repeat(&mut layer), [code.to_string()]);
    }
    assert!(!layer.is_final(key));
    assert_eq!(layer.poll_timeout(), None, "the user decides how long");
}

#[test]
fn a_refused_invite_over_udp_is_refused_again_until_the_ack() {
    let mut layer = layer();
    let key = INVITE.receive(&mut layer, at(0), udp());
    respond(&mut layer, at(0), key, &INVITE.message(), 486);
    assert_eq!(drain(&mut layer), ["486"]);
    assert_eq!(
        run(&mut layer, at(4_000)),
        events(&[(500, "486"), (1_500, "486"), (3_500, "486")])
    );
    INVITE.offer(&mut layer, at(4_000), udp());
    assert_eq!(drain(&mut layer), ["486"], "asked for again");
    for _ in 0..2 {
        assert_eq!(
            ACK.offer(&mut layer, at(4_000), udp()),
            RequestDisposition::Absorbed
        );
    }
    INVITE.offer(&mut layer, at(4_001), udp());
    assert_eq!(drain(&mut layer), Vec::<String>::new(), "confirmed");
    assert_eq!(run(&mut layer, at(9_000)), events(&[(9_000, "ServerDone")]));
    assert_empty(&layer);
}

#[test]
fn a_refused_invite_that_is_never_acknowledged_ends_after_64_t1() {
    for (hop, repeats) in [(udp(), 10), (tcp(1), 0)] {
        let mut layer = layer();
        let key = INVITE.receive(&mut layer, at(0), hop);
        respond(&mut layer, at(0), key, &INVITE.message(), 603);
        drain(&mut layer);
        let mut log = run(&mut layer, at(32_000));
        assert_eq!(log.pop(), Some((32_000, "ServerDone".to_owned())));
        assert_eq!(log.len(), repeats);
        assert_empty(&layer);
    }
}

#[test]
fn over_tcp_the_ack_of_a_refusal_ends_the_transaction() {
    let mut layer = layer();
    let key = INVITE.receive(&mut layer, at(0), tcp(1));
    respond(&mut layer, at(0), key, &INVITE.message(), 603);
    ACK.offer(&mut layer, at(10), tcp(1));
    assert_eq!(drain(&mut layer), ["603", "ServerDone"]);
    assert_empty(&layer);
}

#[test]
fn a_2xx_is_repeated_on_every_transport_until_it_is_acknowledged() {
    for hop in [udp(), tcp(1)] {
        let mut layer = layer();
        let key = INVITE.receive(&mut layer, at(0), hop);
        respond(&mut layer, at(0), key, &INVITE.message(), 200);
        assert_eq!(drain(&mut layer), ["200"]);
        assert_eq!(
            run(&mut layer, at(8_000)),
            events(&[(500, "200"), (1_500, "200"), (3_500, "200"), (7_500, "200")])
        );
        INVITE.offer(&mut layer, at(8_000), hop);
        assert_eq!(drain(&mut layer), Vec::<String>::new(), "RFC 6026 §7.1");
        for _ in 0..2 {
            assert_eq!(
                ACK_2XX.offer(&mut layer, at(8_000), hop),
                RequestDisposition::Ack(Some(key))
            );
            layer.acknowledged(key);
        }
        INVITE.offer(&mut layer, at(8_001), hop);
        assert_eq!(drain(&mut layer), Vec::<String>::new());
        assert_eq!(
            run(&mut layer, at(32_000)),
            events(&[(32_000, "ServerDone")])
        );
        layer.acknowledged(key);
        assert_eq!(
            ACK_2XX.offer(&mut layer, at(32_001), hop),
            RequestDisposition::Ack(None),
            "late, and still the user's to judge"
        );
        assert_empty(&layer);
    }
}

#[test]
fn a_2xx_that_is_never_acknowledged_is_reported() {
    let mut layer = layer();
    let key = INVITE.receive(&mut layer, at(0), tcp(1));
    respond(&mut layer, at(0), key, &INVITE.message(), 200);
    let mut log = run(&mut layer, at(32_000));
    assert_eq!(log.pop(), Some((32_000, "ServerDone".to_owned())));
    assert_eq!(log.pop(), Some((32_000, "NoAck".to_owned())));
    assert!(log.iter().all(|(_, what)| what == "200"));
    assert_empty(&layer);
}

#[test]
fn an_ack_for_a_2xx_within_the_invites_branch_is_the_users_too() {
    let mut layer = layer();
    let key = INVITE.receive(&mut layer, at(0), udp());
    respond(&mut layer, at(0), key, &INVITE.message(), 200);
    assert_eq!(
        ACK.offer(&mut layer, at(1), udp()),
        RequestDisposition::Ack(Some(key))
    );
}

#[test]
fn an_ack_of_another_call_or_number_finds_no_invite() {
    let mut layer = layer();
    let key = INVITE.receive(&mut layer, at(0), udp());
    assert_eq!(
        ACK_2XX.offer(&mut layer, at(0), udp()),
        RequestDisposition::Ack(None),
        "there is nothing to acknowledge yet"
    );
    respond(&mut layer, at(0), key, &INVITE.message(), 200);
    for other in [
        Request { cseq: 8, ..ACK_2XX },
        Request {
            call_id: "call-2",
            ..ACK_2XX
        },
    ] {
        assert_eq!(
            other.offer(&mut layer, at(1), udp()),
            RequestDisposition::Ack(None)
        );
    }
}

#[test]
fn another_request_is_answered_again_until_timer_j() {
    let mut layer = layer();
    let key = OPTIONS.receive(&mut layer, at(0), udp());
    OPTIONS.offer(&mut layer, at(1), udp());
    assert_eq!(drain(&mut layer), Vec::<String>::new());
    respond(&mut layer, at(0), key, &OPTIONS.message(), 200);
    assert!(layer.is_final(key));
    OPTIONS.offer(&mut layer, at(500), udp());
    assert_eq!(drain(&mut layer), ["200", "200"]);
    assert!(!layer.respond(at(501), key, 500, Bytes::from_static(b"never sent")));
    assert_eq!(
        run(&mut layer, at(32_000)),
        events(&[(32_000, "ServerDone")])
    );
    assert_empty(&layer);

    let key = OPTIONS.receive(&mut layer, at(0), tcp(1));
    respond(&mut layer, at(0), key, &OPTIONS.message(), 200);
    assert_eq!(drain(&mut layer), ["200", "ServerDone"]);
    assert_empty(&layer);
}

#[test]
fn branch_sent_by_and_method_make_the_transaction() {
    let mut layer = layer();
    OPTIONS.receive(&mut layer, at(0), udp());
    for (what, different) in [
        (
            "branch",
            Request {
                branch: ";branch=z9hG4bK-O",
                call_id: "b",
                ..OPTIONS
            },
        ),
        (
            "host",
            Request {
                sent_by: "192.0.2.2:5060",
                call_id: "h",
                ..OPTIONS
            },
        ),
        (
            "port",
            Request {
                sent_by: "192.0.2.1:5070",
                call_id: "p",
                ..OPTIONS
            },
        ),
        (
            "method",
            Request {
                method: "INFO",
                call_id: "m",
                ..OPTIONS
            },
        ),
    ] {
        let disposition = different.offer(&mut layer, at(0), udp());
        assert!(
            matches!(disposition, RequestDisposition::New(_)),
            "{what}: {disposition:?}"
        );
    }
    let default_port = Request {
        sent_by: "192.0.2.1",
        ..OPTIONS
    };
    assert_eq!(
        default_port.offer(&mut layer, at(0), udp()),
        RequestDisposition::Absorbed
    );
    let named = |sent_by| Request {
        sent_by,
        branch: ";branch=z9hG4bK-named",
        call_id: "n",
        ..OPTIONS
    };
    named("Host.example.net").receive(&mut layer, at(0), udp());
    assert_eq!(
        named("host.EXAMPLE.net:5060").offer(&mut layer, at(0), udp()),
        RequestDisposition::Absorbed
    );
}

#[test]
fn over_udp_the_answer_goes_by_rport_or_by_the_via_port() {
    let from = udp_from("198.51.100.7:40000");
    for (branch, expected) in [
        (";branch=z9hG4bK-1;rport", "198.51.100.7:40000"),
        (";branch=z9hG4bK-1", "198.51.100.7:5070"),
    ] {
        let mut layer = layer();
        let request = Request {
            branch,
            sent_by: "192.0.2.1:5070",
            ..OPTIONS
        };
        let key = request.receive(&mut layer, at(0), from);
        assert_eq!(layer.server_hop(key), Some(udp_from(expected)));
        respond(&mut layer, at(0), key, &request.message(), 200);
        assert_eq!(sent(&mut layer)[0].0, udp_from(expected));
    }
}

#[test]
fn a_merged_request_is_told() {
    let mut layer = layer();
    let second_path = Request {
        branch: ";branch=z9hG4bK-2",
        ..INVITE
    };
    let first = INVITE.receive(&mut layer, at(0), udp());
    let RequestDisposition::Merged(merged) = second_path.offer(&mut layer, at(1), udp()) else {
        panic!("not merged")
    };
    respond(&mut layer, at(1), merged, &second_path.message(), 482);
    assert_eq!(
        second_path.offer(&mut layer, at(2), udp()),
        RequestDisposition::Absorbed
    );
    drain(&mut layer);
    // The ACK for the first one's 2xx finds the first one.
    respond(&mut layer, at(3), first, &INVITE.message(), 200);
    assert_eq!(
        ACK_2XX.offer(&mut layer, at(4), udp()),
        RequestDisposition::Ack(Some(first))
    );
    run(&mut layer, after_everything(at(4)));
    drain(&mut layer);
    assert_empty(&layer);
}

#[test]
fn a_request_is_not_merged_with_another_number_dialog_or_answered_try() {
    let second = Request {
        branch: ";branch=z9hG4bK-2",
        ..INVITE
    };
    for (what, request) in [
        ("number", Request { cseq: 8, ..second }),
        (
            "dialog",
            Request {
                to_tag: ";tag=ours",
                ..second
            },
        ),
        (
            "call",
            Request {
                call_id: "call-2",
                ..second
            },
        ),
    ] {
        let mut layer = layer();
        INVITE.receive(&mut layer, at(0), udp());
        let disposition = request.offer(&mut layer, at(1), udp());
        assert!(
            matches!(disposition, RequestDisposition::New(_)),
            "{what}: {disposition:?}"
        );
    }
    for code in [401, 407, 503] {
        let mut layer = layer();
        let first = INVITE.receive(&mut layer, at(0), udp());
        respond(&mut layer, at(0), first, &INVITE.message(), code);
        let again = second.receive(&mut layer, at(1), udp());
        respond(&mut layer, at(2), again, &INVITE.message(), 200);
        // The first transaction's end takes nothing away from the second.
        ACK.offer(&mut layer, at(3), udp());
        run(&mut layer, at(6_000));
        assert_eq!(
            ACK_2XX.offer(&mut layer, at(6_000), udp()),
            RequestDisposition::Ack(Some(again)),
            "after {code}"
        );
    }
}

#[test]
fn a_response_without_a_connection_waits_for_a_new_one() {
    let mut layer = layer();
    let options = OPTIONS.receive(&mut layer, at(0), tcp(1));
    let invite = INVITE.receive(&mut layer, at(0), tcp(1));
    respond(&mut layer, at(0), invite, &INVITE.message(), 100);
    drain(&mut layer);
    layer.hop_failed(at(1), tcp(1));
    respond(&mut layer, at(2), options, &OPTIONS.message(), 200);
    respond(&mut layer, at(2), invite, &INVITE.message(), 200);
    assert_eq!(drain(&mut layer), Vec::<String>::new(), "nobody to send to");

    // One is moved by the user, the other by its peer, which repeats its request over a new connection.
    layer.set_server_hop(options, tcp(2), true);
    assert_eq!(layer.server_hop(options), Some(tcp(2)));
    let moved = sent(&mut layer);
    assert_eq!(moved.len(), 1);
    assert_eq!((moved[0].0, moved[0].1.status()), (tcp(2), Some(200)));
    assert_eq!(
        INVITE.offer(&mut layer, at(3), tcp(3)),
        RequestDisposition::Absorbed
    );
    let moved = sent(&mut layer);
    assert_eq!(moved.len(), 1);
    assert_eq!((moved[0].0, moved[0].1.status()), (tcp(3), Some(200)));

    layer.acknowledged(invite);
    assert_eq!(
        run(&mut layer, after_everything(at(3))),
        events(&[(32_002, "ServerDone"), (32_002, "ServerDone")])
    );
    assert_empty(&layer);
}

#[test]
fn an_unreachable_udp_peer_is_tried_again() {
    let mut layer = layer();
    let key = INVITE.receive(&mut layer, at(0), udp());
    layer.hop_failed(at(0), udp());
    respond(&mut layer, at(0), key, &INVITE.message(), 486);
    assert_eq!(drain(&mut layer), ["486"]);
    assert_eq!(run(&mut layer, at(500)), events(&[(500, "486")]));
}

#[test]
fn a_moved_transaction_takes_the_new_transports_timers() {
    for (hop, reliable, ends_at_once) in [(tcp(2), true, true), (udp(), false, false)] {
        let mut layer = layer();
        let key = OPTIONS.receive(&mut layer, at(0), tcp(1));
        layer.hop_failed(at(0), tcp(1));
        layer.set_server_hop(key, hop, reliable);
        respond(&mut layer, at(0), key, &OPTIONS.message(), 200);
        let log = drain(&mut layer);
        assert_eq!(log.contains(&"ServerDone".to_owned()), ends_at_once);
    }
}

#[test]
fn the_ack_of_a_2xx_inside_a_dialog_finds_its_invite() {
    let mut layer = layer();
    let reinvite = Request {
        to_tag: ";tag=to-1",
        cseq: 9,
        ..INVITE
    };
    let key = reinvite.receive(&mut layer, at(0), tcp(1));
    respond(&mut layer, at(0), key, &reinvite.message(), 200);
    let ack = Request { cseq: 9, ..ACK_2XX };
    assert_eq!(
        ack.offer(&mut layer, at(1), tcp(1)),
        RequestDisposition::Ack(Some(key))
    );
}

#[test]
fn a_transaction_on_a_live_connection_does_not_follow_a_repeated_request() {
    let mut layer = layer();
    let key = INVITE.receive(&mut layer, at(0), tcp(1));
    respond(&mut layer, at(0), key, &INVITE.message(), 180);
    INVITE.offer(&mut layer, at(1), tcp(2));
    assert_eq!(layer.server_hop(key), Some(tcp(1)));
    assert!(sent(&mut layer).iter().all(|(hop, _)| *hop == tcp(1)));
}

#[test]
fn an_abandoned_request_leaves_nothing() {
    let mut layer = layer();
    let key = INVITE.receive(&mut layer, at(0), udp());
    layer.abandon(key);
    layer.abandon(key);
    assert_eq!(drain(&mut layer), ["ServerDone"]);
    assert!(!layer.respond(at(0), key, 200, Bytes::new()));
    assert!(layer.is_final(key));
    assert_empty(&layer);
}

#[test]
fn a_response_is_no_request() {
    let mut layer = layer();
    let response = parse(answer(&INVITE.message(), 200, "to-1"));
    assert_eq!(
        layer.on_request(at(0), udp(), false, &response),
        RequestDisposition::Absorbed
    );
    assert_empty(&layer);
}
