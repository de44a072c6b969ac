//! Members whose data differs: noticed by a leader from time to time, after compactions, and by a
//! member that starts. One member's data is changed on disk while it is down.

use crate::cluster::{Cluster, Engine, Exit, Setup, eventually, product};
use crate::on_each_engine;
use crate::pages::{Page, send};
use crate::requests::put;
use quoin::machine::Machine;
use quoin::pb::etcdserverpb::alarm_request::AlarmAction;
use quoin::pb::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, CompactionRequest, HashKvRequest,
};
use quoin::storage::memory::MemoryEngine;
use quoin::storage::snapshot_file::SnapshotStore;
use quoin::storage::{Engine as Store, Flow, Space, WriteBatch};
use std::path::Path;
use std::sync::Arc;
use tonic::Code;

on_each_engine![
    members_tell_each_other_the_hash_of_their_data,
    a_leader_finds_a_member_with_other_data,
    a_leader_finds_other_data_after_a_compaction,
    three_different_members_are_nobodys_fault_alone,
    a_member_with_other_data_does_not_start,
];

/// As long as the first value that is written.
const VALUE: &[u8] = b"the value that is changed";
const OTHER: &[u8] = b"The value that is changed";

fn setup(engine: Engine) -> Setup {
    // So that the memory engine has its data on disk too.
    Setup::new(engine, 3)
        .flag("--snapshot-count=4")
        .flag("--snapshot-catchup-entries=4")
        .fast_elections()
}

fn peer(cluster: &Cluster, member: usize) -> String {
    let flags = &cluster.members[member].flags;
    let url = flags.iter().find_map(|flag| flag.strip_prefix("--listen-peer-urls=http://"));
    url.unwrap().to_owned()
}

fn id_of(cluster: &Cluster, member: usize, all: &[quoin::pb::etcdserverpb::Member]) -> u64 {
    let name = &cluster.members[member].name;
    all.iter().find(|other| other.name == *name).unwrap().id
}

async fn ask(cluster: &Cluster, member: usize, cluster_id: &str, body: &str) -> Page {
    let headers = [("X-Etcd-Cluster-ID", cluster_id)];
    send(&peer(cluster, member), "GET", "/members/hashkv", &headers, body.as_bytes()).await
}

async fn members_tell_each_other_the_hash_of_their_data(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut raw = cluster.raw(0);
    for number in 0..5 {
        raw.kv.put(put("key", &number.to_string())).await.unwrap();
    }
    let compact = CompactionRequest { revision: 4, physical: true };
    raw.kv.compact(compact).await.unwrap();
    for revision in [0, 5] {
        let told = raw.maintenance.hash_kv(HashKvRequest { revision }).await.unwrap().into_inner();
        let page = ask(&cluster, 0, "", &format!(r#"{{"revision":{revision}}}"#)).await;
        assert_eq!((page.status, page.header("content-type")), (200, Some("application/json")));
        let expected = format!(
            r#"{{"header":{{"revision":6}},"hash":{},"compact_revision":4,"hash_revision":{}}}"#,
            told.hash, told.hash_revision
        );
        assert_eq!(page.body, expected);
        let cluster_id = format!("{:x}", told.header.unwrap().cluster_id);
        assert_eq!(page.header("x-etcd-cluster-id"), Some(&cluster_id[..]));
        assert_eq!(ask(&cluster, 0, &cluster_id, "{}").await.status, 200);
    }
    let table = [
        ("", r#"{"revision":3}"#, 400, "mvcc: required revision has been compacted\n"),
        ("", r#"{"revision":7}"#, 400, "mvcc: required revision is a future revision\n"),
        ("", "", 400, "error unmarshalling request\n"),
        ("abc", "{}", 412, "cluster ID mismatch\n"),
    ];
    for (cluster_id, body, status, text) in table {
        let page = ask(&cluster, 0, cluster_id, body).await;
        assert_eq!((page.status, &page.body[..]), (status, text), "{cluster_id} {body}");
    }
    let refused = send(&peer(&cluster, 0), "POST", "/members/hashkv", &[], b"{}").await;
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET")));
}

/// Changes the first value in the data of a member that is down.
fn corrupt(engine: Engine, data: &Path, other: &[u8]) {
    let snapshots = data.join("member/snap");
    let change = |store: &dyn Store| {
        let mut batch = WriteBatch::new();
        let change = &mut |key: &[u8], value: quoin::storage::Value<'_>| {
            let mut changed = value.as_slice().to_vec();
            if changed.ends_with(VALUE) {
                let at = changed.len() - VALUE.len();
                changed[at..].copy_from_slice(other);
                batch.put(Space::Kv, key.to_vec(), changed);
            }
            Flow::Next
        };
        store.scan(Space::Kv, &[], None, change).unwrap();
        assert!(!batch.is_empty(), "the value is there");
        store.write(batch).unwrap();
        store.flush().unwrap();
    };
    match engine {
        Engine::Memory => {
            let store = SnapshotStore::open(snapshots).unwrap();
            let mut stored = store.newest().unwrap().expect("a stored snapshot");
            let memory: Arc<dyn Store> = Arc::new(MemoryEngine::new());
            quoin::machine::restore(&*memory, &mut || stored.next_block()).unwrap();
            change(&*memory);
            let mut capture = Machine::open(memory).unwrap().capture().unwrap();
            let mut staging = store.stage(capture.index, capture.term).unwrap();
            while let Some(block) = capture.next_block(1 << 20).unwrap() {
                staging.write_block(&block).unwrap();
            }
            staging.finish().unwrap().publish().unwrap();
        }
        Engine::Rocksdb => change_rocksdb(&snapshots.join("db"), &change),
    }
}

#[cfg(feature = "rocksdb")]
fn change_rocksdb(folder: &Path, change: &dyn Fn(&dyn Store)) {
    use quoin::storage::rocks::{RocksEngine, RocksOptions};
    change(&RocksEngine::open(folder, RocksOptions::default()).unwrap());
}

#[cfg(not(feature = "rocksdb"))]
fn change_rocksdb(_: &Path, _: &dyn Fn(&dyn Store)) {
    panic!("built without RocksDB");
}

/// Writes until each member has stored what it holds, so that no entry of the log brings it back.
async fn fill(cluster: &mut Cluster, engine: Engine) {
    let mut kv = cluster.raw(0).kv;
    kv.put(put("first", std::str::from_utf8(VALUE).unwrap())).await.unwrap();
    for member in 0..cluster.members.len() {
        // The first ones may be older than the first value.
        let (text, times) = match engine {
            Engine::Memory => ("saved snapshot", 2),
            Engine::Rocksdb => ("compacted Raft logs", 4),
        };
        eventually("stored data", async || {
            kv.put(put("next", "value")).await.map_err(|e| e.to_string())?;
            let stored = cluster.members[member].output().matches(text).count();
            if stored >= times { Ok(()) } else { Err(format!("stored {stored} times")) }
        })
        .await;
    }
}

/// Stops a member, changes its data and starts it again.
async fn plant(cluster: &mut Cluster, engine: Engine, member: usize, other: &[u8]) {
    cluster.terminate(member).await;
    corrupt(engine, &cluster.data_folder(member), other);
    cluster.restart(member).await;
}

/// The members of which the alarm CORRUPT is raised, once it is of any.
async fn accused(cluster: &Cluster) -> Vec<u64> {
    let get = AlarmRequest { action: AlarmAction::Get as i32, ..AlarmRequest::default() };
    eventually("an alarm", async || {
        let mut maintenance = cluster.raw(0).maintenance;
        let answer = maintenance.alarm(get).await.map_err(|e| e.to_string())?.into_inner();
        let is_corrupt = |alarm: &&AlarmMember| alarm.alarm() == AlarmType::Corrupt;
        let ids: Vec<u64> =
            answer.alarms.iter().filter(is_corrupt).map(|alarm| alarm.member_id).collect();
        if ids.is_empty() { Err("no alarm".to_owned()) } else { Ok(ids) }
    })
    .await
}

async fn is_frozen(cluster: &Cluster) {
    for member in 0..cluster.members.len() {
        let refused = cluster.raw(member).kv.put(put("k", "v")).await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::DataLoss, "etcdserver: corrupt cluster")
        );
    }
}

async fn a_leader_finds_a_member_with_other_data(engine: Engine) {
    if !product().ours {
        return;
    }
    let mut cluster = setup(engine).flag("--corrupt-check-time=300ms").start().await;
    fill(&mut cluster, engine).await;
    let leader = cluster.leader().await;
    cluster.members[leader].process().says("finished peer corruption check").await.unwrap();
    let follower = (leader + 1) % 3;
    plant(&mut cluster, engine, follower, OTHER).await;
    let all = cluster.raw(0).members().await;
    // The leader takes its own data for the right one.
    let leader = cluster.leader().await;
    assert_ne!(leader, follower, "a member that is down does not become leader");
    assert_eq!(accused(&cluster).await, [id_of(&cluster, follower, &all)]);
    is_frozen(&cluster).await;
    cluster.members[leader]
        .process()
        .says("same compact revision then hashes must match")
        .await
        .unwrap();
}

fn compacting(engine: Engine) -> Setup {
    setup(engine)
        .flag("--feature-gates=CompactHashCheck=true")
        .flag("--compact-hash-check-time=300ms")
}

async fn compact(cluster: &Cluster) {
    let mut kv = cluster.raw(0).kv;
    let revision =
        kv.put(put("next", "value")).await.unwrap().into_inner().header.unwrap().revision;
    kv.compact(CompactionRequest { revision, physical: false }).await.unwrap();
}

async fn a_leader_finds_other_data_after_a_compaction(engine: Engine) {
    if !product().ours {
        return;
    }
    let mut cluster = compacting(engine).start().await;
    fill(&mut cluster, engine).await;
    let leader = cluster.leader().await;
    compact(&cluster).await;
    let process = cluster.members[leader].process();
    process.says("successfully checked hash on whole cluster").await.unwrap();
    process
        .says(r#""msg":"finished compaction hash check","number-of-hashes-checked":1"#)
        .await
        .unwrap();

    // The next leader looks at it again, and the two others are a majority.
    plant(&mut cluster, engine, leader, OTHER).await;
    let all = cluster.raw(0).members().await;
    assert_eq!(accused(&cluster).await, [id_of(&cluster, leader, &all)]);
    is_frozen(&cluster).await;
}

async fn three_different_members_are_nobodys_fault_alone(engine: Engine) {
    if !product().ours {
        return;
    }
    let mut cluster = compacting(engine).start().await;
    fill(&mut cluster, engine).await;
    plant(&mut cluster, engine, 0, OTHER).await;
    plant(&mut cluster, engine, 1, b"the Value that is changed").await;
    compact(&cluster).await;
    assert_eq!(accused(&cluster).await, [0]);
    is_frozen(&cluster).await;
}

async fn a_member_with_other_data_does_not_start(engine: Engine) {
    if !product().ours {
        return;
    }
    let gate = "--feature-gates=InitialCorruptCheck=true";
    let mut cluster = setup(engine).flag(gate).start().await;
    let passed = "initial corruption checking passed; no corruption";
    // A member that is new has nothing that could be wrong.
    assert!(!cluster.members[0].output().contains(passed));
    fill(&mut cluster, engine).await;
    cluster.terminate(0).await;
    cluster.restart(0).await;
    assert!(cluster.members[0].output().contains(passed));

    cluster.terminate(0).await;
    corrupt(engine, &cluster.data_folder(0), OTHER);
    cluster.spawn(0);
    let member = &mut cluster.members[0];
    assert!(member.ready().await.is_err(), "it must not serve");
    assert_eq!(member.process().end().await, Exit::Code(1));
    let output = member.output();
    assert!(output.contains("found different hash values from remote peer"), "{output}");
    assert!(output.contains("found data inconsistency with peers"), "{output}");
    // The others go on.
    cluster.raw(1).kv.put(put("k", "v")).await.unwrap();
}
