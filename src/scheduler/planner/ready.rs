//! Lanes that could start at once but for a free slot, in the order in which they get one: queues
//! share by weight; within a queue runs go by priority, and equal ones share alike; within a run
//! lanes go by priority, then by the longest chain of work that hangs on them.

use super::locks::step;
use super::numbered::Numbered;
use super::workers::ClassNo;
use super::{LaneId, RunNo};
use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BTreeSet, BinaryHeap};

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

/// A lane among those of its run: lower first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LaneKey {
    priority: Reverse<i32>,
    rank: Reverse<u64>,
    chain: Reverse<u64>,
    pub lane: u32,
}

impl LaneKey {
    /// `rank` is how long the work takes at best that starts with the lane, and `chain` the part of it that
    /// waits for this lane alone: those that share a tag differ by that.
    pub(super) fn new(priority: i32, rank: u64, chain: u64, lane: u32) -> Self {
        Self { priority: Reverse(priority), rank: Reverse(rank), chain: Reverse(chain), lane }
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
///
/// Queues and runs stand in heaps with the keys that they had when they were last looked at. Keys only
/// grow, so whoever stands first with the key that it has now is the first; one that has another now
/// is moved when it comes first, and one without lanes leaves then.
#[derive(Debug, Default)]
struct ReadyClass {
    queues: BinaryHeap<Reverse<(u64, QueueNo)>>,
    /// By number.
    runs_of: Vec<RunsOfQueue>,
    lanes_of: Numbered<LanesOfRun>,
    /// How many lanes there are.
    lanes: u32,
    /// The best lane, as long as lanes and the keys that it was found with stay as they are.
    head: Option<Candidate>,
}

#[derive(Debug, Default)]
struct RunsOfQueue {
    is_listed: bool,
    runs: BinaryHeap<Reverse<(RunKey, RunNo)>>,
}

#[derive(Debug, Default)]
struct LanesOfRun {
    is_listed: bool,
    lanes: BTreeSet<LaneKey>,
}

#[derive(Debug, Default)]
pub(super) struct Ready {
    queues: Vec<Queue>,
    /// What the queue had got that was served last, before it was.
    level: u64,
    runs: Numbered<ReadyRun>,
    /// By number.
    classes: Vec<ReadyClass>,
    /// Those with lanes, in order.
    filled: Vec<ClassNo>,
    /// How many lanes have become ready so far.
    pub came: u64,
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
        self.runs.remove(run);
        for class in &mut self.classes {
            if class.lanes == 0 {
                *class = ReadyClass::default();
            }
        }
    }

    pub(super) fn insert(&mut self, class: ClassNo, run_no: RunNo, key: LaneKey) {
        let Some(run) = self.runs.get_mut(run_no) else { return };
        let place = class as usize;
        if self.classes.len() <= place {
            self.classes.resize_with(place + 1, ReadyClass::default);
        }
        let ready = &mut self.classes[place];
        if ready.lanes_of.get(run_no).is_none() {
            ready.lanes_of.insert(run_no, LanesOfRun::default());
        }
        let Some(of_run) = ready.lanes_of.get_mut(run_no) else { return };
        if !of_run.lanes.insert(key) {
            return;
        }
        if self.queues[run.queue as usize].lanes == 0 {
            // Time without demand earns nothing. It costs nothing either: a queue whose only lane is
            // taken and comes back is as far as it was, though others have got more.
            let queue = &mut self.queues[run.queue as usize];
            queue.pass = queue.pass.max(self.level);
        }
        let queue = &mut self.queues[run.queue as usize];
        queue.lanes += 1;
        run.lanes += 1;
        self.came += 1;
        ready.lanes += 1;
        ready.head = None;
        if ready.lanes == 1
            && let Err(place) = self.filled.binary_search(&class)
        {
            self.filled.insert(place, class);
        }
        if !std::mem::replace(&mut of_run.is_listed, true) {
            if ready.runs_of.len() <= run.queue as usize {
                ready.runs_of.resize_with(run.queue as usize + 1, RunsOfQueue::default);
            }
            let runs_of = &mut ready.runs_of[run.queue as usize];
            runs_of.runs.push(Reverse((run.key, run_no)));
            if !std::mem::replace(&mut runs_of.is_listed, true) {
                ready.queues.push(Reverse((queue.pass, run.queue)));
            }
        }
    }

    pub(super) fn remove(&mut self, class: ClassNo, run_no: RunNo, key: LaneKey) {
        let Some(run) = self.runs.get_mut(run_no) else { return };
        let Some(ready) = self.classes.get_mut(class as usize) else { return };
        let Some(of_run) = ready.lanes_of.get_mut(run_no) else { return };
        if !of_run.lanes.remove(&key) {
            return;
        }
        run.lanes -= 1;
        self.queues[run.queue as usize].lanes -= 1;
        ready.lanes -= 1;
        ready.head = None;
        if ready.lanes == 0
            && let Ok(place) = self.filled.binary_search(&class)
        {
            self.filled.remove(place);
        }
    }

    /// How many classes have ready lanes.
    pub(super) fn filled(&self) -> usize {
        self.filled.len()
    }

    /// One of those, by its place among them.
    pub(super) fn class(&self, place: usize) -> Option<ClassNo> {
        self.filled.get(place).copied()
    }

    /// How many lanes of the class are ready.
    pub(super) fn lanes_in(&self, class: ClassNo) -> u32 {
        self.classes.get(class as usize).map_or(0, |ready| ready.lanes)
    }

    /// Its ready lanes.
    pub(super) fn all_of(&self, class: ClassNo) -> impl Iterator<Item = LaneId> {
        let runs = self.classes.get(class as usize).into_iter().flat_map(|of| of.lanes_of.iter());
        runs.flat_map(|(run, of_run)| {
            of_run.lanes.iter().map(move |key| LaneId { run, lane: key.lane })
        })
    }

    /// Whether any lane of the class is ready.
    pub(super) fn has(&self, class: ClassNo) -> bool {
        self.classes.get(class as usize).is_some_and(|ready| ready.lanes > 0)
    }

    /// The best lane of each class that has any; `place` counts those.
    pub(super) fn head(&mut self, place: usize) -> Option<Candidate> {
        let class = *self.filled.get(place)?;
        let ready = self.classes.get_mut(class as usize)?;
        let is_as_it_was = |head: &Candidate| {
            let run = self.runs.get(head.lane.run);
            self.queues[head.queue as usize].pass == head.pass
                && run.is_some_and(|run| run.key == head.run)
        };
        if !ready.head.as_ref().is_some_and(is_as_it_was) {
            ready.head = ready.find_head(class, &self.queues, &self.runs);
        }
        ready.head
    }

    /// Books what a run got, in microseconds of one slot, and when.
    pub(super) fn charge(&mut self, run: RunNo, now: u64, priority: i32, cost: u64) {
        let Some(charged) = self.runs.get_mut(run) else { return };
        let key = &mut charged.key;
        // It must not shrink, though clocks may go back.
        key.step = key.step.max(step(now, priority));
        key.used = key.used.saturating_add(cost);
        let queue = &mut self.queues[charged.queue as usize];
        self.level = queue.pass;
        queue.pass = queue.pass.saturating_add((cost / u64::from(queue.weight)).max(1));
    }

    /// The lanes of a run that are ready.
    pub(super) fn lanes_of(&self, run: RunNo) -> Vec<(ClassNo, LaneId)> {
        let of_class = |class: &ClassNo| {
            let of_run = self.classes[*class as usize].lanes_of.get(run);
            let lanes = of_run.map(|of_run| &of_run.lanes).into_iter().flatten();
            let entry = |key: &LaneKey| (*class, LaneId { run, lane: key.lane });
            lanes.map(entry).collect::<Vec<_>>()
        };
        self.filled.iter().flat_map(of_class).collect()
    }
}

impl ReadyClass {
    fn find_head(
        &mut self,
        class: ClassNo,
        queues: &[Queue],
        runs: &Numbered<ReadyRun>,
    ) -> Option<Candidate> {
        while let Some(mut first) = self.queues.peek_mut() {
            let Reverse((pass, queue)) = *first;
            let pass_now = queues[queue as usize].pass;
            if pass != pass_now {
                *first = Reverse((pass_now, queue));
                continue;
            }
            let of_queue = self.runs_of.get_mut(queue as usize)?;
            let found = of_queue.first(&mut self.lanes_of, runs);
            if let Some((run, number, lane_key)) = found {
                let lane = LaneId { run: number, lane: lane_key.lane };
                return Some(Candidate { pass, queue, run, lane_key, lane, class });
            }
            PeekMut::pop(first);
            of_queue.is_listed = false;
        }
        None
    }
}

impl RunsOfQueue {
    /// The first run that has lanes, with the first of them.
    fn first(
        &mut self,
        lanes_of: &mut Numbered<LanesOfRun>,
        runs: &Numbered<ReadyRun>,
    ) -> Option<(RunKey, RunNo, LaneKey)> {
        while let Some(mut first) = self.runs.peek_mut() {
            let Reverse((key, number)) = *first;
            let of_run = lanes_of.get(number).and_then(|of_run| of_run.lanes.first());
            match (of_run, runs.get(number)) {
                (Some(lane), Some(run)) if run.key == key => return Some((key, number, *lane)),
                (Some(_), Some(run)) => *first = Reverse((run.key, number)),
                _ => {
                    PeekMut::pop(first);
                    lanes_of.remove(number);
                }
            }
        }
        None
    }
}
