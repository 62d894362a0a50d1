//! What is written is what is read back, and nothing that is put in comes out as something else.

use crate::fuzz::frames;
use edge_proto::sip::{
    Frame, HeaderName, Host, Message, MessageLimits, Method, NameAddr, Params, RequestBuilder,
    SipUri, StreamFramer, TelUri, Uri, Via,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// Any text that is not empty, half of it plain ASCII where separators are frequent.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{1,12}",
        "[a-c@;?:%=&<>,#\"\\\\ ]{1,12}",
        "\\PC{1,6}",
        any::<String>().prop_filter("empty", |text| !text.is_empty()),
    ]
}

fn host() -> impl Strategy<Value = Host> {
    prop_oneof![
        "[a-z]([a-z0-9-]{0,8}[a-z0-9])?(\\.[a-z][a-z0-9]{0,5}){0,3}"
            .prop_map(|name| Host::Name(name.into())),
        any::<std::net::Ipv4Addr>().prop_map(Host::V4),
        any::<std::net::Ipv6Addr>().prop_map(Host::V6),
    ]
}

fn port() -> impl Strategy<Value = Option<u16>> {
    option::of(1..=u16::MAX)
}

fn params(name: impl Strategy<Value = String>) -> impl Strategy<Value = Params> {
    vec((name, option::of(text())), 0..5).prop_map(|items| {
        let mut params = Params::new();
        for (name, value) in items {
            params.set(&name, value.as_deref());
        }
        params
    })
}

fn token() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9!%*_+`'~.-]{1,10}"
}

prop_compose! {
    fn sip_uri()(
        sips in any::<bool>(),
        user in option::of((text(), option::of(text()))),
        host in host(),
        port in port(),
        params in params(text()),
        headers in vec((text(), any::<String>()), 0..4),
    ) -> SipUri {
        let (user, password) = match user {
            Some((user, password)) => (Some(user), password),
            None => (None, None),
        };
        let (user, password) = (user.map(Into::into), password.map(Into::into));
        SipUri { sips, user, password, host, port, params, headers }
    }
}

fn uri() -> impl Strategy<Value = Uri> {
    let tel = ("\\+?[0-9]{1,15}", params(text()));
    prop_oneof![
        4 => sip_uri().prop_map(Uri::Sip),
        1 => tel.prop_map(|(number, params)| Uri::Tel(TelUri { number, params })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn uris_survive(uri in uri()) {
        let text = uri.to_string();
        prop_assert!(text.bytes().all(|b| b.is_ascii_graphic()), "{text}");
        prop_assert_eq!(Uri::parse(&text), Ok(uri.clone()), "{}", text);
        prop_assert!(uri.equivalent(&uri));
    }

    /// Whatever the text, a parsed host is the one that a router finds that looks for the first @, and one that looks for
    /// the last.
    #[test]
    fn no_text_has_two_hosts(parts in vec(prop::sample::select(vec![
        "sip:", "sips:", "@", ";", "?", "&", "=", "%40", "%00", "%0d%0a", ":", "5060", "evil.example", "127.0.0.4",
        "[::1]", "<", ">", "p", "lr", "maddr=", "#", "/", "\\", " ", ",", "\"", "\r\n", "tel:", "+1",
    ]), 1..12)) {
        let text = format!("sip:{}", parts.concat());
        let Ok(Uri::Sip(uri)) = Uri::parse(&text) else { return Ok(()) };
        let rest = text.strip_prefix("sip:").unwrap();
        let host = uri.host.to_string();
        for after_at in [rest.split('@').nth(1), rest.rsplit('@').next()] {
            if text.contains('@') {
                prop_assert!(after_at.unwrap().starts_with(&host), "{}", text);
            }
        }
        if !text.contains('@') {
            prop_assert!(rest.starts_with(&host), "{}", text);
        }
        prop_assert_eq!(Uri::parse(&uri.to_string()), Ok(Uri::Sip(uri)));
    }

    #[test]
    fn name_addrs_survive(display in option::of(text()), uri in uri(), params in params(token())) {
        // A quoted string has no way to hold a line break.
        let plain = |text: &str| text.replace(['\r', '\n'], " ");
        let display = display.as_deref().map(plain);
        let mut expected = Params::new();
        for (name, value) in params.iter() {
            expected.set(name, value.map(plain).as_deref());
        }
        let mut written = NameAddr::new(uri.clone());
        written.display = display.clone().map(Into::into);
        written.params = params;
        let text = written.to_string();
        let read = NameAddr::parse(&text);
        prop_assert!(read.is_ok(), "{}: {:?}", text, read);
        let read = read.unwrap();
        prop_assert_eq!(read.display.as_deref(), display.as_deref());
        prop_assert_eq!(read.uri, uri);
        prop_assert_eq!(read.params, expected);
    }

    #[test]
    fn vias_survive(transport in "[A-Z]{1,5}", host in host(), port in port(), params in params(token())) {
        let mut params = params;
        params.retain(|_, value| !value.unwrap_or("").contains(['\r', '\n']));
        let via = Via { transport: transport.into(), host, port, params };
        let text = via.to_string();
        prop_assert_eq!(Via::parse(&text), Ok(via), "{}", text);
    }

    /// What goes into a builder comes out of the parser: the same lines, and not one more.
    #[test]
    fn built_messages_survive(
        method in prop_oneof![Just("INVITE".to_owned()), "[A-Z!%*_+`'~.-]{1,8}"],
        uri in sip_uri(),
        extra in vec((token(), any::<String>()), 0..6),
        body in vec(any::<u8>(), 0..64),
    ) {
        let method = Method::from_token(&method);
        let uri = SipUri { headers: Vec::new(), ..uri }.to_string();
        let mut builder = RequestBuilder::new(&method, &uri)
            .header(HeaderName::Via, "SIP/2.0/TCP 192.0.2.1;branch=z9hG4bK1")
            .header(HeaderName::From, "<sip:a@example.net>;tag=1")
            .header(HeaderName::To, "<sip:b@example.net>")
            .header(HeaderName::CallId, "c")
            .header(HeaderName::CSeq, format_args!("1 {method}"));
        for (name, value) in &extra {
            builder.push_header(format!("X-{name}"), value);
        }
        let bytes = builder.body("application/octet-stream", &body).build();
        let message = Message::parse(bytes.clone(), &MessageLimits::default());
        prop_assert!(message.is_ok(), "{:?}: {:?}", bytes, message);
        let message = message.unwrap();
        prop_assert_eq!(message.method(), Some(method));
        prop_assert_eq!(message.request_uri(), Some(uri.as_str()));
        prop_assert_eq!(message.body(), &body[..]);
        let lines: Vec<(String, String)> = message
            .all_headers()
            .skip(5)
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut expected: Vec<(String, String)> = extra
            .iter()
            .map(|(name, value)| (format!("X-{name}"), cleaned(value)))
            .collect();
        expected.push(("Content-Type".into(), "application/octet-stream".into()));
        expected.push(("Content-Length".into(), body.len().to_string()));
        prop_assert_eq!(lines, expected);
        let mut framer = StreamFramer::new(MessageLimits::default());
        framer.push_bytes(bytes.clone());
        prop_assert_eq!(framer.next(), Ok(Some(Frame::Message(bytes))));
    }

    #[test]
    fn list_items_are_the_values_between_commas(
        items in vec((option::of("[ -~]{0,8}"), "[a-z]{1,5}"), 1..6),
        lines in 1_usize..4,
    ) {
        let values: Vec<String> = items
            .iter()
            .map(|(display, user)| {
                let mut item = NameAddr::new(SipUri { user: Some(format!("{user},x").into()), ..SipUri::new(Host::Name("h".into())) });
                item.display = display.clone().map(Into::into);
                item.to_string()
            })
            .collect();
        let per_line = values.len().div_ceil(lines);
        let builder = RequestBuilder::new(&Method::Options, "sip:h")
            .header("v", "SIP/2.0/TCP h").header("f", "<sip:h>").header("t", "<sip:h>")
            .header("i", "c").header(HeaderName::CSeq, "1 OPTIONS")
            .headers(HeaderName::Contact, values.chunks(per_line).map(|line| line.join(" ,\t")));
        let message = Message::parse(builder.build(), &MessageLimits::default()).unwrap();
        let read: Vec<&str> = message.values(HeaderName::Contact).collect();
        prop_assert_eq!(read, values);
    }
}

/// What a header value becomes: the reference for the builder's promise.
fn cleaned(value: &str) -> String {
    let mut out = String::new();
    let mut escaped = false;
    for c in value.chars() {
        let keep = match c {
            '\r' | '\n' | '\0' => false,
            '\t' => true,
            c => !c.is_ascii_control() || escaped,
        };
        out.push(if keep { c } else { ' ' });
        escaped = c == '\\';
    }
    out.trim_matches([' ', '\t']).to_owned()
}

/// One message or line break of a stream, and how often the stream is cut.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let head = "OPTIONS sip:h SIP/2.0\r\n";
    prop_oneof![
        Just(b"\r\n".to_vec()),
        Just(b"\r\n\r\n".to_vec()),
        (vec(any::<u8>(), 0..40), "[ \t]{0,2}", "(\r\n )?").prop_map(move |(body, space, fold)| {
            let mut message = format!(
                "{head}Via: x\r\nl{space}:{fold}{}{space}\r\n\r\n",
                body.len()
            )
            .into_bytes();
            message.extend(&body);
            message
        }),
    ]
}

/// `stream` in pieces, cut at each position modulo its length.
pub fn cut<'a>(stream: &'a [u8], positions: &[usize]) -> Vec<&'a [u8]> {
    let mut positions: Vec<usize> = positions.iter().map(|p| p % (stream.len() + 1)).collect();
    positions.sort_unstable();
    let mut from = 0;
    let mut chunks = Vec::new();
    for to in positions.into_iter().chain([stream.len()]) {
        chunks.push(&stream[from..to]);
        from = to;
    }
    chunks
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn cutting_a_stream_changes_nothing(
        pieces in vec(piece(), 1..8),
        junk in prop_oneof![3 => Just(Vec::new()), 1 => vec(any::<u8>(), 1..20)],
        positions in vec(any::<usize>(), 0..12),
    ) {
        let mut stream = pieces.concat();
        stream.extend(&junk);
        let limits = MessageLimits { message_bytes: 120, headers: 4, line_bytes: 60, vias: 4 };
        for limits in [limits, MessageLimits::default()] {
            for new in [StreamFramer::new, StreamFramer::for_originated] {
                let whole = frames(new(limits), [&stream[..]]);
                let cut = frames(new(limits), cut(&stream, &positions));
                prop_assert_eq!(whole, cut);
            }
        }
    }

    #[test]
    fn messages_come_out_as_they_went_in(pieces in vec(piece(), 1..8)) {
        let sent: Vec<&Vec<u8>> = pieces.iter().filter(|p| p.len() > 4).collect();
        let (frames, error) = frames(StreamFramer::new(MessageLimits::default()), [&pieces.concat()[..]]);
        prop_assert_eq!(error, None);
        let received: Vec<Vec<u8>> = frames
            .into_iter()
            .filter_map(|frame| match frame {
                Frame::Message(bytes) => Some(bytes.to_vec()),
                _ => None,
            })
            .collect();
        prop_assert_eq!(received.iter().collect::<Vec<_>>(), sent);
    }
}
