//! What a leader has seen happen, for collectors of metrics.

use super::{Coordinator, RunStatus};
use crate::scheduler::model::{Labels, Status};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What happened since it was asked last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Claims that are in the store, and tasks in them.
    pub claims: u64,
    pub tasks: u64,
    /// Ends of attempts that count.
    pub attempts: BTreeMap<Status, u64>,
    /// Bundles of results that came when their claim was not theirs any more.
    pub late: u64,
    /// Ends of runs, by how they ended, with how near each came to the least time.
    pub runs: Vec<(String, f64)>,
}

/// Tasks that could start at once but for a free slot of a worker that has what they require.
#[derive(Clone, Debug, PartialEq)]
pub struct WantedSlots {
    pub requires: Arc<Labels>,
    /// That they could use.
    pub slots: u64,
}

impl Coordinator {
    /// What happened since this was called last.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// For what more workers would be of use.
    pub fn wanted_slots(&self) -> Vec<WantedSlots> {
        self.planner
            .ready_classes()
            .map(|(requires, slots)| WantedSlots { requires: requires.clone(), slots })
            .collect()
    }

    /// Notes how a run ends, to be counted once that is in the store.
    pub(super) fn note_end(&mut self, name: &str, status: &RunStatus, efficiency: f64) {
        if let Some(run) = self.runs.get_mut(name) {
            run.end = Some((status.state.clone(), efficiency));
        }
    }
}
