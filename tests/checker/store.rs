//! A naive store: every version of every key, and the semantics of etcd's KV calls over it.

use super::{Commit, Request, Response, Rule, Violation};
use bytes::Bytes;
use quoin::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quoin::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use quoin::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, ResponseHeader, ResponseOp, TxnRequest, TxnResponse, request_op, response_op,
};
use quoin::pb::mvccpb::event::EventType;
use quoin::pb::mvccpb::{Event, KeyValue};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// The revision of an empty store.
pub const EMPTY: i64 = 1;

#[derive(Clone, Default)]
pub struct Store {
    /// Oldest first; `None` is a deletion.
    versions: BTreeMap<Bytes, Vec<(i64, Option<KeyValue>)>>,
    commits: Vec<Commit>,
}

/// What a request does to a store.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    pub response: Response,
    /// What it changes, without previous values; empty if nothing.
    pub events: Vec<Event>,
}

impl Store {
    /// Builds a store from all that happened to it, and checks that it can have happened.
    pub fn replay(commits: &[Commit]) -> Result<Store, Violation> {
        let mut store = Store::default();
        for commit in commits {
            store.commit(commit)?;
        }
        Ok(store)
    }

    pub fn revision(&self) -> i64 {
        EMPTY + self.commits.len() as i64
    }

    /// The events of a revision, without previous values.
    pub fn events(&self, revision: i64) -> Option<&[Event]> {
        let at = usize::try_from(revision - EMPTY - 1).ok()?;
        Some(&self.commits.get(at)?.events)
    }

    pub fn get(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        let versions = self.versions.get(key)?;
        let after = versions.partition_point(|(at, _)| *at <= revision);
        versions[..after].last()?.1.as_ref()
    }

    /// All live pairs of an interval, by etcd's conventions for its end.
    pub fn range(&self, key: &[u8], range_end: &[u8], revision: i64) -> Vec<KeyValue> {
        let keys = self.versions.keys().filter(|candidate| contains(key, range_end, candidate));
        keys.filter_map(|key| self.get(key, revision)).cloned().collect()
    }

    /// What an answer of the given revision must be, and what it changes.
    ///
    /// `before` is the revision that the request finds.
    pub fn apply(&self, request: &Request, before: i64) -> Option<Applied> {
        let mut view = View { store: self, before, changed: BTreeMap::new(), events: vec![] };
        let response = match request {
            Request::Range(request) => Response::Range(view.range(request)),
            Request::Put(request) => Response::Put(view.put(request)?),
            Request::DeleteRange(request) => Response::DeleteRange(view.delete(request)),
            Request::Txn(request) => {
                let mut response = view.txn(request)?;
                response.header = view.header();
                Response::Txn(response)
            }
            _ => return None,
        };
        Some(Applied { response, events: view.events })
    }

    /// Adds one revision.
    pub fn commit(&mut self, commit: &Commit) -> Result<(), Violation> {
        let expected = self.revision() + 1;
        let wrong = |what: String| Err(Violation::new(Rule::Commits, what));
        if commit.revision != expected {
            return wrong(format!("revision {} follows {}", commit.revision, expected - 1));
        }
        if commit.events.is_empty() {
            return wrong(format!("revision {expected} changes nothing"));
        }
        let mut events = vec![];
        for event in &commit.events {
            let Some(kv) = &event.kv else { return wrong(format!("no key in {event:?}")) };
            let old = self.get(&kv.key, expected);
            let follows = match event.r#type() {
                EventType::Put => {
                    let create = old.map_or(expected, |old| old.create_revision);
                    let version = old.map_or(1, |old| old.version + 1);
                    (kv.create_revision, kv.mod_revision, kv.version) == (create, expected, version)
                }
                EventType::Delete => old.is_some() && *kv == tombstone(&kv.key, expected),
            };
            if !follows {
                return wrong(format!("revision {expected}: {event:?} follows {old:?}"));
            }
            let stored = (event.r#type() == EventType::Put).then(|| kv.clone());
            self.versions.entry(kv.key.clone()).or_default().push((expected, stored));
            events.push(Event { prev_kv: None, ..event.clone() });
        }
        self.commits.push(Commit { revision: expected, events });
        Ok(())
    }
}

pub fn contains(key: &[u8], range_end: &[u8], candidate: &[u8]) -> bool {
    match range_end {
        [] => candidate == key,
        [0] => candidate >= key,
        end => candidate >= key && candidate < end,
    }
}

fn tombstone(key: &Bytes, revision: i64) -> KeyValue {
    KeyValue { key: key.clone(), mod_revision: revision, ..Default::default() }
}

pub fn has_changed(response: &TxnResponse) -> bool {
    response.responses.iter().any(|op| match &op.response {
        Some(response_op::Response::ResponsePut(_)) => true,
        Some(response_op::Response::ResponseDeleteRange(response)) => response.deleted > 0,
        Some(response_op::Response::ResponseTxn(response)) => has_changed(response),
        _ => false,
    })
}

/// A store as one request sees it while it changes it.
struct View<'a> {
    store: &'a Store,
    before: i64,
    changed: BTreeMap<Bytes, Option<KeyValue>>,
    events: Vec<Event>,
}

impl View<'_> {
    fn header(&self) -> Option<ResponseHeader> {
        let revision = self.before + i64::from(!self.events.is_empty());
        Some(ResponseHeader { revision, ..Default::default() })
    }

    fn get(&self, key: &[u8]) -> Option<KeyValue> {
        match self.changed.get(key) {
            Some(changed) => changed.clone(),
            None => self.store.get(key, self.before).cloned(),
        }
    }

    fn interval(&self, key: &[u8], range_end: &[u8]) -> Vec<KeyValue> {
        let stored = self.store.range(key, range_end, self.before);
        let mut found: BTreeMap<Bytes, Option<KeyValue>> =
            stored.into_iter().map(|kv| (kv.key.clone(), Some(kv))).collect();
        let changed = self.changed.iter().filter(|(k, _)| contains(key, range_end, k));
        found.extend(changed.map(|(k, kv)| (k.clone(), kv.clone())));
        found.into_values().flatten().collect()
    }

    fn range(&self, request: &RangeRequest) -> RangeResponse {
        let mut kvs = match request.revision {
            1.. => self.store.range(&request.key, &request.range_end, request.revision),
            _ => self.interval(&request.key, &request.range_end),
        };
        let count = kvs.len() as i64;
        let header = self.header();
        if request.count_only {
            return RangeResponse { header, count, kvs: vec![], more: false };
        }
        let limit = usize::try_from(request.limit).unwrap_or(0);
        kvs.retain(|kv| passes(request, kv));
        if limit > 0 && request.sort_order() == SortOrder::None && !has_filters(request) {
            // etcd looks no further than it needs to know that there is more.
            kvs.truncate(limit + 1);
        }
        sort(request, &mut kvs);
        let more = limit > 0 && kvs.len() > limit;
        if more {
            kvs.truncate(limit);
        }
        if request.keys_only {
            let by_value = request.sort_target() == SortTarget::Value;
            for kv in &mut kvs {
                kv.value = Bytes::new();
                kv.lease = if by_value { kv.lease } else { 0 };
            }
        }
        RangeResponse { header, kvs, more, count }
    }

    /// `None` where the request is refused: something to keep was not there before all this.
    fn put(&mut self, request: &PutRequest) -> Option<PutResponse> {
        let old = self.get(&request.key);
        let keeps = request.ignore_value || request.ignore_lease;
        if keeps && self.store.get(&request.key, self.before).is_none() {
            return None;
        }
        let revision = self.before + 1;
        let kept = old.clone().unwrap_or_default();
        let kv = KeyValue {
            key: request.key.clone(),
            create_revision: old.as_ref().map_or(revision, |old| old.create_revision),
            mod_revision: revision,
            version: kept.version + 1,
            value: if request.ignore_value { kept.value } else { request.value.clone() },
            lease: if request.ignore_lease { kept.lease } else { request.lease },
        };
        self.change(EventType::Put, kv);
        Some(PutResponse { header: self.header(), prev_kv: old.filter(|_| request.prev_kv) })
    }

    fn delete(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let found = self.interval(&request.key, &request.range_end);
        for kv in &found {
            self.change(EventType::Delete, tombstone(&kv.key, self.before + 1));
        }
        let deleted = found.len() as i64;
        let prev_kvs = if request.prev_kv { found } else { vec![] };
        DeleteRangeResponse { header: self.header(), deleted, prev_kvs }
    }

    fn change(&mut self, kind: EventType, kv: KeyValue) {
        let stored = (kind == EventType::Put).then(|| kv.clone());
        self.changed.insert(kv.key.clone(), stored);
        self.events.push(Event { r#type: kind as i32, kv: Some(kv), prev_kv: None });
    }

    /// A nested answer has a header without a revision; the caller fills the outermost one.
    fn txn(&mut self, request: &TxnRequest) -> Option<TxnResponse> {
        let succeeded = self.holds(&request.compare);
        let ops = if succeeded { &request.success } else { &request.failure };
        let mut responses = vec![];
        for op in ops {
            use request_op::Request as Op;
            use response_op::Response as Answer;
            let response = match op.request.as_ref()? {
                Op::RequestRange(request) => Answer::ResponseRange(self.range(request)),
                Op::RequestPut(request) => Answer::ResponsePut(self.put(request)?),
                Op::RequestDeleteRange(request) => {
                    Answer::ResponseDeleteRange(self.delete(request))
                }
                Op::RequestTxn(request) => Answer::ResponseTxn(self.txn(request)?),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        Some(TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses })
    }

    /// Compares see what was there before the whole request.
    fn holds(&self, compares: &[Compare]) -> bool {
        compares.iter().all(|compare| {
            let kvs = self.store.range(&compare.key, &compare.range_end, self.before);
            match kvs.is_empty() {
                true => is_met(compare, None),
                false => kvs.iter().all(|kv| is_met(compare, Some(kv))),
            }
        })
    }
}

/// A missing key has zeroes everywhere but no value at all: no compare of its value holds.
fn is_met(compare: &Compare, kv: Option<&KeyValue>) -> bool {
    let union = compare.target_union.as_ref();
    let number = |stored: fn(&KeyValue) -> i64, asked: i64| kv.map_or(0, stored).cmp(&asked);
    let order = match (compare.target(), union) {
        (CompareTarget::Version, Some(TargetUnion::Version(n))) => number(|kv| kv.version, *n),
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(n))) => {
            number(|kv| kv.create_revision, *n)
        }
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(n))) => number(|kv| kv.mod_revision, *n),
        (CompareTarget::Lease, Some(TargetUnion::Lease(n))) => number(|kv| kv.lease, *n),
        (CompareTarget::Value, union) => {
            let Some(kv) = kv else { return false };
            match union {
                Some(TargetUnion::Value(value)) => kv.value.cmp(value),
                _ => kv.value[..].cmp(&[]),
            }
        }
        (CompareTarget::Version, _) => number(|kv| kv.version, 0),
        (CompareTarget::Create, _) => number(|kv| kv.create_revision, 0),
        (CompareTarget::Mod, _) => number(|kv| kv.mod_revision, 0),
        (CompareTarget::Lease, _) => number(|kv| kv.lease, 0),
    };
    match compare.result() {
        CompareResult::Equal => order == Ordering::Equal,
        CompareResult::NotEqual => order != Ordering::Equal,
        CompareResult::Greater => order == Ordering::Greater,
        CompareResult::Less => order == Ordering::Less,
    }
}

fn has_filters(request: &RangeRequest) -> bool {
    let revisions = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    revisions != [0; 4]
}

fn passes(request: &RangeRequest, kv: &KeyValue) -> bool {
    let within = |min: i64, max: i64, n: i64| (min == 0 || n >= min) && (max == 0 || n <= max);
    within(request.min_mod_revision, request.max_mod_revision, kv.mod_revision)
        && within(request.min_create_revision, request.max_create_revision, kv.create_revision)
}

/// Equal ones stay in the order of their keys, which etcd does not promise.
fn sort(request: &RangeRequest, kvs: &mut [KeyValue]) {
    let descending = request.sort_order() == SortOrder::Descend;
    kvs.sort_by(|a, b| {
        let order = match request.sort_target() {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        };
        if descending { order.reverse() } else { order }
    });
}
