//! An engine with a clock beside it: what its batches and flushes take.

use crate::error::Fatal;
use crate::metrics::parts::Store;
use crate::storage::{Engine, Read, Space, Value, Visitor, WriteBatch};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;

/// Passes everything on.
pub(super) struct Measured {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) numbers: Store,
}

impl Read for Measured {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        self.engine.get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> Result<(), Fatal> {
        self.engine.scan(space, start, end, visit)
    }

    fn scan_past_cache(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> Result<(), Fatal> {
        self.engine.scan_past_cache(space, start, end, visit)
    }

    fn first(
        &self,
        space: Space,
        key: &[u8],
        prefix_len: usize,
        visit: &mut dyn FnMut(&[u8], Value<'_>),
    ) -> Result<(), Fatal> {
        self.engine.first(space, key, prefix_len, visit)
    }
}

impl Engine for Measured {
    fn write(&self, batch: WriteBatch) -> Result<(), Fatal> {
        let begun = Instant::now();
        let written = self.engine.write(batch);
        self.numbers.commit.observe_time(begun.elapsed());
        written
    }

    fn clear(&self) -> Result<(), Fatal> {
        self.engine.clear()
    }

    fn flush(&self) -> Result<(), Fatal> {
        let begun = Instant::now();
        let flushed = self.engine.flush();
        if !self.engine.is_volatile() {
            self.numbers.flush.observe_time(begun.elapsed());
        }
        flushed
    }

    fn is_volatile(&self) -> bool {
        self.engine.is_volatile()
    }

    fn size(&self) -> (u64, u64) {
        self.engine.size()
    }

    fn is_stalled(&self) -> bool {
        self.engine.is_stalled()
    }

    fn name(&self) -> &'static str {
        self.engine.name()
    }
}
