//! What a control thread tells about calls, on its way to the journal: written by the thread itself before anything that came of
//! it leaves for a peer, so that a process that is killed leaves no call behind that a peer knows and no record tells.
//!
//! A ring of fixed size in a file: `number checksum note`, a line each. It takes a `write` a turn to the page cache, which a killed
//! process cannot lose, and no `fsync`; its room is set aside at the start, so that a full disk cannot stop it. The journal says
//! which numbers it holds; those are overwritten. What does not fit, because the reporter is far behind, is left out and counted.

use super::note::Note;
use crate::clock::Clock;
use crate::reporter::WallClock;
use edge_proto::event::Event;
use jiff::Timestamp;
use prometheus::IntCounter;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Octets of a ring: thousands of events, of which the reporter is some dozens behind.
const ROOM: u64 = 4 << 20;

/// What a control thread and the reporter share of a ring.
#[derive(Debug)]
pub(super) struct Ring {
    /// The last number that the journal holds.
    pub told: AtomicU64,
    /// Made by the reporter, which may wait for a disk, and maybe long after the start.
    file: OnceLock<File>,
}

impl Ring {
    /// For notes that are numbered from `told` + 1.
    pub fn after(told: u64) -> Ring {
        Ring {
            told: AtomicU64::new(told),
            file: OnceLock::new(),
        }
    }

    /// Whether there is a file: what a core told is not lost with the process.
    pub fn is_made(&self) -> bool {
        self.file.get().is_some()
    }

    /// Makes the file at `path`, unless it was made before; what was there is gone.
    pub fn make(&self, path: &Path) -> io::Result<()> {
        if self.file.get().is_none() {
            // Only the reporter does this.
            let _ = self.file.set(make(path)?);
        }
        Ok(())
    }
}

/// One control thread's. No method fails or blocks on anything but the page cache.
#[derive(Debug)]
pub struct EarlyJournal {
    /// `None`: nothing is ever kept.
    ring: Option<Arc<Ring>>,
    clock: Clock,
    wall: WallClock,
    /// Of the last note; those before there was a file are counted, too, as the journal does.
    number: u64,
    /// Where the next turn is written.
    position: u64,
    room: u64,
    /// Number of the last note, and place, of each turn that the journal may not hold yet.
    kept: VecDeque<(u64, u64)>,
    /// The numbers are not those of the journal any more.
    lost_step: bool,
    buffer: Vec<u8>,
    errors: IntCounter,
    failing: bool,
}

impl EarlyJournal {
    /// Calls go on without while `ring` has no file.
    pub(super) fn new(ring: Option<Arc<Ring>>, clock: Clock, errors: IntCounter) -> Self {
        let told = ring.as_ref().map(|ring| ring.told.load(Ordering::Acquire));
        EarlyJournal {
            ring,
            clock,
            wall: WallClock::new(clock.now(), Timestamp::now()),
            number: told.unwrap_or(0),
            position: 0,
            room: ROOM,
            kept: VecDeque::new(),
            lost_step: false,
            buffer: Vec::new(),
            errors,
            failing: false,
        }
    }

    /// One that keeps nothing.
    pub fn absent(clock: Clock) -> Self {
        let errors = IntCounter::new("errors", "nobody's").unwrap_or_else(|_| unreachable!());
        EarlyJournal::new(None, clock, errors)
    }

    /// Whether there is something to note about an event.
    pub fn notes(event: &Event) -> bool {
        Note::is_worth(event)
    }

    /// Takes note of an event that is about to be told to the reporter.
    pub fn note(&mut self, event: &Event) {
        let Some(ring) = self.ring.as_ref().filter(|_| !self.lost_step) else {
            return;
        };
        let Some(note) = Note::of(event, &self.wall) else {
            return;
        };
        self.number += 1;
        if ring.file.get().is_some() {
            add(&mut self.buffer, self.number, &note);
        }
    }

    /// Writes what was noted. Call it before anything leaves.
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        self.wall.resync(self.clock.now(), Timestamp::now());
        let place = self.place(self.buffer.len() as u64);
        let lines = std::mem::take(&mut self.buffer);
        let file = self.ring.as_ref().and_then(|ring| ring.file.get());
        match (place, file) {
            (Some(place), Some(file)) => match file.write_all_at(&lines, place) {
                Ok(()) => {
                    self.kept.push_back((self.number, place));
                    self.position = place + lines.len() as u64;
                    self.failing = false;
                }
                Err(error) => self.note_failure(&error.to_string()),
            },
            _ => self.note_failure("the reporter is too far behind"),
        }
        self.buffer = lines;
        self.buffer.clear();
    }

    /// An event that was noted is lost to the reporter: the numbers are of no use any more.
    pub fn lose_step(&mut self) {
        if self.ring.is_some() && !std::mem::replace(&mut self.lost_step, true) {
            self.note_failure("an event was lost; none until the next start");
        }
    }

    /// Where so many octets fit without touching what the journal does not hold. `None`: nowhere.
    fn place(&mut self, length: u64) -> Option<u64> {
        let told = self
            .ring
            .as_ref()
            .map_or(0, |ring| ring.told.load(Ordering::Acquire));
        while self.kept.front().is_some_and(|&(last, _)| last <= told) {
            self.kept.pop_front();
        }
        let fits = self.position + length <= self.room;
        match self.kept.front() {
            None if fits => Some(self.position),
            None => (length <= self.room).then_some(0),
            Some(&(_, oldest)) if self.position > oldest => match fits {
                true => Some(self.position),
                false => (length < oldest).then_some(0),
            },
            Some(&(_, oldest)) => (self.position + length < oldest).then_some(self.position),
        }
    }

    fn note_failure(&mut self, fault: &str) {
        self.errors.inc();
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(
                fault,
                "the early journal of a core cannot be written: calls go on; a crash may lose its latest CDRs"
            );
        }
    }
}

fn make(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(path)?;
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, ROOM) {
        Ok(()) => {}
        // A file system without it: its room is taken as it is written.
        Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(error) => {
            let _ = std::fs::remove_file(path);
            return Err(error.into());
        }
    }
    Ok(file)
}

fn add(buffer: &mut Vec<u8>, number: u64, note: &Note) {
    // Serializing plain structs into memory cannot fail.
    let Ok(text) = serde_json::to_vec(note) else {
        return;
    };
    let sum = checksum(number, &text);
    buffer.extend_from_slice(format!("{number} {sum:016x} ").as_bytes());
    buffer.extend_from_slice(&text);
    buffer.push(b'\n');
}

/// The notes in a ring that are whole, by number.
pub(super) fn read(path: &Path) -> io::Result<Vec<(u64, Note)>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(File::open(path)?, 2 * ROOM), &mut bytes)?;
    let mut notes: Vec<_> = bytes
        .split(|byte| *byte == b'\n')
        .filter_map(whole)
        .collect();
    notes.sort_by_key(|(number, _)| *number);
    notes.dedup_by_key(|(number, _)| *number);
    Ok(notes)
}

/// A line that was neither torn nor half overwritten.
fn whole(line: &[u8]) -> Option<(u64, Note)> {
    let line = std::str::from_utf8(line).ok()?;
    let mut fields = line.splitn(3, ' ');
    let number = fields.next()?.parse().ok()?;
    let sum = u64::from_str_radix(fields.next()?, 16).ok()?;
    let text = fields.next()?;
    if sum != checksum(number, text.as_bytes()) {
        return None;
    }
    Some((number, serde_json::from_str(text).ok()?))
}

/// FNV-1a of eight octets at a time: tells a torn line, and is nobody's to forge, since a note's text has no line feed.
fn checksum(number: u64, text: &[u8]) -> u64 {
    let mix = |sum: u64, word: u64| {
        let mixed = (sum ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        // What is in the highest octet would never come down otherwise.
        mixed ^ mixed >> 32
    };
    let sum = mix(0xcbf2_9ce4_8422_2325, number);
    let (words, rest) = text.as_chunks::<8>();
    let sum = words
        .iter()
        .fold(sum, |sum, word| mix(sum, u64::from_le_bytes(*word)));
    rest.iter()
        .fold(sum, |sum, byte| mix(sum, u64::from(*byte)))
}

#[cfg(test)]
mod tests;
