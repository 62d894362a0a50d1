//! Descriptions as endpoints write them.

use super::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(super) const CARRIER: &str = "v=0\r\n\
    o=carrier 3 4 IN IP4 198.51.100.7\r\n\
    s=call\r\n\
    c=IN IP4 198.51.100.7\r\n\
    t=0 0\r\n\
    m=audio 20000 RTP/AVP 0 8 18 101\r\n\
    a=rtpmap:0 PCMU/8000\r\n\
    a=rtpmap:101 telephone-event/8000\r\n\
    a=fmtp:101 0-16\r\n\
    a=ptime:20\r\n\
    a=maxptime:40\r\n";

pub(super) const BROWSER: &str = "v=0\r\n\
    o=mozilla...THIS_IS_SDPARTA-99.0 4294967295 7 IN IP4 0.0.0.0\r\n\
    s=-\r\n\
    t=0 0\r\n\
    a=group:BUNDLE 0 1\r\n\
    a=fingerprint:sha-256 00:11\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 120 121\r\n\
    c=IN IP4 0.0.0.0\r\n\
    a=mid:0\r\n\
    m=audio 40000 RTP/AVPF 111 0 126\r\n\
    c=IN IP4 198.51.100.8\r\n\
    a=candidate:0 1 UDP 2122252543 198.51.100.8 40000 typ host\r\n\
    a=ice-ufrag:abcd\r\n\
    a=rtcp-mux\r\n\
    a=rtcp:40005 IN IP4 198.51.100.9\r\n\
    a=mid:1\r\n\
    a=rtpmap:111 opus/48000/2\r\n\
    a=fmtp:111 maxplaybackrate=48000;stereo=1\r\n\
    a=rtpmap:126 telephone-event/8000\r\n\
    a=sendrecv\r\n\
    m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n";

fn offer(text: &str) -> Result<Offer, SdpError> {
    Offer::parse(text.as_bytes())
}

/// An offer of one audio stream; `session` goes before its `m=` line, `media` after it.
fn with_lines(session: &str, m: &str, media: &str) -> Result<Offer, SdpError> {
    offer(&format!(
        "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n{session}{m}\r\n{media}"
    ))
}

fn audio_with(session: &str, media: &str) -> RemoteAudio {
    with_lines(session, "m=audio 4000 RTP/AVP 0", media)
        .unwrap()
        .audio()
        .clone()
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&name| name.to_owned()).collect()
}

fn local(codecs: Vec<Codec>) -> LocalDescription {
    LocalDescription {
        session_id: 77,
        version: 1,
        address: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
        rtp_port: 10_000,
        codecs,
        direction: Direction::SendRecv,
        ptime: None,
    }
}

fn answered(text: &str, ours: &LocalDescription) -> String {
    String::from_utf8(ours.answer_bytes(&offer(text).unwrap())).unwrap()
}

#[test]
fn a_carriers_offer() {
    let offer = offer(CARRIER).unwrap();
    let audio = offer.audio();
    assert_eq!(
        audio.rtp,
        "198.51.100.7:20000".parse::<SocketAddr>().unwrap()
    );
    assert_eq!(
        audio.rtcp,
        "198.51.100.7:20001".parse::<SocketAddr>().unwrap()
    );
    let codecs: Vec<_> = audio
        .codecs
        .iter()
        .map(|codec| {
            (
                codec.payload_type,
                codec.name.as_str(),
                codec.fmtp.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        codecs,
        [
            (0, "PCMU", None),
            (8, "PCMA", None),
            (18, "G729", None),
            (101, "telephone-event", Some("0-16"))
        ]
    );
    assert_eq!(audio.direction, Direction::SendRecv);
    assert_eq!((audio.ptime, audio.maxptime), (Some(20), Some(40)));
    assert!(!audio.has_crypto && audio.receives() && !audio.is_hold());
}

#[test]
fn a_browsers_offer_is_answered_line_by_line_and_nothing_of_it_is_repeated() {
    let offer = offer(BROWSER).unwrap();
    assert_eq!(offer.media_lines().len(), 3);
    assert_eq!(offer.shape().audio(), 1);
    assert_eq!(offer.audio().profile, Profile::Avpf);
    assert_eq!(
        offer.audio().rtcp,
        "198.51.100.9:40005".parse::<SocketAddr>().unwrap()
    );
    let ours = local(answer_codecs(
        &offer.audio().codecs,
        &default_codecs(&names(&["PCMU", "PCMA", "telephone-event"])),
    ));
    assert_eq!(
        String::from_utf8(ours.answer_bytes(&offer)).unwrap(),
        "v=0\r\n\
         o=- 77 1 IN IP4 203.0.113.1\r\n\
         s=-\r\n\
         c=IN IP4 203.0.113.1\r\n\
         t=0 0\r\n\
         m=video 0 UDP/TLS/RTP/SAVPF 120\r\n\
         m=audio 10000 RTP/AVPF 0 126\r\n\
         a=rtpmap:0 PCMU/8000\r\n\
         a=rtpmap:126 telephone-event/8000\r\n\
         a=fmtp:126 0-15\r\n\
         a=sendrecv\r\n\
         m=application 0 UDP/DTLS/SCTP webrtc-datachannel\r\n"
    );
}

#[test]
fn an_offer_of_our_own_on_ipv6() {
    let ours = LocalDescription {
        address: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        session_id: u64::MAX,
        direction: Direction::SendOnly,
        ptime: Some(20),
        ..local(default_codecs(&names(&["G722", "opus", "telephone-event"])))
    };
    assert_eq!(
        String::from_utf8(ours.offer_bytes()).unwrap(),
        "v=0\r\n\
         o=- 9223372036854775807 1 IN IP6 2001:db8::1\r\n\
         s=-\r\n\
         c=IN IP6 2001:db8::1\r\n\
         t=0 0\r\n\
         m=audio 10000 RTP/AVP 9 96 101\r\n\
         a=rtpmap:9 G722/8000\r\n\
         a=rtpmap:96 opus/48000/2\r\n\
         a=rtpmap:101 telephone-event/8000\r\n\
         a=fmtp:101 0-15\r\n\
         a=ptime:20\r\n\
         a=sendonly\r\n"
    );
}

#[test]
fn a_later_offer_keeps_the_lines_in_their_places() {
    let shape = offer(BROWSER).unwrap().shape().clone();
    let ours = local(default_codecs(&names(&["PCMA"])));
    let text = String::from_utf8(ours.reoffer_bytes(&shape)).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("m=")).collect();
    assert_eq!(
        lines,
        [
            "m=video 0 UDP/TLS/RTP/SAVPF 120",
            "m=audio 10000 RTP/AVPF 8",
            "m=application 0 UDP/DTLS/SCTP webrtc-datachannel"
        ]
    );
    let body = text.replace("10000", "4000");
    assert!(Answer::parse_shaped(body.as_bytes(), &ours, &shape).is_ok());
    assert_eq!(
        Answer::parse(body.as_bytes(), &ours),
        Err(SdpError::ShapeMismatch)
    );
}

#[test]
fn what_is_at_the_media_level_wins() {
    let audio = audio_with(
        "c=IN IP4 192.0.2.1\r\na=inactive\r\n",
        "c=IN IP4 192.0.2.2\r\na=recvonly\r\n",
    );
    assert_eq!(audio.rtp.ip(), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)));
    assert_eq!(audio.direction, Direction::RecvOnly);
    let audio = audio_with("c=IN IP4 192.0.2.1\r\na=sendonly\r\n", "");
    assert_eq!(audio.direction, Direction::SendOnly);
    let audio = audio_with("", "c=IN IP4 192.0.2.2\r\n");
    assert_eq!(audio.direction, Direction::SendRecv);
}

#[test]
fn every_way_to_hold_is_answered_in_kind() {
    for (connection, attribute, direction, answer) in [
        ("192.0.2.1", "sendrecv", Direction::SendRecv, "a=sendrecv"),
        ("192.0.2.1", "sendonly", Direction::SendOnly, "a=recvonly"),
        ("192.0.2.1", "recvonly", Direction::RecvOnly, "a=sendonly"),
        ("192.0.2.1", "inactive", Direction::Inactive, "a=inactive"),
        ("0.0.0.0", "sendrecv", Direction::SendOnly, "a=recvonly"),
        ("0.0.0.0", "sendonly", Direction::SendOnly, "a=recvonly"),
        ("0.0.0.0", "recvonly", Direction::Inactive, "a=inactive"),
    ] {
        let text = CARRIER.replace("c=IN IP4 198.51.100.7", &format!("c=IN IP4 {connection}"))
            + &format!("a={attribute}\r\n");
        let audio = offer(&text).unwrap().audio().clone();
        assert_eq!(audio.direction, direction, "{connection} {attribute}");
        assert_eq!(audio.is_hold(), !direction.receives());
        let ours = local(default_codecs(&names(&["PCMU"])));
        assert!(answered(&text, &ours).ends_with(&format!("{answer}\r\n")));
    }
    let ours = LocalDescription {
        direction: Direction::SendOnly,
        ..local(default_codecs(&names(&["PCMU"])))
    };
    assert!(answered(CARRIER, &ours).ends_with("a=sendonly\r\n"));
    assert_eq!(
        ours.answer_direction(Direction::SendOnly),
        Direction::Inactive
    );
}

#[test]
fn rtcp_goes_where_rfc_3605_says() {
    let at = |value: &str| {
        audio_with("c=IN IP4 192.0.2.1\r\n", &format!("a=rtcp:{value}\r\n"))
            .rtcp
            .to_string()
    };
    assert_eq!(at("4007"), "192.0.2.1:4007");
    assert_eq!(at("4007 IN IP4 192.0.2.9"), "192.0.2.9:4007");
    for useless in [
        "",
        "0",
        "x",
        "70000",
        "4007 IN IP4",
        "4007 IN IP4 host.example.net",
        "4007 IN IP6 2001:db8::1",
        "4007 IN IP4 224.0.0.1",
    ] {
        assert_eq!(at(useless), "192.0.2.1:4001", "{useless:?}");
    }
}

#[test]
fn the_first_usable_audio_stream_counts() {
    let text = "v=0\r\nc=IN IP4 192.0.2.1\r\n\
        m=audio 0 RTP/AVP 0\r\n\
        m=audio 4000 RTP/SAVP 0\r\n\
        m=audio 4002 udp 0\r\n\
        m=audio 4004 RTP/AVP 120\r\n\
        m=audio 4006 RTP/AVP 8\r\n\
        m=audio 4008 RTP/AVP 0\r\n";
    let offer = offer(text).unwrap();
    assert_eq!((offer.shape().audio(), offer.audio().rtp.port()), (4, 4006));
    let ours = local(default_codecs(&names(&["PCMU", "PCMA"])));
    let answer = answered(text, &ours);
    let ports: Vec<&str> = answer
        .lines()
        .filter_map(|line| line.strip_prefix("m=audio "))
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(ports, ["0", "0", "0", "0", "10000", "0"]);
}

#[test]
fn each_fault_has_its_name() {
    let c = "c=IN IP4 192.0.2.1\r\n";
    let m = "m=audio 4000 RTP/AVP 0";
    for (session, m, media, error) in [
        (c, "m=video 4000 RTP/AVP 31", "", SdpError::NoAudio),
        (c, "a=x", "", SdpError::NoAudio),
        (c, "m=audio 0 RTP/AVP 0", "", SdpError::Refused),
        (
            c,
            "m=audio 4000 RTP/SAVP 0",
            "a=crypto:1 x\r\n",
            SdpError::OnlyEncrypted,
        ),
        (
            c,
            "m=audio 4000 UDP/TLS/RTP/SAVPF 0",
            "",
            SdpError::OnlyEncrypted,
        ),
        (
            c,
            "m=audio 0 RTP/AVP 0\r\nm=audio 4000 RTP/SAVP 0",
            "",
            SdpError::OnlyEncrypted,
        ),
        (c, "m=audio 4000 TCP/MRCPv2 0", "", SdpError::NotRtp),
        (
            c,
            "m=audio 4000 RTP/AVP 96 97",
            "a=rtpmap:97 broken\r\n",
            SdpError::NoCodec,
        ),
        ("", m, "", SdpError::NoConnection),
        ("c=IN IP4 media.example.net\r\n", m, "", SdpError::HostName),
        ("c=IN IP4 224.2.1.1/127\r\n", m, "", SdpError::BadAddress),
        ("c=IN IP4 192.0.2.1/24\r\n", m, "", SdpError::BadAddress),
        ("c=IN IP4 255.255.255.255\r\n", m, "", SdpError::BadAddress),
        ("c=IN IP6 192.0.2.1\r\n", m, "", SdpError::BadAddress),
        ("c=IN IP6 ::ffff:192.0.2.1\r\n", m, "", SdpError::BadAddress),
        ("c=IN IP6 ff02::1\r\n", m, "", SdpError::BadAddress),
        ("c=TN RFC2543 +1234567890\r\n", m, "", SdpError::BadAddress),
    ] {
        assert_eq!(with_lines(session, m, media), Err(error), "{session}{m}");
    }
    for text in ["", "\r\n \r\n"] {
        assert_eq!(offer(text), Err(SdpError::Empty));
    }
    for text in [
        "hello",
        "v=1\r\n",
        "o=- 1 1 IN IP4 192.0.2.1\r\n",
        "v=0\r\nm=audio\r\n",
        "v=0\r\nm=audio 99999 RTP/AVP 0\r\n",
        "v=0\r\nm=audio 4000 RTP/AVP\r\n",
        "v=0\r\nm=audio 4000 RTP/AVP \r\n",
        "v=0\r\nm=au(dio 4000 RTP/AVP 0\r\n",
        "v=0\r\nm=audio 4000 RTP//AVP 0\r\n",
        "v=0\r\nc=IN IP4 192.0.2.1\r\nc=IN IP4 192.0.2.2\r\nm=audio 4000 RTP/AVP 0\r\n",
        "v=0\r\nm=audio 4000 RTP/AVP 0\rc=IN IP4 192.0.2.1\r\n",
        "v=0\r\nm=audio 4000 RTP/AVP 0\r\nbanana\r\n",
        "v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0\r",
    ] {
        assert!(
            matches!(offer(text), Err(SdpError::Malformed(_))),
            "{text:?}"
        );
    }
    assert!(matches!(
        Offer::parse(b"v=0\r\nm=audio 4000 RTP/AVP 0 \xff\r\n"),
        Err(SdpError::Malformed(_))
    ));
}

/// Free text in any character set, odd times and bandwidths, line ends without CR, blank lines: none of it is our business.
#[test]
fn what_does_not_matter_refuses_no_call() {
    let body = b"v=0\no=caf\xe9 x y\ns=caf\xe9\ni=\xff\nb=oops\nt=now\nz=\nk=clear\n\na=label:\xe9\na=rtpmap:8 \xff\n\
        c=IN IP4 192.0.2.1\nm=audio 4000 RTP/AVP 0\nb=AS:eighty\na=fmtp:0 \xff\n";
    let offer = Offer::parse(body).unwrap();
    assert_eq!(offer.audio().codecs, [Codec::from_static(0).unwrap()]);
}

#[test]
fn sizes_are_limited() {
    let head = "v=0\r\nc=IN IP4 192.0.2.1\r\n";
    let line = "m=audio 4000 RTP/AVP 0\r\n";
    let lines = |count: usize| offer(&format!("{head}{}", line.repeat(count)));
    assert_eq!(
        lines(MAX_MEDIA_LINES).unwrap().media_lines().len(),
        MAX_MEDIA_LINES
    );
    assert_eq!(lines(MAX_MEDIA_LINES + 1), Err(SdpError::TooManyMediaLines));
    let codecs = |count: usize| {
        offer(&format!(
            "{head}m=audio 4000 RTP/AVP{}\r\n",
            " 0".repeat(count)
        ))
    };
    assert_eq!(codecs(MAX_CODECS).unwrap().audio().codecs.len(), 1);
    assert_eq!(codecs(MAX_CODECS + 1), Err(SdpError::TooManyCodecs));
    let padded = |bytes: usize| {
        let text = format!("{head}{line}a=x:");
        let padding = "x".repeat(bytes - text.len());
        offer(&(text + &padding))
    };
    assert!(padded(MAX_BYTES).is_ok());
    assert_eq!(padded(MAX_BYTES + 1), Err(SdpError::TooLong));
}

#[test]
fn an_rtpmap_says_what_a_type_is_and_the_first_one_counts() {
    let offer = with_lines(
        "c=IN IP4 192.0.2.1\r\n",
        "m=audio 4000 RTP/AVP 0 97 97 128 x 98 13",
        "a=rtpmap:97  iLBC/8000 \r\na=rtpmap:97 PCMA/8000\r\na=fmtp:97 mode=20\r\na=RTPMAP:98 Telephone-Event/8000\r\na=rtpmap:300 PCMA/8000\r\na=rtpmap:\r\na=fmtp:98\r\n",
    )
    .unwrap();
    let found: Vec<_> = offer
        .audio()
        .codecs
        .iter()
        .map(|codec| {
            (
                codec.payload_type,
                codec.name.as_str(),
                codec.fmtp.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (0, "PCMU", None),
            (97, "iLBC", Some("mode=20")),
            (98, "telephone-event", None),
            (13, "CN", None)
        ]
    );
}

#[test]
fn an_answer_is_read_within_what_was_offered() {
    let ours = local(default_codecs(&names(&["PCMU", "PCMA", "telephone-event"])));
    let answer = |m: &str, rest: &str| {
        Answer::parse(
            format!("v=0\r\nc=IN IP4 192.0.2.1\r\n{m}\r\n{rest}").as_bytes(),
            &ours,
        )
    };
    let types = |answer: Result<Answer, SdpError>| -> Vec<u8> {
        let answer = answer.unwrap();
        answer
            .audio()
            .codecs
            .iter()
            .map(|codec| codec.payload_type)
            .collect()
    };
    let event = "a=rtpmap:96 telephone-event/8000\r\n";
    // Its own number for events, its own order, and a codec that nobody offered.
    assert_eq!(
        types(answer("m=audio 4000 RTP/AVP 8 18 0 96", event)),
        [8, 0, 96]
    );
    assert_eq!(
        types(answer("m=audio 4000 RTP/AVP 0\r\nm=video 0 RTP/AVP 31", "")),
        [0]
    );
    for (m, error) in [
        ("m=audio 0 RTP/AVP 0", SdpError::Refused),
        ("m=audio 4000 RTP/AVP 9 96", SdpError::NoCommonCodec),
        ("m=audio 4000 RTP/SAVP 0", SdpError::OnlyEncrypted),
        (
            "m=video 0 RTP/AVP 31\r\nm=audio 4000 RTP/AVP 0",
            SdpError::ShapeMismatch,
        ),
        ("a=sendrecv", SdpError::ShapeMismatch),
    ] {
        assert_eq!(answer(m, event), Err(error), "{m}");
    }
}

#[test]
fn an_answer_cannot_widen_the_direction() {
    for (offered, written, effective) in [
        (Direction::SendRecv, "sendonly", Direction::SendOnly),
        (Direction::SendOnly, "sendrecv", Direction::RecvOnly),
        (Direction::SendOnly, "recvonly", Direction::RecvOnly),
        (Direction::RecvOnly, "sendrecv", Direction::SendOnly),
        (Direction::Inactive, "sendrecv", Direction::Inactive),
    ] {
        let ours = LocalDescription {
            direction: offered,
            ..local(default_codecs(&names(&["PCMU"])))
        };
        let body =
            format!("v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0\r\na={written}\r\n");
        let answer = Answer::parse(body.as_bytes(), &ours).unwrap();
        assert_eq!(answer.audio().direction, effective);
    }
}

#[test]
fn without_a_common_codec_the_answer_refuses_the_stream() {
    let ours = local(default_codecs(&names(&["G722", "telephone-event"])));
    assert!(answered(CARRIER, &ours).ends_with("m=audio 0 RTP/AVP 0\r\n"));
}

#[test]
fn a_version_goes_up_only_when_something_changed() {
    let first = local(default_codecs(&names(&["PCMU"])));
    let mut same = LocalDescription {
        session_id: 5,
        version: 9,
        ..first.clone()
    };
    same.bump_if_changed(&first);
    assert_eq!(same, first);
    let mut held = LocalDescription {
        direction: Direction::Inactive,
        ..first.clone()
    };
    held.bump_if_changed(&first);
    assert_eq!((held.session_id, held.version), (77, 2));
}

#[test]
fn faults_map_to_causes_and_statuses() {
    use crate::event::Cause;
    assert_eq!(SdpError::OnlyEncrypted.cause(), Cause::EncryptionRequired);
    assert_eq!(SdpError::NoAudio.cause(), Cause::NoCommonCodec);
    assert_eq!(SdpError::Empty.cause(), Cause::Malformed);
    assert_eq!(SdpError::OnlyEncrypted.status(), 488);
    assert_eq!(SdpError::NoConnection.status(), 400);
}
