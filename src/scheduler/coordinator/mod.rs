//! The leader of the scheduler, without its sockets: it is told what the store holds and how that
//! changes, and says which transactions shall be tried. All that it knows it could learn again from
//! the store, and a new leader does.
//!
//! Every transaction compares the leader's key, so that a deposed leader writes nothing. What it
//! believes about claims, results and tags comes from the watch alone, in the order of revisions;
//! answers to transactions only say that one was refused. When it is not known whether one happened
//! it asks to be rebuilt under a new epoch, which no older transaction outlives.

mod books;
mod claims;
mod counts;
mod drafts;
mod ended;
mod histories;
mod load;
mod runs;
mod watch;

pub use counts::{Counts, WantedSlots};
pub use drafts::{Draft, drafts};
pub(in crate::scheduler) use runs::plan_of;
pub use runs::{LanePack, OpenedRun};

use super::keys;
use super::model::{Item, Labels, RunSpec, Status, Totals};
use super::planner::{ClaimNo, Planner, RunNo, WorkerNo};
use super::record::{History, Latest, Tally};
use super::store::{Commit, Compare, Kv, Outcome, Txn};
use crate::planted::{self, Bug};
use books::{Books, Dirty};
use ended::Over;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Names a transaction until its outcome is known.
pub type TxnNo = u64;

pub const DAY_MS: u64 = 24 * 3_600_000;

/// What can be set; times in milliseconds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a tag of a lost worker stays taken: that long may its task go on.
    pub hold_off: u64,
    /// Beyond a claim's own time, before its worker is asked to cancel.
    pub grace: u64,
    /// After that, before the worker is put out.
    pub eviction: u64,
    /// Between two writings of what has been counted.
    pub checkpoint: u64,
    /// After the store has refused something, before more is given out.
    pub rest: u64,
    /// So many runs that have ended are kept; 0 for all.
    pub keep_runs: usize,
    /// For so long they are kept; 0 for ever.
    pub keep_ms: u64,
    /// After so long without a change, what was written of a run that does not exist is removed.
    pub abandoned: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hold_off: 2_000,
            grace: 5_000,
            eviction: 60_000,
            checkpoint: 1_000,
            rest: 500,
            keep_runs: 1_000,
            keep_ms: 30 * DAY_MS,
            abandoned: 3_600_000,
        }
    }
}

/// What the shell shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Try(TxnNo, Txn),
    /// Read all keys of a run, at a revision or later, and hand them in as `run_read`.
    ReadRun {
        run: String,
    },
    /// Read the first segments of a run that is over, and which block comes next, and hand them in
    /// as `ended_read`.
    ReadEnded {
        run: String,
    },
    /// Look which runs have definitions but do not exist, and hand them in as `drafts_read`.
    ReadDrafts,
    /// Let a muted case be as any other: it had recovered at a time, in milliseconds since 1970. A newer
    /// mute stays.
    EndMute {
        case: String,
        recovered: u64,
    },
    /// End a lease: its worker does not answer.
    Revoke {
        lease: i64,
    },
    /// Write the leader's key again and build a coordinator anew from the store: it is not known
    /// what happened.
    Rebuild,
    /// Another leads now.
    Deposed,
}

/// The value of a worker's key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerInfo {
    pub labels: Labels,
    /// Slots.
    pub max_task_num: u32,
    /// Tasks that it takes ahead for each slot, at most.
    pub prefetch: u32,
    /// It is given no command cases. Workers of another program, which do not know of this, are taken
    /// to run them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_commands: bool,
    /// It runs what it is given when it likes: a service, or a client that asks.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub at_will: bool,
    /// It finishes what it has and takes nothing more.
    pub draining: bool,
    /// It takes nothing for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resting: Option<Rest>,
    /// Where it serves artifacts, each under its digest.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub artifacts: String,
}

impl WorkerInfo {
    /// All that lanes may require of it: its labels, and what the scheduler knows of it.
    pub fn offers(&self) -> Labels {
        let own = self.labels.iter().filter(|(name, _)| !name.starts_with('@'));
        let own = own.map(|(name, value)| (name.clone(), value.clone()));
        let commands = (!self.no_commands).then(|| (keys::COMMANDING.to_owned(), String::new()));
        own.chain(commands).collect()
    }
}

/// Why a worker takes nothing for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rest {
    pub why: String,
    /// It is looked again then, in milliseconds since 1970.
    pub until: u64,
}

/// The value of a tag that is held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TagHold {
    pub run: String,
    pub worker: String,
    pub claim: String,
    pub lane: u32,
    /// The worker was lost: held until it has certainly stopped.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
}

/// What somebody wants of a run that goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Control {
    #[default]
    Running,
    Paused,
    Canceled,
}

/// A command to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// Ends the tasks of a claim as canceled; `claim` is its name. Those of one that is overdue have timed
    /// out, and what of it has not started goes back.
    Cancel {
        claim: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        overdue: bool,
    },
    /// Ends those tasks of a claim as skipped that have not started.
    Skip { claim: String },
    /// Takes nothing more and leaves when it is done.
    Drain,
}

/// How far a run is: the value of `run/{run}/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunStatus {
    /// running; waiting, while no worker has anything of it; paused, canceling; or how it ended: passed,
    /// failed, canceled, incomplete.
    pub state: String,
    pub totals: Totals,
    /// Attempts so far beyond the first of their tasks.
    pub retries: u64,
    /// Milliseconds since 1970.
    pub started: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    /// How long the rest takes if nothing keeps it from filling all slots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
    /// The most slots that workers had since it was submitted, of those that could run something of it.
    pub slots: u64,
    /// The revision up to which results are counted.
    pub revision: i64,
}

#[derive(Debug)]
struct Run {
    number: RunNo,
    control: Control,
    /// Without its cases.
    spec: RunSpec,
    dirty: Dirty,
    /// The state that its status was written with last; empty when it is to be written again.
    shown: &'static str,
    /// A worker was given something of it since its state was looked at last.
    was_given: bool,
    /// Workers have something of it, or had of late.
    is_busy: bool,
    is_over: bool,
    /// Its end is being written.
    is_closing: bool,
    lanes: u32,
    tally: Tally,
    slots: u64,
    /// How it ends, and its efficiency.
    end: Option<(String, f64)>,
}

/// What is to be written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    #[default]
    Nothing,
    /// Runs that are over.
    Ends,
    All,
}

#[derive(Debug)]
struct Worker {
    number: WorkerNo,
    /// Create revision of its key.
    registration: i64,
    /// When its key was last written: a claim is made only for what is known of it.
    mod_revision: i64,
    lease: i64,
}

#[derive(Debug)]
struct Claim {
    number: ClaimNo,
    worker: String,
    registration: i64,
    run: String,
    items: Vec<Item>,
    /// Of its key; 0 while it is not known to be there.
    mod_revision: i64,
    create_revision: i64,
    deadline: u64,
    /// Cancellation was asked for at this time.
    canceled: Option<u64>,
    /// What has not started was asked to be skipped.
    is_recalled: bool,
    is_reclaiming: bool,
    tags: Vec<(Arc<str>, u32)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Sent {
    Claim {
        key: String,
    },
    Reclaim {
        key: String,
    },
    Books,
    Roll {
        run: String,
        is_last: bool,
    },
    Remove {
        key: String,
    },
    /// The watch tells all there is to know of it.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    ReleaseTag(String),
    Books,
    Rest,
    Drafts,
    Claim(String),
}

#[derive(Debug)]
pub struct Coordinator {
    settings: Settings,
    /// The leader's key, and the revision at which it was last written.
    leader: (String, i64),
    planner: Planner,
    runs: BTreeMap<String, Run>,
    /// Runs that are being read, with what was wanted of them meanwhile.
    reading: BTreeMap<String, Option<Control>>,
    /// Open runs of which nobody can read what they are made of.
    unread: BTreeSet<String>,
    run_names: BTreeMap<RunNo, String>,
    workers: BTreeMap<String, Worker>,
    /// By key.
    claims: BTreeMap<String, Claim>,
    claim_keys: BTreeMap<ClaimNo, String>,
    /// Held tags by key, with the revision of the last change.
    tags: BTreeMap<String, i64>,
    timers: BTreeSet<(u64, Timer)>,
    sent: BTreeMap<TxnNo, Sent>,
    next_txn: TxnNo,
    next_claim: u64,
    /// All commits up to here are counted.
    revision: i64,
    requests: Vec<Request>,
    due: Due,
    books: Books,
    over: Over,
    /// Runs that did not exist an hour ago, with the revision of their last change.
    drafts: BTreeMap<String, i64>,
    /// Of cases in environments, by key.
    histories: BTreeMap<String, History>,
    /// Latest results that are to be written, by the key of the history.
    latest: BTreeMap<String, Latest>,
    /// Nothing is given out before.
    resting_until: u64,
    counts: Counts,
}

impl Coordinator {
    /// What is decided by, for whoever asks why something waits.
    pub fn planner(&self) -> &Planner {
        &self.planner
    }

    /// By what number the planner knows a run that is open.
    pub fn run_number(&self, run: &str) -> Option<RunNo> {
        self.runs.get(run).map(|run| run.number)
    }

    /// A commit that the watch brought; in the order of revisions, each once.
    pub fn commit(&mut self, now: u64, commit: &Commit) {
        if commit.revision > self.revision {
            self.take_in(now, commit);
            self.revision = commit.revision;
        }
    }

    /// What became of a transaction.
    pub fn outcome(&mut self, now: u64, txn: TxnNo, outcome: &Outcome) {
        let Some(sent) = self.sent.remove(&txn) else { return };
        match outcome {
            Outcome::Committed { .. } => self.done(sent),
            Outcome::Refused { found, .. } => {
                let leader = found.first().and_then(Option::as_ref);
                match leader {
                    Some(kv) if kv.mod_revision == self.leader.1 => self.refused(now, sent),
                    _ => self.requests.push(Request::Deposed),
                }
            }
            Outcome::Failed(_) => {
                // Nothing more is given out until it may have passed.
                self.resting_until = now + self.settings.rest;
                self.timers.insert((self.resting_until, Timer::Rest));
                self.refused(now, sent);
            }
            Outcome::Unknown => self.requests.push(Request::Rebuild),
        }
    }

    /// Time has passed, in milliseconds since 1970.
    pub fn tick(&mut self, now: u64) {
        self.planner.advance(now);
        while let Some((at, timer)) = self.timers.first().cloned()
            && at <= now
        {
            self.timers.remove(&(at, timer.clone()));
            match timer {
                Timer::ReleaseTag(key) => self.release_tag(&key),
                Timer::Books => self.due = Due::All,
                Timer::Rest => {}
                Timer::Drafts => self.look_at_drafts(now),
                Timer::Claim(key) => self.overdue(now, &key),
            }
        }
    }

    /// What shall be done now. To be called after each input, or each handful.
    pub fn work(&mut self, now: u64) -> Vec<Request> {
        self.take_notes(now);
        if now >= self.resting_until {
            self.assign(now);
        }
        self.maybe_write_books(now);
        self.tidy(now);
        std::mem::take(&mut self.requests)
    }

    /// When `tick` has something to do.
    pub fn next_timer(&self) -> Option<u64> {
        let own = self.timers.first().map(|(at, _)| *at);
        own.into_iter().chain(self.planner.next_timer()).min()
    }

    /// Sends a transaction of the leader, which fails when another leads.
    fn send(&mut self, sent: Sent, mut txn: Txn) {
        let (key, revision) = self.leader.clone();
        if !planted::has(Bug::LeaderNotCompared) {
            txn.compares.insert(0, Compare::ChangedAt(key.clone(), revision));
        }
        txn.otherwise.insert(0, super::store::Op::Get(key));
        self.next_txn += 1;
        self.sent.insert(self.next_txn, sent);
        self.requests.push(Request::Try(self.next_txn, txn));
    }

    fn done(&mut self, sent: Sent) {
        match sent {
            Sent::Books => self.books_written(),
            Sent::Roll { run, is_last } => self.roll_done(&run, is_last),
            Sent::Remove { key } => self.removed(&key, true),
            Sent::Claim { .. } | Sent::Reclaim { .. } | Sent::Other => {}
        }
    }

    /// Though this one leads, something else had changed. What, the watch tells; what was not
    /// given out goes back.
    fn refused(&mut self, now: u64, sent: Sent) {
        match sent {
            Sent::Claim { key } => self.claim_refused(now, &key),
            Sent::Reclaim { key } => {
                if let Some(claim) = self.claims.get_mut(&key) {
                    claim.is_reclaiming = false;
                }
                self.maybe_reclaim(now, &key);
            }
            Sent::Books => self.books_refused(),
            Sent::Roll { run, .. } => self.roll_done(&run, false),
            Sent::Remove { key } => self.removed(&key, false),
            Sent::Other => {}
        }
    }
}

/// Whether a key is that of a scheduler which leads or stands for it: one without a lease is nobody's.
pub fn is_leader(kv: &Kv) -> bool {
    kv.key.starts_with(keys::LEADERS) && kv.lease != 0
}

/// Those who take manual cases: a worker without a key, which is there for ever.
fn people(planner: &Planner) -> Worker {
    Worker { number: planner.people(), registration: 0, mod_revision: 0, lease: 0 }
}

/// The word for how a run ended; `set_apart` are tasks of cases that somebody wants skipped.
fn verdict(totals: &Totals, set_apart: u64, control: Control) -> &'static str {
    if control == Control::Canceled {
        "canceled"
    } else if totals.failures > 0 {
        "failed"
    } else if totals.get(Status::Skipped) + totals.get(Status::Canceled) > set_apart {
        // Somebody may have canceled tasks by taking their tag.
        "incomplete"
    } else {
        "passed"
    }
}

fn parse<T: for<'de> Deserialize<'de>>(kv: &Kv) -> Option<T> {
    serde_json::from_slice(&kv.value).ok()
}

fn last_part(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}
