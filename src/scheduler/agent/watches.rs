//! What the watches bring: claims that are made and taken away, and commands.

use super::{Agent, Held, Request, Task, rows};
use crate::scheduler::coordinator::Command;
use crate::scheduler::keys;
use crate::scheduler::model::{Claim, Row, Status};
use crate::scheduler::store::{Change, Commit, Kv, Op, Txn};
use std::sync::Arc;

impl Agent {
    /// A commit of the watch on this worker's claims, or of that on its commands. The claims' commits
    /// come whole, in their order, and may come again.
    pub fn commit(&mut self, now: u64, commit: &Commit) {
        let mut has_claims = false;
        for change in &commit.changes {
            match change {
                Change::Put(kv) if kv.key.starts_with(keys::CLAIMS) => {
                    has_claims = true;
                    self.claimed(now, kv);
                }
                Change::Delete { key } if key.starts_with(keys::CLAIMS) => {
                    has_claims = true;
                    self.unclaimed(key);
                }
                Change::Put(kv) if kv.key.starts_with(keys::COMMANDS) => self.command(now, kv),
                Change::Put(_) | Change::Delete { .. } => {}
            }
        }
        if has_claims {
            self.claims_seen = self.claims_seen.max(commit.revision);
            self.early.retain(|_, (revision, _)| *revision > self.claims_seen);
        }
    }

    fn claimed(&mut self, now: u64, kv: &Kv) {
        let Ok(claim) = serde_json::from_slice::<Claim>(&kv.value) else { return };
        // What an earlier registration of this name was given is taken back by the leader.
        if self.is_fenced || claim.registration != self.registration {
            return;
        }
        let key: Arc<str> = kv.key.as_str().into();
        if let Some(held) = self.claims.get_mut(&key) {
            // Own deliveries come back this way too.
            held.mod_revision = held.mod_revision.max(kv.mod_revision);
            return;
        }
        // A delivery of a claim that is over comes back later than its answer.
        if kv.create_revision <= self.claims_seen {
            return;
        }
        for item in &claim.items {
            for ordinal in item.from..item.to {
                let task = Task { claim: key.clone(), lane: item.lane, ordinal };
                let queue = if claim.tags.is_empty() { &mut self.plain } else { &mut self.tagged };
                queue.push_back((task, item.attempt));
            }
        }
        let held = Held {
            run: claim.run.as_str().into(),
            claim,
            mod_revision: kv.mod_revision,
            fence: kv.create_revision,
            rows: Vec::new(),
            given_back: Vec::new(),
            is_overdue: false,
            is_gone: false,
            since: 0,
            running: 0,
            delivery: None,
            parts: 0,
        };
        self.claims.insert(key.clone(), held);
        for command in self.early.remove(&key).into_iter().flat_map(|(_, commands)| commands) {
            self.obey(now, &key, &command);
        }
    }

    /// A claim is gone from the store: delivered, or taken away.
    fn unclaimed(&mut self, key: &str) {
        let Some(held) = self.claims.get_mut(key) else { return };
        // The answer to what is on its way tells whether it was that.
        if held.delivery.is_some() {
            held.is_gone = true;
            self.stop_claim(key);
        } else {
            self.drop_claim(key);
        }
    }

    /// Nothing of a claim counts any more.
    pub(super) fn drop_claim(&mut self, key: &str) {
        if let Some(held) = self.claims.remove(key) {
            // What had ended under it comes too late.
            self.requests.extend(rows::late(&self.name, key, held));
        }
        self.stop_claim(key);
    }

    /// Nothing of a claim starts any more, and what runs is stopped.
    fn stop_claim(&mut self, key: &str) {
        self.tagged.retain(|(task, _)| &*task.claim != key);
        self.plain.retain(|(task, _)| &*task.claim != key);
        let running = self.running.keys().filter(|task| &*task.claim == key);
        let stop = running.map(|task| Request::Stop { task: task.clone() });
        self.requests.extend(stop);
    }

    fn command(&mut self, now: u64, kv: &Kv) {
        let Ok(command) = serde_json::from_slice::<Command>(&kv.value) else { return };
        match &command {
            Command::Drain => self.is_draining = true,
            Command::Cancel { claim, .. } | Command::Skip { claim } => {
                let key: Arc<str> = format!("{}{claim}", keys::claims(&self.name)).into();
                if self.claims.contains_key(&key) {
                    self.obey(now, &key, &command);
                } else if kv.mod_revision > self.claims_seen {
                    let early = self.early.entry(key).or_default();
                    early.0 = early.0.max(kv.mod_revision);
                    early.1.push(command);
                }
            }
        }
        self.next_txn += 1;
        let txn = Txn { then: vec![Op::Delete(kv.key.clone())], ..Default::default() };
        self.requests.push(Request::Try(self.next_txn, txn));
    }

    /// Does what a command asks of a claim that is held.
    fn obey(&mut self, now: u64, key: &Arc<str>, command: &Command) {
        match command {
            Command::Drain => {}
            Command::Skip { .. } => self.end_unstarted(now, key, Some(Status::Skipped)),
            Command::Cancel { overdue, .. } => {
                let status = (!overdue).then_some(Status::Canceled);
                self.end_unstarted(now, key, status);
                if let Some(held) = self.claims.get_mut(key) {
                    held.is_overdue = *overdue;
                }
                let running = self.running.keys().filter(|task| task.claim == *key);
                self.requests.extend(running.map(|task| Request::Stop { task: task.clone() }));
            }
        }
    }

    /// What has not started ends with a status, or goes back.
    fn end_unstarted(&mut self, now: u64, key: &Arc<str>, status: Option<Status>) {
        let mut ended = Vec::new();
        for queue in [&mut self.tagged, &mut self.plain] {
            queue.retain(|(task, attempt)| {
                let is_other = task.claim != *key;
                if !is_other {
                    ended.push((task.clone(), *attempt));
                }
                is_other
            });
        }
        let Some(held) = self.claims.get_mut(key) else { return };
        held.claim.urgent = true;
        held.since = now;
        let Some(status) = status else {
            held.given_back.extend(ended.iter().map(|(task, _)| (task.lane, task.ordinal)));
            return;
        };
        held.rows.extend(ended.into_iter().map(|(task, attempt)| Row {
            lane: task.lane,
            ordinal: task.ordinal,
            attempt,
            status,
            start: now,
            duration: 0,
            detail: None,
        }));
    }
}
