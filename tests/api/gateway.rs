//! The JSON gateway: every path, what is taken, what is answered, streams and errors.
//!
//! The expected texts were taken from etcd 3.7.1; run against it (see `product`), the same list
//! must pass. Blanks after commas count for nothing: Go's protobuf library writes them or not,
//! from build to build.

use crate::cluster::{Cluster, Engine, Setup, eventually, product};
use crate::on_each_engine;
use crate::pages::{Lines, Page, address, http, send};
use crate::requests::{get, put};
use std::time::Duration;

on_each_engine![
    requests_are_answered_as_by_etcd,
    mistakes_are_answered_as_by_etcd,
    every_path_leads_to_its_call,
    a_watch_tells_what_happens_at_once,
    a_watch_takes_several_requests,
    leases_are_kept_alive_one_answer_a_request,
    locks_and_elections_are_served,
    streams_that_fail_say_so,
    tokens_reach_the_call,
    bodies_are_bounded,
    large_answers_are_whole,
    the_gateway_can_be_turned_off,
    http_2_carries_json_too,
];

/// Waiting longer than this for something that is not to come proves nothing more.
const SILENCE: Duration = Duration::from_millis(300);

/// An answer with what differs from run to run taken out.
pub fn normal(text: &str) -> String {
    let mut text = text.replace('\u{a0}', " ");
    for (spaced, tight) in [(", \"", ",\""), ("}, {", "},{")] {
        text = text.replace(spaced, tight);
    }
    for name in ["cluster_id", "member_id", "raft_term"] {
        let member = format!("\"{name}\":\"");
        let mut from = 0;
        while let Some(at) = text[from..].find(&member) {
            from += at + member.len();
            let digits = text[from..].find('"').expect("a closed string");
            text.replace_range(from..from + digits, "N");
        }
    }
    text.replace(r#""cluster_id":"N","member_id":"N""#, "IDS").replace(r#","raft_term":"N""#, "")
}

pub async fn post(cluster: &Cluster, path: &str, body: &str) -> Page {
    send(&address(cluster, 0), "POST", path, &[], body.as_bytes()).await
}

/// Sends each request and compares its answer: path, body, status, answer.
async fn all_answer(cluster: &Cluster, table: &[(&str, &str, u16, &str)]) {
    for (path, body, status, expected) in table {
        let page = post(cluster, path, body).await;
        assert_eq!((page.status, &normal(&page.body)[..]), (*status, *expected), "{path} {body}");
        assert_eq!(page.header("content-type"), Some("application/json"), "{path} {body}");
        let of_call = page.header("grpc-metadata-content-type");
        assert_eq!(of_call.is_some(), *status == 200, "{path} {body}");
        assert_eq!(page.header("access-control-allow-origin"), Some("*"), "{path} {body}");
    }
}

pub const FOO: &str = r#"{"key":"Zm9v"}"#;

async fn requests_are_answered_as_by_etcd(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let table = [
        (
            "/v3/kv/put",
            r#"{"key":"Zm9v","value":"YmFy"}"#,
            200,
            r#"{"header":{IDS,"revision":"2"}}"#,
        ),
        ("/v3/kv/range", FOO, 200, RANGE_AT_2),
        ("/v3beta/kv/range", FOO, 200, RANGE_AT_2),
        (
            "/v3/kv/range",
            r#"{"key":"Zm9v","rangeEnd":"AA==","sort_order":"DESCEND","sortTarget":2,"limit":"10","nope":1}"#,
            200,
            RANGE_AT_2,
        ),
        ("/v3/kv/range", r#" {"key":"Zm9v","limit":1e1,"revision":null} garbage"#, 200, RANGE_AT_2),
        ("/v3/kv/range", r#"{"key":"Zm9\nv","limit":"1e0"}{"key":""}"#, 200, RANGE_AT_2),
        ("/v3/kv/range", r#"{"key":"Zm9v","sort_order":"NO_SUCH"}"#, 200, RANGE_AT_2),
        ("/v3/kv/range", r#"{"key":"-_-_"}"#, 200, r#"{"header":{IDS,"revision":"2"}}"#),
        (
            "/v3/kv/range",
            r#"{"key":"Zm9v","count_only":true}"#,
            200,
            r#"{"header":{IDS,"revision":"2"},"count":"1"}"#,
        ),
        (
            "/v3/kv/txn",
            r#"{"compare":[{"result":"EQUAL","target":"CREATE","key":"Zm9v","createRevision":"2"}],
                "success":[{"requestPut":{"key":"Zm9v","value":"eA=="}}],"failure":[]}"#,
            200,
            r#"{"header":{IDS,"revision":"3"},"succeeded":true,"responses":[{"response_put":{"header":{"revision":"3"}}}]}"#,
        ),
        (
            "/v3/kv/txn",
            r#"{"success":[{"requestRange":{"key":"Zm9v"}},{"request_delete_range":{"key":"eA=="}}]}"#,
            200,
            r#"{"header":{IDS,"revision":"3"},"succeeded":true,"responses":[{"response_range":{"header":{"revision":"3"},"kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"3","version":"2","value":"eA=="}],"count":"1"}},{"response_delete_range":{"header":{"revision":"3"}}}]}"#,
        ),
        (
            "/v3/kv/deleterange",
            r#"{"key":"Zm9v","prev_kv":true}"#,
            200,
            r#"{"header":{IDS,"revision":"4"},"deleted":"1","prev_kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"3","version":"2","value":"eA=="}]}"#,
        ),
        (
            "/v3/lease/grant",
            r#"{"TTL":"20","ID":77}"#,
            200,
            r#"{"header":{IDS,"revision":"4"},"ID":"77","TTL":"20"}"#,
        ),
        ("/v3/lease/leases", "{}", 200, LEASES),
        ("/v3/kv/lease/leases", "", 200, LEASES),
        (
            "/v3/lease/timetolive",
            r#"{"ID":"78","keys":true}"#,
            200,
            r#"{"header":{IDS,"revision":"4"},"ID":"78","TTL":"-1"}"#,
        ),
        ("/v3/kv/lease/revoke", r#"{"ID":"77"}"#, 200, r#"{"header":{IDS,"revision":"4"}}"#),
        ("/v3/kv/compaction", r#"{"revision":3}"#, 200, r#"{"header":{IDS,"revision":"4"}}"#),
        ("/v3/maintenance/alarm", "{}", 200, r#"{"header":{IDS,"revision":"4"}}"#),
        ("/v3/maintenance/defragment", "{}", 200, "{}"),
    ];
    all_answer(&cluster, &table).await;

    let name = &cluster.members[0].name;
    let endpoint = &cluster.members[0].endpoint;
    let listed = post(&cluster, "/v3/cluster/member/list", "{}").await.json();
    let member = &listed["members"][0];
    assert_eq!(
        (&member["name"], &member["clientURLs"][0]),
        (&name[..].into(), &endpoint[..].into())
    );
    assert!(member["ID"].is_string() && member["peerURLs"][0].is_string());
    assert_eq!(listed["header"]["revision"], serde_json::Value::Null);
    let status = post(&cluster, "/v3/maintenance/status", "{}").await;
    assert!(normal(&status.body).contains(r#""version":"3.7.1""#), "{}", status.body);
    assert!(status.json()["dbSize"].is_string(), "{}", status.body);
    let hash = post(&cluster, "/v3/maintenance/hashkv", "{}").await;
    assert!(hash.json()["hash"].is_u64(), "{}", hash.body);
    assert_eq!(hash.json()["compact_revision"], "3");
}

const RANGE_AT_2: &str = r#"{"header":{IDS,"revision":"2"},"kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"2","version":"1","value":"YmFy"}],"count":"1"}"#;
const LEASES: &str = r#"{"header":{IDS,"revision":"4"},"leases":[{"ID":"77"}]}"#;

async fn mistakes_are_answered_as_by_etcd(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let no_key = r#"{"code":3,"message":"etcdserver: key is not provided"}"#;
    let future =
        r#"{"code":11,"message":"etcdserver: mvcc: required revision is a future revision"}"#;
    let not_found = r#"{"code":5,"message":"Not Found"}"#;
    let table = [
        ("/v3/kv/range", "", 400, no_key),
        ("/v3/kv/range", " ", 400, no_key),
        ("/v3/kv/range", r#"{"key":null}"#, 400, no_key),
        ("/v3/kv/range", "{", 400, r#"{"code":3,"message":"unexpected EOF"}"#),
        (
            "/v3/kv/range",
            "a=b",
            400,
            r#"{"code":3,"message":"invalid character 'a' looking for beginning of value"}"#,
        ),
        (
            "/v3/kv/range",
            r#"{"key" "Zm9v"}"#,
            400,
            r#"{"code":3,"message":"invalid character '\"' after object key"}"#,
        ),
        (
            "/v3/kv/range",
            "[]",
            400,
            r#"{"code":3,"message":"proto: syntax error (line 1:1): unexpected token ["}"#,
        ),
        (
            "/v3/kv/range",
            r#"{"key":"***"}"#,
            400,
            r#"{"code":3,"message":"proto: (line 1:8): invalid value for bytes field key: \"***\""}"#,
        ),
        (
            "/v3/kv/range",
            r#"{"key":"Zm9v","keys_only":"true"}"#,
            400,
            r#"{"code":3,"message":"proto: (line 1:27): invalid value for bool field keysOnly: \"true\""}"#,
        ),
        (
            "/v3/kv/range",
            r#"{"key":"Zm9v","key":"Zm8="}"#,
            400,
            r#"{"code":3,"message":"proto: (line 1:15): duplicate field \"key\""}"#,
        ),
        (
            "/v3/kv/txn",
            r#"{"success":[{"requestPut":{"key":"Zm9v"},"requestRange":{"key":"Zm9v"}}]}"#,
            400,
            r#"{"code":3,"message":"proto: (line 1:42): error parsing \"requestRange\", oneof etcdserverpb.RequestOp.request is already set"}"#,
        ),
        (
            "/v3/kv/txn",
            r#"{"success":[{"requestXX":{"key":"Zm9v"}}]}"#,
            400,
            r#"{"code":3,"message":"etcdserver: key not found"}"#,
        ),
        ("/v3/kv/range", r#"{"key":"Zm9v","revision":100}"#, 400, future),
        ("/v3/kv/compaction", r#"{"revision":"100"}"#, 400, future),
        (
            "/v3/kv/range",
            r#"{"key":"Zm9v","sort_order":77}"#,
            400,
            r#"{"code":3,"message":"etcdserver: invalid sort option"}"#,
        ),
        (
            "/v3/lease/revoke",
            r#"{"ID":77}"#,
            404,
            r#"{"code":5,"message":"etcdserver: requested lease not found"}"#,
        ),
        (
            "/v3/maintenance/snapshot",
            "x",
            400,
            r#"{"code":3,"message":"invalid character 'x' looking for beginning of value"}"#,
        ),
        ("/v3/nope", "{}", 404, not_found),
        ("/v3/", "{}", 404, not_found),
        ("/v3/kv/range/", "{}", 404, not_found),
        ("/v3beta/nope", "{}", 404, not_found),
    ];
    all_answer(&cluster, &table).await;
    for method in ["GET", "PUT", "DELETE"] {
        let page = http(&cluster, 0, method, "/v3/kv/range").await;
        let expected = (501, r#"{"code":12,"message":"Method Not Allowed"}"#);
        assert_eq!((page.status, &normal(&page.body)[..]), expected, "{method}");
    }
    let asked = http(&cluster, 0, "OPTIONS", "/v3/kv/range").await;
    assert_eq!((asked.status, &asked.body[..]), (200, ""));
    for path in ["/v3alpha/kv/range", "/v2/keys", "/etcdserverpb.KV/Range"] {
        let page = post(&cluster, path, FOO).await;
        assert_eq!((page.status, &page.body[..]), (404, "404 page not found\n"), "{path}");
    }
    for (path, better) in [
        ("/v3", "/v3/"),
        ("//v3/kv/range", "/v3/kv/range"),
        ("/v3/kv//range/?a=b&c", "/v3/kv/range/?a=b&c"),
        ("/v3/./lease/../kv/range", "/v3/kv/range"),
    ] {
        let page = post(&cluster, path, FOO).await;
        assert_eq!((page.status, page.header("location")), (307, Some(better)), "{path}");
        assert_eq!((&page.body[..], page.header("content-type")), ("", None), "{path}");
        let page = http(&cluster, 0, "GET", path).await;
        let body =
            format!("<a href=\"{}\">Temporary Redirect</a>.\n\n", better.replace('&', "&amp;"));
        assert_eq!((page.status, page.body), (307, body), "{path}");
    }
    // What says that it is gRPC but comes by HTTP/1.1 is none.
    let kind = [("Content-Type", "application/grpc")];
    let page = send(&address(&cluster, 0), "POST", "/v3/kv/range", &kind, FOO.as_bytes()).await;
    assert_eq!(page.status, 200, "{}", page.body);
}

/// Paths and calls as the contract lists them. What a service answers is its own tests' business; here it
/// only must be the service that answers.
pub const PATHS: [(&str, &str); 51] = [
    ("kv/range", "KV/Range"),
    ("kv/put", "KV/Put"),
    ("kv/deleterange", "KV/DeleteRange"),
    ("kv/txn", "KV/Txn"),
    ("kv/compaction", "KV/Compact"),
    ("watch", "Watch/Watch"),
    ("lease/grant", "Lease/LeaseGrant"),
    ("lease/revoke", "Lease/LeaseRevoke"),
    ("kv/lease/revoke", "Lease/LeaseRevoke"),
    ("lease/keepalive", "Lease/LeaseKeepAlive"),
    ("lease/timetolive", "Lease/LeaseTimeToLive"),
    ("kv/lease/timetolive", "Lease/LeaseTimeToLive"),
    ("lease/leases", "Lease/LeaseLeases"),
    ("kv/lease/leases", "Lease/LeaseLeases"),
    ("cluster/member/add", "Cluster/MemberAdd"),
    ("cluster/member/remove", "Cluster/MemberRemove"),
    ("cluster/member/update", "Cluster/MemberUpdate"),
    ("cluster/member/list", "Cluster/MemberList"),
    ("cluster/member/promote", "Cluster/MemberPromote"),
    ("maintenance/alarm", "Maintenance/Alarm"),
    ("maintenance/status", "Maintenance/Status"),
    ("maintenance/defragment", "Maintenance/Defragment"),
    ("maintenance/hash", "Maintenance/Hash"),
    ("maintenance/hashkv", "Maintenance/HashKV"),
    ("maintenance/snapshot", "Maintenance/Snapshot"),
    ("maintenance/transfer-leadership", "Maintenance/MoveLeader"),
    ("maintenance/downgrade", "Maintenance/Downgrade"),
    ("auth/enable", "Auth/AuthEnable"),
    ("auth/disable", "Auth/AuthDisable"),
    ("auth/status", "Auth/AuthStatus"),
    ("auth/authenticate", "Auth/Authenticate"),
    ("auth/user/add", "Auth/UserAdd"),
    ("auth/user/get", "Auth/UserGet"),
    ("auth/user/list", "Auth/UserList"),
    ("auth/user/delete", "Auth/UserDelete"),
    ("auth/user/changepw", "Auth/UserChangePassword"),
    ("auth/user/grant", "Auth/UserGrantRole"),
    ("auth/user/revoke", "Auth/UserRevokeRole"),
    ("auth/role/add", "Auth/RoleAdd"),
    ("auth/role/get", "Auth/RoleGet"),
    ("auth/role/list", "Auth/RoleList"),
    ("auth/role/delete", "Auth/RoleDelete"),
    ("auth/role/grant", "Auth/RoleGrantPermission"),
    ("auth/role/revoke", "Auth/RoleRevokePermission"),
    ("lock/lock", "Lock/Lock"),
    ("lock/unlock", "Lock/Unlock"),
    ("election/campaign", "Election/Campaign"),
    ("election/proclaim", "Election/Proclaim"),
    ("election/leader", "Election/Leader"),
    ("election/observe", "Election/Observe"),
    ("election/resign", "Election/Resign"),
];

async fn every_path_leads_to_its_call(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    for (path, _) in PATHS {
        let path = format!("/v3/{path}");
        let refused = http(&cluster, 0, "GET", &path).await;
        assert_eq!(refused.status, 501, "{path}: {}", refused.body);
        // No call takes a number, but for one that has begun, and those that wait for more.
        if ["/v3/watch", "/v3/lease/keepalive"].contains(&&path[..]) {
            continue;
        }
        let refused = post(&cluster, &path, "7").await;
        let expected =
            r#"{"code":3,"message":"proto: syntax error (line 1:1): unexpected token 7"}"#;
        assert_eq!((refused.status, &normal(&refused.body)[..]), (400, expected), "{path}");
    }
}

async fn a_watch_tells_what_happens_at_once(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut kv = cluster.raw(0).kv.clone();
    kv.put(put("foo", "1")).await.unwrap();
    let request = r#"{"create_request":{"key":"Zm9v","prev_kv":true,"start_revision":"2"}}"#;
    let mut watch = Lines::open(&address(&cluster, 0), "/v3/watch", request).await;
    assert_eq!(watch.page.status, 200);
    assert_eq!(watch.page.header("content-type"), Some("application/json"));
    assert_eq!(
        normal(&watch.next().await),
        r#"{"result":{"header":{IDS,"revision":"2"},"created":true}}"#
    );
    assert_eq!(
        normal(&watch.next().await),
        r#"{"result":{"header":{IDS,"revision":"2"},"events":[{"kv":{"key":"Zm9v","create_revision":"2","mod_revision":"2","version":"1","value":"MQ=="}}]}}"#
    );
    for n in 0..3 {
        kv.put(put("foo", "2")).await.unwrap();
        let line = watch.next().await;
        let revision = format!(r#""mod_revision":"{}""#, 3 + n);
        assert!(line.contains(&revision) && line.contains("prev_kv"), "{line}");
    }
    kv.delete_range(crate::requests::delete("foo")).await.unwrap();
    assert_eq!(
        normal(&watch.next().await),
        r#"{"result":{"header":{IDS,"revision":"6"},"events":[{"type":"DELETE","kv":{"key":"Zm9v","mod_revision":"6"},"prev_kv":{"key":"Zm9v","create_revision":"2","mod_revision":"5","version":"4","value":"Mg=="}}]}}"#
    );
}

async fn a_watch_takes_several_requests(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let requests = r#"{"create_request":{"key":"Zm9v"}}
        {"cancel_request":{"watch_id":0}} {"createRequest":{"key":"YQ=="}} bad"#;
    let mut watch = Lines::open(&address(&cluster, 0), "/v3/watch", requests).await;
    let mut lines = vec![];
    for _ in 0..3 {
        lines.push(normal(&watch.next().await));
    }
    let result = |rest: &str| format!(r#"{{"result":{{"header":{{IDS,"revision":"1"}}{rest}}}}}"#);
    let expected = [
        result(r#","created":true"#),
        result(r#","canceled":true"#),
        result(r#","watch_id":"1","created":true"#),
    ];
    assert_eq!(lines, expected);
    // The stream goes on although nothing more can come from the client.
    cluster.raw(0).kv.clone().put(put("a", "")).await.unwrap();
    assert_eq!(
        normal(&watch.next().await),
        r#"{"result":{"header":{IDS,"revision":"2"},"watch_id":"1","events":[{"kv":{"key":"YQ==","create_revision":"2","mod_revision":"2","version":"1"}}]}}"#
    );
    // Without a watch there is nothing to say, not even that all is well.
    let address = address(&cluster, 0);
    let silent = Lines::open(&address, "/v3/watch", "");
    assert!(tokio::time::timeout(SILENCE, silent).await.is_err());
}

async fn leases_are_kept_alive_one_answer_a_request(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    post(&cluster, "/v3/lease/grant", r#"{"TTL":20,"ID":77}"#).await;
    let page =
        post(&cluster, "/v3/lease/keepalive", "{\"ID\":77}\n{\"ID\":\"1\"} {\"ID\":77} x").await;
    let header = r#""header":{IDS,"revision":"1"}"#;
    let known = format!("{{\"result\":{{{header},\"ID\":\"77\",\"TTL\":\"20\"}}}}\n");
    let unknown = format!("{{\"result\":{{{header},\"ID\":\"1\"}}}}\n");
    assert_eq!((page.status, normal(&page.body)), (200, format!("{known}{unknown}{known}")));
    for body in ["", "{", "[]", r#"{"ID":"x"}"#] {
        let page = post(&cluster, "/v3/lease/keepalive", body).await;
        assert_eq!((page.status, &page.body[..]), (200, ""), "{body}");
        assert_eq!(page.header("content-type"), None, "{body}");
    }
}

async fn locks_and_elections_are_served(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    post(&cluster, "/v3/lease/grant", r#"{"TTL":20,"ID":77}"#).await;
    let no_leader = r#"{"code":2,"message":"election: no leader"}"#;
    let campaign = r#"{"name":"ZQ==","lease":"77","value":"dg=="}"#;
    let table = [
        (
            "/v3/lock/lock",
            r#"{"name":"bA==","lease":77}"#,
            200,
            r#"{"header":{IDS,"revision":"2"},"key":"bC80ZA=="}"#,
        ),
        ("/v3/lock/unlock", r#"{"key":"bC80ZA=="}"#, 200, r#"{"header":{IDS,"revision":"3"}}"#),
        ("/v3/election/leader", r#"{"name":"ZQ=="}"#, 500, no_leader),
        (
            "/v3/election/campaign",
            campaign,
            200,
            r#"{"header":{IDS,"revision":"4"},"leader":{"name":"ZQ==","key":"ZS80ZA==","rev":"4","lease":"77"}}"#,
        ),
        (
            "/v3/election/leader",
            r#"{"name":"ZQ=="}"#,
            200,
            r#"{"header":{IDS,"revision":"4"},"kv":{"key":"ZS80ZA==","create_revision":"4","mod_revision":"4","version":"1","value":"dg==","lease":"77"}}"#,
        ),
    ];
    all_answer(&cluster, &table).await;
    let mut leaders =
        Lines::open(&address(&cluster, 0), "/v3/election/observe", r#"{"name":"ZQ=="}"#).await;
    assert_eq!(
        normal(&leaders.next().await),
        r#"{"result":{"header":{IDS,"revision":"4"},"kv":{"key":"ZS80ZA==","create_revision":"4","mod_revision":"4","version":"1","value":"dg==","lease":"77"}}}"#
    );
    let table = [
        (
            "/v3/election/proclaim",
            r#"{"leader":{"name":"ZQ==","key":"ZS80ZA==","rev":4,"lease":77},"value":"dw=="}"#,
            200,
            r#"{"header":{IDS,"revision":"5"}}"#,
        ),
        (
            "/v3/election/proclaim",
            r#"{"leader":{"name":"ZQ==","key":"ZS80ZA==","rev":3,"lease":77},"value":"dw=="}"#,
            500,
            r#"{"code":2,"message":"election: not leader"}"#,
        ),
    ];
    all_answer(&cluster, &table).await;
    assert!(leaders.next().await.contains(r#""value":"dw==""#));
}

async fn streams_that_fail_say_so(engine: Engine) {
    let mut cluster = Setup::new(engine, 3).fast_elections().start().await;
    let has_leader = [("Grpc-Metadata-hasleader", "true")];
    let address = address(&cluster, 0);
    cluster.kill(1);
    cluster.kill(2);
    let error = "{\"error\":{\"code\":14,\"message\":\"etcdserver: no leader\"}}\n";
    eventually("a refusal", async || {
        let page = send(&address, "POST", "/v3/lease/keepalive", &has_leader, b"{\"ID\":1}").await;
        match (page.status, &page.body[..]) {
            (503, body) if body == error => Ok(()),
            (status, body) => Err(format!("{status}: {body}")),
        }
    })
    .await;
    let page = send(&address, "POST", "/v3/kv/range", &has_leader, FOO.as_bytes()).await;
    let expected = (503, r#"{"code":14,"message":"etcdserver: no leader"}"#);
    assert_eq!((page.status, &normal(&page.body)[..]), expected);
    // A header that would say something else of the call than the gateway makes is not passed on.
    let encoding = [("Grpc-Metadata-grpc-encoding", "gzip")];
    let body = br#"{"key":"Zm9v","serializable":true}"#;
    let page = send(&address, "POST", "/v3/kv/range", &encoding, body).await;
    assert_eq!(page.status, 200, "{}", page.body);
}

async fn tokens_reach_the_call(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let address = address(&cluster, 0);
    for (path, body) in [
        ("/v3/auth/user/add", r#"{"name":"root","password":"r"}"#),
        ("/v3/auth/role/add", r#"{"name":"root"}"#),
        ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("/v3/auth/enable", ""),
    ] {
        let page = post(&cluster, path, body).await;
        assert_eq!(page.status, 200, "{path}: {}", page.body);
    }
    let nobody = r#"{"code":3,"message":"etcdserver: user name is empty"}"#;
    let page = post(&cluster, "/v3/kv/range", FOO).await;
    assert_eq!((page.status, &normal(&page.body)[..]), (400, nobody));
    let page = post(&cluster, "/v3/lease/keepalive", r#"{"ID":1}"#).await;
    assert_eq!((page.status, page.body), (400, format!("{{\"error\":{nobody}}}\n")));

    let login = r#"{"name":"root","password":"r"}"#;
    let answer = post(&cluster, "/v3/auth/authenticate", login).await.json();
    let token = answer["token"].as_str().unwrap();
    let bearer = format!("Bearer {token}");
    for header in
        [("Authorization", token), ("Authorization", &bearer), ("Grpc-Metadata-Token", token)]
    {
        let page = send(&address, "POST", "/v3/kv/range", &[header], FOO.as_bytes()).await;
        assert_eq!(page.status, 200, "{header:?}: {}", page.body);
    }
    let bad = [("Authorization", "bad")];
    let page = send(&address, "POST", "/v3/kv/range", &bad, FOO.as_bytes()).await;
    let refused = r#"{"code":16,"message":"etcdserver: invalid auth token"}"#;
    assert_eq!((page.status, &normal(&page.body)[..]), (401, refused));
    assert_eq!(page.header("www-authenticate"), Some("etcdserver: invalid auth token"));
    let good = [("Authorization", token)];
    let page = send(&address, "POST", "/v3/auth/disable", &good, b"{}").await;
    assert_eq!(page.status, 200, "{}", page.body);
}

async fn bodies_are_bounded(engine: Engine) {
    let cluster = Setup::new(engine, 1).flag("--max-request-bytes=1000000").start().await;
    let put = |bytes: usize| format!(r#"{{"key":"Zm9v","value":"{}"}}"#, "AAAA".repeat(bytes / 3));
    let fits = post(&cluster, "/v3/kv/put", &put(900_000)).await;
    assert_eq!(fits.status, 200, "{}", fits.body);
    let over = post(&cluster, "/v3/kv/put", &put(1_200_000)).await;
    let expected = (400, r#"{"code":3,"message":"etcdserver: request is too large"}"#);
    assert_eq!((over.status, &normal(&over.body)[..]), expected);
    let far_over = post(&cluster, "/v3/kv/put", &put(1_800_000)).await;
    assert_eq!(far_over.status, 429, "{}", far_over.body);
    let text = "grpc: received message larger than max (";
    assert!(far_over.json()["message"].as_str().unwrap().starts_with(text), "{}", far_over.body);
    if !product().ours {
        return;
    }
    // What goes on and on is not gathered.
    let endless = format!("{{\"key\":\"{}", "A".repeat(20 << 20));
    let refused = post(&cluster, "/v3/kv/put", &endless).await;
    assert!(refused.status == 429, "{}: {}", refused.status, refused.body);
}

async fn large_answers_are_whole(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut kv = cluster.raw(0).kv.clone();
    let value = "v".repeat(300_000);
    for n in 0..20 {
        kv.put(put(&format!("key{n:02}"), &value)).await.unwrap();
    }
    let all = r#"{"key":"AA==","range_end":"AA=="}"#;
    let page = post(&cluster, "/v3/kv/range", all).await;
    let answer = page.json();
    let pairs = answer["kvs"].as_array().unwrap();
    assert_eq!((pairs.len(), &answer["count"]), (20, &"20".into()));
    for pair in pairs {
        assert_eq!(pair["value"].as_str().unwrap().len(), 400_000);
    }
    let request = r#"{"create_request":{"key":"AA==","range_end":"AA==","start_revision":1}}"#;
    let mut watch = Lines::open(&address(&cluster, 0), "/v3/watch", request).await;
    let mut events = 0;
    watch.next().await;
    while events < 20 {
        let line: serde_json::Value = serde_json::from_str(&watch.next().await).unwrap();
        for event in line["result"]["events"].as_array().unwrap() {
            assert_eq!(event["kv"]["value"].as_str().unwrap().len(), 400_000);
            events += 1;
        }
    }
}

async fn the_gateway_can_be_turned_off(engine: Engine) {
    let cluster = Setup::new(engine, 1).flag("--enable-grpc-gateway=false").start().await;
    for path in ["/v3/kv/range", "/v3/", "/v3beta/kv/range"] {
        let page = post(&cluster, path, FOO).await;
        assert_eq!((page.status, &page.body[..]), (404, "404 page not found\n"), "{path}");
    }
    assert_eq!(http(&cluster, 0, "GET", "/health").await.status, 200);
    cluster.raw(0).kv.clone().range(get("foo")).await.unwrap();
}

/// etcd takes all plain-text HTTP/2 for gRPC; under TLS both serve it.
async fn http_2_carries_json_too(engine: Engine) {
    if !product().ours {
        return;
    }
    let cluster = Cluster::start(engine, 1).await;
    let stream = tokio::net::TcpStream::connect(address(&cluster, 0)).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = |path: &str| {
        let uri = format!("{}{path}", cluster.members[0].endpoint);
        http::Request::post(uri).header("content-type", "application/json").body(()).unwrap()
    };
    let read = async |response: h2::client::ResponseFuture| {
        let response = response.await.unwrap();
        let status = response.status();
        let mut body = response.into_body();
        let mut text = vec![];
        while let Some(data) = body.data().await {
            text.extend_from_slice(&data.unwrap());
            if text.ends_with(b"\n") {
                break;
            }
        }
        (status.as_u16(), normal(std::str::from_utf8(&text).unwrap()))
    };
    let (answer, mut body) = client.send_request(request("/v3/kv/range"), false).unwrap();
    body.send_data(FOO.into(), true).unwrap();
    assert_eq!(read(answer).await, (200, r#"{"header":{IDS,"revision":"1"}}"#.to_owned()));
    // A stream both ways: each request is answered while the next is not yet written.
    let (answer, mut body) = client.send_request(request("/v3/watch"), false).unwrap();
    body.send_data(r#"{"create_request":{"key":"Zm9v"}}"#.into(), false).unwrap();
    let mut lines = answer.await.unwrap().into_body();
    let mut next = async || {
        let data = lines.data().await.unwrap().unwrap();
        let _ = lines.flow_control().release_capacity(data.len());
        normal(std::str::from_utf8(&data).unwrap())
    };
    let result =
        |rest: &str| format!("{{\"result\":{{\"header\":{{IDS,\"revision\":\"1\"}},{rest}}}}}\n");
    assert_eq!(next().await, result(r#""created":true"#));
    body.send_data(r#"{"cancel_request":{"watch_id":"0"}}"#.into(), false).unwrap();
    assert_eq!(next().await, result(r#""canceled":true"#));
    drop((client, body));
    connection.abort();
}
