//! Where each lane waits: with the first thing that keeps it from running, or among the ready ones.

use super::lane::{Lane, Place};
use super::lines::Head;
use super::locks::{AGEING_MS, LockNo, Locks, WaitKey};
use super::ready::LaneKey;
use super::workers::{ClassNo, Workers};
use super::{LaneId, Planner, RunNo, RunState, Timer};
use std::collections::BTreeMap;

impl Planner {
    /// Takes a lane out of where it waits.
    pub(super) fn unplace(&mut self, id: LaneId) {
        let Some(lane) =
            self.runs.get_mut(id.run).and_then(|run| run.lanes.get_mut(id.lane as usize))
        else {
            return;
        };
        match std::mem::replace(&mut lane.place, Place::Aside) {
            Place::Aside => {}
            Place::Parked(key) => self.locks.leave(lane.locks.line, key, id),
            Place::Reserving(lock) => self.locks.get_mut(lock).waiting_alone -= 1,
            Place::Behind => {
                for case in lane.global_predecessors() {
                    self.cases.leave(*case, id);
                }
            }
            Place::Ready { rank, chain } => {
                let key = LaneKey::new(lane.traits.priority, rank, chain, id.lane);
                self.ready.remove(lane.traits.class, id.run, key);
                self.ready_work = self.ready_work.saturating_sub(lane.counted_work);
                for lock in lane.locks.iter() {
                    self.locks.get_mut(*lock).discount_ready(lane.traits.class);
                    self.wakes.insert(*lock);
                }
            }
        }
    }

    /// Puts a lane where it belongs now: among the ready ones, or with the first thing that it waits
    /// for.
    pub(super) fn place(&mut self, now: u64, id: LaneId) {
        self.place_at(now, id, None);
    }

    /// Puts all lanes of a run that are nowhere where they belong, those that go first before the others. Of
    /// lanes of one class that want a tag only as many become ready as it has free units: the
    /// others wait for their turn, and need not be looked at when they could not start.
    pub(super) fn place_all(&mut self, now: u64, number: RunNo) {
        let Some(run) = self.runs.get(number) else { return };
        let aside = |(lane, _): &(&Lane, u32)| lane.place == Place::Aside && !lane.is_closed;
        let lanes = run.lanes.iter().zip(0..).filter(aside);
        let keyed = |(lane, number): (&Lane, u32)| {
            let (rank, chain) = rank(lane, &self.locks, &self.workers);
            LaneKey::new(lane.traits.priority, rank, chain, number)
        };
        let mut keys: Vec<LaneKey> = lanes.map(keyed).collect();
        keys.sort_unstable();
        let mut ready: BTreeMap<(LockNo, ClassNo), u32> = BTreeMap::new();
        for key in keys {
            let id = LaneId { run: number, lane: key.lane };
            let Some(lane) = self.lane(id) else { continue };
            let class = lane.traits.class;
            let is_taken = |lock: &&LockNo| {
                let ready = ready.get(&(**lock, class)).copied().unwrap_or_default();
                ready > 0 && ready >= self.locks.get(**lock).unreserved()
            };
            let turn = lane.locks.iter().find(is_taken).copied();
            self.place_at(now, id, turn);
            let Some(lane) = self.lane(id) else { continue };
            if matches!(lane.place, Place::Ready { .. }) {
                for lock in lane.locks.iter().filter(|lock| self.locks.get(**lock).is_tag()) {
                    *ready.entry((*lock, class)).or_default() += 1;
                }
            }
        }
    }

    /// The same; where nothing else keeps it, the lane waits for the turn of others at a lock.
    fn place_at(&mut self, now: u64, id: LaneId, turn: Option<LockNo>) {
        self.unplace(id);
        let Some(run) = self.runs.get_mut(id.run) else { return };
        let (priority, state) = (run.priority, run.state);
        let Some(lane) = run.lanes.get_mut(id.lane as usize) else { return };
        if state != RunState::Running || lane.missing() > 0 || lane.claimable() == 0 {
            self.unreserve(id);
            return;
        }
        let is_open = |case: &&u32| self.cases.open(**case) > 0;
        if let Some(case) = lane.global_predecessors().iter().find(is_open) {
            self.cases.wait(*case, id);
            lane.place = Place::Behind;
            self.unreserve(id);
            return;
        }
        let (rank, chain) = rank(lane, &self.locks, &self.workers);
        let closed = lane.locks.iter().find(|lock| self.locks.get(**lock).closed.is_some());
        let full = || lane.locks.iter().find(|lock| !self.locks.get(**lock).admits(id));
        if let Some(&lock) = closed.or_else(full).or(turn.as_ref()) {
            if lane.is_reserving && closed.is_none() {
                lane.place = Place::Reserving(lock);
                self.locks.get_mut(lock).waiting_alone += 1;
                return;
            }
            // All who wait for a tag have its backlog before them: what counts is what is behind each.
            let work = match self.locks.get(lock).is_tag() {
                true => chain,
                false => rank,
            };
            let key = WaitKey::new(lane.since, priority, work);
            self.locks.park(lane.locks.line, lock, key, id);
            lane.place = Place::Parked(key);
            if lane.locks.len() > 1 {
                self.timers.insert((lane.since.max(now) + AGEING_MS, Timer::Reserve(id)));
            }
            // What is closed may stay so for days.
            self.unreserve(id);
            return;
        }
        for lock in lane.locks.iter() {
            self.locks.get_mut(*lock).count_ready(lane.traits.class);
        }
        let key = LaneKey::new(lane.traits.priority, rank, chain, id.lane);
        lane.place = Place::Ready { rank, chain };
        lane.counted_work = lane.work();
        self.ready_work = self.ready_work.saturating_add(lane.counted_work);
        let class = lane.traits.class;
        self.ready.insert(class, id.run, key);
        if !self.workers.serves(class) {
            self.unreserve(id);
        }
    }

    /// Lets waiters of locks that may have become free try.
    pub(super) fn settle(&mut self) {
        while let Some(lock) = self.wakes.pop_first() {
            for id in self.locks.get(lock).kept_for() {
                // Others for which it is kept wait for something else first.
                if self.lane(id).is_some_and(|lane| lane.place == Place::Reserving(lock)) {
                    self.place_again(id);
                }
            }
            while let Some(head) = self.locks.get(lock).next() {
                self.try_line(head);
            }
            if self.locks.get(lock).next_of_others().is_some() {
                self.passed_over.insert(lock);
            }
        }
    }

    /// Lets those try whose locks are left to others that turned out to find no worker. Whether any of them
    /// is ready now, or others may try.
    pub(super) fn settle_others(&mut self) -> bool {
        let before = self.ready.came;
        while let Some(lock) = self.passed_over.pop_first() {
            while let Some(head) = self.locks.get(lock).next_of_others() {
                self.try_line(head);
            }
        }
        self.settle();
        self.ready.came > before || !self.passed_over.is_empty()
    }

    /// Lets the first of a line go on, or the line wait for what else it waits for.
    fn try_line(&mut self, head: Head) {
        match self.locks.full_for(head.line) {
            Some(lock) => self.locks.move_line(head.line, lock),
            None => self.place_again(head.lane),
        }
    }

    pub(super) fn place_again(&mut self, id: LaneId) {
        let since = self.lane(id).map_or(0, |lane| lane.since);
        self.place(since, id);
    }

    /// The lane keeps nothing from others any more.
    pub(super) fn unreserve(&mut self, id: LaneId) {
        let Some(lane) = self.lane_mut(id).filter(|lane| lane.is_reserving) else { return };
        lane.is_reserving = false;
        let locks = lane.locks.clone();
        let Some(since) = self.reserving.remove(&id) else { return };
        for lock in locks.iter() {
            self.locks.get_mut(*lock).unreserve(since, id);
            self.wakes.insert(*lock);
        }
    }

    /// Lanes keep nothing from others while no worker could run them.
    pub(super) fn unreserve_unserved(&mut self) {
        for id in self.reserving.keys().copied().collect::<Vec<_>>() {
            let is_ready = |lane: &&Lane| matches!(lane.place, Place::Ready { .. });
            let class = self.lane(id).filter(is_ready).map(|lane| lane.traits.class);
            if class.is_some_and(|class| !self.workers.serves(class)) {
                self.unreserve(id);
            }
        }
    }

    /// From now on nobody who came later gets what this lane waits for.
    pub(super) fn reserve(&mut self, now: u64, id: LaneId) {
        let Some(lane) = self.lane(id) else { return };
        let (since, locks) = (lane.since, lane.locks.clone());
        let is_closed = |lock: &u32| self.locks.get(*lock).closed.is_some();
        if !matches!(lane.place, Place::Parked(_)) {
            return;
        }
        let not_before = match locks.iter().any(is_closed) {
            true => now + AGEING_MS,
            false => since + AGEING_MS,
        };
        // Those that wait for the turn of others only keep nothing from them.
        let is_kept = locks.iter().any(|lock| !self.locks.get(*lock).admits(id));
        let not_before = if is_kept { not_before } else { now + AGEING_MS };
        if not_before > now {
            self.timers.insert((not_before, Timer::Reserve(id)));
            return;
        }
        self.reserving.insert(id, since);
        if let Some(lane) = self.lane_mut(id) {
            lane.is_reserving = true;
        }
        for lock in locks.iter() {
            self.locks.get_mut(*lock).reserve(since, id);
        }
        self.place(now, id);
    }
}

/// How long the work takes at best that starts with this lane, and the part of it that waits for it alone.
fn rank(lane: &Lane, locks: &Locks, workers: &Workers) -> (u64, u64) {
    let chain = lane_chain(lane, workers);
    (chain.max(backlog(lane, locks)), chain)
}

/// How long all that wants a lock of the lane takes at best, of the lock that is wanted most.
fn backlog(lane: &Lane, locks: &Locks) -> u64 {
    let locks = lane.locks.iter().map(|lock| locks.get(*lock));
    locks.map(|lock| lock.backlog / u64::from(lock.capacity.max(1))).max().unwrap_or(0)
}

/// The longest chain that starts with this lane.
fn lane_chain(lane: &Lane, workers: &Workers) -> u64 {
    let length = lane.length(u64::from(lane.claimable()), workers.capacity());
    length.saturating_add(lane.behind())
}
