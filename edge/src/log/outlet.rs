//! Lines on their way to whoever reads stderr, who may be slow, or stuck: no thread of the edge ever waits for it.
//!
//! A thread of its own writes. Lines that it has no room for are lost, counted, and told as soon as there is room again.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait at most: some megabytes.
const LINES: usize = 16_384;

/// While this lives lines are written; dropping it writes what waits, for a second at most.
#[must_use]
pub struct LogGuard {
    _writer: WorkerGuard,
}

/// Makes the line that tells how many were lost.
pub type Notice = fn(usize) -> String;

/// Takes lines without ever waiting.
#[derive(Clone)]
pub struct Outlet {
    lines: NonBlocking,
    /// Of the lines lost, those that were told.
    told: Arc<AtomicUsize>,
    /// Notices that were lost themselves.
    unsaid: Arc<AtomicUsize>,
    notice: Notice,
}

impl Outlet {
    pub fn new(to: impl Write + Send + 'static, notice: Notice) -> (Outlet, LogGuard) {
        Outlet::with_room(LINES, to, notice)
    }

    fn with_room(
        lines: usize,
        to: impl Write + Send + 'static,
        notice: Notice,
    ) -> (Outlet, LogGuard) {
        let (lines, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(lines)
            .thread_name("log")
            .finish(to);
        let outlet = Outlet {
            lines,
            told: Arc::default(),
            unsaid: Arc::default(),
            notice,
        };
        (outlet, LogGuard { _writer: guard })
    }

    fn tell_losses(&mut self) {
        let dropped = self.lines.error_counter().dropped_lines();
        let lost = dropped.saturating_sub(self.unsaid.load(Ordering::Relaxed));
        let told = self.told.load(Ordering::Relaxed);
        let mine = lost > told
            && self
                .told
                .compare_exchange(told, lost, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !mine {
            return;
        }
        let _ = self.lines.write_all((self.notice)(lost - told).as_bytes());
        if self.lines.error_counter().dropped_lines() > dropped {
            // No room for it either: the next line tries again.
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            self.told.store(told, Ordering::Relaxed);
        }
    }
}

impl Write for Outlet {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.tell_losses();
        self.lines.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lines.flush()
    }
}

impl MakeWriter<'_> for Outlet {
    type Writer = Outlet;

    fn make_writer(&self) -> Outlet {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    const DEADLINE: Duration = Duration::from_secs(20);

    /// Says that it is about to write, then waits until it may.
    struct Stuck {
        begins: Sender<()>,
        may: Receiver<()>,
        written: Sender<String>,
    }

    impl Write for Stuck {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.begins.send(());
            let _ = self.may.recv();
            let _ = self
                .written
                .send(String::from_utf8_lossy(line).into_owned());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_stuck_reader_has_no_room_for_is_lost_and_told_later() {
        let (begins, begun) = channel();
        let (release, may) = channel();
        let (writes, written) = channel();
        let stuck = Stuck {
            begins,
            may,
            written: writes,
        };
        let (mut outlet, guard) = Outlet::with_room(4, stuck, |lost| format!("{lost} lost"));
        outlet.write_all(b"first").unwrap();
        begun.recv_timeout(DEADLINE).unwrap();
        // The writer has the first; there is room for four.
        for number in 1..=9 {
            outlet.write_all(number.to_string().as_bytes()).unwrap();
        }
        drop(release);
        let next = || written.recv_timeout(DEADLINE).unwrap();
        for expected in ["first", "1", "2", "3", "4"] {
            assert_eq!(next(), expected);
        }
        outlet.write_all(b"again").unwrap();
        assert_eq!(next(), "5 lost");
        assert_eq!(next(), "again");
        drop(guard);
        assert!(written.try_recv().is_err());
    }
}
