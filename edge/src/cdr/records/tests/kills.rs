//! Kills at any moment, once and twice: each leg has one line, and what had ended keeps its own.

use super::*;

#[test]
fn after_a_crash_at_any_event_each_leg_has_one_line() {
    let events = call_with_transfer();
    for count in 0..=events.len() {
        let seen = &events[..count];
        let site = Site::new();
        let mut records = site.open();
        let clock = clock();
        for event in seen {
            note(&mut records, event, &clock);
        }
        let after = Site::crashed(&site.left());
        let next = after.open();
        assert_eq!(told(&after), started(seen), "after {count} events");
        let (problems, causes) = verdict(&after);
        assert_eq!(problems, [""; 0], "after {count} events");
        let restarts = causes.iter().filter(|c| *c == "edge_restart").count();
        assert_eq!(next.closed().len(), restarts);
        drop(next);
        // Nothing is left over for the start after that.
        assert!(!after.journal().exists());
        assert!(after.open().closed().is_empty());
        assert_eq!(told(&after), started(seen));
    }
}

/// The reporter is always some events behind the control thread: whatever the distance at the moment of the kill, what the
/// control thread had told is recorded, and what had ended keeps its own line.
#[test]
fn a_crash_loses_nothing_that_was_on_its_way_to_the_reporter() {
    let events = call_with_transfer();
    for told_by_core in 0..=events.len() {
        for reported in 0..=told_by_core {
            let seen = &events[..told_by_core];
            let after = killed(seen, reported);
            drop(after.open());
            check(
                &after,
                seen,
                0,
                &format!("{reported} of {told_by_core} events"),
            );
        }
    }
}

#[test]
fn a_kill_between_the_writes_of_a_batch_loses_and_repeats_nothing() {
    let events = call_with_transfer();
    for told in 1..=events.len() {
        let seen = &events[..told];
        let site = Site::new();
        let killed_after = |write: &str| {
            let left = site.copy();
            drop(left.open());
            check(&left, seen, 0, &format!("{told} events, {write}"));
        };
        let mut records = site.open();
        tell(&mut records, seen, told);
        // What `Records::tick` does; without the news, what `Records::flush` does.
        if !told.is_multiple_of(2) {
            records.journal.flush_news();
            killed_after("the news");
        }
        let held = records
            .writer
            .append_all(&std::mem::take(&mut records.ended));
        assert_eq!(held, []);
        killed_after("the lines");
        records.settle();
        records.journal.flush();
        killed_after("everything");
    }
}

#[test]
fn a_second_kill_before_the_old_rings_are_removed_repeats_nothing() {
    let events = call_with_transfer();
    for (seen, killed, at) in kills(&events) {
        let records = killed.copy();
        let open = records.open();
        let second = records.copy();
        drop(open);
        killed.copy_to(&second, |name| name.contains(".core"));
        assert_eq!(fs::read_dir(second.0.path()).expect("readable").count(), 3);
        drop(second.open());
        check(&second, seen, 0, &at);
    }
}

/// Two processes were killed, as during an upgrade: what the second left is told, whichever of its files are still there.
#[test]
fn a_second_kill_while_another_place_is_cleared_repeats_nothing() {
    let events = call_with_transfer();
    for reported in 0..=events.len() {
        let site = Site::new();
        let first = site.open();
        let mut records = site.open();
        tell(&mut records, &events, reported);
        let killed = site.copy();
        drop((first, records));
        for rings in [false, true] {
            let site = killed.copy();
            let open = site.open_full();
            let second = site.copy();
            drop(open);
            killed.copy_to(&second, |name| {
                name == "cdr.jsonl.open.2" || rings && name == "cdr.jsonl.open.2.core0"
            });
            drop(second.open());
            check(
                &second,
                &events,
                0,
                &format!("{reported} events, rings: {rings}"),
            );
        }
    }
}

#[test]
fn a_call_that_a_crash_ended_is_told_as_far_as_it_is_known() {
    let site = Site::new();
    let mut records = site.open();
    let clock = clock();
    let events = call_with_transfer();
    let bridged = events
        .iter()
        .position(|e| matches!(e.kind, EventKind::TransferBridged { .. }))
        .expect("a bridge");
    for event in &events[..=bridged] {
        note(&mut records, event, &clock);
    }
    let after = Site::crashed(&site.left());
    drop(after.open());
    let lines = after.lines();
    let line = |leg: u64| lines.iter().find(|l| l["leg"] == leg).expect("a line");
    assert_eq!(line(1)["direction"], "inbound");
    assert_eq!(line(1)["sip_call_id"], "leg-1@192.0.2.1");
    assert!(line(1)["answer"].is_string() && line(1)["ring"].is_string());
    assert_eq!(line(1)["hangup_by"], "edge");
    assert_eq!(line(1)["media"], Value::Null);
    assert_eq!(line(2)["refers"].as_array().map(Vec::len), Some(2));
    assert_eq!(line(3)["transfer"]["result"], "completed");
    assert!(lines.iter().all(|l| l["call"] == CALL));
}
