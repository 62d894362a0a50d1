//! What must hold for any bytes. Each function panics when it does not; none of them may panic otherwise.

use bytes::Bytes;
use edge_proto::sip::{
    CSeq, Frame, FramingError, HeaderName, Message, MessageFault, MessageLimits, NameAddr,
    ResponseBuilder, ResponseHint, SipUri, StreamFramer, Uri, Via, frame_datagram, sipfrag,
};

/// Framer and parser: `data` is a stream, and a datagram.
pub fn message(data: &[u8]) {
    let limits = MessageLimits::default();
    let (frames, error) = frames(StreamFramer::new(limits), [data]);
    let chunk = data.len() % 61 + 1;
    let again = self::frames(StreamFramer::new(limits), data.chunks(chunk));
    assert_eq!(
        (&frames, error),
        (&again.0, again.1),
        "a cut changes the frames"
    );
    for frame in &frames {
        if let Frame::Message(bytes) = frame {
            framed_message(bytes, &limits);
        }
    }
    let Ok(datagram) = frame_datagram(Bytes::copy_from_slice(data)) else {
        return;
    };
    match Message::parse(datagram.clone(), &limits) {
        Ok(message) => {
            exercise(&message);
            if message.header(HeaderName::ContentLength).is_some() {
                let first = frames
                    .iter()
                    .find(|frame| matches!(frame, Frame::Message(_)));
                assert_eq!(
                    first,
                    Some(&Frame::Message(datagram)),
                    "stream and datagram differ"
                );
            }
        }
        Err(error) => {
            if let Some(hint) = error.response_hint {
                let answer = ResponseBuilder::to_hint(&hint, error.fault.status()).build();
                assert_eq!(
                    memchr_count(&answer, b"\r\n\r\n"),
                    1,
                    "an answer has one head"
                );
            }
        }
    }
    let _ = ResponseHint::read(data);
    let _ = sipfrag::parse(data);
}

/// Any URI.
pub fn uri(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else {
        return;
    };
    let Ok(uri) = Uri::parse(text) else {
        return;
    };
    let written = uri.to_string();
    assert!(written.bytes().all(|byte| byte.is_ascii_graphic()));
    assert_eq!(Uri::parse(&written).as_ref(), Ok(&uri), "{written}");
    assert!(uri.equivalent(&uri));
    if let Uri::Sip(sip) = &uri {
        one_host(text, sip);
    }
}

/// Any value of From, To, Contact, Refer-To, Route, Via or CSeq.
pub fn name_addr(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else {
        return;
    };
    let _: usize = NameAddr::parse_list(text)
        .map(|item| usize::from(item.is_ok()))
        .sum();
    if let Ok(value) = NameAddr::parse(text) {
        let written = value.to_string();
        let again = NameAddr::parse(&written).expect("what was written is read");
        assert_eq!(
            (&again.display, &again.uri, &again.params),
            (&value.display, &value.uri, &value.params)
        );
        if let Uri::Sip(sip) = &value.uri {
            one_host(&value.uri_text, sip);
        }
    }
    if let Ok(value) = Via::parse(text) {
        assert_eq!(Via::parse(&value.to_string()), Ok(value));
    }
    if let Ok(value) = CSeq::parse(text) {
        assert_eq!(CSeq::parse(&value.to_string()), Ok(value));
    }
}

/// The host that was parsed is the one that a router finds that looks for the first `@`, and one that looks for the last.
fn one_host(text: &str, uri: &SipUri) {
    let rest = text
        .split_once(':')
        .map_or("", |(_, rest)| rest)
        .to_ascii_lowercase();
    let host = match uri.host.ip() {
        Some(_) => return, // an address may be written differently
        None => uri.host.to_string(),
    };
    let first = rest
        .split_once('@')
        .map_or(rest.as_str(), |(_, after)| after);
    let last = rest
        .rsplit_once('@')
        .map_or(rest.as_str(), |(_, after)| after);
    assert!(
        first.starts_with(&host) && last.starts_with(&host),
        "{text}"
    );
}

/// What the framer cut out is one message to the parser, good or bad.
fn framed_message(bytes: &Bytes, limits: &MessageLimits) {
    match Message::parse(bytes.clone(), limits) {
        Ok(message) => {
            exercise(&message);
            assert!(bytes.ends_with(message.body()));
        }
        Err(error) => assert!(
            !matches!(
                error.fault,
                MessageFault::Unfinished
                    | MessageFault::TooLarge
                    | MessageFault::ContentLength
                    | MessageFault::BodyTruncated
                    | MessageFault::Missing(HeaderName::ContentLength)
                    | MessageFault::Repeated(HeaderName::ContentLength)
            ),
            "framer and parser disagree: {error}"
        ),
    }
}

/// Reads everything there is to read in a message, and answers it.
pub fn exercise(message: &Message) {
    let mut lines = 0;
    for (name, value) in message.all_headers() {
        lines += 1;
        assert!(message.named(name).any(|v| v == value));
        name_addr(value.as_bytes());
        uri(value.as_bytes());
        if let Some(name) = HeaderName::parse(name) {
            assert!(message.headers(name).count() >= 1);
            assert!(message.values(name).count() >= usize::from(!value.is_empty()));
        }
    }
    assert!(lines >= 5, "Via, From, To, Call-ID and CSeq");
    assert_eq!(message.values(HeaderName::Via).count(), message.via_count());
    assert_eq!(message.is_request(), message.method().is_some());
    assert_eq!(message.is_request(), message.status().is_none());
    if let Some(text) = message.request_uri() {
        uri(text.as_bytes());
        let bytes = ResponseBuilder::to(message, 500).to_tag("t").build();
        let response =
            Message::parse(bytes, &MessageLimits::default()).expect("what was built is read");
        assert_eq!(response.cseq(), message.cseq());
        assert_eq!(response.call_id(), message.call_id());
        assert_eq!(response.from_tag(), message.from_tag());
        assert_eq!(response.to_tag(), message.to_tag().or(Some("t")));
    }
}

/// Frames of a stream that arrives in these chunks, and the error that ended them.
pub fn frames<'a>(
    mut framer: StreamFramer,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Frame>, Option<FramingError>) {
    let mut frames = Vec::new();
    for chunk in chunks {
        framer.push(chunk);
        loop {
            match framer.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fn memchr_count(haystack: &[u8], needle: &[u8]) -> usize {
    haystack
        .windows(needle.len())
        .filter(|window| *window == needle)
        .count()
}
