//! What may be written after what, for both logs alike.
//!
//! A breach means that raft or its owner is broken, or that a file holds records that no
//! owner has written: the node must not go on.

use super::payload_bytes;
use crate::error::Fatal;
use crate::types::Index;
use raft::eraftpb::{Entry, HardState};

/// Far above any request; keeps all lengths within 32 bits.
const ENTRY_BYTES_MAX: usize = 512 << 20;

/// The end of a log as far as an append depends on it.
pub(super) struct Tail<'a> {
    pub(super) base: Index,
    pub(super) last: Index,
    pub(super) hard_state: &'a HardState,
}

impl Tail<'_> {
    /// Checks an append; `term_before` gives the term of the entry or base at an index.
    ///
    /// # Errors
    /// When entries leave a gap, replace what is committed or cut, or fall in term; when the hard
    /// state goes back, changes a vote within a term, or commits what is not there.
    pub(super) fn check_append(
        &self,
        entries: &[Entry],
        hard_state: Option<&HardState>,
        term_before: impl Fn(Index) -> u64,
    ) -> Result<(), Fatal> {
        let mut last = self.last;
        if let Some(first) = entries.first() {
            self.check_first(first.index)?;
            let (mut index, mut term) = (first.index - 1, term_before(first.index - 1));
            for entry in entries {
                if entry.index != index + 1 || entry.term < term {
                    return Err(Fatal::new(format!(
                        "append entry {} of term {} to raft log after entry {index} of term {term}",
                        entry.index, entry.term
                    )));
                }
                if payload_bytes(entry) > ENTRY_BYTES_MAX {
                    return Err(Fatal::new(format!(
                        "append entry {}: {} bytes are more than the log takes",
                        entry.index,
                        payload_bytes(entry)
                    )));
                }
                (index, term) = (entry.index, entry.term);
            }
            last = index;
        }
        match hard_state {
            Some(new) => self.check_hard_state(new, last),
            None => Ok(()),
        }
    }

    fn check_first(&self, first: Index) -> Result<(), Fatal> {
        let floor = self.base.max(self.hard_state.commit);
        if first <= floor {
            return Err(Fatal::new(format!(
                "append entry {first} to raft log: entries up to {floor} are committed"
            )));
        }
        if first > self.last + 1 {
            return Err(Fatal::new(format!(
                "append entry {first} to raft log: it ends at {}",
                self.last
            )));
        }
        Ok(())
    }

    fn check_hard_state(&self, new: &HardState, last: Index) -> Result<(), Fatal> {
        let old = self.hard_state;
        let broken = if new.term < old.term {
            "its term falls"
        } else if new.term == old.term && old.vote != 0 && new.vote != old.vote {
            "its vote changes within a term"
        } else if new.commit < old.commit {
            "its commit index falls"
        } else if new.commit > last {
            "it commits entries that are not there"
        } else {
            return Ok(());
        };
        Err(Fatal::new(format!(
            "write hard state (term {}, vote {:x}, commit {}) after (term {}, vote {:x}, commit {}), \
             last entry {last}: {broken}",
            new.term, new.vote, new.commit, old.term, old.vote, old.commit
        )))
    }

    /// Checks a cut of the front.
    pub(super) fn check_truncate(&self, index: Index) -> Result<(), Fatal> {
        if index > self.hard_state.commit || index > self.last {
            return Err(Fatal::new(format!(
                "cut raft log up to {index}: entries are committed up to {} and end at {}",
                self.hard_state.commit, self.last
            )));
        }
        Ok(())
    }

    /// Checks a replacement by a snapshot and returns the hard state to store with it.
    pub(super) fn check_reset(
        &self,
        index: Index,
        hard_state: &HardState,
    ) -> Result<HardState, Fatal> {
        if index < self.hard_state.commit || index < self.base {
            return Err(Fatal::new(format!(
                "replace raft log by a snapshot of {index}: entries are committed up to {}",
                self.hard_state.commit.max(self.base)
            )));
        }
        let mut stored = hard_state.clone();
        stored.commit = index;
        self.check_hard_state(&stored, index)?;
        Ok(stored)
    }
}

/// Whether a new hard state must be durable before anything that follows from it may leave.
/// A lost commit index is learned again; a lost vote or term breaks elections.
pub(super) fn needs_sync(old: &HardState, new: &HardState) -> bool {
    old.term != new.term || old.vote != new.vote
}
