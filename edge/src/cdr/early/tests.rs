use super::*;
use crate::test_support::call_with_transfer;
use edge_proto::event::{EventKind, packed};
use std::path::PathBuf;

struct Site {
    directory: tempfile::TempDir,
    journal: EarlyJournal,
    ring: Arc<Ring>,
}

impl Site {
    fn new(room: u64) -> Site {
        let directory = tempfile::tempdir().expect("a directory");
        let ring = Arc::new(Ring::after(0));
        let path = directory.path().join("ring");
        ring.make(&path).expect("there is room");
        let mut journal = journal(&ring);
        journal.room = room;
        Site {
            directory,
            journal,
            ring,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("ring")
    }

    fn note(&mut self, event: &Event) {
        note(&mut self.journal, event);
    }

    /// One turn with one note.
    fn turn(&mut self) {
        let start = &call_with_transfer()[0];
        self.note(start);
        self.journal.flush();
    }

    fn numbers(&self) -> Vec<u64> {
        let notes = read(&self.path()).expect("readable");
        notes.into_iter().map(|(number, _)| number).collect()
    }
}

fn note(journal: &mut EarlyJournal, event: &Event) {
    let mut packed = Vec::new();
    packed::pack(event, &mut packed);
    journal.note(event, &packed);
}

fn journal(ring: &Arc<Ring>) -> EarlyJournal {
    let errors = IntCounter::new("errors", "test").expect("a name");
    EarlyJournal::new(Some(ring.clone()), Clock::start(), errors, Arc::default())
}

#[test]
fn what_was_noted_is_read_again_and_nothing_else() {
    let mut site = Site::new(ROOM);
    let events = call_with_transfer();
    for event in &events {
        site.note(event);
    }
    site.journal.flush();
    let worth = events.iter().filter(|event| Note::is_worth(event));
    let expected: Vec<Note> = worth
        .map(|event| Note::of(event, &site.journal.wall).expect("a note"))
        .collect();
    assert!(events.len() > expected.len() && expected.len() > 8);
    let noted = read(&site.path()).expect("readable");
    let notes: Vec<Note> = noted.into_iter().map(|(_, note)| note).collect();
    assert_eq!(notes, expected);
    for event in &events {
        let made = Note::of(event, &site.journal.wall).is_some();
        assert_eq!(made, Note::is_worth(event), "{event:?}");
    }
}

#[test]
fn only_what_the_journal_holds_is_overwritten() {
    // Room for some turns.
    let mut site = Site::new(2_000);
    for _ in 0..50 {
        site.turn();
    }
    let first = site.numbers();
    assert_eq!(first[0], 1, "nothing was given up: {first:?}");
    let written = first.len() as u64;
    assert!((2..20).contains(&written), "{first:?}");
    assert!(site.journal.errors.get() > 0, "what did not fit is counted");
    // The journal has caught up; from then on the ring goes round and round.
    for _ in 0..100 {
        site.ring.told.store(site.journal.number, Ordering::Release);
        site.turn();
        site.turn();
        let last = site.journal.number;
        let numbers = site.numbers();
        assert!(numbers.ends_with(&[last - 1, last]), "{last}: {numbers:?}");
    }
}

#[test]
fn a_torn_line_is_passed_over_wherever_it_was_torn() {
    let mut site = Site::new(ROOM);
    site.turn();
    site.turn();
    let whole = std::fs::read(site.path()).expect("readable");
    let length = (HEADER + site.journal.position) as usize;
    for at in 0..length {
        std::fs::write(site.path(), &whole[..at]).expect("writable");
        let numbers = site.numbers();
        assert!([1, 2].starts_with(&numbers), "{at}: {numbers:?}");
        let mut flipped = whole[..length].to_vec();
        flipped[at] ^= 1;
        std::fs::write(site.path(), flipped).expect("writable");
        assert!(site.numbers().len() < 2, "{at}");
    }
}

/// What the version before wrote is read by the one that takes its place.
#[test]
fn lines_of_the_form_before_are_read() {
    let site = Site::new(ROOM);
    let old = concat!(
        r#"7 d3c403244f84e4f0 {"response":{"leg":{"call":"00112233445566778899aabbccddeeff","leg":2},"code":180,"outbound":false,"at":"2026-03-01T12:00:01.2Z"}}"#,
        "\n\0\0",
        r#"9 0123456789abcdef {"bridged":{"call":"00112233445566778899aabbccddeeff","transfer":1}}"#,
        "\n",
        r#"8 2014aa424efcdeb9 {"bridged":{"call":"00112233445566778899aabbccddeeff","transfer":1}}"#,
        "\n",
    );
    std::fs::write(site.path(), old).expect("writable");
    let notes = read(&site.path()).expect("readable");
    let numbers: Vec<u64> = notes.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [7, 8], "{notes:?}");
}

/// A peer's text holds what looks like a record: it is none, even where the record around it was torn.
#[test]
fn a_record_in_a_peers_text_is_none() {
    let mut site = Site::new(ROOM);
    let mut inner = call_with_transfer().remove(0);
    inner.call = Some("ffeeddccbbaa99887766554433221100".into());
    let mut packed = Vec::new();
    packed::pack(&inner, &mut packed);
    let mut forged = Vec::new();
    record::add(&mut forged, Key(0), 5, site.journal.wall.origin(), &packed);
    let mut outer = vec![0; 100];
    outer.extend_from_slice(&forged);
    let (_, key) = *site.ring.file.get().expect("made");
    record::add(&mut site.journal.buffer, key, 1, 0, &outer);
    site.journal.flush();
    assert_eq!(site.numbers(), [0; 0]);
}

#[test]
fn a_ring_that_cannot_be_made_or_written_stops_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let early = Arc::new(Ring::after(0));
    let path = directory.path().join("gone").join("ring");
    assert!(early.make(&path).is_err());
    let mut journal = journal(&early);
    let events = call_with_transfer();
    for event in &events {
        note(&mut journal, event);
        journal.flush();
    }
    assert_eq!(journal.errors.get(), 0, "whoever makes it counts that");
    // Once it can be made, it is written, with the numbers that the journal counts.
    std::fs::create_dir(directory.path().join("gone")).expect("creates");
    early.make(&path).expect("there is room");
    note(&mut journal, &events[0]);
    journal.flush();
    let worth = events.iter().filter(|event| Note::is_worth(event));
    let numbers: Vec<u64> = read(&path).expect("readable").iter().map(|n| n.0).collect();
    assert_eq!(numbers, [worth.count() as u64 + 1]);
    // A file that takes nothing any more: each turn tries again, and one that works ends it.
    let mut site = Site::new(ROOM);
    let readable = Ring::after(0);
    let file = File::open(site.path()).expect("readable");
    let (_, key) = *site.ring.file.get().expect("made");
    readable.file.set((file, key)).expect("the first");
    let writable = site.journal.ring.replace(Arc::new(readable));
    site.turn();
    assert!(site.journal.failing && site.journal.errors.get() == 1);
    assert!(
        site.journal.gap.load(Ordering::Acquire),
        "the journal is told"
    );
    site.journal.ring = writable;
    site.turn();
    assert!(!site.journal.failing);
    assert_eq!(site.numbers(), [2]);
}

#[test]
fn without_a_file_and_without_a_note_nothing_happens() {
    let mut absent = EarlyJournal::absent(Clock::start());
    note(&mut absent, &call_with_transfer()[0]);
    absent.flush();
    assert_eq!(absent.errors.get(), 0);
    let mut site = Site::new(ROOM);
    let mut event = call_with_transfer().remove(0);
    event.kind = EventKind::Overflow { queue: "calls" };
    site.note(&event);
    site.journal.flush();
    assert_eq!(site.journal.position, 0);
    site.turn();
    assert_eq!(site.numbers(), [1]);
}
