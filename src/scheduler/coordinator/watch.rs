//! What commits mean: results, claims that change, workers and tags that come and go.

use super::{Claim, Coordinator, Request, TagHold, Timer, Worker, WorkerInfo, last_part, parse};
use crate::scheduler::keys;
use crate::scheduler::model::{self, Item, Row, Segment};
use crate::scheduler::planner::{LockName, Tags};
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
}

impl Default for QueueInfo {
    fn default() -> Self {
        Self { weight: 1, limit: None }
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
                    self.claim_changed(now, kv, &rows);
                }
                Change::Delete { key } if key.starts_with(keys::CLAIMS) => {
                    let rows = rows.remove(key).unwrap_or_default();
                    self.claim_gone(now, key, &rows);
                }
                Change::Put(_) | Change::Delete { .. } => {}
            }
        }
        for change in &commit.changes {
            match change {
                Change::Put(kv) => self.put(now, kv),
                Change::Delete { key } => self.deleted(now, key),
            }
        }
    }

    fn claim_changed(&mut self, now: u64, kv: &Kv, rows: &[Row]) {
        let Some(claim) = self.claims.get_mut(&kv.key) else { return };
        let Some(value) = parse::<model::Claim>(kv) else { return };
        let is_new = claim.mod_revision == 0;
        claim.mod_revision = kv.mod_revision;
        claim.create_revision = kv.create_revision;
        claim.is_reclaiming = false;
        if !is_new {
            claim.items = value.items;
            let (number, run, items) = (claim.number, claim.run.clone(), claim.items.clone());
            self.planner.deliver(now, number, rows, &items, Tags::Draining);
            self.touched(&run, rows);
        }
        let is_unwanted =
            self.claims.get(&kv.key).is_some_and(|claim| self.is_canceled(&claim.run));
        if is_unwanted {
            self.cancel(now, &kv.key);
        }
        self.maybe_reclaim(now, &kv.key);
    }

    fn claim_gone(&mut self, now: u64, key: &str, rows: &[Row]) {
        let Some(claim) = self.claims.get(key) else { return };
        let (number, run) = (claim.number, claim.run.clone());
        // Each tag is freed by the change of its own key.
        self.planner.deliver(now, number, rows, &[], Tags::Draining);
        self.forget_claim(key);
        self.touched(&run, rows);
    }

    /// Marks lanes as changed since they were written down.
    fn touched(&mut self, run: &str, rows: &[Row]) {
        let Some(run) = self.runs.get_mut(run) else { return };
        run.dirty.extend(rows.iter().map(|row| row.lane / keys::LANES_PER_KEY));
    }

    fn is_canceled(&self, run: &str) -> bool {
        self.runs.get(run).is_some_and(|run| run.control == super::Control::Canceled)
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
        } else if let Some(run) = key.strip_prefix(keys::OPEN) {
            if !self.runs.contains_key(run) {
                self.requests.push(Request::ReadRun { run: run.to_owned() });
            }
        } else if let Some(rest) = key.strip_prefix(keys::RUNS) {
            if let Some((run, "control")) = rest.split_once('/') {
                self.control(now, run, parse(kv).unwrap_or_default());
            }
        } else {
            self.settings_changed(kv);
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
        }
    }

    pub(super) fn worker_there(&mut self, now: u64, kv: &Kv) {
        let name = last_part(&kv.key);
        let info: WorkerInfo = parse(kv).unwrap_or_default();
        let known = self.workers.get(name).map(|worker| worker.registration);
        if known != Some(kv.create_revision) {
            self.worker_gone(now, name);
            let (capacity, ahead) = (info.max_task_num, info.prefetch);
            let number = self.planner.worker_joins(name.into(), &info.labels, capacity, ahead);
            let worker = Worker {
                number,
                registration: kv.create_revision,
                mod_revision: kv.mod_revision,
                lease: kv.lease,
            };
            self.workers.insert(name.to_owned(), worker);
        }
        let Some(worker) = self.workers.get_mut(name) else { return };
        worker.mod_revision = kv.mod_revision;
        if info.draining {
            self.planner.worker_leaves(worker.number);
        }
    }

    fn worker_gone(&mut self, now: u64, name: &str) {
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

    /// Capacities and weights.
    pub(super) fn settings_changed(&mut self, kv: &Kv) {
        if let Some(tag) = kv.key.strip_prefix(keys::TAG_DEFINITIONS) {
            if let Some(info) = parse::<TagInfo>(kv) {
                self.planner.set_capacity(&LockName::Tag(tag.into()), info.capacity);
            }
        } else if let Some(queue) = kv.key.strip_prefix(keys::QUEUES)
            && let Some(info) = parse::<QueueInfo>(kv)
        {
            self.planner.set_weight(&queue.into(), info.weight);
            let limit = info.limit.unwrap_or(u32::MAX);
            self.planner.set_capacity(&LockName::Queue(queue.into()), limit);
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
            is_reclaiming: false,
            tags,
        };
        self.claims.insert(kv.key.clone(), claim);
    }
}
