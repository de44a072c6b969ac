//! What happens by itself: rests end, runs come to their deadline, lanes find no worker for too long.

use super::{Planner, RunNo, Timer};
use crate::scheduler::model::Status;

impl Planner {
    /// The next time at which `advance` has something to do.
    pub fn next_timer(&self) -> Option<u64> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Does what is due.
    pub fn advance(&mut self, now: u64) {
        while let Some((at, timer)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Rested(id, ordinal) => {
                    let Some(lane) = self.lane_mut(id) else { continue };
                    if lane.extra().resting.remove(ordinal) {
                        lane.put_back(ordinal, ordinal + 1);
                        lane.since = lane.since.max(at);
                        self.place(now, id);
                    }
                }
                Timer::Reserve(id) => self.reserve(now, id),
                Timer::Deadline(run) => self.stop_run(now, run, Status::Skipped),
                Timer::NoWorker(run) => self.skip_unserved(now, run),
            }
        }
    }

    /// Ends lanes for which no worker has been there for the run's time.
    fn skip_unserved(&mut self, now: u64, number: RunNo) {
        let Some(run) = self.runs.get(number) else { return };
        let Some(timeout) = run.no_worker_timeout else { return };
        let mut overdue = Vec::new();
        let mut next = now.saturating_add(timeout);
        for (class, id, _) in self.ready.lanes_of(number) {
            if self.workers.serves(class) || self.workers.resting_for(class).next().is_some() {
                continue;
            }
            let Some(lane) = self.lane(id) else { continue };
            match lane.since.saturating_add(timeout) {
                at if at <= now => overdue.push(id),
                at => next = next.min(at),
            }
        }
        for id in overdue {
            self.skip(now, id);
        }
        if self.runs.get(number).is_some() {
            // Never at once again, whatever the run says.
            self.timers.insert((next.max(now.saturating_add(1)), Timer::NoWorker(number)));
        }
    }
}
