//! Random histories against a model that keeps every state in full.

use super::*;
use crate::error::RequestError;
use crate::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::response_op::Response;
use crate::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use crate::pb::mvccpb::KeyValue;
use crate::pb::mvccpb::event::EventType;
use crate::storage::memory::MemoryEngine;
use crate::storage::mirror::test_engines;
use crate::types::KeyRange;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Leases up to this one exist.
const LEASES: std::ops::RangeInclusive<i64> = 1..=2;

type State = BTreeMap<Bytes, KeyValue>;
type Answer<T> = Result<T, RequestError>;

/// The store as etcd's documents describe it: nothing is shared, nothing is clever.
struct Model {
    /// State by revision; the first two, 0 and 1, are empty.
    states: Vec<State>,
    /// Events by revision.
    events: Vec<Vec<Event>>,
    compacted: i64,
}

/// A request on its way through the model.
struct Change {
    state: State,
    events: Vec<Event>,
}

impl Model {
    fn new() -> Self {
        Self {
            states: vec![State::new(), State::new()],
            events: vec![vec![], vec![]],
            compacted: -1,
        }
    }

    fn revision(&self) -> i64 {
        self.states.len() as i64 - 1
    }

    fn state_at(&self, revision: i64) -> &State {
        &self.states[revision.max(0) as usize]
    }

    fn begin(&self) -> Change {
        Change { state: self.state_at(self.revision()).clone(), events: vec![] }
    }

    fn current(&self, change: &Change) -> i64 {
        self.revision() + i64::from(!change.events.is_empty())
    }

    fn end(&mut self, change: Change) -> Option<Commit> {
        if change.events.is_empty() {
            return None;
        }
        self.states.push(change.state);
        self.events.push(change.events.clone());
        Some(Commit { revision: self.revision(), events: change.events })
    }

    fn put(&self, change: &mut Change, request: &PutRequest) -> Answer<PutResponse> {
        if request.lease != 0 && !LEASES.contains(&request.lease) {
            return Err(RequestError::LeaseNotFound);
        }
        let old = change.state.get(&request.key).cloned();
        if old.is_none() && (request.ignore_value || request.ignore_lease) {
            return Err(RequestError::KeyNotFound);
        }
        let revision = self.revision() + 1;
        let mut kv = KeyValue {
            key: request.key.clone(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            value: request.value.clone(),
            lease: request.lease,
        };
        if let Some(old) = &old {
            kv.create_revision = old.create_revision;
            kv.version = old.version + 1;
            if request.ignore_value {
                kv.value = old.value.clone();
            }
            if request.ignore_lease {
                kv.lease = old.lease;
            }
        }
        change.state.insert(kv.key.clone(), kv.clone());
        change.events.push(Event { r#type: EventType::Put as i32, kv: Some(kv), prev_kv: None });
        Ok(PutResponse { header: header(revision), prev_kv: old.filter(|_| request.prev_kv) })
    }

    fn delete(&self, change: &mut Change, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        let keys: Vec<Bytes> =
            change.state.keys().filter(|key| range.contains(key)).cloned().collect();
        let mut prev_kvs = vec![];
        for key in &keys {
            prev_kvs.extend(change.state.remove(key));
            let kv = KeyValue {
                key: key.clone(),
                mod_revision: self.revision() + 1,
                ..Default::default()
            };
            let r#type = EventType::Delete as i32;
            change.events.push(Event { r#type, kv: Some(kv), prev_kv: None });
        }
        if !request.prev_kv {
            prev_kvs.clear();
        }
        let header = header(self.current(change));
        DeleteRangeResponse { header, deleted: keys.len() as i64, prev_kvs }
    }

    /// `change` is the request's own state, which the present revision stands for.
    fn range(&self, change: &Change, request: &RangeRequest) -> Answer<RangeResponse> {
        let current = self.current(change);
        if request.revision > current {
            return Err(RequestError::FutureRevision);
        }
        if request.revision > 0 && request.revision < self.compacted {
            return Err(RequestError::Compacted);
        }
        let state = if request.revision > 0 && request.revision <= self.revision() {
            self.state_at(request.revision)
        } else {
            &change.state
        };
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        let all: Vec<&KeyValue> = state.values().filter(|kv| range.contains(&kv.key)).collect();
        let mut kvs: Vec<KeyValue> = all.iter().map(|kv| (*kv).clone()).collect();
        let count = kvs.len() as i64;
        kvs.retain(|kv| {
            request.max_mod_revision == 0 || kv.mod_revision <= request.max_mod_revision
        });
        kvs.retain(|kv| {
            request.min_mod_revision == 0 || kv.mod_revision >= request.min_mod_revision
        });
        kvs.retain(|kv| {
            request.max_create_revision == 0 || kv.create_revision <= request.max_create_revision
        });
        kvs.retain(|kv| {
            request.min_create_revision == 0 || kv.create_revision >= request.min_create_revision
        });
        let limit = if request.limit > 0 { request.limit as usize } else { usize::MAX };
        let is_unfiltered = request.max_mod_revision == 0
            && request.min_mod_revision == 0
            && request.max_create_revision == 0
            && request.min_create_revision == 0;
        if request.sort_order() == SortOrder::None && is_unfiltered {
            kvs.truncate(limit.saturating_add(1));
        }
        let descends = request.sort_order() == SortOrder::Descend;
        kvs.sort_by(|a, b| {
            let order = match request.sort_target() {
                SortTarget::Key => a.key.cmp(&b.key),
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                SortTarget::Value => a.value.cmp(&b.value),
            };
            if descends { order.reverse() } else { order }
        });
        if request.count_only {
            kvs.clear();
        }
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        for kv in &mut kvs {
            if request.keys_only {
                kv.value = Bytes::new();
                if request.sort_target() != SortTarget::Value {
                    kv.lease = 0;
                }
            }
        }
        Ok(RangeResponse { header: header(current), kvs, more, count })
    }

    fn txn(&self, change: &mut Change, request: &TxnRequest) -> Answer<TxnResponse> {
        let before = change.state.clone();
        let mut dry = Change { state: before.clone(), events: vec![] };
        self.run(&mut dry, request, &before, true)?;
        let mut response = self.run(change, request, &before, false)?;
        response.header = header(self.current(change));
        Ok(response)
    }

    /// Runs a Txn whose compares look at `before`. In a check, only what may fail is done, and
    /// ranges and kept values look at `before` too.
    fn run(
        &self,
        change: &mut Change,
        request: &TxnRequest,
        before: &State,
        is_check: bool,
    ) -> Answer<TxnResponse> {
        let succeeded = request.compare.iter().all(|compare| holds(compare, before));
        let ops = if succeeded { &request.success } else { &request.failure };
        let mut responses = vec![];
        for op in ops {
            let response = match op.request.as_ref().unwrap() {
                Request::RequestRange(range) if is_check => {
                    let fresh = Change { state: before.clone(), events: vec![] };
                    if range.revision < 0 && range.revision < self.compacted {
                        return Err(RequestError::Compacted);
                    }
                    Response::ResponseRange(self.range(&fresh, range)?)
                }
                Request::RequestRange(range) => Response::ResponseRange(self.range(change, range)?),
                Request::RequestPut(put) => {
                    if put.lease != 0 && !LEASES.contains(&put.lease) {
                        return Err(RequestError::LeaseNotFound);
                    }
                    let keeps = put.ignore_value || put.ignore_lease;
                    if is_check && keeps && !before.contains_key(&put.key) {
                        return Err(RequestError::KeyNotFound);
                    }
                    if is_check && keeps && !change.state.contains_key(&put.key) {
                        return Err(RequestError::KeyNotFound);
                    }
                    // Whether a put before it is seen by the check is left open: see `is_clear`.
                    Response::ResponsePut(self.put(change, put)?)
                }
                Request::RequestDeleteRange(delete) => {
                    Response::ResponseDeleteRange(self.delete(change, delete))
                }
                Request::RequestTxn(nested) => {
                    let nested = self.run(change, nested, before, is_check)?;
                    Response::ResponseTxn(nested)
                }
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        Ok(TxnResponse { header: header(0), succeeded, responses })
    }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}

fn holds(compare: &Compare, state: &State) -> bool {
    let range = KeyRange::new(compare.key.clone(), compare.range_end.clone());
    let kvs: Vec<&KeyValue> = state.values().filter(|kv| range.contains(&kv.key)).collect();
    if kvs.is_empty() {
        let is_value = compare.target() == CompareTarget::Value;
        return !is_value && holds_for(compare, &KeyValue::default());
    }
    kvs.into_iter().all(|kv| holds_for(compare, kv))
}

fn holds_for(compare: &Compare, kv: &KeyValue) -> bool {
    let order = match (compare.target(), compare.target_union.clone().unwrap()) {
        (CompareTarget::Version, TargetUnion::Version(given)) => kv.version.cmp(&given),
        (CompareTarget::Create, TargetUnion::CreateRevision(given)) => {
            kv.create_revision.cmp(&given)
        }
        (CompareTarget::Mod, TargetUnion::ModRevision(given)) => kv.mod_revision.cmp(&given),
        (CompareTarget::Lease, TargetUnion::Lease(given)) => kv.lease.cmp(&given),
        (CompareTarget::Value, TargetUnion::Value(given)) => kv.value.cmp(&given),
        // What is given for another target is as good as nothing.
        (CompareTarget::Version, _) => kv.version.cmp(&0),
        (CompareTarget::Create, _) => kv.create_revision.cmp(&0),
        (CompareTarget::Mod, _) => kv.mod_revision.cmp(&0),
        (CompareTarget::Lease, _) => kv.lease.cmp(&0),
        (CompareTarget::Value, _) => kv.value[..].cmp(&[]),
    };
    match compare.result() {
        CompareResult::Equal => order.is_eq(),
        CompareResult::NotEqual => order.is_ne(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
    }
}

/// Something that happens to the store.
#[derive(Clone, Debug)]
enum Action {
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    DeleteKeys(BTreeSet<Bytes>),
    /// At this share (of 8) of the way from the last compaction to the present; beyond it at 9.
    Compact(i64),
    /// The round's batch is written and published.
    EndRound,
    Step(usize),
    /// Like `Compact`'s share; 0 is below.
    Pin(i64),
    Unpin(usize),
    Reopen,
    Range(RangeRequest),
}

fn key() -> impl Strategy<Value = Bytes> {
    let keys: [&[u8]; 9] = [b"a", b"b", b"", b"\0", b"a\0", b"a\0\0", b"a\x01", b"a\xff", b"\xff"];
    prop::sample::select(keys.map(Bytes::from_static).to_vec())
}

fn range_end() -> impl Strategy<Value = Bytes> {
    prop_oneof![4 => Just(Bytes::new()), 3 => Just(Bytes::from_static(b"\0")), 3 => key()]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["", "x", "y"]).prop_map(Bytes::from)
}

fn put() -> impl Strategy<Value = PutRequest> {
    let flag = || prop::bool::weighted(0.2);
    (key(), value(), prop_oneof![4 => Just(0), 2 => 1..3i64, 1 => 3..4i64], flag(), flag(), flag())
        .prop_map(|(key, value, lease, prev_kv, ignore_value, ignore_lease)| PutRequest {
            key,
            value,
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
        })
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), range_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn range() -> impl Strategy<Value = RangeRequest> {
    let filter = || prop_oneof![4 => Just(0), 1 => 1..20i64];
    (
        (key(), range_end(), prop_oneof![3 => Just(0), 2 => 1..4i64, 1 => Just(-1)]),
        (prop_oneof![2 => Just(0), 1 => 1..30i64, 1 => -2..0i64], 0..3i32, 0..5i32),
        (prop::bool::weighted(0.2), prop::bool::weighted(0.2)),
        (filter(), filter(), filter(), filter()),
    )
        .prop_map(
            |((key, range_end, limit), (revision, order, target), (keys, count), filters)| {
                RangeRequest {
                    key,
                    range_end,
                    limit,
                    revision,
                    sort_order: order,
                    sort_target: target,
                    serializable: false,
                    keys_only: keys,
                    count_only: count,
                    min_mod_revision: filters.0,
                    max_mod_revision: filters.1,
                    min_create_revision: filters.2,
                    max_create_revision: filters.3,
                }
            },
        )
}

fn compare() -> impl Strategy<Value = Compare> {
    let union = prop_oneof![
        (0..3i64).prop_map(TargetUnion::Version),
        (0..20i64).prop_map(TargetUnion::CreateRevision),
        (0..20i64).prop_map(TargetUnion::ModRevision),
        (0..3i64).prop_map(TargetUnion::Lease),
        value().prop_map(TargetUnion::Value),
    ];
    (key(), range_end(), 0..4i32, 0..5i32, union).prop_map(
        |(key, range_end, result, target, union)| Compare {
            key,
            range_end,
            result,
            target,
            target_union: Some(union),
        },
    )
}

fn op() -> impl Strategy<Value = RequestOp> {
    let leaf = prop_oneof![
        3 => put().prop_map(Request::RequestPut),
        2 => delete().prop_map(Request::RequestDeleteRange),
        2 => range().prop_map(Request::RequestRange),
    ];
    leaf.prop_map(|request| RequestOp { request: Some(request) }).prop_recursive(
        2,
        12,
        3,
        |inner| txn_of(inner).prop_map(|txn| RequestOp { request: Some(Request::RequestTxn(txn)) }),
    )
}

fn txn_of(op: impl Strategy<Value = RequestOp> + Clone) -> impl Strategy<Value = TxnRequest> {
    let ops = || prop::collection::vec(op.clone(), 0..4);
    (prop::collection::vec(compare(), 0..3), ops(), ops())
        .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => put().prop_map(Action::Put),
        4 => delete().prop_map(Action::Delete),
        4 => txn_of(op().boxed()).prop_map(Action::Txn),
        1 => prop::collection::btree_set(key(), 0..4).prop_map(Action::DeleteKeys),
        2 => (0..10i64).prop_map(Action::Compact),
        8 => Just(Action::EndRound),
        4 => prop_oneof![0..4usize, 10..30usize].prop_map(Action::Step),
        2 => (0..10i64).prop_map(Action::Pin),
        1 => (0..3usize).prop_map(Action::Unpin),
        1 => Just(Action::Reopen),
        4 => range().prop_map(Action::Range),
    ]
}

/// The store and the model side by side.
struct Pair {
    engine: Arc<dyn Engine>,
    mvcc: Mvcc,
    batch: WriteBatch,
    model: Model,
    pins: Vec<(Pin, i64)>,
    /// Keys by lease, as told by the changes.
    leased: BTreeMap<Bytes, i64>,
}

impl Pair {
    fn new(engine: Arc<dyn Engine>) -> Self {
        let mvcc = Mvcc::open(engine.clone()).unwrap();
        let (model, leased) = (Model::new(), BTreeMap::new());
        Self { engine, mvcc, batch: WriteBatch::new(), model, pins: vec![], leased }
    }

    /// Runs a request on both and compares all that comes of it.
    fn write<T: PartialEq + std::fmt::Debug>(
        &mut self,
        real: impl FnOnce(&mut WriteTxn<'_>) -> Answer<T>,
        modeled: impl FnOnce(&Model, &mut Change) -> Answer<T>,
    ) {
        let mut txn = self.mvcc.begin(&mut self.batch);
        let response = real(&mut txn);
        let finished = txn.finish();
        let mut change = self.model.begin();
        let expected = modeled(&self.model, &mut change);
        // What a refused request began, the model throws away.
        let commit = if expected.is_ok() { self.model.end(change) } else { None };
        assert_eq!(response, expected);
        assert_eq!(finished.commit, commit);
        assert_eq!(finished.revision, self.model.revision());
        assert_eq!(self.mvcc.revision(), self.model.revision());
        for LeaseChange { key, old, new } in finished.lease_changes {
            assert_ne!(old, new);
            assert_eq!(self.leased.remove(&key).unwrap_or(0), old);
            if new != 0 {
                self.leased.insert(key, new);
            }
        }
        let state = self.model.state_at(self.model.revision());
        let leased = state.values().filter(|kv| kv.lease != 0);
        assert_eq!(self.leased, leased.map(|kv| (kv.key.clone(), kv.lease)).collect());
    }

    fn share(&self, share: i64) -> i64 {
        let (from, to) = (self.model.compacted, self.model.revision());
        if share > 8 { to + 1 } else { from + (to - from) * share / 8 }
    }

    fn end_round(&mut self) {
        self.engine.write(std::mem::take(&mut self.batch)).unwrap();
        self.mvcc.publish();
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Put(request) => self.write(
                |txn| txn.put(request, &|id| LEASES.contains(&id)).unwrap(),
                |model, change| model.put(change, request),
            ),
            Action::Delete(request) => self.write(
                |txn| Ok(txn.delete_range(request).unwrap()),
                |model, change| Ok(model.delete(change, request)),
            ),
            Action::Txn(request) if is_clear(request) => self.write(
                |txn| txn.txn(request, &|id| LEASES.contains(&id)).unwrap(),
                |model, change| model.txn(change, request),
            ),
            Action::Txn(_) => {}
            Action::DeleteKeys(keys) => {
                let keys: Vec<Bytes> = keys.iter().cloned().collect();
                self.write(
                    |txn| {
                        txn.delete_keys(&keys).unwrap();
                        Ok(())
                    },
                    |model, change| {
                        for key in &keys {
                            let request =
                                DeleteRangeRequest { key: key.clone(), ..Default::default() };
                            model.delete(change, &request);
                        }
                        Ok(())
                    },
                );
            }
            Action::Compact(share) => {
                let revision = self.share(*share);
                let expected = if revision <= self.model.compacted {
                    Err(RequestError::Compacted)
                } else if revision > self.model.revision() {
                    Err(RequestError::FutureRevision)
                } else {
                    self.model.compacted = revision;
                    Ok(())
                };
                assert_eq!(self.mvcc.compact(&mut self.batch, revision).unwrap(), expected);
            }
            Action::EndRound => {
                self.end_round();
                self.check_view();
            }
            Action::Step(entries_max) => {
                self.end_round();
                self.mvcc.compaction_step(&mut self.batch, *entries_max).unwrap();
                self.end_round();
                self.check_pins();
            }
            Action::Pin(share) => {
                self.end_round();
                let revision = self.share(*share);
                self.pins.push((self.mvcc.view().pin(revision), revision));
            }
            Action::Unpin(at) => {
                if *at < self.pins.len() {
                    self.pins.remove(*at);
                }
            }
            Action::Reopen => {
                self.end_round();
                self.pins.clear();
                self.mvcc = Mvcc::open(self.engine.clone()).unwrap();
                self.check_view();
            }
            Action::Range(request) => {
                self.end_round();
                self.check_range(request);
            }
        }
    }

    fn check_range(&self, request: &RangeRequest) {
        let view = self.mvcc.view();
        let change = self.model.begin();
        let expected = self.model.range(&change, request);
        assert_eq!(view.range(request).unwrap(), expected);

        let txn = TxnRequest {
            success: vec![RequestOp { request: Some(Request::RequestRange(request.clone())) }],
            ..Default::default()
        };
        let expected = self.model.txn(&mut self.model.begin(), &txn);
        assert_eq!(view.txn_read_only(&txn).unwrap(), expected);

        // In chunks, of what can be had in chunks.
        let request = RangeRequest {
            sort_order: 0,
            sort_target: 0,
            min_mod_revision: 0,
            max_mod_revision: 0,
            min_create_revision: 0,
            max_create_revision: 0,
            ..request.clone()
        };
        let expected = self.model.range(&change, &request);
        let streamed = view.range_stream(&request, 60).unwrap().map(|mut stream| {
            let mut whole = RangeResponse::default();
            while let Some(chunk) = stream.next_chunk().unwrap().unwrap() {
                assert_eq!(whole.header, None, "only the last chunk has a header");
                let kvs = [whole.kvs, chunk.kvs.clone()].concat();
                whole = RangeResponse { kvs, ..chunk };
            }
            whole
        });
        assert_eq!(streamed, expected);
    }

    /// Compares all that readers see at all revisions.
    fn check_view(&self) {
        let view = self.mvcc.view();
        let revision = self.model.revision();
        let compacted = self.model.compacted;
        assert_eq!((view.revision(), view.compacted()), (revision, compacted));
        for at in 1..=revision + 1 {
            let everything = RangeRequest {
                key: "\0".into(),
                range_end: "\0".into(),
                revision: at,
                ..Default::default()
            };
            let expected = self.model.range(&self.model.begin(), &everything);
            assert_eq!(view.range(&everything).unwrap(), expected);
            for key in ["a", "b", "a\0"] {
                let get = RangeRequest { key: key.into(), revision: at, ..Default::default() };
                let expected = self.model.range(&self.model.begin(), &get);
                assert_eq!(view.range(&get).unwrap(), expected);
                if at <= revision {
                    let kv = view.get_at(key.as_bytes(), at).unwrap();
                    assert_eq!(
                        kv,
                        expected.ok().and_then(|response| response.kvs.first().cloned())
                    );
                }
            }
            self.check_history(at);
        }
        self.check_pins();
    }

    fn check_pins(&self) {
        for (_, pinned) in &self.pins {
            self.check_pinned(*pinned);
        }
    }

    /// What was not compacted when it was pinned can still be read by those who had begun to.
    fn check_pinned(&self, revision: i64) {
        if revision < 1 || revision > self.model.revision() {
            return;
        }
        let everything =
            RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
        let cache = newest_cache::NewestCache::new(0);
        let source = reader::Source { store: &*self.engine, cache: &cache };
        let kvs = range::answer(source, &everything, revision).unwrap().kvs;
        let range = KeyRange::new(everything.key, everything.range_end);
        let expected = self.model.state_at(revision).values();
        let expected: Vec<_> = expected.filter(|kv| range.contains(&kv.key)).cloned().collect();
        assert_eq!(kvs, expected);
    }

    fn check_history(&self, from: i64) {
        let view = self.mvcc.view();
        let wanted = |key: &[u8]| key != b"b";
        let mut found = vec![];
        let mut next = from;
        while next <= view.revision() {
            match view.history(next, &wanted, 2, 3).unwrap() {
                Ok(history) => {
                    assert!(history.next > next);
                    found.extend(history.commits);
                    next = history.next;
                }
                Err(Compacted(compacted)) => {
                    assert!(from < compacted);
                    assert_eq!(compacted, self.model.compacted);
                    return;
                }
            }
        }
        assert!(from >= self.model.compacted);
        let mut expected = vec![];
        for revision in from..=self.model.revision() {
            let events = self.model.events[revision as usize].iter();
            let events: Vec<Event> =
                events.filter(|event| wanted(&event.kv.as_ref().unwrap().key)).cloned().collect();
            if !events.is_empty() {
                expected.push(Commit { revision, events });
            }
        }
        assert_eq!(found, expected);
    }

    /// Removes all that may go and looks at what is left.
    fn check_removal(mut self) {
        self.pins.clear();
        self.end_round();
        while self.mvcc.compaction_step(&mut self.batch, 3).unwrap() != CompactionProgress::Done {
            self.end_round();
        }
        self.end_round();
        self.check_view();
        let compacted = self.model.compacted;
        let mut expected = BTreeSet::new();
        let mut newest = BTreeMap::new();
        for (main, events) in self.model.events.iter().enumerate() {
            for (sub, event) in events.iter().enumerate() {
                let revision = Revision::new(main as i64, sub as u32);
                let key = event.kv.as_ref().unwrap().key.clone();
                if revision.main > compacted {
                    expected.insert((key, revision));
                    continue;
                }
                if revision.main == compacted {
                    expected.insert((key.clone(), revision));
                }
                let is_kept = event.r#type() == EventType::Put || revision.main == compacted;
                newest.insert(key, Some(revision).filter(|_| is_kept));
            }
        }
        expected.extend(newest.into_iter().filter_map(|(key, revision)| Some((key, revision?))));

        let mut versions = BTreeSet::new();
        self.engine
            .scan(Space::Kv, b"", None, &mut |kv_key, _| {
                let (escaped, revision) = key::split(kv_key).unwrap();
                let user_key = key::with_user_key(escaped, Bytes::copy_from_slice).unwrap();
                versions.insert((user_key, revision));
                Flow::Next
            })
            .unwrap();
        assert_eq!(versions, expected);
        let mut changes = BTreeSet::new();
        self.engine
            .scan(Space::Log, b"", None, &mut |log_key, user_key| {
                changes.insert((user_key.to_bytes(), key::decode_log_key(log_key).unwrap()));
                Flow::Next
            })
            .unwrap();
        assert_eq!(changes, expected);
    }
}

/// Whether it is plain what a Txn's check says of puts that keep something of a key which an
/// earlier op of the Txn may change. Validation refuses all others but a put after an open-ended
/// delete, for which there is a script.
fn is_clear(request: &TxnRequest) -> bool {
    fn walk(request: &TxnRequest, has_changed: &mut bool) -> bool {
        request.success.iter().chain(&request.failure).all(|op| {
            match op.request.as_ref().unwrap() {
                Request::RequestPut(put) => {
                    let is_clear = !*has_changed || !put.ignore_value && !put.ignore_lease;
                    *has_changed = true;
                    is_clear
                }
                Request::RequestDeleteRange(_) => {
                    *has_changed = true;
                    true
                }
                Request::RequestRange(_) => true,
                Request::RequestTxn(nested) => walk(nested, has_changed),
            }
        })
    }
    walk(request, &mut false)
}

fn run(engine: Arc<dyn Engine>, actions: &[Action]) {
    let mut pair = Pair::new(engine);
    for action in actions {
        pair.act(action);
    }
    pair.check_removal();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_history_reads_as_the_model_says(actions in prop::collection::vec(action(), 1..80)) {
        run(Arc::new(MemoryEngine::new()), &actions);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_history_reads_alike_on_all_engines(actions in prop::collection::vec(action(), 1..80)) {
        for (_, engine) in test_engines() {
            run(engine, &actions);
        }
    }
}
