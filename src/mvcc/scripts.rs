//! Runs the golden scripts in `testscripts/`: what requests answer, which events and lease
//! changes they bring about, and what is written to the engine.
//!
//! A request is a command (`put a 1 lease=7 prev`), or an op of a Txn that is given as one
//! string (`txn "if version a = 0 then put a 1; get a else"`). It makes a round of its own, which
//! is written and published at once, unless it stands between `begin_round` and `end_round`. The tag
//! `[writes]` shows what a round writes.

use super::*;
use crate::error::RequestError;
use crate::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::response_op::Response;
use crate::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, TxnRequest, TxnResponse,
};
use crate::pb::mvccpb::KeyValue;
use crate::pb::mvccpb::event::EventType;
use crate::storage::Value;
use crate::storage::mirror::test_engines;
use bytes::Bytes;
use prost::Message as _;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::{self, Write as _};
use std::path::Path;
use test_each_file::test_each_path;

type Fallible<T> = Result<T, Box<dyn Error>>;

test_each_path! { in "src/mvcc/testscripts" as scripts => run }

fn run(path: &Path) {
    for (name, engine) in test_engines() {
        goldenscript::run(&mut Runner::new(engine), path)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// The message whose pairs came in encoded form.
fn decoded(range: EncodedRange) -> RangeResponse {
    let len = range.pairs_len();
    let EncodedRange { header, mut pairs, rest, more, count } = range;
    let mut rest = rest;
    while let Some(unread) = &mut rest {
        match unread.step().expect("a store").expect("a revision held") {
            Step::GoOn => {}
            Step::Made(pieces) => pairs.extend(pieces),
            Step::Over => rest = None,
        }
    }
    assert_eq!(pairs.concat().len() as u64, len);
    let pairs = RangeResponse::decode(&pairs.concat()[..]).expect("fields of a RangeResponse");
    RangeResponse { header, more, count, ..pairs }
}

struct Runner {
    engine: Arc<dyn Engine>,
    mvcc: Mvcc,
    batch: WriteBatch,
    /// Between `begin_round` and `end_round`.
    in_round: bool,
    leases: BTreeSet<i64>,
    pins: BTreeMap<String, Pin>,
    streams: BTreeMap<String, RangeStream>,
    out: String,
}

impl goldenscript::Runner for Runner {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        context: &goldenscript::Context,
    ) -> Fallible<String> {
        let mut words = Words::of(command);
        let shows_writes = context.tags.contains("writes");
        match command.name.as_str() {
            "put" | "del" | "revoke" => {
                self.request(&mut words)?;
                self.end_request(shows_writes)?;
            }
            "txn" => {
                let text = words.next().ok_or("no transaction given")?;
                let request = Parser::new(text).txn()?;
                self.write(|txn, leases, out| {
                    let response = txn.txn(&request, &|id| leases.contains(&id))?;
                    show(out, response, |out, response| show_txn(out, &response));
                    Ok(())
                })?;
                self.end_request(shows_writes)?;
            }
            "get" => {
                let request = words.range()?;
                let view = self.mvcc.view();
                let response = view.range(&request)?;
                for room in [0, 1, usize::MAX] {
                    let left = Cell::new(room);
                    let room = |_| left.replace(left.get().saturating_sub(1)) > 0;
                    assert_eq!(view.range_encoded(&request, &room)?.map(decoded), response);
                }
                match view.range_if_short(&request)? {
                    Ok(Some(short)) => assert_eq!(Ok(short), response),
                    Ok(None) => assert!(response.is_ok()),
                    Err(error) => assert_eq!(Err(error), response),
                }
                show(&mut self.out, response, |out, response| show_range(out, &response));
            }
            "read" => {
                let request = Parser::new(words.next().ok_or("no transaction given")?).txn()?;
                let response = self.mvcc.view().txn_read_only(&request)?;
                show(&mut self.out, response, |out, response| show_txn(out, &response));
            }
            "stream" => self.stream(&mut words)?,
            "next_chunk" => self.next_chunk(&words.next().ok_or("no stream given")?)?,
            "get_at" => {
                let (user_key, revision) = (words.key()?, words.number()?);
                match self.mvcc.view().get_at(&user_key, revision)? {
                    Some(kv) => writeln!(self.out, "{}", Pair(&kv))?,
                    None => writeln!(self.out, "none")?,
                }
            }
            "history" => self.history(&mut words)?,
            "compact" => {
                let revision = words.number()?;
                let result = self.mvcc.compact(&mut self.batch, revision)?;
                show(&mut self.out, result, |out, ()| writeln!(out, "ok"));
                self.end_request(shows_writes)?;
            }
            "step" => {
                let entries_max = words.number()? as usize;
                let progress = self.mvcc.compaction_step(&mut self.batch, entries_max)?;
                writeln!(self.out, "{progress:?}")?;
                self.end_request(shows_writes)?;
            }
            "leases" => {
                self.leases = words.0.drain(..).map(|id| id.parse()).collect::<Result<_, _>>()?;
            }
            "pin" => {
                let name = words.next().ok_or("no name given")?;
                self.pins.insert(name, self.mvcc.view().pin(words.number()?));
            }
            "unpin" => drop(self.pins.remove(&words.next().ok_or("no name given")?)),
            "age_pins" => self.mvcc.age_pins(words.number()? as u32),
            "begin_round" => self.in_round = true,
            "end_round" => {
                self.in_round = false;
                self.end_request(shows_writes)?;
            }
            "begin_reload" => self.mvcc.begin_reload(),
            "clear" => self.engine.clear()?,
            "reload" => self.mvcc.reload()?,
            "reopen" => self.mvcc = Mvcc::open(self.engine.clone())?,
            "dump" => self.dump()?,
            "status" => {
                let (revision, view) = (self.mvcc.revision(), self.mvcc.view());
                let (published, compacted) = (view.revision(), view.compacted());
                writeln!(
                    self.out,
                    "revision={revision} published={published} compacted={compacted}"
                )?;
            }
            name => return Err(format!("unknown command {name}").into()),
        }
        words.end()?;
        Ok(std::mem::take(&mut self.out))
    }
}

impl Runner {
    fn new(engine: Arc<dyn Engine>) -> Self {
        Self {
            mvcc: Mvcc::open(engine.clone()).expect("an empty store opens"),
            engine,
            batch: WriteBatch::new(),
            in_round: false,
            leases: BTreeSet::new(),
            pins: BTreeMap::new(),
            streams: BTreeMap::new(),
            out: String::new(),
        }
    }

    fn request(&mut self, words: &mut Words) -> Fallible<()> {
        match words.next().as_deref() {
            Some("put") => {
                let request = words.put()?;
                self.write(|txn, leases, out| {
                    let response = txn.put(&request, &|id| leases.contains(&id))?;
                    show(out, response, |out, response| {
                        show_put(out, &response.header, response.prev_kv.as_ref())
                    });
                    Ok(())
                })
            }
            Some("del") => {
                let request = words.delete()?;
                self.write(|txn, _, out| {
                    let response = txn.delete_range(&request)?;
                    Ok(show_deleted(out, &response.header, response.deleted, &response.prev_kvs)?)
                })
            }
            _ => {
                let keys: Vec<Bytes> = words.0.drain(..).map(Bytes::from).collect();
                self.write(|txn, _, _| Ok(txn.delete_keys(&keys)?))
            }
        }
    }

    fn write(
        &mut self,
        request: impl FnOnce(&mut WriteTxn<'_>, &BTreeSet<i64>, &mut String) -> Fallible<()>,
    ) -> Fallible<()> {
        let mut txn = self.mvcc.begin(&mut self.batch);
        request(&mut txn, &self.leases, &mut self.out)?;
        let finished = txn.finish();
        if let Some(commit) = finished.commit {
            assert_eq!(commit.revision, finished.revision);
            show_commit(&mut self.out, &commit)?;
        }
        for LeaseChange { key, old, new } in finished.lease_changes {
            writeln!(self.out, "  lease of {}: {old} -> {new}", Text(&key))?;
        }
        Ok(())
    }

    fn end_request(&mut self, shows_writes: bool) -> Fallible<()> {
        if self.in_round {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        if shows_writes {
            for (space, key, value) in batch.clone().into_writes() {
                show_stored(&mut self.out, space, &key, value.as_deref())?;
            }
        }
        self.engine.write(batch)?;
        self.mvcc.publish();
        Ok(())
    }

    fn stream(&mut self, words: &mut Words) -> Fallible<()> {
        let name = words.next().ok_or("no name given")?;
        let bytes_max = words.named("bytes_max")?.unwrap_or(0);
        let request = words.range()?;
        match self.mvcc.view().range_stream(&request, bytes_max)? {
            Ok(stream) => drop(self.streams.insert(name, stream)),
            Err(error) => writeln!(self.out, "error {error:?}")?,
        }
        Ok(())
    }

    fn next_chunk(&mut self, name: &str) -> Fallible<()> {
        let stream = self.streams.get_mut(name).ok_or("no such stream")?;
        let chunk = stream.next_chunk()?;
        show(&mut self.out, chunk, |out, chunk| match chunk {
            Some(chunk) if chunk.header.is_some() => show_range(out, &chunk),
            Some(chunk) => chunk.kvs.iter().try_for_each(|kv| writeln!(out, "  {}", Pair(kv))),
            None => writeln!(out, "end"),
        });
        Ok(())
    }

    fn history(&mut self, words: &mut Words) -> Fallible<()> {
        let from = words.number()?;
        let events_max = words.named("events_max")?.unwrap_or(usize::MAX);
        let bytes_max = words.named("bytes_max")?.unwrap_or(usize::MAX);
        let prefix: String = words.named("prefix")?.unwrap_or_default();
        let wanted = |key: &[u8]| key.starts_with(prefix.as_bytes());
        match self.mvcc.view().history(from, &wanted, events_max, bytes_max)? {
            Ok(history) => {
                for commit in &history.commits {
                    show_commit(&mut self.out, commit)?;
                }
                writeln!(self.out, "next={}", history.next)?;
            }
            Err(Compacted(revision)) => writeln!(self.out, "compacted at {revision}")?,
        }
        Ok(())
    }

    fn dump(&mut self) -> Fallible<()> {
        let mut pairs = Vec::new();
        for space in Space::ALL {
            self.engine.scan(space, b"", None, &mut |key, value: Value<'_>| {
                pairs.push((space, key.to_vec(), value.to_bytes()));
                Flow::Next
            })?;
        }
        for (space, key, value) in pairs {
            show_stored(&mut self.out, space, &key, Some(&value))?;
        }
        Ok(())
    }
}

/// The words of a request that are still to be understood.
struct Words(Vec<String>);

impl Words {
    fn of(command: &goldenscript::Command) -> Self {
        let mut words = Vec::new();
        // A request keeps its name: as an op of a Txn it has one too.
        if matches!(command.name.as_str(), "put" | "del" | "revoke") {
            words.push(command.name.clone());
        }
        words.extend(command.args.iter().map(|argument| match argument {
            goldenscript::Argument::KeyValue(name, value) => format!("{name}={value}"),
            goldenscript::Argument::Positional(word) => word.clone(),
            _ => String::new(),
        }));
        Self(words)
    }

    fn next(&mut self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    fn key(&mut self) -> Fallible<Bytes> {
        Ok(self.next().ok_or("a word is missing")?.into())
    }

    fn number(&mut self) -> Fallible<i64> {
        Ok(self.next().ok_or("a number is missing")?.parse()?)
    }

    fn flag(&mut self, flag: &str) -> bool {
        let at = self.0.iter().position(|word| word == flag);
        at.map(|at| self.0.remove(at)).is_some()
    }

    fn named<T: std::str::FromStr<Err: Error + 'static>>(
        &mut self,
        name: &str,
    ) -> Fallible<Option<T>> {
        let value = |word: &String| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned());
        let Some(at) = self.0.iter().position(|word| value(word).is_some()) else {
            return Ok(None);
        };
        let word = self.0.remove(at);
        Ok(value(&word).map(|value| value.parse()).transpose()?)
    }

    fn number_named(&mut self, name: &str) -> Fallible<i64> {
        Ok(self.named(name)?.unwrap_or_default())
    }

    fn end(&self) -> Fallible<()> {
        if self.0.is_empty() { Ok(()) } else { Err(format!("left over: {:?}", self.0).into()) }
    }

    fn put(&mut self) -> Fallible<PutRequest> {
        let mut request = PutRequest {
            lease: self.number_named("lease")?,
            prev_kv: self.flag("prev"),
            ignore_value: self.flag("ignore_value"),
            ignore_lease: self.flag("ignore_lease"),
            key: self.key()?,
            ..Default::default()
        };
        if !self.0.is_empty() {
            request.value = self.key()?;
        }
        Ok(request)
    }

    fn delete(&mut self) -> Fallible<DeleteRangeRequest> {
        let prev_kv = self.flag("prev");
        let key = self.key()?;
        Ok(DeleteRangeRequest { key, range_end: self.next().unwrap_or_default().into(), prev_kv })
    }

    fn range(&mut self) -> Fallible<RangeRequest> {
        let upper = |word: String| word.to_uppercase();
        let order: Option<String> = self.named("order")?;
        let target: Option<String> = self.named("target")?;
        let order = order.map(|order| SortOrder::from_str_name(&upper(order)).ok_or("bad order"));
        let target =
            target.map(|target| SortTarget::from_str_name(&upper(target)).ok_or("bad target"));
        Ok(RangeRequest {
            limit: self.number_named("limit")?,
            revision: self.number_named("rev")?,
            sort_order: order.transpose()?.unwrap_or_default() as i32,
            sort_target: target.transpose()?.unwrap_or_default() as i32,
            serializable: false,
            keys_only: self.flag("keys_only"),
            count_only: self.flag("count_only"),
            min_mod_revision: self.number_named("min_mod")?,
            max_mod_revision: self.number_named("max_mod")?,
            min_create_revision: self.number_named("min_create")?,
            max_create_revision: self.number_named("max_create")?,
            key: self.key()?,
            range_end: self.next().unwrap_or_default().into(),
        })
    }
}

/// Reads `if [compare, ...] then [op; ...] else [op; ...]`. A nested Txn is an op in parentheses.
/// A word is ended by space; `''` is the empty word.
struct Parser(std::collections::VecDeque<String>);

impl Parser {
    fn new(text: String) -> Self {
        let spaced = ["(", ")", ";", ","]
            .iter()
            .fold(text, |text, mark| text.replace(mark, &format!(" {mark} ")));
        let words = spaced.split([' ', '\n']).filter(|word| !word.is_empty());
        Self(words.map(|word| if word == "''" { String::new() } else { word.to_owned() }).collect())
    }

    fn expect(&mut self, word: &str) -> Fallible<()> {
        match self.0.pop_front() {
            Some(found) if found == word => Ok(()),
            found => Err(format!("expected {word}, found {found:?}").into()),
        }
    }

    fn peek(&self) -> &str {
        self.0.front().map_or("", String::as_str)
    }

    /// Words up to one of these marks, which stays.
    fn until(&mut self, marks: &[&str]) -> Words {
        let count = self.0.iter().position(|word| marks.contains(&word.as_str()));
        Words(self.0.drain(..count.unwrap_or(self.0.len())).collect())
    }

    fn txn(&mut self) -> Fallible<TxnRequest> {
        self.expect("if")?;
        let mut compare = Vec::new();
        while self.peek() != "then" {
            compare.push(compare_of(self.until(&[",", "then"]))?);
            if self.peek() == "," {
                self.0.pop_front();
            }
        }
        self.expect("then")?;
        let success = self.ops()?;
        self.expect("else")?;
        Ok(TxnRequest { compare, success, failure: self.ops()? })
    }

    fn ops(&mut self) -> Fallible<Vec<RequestOp>> {
        let mut ops = Vec::new();
        while !matches!(self.peek(), "" | "else" | ")") {
            let request = if self.peek() == "(" {
                self.0.pop_front();
                let nested = self.txn()?;
                self.expect(")")?;
                Request::RequestTxn(nested)
            } else {
                let mut words = self.until(&[";", "else", ")"]);
                let request = match words.next().as_deref() {
                    Some("put") => Request::RequestPut(words.put()?),
                    Some("del") => Request::RequestDeleteRange(words.delete()?),
                    Some("get") => Request::RequestRange(words.range()?),
                    name => return Err(format!("unknown op {name:?}").into()),
                };
                words.end()?;
                request
            };
            ops.push(RequestOp { request: Some(request) });
            if self.peek() == ";" {
                self.0.pop_front();
            }
        }
        Ok(ops)
    }
}

/// `version a = 0`, `value a..b > x`.
fn compare_of(mut words: Words) -> Fallible<Compare> {
    let target = words.next().ok_or("no target")?;
    let range = words.next().ok_or("no key")?;
    let operator = words.next().ok_or("no operator")?;
    let given = words.next();
    words.end()?;
    let number = |given: String| given.parse::<i64>();
    let (target, target_union) = match target.as_str() {
        "version" => {
            (CompareTarget::Version, given.map(number).transpose()?.map(TargetUnion::Version))
        }
        "create" => {
            (CompareTarget::Create, given.map(number).transpose()?.map(TargetUnion::CreateRevision))
        }
        "mod" => (CompareTarget::Mod, given.map(number).transpose()?.map(TargetUnion::ModRevision)),
        "lease" => (CompareTarget::Lease, given.map(number).transpose()?.map(TargetUnion::Lease)),
        "value" => (CompareTarget::Value, given.map(|given| TargetUnion::Value(given.into()))),
        _ => return Err(format!("unknown target {target}").into()),
    };
    let result = match operator.as_str() {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        _ => return Err(format!("unknown operator {operator}").into()),
    };
    let (key, range_end) = range.split_once("..").unwrap_or((&range, ""));
    Ok(Compare {
        result: result as i32,
        target: target as i32,
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
        target_union,
    })
}

/// A key or value, readable.
struct Text<'a>(&'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("''"),
            text => write!(f, "{}", text.escape_ascii()),
        }
    }
}

struct Pair<'a>(&'a KeyValue);

impl fmt::Display for Pair<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KeyValue { key, create_revision, mod_revision, version, value, lease } = self.0;
        let (key, value) = (Text(key), Text(value));
        write!(f, "{key}={value} create={create_revision} mod={mod_revision} version={version}")?;
        if *lease != 0 { write!(f, " lease={lease}") } else { Ok(()) }
    }
}

fn revision_of(header: &Option<ResponseHeader>) -> String {
    header.as_ref().map_or("none".into(), |header| header.revision.to_string())
}

fn show<T>(
    out: &mut String,
    answer: Result<T, RequestError>,
    show: impl FnOnce(&mut String, T) -> fmt::Result,
) {
    let shown = match answer {
        Ok(response) => show(out, response),
        Err(error) => writeln!(out, "error {error:?}"),
    };
    shown.expect("strings take everything");
}

fn show_put(
    out: &mut String,
    header: &Option<ResponseHeader>,
    prev: Option<&KeyValue>,
) -> fmt::Result {
    writeln!(out, "put: revision={}", revision_of(header))?;
    prev.map_or(Ok(()), |prev| writeln!(out, "  prev {}", Pair(prev)))
}

fn show_deleted(
    out: &mut String,
    header: &Option<ResponseHeader>,
    deleted: i64,
    prev_kvs: &[KeyValue],
) -> fmt::Result {
    writeln!(out, "del: revision={} deleted={deleted}", revision_of(header))?;
    prev_kvs.iter().try_for_each(|prev| writeln!(out, "  prev {}", Pair(prev)))
}

fn show_range(out: &mut String, response: &RangeResponse) -> fmt::Result {
    let RangeResponse { header, kvs, more, count } = response;
    let more = if *more { " more" } else { "" };
    writeln!(out, "get: revision={} count={count}{more}", revision_of(header))?;
    kvs.iter().try_for_each(|kv| writeln!(out, "  {}", Pair(kv)))
}

fn show_txn(out: &mut String, response: &TxnResponse) -> fmt::Result {
    let branch = if response.succeeded { "then" } else { "else" };
    writeln!(out, "txn: revision={} {branch}", revision_of(&response.header))?;
    for op in &response.responses {
        let mut shown = String::new();
        match op.response.as_ref() {
            Some(Response::ResponseRange(range)) => show_range(&mut shown, range)?,
            Some(Response::ResponsePut(put)) => {
                show_put(&mut shown, &put.header, put.prev_kv.as_ref())?;
            }
            Some(Response::ResponseDeleteRange(delete)) => {
                show_deleted(&mut shown, &delete.header, delete.deleted, &delete.prev_kvs)?;
            }
            Some(Response::ResponseTxn(nested)) => show_txn(&mut shown, nested)?,
            None => shown.push_str("nothing\n"),
        }
        for line in shown.lines() {
            writeln!(out, "  {line}")?;
        }
    }
    Ok(())
}

fn show_commit(out: &mut String, commit: &Commit) -> fmt::Result {
    writeln!(out, "  commit {}:", commit.revision)?;
    for event in &commit.events {
        assert_eq!(event.prev_kv, None);
        let kv = event.kv.as_ref().expect("an event has a pair");
        if event.r#type() == EventType::Put {
            writeln!(out, "    PUT {}", Pair(kv))?;
        } else {
            let (key, mod_revision) = (kv.key.clone(), kv.mod_revision);
            assert_eq!(*kv, KeyValue { key, mod_revision, ..Default::default() });
            writeln!(out, "    DELETE {} mod={}", Text(&kv.key), kv.mod_revision)?;
        }
    }
    Ok(())
}

fn show_stored(out: &mut String, space: Space, key: &[u8], value: Option<&[u8]>) -> Fallible<()> {
    let key_text = match space {
        Space::Kv => {
            let (escaped, revision) = key::split(key)?;
            let user_key = key::with_user_key(escaped, <[u8]>::to_vec)?;
            format!("{}@{revision}", Text(&user_key))
        }
        Space::Log => key::decode_log_key(key)?.to_string(),
        _ => Text(key).to_string(),
    };
    let value_text = match (space, value) {
        (_, None) => "removed".into(),
        (Space::Kv, Some(record)) => match key::decode_record(record)? {
            None => "tombstone".into(),
            Some(put) => format!(
                "put create={} version={} lease={} {}",
                put.create,
                put.version,
                put.lease,
                Text(&record[put.value_at..])
            ),
        },
        (_, Some(value)) => Text(value).to_string(),
    };
    writeln!(out, "  {} {key_text}: {value_text}", space.name())?;
    Ok(())
}
