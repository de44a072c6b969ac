//! A revision store on the memory engine, for tests of watches.

use crate::mvcc::{Commit, Mvcc, View, WriteTxn};
use crate::pb::etcdserverpb::{DeleteRangeRequest, PutRequest};
use crate::storage::memory::MemoryEngine;
use crate::storage::{Engine, WriteBatch};
use bytes::Bytes;
use std::sync::Arc;

pub(super) struct Store {
    engine: Arc<dyn Engine>,
    mvcc: Mvcc,
}

/// A change within a revision.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Put(String, Bytes),
    Delete(String),
}

impl Store {
    pub(super) fn new() -> Self {
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
        let mvcc = Mvcc::open(engine.clone()).expect("an empty store");
        Self { engine, mvcc }
    }

    pub(super) fn view(&self) -> View {
        self.mvcc.view()
    }

    pub(super) fn put(&mut self, key: &str, value: impl Into<Bytes>) -> Commit {
        self.change(&[Change::Put(key.to_owned(), value.into())]).expect("a put changes something")
    }

    /// One revision with these changes, readable when this returns. None when nothing changed.
    pub(super) fn change(&mut self, changes: &[Change]) -> Option<Commit> {
        self.write(|txn| {
            for change in changes {
                match change {
                    Change::Put(key, value) => {
                        let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), value.clone());
                        let put = PutRequest { key, value, ..PutRequest::default() };
                        let leases = |_| false;
                        txn.put(&put, &leases).expect("the engine works").expect("a valid put");
                    }
                    Change::Delete(key) => {
                        let key = Bytes::copy_from_slice(key.as_bytes());
                        let delete = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
                        txn.delete_range(&delete).expect("the engine works");
                    }
                }
            }
        })
    }

    pub(super) fn delete_interval(&mut self, key: &str, range_end: &str) -> Option<Commit> {
        let delete = DeleteRangeRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            range_end: Bytes::copy_from_slice(range_end.as_bytes()),
            prev_kv: false,
        };
        self.write(|txn| {
            txn.delete_range(&delete).expect("the engine works");
        })
    }

    fn write(&mut self, changes: impl FnOnce(&mut WriteTxn<'_>)) -> Option<Commit> {
        let mut batch = WriteBatch::new();
        let mut txn = self.mvcc.begin(&mut batch);
        changes(&mut txn);
        let commit = txn.finish().commit;
        self.engine.write(batch).expect("the engine works");
        self.mvcc.publish();
        commit
    }

    /// Compacts logically and physically.
    pub(super) fn compact(&mut self, revision: i64) {
        let mut batch = WriteBatch::new();
        let compacted = self.mvcc.compact(&mut batch, revision).expect("the engine works");
        compacted.expect("a valid revision");
        self.engine.write(batch).expect("the engine works");
        self.mvcc.publish();
        loop {
            let mut batch = WriteBatch::new();
            let progress = self.mvcc.compaction_step(&mut batch, 100).expect("the engine works");
            self.engine.write(batch).expect("the engine works");
            if progress != crate::mvcc::CompactionProgress::More {
                return;
            }
        }
    }

    /// Between these two the store counts as being replaced by a snapshot.
    pub(super) fn begin_replacement(&self) {
        self.mvcc.begin_reload();
    }

    pub(super) fn end_replacement(&mut self) {
        self.mvcc.reload().expect("the engine works");
    }
}
