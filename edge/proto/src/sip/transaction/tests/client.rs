//! Requests sent.

use super::*;
use crate::sip::header::HeaderName;

const OPTIONS: Request<'static> = Request {
    method: "OPTIONS",
    branch: ";branch=z9hG4bK-o",
    ..INVITE
};

#[test]
fn an_unanswered_invite_over_udp_is_repeated_and_times_out() {
    let mut layer = layer();
    INVITE.start(&mut layer, at(0), udp());
    assert_eq!(drain(&mut layer), ["INVITE"]);
    assert_eq!(
        run(&mut layer, at(32_000)),
        events(&[
            (500, "INVITE"),
            (1_500, "INVITE"),
            (3_500, "INVITE"),
            (7_500, "INVITE"),
            (15_500, "INVITE"),
            (31_500, "INVITE"),
            (32_000, "ClientTimeout"),
            (32_000, "ClientDone"),
        ])
    );
    assert_empty(&layer);
}

#[test]
fn an_unanswered_request_over_udp_is_repeated_up_to_every_t2_and_times_out() {
    let mut layer = layer();
    OPTIONS.start(&mut layer, at(0), udp());
    assert_eq!(drain(&mut layer), ["OPTIONS"]);
    let log = run(&mut layer, at(32_000));
    let repeats: Vec<u64> = log
        .iter()
        .filter(|(_, what)| what == "OPTIONS")
        .map(|&(millis, _)| millis)
        .collect();
    // RFC 3261 §17.1.2.2, with 500 ms, 4 s and 64*T1.
    assert_eq!(
        repeats,
        [
            500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500
        ]
    );
    assert_eq!(
        log[repeats.len()..],
        events(&[(32_000, "ClientTimeout"), (32_000, "ClientDone")])
    );
    assert_empty(&layer);
}

#[test]
fn a_reliable_transport_repeats_nothing() {
    for request in [INVITE, OPTIONS] {
        let mut layer = layer();
        request.start(&mut layer, at(0), tcp(1));
        assert_eq!(drain(&mut layer), [request.method]);
        assert_eq!(
            run(&mut layer, at(32_000)),
            events(&[(32_000, "ClientTimeout"), (32_000, "ClientDone")])
        );
        assert_empty(&layer);
    }
}

#[test]
fn a_provisional_response_quiets_an_invite_and_slows_other_requests() {
    let mut layer = layer();
    let invite = INVITE.start(&mut layer, at(0), udp());
    let options = OPTIONS.start(&mut layer, at(0), udp());
    drain(&mut layer);
    for (request, key) in [(INVITE, invite), (OPTIONS, options)] {
        let trying = parse(answer(&request.message(), 100, ""));
        assert_eq!(
            layer.on_response(at(100), &trying),
            ResponseDisposition::Provisional(key)
        );
    }
    assert_eq!(
        run(&mut layer, at(10_000)),
        events(&[(500, "OPTIONS"), (4_500, "OPTIONS"), (8_500, "OPTIONS")])
    );
    // The INVITE has no timer of its own any more, and stays.
    run(&mut layer, at(1_000_000));
    assert_eq!(layer.counts(), (1, 0));
}

#[test]
fn a_failure_is_acknowledged_by_the_layer_each_time_it_comes() {
    let mut layer = layer();
    let invite = Request {
        extra: "Route: <sip:192.0.2.50;lr>\r\nRoute: <sip:192.0.2.51;lr>\r\n\
                Proxy-Authorization: Digest username=\"u\"\r\nRequire: timer\r\n",
        ..INVITE
    };
    let key = invite.start(&mut layer, at(0), udp());
    drain(&mut layer);
    let busy = parse(answer(&invite.message(), 486, "to-9"));
    assert_eq!(
        layer.on_response(at(100), &busy),
        ResponseDisposition::Final(key)
    );
    let acks = sent(&mut layer);
    let [(hop, ack)] = acks.as_slice() else {
        panic!("one ACK: {acks:?}")
    };
    assert_eq!(*hop, udp());
    assert_eq!(ack.method(), Some(Method::Ack));
    assert_eq!(ack.request_uri(), invite.message().request_uri());
    assert_eq!(ack.top_via(), invite.message().top_via());
    assert_eq!(ack.via_count(), 1);
    assert_eq!(ack.to_tag(), Some("to-9"));
    assert_eq!(ack.from_header(), invite.message().from_header());
    assert_eq!(ack.call_id(), "call-1");
    assert_eq!((ack.cseq().number, &ack.cseq().method), (7, &Method::Ack));
    let routes: Vec<&str> = ack.headers(HeaderName::Route).collect();
    assert_eq!(routes, ["<sip:192.0.2.50;lr>", "<sip:192.0.2.51;lr>"]);
    assert!(ack.header(HeaderName::ProxyAuthorization).is_some());
    assert!(ack.header(HeaderName::Require).is_none());

    assert_eq!(
        layer.on_response(at(600), &busy),
        ResponseDisposition::Absorbed
    );
    assert_eq!(drain(&mut layer), ["ACK"]);
    assert_eq!(
        run(&mut layer, at(32_100)),
        events(&[(32_100, "ClientDone")])
    );
    assert_eq!(
        layer.on_response(at(32_200), &busy),
        ResponseDisposition::Stray
    );
    assert_empty(&layer);
}

#[test]
fn over_tcp_a_final_response_ends_the_transaction_at_once() {
    for (request, code, expected) in [
        (INVITE, 603, vec!["ACK", "ClientDone"]),
        (OPTIONS, 200, vec!["ClientDone"]),
        (OPTIONS, 404, vec!["ClientDone"]),
    ] {
        let mut layer = layer();
        let key = request.start(&mut layer, at(0), tcp(1));
        drain(&mut layer);
        let last = parse(answer(&request.message(), code, "to-1"));
        assert_eq!(
            layer.on_response(at(10), &last),
            ResponseDisposition::Final(key)
        );
        assert_eq!(drain(&mut layer), expected);
        assert_empty(&layer);
    }
}

#[test]
fn a_repeated_final_response_to_another_request_is_absorbed_until_timer_k() {
    let mut layer = layer();
    let key = OPTIONS.start(&mut layer, at(0), udp());
    drain(&mut layer);
    let ok = parse(answer(&OPTIONS.message(), 200, "to-1"));
    assert_eq!(
        layer.on_response(at(0), &ok),
        ResponseDisposition::Final(key)
    );
    assert_eq!(layer.on_response(at(1), &ok), ResponseDisposition::Absorbed);
    assert_eq!(run(&mut layer, at(5_000)), events(&[(5_000, "ClientDone")]));
    assert_empty(&layer);
}

#[test]
fn every_further_2xx_goes_to_the_user_until_timer_m() {
    for hop in [udp(), tcp(1)] {
        let mut layer = layer();
        let key = INVITE.start(&mut layer, at(0), hop);
        drain(&mut layer);
        let ok = parse(answer(&INVITE.message(), 200, "fork-1"));
        let other_fork = parse(answer(&INVITE.message(), 200, "fork-2"));
        let busy_fork = parse(answer(&INVITE.message(), 486, "fork-3"));
        assert_eq!(
            layer.on_response(at(0), &ok),
            ResponseDisposition::Final(key)
        );
        for further in [&ok, &other_fork] {
            assert_eq!(
                layer.on_response(at(100), further),
                ResponseDisposition::Retransmitted2xx(key)
            );
        }
        assert_eq!(
            layer.on_response(at(200), &busy_fork),
            ResponseDisposition::Absorbed
        );
        assert_eq!(drain(&mut layer), Vec::<String>::new());
        assert_eq!(
            run(&mut layer, at(32_000)),
            events(&[(32_000, "ClientDone")])
        );
        assert_eq!(
            layer.on_response(at(32_001), &ok),
            ResponseDisposition::Stray
        );
        assert_empty(&layer);
    }
}

#[test]
fn responses_that_are_not_ours_are_stray() {
    let mut layer = layer();
    INVITE.start(&mut layer, at(0), udp());
    drain(&mut layer);
    let other_branch = Request {
        branch: ";branch=z9hG4bK-2",
        ..INVITE
    };
    let no_branch = Request {
        branch: "",
        ..INVITE
    };
    let other_method = Request {
        method: "OPTIONS",
        ..INVITE
    };
    let two_vias = Request {
        extra: "Via: SIP/2.0/UDP 192.0.2.77;branch=z9hG4bK-77\r\n",
        ..INVITE
    };
    for request in [other_branch, no_branch, other_method, two_vias] {
        let response = parse(answer(&request.message(), 200, "to-1"));
        assert_eq!(
            layer.on_response(at(1), &response),
            ResponseDisposition::Stray,
            "{request}",
            request = String::from_utf8_lossy(&request.bytes())
        );
    }
    assert_eq!(
        layer.on_response(at(1), &INVITE.message()),
        ResponseDisposition::Stray,
        "a request is no response"
    );
}

#[test]
fn a_failed_connection_fails_what_waits_on_it_and_nothing_else() {
    let mut layer = layer();
    let invite = INVITE.start(&mut layer, at(0), tcp(1));
    OPTIONS.start(&mut layer, at(0), tcp(1));
    let elsewhere = Request {
        branch: ";branch=z9hG4bK-x",
        ..OPTIONS
    };
    elsewhere.start(&mut layer, at(0), tcp(2));
    let answered = Request {
        branch: ";branch=z9hG4bK-y",
        ..INVITE
    };
    answered.start(&mut layer, at(0), tcp(1));
    drain(&mut layer);
    let ringing = parse(answer(&INVITE.message(), 180, "to-1"));
    layer.on_response(at(1), &ringing);
    let ok = parse(answer(&answered.message(), 200, "to-1"));
    layer.on_response(at(1), &ok);
    layer.hop_failed(at(2), tcp(1));
    assert_eq!(
        drain(&mut layer),
        [
            "TransportFailed",
            "ClientDone",
            "TransportFailed",
            "ClientDone"
        ]
    );
    assert_eq!(layer.client_hop(invite), None);
    // Left: the one on another connection, and the answered INVITE, whose further 2xx may come by any way.
    assert_eq!(layer.counts(), (2, 0));
    layer.hop_failed(at(3), tcp(1));
    assert_eq!(drain(&mut layer), Vec::<String>::new());
    run(&mut layer, after_everything(at(3)));
    assert_empty(&layer);
}

#[test]
fn a_branch_used_twice_belongs_to_the_later_request() {
    let mut layer = layer();
    INVITE.start(&mut layer, at(0), tcp(1));
    let later = INVITE.start(&mut layer, at(0), tcp(2));
    layer.hop_failed(at(1), tcp(1));
    let ringing = parse(answer(&INVITE.message(), 180, "to-1"));
    assert_eq!(
        layer.on_response(at(2), &ringing),
        ResponseDisposition::Provisional(later)
    );
    layer.hop_failed(at(3), tcp(2));
    drain(&mut layer);
    assert_empty(&layer);
}

#[test]
fn new_timers_are_for_new_transactions() {
    let mut layer = layer();
    layer.reconfigure(&SipConfig {
        t1: Duration::from_millis(10),
        ..SipConfig::default()
    });
    OPTIONS.start(&mut layer, at(0), udp());
    drain(&mut layer);
    let log = run(&mut layer, at(640));
    assert_eq!(log.first(), Some(&(10, "OPTIONS".to_owned())));
    assert_eq!(log.last(), Some(&(640, "ClientDone".to_owned())));
    assert_empty(&layer);
}
