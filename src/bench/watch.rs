//! Watch fan-out: how long from a put to its event at each watcher, and how many events arrive.
//!
//! Each value begins with the time of its put. Watchers of one key get every put of it, once and
//! in order; an event that is lost, doubled or out of order is an error of the run.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::task::JoinSet;

use super::BenchError;
use super::args::WatchArgs;
use super::kv::Values;
use super::load::{Course, Lane, Load, Tally, drive};
use super::outcome::Outcome;
use super::wire::{CallError, Connection, Receiver, Sender, frame};
use crate::pb::etcdserverpb::watch_request::RequestUnion;
use crate::pb::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, WatchCreateRequest, WatchRequest,
    WatchResponse,
};

const PUT: &str = "/etcdserverpb.KV/Put";
const DELETE_RANGE: &str = "/etcdserverpb.KV/DeleteRange";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// Bytes of the time at the front of each value.
const STAMP: usize = 8;
/// With no event for so long after the last put, the missing ones are given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the end of the run is looked for.
const LOOK: Duration = Duration::from_millis(5);

pub(super) async fn run(args: &WatchArgs) -> Result<Outcome, BenchError> {
    if args.watch_streams > args.watchers {
        return Err(BenchError::Usage("--watch-streams exceeds --watchers".into()));
    }
    if args.watch_streams < args.load.connections {
        return Err(BenchError::Usage("--connections exceeds --watch-streams".into()));
    }
    if args.watched_keys > args.watchers {
        return Err(BenchError::Usage("--watched-keys exceeds --watchers".into()));
    }
    let value_size = args.value_size.max(STAMP as u64);
    let fan_out = FanOut {
        prefix: format!("quoin-bench-watch/{}/", std::process::id()),
        watchers: args.watchers,
        watch_streams: args.watch_streams,
        connections: args.load.connections,
        keys: args.watched_keys,
        writers: args.load.streams,
        values: Values::new(value_size - STAMP as u64),
        epoch: Instant::now(),
        writers_left: AtomicU64::new(args.load.streams),
        expected: AtomicU64::new(0),
        delivered: AtomicU64::new(0),
    };
    let settings = vec![
        ("watchers", args.watchers.to_string()),
        ("watch_streams", args.watch_streams.to_string()),
        ("watched_keys", args.watched_keys.to_string()),
        ("value_size", value_size.to_string()),
    ];
    let measured = drive(&args.load, fan_out).await?;
    Ok(Outcome { unit: "event".into(), ..Outcome::new("watch", &args.load, settings, measured) })
}

struct FanOut {
    prefix: String,
    watchers: u64,
    watch_streams: u64,
    connections: u64,
    keys: u64,
    /// Puts in flight, all on one connection beside those of the watchers.
    writers: u64,
    values: Values,
    /// What the time in a value counts from.
    epoch: Instant,
    writers_left: AtomicU64,
    /// Events that the puts so far must bring.
    expected: AtomicU64,
    delivered: AtomicU64,
}

/// A stream and the last revision seen by each of its watchers.
struct WatchStream {
    /// Held, because dropping it would end the stream.
    _sender: Sender,
    receiver: Receiver,
    seen: Vec<i64>,
}

struct FanOutState {
    streams: Vec<WatchStream>,
    /// Of the first lane only.
    writer: Option<Connection>,
}

impl FanOut {
    fn key(&self, number: u64) -> Bytes {
        Bytes::from(format!("{}{:06}", self.prefix, number % self.keys))
    }

    /// Watchers of the key that put `number` writes. Watcher `i` watches key `i % keys`.
    fn watchers_of(&self, number: u64) -> u64 {
        let key = number % self.keys;
        self.watchers / self.keys + u64::from(key < self.watchers % self.keys)
    }

    /// Opens stream `number` of all with its share of the watchers.
    async fn stream(&self, connection: &Connection, number: u64) -> Result<WatchStream, CallError> {
        let share = |stream: u64| stream * self.watchers / self.watch_streams;
        let watchers = share(number)..share(number + 1);
        let mut frames = (1..).zip(watchers.clone()).map(|(watch_id, watcher)| {
            let create =
                WatchCreateRequest { key: self.key(watcher), watch_id, ..Default::default() };
            frame(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) })
        });
        let first = frames.next().unwrap_or_default();
        let (mut sender, mut receiver) = connection.caller(WATCH)?.stream(first).await?;
        for frame in frames {
            sender.send(frame)?;
        }
        let mut left = watchers.end - watchers.start;
        while left > 0 {
            let answer: WatchResponse = receiver.message().await?;
            if answer.canceled {
                return Err(CallError::Transport(format!("cancelled: {}", answer.cancel_reason)));
            }
            left -= u64::from(answer.created);
        }
        let seen = vec![0; (watchers.end - watchers.start) as usize + 1];
        Ok(WatchStream { _sender: sender, receiver, seen })
    }

    fn stamped(&self, number: u64, due: Instant) -> Bytes {
        let filler = self.values.value(number);
        let mut value = BytesMut::with_capacity(STAMP + filler.len());
        value.put_u64(due.saturating_duration_since(self.epoch).as_nanos() as u64);
        value.put_slice(&filler);
        value.freeze()
    }

    /// Puts one key after another until the course is over.
    async fn write(
        &self,
        connection: &Connection,
        course: &Course,
        tally: &RefCell<Tally>,
    ) -> Result<(), CallError> {
        let mut caller = connection.caller(PUT)?;
        while let Some(ticket) = course.claim().await {
            let put = PutRequest {
                key: self.key(ticket.number),
                value: self.stamped(ticket.number, ticket.due),
                ..PutRequest::default()
            };
            // Counted before the put, so that no event is ever above what is expected.
            let events = self.watchers_of(ticket.number);
            self.expected.fetch_add(events, Ordering::Relaxed);
            match caller.call(frame(&put), 0).await {
                Ok(_) => tally.borrow_mut().add("puts", 1),
                Err(error) => {
                    self.expected.fetch_sub(events, Ordering::Relaxed);
                    if error.is_transport() {
                        return Err(error);
                    }
                    tally.borrow_mut().error(error.to_string());
                }
            }
            course.advance();
        }
        Ok(())
    }

    /// Takes events until the stream ends, or until it is dropped.
    async fn read(
        &self,
        stream: &mut WatchStream,
        tally: &RefCell<Tally>,
    ) -> Result<(), CallError> {
        loop {
            let answer: WatchResponse = stream.receiver.message().await?;
            let mut tally = tally.borrow_mut();
            if answer.canceled {
                tally.error(format!("a watch was cancelled: {}", answer.cancel_reason));
                continue;
            }
            let seen = stream.seen.get_mut(answer.watch_id as usize);
            let Some(seen) = seen.filter(|_| answer.watch_id > 0) else {
                tally.error(format!("an event for watch {}, which is none", answer.watch_id));
                continue;
            };
            let events = answer.events.len() as u64;
            for kv in answer.events.into_iter().filter_map(|event| event.kv) {
                if kv.mod_revision <= *seen || kv.value.len() < STAMP {
                    tally.error("an event twice or out of order".into());
                    continue;
                }
                *seen = kv.mod_revision;
                let mut stamp = &kv.value[..STAMP];
                tally.record(
                    self.epoch + Duration::from_nanos(stamp.get_u64()),
                    kv.value.len() as u64,
                );
            }
            self.delivered.fetch_add(events, Ordering::Relaxed);
        }
    }

    /// Waits until every expected event is there; gives the number of those that never came.
    async fn settle(&self) -> u64 {
        let mut looks = tokio::time::interval(LOOK);
        let mut progress = (0, Instant::now());
        loop {
            looks.tick().await;
            let is_writing = self.writers_left.load(Ordering::Acquire) > 0;
            let delivered = self.delivered.load(Ordering::Relaxed);
            let missing = self.expected.load(Ordering::Relaxed).saturating_sub(delivered);
            if is_writing || delivered != progress.0 {
                progress = (delivered, Instant::now());
            }
            if !is_writing && (missing == 0 || progress.1.elapsed() > PATIENCE) {
                return missing;
            }
        }
    }
}

impl Load for FanOut {
    type State = FanOutState;

    async fn open(self: &Arc<Self>, lane: &Lane) -> Result<FanOutState, BenchError> {
        let mut streams = Vec::new();
        let share = |connection: u64| connection * self.watch_streams / self.connections;
        for number in lane.connections.clone() {
            let connection = lane.connect(number).await?;
            for stream in share(number)..share(number + 1) {
                let stream = self.stream(&connection, stream).await;
                streams.push(stream.map_err(BenchError::call("create watchers"))?);
            }
        }
        let writer = match lane.is_first() {
            true => Some(lane.connect(self.connections).await?),
            false => None,
        };
        Ok(FanOutState { streams, writer })
    }

    async fn run(self: &Arc<Self>, state: &mut FanOutState, course: &Arc<Course>) -> Tally {
        let tally = Rc::new(RefCell::new(Tally::default()));
        let mut readers = JoinSet::new();
        for mut stream in state.streams.drain(..) {
            let (fan_out, tally) = (self.clone(), tally.clone());
            readers.spawn_local(async move {
                if let Err(error) = fan_out.read(&mut stream, &tally).await {
                    tally.borrow_mut().error(error.to_string());
                }
            });
        }
        let mut writers = JoinSet::new();
        for connection in state.writer.iter().flat_map(|one| (0..self.writers).map(move |_| one)) {
            let (fan_out, connection) = (self.clone(), connection.clone());
            let (course, tally) = (course.clone(), tally.clone());
            writers.spawn_local(async move {
                if let Err(error) = fan_out.write(&connection, &course, &tally).await {
                    tally.borrow_mut().error(error.to_string());
                }
                fan_out.writers_left.fetch_sub(1, Ordering::Release);
            });
        }
        let missing = self.settle().await;
        readers.shutdown().await;
        let mut tally = tally.take();
        if missing > 0 && state.writer.is_some() {
            tally.errors.insert("an event that never came".into(), missing);
        }
        tally
    }

    async fn close(self: &Arc<Self>, state: FanOutState) -> Result<(), BenchError> {
        let Some(connection) = state.writer else { return Ok(()) };
        let mut range_end = self.prefix.clone().into_bytes();
        // '0' is the byte after the '/' that ends the prefix.
        range_end.pop();
        range_end.push(b'0');
        let request = DeleteRangeRequest {
            key: self.prefix.clone().into(),
            range_end: range_end.into(),
            ..DeleteRangeRequest::default()
        };
        connection
            .call::<DeleteRangeResponse>(DELETE_RANGE, &request)
            .await
            .map(drop)
            .map_err(BenchError::call("remove the keys of this run"))
    }
}
