//! The log's twin in memory, with a disk that forgets what was not synced.
//!
//! [`MemoryDisk`] outlives the log that writes to it, as a disk outlives a process: open a
//! [`MemoryLog`] on it, crash the disk, open the next one. Writes reach the disk as record groups;
//! a crash keeps the synced ones and as many of the others, in order, as the caller says.
//! It leaves out what only files have: segments, checksums, damage.

use super::order::{Tail, needs_sync};
use super::{LogStore, Surroundings, count_within, payload_bytes};
use crate::error::Fatal;
use crate::types::{Index, Term};
use parking_lot::Mutex;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, StorageError};
use std::collections::VecDeque;
use std::sync::Arc;

/// What a crash leaves of the record groups that were written but not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashChoice {
    LoseUnsynced,
    /// The first so many survive, as when the system wrote them back by itself.
    KeepGroups(usize),
}

/// A log's content at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
struct Image {
    base: Index,
    base_term: Term,
    entries: VecDeque<Entry>,
    entry_bytes: u64,
    hard_state: HardState,
}

/// One record group.
#[derive(Clone, Debug)]
enum Group {
    Append { entries: Vec<Entry>, hard_state: Option<HardState> },
    Truncate { index: Index },
    Reset { index: Index, term: Term, hard_state: HardState },
}

#[derive(Debug, Default)]
struct Disk {
    synced: Image,
    unsynced: VecDeque<Group>,
    /// Counts opens: only the newest log may write.
    owner: u64,
    /// Writes and syncs that still succeed, when a failure is to come.
    steps_left: Option<u32>,
}

/// A disk for one member's log. Clones are handles to the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<Disk>>);

/// See the module's comment.
pub struct MemoryLog {
    disk: MemoryDisk,
    owner: u64,
    /// What the process sees: the disk's content with all groups.
    image: Image,
    needs_sync: bool,
    failed: bool,
    surroundings: Surroundings,
}

impl Image {
    fn last(&self) -> Index {
        self.base + self.entries.len() as u64
    }

    /// Term at an index that the image covers, base included.
    fn term(&self, index: Index) -> Option<Term> {
        if index == self.base {
            return Some(self.base_term);
        }
        let position = index.checked_sub(self.base + 1)?;
        self.entries.get(position as usize).map(|entry| entry.term)
    }

    fn tail(&self) -> Tail<'_> {
        Tail { base: self.base, last: self.last(), hard_state: &self.hard_state }
    }

    fn apply(&mut self, group: Group) {
        match group {
            Group::Append { entries, hard_state } => {
                if let Some(first) = entries.first() {
                    let keep = (first.index - self.base - 1) as usize;
                    for replaced in self.entries.drain(keep..) {
                        self.entry_bytes -= payload_bytes(&replaced) as u64;
                    }
                }
                for entry in entries {
                    self.entry_bytes += payload_bytes(&entry) as u64;
                    self.entries.push_back(entry);
                }
                if let Some(hard_state) = hard_state {
                    self.hard_state = hard_state;
                }
            }
            Group::Truncate { index } => {
                self.base_term = self.term(index).unwrap_or_default();
                for dropped in self.entries.drain(..(index - self.base) as usize) {
                    self.entry_bytes -= payload_bytes(&dropped) as u64;
                }
                self.base = index;
            }
            Group::Reset { index, term, hard_state } => {
                *self = Self { base: index, base_term: term, hard_state, ..Self::default() };
            }
        }
    }
}

impl MemoryDisk {
    pub fn new() -> Self {
        Self::default()
    }

    /// Groups written and not synced.
    pub fn unsynced_groups(&self) -> usize {
        self.0.lock().unsynced.len()
    }

    /// The machine stops: what was not synced is gone but for the choice. The log that wrote
    /// here is dead; open a new one.
    pub fn crash(&self, keep: CrashChoice) {
        let mut disk = self.0.lock();
        let keep = match keep {
            CrashChoice::LoseUnsynced => 0,
            CrashChoice::KeepGroups(groups) => groups.min(disk.unsynced.len()),
        };
        let mut unsynced = std::mem::take(&mut disk.unsynced);
        for group in unsynced.drain(..keep) {
            disk.synced.apply(group);
        }
        disk.owner += 1;
        disk.steps_left = None;
    }

    /// Lets a write or sync of the present log fail, after `steps` more that succeed. The one
    /// that fails does nothing, and the log is dead then.
    pub fn fail_after(&self, steps: u32) {
        self.0.lock().steps_left = Some(steps);
    }
}

impl Disk {
    /// One write or sync; fails when it was told to.
    fn step(&mut self) -> Result<(), Fatal> {
        match &mut self.steps_left {
            None => Ok(()),
            Some(0) => {
                self.steps_left = None;
                Err(Fatal::new("use the disk of the raft log"))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

impl MemoryLog {
    /// Opens what the disk holds. All of it is durable from then on, and a log opened
    /// before can write no more.
    pub fn open(disk: &MemoryDisk) -> Self {
        let mut inner = disk.0.lock();
        for group in std::mem::take(&mut inner.unsynced) {
            inner.synced.apply(group);
        }
        inner.owner += 1;
        Self {
            disk: disk.clone(),
            owner: inner.owner,
            image: inner.synced.clone(),
            needs_sync: false,
            failed: false,
            surroundings: Surroundings::default(),
        }
    }

    fn write(&mut self, group: Group) -> Result<(), Fatal> {
        let mut disk = self.disk.0.lock();
        if self.failed || disk.owner != self.owner {
            return Err(Fatal::new("write raft log after an earlier failure"));
        }
        disk.step().inspect_err(|_| self.failed = true)?;
        disk.unsynced.push_back(group.clone());
        self.image.apply(group);
        Ok(())
    }

    fn sync_all(&mut self) -> Result<(), Fatal> {
        let mut disk = self.disk.0.lock();
        if self.failed || disk.owner != self.owner {
            return Err(Fatal::new("write raft log after an earlier failure"));
        }
        disk.step().inspect_err(|_| self.failed = true)?;
        let disk = &mut *disk;
        for group in disk.unsynced.drain(..) {
            disk.synced.apply(group);
        }
        self.needs_sync = false;
        Ok(())
    }
}

impl LogStore for MemoryLog {
    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), Fatal> {
        let image = &self.image;
        image.tail().check_append(entries, hard_state, |i| image.term(i).unwrap_or_default())?;
        if entries.is_empty() && hard_state.is_none() {
            return Ok(());
        }
        let moved = hard_state.is_some_and(|new| needs_sync(&image.hard_state, new));
        self.needs_sync |= moved || !entries.is_empty();
        let (entries, hard_state) = (entries.to_vec(), hard_state.cloned());
        self.write(Group::Append { entries, hard_state })
    }

    fn sync(&mut self) -> Result<(), Fatal> {
        if self.needs_sync || self.failed { self.sync_all() } else { Ok(()) }
    }

    fn append_durably(&mut self, hard_state: &HardState) -> Result<(), Fatal> {
        self.append(&[], Some(hard_state))?;
        self.sync_all()
    }

    fn truncate_front(&mut self, index: Index) -> Result<(), Fatal> {
        if index <= self.image.base {
            return Ok(());
        }
        self.image.tail().check_truncate(index)?;
        self.write(Group::Truncate { index })?;
        self.sync_all()
    }

    fn reset(&mut self, index: Index, term: Term, hard_state: &HardState) -> Result<(), Fatal> {
        let hard_state = self.image.tail().check_reset(index, hard_state)?;
        self.write(Group::Reset { index, term, hard_state })?;
        self.sync_all()
    }

    fn set_conf_state(&mut self, conf_state: ConfState) {
        self.surroundings.conf_state = conf_state;
    }

    fn offer_snapshot(&mut self, snapshot: Option<Snapshot>) {
        self.surroundings.offered = snapshot;
    }

    fn take_snapshot_request(&mut self) -> bool {
        self.surroundings.requested.take()
    }

    fn hard_state(&self) -> HardState {
        self.image.hard_state.clone()
    }

    fn entry_bytes(&self) -> u64 {
        self.image.entry_bytes
    }
}

impl raft::Storage for MemoryLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.image.hard_state.clone(), self.surroundings.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let image = &self.image;
        if low <= image.base {
            return Err(StorageError::Compacted.into());
        }
        if high > image.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let position = |index: Index| (index - image.base - 1) as usize;
        let range = || image.entries.range(position(low)..position(high.max(low)));
        let count = count_within(range().map(payload_bytes), max_size.into());
        Ok(range().take(count).cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.image.base {
            return Err(StorageError::Compacted.into());
        }
        self.image.term(index).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.image.base + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.image.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        self.surroundings.snapshot(request_index, self.image.base)
    }
}
