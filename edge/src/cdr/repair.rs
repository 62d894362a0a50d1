//! A torn last line: what is left when power or the process went during a write.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// No line of ours is longer; more bytes without a newline are not a torn record, and are left where they are.
const MAX_LINE_BYTES: u64 = 1 << 20;
const CHUNK_BYTES: u64 = 64 << 10;

/// What was found at the end of the file, and done about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Repair {
    /// The file is new, empty, or ends with a newline.
    Clean,
    /// The last record was whole and lacked its newline only.
    NewlineAdded,
    /// The last record was cut off: its bytes are now the last line of `to`.
    FragmentMoved { bytes: usize, to: PathBuf },
    /// Bytes without a newline that no record is long enough to explain: ended with a newline, otherwise untouched.
    ForeignTail,
}

/// Makes `file` (open for reading and appending at `path`) end with a whole line. The caller is its only writer.
pub fn repair(file: &File, path: &Path) -> io::Result<Repair> {
    let length = file.metadata()?.len();
    let Some(line_start) = last_line_start(file, length)? else {
        write_all(file, b"\n")?;
        return Ok(Repair::ForeignTail);
    };
    if line_start == length {
        return Ok(Repair::Clean);
    }
    // Shorter than MAX_LINE_BYTES, so it fits any usize.
    let mut tail = vec![0; usize::try_from(length - line_start).unwrap_or(0)];
    file.read_exact_at(&mut tail, line_start)?;
    if serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&tail).is_ok() {
        write_all(file, b"\n")?;
        return Ok(Repair::NewlineAdded);
    }
    let to = beside(path);
    let aside = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(&to)?;
    let bytes = tail.len();
    tail.push(b'\n');
    write_all(&aside, &tail)?;
    aside.sync_data()?;
    // Only now that the fragment is safe elsewhere.
    file.set_len(line_start)?;
    file.sync_data()?;
    Ok(Repair::FragmentMoved { bytes, to })
}

/// `cdr.jsonl` -> `cdr.jsonl.torn`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".torn");
    PathBuf::from(name)
}

fn write_all(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)
}

/// Where the bytes after the last newline start; `length` when the file ends with a newline. `None`: further back than a
/// record can be long.
fn last_line_start(file: &File, length: u64) -> io::Result<Option<u64>> {
    let floor = length.saturating_sub(MAX_LINE_BYTES);
    let mut end = length;
    let mut chunk = Vec::new();
    while end > floor {
        let start = end.saturating_sub(CHUNK_BYTES).max(floor);
        chunk.resize(usize::try_from(end - start).unwrap_or(0), 0);
        file.read_exact_at(&mut chunk, start)?;
        if let Some(newline) = chunk.iter().rposition(|&b| b == b'\n') {
            return Ok(Some(start + newline as u64 + 1));
        }
        end = start;
    }
    Ok((floor == 0).then_some(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn repaired(content: &[u8]) -> (Repair, Vec<u8>, Option<Vec<u8>>) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("cdr.jsonl");
        fs::write(&path, content).expect("writable");
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .open(&path)
            .expect("opens");
        let outcome = repair(&file, &path).expect("repairs");
        // A second start finds nothing left to do.
        assert_eq!(repair(&file, &path).expect("repairs"), Repair::Clean);
        (
            outcome,
            fs::read(&path).expect("readable"),
            fs::read(beside(&path)).ok(),
        )
    }

    #[test]
    fn whole_lines_are_left_alone() {
        assert_eq!(repaired(b""), (Repair::Clean, b"".to_vec(), None));
        let whole = b"{\"a\":1}\n{\"a\":2}\n";
        assert_eq!(repaired(whole), (Repair::Clean, whole.to_vec(), None));
    }

    #[test]
    fn a_whole_record_gets_its_newline() {
        let (outcome, content, aside) = repaired(b"{\"a\":1}\n{\"a\":2}");
        assert_eq!(outcome, Repair::NewlineAdded);
        assert_eq!(content, b"{\"a\":1}\n{\"a\":2}\n");
        assert_eq!(aside, None);
    }

    #[test]
    fn a_fragment_is_moved_aside_whatever_its_length() {
        let record = format!("{{\"a\":\"{}\"}}", "x".repeat(200_000));
        for cut in [1, 2, 7, 70_000, record.len() - 1] {
            let fragment = &record.as_bytes()[..cut];
            let (outcome, content, aside) = repaired(&[b"{\"a\":1}\n", fragment].concat());
            assert!(matches!(outcome, Repair::FragmentMoved { bytes, .. } if bytes == cut));
            assert_eq!(content, b"{\"a\":1}\n");
            assert_eq!(aside, Some([fragment, b"\n"].concat()));
        }
    }

    #[test]
    fn a_fragment_may_be_all_there_is() {
        let (outcome, content, _) = repaired(b"{\"a\":");
        assert!(matches!(outcome, Repair::FragmentMoved { bytes: 5, .. }));
        assert_eq!(content, b"");
    }

    #[test]
    fn what_cannot_be_a_record_is_kept() {
        let foreign = vec![0u8; MAX_LINE_BYTES as usize + 5];
        let (outcome, content, aside) = repaired(&foreign);
        assert_eq!(outcome, Repair::ForeignTail);
        assert_eq!(content.len(), foreign.len() + 1);
        assert_eq!(aside, None);
    }
}
