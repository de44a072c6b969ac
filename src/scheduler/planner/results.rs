//! What comes back from workers, and what ends without having run: tasks end or are tried again,
//! locks become free, successors go on.

use super::lane::{Place, Verdict};
use super::{CaseNo, ClaimNo, LaneId, Note, OpenClaim, Planner, Run, RunNo, RunState, Timer};
use crate::planted::{self, Bug};
use crate::scheduler::model::{Item, Ordinals, Row, Scope, Status};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What becomes of the tags of a claim that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    Free,
    /// The worker was lost and may still be at it: `release_tag` frees them.
    Draining,
}

impl Planner {
    /// Takes in results of a claim. What it held and neither ended nor is left to it goes back to be
    /// given out again. Returns what each row means; those of tasks that it did not hold are
    /// refused.
    pub fn deliver(
        &mut self,
        now: u64,
        claim: ClaimNo,
        rows: &[Row],
        left: &[Item],
        tags: Tags,
    ) -> Vec<Verdict> {
        let Some(open) = self.claims.remove(&claim) else {
            return vec![Verdict::Refused; rows.len()];
        };
        let worker = self.workers.get(open.worker).map(|worker| worker.name.clone());
        let worker = worker.unwrap_or_default();
        let run = open.run;
        let (mut back, remaining) = self.shrink(&open, left);
        let mut verdicts = Vec::with_capacity(rows.len());
        for row in rows {
            let place = back.binary_search_by_key(&row.lane, |(lane, _)| *lane);
            let verdict = match place.is_ok_and(|place| back[place].1.remove(row.ordinal)) {
                true => self.book(now, LaneId { run, lane: row.lane }, row, &worker),
                false => Verdict::Refused,
            };
            verdicts.push(verdict);
        }
        for (lane, given_back) in &back {
            if let Some(lane) = self.lane_mut(LaneId { run, lane: *lane }) {
                for (from, to) in given_back.intervals() {
                    lane.put_back(from, to);
                }
            }
        }
        if remaining.is_empty() {
            for (lock, unit) in open.tags {
                if tags == Tags::Free {
                    self.locks.get_mut(lock).release(unit);
                    self.wakes.insert(lock);
                }
            }
            let has_left = self.workers.has_left(open.worker);
            if has_left && !self.claims.values().any(|other| other.worker == open.worker) {
                self.workers.remove(open.worker);
            }
        } else {
            let open = OpenClaim { items: remaining, ..open };
            self.claims.insert(claim, open);
        }
        let lanes = self.runs.get(run).map_or(&[][..], |run| &run.lanes);
        let of_back = back.iter().filter_map(|(lane, _)| lanes.get(*lane as usize));
        let limits = of_back.flat_map(|lane| lane.locks.iter());
        self.wakes.extend(limits.filter(|lock| !self.locks.get(**lock).is_tag()));
        for (lane, _) in &back {
            self.after(now, LaneId { run, lane: *lane });
        }
        self.stop_if_enough(now, run);
        self.maybe_end_run(run);
        verdicts
    }

    /// Stops a run that has as many failures as it may have.
    pub(super) fn stop_if_enough(&mut self, now: u64, number: RunNo) {
        let is_enough = |run: &Run| run.failures_max.is_some_and(|max| run.failures >= max);
        if self.runs.get(number).is_some_and(is_enough) {
            self.stop_run(now, number, Status::Skipped);
        }
    }

    /// Takes what is not left to a claim off the worker's load and off the limits; returns it by
    /// lane, in order, and what remains.
    fn shrink(
        &mut self,
        open: &OpenClaim,
        left: &[Item],
    ) -> (Vec<(u32, Ordinals)>, Vec<(Item, u64)>) {
        let mut gone: Vec<(u32, Ordinals)> = Vec::with_capacity(open.items.len());
        let mut remaining = Vec::new();
        let mut left = left.to_vec();
        left.sort_by_key(|kept| kept.lane);
        for (place, (item, estimate)) in open.items.iter().enumerate() {
            let mut gone_of_item = Ordinals::new();
            gone_of_item.insert_range(item.from, item.to);
            let kept = left.partition_point(|kept| kept.lane < item.lane);
            for kept in left[kept..].iter().take_while(|kept| kept.lane == item.lane) {
                let (from, to) = (kept.from.max(item.from), kept.to.min(item.to));
                for ordinal in from..to {
                    gone_of_item.remove(ordinal);
                }
                if from < to {
                    remaining.push((Item { from, to, ..*item }, *estimate));
                }
            }
            let count = gone_of_item.count();
            let Some(lane) =
                self.runs.get_mut(open.run).and_then(|run| run.lanes.get_mut(item.lane as usize))
            else {
                continue;
            };
            lane.open -= count;
            if !planted::has(Bug::SlotLeaked) {
                let is_last = place + 1 == open.items.len();
                let load = open.slots(lane.traits.slots, count, !is_last || !remaining.is_empty());
                self.workers.take_back(open.worker, load, count, *estimate);
            }
            for lock in lane.locks.iter() {
                let lock = self.locks.get_mut(*lock);
                if !lock.is_tag() {
                    lock.give_back(count);
                }
            }
            gone.push((item.lane, gone_of_item));
        }
        gone.sort_by_key(|(lane, _)| *lane);
        gone.dedup_by(|(lane, more), (before, of_lane)| {
            if lane == before {
                for (from, to) in more.intervals() {
                    of_lane.insert_range(from, to);
                }
            }
            lane == before
        });
        (gone, remaining)
    }

    /// Books one result and what follows from it for the task.
    fn book(&mut self, now: u64, id: LaneId, row: &Row, worker: &Arc<str>) -> Verdict {
        let Some(run) = self.runs.get_mut(id.run) else { return Verdict::Refused };
        let is_stopped = run.state == RunState::Stopped;
        let Some(lane) = run.lanes.get_mut(id.lane as usize) else { return Verdict::Refused };
        let verdict = lane.book(row, worker);
        match verdict {
            Verdict::Refused => {}
            Verdict::Again(_) if is_stopped => {
                // Nothing is tried again in a run that somebody stopped: the last attempt counts.
                lane.give_up(row.ordinal, row.status);
                self.task_ended(now, id, row.ordinal, row.status);
                return Verdict::GivenUp(row.status);
            }
            Verdict::Again(0) => lane.put_back(row.ordinal, row.ordinal + 1),
            Verdict::Again(rest) => {
                lane.extra().resting.insert(row.ordinal);
                self.timers.insert((now + rest, Timer::Rested(id, row.ordinal)));
            }
            Verdict::Ended(status, _) => self.task_ended(now, id, row.ordinal, status),
            Verdict::GivenUp(_) => {}
        }
        verdict
    }

    fn task_ended(&mut self, now: u64, id: LaneId, ordinal: u32, status: Status) {
        let Some(run) = self.runs.get_mut(id.run) else { return };
        let Some(lane) = run.lanes.get_mut(id.lane as usize) else { return };
        let (case, is_muted) = (lane.case, lane.traits.is_muted);
        let has_waiting = !lane.repeat_successors().is_empty();
        run.failures += u32::from(status.fails_run() && !is_muted);
        self.close_tasks(case, 1);
        if !has_waiting {
            return;
        }
        let waiting = self.lane(id).map(|lane| lane.repeat_successors().clone());
        for successor in waiting.iter().flat_map(|waiting| waiting.iter().copied()) {
            self.allow(now, LaneId { run: id.run, lane: successor }, ordinal);
        }
    }

    /// Lets a repeat run, or ends it, once all that it waits for has ended.
    pub(super) fn allow(&mut self, now: u64, id: LaneId, ordinal: u32) {
        let Some(run) = self.runs.get_mut(id.run) else { return };
        let Some(lane) = run.lanes.get(id.lane as usize) else { return };
        if ordinal >= lane.total || lane.ended.contains(ordinal) {
            return;
        }
        let mut is_met = true;
        for predecessor in lane.predecessors() {
            if predecessor.scope != Scope::Repeat {
                continue;
            }
            let Some(before) = run.lanes.get(predecessor.lane as usize) else { continue };
            if !before.ended.contains(ordinal) {
                return;
            }
            is_met &= before.repeat_satisfies(ordinal, predecessor.policy);
        }
        let Some(lane) = run.lanes.get_mut(id.lane as usize) else { return };
        if !lane.extra().seen.insert(ordinal) {
            return;
        }
        if is_met {
            lane.extra().allowed.insert(ordinal);
            if lane.place == Place::Aside {
                lane.since = now;
            }
        } else {
            lane.give_up(ordinal, Status::Skipped);
            self.notes.push(Note::LaneChanged(id));
            self.task_ended(now, id, ordinal, Status::Skipped);
        }
        self.after(now, id);
    }

    /// Sees whether a lane has ended, and puts it where it belongs.
    fn after(&mut self, now: u64, id: LaneId) {
        let Some(lane) = self.lane(id) else { return };
        let is_crossed = planted::has(Bug::BarrierCrossed) && lane.claimable() == 0;
        if lane.has_ended() && lane.open == 0 || is_crossed {
            self.lane_ended(now, id);
        } else {
            self.place(now, id);
        }
    }

    /// Lets successors go on, and ends those that may not.
    pub(super) fn lane_ended(&mut self, now: u64, id: LaneId) {
        let mut ended = vec![id];
        while let Some(id) = ended.pop() {
            self.unplace(id);
            let Some(run) = self.runs.get_mut(id.run) else { return };
            let Some(lane) = run.lanes.get_mut(id.lane as usize) else { continue };
            if std::mem::replace(&mut lane.is_closed, true) {
                continue;
            }
            run.open_lanes -= 1;
            self.notes.push(Note::LaneEnded(id));
            for successor in lane.successors().clone().iter().copied() {
                let successor_id = LaneId { run: id.run, lane: successor };
                if self.runs.get(id.run).is_some_and(|run| run.lets(id.lane, successor)) {
                    let Some(lane) = self.lane_mut(successor_id) else { continue };
                    lane.links().missing -= 1;
                    lane.since = now;
                    self.place(now, successor_id);
                } else if self.end_rest(now, successor_id, Status::Skipped) {
                    ended.push(successor_id);
                }
            }
        }
    }

    /// Ends what is left of a lane without having run.
    pub(super) fn skip(&mut self, now: u64, id: LaneId) {
        if self.end_rest(now, id, Status::Skipped) {
            self.lane_ended(now, id);
        }
        self.maybe_end_run(id.run);
    }

    /// Ends those tasks of a lane that no worker has; whether the lane has ended by that.
    fn end_rest(&mut self, now: u64, id: LaneId, status: Status) -> bool {
        let open = match self.lane(id).is_some_and(|lane| lane.open > 0) {
            true => self.open_tasks(id.run).remove(&id.lane).unwrap_or_default(),
            false => Ordinals::new(),
        };
        self.end_rest_but(now, id, status, &open)
    }

    fn end_rest_but(&mut self, now: u64, id: LaneId, status: Status, open: &Ordinals) -> bool {
        self.unplace(id);
        self.unreserve(id);
        let Some(lane) = self.lane_mut(id) else { return false };
        if lane.is_closed {
            return false;
        }
        let before = lane.ended.clone();
        let count = lane.end_rest(status, open);
        let case = lane.case;
        let has_ended = lane.has_ended() && lane.open == 0;
        let work = count.saturating_mul(lane.estimate());
        let (locks, waiting) = (lane.locks.clone(), lane.repeat_successors().clone());
        let total = lane.total;
        if count > 0 {
            self.notes.push(Note::LaneChanged(id));
        }
        for lock in locks.iter() {
            let lock = self.locks.get_mut(*lock);
            lock.backlog = lock.backlog.saturating_sub(work);
        }
        self.close_tasks(case, count);
        for successor in waiting.iter().copied() {
            for ordinal in (0..total).filter(|ordinal| !before.contains(*ordinal)) {
                self.allow(now, LaneId { run: id.run, lane: successor }, ordinal);
            }
        }
        has_ended
    }

    /// What workers have of a run, by lane.
    pub(super) fn open_tasks(&self, run: RunNo) -> BTreeMap<u32, Ordinals> {
        let mut open: BTreeMap<u32, Ordinals> = BTreeMap::new();
        for claim in self.claims.values().filter(|claim| claim.run == run) {
            for (item, _) in &claim.items {
                open.entry(item.lane).or_default().insert_range(item.from, item.to);
            }
        }
        open
    }

    /// Counts ends of tasks of a case, and lets those go on that waited for the last of them.
    pub(super) fn close_tasks(&mut self, case: CaseNo, count: u64) {
        for id in self.cases.close(case, count) {
            self.place_again(id);
        }
    }

    /// Nothing more of the run is given out: what no worker has ends with this status.
    pub fn stop_run(&mut self, now: u64, number: RunNo, status: Status) {
        let Some(run) = self.runs.get_mut(number) else { return };
        if run.state == RunState::Stopped {
            return;
        }
        run.state = RunState::Stopped;
        self.notes.push(Note::RunStopped(number));
        let lanes = run.lanes.len() as u32;
        let mut open = self.open_tasks(number);
        for lane in 0..lanes {
            let id = LaneId { run: number, lane };
            let open = open.remove(&lane).unwrap_or_default();
            if self.end_rest_but(now, id, status, &open) {
                self.lane_ended(now, id);
            }
        }
        self.maybe_end_run(number);
    }

    /// Whether nothing more of a run starts.
    pub fn is_stopped(&self, run: RunNo) -> bool {
        self.runs.get(run).is_some_and(|run| run.state == RunState::Stopped)
    }

    /// Claims with tasks of a run.
    pub fn claims_of(&self, run: RunNo) -> Vec<ClaimNo> {
        let of_run = self.claims.iter().filter(|(_, claim)| claim.run == run);
        of_run.map(|(number, _)| *number).collect()
    }

    /// Gives nothing more of the run out until it goes on.
    pub fn pause_run(&mut self, number: RunNo) {
        let Some(run) = self.runs.get_mut(number) else { return };
        if run.state != RunState::Running {
            return;
        }
        run.state = RunState::Paused;
        for lane in 0..run.lanes.len() as u32 {
            let id = LaneId { run: number, lane };
            self.unplace(id);
            self.unreserve(id);
        }
    }

    pub fn resume_run(&mut self, now: u64, number: RunNo) {
        let Some(run) = self.runs.get_mut(number) else { return };
        if run.state != RunState::Paused {
            return;
        }
        run.state = RunState::Running;
        self.place_all(now, number);
    }

    /// A unit of a tag is free again: the hold-off after a lost worker is over.
    pub fn release_tag(&mut self, tag: &Arc<str>, unit: u32) {
        let Some(lock) = self.locks.find(&super::LockName::Tag(tag.clone())) else { return };
        if self.locks.get_mut(lock).release(unit) {
            self.wakes.insert(lock);
        }
    }

    pub(super) fn maybe_end_run(&mut self, number: RunNo) {
        let Some(run) = self.runs.get_mut(number).filter(|run| run.open_lanes == 0) else {
            return;
        };
        if !std::mem::replace(&mut run.is_over, true) {
            self.notes.push(Note::RunEnded(number));
        }
    }

    /// Forgets a run that has ended.
    pub fn remove_run(&mut self, number: RunNo) {
        let Some(run) = self.runs.remove(number) else { return };
        for (lane, place) in run.lanes.iter().zip(0..) {
            debug_assert!(lane.is_closed, "lane {place} goes on");
            self.locks.unwant(&lane.locks);
            for lock in lane.locks.iter() {
                self.locks.forget_if_of_run(*lock, &run.name);
            }
        }
        self.ready.remove_run(number);
    }
}

impl Run {
    /// Whether a lane, having ended as it did, lets another go on.
    pub(super) fn lets(&self, before: u32, successor: u32) -> bool {
        let Some(lane) = self.lanes.get(before as usize) else { return true };
        let Some(successor) = self.lanes.get(successor as usize) else { return true };
        let predecessors = successor.predecessors().iter();
        let mut of_lane =
            predecessors.filter(|found| found.lane == before && found.scope != Scope::Repeat);
        of_lane.all(|found| lane.satisfies(found.policy))
    }
}
