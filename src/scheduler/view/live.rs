//! A run as it goes on, commit by commit: for whoever watches it.

use super::book::{RunBook, explain, parse};
use crate::scheduler::coordinator::RunStatus;
use crate::scheduler::keys;
use crate::scheduler::model::{Claim, Row, RunPlan, Segment, Status, Totals};
use crate::scheduler::planner::{LaneId, Planner, RunNo, RunSetup, Verdict};
use crate::scheduler::record::Running;
use crate::scheduler::store::{Change, Commit, Kv};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The end of an attempt, for people.
#[derive(Clone, Debug)]
pub struct End {
    pub case: Arc<str>,
    pub environment: Arc<str>,
    pub row: Row,
    pub worker: Arc<str>,
    /// How the task ended with it; none when it is tried again.
    pub ended: Option<Status>,
    /// It passed after a failed attempt.
    pub is_flaky: bool,
    /// Its case is muted: no run fails by it.
    pub is_muted: bool,
}

/// A task that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runs {
    pub case: Arc<str>,
    pub environment: Arc<str>,
    pub ordinal: u32,
    pub worker: String,
    /// Since when it is known to, in milliseconds since 1970.
    pub since: u64,
}

/// What a worker was given, and when that was seen.
#[derive(Debug)]
struct Given {
    worker: String,
    claim: Claim,
    since: u64,
}

#[derive(Debug)]
pub struct Live {
    run: String,
    submitted: u64,
    plan: RunPlan,
    planner: Planner,
    number: RunNo,
    flaky: u64,
    given: BTreeMap<String, Given>,
    /// By worker: what it says that it runs.
    beats: BTreeMap<String, Vec<Running>>,
    status: RunStatus,
    ends: Vec<End>,
}

impl Live {
    /// From what was read at one revision; commits follow from the next one on.
    pub fn new(book: &RunBook, now: u64) -> Self {
        let mut planner = Planner::new();
        let setup = RunSetup { plan: book.plan.clone(), ..Default::default() };
        let number = planner.add_run(0, setup);
        let mut live = Self {
            run: book.spec.id.clone(),
            submitted: book.spec.submitted,
            plan: book.plan.clone(),
            planner,
            number,
            flaky: 0,
            given: BTreeMap::new(),
            beats: BTreeMap::new(),
            status: book.status.clone(),
            ends: Vec::new(),
        };
        for attempt in &book.attempts {
            live.row(attempt.row.clone(), &attempt.worker);
        }
        for open in &book.open {
            let items = open.items.clone();
            let claim = Claim { run: live.run.clone(), items, ..Default::default() };
            let given = Given { worker: open.worker.to_string(), claim, since: now };
            live.given.insert(open.claim.clone(), given);
        }
        live
    }

    /// One more commit.
    pub fn commit(&mut self, commit: &Commit, now: u64) {
        for change in &commit.changes {
            match change {
                Change::Put(kv) => self.put(kv, now),
                Change::Delete { key } => {
                    self.given.remove(key);
                    if let Some(worker) = key.strip_prefix(keys::BEATS) {
                        self.beats.remove(worker);
                    }
                }
            }
        }
    }

    fn put(&mut self, kv: &Kv, now: u64) {
        if kv.key.starts_with(keys::CLAIMS) {
            let worker = keys::parse_claim(&kv.key).map(|(worker, _)| worker.to_owned());
            let claim = parse::<Claim>(kv).filter(|claim| claim.run == self.run);
            if let (Some(worker), Some(claim)) = (worker, claim) {
                let since = self.given.get(&kv.key).map_or(now, |given| given.since);
                self.given.insert(kv.key.clone(), Given { worker, claim, since });
            }
        } else if let Some((run, worker, _)) = keys::parse_segment(&kv.key) {
            if run == self.run {
                let worker: Arc<str> = worker.into();
                for row in parse::<Segment>(kv).unwrap_or_default().rows {
                    self.row(row, &worker);
                }
            }
        } else if kv.key == keys::status(&self.run) {
            self.status = parse(kv).unwrap_or_default();
        } else if let Some(worker) = kv.key.strip_prefix(keys::BEATS) {
            self.beats.insert(worker.to_owned(), beat(kv));
        }
    }

    fn row(&mut self, mut row: Row, worker: &Arc<str>) {
        explain(&mut row, worker, None);
        let verdict = self.planner.restore_row(self.number, &row, worker);
        let Some(plan) = self.plan.lanes.get(row.lane as usize) else { return };
        let ended = match verdict {
            Verdict::Ended(status, _) | Verdict::GivenUp(status) => Some(status),
            Verdict::Again(_) => None,
            Verdict::Refused => return,
        };
        let flaky = match ended {
            Some(Status::Passed) => self.planner.totals(self.number).map_or(0, |all| all.flaky),
            _ => self.flaky,
        };
        let is_flaky = flaky > self.flaky;
        self.flaky = flaky;
        let (case, environment) = (plan.case.clone(), plan.environment.clone());
        let (is_muted, worker) = (plan.is_muted, worker.clone());
        self.ends.push(End { case, environment, row, worker, ended, is_flaky, is_muted });
    }

    /// All ends of attempts since it was last asked, in order.
    pub fn take_ends(&mut self) -> Vec<End> {
        std::mem::take(&mut self.ends)
    }

    /// When the run was submitted, in milliseconds since 1970.
    pub fn submitted(&self) -> u64 {
        self.submitted
    }

    /// As the leader wrote it last.
    pub fn status(&self) -> &RunStatus {
        &self.status
    }

    /// How tasks have ended so far: the newer of what is counted here and what the leader counted, who
    /// knows also what was skipped.
    pub fn totals(&self) -> Totals {
        let own = self.planner.totals(self.number).unwrap_or_default();
        if self.status.totals.ended() > own.ended() { self.status.totals.clone() } else { own }
    }

    /// Whether all tasks that have ended ended by an attempt that was shown as their last.
    pub fn has_all(&self) -> bool {
        let own = self.planner.totals(self.number).unwrap_or_default();
        own.ended() >= self.status.totals.ended()
    }

    /// How many tasks workers have.
    pub fn given(&self) -> u64 {
        let items = self.given.values().flat_map(|given| &given.claim.items);
        items.map(|item| u64::from(item.count())).sum()
    }

    /// What has run for longest, the first first. Where a worker does not say what it runs, the first
    /// tasks of what it was given are taken to run.
    pub fn longest(&self, max: usize) -> Vec<Runs> {
        let lane = |lane: u32| self.plan.lanes.get(lane as usize);
        let mut found: Vec<Runs> = Vec::new();
        // What a worker says may be a second old.
        let is_over = |lane: u32, ordinal: u32, attempt: u32| {
            let id = LaneId { run: self.number, lane };
            self.planner.has_ended(id, ordinal) || self.planner.next_attempt(id, ordinal) > attempt
        };
        for (worker, running) in &self.beats {
            for (run, number, ordinal, attempt, since) in running {
                let plan = lane(*number).filter(|_| *run == self.run);
                if let Some(plan) = plan.filter(|_| !is_over(*number, *ordinal, *attempt)) {
                    let (case, environment) = (plan.case.clone(), plan.environment.clone());
                    let (ordinal, worker, since) = (*ordinal, worker.clone(), *since);
                    found.push(Runs { case, environment, ordinal, worker, since });
                }
            }
        }
        let is_silent = |given: &&Given| {
            given.worker != keys::PEOPLE && !self.beats.contains_key(&given.worker)
        };
        for given in self.given.values().filter(is_silent) {
            let Some(item) = given.claim.items.first() else { continue };
            let Some(plan) = lane(item.lane) else { continue };
            let (case, environment) = (plan.case.clone(), plan.environment.clone());
            let (ordinal, worker, since) = (item.from, given.worker.clone(), given.since);
            found.push(Runs { case, environment, ordinal, worker, since });
        }
        found.sort_by_key(|runs| runs.since);
        found.truncate(max);
        found
    }
}

impl RunBook {
    /// Last attempts of tasks that would have been tried again if the run had not been stopped.
    pub fn given_up(&self) -> Vec<End> {
        let ends = self.attempts.iter().filter_map(|attempt| {
            let Verdict::GivenUp(status) = attempt.verdict else { return None };
            let plan = self.plan.lanes.get(attempt.row.lane as usize)?;
            Some(End {
                case: plan.case.clone(),
                environment: plan.environment.clone(),
                row: attempt.row.clone(),
                worker: attempt.worker.clone(),
                ended: Some(status),
                is_flaky: false,
                is_muted: plan.is_muted,
            })
        });
        ends.collect()
    }
}

/// What a worker says that it runs: a list, alone or as `running`.
pub(super) fn beat(kv: &Kv) -> Vec<Running> {
    let value: Value = parse(kv).unwrap_or_default();
    let list = if value.is_array() { value } else { value["running"].clone() };
    serde_json::from_value(list).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::model::{Definitions, TestCase};
    use serde_json::json;

    fn put(key: String, value: &Value) -> Commit {
        let value = serde_json::to_vec(value).unwrap();
        let kv = Kv { key, value, create_revision: 9, mod_revision: 9, lease: 0 };
        Commit { revision: 9, changes: vec![Change::Put(kv)] }
    }

    #[test]
    fn what_has_ended_since_the_last_beat_runs_no_more() {
        let case = json!({
            "id": "a", "kind": "command", "command": ["true"], "retries": {"test": 1, "backoff_ms": 0},
        });
        let kv = |key: String, value: Value| Kv {
            key,
            value: serde_json::to_vec(&value).unwrap(),
            create_revision: 1,
            mod_revision: 1,
            lease: 0,
        };
        let cases: Vec<TestCase> = vec![serde_json::from_value(case).unwrap()];
        let definitions = Definitions { total: 1, cases, ..Default::default() };
        let spec = json!({"id": "r", "cases": [{"case": "a"}], "repeats": 4, "submitted": 1_000});
        let kvs = [
            kv(keys::definitions("r", 0), serde_json::to_value(definitions).unwrap()),
            kv(keys::run("r"), spec),
            kv(keys::open("r"), json!("r")),
        ];
        let book = RunBook::new("r", &kvs, 1).unwrap();
        let mut live = Live::new(&book, 2_000);
        assert_eq!(live.submitted(), 1_000);
        let running = |live: &Live| -> Vec<u32> {
            live.longest(9).into_iter().map(|runs| runs.ordinal).collect()
        };
        let beat = json!([["r", 0, 0, 1, 1_500], ["r", 0, 1, 1, 1_600], ["r", 0, 2, 1, 1_700]]);
        live.commit(&put(keys::beat("w"), &beat), 2_000);
        assert_eq!(running(&live), [0, 1, 2]);
        // One passed, and one is tried again.
        let rows = json!([[0, 0, 1, "02", 1_500, 9], [0, 1, 1, "03", 1_600, 9]]);
        live.commit(&put(keys::segment("r", "w", "1-1", 0), &json!({"rows": rows})), 2_100);
        assert_eq!(running(&live), [2]);
        live.commit(&put(keys::beat("w"), &json!([["r", 0, 1, 2, 2_200]])), 2_300);
        assert_eq!(running(&live), [1]);
    }
}
