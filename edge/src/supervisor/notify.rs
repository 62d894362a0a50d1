//! What the service manager is told (sd_notify(3)). Without one, nothing happens.

use super::start::Running;
use sd_notify::NotifyState;
use std::time::Duration;

/// How long between two pings when there is no watchdog: the status line is renewed as often.
const STATUS_TICK: Duration = Duration::from_secs(5);
/// The least time that a stopping edge asks for at once: more than ending the last calls and threads takes.
const EXTENSION: Duration = Duration::from_secs(45);

/// A service manager such as systemd, or none.
#[derive(Debug)]
pub(super) struct ServiceManager {
    watchdog: Option<Duration>,
    pulse: Pulse,
    /// What it was told last; not told twice.
    status: String,
    stopping: bool,
}

impl ServiceManager {
    /// The one that started this process, by `$NOTIFY_SOCKET` and `$WATCHDOG_USEC`.
    pub(super) fn from_environment() -> Self {
        ServiceManager {
            watchdog: sd_notify::watchdog_enabled(),
            pulse: Pulse::default(),
            status: String::new(),
            stopping: false,
        }
    }

    /// How often [`ServiceManager::tick`] wants to be called: four times within the watchdog's patience.
    pub(super) fn period(&self) -> Duration {
        self.watchdog
            .map_or(STATUS_TICK, |patience| patience / 4)
            .max(Duration::from_millis(10))
    }

    pub(super) fn ready(&mut self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// A reload begins; [`ServiceManager::ready`] ends it, whatever came of it.
    pub(super) fn reloading(&mut self) {
        // Type=notify-reload wants the time with it, Type=notify does not mind.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(_) => self.tell(&[NotifyState::Reloading]),
        }
    }

    /// From now on systemd's TimeoutStopSec runs, unless [`ServiceManager::more_time`] is asked for: how long a drain may take is
    /// for `edge.drain_timeout_s` to say, not for two files. Told once.
    pub(super) fn stopping(&mut self) {
        if !std::mem::replace(&mut self.stopping, true) {
            self.tell(&[NotifyState::Stopping]);
        }
        self.more_time();
    }

    /// Asks for time until the next time it asks. In small portions, so that a process that hangs is not waited for.
    fn more_time(&self) {
        let portion = (self.period() * 4).max(EXTENSION);
        let micros = u32::try_from(portion.as_micros()).unwrap_or(u32::MAX);
        self.tell(&[NotifyState::ExtendTimeoutUsec(micros)]);
    }

    /// The line that `systemctl status` shows.
    pub(super) fn status(&mut self, text: String) {
        if self.status != text {
            self.tell(&[NotifyState::Status(&text)]);
            self.status = text;
        }
    }

    /// Pings the watchdog if every thread has done something since the last call; names those that have not.
    pub(super) fn tick(&mut self, beats: &[Beat]) -> Vec<String> {
        let stuck = self.pulse.missing(beats);
        if stuck.is_empty() {
            if self.watchdog.is_some() {
                self.tell(&[NotifyState::Watchdog]);
            }
            if self.stopping {
                self.more_time();
            }
        }
        stuck
    }

    fn tell(&self, state: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(state) {
            tracing::warn!(%error, "the service manager cannot be told");
        }
    }
}

/// How much a thread has done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Beat {
    pub thread: String,
    pub count: u64,
}

/// Remembers how far each thread was.
#[derive(Debug, Default)]
struct Pulse(Vec<Beat>);

impl Pulse {
    /// The threads whose count has not changed since the last call.
    fn missing(&mut self, beats: &[Beat]) -> Vec<String> {
        let unchanged = beats.iter().filter(|beat| self.0.contains(beat));
        let missing = unchanged.map(|beat| beat.thread.clone()).collect();
        self.0 = beats.to_vec();
        missing
    }
}

impl Running {
    /// Looks whether every thread lives, and tells the service manager how things are. Once in [`ServiceManager::period`].
    pub(super) fn report(&mut self, draining: bool) {
        let beats = self.beats();
        let stuck = self.manager.tick(&beats);
        if stuck.is_empty() {
            return self.tell_status(draining);
        }
        tracing::error!(threads = ?stuck, "threads do nothing: the watchdog is not pinged");
        let status = format!("threads that do nothing: {}", stuck.join(", "));
        self.manager.status(status);
    }

    pub(super) fn tell_status(&mut self, draining: bool) {
        let legs = self.metrics.legs_alive();
        self.manager.status(if draining {
            format!("draining: new calls are refused, {legs} call legs left")
        } else {
            format!("taking calls: {legs} call legs")
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_that_stands_still_is_no_life() {
        let beats = |control, media| {
            [("control-0", control), ("media-0", media)].map(|(thread, count)| Beat {
                thread: thread.to_owned(),
                count,
            })
        };
        let nobody: [&str; 0] = [];
        let mut pulse = Pulse::default();
        assert_eq!(
            pulse.missing(&beats(0, 0)),
            nobody,
            "nothing to compare with yet"
        );
        assert_eq!(pulse.missing(&beats(1, 5)), nobody);
        assert_eq!(pulse.missing(&beats(2, 5)), ["media-0"]);
        assert_eq!(pulse.missing(&beats(2, 5)), ["control-0", "media-0"]);
        assert_eq!(pulse.missing(&beats(3, 7)), nobody);
    }

    #[test]
    fn the_watchdog_is_asked_in_time() {
        let manager = |watchdog| ServiceManager {
            watchdog,
            pulse: Pulse::default(),
            status: String::new(),
            stopping: false,
        };
        let patience = Duration::from_secs(30);
        assert!(manager(Some(patience)).period() * 3 < patience);
        assert_eq!(manager(None).period(), STATUS_TICK);
    }
}
