//! What the leader writes down at times, so that the next one need not count everything again, and
//! so that people see how far runs are.

use super::runs::LanePack;
use super::{Control, Coordinator, RunStatus, Sent, Timer, verdict};
use crate::scheduler::keys;
use crate::scheduler::planner::{LaneId, Note};
use crate::scheduler::store::{Op, Txn};
use std::collections::BTreeSet;

/// Packs of lanes in one transaction: etcd takes 128 operations, and a megabyte and a half.
const PACKS_MAX: usize = 8;

impl Coordinator {
    pub(super) fn take_notes(&mut self) {
        for note in self.planner.take_notes() {
            let run = match note {
                Note::LaneChanged(id) | Note::LaneEnded(id) => id.run,
                Note::RunEnded(run) => run,
            };
            let Some(run) = self.run_names.get(&run).and_then(|name| self.runs.get_mut(name))
            else {
                continue;
            };
            match note {
                Note::LaneChanged(id) | Note::LaneEnded(id) => {
                    run.dirty.insert(id.lane / keys::LANES_PER_KEY);
                }
                Note::RunEnded(_) => {
                    run.is_over = true;
                    // Nobody waits longer than he must for the end.
                    self.is_books_due = true;
                }
            }
        }
    }

    pub(super) fn maybe_write_books(&mut self, now: u64) {
        if !std::mem::take(&mut self.is_books_due) {
            return;
        }
        let next = (now + self.settings.checkpoint, Timer::Books);
        self.timers.retain(|(_, timer)| *timer != Timer::Books);
        self.timers.insert(next);
        let runs: Vec<String> = self.runs.keys().cloned().collect();
        for run in runs {
            self.write_run(now, &run);
        }
    }

    /// Writes what changed of a run. The last lanes go with its end, in one transaction.
    fn write_run(&mut self, now: u64, name: &str) {
        let Some(run) = self.runs.get_mut(name) else { return };
        if run.is_writing || run.dirty.is_empty() && !run.is_over {
            return;
        }
        let packs: BTreeSet<u32> = run.dirty.iter().copied().take(PACKS_MAX).collect();
        run.dirty.retain(|pack| !packs.contains(pack));
        let is_last = run.is_over && run.dirty.is_empty();
        run.is_behind = !run.dirty.is_empty();
        run.is_writing = true;
        let (number, lanes) = (run.number, run.lanes);
        let mut txn = Txn::default();
        for pack in &packs {
            let first = pack * keys::LANES_PER_KEY;
            let mut value = LanePack { folded: self.revision, ..Default::default() };
            for lane in first..lanes.min(first + keys::LANES_PER_KEY) {
                let known = self.planner.checkpoint(LaneId { run: number, lane });
                value.lanes.extend(known.map(|known| (lane, known)));
            }
            txn.then.push(Op::put(keys::lanes(name, first), &value));
        }
        let status = self.run_status(now, name, is_last);
        txn.then.push(Op::put(keys::status(name), &status));
        if is_last {
            txn.then.push(Op::Delete(keys::open(name)));
            self.send(Sent::Close { run: name.to_owned() }, txn);
        } else {
            self.send(Sent::Books { run: name.to_owned() }, txn);
        }
    }

    /// How far a run is.
    pub fn run_status(&self, now: u64, name: &str, is_last: bool) -> RunStatus {
        let Some(run) = self.runs.get(name) else { return RunStatus::default() };
        let totals = self.planner.totals(run.number).unwrap_or_default();
        let state = match run.control {
            _ if is_last => verdict(&totals, run.control),
            Control::Running => "running",
            Control::Paused => "paused",
            Control::Canceled => "canceling",
        };
        RunStatus {
            state: state.to_owned(),
            totals,
            started: run.started,
            ended: is_last.then_some(now),
            revision: self.revision,
        }
    }
}
