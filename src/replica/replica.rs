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

use super::input::{Effect, Input, LeaseCall, Millis, Output, ReceivedSnapshot, Reply, Status};
use super::lessor::{Lessor, by_expiry};
use super::peer_message::{Receiver, check_raft, encode_raft, envelope};
use super::pending::{Forwarded, Pending};
use super::reads::{Reads, Waiter};
use super::retention::Retention;
use super::settings::Settings;
use crate::error::{Fatal, RequestError};
use crate::machine::{CommittedEntry, Machine, Response, encode_command};
use crate::mvcc::CompactionProgress;
use crate::pb::quoinpb::{
    ClusterVersion, Forward, LeaseAnswer, LeaseRevokeBatch, PeerMessage, ReadIndexAnswer,
    ReadIndexRequest, Refused, command::Request, peer_message::Body,
};
use crate::raft_log::LogStore;
use crate::types::{Index, MemberId, RequestId, Term};
use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, HardState, Message, MessageType};
use raft::{RawNode, SnapshotStatus, StateRole};
use std::collections::BTreeMap;

/// The etcd version whose behaviour the cluster has, as its members record it.
const CLUSTER_VERSION: &str = "3.7.0";

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
    pub(super) output: Output,
    /// A snapshot that has arrived and that raft has not taken or refused yet.
    received: Option<ReceivedSnapshot>,
    /// Forwarded proposals that came while the leadership was being handed over.
    forwards_held: Vec<(MemberId, Forward)>,
    /// Leader and term as of the last look; a change ends what relied on them.
    seen: (Option<MemberId>, Term, bool),
    /// Lease calls under way to the leader, with their deadlines.
    lease_calls: BTreeMap<RequestId, Millis>,
    /// Physical compactions to be answered once the removal is done.
    compactions: Vec<(RequestId, Response)>,
    /// There is removal to do; `compaction_pinned`: a reader holds it back until a later tick.
    compacting: bool,
    compaction_pinned: bool,
    /// Counts commands of this member's own, such as revocations of expired leases.
    own_sequence: u64,
}

impl<L: LogStore> Replica<L> {
    /// Starts from a log and a machine that were opened and agree with each other.
    ///
    /// # Errors
    /// When the log does not reach what the machine has applied, or raft refuses its state.
    pub fn new(settings: Settings, mut log: L, machine: Machine) -> Result<Self, Fatal> {
        let applied = machine.applied_index();
        let last = log.last_index().map_err(|e| Fatal::with("read last index of raft log", e))?;
        if last < applied {
            return Err(Fatal::new(format!(
                "start replica: raft log ends at {last} but the state has applied {applied}; the \
                 log lost entries or belongs to another folder"
            )));
        }
        let mut hard_state = log.hard_state();
        if hard_state.commit < applied {
            // Applied entries were committed; only the unsynced note of it was lost.
            hard_state.commit = applied;
            hard_state.term = hard_state.term.max(machine.applied_term());
            log.append(&[], Some(&hard_state))?;
        }
        let configuration = machine.configuration();
        let mut conf_state = raft::eraftpb::ConfState::default();
        conf_state.set_voters(configuration.voters.clone());
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
            output: Output::default(),
            received: None,
            forwards_held: Vec::new(),
            seen: (None, 0, false),
            lease_calls: BTreeMap::new(),
            compactions: Vec::new(),
            compacting: true,
            compaction_pinned: false,
            own_sequence: 0,
        };
        replica.hasten_election()?;
        Ok(replica)
    }

    /// A sole voter need not wait for anybody; others skip most of the first timeout.
    fn hasten_election(&mut self) -> Result<(), Fatal> {
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
            leader: (raft.leader_id != 0).then_some(MemberId(raft.leader_id)),
            is_leader,
            commit_index: raft.raft_log.committed,
            applied_index: self.machine.applied_index(),
            last_index: raft.raft_log.last_index(),
            reads_at_once: is_leader && self.is_sole_voter() && raft.commit_to_current_term(),
        }
    }

    fn is_sole_voter(&self) -> bool {
        self.machine.configuration().voters == [self.settings.id.0]
    }

    fn is_leader(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    fn leader(&self) -> Option<MemberId> {
        match self.raft.raft.leader_id {
            0 => None,
            id => Some(MemberId(id)),
        }
    }

    /// Takes one input. Nothing leaves before the next [`Replica::ready`].
    pub fn step(&mut self, input: Input) {
        match input {
            Input::Tick { now } => self.tick(now),
            Input::Propose { id, command, deadline } => {
                self.pending.hold(id, Bytes::from(command), deadline);
            }
            Input::Read { id, deadline } => self.reads.wait(Waiter::Client { id, deadline }),
            Input::Lease { id, call, deadline } => self.lease_call(id, call, deadline),
            Input::LeaseList { id } => {
                let leases = by_expiry(self.machine.leases().iter(), &self.lessor);
                self.output.replies.push((id, Ok(Reply::Leases(leases))));
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
            Input::Persisted { index, bytes } => self.retention.persisted(index, bytes),
            Input::TransferLeader { to } => self.transfer_leader(to),
        }
    }

    fn tick(&mut self, now: Millis) {
        assert!(now >= self.now, "the clock never goes back");
        self.now = now;
        self.raft.tick();
        self.reads.tick(now);
        self.retention.tick(now);
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
        if self.is_leader() {
            self.propose_own(now);
        }
    }

    /// What a leader proposes of its own accord.
    fn propose_own(&mut self, now: Millis) {
        let expired = self.lessor.expired(now, self.settings.election_timeout_ms());
        if !expired.is_empty() {
            // Never forwarded: a leader of the past cannot commit it, so it revokes nothing.
            self.propose_unanswered(Request::LeaseRevoke(LeaseRevokeBatch {
                ids: expired,
                expired: true,
            }));
        }
        // Nothing of this term is under way, so it is proposed once.
        let raft = &self.raft.raft;
        let idle = self.machine.applied_index() == raft.raft_log.last_index();
        if self.machine.cluster_version().is_none() && idle && raft.commit_to_current_term() {
            self.propose_unanswered(Request::ClusterVersion(ClusterVersion {
                version: CLUSTER_VERSION.to_owned(),
            }));
        }
    }

    fn propose_unanswered(&mut self, request: Request) {
        self.own_sequence += 1;
        let id = RequestId {
            member: self.settings.id,
            // Boots of clients' requests are even: these never meet them.
            boot: self.settings.boot | 1,
            sequence: self.own_sequence,
        };
        let command = Bytes::from(encode_command(id, request));
        // Dropped when too much is under way or the leadership is being handed over: it comes
        // again at a later tick.
        let _dropped = self.propose(vec![command]);
    }

    /// Appends commands to the leader's log in one go.
    fn propose(&mut self, commands: Vec<Bytes>) -> Result<(), raft::Error> {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.settings.id.0;
        message.set_entries(
            commands
                .into_iter()
                .map(|data| Entry { data, ..Entry::default() })
                .collect::<Vec<_>>()
                .into(),
        );
        self.raft.raft.step(message)
    }

    fn transfer_leader(&mut self, to: Option<MemberId>) {
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

    fn lease_call(&mut self, id: RequestId, call: LeaseCall, deadline: Millis) {
        match self.leader() {
            _ if self.is_leader() => self.reads.wait(Waiter::Lease { id, call, deadline }),
            Some(leader) => {
                self.lease_calls.insert(id, deadline);
                self.send(leader, Body::LeaseCall(call.to_message(id)));
            }
            None => self.output.replies.push((id, Err(RequestError::NoLeader))),
        }
    }

    fn send(&mut self, to: MemberId, body: Body) {
        let message = envelope(self.settings.cluster_id, self.settings.id, to, body);
        self.output.messages.push(message);
    }

    fn fail(&mut self, waiter: &Waiter, error: RequestError) {
        if let Some(id) = waiter.client() {
            self.output.replies.push((id, Err(error)));
        }
    }

    /// Drops what no member of this cluster may have sent, and hands the rest on.
    fn peer(&mut self, message: PeerMessage) {
        let from = MemberId(message.from);
        let is_member = self.machine.members().contains_key(&from) && from != self.settings.id;
        let is_here =
            message.to == self.settings.id.0 && message.cluster_id == self.settings.cluster_id.0;
        if !is_member || !is_here {
            tracing::warn!(from = %from, "dropped a message of a stranger or for another member");
            return;
        }
        match message.body {
            Some(Body::Raft(bytes)) => self.peer_raft(from, &bytes),
            Some(Body::Forward(forward)) => self.peer_forward(from, forward),
            Some(Body::Refused(refused)) => {
                let id = refused.id.unwrap_or_default().into();
                if self.pending.refused(id) {
                    self.output.replies.push((id, Err(RequestError::TooManyRequests)));
                }
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

    fn peer_raft(&mut self, from: MemberId, bytes: &[u8]) {
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

    fn step_raft(&mut self, message: Message) {
        if let Err(error) = self.raft.step(message) {
            tracing::debug!(%error, "raft refused a message");
        }
    }

    fn snapshot_received(&mut self, snapshot: ReceivedSnapshot) {
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
            Ok(message) if self.machine.members().contains_key(&from) => {
                self.received = Some(snapshot);
                self.step_raft(message);
            }
            Ok(_) => tracing::warn!(from = %from, "dropped a snapshot of a stranger"),
            Err(reason) => tracing::warn!(from = %from, reason, "dropped a snapshot"),
        }
    }

    fn peer_forward(&mut self, from: MemberId, forward: Forward) {
        let Some(id) = forward.id.map(RequestId::from) else { return };
        // Good in the term it was sent for, or never: that is what lets its sender hand it over
        // again in a later term.
        let term = self.raft.raft.term;
        if !self.is_leader() || forward.term != term {
            return;
        }
        if self.raft.raft.lead_transferee.is_some() {
            self.forwards_held.push((from, forward));
            return;
        }
        if !self.forwarded.is_new(id, term) {
            return;
        }
        if self.propose(vec![forward.command]).is_err() {
            self.send(from, Body::Refused(Refused { id: Some(id.into()) }));
        }
    }

    /// One whole round; see the module's comment. `early` sends at once.
    ///
    /// # Errors
    /// On any failure of log, engine or state machine: the node must stop.
    pub fn ready(&mut self, early: &mut dyn FnMut(PeerMessage)) -> Result<Output, Fatal> {
        self.notice_leader();
        for (from, forward) in std::mem::take(&mut self.forwards_held) {
            self.peer_forward(from, forward);
        }
        self.hand_over();
        self.begin_reads();
        if self.raft.has_ready() {
            self.raft_round(early)?;
        }
        self.notice_leader();
        self.begin_reads();
        self.serve_reads();
        self.compact_some()?;
        self.look_after_log()?;
        self.received = None;
        self.output.again = self.raft.has_ready() || self.compacting || self.can_hand_over();
        Ok(std::mem::take(&mut self.output))
    }

    fn raft_round(&mut self, early: &mut dyn FnMut(PeerMessage)) -> Result<(), Fatal> {
        let mut ready = self.raft.ready();
        for message in ready.take_messages() {
            self.send_raft(message, Some(early))?;
        }
        for state in ready.take_read_states() {
            if let Ok(number) = state.request_ctx.as_slice().split_at(8).1.try_into() {
                self.reads.confirm(u64::from_be_bytes(number), state.index);
            }
        }
        if !ready.snapshot().is_empty() {
            let metadata = ready.snapshot().get_metadata().clone();
            let hard_state = ready.hs().cloned();
            self.install_snapshot(metadata.index, metadata.term, hard_state)?;
        }
        if !ready.entries().is_empty() || ready.hs().is_some() {
            let hard_state = ready.hs().cloned();
            self.raft.mut_store().append(ready.entries(), hard_state.as_ref())?;
        }
        if ready.must_sync() {
            self.raft.mut_store().sync()?;
        }
        for message in ready.take_persisted_messages() {
            self.send_raft(message, None)?;
        }
        let mut committed = ready.take_committed_entries();
        let mut light = self.raft.advance_append(ready);
        if light.commit_index().is_some() {
            let hard_state = self.raft.raft.hard_state();
            self.raft.mut_store().append(&[], Some(&hard_state))?;
        }
        for message in light.take_messages() {
            self.send_raft(message, Some(early))?;
        }
        committed.extend(light.take_committed_entries());
        self.apply(committed)?;
        self.raft.advance_apply();
        Ok(())
    }

    /// Puts a raft message into an envelope, and a snapshot's beside it into an effect.
    fn send_raft(
        &mut self,
        message: Message,
        early: Option<&mut dyn FnMut(PeerMessage)>,
    ) -> Result<(), Fatal> {
        let to = MemberId(message.to);
        let bytes = encode_raft(&message).map_err(|e| Fatal::with("encode raft message", e))?;
        if message.get_msg_type() == MessageType::MsgSnapshot {
            let index = message.get_snapshot().get_metadata().index;
            match self.retention.send_snapshot(to, index) {
                Some(capture) => {
                    self.output.effects.push(Effect::SendSnapshot { to, message: bytes, capture });
                }
                None => self.raft.report_snapshot(to.0, SnapshotStatus::Failure),
            }
            return Ok(());
        }
        let message = envelope(self.settings.cluster_id, self.settings.id, to, Body::Raft(bytes));
        match early {
            Some(send) => send(message),
            None => self.output.messages.push(message),
        }
        Ok(())
    }

    fn install_snapshot(
        &mut self,
        index: Index,
        term: Term,
        hard_state: Option<HardState>,
    ) -> Result<(), Fatal> {
        let Some(mut snapshot) = self.received.take() else {
            return Err(Fatal::new(format!("install snapshot {index}: its blocks are missing")));
        };
        // From here on a restart finds the snapshot and completes what follows.
        snapshot.blocks.accept()?;
        let hard_state = hard_state.unwrap_or_else(|| self.raft.raft.hard_state());
        self.raft.mut_store().reset(index, term, &hard_state)?;
        let blocks = &mut snapshot.blocks;
        self.machine.restore(&mut || blocks.next_block())?;
        if self.machine.applied_index() != index {
            return Err(Fatal::new(format!(
                "install snapshot {index}: its state is that of index {}",
                self.machine.applied_index()
            )));
        }
        snapshot.blocks.finish()?;
        self.retention.persisted(index, 0);
        for id in self.pending.snapshot_installed() {
            self.output.replies.push((id, Err(RequestError::TimeoutDueToLeaderFail)));
        }
        self.compacting = true;
        self.output.restored = true;
        self.output.members_changed = true;
        Ok(())
    }

    fn apply(&mut self, committed: Vec<Entry>) -> Result<(), Fatal> {
        let Some(last) = committed.last() else { return Ok(()) };
        let last_term = last.term;
        let mut entries = Vec::with_capacity(committed.len());
        for Entry { index, term, data, entry_type, .. } in committed {
            if entry_type != EntryType::EntryNormal {
                return Err(Fatal::new(format!("apply entry {index}: its kind is not supported")));
            }
            entries.push(CommittedEntry { index, term, command: data });
        }
        let applied = self.machine.apply(&entries)?;
        for (lease, ttl) in applied.granted {
            if self.is_leader() {
                self.lessor.granted(lease, ttl, self.now);
            }
        }
        for lease in applied.revoked {
            self.lessor.revoked(lease);
        }
        for outcome in applied.outcomes {
            let waiting = self.pending.applied(outcome.id);
            let compacts = matches!(&outcome.result, Ok(Response::Compact { .. }));
            self.compacting |= compacts;
            match outcome.result {
                _ if !waiting => {}
                Ok(response @ Response::Compact { physical: true, .. }) => {
                    self.compactions.push((outcome.id, response));
                }
                result => self.output.replies.push((outcome.id, result.map(Reply::Applied))),
            }
        }
        self.output.commits.extend(applied.commits);
        self.output.members_changed |= applied.members_changed;
        self.pending.term_applied(last_term);
        Ok(())
    }

    /// Ends what relied on a leader or a term that is no more.
    fn notice_leader(&mut self) {
        let now = (self.leader(), self.raft.raft.term, self.is_leader());
        if now == self.seen {
            return;
        }
        let was_leader = self.seen.2;
        self.seen = now;
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
    fn can_hand_over(&self) -> bool {
        self.pending.has_held()
            && self.leader().is_some()
            && self.raft.raft.lead_transferee.is_none()
    }

    /// Gives held proposals to the leader, be it this member or another.
    fn hand_over(&mut self) {
        if !self.can_hand_over() {
            return;
        }
        let term = self.raft.raft.term;
        let proposals = self.pending.hand_over(term);
        if self.is_leader() {
            let (ids, commands): (Vec<_>, Vec<_>) = proposals.into_iter().unzip();
            if self.propose(commands).is_err() {
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

    fn begin_reads(&mut self) {
        if self.is_leader() {
            // Before its first commit a leader does not know how far its predecessors got.
            if !self.raft.raft.commit_to_current_term() {
                return;
            }
            if self.is_sole_voter() {
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

    fn serve_reads(&mut self) {
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

    /// Answers a lease call after the leadership was confirmed.
    fn answer_lease(&mut self, call: LeaseCall) -> Result<Reply, RequestError> {
        if !self.is_leader() {
            return Err(RequestError::LeaderChanged);
        }
        let leases = self.machine.leases();
        Ok(match call {
            LeaseCall::Renew { lease } => {
                let ttl = leases.ttl(lease).unwrap_or(0);
                let renewed = self.lessor.renew(lease, ttl, self.now);
                let ttl = if renewed { ttl } else { 0 };
                Reply::Lease { ttl, granted_ttl: ttl, keys: vec![] }
            }
            LeaseCall::TimeToLive { lease, keys } => match leases.ttl(lease) {
                None => Reply::Lease { ttl: -1, granted_ttl: 0, keys: vec![] },
                Some(granted_ttl) => {
                    let attached = leases.keys(lease).into_iter().flatten().cloned();
                    Reply::Lease {
                        ttl: self.lessor.remaining(lease, self.now).unwrap_or(granted_ttl),
                        granted_ttl,
                        keys: if keys { attached.collect() } else { vec![] },
                    }
                }
            },
        })
    }

    /// One bounded step of physical compaction; answers those who wait for the last one.
    fn compact_some(&mut self) -> Result<(), Fatal> {
        if !self.compacting {
            return Ok(());
        }
        match self.machine.compaction_step(self.settings.compaction_entries_max)? {
            CompactionProgress::More => {}
            CompactionProgress::Pinned => {
                self.compacting = false;
                self.compaction_pinned = true;
            }
            CompactionProgress::Done => {
                self.compacting = false;
                for (id, response) in self.compactions.drain(..) {
                    self.output.replies.push((id, Ok(Reply::Applied(response))));
                }
            }
        }
        Ok(())
    }
}
