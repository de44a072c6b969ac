//! The memory engine: one ordered map per space behind a reader-writer lock.
//!
//! Holds nothing across a restart; its owner stores snapshots. A scan holds the read lock, so
//! its caller bounds it, and a visitor that read the engine again could wait for a writer that
//! waits for the scan: debug builds panic at once instead.

use super::compact::{Key, Stored};
use super::{Engine, Flow, Read, Space, Visitor, WriteBatch};
use crate::error::Fatal;
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::ops::Bound;

/// What a pair costs beside its bytes: key and value heads in a tree that is 60 % full.
const PAIR_OVERHEAD: u64 = 96;

#[derive(Default)]
struct Table {
    pairs: BTreeMap<Key, Stored>,
    /// Bytes of keys and values.
    bytes: u64,
}

type Tables = [Table; Space::ALL.len()];

/// See the module's comment.
#[derive(Default)]
pub struct MemoryEngine {
    /// One lock over all spaces: a batch that touches several becomes visible at one moment.
    tables: RwLock<Tables>,
}

impl MemoryEngine {
    pub fn new() -> Self {
        Self::default()
    }
}

impl Table {
    fn put(&mut self, key: Bytes, value: Stored) {
        let key_len = key.len() as u64;
        self.bytes += value.len() as u64;
        match self.pairs.insert(Key::new(key), value) {
            Some(old) => self.bytes -= old.len() as u64,
            None => self.bytes += key_len,
        }
    }

    fn delete(&mut self, key: &[u8]) {
        if let Some(old) = self.pairs.remove(key) {
            self.bytes -= (old.len() + key.len()) as u64;
        }
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, visit: &mut Visitor<'_>) {
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        let is_outside = |key: &[u8]| end.is_some_and(|end| key >= end);
        if is_outside(start) {
            return;
        }
        let mut pairs = self.pairs.range::<[u8], _>((Bound::Included(start), upper));
        while let Some((key, value)) = pairs.next() {
            let key = key.as_slice();
            match visit(key, value.as_value()) {
                Flow::Next => {}
                Flow::Stop => return,
                Flow::Seek(target) => {
                    assert!(&target[..] > key, "a scan goes only forward");
                    if is_outside(&target) {
                        return;
                    }
                    pairs = self.pairs.range::<[u8], _>((Bound::Included(&target[..]), upper));
                }
            }
        }
    }
}

impl Read for MemoryEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        let _entered = reentry::enter(self);
        let tables = self.tables.read();
        let value = tables[space as usize].pairs.get(key);
        Ok(value.map(|value| value.as_value().to_bytes()))
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> Result<(), Fatal> {
        let _entered = reentry::enter(self);
        self.tables.read()[space as usize].scan(start, end, visit);
        Ok(())
    }
}

impl Engine for MemoryEngine {
    fn write(&self, batch: WriteBatch) -> Result<(), Fatal> {
        let _entered = reentry::enter(self);
        let mut tables = self.tables.write();
        for (space, key, value) in batch.into_writes() {
            let table = &mut tables[space as usize];
            match value {
                // Large, encoded into a buffer of its own, and shared with the events of its commit.
                Some(value) if space == Space::Kv => table.put(key, Stored::kept(value)),
                // Often a part of the request that brought it.
                Some(value) => table.put(key, Stored::copied(&value)),
                None => table.delete(&key),
            }
        }
        Ok(())
    }

    fn clear(&self) -> Result<(), Fatal> {
        let old = std::mem::take(&mut *self.tables.write());
        // Takes long when it is large; readers go on meanwhile.
        drop(old);
        Ok(())
    }

    fn flush(&self) -> Result<(), Fatal> {
        Ok(())
    }

    fn is_volatile(&self) -> bool {
        true
    }

    fn size(&self) -> (u64, u64) {
        let tables = self.tables.read();
        let in_use: u64 = tables.iter().map(|table| table.bytes).sum();
        let pairs: usize = tables.iter().map(|table| table.pairs.len()).sum();
        (in_use + pairs as u64 * PAIR_OVERHEAD, in_use)
    }

    fn name(&self) -> &'static str {
        "memory"
    }
}

/// Finds calls from inside a scan of the same engine, which may wait for ever.
#[cfg(debug_assertions)]
mod reentry {
    use super::MemoryEngine;
    use std::cell::RefCell;

    thread_local! {
        /// Addresses of the engines that this thread is in.
        static INSIDE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) struct Entered;

    pub(super) fn enter(engine: &MemoryEngine) -> Entered {
        let address = std::ptr::from_ref(engine).addr();
        INSIDE.with_borrow_mut(|inside| {
            assert!(!inside.contains(&address), "a visitor must not call the engine");
            inside.push(address);
        });
        Entered
    }

    impl Drop for Entered {
        fn drop(&mut self) {
            INSIDE.with_borrow_mut(Vec::pop);
        }
    }
}

#[cfg(not(debug_assertions))]
mod reentry {
    pub(super) struct Entered;

    pub(super) const fn enter(_: &super::MemoryEngine) -> Entered {
        Entered
    }
}
