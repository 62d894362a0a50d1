//! A [`PayloadMap`] as the hot path wants it: one load per packet.

use super::PayloadMap;
use arrayvec::ArrayVec;

/// Marks a payload type that must not cross.
const UNMAPPED: u8 = 0xff;

/// The most entries a map may have; more are ignored.
const MAX_ENTRIES: usize = 32;

/// RTP clock of every payload type that the map does not list (RFC 3551: all narrow-band audio, and G.722).
pub(super) const DEFAULT_CLOCK_HZ: u32 = 8000;

/// One direction's payload types.
#[derive(Clone, Debug)]
pub(super) struct Translation {
    to: [u8; 128],
    clock_rates: ArrayVec<(u8, u32), MAX_ENTRIES>,
    telephone_event: Option<u8>,
}

impl Translation {
    /// The payload type to send for one received, or `None` when it was not negotiated.
    pub fn payload_type(&self, received: u8) -> Option<u8> {
        self.to
            .get(usize::from(received))
            .copied()
            .filter(|&to| to != UNMAPPED)
    }

    /// Clock rate in Hz, never zero.
    pub fn clock_hz(&self, received: u8) -> u32 {
        self.clock_rates
            .iter()
            .find(|&&(payload_type, _)| payload_type == received)
            .map_or(DEFAULT_CLOCK_HZ, |&(_, hz)| hz)
    }

    /// Whether the payload type carries RFC 4733 events, whose timestamps stand still while the event lasts.
    pub fn is_event(&self, received: u8) -> bool {
        self.telephone_event == Some(received)
    }
}

impl From<&PayloadMap> for Translation {
    fn from(map: &PayloadMap) -> Self {
        let mut to = [UNMAPPED; 128];
        for &(received, sent) in map.entries.iter().take(MAX_ENTRIES) {
            if let Some(slot) = to.get_mut(usize::from(received))
                && *slot == UNMAPPED
                && sent < 128
            {
                *slot = sent;
            }
        }
        let clock_rates = map.clock_rates.iter().copied();
        Translation {
            to,
            clock_rates: clock_rates
                .filter(|&(_, hz)| hz != 0)
                .take(MAX_ENTRIES)
                .collect(),
            telephone_event: map.telephone_event,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mapped_types_cross_and_the_first_entry_for_a_type_counts() {
        let translation = Translation::from(&PayloadMap {
            entries: vec![(0, 0), (101, 96), (101, 97), (200, 1), (5, 128)],
            telephone_event: Some(101),
            clock_rates: vec![(111, 48_000), (0, 0)],
        });
        assert_eq!(translation.payload_type(0), Some(0));
        assert_eq!(translation.payload_type(101), Some(96));
        for unmapped in [1, 5, 96, 127, 128, 200, 255] {
            assert_eq!(translation.payload_type(unmapped), None, "{unmapped}");
        }
        assert_eq!(translation.clock_hz(111), 48_000);
        assert_eq!(translation.clock_hz(0), 8000);
        assert!(translation.is_event(101) && !translation.is_event(0));
    }

    #[test]
    fn a_map_beyond_the_limit_is_cut() {
        let translation = Translation::from(&PayloadMap {
            entries: (0..100).map(|n| (n, n)).collect(),
            telephone_event: None,
            clock_rates: (0..100).map(|n| (n, 16_000)).collect(),
        });
        let crossing = (0..128).filter(|&n| translation.payload_type(n).is_some());
        assert_eq!(crossing.count(), MAX_ENTRIES);
        assert_eq!(translation.clock_hz(99), DEFAULT_CLOCK_HZ);
    }
}
