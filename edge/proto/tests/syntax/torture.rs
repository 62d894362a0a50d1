//! RFC 4475 and RFC 5118: every message of both, judged by the RFC's own words.
//!
//! Verdicts: `accept`; `refuse CODE` (a request, answered so); `unanswerable CODE` (a request that lacks what an answer
//! needs); `discard` (a response nobody may act on).

use crate::corpus::corpus;
use edge_proto::sip::{
    Frame, HeaderName, Host, Message, MessageLimits, Method, NameAddr, ResponseBuilder,
    StreamFramer, Uri, Via, frame_datagram,
};

fn read(name: &str) -> Message {
    let bytes = corpus().remove(name).unwrap().bytes;
    Message::parse(frame_datagram(bytes).unwrap(), &MessageLimits::default()).unwrap()
}

#[test]
fn every_message_gets_its_verdict() {
    let corpus = corpus();
    assert_eq!(corpus.len(), 49 + 12);
    for (name, torture) in corpus {
        let framed = frame_datagram(torture.bytes.clone()).unwrap();
        let parsed = Message::parse(framed, &MessageLimits::default());
        let verdict = match &parsed {
            Ok(_) => "accept".to_owned(),
            Err(error) if error.response_hint.is_some() => format!("refuse {}", error.status()),
            Err(_) if torture.bytes.starts_with(b"SIP/") => "discard".to_owned(),
            Err(error) => format!("unanswerable {}", error.status()),
        };
        assert_eq!(verdict, torture.verdict, "{name}: {parsed:?}");
    }
}

#[test]
fn a_stream_in_single_bytes_gives_the_same_messages() {
    for (name, torture) in corpus() {
        let framed = frame_datagram(torture.bytes.clone()).unwrap();
        let Ok(message) = Message::parse(framed.clone(), &MessageLimits::default()) else {
            continue;
        };
        if message.header(HeaderName::ContentLength).is_none() {
            continue; // RFC 2543 over UDP; a stream cannot carry it
        }
        let mut framer = StreamFramer::new(MessageLimits::default());
        let mut frames = Vec::new();
        for byte in &framed {
            framer.push(&[*byte]);
            frames.extend(framer.next().unwrap());
        }
        assert_eq!(frames, [Frame::Message(framed)], "{name}");
    }
}

#[test]
fn every_accepted_request_can_be_answered() {
    let mut answered = 0;
    for (name, torture) in corpus() {
        let framed = frame_datagram(torture.bytes).unwrap();
        let Ok(request) = Message::parse(framed, &MessageLimits::default()) else {
            continue;
        };
        if !request.is_request() {
            continue;
        }
        let bytes = ResponseBuilder::to(&request, 404).to_tag("edge").build();
        let response = Message::parse(bytes, &MessageLimits::default())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(response.status(), Some(404), "{name}");
        assert_eq!(response.from_tag(), request.from_tag(), "{name}");
        assert_eq!(response.cseq(), request.cseq(), "{name}");
        assert_eq!(response.call_id(), request.call_id(), "{name}");
        assert_eq!(response.top_via(), request.top_via(), "{name}");
        assert_eq!(response.via_count(), request.via_count(), "{name}");
        assert_eq!(
            response.to_tag(),
            request.to_tag().or(Some("edge")),
            "{name}"
        );
        answered += 1;
    }
    assert!(answered > 30);
}

#[test]
fn a_refusal_copies_what_the_request_had() {
    for (name, torture) in corpus() {
        if !torture.verdict.starts_with("refuse") {
            continue;
        }
        let framed = frame_datagram(torture.bytes).unwrap();
        let error = Message::parse(framed, &MessageLimits::default()).unwrap_err();
        let hint = error.response_hint.as_deref().unwrap();
        let response = ResponseBuilder::to_hint(hint, error.status()).build();
        let text = std::str::from_utf8(&response).unwrap();
        assert!(text.starts_with(&format!("SIP/2.0 {} ", error.status())));
        assert!(
            text.contains(&format!("\r\nCall-ID: {}\r\n", hint.call_id)),
            "{name}"
        );
        assert_eq!(text.matches("\r\n\r\n").count(), 1, "{name}");
    }
}

#[test]
fn wsinv_and_longreq() {
    let m = read("rfc4475-wsinv");
    assert_eq!(m.method(), Some(Method::Invite));
    assert_eq!(m.to_tag(), Some("1918181833n"));
    assert_eq!(m.from().display.as_deref(), Some("J Rosenberg \\\""));
    assert_eq!((m.max_forwards(), m.cseq().number), (Some(68), 9));
    let vias: Vec<String> = m
        .values(HeaderName::Via)
        .map(|value| Via::parse(value).unwrap().to_string())
        .collect();
    assert_eq!(
        vias,
        [
            "SIP/2.0/UDP 192.0.2.2;branch=390skdjuw",
            "SIP/2.0/TCP spindle.example.com;branch=z9hG4bK9ikj8",
            "SIP/2.0/UDP 192.168.255.111;branch=z9hG4bK30239",
        ]
    );
    assert_eq!(m.header(HeaderName::Subject), Some(""));
    assert_eq!(
        m.named("UnknownHeaderWithUnusualValue").next(),
        Some(";;,,;;,;")
    );
    let route = NameAddr::parse(m.header(HeaderName::Route).unwrap()).unwrap();
    assert!(route.sip().unwrap().lr());
    let contact = m.contact().unwrap().unwrap();
    assert_eq!(contact.display.as_deref(), Some("Quoted string \"\""));
    assert_eq!(contact.params.value("q"), Some("0.33"));
    assert_eq!(m.body().len(), 150);

    let m = read("rfc4475-longreq");
    assert_eq!(m.via_count(), 34);
    assert_eq!(m.body().len(), 150);
}

#[test]
fn intmeth() {
    let m = read("rfc4475-intmeth");
    let method = Method::from_token("!interesting-Method0123456789_*+`.%indeed'~");
    assert_eq!(m.method(), Some(method));
    let uri = m.uri().unwrap().as_sip().unwrap();
    assert_eq!(
        uri.user.as_deref(),
        Some("1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*")
    );
    assert_eq!(
        uri.password.as_deref(),
        Some("&it+has=1,weird!*pas$wo~d_too.(doesn't-it)")
    );
    assert_eq!(uri.host, Host::Name("example.com".into()));
    assert_eq!(m.to().display.as_deref(), Some("BEL:\x07 NUL:\0 DEL:\x7f"));
    assert_eq!(
        m.from().display.as_deref(),
        Some("token1~` token2'+_ token3*%!.-")
    );
    assert_eq!(
        m.from().params.value("fromParam''~+*_!.-%"),
        Some("работающий")
    );
    assert_eq!(m.from_tag(), Some("_token~1'+`*%!-."));
    assert_eq!(m.call_id(), "intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{");
    assert_eq!(
        m.named("extensionHeader-!.%*+_`'~").next(),
        Some("\u{feff}大停電")
    );
}

#[test]
fn escapes() {
    let m = read("rfc4475-esc01");
    let uri = m.uri().unwrap().as_sip().unwrap();
    assert_eq!(uri.user.as_deref(), Some("sips:user@example.com"));
    assert_eq!(uri.host, Host::Name("example.net".into()));
    assert_eq!(uri.to_string(), "sip:sips%3Auser%40example.com@example.net");
    assert_eq!(m.to().sip().unwrap().user.as_deref(), Some("user"));
    let contact = m.contact().unwrap().unwrap();
    assert!(contact.sip().unwrap().lr());
    assert_eq!(
        contact.sip().unwrap().params.value("name"),
        Some("value%41")
    );

    let m = read("rfc4475-escnull");
    let contacts: Vec<_> = m
        .values(HeaderName::Contact)
        .map(|value| NameAddr::parse(value).unwrap())
        .collect();
    let users: Vec<_> = contacts
        .iter()
        .map(|contact| contact.sip().unwrap().user.as_deref().unwrap())
        .collect();
    assert_eq!(users, ["\0", "\0\0"]);
    assert!(
        contacts
            .iter()
            .all(|contact| contact.uri.contains_control())
    );

    let m = read("rfc4475-esc02");
    assert_eq!(m.method(), Some(Method::Other("RE%47IST%45R".into())));
    assert_eq!(m.to().display.as_deref(), Some("%Z%45"));
    assert_eq!(m.headers(HeaderName::Contact).count(), 2);
    assert_eq!(m.named("C%6Fntact").count(), 1);

    let m = read("rfc4475-semiuri");
    let uri = m.uri().unwrap().as_sip().unwrap();
    assert_eq!(uri.user.as_deref(), Some("user;par=u@example.net"));
    assert_eq!(uri.host, Host::Name("example.com".into()));
    assert_eq!(m.values(HeaderName::Accept).count(), 6);
}

#[test]
fn bodies_and_phrases() {
    let m = read("rfc4475-dblreq");
    assert_eq!((m.method(), m.body().len()), (Some(Method::Register), 0));
    let m = read("rfc4475-mpart01");
    assert_eq!(m.body().len(), 553);
    assert!(m.body().ends_with(b"--7a9cbec02ceef655--\r\n"));
    let m = read("rfc4475-unreason");
    assert!(m.reason().unwrap().starts_with("= 2**3 * 5**2 но сто"));
    assert_eq!(read("rfc4475-noreason").reason(), Some(""));
    let transports: Vec<String> = read("rfc4475-transports")
        .values(HeaderName::Via)
        .map(|value| Via::parse(value).unwrap().transport.into())
        .collect();
    assert_eq!(transports, ["UDP", "SCTP", "TLS", "UNKNOWN", "TCP"]);
}

#[test]
fn what_is_left_to_the_transaction_user() {
    assert_eq!(read("rfc4475-badbranch").top_via().rfc3261_branch(), None);
    assert_eq!(
        read("rfc4475-unkscm").uri().unwrap().scheme(),
        "nobodyknowsthisscheme"
    );
    assert_eq!(read("rfc4475-novelsc").uri().unwrap().scheme(), "soap.beep");
    let m = read("rfc4475-unksm2");
    assert_eq!(
        (m.to().uri.scheme(), m.from().uri.scheme()),
        ("isbn", "http")
    );
    assert_eq!(
        read("rfc4475-bext01").values(HeaderName::Require).count(),
        2
    );
    assert_eq!(read("rfc4475-bcast").via_count(), 2);
    assert_eq!(read("rfc4475-zeromf").max_forwards(), Some(0));
    assert!(read("rfc4475-regbadct").contact().unwrap().is_err());
    let m = read("rfc4475-inv2543");
    assert_eq!((m.from_tag(), m.top_via().branch()), (None, None));
    assert!(m.body().ends_with(b"m=audio 49217 RTP/AVP 0\r\n"));
    let contact = |name| read(name).contact().unwrap().unwrap();
    assert!(contact("rfc4475-cparam01").params.contains("unknownparam"));
    let inside = contact("rfc4475-cparam02");
    assert!(inside.params.is_empty());
    assert!(inside.sip().unwrap().params.contains("unknownparam"));
    let escaped = contact("rfc4475-regescrt");
    assert_eq!(
        escaped.sip().unwrap().header("Route"),
        Some("<sip:sip.example.com>")
    );
}

#[test]
fn ipv6() {
    let host = |name| match read(name).uri() {
        Some(Uri::Sip(uri)) => (uri.host.to_string(), uri.port),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(host("rfc5118-ipv6-good"), ("[2001:db8::10]".into(), None));
    assert_eq!(
        host("rfc5118-port-ambiguous"),
        ("[2001:db8::10:5070]".into(), None)
    );
    assert_eq!(
        host("rfc5118-port-unambiguous"),
        ("[2001:db8::10]".into(), Some(5070))
    );
    assert_eq!(
        host("rfc5118-ipv6-bug-abnf-3-colons"),
        host("rfc5118-ipv6-correct-abnf-2-colons")
    );
    let received = Some("2001:db8::9:255".parse().unwrap());
    for name in ["with-delim", "no-delim"] {
        let m = read(&format!("rfc5118-via-received-param-{name}"));
        assert_eq!(m.top_via().received(), received);
    }
    let mapped = read("rfc5118-ipv4-mapped-ipv6");
    assert_eq!(
        mapped.top_via().host.ip(),
        Some("192.0.2.10".parse().unwrap())
    );
    assert_eq!(mapped.top_via().port, Some(19823));
}
