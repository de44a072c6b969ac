//! States and databases are turned into each other without loss, and foreign ones refused.

use super::{Exported, Imported, export, import, schema, status};
use crate::bolt::{Database, Source, Writer};
use crate::error::Fatal;
use crate::machine::{CommittedEntry, Machine, encode_command};
use crate::mvcc::HashKv;
use crate::pb::etcdserverpb::alarm_request::AlarmAction;
use crate::pb::etcdserverpb::request_op::Request as Op;
use crate::pb::etcdserverpb::{
    AlarmRequest, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, Member, PutRequest,
    RequestOp, TxnRequest,
};
use crate::pb::quoinpb::command::Request;
use crate::storage::memory::MemoryEngine;
use crate::storage::{Engine, Flow, Space};
use crate::types::{MemberId, RequestId, Revision};
use bytes::Bytes;
use proptest::prelude::*;
use std::sync::Arc;

/// What etcdctl 3.7.1 saved; etcd-test-data/README.md tells what is in it.
const FROM_ETCD: &[u8] = include_bytes!("../../etcd-test-data/backups/etcd-3.7.1.db");

struct File<'a>(&'a [u8]);

impl Source for File<'_> {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Fatal> {
        Source::read_at(self.0, offset, bytes)
    }
}

fn machine() -> Machine {
    let mut machine = Machine::open(Arc::new(MemoryEngine::new())).unwrap();
    machine.bootstrap(members()).unwrap();
    machine
}

fn members() -> Vec<Member> {
    let peer_ur_ls = vec!["http://localhost:2380".to_owned()];
    vec![Member { id: 0xabc, name: "m".to_owned(), peer_ur_ls, ..Member::default() }]
}

fn apply(machine: &mut Machine, request: Request) {
    let index = machine.applied_index() + 1;
    let id = RequestId { member: MemberId(1), boot: 2, sequence: index };
    let command = encode_command(id, request).into();
    machine.apply(&[CommittedEntry { index, term: 1, command }]).unwrap();
}

fn exported(machine: &Machine) -> Vec<u8> {
    let mut file = Vec::new();
    let Exported { head, len } = export(&machine.capture().unwrap(), &mut |page| {
        file.extend_from_slice(page);
        Ok(())
    })
    .unwrap();
    file[..head.len()].copy_from_slice(&head);
    assert_eq!(file.len() as u64, len);
    file
}

fn imported(file: &[u8], bump: Option<u64>) -> Result<(Machine, Imported), Fatal> {
    let file = File(file);
    let database = Database::open(&file)?;
    database.check()?;
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    let imported = import(&database, &*engine, &members(), bump)?;
    Ok((Machine::open(engine)?, imported))
}

/// All pairs of these buckets.
fn pairs(file: &[u8], buckets: &[&[u8]]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let file = File(file);
    let database = Database::open(&file).unwrap();
    let mut pairs = Vec::new();
    for bucket in buckets {
        let visit = &mut |_: &[u8], key: &[u8], value: &[u8]| {
            pairs.push((key.to_vec(), value.to_vec()));
            Ok(())
        };
        database.walk(Some(bucket), visit).unwrap();
    }
    pairs
}

fn records(machine: &Machine, space: Space) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut records = Vec::new();
    let visit = &mut |key: &[u8], value: crate::storage::Value<'_>| {
        records.push((key.to_vec(), value.as_slice().to_vec()));
        Flow::Next
    };
    machine.engine().scan(space, &[], None, visit).unwrap();
    records
}

fn hash(machine: &Machine, revision: i64) -> HashKv {
    machine.view().hash_kv(revision).unwrap().unwrap()
}

/// The buckets that a new cluster takes over.
const KEPT: [&[u8]; 7] = [
    schema::ALARM,
    schema::AUTH,
    schema::AUTH_ROLES,
    schema::AUTH_USERS,
    schema::CLUSTER,
    schema::KEY,
    schema::LEASE,
];

fn assert_same_content(old: &Machine, new: &Machine) {
    let (revision, compacted) = (old.view().revision(), old.view().compacted());
    assert_eq!((new.view().revision(), new.view().compacted()), (revision, compacted));
    for at in compacted.max(1)..=revision {
        assert_eq!(hash(new, at), hash(old, at), "at revision {at}");
    }
    for space in [Space::Lease, Space::LeaseKey, Space::Alarm, Space::Auth] {
        assert_eq!(records(new, space), records(old, space), "{}", space.name());
    }
}

fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["a", "b", "b\0", "c"]).prop_map(Bytes::from)
}

fn put() -> impl Strategy<Value = PutRequest> {
    (key(), any::<u8>(), 0..4i64).prop_map(|(key, value, lease)| PutRequest {
        key,
        value: vec![value; usize::from(value) * 40].into(),
        lease,
        ..PutRequest::default()
    })
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), prop::sample::select(vec!["", "b\x01", "\0"])).prop_map(|(key, end)| {
        DeleteRangeRequest { key, range_end: end.into(), ..DeleteRangeRequest::default() }
    })
}

fn request() -> impl Strategy<Value = Request> {
    let op = prop_oneof![
        put().prop_map(|put| Op::RequestPut(PutRequest { lease: 0, ..put })),
        delete().prop_map(Op::RequestDeleteRange),
    ];
    let txn = prop::collection::vec(op, 1..3).prop_map(|ops| TxnRequest {
        success: ops.into_iter().map(|op| RequestOp { request: Some(op) }).collect(),
        ..TxnRequest::default()
    });
    prop_oneof![
        8 => put().prop_map(Request::Put),
        3 => delete().prop_map(Request::DeleteRange),
        2 => txn.prop_map(Request::Txn),
        2 => (1..4i64, 60..90i64)
            .prop_map(|(id, ttl)| Request::LeaseGrant(LeaseGrantRequest { id, ttl })),
        2 => (0..30i64).prop_map(|revision| {
            Request::Compaction(CompactionRequest { revision, physical: false })
        }),
        1 => (1..4u64, 1..3i32).prop_map(|(member_id, alarm)| {
            let action = AlarmAction::Activate as i32;
            // One that forbids nothing that these tests do afterwards.
            Request::Alarm(AlarmRequest { action, member_id, alarm: alarm.min(1) })
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn an_export_of_an_import_is_the_same(
        requests in prop::collection::vec(request(), 0..40), steps in 0..4usize,
    ) {
        let mut old = machine();
        let (alarms, others): (Vec<_>, Vec<_>) =
            requests.into_iter().partition(|request| matches!(request, Request::Alarm(_)));
        others.into_iter().chain(alarms).for_each(|request| apply(&mut old, request));
        let file = exported(&old);
        // How far removal has come does not show.
        for _ in 0..steps {
            old.compaction_step(2).unwrap();
        }
        prop_assert_eq!(&exported(&old), &file);

        let (mut new, imported) = imported(&file, None).unwrap();
        prop_assert_eq!(imported.revision, old.view().revision());
        prop_assert_eq!(imported.compacted, Some(old.view().compacted()).filter(|at| *at >= 0));
        assert_same_content(&old, &new);
        prop_assert_eq!(pairs(&exported(&new), &KEPT), pairs(&file, &KEPT));
        // Removal takes up its work on what came in, and finds nothing that should have stayed out.
        while new.compaction_step(8).unwrap() == crate::mvcc::CompactionProgress::More {}
        assert_same_content(&old, &new);
    }
}

#[test]
fn what_etcd_saved_is_taken_in_whole() {
    let (machine, found) = imported(FROM_ETCD, None).unwrap();
    let expected = Imported { revision: 9, compacted: Some(4), versions: 8, leases: 1 };
    assert_eq!(found, expected);
    // What etcdutl hashkv told of the same file.
    let HashKv { hash, revision, compacted, .. } = hash(&machine, 0);
    assert_eq!((hash, revision, compacted), (FROM_ETCD_HASH_KV, 9, 4));
    let (lease, ttl) = machine.leases().iter().next().unwrap();
    assert_eq!(ttl, 3000);
    let keys: Vec<&Bytes> = machine.leases().keys(lease).unwrap().collect();
    assert_eq!(keys, ["withlease"]);
    assert_eq!(machine.cluster_version(), Some("3.7.0"));
    assert_eq!(machine.members().all().len(), 1, "the new cluster's");
    assert_eq!(pairs(&exported(&machine), &KEPT), pairs(FROM_ETCD, &KEPT));
}

const FROM_ETCD_HASH_KV: u32 = 1_125_853_820;
const FROM_ETCD_STATUS_HASH: u32 = 0x78ce_124f;

#[test]
fn the_status_is_that_of_etcds_tool() {
    let file = File(FROM_ETCD);
    let database = Database::open(&file).unwrap();
    let status = status(&database).unwrap();
    let found = (status.hash, status.revision, status.keys, status.size, &status.version[..]);
    assert_eq!(found, (FROM_ETCD_STATUS_HASH, 9, 6, 49_152, "3.7.0"));
}

#[test]
fn a_bump_compacts_everything_below_it() {
    let (mut machine, found) = imported(FROM_ETCD, Some(1_000)).unwrap();
    assert_eq!((found.revision, found.compacted), (1_009, Some(1_009)));
    assert_eq!((machine.view().revision(), machine.view().compacted()), (1_009, 1_009));
    let before = machine.view().get_at(b"b", 1_009).unwrap().unwrap();
    assert_eq!((before.create_revision, before.mod_revision), (4, 4), "keys keep theirs");
    while machine.compaction_step(8).unwrap() == crate::mvcc::CompactionProgress::More {}
    assert!(machine.view().get_at(b"b", 1_009).unwrap().is_some());
    apply(&mut machine, Request::Put(PutRequest { key: "n".into(), ..PutRequest::default() }));
    assert_eq!(machine.view().revision(), 1_010);
    // And what is exported then is taken in again.
    let (again, found) = imported(&exported(&machine), None).unwrap();
    assert_eq!((found.revision, found.compacted), (1_010, Some(1_009)));
    assert_same_content(&machine, &again);
    assert!(imported(FROM_ETCD, Some(u64::MAX)).is_err());
    assert!(imported(FROM_ETCD, Some(i64::MAX as u64)).is_err());
}

/// A database with these pairs, in the order given.
fn database(pairs: &[(&[u8], &[u8], &[u8])]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut sink = |page: &[u8]| {
        file.extend_from_slice(page);
        Ok(())
    };
    let mut writer = Writer::new(&mut sink).unwrap();
    let mut last: Option<&[u8]> = None;
    for (bucket, key, value) in pairs {
        if last != Some(*bucket) {
            writer.begin_bucket(bucket).unwrap();
            last = Some(*bucket);
        }
        if !key.is_empty() {
            writer.put(key, value).unwrap();
        }
    }
    let (head, _) = writer.finish().unwrap();
    file[..head.len()].copy_from_slice(&head);
    file
}

#[test]
fn foreign_and_contradictory_databases_are_refused_with_the_reason() {
    let at = |main| schema::revision_key(Revision::new(main, 0));
    let (two, three) = (at(2), at(3));
    let dead = [&at(3)[..], b"t"].concat();
    let kv = |key: &str, create, changed, version| {
        let (key, value) = (Bytes::from(key.to_owned()), Bytes::from("v"));
        let kv = crate::pb::mvccpb::KeyValue {
            key,
            value,
            create_revision: create,
            mod_revision: changed,
            version,
            lease: 0,
        };
        prost::Message::encode_to_vec(&kv)
    };
    let (good, other, gone) = (kv("a", 2, 2, 1), kv("b", 3, 3, 1), kv("b", 0, 0, 0));
    let meta: (&[u8], &[u8], &[u8]) = (b"meta", b"", b"");
    let table: Vec<(Vec<(&[u8], &[u8], &[u8])>, &str)> = vec![
        (vec![(b"other", b"k", b"v")], "no bucket \"key\", so it is none of etcd's"),
        (vec![(b"key", b"", b"")], "no bucket \"meta\""),
        (vec![(b"key", b"short", b"v"), meta], "\"short\" is no revision"),
        (vec![(b"key", &two, b"\x0a\xff"), meta], "decode the value of revision 2.0"),
        (vec![(b"key", &three, &good), meta], "take in revision 3.0: key \"a\", created at 2"),
        (vec![(b"key", &two, b"\x10\x02\x18\x02\x20\x01"), meta], "take in revision 2.0: key \"\""),
        (
            vec![(b"key", &two, &good), (b"key", &three, &other), (b"key", &dead, &gone), meta],
            "revision 3.0 comes twice",
        ),
        (
            vec![(b"key", b"", b""), (b"lease", b"12345678", b"\x08\x05\x10\x05"), meta],
            "the lease at \"12345678\" has id 5",
        ),
        (
            vec![(b"authUsers", b"u", b"\x0a\x01v"), (b"key", b"", b""), meta],
            "the record of \"u\" is that of \"v\"",
        ),
        (
            vec![(b"key", b"", b""), (b"meta", b"finishedCompactRev", b"4")],
            "finishedCompactRev is no revision",
        ),
    ];
    for (pairs, reason) in table {
        let refusal = imported(&database(&pairs), None).err().expect(reason).to_string();
        assert!(refusal.contains(reason), "{reason}: {refusal}");
    }
    let empty = database(&[(b"key", b"", b""), meta]);
    assert_eq!(imported(&empty, None).unwrap().1.revision, 1, "an empty store is one");
}

/// What etcd's own `--bump-revision` leaves behind: a revision without key and value.
#[test]
fn the_mark_of_a_bump_by_etcds_tool_is_kept() {
    let kv = b"\x0a\x01a\x10\x02\x18\x02\x20\x01";
    let (two, bumped) =
        (schema::revision_key(Revision::new(2, 0)), schema::revision_key(Revision::new(50, 0)));
    let file = database(&[
        (b"key", &two, kv),
        (b"key", &bumped, b""),
        (b"meta", b"scheduledCompactRev", &bumped),
    ]);
    let (machine, found) = imported(&file, None).unwrap();
    assert_eq!((found.revision, found.compacted, found.versions), (50, Some(50), 1));
    assert_eq!(machine.view().revision(), 50);
    assert!(machine.view().get_at(b"a", 50).unwrap().is_some());
    let hashed = |parts: &[&[u8]]| crc32c::crc32c(&[b"key", &parts.concat()[..]].concat());
    let compacted = hash(&machine, 50);
    assert_eq!(compacted.hash, hashed(&[&two, kv, &bumped]));
    assert_eq!(pairs(&exported(&machine), &[schema::KEY]), pairs(&file, &[schema::KEY]));

    let (mut machine, _) = imported(&exported(&machine), None).unwrap();
    assert_eq!(hash(&machine, 0), compacted);
    apply(&mut machine, Request::Put(PutRequest { key: "b".into(), ..PutRequest::default() }));
    assert_eq!(hash(&machine, 50).hash, compacted.hash, "it is hashed where it is");
    let (next, put) =
        (schema::revision_key(Revision::new(51, 0)), b"\x0a\x01b\x10\x33\x18\x33\x20\x01");
    assert_eq!(hash(&machine, 51).hash, hashed(&[&two, kv, &bumped, &next, put]));
    let compaction = CompactionRequest { revision: 51, physical: false };
    apply(&mut machine, Request::Compaction(compaction));
    while machine.compaction_step(8).unwrap() == crate::mvcc::CompactionProgress::More {}
    assert_eq!(hash(&machine, 51).hash, hashed(&[&two, kv, &bumped, &next, put]), "and never goes");
    let keys: Vec<_> =
        pairs(&exported(&machine), &[schema::KEY]).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [&two[..], &bumped, &next]);

    // A bump of ours leaves the same, and only the last one counts.
    let (again, _) = imported(&exported(&machine), Some(9)).unwrap();
    let last = schema::revision_key(Revision::new(60, 0));
    assert_eq!(hash(&again, 60).hash, hashed(&[&two, kv, &next, put, &last]));
}
