//! Events on their way from a control thread to the reporter: packed, those of a turn at once, so that what an event is made of is
//! given back by the thread that took it, and the reporter reads a page or two in one go.

use edge_proto::event::{Event, packed};
use edge_proto::id::CoreId;

/// A batch of so many octets is not added to.
const LARGE: usize = 16 << 10;
/// Room for the events of an ordinary turn.
const USUAL: usize = 2 << 10;

/// Events of one core, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    pub core: CoreId,
    events: usize,
    /// Each behind its length in four octets.
    bytes: Vec<u8>,
}

impl Batch {
    pub fn new(core: CoreId) -> Batch {
        Batch {
            core,
            events: 0,
            bytes: Vec::new(),
        }
    }

    /// Adds `event`; gives its octets.
    pub fn add(&mut self, event: &Event) -> &[u8] {
        if self.bytes.is_empty() {
            self.bytes.reserve(USUAL);
        }
        self.events += 1;
        add(&mut self.bytes, |bytes| packed::pack(event, bytes))
    }

    /// How many events it has.
    pub fn len(&self) -> usize {
        self.events
    }

    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Whether another should be begun.
    pub fn is_large(&self) -> bool {
        self.bytes.len() >= LARGE
    }

    /// What was added, event by event.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        each(&self.bytes)
    }
}

/// Adds octets behind their length; gives them.
pub(super) fn add(to: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) -> &[u8] {
    let at = to.len();
    to.extend_from_slice(&[0; LENGTH]);
    put(to);
    let (_, added) = to.split_at_mut(at);
    let (length, added) = added.split_at_mut(LENGTH);
    // Text in an event is bounded by what a peer may send.
    length.copy_from_slice(&u32::try_from(added.len()).unwrap_or(u32::MAX).to_le_bytes());
    added
}

const LENGTH: usize = size_of::<u32>();

/// What was added to `bytes`, in order.
pub(super) fn each(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk()?;
        let length = u32::from_le_bytes(*length) as usize;
        let (added, rest) = rest.split_at_checked(length)?;
        bytes = rest;
        Some(added)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::call_with_transfer;

    #[test]
    fn a_batch_gives_what_was_added() {
        let mut batch = Batch::new(CoreId(1));
        let events = call_with_transfer();
        let added: Vec<Vec<u8>> = events.iter().map(|e| batch.add(e).to_vec()).collect();
        assert_eq!(batch.iter().collect::<Vec<_>>(), added);
        assert_eq!(batch.len(), events.len());
        let names = &mut packed::Names::default();
        let unpacked = batch
            .iter()
            .filter_map(|bytes| packed::unpack(bytes, names));
        assert_eq!(unpacked.collect::<Vec<_>>(), events);
    }
}
