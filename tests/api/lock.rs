//! Locks: one holder at a time, in the order of asking, and nothing left behind.

use crate::cluster::{Cluster, Engine, Raw, eventually, product, within};
use crate::on_each_engine;
use crate::requests::{get, put, range, refusal};
use quoin::pb::etcdserverpb::{
    CompactionRequest, LeaseGrantRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
};
use quoin::pb::mvccpb::KeyValue;
use quoin::pb::v3lockpb::{LockRequest, LockResponse, UnlockRequest};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tonic::{Code, Response, Status};

on_each_engine![
    a_lock_is_a_key_named_after_its_lease,
    a_lease_of_a_minute_is_granted_to_who_brings_none,
    what_cannot_be_locked_is_refused,
    waiters_are_served_in_the_order_of_asking,
    a_lease_stands_in_a_queue_once,
    a_waiter_that_goes_away_leaves_no_key,
    a_waiter_whose_lease_ends_is_told,
    a_waiter_behind_one_that_left_goes_on_waiting,
    locks_exclude_through_different_members,
    a_holder_that_expires_makes_room,
    a_waiter_on_a_member_that_stops_is_told_and_leaves_no_key,
    who_asks_again_elsewhere_keeps_its_place,
];

const MEMBERS: usize = 3;

pub async fn grant(raw: &Raw, id: i64, ttl: i64) {
    raw.lease.clone().lease_grant(LeaseGrantRequest { id, ttl }).await.unwrap();
}

pub async fn revoke(raw: &Raw, id: i64) {
    raw.lease.clone().lease_revoke(LeaseRevokeRequest { id }).await.unwrap();
}

/// All pairs of a queue, the oldest first.
pub async fn queue(raw: &Raw, name: &str) -> Vec<KeyValue> {
    let all = range(&format!("{name}/"), &format!("{name}0"));
    let mut kvs = raw.kv.clone().range(all).await.unwrap().into_inner().kvs;
    kvs.sort_by_key(|kv| kv.create_revision);
    kvs
}

pub async fn leases_in_queue(raw: &Raw, name: &str) -> Vec<i64> {
    queue(raw, name).await.iter().map(|kv| kv.lease).collect()
}

/// Waits until the leases stand in the queue, in this order.
pub async fn queued(raw: &Raw, name: &str, leases: &[i64]) {
    eventually(&format!("queue of {leases:?}"), async || {
        let found = leases_in_queue(raw, name).await;
        if found == leases { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

async fn lock(raw: &Raw, name: &str, lease: i64) -> Result<Response<LockResponse>, Status> {
    raw.lock.clone().lock(LockRequest { name: name.to_owned().into(), lease }).await
}

async fn unlock(raw: &Raw, key: &[u8]) -> i64 {
    let request = UnlockRequest { key: key.to_owned().into() };
    let answer = raw.lock.clone().unlock(request).await.unwrap().into_inner();
    answer.header.unwrap().revision
}

/// Asks for a lock in the background, and returns when the request stands last in the queue.
async fn wait(
    raw: &Raw,
    name: &'static str,
    lease: i64,
) -> JoinHandle<Result<Response<LockResponse>, Status>> {
    grant(raw, lease, 600).await;
    let mut expected = leases_in_queue(raw, name).await;
    expected.push(lease);
    let waiter = tokio::spawn({
        let raw = raw.clone();
        async move { lock(&raw, name, lease).await }
    });
    queued(raw, name, &expected).await;
    waiter
}

async fn a_lock_is_a_key_named_after_its_lease(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let table = [("n", 7, "n/7"), ("", 255, "/ff"), ("a/b", i64::MAX, "a/b/7fffffffffffffff")];
    let mut revision = 1;
    for (name, lease, key) in table {
        grant(&raw, lease, 600).await;
        let held = lock(&raw, name, lease).await.unwrap().into_inner();
        assert_eq!(held.key, key);
        revision += 1;
        let header = held.header.unwrap();
        assert_eq!(header.revision, revision);
        assert!(header.member_id != 0 && header.cluster_id != 0 && header.raft_term != 0);
        let found = raw.kv.clone().range(get(key)).await.unwrap().into_inner();
        let kv = &found.kvs[0];
        assert_eq!((kv.lease, &kv.value[..], kv.version), (lease, &b""[..], 1));
        assert_eq!(kv.create_revision, revision);

        revision += 1;
        assert_eq!(unlock(&raw, key.as_bytes()).await, revision);
        assert!(queue(&raw, name).await.is_empty());
        // What is not locked can be unlocked, and that changes nothing.
        assert_eq!(unlock(&raw, key.as_bytes()).await, revision);
    }
}

async fn a_lease_of_a_minute_is_granted_to_who_brings_none(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let held = lock(&raw, "n", 0).await.unwrap().into_inner();
    let kv = queue(&raw, "n").await.pop().unwrap();
    assert_eq!(kv.key, held.key);
    assert_eq!(held.key, format!("n/{:x}", kv.lease));
    let request = LeaseTimeToLiveRequest { id: kv.lease, keys: true };
    let lease = raw.lease.clone().lease_time_to_live(request).await.unwrap().into_inner();
    assert_eq!((lease.granted_ttl, lease.keys), (60, vec![held.key]));
    assert!((50..=60).contains(&lease.ttl), "{}", lease.ttl);
}

async fn what_cannot_be_locked_is_refused(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let unknown_lease = (Code::Unknown, "etcdserver: requested lease not found".to_owned());
    for lease in [77, -1] {
        assert_eq!(refusal(lock(&raw, "n", lease).await), unknown_lease, "{lease}");
    }
    assert!(queue(&raw, "n").await.is_empty());
    let unlock = raw.lock.clone().unlock(UnlockRequest::default()).await;
    assert_eq!(refusal(unlock), (Code::Unknown, "etcdserver: key is not provided".into()));
    let status = raw.status().await.unwrap();
    assert_eq!(status.header.unwrap().revision, 1, "nothing was written");
}

async fn waiters_are_served_in_the_order_of_asking(engine: Engine) {
    const WAITERS: i64 = 20;
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    grant(&raw, 1, 600).await;
    let first = lock(&raw, "n", 1).await.unwrap().into_inner();
    // Those that ask through one connection share a task in the server.
    let connections = [cluster.raw(0), cluster.raw(0), raw.clone()];
    let holder = Arc::new(AtomicI64::new(1));
    let mut waiters = vec![];
    for lease in 2..WAITERS + 2 {
        let raw = connections[lease as usize % connections.len()].clone();
        let waiter = wait(&raw, "n", lease).await;
        let holder = holder.clone();
        waiters.push(tokio::spawn(async move {
            let held = waiter.await.unwrap().unwrap().into_inner();
            let before = holder.swap(lease, Ordering::SeqCst);
            assert_eq!(before, lease - 1, "{lease} came after {before}");
            assert_eq!(held.key, format!("n/{lease:x}"));
            let left = leases_in_queue(&raw, "n").await;
            assert_eq!(left.first(), Some(&lease), "who holds the lock is first");
            let released = unlock(&raw, &held.key).await;
            assert!(held.header.unwrap().revision < released);
        }));
    }
    assert_eq!(holder.load(Ordering::SeqCst), 1, "nobody gets what is held");
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
    unlock(&raw, &first.key).await;
    for waiter in waiters {
        waiter.await.unwrap();
    }
    assert!(queue(&raw, "n").await.is_empty());
}

async fn a_lease_stands_in_a_queue_once(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    grant(&raw, 1, 600).await;
    let first = lock(&raw, "n", 1).await.unwrap().into_inner();
    let created = queue(&raw, "n").await[0].create_revision;
    let again = lock(&raw, "n", 1).await.unwrap().into_inner();
    assert_eq!(again.key, first.key);
    let stands = queue(&raw, "n").await;
    assert_eq!((stands.len(), stands[0].create_revision), (1, created));
    // Other names are other locks.
    assert_eq!(lock(&raw, "n2", 1).await.unwrap().into_inner().key, "n2/1");
    assert_eq!(lock(&raw, "n/1", 1).await.unwrap().into_inner().key, "n/1/1");
}

async fn a_waiter_that_goes_away_leaves_no_key(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    grant(&raw, 1, 600).await;
    lock(&raw, "n", 1).await.unwrap();
    // The call is reset while its connection lives on, then the connection ends.
    let waiter = wait(&raw, "n", 2).await;
    waiter.abort();
    queued(&raw, "n", &[1]).await;
    let other = cluster.raw(0);
    let waiter = wait(&other, "n", 3).await;
    drop(other);
    waiter.abort();
    queued(&raw, "n", &[1]).await;
    // The client's own patience is another way to end a call.
    grant(&raw, 4, 600).await;
    let mut impatient = tonic::Request::new(LockRequest { name: "n".into(), lease: 4 });
    impatient.set_timeout(Duration::from_millis(300));
    let ended = refusal(raw.lock.clone().lock(impatient).await);
    assert!(matches!(ended.0, Code::DeadlineExceeded | Code::Cancelled), "{ended:?}");
    queued(&raw, "n", &[1]).await;
}

async fn a_waiter_whose_lease_ends_is_told(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    grant(&raw, 1, 600).await;
    let held = lock(&raw, "n", 1).await.unwrap().into_inner();
    let waiter = wait(&raw, "n", 2).await;
    revoke(&raw, 2).await;
    if !product().ours {
        // etcd looks at its own key when the older ones are gone, and not before.
        unlock(&raw, &held.key).await;
    }
    let expired = (Code::Unknown, "mutex: session is expired".to_owned());
    assert_eq!(refusal(waiter.await.unwrap()), expired);
    assert!(!leases_in_queue(&raw, "n").await.contains(&2));

    // A lease that ends by itself, while others wait before and behind.
    lock(&raw, "n", 1).await.unwrap();
    grant(&raw, 3, 2).await;
    let short = tokio::spawn({
        let raw = raw.clone();
        async move { lock(&raw, "n", 3).await }
    });
    queued(&raw, "n", &[1, 3]).await;
    let behind = wait(&raw, "n", 4).await;
    queued(&raw, "n", &[1, 4]).await;
    unlock(&raw, b"n/1").await;
    assert_eq!(refusal(short.await.unwrap()), expired);
    assert_eq!(behind.await.unwrap().unwrap().into_inner().key, "n/4");
}

async fn a_waiter_behind_one_that_left_goes_on_waiting(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    grant(&raw, 1, 600).await;
    let held = lock(&raw, "n", 1).await.unwrap().into_inner();
    let leaves = wait(&raw, "n", 2).await;
    let stays = wait(&raw, "n", 3).await;
    leaves.abort();
    queued(&raw, "n", &[1, 3]).await;
    if product().ours {
        // Takes the history that a watch may have to read. etcd then gives the waiter up.
        let last = unlock(&raw, b"none").await;
        let compact = CompactionRequest { revision: last, physical: true };
        raw.kv.clone().compact(compact).await.unwrap();
    }
    raw.kv.clone().put(put("n/later", "is behind all")).await.unwrap();
    assert!(!stays.is_finished(), "the holder still holds");
    let released = unlock(&raw, &held.key).await;
    let answer = stays.await.unwrap().unwrap().into_inner();
    assert_eq!(answer.key, "n/3");
    assert!(answer.header.unwrap().revision >= released);
}

async fn locks_exclude_through_different_members(engine: Engine) {
    const CLIENTS: usize = 9;
    const ROUNDS: usize = 5;
    let cluster = Cluster::start(engine, MEMBERS).await;
    let inside = Arc::new(AtomicUsize::new(0));
    let mut clients = vec![];
    for client in 0..CLIENTS {
        let (raw, inside) = (cluster.raw(client % MEMBERS), inside.clone());
        clients.push(tokio::spawn(async move {
            let lease = 100 + client as i64;
            grant(&raw, lease, 600).await;
            for _ in 0..ROUNDS {
                let held = lock(&raw, "n", lease).await.unwrap().into_inner();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold the lock");
                // Not atomic by itself: the lock is what makes it so.
                let counter = raw.kv.clone().range(get("counter")).await.unwrap().into_inner();
                let text = counter.kvs.first().map_or(&b"0"[..], |kv| &kv.value);
                let next = std::str::from_utf8(text).unwrap().parse::<usize>().unwrap() + 1;
                raw.kv.clone().put(put("counter", &next.to_string())).await.unwrap();
                inside.fetch_sub(1, Ordering::SeqCst);
                unlock(&raw, &held.key).await;
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    let counter = cluster.raw(1).kv.range(get("counter")).await.unwrap().into_inner();
    assert_eq!(counter.kvs[0].value, (CLIENTS * ROUNDS).to_string());
    assert!(queue(&cluster.raw(2), "n").await.is_empty());
}

async fn a_holder_that_expires_makes_room(engine: Engine) {
    let cluster = Cluster::start(engine, MEMBERS).await;
    let raws = [cluster.raw(0), cluster.raw(1), cluster.raw(2)];
    let granted = Instant::now();
    grant(&raws[0], 1, 2).await;
    lock(&raws[0], "n", 1).await.unwrap();
    let next = wait(&raws[1], "n", 2).await;
    let last = wait(&raws[2], "n", 3).await;
    let held =
        within(Duration::from_secs(12), "turn of the next", async || match next.is_finished() {
            true => Ok(()),
            false => Err("it waits".into()),
        });
    held.await;
    assert!(granted.elapsed() >= Duration::from_secs(2), "after {:?}", granted.elapsed());
    assert_eq!(next.await.unwrap().unwrap().into_inner().key, "n/2");
    queued(&raws[0], "n", &[2, 3]).await;
    assert!(!last.is_finished());
    unlock(&raws[0], b"n/2").await;
    assert_eq!(last.await.unwrap().unwrap().into_inner().key, "n/3");
}

async fn a_waiter_on_a_member_that_stops_is_told_and_leaves_no_key(engine: Engine) {
    let mut cluster = Cluster::start(engine, MEMBERS).await;
    let leader = cluster.leader().await;
    let (follower, stays) = ((leader + 1) % MEMBERS, (leader + 2) % MEMBERS);
    let raw = cluster.raw(stays);
    grant(&raw, 1, 600).await;
    lock(&raw, "n", 1).await.unwrap();
    for (lease, member) in [(2, follower), (3, leader)] {
        let waiter = wait(&cluster.raw(member), "n", lease).await;
        cluster.terminate(member).await;
        let told = refusal(waiter.await.unwrap());
        if product().ours {
            assert_eq!(told, (Code::Unavailable, "etcdserver: server stopped".into()));
            queued(&raw, "n", &[1]).await;
        }
        cluster.restart(member).await;
    }
}

async fn who_asks_again_elsewhere_keeps_its_place(engine: Engine) {
    if !product().ours {
        return crate::cluster::skipped("etcd takes the key of a lease away that asked again");
    }
    let cluster = Cluster::start(engine, MEMBERS).await;
    let raws = [cluster.raw(0), cluster.raw(1), cluster.raw(2)];
    grant(&raws[0], 1, 600).await;
    let held = lock(&raws[0], "n", 1).await.unwrap().into_inner();
    let first = wait(&raws[1], "n", 2).await;
    let created = queue(&raws[0], "n").await[1].create_revision;
    let second = tokio::spawn({
        let raw = raws[2].clone();
        async move { lock(&raw, "n", 2).await }
    });
    eventually("second request", async || {
        let stands = &queue(&raws[0], "n").await[1];
        assert_eq!(stands.create_revision, created);
        if stands.version == 2 { Ok(()) } else { Err(format!("{stands:?}")) }
    })
    .await;
    let applied = async || raws[0].status().await.unwrap().raft_applied_index;
    let before = applied().await;
    first.abort();
    // What the first leaves behind it is decided by then.
    eventually("attempt to remove", async || {
        let now = applied().await;
        if now > before { Ok(()) } else { Err(format!("{now}")) }
    })
    .await;
    assert_eq!(leases_in_queue(&raws[0], "n").await, [1, 2]);
    unlock(&raws[0], &held.key).await;
    assert_eq!(second.await.unwrap().unwrap().into_inner().key, "n/2");
}
