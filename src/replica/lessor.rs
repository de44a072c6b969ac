//! Deadlines of leases, kept by the leader alone and lost with the leadership.
//!
//! Passed the time with each call. A new leader gives every lease one full term of life more,
//! so a lease never ends early across a change of leader or a pause; it may end late.

use super::input::Millis;
use crate::planted::{self, Bug};
use std::collections::{BTreeMap, BTreeSet};

/// Leases that may end in one look: with a look every 500 ms this is etcd's 1,000 a second.
const EXPIRED_PER_LOOK_MAX: usize = 500;
/// How often expired leases are looked for.
const LOOK_INTERVAL: Millis = 500;
/// When more leases than this would end in the same second after a leader change, the rest
/// move to later seconds, so that a change of leader causes no storm of revocations.
const ENDING_PER_SECOND_MAX: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Lessor {
    deadlines: BTreeMap<i64, Millis>,
    queue: BTreeSet<(Millis, i64)>,
    /// Revocation was proposed; a renewal comes too late.
    revoking: BTreeMap<i64, Millis>,
    next_look: Millis,
}

impl Lessor {
    /// Takes all leases over: each ends a full TTL plus `extension` from now.
    pub(super) fn promote(
        &mut self,
        leases: impl Iterator<Item = (i64, i64)>,
        now: Millis,
        extension: Millis,
    ) {
        *self = Self { next_look: now + LOOK_INTERVAL, ..Self::default() };
        let mut per_second = BTreeMap::<Millis, usize>::new();
        let life = |ttl| if planted::has(Bug::LeaseRevokedEarly) { 0 } else { millis(ttl) };
        let mut all: Vec<_> = leases.map(|(id, ttl)| (now + extension + life(ttl), id)).collect();
        all.sort_unstable();
        for (mut deadline, id) in all {
            loop {
                let ending = per_second.entry(deadline / 1000).or_default();
                if *ending < ENDING_PER_SECOND_MAX {
                    *ending += 1;
                    break;
                }
                deadline += 1000;
            }
            self.set(id, deadline);
        }
    }

    pub(super) fn demote(&mut self) {
        *self = Self::default();
    }

    pub(super) fn granted(&mut self, id: i64, ttl: i64, now: Millis) {
        self.set(id, now + millis(ttl));
    }

    pub(super) fn revoked(&mut self, id: i64) {
        self.revoking.remove(&id);
        if let Some(deadline) = self.deadlines.remove(&id) {
            self.queue.remove(&(deadline, id));
        }
    }

    /// Gives the lease its full TTL again; false when it is unknown or already ending.
    pub(super) fn renew(&mut self, id: i64, ttl: i64, now: Millis) -> bool {
        if self.revoking.contains_key(&id) || !self.deadlines.contains_key(&id) {
            return false;
        }
        self.set(id, now + millis(ttl));
        true
    }

    /// Whole seconds that remain, rounded down, never negative.
    pub(super) fn remaining(&self, id: i64, now: Millis) -> Option<i64> {
        let deadline = self.deadlines.get(&id)?;
        Some((deadline.saturating_sub(now) / 1000) as i64)
    }

    /// Leases whose time is over and whose revocation is to be proposed now. One that was
    /// proposed but not applied within `retry` comes again.
    pub(super) fn expired(&mut self, now: Millis, retry: Millis) -> Vec<i64> {
        if now < self.next_look {
            return Vec::new();
        }
        self.next_look = now + LOOK_INTERVAL;
        let due: Vec<i64> = self
            .queue
            .iter()
            .take_while(|(deadline, _)| *deadline <= now)
            .map(|(_, id)| *id)
            .filter(|id| self.revoking.get(id).is_none_or(|since| since + retry <= now))
            .take(EXPIRED_PER_LOOK_MAX)
            .collect();
        self.revoking.extend(due.iter().map(|id| (*id, now)));
        due
    }

    fn set(&mut self, id: i64, deadline: Millis) {
        if let Some(old) = self.deadlines.insert(id, deadline) {
            self.queue.remove(&(old, id));
        }
        self.queue.insert((deadline, id));
    }
}

fn millis(seconds: i64) -> Millis {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1000)
}

/// Ids in order of their deadlines, for a member that knows none: by TTL, as if all began now.
pub(super) fn by_expiry(leases: impl Iterator<Item = (i64, i64)>, lessor: &Lessor) -> Vec<i64> {
    let mut all: Vec<_> = leases
        .map(|(id, ttl)| (lessor.deadlines.get(&id).copied().unwrap_or(millis(ttl)), id))
        .collect();
    all.sort_unstable();
    all.into_iter().map(|(_, id)| id).collect()
}
