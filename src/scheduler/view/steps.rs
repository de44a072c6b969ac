//! Attempts of a run as starts and ends in their order, and what goes on between them.

use super::book::RunBook;
use super::limits::shares;
use crate::scheduler::model::{LaneCheckpoint, Scope};
use crate::scheduler::planner::{Shared, Verdict};
use std::collections::BTreeMap;

/// One attempt as a stretch of time.
#[derive(Clone, Copy)]
pub(super) struct Stretch {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) lane: u32,
    /// Where it is among the attempts.
    pub(super) attempt: u32,
    /// The first attempt of its task, so that one task fewer waits.
    pub(super) is_first: bool,
    /// The task ended with it.
    pub(super) is_last: bool,
}

pub(super) fn stretches(book: &RunBook) -> Vec<Stretch> {
    let mut stretches = Vec::with_capacity(book.attempts.len());
    let mut before = None;
    for (lane, ordinal, at) in &book.index {
        let attempt = &book.attempts[*at as usize];
        let start = attempt.row.start.saturating_mul(1_000);
        let is_first = before != Some((*lane, *ordinal));
        before = Some((*lane, *ordinal));
        stretches.push(Stretch {
            start,
            end: start + attempt.row.duration,
            lane: *lane,
            attempt: *at,
            is_first,
            is_last: matches!(attempt.verdict, Verdict::Ended(..)),
        });
    }
    stretches
}

/// Starts and ends in their order, with whether it is a start.
pub(super) fn steps(found: &[Stretch]) -> Vec<(u64, bool, &Stretch)> {
    let mut steps: Vec<(u64, bool, &Stretch)> = Vec::with_capacity(found.len() * 2);
    for stretch in found {
        steps.push((stretch.start, true, stretch));
        steps.push((stretch.end, false, stretch));
    }
    // Ends first: what they free may start in the same instant. What took no time, as what was lost with its worker, starts
    // before it ends and has ended before its next attempt starts: else it would seem to go on for ever.
    steps.sort_unstable_by_key(|(at, is_start, stretch)| {
        match (stretch.start == stretch.end, is_start) {
            (true, _) => (*at, 1, stretch.attempt, !is_start),
            (false, false) => (*at, 0, stretch.lane, false),
            (false, true) => (*at, 2, stretch.lane, false),
        }
    });
    steps
}

/// What is going on at one instant.
pub(super) struct State<'b> {
    book: &'b RunBook,
    pub(super) busy: u64,
    /// By lane: tasks that have not started.
    pub(super) unstarted: Vec<u32>,
    /// By lane: tasks that have not ended, those left out that nobody ever ran.
    open: Vec<u32>,
    /// By lane: tasks that have.
    ended: Vec<u32>,
    /// Tasks that are to be tried again and have not started.
    pub(super) again: u32,
    /// Attempts that go on, by what they share with others.
    held: BTreeMap<Shared<'b>, u32>,
    /// Lanes of manual cases, by tag: nobody writes down when a person was given a task.
    manual: BTreeMap<&'b str, Vec<usize>>,
}

impl<'b> State<'b> {
    pub(super) fn new(book: &'b RunBook) -> Self {
        let ran = |counted: &LaneCheckpoint| counted.ended.count();
        let mut open: Vec<u32> = book.counted.iter().map(ran).collect();
        if book.is_open {
            open = book.plan.lanes.iter().map(|lane| lane.total).collect();
        }
        let ended = vec![0; open.len()];
        let mut manual: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (lane, plan) in book.plan.lanes.iter().enumerate().filter(|(_, plan)| plan.is_manual) {
            for tag in &plan.tags {
                manual.entry(tag).or_default().push(lane);
            }
        }
        Self {
            book,
            busy: 0,
            unstarted: open.clone(),
            open,
            ended,
            again: 0,
            held: BTreeMap::new(),
            manual,
        }
    }

    pub(super) fn step(&mut self, stretch: &Stretch, is_start: bool) {
        let lane = stretch.lane as usize;
        let Some(plan) = self.book.plan.lanes.get(lane) else { return };
        let slots = u64::from(plan.slots);
        if is_start {
            self.busy += slots;
            self.unstarted[lane] -= u32::from(stretch.is_first).min(self.unstarted[lane]);
            self.again -= u32::from(!stretch.is_first).min(self.again);
        } else {
            self.busy = self.busy.saturating_sub(slots);
            self.open[lane] -= u32::from(stretch.is_last).min(self.open[lane]);
            self.ended[lane] += u32::from(stretch.is_last);
            self.again += u32::from(!stretch.is_last);
        }
        for share in shares(plan) {
            let held = self.held.entry(share).or_default();
            *held = if is_start { *held + 1 } else { held.saturating_sub(1) };
        }
    }

    /// What the next task of a lane waits for.
    pub(super) fn of_lane(&self, lane: usize) -> Waits {
        let Some(plan) = self.book.plan.lanes.get(lane) else { return Waits::Not };
        if self.unstarted[lane] == 0 {
            return Waits::Not;
        }
        let is_early = plan.predecessors.iter().any(|before| match before.scope {
            Scope::Repeat => {
                let started = plan.total - self.unstarted[lane].min(plan.total);
                let before = before.lane as usize;
                self.ended[before] <= started && self.open[before] > 0
            }
            Scope::Run | Scope::Global => self.open[before.lane as usize] > 0,
        });
        if is_early {
            return Waits::ForLane;
        }
        let is_full = |share: Shared<'_>| {
            let capacity = self.book.capacity(share);
            capacity.is_some_and(|most| self.held.get(&share).is_some_and(|held| *held >= most))
        };
        if plan.tags.iter().any(|tag| is_full(Shared::Tag(tag))) {
            return Waits::ForTag;
        }
        if plan.is_manual {
            return Waits::ForPerson;
        }
        // People are never full: what waits for a verdict has its tags.
        let with_people = |tag: &str| {
            let mut lanes = self.manual.get(tag).into_iter().flatten();
            lanes.any(|lane| self.of_lane(*lane) == Waits::ForPerson)
        };
        if plan.tags.iter().any(|tag| with_people(tag)) {
            return Waits::ForTag;
        }
        match is_full(Shared::Environment(&plan.environment)) || is_full(Shared::Queue) {
            true => Waits::ForLimit,
            false => Waits::ForNothing,
        }
    }
}

/// What keeps tasks of a lane from starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// All have started.
    Not,
    ForLane,
    ForTag,
    /// A place in its environment, or in its queue.
    ForLimit,
    /// Who has it, and has not given a verdict.
    ForPerson,
    /// But a slot.
    ForNothing,
}

impl Waits {
    pub(super) const COUNT: usize = Waits::ForNothing as usize + 1;
}
