use super::*;
use std::fs;
use std::path::PathBuf;

fn counters() -> CdrCounters {
    let counter = |name| IntCounter::new(name, "test").expect("a valid name");
    CdrCounters {
        written: counter("written"),
        lost: counter("lost"),
        write_errors: counter("write_errors"),
        backlog: IntGauge::new("backlog", "test").expect("a valid name"),
    }
}

fn leg() -> LegId {
    LegId {
        call: "00112233445566778899aabbccddeeff".into(),
        leg: 1,
    }
}

fn line(n: usize) -> Vec<u8> {
    format!("{{\"n\":{n}}}\n").into_bytes()
}

fn lines(range: std::ops::Range<usize>) -> Vec<u8> {
    range.flat_map(line).collect()
}

struct Scene {
    dir: tempfile::TempDir,
    counters: CdrCounters,
}

impl Scene {
    fn new() -> Self {
        Scene {
            dir: tempfile::tempdir().expect("a temporary directory"),
            counters: counters(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("cdr.jsonl")
    }

    fn open(&self) -> CdrWriter {
        CdrWriter::open(&self.path(), self.counters.clone()).expect("opens")
    }

    fn content(&self) -> Vec<u8> {
        fs::read(self.path()).expect("readable")
    }
}

#[test]
fn records_are_appended_and_the_file_is_not_for_everyone() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new();
    let mut writer = scene.open();
    writer.append(leg(), line(0));
    drop(writer);
    let mut writer = scene.open();
    writer.append(leg(), line(1));
    assert_eq!(scene.content(), lines(0..2));
    assert_eq!(scene.counters.written.get(), 2);
    let mode = fs::metadata(scene.path())
        .expect("exists")
        .permissions()
        .mode();
    assert_eq!(mode & 0o007, 0, "{mode:o}");
}

#[test]
fn several_records_are_written_together_also_behind_those_held_back() {
    let scene = Scene::new();
    let mut writer = scene.open();
    let several = |range: std::ops::Range<usize>| -> Vec<_> {
        range.map(|n| (leg(), format!("{{\"n\":{n}}}"))).collect()
    };
    let told = |range| {
        let lines = several(range);
        Lines::of(lines.iter().map(|(leg, line)| (leg.clone(), line.as_str())))
    };
    assert_eq!(writer.append_all(&told(0..3)), []);
    assert_eq!(scene.content(), lines(0..3));
    assert_eq!(writer.settled().len(), 3);
    writer.refuse();
    assert_eq!(writer.append_all(&told(3..5)), several(3..5));
    assert_eq!(writer.append_all(&told(5..7)), several(5..7));
    assert_eq!((writer.settled().len(), writer.backlog()), (0, 4));
    drop(writer);
    assert_eq!(scene.counters.lost.get(), 4);
    let mut writer = scene.open();
    assert_eq!(writer.append_all(&told(3..4)), []);
    assert_eq!(writer.append_all(&Lines::default()), []);
    assert_eq!(scene.content(), lines(0..4));
    assert_eq!(scene.counters.written.get(), 4);
}

#[test]
fn a_torn_line_is_repaired_before_the_first_record() {
    let scene = Scene::new();
    fs::write(scene.path(), b"{\"n\":0}\n{\"n\":").expect("writable");
    scene.open().append(leg(), line(1));
    assert_eq!(scene.content(), lines(0..2));
    let aside = fs::read(scene.dir.path().join("cdr.jsonl.torn")).expect("kept");
    assert_eq!(aside, b"{\"n\":\n");
}

#[test]
fn the_end_of_a_file_that_another_process_writes_is_left_alone() {
    let scene = Scene::new();
    let old = scene.open();
    let half = b"{\"n\":".to_vec();
    fs::write(scene.path(), &half).expect("writable");
    let _new = scene.open();
    assert_eq!(scene.content(), half);
    drop(old);
}

#[test]
fn a_wrong_path_is_told_at_the_start() {
    let scene = Scene::new();
    let missing = scene.dir.path().join("missing/cdr.jsonl");
    let error = CdrWriter::open(&missing, counters()).expect_err("no such directory");
    assert!(error.to_string().contains("missing/cdr.jsonl"), "{error}");
    assert!(CdrWriter::open(scene.dir.path(), counters()).is_err());
}

/// `/dev/full` opens and takes nothing: ENOSPC on every write.
#[test]
fn a_full_disk_holds_records_back_and_later_ones_keep_their_order() {
    let scene = Scene::new();
    std::os::unix::fs::symlink("/dev/full", scene.path()).expect("links");
    let mut writer = scene.open();
    for n in 0..5 {
        writer.append(leg(), line(n));
    }
    writer.tick();
    assert_eq!(writer.backlog(), 5);
    assert_eq!(scene.counters.backlog.get(), 5);
    assert_eq!(scene.counters.written.get(), 0);
    assert_eq!(writer.settled(), []);
    assert!(scene.counters.write_errors.get() >= 2);
    // Space again: the operator moves the file to another disk.
    fs::remove_file(scene.path()).expect("removes");
    writer.tick();
    assert_eq!(writer.backlog(), 0);
    assert_eq!(writer.settled(), vec![leg(); 5]);
    writer.append(leg(), line(5));
    assert_eq!(scene.content(), lines(0..6));
    assert_eq!(scene.counters.written.get(), 6);
    assert_eq!(
        (scene.counters.lost.get(), scene.counters.backlog.get()),
        (0, 0)
    );
}

#[test]
fn memory_for_held_back_records_is_bounded() {
    let scene = Scene::new();
    std::os::unix::fs::symlink("/dev/full", scene.path()).expect("links");
    let mut writer = scene.open().with_backlog_limit(line(0).len() * 3);
    for n in 0..10 {
        writer.append(leg(), line(n));
    }
    assert_eq!(writer.backlog(), 3);
    assert_eq!(scene.counters.lost.get(), 7);
    // What cannot be written at the end is counted, too.
    drop(writer);
    assert_eq!(scene.counters.lost.get(), 10);
}

#[test]
fn a_rotated_file_is_left_and_a_new_one_made() {
    let scene = Scene::new();
    let mut writer = scene.open();
    writer.append(leg(), line(0));
    let rotated = scene.dir.path().join("cdr.jsonl.1");
    fs::rename(scene.path(), &rotated).expect("renames");
    writer.append(leg(), line(1));
    writer.tick();
    writer.append(leg(), line(2));
    assert_eq!(fs::read(&rotated).expect("readable"), lines(0..2));
    assert_eq!(scene.content(), line(2));
}

/// The disk fills up within a record: a file size limit does the same to one process, but here a tmpfs of one page does it
/// for one file.
#[test]
fn a_record_that_the_full_disk_cut_is_completed_later() {
    let scene = Scene::new();
    let mount = scene.dir.path().join("small");
    fs::create_dir(&mount).expect("creates");
    let Some(_mounted) = SmallDisk::mount(&mount) else {
        println!("SKIPPED: mounting a tmpfs needs CAP_SYS_ADMIN");
        return;
    };
    let path = mount.join("cdr.jsonl");
    let filler = mount.join("filler");
    let mut writer = CdrWriter::open(&path, scene.counters.clone()).expect("opens");
    fs::write(&filler, vec![0; 8 * 4096]).expect("fits");
    // More than the disk has left: part of a record gets in.
    let long = |n: usize| [vec![b'0' + n as u8; 30_000], b"\n".to_vec()].concat();
    let expected: Vec<u8> = (0..5).flat_map(long).collect();
    writer.append(leg(), long(0));
    // The others at once: what is whole in the file is over, what is not is held back.
    let text = |n| {
        String::from_utf8(long(n))
            .expect("text")
            .trim_end()
            .to_owned()
    };
    let texts: Vec<String> = (1..5).map(text).collect();
    let held = writer.append_all(&Lines::of(texts.iter().map(|text| (leg(), text.as_str()))));
    assert_eq!(held.len(), writer.backlog());
    assert_eq!(writer.settled().len() + writer.backlog(), 5);
    assert!(writer.backlog() > 0);
    let partial = fs::read(&path).expect("readable");
    assert!(!partial.ends_with(b"\n"), "the test wants a torn record");
    assert!(expected.starts_with(&partial));
    let whole = partial
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |n| n + 1);
    let position = writer.position().expect("a file");
    assert_eq!(
        position.length, whole as u64,
        "the cut record is not before it"
    );
    fs::remove_file(&filler).expect("removes");
    SmallDisk::grow(&mount);
    writer.tick();
    assert_eq!(writer.backlog(), 0);
    assert_eq!(fs::read(&path).expect("readable"), expected);
    drop(writer);
}

/// A tmpfs of 16 pages, unmounted in the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        Self::command("mount", &["-t", "tmpfs", "-o", "size=65536", "tmpfs"], at)
            .then(|| SmallDisk(at.to_owned()))
    }

    fn grow(at: &Path) {
        assert!(Self::command("mount", &["-o", "remount,size=1048576"], at));
    }

    fn command(program: &str, arguments: &[&str], at: &Path) -> bool {
        std::process::Command::new(program)
            .args(arguments)
            .arg(at)
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Self::command("umount", &["-l"], &self.0);
    }
}
