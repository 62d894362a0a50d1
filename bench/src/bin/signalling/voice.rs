//! What one established call hears while signalling keeps the control thread of its core busy, beside the same without.

mod call;
mod rtp;

use crate::load::{Load, Outcome, play};
use crate::subject::{CPU, Kind, PEERS_CPU, Subject};
use anyhow::{Context as _, Result, ensure};
use call::Call;
use rtp::Party;
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between two packets of a party.
const PACE: Duration = Duration::from_millis(20);
/// How long both sides may take to hear each other, and the last packets to arrive.
const SETTLE: Duration = Duration::from_secs(2);
/// More calls than the edge carries on one core: some are refused, or wait.
const OVERLOAD: u32 = 4_000;
/// Calls at the edge from which on it is taken for loaded.
const LOADED: u32 = 500;

/// The parties of the measured call: a carrier and a platform of their own.
const TRUNKS: &str = r#"
[[trunk]]
name = "voice-carrier"
allow = ["CARRIER/32"]

[[trunk]]
name = "voice-ai"
allow = ["PLATFORM/32"]
uri = "sip:PLATFORM:5070;transport=tcp"

[[route]]
from = "voice-carrier"
number = "+1999*"
to = "voice-ai"
"#;

/// Packets of both directions together.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Heard {
    pub sent: u64,
    pub lost: u64,
    /// From the sender's `send` to the kernel's timestamp at the receiver, in microseconds: loopback and relay.
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
    /// Share of its core that the edge used meanwhile.
    pub busy: f64,
}

/// One round.
#[derive(Clone, Debug, Serialize)]
pub struct Voice {
    pub quiet: Heard,
    pub loaded: Heard,
    /// What the load itself came to.
    pub load: Outcome,
    /// Scheduling class of the media thread, as the kernel says.
    pub media_thread: &'static str,
}

/// A call is heard for `seconds` without and as long with the overload, `rounds` times.
pub fn measure(rounds: usize, seconds: u32) -> Result<Vec<Voice>> {
    (0..rounds).map(|_| round(seconds)).collect()
}

fn round(seconds: u32) -> Result<Voice> {
    let [carrier, platform] = [12, 13].map(|last| Kind::Edge.address(last));
    let trunks = TRUNKS
        .replace("CARRIER", &carrier)
        .replace("PLATFORM", &platform);
    let subject = Subject::start_with(Kind::Edge, |text| text + &trunks)?;
    let [carrier, platform]: [IpAddr; 2] = [carrier.parse()?, platform.parse()?];
    let parties = [Party::bind(carrier, 1)?, Party::bind(platform, 2)?];
    let edge: SocketAddr = format!("{}:5060", Kind::Edge.address(1)).parse()?;
    let addresses = [parties[0].address()?, parties[1].address()?];
    let call = Call::establish(edge, carrier, SocketAddr::new(platform, 5070), addresses)?;
    let line = Line {
        parties,
        to: call.media,
    };
    line.introduce()?;
    let media_thread = scheduling(subject.process.pid())?;
    let length = Duration::from_secs(seconds.into());
    let quiet = on_the_peers_cpu(|| line.hear(&subject, length))?;
    // It goes on for longer than what is measured, which begins when it is under way.
    let load = Load::of("overload", OVERLOAD, seconds + 4);
    let (begin, mut under_way) = (AtomicBool::new(false), false);
    let (load, loaded) = std::thread::scope(|scope| {
        let hearing = scope.spawn(|| {
            while !begin.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(10));
            }
            prefer(PEERS_CPU);
            line.hear(&subject, length)
        });
        let load = play(&subject, load, || {
            if !under_way {
                under_way = subject.active() >= LOADED;
                begin.store(under_way, Ordering::Release);
            }
        });
        begin.store(true, Ordering::Release);
        let heard = hearing
            .join()
            .map_err(|_| anyhow::anyhow!("the line broke"))?;
        Ok::<_, anyhow::Error>((load?, heard?))
    })?;
    ensure!(under_way, "the load never was under way");
    call.hang_up().context("after the load")?;
    let voice = Voice {
        quiet,
        loaded,
        load,
        media_thread,
    };
    tell(&voice);
    Ok(voice)
}

fn tell(voice: &Voice) {
    for (name, heard) in [("quiet", &voice.quiet), ("overload", &voice.loaded)] {
        println!(
            "sip-edge: a call beside {name}: {} of {} packets lost, p50 {:.0}, p99 {:.0}, most {:.0} us, core {:.0} % busy",
            heard.lost,
            heard.sent,
            heard.p50_us,
            heard.p99_us,
            heard.max_us,
            heard.busy * 100.0
        );
    }
}

/// Both parties' media, and where the edge wants it.
struct Line {
    parties: [Party; 2],
    to: [SocketAddr; 2],
}

impl Line {
    /// Until each has heard the other: the relay knows both then.
    fn introduce(&self) -> Result<()> {
        let end = Instant::now() + SETTLE;
        let mut heard = [false; 2];
        while heard != [true; 2] {
            ensure!(Instant::now() < end, "the call is silent");
            for (party, to) in self.parties.iter().zip(self.to) {
                party.send(0, to)?;
            }
            std::thread::sleep(PACE);
            for (party, heard) in self.parties.iter().zip(&mut heard) {
                while party.receive()?.is_some() {
                    *heard = true;
                }
            }
        }
        Ok(())
    }

    /// 50 packets a second each way.
    fn hear(&self, subject: &Subject, length: Duration) -> Result<Heard> {
        let (begun, before) = (Instant::now(), subject.process.cpu());
        let count = length.as_millis() as u64 / PACE.as_millis() as u64;
        let mut arrived = [
            vec![None; count as usize + 1],
            vec![None; count as usize + 1],
        ];
        let mut collect = || -> Result<()> {
            for (party, arrived) in self.parties.iter().zip(&mut arrived) {
                while let Some(arrival) = party.receive()? {
                    // Number 0 is of the introduction.
                    let place = arrived.get_mut(arrival.number as usize);
                    if let Some(place) = place.filter(|_| arrival.number > 0) {
                        *place = Some(arrival.took);
                    }
                }
            }
            Ok(())
        };
        for number in 1..=count {
            for (side, (party, to)) in self.parties.iter().zip(self.to).enumerate() {
                // The two directions take turns.
                let at = begun + PACE * number as u32 + PACE / 2 * side as u32;
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
                party.send(number, to)?;
                collect()?;
            }
        }
        let busy = subject.process.cpu().saturating_sub(before).as_secs_f64();
        let elapsed = begun.elapsed().as_secs_f64();
        std::thread::sleep(SETTLE);
        collect()?;
        let mut took: Vec<u64> = arrived.iter().flatten().filter_map(|took| *took).collect();
        took.sort_unstable();
        let sent = 2 * count;
        Ok(Heard {
            sent,
            lost: sent - took.len() as u64,
            p50_us: at(&took, 0.5),
            p99_us: at(&took, 0.99),
            max_us: at(&took, 1.0),
            busy: busy / elapsed,
        })
    }
}

/// A quantile of sorted nanoseconds, in microseconds; 0 of none.
fn at(sorted: &[u64], quantile: f64) -> f64 {
    let place = (sorted.len() as f64 * quantile).ceil() as usize;
    let value = sorted.get(place.saturating_sub(1)).or(sorted.last());
    value.map_or(0.0, |nanos| *nanos as f64 / 1e3)
}

/// Runs `action` on a thread of the peers' CPU, where it goes before SIPp.
fn on_the_peers_cpu<T: Send>(action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            prefer(PEERS_CPU);
            action()
        });
        let result = thread.join();
        result.map_err(|_| anyhow::anyhow!("the line broke"))?
    })
}

/// Binds the calling thread to `cpu`, before everything else there if that is permitted. Neither is necessary: a packet carries
/// the time at which it left.
fn prefer(cpu: usize) {
    let parameters = libc::sched_param { sched_priority: 2 };
    // SAFETY: a cpu_set_t is plain data; the pointers are to locals that outlive the calls. CPU_SET bounds-checks.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
        libc::sched_setscheduler(0, libc::SCHED_RR, &raw const parameters);
    }
}

/// What the media thread of the edge's core runs as.
fn scheduling(pid: u32) -> Result<&'static str> {
    let name = format!("media-{CPU}");
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        let comm = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        if comm.trim() != name {
            continue;
        }
        let stat = std::fs::read_to_string(path.join("stat"))?;
        let (_, rest) = stat.rsplit_once(") ").context("not a stat")?;
        // proc(5): `policy` is field 41, the state behind the name field 3.
        return Ok(match rest.split(' ').nth(38) {
            Some("1" | "2") => "real-time",
            _ => "ordinary",
        });
    }
    anyhow::bail!("the edge has no thread {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_arrived() {
        assert_eq!(at(&[], 0.5), 0.0);
        let took: Vec<u64> = (1..=100).map(|n| n * 1000).collect();
        assert_eq!(
            (at(&took, 0.5), at(&took, 0.99), at(&took, 1.0)),
            (50.0, 99.0, 100.0)
        );
    }
}
