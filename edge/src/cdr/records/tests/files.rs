//! The journal as a file: torn, behind the CDR file, of a process that lives, and grown.

use super::*;

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
