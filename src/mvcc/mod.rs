//! Revisions of keys on an engine: etcd's store without leases, users and raft.
//!
//! [`Mvcc`] is the one writer. Its changes go into a batch that the caller writes to the engine;
//! they become visible to the readers ([`View`], any number, on any thread) when the caller then
//! publishes them. Requests are expected to be validated; what could not be decided from the
//! request alone (revisions, existing keys and leases) is decided here.
//!
//! Promises: a View sees whole revisions, never a later one nor a compacted one; what it sees
//! at a revision stays the same until that is compacted, however far removal has got.
//!
//! The layout is in `key`, reading in `reader`, `range` and `encoded`, a Txn's decisions in `txn`, changes
//! in `write`, and what makes old revisions go in `compaction`. Leases are numbers here: who has
//! which keys is told in [`Finished`] and kept elsewhere.

mod compaction;
mod encoded;
mod hash;
mod history;
pub mod key;
#[cfg(test)]
mod model;
mod newest_cache;
mod pins;
mod range;
mod reader;
#[cfg(test)]
mod scripts;
mod size;
mod stream;
mod tally;
mod txn;
pub mod versions;
mod view;
mod write;

pub use compaction::CompactionProgress;
pub use encoded::{EncodedRange, EncodedRest, RangeEncoding, Step};
pub use hash::HashKv;
pub use history::{Compacted, History};
pub use pins::Pin;
pub use range::is_sorted;
pub use stream::RangeStream;
pub use tally::Tally;
pub use view::View;
pub use write::{Finished, LeaseChange, WriteTxn};

use crate::error::Fatal;
use crate::pb::mvccpb::Event;
use crate::storage::{Engine, Flow, Read, Space, WriteBatch};
use crate::types::Revision;
use std::sync::Arc;

/// One applied revision with its events, in sub-revision order.
#[derive(Clone, Debug, PartialEq)]
pub struct Commit {
    pub revision: i64,
    pub events: Vec<Event>,
}

/// The writer. Owned by one thread.
pub struct Mvcc {
    shared: Arc<view::Shared>,
    /// The last revision given out, published or not.
    revision: i64,
    compacted: i64,
    removal: compaction::Removal,
    size: size::StoreSize,
    tally: Tally,
}

/// The revision of the empty store.
const FIRST_REVISION: i64 = 1;

impl Mvcc {
    /// Finds in the engine where the last writer stopped, and publishes that.
    pub fn open(engine: Arc<dyn Engine>) -> Result<Mvcc, Fatal> {
        let mut mvcc = Mvcc {
            shared: Arc::new(view::Shared::new(engine)),
            revision: FIRST_REVISION,
            compacted: compaction::NEVER,
            removal: compaction::Removal::NONE,
            size: size::StoreSize::default(),
            tally: Tally::default(),
        };
        mvcc.reload()?;
        Ok(mvcc)
    }

    /// Tells readers that the engine's content is about to be replaced, until [`Mvcc::reload`].
    pub fn begin_reload(&self) {
        self.shared.begin_replacement();
    }

    /// Looks again after the engine's content was replaced. Views stay valid and see the new content.
    pub fn reload(&mut self) -> Result<(), Fatal> {
        let engine = &*self.shared.engine;
        self.compacted = compaction::load_compacted(engine)?;
        self.removal = compaction::Removal::load(engine)?;
        self.size = size::StoreSize::load(engine)?;
        self.revision = last_revision(engine, self.compacted.max(FIRST_REVISION))?;
        self.publish();
        self.shared.end_replacement(self.revision);
        Ok(())
    }

    pub fn view(&self) -> View {
        View::new(self.shared.clone())
    }

    /// The writer's own revision, maybe not yet published.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// What was done since this writer was opened.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Keys that exist, after all changes that were finished.
    pub fn keys(&self) -> u64 {
        self.size.keys()
    }

    /// Begins the changes of one request. `batch` holds what is not yet in the engine.
    pub fn begin<'a>(&'a mut self, batch: &'a mut WriteBatch) -> WriteTxn<'a> {
        WriteTxn::new(self, batch)
    }

    /// Notes in the batch how much the store holds after it. To be called once for a batch.
    pub fn store_size(&self, batch: &mut WriteBatch) {
        self.size.store(batch);
    }

    /// Counts the store's size anew: what compaction freed is no longer held against it.
    pub fn defragment(&mut self, batch: &mut WriteBatch) {
        self.size.defragment();
        self.size.store(batch);
    }

    /// Lets readers see everything done so far. The engine must have the batches.
    pub fn publish(&self) {
        self.shared.publish(self.revision, self.compacted, self.size.shown());
    }
}

/// The last main revision in the log of changes, which never loses its last entry; `known` if
/// there is none above it. Found by bisection, because engines are read forwards only.
fn last_revision(store: &dyn Read, known: i64) -> Result<i64, Fatal> {
    let first_above = |revision: i64| {
        let mut first = Ok(None);
        let start = key::log_key(Revision::new(revision + 1, 0));
        store.scan(Space::Log, &start, None, &mut |log_key, _| {
            first = key::decode_log_key(log_key).map(|found| Some(found.main));
            Flow::Stop
        })?;
        first
    };
    let mut last = known;
    let mut step: i64 = 1;
    while let Some(found) = first_above(last.saturating_add(step).min(i64::MAX - 1))? {
        last = found;
        step = step.saturating_mul(2);
    }
    while step > 0 {
        match first_above(last.saturating_add(step - 1).min(i64::MAX - 1))? {
            Some(found) => last = found,
            None => step /= 2,
        }
    }
    Ok(last)
}
