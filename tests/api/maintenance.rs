//! Alarms, the quota, hashes and defragmentation.

use crate::cluster::{Cluster, Engine, Setup, eventually, product};
use crate::on_each_engine;
use crate::requests::{all_of, delete, delete_range, get, op, put, range, refusal};
use quoin::pb::etcdserverpb::{
    AlarmMember, AlarmRequest, CompactionRequest, DefragmentRequest, HashKvRequest, HashKvResponse,
    HashRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, StatusRequest, StatusResponse,
};
use tonic::{Code, Response, Status};

on_each_engine![
    the_alarm_nospace_forbids_what_needs_space,
    the_alarm_corrupt_forbids_all_changes,
    alarms_reach_all_members_and_survive_restarts,
    a_full_store_refuses_until_space_is_given_back,
    the_size_falls_with_compaction_and_defragmentation,
    hashes_are_those_of_etcd,
    hashes_are_equal_on_all_members,
];

const GET: i32 = 0;
const ACTIVATE: i32 = 1;
const DEACTIVATE: i32 = 2;
const NONE: i32 = 0;
const NOSPACE: i32 = 1;
const CORRUPT: i32 = 2;

async fn alarm(cluster: &Cluster, action: i32, member_id: u64, alarm: i32) -> Vec<AlarmMember> {
    let request = AlarmRequest { action, member_id, alarm };
    let answer = cluster.raw(0).maintenance.clone().alarm(request).await.unwrap().into_inner();
    assert_ne!(answer.header.unwrap().cluster_id, 0);
    answer.alarms
}

async fn status(cluster: &Cluster, member: usize) -> StatusResponse {
    let mut maintenance = cluster.raw(member).maintenance.clone();
    maintenance.status(StatusRequest {}).await.unwrap().into_inner()
}

/// What the status complains of. Go's library writes one space or two between fields.
async fn errors(cluster: &Cluster, member: usize) -> Vec<String> {
    let errors = status(cluster, member).await.errors;
    errors.iter().map(|error| error.replace("  ", " ")).collect()
}

fn no_space<T: std::fmt::Debug>(result: Result<Response<T>, Status>) {
    let text = "etcdserver: mvcc: database space exceeded".to_owned();
    assert_eq!(refusal(result), (Code::ResourceExhausted, text));
}

fn corrupt<T: std::fmt::Debug>(result: Result<Response<T>, Status>) {
    assert_eq!(refusal(result), (Code::DataLoss, "etcdserver: corrupt cluster".to_owned()));
}

async fn the_alarm_nospace_forbids_what_needs_space(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let (mut kv, mut lease) = (raw.kv.clone(), raw.lease.clone());
    kv.put(put("a", "1")).await.unwrap();
    kv.put(put("b", "1")).await.unwrap();
    lease.lease_grant(LeaseGrantRequest { id: 7, ttl: 100 }).await.unwrap();
    let member_id = status(&cluster, 0).await.header.unwrap().member_id;
    let raised = AlarmMember { member_id, alarm: NOSPACE };

    assert_eq!(alarm(&cluster, GET, 0, NONE).await, []);
    assert_eq!(alarm(&cluster, ACTIVATE, member_id, NONE).await, [], "no alarm is named");
    assert_eq!(alarm(&cluster, ACTIVATE, member_id, NOSPACE).await, [raised]);
    assert_eq!(alarm(&cluster, ACTIVATE, member_id, NOSPACE).await, [raised], "once more");
    assert_eq!(alarm(&cluster, GET, 0, NONE).await, [raised]);
    assert_eq!(alarm(&cluster, GET, 12345, NOSPACE).await, [raised], "of any member");
    assert_eq!(alarm(&cluster, GET, 0, CORRUPT).await, []);
    assert_eq!(errors(&cluster, 0).await, [format!("memberID:{member_id} alarm:NOSPACE")]);

    no_space(kv.put(put("a", "2")).await);
    no_space(kv.txn(all_of(vec![op(put("a", "2"))])).await);
    no_space(kv.txn(all_of(vec![op(all_of(vec![op(put("a", "2"))]))])).await);
    no_space(lease.lease_grant(LeaseGrantRequest { id: 8, ttl: 100 }).await);
    kv.range(get("a")).await.unwrap();
    kv.txn(all_of(vec![op(delete("a")), op(get("b"))])).await.unwrap();
    kv.delete_range(delete("b")).await.unwrap();
    kv.compact(CompactionRequest { revision: 4, physical: true }).await.unwrap();
    lease.lease_revoke(LeaseRevokeRequest { id: 7 }).await.unwrap();

    assert_eq!(alarm(&cluster, DEACTIVATE, member_id, CORRUPT).await, [], "not raised");
    assert_eq!(alarm(&cluster, DEACTIVATE, member_id + 1, NOSPACE).await, [], "not of this one");
    assert_eq!(alarm(&cluster, GET, 0, NONE).await, [raised]);
    assert_eq!(alarm(&cluster, DEACTIVATE, member_id, NOSPACE).await, [raised]);
    assert_eq!(alarm(&cluster, GET, 0, NONE).await, []);
    assert_eq!(status(&cluster, 0).await.errors, Vec::<String>::new());
    kv.put(put("a", "3")).await.unwrap();
}

async fn the_alarm_corrupt_forbids_all_changes(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let (mut kv, mut lease) = (raw.kv.clone(), raw.lease.clone());
    kv.put(put("a", "1")).await.unwrap();
    lease.lease_grant(LeaseGrantRequest { id: 7, ttl: 100 }).await.unwrap();
    let revision = kv.range(get("a")).await.unwrap().into_inner().header.unwrap().revision;
    assert_eq!(
        alarm(&cluster, ACTIVATE, 5, CORRUPT).await,
        [AlarmMember { member_id: 5, alarm: CORRUPT }]
    );
    corrupt(kv.put(put("a", "2")).await);
    corrupt(kv.delete_range(delete("a")).await);
    corrupt(kv.txn(all_of(vec![op(put("a", "2"))])).await);
    corrupt(kv.compact(CompactionRequest { revision, physical: false }).await);
    corrupt(lease.lease_grant(LeaseGrantRequest { id: 8, ttl: 100 }).await);
    corrupt(lease.lease_revoke(LeaseRevokeRequest { id: 7 }).await);
    let answer = kv.range(get("a")).await.unwrap().into_inner();
    assert_eq!((answer.header.unwrap().revision, &answer.kvs[0].value[..]), (revision, &b"1"[..]));
    alarm(&cluster, DEACTIVATE, 5, CORRUPT).await;
    kv.put(put("a", "2")).await.unwrap();
}

async fn alarms_reach_all_members_and_survive_restarts(engine: Engine) {
    let mut cluster = Cluster::start(engine, 3).await;
    let raised = AlarmMember { member_id: 9, alarm: NOSPACE };
    alarm(&cluster, ACTIVATE, 9, NOSPACE).await;
    for member in 0..3 {
        eventually("the alarm in the status", async || {
            let errors = errors(&cluster, member).await;
            (errors == ["memberID:9 alarm:NOSPACE"]).then_some(()).ok_or(format!("{errors:?}"))
        })
        .await;
        no_space(cluster.raw(member).kv.clone().put(put("a", "1")).await);
    }
    for member in 0..3 {
        cluster.kill(member);
    }
    cluster.start_all().await.unwrap();
    assert_eq!(alarm(&cluster, GET, 0, NONE).await, [raised]);
    no_space(cluster.raw(1).kv.clone().put(put("a", "1")).await);
}

async fn a_full_store_refuses_until_space_is_given_back(engine: Engine) {
    let quota = 25 * 4096;
    let setup = Setup::new(engine, 1).flag(format!("--quota-backend-bytes={quota}"));
    let cluster = setup.start().await;
    let raw = cluster.raw(0);
    let mut kv = raw.kv.clone();
    assert_eq!(status(&cluster, 0).await.db_size_quota, quota);
    let value = "x".repeat(1000);
    let mut puts = 0;
    let refused = loop {
        match kv.put(put("key", &value)).await {
            Ok(_) => puts += 1,
            Err(status) => break status,
        }
        assert!(puts < 200, "a quota of {quota} bytes lets {puts} KiB pass");
    };
    no_space(Err::<Response<()>, _>(refused));
    assert!(puts >= 10, "only {puts} values of 1 KiB fit into {quota} bytes");
    let member_id = status(&cluster, 0).await.header.unwrap().member_id;
    assert_eq!(
        alarm(&cluster, GET, 0, NONE).await,
        [AlarmMember { member_id, alarm: NOSPACE }],
        "raised by the member that was full"
    );
    // Even what would fit is refused now.
    no_space(kv.put(put("k", "")).await);
    let revision = kv.range(get("key")).await.unwrap().into_inner().header.unwrap().revision;
    kv.compact(CompactionRequest { revision, physical: true }).await.unwrap();
    raw.maintenance.clone().defragment(DefragmentRequest {}).await.unwrap();
    alarm(&cluster, DEACTIVATE, member_id, NOSPACE).await;
    kv.put(put("k", "")).await.unwrap();
}

async fn the_size_falls_with_compaction_and_defragmentation(engine: Engine) {
    let mut cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let mut kv = raw.kv.clone();
    let value = "x".repeat(1000);
    let fresh = status(&cluster, 0).await;
    assert!((1..=64 * 1024).contains(&fresh.db_size), "{fresh:?}");
    for _ in 0..500 {
        kv.put(put("key", &value)).await.unwrap();
    }
    let sizes = async |cluster: &Cluster| {
        let status = status(cluster, 0).await;
        assert!(status.db_size_in_use <= status.db_size, "{status:?}");
        (status.db_size, status.db_size_in_use)
    };
    // etcd tells the size as of its last batch.
    let (full, _) = eventually("growth", async || match sizes(&cluster).await {
        (size, in_use) if size >= fresh.db_size + 500_000 => Ok((size, in_use)),
        sizes => Err(format!("{sizes:?}")),
    })
    .await;
    let revision = kv.range(get("key")).await.unwrap().into_inner().header.unwrap().revision;
    kv.delete_range(delete("key")).await.unwrap();
    kv.compact(CompactionRequest { revision: revision + 1, physical: true }).await.unwrap();
    eventually("a smaller size in use", async || match sizes(&cluster).await {
        (size, in_use) if size >= full && in_use < full / 4 => Ok(()),
        sizes => Err(format!("{sizes:?}")),
    })
    .await;
    let answer = raw.maintenance.clone().defragment(DefragmentRequest {}).await.unwrap();
    assert_eq!(answer.into_inner().header, None);
    let (size, _) = sizes(&cluster).await;
    assert!(size < full / 4, "{size} of {full}");
    cluster.kill(0);
    cluster.restart(0).await;
    let (size, _) = sizes(&cluster).await;
    assert!(size < full / 4, "{size} of {full} after a restart");
}

async fn hash_kv(cluster: &Cluster, member: usize, revision: i64) -> HashKvResponse {
    let mut maintenance = cluster.raw(member).maintenance.clone();
    maintenance.hash_kv(HashKvRequest { revision }).await.unwrap().into_inner()
}

/// A history with all that a hash can depend on: versions, tombstones, second lives, several
/// changes to a revision, leases, keys with any bytes.
async fn make_history(cluster: &Cluster) {
    let raw = cluster.raw(0);
    let mut kv = raw.kv.clone();
    raw.lease.clone().lease_grant(LeaseGrantRequest { id: 77, ttl: 1000 }).await.unwrap();
    for value in ["1", "2", "3"] {
        kv.put(put("a", value)).await.unwrap();
    }
    kv.txn(all_of(vec![op(put("b", "1")), op(put("c", "")), op(delete("a"))])).await.unwrap();
    kv.put(PutRequest { lease: 77, ..put("d", "leased") }).await.unwrap();
    kv.put(put("a", "again")).await.unwrap();
    kv.delete_range(delete("b")).await.unwrap();
    kv.put(put("z\0\u{ff}", "bytes")).await.unwrap();
    kv.delete_range(delete_range("c", "e")).await.unwrap();
    kv.put(put("c", "last")).await.unwrap();
}

async fn hashes_are_those_of_etcd(engine: Engine) {
    if !product().at_least(3, 6) {
        return;
    }
    let cluster = Cluster::start(engine, 1).await;
    let mut kv = cluster.raw(0).kv.clone();
    let seen = async |revision| {
        let answer = hash_kv(&cluster, 0, revision).await;
        let current = cluster.raw(0).kv.clone().range(get("a")).await.unwrap().into_inner();
        assert_eq!(answer.header, current.header);
        (answer.hash, answer.hash_revision, answer.compact_revision)
    };
    let mut all = vec![seen(0).await];
    make_history(&cluster).await;
    for revision in 1..=11 {
        all.push(seen(revision).await);
    }
    let future = cluster.raw(0).maintenance.clone().hash_kv(HashKvRequest { revision: 12 }).await;
    assert_eq!(
        refusal(future),
        (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision".to_owned())
    );
    // Before the first revision there is nothing.
    let nothing = async |revision| {
        let answer = hash_kv(&cluster, 0, revision).await;
        assert_eq!((answer.hash, answer.hash_revision), (0x40A4_756D, revision), "{revision}");
        answer.compact_revision
    };
    for revision in [-1, -7, i64::MIN] {
        assert_eq!(nothing(revision).await, -1);
    }
    // At 8 there is a tombstone.
    for compacted in [4, 8, 10] {
        kv.compact(CompactionRequest { revision: compacted, physical: true }).await.unwrap();
        // At the compacted revision itself etcd tells the hash that it took before.
        for revision in compacted + 1..=11 {
            all.push(seen(revision).await);
        }
    }
    let past = cluster.raw(0).maintenance.clone().hash_kv(HashKvRequest { revision: 9 }).await;
    assert_eq!(
        refusal(past),
        (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted".to_owned())
    );
    assert_eq!(nothing(-1).await, 10);
    // No key exists.
    kv.delete_range(delete_range("a", "\0")).await.unwrap();
    all.push(seen(12).await);
    kv.compact(CompactionRequest { revision: 11, physical: true }).await.unwrap();
    all.push(seen(12).await);
    assert_eq!(all, HASHES);
}

/// As etcd 3.7.1 answers.
const HASHES: &[(u32, i64, i64)] = &[
    (1084519789, 1, -1),
    (1084519789, 1, -1),
    (2587454935, 2, -1),
    (535221974, 3, -1),
    (3593804405, 4, -1),
    (3165035467, 5, -1),
    (262795876, 6, -1),
    (2556648798, 7, -1),
    (654357891, 8, -1),
    (4237037903, 9, -1),
    (1005920150, 10, -1),
    (175396152, 11, -1),
    (3607152656, 5, 4),
    (1524183897, 6, 4),
    (3938484045, 7, 4),
    (2233167278, 8, 4),
    (3275968320, 9, 4),
    (4273788392, 10, 4),
    (615528706, 11, 4),
    (2145226095, 9, 8),
    (2671014370, 10, 8),
    (3881571503, 11, 8),
    (492376053, 11, 10),
    (889073191, 12, 10),
    (889073191, 12, 11),
];

async fn hashes_are_equal_on_all_members(engine: Engine) {
    let mut cluster = Cluster::start(engine, 3).await;
    make_history(&cluster).await;
    let compaction = CompactionRequest { revision: 6, physical: false };
    cluster.raw(1).kv.clone().compact(compaction).await.unwrap();
    let equal = async |cluster: &Cluster| {
        eventually("equal hashes", async || {
            let mut seen = vec![];
            for member in 0..3 {
                // Read here, so that the member has applied all of it.
                let answer = cluster.raw(member).kv.clone().range(get("a")).await;
                let answer = answer.map_err(|e| e.to_string())?.into_inner();
                assert_eq!(answer.header.unwrap().revision, 11);
                let HashKvResponse { hash, compact_revision, .. } =
                    hash_kv(cluster, member, 0).await;
                seen.push((hash, compact_revision));
            }
            let is_equal = seen.iter().all(|other| *other == (seen[0].0, 6));
            is_equal.then_some(seen[0].0).ok_or_else(|| format!("{seen:?}"))
        })
        .await
    };
    let before = equal(&cluster).await;
    cluster.terminate(2).await;
    cluster.restart(2).await;
    assert_eq!(equal(&cluster).await, before);
    let whole = async |member: usize| {
        cluster.raw(member).maintenance.clone().hash(HashRequest {}).await.unwrap().into_inner()
    };
    assert_eq!(whole(0).await.hash, whole(0).await.hash);
    let mut kv = cluster.raw(0).kv.clone();
    let hash = whole(0).await.hash;
    kv.put(put("more", "")).await.unwrap();
    assert_ne!(whole(0).await.hash, hash);
    assert_eq!(kv.range(range("a", "b")).await.unwrap().into_inner().count, 1);
}
