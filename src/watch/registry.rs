//! Which watches want which events, and how far everybody is. Pure.
//!
//! There is one number, the head: the last revision that was handed out. A watch is
//! *fed* from here only while the next revision it needs is head + 1; one that needs a
//! later revision waits here until the head is just before it; one that needs an earlier
//! revision is turned away and reads history until it can come back. So no watch is ever
//! remembered with a backlog, and the cost of a revision does not depend on how many
//! watches are behind.
//!
//! Promises: a fed watch gets every event it wants of every revision, in order, a
//! revision's events all together or not at all; when they are refused (its queue is full)
//! it is told from which revision on it must read history, and is forgotten here. A mark
//! at revision R comes after everything up to R.
//!
//! It leaves out history, watch ids, and what is written to clients: see `session`.

use super::index::KeyIndex;
use super::message::{CommitEvents, SharedEvent};
use super::queue::{Item, Mark, Which};
use crate::pb::mvccpb::Event;
use crate::pb::mvccpb::event::EventType;
use crate::types::KeyRange;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Room for this many matches is kept between revisions; what a larger revision took is given back.
const MATCHES_KEPT_MAX: usize = 4096;

/// Names a stream for the life of the process.
pub type StreamId = u64;

/// Names a watch: its stream, and a number that the stream never uses twice (watch ids come again).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatchKey {
    pub stream: StreamId,
    pub watch: u64,
}

/// Which kinds of events a watch wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    pub puts: bool,
    pub deletes: bool,
}

impl Filter {
    pub fn wants(self, is_put: bool) -> bool {
        if is_put { self.puts } else { self.deletes }
    }
}

/// What the registry hands to one stream.
#[derive(Debug)]
pub enum Output<'a> {
    /// Events of one revision. May be refused.
    Events(Group<'a>),
    /// The watch is no longer fed and must read history from `next`.
    Behind {
        watch: u64,
        next: i64,
    },
    Mark(Mark),
}

/// Receives outputs; returns whether it took them. Only events may be refused, and who refuses
/// them tells the stream that their watches are behind from the group's revision.
pub type Sink<'a> = dyn FnMut(StreamId, Output<'_>) -> bool + 'a;

/// That a watch wants an event, by its position among the revision's wanted events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Match {
    watcher: WatchKey,
    event: u32,
}

/// The events of one revision for the watches of one stream.
#[derive(Debug)]
pub struct Group<'a> {
    /// In the order of watch, then event; never empty.
    matches: &'a [Match],
    events: &'a Arc<CommitEvents>,
}

impl<'a> Group<'a> {
    pub fn revision(&self) -> i64 {
        self.events.revision
    }

    /// Bytes of the events, each counted once however many watches want it.
    pub fn bytes(&self) -> usize {
        let size = |event: &SharedEvent| event.field().len();
        match self.matches {
            [only] => size(&self.events.events[only.event as usize]),
            many if many.len() >= self.events.events.len() => {
                self.events.events.iter().map(size).sum()
            }
            few => few.iter().map(|m| size(&self.events.events[m.event as usize])).sum(),
        }
    }

    /// The watches, each once.
    pub fn watches(&self) -> impl Iterator<Item = u64> + use<'a> {
        self.by_watch().map(|matches| matches[0].watcher.watch)
    }

    /// One item for each watch.
    pub fn items(&self) -> impl Iterator<Item = Item> + use<'a> {
        let events = self.events;
        self.by_watch().map(move |matches| Item::Events {
            watch: matches[0].watcher.watch,
            events: Arc::clone(events),
            which: if matches.len() == events.events.len() {
                Which::All
            } else {
                Which::Some(matches.iter().map(|m| m.event).collect())
            },
        })
    }

    fn by_watch(&self) -> impl Iterator<Item = &'a [Match]> + use<'a> {
        self.matches.chunk_by(|a, b| a.watcher == b.watcher)
    }
}

/// A watch that is fed, or waits until the head is just before `from`.
#[derive(Debug)]
struct Entry {
    range: KeyRange,
    filter: Filter,
    from: i64,
}

#[derive(Debug)]
pub struct Registry {
    head: i64,
    /// All watches that stand here.
    entries: BTreeMap<WatchKey, Entry>,
    /// Those of them that are fed: `from <= head + 1`.
    fed: KeyIndex<WatchKey, Filter>,
    /// The others, by `from`.
    waiting: BTreeMap<i64, BTreeSet<WatchKey>>,
    /// Marks to hand out when the head has reached their revision.
    asked: BTreeMap<StreamId, Mark>,
    /// A buffer kept between revisions.
    matches: Vec<Match>,
    matches_max: usize,
}

impl Registry {
    /// An empty registry whose watchers are up to date with `head`. When one revision has more
    /// than `matches_max` pairs of watch and event, all watches read it from history, each at
    /// its own pace, because handing it out at once would take that much memory.
    pub fn new(head: i64, matches_max: usize) -> Self {
        Self {
            head,
            entries: BTreeMap::new(),
            fed: KeyIndex::new(),
            waiting: BTreeMap::new(),
            asked: BTreeMap::new(),
            matches: Vec::new(),
            matches_max,
        }
    }

    /// The last revision that was handed out.
    pub fn head(&self) -> i64 {
        self.head
    }

    /// Watches that are fed, and watches that wait for a later revision.
    pub fn counts(&self) -> (usize, usize) {
        (self.fed.len(), self.entries.len() - self.fed.len())
    }

    /// Feeds the watch with all it wants from revision `next` on. When that lies at or below
    /// the head, the watch is not taken and the head is returned: history up to it is there to read.
    pub fn register(
        &mut self,
        watcher: WatchKey,
        range: &KeyRange,
        filter: Filter,
        next: i64,
    ) -> Result<(), i64> {
        if next <= self.head {
            return Err(self.head);
        }
        if next == self.head + 1 {
            self.fed.insert(range, watcher, filter);
        } else {
            self.waiting.entry(next).or_default().insert(watcher);
        }
        self.entries.insert(watcher, Entry { range: range.clone(), filter, from: next });
        Ok(())
    }

    /// Forgets the watch. Unknown ones (it may just have fallen behind) are no error.
    pub fn remove(&mut self, watcher: WatchKey) {
        let Some(entry) = self.entries.remove(&watcher) else { return };
        if entry.from <= self.head + 1 {
            self.fed.remove(&entry.range, watcher);
        } else if let Some(waiting) = self.waiting.get_mut(&entry.from) {
            waiting.remove(&watcher);
            if waiting.is_empty() {
                self.waiting.remove(&entry.from);
            }
        }
    }

    /// Forgets up to `at_once` watches of a stream that has ended. Returns false when none are left.
    pub fn remove_stream(&mut self, stream: StreamId, at_once: usize) -> bool {
        self.asked.remove(&stream);
        let all = WatchKey { stream, watch: 0 }..=WatchKey { stream, watch: u64::MAX };
        let watchers: Vec<WatchKey> =
            self.entries.range(all).map(|(key, _)| *key).take(at_once).collect();
        let more = watchers.len() == at_once;
        watchers.into_iter().for_each(|watcher| self.remove(watcher));
        more
    }

    /// Asks for a mark at `mark.revision` or later. Returned when the head is there already: then
    /// everything up to the returned revision has been handed out. Else it comes as an output.
    /// Asking again before that joins the two.
    pub fn ask(&mut self, stream: StreamId, mark: Mark) -> Option<Mark> {
        if mark.revision <= self.head {
            return Some(Mark { revision: self.head, ..mark });
        }
        let asked = self.asked.entry(stream).or_default();
        asked.revision = asked.revision.max(mark.revision);
        asked.requested += mark.requested;
        asked.periodic |= mark.periodic;
        None
    }

    /// Hands out a revision's events, in sub-revision order, and moves the head to it. Revisions at or below
    /// the head are ignored. A gap makes every fed watch read history.
    pub fn publish(&mut self, revision: i64, events: &[Event], sink: &mut Sink<'_>) {
        if revision <= self.head {
            return;
        }
        if revision > self.head + 1 {
            self.skip_to(revision - 1, sink);
        }
        let Some(events) = self.find(revision, events) else {
            self.matches = Vec::new();
            return self.skip_to(revision, sink);
        };
        let events = Arc::new(events);
        let matches = std::mem::take(&mut self.matches);
        for group in matches.chunk_by(|a, b| a.watcher.stream == b.watcher.stream) {
            let group = Group { matches: group, events: &events };
            let (stream, watches) = (group.matches[0].watcher.stream, group.watches());
            if !sink(stream, Output::Events(group)) {
                watches.for_each(|watch| self.remove(WatchKey { stream, watch }));
            }
        }
        self.matches = matches;
        self.matches.clear();
        self.matches.shrink_to(MATCHES_KEPT_MAX);
        self.advance(revision, sink);
    }

    /// Moves the head without handing anything out: commits were lost on the way, or the
    /// store was replaced by a snapshot. Watches that needed a skipped revision are told.
    pub fn skip_to(&mut self, head: i64, sink: &mut Sink<'_>) {
        if head <= self.head {
            return;
        }
        let fed_from = self.head + 1;
        self.entries.retain(|watcher, entry| {
            if entry.from > head {
                return true;
            }
            let next = entry.from.max(fed_from);
            sink(watcher.stream, Output::Behind { watch: watcher.watch, next });
            false
        });
        self.fed.clear();
        self.waiting = self.waiting.split_off(&(head + 1));
        self.advance(head, sink);
    }

    /// Fills `matches`, sorted, and encodes what somebody wants. None when there are too many.
    fn find(&mut self, revision: i64, events: &[Event]) -> Option<CommitEvents> {
        let (matches, matches_max) = (&mut self.matches, self.matches_max);
        matches.clear();
        let mut wanted = Vec::new();
        for event in events {
            let key = event.kv.as_ref().map_or(&[][..], |kv| &kv.key[..]);
            let is_put = event.r#type() == EventType::Put;
            let (before, position) = (matches.len(), wanted.len() as u32);
            let all = self.fed.visit(key, &mut |watcher, filter| {
                if filter.wants(is_put) {
                    matches.push(Match { watcher, event: position });
                }
                if matches.len() > matches_max {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            if all.is_break() {
                return None;
            }
            if matches.len() > before {
                wanted.push(SharedEvent::new(revision, event));
            }
        }
        matches.sort_unstable();
        Some(CommitEvents { revision, events: wanted })
    }

    /// Moves the head, feeds the watches that waited for what comes next, hands out due marks.
    fn advance(&mut self, head: i64, sink: &mut Sink<'_>) {
        self.head = head;
        for watcher in self.waiting.remove(&(head + 1)).unwrap_or_default() {
            if let Some(entry) = self.entries.get(&watcher) {
                self.fed.insert(&entry.range, watcher, entry.filter);
            }
        }
        self.asked.retain(|stream, mark| {
            let due = mark.revision <= head;
            if due {
                sink(*stream, Output::Mark(Mark { revision: head, ..*mark }));
            }
            !due
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::Queue;
    use super::*;
    use crate::pb::mvccpb::KeyValue;
    use bytes::Bytes;
    use std::collections::VecDeque;
    use std::error::Error;
    use std::fmt::Write as _;
    use test_each_file::test_each_path;

    test_each_path! { in "src/watch/testscripts/registry" as scripts => run }

    fn run(path: &std::path::Path) {
        goldenscript::run(&mut Runner::default(), path).expect("script failed");
    }

    /// A registry and one queue per stream. Watches are written `stream.watch`.
    #[derive(Default)]
    struct Runner {
        registry: Option<Registry>,
        queues: BTreeMap<StreamId, Queue>,
        queue_bytes: usize,
    }

    fn key(text: &str) -> Result<WatchKey, Box<dyn Error>> {
        let (stream, watch) = text.split_once('.').ok_or("watch must be stream.watch")?;
        Ok(WatchKey { stream: stream.parse()?, watch: watch.parse()? })
    }

    fn event(argument: &goldenscript::Argument) -> Result<Event, Box<dyn Error>> {
        let goldenscript::Argument::KeyValue(kind, key) = argument else {
            return Err("event must be put=KEY or del=KEY".into());
        };
        let r#type = match &kind[..] {
            "put" => EventType::Put,
            "del" => EventType::Delete,
            _ => return Err(format!("unknown event {kind}").into()),
        };
        let kv = KeyValue { key: Bytes::copy_from_slice(key.as_bytes()), ..KeyValue::default() };
        Ok(Event { r#type: r#type.into(), kv: Some(kv), prev_kv: None })
    }

    fn describe(item: &Item) -> String {
        match item {
            Item::Behind { watch, next } => format!("watch {watch} is behind from {next}"),
            Item::Mark(Mark { revision, requested, periodic }) => {
                format!("mark at {revision} requested={requested} periodic={periodic}")
            }
            Item::Events { watch, events, which } => {
                let mut text = format!("watch {watch} at {}:", events.revision);
                for (n, event) in events.events.iter().enumerate() {
                    let wanted = match which {
                        Which::All => true,
                        Which::Some(list) => list.contains(&(n as u32)),
                    };
                    if wanted {
                        let kind = if event.is_put { "put" } else { "del" };
                        write!(text, " {kind}:{}", String::from_utf8_lossy(&event.key))
                            .expect("writing to a string");
                    }
                }
                text
            }
        }
    }

    impl Runner {
        fn registry(&mut self) -> Result<&mut Registry, Box<dyn Error>> {
            self.registry.as_mut().ok_or_else(|| "start first".into())
        }

        /// Runs the registry with all queues as its sink, which come into being by need.
        fn with_sink(
            &mut self,
            f: impl FnOnce(&mut Registry, &mut Sink<'_>),
        ) -> Result<(), Box<dyn Error>> {
            let (queues, bytes) = (&mut self.queues, self.queue_bytes);
            let registry = self.registry.as_mut().ok_or("start first")?;
            f(registry, &mut |stream, output| {
                queues.entry(stream).or_insert_with(|| Queue::new(bytes)).push(output)
            });
            Ok(())
        }

        fn drain(&mut self, only: Option<StreamId>) -> String {
            let mut output = String::new();
            for (stream, queue) in &mut self.queues {
                if only.is_some_and(|only| only != *stream) {
                    continue;
                }
                let mut items = VecDeque::new();
                queue.take(&mut items);
                for item in items {
                    writeln!(output, "stream {stream}: {}", describe(&item))
                        .expect("writing to a string");
                }
            }
            output
        }
    }

    impl goldenscript::Runner for Runner {
        type Command = goldenscript::Command;

        fn run(
            &mut self,
            command: &goldenscript::Command,
            _: &goldenscript::Context,
        ) -> Result<String, Box<dyn Error>> {
            let mut args = command.consume_args();
            let mut output = String::new();
            match command.name.as_str() {
                // start HEAD [matches_max=N] [queue_bytes=N]
                "start" => {
                    let matches_max = args.take_key("matches_max").unwrap_or("1000").parse()?;
                    self.queue_bytes = args.take_key("queue_bytes").unwrap_or("100000").parse()?;
                    let head = args.next_pos().ok_or("no head")?.parse()?;
                    self.registry = Some(Registry::new(head, matches_max));
                }
                // register WATCH KEY [RANGE_END] from=REVISION [filter=noput|nodelete]
                "register" => {
                    let filter = args.take_key("filter");
                    let filter = Filter {
                        puts: filter != Some("noput"),
                        deletes: filter != Some("nodelete"),
                    };
                    let from = args.take_key("from").ok_or("no from")?.parse()?;
                    let watcher = key(args.next_pos().ok_or("no watch")?)?;
                    let mut bytes =
                        || Bytes::copy_from_slice(args.next_pos().unwrap_or_default().as_bytes());
                    let range = KeyRange::new(bytes(), bytes());
                    match self.registry()?.register(watcher, &range, filter, from) {
                        Ok(()) => writeln!(output, "taken")?,
                        Err(head) => writeln!(output, "turned away, head is {head}")?,
                    }
                }
                "remove" => {
                    let watcher = key(args.next_pos().ok_or("no watch")?)?;
                    self.registry()?.remove(watcher);
                }
                "remove_stream" => {
                    let stream = args.next_pos().ok_or("no stream")?.parse()?;
                    while self.registry()?.remove_stream(stream, 2) {}
                }
                // ask STREAM REVISION [periodic]
                "ask" => {
                    let stream = args.next_pos().ok_or("no stream")?.parse()?;
                    let revision = args.next_pos().ok_or("no revision")?.parse()?;
                    let periodic = args.next_pos() == Some("periodic");
                    let mark = Mark { revision, requested: u32::from(!periodic), periodic };
                    match self.registry()?.ask(stream, mark) {
                        Some(mark) => writeln!(output, "{}", describe(&Item::Mark(mark)))?,
                        None => writeln!(output, "later")?,
                    }
                }
                // publish REVISION EVENT...; queues keep what they get
                "publish" => {
                    let revision = args.next_pos().ok_or("no revision")?.parse()?;
                    let events = args.by_ref().map(event).collect::<Result<Vec<_>, _>>()?;
                    self.with_sink(|registry, sink| registry.publish(revision, &events, sink))?;
                }
                "skip_to" => {
                    let head = args.next_pos().ok_or("no head")?.parse()?;
                    self.with_sink(|registry, sink| registry.skip_to(head, sink))?;
                }
                // Shows and empties one queue or all: drain [STREAM]
                "drain" => {
                    let only = args.next_pos().map(str::parse).transpose()?;
                    output = self.drain(only);
                }
                "status" => {
                    let registry = self.registry()?;
                    let (fed, waiting) = registry.counts();
                    writeln!(output, "head={} fed={fed} waiting={waiting}", registry.head())?;
                }
                name => return Err(format!("unknown command {name}").into()),
            }
            args.reject_next()?;
            Ok(output)
        }
    }
}
