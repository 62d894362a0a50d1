//! All allocations of one media thread, and the decision about each packet.

use super::allocation::{Accepted, Allocation, Bridge, State};
use super::translation::Translation;
use super::{
    Admission, Component, DropReason, LatchMode, MediaCommand, MediaEvent, MediaStats, PayloadMap,
    RemoteMedia, Verdict,
};
use crate::id::AllocationId;
use crate::time::{Duration, Instant};
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;

/// What a [`Relay`] needs to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelayConfig {
    /// Slots; an `Open` for a slot beyond them fails.
    pub capacity: u32,
    /// `media.timeout_s`; zero: silence is never reported.
    pub timeout: Duration,
}

/// What the effect layer has to do. Taken from [`Relay::poll_output`] until `None`, in order.
#[derive(Clone, PartialEq, Debug)]
pub enum RelayOutput {
    /// Bind RTP at `local` and RTCP at the next port, then call [`Relay::bound`].
    Bind {
        allocation: AllocationId,
        local: SocketAddr,
    },
    /// The peer of this socket is known: connect it, so that the kernel refuses strangers. An optimisation: the relay checks
    /// every source that it is told.
    Connect {
        allocation: AllocationId,
        component: Component,
        remote: SocketAddr,
    },
    /// The peer may have moved: any source must be heard again.
    Disconnect {
        allocation: AllocationId,
        component: Component,
    },
    /// Who may be heard on this socket has changed: for a filter in front of it, which is an optimisation, too. Nobody after
    /// `Bind`.
    Admit {
        allocation: AllocationId,
        component: Component,
        admission: Admission,
    },
    /// Close whatever is open of this allocation, then call [`Relay::released`].
    Release { allocation: AllocationId },
    /// For the control thread.
    Event(MediaEvent),
}

/// The relay of one media thread: pure decisions, fed with commands, packets and time.
///
/// The effect layer calls [`Relay::relay`] for each packet and [`Relay::handle`] for each command, then takes the outputs.
/// A packet costs no allocation, and an output only when its source is learned.
#[derive(Debug)]
pub struct Relay {
    config: RelayConfig,
    /// By slot. Boxed, so that an idle slot costs a word and a call's memory goes when the call does.
    slots: Vec<Option<Box<Allocation>>>,
    outputs: VecDeque<RelayOutput>,
    /// When to look whether a slot has fallen silent; looked at late and renewed then, so packets never touch it.
    deadlines: BTreeSet<(Instant, u32)>,
}

impl Relay {
    pub fn new(config: RelayConfig) -> Self {
        Relay {
            config,
            slots: Vec::new(),
            outputs: VecDeque::new(),
            deadlines: BTreeSet::new(),
        }
    }

    /// Carries out a command. Commands for allocations that do not exist change nothing.
    pub fn handle(&mut self, now: Instant, command: MediaCommand) {
        match command {
            MediaCommand::Open {
                allocation,
                local,
                latch,
            } => self.open(allocation, local, latch),
            MediaCommand::SetRemote { allocation, remote } => {
                self.set_remote(now, allocation, remote);
            }
            MediaCommand::Bridge {
                a,
                b,
                a_to_b,
                b_to_a,
            } => self.bridge(now, (a, a_to_b), (b, b_to_a)),
            MediaCommand::Unbridge { allocation } => self.unbridge(allocation),
            MediaCommand::Close { allocation } => self.close(allocation),
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<RelayOutput> {
        self.outputs.pop_front()
    }

    /// Decides about one packet that `allocation`'s socket for `component` received from `source`. `packet` is the datagram,
    /// rewritten in place when it is forwarded. Constant time.
    pub fn relay(
        &mut self,
        now: Instant,
        allocation: AllocationId,
        component: Component,
        source: SocketAddr,
        packet: &mut [u8],
    ) -> Verdict {
        let Some(from) = self.get_mut(allocation) else {
            return Verdict::Drop(DropReason::NoAllocation);
        };
        let accepted = match from.accept(now, component, source, packet) {
            Ok(accepted) => accepted,
            Err(reason) => return Verdict::Drop(reason),
        };
        if accepted.first || accepted.learned || accepted.broke_silence {
            self.note(allocation, component, source, accepted);
        }
        let route = accepted.route.and_then(|to| {
            let peer = self.get_mut(to).ok_or(DropReason::Unbridged)?;
            let destination = peer.destination(allocation, component)?;
            peer.count_sent(now, component, packet.len());
            Ok((to, component.address(peer.local), destination))
        });
        match route {
            Ok((to, local, destination)) => Verdict::Forward {
                to,
                component,
                local,
                destination,
            },
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// Tells the result of [`RelayOutput::Bind`]; an error's text is for the log.
    pub fn bound(&mut self, allocation: AllocationId, result: Result<(), String>) {
        let Some(entry) = self.get_mut(allocation) else {
            return;
        };
        if entry.state != State::Binding {
            // Closed meanwhile: `Closed` is the answer.
            return;
        }
        match result {
            Ok(()) => {
                entry.state = State::Open;
                self.emit(MediaEvent::Opened { allocation });
            }
            Err(reason) => {
                self.remove(allocation);
                self.emit(MediaEvent::OpenFailed { allocation, reason });
            }
        }
    }

    /// Tells that what [`RelayOutput::Release`] asked for is done: the ports are free and the slot may be opened again.
    pub fn released(&mut self, allocation: AllocationId) {
        let closing = self.get(allocation).map(|entry| entry.state) == Some(State::Closing);
        if closing && let Some(entry) = self.remove(allocation) {
            self.emit(MediaEvent::Closed {
                allocation,
                stats: entry.stats(),
            });
        }
    }

    /// When [`Relay::handle_timeout`] has something to do next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(at, _)| at)
    }

    /// Reports the allocations that have fallen silent. Harmless when early.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, slot)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.pop_first();
            let timeout = self.config.timeout;
            let Some(entry) = self.slot_mut(slot) else {
                continue;
            };
            entry.deadline = None;
            if entry.heard + timeout > now {
                self.watch(slot);
            } else if entry.expects_media() {
                entry.silent = true;
                let allocation = entry.id;
                self.emit(MediaEvent::Timeout { allocation });
            }
        }
    }

    /// Counters of an allocation that is not closed yet.
    pub fn stats(&self, allocation: AllocationId) -> Option<MediaStats> {
        self.get(allocation).map(Allocation::stats)
    }

    /// Allocations that are not closed.
    pub fn len(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    fn open(&mut self, allocation: AllocationId, local: SocketAddr, latch: LatchMode) {
        let refuse = |relay: &mut Relay, reason: &str| {
            relay.emit(MediaEvent::OpenFailed {
                allocation,
                reason: reason.to_owned(),
            });
        };
        if allocation.slot >= self.config.capacity {
            return refuse(self, "no such slot: the media thread is full");
        }
        if local.port() == 0 || local.port() == u16::MAX {
            return refuse(self, "RTCP needs the port after RTP's");
        }
        let slot = allocation.slot as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        match self.slots.get_mut(slot) {
            Some(free @ None) => {
                *free = Some(Box::new(Allocation::new(allocation, local, latch)));
                self.outputs
                    .push_back(RelayOutput::Bind { allocation, local });
            }
            _ => refuse(self, "the slot is in use"),
        }
    }

    fn set_remote(&mut self, now: Instant, allocation: AllocationId, remote: RemoteMedia) {
        let Some(entry) = self.get_mut(allocation) else {
            return;
        };
        if entry.state == State::Closing {
            return;
        }
        let forgotten = entry.latch.set_remote(now, remote);
        for (component, forgotten) in Component::ALL.into_iter().zip(forgotten) {
            if forgotten {
                self.outputs.push_back(RelayOutput::Disconnect {
                    allocation,
                    component,
                });
            }
        }
        self.admit(allocation);
    }

    /// Tells who may be heard, where that has changed.
    fn admit(&mut self, allocation: AllocationId) {
        for component in Component::ALL {
            let Some(entry) = self.get_mut(allocation) else {
                return;
            };
            let admission = entry.latch.admission(component);
            let Some(told) = entry.admitted.get_mut(component.index()) else {
                continue;
            };
            if *told != admission {
                *told = admission;
                self.outputs.push_back(RelayOutput::Admit {
                    allocation,
                    component,
                    admission,
                });
            }
        }
    }

    fn bridge(
        &mut self,
        now: Instant,
        (a, a_to_b): (AllocationId, Option<PayloadMap>),
        (b, b_to_a): (AllocationId, Option<PayloadMap>),
    ) {
        self.unbridge(a);
        self.unbridge(b);
        let bridgeable = |id| matches!(self.get(id), Some(entry) if entry.state != State::Closing);
        if a == b || !bridgeable(a) || !bridgeable(b) {
            return;
        }
        for (id, peer, map) in [(a, b, a_to_b), (b, a, b_to_a)] {
            if let Some(entry) = self.get_mut(id) {
                entry.bridge = Some(Bridge {
                    peer,
                    translation: map.as_ref().map(Translation::from),
                });
                entry.heard = entry.heard.max(now);
                entry.silent = false;
                self.watch(id.slot);
            }
        }
    }

    fn unbridge(&mut self, allocation: AllocationId) {
        let peer = self
            .get_mut(allocation)
            .and_then(|entry| entry.bridge.take())
            .map(|bridge| bridge.peer);
        self.unwatch(allocation);
        // A bridge is always mutual.
        if let Some(peer) = peer {
            if let Some(entry) = self.get_mut(peer) {
                entry.bridge = None;
            }
            self.unwatch(peer);
        }
    }

    fn close(&mut self, allocation: AllocationId) {
        self.unbridge(allocation);
        match self.get_mut(allocation) {
            None => self.emit(MediaEvent::Closed {
                allocation,
                stats: MediaStats::default(),
            }),
            // Asked twice, answered once by `released`.
            Some(entry) if entry.state == State::Closing => {}
            Some(entry) => {
                entry.state = State::Closing;
                self.outputs.push_back(RelayOutput::Release { allocation });
            }
        }
    }

    /// What a packet out of the ordinary leads to. Kept out of the per-packet path.
    #[cold]
    fn note(
        &mut self,
        allocation: AllocationId,
        component: Component,
        source: SocketAddr,
        accepted: Accepted,
    ) {
        if accepted.learned {
            self.outputs.push_back(RelayOutput::Connect {
                allocation,
                component,
                remote: source,
            });
        }
        if accepted.rtcp_forgotten {
            self.outputs.push_back(RelayOutput::Disconnect {
                allocation,
                component: Component::Rtcp,
            });
        }
        if accepted.learned {
            self.admit(allocation);
        }
        if accepted.first {
            self.emit(MediaEvent::FirstPacket { allocation, source });
        }
        if accepted.broke_silence {
            self.watch(allocation.slot);
        }
    }

    fn emit(&mut self, event: MediaEvent) {
        self.outputs.push_back(RelayOutput::Event(event));
    }

    /// Sees to it that the slot is looked at when its peer could have fallen silent.
    fn watch(&mut self, slot: u32) {
        let timeout = self.config.timeout;
        let Some(entry) = self.slot_mut(slot) else {
            return;
        };
        if timeout.is_zero() || entry.deadline.is_some() || !entry.expects_media() {
            return;
        }
        let at = coarse(entry.heard + timeout, timeout);
        entry.deadline = Some(at);
        self.deadlines.insert((at, slot));
    }

    fn unwatch(&mut self, allocation: AllocationId) {
        let deadline = self
            .get_mut(allocation)
            .and_then(|entry| entry.deadline.take());
        if let Some(at) = deadline {
            self.deadlines.remove(&(at, allocation.slot));
        }
    }

    fn remove(&mut self, allocation: AllocationId) -> Option<Box<Allocation>> {
        self.unbridge(allocation);
        self.get(allocation)?;
        self.slots.get_mut(allocation.slot as usize)?.take()
    }

    fn slot_mut(&mut self, slot: u32) -> Option<&mut Allocation> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    fn get(&self, allocation: AllocationId) -> Option<&Allocation> {
        let entry = self.slots.get(allocation.slot as usize)?.as_deref()?;
        (entry.id == allocation).then_some(entry)
    }

    fn get_mut(&mut self, allocation: AllocationId) -> Option<&mut Allocation> {
        self.slot_mut(allocation.slot)
            .filter(|entry| entry.id == allocation)
    }
}

/// Rounds `at` up to a sixteenth of `timeout` (1 ms to 500 ms), so that many streams share one wake-up.
fn coarse(at: Instant, timeout: Duration) -> Instant {
    let grain = (timeout / 16).clamp(Duration::from_millis(1), Duration::from_millis(500));
    let grain = u64::try_from(grain.as_nanos()).unwrap_or(u64::MAX).max(1);
    Instant::from_nanos(at.as_nanos().div_ceil(grain).saturating_mul(grain))
}
