//! A staging edge and the load kit (`bench/sipp`), as an operator runs it: `run` against an edge with the kit's own `staging.toml`,
//! moved to the test's addresses.

use super::{Edge, Net, have_sipp, wait};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use tempfile::TempDir;

/// Where the kit is.
pub fn kit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/sipp")
}

/// An edge as `staging.toml` describes it.
pub struct Staging {
    pub edge: Edge,
    pub net: Net,
    pub dir: TempDir,
}

impl Staging {
    /// With the text of `staging.toml`, already moved to the addresses of the test's network, as `change` leaves it. `None`, said
    /// aloud, where SIPp is missing.
    pub fn start(change: impl Fn(String) -> String) -> Option<Staging> {
        if !have_sipp() {
            return None;
        }
        let net = Net::v4();
        let dir = TempDir::new().expect("a directory");
        let text = fs::read_to_string(kit().join("staging.toml")).expect("readable");
        let cdr = dir.path().join("cdr.jsonl");
        let text = text
            .replace("127.0.0.", &prefix(&net))
            .replace("../../target/staging-cdr.jsonl", &cdr.to_string_lossy())
            // How slow this machine is at the moment is not what is tested.
            .replace("[edge]\n", "[sip]\noverload_ms = 0\n\n[edge]\n");
        let file = dir.path().join("staging.toml");
        fs::write(&file, change(text)).expect("writable");
        let token = dir.path().join("admin.token");
        let edge = Edge::run(&net, dir.path(), &file, cdr, token);
        Some(Staging { edge, net, dir })
    }

    /// Another address of the test's network.
    pub fn host(&self, last: u8) -> String {
        format!("{}{last}", prefix(&self.net))
    }

    /// Plays a scenario with these variables; every call of every party went as it says. Gives the scenario files used.
    pub fn plays(&self, scenario: &str, variables: &[(&str, &str)]) -> BTreeSet<String> {
        self.plays_meanwhile(scenario, variables, || {})
    }

    /// The same; `meanwhile` is done again and again until the end.
    pub fn plays_meanwhile(
        &self,
        scenario: &str,
        variables: &[(&str, &str)],
        mut meanwhile: impl FnMut(),
    ) -> BTreeSet<String> {
        let mut play = self.play(scenario, variables);
        play.until(&mut meanwhile);
        play.passed()
    }

    /// Begins to play a scenario with these variables.
    pub fn play(&self, scenario: &str, variables: &[(&str, &str)]) -> Play {
        let out = tempfile::Builder::new()
            .prefix("run.")
            .suffix(".out")
            .tempfile_in(self.dir.path())
            .expect("a file");
        let (output, out) = out.keep().expect("it stays");
        let run = Command::new(kit().join("run"))
            .arg(scenario)
            .env("TMPDIR", self.dir.path())
            .env("EDGE", self.edge.sip.to_string())
            .env("CARRIER", self.net.carrier.to_string())
            .env("PLATFORM", self.net.ai.to_string())
            .env("HUMAN", self.net.human.to_string())
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .expect("the kit's script starts");
        Play {
            scenario: scenario.to_owned(),
            run,
            out,
        }
    }

    /// Waits for `legs` CDR lines; how many have which trunk and cause.
    pub fn outcomes(&self, legs: usize) -> BTreeMap<(String, String), usize> {
        let lines = self.edge.cdrs(legs);
        assert_eq!(lines.len(), legs);
        let text =
            |line: &serde_json::Value, key: &str| line[key].as_str().expect("a text").to_owned();
        let mut outcomes = BTreeMap::new();
        for line in &lines {
            *outcomes
                .entry((text(line, "trunk"), text(line, "cause")))
                .or_default() += 1;
        }
        outcomes
    }
}

/// A scenario that is being played. Its parties are ended when it is dropped.
pub struct Play {
    scenario: String,
    run: Child,
    out: PathBuf,
}

impl Play {
    /// Until its end, or until patience is over; `meanwhile` is done again and again.
    pub fn until(&mut self, mut meanwhile: impl FnMut()) -> Option<ExitStatus> {
        wait::try_until(5 * wait::PATIENCE, || {
            meanwhile();
            self.run.try_wait().expect("it can be waited for")
        })
    }

    /// Waits for its end; every call of every party went as the scenario says. Gives the scenario files used.
    pub fn passed(mut self) -> BTreeSet<String> {
        let status = self.until(|| {});
        let told = fs::read_to_string(&self.out).unwrap_or_default();
        assert!(
            status.is_some_and(|status| status.success()),
            "{}: {status:?}\n{told}",
            self.scenario
        );
        let results = told.lines().find_map(|l| l.strip_prefix("results are in "));
        let results = fs::read_dir(results.expect("the directory is named")).expect("there");
        results
            .filter_map(|file| file.ok()?.file_name().into_string().ok())
            .filter_map(|name| Some(name.strip_suffix(".out")?.to_owned()))
            .collect()
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        if matches!(self.run.try_wait(), Ok(None)) {
            // It ends its parties.
            let pid = i32::try_from(self.run.id()).ok().and_then(Pid::from_raw);
            let _ = kill_process(pid.expect("a process"), Signal::TERM);
            let _ = self.run.wait();
        }
    }
}

/// What the addresses of a test's network begin with.
fn prefix(net: &Net) -> String {
    let own = net.edge.to_string();
    let prefix = own.strip_suffix('1').expect("the first of its network");
    prefix.to_owned()
}
