//! One core: its protocol, its media thread, and the queues between them.

use super::World;
use crate::check::Seen;
use crate::net::Happening;
use crate::subject::Subject;
use edge_proto::b2bua::{HandoffMessage, Input};
use edge_proto::config::Config;
use edge_proto::id::{AllocationId, CoreId};
use edge_proto::relay::{Component, MediaCommand, MediaEvent, Relay, RelayConfig};
use edge_proto::time::{Duration, Instant};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

pub struct Core {
    pub id: CoreId,
    pub subject: Box<dyn Subject>,
    /// When its next wake-up is planned for.
    pub wake: Option<Instant>,
    pub relay: Relay,
    pub relay_wake: Option<Instant>,
    /// What other cores have sent it.
    pub handoffs: VecDeque<HandoffMessage>,
    /// What its media thread has not looked at.
    pub commands: VecDeque<MediaCommand>,
    /// What its control thread has not looked at.
    pub events: VecDeque<MediaEvent>,
    /// The ports that are bound.
    pub sockets: BTreeMap<SocketAddr, (AllocationId, Component)>,
}

impl Core {
    pub fn new(id: CoreId, subject: Box<dyn Subject>, config: &Config) -> Core {
        Core {
            id,
            subject,
            wake: None,
            relay: Relay::new(RelayConfig {
                capacity: 4096,
                timeout: config.media.timeout,
            }),
            relay_wake: None,
            handoffs: VecDeque::new(),
            commands: VecDeque::new(),
            events: VecDeque::new(),
            sockets: BTreeMap::new(),
        }
    }
}

impl World {
    /// Hands an input to a core and carries out everything that follows from it at once.
    pub(super) fn input(&mut self, core: CoreId, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.see(&Seen::Input(core, &input));
            let now = self.net.now;
            self.forwarding = matches!(input, Input::Handoff(HandoffMessage::Transmit { .. }));
            self.core(core).subject.handle(now, input);
            while let Some(output) = self.core(core).subject.poll_output() {
                self.fingerprint.output(now, core, &output);
                self.see(&Seen::Output(core, &output));
                self.output(core, output, &mut inputs);
            }
            let calls = self.core(core).subject.calls();
            let connections = self.net.held_by(core);
            self.see(&Seen::Handled {
                core,
                calls,
                connections,
            });
            if self.checks.violation.is_some() {
                return;
            }
        }
        self.arm(core);
    }

    /// Plans the wake-up that the core wants, a little late at times.
    fn arm(&mut self, core: CoreId) {
        let Some(due) = self.core(core).subject.poll_timeout() else {
            return;
        };
        if self.core(core).wake.is_some_and(|planned| planned <= due) {
            return;
        }
        let late = self.net.scenario.network.timer_late_ms;
        let late = self.net.dice.millis(0, late);
        let at = due.max(self.net.now) + late;
        self.core(core).wake = Some(at);
        self.net.agenda.plan(at, Happening::Wake(core));
    }

    pub(super) fn wake(&mut self, core: CoreId) {
        let now = self.net.now;
        self.core(core).wake.take_if(|planned| *planned <= now);
        let due = self.core(core).subject.poll_timeout();
        let spurious = self.net.scenario.network.spurious_wakes;
        if due.is_some_and(|due| due <= now) || self.net.dice.chance(spurious) {
            self.input(core, Input::Timeout);
        } else {
            self.arm(core);
        }
    }

    /// A time that some queue takes.
    pub(super) fn queue_delay(&mut self, (low, high): (u32, u32)) -> Duration {
        self.net.dice.millis(low, high)
    }
}
