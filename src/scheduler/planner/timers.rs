//! What happens by itself: rests end, runs come to their deadline, lanes find no worker for too long.

use super::workers::ClassNo;
use super::{Planner, RunNo, Timer};
use crate::scheduler::model::Status;
use std::collections::BTreeMap;

/// That often within its time it is looked whether a run's lanes have workers.
const LOOKS: u64 = 4;
const LOOK_MIN_MS: u64 = 100;

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
        let classes = run.classes.iter().filter(|class| !self.has_worker(**class));
        let since = |class| run.unserved.get(class).copied().unwrap_or(now);
        let unserved: BTreeMap<ClassNo, u64> =
            classes.map(|class| (*class, since(class))).collect();
        let mut next = look_at(now, timeout);
        while !unserved.is_empty() {
            let mut overdue = Vec::new();
            for (class, id) in self.ready.lanes_of(number) {
                let known = unserved.get(&class).zip(self.lane(id));
                let Some((since, lane)) = known else { continue };
                match lane.since.max(*since).saturating_add(timeout) {
                    at if at <= now => overdue.push(id),
                    at => next = next.min(at),
                }
            }
            if overdue.is_empty() {
                break;
            }
            for id in overdue {
                self.skip(now, id);
            }
            // Others have waited for the turn of those.
            self.settle();
        }
        if let Some(run) = self.runs.get_mut(number) {
            run.unserved = unserved;
            // Never at once again, whatever the run says.
            self.timers.insert((next.max(now.saturating_add(1)), Timer::NoWorker(number)));
        }
    }

    /// Whether any worker could run lanes of a class, now or when it has rested.
    pub(super) fn has_worker(&self, class: ClassNo) -> bool {
        self.workers.serves(class) || self.workers.resting_for(class).next().is_some()
    }
}

/// When it is looked again whether lanes have a worker: a few times within the time that they may be
/// without one.
pub(super) fn look_at(now: u64, timeout: u64) -> u64 {
    now.saturating_add((timeout / LOOKS).max(LOOK_MIN_MS).min(timeout))
}
