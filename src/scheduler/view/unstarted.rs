//! Why tasks ended that never ran, as far as it follows from what is kept of a run: nobody writes it down.

use super::book::RunBook;
use crate::scheduler::coordinator::Control;
use crate::scheduler::model::{PlannedPredecessor, Policy, Scope, Status};
use serde::Serialize;

/// Tasks of a lane that ended without having run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unstarted {
    pub case: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub environment: String,
    /// `Skipped`, `Canceled` or `Lost`; that of most of them.
    pub status: Status,
    pub tasks: u32,
    /// Of the first of them, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl RunBook {
    /// Lanes with tasks that were skipped, in order, at most so many of them.
    pub fn skipped(&self, max: usize) -> Vec<Unstarted> {
        let lanes = self.unstarted.iter().filter_map(|(lane, rest)| {
            let plan = self.plan.lanes.get(*lane as usize)?;
            let most = rest.totals.by_status.iter().max_by_key(|(_, count)| **count);
            let status = most.map_or(Status::Skipped, |(status, _)| *status);
            let first = rest.ended.iter().next()?;
            (status == Status::Skipped).then(|| Unstarted {
                case: plan.case.to_string(),
                environment: plan.environment.to_string(),
                status,
                tasks: rest.ended.count(),
                reason: self.reason(*lane, first, status),
            })
        });
        lanes.take(max).collect()
    }

    /// Why a task that ended so has not run; none where that is not known.
    pub(super) fn reason(&self, lane: u32, ordinal: u32, status: Status) -> Option<String> {
        let is_canceled = self.control == Control::Canceled || self.status.state == "canceled";
        match status {
            Status::Canceled => is_canceled.then(|| "the run was canceled".to_owned()),
            Status::Skipped => self.why_skipped(lane, ordinal),
            _ => None,
        }
    }

    fn why_skipped(&self, lane: u32, ordinal: u32) -> Option<String> {
        let plan = self.plan.lanes.get(lane as usize)?;
        if plan.is_skipped {
            let case = self.case_of(lane).unwrap_or_default();
            let until = case.state_until.map(|until| format!(" until {until}"));
            let until = until.unwrap_or_default();
            return Some(match case.state_reason.as_str() {
                "" => format!("the case is skipped{until}"),
                reason => format!("the case is skipped{until}: {reason}"),
            });
        }
        let mut before = plan.predecessors.iter();
        before.find_map(|before| self.forbids(before, ordinal)).or_else(|| self.why_stopped())
    }

    /// How a predecessor ended, if by its policy that forbids what comes after it.
    fn forbids(&self, before: &PlannedPredecessor, ordinal: u32) -> Option<String> {
        let plan = self.plan.lanes.get(before.lane as usize)?;
        let case = &plan.case;
        if before.scope == Scope::Repeat {
            let attempts: Vec<_> = self.attempts_of(before.lane, ordinal).collect();
            let status = self.status_of(before.lane, ordinal, &attempts, false);
            let forbids =
                before.policy != Policy::Ended && status.is_terminal() && status != Status::Passed;
            let word = status.word();
            return forbids.then(|| format!("{case}#{ordinal} must pass first, and it is {word}"));
        }
        let totals = self.lane_totals(before.lane);
        let (passed, total) = (totals.get(Status::Passed), u64::from(plan.total));
        if totals.ended() < total {
            return None;
        }
        let told = format!("{passed} of {total} did");
        match before.policy {
            Policy::Passed if passed < total => {
                Some(format!("case {case} must pass first: {told}"))
            }
            Policy::Ratio(ratio) if (passed as f64) < ratio * total as f64 => {
                let percent = ratio * 100.0;
                Some(format!("case {case} must pass in {percent} % of its tasks first: {told}"))
            }
            _ => None,
        }
    }

    /// What ends all that is left of a run.
    fn why_stopped(&self) -> Option<String> {
        let spec = &self.spec;
        let failures = self.status.totals.failures;
        if let Some(max) = spec.failures_max.filter(|max| failures >= u64::from(*max)) {
            return Some(format!(
                "the run had {failures} failures, and nothing starts after {max}"
            ));
        }
        let is_over = |deadline: u64| {
            self.status.ended.is_none_or(|end| end >= spec.submitted.saturating_add(deadline))
        };
        if let Some(deadline) = spec.deadline_ms.filter(|deadline| is_over(*deadline)) {
            return Some(format!("the run's deadline of {deadline} ms had passed"));
        }
        let timeout = spec.no_worker_timeout_ms?;
        Some(format!("for {timeout} ms there was no worker that could run it"))
    }
}
