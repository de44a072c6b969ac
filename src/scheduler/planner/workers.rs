//! Who may run something now: workers by their labels, and within equal labels by how full they are.

use super::numbered::Numbered;
use crate::scheduler::model::Labels;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Names a worker's registration for the life of the planner.
pub type WorkerNo = u32;
/// Names a set of labels and slots that lanes want of a worker.
pub(super) type ClassNo = u32;

/// Fullness is compared in fine parts of a worker's capacity, so that large and small ones fill alike.
const PARTS: u64 = 1 << 20;
/// Results need a moment to come back, so that short tasks are given ahead of their slots: this
/// much work for each, in microseconds.
const AHEAD_US: u64 = 100_000;
const AHEAD_TASKS_MAX: u64 = 64;
/// Tasks are given ahead only while the rest of the work takes this many times as long as one of
/// them: near the end whoever is free first shall take the next.
const AHEAD_ROUNDS_MIN: u64 = 4;

#[derive(Debug)]
pub(super) struct Worker {
    pub name: Arc<str>,
    /// In slots.
    pub capacity: u32,
    /// When it came or last gave something back, in turns of all workers.
    heard: u64,
    /// How many tasks it takes ahead for each slot, at most.
    pub ahead_max: u32,
    /// Slots of all that it was given and has not ended.
    pub load: u32,
    group: u32,
    is_open: bool,
    /// Their slots are no measure of what can be done at once.
    is_people: bool,
    /// Estimates of what it was given ahead or runs, with how many of each.
    estimates: BTreeMap<u64, u32>,
    /// The longest of those.
    longest: u64,
}

impl Worker {
    fn fullness(&self) -> u64 {
        u64::from(self.load) * PARTS / u64::from(self.capacity)
    }

    /// Of those that are as full, who was heard of last goes first: one that has died is not yet known to
    /// have.
    fn order(&self) -> Order {
        (self.fullness(), Reverse(self.heard))
    }

    pub(super) fn free(&self) -> u32 {
        self.capacity.saturating_sub(self.load)
    }
}

/// The order in which workers get something: lower first.
type Order = (u64, Reverse<u64>);

/// Workers with the same labels and as many slots: the emptiest of them has most room.
#[derive(Debug)]
struct Group {
    labels: Arc<Labels>,
    /// Slots of each of them.
    slots: u32,
    /// Those that take work, the emptiest first.
    by_fullness: BTreeSet<(Order, WorkerNo)>,
    /// The first of those: it is asked for far more often than it changes.
    emptiest: Option<(Order, WorkerNo)>,
    /// Free slots of all of them.
    free: u64,
    /// Slots of all of them.
    capacity: u64,
}

impl Group {
    fn insert(&mut self, order: Order, worker: WorkerNo) {
        self.by_fullness.insert((order, worker));
        self.emptiest = self.by_fullness.first().copied();
    }

    fn remove(&mut self, order: Order, worker: WorkerNo) {
        self.by_fullness.remove(&(order, worker));
        self.emptiest = self.by_fullness.first().copied();
    }
}

/// What a kind of lane wants, and which groups have it.
#[derive(Debug)]
struct Class {
    requires: Arc<Labels>,
    slots: u32,
    groups: Vec<u32>,
}

/// A worker that can take something, and how many tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub worker: WorkerNo,
    pub tasks: u32,
    /// None of them starts before another task of the worker ends.
    pub is_ahead: bool,
}

/// What a lane's tasks are like, for finding room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub class: ClassNo,
    /// How many there are to give.
    pub tasks: u32,
    /// Of one task, in microseconds.
    pub estimate: u64,
}

/// A worker with free slots for tasks of a class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Free {
    pub worker: WorkerNo,
    /// It takes nothing else.
    is_kept: bool,
}

#[derive(Debug, Default)]
pub(super) struct Workers {
    workers: Numbered<Worker>,
    groups: Vec<Group>,
    group_by_kind: BTreeMap<(Arc<Labels>, u32), u32>,
    classes: Vec<Class>,
    class_by_want: BTreeMap<(Arc<Labels>, u32), ClassNo>,
    capacity: u64,
    /// How often workers were heard of.
    turn: u64,
    /// Those that take nothing for a while.
    resting: BTreeSet<WorkerNo>,
    /// A worker that takes nothing but what is of this class.
    hold: Option<(ClassNo, WorkerNo)>,
}

/// More tasks never wait for people at once.
const PEOPLE_SLOTS: u32 = 1 << 30;

impl Workers {
    /// People, who give verdicts of manual cases: as many as are wanted.
    pub(super) fn add_people(&mut self, number: WorkerNo, name: Arc<str>) {
        let labels = people_labels();
        self.add(number, name, &labels, PEOPLE_SLOTS, 0);
        self.capacity -= u64::from(PEOPLE_SLOTS);
        if let Some(worker) = self.workers.get_mut(number) {
            worker.is_people = true;
        }
    }

    /// The class of manual lanes.
    pub(super) fn people_class(&mut self) -> ClassNo {
        self.class(&Arc::new(people_labels()), 1)
    }

    /// What lanes of a class require, and the slots of each of their tasks; nothing of manual ones.
    pub(super) fn want_of(&self, class: ClassNo) -> Option<(&Arc<Labels>, u32)> {
        let found = self.classes.get(class as usize)?;
        (*found.requires != people_labels()).then_some((&found.requires, found.slots))
    }

    /// The class of lanes that want this.
    pub(super) fn class(&mut self, requires: &Arc<Labels>, slots: u32) -> ClassNo {
        let want = (requires.clone(), slots);
        if let Some(class) = self.class_by_want.get(&want) {
            return *class;
        }
        let fits = |group: &Group| has_all(&group.labels, requires);
        let groups = (0..).zip(&self.groups).filter(|(_, group)| fits(group));
        let groups = groups.map(|(number, _)| number).collect();
        let class = self.classes.len() as ClassNo;
        self.classes.push(Class { requires: requires.clone(), slots, groups });
        self.class_by_want.insert(want, class);
        class
    }

    pub(super) fn add(
        &mut self,
        number: WorkerNo,
        name: Arc<str>,
        labels: &Labels,
        capacity: u32,
        ahead_max: u32,
    ) {
        let capacity = capacity.max(1);
        let kind = (Arc::new(labels.clone()), capacity);
        let group = match self.group_by_kind.get(&kind) {
            Some(group) => *group,
            None => self.add_group(kind),
        };
        let worker = Worker {
            name,
            capacity,
            heard: 0,
            ahead_max,
            load: 0,
            group,
            is_open: false,
            is_people: false,
            estimates: BTreeMap::new(),
            longest: 0,
        };
        self.workers.insert(number, worker);
        self.open(number);
    }

    fn open(&mut self, number: WorkerNo) {
        let Some(worker) = self.workers.get_mut(number) else { return };
        worker.is_open = true;
        worker.heard = self.turn;
        self.capacity += u64::from(worker.capacity);
        let group = &mut self.groups[worker.group as usize];
        group.capacity += u64::from(worker.capacity);
        group.free += u64::from(worker.free());
        group.insert(worker.order(), number);
    }

    /// The worker gets nothing more until it wakes.
    pub(super) fn rest(&mut self, number: WorkerNo) {
        if self.workers.get(number).is_some_and(|worker| worker.is_open) {
            self.close(number);
            self.resting.insert(number);
        }
    }

    /// A worker that rested, if it did, takes work again.
    pub(super) fn wake(&mut self, number: WorkerNo) {
        if self.resting.remove(&number) {
            self.open(number);
        }
    }

    /// Those that rest and could run something of a class.
    pub(super) fn resting_for(&self, class: ClassNo) -> impl Iterator<Item = &Worker> {
        let class = self.classes.get(class as usize);
        let could =
            move |number: &&WorkerNo| class.is_some_and(|class| self.could(**number, class));
        self.resting.iter().filter(could).filter_map(|number| self.workers.get(*number))
    }

    /// Whether it takes nothing more, ever.
    pub(super) fn has_left(&self, number: WorkerNo) -> bool {
        let is_open = self.workers.get(number).is_none_or(|worker| worker.is_open);
        !is_open && !self.resting.contains(&number)
    }

    fn add_group(&mut self, kind: (Arc<Labels>, u32)) -> u32 {
        let (labels, slots) = kind.clone();
        let group = self.groups.len() as u32;
        for class in &mut self.classes {
            if has_all(&labels, &class.requires) {
                class.groups.push(group);
            }
        }
        self.group_by_kind.insert(kind, group);
        let by_fullness = BTreeSet::new();
        let new = Group { labels, slots, by_fullness, emptiest: None, free: 0, capacity: 0 };
        self.groups.push(new);
        group
    }

    /// The worker gets nothing more; what it has stays with it.
    pub(super) fn close(&mut self, number: WorkerNo) {
        self.resting.remove(&number);
        if let Some((class, _)) = self.hold.filter(|(_, held)| *held == number) {
            self.unhold_for(class);
        }
        let Some(worker) = self.workers.get_mut(number).filter(|worker| worker.is_open) else {
            return;
        };
        worker.is_open = false;
        if !worker.is_people {
            self.capacity -= u64::from(worker.capacity);
        }
        let group = &mut self.groups[worker.group as usize];
        group.capacity -= u64::from(worker.capacity);
        group.free -= u64::from(worker.free());
        group.remove(worker.order(), number);
    }

    pub(super) fn remove(&mut self, number: WorkerNo) {
        self.close(number);
        self.workers.remove(number);
    }

    pub(super) fn get(&self, number: WorkerNo) -> Option<&Worker> {
        self.workers.get(number)
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (WorkerNo, &Worker)> {
        self.workers.iter()
    }

    /// Slots of all workers that take work.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Slots of all workers that take work and could run something of one of these classes.
    pub(super) fn capacity_for(&self, classes: &BTreeSet<ClassNo>) -> u64 {
        let mut groups = BTreeSet::new();
        for class in classes.iter().filter(|class| self.want_of(**class).is_some()) {
            let class = &self.classes[*class as usize];
            let is_large = |group: &&u32| self.groups[**group as usize].slots >= class.slots;
            groups.extend(class.groups.iter().filter(is_large).copied());
        }
        groups.into_iter().map(|group| self.groups[group as usize].capacity).sum()
    }

    /// Whether any worker that takes work is large enough and has the labels.
    pub(super) fn serves(&self, class: ClassNo) -> bool {
        let Some(class) = self.classes.get(class as usize) else { return false };
        let mut groups = class.groups.iter().map(|group| &self.groups[*group as usize]);
        groups.any(|group| group.slots >= class.slots && !group.by_fullness.is_empty())
            || self.hold.is_some_and(|(_, number)| self.could(number, class))
    }

    fn free(&self, number: WorkerNo) -> u32 {
        self.workers.get(number).map_or(0, Worker::free)
    }

    fn could(&self, number: WorkerNo, class: &Class) -> bool {
        let Some(worker) = self.workers.get(number) else { return false };
        worker.capacity >= class.slots && class.groups.contains(&worker.group)
    }

    /// Keeps the worker that has most room for a class from taking anything else, unless one is
    /// kept already. It must be let go when it has taken something, or nothing of the class waits.
    pub(super) fn hold(&mut self, class_no: ClassNo) {
        let Some(class) = self.classes.get(class_no as usize).filter(|_| self.hold.is_none())
        else {
            return;
        };
        let groups = class.groups.iter().map(|group| &self.groups[*group as usize]);
        let numbers = groups.flat_map(|group| group.by_fullness.iter().map(|(_, number)| *number));
        let large = numbers.filter(|number| self.could(*number, class));
        let Some(number) = large.max_by_key(|number| self.free(*number)) else { return };
        let Some(worker) = self.workers.get(number) else { return };
        let group = &mut self.groups[worker.group as usize];
        group.remove(worker.order(), number);
        group.free -= u64::from(worker.free());
        self.hold = Some((class_no, number));
    }

    pub(super) fn held_for(&self) -> Option<ClassNo> {
        self.hold.map(|(class, _)| class)
    }

    /// Lets a worker that is kept for a class take anything again.
    pub(super) fn unhold_for(&mut self, class: ClassNo) {
        let Some((_, number)) = self.hold.take_if(|(held_for, _)| *held_for == class) else {
            return;
        };
        if let Some(worker) = self.workers.get(number).filter(|worker| worker.is_open) {
            let group = &mut self.groups[worker.group as usize];
            group.insert(worker.order(), number);
            group.free += u64::from(worker.free());
        }
    }

    #[cfg(test)]
    pub(super) fn is_held(&self, number: WorkerNo) -> bool {
        self.hold.is_some_and(|(_, held)| held == number)
    }

    /// Counts tasks that a worker was given, and the slots that they take together.
    pub(super) fn give(&mut self, number: WorkerNo, slots: u32, tasks: u32, estimate: u64) {
        self.change(number, |worker| {
            worker.load += slots;
            *worker.estimates.entry(estimate).or_default() += tasks;
            worker.longest = worker.longest.max(estimate);
        });
    }

    /// Counts tasks that a worker has no longer, and the slots that it has free by that.
    pub(super) fn take_back(&mut self, number: WorkerNo, slots: u32, tasks: u32, estimate: u64) {
        self.turn += 1;
        let turn = self.turn;
        self.change(number, |worker| {
            worker.heard = turn;
            worker.load = worker.load.saturating_sub(slots);
            if let Some(count) = worker.estimates.get_mut(&estimate) {
                *count = count.saturating_sub(tasks);
                if *count == 0 {
                    worker.estimates.remove(&estimate);
                    if estimate == worker.longest {
                        let longest = worker.estimates.last_key_value();
                        worker.longest = longest.map_or(0, |(estimate, _)| *estimate);
                    }
                }
            }
        });
    }

    fn change(&mut self, number: WorkerNo, change: impl FnOnce(&mut Worker)) {
        let Some(worker) = self.workers.get_mut(number) else { return };
        let (before, free) = (worker.order(), worker.free());
        change(worker);
        let after = worker.order();
        let is_held = self.hold.is_some_and(|(_, held)| held == number);
        if worker.is_open && !is_held && before != after {
            let group = &mut self.groups[worker.group as usize];
            group.by_fullness.remove(&(before, number));
            group.insert(after, number);
            group.free = group.free - u64::from(free) + u64::from(worker.free());
        }
    }

    /// The worker that takes a task of the class at once: the one kept for it, or the emptiest.
    pub(super) fn free_for(&self, class_no: ClassNo) -> Option<Free> {
        let class = self.classes.get(class_no as usize)?;
        if let Some((_, number)) = self.hold.filter(|(held_for, _)| *held_for == class_no)
            && self.free(number) >= class.slots
        {
            return Some(Free { worker: number, is_kept: true });
        }
        let groups = class.groups.iter().map(|group| &self.groups[*group as usize]);
        let emptiest = |group: &Group| {
            let emptiest = group.emptiest.filter(|_| group.free > 0);
            // More than one slot may be wanted.
            let fits = |number: WorkerNo| class.slots == 1 || self.free(number) >= class.slots;
            emptiest.filter(|((fullness, _), number)| *fullness < PARTS && fits(*number))
        };
        let (_, worker) = groups.filter_map(emptiest).min()?;
        Some(Free { worker, is_kept: false })
    }

    /// How much of so many tasks that worker takes.
    pub(super) fn share_of(&self, free: Free, class: ClassNo, tasks: u32) -> Room {
        let Some(class) = self.classes.get(class as usize) else {
            return Room { worker: free.worker, tasks: 0, is_ahead: false };
        };
        let slots = self.free(free.worker);
        let wanted = match free.is_kept {
            true => tasks,
            false => {
                let groups = class.groups.iter().map(|group| &self.groups[*group as usize]);
                share(tasks, slots, groups.map(|group| group.free).sum())
            }
        };
        Room { worker: free.worker, tasks: wanted.min(slots / class.slots), is_ahead: false }
    }

    /// Whether tasks of the class may be given ahead at all.
    pub(super) fn may_wait(&self, class: ClassNo) -> bool {
        self.capacity > 0 && self.classes.get(class as usize).is_some_and(|class| class.slots == 1)
    }

    /// The emptiest worker that takes tasks ahead, while nobody takes one at once. `ready_work` is
    /// what all workers together have to do before they run dry, in microseconds of one slot.
    pub(super) fn room_ahead(&self, want: &Want, ready_work: u64) -> Option<Room> {
        let class = self.classes.get(want.class as usize).filter(|_| self.may_wait(want.class))?;
        let groups = || class.groups.iter().map(|group| &self.groups[*group as usize]);
        let (_, number) = groups().filter_map(|group| group.emptiest).min()?;
        let worker = self.workers.get(number)?;
        let estimate = want.estimate.max(1);
        let rest = ready_work / self.capacity;
        let rounds = rest / worker.longest.max(estimate);
        if rounds < AHEAD_ROUNDS_MIN {
            return None;
        }
        let ahead = (AHEAD_US / estimate).clamp(1, AHEAD_TASKS_MAX).min(rounds / AHEAD_ROUNDS_MIN);
        let ahead = (ahead as u32).min(worker.ahead_max);
        let all: u64 = groups().map(|group| group.capacity).sum();
        let tasks = (worker.capacity * (1 + ahead)).saturating_sub(worker.load);
        let tasks = share(want.tasks, worker.capacity, all).min(tasks);
        (tasks > 0).then_some(Room { worker: number, tasks, is_ahead: true })
    }
}

/// A worker's part of tasks that are too few for all.
fn share(tasks: u32, part: u32, all: u64) -> u32 {
    let share = (u64::from(tasks) * u64::from(part)).div_ceil(all.max(1));
    share.clamp(1, u64::from(tasks.max(1))) as u32
}

fn people_labels() -> Labels {
    // No worker's label begins with an at sign.
    Labels::from([(crate::scheduler::keys::PEOPLE.to_owned(), String::new())])
}

fn has_all(labels: &Labels, wanted: &Labels) -> bool {
    // People do nothing but what only they can.
    let are_people = |labels: &Labels| labels.contains_key(crate::scheduler::keys::PEOPLE);
    if are_people(labels) != are_people(wanted) {
        return false;
    }
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}
