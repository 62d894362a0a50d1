use super::*;
use crate::cdr::CdrLine;
use crate::reporter::WallClock;
use crate::test_support::{call_with_transfer, record};
use edge_proto::event::{
    Cause, Direction, EventKind, HangupBy, LegRecord, MediaRecord, ReferRecord, TransferRecord,
};
use edge_proto::relay::{DirectionStats, MediaStats};
use edge_proto::time::{Duration, Instant};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

fn clock() -> WallClock {
    let utc = "2026-03-01T12:00:00Z".parse().expect("a valid time");
    WallClock::new(Instant::ZERO, utc)
}

fn bytes(record: &LegRecord) -> Vec<u8> {
    CdrLine::new(record, &clock()).to_bytes()
}

fn verify(content: &[u8]) -> Report {
    let mut verifier = Verifier::default();
    verifier
        .read(Path::new("cdr.jsonl"), content)
        .expect("memory is readable");
    verifier.finish()
}

fn whats(content: &[u8]) -> Vec<(usize, String)> {
    let problems = verify(content).problems;
    problems.into_iter().map(|p| (p.line, p.what)).collect()
}

/// The lines of a call with a transfer, as the edge writes them.
fn call_lines() -> Vec<Vec<u8>> {
    let records = call_with_transfer();
    records
        .iter()
        .filter_map(|e| match &e.kind {
            EventKind::LegEnded(record) => Some(bytes(record)),
            _ => None,
        })
        .collect()
}

/// One good line, changed by `change`, and what is wrong with it then.
fn broken(change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Vec<String> {
    let line = bytes(&record(1, "carrier", 1_000, 5_000));
    let mut value: Value = serde_json::from_slice(&line).expect("JSON");
    change(value.as_object_mut().expect("an object"));
    let line = format!("{value}\n");
    whats(line.as_bytes()).into_iter().map(|(_, w)| w).collect()
}

fn set(path: &'static str, to: Value) -> impl FnOnce(&mut serde_json::Map<String, Value>) {
    move |object| {
        let mut names = path.split('.');
        let mut at = object
            .get_mut(names.next().expect("a name"))
            .expect("the field");
        for name in names {
            at = at.get_mut(name).expect("the field");
        }
        *at = to;
    }
}

#[test]
fn a_whole_call_is_in_order() {
    let report = verify(&call_lines().concat());
    assert_eq!(report.problems, []);
    assert_eq!((report.records, report.calls, report.transfers), (3, 1, 1));
}

#[test]
fn every_field_must_be_there() {
    let line = bytes(&record(1, "carrier", 1_000, 5_000));
    let value: Value = serde_json::from_slice(&line).expect("JSON");
    let names: Vec<String> = value
        .as_object()
        .expect("an object")
        .keys()
        .cloned()
        .collect();
    assert_eq!(names.len(), 20);
    for name in names {
        let problems = broken(|o| {
            o.remove(&name);
        });
        assert!(
            problems.contains(&format!("{name}: is missing")),
            "{name}: {problems:?}"
        );
    }
}

#[test]
fn what_does_not_fit_is_told_by_field() {
    let cases: Vec<(&'static str, Value, &str)> = vec![
        ("call", json!(7), "call: is not a string"),
        ("leg", json!(-1), "leg: is not a whole number, zero or more"),
        ("leg", json!(0), "leg: counts from 1"),
        (
            "direction",
            json!("sideways"),
            "direction: \"sideways\" is none of inbound, outbound",
        ),
        ("trunk", json!(""), "trunk: is empty"),
        (
            "source",
            json!("192.0.2.7"),
            "source: is no address and port",
        ),
        ("start", json!(null), "start: is null, not a time"),
        (
            "end",
            json!("2026-03-01T12:00:05Z"),
            "end: \"2026-03-01T12:00:05Z\" is no RFC 3339 time in UTC with microseconds",
        ),
        (
            "end",
            json!("2026-03-01T13:00:05.000000+01:00"),
            "end: \"2026-03-01T13:00:05.000000+01:00\" is no RFC 3339 time in UTC with microseconds",
        ),
        (
            "answer",
            json!("2026-03-01T12:00:00.000000Z"),
            "answer: is before ring",
        ),
        (
            "duration_ms",
            json!(3_990),
            "duration_ms: is 3990, but from start to end it is 4000",
        ),
        (
            "sip_status",
            json!(486),
            "sip_status: must be 2xx on an answered leg",
        ),
        ("sip_status", json!(180), "sip_status: is no final status"),
        ("cause", json!("because"), "cause: \"because\" is not known"),
        (
            "cause",
            json!("sip_auth_failed"),
            "cause_code: must be 4240 with cause sip_auth_failed",
        ),
        (
            "cause_code",
            json!(4250),
            "cause_code: must be null with cause completed",
        ),
        (
            "answer",
            json!(null),
            "cause: is completed, but the leg was not answered",
        ),
        (
            "hangup_by",
            json!("nobody"),
            "hangup_by: \"nobody\" is none of local, remote, edge",
        ),
        ("refers", json!(null), "refers: is null, not an array"),
        (
            "refers",
            json!([1]),
            "refers: holds something that is no object",
        ),
        (
            "transfer",
            json!("yes"),
            "transfer: is not an object or null",
        ),
        (
            "media.lane",
            json!("fast"),
            "media.lane: \"fast\" is none of io_uring, xdp",
        ),
        (
            "media.received.packets",
            json!(1.5),
            "media.received.packets: is not a whole number, zero or more",
        ),
        (
            "media.received.jitter_ms",
            json!(-0.5),
            "media.received.jitter_ms: is negative",
        ),
        (
            "media.received.packets",
            json!(0),
            "media.received.first_packet_ms: is given, but there was no packet",
        ),
    ];
    for (path, value, expected) in cases {
        let problems = broken(set(path, value));
        assert!(
            problems.iter().any(|p| p == expected),
            "{expected}: {problems:?}"
        );
    }
}

#[test]
fn refers_carry_their_verdict() {
    let refer = |at: &str, status: u16, cause: Value| {
        broken(set(
            "refers",
            json!([{"at": at, "target": "tel:+1234567890", "status": status, "cause": cause}]),
        ))
    };
    let inside = "2026-03-01T12:00:02.000000Z";
    assert_eq!(
        refer(inside, 403, json!("transfer_limit")),
        Vec::<String>::new()
    );
    assert_eq!(
        refer(inside, 403, json!(null)),
        ["refers.cause: must say why it was refused"]
    );
    assert_eq!(
        refer(inside, 403, json!("mood")),
        ["refers.cause: \"mood\" is not known"]
    );
    assert!(
        refer(inside, 202, json!("busy"))
            .contains(&"refers.cause: must be null when accepted".to_owned())
    );
    assert_eq!(
        refer("2026-03-01T12:00:09.000000Z", 403, json!("transfer_limit")),
        ["refers.at: is outside the leg's life"]
    );
}

#[test]
fn lines_that_are_no_records_are_told_by_number() {
    let good = bytes(&record(1, "carrier", 0, 1_000));
    let content = [&good[..], b"\n", b"[1]\n", b"{\"call\":"].concat();
    let problems = whats(&content);
    let numbers: Vec<usize> = problems.iter().map(|p| p.0).collect();
    assert_eq!(numbers, [2, 3, 4]);
    assert!(problems[0].1.starts_with("not a JSON object: "));
    assert_eq!(problems[2].1, "torn: the last line has no newline");
}

#[test]
fn an_endless_line_is_one_problem() {
    let good = bytes(&record(1, "carrier", 0, 1_000));
    let content = [&vec![b'x'; 3 * MAX_LINE_BYTES][..], b"\n", &good].concat();
    let problems = whats(&content);
    assert_eq!(
        problems,
        [(1, format!("longer than {MAX_LINE_BYTES} bytes"))]
    );
}

#[test]
fn a_call_without_one_of_its_legs_is_incomplete() {
    let lines = call_lines();
    // In the order they are written: the AI's leg 2, the human's leg 3, the caller's leg 1.
    let without = |n: usize| {
        let rest: Vec<&[u8]> = (0..3).filter(|&i| i != n).map(|i| &lines[i][..]).collect();
        whats(&rest.concat())
    };
    let all = |problems: Vec<(usize, String)>| {
        problems
            .into_iter()
            .map(|p| p.1)
            .collect::<Vec<_>>()
            .join("; ")
    };
    assert!(all(without(0)).contains("leg 2 has no record"));
    assert!(all(without(0)).contains("belongs to transfer 1, but only 0 REFERs were accepted"));
    assert!(
        all(without(1))
            .contains("REFER 1 was accepted, but no leg tells what became of transfer 1")
    );
    assert!(all(without(2)).contains("leg 1 has no record"));
    let twice = [lines.concat(), lines[1].clone()].concat();
    assert_eq!(
        whats(&twice),
        [(
            4,
            "this leg of the call is already told by cdr.jsonl:2".to_owned()
        )]
    );
}

#[test]
fn directions_and_attempts_must_add_up() {
    let mut outbound_caller = record(1, "carrier", 1_000, 5_000);
    outbound_caller.direction = Direction::Outbound;
    let mut early = record(2, "ai", 500, 5_000);
    early.direction = Direction::Inbound;
    let attempt = |leg, attempt| {
        let mut record = record(leg, "agents", 1_500, 5_000);
        record.transfer = Some(TransferRecord {
            id: 1,
            attempt,
            target: "tel:+1234567890".to_owned(),
            via: Arc::from("agents"),
            result: "completed",
        });
        record
    };
    let content: Vec<u8> = [outbound_caller, early, attempt(3, 2), attempt(4, 2)]
        .iter()
        .flat_map(bytes)
        .collect();
    let all: Vec<String> = whats(&content).into_iter().map(|p| p.1).collect();
    for expected in [
        "leg 1 is the caller's and must be inbound",
        "only leg 1 can be inbound",
        "starts before leg 1",
        "transfer 1 has attempt 2 after attempt 2",
        "transfer 1 completed twice",
    ] {
        assert!(
            all.iter().any(|w| w.ends_with(expected)),
            "{expected}: {all:?}"
        );
    }
}

#[test]
fn the_command_reads_files_and_answers_by_its_exit_code() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let lines = call_lines();
    let (old, new) = (dir.path().join("cdr.jsonl.1"), dir.path().join("cdr.jsonl"));
    std::fs::write(&old, &lines[0]).expect("writable");
    std::fs::write(&new, lines[1..].concat()).expect("writable");
    let exit = |files: &[&PathBuf]| {
        let files = files.iter().map(|f| (*f).clone()).collect();
        let mut out = Vec::new();
        let code = execute(&VerifyArgs { files, json: true }, &mut out);
        format!("{code:?}")
    };
    assert_eq!(exit(&[&old, &new]), format!("{:?}", ExitCode::SUCCESS));
    assert_eq!(exit(&[&new]), format!("{:?}", ExitCode::FAILURE));
    let missing = dir.path().join("missing");
    assert_eq!(exit(&[&missing]), format!("{:?}", ExitCode::from(2)));
}

#[test]
fn the_text_ends_with_a_summary() {
    let mut out = Vec::new();
    print(&verify(b"{}"), false, &mut out).expect("memory takes it");
    let text = String::from_utf8(out).expect("text");
    assert_eq!(
        text,
        "cdr.jsonl:1: torn: the last line has no newline\n0 records, 0 calls, 0 transfers: 1 problem\n"
    );
}

prop_compose! {
    fn direction_stats()(packets in 1u64..1_000_000, bytes in any::<u32>(), lost in any::<u16>(),
                         jitter in -1e3f64..1e9, first in proptest::option::of(0u64..1_000_000)) -> DirectionStats {
        DirectionStats {
            packets,
            bytes: u64::from(bytes),
            lost: u64::from(lost),
            jitter_ms: jitter.abs(),
            first_packet: first.map(Instant::from_nanos),
        }
    }
}

prop_compose! {
    /// Any answered leg 1 that the edge could report, with nanosecond times and any text from the peer.
    fn any_record()(start in 0u64..10_000_000_000, ring in 0u64..1_000_000_000, answer in 0u64..1_000_000_000,
                    end in 0u64..10_000_000_000, from in "\\PC{1,40}", to in ".{1,40}", status in 200u16..300,
                    received in direction_stats(), sent in direction_stats(),
                    refused in proptest::collection::vec(0usize..Cause::ALL.len(), 0..4)) -> LegRecord {
        let at = Instant::from_nanos(start);
        let answer = at + Duration::from_nanos(ring + answer);
        let mut record = record(1, "carrier", 0, 1_000);
        record.start = at;
        record.ring = Some(at + Duration::from_nanos(ring));
        record.answer = Some(answer);
        record.end = answer + Duration::from_nanos(end);
        record.from = from;
        record.to = to;
        record.sip_status = Some(status);
        record.hangup_by = HangupBy::Edge;
        record.refers = refused.iter().map(|&c| ReferRecord {
            at: answer,
            target: String::new(),
            status: 403,
            cause: Some(Cause::ALL[c]),
        }).collect();
        record.media = Some(MediaRecord {
            codec: None,
            encryption: "none",
            lane: "xdp",
            stats: MediaStats { received, sent, strangers: 0 },
        });
        record
    }
}

proptest! {
    #[test]
    fn whatever_the_edge_writes_verifies(record in any_record()) {
        let report = verify(&bytes(&record));
        prop_assert_eq!(report.problems, vec![]);
        prop_assert_eq!(report.records, 1);
    }

    #[test]
    fn any_file_gets_a_verdict(content in proptest::collection::vec(any::<u8>(), 0..500)) {
        let lines = content.iter().filter(|b| **b == b'\n').count();
        prop_assert_eq!(verify(&content).records, lines);
    }

    #[test]
    fn any_json_gets_a_verdict(name in "[a-z_]{1,12}", value in "[0-9\\[\\]{}\":,a-z]{0,40}") {
        let line = format!("{{\"call\":\"x\",\"leg\":1,\"{name}\":{value}}}\n");
        prop_assert!(!verify(line.as_bytes()).problems.is_empty());
    }
}
