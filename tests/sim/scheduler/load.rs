//! What test teams ask of the simulated scheduler: runs of all kinds, cancelled and paused at times.

use super::ledger::{Ledger, RunLedger};
use crate::random::Random;
use quoin::scheduler::coordinator::{Control, Definitions};
use quoin::scheduler::keys;
use quoin::scheduler::model::{
    Labels, OnLost, Policy, Predecessor, Retries, RunPlan, RunSpec, Scope, Selected, Status,
    TagScope, TagUse, TestCase, expand,
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
}

impl Load {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, "load");
        let left = random.between(1, 6);
        let failing = random.skewed(0, 400);
        let tags = random.between(1, 4);
        Self { random, left, count: 0, plans: BTreeMap::new(), paused: Vec::new(), failing, tags }
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
            return resumed.into_iter().map(resume).collect();
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
        let is_gone = ledger.runs.get(&run).is_some_and(|run| run.is_closed || run.is_canceled);
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
        let spec = RunSpec {
            id: id.clone(),
            cases: cases
                .iter()
                .map(|case| Selected { case: case.id.clone(), repeats: None })
                .collect(),
            repeats: self.random.skewed(1, 30) as u32,
            queue: ["default", "other"][self.random.below(2) as usize].into(),
            priority: self.random.below(3) as i32,
            failures_max: self.random.chance(50).then_some(2),
            submitted: now,
            ..Default::default()
        };
        let by_id: BTreeMap<String, TestCase> =
            cases.iter().map(|case| (case.id.clone(), case.clone())).collect();
        let plan = expand(&spec, &by_id, &BTreeMap::new()).unwrap();
        ledger.runs.insert(id.clone(), RunLedger { plan: plan.clone(), ..Default::default() });
        self.plans.insert(id.clone(), plan);
        let total = cases.len() as u32;
        let definitions = Definitions { total, first: 0, cases, environments: Vec::new() };
        let definitions = Op::put(keys::definitions(&id, 0), &definitions);
        vec![
            Txn { then: vec![definitions], ..Default::default() },
            Txn {
                then: vec![Op::put(keys::run(&id), &spec), Op::put(keys::open(&id), &id)],
                ..Default::default()
            },
        ]
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

fn control(run: &str, wanted: Control) -> Txn {
    Txn { then: vec![Op::put(keys::control(run), &wanted)], ..Default::default() }
}
