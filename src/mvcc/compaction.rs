//! Dropping old revisions: at once for every reader, bit by bit in the engine.
//!
//! The compacted revision is a number that every reader applies, so that what a client sees
//! never depends on how much has been removed. Removal walks the log of changes from where the
//! last compaction ended: each change up to the target removes the version that it replaced,
//! and a tombstone below the target goes too. Changes at the target itself all stay, because a
//! watch may start there; the next walk begins with them. So the work is proportional to what
//! changed, and the log keeps the changes that made the versions still there.

use super::Mvcc;
use super::key;
use crate::error::{Fatal, RequestError};
use crate::planted::{self, Bug};
use crate::storage::{Flow, Read, Space, WriteBatch};
use crate::types::Revision;
use bytes::Bytes;

pub(super) const COMPACTED: &[u8] = b"mvcc/compacted";
const REMOVAL: &[u8] = b"mvcc/removal";

/// The compacted revision, and that of removal, before the first compaction.
pub(super) const NEVER: i64 = -1;

/// Most changes that one step looks at.
const STEP_ENTRIES_MAX: usize = 512;

/// How far physical removal has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Removal {
    /// Everything that is invisible from this revision on has been removed.
    done: i64,
    /// The walk under way: its target, and the first change that it has not looked at.
    walk: Option<(i64, Revision)>,
}

/// How far physical removal is after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactionProgress {
    /// It has reached the published compacted revision.
    Done,
    /// A further step will find work.
    More,
    /// Somebody's pin must go before there is work again.
    Pinned,
}

impl Removal {
    pub(super) const NONE: Removal = Removal { done: NEVER, walk: None };

    pub(super) fn load(store: &dyn Read) -> Result<Self, Fatal> {
        let Some(stored) = store.get(Space::Meta, REMOVAL)? else {
            return Ok(Self::NONE);
        };
        let Some((done, walk)) = stored.split_first_chunk::<8>() else {
            return Err(key::corrupt("compaction progress", &stored));
        };
        let walk = match walk.split_first_chunk::<8>() {
            None if walk.is_empty() => None,
            Some((target, next)) => Some((i64::from_be_bytes(*target), key::decode_log_key(next)?)),
            None => return Err(key::corrupt("compaction progress", &stored)),
        };
        Ok(Self { done: i64::from_be_bytes(*done), walk })
    }

    fn store(&self, batch: &mut WriteBatch) {
        let mut stored = self.done.to_be_bytes().to_vec();
        if let Some((target, next)) = self.walk {
            stored.extend_from_slice(&target.to_be_bytes());
            stored.extend_from_slice(&key::log_key(next));
        }
        batch.put(Space::Meta, REMOVAL, stored);
    }
}

/// The compacted revision as stored.
pub(super) fn load_compacted(store: &dyn Read) -> Result<i64, Fatal> {
    match store.get(Space::Meta, COMPACTED)? {
        None => Ok(NEVER),
        Some(stored) => match stored[..].try_into() {
            Ok(number) => Ok(i64::from_be_bytes(number)),
            Err(_) => Err(key::corrupt("compacted revision", &stored)),
        },
    }
}

impl Mvcc {
    /// Makes everything below `revision` unreadable, once published. Removes nothing by itself.
    ///
    /// # Errors
    /// `Compacted` if that was done before (0 counts as a revision once), `FutureRevision`.
    pub fn compact(
        &mut self,
        batch: &mut WriteBatch,
        revision: i64,
    ) -> Result<Result<(), RequestError>, Fatal> {
        if revision <= self.compacted {
            return Ok(Err(RequestError::Compacted));
        }
        if revision > self.revision {
            return Ok(Err(RequestError::FutureRevision));
        }
        self.compacted = revision;
        batch.put(Space::Meta, COMPACTED, Bytes::copy_from_slice(&revision.to_be_bytes()));
        Ok(Ok(()))
    }

    /// Removes some of what the published compacted revision made invisible, looking at up to
    /// `entries_max` changes (at least one, at most 512). How far it came stands in the batch.
    pub fn compaction_step(
        &mut self,
        batch: &mut WriteBatch,
        entries_max: usize,
    ) -> Result<CompactionProgress, Fatal> {
        // Published first, then pins: whoever pins later sees what is published as compacted.
        let compacted = self.shared.compacted();
        let allowed = self.shared.pins.oldest().map_or(compacted, |pin| pin.min(compacted));
        let (target, start) = match self.removal.walk {
            Some((target, next)) if target <= allowed => (target, next),
            None if allowed > self.removal.done => {
                (allowed, Revision::new(self.removal.done.max(0), 0))
            }
            _ if self.removal.done >= compacted => return Ok(CompactionProgress::Done),
            _ => return Ok(CompactionProgress::Pinned),
        };
        let (entries, next) =
            self.read_changes(start, target, entries_max.clamp(1, STEP_ENTRIES_MAX))?;
        for (revision, user_key) in &entries {
            self.remove_behind(batch, *revision, user_key, target)?;
        }
        self.removal = match next {
            Some(next) => Removal { walk: Some((target, next)), ..self.removal },
            None => Removal { done: target, walk: None },
        };
        self.removal.store(batch);
        self.size.store(batch);
        Ok(match next {
            None if target >= compacted => CompactionProgress::Done,
            None if target >= allowed => CompactionProgress::Pinned,
            _ => CompactionProgress::More,
        })
    }

    /// Time has passed: readers that have held a revision for `ages_max` such calls lose their hold,
    /// and are told when they go on to read what is compacted. That is for streams to clients, which
    /// may be slow; pins that the node itself has asked for stay.
    pub fn age_pins(&self, ages_max: u32) {
        self.shared.pins.age(ages_max);
    }

    /// Changes from `start` up to main revision `target`, and the first one left out.
    #[expect(clippy::type_complexity, reason = "a pair that is taken apart at once")]
    fn read_changes(
        &self,
        start: Revision,
        target: i64,
        entries_max: usize,
    ) -> Result<(Vec<(Revision, Bytes)>, Option<Revision>), Fatal> {
        let end = key::log_key(Revision::new(target + 1, 0));
        let mut entries = Vec::with_capacity(entries_max);
        let mut next = Ok(None);
        let engine = &self.shared.engine;
        engine.scan(Space::Log, &key::log_key(start), Some(&end), &mut |log_key, user_key| {
            match key::decode_log_key(log_key) {
                Ok(revision) if entries.len() < entries_max => {
                    entries.push((revision, user_key.to_bytes()));
                    return Flow::Next;
                }
                Ok(revision) => next = Ok(Some(revision)),
                Err(fatal) => next = Err(fatal),
            }
            Flow::Stop
        })?;
        Ok((entries, next?))
    }

    /// Removes what one change made superfluous.
    fn remove_behind(
        &mut self,
        batch: &mut WriteBatch,
        revision: Revision,
        user_key: &[u8],
        target: i64,
    ) -> Result<(), Fatal> {
        let start = key::version_key(user_key, revision);
        let mut end = key::escape(user_key);
        key::step_over(&mut end);
        let mut doomed = [None; 2];
        let mut outcome = Ok(());
        let mut decide = |kv_key: &[u8], record: &[u8]| {
            let (_, found) = key::split(kv_key)?;
            if found != revision {
                doomed[0] = Some((found, record.len())).filter(|(found, _)| found.main < target);
                return Ok(Flow::Stop);
            }
            Ok(match key::decode_record(record)? {
                None => {
                    let lost = planted::has(Bug::TombstoneLostAtCompaction);
                    doomed[1] = Some((found, record.len()))
                        .filter(|(found, _)| lost || found.main < target);
                    Flow::Next
                }
                // The version before the first of a life is a tombstone, and sees to itself. Looking
                // for it could mean to step over all the earlier lives of the key.
                Some(put) if put.version == 1 => Flow::Stop,
                Some(_) => Flow::Next,
            })
        };
        self.shared.engine.scan(Space::Kv, &start, Some(&end), &mut |kv_key, record| {
            decide(kv_key, record.as_slice()).unwrap_or_else(|fatal| {
                outcome = Err(fatal);
                Flow::Stop
            })
        })?;
        outcome?;
        for (revision, record_len) in doomed.iter().flatten() {
            self.tally.compacted += 1;
            self.size.shrink(user_key, *record_len);
            batch.delete(Space::Kv, key::version_key(user_key, *revision));
            batch.delete(Space::Log, Bytes::copy_from_slice(&key::log_key(*revision)));
        }
        Ok(())
    }
}
