//! Cases by name: how many of their tasks are open in all runs, and who waits for the last of them.

use super::{CaseNo, LaneId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is asked for each task stands apart from what is not: there may be millions of cases.
#[derive(Debug, Default)]
pub(super) struct Cases {
    by_name: BTreeMap<Arc<str>, CaseNo>,
    names: Vec<Arc<str>>,
    /// Tasks that have not ended, in all runs.
    open: Vec<u64>,
    /// Lanes that wait for the last task of a case.
    waiting: BTreeMap<CaseNo, BTreeSet<LaneId>>,
}

impl Cases {
    /// The case of this name, known from now on.
    pub(super) fn number(&mut self, name: &Arc<str>) -> CaseNo {
        if let Some(case) = self.by_name.get(name) {
            return *case;
        }
        let case = self.names.len() as CaseNo;
        self.names.push(name.clone());
        self.open.push(0);
        self.by_name.insert(name.clone(), case);
        case
    }

    pub(super) fn name(&self, case: CaseNo) -> &Arc<str> {
        &self.names[case as usize]
    }

    /// Its tasks that have not ended, in all runs.
    pub(super) fn open(&self, case: CaseNo) -> u64 {
        self.open[case as usize]
    }

    pub(super) fn add(&mut self, case: CaseNo, tasks: u32) {
        self.open[case as usize] += u64::from(tasks);
    }

    /// Counts ends of tasks. Who waited for the last of them waits no longer.
    pub(super) fn close(&mut self, case: CaseNo, tasks: u64) -> BTreeSet<LaneId> {
        let open = &mut self.open[case as usize];
        *open = open.saturating_sub(tasks);
        match *open {
            0 => self.waiting.remove(&case).unwrap_or_default(),
            _ => BTreeSet::new(),
        }
    }

    pub(super) fn wait(&mut self, case: CaseNo, lane: LaneId) {
        self.waiting.entry(case).or_default().insert(lane);
    }

    pub(super) fn leave(&mut self, case: CaseNo, lane: LaneId) {
        if let Some(waiting) = self.waiting.get_mut(&case) {
            waiting.remove(&lane);
            if waiting.is_empty() {
                self.waiting.remove(&case);
            }
        }
    }

    /// Those of which tasks are open.
    #[cfg(test)]
    pub(super) fn all_open(&self) -> impl Iterator<Item = &Arc<str>> {
        let open = self.names.iter().zip(&self.open).filter(|(_, open)| **open > 0);
        open.map(|(name, _)| name)
    }
}
