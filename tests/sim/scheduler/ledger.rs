//! What must hold of the store after every commit, found out from the commits alone.

use super::past::Past;
use quoin::scheduler::coordinator::RunStatus;
use quoin::scheduler::keys;
use quoin::scheduler::model::{Claim, OnLost, Policy, Retries, RunPlan, Scope, Segment, Status};
use quoin::scheduler::store::{Change, Commit};
use std::collections::{BTreeMap, BTreeSet};

type Task = (u32, u32);

/// No leader is so far behind, in milliseconds, and leads.
const CANCELED_MAX: u64 = 4_000;

#[derive(Default)]
pub struct RunLedger {
    pub plan: RunPlan,
    /// Ends of attempts of each task, in order.
    pub attempts: BTreeMap<Task, Vec<Status>>,
    pub ended: BTreeMap<Task, Status>,
    /// Who lost each task, in order.
    pub losers: BTreeMap<Task, Vec<String>>,
    /// When it was canceled.
    pub canceled: Option<u64>,
    pub status: Option<RunStatus>,
    pub is_closed: bool,
}

#[derive(Default)]
pub struct Ledger {
    pub runs: BTreeMap<String, RunLedger>,
    /// Open claims by key.
    claims: BTreeMap<String, (Claim, BTreeSet<(u32, u32, u32)>)>,
    out: BTreeMap<(String, Task), String>,
    /// Holder of each unit of a tag, by key.
    tags: BTreeMap<String, String>,
    leader: i64,
    pub past: Past,
    /// How many tasks may run in an environment at once.
    pub capacities: BTreeMap<String, u32>,
    pub results: u64,
    pub lost: u64,
}

impl RunLedger {
    /// Whether an attempt that ended so ends the task, by the rules of the manual.
    fn is_final(&self, task: Task, status: Status) -> bool {
        let plan = &self.plan.lanes[task.0 as usize];
        let before = |wanted: &[Status]| {
            let attempts = self.attempts.get(&task).into_iter().flatten();
            attempts.filter(|status| wanted.contains(status)).count() as u32
        };
        let Retries { test, infra, .. } = plan.retries;
        match status {
            Status::Failed | Status::TimedOut => {
                before(&[Status::Failed, Status::TimedOut]) >= test
            }
            Status::Error => before(&[Status::Error]) >= infra,
            Status::Lost => plan.on_lost == OnLost::Never,
            _ => true,
        }
    }

    /// Whether all of a lane has ended, or never will start.
    fn has_ended(&self, lane: u32) -> bool {
        let total = self.plan.lanes[lane as usize].total;
        (0..total).all(|ordinal| self.task_ended(lane, ordinal))
    }

    fn task_ended(&self, lane: u32, ordinal: u32) -> bool {
        self.ended.contains_key(&(lane, ordinal)) || self.is_skipped(lane, ordinal)
    }

    fn is_skipped(&self, lane: u32, ordinal: u32) -> bool {
        let plan = &self.plan.lanes[lane as usize];
        if plan.is_skipped {
            return true;
        }
        plan.predecessors.iter().any(|before| match before.scope {
            Scope::Repeat => {
                self.task_ended(before.lane, ordinal)
                    && !self.satisfies(before.lane, ordinal..ordinal + 1, before.policy)
            }
            Scope::Run | Scope::Global => {
                let total = self.plan.lanes[before.lane as usize].total;
                self.has_ended(before.lane) && !self.satisfies(before.lane, 0..total, before.policy)
            }
        })
    }

    fn satisfies(&self, lane: u32, ordinals: std::ops::Range<u32>, policy: Policy) -> bool {
        let count = ordinals.len();
        let passed =
            ordinals.filter(|at| self.ended.get(&(lane, *at)) == Some(&Status::Passed)).count();
        match policy {
            Policy::Ended => true,
            Policy::Passed => passed == count,
            Policy::Ratio(ratio) => passed as f64 >= ratio * count as f64,
        }
    }

    /// Why a task may not start yet.
    pub fn forbids(&self, lane: u32, ordinal: u32) -> Option<String> {
        for before in &self.plan.lanes[lane as usize].predecessors {
            let has_ended = match before.scope {
                Scope::Repeat => self.task_ended(before.lane, ordinal),
                Scope::Run | Scope::Global => self.has_ended(before.lane),
            };
            if !has_ended {
                return Some(format!("lane {} has not ended", before.lane));
            }
        }
        self.is_skipped(lane, ordinal).then(|| "it is skipped".into())
    }
}

fn is_part(key: &str, part: &str) -> bool {
    key.starts_with(keys::RUNS) && key.ends_with(part)
}

pub fn ensure(holds: bool, text: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(text()) }
}

pub fn parse<T: for<'de> serde::Deserialize<'de>>(value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

impl Ledger {
    pub fn take_in(&mut self, now: u64, commit: &Commit) -> Result<(), String> {
        let mut rows: BTreeMap<String, Vec<(u32, u32, u32, Status)>> = BTreeMap::new();
        for change in &commit.changes {
            if let Change::Put(kv) = change
                && kv.key.starts_with(keys::SEGMENTS)
            {
                let (run, worker, claim) = keys::parse_segment(&kv.key).ok_or("a segment's key")?;
                ensure(kv.create_revision == kv.mod_revision, || format!("{} twice", kv.key))?;
                let key = format!("{}{claim}", keys::claims(worker));
                let segment: Segment = parse(&kv.value)?;
                let of_claim = rows.entry(key).or_default();
                of_claim
                    .extend(segment.rows.iter().map(|r| (r.lane, r.ordinal, r.attempt, r.status)));
                self.results += segment.rows.len() as u64;
                let (run, worker) = (run.to_owned(), worker.to_owned());
                for row in segment.rows {
                    let task = (row.lane, row.ordinal);
                    self.result(&run, &worker, task, row.attempt, row.status)?;
                    let ledger = &self.runs[&run];
                    if ledger.ended.contains_key(&task) {
                        let plan = &ledger.plan.lanes[row.lane as usize];
                        self.past.ended(&run, plan, &row, commit.revision);
                    }
                }
            }
        }
        for change in &commit.changes {
            match change {
                Change::Put(kv) if kv.key.starts_with(keys::CLAIMS) => {
                    let claim: Claim = parse(&kv.value)?;
                    if self.claims.contains_key(&kv.key) {
                        self.shrunk(&kv.key, &claim, &rows.remove(&kv.key).unwrap_or_default())?;
                    } else {
                        self.claimed(now, &kv.key, claim, commit)?;
                    }
                }
                Change::Delete { key } if key.starts_with(keys::CLAIMS) => {
                    let none = Claim::default();
                    self.shrunk(key, &none, &rows.remove(key).unwrap_or_default())?;
                    self.claims.remove(key);
                }
                Change::Put(kv) if kv.key.starts_with(keys::TAGS) => {
                    let hold: serde_json::Value = parse(&kv.value)?;
                    let holder = format!("{}{}", hold["worker"], hold["claim"]);
                    let before = self.tags.insert(kv.key.clone(), holder.clone());
                    let is_same = before.is_none_or(|before| before == holder);
                    ensure(is_same, || format!("{} has two holders", kv.key))?;
                }
                Change::Delete { key } if key.starts_with(keys::TAGS) => {
                    self.tags.remove(key);
                }
                Change::Put(kv) if is_part(&kv.key, "/status") => {
                    let status: RunStatus = parse(&kv.value)?;
                    let run = kv.key[keys::RUNS.len()..].trim_end_matches("/status");
                    let run = self.runs.get_mut(run).ok_or("status of no run")?;
                    ensure(!run.is_closed, || format!("{} after its end", kv.key))?;
                    run.status = Some(status);
                }
                Change::Put(kv) if is_part(&kv.key, "/control") => {
                    let run = kv.key[keys::RUNS.len()..].trim_end_matches("/control");
                    if let Some(run) = self.runs.get_mut(run) {
                        let is_canceled = kv.value == b"\"canceled\"";
                        run.canceled = run.canceled.or(is_canceled.then_some(now));
                    }
                }
                Change::Delete { key } if key.starts_with(keys::OPEN) => {
                    let name = &key[keys::OPEN.len()..];
                    self.closed(name)?;
                }
                Change::Put(_) | Change::Delete { .. } => {}
            }
        }
        self.past.take_in(commit, &self.runs)?;
        match rows.keys().next() {
            Some(claim) => Err(format!("results without a change of {claim}")),
            None => Ok(()),
        }
    }

    fn result(
        &mut self,
        run: &str,
        worker: &str,
        task: Task,
        attempt: u32,
        status: Status,
    ) -> Result<(), String> {
        let ledger = self.runs.get_mut(run).ok_or("a result of no run")?;
        let ended = ledger.ended.get(&task);
        ensure(ended.is_none(), || {
            format!("{run} {task:?} ended twice: {ended:?}, then {status:?}")
        })?;
        let count = ledger.attempts.get(&task).map_or(0, Vec::len) as u32;
        ensure(attempt == count + 1, || {
            format!("{run} {task:?}: attempt {attempt} after {count}")
        })?;
        ensure(status.is_terminal(), || format!("{run} {task:?} ended as {status:?}"))?;
        let mut is_final = ledger.is_final(task, status);
        if status == Status::Lost {
            self.lost += 1;
            let losers = ledger.losers.entry(task).or_default();
            losers.push(worker.to_owned());
            let is_by_several = losers.iter().any(|loser| *loser != losers[0]);
            is_final |= losers.len() >= if is_by_several { 3 } else { 6 };
        }
        ledger.attempts.entry(task).or_default().push(status);
        if is_final {
            ledger.ended.insert(task, status);
        }
        Ok(())
    }

    fn claimed(
        &mut self,
        now: u64,
        key: &str,
        claim: Claim,
        commit: &Commit,
    ) -> Result<(), String> {
        ensure(claim.epoch >= self.leader, || format!("{key} by a leader of before"))?;
        self.leader = claim.epoch;
        let run = self.runs.get(&claim.run).ok_or("a claim of no run")?;
        ensure(!run.is_closed, || format!("{key} of a run that is over"))?;
        let is_long_gone = run.canceled.is_some_and(|at| at + CANCELED_MAX < now);
        ensure(!is_long_gone, || format!("{key} of a run that was canceled long ago"))?;
        let mut tasks = BTreeSet::new();
        let is_by_people = key.starts_with(&keys::claims(keys::PEOPLE));
        for item in &claim.items {
            let is_manual = run.plan.lanes[item.lane as usize].is_manual;
            ensure(is_manual == is_by_people, || format!("{key}: lane {}", item.lane))?;
            for ordinal in item.from..item.to {
                let task = (item.lane, ordinal);
                let at = || format!("{key}: {} {task:?}", claim.run);
                let other = self.out.insert((claim.run.clone(), task), key.to_owned());
                ensure(other.is_none(), || format!("{} is in {other:?} too", at()))?;
                ensure(!run.ended.contains_key(&task), || format!("{} had ended", at()))?;
                let forbidden = run.forbids(item.lane, ordinal);
                ensure(forbidden.is_none(), || format!("{}: {forbidden:?}", at()))?;
                tasks.insert((item.lane, ordinal, item.attempt));
            }
        }
        for (environment, capacity) in &self.capacities {
            let is_there = |(run, task): &(String, Task)| {
                let lane = self.runs[run].plan.lanes.get(task.0 as usize);
                lane.is_some_and(|lane| *lane.environment == **environment)
            };
            let count = self.out.keys().filter(|out| is_there(out)).count() as u32;
            ensure(count <= *capacity, || format!("{key}: {count} tasks in {environment}"))?;
        }
        let wanted = claim.items.iter().flat_map(|item| &run.plan.lanes[item.lane as usize].tags);
        for tag in wanted {
            let prefix = format!("{}{tag}/", keys::TAGS);
            let is_put =
                |change: &Change| matches!(change, Change::Put(kv) if kv.key.starts_with(&prefix));
            ensure(commit.changes.iter().any(is_put), || format!("{key} without its tag {tag}"))?;
        }
        self.claims.insert(key.to_owned(), (claim, tasks));
        Ok(())
    }

    /// What a claim holds no longer must have ended in the same commit.
    fn shrunk(
        &mut self,
        key: &str,
        claim: &Claim,
        rows: &[(u32, u32, u32, Status)],
    ) -> Result<(), String> {
        let (known, tasks) = self.claims.get_mut(key).ok_or_else(|| format!("{key} comes back"))?;
        let left: BTreeSet<(u32, u32, u32)> = claim
            .items
            .iter()
            .flat_map(|item| (item.from..item.to).map(|at| (item.lane, at, item.attempt)))
            .collect();
        ensure(left.is_subset(tasks), || format!("{key} has grown"))?;
        let gone: BTreeSet<_> = tasks.difference(&left).copied().collect();
        let ended: BTreeSet<_> =
            rows.iter().map(|(lane, at, attempt, _)| (*lane, *at, *attempt)).collect();
        ensure(gone == ended, || format!("{key}: {gone:?} are gone, {ended:?} ended"))?;
        let run = known.run.clone();
        *tasks = left;
        for (lane, ordinal, _) in gone {
            self.out.remove(&(run.clone(), (lane, ordinal)));
        }
        Ok(())
    }

    /// The last status says of each task what the results say.
    fn closed(&mut self, name: &str) -> Result<(), String> {
        let out = self.out.keys().find(|(run, _)| run == name);
        ensure(out.is_none(), || format!("{name} is closed with {out:?}"))?;
        let run = self.runs.get_mut(name).ok_or("an end of no run")?;
        run.is_closed = true;
        let status =
            run.status.clone().ok_or_else(|| format!("{name} is closed without status"))?;
        let totals = &status.totals;
        let tasks: u64 = run.plan.lanes.iter().map(|lane| u64::from(lane.total)).sum();
        ensure(totals.total == tasks && totals.ended() == tasks, || format!("{name}: {totals:?}"))?;
        for wanted in
            [Status::Passed, Status::Failed, Status::Error, Status::TimedOut, Status::Lost]
        {
            let known = totals.get(wanted);
            let ended = run.ended.values().filter(|status| **status == wanted).count() as u64;
            let last = run.attempts.values().filter(|tries| tries.last() == Some(&wanted));
            // What was to be tried again in a run that was stopped ended otherwise.
            let last = last.count() as u64;
            ensure((ended..=last).contains(&known), || {
                format!("{name}: {known} {wanted:?}, but {ended} to {last} by the results")
            })?;
        }
        Ok(())
    }

    pub fn is_tag_held(&self) -> bool {
        !self.tags.is_empty()
    }

    pub fn open_claims(&self) -> usize {
        self.claims.len()
    }
}
