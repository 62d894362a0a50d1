use super::timeline::{HEAD, TAIL};
use super::*;
use crate::test_support::{CALL, call_with_transfer, event};
use edge_proto::event::Privacy;

fn clock() -> WallClock {
    WallClock::new(Instant::ZERO, jiff::Timestamp::UNIX_EPOCH)
}

fn book() -> Book {
    Book::new(BookLimits {
        active: 3,
        ended: 2,
    })
}

fn apply(book: &mut Book, event: Event) -> Noted {
    let mut packed = Vec::new();
    packed::pack(&event, &mut packed);
    book.apply(CoreId(0), clock(), &event, &packed)
}

fn found(book: &Book) -> &Call {
    match book.find(CALL) {
        Lookup::Found(call) => call,
        other => panic!("{other:?}"),
    }
}

fn of(call: &str, ms: u64, kind: EventKind) -> Event {
    let mut event = event(ms, None, kind);
    event.call = Some(Arc::from(call));
    event
}

fn note() -> EventKind {
    EventKind::Note {
        kind: "note",
        detail: String::new(),
        reason: None,
    }
}

fn ended() -> EventKind {
    EventKind::CallEnded {
        cause: Cause::Completed,
    }
}

#[test]
fn a_leg_goes_from_trying_to_ended() {
    let mut book = book();
    let mut states = Vec::new();
    for event in call_with_transfer() {
        apply(&mut book, event);
        let call = found(&book);
        let state = |n| call.leg(n).map_or("-", |l| l.state.as_str());
        states.push((state(1), state(2), state(3)));
    }
    states.dedup();
    assert_eq!(
        states,
        [
            ("trying", "-", "-"),
            ("trying", "trying", "-"),
            ("trying", "ringing", "-"),
            ("ringing", "ringing", "-"),
            ("ringing", "answered", "-"),
            ("answered", "answered", "-"),
            ("answered", "answered", "trying"),
            ("answered", "answered", "answered"),
            ("answered", "ended", "answered"),
            ("answered", "ended", "ended"),
            ("ended", "ended", "ended"),
        ]
    );
    let call = found(&book);
    assert_eq!(
        call.ended,
        Some((Instant::from_millis(9_002), Cause::Completed))
    );
    let leg = call.leg(3).expect("it was there");
    let record = call.record(leg).expect("it is over");
    assert_eq!(record.call, call.id);
    assert_eq!(call.parties(leg), Some((record.from, record.to)));
}

#[test]
fn each_leg_opens_and_closes_once() {
    let mut book = book();
    let (mut opened, mut closed) = (Vec::new(), Vec::new());
    let events = call_with_transfer();
    for event in events.iter().chain(&events).cloned() {
        let noted = apply(&mut book, event);
        opened.extend(noted.opened.map(|t| t.to_string()));
        closed.extend(noted.closed.map(|t| t.to_string()));
    }
    assert_eq!(opened, ["carrier", "ai", "agents"]);
    assert_eq!(closed, ["ai", "agents", "carrier"]);
}

#[test]
fn the_end_of_a_leg_whose_start_was_lost_is_not_counted_as_one_alive() {
    let mut book = book();
    let end = call_with_transfer()
        .into_iter()
        .find(|e| matches!(e.kind, EventKind::LegEnded(_)))
        .expect("a leg ends");
    let noted = apply(&mut book, end);
    assert!(noted.opened.is_none() && noted.closed.is_none());
}

#[test]
fn what_comes_late_still_belongs_to_its_call() {
    let mut book = book();
    apply(&mut book, of(CALL, 1, note()));
    apply(&mut book, of(CALL, 2, ended()));
    apply(&mut book, of(CALL, 3, note()));
    assert_eq!(book.active_calls(), 0);
    assert_eq!(found(&book).timeline().count(), 3);
}

#[test]
fn a_long_timeline_keeps_its_start_and_its_end() {
    let mut book = book();
    let all = HEAD + TAIL + 10;
    for n in 0..all {
        apply(&mut book, of(CALL, n as u64, note()));
    }
    let mut times = Vec::new();
    let mut omitted = Vec::new();
    for item in found(&book).timeline() {
        match item {
            TimelineItem::Event(e) => {
                assert_eq!(e.kind.describe(Privacy::Shown).kind, "note");
                times.push(e.at.as_nanos() / 1_000_000);
            }
            TimelineItem::Omitted(n) => omitted.push((times.len(), n)),
        }
    }
    assert_eq!(omitted, [(HEAD, 10)]);
    let expected: Vec<u64> = (0..HEAD).chain(HEAD + 10..all).map(|n| n as u64).collect();
    assert_eq!(times, expected);
}

#[test]
fn records_and_parties_outlive_their_place_in_the_timeline() {
    let mut book = book();
    let events = call_with_transfer();
    for n in 0..HEAD {
        apply(&mut book, of(CALL, n as u64, note()));
    }
    let mut whole = self::book();
    for event in events {
        apply(&mut book, event.clone());
        apply(&mut whole, event);
    }
    for n in 0..TAIL {
        apply(&mut book, of(CALL, n as u64, note()));
    }
    let (call, whole) = (found(&book), found(&whole));
    for (leg, known) in call.legs.iter().zip(&whole.legs) {
        let record = call.record(leg);
        assert!(record.is_some());
        assert_eq!(record, whole.record(known));
        assert_eq!(call.parties(leg), whole.parties(known));
    }
}

#[test]
fn the_book_is_bounded_both_ways() {
    let mut book = book();
    for n in 0..10 {
        apply(&mut book, of(&format!("call-{n}"), n, note()));
    }
    assert_eq!(book.active_calls(), 3);
    for n in 0..3 {
        apply(&mut book, of(&format!("call-{n}"), 20 + n, ended()));
    }
    let ended: Vec<&str> = book.ended().map(|c| &*c.id).collect();
    assert_eq!(ended, ["call-2", "call-1"]);
    assert!(matches!(book.find("call-0"), Lookup::Unknown));
}

#[test]
fn room_for_a_busy_hour_goes_back_while_a_call_is_under_way() {
    let mut book = Book::new(BookLimits {
        active: 10_000,
        ended: 2,
    });
    let calls: Vec<String> = (0..10_000).map(|n| format!("{n:032x}")).collect();
    for call in &calls {
        apply(&mut book, of(call, 0, note()));
    }
    assert!(book.active.capacity() >= calls.len());
    for call in &calls[1..] {
        apply(&mut book, of(call, 1, ended()));
    }
    assert_eq!(book.active_calls(), 1);
    assert!(book.active.capacity() <= calls.len() / 4);
}

#[test]
fn a_full_book_lets_go_of_calls_whose_end_was_lost() {
    let mut book = book();
    // All three legs ended, the end of the call itself never came.
    for event in call_with_transfer() {
        if !matches!(event.kind, EventKind::CallEnded { .. }) {
            apply(&mut book, event);
        }
    }
    apply(&mut book, of("call-1", 1, note()));
    apply(&mut book, of("call-2", 2, note()));
    book.sweep();
    assert_eq!(book.active_calls(), 3, "nothing is let go without need");
    apply(&mut book, of("call-3", 3, note()));
    book.sweep();
    assert_eq!(book.active_calls(), 2);
    assert_eq!(book.ended().count(), 1);
}

#[test]
fn legs_are_bounded() {
    let mut book = book();
    for n in 1..=255 {
        let kind = EventKind::LegStarted {
            trunk: Arc::from("ai"),
            direction: Direction::Outbound,
            sip_call_id: String::new(),
            from: String::new(),
            to: String::new(),
        };
        apply(&mut book, event(1, Some(n), kind));
    }
    assert_eq!(found(&book).legs.len(), MAX_LEGS);
}

#[test]
fn a_call_is_found_by_the_start_of_its_id() {
    let mut book = book();
    apply(&mut book, of("aaaa1111", 1, note()));
    apply(&mut book, of("aaaa2222", 2, note()));
    apply(&mut book, of("aaaa2222", 3, ended()));
    let id = |prefix| match book.find(prefix) {
        Lookup::Found(call) => call.id.to_string(),
        Lookup::Ambiguous => "ambiguous".to_owned(),
        Lookup::Unknown => "unknown".to_owned(),
    };
    assert_eq!(id("aaaa1"), "aaaa1111");
    assert_eq!(id("aaaa2222"), "aaaa2222");
    assert_eq!(id("aaaa"), "ambiguous");
    assert_eq!(id("aaa"), "unknown");
    assert_eq!(id("bbbb"), "unknown");
    let newest: Vec<&str> = book.active().iter().map(|c| &*c.id).collect();
    assert_eq!(newest, ["aaaa1111"]);
}
