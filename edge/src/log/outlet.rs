//! Lines on their way to whoever reads stderr, who may be slow, or stuck: no thread of the edge ever waits for it.
//!
//! A thread of its own writes. Lines that it has no room for are lost, counted, and told as soon as there is room again.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use tracing_subscriber::fmt::MakeWriter;

/// Octets of lines that wait at most: tens of thousands of lines.
const ROOM: usize = 8 << 20;
/// The writer lets lines gather for so long after it has written some: a wake-up and a write for each would cost more than they do.
const GATHER: Duration = Duration::from_millis(50);
/// Memory that the writer keeps while nothing is logged.
const IDLE: usize = 64 << 10;
/// How long the last lines may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// While this lives lines are written; dropping it writes what waits, for [`PATIENCE`] at most.
#[must_use]
pub struct LogGuard(Arc<Shared>);

impl Drop for LogGuard {
    fn drop(&mut self) {
        let mut lines = self.0.lines();
        lines.state = State::Ending;
        self.0.change.notify_all();
        let ended = |lines: &mut Lines| lines.state != State::Ended;
        // A reader that is stuck keeps nobody from ending.
        drop(self.0.change.wait_timeout_while(lines, PATIENCE, ended));
    }
}

/// Makes the line that tells how many were lost.
pub type Notice = fn(usize) -> String;

/// Takes lines; whoever logs waits for nothing but another that copies its line.
#[derive(Clone)]
pub struct Outlet(Arc<Shared>);

struct Shared {
    lines: Mutex<Lines>,
    change: Condvar,
    room: usize,
    notice: Notice,
}

#[derive(Default)]
struct Lines {
    text: Vec<u8>,
    /// Since the last notice.
    lost: usize,
    state: State,
}

/// Of the writer.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// Looks at the lines before it sleeps, or by itself soon.
    #[default]
    Awake,
    /// Wants to be told of the next line.
    Asleep,
    /// Is to write what there is, and end.
    Ending,
    Ended,
}

impl Outlet {
    /// Starts the thread that writes; fails when there can be none.
    pub fn new(to: impl Write + Send + 'static, notice: Notice) -> io::Result<(Outlet, LogGuard)> {
        Outlet::with_room(ROOM, to, notice)
    }

    fn with_room(
        room: usize,
        to: impl Write + Send + 'static,
        notice: Notice,
    ) -> io::Result<(Outlet, LogGuard)> {
        let shared = Arc::new(Shared {
            lines: Mutex::default(),
            change: Condvar::new(),
            room,
            notice,
        });
        let writer = shared.clone();
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.write(to))?;
        Ok((Outlet(shared.clone()), LogGuard(shared)))
    }
}

impl Shared {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        // Nothing that holds it panics; half a line would be the worst.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: &[u8]) {
        let mut lines = self.lines();
        if lines.lost > 0 {
            let notice = (self.notice)(lines.lost);
            if lines.text.len() + notice.len() <= self.room {
                lines.text.extend_from_slice(notice.as_bytes());
                lines.lost = 0;
            }
        }
        if lines.lost > 0 || lines.text.len() + line.len() > self.room {
            lines.lost += 1;
            return;
        }
        lines.text.extend_from_slice(line);
        if lines.state == State::Asleep {
            lines.state = State::Awake;
            drop(lines);
            self.change.notify_all();
        }
    }

    /// The thread: takes what waits, writes it, and lets more gather.
    fn write(&self, mut to: impl Write) {
        let mut taken = Vec::new();
        loop {
            let ending = self.take(&mut taken);
            // That nobody reads any more cannot be told to anybody.
            let _ = to.write_all(&taken);
            let _ = to.flush();
            taken.clear();
            if ending {
                self.lines().state = State::Ended;
                self.change.notify_all();
                return;
            }
            thread::sleep(GATHER);
        }
    }

    /// Waits for lines and changes them for `empty`; whether they are the last.
    fn take(&self, empty: &mut Vec<u8>) -> bool {
        let mut lines = self.lines();
        if lines.text.is_empty() && lines.state != State::Ending {
            empty.shrink_to(IDLE);
            lines.text.shrink_to(IDLE);
            lines.state = State::Asleep;
            let asleep = |lines: &mut Lines| lines.state == State::Asleep;
            lines = self
                .change
                .wait_while(lines, asleep)
                .unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut lines.text, empty);
        lines.state == State::Ending
    }
}

impl Write for &Outlet {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Outlet {
    type Writer = &'a Outlet;

    fn make_writer(&'a self) -> &'a Outlet {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    const DEADLINE: Duration = Duration::from_secs(20);

    /// Says that it is about to write, then waits until it may.
    struct Stuck {
        begins: Sender<()>,
        may: Receiver<()>,
        written: Sender<String>,
    }

    impl Write for Stuck {
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            let _ = self.begins.send(());
            let _ = self.may.recv();
            let _ = self
                .written
                .send(String::from_utf8_lossy(lines).into_owned());
            Ok(lines.len())
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
        let (outlet, guard) = Outlet::with_room(12, stuck, |lost| format!("{lost} lost.")).unwrap();
        let say = |line: &str| (&outlet).write_all(line.as_bytes()).unwrap();
        say("first.");
        begun.recv_timeout(DEADLINE).unwrap();
        // The writer has the first; there is room for four.
        for number in 1..=9 {
            say(&format!("{number}.."));
        }
        drop(release);
        let next = || written.recv_timeout(DEADLINE).unwrap();
        assert_eq!(next(), "first.");
        assert_eq!(next(), "1..2..3..4..");
        say("ok.");
        let mut rest = next();
        drop(guard);
        rest.extend(written.try_iter());
        assert_eq!(rest, "5 lost.ok.");
    }

    #[test]
    fn lines_wake_a_writer_that_sleeps_and_the_last_are_written_at_the_end() {
        let (writes, written) = channel();
        // It never waits.
        let (begins, _) = channel();
        let (_, may) = channel();
        let reader = Stuck {
            begins,
            may,
            written: writes,
        };
        let (outlet, guard) = Outlet::new(reader, |_| String::new()).unwrap();
        for line in ["a.", "b.", "c."] {
            // It sleeps again between these.
            (&outlet).write_all(line.as_bytes()).unwrap();
            assert_eq!(written.recv_timeout(DEADLINE).unwrap(), line);
            while outlet.0.lines().state != State::Asleep {
                thread::yield_now();
            }
        }
        (&outlet).write_all(b"last.").unwrap();
        drop(guard);
        assert_eq!(written.try_iter().collect::<String>(), "last.");
    }
}
