//! What processes that are dead have left open.

use super::calls::OpenCalls;
use super::{Line, OpenLeg, SLOTS, claimed, early_path, locked, remove_early, slot_path};
use crate::cdr::early;
use crate::cdr::leg::LegId;
use crate::cdr::note::Note;
use crate::cdr::writer::Position;
use edge_proto::id::CoreId;
use jiff::Timestamp;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Longest line that is read.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// Legs without a line in the CDR file, and the journals that told of them.
#[derive(Default, Debug)]
pub struct Crashed {
    /// By call and number, each with the time at which it is taken to have ended.
    pub legs: Vec<(OpenLeg, Timestamp)>,
    /// Those that had ended, each with its line.
    pub ended: Vec<(LegId, String)>,
    /// Where this process can keep its own journal: the first of those read, or a place that nobody used.
    pub place: Option<PathBuf>,
    /// By core, the last of the news in the rings there: `legs` and `ended` hold them.
    pub noted: Vec<u64>,
    /// Removed once the legs are safe elsewhere; until then their locks are held.
    files: Vec<(PathBuf, File)>,
}

impl Crashed {
    /// Reads the journals beside the CDR file `cdr` that no living process holds. What cannot be read is logged and left.
    pub fn find(cdr: &Path) -> Crashed {
        let mut crashed = Crashed::default();
        let mut left = Left::default();
        for slot in 0..SLOTS {
            let path = slot_path(cdr, slot);
            let found = locked(&path).and_then(|file| match file {
                Some(file) => left.add(&path, &file, cdr).map(|noted| Some((file, noted))),
                None => Ok(None),
            });
            match found {
                Ok(Some((file, noted))) => {
                    if crashed.place.is_none() {
                        crashed.place = Some(path.clone());
                        crashed.noted = noted;
                    }
                    crashed.files.push((path, file));
                }
                Ok(None) => {
                    tracing::info!(journal = %path.display(), "another process keeps this journal of open calls");
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if crashed.place.is_none() {
                        crashed.claim(path);
                    }
                }
                Err(error) => {
                    tracing::error!(journal = %path.display(), %error, "a journal of open calls cannot be read");
                }
            }
        }
        crashed.legs = left.open.into_values().collect();
        crashed.ended = left.ended.into_iter().collect();
        crashed
    }

    /// Takes the place at `path`, where there is no journal: an empty one with a lock tells others that start now.
    fn claim(&mut self, path: PathBuf) {
        match claimed(&path) {
            Ok(Some(file)) => {
                // Of a process that was killed while it removed them.
                remove_early(&path);
                self.files.push((path.clone(), file));
                self.place = Some(path);
            }
            Ok(None) => {
                tracing::info!(journal = %path.display(), "another process has just taken this place for its journal of open calls");
            }
            // Whatever stands in the way stands in the way of the journal, which tells it and tries again.
            Err(_) => self.place = Some(path),
        }
    }

    /// Removes the journals; where this process's own is now, the old one is gone already.
    pub fn remove(self) {
        for (path, _lock) in &self.files {
            remove_early(path);
            if self.place.as_ref() != Some(path) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// What a journal and those of its cores leave.
#[derive(Default)]
struct Left {
    open: BTreeMap<LegId, (OpenLeg, Timestamp)>,
    /// With their lines.
    ended: BTreeMap<LegId, String>,
}

impl Left {
    /// Adds what the journal at `path` leaves, unless the CDR file tells it. Gives the last of the news by core.
    fn add(&mut self, path: &Path, journal: &File, cdr: &Path) -> io::Result<Vec<u64>> {
        let modified = journal.metadata()?.modified()?;
        let alive = Timestamp::try_from(modified).unwrap_or(Timestamp::UNIX_EPOCH);
        let mut state = State::read(journal)?;
        state.replay(path)?;
        let State {
            began,
            open,
            mut ended,
            noted,
        } = state;
        let open = open.into_legs();
        let mut open: HashMap<LegId, OpenLeg> = open.map(|leg| (leg.id.clone(), leg)).collect();
        if open.is_empty() && ended.is_empty() {
            return Ok(noted);
        }
        let untold = open.keys().chain(ended.keys()).cloned().collect();
        for id in told(cdr, began, &untold)? {
            open.remove(&id);
            ended.remove(&id);
        }
        // What an earlier place says holds: that is where the others were being moved to, and the rings of these may be gone.
        open.retain(|id, _| !self.holds(id));
        ended.retain(|id, _| !self.holds(id));
        for (id, leg) in open {
            let end = leg.end.unwrap_or(alive);
            self.open.insert(id, (leg, end));
        }
        self.ended.extend(ended);
        Ok(noted)
    }

    fn holds(&self, leg: &LegId) -> bool {
        self.open.contains_key(leg) || self.ended.contains_key(leg)
    }
}

/// What a journal's file says.
#[derive(Default)]
struct State {
    began: Option<Position>,
    open: OpenCalls,
    /// Those that ended without a line in the CDR file, as far as is known, with it.
    ended: HashMap<LegId, String>,
    /// How many of a core's news that holds.
    noted: Vec<u64>,
}

impl State {
    fn read(journal: &File) -> io::Result<State> {
        let mut state = State::default();
        lines(journal, |line| {
            match serde_json::from_slice(line) {
                Ok(Line::Cdr(position)) => state.began = Some(position),
                Ok(Line::Open(legs)) => {
                    let legs: Vec<OpenLeg> = legs;
                    legs.into_iter().for_each(|leg| state.open.replace(leg));
                }
                Ok(Line::Over(leg)) => {
                    state.ended.remove(&leg);
                    state.open.over(&leg);
                }
                Ok(Line::Note(note)) => state.apply(note),
                Ok(Line::Noted { core, count }) => state.note(core, count),
                // The last line, torn.
                Err(_) => {}
            }
        })?;
        Ok(state)
    }

    fn apply(&mut self, note: Note) {
        if let Note::End { leg, line } = &note {
            self.ended.insert(leg.clone(), line.clone());
        }
        self.open.apply(note);
    }

    fn known(&self, core: u8) -> u64 {
        self.noted.get(usize::from(core)).copied().unwrap_or(0)
    }

    /// The first `count` of the core's news are applied.
    fn note(&mut self, core: u8, count: u64) {
        let core = usize::from(core);
        if core >= usize::from(CoreId::MAX_CORES) {
            return;
        }
        if self.noted.len() <= core {
            self.noted.resize(core + 1, 0);
        }
        if let Some(noted) = self.noted.get_mut(core) {
            *noted = count.max(*noted);
        }
    }

    /// Adds what the early journals beside the journal at `path` tell on top of it.
    fn replay(&mut self, path: &Path) -> io::Result<()> {
        for core in 0..CoreId::MAX_CORES {
            let news = match early::read(&early_path(path, core)) {
                Ok(news) => news,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let known = self.known(core);
            for (number, note) in news.into_iter().filter(|(number, _)| *number > known) {
                self.apply(note);
                self.note(core, number);
            }
        }
        Ok(())
    }
}

/// Those of `open` that have a line in the CDR file, which may have been renamed meanwhile.
fn told(cdr: &Path, began: Option<Position>, open: &HashSet<LegId>) -> io::Result<HashSet<LegId>> {
    let mut told = HashSet::new();
    let mut look = |file: &mut File, from: u64| {
        file.seek(SeekFrom::Start(from))?;
        lines(file, |line| {
            if let Ok(id) = serde_json::from_slice::<LegId>(line)
                && open.contains(&id)
            {
                told.insert(id);
            }
        })
    };
    let mut current = None;
    match File::open(cdr) {
        Ok(mut file) => {
            let metadata = file.metadata()?;
            let same = began.filter(|began| began.is_in(&metadata));
            look(&mut file, same.map_or(0, |began| began.length))?;
            current = Some((metadata.dev(), metadata.ino()));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(began) = began
        && current != Some((began.device, began.inode))
        && let Some(mut rotated) = sibling(cdr, began)
    {
        look(&mut rotated, began.length)?;
    }
    Ok(told)
}

/// The file of that identity in the CDR file's directory.
fn sibling(cdr: &Path, position: Position) -> Option<File> {
    let directory = cdr.parent().filter(|p| !p.as_os_str().is_empty());
    let entries = fs::read_dir(directory.unwrap_or(Path::new("."))).ok()?;
    let found = entries
        .flatten()
        .find(|entry| entry.metadata().is_ok_and(|there| position.is_in(&there)))?;
    File::open(found.path()).ok()
}

/// Each whole line of reasonable length.
fn lines(file: &File, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = io::Read::take(&mut reader, MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        if line.pop_if(|b| *b == b'\n').is_some() {
            each(&line);
        }
    }
}
