//! How much the store holds, counted alike on both engines.
//!
//! What an engine itself says - files and their buffers, or an allocator's pages - moves with its
//! own housekeeping; a quota needs a number that grows with what is written and falls with what
//! compaction removes. So each version is charged when it is written and credited when it is
//! removed. As in etcd, the size in use falls at once and the size itself only when the store is
//! defragmented, which here means no more than to count anew.

use super::key;
use crate::error::Fatal;
use crate::storage::{Flow, Read, Space, WriteBatch};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

const SIZE: &[u8] = b"mvcc/size";

/// Sizes are told in steps of this, as those of a file of pages.
const PAGE: u64 = 4096;
/// What an empty store is said to hold: etcd's database begins with five pages.
const EMPTY: u64 = 5 * PAGE;
/// What a version costs beside its record and its key, which is stored twice.
const VERSION_OVERHEAD: u64 = 64;

/// Bytes of all versions with their keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StoreSize {
    in_use: u64,
    /// The highest `in_use` since the last defragmentation.
    allocated: u64,
    /// Keys whose newest version is no tombstone.
    keys: u64,
}

impl StoreSize {
    /// The stored size; counted where it was not stored, which takes a walk over all versions.
    pub(super) fn load(store: &dyn Read) -> Result<Self, Fatal> {
        match store.get(Space::Meta, SIZE)? {
            // A size without the number of keys was stored by a release that did not tell it.
            Some(stored) if stored.len() == 16 => {
                Ok(Self { keys: count(store)?.keys, ..decode(&stored) })
            }
            Some(stored) if stored.len() == 24 => Ok(decode(&stored)),
            Some(stored) => Err(key::corrupt("store size", &stored)),
            None => count(store),
        }
    }

    pub(super) fn store(&self, batch: &mut WriteBatch) {
        let mut stored = BytesMut::with_capacity(24);
        stored.put_u64(self.in_use);
        stored.put_u64(self.allocated);
        stored.put_u64(self.keys);
        batch.put(Space::Meta, Bytes::from_static(SIZE), stored.freeze());
    }

    pub(super) fn grow(&mut self, user_key: &[u8], record: &[u8]) {
        self.in_use += weight(user_key, record.len());
        self.allocated = self.allocated.max(self.in_use);
    }

    pub(super) fn shrink(&mut self, user_key: &[u8], record_len: usize) {
        self.in_use = self.in_use.saturating_sub(weight(user_key, record_len));
    }

    pub(super) fn key_created(&mut self) {
        self.keys += 1;
    }

    pub(super) fn key_deleted(&mut self) {
        self.keys = self.keys.saturating_sub(1);
    }

    pub(super) fn keys(&self) -> u64 {
        self.keys
    }

    pub(super) fn defragment(&mut self) {
        self.allocated = self.in_use;
    }

    /// As it is shown: allocated, in use.
    pub(super) fn shown(&self) -> (u64, u64) {
        let pages = |bytes: u64| EMPTY + bytes.next_multiple_of(PAGE);
        (pages(self.allocated), pages(self.in_use))
    }
}

fn weight(user_key: &[u8], record_len: usize) -> u64 {
    (2 * user_key.len() + record_len) as u64 + VERSION_OVERHEAD
}

/// Reads numbers of eight bytes; those that are not there are 0.
fn decode(mut stored: &[u8]) -> StoreSize {
    let mut next = || stored.try_get_u64().unwrap_or(0);
    StoreSize { in_use: next(), allocated: next(), keys: next() }
}

fn count(store: &dyn Read) -> Result<StoreSize, Fatal> {
    let mut size = StoreSize::default();
    let mut failure = None;
    let mut last = None;
    store.scan(Space::Kv, &[], None, &mut |kv_key, record| {
        let counted = key::split(kv_key).and_then(|(escaped, _)| {
            // Versions of a key stand together, the newest first.
            if last.as_deref() != Some(escaped) {
                size.keys += u64::from(key::decode_record(record.as_slice())?.is_some());
                last = Some(escaped.to_vec());
            }
            key::with_user_key(escaped, |user_key| size.grow(user_key, record.as_slice()))
        });
        match counted {
            Ok(()) => Flow::Next,
            Err(fatal) => {
                failure = Some(fatal);
                Flow::Stop
            }
        }
    })?;
    failure.map_or(Ok(size), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::Mvcc;
    use crate::pb::etcdserverpb::{DeleteRangeRequest, PutRequest};
    use crate::storage::Engine;
    use crate::storage::memory::MemoryEngine;
    use std::sync::Arc;

    fn write(mvcc: &mut Mvcc, engine: &dyn Engine, key: &str, value_len: Option<usize>) {
        let mut batch = WriteBatch::new();
        let mut txn = mvcc.begin(&mut batch);
        let key = Bytes::from(key.to_owned());
        match value_len {
            Some(len) => {
                let request = PutRequest { key, value: vec![7; len].into(), ..Default::default() };
                txn.put(&request, &|_| false).unwrap().unwrap();
            }
            None => {
                txn.delete_range(&DeleteRangeRequest { key, ..Default::default() }).unwrap();
            }
        }
        txn.finish();
        mvcc.store_size(&mut batch);
        engine.write(batch).unwrap();
        mvcc.publish();
    }

    #[test]
    fn what_is_charged_is_what_is_there_and_is_credited_when_it_goes() {
        let engine = Arc::new(MemoryEngine::new());
        let mut mvcc = Mvcc::open(engine.clone()).unwrap();
        assert_eq!(mvcc.view().size(), (EMPTY, EMPTY));
        for _ in 0..5 {
            write(&mut mvcc, &*engine, "a\0b", Some(3000));
            write(&mut mvcc, &*engine, "gone", Some(100));
        }
        write(&mut mvcc, &*engine, "gone", None);
        let full = mvcc.size;
        assert_eq!(full, count(&*engine).unwrap());
        assert_eq!(full, StoreSize::load(&*engine).unwrap());
        assert!(full.in_use > 15_000, "{full:?}");

        let mut batch = WriteBatch::new();
        mvcc.compact(&mut batch, mvcc.revision()).unwrap().unwrap();
        engine.write(batch).unwrap();
        mvcc.publish();
        let mut batch = WriteBatch::new();
        mvcc.compaction_step(&mut batch, 100).unwrap();
        engine.write(batch).unwrap();
        mvcc.publish();
        // The tombstone at the compacted revision is still there.
        assert_eq!(mvcc.size.in_use, count(&*engine).unwrap().in_use);
        assert_eq!(mvcc.size.allocated, full.allocated);
        assert!(mvcc.size.in_use < 4000, "{:?}", mvcc.size);
        assert_eq!(mvcc.view().size(), (EMPTY + 4 * PAGE, EMPTY + PAGE));

        let mut batch = WriteBatch::new();
        mvcc.defragment(&mut batch);
        engine.write(batch).unwrap();
        mvcc.publish();
        assert_eq!(mvcc.view().size(), (EMPTY + PAGE, EMPTY + PAGE));
        assert_eq!(Mvcc::open(engine).unwrap().view().size(), (EMPTY + PAGE, EMPTY + PAGE));
    }
}
