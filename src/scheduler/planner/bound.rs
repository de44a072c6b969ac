//! The least time in which a run could be done: what it is measured against.

use crate::scheduler::model::{LanePlan, PlannedPredecessor, RunPlan, Scope};
use std::collections::BTreeMap;

/// Lower bounds of a run's duration in microseconds, by what they follow from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// All work over all slots.
    pub work: u64,
    /// The tag with the most work for each of its units.
    pub tag: u64,
    /// The environment or the queue with the most work for each of the tasks that it takes at once.
    pub limit: u64,
    /// The longest chain of predecessors; one that waits for the whole of another waits for all of
    /// its work.
    pub chain: u64,
}

impl Bound {
    pub fn longest(&self) -> u64 {
        self.work.max(self.tag).max(self.limit).max(self.chain)
    }

    /// What the longest follows from, in a word.
    pub fn cause(&self) -> &'static str {
        match self.longest() {
            longest if longest == self.work => "work",
            longest if longest == self.tag => "tag",
            longest if longest == self.limit => "limit",
            _ => "chain",
        }
    }
}

/// What only so many tasks may have at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shared<'a> {
    /// By the part of its key behind `tag/`.
    Tag(&'a str),
    Environment(&'a str),
    /// That of the run.
    Queue,
}

/// What the bound depends on of a lane.
pub(super) struct BoundLane<'a> {
    pub slots: u32,
    /// It takes no slot of a worker.
    pub is_left_out: bool,
    pub tags: Vec<&'a str>,
    pub environment: &'a str,
    pub predecessors: &'a [PlannedPredecessor],
}

impl<'a> BoundLane<'a> {
    fn of(plan: &'a LanePlan) -> Self {
        Self {
            slots: plan.slots,
            is_left_out: plan.is_skipped || plan.is_manual,
            tags: plan.tags.iter().map(|tag| &**tag).collect(),
            environment: &plan.environment,
            predecessors: &plan.predecessors,
        }
    }

    fn shares(&self) -> impl Iterator<Item = Shared<'a>> {
        let tags = self.tags.iter().map(|tag| Shared::Tag(tag));
        tags.chain([Shared::Environment(self.environment), Shared::Queue])
    }
}

/// Computes the bound of a plan for so many slots; without any, of what does not depend on them.
/// `work_of` gives the work of each lane and its longest task, in microseconds of one slot;
/// `capacity_of` how many tasks may share something, unless all may.
pub fn bound(
    plan: &RunPlan,
    slots: u64,
    work_of: impl Fn(u32) -> (u64, u64),
    capacity_of: impl Fn(Shared<'_>) -> Option<u32>,
) -> Bound {
    let lanes: Vec<BoundLane<'_>> = plan.lanes.iter().map(BoundLane::of).collect();
    bound_of(&lanes, slots, work_of, capacity_of)
}

pub(super) fn bound_of(
    lanes: &[BoundLane<'_>],
    slots: u64,
    work_of: impl Fn(u32) -> (u64, u64),
    capacity_of: impl Fn(Shared<'_>) -> Option<u32>,
) -> Bound {
    let over_slots = |work: u64| work.checked_div(slots).unwrap_or(0);
    let mut work = 0;
    // By what is shared: how many tasks may have it, and the work of all that want it.
    let mut shared: BTreeMap<Shared<'_>, (u64, u64)> = BTreeMap::new();
    let mut chain = 0;
    // By lane: when it can have ended at the earliest.
    let mut ends: Vec<u64> = vec![0; lanes.len()];
    for number in order(lanes) {
        let Some(lane) = lanes.get(number as usize) else { continue };
        if lane.is_left_out {
            continue;
        }
        let (own, longest) = work_of(number);
        work += own * u64::from(lane.slots);
        let mut length = over_slots(own * u64::from(lane.slots)).max(longest);
        for share in lane.shares() {
            let capacity = || capacity_of(share).map_or(u64::MAX, |most| u64::from(most.max(1)));
            let (capacity, work) = shared.entry(share).or_insert_with(|| (capacity(), 0));
            *work += own;
            length = length.max(own / *capacity);
        }
        let mut start = 0;
        for predecessor in lane.predecessors {
            let end = ends.get(predecessor.lane as usize).copied().unwrap_or_default();
            // The last repeat may start when the last one of the other has ended; no more is sure.
            let end = match predecessor.scope {
                Scope::Repeat => end.max(length) - length + longest.min(length),
                Scope::Run | Scope::Global => end,
            };
            start = start.max(end);
        }
        ends[number as usize] = start + length;
        chain = chain.max(start + length);
    }
    let mut bound = Bound { work: over_slots(work), chain, ..Default::default() };
    for (share, (capacity, work)) in shared {
        let longest = match share {
            Shared::Tag(_) => &mut bound.tag,
            Shared::Environment(_) | Shared::Queue => &mut bound.limit,
        };
        *longest = (work / capacity).max(*longest);
    }
    bound
}

/// Lanes such that predecessors come first.
fn order(lanes: &[BoundLane<'_>]) -> Vec<u32> {
    let mut missing: Vec<usize> = lanes.iter().map(|lane| lane.predecessors.len()).collect();
    let mut followers: Vec<Vec<u32>> = vec![Vec::new(); lanes.len()];
    for (lane, number) in lanes.iter().zip(0..) {
        for predecessor in lane.predecessors {
            if let Some(followers) = followers.get_mut(predecessor.lane as usize) {
                followers.push(number);
            }
        }
    }
    let mut order: Vec<u32> = (0..)
        .zip(&missing)
        .filter(|(_, missing)| **missing == 0)
        .map(|(number, _)| number)
        .collect();
    let mut next = 0;
    while next < order.len() {
        for follower in followers[order[next] as usize].clone() {
            missing[follower as usize] -= 1;
            if missing[follower as usize] == 0 {
                order.push(follower);
            }
        }
        next += 1;
    }
    order
}
