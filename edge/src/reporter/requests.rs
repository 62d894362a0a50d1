//! Those who read what the reporter knows (the admin API) ask it to catch up first: it lets events gather for longer than a reader
//! likes to wait.

use crate::handoff::Waker;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long a reader waits for a reporter that has more to do, or waits for a disk: then it reads what there is.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 30_000 } else { 250 });

/// What readers and the reporter share.
#[derive(Debug)]
pub(super) struct Requests {
    /// Made so far.
    asked: Mutex<u64>,
    change: Condvar,
    /// How many of those are met: all that was queued when they were made is told.
    met: watch::Sender<u64>,
    /// Somebody will meet them.
    running: AtomicBool,
    /// The reporter's, while it waits for events.
    waker: Waker,
}

impl Requests {
    pub fn new(waker: Waker) -> Requests {
        Requests {
            asked: Mutex::default(),
            change: Condvar::new(),
            met: watch::Sender::new(0),
            running: AtomicBool::new(false),
            waker,
        }
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        // A number cannot be left half changed.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a request; gives its number.
    pub fn ask(&self) -> u64 {
        let number = {
            let mut asked = self.lock();
            *asked += 1;
            *asked
        };
        self.change.notify_all();
        self.waker.wake();
        number
    }

    /// Returns when everything that is queued now is told, or after [`PATIENCE`].
    pub async fn caught_up(&self) {
        if !self.running.load(Ordering::Acquire) {
            return;
        }
        let number = self.ask();
        let mut met = self.met.subscribe();
        // Too late is no reason to tell a reader nothing.
        let _ = tokio::time::timeout(PATIENCE, met.wait_for(|met| *met >= number)).await;
    }

    /// For the reporter: how many were made. Read it before the queue is looked at.
    pub fn made(&self) -> u64 {
        *self.lock()
    }

    /// All that was queued when `made` was read is told.
    pub fn meet(&self, made: u64) {
        self.met.send_if_modified(|met| {
            let changed = *met < made;
            *met = made.max(*met);
            changed
        });
    }

    /// Sleeps for `time`, or until there are more requests than `made`.
    pub fn pause(&self, made: u64, time: Duration) {
        let none = |asked: &mut u64| *asked == made;
        drop(self.change.wait_timeout_while(self.lock(), time, none));
    }

    /// Whether there is somebody who meets requests.
    pub fn set_running(&self, running: bool) {
        self.running.store(running, Ordering::Release);
    }
}
