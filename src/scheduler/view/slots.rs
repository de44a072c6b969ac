//! Slots of workers that a run could use.

use super::book::RunBook;
use crate::scheduler::model::Labels;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Slots of the workers that took part: what they say of themselves, or for those that are gone the
/// most that they ran at once. While the run goes on, those of all workers that could run something of it.
pub fn slots(book: &RunBook) -> BTreeMap<&str, u64> {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for (worker, peak) in peaks(book) {
        let known = book.workers.get(&**worker).map(|info| u64::from(info.max_task_num));
        seen.insert(worker, known.unwrap_or(*peak));
    }
    if book.is_open || seen.is_empty() {
        let wanted = wanted(book);
        for (worker, info) in &book.workers {
            let offers = info.offers();
            let can = |(requires, slots): &(&Labels, u32)| {
                *slots <= info.max_task_num && has_all(&offers, requires)
            };
            if wanted.iter().any(can) {
                seen.insert(worker, info.max_task_num.into());
            }
        }
    }
    seen
}

/// Slots of those workers that are there.
pub(super) fn slots_now(book: &RunBook) -> u64 {
    let there = slots(book).into_iter().filter(|(worker, _)| book.workers.contains_key(*worker));
    there.map(|(_, slots)| slots).sum()
}

/// What lanes require of workers, with the slots that each of their tasks takes; each once.
fn wanted(book: &RunBook) -> BTreeSet<(&Labels, u32)> {
    let lanes = book.plan.lanes.iter().filter(|plan| !plan.is_manual);
    let mut wanted = BTreeSet::new();
    let mut last: Option<(&Arc<Labels>, u32)> = None;
    for plan in lanes {
        let is_same = |(requires, slots): (&Arc<Labels>, u32)| {
            Arc::ptr_eq(requires, &plan.requires) && slots == plan.slots
        };
        if !last.is_some_and(is_same) {
            last = Some((&plan.requires, plan.slots));
            wanted.insert((&*plan.requires, plan.slots));
        }
    }
    wanted
}

/// Whether a worker that offers these labels has all of those.
pub(super) fn has_all(offers: &Labels, requires: &Labels) -> bool {
    requires.iter().all(|(name, value)| offers.get(name) == Some(value))
}

/// The most slots that each worker used at once.
pub(super) fn peaks(book: &RunBook) -> &BTreeMap<Arc<str>, u64> {
    book.peaks.get_or_init(|| find_peaks(book))
}

fn find_peaks(book: &RunBook) -> BTreeMap<Arc<str>, u64> {
    let mut steps: BTreeMap<&str, Vec<(u64, i64)>> = BTreeMap::new();
    for attempt in book.attempts.iter().filter(|attempt| attempt.row.duration > 0) {
        let slots = book.plan.lanes.get(attempt.row.lane as usize).map_or(1, |lane| lane.slots);
        let start = attempt.row.start.saturating_mul(1_000);
        let of_worker = steps.entry(&attempt.worker).or_default();
        of_worker.push((start, i64::from(slots)));
        // A start is known to the millisecond only: what ends within it has made room.
        let end = start + attempt.row.duration;
        of_worker.push((end.saturating_sub(999).max(start), -i64::from(slots)));
    }
    let peak = |mut steps: Vec<(u64, i64)>| {
        steps.sort_unstable();
        let mut now = 0;
        let mut peak = 0;
        for (_, step) in steps {
            now += step;
            peak = peak.max(now);
        }
        peak as u64
    };
    steps.into_iter().map(|(worker, steps)| (worker.into(), peak(steps))).collect()
}
