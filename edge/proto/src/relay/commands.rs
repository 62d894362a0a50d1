//! What a control thread tells the media thread of its core, and what it hears back.

use crate::id::AllocationId;
use crate::time::Instant;
use std::net::{IpAddr, SocketAddr};

use crate::config::LatchMode;

/// A payload-type translation for one direction (RFC 3264 §6.1: each side may number dynamic types its own way).
///
/// A payload type that no entry mentions is dropped and counted: nothing that was not negotiated crosses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PayloadMap {
    /// (payload type received, payload type sent), both 0-127; at most 32 entries.
    pub entries: Vec<(u8, u8)>,
    /// Payload type that carries RFC 4733 events among the received ones, for statistics.
    pub telephone_event: Option<u8>,
    /// (payload type received, RTP clock rate in Hz), for jitter; one that is not listed has 8000 Hz. At most 32 entries.
    pub clock_rates: Vec<(u8, u32)>,
}

/// Where a peer's SDP says it receives, and who may latch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RemoteMedia {
    /// Address and port of the RTP stream (the `c=` and `m=` lines).
    pub rtp: SocketAddr,
    /// Address and port for RTCP (RFC 3605 `a=rtcp`, else RTP port + 1).
    pub rtcp: SocketAddr,
    /// The leg's signalling source: with [`LatchMode::Signalling`] media may also come from there.
    pub signalling: IpAddr,
}

/// Commands from a control thread to the media thread of its core, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MediaCommand {
    /// Bind the sockets: RTP at `local`, RTCP at the next port. Answered by `Opened` or `OpenFailed`. A slot may be opened
    /// again once its `Closed` or `OpenFailed` was heard.
    Open {
        allocation: AllocationId,
        local: SocketAddr,
        latch: LatchMode,
    },
    /// A (changed) remote description. Only a value that differs from the last one re-opens the latch.
    SetRemote {
        allocation: AllocationId,
        remote: RemoteMedia,
    },
    /// Relay between two allocations; replaces every earlier bridge of either. A direction that is `None` is muted: its RTP
    /// goes nowhere, its RTCP still does (RFC 3264 §5.1), and its silence is no media timeout. Nothing is relayed where one of
    /// the two does not exist (its `Open` failed, say).
    Bridge {
        a: AllocationId,
        b: AllocationId,
        a_to_b: Option<PayloadMap>,
        b_to_a: Option<PayloadMap>,
    },
    /// Packets of this allocation go nowhere (they still count).
    Unbridge { allocation: AllocationId },
    /// Close the sockets. Always answered by `Closed`, also for an allocation that never opened.
    Close { allocation: AllocationId },
}

/// What a media thread reports.
#[derive(Clone, PartialEq, Debug)]
pub enum MediaEvent {
    Opened {
        allocation: AllocationId,
    },
    /// The port could not be had (in use, address not local); the reason is for the log.
    OpenFailed {
        allocation: AllocationId,
        reason: String,
    },
    /// The first RTP packet that was accepted from this allocation's peer.
    FirstPacket {
        allocation: AllocationId,
        source: SocketAddr,
    },
    /// No packet from this allocation's peer for `media.timeout_s` while bridged and not muted. Said once per silence.
    Timeout {
        allocation: AllocationId,
    },
    /// The ports are free again.
    Closed {
        allocation: AllocationId,
        stats: MediaStats,
    },
}

impl MediaEvent {
    /// The allocation it is about.
    pub fn allocation(&self) -> AllocationId {
        match *self {
            MediaEvent::Opened { allocation }
            | MediaEvent::OpenFailed { allocation, .. }
            | MediaEvent::FirstPacket { allocation, .. }
            | MediaEvent::Timeout { allocation }
            | MediaEvent::Closed { allocation, .. } => allocation,
        }
    }
}

/// Counters of one direction of one allocation: RTP only, RTCP is relayed uncounted.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct DirectionStats {
    pub packets: u64,
    /// UDP payload octets, RTP headers included.
    pub bytes: u64,
    /// Packets missing by RTP sequence number (RFC 3550 A.3), received direction only.
    pub lost: u64,
    /// Interarrival jitter (RFC 3550 A.8) in milliseconds, received direction only.
    pub jitter_ms: f64,
    /// When the first packet passed.
    pub first_packet: Option<Instant>,
}

/// What the CDR says about one leg's media: `received` is from the leg's peer, `sent` is towards it.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct MediaStats {
    pub received: DirectionStats,
    pub sent: DirectionStats,
    /// Packets, RTP and RTCP, from a source that neither the latch nor the SDP allows.
    pub strangers: u64,
}
