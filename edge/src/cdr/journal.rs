//! Legs that are under way, in a file beside the CDR file: what the next start needs to close those that a crash left open.
//!
//! JSON Lines, appended to: at a leg's start, at its answer and at its REFERs all that is known of it by then, and its end once
//! its line is in the CDR file. What comes last about a leg counts. When most of the file is about legs that are over, it is
//! written anew and takes the old one's place.
//!
//! A journal belongs to one process, which holds a lock on it. During an upgrade there are two, each with its own.
//! Nothing here fails: a journal that cannot be written is counted and tried again, and calls go on without.

mod recover;

use super::leg::{LegId, OpenLeg, OpenRefer, OpenTransfer};
use super::writer::Position;
use crate::reporter::WallClock;
use edge_proto::event::{CallId, Event, EventKind, LegNumber};
use prometheus::IntCounter;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub(super) use recover::Crashed;

/// Processes that may write CDRs to the same file: the one in service, and those that still drain.
const SLOTS: usize = 4;
/// Calls that are kept: more than the edge can carry. Those beyond are not journaled.
const MAX_CALLS: usize = 500_000;
/// Lines that are collected while events keep coming.
const BUFFER: usize = 32 << 10;
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
}

#[derive(Default, Debug)]
struct OpenCall {
    legs: Vec<OpenLeg>,
    /// A REFER was accepted on that leg, and no leg has started for it yet. Told together with the first that does: a
    /// verdict on a transfer that no leg tells would look like a lost record.
    accepted: Option<(LegNumber, OpenRefer)>,
    /// The attempt whose leg has not started yet.
    attempt: Option<OpenTransfer>,
}

impl OpenCall {
    fn leg(&mut self, number: LegNumber) -> Option<&mut OpenLeg> {
        self.legs.iter_mut().find(|leg| leg.id.leg == number)
    }

    /// The transfer that a new leg belongs to, and the leg whose REFER asked for it, if that was not told yet.
    fn take_transfer(&mut self) -> (Option<OpenTransfer>, Option<&OpenLeg>) {
        let Some(attempt) = self.attempt.take() else {
            return (None, None);
        };
        let Some((number, refer)) = self.accepted.take() else {
            return (Some(attempt), None);
        };
        let transferor = self.leg(number).map(|leg| {
            leg.refers.push(refer);
            &*leg
        });
        (Some(attempt), transferor)
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
    calls: HashMap<CallId, OpenCall>,
    buffer: Vec<u8>,
    /// Bytes in the file.
    written: u64,
    /// Bytes of the file when it was last written anew.
    fresh: u64,
    unsynced: bool,
    failing: bool,
    errors: IntCounter,
}

impl Journal {
    /// A journal at `path`, beside the CDR file `cdr`; [`Journal::renew`] makes the file.
    pub fn new(cdr: &Path, path: Option<PathBuf>, errors: IntCounter) -> Self {
        Journal {
            cdr: cdr.to_owned(),
            path,
            file: None,
            began: None,
            calls: HashMap::new(),
            buffer: Vec::new(),
            written: 0,
            fresh: 0,
            unsynced: false,
            failing: false,
            errors,
        }
    }

    /// Whether all that is open is in the file.
    pub fn is_complete(&self) -> bool {
        self.file.is_some() && !self.failing
    }

    /// Takes note of an event of a call.
    pub fn note(&mut self, event: &Event, clock: &WallClock) {
        let Some(id) = &event.call else { return };
        match &event.kind {
            EventKind::CallStarted { .. } | EventKind::LegStarted { .. } => {
                if let Some(leg) = OpenLeg::started(event, clock) {
                    self.start(leg);
                    self.flush();
                }
            }
            EventKind::TransferAttempt {
                id: transfer,
                attempt,
                target,
                via,
            } => {
                if let Some(call) = self.calls.get_mut(id) {
                    call.attempt = Some(OpenTransfer {
                        id: *transfer,
                        attempt: *attempt,
                        target: target.clone(),
                        via: String::from(&**via),
                        completed: false,
                    });
                }
            }
            EventKind::TransferBridged { id: transfer, .. } => self.bridged(id, *transfer),
            EventKind::Response { .. } | EventKind::Refer { .. } => self.note_leg(event, clock),
            _ => {}
        }
        if self.buffer.len() >= BUFFER {
            self.flush();
        }
    }

    fn note_leg(&mut self, event: &Event, clock: &WallClock) {
        let call = event.call.as_ref().and_then(|id| self.calls.get_mut(id));
        let (Some(call), Some(number)) = (call, event.leg) else {
            return;
        };
        if let Some(refer) = OpenRefer::new(event, clock)
            && refer.is_accepted()
        {
            call.accepted = Some((number, refer));
        } else if let Some(leg) = call.leg(number)
            && leg.note(event, clock)
        {
            add(&mut self.buffer, &Line::Open(vec![&*leg]));
        }
    }

    /// Keeps a leg until it is [over](Journal::over).
    pub fn start(&mut self, mut leg: OpenLeg) {
        if self.calls.len() >= MAX_CALLS && !self.calls.contains_key(&leg.id.call) {
            return;
        }
        let call = self.calls.entry(leg.id.call.clone()).or_default();
        if call.legs.iter().any(|known| known.id == leg.id) {
            return;
        }
        if leg.transfer.is_none() {
            let (transfer, transferor) = call.take_transfer();
            leg.transfer = transfer;
            let news = transferor.into_iter().chain([&leg]).collect();
            add(&mut self.buffer, &Line::Open(news));
        } else {
            add(&mut self.buffer, &Line::Open(vec![&leg]));
        }
        call.legs.push(leg);
    }

    fn bridged(&mut self, call: &CallId, transfer: u32) {
        let legs = self.calls.get_mut(call).map(|call| &mut call.legs);
        // The last attempt is the one that worked.
        let leg = legs
            .into_iter()
            .flatten()
            .rfind(|leg| leg.transfer.as_ref().is_some_and(|t| t.id == transfer));
        if let Some(leg) = leg {
            if let Some(transfer) = &mut leg.transfer {
                transfer.completed = true;
            }
            add(&mut self.buffer, &Line::Open(vec![&*leg]));
        }
    }

    /// The leg's line is in the CDR file.
    pub fn over(&mut self, leg: &LegId) {
        let Some(call) = self.calls.get_mut(&leg.call) else {
            return;
        };
        let before = call.legs.len();
        call.legs.retain(|open| open.id != *leg);
        if call.legs.len() < before {
            add(&mut self.buffer, &Line::Over::<OpenLeg>(leg.clone()));
        }
        if call.legs.is_empty() {
            self.calls.remove(&leg.call);
        }
    }

    /// Writes what was noted. Call it before a CDR line is written: a leg in the CDR file, and nothing of its call's other legs
    /// anywhere, would be half a call.
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut self.buffer);
        // While it fails, `renew` tells everything once it works again.
        if let Some(file) = self.file.as_mut().filter(|_| !self.failing) {
            match file.write_all(&lines) {
                Ok(()) => {
                    self.written += lines.len() as u64;
                    self.unsynced = true;
                }
                Err(error) => self.note_failure(&error),
            }
        }
        self.buffer = lines;
        self.buffer.clear();
    }

    /// Call every second or so. `cdr`: the CDR file now; `None`: it is none that could be looked at after a crash.
    pub fn tick(&mut self, cdr: Option<Position>) {
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
        let Some(path) = &self.path else {
            return Err(io::Error::other(format!(
                "{SLOTS} processes already keep one for this CDR file"
            )));
        };
        let beside = with_suffix(path, ".new");
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
        for leg in self.calls.values().flat_map(|call| &call.legs) {
            add(&mut lines, &Line::Open(vec![leg]));
        }
        (&file).write_all(&lines)?;
        file.sync_data()?;
        std::fs::rename(&beside, path)?;
        // The old file's lock goes with it; whoever gets that sees that the name has another file.
        self.file = Some(file);
        self.began = Some(cdr);
        self.written = lines.len() as u64;
        self.fresh = self.written;
        self.unsynced = false;
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
        if let (true, Some(path), Some(_)) = (self.calls.is_empty(), &self.path, &self.file) {
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

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
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
