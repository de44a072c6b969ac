//! Tens of thousands of watches, of leases, and more streams than a connection may have: each gets
//! what is its own, and costs the member little.

use crate::cluster::{Cluster, Engine, Raw, Setup, eventually, product};
use crate::on_each_engine;
use crate::requests::{all_of, delete_range, get, op, put, range};
use http::uri::PathAndQuery;
use prost::Message;
use quoin::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use quoin::pb::etcdserverpb::response_op::Response as Told;
use quoin::pb::etcdserverpb::watch_request::RequestUnion;
use quoin::pb::etcdserverpb::{
    CompactionRequest, LeaseGrantRequest, LeaseLeasesRequest, LeaseTimeToLiveRequest, PutRequest,
    RangeRequest, RangeResponse, TxnResponse, WatchCancelRequest, WatchCreateRequest, WatchRequest,
    WatchResponse,
};
use quoin::pb::mvccpb::event::EventType;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

on_each_engine![
    twenty_thousand_watches_get_what_is_theirs,
    twenty_thousand_leases_are_listed_and_end,
    more_streams_than_allowed_wait_for_one_to_end,
    range_streams_that_nobody_reads_hold_nobody_up,
    large_answers_that_nobody_reads_take_little_memory_and_stay_what_they_were,
    what_sorted_answers_hold_that_nobody_reads_is_bounded_and_others_are_served,
    a_stream_goes_on_beside_sorted_ranges,
    a_burst_of_cancelled_calls_ends_nothing_else,
];

/// What a watch may cost a member: its key, its places in the indexes, its share of the allocator.
const WATCH_BYTES_MAX: usize = 2048;

/// What a lease may cost a member: its record, its places in the maps, and the raft log's entry.
const LEASE_BYTES_MAX: usize = 4096;

/// Resident bytes of the first member.
fn resident(cluster: &Cluster) -> usize {
    let pid = cluster.members[0].pid().expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    let kib: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib * 1024
}

/// A stream whose requests go out however many answers wait.
struct Stream {
    requests: mpsc::UnboundedSender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

impl Stream {
    async fn open(raw: &Raw, first: WatchCreateRequest) -> Stream {
        let (requests, receiver) = mpsc::unbounded_channel();
        let first = WatchRequest { request_union: Some(RequestUnion::CreateRequest(first)) };
        requests.send(first).unwrap();
        let receiver = UnboundedReceiverStream::new(receiver);
        let responses = raw.watch.clone().watch(receiver).await.unwrap().into_inner();
        Stream { requests, responses }
    }

    fn send(&self, request: RequestUnion) {
        self.requests.send(WatchRequest { request_union: Some(request) }).unwrap();
    }

    async fn next(&mut self) -> WatchResponse {
        let message = tokio::time::timeout(Duration::from_secs(20), self.responses.message()).await;
        message.expect("a response arrives").unwrap().expect("the stream goes on")
    }
}

const STREAMS: usize = 4;
const WATCHES: usize = 5000;

/// Even ones watch a key, odd ones an interval that holds only theirs.
fn nth(stream: usize, watch: usize) -> WatchCreateRequest {
    let range_end = match watch % 2 {
        0 => String::new(),
        _ => key(stream, watch) + "\0",
    };
    WatchCreateRequest {
        key: key(stream, watch).into(),
        range_end: range_end.into(),
        ..Default::default()
    }
}

fn key(stream: usize, watch: usize) -> String {
    format!("k{stream}/{watch:05}")
}

async fn open_all(raw: &Raw) -> Vec<Stream> {
    let mut streams = vec![];
    for number in 0..STREAMS {
        let mut stream = Stream::open(raw, nth(number, 0)).await;
        for watch in 1..WATCHES {
            stream.send(RequestUnion::CreateRequest(nth(number, watch)));
        }
        for watch in 0..WATCHES {
            let created = stream.next().await;
            assert!(created.created && !created.canceled, "{created:?}");
            assert_eq!(created.watch_id, watch as i64);
        }
        streams.push(stream);
    }
    streams
}

/// The watches that got an event next, each with one of this kind at this revision or after.
async fn receive(
    stream: &mut Stream,
    number: usize,
    count: usize,
    kind: EventType,
) -> BTreeSet<usize> {
    let mut seen = BTreeSet::new();
    for _ in 0..count {
        let response = stream.next().await;
        let [event] = &response.events[..] else { panic!("not one event: {response:?}") };
        let watch = response.watch_id as usize;
        let kv = event.kv.as_ref().unwrap();
        assert_eq!((event.r#type(), &kv.key[..]), (kind, key(number, watch).as_bytes()));
        assert!(seen.insert(watch), "watch {watch} of stream {number} got two");
    }
    seen
}

async fn twenty_thousand_watches_get_what_is_theirs(engine: Engine) {
    const STEP: usize = 49;
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    raw.kv.clone().put(put("first", "v")).await.unwrap();
    let before = resident(&cluster);
    let mut streams = open_all(&raw).await;
    let grown = resident(&cluster).saturating_sub(before);
    if product().ours {
        let each = grown / (STREAMS * WATCHES);
        assert!(each <= WATCH_BYTES_MAX, "{each} bytes for each watch");
    }

    let chosen: BTreeSet<usize> = (0..WATCHES).step_by(STEP).collect();
    for &watch in &chosen {
        for number in 0..STREAMS {
            raw.kv.clone().put(put(&key(number, watch), "v")).await.unwrap();
        }
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        assert_eq!(receive(stream, number, chosen.len(), EventType::Put).await, chosen);
    }

    // Every third of them goes; one revision tells the others that all their keys are gone.
    let canceled: BTreeSet<usize> = (0..WATCHES).step_by(3).collect();
    for stream in &mut streams {
        for &watch in &canceled {
            let watch_id = watch as i64;
            stream.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
        }
        for &watch in &canceled {
            let response = stream.next().await;
            assert!(response.canceled && response.events.is_empty(), "{response:?}");
            assert_eq!(response.watch_id, watch as i64);
        }
    }
    raw.kv.clone().delete_range(delete_range("k", "l")).await.unwrap();
    let left: BTreeSet<usize> = chosen.difference(&canceled).copied().collect();
    // The last of each stream: once it is here, all before it are.
    let beacon = (WATCHES - 2..WATCHES).find(|watch| !canceled.contains(watch)).unwrap();
    for (number, stream) in streams.iter_mut().enumerate() {
        assert_eq!(receive(stream, number, left.len(), EventType::Delete).await, left);
        raw.kv.clone().put(put(&key(number, beacon), "v")).await.unwrap();
        let seen = receive(stream, number, 1, EventType::Put).await;
        assert_eq!(seen, BTreeSet::from([beacon]), "an event too many");
    }
}

async fn list(raw: &Raw) -> Vec<i64> {
    let answer = raw.lease.clone().lease_leases(LeaseLeasesRequest {}).await.unwrap();
    let mut ids: Vec<i64> = answer.into_inner().leases.iter().map(|lease| lease.id).collect();
    ids.sort_unstable();
    ids
}

/// Grants these, a hundred at a time; each tenth gets a key.
async fn grant_all(raw: &Raw, ids: std::ops::RangeInclusive<i64>, ttl: i64) {
    const AT_ONCE: usize = 100;
    let mut tasks = JoinSet::new();
    for first in 0..AT_ONCE {
        let (raw, ids) = (raw.clone(), ids.clone());
        tasks.spawn(async move {
            for id in ids.skip(first).step_by(AT_ONCE) {
                let request = LeaseGrantRequest { id, ttl };
                let granted = raw.lease.clone().lease_grant(request).await.unwrap().into_inner();
                assert_eq!((granted.id, granted.ttl), (id, ttl));
                if id % 10 == 0 {
                    let key = put(&format!("lease{id:05}"), "v");
                    raw.kv.clone().put(PutRequest { lease: id, ..key }).await.unwrap();
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

async fn twenty_thousand_leases_are_listed_and_end(engine: Engine) {
    // An etcd is too slow for as many at this pace: grants begin to time out.
    let all: i64 = if product().ours { 20_000 } else { 1000 };
    let last_lasting = all / 10 * 9;
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    raw.kv.clone().put(put("first", "v")).await.unwrap();
    let before = resident(&cluster);
    grant_all(&raw, 1..=last_lasting, 600).await;
    let grown = resident(&cluster).saturating_sub(before);
    if product().ours {
        let each = grown / last_lasting as usize;
        assert!(each <= LEASE_BYTES_MAX, "{each} bytes for each lease");
    }
    let lasting: Vec<i64> = (1..=last_lasting).collect();
    assert_eq!(list(&raw).await, lasting);

    grant_all(&raw, last_lasting + 1..=all, 2).await;
    eventually("the end of those that do not last", async || {
        let left = list(&raw).await;
        assert_eq!(left[..lasting.len().min(left.len())], lasting, "one that lasts is gone");
        match left.len() - lasting.len() {
            0 => Ok(()),
            count => Err(format!("{count} are left")),
        }
    })
    .await;
    // Their keys went with them, and only theirs.
    let keys = raw.kv.clone().range(range("lease", "leasf")).await.unwrap().into_inner();
    let last = keys.kvs.last().unwrap();
    assert_eq!((keys.count, last.lease), (last_lasting / 10, last_lasting));
    let request = LeaseTimeToLiveRequest { id: last_lasting, keys: true };
    let lease = raw.lease.clone().lease_time_to_live(request).await.unwrap().into_inner();
    assert_eq!((lease.granted_ttl, &lease.keys[..]), (600, &[last.key.clone()][..]));
}

async fn more_streams_than_allowed_wait_for_one_to_end(engine: Engine) {
    const ALLOWED: usize = 3;
    let setup = Setup::new(engine, 1).flag(format!("--max-concurrent-streams={ALLOWED}"));
    let cluster = setup.start().await;
    let (full, other) = (cluster.raw(0), cluster.raw(0));
    // By its answer the client has learnt what is allowed.
    full.kv.clone().put(put("k", "0")).await.unwrap();
    let mut streams = vec![];
    for _ in 0..ALLOWED {
        let request = WatchCreateRequest { key: "k".into(), ..Default::default() };
        let mut stream = Stream::open(&full, request).await;
        assert!(stream.next().await.created);
        streams.push(stream);
    }
    let (done, mut answered) = oneshot::channel();
    let mut kv = full.kv.clone();
    tokio::spawn(async move {
        let answer = kv.put(put("late", "v")).await;
        done.send(answer).unwrap();
    });
    // Another connection has its own allowance, and the streams work.
    for round in 1..=20 {
        other.kv.clone().put(put("k", &round.to_string())).await.unwrap();
        for stream in &mut streams {
            assert_eq!(stream.next().await.events.len(), 1);
        }
        let late = other.kv.clone().range(get("late")).await.unwrap().into_inner();
        assert_eq!(late.count, 0, "a call beyond the limit was served");
        assert!(answered.try_recv().is_err());
    }
    streams.pop();
    let answer = tokio::time::timeout(Duration::from_secs(10), answered).await;
    answer.expect("the waiting call is served").unwrap().unwrap();
    for stream in &mut streams {
        other.kv.clone().put(put("k", "last")).await.unwrap();
        assert_eq!(stream.next().await.events.len(), 1);
    }
}

/// More than there are threads for work that takes long.
const UNREAD: usize = 700;

async fn range_streams_that_nobody_reads_hold_nobody_up(engine: Engine) {
    if !product().at_least(3, 7) {
        return;
    }
    let cluster = Cluster::start(engine, 1).await;
    let mut kv = cluster.raw(0).kv;
    let value = "v".repeat(1024);
    for n in 0..3000 {
        kv.put(put(&format!("key{n:05}"), &value)).await.unwrap();
    }
    let mut unread = vec![];
    for _ in 0..UNREAD {
        unread.push(kv.range_stream(range("key", "kez")).await.unwrap().into_inner());
    }
    let other = cluster.raw(0);
    for _ in 0..3 {
        let all = other.kv.clone().range(range("key", "kez")).await.unwrap().into_inner();
        assert_eq!((all.kvs.len(), all.count), (3000, 3000));
    }
    let mut keys = 0;
    let mut late = unread.pop().unwrap();
    // They have taken all the room that the client's connection gives.
    drop(unread);
    while let Some(chunk) = late.message().await.unwrap() {
        keys += chunk.range_response.unwrap().kvs.len();
    }
    assert_eq!(keys, 3000);
}

async fn large_answers_that_nobody_reads_take_little_memory_and_stay_what_they_were(
    engine: Engine,
) {
    const KEYS: usize = 200;
    const VALUE: usize = 64 << 10;
    const CALLS: usize = 30;
    let mut setup = Setup::new(engine, 1);
    if product().ours {
        setup = setup.flag("--range-memory-bytes=4194304");
    }
    let cluster = setup.start().await;
    let mut kv = cluster.raw(0).kv;
    let key = |n: usize| format!("key{n:03}");
    for n in 0..KEYS {
        kv.put(put(&key(n), &"o".repeat(VALUE))).await.unwrap();
    }
    let before = resident(&cluster);
    let mut answers = vec![];
    for call in 0..CALLS {
        let limit = if call % 2 == 0 { 0 } else { (KEYS - 7) as i64 };
        let request = RangeRequest { limit, ..range("key", "kez") };
        let endpoint = cluster.members[0].endpoint.clone();
        let answer = unread::<_, RangeResponse>(endpoint, "/etcdserverpb.KV/Range", request).await;
        answers.push((limit, answer.unwrap()));
    }
    let grown = resident(&cluster).saturating_sub(before);
    let all = KEYS * VALUE * CALLS;
    if product().ours {
        assert!(grown < all / 4, "{grown} bytes for {all} that nobody reads");
    }
    // What is written, removed and compacted meanwhile is not theirs.
    for n in 0..KEYS / 2 {
        kv.put(put(&key(n), "new")).await.unwrap();
    }
    kv.delete_range(delete_range(&key(KEYS - 20), "kez")).await.unwrap();
    let last = kv.put(put("other", "v")).await.unwrap().into_inner().header.unwrap().revision;
    kv.compact(CompactionRequest { revision: last, physical: false }).await.unwrap();
    for (limit, mut answer) in answers {
        let response = answer.message().await.unwrap().expect("one message");
        let expected = if limit == 0 { KEYS } else { KEYS - 7 };
        assert_eq!((response.count, response.more), (KEYS as i64, limit > 0));
        let found = response.kvs.iter().map(|kv| kv.key.to_vec());
        assert!(found.eq((0..expected).map(|n| key(n).into_bytes())), "{}", response.kvs.len());
        assert!(response.kvs.iter().all(|kv| kv.value.iter().all(|byte| *byte == b'o')));
        assert!(response.kvs.iter().all(|kv| kv.value.len() == VALUE));
        assert!(answer.message().await.unwrap().is_none(), "a unary call has one answer");
    }
}

/// Begins a call whose answer is read only when it is asked for.
async fn unread<M: Message + 'static, R: Message + Default + 'static>(
    endpoint: String,
    path: &'static str,
    request: M,
) -> Result<Streaming<R>, Status> {
    let channel = Endpoint::from_shared(endpoint).expect("an address");
    let channel = channel.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let channel = channel.connect().await.expect("a connection");
    let mut grpc = Grpc::new(channel).max_decoding_message_size(64 << 20);
    grpc.ready().await.expect("a connection");
    let codec = ProstCodec::<M, R>::default();
    let path = PathAndQuery::from_static(path);
    Ok(grpc.server_streaming(Request::new(request), path, codec).await?.into_inner())
}

async fn what_sorted_answers_hold_that_nobody_reads_is_bounded_and_others_are_served(
    engine: Engine,
) {
    const KEYS: usize = 32;
    const VALUE: usize = 64 << 10;
    const BUDGET: usize = 8 << 20;
    // There is no such bound in etcd.
    if !product().ours {
        return;
    }
    let at_once = 4 * std::thread::available_parallelism().unwrap().get() + 8;
    let calls = 4 * at_once;
    let setup = Setup::new(engine, 1).flag(format!("--range-memory-bytes={BUDGET}"));
    let cluster = setup.start().await;
    let endpoint = cluster.members[0].endpoint.clone();
    let mut kv = cluster.raw(0).kv;
    for n in 0..KEYS {
        kv.put(put(&format!("key{n:02}"), &"o".repeat(VALUE))).await.unwrap();
    }
    // Every transaction below that writes it may be refused.
    kv.put(put("other", "v")).await.unwrap();
    let sorted = |target: SortTarget, order: SortOrder| RangeRequest {
        sort_target: target as i32,
        sort_order: order as i32,
        ..range("key", "kez")
    };
    let by_value = sorted(SortTarget::Value, SortOrder::Ascend);
    let down = sorted(SortTarget::Key, SortOrder::Descend);
    let read = all_of(vec![op(range("key", "kez"))]);
    let write = all_of(vec![op(put("other", "v")), op(range("key", "kez"))]);
    let before = resident(&cluster);
    let (mut ranges, mut txns) = (JoinSet::new(), JoinSet::new());
    for _ in 0..calls / 4 {
        for request in [by_value.clone(), down.clone()] {
            ranges.spawn(unread(endpoint.clone(), "/etcdserverpb.KV/Range", request));
        }
        for request in [read.clone(), write.clone()] {
            txns.spawn(unread(endpoint.clone(), "/etcdserverpb.KV/Txn", request));
        }
    }
    let ranges: Vec<Result<Streaming<RangeResponse>, Status>> = ranges.join_all().await;
    let txns: Vec<Result<Streaming<TxnResponse>, Status>> = txns.join_all().await;
    let grown = resident(&cluster).saturating_sub(before);
    // Those that are made at the same time, in two forms, may go beyond the budget.
    let bound = BUDGET + at_once * 2 * KEYS * VALUE + (16 << 20);
    assert!(bound < calls * KEYS * VALUE, "{bound} is no bound");
    assert!(grown < bound, "{grown} bytes for answers that nobody reads");

    let refusals = ranges.iter().filter_map(|answer| answer.as_ref().err());
    let refusals: Vec<_> = refusals.chain(txns.iter().filter_map(|a| a.as_ref().err())).collect();
    for refused in &refusals {
        let expected = (Code::Unknown, "etcdserver: too many requests");
        assert_eq!((refused.code(), refused.message()), expected);
    }
    assert!((1..calls).contains(&refusals.len()), "{} are refused", refusals.len());
    // Whatever need not be held as a whole is answered all the same.
    let filtered = RangeRequest { min_mod_revision: 2, ..range("key", "kez") };
    for request in [range("key", "kez"), filtered, RangeRequest { limit: 20, ..down.clone() }] {
        let is_sorted = request.limit > 0;
        let answer = kv.range(request).await;
        match is_sorted {
            true => assert_eq!(answer.unwrap_err().message(), "etcdserver: too many requests"),
            false => assert_eq!(answer.unwrap().into_inner().kvs.len(), KEYS),
        }
    }
    // Nor do transactions wait that tell of little.
    for ops in [vec![op(range("other", "otheu"))], vec![op(put("other", "v")), op(range("o", "p"))]]
    {
        let answer = kv.txn(all_of(ops)).await.unwrap().into_inner();
        let Some(Told::ResponseRange(found)) = &answer.responses.last().unwrap().response else {
            panic!("{answer:?}");
        };
        assert_eq!(found.kvs.len(), 1);
    }
    let page =
        crate::gateway::post(&cluster, "/v3/kv/range", r#"{"key":"a2V5","range_end":"a2V6"}"#);
    let page = page.await;
    assert!(page.body.contains("etcdserver: too many requests"), "{}", page.body);
    kv.put(put("other", "v")).await.unwrap();

    for mut answer in ranges.into_iter().flatten() {
        let response = answer.message().await.unwrap().expect("one message");
        assert_eq!((response.kvs.len(), response.count), (KEYS, KEYS as i64));
        assert!(answer.message().await.unwrap().is_none());
    }
    for mut answer in txns.into_iter().flatten() {
        let response = answer.message().await.unwrap().expect("one message");
        assert!(response.encoded_len() > KEYS * VALUE);
        assert!(answer.message().await.unwrap().is_none());
    }
    // All room has been given back.
    for _ in 0..3 {
        assert_eq!(kv.range(by_value.clone()).await.unwrap().into_inner().kvs.len(), KEYS);
        let page =
            crate::gateway::post(&cluster, "/v3/kv/range", r#"{"key":"a2V5","range_end":"a2V6"}"#);
        assert!(page.await.body.len() > KEYS * VALUE);
    }
}

async fn a_stream_goes_on_beside_sorted_ranges(engine: Engine) {
    const KEYS: usize = 2000;
    const READERS: usize = 64;
    if !product().at_least(3, 7) {
        return;
    }
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let mut kv = raw.kv.clone();
    for n in 0..KEYS / 50 {
        let puts = (0..50).map(|k| op(put(&format!("key{n:02}{k:02}"), &"v".repeat(2000))));
        kv.txn(all_of(puts.collect())).await.unwrap();
    }
    let done = Arc::new(AtomicUsize::new(0));
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let (mut kv, done) = (raw.kv.clone(), done.clone());
        readers.spawn(async move {
            let by_value = RangeRequest {
                sort_target: SortTarget::Value as i32,
                sort_order: SortOrder::Descend as i32,
                limit: 1,
                ..range("key", "kez")
            };
            while kv.range(by_value.clone()).await.is_ok() {
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    eventually("the first round of all readers", async || match done.load(Ordering::Relaxed) {
        0..READERS => Err("the readers have not begun".to_owned()),
        _ => Ok(()),
    })
    .await;
    let before = done.load(Ordering::Relaxed);
    let mut stream =
        cluster.raw(0).kv.range_stream(range("key", "kez")).await.unwrap().into_inner();
    let (mut keys, mut chunks) = (0, 0);
    while let Some(chunk) = stream.message().await.unwrap() {
        keys += chunk.range_response.unwrap().kvs.len();
        chunks += 1;
    }
    let meanwhile = done.load(Ordering::Relaxed) - before;
    assert_eq!(keys, KEYS);
    // In a queue with them each chunk would wait for all of theirs.
    let most = chunks * READERS / 4;
    if product().ours {
        assert!(meanwhile < most, "{meanwhile} sorted ranges for {chunks} chunks");
    }
}

async fn a_burst_of_cancelled_calls_ends_nothing_else(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let watch = WatchCreateRequest { key: "watched".into(), ..Default::default() };
    let mut stream = Stream::open(&raw, watch).await;
    assert!(stream.responses.message().await.unwrap().unwrap().created);
    for round in 0..20 {
        let mut calls = JoinSet::new();
        for n in 0..200 {
            let mut kv = raw.kv.clone();
            calls.spawn(async move {
                let call = kv.put(put(&format!("key{n}"), &round.to_string()));
                // Some are cancelled before they are sent, some on their way, some are answered.
                let patience = Duration::from_micros(50 * (n % 40));
                let _cancelled = tokio::time::timeout(patience, call).await;
            });
        }
        calls.join_all().await;
    }
    raw.kv.clone().put(put("watched", "still")).await.expect("the connection lives");
    let events = stream.responses.message().await.expect("so does the watch").unwrap().events;
    assert_eq!(events[0].kv.as_ref().unwrap().value, "still");
}
