//! A call's RTP with every packet numbered, both ways: what is lost between the parties is known by number.

use super::wait;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// RTP header (12 bytes) and 20 ms of PCMU.
const PACKET: usize = 172;
const PTIME: Duration = Duration::from_millis(20);
/// What our payloads consist of.
const VOICE: u8 = 0xd5;
/// Packets after the end was asked for, so that what was on its way arrives or is missed.
const AFTER: u16 = 10;

/// One side: numbered packets out, numbers in.
pub struct Counted {
    socket: UdpSocket,
    heard: BTreeSet<u16>,
    /// Packets that the other side never sent.
    foreign: usize,
}

impl Counted {
    pub fn bind(ip: IpAddr) -> Counted {
        let socket = UdpSocket::bind((ip, 0)).expect("a port");
        socket.set_nonblocking(true).expect("a socket option");
        Counted {
            socket,
            heard: BTreeSet::new(),
            foreign: 0,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("a bound socket")
    }

    fn say(&self, sequence: u16, to: SocketAddr) {
        let mut packet = [VOICE; PACKET];
        packet[..2].copy_from_slice(&[0x80, 0]);
        packet[2..4].copy_from_slice(&sequence.to_be_bytes());
        packet[4..8].copy_from_slice(&(u32::from(sequence) * 160).to_be_bytes());
        packet[8..12].copy_from_slice(&[1, 2, 3, 4]);
        self.socket.send_to(&packet, to).expect("sends");
    }

    fn listen(&mut self) {
        let mut packet = [0; 2048];
        while let Ok(length) = self.socket.recv(&mut packet) {
            if length == PACKET && packet[PACKET - 1] == VOICE {
                let number = u16::from_be_bytes([packet[2], packet[3]]);
                self.heard.insert(number);
            } else {
                self.foreign += 1;
            }
        }
    }
}

#[derive(Default)]
struct Progress {
    done: AtomicBool,
    /// Packets that each side has sent.
    sent: AtomicU16,
    /// Packets that both sides have heard, by the lesser of the two.
    heard: AtomicUsize,
    /// The first number that may not be lost: those before may come before the other side has latched.
    from: AtomicU16,
}

/// Two sides that talk until [`Conversation::ends`].
pub struct Conversation {
    progress: Arc<Progress>,
    thread: Option<JoinHandle<[Counted; 2]>>,
}

impl Conversation {
    /// Each side speaks to where its SDP told it, at the pace of a phone.
    pub fn begins(one: (Counted, SocketAddr), other: (Counted, SocketAddr)) -> Conversation {
        Conversation::begins_at(PTIME, one, other)
    }

    /// The same with a packet each `pace`.
    pub fn begins_at(
        pace: Duration,
        one: (Counted, SocketAddr),
        other: (Counted, SocketAddr),
    ) -> Conversation {
        let progress = Arc::new(Progress::default());
        let shared = Arc::clone(&progress);
        let thread = std::thread::spawn(move || talk([one, other], pace, &shared));
        Conversation {
            progress,
            thread: Some(thread),
        }
    }

    /// Waits until both sides have heard `count` packets more.
    pub fn goes_on(&self, count: usize) {
        let goal = self.progress.heard.load(Ordering::Relaxed) + count;
        wait::until("both sides hear each other", || {
            (self.progress.heard.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    /// Both sides have latched: no packet may be lost that is sent from now on.
    pub fn is_up(&self) {
        self.goes_on(1);
        let sent = self.progress.sent.load(Ordering::Relaxed);
        self.progress.from.store(sent, Ordering::Relaxed);
    }

    /// Lets what was sent arrive, asserts that nothing was lost and nothing of others heard, and gives how many packets each side
    /// sent.
    pub fn ends(mut self) -> u16 {
        self.progress.done.store(true, Ordering::Release);
        let thread = self.thread.take().expect("ends once");
        let sides = thread.join().expect("the parties talked");
        let sent = self.progress.sent.load(Ordering::Relaxed);
        let wanted: BTreeSet<u16> = (self.progress.from.load(Ordering::Relaxed)..sent).collect();
        for side in &sides {
            let lost: Vec<_> = wanted.difference(&side.heard).collect();
            let who = side.address();
            assert!(lost.is_empty(), "{who} of {sent} packets misses {lost:?}");
            assert_eq!(side.foreign, 0, "{who} hears others");
        }
        sent
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.progress.done.store(true, Ordering::Release);
    }
}

fn talk(sides: [(Counted, SocketAddr); 2], pace: Duration, progress: &Progress) -> [Counted; 2] {
    let targets = sides.each_ref().map(|(_, to)| *to);
    let mut sides = sides.map(|(side, _)| side);
    let mut sequence = 0u16;
    let mut last = None;
    while last.is_none_or(|last| sequence < last + AFTER) {
        if last.is_none() && progress.done.load(Ordering::Acquire) {
            last = Some(sequence);
        }
        for (side, to) in sides.iter().zip(targets) {
            side.say(sequence, to);
        }
        sequence = sequence.checked_add(1).expect("fewer than 65,536 packets");
        progress.sent.store(sequence, Ordering::Relaxed);
        std::thread::park_timeout(pace);
        sides.iter_mut().for_each(Counted::listen);
        let least = sides.iter().map(|side| side.heard.len()).min();
        progress.heard.store(least.unwrap_or(0), Ordering::Relaxed);
    }
    // What never comes is told by `ends`.
    let from = progress.from.load(Ordering::Relaxed);
    let _ = wait::try_until(wait::PATIENCE, || {
        sides.iter_mut().for_each(Counted::listen);
        let all = |side: &Counted| (from..sequence).all(|n| side.heard.contains(&n));
        sides.iter().all(all).then_some(())
    });
    sides
}
