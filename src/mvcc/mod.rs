//! etcd's revisions on top of an ordered engine: present, past, history and compaction.
//!
//! One writer, the state machine, adds versions to a batch through [`WriteTxn`]; any number of
//! readers look through [`View`]s, each at a fixed revision, without ever blocking the writer for
//! longer than one bounded engine scan. A batch becomes visible when, after it is in the
//! engine, [`Mvcc::publish`] moves the shared revision. Requests are taken as checked by
//! `server::validate`.
//!
//! Invariants: the revision rises by one for each request that changes something; a version
//! is never altered; what is visible at or above the compacted revision does not depend on how far
//! physical removal has got.

mod compact;
pub mod key;
mod range;
mod scan;
mod txn;
mod view;
mod write;

pub use compact::CompactionProgress;
pub use view::{Compacted, History, Pin, RangeStream, View};
pub use write::{Finished, LeaseChange, WriteTxn};

use crate::error::{Fatal, RequestError};
use crate::pb::mvccpb::Event;
use crate::storage::{Engine, Space, WriteBatch};
use crate::types::Revision;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

const META_REVISION: &[u8] = b"mvcc/revision";
const META_COMPACTED: &[u8] = b"mvcc/compacted";
/// Where the walk of physical removal goes on.
const META_REMOVED: &[u8] = b"mvcc/removed";

/// The revision of an empty store: its first write gets 2.
const FIRST_REVISION: i64 = 1;

/// One applied revision: its events in sub-revision order.
#[derive(Clone, Debug, PartialEq)]
pub struct Commit {
    pub revision: i64,
    pub events: Vec<Event>,
}

/// What readers share with the writer.
struct Shared {
    revision: AtomicI64,
    /// 0: never compacted.
    compacted: AtomicI64,
    /// Odd while the engine's content is being replaced.
    replacements: AtomicU64,
    /// Revisions that readers hold, with the number of holders.
    pins: Mutex<BTreeMap<i64, usize>>,
}

/// The writer's side.
pub struct Mvcc {
    engine: Arc<dyn Engine>,
    shared: Arc<Shared>,
    revision: i64,
    compacted: i64,
    /// Physical removal goes on here.
    removed: Revision,
}

impl Mvcc {
    /// Finds the state that the engine holds.
    ///
    /// # Errors
    /// When the engine fails or a record of its own is damaged.
    pub fn open(engine: Arc<dyn Engine>) -> Result<Self, Fatal> {
        let shared = Arc::new(Shared {
            revision: AtomicI64::new(FIRST_REVISION),
            compacted: AtomicI64::new(0),
            replacements: AtomicU64::new(0),
            pins: Mutex::default(),
        });
        let mut mvcc = Self {
            engine,
            shared,
            revision: FIRST_REVISION,
            compacted: 0,
            removed: Revision::default(),
        };
        mvcc.reload()?;
        Ok(mvcc)
    }

    /// Tells readers that the engine's content is about to be replaced, until [`Mvcc::reload`].
    pub fn begin_reload(&self) {
        self.shared.replacements.fetch_or(1, Ordering::SeqCst);
    }

    /// Looks again after the engine's content was replaced. Views stay valid and see the new content.
    ///
    /// # Errors
    /// As [`Mvcc::open`].
    pub fn reload(&mut self) -> Result<(), Fatal> {
        let number = |name: &[u8]| -> Result<Option<i64>, Fatal> {
            let Some(value) = self.engine.get(Space::Meta, name)? else { return Ok(None) };
            match <[u8; 8]>::try_from(&value[..]) {
                Ok(bytes) => Ok(Some(i64::from_be_bytes(bytes))),
                Err(error) => Err(Fatal::with("read revision of the store", error)),
            }
        };
        self.revision = number(META_REVISION)?.unwrap_or(FIRST_REVISION);
        self.compacted = number(META_COMPACTED)?.unwrap_or(0);
        self.removed = match self.engine.get(Space::Meta, META_REMOVED)? {
            Some(place) => key::split_log(&place)?,
            None => Revision::default(),
        };
        self.publish();
        if self.shared.replacements.load(Ordering::SeqCst) % 2 == 1 {
            self.shared.replacements.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    pub fn view(&self) -> View {
        View::new(self.engine.clone(), self.shared.clone())
    }

    /// The writer's revision; readers see it after [`Mvcc::publish`].
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Begins the changes of one request on top of the batch.
    pub fn begin<'a>(&'a mut self, batch: &'a mut WriteBatch) -> WriteTxn<'a> {
        WriteTxn::new(self, batch)
    }

    /// Compacts logically: once published, no read below `revision` is answered.
    ///
    /// # Errors
    /// `Compacted` at or below the last compaction, `FutureRevision` above the present one.
    pub fn compact(
        &mut self,
        batch: &mut WriteBatch,
        revision: i64,
    ) -> Result<Result<(), RequestError>, Fatal> {
        let never = self.compacted == 0 && revision == 0;
        if revision <= self.compacted && !never {
            return Ok(Err(RequestError::Compacted));
        }
        if revision > self.revision {
            return Ok(Err(RequestError::FutureRevision));
        }
        self.compacted = revision;
        batch.put(Space::Meta, META_COMPACTED, revision.to_be_bytes().to_vec());
        Ok(Ok(()))
    }

    /// Shows readers what is in the engine now.
    pub fn publish(&self) {
        self.shared.compacted.store(self.compacted, Ordering::Release);
        self.shared.revision.store(self.revision, Ordering::Release);
    }
}
