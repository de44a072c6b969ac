//! What the leader writes down at times, so that the next one need not count everything again, and
//! so that people see how far runs are and how cases came out.
//!
//! All of it is made at one moment and then sent in order, one transaction after the other:
//! histories and latest results before the checkpoint of the lanes they belong to, and the end of a
//! run last. So whatever a checkpoint says is counted stands in the histories, whenever the leader
//! dies; what they say beyond it has their own revision beside it.

use super::runs::LanePack;
use super::{Control, Coordinator, Due, RunStatus, Sent, Timer, verdict};
use crate::scheduler::keys;
use crate::scheduler::planner::{LaneId, Note};
use crate::scheduler::record::{EndedRun, Latest, Past, Report};
use crate::scheduler::store::{Op, Txn};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// In one transaction: etcd takes 128 operations, and a megabyte and a half. The leader's own key
/// comes on top.
const OPS_MAX: usize = 100;
const BYTES_MAX: usize = 1024 * 1024;
/// Lanes in one batch of transactions: what it holds is in memory until it is written.
const LANES_MAX: usize = 20_000;

/// What is being written: transactions that are not sent yet, and what is to be written again if one
/// does not happen.
#[derive(Debug, Default)]
pub(super) struct Books {
    is_out: bool,
    waiting: VecDeque<Txn>,
    /// Packs with their lanes, by run.
    packs: Vec<(String, u32, BTreeSet<u32>)>,
    latest: Vec<(String, Latest)>,
    closing: Vec<String>,
}

/// Operations of a batch in groups: what is in one must happen together.
#[derive(Default)]
struct Groups {
    txns: VecDeque<Txn>,
    open: Txn,
    bytes: usize,
    /// Histories that are in the batch.
    written: BTreeSet<String>,
}

impl Groups {
    fn push(&mut self, group: Vec<Op>) {
        let bytes: usize = group.iter().map(Op::bytes).sum();
        let is_full =
            self.open.then.len() + group.len() > OPS_MAX || self.bytes + bytes > BYTES_MAX;
        if is_full && !self.open.then.is_empty() {
            self.txns.push_back(std::mem::take(&mut self.open));
            self.bytes = 0;
        }
        self.bytes += bytes;
        self.open.then.extend(group);
    }

    fn finish(mut self) -> VecDeque<Txn> {
        if !self.open.then.is_empty() {
            self.txns.push_back(self.open);
        }
        self.txns
    }
}

impl Coordinator {
    pub(super) fn take_notes(&mut self, now: u64) {
        for note in self.planner.take_notes() {
            let run = match note {
                Note::LaneChanged(id) | Note::LaneEnded(id) => id.run,
                Note::RunStopped(run) | Note::RunEnded(run) => run,
            };
            let Some(name) = self.run_names.get(&run) else { continue };
            let Some(run) = self.runs.get_mut(name) else { continue };
            match note {
                Note::LaneChanged(id) | Note::LaneEnded(id) => {
                    run.dirty.entry(id.lane / keys::LANES_PER_KEY).or_default();
                }
                Note::RunStopped(_) => {
                    let number = run.number;
                    self.recall_all(now, number);
                }
                Note::RunEnded(_) => {
                    run.is_over = true;
                    // Nobody waits longer than he must for the end.
                    self.due = self.due.max(Due::Ends);
                }
            }
        }
    }

    /// Writes what is due: at times all that has changed, and runs that are over at once.
    pub(super) fn maybe_write_books(&mut self, now: u64) {
        if self.due == Due::Nothing || self.books.is_out {
            return;
        }
        let due = std::mem::take(&mut self.due);
        if due == Due::All {
            let next = (now + self.settings.checkpoint, Timer::Books);
            self.timers.retain(|(_, timer)| *timer != Timer::Books);
            self.timers.insert(next);
            self.look_who_is_busy();
        }
        let mut groups = Groups::default();
        for name in self.runs.keys().cloned().collect::<Vec<_>>() {
            let is_meant = self.runs.get(&name).is_some_and(|run| {
                let is_behind = !run.dirty.is_empty() || run.shown != run.state();
                due == Due::All && is_behind || run.is_over && !run.is_closing
            });
            if is_meant && !self.write_run(now, &name, &mut groups) {
                // The rest comes when this is written.
                self.due = due;
                break;
            }
        }
        self.books.waiting = groups.finish();
        self.send_books();
    }

    /// Between two looks a run may have had nothing for an instant, as from one task to its successor: it
    /// is busy if anything was given out meanwhile.
    fn look_who_is_busy(&mut self) {
        let claims = self.claims.values().filter(|claim| claim.worker != keys::PEOPLE);
        let held: BTreeSet<&str> = claims.map(|claim| &*claim.run).collect();
        for (name, run) in &mut self.runs {
            let was_given = std::mem::take(&mut run.was_given);
            run.is_busy = was_given || held.contains(&**name);
        }
    }

    /// Adds what changed of a run to a batch; the end of a run comes after all its lanes. Whether
    /// there was room for all of it.
    fn write_run(&mut self, now: u64, name: &str, groups: &mut Groups) -> bool {
        let mut has_room = true;
        while let Some(run) = self.runs.get_mut(name) {
            let lanes: usize = self.books.packs.iter().map(|(.., lanes)| 1 + lanes.len()).sum();
            if lanes >= LANES_MAX {
                has_room = run.dirty.is_empty();
                break;
            }
            let Some((pack, dirty)) = run.dirty.pop_first() else { break };
            let (number, lanes) = (run.number, run.lanes);
            for lane in &dirty {
                self.write_history(LaneId { run: number, lane: *lane }, groups);
            }
            let first = pack * keys::LANES_PER_KEY;
            let mut value = LanePack { folded: self.revision, ..Default::default() };
            for lane in first..lanes.min(first + keys::LANES_PER_KEY) {
                let known = self.planner.checkpoint(LaneId { run: number, lane });
                value.lanes.extend(known.map(|known| (lane, known)));
            }
            groups.push(vec![Op::put(keys::lanes(name, first), &value)]);
            self.books.packs.push((name.to_owned(), pack, dirty));
        }
        let Some(run) = self.runs.get_mut(name) else { return true };
        let is_last = run.is_over && run.dirty.is_empty();
        run.is_closing = is_last;
        run.shown = run.state();
        let status = self.run_status(now, name, is_last);
        let mut group = vec![Op::put(keys::status(name), &status)];
        if is_last {
            let (end, efficiency) = self.end_of(name, &status);
            group.extend(end);
            self.note_end(name, &status, efficiency);
            self.books.closing.push(name.to_owned());
        }
        groups.push(group);
        has_room
    }

    /// The history of a lane's case and its latest result, each once in a batch.
    fn write_history(&mut self, id: LaneId, groups: &mut Groups) {
        let Some((case, environment)) = self.planner.names(id) else { return };
        let key = keys::stats(case, environment);
        let result_key = keys::result(case, environment);
        if !groups.written.insert(key.clone()) {
            return;
        }
        let Some(history) = self.histories.get_mut(&key) else { return };
        history.folded = self.revision;
        let mut group = vec![Op::put(key.clone(), history)];
        if let Some(latest) = self.latest.remove(&key) {
            group.push(Op::put(result_key, &latest));
            self.books.latest.push((key, latest));
        }
        groups.push(group);
    }

    /// What belongs to the end of a run: its report, its place among those that have ended, and that
    /// its segments are to be moved. With its efficiency.
    fn end_of(&self, name: &str, status: &RunStatus) -> (Vec<Op>, f64) {
        let Some(run) = self.runs.get(name) else { return Default::default() };
        let ended = status.ended.unwrap_or_default();
        let spec = &run.spec;
        let name_of = |lane: u32| {
            let names = self.planner.names(LaneId { run: run.number, lane });
            names.map_or(("", ""), |(case, environment)| (&**case, &**environment))
        };
        let bound = self.planner.bound(run.number, status.slots, |lane| run.tally.work_of(lane));
        let bound = bound.unwrap_or_default();
        let (span, bound) = ((status.started, ended), (bound.longest(), bound.cause()));
        let mut report = run.tally.report(&status.totals, span, bound, status.slots, name_of);
        for failure in &mut report.failures {
            let history = self.histories.get(&keys::stats(&failure.case, &failure.environment));
            if let Some(history) = history {
                failure.past = Past::of(name, &history.stats, ended);
            }
        }
        let report = Report {
            run: name.to_owned(),
            name: spec.name.clone(),
            state: status.state.clone(),
            revision: self.revision,
            ..report
        };
        let summary = EndedRun {
            run: name.to_owned(),
            name: spec.name.clone(),
            state: status.state.clone(),
            totals: status.totals.clone(),
            retries: Some(report.retries),
            efficiency: report.first_start.map(|_| report.times.efficiency),
            started: status.started,
            ended,
            queue: spec.queue.clone(),
            owner: spec.owner.clone(),
            rerun_of: spec.rerun_of.clone(),
        };
        let end = vec![
            Op::put(keys::report(name), &report),
            Op::put(keys::ended(ended, name), &summary),
            Op::put(keys::roll(name), &name),
            Op::Delete(keys::open(name)),
        ];
        (end, report.times.efficiency)
    }

    fn send_books(&mut self) {
        match self.books.waiting.pop_front() {
            Some(txn) => {
                self.books.is_out = true;
                self.send(Sent::Books, txn);
            }
            None => {
                let books = std::mem::take(&mut self.books);
                for name in books.closing {
                    self.closed(&name);
                }
            }
        }
    }

    /// A transaction of the batch has happened.
    pub(super) fn books_written(&mut self) {
        self.books.is_out = false;
        self.send_books();
    }

    /// It has not: all of the batch is written again, with the next.
    pub(super) fn books_refused(&mut self) {
        let books = std::mem::take(&mut self.books);
        for (name, pack, lanes) in books.packs {
            if let Some(run) = self.runs.get_mut(&name) {
                run.dirty.entry(pack).or_default().extend(lanes);
            }
        }
        for (key, latest) in books.latest {
            // A newer one may have come.
            self.latest.entry(key).or_insert(latest);
        }
        for run in self.runs.values_mut() {
            run.is_closing = false;
            run.shown = "";
        }
    }

    /// How far a run is.
    pub fn run_status(&self, now: u64, name: &str, is_last: bool) -> RunStatus {
        let Some(run) = self.runs.get(name) else { return RunStatus::default() };
        let totals = self.planner.totals(run.number).unwrap_or_default();
        let state = match is_last {
            true => verdict(&totals, self.planner.set_apart(run.number), run.control),
            false => run.state(),
        };
        let remaining = self.planner.remaining(run.number).filter(|_| !is_last);
        RunStatus {
            state: state.to_owned(),
            totals,
            retries: run.tally.retries(),
            started: run.spec.submitted,
            ended: is_last.then_some(now),
            remaining_ms: remaining.map(|us| us / 1_000),
            slots: run.slots,
            revision: self.revision,
        }
    }
}

impl super::Run {
    /// What it is called while it is open.
    fn state(&self) -> &'static str {
        match self.control {
            Control::Running if self.is_busy => "running",
            Control::Running => "waiting",
            Control::Paused => "paused",
            Control::Canceled => "canceling",
        }
    }
}

/// Lanes that have changed since they were written, by their pack.
pub(super) type Dirty = BTreeMap<u32, BTreeSet<u32>>;

#[cfg(test)]
mod tests {
    use super::super::{Request, Settings};
    use super::*;
    use crate::scheduler::model::{Definitions, TestCase};
    use crate::scheduler::store::{Change, Commit, Kv, Outcome};
    use serde_json::{Value, json};

    fn kv(key: String, value: &Value) -> Kv {
        let value = serde_json::to_vec(value).unwrap();
        Kv { key, value, create_revision: 1, mod_revision: 1, lease: 0 }
    }

    /// The status that is written of the run, with the number of its transaction.
    fn written(coordinator: &mut Coordinator, now: u64) -> Option<(u64, RunStatus)> {
        coordinator.tick(now);
        coordinator.work(now).into_iter().find_map(|request| {
            let Request::Try(number, txn) = request else { return None };
            txn.then.iter().find_map(|op| match op {
                Op::Put { key, value, .. } if *key == keys::status("r") => {
                    Some((number, serde_json::from_slice(value).unwrap()))
                }
                _ => None,
            })
        })
    }

    #[test]
    fn a_run_shows_how_far_it_is_before_its_first_result() {
        let case = json!({"id": "a", "kind": "command", "command": ["true"]});
        let cases: Vec<TestCase> = vec![serde_json::from_value(case).unwrap()];
        let definitions = Definitions { total: 1, cases, ..Default::default() };
        let spec = json!({"id": "r", "cases": [{"case": "a"}], "repeats": 3, "submitted": 900});
        let kvs = [
            kv(keys::definitions("r", 0), &serde_json::to_value(definitions).unwrap()),
            kv(keys::run("r"), &spec),
            kv(keys::open("r"), &json!("r")),
        ];
        let leader = (keys::leader(1), 7);
        let mut coordinator = Coordinator::load(1_000, Settings::default(), leader, &kvs, 7);
        assert_eq!(written(&mut coordinator, 1_000), None, "its first tasks go first");
        let (number, status) = written(&mut coordinator, 2_000).unwrap();
        // There is no worker.
        assert_eq!((status.state.as_str(), status.totals.total), ("waiting", 3));
        // What did not happen is tried again, what happened is not.
        coordinator.outcome(2_000, number, &refused_by_leader(8));
        let (number, _) = written(&mut coordinator, 3_000).unwrap();
        coordinator.outcome(3_000, number, &Outcome::Committed { revision: 9 });
        assert_eq!(written(&mut coordinator, 4_000), None);
        coordinator.control(4_000, "r", Control::Paused);
        let (number, status) = written(&mut coordinator, 5_000).unwrap();
        assert_eq!(status.state, "paused");
        coordinator.outcome(5_000, number, &Outcome::Committed { revision: 10 });
        coordinator.control(5_000, "r", Control::Running);
        // A worker comes and is given something.
        let worker = Kv { lease: 5, ..kv(keys::worker("w"), &json!({"max_task_num": 1})) };
        let commit = |revision, change| Commit { revision, changes: vec![change] };
        coordinator.commit(5_000, &commit(11, Change::Put(worker)));
        let given = coordinator.work(5_000).into_iter().find_map(|request| match request {
            Request::Try(number, txn) => {
                let is_claim =
                    |op: &&Op| matches!(op, Op::Put { key, .. } if key.starts_with(keys::CLAIMS));
                txn.then.iter().any(|op| is_claim(&op)).then_some(number)
            }
            _ => None,
        });
        let (number, status) = written(&mut coordinator, 6_000).unwrap();
        assert_eq!(status.state, "running");
        coordinator.outcome(6_000, number, &Outcome::Committed { revision: 12 });
        // It was not: another second goes by in which nothing is given out before that is believed.
        coordinator.commit(6_000, &commit(13, Change::Delete { key: keys::worker("w") }));
        coordinator.outcome(6_000, given.unwrap(), &refused_by_leader(13));
        assert_eq!(written(&mut coordinator, 6_500), None);
        let (_, status) = written(&mut coordinator, 7_000).unwrap();
        assert_eq!(status.state, "waiting");
    }

    /// What a transaction compared was otherwise, though the leader leads.
    fn refused_by_leader(revision: i64) -> Outcome {
        let leader = Kv { mod_revision: 7, ..kv(keys::leader(1), &json!("")) };
        Outcome::Refused { revision, found: vec![Some(leader)] }
    }
}
