//! Txn: compares, branches, nesting, and that nothing of a refused one is done.

use crate::cluster::{Cluster, Engine};
use crate::on_each_engine;
use crate::requests::{all_of, compare, delete, delete_range, get, op, put, range, refusal, txn};
use quoin::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quoin::pb::etcdserverpb::{
    Compare, LeaseGrantRequest, PutRequest, RangeRequest, ResponseHeader, TxnRequest, response_op,
};
use tonic::Code;

on_each_engine![
    each_operator_compares_each_target,
    a_compare_of_an_interval_holds_for_every_key,
    later_operations_see_earlier_ones,
    nested_compares_see_what_was_there_before,
    a_refused_transaction_changes_nothing,
    only_changes_make_a_revision,
];

async fn each_operator_compares_each_target(engine: Engine) {
    use CompareResult::{Equal, Greater, Less, NotEqual};
    use CompareTarget::{Create, Lease, Mod, Value, Version};
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let mut kv = raw.kv.clone();
    raw.lease.clone().lease_grant(LeaseGrantRequest { id: 5, ttl: 600 }).await.unwrap();
    kv.put(put("other", "")).await.unwrap();
    kv.put(put("key", "b")).await.unwrap();
    kv.put(PutRequest { lease: 5, ..put("key", "m") }).await.unwrap();
    // create 3, mod 4, version 2, lease 5, value m

    let mut rows = vec![];
    for (target, stored) in [(Version, 2), (Create, 3), (Mod, 4), (Lease, 5)] {
        let union = |n| match target {
            Version => TargetUnion::Version(n),
            Create => TargetUnion::CreateRevision(n),
            Mod => TargetUnion::ModRevision(n),
            _ => TargetUnion::Lease(n),
        };
        for (asked, order) in [(stored - 1, Greater), (stored, Equal), (stored + 1, Less)] {
            for operator in [Equal, Greater, Less, NotEqual] {
                let holds = operator == order || (operator == NotEqual && order != Equal);
                rows.push((compare("key", target, operator, Some(union(asked))), holds));
            }
        }
        // A missing key has zeroes; so has a union that is not set.
        rows.push((compare("none", target, Equal, Some(union(0))), true));
        rows.push((compare("none", target, Greater, Some(union(0))), false));
        rows.push((compare("none", target, Less, Some(union(1))), true));
        rows.push((compare("none", target, NotEqual, Some(union(stored))), true));
        rows.push((compare("none", target, Equal, None), true));
        rows.push((compare("key", target, Greater, None), true));
    }
    for (asked, order) in [("a", Greater), ("m", Equal), ("mm", Less), ("z", Less), ("", Greater)] {
        for operator in [Equal, Greater, Less, NotEqual] {
            let union = Some(TargetUnion::Value(asked.into()));
            let holds = operator == order || (operator == NotEqual && order != Equal);
            rows.push((compare("key", Value, operator, union.clone()), holds));
            // What is missing has no value that could be compared, not even as unequal.
            rows.push((compare("none", Value, operator, union), false));
        }
    }
    rows.push((compare("key", Value, Greater, None), true));
    for (compare, holds) in rows {
        let request = txn(vec![compare.clone()], vec![], vec![op(get("key"))]);
        let answer = kv.txn(request).await.unwrap().into_inner();
        assert_eq!(answer.succeeded, holds, "{compare:?}");
        assert_eq!(answer.responses.len(), usize::from(!holds));
    }
    let all = kv.txn(TxnRequest::default()).await.unwrap().into_inner();
    assert!(all.succeeded, "no compare is a compare that holds");
    let version = |n| compare("key", Version, Equal, Some(TargetUnion::Version(n)));
    let one_fails = txn(vec![version(2), version(3)], vec![], vec![]);
    assert!(!kv.txn(one_fails).await.unwrap().into_inner().succeeded);
}

async fn a_compare_of_an_interval_holds_for_every_key(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut kv = cluster.raw(0).kv;
    for (key, value) in [("a", "1"), ("b", "1"), ("c", "2")] {
        kv.put(put(key, value)).await.unwrap();
    }
    let value_is_one = |key: &str, range_end: &'static str| Compare {
        range_end: range_end.into(),
        ..compare(
            key,
            CompareTarget::Value,
            CompareResult::Equal,
            Some(TargetUnion::Value("1".into())),
        )
    };
    let exists = |key: &str, range_end: &'static str| Compare {
        range_end: range_end.into(),
        ..compare(
            key,
            CompareTarget::Version,
            CompareResult::Greater,
            Some(TargetUnion::Version(0)),
        )
    };
    let table = [
        (value_is_one("a", "c"), true),
        (value_is_one("a", "d"), false),
        (value_is_one("a", "\0"), false),
        (value_is_one("b", "c"), true),
        (value_is_one("x", "z"), false),
        (exists("a", "\0"), true),
        (exists("\0", "\0"), true),
        (exists("x", "z"), false),
        (exists("c", "a"), false),
    ];
    for (compare, holds) in table {
        let answer = kv.txn(txn(vec![compare.clone()], vec![], vec![])).await.unwrap();
        assert_eq!(answer.into_inner().succeeded, holds, "{compare:?}");
    }
}

async fn later_operations_see_earlier_ones(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut kv = cluster.raw(0).kv;
    kv.put(put("a", "old")).await.unwrap();
    kv.put(put("c", "old")).await.unwrap();
    let request = all_of(vec![
        op(range("a", "z")),
        op(PutRequest { prev_kv: true, ..put("b", "new") }),
        op(range("a", "z")),
        op(delete_range("c", "d")),
        op(PutRequest { prev_kv: true, ..put("a", "new") }),
        op(RangeRequest { count_only: true, ..range("a", "z") }),
        op(RangeRequest { revision: 3, ..range("a", "z") }),
    ]);
    let answer = kv.txn(request).await.unwrap().into_inner();
    assert_eq!(answer.header.unwrap().revision, 4);
    use response_op::Response::{ResponseDeleteRange, ResponsePut, ResponseRange};
    let mut seen = vec![];
    for response in answer.responses {
        let (header, text) = match response.response.unwrap() {
            ResponseRange(r) => {
                let pairs = r.kvs.iter().map(|kv| {
                    let (key, value) = (&kv.key[..], &kv.value[..]);
                    format!("{}={}@{}", key.escape_ascii(), value.escape_ascii(), kv.mod_revision)
                });
                (r.header, format!("{} {}", r.count, pairs.collect::<Vec<_>>().join(" ")))
            }
            ResponsePut(r) => (r.header, format!("put over {}", r.prev_kv.is_some())),
            ResponseDeleteRange(r) => (r.header, format!("deleted {}", r.deleted)),
            other => panic!("{other:?}"),
        };
        let header = header.unwrap();
        assert_eq!(header, ResponseHeader { revision: header.revision, ..Default::default() });
        seen.push((header.revision, text));
    }
    let expected = [
        (3, "2 a=old@2 c=old@3"),
        (4, "put over false"),
        (4, "3 a=old@2 b=new@4 c=old@3"),
        (4, "deleted 1"),
        (4, "put over true"),
        (4, "2 "),
        (4, "2 a=old@2 c=old@3"),
    ];
    assert_eq!(seen, expected.map(|(revision, text)| (revision, text.to_owned())));
}

async fn nested_compares_see_what_was_there_before(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut kv = cluster.raw(0).kv;
    kv.put(put("a", "old")).await.unwrap();
    let is_new = vec![compare(
        "a",
        CompareTarget::Value,
        CompareResult::Equal,
        Some(TargetUnion::Value("new".into())),
    )];
    let nested = txn(is_new.clone(), vec![op(put("won", ""))], vec![op(put("lost", ""))]);
    let answer = kv.txn(all_of(vec![op(put("a", "new")), op(nested)])).await.unwrap().into_inner();
    assert_eq!((answer.succeeded, answer.header.unwrap().revision), (true, 3));
    let Some(response_op::Response::ResponseTxn(inner)) = &answer.responses[1].response else {
        panic!("{answer:?}");
    };
    assert!(!inner.succeeded, "the outer put is not seen by the nested compare");
    assert_eq!(inner.responses.len(), 1);
    assert_eq!(kv.range(get("lost")).await.unwrap().into_inner().count, 1);

    // The branches of one nested transaction may put the same key.
    let either = txn(is_new, vec![op(put("x", "1"))], vec![op(put("x", "2"))]);
    let deeper = all_of(vec![op(all_of(vec![op(either)]))]);
    kv.txn(deeper).await.unwrap();
    let x = kv.range(get("x")).await.unwrap().into_inner().kvs.remove(0);
    assert_eq!((&x.value[..], x.mod_revision), (&b"1"[..], 4));
}

async fn a_refused_transaction_changes_nothing(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut kv = cluster.raw(0).kv;
    kv.put(put("key", "value")).await.unwrap();
    const LEASE: (Code, &str) = (Code::NotFound, "etcdserver: requested lease not found");
    const KEY: (Code, &str) = (Code::InvalidArgument, "etcdserver: key not found");
    const FUTURE: (Code, &str) =
        (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
    let keep = PutRequest { ignore_value: true, ..put("none", "") };
    let keep_lease = PutRequest { ignore_lease: true, ..put("none", "v") };
    let future = RangeRequest { revision: 3, ..get("key") };
    let first = || op(put("changed", "by a refused transaction"));
    let table = [
        (all_of(vec![first(), op(PutRequest { lease: 77, ..put("b", "") })]), LEASE),
        (all_of(vec![first(), op(keep)]), KEY),
        (all_of(vec![first(), op(keep_lease)]), KEY),
        (all_of(vec![first(), op(future.clone())]), FUTURE),
        (all_of(vec![op(all_of(vec![first(), op(future)]))]), FUTURE),
    ];
    for (request, (code, text)) in table {
        let refused = refusal(kv.txn(request.clone()).await);
        assert_eq!(refused, (code, text.to_owned()), "{request:?}");
    }
    let all = kv.range(range("\0", "\0")).await.unwrap().into_inner();
    assert_eq!((all.count, all.header.unwrap().revision), (1, 2));
    // The branch that is not taken is not checked against the store.
    let untaken = txn(vec![], vec![first()], vec![op(PutRequest { lease: 77, ..put("b", "") })]);
    assert_eq!(kv.txn(untaken).await.unwrap().into_inner().header.unwrap().revision, 3);
}

async fn only_changes_make_a_revision(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut kv = cluster.raw(0).kv;
    kv.put(put("key", "value")).await.unwrap();
    let never = vec![compare("key", CompareTarget::Version, CompareResult::Equal, None)];
    let table = [
        (TxnRequest::default(), 2),
        (all_of(vec![op(get("key"))]), 2),
        (all_of(vec![op(delete("none"))]), 2),
        (txn(never.clone(), vec![op(put("a", ""))], vec![]), 2),
        (txn(never, vec![op(put("a", ""))], vec![op(get("key"))]), 2),
        (all_of(vec![op(all_of(vec![op(get("key"))]))]), 2),
        (all_of(vec![op(put("a", "")), op(put("b", "")), op(delete("key"))]), 3),
        (all_of(vec![op(all_of(vec![op(delete("a"))]))]), 4),
    ];
    for (request, revision) in table {
        let answer = kv.txn(request.clone()).await.unwrap().into_inner();
        assert_eq!(answer.header.unwrap().revision, revision, "{request:?}");
    }
    let b = kv.range(get("b")).await.unwrap().into_inner().kvs.remove(0);
    assert_eq!((b.create_revision, b.mod_revision), (3, 3));
}
