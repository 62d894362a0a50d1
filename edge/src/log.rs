//! Where log lines go: stderr, in the form that whoever reads stderr likes best.

mod events;
mod outlet;

pub use events::{Context, EventLines};
pub use outlet::LogGuard;

use crate::reporter::Stamp;
use jiff::Timestamp;
use outlet::Outlet;
use std::fmt;
use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Logs text from here on, for as long as the guard lives: with priorities for the journal, with colours for a terminal. Fails when
/// something logs already.
pub fn text(filter: EnvFilter) -> Result<LogGuard, String> {
    let journal = stderr_is_journal();
    let notice = if journal {
        |lost| format!("<4>{lost} log lines were lost: standard error was not read\n")
    } else {
        |lost| format!("WARN {lost} log lines were lost: standard error was not read\n")
    };
    let (outlet, guard) = Outlet::new(io::stderr(), notice).map_err(no_thread)?;
    let colours = !journal && io::stderr().is_terminal();
    if !colours {
        events::take_to(&outlet, journal);
    }
    let log = tracing_subscriber::fmt()
        // A line that cannot be written is told on stderr otherwise, and the macro that does it panics when that is gone too.
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_timer(Utc)
        .with_writer(outlet);
    let started = if journal {
        log.event_format(Journal::default()).try_init()
    } else {
        log.with_ansi(colours).try_init()
    };
    started.map_err(|error| error.to_string())?;
    Ok(guard)
}

/// Logs JSON lines from here on, for as long as the guard lives. Fails when something logs already.
pub fn json(filter: EnvFilter) -> Result<LogGuard, String> {
    let (outlet, guard) = Outlet::new(io::stderr(), |lost| {
        format!(
            "{{\"level\":\"WARN\",\"fields\":{{\"message\":\"log lines were lost: standard error was not read\",\"lost\":{lost}}}}}\n"
        )
    })
    .map_err(no_thread)?;
    tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_timer(Utc)
        .with_writer(outlet)
        .json()
        .try_init()
        .map_err(|error| error.to_string())?;
    Ok(guard)
}

fn no_thread(error: io::Error) -> String {
    format!("no thread to write the log: {error}")
}

/// The time of a line, as records tell it.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.write_str(Stamp::new(Timestamp::now()).as_str())
    }
}

/// Whether systemd connected stderr to the journal: `JOURNAL_STREAM` names its device and inode (systemd.exec(5)).
fn stderr_is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|stderr| named == format!("{}:{}", stderr.dev(), stderr.ino()))
}

/// Lines for the journal: the priority as sd-daemon(3) wants it; the time is the journal's own.
struct Journal(Format<Full, ()>);

impl Default for Journal {
    fn default() -> Self {
        Journal(
            tracing_subscriber::fmt::format()
                .without_time()
                .with_level(false)
                .with_ansi(false),
        )
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// syslog(3).
fn priority(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::LogSink;

    #[test]
    fn the_journal_gets_priorities_and_no_times() {
        let sink = LogSink::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(sink.clone())
            .event_format(Journal::default())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!("broken");
            tracing::info!(call = "abc", "started");
        });
        let text = sink.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(
            lines[0].starts_with("<3>") && lines[0].ends_with("broken"),
            "{text}"
        );
        assert!(
            lines[1].starts_with("<6>") && lines[1].contains("call=\"abc\""),
            "{text}"
        );
        assert!(!text.contains("20"), "{text}");
    }
}
