//! Runs that are over: their segments are moved into blocks, and the oldest runs are deleted.
//!
//! A segment and the block that takes it change in one transaction, so that each result is in one
//! place at every revision; a new leader goes on with what is left.

use super::{Coordinator, Request, Sent};
use crate::scheduler::keys;
use crate::scheduler::record::Packer;
use crate::scheduler::store::{Kv, Op, Txn};
use std::collections::BTreeSet;

/// What is being done with runs that are over.
#[derive(Debug, Default)]
pub(super) struct Over {
    /// Keys of runs that have ended: the newest first.
    ended: BTreeSet<String>,
    /// Runs with segments to be moved.
    rolls: BTreeSet<String>,
    /// The one in hand, and whether an answer is awaited for it.
    rolling: Option<String>,
    /// The run that is being deleted.
    removing: Option<String>,
}

impl Coordinator {
    pub(super) fn run_ended(&mut self, key: &str) {
        if keys::parse_ended(key).is_some() {
            self.over.ended.insert(key.to_owned());
        }
    }

    pub(super) fn run_removed(&mut self, key: &str) {
        self.over.ended.remove(key);
    }

    pub(super) fn schedule_roll(&mut self, run: &str) {
        self.over.rolls.insert(run.to_owned());
    }

    pub(super) fn rolled(&mut self, run: &str) {
        self.over.rolls.remove(run);
        if self.over.rolling.as_deref() == Some(run) {
            self.over.rolling = None;
        }
    }

    /// Begins what is to be done next with runs that are over, one thing at a time.
    pub(super) fn tidy(&mut self, now: u64) {
        if now < self.resting_until {
            return;
        }
        if self.over.rolling.is_none()
            && let Some(run) = self.over.rolls.first().cloned()
        {
            self.over.rolling = Some(run.clone());
            self.requests.push(Request::ReadEnded { run });
        }
        if self.over.removing.is_none()
            && let Some((key, run)) = self.outdated(now)
        {
            self.remove(key, &run);
        }
    }

    /// The next run that is kept no longer.
    fn outdated(&self, now: u64) -> Option<(String, String)> {
        let key = self.over.ended.last()?;
        let (at, run) = keys::parse_ended(key)?;
        let (runs, age) = (self.settings.keep_runs, self.settings.keep_ms);
        let is_too_many = runs > 0 && self.over.ended.len() > runs;
        let is_too_old = age > 0 && at.saturating_add(age) < now;
        let is_outdated = (is_too_many || is_too_old) && !self.over.rolls.contains(run);
        is_outdated.then(|| (key.clone(), run.to_owned()))
    }

    fn remove(&mut self, key: String, run: &str) {
        let then = vec![
            Op::Delete(key.clone()),
            Op::Delete(keys::run(run)),
            Op::delete_all(keys::run_parts(run)),
            Op::delete_all(keys::blocks(run)),
            Op::delete_all(keys::segments(run)),
            Op::delete_all(keys::late_results(run)),
            Op::Delete(keys::report(run)),
        ];
        self.over.removing = Some(run.to_owned());
        self.send(Sent::Remove { key }, Txn { then, ..Default::default() });
    }

    pub(super) fn removed(&mut self, key: &str, has_happened: bool) {
        self.over.removing = None;
        if has_happened {
            self.run_removed(key);
        }
    }

    /// The first segments of a run that is over, in the order of their keys, in answer to
    /// `Request::ReadEnded`, and the number of the next block.
    pub fn ended_read(&mut self, run: &str, block: u32, kvs: &[Kv]) {
        if self.over.rolling.as_deref() != Some(run) {
            return;
        }
        let mut packer = Packer::default();
        for kv in kvs {
            if !packer.take(kv) {
                break;
            }
        }
        let roll = keys::roll(run);
        let then = match packer.finish() {
            Some((value, first, last)) => {
                // The next key there can be: what is between was not there before, and is not now.
                let end = format!("{last}\0");
                vec![Op::put(keys::block(run, block), &value), Op::DeleteRange(first, end)]
            }
            None => vec![Op::Delete(roll)],
        };
        let is_last = kvs.is_empty();
        self.send(Sent::Roll { run: run.to_owned(), is_last }, Txn { then, ..Default::default() });
    }

    /// What was to be moved has been, or has not: either way it is looked what is left.
    pub(super) fn roll_done(&mut self, run: &str, is_over: bool) {
        if is_over {
            self.over.rolls.remove(run);
        }
        if self.over.rolling.as_deref() == Some(run) {
            self.over.rolling = None;
        }
    }
}
