//! Command lines and files that are refused, and how; also those that etcd refuses, by the same
//! table.

use crate::cluster::{Cluster, Engine, Exit, Process, Setup, product};
use crate::on_each_engine;
use crate::startup::{end_of, flags_of};
use serde_json::Value;

on_each_engine![
    values_are_refused_as_by_etcd,
    a_log_that_cannot_be_opened_is_a_line_of_json,
    a_file_starts_a_member_and_its_faults_are_named,
    a_link_named_etcd_speaks_of_etcd,
    a_proxy_of_calls_is_not_offered,
];

/// What is given, the exit code, and what is said.
const REFUSED: [(&[&str], i32, &str); 30] = [
    (&["--listen-client-urls=http://127.0.0.1:99999"], 1, "address 99999: invalid port"),
    (&["--listen-peer-urls=http://127.0.0.1:99999"], 1, "address 99999: invalid port"),
    (
        &["--tls-min-version=TLS1.1"],
        1,
        r#"unexpected TLS version "TLS1.1" (must be one of: TLS1.2, TLS1.3)"#,
    ),
    (&["--tls-max-version=x"], 1, r#"unexpected TLS version "x" (must be one of: TLS1.2, TLS1.3)"#),
    (
        &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
        1,
        "min version (TLS1.3) is greater than max version (TLS1.2)",
    ),
    (
        &["--tls-min-version=TLS1.3", "--cipher-suites=x"],
        1,
        "cipher suites cannot be configured when only TLS1.3 is enabled",
    ),
    (&["--cipher-suites=x"], 1, r#"unexpected TLS cipher suite "x""#),
    (
        &["--listen-metrics-urls=https://127.0.0.1:1"],
        1,
        "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url",
    ),
    (&["--auto-compaction-mode=x"], 1, r#"unknown auto-compaction-mode "x""#),
    (&["--auto-compaction-mode="], 1, "undefined auto-compaction-mode"),
    (
        &["--auto-compaction-retention=x"],
        1,
        r#"error parsing CompactionRetention: time: invalid duration "x""#,
    ),
    (&["--bcrypt-cost=x"], 2, r#"invalid value "x" for flag -bcrypt-cost: parse error"#),
    (&["--max-wals=-1"], 2, r#"invalid value "-1" for flag -max-wals: parse error"#),
    (
        &["--feature-gates=X=true"],
        2,
        r#"invalid value "X=true" for flag -feature-gates: unrecognized feature gate: X"#,
    ),
    (
        &["--feature-gates=LeaseCheckpointPersist=true"],
        1,
        "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
    ),
    (&["--compact-hash-check-time=0"], 1, "--compact-hash-check-time must be >0 (set to 0s)"),
    (
        &["--enable-distributed-tracing", "--distributed-tracing-sampling-rate=-1"],
        1,
        "(tracing sampling rate must be positive)",
    ),
    (
        &["--enable-distributed-tracing", "--distributed-tracing-sampling-rate=1000001"],
        1,
        "(tracing sampling rate must be less than 1000000)",
    ),
    (&["--logger=capnslog"], 1, "--logger=capnslog is removed in v3.5"),
    (&["--logger=x"], 1, r#"unknown logger option "x""#),
    (&["--log-level=x"], 2, r#"unrecognized level: "x""#),
    (&["--log-format=x"], 1, "unknown log format: x, supported values json, console"),
    (&["--log-outputs=default,stderr"], 1, r#"multi logoutput for "default" is not supported yet"#),
    (
        &["--log-outputs=systemd/journal,stderr"],
        1,
        "running with systemd/journal but other '--log-outputs' values",
    ),
    (
        &["--enable-log-rotation"],
        1,
        "--log-outputs requires a single file path when --log-rotate-config-json is defined",
    ),
    (
        &["--enable-log-rotation", "--log-outputs=a,b"],
        1,
        "--log-outputs requires a single file path when --log-rotate-config-json is defined",
    ),
    (
        &["--enable-log-rotation", "--log-outputs=a", "--log-rotation-config-json={"],
        1,
        "improperly formatted log rotation config: unexpected end of JSON input",
    ),
    (&["--max-learners=-1"], 1, "membership: too many learner members in cluster"),
    (&["--discovery-fallback=x"], 2, r#"invalid value "x" for flag -discovery-fallback"#),
    (&["--config-file=/no/file"], 1, "open /no/file: no such file or directory"),
];

async fn values_are_refused_as_by_etcd(engine: Engine) {
    if !product().at_least(3, 7) {
        return;
    }
    let cluster = Cluster::prepare(&Setup::new(engine, 1)).await;
    for (flags, code, text) in REFUSED {
        let (exit, said) = end_of(&flags_of(&cluster, 0, flags), &[], cluster.folder()).await;
        assert_eq!(exit, Exit::Code(code), "{flags:?}: {said}");
        let is_said = match code {
            2 => said.contains(text),
            _ => said.lines().any(|line| error_of(line).is_some_and(|e| e.contains(text))),
        };
        assert!(is_said, "{flags:?} is answered with {said}");
        let has_begun = std::fs::read_dir(cluster.data_folder(0).join("member/wal"));
        assert!(!product().ours || has_begun.is_err(), "{flags:?} has begun a member");
    }
}

/// The error of a line of the log; none of other lines.
fn error_of(line: &str) -> Option<String> {
    let line: Value = match serde_json::from_str(line) {
        Ok(line) => line,
        Err(error) if product().ours => panic!("{error}: {line}"),
        Err(_) => return None,
    };
    line["error"].as_str().map(str::to_owned)
}

async fn a_log_that_cannot_be_opened_is_a_line_of_json(engine: Engine) {
    let cluster = Cluster::prepare(&Setup::new(engine, 1)).await;
    let missing = cluster.folder().join("missing/log");
    let output = format!("--log-outputs={}", missing.display());
    let (exit, said) = end_of(&flags_of(&cluster, 0, &[&output]), &[], cluster.folder()).await;
    assert_eq!(exit, Exit::Code(1), "{said}");
    let expected = format!(": open {}: no such file or directory", missing.display());
    let errors: Vec<String> = said.lines().filter_map(error_of).collect();
    assert!(errors.iter().any(|error| error.contains(&expected)), "{said}");
}

/// The member's flags as a file, with a line each; etcd's sample has keys that nobody knows.
fn file_of(cluster: &Cluster) -> String {
    let mut lines = vec![
        "# Written by a test.".to_owned(),
        "proxy: 'off'".to_owned(),
        "discovery-fallback: proxy".to_owned(),
        "log-outputs: [stderr]".to_owned(),
        "initial-cluster:".to_owned(),
        "client-transport-security:\n  cert-file:\n  auto-tls: false".to_owned(),
    ];
    for flag in &cluster.members[0].flags {
        let (name, value) = flag.trim_start_matches('-').split_once('=').unwrap();
        // Numbers and switches stand as they are, and texts in quotes.
        let is_text = value.parse::<i64>().is_err() && !["true", "false"].contains(&value);
        let quote = if is_text { "'" } else { "" };
        lines.push(format!("{name}: {quote}{value}{quote}"));
    }
    // Of a key written twice, the last one holds: so it is in etcd too.
    lines.push("snapshot-count: 777".to_owned());
    lines.join("\n")
}

async fn a_file_starts_a_member_and_its_faults_are_named(engine: Engine) {
    let cluster = Cluster::prepare(&Setup::new(engine, 1)).await;
    let text = file_of(&cluster);
    let path = cluster.folder().join("etcd.conf");
    std::fs::write(&path, &text).unwrap();
    let file = format!("--config-file={}", path.display());
    let binary = product().binary.display().to_string();
    let log = cluster.folder().join("file.log");
    // Other flags are ignored, wrong ones too.
    let command = [binary.clone(), file.clone(), "--heartbeat-interval=0".to_owned()];
    let mut process = Process::start(&command, &[("ETCD_NAME", "other")], &log);
    process.says("ready to serve client requests").await.unwrap();
    let said = process.output();
    let loaded = "loaded server configuration, other configuration command line flags and \
                  environment variables will be ignored if provided";
    assert!(said.contains(loaded) && said.contains(r#""snapshot-count":777"#), "{said}");
    cluster.client().await.put("key", "value", None).await.unwrap();
    process.ask_to_stop();
    assert_eq!(process.end().await, Exit::Signal(15));

    std::fs::write(&path, format!("{text}\nsnapshot-count: many\n")).unwrap();
    let path_text = path.display().to_string();
    let variables = [("ETCD_CONFIG_FILE", path_text.as_str())];
    for (flags, variables) in [(vec![file], &[][..]), (vec![], &variables[..])] {
        let (exit, said) = end_of(&flags, variables, cluster.folder()).await;
        assert_eq!(exit, Exit::Code(1), "{said}");
        assert!(said.contains("snapshot-count"), "{said}");
        let line = format!("line {}", text.lines().count() + 1);
        assert!(!product().ours || said.contains(&line) && said.contains(&path_text), "{said}");
    }
}

async fn a_link_named_etcd_speaks_of_etcd(_engine: Engine) {
    if !product().ours {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("etcd");
    std::os::unix::fs::symlink(&product().binary, &link).unwrap();
    let link = link.display().to_string();
    let run = async |flag: &str| {
        let log = folder.path().join("log");
        let mut process = Process::start(&[link.clone(), flag.to_owned()], &[], &log);
        (process.end().await, process.output())
    };
    let (exit, page) = run("--help").await;
    assert_eq!(exit, Exit::Code(0));
    assert!(page.contains("  etcd --data-dir") && !page.contains("  quoin "), "{page}");
    let (exit, said) = run("--nonsense").await;
    assert_eq!(exit, Exit::Code(2));
    assert!(said.contains("\n  etcd [flags]\n"), "{said}");
    let (_, by_its_name) = end_of(&["help".into()], &[], folder.path()).await;
    assert!(by_its_name.contains("  quoin --data-dir"), "{by_its_name}");
}

async fn a_proxy_of_calls_is_not_offered(_engine: Engine) {
    if !product().ours {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (exit, said) = end_of(&["grpc-proxy".into(), "start".into()], &[], folder.path()).await;
    assert_eq!(exit, Exit::Code(1));
    assert!(said.contains("grpc-proxy is not offered; see 'gateway start --help'"), "{said}");
}
