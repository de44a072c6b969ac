//! What several rules need to know of all operations together, gathered in one pass.

use super::{History, Operation, Outcome, Request, Response, Time};
use std::collections::{BTreeMap, BTreeSet};

pub struct Facts {
    /// Revisions that an answered write claims as its own.
    pub claimed: BTreeSet<i64>,
    /// By revision: when it was first known to exist by somebody other than its maker.
    first_seen: Vec<Time>,
    granted: BTreeMap<i64, Time>,
    alive_until: BTreeMap<i64, Time>,
}

impl Facts {
    pub fn gather(history: &History) -> Facts {
        let answered = || history.operations.iter().filter(|o| o.answer().is_some());
        let highest = answered().filter_map(Operation::revision).max().unwrap_or(0);
        let mut facts = Facts {
            claimed: BTreeSet::new(),
            first_seen: vec![Time::MAX; usize::try_from(highest + 2).unwrap_or(0)],
            granted: BTreeMap::new(),
            alive_until: BTreeMap::new(),
        };
        for operation in &history.operations {
            facts.add_revision(operation);
            facts.add_lease(operation, history.second);
        }
        // Who has seen a revision has seen those before it.
        for at in (1..facts.first_seen.len()).rev() {
            facts.first_seen[at - 1] = facts.first_seen[at - 1].min(facts.first_seen[at]);
        }
        facts
    }

    fn add_revision(&mut self, operation: &Operation) {
        let (Some(response), Some(revision)) = (operation.answer(), operation.revision()) else {
            return;
        };
        let made = response.has_changed();
        if made {
            self.claimed.insert(revision);
        }
        let others = usize::try_from(revision - i64::from(made)).unwrap_or(0);
        if let Some(seen) = self.first_seen.get_mut(others) {
            *seen = (*seen).min(operation.returned);
        }
    }

    fn add_lease(&mut self, operation: &Operation, second: Time) {
        if matches!(operation.outcome, Outcome::Refused(..)) {
            return;
        }
        if let Request::LeaseGrant(request) = &operation.request {
            let id = match operation.answer() {
                Some(Response::LeaseGrant(response)) => response.id,
                _ => request.id,
            };
            let first = self.granted.entry(id).or_insert(Time::MAX);
            *first = (*first).min(operation.invoked);
        }
        let (id, ttl) = match operation.answer() {
            Some(Response::LeaseGrant(response)) => (response.id, response.ttl),
            Some(Response::LeaseKeepAlive(response)) => (response.id, response.ttl),
            _ => return,
        };
        if let Ok(ttl @ 1..) = Time::try_from(ttl) {
            let until = self.alive_until.entry(id).or_insert(0);
            *until = (*until).max(operation.invoked + ttl * second);
        }
    }

    pub fn first_seen(&self, revision: i64) -> Time {
        let at = usize::try_from(revision).unwrap_or(0);
        self.first_seen.get(at).copied().unwrap_or(Time::MAX)
    }

    pub fn is_granted(&self, lease: i64, before: Time) -> bool {
        self.granted.get(&lease).is_some_and(|&at| at <= before)
    }

    /// The holder may count on a lease until here: its time to live after the last renewal
    /// that was answered, from the moment that was asked for.
    pub fn alive_until(&self, lease: i64) -> Time {
        self.alive_until.get(&lease).copied().unwrap_or(0)
    }
}
