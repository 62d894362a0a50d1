//! What becomes of one packet.

use crate::id::AllocationId;
use std::net::SocketAddr;

/// Which of an allocation's two sockets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Component {
    /// The even port.
    Rtp,
    /// The next one.
    Rtcp,
}

impl Component {
    pub const ALL: [Component; 2] = [Component::Rtp, Component::Rtcp];

    /// 0 for RTP, 1 for RTCP: also the distance from the allocation's first port.
    pub const fn index(self) -> usize {
        match self {
            Component::Rtp => 0,
            Component::Rtcp => 1,
        }
    }

    /// Where this component of an allocation whose RTP is at `rtp` is.
    pub fn address(self, rtp: SocketAddr) -> SocketAddr {
        let port = rtp.port().saturating_add(self.index() as u16);
        SocketAddr::new(rtp.ip(), port)
    }
}

/// The decision about one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Send the packet, as it now is, out of `to`'s socket for `component`.
    Forward {
        to: AllocationId,
        component: Component,
        /// The address of that socket.
        local: SocketAddr,
        destination: SocketAddr,
    },
    Drop(DropReason),
}

/// Why a packet was not relayed. The name is the `reason` label of `sip_edge_rtp_dropped_total`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DropReason {
    /// The allocation is closed, or its slot has another user.
    NoAllocation,
    /// The peer's SDP has not been seen, so nobody can be told from a stranger.
    NoRemote,
    /// From a source that neither the latch nor the SDP allows.
    Stranger,
    /// On the RTP port, but not RTP.
    NotRtp,
    /// On the RTCP port, but no valid compound packet.
    NotRtcp,
    /// The payload type was not negotiated.
    PayloadType,
    /// The allocation is bridged to nothing.
    Unbridged,
    /// The bridge mutes this direction.
    Muted,
    /// The other side has told no address to send to, or none that this allocation's socket can reach.
    NoDestination,
    /// Larger than a receive buffer. Counted by the media thread.
    Truncated,
    /// The socket refused it. Counted by the media thread.
    SendFailed,
    /// The socket's queue in the kernel was full, or the packet was damaged or empty: it never reached the media thread, which counts it
    /// when it looks.
    QueueFull,
}

impl DropReason {
    /// Every reason, in the order of [`DropReason::index`].
    pub const ALL: &'static [DropReason] = &[
        DropReason::NoAllocation,
        DropReason::NoRemote,
        DropReason::Stranger,
        DropReason::NotRtp,
        DropReason::NotRtcp,
        DropReason::PayloadType,
        DropReason::Unbridged,
        DropReason::Muted,
        DropReason::NoDestination,
        DropReason::Truncated,
        DropReason::SendFailed,
        DropReason::QueueFull,
    ];

    /// Position in [`DropReason::ALL`], for tables of counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            DropReason::NoAllocation => "no_allocation",
            DropReason::NoRemote => "no_remote",
            DropReason::Stranger => "stranger",
            DropReason::NotRtp => "not_rtp",
            DropReason::NotRtcp => "not_rtcp",
            DropReason::PayloadType => "payload_type",
            DropReason::Unbridged => "unbridged",
            DropReason::Muted => "muted",
            DropReason::NoDestination => "no_destination",
            DropReason::Truncated => "truncated",
            DropReason::SendFailed => "send_failed",
            DropReason::QueueFull => "queue_full",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_is_listed_at_its_index_under_a_name_of_its_own() {
        for (position, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), position);
        }
        assert_eq!(DropReason::ALL.len(), DropReason::QueueFull.index() + 1);
        let names: BTreeSet<_> = DropReason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
