//! /metrics: its names against the contract's table and against a real etcd's, and its numbers
//! against what happens.
//!
//! `tests/metrics/contract.txt` is the table; `tests/metrics/etcd-3.7.1.txt` what a real etcd shows:
//! run the test of the names with that as `QUOIN_TEST_BINARY` and `QUOIN_RECORD_METRICS=1` to write
//! it anew.

use crate::cluster::{Cluster, Engine, Ports, Setup, eventually, product};
use crate::gateway::post;
use crate::on_each_engine;
use crate::pages::{Page, address, http, send};
use crate::requests::{all_of, delete, get, op, put, range, status_with_timeout};
use prost::Message as _;
use quoin::pb::etcdserverpb::watch_request::RequestUnion;
use quoin::pb::etcdserverpb::{
    CompactionRequest, DefragmentRequest, HashKvRequest, LeaseGrantRequest, LeaseKeepAliveRequest,
    LeaseRevokeRequest, MoveLeaderRequest, PutRequest, RangeRequest, SnapshotRequest,
    WatchCreateRequest, WatchRequest,
};
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

on_each_engine![
    names_types_and_labels_are_etcds,
    the_page_is_where_it_belongs,
    writes_and_reads_are_counted,
    watches_and_their_events_are_counted,
    leases_and_compactions_are_counted,
    refused_requests_count_as_carried_out,
    calls_are_counted_by_how_they_end,
    members_count_what_passes_between_them,
    slow_requests_are_told_without_values,
    the_dashboard_asks_for_what_is_there,
];

/// A page, taken apart.
struct Metrics {
    /// By name: type, names of labels, and upper bounds of buckets.
    families: BTreeMap<String, (String, BTreeSet<String>, Vec<f64>)>,
    helped: BTreeSet<String>,
    /// By the whole of what stands before the number.
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    fn parse(page: &Page) -> Metrics {
        assert_eq!(page.status, 200, "{}", page.body);
        let kind = page.header("content-type").unwrap();
        assert!(kind.starts_with("text/plain; version=0.0.4; charset=utf-8"), "{kind}");
        let mut metrics = Metrics {
            families: BTreeMap::new(),
            helped: BTreeSet::new(),
            samples: BTreeMap::new(),
        };
        for line in page.body.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words[..] {
                ["#", "HELP", name, help] if !help.is_empty() => {
                    metrics.helped.insert(name.to_owned());
                }
                ["#", "TYPE", name, kind] => {
                    let family = (kind.to_owned(), BTreeSet::new(), vec![]);
                    let twice = metrics.families.insert(name.to_owned(), family);
                    assert!(twice.is_none(), "{name} has two families");
                }
                _ => metrics.sample(line),
            }
        }
        metrics
    }

    fn sample(&mut self, line: &str) {
        let (series, number) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let base = base.filter(|base| self.families.contains_key(*base)).unwrap_or(name);
        let family = self.families.get_mut(base);
        let (_, names, bounds) = family.unwrap_or_else(|| panic!("{line} has no type"));
        let mut in_order = vec![];
        for pair in labels.trim_end_matches('}').split("\",").filter(|pair| !pair.is_empty()) {
            let (label, value) = pair.split_once("=\"").unwrap();
            match label {
                "le" => {
                    let bound: f64 = value.trim_end_matches('"').parse().unwrap();
                    if bound.is_finite() && !bounds.contains(&bound) {
                        bounds.push(bound);
                    }
                }
                "quantile" => {}
                _ => in_order.push(label.to_owned()),
            }
        }
        assert!(in_order.is_sorted(), "labels out of order: {line}");
        names.extend(in_order);
        let twice = self.samples.insert(series.to_owned(), number.parse().unwrap());
        assert!(twice.is_none(), "twice: {line}");
    }

    /// A row as the fixtures have it.
    fn row(&self, name: &str) -> Option<String> {
        let (kind, labels, _) = self.families.get(name)?;
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let labels = if labels.is_empty() { "-".to_owned() } else { labels.join(",") };
        Some(format!("{name} {kind} {labels}"))
    }

    fn get(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("no {series} on the page"))
    }

    /// The sum of a name's samples; 0 if there are none.
    fn sum(&self, name: &str) -> f64 {
        let of_name = |series: &str| series == name || series.starts_with(&format!("{name}{{"));
        self.samples.iter().filter(|(series, _)| of_name(series)).map(|(_, value)| value).sum()
    }
}

async fn metrics(cluster: &Cluster, member: usize) -> Metrics {
    Metrics::parse(&http(cluster, member, "GET", "/metrics").await)
}

/// What has become of these since the page before.
fn moved<const N: usize>(before: &Metrics, after: &Metrics, names: [&str; N]) -> [f64; N] {
    names.map(|name| after.sum(name) - before.sum(name))
}

const CONTRACT: &str = include_str!("../metrics/contract.txt");
const RECORDED: &str = include_str!("../metrics/etcd-3.7.1.txt");

fn rows(fixture: &str) -> impl Iterator<Item = Vec<&str>> {
    fixture.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(' ').collect())
}

fn bounds(text: &str) -> Vec<f64> {
    if text == "default" {
        return vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
    }
    let Some(inner) = text.strip_prefix("exp(") else { return vec![] };
    let numbers: Vec<f64> =
        inner.trim_end_matches(')').split(',').map(|number| number.parse().unwrap()).collect();
    let [first, factor, count] = numbers[..] else { panic!("{text}") };
    (0..count as i32).map(|power| first * factor.powi(power)).collect()
}

fn is_near(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-9 * b.abs())
}

/// Complaints about a page, by the contract; `has` says which rows are due.
fn missing(page: &Metrics, has: impl Fn(&str) -> bool) -> Vec<String> {
    let mut missing = vec![];
    for row in rows(CONTRACT) {
        let [name, kind, labels, buckets, when] = row[..] else { panic!("{row:?}") };
        let expected = format!("{name} {kind} {labels}");
        match page.row(name) {
            None if has(when) => missing.push(format!("no {name}")),
            None => {}
            Some(found) if found != expected => missing.push(format!("{found}, not {expected}")),
            Some(_) => {
                let found = &page.families[name].2;
                if !is_near(found, &bounds(buckets)) {
                    missing.push(format!("{name} has buckets {found:?}, not {buckets}"));
                }
                if !page.helped.contains(name) {
                    missing.push(format!("{name} has no help"));
                }
            }
        }
    }
    missing
}

async fn names_types_and_labels_are_etcds(engine: Engine) {
    let cluster = Setup::new(engine, 1).flag("--metrics=extensive").start().await;
    eventually("the cluster's version", async || {
        match metrics(&cluster, 0).await.sum("etcd_cluster_version") {
            1.0 => Ok(()),
            none => Err(none.to_string()),
        }
    })
    .await;
    // A range, for what is measured of ranges.
    assert_eq!(http(&cluster, 0, "GET", "/health").await.status, 200);
    let fresh = metrics(&cluster, 0).await;
    assert_eq!(missing(&fresh, |when| ["start", "extensive"].contains(&when)), [""; 0]);
    assert_eq!(fresh.get(r#"etcd_cluster_version{cluster_version="3.7"}"#), 1.0);
    assert_eq!(fresh.get(r#"etcd_server_version{server_version="3.7.1"}"#), 1.0);

    cluster.raw(0).kv.clone().put(put("k", "v")).await.unwrap();
    let used = metrics(&cluster, 0).await;
    let found: Vec<String> = used.families.keys().filter_map(|name| used.row(name)).collect();
    if std::env::var_os("QUOIN_RECORD_METRICS").is_some() && !product().ours {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/metrics/etcd-3.7.1.txt");
        std::fs::write(path, found.join("\n") + "\n").unwrap();
        return;
    }
    let of_etcd: Vec<&str> = RECORDED.lines().collect();
    let lacking: Vec<_> =
        of_etcd.iter().filter(|row| !found.iter().any(|other| other == *row)).collect();
    assert!(lacking.is_empty(), "etcd has {lacking:?}");
    let names: BTreeSet<&str> = rows(CONTRACT).chain(rows(RECORDED)).map(|row| row[0]).collect();
    let own: Vec<_> = used.families.keys().filter(|name| !names.contains(name.as_str())).collect();
    assert!(own.is_empty(), "nobody else has {own:?}");

    // From the start every call is there, with every code.
    let codes = |page: &Metrics| {
        let handled = |series: &&String| series.starts_with("grpc_server_handled_total{");
        page.samples.keys().filter(handled).count()
    };
    assert_eq!(codes(&fresh), 45 * 17);
    let basic = Cluster::start(engine, 1).await;
    let page = metrics(&basic, 0).await;
    assert!(!page.families.contains_key("grpc_server_handling_seconds"));
}

async fn the_page_is_where_it_belongs(engine: Engine) {
    let mut ports = Ports::reserve();
    let [own, web] = [ports.take(), ports.take()].map(|port| format!("127.0.0.1:{port}"));
    let _cluster = Setup::new(engine, 1)
        .flag(format!("--listen-metrics-urls=http://{own}"))
        .flag(format!("--listen-client-http-urls=http://{web}"))
        .start()
        .await;
    for address in [&own, &web] {
        let page = Metrics::parse(&send(address, "GET", "/metrics", &[], b"").await);
        assert_eq!(page.get("etcd_server_has_leader"), 1.0);
        assert_eq!(page.get("promhttp_metric_handler_requests_in_flight"), 1.0);
    }
    let pages = r#"promhttp_metric_handler_requests_total{code="200"}"#;
    let page = Metrics::parse(&send(&own, "GET", "/metrics", &[], b"").await);
    assert_eq!(page.get(pages), 2.0);

    let one = Cluster::start(engine, 1).await;
    let peer = one.members[0]
        .flags
        .iter()
        .find_map(|flag| flag.strip_prefix("--listen-peer-urls=http://"))
        .unwrap();
    assert_eq!(send(peer, "GET", "/metrics", &[], b"").await.status, 404);
    assert_eq!(send(&address(&one, 0), "GET", "/metrics", &[], b"").await.status, 200);
}

async fn writes_and_reads_are_counted(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let before = metrics(&cluster, 0).await;
    for n in 0..5 {
        raw.kv.clone().put(put(&format!("k{n}"), "value")).await.unwrap();
    }
    raw.kv.clone().put(put("k0", &"x".repeat(100_000))).await.unwrap();
    raw.kv.clone().delete_range(delete("k1")).await.unwrap();
    let over = PutRequest { prev_kv: true, ..put("k0", "y") };
    raw.kv.clone().put(over).await.unwrap();
    raw.kv.clone().range(get("k0")).await.unwrap();
    raw.kv.clone().range(range("k", "l")).await.unwrap();
    let both = all_of(vec![op(put("t", "1")), op(get("t")), op(delete("k2"))]);
    raw.kv.clone().txn(both).await.unwrap();
    let reading = all_of(vec![op(get("t")), op(get("k3"))]);
    raw.kv.clone().txn(reading).await.unwrap();
    raw.maintenance.clone().hash_kv(HashKvRequest::default()).await.unwrap();
    let mut backup =
        raw.maintenance.clone().snapshot(SnapshotRequest {}).await.unwrap().into_inner();
    while let Some(piece) = backup.next().await {
        piece.unwrap();
    }
    let after = metrics(&cluster, 0).await;
    let changes = moved(
        &before,
        &after,
        [
            "etcd_mvcc_put_total",
            "etcd_mvcc_delete_total",
            "etcd_mvcc_range_total",
            "etcd_mvcc_txn_total",
            "etcd_debugging_mvcc_keys_total",
            "etcd_debugging_mvcc_current_revision",
            "etcd_debugging_mvcc_total_put_size_in_bytes",
            "etcd_mvcc_hash_rev_duration_seconds_count",
            "etcd_disk_backend_snapshot_duration_seconds_count",
        ],
    );
    let bytes = 5.0 * 7.0 + 100_002.0 + 3.0 + 2.0;
    assert_eq!(changes, [8.0, 2.0, 6.0, 3.0, 4.0, 9.0, bytes, 1.0, 1.0]);
    assert!(after.sum("etcd_mvcc_db_total_size_in_bytes") >= 100_000.0);
    assert!(after.sum("etcd_mvcc_db_total_size_in_use_in_bytes") >= 100_000.0);
    assert_eq!(after.get("etcd_server_quota_backend_bytes"), 2_147_483_648.0);
    let grown = [
        "etcd_disk_wal_fsync_duration_seconds_count",
        "etcd_disk_wal_write_duration_seconds_count",
        "etcd_disk_wal_write_bytes_total",
        "etcd_disk_backend_commit_duration_seconds_count",
        "etcd_server_proposals_committed_total",
        "etcd_server_proposals_applied_total",
        "etcd_server_range_duration_seconds_count",
        "process_cpu_seconds_total",
    ];
    for (name, change) in grown.iter().zip(moved(&before, &after, grown)) {
        assert!(change > 0.0 || *name == "process_cpu_seconds_total", "{name} moved by {change}");
    }
    for (kind, count) in
        [("Put", 7.0), ("DeleteRange", 1.0), ("Txn", 1.0), ("Range", 2.0), ("ReadonlyTxn", 1.0)]
    {
        let series = format!(
            r#"etcd_server_request_duration_seconds_count{{success="true",type="{kind}"}}"#
        );
        assert_eq!(after.get(&series), count, "{kind}");
    }
    for (kind, count) in [("Put", 7.0), ("DeleteRange", 1.0), ("Txn", 1.0)] {
        let labels = format!(r#"{{op="{kind}",success="true",version="v3"}}"#);
        let series = format!("etcd_server_apply_duration_seconds_count{labels}");
        assert_eq!(after.get(&series), count, "{kind}");
    }
    let health = "etcd_server_health_success";
    let healthy = after.sum(health);
    assert_eq!(http(&cluster, 0, "GET", "/health").await.status, 200);
    assert_eq!(http(&cluster, 0, "GET", "/readyz").await.status, 200);
    let page = metrics(&cluster, 0).await;
    assert_eq!(page.get(health), healthy + 1.0);
    // A probe reads as a client does: one key for /health, one for each of two checks of /readyz.
    let read = moved(
        &after,
        &page,
        [
            "etcd_mvcc_range_total",
            "etcd_server_range_duration_seconds_count",
            r#"etcd_server_request_duration_seconds_count{success="true",type="Range"}"#,
        ],
    );
    assert_eq!(read, [3.0; 3]);
    let check = r#"{name="linearizable_read",type="readyz"}"#;
    assert_eq!(page.get(&format!("etcd_server_healthcheck{check}")), 1.0);
}

async fn refused_requests_count_as_carried_out(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let before = metrics(&cluster, 0).await;
    let revoke = LeaseRevokeRequest { id: 77 };
    raw.lease.clone().lease_revoke(revoke).await.unwrap_err();
    let leased = PutRequest { lease: 77, ..put("a", "1") };
    raw.kv.clone().put(leased).await.unwrap_err();
    raw.kv.clone().put(put("", "1")).await.unwrap_err();
    let future = CompactionRequest { revision: 100, physical: false };
    raw.kv.clone().compact(future).await.unwrap_err();
    let early = RangeRequest { revision: 100, ..get("a") };
    raw.kv.clone().range(early).await.unwrap_err();
    let reads = r#"{"success":[{"requestRange":{"key":"YQ=="}}]}"#;
    let fails = r#"{"success":[{"requestRange":{"key":"YQ==","revision":100}}]}"#;
    let writes = r#"{"success":[{"requestPut":{"key":"YQ=="}}]}"#;
    for (body, status) in [(reads, 200), (fails, 400), (writes, 200)] {
        assert_eq!(post(&cluster, "/v3/kv/txn", body).await.status, status, "{body}");
    }
    let after = metrics(&cluster, 0).await;
    for (kind, failed, done) in [
        ("LeaseRevoke", 0.0, 1.0),
        ("Put", 0.0, 1.0),
        ("Compaction", 0.0, 1.0),
        ("Range", 1.0, 0.0),
        ("ReadonlyTxn", 1.0, 1.0),
        ("Txn", 0.0, 1.0),
    ] {
        let count = |page: &Metrics, is_ok: bool| {
            let labels = format!(r#"{{success="{is_ok}",type="{kind}"}}"#);
            let series = format!("etcd_server_request_duration_seconds_count{labels}");
            page.samples.get(&series).copied().unwrap_or_default()
        };
        let moved = [false, true].map(|is_ok| count(&after, is_ok) - count(&before, is_ok));
        assert_eq!(moved, [failed, done], "{kind}");
    }
    for kind in ["LeaseRevoke", "Put", "Compaction"] {
        let labels = format!(r#"{{op="{kind}",success="false",version="v3"}}"#);
        let series = format!("etcd_server_apply_duration_seconds_count{labels}");
        assert_eq!(after.get(&series), 1.0, "{kind}");
    }
}

async fn watches_and_their_events_are_counted(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let before = metrics(&cluster, 0).await;
    let (requests, stream) = mpsc::channel(4);
    for _ in 0..2 {
        let create = WatchCreateRequest { key: "k".into(), ..WatchCreateRequest::default() };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.send(request).await.unwrap();
    }
    let answers = raw.watch.clone().watch(ReceiverStream::new(stream)).await.unwrap();
    let mut answers = answers.into_inner();
    for _ in 0..2 {
        assert!(answers.next().await.unwrap().unwrap().created);
    }
    for value in ["1", "2", "3"] {
        raw.kv.clone().put(put("k", value)).await.unwrap();
    }
    let mut events = 0;
    while events < 6 {
        events += answers.next().await.unwrap().unwrap().events.len();
    }
    let open = metrics(&cluster, 0).await;
    assert_eq!(open.get("etcd_debugging_mvcc_watch_stream_total"), 1.0);
    assert_eq!(open.get("etcd_debugging_mvcc_watcher_total"), 2.0);
    let [sent, controls] = moved(
        &before,
        &open,
        [
            "etcd_debugging_mvcc_events_total",
            "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds_count",
        ],
    );
    assert_eq!((sent, controls), (6.0, 2.0));
    drop((answers, requests));
    let labels =
        r#"grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"}"#;
    let closed = eventually("the watch's end", async || {
        let page = metrics(&cluster, 0).await;
        let watchers = page.sum("etcd_debugging_mvcc_watcher_total");
        let streams = page.sum("etcd_debugging_mvcc_watch_stream_total");
        let handled =
            page.get(&format!(r#"grpc_server_handled_total{{grpc_code="Canceled",{labels}"#));
        match (watchers, streams, handled) {
            (0.0, 0.0, 1.0) => Ok(page),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(closed.get(&format!("grpc_server_started_total{{{labels}")), 1.0);
    assert_eq!(
        closed.get(&format!("grpc_server_msg_received_total{{{labels}")),
        3.0,
        "and the end"
    );
    assert!(closed.get(&format!("grpc_server_msg_sent_total{{{labels}")) >= 3.0);
}

async fn leases_and_compactions_are_counted(engine: Engine) {
    let cluster = Setup::new(engine, 1).fast_elections().start().await;
    let raw = cluster.raw(0);
    let grant = async |ttl| {
        let granted = raw.lease.clone().lease_grant(LeaseGrantRequest { id: 0, ttl }).await;
        granted.unwrap().into_inner().id
    };
    let (kept, short) = (grant(1000).await, grant(1).await);
    let alive = tokio_stream::iter([LeaseKeepAliveRequest { id: kept }; 3]);
    let mut answers = raw.lease.clone().lease_keep_alive(alive).await.unwrap().into_inner();
    for _ in 0..3 {
        assert_eq!(answers.next().await.unwrap().unwrap().ttl, 1000);
    }
    let mut attached = put("leased", "v");
    attached.lease = kept;
    raw.kv.clone().put(attached).await.unwrap();
    raw.lease.clone().lease_revoke(LeaseRevokeRequest { id: kept }).await.unwrap();
    eventually("the end of the short lease", async || {
        match metrics(&cluster, 0).await.get("etcd_debugging_server_lease_expired_total") {
            1.0 => Ok(()),
            count => Err(format!("{short:x}: {count}")),
        }
    })
    .await;
    // Numbers that change while a page is written are on it as they were before and after.
    let page = metrics(&cluster, 0).await;
    let lease = |what: &str| page.get(&format!("etcd_debugging_lease_{what}"));
    assert_eq!(lease("granted_total"), 2.0);
    assert_eq!(lease("renewed_total"), 3.0);
    assert_eq!(lease("revoked_total"), 2.0);
    assert_eq!(lease("ttl_total_count"), 2.0);
    assert!(lease("ttl_total_sum") >= 1001.0);
    assert_eq!(page.get("etcd_mvcc_delete_total"), 1.0, "the lease's key");

    for value in 0..10 {
        raw.kv.clone().put(put("k", &value.to_string())).await.unwrap();
    }
    let head = raw.status().await.unwrap().header.unwrap().revision;
    let compaction = CompactionRequest { revision: head, physical: true };
    raw.kv.clone().compact(compaction).await.unwrap();
    raw.maintenance.clone().defragment(DefragmentRequest {}).await.unwrap();
    let page = metrics(&cluster, 0).await;
    let compaction = |what: &str| page.get(&format!("etcd_debugging_mvcc_db_compaction_{what}"));
    assert!(compaction("keys_total") >= 9.0, "{}", compaction("keys_total"));
    assert!(compaction("last") > 1.6e9);
    assert!(compaction("pause_duration_milliseconds_count") >= 1.0);
    assert_eq!(compaction("total_duration_milliseconds_count"), 1.0);
    assert_eq!(page.get("etcd_debugging_mvcc_compact_revision"), head as f64);
    assert_eq!(page.get("etcd_disk_backend_defrag_duration_seconds_count"), 1.0);
    assert_eq!(page.get("etcd_disk_defrag_inflight"), 0.0);
}

async fn calls_are_counted_by_how_they_end(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let before = metrics(&cluster, 0).await;
    raw.kv.clone().put(put("k", "v")).await.unwrap();
    let refused = raw.kv.clone().put(put("", "v")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let mut versioned = tonic::Request::new(get("k"));
    versioned.metadata_mut().insert("client-api-version", "3.5".parse().unwrap());
    raw.kv.clone().range(versioned).await.unwrap();
    let delete = delete("k").encode_to_vec();
    let endpoint = &cluster.members[0].endpoint;
    let late = status_with_timeout(endpoint, "/etcdserverpb.KV/DeleteRange", "0n", Some(delete));
    assert_eq!(late.await.0, Code::DeadlineExceeded);
    // The gateway makes the same calls.
    let body = br#"{"key":"a2V5","value":"dg=="}"#;
    assert_eq!(send(&address(&cluster, 0), "POST", "/v3/kv/put", &[], body).await.status, 200);

    let after = metrics(&cluster, 0).await;
    let kv = |what: &str, code: &str, method: &str| {
        let code = if code.is_empty() { String::new() } else { format!(r#"grpc_code="{code}","#) };
        let labels = format!(
            r#"{{{code}grpc_method="{method}",grpc_service="etcdserverpb.KV",grpc_type="unary"}}"#
        );
        let series = format!("grpc_server_{what}_total{labels}");
        after.get(&series) - before.get(&series)
    };
    assert_eq!(kv("handled", "OK", "Put"), 2.0);
    assert_eq!(kv("handled", "InvalidArgument", "Put"), 1.0);
    assert_eq!(kv("started", "", "Put"), 3.0);
    assert_eq!(kv("msg_received", "", "Put"), 3.0);
    assert_eq!(kv("msg_sent", "", "Put"), 3.0, "an error is an answer");
    assert_eq!(kv("handled", "OK", "Range"), 1.0);
    if product().ours {
        assert_eq!(kv("handled", "DeadlineExceeded", "DeleteRange"), 1.0);
    }
    let version = r#"etcd_server_client_requests_total{client_api_version="3.5",type="unary"}"#;
    assert_eq!(after.get(version), 1.0);
    let [received, sent] = moved(
        &before,
        &after,
        [
            "etcd_network_client_grpc_received_bytes_total",
            "etcd_network_client_grpc_sent_bytes_total",
        ],
    );
    assert!(received >= 20.0 && sent >= 40.0, "{received} bytes in, {sent} out");
}

async fn members_count_what_passes_between_them(engine: Engine) {
    let mut cluster = Setup::new(engine, 3).fast_elections().start().await;
    let leader = cluster.leader().await;
    cluster.raw(leader).kv.clone().put(put("k", &"v".repeat(10_000))).await.unwrap();
    let page = eventually("every number about members", async || {
        let page = metrics(&cluster, leader).await;
        let mut lacking = missing(&page, |when| ["start", "members"].contains(&when));
        // etcd asks twice a minute only.
        lacking.retain(|what| product().ours || !what.ends_with("round_trip_time_seconds"));
        let active = page.sum("etcd_network_active_peers");
        let answers = page.sum("etcd_network_peer_round_trip_time_seconds_count");
        let has_asked_all = answers >= 2.0 || !product().ours;
        match lacking.is_empty() && active == 2.0 && has_asked_all {
            true => Ok(page),
            false => Err(format!("{active} peers are active, {answers} answers; {lacking:?}")),
        }
    })
    .await;
    assert_eq!(page.sum("etcd_network_known_peers"), 3.0);
    assert!(page.sum("etcd_network_peer_sent_bytes_total") > 20_000.0);
    assert!(page.sum("etcd_network_peer_received_bytes_total") > 0.0);
    let mut leading = 0.0;
    for member in 0..3 {
        let page = metrics(&cluster, member).await;
        assert_eq!(page.get("etcd_server_has_leader"), 1.0);
        assert_eq!(page.get("etcd_server_is_learner"), 0.0);
        leading += page.get("etcd_server_is_leader");
    }
    assert_eq!(leading, 1.0);

    let next = (leader + 1) % 3;
    let target_id = cluster.raw(next).status().await.unwrap().header.unwrap().member_id;
    let changes = page.get("etcd_server_leader_changes_seen_total");
    let moving = MoveLeaderRequest { target_id };
    cluster.raw(leader).maintenance.clone().move_leader(moving).await.unwrap();
    let page = metrics(&cluster, leader).await;
    assert!(page.get("etcd_server_leader_changes_seen_total") > changes);
    assert_eq!(page.get("etcd_server_is_leader"), 0.0);

    // Alone, a member has no leader, and what it proposes fails.
    let failed = page.get("etcd_server_proposals_failed_total");
    for other in [next, (leader + 2) % 3] {
        cluster.kill(other);
    }
    let raw = cluster.raw(leader);
    let mut hopeless = tonic::Request::new(put("k", "lost"));
    hopeless.set_timeout(std::time::Duration::from_millis(500));
    raw.kv.clone().put(hopeless).await.unwrap_err();
    eventually("the loss of the others", async || {
        let page = metrics(&cluster, leader).await;
        let numbers = [
            page.get("etcd_server_has_leader"),
            page.sum("etcd_network_active_peers"),
            page.sum("etcd_network_disconnected_peers_total"),
            page.get("etcd_server_proposals_failed_total") - failed,
        ];
        match numbers {
            [0.0, 0.0, 2.0, failed] if failed >= 1.0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let page = metrics(&cluster, leader).await;
    assert!(page.sum("etcd_network_peer_sent_failures_total") > 0.0);
}

async fn slow_requests_are_told_without_values(engine: Engine) {
    let cluster = Setup::new(engine, 1)
        .flag("--warning-apply-duration=1ns")
        .flag("--warning-unary-request-duration=1ns")
        .start()
        .await;
    let raw = cluster.raw(0);
    raw.kv.clone().put(put("key", "top-secret-value")).await.unwrap();
    raw.kv.clone().range(get("key")).await.unwrap();
    let page = metrics(&cluster, 0).await;
    assert!(page.get("etcd_server_slow_apply_total") >= 2.0);
    let lines = eventually("the lines", async || {
        let output = cluster.members[0].output();
        let lines: Vec<serde_json::Value> =
            output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let of = |message: &str, about: &str| {
            let found = lines
                .iter()
                .find(|line| line["msg"] == message && line.to_string().contains(about));
            found.cloned().ok_or(format!("no {message:?} about {about}"))
        };
        Ok([
            of("request stats", "/etcdserverpb.KV/Put")?,
            of("apply request took too long", "value_size:16")?,
            of("apply request took too long", "read-only range ")?,
        ])
    })
    .await;
    assert!(lines.iter().all(|line| line["level"] == "warn"), "{lines:?}");
    assert!(!cluster.members[0].output().contains("top-secret-value"));
    let [stats, ..] = lines;
    assert_eq!(stats["request count"], 1);
    assert_eq!(stats["request size"], 23);
    assert!(stats["request content"].as_str().unwrap().contains("value_size:16"), "{stats}");
}

/// Names of metrics in a query: words that are neither functions nor labels.
fn names_in(query: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut rest = query.to_owned();
    // What stands in braces or behind `by` are labels.
    while let Some(open) = rest.find('{') {
        let close = rest[open..].find('}').unwrap() + open;
        rest.replace_range(open..=close, " ");
    }
    for word in rest.split(|c: char| !(c.is_alphanumeric() || c == '_')) {
        let known = ["etcd_", "grpc_", "process_", "os_", "go_"];
        let is_label = ["grpc_type", "grpc_method", "grpc_service", "grpc_code"].contains(&word);
        if known.iter().any(|begin| word.starts_with(begin)) && !is_label {
            names.insert(word.to_owned());
        }
    }
    names
}

async fn the_dashboard_asks_for_what_is_there(engine: Engine) {
    let text = include_str!("../../docs/grafana-dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(text).unwrap();
    let mut queries = vec![];
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries.push(target["expr"].as_str().unwrap().to_owned());
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        queries.extend(variable["query"]["query"].as_str().map(str::to_owned));
    }
    assert!(queries.len() > 20, "{} queries", queries.len());
    let names: BTreeSet<String> = queries.iter().flat_map(|query| names_in(query)).collect();
    let cluster = Setup::new(engine, 3).flag("--metrics=extensive").fast_elections().start().await;
    cluster.raw(cluster.leader().await).kv.clone().put(put("k", "v")).await.unwrap();
    eventually("all that the dashboard shows", async || {
        let page = metrics(&cluster, 0).await;
        let in_contract =
            |name: &str| rows(CONTRACT).any(|row| row[0] == name && row[4] == "event");
        let is_there = |name: &&String| {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let is_family = |name: &str| page.families.contains_key(name) || in_contract(name);
            is_family(name) || base.is_some_and(is_family)
        };
        let lacking: Vec<_> = names.iter().filter(|name| !is_there(name)).collect();
        if lacking.is_empty() { Ok(()) } else { Err(format!("{lacking:?}")) }
    })
    .await;
}
