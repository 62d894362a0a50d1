//! Call detail records: JSON Lines, one line per leg, written once when the leg's media is closed.
//!
//! The file belongs to the operator: it is only ever appended to, one `write` per line, and it can be rotated by renaming
//! it at any time. A full disk holds records back in memory; it never holds back a call. A journal beside it tells the next
//! start which legs a crash left open, so that these get their line, too.

mod early;
mod journal;
mod leg;
mod line;
mod note;
mod records;
mod repair;
pub mod verify;
mod writer;

pub use early::EarlyJournal;
pub use leg::LegId;
pub use line::CdrLine;
pub use records::{Closed, Records};
pub use repair::Repair;
pub use writer::{CdrCounters, CdrError, CdrWriter};
