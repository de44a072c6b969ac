//! The watches of one stream that read history. Pure.
//!
//! Each is known by the next revision it needs. They stand in groups of equal numbers, and all
//! read together: a step starts at the lowest number, reads what any of them wants, and moves every group that it
//! passed to where it ended. So a thousand watches created at once cost one pass over
//! history, and a step costs no more for those it does not concern. What was read is kept until it
//! has been sent, watch by watch; until then there is no further step, and nobody leaves as
//! caught up.

use super::Limits;
use super::index::KeyIndex;
use super::message::{CommitEvents, SharedEvent};
use crate::error::Fatal;
use crate::mvcc::{Commit, Compacted, History, View};
use crate::planted::{self, Bug};
use crate::types::KeyRange;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// Pairs of watch and event that a step looks at to learn which watches it concerns. Beyond that it
/// takes all of them to be concerned, and each looks through the events in its turn.
const TOUCHES_MAX: usize = 1 << 16;

/// Removed watches whose numbers may stay in their groups, beside as many as there are watches.
const REMOVED_KEPT_MAX: usize = 1024;

/// What was read from history, before anything is concluded from it.
#[derive(Debug)]
pub struct Read {
    from: i64,
    found: Result<History, Compacted>,
    /// The store's revision after reading.
    revision: i64,
}

/// Watches that need revisions below the compacted one, and can never get them.
#[derive(Debug, PartialEq, Eq)]
pub struct Overtaken {
    pub compacted: i64,
    pub watches: Vec<u64>,
}

#[derive(Debug)]
struct Entry {
    range: KeyRange,
    /// Nothing below this is to be sent. It may be lower than the group says, but then history
    /// holds nothing for the watch in between.
    from: i64,
    indexed: bool,
}

/// History that waits to be sent.
#[derive(Debug)]
struct Batch {
    commits: Vec<CommitEvents>,
    next: i64,
    revision: i64,
    /// Watches still to be served, the next one last.
    todo: Vec<u64>,
}

#[derive(Debug, Default)]
pub struct CatchUp {
    entries: BTreeMap<u64, Entry>,
    /// By the revision to read next. May hold watches that have been removed.
    groups: BTreeMap<i64, Vec<u64>>,
    /// Watches removed since the groups were last swept: no fewer than they hold.
    removed: usize,
    /// The keys of watches for which reading has begun.
    index: KeyIndex<u64, ()>,
    not_indexed: Vec<u64>,
    batch: Option<Batch>,
}

impl CatchUp {
    /// Takes a watch that needs everything in the range from revision `next` on.
    pub fn add(&mut self, watch: u64, range: &KeyRange, next: i64) {
        let entry = Entry { range: range.clone(), from: next, indexed: false };
        let before = self.entries.insert(watch, entry);
        debug_assert!(before.is_none(), "a watch catches up once at a time");
        self.groups.entry(next).or_default().push(watch);
        self.not_indexed.push(watch);
    }

    /// Forgets the watch; returns whether it was here.
    pub fn remove(&mut self, watch: u64) -> bool {
        if !self.take_out(watch) {
            return false;
        }
        self.removed += 1;
        if self.removed > self.entries.len() + REMOVED_KEPT_MAX {
            self.sweep();
        }
        true
    }

    /// Removes the watch from everything but its group.
    fn take_out(&mut self, watch: u64) -> bool {
        let Some(entry) = self.entries.remove(&watch) else { return false };
        if entry.indexed {
            self.index.remove(&entry.range, watch);
        }
        true
    }

    /// Removes what is left of watches that are gone. A client that creates and cancels without a
    /// pause would else fill the groups while nothing is read.
    fn sweep(&mut self) {
        let Self { entries, groups, not_indexed, .. } = self;
        groups.retain(|_, watches| {
            watches.retain(|watch| entries.contains_key(watch));
            !watches.is_empty()
        });
        not_indexed.retain(|watch| entries.contains_key(watch));
        self.removed = 0;
    }

    pub fn contains(&self, watch: u64) -> bool {
        self.entries.contains_key(&watch)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether something that was read has not been sent yet.
    pub fn is_sending(&self) -> bool {
        self.batch.is_some()
    }

    /// Takes out some of the watches that need only revisions above `head`: their common number, and at
    /// most `max` of them. None when there are no more, or while something is to be sent.
    pub fn leave(&mut self, head: i64, max: usize) -> Option<(i64, Vec<u64>)> {
        if self.batch.is_some() {
            return None;
        }
        let mut group = self.groups.last_entry().filter(|group| *group.key() > head)?;
        let next = *group.key();
        let keep = group.get().len().saturating_sub(max);
        let mut leaving = group.get_mut().split_off(keep);
        if keep == 0 {
            group.remove();
        }
        leaving.retain(|watch| self.take_out(*watch));
        Some((next, leaving))
    }

    /// Reads one step, when some watch needs a revision that the store has. The result
    /// means nothing if the store was being replaced meanwhile; else it is for [`CatchUp::absorb`].
    pub fn read(&mut self, view: &View, limits: &Limits) -> Result<Option<Read>, Fatal> {
        if self.batch.is_some() {
            return Ok(None);
        }
        let Some(from) = self.lowest() else {
            self.not_indexed.clear();
            return Ok(None);
        };
        if from > view.revision() {
            return Ok(None);
        }
        for watch in self.not_indexed.drain(..) {
            if let Some(entry) = self.entries.get_mut(&watch)
                && !std::mem::replace(&mut entry.indexed, true)
            {
                self.index.insert(&entry.range, watch, ());
            }
        }
        let wanted = |key: &[u8]| self.index.any(key);
        let (events_max, bytes_max) = (limits.history_events_max, limits.history_bytes_max);
        let found = view.history(from, &wanted, events_max, bytes_max)?;
        Ok(Some(Read { from, found, revision: view.revision() }))
    }

    /// The revision to read next; drops groups below it whose watches are all gone.
    fn lowest(&mut self) -> Option<i64> {
        while let Some(group) = self.groups.first_entry() {
            if group.get().iter().any(|watch| self.entries.contains_key(watch)) {
                return Some(*group.key());
            }
            group.remove();
        }
        None
    }

    /// Draws the conclusions: moves the groups on and keeps what is to be sent, or gives up those
    /// that need what was compacted.
    pub fn absorb(&mut self, read: Read) -> Result<Option<Overtaken>, Fatal> {
        let moved_to = match &read.found {
            Ok(history) => history.next + i64::from(planted::has(Bug::WatchEventLostAtCatchUp)),
            Err(Compacted(compacted)) => *compacted,
        };
        if moved_to <= read.from {
            let context = format!("read history from revision {}: it does not move on", read.from);
            return Err(Fatal::new(context));
        }
        let later = self.groups.split_off(&moved_to);
        let earlier = std::mem::replace(&mut self.groups, later).into_values();
        match read.found {
            Err(Compacted(compacted)) => {
                let mut watches: Vec<u64> = earlier.flatten().collect();
                watches.retain(|watch| self.take_out(*watch));
                Ok(Some(Overtaken { compacted, watches }))
            }
            Ok(history) => {
                let passed = earlier.reduce(|mut all, group| {
                    all.extend(group);
                    all
                });
                let passed = passed.unwrap_or_default();
                self.keep(history, read.revision, &passed);
                self.groups.entry(moved_to).or_default().extend(passed);
                Ok(None)
            }
        }
    }

    /// Encodes the events, and finds out which watches they concern.
    fn keep(&mut self, history: History, revision: i64, passed: &[u64]) {
        let encode = |commit: &Commit| CommitEvents {
            revision: commit.revision,
            events: commit.events.iter().map(|e| SharedEvent::new(commit.revision, e)).collect(),
        };
        let commits: Vec<CommitEvents> = history.commits.iter().map(encode).collect();
        let mut touched = BTreeSet::new();
        let mut touches = 0;
        let all = commits.iter().flat_map(|commit| &commit.events).try_for_each(|event| {
            self.index.visit(&event.key, &mut |watch, ()| {
                touched.insert(watch);
                touches += 1;
                if touches < TOUCHES_MAX {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })
        });
        let mut todo: Vec<u64> = match all {
            ControlFlow::Continue(()) => touched.into_iter().collect(),
            ControlFlow::Break(()) => passed.to_vec(),
        };
        if !todo.is_empty() {
            todo.sort_unstable_by(|a, b| b.cmp(a));
            self.batch = Some(Batch { commits, next: history.next, revision, todo });
        }
    }

    /// Gives the next watch its part of what was read: `send` gets the watch, the store's revision, and
    /// the events of the watch's keys from its number on, perhaps none. Returns what it returns; None when
    /// all have been served.
    pub fn serve<T>(&mut self, send: impl FnOnce(u64, i64, &mut Events<'_>) -> T) -> Option<T> {
        let batch = self.batch.as_mut()?;
        while let Some(watch) = batch.todo.pop() {
            let Some(entry) = self.entries.get_mut(&watch) else { continue };
            let (from, range) = (entry.from, &entry.range);
            let commits = batch.commits.iter().filter(|commit| commit.revision >= from);
            let mut events = commits
                .flat_map(|commit| &commit.events)
                .filter(|event| range.contains(&event.key));
            let sent = send(watch, batch.revision, &mut events);
            entry.from = from.max(batch.next);
            return Some(sent);
        }
        self.batch = None;
        None
    }
}

/// Events for one watch, in order.
pub type Events<'a> = dyn Iterator<Item = &'a SharedEvent> + 'a;

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn watches_that_come_and_go_leave_nothing_behind() {
        let mut behind = CatchUp::default();
        let range = KeyRange::new(Bytes::from_static(b"a"), Bytes::new());
        behind.add(0, &range, 5);
        for watch in 1..100_000 {
            behind.add(watch, &range, 5 + (watch % 3) as i64);
            assert!(behind.remove(watch) && !behind.remove(watch));
            let kept = behind.groups.values().map(Vec::len).sum::<usize>();
            let kept = kept.max(behind.not_indexed.len());
            assert!(kept <= 2 * behind.len() + REMOVED_KEPT_MAX, "{kept} numbers kept");
        }
        let mut left = Vec::new();
        while let Some((next, watches)) = behind.leave(4, 10_000) {
            left.extend(watches.into_iter().map(|watch| (watch, next)));
        }
        assert_eq!(left, [(0, 5)]);
    }
}
