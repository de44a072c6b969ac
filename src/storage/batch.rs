//! An ordered, readable set of writes that an engine applies as one.
//!
//! A later write to the same key replaces the earlier one, so that one round's
//! batch can be read through ([`super::Overlay`]) while it is still being built.

use super::Space;
use bytes::Bytes;
use std::collections::{BTreeMap, btree_map};
use std::ops::Bound;

/// Writes to all spaces. `None` deletes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    spaces: [BTreeMap<Bytes, Option<Bytes>>; Space::ALL.len()],
}

impl WriteBatch {
    pub fn new() -> Self {
        Self::default()
    }

    /// A value in [`Space::Kv`] must be the whole of its buffer: the memory engine keeps it as it
    /// is, and with it all of what it was cut from. Others are copied.
    pub fn put(&mut self, space: Space, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.spaces[space as usize].insert(key.into(), Some(value.into()));
    }

    pub fn delete(&mut self, space: Space, key: impl Into<Bytes>) {
        self.spaces[space as usize].insert(key.into(), None);
    }

    /// What the batch says of this key: nothing, a deletion, or a value.
    pub fn get(&self, space: Space, key: &[u8]) -> Option<Option<&Bytes>> {
        self.spaces[space as usize].get(key).map(Option::as_ref)
    }

    pub fn range(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> btree_map::Range<'_, Bytes, Option<Bytes>> {
        let upper = match end {
            // An inverted range is empty here, where BTreeMap would panic.
            Some(end) if end <= start => Bound::Excluded(start),
            Some(end) => Bound::Excluded(end),
            None => Bound::Unbounded,
        };
        self.spaces[space as usize].range::<[u8], _>((Bound::Included(start), upper))
    }

    pub fn is_empty(&self) -> bool {
        self.spaces.iter().all(BTreeMap::is_empty)
    }

    /// Number of keys written or deleted.
    pub fn len(&self) -> usize {
        self.spaces.iter().map(BTreeMap::len).sum()
    }

    /// All writes by space, then key.
    pub fn into_writes(self) -> impl Iterator<Item = (Space, Bytes, Option<Bytes>)> {
        Space::ALL
            .into_iter()
            .zip(self.spaces)
            .flat_map(|(space, writes)| writes.into_iter().map(move |(k, v)| (space, k, v)))
    }
}
