use super::*;
use crate::test_support::call_with_transfer;
use edge_proto::event::EventKind;
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

    /// One turn with one note.
    fn turn(&mut self) {
        let start = &call_with_transfer()[0];
        self.journal.note(start);
        self.journal.flush();
    }

    fn numbers(&self) -> Vec<u64> {
        let notes = read(&self.path()).expect("readable");
        notes.into_iter().map(|(number, _)| number).collect()
    }
}

fn journal(ring: &Arc<Ring>) -> EarlyJournal {
    let errors = IntCounter::new("errors", "test").expect("a name");
    EarlyJournal::new(Some(ring.clone()), Clock::start(), errors)
}

#[test]
fn what_was_noted_is_read_again_and_nothing_else() {
    let mut site = Site::new(ROOM);
    let events = call_with_transfer();
    for event in &events {
        site.journal.note(event);
    }
    site.journal.flush();
    let worth = events.iter().filter(|event| EarlyJournal::notes(event));
    let expected: Vec<Note> = worth
        .map(|event| Note::of(event, &site.journal.wall).expect("a note"))
        .collect();
    assert!(events.len() > expected.len() && expected.len() > 8);
    let noted = read(&site.path()).expect("readable");
    let notes: Vec<Note> = noted.into_iter().map(|(_, note)| note).collect();
    assert_eq!(notes, expected);
    for event in &events {
        let made = Note::of(event, &site.journal.wall).is_some();
        assert_eq!(made, EarlyJournal::notes(event), "{event:?}");
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
    let length = site.journal.position as usize;
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

#[test]
fn a_ring_that_cannot_be_made_or_written_stops_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let early = Arc::new(Ring::after(0));
    let path = directory.path().join("gone").join("ring");
    assert!(early.make(&path).is_err());
    let mut journal = journal(&early);
    let events = call_with_transfer();
    for event in &events {
        journal.note(event);
        journal.flush();
    }
    assert_eq!(journal.errors.get(), 0, "whoever makes it counts that");
    // Once it can be made, it is written, with the numbers that the journal counts.
    std::fs::create_dir(directory.path().join("gone")).expect("creates");
    early.make(&path).expect("there is room");
    journal.note(&events[0]);
    journal.flush();
    let worth = events.iter().filter(|event| EarlyJournal::notes(event));
    let numbers: Vec<u64> = read(&path).expect("readable").iter().map(|n| n.0).collect();
    assert_eq!(numbers, [worth.count() as u64 + 1]);
    // A file that takes nothing any more: each turn tries again, and one that works ends it.
    let mut site = Site::new(ROOM);
    let readable = Ring::after(0);
    let file = File::open(site.path()).expect("readable");
    readable.file.set(file).expect("the first");
    let writable = site.journal.ring.replace(Arc::new(readable));
    site.turn();
    assert!(site.journal.failing && site.journal.errors.get() == 1);
    site.journal.ring = writable;
    site.turn();
    assert!(!site.journal.failing);
    assert_eq!(site.numbers(), [2]);
}

#[test]
fn without_a_file_and_without_a_note_nothing_happens() {
    let mut absent = EarlyJournal::absent(Clock::start());
    absent.note(&call_with_transfer()[0]);
    absent.flush();
    assert_eq!(absent.errors.get(), 0);
    let mut site = Site::new(ROOM);
    let mut event = call_with_transfer().remove(0);
    event.kind = EventKind::Overflow { queue: "calls" };
    site.journal.note(&event);
    site.journal.flush();
    assert_eq!(site.journal.position, 0);
    site.turn();
    site.journal.lose_step();
    site.turn();
    assert_eq!(site.numbers(), [1]);
}
