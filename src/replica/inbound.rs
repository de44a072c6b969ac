//! What other members send: checked, then handed to raft, reads, leases or proposals.

use super::input::{LeaseCall, ReceivedSnapshot, Reply};
use super::peer_message::{Receiver, check_raft};
use super::reads::Waiter;
use super::replica::Replica;
use crate::machine::changes_configuration;
use crate::pb::quoinpb::peer_message::Body;
use crate::pb::quoinpb::refused::Reason;
use crate::pb::quoinpb::{Forward, LeaseAnswer, PeerMessage, ReadIndexRequest};
use crate::planted::{self, Bug};
use crate::raft_log::LogStore;
use crate::types::{MemberId, RequestId};
use raft::eraftpb::{Message, MessageType};

impl<L: LogStore> Replica<L> {
    /// Drops what no member of this cluster may have sent, and hands the rest on.
    pub(super) fn peer(&mut self, message: PeerMessage) {
        let from = MemberId(message.from);
        let is_member = self.may_be_member(from);
        let is_here =
            message.to == self.settings.id.0 && message.cluster_id == self.settings.cluster_id.0;
        if !is_member || !is_here {
            tracing::warn!(from = %from, "dropped a message of a removed member or for another one");
            return;
        }
        match message.body {
            Some(Body::Raft(bytes)) => self.peer_raft(from, &bytes),
            Some(Body::Forward(forward)) => self.peer_forward(from, forward),
            Some(Body::Refused(refused)) => {
                self.refused(refused.id.unwrap_or_default().into(), refused.reason);
            }
            Some(Body::ReadIndex(request)) => {
                if self.is_leader() {
                    let ReadIndexRequest { boot, round } = request;
                    self.reads.wait(Waiter::PeerRound { from, boot, round });
                }
            }
            Some(Body::ReadIndexAnswer(answer)) => {
                // An index from a leader of the past still was current when the round
                // began, because only a confirmed leader answers.
                if answer.boot == self.settings.boot {
                    self.reads.confirm(answer.round, answer.index);
                }
            }
            Some(Body::LeaseCall(call)) => {
                if self.is_leader()
                    && let Some(id) = call.id
                {
                    let call = LeaseCall::from_message(&call);
                    self.reads.wait(Waiter::PeerLease { from, id: id.into(), call });
                }
            }
            Some(Body::LeaseAnswer(answer)) => {
                let id: RequestId = answer.id.unwrap_or_default().into();
                if self.lease_calls.remove(&id).is_some() {
                    let LeaseAnswer { ttl, granted_ttl, keys, .. } = answer;
                    self.output.replies.push((id, Ok(Reply::Lease { ttl, granted_ttl, keys })));
                }
            }
            None => {}
        }
    }

    /// Whether this may be a member. One that lags, or that joins, may not know its own leader yet:
    /// everybody is let in who knows the cluster's id and was not removed.
    fn may_be_member(&self, from: MemberId) -> bool {
        let members = self.machine.members();
        if planted::has(Bug::StrangersIgnored) && members.get(from).is_none() {
            return false;
        }
        from != self.settings.id && !members.is_removed(from)
    }

    pub(super) fn peer_raft(&mut self, from: MemberId, bytes: &[u8]) {
        let raft = &self.raft.raft;
        let receiver = Receiver {
            id: self.settings.id,
            last_index: raft.raft_log.last_index(),
            commit_index: raft.raft_log.committed,
            term: raft.term,
        };
        match check_raft(bytes, from, &receiver) {
            // A snapshot counts only together with its blocks.
            Ok(message) if message.get_msg_type() == MessageType::MsgSnapshot => {}
            Ok(message) => self.step_raft(message),
            Err(reason) => tracing::warn!(from = %from, reason, "dropped a raft message"),
        }
    }

    pub(super) fn step_raft(&mut self, message: Message) {
        if let Err(error) = self.raft.step(message) {
            tracing::debug!(%error, "raft refused a message");
        }
    }

    pub(super) fn snapshot_received(&mut self, snapshot: ReceivedSnapshot) {
        let raft = &self.raft.raft;
        let receiver = Receiver {
            id: self.settings.id,
            last_index: raft.raft_log.last_index(),
            commit_index: raft.raft_log.committed,
            term: raft.term,
        };
        let from = match protobuf::Message::parse_from_bytes(&snapshot.message) {
            Ok(Message { from, .. }) => MemberId(from),
            Err(_) => MemberId(0),
        };
        match check_raft(&snapshot.message, from, &receiver) {
            Ok(message) if self.may_be_member(from) => {
                self.received = Some(snapshot);
                self.step_raft(message);
            }
            Ok(_) => tracing::warn!(from = %from, "dropped a snapshot of a removed member"),
            Err(reason) => tracing::warn!(from = %from, reason, "dropped a snapshot"),
        }
    }

    pub(super) fn peer_forward(&mut self, from: MemberId, forward: Forward) {
        let Some(id) = forward.id.map(RequestId::from) else { return };
        // Good in the term it was sent for, or never: that is what lets its sender hand it over
        // again in a later term.
        let term = self.raft.raft.term;
        if !self.is_leader() || self.is_leaving() || forward.term != term {
            return;
        }
        if self.raft.raft.lead_transferee.is_some() {
            self.forwards_held.push((from, forward));
            return;
        }
        if !self.forwarded.is_new(id, term) && !planted::has(Bug::ForwardedTwice) {
            return;
        }
        if changes_configuration(&forward.command) {
            self.changes.wait(id, forward.command, Some(from));
        } else if self.propose(vec![forward.command]).is_err() {
            self.refuse_change(id, Some(from), Reason::TooManyRequests);
        }
    }
}
