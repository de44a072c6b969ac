//! Why what has not started has not started: the planner is built from the store as a new leader
//! builds it, and asked.

use super::book::{RunBook, parse};
use super::live::beat;
use crate::scheduler::coordinator::{Coordinator, Rest, Settings, TagHold};
use crate::scheduler::keys;
use crate::scheduler::model::{Labels, Scope};
use crate::scheduler::planner::{LaneId, Why};
use crate::scheduler::store::Kv;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// Workers that rest are named, so many.
const RESTING_MAX: usize = 3;

/// Who has a unit of a tag.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Holder {
    pub tag: String,
    pub unit: u32,
    pub run: String,
    pub worker: String,
    /// Of the run; empty where that is not known.
    pub case: String,
    /// The revision at which it was taken.
    pub since: i64,
    /// Since when its worker runs something under it, in milliseconds since 1970, as that says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Its worker was lost; it is kept until that has certainly stopped.
    pub draining: bool,
}

/// Tasks of a lane that wait, and for what.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Waiting {
    pub lane: u32,
    pub case: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub environment: String,
    /// How many of its tasks wait.
    pub tasks: u64,
    /// Since when, in milliseconds since 1970: the submit, or the last end of one of its tasks or of a
    /// predecessor's.
    pub since: u64,
    /// One word: predecessor, tag, environment, queue, label, slot, turn, rest, verdict, store, scheduler,
    /// paused, stopped.
    pub reason: &'static str,
    /// The same for people, with names.
    pub text: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<Holder>,
}

impl Waiting {
    /// Whatever could run waits for somebody who gives it out.
    pub(super) fn blame_no_leader(&mut self) {
        if matches!(self.reason, "slot" | "turn" | "rest") {
            self.reason = "scheduler";
            self.text = "no scheduler leads: nobody gives tasks out".into();
        }
    }

    pub(super) fn is_for_slot(&self) -> bool {
        self.reason == "slot"
    }

    /// Workers keep their slots while the store takes no results.
    pub(super) fn blame_full_store(&mut self) {
        if self.is_for_slot() {
            self.reason = "store";
            self.text = "the store is full: workers wait until it takes their results".into();
        }
    }
}

/// Why the lanes of a run wait, those that do. `kvs` is what a leader reads: open runs with their parts
/// and segments, claims, workers, tags, their definitions, queues and environments.
pub fn waiting(book: &RunBook, kvs: &[Kv], now: u64) -> Vec<Waiting> {
    let nobody = (String::new(), 0);
    let leader = Coordinator::load(now, Settings::default(), nobody, kvs, book.revision);
    let Some(run) = leader.run_number(&book.spec.id) else { return Vec::new() };
    let holders = holders(book, kvs);
    let ends = last_ends(book);
    let mut found = Vec::new();
    for view in book.lanes() {
        let ended = view.totals.ended();
        let out = u64::from(view.running + view.assigned);
        let tasks = view.totals.total.saturating_sub(ended + out);
        let why = leader.planner().why(LaneId { run, lane: view.lane });
        let why = why.filter(|why| !matches!(why, Why::Ended | Why::Out));
        let is_manual = book.plan.lanes.get(view.lane as usize).is_some_and(|lane| lane.is_manual);
        let shown = if is_manual { out } else { 0 };
        for (tasks, why) in [(shown, Some(Why::Person)), (tasks, why)] {
            let Some(why) = why.filter(|_| tasks > 0) else { continue };
            let held: Vec<Holder> = match &why {
                Why::Tag { tag, .. } | Why::TagReserved { tag } => {
                    holders.iter().filter(|holder| *holder.tag == **tag).cloned().collect()
                }
                _ => Vec::new(),
            };
            let (reason, text) = match &why {
                Why::WorkersRest { workers } => ("slot", resting(book, workers, now)),
                why => words(book, view.lane, why, &held),
            };
            let (case, environment) = (view.case.clone(), view.environment.clone());
            let (lane, since) = (view.lane, since(book, &ends, view.lane));
            let holders = held;
            found.push(Waiting { lane, case, environment, tasks, since, reason, text, holders });
        }
    }
    found
}

/// By lane: when one of its tasks ended last, in milliseconds since 1970.
fn last_ends(book: &RunBook) -> Vec<u64> {
    let mut ends = vec![book.spec.submitted; book.plan.lanes.len()];
    for attempt in &book.attempts {
        if let Some(end) = ends.get_mut(attempt.row.lane as usize) {
            *end = (*end).max(attempt.row.start + attempt.row.duration / 1_000);
        }
    }
    ends
}

fn since(book: &RunBook, ends: &[u64], lane: u32) -> u64 {
    let plan = book.plan.lanes.get(lane as usize);
    let befores = plan.into_iter().flat_map(|plan| &plan.predecessors).map(|before| before.lane);
    let known = befores.chain([lane]).filter_map(|lane| ends.get(lane as usize));
    known.copied().max().unwrap_or(book.spec.submitted)
}

/// Who holds which tags, in all runs.
fn holders(book: &RunBook, kvs: &[Kv]) -> Vec<Holder> {
    let tags = kvs.iter().filter(|kv| kv.key.starts_with(keys::TAGS));
    let starts = starts(kvs);
    let holder = |kv: &Kv| {
        let (tag, unit) = keys::parse_tag(&kv.key)?;
        let hold: TagHold = parse(kv).unwrap_or_default();
        let is_own = hold.run == book.spec.id;
        let plan = book.plan.lanes.get(hold.lane as usize).filter(|_| is_own);
        Some(Holder {
            tag: tag.to_owned(),
            unit,
            case: plan.map(|plan| plan.case.to_string()).unwrap_or_default(),
            since: kv.mod_revision,
            since_ms: starts.get(&(hold.worker.clone(), hold.run.clone(), hold.lane)).copied(),
            run: hold.run,
            worker: hold.worker,
            draining: hold.draining,
        })
    };
    tags.filter_map(holder).collect()
}

/// By worker, run and lane: since when the worker runs tasks of the lane, in milliseconds since 1970, as it says.
pub fn starts(kvs: &[Kv]) -> BTreeMap<(String, String, u32), u64> {
    let mut starts = BTreeMap::new();
    for kv in kvs {
        let Some(worker) = kv.key.strip_prefix(keys::BEATS) else { continue };
        for (run, lane, _, _, since) in beat(kv).into_iter().filter(|(.., since)| *since > 0) {
            let start = starts.entry((worker.to_owned(), run, lane)).or_insert(since);
            *start = since.min(*start);
        }
    }
    starts
}

/// One word for what is waited for, and a sentence.
fn words(book: &RunBook, lane: u32, why: &Why, held: &[Holder]) -> (&'static str, String) {
    match why {
        Why::Ended => ("ended", "it has ended".into()),
        Why::Out => ("out", "all of it is with workers".into()),
        Why::Paused => ("paused", "the run is paused".into()),
        Why::Stopped => ("stopped", "the run is being stopped".into()),
        Why::Predecessor { case, open } => ("predecessor", predecessor(book, lane, case, *open)),
        Why::GlobalPredecessor { case, open } => {
            ("predecessor", format!("case {case}: {open} tasks of it are open, in all runs"))
        }
        Why::Tag { tag, waiting } => {
            let mut text = format!("tag {} is held", show_tag(tag));
            for (holder, first) in
                held.iter().zip([true].into_iter().chain(std::iter::repeat(false)))
            {
                let of_case = match holder.case.as_str() {
                    "" => format!("run {}", holder.run),
                    case => format!("case {case}"),
                };
                let lost = if holder.draining { ", which was lost" } else { "" };
                let join = if first { " by" } else { " and" };
                // It cannot fail.
                let _infallible = match &*holder.worker {
                    keys::PEOPLE => write!(text, "{join} {of_case}, which a person judges"),
                    worker => write!(text, "{join} {of_case} on {worker}{lost}"),
                };
            }
            let lanes =
                if *waiting == 1 { "1 lane waits".into() } else { format!("{waiting} lanes wait") };
            ("tag", format!("{text}; {lanes} for it"))
        }
        Why::TagReserved { tag } => {
            ("tag", format!("tag {} is kept for a lane that has waited longer", show_tag(tag)))
        }
        Why::EnvironmentFull { environment, capacity } => {
            ("environment", format!("environment {environment} takes {capacity} at once"))
        }
        Why::EnvironmentClosed { environment, reason } => {
            ("environment", format!("environment {environment} is closed, {reason}"))
        }
        Why::QueuePaused { queue } => ("queue", format!("queue {queue} is paused")),
        Why::Person => ("verdict", "a person has not given a verdict yet".into()),
        Why::QueueFull { queue, capacity } => {
            ("queue", format!("queue {queue} takes {capacity} at once"))
        }
        Why::NoWorker { .. } if book.workers.values().all(|worker| worker.draining) => {
            ("label", "there is no worker".into())
        }
        Why::NoWorker { requires, slots } => ("label", no_worker(requires, *slots)),
        Why::WorkersRest { .. } => ("slot", "all workers that could run it rest".into()),
        Why::NoSlot => ("slot", "all workers that could run it are full".into()),
        Why::Turn => ("turn", "other lanes go first".into()),
        Why::Resting => ("rest", "it rests before another attempt".into()),
    }
}

/// Which workers take nothing for a while, why, and for how long.
fn resting(book: &RunBook, workers: &[Arc<str>], now: u64) -> String {
    let texts = workers.iter().take(RESTING_MAX).map(|worker| {
        let rest = book.workers.get(&**worker).and_then(|info| info.resting.clone());
        let Rest { why, until } = rest.unwrap_or_default();
        match until.saturating_sub(now).div_ceil(1_000) {
            0 => format!("worker {worker} rests: {why}"),
            seconds => format!("worker {worker} rests for {seconds} s: {why}"),
        }
    });
    let texts: Vec<String> = texts.collect();
    let more = workers.len() - texts.len();
    let more = if more > 0 { format!("; {more} more rest") } else { String::new() };
    format!("{}{more}", texts.join("; "))
}

fn predecessor(book: &RunBook, lane: u32, case: &str, open: u32) -> String {
    let plan = book.plan.lanes.get(lane as usize);
    let befores = plan.into_iter().flat_map(|plan| &plan.predecessors);
    let mut named = befores.filter(|before| {
        book.plan.lanes.get(before.lane as usize).is_some_and(|lane| *lane.case == *case)
    });
    let total = named.clone().next().and_then(|before| book.plan.lanes.get(before.lane as usize));
    let total = total.map_or(0, |lane| lane.total);
    match named.any(|before| before.scope == Scope::Repeat) {
        true => {
            format!("case {case}: the same repeat of it must end first, {open} of {total} are open")
        }
        false => format!("case {case} must end first: {open} of {total} repeats are open"),
    }
}

fn no_worker(requires: &Labels, slots: u32) -> String {
    let labels = requires.iter().filter(|(name, _)| !name.starts_with('@'));
    let mut wanted: Vec<String> = labels.map(|(name, value)| format!("{name}={value}")).collect();
    if slots > 1 {
        wanted.push(format!("{slots} slots"));
    }
    let wanted = wanted.join(", ");
    match (requires.contains_key(keys::COMMANDING), wanted.is_empty()) {
        (true, true) => "no worker runs commands".into(),
        (true, false) => format!("no worker with {wanted} runs commands"),
        (false, true) => "there is no worker".into(),
        (false, false) => format!("no worker with {wanted}"),
    }
}

/// A tag as it was named, with its scope behind it.
fn show_tag(tag: &str) -> String {
    match tag.split_once('/') {
        Some((name, scope)) => match scope.split_once('/') {
            Some(("env", environment)) => format!("{name} in {environment}"),
            _ => format!("{name} of this run"),
        },
        None => tag.to_owned(),
    }
}
