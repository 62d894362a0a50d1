//! An RTP endpoint whose packets carry a payload of its own, and which counts whom it heard.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::wait;

/// RTP header (12 bytes) and 20 ms of PCMU.
const PACKET: usize = 172;
const PTIME: Duration = Duration::from_millis(20);

#[derive(Default)]
struct State {
    /// Where our packets go; `None`: we are silent.
    target: Option<SocketAddr>,
    /// 0 is PCMU.
    payload_type: u8,
    /// Packets that we sent.
    spoken: usize,
    /// Packets by the voice they carried.
    heard: BTreeMap<u8, usize>,
}

/// One party's media. It speaks while [`RtpParty::speak_to`] says so, and always listens.
pub struct RtpParty {
    /// The byte that fills its payloads.
    pub voice: u8,
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl RtpParty {
    /// Binds an even port at `ip`.
    pub fn new(ip: IpAddr, voice: u8) -> RtpParty {
        let socket = (6000..9000)
            .step_by(2)
            .find_map(|port| UdpSocket::bind((ip, port)).ok())
            .expect("a free RTP port");
        let address = socket.local_addr().expect("a bound socket");
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("a read timeout");
        let state = Arc::new(Mutex::new(State::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let listener = socket.try_clone().expect("a second handle");
        let threads = vec![
            std::thread::spawn({
                let (state, stop) = (state.clone(), stop.clone());
                move || listen(&listener, &state, &stop)
            }),
            std::thread::spawn({
                let (state, stop) = (state.clone(), stop.clone());
                move || speak(&socket, voice, &state, &stop)
            }),
        ];
        RtpParty {
            voice,
            address,
            state,
            stop,
            threads,
        }
    }

    /// Sends to `target` from now on.
    pub fn speak_to(&self, target: SocketAddr) {
        self.state.lock().expect("the state").target = Some(target);
    }

    /// Another payload type than PCMU's from now on.
    pub fn uses_payload_type(&self, number: u8) {
        self.state.lock().expect("the state").payload_type = number;
    }

    /// Packets sent so far.
    pub fn spoken(&self) -> usize {
        self.state.lock().expect("the state").spoken
    }

    /// Packets with `voice` that arrived so far.
    pub fn heard(&self, voice: u8) -> usize {
        *self
            .state
            .lock()
            .expect("the state")
            .heard
            .get(&voice)
            .unwrap_or(&0)
    }

    /// Packets of anybody that arrived so far.
    pub fn heard_anything(&self) -> usize {
        self.state.lock().expect("the state").heard.values().sum()
    }

    /// Waits until `count` more packets of `other` arrived.
    pub fn hears(&self, other: &RtpParty, count: usize) {
        self.hears_voice(other.voice, count);
    }

    /// Waits until `count` more packets with `voice` arrived.
    pub fn hears_voice(&self, voice: u8, count: usize) {
        let goal = self.heard(voice) + count;
        wait::until(&format!("{} hears voice {voice:#x}", self.address), || {
            (self.heard(voice) >= goal).then_some(())
        });
    }
}

impl Drop for RtpParty {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn listen(socket: &UdpSocket, state: &Mutex<State>, stop: &AtomicBool) {
    let mut packet = [0u8; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, _)) = socket.recv_from(&mut packet) else {
            continue;
        };
        if length > 12 {
            let voice = packet[length - 1];
            *state
                .lock()
                .expect("the state")
                .heard
                .entry(voice)
                .or_default() += 1;
        }
    }
}

fn speak(socket: &UdpSocket, voice: u8, state: &Mutex<State>, stop: &AtomicBool) {
    let mut sequence = 1u16;
    let mut packet = [voice; PACKET];
    while !stop.load(Ordering::Relaxed) {
        let (target, payload_type) = {
            let state = state.lock().expect("the state");
            (state.target, state.payload_type)
        };
        if let Some(target) = target {
            packet[0] = 0x80;
            packet[1] = payload_type;
            packet[2..4].copy_from_slice(&sequence.to_be_bytes());
            packet[4..8].copy_from_slice(&(u32::from(sequence) * 160).to_be_bytes());
            packet[8..12].copy_from_slice(&[0x5e, 0xed, 0, voice]);
            if socket.send_to(&packet, target).is_ok() {
                state.lock().expect("the state").spoken += 1;
            }
            sequence = sequence.wrapping_add(1);
        }
        // The pace of a phone, not a wait for anything.
        std::thread::park_timeout(PTIME);
    }
}
