//! What is counted about a received stream: loss (RFC 3550 §A.1, §A.3) and jitter (§A.8).

use super::DirectionStats;
use crate::rtp::RtpPacket;
use crate::time::Instant;

/// A forward jump of the sequence number of at least this many is a restart, not loss (RFC 3550 §A.1).
const MAX_DROPOUT: u16 = 3000;
/// A sequence number up to this many behind the highest is a late packet, not a restart (RFC 3550 §A.1).
const MAX_MISORDER: u16 = 100;
/// A step in the relation of timestamp to arrival time that is larger is a new timeline (a resumed hold, another
/// source behind the same SSRC), not jitter.
const MAX_TRANSIT_STEP_NS: u64 = 1_000_000_000;

/// Counters of the direction from a leg's peer.
#[derive(Debug, Default)]
pub(super) struct Reception {
    packets: u64,
    bytes: u64,
    first_packet: Option<Instant>,
    /// Lost in streams that ended: a new SSRC or a restarted sequence begins anew.
    lost_before: u64,
    stream: Option<Stream>,
    jitter: Jitter,
}

/// One SSRC's sequence numbers.
#[derive(Debug)]
struct Stream {
    ssrc: u32,
    base: u16,
    highest: u16,
    /// Wraps of the sequence number so far.
    cycles: u64,
    received: u64,
    /// After a large jump: the number that, coming next, proves a restart.
    restart: Option<u16>,
}

impl Stream {
    fn new(ssrc: u32, sequence: u16) -> Self {
        Stream {
            ssrc,
            base: sequence,
            highest: sequence,
            cycles: 0,
            received: 1,
            restart: None,
        }
    }

    /// Takes the next packet's number; `false` when the sender restarted its numbering.
    fn advance(&mut self, sequence: u16) -> bool {
        let ahead = sequence.wrapping_sub(self.highest);
        if ahead < MAX_DROPOUT {
            if sequence < self.highest {
                self.cycles += 1;
            }
            self.highest = sequence;
        } else if ahead <= MAX_MISORDER.wrapping_neg() {
            let proves_restart = self.restart == Some(sequence);
            self.restart = Some(sequence.wrapping_add(1));
            // The first packet after a jump counts to neither numbering, as in the RFC.
            return !proves_restart;
        }
        self.restart = None;
        self.received += 1;
        true
    }

    /// Expected minus received; a duplicate can hide a loss, as the RFC accepts.
    fn lost(&self) -> u64 {
        let highest = (self.cycles << 16) + u64::from(self.highest);
        let expected = (highest + 1).saturating_sub(u64::from(self.base));
        expected.saturating_sub(self.received)
    }
}

/// The smoothed interarrival jitter, in nanoseconds times 16 (the RFC's fixed-point form), so that a change of clock rate
/// within a stream does no harm.
#[derive(Debug, Default)]
struct Jitter {
    scaled: u64,
    /// Arrival in nanoseconds, RTP timestamp and SSRC of the packet before.
    last: Option<(u64, u32, u32)>,
}

impl Jitter {
    fn update(&mut self, now: Instant, ssrc: u32, timestamp: u32, clock_hz: u32) {
        let arrival = now.as_nanos();
        let previous = self.last.replace((arrival, timestamp, ssrc));
        let Some((last_arrival, last_timestamp, last_ssrc)) = previous else {
            return;
        };
        if last_ssrc != ssrc {
            return;
        }
        let ticks = i64::from(timestamp.wrapping_sub(last_timestamp).cast_signed());
        let media = ticks.saturating_mul(1_000_000_000) / i64::from(clock_hz.max(1));
        let elapsed = i64::try_from(arrival.saturating_sub(last_arrival)).unwrap_or(i64::MAX);
        let difference = elapsed.saturating_sub(media).unsigned_abs();
        if difference <= MAX_TRANSIT_STEP_NS {
            // J += |D| - ((J + 8) >> 4), which never goes below zero.
            self.scaled = (self.scaled + difference).saturating_sub((self.scaled + 8) >> 4);
        }
    }

    fn millis(&self) -> f64 {
        // At most about 16 s in nanoseconds: exact in an f64.
        (self.scaled >> 4) as f64 / 1e6
    }
}

impl Reception {
    /// Counts one accepted RTP packet of `bytes` octets. `clock_hz` is `None` for packets whose timestamps do not follow the
    /// clock (RFC 4733 events).
    pub fn count(
        &mut self,
        now: Instant,
        packet: &RtpPacket<'_>,
        bytes: usize,
        clock_hz: Option<u32>,
    ) {
        self.packets += 1;
        self.bytes += bytes as u64;
        self.first_packet.get_or_insert(now);
        let (ssrc, sequence) = (packet.ssrc(), packet.sequence_number());
        let continues = match &mut self.stream {
            Some(stream) if stream.ssrc == ssrc => stream.advance(sequence),
            _ => false,
        };
        if !continues {
            let ended = self.stream.replace(Stream::new(ssrc, sequence));
            self.lost_before += ended.map_or(0, |stream| stream.lost());
        }
        if let Some(clock_hz) = clock_hz {
            self.jitter.update(now, ssrc, packet.timestamp(), clock_hz);
        }
    }

    pub fn stats(&self) -> DirectionStats {
        DirectionStats {
            packets: self.packets,
            bytes: self.bytes,
            lost: self.lost_before + self.stream.as_ref().map_or(0, Stream::lost),
            jitter_ms: self.jitter.millis(),
            first_packet: self.first_packet,
        }
    }
}

/// Counts one packet of `bytes` octets that was sent.
pub(super) fn count_sent(stats: &mut DirectionStats, now: Instant, bytes: usize) {
    stats.packets += 1;
    stats.bytes += bytes as u64;
    stats.first_packet.get_or_insert(now);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;
    use proptest::prelude::*;

    fn packet(ssrc: u32, sequence: u16, timestamp: u32) -> [u8; 12] {
        let mut bytes = [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[2..4].copy_from_slice(&sequence.to_be_bytes());
        bytes[4..8].copy_from_slice(&timestamp.to_be_bytes());
        bytes[8..].copy_from_slice(&ssrc.to_be_bytes());
        bytes
    }

    fn count(reception: &mut Reception, now: Instant, ssrc: u32, sequence: u16, timestamp: u32) {
        let bytes = packet(ssrc, sequence, timestamp);
        let packet = RtpPacket::parse(&bytes).unwrap();
        reception.count(now, &packet, bytes.len(), Some(8000));
    }

    fn lost(sequences: impl IntoIterator<Item = (u32, u16)>) -> u64 {
        let mut reception = Reception::default();
        for (ssrc, sequence) in sequences {
            count(&mut reception, Instant::ZERO, ssrc, sequence, 0);
        }
        reception.stats().lost
    }

    #[test]
    fn loss_is_expected_minus_received_across_a_wrap() {
        let all = (65_000..=65_535).chain(0..500).map(|n| (1, n));
        assert_eq!(lost(all.clone()), 0);
        assert_eq!(lost(all.filter(|&(_, n)| n % 10 != 3)), 104);
    }

    #[test]
    fn late_packets_are_not_lost_and_duplicates_do_not_go_below_zero() {
        assert_eq!(lost([1, 2, 5, 3, 4, 6].map(|n| (1, n))), 0);
        assert_eq!(lost([1, 1, 1, 2].map(|n| (1, n))), 0);
        // Behind the first one: late as well.
        assert_eq!(lost([10, 9, 11].map(|n| (1, n))), 0);
    }

    #[test]
    fn a_new_source_or_numbering_keeps_what_was_lost_before() {
        assert_eq!(lost([(1, 1), (1, 4), (2, 50_000), (2, 50_002)]), 3);
        // A stray number is not a restart, two in sequence are; the gap between the numberings is not loss.
        assert_eq!(lost([1, 2, 30_000, 3].map(|n| (1, n))), 0);
        assert_eq!(lost([1, 3, 30_000, 30_001, 30_003].map(|n| (1, n))), 2);
    }

    #[test]
    fn jitter_is_that_of_the_formula_in_the_rfc() {
        let mut reception = Reception::default();
        let mut expected = 0.0f64;
        let delays_ms = [0u64, 3, 1, 9, 0, 0, 18, 4, 4, 12];
        let mut previous = None;
        for (number, delay) in delays_ms.into_iter().enumerate() {
            let sent_ms = number as u64 * 20;
            let arrival = Instant::from_millis(1000 + sent_ms + delay);
            count(
                &mut reception,
                arrival,
                1,
                number as u16,
                (number as u32) * 160,
            );
            if let Some(previous) = previous {
                let difference = (delay as f64 - previous as f64).abs();
                expected += (difference - expected) / 16.0;
            }
            previous = Some(delay);
        }
        assert!(expected > 1.0);
        assert!((reception.stats().jitter_ms - expected).abs() < 0.001);
    }

    #[test]
    fn a_steady_stream_across_the_timestamp_wrap_has_no_jitter() {
        let mut reception = Reception::default();
        let mut timestamp = u32::MAX - 500;
        for number in 0..100u16 {
            let now = Instant::ZERO + Duration::from_millis(20) * u32::from(number);
            count(&mut reception, now, 1, number, timestamp);
            timestamp = timestamp.wrapping_add(160);
        }
        assert_eq!(reception.stats().jitter_ms, 0.0);
    }

    #[test]
    fn a_jump_in_the_timeline_is_not_jitter() {
        let mut reception = Reception::default();
        count(&mut reception, Instant::from_millis(0), 1, 0, 0);
        count(&mut reception, Instant::from_millis(20), 1, 1, 80_000_000);
        count(&mut reception, Instant::from_millis(40), 1, 2, 80_000_160);
        assert_eq!(reception.stats().jitter_ms, 0.0);
    }

    proptest! {
        /// Any subset of a stream's packets, each delayed by at most 90 places, loses exactly what is missing between the
        /// first and the highest.
        #[test]
        fn loss_is_what_is_missing(
            start: u16, kept in proptest::collection::vec((any::<bool>(), 0usize..90), 1..2000)
        ) {
            let mut arrivals: Vec<(usize, usize)> = kept.iter().enumerate()
                .filter(|(_, (keep, _))| *keep).map(|(n, (_, late))| (n + late, n)).collect();
            // Reordering must not put a packet before the first: the RFC's base would move.
            if let Some(first) = arrivals.first_mut() { first.0 = 0; }
            arrivals.sort();
            let numbers: Vec<u64> = arrivals.iter().map(|&(_, n)| n as u64).collect();
            let Some(&first) = numbers.first() else { return Ok(()) };
            let highest = numbers.iter().copied().max().unwrap_or(first);
            let expected = highest - first + 1 - numbers.len() as u64;
            let seen = lost(numbers.iter().map(|&n| (1, start.wrapping_add(n as u16))));
            prop_assert_eq!(seen, expected);
        }

        #[test]
        fn arbitrary_streams_never_panic(
            packets in proptest::collection::vec((any::<u64>(), 0u32..3, any::<u16>(), any::<u32>()), 0..200)
        ) {
            let mut reception = Reception::default();
            for (nanos, ssrc, sequence, timestamp) in packets {
                count(&mut reception, Instant::from_nanos(nanos), ssrc, sequence, timestamp);
            }
            prop_assert!(reception.stats().jitter_ms.is_finite());
        }
    }
}
