//! `quoin bench` against a real member: every kind of load ends well, counts what it should, and
//! says so when an answer is wrong.
//!
//! With `QUOIN_TEST_BINARY` the member is another server; the tool stays the one that was built.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

#[path = "../cluster/mod.rs"]
mod cluster;

use cluster::{Cluster, Engine};
use serde_json::Value;
use std::process::{Command, Output};

/// Runs the tool; its words are separated by spaces.
fn bench(words: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quoin"))
        .arg("bench")
        .args(words.split_whitespace())
        .output()
        .unwrap()
}

/// Runs a load that must end well, and gives its result.
fn measure(cluster: &Cluster, words: &str) -> Value {
    let endpoint = &cluster.endpoints()[0];
    let pid = cluster.members[0].pid().unwrap();
    let output = bench(&format!("{words} --endpoints {endpoint} --server-pid {pid} --json"));
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}: {text}{errors}");
    let result: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(result["errors"].as_object().map(|errors| errors.len()), Some(0), "{words}: {text}");
    result
}

#[tokio::test]
async fn every_load_counts_each_operation_once() {
    let cluster = Cluster::start(Engine::Memory, 1).await;
    let client = cluster.client_of(0).await;
    for (words, operations) in [
        ("put --total 300 --key-space 100 --sequential-keys --connections 2 --streams 5", 300),
        ("range --total 200 --key-space 100 --connections 2 --streams 5", 200),
        ("range --total 20 --key-space 100 --serializable", 20),
        ("range --total 10 --key-space 100 --range-keys 60", 10),
        ("range --total 10 --key-space 100 --range-keys 60 --limit 7 --keys-only", 10),
        ("range --total 10 --key-space 100 --range-keys 60 --count-only", 10),
        ("range --total 10 --key-space 100 --range-keys 60 --range-stream", 10),
        ("txn --total 100 --key-space 50 --puts 3 --gets 2 --streams 4", 100),
        ("watch --total 20 --watchers 30 --watch-streams 7 --connections 2", 600),
        ("watch --total 20 --watchers 30 --watch-streams 7 --watched-keys 3 --streams 2", 200),
        ("lease --total 50 --streams 5", 50),
        ("lease --total 50 --streams 5 --connections 2 --keepalive --leases 20", 50),
    ] {
        let result = measure(&cluster, words);
        assert_eq!(result["operations"], operations, "{words}: {result}");
        assert!(result["latency_us"]["p50"].as_f64().unwrap() > 0.0, "{words}: {result}");
        assert!(result["throughput"].as_f64().unwrap() > 0.0, "{words}: {result}");
        assert!(result["server"]["rss_peak"].as_u64().unwrap() > 1 << 20, "{words}: {result}");
    }
    // Beside the two puts that make sure of the server, each request left what it should.
    let leases = client.clone().leases().await.unwrap();
    assert_eq!(leases.leases().len(), 0, "leases are revoked at the end");
    let all = etcd_client::GetOptions::new().with_prefix().with_keys_only();
    let keys = client.clone().get("quoin-bench", Some(all)).await.unwrap();
    assert_eq!(keys.count(), 0, "the keys of watches are removed");
    let all = etcd_client::GetOptions::new().with_all_keys().with_count_only();
    assert_eq!(client.clone().get("", Some(all)).await.unwrap().count(), 100);
}

#[tokio::test]
async fn a_load_that_cannot_be_right_says_why() {
    let cluster = Cluster::start(Engine::Memory, 1).await;
    let endpoint = &cluster.endpoints()[0];
    for (words, expected) in [
        (format!("range --total 5 --endpoints {endpoint}"), "write them first"),
        (format!("put --key-size 2 --total 5 --endpoints {endpoint}"), "too short"),
        (format!("watch --watchers 2 --total 5 --endpoints {endpoint}"), "exceeds"),
        (format!("put --server-pid 4000000 --total 5 --endpoints {endpoint}"), "/proc/4000000"),
        ("put --total 5 --endpoints https://127.0.0.1:1".into(), "no TLS"),
        ("put --total 5 --endpoints http://127.0.0.1:1".into(), "connect to http://127.0.0.1:1"),
    ] {
        let output = bench(&words);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words}: {text}");
        assert!(text.contains(expected), "{words}: {text}");
    }
}

/// Errors of single requests are counted by code and text, and the rest goes on.
#[tokio::test]
async fn errors_are_counted_and_fail_the_run() {
    let cluster = cluster::Setup::new(Engine::Memory, 1).flag("--max-txn-ops=4").start().await;
    let endpoint = &cluster.endpoints()[0];
    let output =
        bench(&format!("txn --total 30 --streams 3 --puts 5 --json --endpoints {endpoint}"));
    assert_eq!(output.status.code(), Some(1));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = "InvalidArgument: etcdserver: too many operations in txn request";
    assert_eq!(result["errors"][text], 30, "{result}");
    assert_eq!(result["operations"], 0, "{result}");
}
