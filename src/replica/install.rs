//! Makes an opened log agree with an opened state, before raft sees either.

use crate::error::Fatal;
use crate::machine::{CommittedEntry, Machine};
use crate::raft_log::LogStore;
use crate::types::{Index, Term};
use raft::GetEntriesContext;
use raft::eraftpb::{Entry, EntryType};

/// Bytes of entries that are applied in one batch.
const REPLAY_BYTES: u64 = 4 << 20;

/// Completes what a crash interrupted: a snapshot from the leader was accepted and the state has
/// it, but the log was not based on it yet. `applied` is the state's index, `snapshot` the
/// place of the newest stored one.
///
/// # Errors
/// When the log cannot be written, or has gone beyond the snapshot in another way.
pub fn complete_install<L: LogStore>(
    log: &mut L,
    applied: Index,
    snapshot: Option<(Index, Term)>,
) -> Result<(), Fatal> {
    refuse_gap(log, applied)?;
    let Some((index, term)) = snapshot.filter(|(index, _)| *index == applied) else {
        return Ok(());
    };
    match log.term(index) {
        Ok(found) if found == term => return Ok(()),
        Err(raft::Error::Store(raft::StorageError::Compacted)) => return Ok(()),
        // The log ends before it, or has an entry there that was never committed.
        _ => {}
    }
    let mut hard_state = log.hard_state();
    if hard_state.term < term {
        // It learned of the term from the very message that brought the snapshot, and gave no
        // vote in it.
        (hard_state.term, hard_state.vote) = (term, 0);
    }
    log.reset(index, term, &hard_state)
}

/// Applies all entries that the log holds beyond the state, whether or not they are known to be
/// committed: only for a member that is to be the only one.
///
/// # Errors
/// When an entry cannot be read or applied.
pub fn replay<L: LogStore>(log: &L, machine: &mut Machine) -> Result<(), Fatal> {
    let read = |e: raft::Error| Fatal::with("read raft log", e);
    let last = log.last_index().map_err(read)?;
    while machine.applied_index() < last {
        let next = machine.applied_index() + 1;
        let context = GetEntriesContext::empty(false);
        let entries = log.entries(next, last + 1, Some(REPLAY_BYTES), context).map_err(read)?;
        let entries = entries.into_iter().map(committed).collect::<Result<Vec<_>, _>>()?;
        machine.apply(&entries)?;
    }
    Ok(())
}

/// What the state machine gets of an entry: that of a change of members lies apart.
///
/// # Errors
/// On a kind of entry that nobody here writes.
pub(super) fn committed(entry: Entry) -> Result<CommittedEntry, Fatal> {
    let Entry { index, term, data, context, entry_type, .. } = entry;
    let command = match entry_type {
        EntryType::EntryNormal => data,
        EntryType::EntryConfChange => context,
        EntryType::EntryConfChangeV2 => {
            return Err(Fatal::new(format!("apply entry {index}: its kind is not supported")));
        }
    };
    Ok(CommittedEntry { index, term, command })
}

/// The log must go on where the state ends: otherwise a stored snapshot, or the database, is gone.
fn refuse_gap<L: LogStore>(log: &L, applied: Index) -> Result<(), Fatal> {
    let first = log.first_index().map_err(|e| Fatal::with("read raft log", e))?;
    if first > applied + 1 {
        return Err(Fatal::new(format!(
            "open data directory: its state ends at entry {applied}, its raft log begins at entry {first}: \
             a stored snapshot or the database was removed"
        )));
    }
    Ok(())
}
