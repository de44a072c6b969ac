//! Put, DeleteRange and Compact, row by row.

use crate::cluster::{Cluster, Engine};
use crate::on_each_engine;
use crate::requests::{delete, delete_range, get, keys, put, refusal};
use quoin::pb::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseTimeToLiveRequest, PutRequest,
    RangeRequest,
};
use quoin::pb::mvccpb::KeyValue;
use tonic::Code;

on_each_engine![
    a_put_keeps_what_it_is_asked_to_keep,
    a_put_moves_its_key_between_leases,
    a_delete_takes_an_interval_in_one_revision,
    revisions_go_up_only_with_changes,
    compaction_is_refused_below_and_above,
];

async fn a_put_keeps_what_it_is_asked_to_keep(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let mut kv = raw.kv.clone();
    raw.lease.clone().lease_grant(LeaseGrantRequest { id: 5, ttl: 600 }).await.unwrap();

    let with_previous = |request| PutRequest { prev_kv: true, ..request };
    let first = kv.put(with_previous(put("key", "one"))).await.unwrap().into_inner();
    assert_eq!((first.header.unwrap().revision, first.prev_kv), (2, None));
    kv.put(PutRequest { lease: 5, ..put("key", "two") }).await.unwrap();

    let keep_value = PutRequest { ignore_value: true, ..with_previous(put("key", "")) };
    let answer = kv.put(keep_value.clone()).await.unwrap().into_inner();
    let expected = KeyValue {
        key: "key".into(),
        create_revision: 2,
        mod_revision: 3,
        version: 2,
        value: "two".into(),
        lease: 5,
    };
    assert_eq!(answer.prev_kv, Some(expected.clone()));
    // The value stayed, the lease did not.
    let now = kv.range(get("key")).await.unwrap().into_inner().kvs;
    assert_eq!(now, [KeyValue { mod_revision: 4, version: 3, lease: 0, ..expected.clone() }]);

    kv.put(PutRequest { lease: 5, ..put("key", "three") }).await.unwrap();
    kv.put(PutRequest { ignore_lease: true, ..put("key", "four") }).await.unwrap();
    let now = kv.range(get("key")).await.unwrap().into_inner().kvs;
    let value = "four".into();
    assert_eq!(now, [KeyValue { mod_revision: 6, version: 5, value, ..expected.clone() }]);
    let keep_both = PutRequest { ignore_lease: true, ..keep_value };
    kv.put(keep_both).await.unwrap();
    let now = kv.range(get("key")).await.unwrap().into_inner().kvs;
    let value = "four".into();
    assert_eq!(now, [KeyValue { mod_revision: 7, version: 6, value, ..expected }]);

    kv.put(put("empty", "")).await.unwrap();
    let empty = kv.range(get("empty")).await.unwrap().into_inner().kvs;
    assert!(empty[0].value.is_empty() && empty[0].version == 1);
}

async fn a_put_moves_its_key_between_leases(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let (mut kv, mut lease) = (raw.kv.clone(), raw.lease.clone());
    for id in [5, 6] {
        lease.lease_grant(LeaseGrantRequest { id, ttl: 600 }).await.unwrap();
    }
    let mut attached = async |id| {
        let request = LeaseTimeToLiveRequest { id, keys: true };
        let mut keys = lease.lease_time_to_live(request).await.unwrap().into_inner().keys;
        keys.sort();
        keys
    };
    kv.put(PutRequest { lease: 5, ..put("a", "") }).await.unwrap();
    kv.put(PutRequest { lease: 5, ..put("b", "") }).await.unwrap();
    assert_eq!(attached(5).await, ["a", "b"]);
    kv.put(PutRequest { lease: 6, ..put("a", "") }).await.unwrap();
    assert_eq!((attached(5).await, attached(6).await), (vec!["b".into()], vec!["a".into()]));
    kv.put(put("a", "")).await.unwrap();
    assert!(attached(6).await.is_empty());
    kv.delete_range(delete("b")).await.unwrap();
    assert!(attached(5).await.is_empty());
}

async fn a_delete_takes_an_interval_in_one_revision(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut kv = cluster.raw(0).kv;
    let mut left = async |request: DeleteRangeRequest| {
        for key in ["a", "b", "c", "d"] {
            kv.put(put(key, key)).await.unwrap();
        }
        let before = kv.put(put("e", "e")).await.unwrap().into_inner().header.unwrap().revision;
        let answer = kv.delete_range(request.clone()).await.unwrap().into_inner();
        let revision = answer.header.unwrap().revision;
        assert_eq!(revision, before + i64::from(answer.deleted > 0), "{request:?}");
        let all = RangeRequest { range_end: "\0".into(), ..get("\0") };
        let rest = keys(&kv.range(all).await.unwrap().into_inner().kvs).join(" ");
        (answer.deleted, keys(&answer.prev_kvs).join(" "), rest)
    };
    let with_previous = |request| DeleteRangeRequest { prev_kv: true, ..request };
    let table = [
        (delete("b"), 1, "", "a c d e"),
        (with_previous(delete("b")), 1, "b", "a c d e"),
        (with_previous(delete("x")), 0, "", "a b c d e"),
        (delete_range("b", "d"), 2, "", "a d e"),
        (with_previous(delete_range("b", "d")), 2, "b c", "a d e"),
        (delete_range("d", "b"), 0, "", "a b c d e"),
        (with_previous(delete_range("c", "\0")), 3, "c d e", "a b"),
        (with_previous(delete_range("\0", "\0")), 5, "a b c d e", ""),
    ];
    for (request, deleted, previous, rest) in table {
        let expected = (deleted, previous.to_owned(), rest.to_owned());
        assert_eq!(left(request.clone()).await, expected, "{request:?}");
    }
}

async fn revisions_go_up_only_with_changes(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let mut kv = raw.kv.clone();
    let start = kv.range(get("key")).await.unwrap().into_inner().header.unwrap();
    assert_eq!(start.revision, 1, "an empty store");
    assert!(start.cluster_id != 0 && start.member_id != 0 && start.raft_term != 0);

    let nothing = kv.delete_range(delete("key")).await.unwrap().into_inner();
    assert_eq!(nothing.header.unwrap().revision, 1);
    let granted = LeaseGrantRequest { id: 5, ttl: 600 };
    let granted = raw.lease.clone().lease_grant(granted).await.unwrap().into_inner();
    assert_eq!(granted.header.unwrap().revision, 1);
    let written = kv.put(put("key", "value")).await.unwrap().into_inner();
    assert_eq!(
        written.header.unwrap(),
        quoin::pb::etcdserverpb::ResponseHeader { revision: 2, ..start }
    );
}

async fn compaction_is_refused_below_and_above(engine: Engine) {
    const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
    const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
    let cluster = Cluster::start(engine, 1).await;
    let mut kv = cluster.raw(0).kv;
    for number in 0..10 {
        kv.put(put("key", &number.to_string())).await.unwrap();
    }
    let table = [
        // Once, on a store that was never compacted.
        (0, true, None),
        (12, false, Some(FUTURE)),
        (5, false, None),
        (5, false, Some(COMPACTED)),
        (4, true, Some(COMPACTED)),
        (0, false, Some(COMPACTED)),
        (-1, false, Some(COMPACTED)),
        (8, true, None),
        (11, true, None),
        (11, false, Some(COMPACTED)),
        (12, true, Some(FUTURE)),
    ];
    for (revision, physical, refused) in table {
        let result = kv.compact(CompactionRequest { revision, physical }).await;
        match refused {
            None => {
                let header = result.unwrap().into_inner().header.unwrap();
                assert_eq!(header.revision, 11, "compaction makes no revision");
            }
            Some(text) => {
                assert_eq!(refusal(result), (Code::OutOfRange, text.into()), "{revision}");
            }
        }
    }
    let kvs = kv.range(get("key")).await.unwrap().into_inner().kvs;
    assert_eq!((&kvs[0].value[..], kvs[0].version), (&b"9"[..], 10));
}
