//! The fan-out of one member without tasks: what `watch::hub` and `watch::stream` do, step by
//! step, around the shipped registry, queues and sessions.

use prost::Message;
use quoin::error::Fatal;
use quoin::mvcc::{Commit, View};
use quoin::pb::etcdserverpb::{ResponseHeader, WatchRequest, WatchResponse};
use quoin::watch::Limits;
use quoin::watch::queue::Queue;
use quoin::watch::registry::{Output, Registry, StreamId};
use quoin::watch::session::Session;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Revisions handed out before streams get a turn.
const REVISIONS_PER_TURN_MAX: usize = 4;

enum Arrival {
    Commit(Commit),
    Skip(i64),
}

struct Stream {
    session: Session,
    queue: Queue,
}

pub struct Hub {
    view: View,
    limits: Limits,
    registry: Registry,
    arrivals: VecDeque<Arrival>,
    bytes: usize,
    streams: BTreeMap<StreamId, Stream>,
    next: StreamId,
}

impl Hub {
    pub fn new(view: View, limits: Limits) -> Self {
        Self {
            registry: Registry::new(view.revision(), limits.matches_max),
            view,
            limits,
            arrivals: VecDeque::new(),
            bytes: 0,
            streams: BTreeMap::new(),
            next: 0,
        }
    }

    pub fn has_arrivals(&self) -> bool {
        !self.arrivals.is_empty()
    }

    /// Takes commits in revision order, or drops them when too many wait.
    pub fn publish(&mut self, commits: Vec<Commit>) {
        let Some(last) = commits.last().map(|commit| commit.revision) else { return };
        let bytes: usize = commits.iter().map(size).sum();
        if self.bytes + bytes > self.limits.inbox_bytes_max {
            self.skip(last);
        } else {
            self.bytes += bytes;
            self.arrivals.extend(commits.into_iter().map(Arrival::Commit));
        }
    }

    /// A snapshot replaced the state. Every stream is to get a turn.
    pub fn restored(&mut self) -> Vec<StreamId> {
        self.skip(self.view.revision());
        self.streams.keys().copied().collect()
    }

    fn skip(&mut self, to: i64) {
        match self.arrivals.back_mut() {
            Some(Arrival::Skip(head)) => *head = to.max(*head),
            _ => self.arrivals.push_back(Arrival::Skip(to)),
        }
    }

    /// Hands out some of what has arrived; returns the streams that got something.
    pub fn hand_out(&mut self) -> BTreeSet<StreamId> {
        let mut woken = BTreeSet::new();
        for _ in 0..REVISIONS_PER_TURN_MAX {
            let Some(arrival) = self.arrivals.pop_front() else { break };
            let streams = &mut self.streams;
            let mut sink = |stream: StreamId, output: Output<'_>| match streams.get_mut(&stream) {
                Some(found) => {
                    woken.insert(stream);
                    found.queue.push(output)
                }
                None => false,
            };
            match arrival {
                Arrival::Commit(commit) => {
                    self.bytes = self.bytes.saturating_sub(size(&commit));
                    self.registry.publish(commit.revision, &commit.events, &mut sink);
                }
                Arrival::Skip(head) => self.registry.skip_to(head, &mut sink),
            }
        }
        woken
    }

    pub fn open(&mut self) -> StreamId {
        let id = self.next;
        self.next += 1;
        let session = Session::new(id, self.view.clone(), self.limits, 200);
        let queue = Queue::new(self.limits.queue_bytes_max);
        self.streams.insert(id, Stream { session, queue });
        id
    }

    pub fn close(&mut self, id: StreamId) {
        if self.streams.remove(&id).is_some() {
            while self.registry.remove_stream(id, 16) {}
        }
    }

    pub fn request(&mut self, id: StreamId, request: WatchRequest) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.session.request(request);
        }
    }

    /// The time for progress notifications has come.
    pub fn tick(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.session.tick();
        }
    }

    /// Gives a stream a turn of at most `steps`; returns what it sends, and whether it has more to do.
    pub fn turn(
        &mut self,
        id: StreamId,
        steps: usize,
    ) -> Result<(Vec<WatchResponse>, bool), Fatal> {
        let mut sent = Vec::new();
        let Some(Stream { session, queue }) = self.streams.get_mut(&id) else {
            return Ok((sent, false));
        };
        for _ in 0..steps {
            if let Some(message) = session.pop()? {
                let mut bytes = Vec::new();
                message.encode(&ResponseHeader::default(), &mut bytes);
                let response = WatchResponse::decode(&bytes[..]);
                sent.push(response.map_err(|e| Fatal::with("decode watch response", e))?);
            } else if !session.take_from(queue)
                && !(session.wants_sync() && session.sync(&mut self.registry, queue))
            {
                match session.read()? {
                    Some(read) => session.absorb(read)?,
                    None => return Ok((sent, false)),
                }
            }
        }
        Ok((sent, true))
    }

    /// Whether no watch has anything to catch up with.
    pub fn is_settled(&self) -> bool {
        self.arrivals.is_empty()
            && self.streams.values().all(|stream| {
                stream.queue.is_empty()
                    && !stream.session.is_ready()
                    && stream.session.counts().1 == 0
            })
    }
}

fn size(commit: &Commit) -> usize {
    let pairs = commit.events.iter().filter_map(|event| event.kv.as_ref());
    pairs.map(|kv| kv.key.len() + kv.value.len() + 128).sum()
}
