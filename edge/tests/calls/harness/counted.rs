//! A call's RTP with every packet numbered, both ways: what is lost between the parties is known by number.

use super::wait;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// RTP header (12 bytes) and 20 ms of PCMU.
const PACKET: usize = 172;
const PTIME: Duration = Duration::from_millis(20);
/// The first packets may come before the other side has latched.
const LATCH: u16 = 25;
/// Packets after the end was asked for, so that what was on its way arrives or is missed.
const AFTER: u16 = 10;

/// One side: numbered packets out, numbers in.
pub struct Counted {
    socket: UdpSocket,
    heard: BTreeSet<u16>,
}

impl Counted {
    pub fn bind(ip: IpAddr) -> Counted {
        let socket = UdpSocket::bind((ip, 0)).expect("a port");
        socket.set_nonblocking(true).expect("a socket option");
        Counted {
            socket,
            heard: BTreeSet::new(),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("a bound socket")
    }

    fn say(&self, sequence: u16, to: SocketAddr) {
        let mut packet = [0xd5; PACKET];
        packet[..2].copy_from_slice(&[0x80, 0]);
        packet[2..4].copy_from_slice(&sequence.to_be_bytes());
        packet[4..8].copy_from_slice(&(u32::from(sequence) * 160).to_be_bytes());
        packet[8..12].copy_from_slice(&[1, 2, 3, 4]);
        self.socket.send_to(&packet, to).expect("sends");
    }

    fn listen(&mut self) {
        let mut packet = [0; 2048];
        while let Ok(length) = self.socket.recv(&mut packet) {
            if length == PACKET {
                let number = u16::from_be_bytes([packet[2], packet[3]]);
                self.heard.insert(number);
            }
        }
    }
}

/// Two sides that talk at the pace of phones until [`Conversation::ends`].
pub struct Conversation {
    done: Arc<AtomicBool>,
    /// Packets that both sides have heard, by the lesser of the two.
    heard: Arc<AtomicUsize>,
    thread: Option<JoinHandle<(Counted, Counted, u16)>>,
}

impl Conversation {
    /// Each side speaks to where its SDP told it.
    pub fn begins(one: (Counted, SocketAddr), other: (Counted, SocketAddr)) -> Conversation {
        let done = Arc::new(AtomicBool::new(false));
        let heard = Arc::new(AtomicUsize::new(0));
        let thread = std::thread::spawn({
            let (done, heard) = (done.clone(), heard.clone());
            move || talk(one, other, &done, &heard)
        });
        Conversation {
            done,
            heard,
            thread: Some(thread),
        }
    }

    /// Waits until both sides have heard `count` packets more.
    pub fn goes_on(&self, count: usize) {
        let goal = self.heard.load(Ordering::Relaxed) + count;
        wait::until("both sides hear each other", || {
            (self.heard.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    /// Both sides have latched.
    pub fn is_up(&self) {
        self.goes_on(usize::from(LATCH));
    }

    /// Lets what was sent arrive, asserts that nothing was lost, and gives how many packets each side sent.
    pub fn ends(mut self) -> u16 {
        self.done.store(true, Ordering::Release);
        let thread = self.thread.take().expect("ends once");
        let (one, other, sent) = thread.join().expect("the parties talked");
        let wanted: BTreeSet<u16> = (LATCH..sent).collect();
        for party in [&one, &other] {
            let lost: Vec<_> = wanted.difference(&party.heard).collect();
            let who = party.address();
            assert!(lost.is_empty(), "{who} of {sent} packets misses {lost:?}");
        }
        sent
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
    }
}

fn talk(
    (mut one, from_one): (Counted, SocketAddr),
    (mut other, from_other): (Counted, SocketAddr),
    done: &AtomicBool,
    heard: &AtomicUsize,
) -> (Counted, Counted, u16) {
    let mut sequence = 0u16;
    let mut last = None;
    while last.is_none_or(|last| sequence < last + AFTER) {
        if last.is_none() && done.load(Ordering::Acquire) {
            last = Some(sequence);
        }
        one.say(sequence, from_one);
        other.say(sequence, from_other);
        sequence += 1;
        std::thread::park_timeout(PTIME);
        one.listen();
        other.listen();
        heard.store(one.heard.len().min(other.heard.len()), Ordering::Relaxed);
    }
    // What never comes is told by `ends`.
    let _ = wait::try_until(wait::PATIENCE, || {
        one.listen();
        other.listen();
        let all = |party: &Counted| (LATCH..sequence).all(|n| party.heard.contains(&n));
        (all(&one) && all(&other)).then_some(())
    });
    (one, other, sequence)
}
