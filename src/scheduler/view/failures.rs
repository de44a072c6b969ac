//! Failures of a run that are alike, and what they look like.

use super::book::RunBook;
use crate::scheduler::analysis::group;
use crate::scheduler::model::Status;
use crate::scheduler::planner::Verdict;
use crate::scheduler::record::message;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Lanes that a group names.
const LANES_MAX: usize = 20;
const MESSAGE_BYTES_MAX: usize = 400;

/// Tasks that failed with one fingerprint.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FailureGroup {
    pub fingerprint: String,
    /// How many tasks.
    pub tasks: u64,
    /// Of these, so many of muted cases: no run fails by them.
    #[serde(skip_serializing_if = "is_zero")]
    pub muted: u64,
    #[serde(rename = "statuses")]
    pub by_status: BTreeMap<Status, u64>,
    /// Begin of the message of the first of them.
    pub message: String,
    /// Cases in environments: the first of them, by lane.
    pub lanes: Vec<FailedLane>,
    pub lanes_total: usize,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A case in an environment whose tasks failed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FailedLane {
    pub lane: u32,
    pub case: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub environment: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_muted: bool,
}

/// What failures look like, from how they ended and from the past of their cases. Nobody has looked at
/// them yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureKind {
    /// A verdict against what is tested, of a case that does not come and go.
    Product,
    /// A verdict of a case that passes and fails by turns.
    Test,
    /// Most have no verdict: errors, and tasks that were lost with their worker.
    Infrastructure,
    /// Most ran out of time, or nothing prevails: it may be any of the others.
    Investigate,
}

impl FailureKind {
    pub fn of(by_status: &BTreeMap<Status, u64>, is_flaky: bool) -> Self {
        let of = |status| by_status.get(&status).copied().unwrap_or_default();
        let (failed, without) = (of(Status::Failed), of(Status::Error) + of(Status::Lost));
        let all: u64 = by_status.values().sum();
        match () {
            () if without * 2 > all => FailureKind::Infrastructure,
            () if failed * 2 <= all => FailureKind::Investigate,
            () if is_flaky => FailureKind::Test,
            () => FailureKind::Product,
        }
    }
}

impl RunBook {
    /// Tasks that failed, by what they said; the largest group first.
    pub fn failure_groups(&self) -> Vec<FailureGroup> {
        let failures = self.attempts.iter().filter_map(|attempt| {
            let status = match attempt.verdict {
                Verdict::Ended(status, _) | Verdict::GivenUp(status) => status,
                Verdict::Again(_) | Verdict::Refused => return None,
            };
            let text = message(attempt.row.detail.as_ref());
            status.fails_run().then_some((text, (attempt.row.lane, status, text)))
        });
        let groups = group(failures).into_iter().map(|(fingerprint, failures)| {
            let mut by_status = BTreeMap::new();
            let mut lanes = BTreeSet::new();
            let mut muted = 0;
            for (lane, status, _) in &failures {
                *by_status.entry(*status).or_default() += 1;
                lanes.insert(*lane);
                muted += u64::from(self.is_muted(*lane));
            }
            let message = failures.first().map_or("", |(.., text)| *text);
            let end = (0..=MESSAGE_BYTES_MAX.min(message.len()))
                .rev()
                .find(|end| message.is_char_boundary(*end));
            FailureGroup {
                fingerprint,
                tasks: failures.len() as u64,
                muted,
                by_status,
                message: message[..end.unwrap_or_default()].to_owned(),
                lanes_total: lanes.len(),
                lanes: lanes
                    .into_iter()
                    .take(LANES_MAX)
                    .filter_map(|lane| self.named(lane))
                    .collect(),
            }
        });
        groups.collect()
    }

    fn named(&self, lane: u32) -> Option<FailedLane> {
        let plan = self.plan.lanes.get(lane as usize)?;
        let (case, environment) = (plan.case.to_string(), plan.environment.to_string());
        Some(FailedLane { lane, case, environment, is_muted: plan.is_muted })
    }

    fn is_muted(&self, lane: u32) -> bool {
        self.plan.lanes.get(lane as usize).is_some_and(|plan| plan.is_muted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failures_look_like_follows_from_their_ends_and_pasts() {
        use FailureKind::{Infrastructure, Investigate, Product, Test};
        let table: [(&[(Status, u64)], bool, FailureKind); 6] = [
            (&[(Status::Failed, 3)], false, Product),
            (&[(Status::Failed, 3), (Status::Error, 2)], true, Test),
            (&[(Status::Failed, 1), (Status::Error, 1), (Status::Lost, 1)], true, Infrastructure),
            (&[(Status::TimedOut, 1)], false, Investigate),
            (&[(Status::Failed, 1), (Status::Error, 1)], false, Investigate),
            (&[(Status::Lost, 1)], false, Infrastructure),
        ];
        for (by_status, is_flaky, expected) in table {
            let by_status = by_status.iter().copied().collect();
            assert_eq!(FailureKind::of(&by_status, is_flaky), expected, "{by_status:?}");
        }
    }
}
