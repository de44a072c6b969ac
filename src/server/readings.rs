//! The part of the metrics that others know already: read when the page is asked for.

use super::maintenance::COMPATIBLE_VERSION;
use crate::metrics::outside::Peers;
use crate::metrics::process::RUNTIME;
use crate::metrics::{Metrics, Sample};
use crate::replica::Handle;
use crate::watch;

/// What etcd's second store counted, and its proxy: nothing here does.
const NOTHING: [&str; 5] = [
    "etcd_debugging_store_watchers",
    "etcd_grpc_proxy_cache_hits_total",
    "etcd_grpc_proxy_cache_keys_total",
    "etcd_grpc_proxy_cache_misses_total",
    "etcd_grpc_proxy_watchers_coalescing_total",
];
const NOTHING_COUNTED: [&str; 3] = [
    "etcd_debugging_store_expires_total",
    "etcd_debugging_store_watch_requests_total",
    "etcd_grpc_proxy_events_coalescing_total",
];

/// Where the numbers come from.
pub struct Sources {
    pub handle: Handle,
    pub watches: watch::Handle,
    /// Bytes; negative for no bound.
    pub quota_bytes: i64,
    /// Feature gates: name, stage and whether it is on.
    pub gates: Vec<(&'static str, &'static str, bool)>,
}

/// Adds them to the page. To be called once.
pub fn register(to: &Metrics, sources: Sources) {
    let Sources { handle, watches, quota_bytes, gates } = sources;
    register_member(to, &handle);
    register_cluster(to, &handle, &to.peers);
    register_store(to, &handle, quota_bytes);
    register_watches(to, &watches);
    to.gauges(
        "etcd_server_feature_enabled",
        "1 for a feature that is switched on.",
        &["name", "stage"],
        move || {
            let gate = |(name, stage, is_on): &(&str, &str, bool)| {
                (vec![(*name).to_owned(), (*stage).to_owned()], one_if(*is_on))
            };
            gates.iter().map(gate).collect()
        },
    );
    for name in NOTHING {
        to.gauge(name, "Always 0: there is no such part here.", || 0.0);
    }
    for name in NOTHING_COUNTED {
        to.counter(name, "Always 0: there is no such part here.", || 0);
    }
}

fn one_if(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

/// One sample of value 1, for what is told by its label.
fn named(name: impl ToString) -> Vec<Sample> {
    vec![(vec![name.to_string()], 1.0)]
}

fn register_member(to: &Metrics, handle: &Handle) {
    to.gauges(
        "etcd_server_version",
        "The release of etcd that this server is compatible with.",
        &["server_version"],
        || named(COMPATIBLE_VERSION),
    );
    to.gauges(
        "etcd_server_go_version",
        "What the server is built with.",
        &["server_go_version"],
        || named(RUNTIME),
    );
    let member = handle.clone();
    to.gauges("etcd_server_id", "This member's id.", &["server_id"], move || {
        named(member.member_id())
    });
    let member = handle.clone();
    to.gauge("etcd_server_has_leader", "1 while this member knows a leader.", move || {
        one_if(member.leader().is_some())
    });
    let member = handle.clone();
    to.gauge("etcd_server_is_leader", "1 while this member leads.", move || {
        one_if(member.status().borrow().is_leader)
    });
    let member = handle.clone();
    to.gauge("etcd_server_is_learner", "1 while this member has no vote.", move || {
        one_if(member.is_learner())
    });
    let member = handle.clone();
    to.gauge(
        "etcd_server_proposals_committed_total",
        "Index of the last entry that is committed.",
        move || member.commit_index() as f64,
    );
    let member = handle.clone();
    to.gauge(
        "etcd_server_proposals_applied_total",
        "Index of the last entry that this member has applied.",
        move || member.applied_index() as f64,
    );
}

fn register_cluster(to: &Metrics, handle: &Handle, peers: &Peers) {
    let member = handle.clone();
    to.gauges(
        "etcd_cluster_version",
        "The version that all members agree on, once they do.",
        &["cluster_version"],
        move || {
            let version = member.cluster_version();
            let version = version.as_deref().and_then(|version| version.rsplit_once('.'));
            version.map_or(vec![], |(minor, _)| named(minor))
        },
    );
    let member = handle.clone();
    let pair = move |other: u64| vec![member.member_id().to_string(), format!("{other:x}")];
    let (member, labels) = (handle.clone(), pair.clone());
    to.gauges(
        "etcd_network_known_peers",
        "1 for each member of the cluster.",
        &["Local", "Remote"],
        move || member.members().iter().map(|member| (labels(member.id), 1.0)).collect(),
    );
    let (others, labels) = (peers.clone(), pair.clone());
    to.gauges(
        "etcd_network_active_peers",
        "1 for another member while it answers.",
        &["Local", "Remote"],
        move || {
            let active = others.active().into_iter();
            active.map(|(id, is_active)| (labels(id), one_if(is_active))).collect()
        },
    );
    let others = peers.clone();
    to.counters(
        "etcd_network_disconnected_peers_total",
        "How often another member stopped answering.",
        &["Local", "Remote"],
        move || {
            others.disconnects().into_iter().map(|(id, lost)| (pair(id), lost as f64)).collect()
        },
    );
    let member = handle.clone();
    to.gauges(
        "etcd_debugging_server_alarms",
        "1 for each alarm that is raised.",
        &["server_id", "alarm_type"],
        move || {
            let alarms = member.alarms();
            let sample = |alarm: &crate::pb::etcdserverpb::AlarmMember| {
                let kind = alarm.alarm().as_str_name().to_owned();
                (vec![format!("{:x}", alarm.member_id), kind], 1.0)
            };
            alarms.iter().map(sample).collect()
        },
    );
}

fn register_store(to: &Metrics, handle: &Handle, quota_bytes: i64) {
    to.gauge(
        "etcd_server_quota_backend_bytes",
        "Bytes that the store may hold; negative for no bound.",
        move || quota_bytes as f64,
    );
    let read = |name: &str, help: &str, read: fn(&Handle) -> f64| {
        let member = handle.clone();
        to.gauge(name, help, move || read(&member));
    };
    read("etcd_mvcc_db_total_size_in_bytes", "Bytes that the store takes.", |member| {
        member.view().size().0 as f64
    });
    read(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Bytes of the store that hold something.",
        |member| member.view().size().1 as f64,
    );
    read(
        "etcd_mvcc_db_open_read_transactions",
        "Readers that hold a revision against compaction.",
        |member| member.view().pins_held() as f64,
    );
    read("etcd_debugging_mvcc_current_revision", "The store's revision.", |member| {
        member.view().revision() as f64
    });
    read(
        "etcd_debugging_mvcc_compact_revision",
        "The revision below which nothing can be read; -1 before the first compaction.",
        |member| member.view().compacted() as f64,
    );
    read("etcd_debugging_auth_revision", "The revision of users and roles.", |member| {
        member.auth().state().revision() as f64
    });
}

fn register_watches(to: &Metrics, watches: &watch::Handle) {
    let read = |name: &str, help: &str, read: fn(watch::Counts) -> usize| {
        let watches = watches.clone();
        to.gauge(name, help, move || read(watches.counts()) as f64);
    };
    read("etcd_debugging_mvcc_watch_stream_total", "Watch streams.", |counts| counts.streams);
    read("etcd_debugging_mvcc_watcher_total", "Watches.", |counts| counts.watches);
    read(
        "etcd_debugging_mvcc_slow_watcher_total",
        "Watches that read history because they are behind.",
        |counts| counts.behind,
    );
    read("etcd_debugging_mvcc_pending_events_total", "Events that wait to be sent.", |counts| {
        counts.queued_events
    });
}
