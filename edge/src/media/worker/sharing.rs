//! The worker's dealings with the sockets that flows share.

use super::Worker;
use crate::media::latency::SAMPLED_LEGS;
use crate::media::token::Token;
use edge_proto::id::AllocationId;
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

    /// Lets the RTP of `peer` come by the hub, or that of nobody any more. Returns which peer the flow's own socket has to be
    /// connected to instead.
    pub(super) fn share(
        &mut self,
        allocation: AllocationId,
        peer: Option<SocketAddr>,
    ) -> Option<SocketAddr> {
        let (Some(hub), Some(Some(flow))) =
            (&mut self.hub, self.flows.get_mut(allocation.slot as usize))
        else {
            return peer;
        };
        if flow.allocation != allocation {
            return peer;
        }
        let sampled = allocation.slot.is_multiple_of(SAMPLED_LEGS);
        let steered = peer.is_some_and(|peer| hub.steer(flow.local, peer, sampled));
        if flow.steered && !steered {
            hub.stop_steering(flow.local);
        }
        match (flow.steered, steered) {
            (false, true) => self.counters.steered_flows.add(1),
            (true, false) => self.counters.steered_flows.subtract(1),
            _ => {}
        }
        flow.steered = steered;
        peer.filter(|_| !steered)
    }
}
