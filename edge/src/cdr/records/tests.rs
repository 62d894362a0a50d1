use super::*;
use crate::cdr::verify::Verifier;
use crate::test_support::{CALL, call_with_transfer, event, record};
use edge_proto::event::{Event, EventKind, packed};
use edge_proto::time::Instant;
use prometheus::{IntCounter, IntGauge};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufReader, Cursor};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

fn counters() -> CdrCounters {
    let counter = |name| IntCounter::new(name, "test").expect("a valid name");
    CdrCounters {
        written: counter("written"),
        lost: counter("lost"),
        write_errors: counter("write_errors"),
        backlog: IntGauge::new("backlog", "test").expect("a valid name"),
    }
}

/// A directory with a CDR file and what is beside it.
struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Site {
        Site(tempfile::tempdir().expect("a temporary directory"))
    }

    fn cdr(&self) -> PathBuf {
        self.0.path().join("cdr.jsonl")
    }

    fn journal(&self) -> PathBuf {
        self.0.path().join("cdr.jsonl.open")
    }

    fn open(&self) -> Records {
        Records::open(&self.cdr(), counters()).expect("opens")
    }

    /// Both files, as a crash at this moment would leave them.
    fn left(&self) -> (Vec<u8>, Vec<u8>) {
        let read = |path| fs::read(path).unwrap_or_default();
        (read(self.cdr()), read(self.journal()))
    }

    /// A site after a crash that left these files.
    fn crashed((cdr, journal): &(Vec<u8>, Vec<u8>)) -> Site {
        let site = Site::new();
        fs::write(site.cdr(), cdr).expect("writable");
        fs::write(site.journal(), journal).expect("writable");
        site
    }

    /// Another one with all of these files, as a kill at this moment would leave them.
    fn copy(&self) -> Site {
        let site = Site::new();
        self.copy_to(&site, |_| true);
        site
    }

    /// Journals name the CDR file of the copy as they did this one.
    fn copy_to(&self, other: &Site, which: impl Fn(&str) -> bool) {
        let files = fs::read_dir(self.0.path()).expect("readable").flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        let names: Vec<String> = names.filter(|name| which(name)).collect();
        for name in &names {
            fs::copy(self.0.path().join(name), other.0.path().join(name)).expect("copies");
        }
        let inode = |site: &Site| {
            let inode = fs::metadata(site.cdr()).expect("exists").ino();
            format!("\"inode\":{inode},")
        };
        let (here, there) = (inode(self), inode(other));
        let is_journal = |name: &&String| name.contains(".open") && !name.contains(".core");
        for name in names.iter().filter(is_journal) {
            let path = other.0.path().join(name);
            let text = fs::read_to_string(&path).expect("readable");
            assert!(text.is_empty() || text.contains(&here), "{text}");
            fs::write(path, text.replace(&here, &there)).expect("writable");
        }
    }

    /// A start while the CDR file can be looked at and takes nothing.
    fn open_full(&self) -> Records {
        let counters = counters();
        let mut writer = CdrWriter::open(&self.cdr(), counters.clone()).expect("opens");
        writer.refuse();
        Records::with(&self.cdr(), writer, counters.write_errors)
    }

    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.cdr()).expect("readable");
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }
}

/// The wall clock of the events: now, so that files' times are later than theirs.
fn clock() -> WallClock {
    WallClock::new(Instant::from_millis(10_000), jiff::Timestamp::now())
}

fn note(records: &mut Records, event: &Event, clock: &WallClock) {
    records.note(CoreId(0), event, clock);
    records.flush();
}

/// Problems of the CDR file, and the causes of the lines.
fn verdict(site: &Site) -> (Vec<String>, Vec<String>) {
    let bytes = fs::read(site.cdr()).expect("readable");
    let mut verifier = Verifier::default();
    verifier
        .read(&site.cdr(), BufReader::new(Cursor::new(bytes)))
        .expect("readable");
    let problems = verifier.finish().problems;
    let cause = |line: &Value| line["cause"].as_str().unwrap_or_default().to_owned();
    (
        problems.iter().map(ToString::to_string).collect(),
        site.lines().iter().map(cause).collect(),
    )
}

/// The legs that start with these events.
fn started(events: &[Event]) -> BTreeSet<u64> {
    let legs = events.iter().filter(|event| {
        matches!(
            event.kind,
            EventKind::CallStarted { .. } | EventKind::LegStarted { .. }
        )
    });
    legs.filter_map(|event| event.leg.map(u64::from)).collect()
}

fn told(site: &Site) -> BTreeSet<u64> {
    let lines = site.lines();
    let legs: BTreeSet<u64> = lines.iter().filter_map(|l| l["leg"].as_u64()).collect();
    assert_eq!(legs.len(), lines.len(), "no leg is told twice: {lines:#?}");
    legs
}

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

/// What a process leaves that told `seen` on its way to the reporter, which has seen so many of it.
fn killed(seen: &[Event], reported: usize) -> Site {
    let site = Site::new();
    let mut records = site.open();
    tell(&mut records, seen, reported);
    site.copy()
}

fn tell(records: &mut Records, seen: &[Event], reported: usize) {
    let clock = crate::clock::Clock::start();
    let wall = WallClock::new(clock.now(), jiff::Timestamp::now());
    let mut early = records.early_journals(1, &clock).remove(0);
    for (n, event) in seen.iter().enumerate() {
        tell_early(&mut early, event);
        if n < reported {
            // Not flushed: that happens when the reporter has time.
            records.note(CoreId(0), event, &wall);
        }
    }
}

/// A turn of a control thread.
fn tell_early(early: &mut EarlyJournal, event: &Event) {
    let mut packed = Vec::new();
    packed::pack(event, &mut packed);
    early.note(event, &packed);
    early.flush();
}

/// After a clean end: each leg of `seen` and of so many others has one line, its own if it had ended, and that is all.
fn check(site: &Site, seen: &[Event], others: usize, at: &str) {
    let lines = site.lines();
    let (own, other): (Vec<&Value>, Vec<&Value>) = lines.iter().partition(|l| l["call"] == CALL);
    let legs: BTreeSet<u64> = own.iter().filter_map(|l| l["leg"].as_u64()).collect();
    assert_eq!(
        legs.len(),
        own.len(),
        "{at}: no leg is told twice: {own:#?}"
    );
    assert_eq!(legs, started(seen), "{at}");
    assert_eq!(other.len(), others, "{at}: {other:#?}");
    assert_eq!(verdict(site).0, [""; 0], "{at}");
    let ended = seen
        .iter()
        .filter(|e| matches!(e.kind, EventKind::LegEnded(_)));
    let kept = own.iter().filter(|l| l["cause"] != "edge_restart").count();
    assert_eq!(kept, ended.count(), "{at}: {own:#?}");
    let left = fs::read_dir(site.0.path()).expect("readable").count();
    assert_eq!(left, 1, "{at}: only the CDR file is left");
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

/// Kills to test a second one after: each number of events, none, half or all of it reported.
fn kills(events: &[Event]) -> impl Iterator<Item = (&[Event], Site, String)> {
    (1..=events.len()).flat_map(move |told| {
        [0, told / 2, told].map(|reported| {
            let seen = &events[..told];
            let at = format!("{reported} of {told} events");
            (seen, killed(seen, reported), at)
        })
    })
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

/// The lines wait for the CDR file, while the journal can be written: neither a kill nor a stop in that state loses or repeats
/// one, nor a call of the process that is killed.
#[test]
fn an_outage_of_the_cdr_file_after_a_kill_loses_and_repeats_nothing() {
    let events = call_with_transfer();
    let mut other = call_with_transfer().remove(0);
    other.call = Some(Arc::from("ffeeddccbbaa99887766554433221100"));
    for (seen, killed, at) in kills(&events) {
        let site = killed.copy();
        let mut records = site.open_full();
        tell(&mut records, std::slice::from_ref(&other), 0);
        records.tick();
        let second = site.copy();
        drop(second.open());
        check(&second, seen, 1, &format!("{at}, then a kill"));
        let stopped = killed.copy();
        drop(stopped.open_full());
        drop(stopped.open());
        check(&stopped, seen, 0, &format!("{at}, then a stop"));
    }
}

/// A leg that ended keeps its own line: when it ended and with what media is not known to the next start otherwise.
#[test]
fn a_kill_while_lines_wait_for_the_cdr_file_takes_none_of_them_for_a_leg_that_was_open() {
    let events = call_with_transfer();
    for told in 1..=events.len() {
        let seen = &events[..told];
        let site = Site::new();
        let mut records = site.open();
        records.writer.refuse();
        tell(&mut records, seen, told);
        // The journal is in order: what it holds is in no ring any more.
        records.flush();
        let killed = site.copy();
        drop(killed.open());
        check(&killed, seen, 0, &format!("{told} events, then a kill"));
        records.journal.renew(records.writer.position());
        let renewed = site.copy();
        drop(renewed.open());
        check(
            &renewed,
            seen,
            0,
            &format!("{told} events, and a new journal"),
        );
        drop(records);
        drop(site.open());
        check(&site, seen, 0, &format!("{told} events, then a stop"));
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
fn early_journals_that_could_not_be_made_at_the_start_are_made_when_they_can() {
    let events = call_with_transfer();
    let clock = crate::clock::Clock::start();
    let wall = WallClock::new(clock.now(), jiff::Timestamp::now());
    for in_the_way in ["cdr.jsonl.open.new", "cdr.jsonl.open.core0"] {
        let site = Site::new();
        let in_the_way = site.0.path().join(in_the_way);
        fs::create_dir(&in_the_way).expect("creates");
        let counters = counters();
        let mut records = Records::open(&site.cdr(), counters.clone()).expect("opens");
        let mut early = records.early_journals(1, &clock).remove(0);
        let at = in_the_way.display().to_string();
        assert!(counters.write_errors.get() > 0, "{at}");
        for event in &events[..6] {
            tell_early(&mut early, event);
            records.note(CoreId(0), event, &wall);
        }
        let before = counters.write_errors.get();
        records.tick();
        assert!(counters.write_errors.get() > before, "{at}: tried again");
        fs::remove_dir(&in_the_way).expect("removes");
        records.tick();
        for event in &events[6..] {
            tell_early(&mut early, event);
        }
        let after = site.copy();
        drop(after.open());
        check(&after, &events, 0, &at);
    }
}

#[test]
fn a_cdr_file_that_cannot_be_opened_at_the_start_has_its_journals_later() {
    let site = Site::new();
    std::os::unix::fs::symlink(site.cdr(), site.cdr()).expect("links");
    let mut records = site.open();
    let events = call_with_transfer();
    tell(&mut records, &[], 0);
    note(&mut records, &events[0], &clock());
    assert_eq!(fs::read(site.journal()).expect("its place"), b"");
    fs::remove_file(site.cdr()).expect("removes");
    records.tick();
    let ring = site.0.path().join("cdr.jsonl.open.core0");
    assert!(ring.exists());
    let after = site.copy();
    drop(after.open());
    check(&after, &events[..1], 0, "the next start");
}

#[test]
fn a_journal_torn_at_any_byte_gives_no_contradiction() {
    let site = Site::new();
    let mut records = site.open();
    let clock = clock();
    for event in &call_with_transfer()[..14] {
        note(&mut records, event, &clock);
    }
    let (cdr, journal) = site.left();
    for length in (0..journal.len()).step_by(13) {
        let after = Site::crashed(&(cdr.clone(), journal[..length].to_vec()));
        drop(after.open());
        told(&after);
        assert_eq!(verdict(&after).0, [""; 0], "{length} bytes");
    }
}

#[test]
fn a_line_whose_end_was_not_journaled_any_more_is_not_written_twice() {
    let events = call_with_transfer();
    let site = Site::new();
    let mut records = site.open();
    let clock = clock();
    for event in &events {
        // As a crash right after the CDR line would leave it.
        let before = site.left();
        note(&mut records, event, &clock);
        let after = Site::crashed(&(site.left().0, before.1));
        drop(after.open());
        told(&after);
        assert_eq!(verdict(&after).0, [""; 0], "{event:?}");
    }
}

#[test]
fn a_line_in_a_file_that_was_renamed_is_found_there() {
    let events = call_with_transfer();
    let (last, before) = events.split_last().expect("events");
    let site = Site::new();
    let mut records = site.open();
    let clock = clock();
    for event in before {
        note(&mut records, event, &clock);
    }
    // All legs are in the file by now; the journal is put back to where none was.
    let stale = {
        let early = Site::new();
        let mut records = early.open();
        for event in &before[..14] {
            note(&mut records, event, &clock);
        }
        early.left().1
    };
    let own = site.left().1;
    let header = own.split_inclusive(|b| *b == b'\n').next().expect("a line");
    let legs = stale.split_inclusive(|b| *b == b'\n').skip(1);
    let journal = [header, &legs.collect::<Vec<_>>().concat()].concat();
    note(&mut records, last, &clock);
    drop(records);
    fs::rename(site.cdr(), site.0.path().join("cdr.jsonl.1")).expect("renames");
    fs::write(site.journal(), journal).expect("writable");
    let next = site.open();
    assert!(next.closed().is_empty(), "{:?}", next.closed());
    assert!(site.lines().is_empty());
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

#[test]
fn a_journal_is_left_alone_while_its_process_lives() {
    let site = Site::new();
    let mut old = site.open();
    let clock = clock();
    let events = call_with_transfer();
    note(&mut old, &events[0], &clock);
    let new = site.open();
    assert!(new.closed().is_empty());
    assert!(site.0.path().join("cdr.jsonl.open.2").exists());
    let end = event(
        2_000,
        Some(1),
        EventKind::LegEnded(Box::new(record(1, "carrier", 1_000, 2_000))),
    );
    note(&mut old, &end, &clock);
    drop((old, new));
    assert_eq!(verdict(&site).1, ["completed"]);
    let left = fs::read_dir(site.0.path()).expect("readable").count();
    assert_eq!(left, 1, "only the CDR file");
}

/// Both have looked for what is left before either wrote a journal.
#[test]
fn two_that_start_at_the_same_moment_keep_a_journal_each() {
    let events = call_with_transfer();
    let calls = [
        "00112233445566778899aabbccddee00",
        "00112233445566778899aabbccddee11",
    ]
    .map(|id| {
        let mut start = events[0].clone();
        start.call = Some(Arc::from(id));
        start
    });
    for left in [0, 1] {
        let site = match left {
            0 => Site::new(),
            left => killed(&events[..left], left),
        };
        let counters = counters();
        let writers = [(); 2].map(|()| CdrWriter::open(&site.cdr(), counters.clone()));
        let crashed = [(); 2].map(|()| Crashed::find(&site.cdr()));
        let open = writers.into_iter().zip(crashed).map(|(writer, crashed)| {
            let writer = writer.expect("opens");
            Records::after(crashed, &site.cdr(), writer, counters.write_errors.clone())
        });
        let mut open: Vec<Records> = open.collect();
        for (records, call) in open.iter_mut().zip(&calls) {
            tell(records, std::slice::from_ref(call), 1);
            records.tick();
        }
        assert_eq!(counters.write_errors.get(), 0);
        let killed = site.copy();
        drop(killed.open());
        let (problems, causes) = verdict(&killed);
        assert_eq!(problems, [""; 0]);
        assert_eq!(causes, vec!["edge_restart"; 2 + left]);
    }
}

#[test]
fn a_journal_that_cannot_be_written_is_made_when_it_can() {
    let site = Site::new();
    let in_the_way = site.0.path().join("cdr.jsonl.open.new");
    fs::create_dir(&in_the_way).expect("creates");
    let counters = counters();
    let mut records = Records::open(&site.cdr(), counters.clone()).expect("opens");
    let clock = clock();
    let events = call_with_transfer();
    note(&mut records, &events[0], &clock);
    records.tick();
    assert!(counters.write_errors.get() >= 2);
    assert_eq!(fs::read(site.journal()).expect("its place"), b"");
    fs::remove_dir(&in_the_way).expect("removes");
    records.tick();
    let after = Site::crashed(&site.left());
    assert_eq!(after.open().closed().len(), 1);
}

#[test]
fn a_journal_mostly_about_calls_that_are_over_is_written_anew() {
    let site = Site::new();
    let mut records = site.open();
    let clock = clock();
    let mut largest = 0;
    for n in 0..6_000 {
        let call: Arc<str> = Arc::from(format!("{n:032x}"));
        let mut start = call_with_transfer().remove(0);
        start.call = Some(call.clone());
        records.note(CoreId(0), &start, &clock);
        let mut over = record(1, "carrier", 1_000, 2_000);
        over.call = call.clone();
        let mut end = event(2_000, Some(1), EventKind::LegEnded(Box::new(over)));
        end.call = Some(call);
        // One call stays.
        if n > 0 {
            records.note(CoreId(0), &end, &clock);
        }
        records.flush();
        largest = largest.max(fs::metadata(site.journal()).expect("exists").len());
    }
    assert!(largest > 1 << 20, "the test wants a large journal");
    records.tick();
    assert!(fs::metadata(site.journal()).expect("exists").len() < 2_000);
    let after = Site::crashed(&site.left());
    assert_eq!(after.open().closed().len(), 1);
}
