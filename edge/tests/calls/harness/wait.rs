//! Waiting for a condition with a deadline. The deadline only bounds a failing test; nothing is asserted about time.

use std::time::{Duration, Instant};

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(10);

/// Polls `condition` until it gives a value; panics with `what` after [`PATIENCE`].
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    try_until(PATIENCE, condition).unwrap_or_else(|| panic!("waited in vain: {what}"))
}

/// The same, `None` after `patience`.
pub fn try_until<T>(patience: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::park_timeout(STEP);
    }
}
