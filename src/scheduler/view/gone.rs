//! When workers of a run were gone, as far as its record tells.

use super::book::{Attempt, RunBook};
use crate::scheduler::model::Status;
use std::collections::BTreeMap;

/// What a worker did, in microseconds since 1970.
#[derive(Default)]
struct Life {
    /// Attempts that took time: from when to when.
    attempts: Vec<(u64, u64)>,
    /// When it was noticed that it had lost some.
    losses: Vec<u64>,
}

/// A worker goes, or comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn<'b> {
    /// In microseconds since 1970.
    pub(super) at: u64,
    pub(super) worker: &'b str,
    pub(super) goes: bool,
}

/// In the order of time. A worker that lost attempts is gone from the last end of one that it did record - since then its
/// slots had what was lost, or were not there - until it begins another one, or for good if it is not there. While a run
/// goes on, one that is not there is gone from its last end in any case; afterwards nobody knows when it left.
pub(super) fn turns(book: &RunBook) -> Vec<Turn<'_>> {
    let mut lives: BTreeMap<&str, Life> = BTreeMap::new();
    for attempt in &book.attempts {
        let life = lives.entry(&attempt.worker).or_default();
        let start = attempt.row.start.saturating_mul(1_000);
        match attempt.row.duration {
            0 if is_lost(attempt) => life.losses.push(start),
            0 => {}
            took => life.attempts.push((start, start + took)),
        }
    }
    let mut turns = Vec::new();
    for (worker, life) in lives {
        let is_there = !book.is_gone(worker);
        for (from, to) in life.gone(is_there, book.is_open) {
            turns.push(Turn { at: from, worker, goes: true });
            turns.extend(to.map(|at| Turn { at, worker, goes: false }));
        }
    }
    turns.sort_by_key(|turn| turn.at);
    turns
}

/// What its worker never delivered.
pub(super) fn is_lost(attempt: &Attempt) -> bool {
    attempt.row.status == Status::Lost
}

impl Life {
    /// From when to when it was gone, in their order and apart from each other; without an end for good.
    fn gone(mut self, is_there: bool, is_open: bool) -> Vec<(u64, Option<u64>)> {
        self.attempts.sort_unstable();
        self.losses.sort_unstable();
        // The last end of those up to each.
        let ends = self.attempts.iter().scan(0, |last: &mut u64, (_, end)| {
            *last = (*last).max(*end);
            Some(*last)
        });
        let ends: Vec<u64> = ends.collect();
        let mut gone: Vec<(u64, Option<u64>)> = Vec::new();
        for noticed in self.losses {
            let next = self.attempts.partition_point(|(start, _)| *start < noticed);
            let from = next.checked_sub(1).map_or(noticed, |last| ends[last].min(noticed));
            let back = self.attempts.get(next).map(|(start, _)| *start);
            let to = back.or(is_there.then_some(noticed));
            match gone.last_mut() {
                Some(last) if last.1.is_none_or(|end| end >= from) => {
                    last.1 = last.1.zip(to).map(|(end, to)| end.max(to));
                }
                _ => gone.push((from, to)),
            }
        }
        let is_gone = gone.last().is_some_and(|(_, to)| to.is_none());
        if let Some(end) = ends.last().filter(|_| is_open && !is_there && !is_gone) {
            gone.push((*end, None));
        }
        gone
    }
}
