//! Whether values that were read one by one are possible, also together.
//!
//! Checks stand in etcd's order: of several mistakes, the same one is reported.

use crate::config::accepted;
use crate::config::compaction;
use crate::config::discovery;
use crate::config::error::{ConfigError, Notice};
use crate::config::flags::Flags;
use crate::config::log;
use crate::config::table::{INITIAL_CLUSTER, Role, names_idle_gates};
use crate::config::tls;
use crate::config::url::{MemberUrl, joined};
use crate::config::{ClusterState, Config, DataChecks, Engine, Insight};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// Above it, etcd warns: entries this large delay heartbeats.
const REQUEST_BYTES_RECOMMENDED: u64 = 10 * 1024 * 1024;
const ELECTION_MS_MAX: u64 = 50_000;
const SNAPSHOT_COUNT: u64 = 10_000;
const AUTH_TOKEN_TTL_SECONDS: u64 = 300;
const BCRYPT_COST: u32 = 10;
const QUOTA_BYTES: i64 = 2 * 1024 * 1024 * 1024;
/// What etcd's gRPC library takes where nothing was said.
const GRPC_KEEPALIVE_MIN_TIME: Duration = Duration::from_secs(300);
const WARNING_UNARY_REQUEST: Duration = Duration::from_millis(300);
const WATCH_PROGRESS_INTERVAL: Duration = Duration::from_secs(600);

/// Builds the configuration; adds what deserves a line in the log.
pub(super) fn config(flags: &Flags, notices: &mut Vec<Notice>) -> Result<Config, ConfigError> {
    check(flags)?;
    accepted::check_listeners(flags)?;
    let config = build(flags, notices)?;
    add_notices(flags, &config, notices);
    Ok(config)
}

fn check(flags: &Flags) -> Result<(), ConfigError> {
    if flags.text("discovery-fallback") == "proxy" {
        let message =
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"";
        return Err(ConfigError::flags(message));
    }
    log::rotation(flags, &log::outputs(flags)?)?;
    log::level(flags)?;
    log::format(flags)?;
    check_urls(flags)?;
    check_discovery(flags)?;
    check_times(flags)?;
    check_advertised(flags)?;
    accepted::check(flags)
}

fn build(flags: &Flags, notices: &mut Vec<Notice>) -> Result<Config, ConfigError> {
    let name = flags.text("name").to_string();
    // Without a time to wait for the answer, etcd sends no pings.
    let keepalive_timeout = positive(flags, "grpc-keepalive-timeout");
    let advertise_peer_urls = flags.urls("initial-advertise-peer-urls");
    Ok(Config {
        data_dir: data_dir(flags, &name, notices),
        wal_dir: Some(flags.text("wal-dir")).filter(|dir| !dir.is_empty()).map(PathBuf::from),
        engine: engine(flags)?,
        listen_client_urls: flags.urls("listen-client-urls"),
        listen_client_http_urls: flags.urls("listen-client-http-urls"),
        listen_metrics_urls: flags.urls("listen-metrics-urls"),
        listen_peer_urls: flags.urls("listen-peer-urls"),
        advertise_client_urls: flags.urls("advertise-client-urls"),
        initial_cluster: initial_cluster(flags, &name, &advertise_peer_urls),
        advertise_peer_urls,
        initial_cluster_token: flags.text("initial-cluster-token").to_string(),
        initial_cluster_state: cluster_state(flags),
        discovery: discovery::read(flags),
        discovery_srv: discovery::srv(flags),
        force_new_cluster: flags.switch("force-new-cluster"),
        heartbeat_interval_ms: flags.unsigned("heartbeat-interval"),
        election_timeout_ms: flags.unsigned("election-timeout"),
        initial_election_tick_advance: flags.switch("initial-election-tick-advance"),
        pre_vote: flags.switch("pre-vote"),
        snapshot_count: or_default(flags.unsigned("snapshot-count"), SNAPSHOT_COUNT),
        snapshot_catchup_entries: flags.unsigned("snapshot-catchup-entries"),
        strict_reconfig_check: flags.switch("strict-reconfig-check"),
        max_learners: u32::try_from(flags.signed("max-learners")).unwrap_or_default(),
        enable_grpc_gateway: flags.switch("enable-grpc-gateway"),
        enable_pprof: flags.switch("enable-pprof"),
        cors: names(flags, "cors"),
        host_whitelist: names(flags, "host-whitelist"),
        max_txn_ops: size(flags.unsigned("max-txn-ops")),
        max_request_bytes: size(flags.unsigned("max-request-bytes")),
        max_concurrent_streams: flags
            .unsigned("max-concurrent-streams")
            .try_into()
            .unwrap_or(u32::MAX),
        range_memory_bytes: size(flags.unsigned("range-memory-bytes")),
        quota_backend_bytes: or_default(flags.signed("quota-backend-bytes"), QUOTA_BYTES),
        grpc_keepalive_min_time: positive(flags, "grpc-keepalive-min-time")
            .unwrap_or(GRPC_KEEPALIVE_MIN_TIME),
        grpc_keepalive_interval: positive(flags, "grpc-keepalive-interval")
            .filter(|_| keepalive_timeout.is_some()),
        grpc_keepalive_timeout: keepalive_timeout.unwrap_or_default(),
        watch_progress_notify_interval: positive(flags, "watch-progress-notify-interval")
            .unwrap_or(WATCH_PROGRESS_INTERVAL),
        warning_unary_request_duration: positive(flags, "warning-unary-request-duration")
            .unwrap_or(WARNING_UNARY_REQUEST),
        auto_compaction: compaction::read(
            flags.text("auto-compaction-mode"),
            flags.text("auto-compaction-retention"),
        )?,
        auth_token: flags.text("auth-token").to_owned(),
        auth_token_ttl: auth_token_ttl(flags),
        bcrypt_cost: bcrypt_cost(flags, notices),
        data_checks: data_checks(flags),
        tls: tls::read(flags),
        log_level: log::level(flags)?,
        log_format: log::format(flags)?,
        log_rotation: log::rotation(flags, &log::outputs(flags)?)?,
        log_outputs: log::outputs(flags)?,
        socket_reuse_port: flags.switch("socket-reuse-port"),
        memory_mlock: flags.switch("memory-mlock"),
        unsafe_no_fsync: flags.switch("unsafe-no-fsync"),
        insight: insight(flags),
        name,
    })
}

fn data_checks(flags: &Flags) -> DataChecks {
    DataChecks {
        at_start: flags.gate("InitialCorruptCheck"),
        pause: positive(flags, "corrupt-check-time"),
        compaction_pause: positive(flags, "compact-hash-check-time")
            .filter(|_| flags.gate("CompactHashCheck")),
    }
}

fn cluster_state(flags: &Flags) -> ClusterState {
    match flags.text("initial-cluster-state") {
        "existing" => ClusterState::Existing,
        _ => ClusterState::New,
    }
}

fn auth_token_ttl(flags: &Flags) -> Duration {
    let seconds = or_default(flags.unsigned("auth-token-ttl"), AUTH_TOKEN_TTL_SECONDS);
    // A century is as good as for ever, and can be added to a time.
    Duration::from_secs(seconds.min(u32::MAX.into()))
}

/// Zero stands for the default.
fn or_default<T: Default + PartialEq>(number: T, default: T) -> T {
    if number == T::default() { default } else { number }
}

fn insight(flags: &Flags) -> Insight {
    Insight {
        extensive_metrics: flags.text("metrics") == "extensive",
        warning_apply: flags.duration("warning-apply-duration"),
        gates: flags.gates(),
    }
}

fn check_urls(flags: &Flags) -> Result<(), ConfigError> {
    let listening = [
        "listen-peer-urls",
        "listen-client-urls",
        "listen-client-http-urls",
        "listen-metrics-urls",
    ];
    for name in listening {
        for url in flags.urls(name) {
            url.check_can_bind().map_err(ConfigError::flags)?;
        }
    }
    let advertised = [
        ("initial-advertise-peer-urls", r#"must be "host:port""#),
        (
            "advertise-client-urls",
            r#"must be in the format "host:port", "unix:/path/to/socket" or "unixs:/path/to/socket""#,
        ),
    ];
    for (name, form) in advertised {
        let urls = flags.urls(name);
        for url in &urls {
            url.check_has_host().map_err(|error| {
                ConfigError::flags(format!("--{name} {:?} {form} ({error})", joined(&urls)))
            })?;
        }
    }
    Ok(())
}

fn check_discovery(flags: &Flags) -> Result<(), ConfigError> {
    let is_set = |name: &str| !flags.text(name).is_empty();
    let discovers = is_set("discovery-srv") || is_set("discovery-endpoints");
    let has_cluster =
        is_set("initial-cluster") && (!discovers || flags.is_given("initial-cluster"));
    let ways = [has_cluster, is_set("discovery-srv"), is_set("discovery-endpoints")];
    if ways.into_iter().filter(|is_set| *is_set).count() > 1 {
        return Err(ConfigError::flags(
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
             \"discovery-endpoints\" or \"discovery-srv\"",
        ));
    }
    if is_set("discovery-token") != is_set("discovery-endpoints") {
        let message = "both --discovery-token and --discovery-endpoints must be set";
        return Err(ConfigError::flags(message));
    }
    let endpoints = flags.text("discovery-endpoints");
    if is_set("discovery-endpoints") && endpoints.split(',').any(|one| one.trim().is_empty()) {
        let message = "--discovery-endpoints must not contain empty endpoints";
        return Err(ConfigError::flags(message));
    }
    Ok(())
}

fn check_times(flags: &Flags) -> Result<(), ConfigError> {
    let (heartbeat, election) =
        (flags.unsigned("heartbeat-interval"), flags.unsigned("election-timeout"));
    if heartbeat == 0 {
        return Err(ConfigError::flags("--heartbeat-interval must be >0 (set to 0ms)"));
    }
    if election == 0 {
        return Err(ConfigError::flags("--election-timeout must be >0 (set to 0ms)"));
    }
    if heartbeat.saturating_mul(5) > election {
        return Err(ConfigError::flags(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as \
             --heartbeat-interval[{heartbeat}ms]"
        )));
    }
    if election > ELECTION_MS_MAX {
        return Err(ConfigError::flags(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than \
             {ELECTION_MS_MAX}ms"
        )));
    }
    Ok(())
}

fn check_advertised(flags: &Flags) -> Result<(), ConfigError> {
    let listens = flags.is_given("listen-client-urls") && !flags.is_of_a_file();
    if listens && !flags.is_given("advertise-client-urls") {
        return Err(ConfigError::flags(
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ));
    }
    Ok(())
}

fn engine(flags: &Flags) -> Result<Engine, ConfigError> {
    match flags.text("engine") {
        "rocksdb" if cfg!(feature = "rocksdb") => Ok(Engine::Rocksdb),
        "rocksdb" => Err(ConfigError::flags(
            "--engine=rocksdb is not in this build: build with default features, or use \
             --engine=memory",
        )),
        _ => Ok(Engine::Memory),
    }
}

fn data_dir(flags: &Flags, name: &str, notices: &mut Vec<Notice>) -> PathBuf {
    let given = flags.text("data-dir");
    if !given.is_empty() {
        return PathBuf::from(given);
    }
    let path = format!("{name}.etcd");
    let fields = vec![("data-dir", path.clone())];
    notices.push(Notice::warn("'data-dir' was empty; using default", fields));
    PathBuf::from(path)
}

/// Follows the name when nothing else is said, so that `--name a` alone starts a member.
fn initial_cluster(flags: &Flags, name: &str, peer_urls: &[MemberUrl]) -> String {
    let given = flags.text("initial-cluster");
    // A domain's suffix without a domain: etcd forgets its default then.
    if !flags.text("discovery-srv-name").is_empty() && !flags.is_given("initial-cluster") {
        return String::new();
    }
    if given != INITIAL_CLUSTER || name == "default" {
        return given.to_string();
    }
    let name = if name.is_empty() { "default" } else { name };
    let parts: Vec<String> = peer_urls.iter().map(|url| format!("{name}={url}")).collect();
    parts.join(",")
}

fn bcrypt_cost(flags: &Flags, notices: &mut Vec<Notice>) -> u32 {
    let given = flags.unsigned("bcrypt-cost");
    match u32::try_from(given) {
        Ok(cost) if (4..=31).contains(&cost) => cost,
        _ => {
            let fields = vec![
                ("min-cost", "4".to_owned()),
                ("max-cost", "31".to_owned()),
                ("default-cost", BCRYPT_COST.to_string()),
                ("given-cost", given.to_string()),
            ];
            notices.push(Notice::warn(
                "use default bcrypt cost instead of the invalid given cost",
                fields,
            ));
            BCRYPT_COST
        }
    }
}

fn add_notices(flags: &Flags, config: &Config, notices: &mut Vec<Notice>) {
    if config.name == "default" {
        notices.push(Notice::warn(
            "it isn't recommended to use default name, please set a value for --name. Members \
             with the same name cannot be told apart",
            vec![("name", config.name.clone())],
        ));
    }
    if config.max_request_bytes as u64 > REQUEST_BYTES_RECOMMENDED {
        let fields = vec![
            ("max-request-bytes", config.max_request_bytes.to_string()),
            ("recommended-request-bytes", REQUEST_BYTES_RECOMMENDED.to_string()),
        ];
        notices.push(Notice::warn("exceeded recommended request limit", fields));
    }
    notices.extend(accepted::notices(flags));
    notices.extend(flags.outdated());
    let mut ignored: Vec<String> =
        flags.changed(Role::Accepted).map(|flag| format!("--{}", flag.name)).collect();
    if names_idle_gates(flags.text("feature-gates")) {
        ignored.push("--feature-gates".to_owned());
    }
    if !ignored.is_empty() {
        let fields = vec![("flags", ignored.join(" "))];
        notices.push(Notice::warn("ignored flags", fields));
    }
}

/// A time above zero; none for zero and below, which mean "off" or "the default".
pub(super) fn positive(flags: &Flags, name: &str) -> Option<Duration> {
    let nanoseconds = u64::try_from(flags.nanoseconds(name)).ok()?;
    Some(Duration::from_nanos(nanoseconds)).filter(|time| !time.is_zero())
}

/// A list of names; none if it is empty or has a star, which both mean all.
fn names(flags: &Flags, name: &str) -> Option<BTreeSet<String>> {
    let names: BTreeSet<String> = flags.text(name).split(',').map(str::to_string).collect();
    Some(names).filter(|names| !names.contains("*") && !flags.text(name).is_empty())
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
