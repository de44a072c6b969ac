//! One lane while its run goes on: which of its tasks have ended, are out with workers, may start,
//! or wait for another try.

use super::CaseNo;
use super::few::Few;
use super::lines::LockSet;
use super::links::Links;
use super::locks::{LockNo, WaitKey};
use super::traits::Traits;
use crate::scheduler::model::{
    LaneCheckpoint, LanePlan, OnLost, Ordinals, PlannedPredecessor, Policy, Row, Status, Totals,
    Tried,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a lane is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing of it may be given: it waits for predecessors, its tasks are all out or ended, or its
    /// run is paused.
    Aside,
    /// In its line, for a lock.
    Parked(WaitKey),
    /// Alone at a lock: it has waited so long that a unit of each that it wants is kept for it.
    Reserving(LockNo),
    /// Waits for tasks of a case in any run to end.
    Behind,
    /// Among the ready ones of its class: how long the work takes at best that starts with it, and the
    /// part of that which waits for it alone, in microseconds.
    Ready { rank: u64, chain: u64 },
}

/// A task that was lost so often, with more than one worker, is thought to be what kills them.
pub const LOST_MAX: u32 = 3;
/// So often with one and the same.
const LOST_BY_ONE_MAX: u32 = 6;
/// No rest before a further attempt is longer.
const REST_MS_MAX: u64 = 3_600_000;

/// What the end of an attempt means for its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The task has ended so, after so many attempts that failed.
    Ended(Status, u32),
    /// It would be tried again if its run had not been stopped.
    GivenUp(Status),
    /// It is tried again after so many milliseconds.
    Again(u64),
    /// It had ended before, or there is no such task.
    Refused,
}

/// What few lanes need.
#[derive(Debug, Default)]
pub(super) struct Extra {
    pub tried: BTreeMap<u32, Tried>,
    /// Back from a worker, or to be tried again, and free to start.
    pub again: Ordinals,
    /// Wait until their next attempt may start.
    pub resting: Ordinals,
    /// Of lanes that wait for each repeat of another: those that may start and have not yet.
    pub allowed: Ordinals,
    /// All of those that were ever allowed.
    pub seen: Ordinals,
    /// Passed repeats, for successors that ask for them.
    pub passed: Ordinals,
    /// Sum and number of what its tasks took, where nothing was known before.
    observed: (u64, u64),
    /// How tasks ended that did not pass.
    others: Option<Box<Totals>>,
}

/// There may be millions of them, and what few of their bytes are looked at is far away in memory: those
/// that each step needs lie together.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Lane {
    pub traits: Arc<Traits>,
    pub locks: Arc<LockSet>,
    links: Option<Box<Links>>,
    extra: Option<Box<Extra>>,
    /// Repeats.
    pub total: u32,
    /// The first ordinal that was never given out.
    pub fresh: u32,
    /// Tasks that workers have.
    pub open: u32,
    passed: u32,
    pub case: CaseNo,
    is_known: bool,
    pub waits_for_repeats: bool,
    pub has_tags: bool,
    /// It has ended and its successors know.
    pub is_closed: bool,
    /// It keeps units of what it waits for from those that came later.
    pub is_reserving: bool,
    pub place: Place,
    /// Since when it could run but for locks and slots.
    pub since: u64,
    /// Its part of the planner's ready work, while it is ready.
    pub counted_work: u64,
    /// Of one task, in microseconds: known before, or guessed.
    expected: u64,
    pub ended: Ordinals,
}

const _: () = assert!(size_of::<Lane>() == 128);

impl Lane {
    /// `guess` is what a task is taken to last while nothing is known, in microseconds.
    pub(super) fn new(
        plan: LanePlan,
        traits: Arc<Traits>,
        locks: Arc<LockSet>,
        case: CaseNo,
        global_predecessors: Few,
        guess: u64,
        now: u64,
    ) -> Self {
        let has_links = !plan.predecessors.is_empty() || !global_predecessors.is_empty();
        let links = has_links.then(|| {
            let predecessors = plan.predecessors;
            Box::new(Links { predecessors, global_predecessors, ..Links::default() })
        });
        Self {
            traits,
            locks,
            links,
            extra: None,
            total: plan.total,
            fresh: 0,
            open: 0,
            passed: 0,
            case,
            is_known: plan.estimate.is_some(),
            waits_for_repeats: false,
            has_tags: !plan.tags.is_empty(),
            is_closed: false,
            is_reserving: false,
            place: Place::Aside,
            since: now,
            counted_work: 0,
            expected: plan.estimate.unwrap_or(guess),
            ended: Ordinals::new(),
        }
    }

    /// Predecessors as a whole that have not ended.
    pub(super) fn missing(&self) -> u32 {
        self.links.as_ref().map_or(0, |links| links.missing)
    }

    /// Work of the longest chain that starts when this lane has ended, in microseconds.
    pub(super) fn behind(&self) -> u64 {
        self.links.as_ref().map_or(0, |links| links.behind)
    }

    pub(super) fn predecessors(&self) -> &[PlannedPredecessor] {
        self.links.as_ref().map_or(&[], |links| &links.predecessors)
    }

    pub(super) fn global_predecessors(&self) -> &[CaseNo] {
        self.links.as_ref().map_or(&[], |links| &links.global_predecessors)
    }

    pub(super) fn successors(&self) -> &Few {
        self.links.as_ref().map_or(&Few::NONE, |links| &links.successors)
    }

    pub(super) fn repeat_successors(&self) -> &Few {
        self.links.as_ref().map_or(&Few::NONE, |links| &links.repeat_successors)
    }

    pub(super) fn links(&mut self) -> &mut Links {
        self.links.get_or_insert_default()
    }

    pub(super) fn totals(&self) -> Totals {
        let others = self.extra.as_ref().and_then(|extra| extra.others.as_deref());
        let mut totals = others.cloned().unwrap_or_default();
        totals.total = self.total.into();
        if self.passed > 0 {
            totals.add(Status::Passed, self.passed.into());
        }
        totals
    }

    /// What was known of it when it was last written down.
    pub(super) fn restore(&mut self, known: LaneCheckpoint) {
        let mut others = known.totals;
        let passed = others.by_status.remove(&Status::Passed).unwrap_or_default();
        self.passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if others != Totals::of(others.total) {
            self.extra().others = Some(Box::new(others));
        }
        self.ended = known.ended;
        if !known.passed.is_empty() || !known.tried.is_empty() {
            let extra = self.extra();
            extra.passed = known.passed;
            extra.tried = known.tried;
        }
    }

    pub(super) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.count() == self.total
    }

    pub(super) fn is_resting(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| !extra.resting.is_empty())
    }

    pub(super) fn tries(&self) -> impl Iterator<Item = (u32, &Tried)> {
        let tried = self.extra.as_ref().into_iter().flat_map(|extra| &extra.tried);
        tried.map(|(ordinal, tried)| (*ordinal, tried))
    }

    /// Books the end of an attempt by a worker. It depends on what was booked before and on nothing
    /// else, so that whoever reads the same results in the same order comes to the same end.
    pub(super) fn book(&mut self, row: &Row, worker: &Arc<str>) -> Verdict {
        if row.ordinal >= self.total || self.ended.contains(row.ordinal) {
            return Verdict::Refused;
        }
        // Of a single task nobody asks any more.
        if row.status == Status::Passed && !self.is_known && self.total > 1 {
            let observed = &mut self.extra().observed;
            observed.0 += row.duration;
            observed.1 += 1;
        }
        let (retries, on_lost) = (self.traits.retries, self.traits.on_lost);
        let mut tried = match &self.extra {
            Some(extra) => extra.tried.get(&row.ordinal).cloned().unwrap_or_default(),
            None => Tried::default(),
        };
        let rest =
            |times: u32| retries.backoff_ms.saturating_mul(1 << times.min(20)).min(REST_MS_MAX);
        let rest = match row.status {
            Status::Failed | Status::TimedOut if tried.test < retries.test => {
                tried.test += 1;
                rest(tried.test - 1)
            }
            Status::Error if tried.infra < retries.infra => {
                tried.infra += 1;
                rest(tried.infra - 1)
            }
            Status::Lost if on_lost == OnLost::Retry => {
                tried.lost += 1;
                tried.lost_by_several |= tried.lost_by.as_ref().is_some_and(|by| **by != **worker);
                tried.lost_by.get_or_insert_with(|| worker.to_string());
                let max = if tried.lost_by_several { LOST_MAX } else { LOST_BY_ONE_MAX };
                if tried.lost >= max {
                    self.end(row.ordinal, Status::Lost);
                    return Verdict::Ended(Status::Lost, tried.test);
                }
                0
            }
            Status::Pending | Status::Running => return Verdict::Refused,
            status => {
                self.end(row.ordinal, status);
                return Verdict::Ended(status, tried.test);
            }
        };
        let end = row.start.saturating_add(row.duration / 1_000);
        tried.rests_until = (rest > 0).then(|| end.saturating_add(rest));
        self.extra().tried.insert(row.ordinal, tried);
        Verdict::Again(rest)
    }

    /// The number that the next attempt of a task has.
    pub(super) fn next_attempt(&self, ordinal: u32) -> u32 {
        let tried = self.extra.as_ref().and_then(|extra| extra.tried.get(&ordinal));
        tried.map_or(1, Tried::next)
    }

    /// How many tasks could be given out now.
    pub(super) fn claimable(&self) -> u32 {
        let extra = |count: fn(&Extra) -> u32| self.extra.as_deref().map_or(0, count);
        let fresh = match self.waits_for_repeats {
            true => extra(|extra| extra.allowed.count()),
            false => self.total - self.fresh,
        };
        fresh + extra(|extra| extra.again.count())
    }

    /// Whether a task is thought to be what kills workers if it is lost once more: it must be alone
    /// then, so that others do not end with it.
    pub(super) fn is_suspect(&self, ordinal: u32) -> bool {
        let tried = self.extra.as_ref().and_then(|extra| extra.tried.get(&ordinal));
        tried.is_some_and(|tried| tried.lost + 1 >= LOST_MAX)
    }

    /// Whether the next task that is given out is one of those.
    pub(super) fn is_next_suspect(&self) -> bool {
        let next = self.extra.as_ref().and_then(|extra| extra.again.iter().next());
        next.is_some_and(|next| self.is_suspect(next))
    }

    /// Takes tasks that follow each other, of one attempt: those that come again first.
    pub(super) fn take(&mut self, max: u32) -> Option<(u32, u32, u32)> {
        if let Some(extra) = &mut self.extra {
            if let Some((from, to)) = extra.again.take_first(max) {
                // Each that was tried before has an attempt of its own.
                let tried = extra.tried.range(from..to).next();
                let (end, attempt) = match tried {
                    Some((at, tried)) if *at == from => (from + 1, tried.next()),
                    Some((at, _)) => (*at, 1),
                    None => (to, 1),
                };
                extra.again.insert_range(end, to);
                return Some((from, end, attempt));
            }
            if self.waits_for_repeats {
                let (from, to) = extra.allowed.take_first(max)?;
                return Some((from, to, 1));
            }
        }
        if self.waits_for_repeats {
            return None;
        }
        let from = self.fresh;
        self.fresh = self.total.min(from.saturating_add(max));
        (from < self.fresh).then_some((from, self.fresh, 1))
    }

    /// Puts back what was taken, as if it had not been.
    pub(super) fn put_back(&mut self, from: u32, to: u32) {
        self.extra().again.insert_range(from, to);
    }

    /// How tasks ended that did not pass.
    fn others(&mut self) -> &mut Totals {
        self.extra().others.get_or_insert_default()
    }

    fn count(&mut self, status: Status, count: u32) {
        match status {
            Status::Passed => self.passed += count,
            _ => self.others().add(status, count.into()),
        }
    }

    /// Tasks that failed its run.
    pub(super) fn failures(&self) -> u64 {
        let others = self.extra.as_ref().and_then(|extra| extra.others.as_ref());
        others.map_or(0, |others| others.failures)
    }

    /// Counts a task as ended. The caller has seen that it had not.
    fn end(&mut self, ordinal: u32, status: Status) {
        self.ended.insert(ordinal);
        self.count(status, 1);
        if status.fails_run() && !self.traits.is_muted {
            self.others().failures += 1;
        }
        if status == Status::Passed && !self.repeat_successors().is_empty() {
            self.extra().passed.insert(ordinal);
        }
        let Some(extra) = &mut self.extra else { return };
        if let Some(tried) = extra.tried.remove(&ordinal)
            && status == Status::Passed
            && tried.test > 0
        {
            self.others().flaky += 1;
        }
    }

    pub(super) fn checkpoint(&self) -> LaneCheckpoint {
        LaneCheckpoint {
            ended: self.ended.clone(),
            totals: self.totals(),
            passed: self.extra.as_ref().map(|extra| extra.passed.clone()).unwrap_or_default(),
            tried: self.tries().map(|(ordinal, tried)| (ordinal, tried.clone())).collect(),
        }
    }

    /// After a restart: sorts out what may be given out again. `open` is with workers. Returns what
    /// rests, with until when.
    pub(super) fn seed(&mut self, now: u64, open: &Ordinals) -> Vec<(u64, u32)> {
        let waits_for_repeats = self.waits_for_repeats;
        let mut known = self.ended.clone();
        for (from, to) in open.intervals() {
            known.insert_range(from, to);
        }
        let total = self.total;
        self.fresh = total;
        let extra = self.extra();
        for (from, to) in open.intervals() {
            extra.seen.insert_range(from, to);
        }
        let mut from = 0;
        for (start, end) in known.intervals().chain([(total, total)]) {
            if waits_for_repeats {
                // Those that were tried were allowed; the others are asked about one by one.
                let tried = extra.tried.range(from..start).map(|(ordinal, _)| *ordinal);
                for ordinal in tried.collect::<Vec<_>>() {
                    extra.again.insert(ordinal);
                    extra.seen.insert(ordinal);
                }
            } else {
                extra.again.insert_range(from, start);
            }
            from = end;
        }
        let mut rests = Vec::new();
        for (ordinal, tried) in &extra.tried {
            let until = tried.rests_until.filter(|until| *until > now);
            if let Some(until) = until.filter(|_| extra.again.remove(*ordinal)) {
                extra.resting.insert(*ordinal);
                // The clock of its worker may have been wrong.
                rests.push((until.min(now + REST_MS_MAX), *ordinal));
            }
        }
        rests
    }

    /// Ends a task that is with no worker.
    pub(super) fn give_up(&mut self, ordinal: u32, status: Status) {
        let extra = self.extra();
        extra.again.remove(ordinal);
        extra.allowed.remove(ordinal);
        extra.resting.remove(ordinal);
        self.end(ordinal, status);
    }

    /// Whether a repeat that has ended lets the same repeat of a successor run.
    pub(super) fn repeat_satisfies(&self, ordinal: u32, policy: Policy) -> bool {
        policy == Policy::Ended
            || self.extra.as_ref().is_some_and(|extra| extra.passed.contains(ordinal))
    }

    /// Ends all tasks that are not with a worker; returns how many those were.
    pub(super) fn end_rest(&mut self, status: Status, open: &Ordinals) -> u64 {
        let (mut count, mut from) = (0, 0);
        for (start, end) in open.intervals().chain([(self.total, self.total)]) {
            count += self.ended.insert_range(from, start);
            from = end;
        }
        if count > 0 {
            self.count(status, count);
        }
        self.fresh = self.total;
        if let Some(extra) = &mut self.extra {
            extra.again = Ordinals::new();
            extra.allowed = Ordinals::new();
            extra.resting = Ordinals::new();
            extra.tried.retain(|ordinal, _| open.contains(*ordinal));
        }
        count.into()
    }

    /// Of one task, in microseconds: known before, or what its tasks took so far.
    pub(super) fn estimate(&self) -> u64 {
        let observed = || {
            let (sum, count) = self.extra.as_ref()?.observed;
            sum.checked_div(count)
        };
        let expected = match self.is_known {
            true => self.expected,
            false => observed().unwrap_or(self.expected),
        };
        expected.max(1)
    }

    /// Work that is left to be given out, in microseconds of one slot; people take none.
    pub(super) fn work(&self) -> u64 {
        let slots = if self.traits.is_manual { 0 } else { self.traits.slots };
        u64::from(self.claimable()).saturating_mul(u64::from(slots)).saturating_mul(self.estimate())
    }

    /// How long so many of its tasks take at best, in microseconds.
    pub(super) fn length(&self, tasks: u64, slots: u64) -> u64 {
        let estimate = self.estimate();
        if tasks == 0 {
            return 0;
        }
        // Those that exclude each other go one by one.
        let width = if self.has_tags { 1 } else { slots / u64::from(self.traits.slots) };
        let work = tasks.saturating_mul(estimate);
        (work / width.max(1)).max(estimate)
    }

    /// Whether a predecessor that ended as this one did lets its successors run.
    pub(super) fn satisfies(&self, policy: Policy) -> bool {
        let passed = self.passed;
        match policy {
            Policy::Ended => true,
            Policy::Passed => passed == self.total,
            Policy::Ratio(ratio) => f64::from(passed) >= ratio * f64::from(self.total),
        }
    }
}
