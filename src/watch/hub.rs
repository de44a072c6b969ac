//! The fan-out: one task that hands applied commits to the queues of the watch streams.
//!
//! The driver thread leaves commits in a bounded inbox and goes on. The hub's task takes all
//! that is there, lets the registry find who wants what, fills the streams' queues and then
//! wakes each stream once. It never waits for a stream. While the inbox is full, new
//! commits are dropped and everybody reads them from history, so that memory stays bounded and
//! nothing is lost.
//!
//! The registry stands under a lock that is held for one revision, or for a bounded
//! number of registrations, and never while history is read or a task is awaited.

use super::Limits;
use super::queue::Queue;
use super::registry::{Output, Registry, StreamId};
use super::session::Session;
use crate::error::Fatal;
use crate::mvcc::{Commit, View};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Waker};
use tokio::sync::Notify;

/// Revisions handed out before their streams are woken, and before other tasks get a turn.
const REVISIONS_PER_TURN_MAX: usize = 64;

/// Watches of an ended stream that are removed under one hold of the lock.
const REMOVED_AT_ONCE_MAX: usize = 1024;

/// What an event costs in the inbox beside its key and value.
const EVENT_BYTES: usize = 128;

/// The task's side. Its other side is [`Handle`].
pub struct Hub {
    shared: Arc<Shared>,
}

/// Reaches the hub from the driver thread, from the node, and from streams. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// Gauges, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub streams: usize,
    pub watches: usize,
    /// Watches that read history at present.
    pub behind: usize,
    /// Bytes of commits that wait for the hub.
    pub inbox_bytes: usize,
    /// Bytes of events that wait for streams, counted for each.
    pub queued_bytes: usize,
    /// Events that wait for streams, counted for each watch.
    pub queued_events: usize,
}

struct Shared {
    view: View,
    limits: Limits,
    inbox: Mutex<Inbox>,
    arrived: Notify,
    streams: Mutex<Streams>,
    watches: AtomicUsize,
    behind: AtomicUsize,
    stopped: AtomicBool,
    fatal: Mutex<Option<Fatal>>,
    failed: Notify,
}

#[derive(Debug, Default)]
struct Inbox {
    arrivals: VecDeque<Arrival>,
    bytes: usize,
    wake_all: bool,
}

#[derive(Debug)]
enum Arrival {
    Commit(Commit),
    /// Everything up to this revision is in history, and only there.
    Skip(i64),
}

#[derive(Debug)]
struct Streams {
    registry: Registry,
    outlets: BTreeMap<StreamId, Arc<Outlet>>,
    next: StreamId,
}

/// Between the hub and one stream.
#[derive(Debug)]
struct Outlet {
    state: Mutex<OutletState>,
}

#[derive(Debug)]
struct OutletState {
    queue: Queue,
    /// Set while the stream sleeps.
    sleeper: Option<Waker>,
}

impl Hub {
    /// A hub whose streams read this view. Nothing is handed out until [`Hub::run`] is polled.
    pub fn new(view: View, limits: Limits) -> (Hub, Handle) {
        let registry = Registry::new(view.revision(), limits.matches_max);
        let shared = Arc::new(Shared {
            view,
            limits,
            inbox: Mutex::default(),
            arrived: Notify::new(),
            streams: Mutex::new(Streams { registry, outlets: BTreeMap::new(), next: 0 }),
            watches: AtomicUsize::new(0),
            behind: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            fatal: Mutex::new(None),
            failed: Notify::new(),
        });
        (Hub { shared: Arc::clone(&shared) }, Handle { shared })
    }

    /// Starts a hub with default limits as a task of the present tokio runtime.
    pub fn start(view: View) -> Handle {
        let (hub, handle) = Hub::new(view, Limits::default());
        tokio::spawn(hub.run());
        handle
    }

    /// Hands out commits until [`Handle::stop`].
    pub async fn run(self) {
        let mut arrivals = VecDeque::new();
        while !self.shared.stopped.load(Ordering::Acquire) {
            let wake_all = self.shared.inbox.lock().take(&mut arrivals);
            if wake_all {
                self.shared.wake_all();
            }
            if arrivals.is_empty() {
                self.shared.arrived.notified().await;
                continue;
            }
            while !arrivals.is_empty() {
                let turn = arrivals.len().min(REVISIONS_PER_TURN_MAX);
                self.hand_out(arrivals.drain(..turn));
                tokio::task::yield_now().await;
            }
        }
    }

    fn hand_out(&self, arrivals: impl Iterator<Item = Arrival>) {
        let mut sleepers = Vec::new();
        for arrival in arrivals {
            let mut streams = self.shared.streams.lock();
            let Streams { registry, outlets, .. } = &mut *streams;
            let mut sink = |stream: StreamId, output: Output<'_>| match outlets.get(&stream) {
                Some(outlet) => outlet.push(output, &mut sleepers),
                None => false,
            };
            match arrival {
                Arrival::Commit(commit) => {
                    registry.publish(commit.revision, &commit.events, &mut sink);
                }
                Arrival::Skip(head) => registry.skip_to(head, &mut sink),
            }
        }
        sleepers.into_iter().for_each(Waker::wake);
    }
}

impl Handle {
    /// Takes the commits of one round, in revision order, after they have become visible to
    /// readers. Never blocks for longer than it takes to move them.
    pub fn publish(&self, commits: Vec<Commit>) {
        let Some(last) = commits.last().map(|commit| commit.revision) else { return };
        let bytes = commits.iter().map(size).sum::<usize>();
        let mut inbox = self.shared.inbox.lock();
        if inbox.bytes + bytes > self.shared.limits.inbox_bytes_max {
            inbox.skip(last);
        } else {
            inbox.bytes += bytes;
            inbox.arrivals.extend(commits.into_iter().map(Arrival::Commit));
        }
        drop(inbox);
        self.shared.arrived.notify_one();
    }

    /// The store was replaced by a snapshot. All watches read on from their own number; none
    /// sees anything again.
    pub fn restored(&self) {
        let mut inbox = self.shared.inbox.lock();
        inbox.skip(self.shared.view.revision());
        inbox.wake_all = true;
        drop(inbox);
        self.shared.arrived.notify_one();
    }

    /// Ends the hub's task and all streams.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.arrived.notify_one();
        self.shared.wake_all();
    }

    /// Waits until a stream has met a failure that must stop the node.
    pub async fn failed(&self) -> Fatal {
        loop {
            let failed = self.shared.failed.notified();
            if let Some(fatal) = self.shared.fatal.lock().take() {
                return fatal;
            }
            failed.await;
        }
    }

    pub fn counts(&self) -> Counts {
        let outlets = self.shared.outlets();
        Counts {
            streams: outlets.len(),
            watches: self.shared.watches.load(Ordering::Relaxed),
            behind: self.shared.behind.load(Ordering::Relaxed),
            inbox_bytes: self.shared.inbox.lock().bytes,
            queued_bytes: outlets.iter().map(|outlet| outlet.state.lock().queue.bytes()).sum(),
            queued_events: outlets.iter().map(|outlet| outlet.state.lock().queue.events()).sum(),
        }
    }

    /// A seat for one more stream, and its session.
    pub(super) fn open(&self, fragment_bytes: usize) -> (Seat, Session) {
        let shared = Arc::clone(&self.shared);
        let queue = Queue::new(shared.limits.queue_bytes_max);
        let outlet = Arc::new(Outlet { state: Mutex::new(OutletState { queue, sleeper: None }) });
        let mut streams = shared.streams.lock();
        let stream = streams.next;
        streams.next += 1;
        streams.outlets.insert(stream, Arc::clone(&outlet));
        drop(streams);
        let session = Session::new(stream, shared.view.clone(), shared.limits, fragment_bytes);
        (Seat { shared, stream, outlet, counted: (0, 0) }, session)
    }
}

/// A stream's place at the hub; leaving it forgets the stream.
pub(super) struct Seat {
    shared: Arc<Shared>,
    stream: StreamId,
    outlet: Arc<Outlet>,
    /// The session's watches, and those behind, as they stand in the gauges.
    counted: (usize, usize),
}

/// What a stream found at its seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Items,
    /// Its task is woken when that changes.
    Nothing,
    /// There will be nothing more.
    Stopped,
}

impl Seat {
    /// Gives the session what was queued for it, or else has the task woken when something is.
    pub(super) fn take(&self, session: &mut Session, cx: &Context<'_>) -> Taken {
        let mut state = self.outlet.state.lock();
        // Under the lock: who stops the hub comes by here afterwards, for those that sleep by then.
        if self.stopped() {
            return Taken::Stopped;
        }
        if session.take_from(&mut state.queue) {
            return Taken::Items;
        }
        match &mut state.sleeper {
            Some(sleeper) => sleeper.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Taken::Nothing
    }

    pub(super) fn sync(&self, session: &mut Session) -> bool {
        let mut streams = self.shared.streams.lock();
        let mut state = self.outlet.state.lock();
        session.sync(&mut streams.registry, &mut state.queue)
    }

    pub(super) fn stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::Acquire)
    }

    /// Lets the session read a step of history, unless the store is being replaced. Returns
    /// whether it did. What was read while the store was replaced is dropped, even an error.
    pub(super) fn read(&self, session: &mut Session) -> Result<bool, Fatal> {
        let before = self.shared.view.replacements();
        if !before.is_multiple_of(2) {
            return Ok(false);
        }
        let read = session.read();
        if self.shared.view.replacements() != before {
            return Ok(true);
        }
        let Some(read) = read? else { return Ok(false) };
        session.absorb(read)?;
        Ok(true)
    }

    pub(super) fn fail(&self, fatal: Fatal) {
        self.shared.fatal.lock().get_or_insert(fatal);
        self.shared.failed.notify_one();
    }

    /// Brings the gauges up to date.
    pub(super) fn count(&mut self, counts: (usize, usize)) {
        if counts != self.counted {
            let Shared { watches, behind, .. } = &*self.shared;
            watches.fetch_add(counts.0.wrapping_sub(self.counted.0), Ordering::Relaxed);
            behind.fetch_add(counts.1.wrapping_sub(self.counted.1), Ordering::Relaxed);
            self.counted = counts;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.count((0, 0));
        self.shared.streams.lock().outlets.remove(&self.stream);
        let remove =
            || self.shared.streams.lock().registry.remove_stream(self.stream, REMOVED_AT_ONCE_MAX);
        while remove() {}
    }
}

impl Shared {
    fn outlets(&self) -> Vec<Arc<Outlet>> {
        self.streams.lock().outlets.values().cloned().collect()
    }

    fn wake_all(&self) {
        for outlet in self.outlets() {
            let sleeper = outlet.state.lock().sleeper.take();
            sleeper.into_iter().for_each(Waker::wake);
        }
    }
}

impl Outlet {
    /// Queues the output; a stream that sleeps is added to those to be woken.
    fn push(&self, output: Output<'_>, sleepers: &mut Vec<Waker>) -> bool {
        let mut state = self.state.lock();
        sleepers.extend(state.sleeper.take());
        state.queue.push(output)
    }
}

impl Inbox {
    /// Hands over all arrivals in exchange for an empty buffer. Returns whether to wake all streams.
    fn take(&mut self, empty: &mut VecDeque<Arrival>) -> bool {
        std::mem::swap(&mut self.arrivals, empty);
        self.bytes = 0;
        std::mem::take(&mut self.wake_all)
    }

    fn skip(&mut self, to: i64) {
        match self.arrivals.back_mut() {
            Some(Arrival::Skip(head)) => *head = to.max(*head),
            _ => self.arrivals.push_back(Arrival::Skip(to)),
        }
    }
}

fn size(commit: &Commit) -> usize {
    let pairs = commit.events.iter().filter_map(|event| event.kv.as_ref());
    pairs.map(|kv| kv.key.len() + kv.value.len() + EVENT_BYTES).sum()
}
