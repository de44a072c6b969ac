//! Whether workers with room were left waiting while a task of the run could have gone there.
//!
//! The record says when attempts started and ended, not what else kept a task back. So this is asked only of runs that
//! had the workers for themselves: one leader, no other run, nobody who paused, drained or set anything meanwhile, and
//! no lost worker. One lane and one start stand for all that a worker could have been given.

use super::audit::{Audit, Rule};
use super::book::{RunBook, parse};
use super::steps::{State, Waits, steps, stretches};
use crate::scheduler::coordinator::WorkerInfo;
use crate::scheduler::keys;
use crate::scheduler::model::{Claim, Labels, Status};
use crate::scheduler::store::{Change, Commit, Kv};

/// How long a worker may wait, in microseconds: many times what the slowest store needs for a claim.
const IDLE_MAX_US: u64 = 5_000_000;
/// Looking costs starts times lanes times workers; beyond this nothing is looked at.
const STEPS_MAX: u64 = 50_000_000;

/// Whether nothing else than the run itself decided when its tasks ran: by what claims, tags and its queue held before
/// it was submitted, and all commits since.
pub fn is_undisturbed(run: &str, before: &[Kv], commits: &[Commit]) -> bool {
    if !before.is_empty() {
        return false;
    }
    let mut epoch = None;
    for commit in commits {
        for change in &commit.changes {
            match change {
                Change::Put(kv) if is_disturbing(run, kv, &mut epoch) => return false,
                Change::Delete { key } if *key == keys::open(run) => return true,
                Change::Delete { key } if key.starts_with(keys::WORKERS) => return false,
                _ => {}
            }
        }
    }
    // It has not ended.
    false
}

fn is_disturbing(run: &str, kv: &Kv, epoch: &mut Option<i64>) -> bool {
    let key = &*kv.key;
    let is_new = kv.create_revision == kv.mod_revision;
    if key.starts_with(keys::CLAIMS) {
        return !parse::<Claim>(kv).is_some_and(|claim| {
            claim.run == run && claim.epoch == *epoch.get_or_insert(claim.epoch)
        });
    }
    let others = [keys::QUEUES, keys::TAG_DEFINITIONS, keys::CHECKS, keys::COMMANDS];
    key == keys::control(run)
        || key.starts_with(keys::WORKERS) && !is_new
        || key.starts_with(keys::OPEN) && key != keys::open(run)
        || others.iter().any(|prefix| key.starts_with(prefix))
}

/// Looks at a run that has ended, undisturbed.
pub fn idleness(book: &RunBook) -> Audit {
    let mut audit = Audit { revision: book.revision, ..Default::default() };
    let found = stretches(book);
    let cost = found.len() as u64 * book.plan.lanes.len() as u64 * book.workers.len() as u64;
    let is_lost = book.attempts.iter().any(|attempt| attempt.row.status == Status::Lost);
    if cost > STEPS_MAX || is_lost {
        return audit;
    }
    let ours = book.workers.iter().filter(|(_, info)| !info.at_will);
    let mut workers: Vec<Waiting<'_>> = ours.map(Waiting::new).collect();
    let mut state = State::new(book);
    for (at, is_start, stretch) in steps(&found) {
        audit.looked(Rule::Idleness, u64::from(is_start));
        let name = &*book.attempts[stretch.attempt as usize].worker;
        let slots = book.plan.lanes.get(stretch.lane as usize).map_or(1, |plan| plan.slots);
        for worker in &mut workers {
            // The instant itself belongs to what was before.
            worker.look(book, at, &mut audit);
            if worker.name == name {
                worker.step(slots, is_start);
            }
        }
        state.step(stretch, is_start);
        let free: Vec<usize> = (0..book.plan.lanes.len())
            .filter(|lane| state.of_lane(*lane) == Waits::ForNothing)
            .collect();
        for worker in &mut workers {
            worker.note(book, &free, at);
        }
    }
    audit
}

/// A worker, and since when something could have gone there.
struct Waiting<'b> {
    name: &'b str,
    info: &'b WorkerInfo,
    offers: Labels,
    used: u32,
    has_begun: bool,
    since: Option<(u64, usize)>,
}

impl<'b> Waiting<'b> {
    fn new((name, info): (&'b String, &'b WorkerInfo)) -> Self {
        let offers = info.offers();
        Self { name, info, offers, used: 0, has_begun: false, since: None }
    }

    /// Says so if it has waited for too long by now.
    fn look(&mut self, book: &RunBook, now: u64, audit: &mut Audit) {
        let Some((since, lane)) = self.since else { return };
        if now.saturating_sub(since) > IDLE_MAX_US {
            self.since = None;
            let (name, ms) = (self.name, (now - since) / 1_000);
            let case = book.plan.lanes.get(lane).map(|plan| plan.case.clone());
            audit.fault(Rule::Idleness, || {
                format!(
                    "worker {name} had room for {ms} ms while case {} could run",
                    case.unwrap_or_default()
                )
            });
        }
    }

    fn step(&mut self, slots: u32, is_start: bool) {
        if is_start {
            self.used += slots;
            self.has_begun = true;
            self.since = None;
        } else {
            self.used = self.used.saturating_sub(slots);
        }
    }

    /// Takes note of whether one of these lanes could have a task there.
    fn note(&mut self, book: &RunBook, free: &[usize], now: u64) {
        let room = self.info.max_task_num.saturating_sub(self.used);
        let fits = |lane: &usize| {
            let plan = &book.plan.lanes[*lane];
            let can_run =
                !plan.is_manual && !plan.is_skipped && plan.global_predecessors.is_empty();
            let has = |(name, value): (&String, &String)| self.offers.get(name) == Some(value);
            can_run && plan.slots <= room && plan.requires.iter().all(has)
        };
        let lane = free.iter().find(|lane| self.has_begun && fits(lane));
        self.since = lane.map(|lane| self.since.unwrap_or((now, *lane)));
    }
}
