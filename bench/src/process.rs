//! Processes that a bench starts: they end with their owner, whatever happens, and tell what they use.

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// How long a process may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(3);

/// A process and what it starts, in a process group of its own. All of them end when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `program`, bound to `cpu`. It gets SIGTERM should the calling thread die.
    pub fn start(program: &str, cpu: usize, prepare: impl FnOnce(&mut Command)) -> Result<Process> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "taskset", "-c", &cpu.to_string()]);
        command.arg(program);
        prepare(&mut command);
        let child = command.process_group(0).spawn();
        let child = child.with_context(|| format!("{program} does not start"))?;
        Ok(Process { child })
    }

    /// The process itself, which leads its group.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it ended, and if so, well.
    pub fn ended(&mut self) -> Result<Option<bool>> {
        Ok(self.child.try_wait()?.map(|status| status.success()))
    }

    /// Processor time of the process, of what it started and of what of that has ended. The kernel counts in ticks of 10 ms.
    pub fn cpu(&self) -> Duration {
        self.members().iter().map(|stat| stat.cpu).sum()
    }

    /// Memory of the process itself that is in RAM, in bytes.
    pub fn rss(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
        Ok(kib.context("no VmRSS")? * 1024)
    }

    fn members(&self) -> Vec<Stat> {
        let group = self.pid();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        processes
            .filter_map(|process| fs::read_to_string(process.path().join("stat")).ok())
            .filter_map(|text| Stat::parse(&text))
            .filter(|stat| stat.group == group)
            .collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let group = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let signal = |signal| group.is_some_and(|group| kill_process_group(group, signal).is_ok());
        signal(Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Also those whose leader went first.
        signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// What this bench reads of `/proc/PID/stat` (proc(5)).
#[derive(Debug, PartialEq)]
struct Stat {
    group: u32,
    cpu: Duration,
}

impl Stat {
    fn parse(text: &str) -> Option<Stat> {
        // The name before may hold anything, parentheses and blanks too.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        // utime, stime and the same of children that have ended and were waited for.
        let ticks: u64 = [11, 12, 13, 14]
            .into_iter()
            .map(number)
            .sum::<Option<_>>()?;
        Some(Stat {
            group: number(2)?.try_into().ok()?,
            cpu: Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()),
        })
    }
}

/// Raises the limit of open files for this process and what it starts, to `wanted` where that is permitted, else as far as it
/// goes; the limit then.
pub fn raise_open_files(wanted: u64) -> u64 {
    let now = getrlimit(Resource::Nofile);
    let hard = now.maximum.unwrap_or(u64::MAX);
    let to = |limit: u64| Rlimit {
        current: Some(limit),
        maximum: Some(limit.max(hard)),
    };
    for limit in [wanted.max(hard), hard] {
        if setrlimit(Resource::Nofile, to(limit)).is_ok() {
            return limit;
        }
    }
    now.current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = "12 (a) b) S 1 34 34 0 -1 4194304 1 2 3 4 10 20 30 40 20 0 1 0";
        let stat = Stat::parse(text).unwrap();
        let ticks = 100 * 1000 / rustix::param::clock_ticks_per_second();
        assert_eq!(stat.group, 34);
        assert_eq!(stat.cpu, Duration::from_millis(ticks));
    }

    #[test]
    fn a_process_and_its_children_end_with_their_owner() {
        let process = Process::start("sh", 0, |command| {
            command.args(["-c", "sleep 1000 & wait"]);
        })
        .unwrap();
        while process.members().len() < 2 {
            std::thread::yield_now();
        }
        let group = process.pid();
        drop(process);
        let group = Pid::from_raw(i32::try_from(group).unwrap()).unwrap();
        // A killed process may be told of until its new parent has looked.
        while rustix::process::test_kill_process_group(group).is_ok() {
            std::thread::yield_now();
        }
    }
}
