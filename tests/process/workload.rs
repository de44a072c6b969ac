//! Concurrent clients whose every call is written down with its times, and watches beside them.

use crate::checker::{Commit, History, Operation, Outcome, Request, Response, Time, Watched};
use crate::cluster::{Cluster, Raw, eventually};
use bytes::Bytes;
use quoin::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quoin::pb::etcdserverpb::watch_request::RequestUnion;
use quoin::pb::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest,
    LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
    WatchRequest, WatchResponse, request_op,
};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

/// A call that takes longer has an unknown outcome.
const CALL_LIMIT: Duration = Duration::from_secs(2);
/// Few, so that clients meet.
const KEYS: u64 = 8;
/// Seconds; short enough that some leases end within a run.
const TTL: i64 = 3;
/// Revisions that a compaction leaves behind it.
const KEPT: i64 = 60;
/// Calls of a client in a second, at most: more would only make the history longer.
const PACE: Duration = Duration::from_millis(3);

struct Shared {
    start: Instant,
    stop: AtomicBool,
    endpoints: Vec<String>,
    operations: Mutex<Vec<Operation>>,
    watches: Mutex<Vec<Watched>>,
    acknowledged: AtomicUsize,
    /// Commits up to here are known for good, so older ones may be compacted.
    collected: AtomicI64,
}

/// The clients of one cluster.
pub struct Workload {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
    collector: JoinHandle<Vec<Commit>>,
    watchers: Vec<JoinHandle<()>>,
}

impl Workload {
    /// Starts clients, each bound to one member, and one watcher for each member.
    pub fn start(cluster: &Cluster, clients: u64) -> Workload {
        let shared = Arc::new(Shared {
            start: Instant::now(),
            stop: AtomicBool::new(false),
            endpoints: cluster.endpoints(),
            operations: Mutex::default(),
            watches: Mutex::default(),
            acknowledged: AtomicUsize::new(0),
            collected: AtomicI64::new(1),
        });
        let clients = (0..clients).map(|n| tokio::spawn(client(shared.clone(), n))).collect();
        let collector = tokio::spawn(collect(shared.clone()));
        let watchers = (0..cluster.members.len())
            .map(|member| tokio::spawn(watch_one(shared.clone(), member)))
            .collect();
        Workload { shared, clients, collector, watchers }
    }

    /// Calls that were answered so far.
    pub fn acknowledged(&self) -> usize {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits for so many more answers.
    pub async fn progress(&self, calls: usize) {
        let before = self.acknowledged();
        eventually("answers to clients", async || match self.acknowledged() - before {
            answered if answered >= calls => Ok(()),
            answered => Err(format!("{answered} of {calls}")),
        })
        .await;
    }

    /// Stops the clients, reads everything back from every member, and gives the whole history.
    ///
    /// All members must run; what each holds becomes part of the history, by local reads.
    pub async fn finish(self, cluster: &Cluster) -> History {
        let Workload { shared, clients, collector, watchers } = self;
        shared.stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.await.unwrap();
        }
        // A last write, through the leader at the time, that all watches have to see.
        let last = eventually("a last write", async || {
            let request = Request::Put(PutRequest { key: "last".into(), ..Default::default() });
            let raw = Raw::new(&shared.endpoints[0]);
            shared.call(&raw, request).await.ok_or("no answer".to_owned())
        })
        .await;
        let members: Vec<usize> = (0..cluster.members.len()).collect();
        let revision = cluster.same_revision(&members).await.max(last);
        shared.read_back(revision).await;
        let commits = collector.await.unwrap();
        for watcher in watchers {
            watcher.await.unwrap();
        }
        let take = |operations: &Mutex<Vec<Operation>>| {
            std::mem::take(&mut *operations.lock().expect("no panic under this lock"))
        };
        let watches =
            std::mem::take(&mut *shared.watches.lock().expect("no panic under this lock"));
        History { operations: take(&shared.operations), commits, watches, second: 1_000_000_000 }
    }
}

impl Shared {
    fn now(&self) -> Time {
        self.start.elapsed().as_nanos() as Time
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Sends a request and writes down what came of it; the revision if it was answered.
    async fn call(&self, raw: &Raw, request: Request) -> Option<i64> {
        let invoked = self.now();
        let answer = tokio::time::timeout(CALL_LIMIT, send(raw, request.clone())).await;
        let returned = self.now();
        let is_read = matches!(&request, Request::Range(_) | Request::LeaseKeepAlive(_));
        let outcome = match answer {
            Ok(Ok(response)) => Outcome::Answer(response),
            Ok(Err(status)) if is_final(&status) => {
                Outcome::Refused(status.code() as i32, status.message().into())
            }
            // A read without an answer tells nothing.
            _ if is_read => return None,
            _ => Outcome::Unknown,
        };
        let operation = Operation { invoked, returned, request, outcome };
        let revision = operation.revision();
        if revision.is_some() {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        self.operations.lock().expect("no panic under this lock").push(operation);
        revision
    }

    /// Every member's whole state, read from itself alone at one revision.
    async fn read_back(&self, revision: i64) {
        for endpoint in &self.endpoints {
            let everything = RangeRequest {
                key: "\0".into(),
                range_end: "\0".into(),
                serializable: true,
                ..Default::default()
            };
            let raw = Raw::new(endpoint);
            eventually("a read of everything", async || {
                let read = self.call(&raw, Request::Range(everything.clone())).await;
                match read {
                    Some(at) if at >= revision => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        }
    }
}

/// Whether an error says for certain that nothing was done.
fn is_final(status: &Status) -> bool {
    let codes = [Code::InvalidArgument, Code::NotFound, Code::FailedPrecondition, Code::OutOfRange];
    codes.contains(&status.code()) && status.message().starts_with("etcdserver: ")
}

async fn send(raw: &Raw, request: Request) -> Result<Response, Status> {
    let Raw { mut kv, mut lease, .. } = raw.clone();
    Ok(match request {
        Request::Range(request) => Response::Range(kv.range(request).await?.into_inner()),
        Request::Put(request) => Response::Put(kv.put(request).await?.into_inner()),
        Request::DeleteRange(request) => {
            Response::DeleteRange(kv.delete_range(request).await?.into_inner())
        }
        Request::Txn(request) => Response::Txn(kv.txn(request).await?.into_inner()),
        Request::Compact(request) => Response::Compact(kv.compact(request).await?.into_inner()),
        Request::LeaseGrant(request) => {
            Response::LeaseGrant(lease.lease_grant(request).await?.into_inner())
        }
        Request::LeaseRevoke(request) => {
            Response::LeaseRevoke(lease.lease_revoke(request).await?.into_inner())
        }
        Request::LeaseKeepAlive(request) => {
            let stream = tokio_stream::iter([request]);
            let mut answers = lease.lease_keep_alive(stream).await?.into_inner();
            let answer = answers.message().await?;
            Response::LeaseKeepAlive(answer.ok_or(Status::unavailable("no answer"))?)
        }
    })
}

/// Different for each client, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }

    fn key(&mut self) -> Bytes {
        format!("k{}", self.below(KEYS)).into()
    }
}

async fn client(shared: Arc<Shared>, number: u64) {
    let endpoint = &shared.endpoints[number as usize % shared.endpoints.len()];
    let raw = Raw::new(endpoint);
    let mut random = Random(number);
    let (mut lease, mut seen) = (0, 1);
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for sequence in 0u64.. {
        if shared.is_stopped() {
            return;
        }
        pace.tick().await;
        let value: Bytes = format!("{number}.{sequence}").into();
        let request = match random.below(100) {
            0..35 => {
                let lease = if random.below(3) == 0 { lease } else { 0 };
                let (key, prev_kv) = (random.key(), random.below(2) == 0);
                Request::Put(PutRequest { key, value, lease, prev_kv, ..Default::default() })
            }
            35..45 => Request::DeleteRange(delete(&mut random)),
            45..70 => Request::Range(read(&mut random, seen)),
            70..88 => Request::Txn(txn(&mut random, value, seen)),
            88..90 => Request::Compact(CompactionRequest {
                revision: (shared.collected.load(Ordering::Relaxed) - KEPT).max(1),
                physical: random.below(4) == 0,
            }),
            90..93 => {
                lease = (number * 1_000_000 + sequence + 1) as i64;
                Request::LeaseGrant(LeaseGrantRequest { id: lease, ttl: TTL })
            }
            93..95 if lease != 0 => {
                let id = std::mem::take(&mut lease);
                Request::LeaseRevoke(LeaseRevokeRequest { id })
            }
            _ if lease != 0 => Request::LeaseKeepAlive(LeaseKeepAliveRequest { id: lease }),
            _ => continue,
        };
        match shared.call(&raw, request).await {
            Some(revision) => seen = seen.max(revision),
            // Its member may be down: a call each few milliseconds would only fail as well.
            None => pace.reset_after(PACE * 10),
        }
    }
}

fn delete(random: &mut Random) -> DeleteRangeRequest {
    let range_end = if random.below(4) == 0 { "k4".into() } else { Bytes::new() };
    DeleteRangeRequest { key: random.key(), range_end, prev_kv: random.below(2) == 0 }
}

fn read(random: &mut Random, seen: i64) -> RangeRequest {
    let range_end = if random.below(3) == 0 { "l".into() } else { Bytes::new() };
    let mut request = RangeRequest { key: random.key(), range_end, ..Default::default() };
    match random.below(6) {
        0 => request.serializable = true,
        1 => request.revision = (seen - random.below(80) as i64).max(1),
        2 => request.limit = 2,
        _ => {}
    }
    request
}

/// If a key is as it was, two keys change together; else they are read.
fn txn(random: &mut Random, value: Bytes, seen: i64) -> TxnRequest {
    let (one, other) = (random.key(), random.key());
    let compare = Compare {
        key: one.clone(),
        result: CompareResult::Less as i32,
        target: CompareTarget::Mod as i32,
        target_union: Some(TargetUnion::ModRevision(seen - random.below(10) as i64)),
        ..Default::default()
    };
    let op = |request| RequestOp { request: Some(request) };
    let put = |key: &Bytes| {
        let put = PutRequest { key: key.clone(), value: value.clone(), ..Default::default() };
        op(request_op::Request::RequestPut(put))
    };
    let get = |key: &Bytes| {
        let range = RangeRequest { key: key.clone(), ..Default::default() };
        op(request_op::Request::RequestRange(range))
    };
    let mut success = vec![get(&other), put(&one)];
    if other != one {
        let delete = DeleteRangeRequest { key: other.clone(), prev_kv: true, ..Default::default() };
        success.push(op(request_op::Request::RequestDeleteRange(delete)));
    }
    TxnRequest { compare: vec![compare], success, failure: vec![get(&one), get(&other)] }
}

/// Watches everything from a revision on; `each` says whether to go on.
async fn follow(
    raw: &Raw,
    request: WatchCreateRequest,
    mut each: impl FnMut(WatchResponse) -> bool,
) -> Result<(), Status> {
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(request)) };
    // The stream stays open as long as the sender lives.
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let _sent = sender.send(create).await;
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut responses = raw.watch.clone().watch(stream).await?.into_inner();
    while let Some(response) = responses.message().await? {
        if !each(response) {
            return Ok(());
        }
    }
    Ok(())
}

fn everything(start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision,
        prev_kv: true,
        ..Default::default()
    }
}

fn is_last(event: &quoin::pb::mvccpb::Event) -> bool {
    event.kv.as_ref().is_some_and(|kv| kv.key == "last")
}

/// Gathers every commit up to the last write, from whichever member serves.
async fn collect(shared: Arc<Shared>) -> Vec<Commit> {
    let mut commits: Vec<Commit> = vec![];
    let mut done = false;
    for turn in 0.. {
        let raw = Raw::new(&shared.endpoints[turn % shared.endpoints.len()]);
        let next = commits.last().map_or(2, |commit| commit.revision + 1);
        let ended = follow(&raw, everything(next), |response| {
            assert!(!response.canceled, "nothing is compacted that is not collected");
            for event in response.events {
                done |= is_last(&event);
                let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
                match commits.last_mut().filter(|commit| commit.revision == revision) {
                    Some(commit) => commit.events.push(event),
                    None => commits.push(Commit { revision, events: vec![event] }),
                }
            }
            if let Some(last) = commits.last() {
                shared.collected.store(last.revision, Ordering::Relaxed);
            }
            !done
        });
        // A member that is stopped sends nothing: try the next one now and then.
        let _ended = tokio::time::timeout(CALL_LIMIT, ended).await;
        if done {
            return commits;
        }
    }
    unreachable!("the turns do not end")
}

/// Watches one member, again and again from where it got to, up to the last write.
async fn watch_one(shared: Arc<Shared>, member: usize) {
    let raw = Raw::new(&shared.endpoints[member]);
    let (mut next, mut done) = (2, false);
    while !done {
        let request = everything(next);
        let mut responses = vec![];
        let ended = follow(&raw, request.clone(), |response| {
            if response.compact_revision > 0 {
                next = response.compact_revision;
            }
            if let Some(event) = response.events.last() {
                next = event.kv.as_ref().map_or(0, |kv| kv.mod_revision) + 1;
            }
            done = response.events.iter().any(is_last);
            let goes_on = !done && !response.canceled;
            responses.push(response);
            goes_on
        });
        let _ended = tokio::time::timeout(CALL_LIMIT, ended).await;
        let complete_to = if done { next - 1 } else { 0 };
        let watched = Watched { request, responses, complete_to };
        if !watched.responses.is_empty() {
            shared.watches.lock().expect("no panic under this lock").push(watched);
        }
        tokio::task::yield_now().await;
    }
}
