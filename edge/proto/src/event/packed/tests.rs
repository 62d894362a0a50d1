use super::*;
use crate::event::LegNumber;
use proptest::prelude::*;

const CALL: &str = "00112233445566778899aabbccddeeff";

fn event(leg: Option<LegNumber>, kind: EventKind) -> Event {
    Event {
        at: Instant::from_nanos(1_234_567_890_123),
        call: Some(Arc::from(CALL)),
        leg,
        kind,
    }
}

fn packed(event: &Event) -> Vec<u8> {
    let mut bytes = Vec::new();
    pack(event, &mut bytes);
    bytes
}

fn unpacked(bytes: &[u8]) -> Option<Event> {
    unpack(bytes, &mut Names::default())
}

fn source() -> SocketAddr {
    "[2001:db8::7]:5060".parse().unwrap()
}

fn record() -> LegRecord {
    let at = Instant::from_millis;
    let received = DirectionStats {
        packets: 3_000,
        bytes: 516_000,
        lost: 1,
        jitter_ms: 0.125,
        first_packet: Some(at(520)),
    };
    LegRecord {
        call: Arc::from(CALL),
        leg: 3,
        direction: Direction::Outbound,
        trunk: Arc::from("agents"),
        sip_call_id: "leg-3@192.0.2.1".to_owned(),
        from: "sip:+1234567890@192.0.2.1".to_owned(),
        to: String::new(),
        source: Some(source()),
        start: at(10),
        ring: None,
        answer: Some(at(500)),
        end: at(60_000),
        sip_status: Some(200),
        cause: Cause::MediaTimeout,
        hangup_by: HangupBy::Edge,
        refers: vec![ReferRecord {
            at: at(7_000),
            target: "tel:+1234567890".to_owned(),
            status: 403,
            cause: Some(Cause::TransferLimit),
        }],
        transfer: Some(TransferRecord {
            id: 1,
            attempt: 2,
            target: "tel:+1234567890".to_owned(),
            via: Arc::from("agents"),
            result: "no-answer",
        }),
        media: Some(MediaRecord {
            codec: Some("PCMU".to_owned()),
            encryption: "none",
            lane: "io_uring",
            stats: MediaStats {
                received,
                sent: DirectionStats::default(),
                strangers: 7,
            },
        }),
    }
}

/// One of each kind.
fn events() -> Vec<Event> {
    let ai: Arc<str> = Arc::from("ai");
    let uri = || "sip:+1234567890@192.0.2.1".to_owned();
    let kinds = vec![
        EventKind::CallStarted {
            trunk: ai.clone(),
            from: uri(),
            to: "\"\u{e9}\" <sip:x>".to_owned(),
            sip_call_id: "a@b".to_owned(),
            source: source(),
        },
        EventKind::LegStarted {
            trunk: ai.clone(),
            direction: Direction::Outbound,
            sip_call_id: String::new(),
            from: uri(),
            to: uri(),
        },
        EventKind::Request {
            trunk: ai.clone(),
            method: Method::Invite,
            direction: Direction::Inbound,
        },
        EventKind::Response {
            trunk: ai.clone(),
            method: Method::Invite,
            code: 603,
            direction: Direction::Outbound,
            elapsed: Some(Duration::from_micros(1_500)),
        },
        EventKind::Digest {
            trunk: ai.clone(),
            outcome: "wrong_credentials",
        },
        EventKind::Routed {
            to: ai.clone(),
            number: "+1234567890".to_owned(),
        },
        EventKind::Refer {
            target: uri(),
            status: 202,
            cause: None,
            detail: "why".to_owned(),
        },
        EventKind::HeaderDropped {
            name: "X-A".to_owned(),
            rule: "X-*".to_owned(),
        },
        EventKind::TransferAttempt {
            id: 1,
            attempt: u32::MAX,
            target: uri(),
            via: ai.clone(),
        },
        EventKind::TransferBridged {
            trunk: ai.clone(),
            id: 1,
            elapsed: Duration::from_secs(2),
        },
        EventKind::TransferEnded {
            trunk: ai,
            id: 0,
            result: "denied",
            cause: Cause::TargetNotAllowed,
        },
        EventKind::FirstRtp {
            source: "192.0.2.7:10000".parse().unwrap(),
        },
        EventKind::Note {
            kind: "hangup",
            detail: "the peer hung up".to_owned(),
            reason: Some("Q.850".to_owned()),
        },
        EventKind::LegEnded(Box::new(record())),
        EventKind::CallEnded {
            cause: Cause::Completed,
        },
        EventKind::AccessDropped {
            listener: Arc::from("public"),
            source: "192.0.2.66".parse().unwrap(),
            reason: "unlisted",
        },
        EventKind::Connection {
            transport: Transport::Tls,
            remote: source(),
            detail: "opened".to_owned(),
            failed: true,
        },
        EventKind::Malformed {
            source: source(),
            fault: "no Via\r\n".to_owned(),
        },
        EventKind::Overflow { queue: "calls" },
    ];
    let legs = (1..).map(|leg| (leg != 5).then_some(leg));
    legs.zip(kinds)
        .map(|(leg, kind)| event(leg, kind))
        .collect()
}

#[test]
fn every_kind_comes_back_as_it_was() {
    let mut names = Names::default();
    for mut event in events() {
        let bytes = packed(&event);
        assert_eq!(unpack(&bytes, &mut names).as_ref(), Some(&event));
        assert!(is_whole(&event.kind));
        let body = without_call(&bytes).unwrap();
        assert_eq!(bytes.len() - body.len(), 2 + CALL.len());
        let again = unpack_of_call(body, Arc::from(CALL), &mut names);
        assert_eq!(again.as_ref(), Some(&event));
        if !matches!(event.kind, EventKind::LegEnded(_)) {
            event.call = None;
            assert_eq!(unpacked(&packed(&event)), Some(event));
        }
    }
}

#[test]
fn names_that_come_again_share_their_memory() {
    let mut names = Names::default();
    let bytes = packed(&events().remove(2));
    let mut trunk = || match unpack(&bytes, &mut names).unwrap().kind {
        EventKind::Request { trunk, .. } => trunk,
        _ => unreachable!(),
    };
    assert!(Arc::ptr_eq(&trunk(), &trunk()));
}

#[test]
fn what_was_cut_off_or_has_something_behind_it_is_no_event() {
    for event in events() {
        let mut bytes = packed(&event);
        for length in 0..bytes.len() {
            assert_eq!(unpacked(&bytes[..length]), None, "{length} of {event:?}");
        }
        bytes.push(0);
        assert_eq!(unpacked(&bytes), None);
    }
}

#[test]
fn a_word_of_no_fixed_set_is_told_as_other() {
    let odd = EventKind::Overflow { queue: "a new one" };
    assert!(!is_whole(&odd));
    let told = unpacked(&packed(&event(None, odd))).unwrap();
    assert_eq!(told.kind, EventKind::Overflow { queue: "other" });
}

/// A file of the version before is read by these numbers. If this fails, `FORMAT` has to change, and the older one to be read.
#[test]
fn the_form_is_that_of_format_1() {
    // FNV-1a over all of them.
    let sum = events()
        .iter()
        .flat_map(packed)
        .fold(0xcbf2_9ce4_8422_2325, |sum: u64, octet| {
            (sum ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    assert_eq!((FORMAT, sum), (1, 8_796_623_298_257_295_827));
    let ended = packed(&events().remove(14));
    assert_eq!(ended[..2], [1, 32]);
    assert_eq!(
        ended[2 + CALL.len()..],
        *b"\xcb\x89\xec\x8f\xf7\x23\x01\x0f\x10\x09completed"
    );
}

proptest! {
    #[test]
    fn no_octets_are_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = unpacked(&bytes);
        let _ = without_call(&bytes);
    }

    #[test]
    fn damage_is_no_panic(which in 0..19usize, at in any::<proptest::sample::Index>(), octet in any::<u8>()) {
        let mut bytes = packed(&events().remove(which));
        let at = at.index(bytes.len());
        bytes[at] = octet;
        let _ = unpacked(&bytes);
    }
}
