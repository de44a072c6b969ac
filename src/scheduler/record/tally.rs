//! What a run's results come to, counted row by row while it goes on, and its report at the end.
//! All of it is of bounded size but for two numbers for each lane; a new leader counts again from
//! the segments.

use super::{cut, has_run, message};
use crate::scheduler::analysis::{FlakeRule, Stats, fingerprint};
use crate::scheduler::model::{Row, Status, Totals};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Failures that a report names one by one.
const FAILURES_MAX: usize = 200;
const MESSAGE_BYTES_MAX: usize = 400;
const GROUPS_MAX: usize = 50;
const SLOWEST_MAX: usize = 20;

/// A run's report: the value of `/reports/{run}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    pub run: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// passed, failed, canceled, incomplete.
    pub state: String,
    pub totals: Totals,
    /// Results, those included that were followed by another attempt.
    pub attempts: u64,
    /// Attempts beyond the first of their tasks.
    pub retries: u64,
    /// When it was submitted, when its first task started, and when it ended, in milliseconds since
    /// 1970.
    pub started: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_start: Option<u64>,
    pub ended: u64,
    pub times: Times,
    /// Not more than 200; `failures_more` are not named.
    pub failures: Vec<Failure>,
    pub failures_more: u64,
    /// Failures that are alike, the most frequent first.
    pub groups: Vec<Group>,
    /// By the longest task of each, the slowest first.
    pub slowest: Vec<Slow>,
    /// All results up to here are in it.
    pub revision: i64,
}

/// How long a run took beside how long it had to take. Milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Times {
    /// From submit to end.
    pub makespan_ms: u64,
    /// Nothing could have been quicker than this with as many slots and tasks as long as they were.
    pub bound_ms: u64,
    /// What the bound follows from: `work`, `tag` or `chain`.
    pub bound_by: String,
    /// The bound as a part of the makespan, from 0 to 1.
    pub efficiency: f64,
    /// The most there were at once.
    pub slots: u64,
    /// What all attempts took together.
    pub work_ms: u64,
    /// The part of it that was followed by another attempt.
    pub repeated_ms: u64,
    /// What slots had of the makespan and did not work.
    pub idle_ms: u64,
}

/// The end of a task that fails its run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failure {
    pub lane: u32,
    pub ordinal: u32,
    pub attempt: u32,
    pub case: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub environment: String,
    /// In a word.
    pub status: String,
    pub worker: String,
    pub message: String,
    /// What was known of the case before.
    pub past: Past,
}

/// What the past of a case says of its failure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Past {
    /// It passed when it ran last, or never ran: most likely what the run is for.
    #[default]
    New,
    /// It comes and goes.
    Flaky,
    /// It has failed since this run.
    Known(String),
}

impl Past {
    /// By the history of the case when the run has ended, at this time.
    pub fn of(run: &str, stats: &Stats, ended: u64) -> Self {
        match stats.failing_run.as_str() {
            _ if FlakeRule::default().score(stats, ended).is_flaky => Past::Flaky,
            "" => Past::New,
            began if began == run => Past::New,
            began => Past::Known(began.to_owned()),
        }
    }
}

/// Failures with one fingerprint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Group {
    pub fingerprint: String,
    /// Attempts.
    pub count: u64,
    pub example: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Slow {
    pub case: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub environment: String,
    pub longest_ms: u64,
    pub mean_ms: u64,
}

/// What the attempts of a lane took, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
struct LaneWork {
    sum: u64,
    longest: u64,
    count: u64,
}

#[derive(Debug, Default)]
pub struct Tally {
    lanes: BTreeMap<u32, LaneWork>,
    attempts: u64,
    retries: u64,
    first_start: Option<u64>,
    repeated_us: u64,
    /// Last attempts that failed, of tasks that were not passed since.
    failures: BTreeMap<(u32, u32), Failure>,
    /// Of those whose messages say something, with the count.
    groups: BTreeMap<String, (u64, u32)>,
}

impl Tally {
    /// Takes in the end of an attempt. `is_last` says that the task is not tried again.
    pub fn row(&mut self, row: &Row, worker: &str, is_last: bool) {
        self.attempts += 1;
        if has_run(row.status) {
            self.retries += u64::from(row.attempt > 1);
            let work = self.lanes.entry(row.lane).or_default();
            work.sum += row.duration;
            work.count += 1;
            work.longest = work.longest.max(row.duration);
            let first = self.first_start.unwrap_or(u64::MAX);
            self.first_start = Some(first.min(row.start));
        }
        if !is_last {
            self.repeated_us += row.duration;
        }
        let task = (row.lane, row.ordinal);
        if !row.status.fails_run() {
            self.failures.remove(&task);
            return;
        }
        let text = message(row.detail.as_ref());
        let alike = fingerprint(text);
        if self.groups.len() < 4 * GROUPS_MAX || self.groups.contains_key(&alike) {
            self.groups.entry(alike).or_insert((0, row.lane)).0 += 1;
        }
        if self.failures.len() < FAILURES_MAX || self.failures.contains_key(&task) {
            let mut message = text.to_owned();
            cut(&mut message, MESSAGE_BYTES_MAX);
            let failure = Failure {
                lane: row.lane,
                ordinal: row.ordinal,
                attempt: row.attempt,
                status: row.status.word().to_owned(),
                worker: worker.to_owned(),
                message,
                ..Default::default()
            };
            self.failures.insert(task, failure);
        }
    }

    /// Attempts so far beyond the first of their tasks.
    pub fn retries(&self) -> u64 {
        self.retries
    }

    /// What a lane's attempts took together, and the longest of them, in microseconds.
    pub fn work_of(&self, lane: u32) -> (u64, u64) {
        let work = self.lanes.get(&lane).copied().unwrap_or_default();
        (work.sum, work.longest)
    }

    /// How many slots' time was worked, in milliseconds, and how much of that was tried again.
    fn worked(&self) -> (u64, u64) {
        let sum: u64 = self.lanes.values().map(|work| work.sum).sum();
        (sum / 1_000, self.repeated_us / 1_000)
    }

    /// The report, but for what only its caller knows. `name_of` gives case and environment of a
    /// lane; `bound` is in microseconds, with what it follows from.
    pub fn report<'a>(
        &self,
        totals: &Totals,
        (started, ended): (u64, u64),
        (bound_us, bound_by): (u64, &str),
        slots: u64,
        name_of: impl Fn(u32) -> (&'a str, &'a str),
    ) -> Report {
        let named = |lane: u32| {
            let (case, environment) = name_of(lane);
            (case.to_owned(), environment.to_owned())
        };
        let failures: Vec<Failure> = self.failures.values().cloned().collect();
        let failures = failures.into_iter().map(|failure| {
            let (case, environment) = named(failure.lane);
            Failure { case, environment, ..failure }
        });
        let failures: Vec<Failure> = failures.collect();
        let failing = Status::ALL.into_iter().filter(|status| status.fails_run());
        let all: u64 = failing.map(|status| totals.get(status)).sum();
        let mut groups: Vec<_> = self.groups.iter().collect();
        groups.sort_by_key(|(_, (count, _))| Reverse(*count));
        let group = |(fingerprint, (count, lane)): (&String, &(u64, u32))| Group {
            fingerprint: fingerprint.clone(),
            count: *count,
            example: name_of(*lane).0.to_owned(),
        };
        let mut slowest: Vec<_> = self.lanes.iter().collect();
        slowest.sort_by_key(|(_, work)| Reverse(work.longest));
        let slow = |(lane, work): (&u32, &LaneWork)| {
            let (case, environment) = named(*lane);
            let mean_ms = work.sum.checked_div(work.count).unwrap_or_default() / 1_000;
            Slow { case, environment, longest_ms: work.longest / 1_000, mean_ms }
        };
        Report {
            totals: totals.clone(),
            attempts: self.attempts,
            retries: self.retries,
            started,
            first_start: self.first_start,
            ended,
            times: self.times((started, ended), (bound_us, bound_by), slots),
            failures_more: all.saturating_sub(failures.len() as u64),
            failures,
            groups: groups.into_iter().take(GROUPS_MAX).map(group).collect(),
            slowest: slowest.into_iter().take(SLOWEST_MAX).map(slow).collect(),
            ..Default::default()
        }
    }

    fn times(
        &self,
        (started, ended): (u64, u64),
        (bound_us, bound_by): (u64, &str),
        slots: u64,
    ) -> Times {
        let makespan_ms = ended.saturating_sub(started);
        let (work_ms, repeated_ms) = self.worked();
        let bound_ms = bound_us / 1_000;
        Times {
            makespan_ms,
            bound_ms,
            bound_by: bound_by.to_owned(),
            efficiency: efficiency(bound_us, makespan_ms),
            slots,
            work_ms,
            repeated_ms,
            idle_ms: makespan_ms.saturating_mul(slots).saturating_sub(work_ms),
        }
    }
}

/// The bound, in microseconds, as a part of the time from submit to end. Times are recorded in milliseconds: a
/// bound may come out a little longer than the run.
pub fn efficiency(bound_us: u64, makespan_ms: u64) -> f64 {
    (bound_us as f64 / 1_000.0 / makespan_ms.max(1) as f64).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(lane: u32, ordinal: u32, attempt: u32, status: Status, ms: u64) -> Row {
        let detail = status.fails_run().then(|| json!({"message": format!("code {ordinal}")}));
        Row { lane, ordinal, attempt, status, start: 100, duration: ms * 1_000, detail }
    }

    #[test]
    fn a_report_holds_what_failed_at_last_and_what_time_went_into() {
        let mut tally = Tally::default();
        tally.row(&row(0, 0, 1, Status::Failed, 10), "w1", false);
        tally.row(&row(0, 0, 2, Status::Passed, 20), "w2", true);
        tally.row(&row(1, 7, 1, Status::TimedOut, 30), "w1", true);
        tally.row(&row(1, 8, 1, Status::Canceled, 0), "w1", true);
        let totals = Totals {
            total: 3,
            by_status: [(Status::Passed, 1), (Status::TimedOut, 1), (Status::Canceled, 1)].into(),
            ..Default::default()
        };
        let names = ["a", "b"];
        let name_of = |lane: u32| (names[lane as usize], "lab");
        let report = tally.report(&totals, (90, 150), (30_000, "chain"), 2, name_of);
        assert_eq!(report.failures.len(), 1);
        let failure = &report.failures[0];
        assert_eq!((failure.case.as_str(), failure.ordinal), ("b", 7));
        assert_eq!(failure.status, "timed out");
        assert_eq!((report.attempts, report.retries, report.failures_more), (4, 1, 0));
        assert_eq!(report.groups.len(), 1, "numbers make no difference: {:?}", report.groups);
        assert_eq!(report.groups[0].count, 2);
        assert_eq!(report.slowest[0].case, "b");
        let times = &report.times;
        assert_eq!((times.makespan_ms, times.work_ms, times.repeated_ms), (60, 60, 10));
        assert_eq!((times.idle_ms, times.efficiency), (60, 0.5));
        assert_eq!(report.first_start, Some(100));
    }

    #[test]
    fn failures_are_new_known_or_flaky() {
        let past = |failing_run: &str| {
            Past::of("r2", &Stats { failing_run: failing_run.into(), ..Stats::default() }, 0)
        };
        assert_eq!(
            [past(""), past("r2"), past("r1")],
            [Past::New, Past::New, Past::Known("r1".into())]
        );
        let shown = serde_json::to_value([past(""), past("r1")]).unwrap();
        assert_eq!(shown, json!(["new", {"known": "r1"}]));
    }

    #[test]
    fn a_report_stays_small_whatever_fails() {
        let mut tally = Tally::default();
        let words = |n: u32| -> String {
            (0..8).map(|bit| char::from(b'a' + (n >> (bit * 2)) as u8 % 4)).collect()
        };
        for ordinal in 0..5_000 {
            let detail =
                Some(json!({"message": format!("{} {}", words(ordinal), "long ".repeat(1_000))}));
            tally.row(&Row { detail, ..row(0, ordinal, 1, Status::Failed, 1) }, "w", true);
        }
        let mut totals = Totals::of(5_000);
        totals.add(Status::Failed, 5_000);
        let report = tally.report(&totals, (0, 1), (1, "work"), 1, |_| ("a", ""));
        assert_eq!((report.failures.len(), report.failures_more), (FAILURES_MAX, 4_800));
        assert!(serde_json::to_vec(&report).unwrap().len() < 200_000);
    }
}
