//! Files that cannot be made or written for a time.

use super::*;

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
