//! Members restarted, replaced and added while clients of the whole cluster write and read.
//!
//! A client knows all endpoints, and sends a call again if the answer is Unavailable, as clients
//! do. Nothing else may go wrong: no call may fail otherwise, no answered write may be lost, and
//! what was sent once is there once.

use crate::cluster::{Cluster, Engine, Exit, Setup, eventually, product};
use crate::on_each_engine;
use etcd_client::{Client, Error, GetOptions};
use quoin::pb::etcdserverpb::{
    HashKvRequest, MemberAddRequest, MemberPromoteRequest, MemberRemoveRequest,
};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

on_each_engine![
    each_of_three_members_is_restarted_under_load,
    a_member_is_replaced_under_load,
    a_learner_catches_up_by_snapshot_under_load,
];

const MEMBERS: usize = 3;
const CLIENTS: usize = 6;
/// Pairs of a write and a read that are answered before, while and after something happens.
const CALLS: usize = 90;
/// Of a client, between two pairs: enough for load, few enough to read all of it back.
const PACE: Duration = Duration::from_millis(4);
/// A call that is not answered after so long has failed, however often it is sent again.
const CALL_LIMIT: Duration = Duration::from_secs(10);
const TEST_LIMIT: Duration = Duration::from_secs(30);

/// A write that was answered.
struct Written {
    key: String,
    revision: i64,
    /// Sent again, so that it may have been done twice.
    is_repeated: bool,
}

struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<Written>>>,
    start: Instant,
}

/// Sends a call until the answer is another one than Unavailable; how often it was sent.
async fn answer<T, F: Future<Output = Result<T, Error>>>(call: impl Fn() -> F) -> (T, usize) {
    let start = Instant::now();
    let mut pace = tokio::time::interval(PACE);
    for sent in 1.. {
        pace.tick().await;
        match tokio::time::timeout(CALL_LIMIT, call()).await.expect("an answer in time") {
            Ok(answer) => return (answer, sent),
            Err(Error::GRpcStatus(status)) if is_to_be_repeated(&status) => {
                assert!(start.elapsed() < CALL_LIMIT, "sent {sent} times: {status}");
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    unreachable!("it is sent until it is answered")
}

/// Whether the server says so, or the connection ended before the client has sent anything on it.
fn is_to_be_repeated(status: &Status) -> bool {
    let is_unsent =
        status.code() == Code::Cancelled && status.message() == "operation was canceled";
    status.code() == Code::Unavailable || is_unsent
}

/// Writes keys of its own and reads each back at once.
async fn client(
    number: usize,
    client: Client,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
) -> Vec<Written> {
    let mut written: Vec<Written> = vec![];
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let key = format!("{number}/{:06}", written.len());
        let (done, sent) = answer(|| {
            let (mut client, key) = (client.clone(), key.clone());
            async move { client.put(key.clone(), key, None).await }
        })
        .await;
        let revision = done.header().unwrap().revision();
        assert!(written.last().is_none_or(|last| last.revision < revision), "{key}");
        let (read, _) = answer(|| {
            let (mut client, key) = (client.clone(), key.clone());
            async move { client.get(key, None).await }
        })
        .await;
        let value = read.kvs().first().map(|kv| kv.value_str().unwrap().to_owned());
        assert_eq!(value.as_ref(), Some(&key), "a client reads what it wrote");
        written.push(Written { key, revision, is_repeated: sent > 1 });
        answered.fetch_add(1, Ordering::Relaxed);
    }
    written
}

impl Load {
    async fn start(cluster: &Cluster) -> Load {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut clients = vec![];
        for number in 0..CLIENTS {
            let all = cluster.client().await;
            clients.push(tokio::spawn(client(number, all, stop.clone(), answered.clone())));
        }
        Load { stop, answered, clients, start: Instant::now() }
    }

    /// Waits for so many more answers.
    async fn progress(&self, calls: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually("answers to clients", async || {
            assert!(!self.clients.iter().any(JoinHandle::is_finished), "a client gave up");
            match self.answered.load(Ordering::Relaxed) - before {
                answered if answered >= calls => Ok(()),
                answered => Err(format!("{answered} of {calls}")),
            }
        })
        .await;
    }

    /// Ends the clients, and looks for all that was answered on each of these members.
    async fn end(self, cluster: &Cluster, members: &[usize]) {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = vec![];
        for client in self.clients {
            all.push(client.await.unwrap());
        }
        let revision = cluster.same_revision(members).await;
        let mut hashes = vec![];
        for &member in members {
            let mut maintenance = cluster.raw(member).maintenance;
            let hash = maintenance.hash_kv(HashKvRequest { revision }).await.unwrap().into_inner();
            hashes.push((hash.hash, hash.hash_revision, hash.compact_revision));
            let mut client = cluster.client_of(member).await;
            for (number, written) in all.iter().enumerate() {
                let options = GetOptions::new().with_prefix().with_serializable();
                let held = client.get(format!("{number}/"), Some(options)).await.unwrap();
                // A write whose answer never came may be there too.
                let mut held = held.kvs().iter();
                for write in written {
                    let kv = held.next().unwrap_or_else(|| panic!("{} is lost", write.key));
                    assert_eq!(kv.key(), write.key.as_bytes(), "nothing is lost");
                    if !write.is_repeated {
                        assert_eq!((kv.version(), kv.mod_revision()), (1, write.revision));
                    }
                }
                assert_eq!(held.len(), 0, "all that was written was answered");
            }
        }
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
        let repeated = all.iter().flatten().filter(|write| write.is_repeated).count();
        let count: usize = all.iter().map(Vec::len).sum();
        eprintln!("{count} writes, {repeated} of them sent again, in {:?}", self.start.elapsed());
        assert!(self.start.elapsed() < TEST_LIMIT, "took {:?}", self.start.elapsed());
    }
}

async fn each_of_three_members_is_restarted_under_load(engine: Engine) {
    let mut cluster = Cluster::start(engine, MEMBERS).await;
    let load = Load::start(&cluster).await;
    // The leader of the day is one of them, and often two or three are.
    for member in 0..MEMBERS {
        load.progress(CALLS).await;
        let (exit, _) = cluster.terminate(member).await;
        assert_eq!(exit, Exit::Signal(15), "it ends well");
        load.progress(CALLS).await;
        cluster.restart(member).await;
    }
    load.progress(CALLS).await;
    load.end(&cluster, &[0, 1, 2]).await;
}

/// Adds a member that is not started yet, when the cluster is known to be healthy.
async fn add(cluster: &mut Cluster, engine: Engine, is_learner: bool) -> usize {
    let calls = cluster.raw(0).cluster;
    let add = async |url: String| {
        eventually("room for a member", async || {
            let request = MemberAddRequest { peer_ur_ls: vec![url.clone()], is_learner };
            calls.clone().member_add(request).await.map(drop).map_err(|e| e.to_string())
        })
        .await;
    };
    cluster.prepare_joining(engine, add).await
}

async fn a_member_is_replaced_under_load(engine: Engine) {
    let mut cluster = Cluster::start(engine, MEMBERS).await;
    let load = Load::start(&cluster).await;
    load.progress(CALLS).await;
    let id = cluster.raw(2).status().await.unwrap().header.unwrap().member_id;
    let calls = cluster.raw(0).cluster;
    eventually("a removal", async || {
        let removed = calls.clone().member_remove(MemberRemoveRequest { id }).await;
        removed.map_err(|e| e.to_string())
    })
    .await;
    let exit = cluster.members[2].ended().await;
    assert!(exit == Exit::Code(0) || !product().ours && exit == Exit::Code(1), "{exit:?}");
    load.progress(CALLS).await;
    let fresh = add(&mut cluster, engine, false).await;
    // It counts from now on, and two of three go on without it.
    load.progress(CALLS).await;
    cluster.restart(fresh).await;
    load.progress(CALLS).await;
    assert_eq!(cluster.raw(fresh).members().await.len(), MEMBERS);
    load.end(&cluster, &[0, 1, fresh]).await;
}

async fn a_learner_catches_up_by_snapshot_under_load(engine: Engine) {
    let setup = Setup::new(engine, MEMBERS).flag("--snapshot-count=50");
    let mut cluster = setup.flag("--snapshot-catchup-entries=10").start().await;
    let load = Load::start(&cluster).await;
    load.progress(CALLS * 2).await;
    let learner = add(&mut cluster, engine, true).await;
    cluster.restart(learner).await;
    for text in ["applySnapshot: opened snapshot backend", "applied snapshot"] {
        cluster.members[learner].process().says(text).await.unwrap();
    }
    let leader = cluster.leader_among(&[0, 1, 2]).await;
    for text in ["saved snapshot", "sent database snapshot"] {
        cluster.members[leader].process().says(text).await.unwrap();
    }
    load.progress(CALLS).await;
    let status = cluster.raw(learner).status().await.unwrap();
    assert!(status.is_learner);
    let id = status.header.unwrap().member_id;
    // It is promoted in the middle of it: it keeps up with the leader.
    let calls = cluster.raw(0).cluster;
    eventually("a promotion", async || {
        let promoted = calls.clone().member_promote(MemberPromoteRequest { id }).await;
        promoted.map_err(|e| e.to_string())
    })
    .await;
    load.progress(CALLS).await;
    cluster.kill(learner);
    cluster.restart(learner).await;
    if product().ours && engine == Engine::Memory {
        let said = cluster.members[learner].output();
        assert!(said.contains("Recovering from snapshot backend"), "{said}");
    }
    load.progress(CALLS).await;
    load.end(&cluster, &[0, 1, 2, learner]).await;
}
