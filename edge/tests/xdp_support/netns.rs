//! Network namespaces of the test's own. They have no name: a namespace is gone with its last thread, whatever becomes of the
//! test.

use rustix::thread::{UnshareFlags, gettid, unshare_unsafe};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Puts the calling thread into a network namespace of its own with the loopback interface up. `None` where that is not
/// allowed.
pub fn enter() -> Option<()> {
    // SAFETY: NEWNET does not touch the table of file descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.ok()?;
    ip("link set lo up");
    Some(())
}

/// Gives the calling thread, and the processes that it starts, a view of /sys that fits its network namespace, and a BPF file
/// system where the system has one. Both are gone with the thread.
pub fn mount_sys() {
    // SAFETY: NEWNS does not touch the table of file descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
    run("mount", "--make-rprivate /");
    run("mount", "-t sysfs sysfs /sys");
    run("mount", "-t bpf bpf /sys/fs/bpf");
    // Where the system has it.
    attempt("mount", "-t cgroup2 cgroup2 /sys/fs/cgroup");
}

/// Runs `ip` in the calling thread's namespace.
pub fn ip(arguments: &str) {
    run("ip", arguments);
}

fn run(program: &str, arguments: &str) {
    let (ok, errors) = attempt(program, arguments);
    assert!(ok, "{program} {arguments}: {errors}");
}

/// Whether a command succeeds, and what it complains about.
pub fn attempt(program: &str, arguments: &str) -> (bool, String) {
    let output = Command::new(program)
        .args(arguments.split_ascii_whitespace())
        .output()
        .unwrap_or_else(|fault| panic!("{program}: {fault}"));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), errors)
}

/// Makes a veth interface keep its receive queue when its XDP program comes and goes (by receive offload, which wants the same
/// queue). Otherwise the kernel throws away what is in it at that moment, whoever sent it.
pub fn keep_queue(interface: &str) {
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    const ETHTOOL_SGRO: u32 = 0x2c;
    let mut order = [ETHTOOL_SGRO, 1];
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: order.as_mut_ptr().cast(),
        },
    };
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    // SAFETY: SIOCETHTOOL reads the interface's name and the two words that the request points to, both of which live.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

type Job = Box<dyn FnOnce() + Send>;

/// The other side: a namespace with a thread that works in it. The calling thread's namespace is the edge's.
pub struct Peer {
    jobs: Sender<Job>,
}

/// What a job is going to answer.
pub struct Pending<T>(Receiver<T>);

impl<T> Pending<T> {
    /// Waits for it; the job's panic is this one's.
    pub fn get(self) -> T {
        self.0.recv().expect("the peer's job panicked")
    }
}

impl Peer {
    /// A namespace linked to the caller's by a veth pair: `edge0` here with 192.0.2.1 and 2001:db8::1, `peer0` there with
    /// 192.0.2.10, .20 and .30, and 2001:db8::10, ::20 and ::30.
    pub fn linked() -> Peer {
        Peer::linked_with("")
    }

    /// The same; `queues`: options of either end, for `ip link add`.
    pub fn linked_with(queues: &str) -> Peer {
        let (peer, thread) = Peer::alone();
        ip(&format!(
            "link add edge0 {queues} type veth peer name peer0 {queues} netns {thread}"
        ));
        ip("address add 192.0.2.1/24 dev edge0");
        ip("address add 2001:db8::1/64 dev edge0 nodad");
        ip("link set edge0 up");
        peer.run(|| {
            for host in [10, 20, 30] {
                ip(&format!("address add 192.0.2.{host}/24 dev peer0"));
                ip(&format!("address add 2001:db8::{host}/64 dev peer0 nodad"));
            }
            ip("link set peer0 up");
        });
        peer
    }

    /// A namespace that is linked to nothing, and the thread that works in it, by which `ip link` names it.
    pub fn alone() -> (Peer, impl std::fmt::Display) {
        let (jobs, queue) = channel::<Job>();
        let (tell, thread) = channel();
        std::thread::spawn(move || {
            tell.send(enter().map(|()| gettid())).unwrap();
            for job in queue {
                job();
            }
        });
        let thread = thread.recv().unwrap().expect("the caller is privileged");
        (Peer { jobs }, thread.as_raw_nonzero())
    }

    /// Runs `job` in the namespace.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(job).get()
    }

    /// Begins to run `job` in the namespace.
    pub fn start<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Pending<T> {
        let (answer, pending) = channel();
        let job: Job = Box::new(move || {
            let _ = answer.send(job());
        });
        self.jobs.send(job).expect("the peer's thread lives");
        Pending(pending)
    }
}
