use super::*;

const HEAD: &str = "OPTIONS sip:example.net SIP/2.0\r\nVia: x\r\n";

/// Every frame, and the error that ended it if one did. Cut at `cuts`.
fn run(
    mut framer: StreamFramer,
    stream: &[u8],
    cuts: &[usize],
) -> (Vec<Frame>, Option<FramingError>) {
    let mut frames = Vec::new();
    let mut from = 0;
    for &to in cuts.iter().chain([&stream.len()]) {
        framer.push(&stream[from..to]);
        from = to;
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

fn whole(stream: &str) -> (Vec<Frame>, Option<FramingError>) {
    run(
        StreamFramer::new(MessageLimits::default()),
        stream.as_bytes(),
        &[],
    )
}

fn message(text: &str) -> Frame {
    Frame::Message(Bytes::copy_from_slice(text.as_bytes()))
}

#[test]
fn every_split_gives_the_same_frames() {
    let a = format!("{HEAD}Content-Length: 4\r\n\r\na\r\n\r");
    let b = format!("{HEAD}l :\r\n 0\r\n\r\n");
    let stream = format!("\r\n{a}\r\n\r\n{b}{a}\r\n\r\n\r\n{b}");
    let expected = vec![
        Frame::KeepAlivePong,
        message(&a),
        Frame::KeepAlivePing,
        message(&b),
        message(&a),
        Frame::KeepAlivePing,
        Frame::KeepAlivePong,
        message(&b),
    ];
    assert_eq!(whole(&stream), (expected.clone(), None));
    for cut in 0..=stream.len() {
        let framer = StreamFramer::new(MessageLimits::default());
        assert_eq!(
            run(framer, stream.as_bytes(), &[cut]),
            (expected.clone(), None),
            "{cut}"
        );
    }
    let cuts: Vec<usize> = (0..stream.len()).collect();
    let framer = StreamFramer::new(MessageLimits::default());
    assert_eq!(run(framer, stream.as_bytes(), &cuts), (expected, None));
}

#[test]
fn a_pong_on_our_own_connection_is_told_at_once() {
    let mut framer = StreamFramer::for_originated(MessageLimits::default());
    framer.push(b"\r");
    assert_eq!(framer.next(), Ok(None));
    framer.push(b"\n\r\n");
    assert_eq!(framer.next(), Ok(Some(Frame::KeepAlivePong)));
    assert_eq!(framer.next(), Ok(Some(Frame::KeepAlivePong)));
    assert_eq!(framer.next(), Ok(None));
}

#[test]
fn wrong_lengths_are_fatal_and_keep_the_head() {
    for (lines, error) in [
        ("", FramingError::ContentLengthMissing),
        (
            "Content-Length: -1\r\n",
            FramingError::ContentLengthMalformed,
        ),
        (
            "Content-Length: +1\r\n",
            FramingError::ContentLengthMalformed,
        ),
        (
            "Content-Length: 1 1\r\n",
            FramingError::ContentLengthMalformed,
        ),
        (
            "Content-Length: 1,1\r\n",
            FramingError::ContentLengthMalformed,
        ),
        (
            "Content-Length: \x0c1\r\n",
            FramingError::ContentLengthMalformed,
        ),
        (
            "Content-Length\x0c: 1\r\n",
            FramingError::ContentLengthMissing,
        ),
        (
            "Content-Length: 0x1\r\n",
            FramingError::ContentLengthMalformed,
        ),
        ("Content-Length:\r\n", FramingError::ContentLengthMalformed),
        (
            "Content-Length: 1\r\nl: 2\r\n",
            FramingError::ContentLengthRepeated,
        ),
        (
            "Content-Length: 1\r\nCONTENT-LENGTH: 1\r\n",
            FramingError::ContentLengthRepeated,
        ),
        ("Content-Length: 65535\r\n", FramingError::MessageTooLarge),
        (
            "Content-Length: 99999999999999999999999999\r\n",
            FramingError::MessageTooLarge,
        ),
        (
            "Content-Length: 18446744073709551615\r\n",
            FramingError::MessageTooLarge,
        ),
    ] {
        let head = format!("{HEAD}{lines}\r\n");
        let mut framer = StreamFramer::new(MessageLimits::default());
        framer.push(head.as_bytes());
        assert_eq!(framer.next(), Err(error), "{lines}");
        assert_eq!(
            framer.rejected_head().map(|h| &h[..]),
            Some(head.as_bytes())
        );
        assert!(error.status().is_some());
        framer.push(b"OPTIONS");
        assert_eq!(framer.next(), Err(error));
        assert!(!framer.is_mid_message());
    }
    // Not a Content-Length: part of another header, or of the start line.
    for lines in [
        "X-Content-Length: 0\r\n",
        "Subject: a\r\n Content-Length: 0\r\n",
    ] {
        let head = format!("{HEAD}{lines}\r\n");
        assert_eq!(
            whole(&head),
            (vec![], Some(FramingError::ContentLengthMissing))
        );
    }
    let fold = "OPTIONS sip:h SIP/2.0\r\n l: 0\r\n\r\n";
    assert_eq!(
        whole(fold),
        (vec![], Some(FramingError::ContentLengthMissing))
    );
}

#[test]
fn what_is_not_sip_fails_at_once() {
    for (stream, error) in [
        ("\x16\x03\x01", FramingError::NotSip),
        (" ", FramingError::NotSip),
        ("\n", FramingError::NotSip),
        ("GET / HTTP/1.1\r\n", FramingError::NotSip),
        ("\r\n\r\n \r\n", FramingError::NotSip),
        ("OPTIONS sip:h SIP/2.0\n", FramingError::BareLineBreak),
        (
            "OPTIONS sip:h SIP/2.0\r\nVia: x\n",
            FramingError::BareLineBreak,
        ),
        ("OPTIONS sip:h SIP/2.0\r\n\n", FramingError::BareLineBreak),
        (
            "OPTIONS sip:h SIP/2.0\r\nl: 0\r\r\n",
            FramingError::BareLineBreak,
        ),
        (
            "OPTIONS sip:h SIP/2.0\r\nX: a\rl: 0\r\n",
            FramingError::BareLineBreak,
        ),
    ] {
        assert_eq!(whole(stream).1, Some(error), "{stream:?}");
    }
}

#[test]
fn limits_hold_before_the_end_is_seen() {
    let limits = MessageLimits {
        message_bytes: 200,
        headers: 3,
        line_bytes: 50,
        vias: 1,
    };
    let start = "OPTIONS sip:h SIP/2.0\r\n";
    let endless_line = format!("{start}X: {}", "a".repeat(48));
    let endless_head = format!("{start}X: {}", format!("{}\r\n ", "a".repeat(30)).repeat(9));
    let many = format!("{start}{}", "X: a\r\n".repeat(4));
    let body = format!("{start}l: 180\r\n\r\n");
    for (stream, error) in [
        (endless_line, FramingError::LineTooLong),
        (endless_head, FramingError::MessageTooLarge),
        (many, FramingError::TooManyHeaders),
        (body, FramingError::MessageTooLarge),
    ] {
        let cuts: Vec<usize> = (0..stream.len()).collect();
        let bytes = stream.as_bytes();
        assert_eq!(
            run(StreamFramer::new(limits), bytes, &[]).1,
            Some(error),
            "{stream}"
        );
        assert_eq!(
            run(StreamFramer::new(limits), bytes, &cuts).1,
            Some(error),
            "{stream}"
        );
    }
    // A caller that never takes frames cannot make the buffer grow without bound.
    let mut framer = StreamFramer::new(limits);
    let mut kept = 0;
    for _ in 0..100 {
        framer.push(&[b'a'; 40]);
        kept = kept.max(framer.buffer.len());
    }
    assert!(kept <= 240);
    assert_eq!(framer.next(), Err(FramingError::NotDrained));
}

#[test]
fn a_message_within_one_push_is_not_copied() {
    let stream = Bytes::from(format!("{HEAD}l: 2\r\n\r\nhi{HEAD}"));
    let mut framer = StreamFramer::new(MessageLimits::default());
    framer.push_bytes(stream.clone());
    let Ok(Some(Frame::Message(first))) = framer.next() else {
        panic!("no message");
    };
    assert_eq!(first.as_ptr(), stream.as_ptr());
    assert_eq!(framer.next(), Ok(None));
    framer.push_bytes(Bytes::from_static(b"l: 0\r\n\r\n"));
    assert_eq!(
        framer.next(),
        Ok(Some(message(&format!("{HEAD}l: 0\r\n\r\n"))))
    );
}

#[test]
fn datagrams() {
    let framed = |text: &str| frame_datagram(Bytes::copy_from_slice(text.as_bytes()));
    let with = |lines: &str, body: &str| format!("{HEAD}{lines}\r\n{body}");
    let ok = |text: String| Ok(Bytes::from(text));
    assert_eq!(framed(&with("", "to the end")), ok(with("", "to the end")));
    assert_eq!(
        framed(&with("l: 2\r\n", "to the end")),
        ok(with("l: 2\r\n", "to"))
    );
    assert_eq!(
        framed(&with("l: 99\r\n", "short")),
        ok(with("l: 99\r\n", "short"))
    );
    assert_eq!(
        framed(&with("l: -9\r\n", "bad")),
        ok(with("l: -9\r\n", "bad"))
    );
    assert_eq!(framed(&format!("\r\n\r\n{HEAD}")), ok(HEAD.to_owned()));
    assert_eq!(framed("\r\n\r\n"), Err(FramingError::Empty));
    assert_eq!(framed(""), Err(FramingError::Empty));
    assert_eq!(framed("\0\0\0\0"), Err(FramingError::NotSip));
}
