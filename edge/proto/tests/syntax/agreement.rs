//! Damaged messages: nothing panics, and framer and parser never disagree about where a message ends.

use crate::corpus::corpus;
use crate::properties::{cut, frames};
use bytes::Bytes;
use edge_proto::sip::{
    CSeq, Frame, HeaderName, Message, MessageFault, MessageLimits, NameAddr, ResponseBuilder,
    ResponseHint, StreamFramer, Uri, Via, frame_datagram, sipfrag,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// One way to damage a message.
#[derive(Clone, Debug)]
enum Damage {
    Set(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    /// Copies a part of the message to another place.
    Splice(usize, usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let fragments: Vec<Vec<u8>> = [
        "\r\n",
        "\n",
        "\r",
        "\r\n\r\n",
        " ",
        "\t",
        "\r\n ",
        ":",
        ",",
        ";",
        "<",
        ">",
        "\"",
        "\\",
        "@",
        "%00",
        "%0d%0a",
        "\0",
        "Content-Length: 5\r\n",
        "l:0\r\n",
        "SIP/2.0",
        "\u{e9}",
        "[::1]",
        "=",
        "?",
        "*",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .chain([vec![0xff], vec![0xc3]])
    .collect();
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (any::<usize>(), prop::sample::select(fragments)).prop_map(|(at, b)| Damage::Insert(at, b)),
        (any::<usize>(), 1..20_usize).prop_map(|(at, count)| Damage::Remove(at, count)),
        (any::<usize>(), 1..60_usize, any::<usize>())
            .prop_map(|(from, count, to)| Damage::Splice(from, count, to)),
    ]
}

fn apply(message: &mut Vec<u8>, damage: &Damage) {
    let within = |at: usize| at % (message.len() + 1);
    match damage {
        Damage::Set(at, byte) => {
            let at = within(*at);
            if let Some(target) = message.get_mut(at) {
                *target = *byte;
            }
        }
        Damage::Insert(at, bytes) => {
            let at = within(*at);
            message.splice(at..at, bytes.iter().copied());
        }
        Damage::Remove(at, count) => {
            let at = within(*at);
            let end = (at + count).min(message.len());
            message.drain(at..end);
        }
        Damage::Splice(from, count, to) => {
            let (from, to) = (within(*from), within(*to));
            let end = (from + count).min(message.len());
            let part = message[from..end].to_vec();
            message.splice(to..to, part);
        }
    }
}

fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let messages: Vec<Bytes> = corpus()
        .into_values()
        .map(|torture| torture.bytes)
        .collect();
    (prop::sample::select(messages), vec(damage(), 0..6)).prop_map(|(message, damages)| {
        let mut message = message.to_vec();
        for damage in &damages {
            apply(&mut message, damage);
        }
        message
    })
}

/// Reads everything there is to read in a message.
fn exercise(message: &Message) {
    let mut lines = 0;
    for (name, value) in message.all_headers() {
        lines += 1;
        assert!(message.named(name).any(|v| v == value));
        if let Ok(parsed) = NameAddr::parse(value) {
            assert_eq!(
                NameAddr::parse(&parsed.to_string()).map(|again| again.uri),
                Ok(parsed.uri)
            );
        }
        if let Ok(parsed) = Via::parse(value) {
            assert_eq!(Via::parse(&parsed.to_string()), Ok(parsed));
        }
        if let Ok(parsed) = CSeq::parse(value) {
            assert_eq!(CSeq::parse(&parsed.to_string()), Ok(parsed));
        }
        if let Ok(parsed) = Uri::parse(value) {
            assert_eq!(Uri::parse(&parsed.to_string()), Ok(parsed));
        }
        if let Some(name) = HeaderName::parse(name) {
            assert!(message.headers(name).count() >= 1);
            assert!(message.values(name).count() >= usize::from(!value.is_empty()));
        }
    }
    assert!(lines >= 5);
    assert_eq!(message.values(HeaderName::Via).count(), message.via_count());
    assert_eq!(message.is_request(), message.method().is_some());
    assert_eq!(message.is_request(), message.status().is_none());
    if message.is_request() {
        let bytes = ResponseBuilder::to(message, 500).to_tag("t").build();
        let response = Message::parse(bytes, &MessageLimits::default()).unwrap();
        assert_eq!(response.cseq(), message.cseq());
        assert_eq!(response.call_id(), message.call_id());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn framer_and_parser_agree(raw in damaged(), positions in vec(any::<usize>(), 0..6)) {
        let limits = MessageLimits::default();
        let whole = frames(StreamFramer::new(limits), &[&raw]);
        prop_assert_eq!(&whole, &frames(StreamFramer::new(limits), &cut(&raw, &positions)));

        // What the framer cut out is one message to the parser, good or bad.
        for frame in &whole.0 {
            let Frame::Message(bytes) = frame else { continue };
            match Message::parse(bytes.clone(), &limits) {
                Ok(message) => {
                    exercise(&message);
                    prop_assert!(bytes.ends_with(&message.body()));
                }
                Err(error) => prop_assert!(
                    !matches!(
                        error.fault,
                        MessageFault::Unfinished
                            | MessageFault::TooLarge
                            | MessageFault::ContentLength
                            | MessageFault::BodyTruncated
                            | MessageFault::Missing(HeaderName::ContentLength)
                            | MessageFault::Repeated(HeaderName::ContentLength)
                    ),
                    "{}", error
                ),
            }
        }

        // What the parser takes from a datagram, the framer takes from a stream.
        let Ok(framed) = frame_datagram(raw.clone().into()) else { return Ok(()) };
        let _ = ResponseHint::read(&framed);
        if let Ok(message) = Message::parse(framed.clone(), &limits) {
            exercise(&message);
            if message.header(HeaderName::ContentLength).is_some() {
                let first = whole.0.iter().find(|frame| matches!(frame, Frame::Message(_)));
                prop_assert_eq!(first, Some(&Frame::Message(framed)));
            }
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(raw in vec(any::<u8>(), 0..200)) {
        let limits = MessageLimits::default();
        let _ = Message::parse(raw.clone().into(), &limits);
        let _ = frames(StreamFramer::new(limits), &[&raw]);
        let _ = ResponseHint::read(&raw);
        let _ = sipfrag::parse(&raw);
        let _ = frame_datagram(raw.clone().into());
        let text = String::from_utf8_lossy(&raw);
        let _ = (NameAddr::parse(&text), Via::parse(&text), Uri::parse(&text), CSeq::parse(&text));
        let _ = Uri::parse(&format!("sip:{text}"));
    }
}
