//! One SIPp process.

use super::scenario::Scenario;
use super::wait;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// A running SIPp with one call. It is killed when dropped.
pub struct Sipp {
    name: String,
    local: SocketAddr,
    child: Child,
    messages: PathBuf,
    errors: PathBuf,
}

impl Sipp {
    /// Starts `scenario` at `local`. With `remote` it calls; without it waits to be called. `extra`: further arguments.
    pub fn start(
        dir: &Path,
        name: &str,
        scenario: &Scenario,
        local: SocketAddr,
        remote: Option<SocketAddr>,
        extra: &[&str],
    ) -> Sipp {
        let file = dir.join(format!("{name}.xml"));
        fs::write(&file, scenario.xml(name)).expect("the scenario is written");
        let messages = dir.join(format!("{name}.messages"));
        let errors = dir.join(format!("{name}.errors"));
        let output = fs::File::create(dir.join(format!("{name}.out"))).expect("an output file");
        let mut command = Command::new("sipp");
        if let Some(remote) = remote {
            command.arg(remote.to_string());
        }
        command
            .args(["-sf"])
            .arg(&file)
            .args([
                "-i",
                &bracketed(local.ip()),
                "-p",
                &local.port().to_string(),
            ])
            .args([
                "-t", "t1", "-m", "1", "-l", "1", "-r", "1", "-nostdin", "-nd",
            ])
            .args([
                "-timeout",
                "60s",
                "-timeout_error",
                "-trace_msg",
                "-message_file",
            ])
            .arg(&messages)
            .args(["-trace_err", "-error_file"])
            .arg(&errors)
            .args(["-mp", "0"])
            .args(extra)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output);
        let child = command.spawn().expect("sipp starts");
        Sipp {
            name: name.to_owned(),
            local,
            child,
            messages,
            errors,
        }
    }

    /// Waits until its TCP port accepts connections.
    pub fn listening(self, local: SocketAddr) -> Sipp {
        wait::until(&format!("{} listens", self.name), || {
            is_listening(local).then_some(())
        });
        self
    }

    /// All messages so far, as SIPp traced them.
    pub fn trace(&self) -> String {
        fs::read_to_string(&self.messages).unwrap_or_default()
    }

    /// Messages received so far, in order.
    pub fn received(&self) -> Vec<String> {
        self.blocks("message received")
    }

    /// Messages sent so far, in order.
    pub fn sent(&self) -> Vec<String> {
        self.blocks("message sent")
    }

    fn blocks(&self, kind: &str) -> Vec<String> {
        let trace = self.trace();
        trace
            .split("-----------------------------------------------")
            .filter_map(|block| {
                let (head, message) = block.split_once("bytes")?;
                head.contains(kind).then(|| {
                    message
                        .trim_start_matches([' ', ')', ':', '\n', '\r'])
                        .to_owned()
                })
            })
            .collect()
    }

    /// Gives the party its cue: it goes on behind [`Scenario::await_cue`]. Waits until it has sent or received a message that
    /// starts with `after`, the last one before the cue.
    pub fn cue(&self, after: &str) {
        self.cue_after(after, 1);
    }

    /// The same, behind the `count`th such message.
    pub fn cue_after(&self, after: &str, count: usize) {
        let message = wait::until(&format!("{} comes to {after}", self.name), || {
            let seen = [self.sent(), self.received()].concat();
            let mut such = seen.into_iter().filter(|m| m.starts_with(after));
            such.nth(count - 1)
        });
        let header = |name: &str| {
            let line = message.lines().find(|line| line.starts_with(name));
            line.unwrap_or_else(|| panic!("no {name} in {message}"))
                .trim()
        };
        // A request over a connection of its own, which SIPp takes for one of the call. With the call's own names, since a
        // scenario may copy headers from what came last.
        let cue = format!(
            "INFO sip:cue SIP/2.0\r\nVia: SIP/2.0/TCP cue;branch=z9hG4bKcue\r\n{}\r\n{}\r\n{}\r\nCSeq: 1 INFO\r\nContent-Length: 0\r\n\r\n",
            header("From:"),
            header("To:"),
            header("Call-ID:"),
        );
        let mut connection = TcpStream::connect(self.local).expect("SIPp listens");
        connection.write_all(cue.as_bytes()).expect("SIPp reads");
    }

    /// Waits for a received message that `matches`, and gives it.
    pub fn until_received(&self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        wait::until(&format!("{} receives {what}", self.name), || {
            self.received().into_iter().find(|message| matches(message))
        })
    }

    /// Where the last SDP it received wants media.
    pub fn remote_media(&self) -> SocketAddr {
        wait::until(&format!("{} receives SDP", self.name), || {
            self.received()
                .iter()
                .rev()
                .find_map(|message| media_of(message))
        })
    }

    /// Waits for it to end.
    pub fn finish(&mut self) -> ExitStatus {
        let name = self.name.clone();
        let status = wait::try_until(2 * wait::PATIENCE, || {
            self.child.try_wait().expect("sipp can be waited for")
        });
        status.unwrap_or_else(|| panic!("{name} does not end:\n{}", self.trace()))
    }

    /// Waits for it to end well: every message as the scenario says.
    pub fn passes(&mut self) {
        let status = self.finish();
        if status.code() != Some(0) {
            let errors = fs::read_to_string(&self.errors).unwrap_or_default();
            panic!(
                "{} ends with {status}:\n{errors}\n--- messages:\n{}",
                self.name,
                self.trace()
            );
        }
    }
}

impl Drop for Sipp {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn bracketed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// Address and port of the audio stream in a message's SDP.
pub fn media_of(message: &str) -> Option<SocketAddr> {
    let line = |prefix: &str| message.lines().find_map(|l| l.trim().strip_prefix(prefix));
    let ip = line("c=IN IP4 ").or_else(|| line("c=IN IP6 "))?;
    let port = line("m=audio ")?.split(' ').next()?;
    Some(SocketAddr::new(ip.trim().parse().ok()?, port.parse().ok()?))
}

/// Whether some socket of this network namespace listens there, as the kernel's table says; nothing is connected for it.
pub fn is_listening(local: SocketAddr) -> bool {
    let table = match local.ip() {
        IpAddr::V4(_) => "/proc/thread-self/net/tcp",
        IpAddr::V6(_) => "/proc/thread-self/net/tcp6",
    };
    let address = match local.ip() {
        IpAddr::V4(ip) => format!("{:08X}", u32::from_ne_bytes(ip.octets())),
        IpAddr::V6(ip) => ip
            .octets()
            .chunks(4)
            .map(|word| {
                let word: [u8; 4] = word.try_into().unwrap_or_default();
                format!("{:08X}", u32::from_ne_bytes(word))
            })
            .collect(),
    };
    let wanted = format!("{address}:{:04X}", local.port());
    fs::read_to_string(table).is_ok_and(|text| {
        text.lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next() == Some(wanted.as_str()) && fields.nth(1) == Some("0A")
        })
    })
}
