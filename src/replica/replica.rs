//! One member's brain: steps raft, orders the disk, applies, answers.
//!
//! Synchronous and without clock, randomness or channels: [`Replica::step`] takes what
//! happened, [`Replica::ready`] does one whole round of raft's Ready and returns what is to be
//! done outside. The round's order is the safety argument:
//!
//! 1. the leader's messages leave;
//! 2. a snapshot replaces log and state;
//! 3. entries and hard state are written and synced, once;
//! 4. all other messages may leave, since what they promise is durable;
//! 5. committed entries are applied in one engine batch with the applied index;
//! 6. replies and events leave, since what they tell is visible.
//!
//! Invariants: the applied index rises by one per entry; nothing leaves before the step
//! above it is done; the log is cut only up to what is durable elsewhere.

use super::changes::Changes;
use super::input::{
    Input, LeaseCall, LeaseCounts, Millis, Output, ReceivedSnapshot, Reply, Status,
};
use super::lessor::{Lessor, by_expiry};
use super::peer_message::envelope;
use super::pending::{Forwarded, Pending};
use super::reads::{Reads, Waiter};
use super::retention::Retention;
use super::settings::Settings;
use crate::error::{Fatal, RequestError};
use crate::machine::{Machine, Response, changes_configuration, decode_command};
use crate::pb::etcdserverpb::{PutResponse, ResponseHeader};
use crate::pb::quoinpb::{Forward, command::Request, peer_message::Body};
use crate::planted::{self, Bug};
use crate::raft_log::LogStore;
use crate::types::{MemberId, RequestId, Term};
use bytes::Bytes;
use raft::eraftpb::{Entry, Message, MessageType};
use raft::{RawNode, SnapshotStatus, StateRole};
use std::collections::BTreeMap;

/// A client that does not read holds old revisions against removal for a minute, and no longer.
const PIN_STEP_MS: Millis = 10_000;
const PIN_STEPS: u32 = 6;

/// See the module's comment.
pub struct Replica<L: LogStore> {
    pub(super) settings: Settings,
    pub(super) raft: RawNode<L>,
    pub(super) machine: Machine,
    pub(super) pending: Pending,
    pub(super) forwarded: Forwarded,
    pub(super) reads: Reads,
    pub(super) lessor: Lessor,
    pub(super) retention: Retention,
    pub(super) now: Millis,
    /// When readers' holds on revisions were last found still there.
    pins_aged: Millis,
    pub(super) output: Output,
    /// A snapshot that has arrived and that raft has not taken or refused yet.
    pub(super) received: Option<ReceivedSnapshot>,
    /// Forwarded proposals that came while the leadership was being handed over.
    pub(super) forwards_held: Vec<(MemberId, Forward)>,
    /// Leader and term as of the last look; a change ends what relied on them.
    pub(super) seen: (Option<MemberId>, Term, bool),
    /// Lease calls under way to the leader, with their deadlines.
    pub(super) lease_calls: BTreeMap<RequestId, Millis>,
    /// Physical compactions to be answered once the removal is done.
    /// Changes of membership, on the leader.
    pub(super) changes: Changes,
    pub(super) compactions: Vec<(RequestId, Response)>,
    /// Another member has applied this one's removal. Before that, this one's vote may be needed for
    /// the others to learn that the removal is committed, so its own knowledge is not enough to go.
    pub(super) told_removed: bool,
    /// Asked for, and to be carried out when no durable point is under way.
    pub(super) defragmentations: Vec<RequestId>,
    /// Carried out, and being made durable.
    pub(super) defragmented: Vec<RequestId>,
    /// There is removal to do; `compaction_pinned`: a reader holds it back until a later tick.
    pub(super) compacting: bool,
    pub(super) compaction_pinned: bool,
    /// Counts commands of this member's own, such as revocations of expired leases.
    pub(super) own_sequence: u64,
    /// When a leader that never rests proposes a change of the cluster's version.
    pub(super) version_due: Millis,
    pub(super) leases: LeaseCounts,
}

impl<L: LogStore> Replica<L> {
    /// Starts from a log and a machine that were opened and agree with each other.
    ///
    /// # Errors
    /// When the log does not reach what the machine has applied, or raft refuses its state.
    pub fn new(settings: Settings, mut log: L, mut machine: Machine) -> Result<Self, Fatal> {
        let applied = machine.applied_index();
        let last = log.last_index().map_err(|e| Fatal::with("read last index of raft log", e))?;
        if last < applied {
            return Err(Fatal::new(format!(
                "start replica: raft log ends at {last} but the state has applied {applied}; the \
                 log lost entries or belongs to another folder"
            )));
        }
        let term = log.term(last).map_err(|e| Fatal::with("read last term of raft log", e))?;
        machine.found_log(last, term);
        let mut hard_state = log.hard_state();
        if hard_state.commit < applied {
            // Applied entries were committed; only the unsynced note of it was lost.
            hard_state.commit = applied;
            hard_state.term = hard_state.term.max(machine.applied_term());
            log.append(&[], Some(&hard_state))?;
        }
        let configuration = machine.configuration();
        let mut conf_state = raft::eraftpb::ConfState::default();
        let mut voters = configuration.voters.clone();
        if machine.members().is_removed(settings.id) {
            // See `Replica::is_leaving`.
            voters.push(settings.id.0);
        }
        conf_state.set_voters(voters);
        conf_state.set_learners(configuration.learners.clone());
        log.set_conf_state(conf_state);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raft = RawNode::new(&settings.raft_config(applied), log, &logger)
            .map_err(|e| Fatal::with("start raft", e))?;
        let retention = Retention::new(applied, machine.engine().is_volatile());
        let mut replica = Self {
            settings,
            raft,
            machine,
            pending: Pending::default(),
            forwarded: Forwarded::default(),
            reads: Reads::default(),
            lessor: Lessor::default(),
            retention,
            now: 0,
            pins_aged: 0,
            output: Output::default(),
            received: None,
            forwards_held: Vec::new(),
            seen: (None, 0, false),
            lease_calls: BTreeMap::new(),
            changes: Changes::default(),
            compactions: Vec::new(),
            told_removed: false,
            defragmentations: Vec::new(),
            defragmented: Vec::new(),
            compacting: true,
            compaction_pinned: false,
            own_sequence: 0,
            version_due: 0,
            leases: LeaseCounts::default(),
        };
        replica.hasten_election()?;
        Ok(replica)
    }

    /// A sole voter need not wait for anybody; others skip most of the first timeout.
    pub(super) fn hasten_election(&mut self) -> Result<(), Fatal> {
        if self.is_sole_voter() {
            return self.raft.campaign().map_err(|e| Fatal::with("campaign as sole voter", e));
        }
        for _ in 0..self.settings.election_ticks_advanced {
            self.raft.tick();
        }
        Ok(())
    }

    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    pub fn log(&self) -> &L {
        self.raft.store()
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn status(&self) -> Status {
        let raft = &self.raft.raft;
        let is_leader = raft.state == StateRole::Leader;
        Status {
            term: raft.term,
            vote: raft.vote,
            leader: (raft.leader_id != 0).then_some(MemberId(raft.leader_id)),
            is_leader,
            commit_index: raft.raft_log.committed,
            applied_index: self.machine.applied_index(),
            last_index: raft.raft_log.last_index(),
            is_removed: self.told_removed,
            reads_at_once: is_leader && self.is_sole_voter() && raft.commit_to_current_term(),
        }
    }

    /// What became of leases since the start.
    pub fn lease_counts(&self) -> LeaseCounts {
        self.leases
    }

    /// Proposals of this member's clients that wait for their result.
    pub fn proposals_pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn is_sole_voter(&self) -> bool {
        self.machine.configuration().voters == [self.settings.id.0]
    }

    pub(super) fn is_leader(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    pub(super) fn leader(&self) -> Option<MemberId> {
        match self.raft.raft.leader_id {
            0 => None,
            id => Some(MemberId(id)),
        }
    }

    /// Tells the time without a tick, before a round: a lease that is granted or renewed in it lives
    /// its whole time from then on, and not from the last tick.
    pub fn clock(&mut self, now: Millis) {
        self.now = self.now.max(now);
    }

    /// Takes one input. Nothing leaves before the next [`Replica::ready`].
    pub fn step(&mut self, input: Input) {
        match input {
            Input::Tick { now } => self.tick(now),
            Input::Propose { id, command, deadline } => {
                let command = Bytes::from(command);
                if planted::has(Bug::CheckedWhereProposed)
                    && let Some(refused) = self.machine.refuses(command.clone())
                {
                    self.output.replies.push((id, Err(refused)));
                    return;
                }
                self.pending.hold(id, command, deadline);
            }
            Input::Read { id, deadline } => self.reads.wait(Waiter::Client { id, deadline }),
            Input::Lease { id, call, deadline } => self.lease_call(id, call, deadline),
            Input::LeaseList { id } => {
                let leases = by_expiry(self.machine.leases().iter(), &self.lessor);
                self.output.replies.push((id, Ok(Reply::Leases(leases))));
            }
            Input::Defragment { id } => self.defragmentations.push(id),
            Input::LeaseKeys { id, lease } => {
                let leases = self.machine.leases();
                let keys =
                    leases.iter().map(|(id, _)| id).filter(|id| lease.is_none_or(|l| l == *id));
                let keys = keys.filter_map(|id| leases.keys(id)).flatten().cloned().collect();
                self.output.replies.push((id, Ok(Reply::Keys(keys))));
            }
            Input::Peer(message) => self.peer(message),
            Input::Unreachable(member) => self.raft.report_unreachable(member.0),
            Input::SnapshotSent { to, delivered } => {
                self.retention.snapshot_sent(to);
                let status =
                    if delivered { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.raft.report_snapshot(to.0, status);
            }
            Input::SnapshotReceived(snapshot) => self.snapshot_received(snapshot),
            Input::Persisted { index, bytes } => {
                self.retention.persisted(index, bytes);
                for id in self.defragmented.drain(..) {
                    self.output.replies.push((id, Ok(Reply::Defragmented)));
                }
            }
            Input::ToldRemoved => self.removed(),
            Input::TransferLeader { to } => self.transfer_leader(to),
        }
    }

    pub(super) fn tick(&mut self, now: Millis) {
        assert!(now >= self.now, "the clock never goes back");
        self.now = now;
        self.raft.tick();
        self.reads.tick(now);
        self.retention.tick(now);
        if now.saturating_sub(self.pins_aged) >= PIN_STEP_MS {
            self.pins_aged = now;
            self.machine.age_pins(PIN_STEPS);
        }
        for waiter in self.reads.overdue(now) {
            self.fail(&waiter, RequestError::Timeout);
        }
        for (id, error) in self.pending.overdue(now, self.raft.raft.term) {
            self.output.replies.push((id, Err(error)));
        }
        let overdue: Vec<_> =
            self.lease_calls.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
        for id in overdue {
            self.lease_calls.remove(&id);
            self.output.replies.push((id, Err(RequestError::Timeout)));
        }
        self.compacting |= std::mem::take(&mut self.compaction_pinned);
        if self.is_leaving() {
            // A predecessor has proposed it: the others shall go on by themselves.
            self.transfer_leader(None);
        }
        if self.is_leader() && !self.is_leaving() {
            self.propose_own(now);
        }
    }

    /// Appends commands to the leader's log in one go.
    pub(super) fn propose(&mut self, commands: Vec<Bytes>) -> Result<(), raft::Error> {
        let entry = |data| Entry { data, ..Entry::default() };
        self.propose_entries(commands.into_iter().map(entry).collect())
    }

    pub(super) fn propose_entries(&mut self, entries: Vec<Entry>) -> Result<(), raft::Error> {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.settings.id.0;
        message.set_entries(entries.into());
        self.raft.raft.step(message)
    }

    pub(super) fn transfer_leader(&mut self, to: Option<MemberId>) {
        if !self.is_leader() {
            return;
        }
        let me = self.settings.id.0;
        let voters = &self.machine.configuration().voters;
        let progress = self.raft.raft.prs();
        let best = || {
            progress
                .iter()
                .filter(|(id, p)| **id != me && voters.contains(id) && p.recent_active)
                .max_by_key(|(_, p)| p.matched)
                .map(|(id, _)| *id)
        };
        if let Some(to) = to.map(|member| member.0).or_else(best) {
            self.raft.transfer_leader(to);
        }
    }

    pub(super) fn lease_call(&mut self, id: RequestId, call: LeaseCall, deadline: Millis) {
        match self.leader() {
            _ if self.is_leader() => self.reads.wait(Waiter::Lease { id, call, deadline }),
            Some(leader) => {
                self.lease_calls.insert(id, deadline);
                self.send(leader, Body::LeaseCall(call.to_message(id)));
            }
            None => self.output.replies.push((id, Err(RequestError::NoLeader))),
        }
    }

    pub(super) fn send(&mut self, to: MemberId, body: Body) {
        let message = envelope(self.settings.cluster_id, self.settings.id, to, body);
        self.output.messages.push(message);
    }

    pub(super) fn fail(&mut self, waiter: &Waiter, error: RequestError) {
        if let Some(id) = waiter.client() {
            self.output.replies.push((id, Err(error)));
        }
    }

    /// Ends what relied on a leader or a term that is no more.
    pub(super) fn notice_leader(&mut self) {
        let now = (self.leader(), self.raft.raft.term, self.is_leader());
        if now == self.seen {
            return;
        }
        let was_leader = self.seen.2;
        self.seen = now;
        if planted::has(Bug::HandedOverAgain) {
            self.pending.term_applied(self.raft.raft.term);
        }
        self.changes.leader_changed();
        for waiter in self.reads.leader_changed() {
            self.fail(&waiter, RequestError::LeaderChanged);
        }
        for id in std::mem::take(&mut self.lease_calls).into_keys() {
            self.output.replies.push((id, Err(RequestError::LeaderChanged)));
        }
        if self.is_leader() {
            let extension = self.settings.election_timeout_ms();
            self.lessor.promote(self.machine.leases().iter(), self.now, extension);
        } else if was_leader {
            self.lessor.demote();
        }
    }

    /// Whether held proposals have somewhere to go right now.
    pub(super) fn can_hand_over(&self) -> bool {
        self.pending.has_held()
            && self.leader().is_some()
            && self.raft.raft.lead_transferee.is_none()
            && !self.is_leaving()
    }

    /// Gives held proposals to the leader, be it this member or another.
    pub(super) fn hand_over(&mut self) {
        if !self.can_hand_over() {
            return;
        }
        let term = self.raft.raft.term;
        let proposals = self.pending.hand_over(term);
        if planted::has(Bug::AnswerBeforeCommit) && self.is_leader() {
            self.answer_puts_now(&proposals);
        }
        if self.is_leader() {
            let (changes, others): (Vec<_>, Vec<_>) =
                proposals.into_iter().partition(|(_, command)| changes_configuration(command));
            for (id, command) in changes {
                self.changes.wait(id, command, None);
            }
            let (ids, commands): (Vec<_>, Vec<_>) = others.into_iter().unzip();
            if !commands.is_empty() && self.propose(commands).is_err() {
                // Too much is uncommitted: say so now rather than let them time out.
                for id in ids {
                    self.pending.refused(id);
                    self.output.replies.push((id, Err(RequestError::TooManyRequests)));
                }
            }
        } else if let Some(leader) = self.leader() {
            for (id, command) in proposals {
                let forward = Forward { id: Some(id.into()), command, term };
                self.send(leader, Body::Forward(forward));
            }
        }
    }

    /// A planted bug: see there.
    fn answer_puts_now(&mut self, proposals: &[(RequestId, Bytes)]) {
        for (id, command) in proposals {
            let is_put = matches!(decode_command(command.clone()), Ok((_, Request::Put(_))));
            if is_put && self.pending.applied(*id) {
                let revision = self.machine.view().revision() + 1;
                let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
                let response = Response::Put(PutResponse { header, prev_kv: None });
                self.output.replies.push((*id, Ok(Reply::Applied(response))));
            }
        }
    }
}
