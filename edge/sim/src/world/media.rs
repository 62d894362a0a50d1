//! The media threads: the real relay between queues that are slow and ports that may be taken.

use super::World;
use crate::check::Seen;
use crate::net::{Happening, Packet};
use crate::peers::{party_at, speaker};
use edge_proto::id::{AllocationId, CoreId};
use edge_proto::relay::{Component, RelayOutput, Verdict};
use std::net::SocketAddr;

impl World {
    /// A media thread takes its commands.
    pub(super) fn media_commands(&mut self, core: CoreId) {
        let now = self.net.now;
        while let Some(command) = self.core(core).commands.pop_front() {
            self.net
                .trace
                .line(now, || format!("media {core}: {command:?}"));
            self.core(core).relay.handle(now, command);
            self.pump(core);
        }
    }

    fn pump(&mut self, core: CoreId) {
        while let Some(output) = self.core(core).relay.poll_output() {
            match output {
                RelayOutput::Bind { allocation, local } => self.bind(core, allocation, local),
                RelayOutput::Release { allocation } => {
                    self.core(core)
                        .sockets
                        .retain(|_, (id, _)| *id != allocation);
                    let delay = self.net.dice.millis(0, 2);
                    self.net.after(delay, Happening::Released(core, allocation));
                }
                RelayOutput::Event(event) => {
                    self.core(core).events.push_back(event);
                    let delay = self.queue_delay(self.net.scenario.network.media_delay_ms);
                    self.net.after(delay, Happening::MediaEvents(core));
                }
                // The kernel's help is not modelled: the relay has to do without.
                RelayOutput::Connect { .. }
                | RelayOutput::Disconnect { .. }
                | RelayOutput::Admit { .. } => {}
            }
        }
        let due = self.core(core).relay.poll_timeout();
        if let Some(due) = due
            && self
                .core(core)
                .relay_wake
                .is_none_or(|planned| planned > due)
        {
            self.core(core).relay_wake = Some(due);
            let at = due.max(self.net.now);
            self.net.agenda.plan(at, Happening::RelayWake(core));
        }
    }

    fn bind(&mut self, core: CoreId, allocation: AllocationId, local: SocketAddr) {
        let fails = self.net.scenario.network.bind_fails;
        let result = if self.net.dice.chance(fails) {
            self.net.coverage.hit("media: port taken by somebody else");
            Err("address in use".to_owned())
        } else {
            for component in Component::ALL {
                let mut address = local;
                address.set_port(local.port() + component.index() as u16);
                self.core(core)
                    .sockets
                    .insert(address, (allocation, component));
            }
            Ok(())
        };
        self.core(core).relay.bound(allocation, result);
    }

    pub(super) fn released(&mut self, core: CoreId, allocation: AllocationId) {
        self.core(core).relay.released(allocation);
        self.pump(core);
    }

    pub(super) fn relay_wake(&mut self, core: CoreId) {
        let now = self.net.now;
        let entry = self.core(core);
        entry.relay_wake.take_if(|planned| *planned <= now);
        entry.relay.handle_timeout(now);
        self.pump(core);
    }

    /// A datagram reaches a port of the edge.
    pub(super) fn packet(&mut self, packet: Packet) {
        let now = self.net.now;
        let found = self.cores.iter().find_map(|core| {
            let &(allocation, component) = core.sockets.get(&packet.destination)?;
            Some((core.id, allocation, component))
        });
        let Some((core, allocation, component)) = found else {
            return;
        };
        let mut bytes = packet.bytes.to_vec();
        let verdict =
            self.core(core)
                .relay
                .relay(now, allocation, component, packet.source, &mut bytes);
        self.pump(core);
        match verdict {
            Verdict::Drop(reason) => {
                self.net
                    .coverage
                    .hit(format!("media: dropped {}", reason.as_str()));
            }
            Verdict::Forward { destination, .. } => {
                self.net.coverage.hit("media: relayed");
                let (Some(from), Some(to)) = (speaker(&bytes), party_at(destination)) else {
                    return;
                };
                let (speaker, listener) = (self.party(from), self.party(to));
                self.see(&Seen::Heard { speaker, listener });
                let packet = Packet {
                    source: packet.destination,
                    destination,
                    bytes: bytes.into(),
                };
                self.net.send_packet(packet, false);
            }
        }
    }
}
