//! A worker without its sockets and processes: which of its tasks start when, when results are
//! delivered, and when it must stop for fear that others take it for dead.
//!
//! It promises that a task runs only under a claim of its own, that tasks under one tag run one by
//! one, that no more run than there are slots, and that each result is delivered once or is known
//! to be late. A transaction whose outcome is not known is repeated word for word until it is: the
//! revision of the claim makes that harmless.
//!
//! Its watches may be behind its own transactions, each by itself: what one brings of a claim may be
//! older than what has become of that since, and a command may come before the claim it speaks of.

mod rows;
#[cfg(test)]
mod tests;
mod watches;

use super::coordinator::{Command, TxnNo};
use super::keys;
use super::model::{Claim, Item, Row, Segment, Status};
use super::record::Running;
use super::store::{Compare, Op, Outcome, Txn};
use crate::planted::{self, Bug};
use rows::{take_rows, without};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What can be set; times in milliseconds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Slots.
    pub capacity: u32,
    /// Results that wait for company are delivered when there are so many,
    pub flush_rows: usize,
    /// or when the first of them is so old.
    pub flush_ms: u64,
    /// Bytes of results in one transaction; etcd takes a megabyte and a half.
    pub flush_bytes: usize,
    /// Tasks are stopped so long before the lease can have ended.
    pub margin: u64,
    /// Before an unknown outcome is asked about again.
    pub retry_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            capacity: 1,
            flush_rows: 64,
            flush_ms: 20,
            flush_bytes: 512 * 1024,
            margin: 1_000,
            retry_ms: 200,
        }
    }
}

/// A task that a worker runs or is to run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Task {
    /// The claim's key.
    pub claim: Arc<str>,
    pub lane: u32,
    pub ordinal: u32,
}

/// What the shell shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Run it, and report with `finished`. The fence is to be shown to whatever the task touches.
    Start {
        task: Task,
        run: Arc<str>,
        attempt: u32,
        fence: i64,
    },
    /// Stop it, and report what came of it.
    Stop {
        task: Task,
    },
    Try(TxnNo, Txn),
    /// Keep results that nobody wants any more for a day, for whoever looks for the reason.
    Late {
        key: String,
        value: Vec<u8>,
    },
}

/// A task that runs.
#[derive(Clone, Copy, Debug)]
struct Started {
    slots: u32,
    attempt: u32,
    /// Milliseconds since 1970.
    since: u64,
}

#[derive(Debug)]
struct Delivery {
    txn: TxnNo,
    /// As it was sent: a repetition must be the same.
    body: Txn,
    left: Vec<Item>,
    /// When it is sent again, its outcome being unknown.
    again: Option<u64>,
}

#[derive(Debug)]
struct Held {
    claim: Claim,
    run: Arc<str>,
    mod_revision: i64,
    fence: i64,
    rows: Vec<Row>,
    /// Tasks that could not be begun, by lane and ordinal: others may have them.
    given_back: Vec<(u32, u32)>,
    /// Its tasks are to be stopped because they took too long.
    is_overdue: bool,
    /// It is no longer in the store, which became known while a delivery was on its way.
    is_gone: bool,
    /// When the first of the rows came.
    since: u64,
    running: u32,
    delivery: Option<Delivery>,
    parts: u32,
}

#[derive(Debug)]
pub struct Agent {
    name: String,
    registration: i64,
    settings: Settings,
    claims: BTreeMap<Arc<str>, Held>,
    /// The watch has brought every claim that was created by this revision: what it brings of one of
    /// those is no new claim, whether that is still held or not.
    claims_seen: i64,
    /// Commands about claims that the watch may yet bring, by the claim's key, each with its revision:
    /// every claim was created before a command speaks of it.
    early: BTreeMap<Arc<str>, (i64, Vec<Command>)>,
    /// Tasks to start, those under tags apart: they go first, since others may wait for their tags.
    tagged: VecDeque<(Task, u32)>,
    plain: VecDeque<(Task, u32)>,
    running: BTreeMap<Task, Started>,
    busy: u32,
    /// By then the lease may have ended.
    lease_ends: u64,
    is_fenced: bool,
    is_draining: bool,
    next_txn: TxnNo,
    sent: BTreeMap<TxnNo, Arc<str>>,
    requests: Vec<Request>,
}

impl Agent {
    /// A worker whose key was created at `registration`. `lease_ends` is counted from before the
    /// grant was asked for.
    pub fn new(name: &str, registration: i64, settings: Settings, lease_ends: u64) -> Self {
        Self {
            name: name.to_owned(),
            registration,
            settings,
            claims: BTreeMap::new(),
            claims_seen: registration,
            early: BTreeMap::new(),
            tagged: VecDeque::new(),
            plain: VecDeque::new(),
            running: BTreeMap::new(),
            busy: 0,
            lease_ends,
            is_fenced: false,
            is_draining: false,
            next_txn: 0,
            sent: BTreeMap::new(),
            requests: Vec::new(),
        }
    }

    /// The store has prolonged the lease; `ends` is counted from before it was asked to.
    pub fn lease_renewed(&mut self, ends: u64) {
        if !self.is_fenced {
            self.lease_ends = self.lease_ends.max(ends);
        }
    }

    /// A task that was started has ended as the row says.
    pub fn finished(&mut self, now: u64, task: &Task, mut row: Row) {
        let Some(started) = self.running.remove(task) else { return };
        self.busy = self.busy.saturating_sub(started.slots);
        let Some(held) = self.claims.get_mut(&task.claim) else { return };
        held.running -= 1;
        if held.is_overdue && row.status == Status::Canceled {
            row.status = Status::TimedOut;
        }
        if held.rows.is_empty() {
            held.since = now;
        }
        held.rows.push(row);
    }

    /// A task that was started could not be begun: it goes back, and this was no attempt.
    pub fn given_back(&mut self, task: &Task) {
        let Some(started) = self.running.remove(task) else { return };
        self.busy = self.busy.saturating_sub(started.slots);
        let Some(held) = self.claims.get_mut(&task.claim) else { return };
        held.running -= 1;
        held.given_back.push((task.lane, task.ordinal));
    }

    /// What became of a transaction.
    pub fn outcome(&mut self, now: u64, txn: TxnNo, outcome: &Outcome) {
        let Some(key) = self.sent.remove(&txn) else { return };
        let Some(held) = self.claims.get_mut(&key) else { return };
        let Some(delivery) = held.delivery.as_mut().filter(|delivery| delivery.txn == txn) else {
            return;
        };
        match outcome {
            // Whatever the reason is, it may pass, and results are not thrown away.
            Outcome::Unknown | Outcome::Failed(_) => {
                delivery.again = Some(now + self.settings.retry_ms);
            }
            Outcome::Committed { revision } => {
                let revision = *revision;
                self.delivered(&key, revision);
            }
            Outcome::Refused { found, .. } => match &found[..] {
                // An earlier sending of the same did it.
                [Some(_), claim, ..] => {
                    held.is_gone |= claim.is_none();
                    let revision = claim.as_ref().map_or(0, |kv| kv.mod_revision);
                    self.delivered(&key, revision);
                }
                _ => self.drop_claim(&key),
            },
        }
    }

    fn delivered(&mut self, key: &Arc<str>, revision: i64) {
        let Some(held) = self.claims.get_mut(key) else { return };
        let Some(delivery) = held.delivery.take() else { return };
        held.mod_revision = held.mod_revision.max(revision);
        held.claim.items = delivery.left;
        if held.claim.items.is_empty() {
            self.claims.remove(key);
        } else if held.is_gone {
            self.drop_claim(key);
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: u64) {
        if !self.is_fenced && now.saturating_add(self.settings.margin) >= self.lease_ends {
            self.is_fenced = true;
            self.tagged.clear();
            self.plain.clear();
            let running = std::mem::take(&mut self.running);
            self.requests.extend(running.into_keys().map(|task| Request::Stop { task }));
        }
        for (key, held) in &mut self.claims {
            if let Some(delivery) = &mut held.delivery
                && delivery.again.is_some_and(|again| again <= now)
            {
                delivery.again = None;
                self.sent.insert(delivery.txn, key.clone());
                self.requests.push(Request::Try(delivery.txn, delivery.body.clone()));
            }
        }
    }

    /// Whether it has stopped everything because the lease may have ended: what it is asked to do
    /// still is to deliver what had ended before.
    pub fn is_fenced(&self) -> bool {
        self.is_fenced
    }

    pub fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// Whether nothing is held.
    pub fn is_idle(&self) -> bool {
        self.claims.is_empty()
    }

    /// What runs now, for whoever looks.
    pub fn running(&self) -> impl Iterator<Item = Running> {
        self.running.iter().filter_map(|(task, started)| {
            let run = self.claims.get(&task.claim)?.run.to_string();
            Some((run, task.lane, task.ordinal, started.attempt, started.since))
        })
    }

    /// What shall be done now. To be called after each input, or each handful.
    pub fn work(&mut self, now: u64) -> Vec<Request> {
        self.start(now);
        let is_idle = self.plain.is_empty() && self.tagged.is_empty();
        for key in self.claims.keys().cloned().collect::<Vec<_>>() {
            self.maybe_deliver(now, &key, is_idle);
        }
        std::mem::take(&mut self.requests)
    }

    fn start(&mut self, now: u64) {
        // A claim with tags holds each once: its tasks go one by one.
        let mut place = 0;
        while let Some((task, attempt)) = self.tagged.get(place).cloned() {
            let is_free = self.claims.get(&task.claim).is_some_and(|held| held.running == 0);
            if is_free && self.fits(&task) {
                self.tagged.remove(place);
                self.run(now, task, attempt);
            } else {
                place += 1;
            }
        }
        while let Some((task, attempt)) = self.plain.front().cloned()
            && self.fits(&task)
        {
            self.plain.pop_front();
            self.run(now, task, attempt);
        }
    }

    fn fits(&self, task: &Task) -> bool {
        let slots = self.claims.get(&task.claim).map_or(1, |held| held.claim.slots.max(1));
        self.busy + slots <= self.settings.capacity
    }

    fn run(&mut self, now: u64, task: Task, attempt: u32) {
        let Some(held) = self.claims.get_mut(&task.claim) else { return };
        let slots = held.claim.slots.max(1);
        held.running += 1;
        self.busy += slots;
        let (run, fence) = (held.run.clone(), held.fence);
        self.running.insert(task.clone(), Started { slots, attempt, since: now });
        self.requests.push(Request::Start { task, run, attempt, fence });
    }

    /// Delivers results of a claim, if it is time.
    fn maybe_deliver(&mut self, now: u64, key: &Arc<str>, is_idle: bool) {
        let Some(held) = self.claims.get_mut(key) else { return };
        let is_due = held.claim.urgent
            || !held.given_back.is_empty()
            || self.is_fenced
            || is_idle
            || held.rows.len() >= self.settings.flush_rows
            || now >= held.since + self.settings.flush_ms;
        let has_news = !held.rows.is_empty() || !held.given_back.is_empty();
        if !has_news || held.delivery.is_some() || !is_due {
            return;
        }
        // A segment without rows shows, as any does, that this has happened.
        let rows = take_rows(&mut held.rows, self.settings.flush_bytes);
        held.since = now;
        let mut gone = std::mem::take(&mut held.given_back);
        gone.extend(rows.iter().map(|row| (row.lane, row.ordinal)));
        let left = without(&held.claim.items, &gone);
        let name = key.rsplit('/').next().unwrap_or_default();
        let segment_key = keys::segment(&held.run, &self.name, name, held.parts);
        held.parts += 1;
        let segment = Segment { claim: held.fence, rows };
        let mut unchanged = vec![Compare::ChangedAt(key.to_string(), held.mod_revision)];
        if planted::has(Bug::ResultComparesCreation) {
            unchanged = vec![Compare::CreatedAt(key.to_string(), held.fence)];
        } else if planted::has(Bug::LateResultCounted) {
            unchanged.clear();
        }
        let mut body = Txn {
            compares: unchanged,
            then: vec![Op::put(segment_key.clone(), &segment)],
            otherwise: vec![Op::Get(segment_key), Op::Get(key.to_string())],
        };
        if left.is_empty() {
            body.then.push(Op::Delete(key.to_string()));
            let tags = held.claim.tags.iter().map(|tag| format!("{}{tag}", keys::TAGS));
            body.then.extend(tags.map(Op::Delete));
        } else {
            let value = Claim { items: left.clone(), ..held.claim.clone() };
            body.then.push(Op::put(key.to_string(), &value));
        }
        self.next_txn += 1;
        held.delivery =
            Some(Delivery { txn: self.next_txn, body: body.clone(), left, again: None });
        self.sent.insert(self.next_txn, key.clone());
        self.requests.push(Request::Try(self.next_txn, body));
    }

    /// When `tick` or `work` has something to do.
    pub fn next_timer(&self) -> Option<u64> {
        let fence = (!self.is_fenced).then(|| self.lease_ends.saturating_sub(self.settings.margin));
        let claims = self.claims.values().filter_map(|held| match &held.delivery {
            Some(delivery) => delivery.again,
            None => (!held.rows.is_empty()).then_some(held.since + self.settings.flush_ms),
        });
        fence.into_iter().chain(claims).min()
    }
}
