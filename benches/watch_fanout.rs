//! Deliveries per second from the hub to 1,000 watch streams, without a network.
//!
//! Each stream is a task that writes its messages into a buffer, as the server would.
//! `cargo bench --no-default-features --bench watch_fanout`

#![allow(clippy::print_stdout, reason = "a program whose output is its result")]

use bytes::{Bytes, BytesMut};
use quoin::mvcc::{Commit, Mvcc, View};
use quoin::pb::etcdserverpb::watch_request::RequestUnion;
use quoin::pb::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchRequest};
use quoin::pb::mvccpb::{Event, KeyValue};
use quoin::storage::memory::MemoryEngine;
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

fn main() {
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
