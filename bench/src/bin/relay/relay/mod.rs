//! The relays that are compared, each in a process of its own on the relay's core and in the relay's namespace.

pub mod ours;
pub mod plain;
mod rtpengine;

use crate::netns::Network;
use crate::plan;
use crate::process;
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The media thread of sip-edge.
    Ours,
    /// Epoll, recvmmsg and sendmmsg, and nothing else.
    Plain,
    /// rtpengine in userspace.
    Rtpengine,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Ours, Kind::Plain, Kind::Rtpengine];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Ours => "sip-edge",
            Kind::Plain => "plain",
            Kind::Rtpengine => "rtpengine",
        }
    }
}

/// How a relay is started.
#[derive(Clone, Debug)]
pub struct Start {
    pub flows: u16,
    pub core: usize,
    /// Passed on to our own media thread.
    pub tuning: Vec<String>,
}

/// How often and in what distance to look whether a relay has ended.
const END_TRIES: u32 = 100;
const END_PAUSE: Duration = Duration::from_millis(20);

/// A relay that runs. Ended when dropped.
pub struct Relay {
    kind: Kind,
    child: Child,
    /// Where leg i has to send.
    pub targets: Vec<SocketAddrV4>,
}

impl Relay {
    pub fn start(kind: Kind, network: &Network, start: &Start) -> Result<Relay> {
        match kind {
            Kind::Ours => Relay::helper(kind, "relay-ours", network, start),
            Kind::Plain => Relay::helper(kind, "relay-plain", network, start),
            Kind::Rtpengine => rtpengine::start(network, start),
        }
    }

    /// A relay that is a subcommand of this program and prints a line once it relays.
    fn helper(kind: Kind, subcommand: &str, network: &Network, start: &Start) -> Result<Relay> {
        let legs = plan::legs(start.flows);
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(subcommand)
            .args(["--legs", &legs.to_string()])
            .args(["--core", &start.core.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if kind == Kind::Ours {
            command.args(&start.tuning);
        }
        let mut relay = Relay {
            kind,
            child: spawn(&mut command, network, start.core)?,
            targets: (0..legs).map(plan::local).collect(),
        };
        let ready = relay.line()?;
        ensure!(ready == "ready", "{subcommand} did not start: {ready}");
        Ok(relay)
    }

    fn line(&mut self) -> Result<String> {
        let output = self.child.stdout.as_mut().context("no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// The relay's own counters, where it has some to tell (ours): one line of JSON.
    pub fn counters(&mut self) -> Result<serde_json::Value> {
        let input = self.child.stdin.as_mut().context("no input")?;
        input.write_all(b"counters\n")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }

    /// Packets that it has received and dropped so far; `None` where it does not tell.
    pub fn drops(&mut self) -> Result<Option<u64>> {
        if self.kind != Kind::Ours {
            return Ok(None);
        }
        let counters = self.counters()?;
        let dropped = counters["dropped"].as_object().context("no drops")?;
        // What a full queue refused was not received; the kernel tells it for all relays alike.
        let received = dropped.iter().filter(|(name, _)| *name != "queue_full");
        Ok(Some(received.filter_map(|(_, count)| count.as_u64()).sum()))
    }

    pub fn cpu_time(&self) -> Result<Duration> {
        process::cpu_time(self.child.id())
    }

    /// For a profiler.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The end of its input is what our own relay ends by.
        if self.child.stdin.take().is_some() {
            for _ in 0..END_TRIES {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    break;
                }
                std::thread::sleep(END_PAUSE);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a process in the relay's namespace, on one core.
fn spawn(command: &mut Command, network: &Network, core: usize) -> Result<Child> {
    let namespace = network.relay_namespace()?;
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(move || {
            if libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            // No relay outlives the bench.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            let _ = process::pin(core);
            process::prefer();
            Ok(())
        });
    }
    command.spawn().with_context(|| format!("{command:?}"))
}

/// Allows as many open files as the system lets us have.
pub fn raise_open_files() {
    const WANTED: u64 = 1 << 16;
    // SAFETY: the pointers are to a local.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        let higher = libc::rlimit {
            rlim_cur: WANTED.max(limit.rlim_cur),
            rlim_max: WANTED.max(limit.rlim_max),
        };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const higher) != 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}
