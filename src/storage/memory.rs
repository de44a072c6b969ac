//! The memory engine: one ordered map per space behind a reader-writer lock.
//!
//! Holds nothing across a restart; its owner stores snapshots. A scan holds the
//! space's read lock, so the caller bounds it.

use super::{Engine, Flow, Read, Space, Value, Visitor, WriteBatch};
use crate::error::Fatal;
use bytes::Bytes;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::ops::Bound;

#[derive(Default)]
struct Table {
    pairs: BTreeMap<Bytes, Bytes>,
    /// Bytes of keys and values.
    bytes: u64,
}

/// See the module's comment.
#[derive(Default)]
pub struct MemoryEngine {
    /// One lock over all spaces: a batch that touches several becomes visible at one moment.
    tables: RwLock<[Table; Space::ALL.len()]>,
}

impl MemoryEngine {
    pub fn new() -> Self {
        Self::default()
    }
}

impl Read for MemoryEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        Ok(self.tables.read()[space as usize].pairs.get(key).cloned())
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> Result<(), Fatal> {
        let tables = self.tables.read();
        let pairs = &tables[space as usize].pairs;
        let mut from = start.to_vec();
        'again: loop {
            if end.is_some_and(|end| &from[..] >= end) {
                return Ok(());
            }
            let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
            for (key, value) in pairs.range::<[u8], _>((Bound::Included(&from[..]), upper)) {
                match visit(key, Value::Shared(value)) {
                    Flow::Next => {}
                    Flow::Stop => return Ok(()),
                    Flow::Seek(target) => {
                        from = target;
                        continue 'again;
                    }
                }
            }
            return Ok(());
        }
    }
}

impl Engine for MemoryEngine {
    fn write(&self, batch: WriteBatch) -> Result<(), Fatal> {
        let mut tables = self.tables.write();
        for (space, key, value) in batch.into_writes() {
            let table = &mut tables[space as usize];
            let key_len = key.len() as u64;
            match value {
                Some(value) => {
                    table.bytes += value.len() as u64;
                    match table.pairs.insert(key, value) {
                        Some(old) => table.bytes -= old.len() as u64,
                        None => table.bytes += key_len,
                    }
                }
                None => {
                    if let Some(old) = table.pairs.remove(&key) {
                        table.bytes -= old.len() as u64 + key_len;
                    }
                }
            }
        }
        Ok(())
    }

    fn clear(&self) -> Result<(), Fatal> {
        *self.tables.write() = Default::default();
        Ok(())
    }

    fn flush(&self) -> Result<(), Fatal> {
        Ok(())
    }

    fn is_volatile(&self) -> bool {
        true
    }

    fn size(&self) -> (u64, u64) {
        let bytes = self.tables.read().iter().map(|table| table.bytes).sum();
        (bytes, bytes)
    }

    fn name(&self) -> &'static str {
        "memory"
    }
}
