//! What happened, as text. Nothing is written unless somebody will read it.

use edge_proto::time::Instant;
use std::collections::VecDeque;

/// The last lines of a run.
#[derive(Debug)]
pub struct Trace {
    lines: VecDeque<String>,
    /// 0: nothing is kept.
    capacity: usize,
    /// Lines are printed as they come.
    live: bool,
}

impl Trace {
    pub fn off() -> Trace {
        Trace::keeping(0)
    }

    /// Keeps the last `capacity` lines.
    pub fn keeping(capacity: usize) -> Trace {
        Trace {
            lines: VecDeque::new(),
            capacity,
            live: false,
        }
    }

    /// Prints every line.
    pub fn live() -> Trace {
        Trace {
            live: true,
            ..Trace::off()
        }
    }

    pub fn line(&mut self, now: Instant, text: impl FnOnce() -> String) {
        if self.live {
            println!("{now:?} {}", text());
        } else if self.capacity > 0 {
            if self.lines.len() >= self.capacity {
                self.lines.pop_front();
            }
            self.lines.push_back(format!("{now:?} {}", text()));
        }
    }

    pub fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}
