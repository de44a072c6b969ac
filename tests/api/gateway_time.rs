//! The time that a call through the gateway is given by its header `Grpc-Timeout`. The expected texts were taken from
//! etcd 3.7.1, against which the same must pass.

use crate::cluster::{Cluster, Engine, eventually, product};
use crate::gateway::{FOO, normal, post};
use crate::on_each_engine;
use crate::pages::{Lines, Page, address, send};
use crate::requests::get;
use std::time::{Duration, Instant};

on_each_engine![
    timeouts_are_read_as_by_etcd,
    a_call_is_answered_when_its_time_is_over,
    a_stream_tells_that_its_time_is_over,
];

const EXCEEDED: &str = r#"{"code":4,"message":"context deadline exceeded"}"#;

async fn timed(cluster: &Cluster, timeout: &str, path: &str, body: &str) -> Page {
    let headers = [("Grpc-Timeout", timeout)];
    send(&address(cluster, 0), "POST", path, &headers, body.as_bytes()).await
}

async fn timeouts_are_read_as_by_etcd(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    for timeout in ["1H", "1M", "+60S", "60000m", "60000000u", "60000000000n", "0S", "-0n", ""] {
        let page = timed(&cluster, timeout, "/v3/kv/range", FOO).await;
        assert_eq!(page.status, 200, "{timeout}: {}", page.body);
    }
    for timeout in ["1n", "-1H"] {
        for (path, body) in [
            ("/v3/kv/range", FOO),
            ("/v3/kv/put", FOO),
            ("/v3/watch", r#"{"create_request":{}}"#),
            ("/v3/lease/keepalive", r#"{"ID":1}"#),
            ("/v3/maintenance/snapshot", ""),
        ] {
            let page = timed(&cluster, timeout, path, body).await;
            let found = (page.status, &normal(&page.body)[..]);
            assert_eq!(found, (504, EXCEEDED), "{timeout} {path}");
            assert_eq!(page.header("content-type"), Some("application/json"));
            assert_eq!(page.header("grpc-metadata-content-type"), None);
        }
    }
    for timeout in ["S", "1", "x", "1s", "1.5S", "1_0S", "1 S", "é", "9223372036854775808n"] {
        for (path, body) in [("/v3/kv/range", "{"), ("/v3/watch", "")] {
            let page = timed(&cluster, timeout, path, body).await;
            let expected = format!(r#"{{"code":3,"message":"invalid grpc-timeout: {timeout}"}}"#);
            assert_eq!((page.status, normal(&page.body)), (400, expected), "{timeout} {path}");
        }
    }
    // What is wrong with the body comes before a timeout that is well-formed, a wrong path before all.
    let page = timed(&cluster, "1n", "/v3/kv/range", "{").await;
    assert_eq!((page.status, page.json()["message"].as_str()), (400, Some("unexpected EOF")));
    assert_eq!(timed(&cluster, "x", "/v3/nope", "").await.status, 404);
    // A write that was late was not done.
    let answer = cluster.raw(0).kv.clone().range(get("foo")).await.unwrap().into_inner();
    assert_eq!((answer.count, answer.header.unwrap().revision), (0, 1));
}

async fn a_call_is_answered_when_its_time_is_over(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    for lease in [77, 78] {
        post(&cluster, "/v3/lease/grant", &format!(r#"{{"TTL":600,"ID":{lease}}}"#)).await;
    }
    let held = post(&cluster, "/v3/lock/lock", r#"{"name":"bA==","lease":77}"#).await;
    assert_eq!(held.status, 200, "{}", held.body);
    let begun = Instant::now();
    let page = timed(&cluster, "200m", "/v3/lock/lock", r#"{"name":"bA==","lease":78}"#).await;
    assert_eq!((page.status, &normal(&page.body)[..]), (504, EXCEEDED));
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
    // Who waited has left the queue.
    eventually("one that waits no more", async || {
        let page = post(&cluster, "/v3/kv/range", r#"{"key":"bA==","range_end":"bQ=="}"#).await;
        if page.json()["count"] == "1" { Ok(()) } else { Err(page.body) }
    })
    .await;
}

async fn a_stream_tells_that_its_time_is_over(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let error = format!(r#"{{"error":{EXCEEDED}}}"#);
    let headers = [("Grpc-Timeout", "400m"), ("Connection", "close")];
    let begun = Instant::now();
    let create = r#"{"create_request":{"key":"Zm9v"}}"#;
    let mut watch = Lines::open_with(&address(&cluster, 0), "/v3/watch", &headers, create).await;
    assert_eq!(watch.page.status, 200);
    assert!(watch.next().await.contains("created"));
    assert_eq!(normal(&watch.next().await), error);
    assert_eq!(watch.maybe_next().await, None);
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
    // Before its first line it fails with a status of its own.
    for (path, body) in [("/v3/watch", ""), ("/v3/election/observe", r#"{"name":"YQ=="}"#)] {
        let page = timed(&cluster, "100m", path, body).await;
        // etcd's own client is told of it twice, and either text may be the first.
        let error = &page.json()["error"];
        assert_eq!((page.status, &error["code"]), (504, &4.into()), "{path}");
        if product().ours {
            assert_eq!(error["message"], "context deadline exceeded", "{path}");
        }
    }
    // Requests that end in time have all their answers.
    let page = timed(&cluster, "60S", "/v3/lease/keepalive", r#"{"ID":1}"#).await;
    assert_eq!((page.status, page.body.lines().count()), (200, 1), "{}", page.body);
}
