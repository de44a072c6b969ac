//! Building the planner from what the store holds: runs with what has ended, claims that are out,
//! tags that are held. Then each run starts, whether it is new or went on before.

use super::lane::Verdict;
use super::{ClaimNo, LaneId, LockName, OpenClaim, Planner, RunNo, Timer, WorkerNo};
use crate::scheduler::model::{Item, LaneCheckpoint, Ordinals, Row, Scope};
use std::sync::Arc;

impl Planner {
    /// What was known of a lane when it was last written down.
    pub fn restore_lane(&mut self, id: LaneId, known: LaneCheckpoint) {
        let Some(lane) = self.lane_mut(id) else { return };
        let (case, count) = (lane.case, known.ended.count());
        lane.restore(known);
        self.close_tasks(case, count.into());
    }

    /// A result that was recorded later than that. Rows are given in the order of their revisions.
    pub fn restore_row(&mut self, run: RunNo, row: &Row, worker: &Arc<str>) -> Verdict {
        let id = LaneId { run, lane: row.lane };
        let Some(lane) = self.lane_mut(id) else { return Verdict::Refused };
        let (verdict, case) = (lane.book(row, worker), lane.case);
        if matches!(verdict, Verdict::Ended(..)) {
            self.close_tasks(case, 1);
        }
        verdict
    }

    /// A claim that is out, of a run that has not been started here.
    pub fn restore_claim(
        &mut self,
        worker: WorkerNo,
        run: RunNo,
        items: &[Item],
        tags: &[(Arc<str>, u32)],
    ) -> ClaimNo {
        self.next_claim += 1;
        let tags = tags.iter().map(|(tag, unit)| {
            let number = self.locks.number(&LockName::Tag(tag.clone()));
            self.locks.get_mut(number).hold(*unit);
            (number, *unit)
        });
        let tags = tags.collect();
        let mut open = OpenClaim { worker, run, items: Vec::new(), tags };
        for item in items {
            let Some(lane) = self.lane_mut(LaneId { run, lane: item.lane }) else { continue };
            let (slots, estimate) = (lane.traits.slots, lane.estimate());
            lane.open += item.count();
            for lock in lane.locks.clone().iter() {
                let lock = self.locks.get_mut(*lock);
                if !lock.is_tag() {
                    lock.use_up(item.count());
                }
            }
            let load = open.slots(slots, item.count(), !open.items.is_empty());
            self.workers.give(worker, load, item.count(), estimate);
            open.items.push((*item, estimate));
        }
        self.claims.insert(self.next_claim, open);
        self.next_claim
    }

    /// A tag that is held by nobody here: its hold-off goes on until `release_tag`.
    pub fn restore_tag(&mut self, tag: &Arc<str>, unit: u32) {
        let number = self.locks.number(&LockName::Tag(tag.clone()));
        self.locks.get_mut(number).hold(unit);
    }

    /// Lets a run begin or go on.
    pub fn start_run(&mut self, now: u64, number: RunNo) {
        let open = self.open_tasks(number);
        let Some(run) = self.runs.get_mut(number) else { return };
        let lanes = run.lanes.len() as u32;
        let failures: u64 = run.lanes.iter().map(|lane| lane.failures()).sum();
        run.failures = u32::try_from(failures).unwrap_or(u32::MAX);
        for (lane, place) in run.lanes.iter_mut().zip(0..) {
            if lane.ended.is_empty() && lane.open == 0 && lane.tries().next().is_none() {
                continue;
            }
            let id = LaneId { run: number, lane: place };
            for (until, ordinal) in lane.seed(now, open.get(&place).unwrap_or(&Ordinals::new())) {
                self.timers.insert((until, Timer::Rested(id, ordinal)));
            }
        }
        let mut unmet = Vec::new();
        for place in 0..lanes {
            let id = LaneId { run: number, lane: place };
            let Some(run) = self.runs.get_mut(number) else { return };
            let Some(lane) = run.lanes.get_mut(place as usize) else { continue };
            // Those that have ended already are counted off when they are closed, below.
            let predecessors = lane.predecessors().iter();
            let missing = predecessors.filter(|found| found.scope != Scope::Repeat).count();
            if missing > 0 {
                lane.links().missing = missing as u32;
            }
            let (work, locks) = (lane.work(), lane.locks.clone());
            if lane.traits.is_skipped || lane.has_ended() && lane.open == 0 {
                unmet.push(id);
            }
            for lock in locks.iter() {
                let lock = self.locks.get_mut(*lock);
                lock.backlog = lock.backlog.saturating_add(work);
            }
        }
        self.settle_repeats(now, number);
        for id in unmet {
            if self.lane(id).is_some_and(|lane| lane.has_ended()) {
                self.lane_ended(now, id);
            } else {
                self.skip(now, id);
            }
        }
        self.place_all(now, number);
        self.stop_if_enough(now, number);
        self.maybe_end_run(number);
    }

    /// Lets those repeats run whose predecessors have ended already.
    fn settle_repeats(&mut self, now: u64, number: RunNo) {
        let Some(run) = self.runs.get(number) else { return };
        let mut ended: Vec<(LaneId, u32)> = Vec::new();
        for lane in &run.lanes {
            for successor in lane.repeat_successors().iter() {
                let id = LaneId { run: number, lane: *successor };
                ended.extend(lane.ended.iter().map(|ordinal| (id, ordinal)));
            }
        }
        for (id, ordinal) in ended {
            self.allow(now, id, ordinal);
        }
    }
}
