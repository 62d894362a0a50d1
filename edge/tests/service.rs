//! The daemon as a service: what it tells the service manager, where it gets its secrets, and what it says when the kernel
//! denies it what it needs.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Longer than anything takes on a loaded machine; reached only by a failure.
const DEADLINE: Duration = Duration::from_secs(60);

/// A configuration, a directory of credentials, and an address of its own.
struct Site {
    directory: TempDir,
    address: Ipv4Addr,
}

impl Site {
    /// `last` tells the tests of this file apart.
    fn new(last: u8) -> Self {
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        let site = Site {
            directory: tempfile::tempdir().unwrap(),
            address: Ipv4Addr::new(127, high | 0x80, low, last),
        };
        let credentials = site.path("credentials");
        fs::create_dir(&credentials).unwrap();
        let secret = credentials.join("secret_ai");
        fs::write(&secret, "not-a-real-one\n").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o440)).unwrap();
        site.write("credential:secret_ai");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, password_file: &str) {
        let address = self.address;
        let text = format!(
            "[media]\naddresses = [\"{address}\"]\nports = \"20000-20999\"\n\
             [admin]\naddress = \"{address}:9090\"\n[cdr]\npath = \"cdr.jsonl\"\n\
             [[listen]]\ntransport = \"tcp\"\naddress = \"{address}:5060\"\n\
             [[trunk]]\nname = \"ai\"\nallow = [\"127.0.0.3/32\"]\nauth = \"digest\"\nusername = \"ai\"\n\
             password_file = \"{password_file}\"\n"
        );
        fs::write(self.path("edge.toml"), text).unwrap();
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sip-edge"));
        command
            .args([verb, "--config"])
            .arg(self.path("edge.toml"))
            .env_remove("NOTIFY_SOCKET")
            .env("CREDENTIALS_DIRECTORY", self.path("credentials"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// What the service manager hears.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(site: &Site) -> Manager {
        let socket = UnixDatagram::bind(site.path("notify")).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Manager(socket)
    }

    /// The next message that begins with `start`, and what came before it.
    fn hears(&self, start: &str) -> (String, Vec<String>) {
        let mut before = Vec::new();
        loop {
            let mut bytes = [0; 4096];
            let Ok(length) = self.0.recv(&mut bytes) else {
                panic!("no {start:?} after {before:?}");
            };
            let text = String::from_utf8(bytes[..length].to_vec()).unwrap();
            if text.starts_with(start) {
                return (text, before);
            }
            before.push(text);
        }
    }
}

/// A running daemon; killed when the test gives up on it.
struct Daemon(Child);

impl Daemon {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_service_manager_hears_of_start_reload_life_and_end() {
    let site = Site::new(1);
    let manager = Manager::listen(&site);
    let child = site
        .command("run")
        .env("NOTIFY_SOCKET", site.path("notify"))
        .env("WATCHDOG_USEC", "2000000")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut daemon = Daemon(child);
    let (_, before) = manager.hears("READY=1");
    assert!(before.is_empty(), "ready is the first word: {before:?}");
    let (status, _) = manager.hears("STATUS=");
    assert_eq!(status.trim_end(), "STATUS=taking calls: 0 call legs");
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    for file in ["credential:secret_ai", "credential:gone"] {
        site.write(file);
        daemon.signal(Signal::HUP);
        let (reloading, _) = manager.hears("RELOADING=1");
        assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
        // Also when the file is refused: the service goes on.
        manager.hears("READY=1");
    }
    daemon.signal(Signal::TERM);
    let (_, before) = manager.hears("STOPPING=1");
    assert!(!before.iter().any(|m| m.starts_with("READY")), "{before:?}");
    // How long a drain may take is said in the edge's own file.
    manager.hears("EXTEND_TIMEOUT_USEC=");
    manager.hears("STATUS=draining");
    assert!(daemon.0.wait().unwrap().success());
}

#[test]
fn a_media_thread_that_hangs_stops_the_watchdogs_pings() {
    let site = Site::new(9);
    let manager = Manager::listen(&site);
    let child = site
        .command("run")
        .env("NOTIFY_SOCKET", site.path("notify"))
        .env("WATCHDOG_USEC", "2000000")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut daemon = Daemon(child);
    // Without a packet, too.
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    let Some(held) = HeldThread::hold(daemon.0.id(), "media-0") else {
        println!("SKIPPED: threads cannot be traced here");
        return;
    };
    let (status, _) = manager.hears("STATUS=threads that do nothing: ");
    assert!(status.trim_end().ends_with(": media-0"), "{status}");
    // Life goes on otherwise: each time a ping would be due the log tells why there is none.
    let stderr = BufReader::new(daemon.0.stderr.take().unwrap());
    let mut lines = stderr.lines().map_while(Result::ok);
    let told = lines.by_ref();
    let told = told.filter(|line| line.contains("threads do nothing"));
    assert_eq!(told.take(4).count(), 4);
    daemon.signal(Signal::HUP);
    let (_, before) = manager.hears("READY=1");
    assert!(
        !before.iter().any(|m| m.starts_with("WATCHDOG")),
        "{before:?}"
    );
    drop(held);
    manager.hears("WATCHDOG=1");
    manager.hears("STATUS=taking calls");
}

#[test]
fn a_log_that_nobody_reads_any_more_stops_nothing() {
    let site = Site::new(8);
    let manager = Manager::listen(&site);
    let mut command = site.command("run");
    command.env("NOTIFY_SOCKET", site.path("notify"));
    let mut daemon = Daemon(command.spawn().unwrap());
    manager.hears("READY=1");
    drop(daemon.0.stderr.take());
    // Each is logged.
    for _ in 0..2 {
        daemon.signal(Signal::HUP);
        manager.hears("RELOADING=1");
        manager.hears("READY=1");
    }
    daemon.signal(Signal::TERM);
    assert!(daemon.0.wait().unwrap().success());
}

#[test]
fn a_log_that_nobody_reads_just_now_stops_nothing() {
    let site = Site::new(11);
    let manager = Manager::listen(&site);
    let mut command = site.command("run");
    command.env("NOTIFY_SOCKET", site.path("notify"));
    let mut daemon = Daemon(command.spawn().unwrap());
    manager.hears("READY=1");
    let log = daemon.0.stderr.take().unwrap();
    // SAFETY: both take a descriptor and a number.
    let (room, mut waiting) =
        unsafe { (libc::fcntl(log.as_raw_fd(), libc::F_SETPIPE_SZ, 4096), 0) };
    assert!(room > 0);
    let mut last = -1;
    // Until the pipe takes no more, then a few times again.
    for _ in 0..1000 {
        daemon.signal(Signal::HUP);
        manager.hears("RELOADING=1");
        manager.hears("READY=1");
        // SAFETY: the pointer is to a local that outlives the call.
        assert_eq!(
            unsafe { libc::ioctl(log.as_raw_fd(), libc::FIONREAD, &raw mut waiting) },
            0
        );
        if waiting == last && waiting > room / 2 {
            break;
        }
        last = waiting;
    }
    for _ in 0..10 {
        daemon.signal(Signal::HUP);
        manager.hears("RELOADING=1");
        manager.hears("READY=1");
    }
    daemon.signal(Signal::TERM);
    // It does not wait for a reader for long.
    assert!(daemon.0.wait().unwrap().success());
    drop(log);
}

/// One thread of a child, which does not run for as long as this lives.
struct HeldThread(libc::pid_t);

impl HeldThread {
    /// `None`: this is not allowed here.
    fn hold(pid: u32, name: &str) -> Option<HeldThread> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let task = tasks.flatten().find(|task| {
            let comm = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            comm.trim_end() == name
        });
        let tid: libc::pid_t = task?.file_name().to_str()?.parse().ok()?;
        // SAFETY: these requests read and write no memory of ours.
        let stopped = unsafe {
            libc::ptrace(libc::PTRACE_SEIZE, tid, 0, 0) == 0
                && libc::ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0) == 0
                && libc::waitpid(tid, std::ptr::null_mut(), libc::__WALL) == tid
        };
        stopped.then_some(HeldThread(tid))
    }
}

impl Drop for HeldThread {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, 0, 0) };
    }
}

#[test]
fn a_credential_that_was_not_given_is_named() {
    let site = Site::new(2);
    let check = |command: &mut Command| {
        let output = command.output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        (output.status.success(), text.into_owned())
    };
    let (passes, text) = check(&mut site.command("check"));
    assert!(passes, "{text}");
    assert!(!text.contains("not-a-real-one"), "{text}");
    let (passes, text) = check(site.command("check").env_remove("CREDENTIALS_DIRECTORY"));
    assert!(!passes);
    assert!(text.contains("password_file"), "{text}");
    assert!(text.contains("\"secret_ai\" was not given"), "{text}");
    site.write("credential:../edge.toml");
    let (passes, text) = check(&mut site.command("check"));
    assert!(!passes);
    assert!(text.contains("is not the name of a credential"), "{text}");
}

#[test]
fn a_kernel_that_lacks_what_is_needed_is_named_at_once() {
    let refuses = |last, errno, expected: &str| {
        let site = Site::new(last);
        let mut command = site.command("run");
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.pre_exec(move || deny_io_uring(errno)) };
        let mut child = Daemon(command.spawn().unwrap());
        let mut text = String::new();
        let mut stderr = child.0.stderr.take().unwrap();
        stderr.read_to_string(&mut text).unwrap();
        assert_eq!(child.0.wait().unwrap().code(), Some(1));
        assert!(text.contains(expected), "{text}");
        assert!(
            !text.contains("listening"),
            "nothing was opened before: {text}"
        );
    };
    let none =
        "this kernel has no io_uring, or a seccomp filter forbids it; Linux 6.1 or newer is needed";
    refuses(3, libc::ENOSYS, none);
    // What kernel.io_uring_disabled answers too; the sysctl tells the two apart, and here it is 0.
    let sysctl = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let disabled = format!("kernel.io_uring_disabled is {}", sysctl.trim());
    let expected = match sysctl.trim() {
        "" | "0" => none,
        _ => &disabled,
    };
    refuses(5, libc::EPERM, expected);
    let old = "this kernel's io_uring has no DEFER_TASKRUN; Linux 6.1 or newer is needed";
    refuses(6, libc::EINVAL, old);
    refuses(7, libc::ENOMEM, "no memory for the ring");
}

#[test]
fn the_units_limits_put_media_threads_first_without_a_capability() {
    let unit = include_str!("../../packaging/systemd/sip-edge.service");
    let value = |key: &str| -> i64 {
        let line = unit.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_else(|| panic!("no {key}")).parse().unwrap()
    };
    // Its filter would refuse what the limits permit.
    assert!(unit.contains("\nRestrictRealtime=no\n"));
    let real_time = value("LimitRTPRIO=") as u64;
    // setrlimit(2): 20 less the niceness.
    let nice = (20 - value("LimitNICE=")) as u64;
    // SAFETY: takes numbers.
    let ours = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let ordinary = (libc::SCHED_OTHER, ours);
    let mut cases = vec![((0, 0), ordinary)];
    let mut probe = Command::new("true");
    // SAFETY: between fork and exec only system calls are made.
    unsafe { probe.pre_exec(move || limits_instead_of_capabilities(real_time, nice)) };
    match probe.status() {
        Ok(_) => cases.extend([
            ((0, nice), (libc::SCHED_OTHER, -20)),
            ((real_time, nice), (libc::SCHED_RR, ours)),
        ]),
        Err(fault) => eprintln!("SKIPPED: the limits themselves; CAP_SYS_RESOURCE: {fault}"),
    }
    let site = Site::new(4);
    let manager = Manager::listen(&site);
    for ((real_time, nice), expected) in cases {
        let mut command = site.command("run");
        command
            .env("NOTIFY_SOCKET", site.path("notify"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.pre_exec(move || limits_instead_of_capabilities(real_time, nice)) };
        let daemon = Daemon(command.spawn().unwrap());
        manager.hears("READY=1");
        let threads = scheduling(daemon.0.id());
        let of = |start: &str| {
            let such = threads.iter().filter(|(name, _)| name.starts_with(start));
            such.map(|(_, scheduling)| *scheduling).collect::<Vec<_>>()
        };
        let (media, control) = (of("media-"), of("control-"));
        assert!(!media.is_empty() && !control.is_empty(), "{threads:?}");
        assert!(media.iter().all(|one| *one == expected), "{threads:?}");
        assert!(control.iter().all(|one| *one == ordinary), "{threads:?}");
    }
}

/// Name, policy and niceness of each thread of a process.
fn scheduling(process: u32) -> Vec<(String, (i32, i32))> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    stats
        .map(|stat| {
            // proc_pid_stat(5): the second field may hold spaces; niceness is the 19th, the policy the 41st.
            let (head, rest) = stat.rsplit_once(") ").unwrap();
            let (_, name) = head.split_once('(').unwrap();
            let fields: Vec<&str> = rest.split(' ').collect();
            let field = |number: usize| fields[number - 3].trim().parse().unwrap();
            (name.to_owned(), (field(41), field(19)))
        })
        .collect()
}

/// From here on this process has these limits, as setrlimit(2) has them, and no capability, although it may be root's.
fn limits_instead_of_capabilities(real_time: u64, nice: u64) -> std::io::Result<()> {
    /// linux/securebits.h: root's processes get no capabilities by an exec.
    const SECBIT_NOROOT: libc::c_ulong = 1;
    let limits = [(libc::RLIMIT_RTPRIO, real_time), (libc::RLIMIT_NICE, nice)];
    for (which, value) in limits {
        let limit = libc::rlimit {
            rlim_cur: value,
            rlim_max: value,
        };
        // SAFETY: the pointer is to a local that outlives the call.
        if unsafe { libc::setrlimit(which, &raw const limit) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    // SAFETY: these prctls take numbers. Who is not root has no capabilities to lose.
    let failed = unsafe { libc::geteuid() } == 0
        && unsafe {
            libc::prctl(libc::PR_SET_SECUREBITS, SECBIT_NOROOT) != 0
                || libc::prctl(
                    libc::PR_CAP_AMBIENT,
                    libc::PR_CAP_AMBIENT_CLEAR_ALL,
                    0,
                    0,
                    0,
                ) != 0
        };
    if failed {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// From here on io_uring_setup(2) fails in this process, as on a kernel that lacks something.
fn deny_io_uring(errno: i32) -> std::io::Result<()> {
    const fn statement(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter {
            code: code as u16,
            jt,
            jf,
            k,
        }
    }
    let number_at = std::mem::offset_of!(libc::seccomp_data, nr) as u32;
    let denied = libc::SECCOMP_RET_ERRNO | errno as u32;
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, number_at),
        statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::SYS_io_uring_setup as u32,
        ),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, denied),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: `program` and what it points to live until the calls return; they change nothing but what this process may do.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ) != 0
    };
    if failed {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}
