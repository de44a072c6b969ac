//! One whole round of raft's Ready, in the order that safety demands; see `replica`.

use super::input::{Effect, Output, Reply};
use super::install;
use super::peer_message::{encode_raft, envelope};
use super::replica::Replica;
use crate::error::{Fatal, RequestError};
use crate::machine::{CommittedEntry, Response};
use crate::mvcc::CompactionProgress;
use crate::pb::quoinpb::PeerMessage;
use crate::pb::quoinpb::peer_message::Body;
use crate::planted::{self, Bug};
use crate::raft_log::LogStore;
use crate::types::{Index, MemberId, Term};
use raft::SnapshotStatus;
use raft::eraftpb::{Entry, EntryType, HardState, Message, MessageType};

impl<L: LogStore> Replica<L> {
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
        self.propose_change()?;
        self.begin_reads();
        if self.raft.has_ready() {
            self.raft_round(early)?;
        }
        self.notice_leader();
        self.begin_reads();
        self.serve_reads();
        self.compact_some()?;
        self.defragment()?;
        self.look_after_log()?;
        self.received = None;
        self.output.again = self.raft.has_ready() || self.compacting || self.can_hand_over();
        Ok(std::mem::take(&mut self.output))
    }

    fn raft_round(&mut self, early: &mut dyn FnMut(PeerMessage)) -> Result<(), Fatal> {
        let mut ready = self.raft.ready();
        self.keep_commit_of_change(ready.committed_entries())?;
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
        let too_late = planted::has(Bug::ApplyBeforePersist);
        let forgotten = planted::has(Bug::VoteNotSynced) && ready.entries().is_empty();
        if ready.must_sync() && !too_late && !forgotten {
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
        self.keep_commit_of_change(light.committed_entries())?;
        for message in light.take_messages() {
            self.send_raft(message, Some(early))?;
        }
        committed.extend(light.take_committed_entries());
        self.apply(committed)?;
        self.raft.advance_apply();
        if too_late {
            self.raft.mut_store().sync()?;
        }
        Ok(())
    }

    /// Makes durable that a change of configuration is committed, before anybody is told.
    ///
    /// A removed member ends when it hears of it. If those that stay could forget the commit, as
    /// they may forget any other, they might need its vote to commit the change once more.
    fn keep_commit_of_change(&mut self, committed: &[Entry]) -> Result<(), Fatal> {
        let is_change = |entry: &&Entry| entry.get_entry_type() != EntryType::EntryNormal;
        let Some(change) = committed.iter().rev().find(is_change) else { return Ok(()) };
        if planted::has(Bug::ChangeCommitForgotten) {
            return Ok(());
        }
        let mut hard_state = self.raft.raft.hard_state();
        // Never beyond what the log has for certain, and never back.
        let known = self.raft.store().hard_state().commit;
        hard_state.commit = known.max(change.index);
        self.raft.mut_store().append_durably(&hard_state)
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
        tracing::info!("applySnapshot: opened snapshot backend");
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
        tracing::info!("snapshot-index" = index, "snapshot-term" = term, "applied snapshot");
        Ok(())
    }

    fn apply(&mut self, committed: Vec<Entry>) -> Result<(), Fatal> {
        let Some(last) = committed.last() else { return Ok(()) };
        let last_term = last.term;
        let mut entries = Vec::with_capacity(committed.len());
        for entry in committed {
            // Alone in its batch, so that raft follows right behind it.
            let is_change = entry.entry_type == EntryType::EntryConfChange;
            let entry = install::committed(entry)?;
            if is_change {
                self.apply_entries(&std::mem::take(&mut entries))?;
                self.apply_entries(&[entry])?;
            } else {
                entries.push(entry);
            }
        }
        self.apply_entries(&entries)?;
        self.pending.term_applied(last_term);
        Ok(())
    }

    fn apply_entries(&mut self, entries: &[CommittedEntry]) -> Result<(), Fatal> {
        let applied = self.machine.apply(entries)?;
        if let Some(change) = applied.configuration_change {
            self.configure(self.machine.applied_index(), change)?;
        }
        self.leases.granted += applied.granted.len() as u64;
        self.leases.revoked += applied.revoked.len() as u64;
        if self.is_leader() {
            self.leases.expired += applied.expired as u64;
        }
        for (lease, ttl) in applied.granted {
            if self.is_leader() {
                self.lessor.granted(lease, ttl, self.latest_now());
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
        Ok(())
    }

    /// Only a count changes: removed versions leave no holes behind. It is no entry of the log, so
    /// it is answered when it is durable by itself.
    fn defragment(&mut self) -> Result<(), Fatal> {
        if self.defragmentations.is_empty() || self.retention.is_under_way() {
            return Ok(());
        }
        self.machine.defragment()?;
        self.defragmented.append(&mut self.defragmentations);
        self.begin_durable_point()
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
                let revision = self.machine.view().compacted();
                // A start and a snapshot look for removal to do, too.
                if revision > 0 {
                    tracing::info!("compact-revision" = revision, "finished scheduled compaction");
                }
                for (id, response) in self.compactions.drain(..) {
                    self.output.replies.push((id, Ok(Reply::Applied(response))));
                }
            }
        }
        Ok(())
    }
}
