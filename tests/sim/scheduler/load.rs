//! What test teams ask of the simulated scheduler: runs of all kinds, cancelled and paused at times.

use super::ledger::{Ledger, RunLedger};
use crate::random::Random;
use quoin::scheduler::coordinator::Control;
use quoin::scheduler::keys;
use quoin::scheduler::model::{
    Definitions, Environment, Health, Kind, Labels, Missing, OnLost, Outline, Policy, Predecessor,
    Repeats, Retries, RunPlan, RunSpec, Scope, Selected, Status, TagScope, TagUse, TestCase,
    expand,
};
use quoin::scheduler::store::{Op, Txn};
use std::collections::BTreeMap;

pub struct Load {
    random: Random,
    left: u64,
    count: u64,
    plans: BTreeMap<String, RunPlan>,
    paused: Vec<String>,
    failing: u64,
    tags: u64,
    /// Slots of each worker.
    capacity: u32,
    environments: BTreeMap<String, Environment>,
    manual: u64,
}

impl Load {
    pub fn new(seed: u64, capacity: u32) -> Self {
        let mut random = Random::new(seed, "load");
        let left = random.between(1, 6);
        let failing = random.skewed(0, 400);
        let tags = random.between(1, 4);
        let mut environments = BTreeMap::new();
        for n in 0..random.below(3) {
            let id = format!("e{n}");
            let capacity = random.chance(500).then(|| 1 + random.below(3) as u32);
            environments.insert(id.clone(), Environment { id, capacity, ..Default::default() });
        }
        let manual = [0, 0, 100][random.below(3) as usize];
        Self {
            random,
            left,
            count: 0,
            plans: BTreeMap::new(),
            paused: Vec::new(),
            failing,
            tags,
            capacity,
            environments,
            manual,
        }
    }

    /// What is there from the begin.
    pub fn begin(&self, ledger: &mut Ledger) -> Vec<Txn> {
        let places = self.environments.values();
        for place in places.clone() {
            ledger.capacities.extend(place.capacity.map(|capacity| (place.id.clone(), capacity)));
        }
        places.map(put_environment).collect()
    }

    /// How many slots a task takes.
    pub fn slots(&self, run: &str, lane: u32) -> u32 {
        self.plans[run].lanes[lane as usize].slots
    }

    /// A person's verdict.
    pub fn verdict(&mut self) -> Status {
        if self.random.chance(self.failing) { Status::Failed } else { Status::Passed }
    }

    /// Somebody closes an environment or a queue, or opens it again.
    fn close_something(&mut self, is_stormy: bool) -> Option<Txn> {
        if !is_stormy || self.random.chance(400) {
            let paused = is_stormy && self.random.chance(500);
            let value = serde_json::json!({"weight": 2, "paused": paused});
            return Some(put(keys::queue("other"), &value));
        }
        let place = self.random.below(self.environments.len().max(1) as u64) as usize;
        let place = self.environments.values_mut().nth(place)?;
        place.health = *self.random.pick(&[Health::Good, Health::Bad, Health::Maintenance]);
        Some(put_environment(place))
    }

    /// The first worker can run everything.
    pub fn labels(&self, worker: usize) -> Labels {
        match worker {
            0 => BTreeMap::from([("os".into(), "linux".into())]),
            _ => Labels::new(),
        }
    }

    pub fn is_done(&self) -> bool {
        self.left == 0 && self.paused.is_empty()
    }

    /// How long a task takes, and how it ends.
    pub fn draw(&mut self, run: &str, lane: u32) -> (u64, Status) {
        let plan = &self.plans[run].lanes[lane as usize];
        let estimate = plan.estimate.unwrap_or(500_000) / 1_000;
        let duration = self.random.between(1, 2 * estimate.max(1));
        let status = match self.random.chance(self.failing) {
            true => *self.random.pick(&[Status::Failed, Status::Error, Status::TimedOut]),
            false => Status::Passed,
        };
        (duration, status)
    }

    /// What clients write now.
    pub fn next(&mut self, now: u64, is_stormy: bool, ledger: &mut Ledger) -> Vec<Txn> {
        if !is_stormy {
            let resumed = std::mem::take(&mut self.paused);
            let resume = |run: String| control(&run, Control::Running);
            self.left = 0;
            let mut txns: Vec<Txn> = resumed.into_iter().map(resume).collect();
            txns.extend(self.close_something(false));
            for place in self.environments.values_mut() {
                place.health = Health::Good;
                txns.push(put_environment(place));
            }
            return txns;
        }
        if self.random.chance(100)
            && let Some(txn) = self.close_something(true)
        {
            return vec![txn];
        }
        if self.left > 0 {
            self.left -= 1;
            return self.submit(now, ledger);
        }
        let Some(run) = self.plans.keys().nth(self.random.below(self.plans.len() as u64) as usize)
        else {
            return Vec::new();
        };
        let run = run.clone();
        let is_gone =
            ledger.runs.get(&run).is_some_and(|run| run.is_closed || run.canceled.is_some());
        if is_gone || self.random.chance(700) {
            return Vec::new();
        }
        let wanted = match self.paused.iter().position(|paused| *paused == run) {
            Some(place) => {
                self.paused.remove(place);
                Control::Running
            }
            None if self.random.chance(500) => Control::Canceled,
            None => {
                self.paused.push(run.clone());
                Control::Paused
            }
        };
        vec![control(&run, wanted)]
    }

    fn submit(&mut self, now: u64, ledger: &mut Ledger) -> Vec<Txn> {
        self.count += 1;
        let id = format!("r{}", self.count);
        let cases = self.cases();
        let mut spec = RunSpec {
            id: id.clone(),
            repeats: self.random.skewed(1, 30) as u32,
            queue: ["default", "other"][self.random.below(2) as usize].into(),
            priority: self.random.below(3) as i32,
            failures_max: self.random.chance(50).then_some(2),
            submitted: now,
            environments: match self.random.chance(500) {
                true => self.environments.keys().cloned().collect(),
                false => Vec::new(),
            },
            ..Default::default()
        };
        // As when some of a run are run again.
        if !spec.environments.is_empty() && self.random.chance(300) {
            spec.missing = Missing::Ignore;
            spec.rerun_of = Some("r0".into());
        }
        for case in &cases {
            let repeats = self.repeats(&spec);
            spec.cases.push(Selected { case: case.id.clone(), repeats });
        }
        let outlines: BTreeMap<&str, Outline> =
            cases.iter().map(|case| (&*case.id, Outline::from(case))).collect();
        let plan = expand(&spec, |id| outlines.get(id), &self.environments).unwrap();
        ledger.runs.insert(id.clone(), RunLedger { plan: plan.clone(), ..Default::default() });
        self.plans.insert(id.clone(), plan);
        let total = cases.len() as u32;
        let environments = self.environments.values().cloned().collect();
        let mut definitions = Definitions { total, cases, environments, ..Default::default() };
        // As in long ones, whose cases are not named in the run itself.
        let mut kept = spec;
        if self.random.chance(300) {
            let selected = std::mem::take(&mut kept.cases).into_iter();
            let repeats = selected.map(|one| one.repeats.unwrap_or(kept.repeats.into()));
            definitions.repeats = repeats.collect();
        }
        let spec = kept;
        let definitions = Op::put(keys::definitions(&id, 0), &definitions);
        let run = [Op::put(keys::run(&id), &spec), Op::put(keys::open(&id), &id)];
        let txn = |then: Vec<Op>| Txn { then, ..Default::default() };
        // Small ones come whole, others after their definitions.
        match self.random.chance(500) {
            true => vec![txn([definitions].into_iter().chain(run).collect())],
            false => vec![txn(vec![definitions]), txn(run.to_vec())],
        }
    }

    /// Of a case in a run, where it has its own.
    fn repeats(&mut self, spec: &RunSpec) -> Option<Repeats> {
        spec.rerun_of.as_ref()?;
        let mut each = BTreeMap::new();
        for environment in &spec.environments {
            if self.random.chance(700) {
                each.insert(environment.clone(), self.random.skewed(1, 10) as u32);
            }
        }
        (!each.is_empty()).then(|| Repeats::Each(Box::new(each)))
    }

    fn cases(&mut self) -> Vec<TestCase> {
        let random = &mut self.random;
        let mut cases = Vec::new();
        for n in 0..random.between(1, 8) {
            let mut case = TestCase {
                id: format!("c{n}"),
                url: "http://127.0.0.1/".into(),
                slots: 1,
                timeout_ms: 60_000,
                est_ms: Some(random.skewed(1, 3_000)),
                retries: Retries {
                    test: random.below(3) as u32,
                    infra: random.below(3) as u32,
                    backoff_ms: random.below(2_000),
                },
                ..Default::default()
            };
            if random.chance(self.manual) {
                case.kind = Kind::Manual;
                case.name = "look at it".into();
            } else if self.capacity > 1 && random.chance(150) {
                case.slots = 2;
            }
            if random.chance(400) {
                case.mutual_tag.push(TagUse {
                    tag: format!("t{}", random.below(self.tags)),
                    scope: if random.chance(200) { TagScope::Run } else { TagScope::Global },
                    chain: random.chance(400),
                });
            }
            if random.chance(100) {
                case.mutual_tag.push("u".into());
            }
            if random.chance(150) {
                case.requires.insert("os".into(), "linux".into());
            }
            if random.chance(100) {
                case.on_lost = OnLost::Never;
            }
            if n > 0 && random.chance(500) {
                let scope = if random.chance(400) { Scope::Repeat } else { Scope::Run };
                let policy = match random.below(3) {
                    0 => Policy::Passed,
                    1 if scope == Scope::Run => Policy::Ratio(0.5),
                    _ => Policy::Ended,
                };
                let before = format!("c{}", random.below(n));
                case.case_pre.push(Predecessor { case: before, scope, policy, soft: false });
            }
            cases.push(case);
        }
        cases
    }
}

fn put(key: String, value: &impl serde::Serialize) -> Txn {
    Txn { then: vec![Op::put(key, value)], ..Default::default() }
}

fn put_environment(place: &Environment) -> Txn {
    put(keys::environment(&place.id), place)
}

pub fn control(run: &str, wanted: Control) -> Txn {
    Txn { then: vec![Op::put(keys::control(run), &wanted)], ..Default::default() }
}
