//! What is measured: a release edge on the load kit's own configuration, or kamailio in its place.

use anyhow::{Context as _, Result, bail};
use edge_bench::process::Process;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The CPU of the edge or kamailio; SIPp has the other.
pub const CPU: usize = 0;
pub const PEERS_CPU: usize = 1;
/// The edge's media ports, as many as there can be.
pub const PORTS: &str = "10000-60000";
const START: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Edge,
    Kamailio,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::Edge, Kind::Kamailio];

    pub const fn name(self) -> &'static str {
        match self {
            Kind::Edge => "sip-edge",
            Kind::Kamailio => "kamailio",
        }
    }

    /// The first three octets of the addresses of it and its peers, on loopback.
    const fn network(self) -> &'static str {
        match self {
            Kind::Edge => "127.77.0.",
            Kind::Kamailio => "127.77.1.",
        }
    }

    /// The address that ends in `last`: 1 is its own, 2 the carrier's, 3 the platform's, 4 the human's.
    pub fn address(self, last: u8) -> String {
        format!("{}{last}", self.network())
    }
}

/// One that runs. It ends when dropped.
pub struct Subject {
    pub kind: Kind,
    pub process: Process,
    dir: TempDir,
}

impl Subject {
    /// Starts it and waits until it listens.
    pub fn start(kind: Kind) -> Result<Subject> {
        Subject::start_with(kind, |text| text)
    }

    /// The same, with the edge's configuration as `change` leaves it.
    pub fn start_with(kind: Kind, change: impl FnOnce(String) -> String) -> Result<Subject> {
        let dir = tempfile::tempdir()?;
        let log = fs::File::create(dir.path().join("log"))?;
        let process = match kind {
            Kind::Edge => edge(dir.path(), &log, change),
            Kind::Kamailio => kamailio(dir.path(), &log),
        }?;
        let mut subject = Subject { kind, process, dir };
        subject.wait_until_ready()?;
        Ok(subject)
    }

    /// See [`Kind::address`].
    pub fn address(&self, last: u8) -> String {
        self.kind.address(last)
    }

    /// Where SIPp finds room for what it writes.
    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    /// The edge's metrics.
    pub fn metrics(&self) -> Result<String> {
        let address = format!("http://{}:9090/metrics", self.address(1));
        Ok(ureq::get(address).call()?.body_mut().read_to_string()?)
    }

    /// Calls that the edge has at the load's platform; none where it does not say.
    pub fn active(&self) -> u32 {
        let metrics = self.metrics().unwrap_or_default();
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("sip_edge_calls_active{trunk=\"ai\"}"));
        line.and_then(|value| value.trim().parse().ok())
            .unwrap_or(0)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        let place = (self.address(1), 5060);
        while std::net::TcpStream::connect((place.0.as_str(), place.1)).is_err() {
            let over = self.process.ended()?.is_some();
            if over || Instant::now() > deadline {
                let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                bail!("{} does not start:\n{log}", self.kind.name());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// The load kit.
pub fn kit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sipp")
}

/// `staging.toml` at the bench's addresses, on one core, with all the ports there are.
fn edge(dir: &Path, log: &fs::File, change: impl FnOnce(String) -> String) -> Result<Process> {
    let binary = std::env::current_exe()?.with_file_name("sip-edge");
    if !binary.exists() {
        bail!(
            "{} is missing: build sip-edge with the same profile",
            binary.display()
        );
    }
    let cdr = dir.join("cdr.jsonl");
    let text = fs::read_to_string(kit().join("staging.toml"))?
        .replace("127.0.0.", Kind::Edge.network())
        .replace("[edge]\n", &format!("[edge]\ncores = [{CPU}]\n"))
        .replace("10000-30000", PORTS)
        .replace("../../target/staging-cdr.jsonl", &cdr.to_string_lossy());
    let file = dir.join("sip-edge.toml");
    fs::write(&file, change(text))?;
    let program = binary.to_str().context("a path that is no text")?;
    let log = log.try_clone()?;
    let errors = log.try_clone()?;
    Process::start(program, CPU, |command| {
        command.args(["run", "--config"]).arg(&file);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
    })
}

/// A stateful proxy that stays in the dialog and does nothing else: no authentication, no database, no media. One process for
/// TCP, since it has one core.
const KAMAILIO: &str = r#"
debug=0
log_stderror=yes
children=1
tcp_children=1
auto_aliases=no
dns=no
rev_dns=no
listen=tcp:EDGE:5060
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "maxfwd.so"
loadmodule "siputils.so"
loadmodule "textops.so"
request_route {
  if (!mf_process_maxfwd_header("10")) { sl_send_reply("483", "Too Many Hops"); exit; }
  if (is_method("CANCEL")) { if (t_check_trans()) t_relay(); exit; }
  if (has_totag()) {
    if (loose_route()) { t_relay(); exit; }
    if (is_method("ACK")) { if (t_check_trans()) t_relay(); exit; }
    sl_send_reply("404", "Not Here");
    exit;
  }
  t_check_trans();
  if (!is_method("INVITE")) { sl_send_reply("200", "OK"); exit; }
  record_route();
  $du = "sip:PLATFORM:5070;transport=tcp";
  t_relay();
}
"#;

fn kamailio(dir: &Path, log: &fs::File) -> Result<Process> {
    let network = Kind::Kamailio.network();
    let text = KAMAILIO
        .replace("EDGE", &format!("{network}1"))
        .replace("PLATFORM", &format!("{network}3"));
    let file = dir.join("kamailio.cfg");
    fs::write(&file, text)?;
    let log = log.try_clone()?;
    let errors = log.try_clone()?;
    Process::start("kamailio", CPU, |command| {
        // In the foreground; room for every transaction that lingers.
        command.arg("-f").arg(&file);
        command.args(["-DD", "-E", "-m", "1024", "-M", "16"]);
        command.arg("-Y").arg(dir).arg("-w").arg(dir);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
    })
}
