//! The tasks of a run, page by page.

use super::book::{Attempt, Open, RunBook};
use crate::scheduler::analysis::{self, Trial, fingerprint};
use crate::scheduler::model::{Item, Status};
use crate::scheduler::planner::Verdict;
use crate::scheduler::record::{has_run, message};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One task with what is known of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskView {
    pub lane: u32,
    /// From 0.
    pub ordinal: u32,
    pub case: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub environment: String,
    pub status: Status,
    /// A worker has it and does not run it yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_assigned: bool,
    /// Passed after a failed attempt.
    pub is_flaky: bool,
    /// Its case is muted: however it ends, its run does not fail by it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_muted: bool,
    /// Why, and until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub muted: Option<Mute>,
    /// Attempts that have ended.
    pub attempts: u32,
    /// Who has it, or ran it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Since when it runs, in milliseconds since 1970, as its worker says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Of the last attempt that has ended, in milliseconds since 1970; not known of one that was lost with its
    /// worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// Of that attempt, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<u64>,
    /// What the last attempt said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Value>,
    /// Why it has ended without having run, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Why a case is muted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mute {
    pub reason: String,
    /// RFC 3339; it has no end where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// Which tasks are wanted; all where nothing is said.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub statuses: Vec<Status>,
    pub case: Option<String>,
    pub environment: Option<String>,
    /// Those that take this tag, by its name or with its scope.
    pub tag: Option<String>,
    /// Those that passed after a failed attempt.
    pub flaky: bool,
    /// Those whose last attempt said something with this fingerprint.
    pub fingerprint: Option<String>,
}

/// A page of tasks, by lane and ordinal.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TasksPage {
    pub tasks: Vec<TaskView>,
    /// Where the next page starts: lane and ordinal; none behind the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<(u32, u32)>,
}

/// One lane in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LaneView {
    pub lane: u32,
    pub case: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub environment: String,
    pub totals: crate::scheduler::model::Totals,
    pub running: u32,
    /// With workers that do not run them yet, or with people.
    pub assigned: u32,
    /// The parts of its tags' keys behind `tag/`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Attempts beyond the first of their tasks.
    pub retries: u32,
    /// Of the attempts that came to a verdict, in microseconds; the longest of them.
    pub work: u64,
    pub longest: u64,
}

impl RunBook {
    /// Tasks from a place on, at most `limit`. It looks at every task between the first and the last
    /// of the page, and at none before.
    pub fn tasks(&self, filter: &Filter, from: (u32, u32), limit: usize) -> TasksPage {
        let mut page = TasksPage::default();
        let out = self.out();
        for lane in from.0..self.plan.lanes.len() as u32 {
            let plan = &self.plan.lanes[lane as usize];
            let is_other = |wanted: &Option<String>, found: &str| {
                wanted.as_ref().is_some_and(|wanted| wanted != found)
            };
            if is_other(&filter.case, &plan.case)
                || is_other(&filter.environment, &plan.environment)
                || !filter.takes_tag(&plan.tags)
            {
                continue;
            }
            let open = out.get(&lane).map(Vec::as_slice).unwrap_or_default();
            let first = if lane == from.0 { from.1 } else { 0 };
            for ordinal in first..plan.total {
                let task = self.task(lane, ordinal, open);
                if !filter.takes(&task) {
                    continue;
                }
                if page.tasks.len() == limit {
                    page.next = Some((lane, ordinal));
                    return page;
                }
                page.tasks.push(self.explained(task));
            }
        }
        page
    }

    /// One task, if there is such a one.
    pub fn find_task(&self, lane: u32, ordinal: u32) -> Option<TaskView> {
        self.plan.lanes.get(lane as usize).filter(|plan| ordinal < plan.total)?;
        let open = self.out().remove(&lane).unwrap_or_default();
        Some(self.explained(self.task(lane, ordinal, &open)))
    }

    /// With the reason, if it has not run, and that of its case's mute.
    fn explained(&self, mut task: TaskView) -> TaskView {
        let case = task.is_muted.then(|| self.case_of(task.lane)).flatten();
        task.muted = case.map(|case| Mute { reason: case.state_reason, until: case.state_until });
        if task.attempts == 0 || task.status == Status::Skipped {
            task.reason = self.reason(task.lane, task.ordinal, task.status);
        }
        task
    }

    fn task(&self, lane: u32, ordinal: u32, open: &[(Item, &Open)]) -> TaskView {
        let plan = &self.plan.lanes[lane as usize];
        let attempts: Vec<&Attempt> = self.attempts_of(lane, ordinal).collect();
        let holder = open.iter().find(|(item, _)| (item.from..item.to).contains(&ordinal));
        let last = attempts.last();
        let since = self.running.get(&(lane, ordinal)).copied();
        let is_running = since.is_some();
        let status = self.status_of(lane, ordinal, &attempts, is_running);
        let holder = holder.filter(|_| !status.is_terminal());
        let failed_before = attempts
            .iter()
            .rev()
            .skip(1)
            .any(|attempt| matches!(attempt.row.status, Status::Failed | Status::TimedOut));
        let worker = match holder {
            Some((_, open)) => Some(open.worker.to_string()),
            None => last.map(|last| last.worker.to_string()),
        };
        TaskView {
            lane,
            ordinal,
            case: plan.case.to_string(),
            environment: plan.environment.to_string(),
            status,
            is_assigned: holder.is_some() && !is_running,
            is_flaky: status == Status::Passed && failed_before,
            is_muted: plan.is_muted,
            muted: None,
            attempts: attempts.len() as u32,
            worker,
            since: since.filter(|since| *since > 0 && status == Status::Running),
            start: last.and_then(|last| last.start()),
            duration: last.and_then(|last| last.start().map(|_| last.row.duration)),
            detail: last.and_then(|last| last.row.detail.clone()),
            reason: None,
        }
    }

    pub(super) fn status_of(
        &self,
        lane: u32,
        ordinal: u32,
        attempts: &[&Attempt],
        is_running: bool,
    ) -> Status {
        use crate::scheduler::planner::Verdict;
        let by_attempt = attempts.iter().find_map(|attempt| match attempt.verdict {
            Verdict::Ended(status, _) | Verdict::GivenUp(status) => Some(status),
            Verdict::Again(_) | Verdict::Refused => None,
        });
        if let Some(status) = by_attempt {
            return status;
        }
        let unstarted = self.unstarted.get(&lane);
        if let Some(unstarted) = unstarted.filter(|unstarted| unstarted.ended.contains(ordinal)) {
            // Nearly always they all ended alike; where not, nobody wrote down which did how, but how many.
            let before = unstarted
                .ended
                .intervals()
                .map(|(start, end)| u64::from(end.min(ordinal).saturating_sub(start)));
            let mut place: u64 = before.sum();
            let mut ends = unstarted.totals.by_status.iter().rev();
            let found = ends.find(|(_, count)| {
                let is_here = place < **count;
                place = place.saturating_sub(**count);
                is_here
            });
            return found.map_or(Status::Skipped, |(status, _)| *status);
        }
        if is_running { Status::Running } else { Status::Pending }
    }

    /// What came of each lane that has run, for a comparison with another run.
    pub fn trials(&self) -> Vec<Trial> {
        let mut ends: BTreeMap<u32, Vec<(analysis::Verdict, u64)>> = BTreeMap::new();
        for attempt in &self.attempts {
            let row = &attempt.row;
            let failed = match attempt.verdict {
                Verdict::Ended(_, failed) => failed,
                Verdict::GivenUp(_) => 0,
                Verdict::Again(_) | Verdict::Refused => continue,
            };
            let Some(verdict) = analysis::Verdict::of(row.status, failed) else { continue };
            ends.entry(row.lane).or_default().push((verdict, row.duration / 1_000));
        }
        let lanes = ends.into_iter().filter_map(|(lane, ends)| {
            let plan = self.plan.lanes.get(lane as usize)?;
            Some(Trial::of(&plan.case, &plan.environment, ends))
        });
        lanes.collect()
    }

    /// Lanes in numbers, but for those without tasks.
    pub fn lanes(&self) -> Vec<LaneView> {
        let mut lanes = self.all_lanes();
        lanes.retain(|lane| lane.totals.total > 0);
        lanes
    }

    /// All lanes by their numbers.
    pub(super) fn all_lanes(&self) -> Vec<LaneView> {
        let mut lanes: Vec<LaneView> = self
            .plan
            .lanes
            .iter()
            .zip(0..)
            .map(|(plan, lane)| LaneView {
                lane,
                case: plan.case.to_string(),
                environment: plan.environment.to_string(),
                totals: self.lane_totals(lane),
                running: self.running_of(lane),
                assigned: 0,
                tags: plan.tags.iter().map(|tag| tag.to_string()).collect(),
                retries: 0,
                work: 0,
                longest: 0,
            })
            .collect();
        for (lane, open) in self.out() {
            if let Some(lane) = lanes.get_mut(lane as usize) {
                let out: u32 = open.iter().map(|(item, _)| item.count()).sum();
                lane.assigned = out.saturating_sub(lane.running);
            }
        }
        for attempt in self.attempts.iter().filter(|attempt| has_run(attempt.row.status)) {
            if let Some(lane) = lanes.get_mut(attempt.row.lane as usize) {
                lane.retries += u32::from(attempt.row.attempt > 1);
                lane.work += attempt.row.duration;
                lane.longest = lane.longest.max(attempt.row.duration);
            }
        }
        lanes
    }
}

impl TaskView {
    /// How it ended, in a word; what is muted is said to be.
    pub fn word(&self) -> String {
        let word = self.status.word();
        match self.is_muted && self.status.fails_run() {
            true => format!("{word}, muted"),
            false => word.to_owned(),
        }
    }
}

impl Filter {
    /// Tasks that make a run fail.
    pub fn failures() -> Self {
        let statuses = Status::ALL.into_iter().filter(|status| status.fails_run()).collect();
        Self { statuses, ..Default::default() }
    }

    fn takes_tag(&self, tags: &[Arc<str>]) -> bool {
        let is_it = |tag: &str, wanted: &str| {
            tag == wanted || tag.split_once('/').is_some_and(|(name, _)| name == wanted)
        };
        let wanted = self.tag.as_deref();
        wanted.is_none_or(|wanted| tags.iter().any(|tag| is_it(tag, wanted)))
    }

    fn takes(&self, task: &TaskView) -> bool {
        (self.statuses.is_empty() || self.statuses.contains(&task.status))
            && (!self.flaky || task.is_flaky)
            && self
                .fingerprint
                .as_ref()
                .is_none_or(|wanted| fingerprint(message(task.detail.as_ref())) == *wanted)
    }
}
