//! What a member says about itself: HTTP endpoints, health, status, members, headers.

use crate::cluster::{Cluster, Engine, Ports, Setup, eventually, product};
use crate::on_each_engine;
use crate::pages::{address, http, send};
use crate::requests::{get, put};
use quoin::pb::etcdserverpb::MemberListRequest;
use quoin::pb::health::HealthCheckRequest;
use quoin::pb::health::health_check_response::ServingStatus;
use sha1::{Digest, Sha1};
use tonic::Code;

on_each_engine![
    probes_are_answered_on_the_client_port,
    only_grpc_calls_are_carried_out,
    pages_look_as_they_do_from_etcd,
    hosts_and_origins_are_checked,
    profiles_are_shown_where_they_are_asked_for,
    http_can_have_addresses_of_its_own,
    variables_of_the_process_are_shown,
    members_are_listed_for_members,
    a_member_without_a_leader_is_not_ready,
    the_health_service_knows_the_server,
    every_member_lists_all_members,
    status_tells_where_a_member_stands,
    headers_name_cluster_member_and_term,
    ids_are_computed_from_urls_and_token,
];

/// What a page on the web can make a browser send must not write.
async fn only_grpc_calls_are_carried_out(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let message = b"\0\0\0\0\x06\x0a\x01k\x12\x01v";
    for kind in ["text/plain", "application/grpc", "application/json"] {
        let kind = [("Content-Type", kind)];
        let page =
            send(&address(&cluster, 0), "POST", "/etcdserverpb.KV/Put", &kind, message).await;
        assert_eq!((page.status, &page.body[..]), (404, "404 page not found\n"), "{kind:?}");
    }
    let stored = cluster.raw(0).kv.clone().range(get("k")).await.unwrap().into_inner();
    assert_eq!(stored.kvs, []);
}

async fn probes_are_answered_on_the_client_port(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let page = async |path: &str| http(&cluster, 0, "GET", path).await;

    let health = page("/health").await;
    assert_eq!(health.status, 200);
    assert_eq!(health.json()["health"], "true");
    let version = page("/version").await;
    assert_eq!(version.status, 200);
    assert!(version.headers.contains("content-type: application/json"), "{}", version.headers);
    let (major, minor) = product().version;
    let server = version.json()["etcdserver"].as_str().unwrap().to_owned();
    assert!(server.starts_with(&format!("{major}.{minor}.")), "{server}");
    eventually("a cluster version", async || {
        let decided = page("/version").await.json();
        match decided["etcdcluster"].as_str() {
            Some(text) if text == format!("{major}.{minor}.0") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(page("/nonsense").await.status, 404);
    if !product().at_least(3, 7) {
        return;
    }

    assert_eq!(health.body, r#"{"health":"true","reason":""}"#);
    assert_eq!(page("/health?serializable=true").await.status, 200);
    eventually("a storage version", async || {
        let body = page("/version").await.body;
        let decided = format!(
            r#"{{"etcdserver":"{server}","etcdcluster":"{major}.{minor}.0","storage":"{major}.{minor}.0"}}"#
        );
        if body == decided { Ok(()) } else { Err(body) }
    })
    .await;
    for path in ["/livez", "/readyz", "/livez/serializable_read", "/readyz/linearizable_read"] {
        let probe = page(path).await;
        assert_eq!((probe.status, &probe.body[..]), (200, "ok\n"), "{path}");
        assert!(probe.headers.contains("content-type: text/plain; charset=utf-8"));
        assert!(probe.headers.contains("x-content-type-options: nosniff"));
    }
    let checks = async |path: &str| {
        let page = page(path).await;
        assert_eq!(page.status, 200, "{path}: {}", page.body);
        let mut lines: Vec<String> = page.body.lines().map(str::to_owned).collect();
        assert_eq!(lines.pop().as_deref(), Some("ok"));
        lines.sort();
        lines.join(" ")
    };
    assert_eq!(checks("/livez?verbose").await, "[+]serializable_read ok");
    assert_eq!(
        checks("/readyz?verbose").await,
        "[+]data_corruption ok [+]linearizable_read ok [+]non_learner ok [+]serializable_read ok"
    );
    let fewer = "/readyz?verbose&exclude=data_corruption&exclude=linearizable_read&exclude=no";
    assert_eq!(checks(fewer).await, "[+]non_learner ok [+]serializable_read ok");
    assert_eq!(page("/readyz/nonsense").await.status, 404);
    for path in ["/health", "/livez", "/readyz", "/version"] {
        let refused = http(&cluster, 0, "POST", path).await;
        assert_eq!((refused.status, &refused.body[..]), (405, "Method Not Allowed\n"), "{path}");
        assert_eq!(refused.header("allow"), Some("GET"), "{path}: {}", refused.headers);
    }
    let missing = page("/nonsense").await;
    assert_eq!(missing.body, "404 page not found\n");
}

/// Status, content type, the header against guessing it, and body.
async fn pages_look_as_they_do_from_etcd(engine: Engine) {
    if !product().at_least(3, 7) {
        return;
    }
    let cluster = Cluster::start(engine, 1).await;
    let plain = Some("text/plain; charset=utf-8");
    let nosniff = Some("nosniff");
    let healthy = r#"{"health":"true","reason":""}"#;
    let table = [
        ("/health", 200, plain, None, healthy),
        ("/health?exclude=NOSPACE&exclude=CORRUPT", 200, plain, None, healthy),
        ("/livez", 200, plain, nosniff, "ok\n"),
        ("/livez?exclude=serializable_read", 200, plain, nosniff, "ok\n"),
        ("/livez?verbose&exclude=serializable_read", 200, plain, nosniff, "ok\n"),
        ("/readyz/non_learner?verbose", 200, plain, nosniff, "[+]non_learner ok\nok\n"),
        ("/livez/", 404, plain, nosniff, "404 page not found\n"),
        ("/livez/linearizable_read", 404, plain, nosniff, "404 page not found\n"),
        ("/health/", 404, plain, nosniff, "404 page not found\n"),
        ("/", 404, plain, nosniff, "404 page not found\n"),
        ("/v2/keys", 404, plain, nosniff, "404 page not found\n"),
        ("/config/local/log", 404, plain, nosniff, "404 page not found\n"),
        ("/members", 404, plain, nosniff, "404 page not found\n"),
    ];
    for (path, status, kind, sniff, body) in table {
        let page = http(&cluster, 0, "GET", path).await;
        assert_eq!((page.status, &page.body[..]), (status, body), "{path}");
        assert_eq!(page.header("content-type"), kind, "{path}");
        assert_eq!(page.header("x-content-type-options"), sniff, "{path}");
        assert_eq!(page.header("access-control-allow-origin"), Some("*"), "{path}");
    }
    for path in ["/health", "/livez", "/readyz", "/readyz/non_learner", "/version", "/debug/vars"] {
        for method in ["POST", "HEAD", "DELETE"] {
            let page = http(&cluster, 0, method, path).await;
            let body = if method == "HEAD" { "" } else { "Method Not Allowed\n" };
            assert_eq!((page.status, &page.body[..]), (405, body), "{method} {path}");
            assert_eq!(page.header("allow"), Some("GET"), "{method} {path}");
            assert_eq!(page.header("content-type"), plain, "{method} {path}");
            assert_eq!(page.header("x-content-type-options"), nosniff, "{method} {path}");
        }
        let asked = http(&cluster, 0, "OPTIONS", path).await;
        assert_eq!((asked.status, &asked.body[..]), (200, ""), "{path}");
        let methods = asked.header("access-control-allow-methods");
        assert_eq!(methods, Some("POST, GET, OPTIONS, PUT, DELETE"), "{path}");
        let headers = asked.header("access-control-allow-headers");
        assert_eq!(headers, Some("accept, content-type, authorization"), "{path}");
    }
}

async fn profiles_are_shown_where_they_are_asked_for(engine: Engine) {
    let cluster = Setup::new(engine, 1).flag("--enable-pprof").start().await;
    let page = http(&cluster, 0, "GET", "/debug/pprof/cmdline").await;
    assert_eq!((page.status, page.header("x-content-type-options")), (200, Some("nosniff")));
    assert!(page.body.split('\0').any(|argument| argument == "--enable-pprof"), "{}", page.body);
    let index = http(&cluster, 0, "GET", "/debug/pprof/").await;
    assert!(index.status == 200 && index.body.contains("cmdline"), "{}", index.body);
    let unknown = http(&cluster, 0, "GET", "/debug/pprof/nothing").await;
    assert_eq!((unknown.status, &unknown.body[..]), (404, "Unknown profile\n"));
    assert_eq!(unknown.header("x-go-pprof"), Some("1"));
    if product().ours {
        let heap = http(&cluster, 0, "GET", "/debug/pprof/heap").await;
        assert_eq!((heap.status, heap.header("x-go-pprof")), (501, Some("1")));
        assert!(heap.body.contains("perf record"), "{}", heap.body);
    }
    let cluster = Cluster::start(engine, 1).await;
    for path in ["/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/heap"] {
        assert_eq!(http(&cluster, 0, "GET", path).await.status, 404, "{path}");
    }
}

async fn hosts_and_origins_are_checked(engine: Engine) {
    let cluster = Setup::new(engine, 1)
        .flag("--host-whitelist=localhost,good.example")
        .flag("--cors=http://a.example:80,http://b.example:81")
        .start()
        .await;
    let address = address(&cluster, 0);
    let get = async |headers: &[(&str, &str)]| {
        let page = send(&address, "GET", "/version", headers, b"").await;
        let origin = page.header("access-control-allow-origin").map(str::to_owned);
        (page.status, origin)
    };
    for host in ["localhost", "localhost:1", "good.example:999"] {
        assert_eq!(get(&[("Host", host)]).await, (200, None), "{host}");
    }
    for host in [&address, "evil.example", "evil.example:80", "GOOD.example", "[::1]:1", ""] {
        assert_eq!(get(&[("Host", host), ("Origin", "http://b.example:81")]).await, (421, None));
    }
    for path in ["/health", "/v3/kv/range", "/nonsense"] {
        let evil = [("Host", "evil.example")];
        for method in ["GET", "POST", "OPTIONS"] {
            let page = send(&address, method, path, &evil, b"").await;
            assert_eq!(page.status, 421, "{method} {path}");
        }
    }
    for (origin, is_allowed) in [
        ("http://a.example:80", true),
        ("http://b.example:81", true),
        ("http://b.example", false),
        ("https://a.example:80", false),
        ("null", false),
    ] {
        let allowed = is_allowed.then(|| origin.to_owned());
        let asked = [("Host", "localhost"), ("Origin", origin)];
        assert_eq!(get(&asked).await, (200, allowed.clone()), "{origin}");
        let page = send(&address, "OPTIONS", "/v3/kv/range", &asked, b"").await;
        assert_eq!(page.status, 200);
        assert_eq!(page.header("access-control-allow-origin").map(str::to_owned), allowed);
    }
    // No browser speaks gRPC: it is not concerned.
    cluster.raw(0).kv.clone().put(put("key", "v")).await.unwrap();
}

async fn http_can_have_addresses_of_its_own(engine: Engine) {
    let mut ports = Ports::reserve();
    let (web, metrics) = (ports.take(), ports.take());
    let cluster = Setup::new(engine, 1)
        .flag(format!("--listen-client-http-urls=http://127.0.0.1:{web}"))
        .flag(format!("--listen-metrics-urls=http://127.0.0.1:{metrics}"))
        .start()
        .await;
    let (web, metrics) = (format!("127.0.0.1:{web}"), format!("127.0.0.1:{metrics}"));
    cluster.raw(0).kv.clone().put(put("key", "v")).await.unwrap();
    let range = br#"{"key":"a2V5"}"#;
    let read = eventually("a listener for HTTP", async || {
        match tokio::net::TcpStream::connect(&web).await {
            Ok(_) => Ok(send(&web, "POST", "/v3/kv/range", &[], range).await),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
    assert_eq!(read.json()["count"], "1");
    for path in ["/version", "/health", "/readyz", "/debug/vars"] {
        assert_eq!(send(&web, "GET", path, &[], b"").await.status, 200, "{path}");
    }
    let kind = [("content-type", "application/grpc")];
    let call = send(&web, "POST", "/etcdserverpb.KV/Range", &kind, b"").await;
    assert_eq!(call.status, 404, "no gRPC here");
    if product().ours {
        for path in ["/version", "/health", "/v3/kv/range"] {
            assert_eq!(http(&cluster, 0, "GET", path).await.status, 415, "{path}");
        }
    }
    for (path, status) in [
        ("/health", 200),
        ("/livez", 200),
        ("/readyz/linearizable_read", 200),
        ("/version", 404),
        ("/debug/vars", 404),
        ("/v3/kv/range", 404),
        ("/", 404),
    ] {
        let page = send(&metrics, "GET", path, &[("Host", "any")], b"").await;
        assert_eq!(
            (page.status, page.header("access-control-allow-origin")),
            (status, None),
            "{path}"
        );
    }
    assert_eq!(send(&metrics, "OPTIONS", "/health", &[], b"").await.status, 405);
}

async fn variables_of_the_process_are_shown(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    cluster.raw(0).kv.clone().put(put("key", "v")).await.unwrap();
    let page = http(&cluster, 0, "GET", "/debug/vars").await;
    assert_eq!(page.header("content-type"), Some("application/json; charset=utf-8"));
    assert!(page.body.starts_with("{\n\"cmdline\": [\"") && page.body.ends_with("}\n}\n"));
    let vars = page.json();
    let flag = format!("--name={}", cluster.members[0].name);
    assert!(vars["cmdline"].as_array().unwrap().contains(&flag.into()), "{vars}");
    assert!(vars["file_descriptor_limit"].as_u64().unwrap() > 0);
    assert!(vars["memstats"]["Sys"].as_u64().unwrap() > 1 << 20);
    let header = cluster.raw(0).status().await.unwrap().header.unwrap();
    let id = serde_json::Value::from(format!("{:x}", header.member_id));
    let raft = &vars["raft.status"];
    assert_eq!((&raft["id"], &raft["lead"], &raft["vote"]), (&id, &id, &id));
    assert_eq!(
        (&raft["raftState"], &raft["term"]),
        (&"StateLeader".into(), &header.raft_term.into())
    );
    assert!(raft["applied"].as_u64() > Some(0) && raft["commit"].as_u64() > Some(0));
}

async fn members_are_listed_for_members(engine: Engine) {
    let cluster = Cluster::start(engine, 3).await;
    let peer = |index: usize| {
        let flag = "--listen-peer-urls=http://";
        let flags = &cluster.members[index].flags;
        flags.iter().find_map(|given| given.strip_prefix(flag)).unwrap().to_owned()
    };
    let list = MemberListRequest { linearizable: true };
    let answer = cluster.raw(0).cluster.member_list(list).await.unwrap().into_inner();
    let shown: Vec<String> = answer
        .members
        .iter()
        .map(|member| {
            format!(
                r#"{{"id":{},"peerURLs":["{}"],"name":"{}","clientURLs":["{}"]}}"#,
                member.id, member.peer_ur_ls[0], member.name, member.client_ur_ls[0]
            )
        })
        .collect();
    let cluster_id = format!("{:x}", answer.header.unwrap().cluster_id);
    for index in 0..3 {
        let page = eventually("all members with their URLs", async || {
            let page = send(&peer(index), "GET", "/members", &[], b"").await;
            if page.body.matches("clientURLs").count() == 3 { Ok(page) } else { Err(page.body) }
        })
        .await;
        assert_eq!(page.body, format!("[{}]\n", shown.join(",")));
        assert_eq!(page.header("content-type"), Some("application/json"));
        assert_eq!(page.header("x-etcd-cluster-id"), Some(&cluster_id[..]));
        assert_eq!(send(&peer(index), "GET", "/version", &[], b"").await.status, 200);
        for path in ["/health", "/metrics", "/v3/kv/range", "/nonsense"] {
            let page = send(&peer(index), "GET", path, &[], b"").await;
            assert_eq!((page.status, &page.body[..]), (404, "404 page not found\n"), "{path}");
        }
        let refused = send(&peer(index), "POST", "/members", &[], b"").await;
        assert_eq!((refused.status, refused.header("allow")), (405, Some("GET")));
    }
}

async fn a_member_without_a_leader_is_not_ready(engine: Engine) {
    let mut cluster = Setup::new(engine, 3).fast_elections().start().await;
    cluster.kill(1);
    cluster.kill(2);
    let lonely = eventually("bad health", async || {
        let page = http(&cluster, 0, "GET", "/health").await;
        match page.status {
            503 => Ok(page),
            status => Err(format!("{status}: {}", page.body)),
        }
    })
    .await;
    assert_eq!(lonely.json()["health"], "false");
    if !product().at_least(3, 7) {
        return;
    }
    eventually("the reason", async || {
        let page = http(&cluster, 0, "GET", "/health").await;
        assert_eq!(page.status, 503);
        match &page.body[..] {
            "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n" => Ok(()),
            body => Err(body.to_owned()),
        }
    })
    .await;
    // It lives, and serves what it has; it is not ready.
    assert_eq!(http(&cluster, 0, "GET", "/livez").await.status, 200);
    assert_eq!(http(&cluster, 0, "GET", "/health?serializable=true").await.status, 200);
    let unready = http(&cluster, 0, "GET", "/readyz").await;
    assert_eq!(unready.status, 503);
    let failed = "[-]linearizable_read failed: ";
    assert!(unready.body.contains(failed), "{:?}", unready.body);
    assert!(unready.body.contains("[+]serializable_read ok\n"), "{:?}", unready.body);
    let status = cluster.raw(0).status().await.unwrap();
    assert_eq!((status.leader, &status.errors[..]), (0, &["etcdserver: no leader".to_owned()][..]));

    cluster.start_all().await.unwrap();
    eventually("readiness", async || match http(&cluster, 0, "GET", "/readyz").await {
        page if page.status == 200 => Ok(()),
        page => Err(page.body),
    })
    .await;
}

async fn the_health_service_knows_the_server(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut health = cluster.raw(0).health;
    let check = |service: &str| HealthCheckRequest { service: service.into() };
    let answer = health.check(check("")).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    let unknown = health.check(check("no.such.Service")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let mut watch = health.watch(check("")).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
}

async fn every_member_lists_all_members(engine: Engine) {
    let cluster = Cluster::start(engine, 3).await;
    let mut lists = vec![];
    for index in 0..3 {
        // A member is listed in full once it has told the others about itself.
        let list = eventually("all members with their URLs", async || {
            let request = MemberListRequest { linearizable: true };
            let answer = cluster.raw(index).cluster.member_list(request).await;
            let mut members = answer.map_err(|e| e.to_string())?.into_inner();
            let header = members.header.take().unwrap();
            if product().at_least(3, 5) {
                assert_eq!(header.revision, 0, "the header of this call has no revision");
            }
            let known = members.members.iter().all(|member| !member.client_ur_ls.is_empty());
            if known { Ok(members.members) } else { Err(format!("{members:?}")) }
        })
        .await;
        lists.push(list);
    }
    assert_eq!(lists[0], lists[1]);
    assert_eq!(lists[0], lists[2]);
    for member in &cluster.members {
        let listed = lists[0].iter().find(|listed| listed.name == member.name).unwrap();
        assert_eq!(listed.client_ur_ls, std::slice::from_ref(&member.endpoint));
        let flag = "--initial-advertise-peer-urls=";
        let peer = member.flags.iter().find_map(|given| given.strip_prefix(flag)).unwrap();
        assert_eq!(listed.peer_ur_ls, [peer]);
        assert!(!listed.is_learner && listed.id != 0);
    }
    let local = MemberListRequest { linearizable: false };
    let answer = cluster.raw(1).cluster.member_list(local).await.unwrap().into_inner();
    assert_eq!(answer.members, lists[0]);
}

async fn status_tells_where_a_member_stands(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    raw.kv.clone().put(put("key", "value")).await.unwrap();
    let status = raw.status().await.unwrap();
    let header = status.header.unwrap();
    assert_eq!(status.leader, header.member_id);
    assert_eq!((status.raft_term, header.revision), (header.raft_term, 2));
    assert!(status.raft_index >= status.raft_applied_index && status.raft_applied_index > 0);
    assert!(status.errors.is_empty() && !status.is_learner);
    let (major, minor) = product().version;
    assert!(status.version.starts_with(&format!("{major}.{minor}.")), "{}", status.version);
    raw.kv.clone().put(put("key", "value")).await.unwrap();
    let later = raw.status().await.unwrap();
    assert!(later.raft_applied_index > status.raft_applied_index);
    assert_eq!(later.raft_term, status.raft_term);
    if product().at_least(3, 6) {
        eventually("a storage version", async || {
            let status = raw.status().await.unwrap();
            match &status.storage_version[..] {
                version if version == format!("{major}.{minor}.0") => Ok(()),
                other => Err(other.to_owned()),
            }
        })
        .await;
        assert_eq!(status.db_size_quota, 2 << 30);
    }
}

async fn headers_name_cluster_member_and_term(engine: Engine) {
    let cluster = Cluster::start(engine, 3).await;
    let mut seen = vec![];
    for index in 0..3 {
        let raw = cluster.raw(index);
        let written = raw.kv.clone().put(put("key", "v")).await.unwrap().into_inner();
        let read = raw.kv.clone().range(get("key")).await.unwrap().into_inner();
        let status = raw.status().await.unwrap();
        let headers = [written.header.unwrap(), read.header.unwrap(), status.header.unwrap()];
        for header in headers {
            assert_eq!(header.member_id, headers[0].member_id);
            assert_eq!(header.cluster_id, headers[0].cluster_id);
            assert_eq!(header.raft_term, status.raft_term);
            assert_eq!(header.revision, index as i64 + 2);
        }
        seen.push(headers[0]);
    }
    assert!(seen.iter().all(|header| header.cluster_id == seen[0].cluster_id));
    let mut ids: Vec<u64> = seen.iter().map(|header| header.member_id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3, "each member answers with its own id");
}

/// The first eight bytes of a hash over the peer URL and the token; for the cluster, over the
/// ids of its first members in order.
async fn ids_are_computed_from_urls_and_token(engine: Engine) {
    let first_eight = |bytes: &[u8]| {
        let hash = Sha1::digest(bytes);
        u64::from_be_bytes(hash[..8].try_into().unwrap())
    };
    let cluster = Cluster::start(engine, 3).await;
    let mut expected = vec![];
    for member in &cluster.members {
        let flag = "--initial-advertise-peer-urls=";
        let url = member.flags.iter().find_map(|given| given.strip_prefix(flag)).unwrap();
        expected.push(first_eight(format!("{url}new").as_bytes()));
    }
    let mut sorted = expected.clone();
    sorted.sort();
    let all: Vec<u8> = sorted.iter().flat_map(|id| id.to_be_bytes()).collect();
    for (index, id) in expected.iter().enumerate() {
        let header = cluster.raw(index).status().await.unwrap().header.unwrap();
        assert_eq!((header.member_id, header.cluster_id), (*id, first_eight(&all)));
    }
}
