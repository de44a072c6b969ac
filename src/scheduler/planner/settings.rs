//! What people set while runs go on: capacities, weights, what is closed; and what is known of all
//! workers and of a run as a whole.

use super::bound::{Bound, BoundLane, Shared, bound_of};
use super::locks::LockNo;
use super::{LaneId, LockName, Planner, RunNo};
use crate::scheduler::model::Labels;
use std::sync::Arc;

/// Of each class, when it is counted what they could use.
const LANES_LOOKED_AT: usize = 4_096;

impl Planner {
    /// Of tasks that could start at once but for a free slot: what they require of a worker, and how many
    /// slots they could use. Of very many lanes that are alike in this, those behind the first thousands count
    /// as one task each.
    pub fn ready_classes(&self) -> impl Iterator<Item = (&Arc<Labels>, u64)> {
        let filled = (0..self.ready.filled()).filter_map(|place| self.ready.class(place));
        filled.filter_map(|class| {
            let (requires, slots) = self.workers.want_of(class)?;
            let looked_at = self.ready.all_of(class).take(LANES_LOOKED_AT);
            let tasks = looked_at.filter_map(|id| Some(u64::from(self.lane(id)?.claimable())));
            let others = (self.ready.lanes_in(class) as usize).saturating_sub(LANES_LOOKED_AT);
            Some((requires, (tasks.sum::<u64>() + others as u64) * u64::from(slots)))
        })
    }

    /// How many tasks may hold a lock at once; a tag that nobody defined has room for one.
    /// `u32::MAX` is no limit.
    pub fn set_capacity(&mut self, name: &LockName, capacity: u32) {
        let is_tag = matches!(name, LockName::Tag(_));
        if capacity == u32::MAX && !is_tag && self.locks.find(name).is_none() {
            return;
        }
        let number = self.limit(name);
        self.locks.get_mut(number).capacity = capacity;
        self.wakes.insert(number);
    }

    /// Lets nothing new start in an environment or a queue for a reason, or lets it again.
    pub fn set_closed(&mut self, name: &LockName, reason: Option<Arc<str>>) {
        if reason.is_none() && self.locks.find(name).is_none() {
            return;
        }
        let number = self.limit(name);
        self.locks.get_mut(number).closed = reason;
        self.wakes.insert(number);
        for id in self.reserving.keys().copied().collect::<Vec<_>>() {
            if self.lane(id).is_some_and(|lane| lane.locks.contains(&number)) {
                self.place_again(id);
            }
        }
    }

    /// The lock of this name; a new one of an environment or a queue has room for all.
    fn limit(&mut self, name: &LockName) -> LockNo {
        if let Some(number) = self.locks.find(name) {
            return number;
        }
        let number = self.locks.number(name);
        if !matches!(name, LockName::Tag(_)) {
            self.locks.get_mut(number).capacity = u32::MAX;
        }
        self.limit_lanes(name, number);
        number
    }

    /// Puts the lanes of an environment or a queue under a limit that was set after their submit.
    fn limit_lanes(&mut self, name: &LockName, number: LockNo) {
        let mut found = Vec::new();
        for (run_number, run) in self.runs.iter() {
            let queue = self.queues.iter().find(|(_, queue)| **queue == run.queue);
            for (lane, place) in run.lanes.iter().zip(0..) {
                let is_meant = match name {
                    LockName::Tag(_) => false,
                    LockName::Environment(environment) => lane.traits.environment == *environment,
                    LockName::Queue(limited) => queue.is_some_and(|(name, _)| name == limited),
                };
                if is_meant {
                    found.push(LaneId { run: run_number, lane: place });
                }
            }
        }
        for id in found {
            self.unplace(id);
            // All that reserve stand in the same order at all their locks: it begins anew.
            self.unreserve(id);
            let Some(lane) = self.lane_mut(id) else { continue };
            let (open, since) = (lane.open, lane.since);
            let (class, before) = (lane.traits.class, lane.locks.clone());
            self.locks.unwant(&before);
            let locks = before.iter().copied().chain([number]).collect();
            let locks = self.locks.want(class, locks);
            if let Some(lane) = self.lane_mut(id) {
                lane.locks = locks;
            }
            self.locks.get_mut(number).use_up(open);
            self.place(since, id);
        }
    }

    /// A queue's part beside others; 1 unless said.
    pub fn set_weight(&mut self, queue: &Arc<str>, weight: u32) {
        let queue = self.queue(queue);
        self.ready.set_weight(queue, weight);
    }

    /// Slots of all workers that take work.
    pub fn capacity(&self) -> u64 {
        self.workers.capacity()
    }

    /// Slots of those that could run something of a run.
    pub fn capacity_for(&self, run: RunNo) -> u64 {
        self.runs.get(run).map_or(0, |run| self.workers.capacity_for(&run.classes))
    }

    /// Tasks of cases that somebody wants skipped.
    pub fn set_apart(&self, run: RunNo) -> u64 {
        let lanes = self.runs.get(run).map_or(&[][..], |run| &run.lanes);
        let skipped = lanes.iter().filter(|lane| lane.traits.is_skipped);
        skipped.map(|lane| u64::from(lane.total)).sum()
    }

    /// The least time in which a run could have been done with so many slots. `work_of` gives the
    /// work of each lane and its longest task, in microseconds of one slot.
    pub fn bound(
        &self,
        run: RunNo,
        slots: u64,
        work_of: impl Fn(u32) -> (u64, u64),
    ) -> Option<Bound> {
        let own = self.runs.get(run)?;
        let queue = self.queues.iter().find(|(_, queue)| **queue == own.queue);
        let tag_of = |lock: &LockNo| match &self.locks.get(*lock).name {
            LockName::Tag(tag) => Some(&**tag),
            _ => None,
        };
        let lanes = own.lanes.iter().map(|lane| BoundLane {
            slots: lane.traits.slots,
            is_left_out: lane.traits.is_skipped || lane.traits.is_manual,
            tags: lane.locks.iter().filter_map(tag_of).collect(),
            environment: &lane.traits.environment,
            predecessors: lane.predecessors(),
        });
        let lanes: Vec<BoundLane<'_>> = lanes.collect();
        let capacity_of = |share: Shared<'_>| {
            let name = match share {
                Shared::Tag(tag) => LockName::Tag(tag.into()),
                Shared::Environment(name) => LockName::Environment(name.into()),
                Shared::Queue => LockName::Queue(queue?.0.clone()),
            };
            let without = matches!(share, Shared::Tag(_)).then_some(1);
            self.locks.find(&name).map_or(without, |lock| match self.locks.get(lock).capacity {
                u32::MAX => None,
                capacity => Some(capacity),
            })
        };
        Some(bound_of(&lanes, slots, work_of, capacity_of))
    }

    /// How long all that is left of a run takes if nothing keeps it from filling all slots of workers that
    /// could run something of it, in microseconds; none without such workers.
    pub fn remaining(&self, run: RunNo) -> Option<u64> {
        let lanes = self.runs.get(run)?.lanes.iter().filter(|lane| !lane.traits.is_manual);
        let left = lanes.map(|lane| {
            let tasks = u64::from(lane.total - lane.ended.count());
            tasks.saturating_mul(u64::from(lane.traits.slots)).saturating_mul(lane.estimate())
        });
        left.fold(0, u64::saturating_add).checked_div(self.capacity_for(run))
    }
}
