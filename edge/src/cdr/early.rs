//! What a control thread tells about calls, on its way to the journal: written by the thread itself before anything that came of
//! it leaves for a peer, so that a process that is killed leaves no call behind that a peer knows and no record tells.
//!
//! A ring of fixed size in a file: events as octets, each with its number, the clock that tells its time, and a checksum. It takes
//! a `write` a turn to the page cache, which a killed process cannot lose, and no `fsync`; its room is set aside at the start, so
//! that a full disk cannot stop it. The journal says which numbers it holds; those are overwritten. What does not fit, because the
//! reporter is far behind, is left out and counted.

mod record;

use super::note::Note;
use crate::clock::Clock;
use crate::reporter::WallClock;
use edge_proto::event::Event;
use jiff::Timestamp;
use prometheus::IntCounter;
use record::{HEADER, Key};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

pub(super) use record::read;

/// Octets of a ring: ten thousands of events, of which the reporter is some hundreds behind.
const ROOM: u64 = 4 << 20;

/// What a control thread and the reporter share of a ring.
#[derive(Debug)]
pub(super) struct Ring {
    /// The last number that the journal holds.
    pub told: AtomicU64,
    /// Made by the reporter, which may wait for a disk, and maybe long after the start.
    file: OnceLock<(File, Key)>,
}

impl Ring {
    /// For notes that are numbered from `told` + 1.
    pub fn after(told: u64) -> Ring {
        Ring {
            told: AtomicU64::new(told),
            file: OnceLock::new(),
        }
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
    buffer: Vec<u8>,
    errors: IntCounter,
    /// Tells the journal that a turn is in no ring.
    gap: Arc<AtomicBool>,
    failing: bool,
}

impl EarlyJournal {
    /// Calls go on without while `ring` has no file.
    pub(super) fn new(
        ring: Option<Arc<Ring>>,
        clock: Clock,
        errors: IntCounter,
        gap: Arc<AtomicBool>,
    ) -> Self {
        let told = ring.as_ref().map(|ring| ring.told.load(Ordering::Acquire));
        EarlyJournal {
            ring,
            clock,
            wall: WallClock::of_process(&clock),
            number: told.unwrap_or(0),
            position: 0,
            room: ROOM,
            kept: VecDeque::new(),
            buffer: Vec::new(),
            errors,
            gap,
            failing: false,
        }
    }

    /// One that keeps nothing.
    pub fn absent(clock: Clock) -> Self {
        let errors = IntCounter::new("errors", "nobody's").unwrap_or_else(|_| unreachable!());
        EarlyJournal::new(None, clock, errors, Arc::default())
    }

    /// Takes note of an event that is about to be told to the reporter, as `packed`, if there is something to note about it.
    pub fn note(&mut self, event: &Event, packed: &[u8]) {
        let Some(ring) = self.ring.as_ref().filter(|_| Note::is_worth(event)) else {
            return;
        };
        self.number += 1;
        if let Some((_, key)) = ring.file.get() {
            let origin = self.wall.origin();
            record::add(&mut self.buffer, *key, self.number, origin, packed);
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
            (Some(place), Some((file, _))) => match file.write_all_at(&lines, HEADER + place) {
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
        self.gap.store(true, Ordering::Release);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(
                fault,
                "the early journal of a core cannot be written: calls go on; a crash may lose its latest CDRs"
            );
        }
    }
}

fn make(path: &Path) -> io::Result<(File, Key)> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(path)?;
    let room = HEADER + ROOM;
    let made = match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, room) {
        // A file system without it: its room is taken as it is written.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Key::random().and_then(|key| {
            file.write_all_at(&key.header(), 0)?;
            Ok(key)
        }),
        Err(error) => Err(error.into()),
    };
    match made {
        Ok(key) => Ok((file, key)),
        Err(error) => {
            let _ = std::fs::remove_file(path);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests;
