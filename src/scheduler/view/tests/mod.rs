//! Views of runs whose keys are made up here, so that what they show is known.

mod counts;
mod measures;
mod promises;
mod reasons;
mod stories;
mod tasks;

use super::{
    Filter, Loss, Numbers, Pace, Rule, RunBook, TaskView, audit,
    foreign::{LEASED, Names, foreign},
    idleness, is_undisturbed, line, measured, numbers, numbers_once, replay, state_of, story,
    waiting,
};
use crate::scheduler::coordinator::{Control, LanePack, RunStatus, TagHold, WorkerInfo};
use crate::scheduler::keys;
use crate::scheduler::model::{
    Claim, Definitions, Environment, Item, LaneCheckpoint, Ordinals, Row, RunSpec, Segment, Status,
    TestCase, Totals,
};
use crate::scheduler::record::{Block, Rolled};
use crate::scheduler::store::{Change, Commit, Kv};
use serde::Serialize;
use serde_json::json;

pub(super) const RUN: &str = "r1";

/// Keys of a store, each written once.
#[derive(Default)]
pub(super) struct Store {
    kvs: Vec<Kv>,
    revision: i64,
}

impl Store {
    fn put(&mut self, key: String, value: &impl Serialize) {
        self.revision += 1;
        let (create_revision, mod_revision) = (self.revision, self.revision);
        let value = serde_json::to_vec(value).unwrap();
        self.kvs.push(Kv { key, value, create_revision, mod_revision, lease: 0 });
    }

    /// A run of cases that need nothing from outside, submitted at 1 s.
    fn with_run(cases: serde_json::Value, repeats: u32) -> Self {
        Self::with_run_in(cases, repeats, &[])
    }

    pub(super) fn with_run_in(cases: serde_json::Value, repeats: u32, places: &[&str]) -> Self {
        let mut store = Self::default();
        let cases: Vec<TestCase> = serde_json::from_value(cases).unwrap();
        let selected: Vec<_> = cases.iter().map(|case| json!({"case": case.id})).collect();
        let spec = json!({"id": RUN, "cases": selected, "repeats": repeats, "submitted": 1_000, "environments": places});
        let spec: RunSpec = serde_json::from_value(spec).unwrap();
        let environments =
            places.iter().map(|id| Environment { id: (*id).into(), ..Default::default() });
        let environments = environments.collect();
        let total = cases.len() as u32;
        let definitions = Definitions { total, cases, environments, ..Default::default() };
        store.put(keys::definitions(RUN, 0), &definitions);
        store.put(keys::run(RUN), &spec);
        store.put(keys::open(RUN), &RUN);
        store
    }

    pub(super) fn results(&mut self, worker: &str, rows: &[Row]) {
        let name = format!("1-{}", self.revision);
        let segment = Segment { claim: self.revision, rows: rows.to_vec() };
        self.put(keys::segment(RUN, worker, &name, 0), &segment);
    }

    fn claim(&mut self, worker: &str, items: Vec<Item>, tags: &[&str]) {
        let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let claim = Claim { run: RUN.into(), items, tags, slots: 1, ..Default::default() };
        self.put(keys::claim(worker, 1, self.revision as u64), &claim);
    }

    fn worker(&mut self, name: &str, slots: u32) {
        self.worker_that_says(name, &WorkerInfo { max_task_num: slots, ..Default::default() });
    }

    fn worker_that_says(&mut self, name: &str, info: &impl Serialize) {
        self.put(keys::worker(name), info);
        self.kvs.iter_mut().filter(|kv| kv.key == keys::worker(name)).for_each(|kv| kv.lease = 7);
    }

    pub(super) fn ended(&mut self, state: &str) {
        self.ended_at(state, 9_000);
    }

    fn ended_at(&mut self, state: &str, ended: u64) {
        self.kvs.retain(|kv| kv.key != keys::open(RUN));
        let totals = self.book().totals();
        let status = RunStatus {
            state: state.into(),
            totals,
            started: 1_000,
            ended: Some(ended),
            revision: self.revision,
            ..Default::default()
        };
        self.put(keys::status(RUN), &status);
    }

    pub(super) fn book(&self) -> RunBook {
        RunBook::new(RUN, &self.kvs, self.revision).unwrap()
    }
}

pub(super) fn command(id: &str) -> serde_json::Value {
    json!({"id": id, "kind": "command", "command": ["true"]})
}

pub(super) fn row(lane: u32, ordinal: u32, attempt: u32, status: Status, at: u64, ms: u64) -> Row {
    let (start, duration) = (1_000 + at, ms * 1_000);
    Row { lane, ordinal, attempt, status, start, duration, detail: None }
}

pub(super) fn with(
    mut case: serde_json::Value,
    field: &str,
    value: serde_json::Value,
) -> serde_json::Value {
    case[field] = value;
    case
}
