//! Floods a relay with RTP at a given rate and accounts for every packet of every flow.

use crate::netns::{Network, PEER_MAC};
use crate::packet::{BATCH, Receiver, Transmitter};
use crate::plan::{self, FRAME};
use crate::process;
use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Silence after which what has not come back will not.
const DRAIN: Duration = Duration::from_millis(250);
/// A generator that was not run for this long does not catch up by a burst that no relay could take.
const MAX_BEHIND: Duration = Duration::from_millis(2);
/// The longest latency that the histogram tells apart, in nanoseconds.
const MAX_LATENCY: u64 = 10_000_000_000;

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Packets per second over all flows.
    pub rate: f64,
    pub time: Duration,
}

/// What became of one load.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Packets per second that were asked for, and that the generator brought about.
    pub asked: f64,
    pub offered: f64,
    pub sent: u64,
    pub received: u64,
    /// Came late or twice.
    pub disordered: u64,
    /// Came back, but the generator had no room.
    pub unseen: u64,
    /// Flows of which less than all came back, and of which nothing did.
    pub flows_with_loss: u32,
    pub flows_silent: u32,
    /// Microseconds from before the send to the arrival of the copy.
    pub latency_us: Latency,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Outcome {
    /// Packets that did not come back.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// Lost packets per packet sent.
    pub fn loss(&self) -> f64 {
        self.lost() as f64 / (self.sent.max(1)) as f64
    }

    /// Whether the generator managed the rate. The kernel keeps 5 % of a core from real-time processes, so it never does quite.
    pub fn reached(&self) -> bool {
        self.offered >= 0.9 * self.asked
    }
}

/// Read by others while a load runs.
#[derive(Debug, Default)]
pub struct Progress {
    pub received: AtomicU64,
}

/// Accounts for one flow.
#[derive(Clone, Copy, Default)]
struct Flow {
    /// The next packet's number. Never starts over, so that a straggler of the last load is known.
    next: u64,
    /// The first number of this load.
    first: u64,
    received: u64,
    highest: u64,
}

pub struct Generator {
    transmitter: Transmitter,
    receiver: Receiver,
    frames: Vec<[u8; FRAME]>,
    flows: Vec<Flow>,
    core: usize,
}

impl Generator {
    /// A generator of `flows` flows; leg i sends to `targets[i]`. Runs on `core`.
    pub fn new(
        network: &Network,
        targets: &[SocketAddrV4],
        flows: u16,
        core: usize,
    ) -> Result<Generator> {
        let link = network.peer_link();
        let (transmitter, receiver) =
            network.in_peers(|| Ok((Transmitter::new(link)?, Receiver::new(link)?)))?;
        let macs = (network.relay_mac, PEER_MAC);
        let legs = (0..).zip(targets);
        Ok(Generator {
            transmitter,
            receiver,
            frames: legs.map(|(leg, &to)| plan::frame(leg, to, macs)).collect(),
            flows: vec![Flow::default(); usize::from(flows)],
            core,
        })
    }

    /// Lets every leg send a few packets, so that the relay learns where each is.
    pub fn introduce(&mut self) -> Result<()> {
        let flows = self.flows.len();
        self.flows.resize(self.frames.len(), Flow::default());
        let legs = self.frames.len() as f64;
        let load = Load {
            rate: (legs * 10.0).clamp(100.0, 20_000.0),
            time: Duration::from_millis(1500),
        };
        let outcome = self.run(load, &Progress::default())?;
        self.flows.truncate(flows);
        anyhow::ensure!(
            outcome.flows_silent == 0,
            "{} of {legs} legs are not heard through the relay",
            outcome.flows_silent
        );
        Ok(())
    }

    /// Sends `load`, each flow in turn, and waits for what comes back.
    pub fn run(&mut self, load: Load, progress: &Progress) -> Result<Outcome> {
        let core = self.core;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                process::pin(core)?;
                self.flood(load, progress)
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn flood(&mut self, load: Load, progress: &Progress) -> Result<Outcome> {
        let mut latency: Histogram<u64> = Histogram::new_with_bounds(1, MAX_LATENCY, 3)?;
        for flow in &mut self.flows {
            (flow.first, flow.received) = (flow.next, 0);
        }
        self.receiver.dropped()?;
        let (mut sent, mut received, mut disordered) = (0u64, 0u64, 0u64);
        let (mut turn, mut batch) = (0, [[0; FRAME]; BATCH]);
        let start = Instant::now();
        // What is due is counted from here, which moves when the generator was kept from running.
        let mut origin = start;
        let mut origin_sent = 0u64;
        let mut heard = start;
        let mut ended = None;
        loop {
            let now = Instant::now();
            if now - start < load.time {
                let due = (now - origin).as_secs_f64() * load.rate - (sent - origin_sent) as f64;
                if due > MAX_BEHIND.as_secs_f64() * load.rate + BATCH as f64 {
                    (origin, origin_sent) = (now, sent);
                }
                let count = (due.max(0.0) as usize).min(BATCH);
                if count > 0 {
                    sent += self.send(&mut batch, count, &mut turn) as u64;
                }
            } else {
                ended.get_or_insert(now);
                if now - heard.max(start + load.time) > DRAIN {
                    break;
                }
            }
            let flows = &mut self.flows;
            let some = self.receiver.poll(|frame, arrived| {
                let Some(packet) = plan::returned(frame) else {
                    return;
                };
                let Some(flow) = flows.get_mut(usize::from(packet.flow)) else {
                    return;
                };
                if packet.number < flow.first {
                    return;
                }
                if flow.received > 0 && packet.number <= flow.highest {
                    disordered += 1;
                }
                flow.highest = flow.highest.max(packet.number);
                flow.received += 1;
                received += 1;
                latency.saturating_record(arrived.saturating_sub(packet.stamp));
            });
            if some {
                heard = now;
                progress.received.store(received, Ordering::Relaxed);
            }
        }
        let time = ended.unwrap_or(start) - start;
        self.outcome(load, time, (sent, received, disordered), &latency)
    }

    /// Sends the next packets of the next flows; returns how many left.
    fn send(&mut self, batch: &mut [[u8; FRAME]; BATCH], count: usize, turn: &mut usize) -> usize {
        let flows = self.flows.len();
        for (slot, at) in batch.iter_mut().zip(0..count) {
            let index = (*turn + at) % flows;
            *slot = self.frames[index];
            // A flow may come twice in a batch where there are few.
            let number = self.flows[index].next + (at / flows) as u64;
            plan::stamp(slot, number, wall_nanos());
        }
        let sent = self.transmitter.send(&batch[..count]);
        for at in 0..sent {
            self.flows[(*turn + at) % flows].next += 1;
        }
        *turn = (*turn + sent) % flows;
        sent
    }

    fn outcome(
        &self,
        load: Load,
        time: Duration,
        (sent, received, disordered): (u64, u64, u64),
        latency: &Histogram<u64>,
    ) -> Result<Outcome> {
        let count = |wanted: &dyn Fn(&Flow) -> bool| {
            self.flows.iter().filter(|flow| wanted(flow)).count() as u32
        };
        let micros = |quantile: f64| latency.value_at_quantile(quantile) as f64 / 1000.0;
        Ok(Outcome {
            asked: load.rate,
            offered: sent as f64 / time.as_secs_f64().max(1e-9),
            sent,
            received,
            disordered,
            unseen: self.receiver.dropped()?,
            flows_with_loss: count(&|flow| flow.received < flow.next - flow.first),
            flows_silent: count(&|flow| flow.received == 0 && flow.next > flow.first),
            latency_us: Latency {
                p50: micros(0.5),
                p99: micros(0.99),
                p999: micros(0.999),
                max: latency.max() as f64 / 1000.0,
            },
        })
    }
}

fn wall_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}
