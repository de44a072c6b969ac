//! What lanes of a run wait for each other.

use super::few::Few;
use super::lane::Lane;
use crate::scheduler::model::{PlannedPredecessor, Scope};

/// Who waits for a lane, and for whom it waits; most do neither.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Work of the longest chain that starts when this lane has ended, in microseconds.
    pub behind: u64,
    /// Predecessors as a whole that have not ended.
    pub missing: u32,
    /// Lanes of the run that wait for this one as a whole.
    pub successors: Few,
    /// Lanes of the run that wait for each repeat of this one.
    pub repeat_successors: Few,
    /// Cases of which no task may be open in any run.
    pub global_predecessors: Few,
    pub predecessors: Vec<PlannedPredecessor>,
}

/// Tells lanes who waits for them.
pub(super) fn link(lanes: &mut [Lane]) {
    for number in 0..lanes.len() {
        for predecessor in lanes[number].predecessors().to_vec() {
            let Some(before) = lanes.get_mut(predecessor.lane as usize) else { continue };
            match predecessor.scope {
                Scope::Repeat => before.links().repeat_successors.push(number as u32),
                Scope::Run | Scope::Global => before.links().successors.push(number as u32),
            }
            lanes[number].waits_for_repeats |= predecessor.scope == Scope::Repeat;
        }
    }
}

/// Finds the longest chain of work behind each lane, last lanes first.
pub(super) fn rank(lanes: &mut [Lane], slots: u64) {
    let mut followers: Vec<u32> = lanes
        .iter()
        .map(|lane| (lane.successors().len() + lane.repeat_successors().len()) as u32)
        .collect();
    let mut next: Vec<usize> = (0..lanes.len()).filter(|lane| followers[*lane] == 0).collect();
    while let Some(number) = next.pop() {
        let lane = &lanes[number];
        let length = lane.behind().saturating_add(lane.length(u64::from(lane.total), slots));
        for predecessor in lane.predecessors().to_vec() {
            let before = predecessor.lane as usize;
            let links = lanes[before].links();
            links.behind = links.behind.max(length);
            followers[before] -= 1;
            if followers[before] == 0 {
                next.push(before);
            }
        }
    }
}
