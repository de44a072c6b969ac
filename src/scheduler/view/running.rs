//! Which of the tasks that workers have really run, and how fast the run goes on with them.

use super::book::{Open, RunBook};
use super::live::beat;
use super::numbers::Rest;
use crate::scheduler::coordinator::{Control, WorkerInfo};
use crate::scheduler::keys;
use crate::scheduler::model::{Item, Row};
use crate::scheduler::planner::Verdict;
use crate::scheduler::store::Kv;
use serde::Serialize;
use std::collections::BTreeMap;

/// How far back one looks to see how fast a run is, in microseconds.
const WINDOW_US: u64 = 30_000_000;
/// In less time there is nothing to see.
const WINDOW_US_MIN: u64 = 1_000_000;

/// By lane and ordinal: since when a task runs, in milliseconds since 1970; 0 where nobody says.
pub(super) type RunningTasks = BTreeMap<(u32, u32), u64>;

/// Of all that workers have, what they run: what they said last of it, which may be a second old, and of
/// the rest as much as they have slots, since no worker leaves a slot idle while it has something. A
/// claim with tags is run task by task. A worker that is not known as one runs all that it has.
pub(super) fn running(
    run: &str,
    open: &[Open],
    workers: &BTreeMap<String, WorkerInfo>,
    kvs: &[Kv],
    slots_of: impl Fn(u32) -> u32,
) -> RunningTasks {
    let mut found = RunningTasks::new();
    let mut free: BTreeMap<&str, u32> = BTreeMap::new();
    for (worker, info) in workers {
        free.insert(worker, info.max_task_num);
    }
    for kv in kvs {
        let Some(worker) = kv.key.strip_prefix(keys::BEATS) else { continue };
        for (of, lane, ordinal, _, since) in beat(kv) {
            let has =
                |open: &Open| open.is_held && &*open.worker == worker && has(open, lane, ordinal);
            let is_here = of == run && open.iter().any(has);
            // What other runs have of it is not known any better.
            let slots = if of == run { slots_of(lane) } else { 1 };
            if let Some(free) = free.get_mut(worker).filter(|_| is_here || of != run) {
                *free = free.saturating_sub(slots);
            }
            if is_here {
                found.insert((lane, ordinal), since);
            }
        }
    }
    for open in open.iter().filter(|open| open.is_held) {
        let free = free.entry(&open.worker).or_insert(u32::MAX);
        let is_one_by_one = !open.tags.is_empty();
        let known = found.keys().any(|(lane, ordinal)| has(open, *lane, *ordinal));
        if is_one_by_one && known {
            continue;
        }
        let tasks = open
            .items
            .iter()
            .flat_map(|item| (item.from..item.to).map(|ordinal| (item.lane, ordinal)));
        let tasks = tasks.filter(|task| !found.contains_key(task));
        let most = if is_one_by_one { 1 } else { usize::MAX };
        let mut started = Vec::new();
        for task in tasks.take(most) {
            let Some(left) = free.checked_sub(slots_of(task.0)) else { break };
            *free = left;
            started.push((task, 0));
        }
        found.extend(started);
    }
    found
}

fn has(open: &Open, lane: u32, ordinal: u32) -> bool {
    let is_it = |item: &Item| item.lane == lane && (item.from..item.to).contains(&ordinal);
    open.items.iter().any(is_it)
}

/// How fast a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Pace {
    /// Tasks that end in a second: of late, or on average of a run that has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// When it should have ended, in milliseconds since 1970: what is left, as fast as slots worked of late with
    /// the time between two tasks in it, but not before tags and predecessors let it. None while nothing runs, or it
    /// is paused, or waits for people, who take their time; and where it should have ended by now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends: Option<u64>,
    /// All that is left runs, and each of it for longer than its like took.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_overdue: bool,
}

impl Pace {
    /// At a time in milliseconds since 1970, which should be that at which the book was read.
    pub fn of(book: &RunBook, now: u64) -> Self {
        let end = |row: &Row| row.start.saturating_mul(1_000).saturating_add(row.duration);
        let starts = book.attempts.iter().map(|attempt| attempt.row.start);
        let starts = starts.chain(book.running.values().copied().filter(|since| *since > 0));
        let Some(first) = starts.min().map(|first| first.saturating_mul(1_000)) else {
            return Self::default();
        };
        let last = book.attempts.iter().map(|attempt| end(&attempt.row)).max();
        let now_us = now.saturating_mul(1_000);
        let to = if book.is_open { now_us } else { last.unwrap_or(now_us) };
        let from = if book.is_open { first.max(to.saturating_sub(WINDOW_US)) } else { first };
        let window = to.saturating_sub(from);
        let (mut ended, mut busy) = (0_u64, 0);
        for attempt in &book.attempts {
            let (row, slots) = (&attempt.row, u64::from(book.slots_of(attempt.row.lane)));
            let at = end(row).min(to);
            busy += slots * at.saturating_sub(row.start.saturating_mul(1_000).max(from));
            let is_last = matches!(attempt.verdict, Verdict::Ended(..) | Verdict::GivenUp(_));
            ended += u64::from(is_last && at >= from);
        }
        let rate = (window > 0).then(|| ended as f64 * 1_000_000.0 / window as f64);
        if !book.is_open {
            return Self { rate, ..Default::default() };
        }
        if window < WINDOW_US_MIN {
            return Self::default();
        }
        let rest = Rest::new(book);
        for ((lane, _), since) in &book.running {
            let ran = match *since {
                // Nobody has said since when, so that it is no longer than such a task takes.
                0 => rest.each(*lane).min(window),
                since => to.saturating_sub(since.saturating_mul(1_000).max(from)),
            };
            busy += u64::from(book.slots_of(*lane)) * ran;
        }
        let slots = busy as f64 / window as f64;
        let (work, least) = rest.left_at(now);
        let by_pace = (slots > 0.0).then(|| (work as f64 / slots) as u64);
        let is_known = !book.running.is_empty() && book.control == Control::Running;
        let is_known = is_known && !book.waits_for_people();
        let left = by_pace.map(|by_pace| by_pace.max(least)).filter(|_| is_known);
        Self {
            rate,
            ends: left.filter(|left| *left > 0).map(|left| now.saturating_add(left / 1_000)),
            is_overdue: left == Some(0),
        }
    }
}

impl RunBook {
    /// Whether a worker that took part is there no more; people are no worker.
    pub fn is_gone(&self, worker: &str) -> bool {
        worker != keys::PEOPLE && !self.workers.contains_key(worker)
    }

    /// How many tasks run.
    pub fn running(&self) -> u64 {
        self.running.len() as u64
    }

    /// How many tasks workers have and do not run yet.
    pub fn assigned(&self) -> u64 {
        let items = self.open.iter().flat_map(|open| &open.items);
        let out: u64 = items.map(|item| u64::from(item.count())).sum();
        out.saturating_sub(self.running())
    }

    /// What runs: lane, ordinal, the worker, and since when, in milliseconds since 1970, where that is known.
    pub fn running_tasks(&self) -> impl Iterator<Item = (u32, u32, &str, Option<u64>)> {
        let out = self.out();
        self.running.iter().filter_map(move |((lane, ordinal), since)| {
            let of_lane = out.get(lane)?;
            let found = of_lane.iter().find(|(item, _)| (item.from..item.to).contains(ordinal))?;
            Some((*lane, *ordinal, &*found.1.worker, (*since > 0).then_some(*since)))
        })
    }

    /// Whether tasks of manual cases have not ended.
    fn waits_for_people(&self) -> bool {
        let manual = (0..).zip(&self.plan.lanes).filter(|(_, plan)| plan.is_manual);
        manual.map(|(lane, _)| self.lane_totals(lane)).any(|totals| totals.ended() < totals.total)
    }

    /// Of a lane's tasks, how many run.
    pub(super) fn running_of(&self, lane: u32) -> u32 {
        self.running.range((lane, 0)..=(lane, u32::MAX)).count() as u32
    }

    pub(super) fn slots_of(&self, lane: u32) -> u32 {
        self.plan.lanes.get(lane as usize).map_or(1, |plan| plan.slots)
    }
}
