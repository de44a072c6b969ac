//! What the store shows of runs, for people: how far a run is, its tasks with their attempts, why
//! each lane waits, how near it came to what is possible, and whether the record holds what the
//! scheduler promises.
//!
//! All but `read` is pure: keys in, values out, each cut at one revision. Results are booked by the
//! planner's own rules, so that a view never differs from what a leader would count. A task that
//! a worker has counts as running as far as the worker has slots; what it has beyond them is assigned.

mod again;
mod audit;
mod book;
mod failures;
mod flaky;
mod foreign;
mod gone;
mod idle;
mod limits;
mod live;
mod loss;
mod numbers;
pub mod read;
mod running;
mod slots;
mod steps;
mod story;
mod tasks;
#[cfg(test)]
mod tests;
mod unstarted;
mod waiting;

pub use again::{Again, rerun};
pub use audit::{Audit, Fault, Rule, audit, replay};
pub use book::{Attempt, Forced, Open, RunBook};
pub use failures::{FailedLane, FailureGroup, FailureKind};
pub use flaky::{FlakyCase, flaky};
pub use idle::{idleness, is_undisturbed};
pub use live::{End, Live, Runs};
pub use loss::{Gap, Loss};
pub use numbers::{Numbers, measured, numbers, numbers_once};
pub use running::Pace;
pub use slots::slots;
pub use story::{Event, Happening, Step, line, story};
pub use tasks::{Filter, LaneView, Mute, TaskView, TasksPage};
pub use unstarted::Unstarted;
pub use waiting::{Holder, Waiting, starts, waiting};

use super::coordinator::Control;
use super::model::{RunSpec, Status, Totals};
use serde::Serialize;

/// What a run may be called while it is open, and when it has ended.
pub const STATES: [&str; 9] = [
    "accepted",
    "waiting",
    "running",
    "paused",
    "canceling",
    "passed",
    "failed",
    "canceled",
    "incomplete",
];

/// What a run is called: as the leader wrote it last, and what is known besides. `wanted` may be newer than
/// that, and so may be whether workers have anything of it, where that is known.
pub fn state_of(written: &str, wanted: Control, is_held: Option<bool>) -> &str {
    let is_open = matches!(written, "" | "accepted" | "waiting" | "running" | "paused");
    match (wanted, is_held) {
        _ if !is_open => written,
        (Control::Paused, _) => "paused",
        (Control::Canceled, _) => "canceling",
        (Control::Running, Some(true)) => "running",
        (Control::Running, _) if matches!(written, "" | "accepted") => "accepted",
        (Control::Running, Some(false)) => "waiting",
        (Control::Running, None) if written == "paused" => "waiting",
        (Control::Running, None) => written,
    }
}

/// One run among others.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RunSummary {
    pub id: String,
    pub name: String,
    /// accepted, waiting, running, paused, canceling, passed, failed, canceled, incomplete.
    pub state: String,
    pub totals: Totals,
    /// Milliseconds since 1970.
    pub submitted: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
    pub queue: String,
    pub priority: i32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub owner: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<String>,
}

impl RunSummary {
    /// From the run as it was submitted, and what the leader wrote of it last.
    pub fn new(spec: &RunSpec, status: &super::coordinator::RunStatus) -> Self {
        Self {
            id: spec.id.clone(),
            name: spec.name.clone(),
            state: status.state.clone(),
            totals: status.totals.clone(),
            submitted: spec.submitted,
            ended: status.ended,
            queue: spec.queue.clone(),
            priority: spec.priority,
            owner: spec.owner.clone(),
            rerun_of: spec.rerun_of.clone(),
        }
    }
}

/// One line that says how many tasks ended how: `12 of 40 ended, 11 passed, 1 failed, 2 flaky, 1 muted`.
pub fn totals_line(totals: &Totals) -> String {
    let mut parts = vec![format!("{} of {} ended", totals.ended(), totals.total)];
    for status in Status::ALL.into_iter().filter(|status| status.is_terminal()) {
        let count = totals.get(status);
        if count > 0 {
            parts.push(format!("{count} {}", status.word()));
        }
    }
    if totals.flaky > 0 {
        parts.push(format!("{} flaky", totals.flaky));
    }
    if totals.muted() > 0 {
        parts.push(format!("{} muted", totals.muted()));
    }
    parts.join(", ")
}
