//! What commits mean: results, claims that change, workers and tags that come and go.

use super::histories::Source;
use super::{
    Claim, Control, Coordinator, Request, TagHold, Timer, Worker, WorkerInfo, last_part, parse,
};
use crate::scheduler::keys;
use crate::scheduler::model::{self, Environment, Item, Row, Segment};
use crate::scheduler::planner::{LockName, Tags, Verdict};
use crate::scheduler::store::{Change, Commit, Kv};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The value of `queue/{queue}`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct QueueInfo {
    /// Its part beside other queues.
    pub weight: u32,
    /// Tasks that may run at once.
    pub limit: Option<u32>,
    /// Nothing new of it starts.
    pub paused: bool,
}

impl Default for QueueInfo {
    fn default() -> Self {
        Self { weight: 1, limit: None, paused: false }
    }
}

/// The value of `tagdef/{tag}`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct TagInfo {
    pub capacity: u32,
}

impl Coordinator {
    pub(super) fn take_in(&mut self, now: u64, commit: &Commit) {
        // Results first: a claim that is gone is understood by them, and its tags after it.
        let mut rows: BTreeMap<String, Vec<Row>> = BTreeMap::new();
        for change in &commit.changes {
            if let Change::Put(kv) = change
                && let Some((_, worker, claim)) = keys::parse_segment(&kv.key)
                && let Some(segment) = parse::<Segment>(kv)
            {
                let key = format!("{}{claim}", keys::claims(worker));
                rows.entry(key).or_default().extend(segment.rows);
            }
        }
        for change in &commit.changes {
            match change {
                Change::Put(kv) if kv.key.starts_with(keys::CLAIMS) => {
                    let rows = rows.remove(&kv.key).unwrap_or_default();
                    self.claim_changed(now, kv, &rows, commit.revision);
                }
                Change::Delete { key } if key.starts_with(keys::CLAIMS) => {
                    let rows = rows.remove(key).unwrap_or_default();
                    self.claim_gone(now, key, &rows, commit.revision);
                }
                Change::Put(_) | Change::Delete { .. } => {}
            }
        }
        for change in &commit.changes {
            match change {
                Change::Put(kv) => match kv.key.strip_prefix(keys::OPEN) {
                    Some(run) => self.opened(now, run, commit),
                    None => self.put(now, kv),
                },
                Change::Delete { key } => self.deleted(now, key),
            }
        }
    }

    fn claim_changed(&mut self, now: u64, kv: &Kv, rows: &[Row], revision: i64) {
        let Some(claim) = self.claims.get_mut(&kv.key) else { return };
        let Some(value) = parse::<model::Claim>(kv) else { return };
        let is_new = claim.mod_revision == 0;
        claim.mod_revision = kv.mod_revision;
        claim.create_revision = kv.create_revision;
        claim.is_reclaiming = false;
        if is_new {
            self.counts.claims += 1;
            let tasks = claim.items.iter().map(|item| u64::from(item.count()));
            self.counts.tasks += tasks.sum::<u64>();
        } else {
            claim.items = value.items;
            let (number, run, items) = (claim.number, claim.run.clone(), claim.items.clone());
            let worker = claim.worker.clone();
            let verdicts = self.planner.deliver(now, number, rows, &items, Tags::Draining);
            self.count_all((&run, &worker), revision, rows, &verdicts);
        }
        let run = self.claims.get(&kv.key).and_then(|claim| self.runs.get(&claim.run));
        match run.map(|run| (run.control, self.planner.is_stopped(run.number))) {
            Some((Control::Canceled, _)) => self.cancel(now, &kv.key),
            Some((_, true)) => self.recall(now, &kv.key),
            _ => {}
        }
        self.maybe_reclaim(now, &kv.key);
    }

    fn claim_gone(&mut self, now: u64, key: &str, rows: &[Row], revision: i64) {
        let Some(claim) = self.claims.get(key) else { return };
        let (number, run, worker) = (claim.number, claim.run.clone(), claim.worker.clone());
        // Each tag is freed by the change of its own key.
        let verdicts = self.planner.deliver(now, number, rows, &[], Tags::Draining);
        self.forget_claim(key);
        self.count_all((&run, &worker), revision, rows, &verdicts);
    }

    /// Counts what a claim delivered, and marks its lanes as changed since they were written down.
    fn count_all(
        &mut self,
        (run, worker): (&str, &str),
        revision: i64,
        rows: &[Row],
        verdicts: &[Verdict],
    ) {
        let Some(found) = self.runs.get_mut(run) else { return };
        let number = found.number;
        for row in rows {
            found.dirty.entry(row.lane / keys::LANES_PER_KEY).or_default();
        }
        for (row, verdict) in rows.iter().zip(verdicts) {
            self.count(Source { run, number, worker, revision }, row, *verdict);
        }
    }

    fn put(&mut self, now: u64, kv: &Kv) {
        let key = kv.key.as_str();
        if key == self.leader.0 {
            if kv.mod_revision > self.leader.1 {
                self.requests.push(Request::Deposed);
            }
        } else if key.starts_with(keys::WORKERS) {
            self.worker_there(now, kv);
        } else if key.starts_with(keys::TAGS) {
            self.tag_held(now, kv);
        } else if let Some(rest) = key.strip_prefix(keys::RUNS) {
            if let Some((run, "control")) = rest.split_once('/') {
                self.control(now, run, parse(kv).unwrap_or_default());
            }
        } else if key.starts_with(keys::ENDED) {
            self.run_ended(key);
        } else if let Some(run) = key.strip_prefix(keys::ROLLS) {
            self.schedule_roll(run);
        } else if key.starts_with(&keys::commands(keys::PEOPLE)) {
            self.command_to_people(now, kv);
        } else if key.starts_with(keys::LATE) {
            self.counts.late += 1;
        } else {
            self.settings_changed(key, Some(kv));
        }
    }

    fn deleted(&mut self, now: u64, key: &str) {
        if key == self.leader.0 {
            self.requests.push(Request::Deposed);
        } else if let Some(worker) = key.strip_prefix(keys::WORKERS) {
            self.worker_gone(now, worker);
        } else if key.starts_with(keys::TAGS) {
            self.tags.remove(key);
            if let Some((tag, unit)) = self.tag_of(key) {
                self.planner.release_tag(&tag, unit);
            }
        } else if let Some(run) = key.strip_prefix(keys::OPEN) {
            self.closed(run);
        } else if key.starts_with(keys::ENDED) {
            self.run_removed(key);
        } else if let Some(run) = key.strip_prefix(keys::ROLLS) {
            self.rolled(run);
        } else if key.starts_with(keys::STATS) {
            // Somebody lets the past of a case rest.
            self.histories.remove(key);
        } else {
            self.settings_changed(key, None);
        }
    }

    /// A commit of the watch on environments; what it says holds from now on.
    pub fn environments(&mut self, commit: &Commit) {
        for change in &commit.changes {
            match change {
                Change::Put(kv) => self.settings_changed(&kv.key, Some(kv)),
                Change::Delete { key } => self.settings_changed(key, None),
            }
        }
    }

    pub(super) fn worker_there(&mut self, now: u64, kv: &Kv) {
        let name = last_part(&kv.key);
        if name.starts_with('@') {
            return;
        }
        // What no worker writes is none: it would hold tasks for ever.
        let is_worker = |info: &WorkerInfo| info.max_task_num > 0 && kv.lease != 0;
        let Some(info) = parse::<WorkerInfo>(kv).filter(is_worker) else { return };
        let known = self.workers.get(name).map(|worker| worker.registration);
        if known != Some(kv.create_revision) {
            self.worker_gone(now, name);
            let (capacity, ahead) = (info.max_task_num, info.prefetch);
            let number = self.planner.worker_joins(name.into(), &info.offers(), capacity, ahead);
            let worker = Worker {
                number,
                registration: kv.create_revision,
                mod_revision: kv.mod_revision,
                lease: kv.lease,
            };
            self.workers.insert(name.to_owned(), worker);
            for run in self.runs.values_mut() {
                run.slots = run.slots.max(self.planner.capacity_for(run.number));
            }
        }
        let Some(worker) = self.workers.get_mut(name) else { return };
        worker.mod_revision = kv.mod_revision;
        match (info.draining, info.resting) {
            (true, _) => self.planner.worker_leaves(worker.number),
            (false, Some(_)) => self.planner.worker_rests(worker.number),
            (false, None) => self.planner.worker_wakes(worker.number),
        }
    }

    fn worker_gone(&mut self, now: u64, name: &str) {
        if name.starts_with('@') {
            return;
        }
        if let Some(worker) = self.workers.remove(name) {
            self.planner.worker_leaves(worker.number);
            self.reclaim_all(now, name);
        }
    }

    pub(super) fn tag_held(&mut self, now: u64, kv: &Kv) {
        self.tags.insert(kv.key.clone(), kv.mod_revision);
        let Some((tag, unit)) = self.tag_of(&kv.key) else { return };
        // It is held already if the claim is ours.
        self.planner.restore_tag(&tag, unit);
        let hold: TagHold = parse(kv).unwrap_or_default();
        if hold.draining {
            self.timers.insert((now + self.settings.hold_off, Timer::ReleaseTag(kv.key.clone())));
        }
    }

    /// Capacities, weights and what is closed; what is deleted is as if it had never been set.
    pub(super) fn settings_changed(&mut self, key: &str, kv: Option<&Kv>) {
        if let Some(tag) = key.strip_prefix(keys::TAG_DEFINITIONS) {
            let capacity = kv.and_then(parse::<TagInfo>).map_or(1, |info| info.capacity);
            self.planner.set_capacity(&LockName::Tag(tag.into()), capacity);
        } else if let Some(queue) = key.strip_prefix(keys::QUEUES) {
            let info = kv.and_then(parse::<QueueInfo>).unwrap_or_default();
            self.planner.set_weight(&queue.into(), info.weight);
            let name = LockName::Queue(queue.into());
            self.planner.set_capacity(&name, info.limit.unwrap_or(u32::MAX));
            self.planner.set_closed(&name, info.paused.then(|| "paused".into()));
        } else if let Some(place) = key.strip_prefix(keys::ENVIRONMENTS) {
            let found = kv.and_then(parse::<Environment>).filter(|found| !found.is_deleted);
            let name = LockName::Environment(place.into());
            let capacity = found.as_ref().and_then(|found| found.capacity);
            self.planner.set_capacity(&name, capacity.unwrap_or(u32::MAX));
            let reason = found.and_then(|found| found.closed_for());
            self.planner.set_closed(&name, reason.map(Into::into));
        }
    }

    /// Whether the worker of a claim is registered as it was when it got it.
    pub(super) fn is_claimer_there(&self, kv: &Kv) -> bool {
        let worker = keys::parse_claim(&kv.key).and_then(|(worker, _)| self.workers.get(worker));
        let value = parse::<model::Claim>(kv);
        worker.zip(value).is_some_and(|(worker, value)| worker.registration == value.registration)
    }

    /// A claim that was out when this one began to lead.
    pub(super) fn restore_claim(&mut self, kv: &Kv) {
        let Some((worker, _)) = keys::parse_claim(&kv.key) else { return };
        let Some(value) = parse::<model::Claim>(kv) else { return };
        let Some(run) = self.runs.get(&value.run) else { return };
        let known = self.workers.get(worker).filter(|w| w.registration == value.registration);
        let number = match known {
            Some(known) => known.number,
            // It is gone. Its claims are taken back like those of one that goes now.
            None => {
                let number = self.planner.worker_joins(worker.into(), &Default::default(), 1, 0);
                self.planner.worker_leaves_behind(number);
                number
            }
        };
        let parse_tag = |tag: &String| {
            let (tag, unit) = tag.rsplit_once('/')?;
            Some((tag.into(), unit.parse().ok()?))
        };
        let tags: Vec<_> = value.tags.iter().filter_map(parse_tag).collect();
        let items: Vec<Item> = value.items;
        let claim = self.planner.restore_claim(number, run.number, &items, &tags);
        self.claim_keys.insert(claim, kv.key.clone());
        let at = value.deadline + self.settings.grace;
        self.timers.insert((at, Timer::Claim(kv.key.clone())));
        let claim = Claim {
            number: claim,
            worker: worker.to_owned(),
            registration: value.registration,
            run: value.run,
            items,
            mod_revision: kv.mod_revision,
            create_revision: kv.create_revision,
            deadline: value.deadline,
            canceled: None,
            is_recalled: false,
            is_reclaiming: false,
            tags,
        };
        self.claims.insert(kv.key.clone(), claim);
    }
}
