use super::*;
use crate::sip::builder::ResponseBuilder;
use crate::sip::message::MessageLimits;
use bytes::Bytes;
use proptest::prelude::*;

const VIA: ViaLine<'static> = ViaLine {
    transport: Transport::Tcp,
    sent_by: "203.0.113.5:5060",
    branch: "z9hG4bK-b",
};

const CALLER: &str = "Contact: <sip:caller@192.0.2.1:5062;transport=tcp>\r\n";

fn parse(raw: impl Into<Bytes>) -> Message {
    let raw = raw.into();
    Message::parse(raw.clone(), &MessageLimits::default())
        .unwrap_or_else(|fault| panic!("{fault}\n{}", String::from_utf8_lossy(&raw)))
}

/// A request; `extra` holds whole header lines.
fn request(method: &str, uri: &str, number: u32, extra: &str) -> Message {
    parse(format!(
        "{method} {uri} SIP/2.0\r\n\
         Via: SIP/2.0/TCP 192.0.2.1;branch=z9hG4bK-1\r\n\
         From: \"A \\\"q\\\" Caller\" <sip:caller@example.net;x=1>;tag=caller;other=1\r\n\
         To: sip:+1234567890@example.net\r\n\
         Call-ID: call-1\r\n\
         CSeq: {number} {method}\r\n\
         {extra}Content-Length: 0\r\n\r\n"
    ))
}

fn invite(extra: &str) -> Message {
    request("INVITE", "sip:+1234567890@203.0.113.5", 7, extra)
}

fn response(request: &Message, code: u16, tag: &str, headers: &[(&str, &str)]) -> Message {
    let mut builder = ResponseBuilder::to(request, code).to_tag(tag);
    for &(name, value) in headers {
        builder.push_header(name, value);
    }
    parse(builder.build())
}

fn text(builder: RequestBuilder) -> String {
    String::from_utf8(builder.build().to_vec()).unwrap()
}

fn routes(message: &Message) -> Vec<&str> {
    message.values(HeaderName::Route).collect()
}

const ROUTED: &str = "Record-Route: <sip:p3.example.net;lr>, <sip:p2.example.net;lr>;x=y\r\n\
                      Record-Route: <sip:p1.example.net;lr>\r\n";

/// [`Dialog::uac`] with a whole message.
fn uac(sent: &Message, response: &Message) -> Result<Dialog, DialogError> {
    let request = SentRequest {
        uri: sent.request_uri().unwrap(),
        call_id: sent.call_id(),
        local_tag: sent.from_tag().unwrap(),
        local: &party(sent.from()),
        remote: &party(sent.to()),
        number: sent.cseq().number,
    };
    Dialog::uac(request, response)
}

#[test]
fn as_uas_the_route_set_is_in_order() {
    let dialog = Dialog::uas(&invite(&format!("{ROUTED}{CALLER}")), "ours").unwrap();
    assert_eq!(
        dialog,
        Dialog {
            state: DialogState::Early,
            call_id: "call-1".into(),
            local_tag: "ours".into(),
            remote_tag: "caller".into(),
            local: "<sip:+1234567890@example.net>".into(),
            remote: "\"A \\\"q\\\" Caller\" <sip:caller@example.net;x=1>".into(),
            local_seq: 0,
            remote_seq: Some(7),
            remote_target: "sip:caller@192.0.2.1:5062;transport=tcp".into(),
            route_set: vec![
                "<sip:p3.example.net;lr>".into(),
                "<sip:p2.example.net;lr>;x=y".into(),
                "<sip:p1.example.net;lr>".into(),
            ],
            secure: false,
        }
    );
    assert_eq!(dialog.next_hop(), "sip:p3.example.net;lr");
}

#[test]
fn as_uac_the_route_set_is_reversed() {
    let sent = invite(CALLER);
    let early = response(
        &sent,
        180,
        "callee",
        &[(
            "Record-Route",
            "<sip:p1.example.net;lr>, <sip:p2.example.net;lr>",
        )],
    );
    let mut dialog = uac(&sent, &early).unwrap();
    assert_eq!(dialog.state, DialogState::Early);
    assert_eq!((dialog.local_seq, dialog.remote_seq), (7, None));
    assert_eq!(
        (&*dialog.local_tag, &*dialog.remote_tag),
        ("caller", "callee")
    );
    assert_eq!(dialog.remote, "<sip:+1234567890@example.net>");
    assert_eq!(
        dialog.remote_target, "sip:+1234567890@203.0.113.5",
        "no Contact in the 180"
    );
    assert_eq!(
        dialog.route_set,
        ["<sip:p2.example.net;lr>", "<sip:p1.example.net;lr>"]
    );

    let answer = response(
        &sent,
        200,
        "callee",
        &[
            ("Contact", "<sip:callee@198.51.100.1>"),
            ("Record-Route", "<sip:p9.example.net;lr>"),
        ],
    );
    dialog.confirm_by(&answer).unwrap();
    assert_eq!(dialog, uac(&sent, &answer).unwrap());
    assert_eq!(dialog.state, DialogState::Confirmed);
    assert_eq!(dialog.route_set, ["<sip:p9.example.net;lr>"]);
    assert_eq!(dialog.remote_target, "sip:callee@198.51.100.1");

    // Once confirmed, the route set stays (§12.2).
    let again = response(
        &sent,
        200,
        "callee",
        &[("Contact", "<sip:new@198.51.100.2>")],
    );
    dialog.confirm_by(&again).unwrap();
    assert_eq!(dialog.route_set, ["<sip:p9.example.net;lr>"]);
    assert_eq!(dialog.remote_target, "sip:new@198.51.100.2");
}

#[test]
fn a_bad_2xx_leaves_the_early_dialog_as_it_was() {
    let sent = invite(CALLER);
    let mut dialog = uac(&sent, &response(&sent, 183, "callee", &[])).unwrap();
    let before = dialog.clone();
    for headers in [
        [("Contact", "<tel:+1234567890>"), ("X", "y")],
        [("Contact", "<sip:a@b>"), ("Record-Route", "<tel:+1>")],
        [("Contact", "<sip:a@b>"), ("Record-Route", "<sip:>")],
    ] {
        assert!(
            dialog
                .confirm_by(&response(&sent, 200, "callee", &headers))
                .is_err()
        );
        assert_eq!(dialog, before);
    }
}

#[test]
fn what_makes_no_dialog() {
    type Uas = fn(&Message) -> Result<Dialog, DialogError>;
    let uas: Uas = |message| Dialog::uas(message, "ours");
    assert_eq!(uas(&invite("")), Err(DialogError::NoContact));
    assert_eq!(
        uas(&invite("Contact: <tel:+1234567890>\r\n")),
        Err(DialogError::ContactScheme)
    );
    assert!(matches!(
        uas(&invite("Contact: *\r\n")),
        Err(DialogError::BadContact(_))
    ));
    assert!(matches!(
        uas(&invite(&format!("{CALLER}Record-Route: <sip:p1\r\n"))),
        Err(DialogError::BadRecordRoute(_))
    ));
    assert_eq!(
        uas(&invite(&format!("{CALLER}Record-Route: <tel:+1>\r\n"))),
        Err(DialogError::RecordRouteScheme)
    );
    let many = "Record-Route: <sip:p;lr>\r\n".repeat(MAX_ROUTES);
    assert!(uas(&invite(&format!("{CALLER}{many}"))).is_ok());
    let too_many = format!("{CALLER}{many}Record-Route: <sip:p;lr>\r\n");
    assert_eq!(uas(&invite(&too_many)), Err(DialogError::TooManyRoutes));

    let sent = invite(CALLER);
    for code in [100, 302, 486] {
        assert_eq!(
            uac(&sent, &response(&sent, code, "callee", &[])),
            Err(DialogError::NoDialog(code))
        );
    }
    let other = parse(
        String::from_utf8(response(&sent, 200, "callee", &[]).raw().to_vec())
            .unwrap()
            .replace("tag=caller", "tag=guess"),
    );
    assert_eq!(uac(&sent, &other), Err(DialogError::Mismatch));
}

#[test]
fn a_request_without_routes() {
    let mut dialog = Dialog::uas(&invite(CALLER), "ours").unwrap();
    let bye = dialog.request(&Method::Bye, &VIA, None);
    assert_eq!(
        text(bye),
        "BYE sip:caller@192.0.2.1:5062;transport=tcp SIP/2.0\r\n\
         Via: SIP/2.0/TCP 203.0.113.5:5060;branch=z9hG4bK-b\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:+1234567890@example.net>;tag=ours\r\n\
         To: \"A \\\"q\\\" Caller\" <sip:caller@example.net;x=1>;tag=caller\r\n\
         Call-ID: call-1\r\n\
         CSeq: 1 BYE\r\n\
         Content-Length: 0\r\n\r\n"
    );
    let udp = ViaLine {
        transport: Transport::Udp,
        ..VIA
    };
    let contact = Some("<sip:edge@203.0.113.5>");
    let reinvite = parse(dialog.request(&Method::Invite, &udp, contact).build());
    assert_eq!(reinvite.cseq().number, 2);
    assert_eq!(reinvite.header(HeaderName::Contact), contact);
    assert_eq!(
        reinvite.header(HeaderName::Via),
        Some("SIP/2.0/UDP 203.0.113.5:5060;branch=z9hG4bK-b;rport")
    );
}

#[test]
fn a_request_over_loose_routers() {
    let mut dialog = Dialog::uas(&invite(&format!("{ROUTED}{CALLER}")), "ours").unwrap();
    let message = parse(dialog.request(&Method::Notify, &VIA, None).build());
    assert_eq!(
        message.request_uri(),
        Some("sip:caller@192.0.2.1:5062;transport=tcp")
    );
    assert_eq!(
        routes(&message),
        [
            "<sip:p3.example.net;lr>",
            "<sip:p2.example.net;lr>;x=y",
            "<sip:p1.example.net;lr>"
        ]
    );
}

#[test]
fn a_request_over_a_strict_router() {
    let strict = "Record-Route: <sip:p2.example.net?Priority=urgent>, <sip:p1.example.net;lr>\r\n";
    let mut dialog = Dialog::uas(&invite(&format!("{strict}{CALLER}")), "ours").unwrap();
    let message = parse(dialog.request(&Method::Bye, &VIA, None).build());
    // §12.2.1.1: the first route becomes the Request-URI, without what a Request-URI may not have; the target goes last.
    assert_eq!(message.request_uri(), Some("sip:p2.example.net"));
    assert_eq!(
        routes(&message),
        [
            "<sip:p1.example.net;lr>",
            "<sip:caller@192.0.2.1:5062;transport=tcp>"
        ]
    );
}

#[test]
fn a_target_loses_what_a_request_uri_may_not_have() {
    let contact = "Contact: <sip:a%20b@192.0.2.1;method=BYE;user=phone?Subject=x>\r\n";
    let mut dialog = Dialog::uas(&invite(contact), "ours").unwrap();
    let message = parse(dialog.request(&Method::Bye, &VIA, None).build());
    assert_eq!(
        message.request_uri(),
        Some("sip:a%20b@192.0.2.1;user=phone")
    );
}

#[test]
fn the_ack_of_a_2xx_keeps_the_number_and_takes_none() {
    let sent = invite(CALLER);
    let answer = response(
        &sent,
        200,
        "callee",
        &[("Contact", "<sip:callee@198.51.100.1>")],
    );
    let mut dialog = uac(&sent, &answer).unwrap();
    let first = dialog.ack(7, &VIA).build();
    assert_eq!(first, dialog.ack(7, &VIA).build());
    let ack = parse(first);
    assert_eq!(ack.method(), Some(Method::Ack));
    assert_eq!(ack.cseq().number, 7);
    assert_eq!(ack.request_uri(), Some("sip:callee@198.51.100.1"));
    assert_eq!(
        (ack.from_tag(), ack.to_tag()),
        (Some("caller"), Some("callee"))
    );
    let bye = parse(dialog.request(&Method::Bye, &VIA, None).build());
    assert_eq!(bye.cseq().number, 8);
}

#[test]
fn a_peer_without_a_tag_gets_none() {
    let old = parse(
        String::from_utf8(invite(CALLER).raw().to_vec())
            .unwrap()
            .replace(";tag=caller", ""),
    );
    let mut dialog = Dialog::uas(&old, "ours").unwrap();
    let bye = parse(dialog.request(&Method::Bye, &VIA, None).build());
    assert_eq!((bye.from_tag(), bye.to_tag()), (Some("ours"), None));
}

#[test]
fn sequence_numbers_may_jump_but_not_fall() {
    let mut dialog = Dialog::uas(&invite(CALLER), "ours").unwrap();
    for (number, in_order) in [
        (7, true),
        (8, true),
        (100, true),
        (99, false),
        (100, true),
        (CSEQ_LIMIT - 1, true),
        (CSEQ_LIMIT, false),
        (u32::MAX, false),
    ] {
        let seen = dialog.remote_seq;
        let verdict = dialog.accept(number);
        assert_eq!(verdict.is_ok(), in_order, "{number}");
        assert_eq!(
            dialog.remote_seq,
            if in_order { Some(number) } else { seen }
        );
    }
    dialog.remote_seq = None;
    assert_eq!(
        dialog.accept(0),
        Ok(()),
        "a peer that was only called so far"
    );
}

#[test]
fn our_sequence_numbers_stay_below_the_limit() {
    let mut dialog = Dialog::uas(&invite(CALLER), "ours").unwrap();
    dialog.local_seq = CSEQ_LIMIT - 2;
    for _ in 0..3 {
        let message = parse(dialog.request(&Method::Info, &VIA, None).build());
        assert_eq!(message.cseq().number, CSEQ_LIMIT - 1);
    }
}

#[test]
fn only_target_refreshes_move_the_target() {
    let moved = "Contact: <sip:moved@192.0.2.8>\r\n";
    let from = |method| request(method, "sip:edge@203.0.113.5", 8, moved);
    let to = |method, code| {
        let sent = request(method, "sip:edge@203.0.113.5", 8, "");
        response(
            &sent,
            code,
            "callee",
            &[("Contact", "<sip:moved@192.0.2.8>")],
        )
    };
    for (message, moves) in [
        (from("INVITE"), true),
        (from("UPDATE"), true),
        (from("BYE"), false),
        (from("REFER"), false),
        (from("NOTIFY"), false),
        (from("INFO"), false),
        (to("INVITE", 200), true),
        (to("UPDATE", 200), true),
        (to("INVITE", 180), false),
        (to("INVITE", 488), false),
        (to("REFER", 202), false),
        (request("INVITE", "sip:edge@203.0.113.5", 8, ""), false),
    ] {
        let mut dialog = Dialog::uas(&invite(&format!("{ROUTED}{CALLER}")), "ours").unwrap();
        let before = dialog.clone();
        assert_eq!(dialog.refresh_target(&message), Ok(moves), "{message:?}");
        assert_eq!(dialog.remote_target == "sip:moved@192.0.2.8", moves);
        dialog.remote_target.clone_from(&before.remote_target);
        assert_eq!(dialog, before, "nothing else changes");
    }
    let mut dialog = Dialog::uas(&invite(CALLER), "ours").unwrap();
    let same = request("INVITE", "sip:edge@203.0.113.5", 8, CALLER);
    assert_eq!(dialog.refresh_target(&same), Ok(false));
    let unfit = request("INVITE", "sip:edge@203.0.113.5", 8, "Contact: <tel:+1>\r\n");
    assert_eq!(
        dialog.refresh_target(&unfit),
        Err(DialogError::ContactScheme)
    );
    assert_eq!(
        dialog.remote_target,
        "sip:caller@192.0.2.1:5062;transport=tcp"
    );
}

#[test]
fn which_messages_are_of_the_dialog() {
    let dialog = Dialog::uas(&invite(CALLER), "ours").unwrap();
    let with_tag = |tag: &str| {
        parse(
            String::from_utf8(request("BYE", "sip:edge@203.0.113.5", 8, "").raw().to_vec())
                .unwrap()
                .replace(
                    "To: sip:+1234567890@example.net",
                    &format!("To: <sip:x@h>{tag}"),
                ),
        )
    };
    assert!(dialog.contains(&with_tag(";tag=ours")));
    for tag in ["", ";tag=OURS", ";tag=caller"] {
        assert!(!dialog.contains(&with_tag(tag)), "{tag}");
    }
    let mut sender = dialog.clone();
    let sent = parse(sender.request(&Method::Bye, &VIA, None).build());
    assert!(dialog.contains(&response(&sent, 200, "", &[])));
    assert!(!dialog.contains(&sent), "our own request come back");
    let mut other_call = dialog.clone();
    other_call.call_id = "call-2".into();
    assert!(!other_call.contains(&with_tag(";tag=ours")));
    let mut other_peer = dialog;
    other_peer.remote_tag = "someone".into();
    assert!(!other_peer.contains(&with_tag(";tag=ours")));
}

#[test]
fn a_sips_request_makes_a_secure_dialog() {
    let contact = "Contact: <sips:caller@192.0.2.1>\r\n";
    let sips = request("INVITE", "SIPS:+1234567890@203.0.113.5", 7, contact);
    assert!(Dialog::uas(&sips, "ours").unwrap().secure);
    let answer = response(&sips, 200, "callee", &[]);
    assert!(uac(&sips, &answer).unwrap().secure);
}

proptest! {
    /// Whatever mixture of routers a dialog was made over, its requests parse, and Request-URI and Route together name
    /// exactly the routers and the target, in order.
    #[test]
    fn requests_name_every_router_once(loose in prop::collection::vec(any::<bool>(), 0..6)) {
        let uris: Vec<String> = loose
            .iter()
            .enumerate()
            .map(|(at, lr)| format!("sip:p{at}.example.net:50{at}0{}", if *lr { ";lr" } else { "" }))
            .collect();
        let mut extra = CALLER.to_owned();
        for uri in &uris {
            extra.push_str(&format!("Record-Route: <{uri}>\r\n"));
        }
        let mut dialog = Dialog::uas(&invite(&extra), "ours").unwrap();
        let message = parse(dialog.request(&Method::Bye, &VIA, None).build());
        let target = "sip:caller@192.0.2.1:5062;transport=tcp".to_owned();
        let routes: Vec<String> = routes(&message)
            .into_iter()
            .map(|route| route.trim_matches(['<', '>']).to_owned())
            .collect();
        let request_uri = message.request_uri().unwrap().to_owned();
        let expected = if loose.first() == Some(&false) {
            let rest = uris.iter().skip(1).cloned().chain([target]).collect();
            (uris[0].clone(), rest)
        } else {
            (target, uris.clone())
        };
        prop_assert_eq!((request_uri, routes), expected);
        prop_assert_eq!(dialog.next_hop(), uris.first().unwrap_or(&dialog.remote_target));
    }
}
