//! CANCEL, sent and received.

use super::*;
use crate::sip::header::HeaderName;

const REASON: &[(&str, &str)] = &[("Reason", "SIP;cause=200;text=\"Call completed elsewhere\"")];

const CANCEL: Request<'static> = Request {
    method: "CANCEL",
    ..INVITE
};

fn ringing() -> Message {
    parse(answer(&INVITE.message(), 180, "to-1"))
}

#[test]
fn a_cancel_waits_for_a_provisional_response() {
    let mut layer = layer();
    let invite = Request {
        extra: "Route: <sip:192.0.2.50;lr>\r\nRequire: timer\r\n",
        ..INVITE
    };
    let key = invite.start(&mut layer, at(0), udp());
    drain(&mut layer);
    assert!(layer.cancel(at(10), key, REASON));
    assert!(!layer.cancel(at(11), key, REASON), "once is enough");
    assert_eq!(drain(&mut layer), Vec::<String>::new());

    assert_eq!(
        layer.on_response(at(20), &ringing()),
        ResponseDisposition::Provisional(key)
    );
    let cancels = sent(&mut layer);
    let [(hop, cancel)] = cancels.as_slice() else {
        panic!("one CANCEL: {cancels:?}")
    };
    assert_eq!(*hop, udp());
    assert_eq!(cancel.method(), Some(Method::Cancel));
    assert_eq!(cancel.request_uri(), invite.message().request_uri());
    assert_eq!(cancel.top_via(), invite.message().top_via());
    assert_eq!(cancel.from_header(), invite.message().from_header());
    assert_eq!(cancel.to_header(), invite.message().to_header());
    assert_eq!(cancel.call_id(), "call-1");
    assert_eq!(cancel.cseq().number, 7);
    assert_eq!(
        cancel.header(HeaderName::Route),
        Some("<sip:192.0.2.50;lr>")
    );
    assert_eq!(cancel.header(HeaderName::Reason), Some(REASON[0].1));
    assert!(cancel.header(HeaderName::Require).is_none());

    // A second provisional response sends no second CANCEL, and the answer to it is of no interest to the user.
    layer.on_response(at(30), &ringing());
    assert_eq!(drain(&mut layer), Vec::<String>::new());
    let ok = parse(answer(cancel, 200, "to-1"));
    assert_eq!(
        layer.on_response(at(40), &ok),
        ResponseDisposition::Absorbed
    );
    let terminated = parse(answer(&invite.message(), 487, "to-1"));
    assert_eq!(
        layer.on_response(at(50), &terminated),
        ResponseDisposition::Final(key)
    );
    assert_eq!(drain(&mut layer), ["ACK"]);
    assert_eq!(
        run(&mut layer, after_everything(at(50))),
        events(&[(32_050, "ClientDone")])
    );
    assert_empty(&layer);
}

#[test]
fn a_cancel_that_waited_is_dropped_when_the_final_response_comes_first() {
    for code in [200, 486] {
        let mut layer = layer();
        let key = INVITE.start(&mut layer, at(0), tcp(1));
        assert!(layer.cancel(at(10), key, REASON));
        let last = parse(answer(&INVITE.message(), code, "to-1"));
        layer.on_response(at(20), &last);
        let log = drain(&mut layer);
        assert!(!log.contains(&"CANCEL".to_owned()), "{log:?}");
        assert!(!layer.cancel(at(30), key, REASON));
        run(&mut layer, after_everything(at(30)));
        assert_empty(&layer);
    }
}

#[test]
fn a_cancelled_invite_without_an_answer_times_out_after_64_t1() {
    for (hop, repeats) in [(udp(), 10), (tcp(1), 0)] {
        let mut layer = layer();
        let key = INVITE.start(&mut layer, at(0), hop);
        drain(&mut layer);
        layer.on_response(at(100), &ringing());
        assert!(layer.cancel(at(1_000), key, &[]));
        assert_eq!(drain(&mut layer), ["CANCEL"]);
        let log = run(&mut layer, after_everything(at(1_000)));
        let (cancels, rest): (Vec<_>, Vec<_>) =
            log.into_iter().partition(|(_, what)| what == "CANCEL");
        assert_eq!(cancels.len(), repeats);
        assert_eq!(
            rest,
            events(&[(33_000, "ClientTimeout"), (33_000, "ClientDone")])
        );
        assert_empty(&layer);
    }
}

#[test]
fn a_2xx_that_crosses_the_cancel_is_the_final_response() {
    let mut layer = layer();
    let key = INVITE.start(&mut layer, at(0), tcp(1));
    layer.on_response(at(10), &ringing());
    layer.cancel(at(20), key, &[]);
    let ok = parse(answer(&INVITE.message(), 200, "to-1"));
    assert_eq!(
        layer.on_response(at(30), &ok),
        ResponseDisposition::Final(key)
    );
    assert_eq!(drain(&mut layer), ["INVITE", "CANCEL"]);
    assert_eq!(
        run(&mut layer, after_everything(at(30))),
        events(&[(32_030, "ClientDone")])
    );
    assert_empty(&layer);
}

#[test]
fn only_a_waiting_invite_can_be_cancelled() {
    let mut layer = layer();
    let options = Request {
        method: "OPTIONS",
        ..INVITE
    };
    let key = options.start(&mut layer, at(0), tcp(1));
    assert!(!layer.cancel(at(1), key, &[]));
    layer.hop_failed(at(2), tcp(1));
    assert!(!layer.cancel(at(3), key, &[]), "a key that is done");
    assert_eq!(
        drain(&mut layer),
        ["OPTIONS", "TransportFailed", "ClientDone"]
    );
    assert_empty(&layer);
}

#[test]
fn a_connection_lost_under_a_cancel_says_so_once() {
    let mut layer = layer();
    let key = INVITE.start(&mut layer, at(0), tcp(1));
    layer.on_response(at(10), &ringing());
    layer.cancel(at(20), key, &[]);
    layer.hop_failed(at(30), tcp(1));
    assert_eq!(
        drain(&mut layer),
        ["INVITE", "CANCEL", "TransportFailed", "ClientDone"]
    );
    assert_empty(&layer);
}

#[test]
fn a_received_cancel_finds_its_invite() {
    let mut layer = layer();
    let invite = INVITE.receive(&mut layer, at(0), udp());
    let RequestDisposition::Cancel {
        cancel,
        invite: found,
    } = CANCEL.offer(&mut layer, at(10), udp())
    else {
        panic!("not a CANCEL")
    };
    assert_eq!(found, Some(invite));
    assert!(!layer.is_final(invite));
    respond(&mut layer, at(10), cancel, &CANCEL.message(), 200);
    respond(&mut layer, at(10), invite, &INVITE.message(), 487);
    assert_eq!(drain(&mut layer), ["200", "487"]);
    assert_eq!(
        CANCEL.offer(&mut layer, at(20), udp()),
        RequestDisposition::Absorbed
    );
    assert_eq!(drain(&mut layer), ["200"], "a repeated CANCEL");
    let ack = Request {
        method: "ACK",
        to_tag: ";tag=to-1",
        ..INVITE
    };
    assert_eq!(
        ack.offer(&mut layer, at(30), udp()),
        RequestDisposition::Absorbed
    );
    run(&mut layer, after_everything(at(30)));
    assert_empty(&layer);
}

#[test]
fn a_cancel_after_the_final_response_has_no_effect() {
    let mut layer = layer();
    let invite = INVITE.receive(&mut layer, at(0), tcp(1));
    respond(&mut layer, at(1), invite, &INVITE.message(), 200);
    let disposition = CANCEL.offer(&mut layer, at(10), tcp(1));
    assert!(
        matches!(disposition, RequestDisposition::Cancel { invite: Some(key), .. } if key == invite)
    );
    assert!(layer.is_final(invite));
    let late = answer(&INVITE.message(), 487, "to-1");
    assert!(
        !layer.respond(at(10), invite, 487, late),
        "one final response"
    );
    assert_eq!(layer.latest_status(invite), Some(200));
    assert_eq!(drain(&mut layer), ["200"]);
}

#[test]
fn a_cancel_for_nothing_says_so() {
    let mut layer = layer();
    INVITE.receive(&mut layer, at(0), udp());
    let unmatched = [
        Request {
            branch: ";branch=z9hG4bK-other",
            ..CANCEL
        },
        Request {
            sent_by: "192.0.2.66:5060",
            ..CANCEL
        },
    ];
    for cancel in unmatched {
        let disposition = cancel.offer(&mut layer, at(1), udp());
        assert!(
            matches!(disposition, RequestDisposition::Cancel { invite: None, .. }),
            "{disposition:?}"
        );
    }
}
