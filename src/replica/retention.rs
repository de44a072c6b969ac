//! How long the log is kept, when state is made durable, and snapshots for members that lag.
//!
//! The log is the only write-ahead log, so it is cut only up to a point that the engine, or a
//! stored snapshot, holds durably; behind that point a number of entries stay for members
//! that lag a little, and all that a transfer under way will need.

use super::input::{Effect, Millis};
use super::replica::Replica;
use super::settings::Settings;
use crate::error::Fatal;
use crate::machine::Capture;
use crate::planted::{self, Bug};
use crate::raft_log::LogStore;
use crate::types::{Index, MemberId};
use raft::eraftpb::Snapshot;
use std::collections::BTreeMap;

/// With so much log a durable point is made however short ago the last one was.
const LOG_BYTES_MAX: u64 = 32 << 20;

/// A snapshot that was offered but not sent after this time is dropped: it pins old revisions.
const OFFER_LIFE: Millis = 10_000;

#[derive(Default)]
pub(super) struct Retention {
    volatile: bool,
    /// Everything up to here survives a crash without the log.
    durable: Index,
    /// The point that is being made durable now.
    under_way: Option<Index>,
    /// When the last one was begun.
    begun: Option<Millis>,
    /// Bytes of the last stored snapshot.
    stored_bytes: u64,
    /// What raft was told it can send.
    offer: Option<(Capture, Millis)>,
    /// Transfers under way and the index each brings its receiver to.
    sending: BTreeMap<MemberId, Index>,
    now: Millis,
}

impl Retention {
    /// `durable`: what the opened state had applied, all of which came from disk.
    pub(super) fn new(durable: Index, volatile: bool) -> Self {
        Self { durable, volatile, ..Self::default() }
    }

    pub(super) fn tick(&mut self, now: Millis) {
        self.now = now;
    }

    pub(super) fn persisted(&mut self, index: Index, bytes: u64) {
        self.durable = self.durable.max(index);
        self.stored_bytes = bytes;
        self.under_way = self.under_way.filter(|under_way| *under_way > index);
    }

    /// The state to stream to a member that raft sends the snapshot of this index.
    pub(super) fn send_snapshot(&mut self, to: MemberId, index: Index) -> Option<Capture> {
        let (capture, _) = self.offer.as_ref().filter(|(capture, _)| capture.index == index)?;
        self.sending.insert(to, index);
        Some(capture.clone())
    }

    pub(super) fn snapshot_sent(&mut self, to: MemberId) {
        self.sending.remove(&to);
    }

    /// Whether a point is being made durable now.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Whether enough has been applied since the durable point to make a new one.
    fn is_due(&self, settings: &Settings, applied: Index, log_bytes: u64) -> bool {
        // Under load, each `snapshot_count` would come several times a second, and the small
        // files that are written then have to be merged again.
        let has_paused =
            self.begun.is_none_or(|begun| begun + settings.snapshot_pause_ms <= self.now);
        self.under_way.is_none()
            && applied >= self.durable + settings.snapshot_count
            && (has_paused || log_bytes >= LOG_BYTES_MAX)
            // A whole snapshot of a large state is written only after as much log.
            && (!self.volatile || log_bytes >= self.stored_bytes)
    }
}

impl<L: LogStore> Replica<L> {
    /// Asks for durability when due, cuts the log, and offers snapshots that raft wants.
    pub(super) fn look_after_log(&mut self) -> Result<(), Fatal> {
        let applied = self.machine.applied_index();
        let log_bytes = self.raft.store().entry_bytes();
        if self.retention.is_due(&self.settings, applied, log_bytes) {
            self.begin_durable_point()?;
        }
        self.offer_snapshot()?;
        self.cut_log(applied)
    }

    /// Asks for everything applied so far to be made durable.
    pub(super) fn begin_durable_point(&mut self) -> Result<(), Fatal> {
        let applied = self.machine.applied_index();
        self.retention.under_way = Some(applied);
        self.retention.begun = Some(self.retention.now);
        self.output.effects.push(if self.retention.volatile {
            Effect::StoreSnapshot(self.machine.capture()?)
        } else {
            Effect::Flush { index: applied }
        });
        Ok(())
    }

    fn cut_log(&mut self, applied: Index) -> Result<(), Fatal> {
        let retention = &self.retention;
        let sending = retention.sending.values().min().copied().unwrap_or(Index::MAX);
        let offered = retention.offer.as_ref().map_or(Index::MAX, |(capture, _)| capture.index);
        let durable = if planted::has(Bug::LogCutTooFar) { applied } else { retention.durable };
        let keep_from = durable
            .min(applied.saturating_sub(self.settings.catch_up_entries))
            .min(sending)
            .min(offered);
        let first = self.raft.store().first_index().map_err(|e| Fatal::with("read raft log", e))?;
        if keep_from >= first {
            self.raft.mut_store().truncate_front(keep_from)?;
            if keep_from == durable {
                // Once for each durable point, where small steps may have led.
                tracing::info!("compact-index" = keep_from, "compacted Raft logs");
            }
        }
        Ok(())
    }

    fn offer_snapshot(&mut self) -> Result<(), Fatal> {
        let now = self.retention.now;
        let wanted = self.raft.mut_store().take_snapshot_request();
        let expired =
            self.retention.offer.as_ref().is_some_and(|(_, since)| since + OFFER_LIFE <= now);
        if wanted && self.retention.offer.is_none() {
            let capture = self.machine.capture()?;
            let mut snapshot = Snapshot::default();
            let metadata = snapshot.mut_metadata();
            metadata.index = capture.index;
            metadata.term = capture.term;
            metadata.mut_conf_state().set_voters(capture.configuration.voters.clone());
            metadata.mut_conf_state().set_learners(capture.configuration.learners.clone());
            self.raft.mut_store().offer_snapshot(Some(snapshot));
            self.retention.offer = Some((capture, now));
        } else if expired {
            self.raft.mut_store().offer_snapshot(None);
            self.retention.offer = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ClusterId;

    fn settings() -> Settings {
        Settings {
            id: MemberId(1),
            cluster_id: ClusterId(1),
            boot: 0,
            tick_ms: 100,
            election_ticks: 10,
            election_ticks_drawn: 10..20,
            election_ticks_advanced: 0,
            pre_vote: true,
            snapshot_count: 10,
            snapshot_pause_ms: 2_000,
            catch_up_entries: 0,
            compaction_entries_max: 1,
        }
    }

    #[test]
    fn durable_points_keep_apart_unless_the_log_grows_fast() {
        let mut retention = Retention::new(0, false);
        retention.tick(5_000);
        assert!(!retention.is_due(&settings(), 9, u64::MAX), "too few entries");
        assert!(retention.is_due(&settings(), 10, 0), "the first needs no pause");
        (retention.under_way, retention.begun) = (Some(10), Some(5_000));
        assert!(!retention.is_due(&settings(), 99, u64::MAX), "one is under way");
        retention.persisted(10, 0);
        retention.tick(6_999);
        assert!(!retention.is_due(&settings(), 99, LOG_BYTES_MAX - 1), "too soon");
        assert!(retention.is_due(&settings(), 99, LOG_BYTES_MAX), "much log");
        retention.tick(7_000);
        assert!(retention.is_due(&settings(), 99, 0), "after the pause");
    }

    #[test]
    fn a_large_state_is_stored_after_as_much_log() {
        let mut retention = Retention::new(0, true);
        retention.persisted(10, 1_000);
        assert!(!retention.is_due(&settings(), 99, 999));
        assert!(retention.is_due(&settings(), 99, 1_000));
    }
}
