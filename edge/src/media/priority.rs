//! Puts a media thread before the control thread of its core.
//!
//! Both are pinned to the same core. A packet that waits while a burst of calls is set up is heard; a call that is set up a
//! millisecond later is not noticed. The media thread uses the core in short bits, so the control thread loses nothing that it
//! needs, until media alone fills the core: then the kernel leaves it the 5 % that it keeps from real-time threads
//! (`kernel.sched_rt_runtime_us`).

use std::fmt;
use std::io;

/// The lowest of the real-time priorities: the media thread competes with ordinary threads, not with a system's watchdogs.
const REAL_TIME: libc::c_int = 1;
/// Where real time is not permitted.
const NICE: [libc::c_int; 2] = [-20, -10];
/// Timers of a media thread may be late by this much, instead of the kernel's 50 us.
const TIMER_SLACK_NS: libc::c_ulong = 1_000;

/// What could be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Priority {
    /// SCHED_RR: runs at once whenever it has something to do.
    RealTime,
    /// As an ordinary thread, with this niceness.
    Nice(i32),
    /// As every other thread.
    Ordinary,
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Priority::RealTime => write!(f, "real time (SCHED_RR)"),
            Priority::Nice(nice) => write!(f, "nice {nice}"),
            Priority::Ordinary => write!(f, "ordinary"),
        }
    }
}

/// Gives the calling thread the best priority that is permitted (CAP_SYS_NICE, or RLIMIT_RTPRIO, or RLIMIT_NICE), and precise
/// timers.
pub fn prefer() -> Priority {
    precise_timers();
    if real_time().is_ok() {
        return Priority::RealTime;
    }
    let permitted = NICE.into_iter().find(|&value| nice(value).is_ok());
    permitted.map_or(Priority::Ordinary, Priority::Nice)
}

/// Leaves the calling thread the priority that it has, with precise timers.
pub fn ordinary() -> Priority {
    precise_timers();
    Priority::Ordinary
}

/// Lets the calling thread's timed waits end when they should. Always permitted.
pub fn precise_timers() {
    // SAFETY: this prctl takes a number.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, TIMER_SLACK_NS) };
}

/// Makes the calling thread a real-time thread. Threads that it starts are not.
pub fn real_time() -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: REAL_TIME,
    };
    // SAFETY: the pointer is to a local that outlives the call, and 0 is the calling thread.
    let result = unsafe {
        libc::sched_setscheduler(
            0,
            libc::SCHED_RR | libc::SCHED_RESET_ON_FORK,
            &raw const parameters,
        )
    };
    result_of(result)
}

/// Sets the calling thread's niceness (on Linux it is the thread's, not the process's).
pub fn nice(value: i32) -> io::Result<()> {
    // SAFETY: setpriority takes numbers, and 0 is the calling thread.
    result_of(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) })
}

fn result_of(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (policy, niceness) of the calling thread.
    fn scheduling() -> (i32, i32) {
        // SAFETY: both take numbers.
        unsafe {
            (
                libc::sched_getscheduler(0),
                libc::getpriority(libc::PRIO_PROCESS, 0),
            )
        }
    }

    #[test]
    fn the_thread_alone_gets_what_is_told() {
        let before = scheduling();
        let (told, (policy, nice)) = std::thread::spawn(|| (prefer(), scheduling()))
            .join()
            .unwrap();
        match told {
            Priority::RealTime => assert_eq!(policy, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK),
            Priority::Nice(value) => assert_eq!((policy, nice), (libc::SCHED_OTHER, value)),
            Priority::Ordinary => assert_eq!((policy, nice), before),
        }
        assert_eq!(scheduling(), before);
    }
}
