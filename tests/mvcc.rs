//! Readers of the revision store on other threads than the writer, while it writes, compacts and
//! removes: whatever they see at a revision is what was written up to it, all of it and no more.

use bytes::Bytes;
use quoin::error::RequestError;
use quoin::mvcc::{Compacted, CompactionProgress, Mvcc, View};
use quoin::pb::etcdserverpb::request_op::Request;
use quoin::pb::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest,
};
use quoin::pb::mvccpb::KeyValue;
use quoin::storage::memory::MemoryEngine;
use quoin::storage::{Engine, WriteBatch};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const REVISIONS: i64 = 3_000;
const KEYS: i64 = 700;
/// Revisions that are published together; compactions fall into the middle of a round.
const ROUND: i64 = 7;

fn key(number: i64) -> Bytes {
    format!("k{:03}", number % KEYS).into()
}

/// What happens at a revision: two keys are put, or one of them is deleted if it is there.
fn request(revision: i64) -> TxnRequest {
    let put = |number| {
        let value = revision.to_string().into();
        Request::RequestPut(PutRequest { key: key(number), value, ..Default::default() })
    };
    let delete = DeleteRangeRequest { key: key(revision * 7), ..Default::default() };
    let ops = if revision % 5 == 0 {
        vec![put(revision), Request::RequestDeleteRange(delete)]
    } else {
        vec![put(revision * 11), put(revision * 11 + 1)]
    };
    let ops = ops.into_iter().map(|request| RequestOp { request: Some(request) });
    TxnRequest { success: ops.collect(), ..Default::default() }
}

/// The state by itself, replayed up to a revision that only rises.
struct Replay {
    revision: i64,
    state: BTreeMap<Bytes, KeyValue>,
}

impl Replay {
    fn to(&mut self, revision: i64) {
        while self.revision < revision {
            self.revision += 1;
            for op in request(self.revision).success {
                match op.request.expect("every op has a request") {
                    Request::RequestPut(put) => self.put(put),
                    Request::RequestDeleteRange(delete) => drop(self.state.remove(&delete.key)),
                    other => panic!("no such op: {other:?}"),
                }
            }
        }
    }

    fn put(&mut self, put: PutRequest) {
        let fresh = KeyValue { create_revision: self.revision, ..Default::default() };
        let kv = self.state.entry(put.key.clone()).or_insert(fresh);
        kv.key = put.key;
        kv.value = put.value;
        kv.version += 1;
        kv.mod_revision = self.revision;
    }
}

/// Reads everything at the newest and at older revisions; returns how often it was compacted away.
fn read(view: &View, is_over: &AtomicBool, age: i64) -> usize {
    let mut replay = Replay { revision: 1, state: BTreeMap::new() };
    let mut compacted = 0;
    while !is_over.load(Ordering::SeqCst) {
        let revision = (view.revision() - age).max(1);
        if revision < replay.revision {
            continue;
        }
        let everything = RangeRequest {
            key: "\0".into(),
            range_end: "\0".into(),
            revision,
            ..Default::default()
        };
        let answer = view.range(&everything).expect("no fault");
        match answer {
            Ok(RangeResponse { kvs, count, .. }) => {
                replay.to(revision);
                assert_eq!(count, kvs.len() as i64);
                assert!(kvs.iter().eq(replay.state.values()), "at {revision}");
            }
            Err(error) => {
                assert_eq!(error, RequestError::Compacted);
                assert!(revision < view.compacted());
                compacted += 1;
            }
        }
    }
    compacted
}

/// Reads single keys at a revision that is about to be compacted.
fn read_one(view: &View, is_over: &AtomicBool) -> usize {
    let mut replay = Replay { revision: 1, state: BTreeMap::new() };
    let mut compacted = 0;
    while !is_over.load(Ordering::SeqCst) {
        let revision = view.compacted().max(1);
        replay.to(revision);
        for number in 0..KEYS {
            let one = RangeRequest { key: key(number), revision, ..Default::default() };
            match view.range(&one).expect("no fault") {
                Ok(RangeResponse { kvs, .. }) => {
                    assert_eq!(kvs.first(), replay.state.get(&one.key), "at {revision}");
                }
                Err(error) => {
                    assert_eq!(error, RequestError::Compacted);
                    compacted += 1;
                }
            }
        }
    }
    compacted
}

/// Reads a range in chunks that the compaction overtakes.
fn stream(view: &View, is_over: &AtomicBool) {
    let mut replay = Replay { revision: 1, state: BTreeMap::new() };
    while !is_over.load(Ordering::SeqCst) {
        let everything =
            RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
        let stream = view.range_stream(&everything, 4096).expect("no fault");
        let mut stream = stream.expect("the present is not compacted");
        let mut kvs = Vec::new();
        let mut revision = 0;
        while let Some(chunk) = stream.next_chunk().expect("no fault").expect("held") {
            kvs.extend(chunk.kvs);
            revision = chunk.header.map_or(0, |header| header.revision);
        }
        replay.to(revision);
        assert!(kvs.iter().eq(replay.state.values()), "at {revision}");
    }
}

/// Follows the history as a watch does and replays it; starts anew where it was compacted away.
fn follow(view: &View, is_over: &AtomicBool) -> i64 {
    let mut next = 2;
    let mut seen = 0;
    while !is_over.load(Ordering::SeqCst) || next <= view.revision() {
        match view.history(next, &|_| true, 100, 1 << 20).expect("no fault") {
            Ok(history) => {
                let mut expected = next;
                for commit in history.commits {
                    assert_eq!(commit.revision, expected, "no revision is left out");
                    let puts = commit.events.iter().filter(|event| event.r#type == 0);
                    let keys: Vec<Bytes> =
                        puts.filter_map(|event| Some(event.kv.as_ref()?.key.clone())).collect();
                    let ops = request(commit.revision).success;
                    let put_keys = ops.iter().filter_map(|op| match &op.request {
                        Some(Request::RequestPut(put)) => Some(put.key.clone()),
                        _ => None,
                    });
                    assert_eq!(keys, put_keys.collect::<Vec<_>>(), "at {}", commit.revision);
                    expected += 1;
                    seen += 1;
                }
                assert_eq!(history.next, expected);
                next = history.next;
            }
            Err(Compacted(revision)) => {
                assert!(next < revision);
                next = revision;
            }
        }
    }
    seen
}

/// Hashes while what is hashed may be removed: equal revisions give equal hashes.
fn hash(view: &View, is_over: &AtomicBool) -> usize {
    let mut hashes = BTreeMap::new();
    while !is_over.load(Ordering::SeqCst) {
        let found = view.hash_kv(0).expect("no fault").expect("the present is not compacted");
        let known = hashes.entry((found.revision, found.compacted)).or_insert(found.hash);
        assert_eq!(*known, found.hash, "of {found:?}");
    }
    hashes.len()
}

fn write(mvcc: &mut Mvcc, engine: &dyn Engine) {
    for revision in 2..=REVISIONS {
        let mut batch = WriteBatch::new();
        let mut txn = mvcc.begin(&mut batch);
        let answer = txn.txn(&request(revision), &|_| false).expect("no fault");
        assert!(answer.is_ok());
        assert_eq!(txn.finish().revision, revision);
        if revision % 50 == 0 {
            let compacted = mvcc.compact(&mut batch, revision - 40).expect("no fault");
            assert_eq!(compacted, Ok(()));
        }
        engine.write(batch).expect("no fault");
        if revision % ROUND == 0 {
            mvcc.publish();
        }
        let mut batch = WriteBatch::new();
        mvcc.compaction_step(&mut batch, 8).expect("no fault");
        engine.write(batch).expect("no fault");
    }
    mvcc.publish();
}

#[test]
fn readers_see_whole_revisions_whatever_the_writer_does() {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    let mut mvcc = Mvcc::open(engine.clone()).expect("an empty store");
    let is_over = AtomicBool::new(false);
    let view = mvcc.view();
    thread::scope(|scope| {
        scope.spawn(|| read(&view, &is_over, 0));
        let reads_late = scope.spawn(|| read(&view, &is_over, 60));
        let reads_one = scope.spawn(|| read_one(&view, &is_over));
        scope.spawn(|| stream(&view, &is_over));
        let hashes = scope.spawn(|| hash(&view, &is_over));
        let follows = scope.spawn(|| follow(&view, &is_over));
        write(&mut mvcc, &*engine);
        is_over.store(true, Ordering::SeqCst);
        assert!(follows.join().expect("a follower") > 0);
        assert!(hashes.join().expect("one that hashes") > 1, "it hashes while all that goes on");
        assert!(
            reads_one.join().expect("a reader") > 0,
            "so is who reads at the compacted revision"
        );
        assert!(reads_late.join().expect("a reader") > 0, "a late reader is too late at times");
    });
}

#[test]
fn hashes_are_right_while_tombstones_are_removed() {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    let mut mvcc = Mvcc::open(engine.clone()).expect("an empty store");
    let is_over = AtomicBool::new(false);
    let view = mvcc.view();
    thread::scope(|scope| {
        let hashes: Vec<_> = (0..2).map(|_| scope.spawn(|| hash(&view, &is_over))).collect();
        for _ in 0..30 {
            // Every key comes and goes, so that nearly all that is removed are tombstones.
            for number in 0..2 * KEYS {
                let mut batch = WriteBatch::new();
                let mut txn = mvcc.begin(&mut batch);
                let key = key(number / 2);
                if number % 2 == 0 {
                    let put = PutRequest { key, ..Default::default() };
                    txn.put(&put, &|_| false).expect("no fault").expect("no lease");
                } else {
                    let delete = DeleteRangeRequest { key, ..Default::default() };
                    txn.delete_range(&delete).expect("no fault");
                }
                txn.finish();
                engine.write(batch).expect("no fault");
            }
            let mut batch = WriteBatch::new();
            let revision = mvcc.revision();
            assert_eq!(mvcc.compact(&mut batch, revision).expect("no fault"), Ok(()));
            engine.write(batch).expect("no fault");
            mvcc.publish();
            loop {
                let mut batch = WriteBatch::new();
                let progress = mvcc.compaction_step(&mut batch, 8).expect("no fault");
                engine.write(batch).expect("no fault");
                match progress {
                    CompactionProgress::Done => break,
                    // One that hashes holds what was compacted before.
                    CompactionProgress::Pinned => thread::yield_now(),
                    CompactionProgress::More => {}
                }
            }
        }
        is_over.store(true, Ordering::SeqCst);
        for hashes in hashes {
            assert!(hashes.join().expect("one that hashes") > 1);
        }
    });
}
