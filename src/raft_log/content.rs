//! What the log on disk holds: where each entry is, and the newest entries themselves.
//!
//! Every entry has a slot of fixed size; the entries in memory are the newest ones up to a
//! number of bytes. Older ones are read from their place. Does no I/O.

use super::{count_within, payload_bytes};
use crate::types::{Index, Term};
use raft::eraftpb::{Entry, HardState};
use std::collections::VecDeque;

/// What an entry in memory costs beside its data, for the bound of the cache.
const CACHED_OVERHEAD: usize = 128;

/// An entry's place. `segment` is the low half of its segment's sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) term: Term,
    pub(super) segment: u32,
    /// Of the record within the segment.
    pub(super) offset: u32,
    /// Bytes of data and context.
    pub(super) payload: u32,
}

/// See the module's comment.
///
/// Invariants: slots cover every index from base + 1 to the last one; the cache holds a
/// suffix of them; `entry_bytes` is the sum over the slots.
pub(super) struct Content {
    pub(super) base: (Index, Term),
    pub(super) hard_state: HardState,
    slots: VecDeque<Slot>,
    entry_bytes: u64,
    cache: VecDeque<Entry>,
    cached_bytes: usize,
    cached_bytes_max: usize,
}

impl Content {
    pub(super) fn new(base: (Index, Term), hard_state: HardState, cached_bytes_max: usize) -> Self {
        Self {
            base,
            hard_state,
            slots: VecDeque::new(),
            entry_bytes: 0,
            cache: VecDeque::new(),
            cached_bytes: 0,
            cached_bytes_max,
        }
    }

    pub(super) fn last(&self) -> Index {
        self.base.0 + self.slots.len() as u64
    }

    pub(super) fn entry_bytes(&self) -> u64 {
        self.entry_bytes
    }

    pub(super) fn slot(&self, index: Index) -> Option<&Slot> {
        let position = index.checked_sub(self.base.0 + 1)?;
        self.slots.get(usize::try_from(position).ok()?)
    }

    /// Term at an index, base included.
    pub(super) fn term(&self, index: Index) -> Option<Term> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        self.slot(index).map(|slot| slot.term)
    }

    /// The first index that the cache holds; one above the last when it holds none.
    pub(super) fn cached_from(&self) -> Index {
        self.last() + 1 - self.cache.len() as u64
    }

    /// The end (exclusive) of the longest run from `low`, below `high`, within a number of bytes.
    pub(super) fn limit(&self, low: Index, high: Index, bytes_max: Option<u64>) -> Index {
        let position = |index: Index| (index - self.base.0 - 1) as usize;
        let slots = self.slots.range(position(low)..position(high.max(low)));
        low + count_within(slots.map(|slot| slot.payload as usize), bytes_max) as u64
    }

    /// Adds copies of cached entries from `low` up to, but without, `high`.
    pub(super) fn extend_cached(&self, low: Index, high: Index, to: &mut Vec<Entry>) {
        let from = self.cached_from();
        let position = |index: Index| (index - from) as usize;
        to.extend(self.cache.range(position(low)..position(high)).cloned());
    }

    /// Adds the entry after the last one.
    pub(super) fn push(&mut self, entry: Entry, segment: u32, offset: u32) {
        debug_assert_eq!(entry.index, self.last() + 1);
        let payload = payload_bytes(&entry);
        self.entry_bytes += payload as u64;
        self.slots.push_back(Slot { term: entry.term, segment, offset, payload: payload as u32 });
        self.cached_bytes += payload + CACHED_OVERHEAD;
        self.cache.push_back(entry);
        while self.cached_bytes > self.cached_bytes_max
            && let Some(oldest) = self.cache.pop_front()
        {
            self.cached_bytes -= payload_bytes(&oldest) + CACHED_OVERHEAD;
        }
    }

    /// Drops the entries from `index` on.
    pub(super) fn drop_back(&mut self, index: Index) {
        let cached = index.saturating_sub(self.cached_from()) as usize;
        for entry in self.cache.drain(cached.min(self.cache.len())..) {
            self.cached_bytes -= payload_bytes(&entry) + CACHED_OVERHEAD;
        }
        let kept = index.saturating_sub(self.base.0 + 1) as usize;
        for slot in self.slots.drain(kept.min(self.slots.len())..) {
            self.entry_bytes -= u64::from(slot.payload);
        }
    }

    /// Drops the entries up to `index`, which becomes the base.
    pub(super) fn drop_front(&mut self, index: Index, term: Term) {
        let cached = (index + 1).saturating_sub(self.cached_from()) as usize;
        for entry in self.cache.drain(..cached.min(self.cache.len())) {
            self.cached_bytes -= payload_bytes(&entry) + CACHED_OVERHEAD;
        }
        let dropped = index.saturating_sub(self.base.0) as usize;
        for slot in self.slots.drain(..dropped.min(self.slots.len())) {
            self.entry_bytes -= u64::from(slot.payload);
        }
        self.base = (index, term);
    }

    /// Drops everything; the log goes on after (index, term).
    pub(super) fn reset(&mut self, base: (Index, Term)) {
        let hard_state = std::mem::take(&mut self.hard_state);
        *self = Self::new(base, hard_state, self.cached_bytes_max);
    }
}
