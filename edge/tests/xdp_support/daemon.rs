//! The daemon itself, in the calling thread's namespaces.

use super::traffic::DEADLINE;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;
use tempfile::TempDir;

/// Where the admin API listens: every test has a loopback interface of its own.
const ADMIN: &str = "127.0.0.1:9090";

/// A directory with a configuration and a TLS certificate.
pub struct Site {
    directory: TempDir,
    pub certificate: rcgen::Certificate,
}

impl Site {
    pub fn new() -> Site {
        let directory = tempfile::tempdir().unwrap();
        let key = rcgen::generate_simple_self_signed(["192.0.2.1".to_owned()]).unwrap();
        let write = |name: &str, text: String| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        write("cert.pem", key.cert.pem());
        write("key.pem", key.signing_key.serialize_pem());
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(directory.path().join("key.pem"), private).unwrap();
        Site {
            directory,
            certificate: key.cert,
        }
    }

    /// Writes the configuration: the keys of `[access]`, and who is listed.
    pub fn write(&self, access: &str, allow: &str) {
        self.write_text(&format!(
            r#"
            [access]
            {access}
            [media]
            addresses = ["192.0.2.1", "2001:db8::1"]
            ports = "20000-20999"
            [admin]
            address = "{ADMIN}"
            token_file = "token"
            [cdr]
            path = "cdr.jsonl"
            [[listen]]
            name = "tcp4"
            transport = "tcp"
            address = "192.0.2.1:5060"
            [[listen]]
            name = "tls4"
            transport = "tls"
            address = "192.0.2.1:5061"
            certificate = "cert.pem"
            private_key = "key.pem"
            [[listen]]
            name = "tcp6"
            transport = "tcp"
            address = "[2001:db8::1]:5060"
            [[trunk]]
            name = "peer"
            allow = [{allow}]
            [[trunk]]
            name = "phone"
            uri = "sip:192.0.2.10:5099"
            [[route]]
            from = "peer"
            number = "*"
            to = "phone"
            "#
        ));
    }

    pub fn write_text(&self, text: &str) {
        std::fs::write(self.directory.path().join("edge.toml"), text).unwrap();
    }

    /// Starts the daemon and waits until it is ready.
    pub fn run(&self) -> Daemon {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sip-edge"))
            .args(["run", "--config"])
            .arg(self.directory.path().join("edge.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let daemon = Daemon { child, lines };
        daemon.says("sip-edge ready");
        daemon
    }
}

/// A running daemon; killed when the test gives up on it.
pub struct Daemon {
    child: Child,
    lines: Receiver<String>,
}

impl Daemon {
    /// Waits for a log line with `text` in it.
    pub fn says(&self, text: &str) {
        let end = Instant::now() + DEADLINE;
        let mut before = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return,
                Ok(line) => before.push(line),
                Err(_) => panic!("no \"{text}\" in {before:#?}"),
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Sends a signal that ends it, and waits for the end.
    pub fn end(mut self, signal: Signal) {
        self.signal(signal);
        let status = self.child.wait().unwrap();
        assert_eq!(status.success(), signal == Signal::TERM, "{status}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Body of an answer of the admin API.
pub fn get(path: &str) -> String {
    let mut stream = TcpStream::connect(ADMIN).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {ADMIN}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    body.to_owned()
}

/// Value of a metric, 0 where the series is not there.
pub fn metric(series: &str) -> f64 {
    let text = get("/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}
