//! Plays runs through the planner with workers of paper: tasks take the time they are said to, and
//! every rule is checked at every start and end.

use super::lane::Verdict;
use super::{ClaimNo, LaneId, LockName, Note, Planner, RunNo, RunSetup, Tags, Why, WorkerNo};
use crate::scheduler::model::{
    Item, Labels, LanePlan, PlannedPredecessor, Policy, Row, RunPlan, Scope, Status,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Numbers without a pattern, the same for the same seed (SplitMix64).
pub(super) struct Random(pub u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Between 0 and 1.
    pub(super) fn part(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A task at a worker.
#[derive(Clone, Copy, Debug)]
struct Held {
    claim: ClaimNo,
    task: (LaneId, u32),
    attempt: u32,
    slots: u32,
}

struct PaperWorker {
    capacity: u32,
    busy: u32,
    labels: Labels,
    waiting: VecDeque<Held>,
}

struct OutClaim {
    worker: WorkerNo,
    run: RunNo,
    left: Vec<(u32, u32, u32)>,
    tags: Vec<(Arc<str>, u32)>,
    rows: Vec<Row>,
    urgent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    End { worker: WorkerNo, claim: ClaimNo, lane: LaneId, ordinal: u32, attempt: u32 },
    Kill(WorkerNo),
    Rest(WorkerNo),
    Wake(WorkerNo),
    Release(u32),
    Set(u32),
}

/// What somebody sets while runs go on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Setting {
    Capacity(u32),
    Closed(bool),
}

pub(super) struct Play {
    pub planner: Planner,
    pub random: Random,
    /// In microseconds.
    pub now: u64,
    events: BTreeSet<(u64, u64, Event)>,
    count: u64,
    workers: BTreeMap<WorkerNo, PaperWorker>,
    resting: BTreeSet<WorkerNo>,
    claims: BTreeMap<ClaimNo, OutClaim>,
    plans: BTreeMap<RunNo, Vec<LanePlan>>,
    /// How each task ended, and when.
    ended: BTreeMap<(LaneId, u32), (Status, u64)>,
    running: BTreeMap<(LaneId, u32), WorkerNo>,
    tags: BTreeMap<(Arc<str>, u32), ClaimNo>,
    draining: Vec<(Arc<str>, u32)>,
    settings: Vec<(LockName, Setting)>,
    pub over: BTreeSet<RunNo>,
    pub durations: Box<dyn Fn(&mut Random, &LanePlan, u32) -> u64>,
    /// Of each hundred attempts, how many fail.
    pub failing: u64,
    /// In percent, how often results of a claim come in pieces.
    pub in_pieces: u64,
    pub work: u64,
    pub started: u64,
}

impl Play {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            planner: Planner::new(),
            random: Random(seed),
            now: 0,
            events: BTreeSet::new(),
            count: 0,
            workers: BTreeMap::new(),
            resting: BTreeSet::new(),
            claims: BTreeMap::new(),
            plans: BTreeMap::new(),
            ended: BTreeMap::new(),
            running: BTreeMap::new(),
            tags: BTreeMap::new(),
            draining: Vec::new(),
            settings: Vec::new(),
            over: BTreeSet::new(),
            durations: Box::new(|_, plan, _| plan.estimate.unwrap_or(1_000_000)),
            failing: 0,
            in_pieces: 0,
            work: 0,
            started: 0,
        }
    }

    pub(super) fn join(&mut self, capacity: u32, labels: &Labels) -> WorkerNo {
        let name = format!("w{}", self.workers.len());
        let number = self.planner.worker_joins(name.into(), labels, capacity, 64);
        let worker =
            PaperWorker { capacity, busy: 0, labels: labels.clone(), waiting: VecDeque::new() };
        self.workers.insert(number, worker);
        number
    }

    pub(super) fn kill_at(&mut self, at: u64, worker: WorkerNo) {
        self.at(at, Event::Kill(worker));
    }

    pub(super) fn rest_at(&mut self, at: u64, until: u64, worker: WorkerNo) {
        self.at(at, Event::Rest(worker));
        self.at(until, Event::Wake(worker));
    }

    pub(super) fn set_at(&mut self, at: u64, name: &LockName, setting: Setting) {
        self.settings.push((name.clone(), setting));
        self.at(at, Event::Set(self.settings.len() as u32 - 1));
    }

    fn at(&mut self, at: u64, event: Event) {
        self.count += 1;
        self.events.insert((at, self.count, event));
    }

    pub(super) fn submit(&mut self, setup: RunSetup) -> RunNo {
        let plans = setup.plan.lanes.clone();
        let now = self.now / 1_000;
        let run = self.planner.add_run(now, setup);
        self.plans.insert(run, plans);
        self.planner.start_run(now, run);
        self.notes();
        run
    }

    fn plan(&self, id: LaneId) -> &LanePlan {
        &self.plans[&id.run][id.lane as usize]
    }

    /// Until nothing more happens; when the last task ended, in microseconds.
    pub(super) fn finish(&mut self) -> u64 {
        self.give();
        loop {
            let timer = self.planner.next_timer().map(|at| at * 1_000);
            let event = self.events.first().map(|(at, ..)| *at);
            // Rest and ageing alone do not keep a play going when all is over.
            if event.is_none() && self.over.len() == self.plans.len() {
                return self.now;
            }
            match (event, timer) {
                (Some(event), Some(timer)) if timer <= event => self.tick(timer),
                (None, Some(timer)) => self.tick(timer),
                (Some(_), _) => self.happen(),
                (None, None) => {
                    panic!(
                        "nothing happens any more: {} of {:?}",
                        self.over.len(),
                        self.plans.len()
                    )
                }
            }
            self.notes();
            self.give();
            self.check_conserving();
        }
    }

    fn tick(&mut self, at: u64) {
        self.now = self.now.max(at);
        self.planner.advance(self.now / 1_000);
    }

    fn notes(&mut self) {
        for note in self.planner.take_notes() {
            if let Note::RunEnded(run) = note {
                assert!(self.over.insert(run), "run {run} ended twice");
            }
        }
    }

    fn give(&mut self) {
        for made in self.planner.decide(self.now / 1_000) {
            for (tag, unit) in &made.tags {
                let twice = self.tags.insert((tag.clone(), *unit), made.claim);
                assert_eq!(twice, None, "{tag} was given twice");
            }
            assert!(!self.resting.contains(&made.worker), "{made:?}: it rests");
            let mut left = Vec::new();
            for Item { lane, from, to, attempt } in made.items {
                let slots = self.plan(LaneId { run: made.run, lane }).slots;
                for ordinal in from..to {
                    left.push((lane, ordinal, attempt));
                    let task = (LaneId { run: made.run, lane }, ordinal);
                    assert!(!self.ended.contains_key(&task), "{task:?} had ended");
                    let held = Held { claim: made.claim, task, attempt, slots };
                    self.workers.get_mut(&made.worker).unwrap().waiting.push_back(held);
                }
            }
            let claim = OutClaim {
                worker: made.worker,
                run: made.run,
                left,
                tags: made.tags,
                rows: Vec::new(),
                urgent: made.urgent,
            };
            self.claims.insert(made.claim, claim);
            self.start(made.worker);
        }
    }

    fn start(&mut self, number: WorkerNo) {
        while let Some(worker) = self.workers.get_mut(&number)
            && let Some(held) = worker.waiting.front().copied()
            && worker.busy + held.slots <= worker.capacity
        {
            worker.waiting.pop_front();
            worker.busy += held.slots;
            self.check_start(number, held);
            let (id, ordinal) = held.task;
            let plan = self.plans[&id.run][id.lane as usize].clone();
            let duration = (self.durations)(&mut self.random, &plan, ordinal);
            self.work += duration * u64::from(held.slots);
            self.started += 1;
            let twice = self.running.insert(held.task, number);
            assert_eq!(twice, None, "{:?} runs twice", held.task);
            let end = Event::End {
                worker: number,
                claim: held.claim,
                lane: id,
                ordinal,
                attempt: held.attempt,
            };
            self.at(self.now + duration, end);
        }
    }

    /// That a task may start: all it waits for has ended as it should, and the worker is fit for it.
    fn check_start(&self, number: WorkerNo, held: Held) {
        let (id, ordinal) = held.task;
        let plan = self.plan(id);
        for before in &plan.predecessors {
            let other = LaneId { run: id.run, lane: before.lane };
            let total = self.plan(other).total;
            let ordinals = match before.scope {
                Scope::Repeat => ordinal..ordinal + 1,
                Scope::Run | Scope::Global => 0..total,
            };
            let ended: Vec<Status> = ordinals
                .clone()
                .map(|ordinal| {
                    let ended = self.ended.get(&(other, ordinal)).map(|(status, _)| *status);
                    let skipped = self.planner.has_ended(other, ordinal);
                    ended.or_else(|| skipped.then_some(Status::Skipped))
                })
                .map(|status| status.unwrap_or_else(|| panic!("{id:?} started before {other:?}")))
                .collect();
            let passed = ended.iter().filter(|status| **status == Status::Passed).count();
            match before.policy {
                Policy::Ended => {}
                Policy::Passed => assert_eq!(passed, ended.len(), "{id:?} after {other:?}"),
                Policy::Ratio(ratio) => assert!(passed as f64 >= ratio * ended.len() as f64),
            }
        }
        for case in &plan.global_predecessors {
            for (run, plans) in &self.plans {
                for (plan, lane) in plans.iter().zip(0..).filter(|(plan, _)| plan.case == *case) {
                    let other = LaneId { run: *run, lane };
                    let has_ended = |ordinal| self.planner.has_ended(other, ordinal);
                    // A run that was submitted after this task was given out does not hold it up.
                    let is_later = *run > id.run;
                    assert!(is_later || (0..plan.total).all(has_ended), "{id:?} beside {other:?}");
                }
            }
        }
        let worker = &self.workers[&number];
        for (name, value) in plan.requires.iter() {
            assert_eq!(worker.labels.get(name), Some(value), "{id:?} at a worker without {name}");
        }
        let tags = self.claims[&held.claim].tags.iter().map(|(tag, _)| tag);
        assert!(tags.eq(plan.tags.iter()), "{id:?} without its tags");
    }

    fn happen(&mut self) {
        let (at, _, event) = self.events.pop_first().unwrap();
        self.now = at;
        match event {
            Event::End { worker, claim, lane, ordinal, attempt } => {
                if !self.workers.contains_key(&worker) {
                    return;
                }
                self.end(worker, claim, lane, ordinal, attempt);
            }
            Event::Kill(worker) => self.kill(worker),
            Event::Rest(worker) => {
                self.resting.insert(worker);
                self.planner.worker_rests(worker);
            }
            Event::Wake(worker) => {
                self.resting.remove(&worker);
                self.planner.worker_wakes(worker);
            }
            Event::Release(place) => {
                let (tag, unit) = self.draining[place as usize].clone();
                self.tags.remove(&(tag.clone(), unit));
                self.planner.release_tag(&tag, unit);
            }
            Event::Set(place) => match self.settings[place as usize].clone() {
                (name, Setting::Capacity(capacity)) => self.limit(&name, capacity),
                (name, Setting::Closed(closed)) => {
                    self.planner.set_closed(&name, closed.then(|| "for a while".into()));
                }
            },
        }
    }

    fn end(&mut self, number: WorkerNo, claim: ClaimNo, id: LaneId, ordinal: u32, attempt: u32) {
        let slots = self.plan(id).slots;
        self.running.remove(&(id, ordinal)).unwrap();
        let worker = self.workers.get_mut(&number).unwrap();
        worker.busy -= slots;
        self.start(number);
        let status = match self.random.chance(self.failing) {
            true => {
                [Status::Failed, Status::Error, Status::TimedOut][self.random.below(3) as usize]
            }
            false => Status::Passed,
        };
        let out = self.claims.get_mut(&claim).unwrap();
        out.left.retain(|left| *left != (id.lane, ordinal, attempt));
        let row =
            Row { lane: id.lane, ordinal, attempt, status, start: 0, duration: 1, detail: None };
        out.rows.push(row);
        if out.urgent || out.left.is_empty() || self.random.chance(self.in_pieces) {
            self.deliver(claim);
        }
    }

    fn deliver(&mut self, claim: ClaimNo) {
        let out = self.claims.get_mut(&claim).unwrap();
        let rows = std::mem::take(&mut out.rows);
        let left: Vec<Item> = out
            .left
            .iter()
            .map(|(lane, at, attempt)| Item {
                lane: *lane,
                from: *at,
                to: at + 1,
                attempt: *attempt,
            })
            .collect();
        let run = out.run;
        if left.is_empty() {
            let out = self.claims.remove(&claim).unwrap();
            for tag in out.tags {
                self.tags.remove(&tag);
            }
        }
        let verdicts = self.planner.deliver(self.now / 1_000, claim, &rows, &left, Tags::Free);
        self.book(run, &rows, &verdicts);
    }

    fn book(&mut self, run: RunNo, rows: &[Row], verdicts: &[Verdict]) {
        for (row, verdict) in rows.iter().zip(verdicts) {
            let task = (LaneId { run, lane: row.lane }, row.ordinal);
            match verdict {
                Verdict::Refused => panic!("{task:?} was refused"),
                Verdict::Again(_) => {}
                Verdict::Ended(status, _) | Verdict::GivenUp(status) => {
                    let twice = self.ended.insert(task, (*status, self.now));
                    assert_eq!(twice, None, "{task:?} ended twice");
                }
            }
        }
    }

    fn kill(&mut self, number: WorkerNo) {
        if self.workers.remove(&number).is_none() {
            return;
        }
        self.running.retain(|_, worker| *worker != number);
        self.planner.worker_leaves(number);
        let claims = self.claims.iter().filter(|(_, claim)| claim.worker == number);
        for claim in claims.map(|(claim, _)| *claim).collect::<Vec<_>>() {
            let out = self.claims.remove(&claim).unwrap();
            for (tag, unit) in out.tags {
                self.draining.push((tag, unit));
                self.at(self.now + 2_000_000, Event::Release(self.draining.len() as u32 - 1));
            }
            // What it had done and not delivered is lost as well.
            let lost =
                out.left.into_iter().chain(out.rows.iter().map(|r| (r.lane, r.ordinal, r.attempt)));
            let rows: Vec<Row> = lost
                .map(|(lane, ordinal, attempt)| Row {
                    lane,
                    ordinal,
                    attempt,
                    status: Status::Lost,
                    start: 0,
                    duration: 0,
                    detail: None,
                })
                .collect();
            let verdicts =
                self.planner.deliver(self.now / 1_000, claim, &rows, &[], Tags::Draining);
            self.book(out.run, &rows, &verdicts);
        }
    }

    /// That nothing waits which could run: who may take it has no slot, or it says what it waits for.
    fn check_conserving(&self) {
        for (run, plans) in self.plans.iter().filter(|(run, _)| !self.over.contains(run)) {
            for lane in 0..plans.len() as u32 {
                let id = LaneId { run: *run, lane };
                if !matches!(self.planner.why(id), Some(Why::NoSlot | Why::Turn)) {
                    continue;
                }
                let plan = self.plan(id);
                let awake = self.workers.iter().filter(|(no, _)| !self.resting.contains(no));
                for (number, worker) in awake {
                    let has = |(name, value)| worker.labels.get(name) == Some(value);
                    let fits = plan.requires.iter().all(has);
                    let free = self.planner.workers.get(*number).unwrap().free();
                    let is_kept = self.planner.workers.is_held(*number);
                    assert!(
                        !fits || is_kept || free < plan.slots,
                        "{id:?} waits beside {free} free slots"
                    );
                }
            }
        }
    }

    /// When the tasks of a run ended, in microseconds.
    pub(super) fn ends_of(&self, run: RunNo) -> impl Iterator<Item = u64> {
        let of_run = self.ended.iter().filter(move |((id, _), _)| id.run == run);
        of_run.map(|(_, (_, at))| *at)
    }

    pub(super) fn limit(&mut self, name: &LockName, capacity: u32) {
        self.planner.set_capacity(name, capacity);
    }
}

/// A lane of a case with nothing special about it.
pub(super) fn plain(case: &str, total: u32, estimate: u64) -> LanePlan {
    LanePlan {
        case: case.into(),
        total,
        slots: 1,
        estimate: Some(estimate),
        timeout_ms: 60_000,
        ..Default::default()
    }
}

pub(super) fn after(lane: u32) -> PlannedPredecessor {
    PlannedPredecessor { lane, scope: Scope::Run, policy: Policy::Ended }
}

pub(super) fn setup(lanes: Vec<LanePlan>) -> RunSetup {
    RunSetup {
        name: "run".into(),
        plan: RunPlan { lanes },
        queue: "default".into(),
        ..Default::default()
    }
}
