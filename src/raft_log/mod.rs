//! Raft's durable log and hard state behind one trait.
//!
//! `disk` is the segment log that ships; `memory` is its twin with crash semantics
//! for scripts and simulation. Both promise: what [`LogStore::append`] returned for is
//! readable through raft's `Storage`; what [`LogStore::sync`] returned for survives a crash;
//! a log that lost synced records is refused at open, never repaired silently.
pub mod disk;
pub mod memory;

use crate::error::Fatal;
use crate::types::{Index, Term};
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};

/// Entries between `first_index` and `last_index`, plus term, vote and commit index.
///
/// The trait extends raft's `Storage`, from which raft reads entries, terms and the initial
/// state. Its `snapshot()` returns what [`LogStore::offer_snapshot`] was last given, or
/// "temporarily unavailable".
///
/// Invariants: entries are contiguous; `first_index` is one above the index of the base (the
/// point up to which the log was cut or restored), whose term stays known; an append at i
/// replaces every entry at or above i; the commit index never falls.
pub trait LogStore: raft::Storage {
    /// Writes entries and hard state as one ordered record group; either may be absent.
    /// The first entry follows the last one or replaces stored ones above the commit index.
    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), Fatal>;

    /// Makes everything appended so far durable. A failure is final: never retried.
    fn sync(&mut self) -> Result<(), Fatal>;

    /// Drops entries up to and including `index`, keeping its term as the new base. Never
    /// beyond what the engine or a stored snapshot has made durable; the caller ensures it.
    /// Space is given back in whole segments, so more may stay readable than asked for.
    fn truncate_front(&mut self, index: Index) -> Result<(), Fatal>;

    /// Replaces the whole log by an empty one based at (index, term), after a snapshot from
    /// the leader was accepted; durable on return, hard state with it.
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
