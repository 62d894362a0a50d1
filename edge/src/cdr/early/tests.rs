use super::*;
use crate::test_support::call_with_transfer;
use edge_proto::event::EventKind;

struct Ring {
    directory: tempfile::TempDir,
    journal: EarlyJournal,
    told: Arc<AtomicU64>,
}

impl Ring {
    fn new(room: u64) -> Ring {
        let directory = tempfile::tempdir().expect("a directory");
        let told = Arc::new(AtomicU64::new(0));
        let errors = IntCounter::new("errors", "test").expect("a name");
        let path = Some(directory.path().join("ring"));
        let mut journal = EarlyJournal::new(path, Clock::start(), told.clone(), errors);
        journal.room = room;
        Ring {
            directory,
            journal,
            told,
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

#[test]
fn what_was_noted_is_read_again_and_nothing_else() {
    let mut ring = Ring::new(ROOM);
    let events = call_with_transfer();
    for event in &events {
        ring.journal.note(event);
    }
    ring.journal.flush();
    let worth = events.iter().filter(|event| EarlyJournal::notes(event));
    let expected: Vec<Note> = worth
        .map(|event| Note::of(event, &ring.journal.wall).expect("a note"))
        .collect();
    assert!(events.len() > expected.len() && expected.len() > 8);
    let noted = read(&ring.path()).expect("readable");
    let notes: Vec<Note> = noted.into_iter().map(|(_, note)| note).collect();
    assert_eq!(notes, expected);
    for event in &events {
        let made = Note::of(event, &ring.journal.wall).is_some();
        assert_eq!(made, EarlyJournal::notes(event), "{event:?}");
    }
}

#[test]
fn only_what_the_journal_holds_is_overwritten() {
    // Room for some turns.
    let mut ring = Ring::new(2_000);
    for _ in 0..50 {
        ring.turn();
    }
    let first = ring.numbers();
    assert_eq!(first[0], 1, "nothing was given up: {first:?}");
    let written = first.len() as u64;
    assert!((2..20).contains(&written), "{first:?}");
    assert!(ring.journal.errors.get() > 0, "what did not fit is counted");
    // The journal has caught up; from then on the ring goes round and round.
    for _ in 0..100 {
        ring.told.store(ring.journal.number, Ordering::Release);
        ring.turn();
        ring.turn();
        let last = ring.journal.number;
        let numbers = ring.numbers();
        assert!(numbers.ends_with(&[last - 1, last]), "{last}: {numbers:?}");
    }
}

#[test]
fn a_torn_line_is_passed_over_wherever_it_was_torn() {
    let mut ring = Ring::new(ROOM);
    ring.turn();
    ring.turn();
    let whole = std::fs::read(ring.path()).expect("readable");
    let length = ring.journal.position as usize;
    for at in 0..length {
        std::fs::write(ring.path(), &whole[..at]).expect("writable");
        let numbers = ring.numbers();
        assert!([1, 2].starts_with(&numbers), "{at}: {numbers:?}");
        let mut flipped = whole[..length].to_vec();
        flipped[at] ^= 1;
        std::fs::write(ring.path(), flipped).expect("writable");
        assert!(ring.numbers().len() < 2, "{at}");
    }
}

#[test]
fn a_ring_that_cannot_be_made_is_counted_and_stops_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let errors = IntCounter::new("errors", "test").expect("a name");
    let nowhere = Some(directory.path().join("gone").join("ring"));
    let mut journal = EarlyJournal::new(nowhere, Clock::start(), Arc::default(), errors);
    assert_eq!(journal.errors.get(), 1);
    for event in &call_with_transfer() {
        journal.note(event);
        journal.flush();
    }
    assert_eq!(journal.errors.get(), 1);
    // A file that takes nothing any more: each turn tries again, and one that works ends it.
    let mut ring = Ring::new(ROOM);
    let writable = ring
        .journal
        .file
        .replace(File::open(ring.path()).expect("readable"));
    ring.turn();
    assert!(ring.journal.failing && ring.journal.errors.get() == 1);
    ring.journal.file = writable;
    ring.turn();
    assert!(!ring.journal.failing);
    assert_eq!(ring.numbers(), [2]);
}

#[test]
fn without_a_file_and_without_a_note_nothing_happens() {
    let mut absent = EarlyJournal::absent(Clock::start());
    absent.note(&call_with_transfer()[0]);
    absent.flush();
    assert_eq!(absent.errors.get(), 0);
    let mut ring = Ring::new(ROOM);
    let mut event = call_with_transfer().remove(0);
    event.kind = EventKind::Overflow { queue: "calls" };
    ring.journal.note(&event);
    ring.journal.flush();
    assert_eq!(ring.journal.position, 0);
    ring.turn();
    ring.journal.lose_step();
    ring.turn();
    assert_eq!(ring.numbers(), [1]);
}
