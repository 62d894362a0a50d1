//! The media thread of sip-edge, driven by the commands that a control thread would give.

use crate::plan;
use crate::process;
use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use edge_proto::id::AllocationId;
use edge_proto::relay::{DropReason, LatchMode, MediaCommand, MediaEvent, PayloadMap, RemoteMedia};
use sip_edge::access::MediaGuard;
use sip_edge::clock::Clock;
use sip_edge::handoff::{Receiver, Sender, bounded};
use sip_edge::media::link::service::LinkService;
use sip_edge::media::occupied::OccupiedPorts;
use sip_edge::media::steering::Steering;
use sip_edge::media::{Hub, MediaCounters, MediaOptions, Setup, Sharing, Worker, priority};
use std::io::BufRead;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Commands under way at a time; below the queue's capacity.
const WINDOW: u16 = 32;
const ANSWER: Duration = Duration::from_secs(10);

/// What can be told otherwise than the daemon would.
#[derive(Args, Clone, Debug)]
pub struct Tuning {
    /// How long packets may gather, in microseconds.
    #[arg(long)]
    batch_us: Option<u64>,
    /// How long to look for packets before sleeping, in microseconds.
    #[arg(long)]
    busy_poll_us: Option<u64>,
    /// Receive buffers.
    #[arg(long)]
    buffers: Option<u16>,
    /// Each flow has sockets of its own alone.
    #[arg(long)]
    no_steering: bool,
    /// Everything leaves through the kernel's IP.
    #[arg(long)]
    no_fast_path: bool,
    /// How the media thread is scheduled.
    #[arg(long, value_enum, default_value = "preferred")]
    scheduling: Scheduling,
    /// A thread that never sleeps on the same core, as a control thread under a storm of calls.
    #[arg(long)]
    busy_control: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Scheduling {
    /// As in the daemon: real time, or else nice.
    Preferred,
    /// The best that is to be had without real time.
    Nice,
    /// As any thread.
    Ordinary,
}

impl Scheduling {
    fn apply(self) -> Result<()> {
        match self {
            Scheduling::Preferred => {
                priority::prefer();
            }
            Scheduling::Nice => {
                process::do_not_prefer();
                priority::precise_timers();
                priority::nice(-20)?;
            }
            Scheduling::Ordinary => {
                process::do_not_prefer();
                priority::precise_timers();
            }
        }
        Ok(())
    }
}

impl Tuning {
    fn options(&self, legs: u16) -> MediaOptions {
        let default = MediaOptions::default();
        let micros = |given: Option<u64>, default| given.map_or(default, Duration::from_micros);
        MediaOptions {
            allocations: u32::from(legs),
            batch: micros(self.batch_us, default.batch),
            busy_poll: micros(self.busy_poll_us, default.busy_poll),
            buffers: self.buffers.unwrap_or(default.buffers),
            shared_buffers: self.buffers.unwrap_or(default.shared_buffers),
            ..default
        }
    }
}

struct Control {
    commands: Sender<MediaCommand>,
    events: Receiver<MediaEvent>,
}

/// Relays between legs 2k and 2k+1 until its input ends.
pub fn run(legs: u16, core: usize, tuning: &Tuning) -> Result<()> {
    super::raise_open_files();
    let (commands, queue) = bounded(1024)?;
    let (event_sender, events) = bounded(1024)?;
    let counters = Arc::new(MediaCounters::default());
    let stop = Arc::new(AtomicBool::new(false));
    // Attached until the process ends.
    let hub = match tuning.no_steering {
        true => None,
        false => {
            let ports = plan::RELAY_RANGE.0..=plan::RELAY_RANGE.1;
            let steering = Steering::attach([plan::RELAY.into()])?;
            // The namespace is the bench's own.
            let occupied = Arc::new(OccupiedPorts::new([]));
            Some(Hub::open(
                steering.thread(0)?,
                (&ports, occupied),
                Sharing::Ports,
            ))
        }
    };
    // Looked after until the process ends.
    let ways = match tuning.no_steering || tuning.no_fast_path {
        true => None,
        false => {
            let (service, mut ways) = LinkService::new(1)?;
            std::thread::Builder::new()
                .name("links".into())
                .spawn(move || service.run())?;
            ways.pop()
        }
    };
    let setup = Setup {
        clock: Clock::start(),
        options: tuning.options(legs),
        commands: queue,
        events: event_sender,
        counters: counters.clone(),
        guard: MediaGuard::absent(),
        hub,
        ways,
        stop: stop.clone(),
    };
    let waker = setup.commands.waker().clone();
    if tuning.busy_control {
        std::thread::spawn(move || {
            process::do_not_prefer();
            if process::pin(core).is_ok() {
                loop {
                    std::hint::spin_loop();
                }
            }
        });
    }
    let scheduling = tuning.scheduling;
    let media = std::thread::Builder::new()
        .name("media-0".into())
        .spawn(move || {
            let result = process::pin(core)
                .and_then(|()| scheduling.apply())
                .and_then(|()| Ok(Worker::new(setup)?.run()?));
            if let Err(error) = result {
                eprintln!("the media thread ended: {error}");
                std::process::exit(1);
            }
        })?;
    let control = Control { commands, events };
    for first in (0..legs).step_by(usize::from(WINDOW)) {
        control.open(first..legs.min(first + WINDOW))?;
    }
    let events = control.events;
    // Nobody needs them, but they must not pile up.
    std::thread::spawn(move || while events.recv_timeout(None).is_ok() {});
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        line?;
        println!("{}", told(&counters));
    }
    // Closes the sockets: those of a ring that is dropped with its process stay bound for a while.
    stop.store(true, Ordering::Release);
    waker.wake();
    media
        .join()
        .map_err(|_| anyhow!("the media thread panicked"))
}

fn id(leg: u16) -> AllocationId {
    AllocationId {
        slot: u32::from(leg),
        generation: 1,
    }
}

impl Control {
    fn send(&self, command: MediaCommand) -> Result<()> {
        self.commands
            .try_send(command)
            .map_err(|_| anyhow!("the command queue is full"))
    }

    fn open(&self, legs: std::ops::Range<u16>) -> Result<()> {
        for leg in legs.clone() {
            self.send(MediaCommand::Open {
                allocation: id(leg),
                local: plan::local(leg).into(),
                latch: LatchMode::Signalling,
            })?;
        }
        for _ in legs.clone() {
            match self.events.recv_timeout(Some(ANSWER))? {
                Some(MediaEvent::Opened { .. }) => {}
                Some(MediaEvent::OpenFailed { reason, .. }) => bail!(reason),
                // First packets of legs opened before.
                Some(_) => {}
                None => {}
            }
        }
        for leg in legs.clone() {
            let rtp: SocketAddr = plan::peer(leg).into();
            let mut rtcp = rtp;
            rtcp.set_port(rtp.port() + 1);
            self.send(MediaCommand::SetRemote {
                allocation: id(leg),
                remote: RemoteMedia {
                    rtp,
                    rtcp,
                    signalling: rtp.ip(),
                },
            })?;
        }
        let map = || {
            Some(PayloadMap {
                entries: vec![(0, 0)],
                ..PayloadMap::default()
            })
        };
        for leg in legs.clone().step_by(2) {
            self.send(MediaCommand::Bridge {
                a: id(leg),
                b: id(leg + 1),
                a_to_b: map(),
                b_to_a: map(),
            })?;
        }
        // A close is answered, so everything before it is done.
        let nobody = AllocationId {
            slot: u32::MAX,
            generation: 0,
        };
        self.send(MediaCommand::Close { allocation: nobody })?;
        loop {
            let event = self.events.recv_timeout(Some(ANSWER))?;
            let event = event.context("the media thread does not answer")?;
            if matches!(event, MediaEvent::Closed { .. }) {
                return Ok(());
            }
        }
    }
}

fn told(counters: &MediaCounters) -> serde_json::Value {
    let dropped: serde_json::Map<_, _> = DropReason::ALL
        .iter()
        .map(|&reason| (reason.as_str().to_owned(), counters.dropped(reason).into()))
        .collect();
    serde_json::json!({
        "received": counters.io_uring.received.get(),
        "sent": counters.io_uring.sent.get(),
        "dropped": dropped,
        "connected": counters.connected_sockets.get(),
        "sent_by_link": counters.sent_by_link.get(),
        "steered": counters.steered_flows.get(),
        "buffers_exhausted": counters.buffers_exhausted.get(),
        "completion_overflows": counters.completion_overflows.get(),
        "events_delayed": counters.events_delayed.get(),
        "latency": counters.relay_latency.cumulative(),
    })
}
