use super::*;

fn parse(text: &str) -> Result<Message, MessageError> {
    Message::parse(
        Bytes::copy_from_slice(text.as_bytes()),
        &MessageLimits::default(),
    )
}

fn fault(text: &str) -> MessageFault {
    match parse(text) {
        Ok(message) => panic!("accepted: {message:?}"),
        Err(error) => error.fault,
    }
}

const REQUEST: &str = "INVITE sip:+1234567890@example.net;user=phone SIP/2.0\r\n\
    v: SIP/2.0/TCP 192.0.2.1;branch=z9hG4bKa, SIP/2.0/UDP [2001:db8::1];branch=z9hG4bKb\r\n\
    Via: SIP/2.0/UDP 192.0.2.3;branch=z9hG4bKc\r\n\
    FROM : \"A, B\" <sip:a@example.net>;tag=f1\r\n\
    t: <sip:b@example.net>\r\n\
    i: call@192.0.2.1\r\n\
    CSeq: 1 INVITE\r\n\
    Max-Forwards: 70\r\n\
    Subject: one\r\n \ttwo\r\n\
    Supported: replaces, norefersub\r\n\
    k: timer\r\n\
    X-Extra: 1\r\n\
    x-extra:2\r\n\
    Empty:\r\n\
    c: Application/SDP ; x=y\r\n\
    l: 4\r\n\
    \r\n\
    bodytrailing";

fn with(line: &str) -> String {
    REQUEST.replace("Subject: one\r\n \ttwo\r\n", &format!("{line}\r\n"))
}

#[test]
fn a_request() {
    let m = parse(REQUEST).unwrap();
    assert!(m.is_request() && !m.is_response());
    assert_eq!(m.method(), Some(Method::Invite));
    assert_eq!((m.status(), m.reason()), (None, None));
    assert_eq!(
        m.request_uri(),
        Some("sip:+1234567890@example.net;user=phone")
    );
    assert_eq!(
        m.uri().unwrap().as_sip().unwrap().user.as_deref(),
        Some("+1234567890")
    );
    assert_eq!(m.call_id(), "call@192.0.2.1");
    assert_eq!(m.cseq().to_string(), "1 INVITE");
    assert_eq!(m.from().display.as_deref(), Some("A, B"));
    assert_eq!((m.from_tag(), m.to_tag()), (Some("f1"), None));
    assert_eq!(m.from_header(), "\"A, B\" <sip:a@example.net>;tag=f1");
    assert_eq!(m.to_header(), "<sip:b@example.net>");
    assert_eq!(m.top_via().branch(), Some("z9hG4bKa"));
    assert_eq!(m.via_count(), 3);
    assert_eq!(m.headers(HeaderName::Via).count(), 2);
    assert_eq!(m.values(HeaderName::Via).count(), 3);
    assert_eq!(m.max_forwards(), Some(70));
    assert_eq!(m.header(HeaderName::Subject), Some("one   \ttwo"));
    let tags: Vec<_> = m.values(HeaderName::Supported).collect();
    assert_eq!(tags, ["replaces", "norefersub", "timer"]);
    assert!(m.has_value(HeaderName::Supported, "NoReferSub"));
    assert_eq!(m.named("X-EXTRA").collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(m.named("call-id").collect::<Vec<_>>(), ["call@192.0.2.1"]);
    assert_eq!(m.named("empty").collect::<Vec<_>>(), [""]);
    assert_eq!(m.all_headers().nth(2), Some(("FROM", m.from_header())));
    assert_eq!(
        m.single(HeaderName::Subject),
        Ok(m.header(HeaderName::Subject))
    );
    assert_eq!(m.single(HeaderName::Event), Ok(None));
    assert_eq!(
        m.single(HeaderName::Supported),
        Err(Repeated(HeaderName::Supported))
    );
    assert!(m.has_content_type("application/sdp"));
    assert!(!m.has_content_type("application/sdpx"));
    assert_eq!(m.body(), b"body");
    assert_eq!(&m.raw()[..], REQUEST.as_bytes());
    assert_eq!(
        format!("{m:?}"),
        "Message(INVITE, 1 INVITE, call@192.0.2.1)"
    );
}

#[test]
fn a_response() {
    let text = "sip/2.0 480 Pas l\u{e0}\r\nVia: SIP/2.0/TCP h\r\nFrom: sip:a@h;tag=1\r\nTo: sip:b@h;tag=2\r\n\
        Call-ID: c\r\nCSeq: 3 REFER\r\n\r\n";
    let m = parse(text).unwrap();
    assert_eq!((m.status(), m.reason()), (Some(480), Some("Pas l\u{e0}")));
    assert_eq!((m.method(), m.request_uri(), m.uri()), (None, None, None));
    assert_eq!((m.from_tag(), m.to_tag()), (Some("1"), Some("2")));
    assert_eq!(m.cseq().method, Method::Refer);
    assert_eq!(m.body().len(), 0);
    for (line, reason) in [
        ("SIP/2.0 200", ""),
        ("SIP/2.0 200 ", ""),
        ("SIP/2.0 200  A  B", " A  B"),
    ] {
        let m = parse(&text.replace("sip/2.0 480 Pas l\u{e0}", line)).unwrap();
        assert_eq!((m.status(), m.reason()), (Some(200), Some(reason)));
    }
    for (line, wrong) in [
        ("SIP/2.0 4294967301 x", MessageFault::StatusCode),
        ("SIP/2.0 099 x", MessageFault::StatusCode),
        ("SIP/2.0 700 x", MessageFault::StatusCode),
        ("SIP/2.0 20 x", MessageFault::StatusCode),
        ("SIP/2.0 2x0 x", MessageFault::StartLine),
        ("SIP/2.0  200 OK", MessageFault::StartLine),
        ("SIP/7.0 200 OK", MessageFault::Version),
        ("SIP/2.0", MessageFault::StartLine),
    ] {
        let error = parse(&text.replace("sip/2.0 480 Pas l\u{e0}", line)).unwrap_err();
        assert_eq!((error.fault, error.response_hint), (wrong, None), "{line}");
    }
}

#[test]
fn start_lines_are_strict() {
    let line = "INVITE sip:+1234567890@example.net;user=phone SIP/2.0";
    for (start, wrong) in [
        ("INVITE  sip:h SIP/2.0", MessageFault::StartLine),
        ("INVITE sip:h  SIP/2.0", MessageFault::StartLine),
        ("INVITE sip:h SIP/2.0 ", MessageFault::StartLine),
        (" INVITE sip:h SIP/2.0", MessageFault::StartLine),
        ("INVITE\tsip:h\tSIP/2.0", MessageFault::StartLine),
        ("INVITE sip:h", MessageFault::StartLine),
        ("INVITE SIP/2.0", MessageFault::StartLine),
        ("IN@VITE sip:h SIP/2.0", MessageFault::StartLine),
        ("INVITE sip:h SIP/2.0x", MessageFault::StartLine),
        ("INVITE sip:h HTTP/1.1", MessageFault::StartLine),
        ("INVITE sip:h SIP/7.0", MessageFault::Version),
        (
            "INVITE <sip:h> SIP/2.0",
            MessageFault::RequestUri(crate::sip::UriError::Scheme),
        ),
        ("INVITE sip:h; lr SIP/2.0", MessageFault::StartLine),
        ("INVITE sip:h?X=y SIP/2.0", MessageFault::RequestUriHeaders),
        ("INVITE sip:h SIP/2.0\r\n folded", MessageFault::StartLine),
    ] {
        assert_eq!(fault(&REQUEST.replace(line, start)), wrong, "{start}");
    }
    let version = parse(&REQUEST.replace(" SIP/2.0\r\n", " SIP/7.0\r\n")).unwrap_err();
    assert_eq!(
        (version.status(), version.response_hint.is_some()),
        (505, true)
    );
}

#[test]
fn lines_and_characters() {
    for (line, wrong) in [
        ("Subject", MessageFault::HeaderLine),
        (": x", MessageFault::HeaderLine),
        ("Sub ject: x", MessageFault::HeaderLine),
        ("Sub\u{e9}: x", MessageFault::HeaderLine),
        ("Subject: a\nb: c", MessageFault::BareLineBreak),
        ("Subject: a\rb: c", MessageFault::BareLineBreak),
        ("Subject: a\r\r\nb: c", MessageFault::BareLineBreak),
        ("Subject: a\0b", MessageFault::ControlCharacter),
        ("Subject: a\x7fb", MessageFault::ControlCharacter),
        ("Subject\0: a", MessageFault::ControlCharacter),
    ] {
        assert_eq!(fault(&with(line)), wrong, "{line:?}");
    }
    assert!(parse(&with("Subject: \"\\\0\\\x07\"")).is_ok());
    let mut bytes = with("Subject: a").into_bytes();
    let at = bytes.windows(2).position(|w| w == b": ").unwrap();
    bytes[at + 2] = 0xff;
    let error = Message::parse(bytes.into(), &MessageLimits::default()).unwrap_err();
    assert_eq!(error.fault, MessageFault::NotUtf8);
    assert_eq!(
        fault(REQUEST.split_once("\r\n\r\n").unwrap().0),
        MessageFault::Unfinished
    );
    assert_eq!(fault("\r\n\r\n"), MessageFault::StartLine);
}

#[test]
fn mandatory_headers() {
    for (from, to, wrong) in [
        (
            "t: <sip:b@example.net>\r\n",
            "",
            MessageFault::Missing(HeaderName::To),
        ),
        (
            "i: call@192.0.2.1\r\n",
            "",
            MessageFault::Missing(HeaderName::CallId),
        ),
        (
            "CSeq: 1 INVITE\r\n",
            "",
            MessageFault::Missing(HeaderName::CSeq),
        ),
        (
            "i: call@192.0.2.1\r\n",
            "i: a\r\nCall-ID: a\r\n",
            MessageFault::Repeated(HeaderName::CallId),
        ),
        (
            "k: timer\r\n",
            "To: <sip:c@h>\r\n",
            MessageFault::Repeated(HeaderName::To),
        ),
        (
            "k: timer\r\n",
            "Max-Forwards: 9\r\n",
            MessageFault::Repeated(HeaderName::MaxForwards),
        ),
        (
            "k: timer\r\n",
            "l: 4\r\n",
            MessageFault::Repeated(HeaderName::ContentLength),
        ),
        ("call@192.0.2.1", "", MessageFault::CallId),
        ("call@192.0.2.1", "a b", MessageFault::CallId),
        ("CSeq: 1 INVITE", "CSeq: 1 ACK", MessageFault::CSeqMethod),
        ("Forwards: 70", "Forwards: 256", MessageFault::MaxForwards),
        ("Forwards: 70", "Forwards: +7", MessageFault::MaxForwards),
        ("Forwards: 70", "Forwards:", MessageFault::MaxForwards),
        ("l: 4", "l: -4", MessageFault::ContentLength),
        ("l: 4", "l: 13", MessageFault::BodyTruncated),
        (
            "l: 4",
            "l: 18446744073709551610",
            MessageFault::BodyTruncated,
        ),
    ] {
        assert_eq!(fault(&REQUEST.replace(from, to)), wrong, "{from} {to}");
    }
    let no_via = REQUEST.replace("v: ", "w: ").replace("Via: ", "w: ");
    assert_eq!(fault(&no_via), MessageFault::Missing(HeaderName::Via));
    let bad = fault(&REQUEST.replace("<sip:b@example.net>", "<sip:b@example.net"));
    assert!(matches!(bad, MessageFault::To(_)));
    for tag in ["tag", "tag=\"\"", "tag=\"a b\"", "tag=[::1]"] {
        let bad = fault(&REQUEST.replace("tag=f1", tag));
        let value = NameAddrError::Param(crate::sip::uri::ParamError::Value);
        assert_eq!(bad, MessageFault::From(value), "{tag}");
    }
    assert_eq!(
        parse(&REQUEST.replace("l: 4\r\n", "")).unwrap().body(),
        b"bodytrailing"
    );
}

#[test]
fn limits() {
    let parse = |limits| {
        Message::parse(Bytes::from_static(REQUEST.as_bytes()), &limits).map_err(|e| e.fault)
    };
    let roomy = MessageLimits::default();
    assert!(
        parse(MessageLimits {
            headers: 15,
            vias: 3,
            ..roomy
        })
        .is_ok()
    );
    for (limits, wrong) in [
        (
            MessageLimits {
                headers: 14,
                ..roomy
            },
            MessageFault::TooManyHeaders,
        ),
        (
            MessageLimits { vias: 2, ..roomy },
            MessageFault::TooManyVias,
        ),
        (
            MessageLimits {
                line_bytes: 40,
                ..roomy
            },
            MessageFault::LineTooLong,
        ),
        (
            MessageLimits {
                message_bytes: 100,
                ..roomy
            },
            MessageFault::TooLarge,
        ),
    ] {
        assert_eq!(parse(limits).unwrap_err(), wrong);
    }
}

#[test]
fn hints_exist_for_requests_that_can_be_answered() {
    let hint = |text: &str| ResponseHint::read(text.as_bytes());
    let read = hint(REQUEST).unwrap();
    assert_eq!(read.vias.len(), 2);
    assert_eq!(
        (read.method.as_str(), read.call_id.as_str()),
        ("INVITE", "call@192.0.2.1")
    );
    assert_eq!(hint(&REQUEST.replace("INVITE", "ACK")), None);
    assert_eq!(hint(&REQUEST.replace("i: call", "j: call")), None);
    assert_eq!(hint(&REQUEST.replace("INVITE sip", "SIP/2.0 sip")), None);
    assert_eq!(hint(""), None);
    let twice = REQUEST.replace("k: timer", "To: <sip:other@h>");
    assert_eq!(hint(&twice).unwrap().to, "<sip:b@example.net>");
}
