//! What one watch stream knows and decides. Pure: its shell, `stream`, brings it the client's
//! requests, what the hub queued, and the time; it yields messages.
//!
//! Each watch is in one of two places. *Registered*: the registry feeds it, or holds it
//! until its start revision comes. *Behind*: the session reads history for it. All
//! watches behind share each step of reading, which starts at the lowest number among
//! them, so a thousand watches created at once cost one pass over history. A step's events
//! are turned into messages watch by watch, as the client takes them.
//!
//! Promises, per watch: `created` comes first; then every event from the start revision on that
//! passes the filters, once, in revision order, a revision whole in one message (unless the
//! client asked for fragments); after progress at R no event of R or before; after
//! `canceled` nothing. When history from before a compaction is needed, the watch ends with
//! the compaction's revision instead.

use super::Limits;
use super::index::KeyIndex;
use super::message::{Body, CommitEvents, Fields, NO_WATCH, SharedEvent, WatchMessage};
use super::queue::{Item, Mark, Queue, Which};
use super::registry::{Filter, Output, Registry, StreamId, WatchKey};
use crate::error::Fatal;
use crate::mvcc::{Compacted, History, View};
use crate::pb::etcdserverpb::watch_create_request::FilterType;
use crate::pb::etcdserverpb::watch_request::RequestUnion;
use crate::pb::etcdserverpb::{WatchCreateRequest, WatchRequest};
use crate::planted::{self, Bug};
use crate::types::KeyRange;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;

const REASON_COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const REASON_EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const REASON_DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";

/// Room for this many messages is kept; what a wave of them took is given back.
const MESSAGES_KEPT_MAX: usize = 16;

/// Watches registered under one hold of the registry's lock.
const JOINED_AT_ONCE_MAX: usize = 1024;

/// Pairs of watch and event that a step of history looks at to learn which watches it concerns.
/// Beyond that it takes all of them to be concerned, and each looks through the events in its turn.
const TOUCHES_MAX: usize = 1 << 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Registered,
    Behind,
}

#[derive(Debug)]
struct Watch {
    id: i64,
    range: KeyRange,
    filter: Filter,
    prev_kv: bool,
    fragment: bool,
    notify: bool,
    place: Place,
    /// Whether it stands in the index of watches behind.
    indexed: bool,
    /// While behind: nothing below this is to be sent. It may be lower than the watch's group
    /// says, but then history holds nothing for the watch in between.
    next: i64,
    /// Progress below this revision is not for this watch: its start has not been reached.
    progress_from: i64,
    /// No events were sent since the last progress notification was due.
    quiet: bool,
}

/// What was read from history, before anything is concluded from it.
#[derive(Debug)]
pub struct Read {
    from: i64,
    found: Result<History, Compacted>,
    /// The store's revision after reading.
    revision: i64,
}

/// History that waits to be turned into messages.
#[derive(Debug)]
struct Batch {
    commits: Vec<CommitEvents>,
    next: i64,
    revision: i64,
    /// Watches still to be served, the next one last.
    todo: Vec<u64>,
}

pub struct Session {
    stream: StreamId,
    view: View,
    limits: Limits,
    /// Messages of watches with `fragment` are split at this size.
    fragment_bytes: usize,
    /// By a number that is never used twice, unlike ids.
    watches: BTreeMap<u64, Watch>,
    ids: BTreeMap<i64, u64>,
    next_id: i64,
    next_watch: u64,
    notified: usize,
    /// Watches behind, by the revision that each must read next. May hold
    /// numbers of watches that are gone.
    behind: BTreeMap<i64, Vec<u64>>,
    behind_count: usize,
    /// Keys of watches behind, for those that reading has begun for.
    index: KeyIndex<u64, ()>,
    not_indexed: Vec<u64>,
    batch: Option<Batch>,
    /// Registered watches that the client has canceled.
    leaving: Vec<u64>,
    ask: Option<Mark>,
    items: VecDeque<Item>,
    out: VecDeque<WatchMessage>,
}

impl Session {
    pub fn new(stream: StreamId, view: View, limits: Limits, fragment_bytes: usize) -> Self {
        Self {
            stream,
            view,
            limits,
            fragment_bytes,
            watches: BTreeMap::new(),
            ids: BTreeMap::new(),
            next_id: 0,
            next_watch: 0,
            notified: 0,
            behind: BTreeMap::new(),
            behind_count: 0,
            index: KeyIndex::new(),
            not_indexed: Vec::new(),
            batch: None,
            leaving: Vec::new(),
            ask: None,
            items: VecDeque::new(),
            out: VecDeque::new(),
        }
    }

    /// Watches of this stream, and how many of them are behind.
    pub fn counts(&self) -> (usize, usize) {
        (self.watches.len(), self.behind_count)
    }

    /// Whether any watch wants progress notifications by time.
    pub fn wants_ticks(&self) -> bool {
        self.notified > 0
    }

    /// Takes a request of the client. One without content is ignored.
    pub fn request(&mut self, request: WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(&create),
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => {
                if !self.watches.is_empty() && self.behind_count == 0 {
                    self.ask(1, false);
                }
            }
            None => {}
        }
    }

    /// The interval between progress notifications has passed.
    pub fn tick(&mut self) {
        if self.wants_ticks() {
            self.ask(0, true);
        }
    }

    fn ask(&mut self, requested: u32, periodic: bool) {
        let ask = self.ask.get_or_insert_default();
        ask.revision = self.view.revision();
        ask.requested += requested;
        ask.periodic |= periodic;
    }

    fn create(&mut self, request: &WatchCreateRequest) {
        let revision = self.view.revision();
        // Own copies: the request's fields share the buffer that the whole message came in,
        // and a watch may live for months.
        let key: &[u8] = if request.key.is_empty() { &[0] } else { &request.key };
        let range =
            KeyRange::new(Bytes::copy_from_slice(key), Bytes::copy_from_slice(&request.range_end));
        let refusal = if request.start_revision < 0 {
            Some(REASON_COMPACTED)
        } else if range.is_empty() {
            Some(REASON_EMPTY_RANGE)
        } else if request.watch_id != 0 && self.ids.contains_key(&request.watch_id) {
            Some(REASON_DUPLICATE_ID)
        } else {
            None
        };
        if let Some(reason) = refusal {
            let body = Body::Refused { reason: reason.into() };
            return self.out.push_back(WatchMessage { watch_id: NO_WATCH, revision, body });
        }
        let id = if request.watch_id != 0 { request.watch_id } else { self.unused_id() };
        self.out.push_back(WatchMessage { watch_id: id, revision, body: Body::Created });

        let from_now = request.start_revision == 0;
        let next = if from_now { revision + 1 } else { request.start_revision };
        let dropped = |kind: FilterType| request.filters.contains(&i32::from(kind));
        let number = self.next_watch;
        self.next_watch += 1;
        self.ids.insert(id, number);
        self.notified += usize::from(request.progress_notify);
        let watch = Watch {
            id,
            range,
            filter: Filter {
                puts: !dropped(FilterType::Noput),
                deletes: !dropped(FilterType::Nodelete),
            },
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            notify: request.progress_notify,
            place: Place::Registered,
            indexed: false,
            next,
            progress_from: if from_now { revision } else { next },
            quiet: true,
        };
        self.watches.insert(number, watch);
        self.fall_behind(number, next);
    }

    fn unused_id(&mut self) -> i64 {
        while self.ids.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    fn cancel(&mut self, id: i64) {
        let Some(&number) = self.ids.get(&id) else { return };
        if self.forget(number) == Some(Place::Registered) {
            self.leaving.push(number);
        }
        let body = Body::Canceled { compact_revision: 0 };
        let revision = self.view.revision();
        self.out.push_back(WatchMessage { watch_id: id, revision, body });
    }

    /// Removes the watch from everything but the registry and its group.
    fn forget(&mut self, number: u64) -> Option<Place> {
        let watch = self.watches.remove(&number)?;
        self.ids.remove(&watch.id);
        self.notified -= usize::from(watch.notify);
        if watch.indexed {
            self.index.remove(&watch.range, number);
        }
        if watch.place == Place::Behind {
            self.behind_count -= 1;
        }
        Some(watch.place)
    }

    fn fall_behind(&mut self, number: u64, next: i64) {
        let Some(watch) = self.watches.get_mut(&number) else { return };
        watch.place = Place::Behind;
        watch.next = next;
        self.behind_count += 1;
        self.behind.entry(next).or_default().push(number);
        self.not_indexed.push(number);
    }

    /// Takes over what the hub has queued, in exchange for the session's own empty buffer. Does nothing
    /// while earlier items wait.
    pub fn take_from(&mut self, queue: &mut Queue) -> bool {
        if !self.items.is_empty() || queue.is_empty() {
            return false;
        }
        queue.take(&mut self.items);
        true
    }

    /// Settles matters with the registry: leaves, registers what has caught up with the
    /// head, asks for marks. Both parts belong together: `queue` is this stream's,
    /// and nothing may be handed out in between. Returns whether anything was done.
    pub fn sync(&mut self, registry: &mut Registry, queue: &mut Queue) -> bool {
        let stream = self.stream;
        let mut done = !self.leaving.is_empty();
        for watch in self.leaving.drain(..) {
            registry.remove(WatchKey { stream, watch });
        }
        // History already read must go out before what the hub queues from now on.
        if self.batch.is_none() {
            done |= self.join(registry);
        }
        if let Some(mark) = self.ask.take() {
            done = true;
            if let Some(mark) = registry.ask(stream, mark) {
                queue.push(Output::Mark(mark));
            }
        }
        done
    }

    /// Whether [`Session::sync`] could do anything.
    pub fn wants_sync(&self) -> bool {
        !self.leaving.is_empty()
            || self.ask.is_some()
            || (self.batch.is_none() && !self.behind.is_empty())
    }

    fn join(&mut self, registry: &mut Registry) -> bool {
        let mut room = JOINED_AT_ONCE_MAX;
        while room > 0
            && let Some(mut group) = self.behind.last_entry()
            && *group.key() > registry.head()
        {
            let next = *group.key();
            let keep = group.get().len().saturating_sub(room);
            let joining = group.get_mut().split_off(keep);
            if keep == 0 {
                group.remove();
            }
            room -= joining.len().min(room);
            for number in joining {
                let Some(watch) = self.watches.get_mut(&number) else { continue };
                let watcher = WatchKey { stream: self.stream, watch: number };
                let taken = registry.register(watcher, &watch.range, watch.filter, next);
                debug_assert!(taken.is_ok(), "the group's number is above the head");
                if std::mem::take(&mut watch.indexed) {
                    self.index.remove(&watch.range, number);
                }
                watch.place = Place::Registered;
                self.behind_count -= 1;
            }
        }
        room < JOINED_AT_ONCE_MAX
    }

    /// Reads one step of history, when some watch needs a revision that the store has. The result
    /// means nothing if the store was being replaced meanwhile; else it is for [`Session::absorb`].
    pub fn read(&mut self) -> Result<Option<Read>, Fatal> {
        let Some((&from, _)) = self.behind.first_key_value() else {
            self.not_indexed.clear();
            return Ok(None);
        };
        if self.batch.is_some() || from > self.view.revision() {
            return Ok(None);
        }
        for number in self.not_indexed.drain(..) {
            if let Some(watch) = self.watches.get_mut(&number)
                && watch.place == Place::Behind
                && !watch.indexed
            {
                watch.indexed = true;
                self.index.insert(&watch.range, number, ());
            }
        }
        let (events_max, bytes_max) =
            (self.limits.history_events_max, self.limits.history_bytes_max);
        let wanted = |key: &[u8]| self.index.any(key);
        let found = self.view.history(from, &wanted, events_max, bytes_max)?;
        Ok(Some(Read { from, found, revision: self.view.revision() }))
    }

    /// Draws the conclusions: moves the watches behind on, prepares their messages, ends those
    /// that need what was compacted.
    pub fn absorb(&mut self, read: Read) -> Result<(), Fatal> {
        match read.found {
            Err(Compacted(compacted)) => {
                moves_on(read.from, compacted)?;
                self.end_below(compacted);
            }
            Ok(history) => {
                let lost = i64::from(planted::has(Bug::WatchEventLostAtCatchUp));
                let next = history.next + lost;
                moves_on(read.from, next)?;
                self.prepare(history, read.revision);
                let later = self.behind.split_off(&next);
                let earlier = std::mem::replace(&mut self.behind, later);
                let group = self.behind.entry(next).or_default();
                earlier.into_values().for_each(|numbers| group.extend(numbers));
            }
        }
        Ok(())
    }

    fn end_below(&mut self, compacted: i64) {
        let kept = self.behind.split_off(&compacted);
        for number in std::mem::replace(&mut self.behind, kept).into_values().flatten() {
            let Some(watch_id) = self.watches.get(&number).map(|watch| watch.id) else { continue };
            self.forget(number);
            let body = Body::Canceled { compact_revision: compacted };
            // etcd leaves the header's revision out here, and clients tell the two kinds
            // of cancellation apart by the compaction's.
            self.out.push_back(WatchMessage { watch_id, revision: 0, body });
        }
    }

    /// Encodes the events and finds out which watches they concern.
    fn prepare(&mut self, history: History, revision: i64) {
        let mut touched = BTreeSet::new();
        let mut touches = 0;
        let mut commits = Vec::with_capacity(history.commits.len());
        for commit in &history.commits {
            for event in &commit.events {
                let key = event.kv.as_ref().map_or(&[][..], |kv| &kv.key[..]);
                if touches < TOUCHES_MAX {
                    let _ = self.index.visit(key, &mut |number, ()| {
                        touched.insert(number);
                        touches += 1;
                        if touches < TOUCHES_MAX {
                            ControlFlow::Continue(())
                        } else {
                            ControlFlow::Break(())
                        }
                    });
                }
            }
            let events = commit.events.iter().map(|e| SharedEvent::new(commit.revision, e));
            commits.push(CommitEvents { revision: commit.revision, events: events.collect() });
        }
        let mut todo: Vec<u64> = if touches < TOUCHES_MAX {
            touched.into_iter().collect()
        } else {
            let groups = self.behind.range(..history.next);
            groups.flat_map(|(_, numbers)| numbers.iter().copied()).collect()
        };
        todo.sort_unstable_by(|a, b| b.cmp(a));
        if !todo.is_empty() {
            self.batch = Some(Batch { commits, next: history.next, revision, todo });
        }
    }

    /// Whether [`Session::pop`] has something to work on.
    pub fn is_ready(&self) -> bool {
        !self.out.is_empty() || self.batch.is_some() || !self.items.is_empty()
    }

    /// The next message, when there is one to be had without reading history or asking the hub.
    pub fn pop(&mut self) -> Result<Option<WatchMessage>, Fatal> {
        loop {
            if let Some(message) = self.out.pop_front() {
                return Ok(Some(message));
            }
            if let Some(batch) = &mut self.batch {
                match batch.todo.pop() {
                    Some(number) => self.serve(number)?,
                    None => self.batch = None,
                }
            } else if let Some(item) = self.items.pop_front() {
                self.take(item)?;
            } else {
                self.out.shrink_to(MESSAGES_KEPT_MAX);
                return Ok(None);
            }
        }
    }

    /// Sends one watch its part of the batch.
    fn serve(&mut self, number: u64) -> Result<(), Fatal> {
        let (Some(batch), Some(watch)) = (&self.batch, self.watches.get_mut(&number)) else {
            return Ok(());
        };
        let from = watch.next;
        let events = batch
            .commits
            .iter()
            .filter(|commit| commit.revision >= from)
            .flat_map(|commit| &commit.events)
            .filter(|event| watch.filter.wants(event.is_put) && watch.range.contains(&event.key));
        let sent =
            send(&self.view, self.fragment_bytes, &mut self.out, watch, batch.revision, events)?;
        watch.next = from.max(batch.next);
        watch.quiet &= !sent;
        Ok(())
    }

    fn take(&mut self, item: Item) -> Result<(), Fatal> {
        match item {
            Item::Events { watch, events, which } => {
                let Some(watch) = self.watches.get_mut(&watch) else { return Ok(()) };
                let (view, limit, out) = (&self.view, self.fragment_bytes, &mut self.out);
                let revision = events.revision;
                let sent = match which {
                    Which::All => send(view, limit, out, watch, revision, &events.events)?,
                    Which::Some(positions) => {
                        let chosen =
                            positions.iter().filter_map(|n| events.events.get(*n as usize));
                        send(view, limit, out, watch, revision, chosen)?
                    }
                };
                watch.quiet &= !sent;
                Ok(())
            }
            Item::Behind { watch, next } => {
                self.fall_behind(watch, next);
                Ok(())
            }
            Item::Mark(mark) => {
                self.mark(mark);
                Ok(())
            }
        }
    }

    /// Everything up to the mark has been turned into messages, for watches that are registered.
    fn mark(&mut self, mark: Mark) {
        let revision = mark.revision;
        let reached =
            |watch: &Watch| watch.place == Place::Registered && watch.progress_from <= revision;
        if mark.requested > 0 && !self.watches.is_empty() && self.watches.values().all(reached) {
            let message = WatchMessage { watch_id: NO_WATCH, revision, body: Body::Progress };
            self.out.extend(std::iter::repeat_n(message, mark.requested as usize));
        }
        if mark.periodic {
            for watch in self.watches.values_mut().filter(|watch| watch.notify) {
                if std::mem::replace(&mut watch.quiet, true) && reached(watch) {
                    let body = Body::Progress;
                    self.out.push_back(WatchMessage { watch_id: watch.id, revision, body });
                }
            }
        }
    }
}

/// Refuses an answer of history after which the same question would be asked for ever.
fn moves_on(from: i64, next: i64) -> Result<(), Fatal> {
    if next > from {
        return Ok(());
    }
    Err(Fatal::new(format!("read history from revision {from}: it does not move on")))
}

/// Queues a message with these events, or several where the watch allows it; none without events.
/// Returns whether there were any.
fn send<'a>(
    view: &View,
    fragment_bytes: usize,
    out: &mut VecDeque<WatchMessage>,
    watch: &Watch,
    revision: i64,
    events: impl IntoIterator<Item = &'a SharedEvent>,
) -> Result<bool, Fatal> {
    let field = |event: &SharedEvent| -> Result<Bytes, Fatal> {
        if watch.prev_kv {
            event.field_with_previous(|key, revision| view.get_at(key, revision)).cloned()
        } else {
            Ok(event.field().clone())
        }
    };
    let mut events = events.into_iter();
    let Some(first) = events.next() else { return Ok(false) };
    let first = field(first)?;
    let fields = match events.next() {
        None => Fields::One(first),
        Some(second) => {
            let mut fields = vec![first, field(second)?];
            for event in events {
                fields.push(field(event)?);
            }
            Fields::Many(fields)
        }
    };
    let body = Body::Events { fields, more: false };
    let message = WatchMessage { watch_id: watch.id, revision, body };
    if watch.fragment && message.len_bytes() >= fragment_bytes {
        message.split(fragment_bytes, |part| out.push_back(part));
    } else {
        out.push_back(message);
    }
    Ok(true)
}
