//! Bad input, each with its exact code and text; and that it does no harm.

use crate::cluster::channel;
use crate::cluster::{Cluster, Engine, Setup, product};
use crate::on_each_engine;
use crate::requests::status_with_timeout;
use crate::requests::{all_of, compare, delete, delete_range, get, op, put, range, refusal, txn};
use http::uri::PathAndQuery;
use prost::Message as _;
use quoin::pb::etcdserverpb::compare::{CompareResult, CompareTarget};
use quoin::pb::etcdserverpb::{
    CompactionRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest,
    RangeResponse, RequestOp, TxnRequest,
};
use std::time::Duration;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

on_each_engine![
    each_bad_request_has_its_code_and_text,
    limits_are_as_configured,
    metadata_must_be_text,
    calls_that_no_service_has_are_refused_in_grpcs_words,
    a_deadline_that_a_client_gives_is_kept_and_a_malformed_one_refused,
];

type Refusal = (Code, String);

fn refused(code: Code, text: &str) -> Refusal {
    (code, format!("etcdserver: {text}"))
}

async fn each_bad_request_has_its_code_and_text(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let mut kv = raw.kv.clone();
    for value in ["1", "2", "3"] {
        kv.put(put("key", value)).await.unwrap();
    }
    kv.compact(CompactionRequest { revision: 3, physical: false }).await.unwrap();
    let empty_key = refused(Code::InvalidArgument, "key is not provided");
    let not_found = refused(Code::InvalidArgument, "key not found");
    let value = refused(Code::InvalidArgument, "value is provided");
    let lease = refused(Code::InvalidArgument, "lease is provided");
    let no_lease = refused(Code::NotFound, "requested lease not found");
    let sort = refused(Code::InvalidArgument, "invalid sort option");
    let compacted = refused(Code::OutOfRange, "mvcc: required revision has been compacted");
    let future = refused(Code::OutOfRange, "mvcc: required revision is a future revision");
    let too_many = refused(Code::InvalidArgument, "too many operations in txn request");
    let duplicate = refused(Code::InvalidArgument, "duplicate key given in txn request");
    let too_large = refused(Code::InvalidArgument, "request is too large");

    let mut ranges = vec![
        (get(""), &empty_key),
        (range("", "z"), &empty_key),
        (RangeRequest { revision: 2, ..get("key") }, &compacted),
        (RangeRequest { revision: 5, ..get("key") }, &future),
        (RangeRequest { revision: i64::MAX, ..get("key") }, &future),
    ];
    if product().at_least(3, 5) {
        ranges.push((RangeRequest { sort_order: 3, ..get("key") }, &sort));
        ranges.push((RangeRequest { sort_order: -1, ..get("key") }, &sort));
        ranges.push((RangeRequest { sort_target: 5, ..get("key") }, &sort));
    }
    for (request, expected) in ranges {
        assert_eq!(refusal(kv.range(request.clone()).await), *expected, "{request:?}");
        // The same in a transaction, which is refused as a whole.
        let inside = all_of(vec![op(put("other", "v")), op(request)]);
        assert_eq!(refusal(kv.txn(inside.clone()).await), *expected, "{inside:?}");
    }

    let keep = PutRequest { ignore_value: true, ..put("none", "") };
    let puts = [
        (put("", "v"), &empty_key),
        (PutRequest { ignore_value: true, ..put("key", "v") }, &value),
        (PutRequest { ignore_lease: true, lease: 5, ..put("key", "v") }, &lease),
        (keep, &not_found),
        (PutRequest { ignore_lease: true, ..put("none", "v") }, &not_found),
        (PutRequest { lease: 99, ..put("key", "v") }, &no_lease),
        (put("key", &"x".repeat(1_572_864)), &too_large),
    ];
    for (request, expected) in puts {
        assert_eq!(refusal(kv.put(request.clone()).await), *expected, "{:?}", request.key);
        let inside = all_of(vec![op(put("other", "v")), op(request)]);
        assert_eq!(refusal(kv.txn(inside).await), *expected);
    }
    assert_eq!(refusal(kv.delete_range(delete("")).await), empty_key);
    assert_eq!(refusal(kv.delete_range(delete_range("", "\0")).await), empty_key);

    let version = |key| compare(key, CompareTarget::Version, CompareResult::Equal, None);
    let many = |count| (0..count).map(|n| op(put(&format!("k{n}"), ""))).collect::<Vec<_>>();
    let twice = || vec![op(put("a", "1")), op(put("a", "2"))];
    let txns: [(TxnRequest, &Refusal); 13] = [
        (txn(vec![version("")], vec![], vec![]), &empty_key),
        (all_of(vec![RequestOp { request: None }]), &not_found),
        (txn(vec![], vec![], vec![RequestOp { request: None }]), &not_found),
        (all_of(many(129)), &too_many),
        (txn(vec![], vec![], many(129)), &too_many),
        (txn(vec![version("key"); 129], vec![], vec![]), &too_many),
        (all_of(vec![op(all_of(many(128)))]), &too_many),
        (all_of(twice()), &duplicate),
        // Also in the branch that is not taken.
        (txn(vec![], vec![], twice()), &duplicate),
        (all_of(vec![op(put("b", "")), op(delete_range("a", "c"))]), &duplicate),
        (all_of(vec![op(delete("b")), op(put("b", ""))]), &duplicate),
        (all_of(vec![op(put("a", "")), op(all_of(vec![op(put("a", ""))]))]), &duplicate),
        (all_of(vec![op(all_of(twice()))]), &duplicate),
    ];
    for (request, expected) in txns {
        assert_eq!(refusal(kv.txn(request.clone()).await), *expected, "{request:?}");
    }
    let allowed = [
        all_of(many(128)),
        all_of(vec![op(delete("a")), op(delete_range("a", "c"))]),
        all_of(vec![op(put("a", "")), op(get("a")), op(get("a"))]),
        txn(vec![], vec![op(put("a", ""))], vec![op(put("a", ""))]),
    ];
    let mut revision = 4;
    for request in allowed {
        let answer = kv.txn(request.clone()).await.unwrap().into_inner();
        revision += i64::from(answer.header.unwrap().revision > revision);
        assert_eq!(answer.header.unwrap().revision, revision, "{request:?}");
    }

    let mut leases = raw.lease.clone();
    let revoked = leases.lease_revoke(LeaseRevokeRequest { id: 99 }).await;
    assert_eq!(refusal(revoked), no_lease);
    leases.lease_grant(LeaseGrantRequest { id: 5, ttl: 60 }).await.unwrap();
    let taken = leases.lease_grant(LeaseGrantRequest { id: 5, ttl: 60 }).await;
    assert_eq!(refusal(taken), refused(Code::FailedPrecondition, "lease already exists"));
    let huge = leases.lease_grant(LeaseGrantRequest { id: 6, ttl: 9_000_000_001 }).await;
    assert_eq!(refusal(huge), refused(Code::OutOfRange, "too large lease TTL"));

    // None of the refused ones left anything behind.
    let all = kv.range(range("other", "other0")).await.unwrap().into_inner();
    assert_eq!((all.count, all.header.unwrap().revision), (0, revision));
    let key = kv.range(get("key")).await.unwrap().into_inner().kvs.remove(0);
    assert_eq!((&key.value[..], key.version), (&b"3"[..], 3));
}

async fn limits_are_as_configured(engine: Engine) {
    let setup = Setup::new(engine, 1).flag("--max-txn-ops=3").flag("--max-request-bytes=10000");
    let cluster = setup.start().await;
    let mut kv = cluster.raw(0).kv;
    let ops = |count| all_of((0..count).map(|n| op(get(&format!("k{n}")))).collect());
    kv.txn(ops(3)).await.unwrap();
    let too_many = refused(Code::InvalidArgument, "too many operations in txn request");
    assert_eq!(refusal(kv.txn(ops(4)).await), too_many);
    // Each level takes its longest list from what is left for the next.
    let nested = |inner| all_of(vec![op(get("a")), op(ops(inner))]);
    kv.txn(nested(1)).await.unwrap();
    assert_eq!(refusal(kv.txn(nested(2)).await), too_many);

    kv.put(put("key", &"x".repeat(9_500))).await.unwrap();
    let too_large = kv.put(put("key", &"x".repeat(10_000))).await;
    assert_eq!(refusal(too_large), refused(Code::InvalidArgument, "request is too large"));
    // A byte more or less, as etcd's ids have one more or less.
    kv.put(put("big", &"x".repeat(9_975))).await.unwrap();
    let too_large = kv.put(put("big", &"x".repeat(9_977))).await;
    assert_eq!(refusal(too_large), refused(Code::InvalidArgument, "request is too large"));
    // Far above it the message itself is refused by the transport.
    let flood = kv.put(put("key", &"x".repeat(10_000 + (512 << 10)))).await;
    assert_eq!(refusal(flood).0, Code::ResourceExhausted);
    let key = kv.range(get("key")).await.unwrap().into_inner().kvs.remove(0);
    assert_eq!((key.value.len(), key.version), (9_500, 1));
}

async fn metadata_must_be_text(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut kv = cluster.raw(0).kv;
    let with = |name: &'static str, value: &[u8]| {
        let mut request = Request::new(get("key"));
        request.metadata_mut().insert(name, MetadataValue::try_from(value).unwrap());
        request
    };
    kv.range(with("client-api-version", b"3.7")).await.unwrap();
    kv.range(with("hasleader", b"true")).await.unwrap();
    if product().at_least(3, 5) {
        let refused = refusal(kv.range(with("client-api-version", b"\xff\xfe")).await);
        let expected = (Code::InvalidArgument, "etcdserver: invalid client api version".to_owned());
        assert_eq!(refused, expected);
    }
    // The connection is as good as before.
    kv.range(get("key")).await.unwrap();
}

async fn calls_that_no_service_has_are_refused_in_grpcs_words(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    for (path, text) in [
        ("/etcdserverpb.KV/Get", "unknown method Get for service etcdserverpb.KV"),
        ("/grpc.health.v1.Health/List2", "unknown method List2 for service grpc.health.v1.Health"),
        ("/etcdserverpb.Kv/Range", "unknown service etcdserverpb.Kv"),
        ("/a/b/c", "unknown service a/b"),
    ] {
        let answer = call(&channel(&cluster.members[0].endpoint), path, get("key")).await;
        assert_eq!(refusal(answer), (Code::Unimplemented, text.into()), "{path}");
    }
}

/// Makes a call by its name.
async fn call(
    channel: &Channel,
    path: &'static str,
    message: RangeRequest,
) -> Result<Response<RangeResponse>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.expect("a connection");
    let codec = tonic_prost::ProstCodec::default();
    grpc.unary(Request::new(message), PathAndQuery::from_static(path), codec).await
}

async fn a_deadline_that_a_client_gives_is_kept_and_a_malformed_one_refused(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let endpoint = &cluster.members[0].endpoint;
    let one = get("key").encode_to_vec();
    let range = |timeout: &'static str| {
        status_with_timeout(endpoint, "/etcdserverpb.KV/Range", timeout, Some(one.clone()))
    };
    for timeout in ["50S", "00000009H", "99999999M"] {
        assert_eq!(range(timeout).await.0, Code::Ok, "{timeout}");
    }
    for (timeout, reason) in [
        ("S", "transport: timeout string is too short: \"S\""),
        ("5s", "transport: timeout unit is not recognized: \"5s\""),
        ("999999999S", "transport: timeout string is too long: \"999999999S\""),
        ("-1S", "strconv.ParseUint: parsing \"-1\": invalid syntax"),
    ] {
        let text = format!("malformed grpc-timeout: {reason}");
        assert_eq!(range(timeout).await, (Code::Internal, text), "{timeout}");
    }
    // etcd may reset the stream instead, which tells less.
    let is_exceeded =
        |code| code == Code::DeadlineExceeded || !product().ours && code == Code::Cancelled;
    let ended = range("0n").await;
    assert!(is_exceeded(ended.0), "{ended:?}");
    // Whose turn comes too late is not begun. etcd lets one or the other pass.
    for n in 0..if product().ours { 50 } else { 0 } {
        let key = format!("late{n}");
        for (path, message) in [
            ("/etcdserverpb.KV/Put", put(&key, "v").encode_to_vec()),
            ("/etcdserverpb.KV/Txn", all_of(vec![op(put(&key, "v"))]).encode_to_vec()),
            ("/etcdserverpb.KV/DeleteRange", delete("key").encode_to_vec()),
            ("/etcdserverpb.KV/Range", one.clone()),
        ] {
            let ended = status_with_timeout(endpoint, path, "1n", Some(message)).await;
            assert_eq!(ended, (Code::DeadlineExceeded, "context deadline exceeded".to_owned()));
        }
    }
    let late = cluster.raw(0).kv.range(get("late0")).await.unwrap().into_inner();
    assert_eq!((late.count, late.header.unwrap().revision), (0, 1), "nothing was written");
    // A watch that nothing is asked of says nothing of its own accord, and long answers that nobody
    // reads wait for ever.
    let mut kv = cluster.raw(0).kv;
    for n in 0..20 {
        kv.put(put(&format!("key{n}"), &"v".repeat(100_000))).await.unwrap();
    }
    let all = crate::requests::range("key", "kez").encode_to_vec();
    for (path, message) in [
        ("/etcdserverpb.Watch/Watch", None),
        ("/etcdserverpb.KV/Range", Some(all.clone())),
        ("/etcdserverpb.KV/RangeStream", Some(all)),
    ] {
        if path.ends_with("RangeStream") && !product().at_least(3, 7) {
            continue;
        }
        let call = status_with_timeout(endpoint, path, "200m", message);
        let ended = tokio::time::timeout(Duration::from_secs(20), call).await;
        let ended = ended.unwrap_or_else(|_| panic!("{path} goes on"));
        assert!(
            [Code::DeadlineExceeded, Code::Cancelled].contains(&ended.0),
            "{path} ended with {ended:?}"
        );
    }
}
