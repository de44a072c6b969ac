//! Raft's durable log and hard state behind one trait.
//!
//! `disk` is the segment log that ships; `memory` is its twin with crash semantics
//! for scripts and simulation. Both promise: what [`LogStore::append`] returned for is
//! readable through raft's `Storage`; what [`LogStore::sync`] returned for survives a crash;
//! a log that lost synced records is refused at open, never repaired silently. `order` holds
//! the rules of what may follow what, for both; all other files are parts of `disk`.

mod content;
pub mod disk;
mod folder;
pub mod memory;
mod order;
mod read;
mod record;
mod recovery;
mod segment;
mod spare;

use crate::error::Fatal;
use crate::types::{Index, Term};
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use std::cell::Cell;

/// Entries between `first_index` and `last_index`, plus term, vote and commit index.
///
/// The trait extends raft's `Storage`, from which raft reads entries, terms and the initial
/// state. Its `snapshot()` returns what [`LogStore::offer_snapshot`] was last given, or
/// "temporarily unavailable". `entries()` counts data and context plus a fixed overhead for its
/// size limit; raft itself trims what it gets to the exact size.
///
/// Invariants: entries are contiguous; `first_index` is one above the index of the base (the
/// point up to which the log was cut or restored), whose term stays known; an append at i
/// replaces every entry at or above i; the commit index never falls.
pub trait LogStore: raft::Storage {
    /// Writes entries and hard state as one ordered record group; either may be absent.
    /// The first entry follows the last one or replaces stored ones above the commit index.
    /// A crash before the next sync loses whole groups from the end.
    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), Fatal>;

    /// Makes everything appended so far durable. Does nothing when only the commit index
    /// has moved. A failure is final: never retried, and all later writes fail too.
    fn sync(&mut self) -> Result<(), Fatal>;

    /// Writes a hard state and makes it durable, together with all before it, even where only the
    /// commit index has moved: for a commit that must not be forgotten.
    fn append_durably(&mut self, hard_state: &HardState) -> Result<(), Fatal>;

    /// Drops entries up to and including `index`, keeping its term as the new base; durable on
    /// return. Never beyond what the engine or a stored snapshot has made durable; the caller
    /// ensures it. Space is given back in whole segments.
    fn truncate_front(&mut self, index: Index) -> Result<(), Fatal>;

    /// Replaces the whole log by an empty one based at (index, term), after a snapshot from
    /// the leader was accepted; durable on return, hard state with it. The commit index becomes
    /// `index` whatever the hard state says: no entry above it is there.
    fn reset(&mut self, index: Index, term: Term, hard_state: &HardState) -> Result<(), Fatal>;

    /// The configuration that raft starts with: the state machine's, set before the start.
    fn set_conf_state(&mut self, conf_state: ConfState);

    /// What `snapshot()` answers from now on; `None`: temporarily unavailable. `requested` tells
    /// that raft has asked since the last call.
    fn offer_snapshot(&mut self, snapshot: Option<Snapshot>);

    /// Whether raft has asked for a snapshot that could not be given, since the last call.
    fn take_snapshot_request(&mut self) -> bool;

    fn hard_state(&self) -> HardState;

    /// Bytes of entries kept, for deciding when to snapshot.
    fn entry_bytes(&self) -> u64;
}

/// What each entry counts beside its data and context when a read is limited by size.
const ENTRY_OVERHEAD: u64 = 16;

/// Bytes of an entry as [`LogStore::entry_bytes`] counts them.
fn payload_bytes(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len()
}

/// How many of the entries with these payload sizes fit into `bytes_max`: one at least, if any.
fn count_within(payloads: impl Iterator<Item = usize>, bytes_max: Option<u64>) -> usize {
    let bytes_max = bytes_max.unwrap_or(u64::MAX);
    let mut total = 0u64;
    payloads
        .enumerate()
        .take_while(|(position, payload)| {
            total = total.saturating_add(*payload as u64 + ENTRY_OVERHEAD);
            *position == 0 || total <= bytes_max
        })
        .count()
}

/// The part of raft's `Storage` that is not in the log: configuration and the snapshot on offer.
#[derive(Default)]
struct Surroundings {
    conf_state: ConfState,
    offered: Option<Snapshot>,
    /// Raft asks through a shared reference.
    requested: Cell<bool>,
}

impl Surroundings {
    /// The snapshot on offer, if it is new enough for the request and for the log to go on from
    /// it: entries after it must still be there.
    fn snapshot(&self, request_index: Index, base: Index) -> raft::Result<Snapshot> {
        let usable = self.offered.as_ref().filter(|snapshot| {
            let index = snapshot.get_metadata().index;
            index >= request_index && index >= base
        });
        match usable {
            Some(snapshot) => Ok(snapshot.clone()),
            None => {
                self.requested.set(true);
                Err(raft::StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod damage_tests;
