//! What is kept of a call's events: packed, and nearly all of it in one piece of memory.

use super::super::feed;
use edge_proto::event::packed::{self, Names};
use edge_proto::event::{CallId, Event};
use std::collections::VecDeque;

/// Events of a call that are kept from its start on.
pub(super) const HEAD: usize = 192;
/// Events that are kept from the end; what lies between is counted.
pub(super) const TAIL: usize = 64;
/// Room for the events of an ordinary call.
const USUAL: usize = 2 << 10;
/// Memory of calls that are over which is kept for new ones, and a piece that is too large to be.
const SPARES: usize = 64;
const LARGE: usize = 16 << 10;

/// The events of one call, without its id.
#[derive(Clone, Debug, Default)]
pub(super) struct Timeline {
    /// From the start on, as [`feed::add`] puts them.
    head: Vec<u8>,
    events: usize,
    tail: VecDeque<Box<[u8]>>,
    omitted: u64,
}

/// Memory for the calls to come.
#[derive(Debug, Default)]
pub(super) struct Spares(Vec<Vec<u8>>);

/// An event that is kept as long as its call.
#[derive(Clone, Debug, Default)]
pub(super) enum Kept {
    #[default]
    Nothing,
    /// In the timeline, from there on.
    At(usize),
    /// What the timeline may omit.
    Apart(Box<[u8]>),
}

impl Kept {
    pub fn is_nothing(&self) -> bool {
        matches!(self, Kept::Nothing)
    }
}

impl Timeline {
    pub fn new(spares: &mut Spares) -> Timeline {
        let head = spares.0.pop().unwrap_or_else(|| Vec::with_capacity(USUAL));
        Timeline {
            head,
            ..Timeline::default()
        }
    }

    /// Adds an event, and tells where it is.
    pub fn add(&mut self, event: &[u8]) -> Option<usize> {
        if self.events < HEAD {
            let at = self.head.len();
            self.events += 1;
            feed::add(&mut self.head, |bytes| bytes.extend_from_slice(event));
            return Some(at);
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
            self.omitted += 1;
        }
        self.tail.push_back(event.into());
        None
    }

    /// The call is over: keeps no more memory than it needs.
    pub fn settle(&mut self, spares: &mut Spares) {
        let exact = self.head.as_slice().to_vec();
        let mut spare = std::mem::replace(&mut self.head, exact);
        if spares.0.len() < SPARES && spare.capacity() <= LARGE {
            spare.clear();
            spares.0.push(spare);
        }
    }

    /// How many events lie between [`Timeline::head`] and [`Timeline::tail`].
    pub fn omitted(&self) -> u64 {
        self.omitted
    }

    pub fn head(&self, call: &CallId) -> impl Iterator<Item = Event> {
        let mut names = Names::default();
        feed::each(&self.head)
            .filter_map(move |bytes| packed::unpack_of_call(bytes, call.clone(), &mut names))
    }

    pub fn tail(&self, call: &CallId) -> impl Iterator<Item = Event> {
        let mut names = Names::default();
        let tail = self.tail.iter();
        tail.filter_map(move |bytes| packed::unpack_of_call(bytes, call.clone(), &mut names))
    }

    pub fn get(&self, kept: &Kept, call: &CallId) -> Option<Event> {
        let bytes = match kept {
            Kept::Nothing => return None,
            Kept::At(at) => feed::each(self.head.get(*at..)?).next()?,
            Kept::Apart(bytes) => bytes,
        };
        packed::unpack_of_call(bytes, call.clone(), &mut Names::default())
    }
}
