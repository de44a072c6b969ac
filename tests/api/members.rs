//! Three members: whatever is written through one is read through each.

use crate::cluster::{Cluster, Engine, Setup, eventually, within};
use crate::on_each_engine;
use etcd_client::{
    Client, Compare, CompareOp, EventType, GetOptions, LeaseGrantOptions, PutOptions, Txn, TxnOp,
    WatchOptions,
};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

on_each_engine![
    a_write_to_one_is_read_from_all,
    a_write_to_each_is_read_from_all,
    concurrent_writers_on_all_members_lose_nothing,
    one_key_is_updated_through_different_members,
    data_is_equal_after_writes,
    twenty_sequential_writes_over_members,
    a_range_is_equal_through_every_member,
    a_deleted_key_is_gone_on_the_next_read_everywhere,
    transactions_are_atomic_through_every_member,
    puts_gets_and_deletes_at_once,
    revisions_are_equal_on_all_members,
    a_watch_on_each_member_sees_all_writes_in_order,
    a_lease_expires_on_all_members_and_not_early,
    three_members_are_ready_in_two_seconds,
];

const MEMBERS: usize = 3;

type Pairs = BTreeMap<Vec<u8>, (Vec<u8>, i64, i64, i64)>;

/// Everything that a member holds, read from itself alone.
async fn everything(client: &mut Client) -> Pairs {
    let options = GetOptions::new().with_all_keys().with_serializable();
    let answer = client.get("", Some(options)).await.unwrap();
    let pairs = answer.kvs().iter().map(|kv| {
        let data = (kv.value().to_vec(), kv.create_revision(), kv.mod_revision(), kv.version());
        (kv.key().to_vec(), data)
    });
    pairs.collect()
}

/// Waits for equal revisions, then compares all data.
async fn equal_everywhere(cluster: &Cluster) -> (i64, Pairs) {
    let revision = cluster.same_revision(&[0, 1, 2]).await;
    let mut held = vec![];
    for mut client in cluster.clients().await {
        held.push(everything(&mut client).await);
    }
    assert_eq!(held[0], held[1]);
    assert_eq!(held[0], held[2]);
    (revision, held.remove(0))
}

async fn value(client: &mut Client, key: &str) -> Option<String> {
    let answer = client.get(key, None).await.unwrap();
    answer.kvs().first().map(|kv| kv.value_str().unwrap().to_owned())
}

async fn a_write_to_one_is_read_from_all(engine: Engine) {
    let cluster = Cluster::start(engine, MEMBERS).await;
    let mut clients = cluster.clients().await;
    clients[0].put("key", "value", None).await.unwrap();
    for client in &mut clients {
        assert_eq!(value(client, "key").await.as_deref(), Some("value"));
    }
}

async fn a_write_to_each_is_read_from_all(engine: Engine) {
    let cluster = Cluster::start(engine, MEMBERS).await;
    let mut clients = cluster.clients().await;
    for (number, client) in clients.iter_mut().enumerate() {
        client.put(format!("key{number}"), format!("value{number}"), None).await.unwrap();
    }
    for client in &mut clients {
        for number in 0..MEMBERS {
            let expected = format!("value{number}");
            assert_eq!(value(client, &format!("key{number}")).await, Some(expected));
        }
    }
}

async fn concurrent_writers_on_all_members_lose_nothing(engine: Engine) {
    const WRITERS: usize = 9;
    const WRITES: usize = 20;
    let cluster = Cluster::start(engine, MEMBERS).await;
    let mut writers = vec![];
    for writer in 0..WRITERS {
        let mut client = cluster.client_of(writer % MEMBERS).await;
        writers.push(tokio::spawn(async move {
            let mut revisions = vec![];
            for number in 0..WRITES {
                let answer = client.put(format!("{writer}/{number}"), "x", None).await.unwrap();
                revisions.push(answer.header().unwrap().revision());
            }
            assert!(revisions.is_sorted(), "{revisions:?}");
            revisions
        }));
    }
    let mut revisions = vec![];
    for writer in writers {
        revisions.extend(writer.await.unwrap());
    }
    revisions.sort();
    let expected: Vec<i64> = (2..2 + (WRITERS * WRITES) as i64).collect();
    assert_eq!(revisions, expected, "each write has a revision of its own");
    let (revision, held) = equal_everywhere(&cluster).await;
    assert_eq!((revision, held.len()), (1 + (WRITERS * WRITES) as i64, WRITERS * WRITES));
}

async fn one_key_is_updated_through_different_members(engine: Engine) {
    let cluster = Cluster::start(engine, MEMBERS).await;
    let mut clients = cluster.clients().await;
    for round in 0..12 {
        let written = format!("round {round}");
        clients[round % MEMBERS].put("key", written.clone(), None).await.unwrap();
        let next = &mut clients[(round + 1) % MEMBERS];
        assert_eq!(value(next, "key").await, Some(written), "through the next member");
    }
    let answer = clients[0].get("key", None).await.unwrap();
    let kv = &answer.kvs()[0];
    assert_eq!((kv.create_revision(), kv.mod_revision(), kv.version()), (2, 13, 12));
}

async fn data_is_equal_after_writes(engine: Engine) {
    let cluster = Cluster::start(engine, MEMBERS).await;
    let mut clients = cluster.clients().await;
    for number in 0..60 {
        let client = &mut clients[number % MEMBERS];
        match number % 5 {
            4 => drop(client.delete(format!("key{}", number - 3), None).await.unwrap()),
            _ => drop(client.put(format!("key{number}"), format!("{number}"), None).await.unwrap()),
        }
    }
    let (revision, held) = equal_everywhere(&cluster).await;
    assert_eq!((revision, held.len()), (61, 36));
}

async fn twenty_sequential_writes_over_members(engine: Engine) {
    let cluster = Cluster::start(engine, MEMBERS).await;
    let mut clients = cluster.clients().await;
    for number in 0..20 {
        let client = &mut clients[number % MEMBERS];
        let answer = client.put(format!("key{number:02}"), number.to_string(), None).await.unwrap();
        assert_eq!(answer.header().unwrap().revision(), number as i64 + 2);
    }
    for client in &mut clients {
        let options = GetOptions::new().with_prefix();
        let answer = client.get("key", Some(options)).await.unwrap();
        let got: Vec<String> =
            answer.kvs().iter().map(|kv| kv.value_str().unwrap().to_owned()).collect();
        let expected: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        assert_eq!(got, expected);
    }
}

async fn a_range_is_equal_through_every_member(engine: Engine) {
    let cluster = Cluster::start(engine, MEMBERS).await;
    let mut clients = cluster.clients().await;
    for number in 0..30 {
        let client = &mut clients[number % MEMBERS];
        client.put(format!("range/{number:02}"), "v".repeat(number), None).await.unwrap();
    }
    let mut answers = vec![];
    for client in &mut clients {
        let options = GetOptions::new().with_range("range/25").with_limit(10);
        let answer = client.get("range/05", Some(options)).await.unwrap();
        assert_eq!((answer.count(), answer.more(), answer.kvs().len()), (20, true, 10));
        assert_eq!(answer.header().unwrap().revision(), 31);
        assert_eq!(answer.kvs()[0].key(), b"range/05");
        answers.push(format!("{:?}", answer.kvs()));
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
}

async fn a_deleted_key_is_gone_on_the_next_read_everywhere(engine: Engine) {
    let cluster = Cluster::start(engine, MEMBERS).await;
    let mut clients = cluster.clients().await;
    for round in 0..10 {
        clients[round % MEMBERS].put("key", "value", None).await.unwrap();
        let deleted = clients[(round + 1) % MEMBERS].delete("key", None).await.unwrap();
        assert_eq!(deleted.deleted(), 1);
        for client in &mut clients {
            assert_eq!(value(client, "key").await, None, "in round {round}");
        }
    }
}

/// Adds one to a number, however often it takes.
async fn increment(client: &mut Client) -> u32 {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let answer = client.get("counter", None).await.unwrap();
        let kv = &answer.kvs()[0];
        let next = kv.value_str().unwrap().parse::<u64>().unwrap() + 1;
        let unchanged = Compare::mod_revision("counter", CompareOp::Equal, kv.mod_revision());
        let both = [
            TxnOp::put("counter", next.to_string(), None),
            TxnOp::put("copy", next.to_string(), None),
        ];
        let txn = Txn::new().when([unchanged]).and_then(both);
        if client.txn(txn).await.unwrap().succeeded() {
            return attempts;
        }
    }
}

async fn transactions_are_atomic_through_every_member(engine: Engine) {
    const TIMES: usize = 10;
    let cluster = Cluster::start(engine, MEMBERS).await;
    let mut first = cluster.client_of(0).await;
    first.put("counter", "0", None).await.unwrap();
    first.put("copy", "0", None).await.unwrap();
    let mut counters = vec![];
    for member in 0..MEMBERS {
        let mut client = cluster.client_of(member).await;
        counters.push(tokio::spawn(async move {
            for _ in 0..TIMES {
                increment(&mut client).await;
            }
        }));
    }
    // Both keys change in one revision, so no read may see them apart.
    let mut reader = cluster.client_of(2).await;
    while !counters.iter().all(tokio::task::JoinHandle::is_finished) {
        let reads = [TxnOp::get("counter", None), TxnOp::get("copy", None)];
        let answer = reader.txn(Txn::new().and_then(reads)).await.unwrap();
        let values: Vec<Vec<u8>> = answer
            .op_responses()
            .into_iter()
            .map(|response| match response {
                etcd_client::TxnOpResponse::Get(get) => get.kvs()[0].value().to_vec(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(values[0], values[1]);
    }
    for counter in counters {
        counter.await.unwrap();
    }
    for mut client in cluster.clients().await {
        let expected = (MEMBERS * TIMES).to_string();
        assert_eq!(value(&mut client, "counter").await, Some(expected));
    }
}

async fn puts_gets_and_deletes_at_once(engine: Engine) {
    let cluster = Cluster::start(engine, MEMBERS).await;
    let mut workers = vec![];
    for worker in 0..6 {
        let mut client = cluster.client_of(worker % MEMBERS).await;
        workers.push(tokio::spawn(async move {
            let key = |number: usize| format!("{worker}/{}", number % 4);
            for number in 0..40 {
                let written = format!("{number}");
                client.put(key(number), written.clone(), None).await.unwrap();
                let read = value(&mut client, &key(number)).await;
                assert_eq!(read, Some(written), "a client reads what it wrote");
                if number % 3 == 0 {
                    assert_eq!(client.delete(key(number), None).await.unwrap().deleted(), 1);
                    assert_eq!(value(&mut client, &key(number)).await, None);
                }
            }
        }));
    }
    for worker in workers {
        worker.await.unwrap();
    }
    let (revision, held) = equal_everywhere(&cluster).await;
    // 40 puts and 14 deletes each; of the last four keys, 36 and 39 are deleted.
    assert_eq!((revision, held.len()), (1 + 6 * 54, 6 * 2));
}

async fn revisions_are_equal_on_all_members(engine: Engine) {
    let cluster = Cluster::start(engine, MEMBERS).await;
    let mut clients = cluster.clients().await;
    for number in 0..10 {
        clients[number % MEMBERS].put("key", "value", None).await.unwrap();
    }
    // Through each member a linearizable read is at the newest revision at once.
    for client in &mut clients {
        let answer = client.get("key", None).await.unwrap();
        assert_eq!(answer.header().unwrap().revision(), 11);
    }
    assert_eq!(cluster.same_revision(&[0, 1, 2]).await, 11);
    let mut applied = vec![];
    for member in 0..MEMBERS {
        applied.push(cluster.raw(member).status().await.unwrap().raft_term);
    }
    assert!(applied.iter().all(|term| *term == applied[0]), "{applied:?}");
}

async fn a_watch_on_each_member_sees_all_writes_in_order(engine: Engine) {
    const WRITES: usize = 30;
    let cluster = Cluster::start(engine, MEMBERS).await;
    let mut watches = vec![];
    for mut client in cluster.clients().await {
        let options = WatchOptions::new().with_prefix();
        watches.push(client.watch("w/", Some(options)).await.unwrap());
    }
    let mut clients = cluster.clients().await;
    for number in 0..WRITES {
        let client = &mut clients[number % MEMBERS];
        client.put(format!("w/{number}"), "v", None).await.unwrap();
        client.put(format!("other/{number}"), "v", None).await.unwrap();
    }
    clients[1].delete("w/0", None).await.unwrap();
    for watch in &mut watches {
        let mut seen = vec![];
        while seen.len() <= WRITES {
            let response = tokio::time::timeout(Duration::from_secs(20), watch.message()).await;
            let response = response.expect("events arrive").unwrap().unwrap();
            seen.extend(response.events().iter().map(|event| {
                let kv = event.kv().unwrap();
                (event.event_type(), kv.key_str().unwrap().to_owned(), kv.mod_revision())
            }));
        }
        let mut expected: Vec<_> = (0..WRITES)
            .map(|number| (EventType::Put, format!("w/{number}"), 2 + 2 * number as i64))
            .collect();
        expected.push((EventType::Delete, "w/0".into(), 2 + 2 * WRITES as i64));
        assert_eq!(seen, expected);
    }
}

async fn a_lease_expires_on_all_members_and_not_early(engine: Engine) {
    let cluster = Cluster::start(engine, MEMBERS).await;
    let leader = cluster.leader().await;
    let (one, other) = ((leader + 1) % MEMBERS, (leader + 2) % MEMBERS);
    let mut client = cluster.client_of(one).await;
    let mut kept = cluster.client_of(other).await;

    let granted = Instant::now();
    let options = LeaseGrantOptions::new().with_id(71);
    let short = client.lease_grant(2, Some(options)).await.unwrap();
    assert_eq!((short.id(), short.ttl()), (71, 2));
    let long = kept.lease_grant(2, None).await.unwrap().id();
    let leased = |id| Some(PutOptions::new().with_lease(id));
    client.put("short", "v", leased(71)).await.unwrap();
    client.put("long", "v", leased(long)).await.unwrap();
    // A follower passes renewals on to the leader.
    let (mut keeper, mut answers) = kept.lease_keep_alive(long).await.unwrap();

    within(Duration::from_secs(10), "expiry", async || {
        keeper.keep_alive().await.map_err(|e| e.to_string())?;
        let answer = answers.message().await.map_err(|e| e.to_string())?;
        assert_eq!(answer.map(|answer| answer.ttl()), Some(2), "it is renewed");
        match value(&mut client, "short").await {
            None => Ok(()),
            Some(_) => Err("the key is still there".into()),
        }
    })
    .await;
    let lived = granted.elapsed();
    assert!(lived >= Duration::from_secs(2), "expired after {lived:?}");

    for client in &mut cluster.clients().await {
        assert_eq!(value(client, "short").await, None);
        assert_eq!(value(client, "long").await.as_deref(), Some("v"));
        let left: Vec<i64> =
            client.leases().await.unwrap().leases().iter().map(|lease| lease.id()).collect();
        assert_eq!(left, [long]);
    }
    let renewed = kept.lease_time_to_live(long, None).await.unwrap();
    assert!((0..=2).contains(&renewed.ttl()), "{renewed:?}");
    assert_eq!(renewed.granted_ttl(), 2);
    client.lease_revoke(long).await.unwrap();
    for client in &mut cluster.clients().await {
        assert_eq!(value(client, "long").await, None);
    }
}

/// From the start of the first process to the moment all three say that they are ready.
async fn three_members_are_ready_in_two_seconds(engine: Engine) {
    let limit = Duration::from_secs(2);
    let mut took = vec![];
    // A machine that does other work may be too slow once; an idle one may not.
    eventually("start in two seconds", async || {
        let mut cluster = Cluster::prepare(&Setup::new(engine, MEMBERS)).await;
        let start = Instant::now();
        cluster.start_all().await?;
        took.push(start.elapsed());
        let best = took.iter().min().unwrap();
        if *best < limit || !is_busy() {
            assert!(*best < limit, "{took:?}");
            return Ok(());
        }
        Err(format!("{took:?}"))
    })
    .await;
}

/// Whether more wants to run than there are processors.
fn is_busy() -> bool {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let load: f64 = load.split(' ').next().unwrap().parse().unwrap();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    load > processors as f64
}
