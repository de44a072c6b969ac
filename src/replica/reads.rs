//! Linearizable reads: one confirmation round serves all that waited when it began.
//!
//! A round is named by a number that is never used again within a start of the process,
//! and the start by a number of its own: raft 0.7 takes a repeated context for an old one
//! and answers with an old index. The leader confirms by raft's read-index heartbeats; any
//! other member asks the leader in a message of ours.

use super::input::{LeaseCall, Millis};
use crate::planted::{self, Bug};
use crate::types::{Index, MemberId, RequestId};

/// How long a round may take before those who wait get a fresh one; etcd's retry interval.
const ROUND_TIMEOUT: Millis = 500;

/// Who waits for a confirmed index.
#[derive(Clone, Debug)]
pub(super) enum Waiter {
    /// A client of this member.
    Client { id: RequestId, deadline: Millis },
    /// A lease call of this member's client, while this member leads.
    Lease { id: RequestId, call: LeaseCall, deadline: Millis },
    /// Another member's round.
    PeerRound { from: MemberId, boot: u64, round: u64 },
    /// Another member's lease call.
    PeerLease { from: MemberId, id: RequestId, call: LeaseCall },
}

impl Waiter {
    fn deadline(&self) -> Option<Millis> {
        match self {
            Waiter::Client { deadline, .. } | Waiter::Lease { deadline, .. } => Some(*deadline),
            Waiter::PeerRound { .. } | Waiter::PeerLease { .. } => None,
        }
    }

    /// The client request to answer with an error when the wait ends without success.
    pub(super) fn client(&self) -> Option<RequestId> {
        match self {
            Waiter::Client { id, .. } | Waiter::Lease { id, .. } => Some(*id),
            Waiter::PeerRound { .. } | Waiter::PeerLease { .. } => None,
        }
    }
}

#[derive(Debug)]
struct Round {
    number: u64,
    started: Millis,
    waiters: Vec<Waiter>,
}

#[derive(Debug, Default)]
pub(super) struct Reads {
    waiting: Vec<Waiter>,
    round: Option<Round>,
    last_number: u64,
    /// Confirmed, but the index is not applied here yet.
    confirmed: Vec<(Index, Vec<Waiter>)>,
}

impl Reads {
    pub(super) fn wait(&mut self, waiter: Waiter) {
        self.waiting.push(waiter);
    }

    /// Begins a round for all that wait, unless one is under way or nobody waits.
    pub(super) fn begin(&mut self, now: Millis) -> Option<u64> {
        if self.waiting.is_empty() || self.round.is_some() {
            return None;
        }
        if !planted::has(Bug::ReusedReadContext) {
            self.last_number += 1;
        }
        self.round = Some(Round {
            number: self.last_number,
            started: now,
            waiters: std::mem::take(&mut self.waiting),
        });
        Some(self.last_number)
    }

    /// The round's index is known. Numbers of rounds that were given up are ignored.
    pub(super) fn confirm(&mut self, number: u64, index: Index) {
        if let Some(round) = self.round.take_if(|round| round.number == number) {
            self.confirmed.push((index, round.waiters));
        }
    }

    /// All that wait may be served at this index without a round.
    pub(super) fn confirm_waiting(&mut self, index: Index) {
        if !self.waiting.is_empty() {
            self.confirmed.push((index, std::mem::take(&mut self.waiting)));
        }
    }

    /// Those whose index is applied.
    pub(super) fn served(&mut self, applied: Index) -> Vec<(Index, Waiter)> {
        let mut served = Vec::new();
        self.confirmed.retain_mut(|(index, waiters)| {
            let ready = *index <= applied;
            if ready {
                served.extend(waiters.drain(..).map(|waiter| (*index, waiter)));
            }
            !ready
        });
        served
    }

    /// Gives up a round that takes too long: its waiters join the next one.
    pub(super) fn tick(&mut self, now: Millis) {
        if let Some(round) = self.round.take_if(|round| round.started + ROUND_TIMEOUT <= now) {
            self.waiting.splice(0..0, round.waiters);
        }
    }

    /// The leader or the term changed: the round under way proves nothing any more, and what
    /// was asked of this member as leader is void. Clients that no round has taken up wait on.
    pub(super) fn leader_changed(&mut self) -> Vec<Waiter> {
        let mut ended = self.round.take().map(|round| round.waiters).unwrap_or_default();
        let (wait_on, void) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|waiter| matches!(waiter, Waiter::Client { .. }));
        self.waiting = wait_on;
        ended.extend::<Vec<_>>(void);
        ended
    }

    /// Takes out those who have waited too long.
    pub(super) fn overdue(&mut self, now: Millis) -> Vec<Waiter> {
        let mut ended = Vec::new();
        let mut sieve = |waiters: &mut Vec<Waiter>| {
            waiters.retain(|waiter| {
                let keep = waiter.deadline().is_none_or(|deadline| deadline > now);
                if !keep {
                    ended.push(waiter.clone());
                }
                keep
            });
        };
        sieve(&mut self.waiting);
        if let Some(round) = &mut self.round {
            sieve(&mut round.waiters);
        }
        for (_, waiters) in &mut self.confirmed {
            sieve(waiters);
        }
        ended
    }
}
