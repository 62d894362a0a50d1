//! Reloads under load: no call is dropped, and no RTP packet is lost between the parties.

use crate::harness::parties::{agent_answers, caller};
use crate::harness::{EdgeConfig, Scene, wait};
use crate::load::{Party, host};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Reloads during the call; the load goes on all the while.
const RELOADS: usize = 100;
/// The pace of a phone.
const PTIME: Duration = Duration::from_millis(20);
/// Before the reloads: enough to latch both sides.
const LATCH: usize = 25;

/// One side's RTP: numbered packets out, numbers in.
struct Counted {
    socket: UdpSocket,
    heard: BTreeSet<u16>,
}

impl Counted {
    fn bind(ip: std::net::IpAddr) -> Counted {
        let socket = UdpSocket::bind((ip, 0)).expect("a port");
        socket.set_nonblocking(true).expect("a socket option");
        Counted {
            socket,
            heard: BTreeSet::new(),
        }
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("a bound socket")
    }

    fn say(&self, sequence: u16, to: SocketAddr) {
        let mut packet = [0xd5; 172];
        packet[..2].copy_from_slice(&[0x80, 0]);
        packet[2..4].copy_from_slice(&sequence.to_be_bytes());
        packet[4..8].copy_from_slice(&(u32::from(sequence) * 160).to_be_bytes());
        packet[8..12].copy_from_slice(&[1, 2, 3, 4]);
        self.socket.send_to(&packet, to).expect("sends");
    }

    fn listen(&mut self) {
        let mut packet = [0; 2048];
        while let Ok(length) = self.socket.recv(&mut packet) {
            if length == 172 {
                self.heard
                    .insert(u16::from_be_bytes([packet[2], packet[3]]));
            }
        }
    }
}

#[test]
fn a_hundred_reloads_under_load_drop_no_call_and_lose_no_packet() {
    let config = EdgeConfig::default();
    let Some(scene) = Scene::v4(&config) else {
        return;
    };
    let net = &scene.net;
    let dir = scene.dir.path();
    let (mut one, mut other) = (Counted::bind(net.carrier), Counted::bind(net.ai));
    // One call whose packets are counted.
    let agent = scene.ai_answers(&agent_answers(other.address()));
    let carrier = scene.carrier_calls(&caller(one.address()));
    let (from_carrier, from_agent) = (carrier.remote_media(), agent.remote_media());
    // And many around it, to the same platform: it answers at the address of the agents' trunk here.
    let file = dir.join("sip-edge.toml");
    let text = std::fs::read_to_string(&file).expect("the configuration");
    let route = "\n[[route]]\nfrom = \"carrier\"\nnumber = \"+1998*\"\nto = \"agents\"\n";
    let change = |n: usize| {
        let comment = format!("{text}{route}# change {n}\n");
        std::fs::write(&file, comment).expect("writable");
        let pid = i32::try_from(scene.edge.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process"), Signal::HUP).expect("the edge lives");
    };
    let reloads = || {
        let applied = scene
            .edge
            .metric("sip_edge_reloads_total{result=\"applied\"}");
        applied.unwrap_or(0.0) as usize
    };
    change(0);
    wait::until("the first reload", || (reloads() >= 1).then_some(()));
    let _platform = Party::start(dir, "call-agent", (&host(net.human), 5080), &[]);
    let mut load = Party::start(
        dir,
        "call-caller",
        (&host(net.carrier), 5064),
        &[
            &scene.edge.sip.to_string(),
            "-inf",
            &load_numbers(dir),
            "-d",
            "1000",
            "-r",
            "40",
            "-m",
            "400",
        ],
    );
    let done = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let talk = scope.spawn(|| {
            let mut sequence = 0u16;
            let mut last = None;
            // Ten packets more than at the end of the reloads, so that what was on its way arrives or is missed.
            while last.is_none_or(|last| sequence < last + 10) {
                if last.is_none() && done.load(Ordering::Acquire) {
                    last = Some(sequence);
                }
                one.say(sequence, from_carrier);
                other.say(sequence, from_agent);
                sequence += 1;
                std::thread::park_timeout(PTIME);
                one.listen();
                other.listen();
            }
            let all = |party: &Counted| party.heard.contains(&(sequence - 1));
            wait::until("the last packets arrive", || {
                one.listen();
                other.listen();
                (all(&one) && all(&other)).then_some(())
            });
            sequence
        });
        wait::until("both sides have latched", || {
            let packets = scene.edge.metrics();
            let relayed = packets.lines().find_map(|line| {
                line.strip_prefix(
                    "sip_edge_rtp_packets_total{core=\"0\",direction=\"outbound\",lane=\"io_uring\"}",
                )?
                .trim()
                .parse::<usize>()
                .ok()
            });
            (relayed? >= 2 * LATCH).then_some(())
        });
        for n in 1..=RELOADS {
            change(n);
            wait::until("the reload", || (reloads() > n).then_some(()));
        }
        done.store(true, Ordering::Release);
        talk.join().expect("the parties talked")
    });
    load.passes();
    // The first packets may come before the other side has latched.
    let wanted: BTreeSet<u16> = (LATCH as u16..sent).collect();
    for (name, party) in [("carrier", &one), ("agent", &other)] {
        let lost: Vec<_> = wanted.difference(&party.heard).collect();
        assert!(lost.is_empty(), "{name} of {sent} packets misses {lost:?}");
    }
    println!("{RELOADS} reloads, 401 calls, {sent} packets each way, none lost");
}

/// Numbers that the route of the load matches.
fn load_numbers(dir: &std::path::Path) -> String {
    let file = dir.join("numbers.csv");
    std::fs::write(&file, "SEQUENTIAL\n+19985550123;+15550100;\n").expect("writable");
    file.display().to_string()
}
