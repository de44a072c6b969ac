//! What members write to stderr while all is well.

use crate::cluster::{Cluster, Engine, Exit, Process, Setup, product};
use crate::on_each_engine;
use serde_json::Value;
use std::ffi::OsString;

on_each_engine![
    every_line_is_json_and_none_an_error,
    a_start_is_told_as_by_etcd,
    what_tools_wait_for_is_said,
    an_authority_is_shown_if_the_environment_asks_for_it,
    the_quota_is_told_once,
];

async fn every_line_is_json_and_none_an_error(engine: Engine) {
    if !product().at_least(3, 6) {
        return;
    }
    let mut cluster = Setup::new(engine, 3).start().await;
    cluster.client().await.put("key", "a secret value", None).await.unwrap();
    for member in 0..3 {
        let (exit, _) = cluster.terminate(member).await;
        assert_eq!(exit, Exit::Signal(15));
    }
    cluster.start_all().await.unwrap();
    cluster.client().await.put("key", "a secret value", None).await.unwrap();
    for member in &mut cluster.members {
        member.process().interrupt();
        assert_eq!(member.ended().await, Exit::Signal(2));
    }

    for member in &cluster.members {
        let log = std::fs::read_to_string(&member.log).unwrap();
        assert!(!log.contains("a secret value"));
        let mut ready = 0;
        for line in log.lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            for key in ["level", "ts", "caller", "msg"] {
                assert!(line[key].is_string(), "{key} in {line}");
            }
            let level = line["level"].as_str().unwrap();
            // etcd itself may complain of a listener that it has just closed.
            let fine = ["debug", "info", "warn"].contains(&level) || !product().ours;
            assert!(fine, "{line}");
            // 2006-01-02T15:04:05.000000 and a zone.
            let time = line["ts"].as_str().unwrap();
            let shape: String =
                time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            let zone = shape.strip_prefix("0000-00-00T00:00:00.000000");
            assert!(matches!(zone, Some("Z" | "+0000" | "-0000")), "{time}");
            let (file, number) = line["caller"].as_str().unwrap().rsplit_once(':').unwrap();
            assert!(file.contains('/') && number.parse::<u32>().is_ok(), "{line}");
            ready += usize::from(line["msg"] == "ready to serve client requests");
        }
        assert_eq!(ready, 2, "once for each start");
        assert!(log.contains("serving client traffic insecurely; this is strongly discouraged!"));
    }
}

async fn a_start_is_told_as_by_etcd(engine: Engine) {
    if !product().at_least(3, 7) {
        return;
    }
    let mut setup = Setup::new(engine, 1);
    for flag in [
        "--auto-compaction-mode=revision",
        "--auto-compaction-retention=1000",
        "--corrupt-check-time=90m",
        "--feature-gates=InitialCorruptCheck=true,FastLeaseKeepAlive=true",
        "--max-learners=3",
        "--cors=http://b:1,http://a:1",
        "--max-request-bytes=1000000",
    ] {
        setup = setup.flag(flag);
    }
    let cluster = setup.start().await;
    let said = cluster.members[0].output();
    let line = said.lines().find(|line| line.contains("starting an etcd server")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let member = &cluster.members[0];
    let folder = member.data_folder.display().to_string();
    let (name, client) = (&member.name, [&member.endpoint]);
    let peer = member.flags.iter().find_map(|flag| flag.strip_prefix("--listen-peer-urls="));
    let peer = peer.unwrap();
    let expected = serde_json::json!({
        "etcd-version": "3.7.1",
        "go-os": "linux",
        "member-initialized": false,
        "name": name,
        "data-dir": folder,
        "wal-dir": "",
        "wal-dir-dedicated": "",
        "member-dir": format!("{folder}/member"),
        "force-new-cluster": false,
        "heartbeat-interval": "100ms",
        "election-timeout": "1s",
        "initial-election-tick-advance": true,
        "snapshot-count": 10000,
        "snapshot-catchup-entries": 5000,
        "initial-advertise-peer-urls": [peer],
        "listen-peer-urls": [peer],
        "advertise-client-urls": client,
        "listen-client-urls": client,
        "listen-metrics-urls": [],
        "cors": ["http://a:1", "http://b:1"],
        "host-whitelist": ["*"],
        "initial-cluster": format!("{name}={peer}"),
        "initial-cluster-state": "new",
        "initial-cluster-token": "new",
        "quota-backend-bytes": 2_147_483_648i64,
        "max-request-bytes": 1_000_000,
        "max-concurrent-streams": u32::MAX,
        "pre-vote": true,
        "initial-corrupt-check": true,
        "corrupt-check-time-interval": "1h30m0s",
        "auto-compaction-mode": "revision",
        "auto-compaction-retention": "1µs",
        "auto-compaction-interval": "1µs",
        "max-learners": 3,
        "v2-deprecation": "write-only",
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&line[field], value, "{field}");
    }
    for field in ["go-arch", "max-cpu-set", "max-cpu-available", "feature-gates"] {
        assert!(!line[field].is_null(), "{field}");
    }
}

async fn what_tools_wait_for_is_said(engine: Engine) {
    if !product().at_least(3, 7) {
        return;
    }
    let mut setup = Setup::new(engine, 1);
    for flag in [
        "--snapshot-catchup-entries=1000",
        "--max-snapshots=5",
        "--v2-deprecation=write-only",
        "--bootstrap-defrag-threshold-megabytes=200",
        "--raft-read-timeout=1s",
        "--warning-unary-request-duration=1ns",
    ] {
        setup = setup.flag(flag);
    }
    let mut cluster = setup.start().await;
    let mut client = cluster.client().await;
    let revision = {
        client.put("key", "a secret value", None).await.unwrap();
        client.put("key", "another secret value", None).await.unwrap().header().unwrap().revision()
    };
    client.compact(revision, None).await.unwrap();
    let process = cluster.members[0].process();
    for text in [
        "ready to serve client requests",
        r#""snapshot-catchup-entries":1000"#,
        r#""v2-deprecation":"write-only""#,
        "Skipping defragmentation",
        "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.",
        "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is \
         enforced, ignoring user input.",
        "raft-read-timeout increased to minimum value: 5s",
        "serving client traffic insecurely; this is strongly discouraged!",
        r#""response type":"/etcdserverpb.KV/Put""#,
        r#""response type":"/etcdserverpb.KV/Compact""#,
        "finished scheduled compaction",
    ] {
        process.says(text).await.unwrap();
    }
    let said = process.output();
    let stats = said.lines().find(|line| line.contains("request stats")).unwrap();
    let stats: Value = serde_json::from_str(stats).unwrap();
    assert_eq!(stats["level"], "warn");
    assert!(stats["time spent"].is_string() && stats["start time"].is_string(), "{stats}");
    assert!(stats["remote"].as_str().unwrap().starts_with("127.0.0.1:"), "{stats}");
    assert!(!said.contains("secret value"), "{said}");
}

async fn an_authority_is_shown_if_the_environment_asks_for_it(engine: Engine) {
    let cluster = Cluster::prepare(&Setup::new(engine, 1)).await;
    let mut command: Vec<OsString> = vec![product().binary.clone().into()];
    command.extend(cluster.members[0].flags.iter().map(OsString::from));
    let log = cluster.folder().join("debug.log");
    let mut process = Process::start(&command, &[("GODEBUG", "x=1,http2debug=2")], &log);
    process.says("ready to serve client requests").await.unwrap();
    cluster.client().await.put("key", "value", None).await.unwrap();
    let address = cluster.endpoints()[0].trim_start_matches("http://").to_owned();
    let text = format!("http2: decoded hpack field header field \":authority\" = \"{address}\"");
    process.says(&text).await.unwrap();
}

async fn the_quota_is_told_once(engine: Engine) {
    let told = async |flag: &'static str| {
        let cluster = Setup::new(engine, 1).flag(flag).start().await;
        let log = std::fs::read_to_string(&cluster.members[0].log).unwrap();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let of_quota = |line: &Value| line["quota-name"] == "v3-applier";
        lines
            .filter(of_quota)
            .map(|line| {
                let named = |key: &str| line[key].as_str().map(str::to_owned);
                let size = line["quota-size-bytes"].as_i64().unwrap();
                let max = line["quota-maximum-size-bytes"].as_i64();
                assert_eq!(max.is_some(), line["level"] == "warn", "{line}");
                assert!(max.is_none_or(|max| max == 8_589_934_592), "{line}");
                let text = line["msg"].as_str().unwrap().to_owned();
                (text, size, named("quota-size"), named("quota-maximum-size"))
            })
            .collect::<Vec<_>>()
    };
    let line = |text: &str, bytes: i64, size: Option<&str>, max: Option<&str>| {
        (text.to_owned(), bytes, size.map(str::to_owned), max.map(str::to_owned))
    };
    let large = 10_000_000_000;
    assert_eq!(
        told("--quota-backend-bytes=10000000000").await,
        [
            line("quota exceeds the maximum value", large, Some("10 GB"), Some("8.6 GB")),
            line("enabled backend quota", large, Some("10 GB"), None),
        ]
    );
    let largest = 8_589_934_592;
    assert_eq!(
        told("--quota-backend-bytes=8589934592").await,
        [line("enabled backend quota", largest, Some("8.6 GB"), None)]
    );
    assert_eq!(
        told("--quota-backend-bytes=0").await,
        [line("enabled backend quota with default value", 2_147_483_648, Some("2.1 GB"), None)]
    );
    assert_eq!(
        told("--quota-backend-bytes=-1").await,
        [line("disabled backend quota", -1, None, None)]
    );
}
