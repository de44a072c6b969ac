//! Giving tasks out and taking them back: claims, reclaims of lost workers, tags, deadlines.

use super::{Claim, Command, Coordinator, Request, Sent, TagHold, Timer};
use crate::planted::{self, Bug};
use crate::scheduler::keys;
use crate::scheduler::model::{self, Item, Row, Segment, Status};
use crate::scheduler::planner::{Assignment, LaneId, RunNo, Tags};
use crate::scheduler::store::{Compare, Kv, Op, Txn};
use std::sync::Arc;

impl Coordinator {
    /// Tries to give out what the planner decides.
    pub(super) fn assign(&mut self, now: u64) {
        for made in self.planner.decide(now) {
            self.claim(now, made);
        }
    }

    fn claim(&mut self, now: u64, made: Assignment) {
        let name = self.planner.worker_name(made.worker);
        let known = name.and_then(|name| self.workers.get(&*name).map(|found| (name, found)));
        let (Some(run), Some((worker, found))) = (self.run_names.get(&made.run), known) else {
            self.planner.deliver(now, made.claim, &[], &[], Tags::Free);
            return;
        };
        let (run, mod_revision) = (run.clone(), found.mod_revision);
        if let Some(run) = self.runs.get_mut(&run) {
            run.was_given |= *worker != *keys::PEOPLE;
        }
        self.next_claim += 1;
        let key = keys::claim(&worker, self.leader.1, self.next_claim);
        let deadline = self.deadline(now, &worker, &made);
        let claim = Claim {
            number: made.claim,
            worker: worker.to_string(),
            registration: found.registration,
            run: run.clone(),
            items: made.items.clone(),
            mod_revision: 0,
            create_revision: 0,
            deadline,
            canceled: None,
            is_recalled: false,
            is_reclaiming: false,
            tags: made.tags.clone(),
        };
        let value = model::Claim {
            run: run.clone(),
            epoch: self.leader.1,
            registration: claim.registration,
            items: made.items,
            tags: made.tags.iter().map(|(tag, unit)| format!("{tag}/{unit}")).collect(),
            deadline,
            slots: made.slots,
            urgent: made.urgent,
        };
        let worker_key = keys::worker(&worker);
        let mut txn = Txn {
            // Not only that it is there: one that has said that it leaves gets nothing more.
            compares: match &*worker {
                keys::PEOPLE => Vec::new(),
                _ => vec![Compare::ChangedAt(worker_key.clone(), mod_revision)],
            },
            then: vec![Op::put(key.clone(), &value)],
            otherwise: vec![Op::Get(worker_key)],
        };
        let hold = TagHold {
            run,
            worker: worker.to_string(),
            claim: super::last_part(&key).to_owned(),
            lane: value.items.first().map_or(0, |item| item.lane),
            draining: false,
        };
        for (tag, unit) in &made.tags {
            let tag_key = keys::tag(tag, *unit);
            if !planted::has(Bug::TagGivenTwice) {
                txn.compares.push(Compare::Absent(tag_key.clone()));
            }
            txn.then.push(Op::put(tag_key, &hold));
        }
        self.timers.insert((deadline + self.settings.grace, Timer::Claim(key.clone())));
        self.claim_keys.insert(made.claim, key.clone());
        self.claims.insert(key.clone(), claim);
        self.send(Sent::Claim { key }, txn);
    }

    /// When all tasks of a claim must have ended by themselves, if each takes its whole time and
    /// none runs beside another; what was given ahead starts after what the worker has.
    fn deadline(&self, now: u64, worker: &str, made: &Assignment) -> u64 {
        if worker == keys::PEOPLE {
            return now.saturating_add(FOREVER_MS);
        }
        let timeout = |item: &Item| {
            let timeout = self.planner.timeout_ms(LaneId { run: made.run, lane: item.lane });
            timeout.unwrap_or(0) * u64::from(item.count())
        };
        let own: u64 = made.items.iter().map(timeout).sum();
        let before = match made.urgent {
            true => None,
            false => {
                let claims = self.claims.range(keys::claims(worker)..);
                let claims = claims.take_while(|(_, claim)| claim.worker == worker);
                claims.map(|(_, claim)| claim.deadline).max()
            }
        };
        now.max(before.unwrap_or(0)).saturating_add(own)
    }

    /// A claim was not made: its tasks go back.
    pub(super) fn claim_refused(&mut self, now: u64, key: &str) {
        let Some(claim) = self.claims.get(key).filter(|claim| claim.mod_revision == 0) else {
            return;
        };
        let (number, tags) = (claim.number, claim.tags.clone());
        self.planner.deliver(now, number, &[], &[], Tags::Free);
        self.forget_claim(key);
        // A tag that somebody else has put there meanwhile stays taken.
        for (tag, unit) in tags {
            if self.tags.contains_key(&keys::tag(&tag, unit)) {
                self.planner.restore_tag(&tag, unit);
            }
        }
    }

    pub(super) fn forget_claim(&mut self, key: &str) {
        let Some(claim) = self.claims.remove(key) else { return };
        self.claim_keys.remove(&claim.number);
        let at = claim.deadline + self.settings.grace;
        self.timers.remove(&(at, Timer::Claim(key.to_owned())));
        if let Some(canceled) = claim.canceled {
            let at = canceled + self.settings.eviction;
            self.timers.remove(&(at, Timer::Claim(key.to_owned())));
        }
    }

    /// Takes back the claims of a worker that is gone.
    pub(super) fn reclaim_all(&mut self, now: u64, worker: &str) {
        let claims = self.claims.range(keys::claims(worker)..);
        let claims = claims.take_while(|(_, claim)| claim.worker == worker);
        for key in claims.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.maybe_reclaim(now, &key);
        }
    }

    /// Takes a claim back if its worker is gone. While it is not known to be in the store it is
    /// either refused, because the worker is gone, or the watch will bring it.
    pub(super) fn maybe_reclaim(&mut self, now: u64, key: &str) {
        let Some(claim) = self.claims.get(key) else { return };
        let worker = self.workers.get(&claim.worker);
        let is_there = worker.is_some_and(|worker| worker.registration == claim.registration);
        if is_there || claim.mod_revision == 0 || claim.is_reclaiming {
            return;
        }
        let mut txn = claim.ended_as(now, key, Status::Lost);
        let hold = TagHold {
            run: claim.run.clone(),
            worker: claim.worker.clone(),
            claim: super::last_part(key).to_owned(),
            lane: claim.items.first().map_or(0, |item| item.lane),
            draining: true,
        };
        let worker_key = keys::worker(&claim.worker);
        txn.compares.push(Compare::NotCreatedAt(worker_key, claim.registration));
        for (tag, unit) in &claim.tags {
            txn.then.push(Op::put(keys::tag(tag, *unit), &hold));
        }
        if let Some(claim) = self.claims.get_mut(key) {
            claim.is_reclaiming = true;
        }
        self.send(Sent::Reclaim { key: key.to_owned() }, txn);
    }

    /// The hold-off of a tag is over.
    pub(super) fn release_tag(&mut self, key: &str) {
        let Some(revision) = self.tags.get(key) else { return };
        let txn = Txn {
            compares: vec![Compare::ChangedAt(key.to_owned(), *revision)],
            then: vec![Op::Delete(key.to_owned())],
            otherwise: Vec::new(),
        };
        self.send(Sent::Other, txn);
    }

    /// A claim has gone on for too long: its worker is asked to cancel it, and put out if it does
    /// not.
    pub(super) fn overdue(&mut self, now: u64, key: &str) {
        let Some(claim) = self.claims.get(key) else { return };
        if claim.mod_revision == 0 {
            return;
        }
        if claim.canceled.is_none() {
            self.end_claim(now, key, true);
        } else if let Some(worker) = self.workers.get(&claim.worker)
            && worker.registration == claim.registration
        {
            self.requests.push(Request::Revoke { lease: worker.lease });
        }
    }

    /// Asks a worker to end the tasks of a claim.
    pub(super) fn cancel(&mut self, now: u64, key: &str) {
        self.end_claim(now, key, false);
    }

    fn end_claim(&mut self, now: u64, key: &str, overdue: bool) {
        let Some(claim) = self.claims.get_mut(key) else { return };
        if claim.worker == keys::PEOPLE {
            return self.end_manual(now, key, Status::Canceled);
        }
        if claim.canceled.is_some() {
            return;
        }
        let command = Command::Cancel { claim: super::last_part(key).to_owned(), overdue };
        if self.command(key, &command)
            && let Some(claim) = self.claims.get_mut(key)
        {
            claim.canceled = Some(now);
            self.timers.insert((now + self.settings.eviction, Timer::Claim(key.to_owned())));
        }
    }

    /// Asks a worker to skip what has not started of a claim: the run is to start nothing more.
    pub(super) fn recall(&mut self, now: u64, key: &str) {
        let Some(claim) = self.claims.get_mut(key) else { return };
        if claim.worker == keys::PEOPLE {
            return self.end_manual(now, key, Status::Skipped);
        }
        if claim.is_recalled || claim.canceled.is_some() {
            return;
        }
        claim.is_recalled = true;
        let command = Command::Skip { claim: super::last_part(key).to_owned() };
        self.command(key, &command);
    }

    pub(super) fn recall_all(&mut self, now: u64, run: RunNo) {
        for key in self.claims_in_store(run) {
            self.recall(now, &key);
        }
    }

    /// Keys of a run's claims; those on their way to the store are looked at when they are there.
    pub(super) fn claims_in_store(&self, run: RunNo) -> Vec<String> {
        let numbers = self.planner.claims_of(run);
        let keys = numbers.iter().filter_map(|claim| self.claim_keys.get(claim));
        let is_there =
            |key: &&String| self.claims.get(*key).is_some_and(|claim| claim.mod_revision != 0);
        keys.filter(is_there).cloned().collect()
    }

    /// Sends a command about a claim to its worker, if that is there.
    fn command(&mut self, key: &str, command: &Command) -> bool {
        let Some(claim) = self.claims.get(key) else { return false };
        let Some(worker) = self.workers.get(&claim.worker) else { return false };
        if worker.registration != claim.registration {
            return false;
        }
        // It goes with the worker.
        let put = match Op::put(keys::command(&claim.worker, super::last_part(key)), command) {
            Op::Put { key, value, .. } => Op::Put { key, value, lease: worker.lease },
            other => other,
        };
        let registered = Compare::CreatedAt(keys::worker(&claim.worker), claim.registration);
        let txn = Txn { compares: vec![registered], then: vec![put], otherwise: Vec::new() };
        self.send(Sent::Other, txn);
        true
    }

    /// People have no process that heeds commands: a claim of theirs is canceled here.
    pub(super) fn command_to_people(&mut self, now: u64, kv: &Kv) {
        if let Ok(Command::Cancel { claim, .. }) = serde_json::from_slice(&kv.value) {
            let key = format!("{}{claim}", keys::claims(keys::PEOPLE));
            self.end_manual(now, &key, Status::Canceled);
        }
        let then = vec![Op::Delete(kv.key.clone())];
        self.send(Sent::Other, Txn { then, ..Default::default() });
    }

    /// Nobody waits for a verdict any more: what no person has given one for ends.
    fn end_manual(&mut self, now: u64, key: &str, status: Status) {
        let Some(claim) = self.claims.get_mut(key).filter(|claim| !claim.is_reclaiming) else {
            return;
        };
        claim.is_reclaiming = true;
        let mut txn = claim.ended_as(now, key, status);
        for (tag, unit) in &claim.tags {
            txn.then.push(Op::Delete(keys::tag(tag, *unit)));
        }
        self.send(Sent::Reclaim { key: key.to_owned() }, txn);
    }

    pub(super) fn tag_of(&self, key: &str) -> Option<(Arc<str>, u32)> {
        let (tag, unit) = keys::parse_tag(key)?;
        Some((tag.into(), unit))
    }
}

impl Claim {
    /// Ends all that is left of a claim, if it is as it was last seen. Its tags are the caller's.
    fn ended_as(&self, now: u64, key: &str, status: Status) -> Txn {
        let ended = |item: &Item| {
            let (lane, attempt) = (item.lane, item.attempt);
            (item.from..item.to).map(move |ordinal| Row {
                lane,
                ordinal,
                attempt,
                status,
                start: now,
                duration: 0,
                detail: None,
            })
        };
        let rows = self.items.iter().flat_map(ended).collect();
        let segment = Segment { claim: self.create_revision, rows };
        let name = super::last_part(key);
        let segment_key = keys::segment(&self.run, &self.worker, name, LOST_PART);
        Txn {
            compares: vec![Compare::ChangedAt(key.to_owned(), self.mod_revision)],
            then: vec![Op::Delete(key.to_owned()), Op::put(segment_key, &segment)],
            otherwise: Vec::new(),
        }
    }
}

/// The part of a claim's results that says what was lost: no worker counts so far.
const LOST_PART: u32 = u32::MAX;
/// A hundred years: nobody waits for people by the clock.
const FOREVER_MS: u64 = 100 * 365 * super::DAY_MS;
