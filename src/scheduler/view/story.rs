//! What happened in a run, told again in order, from what is recorded of it. The record stays when the
//! store's history is compacted, and so does the story.
//!
//! Times are those that workers reported, starts to the millisecond: what follows within less, or by
//! another worker's clock, may be told in another order than it was. What was never given to a worker,
//! such as skipped tasks, is in no record of its own; the totals at the end count it. Of what was lost with
//! its worker nobody knows whether it had started: its end alone is told.

use super::book::{Attempt, RunBook};
use crate::scheduler::keys;
use crate::scheduler::model::{Item, Status, Totals};
use crate::scheduler::planner::Verdict;
use serde::{Serialize, Serializer};
use std::sync::Arc;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    Submitted {
        tasks: u64,
        lanes: usize,
    },
    Start(Step),
    End {
        #[serde(flatten)]
        step: Step,
        status: Status,
        /// It was tried again.
        again: bool,
        /// Of the record.
        revision: i64,
    },
    /// The end of the run.
    Over {
        state: String,
        totals: Totals,
    },
}

/// An attempt on a worker.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    #[serde(serialize_with = "text")]
    pub case: Arc<str>,
    #[serde(serialize_with = "text", skip_serializing_if = "str::is_empty")]
    pub environment: Arc<str>,
    pub lane: u32,
    pub ordinal: u32,
    pub attempt: u32,
    #[serde(serialize_with = "text")]
    pub worker: Arc<str>,
    /// The fencing token.
    pub fence: i64,
}

impl Step {
    fn new(
        book: &RunBook,
        (lane, ordinal, attempt): (u32, u32, u32),
        worker: Arc<str>,
        fence: i64,
    ) -> Self {
        let plan = book.plan.lanes.get(lane as usize);
        Self {
            case: plan.map_or_else(|| "?".into(), |plan| plan.case.clone()),
            environment: plan.map_or_else(|| "".into(), |plan| plan.environment.clone()),
            lane,
            ordinal,
            attempt,
            worker,
            fence,
        }
    }
}

fn text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Happening {
    /// Microseconds since 1970.
    pub at_us: u64,
    /// Attempts that were going on then.
    pub running: u64,
    /// Tasks that had ended.
    pub ended: u64,
    #[serde(flatten)]
    pub event: Event,
}

/// What comes first of what happened in the same microsecond: ends before starts, but not before their
/// own, behind which those come that took no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    End,
    Start,
}

/// A start is known to the millisecond only: what ends within so many microseconds of it may have made room.
const START_US: u64 = 999;

/// Tells a run from its submit on. Of attempts that go on the start is told, where their worker says it.
pub fn story(book: &RunBook) -> Vec<Happening> {
    // By when they count as having happened, and then as they are told: the kind, the attempt, and whether it
    // is its end.
    let mut order: Vec<(u64, Kind, usize, bool)> = Vec::with_capacity(book.attempts.len() * 2);
    for (at, attempt) in book.attempts.iter().enumerate() {
        let start = attempt.row.start.saturating_mul(1_000);
        if has_known_start(attempt) {
            order.push((start, Kind::Start, at, false));
        }
        match attempt.row.duration {
            0 => order.push((start, Kind::Start, at, true)),
            // Not before its own start.
            took => {
                let end = start.saturating_add(took);
                order.push((end.saturating_sub(START_US).max(start + 1), Kind::End, at, true));
            }
        }
    }
    let attempts = book.attempts.len();
    let going = going(book);
    let starts = (attempts..).zip(&going);
    order.extend(starts.map(|(at, (start, _))| (*start, Kind::Start, at, false)));
    order.sort_unstable();
    let lanes = book.plan.lanes.iter().filter(|lane| lane.total > 0).count();
    let tasks = book.plan.lanes.iter().map(|lane| u64::from(lane.total)).sum();
    let submitted = book.spec.submitted.saturating_mul(1_000);
    let first = Event::Submitted { tasks, lanes };
    let mut told = Vec::with_capacity(order.len() + 2);
    told.push(Happening { at_us: submitted, running: 0, ended: 0, event: first });
    let (mut running, mut ended, mut at_us) = (0_u64, 0, 0);
    for (start, _, place, is_end) in order {
        if let Some((_, step)) = place.checked_sub(attempts).and_then(|place| going.get(place)) {
            running += 1;
            at_us = start.max(at_us);
            told.push(Happening { at_us, running, ended, event: Event::Start(step.clone()) });
            continue;
        }
        let attempt = &book.attempts[place];
        let row = &attempt.row;
        let took = if is_end { row.duration } else { 0 };
        at_us = row.start.saturating_mul(1_000).saturating_add(took).max(at_us);
        let (worker, fence) = (attempt.worker.clone(), attempt.claim);
        let step = Step::new(book, (row.lane, row.ordinal, row.attempt), worker, fence);
        let event = match is_end {
            false => {
                running += 1;
                Event::Start(step)
            }
            true => {
                running -= u64::from(has_known_start(attempt));
                let again = matches!(attempt.verdict, Verdict::Again(_));
                let is_last = matches!(attempt.verdict, Verdict::Ended(..) | Verdict::GivenUp(_));
                ended += u64::from(is_last);
                Event::End { step, status: row.status, again, revision: attempt.revision }
            }
        };
        told.push(Happening { at_us, running, ended, event });
    }
    if let Some(end) = book.status.ended {
        let (state, totals) = (book.state().to_owned(), book.totals());
        let (at_us, ended) = (end.saturating_mul(1_000), totals.ended());
        told.push(Happening { at_us, running, ended, event: Event::Over { state, totals } });
    }
    told
}

/// Attempts that go on, each with its start in microseconds since 1970.
fn going(book: &RunBook) -> Vec<(u64, Step)> {
    let out = book.out();
    let going = book.running.iter().filter(|(_, since)| **since > 0);
    let step = |((lane, ordinal), since): (&(u32, u32), &u64)| {
        let mut of_lane = out.get(lane)?.iter();
        let has = |item: &Item| (item.from..item.to).contains(ordinal);
        let (item, open) = of_lane.find(|(item, _)| has(item))?;
        let place = (*lane, *ordinal, item.attempt);
        Some((since * 1_000, Step::new(book, place, open.worker.clone(), open.fence)))
    };
    going.filter_map(step).collect()
}

/// A person's verdict, and the loss of a worker, are all that is known of what they end.
fn has_known_start(attempt: &Attempt) -> bool {
    &*attempt.worker != keys::PEOPLE && attempt.start().is_some()
}

/// One line for people: seconds since the submit, what goes on and has ended, and what happened.
pub fn line(happening: &Happening, submitted_ms: u64) -> String {
    let since = happening.at_us.saturating_sub(submitted_ms.saturating_mul(1_000));
    let name = |step: &Step| {
        let place = if step.environment.is_empty() { "" } else { "@" };
        let again = match step.attempt {
            0 | 1 => String::new(),
            attempt => format!(", attempt {attempt}"),
        };
        format!("{}{place}{}#{}{again}", step.case, step.environment, step.ordinal)
    };
    let text = match &happening.event {
        Event::Submitted { tasks, lanes } => format!("submitted: {tasks} tasks in {lanes} lanes"),
        Event::Start(step) => format!("{} starts {}", step.worker, name(step)),
        Event::End { step, status, again, .. } => {
            let after = if *again { ", to be tried again" } else { "" };
            format!("{} ends {}: {}{after}", step.worker, name(step), status.word())
        }
        Event::Over { state, totals } => format!("{state}: {}", super::totals_line(totals)),
    };
    let (running, ended) = (happening.running, happening.ended);
    format!("{:>10.3} s {running:>4} running {ended:>6} ended  {text}", since as f64 / 1_000_000.0)
}
