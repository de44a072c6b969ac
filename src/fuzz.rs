//! What fuzzing feeds: each target takes any bytes and must neither panic nor break what it states.
//!
//! Built for `cargo fuzz` and for the test below, which runs the committed inputs; never in the product.

use crate::backup::import;
use crate::bolt::{Database, Source, Writer};
use crate::config;
use crate::error::Fatal;
use crate::machine::{CommittedEntry, Machine, decode_command, encode_command};
use crate::pb::etcdserverpb::{
    AlarmRequest, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, Member, PutRequest,
    RangeRequest, TxnRequest,
};
use crate::pb::quoinpb::command::Request;
use crate::raft_log::disk::{DiskLog, DiskLogOptions};
use crate::server::{fuzz as server, validate};
use crate::storage::memory::MemoryEngine;
use crate::storage::snapshot_file::SnapshotReader;
use crate::types::{ClusterId, MemberId, RequestId};
use bytes::{Buf as _, Bytes};
use prost::Message;
use raft::{GetEntriesContext, Storage as _};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A target: takes any bytes.
pub type Target = fn(&[u8]);

/// All targets by the names of their programs and of their folders of inputs.
pub const TARGETS: [(&str, Target); 12] = [
    ("requests", requests),
    ("command", command),
    ("raft_log", raft_log),
    ("snapshot", snapshot),
    ("snapshot_file", snapshot_file),
    ("bolt", bolt),
    ("bolt_writer", bolt_writer),
    ("gateway", server::gateway),
    ("token", server::token),
    ("authority", server::authority),
    ("flags", flags),
    ("config_file", config_file),
];

/// Runs the target of this name.
///
/// # Panics
/// When there is none, and when the target finds a fault.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.unwrap_or_else(|| panic!("no target is called {name}")).1(data);
}

fn members() -> Vec<Member> {
    vec![Member { id: 1, peer_ur_ls: vec!["http://localhost:2380".into()], ..Member::default() }]
}

fn machine() -> Machine {
    let mut machine = Machine::open(Arc::new(MemoryEngine::new())).expect("an empty state");
    machine.bootstrap(members()).expect("a new state");
    machine
}

fn apply(machine: &mut Machine, command: Bytes) -> Result<(), Fatal> {
    let index = machine.applied_index() + 1;
    machine.apply(&[CommittedEntry { index, term: 1, command }]).map(drop)
}

/// Requests in a row, each a kind, a length and a message: what passes the checks is applied, and
/// read again.
fn requests(mut data: &[u8]) {
    let mut machine = machine();
    while data.len() >= 3 {
        let (kind, length) = (data.get_u8(), usize::from(data.get_u16()));
        let (message, rest) = data.split_at(length.min(data.len()));
        data = rest;
        let sequence = machine.applied_index();
        let id = RequestId { member: MemberId(1), boot: 2, sequence };
        if let Some(request) = checked(kind, message, &machine) {
            apply(&mut machine, encode_command(id, request).into())
                .expect("checked requests apply");
        }
        let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
        let all = machine.view().range(&all).expect("a store").expect("the present");
        assert_eq!(all.count as usize, all.kvs.len());
    }
}

fn checked(kind: u8, message: &[u8], machine: &Machine) -> Option<Request> {
    match kind % 6 {
        0 => {
            let request = PutRequest::decode(message).ok()?;
            validate::put(&request).ok()?;
            Some(Request::Put(request))
        }
        1 => {
            let request = DeleteRangeRequest::decode(message).ok()?;
            validate::delete_range(&request).ok()?;
            Some(Request::DeleteRange(request))
        }
        2 => {
            let request = TxnRequest::decode(message).ok()?;
            validate::txn(&request, 128).ok()?;
            Some(Request::Txn(request))
        }
        3 => Some(Request::Compaction(CompactionRequest::decode(message).ok()?)),
        4 => {
            let request = LeaseGrantRequest::decode(message).ok()?;
            validate::lease_grant(&request).ok()?;
            Some(Request::LeaseGrant(request))
        }
        _ => {
            let request = RangeRequest::decode(message).ok()?;
            validate::range(&request).ok()?;
            let view = machine.view();
            let whole = view.range(&request).expect("a store");
            let encoded = view.range_encoded(&request, &|_| true).expect("a store");
            assert_eq!(whole.map(|whole| whole.count), encoded.map(|encoded| encoded.count));
            None
        }
    }
}

/// One entry of the log, as a member of another version might have written it.
fn command(data: &[u8]) {
    let command = Bytes::copy_from_slice(data);
    let Ok((_, request)) = decode_command(command.clone()) else { return };
    // Alarms aside, whose kinds a message can name that no version has.
    if !matches!(request, Request::Alarm(AlarmRequest { .. })) {
        let _refused = apply(&mut machine(), command);
    }
}

/// A folder of the process in memory, made anew.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("quoin-fuzz-{name}-{}", std::process::id()));
    let _missing = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// One file of a log: what opens can be read, and opens again with the same entries.
fn raft_log(data: &[u8]) {
    let folder = folder("raft-log");
    std::fs::write(folder.join("0000000000000001.log"), data).expect("a file");
    let open = || {
        let mut options = DiskLogOptions::new(folder.clone(), ClusterId(1), MemberId(1));
        (options.segment_bytes, options.first_segment_bytes) = (8192, 8192);
        options.unsafe_no_fsync = true;
        let log = DiskLog::open(options)?;
        let (Ok(first), Ok(last)) = (log.first_index(), log.last_index()) else {
            return Err(Fatal::new("a log without bounds"));
        };
        let context = GetEntriesContext::empty(false);
        let entries =
            log.entries(first, last + 1, None, context).expect("what the log says it has");
        Ok::<_, Fatal>((first, last, entries))
    };
    if let Ok(first) = open() {
        assert_eq!(open().expect("what opened once opens again"), first);
    }
    std::fs::remove_dir_all(&folder).expect("a folder of our own");
}

/// A stored snapshot as it lies on the disk.
fn snapshot_file(data: &[u8]) {
    let path = folder("snapshot").join("0000000000000001.snap");
    std::fs::write(&path, data).expect("a file");
    if let Ok(mut reader) = SnapshotReader::open(&path) {
        while let Ok(Some(_block)) = reader.next_block() {}
    }
    std::fs::remove_dir_all(path.parent().expect("its folder")).expect("a folder of our own");
}

/// The blocks of a snapshot: what is restored can be opened.
fn snapshot(data: &[u8]) {
    let engine = Arc::new(MemoryEngine::new());
    let mut blocks = data.chunks(512).map(Bytes::copy_from_slice);
    if crate::machine::restore(engine.as_ref(), &mut || Ok(blocks.next())).is_ok()
        && let Ok(machine) = Machine::open(engine)
    {
        let _damaged = machine.capture().map(|capture| capture.versions());
    }
}

struct File<'a>(&'a [u8]);

impl Source for File<'_> {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Fatal> {
        Source::read_at(self.0, offset, bytes)
    }
}

/// A database file: what can be imported can be opened.
fn bolt(data: &[u8]) {
    let file = File(data);
    let Ok(database) = Database::open(&file) else { return };
    let _damaged = database.check();
    let _foreign = crate::backup::status(&database);
    let engine = Arc::new(MemoryEngine::new());
    if import(&database, engine.as_ref(), &members(), None).is_ok() {
        Machine::open(engine).expect("what was imported");
    }
}

/// Buckets and pairs in any order: what the writer of databases takes is read again, and nothing else.
///
/// Each begins with what it is, how long its name or key is, and how long its value.
fn bolt_writer(mut data: &[u8]) {
    let mut file = Vec::new();
    let mut sink = |page: &[u8]| {
        file.extend_from_slice(page);
        Ok(())
    };
    let mut writer = Writer::new(&mut sink).expect("room for the first pages");
    let mut taken: BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>> = BTreeMap::new();
    let mut bucket = None;
    while data.len() >= 4 {
        let (kind, name_len, value_len) = (data.get_u8(), data.get_u8(), data.get_u16());
        let (name, rest) = data.split_at(usize::from(name_len).min(data.len()));
        data = rest;
        // Some keys fill pages of branches.
        let name = name.repeat(if kind & 2 == 0 { 1 } else { 9 });
        if kind & 1 == 0 {
            bucket = writer.begin_bucket(&name).is_ok().then(|| name.clone());
            taken.extend(bucket.clone().map(|name| (name, BTreeMap::new())));
        } else {
            let value = vec![kind; usize::from(value_len)];
            if writer.put(&name, &value).is_ok() {
                let bucket = bucket.as_ref().expect("a bucket for what was taken");
                let pairs = taken.get_mut(bucket).expect("a bucket that was begun");
                assert!(pairs.insert(name, value).is_none(), "a key is taken once");
            }
        }
    }
    let (head, len) = writer.finish().expect("an end");
    file[..head.len()].copy_from_slice(&head);
    assert_eq!(file.len() as u64, len);
    let file = File(&file);
    let database = Database::open(&file).expect("a database");
    database.check().expect("a whole database");
    let names: Vec<&Vec<u8>> = taken.keys().collect();
    assert!(database.buckets().expect("names").iter().eq(names), "all buckets are there");
    let mut left =
        taken.iter().flat_map(|(name, pairs)| pairs.iter().map(move |pair| (name, pair)));
    let walked = database.walk(None, &mut |bucket, key, value| {
        let (name, pair) = left.next().expect("nothing but what was taken");
        assert_eq!((&name[..], &pair.0[..], &pair.1[..]), (bucket, key, value));
        Ok(())
    });
    walked.expect("all pairs");
    assert!(left.next().is_none(), "all pairs are there");
}

/// A command line, with a variable of the environment first.
fn flags(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut words = text.split('\n').map(std::ffi::OsString::from);
    let variable = words.next().map(|value| ("ETCD_NAME".into(), value));
    // Files of the machine are none of its business.
    let words = words.filter(|word| !word.to_string_lossy().contains("config-file"));
    if let Err(error) = config::read(words.collect::<Vec<_>>(), variable) {
        assert!(!error.message.is_empty());
    }
}

/// A configuration file, in YAML or JSON.
fn config_file(data: &[u8]) {
    let folder = folder("config");
    let path = folder.join("etcd.conf");
    std::fs::write(&path, data).expect("a file");
    let words: Vec<std::ffi::OsString> = vec!["--config-file".into(), path.into()];
    if let Err(error) = config::read(words, None) {
        assert!(!error.message.is_empty());
    }
    std::fs::remove_dir_all(&folder).expect("a folder of our own");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::export;
    use crate::pb::etcdserverpb::request_op::Request as Op;
    use crate::pb::etcdserverpb::{Compare, RequestOp};
    use crate::raft_log::LogStore as _;
    use crate::storage::snapshot_file::SnapshotStore;
    use raft::eraftpb::{Entry, HardState};
    use std::path::Path;

    /// An input for each target to begin with, which gets far.
    fn seeds() -> Vec<(&'static str, Vec<u8>)> {
        let id = RequestId { member: MemberId(1), boot: 2, sequence: 1 };
        let put = PutRequest { key: "key".into(), value: "value".into(), ..Default::default() };
        let command = encode_command(id, Request::Put(put.clone()));
        let mut machine = machine();
        apply(&mut machine, command.clone().into()).unwrap();
        let mut capture = machine.capture().unwrap();
        let block = capture.next_block(1000).unwrap().unwrap();
        let range = RangeRequest { key: "key".into(), ..Default::default() };
        let compare = Compare { key: "key".into(), ..Default::default() };
        let ops = vec![RequestOp { request: Some(Op::RequestPut(put.clone())) }];
        let txn = TxnRequest { compare: vec![compare], success: ops, ..Default::default() };
        let compaction = CompactionRequest { revision: 2, ..Default::default() };
        let mut requests = Vec::new();
        for (kind, message) in [
            (0, put.encode_to_vec()),
            (5, range.encode_to_vec()),
            (2, txn.encode_to_vec()),
            (4, LeaseGrantRequest { ttl: 9, id: 7 }.encode_to_vec()),
            (3, compaction.encode_to_vec()),
            (1, DeleteRangeRequest { key: "key".into(), ..Default::default() }.encode_to_vec()),
        ] {
            requests.push(kind);
            requests.extend_from_slice(&(message.len() as u16).to_be_bytes());
            requests.extend_from_slice(&message);
        }
        let mut database = Vec::new();
        let exported = export(&machine.capture().unwrap(), &mut |page| {
            database.extend_from_slice(page);
            Ok(())
        });
        database.splice(..0, exported.unwrap().head);
        vec![
            ("requests", requests),
            ("command", command),
            ("raft_log", log_file()),
            ("snapshot", block.to_vec()),
            ("snapshot_file", snapshot_file_of(&block)),
            ("bolt", database),
            (
                "gateway",
                b"\x00\x05{\"key\":\"Zm9v\",\"limit\":\"5\",\"sort_order\":\"DESCEND\"}".into(),
            ),
            (
                "gateway",
                b"\x02\xff{\"compare\":[{\"key\":\"Zg==\",\"version\":1}],\"success\":[]}".into(),
            ),
            (
                "token",
                b"{\"alg\":\"HS256\"}\0{\"username\":\"a\",\"revision\":1,\"exp\":4e9}".into(),
            ),
            ("authority", server::authority_seed()),
            (
                "flags",
                b"name\n--name=m1\n--listen-client-urls\nhttp://127.0.0.1:1\n-pre-vote".into(),
            ),
            ("bolt_writer", pairs()),
            (
                "config_file",
                b"name: n1\nlisten-client-urls: http://127.0.0.1:2379,http://[::1]:2379\n\
                  snapshot-count: 0x10\nelection-timeout: 1e3\n\
                  client-transport-security:\n  cert-file: a.crt\n  key-file: a.key\n\
                  log-outputs: [stderr, b.log]\n"
                    .into(),
            ),
            (
                "config_file",
                br#"{"name": "n1", "initial-cluster": "n1=http://127.0.0.1:2380", "cors": "*"}"#
                    .into(),
            ),
        ]
    }

    /// Two buckets, one of three levels; a pair that comes twice, and one without a bucket.
    fn pairs() -> Vec<u8> {
        let mut input = Vec::new();
        let mut add = |kind: u8, name: &[u8], value_len: u16| {
            input.extend_from_slice(&[kind, name.len() as u8]);
            input.extend_from_slice(&value_len.to_be_bytes());
            input.extend_from_slice(name);
        };
        add(1, b"nowhere", 1);
        add(0, b"few", 0);
        add(1, b"k", 5000);
        add(1, b"k", 1);
        add(0, b"many", 0);
        for n in 0..120u8 {
            add(3, &[&[n; 1][..], &[b'x'; 200]].concat(), 700);
        }
        add(0, b"few", 0);
        input
    }

    fn log_file() -> Vec<u8> {
        let folder = folder("raft-log-seed");
        let mut options = DiskLogOptions::new(folder.clone(), ClusterId(1), MemberId(1));
        (options.segment_bytes, options.first_segment_bytes) = (8192, 8192);
        let mut log = DiskLog::open(options).unwrap();
        let entry = |index| Entry { index, term: 1, data: "data".into(), ..Entry::default() };
        let hard_state = HardState { term: 1, vote: 1, commit: 0, ..HardState::default() };
        log.append(&[entry(1), entry(2)], Some(&hard_state)).unwrap();
        log.sync().unwrap();
        let file = std::fs::read(folder.join("0000000000000001.log")).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
        file
    }

    fn snapshot_file_of(block: &[u8]) -> Vec<u8> {
        let folder = folder("snapshot-seed");
        let files = SnapshotStore::open(folder.clone()).unwrap();
        let mut staging = files.stage(7, 1).unwrap();
        staging.write_block(block).unwrap();
        staging.finish().unwrap().publish().unwrap();
        let stored = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap();
        let file = std::fs::read(stored.path()).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
        file
    }

    #[test]
    fn the_committed_inputs_pass() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        if std::env::var_os("UPDATE_FUZZ_SEEDS").is_some() {
            for (number, (name, seed)) in seeds().into_iter().enumerate() {
                std::fs::create_dir_all(corpus.join(name)).unwrap();
                std::fs::write(corpus.join(name).join(format!("seed-{number}")), seed).unwrap();
            }
        }
        for (name, target) in TARGETS {
            let folder = std::fs::read_dir(corpus.join(name)).expect(name);
            let mut inputs = 0;
            for input in folder {
                target(&std::fs::read(input.expect("an input").path()).expect("an input"));
                inputs += 1;
            }
            assert!(inputs > 0, "no inputs for {name}");
        }
    }
}
