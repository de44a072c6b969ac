//! The JSON gateway and clients that speak HTTP/1.1 in unusual ways, or break off.
//!
//! What is expected was taken from etcd 3.7.1; run against it (see `product`), the same must pass.

use crate::cluster::{Cluster, Engine, eventually};
use crate::gateway::normal;
use crate::on_each_engine;
use crate::pages::{address, http, send};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

on_each_engine![
    a_client_that_breaks_off_ends_its_call,
    a_call_waits_for_the_end_of_its_request,
    heads_and_bodies_of_http_1_are_taken_as_by_etcd,
];

/// Calls as the metrics name them.
const WATCH: &str = "grpc_service=\"etcdserverpb.Watch\"";
const OBSERVE: &str = "grpc_method=\"Observe\"";
const CAMPAIGN: &str = "grpc_method=\"Campaign\"";

/// The start of a request by hand.
fn posted(path: &str, headers: &[&str], body: &str) -> String {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("POST {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}")
}

async fn a_client_that_breaks_off_ends_its_call(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let watch = r#"{"create_request":{"key":"a2V5"}}"#;
    let observe = r#"{"name":"bmFtZQ=="}"#;
    let mut client = cluster.client().await;
    let lease = client.lease_grant(600, None).await.unwrap().id();
    client.campaign("taken", "v", lease).await.unwrap();
    let lease = client.lease_grant(600, None).await.unwrap().id();
    let campaign = format!(r#"{{"name":"dGFrZW4=","lease":"{lease}","value":"dg=="}}"#);
    let chunk = |json: &str| format!("{:x}\r\n{json}\r\n", json.len());
    let chunked = "Transfer-Encoding: chunked";
    let whole =
        |path: &str, json: &str| posted(path, &[&format!("Content-Length: {}", json.len())], json);
    // Bytes of a next request come with some of them.
    let requests = [
        (WATCH, posted("/v3/watch", &[chunked], &chunk(watch))),
        (WATCH, posted("/v3/watch", &["Content-Length: 99"], watch)),
        (WATCH, whole("/v3/watch", watch)),
        (WATCH, whole("/v3/watch", watch) + "\r"),
        (WATCH, whole("/v3/watch", watch) + &whole("/v3/watch", watch)),
        (OBSERVE, whole("/v3/election/observe", observe)),
        (OBSERVE, whole("/v3/election/observe", observe) + "POST"),
        (CAMPAIGN, whole("/v3/election/campaign", &campaign) + "POST"),
    ];
    let page = async || http(&cluster, 0, "GET", "/metrics").await.body;
    let count = |page: &str, family: &str, service: &str| -> u64 {
        let numbers =
            page.lines().filter(|line| line.starts_with(family) && line.contains(service));
        numbers.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
    };
    for (call, request) in requests {
        for half in [false, true] {
            let begun = count(&page().await, "grpc_server_started_total", call);
            let mut stream = TcpStream::connect(address(&cluster, 0)).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            eventually("the call to begin", async || {
                let now = count(&page().await, "grpc_server_started_total", call);
                if now > begun { Ok(()) } else { Err(format!("{now} calls")) }
            })
            .await;
            if half {
                stream.shutdown().await.unwrap();
            } else {
                drop(stream);
            }
            eventually("the call to end", async || {
                let page = page().await;
                let begun = count(&page, "grpc_server_started_total", call);
                let ended = count(&page, "grpc_server_handled_total", call);
                let what = || format!("{ended} of {begun} have ended, half {half}: {request:?}");
                if ended == begun { Ok(()) } else { Err(what()) }
            })
            .await;
        }
    }
    let page = page().await;
    assert!(page.contains("\netcd_debugging_mvcc_watcher_total 0\n"), "watches are left");
}

/// A client that still sends may not look for an answer, and goes on with the connection.
async fn a_call_waits_for_the_end_of_its_request(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let put = r#"{"key":"YQ==","value":"YQ=="}"#;
    let chunked = posted("/v3/kv/put", &["Transfer-Encoding: chunked"], "");
    let longer = posted("/v3/kv/put", &[&format!("Content-Length: {}", put.len() + 1)], "");
    for (begin, end) in [
        (format!("{chunked}{:x}\r\n{put}\r\n", put.len()), "0\r\n\r\n"),
        (format!("{longer}{put}"), "\n"),
    ] {
        let revision = async || cluster.client().await.get("a", None).await.unwrap();
        let before = revision().await.header().unwrap().revision();
        let mut stream = TcpStream::connect(address(&cluster, 0)).await.unwrap();
        stream.write_all(begin.as_bytes()).await.unwrap();
        // By the time of a second answer the first would be on its way too.
        for _ in 0..2 {
            assert_eq!(revision().await.header().unwrap().revision(), before, "{begin:?}");
        }
        let next = posted("/v3/kv/put", &["Content-Length: 29", "Connection: close"], put);
        assert_eq!(put.len(), 29);
        stream.write_all(format!("{end}{next}").as_bytes()).await.unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).await.unwrap();
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
        assert_eq!(revision().await.header().unwrap().revision(), before + 2);
    }
}

async fn heads_and_bodies_of_http_1_are_taken_as_by_etcd(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let answer = async |request: String| {
        let mut stream = TcpStream::connect(address(&cluster, 0)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        normal(&answer)
    };
    let close = "Connection: close";
    let cut = r#"{"code":3,"message":"unexpected EOF"}"#;
    for (headers, body) in [
        (["Content-Length: 20", close], r#"{"key":"#),
        (["Transfer-Encoding: chunked", close], "e\r\n{\"key\":"),
    ] {
        let answer = answer(posted("/v3/kv/range", &headers, body)).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
        assert!(answer.ends_with(cut), "{answer}");
    }
    let address = address(&cluster, 0);
    let bin = [("Grpc-Metadata-X-Bin", "!!!")];
    for path in ["/v3/kv/range", "/v3/watch"] {
        let page = send(&address, "POST", path, &bin, b"{}").await;
        let text = r#"{"code":3,"message":"invalid binary header Grpc-Metadata-X-Bin: illegal base64 data at input byte 0"}"#;
        assert_eq!((page.status, &normal(&page.body)[..]), (400, text), "{path}");
    }
    let (names, long): (Vec<_>, _) =
        ((0..500).map(|n| format!("X-{n}")).collect(), "x".repeat(900_000));
    let many: Vec<_> = names.iter().map(|name| (&name[..], "y")).collect();
    for headers in [&many[..], &[("X", &long)]] {
        assert_eq!(send(&address, "GET", "/version", headers, b"").await.status, 200);
    }
    assert_eq!(http(&cluster, 0, "POST", "/readyz/nope").await.status, 404);
    assert_eq!(http(&cluster, 0, "POST", "/readyz/data_corruption").await.status, 405);
    // A small database comes in one piece.
    let page = send(&address, "POST", "/v3/maintenance/snapshot", &[], b"{}").await;
    assert!(page.body.starts_with(r#"{"result":{"blob":""#), "{}", &page.body[..99]);
}
