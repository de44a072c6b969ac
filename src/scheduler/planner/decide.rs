//! What is given to whom: the best ready lane for which there is a worker, again and again.

use super::ClaimNo;
use super::locks::LockNo;
use super::workers::{Room, Want};
use super::{Assignment, LaneId, LockName, OpenClaim, Planner, RunNo, WorkerNo, ready};
use crate::scheduler::model::{Item, OnLost};
use std::collections::BTreeMap;

/// Claims without tags are filled up to so many tasks.
const CLAIM_TASKS_MAX: u32 = 256;

/// Repeats that one worker may run under one hold of a tag while others wait for it.
const CHAIN_TASKS_MAX: u32 = 32;

/// Together no longer than this, but for one.
const CHAIN_US_MAX: u64 = 1_000_000;

/// The same while nobody else wants the tag, of tasks that may be run again when their worker is lost.
const CHAIN_ALONE_US_MAX: u64 = 10_000_000;

/// A lane whose tasks want several slots and that goes first has waited long when it has waited for
/// so many milliseconds: then a worker takes nothing else until they fit.
const HOLD_MS: u64 = 1_000;

/// Tasks of a lane for one claim.
#[derive(Default)]
struct Taken {
    items: Vec<Item>,
    tags: Vec<(LockNo, u32)>,
    urgent: bool,
    /// Nothing else may be in the claim.
    is_alone: bool,
}

impl Planner {
    /// What shall be given out now, until nothing more fits.
    pub fn decide(&mut self, now: u64) -> Vec<Assignment> {
        let mut made: Vec<Assignment> = Vec::new();
        // Claims without tags that may still be filled, by worker, run and slots.
        let mut filling: BTreeMap<(WorkerNo, RunNo, u32), usize> = BTreeMap::new();
        self.settle();
        self.maybe_unhold();
        loop {
            let Some((id, room)) = self.best() else {
                if self.settle_others() {
                    continue;
                }
                break;
            };
            if !self.is_free(id) {
                self.place(now, id);
                self.settle();
                continue;
            }
            let Taken { items, tags, urgent, is_alone } = self.take(now, id, room);
            let Some(count) = items.iter().map(Item::count).reduce(|sum, count| sum + count) else {
                self.place(now, id);
                continue;
            };
            let slots = self.lane(id).map_or(1, |lane| lane.traits.slots);
            let key = (room.worker, id.run, slots);
            let may_be_filled = tags.is_empty() && !is_alone;
            let filled = filling.get(&key).copied().filter(|_| may_be_filled);
            match filled.and_then(|place| made.get_mut(place)) {
                Some(claim) => {
                    self.open(claim.claim, id, room.worker, &items, tags);
                    claim.items.extend(items);
                    claim.urgent |= urgent;
                    let tasks: u32 = claim.items.iter().map(Item::count).sum();
                    if tasks >= CLAIM_TASKS_MAX {
                        filling.remove(&key);
                    }
                }
                None => {
                    self.next_claim += 1;
                    let claim = self.next_claim;
                    if may_be_filled && count < CLAIM_TASKS_MAX {
                        filling.insert(key, made.len());
                    }
                    let names =
                        tags.iter().filter_map(|(lock, unit)| match &self.locks.get(*lock).name {
                            LockName::Tag(tag) => Some((tag.clone(), *unit)),
                            _ => None,
                        });
                    let names = names.collect();
                    self.open(claim, id, room.worker, &items, tags);
                    let (worker, run) = (room.worker, id.run);
                    made.push(Assignment { claim, worker, run, items, tags: names, slots, urgent });
                }
            }
            if let Some(lane) = self.lane(id) {
                self.workers.unhold_for(lane.traits.class);
            }
            self.place(now, id);
            self.settle();
        }
        self.maybe_hold(now);
        made
    }

    /// Keeps a worker for what goes first and is too large for the slots that become free one by
    /// one: else smaller tasks would take each.
    fn maybe_hold(&mut self, now: u64) {
        let heads = (0..self.ready.filled()).filter_map(|place| self.ready.head(place));
        let Some(head) = heads.filter(|head| self.workers.serves(head.class)).min() else { return };
        let has_waited = |lane: &super::Lane| lane.traits.slots > 1 && lane.since + HOLD_MS <= now;
        if self.lane(head.lane).is_some_and(has_waited) {
            self.workers.hold(head.class);
        }
    }

    /// Nothing is kept for what is ready no longer.
    fn maybe_unhold(&mut self) {
        if let Some(class) = self.workers.held_for()
            && !self.ready.has(class)
        {
            self.workers.unhold_for(class);
        }
    }

    /// The lane that goes first among those for which there is a worker.
    fn best(&mut self) -> Option<(LaneId, Room)> {
        let mut best: Option<(ready::Candidate, Room)> = None;
        for place in 0..self.ready.filled() {
            let Some(class) = self.ready.class(place) else { continue };
            let free = self.workers.free_for(class);
            if free.is_none() && !self.workers.may_wait(class) {
                continue;
            }
            let Some(head) = self.ready.head(place) else { continue };
            if best.as_ref().is_some_and(|(best, _)| *best < head) {
                continue;
            }
            let Some(lane) = self.lane(head.lane) else { continue };
            let room = match free {
                Some(free) => Some(self.workers.share_of(free, class, lane.claimable())),
                // Whoever waits at a worker must hold nothing meanwhile.
                None => {
                    let is_unlimited = |lock: &LockNo| self.locks.get(*lock).is_unlimited();
                    let may_wait = !lane.has_tags
                        && lane.locks.iter().all(is_unlimited)
                        && !lane.is_next_suspect();
                    let (tasks, estimate) = (lane.claimable(), lane.estimate());
                    let want = Want { class, tasks, estimate };
                    match may_wait {
                        true => self.workers.room_ahead(&want, self.ready_work),
                        false => None,
                    }
                }
            };
            if let Some(room) = room {
                best = Some((head, room));
            }
        }
        best.map(|(head, room)| (head.lane, room))
    }

    /// Whether nothing has come between since the lane was found ready.
    fn is_free(&self, id: LaneId) -> bool {
        let Some(lane) = self.lane(id) else { return false };
        let cases = lane.global_predecessors();
        lane.locks.iter().all(|lock| self.locks.get(*lock).admits(id))
            && cases.iter().all(|case| self.cases.open(*case) == 0)
    }

    /// Takes tasks of a lane, with the locks they need.
    fn take(&mut self, now: u64, id: LaneId, room: Room) -> Taken {
        self.unplace(id);
        let Some(lane) =
            self.runs.get_mut(id.run).and_then(|run| run.lanes.get_mut(id.lane as usize))
        else {
            return Default::default();
        };
        let mut max = room.tasks.min(CLAIM_TASKS_MAX);
        if lane.has_tags {
            let is_wanted = lane.locks.iter().any(|lock| self.locks.get(*lock).is_wanted());
            let time = match is_wanted || lane.traits.on_lost == OnLost::Never {
                true => CHAIN_US_MAX,
                false => CHAIN_ALONE_US_MAX,
            };
            let chain = (time / lane.estimate()).clamp(1, CHAIN_TASKS_MAX.into());
            max = if lane.traits.chain && !lane.traits.is_manual { chain as u32 } else { 1 };
        }
        for lock in lane.locks.iter() {
            let lock = self.locks.get(*lock);
            if !lock.is_tag() {
                max = max.min(lock.free());
            }
        }
        let mut items = Vec::new();
        let mut is_alone = false;
        let mut left = max;
        while left > 0
            && let Some((from, to, attempt)) = lane.take(left)
        {
            let is_suspect = lane.is_suspect(from);
            if is_suspect && !items.is_empty() {
                lane.put_back(from, to);
                break;
            }
            left -= to - from;
            items.push(Item { lane: id.lane, from, to, attempt });
            is_alone = is_suspect;
            if is_alone {
                break;
            }
        }
        let count = max - left;
        lane.open += count;
        lane.since = now;
        let work = u64::from(count) * lane.estimate();
        let is_last = lane.claimable() == 0;
        let has_successors = !lane.successors().is_empty() || !lane.repeat_successors().is_empty();
        let urgent = !room.is_ahead || lane.has_tags || is_last && has_successors;
        let mut tags = Vec::new();
        if count > 0 {
            for number in lane.locks.iter() {
                let lock = self.locks.get_mut(*number);
                lock.backlog = lock.backlog.saturating_sub(work);
                match lock.is_tag() {
                    true => tags.push((*number, lock.take())),
                    false => lock.use_up(count),
                }
            }
        }
        if count > 0 {
            self.unreserve(id);
        }
        Taken { items, tags, urgent, is_alone }
    }

    /// Books a claim, or more of one.
    fn open(
        &mut self,
        claim: ClaimNo,
        id: LaneId,
        worker: WorkerNo,
        items: &[Item],
        tags: Vec<(LockNo, u32)>,
    ) {
        let Some(lane) = self.lane(id) else { return };
        let (slots, estimate) = (lane.traits.slots, lane.estimate());
        let count: u32 = items.iter().map(Item::count).sum();
        // People's time is not the queue's.
        let charged = if lane.traits.is_manual { 0 } else { slots };
        let cost = u64::from(count) * u64::from(charged) * estimate;
        let priority = self.runs.get(id.run).map_or(0, |run| run.priority);
        let since = lane.since;
        self.ready.charge(id.run, since, priority, cost);
        let open = self.claims.entry(claim).or_insert_with(|| OpenClaim {
            worker,
            run: id.run,
            items: Vec::new(),
            tags,
        });
        let load = open.slots(slots, count, !open.items.is_empty());
        self.workers.give(worker, load, count, estimate);
        open.items.extend(items.iter().map(|item| (*item, estimate)));
    }
}
