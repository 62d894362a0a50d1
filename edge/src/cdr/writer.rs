//! Appends records to the file, and holds them back while it cannot be written.

use super::leg::LegId;
use super::line::Lines;
use super::repair::{self, Repair};
use prometheus::{IntCounter, IntGauge};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Memory for records that wait for the file: some 60,000 of them. The journal keeps as much again, so that a kill loses none.
const BACKLOG_BYTES: usize = 64 << 20;

/// Why the CDR file cannot be used at all. Everything else is retried while calls go on.
#[derive(thiserror::Error, Debug)]
pub enum CdrError {
    #[error("the CDR file {path} cannot be opened: {source}")]
    Open { path: PathBuf, source: io::Error },
}

/// What the writer counts.
#[derive(Clone, Debug)]
pub struct CdrCounters {
    pub written: IntCounter,
    /// Records dropped because the backlog was full, too.
    pub lost: IntCounter,
    pub write_errors: IntCounter,
    /// Records in memory that wait for the file.
    pub backlog: IntGauge,
}

/// The only writer of the CDR file. Used by one thread; no method fails or blocks on anything but the file itself.
#[derive(Debug)]
pub struct CdrWriter {
    path: PathBuf,
    /// `None` while the file cannot even be opened.
    file: Option<File>,
    backlog: VecDeque<(LegId, Vec<u8>)>,
    /// Legs that nothing more will be done about, since the last [`CdrWriter::settled`].
    settled: Vec<LegId>,
    backlog_bytes: usize,
    backlog_limit: usize,
    /// Bytes of the first record of the backlog that are in the file already: the disk filled up within it.
    first_written: usize,
    /// Set from the first error until the backlog is empty again, so that each outage is logged once.
    outage: Option<Outage>,
    unsynced: bool,
    /// The file is a pipe or a device.
    special: bool,
    counters: CdrCounters,
}

#[derive(Debug, Default)]
struct Outage {
    held_back: u64,
    lost: u64,
}

impl CdrWriter {
    /// Opens or creates the file (mode 0640) and repairs a torn last line.
    ///
    /// Fails only for what an operator got wrong: no such directory, no permission, not a file. A full or failing disk is
    /// logged and retried.
    pub fn open(path: &Path, counters: CdrCounters) -> Result<Self, CdrError> {
        let mut writer = CdrWriter {
            path: path.to_owned(),
            file: None,
            backlog: VecDeque::new(),
            settled: Vec::new(),
            backlog_bytes: 0,
            backlog_limit: BACKLOG_BYTES,
            first_written: 0,
            outage: None,
            unsynced: false,
            special: false,
            counters,
        };
        match writer.open_file() {
            Ok(()) => {}
            Err(source) if is_misconfigured(&source) => {
                return Err(CdrError::Open {
                    path: path.to_owned(),
                    source,
                });
            }
            Err(error) => writer.note_failure(&error),
        }
        Ok(writer)
    }

    /// Has a file that can be looked at but not written, until the next one is opened.
    #[cfg(test)]
    pub(super) fn refuse(&mut self) {
        self.file = Some(File::open(&self.path).expect("it exists"));
    }

    #[cfg(test)]
    fn with_backlog_limit(mut self, bytes: usize) -> Self {
        self.backlog_limit = bytes;
        self
    }

    /// Takes the line of `leg`, newline included. It is in the file, in memory for a retry, or counted as lost; gives whether
    /// it is in memory.
    pub fn append(&mut self, leg: LegId, line: Vec<u8>) -> bool {
        if self.backlog.is_empty() {
            match self.write_from(&line, 0) {
                Ok(()) => {
                    self.counters.written.inc();
                    self.settled.push(leg);
                    return false;
                }
                Err(Stopped { written, error }) => {
                    self.first_written = written;
                    self.note_failure(&error);
                }
            }
        }
        self.hold_back(leg, line)
    }

    /// Takes the lines of several legs in one `write` where it can be. Gives those that are in memory, without their newlines.
    pub(super) fn append_all(&mut self, ended: &Lines) -> Vec<(LegId, String)> {
        // A line to a pipe is whole for its reader only as long as it is written alone.
        let alone = self.special || !self.backlog.is_empty();
        let mut left = 0;
        if !alone {
            left = match self.write_from(ended.bytes(), 0) {
                Ok(()) => ended.bytes().len(),
                Err(Stopped { written, error }) => {
                    self.note_failure(&error);
                    written
                }
            };
        }
        let mut held_back = Vec::new();
        for (leg, line) in ended.iter() {
            let held = if alone {
                self.append(leg.clone(), line.to_vec())
            } else if self.backlog.is_empty() && left >= line.len() {
                left -= line.len();
                self.counters.written.inc();
                self.settled.push(leg.clone());
                false
            } else {
                // The first of them may be half written.
                if self.backlog.is_empty() {
                    self.first_written = left;
                }
                self.hold_back(leg.clone(), line.to_vec())
            };
            if held {
                let text = line.strip_suffix(b"\n").unwrap_or(line);
                held_back.push((leg.clone(), String::from_utf8_lossy(text).into_owned()));
            }
        }
        held_back
    }

    /// Call every second or so: retries the backlog, follows a rotation of the file, and makes what was written durable.
    pub fn tick(&mut self) {
        self.follow_rotation();
        self.retry();
        self.sync();
    }

    /// Legs whose line came to be in the file, or was lost, since the last call.
    pub fn settled(&mut self) -> Vec<LegId> {
        std::mem::take(&mut self.settled)
    }

    /// Which file is open, and how long it is, without a record that is not whole yet. `None`: none, or not a regular file.
    pub(super) fn position(&self) -> Option<Position> {
        let there = self.file.as_ref()?.metadata().ok()?;
        there.is_file().then(|| Position {
            device: there.dev(),
            inode: there.ino(),
            length: there.len().saturating_sub(self.first_written as u64),
        })
    }

    /// Whether what is open is no regular file: nothing that could be looked at after a crash.
    pub(super) fn is_special(&self) -> bool {
        self.file.is_some() && self.position().is_none()
    }

    /// Records in memory that wait for the file.
    #[cfg(test)]
    pub fn backlog(&self) -> usize {
        self.backlog.len()
    }

    fn open_file(&mut self) -> io::Result<()> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o640)
            .open(&self.path)?;
        self.special = !file.metadata()?.is_file();
        if !self.special {
            self.repair_if_alone(&file)?;
        }
        self.file = Some(file);
        self.first_written = 0;
        Ok(())
    }

    /// During an upgrade the old process may still be writing: its last line is not torn, and is not ours to touch.
    fn repair_if_alone(&self, file: &File) -> io::Result<()> {
        match file.try_lock() {
            Ok(()) => {
                match repair::repair(file, &self.path)? {
                    Repair::Clean => {}
                    outcome => log_repair(&outcome, &self.path),
                }
                file.unlock()?;
            }
            Err(TryLockError::WouldBlock) => tracing::info!(
                path = %self.path.display(),
                "another process writes to the CDR file; its end was not checked"
            ),
            // A file system without locks: better unrepaired than unwritten.
            Err(TryLockError::Error(error)) => tracing::warn!(
                path = %self.path.display(), %error,
                "the CDR file cannot be locked; its end was not checked"
            ),
        }
        // Held for the life of the file; says that a writer is alive.
        match file.try_lock_shared() {
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// One `write` for a whole record; a short write (the disk filled up within it) is followed by one for the rest.
    fn write_from(&mut self, line: &[u8], mut written: usize) -> Result<(), Stopped> {
        let Some(file) = self.file.as_mut() else {
            return Err(Stopped {
                written,
                error: ErrorKind::NotFound.into(),
            });
        };
        while let Some(rest) = line.get(written..).filter(|r| !r.is_empty()) {
            match file.write(rest) {
                Ok(0) => {
                    return Err(Stopped {
                        written,
                        error: ErrorKind::WriteZero.into(),
                    });
                }
                Ok(n) => {
                    written += n;
                    self.unsynced = true;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Stopped { written, error }),
            }
        }
        Ok(())
    }

    /// Whether there is memory for it.
    fn hold_back(&mut self, leg: LegId, line: Vec<u8>) -> bool {
        let outage = self.outage.get_or_insert_default();
        // The first of the backlog may be half written: it stays, so that the file never shows half a record for good.
        if self.backlog_bytes + line.len() > self.backlog_limit && !self.backlog.is_empty() {
            outage.lost += 1;
            self.counters.lost.inc();
            self.settled.push(leg);
            if outage.lost == 1 {
                tracing::error!(
                    path = %self.path.display(), held_back = self.backlog.len(),
                    "the memory for held-back CDRs is full: records are being lost"
                );
            }
            return false;
        }
        outage.held_back += 1;
        self.backlog_bytes += line.len();
        self.backlog.push_back((leg, line));
        self.counters.backlog.set(gauge(self.backlog.len()));
        true
    }

    fn retry(&mut self) {
        if self.file.is_none()
            && let Err(error) = self.open_file()
        {
            self.note_failure(&error);
            return;
        }
        while let Some((leg, line)) = self.backlog.pop_front() {
            match self.write_from(&line, self.first_written) {
                Ok(()) => {
                    self.first_written = 0;
                    self.backlog_bytes -= line.len();
                    self.counters.written.inc();
                    self.settled.push(leg);
                }
                Err(Stopped { written, error }) => {
                    self.first_written = written;
                    self.backlog.push_front((leg, line));
                    self.note_failure(&error);
                    break;
                }
            }
        }
        self.counters.backlog.set(gauge(self.backlog.len()));
        if self.backlog.is_empty()
            && let Some(outage) = self.outage.take()
        {
            tracing::warn!(
                path = %self.path.display(), held_back = outage.held_back, lost = outage.lost,
                "the CDR file can be written again"
            );
        }
    }

    /// Whoever rotates logs renames or removes the file and tells nobody.
    fn follow_rotation(&mut self) {
        let Some(open) = self.file.as_ref().and_then(|f| f.metadata().ok()) else {
            return;
        };
        let same = std::fs::metadata(&self.path)
            .is_ok_and(|there| (there.dev(), there.ino()) == (open.dev(), open.ino()));
        if same {
            return;
        }
        self.sync();
        // Until the new file opens, the old one is good enough: its records are only elsewhere.
        match self.open_file() {
            Ok(()) => {
                tracing::info!(path = %self.path.display(), "the CDR file was rotated: a new one is open");
            }
            Err(error) => self.note_failure(&error),
        }
    }

    fn sync(&mut self) {
        if !std::mem::take(&mut self.unsynced) {
            return;
        }
        // EINVAL: a pipe or a device has nothing to make durable.
        if let Some(Err(error)) = self.file.as_ref().map(File::sync_data)
            && error.kind() != ErrorKind::InvalidInput
        {
            self.note_failure(&error);
        }
    }

    fn note_failure(&mut self, error: &io::Error) {
        self.counters.write_errors.inc();
        if self.outage.is_none() {
            self.outage = Some(Outage::default());
            tracing::error!(
                path = %self.path.display(), %error,
                "the CDR file cannot be written: records are held in memory and retried, calls go on"
            );
        }
    }
}

impl Drop for CdrWriter {
    fn drop(&mut self) {
        self.retry();
        self.sync();
        if !self.backlog.is_empty() {
            let lost = self.backlog.len();
            self.counters.lost.inc_by(lost as u64);
            tracing::error!(
                path = %self.path.display(), lost,
                "the CDR file cannot be written to the end: records are lost"
            );
        }
    }
}

/// A place in a file, whatever name it has by now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Position {
    pub device: u64,
    pub inode: u64,
    pub length: u64,
}

impl Position {
    pub fn is_in(&self, file: &std::fs::Metadata) -> bool {
        (self.device, self.inode) == (file.dev(), file.ino())
    }
}

/// Why and where a write stopped.
struct Stopped {
    written: usize,
    error: io::Error,
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn is_misconfigured(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory
            | ErrorKind::ReadOnlyFilesystem
    )
}

fn log_repair(outcome: &Repair, path: &Path) {
    let path = path.display();
    match outcome {
        Repair::Clean => {}
        Repair::NewlineAdded => {
            tracing::warn!(%path, "the last CDR lacked its newline: added");
        }
        Repair::FragmentMoved { bytes, to } => {
            tracing::warn!(%path, bytes, to = %to.display(), "the last CDR was torn: its fragment was moved aside");
        }
        Repair::ForeignTail => {
            tracing::warn!(%path, "the CDR file ended with a long line that is no record: ended with a newline");
        }
    }
}

#[cfg(test)]
mod tests;
