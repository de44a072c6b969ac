//! From a real etcd to Quoin and back, with etcd's own tools on its side.

use crate::cluster::{Engine, etcd_tools, eventually, skipped};
use crate::member::{Home, Ran, Server, snapshot};
use crate::on_each_engine;
use quoin::pb::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseTimeToLiveRequest, PutRequest,
    RequestOp, TxnRequest, request_op,
};

on_each_engine![data_moves_from_etcd_and_back, a_revision_raised_by_either_tool_is_hashed_alike];

async fn put(server: &mut Server, key: String, value: String, lease: i64) -> i64 {
    let (key, value) = (key.into(), value.into());
    let request = PutRequest { key, value, lease, ..PutRequest::default() };
    server.raw.kv.put(request).await.unwrap().into_inner().header.unwrap().revision
}

async fn delete(server: &mut Server, key: &str, end: &str) -> i64 {
    let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
    let request = DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() };
    server.raw.kv.delete_range(request).await.unwrap().into_inner().header.unwrap().revision
}

/// History with everything in it that compaction and hashes treat differently; ends with a
/// compaction at a deletion.
async fn live_through(server: &mut Server, name: &str, lease: i64) {
    for number in 0..120 {
        let key = format!("{name}/{:03}", number % 70);
        put(server, key, "v".repeat(number * 31), if number % 5 == 0 { lease } else { 0 }).await;
    }
    delete(server, &format!("{name}/01"), &format!("{name}/02")).await;
    for number in 10..15 {
        put(server, format!("{name}/0{number}"), String::new(), 0).await;
    }
    let op = |key: &str| RequestOp {
        request: Some(request_op::Request::RequestPut(PutRequest {
            key: format!("{name}/{key}").into(),
            ..PutRequest::default()
        })),
    };
    let txn = TxnRequest { success: vec![op("x\0y"), op("x"), op("050")], ..Default::default() };
    server.raw.kv.txn(txn).await.unwrap();
    let deleted = delete(server, &format!("{name}/050"), "").await;
    put(server, format!("{name}/after"), "1".into(), 0).await;
    let compaction = CompactionRequest { revision: deleted, physical: true };
    server.raw.kv.compact(compaction).await.unwrap();
    delete(server, &format!("{name}/003"), "").await;
}

/// What an etcd of some size holds.
const MANY: usize = 100_000;
/// As many as one transaction may have.
const AT_ONCE: usize = 128;

/// Many keys, all but the last in whole transactions.
async fn fill(server: &mut Server) {
    let numbers: Vec<usize> = (0..MANY).collect();
    for part in numbers.chunks(AT_ONCE) {
        let put = |number: &usize| {
            let (key, value) =
                (format!("many/{number:06}").into(), format!("value {number}").into());
            let put = PutRequest { key, value, ..PutRequest::default() };
            RequestOp { request: Some(request_op::Request::RequestPut(put)) }
        };
        let success = part.iter().map(put).collect();
        server.raw.kv.txn(TxnRequest { success, ..Default::default() }).await.unwrap();
    }
}

/// Granted TTL, and the attached keys in order.
async fn lease(server: &mut Server, id: i64) -> (i64, Vec<bytes::Bytes>) {
    let request = LeaseTimeToLiveRequest { id, keys: true };
    let mut answer = server.raw.lease.lease_time_to_live(request).await.unwrap().into_inner();
    answer.keys.sort();
    (answer.granted_ttl, answer.keys)
}

async fn data_moves_from_etcd_and_back(engine: Engine) {
    let Some(bin) = etcd_tools() else {
        return skipped("etcd 3.7.1 and its tools are missing; scripts/etcd builds them");
    };
    let home = Home::new();
    let (endpoint, identity) = (home.endpoint(), home.identity());
    let identity: Vec<&str> = identity.iter().map(String::as_str).collect();
    let engine_flag = format!("--engine={}", engine.name());

    let mut etcd = home.start_etcd(&bin, "etcd").await;
    etcd.raw.lease.lease_grant(LeaseGrantRequest { id: 77, ttl: 5_000 }).await.unwrap();
    fill(&mut etcd).await;
    live_through(&mut etcd, "old", 77).await;
    let ctl = |args: &[&str]| {
        Ran::of(&bin.join("etcdctl"), &[&["--endpoints", &endpoint], args].concat()).done()
    };
    for args in [
        &["role", "add", "reader"][..],
        &["role", "grant-permission", "reader", "read", "old/", "old0"],
        &["user", "add", "someone:secret"],
        &["user", "grant-role", "someone", "reader"],
        &["user", "add", "root:secret"],
        &["user", "grant-role", "root", "root"],
    ] {
        ctl(args);
    }
    let asked = [&["user", "list"][..], &["user", "get", "someone"], &["role", "get", "reader"]];
    let rights = || asked.map(ctl);
    let first_rights = rights();
    let (first, all, leased) = (etcd.hash().await, etcd.all(0).await, lease(&mut etcd, 77).await);
    assert!(all.len() > MANY && leased.1.len() > 5);
    let file = home.path("from-etcd.db");
    ctl(&["auth", "enable"]);
    let refused = snapshot(&["save", &file, "--endpoints", &endpoint]);
    assert_eq!(refused.code, Some(5), "{}", refused.stdout);
    let said = snapshot(&["save", &file, "--endpoints", &endpoint, "--user=root:secret"]).done();
    assert_eq!(said, format!("Snapshot saved at {file}\nServer version 3.7.0\n"));
    etcd.stop().await;
    same_status(&bin, &file);

    let (data, flags) = (home.path("quoin"), [&identity[..], &[&engine_flag]].concat());
    snapshot(&[&["restore", &file, "--data-dir", &data], &flags[..]].concat()).done();
    let mut quoin = home.start_quoin(engine, "quoin", &[]).await;
    open_again(&mut quoin, &ctl).await;
    assert_eq!(rights(), first_rights);
    assert_eq!(quoin.hash().await, first);
    assert_eq!(quoin.all(0).await, all);
    assert_eq!(lease(&mut quoin, 77).await, leased);
    delete(&mut quoin, "many/01", "many/02").await;
    live_through(&mut quoin, "new", 77).await;
    let (second, all, leased) =
        (quoin.hash().await, quoin.all(0).await, lease(&mut quoin, 77).await);
    assert!(second.1 > first.1 + 100 && second.2 > first.2);
    eventually("a cluster version, as a database of etcd has one", async || {
        let status = quoin.raw.status().await.map_err(|e| e.to_string())?;
        if status.storage_version == "3.7.0" { Ok(()) } else { Err(status.storage_version) }
    })
    .await;
    let file = home.path("from-quoin.db");
    ctl(&["auth", "enable"]);
    ctl(&["--user=root:secret", "snapshot", "save", &file]);
    quoin.stop().await;
    same_status(&bin, &file);

    let data = home.path("etcd-again");
    let args = [&["snapshot", "restore", &file, "--data-dir", &data], &identity[..]].concat();
    Ran::of(&bin.join("etcdutl"), &args).done();
    let mut etcd = home.start_etcd(&bin, "etcd-again").await;
    open_again(&mut etcd, &ctl).await;
    assert_eq!(rights(), first_rights);
    assert_eq!(etcd.hash().await, second);
    assert_eq!(etcd.all(0).await, all);
    assert_eq!(lease(&mut etcd, 77).await, leased);
    let revision = put(&mut etcd, "more".into(), String::new(), 0).await;
    assert_eq!(revision, second.1 + 1);
    etcd.stop().await;
}

async fn a_revision_raised_by_either_tool_is_hashed_alike(engine: Engine) {
    let Some(bin) = etcd_tools() else {
        return skipped("etcd 3.7.1 and its tools are missing; scripts/etcd builds them");
    };
    let home = Home::new();
    let (endpoint, identity) = (home.endpoint(), home.identity());
    let identity: Vec<&str> = identity.iter().map(String::as_str).collect();
    let engine_flag = format!("--engine={}", engine.name());
    let raise = ["--bump-revision=1000", "--mark-compacted"];
    let to_etcd = |file: &str, folder: &str, more: &[&str]| {
        let data = home.path(folder);
        let args = [&["snapshot", "restore", file, "--data-dir", &data], &identity[..], more];
        Ran::of(&bin.join("etcdutl"), &args.concat()).done();
    };
    let to_quoin = |file: &str, folder: &str, more: &[&str]| {
        let data = home.path(folder);
        let args = [&["restore", file, "--data-dir", &data, &engine_flag], &identity[..], more];
        snapshot(&args.concat()).done();
    };
    let save = |name: &str| {
        let file = home.path(name);
        snapshot(&["save", &file, "--endpoints", &endpoint]).done();
        file
    };

    let mut etcd = home.start_etcd(&bin, "first").await;
    live_through(&mut etcd, "old", 0).await;
    let file = save("first.db");
    etcd.stop().await;

    to_etcd(&file, "raised-by-etcd", &raise);
    let mut etcd = home.start_etcd(&bin, "raised-by-etcd").await;
    let raised = etcd.hash().await;
    let from_etcd = save("raised.db");
    etcd.stop().await;

    to_quoin(&file, "raised-by-quoin", &raise);
    let mut quoin = home.start_quoin(engine, "raised-by-quoin", &[]).await;
    assert_eq!(quoin.hash().await, raised);
    quoin.stop().await;

    to_quoin(&from_etcd, "moved", &[]);
    let mut quoin = home.start_quoin(engine, "moved", &[]).await;
    assert_eq!(quoin.hash().await, raised);
    live_through(&mut quoin, "new", 0).await;
    let moved = quoin.hash().await;
    assert!(moved.2 > raised.2, "it was compacted meanwhile");
    let from_quoin = save("moved.db");
    quoin.stop().await;

    to_etcd(&from_quoin, "back", &[]);
    let mut etcd = home.start_etcd(&bin, "back").await;
    assert_eq!(etcd.hash().await, moved);
    etcd.stop().await;
}

/// Auth is on, as it was when the backup was made: a user of then switches it off.
async fn open_again(server: &mut Server, ctl: &dyn Fn(&[&str]) -> String) {
    let put = PutRequest { key: "k".into(), ..PutRequest::default() };
    let refused = server.raw.kv.put(put).await;
    assert_eq!(refused.unwrap_err().message(), "etcdserver: user name is empty");
    ctl(&["--user=root:secret", "auth", "disable"]);
}

/// Both tools tell the same of a file, in each form.
fn same_status(bin: &std::path::Path, file: &str) {
    for form in ["simple", "json", "table", "fields"] {
        let theirs = Ran::of(&bin.join("etcdutl"), &["snapshot", "status", file, "-w", form]);
        let ours = snapshot(&["status", file, "-w", form]);
        assert_eq!(ours.done(), theirs.done(), "{form}");
    }
}
