//! What holds for every description.

use super::tests::{BROWSER, CARRIER};
use super::*;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

fn any_codecs() -> impl Strategy<Value = Vec<Codec>> {
    let one = prop_oneof![
        Just(("PCMU", 8000, 1)),
        Just(("PCMA", 8000, 1)),
        Just(("G722", 8000, 1)),
        Just(("opus", 48_000, 2)),
        Just(("L16", 16_000, 1)),
        Just(("telephone-event", 8000, 1)),
        Just(("telephone-event", 48_000, 1)),
        Just(("x-own", 24_000, 6)),
    ];
    let entry = (one, 0u8..128, proptest::option::of("[a-z0-9=;-]{1,12}"));
    proptest::collection::vec(entry, 0..8).prop_map(|entries| {
        let mut codecs: Vec<Codec> = Vec::new();
        for ((name, clock_rate, channels), payload_type, fmtp) in entries {
            if codecs
                .iter()
                .all(|codec| codec.payload_type != payload_type)
            {
                codecs.push(Codec {
                    payload_type,
                    name: name.into(),
                    clock_rate,
                    channels,
                    fmtp: fmtp.map(Into::into),
                });
            }
        }
        codecs
    })
}

fn any_direction() -> impl Strategy<Value = Direction> {
    (any::<bool>(), any::<bool>()).prop_map(|(sends, receives)| Direction::new(sends, receives))
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u8>().prop_map(|host| IpAddr::V4(Ipv4Addr::new(203, 0, 113, host))),
        any::<u16>().prop_map(|host| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host))),
    ]
}

prop_compose! {
    fn any_local()(
        session_id in 0..=i64::MAX as u64, version in 0..=i64::MAX as u64, address in any_address(), rtp_port in 1u16..65_535,
        codecs in any_codecs(), direction in any_direction(), ptime in proptest::option::of(1u32..=1000),
    ) -> LocalDescription {
        LocalDescription { session_id, version, address, rtp_port, codecs, direction, ptime }
    }
}

/// Bodies that are nearly SDP: lines of a valid one, dropped, repeated, shuffled and mangled.
fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let lines: Vec<&'static str> = CARRIER.lines().chain(BROWSER.lines()).collect();
    let line = (
        proptest::sample::select(lines),
        proptest::option::weighted(0.02, (any::<prop::sample::Index>(), any::<u8>())),
    )
        .prop_map(|(line, change)| {
            let mut bytes = line.as_bytes().to_vec();
            if let Some((at, byte)) = change {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.extend_from_slice(b"\r\n");
            bytes
        });
    proptest::collection::vec(line, 0..30).prop_map(|lines| {
        let mut body = b"v=0\r\nc=IN IP4 192.0.2.1\r\nm=text 9 RTP/AVP 98\r\n".to_vec();
        body.extend(lines.concat());
        body.extend_from_slice(b"m=audio 4000 RTP/AVP 0 8 101\r\n");
        body
    })
}

/// Lines right and wrong, with ends right and wrong.
fn any_line() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        prop::sample::select(vec![
            "v=0",
            "v=1",
            "s=x",
            "o=",
            "t=0 0",
            "banana",
            "x=1",
            "=x",
            "",
            " ",
            "i=\r",
            "a=rtpmap",
            "a=",
            "a=:",
            "a=rtpmap:0 PCMU/8000",
            "a=RTPMAP : 0 x",
            "a=sendonly ",
            "a=rtcp:1:2",
            "a=fmtp:0 \0",
            "a=label:x\ry",
            "c=IN IP4 192.0.2.1",
            "c=IN  IP6 ::1 ",
            "c=IN IP4",
            "c=IN IP4 h x",
            "c=I/N IP4 h",
            "c=",
            "m=audio 1 RTP/AVP 0",
            "m=audio 1/2 RTP/AVP 0 8",
            "m=audio 1/x RTP/AVP 0",
            "m=audio x RTP/AVP 0",
            "m=audio 70000 RTP/AVP 0",
            "m=audio 1 RTP/AVP",
            "m=audio 1 RTP/AVP ",
            "m=audio",
            "m=",
            "m= 1  0",
        ])
        .prop_map(|line| line.as_bytes().to_vec()),
        Just(b"a=rtpmap:8 \xff".to_vec()),
        Just(b"m=audio 1 RTP/AVP \xff".to_vec()),
        Just(b"c=IN IP4 \xff".to_vec()),
    ];
    let end = prop::sample::select(vec!["\r\n", "\n", "\r\n", "\r"]);
    (line, end).prop_map(|(mut line, end)| {
        line.extend_from_slice(end.as_bytes());
        line
    })
}

/// Connection and attributes of the session and of each `m=` line, with that.
type Read = Vec<(String, Option<String>, Vec<(String, String)>)>;

fn read(session: &parse::Session<'_>) -> Read {
    let connection = |c: &Option<parse::Connection<'_>>| {
        c.as_ref()
            .map(|c| format!("{} {} {}", c.net, c.kind, c.address))
    };
    let attributes = |list: &parse::Attributes<'_>| {
        list.iter()
            .map(|a| (a.name.to_owned(), a.value.to_owned()))
            .collect()
    };
    let media = |m: &parse::Media<'_>| {
        let line = format!("{} {} {} {}", m.media, m.port, m.proto, m.formats);
        (line, connection(&m.connection), attributes(&m.attributes))
    };
    let whole = (
        String::new(),
        connection(&session.connection),
        attributes(&session.attributes),
    );
    std::iter::once(whole)
        .chain(session.medias.iter().map(media))
        .collect()
}

fn read_by_sdp_types(session: &sdp_types::Session) -> Read {
    let connection = |c: Option<&sdp_types::Connection>| {
        c.map(|c| format!("{} {} {}", c.nettype, c.addrtype, c.connection_address))
    };
    let attributes = |list: &[sdp_types::Attribute]| {
        let value =
            |a: &sdp_types::Attribute| a.value.as_deref().unwrap_or_default().trim().to_owned();
        list.iter()
            .map(|a| (a.attribute.trim().to_owned(), value(a)))
            .collect()
    };
    let media = |m: &sdp_types::Media| {
        let line = format!("{} {} {} {}", m.media, m.port, m.proto, m.fmt);
        (
            line,
            connection(m.connections.first()),
            attributes(&m.attributes),
        )
    };
    let whole = (
        String::new(),
        connection(session.connection.as_ref()),
        attributes(&session.attributes),
    );
    std::iter::once(whole)
        .chain(session.medias.iter().map(media))
        .collect()
}

proptest! {
    /// Our offers say what they mean.
    #[test]
    fn an_offer_of_ours_parses_back(local in any_local()) {
        let parsed = Offer::parse(&local.offer_bytes());
        if !has_speech(&local.codecs) {
            prop_assert_eq!(parsed, Err(SdpError::Refused));
        } else {
            let parsed = parsed.unwrap();
            let audio = parsed.audio();
            prop_assert_eq!(&audio.codecs, &local.codecs);
            prop_assert_eq!(audio.rtp, SocketAddr::new(local.address, local.rtp_port));
            prop_assert_eq!(audio.rtcp, SocketAddr::new(local.address, local.rtp_port + 1));
            prop_assert_eq!(audio.direction, local.direction);
            prop_assert_eq!(audio.ptime, local.ptime);
            prop_assert_eq!(parsed.media_lines().len(), 1);
        }
    }

    /// An exchange between two edges leaves both with the same codecs, and with directions that fit.
    #[test]
    fn an_answer_of_ours_parses_back(offerer in any_local(), mut answerer in any_local()) {
        prop_assume!(has_speech(&offerer.codecs));
        let offer = Offer::parse(&offerer.offer_bytes()).unwrap();
        answerer.codecs = answer_codecs(&offer.audio().codecs, &answerer.codecs);
        let answer = Answer::parse(&answerer.answer_bytes(&offer), &offerer);
        if answerer.codecs.is_empty() {
            prop_assert_eq!(answer, Err(SdpError::Refused));
        } else {
            let answer = answer.unwrap();
            prop_assert_eq!(&answer.audio().codecs, &answerer.codecs);
            let agreed = answerer.answer_direction(offerer.direction);
            prop_assert_eq!(answer.audio().direction, agreed);
            prop_assert!(!agreed.sends() || offerer.direction.receives());
            for codec in &answerer.codecs {
                prop_assert!(offerer.codecs.iter().any(|o| o.payload_type == codec.payload_type && same_codec(o, codec)));
            }
        }
    }

    /// Whatever an offer looks like, the answer has its lines, and only our words.
    #[test]
    fn an_answer_has_the_lines_of_the_offer(body in any_body(), mut ours in any_local()) {
        if let Ok(offer) = Offer::parse(&body) {
            ours.codecs = answer_codecs(&offer.audio().codecs, &ours.codecs);
            for bytes in [ours.answer_bytes(&offer), ours.reoffer_bytes(offer.shape())] {
                let text = String::from_utf8(bytes).unwrap();
                let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("m=")).collect();
                prop_assert_eq!(lines.len(), offer.media_lines().len());
                for (index, (line, offered)) in lines.iter().zip(offer.media_lines()).enumerate() {
                    let mut words = line.split(' ');
                    prop_assert_eq!(words.next(), Some(offered.media.as_str()));
                    let port = words.next();
                    prop_assert!(index == offer.shape().audio() || port == Some("0"));
                    prop_assert_eq!(words.next(), Some(offered.proto.as_str()));
                    prop_assert!(words.next().is_some());
                }
                for private in ["198.51.100", "192.0.2.1", "candidate", "ice-", "BUNDLE", "fingerprint", "mozilla", "carrier"] {
                    prop_assert!(!text.contains(private), "{} in {}", private, text);
                }
            }
        }
    }

    /// Against a parser of the whole grammar, which is given what matters.
    #[test]
    fn bodies_are_read_as_sdp_types_reads_them(lines in proptest::collection::vec(any_line(), 0..12), version in any::<bool>()) {
        let mut body = if version { b"v=0\r\n".to_vec() } else { Vec::new() };
        lines.iter().for_each(|line| body.extend_from_slice(line));
        let kept: Vec<u8> = body
            .split_inclusive(|&byte| byte == b'\n')
            .filter(|line| parse::matters(line))
            .flatten()
            .copied()
            .collect();
        prop_assume!(!body.trim_ascii().is_empty());
        let (ours, theirs) = (parse::session(&body), sdp_types::Session::parse(&kept));
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?} {:?}", ours, theirs);
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            prop_assert_eq!(read(&ours), read_by_sdp_types(&theirs));
        }
    }

    #[test]
    fn no_body_makes_it_panic(noise in proptest::collection::vec(any::<u8>(), 0..300), body in any_body(), ours in any_local()) {
        for bytes in [noise, body] {
            let _ = Offer::parse(&bytes);
            let _ = Answer::parse(&bytes, &ours);
        }
    }

    /// A payload map joins equal codecs only, and never sends two streams of meaning under one received number.
    #[test]
    fn a_payload_map_joins_equal_codecs_only(a in any_codecs(), b in any_codecs()) {
        let map = payload_map(&a, &b);
        for &(from, to) in &map.entries {
            let from_codec = a.iter().find(|codec| codec.payload_type == from).unwrap();
            let to_codec = b.iter().find(|codec| codec.payload_type == to).unwrap();
            prop_assert!(same_codec(from_codec, to_codec));
            prop_assert_eq!(map.entries.iter().filter(|entry| entry.0 == from).count(), 1);
            prop_assert!(map.clock_rates.contains(&(from, from_codec.clock_rate)));
        }
        for codec in &a {
            let possible = b.iter().any(|other| same_codec(codec, other));
            prop_assert_eq!(map.entries.iter().any(|entry| entry.0 == codec.payload_type), possible);
        }
    }
}
