//! Serving reads and lease calls once a read-index round, or the leadership, has been confirmed.

use super::input::{LeaseCall, Millis, Reply};
use super::reads::Waiter;
use super::replica::Replica;
use crate::error::RequestError;
use crate::pb::quoinpb::{LeaseAnswer, ReadIndexAnswer, ReadIndexRequest, peer_message::Body};
use crate::planted::{self, Bug};
use crate::raft_log::LogStore;

impl<L: LogStore> Replica<L> {
    pub(super) fn begin_reads(&mut self) {
        if self.is_leader() {
            // Before its first commit a leader does not know how far its predecessors got.
            if !self.raft.raft.commit_to_current_term() {
                return;
            }
            if self.is_sole_voter() || planted::has(Bug::LeaseRead) {
                self.reads.confirm_waiting(self.raft.raft.raft_log.committed);
            } else if let Some(number) = self.reads.begin(self.now) {
                let mut context = self.settings.boot.to_be_bytes().to_vec();
                context.extend_from_slice(&number.to_be_bytes());
                self.raft.read_index(context);
            }
        } else if let Some(leader) = self.leader()
            && let Some(round) = self.reads.begin(self.now)
        {
            let boot = self.settings.boot;
            self.send(leader, Body::ReadIndex(ReadIndexRequest { boot, round }));
        }
    }

    pub(super) fn serve_reads(&mut self) {
        for (index, waiter) in self.reads.served(self.machine.applied_index()) {
            match waiter {
                Waiter::Client { id, .. } => self.output.replies.push((id, Ok(Reply::Readable))),
                Waiter::Lease { id, call, .. } => {
                    let reply = self.answer_lease(call);
                    self.output.replies.push((id, reply));
                }
                Waiter::PeerRound { from, boot, round } => {
                    let answer = ReadIndexAnswer { boot, round, index };
                    self.send(from, Body::ReadIndexAnswer(answer));
                }
                Waiter::PeerLease { from, id, call } => {
                    if let Ok(Reply::Lease { ttl, granted_ttl, keys }) = self.answer_lease(call) {
                        let answer = LeaseAnswer { id: Some(id.into()), ttl, granted_ttl, keys };
                        self.send(from, Body::LeaseAnswer(answer));
                    }
                }
            }
        }
    }

    /// The present may be later than the last tick told, by up to a tick: a lease that lives
    /// from here never ends before its holder has had its full time.
    pub(super) fn latest_now(&self) -> Millis {
        self.now + self.settings.tick_ms
    }

    /// Answers a lease call after the leadership was confirmed.
    pub(super) fn answer_lease(&mut self, call: LeaseCall) -> Result<Reply, RequestError> {
        if !self.is_leader() {
            return Err(RequestError::LeaderChanged);
        }
        let leases = self.machine.leases();
        Ok(match call {
            LeaseCall::Renew { lease } => {
                let ttl = leases.ttl(lease).unwrap_or(0);
                let renewed = self.lessor.renew(lease, ttl, self.latest_now());
                self.leases.renewed += u64::from(renewed);
                let ttl = if renewed { ttl } else { 0 };
                Reply::Lease { ttl, granted_ttl: ttl, keys: vec![] }
            }
            LeaseCall::TimeToLive { lease, keys } => match leases.ttl(lease) {
                None => Reply::Lease { ttl: -1, granted_ttl: 0, keys: vec![] },
                Some(granted_ttl) => {
                    let attached = leases.keys(lease).into_iter().flatten().cloned();
                    Reply::Lease {
                        ttl: self
                            .lessor
                            .remaining(lease, self.now)
                            .map_or(granted_ttl, |left| left.min(granted_ttl)),
                        granted_ttl,
                        keys: if keys { attached.collect() } else { vec![] },
                    }
                }
            },
        })
    }
}
