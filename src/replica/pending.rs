//! Proposals of this member's own clients, from arrival to answer.
//!
//! A proposal is held until a leader is known, then handed over in that leader's term: put
//! into raft here, or sent to the leader, who accepts it in this very term or never. Terms never
//! fall along the log, so once an entry of a later term is applied here, a proposal that
//! was handed over earlier and has not come by is lost for certain, and may be handed over
//! again without ever being applied twice.

use super::input::Millis;
use crate::error::RequestError;
use crate::types::{RequestId, Term};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Bytes of commands handed over in one go, so that one append stays well below the
/// size at which it would hold up heartbeats behind it.
const HAND_OVER_BYTES_MAX: usize = 4 << 20;

#[derive(Debug)]
struct Proposal {
    command: Bytes,
    deadline: Millis,
    /// The term in which it was handed over last.
    term: Term,
}

#[derive(Debug, Default)]
pub(super) struct Pending {
    held: VecDeque<(RequestId, Proposal)>,
    handed: BTreeMap<RequestId, Proposal>,
    /// No handed proposal is of an earlier term than this: spares a scan for each round.
    handed_term_min: Term,
}

impl Pending {
    pub(super) fn hold(&mut self, id: RequestId, command: Bytes, deadline: Millis) {
        self.held.push_back((id, Proposal { command, deadline, term: 0 }));
    }

    pub(super) fn len(&self) -> usize {
        self.held.len() + self.handed.len()
    }

    pub(super) fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes held proposals to hand them over in `term`; a bounded number of bytes at a time.
    pub(super) fn hand_over(&mut self, term: Term) -> Vec<(RequestId, Bytes)> {
        let mut taken = Vec::with_capacity(self.held.len());
        let mut bytes = 0;
        while bytes < HAND_OVER_BYTES_MAX
            && let Some((id, mut proposal)) = self.held.pop_front()
        {
            bytes += proposal.command.len();
            taken.push((id, proposal.command.clone()));
            proposal.term = term;
            self.handed.insert(id, proposal);
        }
        // Falls only when everything of earlier terms was dealt with; terms rise otherwise.
        if self.handed.len() == taken.len() {
            self.handed_term_min = term;
        }
        taken
    }

    /// Puts back what was not handed over after all.
    pub(super) fn take_back(&mut self, id: RequestId) {
        if let Some(proposal) = self.handed.remove(&id) {
            self.held.push_front((id, proposal));
        }
    }

    /// The proposal was applied; true when a client of this member waits for it.
    pub(super) fn applied(&mut self, id: RequestId) -> bool {
        self.handed.remove(&id).is_some()
    }

    /// Takes a proposal that was handed over and whose command is the one looked for.
    pub(super) fn find_handed(&mut self, is_it: impl Fn(&Bytes) -> bool) -> Option<RequestId> {
        let (id, _) = self.handed.iter().find(|(_, proposal)| is_it(&proposal.command))?;
        let id = *id;
        self.applied(id).then_some(id)
    }

    /// The leader refused it for good.
    pub(super) fn refused(&mut self, id: RequestId) -> bool {
        self.applied(id)
    }

    /// An entry of this term was applied: holds again what earlier terms have certainly lost.
    pub(super) fn term_applied(&mut self, term: Term) {
        if self.handed_term_min >= term {
            return;
        }
        self.handed_term_min = term;
        let lost: Vec<RequestId> =
            self.handed.iter().filter(|(_, p)| p.term < term).map(|(id, _)| *id).collect();
        for id in lost.into_iter().rev() {
            self.take_back(id);
        }
    }

    /// The state was replaced by a snapshot, in which handed proposals may or may not be:
    /// gives those whose outcome cannot be known any more.
    pub(super) fn snapshot_installed(&mut self) -> Vec<RequestId> {
        std::mem::take(&mut self.handed).into_keys().collect()
    }

    /// Ends what has waited too long. Only the held ones are known not to be applied.
    pub(super) fn overdue(&mut self, now: Millis, term: Term) -> Vec<(RequestId, RequestError)> {
        let mut ended = Vec::new();
        self.held.retain(|(id, proposal)| {
            let keep = proposal.deadline > now;
            if !keep {
                ended.push((*id, RequestError::Timeout));
            }
            keep
        });
        self.handed.retain(|id, proposal| {
            let keep = proposal.deadline > now;
            if !keep {
                let error = if proposal.term < term {
                    RequestError::TimeoutDueToLeaderFail
                } else {
                    RequestError::Timeout
                };
                ended.push((*id, error));
            }
            keep
        });
        ended
    }
}

/// Ids that other members have forwarded in the present term, so that a message that
/// the network delivers twice is proposed once.
#[derive(Debug, Default)]
pub(super) struct Forwarded {
    term: Term,
    /// By (member, boot): the sequences seen, and the number below which all count as seen.
    origins: BTreeMap<(u64, u64), (u64, BTreeSet<u64>)>,
}

impl Forwarded {
    /// Sequences remembered for each origin: more than can be under way at once.
    const REMEMBERED_MAX: usize = 100_000;

    /// Whether this is the first time that the id comes in this term.
    pub(super) fn is_new(&mut self, id: RequestId, term: Term) -> bool {
        if self.term != term {
            *self = Self { term, ..Self::default() };
        }
        let (floor, seen) = self.origins.entry((id.member.0, id.boot)).or_default();
        if id.sequence <= *floor || !seen.insert(id.sequence) {
            return false;
        }
        if seen.len() > Self::REMEMBERED_MAX
            && let Some(lowest) = seen.pop_first()
        {
            *floor = lowest;
        }
        true
    }
}
