//! What one watch stream knows and decides. Pure: its shell, `stream`, brings it the client's
//! requests, what the hub queued, and the time; it yields messages.
//!
//! Each watch is in one of two places. *Registered*: the registry feeds it, or holds it
//! until its start revision comes. *Behind*: it reads history, see `catch_up`.
//!
//! Promises, per watch: `created` comes first; then every event from the start revision on that
//! passes the filters, once, in revision order, a revision whole in one message (unless the
//! client asked for fragments); after progress at R no event of R or before; after
//! `canceled` nothing. When history from before a compaction is needed, the watch ends with
//! the compaction's revision instead.

use super::Limits;
use super::catch_up::{CatchUp, Overtaken, Read};
use super::message::{Body, Fields, NO_WATCH, SharedEvent, WatchMessage};
use super::queue::{Item, Mark, Queue, Which};
use super::registry::{Filter, Output, Registry, StreamId, WatchKey};
use crate::error::Fatal;
use crate::mvcc::View;
use crate::pb::etcdserverpb::watch_create_request::FilterType;
use crate::pb::etcdserverpb::watch_request::RequestUnion;
use crate::pb::etcdserverpb::{WatchCreateRequest, WatchRequest};
use crate::types::KeyRange;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

const REASON_COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const REASON_EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const REASON_DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";

/// Room for this many messages is kept; what a wave of them took is given back.
const MESSAGES_KEPT_MAX: usize = 16;

/// Watches registered under one hold of the registry's lock.
const JOINED_AT_ONCE_MAX: usize = 1024;

#[derive(Debug)]
struct Watch {
    id: i64,
    range: KeyRange,
    filter: Filter,
    prev_kv: bool,
    fragment: bool,
    notify: bool,
    /// Progress below this revision is not for this watch: its start has not been reached.
    progress_from: i64,
    /// No events were sent since the last progress notification was due.
    quiet: bool,
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
    behind: CatchUp,
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
            behind: CatchUp::default(),
            leaving: Vec::new(),
            ask: None,
            items: VecDeque::new(),
            out: VecDeque::new(),
        }
    }

    /// Watches of this stream, and how many of them are behind.
    pub fn counts(&self) -> (usize, usize) {
        (self.watches.len(), self.behind.len())
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
            Some(RequestUnion::ProgressRequest(_))
                if !self.watches.is_empty() && self.behind.is_empty() =>
            {
                self.ask(1, false);
            }
            // Progress that cannot be told now is never told.
            Some(RequestUnion::ProgressRequest(_)) | None => {}
        }
    }

    /// Answers a request for a watch that the client may not have.
    pub fn refuse(&mut self, reason: String) {
        let body = Body::Refused { reason: reason.into() };
        let revision = self.view.revision();
        self.out.push_back(WatchMessage { watch_id: NO_WATCH, revision, body });
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
            progress_from: if from_now { revision } else { next },
            quiet: true,
        };
        self.behind.add(number, &watch.range, next);
        self.watches.insert(number, watch);
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
        self.forget(number);
        if !self.behind.remove(number) {
            self.leaving.push(number);
        }
        let body = Body::Canceled { compact_revision: 0 };
        let revision = self.view.revision();
        self.out.push_back(WatchMessage { watch_id: id, revision, body });
    }

    fn forget(&mut self, number: u64) {
        if let Some(watch) = self.watches.remove(&number) {
            self.ids.remove(&watch.id);
            self.notified -= usize::from(watch.notify);
        }
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
        done |= self.join(registry);
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
            || !(self.behind.is_empty() || self.behind.is_sending())
    }

    fn join(&mut self, registry: &mut Registry) -> bool {
        let mut room = JOINED_AT_ONCE_MAX;
        while room > 0
            && let Some((next, joining)) = self.behind.leave(registry.head(), room)
        {
            // At least one, so that an endless row of groups of nobody ends too.
            room -= joining.len().clamp(1, room);
            for number in joining {
                let Some(watch) = self.watches.get(&number) else { continue };
                let watcher = WatchKey { stream: self.stream, watch: number };
                let taken = registry.register(watcher, &watch.range, watch.filter, next);
                debug_assert!(taken.is_ok(), "the group's number is above the head");
            }
        }
        room < JOINED_AT_ONCE_MAX
    }

    /// Reads one step of history for the watches behind. The result means nothing if the store
    /// was being replaced meanwhile; else it is for [`Session::absorb`].
    pub fn read(&mut self) -> Result<Option<Read>, Fatal> {
        self.behind.read(&self.view, &self.limits)
    }

    /// Takes what was read; ends the watches that came too late for it.
    pub fn absorb(&mut self, read: Read) -> Result<(), Fatal> {
        let Some(Overtaken { compacted, watches }) = self.behind.absorb(read)? else {
            return Ok(());
        };
        for number in watches {
            let Some(watch_id) = self.watches.get(&number).map(|watch| watch.id) else { continue };
            self.forget(number);
            let body = Body::Canceled { compact_revision: compacted };
            // etcd leaves the header's revision out here, and clients tell the two kinds
            // of cancellation apart by the compaction's.
            self.out.push_back(WatchMessage { watch_id, revision: 0, body });
        }
        Ok(())
    }

    /// Whether [`Session::pop`] has something to work on.
    pub fn is_ready(&self) -> bool {
        !self.out.is_empty() || self.behind.is_sending() || !self.items.is_empty()
    }

    /// The next message, when there is one to be had without reading history or asking the hub.
    pub fn pop(&mut self) -> Result<Option<WatchMessage>, Fatal> {
        loop {
            if let Some(message) = self.out.pop_front() {
                return Ok(Some(message));
            }
            if self.serve()? {
                continue;
            }
            if let Some(item) = self.items.pop_front() {
                self.take(item)?;
            } else {
                self.out.shrink_to(MESSAGES_KEPT_MAX);
                return Ok(None);
            }
        }
    }

    /// Sends one watch its part of the history that was read. Returns false when there is none.
    fn serve(&mut self) -> Result<bool, Fatal> {
        let Self { behind, watches, view, fragment_bytes, out, .. } = self;
        let sent = behind.serve(|number, revision, events| {
            let Some(watch) = watches.get_mut(&number) else { return Ok(()) };
            let filter = watch.filter;
            let events = events.filter(|event| filter.wants(event.is_put));
            let sent = send(view, *fragment_bytes, out, watch, revision, events)?;
            watch.quiet &= !sent;
            Ok(())
        });
        sent.transpose().map(|sent| sent.is_some())
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
            Item::Behind { watch: number, next } => {
                if let Some(watch) = self.watches.get(&number) {
                    self.behind.add(number, &watch.range, next);
                }
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
        let reached = |watch: &Watch| watch.progress_from <= revision;
        if mark.requested > 0
            && !self.watches.is_empty()
            && self.behind.is_empty()
            && self.watches.values().all(reached)
        {
            let message = WatchMessage { watch_id: NO_WATCH, revision, body: Body::Progress };
            self.out.extend(std::iter::repeat_n(message, mark.requested as usize));
        }
        if mark.periodic {
            for (number, watch) in self.watches.iter_mut().filter(|(_, watch)| watch.notify) {
                let quiet = std::mem::replace(&mut watch.quiet, true);
                if quiet && reached(watch) && !self.behind.contains(*number) {
                    let body = Body::Progress;
                    self.out.push_back(WatchMessage { watch_id: watch.id, revision, body });
                }
            }
        }
    }
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
