//! Runs the golden scripts in `testscripts/engine` on all engines, and compares them with an
//! ordered map at random.

use super::mirror::test_engines;
use super::{Engine, Flow, KV_SUFFIX_LEN, Overlay, Read, Space, WriteBatch};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;
use test_each_file::test_each_path;

test_each_path! { in "src/storage/testscripts/engine" as scripts => run }

/// One output for all engines.
fn run(path: &std::path::Path) {
    for (name, engine) in test_engines() {
        let mut runner = Runner { engine, batch: WriteBatch::new() };
        goldenscript::run(&mut runner, path).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// An engine and an unfinished batch. A name of a reading command that ends in `_through`
/// reads through the batch.
struct Runner {
    engine: Arc<dyn Engine>,
    batch: WriteBatch,
}

/// Undoes `escape_ascii`, so that scripts can name any byte.
fn bytes(text: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'\\', [b'x', high, low, tail @ ..]) => {
                let digits = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits)?, 16)?);
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    Ok(bytes)
}

fn space(text: Option<&str>) -> Result<Space, Box<dyn Error>> {
    let name = text.ok_or("no space")?;
    Space::ALL
        .into_iter()
        .find(|space| space.name() == name)
        .ok_or_else(|| format!("no space {name}").into())
}

/// Visits a range and follows `wishes`, which say what to do at a key.
fn scan(
    store: &dyn Read,
    space: Space,
    start: &[u8],
    end: Option<&[u8]>,
    wishes: &BTreeMap<Vec<u8>, Flow>,
) -> Result<String, Box<dyn Error>> {
    let mut output = String::new();
    store.scan(space, start, end, &mut |key, value| {
        let value = value.as_slice().escape_ascii();
        writeln!(output, "{}={value}", key.escape_ascii()).expect("writing to a string");
        wishes.get(key).cloned().unwrap_or(Flow::Next)
    })?;
    Ok(output)
}

impl Runner {
    fn read<T>(&self, command: &str, f: impl FnOnce(&dyn Read) -> T) -> T {
        if command.ends_with("_through") {
            f(&Overlay::new(&*self.engine, &self.batch))
        } else {
            f(&*self.engine)
        }
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
        let name = command.name.as_str();
        match name {
            // Adds to the batch: put SPACE KEY=VALUE...
            "put" => {
                let space = space(args.next_pos())?;
                for pair in args.by_ref() {
                    let goldenscript::Argument::KeyValue(key, value) = pair else {
                        return Err("no KEY=VALUE".into());
                    };
                    self.batch.put(space, bytes(key)?, bytes(value)?);
                }
            }
            // Adds to the batch: delete SPACE KEY...
            "delete" => {
                let space = space(args.next_pos())?;
                while let Some(key) = args.next_pos() {
                    self.batch.delete(space, bytes(key)?);
                }
            }
            // Adds many pairs to the batch: fill SPACE COUNT VALUE_LEN
            "fill" => {
                let space = space(args.next_pos())?;
                let count: u32 = args.next_pos().ok_or("no count")?.parse()?;
                let len: usize = args.next_pos().ok_or("no length")?.parse()?;
                for n in 0..count {
                    // Not compressible: a size must show in all engines.
                    let mut x = n.wrapping_mul(0x9e37_79b9) | 1;
                    let value: Bytes = (0..len)
                        .map(|_| {
                            x ^= x << 13;
                            x ^= x >> 17;
                            x ^= x << 5;
                            x as u8
                        })
                        .collect();
                    self.batch.put(space, format!("{n:06}").into_bytes(), value);
                }
            }
            "write" => {
                let batch = std::mem::take(&mut self.batch);
                writeln!(output, "{} writes", batch.len())?;
                self.engine.write(batch)?;
            }
            "discard" => self.batch = WriteBatch::new(),
            "clear" => self.engine.clear()?,
            "flush" => self.engine.flush()?,
            // get[_through] SPACE KEY...
            "get" | "get_through" => {
                let space = space(args.next_pos())?;
                while let Some(key) = args.next_pos() {
                    let wanted = bytes(key)?;
                    let value = self.read(name, |store| store.get(space, &wanted))?;
                    match value {
                        Some(value) => writeln!(output, "{key}={}", value.escape_ascii())?,
                        None => writeln!(output, "{key} is not there")?,
                    }
                }
            }
            // scan[_through] SPACE [START] [END] [KEY=stop] [KEY=seek:TARGET]...
            "scan" | "scan_through" => {
                let space = space(args.next_pos())?;
                let start = bytes(args.next_pos().unwrap_or_default())?;
                let end = args.next_pos().map(bytes).transpose()?;
                let mut wishes = BTreeMap::new();
                for wish in args.by_ref() {
                    let goldenscript::Argument::KeyValue(key, wish) = wish else {
                        return Err("too many keys".into());
                    };
                    let flow = match wish.strip_prefix("seek:") {
                        Some(target) => Flow::Seek(bytes(target)?),
                        None if wish == "stop" => Flow::Stop,
                        None => return Err(format!("unknown wish {wish}").into()),
                    };
                    wishes.insert(bytes(key)?, flow);
                }
                let end = end.as_deref();
                output = self.read(name, |store| scan(store, space, &start, end, &wishes))?;
            }
            // All spaces that hold something.
            "dump" | "dump_through" => {
                for space in Space::ALL {
                    let pairs = self.read(name, |s| scan(s, space, b"", None, &BTreeMap::new()))?;
                    for pair in pairs.lines() {
                        writeln!(output, "{}: {pair}", space.name())?;
                    }
                }
            }
            "count" => {
                let space = space(args.next_pos())?;
                let mut count = 0;
                self.engine.scan(space, b"", None, &mut |_, _| {
                    count += 1;
                    Flow::Next
                })?;
                writeln!(output, "{count}")?;
            }
            // Bounds, since engines differ: size least=BYTES most=BYTES
            "size" => {
                let least: u64 = args.take_key("least").unwrap_or("0").parse()?;
                let most: u64 = args.take_key("most").ok_or("no most")?.parse()?;
                let (allocated, in_use) = self.engine.size();
                assert!(in_use <= allocated, "in use {in_use}, allocated {allocated}");
                assert!((least..=most).contains(&in_use), "in use {in_use}");
                writeln!(output, "in use: {least} to {most}")?;
            }
            _ => return Err(format!("unknown command {name}").into()),
        }
        args.reject_next()?;
        Ok(output)
    }
}

type Model = BTreeMap<(Space, Vec<u8>), Vec<u8>>;

#[derive(Clone, Debug)]
enum Op {
    Put(Space, Vec<u8>, Vec<u8>),
    Delete(Space, Vec<u8>),
    Write,
    Clear,
    Flush,
    /// The last number draws what the visitor wants.
    Scan(Space, Vec<u8>, Option<Vec<u8>>, u64),
    /// The range of one prefix, as versions of one user key are read.
    ScanOne(Space, Vec<u8>, Vec<u8>),
    /// The first version of one user key at or after a suffix.
    First(Vec<u8>, u8),
}

/// Short keys of few bytes, so that they meet, prefix each other, and hold terminators.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0, b'a', b'b', 0xff]), 0..6)
}

/// The key of a version, with a prefix that no other key has.
fn version_key(user_key: &[u8], suffix: u8) -> Vec<u8> {
    [user_key, &[1, 1], &[suffix; KV_SUFFIX_LEN]].concat()
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), 0..60_usize).prop_map(|(byte, len)| vec![byte; len])
}

fn any_space() -> impl Strategy<Value = Space> {
    prop::sample::select(vec![Space::Kv, Space::Kv, Space::Kv, Space::Log, Space::Lease])
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (any_space(), key(), value()).prop_map(|(s, k, v)| Op::Put(s, k, v)),
        6 => (any_space(), key()).prop_map(|(s, k)| Op::Delete(s, k)),
        6 => (key(), 0..4_u8, value())
            .prop_map(|(k, suffix, v)| Op::Put(Space::Kv, version_key(&k, suffix), v)),
        2 => (key(), 0..4_u8)
            .prop_map(|(k, suffix)| Op::Delete(Space::Kv, version_key(&k, suffix))),
        6 => (key(), 0..5_u8).prop_map(|(k, suffix)| Op::First(k, suffix)),
        3 => Just(Op::Write),
        1 => prop_oneof![4 => Just(Op::Flush), 1 => Just(Op::Clear)],
        8 => (any_space(), key(), prop::option::of(key()), any::<u64>())
            .prop_map(|(s, from, to, draw)| Op::Scan(s, from, to, draw)),
        4 => (any_space(), key(), key()).prop_map(|(s, k, v)| Op::ScanOne(s, k, v)),
    ]
}

/// What the drawn visitor wants at a key: a function of both, so that all stores are asked alike.
fn wish(draw: u64, key: &[u8]) -> Flow {
    let hash = key.iter().fold(draw | 1, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    });
    let mut target = key.to_vec();
    match hash % 16 {
        0 => return Flow::Stop,
        1 => target.push(0),
        2 => target.push(b'b'),
        3 => match target.last_mut() {
            Some(last) if *last < 0xff => *last += 1,
            _ => return Flow::Next,
        },
        4 => {
            target.truncate(1);
            target.push(0xff);
        }
        5 => target = vec![0xff; 7],
        _ => return Flow::Next,
    }
    if &target[..] > key { Flow::Seek(target) } else { Flow::Next }
}

type Visits = Vec<(Vec<u8>, Vec<u8>)>;

fn model_scan(model: &Model, space: Space, start: &[u8], end: Option<&[u8]>, draw: u64) -> Visits {
    let mut visits = Vec::new();
    let mut from = start.to_vec();
    for ((_, key), value) in model.iter().filter(|((s, _), _)| *s == space) {
        if *key < from || end.is_some_and(|end| &key[..] >= end) {
            continue;
        }
        visits.push((key.clone(), value.clone()));
        match wish(draw, key) {
            Flow::Next => {}
            Flow::Stop => break,
            Flow::Seek(target) => from = target,
        }
    }
    visits
}

fn store_scan(
    store: &dyn Read,
    space: Space,
    start: &[u8],
    end: Option<&[u8]>,
    draw: u64,
) -> Visits {
    let mut visits = Vec::new();
    let visit = &mut |key: &[u8], value: super::Value<'_>| {
        assert_eq!(value.as_slice(), value.to_bytes());
        visits.push((key.to_vec(), value.as_slice().to_vec()));
        wish(draw, key)
    };
    store.scan(space, start, end, visit).expect("scan");
    visits
}

/// Compares the engine with `written` and, read through the batch, with `through`.
struct Check<'a> {
    engine: &'a dyn Engine,
    batch: &'a WriteBatch,
    written: &'a Model,
    through: &'a Model,
}

impl Check<'_> {
    fn scan(&self, space: Space, start: &[u8], end: Option<&[u8]>, draw: u64) {
        let expected = model_scan(self.written, space, start, end, draw);
        assert_eq!(store_scan(self.engine, space, start, end, draw), expected);
        let expected = model_scan(self.through, space, start, end, draw);
        let overlay = Overlay::new(self.engine, self.batch);
        assert_eq!(store_scan(&overlay, space, start, end, draw), expected, "through");
        // A second batch on top changes nothing while it is empty.
        let empty = WriteBatch::new();
        let overlay = Overlay::new(&overlay, &empty);
        assert_eq!(store_scan(&overlay, space, start, end, draw), expected, "through two");
    }

    fn first(&self, key: &[u8]) {
        let prefix_len = key.len() - KV_SUFFIX_LEN;
        let of = |model: &Model| {
            let (found, value) = model.range((Space::Kv, key.to_vec())..).next()?;
            let is_one = found.0 == Space::Kv && found.1.starts_with(&key[..prefix_len]);
            is_one.then(|| (found.1.clone(), value.clone()))
        };
        let found_in = |store: &dyn Read| {
            let mut first = None;
            let visit = &mut |key: &[u8], value: super::Value<'_>| {
                first = Some((key.to_vec(), value.as_slice().to_vec()));
            };
            store.first(Space::Kv, key, prefix_len, visit).expect("first");
            first
        };
        assert_eq!(found_in(self.engine), of(self.written));
        assert_eq!(found_in(&Overlay::new(self.engine, self.batch)), of(self.through), "through");
    }

    fn get(&self, space: Space, key: &[u8]) {
        let of = |model: &Model| model.get(&(space, key.to_vec())).cloned();
        let value = self.engine.get(space, key).expect("get");
        assert_eq!(value.map(Vec::from), of(self.written));
        let overlay = Overlay::new(self.engine, self.batch);
        assert_eq!(overlay.get(space, key).expect("get").map(Vec::from), of(self.through));
    }
}

fn run_ops(engine: &dyn Engine, ops: &[Op]) {
    let (mut written, mut through) = (Model::new(), Model::new());
    let mut batch = WriteBatch::new();
    for op in ops {
        match op {
            Op::Put(space, key, value) => {
                batch.put(*space, key.clone(), value.clone());
                through.insert((*space, key.clone()), value.clone());
            }
            Op::Delete(space, key) => {
                batch.delete(*space, key.clone());
                through.remove(&(*space, key.clone()));
            }
            Op::Write => {
                engine.write(std::mem::take(&mut batch)).expect("write");
                written.clone_from(&through);
            }
            Op::Clear => {
                engine.clear().expect("clear");
                batch = WriteBatch::new();
                written.clear();
                through.clear();
            }
            Op::Flush => engine.flush().expect("flush"),
            Op::Scan(..) | Op::ScanOne(..) | Op::First(..) => {}
        }
        let check = Check { engine, batch: &batch, written: &written, through: &through };
        match op {
            Op::Put(space, key, _) | Op::Delete(space, key) => check.get(*space, key),
            Op::Scan(space, start, end, draw) => {
                check.scan(*space, start, end.as_deref(), *draw);
            }
            Op::ScanOne(space, prefix, suffix) => {
                let (mut start, mut end) = (prefix.clone(), prefix.clone());
                start.extend_from_slice(&[0, 0]);
                start.extend_from_slice(suffix);
                end.extend_from_slice(&[0, 1]);
                check.scan(*space, &start, Some(&end), u64::MAX);
            }
            Op::First(user_key, suffix) => check.first(&version_key(user_key, *suffix)),
            _ => {}
        }
    }
    for space in Space::ALL {
        let check = Check { engine, batch: &batch, written: &written, through: &through };
        check.scan(space, b"", None, u64::MAX);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn all_engines_do_what_an_ordered_map_does(
        runs in prop::collection::vec(prop::collection::vec(op(), 1..60), 1..4),
    ) {
        for (_, engine) in test_engines() {
            for ops in &runs {
                run_ops(&*engine, ops);
                engine.clear().expect("clear");
            }
        }
    }
}

#[test]
fn an_unshared_version_is_kept_without_a_copy() {
    let engine = super::memory::MemoryEngine::new();
    let value = Bytes::from(vec![7; 100]);
    let cut = value.slice(10..90);
    let mut batch = WriteBatch::new();
    batch.put(Space::Kv, Bytes::from_static(b"k"), value.clone());
    batch.put(Space::Log, Bytes::from_static(b"l"), cut.clone());
    engine.write(batch).expect("write");
    let kept = engine.get(Space::Kv, b"k").expect("get").expect("value");
    assert_eq!(kept.as_ptr(), value.as_ptr());
    let copied = engine.get(Space::Log, b"l").expect("get").expect("value");
    assert_eq!(copied, cut);
    assert_ne!(copied.as_ptr(), cut.as_ptr(), "keeps the larger buffer alive");
}

#[test]
#[should_panic = "a scan goes only forward"]
fn a_seek_backward_panics() {
    let engine = super::memory::MemoryEngine::new();
    let mut batch = WriteBatch::new();
    batch.put(Space::Kv, Bytes::from_static(b"k"), Bytes::new());
    engine.write(batch).expect("write");
    let _ = engine.scan(Space::Kv, b"", None, &mut |key, _| Flow::Seek(key.to_vec()));
}

#[test]
#[cfg(debug_assertions)]
#[should_panic = "a visitor must not call the engine"]
fn a_visitor_that_reads_the_engine_panics() {
    let engine = super::memory::MemoryEngine::new();
    let mut batch = WriteBatch::new();
    batch.put(Space::Kv, Bytes::from_static(b"k"), Bytes::new());
    engine.write(batch).expect("write");
    let _ = engine.scan(Space::Kv, b"", None, &mut |key, _| {
        let _ = engine.get(Space::Kv, key);
        Flow::Next
    });
}

#[test]
#[should_panic = "excess key"]
fn the_mirror_panics_on_a_difference() {
    let memory = super::memory::MemoryEngine::new();
    let other = super::memory::MemoryEngine::new();
    let mut batch = WriteBatch::new();
    batch.put(Space::Kv, Bytes::from_static(b"k"), Bytes::new());
    other.write(batch).expect("write");
    let mirror = super::mirror::Mirror::new(Box::new(memory), Box::new(other));
    let _ = mirror.scan(Space::Kv, b"", None, &mut |_, _| Flow::Next);
}

/// A batch becomes visible as a whole, also to a reader on another thread.
#[test]
fn readers_see_whole_batches() {
    for (name, engine) in test_engines() {
        let write = |round: u32| {
            let mut batch = WriteBatch::new();
            for n in 0..20_u8 {
                batch.put(Space::Kv, vec![n], round.to_be_bytes().to_vec());
            }
            batch.put(Space::Meta, Bytes::from_static(b"round"), round.to_be_bytes().to_vec());
            engine.write(batch).expect("write");
        };
        write(0);
        std::thread::scope(|threads| {
            let reader = threads.spawn(|| {
                let mut last = 0;
                while last < 300 {
                    let mut rounds = Vec::new();
                    engine
                        .scan(Space::Kv, b"", None, &mut |_, value| {
                            rounds.push(value.to_bytes());
                            Flow::Next
                        })
                        .expect("scan");
                    assert_eq!(rounds.len(), 20, "{name}");
                    assert!(rounds.iter().all(|r| r == &rounds[0]), "{name}: {rounds:?}");
                    let mut array = [0; 4];
                    array.copy_from_slice(&rounds[0]);
                    let round = u32::from_be_bytes(array);
                    assert!(round >= last, "{name}");
                    last = round;
                }
            });
            for round in 1..=300 {
                write(round);
            }
            reader.join().expect("reader");
        });
    }
}
