//! Why a lane does not go on, in words that name what it waits for.

use super::lane::Place;
use super::locks::LockName;
use super::{LaneId, Planner, RunState};
use crate::scheduler::model::{Labels, Scope};
use std::sync::Arc;

/// The reason why nothing more of a lane is given out at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// All of it has ended.
    Ended,
    /// All of it is with workers, or has ended.
    Out,
    Paused,
    Stopped,
    /// A case of the same run must end first; so many of its tasks are open.
    Predecessor {
        case: Arc<str>,
        open: u32,
    },
    /// The same for tasks of any run.
    GlobalPredecessor {
        case: Arc<str>,
        open: u64,
    },
    /// All units of the tag are held.
    Tag {
        tag: Arc<str>,
        waiting: usize,
    },
    /// The tag is kept for one that has waited longer.
    TagReserved {
        tag: Arc<str>,
    },
    EnvironmentFull {
        environment: Arc<str>,
        capacity: u32,
    },
    /// Nothing new may start there: it is bad, in maintenance, retired or reserved.
    EnvironmentClosed {
        environment: Arc<str>,
        reason: Arc<str>,
    },
    QueuePaused {
        queue: Arc<str>,
    },
    QueueFull {
        queue: Arc<str>,
        capacity: u32,
    },
    /// No worker has these labels, or none is large enough.
    NoWorker {
        requires: Arc<Labels>,
        slots: u32,
    },
    /// All workers that could run it take nothing for a while.
    WorkersRest {
        workers: Vec<Arc<str>>,
    },
    /// All workers that could run it are full.
    NoSlot,
    /// What it needs is free, but another lane goes first.
    Turn,
    /// Its tasks rest before another attempt.
    Resting,
    /// All that is left waits for a person's verdict.
    Person,
}

impl Planner {
    pub fn why(&self, id: LaneId) -> Option<Why> {
        let run = self.runs.get(id.run)?;
        let lane = run.lanes.get(id.lane as usize)?;
        if lane.has_ended() {
            return Some(Why::Ended);
        }
        match run.state {
            RunState::Paused => return Some(Why::Paused),
            RunState::Stopped => return Some(Why::Stopped),
            RunState::Running => {}
        }
        for predecessor in lane.predecessors() {
            let before = run.lanes.get(predecessor.lane as usize)?;
            let open = before.total - before.ended.count();
            let is_whole = predecessor.scope != Scope::Repeat;
            if open > 0 && (is_whole || lane.claimable() == 0 && lane.open == 0) {
                return Some(Why::Predecessor { case: self.cases.name(before.case).clone(), open });
            }
        }
        if lane.claimable() == 0 {
            return Some(match lane.is_resting() {
                true => Why::Resting,
                false if lane.traits.is_manual => Why::Person,
                false => Why::Out,
            });
        }
        for case in lane.global_predecessors() {
            let open = self.cases.open(*case);
            if open > 0 {
                let case = self.cases.name(*case).clone();
                return Some(Why::GlobalPredecessor { case, open });
            }
        }
        // As lanes are placed: what is closed keeps them first.
        let numbers = || lane.locks.iter().map(|number| (self.locks.get(*number), *number));
        let closed = numbers().find(|(lock, _)| lock.closed.is_some());
        let full = || numbers().find(|(lock, _)| !lock.admits(id));
        if let Some((lock, number)) = closed.or_else(full) {
            let (capacity, waiting) = (lock.capacity, self.locks.waiting(number));
            if let Some(reason) = lock.closed.clone() {
                return Some(match lock.name.clone() {
                    LockName::Queue(queue) => Why::QueuePaused { queue },
                    LockName::Environment(environment) | LockName::Tag(environment) => {
                        Why::EnvironmentClosed { environment, reason }
                    }
                });
            }
            return Some(match &lock.name {
                LockName::Tag(tag) if lock.free() > 0 => Why::TagReserved { tag: tag.clone() },
                LockName::Tag(tag) => Why::Tag { tag: tag.clone(), waiting },
                LockName::Environment(name) => {
                    Why::EnvironmentFull { environment: name.clone(), capacity }
                }
                LockName::Queue(name) => Why::QueueFull { queue: name.clone(), capacity },
            });
        }
        if !self.workers.serves(lane.traits.class) {
            let resting = self.workers.resting_for(lane.traits.class);
            let workers: Vec<_> = resting.map(|worker| worker.name.clone()).collect();
            if !workers.is_empty() {
                return Some(Why::WorkersRest { workers });
            }
            let (requires, slots) = (lane.traits.requires.clone(), lane.traits.slots);
            return Some(Why::NoWorker { requires, slots });
        }
        match lane.place {
            Place::Ready { .. } => Some(Why::NoSlot),
            _ => Some(Why::Turn),
        }
    }
}
