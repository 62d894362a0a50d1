//! A scene on a veth pair: the edge in one network namespace with XDP on its interface, everybody else in the other.

use crate::harness::{Edge, EdgeConfig, Net, RtpParty, Scene, have_sipp};
use crate::netns::{Peer, enter, ip, keep_queue, mount_sys};
use rustix::process::geteuid;
use std::net::IpAddr;
use std::sync::mpsc::{Sender, channel};
use tempfile::TempDir;

type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs in the edge's namespace.
pub struct Host(Sender<Job>);

impl Host {
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, pending) = channel();
        let job: Job = Box::new(move || {
            let _ = answer.send(job());
        });
        self.0.send(job).expect("the host's thread lives");
        pending.recv().expect("the host's job panicked")
    }
}

/// Addresses of the pair: of the edge, the carrier, the platform, the agents and a stranger.
pub fn addresses(ipv4: bool) -> Net {
    let host = |last: u8| -> IpAddr {
        let text = if ipv4 {
            format!("192.0.2.{last}")
        } else {
            format!("2001:db8::{last}")
        };
        text.parse().expect("an address")
    };
    Net::of(host(1), [10, 20, 30, 40].map(host))
}

/// Runs `body` in the peers' namespace, with an edge that has `access` in `[access]`. Says so where it cannot run.
pub fn on_veth(
    test: &str,
    ipv4: bool,
    config: EdgeConfig,
    access: &str,
    body: impl FnOnce(&Scene, &Host) + Send + 'static,
) {
    if !have_sipp() {
        return;
    }
    if !geteuid().is_root() || enter().is_none() {
        eprintln!(
            "SKIPPED {test}: it needs root, to load XDP programs and make network namespaces"
        );
        return;
    }
    mount_sys();
    let peer = Peer::linked();
    keep_queue("edge0");
    peer.run(|| {
        ip("address add 192.0.2.40/24 dev peer0");
        ip("address add 2001:db8::40/64 dev peer0 nodad");
    });
    let net = addresses(ipv4);
    let dir = TempDir::new().expect("a directory");
    let config = EdgeConfig {
        tail: format!("{}\n[access]\n{access}\n", config.tail),
        ..config
    };
    let edge = Edge::start(&net, dir.path(), &config);
    let (jobs, queue) = channel::<Job>();
    let pending = peer.start(move || {
        let scene = Scene {
            edge,
            carrier: RtpParty::new(net.carrier, 0xc1),
            ai: RtpParty::new(net.ai, 0xa1),
            human: RtpParty::new(net.human, 0x41),
            dir,
            net,
        };
        body(&scene, &Host(jobs));
    });
    // Ends with the body, which holds the other end.
    queue.into_iter().for_each(|job| job());
    pending.get();
}
