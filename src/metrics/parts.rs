//! What each part of a member records: plain numbers, shared with the page.

use super::Metrics;
use super::histogram::{Histogram, exponential};
use super::services::Reads;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that many may change.
#[derive(Clone, Debug, Default)]
pub struct Number(Arc<AtomicU64>);

impl Number {
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub fn sub(&self, less: u64) {
        self.0.fetch_sub(less, Ordering::Relaxed);
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// For the page.
    pub(super) fn reader(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let number = self.clone();
        move || number.get()
    }

    /// For the page, where it is one that goes up and down.
    pub(super) fn gauge(&self) -> impl Fn() -> f64 + Send + Sync + 'static {
        let number = self.clone();
        move || number.get() as f64
    }
}

/// Counts up for as long as it lives.
pub struct Held(Number);

impl Held {
    pub fn new(number: &Number) -> Self {
        number.add(1);
        Self(number.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.sub(1);
    }
}

/// From a millisecond up to 8 seconds: what disks take.
pub(super) fn disk_times() -> Arc<Histogram> {
    Arc::new(Histogram::of_seconds(exponential(0.001, 2.0, 14)))
}

/// The raft log.
#[derive(Clone, Debug)]
pub struct Log {
    pub fsync: Arc<Histogram>,
    pub write: Arc<Histogram>,
    pub bytes: Number,
}

impl Default for Log {
    fn default() -> Self {
        Self { fsync: disk_times(), write: disk_times(), bytes: Number::default() }
    }
}

impl Log {
    /// A write of so many bytes took so long.
    pub fn wrote(&self, bytes: usize, took: Duration) {
        self.write.observe_time(took);
        self.bytes.add(bytes as u64);
    }

    pub(super) fn register(&self, to: &Metrics) {
        to.histogram(
            "etcd_disk_wal_fsync_duration_seconds",
            "Time that a sync of the raft log takes: every write waits for one.",
            self.fsync.clone(),
        );
        to.histogram(
            "etcd_disk_wal_write_duration_seconds",
            "Time that a write to the raft log takes, without its sync.",
            self.write.clone(),
        );
        to.gauge(
            "etcd_disk_wal_write_bytes_total",
            "Bytes written to the raft log.",
            self.bytes.gauge(),
        );
    }
}

/// The engine that holds the state.
#[derive(Clone)]
pub struct Store {
    pub commit: Arc<Histogram>,
    pub flush: Arc<Histogram>,
}

impl Default for Store {
    fn default() -> Self {
        Self { commit: disk_times(), flush: disk_times() }
    }
}

impl Store {
    pub(super) fn register(&self, to: &Metrics) {
        to.histogram(
            "etcd_disk_backend_commit_duration_seconds",
            "Time that the engine takes over one batch: all changes of one round.",
            self.commit.clone(),
        );
        to.histogram(
            "etcd_debugging_disk_backend_commit_write_duration_seconds",
            "Time that the engine takes to make durable what it was given, beside the writes.",
            self.flush.clone(),
        );
        for name in ["rebalance", "spill"] {
            to.histogram(
                &format!("etcd_debugging_disk_backend_commit_{name}_duration_seconds"),
                "Always empty: no engine here keeps pages in a tree.",
                disk_times(),
            );
        }
    }
}

/// What the driver's thread sees: raft and the state machine.
#[derive(Clone)]
pub struct State {
    pub leader_changes: Number,
    pub late_heartbeats: Number,
    pub proposals_pending: Number,
    pub installing: Number,
    pub slow_applies: Number,
    pub puts: Number,
    pub put_bytes: Number,
    pub deletes: Number,
    pub ranges: Number,
    pub txns: Number,
    pub keys: Number,
    pub leases_granted: Number,
    pub leases_revoked: Number,
    pub leases_renewed: Number,
    pub leases_expired: Number,
    pub lease_ttls: Arc<Histogram>,
    pub compacted_keys: Number,
    pub compaction_pauses: Arc<Histogram>,
    pub compaction_totals: Arc<Histogram>,
    /// Seconds since 1970.
    pub compacted_last: Number,
}

impl Default for State {
    fn default() -> Self {
        let millis =
            |first, count| Arc::new(Histogram::of_milliseconds(exponential(first, 2.0, count)));
        Self {
            leader_changes: Number::default(),
            late_heartbeats: Number::default(),
            proposals_pending: Number::default(),
            installing: Number::default(),
            slow_applies: Number::default(),
            puts: Number::default(),
            put_bytes: Number::default(),
            deletes: Number::default(),
            ranges: Number::default(),
            txns: Number::default(),
            keys: Number::default(),
            leases_granted: Number::default(),
            leases_revoked: Number::default(),
            leases_renewed: Number::default(),
            leases_expired: Number::default(),
            lease_ttls: Arc::new(Histogram::of_numbers(exponential(1.0, 2.0, 24))),
            compacted_keys: Number::default(),
            compaction_pauses: millis(1.0, 13),
            compaction_totals: millis(100.0, 14),
            compacted_last: Number::default(),
        }
    }
}

impl State {
    pub(super) fn register(&self, to: &Metrics) {
        self.register_raft(to);
        self.register_changes(to, &to.reads);
        self.register_leases(to);
        self.register_compaction(to);
    }

    fn register_raft(&self, to: &Metrics) {
        to.counter(
            "etcd_server_leader_changes_seen_total",
            "How often this member has seen a new leader.",
            self.leader_changes.reader(),
        );
        to.counter(
            "etcd_server_heartbeat_send_failures_total",
            "Heartbeats that this member, as the leader, sent too late: it was held up.",
            self.late_heartbeats.reader(),
        );
        to.gauge(
            "etcd_server_proposals_pending",
            "Proposals of this member's clients that wait for their result.",
            self.proposals_pending.gauge(),
        );
        to.gauge(
            "etcd_server_snapshot_apply_in_progress_total",
            "1 while a snapshot from the leader replaces the state.",
            self.installing.gauge(),
        );
        to.counter(
            "etcd_server_slow_apply_total",
            "Requests that took longer to apply, or to read, than --warning-apply-duration.",
            self.slow_applies.reader(),
        );
    }

    fn register_changes(&self, to: &Metrics, reads: &Reads) {
        to.counter("etcd_mvcc_put_total", "Puts applied by this member.", self.puts.reader());
        to.counter(
            "etcd_mvcc_delete_total",
            "Deletions, of a range or a lease's key, applied by this member.",
            self.deletes.reader(),
        );
        let (written, read) = (self.ranges.reader(), reads.ranges.reader());
        to.counter("etcd_mvcc_range_total", "Ranges read by this member.", move || {
            written() + read()
        });
        let (written, read) = (self.txns.reader(), reads.txns.reader());
        to.counter(
            "etcd_mvcc_txn_total",
            "Requests of more than one operation carried out by this member.",
            move || written() + read(),
        );
        to.gauge(
            "etcd_debugging_mvcc_total_put_size_in_bytes",
            "Bytes of keys and values in the puts applied by this member.",
            self.put_bytes.gauge(),
        );
        to.gauge("etcd_debugging_mvcc_keys_total", "Keys that exist.", self.keys.gauge());
    }

    fn register_leases(&self, to: &Metrics) {
        to.counter(
            "etcd_debugging_lease_granted_total",
            "Leases granted, as this member applied them.",
            self.leases_granted.reader(),
        );
        to.counter(
            "etcd_debugging_lease_revoked_total",
            "Leases revoked, expired ones among them, as this member applied them.",
            self.leases_revoked.reader(),
        );
        to.counter(
            "etcd_debugging_lease_renewed_total",
            "Leases renewed by this member as the leader.",
            self.leases_renewed.reader(),
        );
        to.counter(
            "etcd_debugging_server_lease_expired_total",
            "Leases that this member, as the leader, revoked because they had expired.",
            self.leases_expired.reader(),
        );
        to.histogram(
            "etcd_debugging_lease_ttl_total",
            "Seconds for which leases were granted.",
            self.lease_ttls.clone(),
        );
    }

    fn register_compaction(&self, to: &Metrics) {
        to.counter(
            "etcd_debugging_mvcc_db_compaction_keys_total",
            "Versions of keys removed by compaction.",
            self.compacted_keys.reader(),
        );
        to.gauge(
            "etcd_debugging_mvcc_db_compaction_last",
            "When the last compaction ended, in seconds since 1970; 0 since the start.",
            self.compacted_last.gauge(),
        );
        to.histogram(
            "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
            "Time that one step of compaction holds up everything else.",
            self.compaction_pauses.clone(),
        );
        to.histogram(
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
            "Time from a compaction's first step to its last.",
            self.compaction_totals.clone(),
        );
        to.histogram(
            "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
            "Always empty: there is no index beside the store.",
            Arc::new(Histogram::of_milliseconds(exponential(0.5, 2.0, 14))),
        );
    }
}

/// What the requests of this member's clients ran into.
#[derive(Clone, Default)]
pub struct Proposals {
    pub failed: Number,
    pub reads_failed: Number,
    pub reads_slow: Number,
}

impl Proposals {
    pub(super) fn register(&self, to: &Metrics) {
        to.counter(
            "etcd_server_proposals_failed_total",
            "Proposals whose outcome this member's clients were not told: given up or too late.",
            self.failed.reader(),
        );
        to.counter(
            "etcd_server_read_indexes_failed_total",
            "Linearizable reads that failed because there was no leader, or a new one.",
            self.reads_failed.reader(),
        );
        to.counter(
            "etcd_server_slow_read_indexes_total",
            "Linearizable reads for which no quorum answered in time.",
            self.reads_slow.reader(),
        );
    }
}
