//! The worker's dealings with the sockets that flows share.

use super::Worker;
use super::flows::is_sampled;
use crate::media::token::Token;
use edge_proto::id::AllocationId;
use edge_proto::relay::Component;
use edge_proto::time::Instant;
use std::net::SocketAddr;

impl Worker {
    /// Arms the hub's receives where they are not.
    pub(super) fn arm_hub(&mut self, now: Instant) {
        let hub = self.hub.as_mut();
        self.hub_arms_at = hub.and_then(|hub| hub.arm(now, &mut self.ring));
    }

    /// One of the hub's receives has ended.
    pub(super) fn hub_receive_ended(&mut self, now: Instant, token: Token, result: i32) {
        if let Some(hub) = &mut self.hub {
            hub.ended(now, token.allocation.slot, result, &self.counters);
            if result == -libc::ENOBUFS {
                self.counters.shared_refills.add(1);
                self.hub_has_more = true;
            }
            // The hub knows which of its receives have to wait longer.
            self.hub_arms_at = Some(now);
        }
    }

    /// Lets what comes from `peer` come by the hub, or that of nobody any more. Returns which peer the port's own socket has to be
    /// connected to instead, where that receives.
    pub(super) fn share(
        &mut self,
        allocation: AllocationId,
        component: Component,
        peer: Option<SocketAddr>,
    ) -> Option<SocketAddr> {
        let (Some(hub), Some(Some(flow))) =
            (&mut self.hub, self.flows.get_mut(allocation.slot as usize))
        else {
            return peer;
        };
        // A packet every few seconds gains nothing by a shared socket, where it has its own.
        let gains = component == Component::Rtp || flow.received_by_hub;
        if flow.allocation != allocation || !gains {
            return peer;
        }
        let Some(was) = flow.steered.get_mut(component.index()) else {
            return peer;
        };
        let local = component.address(flow.local);
        let timed = component == Component::Rtp && is_sampled(allocation);
        let steered = peer.is_some_and(|peer| hub.latch(local, peer, timed));
        if *was && !steered {
            hub.unlatch(local);
        }
        match (*was, steered) {
            (false, true) => self.counters.steered_flows.add(1),
            (true, false) => self.counters.steered_flows.subtract(1),
            _ => {}
        }
        *was = steered;
        peer.filter(|_| !steered && !flow.received_by_hub)
    }
}
