//! Three members of which some are cut off, stopped, killed or told to end.

use crate::cluster::{Cluster, Engine, Exit, Setup, eventually, product, within};
use crate::on_each_engine;
use etcd_client::{
    Client, CompactionOptions, ConnectOptions, Error, GetOptions, PutOptions, WatchOptions,
};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

on_each_engine![
    a_minority_refuses_and_heals,
    a_leader_that_hears_nobody_steps_down,
    a_leader_that_nobody_hears_is_replaced,
    slow_links_only_slow_writes_down,
    a_paused_leader_serves_nothing_stale,
    a_killed_leader_is_replaced,
    a_terminated_leader_hands_over_first,
    a_member_catches_up_by_its_log,
    a_member_catches_up_by_a_snapshot,
    a_cluster_that_was_killed_has_lost_nothing,
    a_watch_goes_on_where_its_member_ended,
];

const MEMBERS: usize = 3;

/// Long enough for any answer but that of a member without a quorum.
const PATIENCE: Duration = Duration::from_secs(2);

/// A client of one member that gives up early.
async fn impatient(cluster: &Cluster, member: usize) -> Client {
    let options = ConnectOptions::new().with_connect_timeout(PATIENCE).with_timeout(PATIENCE);
    Client::connect([&cluster.members[member].endpoint], Some(options)).await.unwrap()
}

/// A client that wants an error at once where there is no leader.
async fn demanding(cluster: &Cluster, member: usize) -> Client {
    let options = ConnectOptions::new().with_timeout(PATIENCE).with_require_leader(true);
    Client::connect([&cluster.members[member].endpoint], Some(options)).await.unwrap()
}

fn others(member: usize) -> [usize; 2] {
    [(member + 1) % MEMBERS, (member + 2) % MEMBERS]
}

async fn value(client: &mut Client, key: &str) -> Result<String, Error> {
    let answer = client.get(key, None).await?;
    Ok(answer.kvs().first().map_or(String::new(), |kv| kv.value_str().unwrap().to_owned()))
}

/// Writes until it works, and returns how long that took.
async fn put_at_last(client: &mut Client, key: &str, written: &str) -> Duration {
    let start = Instant::now();
    eventually("a write that works", async || {
        client.put(key, written, None).await.map(drop).map_err(|e| e.to_string())
    })
    .await;
    start.elapsed()
}

/// All members hold the same, read from each alone.
async fn equal_everywhere(cluster: &Cluster) -> Vec<String> {
    let mut clients = cluster.clients().await;
    // A write of which nobody knew the outcome may still come about between two reads.
    let mut held = eventually("the same revision at all members", async || {
        let (mut held, mut revisions) = (vec![], BTreeSet::new());
        for client in &mut clients {
            let options = GetOptions::new().with_all_keys().with_serializable();
            let answer = client.get("", Some(options)).await.map_err(|e| e.to_string())?;
            revisions.insert(answer.header().unwrap().revision());
            held.push(answer.kvs().iter().map(|kv| format!("{kv:?}")).collect::<Vec<_>>());
        }
        if revisions.len() == 1 { Ok(held) } else { Err(format!("{revisions:?}")) }
    })
    .await;
    assert_eq!(held[0], held[1]);
    assert_eq!(held[0], held[2]);
    held.remove(0)
}

async fn a_minority_refuses_and_heals(engine: Engine) {
    let setup = Setup::new(engine, MEMBERS).fast_elections().proxied();
    let cluster = setup.start().await;
    let old = cluster.leader().await;
    let [one, other] = others(old);
    let mut lonely = demanding(&cluster, old).await;
    lonely.put("key", "before", None).await.unwrap();

    cluster.links().isolate(old);
    // A write that the old leader may have taken is not answered as done.
    assert!(lonely.put("unsure", "v", None).await.is_err());
    assert!(value(&mut lonely, "key").await.is_err(), "a read that may be stale");
    within(Duration::from_secs(10), "refusal for want of a leader", async || {
        match lonely.put("unsure", "v", None).await {
            Err(Error::GRpcStatus(status)) if status.message() == "etcdserver: no leader" => {
                assert_eq!(status.code(), tonic::Code::Unavailable);
                Ok(())
            }
            result => Err(format!("{result:?}")),
        }
    })
    .await;
    let local = Some(GetOptions::new().with_serializable());
    let mut local_client = cluster.client_of(old).await;
    let answer = local_client.get("key", local).await.unwrap();
    assert_eq!(answer.kvs()[0].value(), b"before", "its own state is still there to read");

    let new = cluster.leader_among(&[one, other]).await;
    assert_ne!(new, old);
    let mut majority = cluster.client_of(one).await;
    put_at_last(&mut majority, "key", "after").await;
    let term = cluster.raw(one).status().await.unwrap().raft_term;

    cluster.links().heal();
    eventually("the old leader as a follower", async || match value(&mut lonely, "key").await {
        Ok(read) => {
            assert_eq!(read, "after");
            Ok(())
        }
        Err(why) => Err(why.to_string()),
    })
    .await;
    // What was refused with an unknown outcome may have come about since.
    let held = equal_everywhere(&cluster).await.len();
    assert!((1..=2).contains(&held), "{held}");
    if product().at_least(3, 5) {
        let healed = cluster.raw(old).status().await.unwrap().raft_term;
        assert_eq!(healed, term, "a member that comes back disturbs nobody");
    }
}

async fn a_leader_that_hears_nobody_steps_down(engine: Engine) {
    let setup = Setup::new(engine, MEMBERS).fast_elections().proxied();
    let cluster = setup.start().await;
    let old = cluster.leader().await;
    for other in others(old) {
        cluster.links().cut_one_way(other, old);
    }
    // Its heartbeats still reach the others, so only its own doubt lets them elect another.
    let new = cluster.leader_among(&others(old)).await;
    assert_ne!(new, old);
    let mut client = cluster.client_of(new).await;
    put_at_last(&mut client, "key", "after").await;
    cluster.links().heal();
    assert_eq!(equal_everywhere(&cluster).await.len(), 1);
}

async fn a_leader_that_nobody_hears_is_replaced(engine: Engine) {
    let setup = Setup::new(engine, MEMBERS).fast_elections().proxied();
    let cluster = setup.start().await;
    let old = cluster.leader().await;
    for other in others(old) {
        cluster.links().cut_one_way(old, other);
    }
    let new = cluster.leader_among(&others(old)).await;
    assert_ne!(new, old);
    let mut client = cluster.client_of(new).await;
    put_at_last(&mut client, "key", "after").await;
    cluster.links().heal();
    assert_eq!(equal_everywhere(&cluster).await.len(), 1);
}

async fn slow_links_only_slow_writes_down(engine: Engine) {
    let delay = Duration::from_millis(50);
    let cluster = Setup::new(engine, MEMBERS).proxied().start().await;
    let leader = cluster.leader().await;
    let term = cluster.raw(leader).status().await.unwrap().raft_term;
    for other in others(leader) {
        cluster.links().delay(leader, other, delay);
        cluster.links().delay(other, leader, delay);
    }
    let mut client = cluster.client_of(others(leader)[0]).await;
    let start = Instant::now();
    for number in 0..5 {
        client.put("key", number.to_string(), None).await.unwrap();
        assert_eq!(value(&mut client, "key").await.unwrap(), number.to_string());
    }
    // Each write waits for the links there and back at least once.
    assert!(start.elapsed() >= 5 * 2 * delay, "{:?}", start.elapsed());
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster.raw(leader).status().await.unwrap().raft_term, term, "nobody was elected");
}

async fn a_paused_leader_serves_nothing_stale(engine: Engine) {
    let mut cluster = Setup::new(engine, MEMBERS).fast_elections().start().await;
    let old = cluster.leader().await;
    let mut held = impatient(&cluster, old).await;
    held.put("key", "before", None).await.unwrap();

    cluster.members[old].pause();
    let new = cluster.leader_among(&others(old)).await;
    let mut client = cluster.client_of(new).await;
    put_at_last(&mut client, "key", "after").await;
    // Asked while it still takes itself for the leader, answered once it goes on.
    let mut early = impatient(&cluster, old).await;
    let asked = tokio::spawn(async move { value(&mut early, "key").await });
    cluster.members[old].resume();
    if let Ok(read) = asked.await.unwrap() {
        assert_eq!(read, "after");
    }
    eventually("reads through the member that was paused", async || {
        match value(&mut held, "key").await {
            Ok(read) => {
                assert_eq!(read, "after");
                Ok(())
            }
            Err(why) => Err(why.to_string()),
        }
    })
    .await;
    assert_eq!(equal_everywhere(&cluster).await.len(), 1);
}

async fn a_killed_leader_is_replaced(engine: Engine) {
    let mut cluster = Setup::new(engine, MEMBERS).fast_elections().start().await;
    let mut written = 0;
    for _ in 0..3 {
        let leader = cluster.leader().await;
        let mut client = cluster.client_of(others(leader)[0]).await;
        for _ in 0..5 {
            written += 1;
            client.put(format!("key{written}"), "v", None).await.unwrap();
        }
        cluster.kill(leader);
        written += 1;
        let took = put_at_last(&mut client, &format!("key{written}"), "v").await;
        assert!(took < Duration::from_secs(10), "no writes for {took:?}");
        assert_ne!(cluster.leader().await, leader);
        cluster.restart(leader).await;
    }
    assert_eq!(equal_everywhere(&cluster).await.len(), written);
}

async fn a_terminated_leader_hands_over_first(engine: Engine) {
    // An election timeout that would be noticed.
    let setup = Setup::new(engine, MEMBERS).flag("--election-timeout=10000");
    let mut cluster = setup.start().await;
    let leader = cluster.leader().await;
    let [one, other] = others(leader);
    let term = cluster.raw(one).status().await.unwrap().raft_term;
    let mut client = cluster.client_of(one).await;
    client.put("key", "before", None).await.unwrap();

    let start = Instant::now();
    let (exit, took) = cluster.terminate(leader).await;
    assert_eq!(exit, Exit::Signal(15), "it ends by the signal that it got");
    put_at_last(&mut client, "key", "after").await;
    let without_leader = start.elapsed();
    assert!(took < Duration::from_secs(5), "took {took:?} to end");
    assert!(without_leader < Duration::from_secs(7), "no writes for {without_leader:?}");
    let new = cluster.leader_among(&[one, other]).await;
    assert_eq!(cluster.raw(new).status().await.unwrap().raft_term, term + 1);
    cluster.restart(leader).await;
    assert_eq!(equal_everywhere(&cluster).await.len(), 1);
}

async fn a_member_catches_up_by_its_log(engine: Engine) {
    let mut cluster = Setup::new(engine, MEMBERS).fast_elections().start().await;
    let follower = others(cluster.leader().await)[0];
    cluster.kill(follower);
    let mut client = cluster.client_of(cluster.leader().await).await;
    for number in 0..50 {
        client.put(format!("key{number}"), "v", None).await.unwrap();
    }
    cluster.restart(follower).await;
    assert_eq!(equal_everywhere(&cluster).await.len(), 50);
}

async fn a_member_catches_up_by_a_snapshot(engine: Engine) {
    let setup = Setup::new(engine, MEMBERS)
        .fast_elections()
        .flag("--snapshot-count=50")
        .flag("--snapshot-catchup-entries=10");
    let mut cluster = setup.start().await;
    let leader = cluster.leader().await;
    let follower = others(leader)[0];
    let mut client = cluster.client_of(leader).await;
    client.put("stays", "as it was", None).await.unwrap();
    client.put("goes", "v", None).await.unwrap();
    cluster.kill(follower);

    // More than the log keeps: values, deletes, a lease, a compaction.
    let lease = client.lease_grant(600, None).await.unwrap().id();
    let leased = Some(PutOptions::new().with_lease(lease));
    client.put("leased", "v", leased).await.unwrap();
    client.delete("goes", None).await.unwrap();
    for number in 0..300 {
        client.put(format!("key{}", number % 40), "x".repeat(1000), None).await.unwrap();
    }
    let revision = client.get("stays", None).await.unwrap().header().unwrap().revision();
    let options = Some(CompactionOptions::new().with_physical());
    client.compact(revision - 100, options).await.unwrap();
    cluster.restart(follower).await;

    assert_eq!(equal_everywhere(&cluster).await.len(), 42);
    let mut caught_up = cluster.client_of(follower).await;
    let past = |revision| Some(GetOptions::new().with_revision(revision).with_serializable());
    let old = caught_up.get("key0", past(revision - 100)).await.unwrap();
    assert_eq!(old.count(), 1, "the compacted revision itself can be read");
    let refused = caught_up.get("key0", past(revision - 101)).await.unwrap_err();
    assert!(refused.to_string().contains("has been compacted"), "{refused}");
    if product().at_least(3, 6) {
        let log = cluster.members[follower].output();
        assert!(log.contains("applied snapshot"), "it did not need a snapshot");
    }
    // The lease came along with its key.
    client.lease_revoke(lease).await.unwrap();
    assert_eq!(value(&mut caught_up, "leased").await.unwrap(), "");
    caught_up.put("stays", "changed", None).await.unwrap();
    assert_eq!(equal_everywhere(&cluster).await.len(), 41);

    // What was installed is there after a restart too.
    cluster.kill(follower);
    cluster.restart(follower).await;
    assert_eq!(equal_everywhere(&cluster).await.len(), 41);
}

async fn a_cluster_that_was_killed_has_lost_nothing(engine: Engine) {
    let setup = Setup::new(engine, MEMBERS).fast_elections().flag("--snapshot-count=100");
    let mut cluster = setup.start().await;
    let mut client = cluster.client().await;
    let lease = client.lease_grant(600, None).await.unwrap().id();
    for number in 0..250 {
        let leased = (number % 10 == 0).then(|| PutOptions::new().with_lease(lease));
        client.put(format!("key{}", number % 50), number.to_string(), leased).await.unwrap();
    }
    client.compact(100, None).await.unwrap();
    let held = equal_everywhere(&cluster).await;
    for round in 0..2 {
        (0..MEMBERS).for_each(|member| cluster.kill(member));
        cluster.start_all().await.unwrap();
        assert_eq!(equal_everywhere(&cluster).await, held, "after start {round}");
        let mut client = cluster.client_of(round).await;
        let refused = client.get("key0", Some(GetOptions::new().with_revision(99))).await;
        assert!(refused.unwrap_err().to_string().contains("has been compacted"));
        let left = client.lease_time_to_live(lease, None).await.unwrap();
        assert_eq!(left.granted_ttl(), 600);
    }
    let mut client = cluster.client_of(2).await;
    let answer = client.lease_revoke(lease).await.unwrap();
    assert_eq!(answer.header().unwrap().revision(), 252, "its keys go in one revision");
    assert_eq!(equal_everywhere(&cluster).await.len(), 45);
}

async fn a_watch_goes_on_where_its_member_ended(engine: Engine) {
    let mut cluster = Setup::new(engine, MEMBERS).fast_elections().start().await;
    let leader = cluster.leader().await;
    let [one, other] = others(leader);
    let mut watcher = cluster.client_of(leader).await;
    let mut watch = watcher.watch("key", None).await.unwrap();
    let mut far = cluster.client_of(other).await;
    let mut far_watch = far.watch("key", None).await.unwrap();
    let mut client = cluster.client_of(one).await;
    for number in 0..5 {
        client.put("key", number.to_string(), None).await.unwrap();
    }
    let mut seen = revisions(&mut watch, 5).await;
    cluster.kill(leader);
    put_at_last(&mut client, "key", "after").await;
    let head = client.get("key", None).await.unwrap().header().unwrap().revision();

    // Elsewhere, from the first revision not seen.
    let next = WatchOptions::new().with_start_revision(seen.last().unwrap() + 1);
    let mut resumed = cluster.client_of(other).await;
    let mut resumed = resumed.watch("key", Some(next)).await.unwrap();
    let rest = (head - seen.last().unwrap()) as usize;
    seen.extend(revisions(&mut resumed, rest).await);
    assert_eq!(seen, (2..=head).collect::<Vec<_>>());
    // A watch on a member that stayed goes on by itself.
    assert_eq!(revisions(&mut far_watch, seen.len()).await, seen);
}

/// The revisions of the next so many events.
async fn revisions(watch: &mut etcd_client::WatchStream, count: usize) -> Vec<i64> {
    let mut revisions = vec![];
    while revisions.len() < count {
        let message = tokio::time::timeout(Duration::from_secs(20), watch.message()).await;
        let message = message.expect("events arrive").unwrap().unwrap();
        revisions.extend(message.events().iter().map(|event| event.kv().unwrap().mod_revision()));
    }
    assert_eq!(revisions.len(), count);
    revisions
}
