//! What a member runs with, as the line of the log tells it that begins a start.
//!
//! Names and forms are those of etcd's line. Left out is what has no meaning here, and all
//! that is secret.

use super::{AutoCompaction, ClusterState, Config, ETCD_VERSION, MemberUrl};
use crate::describe::duration;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

impl Config {
    /// A JSON object. `is_initialized`: whether there is a member's data already.
    pub fn told(&self, is_initialized: bool) -> String {
        let parts =
            [self.process(is_initialized), self.addresses(), self.limits(), self.discovery()];
        let fields: Map<String, Value> = parts.into_iter().filter_map(object).flatten().collect();
        Value::Object(fields).to_string()
    }

    fn process(&self, is_initialized: bool) -> Value {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let member = self.data_dir.join("member");
        let wal = self.wal_dir.as_deref().unwrap_or(Path::new(""));
        json!({
            "etcd-version": ETCD_VERSION,
            "quoin-version": env!("CARGO_PKG_VERSION"),
            "go-os": std::env::consts::OS,
            "go-arch": super::help::architecture(),
            "max-cpu-set": processors,
            "max-cpu-available": processors,
            "member-initialized": is_initialized,
            "name": self.name,
            "data-dir": self.data_dir,
            "wal-dir": wal,
            "wal-dir-dedicated": wal,
            "member-dir": member,
            "engine": self.engine.name(),
            "force-new-cluster": self.force_new_cluster,
            "heartbeat-interval": duration(Duration::from_millis(self.heartbeat_interval_ms)),
            "election-timeout": duration(Duration::from_millis(self.election_timeout_ms)),
            "initial-election-tick-advance": self.initial_election_tick_advance,
            "snapshot-count": self.snapshot_count,
            "snapshot-catchup-entries": self.snapshot_catchup_entries,
            "v2-deprecation": "write-only",
        })
    }

    fn addresses(&self) -> Value {
        let urls =
            |urls: &[MemberUrl]| -> Vec<String> { urls.iter().map(ToString::to_string).collect() };
        let all = |names: &Option<BTreeSet<String>>| match names {
            None => vec!["*".to_owned()],
            Some(names) => names.iter().cloned().collect(),
        };
        json!({
            "initial-advertise-peer-urls": urls(&self.advertise_peer_urls),
            "listen-peer-urls": urls(&self.listen_peer_urls),
            "advertise-client-urls": urls(&self.advertise_client_urls),
            "listen-client-urls": urls(&self.listen_client_urls),
            "listen-metrics-urls": urls(&self.listen_metrics_urls),
            "cors": all(&self.cors),
            "host-whitelist": all(&self.host_whitelist),
            "initial-cluster": self.initial_cluster,
            "initial-cluster-state": match self.initial_cluster_state {
                ClusterState::New => "new",
                ClusterState::Existing => "existing",
            },
            "initial-cluster-token": self.initial_cluster_token,
        })
    }

    fn limits(&self) -> Value {
        let (mode, retention) = match self.auto_compaction {
            None => ("periodic", Duration::ZERO),
            Some(AutoCompaction::Periodic(period)) => ("periodic", period),
            // etcd shows the number as if it were a time.
            Some(AutoCompaction::Revisions(count)) => {
                ("revision", Duration::from_nanos(count.unsigned_abs()))
            }
        };
        let retention = duration(retention);
        // Those that are not as they are by themselves, as etcd tells them.
        let is_default = |(name, stage, is_on): &&(&str, &str, bool)| {
            *is_on == (*stage == "BETA" && *name != "AllBeta")
        };
        let gates = self.insight.gates.iter().filter(|gate| !is_default(gate));
        let gates: Vec<String> = gates.map(|(name, _, is_on)| format!("{name}={is_on}")).collect();
        let pause = |pause: Option<Duration>| duration(pause.unwrap_or_default());
        json!({
            "quota-backend-bytes": self.quota_backend_bytes,
            "max-request-bytes": self.max_request_bytes,
            "max-concurrent-streams": self.max_concurrent_streams,
            "pre-vote": self.pre_vote,
            "max-learners": self.max_learners,
            "feature-gates": gates.join(","),
            "initial-corrupt-check": self.data_checks.at_start,
            "corrupt-check-time-interval": pause(self.data_checks.pause),
            // None while the gate of these comparisons is closed.
            "compact-check-time-interval": pause(self.data_checks.compaction_pause),
            "auto-compaction-mode": mode,
            "auto-compaction-retention": retention,
            "auto-compaction-interval": retention,
        })
    }

    /// Nothing where members are not looked for.
    fn discovery(&self) -> Value {
        let Some(discovery) = &self.discovery else { return Value::Null };
        let (tls, path) = (&discovery.tls, |path: &Option<_>| path.clone().unwrap_or_default());
        json!({
            "discovery-token": discovery.token,
            "discovery-endpoints": discovery.endpoints.join(","),
            "discovery-dial-timeout": duration(discovery.dial_timeout),
            "discovery-request-timeout": duration(discovery.request_timeout),
            "discovery-keepalive-time": duration(discovery.keepalive_time),
            "discovery-keepalive-timeout": duration(discovery.keepalive_timeout),
            "discovery-insecure-transport": !tls.is_secure_by_default,
            "discovery-insecure-skip-tls-verify": tls.skips_verification,
            "discovery-cert": path(&tls.cert_file),
            "discovery-key": path(&tls.key_file),
            "discovery-cacert": path(&tls.ca_file),
            "discovery-user": discovery.user.as_ref().map_or("", |(name, _)| name),
        })
    }
}

fn object(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(fields) => Some(fields),
        _ => None,
    }
}
