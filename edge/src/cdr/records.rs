//! The CDR file and the journal of open legs beside it, kept in step.

use super::early::EarlyJournal;
use super::journal::{Crashed, Journal};
use super::line::{CdrLine, Lines};
use super::note::Note;
use super::writer::{CdrCounters, CdrError, CdrWriter};
use crate::clock::Clock;
use crate::reporter::WallClock;
use edge_proto::event::{Cause, Direction, Event, EventKind};
use edge_proto::id::CoreId;
use prometheus::IntCounter;
use std::path::Path;

/// A leg that an earlier process left open, and whose record this one wrote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Closed {
    pub trunk: String,
    pub direction: Direction,
    pub cause: Cause,
}

/// Bytes of lines that are collected while events keep coming.
const BUFFER: usize = 32 << 10;

/// Everything about records, for the reporter's thread. No method fails or blocks on anything but the files.
#[derive(Debug)]
pub struct Records {
    journal: Journal,
    writer: CdrWriter,
    /// Of legs that ended, on their way to the file.
    ended: Lines,
    /// Until all that they leave is in the own journal.
    crashed: Option<Crashed>,
    closed: Vec<Closed>,
}

impl Records {
    /// Opens the CDR file as [`CdrWriter::open`] does, and closes the legs that processes before this one left open: each gets
    /// its line with the cause `edge_restart`.
    pub fn open(path: &Path, counters: CdrCounters) -> Result<Records, CdrError> {
        let errors = counters.write_errors.clone();
        // First: what is repaired now is no line of a leg.
        let writer = CdrWriter::open(path, counters)?;
        Ok(Records::with(path, writer, errors))
    }

    fn with(path: &Path, writer: CdrWriter, errors: IntCounter) -> Records {
        let crashed = if writer.is_special() {
            Crashed::default()
        } else {
            Crashed::find(path)
        };
        Records::after(crashed, path, writer, errors)
    }

    fn after(crashed: Crashed, path: &Path, writer: CdrWriter, errors: IntCounter) -> Records {
        let mut records = Records {
            journal: Journal::new(path, &crashed, errors),
            writer,
            ended: Lines::default(),
            crashed: None,
            closed: Vec::new(),
        };
        records.close(crashed);
        records
    }

    fn close(&mut self, crashed: Crashed) {
        for (leg, end) in &crashed.legs {
            self.closed.push(Closed {
                trunk: leg.trunk.clone(),
                direction: if leg.inbound {
                    Direction::Inbound
                } else {
                    Direction::Outbound
                },
                cause: Cause::EdgeRestart,
            });
            // Kept like one's own until its line is in the file: the disk may be full.
            let mut kept = leg.clone();
            kept.end = Some(*end);
            self.journal.start(kept);
            let line = CdrLine::of_restart(leg, *end).to_bytes();
            self.writer.append(leg.id.clone(), line);
        }
        // Those that ended like any other, and whose line the reporter had not written yet.
        for (leg, line) in &crashed.ended {
            self.journal.ended(leg.clone(), line.clone());
            self.writer
                .append(leg.clone(), format!("{line}\n").into_bytes());
        }
        if !self.closed.is_empty() {
            tracing::warn!(
                legs = self.closed.len(),
                "call legs that were open when the edge ended unexpectedly are closed as edge_restart"
            );
        }
        self.settle();
        self.journal.renew(self.writer.position());
        self.crashed = Some(crashed);
        self.forget_crashed();
    }

    /// Legs that were closed by [`Records::open`].
    pub fn closed(&self) -> &[Closed] {
        &self.closed
    }

    /// Takes note of an event of a core; `clock` is its call's. Lines are in the CDR file after [`Records::flush`] at the latest, the
    /// rest is in the journal within a second; until then all of it is in the core's [`EarlyJournal`].
    pub fn note(&mut self, core: CoreId, event: &Event, clock: &WallClock) {
        match &event.kind {
            EventKind::LegEnded(record) if event.call.is_some() => {
                self.ended.add(record, clock);
                self.journal.count(core);
            }
            _ => match Note::of(event, clock) {
                None => return,
                Some(note) => self.journal.note(core, note),
            },
        }
        if self.ended.bytes().len() >= BUFFER || !self.journal.can_wait() {
            self.flush();
        }
    }

    /// For the control threads of so many cores. Call it once, before the first event.
    pub fn early_journals(&mut self, cores: u8, clock: &Clock) -> Vec<EarlyJournal> {
        let journals = self.journal.early(cores, clock);
        self.make_early();
        journals
    }

    /// Call when no event waits: lines are written, and what was noted unless it can wait.
    pub fn flush(&mut self) {
        if self.journal.can_wait() {
            self.append();
        } else {
            self.flush_all();
        }
    }

    fn flush_all(&mut self) {
        if !self.ended.is_empty() {
            // A leg in the CDR file, and nothing of its call's other legs anywhere, would be half a call. That the early journals
            // may forget what was noted is said only when the lines are in the file.
            self.journal.flush_news();
            self.append();
        }
        self.journal.flush();
    }

    fn append(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        for (leg, line) in self.writer.append_all(&self.ended) {
            // The journal would take it for open: a kill would cost it its line.
            self.journal.ended(leg, line);
        }
        self.ended.clear();
        self.settle();
    }

    /// Call every second or so.
    pub fn tick(&mut self) {
        self.flush_all();
        self.writer.tick();
        self.settle();
        self.journal.tick(self.writer.position());
        self.forget_crashed();
        self.make_early();
    }

    fn settle(&mut self) {
        for leg in self.writer.settled() {
            self.journal.over(&leg);
        }
    }

    fn forget_crashed(&mut self) {
        // From then on it holds all that they do, whatever becomes of this process.
        if self.journal.is_complete()
            && let Some(crashed) = self.crashed.take()
        {
            crashed.remove();
        }
    }

    fn make_early(&mut self) {
        // Those of the processes before are still needed while there is no other place for what they tell.
        if self.crashed.is_none() {
            self.journal.make_early();
        }
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.flush_all();
        self.writer.tick();
        self.settle();
    }
}

#[cfg(test)]
mod tests;
