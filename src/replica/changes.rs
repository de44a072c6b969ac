//! Changes of membership on their way into the leader's log, one at a time.
//!
//! raft takes a change only when none is under way, and drops it silently otherwise; so they wait
//! here. What waits when the leadership ends is forgotten: whoever handed it over hands it over
//! again once an entry of a later term has shown that it is lost.

use super::input::Reply;
use super::replica::Replica;
use crate::error::{Fatal, RequestError};
use crate::machine::{ConfigurationChange, Response, changes_configuration, decode_command};
use crate::pb::quoinpb::{Refused, command::Request, peer_message::Body, refused::Reason};
use crate::raft_log::LogStore;
use crate::types::{Index, MemberId, RequestId};
use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, Entry, EntryType};
use std::collections::VecDeque;

/// Of the leader's log a learner must have so much before it may vote, in percent: etcd's bound.
const READY_PERCENT: u64 = 90;

/// A change that waits, and who is told when it is refused.
#[derive(Debug)]
struct Waiting {
    id: RequestId,
    command: Bytes,
    /// `None` for a client of this member.
    from: Option<MemberId>,
}

#[derive(Debug, Default)]
pub(super) struct Changes {
    waiting: VecDeque<Waiting>,
}

impl Changes {
    pub(super) fn wait(&mut self, id: RequestId, command: Bytes, from: Option<MemberId>) {
        self.waiting.push_back(Waiting { id, command, from });
    }

    pub(super) fn leader_changed(&mut self) {
        self.waiting.clear();
    }
}

/// The change that raft is to make of its configuration, if the request asks for one.
fn conf_change(request: &Request) -> Option<ConfChange> {
    let (kind, id) = match request {
        Request::MemberAdd(add) => match add.member.as_ref()? {
            member if member.is_learner => (ConfChangeType::AddLearnerNode, member.id),
            member => (ConfChangeType::AddNode, member.id),
        },
        Request::MemberPromote(change) => (ConfChangeType::AddNode, change.member_id),
        Request::MemberRemove(change) => (ConfChangeType::RemoveNode, change.member_id),
        _ => return None,
    };
    Some(to_raft(kind, id))
}

fn to_raft(kind: ConfChangeType, id: u64) -> ConfChange {
    let mut change = ConfChange::default();
    change.set_change_type(kind);
    change.node_id = id;
    change
}

impl<L: LogStore> Replica<L> {
    /// Proposes the first change that waits, if none is under way.
    ///
    /// # Errors
    /// When the change cannot be decoded or encoded, which a checked one never causes.
    pub(super) fn propose_change(&mut self) -> Result<(), Fatal> {
        if !self.is_leader() || self.is_leaving() {
            return Ok(());
        }
        while let Some(first) = self.changes.waiting.front() {
            let raft = &self.raft.raft;
            if raft.has_pending_conf() || raft.lead_transferee.is_some() {
                return Ok(());
            }
            let (_, request) = decode_command(first.command.clone())?;
            if let Request::MemberRemove(change) = &request
                && change.member_id == self.settings.id.0
                && !self.is_sole_voter()
            {
                // A leader that removed itself would go on leading: the next one shall do it.
                self.transfer_leader(None);
                return Ok(());
            }
            let is_ready = match &request {
                Request::MemberPromote(change) => self.is_in_sync(change.member_id),
                _ => true,
            };
            let Some(Waiting { id, command, from }) = self.changes.waiting.pop_front() else {
                return Ok(());
            };
            let Some(change) = conf_change(&request) else { continue };
            if !is_ready {
                self.refuse_change(id, from, Reason::LearnerNotReady);
                continue;
            }
            let data = change.write_to_bytes().map_err(|e| Fatal::with("encode change", e))?;
            let mut entry = Entry { data: data.into(), context: command, ..Entry::default() };
            entry.set_entry_type(EntryType::EntryConfChange);
            if self.propose_entries(vec![entry]).is_err() {
                self.refuse_change(id, from, Reason::TooManyRequests);
            }
        }
        Ok(())
    }

    /// A learner that is not known is ready to be refused by the state machine, in better words.
    fn is_in_sync(&self, learner: u64) -> bool {
        let progress = self.raft.raft.prs();
        let matched = |id| progress.get(id).map(|progress| progress.matched);
        match (matched(learner), matched(self.settings.id.0)) {
            (Some(learner), Some(leader)) => {
                u128::from(learner) * 100 >= u128::from(leader) * u128::from(READY_PERCENT)
            }
            _ => true,
        }
    }

    pub(super) fn refuse_change(&mut self, id: RequestId, from: Option<MemberId>, reason: Reason) {
        match from {
            Some(from) => {
                let refused = Refused { id: Some(id.into()), reason: reason as i32 };
                self.send(from, Body::Refused(refused));
            }
            None => self.refused(id, reason as i32),
        }
    }

    /// The leader will not propose this.
    pub(super) fn refused(&mut self, id: RequestId, reason: i32) {
        if self.pending.refused(id) {
            let error = match Reason::try_from(reason) {
                Ok(Reason::LearnerNotReady) => RequestError::LearnerNotReady,
                _ => RequestError::TooManyRequests,
            };
            self.output.replies.push((id, Err(error)));
        }
    }

    /// Others have removed this member, and may not have told it so in its log: whoever asked for
    /// that here has got what he asked for.
    pub(super) fn removed(&mut self) {
        self.told_removed = true;
        let own = self.settings.id;
        let is_own_removal = |command: &Bytes| {
            changes_configuration(command)
                && matches!(
                    decode_command(command.clone()),
                    Ok((_, Request::MemberRemove(change))) if change.member_id == own.0
                )
        };
        while let Some(id) = self.pending.find_handed(is_own_removal) {
            let members = self.machine.members().all().values();
            let rest = members.filter(|member| member.id != own.0).cloned().collect();
            self.output.replies.push((id, Ok(Reply::Applied(Response::Members(rest)))));
        }
    }

    /// Whether this member has applied its own removal. Until others say that they know of it, its
    /// vote, or its log, may be what they need to learn it: so raft here is not told, and behaves as
    /// on a member that lags. Nothing new is proposed, and a leader hands over.
    pub(super) fn is_leaving(&self) -> bool {
        self.machine.members().is_removed(self.settings.id)
    }

    /// Lets raft follow what the state machine has decided.
    pub(super) fn configure(
        &mut self,
        index: Index,
        change: ConfigurationChange,
    ) -> Result<(), Fatal> {
        if change == ConfigurationChange::Remove(self.settings.id) {
            return Ok(());
        }
        let change = match change {
            ConfigurationChange::AddVoter(id) => to_raft(ConfChangeType::AddNode, id.0),
            ConfigurationChange::AddLearner(id) => to_raft(ConfChangeType::AddLearnerNode, id.0),
            ConfigurationChange::Remove(id) => to_raft(ConfChangeType::RemoveNode, id.0),
        };
        let failed = |e| Fatal::with(format!("change configuration at entry {index}"), e);
        let state = self.raft.apply_conf_change(&change).map_err(failed)?;
        let sorted = |ids: &[u64]| {
            let mut ids = ids.to_vec();
            ids.retain(|id| !self.is_leaving() || *id != self.settings.id.0);
            ids.sort_unstable();
            ids
        };
        let wanted = self.machine.configuration();
        if (sorted(&state.voters), sorted(&state.learners))
            != (wanted.voters.clone(), wanted.learners.clone())
        {
            return Err(Fatal::new(format!(
                "change configuration at entry {index}: raft and the state machine disagree"
            )));
        }
        self.raft.mut_store().set_conf_state(state);
        Ok(())
    }
}
