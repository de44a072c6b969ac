//! What command lines and variables come to.

use super::*;

fn strings<const N: usize>(texts: [&str; N]) -> impl Iterator<Item = OsString> {
    texts.map(OsString::from).into_iter()
}

fn start(args: &[&str]) -> Result<(Config, Vec<Notice>), ConfigError> {
    start_in(args, &[])
}

fn start_in(
    args: &[&str],
    environment: &[(&str, &str)],
) -> Result<(Config, Vec<Notice>), ConfigError> {
    let environment = environment.iter().map(|(name, value)| (name.into(), value.into()));
    match read(args.iter().map(OsString::from), environment)? {
        Invocation::Start(config, notices) => Ok((*config, notices)),
        Invocation::Print(page) => panic!("printed {page}"),
    }
}

fn config(args: &[&str]) -> Config {
    start(args).unwrap_or_else(|error| panic!("{args:?}: {error}")).0
}

fn has(notices: &[Notice], level: LogLevel, message: &str, fields: &[(&str, &str)]) -> bool {
    notices.iter().any(|notice| {
        let pairs = notice.fields.iter().map(|(name, value)| (*name, value.as_str()));
        notice.level == level && notice.message == message && pairs.eq(fields.iter().copied())
    })
}

#[test]
fn defaults_are_those_of_etcd() {
    let (config, notices) = start(&[]).unwrap();
    let urls = |text| MemberUrl::parse_list(text).unwrap();
    let expected = Config {
        name: "default".into(),
        data_dir: "default.etcd".into(),
        wal_dir: None,
        engine: if cfg!(feature = "rocksdb") { Engine::Rocksdb } else { Engine::Memory },
        listen_client_urls: urls("http://localhost:2379"),
        listen_client_http_urls: vec![],
        listen_metrics_urls: vec![],
        listen_peer_urls: urls("http://localhost:2380"),
        advertise_client_urls: urls("http://localhost:2379"),
        advertise_peer_urls: urls("http://localhost:2380"),
        socket_reuse_port: false,
        initial_cluster: "default=http://localhost:2380".into(),
        initial_cluster_token: "etcd-cluster".into(),
        initial_cluster_state: ClusterState::New,
        discovery: None,
        discovery_srv: None,
        force_new_cluster: false,
        heartbeat_interval_ms: 100,
        election_timeout_ms: 1000,
        initial_election_tick_advance: true,
        pre_vote: true,
        snapshot_count: 10_000,
        snapshot_catchup_entries: 5_000,
        strict_reconfig_check: true,
        max_learners: 1,
        enable_grpc_gateway: true,
        enable_pprof: false,
        cors: None,
        host_whitelist: None,
        max_txn_ops: 128,
        max_request_bytes: 1_572_864,
        max_concurrent_streams: u32::MAX,
        range_memory_bytes: 536_870_912,
        quota_backend_bytes: 2_147_483_648,
        grpc_keepalive_min_time: Duration::from_secs(5),
        grpc_keepalive_interval: Some(Duration::from_secs(7200)),
        grpc_keepalive_timeout: Duration::from_secs(20),
        watch_progress_notify_interval: Duration::from_secs(600),
        warning_unary_request_duration: Duration::from_millis(300),
        auto_compaction: None,
        auth_token: "simple".to_owned(),
        auth_token_ttl: Duration::from_secs(300),
        bcrypt_cost: 10,
        data_checks: DataChecks::default(),
        tls: TlsConfig {
            client: TlsSide::default(),
            peer: TlsSide::default(),
            cipher_suites: vec![],
            min_version: TlsVersion::Tls12,
            max_version: None,
            self_signed_years: 1,
        },
        log_level: LogLevel::Info,
        log_format: LogFormat::Json,
        log_outputs: vec![LogOutput::Stderr],
        log_rotation: None,
        memory_mlock: false,
        insight: Insight {
            extensive_metrics: false,
            warning_apply: Duration::from_millis(100),
            gates: [
                ("AllAlpha", "ALPHA", false),
                ("AllBeta", "BETA", false),
                ("CompactHashCheck", "ALPHA", false),
                ("FastLeaseKeepAlive", "BETA", true),
                ("InitialCorruptCheck", "ALPHA", false),
                ("LeaseCheckpoint", "ALPHA", false),
                ("LeaseCheckpointPersist", "ALPHA", false),
                ("PriorityRequest", "ALPHA", false),
                ("SetMemberLocalAddr", "ALPHA", false),
                ("StopGRPCServiceOnDefrag", "ALPHA", false),
                ("TxnModeWriteWithSharedBuffer", "BETA", true),
            ]
            .into(),
        },
        unsafe_no_fsync: false,
    };
    assert_eq!(config, expected);
    let path = &[("data-dir", "default.etcd")];
    assert!(has(&notices, LogLevel::Warn, "'data-dir' was empty; using default", path));
    assert_eq!(notices.len(), 2, "{notices:?}");
}

#[test]
fn flags_are_written_with_one_dash_or_two_and_the_last_one_holds() {
    let table: [(&[&str], &str); 6] = [
        (&["--name=a"], "a"),
        (&["-name=a"], "a"),
        (&["--name", "a"], "a"),
        (&["-name", "--name"], "--name"),
        (&["--name=a=b", "--pre-vote"], "a=b"),
        (&["--name=a", "--pre-vote", "--name", "b"], "b"),
    ];
    for (args, name) in table {
        assert_eq!(config(args).name, name, "{args:?}");
    }
    assert_eq!(config(&["--name="]).name, "");
    assert!(!config(&["--pre-vote=f"]).pre_vote);
    assert!(config(&["--pre-vote=0", "--pre-vote"]).pre_vote);
    assert!(config(&["--unsafe-no-fsync"]).unsafe_no_fsync);
    assert_eq!(config(&["--max-txn-ops", "0x10", "--"]).max_txn_ops, 16);
}

#[test]
fn values_reach_their_fields() {
    let config = config(&[
        "--name=n1",
        "--data-dir=/d",
        "--wal-dir=/w",
        "--engine=memory",
        "--listen-client-urls=http://0.0.0.0:2379,http://[::1]:2379",
        "--advertise-client-urls=http://n1.example:2379",
        "--listen-peer-urls=http://10.0.0.1:2380",
        "--initial-advertise-peer-urls=http://n1.example:2380",
        "--initial-cluster=n1=http://n1.example:2380,n2=http://n2.example:2380",
        "--initial-cluster-token=t",
        "--initial-cluster-state=existing",
        "--heartbeat-interval=10",
        "--election-timeout=55",
        "--snapshot-count=0",
        "--snapshot-catchup-entries=7",
        "--max-request-bytes=1000",
        "--max-concurrent-streams=4",
        "--quota-backend-bytes=-1",
        "--grpc-keepalive-timeout=1m",
        "--grpc-keepalive-interval=0",
        "--grpc-keepalive-min-time=0",
        "--initial-election-tick-advance=false",
        "--watch-progress-notify-interval=1.5s",
        "--listen-client-http-urls=http://127.0.0.1:1,http://127.0.0.1:2",
        "--listen-metrics-urls=http://127.0.0.1:3",
        "--enable-grpc-gateway=false",
        "--enable-pprof",
        "--cors=http://a:1,https://b:2",
        "--host-whitelist=a,b.example",
        "--log-level=WARN",
        "--log-format=console",
        "--log-outputs=stdout,/var/log/q",
    ]);
    assert_eq!(config.wal_dir, Some("/w".into()));
    assert_eq!(config.engine, Engine::Memory);
    let urls = joined(&config.listen_client_urls);
    assert_eq!(urls, "http://0.0.0.0:2379,http://[::1]:2379");
    assert_eq!(joined(&config.advertise_client_urls), "http://n1.example:2379");
    assert_eq!(joined(&config.listen_peer_urls), "http://10.0.0.1:2380");
    assert_eq!(joined(&config.advertise_peer_urls), "http://n1.example:2380");
    assert_eq!(config.initial_cluster_state, ClusterState::Existing);
    assert_eq!(config.initial_cluster_token, "t");
    assert_eq!((config.heartbeat_interval_ms, config.election_timeout_ms), (10, 55));
    assert!(!config.initial_election_tick_advance);
    assert_eq!((config.snapshot_count, config.snapshot_catchup_entries), (10_000, 7));
    assert_eq!((config.max_request_bytes, config.max_concurrent_streams), (1000, 4));
    assert_eq!((config.quota_backend_bytes, config.grpc_keepalive_interval), (-1, None));
    assert_eq!(config.grpc_keepalive_timeout, Duration::from_secs(60));
    assert_eq!(config.grpc_keepalive_min_time, Duration::from_secs(300));
    assert!(config.enable_pprof);
    let urls = joined(&config.listen_client_http_urls);
    assert_eq!(urls, "http://127.0.0.1:1,http://127.0.0.1:2");
    assert_eq!(joined(&config.listen_metrics_urls), "http://127.0.0.1:3");
    let set = |names: [&str; 2]| Some(names.map(String::from).into_iter().collect());
    assert!(!config.enable_grpc_gateway);
    assert_eq!(config.cors, set(["http://a:1", "https://b:2"]));
    assert_eq!(config.host_whitelist, set(["a", "b.example"]));
    assert_eq!(config.watch_progress_notify_interval, Duration::from_millis(1500));
    assert_eq!((config.log_level, config.log_format), (LogLevel::Warn, LogFormat::Console));
    let outputs = [LogOutput::File("/var/log/q".into()), LogOutput::Stdout];
    assert_eq!(config.log_outputs, outputs);
}

#[test]
fn name_alone_is_enough_to_start_a_member() {
    let named = config(&["--name=a", "--initial-advertise-peer-urls=http://h:1,http://h:2"]);
    assert_eq!(named.initial_cluster, "a=http://h:1,a=http://h:2");
    assert_eq!(named.data_dir, PathBuf::from("a.etcd"));
    let told = config(&["--name=a", "--initial-cluster=b=http://h:1"]);
    assert_eq!(told.initial_cluster, "b=http://h:1");
    // As in etcd, the default name follows nothing.
    let unnamed = config(&["--initial-advertise-peer-urls=http://h:1"]);
    assert_eq!(unnamed.initial_cluster, "default=http://localhost:2380");
}

#[test]
fn unreadable_flags_are_answered_with_usage_and_exit_code_2() {
    let table: [(&[&str], &str); 21] = [
        (&["--nope"], "flag provided but not defined: -nope"),
        (
            &["--experimental-max-learners=1"],
            "flag provided but not defined: -experimental-max-learners",
        ),
        (&["---name=a"], "bad flag syntax: ---name=a"),
        (&["--=a"], "bad flag syntax: --=a"),
        (&["-=a"], "bad flag syntax: -=a"),
        (&["--max-wals"], "flag needs an argument: -max-wals"),
        (&["--max-wals", "x"], r#"invalid value "x" for flag -max-wals: parse error"#),
        (&["--max-wals=08"], r#"invalid value "08" for flag -max-wals: parse error"#),
        (&["--max-txn-ops=-1"], r#"invalid value "-1" for flag -max-txn-ops: parse error"#),
        (
            &["--heartbeat-interval=18446744073709551616"],
            r#"invalid value "18446744073709551616" for flag -heartbeat-interval: value out of range"#,
        ),
        (
            &["--max-concurrent-streams=x"],
            r#"invalid value "x" for flag -max-concurrent-streams: strconv.ParseUint: parsing "x": invalid syntax"#,
        ),
        (
            &["--max-concurrent-streams=4294967296"],
            r#"invalid value "4294967296" for flag -max-concurrent-streams: strconv.ParseUint: parsing "4294967296": value out of range"#,
        ),
        (&["--pre-vote=x"], r#"invalid boolean value "x" for -pre-vote: parse error"#),
        (
            &["--grpc-keepalive-timeout=5"],
            r#"invalid value "5" for flag -grpc-keepalive-timeout: parse error"#,
        ),
        (
            &["--initial-cluster-state=x"],
            r#"invalid value "x" for flag -initial-cluster-state: invalid value"#,
        ),
        (
            &["--v2-deprecation=not-yet"],
            r#"invalid value "not-yet" for flag -v2-deprecation: invalid value "not-yet""#,
        ),
        (&["--engine=x"], r#"invalid value "x" for flag -engine: invalid value"#),
        (
            &["--listen-client-urls=http://x"],
            r#"invalid value "http://x" for flag -listen-client-urls: URL address does not have the form "host:port": http://x"#,
        ),
        (
            &["--cors="],
            r#"invalid value "" for flag -cors: URL scheme must be http, https, unix, or unixs: "#,
        ),
        (
            &["--feature-gates=Nope=true"],
            r#"invalid value "Nope=true" for flag -feature-gates: unrecognized feature gate: Nope"#,
        ),
        (&["--log-level=x"], r#"unrecognized level: "x""#),
    ];
    for (args, message) in table {
        let error = start(args).unwrap_err();
        assert_eq!(error.message, message, "{args:?}");
        assert_eq!((error.exit_code, &error.kind), (2, &ErrorKind::Usage), "{args:?}");
        assert_eq!(error.notice(), None);
    }
}

const IMPOSSIBLE: [(&[&str], &str); 42] = [
    (&["foo"], r#""foo" is not a valid flag"#),
    (&["-"], r#""-" is not a valid flag"#),
    (&["--pre-vote", "false"], r#""false" is not a valid flag"#),
    (&["--name=a", "--", "b"], r#""b" is not a valid flag"#),
    (&["--version", "b"], r#""b" is not a valid flag"#),
    (&["--snapshot", "x"], r#""x" is not a valid flag"#),
    (&["--logger=x"], r#"unknown logger option "x""#),
    (&["--logger=capnslog"], "--logger=capnslog is removed in v3.5"),
    (
        &["--config-file=/no/file", "--heartbeat-interval=0"],
        "open /no/file: no such file or directory",
    ),
    (
        &["--tls-min-version=TLS1.1"],
        r#"unexpected TLS version "TLS1.1" (must be one of: TLS1.2, TLS1.3)"#,
    ),
    (&["--tls-max-version=x"], r#"unexpected TLS version "x" (must be one of: TLS1.2, TLS1.3)"#),
    (
        &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
        "min version (TLS1.3) is greater than max version (TLS1.2)",
    ),
    (
        &["--tls-min-version=TLS1.3", "--cipher-suites=TLS_AES_128_GCM_SHA256"],
        "cipher suites cannot be configured when only TLS1.3 is enabled",
    ),
    (
        &["--enable-distributed-tracing", "--distributed-tracing-sampling-rate=-1"],
        "distributed tracing configurition is not valid: (tracing sampling rate must be positive)",
    ),
    (
        &["--enable-distributed-tracing", "--distributed-tracing-sampling-rate=1000001"],
        "distributed tracing configurition is not valid: (tracing sampling rate must be less than \
         1000000)",
    ),
    (
        &["--enable-log-rotation"],
        "--log-outputs requires a single file path when --log-rotate-config-json is defined",
    ),
    (
        &["--enable-log-rotation", "--log-outputs=/a,/b"],
        "--log-outputs requires a single file path when --log-rotate-config-json is defined",
    ),
    (
        &["--enable-log-rotation", "--log-outputs=/a", "--log-rotation-config-json={"],
        "improperly formatted log rotation config: unexpected end of JSON input",
    ),
    (
        &["--log-outputs=systemd/journal,stderr"],
        r#"running with systemd/journal but other '--log-outputs' values (["stderr" "systemd/journal"]) are configured with 'default'; override 'default' value with something else"#,
    ),
    (&["--log-format=x"], "unknown log format: x, supported values json, console"),
    (&["--log-outputs=default,stderr"], r#"multi logoutput for "default" is not supported yet"#),
    (&["--log-outputs="], r#"open sink "": open : no such file or directory"#),
    (&["--listen-client-urls=http://x:1"], "expected IP in URL for binding (http://x:1)"),
    (&["--listen-peer-urls=http://:1"], "expected IP in URL for binding (http://:1)"),
    (&["--listen-metrics-urls=http://x:1"], "expected IP in URL for binding (http://x:1)"),
    (
        &["--listen-client-urls=http://127.0.0.1:1"],
        "--advertise-client-urls is required when --listen-client-urls is set explicitly",
    ),
    (
        &["--listen-client-urls="],
        "--advertise-client-urls is required when --listen-client-urls is set explicitly",
    ),
    (
        &["--advertise-client-urls=http://:1"],
        r#"--advertise-client-urls "http://:1" must be in the format "host:port", "unix:/path/to/socket" or "unixs:/path/to/socket" (unexpected empty host (http://:1))"#,
    ),
    (
        &["--initial-advertise-peer-urls=http://:1"],
        r#"--initial-advertise-peer-urls "http://:1" must be "host:port" (unexpected empty host (http://:1))"#,
    ),
    (
        &["--election-timeout=10"],
        "--election-timeout[10ms] should be at least as 5 times as --heartbeat-interval[100ms]",
    ),
    (&["--election-timeout=0"], "--election-timeout must be >0 (set to 0ms)"),
    (&["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
    (
        &["--heartbeat-interval=18446744073709551615"],
        "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[18446744073709551615ms]",
    ),
    (
        &["--election-timeout=60000"],
        "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
    ),
    (&["--auto-compaction-mode="], "undefined auto-compaction-mode"),
    (&["--auto-compaction-mode=x"], r#"unknown auto-compaction-mode "x""#),
    (&["--compact-hash-check-time=0"], "--compact-hash-check-time must be >0 (set to 0s)"),
    (
        &["--feature-gates=LeaseCheckpointPersist=true"],
        "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
    ),
    (&["--discovery-token=x"], "both --discovery-token and --discovery-endpoints must be set"),
    (
        &["--discovery-token=t", "--discovery-endpoints=http://a:1,"],
        "--discovery-endpoints must not contain empty endpoints",
    ),
    (
        &["--discovery-srv=x", "--initial-cluster=default=http://localhost:2380"],
        r#"multiple discovery or bootstrap flags are set. Choose one of "initial-cluster", "discovery-endpoints" or "discovery-srv""#,
    ),
    (
        &["--discovery-fallback=proxy"],
        r#"v2 proxy is deprecated, and --discovery-fallback can't be configured as "proxy""#,
    ),
];

#[test]
fn impossible_values_are_logged_and_answered_with_exit_code_1() {
    for (args, message) in IMPOSSIBLE {
        let error = start(args).unwrap_err();
        assert_eq!(error.message, message, "{args:?}");
        assert_eq!((error.exit_code, &error.kind), (1, &ErrorKind::Flags), "{args:?}");
        let notice = error.notice().unwrap();
        let fields = &[("error", message)];
        assert!(has(&[notice], LogLevel::Warn, "failed to verify flags", fields));
    }
}

#[test]
fn an_engine_that_is_not_in_this_build_is_refused() {
    assert!(start(&["--force-new-cluster=false", "--config-file="]).is_ok());
    if !cfg!(feature = "rocksdb") {
        let error = start(&["--engine=rocksdb"]).unwrap_err();
        assert!(error.message.starts_with("--engine=rocksdb is not in this build"));
    }
}

#[test]
fn flags_without_effect_are_named_once_if_they_ask_for_something() {
    let (_, notices) = start(&[
        "--max-wals=7",
        "--feature-gates=InitialCorruptCheck=true,PriorityRequest=true",
        "--strict-reconfig-check=t",
        "--corrupt-check-time=0",
        "--backend-batch-limit=0x0",
        "--metrics=basic",
    ])
    .unwrap();
    let flags = "--max-wals --feature-gates";
    assert!(has(&notices, LogLevel::Warn, "ignored flags", &[("flags", flags)]), "{notices:?}");
    let (_, notices) = start(&["--strict-reconfig-check", "--max-wals=5"]).unwrap();
    assert!(notices.iter().all(|notice| notice.message != "ignored flags"));
}

#[test]
fn outdated_flags_are_taken_with_the_warning_of_etcd() {
    let (_, notices) =
        start(&["--max-snapshots=3", "--v2-deprecation=gone", "--v", "--force=x"]).unwrap();
    let dropped = "flag is no longer supported - ignoring";
    let expected: [(&str, &[(&str, &str)]); 4] = [
        ("--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.", &[]),
        (
            "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value \
          is enforced, ignoring user input.",
            &[],
        ),
        (dropped, &[("flag-name", "v")]),
        (dropped, &[("flag-name", "force")]),
    ];
    for (message, fields) in expected {
        assert!(has(&notices, LogLevel::Warn, message, fields), "{message}: {notices:?}");
    }
}

#[test]
fn variables_stand_for_flags() {
    let (config, notices) = start_in(
        &["--data-dir=/d"],
        &[
            ("ETCD_NAME", "a"),
            ("ETCD_ELECTION_TIMEOUT", "2000"),
            ("ETCD_MAX_TXN_OPS", ""),
            ("ETCD_DISCOVERY_PASSWORD", "hunter2"),
            ("ETCD_UNSUPPORTED_ARCH", "arm64"),
            ("ETCD_VERSION", "v3"),
            ("QUOIN_ENGINE", "memory"),
            ("QUOIN_NAME", "other"),
            ("HOME", "/root"),
        ],
    )
    .unwrap();
    assert_eq!((config.name.as_str(), config.max_txn_ops), ("a", 128));
    assert_eq!((config.election_timeout_ms, config.engine), (2000, Engine::Memory));
    let used = "recognized and used environment variable";
    let name = &[("variable-name", "ETCD_NAME"), ("variable-value", "a")];
    assert!(has(&notices, LogLevel::Info, used, name), "{notices:?}");
    let secret = &[("variable-name", "ETCD_DISCOVERY_PASSWORD"), ("variable-value", "***")];
    assert!(has(&notices, LogLevel::Info, used, secret), "{notices:?}");
    let unknown = &[("environment-variable", "ETCD_UNSUPPORTED_ARCH")];
    let message = "unrecognized environment variable";
    assert!(has(&notices, LogLevel::Warn, message, unknown), "{notices:?}");
    let version = &[("key", "ETCD_VERSION"), ("value", "v3")];
    let message = "cannot set special environment variable";
    assert!(has(&notices, LogLevel::Warn, message, version), "{notices:?}");
    // Four were used, one is unknown, one special.
    assert_eq!(notices.len(), 6, "{notices:?}");
}

#[test]
fn variable_beside_its_flag_stops_the_start() {
    // Also an empty one, one of equal value, and before any value is looked at.
    for value in ["a", "", "b"] {
        let environment = [("ETCD_NAME", value), ("ETCD_MAX_WALS", "x")];
        let error = start_in(&["--name=a"], &environment).unwrap_err();
        assert_eq!(error.kind, ErrorKind::ShadowedVariable("ETCD_NAME".into()));
        assert_eq!(error.exit_code, 1);
        let message = "conflicting environment variable is shadowed by corresponding \
                       command-line flag (either unset environment variable or disable flag))";
        let fields = &[("environment-variable", "ETCD_NAME")];
        assert!(has(&[error.notice().unwrap()], LogLevel::Fatal, message, fields));
    }
    let error = start_in(&["--engine=memory"], &[("QUOIN_ENGINE", "memory")]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::ShadowedVariable("QUOIN_ENGINE".into()));
}

#[test]
fn bad_variables_are_reported_like_impossible_values() {
    let table = [
        ("ETCD_MAX_WALS", "x", r#"invalid value "x" for ETCD_MAX_WALS: parse error"#),
        ("ETCD_PRE_VOTE", "x", r#"invalid value "x" for ETCD_PRE_VOTE: parse error"#),
        (
            "ETCD_LISTEN_CLIENT_URLS",
            "http://127.0.0.1:1",
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        ("ETCD_CONFIG_FILE", "/no/file", "open /no/file: no such file or directory"),
    ];
    for (name, value, message) in table {
        let error = start_in(&[], &[(name, value)]).unwrap_err();
        assert_eq!((error.message.as_str(), error.kind), (message, ErrorKind::Flags));
        assert_eq!(error.exit_code, 1);
    }
}

#[test]
fn arguments_that_are_not_text_are_refused() {
    use std::os::unix::ffi::OsStringExt;

    let error = read([OsString::from_vec(vec![b'-', b'x', 0xff])], []).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Usage);
    let value = OsString::from_vec(vec![0xff]);
    assert!(read(strings(["--name"]).chain([value]), []).is_err());
}

#[test]
fn help_and_version_come_before_every_check_but_the_flags_in_front_of_them() {
    let page = |args: &[&str]| match read(args.iter().map(OsString::from), []) {
        Ok(Invocation::Print(page)) => page,
        other => panic!("{args:?}: {other:?}"),
    };
    for args in
        [&["--help"][..], &["-h"], &["-help"], &["--heartbeat-interval=0", "--help", "--nope"]]
    {
        assert!(page(args).contains("--heartbeat-interval <ms> [default: 100]"), "{args:?}");
    }
    assert!(start(&["--nope", "--help"]).is_err());
    let version = page(&["--version", "--heartbeat-interval=0"]);
    let lines: Vec<&str> = version.lines().filter_map(|line| line.split(": ").next()).collect();
    assert_eq!(lines, ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch", "Quoin Version"]);
    assert!(version.starts_with("etcd Version: 3.7.1\n"), "{version}");
    assert!(start(&["--version=false"]).is_ok());
}

#[test]
fn discovery_takes_the_place_of_the_first_members() {
    assert_eq!(config(&[]).discovery, None);
    let flags = ["--discovery-token=t", "--discovery-endpoints=http://a:1, b:2"];
    let second = Duration::from_secs(1);
    let expected = Discovery {
        token: "t".into(),
        endpoints: vec!["http://a:1".into(), "b:2".into()],
        dial_timeout: 2 * second,
        request_timeout: 5 * second,
        keepalive_time: 2 * second,
        keepalive_timeout: 6 * second,
        user: None,
        tls: DiscoveryTls::default(),
    };
    assert_eq!(config(&flags).discovery, Some(expected.clone()));
    let user = |more: &[&str]| config(&[&flags, more].concat()).discovery.unwrap().user;
    let both = Some(("u".to_owned(), "p:q".to_owned()));
    assert_eq!(user(&["--discovery-user=u:p:q"]), both);
    assert_eq!(user(&["--discovery-user=u", "--discovery-password=p:q"]), both);
    let shown = format!("{:?}", Discovery { user: both, ..expected });
    assert!(!shown.contains("p:q"), "{shown}");
}

#[test]
fn a_registry_may_be_behind_tls() {
    let tls = |more: &[&str]| {
        let flags = ["--discovery-token=t", "--discovery-endpoints=https://a:1"];
        config(&[&flags, more].concat()).discovery.unwrap().tls
    };
    let plain = DiscoveryTls::default();
    assert_eq!(tls(&[]), plain);
    let secure = DiscoveryTls { is_secure_by_default: true, ..plain.clone() };
    assert_eq!(tls(&["--discovery-insecure-transport=false"]), secure);
    // Where TLS is not asked for, etcd's client demands a certificate all the same.
    assert_eq!(tls(&["--discovery-insecure-skip-tls-verify"]), plain);
    let unseen = ["--discovery-insecure-skip-tls-verify", "--discovery-insecure-transport=false"];
    assert_eq!(tls(&unseen), DiscoveryTls { skips_verification: true, ..secure.clone() });
    let files = ["--discovery-cert=c", "--discovery-key=k", "--discovery-cacert=a"];
    let [cert_file, key_file, ca_file] = ["c", "k", "a"].map(|file| Some(file.into()));
    assert_eq!(tls(&files), DiscoveryTls { cert_file, key_file, ca_file, ..secure });
}

#[test]
fn a_domain_takes_the_place_of_the_first_members() {
    assert_eq!(config(&[]).discovery_srv, None);
    let (domain, service_name) = ("example.org".to_owned(), "x".to_owned());
    assert_eq!(
        config(&["--discovery-srv=example.org", "--discovery-srv-name=x"]).discovery_srv,
        Some(SrvDomain { domain, service_name })
    );
    let suffix_alone = config(&["--discovery-srv-name=x"]);
    assert_eq!((suffix_alone.discovery_srv, &suffix_alone.initial_cluster[..]), (None, ""));
}

#[test]
fn gates_open_the_checks_of_data_by_name_and_by_group() {
    let checks = |args: &[&str]| config(args).data_checks;
    let minute = Some(Duration::from_secs(60));
    let all = DataChecks { at_start: true, pause: None, compaction_pause: minute };
    assert_eq!(checks(&["--feature-gates=AllAlpha=true"]), all);
    assert_eq!(checks(&["--feature-gates=AllBeta=true"]), DataChecks::default());
    let but_one = "--feature-gates=CompactHashCheck=false,AllAlpha=true";
    assert_eq!(checks(&[but_one]), DataChecks { at_start: true, ..DataChecks::default() });
    let times = ["--corrupt-check-time=1h", "--compact-hash-check-time=2s"];
    let hour = Some(Duration::from_secs(3600));
    assert_eq!(checks(&times), DataChecks { pause: hour, ..DataChecks::default() });
    let gate = "--feature-gates=CompactHashCheck=true";
    assert_eq!(checks(&[gate, times[1]]).compaction_pause, Some(Duration::from_secs(2)));
}

#[test]
fn flags_about_tls_reach_their_side() {
    let tls = config(&[
        "--cert-file=c",
        "--key-file=k",
        "--client-cert-auth",
        "--client-crl-file=r",
        "--client-cert-allowed-hostname=a,b",
        "--peer-cert-file=pc",
        "--peer-key-file=pk",
        "--peer-trusted-ca-file=pca",
        "--peer-client-cert-file=pcc",
        "--peer-cert-allowed-cn=x,y",
        "--peer-skip-client-san-verification",
        "--cipher-suites=TLS_AES_128_GCM_SHA256,TLS_RSA_WITH_RC4_128_SHA",
        "--tls-max-version=TLS1.3",
        "--self-signed-cert-validity=3",
    ])
    .tls;
    let names = |names: [&str; 2]| names.map(String::from).to_vec();
    let client = TlsSide {
        cert_file: Some("c".into()),
        key_file: Some("k".into()),
        client_cert_auth: true,
        crl_file: Some("r".into()),
        allowed_hostnames: names(["a", "b"]),
        ..TlsSide::default()
    };
    let peer = TlsSide {
        cert_file: Some("pc".into()),
        key_file: Some("pk".into()),
        trusted_ca_file: Some("pca".into()),
        client_cert_file: Some("pcc".into()),
        allowed_cns: names(["x", "y"]),
        skips_origin: true,
        ..TlsSide::default()
    };
    assert_eq!((tls.client, tls.peer), (client, peer));
    let suites = names(["TLS_AES_128_GCM_SHA256", "TLS_RSA_WITH_RC4_128_SHA"]);
    assert_eq!((tls.cipher_suites, tls.self_signed_years), (suites, 3));
    assert_eq!((tls.min_version, tls.max_version), (TlsVersion::Tls12, Some(TlsVersion::Tls13)));
}

#[test]
fn what_no_listener_can_have_is_refused_as_it_is_by_one() {
    let table: [(&[&str], &str); 6] = [
        (
            &[
                "--listen-client-urls=http://127.0.0.1:1,http://127.0.0.1:2",
                "--advertise-client-urls=http://127.0.0.1:1",
                "--listen-client-http-urls=http://127.0.0.1:2",
            ],
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url \
             http://127.0.0.1:2",
        ),
        (&["--cipher-suites=x"], r#"unexpected TLS cipher suite "x""#),
        (
            &["--cipher-suites=TLS_AES_128_GCM_SHA256,TLS_NULL"],
            r#"unexpected TLS cipher suite "TLS_NULL""#,
        ),
        (&["--listen-peer-urls=http://127.0.0.1:99999"], "listen tcp: address 99999: invalid port"),
        (&["--max-learners=-1"], "membership: too many learner members in cluster"),
        (
            &["--listen-metrics-urls=https://127.0.0.1:1"],
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url \
             https://127.0.0.1:1",
        ),
    ];
    for (args, message) in table {
        let error = start(args).unwrap_err();
        assert_eq!((error.message.as_str(), error.exit_code), (message, 1), "{args:?}");
        assert_eq!(error.notice().unwrap().level, LogLevel::Fatal);
    }
}

#[test]
fn a_file_says_more_of_clients_than_flags_can() {
    let text =
        "client-transport-security: {allowed-cn: [a, b], skip-client-san-verification: true}";
    let tls = of_file(text).unwrap().0.tls;
    let names = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!((tls.client.allowed_cns, tls.client.skips_origin), (names, true));
    assert_eq!(tls.peer, TlsSide::default());
}

#[test]
fn what_etcd_has_no_word_for_counts_beside_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("etcd.conf");
    let path = path.to_str().unwrap();
    let flag = format!("--config-file={path}");
    let memory = ("QUOIN_ENGINE", "memory");
    std::fs::write(path, "name: a").unwrap();
    let (config, notices) = start_in(&[&flag], &[memory, ("ETCD_NAME", "b")]).unwrap();
    assert_eq!((config.name.as_str(), config.engine), ("a", Engine::Memory));
    let used = "recognized and used environment variable";
    let fields = &[("variable-name", "QUOIN_ENGINE"), ("variable-value", "memory")];
    assert!(has(&notices, LogLevel::Info, used, fields), "{notices:?}");
    let (config, _) = start_in(&[&flag, "--engine=memory", "--name=b"], &[]).unwrap();
    assert_eq!((config.name.as_str(), config.engine), ("a", Engine::Memory));
    let error = start_in(&[&flag, "--engine=memory"], &[memory]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::ShadowedVariable("QUOIN_ENGINE".into()));
    // The file goes before.
    std::fs::write(path, "range-memory-bytes: 1000000").unwrap();
    let (config, _) = start_in(&[&flag, "--range-memory-bytes=2000000"], &[]).unwrap();
    assert_eq!(config.range_memory_bytes, 1_000_000);
}

/// What a file with this text comes to.
fn of_file(text: &str) -> Result<(Config, Vec<Notice>), ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("etcd.conf");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    // Of two ways to name a file, and of other flags, the file alone counts.
    let of_flag = start_in(
        &["--name=other", "--config-file", path],
        &[("ETCD_CONFIG_FILE", "/no/file"), ("ETCD_NAME", "another")],
    );
    let of_variable = start_in(&["--name=other"], &[("ETCD_CONFIG_FILE", path)]);
    assert_eq!(of_flag, of_variable);
    of_flag.map_err(|error| {
        let message = error.message.replace(path, "FILE");
        ConfigError { message, ..error }
    })
}

#[test]
fn a_file_says_what_flags_say() {
    let text = r#"
        name: n1
        data-dir: '/d'
        wal-dir:
        engine: memory
        listen-client-urls: http://0.0.0.0:2379,http://[::1]:2379
        initial-cluster-state: "existing"
        snapshot-count: 0x10
        heartbeat-interval: 10
        election-timeout: 1e3
        quota-backend-bytes: -1
        pre-vote: off
        grpc-keepalive-timeout: 60000000000
        watch-progress-notify-interval: 1500000000
        log-outputs: [stdout, /var/log/q]
        cipher-suites: [TLS_AES_128_GCM_SHA256]
        auto-compaction-retention: "1"
        feature-gates: CompactHashCheck=true
        socket-options: {reuse-port: true}
        max-snapshots: 7
        proxy: 'off'
        discovery-fallback: proxy
        client-transport-security:
          auto-tls: false
          odd: 1
    "#;
    let (config, notices) = of_file(text).unwrap();
    assert_eq!((config.name.as_str(), config.data_dir), ("n1", "/d".into()));
    assert_eq!((config.wal_dir, config.engine), (None, Engine::Memory));
    assert_eq!(joined(&config.listen_client_urls), "http://0.0.0.0:2379,http://[::1]:2379");
    assert_eq!(config.initial_cluster_state, ClusterState::Existing);
    assert_eq!((config.snapshot_count, config.quota_backend_bytes), (16, -1));
    assert_eq!((config.heartbeat_interval_ms, config.election_timeout_ms), (10, 1000));
    assert!(!config.pre_vote && config.socket_reuse_port);
    assert_eq!(config.grpc_keepalive_timeout, Duration::from_secs(60));
    assert_eq!(config.watch_progress_notify_interval, Duration::from_millis(1500));
    assert_eq!(config.log_outputs, [LogOutput::File("/var/log/q".into()), LogOutput::Stdout]);
    assert_eq!(config.auto_compaction, Some(AutoCompaction::Periodic(Duration::from_secs(3600))));
    // Not "other", and not in need of --advertise-client-urls.
    assert_eq!(config.initial_cluster, "n1=http://localhost:2380");
    let unknown = &[("keys", "proxy discovery-fallback client-transport-security.odd")];
    let message = "ignored unknown keys of the configuration file";
    assert!(has(&notices, LogLevel::Warn, message, unknown), "{notices:?}");
    let loaded = notices.iter().find(|notice| notice.message.starts_with("loaded server"));
    assert!(loaded.is_some_and(|notice| notice.level == LogLevel::Info));
    assert!(notices.iter().any(|notice| notice.message.starts_with("--max-snapshots is")));
}

#[test]
fn an_empty_file_gives_the_defaults_and_json_is_as_good() {
    assert_eq!(of_file("").unwrap().0, start(&[]).unwrap().0);
    assert_eq!(of_file("cors: ''\nname:\n---\nname: x").unwrap().0, start(&[]).unwrap().0);
    let (config, _) = of_file(r#"{"name": "j", "pre-vote": false, "max-txn-ops": 9}"#).unwrap();
    assert_eq!((config.name.as_str(), config.pre_vote, config.max_txn_ops), ("j", false, 9));
}

#[test]
fn a_fault_in_a_file_is_named_with_file_line_and_key() {
    let table = [
        ("\nsnapshot-count: abc", "line 2: snapshot-count must be a whole number, not abc"),
        ("snapshot-count: '5'", "line 1: snapshot-count must be a whole number, not \"5\""),
        ("snapshot-count: -5", "line 1: snapshot-count must be a whole number from 0 on, not -5"),
        ("snapshot-count: 1.5", "line 1: snapshot-count must be a whole number, not 1.5"),
        ("pre-vote: 'true'", "line 1: pre-vote must be true or false, not \"true\""),
        ("pre-vote: 1", "line 1: pre-vote must be true or false, not 1"),
        (
            "corrupt-check-time: 10s",
            "line 1: corrupt-check-time must be a number of nanoseconds, not 10s",
        ),
        ("log-outputs: stderr", "line 1: log-outputs must be a list, not stderr"),
        ("cipher-suites: [1]", "line 1: cipher-suites must be a list of texts, not a list"),
        (
            "auto-compaction-retention: 1",
            "line 1: auto-compaction-retention must be a text, in quotes if it looks like a number \
             or a switch, not 1",
        ),
        ("feature-gates: X=true", "line 1: feature-gates: unrecognized feature gate: X"),
        (
            "listen-metrics-urls: bad",
            "line 1: listen-metrics-urls: URL scheme must be http, https, unix, or unixs: bad",
        ),
        (
            "listen-client-urls: [http://127.0.0.1:1]",
            "line 1: listen-client-urls must be a text, in quotes if it looks like a number or a \
             switch, not a list",
        ),
        ("peer-transport-security: x", "line 1: peer-transport-security must have keys of its own"),
        ("[1]", "line 1: it must have keys and values"),
        (
            "discovery-config: {client: {auth: {password: 5}}}",
            "line 1: discovery-config.client.auth.password must be a text, in quotes if it looks \
             like a number or a switch, not what it is",
        ),
    ];
    for (text, fault) in table {
        let error = of_file(text).unwrap_err();
        assert_eq!(error.message, format!("configuration file FILE: {fault}"), "{text}");
        assert_eq!((error.exit_code, error.kind), (1, ErrorKind::Flags));
    }
    let error = of_file("a: 1\nb: [\n").unwrap_err();
    assert!(error.message.starts_with("configuration file FILE: line 3: "), "{error}");
    // Values are checked like those of flags.
    let error = of_file("heartbeat-interval: 0").unwrap_err();
    assert_eq!(error.message, "--heartbeat-interval must be >0 (set to 0ms)");
}

#[test]
fn every_key_of_a_file_is_a_flag() {
    for (key, name) in table::files::KEYS {
        assert!(table::files::named(name).is_some(), "{name}");
        assert_eq!(table::files::find(key).map(|flag| flag.name), Some(name));
        let (group, _) = key.rsplit_once('.').unwrap();
        assert!(table::files::GROUPS.contains(&group), "{group}");
        assert!(table::files::find(name).is_none(), "{name} has one place");
    }
    for name in table::files::NOT_IN_FILES.iter().chain(&table::files::LISTS) {
        assert!(table::files::named(name).is_some(), "{name}");
    }
    for flag in &table::files::ONLY_IN_FILES {
        let error = start(&[&format!("--{}=true", flag.name)]).unwrap_err();
        assert_eq!((error.exit_code, table::find(flag.name).is_none()), (2, true));
    }
}
