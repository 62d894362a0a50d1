//! The CDR file and the journal of open legs beside it, kept in step.

use super::journal::{Crashed, Journal};
use super::leg::LegId;
use super::line::CdrLine;
use super::writer::{CdrCounters, CdrError, CdrWriter};
use crate::reporter::WallClock;
use edge_proto::event::{Cause, Direction, Event, EventKind};
use std::path::Path;

/// A leg that an earlier process left open, and whose record this one wrote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Closed {
    pub trunk: String,
    pub direction: Direction,
    pub cause: Cause,
}

/// Everything about records, for the reporter's thread. No method fails or blocks on anything but the files.
#[derive(Debug)]
pub struct Records {
    journal: Journal,
    writer: CdrWriter,
    /// Until their legs are in the own journal.
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
        let crashed = if writer.position().is_some() {
            Crashed::find(path)
        } else {
            Crashed::default()
        };
        let mut records = Records {
            journal: Journal::new(path, crashed.place.clone(), errors),
            writer,
            crashed: None,
            closed: Vec::new(),
        };
        records.close(crashed);
        Ok(records)
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

    /// Takes note of an event; `clock` is its call's.
    pub fn note(&mut self, event: &Event, clock: &WallClock) {
        if let EventKind::LegEnded(record) = &event.kind {
            self.journal.flush();
            let leg = LegId {
                call: record.call.clone(),
                leg: record.leg,
            };
            self.writer
                .append(leg, CdrLine::new(record, clock).to_bytes());
            self.settle();
        } else {
            self.journal.note(event, clock);
        }
    }

    /// Call when no event waits: what was noted is written.
    pub fn flush(&mut self) {
        self.journal.flush();
    }

    /// Call every second or so.
    pub fn tick(&mut self) {
        self.writer.tick();
        self.settle();
        self.journal.tick(self.writer.position());
        self.forget_crashed();
    }

    fn settle(&mut self) {
        for leg in self.writer.settled() {
            self.journal.over(&leg);
        }
    }

    fn forget_crashed(&mut self) {
        if self.journal.is_complete()
            && let Some(crashed) = self.crashed.take()
        {
            crashed.remove();
        }
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.writer.tick();
        self.settle();
    }
}

#[cfg(test)]
mod tests;
