//! Where lanes wait for locks. Those of one class that want the same locks stand in one line: it waits at
//! the first lock that is not free for it, whoever is first in it, so that a lock that becomes free tries
//! one lane of each line and not all that turn out to wait for something else as well.

use super::LaneId;
use super::few::Few;
use super::locks::{LockNo, Locks, WaitKey};
use super::workers::ClassNo;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Names a line for the life of the planner.
pub(super) type LineNo = u32;

/// What lanes want together, kept once for all that want the same.
#[derive(Debug)]
pub(super) struct LockSet {
    pub line: LineNo,
    locks: Few,
}

impl std::ops::Deref for LockSet {
    type Target = [LockNo];

    fn deref(&self) -> &[LockNo] {
        &self.locks
    }
}

/// The first of a line, at a lock; comparing two says which goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Head {
    key: WaitKey,
    pub lane: LaneId,
    pub line: LineNo,
}

#[derive(Debug)]
struct Line {
    class: ClassNo,
    wants: Arc<LockSet>,
    /// Lanes that want this, whether they wait or not.
    lanes: u32,
    waiters: BTreeSet<(WaitKey, LaneId)>,
    head: Option<Head>,
    /// Where it waits, while anybody is in it.
    at: LockNo,
}

#[derive(Debug, Default)]
pub(super) struct Lines {
    lines: Vec<Line>,
    by_want: BTreeMap<(ClassNo, Few), LineNo>,
    unused: Vec<LineNo>,
}

impl Lines {
    fn get_mut(&mut self, line: LineNo) -> &mut Line {
        &mut self.lines[line as usize]
    }
}

impl Locks {
    /// One more lane of a class wants these.
    pub(super) fn want(&mut self, class: ClassNo, locks: Few) -> Arc<LockSet> {
        let lines = &mut self.lines;
        let want = (class, locks);
        if let Some(line) = lines.by_want.get(&want) {
            let line = &mut lines.lines[*line as usize];
            line.lanes += 1;
            return line.wants.clone();
        }
        let number = lines.unused.pop().unwrap_or(lines.lines.len() as LineNo);
        let wants = Arc::new(LockSet { line: number, locks: want.1.clone() });
        let line = Line {
            class,
            wants: wants.clone(),
            lanes: 1,
            waiters: BTreeSet::new(),
            head: None,
            at: LockNo::MAX,
        };
        match lines.lines.get_mut(number as usize) {
            Some(unused) => *unused = line,
            None => lines.lines.push(line),
        }
        lines.by_want.insert(want, number);
        wants
    }

    /// A lane that wanted these is there no longer, or wants others.
    pub(super) fn unwant(&mut self, wanted: &LockSet) {
        let line = self.lines.get_mut(wanted.line);
        line.lanes -= 1;
        if line.lanes == 0 {
            let want = (line.class, wanted.locks.clone());
            self.lines.by_want.remove(&want);
            self.lines.unused.push(wanted.line);
        }
    }

    /// Puts a lane in its line. If others are in that, it waits where they do.
    pub(super) fn park(&mut self, number: LineNo, at: LockNo, key: WaitKey, lane: LaneId) {
        let line = self.lines.get_mut(number);
        if line.head.is_none() {
            line.at = at;
        }
        line.waiters.insert((key, lane));
        let new = Head { key, lane, line: number };
        if line.head.is_none_or(|head| new < head) {
            self.set_head(number, Some(new));
        }
    }

    /// Takes a lane out of its line.
    pub(super) fn leave(&mut self, number: LineNo, key: WaitKey, lane: LaneId) {
        let line = self.lines.get_mut(number);
        line.waiters.remove(&(key, lane));
        if line.head.is_some_and(|head| head.lane == lane) {
            let next = line.waiters.first();
            let next = next.map(|(key, lane)| Head { key: *key, lane: *lane, line: number });
            self.set_head(number, next);
        }
    }

    fn set_head(&mut self, number: LineNo, head: Option<Head>) {
        let line = self.lines.get_mut(number);
        let before = std::mem::replace(&mut line.head, head);
        let (at, class) = (line.at, line.class);
        self.get_mut(at).change_head(class, before, head);
    }

    /// The lock that keeps a line from going on, if any does.
    pub(super) fn full_for(&self, line: LineNo) -> Option<LockNo> {
        let mut wanted = self.lines.lines[line as usize].wants.iter().copied();
        wanted.find(|lock| self.get(*lock).unreserved() == 0)
    }

    /// Lets a line wait elsewhere.
    pub(super) fn move_line(&mut self, number: LineNo, to: LockNo) {
        let line = self.lines.get_mut(number);
        let (class, head) = (line.class, line.head);
        let from = std::mem::replace(&mut line.at, to);
        self.get_mut(from).change_head(class, head, None);
        self.get_mut(to).change_head(class, None, head);
    }

    /// How many lanes wait for a lock.
    pub(super) fn waiting(&self, number: LockNo) -> usize {
        let lock = self.get(number);
        let in_line = |head: &Head| self.lines.lines[head.line as usize].waiters.len();
        lock.heads().map(in_line).sum::<usize>() + lock.waiting_alone as usize
    }
}
