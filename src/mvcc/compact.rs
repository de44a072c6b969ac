//! Physical removal of compacted versions, in bounded steps.
//!
//! Walks the log from where it stopped last: each entry at or below the target makes the
//! version that it superseded needless, and a tombstone below the target makes itself needless.
//! So the work is proportional to what has changed. What lies exactly at the target stays: a
//! watch from there must still see it; the next compaction begins with it.

use super::key::{self, Record};
use super::{META_REMOVED, Mvcc};
use crate::error::Fatal;
use crate::storage::{Flow, Space, WriteBatch};
use crate::types::Revision;
use bytes::Bytes;

/// How far physical removal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactionProgress {
    /// All that the last compaction made needless is gone.
    Done,
    /// There is more to do.
    More,
    /// A reader holds the rest back.
    Pinned,
}

impl Mvcc {
    /// Removes what at most `entries_max` log entries make needless.
    ///
    /// # Errors
    /// When the engine fails or holds a damaged record.
    pub fn compaction_step(
        &mut self,
        batch: &mut WriteBatch,
        entries_max: usize,
    ) -> Result<CompactionProgress, Fatal> {
        let oldest_pin = self.shared.pins.lock().keys().next().copied();
        let target = oldest_pin.map_or(self.compacted, |pin| pin.min(self.compacted));
        let is_pinned = target < self.compacted;
        // A walk that ended at a target is noted as the place behind it; the next one takes the
        // target's own entries up again.
        let is_over = self.removed > Revision::new(target, u32::MAX - 1);
        if is_over || target == 0 {
            return Ok(if is_pinned {
                CompactionProgress::Pinned
            } else {
                CompactionProgress::Done
            });
        }
        let (entries, next) = self.entries(target, entries_max)?;
        for (revision, user_key) in &entries {
            self.remove(*revision, user_key, target, batch)?;
        }
        self.removed = next.unwrap_or(Revision::new(target, u32::MAX));
        batch.put(Space::Meta, META_REMOVED, key::log_key(self.removed));
        Ok(match (next, is_pinned) {
            (Some(_), _) => CompactionProgress::More,
            (None, true) => CompactionProgress::Pinned,
            (None, false) => CompactionProgress::Done,
        })
    }

    /// Log entries to look at, and where the next step goes on.
    #[expect(clippy::type_complexity, reason = "a pair that one caller takes apart at once")]
    fn entries(
        &self,
        target: i64,
        entries_max: usize,
    ) -> Result<(Vec<(Revision, Bytes)>, Option<Revision>), Fatal> {
        let from = match self.removed {
            // The end of an earlier walk: its target's entries are still to be removed.
            Revision { main, sub: u32::MAX } => Revision::new(main, 0),
            revision => revision,
        };
        let end = key::log_key(Revision::new(target + 1, 0));
        let (mut entries, mut next, mut failed) = (Vec::new(), None, None);
        self.engine.scan(Space::Log, &key::log_key(from), Some(&end), &mut |place, user_key| {
            match key::split_log(place) {
                Ok(revision) if entries.len() == entries_max => {
                    next = Some(revision);
                    Flow::Stop
                }
                Ok(revision) => {
                    entries.push((revision, user_key.to_bytes()));
                    Flow::Next
                }
                Err(fatal) => {
                    failed = Some(fatal);
                    Flow::Stop
                }
            }
        })?;
        match failed {
            Some(fatal) => Err(fatal),
            None => Ok((entries, next)),
        }
    }

    /// Removes the predecessor of this version, and the version itself if it is an old tombstone.
    fn remove(
        &self,
        revision: Revision,
        user_key: &Bytes,
        target: i64,
        batch: &mut WriteBatch,
    ) -> Result<(), Fatal> {
        let place = key::version_key(user_key, revision);
        let prefix = key::prefix(user_key);
        let (mut is_tombstone, mut predecessor, mut failed) = (false, None, None);
        self.engine.scan(
            Space::Kv,
            &place,
            Some(&key::behind(&prefix)),
            &mut |found, record| {
                if found == &place[..] {
                    match key::decode(record.as_slice()) {
                        Ok(record) => is_tombstone = record == Record::Tombstone,
                        Err(fatal) => failed = Some(fatal),
                    }
                    return if failed.is_none() { Flow::Next } else { Flow::Stop };
                }
                match key::split(found) {
                    Ok((_, revision)) => predecessor = Some(revision),
                    Err(fatal) => failed = Some(fatal),
                }
                Flow::Stop
            },
        )?;
        if let Some(fatal) = failed {
            return Err(fatal);
        }
        // Of several changes of one key at the target itself, a watch from there sees all.
        if let Some(old) = predecessor.filter(|old| old.main < target) {
            batch.delete(Space::Kv, key::version_key(user_key, old));
            batch.delete(Space::Log, key::log_key(old));
        }
        if is_tombstone && revision.main < target {
            batch.delete(Space::Kv, place);
            batch.delete(Space::Log, key::log_key(revision));
        }
        Ok(())
    }
}
