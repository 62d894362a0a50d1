//! One load through one relay, with what it cost.

use crate::generator::{Generator, Load, Outcome, Progress};
use crate::netns::Network;
use crate::plan;
use crate::process;
use crate::relay::{Kind, Relay, Start};
use anyhow::Result;
use serde::Serialize;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The part of a load at either end in which processor time is not counted.
const RAMP: f64 = 0.1;

/// Cores that are used.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cores {
    pub relay: usize,
    pub generator: usize,
}

/// A relay and the generator that speaks to it.
pub struct Bed {
    pub relay: Relay,
    pub generator: Generator,
    cores: Cores,
}

/// A load and what it cost.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    pub outcome: Outcome,
    /// Processor time of the relay's process per packet that it passed, in microseconds.
    pub cpu_us: f64,
    /// Share of the relay's core that was busy, whoever used it.
    pub core_busy: f64,
    /// UDP packets that the relay's sockets had no room for.
    pub socket_drops: u64,
    /// Packets that left the relay and that the generator's end of the link had no room for.
    pub link_drops: u64,
    /// Packets that the relay received and says that it dropped; `None` where it tells nothing.
    pub relay_drops: Option<u64>,
}

impl Sample {
    /// Packets that left the relay and that the generator had no room for, on its end of the link or in its own memory.
    pub fn unheard(&self) -> u64 {
        self.link_drops + self.outcome.unseen
    }

    /// Packets that are missing and that nobody has counted; `None` where the relay tells nothing. Negative for more drops than
    /// packets are missing.
    pub fn unaccounted(&self) -> Option<i64> {
        let counted = self.socket_drops + self.relay_drops? + self.unheard();
        Some(self.outcome.lost() as i64 - counted as i64)
    }
}

impl Bed {
    pub fn new(
        kind: Kind,
        network: &Network,
        flows: u16,
        cores: Cores,
        tuning: &[String],
    ) -> Result<Bed> {
        let start = Start {
            flows,
            core: cores.relay,
            tuning: tuning.to_vec(),
        };
        let relay = Relay::start(kind, network, &start)?;
        debug_assert_eq!(relay.targets.len(), usize::from(plan::legs(flows)));
        let mut generator = Generator::new(network, &relay.targets, flows, cores.generator)?;
        generator.introduce()?;
        Ok(Bed {
            relay,
            generator,
            cores,
        })
    }

    pub fn run(&mut self, network: &Network, load: Load) -> Result<Sample> {
        let (drops, link_drops) = (network.relay_socket_drops()?, network.link_drops()?);
        let relay_drops = self.relay.drops()?;
        let progress = Progress::default();
        let (relay, generator, core) = (&self.relay, &mut self.generator, self.cores.relay);
        let (outcome, cost) = std::thread::scope(|scope| {
            let running = scope.spawn(|| generator.run(load, &progress));
            let cost = cost(relay, core, load.time, &progress);
            let outcome = running
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (outcome, cost)
        });
        let (cpu_us, core_busy) = cost?;
        Ok(Sample {
            outcome: outcome?,
            cpu_us,
            core_busy,
            socket_drops: network.relay_socket_drops()? - drops,
            link_drops: network.link_drops()? - link_drops,
            relay_drops: match (relay_drops, self.relay.drops()?) {
                (Some(before), Some(after)) => Some(after - before),
                _ => None,
            },
        })
    }
}

/// What the relay uses in the middle of a load: microseconds per packet, and how busy its core is.
fn cost(relay: &Relay, core: usize, time: Duration, progress: &Progress) -> Result<(f64, f64)> {
    let reading = || -> Result<_> {
        let packets = progress.received.load(Ordering::Relaxed);
        Ok((
            Instant::now(),
            relay.cpu_time()?,
            process::core_busy(core)?,
            packets,
        ))
    };
    std::thread::sleep(time.mul_f64(RAMP));
    let before = reading()?;
    std::thread::sleep(time.mul_f64(1.0 - 2.0 * RAMP));
    let after = reading()?;
    let packets = (after.3 - before.3).max(1) as f64;
    Ok((
        (after.1 - before.1).as_secs_f64() * 1e6 / packets,
        (after.2 - before.2).as_secs_f64() / (after.0 - before.0).as_secs_f64(),
    ))
}
