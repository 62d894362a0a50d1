//! A disk that is really full: a small tmpfs, mounted where only the test and its edge see it, holds the call records. Calls go
//! on, and once there is room each has its records.

use crate::harness::{Edge, EdgeConfig, Net, have_sipp, wait};
use crate::load::{Party, host};
use crate::netns::attempt;
use rustix::process::Signal;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::Value;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Smaller than the early journal of a core, which therefore cannot be made.
const SMALL: &str = "900k";
/// Room for the early journal of a core, and little more.
const MEDIUM: &str = "5m";

/// A file system of a given size that is gone with the test.
struct Disk(PathBuf);

impl Disk {
    /// `None`, said aloud, without the privilege.
    fn mount(dir: &Path, size: &str) -> Option<Disk> {
        let at = dir.join("disk");
        fs::create_dir(&at).expect("a directory");
        // SAFETY: NEWNS does not touch the table of file descriptors.
        let own = unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.is_ok();
        let options = format!("-t tmpfs -o size={size} tmpfs {}", at.display());
        if !own || !attempt("mount", "--make-rprivate /").0 || !attempt("mount", &options).0 {
            eprintln!("SKIPPED: no privilege to mount a file system");
            return None;
        }
        Some(Disk(at))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Until nothing can be written any more.
    fn fill(&self) {
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(self.filler())
            .expect("a file");
        let full = std::iter::repeat_with(|| file.write_all(&[0; 4096])).find_map(Result::err);
        let full = full.expect("ends some time");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).expect("it was full");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let (unmounted, fault) = attempt("umount", &format!("--lazy {}", self.0.display()));
        if !unmounted {
            eprintln!("umount: {fault}");
        }
    }
}

/// An edge whose records go to a disk of their own.
struct Site {
    // Unmounted before the directory is removed.
    disk: Disk,
    net: Net,
    config: EdgeConfig,
    dir: TempDir,
}

impl Site {
    fn with(size: &str) -> Option<Site> {
        if !have_sipp() {
            return None;
        }
        let dir = TempDir::new().expect("a directory");
        let disk = Disk::mount(dir.path(), size)?;
        let config = EdgeConfig {
            transfer: "max_transfers = 1\nauth = \"dialog\"\nvia = \"agents\"\ntargets = [\"+1234567890\"]".into(),
            agents: String::new(),
            cdr: Some(disk.0.join("cdr.jsonl")),
            ..EdgeConfig::default()
        };
        Some(Site {
            disk,
            net: Net::v4(),
            config,
            dir,
        })
    }

    fn edge(&self) -> Edge {
        Edge::start(&self.net, self.dir.path(), &self.config)
    }

    /// Begins calls with transfers, 20 a second, each of a second or so.
    fn calls(&self, edge: &Edge, count: usize) -> Calls {
        let (dir, count) = (self.dir.path(), count.to_string());
        let answers = |scenario, ip, port| {
            let extra = ["-d", "500", "-m", &count];
            Party::start(dir, scenario, (&host(ip), port), &extra)
        };
        Calls {
            agent: answers("transfer-agent", self.net.ai, 5070),
            human: answers("human", self.net.human, 5080),
            caller: Party::start(
                dir,
                "transfer-caller",
                (&host(self.net.carrier), 5062),
                &[&edge.sip.to_string(), "-r", "20", "-m", &count],
            ),
        }
    }
}

/// Calls under way.
struct Calls {
    caller: Party,
    agent: Party,
    human: Party,
}

impl Calls {
    /// Each was transferred and ended as it should.
    fn pass(mut self) {
        for party in [&mut self.caller, &mut self.agent, &mut self.human] {
            party.passes();
        }
    }

    /// Waits until that many were answered.
    fn answered(&self, count: usize) {
        wait::until("calls are answered", || {
            (self.caller.answered().len() >= count).then_some(())
        });
    }
}

fn backlog(edge: &Edge) -> f64 {
    edge.metric("sip_edge_cdr_backlog_records")
        .expect("exported")
}

/// The full disk is told by metric, log and readiness, and calls are still taken.
fn is_told(edge: &Edge) {
    assert!(backlog(edge) > 0.0, "{}", edge.metrics());
    let errors = edge.metric("sip_edge_cdr_write_errors_total");
    assert!(errors > Some(0.0), "{}", edge.metrics());
    edge.until_logged("the CDR file cannot be written: records are held in memory");
    let ready: Value = serde_json::from_str(&edge.get("/readyz")).expect("JSON");
    assert_eq!(ready["ready"], true, "{ready}");
    let problem = ready["problems"][0].as_str().unwrap_or_default();
    assert!(problem.starts_with("cdr: "), "{ready}");
}

/// Once there is room, each of so many transferred calls has its three lines, each told as the call was.
fn is_recorded(edge: &Edge, calls: usize) {
    let lines = edge.cdrs(3 * calls);
    assert_eq!(lines.len(), 3 * calls);
    let odd = lines.iter().find(|line| line["cause"] != "completed");
    assert!(odd.is_none(), "{odd:#?}");
    assert!(
        edge.verdict().ends_with("nothing wrong\n"),
        "{}",
        edge.verdict()
    );
    wait::until("nothing waits any more", || {
        (backlog(edge) == 0.0).then_some(())
    });
    let ready: Value = serde_json::from_str(&edge.get("/readyz")).expect("JSON");
    assert_eq!(ready["problems"], serde_json::json!([]));
    let lost = edge.metric("sip_edge_cdr_records_total{outcome=\"lost\"}");
    assert_eq!(lost, Some(0.0), "{}", edge.metrics());
}

#[test]
fn calls_go_on_while_the_disk_is_full_and_have_their_records_once_there_is_room() {
    let Some(site) = Site::with(SMALL) else {
        return;
    };
    let edge = site.edge();
    site.calls(&edge, 5).pass();
    edge.cdrs(15);
    site.disk.fill();
    site.calls(&edge, 60).pass();
    is_told(&edge);
    // Room comes while calls are under way.
    let calls = site.calls(&edge, 60);
    calls.answered(30);
    site.disk.make_room();
    calls.pass();
    edge.until_logged("the CDR file can be written again");
    is_recorded(&edge, 125);
    // And it may fill up again.
    site.disk.fill();
    site.calls(&edge, 20).pass();
    site.disk.make_room();
    is_recorded(&edge, 145);
}

#[test]
fn a_kill_on_a_full_disk_loses_no_record() {
    let Some(site) = Site::with(MEDIUM) else {
        return;
    };
    let edge = site.edge();
    site.disk.fill();
    site.calls(&edge, 40).pass();
    is_told(&edge);
    let told = fs::read_to_string(site.config.cdr.as_ref().expect("named")).expect("readable");
    // SIGKILL.
    drop(edge);
    // It starts on a disk that is full still.
    let edge = site.edge();
    site.calls(&edge, 20).pass();
    is_told(&edge);
    site.disk.make_room();
    is_recorded(&edge, 60);
    println!(
        "{} lines were in the file at the kill",
        told.lines().count()
    );
}

#[test]
fn calls_that_a_kill_on_a_full_disk_ends_are_told_once_there_is_room() {
    let Some(site) = Site::with(MEDIUM) else {
        return;
    };
    let edge = site.edge();
    site.disk.fill();
    let calls = site.calls(&edge, 60);
    calls.answered(40);
    let answered = calls.caller.answered();
    drop(edge);
    drop(calls);
    let edge = site.edge();
    site.disk.make_room();
    wait::until("every answered call is told", || {
        let lines = edge.cdr();
        let is_told = |id: &String| {
            let caller = lines
                .iter()
                .find(|line| line["leg"] == 1 && line["sip_call_id"] == **id);
            let legs = |call: &Value| lines.iter().filter(|line| line["call"] == *call).count();
            caller.is_some_and(|line| legs(&line["call"]) >= 2)
        };
        answered.iter().all(is_told).then_some(())
    });
    let restarts = edge
        .cdr()
        .iter()
        .filter(|l| l["cause"] == "edge_restart")
        .count();
    assert!(restarts > 0, "no call was under way");
    assert!(
        edge.verdict().ends_with("nothing wrong\n"),
        "{}",
        edge.verdict()
    );
}

#[test]
fn an_edge_that_is_stopped_on_a_full_disk_leaves_its_records_to_the_next() {
    let Some(site) = Site::with(MEDIUM) else {
        return;
    };
    let mut edge = site.edge();
    site.disk.fill();
    site.calls(&edge, 40).pass();
    is_told(&edge);
    edge.signal(Signal::TERM);
    assert!(edge.ends().success(), "{}", edge.log());
    site.disk.make_room();
    let edge = site.edge();
    is_recorded(&edge, 40);
}
