//! How near a run came to the least time in which it could be done.

use super::book::RunBook;
use super::loss::{Gap, Loss, STEPS_MAX, STEPS_MAX_ONCE, gaps};
use super::slots::{slots, slots_now};
use super::steps::{Stretch, stretches};
use super::tasks::LaneView;
use crate::scheduler::planner::{Bound, bound};
use crate::scheduler::record::efficiency;
use serde::Serialize;

/// Tasks of cases that nobody ever saw are taken to be this long, in microseconds.
const UNKNOWN_US: u64 = 1_000_000;
/// So many tasks of a lane tell better how long its others take than the history of its case does.
const OBSERVED_MIN: u64 = 3;
/// Said in place of the loss.
const LOSS_LEFT_OUT: &str = "too many tasks for the loss by cause";

/// A run measured. Times are in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Numbers {
    /// Of workers that took part; while the run goes on, of those that are there.
    pub slots: u64,
    /// All attempts together, and the estimate of what is left.
    pub work: u64,
    /// Lower bounds by what they follow from, and the highest of them.
    pub bound_work: u64,
    pub bound_tag: u64,
    pub bound_limit: u64,
    pub bound_chain: u64,
    pub bound: u64,
    /// Tasks that have not ended of which nobody knows how long they take: each is counted as a second.
    pub guessed: u64,
    /// From the submit to the run's end as the leader saw it; before, to the last end so far.
    pub makespan: u64,
    /// The bound as a part of the makespan; none while the run goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub efficiency: Option<f64>,
    /// The least time that what has not ended needs; 0 when all has.
    pub left: u64,
    /// How long the tasks take that have not ended, one after another.
    pub left_work: u64,
    /// None where there were too many tasks to look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_left_out: Option<&'static str>,
}

/// How long tasks of each lane take, and how many are left.
pub(super) struct Rest<'b> {
    book: &'b RunBook,
    lanes: Vec<LaneView>,
}

impl<'b> Rest<'b> {
    pub(super) fn new(book: &'b RunBook) -> Self {
        Self { book, lanes: book.all_lanes() }
    }

    /// How long a task takes with all its attempts, in microseconds: as those of this run that have ended, where
    /// there are enough of them, and before as in the past.
    pub(super) fn each(&self, lane: u32) -> u64 {
        self.known(lane).unwrap_or(UNKNOWN_US)
    }

    fn known(&self, lane: u32) -> Option<u64> {
        let view = self.lanes.get(lane as usize)?;
        let ended = ended_by_attempt(self.book, lane);
        let observed = view.work.checked_div(ended);
        let known = self.book.plan.lanes[lane as usize].estimate;
        if ended >= OBSERVED_MIN { observed.or(known) } else { known.or(observed) }
    }

    /// Tasks that have not ended and take slots, and nobody knows how long.
    fn guessed(&self) -> u64 {
        let lanes = (0..).zip(&self.book.plan.lanes);
        let guessed = lanes.filter(|(lane, plan)| !plan.is_manual && self.known(*lane).is_none());
        guessed.map(|(lane, _)| self.tasks(lane)).sum()
    }

    /// Tasks that have not ended.
    fn tasks(&self, lane: u32) -> u64 {
        let totals = &self.lanes[lane as usize].totals;
        totals.total.saturating_sub(totals.ended())
    }

    /// What a lane's tasks take that have not ended, and the longest of them.
    fn left(&self, lane: u32) -> (u64, u64) {
        match self.tasks(lane) {
            0 => (0, 0),
            left => (left.saturating_mul(self.each(lane)), self.each(lane)),
        }
    }

    /// The same for all of a lane's tasks.
    fn all(&self, lane: u32) -> (u64, u64) {
        let (view, (left, longest)) = (&self.lanes[lane as usize], self.left(lane));
        (view.work.saturating_add(left), view.longest.max(longest))
    }

    /// What is left without what has run of it by a time in milliseconds since 1970, in microseconds: all of it as
    /// time of slots, and the least time that it needs.
    pub(super) fn left_at(&self, now: u64) -> (u64, u64) {
        let left_of = |lane: u32| {
            let (left, each) = self.left(lane);
            let running = self.book.running.range((lane, 0)..=(lane, u32::MAX));
            let mut all_run = self.tasks(lane) == u64::from(self.book.running_of(lane));
            let (mut done, mut longest) = (0_u64, 0);
            for (_, since) in running {
                all_run &= *since > 0;
                let ran = if *since == 0 { 0 } else { now.saturating_sub(*since) * 1_000 };
                done += ran.min(each);
                longest = longest.max(each - ran.min(each));
            }
            (left.saturating_sub(done), if all_run { longest } else { each })
        };
        let lanes = 0..self.lanes.len() as u32;
        let of_slots = |lane| left_of(lane).0.saturating_mul(self.book.slots_of(lane).into());
        let least = self.bound(slots_now(self.book), left_of).longest();
        (lanes.map(of_slots).fold(0, u64::saturating_add), least)
    }

    fn bound(&self, slots: u64, work_of: impl Fn(u32) -> (u64, u64)) -> Bound {
        bound(&self.book.plan, slots, work_of, |share| self.book.capacity(share))
    }
}

/// Measures a run.
pub fn numbers(book: &RunBook) -> Numbers {
    measured(book).0
}

/// The same for somebody who waits for it: of many more tasks it is looked where slots were lost.
pub fn numbers_once(book: &RunBook) -> Numbers {
    measured_within(book, STEPS_MAX_ONCE).0
}

/// The same, with when slots were idle and why, in the order of time.
pub fn measured(book: &RunBook) -> (Numbers, Vec<Gap>) {
    measured_within(book, STEPS_MAX)
}

fn measured_within(book: &RunBook, steps_max: u64) -> (Numbers, Vec<Gap>) {
    let rest = Rest::new(book);
    let lanes = 0..rest.lanes.len() as u32;
    let ended = book.status.ended.filter(|_| !book.is_open);
    let took_part = slots_of_run(book);
    let slots = if book.is_open { slots_now(book) } else { took_part };
    let all = rest.bound(took_part, |lane| rest.all(lane));
    let left = rest.bound(slots, |lane| rest.left(lane));
    let stretches = stretches(book);
    let begin = book.spec.submitted.saturating_mul(1_000);
    let (last, end) = ends(book, &stretches);
    let makespan = end.saturating_sub(begin);
    // By a worker's clock its last task may have ended after the run.
    let (gaps, loss) = gaps(book, &stretches, took_part, (begin, end.max(last)), steps_max);
    let numbers = Numbers {
        slots,
        work: lanes.clone().map(|lane| rest.all(lane).0).sum(),
        bound_work: all.work,
        bound_tag: all.tag,
        bound_limit: all.limit,
        bound_chain: all.chain,
        bound: all.longest(),
        guessed: rest.guessed(),
        makespan,
        efficiency: ended.map(|_| efficiency(all.longest(), makespan / 1_000)),
        left: left.longest(),
        left_work: lanes.map(|lane| rest.left(lane).0).sum(),
        loss,
        loss_left_out: loss.is_none().then_some(LOSS_LEFT_OUT),
    };
    (numbers, gaps)
}

/// Slots of all workers; of a run that has ended, what its report says is said here too.
fn slots_of_run(book: &RunBook) -> u64 {
    match book.status.slots {
        most if !book.is_open && book.status.ended.is_some() && most > 0 => most,
        _ => slots(book).values().sum(),
    }
}

/// The last end of an attempt, and the end of the run; the same while it goes on.
fn ends(book: &RunBook, stretches: &[Stretch]) -> (u64, u64) {
    let begin = book.spec.submitted.saturating_mul(1_000);
    let last = stretches.iter().map(|stretch| stretch.end).max().unwrap_or(begin);
    let ended = book.status.ended.filter(|_| !book.is_open);
    (last, ended.map_or(last, |ended| ended.saturating_mul(1_000).max(begin)))
}

fn ended_by_attempt(book: &RunBook, lane: u32) -> u64 {
    book.counted.get(lane as usize).map_or(0, |counted| u64::from(counted.ended.count()))
}
