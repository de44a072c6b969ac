//! What keeps tasks apart: tags, of which the store knows each holder, and limits (of environments
//! and queues), which only the leader counts. Both have a capacity, holders and waiting lanes.

use super::LaneId;
use super::lines::{Head, Lines};
use super::workers::ClassNo;
use crate::scheduler::model::Ordinals;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Names a lock for the life of the planner.
pub(super) type LockNo = u32;

/// A step of priority is worth this much waiting.
pub(super) const AGEING_MS: u64 = 30_000;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockName {
    /// The part of the tag's key behind `tag/`.
    Tag(Arc<str>),
    Environment(Arc<str>),
    Queue(Arc<str>),
}

/// Who goes first: lower is better. All ages grow alike, so that the order never changes by itself
/// and ageing needs no timer: a step of priority is a start 30 seconds earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WaitKey {
    step: i64,
    /// More work behind it goes first; then it is the order of submits, which lanes' ids follow.
    work: std::cmp::Reverse<u64>,
}

impl WaitKey {
    pub(super) fn new(since: u64, priority: i32, work: u64) -> Self {
        Self { step: step(since, priority), work: std::cmp::Reverse(work) }
    }
}

/// The place in time of a waiter, in steps of ageing.
pub(super) fn step(since: u64, priority: i32) -> i64 {
    (since / AGEING_MS) as i64 - i64::from(priority)
}

/// Lanes of one class that want a lock.
#[derive(Debug)]
struct LockClass {
    class: ClassNo,
    /// How many of them are ready.
    ready: u32,
    /// Who is first in each line that waits here.
    heads: BTreeSet<Head>,
    /// The first of those: it is asked for far more often than it changes.
    first: Option<Head>,
}

#[derive(Debug)]
pub(super) struct Lock {
    pub name: LockName,
    pub capacity: u32,
    /// Why nothing new may start under a limit, if so.
    pub closed: Option<Arc<str>>,
    /// Units of a tag that are in use, by number: they are keys of the store. A unit that is draining
    /// has a holder no longer and is not free yet.
    held: Ordinals,
    /// Units of a limit that are in use.
    used: u32,
    /// By class, in order: those of one may find a worker when those of another do not.
    classes: Vec<LockClass>,
    /// How many lanes of all classes want it and are ready.
    ready: u32,
    /// Lines of all classes that wait here.
    lines: u32,
    /// Lanes that wait here in no line: they have reserved a unit.
    pub waiting_alone: u32,
    /// Lanes that have waited long for several locks, the first of them first: a unit is kept free for
    /// each.
    reserved: BTreeSet<(u64, LaneId)>,
    /// Work that wants it, in microseconds.
    pub backlog: u64,
}

impl Lock {
    pub(super) fn free(&self) -> u32 {
        if self.closed.is_some() {
            return 0;
        }
        self.capacity.saturating_sub(self.held.count()).saturating_sub(self.used)
    }

    pub(super) fn is_tag(&self) -> bool {
        matches!(self.name, LockName::Tag(_))
    }

    /// Whether it keeps nothing from running at the moment.
    pub(super) fn is_unlimited(&self) -> bool {
        !self.is_tag() && self.capacity == u32::MAX && self.closed.is_none()
    }

    /// Takes units of a limit.
    pub(super) fn use_up(&mut self, units: u32) {
        self.used += units;
    }

    /// Gives units of a limit back.
    pub(super) fn give_back(&mut self, units: u32) {
        self.used = self.used.saturating_sub(units);
    }

    /// Whether a lane may have a unit now: one for each that has reserved before it stays free.
    pub(super) fn admits(&self, lane: LaneId) -> bool {
        self.unreserved() > 0 || self.kept().any(|kept| kept == lane)
    }

    /// Free units that are kept for nobody.
    pub(super) fn unreserved(&self) -> u32 {
        self.free().saturating_sub(self.reserved.len() as u32)
    }

    /// The lanes for which the free units are kept.
    fn kept(&self) -> impl Iterator<Item = LaneId> {
        self.reserved.iter().take(self.free() as usize).map(|(_, lane)| *lane)
    }

    pub(super) fn kept_for(&self) -> Vec<LaneId> {
        self.kept().collect()
    }

    pub(super) fn take(&mut self) -> u32 {
        // The first that is not held.
        let unit = self.held.intervals().next().filter(|(from, _)| *from == 0);
        let unit = unit.map_or(0, |(_, to)| to);
        self.held.insert(unit);
        unit
    }

    /// A unit that is known to be held, from the store.
    pub(super) fn hold(&mut self, unit: u32) {
        self.held.insert(unit);
    }

    /// Whether the unit was held.
    pub(super) fn release(&mut self, unit: u32) -> bool {
        self.held.remove(unit)
    }

    fn class(&mut self, class: ClassNo) -> &mut LockClass {
        let place = match self.classes.binary_search_by_key(&class, |of| of.class) {
            Ok(place) => place,
            Err(place) => {
                let new = LockClass { class, ready: 0, heads: BTreeSet::new(), first: None };
                self.classes.insert(place, new);
                place
            }
        };
        &mut self.classes[place]
    }

    /// A line that waits here has another head, or comes here with its head, or goes with it.
    pub(super) fn change_head(&mut self, class: ClassNo, before: Option<Head>, now: Option<Head>) {
        self.lines = self.lines + u32::from(now.is_some()) - u32::from(before.is_some());
        let class = self.class(class);
        if let Some(before) = before {
            class.heads.remove(&before);
        }
        class.heads.extend(now);
        class.first = class.heads.first().copied();
    }

    /// Who is first in each line that waits here.
    pub(super) fn heads(&self) -> impl Iterator<Item = &Head> {
        self.classes.iter().flat_map(|class| &class.heads)
    }

    /// A lane that wants it has become ready.
    pub(super) fn count_ready(&mut self, class: ClassNo) {
        self.class(class).ready += 1;
        self.ready += 1;
    }

    /// Such a lane is ready no longer.
    pub(super) fn discount_ready(&mut self, class: ClassNo) {
        self.class(class).ready -= 1;
        self.ready -= 1;
    }

    pub(super) fn reserve(&mut self, since: u64, lane: LaneId) {
        self.reserved.insert((since, lane));
    }

    /// A lane that has reserved then wants it no longer, or has got it.
    pub(super) fn unreserve(&mut self, since: u64, lane: LaneId) {
        self.reserved.remove(&(since, lane));
    }

    /// The waiter that shall try next: the best of all, if fewer lanes are ready than there are units.
    pub(super) fn next(&self) -> Option<Head> {
        if self.lines == 0 || self.ready >= self.unreserved() {
            return None;
        }
        self.classes.iter().filter_map(|class| class.first).min()
    }

    /// The waiter that shall try next when there is no worker for those that are ready: the best of a
    /// class of which fewer lanes are ready than there are units.
    pub(super) fn next_of_others(&self) -> Option<Head> {
        let free = self.unreserved();
        if self.lines == 0 || free == 0 {
            return None;
        }
        let may_try = self.classes.iter().filter(|class| class.ready < free);
        may_try.filter_map(|class| class.first).min()
    }

    /// Whether nobody holds it, wants it or waits for it.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.free() == self.capacity
            && self.reserved.is_empty()
            && (self.ready, self.lines, self.waiting_alone) == (0, 0, 0)
    }

    /// Whether any lane wants it that could run but for locks and slots.
    pub(super) fn is_wanted(&self) -> bool {
        self.ready > 0 || self.lines > 0 || self.waiting_alone > 0
    }
}

#[derive(Debug, Default)]
pub(super) struct Locks {
    locks: Vec<Lock>,
    by_name: BTreeMap<LockName, LockNo>,
    unused: Vec<LockNo>,
    pub lines: Lines,
}

impl Locks {
    /// The lock of this name; a new one has room for one.
    pub(super) fn number(&mut self, name: &LockName) -> LockNo {
        if let Some(number) = self.by_name.get(name) {
            return *number;
        }
        let lock = Lock {
            name: name.clone(),
            capacity: 1,
            closed: None,
            held: Ordinals::new(),
            used: 0,
            classes: Vec::new(),
            ready: 0,
            lines: 0,
            waiting_alone: 0,
            reserved: BTreeSet::new(),
            backlog: 0,
        };
        let number = match self.unused.pop() {
            Some(number) => {
                self.locks[number as usize] = lock;
                number
            }
            None => {
                self.locks.push(lock);
                self.locks.len() as LockNo - 1
            }
        };
        self.by_name.insert(name.clone(), number);
        number
    }

    /// Drops a tag that exists in one run only, when that has ended.
    pub(super) fn forget_if_of_run(&mut self, number: LockNo, run: &str) {
        let lock = self.get(number);
        let LockName::Tag(tag) = &lock.name else { return };
        let is_of_run = tag.split_once("/run/").is_some_and(|(_, of)| of == run);
        if is_of_run && lock.held.is_empty() && self.by_name.remove(&lock.name.clone()).is_some() {
            self.unused.push(number);
        }
    }

    pub(super) fn find(&self, name: &LockName) -> Option<LockNo> {
        self.by_name.get(name).copied()
    }

    pub(super) fn get(&self, number: LockNo) -> &Lock {
        &self.locks[number as usize]
    }

    pub(super) fn get_mut(&mut self, number: LockNo) -> &mut Lock {
        &mut self.locks[number as usize]
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Lock> {
        self.locks.iter()
    }
}
