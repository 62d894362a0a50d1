//! Events as log lines: with the call's context, without numbers.

use super::WallClock;
use crate::log::{Context, EventLines};
use edge_proto::event::{Cause, Event, EventKind, Privacy};
use edge_proto::id::CoreId;
use edge_proto::time::{Duration, Instant};
use std::collections::BTreeMap;

/// Lines of one kind that belong to no call, per second: strangers choose how many there are.
const LINES_PER_S: u32 = 10;

/// Writes events to the log.
#[derive(Debug, Default)]
pub struct EventLog {
    /// By kind.
    strangers: BTreeMap<&'static str, Window>,
    lines: EventLines,
}

/// One second of one kind.
#[derive(Debug)]
struct Window {
    start: Instant,
    lines: u32,
    suppressed: u64,
}

impl EventLog {
    /// Logs `event`, unless its kind has had its share of this second. `clock` tells its time, which a line of text tells; other
    /// forms tell when it is logged.
    pub fn event(&mut self, core: CoreId, event: &Event, clock: &WallClock) {
        let level = EventLog::level(event);
        if !enabled(level) {
            return;
        }
        let entry = event.entry(Privacy::Redacted);
        if event.call.is_none() && !self.admit(entry.kind, event.at) {
            return;
        }
        let context = Context {
            at: clock.at(event.at),
            level,
            call: event.call.as_deref(),
            core,
        };
        if self.lines.write(context, &entry) {
            return;
        }
        let (call, leg) = (event.call.as_deref(), event.leg);
        let (kind, reason) = (entry.kind, entry.reason.as_deref());
        let core = core.0;
        macro_rules! line {
            ($macro:ident) => {
                tracing::$macro!(target: "sip_edge::event", call, leg, core, kind, reason, "{}", entry.detail)
            };
        }
        match level {
            tracing::Level::ERROR => line!(error),
            tracing::Level::WARN => line!(warn),
            tracing::Level::INFO => line!(info),
            _ => line!(debug),
        }
    }

    /// What an operator wants to see without asking: calls, verdicts and trouble. Messages are for the debug level.
    pub fn level(event: &Event) -> tracing::Level {
        match &event.kind {
            EventKind::Overflow { .. }
            | EventKind::Malformed { .. }
            | EventKind::Connection { failed: true, .. } => tracing::Level::WARN,
            EventKind::LegEnded(record) => match record.cause {
                Cause::MediaFailed | Cause::EdgeOverload => tracing::Level::WARN,
                _ => tracing::Level::INFO,
            },
            EventKind::CallStarted { .. }
            | EventKind::Refer { .. }
            | EventKind::TransferAttempt { .. }
            | EventKind::TransferBridged { .. }
            | EventKind::TransferEnded { .. }
            | EventKind::CallEnded { .. }
            | EventKind::AccessDropped { .. } => tracing::Level::INFO,
            EventKind::LegStarted { .. }
            | EventKind::Request { .. }
            | EventKind::Response { .. }
            | EventKind::Digest { .. }
            | EventKind::Routed { .. }
            | EventKind::HeaderDropped { .. }
            | EventKind::FirstRtp { .. }
            | EventKind::Note { .. }
            | EventKind::Connection { .. } => tracing::Level::DEBUG,
        }
    }

    fn admit(&mut self, kind: &'static str, at: Instant) -> bool {
        let window = self.strangers.entry(kind).or_insert(Window {
            start: at,
            lines: 0,
            suppressed: 0,
        });
        if at.saturating_since(window.start) >= Duration::from_secs(1) {
            if window.suppressed > 0 {
                tracing::warn!(
                    target: "sip_edge::event", kind, lines = window.suppressed,
                    "more of these lines were left out"
                );
            }
            *window = Window {
                start: at,
                lines: 0,
                suppressed: 0,
            };
        }
        window.lines += 1;
        if window.lines > LINES_PER_S {
            window.suppressed += 1;
            return false;
        }
        true
    }
}

/// Whether lines of this level are logged.
fn enabled(level: tracing::Level) -> bool {
    const TARGET: &str = "sip_edge::event";
    match level {
        tracing::Level::ERROR => tracing::enabled!(target: TARGET, tracing::Level::ERROR),
        tracing::Level::WARN => tracing::enabled!(target: TARGET, tracing::Level::WARN),
        tracing::Level::INFO => tracing::enabled!(target: TARGET, tracing::Level::INFO),
        _ => tracing::enabled!(target: TARGET, tracing::Level::DEBUG),
    }
}

#[cfg(test)]
mod tests;
