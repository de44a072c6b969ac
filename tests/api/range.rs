//! Range: intervals, revisions, limits, sorting, filters, and the stream of it.

use crate::cluster::{Cluster, Engine, Raw, product};
use crate::on_each_engine;
use crate::requests::{delete, get, keys, put, range, refusal};
use quoin::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use quoin::pb::etcdserverpb::{CompactionRequest, RangeRequest, RangeResponse};
use tonic::{Code, Status};

on_each_engine![
    intervals_follow_the_conventions_for_their_end,
    options_choose_sort_and_cut,
    past_revisions_are_read_as_they_were,
    keys_only_leaves_the_values_out,
    a_stream_gives_what_one_answer_would,
    a_stream_sorts_where_an_answer_does_if_no_order_is_asked_for,
];

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";

async fn ask(raw: &Raw, request: RangeRequest) -> RangeResponse {
    let answer = raw.kv.clone().range(request.clone()).await;
    answer.unwrap_or_else(|e| panic!("{e} for {request:?}")).into_inner()
}

/// Five keys: the revisions of their creation are 2 to 6, those of their change 7, 3, 9, 5, 6.
async fn five_keys(cluster: &Cluster) -> Raw {
    let raw = cluster.raw(0);
    let mut kv = raw.kv.clone();
    for (key, value) in [("a", "5"), ("b", "4"), ("c", "3"), ("d", "2"), ("e", "1")] {
        kv.put(put(key, value)).await.unwrap();
    }
    kv.put(put("a", "9")).await.unwrap();
    kv.put(put("c", "8")).await.unwrap();
    kv.put(put("c", "7")).await.unwrap();
    raw
}

async fn intervals_follow_the_conventions_for_their_end(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = five_keys(&cluster).await;
    let table = [
        (("a", ""), "a"),
        (("x", ""), ""),
        (("a", "c"), "a b"),
        (("b", "bb"), "b"),
        (("0", "z"), "a b c d e"),
        (("c", "\0"), "c d e"),
        (("\0", "\0"), "a b c d e"),
        (("c", "c"), ""),
        (("c", "b"), ""),
        (("c", "\0\0"), ""),
    ];
    for ((key, end), expected) in table {
        let answer = ask(&raw, range(key, end)).await;
        assert_eq!(keys(&answer.kvs).join(" "), expected, "{key:?} to {end:?}");
        assert_eq!((answer.count as usize, answer.more), (answer.kvs.len(), false));
        assert_eq!(answer.header.unwrap().revision, 9);
    }
}

async fn options_choose_sort_and_cut(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = five_keys(&cluster).await;
    let all = || range("\0", "\0");
    let sorted = |target: SortTarget, order: SortOrder, limit| RangeRequest {
        sort_target: target as i32,
        sort_order: order as i32,
        limit,
        ..all()
    };
    use SortOrder::{Ascend, Descend, None as NoOrder};
    use SortTarget::{Create, Key, Mod, Value, Version};
    let table = [
        (RangeRequest { limit: 2, ..all() }, "a b", true),
        (RangeRequest { limit: 5, ..all() }, "a b c d e", false),
        (RangeRequest { limit: 6, ..all() }, "a b c d e", false),
        (RangeRequest { limit: -1, ..all() }, "a b c d e", false),
        (sorted(Key, Descend, 0), "e d c b a", false),
        (sorted(Key, Ascend, 1), "a", true),
        (sorted(Key, Descend, 2), "e d", true),
        (sorted(Create, Descend, 3), "e d c", true),
        (sorted(Mod, Ascend, 0), "b d e a c", false),
        (sorted(Mod, Descend, 1), "c", true),
        (sorted(Value, Ascend, 0), "e d b c a", false),
        (sorted(Value, Descend, 2), "a c", true),
        (sorted(Version, Descend, 2), "c a", true),
        // A target without an order means ascending.
        (sorted(Mod, NoOrder, 0), "b d e a c", false),
        // It sorts only as many as the limit lets it see, and one.
        (sorted(Value, NoOrder, 2), "b c", true),
        (RangeRequest { min_mod_revision: 6, ..all() }, "a c e", false),
        (RangeRequest { max_mod_revision: 6, ..all() }, "b d e", false),
        (RangeRequest { min_create_revision: 4, ..all() }, "c d e", false),
        (RangeRequest { max_create_revision: 3, ..all() }, "a b", false),
        (RangeRequest { min_mod_revision: 4, max_create_revision: 3, ..all() }, "a", false),
        (RangeRequest { min_mod_revision: 6, limit: 2, ..all() }, "a c", true),
        (RangeRequest { min_mod_revision: 6, limit: 3, ..all() }, "a c e", false),
        (RangeRequest { max_mod_revision: 6, ..sorted(Mod, Descend, 2) }, "e d", true),
    ];
    for (request, expected, more) in table {
        let answer = ask(&raw, request.clone()).await;
        assert_eq!(keys(&answer.kvs).join(" "), expected, "{request:?}");
        // The count knows neither limit nor filters.
        assert_eq!((answer.count, answer.more), (5, more), "{request:?}");
    }
    let counted = ask(&raw, RangeRequest { count_only: true, limit: 2, ..all() }).await;
    assert_eq!((counted.count, counted.more, counted.kvs.len()), (5, false, 0));
    let local = ask(&raw, RangeRequest { serializable: true, ..all() }).await;
    assert_eq!((local.count, local.header.unwrap().revision), (5, 9));
}

async fn past_revisions_are_read_as_they_were(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = five_keys(&cluster).await;
    let mut kv = raw.kv.clone();
    kv.delete_range(delete("b")).await.unwrap();
    kv.put(put("b", "again")).await.unwrap();
    let at = |revision| RangeRequest { revision, ..range("\0", "\0") };
    let table =
        [(1, ""), (2, "a"), (6, "a b c d e"), (10, "a c d e"), (11, "a b c d e"), (0, "a b c d e")];
    for (revision, expected) in table {
        let answer = ask(&raw, at(revision)).await;
        assert_eq!(keys(&answer.kvs).join(" "), expected, "at {revision}");
        assert_eq!(answer.count as usize, answer.kvs.len());
        assert_eq!(answer.header.unwrap().revision, 11, "the header knows the present");
    }
    let old = ask(&raw, RangeRequest { revision: 8, ..get("c") }).await;
    let c = &old.kvs[0];
    assert_eq!((&c.value[..], c.create_revision, c.mod_revision, c.version), (&b"8"[..], 4, 8, 2));
    let again = &ask(&raw, get("b")).await.kvs[0];
    assert_eq!((again.create_revision, again.mod_revision, again.version), (11, 11, 1));
    assert_eq!(ask(&raw, at(-1)).await.count, 5);

    let refused = refusal(kv.range(at(12)).await);
    assert_eq!(refused, (Code::OutOfRange, FUTURE.into()));
    kv.compact(CompactionRequest { revision: 10, physical: false }).await.unwrap();
    let refused = refusal(kv.range(at(9)).await);
    assert_eq!(refused, (Code::OutOfRange, COMPACTED.into()));
    // The compacted revision itself can be read, without what was deleted at it.
    assert_eq!(keys(&ask(&raw, at(10)).await.kvs).join(" "), "a c d e");
    assert_eq!(ask(&raw, at(0)).await.count, 5);
}

async fn keys_only_leaves_the_values_out(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = five_keys(&cluster).await;
    let lease = quoin::pb::etcdserverpb::LeaseGrantRequest { id: 9, ttl: 600 };
    raw.lease.clone().lease_grant(lease).await.unwrap();
    let leased = quoin::pb::etcdserverpb::PutRequest { lease: 9, ..put("a", "leased") };
    raw.kv.clone().put(leased).await.unwrap();

    let request = RangeRequest { keys_only: true, ..get("a") };
    let by_value = RangeRequest { sort_target: SortTarget::Value as i32, ..request.clone() };
    for request in [request, by_value] {
        let kv = &ask(&raw, request.clone()).await.kvs[0];
        assert!(kv.value.is_empty());
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 10, 3));
        if product().at_least(3, 7) {
            let from_values = request.sort_target() == SortTarget::Value;
            assert_eq!(kv.lease, if from_values { 9 } else { 0 }, "{request:?}");
        }
    }
}

/// The parts of a streamed range.
async fn streamed(raw: &Raw, request: RangeRequest) -> Result<Vec<RangeResponse>, Status> {
    let mut stream = raw.kv.clone().range_stream(request).await?.into_inner();
    let mut parts = vec![];
    while let Some(part) = stream.message().await? {
        parts.push(part.range_response.expect("a part"));
    }
    Ok(parts)
}

async fn a_stream_sorts_where_an_answer_does_if_no_order_is_asked_for(engine: Engine) {
    if !product().at_least(3, 7) {
        return;
    }
    let cluster = Cluster::start(engine, 1).await;
    let raw = five_keys(&cluster).await;
    for target in [
        SortTarget::Key,
        SortTarget::Version,
        SortTarget::Create,
        SortTarget::Mod,
        SortTarget::Value,
    ] {
        for order in [SortOrder::None, SortOrder::Ascend, SortOrder::Descend] {
            let request = RangeRequest {
                sort_target: target as i32,
                sort_order: order as i32,
                ..range("a", "f")
            };
            let parts = streamed(&raw, request.clone()).await;
            let by_key = target == SortTarget::Key && order != SortOrder::Descend;
            if order != SortOrder::None && !by_key {
                let refused = parts.expect_err("an order of its own");
                let text = "RangeStream does not support custom sort orders";
                assert_eq!((refused.code(), refused.message()), (Code::Unimplemented, text));
                continue;
            }
            let parts = parts.unwrap();
            assert_eq!(parts.len(), 1, "{target:?}");
            assert_eq!(parts[0].kvs, ask(&raw, request).await.kvs, "{target:?}");
            assert_eq!((parts[0].count, parts[0].more), (5, false));
        }
    }
    // etcd sorts each part of a longer stream by itself, and goes on behind whichever key is last in it: keys
    // come twice or not at all.
    if product().ours {
        let mut kv = raw.kv.clone();
        for n in 0..40 {
            let value = format!("{:02}{}", n * 7 % 40, "v".repeat(30_000));
            kv.put(put(&format!("key{n:02}"), &value)).await.unwrap();
        }
        for (limit, more) in [(0, false), (40, false), (15, true)] {
            let by_value = RangeRequest { sort_target: SortTarget::Value as i32, ..get("key") };
            let request = RangeRequest { limit, range_end: "kez".into(), ..by_value };
            let parts = streamed(&raw, request.clone()).await.unwrap();
            let (last, others) = parts.split_last().unwrap();
            assert!(others.len() > 1 && others.iter().all(|part| part.header.is_none()));
            assert_eq!((last.count, last.more), (40, more));
            let kvs: Vec<_> = parts.iter().flat_map(|part| part.kvs.clone()).collect();
            assert_eq!(kvs, ask(&raw, request).await.kvs);
        }
    }
}

async fn a_stream_gives_what_one_answer_would(engine: Engine) {
    if !product().at_least(3, 7) {
        return;
    }
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let mut kv = raw.kv.clone();
    for number in 0..60 {
        kv.put(put(&format!("key{number:02}"), &"x".repeat(20_000))).await.unwrap();
    }
    let requests = [
        range("\0", "\0"),
        RangeRequest { limit: 7, ..range("\0", "\0") },
        RangeRequest { limit: 35, ..range("\0", "\0") },
        RangeRequest { count_only: true, ..range("\0", "\0") },
        RangeRequest { keys_only: true, ..range("key2", "key4") },
        RangeRequest { revision: 30, ..range("\0", "\0") },
        RangeRequest { sort_order: SortOrder::Ascend as i32, ..range("key3", "\0") },
        range("none", ""),
    ];
    for request in requests {
        let whole = ask(&raw, request.clone()).await;
        let parts = streamed(&raw, request.clone()).await.unwrap();
        let (last, others) = parts.split_last().unwrap();
        for part in others {
            assert!(part.header.is_none() && part.count == 0 && !part.more, "{request:?}");
        }
        let kvs: Vec<_> = parts.iter().flat_map(|part| part.kvs.clone()).collect();
        assert_eq!(kvs, whole.kvs, "{request:?}");
        assert_eq!((last.count, last.more), (whole.count, whole.more), "{request:?}");
        let header = last.header.unwrap();
        assert!(header.member_id != 0 && header.raft_term != 0);
        if request.revision == 0 {
            assert_eq!(header.revision, 61);
        }
        if request == range("\0", "\0") {
            assert!(parts.len() > 1, "60 keys of 20 kB are more than one chunk");
        }
    }

    let without_order = RangeRequest { sort_target: SortTarget::Mod as i32, ..range("\0", "\0") };
    let by_mod = RangeRequest { sort_order: SortOrder::Ascend as i32, ..without_order };
    let downward = RangeRequest { sort_order: SortOrder::Descend as i32, ..range("\0", "\0") };
    let filtered = RangeRequest { min_mod_revision: 3, ..range("\0", "\0") };
    let future = RangeRequest { revision: 99, ..range("\0", "\0") };
    let sort = "RangeStream does not support custom sort orders";
    let filter = "RangeStream does not support revision filters";
    let table = [
        (by_mod, Code::Unimplemented, sort),
        (downward, Code::Unimplemented, sort),
        (filtered, Code::Unimplemented, filter),
        (future, Code::OutOfRange, FUTURE),
        (get(""), Code::InvalidArgument, "etcdserver: key is not provided"),
    ];
    for (request, code, text) in table {
        let refused = streamed(&raw, request.clone()).await;
        let refused = refused.err().unwrap_or_else(|| panic!("not refused: {request:?}"));
        assert_eq!((refused.code(), refused.message()), (code, text), "{request:?}");
    }
}
