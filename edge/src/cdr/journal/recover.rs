//! What processes that are dead have left open.

use super::{Line, OpenLeg, SLOTS, locked, slot_path};
use crate::cdr::leg::LegId;
use crate::cdr::writer::Position;
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
    /// Where this process can keep its own journal: the first of those read, or a place that nobody used.
    pub place: Option<PathBuf>,
    /// Removed once the legs are safe elsewhere; until then their locks are held.
    files: Vec<(PathBuf, File)>,
}

impl Crashed {
    /// Reads the journals beside the CDR file `cdr` that no living process holds. What cannot be read is logged and left.
    pub fn find(cdr: &Path) -> Crashed {
        let mut crashed = Crashed::default();
        let mut open = BTreeMap::new();
        for slot in 0..SLOTS {
            let path = slot_path(cdr, slot);
            let found = locked(&path).and_then(|file| match file {
                Some(file) => read(&file, cdr, &mut open).map(|()| Some(file)),
                None => Ok(None),
            });
            match found {
                Ok(Some(file)) => {
                    crashed.place.get_or_insert(path.clone());
                    crashed.files.push((path, file));
                }
                Ok(None) => {
                    tracing::info!(journal = %path.display(), "another process keeps this journal of open calls");
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    crashed.place.get_or_insert(path);
                }
                Err(error) => {
                    tracing::error!(journal = %path.display(), %error, "a journal of open calls cannot be read");
                }
            }
        }
        crashed.legs = open.into_values().collect();
        crashed
    }

    /// Removes the journals; where this process's own is now, the old one is gone already.
    pub fn remove(self) {
        for (path, _lock) in &self.files {
            if self.place.as_ref() != Some(path) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Adds the legs that the journal leaves open and that the CDR file does not tell.
fn read(
    journal: &File,
    cdr: &Path,
    all: &mut BTreeMap<LegId, (OpenLeg, Timestamp)>,
) -> io::Result<()> {
    let alive =
        Timestamp::try_from(journal.metadata()?.modified()?).unwrap_or(Timestamp::UNIX_EPOCH);
    let mut open: HashMap<LegId, OpenLeg> = HashMap::new();
    let mut began = None;
    lines(journal, |line| match serde_json::from_slice(line) {
        Ok(Line::Cdr(position)) => began = Some(position),
        Ok(Line::Open(legs)) => {
            let legs: Vec<OpenLeg> = legs;
            open.extend(legs.into_iter().map(|leg| (leg.id.clone(), leg)));
        }
        Ok(Line::Over(leg)) => {
            open.remove(&leg);
        }
        // The last line, torn.
        Err(_) => {}
    })?;
    if open.is_empty() {
        return Ok(());
    }
    for id in told(cdr, began, &open)? {
        open.remove(&id);
    }
    for (id, leg) in open {
        let end = leg.end.unwrap_or(alive);
        all.insert(id, (leg, end));
    }
    Ok(())
}

/// Those of `open` that have a line in the CDR file, which may have been renamed meanwhile.
fn told(
    cdr: &Path,
    began: Option<Position>,
    open: &HashMap<LegId, OpenLeg>,
) -> io::Result<HashSet<LegId>> {
    let mut told = HashSet::new();
    let mut look = |file: &mut File, from: u64| {
        file.seek(SeekFrom::Start(from))?;
        lines(file, |line| {
            if let Ok(id) = serde_json::from_slice::<LegId>(line)
                && open.contains_key(&id)
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
