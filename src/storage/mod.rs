//! An ordered byte store with atomic batches: what the state machine stands on.
//!
//! [`Engine`] has two implementations, `memory` and `rocks`, proven equal by the
//! scripts beside this file, which run on both and on a mirror of both. An engine
//! knows nothing of revisions, leases or raft; it promises that a batch becomes
//! visible as a whole and that what [`Engine::flush`] covered survives a crash.
//! What was written after the last flush may be lost, but only as a suffix of whole
//! batches: the raft log replays it from the applied index kept in the same batches.

pub mod batch;
pub(crate) mod compact;
pub mod memory;
#[cfg(test)]
pub(crate) mod mirror;
pub mod overlay;
#[cfg(feature = "rocksdb")]
pub mod rocks;
#[cfg(test)]
mod scripts;
pub mod snapshot_file;

pub use batch::WriteBatch;
pub use overlay::Overlay;

use crate::error::Fatal;
use bytes::Bytes;

/// A named, separately ordered part of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Space {
    /// Applied index, compacted revision, configuration and other single values.
    Meta = 0,
    /// Versions of user keys: see `mvcc::key`.
    Kv = 1,
    /// Revision to user key, for history and compaction.
    Log = 2,
    /// Leases by id.
    Lease = 3,
    /// (lease, key) pairs.
    LeaseKey = 4,
    /// The cluster's members by id.
    Member = 5,
    /// Users, roles and the auth switch.
    Auth = 6,
    /// Raised alarms.
    Alarm = 7,
}

impl Space {
    pub const ALL: [Space; 8] = [
        Space::Meta,
        Space::Kv,
        Space::Log,
        Space::Lease,
        Space::LeaseKey,
        Space::Member,
        Space::Auth,
        Space::Alarm,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Space::Meta => "meta",
            Space::Kv => "kv",
            Space::Log => "log",
            Space::Lease => "lease",
            Space::LeaseKey => "lease_key",
            Space::Member => "member",
            Space::Auth => "auth",
            Space::Alarm => "alarm",
        }
    }

    /// The space with this number, as stored in snapshots.
    pub fn from_number(number: u8) -> Option<Space> {
        Space::ALL.get(usize::from(number)).copied()
    }
}

/// What a scan's visitor wants next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The following key.
    Next,
    /// The first key at or after this one, which must lie after the present key.
    Seek(Vec<u8>),
    /// No more.
    Stop,
}

/// A value during a scan: shared where the engine keeps it in memory, borrowed where it does not.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Shared(&'a Bytes),
    Borrowed(&'a [u8]),
}

impl Value<'_> {
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Value::Shared(bytes) => bytes,
            Value::Borrowed(slice) => slice,
        }
    }

    /// The value to keep: a reference count where possible, else a copy.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Value::Shared(bytes) => (*bytes).clone(),
            Value::Borrowed(slice) => Bytes::copy_from_slice(slice),
        }
    }
}

/// Bytes at the end of each key in [`Space::Kv`] that tell versions of one user key apart. What
/// stands before them may be indexed by an engine, for [`Read::first`].
pub const KV_SUFFIX_LEN: usize = 12;

/// Called for each pair of a scan in key order.
pub type Visitor<'a> = dyn FnMut(&[u8], Value<'_>) -> Flow + 'a;

/// Point and range reads; the common part of an engine and of an [`Overlay`].
pub trait Read {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Fatal>;

    /// Visits the pairs with `start <= key < end` in key order (no `end`: to the last key)
    /// until the visitor stops. The scan sees whole batches only, but an engine may let
    /// batches that arrive during the scan become visible to the rest of it: callers that
    /// must not see them compare revisions. An engine may hold a lock that delays the
    /// writer for the length of one scan, so visitors stop after a bounded number of pairs
    /// and never call the engine themselves.
    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> Result<(), Fatal>;

    /// Like [`Read::scan`], for a part of a walk that may go over more than a cache should hold:
    /// what is read is not kept in one.
    fn scan_past_cache(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> Result<(), Fatal> {
        self.scan(space, start, end, visit)
    }

    /// Visits the first pair at or after `key` whose key begins with the first `prefix_len` bytes
    /// of `key`, if there is one. In [`Space::Kv`] the rest of all such keys must be as long as
    /// [`KV_SUFFIX_LEN`]. The visitor must not call the engine.
    fn first(
        &self,
        space: Space,
        key: &[u8],
        prefix_len: usize,
        visit: &mut dyn FnMut(&[u8], Value<'_>),
    ) -> Result<(), Fatal> {
        self.scan(space, key, None, &mut |found, value| {
            if found.starts_with(&key[..prefix_len]) {
                visit(found, value);
            }
            Flow::Stop
        })
    }
}

/// A durable ordered store. One writer, any number of readers on other threads.
pub trait Engine: Read + Send + Sync {
    /// Applies the batch atomically: readers see all of it or nothing.
    fn write(&self, batch: WriteBatch) -> Result<(), Fatal>;

    /// Removes everything, durably, before a snapshot is loaded.
    fn clear(&self) -> Result<(), Fatal>;

    /// Returns once all that was written before the call survives a crash. Slow; runs beside
    /// the writer. The memory engine keeps nothing by itself and returns at once: its owner
    /// stores snapshots instead ([`Engine::is_volatile`]).
    fn flush(&self) -> Result<(), Fatal>;

    /// Whether a restart finds the engine empty, so that only stored snapshots make state durable.
    fn is_volatile(&self) -> bool;

    /// Bytes held, as (allocated, in use): grows with history and shrinks after compaction.
    fn size(&self) -> (u64, u64);

    /// Whether a write would wait for the engine's own background work: then new requests are
    /// to be refused before they are replicated.
    fn is_stalled(&self) -> bool {
        false
    }

    /// `memory` or `rocksdb`, as in the flag.
    fn name(&self) -> &'static str;
}
