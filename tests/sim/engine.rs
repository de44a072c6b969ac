//! An engine with a disk that forgets: the durable engine's promises, and nothing more.
//!
//! Batches are atomic and ordered; those written after the last flush form a suffix of which
//! a crash keeps any beginning. As a volatile engine it keeps nothing, like the memory engine.

use parking_lot::Mutex;
use quoin::error::Fatal;
use quoin::storage::memory::MemoryEngine;
use quoin::storage::{Engine, Flow, Read, Space, Visitor, WriteBatch};
use std::collections::VecDeque;
use std::sync::Arc;

#[derive(Default)]
struct Disk {
    durable: MemoryEngine,
    unflushed: VecDeque<WriteBatch>,
    /// Counts opens: only the newest engine may write.
    owner: u64,
    /// Writes that still succeed, when a failure is to come.
    writes_left: Option<u32>,
}

/// What lies on one member's disk. Clones are handles to the same one.
#[derive(Clone, Default)]
pub struct EngineDisk(Arc<Mutex<Disk>>);

impl EngineDisk {
    /// Batches that a crash may lose.
    pub fn unflushed(&self) -> usize {
        self.0.lock().unflushed.len()
    }

    /// The machine stops; the first `keep` of the batches that were not flushed survive.
    pub fn crash(&self, keep: usize) {
        let mut disk = self.0.lock();
        flush(&mut disk, keep).expect("the memory engine takes every batch");
        disk.unflushed.clear();
        disk.owner += 1;
        disk.writes_left = None;
    }

    /// Makes the first `batches` of the unflushed ones durable.
    pub fn flush(&self, batches: usize) {
        flush(&mut self.0.lock(), batches).expect("the memory engine takes every batch");
    }

    /// Lets a write of the present engine fail, after `writes` more that succeed.
    pub fn fail_after(&self, writes: u32) {
        self.0.lock().writes_left = Some(writes);
    }
}

fn flush(disk: &mut Disk, batches: usize) -> Result<(), Fatal> {
    let batches = batches.min(disk.unflushed.len());
    let flushed: Vec<WriteBatch> = disk.unflushed.drain(..batches).collect();
    flushed.into_iter().try_for_each(|batch| disk.durable.write(batch))
}

/// See the module's comment.
pub struct SimEngine {
    live: MemoryEngine,
    disk: EngineDisk,
    owner: u64,
    is_volatile: bool,
}

impl SimEngine {
    pub fn open(disk: &EngineDisk, is_volatile: bool) -> Result<Self, Fatal> {
        let live = MemoryEngine::new();
        let mut inner = disk.0.lock();
        inner.owner += 1;
        if !is_volatile {
            let mut batch = WriteBatch::new();
            for space in Space::ALL {
                inner.durable.scan(space, &[], None, &mut |key, value| {
                    batch.put(space, key.to_vec(), value.to_bytes());
                    Flow::Next
                })?;
            }
            live.write(batch)?;
        }
        Ok(Self { live, disk: disk.clone(), owner: inner.owner, is_volatile })
    }
}

impl Read for SimEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<bytes::Bytes>, Fatal> {
        self.live.get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> Result<(), Fatal> {
        self.live.scan(space, start, end, visit)
    }
}

impl Engine for SimEngine {
    fn write(&self, batch: WriteBatch) -> Result<(), Fatal> {
        let mut disk = self.disk.0.lock();
        assert_eq!(disk.owner, self.owner, "a dead process writes");
        match &mut disk.writes_left {
            Some(0) => return Err(Fatal::new("use the disk of the engine")),
            Some(left) => *left -= 1,
            None => {}
        }
        if !self.is_volatile {
            disk.unflushed.push_back(batch.clone());
        }
        self.live.write(batch)
    }

    fn clear(&self) -> Result<(), Fatal> {
        let mut disk = self.disk.0.lock();
        disk.unflushed.clear();
        disk.durable.clear()?;
        self.live.clear()
    }

    fn flush(&self) -> Result<(), Fatal> {
        flush(&mut self.disk.0.lock(), usize::MAX)
    }

    fn is_volatile(&self) -> bool {
        self.is_volatile
    }

    fn size(&self) -> (u64, u64) {
        self.live.size()
    }

    fn name(&self) -> &'static str {
        "simulated"
    }
}
