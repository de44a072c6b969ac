//! What the services record: reads of the state, snapshots and watch streams.

use super::Metrics;
use super::histogram::{Histogram, exponential};
use super::parts::{Number, disk_times};
use std::sync::Arc;
use std::time::Duration;

/// Failed and successful, from 100 us on.
fn outcomes() -> [Arc<Histogram>; 2] {
    let times = || Arc::new(Histogram::of_seconds(exponential(0.0001, 2.0, 20)));
    [times(), times()]
}

/// Reads of the whole or of parts.
#[derive(Clone)]
pub struct Reads {
    pub range: [Arc<Histogram>; 2],
    pub ranges: Number,
    pub txns: Number,
    pub hash: Arc<Histogram>,
    pub hash_at_revision: Arc<Histogram>,
    pub backup: Arc<Histogram>,
    pub defragmentation: Arc<Histogram>,
    pub defragmenting: Number,
}

impl Default for Reads {
    fn default() -> Self {
        let hash = || Arc::new(Histogram::of_seconds(exponential(0.01, 2.0, 15)));
        Self {
            range: outcomes(),
            ranges: Number::default(),
            txns: Number::default(),
            hash: hash(),
            hash_at_revision: hash(),
            backup: Arc::new(Histogram::of_seconds(exponential(0.01, 2.0, 17))),
            defragmentation: Arc::new(Histogram::of_seconds(exponential(0.1, 2.0, 13))),
            defragmenting: Number::default(),
        }
    }
}

impl Reads {
    pub(super) fn register(&self, to: &Metrics) {
        let range = self.range.clone();
        to.histograms(
            "etcd_server_range_duration_seconds",
            "Time that ranges take to be read, without waiting for a quorum.",
            &["success"],
            move || {
                let [failed, done] = &range;
                let failed = Some(failed).filter(|failed| !failed.is_empty());
                let failed = failed.map(|failed| (vec!["false".to_owned()], failed.clone()));
                failed.into_iter().chain([(vec!["true".to_owned()], done.clone())]).collect()
            },
        );
        to.histogram(
            "etcd_mvcc_hash_duration_seconds",
            "Time that hashes of the whole store take.",
            self.hash.clone(),
        );
        to.histogram(
            "etcd_mvcc_hash_rev_duration_seconds",
            "Time that hashes of the store at a revision take.",
            self.hash_at_revision.clone(),
        );
        to.histogram(
            "etcd_disk_backend_snapshot_duration_seconds",
            "Time to write the state out for a client or another member.",
            self.backup.clone(),
        );
        to.histogram(
            "etcd_disk_backend_defrag_duration_seconds",
            "Time from a call of Defragment to its end.",
            self.defragmentation.clone(),
        );
        to.gauge(
            "etcd_disk_defrag_inflight",
            "1 while a call of Defragment is under way.",
            self.defragmenting.gauge(),
        );
    }
}

/// Snapshots in files.
#[derive(Clone)]
pub struct Snapshots {
    /// Of own ones.
    pub sync: Arc<Histogram>,
    pub read: Arc<Histogram>,
    pub store: Arc<Histogram>,
    /// Of those that come from other members.
    pub received_sync: Arc<Histogram>,
    pub received: Arc<Histogram>,
}

impl Default for Snapshots {
    fn default() -> Self {
        Self {
            sync: disk_times(),
            read: disk_times(),
            store: disk_times(),
            received_sync: disk_times(),
            received: Arc::new(Histogram::of_seconds(exponential(0.1, 2.0, 10))),
        }
    }
}

impl Snapshots {
    pub(super) fn register(&self, to: &Metrics) {
        for (name, help, histogram) in [
            (
                "etcd_snap_fsync_duration_seconds",
                "Time to make a stored snapshot durable.",
                &self.sync,
            ),
            (
                "etcd_debugging_snap_save_marshalling_duration_seconds",
                "Time to read the state for a stored snapshot.",
                &self.read,
            ),
            (
                "etcd_debugging_snap_save_total_duration_seconds",
                "Time to store a snapshot.",
                &self.store,
            ),
            (
                "etcd_snap_db_fsync_duration_seconds",
                "Time to make a received snapshot durable.",
                &self.received_sync,
            ),
            (
                "etcd_snap_db_save_total_duration_seconds",
                "Time to receive a snapshot and make it durable.",
                &self.received,
            ),
        ] {
            to.histogram(name, help, histogram.clone());
        }
    }
}

/// Watch streams.
#[derive(Clone)]
pub struct Watching {
    pub events: Number,
    pub responses: Arc<Histogram>,
    pub per_event: Arc<Histogram>,
    pub controls: Arc<Histogram>,
    pub progress: Arc<Histogram>,
    /// Streams that ended because the client sent what is no message.
    pub watches_failed: Number,
    pub keep_alives_failed: Number,
}

impl Default for Watching {
    fn default() -> Self {
        Self {
            events: Number::default(),
            responses: disk_times(),
            per_event: disk_times(),
            controls: disk_times(),
            progress: disk_times(),
            watches_failed: Number::default(),
            keep_alives_failed: Number::default(),
        }
    }
}

impl Watching {
    /// A message was written, with so many events.
    pub fn wrote(&self, took: Duration, events: usize, is_progress: bool) {
        match events {
            0 if is_progress => self.progress.observe_time(took),
            0 => self.controls.observe_time(took),
            events => {
                self.events.add(events as u64);
                self.responses.observe_time(took);
                self.per_event.observe_time(took / u32::try_from(events).unwrap_or(u32::MAX));
            }
        }
    }

    pub(super) fn register(&self, to: &Metrics) {
        to.counter(
            "etcd_debugging_mvcc_events_total",
            "Events sent to watchers.",
            self.events.reader(),
        );
        for (name, help, histogram) in [
            (
                "watch_stream_duration_seconds",
                "Time to write a message of events.",
                &self.responses,
            ),
            (
                "watch_stream_duration_per_event_seconds",
                "Time to write a message of events, by event.",
                &self.per_event,
            ),
            (
                "control_stream_duration_seconds",
                "Time to write that a watch begins or ends.",
                &self.controls,
            ),
            ("progress_duration_seconds", "Time to write how far a watch is.", &self.progress),
        ] {
            let name = format!("etcd_debugging_server_watch_send_loop_{name}");
            to.histogram(&name, help, histogram.clone());
        }
        let failures = [
            ("watch", self.watches_failed.clone()),
            ("lease-keepalive", self.keep_alives_failed.clone()),
        ];
        to.counters(
            "etcd_network_server_stream_failures_total",
            "Streams that ended because the client sent what is no message.",
            &["Type", "API"],
            move || {
                let failed = failures.iter().filter(|(_, count)| count.get() > 0);
                failed
                    .map(|(api, count)| {
                        (vec!["receive".to_owned(), (*api).to_owned()], count.get() as f64)
                    })
                    .collect()
            },
        );
    }
}
