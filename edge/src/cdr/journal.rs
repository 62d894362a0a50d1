//! Legs that are under way, in a file beside the CDR file: what the next start needs to close those that a crash left open.
//!
//! JSON Lines, appended to: what is known of a leg, again after its answer and its REFERs, and its end once its line is in the CDR
//! file. What comes last about a leg counts. When most of the file is about legs that are over, it is written anew and takes the
//! old one's place.
//!
//! The reporter writes it once a second: a leg that came and went in between is not in it, and one that changed several times is
//! told once. What the control threads have told and it does not hold yet is in the [early journals](super::early); while one of
//! these is missing or behind, it is written at once.
//!
//! A journal belongs to one process, which holds a lock on it. During an upgrade there are two, each with its own.
//! Nothing here fails: a journal that cannot be written is counted and tried again, and calls go on without.

mod calls;
mod recover;

use super::early::{EarlyJournal, Ring};
use super::leg::{LegId, OpenLeg};
use super::note::Note;
use super::writer::Position;
use crate::clock::Clock;
use calls::OpenCalls;
use edge_proto::id::CoreId;
use prometheus::IntCounter;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

pub(super) use recover::Crashed;

/// Processes that may write CDRs to the same file: the one in service, and those that still drain.
const SLOTS: usize = 4;
/// News that are in the early journals alone at most: an eighth of one's room or so.
const NEWS: u64 = 4_096;
/// A smaller file is not written anew.
const SMALL: u64 = 1 << 20;
/// Nor one that is not so many times larger than what it has to say.
const WASTE: u64 = 4;

/// A line of the file.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
enum Line<T> {
    /// The CDR file when this journal began: no leg of it ended before.
    Cdr(Position),
    /// One leg, or two where half of the news would not make sense.
    Open(Vec<T>),
    Over(LegId),
    /// What is known of a transfer that has no leg yet, or the line of a leg that ended and that the CDR file did not take.
    Note(Note),
    /// The news of a core's [`EarlyJournal`] that what is written so far holds. They are numbered on from process to process
    /// in the same place: it stays true of whichever of their rings is there.
    Noted {
        core: u8,
        count: u64,
    },
}

/// News of one core.
#[derive(Debug)]
struct Noted {
    /// Taken note of so far.
    count: u64,
    /// Is told how many of those the file holds.
    ring: Arc<Ring>,
}

impl Noted {
    /// For news numbered from `count` + 1.
    fn after(count: u64) -> Noted {
        Noted {
            count,
            ring: Arc::new(Ring::after(count)),
        }
    }
}

/// The journal of this process.
#[derive(Debug)]
pub(super) struct Journal {
    /// Of the CDR file.
    cdr: PathBuf,
    /// Where it is; `None`: there is no place left for it.
    path: Option<PathBuf>,
    file: Option<File>,
    /// The CDR file when the journal was last written anew.
    began: Option<Position>,
    calls: OpenCalls,
    /// Lines of legs that ended, while the CDR file does not take them: as many as the writer holds.
    ended: HashMap<LegId, String>,
    /// By core; those that an earlier process had, too.
    noted: Vec<Noted>,
    /// Of all cores, since they were told last.
    news: u64,
    /// An early journal could not be written lately.
    early_gap: Arc<AtomicBool>,
    /// All cores have an early journal.
    early: bool,
    /// Cores of this process, once it has any.
    cores: u8,
    /// Lines about legs that ended.
    buffer: Vec<u8>,
    /// Room for lines.
    spare: Vec<u8>,
    /// Bytes in the file.
    written: u64,
    /// Bytes of the file when it was last written anew.
    fresh: u64,
    unsynced: bool,
    failing: bool,
    /// The same of the rings of the cores.
    early_failing: bool,
    errors: IntCounter,
}

impl Journal {
    /// A journal in the place that `crashed` found beside the CDR file `cdr`; [`Journal::renew`] makes the file.
    pub fn new(cdr: &Path, crashed: &Crashed, errors: IntCounter) -> Self {
        Journal {
            cdr: cdr.to_owned(),
            path: crashed.place.clone(),
            file: None,
            began: None,
            calls: OpenCalls::default(),
            ended: HashMap::new(),
            noted: crashed.noted.iter().copied().map(Noted::after).collect(),
            news: 0,
            early_gap: Arc::default(),
            early: false,
            cores: 0,
            buffer: Vec::new(),
            spare: Vec::new(),
            written: 0,
            fresh: 0,
            unsynced: false,
            failing: false,
            early_failing: false,
            errors,
        }
    }

    /// Whether all that is open is in the file.
    pub fn is_complete(&self) -> bool {
        self.file.is_some() && !self.failing
    }

    /// Takes note of what a core told.
    pub fn note(&mut self, core: CoreId, note: Note) {
        self.calls.apply(note);
        self.count(core);
    }

    /// Whether the early journals have what this one does not, so that it need not be written yet.
    pub fn can_wait(&self) -> bool {
        self.early && self.news < NEWS && !self.early_gap.load(Ordering::Acquire)
    }

    /// One more of a core's news is dealt with.
    pub fn count(&mut self, core: CoreId) {
        self.news += 1;
        if let Some(noted) = self.noted.get_mut(usize::from(core.0)) {
            noted.count += 1;
        }
    }

    /// Keeps a leg until it is [over](Journal::over).
    pub fn start(&mut self, leg: OpenLeg) {
        self.calls.start(leg);
    }

    /// Keeps the line of a leg that ended, while the CDR file does not take it, until the leg is [over](Journal::over).
    pub fn ended(&mut self, leg: LegId, line: String) {
        let note = Note::End {
            leg: leg.clone(),
            line: line.clone(),
        };
        add(&mut self.buffer, &Line::Note::<OpenLeg>(note));
        self.ended.insert(leg, line);
    }

    /// The leg's line is in the CDR file.
    pub fn over(&mut self, leg: &LegId) {
        if self.ended.remove(leg).is_some() {
            add(&mut self.buffer, &Line::Over::<OpenLeg>(leg.clone()));
        }
        self.calls.over(leg);
    }

    /// The early journals of the cores, whose files [`Journal::make_early`] makes.
    pub fn early(&mut self, cores: u8, clock: &Clock) -> Vec<EarlyJournal> {
        self.cores = cores;
        let known = self.noted.len().max(usize::from(cores));
        self.noted.resize_with(known, || Noted::after(0));
        let own = self.noted.iter().take(usize::from(cores));
        own.map(|noted| {
            // Without a place there will never be a file.
            let ring = self.path.as_ref().map(|_| noted.ring.clone());
            EarlyJournal::new(ring, *clock, self.errors.clone(), self.early_gap.clone())
        })
        .collect()
    }

    /// Makes the files of the early journals that have none yet, beside this one, if this one is in order. Call it when
    /// nothing of an earlier process is needed in their place any more, and again as long as the process lives.
    pub fn make_early(&mut self) {
        let Some(place) = self.path.as_ref().filter(|_| self.is_complete()) else {
            return;
        };
        let mut failed = None;
        for (core, noted) in (0..self.cores).zip(&self.noted) {
            failed = noted.ring.make(&early_path(place, core)).err().or(failed);
        }
        self.early = self.cores > 0 && failed.is_none();
        let Some(error) = failed else {
            if std::mem::take(&mut self.early_failing) {
                tracing::warn!(cdr = %self.cdr.display(), "the early journals of all cores are in order");
            }
            return;
        };
        self.errors.inc();
        if !std::mem::replace(&mut self.early_failing, true) {
            tracing::error!(
                cdr = %self.cdr.display(), %error,
                "the early journal of a core cannot be made: retried, calls go on; a crash may lose its latest CDRs"
            );
        }
    }

    fn add_noted(&self, lines: &mut Vec<u8>) {
        for (core, noted) in (0..).zip(&self.noted) {
            if noted.count > noted.ring.told.load(Ordering::Relaxed) {
                let count = noted.count;
                add(lines, &Line::Noted::<OpenLeg> { core, count });
            }
        }
    }

    /// What was counted is in the file: the early journals may forget it.
    fn release(&self) {
        for noted in &self.noted {
            noted.ring.told.store(noted.count, Ordering::Release);
        }
    }

    /// Writes what was noted, and that the early journals may forget it.
    pub fn flush(&mut self) {
        if self.news == 0 && self.buffer.is_empty() && !self.calls.has_news() {
            return;
        }
        self.news = 0;
        let mut lines = self.take_news();
        // Last: a write that was cut short has told less than it says.
        self.add_noted(&mut lines);
        if self.write(lines) {
            self.release();
        }
    }

    /// Writes what was noted and keeps it in the early journals: some of it is not in the CDR file yet.
    pub fn flush_news(&mut self) {
        let lines = self.take_news();
        if lines.is_empty() {
            self.spare = lines;
        } else {
            self.write(lines);
        }
    }

    /// Legs first: that they ended without a line in the CDR file, as the buffer may tell, comes after them.
    fn take_news(&mut self) -> Vec<u8> {
        let after = std::mem::take(&mut self.buffer);
        let mut lines = std::mem::take(&mut self.spare);
        self.calls.tell_news(&mut lines);
        lines.extend_from_slice(&after);
        self.buffer = after;
        self.buffer.clear();
        lines
    }

    /// Whether it could be written. Keeps the room that `lines` had.
    fn write(&mut self, mut lines: Vec<u8>) -> bool {
        // While it fails, `renew` tells everything once it works again.
        let file = self.file.as_mut().filter(|_| !self.failing);
        let written = file.map(|file| file.write_all(&lines));
        let done = match written {
            Some(Ok(())) => {
                self.written += lines.len() as u64;
                self.unsynced = true;
                true
            }
            Some(Err(error)) => {
                self.note_failure(&error);
                false
            }
            None => false,
        };
        lines.clear();
        self.spare = lines;
        done
    }

    /// Call every second or so. `cdr`: the CDR file now; `None`: it is none that could be looked at after a crash.
    pub fn tick(&mut self, cdr: Option<Position>) {
        // Whoever has a gap still says so again.
        self.early_gap.store(false, Ordering::Release);
        self.flush();
        let identity = |at: Option<Position>| at.map(|at| (at.device, at.inode));
        let rotated = cdr.is_some() && identity(cdr) != identity(self.began);
        let wasteful = self.written > SMALL && self.written > WASTE * self.fresh;
        if rotated || wasteful || self.failing || self.file.is_none() {
            self.renew(cdr);
        } else if let Some(file) = &self.file {
            // Says that this process was alive: the time at which a crash ended its calls.
            let _ = file.set_modified(SystemTime::now());
            if std::mem::take(&mut self.unsynced)
                && let Err(error) = file.sync_data()
            {
                self.note_failure(&error);
            }
        }
    }

    /// Writes a new file with the legs that are open, in the place of the old one.
    pub fn renew(&mut self, cdr: Option<Position>) {
        let Some(cdr) = cdr else { return };
        self.buffer.clear();
        match self.try_renew(cdr) {
            Ok(()) if std::mem::take(&mut self.failing) => {
                tracing::warn!(cdr = %self.cdr.display(), "the journal of open calls can be written again");
            }
            Ok(()) => {}
            Err(error) => self.note_failure(&error),
        }
    }

    fn try_renew(&mut self, cdr: Position) -> io::Result<()> {
        let Some(path) = self.path.clone() else {
            return Err(io::Error::other(format!(
                "{SLOTS} processes already keep one for this CDR file"
            )));
        };
        let beside = with_suffix(&path, ".new");
        // Only the holder of the place makes it; a leftover is from a process that is dead.
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o640)
            .open(&beside)?;
        file.try_lock().map_err(io::Error::from)?;
        let mut lines = Vec::new();
        add(&mut lines, &Line::Cdr::<OpenLeg>(cdr));
        self.calls.tell(&mut lines);
        for (leg, line) in &self.ended {
            let (leg, line) = (leg.clone(), line.clone());
            add(&mut lines, &Line::Note::<OpenLeg>(Note::End { leg, line }));
        }
        for (core, noted) in (0..).zip(&self.noted) {
            let count = noted.count;
            add(&mut lines, &Line::Noted::<OpenLeg> { core, count });
        }
        (&file).write_all(&lines)?;
        file.sync_data()?;
        std::fs::rename(&beside, &path)?;
        // The old file's lock goes with it; whoever gets that sees that the name has another file.
        self.file = Some(file);
        self.began = Some(cdr);
        self.written = lines.len() as u64;
        self.fresh = self.written;
        self.unsynced = false;
        self.release();
        Ok(())
    }

    fn note_failure(&mut self, error: &io::Error) {
        self.errors.inc();
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(
                cdr = %self.cdr.display(), %error,
                "the journal of open calls cannot be written: retried, calls go on; after a crash their CDRs may be missing"
            );
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.flush();
        // Nothing to close: nothing for the next start to read.
        let is_empty = self.calls.is_empty() && self.ended.is_empty();
        if let (true, Some(path), Some(_)) = (is_empty, &self.path, &self.file) {
            remove_early(path);
            let _ = std::fs::remove_file(path);
        }
    }
}

fn add(buffer: &mut Vec<u8>, line: &Line<impl Serialize>) {
    // Serializing plain structs into memory cannot fail; a line that is cut off would be passed over.
    if serde_json::to_writer(&mut *buffer, line).is_ok() {
        buffer.push(b'\n');
    }
}

/// The places for journals: `cdr.jsonl` -> `cdr.jsonl.open`, `cdr.jsonl.open.2`, ...
fn slot_path(cdr: &Path, slot: usize) -> PathBuf {
    let base = with_suffix(cdr, ".open");
    match slot {
        0 => base,
        _ => with_suffix(&base, &format!(".{}", slot + 1)),
    }
}

/// The early journal of a core, beside the journal at `place`.
fn early_path(place: &Path, core: u8) -> PathBuf {
    with_suffix(place, &format!(".core{core}"))
}

/// Removes the early journals beside the journal at `place`.
fn remove_early(place: &Path) {
    for core in 0..CoreId::MAX_CORES {
        let _ = std::fs::remove_file(early_path(place, core));
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A new, empty file with its lock; `None`: somebody else was quicker.
fn claimed(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    match options.write(true).create_new(true).mode(0o640).open(path) {
        Ok(_) => locked(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(error),
    }
}

/// The file with its lock; `None`: somebody else has it.
fn locked(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
        Err(std::fs::TryLockError::Error(error)) => return Err(error),
    }
    let (here, there) = (file.metadata()?, std::fs::metadata(path)?);
    // A file that its owner has just replaced is nobody's, but the owner lives.
    let same = (here.dev(), here.ino()) == (there.dev(), there.ino());
    Ok(same.then_some(file))
}
