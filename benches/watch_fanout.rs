//! Deliveries per second from the hub to 1,000 watch streams, without a network.
//!
//! Each stream is a task that writes its messages into a buffer, as the server would. Then, what
//! one revision costs in a registry with many watches that it does not concern.
//! `cargo bench --no-default-features --bench watch_fanout`

#![allow(clippy::print_stdout, reason = "a program whose output is its result")]

use bytes::{Bytes, BytesMut};
use quoin::mvcc::{Commit, Mvcc, View};
use quoin::pb::etcdserverpb::watch_request::RequestUnion;
use quoin::pb::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchRequest};
use quoin::pb::mvccpb::{Event, KeyValue};
use quoin::storage::memory::MemoryEngine;
use quoin::types::KeyRange;
use quoin::watch::registry::{Filter, Output, Registry, WatchKey};
use quoin::watch::{Hub, StreamOptions, WatchStream};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio_stream::StreamExt as _;

const STREAMS: usize = 1000;
const VALUE_BYTES: usize = 256;

fn commit(revision: i64) -> Commit {
    let kv = KeyValue {
        key: Bytes::from_static(b"bench/key"),
        value: vec![b'v'; VALUE_BYTES].into(),
        create_revision: 2,
        mod_revision: revision,
        version: revision - 1,
        lease: 0,
    };
    Commit { revision, events: vec![Event { r#type: 0, kv: Some(kv), prev_kv: None }] }
}

fn create() -> WatchRequest {
    let create = WatchCreateRequest {
        key: Bytes::from_static(b"bench/"),
        range_end: Bytes::from_static(b"bench0"),
        ..WatchCreateRequest::default()
    };
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

/// Publishes `rounds` times `burst` revisions, each round when the one before has arrived everywhere.
fn measure(threads: usize, rounds: usize, burst: usize) -> (f64, Duration) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .expect("a runtime");
    let view = view();
    let first = view.revision() + 1;
    let handle = runtime.block_on(async { Hub::start(view) });
    let received = Arc::new(AtomicUsize::new(0));
    for _ in 0..STREAMS {
        let received = Arc::clone(&received);
        let requests = tokio_stream::once(Ok::<_, Infallible>(create()));
        let mut stream = WatchStream::new(&handle, &StreamOptions::default(), requests, None);
        runtime.spawn(async move {
            let header = ResponseHeader {
                cluster_id: 1 << 60,
                member_id: 1 << 60,
                revision: 0,
                raft_term: 2,
            };
            let mut buffer = BytesMut::new();
            while let Some(Ok(message)) = stream.next().await {
                buffer.clear();
                buffer.reserve(message.len_bytes());
                message.encode(&header, &mut buffer);
                received.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let wait_for = |count: usize| {
        while received.load(Ordering::Relaxed) < count {
            std::thread::yield_now();
        }
    };
    wait_for(STREAMS);
    let mut expected = STREAMS;
    let start = Instant::now();
    for round in 0..rounds {
        for n in 0..burst {
            handle.publish(vec![commit(first + (round * burst + n) as i64)]);
        }
        expected += burst * STREAMS;
        wait_for(expected);
    }
    let elapsed = start.elapsed();
    handle.stop();
    let deliveries = rounds * burst * STREAMS;
    (deliveries as f64 / elapsed.as_secs_f64(), elapsed / rounds as u32)
}

fn view() -> View {
    Mvcc::open(Arc::new(MemoryEngine::new())).expect("an empty store").view()
}

/// Time of one revision with one event for one watch of a key and one of an interval, among this many of each.
fn search(watches: u64) -> Duration {
    let mut registry = Registry::new(1, 1 << 20);
    let key = |n: u64| Bytes::from(format!("registry/{n:08}"));
    let all = Filter { puts: true, deletes: true };
    for n in 0..watches {
        let single = KeyRange::new(key(n), Bytes::new());
        let interval = KeyRange::new(key(n), key(n + 1));
        for (watch, range) in [(2 * n, single), (2 * n + 1, interval)] {
            let watcher = WatchKey { stream: n, watch };
            registry.register(watcher, &range, all, 2).expect("the next revision");
        }
    }
    const ROUNDS: u32 = 100_000;
    let mut taken = 0;
    let start = Instant::now();
    for round in 0..ROUNDS {
        let revision = i64::from(round) + 2;
        let mut commit = commit(revision);
        if let Some(kv) = &mut commit.events[0].kv {
            kv.key = key(u64::from(round).wrapping_mul(0x9e37_79b9) % watches);
        }
        registry.publish(revision, &commit.events, &mut |_, output| {
            taken += usize::from(matches!(output, Output::Events(_)));
            true
        });
    }
    assert_eq!(taken, ROUNDS as usize);
    start.elapsed() / ROUNDS
}

fn main() {
    for watches in [1, 1000, 100_000] {
        println!(
            "{watches} watches of keys and as many of intervals: {:.2?} a revision",
            search(watches)
        );
    }
    println!("{STREAMS} streams, one watch each of the same prefix, values of {VALUE_BYTES} bytes");
    for threads in [1, 2] {
        for (rounds, burst) in [(500, 1), (100, 10), (20, 100)] {
            let (rate, round) = measure(threads, rounds, burst);
            println!(
                "{threads} worker threads, {burst:3} revisions at a time: {:9.0} deliveries/s, {:.3} us each, {round:.2?} a round",
                rate,
                1e6 / rate
            );
        }
    }
}
