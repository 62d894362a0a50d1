//! How much there can be.

use super::*;

fn numbered(method: &'static str, number: usize) -> (String, String, &'static str) {
    (
        format!(";branch=z9hG4bK-{number}"),
        format!("call-{number}"),
        method,
    )
}

/// Offers requests, each a call of its own, until one is refused; returns how many were taken.
fn fill_server(
    layer: &mut TransactionLayer,
    method: &'static str,
    to_tag: &str,
    from: usize,
) -> usize {
    (from..)
        .take_while(|&number| {
            let (branch, call_id, method) = numbered(method, number);
            let request = Request {
                method,
                branch: &branch,
                call_id: &call_id,
                to_tag,
                ..INVITE
            };
            match request.offer(layer, at(0), udp()) {
                RequestDisposition::New(_) => true,
                RequestDisposition::Overload => false,
                other => panic!("{other:?}"),
            }
        })
        .count()
}

fn fill_client(layer: &mut TransactionLayer, method: &'static str, from: usize) -> usize {
    (from..)
        .take_while(|&number| {
            let (branch, call_id, method) = numbered(method, number);
            let request = Request {
                method,
                branch: &branch,
                call_id: &call_id,
                ..INVITE
            };
            let token = branch.strip_prefix(";branch=").unwrap();
            layer
                .start(
                    at(0),
                    tcp(1),
                    true,
                    Method::from_token(method),
                    token,
                    request.bytes(),
                )
                .is_ok()
        })
        .count()
}

#[test]
fn new_calls_are_refused_before_requests_of_calls_that_exist() {
    let mut layer = with_limit(80);
    assert_eq!(fill_server(&mut layer, "INVITE", "", 0), 70);
    assert_eq!(fill_client(&mut layer, "INVITE", 1_000), 0);
    assert_eq!(fill_server(&mut layer, "BYE", ";tag=ours", 2_000), 10);
    assert_eq!(fill_client(&mut layer, "BYE", 3_000), 0);
    assert_eq!(layer.counts(), (0, 80));
}

#[test]
fn client_transactions_count_too() {
    let mut layer = with_limit(80);
    assert_eq!(fill_client(&mut layer, "INVITE", 0), 70);
    assert_eq!(fill_server(&mut layer, "OPTIONS", "", 1_000), 0);
    assert_eq!(fill_client(&mut layer, "BYE", 2_000), 10);
    assert_eq!(layer.counts(), (80, 0));
    drain(&mut layer);
    layer.hop_failed(at(0), tcp(1));
    assert_eq!(
        drain(&mut layer).len(),
        160,
        "TransportFailed and ClientDone"
    );
    assert_empty(&layer);
}

#[test]
fn what_was_there_is_untouched_and_can_be_cancelled() {
    let mut layer = with_limit(2);
    let received = INVITE.receive(&mut layer, at(0), udp());
    let outbound = Request {
        branch: ";branch=z9hG4bK-out",
        ..INVITE
    };
    let started = outbound.start(&mut layer, at(0), tcp(1));
    drain(&mut layer);

    // A repetition and an ACK need no room.
    assert_eq!(
        INVITE.offer(&mut layer, at(1), udp()),
        RequestDisposition::Absorbed
    );
    let ack = Request {
        method: "ACK",
        branch: ";branch=z9hG4bK-ack",
        ..INVITE
    };
    assert_eq!(
        ack.offer(&mut layer, at(1), udp()),
        RequestDisposition::Ack(None)
    );

    // Either CANCEL finds room, and one that cancels nothing does not.
    let ringing = parse(answer(&outbound.message(), 180, "to-1"));
    layer.on_response(at(1), &ringing);
    assert!(layer.cancel(at(1), started, &[]));
    assert_eq!(drain(&mut layer), ["CANCEL"]);
    let cancel = Request {
        method: "CANCEL",
        ..INVITE
    };
    assert!(matches!(
        cancel.offer(&mut layer, at(1), udp()),
        RequestDisposition::Cancel { invite: Some(key), .. } if key == received
    ));
    let nothing = Request {
        branch: ";branch=z9hG4bK-none",
        ..cancel
    };
    assert_eq!(
        nothing.offer(&mut layer, at(1), udp()),
        RequestDisposition::Overload
    );
    assert_eq!(layer.counts(), (2, 2));
}

#[test]
fn room_comes_back() {
    let mut layer = with_limit(8);
    for round in 0..1_000 {
        let now = at(round * 100_000);
        let key = INVITE.receive(&mut layer, now, udp());
        respond(&mut layer, now, key, &INVITE.message(), 486);
        run(&mut layer, after_everything(now));
        drain(&mut layer);
        assert_empty(&layer);
    }
}

#[test]
fn long_branches_are_told_apart_to_the_last_letter() {
    let mut layer = layer();
    let long = format!(";branch=z9hG4bK{}", "x".repeat(7_000));
    let longer = format!("{long}y");
    for branch in [&long, &longer] {
        let request = Request {
            branch,
            call_id: branch.get(branch.len() - 200..).unwrap(),
            ..INVITE
        };
        request.receive(&mut layer, at(0), udp());
        assert_eq!(
            request.offer(&mut layer, at(0), udp()),
            RequestDisposition::Absorbed
        );
    }
}

#[test]
fn bytes_that_will_not_be_sent_again_are_let_go() {
    // Sent requests, once answered.
    for (method, code) in [("INVITE", 200), ("INVITE", 486), ("OPTIONS", 200)] {
        let mut layer = layer();
        let request = Request { method, ..INVITE };
        let bytes = request.bytes();
        layer
            .start(
                at(0),
                udp(),
                false,
                Method::from_token(method),
                "z9hG4bK-1",
                bytes.clone(),
            )
            .unwrap();
        drain(&mut layer);
        assert!(!bytes.is_unique(), "kept for repetition");
        layer.on_response(at(1), &parse(answer(&request.message(), code, "to-1")));
        drain(&mut layer);
        assert_eq!(layer.counts(), (1, 0));
        assert!(bytes.is_unique(), "{method} {code}");
    }
    // Responses to INVITE, once acknowledged.
    for code in [200, 486] {
        let mut layer = layer();
        let key = INVITE.receive(&mut layer, at(0), udp());
        let bytes = answer(&INVITE.message(), code, "to-1");
        layer.respond(at(0), key, code, bytes.clone());
        drain(&mut layer);
        assert!(!bytes.is_unique(), "kept for repetition");
        if code == 200 {
            layer.acknowledged(key);
        } else {
            let ack = Request {
                method: "ACK",
                to_tag: ";tag=to-1",
                ..INVITE
            };
            ack.offer(&mut layer, at(1), udp());
        }
        assert_eq!(layer.counts(), (0, 1));
        assert!(bytes.is_unique(), "{code}");
    }
}
