use super::*;
use crate::config::Transport;
use crate::event::{HangupBy, TransferRecord};
use crate::sip::Method;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

const NUMBER: &str = "+1234567890";

fn source() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], 5060))
}

fn trunk() -> Arc<str> {
    Arc::from("ai")
}

fn shown(kind: EventKind) -> (&'static str, String, Option<String>) {
    let d = kind.describe(Privacy::Shown);
    (d.kind, d.detail, d.reason)
}

fn record(answer: Option<Instant>, sip_status: Option<u16>, cause: Cause) -> LegRecord {
    LegRecord {
        call: Arc::from("00112233445566778899aabbccddeeff"),
        leg: 3,
        direction: Direction::Outbound,
        trunk: Arc::from("agents"),
        sip_call_id: "x@203.0.113.1".to_owned(),
        from: format!("sip:{NUMBER}@203.0.113.1"),
        to: format!("sip:{NUMBER}@203.0.113.2"),
        source: Some(source()),
        start: Instant::from_millis(1_000),
        ring: None,
        answer,
        end: Instant::from_millis(4_250),
        sip_status,
        cause,
        hangup_by: HangupBy::Remote,
        refers: Vec::new(),
        transfer: Some(TransferRecord {
            id: 1,
            attempt: 1,
            target: format!("tel:{NUMBER}"),
            via: Arc::from("agents"),
            result: "completed",
        }),
        media: None,
    }
}

/// One event of every kind, each with a number in every field that may hold one.
fn every_kind() -> Vec<EventKind> {
    let uri = format!("sip:{NUMBER}@192.0.2.1");
    vec![
        EventKind::CallStarted {
            trunk: trunk(),
            from: uri.clone(),
            to: format!("\"{NUMBER}\" <tel:{NUMBER}>"),
            sip_call_id: "abc".to_owned(),
            source: source(),
        },
        EventKind::LegStarted {
            trunk: trunk(),
            direction: Direction::Outbound,
            sip_call_id: String::new(),
            from: String::new(),
            to: String::new(),
        },
        EventKind::Request {
            trunk: trunk(),
            method: Method::Invite,
            direction: Direction::Inbound,
        },
        EventKind::Response {
            trunk: trunk(),
            method: Method::Invite,
            code: 200,
            direction: Direction::Outbound,
            elapsed: Some(Duration::from_millis(1_234)),
        },
        EventKind::Digest {
            trunk: trunk(),
            outcome: "stale",
        },
        EventKind::Routed {
            to: trunk(),
            number: NUMBER.to_owned(),
        },
        EventKind::Refer {
            target: uri.clone(),
            status: 403,
            cause: Some(Cause::TargetNotAllowed),
            detail: format!("{uri} matches no pattern"),
        },
        EventKind::HeaderDropped {
            name: "PH-Number".to_owned(),
            rule: "drop_headers: PH-*".to_owned(),
        },
        EventKind::TransferAttempt {
            id: 1,
            attempt: 2,
            target: uri.clone(),
            via: trunk(),
        },
        EventKind::TransferBridged {
            trunk: trunk(),
            id: 1,
            elapsed: Duration::from_millis(900),
        },
        EventKind::TransferEnded {
            trunk: trunk(),
            id: 1,
            result: "busy",
            cause: Cause::Busy,
        },
        EventKind::FirstRtp { source: source() },
        EventKind::Note {
            kind: "hold",
            detail: format!("{uri} holds"),
            reason: Some(format!("asked by {NUMBER}")),
        },
        EventKind::LegEnded(Box::new(record(None, Some(486), Cause::Busy))),
        EventKind::CallEnded {
            cause: Cause::Completed,
        },
        EventKind::AccessDropped {
            listener: Arc::from("public"),
            source: IpAddr::V4(Ipv4Addr::new(198, 51, 100, 9)),
            reason: "unlisted",
        },
        EventKind::Connection {
            transport: Transport::Tls,
            remote: source(),
            detail: "closed by the peer".to_owned(),
            failed: false,
        },
        EventKind::Malformed {
            source: source(),
            fault: format!("bad URI {uri}"),
        },
        EventKind::Overflow { queue: "media" },
    ]
}

#[test]
fn only_events_of_a_call_are_on_a_timeline() {
    let mut event = Event {
        at: Instant::from_millis(5),
        call: None,
        leg: Some(2),
        kind: EventKind::FirstRtp { source: source() },
    };
    assert_eq!(event.timeline(), None);
    event.call = Some(Arc::from("00112233445566778899aabbccddeeff"));
    let entry = event.timeline().expect("it belongs to a call");
    assert_eq!((entry.at, entry.leg), (Instant::from_millis(5), Some(2)));
    assert_eq!(entry.kind, "first_rtp");
    assert_eq!(
        entry.detail,
        "first RTP packet of this leg's peer, from 192.0.2.7:5060"
    );
}

#[test]
fn no_kind_shows_a_number_in_the_log() {
    for kind in every_kind() {
        let d = kind.describe(Privacy::Redacted);
        let all = format!("{} {} {:?}", d.kind, d.detail, d.reason);
        assert!(!all.contains("234567"), "{all}");
        assert!(!d.detail.is_empty(), "{all}");
    }
}

#[test]
fn signalling_names_message_trunk_and_direction() {
    let kinds = every_kind();
    assert_eq!(
        shown(kinds[2].clone()),
        ("request", "INVITE received from ai".to_owned(), None)
    );
    assert_eq!(
        shown(kinds[3].clone()),
        (
            "response",
            "200 OK to INVITE sent to ai after 1.234 s".to_owned(),
            None
        )
    );
}

#[test]
fn a_call_is_introduced_with_its_parties() {
    let kinds = every_kind();
    assert_eq!(
        shown(kinds[0].clone()).1,
        "call from sip:+1234567890@192.0.2.1 to \"+1234567890\" <tel:+1234567890>, from trunk ai at 192.0.2.7:5060"
    );
    assert_eq!(shown(kinds[1].clone()).1, "outbound leg to trunk ai");
    assert_eq!(
        shown(kinds[5].clone()).1,
        "number +1234567890 goes to trunk ai"
    );
}

#[test]
fn a_verdict_gives_its_cause_and_its_reason() {
    let kinds = every_kind();
    assert_eq!(
        shown(kinds[6].clone()),
        (
            "refer",
            "REFER to sip:+1234567890@192.0.2.1 refused with 403".to_owned(),
            Some("target_not_allowed: sip:+1234567890@192.0.2.1 matches no pattern".to_owned())
        )
    );
    assert_eq!(
        shown(EventKind::Refer {
            target: "tel:+1234567890".to_owned(),
            status: 202,
            cause: None,
            detail: String::new(),
        }),
        (
            "refer",
            "REFER to tel:+1234567890 accepted with 202".to_owned(),
            None
        )
    );
    let (_, _, reason) = shown(EventKind::Refer {
        target: String::new(),
        status: 491,
        cause: Some(Cause::TransferPending),
        detail: String::new(),
    });
    assert_eq!(
        reason.as_deref(),
        Some("transfer_pending: another transfer of this call is still under way")
    );
}

#[test]
fn a_transfer_is_told_step_by_step() {
    let kinds = every_kind();
    assert_eq!(
        shown(kinds[7].clone()).2.as_deref(),
        Some("drop_headers: PH-*")
    );
    assert_eq!(
        shown(kinds[8].clone()).1,
        "transfer 1, attempt 2: calling sip:+1234567890@192.0.2.1 over trunk ai"
    );
    assert_eq!(
        shown(kinds[9].clone()).1,
        "transfer 1: caller and target are bridged, 0.900 s after the 202"
    );
    let (kind, detail, reason) = shown(kinds[10].clone());
    assert_eq!(
        (kind, detail.as_str()),
        ("transfer_ended", "transfer 1: busy")
    );
    assert!(reason.is_some_and(|r| r.starts_with("busy: ")));
    let ended = |id, result, cause| {
        shown(EventKind::TransferEnded {
            trunk: trunk(),
            id,
            result,
            cause,
        })
    };
    let completed = ended(1, "completed", Cause::Completed);
    assert_eq!(
        (completed.1.as_str(), completed.2),
        ("transfer 1: completed", None)
    );
    let denied = ended(0, "denied", Cause::TransferDisabled);
    assert_eq!(denied.1, "no transfer: denied");
    assert_eq!(
        denied.2.as_deref(),
        Some("transfer_disabled: the trunk may not transfer")
    );
}

#[test]
fn digest_outcomes_say_who_did_what() {
    let digest = |outcome| {
        shown(EventKind::Digest {
            trunk: trunk(),
            outcome,
        })
    };
    assert_eq!(digest("challenged").1, "ai is asked for credentials");
    assert_eq!(digest("accepted").1, "credentials of ai accepted");
    assert!(digest("answered").1.contains("sent again with them"));
    assert!(digest("reflected").2.is_some_and(|r| r.contains("minted")));
    for refusal in [
        "stale",
        "replayed",
        "wrong_realm",
        "wrong_uri",
        "wrong_credentials",
        "malformed",
        "new",
    ] {
        let (kind, detail, reason) = digest(refusal);
        assert_eq!(
            (kind, detail.as_str()),
            ("digest", "credentials of ai refused")
        );
        assert!(reason.is_some_and(|r| r.starts_with(&format!("{refusal}: "))));
    }
}

#[test]
fn the_end_of_a_leg_says_who_when_and_why() {
    let end = |r| shown(EventKind::LegEnded(Box::new(r)));
    let (kind, detail, reason) = end(record(None, Some(486), Cause::Busy));
    assert_eq!(kind, "leg_ended");
    assert_eq!(
        detail,
        "leg to agents ended by its own peer after 3.250 s, not answered, INVITE ended with 486"
    );
    assert!(reason.is_some_and(|r| r.starts_with("busy: ")));
    let answered = record(
        Some(Instant::from_millis(2_250)),
        Some(200),
        Cause::Completed,
    );
    assert!(end(answered).1.ends_with("answered for 2.000 s"));
    let silent = record(None, None, Cause::SipAuthTimeout);
    assert!(end(silent).1.ends_with("INVITE got no final response"));
    let (kind, _, reason) = shown(EventKind::CallEnded {
        cause: Cause::Completed,
    });
    assert_eq!(kind, "call_ended");
    assert!(reason.is_some_and(|r| r.starts_with("completed: ")));
}

#[test]
fn what_belongs_to_no_call_is_told_too() {
    let kinds = every_kind();
    assert_eq!(
        shown(kinds[15].clone()),
        (
            "access_dropped",
            "198.51.100.9 dropped at listener public".to_owned(),
            Some("unlisted".to_owned())
        )
    );
    assert_eq!(
        shown(kinds[16].clone()).1,
        "TLS connection with 192.0.2.7:5060: closed by the peer"
    );
    assert_eq!(
        shown(kinds[17].clone()).2.as_deref(),
        Some("bad URI sip:+1234567890@192.0.2.1")
    );
    assert_eq!(shown(kinds[18].clone()).1, "the media queue was full");
}
