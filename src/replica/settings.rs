//! What a replica is told at its start, and raft's configuration made from it.

use super::input::Millis;
use crate::types::{ClusterId, Index, MemberId};
use raft::{Config, ReadOnlyOption};

/// All settings of a replica. Times are in ticks unless named otherwise.
#[derive(Clone, Debug)]
pub struct Settings {
    pub id: MemberId,
    pub cluster_id: ClusterId,
    /// Differs at each start of the process.
    pub boot: u64,
    /// Length of a tick.
    pub tick_ms: Millis,
    /// Ticks without a leader after which a follower may campaign, and without followers after
    /// which a leader steps down.
    pub election_ticks: usize,
    /// Where the follower's real number of ticks is drawn from, to keep members apart. A range
    /// of one makes it certain, for scripts and simulation.
    pub election_ticks_drawn: std::ops::Range<usize>,
    /// Ticks to count as already passed at the start, so that a new cluster elects soon.
    pub election_ticks_advanced: usize,
    pub pre_vote: bool,
    /// Entries applied since the last durable point after which a new one is made.
    pub snapshot_count: u64,
    /// The least time between two durable points, unless 32 MiB of log have come meanwhile.
    pub snapshot_pause_ms: Millis,
    /// Entries kept behind the durable point for members that lag.
    pub catch_up_entries: u64,
    /// Physical compaction work in one round, in log entries of mvcc.
    pub compaction_entries_max: usize,
}

impl Settings {
    pub fn election_timeout_ms(&self) -> Millis {
        self.election_ticks as u64 * self.tick_ms
    }

    /// Raft's configuration. Its defaults leave check-quorum and pre-vote off and all byte
    /// counts unbounded, none of which is fit for production.
    pub(super) fn raft_config(&self, applied: Index) -> Config {
        Config {
            id: self.id.0,
            election_tick: self.election_ticks,
            min_election_tick: self.election_ticks_drawn.start,
            max_election_tick: self.election_ticks_drawn.end,
            heartbeat_tick: 1,
            applied,
            // Bounds how long one message occupies a link that heartbeats need too.
            max_size_per_msg: 1 << 20,
            // etcd's number: with 1 MiB messages enough to fill any link.
            max_inflight_msgs: 512,
            check_quorum: true,
            pre_vote: self.pre_vote,
            // Lease-based reads check nothing but the role in this version of raft.
            read_only_option: ReadOnlyOption::Safe,
            skip_bcast_commit: false,
            batch_append: true,
            priority: 0,
            // A leader that lost its followers must not collect proposals without end.
            max_uncommitted_size: 256 << 20,
            // Bounds one round of apply, and so the pause between two ticks.
            max_committed_size_per_ready: 4 << 20,
        }
    }
}
