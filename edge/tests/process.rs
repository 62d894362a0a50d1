//! The daemon as a process: it starts, says so, obeys signals, and names what stands in its way.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than anything takes on a loaded machine; reached only by a failure.
const DEADLINE: Duration = Duration::from_secs(60);

/// A configuration and a loopback address of its own.
struct Site {
    directory: TempDir,
    address: Ipv4Addr,
}

impl Site {
    fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        let last = NEXT.fetch_add(1, Ordering::Relaxed);
        let site = Site {
            directory: tempfile::tempdir().unwrap(),
            address: Ipv4Addr::new(127, high | 0x80, low, last),
        };
        site.write(&[5060]);
        site
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("edge.toml")
    }

    fn sip(&self, port: u16) -> SocketAddr {
        (self.address, port).into()
    }

    fn write(&self, ports: &[u16]) {
        let address = self.address;
        let listeners: String = ports
            .iter()
            .map(|port| {
                format!("[[listen]]\ntransport = \"tcp\"\naddress = \"{address}:{port}\"\n")
            })
            .collect();
        let text = format!(
            "[media]\naddresses = [\"{address}\"]\nports = \"20000-20999\"\n\
             [admin]\naddress = \"{address}:9090\"\ntoken_file = \"token\"\n\
             [cdr]\npath = \"cdr.jsonl\"\n{listeners}\
             [[trunk]]\nname = \"peer\"\nallow = [\"127.0.0.0/8\"]\n\
             [[trunk]]\nname = \"phone\"\nuri = \"sip:{address}:5099\"\n\
             [[route]]\nfrom = \"peer\"\nnumber = \"*\"\nto = \"phone\"\n"
        );
        std::fs::write(self.file(), text).unwrap();
    }

    fn run(&self) -> Daemon {
        self.run_with(|command| command)
    }

    fn run_with(&self, more: impl Fn(&mut Command) -> &mut Command) -> Daemon {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sip-edge"));
        let mut child = more(&mut command)
            .args(["run", "--config"])
            .arg(self.file())
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
        Daemon { child, lines }
    }
}

/// A running daemon; killed when the test gives up on it.
struct Daemon {
    child: Child,
    lines: Receiver<String>,
}

impl Daemon {
    /// The first log line with `text` in it.
    fn says(&self, text: &str) -> String {
        let end = Instant::now() + DEADLINE;
        let mut before = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => before.push(line),
                Err(_) => panic!("no \"{text}\" in {before:#?}"),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    /// Waits for the end of the log, which is the end of the process.
    fn ends(mut self) -> ExitStatus {
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(_) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("does not end"),
            }
        }
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends bytes and returns what comes back first.
fn ask(to: SocketAddr, request: &[u8]) -> String {
    let mut stream = connect(to);
    stream.write_all(request).unwrap();
    some_of(&mut stream)
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn some_of(stream: &mut TcpStream) -> String {
    let mut bytes = [0; 4096];
    let length = stream.read(&mut bytes).unwrap();
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

/// A call with an offer of one codec.
fn invite(call_id: &str, to: SocketAddr) -> Vec<u8> {
    let ip = to.ip();
    let sdp = format!(
        "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio 30000 RTP/AVP 0\r\n"
    );
    format!(
        "INVITE sip:100@{to} SIP/2.0\r\nVia: SIP/2.0/TCP {to};branch=z9hG4bK{call_id}\r\nMax-Forwards: 70\r\n\
         From: <sip:probe@{to}>;tag=1\r\nTo: <sip:100@{to}>\r\nCall-ID: {call_id}\r\nCSeq: 1 INVITE\r\n\
         Contact: <sip:probe@{to}>\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}",
        sdp.len()
    )
    .into_bytes()
}

fn request(method: &str, to: SocketAddr) -> Vec<u8> {
    format!(
        "{method} sip:100@{to} SIP/2.0\r\nVia: SIP/2.0/TCP {to};branch=z9hG4bK1\r\nMax-Forwards: 70\r\n\
         From: <sip:probe@{to}>;tag=1\r\nTo: <sip:{to}>\r\nCall-ID: {method}\r\nCSeq: 1 {method}\r\n\
         Contact: <sip:probe@{to}>\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

#[test]
fn it_says_that_it_is_ready_answers_and_drains_on_sigterm() {
    let site = Site::new();
    let daemon = site.run();
    let listening = daemon.says("listening");
    assert!(
        listening.contains(&site.sip(5060).to_string()),
        "{listening}"
    );
    daemon.says("sip-edge ready");
    let to = site.sip(5060);
    assert!(ask(to, &request("OPTIONS", to)).starts_with("SIP/2.0 200 OK\r\n"));
    // RFC 5626 §3.5.1: a double CRLF is answered by a single one.
    assert_eq!(ask(to, b"\r\n\r\n"), "\r\n");
    daemon.signal(Signal::TERM);
    daemon.says("draining");
    daemon.says("drained");
    assert!(daemon.ends().success());
}

#[test]
fn a_drain_waits_for_the_call_refuses_new_ones_and_ends_at_the_second_sigterm() {
    let site = Site::new();
    let phone = TcpListener::bind(site.sip(5099)).unwrap();
    let notify = site.directory.path().join("notify");
    let manager = UnixDatagram::bind(&notify).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let daemon = site.run_with(|command| {
        command
            .env("NOTIFY_SOCKET", &notify)
            .env("WATCHDOG_USEC", "400000")
    });
    daemon.says("sip-edge ready");
    let to = site.sip(5060);
    let mut caller = connect(to);
    caller.write_all(&invite("first", to)).unwrap();
    assert!(some_of(&mut caller).starts_with("SIP/2.0 100 "));
    let (mut ringing, _) = phone.accept().unwrap();
    ringing.set_read_timeout(Some(DEADLINE)).unwrap();
    assert!(some_of(&mut ringing).starts_with("INVITE "));
    daemon.signal(Signal::TERM);
    daemon.says("draining");
    let mut second = connect(to);
    second.write_all(&invite("second", to)).unwrap();
    let mut refusal = some_of(&mut second);
    if refusal.starts_with("SIP/2.0 100 ") && refusal.matches("SIP/2.0 ").count() == 1 {
        refusal = some_of(&mut second);
    }
    assert!(refusal.contains("SIP/2.0 503 "), "{refusal}");
    assert!(refusal.contains("Retry-After"), "{refusal}");
    // As long as it drains it asks the service manager for more time, again and again.
    let mut asked = 0;
    while asked < 3 {
        let mut bytes = [0; 256];
        let length = manager.recv(&mut bytes).unwrap();
        asked += usize::from(bytes[..length].starts_with(b"EXTEND_TIMEOUT_USEC="));
    }
    daemon.signal(Signal::TERM);
    daemon.says("told to end before the drain was over");
    assert!(daemon.ends().success());
}

#[test]
fn sighup_reloads_and_a_bad_file_changes_nothing() {
    let site = Site::new();
    let daemon = site.run();
    daemon.says("sip-edge ready");
    site.write(&[5060, 5062]);
    daemon.signal(Signal::HUP);
    daemon.says("configuration reloaded");
    let to = site.sip(5062);
    assert!(ask(to, &request("OPTIONS", to)).starts_with("SIP/2.0 200 OK\r\n"));
    std::fs::write(site.file(), "[[listen]]\nport = 5060\n").unwrap();
    daemon.signal(Signal::HUP);
    let refusal = daemon.says("configuration not reloaded");
    assert!(refusal.contains("port"), "{refusal}");
    assert!(ask(to, &request("OPTIONS", to)).starts_with("SIP/2.0 200 OK\r\n"));
    daemon.signal(Signal::INT);
    daemon.says("interrupted");
    assert!(daemon.ends().success());
}

#[test]
fn an_address_in_use_is_named_and_the_exit_status_tells() {
    let site = Site::new();
    let _taken = TcpListener::bind(site.sip(5060)).unwrap();
    let daemon = site.run();
    let line = daemon.says("is in use by another socket");
    assert!(line.contains(&site.sip(5060).to_string()), "{line}");
    assert_eq!(daemon.ends().code(), Some(1));
}
