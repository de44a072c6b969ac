//! All that the store shows of one run at one revision, booked.

use super::limits::Limits;
use super::running::{self, RunningTasks};
use crate::scheduler::coordinator::{Control, LanePack, RunStatus, WorkerInfo, is_leader, plan_of};
use crate::scheduler::keys;
use crate::scheduler::model::{
    Claim, Environment, Item, LaneCheckpoint, Refusal, Row, RunPlan, RunSpec, Segment, Status,
    TestCase, Totals, Unread,
};
use crate::scheduler::planner::{LaneId, Planner, RunNo, RunSetup, Verdict};
use crate::scheduler::record::Block;
use crate::scheduler::store::Kv;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

/// The end of an attempt as it was recorded.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub row: Row,
    pub worker: Arc<str>,
    /// Of the record.
    pub revision: i64,
    /// The claim's create revision, which is the fencing token; 0 where there was none.
    pub claim: i64,
    /// What it meant for its task.
    pub verdict: Verdict,
}

impl Attempt {
    /// When it began, in milliseconds since 1970; not known of what was lost with its worker, which may not have
    /// begun at all: its row has the time at which that was noticed.
    pub fn start(&self) -> Option<u64> {
        let is_lost = self.row.status == Status::Lost && self.row.duration == 0;
        (!is_lost).then_some(self.row.start)
    }
}

/// Why a claim was canceled by force: the value of `run/{run}/forced/{worker}/{claim}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Forced {
    pub tag: String,
    pub reason: String,
    /// Who did it; may be empty.
    pub by: String,
}

/// Tasks that a worker has.
#[derive(Clone, Debug)]
pub struct Open {
    pub worker: Arc<str>,
    /// The claim's key.
    pub claim: String,
    /// Create revision of the claim.
    pub fence: i64,
    pub items: Vec<Item>,
    pub tags: Vec<String>,
    /// The worker is there as it was when it was given these. What a lost one had waits to be taken back, and
    /// what waits for people is with nobody yet.
    pub is_held: bool,
}

/// One run at one revision.
#[derive(Debug)]
pub struct RunBook {
    pub spec: RunSpec,
    pub plan: RunPlan,
    /// By number: lane n is case n mod their count.
    cases: Vec<Unread>,
    pub environments: Vec<Environment>,
    pub control: Control,
    /// As the leader wrote it last; empty state while it has not seen the run.
    pub status: RunStatus,
    pub is_open: bool,
    /// In the order of revisions.
    pub attempts: Vec<Attempt>,
    pub open: Vec<Open>,
    /// A scheduler leads.
    pub(super) has_leader: bool,
    pub workers: BTreeMap<String, WorkerInfo>,
    /// Units of tags that have more than one, by the part of the key behind `tag/`.
    pub capacities: BTreeMap<String, u32>,
    pub(super) limits: Limits,
    /// Tags whose capacity was set after the submit.
    pub(super) redefined: BTreeSet<String>,
    pub revision: i64,
    /// Of what workers have, what runs.
    pub(super) running: RunningTasks,
    /// By lane, of those that have any: what ended without an attempt, such as skipped tasks.
    pub(super) unstarted: BTreeMap<u32, LaneCheckpoint>,
    /// Counted from attempts alone, by lane.
    pub(super) counted: Vec<LaneCheckpoint>,
    /// Attempts by task: lane, ordinal, place in `attempts`; in order.
    pub(super) index: Vec<(u32, u32, u32)>,
    /// The most slots that each worker used at once; found when somebody asks for it.
    pub(super) peaks: OnceLock<BTreeMap<Arc<str>, u64>>,
}

/// What may be tried again.
const AGAIN: [Status; 4] = [Status::Failed, Status::Error, Status::TimedOut, Status::Lost];

/// What a key holds, if it is what it should be.
pub(super) fn parse<T: DeserializeOwned>(kv: &Kv) -> Option<T> {
    serde_json::from_slice(&kv.value).ok()
}

impl RunBook {
    /// From all keys of the run (`run/{run}`, its parts and its segments), and those of claims, workers,
    /// leaders and definitions of tags; more does no harm.
    ///
    /// # Errors
    ///
    /// 404 when there is no such run, 422 when its definitions are not there or make no run.
    pub fn new(run: &str, kvs: &[Kv], revision: i64) -> Result<Self, Refusal> {
        let find = |key: &str| kvs.iter().find(|kv| kv.key == key);
        let spec = find(&keys::run(run)).and_then(parse::<RunSpec>);
        let spec = spec.ok_or_else(|| Refusal::new(404, format!("unknown run {run}")))?;
        let (environments, plan, cases) = plan_of(&spec, run, kvs)
            .ok_or_else(|| Refusal::new(422, format!("run {run} has lost its definitions")))?;
        let mut book = Self {
            plan,
            cases,
            environments,
            control: find(&keys::control(run)).and_then(parse).unwrap_or_default(),
            status: find(&keys::status(run)).and_then(parse).unwrap_or_default(),
            is_open: find(&keys::open(run)).is_some(),
            attempts: Vec::new(),
            open: open_claims(run, kvs),
            has_leader: kvs.iter().any(is_leader),
            workers: BTreeMap::new(),
            capacities: BTreeMap::new(),
            limits: Limits::default(),
            redefined: BTreeSet::new(),
            revision,
            running: BTreeMap::new(),
            unstarted: BTreeMap::new(),
            counted: Vec::new(),
            index: Vec::new(),
            peaks: OnceLock::new(),
            spec,
        };
        book.limits = Limits::new(&book.environments, &book.spec.queue, find);
        let submitted = find(&keys::run(run)).map(|spec| spec.mod_revision);
        for kv in kvs {
            if let Some(worker) = kv.key.strip_prefix(keys::WORKERS) {
                book.workers.insert(worker.to_owned(), parse(kv).unwrap_or_default());
            } else if let Some(tag) = kv.key.strip_prefix(keys::TAG_DEFINITIONS) {
                let value: serde_json::Value = parse(kv).unwrap_or_default();
                let capacity = value["capacity"].as_u64().and_then(|n| u32::try_from(n).ok());
                book.capacities.extend(capacity.map(|capacity| (tag.to_owned(), capacity)));
                if submitted.is_some_and(|submitted| kv.mod_revision > submitted) {
                    book.redefined.insert(tag.to_owned());
                }
            }
        }
        let slots_of = |lane| book.slots_of(lane);
        book.running = running::running(run, &book.open, &book.workers, kvs, slots_of);
        book.count(kvs);
        Ok(book)
    }

    /// Books all attempts, and then what checkpoints know beyond them.
    fn count(&mut self, kvs: &[Kv]) {
        let mut planner = Planner::new();
        let run = planner.add_run(0, RunSetup { plan: self.plan.clone(), ..Default::default() });
        let forced = forced(&self.spec.id, kvs);
        for (mut attempt, claim) in attempts(&self.spec.id, kvs) {
            let force = match attempt.row.status {
                Status::Canceled if !forced.is_empty() => {
                    forced.get(&(attempt.worker.to_string(), claim.to_string()))
                }
                _ => None,
            };
            explain(&mut attempt.row, &attempt.worker, force.map(String::as_str));
            attempt.verdict = planner.restore_row(run, &attempt.row, &attempt.worker);
            self.attempts.push(attempt);
        }
        let places = self.attempts.iter().zip(0..);
        self.index = places.map(|(found, at)| (found.row.lane, found.row.ordinal, at)).collect();
        self.index.sort_unstable();
        self.counted = counted(&planner, run, self.plan.lanes.len() as u32);
        let prefix = format!("{}lane/", keys::run_parts(&self.spec.id));
        for kv in kvs.iter().filter(|kv| kv.key.starts_with(&prefix)) {
            for (lane, known) in parse::<LanePack>(kv).unwrap_or_default().lanes {
                let more = AGAIN.map(|status| match known.totals.get(status) {
                    0 => (status, 0),
                    all => (status, all.saturating_sub(self.ended_before(lane, status, &known))),
                });
                self.give_up(lane..lane + 1, |ordinal| known.ended.contains(ordinal), more);
                let Some(counted) = self.counted.get(lane as usize) else { continue };
                let beyond = self.beyond(lane, &known, counted);
                if beyond != LaneCheckpoint::default() {
                    self.unstarted.insert(lane, beyond);
                }
            }
        }
        if self.status.ended.is_some() {
            let known = self.totals();
            let totals = &self.status.totals;
            let lanes = 0..self.plan.lanes.len() as u32;
            let more = |status| (status, totals.get(status).saturating_sub(known.get(status)));
            let more = AGAIN.map(more);
            self.give_up(lanes, |_| true, more);
            self.count_rest();
        }
    }

    /// In a run that was stopped nothing is tried again: of what would have been, the last attempt counts.
    /// Of lanes, and of those of their ordinals that have ended, as many as `left` tells of a status beyond
    /// what attempts show by themselves. What failed before the stop rested, and was skipped: the latest
    /// attempts are meant.
    fn give_up(
        &mut self,
        lanes: std::ops::Range<u32>,
        has_ended: impl Fn(u32) -> bool,
        mut left: [(Status, u64); 4],
    ) {
        if left.iter().all(|(_, left)| *left == 0) {
            return;
        }
        let from = self.index.partition_point(|(lane, ..)| *lane < lanes.start);
        let to = self.index.partition_point(|(lane, ..)| *lane < lanes.end);
        let of_lanes = &self.index[from..to];
        let nexts = of_lanes.iter().skip(1).map(Some).chain([None]);
        let last_of_task = of_lanes.iter().zip(nexts).filter(|((lane, ordinal, at), next)| {
            next.is_none_or(|(l, o, _)| (l, o) != (lane, ordinal))
                && has_ended(*ordinal)
                && matches!(self.attempts[*at as usize].verdict, Verdict::Again(_))
        });
        let mut places: Vec<u32> = last_of_task.map(|((.., at), _)| *at).collect();
        places.sort_unstable();
        for place in places.into_iter().rev() {
            let attempt = &mut self.attempts[place as usize];
            let (lane, status) = (attempt.row.lane as usize, attempt.row.status);
            let left = left.iter_mut().find(|(of, left)| *of == status && *left > 0);
            let Some((_, left)) = left else { continue };
            *left -= 1;
            attempt.verdict = Verdict::GivenUp(status);
            let is_muted = self.plan.lanes[lane].is_muted;
            let counted = &mut self.counted[lane];
            counted.ended.insert(attempt.row.ordinal);
            counted.totals.add(status, 1);
            counted.totals.failures += u64::from(status.fails_run() && !is_muted);
        }
    }

    /// Tasks of a run that has ended which ended without an attempt and are in no checkpoint, as many as the
    /// totals tell. Which lane's did how is not written down where they differ.
    fn count_rest(&mut self) {
        let known = self.totals();
        // All others have an attempt that ended them.
        let mut left = [Status::Skipped, Status::Canceled].map(|status| {
            let count = self.status.totals.get(status);
            (status, count.saturating_sub(known.get(status)))
        });
        for (lane, counted) in (0..).zip(&self.counted) {
            if self.unstarted.contains_key(&lane) {
                continue;
            }
            let mut rest = LaneCheckpoint::default();
            let total = self.plan.lanes[lane as usize].total;
            let mut from = 0;
            for (start, end) in counted.ended.intervals().chain([(total, total)]) {
                for (status, left) in &mut left {
                    let count = u64::from(start - from).min(*left);
                    let to = from + count as u32;
                    rest.ended.insert_range(from, to);
                    if count > 0 {
                        rest.totals.add(*status, count);
                    }
                    (*left, from) = (*left - count, to);
                }
                from = end;
            }
            if rest != LaneCheckpoint::default() {
                self.unstarted.insert(lane, rest);
            }
        }
    }

    /// What a checkpoint knows of a lane that no attempt shows.
    fn beyond(
        &self,
        lane: u32,
        known: &LaneCheckpoint,
        counted: &LaneCheckpoint,
    ) -> LaneCheckpoint {
        let mut ended = known.ended.clone();
        for ordinal in counted.ended.iter() {
            ended.remove(ordinal);
        }
        let mut totals = Totals::default();
        let mut left = u64::from(ended.count());
        // Those that were given up after an attempt count among these, not among the passed.
        for status in [Status::Canceled, Status::Skipped, Status::Lost] {
            let of_attempts = self.ended_before(lane, status, known);
            let more = known.totals.get(status).saturating_sub(of_attempts).min(left);
            if more > 0 {
                totals.add(status, more);
                left -= more;
            }
        }
        LaneCheckpoint { ended, totals, ..Default::default() }
    }

    /// Tasks that ended so by an attempt, as far as a checkpoint knows them.
    fn ended_before(&self, lane: u32, status: Status, known: &LaneCheckpoint) -> u64 {
        let from = self.index.partition_point(|(of, ..)| *of < lane);
        let of_lane = self.index[from..].iter().take_while(|(of, ..)| *of == lane);
        let ended = of_lane.filter(|(_, ordinal, at)| {
            let verdict = self.attempts[*at as usize].verdict;
            known.ended.contains(*ordinal)
                && matches!(verdict, Verdict::Ended(found, _) | Verdict::GivenUp(found) if found == status)
        });
        ended.count() as u64
    }

    /// How the tasks of a lane have ended so far; all that have not are with workers or pending.
    pub fn lane_totals(&self, lane: u32) -> Totals {
        let Some(counted) = self.counted.get(lane as usize) else { return Totals::default() };
        let mut totals = counted.totals.clone();
        if let Some(unstarted) = self.unstarted.get(&lane) {
            totals.merge(&unstarted.totals);
        }
        totals
    }

    /// How the tasks of the run have ended so far.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for lane in 0..self.counted.len() as u32 {
            totals.merge(&self.lane_totals(lane));
        }
        totals
    }

    /// accepted, waiting, running, paused, canceling, or how it ended. A leader writes down that a run waits
    /// when that has lasted, not between one task and the next; where none leads, nobody does.
    pub fn state(&self) -> &str {
        let is_held = self.open.iter().any(|open| open.is_held);
        let is_held = (is_held || !self.has_leader).then_some(is_held);
        super::state_of(&self.status.state, self.control, is_held)
    }

    /// All attempts of a task, the first first.
    pub fn attempts_of(&self, lane: u32, ordinal: u32) -> impl Iterator<Item = &Attempt> {
        let from = self.index.partition_point(|(l, o, _)| (*l, *o) < (lane, ordinal));
        let found =
            self.index[from..].iter().take_while(move |(l, o, _)| (*l, *o) == (lane, ordinal));
        found.map(|(_, _, at)| &self.attempts[*at as usize])
    }

    /// Tasks of each lane that workers have, with the worker.
    pub(super) fn out(&self) -> BTreeMap<u32, Vec<(Item, &Open)>> {
        let mut out: BTreeMap<u32, Vec<(Item, &Open)>> = BTreeMap::new();
        for open in &self.open {
            for item in &open.items {
                out.entry(item.lane).or_default().push((*item, open));
            }
        }
        out
    }

    /// The number of the lane of a case in an environment, which is empty where the run names none.
    pub fn lane_of(&self, case: &str, environment: &str) -> Option<u32> {
        let lanes = self.plan.lanes.iter();
        let found = lanes
            .zip(0..)
            .find(|(lane, _)| *lane.case == *case && *lane.environment == *environment);
        found.map(|(_, number)| number)
    }

    /// The definition of a lane's case, as it was when the run was submitted.
    pub fn case_of(&self, lane: u32) -> Option<TestCase> {
        self.cases.get(lane as usize % self.cases.len().max(1))?.read().ok()
    }
}

fn counted(planner: &Planner, run: RunNo, lanes: u32) -> Vec<LaneCheckpoint> {
    let known = |lane| planner.checkpoint(LaneId { run, lane }).unwrap_or_default();
    (0..lanes).map(known).collect()
}

/// What is to be said of an attempt for which nobody was left to say it; `force` is why its claim was canceled.
pub(super) fn explain(row: &mut Row, worker: &str, force: Option<&str>) {
    let text = match (row.status, force) {
        (Status::Lost, _) if row.duration == 0 => {
            format!("worker {worker} lost its lease; whether this had begun there is not known")
        }
        (Status::Canceled, Some(force)) => force.to_owned(),
        _ => return,
    };
    let detail = row.detail.get_or_insert_with(|| json!({}));
    if let Some(detail) = detail.as_object_mut() {
        detail.entry("message").or_insert_with(|| text.into());
    }
}

/// Why claims of a run were canceled by force, by their worker and name.
fn forced(run: &str, kvs: &[Kv]) -> BTreeMap<(String, String), String> {
    let prefix = format!("{}forced/", keys::run_parts(run));
    let found = kvs.iter().filter_map(|kv| {
        let (worker, claim) = kv.key.strip_prefix(&prefix)?.rsplit_once('/')?;
        let Forced { tag, reason, by } = parse(kv)?;
        let who = if by.is_empty() { String::new() } else { format!(" by {by}") };
        let text = format!("forced{who}, tag {tag} was released: {reason}");
        Some(((worker.to_owned(), claim.to_owned()), text))
    });
    found.collect()
}

/// All attempts that segments and blocks of segments hold, in the order of revisions, not yet booked; each with
/// the name of its claim.
fn attempts(run: &str, kvs: &[Kv]) -> Vec<(Attempt, Arc<str>)> {
    let prefix = keys::segments(run);
    let mut attempts = Vec::new();
    let mut take = |(worker, name): (&str, &str), revision: i64, claim: i64, rows: Vec<Row>| {
        let (worker, name): (Arc<str>, Arc<str>) = (worker.into(), name.into());
        attempts.extend(rows.into_iter().map(|row| {
            let (worker, verdict) = (worker.clone(), Verdict::Refused);
            (Attempt { row, worker, revision, claim, verdict }, name.clone())
        }));
    };
    for kv in kvs.iter().filter(|kv| kv.key.starts_with(&prefix)) {
        let Some((_, worker, name)) = keys::parse_segment(&kv.key) else { continue };
        let Some(segment) = parse::<Segment>(kv) else { continue };
        take((worker, name), kv.mod_revision, segment.claim, segment.rows);
    }
    let prefix = keys::blocks(run);
    for kv in kvs.iter().filter(|kv| kv.key.starts_with(&prefix)) {
        for rolled in parse::<Block>(kv).unwrap_or_default().segments {
            let key = format!("{}{}", keys::segments(run), rolled.name);
            let Some((.., name)) = keys::parse_segment(&key) else { continue };
            let worker = rolled.worker().to_owned();
            take((&worker, name), rolled.revision, rolled.claim, rolled.rows);
        }
    }
    attempts.sort_by_key(|(attempt, _)| attempt.revision);
    attempts
}

/// Workers that are there, each with the create revision of its key.
pub(super) struct Registered<'k>(BTreeMap<&'k str, i64>);

impl<'k> Registered<'k> {
    pub(super) fn new(kvs: impl IntoIterator<Item = &'k Kv>) -> Self {
        let worker = |kv: &'k Kv| Some((kv.key.strip_prefix(keys::WORKERS)?, kv.create_revision));
        Self(kvs.into_iter().filter_map(worker).collect())
    }

    /// Whether a worker has a claim: it is the one that it was made for, and no person.
    pub(super) fn holds(&self, worker: &str, claim: &Claim) -> bool {
        if worker == keys::PEOPLE {
            return false;
        }
        let registration = self.0.get(worker).copied().unwrap_or_default();
        claim.registration == 0 || claim.registration == registration
    }
}

fn open_claims(run: &str, kvs: &[Kv]) -> Vec<Open> {
    let mut open = Vec::new();
    let registered = Registered::new(kvs);
    for kv in kvs.iter().filter(|kv| kv.key.starts_with(keys::CLAIMS)) {
        let Some((worker, _)) = keys::parse_claim(&kv.key) else { continue };
        let Some(claim) = parse::<Claim>(kv).filter(|claim| claim.run == run) else { continue };
        open.push(Open {
            worker: worker.into(),
            claim: kv.key.clone(),
            fence: kv.create_revision,
            is_held: registered.holds(worker, &claim),
            items: claim.items,
            tags: claim.tags,
        });
    }
    open
}
