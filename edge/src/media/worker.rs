//! The loop of a media thread: completions in, verdicts, sends out, and between them commands and timers.

use super::Setup;
use super::counters::MediaCounters;
use super::endpoint::SETTLE;
use super::error::MediaError;
use super::files::FilePairs;
use super::hub::{self, Hub};
use super::latency::LatencySampler;
use super::link::table::WayTable;
use super::pace::Pace;
use super::ring::{Completion, Ring, RingOptions, Wait};
use super::token::{Kind, Token};
use crate::access::MediaGuard;
use crate::clock::Clock;
use crate::handoff::{Full, Receiver, Sender};
use edge_proto::id::AllocationId;
use edge_proto::relay::{
    Component, DropReason, MediaCommand, MediaEvent, Relay, RelayConfig, RelayOutput,
};
use edge_proto::time::Instant;
use flows::{Flow, Room, endpoint};
use overflows::OverflowSearch;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Commands carried out between two looks at the network: a bind takes about 10 us, and packets must not wait long.
const COMMANDS_PER_TURN: usize = 16;

/// How soon to try again to hand over events that found the queue full.
const EVENT_RETRY: Duration = Duration::from_millis(2);

/// How soon to look again whether an interface takes the frames that it did not take.
const LINK_RETRY: Duration = Duration::from_millis(1);

/// Turns that a stopping thread waits for its sockets to be released.
const STOP_TURNS: usize = 256;

/// One media thread's state. Made and run on the same thread.
pub struct Worker {
    ring: Ring,
    relay: Relay,
    hub: Option<Hub>,
    ways: Option<WayTable>,
    /// When a receive of the hub has to be armed.
    hub_arms_at: Option<Instant>,
    /// The hub's queues hold more than there were buffers for.
    hub_has_more: bool,
    /// By slot.
    flows: Vec<Option<Box<Flow>>>,
    files: FilePairs,
    room: Room,
    clock: Clock,
    commands: Receiver<MediaCommand>,
    events: Sender<MediaEvent>,
    /// Events that wait for room in the queue. While there is one no command is taken, so each allocation adds a few at most.
    backlog: VecDeque<MediaEvent>,
    counters: Arc<MediaCounters>,
    guard: MediaGuard,
    stop: Arc<AtomicBool>,
    batch: Vec<Completion>,
    /// Receives that ended in this turn; armed again once the buffers of the turn are back.
    ended: Vec<(AllocationId, Component)>,
    /// Endpoints to visit, in order of time: all visits are planned [`SETTLE`] ahead.
    visits: VecDeque<(Instant, AllocationId, Component)>,
    /// The wake-up must be armed.
    wake_unarmed: bool,
    pace: Pace,
    busy_poll: Duration,
    latency: LatencySampler,
    overflow_search: OverflowSearch,
    #[cfg(test)]
    pub(super) addresses: Vec<(usize, usize)>,
}

impl Worker {
    /// Sets up ring and buffers on the calling thread, which has to be the one that calls [`Worker::run`]. The error names what
    /// the kernel lacks.
    pub fn new(setup: Setup) -> Result<Worker, MediaError> {
        let options = setup.options;
        let room = Room::new(&options, setup.hub.as_ref())?;
        let mut ring = Ring::new(RingOptions {
            entries: options.entries,
            buffers: match &setup.hub {
                Some(_) => options.shared_buffers,
                None => options.buffers,
            },
            buffer_bytes: options.buffer_bytes,
            files: room.file_pairs * 2 + hub::FILES,
        })?;
        setup.counters.capacity.set(u64::from(room.allocations));
        let mut hub = setup.hub;
        if let Some(hub) = &mut hub {
            hub.register(&mut ring, room.file_pairs * 2)
                .map_err(MediaError::system("registering the shared sockets"))?;
        }
        if let Some(ways) = &setup.ways {
            ways.introduce(ring.memory());
        }
        Ok(Worker {
            ways: setup.ways,
            batch: Vec::with_capacity(ring.completion_capacity()),
            ring,
            hub_has_more: false,
            hub_arms_at: hub.is_some().then_some(Instant::ZERO),
            hub,
            relay: Relay::new(RelayConfig {
                capacity: room.allocations,
                timeout: options.timeout,
            }),
            flows: Vec::new(),
            files: FilePairs::new(room.file_pairs),
            room,
            clock: setup.clock,
            commands: setup.commands,
            events: setup.events,
            backlog: VecDeque::new(),
            counters: setup.counters,
            guard: setup.guard,
            stop: setup.stop,
            ended: Vec::with_capacity(1024),
            visits: VecDeque::new(),
            wake_unarmed: true,
            pace: Pace::new(options.batch),
            busy_poll: options.busy_poll,
            latency: LatencySampler::new().map_err(|_| MediaError::Memory)?,
            overflow_search: OverflowSearch::default(),
            #[cfg(test)]
            addresses: Vec::new(),
        })
    }

    /// Allocations there is room for: what was asked for, or what RLIMIT_NOFILE allows.
    pub fn capacity(&self) -> u32 {
        self.room.allocations
    }

    /// Relays until the stop flag is set (and the commands' waker was called), then closes every socket.
    pub fn run(mut self) -> Result<(), MediaError> {
        while !self.stop.load(Ordering::Acquire) {
            self.turn()?;
        }
        self.shut_down()
    }

    /// Submits, waits, and deals with whatever came.
    pub(super) fn turn(&mut self) -> Result<(), MediaError> {
        if self.wake_unarmed {
            let eventfd = self.commands.waker().clone();
            self.wake_unarmed = self.ring.wait_for_wake(eventfd.as_fd()).is_err();
        }
        let wait = self.prepare_sleep();
        self.ring
            .turn(wait)
            .map_err(MediaError::system("waiting on io_uring"))?;
        self.commands.waker().cancel_sleep();
        let now = self.clock.now();
        self.take_ways();
        if self.ring.overflowed() {
            self.counters.completion_overflows.add(1);
        }
        let mut batch = std::mem::take(&mut self.batch);
        self.ring.completions(&mut batch);
        if self.pace.begin(now, batch.len()) {
            self.pace.measure(now, processor_time());
        }
        for completion in batch.drain(..) {
            self.complete(now, completion);
        }
        self.batch = batch;
        self.sample_latency(now);
        self.rearm(now);
        self.take_commands(now);
        self.relay.handle_timeout(now);
        self.make_visits(now);
        self.carry_out(now);
        self.look_for_overflows(now);
        self.deliver_events();
        self.counters.turns.add(1);
        Ok(())
    }

    /// Announces that this thread is about to sleep; returns how.
    fn prepare_sleep(&mut self) -> Wait {
        if !self.busy_poll.is_zero() {
            self.poll_busily();
        }
        let mut gather = Duration::ZERO;
        if std::mem::take(&mut self.hub_has_more) {
            // What waits has gathered already.
        } else if self.pace.is_gathering() {
            // The sends of this turn are most of its work, and are done as they are submitted.
            self.ring.submit();
            gather = self.pace.gather(self.clock.now());
        }
        self.commands.waker().announce_sleep();
        Wait {
            timeout: self.time_to_sleep(),
            gather,
        }
    }

    fn time_to_sleep(&self) -> Option<Duration> {
        if !self.backlog.is_empty() {
            return Some(EVENT_RETRY);
        }
        if !self.commands.is_empty() || self.stop.load(Ordering::Acquire) {
            return Some(Duration::ZERO);
        }
        if self.wake_unarmed {
            return Some(Duration::ZERO);
        }
        if self.ring.links_hold() {
            return Some(LINK_RETRY);
        }
        let visit = self.visits.front().map(|&(at, ..)| at);
        let next = [
            self.relay.poll_timeout(),
            visit,
            self.latency.publish_at(),
            self.hub_arms_at,
        ];
        let next = next.into_iter().flatten().min()?;
        Some(next.saturating_since(self.clock.now()))
    }

    /// Looks for packets and commands without sleeping. What waits for submission leaves first.
    fn poll_busily(&mut self) {
        self.ring.submit();
        let until = self.clock.now() + self.busy_poll;
        while !self.ring.has_work() && self.commands.is_empty() && self.clock.now() < until {
            std::hint::spin_loop();
        }
    }

    /// Measures how long the sampled packets of this turn stayed.
    fn sample_latency(&mut self, now: Instant) {
        if self.latency.is_pending() {
            // Sent by the time this returns.
            self.ring.submit();
            self.latency.sent(now);
        }
        self.latency.publish(now, &self.counters.relay_latency);
    }

    fn complete(&mut self, now: Instant, completion: Completion) {
        let Completion {
            token,
            result,
            buffer,
            more,
        } = completion;
        match token.kind {
            Kind::Wake => self.wake_unarmed = true,
            Kind::Send => {
                self.counters.send_errors.add(1);
                self.counters.drop_packet(DropReason::SendFailed);
            }
            Kind::Cancel => self.cancel_failed(token),
            Kind::ReceiveFrom | Kind::Receive | Kind::ReceiveStamped | Kind::ReceiveShared => {
                if let Some(buffer) = buffer {
                    match usize::try_from(result) {
                        Ok(length) => self.receive(now, token, buffer, length),
                        Err(_) => self.ring.recycle(buffer),
                    }
                }
                if !more {
                    self.receive_ended(now, token, result);
                }
            }
        }
    }

    fn receive_ended(&mut self, now: Instant, token: Token, result: i32) {
        if token.kind == Kind::ReceiveShared {
            return self.hub_receive_ended(now, token, result);
        }
        if result == -libc::ENOBUFS {
            self.counters.buffers_exhausted.add(1);
        }
        if let Some(endpoint) = self.endpoint(token.allocation, token.component) {
            endpoint.ended(now, result);
            self.ended.push((token.allocation, token.component));
        }
    }

    /// Nothing was there to be cancelled, or not yet: the endpoint looks again at what it wants.
    fn cancel_failed(&mut self, token: Token) {
        if let Some(endpoint) = self.endpoint(token.allocation, token.component) {
            endpoint.cancel_failed();
            self.ended.push((token.allocation, token.component));
        }
    }

    fn rearm(&mut self, now: Instant) {
        let arms_hub = self.hub_arms_at.is_some_and(|at| at <= now);
        if self.ended.is_empty() && !arms_hub {
            return;
        }
        // The buffers of this turn come back first.
        self.ring.submit();
        if arms_hub {
            self.arm_hub(now);
        }
        let mut ended = std::mem::take(&mut self.ended);
        for (allocation, component) in ended.drain(..) {
            self.steer(now, allocation, component);
        }
        self.ended = ended;
    }

    fn make_visits(&mut self, now: Instant) {
        while let Some(&(at, allocation, component)) = self.visits.front()
            && at <= now
        {
            self.visits.pop_front();
            if let Some(endpoint) = self.endpoint(allocation, component) {
                endpoint.planned = false;
                self.steer(now, allocation, component);
            }
        }
    }

    /// Lets an endpoint take its next step; releases the allocation when that was the last.
    fn steer(&mut self, now: Instant, allocation: AllocationId, component: Component) {
        let Some(endpoint) = endpoint(&mut self.flows, allocation, component) else {
            return;
        };
        if endpoint
            .steer(now, &mut self.ring, &self.counters)
            .is_some()
            && !endpoint.planned
        {
            endpoint.planned = true;
            // At a fixed distance, so that the queue stays in order; early for none, since every distance is at most this.
            self.visits.push_back((now + SETTLE, allocation, component));
        }
        if endpoint.is_quiet() {
            self.release_if_quiet(allocation);
        }
    }

    fn take_commands(&mut self, now: Instant) {
        for taken in 0..COMMANDS_PER_TURN {
            if !self.backlog.is_empty() {
                return;
            }
            let Some(command) = self.commands.try_recv() else {
                return;
            };
            if taken == 0 {
                // What was decided leaves before a command changes the decision: who was told that a bridge is gone hears
                // nothing after that.
                self.ring.submit();
            }
            self.relay.handle(now, command);
            self.carry_out(now);
        }
    }

    /// Does what the relay decided.
    fn carry_out(&mut self, now: Instant) {
        while let Some(output) = self.relay.poll_output() {
            match output {
                RelayOutput::Bind { allocation, local } => {
                    let result = self.open(now, allocation, local);
                    self.relay.bound(allocation, result);
                }
                RelayOutput::Connect {
                    allocation,
                    component,
                    remote,
                } => self.want(now, allocation, component, Some(remote)),
                RelayOutput::Disconnect {
                    allocation,
                    component,
                } => self.want(now, allocation, component, None),
                RelayOutput::Admit {
                    allocation,
                    component,
                    admission,
                } => self.admit(allocation, component, admission),
                RelayOutput::Release { allocation } => self.release(now, allocation),
                RelayOutput::Event(event) => self.backlog.push_back(event),
            }
        }
    }

    /// Which peer a socket should hear alone; the hub's sockets come first.
    fn want(
        &mut self,
        now: Instant,
        allocation: AllocationId,
        component: Component,
        peer: Option<SocketAddr>,
    ) {
        self.lead(allocation, component, peer);
        let peer = self.share(allocation, component, peer);
        let flow = self.flow_mut(allocation);
        let Some(flow) = flow.filter(|flow| !flow.received_by_hub) else {
            return;
        };
        if let Some(Some(endpoint)) = flow.endpoints.get_mut(component.index()) {
            endpoint.want(peer);
            self.steer(now, allocation, component);
        }
    }

    fn deliver_events(&mut self) {
        while let Some(event) = self.backlog.pop_front() {
            if let Err(Full(event)) = self.events.try_send(event) {
                self.backlog.push_front(event);
                self.counters.events_delayed.add(1);
                return;
            }
        }
    }

    fn shut_down(mut self) -> Result<(), MediaError> {
        let open: Vec<_> = self
            .flows
            .iter()
            .flatten()
            .map(|flow| flow.allocation)
            .collect();
        let now = self.clock.now();
        for allocation in open {
            self.relay.handle(now, MediaCommand::Close { allocation });
        }
        self.carry_out(now);
        for _ in 0..STOP_TURNS {
            if self.flows.iter().all(Option::is_none) {
                break;
            }
            self.turn()?;
        }
        Ok(())
    }
}

/// What the calling thread has used since it began.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

mod flows;
mod linked;
mod overflows;
mod packets;
mod sharing;
#[cfg(test)]
mod tests;
