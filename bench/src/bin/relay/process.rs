//! Where a thread or process runs, and how much processor time it has used.

use anyhow::{Context, Result};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// Binds the calling thread to a core.
pub fn pin(core: usize) -> Result<()> {
    // SAFETY: a cpu_set_t is plain data; the pointer is to a local. CPU_SET bounds-checks.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    (result == 0)
        .then_some(())
        .ok_or_else(std::io::Error::last_os_error)
        .with_context(|| format!("pinning to core {core}"))
}

/// Set in a process that [`in_own_session`] made.
const SESSION: &str = "EDGE_BENCH_SESSION";

/// Makes the calling process and all that it starts real-time processes of the lowest priority, or else prefers its session as
/// far as permitted. The generator and all relays get the same, so that what else runs on the machine disturbs none of them.
///
/// A session, since under the kernel's autogroups niceness counts only among the processes of one. Safe between fork and exec.
pub fn prefer() {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: none of the calls keeps a pointer, and the strings are static.
    unsafe {
        libc::setsid();
        if libc::sched_setscheduler(0, libc::SCHED_RR, &raw const parameters) == 0 {
            return;
        }
        libc::setpriority(libc::PRIO_PROCESS, 0, -19);
        let file = libc::open(c"/proc/self/autogroup".as_ptr(), libc::O_WRONLY);
        if file >= 0 {
            libc::write(file, c"-19".as_ptr().cast(), 3);
            libc::close(file);
        }
    }
}

/// Undoes [`prefer`] for the calling thread.
pub fn do_not_prefer() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a local that outlives the call.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const parameters);
        libc::setpriority(libc::PRIO_PROCESS, 0, 0);
    }
}

/// Runs this program again, preferred and in a session of its own, unless this is that run already. Returns its exit status.
pub fn in_own_session() -> Result<Option<i32>> {
    if std::env::var_os(SESSION).is_some() {
        return Ok(None);
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).env(SESSION, "1");
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(|| {
            prefer();
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    let status = command.status().context("starting again")?;
    Ok(Some(status.code().unwrap_or(1)))
}

/// Processor time of all threads of a process (user and system).
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let mut nanos = 0u64;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).context("the relay is gone")? {
        // A thread that ends meanwhile has none.
        let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let running = text.split(' ').next().and_then(|field| field.parse().ok());
        nanos += running.unwrap_or(0u64);
    }
    Ok(Duration::from_nanos(nanos))
}

/// Processor time that all processes and interrupts have used on a core so far.
pub fn core_busy(core: usize) -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let name = format!("cpu{core} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    let fields: Vec<u64> = line
        .context("no such core")?
        .split(' ')
        .filter_map(|field| field.parse().ok())
        .collect();
    // All but idle (3) and waiting for input (4); what guests use is in the first already.
    let busy: u64 = fields.iter().take(8).sum::<u64>() - fields.iter().skip(3).take(2).sum::<u64>();
    // SAFETY: sysconf takes no pointers.
    let hertz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    Ok(Duration::from_millis(busy * 1000 / hertz))
}
