//! Lease: grants, renewals, time to live, ends, and what a restart keeps of them.

use crate::cluster::{Cluster, Engine, Raw, eventually, product};
use crate::on_each_engine;
use crate::requests::{get, put, range, refusal};
use quoin::pb::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
    PutRequest,
};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

on_each_engine![
    ids_and_times_are_given_and_bounded,
    a_revoke_takes_all_keys_in_one_revision,
    renewals_are_answered_in_order,
    time_to_live_tells_what_is_left,
    a_lease_expires_after_its_time_and_not_before,
    leases_survive_a_restart,
    many_leases_expire_together,
];

async fn grant(raw: &Raw, id: i64, ttl: i64) -> LeaseGrantResponse {
    let request = LeaseGrantRequest { id, ttl };
    raw.lease.clone().lease_grant(request).await.unwrap().into_inner()
}

async fn time_to_live(raw: &Raw, id: i64) -> LeaseTimeToLiveResponse {
    let request = LeaseTimeToLiveRequest { id, keys: true };
    raw.lease.clone().lease_time_to_live(request).await.unwrap().into_inner()
}

async fn put_with(raw: &Raw, key: &str, lease: i64) {
    raw.kv.clone().put(PutRequest { lease, ..put(key, "v") }).await.unwrap();
}

async fn leases(raw: &Raw) -> Vec<i64> {
    let answer = raw.lease.clone().lease_leases(LeaseLeasesRequest {}).await.unwrap();
    answer.into_inner().leases.iter().map(|lease| lease.id).collect()
}

/// A stream of renewals.
struct KeepAlive {
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

impl KeepAlive {
    async fn open(raw: &Raw, first: i64) -> (KeepAlive, LeaseKeepAliveResponse) {
        let (requests, receiver) = mpsc::channel(16);
        requests.send(LeaseKeepAliveRequest { id: first }).await.unwrap();
        let answers = raw.lease.clone().lease_keep_alive(ReceiverStream::new(receiver)).await;
        let mut stream = KeepAlive { requests, answers: answers.unwrap().into_inner() };
        let answer = stream.next().await;
        (stream, answer)
    }

    async fn next(&mut self) -> LeaseKeepAliveResponse {
        self.answers.message().await.unwrap().expect("the stream goes on")
    }

    async fn renew(&mut self, id: i64) -> LeaseKeepAliveResponse {
        self.requests.send(LeaseKeepAliveRequest { id }).await.unwrap();
        self.next().await
    }
}

async fn ids_and_times_are_given_and_bounded(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    // 1.5 election timeouts, rounded up, are the least there is.
    for (asked, given) in [(0, 2), (-5, 2), (1, 2), (2, 2), (3, 3), (9_000_000_000, 9_000_000_000)]
    {
        let granted = grant(&raw, 0, asked).await;
        assert_eq!((granted.ttl, &granted.error[..]), (given, ""), "asked for {asked}");
        assert!(granted.id > 0);
        assert_eq!(granted.header.unwrap().revision, 1);
    }
    assert_eq!(grant(&raw, 42, 600).await.id, 42);
    if product().at_least(3, 6) {
        assert_eq!(grant(&raw, -42, 600).await.id, -42);
    }
    let table = [
        (42, 600, Code::FailedPrecondition, "etcdserver: lease already exists"),
        (0, 9_000_000_001, Code::OutOfRange, "etcdserver: too large lease TTL"),
        (43, i64::MAX, Code::OutOfRange, "etcdserver: too large lease TTL"),
    ];
    for (id, ttl, code, text) in table {
        let refused = refusal(raw.lease.clone().lease_grant(LeaseGrantRequest { id, ttl }).await);
        assert_eq!(refused, (code, text.into()));
    }
    assert!(!leases(&raw).await.contains(&43));
}

async fn a_revoke_takes_all_keys_in_one_revision(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    grant(&raw, 5, 600).await;
    grant(&raw, 6, 600).await;
    for key in ["b", "a", "c"] {
        put_with(&raw, key, 5).await;
    }
    put_with(&raw, "d", 6).await;
    let revoke = async |id| raw.lease.clone().lease_revoke(LeaseRevokeRequest { id }).await;
    let answer = revoke(5).await.unwrap().into_inner();
    assert_eq!(answer.header.unwrap().revision, 6);
    let rest = raw.kv.clone().range(range("\0", "\0")).await.unwrap().into_inner();
    assert_eq!((rest.count, &rest.kvs[0].key[..]), (1, &b"d"[..]));
    assert_eq!(rest.header.unwrap().revision, 6);

    let not_found = (Code::NotFound, "etcdserver: requested lease not found".to_owned());
    assert_eq!(refusal(revoke(5).await), not_found);
    assert_eq!(refusal(revoke(99).await), not_found);
    let late = PutRequest { lease: 5, ..put("a", "v") };
    assert_eq!(refusal(raw.kv.clone().put(late).await), not_found);
    // A lease without keys makes no revision, and its id can be granted again.
    grant(&raw, 5, 600).await;
    assert_eq!(revoke(5).await.unwrap().into_inner().header.unwrap().revision, 6);
    assert_eq!(leases(&raw).await, [6]);
}

async fn renewals_are_answered_in_order(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    grant(&raw, 5, 60).await;
    grant(&raw, 6, 70).await;
    let (mut stream, first) = KeepAlive::open(&raw, 5).await;
    assert_eq!((first.id, first.ttl), (5, 60));
    assert!(first.header.unwrap().member_id != 0);
    // What is unknown is no error and does not end the stream.
    for (id, ttl) in [(6, 70), (99, 0), (5, 60), (0, 0)] {
        let answer = stream.renew(id).await;
        assert_eq!((answer.id, answer.ttl), (id, ttl));
    }
    for id in [5, 6, 99, 6] {
        stream.requests.send(LeaseKeepAliveRequest { id }).await.unwrap();
    }
    for id in [5, 6, 99, 6] {
        assert_eq!(stream.next().await.id, id, "one answer for each request");
    }
    raw.lease.clone().lease_revoke(LeaseRevokeRequest { id: 5 }).await.unwrap();
    assert_eq!(stream.renew(5).await.ttl, 0);
}

async fn time_to_live_tells_what_is_left(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    grant(&raw, 5, 600).await;
    put_with(&raw, "b", 5).await;
    put_with(&raw, "a", 5).await;
    let mut full = time_to_live(&raw, 5).await;
    full.keys.sort();
    assert_eq!((full.id, full.granted_ttl, full.keys.len()), (5, 600, 2));
    assert!((590..=600).contains(&full.ttl), "{full:?}");
    assert_eq!(full.keys, ["a", "b"]);
    let request = LeaseTimeToLiveRequest { id: 5, keys: false };
    let short = raw.lease.clone().lease_time_to_live(request).await.unwrap().into_inner();
    assert!(short.keys.is_empty());
    let unknown = time_to_live(&raw, 99).await;
    assert_eq!((unknown.id, unknown.ttl, unknown.granted_ttl), (99, -1, 0));
    assert!(unknown.header.unwrap().member_id != 0 && unknown.keys.is_empty());
}

async fn a_lease_expires_after_its_time_and_not_before(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let mut start = Instant::now();
    grant(&raw, 5, 2).await;
    put_with(&raw, "a", 5).await;
    put_with(&raw, "b", 5).await;
    grant(&raw, 6, 600).await;
    put_with(&raw, "c", 6).await;
    let (mut stream, _) = KeepAlive::open(&raw, 6).await;
    // Renewed once, in the middle of its life.
    eventually("half of its life", async || match start.elapsed() >= Duration::from_secs(1) {
        true => Ok(()),
        false => Err("not yet".into()),
    })
    .await;
    start = Instant::now();
    assert_eq!(stream.renew(5).await.ttl, 2);
    eventually("expiry", async || {
        let left = raw.kv.clone().range(range("\0", "\0")).await.unwrap().into_inner();
        let lived = start.elapsed();
        match left.count {
            3 => Err("all keys are there".into()),
            1 => {
                assert!(lived >= Duration::from_secs(2), "expired after {lived:?}");
                assert_eq!(left.header.unwrap().revision, 5, "both keys in one revision");
                Ok(())
            }
            count => panic!("{count} keys"),
        }
    })
    .await;
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert_eq!(time_to_live(&raw, 5).await.ttl, -1);
    assert_eq!(stream.renew(5).await.ttl, 0);
    assert_eq!(leases(&raw).await, [6]);
}

async fn leases_survive_a_restart(engine: Engine) {
    let mut cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    for (id, ttl) in [(5, 300), (6, 200), (7, 100)] {
        grant(&raw, id, ttl).await;
        put_with(&raw, &format!("key{id}"), id).await;
    }
    assert_eq!(leases(&raw).await, [7, 6, 5], "those that end first come first");
    cluster.kill(0);
    cluster.restart(0).await;
    let raw = cluster.raw(0);
    eventually("leases in order", async || match leases(&raw).await {
        ids if ids == [7, 6, 5] => Ok(()),
        ids => Err(format!("{ids:?}")),
    })
    .await;
    let left = time_to_live(&raw, 5).await;
    assert_eq!((left.granted_ttl, left.keys), (300, vec!["key5".into()]));
    assert!((290..=302).contains(&left.ttl), "{}", left.ttl);
    raw.lease.clone().lease_revoke(LeaseRevokeRequest { id: 6 }).await.unwrap();
    assert_eq!(raw.kv.clone().range(get("key6")).await.unwrap().into_inner().count, 0);
}

async fn many_leases_expire_together(engine: Engine) {
    const LEASES: i64 = 300;
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    for id in 1..=LEASES {
        grant(&raw, id, 2).await;
        put_with(&raw, &format!("key{id}"), id).await;
    }
    eventually("expiry of all", async || {
        let left = raw.kv.clone().range(range("\0", "\0")).await.unwrap().into_inner();
        match left.count {
            0 => {
                assert_eq!(left.header.unwrap().revision, 1 + 2 * LEASES);
                Ok(())
            }
            count => Err(format!("{count} keys")),
        }
    })
    .await;
    assert!(leases(&raw).await.is_empty());
}
