//! One allocation: its latch, its bridge and its counters.

use super::latch::{Admission, Judgement, Latch};
use super::stats::{Reception, count_sent};
use super::translation::{DEFAULT_CLOCK_HZ, Translation};
use super::{Component, DirectionStats, DropReason, LatchMode, MediaStats};
use crate::id::AllocationId;
use crate::rtp::{RtcpCompound, RtpPacketMut};
use crate::time::Instant;
use std::net::SocketAddr;

/// How far an allocation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// The effect layer was told to bind and has not answered.
    Binding,
    Open,
    /// The effect layer was told to release and has not answered. Nothing is relayed any more.
    Closing,
}

/// Where an allocation's packets go.
#[derive(Debug)]
pub(super) struct Bridge {
    pub peer: AllocationId,
    /// `None`: muted.
    pub translation: Option<Translation>,
}

/// A packet that was accepted from the allocation's own peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Accepted {
    /// The first RTP packet of this allocation.
    pub first: bool,
    /// The source was learned from this packet.
    pub learned: bool,
    /// Learning it made the RTCP source void.
    pub rtcp_forgotten: bool,
    /// The peer had been reported silent.
    pub broke_silence: bool,
    pub route: Result<AllocationId, DropReason>,
}

#[derive(Debug)]
pub(super) struct Allocation {
    pub id: AllocationId,
    pub local: SocketAddr,
    pub state: State,
    pub latch: Latch,
    /// Who may be heard, as the effect layer was told last: RTP, RTCP.
    pub admitted: [Admission; 2],
    pub bridge: Option<Bridge>,
    /// When a packet of the peer was last accepted, or when it began to be expected.
    pub heard: Instant,
    /// The entry in the deadline queue, if there is one.
    pub deadline: Option<Instant>,
    /// A timeout was reported and nothing was heard since.
    pub silent: bool,
    seen_rtp: bool,
    received: Reception,
    sent: DirectionStats,
    strangers: u64,
}

impl Allocation {
    pub fn new(id: AllocationId, local: SocketAddr, mode: LatchMode) -> Self {
        Allocation {
            id,
            local,
            state: State::Binding,
            latch: Latch::new(mode),
            admitted: [Admission::Nobody; 2],
            bridge: None,
            heard: Instant::ZERO,
            deadline: None,
            silent: false,
            seen_rtp: false,
            received: Reception::default(),
            sent: DirectionStats::default(),
            strangers: 0,
        }
    }

    /// Judges a packet that arrived from `source`, learns the source where that is due, counts it, rewrites its payload type and
    /// says which allocation it is for.
    pub fn accept(
        &mut self,
        now: Instant,
        component: Component,
        source: SocketAddr,
        packet: &mut [u8],
    ) -> Result<Accepted, DropReason> {
        let judgement = self.latch.judge(now, component, source);
        match judgement {
            Judgement::Latched | Judgement::Candidate | Judgement::Predecessor => {}
            Judgement::NoRemote => return Err(DropReason::NoRemote),
            Judgement::Stranger => {
                self.strangers += 1;
                return Err(DropReason::Stranger);
            }
        }
        // Only media latches: whatever else a permitted host sends here proves nothing about where it receives media.
        let (first, route) = match component {
            Component::Rtp => self.accept_rtp(now, packet)?,
            Component::Rtcp => (false, self.accept_rtcp(packet)?),
        };
        let learned = judgement == Judgement::Candidate;
        let rtcp_forgotten = learned && self.latch.learn(component, source);
        self.heard = now;
        Ok(Accepted {
            first,
            learned,
            rtcp_forgotten,
            broke_silence: std::mem::take(&mut self.silent),
            route,
        })
    }

    fn accept_rtp(
        &mut self,
        now: Instant,
        bytes: &mut [u8],
    ) -> Result<(bool, Result<AllocationId, DropReason>), DropReason> {
        let length = bytes.len();
        let mut packet = RtpPacketMut::parse(bytes).map_err(|_| DropReason::NotRtp)?;
        let received_as = packet.view().payload_type();
        let translation = self.bridge.as_ref().and_then(|b| b.translation.as_ref());
        let clock_hz = match translation {
            Some(translation) if translation.is_event(received_as) => None,
            Some(translation) => Some(translation.clock_hz(received_as)),
            None => Some(DEFAULT_CLOCK_HZ),
        };
        self.received.count(now, &packet.view(), length, clock_hz);
        let route = match (&self.bridge, translation) {
            (None, _) => Err(DropReason::Unbridged),
            (Some(_), None) => Err(DropReason::Muted),
            (Some(bridge), Some(translation)) => match translation.payload_type(received_as) {
                None => Err(DropReason::PayloadType),
                Some(send_as) => {
                    packet.set_payload_type(send_as);
                    Ok(bridge.peer)
                }
            },
        };
        let first = !std::mem::replace(&mut self.seen_rtp, true);
        Ok((first, route))
    }

    fn accept_rtcp(&self, bytes: &[u8]) -> Result<Result<AllocationId, DropReason>, DropReason> {
        RtcpCompound::parse(bytes).map_err(|_| DropReason::NotRtcp)?;
        Ok(self
            .bridge
            .as_ref()
            .map(|bridge| bridge.peer)
            .ok_or(DropReason::Unbridged))
    }

    /// Where a packet of `from` leaves to, if this allocation is open, bridged to it and knows an address its socket can reach.
    pub fn destination(
        &self,
        from: AllocationId,
        component: Component,
    ) -> Result<SocketAddr, DropReason> {
        let bridged = self.bridge.as_ref().is_some_and(|b| b.peer == from);
        if !bridged || self.state == State::Closing {
            return Err(DropReason::Unbridged);
        }
        let destination = self.latch.destination(component);
        destination
            .filter(|to| self.state == State::Open && to.is_ipv4() == self.local.is_ipv4())
            .ok_or(DropReason::NoDestination)
    }

    /// Counts a packet towards the peer.
    pub fn count_sent(&mut self, now: Instant, component: Component, bytes: usize) {
        if component == Component::Rtp {
            count_sent(&mut self.sent, now, bytes);
        }
    }

    /// Whether silence of the peer means that something is wrong.
    pub fn expects_media(&self) -> bool {
        let unmuted = self
            .bridge
            .as_ref()
            .is_some_and(|bridge| bridge.translation.is_some());
        unmuted && self.state != State::Closing
    }

    pub fn stats(&self) -> MediaStats {
        MediaStats {
            received: self.received.stats(),
            sent: self.sent,
            strangers: self.strangers,
        }
    }
}
