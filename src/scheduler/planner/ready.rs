//! Lanes that could start at once but for a free slot, in the order in which they get one: queues
//! share by weight; within a queue runs go by priority, and equal ones share alike; within a run
//! lanes go by priority, then by the longest chain of work that hangs on them.

use super::locks::step;
use super::workers::ClassNo;
use super::{LaneId, RunNo};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Names a queue for the life of the planner.
pub(super) type QueueNo = u32;

/// The order of runs in a queue: lower first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RunKey {
    /// Priority, raised by the time since it last got something.
    step: i64,
    /// What it got already, in microseconds of one slot.
    pub used: u64,
    submit: u64,
}

impl RunKey {
    pub(super) fn new(served: u64, priority: i32, used: u64, submit: u64) -> Self {
        Self { step: step(served, priority), used, submit }
    }
}

/// The order of lanes in a run: lower first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LaneKey {
    priority: Reverse<i32>,
    rank: Reverse<u64>,
}

impl LaneKey {
    pub(super) fn new(priority: i32, rank: u64) -> Self {
        Self { priority: Reverse(priority), rank: Reverse(rank) }
    }
}

#[derive(Debug)]
struct Queue {
    weight: u32,
    /// What it got already, divided by its weight.
    pass: u64,
    /// Its ready lanes.
    lanes: u32,
}

#[derive(Clone, Copy, Debug)]
struct ReadyRun {
    queue: QueueNo,
    key: RunKey,
    lanes: u32,
}

/// Ready lanes of one class.
#[derive(Debug, Default)]
struct ReadyClass {
    queues: BTreeSet<(u64, QueueNo)>,
    runs: BTreeMap<QueueNo, BTreeSet<(RunKey, RunNo)>>,
    lanes: BTreeMap<RunNo, BTreeSet<(LaneKey, u32)>>,
}

#[derive(Debug, Default)]
pub(super) struct Ready {
    queues: Vec<Queue>,
    runs: BTreeMap<RunNo, ReadyRun>,
    classes: BTreeMap<ClassNo, ReadyClass>,
}

/// The best lane of a class; comparing two says which goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    pass: u64,
    queue: QueueNo,
    run: RunKey,
    lane_key: LaneKey,
    pub lane: LaneId,
    pub class: ClassNo,
}

impl Ready {
    pub(super) fn add_queue(&mut self) -> QueueNo {
        self.queues.push(Queue { weight: 1, pass: 0, lanes: 0 });
        self.queues.len() as QueueNo - 1
    }

    pub(super) fn set_weight(&mut self, queue: QueueNo, weight: u32) {
        self.queues[queue as usize].weight = weight.max(1);
    }

    /// Makes a run known. One that comes later than others starts level with the least served.
    pub(super) fn add_run(&mut self, run: RunNo, queue: QueueNo, key: RunKey) {
        let level = self.runs.values().filter(|other| other.queue == queue && other.lanes > 0);
        let level = level.map(|other| other.key.used).min().unwrap_or(0);
        let key = RunKey { used: key.used.max(level), ..key };
        self.runs.insert(run, ReadyRun { queue, key, lanes: 0 });
    }

    /// Its lanes must have been removed.
    pub(super) fn remove_run(&mut self, run: RunNo) {
        self.runs.remove(&run);
    }

    pub(super) fn insert(&mut self, class: ClassNo, id: LaneId, key: LaneKey) {
        let Some(run) = self.runs.get_mut(&id.run) else { return };
        let queue = &mut self.queues[run.queue as usize];
        if queue.lanes == 0 {
            // Time without demand earns nothing.
            let others = self.classes.values().filter_map(|class| class.queues.first());
            let level = others.map(|(pass, _)| *pass).min().unwrap_or(0);
            queue.pass = queue.pass.max(level);
        }
        let ready = self.classes.entry(class).or_default();
        let lanes = ready.lanes.entry(id.run).or_default();
        if lanes.is_empty() {
            let runs = ready.runs.entry(run.queue).or_default();
            if runs.is_empty() {
                ready.queues.insert((queue.pass, run.queue));
            }
            runs.insert((run.key, id.run));
        }
        if lanes.insert((key, id.lane)) {
            run.lanes += 1;
            queue.lanes += 1;
        }
    }

    pub(super) fn remove(&mut self, class: ClassNo, id: LaneId, key: LaneKey) {
        let Some(run) = self.runs.get_mut(&id.run) else { return };
        let Some(ready) = self.classes.get_mut(&class) else { return };
        let Some(lanes) = ready.lanes.get_mut(&id.run) else { return };
        if !lanes.remove(&(key, id.lane)) {
            return;
        }
        let queue = &mut self.queues[run.queue as usize];
        run.lanes -= 1;
        queue.lanes -= 1;
        if lanes.is_empty() {
            ready.lanes.remove(&id.run);
            if let Some(runs) = ready.runs.get_mut(&run.queue) {
                runs.remove(&(run.key, id.run));
                if runs.is_empty() {
                    ready.runs.remove(&run.queue);
                    ready.queues.remove(&(queue.pass, run.queue));
                }
            }
            if ready.lanes.is_empty() {
                self.classes.remove(&class);
            }
        }
    }

    /// The best lane of each class that has any.
    pub(super) fn heads(&self) -> impl Iterator<Item = Candidate> {
        self.classes.iter().filter_map(|(class, ready)| {
            let (pass, queue) = *ready.queues.first()?;
            let (run, number) = *ready.runs.get(&queue)?.first()?;
            let (lane_key, lane) = *ready.lanes.get(&number)?.first()?;
            let lane = LaneId { run: number, lane };
            Some(Candidate { pass, queue, run, lane_key, lane, class: *class })
        })
    }

    /// Books what a run got, in microseconds of one slot, and when.
    pub(super) fn charge(&mut self, run: RunNo, now: u64, priority: i32, cost: u64) {
        let Some(charged) = self.runs.get_mut(&run) else { return };
        let old = *charged;
        charged.key = RunKey {
            step: step(now, priority),
            used: old.key.used.saturating_add(cost),
            ..old.key
        };
        let key = charged.key;
        let queue = &mut self.queues[old.queue as usize];
        let before = queue.pass;
        queue.pass = before.saturating_add((cost / u64::from(queue.weight)).max(1));
        for ready in self.classes.values_mut() {
            if let Some(runs) = ready.runs.get_mut(&old.queue) {
                if runs.remove(&(old.key, run)) {
                    runs.insert((key, run));
                }
                ready.queues.remove(&(before, old.queue));
                ready.queues.insert((queue.pass, old.queue));
            }
        }
    }

    /// The lanes of a run that are ready, with what is needed to remove them.
    pub(super) fn lanes_of(&self, run: RunNo) -> Vec<(ClassNo, LaneId, LaneKey)> {
        let of_class = |(class, ready): (&ClassNo, &ReadyClass)| {
            let lanes = ready.lanes.get(&run).into_iter().flatten();
            let entry = |(key, lane): &(LaneKey, u32)| (*class, LaneId { run, lane: *lane }, *key);
            lanes.map(entry).collect::<Vec<_>>()
        };
        self.classes.iter().flat_map(of_class).collect()
    }
}
