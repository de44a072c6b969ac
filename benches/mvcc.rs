//! CPU time of the revision store on an engine, without raft and network.
//!
//! `cargo bench --no-default-features --bench mvcc`; with the feature `rocksdb`, on that engine too.

#![allow(clippy::print_stdout, reason = "a report is all that it makes")]

use bytes::Bytes;
use prost::Message;
use quoin::mvcc::{CompactionProgress, Mvcc};
use quoin::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quoin::pb::etcdserverpb::request_op::Request;
use quoin::pb::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};
use quoin::storage::memory::MemoryEngine;
use quoin::storage::{Engine, WriteBatch};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: u64 = 100_000;
const VALUE_LEN: usize = 1024;

/// Requests that go into one engine batch, as under load.
const ROUND: u64 = 64;

/// What is measured repeatedly is repeated for so much time.
const MEASURED_MIN: Duration = Duration::from_millis(300);

/// CPU time of this thread, so that other work on the machine disturbs less. The system counts it in
/// steps of some milliseconds: only sums over many rounds mean anything.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells it");
    let word = stat.split(' ').next().expect("a line of numbers");
    Duration::from_nanos(word.parse().expect("a number"))
}

fn tell(what: &str, taken: Duration, times: u64) {
    println!("  {what:<44} {:>12.0} ns", taken.as_nanos() as f64 / times as f64);
}

/// Tells what one of the `times` things that `run` does takes on average.
fn average(what: &str, times: u64, mut run: impl FnMut()) {
    let begin = cpu_time();
    let mut repeats = 0;
    while cpu_time() - begin < MEASURED_MIN {
        run();
        repeats += 1;
    }
    tell(what, cpu_time() - begin, times * repeats);
}

fn key(number: u64) -> Bytes {
    format!("/bench/keys/{number:012}").into()
}

/// Spreads numbers over the key space without order.
fn scattered(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % KEYS
}

struct Bench {
    engine: Arc<dyn Engine>,
    mvcc: Mvcc,
}

impl Bench {
    fn puts(&mut self, what: &str, keys: impl Iterator<Item = u64>, value_len: usize) {
        let value = Bytes::from(vec![b'v'; value_len]);
        let requests: Vec<PutRequest> = keys
            .map(|number| PutRequest {
                key: key(number),
                value: value.clone(),
                ..Default::default()
            })
            .collect();
        let (mut applying, mut writing) = (Duration::ZERO, Duration::ZERO);
        for round in requests.chunks(ROUND as usize) {
            let begin = cpu_time();
            let mut batch = WriteBatch::new();
            for request in round {
                let mut txn = self.mvcc.begin(&mut batch);
                txn.put(request, &|_| false).expect("no fault").expect("no lease");
                black_box(txn.finish());
            }
            let applied = cpu_time();
            self.engine.write(batch).expect("no fault");
            self.mvcc.publish();
            applying += applied - begin;
            writing += cpu_time() - applied;
        }
        tell(what, applying, requests.len() as u64);
        tell("  the engine's write of it", writing, requests.len() as u64);
    }

    fn txns(&mut self) {
        let requests: Vec<TxnRequest> = (0..KEYS)
            .map(|number| {
                let key = key(scattered(number));
                let compare = Compare {
                    result: CompareResult::Greater as i32,
                    target: CompareTarget::Mod as i32,
                    key: key.clone(),
                    target_union: Some(TargetUnion::ModRevision(0)),
                    ..Default::default()
                };
                let value = Bytes::from_static(b"value");
                let put = PutRequest { key: key.clone(), value, ..Default::default() };
                let get = RangeRequest { key, ..Default::default() };
                let op = |request| RequestOp { request: Some(request) };
                TxnRequest {
                    compare: vec![compare],
                    success: vec![op(Request::RequestPut(put))],
                    failure: vec![op(Request::RequestRange(get))],
                }
            })
            .collect();
        average("txn: compare and put, in rounds", KEYS, || {
            for round in requests.chunks(ROUND as usize) {
                let mut batch = WriteBatch::new();
                for request in round {
                    let mut txn = self.mvcc.begin(&mut batch);
                    let response = txn.txn(request, &|_| false).expect("no fault");
                    assert!(response.expect("no lease").succeeded);
                    black_box(txn.finish());
                }
                self.engine.write(batch).expect("no fault");
                self.mvcc.publish();
            }
        });
    }

    fn gets(&self) {
        let view = self.mvcc.view();
        let requests: Vec<RangeRequest> = (0..KEYS)
            .map(|number| RangeRequest { key: key(scattered(number)), ..Default::default() })
            .collect();
        average("get one key", KEYS, || {
            for request in &requests {
                let response = view.range(request).expect("no fault").expect("not compacted");
                assert_eq!(black_box(response).count, 1);
            }
        });
    }

    fn ranges(&self) {
        let view = self.mvcc.view();
        let all = RangeRequest {
            key: "/bench/".into(),
            range_end: "/bench0".into(),
            ..Default::default()
        };
        let range = |request: &RangeRequest| {
            let response = view.range(request).expect("no fault").expect("not compacted");
            assert_eq!(response.count, KEYS as i64);
            response
        };
        average("range of all keys", 1, || drop(black_box(range(&all))));
        let response = range(&all);
        average("encoding that answer", 1, || drop(black_box(response.encode_to_vec())));
        drop(response);
        average("range in chunks of 1 MiB, encoded each", 1, || {
            let stream = view.range_stream(&all, 1 << 20).expect("no fault");
            let mut stream = stream.expect("not compacted");
            while let Some(chunk) = stream.next_chunk().expect("no fault").expect("not replaced") {
                black_box(chunk.encode_to_vec());
            }
        });
        let counted = RangeRequest { count_only: true, ..all.clone() };
        average("count of all keys", 1, || drop(black_box(range(&counted))));
        let named = RangeRequest { keys_only: true, ..all.clone() };
        average("all keys without values", 1, || drop(black_box(range(&named))));
        let page = RangeRequest { limit: 500, ..all.clone() };
        average("page of 500, with the count", 1, || drop(black_box(range(&page))));
        let last = RangeRequest { limit: 1, sort_order: 2, sort_target: 2, ..all };
        average("last created key of all", 1, || drop(black_box(range(&last))));
        let ten = RangeRequest { key: key(500), range_end: key(510), ..Default::default() };
        average("range of ten keys", 1000, || {
            for _ in 0..1000 {
                let response = view.range(&ten).expect("no fault").expect("not compacted");
                assert_eq!(black_box(response).kvs.len(), 10);
            }
        });
    }

    fn history(&self) {
        let view = self.mvcc.view();
        let (mut next, mut events) = (2, 0);
        let begin = cpu_time();
        while next <= view.revision() {
            let history = view.history(next, &|_| true, 1000, 512 * 1024).expect("no fault");
            let history = history.expect("not compacted");
            events += history.commits.iter().map(|commit| commit.events.len()).sum::<usize>();
            next = history.next;
        }
        tell("history, per event", cpu_time() - begin, events as u64);
        let begin = cpu_time();
        let mut next = 2;
        while next <= view.revision() {
            let history = view.history(next, &|_| false, 1000, 512 * 1024).expect("no fault");
            next = history.expect("not compacted").next;
        }
        tell("history, per event that is not wanted", cpu_time() - begin, events as u64);
    }

    fn compaction(&mut self) {
        let revision = self.mvcc.revision();
        let mut batch = WriteBatch::new();
        self.mvcc.compact(&mut batch, revision).expect("no fault").expect("a new revision");
        self.engine.write(batch).expect("no fault");
        self.mvcc.publish();
        let begin = cpu_time();
        let mut progress = CompactionProgress::More;
        while progress != CompactionProgress::Done {
            let mut batch = WriteBatch::new();
            progress = self.mvcc.compaction_step(&mut batch, 256).expect("no fault");
            self.engine.write(batch).expect("no fault");
        }
        tell("compaction, per change", cpu_time() - begin, revision as u64 - 1);
    }
}

fn run(engine: Arc<dyn Engine>) {
    println!(
        "{}: {KEYS} keys, values of {VALUE_LEN} bytes, rounds of {ROUND} requests",
        engine.name()
    );
    let mut bench = Bench { mvcc: Mvcc::open(engine.clone()).expect("empty"), engine };
    bench.puts("put of new keys", 0..KEYS, VALUE_LEN);
    bench.gets();
    bench.ranges();
    bench.puts("put over old keys, 256 bytes", (0..KEYS).map(scattered), 256);
    bench.txns();
    bench.gets();
    bench.history();
    bench.compaction();
    bench.gets();
}

fn main() {
    run(Arc::new(MemoryEngine::new()));
    #[cfg(feature = "rocksdb")]
    {
        use quoin::storage::rocks::{RocksEngine, RocksOptions};
        let folder = tempfile::tempdir().expect("a folder for the engine");
        let engine = RocksEngine::open(folder.path(), RocksOptions::default());
        run(Arc::new(engine.expect("an empty folder")));
    }
}
