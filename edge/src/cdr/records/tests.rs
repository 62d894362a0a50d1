//! What is left after a kill, an outage or a restart. Here: the places where it happens, and what is right afterwards.

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

mod files;
mod kills;
mod outages;

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
