//! What waits between the hub and one stream: bounded in bytes, in the order of revisions.
//!
//! A full queue refuses a revision's events and notes instead, for each watch that wanted
//! them, where it fell behind; the stream catches up from history. Such notes are not
//! counted: a watch that fell behind gets nothing more until the stream has seen its note,
//! so there is at most one for each watch.

use super::message::CommitEvents;
use super::registry::{Group, Output};
use std::collections::VecDeque;
use std::sync::Arc;

/// What an item costs beside the bytes of its events: itself and its share of the allocator.
const ITEM_BYTES: usize = 64;

/// Room for this many items is kept in each buffer; an idle stream should cost little.
const ITEMS_KEPT_MAX: usize = 16;

/// A thing that the hub tells a stream.
#[derive(Clone, Debug)]
pub enum Item {
    /// All events of one revision that this watch wants.
    Events { watch: u64, events: Arc<CommitEvents>, which: Which },
    /// The watch is no longer fed: it has been given everything below `next` and nothing from there on.
    Behind { watch: u64, next: i64 },
    /// Every event up to this revision that a fed watch wants stands in the queue before this.
    Mark(Mark),
}

impl Item {
    fn events(&self) -> usize {
        match self {
            Item::Events { which: Which::Some(positions), .. } => positions.len(),
            Item::Events { events, .. } => events.events.len(),
            Item::Behind { .. } | Item::Mark(_) => 0,
        }
    }
}

/// Which events of a revision a watch wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    /// Positions, ascending.
    Some(Box<[u32]>),
}

/// An answer to a stream that asked how far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    pub revision: i64,
    /// How many progress requests of the client it answers.
    pub requested: u32,
    /// Whether it answers the stream's own timer too.
    pub periodic: bool,
}

#[derive(Debug)]
pub struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    bytes_max: usize,
    /// Events, for each watch that gets them.
    events: usize,
}

impl Queue {
    pub fn new(bytes_max: usize) -> Self {
        Self { items: VecDeque::new(), bytes: 0, bytes_max, events: 0 }
    }

    /// Adds what the registry hands out. Returns false when events were refused, so that their
    /// watches count as fallen behind. An empty queue takes one revision of any size.
    pub fn push(&mut self, output: Output<'_>) -> bool {
        match output {
            Output::Events(group) => {
                let bytes = group.bytes() + group.watches().count() * ITEM_BYTES;
                if self.bytes > 0 && self.bytes + bytes > self.bytes_max {
                    self.refuse(&group);
                    return false;
                }
                self.bytes += bytes;
                let waiting = self.items.len();
                self.items.extend(group.items());
                self.events += self.items.range(waiting..).map(Item::events).sum::<usize>();
            }
            Output::Behind { watch, next } => self.items.push_back(Item::Behind { watch, next }),
            Output::Mark(mark) => self.items.push_back(Item::Mark(mark)),
        }
        true
    }

    fn refuse(&mut self, group: &Group<'_>) {
        let next = group.revision();
        self.items.extend(group.watches().map(|watch| Item::Behind { watch, next }));
    }

    /// Hands over all items in exchange for an empty buffer, and forgets their bytes.
    pub fn take(&mut self, empty: &mut VecDeque<Item>) {
        debug_assert!(empty.is_empty());
        empty.shrink_to(ITEMS_KEPT_MAX);
        std::mem::swap(&mut self.items, empty);
        self.bytes = 0;
        self.events = 0;
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Events held, counted for each watch that gets them.
    pub fn events(&self) -> usize {
        self.events
    }

    /// Bytes of events held, and what their items cost.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
