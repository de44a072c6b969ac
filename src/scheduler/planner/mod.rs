//! Decides what runs next and where. It is told what happens (runs, workers, results, time) and says
//! what to give to whom; nothing is asked of the store and no queue is ever scanned: each event
//! costs a few steps in ordered sets of lanes.
//!
//! It promises that no task is given out twice, none before what it waits for, none beside what
//! excludes it, and that no lane waits while something free would serve it. It forgets everything
//! with the process: whoever leads next builds another from the store.

mod bound;
mod cases;
mod decide;
mod few;
#[cfg(test)]
mod golden;
mod lane;
mod lines;
mod links;
mod locks;
mod numbered;
mod placing;
#[cfg(test)]
mod play;
mod ready;
mod recovery;
mod results;
#[cfg(test)]
mod tests;
mod timers;
mod traits;
mod why;
mod settings;
mod workers;

pub use bound::{Bound, Shared, bound};
pub use lane::{LOST_MAX, Verdict};
pub use locks::LockName;
pub use results::Tags;
pub use why::Why;
pub use workers::WorkerNo;

use super::keys;
use super::model::{Item, Labels, LaneCheckpoint, LanePlan, RunPlan, Totals};
use cases::Cases;
use few::Few;
use lane::Lane;
use links::{link, rank};
use locks::{LockNo, Locks};
use numbered::Numbered;
use ready::{QueueNo, Ready, RunKey};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use traits::KnownTraits;
use workers::{ClassNo, Workers};

/// Names a run for the life of the planner.
pub type RunNo = u32;
/// Names something given to a worker for the life of the planner.
pub type ClaimNo = u64;
/// Names a case for the life of the planner.
type CaseNo = u32;

/// Tasks of cases that nobody ever saw are taken to be this long, in microseconds.
const UNKNOWN_US: u64 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LaneId {
    pub run: RunNo,
    pub lane: u32,
}

/// A run with what the planner needs of its submit.
#[derive(Clone, Debug, Default)]
pub struct RunSetup {
    pub name: Arc<str>,
    pub plan: RunPlan,
    pub queue: Arc<str>,
    pub priority: i32,
    /// Milliseconds, as all times given to the planner.
    pub deadline: Option<u64>,
    pub no_worker_timeout: Option<u64>,
    pub failures_max: Option<u32>,
}

/// What shall be given to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub claim: ClaimNo,
    pub worker: WorkerNo,
    pub run: RunNo,
    pub items: Vec<Item>,
    /// Tags with the number of the unit.
    pub tags: Vec<(Arc<str>, u32)>,
    /// Of the worker's capacity, for each task.
    pub slots: u32,
    /// Somebody waits for its end.
    pub urgent: bool,
}

/// What became of runs and lanes, for whoever keeps the books.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// Tasks of it ended without having been given out.
    LaneChanged(LaneId),
    LaneEnded(LaneId),
    /// Nothing more of it starts: what workers have and have not begun is not wanted any more.
    RunStopped(RunNo),
    RunEnded(RunNo),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunState {
    Running,
    Paused,
    /// Nothing more of it is given out; what is out comes back.
    Stopped,
}

#[derive(Debug)]
struct Run {
    name: Arc<str>,
    lanes: Vec<Lane>,
    /// Of all its lanes.
    classes: BTreeSet<ClassNo>,
    /// Lanes that have not ended.
    open_lanes: u32,
    queue: QueueNo,
    priority: i32,
    failures: u32,
    failures_max: Option<u32>,
    no_worker_timeout: Option<u64>,
    /// Classes that no worker could run when that was looked at last, and since when that is known.
    unserved: BTreeMap<ClassNo, u64>,
    state: RunState,
    is_over: bool,
}

/// What a worker was given and has not ended.
#[derive(Debug)]
struct OpenClaim {
    worker: WorkerNo,
    run: RunNo,
    /// With the estimate of each task, as the worker's load was counted.
    items: Vec<(Item, u64)>,
    tags: Vec<(LockNo, u32)>,
}

impl OpenClaim {
    /// Slots that more of its tasks take, or fewer of them leave: under tags they run one by one, so
    /// that all of them take what one does.
    fn slots(&self, of_task: u32, tasks: u32, are_others_left: bool) -> u32 {
        match self.tags.is_empty() {
            true => of_task * tasks,
            false if are_others_left => 0,
            false => of_task,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A task has rested and may be tried again.
    Rested(LaneId, u32),
    /// A lane has waited long for several locks.
    Reserve(LaneId),
    Deadline(RunNo),
    NoWorker(RunNo),
}

#[derive(Debug, Default)]
pub struct Planner {
    runs: Numbered<Run>,
    locks: Locks,
    ready: Ready,
    /// Work of ready lanes, in microseconds of one slot.
    ready_work: u64,
    workers: Workers,
    claims: BTreeMap<ClaimNo, OpenClaim>,
    queues: BTreeMap<Arc<str>, QueueNo>,
    cases: Cases,
    timers: BTreeSet<(u64, Timer)>,
    /// Lanes that have waited long for several locks and keep units of them from later ones, with
    /// since when they wait.
    reserving: BTreeMap<LaneId, u64>,
    /// Locks whose waiters may go on.
    wakes: BTreeSet<LockNo>,
    /// Locks that are left to lanes that are ready, while others wait that may find a worker sooner.
    passed_over: BTreeSet<LockNo>,
    notes: Vec<Note>,
    next_run: RunNo,
    next_worker: WorkerNo,
    next_claim: ClaimNo,
    people: WorkerNo,
}

impl Planner {
    pub fn new() -> Self {
        let mut new = Self::default();
        new.next_worker += 1;
        new.people = new.next_worker;
        new.workers.add_people(new.people, keys::PEOPLE.into());
        new
    }

    /// Those who take manual cases.
    pub fn people(&self) -> WorkerNo {
        self.people
    }

    pub fn worker_joins(
        &mut self,
        name: Arc<str>,
        labels: &Labels,
        capacity: u32,
        ahead_max: u32,
    ) -> WorkerNo {
        self.next_worker += 1;
        self.workers.add(self.next_worker, name, labels, capacity, ahead_max);
        self.next_worker
    }

    /// The worker gets nothing more. What it has is delivered, given back or lost claim by claim.
    pub fn worker_leaves(&mut self, worker: WorkerNo) {
        self.workers.close(worker);
        self.unreserve_unserved();
        if !self.claims.values().any(|claim| claim.worker == worker) {
            self.workers.remove(worker);
        }
    }

    /// The worker gets nothing until it wakes. What only it could run has a worker all the same.
    pub fn worker_rests(&mut self, worker: WorkerNo) {
        self.workers.rest(worker);
        self.unreserve_unserved();
    }

    /// A worker that rested, if it did, takes work again.
    pub fn worker_wakes(&mut self, worker: WorkerNo) {
        self.workers.wake(worker);
    }

    /// A worker that is gone already, for claims that it left behind.
    pub fn worker_leaves_behind(&mut self, worker: WorkerNo) {
        self.workers.close(worker);
    }

    pub fn worker_name(&self, worker: WorkerNo) -> Option<Arc<str>> {
        self.workers.get(worker).map(|worker| worker.name.clone())
    }

    fn queue(&mut self, name: &Arc<str>) -> QueueNo {
        if let Some(queue) = self.queues.get(name) {
            return *queue;
        }
        let queue = self.ready.add_queue();
        self.queues.insert(name.clone(), queue);
        queue
    }

    /// Makes a run known. Nothing of it is given out before `start_run`.
    pub fn add_run(&mut self, now: u64, setup: RunSetup) -> RunNo {
        self.next_run += 1;
        let number = self.next_run;
        let queue = self.queue(&setup.queue);
        let limit = LockName::Queue(setup.queue.clone());
        let limit = self.locks.find(&limit);
        let guess = guess(&setup.plan.lanes);
        let mut lanes = Vec::with_capacity(setup.plan.lanes.len());
        let mut known = KnownTraits::default();
        let mut classes = BTreeSet::new();
        for plan in setup.plan.lanes {
            let class = known.class(&plan).unwrap_or_else(|| {
                let class = match plan.is_manual {
                    true => self.workers.people_class(),
                    false => self.workers.class(&plan.requires, plan.slots),
                };
                classes.insert(class);
                class
            });
            let mut locks = Few::default();
            for tag in &plan.tags {
                locks.push(self.locks.number(&LockName::Tag(tag.clone())));
            }
            let place = LockName::Environment(plan.environment.clone());
            for lock in self.locks.find(&place).into_iter().chain(limit) {
                locks.push(lock);
            }
            let case = self.cases.number(&plan.case);
            self.cases.add(case, plan.total);
            let before = plan.global_predecessors.iter();
            let before = before.map(|case| self.cases.number(case)).collect();
            let traits = known.of(&plan, class);
            let locks = self.locks.want(class, locks);
            lanes.push(Lane::new(plan, traits, locks, case, before, guess, now));
        }
        link(&mut lanes);
        rank(&mut lanes, self.workers.capacity());
        if let Some(deadline) = setup.deadline {
            self.timers.insert((deadline, Timer::Deadline(number)));
        }
        if let Some(timeout) = setup.no_worker_timeout {
            self.timers.insert((timers::look_at(now, timeout), Timer::NoWorker(number)));
        }
        let key = RunKey::new(now, setup.priority, 0, u64::from(number));
        self.ready.add_run(number, queue, key);
        let unserved = classes.iter().filter(|class| !self.has_worker(**class));
        let unserved = unserved.map(|class| (*class, now)).collect();
        let run = Run {
            name: setup.name,
            open_lanes: lanes.len() as u32,
            lanes,
            classes,
            queue,
            priority: setup.priority,
            failures: 0,
            failures_max: setup.failures_max,
            no_worker_timeout: setup.no_worker_timeout,
            unserved,
            state: RunState::Running,
            is_over: false,
        };
        self.runs.insert(number, run);
        number
    }

    fn lane(&self, id: LaneId) -> Option<&Lane> {
        self.runs.get(id.run)?.lanes.get(id.lane as usize)
    }

    fn lane_mut(&mut self, id: LaneId) -> Option<&mut Lane> {
        self.runs.get_mut(id.run)?.lanes.get_mut(id.lane as usize)
    }

    /// How the tasks of a run ended so far.
    pub fn totals(&self, run: RunNo) -> Option<Totals> {
        let mut totals = Totals::default();
        for lane in &self.runs.get(run)?.lanes {
            totals.merge(&lane.totals());
        }
        Some(totals)
    }

    pub fn has_ended(&self, id: LaneId, ordinal: u32) -> bool {
        self.lane(id).is_some_and(|lane| lane.ended.contains(ordinal))
    }

    /// The number that the next attempt of a task has.
    pub fn next_attempt(&self, id: LaneId, ordinal: u32) -> u32 {
        self.lane(id).map_or(1, |lane| lane.next_attempt(ordinal))
    }

    /// The case of a lane and its environment, which is empty where the run names none.
    pub fn names(&self, id: LaneId) -> Option<(&Arc<str>, &Arc<str>)> {
        self.lane(id).map(|lane| (self.cases.name(lane.case), &lane.traits.environment))
    }

    /// Whether what a lane's tasks fail does not fail their run.
    pub fn is_muted(&self, id: LaneId) -> bool {
        self.lane(id).is_some_and(|lane| lane.traits.is_muted)
    }

    /// How long a task of a lane may take, in milliseconds.
    pub fn timeout_ms(&self, id: LaneId) -> Option<u64> {
        self.lane(id).map(|lane| lane.traits.timeout_ms)
    }

    /// What is to be written down of a lane.
    pub fn checkpoint(&self, id: LaneId) -> Option<LaneCheckpoint> {
        self.lane(id).map(Lane::checkpoint)
    }

    /// What is left in the planner when all runs have been removed: nothing.
    #[cfg(test)]
    fn leftovers(&self) -> String {
        let mut found = Vec::new();
        let loads = self.workers.iter().filter(|(_, worker)| worker.load > 0);
        found.extend(
            loads.map(|(_, worker)| format!("{} has a load of {}", worker.name, worker.load)),
        );
        let locks = self.locks.iter().filter(|lock| !lock.is_idle());
        found.extend(locks.map(|lock| format!("{lock:?}")));
        found.extend((!self.claims.is_empty()).then(|| format!("{:?}", self.claims)));
        found.extend((self.ready.filled() > 0).then(|| format!("{:?}", self.ready)));
        found.extend((self.ready_work > 0).then(|| format!("work of {}", self.ready_work)));
        found.extend(self.cases.all_open().map(|case| format!("{case} is open")));
        found.join("\n")
    }

    /// What became of runs and lanes since it was last asked.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }
}

/// What a task of a case that nobody ever saw is taken to be: as long as one of the long cases of
/// its run, so that surprises start early.
fn guess(lanes: &[LanePlan]) -> u64 {
    let mut known: Vec<u64> = lanes.iter().filter_map(|lane| lane.estimate).collect();
    known.sort_unstable();
    let rank = (known.len() * 9).div_ceil(10).max(1);
    known.get(rank - 1).copied().unwrap_or(UNKNOWN_US)
}
