//! Lines about events of calls, of which there are many: made in one go, and the same as `tracing_subscriber` would make them.

use super::outlet::Outlet;
use super::priority;
use crate::reporter::Stamp;
use edge_proto::event::TimelineEntry;
use edge_proto::id::CoreId;
use jiff::Timestamp;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::OnceLock;
use tracing::Level;

/// Where such lines go, once text without colours is logged.
static OUTLET: OnceLock<(Outlet, Form)> = OnceLock::new();

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// With the time and the level.
    Text,
    /// With a priority; the journal has a time of its own.
    Journal,
}

/// From here on [`EventLines`] go there.
pub(super) fn take_to(outlet: &Outlet, journal: bool) {
    let form = if journal { Form::Journal } else { Form::Text };
    // Whoever logs twice is refused anyway.
    let _ = OUTLET.set((outlet.clone(), form));
}

/// Makes such lines.
#[derive(Default, Debug)]
pub struct EventLines {
    line: String,
}

/// What a line tells besides its words.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// When it happened.
    pub at: Timestamp,
    pub level: Level,
    pub call: Option<&'a str>,
    pub core: CoreId,
}

impl EventLines {
    /// Writes the line, whose level is wanted. False: this is not the way to log here, or the text needs more care than it gets
    /// here.
    pub fn write(&mut self, context: Context<'_>, entry: &TimelineEntry) -> bool {
        let Some((outlet, form)) = OUTLET.get() else {
            return false;
        };
        if !self.make(*form, context, entry) {
            return false;
        }
        // An outlet never fails.
        let mut outlet = outlet;
        outlet.write_all(self.line.as_bytes()).is_ok()
    }

    fn make(
        &mut self,
        form: Form,
        Context {
            at,
            level,
            call,
            core,
        }: Context<'_>,
        entry: &TimelineEntry,
    ) -> bool {
        // What tracing would escape.
        let plain = |text: &str| text.bytes().all(|octet| matches!(octet, b' '..=b'~'));
        let reason = entry.reason.as_deref().unwrap_or_default();
        let call = call.unwrap_or_default();
        let quotable = |text: &str| plain(text) && !text.contains(['"', '\\']);
        if !plain(&entry.detail) || !quotable(reason) || !quotable(call) {
            return false;
        }
        let line = &mut self.line;
        line.clear();
        match form {
            Form::Text => {
                line.push_str(Stamp::new(at).as_str());
                let _ = write!(line, " {:>5} ", level.as_str());
            }
            Form::Journal => {
                let _ = write!(line, "<{}>", priority(&level));
            }
        }
        line.push_str("sip_edge::event: ");
        line.push_str(&entry.detail);
        if !call.is_empty() {
            line.extend([" call=\"", call, "\""]);
        }
        if let Some(leg) = entry.leg {
            let _ = write!(line, " leg={leg}");
        }
        let _ = write!(line, " core={}", core.0);
        line.extend([" kind=\"", entry.kind, "\""]);
        if entry.reason.is_some() {
            line.extend([" reason=\"", reason, "\""]);
        }
        line.push('\n');
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::Journal;
    use super::*;
    use crate::reporter::{EventLog, WallClock};
    use crate::test_support::{LogSink, call_with_transfer};
    use edge_proto::event::{EventKind, Privacy};

    fn clock() -> WallClock {
        WallClock::of_origin(0)
    }

    /// What tracing makes of an event, without its time.
    fn traced(event: &edge_proto::event::Event, form: Form) -> String {
        let sink = LogSink::default();
        let log = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .with_ansi(false)
            .with_writer(sink.clone());
        let told = || EventLog::default().event(CoreId(1), event, &clock());
        match form {
            Form::Text => tracing::subscriber::with_default(log.without_time().finish(), told),
            Form::Journal => {
                tracing::subscriber::with_default(
                    log.event_format(Journal::default()).finish(),
                    told,
                );
            }
        }
        sink.text()
    }

    #[test]
    fn a_line_is_what_tracing_makes_of_it() {
        let mut lines = EventLines::default();
        let mut made = 0;
        let mut events = call_with_transfer();
        // Of no call.
        events.extend(events.last().cloned().map(|mut event| {
            event.call = None;
            event
        }));
        for event in events {
            for form in [Form::Text, Form::Journal] {
                let at = Timestamp::UNIX_EPOCH;
                let context = Context {
                    at,
                    level: EventLog::level(&event),
                    call: event.call.as_deref(),
                    core: CoreId(1),
                };
                let entry = event.entry(Privacy::Redacted);
                if !lines.make(form, context, &entry) {
                    continue;
                }
                made += 1;
                let stamp = Stamp::new(at).to_string();
                let line = lines.line.strip_prefix(&*stamp).unwrap_or(&lines.line);
                // Without a time, tracing leaves out the space behind it.
                let line = line.strip_prefix(' ').unwrap_or(line);
                assert_eq!(line, traced(&event, form), "{event:?}");
            }
        }
        assert!(made > 30, "{made}");
    }

    #[test]
    fn text_that_has_to_be_escaped_is_left_to_tracing() {
        let mut lines = EventLines::default();
        for (detail, reason) in [
            ("a\nb", "c"),
            ("a", "b\u{1b}c"),
            ("a", "b\"c"),
            ("\u{e9}", ""),
        ] {
            let mut event = call_with_transfer().remove(0);
            event.kind = EventKind::Overflow { queue: "calls" };
            let mut entry = event.entry(Privacy::Redacted);
            (entry.detail, entry.reason) = (detail.to_owned(), Some(reason.to_owned()));
            let context = Context {
                at: Timestamp::UNIX_EPOCH,
                level: Level::INFO,
                call: None,
                core: CoreId(0),
            };
            assert!(!lines.make(Form::Text, context, &entry), "{entry:?}");
        }
    }
}
