//! The daemon under test.

use super::net::Net;
use super::wait;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// What differs between tests' configurations; the rest is the same for all.
pub struct EdgeConfig {
    /// Keys of the AI trunk, TOML lines.
    pub ai: String,
    /// Keys of `[trunk.transfer]` of the AI trunk; empty: no such table.
    pub transfer: String,
    /// Keys of the agents' trunk.
    pub agents: String,
    /// Keys of the carrier's trunk.
    pub carrier: String,
    /// Anything else, at the end of the file.
    pub tail: String,
    /// Keys of `[edge]`.
    pub edge: String,
    /// Keys of `[sip]`.
    pub sip: String,
    /// A media address besides the edge's own, of the other family.
    pub other_media: Option<IpAddr>,
    /// `uri` of the AI trunk, in TOML; `None`: SIPp's place, in TCP. So for the next two.
    pub ai_uri: Option<String>,
    pub agents_uri: Option<String>,
    pub carrier_uri: Option<String>,
    /// Addresses that the agents' trunk allows besides the human's, as items of a TOML list.
    pub agents_allow: String,
    /// Where its call records go; `None`: `cdr.jsonl` in the test's directory.
    pub cdr: Option<PathBuf>,
    /// What is logged, as `SIP_EDGE_LOG` says it.
    pub log: &'static str,
}

const LOG: &str = "info,sip_edge::event=debug,rustls=error";

impl Default for EdgeConfig {
    fn default() -> Self {
        EdgeConfig {
            ai: "auth = \"ip\"\ndigest_algorithms = [\"MD5\"]\nusername = \"trunk-user\"\npassword = \"s3cret\"".into(),
            transfer: "max_transfers = 1\nauth = \"digest\"\nvia = \"agents\"\ntargets = [\"+1234567890\"]".into(),
            agents: "[trunk.present]\nusername = \"edge\"\npassword = \"agents-s3cret\"".into(),
            carrier: String::new(),
            tail: String::new(),
            edge: "cores = [0]\ndomains = [\"edge.example.net\"]".into(),
            sip: String::new(),
            other_media: None,
            ai_uri: None,
            agents_uri: None,
            carrier_uri: None,
            agents_allow: String::new(),
            cdr: None,
            log: LOG,
        }
    }
}

impl EdgeConfig {
    fn toml(&self, net: &Net, dir: &Path) -> String {
        [self.places(net, dir), self.trunks(net)].concat()
    }

    fn cdr_in(&self, dir: &Path) -> PathBuf {
        let usual = || dir.join("cdr.jsonl");
        self.cdr.clone().unwrap_or_else(usual)
    }

    /// Where the edge itself is.
    fn places(&self, net: &Net, dir: &Path) -> String {
        let media = [Some(net.edge), self.other_media];
        let media: Vec<String> = media
            .iter()
            .flatten()
            .map(|ip| format!("\"{ip}\""))
            .collect();
        // How slow this machine is at the moment is what few tests are about.
        let overload = match self.sip.contains("overload_ms") {
            true => "",
            false => "overload_ms = 0\n",
        };
        format!(
            r#"[edge]
{edge_keys}

[sip]
{overload}{sip}

[[listen]]
name = "public"
transport = "tcp"
address = "{edge}:5060"

[media]
addresses = [{media}]
ports = "20000-29999"

[admin]
address = "{edge}:9090"
token_file = "{dir}/token"

[cdr]
path = "{cdr}"
"#,
            edge_keys = self.edge,
            sip = self.sip,
            edge = Net::host(net.edge),
            media = media.join(", "),
            dir = dir.display(),
            cdr = self.cdr_in(dir).display(),
        )
    }

    /// Its peers, and the way of calls between them.
    fn trunks(&self, net: &Net) -> String {
        let mask = if net.edge.is_ipv4() { 32 } else { 128 };
        let transfer = if self.transfer.is_empty() {
            String::new()
        } else {
            format!("[trunk.transfer]\n{}\n", self.transfer)
        };
        let uri = |own: &Option<String>, peer: IpAddr, port: u16| {
            let usual = || format!("\"sip:{}:{port};transport=tcp\"", Net::host(peer));
            own.clone().unwrap_or_else(usual)
        };
        format!(
            r#"
[[trunk]]
name = "carrier"
allow = ["{carrier_ip}/{mask}"]
uri = {carrier_uri}
{carrier_keys}

[[trunk]]
name = "ai"
allow = ["{ai_ip}/{mask}"]
uri = {ai_uri}
{ai_keys}
{transfer}
[[trunk]]
name = "agents"
allow = ["{human_ip}/{mask}", {agents_allow}]
uri = {agents_uri}
{agents_keys}

[[route]]
from = "carrier"
number = "+1999*"
to = "ai"

[[route]]
from = "ai"
number = "+44*"
to = "carrier"
{tail}
"#,
            carrier_ip = net.carrier,
            ai_ip = net.ai,
            human_ip = net.human,
            carrier_uri = uri(&self.carrier_uri, net.carrier, 5060),
            ai_uri = uri(&self.ai_uri, net.ai, 5070),
            agents_uri = uri(&self.agents_uri, net.human, 5080),
            agents_allow = self.agents_allow,
            carrier_keys = self.carrier,
            ai_keys = self.ai,
            agents_keys = self.agents,
            tail = self.tail,
        )
    }
}

/// A running daemon. It is killed when dropped, if it was started here.
pub struct Edge {
    child: Option<Child>,
    dir: PathBuf,
    cdr: PathBuf,
    token: PathBuf,
    pub sip: SocketAddr,
    admin: String,
}

impl Edge {
    /// Starts it with its files in `dir` and waits until it is ready.
    pub fn start(net: &Net, dir: &Path, config: &EdgeConfig) -> Edge {
        let file = dir.join("sip-edge.toml");
        fs::write(&file, config.toml(net, dir)).expect("the configuration is written");
        let (cdr, token) = (config.cdr_in(dir), dir.join("token"));
        Edge::run_logging(net, dir, &file, (cdr, token), config.log)
    }

    /// Starts it with a configuration file that exists and that names these files for CDRs and the admin token.
    pub fn run(net: &Net, dir: &Path, file: &Path, cdr: PathBuf, token: PathBuf) -> Edge {
        Edge::run_logging(net, dir, file, (cdr, token), LOG)
    }

    fn run_logging(
        net: &Net,
        dir: &Path,
        file: &Path,
        (cdr, token): (PathBuf, PathBuf),
        filter: &str,
    ) -> Edge {
        let log = fs::File::create(dir.join("edge.log")).expect("a log file");
        let child = Command::new(binary())
            .current_dir(dir)
            .args(["run", "--config"])
            .arg(file)
            .env("SIP_EDGE_LOG", filter)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        let mut edge = Edge::attach(net, dir, cdr, token);
        edge.child = Some(child);
        edge.wait_until_ready();
        edge
    }

    /// One that somebody else started, such as the service manager, with these files.
    pub fn attach(net: &Net, dir: &Path, cdr: PathBuf, token: PathBuf) -> Edge {
        Edge {
            child: None,
            dir: dir.to_owned(),
            cdr,
            token,
            sip: SocketAddr::new(net.edge, 5060),
            admin: format!("http://{}:9090", Net::host(net.edge)),
        }
    }

    fn wait_until_ready(&mut self) {
        let ready = wait::try_until(wait::PATIENCE, || {
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                panic!("the daemon ended with {status}:\n{}", self.log());
            }
            self.try_get("/readyz").ok()
        });
        assert!(ready.is_some(), "not ready:\n{}", self.log());
    }

    /// Of a daemon that was started here.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("started here").id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process"), signal).expect("the edge lives");
    }

    /// Waits for its end.
    pub fn ends(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("started here");
        let status = wait::try_until(2 * wait::PATIENCE, || child.try_wait().expect("a child"));
        status.unwrap_or_else(|| panic!("the daemon does not end:\n{}", self.log()))
    }

    /// Asks it by its own command line.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let output = Command::new(binary())
            .args(["ctl", "--admin", &self.admin, "--token-file"])
            .arg(&self.token)
            .args(arguments)
            .output()
            .expect("the command runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What `cdr verify` says about the CDR file.
    pub fn verdict(&self) -> String {
        let output = Command::new(binary())
            .args(["cdr", "verify"])
            .arg(&self.cdr)
            .output()
            .expect("the command runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("edge.log")).unwrap_or_default()
    }

    /// Waits for a log line; events are logged down to connections and messages.
    pub fn until_logged(&self, text: &str) {
        wait::until(&format!("{text:?} in the log"), || {
            self.log().contains(text).then_some(())
        });
    }

    /// A GET on the admin API, as JSON or text.
    pub fn get(&self, path: &str) -> String {
        self.try_get(path)
            .unwrap_or_else(|fault| panic!("GET {path}: {fault}\n{}", self.log()))
    }

    fn try_get(&self, path: &str) -> Result<String, ureq::Error> {
        // Off loopback, as in a network namespace, everything needs the token.
        let token = fs::read_to_string(&self.token).unwrap_or_default();
        ureq::get(format!("{}{path}", self.admin))
            .header("Authorization", format!("Bearer {}", token.trim()))
            .call()?
            .body_mut()
            .read_to_string()
    }

    /// The HTTP status of `/readyz`.
    pub fn readiness(&self) -> u16 {
        match self.try_get("/readyz") {
            Ok(_) => 200,
            Err(ureq::Error::StatusCode(status)) => status,
            Err(fault) => panic!("GET /readyz: {fault}"),
        }
    }

    /// Where the admin API is.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// Where the token for it is.
    pub fn token_file(&self) -> &Path {
        &self.token
    }

    pub fn metrics(&self) -> String {
        self.get("/metrics")
    }

    /// The value of a metric line that starts with `series`, e.g. `sip_edge_calls_active{trunk="ai"}`.
    pub fn metric(&self, series: &str) -> Option<f64> {
        self.metrics()
            .lines()
            .find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// Waits until `series` has that value: what happened is reported a moment after peers have seen it.
    pub fn counts(&self, series: &str, value: f64) {
        wait::until(&format!("{series} is {value}"), || {
            (self.metric(series) == Some(value)).then_some(())
        });
    }

    /// Reloads that were applied so far.
    pub fn reloads(&self) -> usize {
        let applied = self.metric("sip_edge_reloads_total{result=\"applied\"}");
        applied.unwrap_or(0.0) as usize
    }

    /// Has it read its configuration again by the API, which answers when the new one is in force.
    pub fn reload(&self) {
        let token = fs::read_to_string(&self.token).expect("a token");
        ureq::post(format!("{}/v1/reload", self.admin))
            .header("Authorization", format!("Bearer {}", token.trim()))
            .send_empty()
            .expect("the reload is applied");
    }

    /// The configuration file of [`Edge::start`].
    pub fn file(&self) -> PathBuf {
        self.dir.join("sip-edge.toml")
    }

    /// The whole CDR lines so far: one may be under way.
    pub fn cdr(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(&self.cdr).unwrap_or_default();
        let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
        whole
            .lines()
            .map(|line| serde_json::from_str(line).expect("a CDR line is JSON"))
            .collect()
    }

    /// Waits for `count` CDR lines.
    pub fn cdrs(&self, count: usize) -> Vec<serde_json::Value> {
        wait::until(&format!("{count} CDR lines"), || {
            Some(self.cdr()).filter(|lines| lines.len() >= count)
        })
    }

    /// The timeline of a call, as `kind detail reason` lines.
    pub fn timeline(&self, call: &str) -> Vec<String> {
        let call: serde_json::Value =
            serde_json::from_str(&self.get(&format!("/v1/calls/{call}"))).expect("JSON");
        let text = |entry: &serde_json::Value, key: &str| {
            entry[key].as_str().unwrap_or_default().to_owned()
        };
        call["timeline"]
            .as_array()
            .expect("a timeline")
            .iter()
            .map(|entry| {
                format!(
                    "{} {} {}",
                    text(entry, "kind"),
                    text(entry, "detail"),
                    text(entry, "reason")
                )
            })
            .collect()
    }
}

/// The daemon's binary: named by cargo to tests, next to the examples otherwise.
fn binary() -> PathBuf {
    if let Some(path) = option_env!("CARGO_BIN_EXE_sip-edge") {
        return path.into();
    }
    let own = std::env::current_exe().expect("this program has a path");
    let target = own
        .ancestors()
        .nth(2)
        .expect("examples are in the target directory");
    target.join("sip-edge")
}

impl Drop for Edge {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child
            && matches!(child.try_wait(), Ok(None))
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
