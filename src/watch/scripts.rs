//! Runs the golden scripts in `testscripts/session/`: streams, registry and a revision store,
//! without tasks, so that a script decides who lags behind whom.
//!
//! A write is handed out at once, unless the hub was told to hold it back (`hub holds`, until
//! `hub works`) or to lose it (`hub loses`). A stream reads, and its client receives, only
//! when the script says `recv`.

use super::Limits;
use super::message::WatchMessage;
use super::queue::Queue;
use super::registry::{Registry, StreamId};
use super::session::Session;
use super::store::{Change, Store};
use crate::mvcc::Commit;
use crate::pb::etcdserverpb::watch_create_request::FilterType;
use crate::pb::etcdserverpb::watch_request::RequestUnion;
use crate::pb::etcdserverpb::{
    ResponseHeader, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
    WatchResponse,
};
use crate::pb::mvccpb::event::EventType;
use crate::pb::mvccpb::{Event, KeyValue};
use bytes::Bytes;
use goldenscript::Argument;
use prost::Message;
use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::fmt::Write as _;
use test_each_file::test_each_path;

type Fallible<T> = Result<T, Box<dyn Error>>;

test_each_path! { in "src/watch/testscripts/session" as session => run }

fn run(path: &std::path::Path) {
    goldenscript::run(&mut Runner::new(), path).expect("script failed");
}

#[derive(PartialEq)]
enum Mode {
    Works,
    Holds,
    Loses,
}

struct Runner {
    store: Store,
    limits: Limits,
    fragment_bytes: usize,
    registry: Registry,
    mode: Mode,
    held: VecDeque<Commit>,
    streams: BTreeMap<StreamId, (Session, Queue)>,
}

fn text(bytes: &[u8]) -> String {
    match bytes {
        [] => String::new(),
        long if long.len() > 20 => format!("({} bytes)", long.len()),
        short => String::from_utf8_lossy(short).escape_default().to_string(),
    }
}

fn pair(kv: &KeyValue) -> String {
    format!(
        "{}={} ({}/{}/{})",
        text(&kv.key),
        text(&kv.value),
        kv.create_revision,
        kv.mod_revision,
        kv.version
    )
}

fn event(event: &Event) -> String {
    let kv = event.kv.clone().unwrap_or_default();
    let mut line = match event.r#type() {
        EventType::Put => format!("put {}", pair(&kv)),
        EventType::Delete => format!("del {} ({})", text(&kv.key), kv.mod_revision),
    };
    if let Some(previous) = &event.prev_kv {
        write!(line, " was {}", pair(previous)).expect("writing to a string");
    }
    line
}

/// What a client decodes, in words.
fn describe(message: &WatchMessage) -> Fallible<String> {
    let mut bytes = Vec::new();
    message.encode(&ResponseHeader::default(), &mut bytes);
    let response = WatchResponse::decode(&bytes[..])?;
    let revision = response.header.unwrap_or_default().revision;
    let mut line = format!("watch {} at {revision}:", response.watch_id);
    if response.created {
        line += " created";
    }
    if response.canceled {
        line += " canceled";
    }
    if response.compact_revision != 0 {
        write!(line, " compacted at {}", response.compact_revision)?;
    }
    if !response.cancel_reason.is_empty() {
        write!(line, " because \"{}\"", response.cancel_reason)?;
    }
    if response.events.is_empty() && !response.created && !response.canceled {
        line += " progress";
    }
    if response.fragment {
        line += " (more follows)";
    }
    let events: Vec<String> = response.events.iter().map(event).collect();
    if !events.is_empty() {
        write!(line, " {}", events.join(", "))?;
    }
    Ok(line)
}

impl Runner {
    fn new() -> Self {
        let (store, limits) = (Store::new(), Limits::default());
        let registry = Registry::new(store.view().revision(), limits.matches_max);
        Self {
            store,
            limits,
            fragment_bytes: usize::MAX,
            registry,
            mode: Mode::Works,
            held: VecDeque::new(),
            streams: BTreeMap::new(),
        }
    }

    fn stream(&mut self, id: StreamId) -> &mut (Session, Queue) {
        let (view, limits, fragment_bytes) = (self.store.view(), self.limits, self.fragment_bytes);
        self.streams.entry(id).or_insert_with(|| {
            let session = Session::new(id, view, limits, fragment_bytes);
            (session, Queue::new(limits.queue_bytes_max))
        })
    }

    fn hand_out(&mut self, output: &mut String, commit: Option<Commit>) -> Fallible<()> {
        match &commit {
            Some(commit) => writeln!(output, "revision {}", commit.revision)?,
            None => writeln!(output, "no change")?,
        }
        if self.mode != Mode::Loses {
            self.held.extend(commit);
        }
        if self.mode == Mode::Works {
            self.work();
        }
        Ok(())
    }

    fn work(&mut self) {
        let (streams, held) = (&mut self.streams, &mut self.held);
        for commit in held.drain(..) {
            self.registry.publish(commit.revision, &commit.events, &mut |stream, output| {
                streams.get_mut(&stream).is_some_and(|(_, queue)| queue.push(output))
            });
        }
    }

    fn restored(&mut self) {
        let (streams, head) = (&mut self.streams, self.store.view().revision());
        self.registry.skip_to(head, &mut |stream, output| {
            streams.get_mut(&stream).is_some_and(|(_, queue)| queue.push(output))
        });
    }

    /// Lets the stream work until its client has received `max` messages or there is nothing left to do.
    fn receive(&mut self, id: StreamId, max: usize, output: &mut String) -> Fallible<()> {
        let Some((session, queue)) = self.streams.get_mut(&id) else {
            return Err("no such stream".into());
        };
        let mut received = 0;
        while received < max {
            if let Some(message) = session.pop()? {
                writeln!(output, "{}", describe(&message)?)?;
                received += 1;
                continue;
            }
            let worked = session.take_from(queue)
                || (session.wants_sync() && session.sync(&mut self.registry, queue));
            if worked {
                continue;
            }
            match session.read()? {
                Some(read) => session.absorb(read)?,
                None => break,
            }
        }
        Ok(())
    }
}

impl goldenscript::Runner for Runner {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _: &goldenscript::Context,
    ) -> Fallible<String> {
        let mut args = command.consume_args();
        let mut output = String::new();
        match command.name.as_str() {
            // Before the first write: limits [queue_bytes=N] [history_events=N] [matches=N] [fragment=N]
            "limits" => {
                while let Some((name, value)) = args.next_key() {
                    let value = value.parse()?;
                    match name {
                        "queue_bytes" => self.limits.queue_bytes_max = value,
                        "history_events" => self.limits.history_events_max = value,
                        "matches" => self.limits.matches_max = value,
                        "fragment" => self.fragment_bytes = value,
                        name => return Err(format!("unknown limit {name}").into()),
                    }
                }
                self.registry = Registry::new(self.registry.head(), self.limits.matches_max);
            }
            // One revision each. A number as value stands for that many bytes: put KEY [VALUE|size=N]
            "put" => {
                let size = args.take_key("size").map(str::parse::<usize>).transpose()?;
                let key = args.next_pos().ok_or("no key")?;
                let value = match size {
                    Some(size) => vec![b'v'; size].into(),
                    None => Bytes::copy_from_slice(args.next_pos().unwrap_or_default().as_bytes()),
                };
                let commit = self.store.put(key, value);
                self.hand_out(&mut output, Some(commit))?;
            }
            // del KEY [RANGE_END]
            "del" => {
                let key = args.next_pos().ok_or("no key")?;
                let commit = match args.next_pos() {
                    Some(range_end) => self.store.delete_interval(key, range_end),
                    None => self.store.change(&[Change::Delete(key.to_owned())]),
                };
                self.hand_out(&mut output, commit)?;
            }
            // Several changes in one revision, in this order: txn put=KEY|del=KEY ...
            "txn" => {
                let mut changes = Vec::new();
                for argument in args.by_ref() {
                    changes.push(match argument {
                        Argument::KeyValue(op, key) if op == "put" => {
                            Change::Put(key.clone(), Bytes::new())
                        }
                        Argument::KeyValue(op, key) if op == "del" => Change::Delete(key.clone()),
                        other => return Err(format!("unknown op {other}").into()),
                    });
                }
                let commit = self.store.change(&changes);
                self.hand_out(&mut output, commit)?;
            }
            "compact" => self.store.compact(args.next_pos().ok_or("no revision")?.parse()?),
            // hub works|holds|loses
            "hub" => {
                self.mode = match args.next_pos() {
                    Some("works") => Mode::Works,
                    Some("holds") => Mode::Holds,
                    Some("loses") => Mode::Loses,
                    _ => return Err("hub works, holds or loses".into()),
                };
                if self.mode == Mode::Works {
                    self.work();
                }
            }
            // The state was replaced by a snapshot that holds what the hub did not see.
            "restored" => self.restored(),
            // create STREAM KEY [RANGE_END] [start=N] [id=N] [filter=noput|nodelete] [prev=true] [notify=true] [fragment=true]
            "create" => {
                let number = |value: Option<&str>| value.unwrap_or("0").parse::<i64>();
                let start_revision = number(args.take_key("start"))?;
                let watch_id = number(args.take_key("id"))?;
                let filter = args.take_key("filter").map(|filter| match filter {
                    "noput" => FilterType::Noput.into(),
                    _ => FilterType::Nodelete.into(),
                });
                let (prev, notify, fragment) =
                    (args.take_key("prev"), args.take_key("notify"), args.take_key("fragment"));
                let stream = args.next_pos().ok_or("no stream")?.parse()?;
                let mut bytes =
                    || Bytes::copy_from_slice(args.next_pos().unwrap_or_default().as_bytes());
                let create = WatchCreateRequest {
                    key: bytes(),
                    range_end: bytes(),
                    start_revision,
                    watch_id,
                    filters: filter.into_iter().collect(),
                    prev_kv: prev.is_some(),
                    progress_notify: notify.is_some(),
                    fragment: fragment.is_some(),
                };
                let request_union = Some(RequestUnion::CreateRequest(create));
                self.stream(stream).0.request(WatchRequest { request_union });
            }
            // cancel STREAM ID
            "cancel" => {
                let stream = args.next_pos().ok_or("no stream")?.parse()?;
                let watch_id = args.next_pos().ok_or("no id")?.parse()?;
                let cancel = RequestUnion::CancelRequest(WatchCancelRequest { watch_id });
                self.stream(stream).0.request(WatchRequest { request_union: Some(cancel) });
            }
            // The client asks for progress: progress STREAM
            "progress" => {
                let stream = args.next_pos().ok_or("no stream")?.parse()?;
                let ask = RequestUnion::ProgressRequest(WatchProgressRequest {});
                self.stream(stream).0.request(WatchRequest { request_union: Some(ask) });
            }
            // A request without content: empty STREAM
            "empty" => {
                let stream = args.next_pos().ok_or("no stream")?.parse()?;
                self.stream(stream).0.request(WatchRequest { request_union: None });
            }
            // The interval of progress notifications has passed: tick STREAM
            "tick" => {
                let stream = args.next_pos().ok_or("no stream")?.parse()?;
                self.stream(stream).0.tick();
            }
            // recv STREAM [MAX]
            "recv" => {
                let stream = args.next_pos().ok_or("no stream")?.parse()?;
                let max = args.next_pos().unwrap_or("1000").parse()?;
                self.receive(stream, max, &mut output)?;
            }
            // status STREAM
            "status" => {
                let stream = args.next_pos().ok_or("no stream")?.parse()?;
                let (session, queue) = self.stream(stream);
                let (watches, behind) = session.counts();
                let bytes = queue.bytes();
                let (fed, waiting) = self.registry.counts();
                writeln!(
                    output,
                    "stream: {watches} watches, {behind} behind, {bytes} bytes queued; registry: head {}, {fed} fed, {waiting} waiting",
                    self.registry.head()
                )?;
            }
            name => return Err(format!("unknown command {name}").into()),
        }
        args.reject_next()?;
        Ok(output)
    }
}
