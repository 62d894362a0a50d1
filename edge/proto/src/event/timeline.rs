//! A call's timeline.

use super::LegNumber;
use crate::time::Instant;

/// One line of a call's timeline, `{at, leg, kind, detail, reason}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimelineEntry {
    pub at: Instant,
    pub leg: Option<LegNumber>,
    pub kind: String,
    pub detail: String,
    pub reason: Option<String>,
}
