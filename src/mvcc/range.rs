//! Answering a RangeRequest: limit, count, sort, filters.
//!
//! The count is that of all keys in the interval, whatever limit and filters say. No more pairs
//! are kept than the answer needs, give or take a factor of two.

use super::reader::{Arena, Source, Version, Walk, newest};
use crate::error::Fatal;
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::pb::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use crate::pb::mvccpb::KeyValue;
use crate::types::KeyRange;
use std::cmp::Ordering;

/// Answers are cut back to the limit no earlier than at this many pairs.
const SURPLUS_MIN: usize = if cfg!(test) { 4 } else { 1024 };

/// Bytes of keys and values that are still a short answer: a few network packets.
const SHORT_BYTES_MAX: usize = if cfg!(test) { 24 } else { 128 << 10 };

pub(super) fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}

/// Answers a request at revision `at`, which the caller has checked. The header is the caller's.
pub(super) fn answer(
    source: Source<'_>,
    request: &RangeRequest,
    at: i64,
) -> Result<RangeResponse, Fatal> {
    let mut answer = Answer::new(request);
    if request.range_end.is_empty() {
        answer.look(source, at)?;
    } else {
        let (mut walk, mut arena) = (answer.walk(at), Arena::default());
        while !walk.is_done() {
            answer.advance(source, &mut walk, &mut arena)?;
        }
    }
    Ok(answer.finish())
}

/// Like [`answer`]; `None` if one engine scan is not enough for that, or the pairs of several keys
/// are large.
pub(super) fn answer_if_short(
    source: Source<'_>,
    request: &RangeRequest,
    at: i64,
) -> Result<Option<RangeResponse>, Fatal> {
    let mut answer = Answer::new(request);
    if request.range_end.is_empty() {
        answer.look(source, at)?;
    } else {
        let mut walk = answer.walk(at);
        answer.bytes_max = SHORT_BYTES_MAX;
        answer.advance(source, &mut walk, &mut Arena::default())?;
        if !walk.is_done() || answer.bytes > answer.bytes_max {
            return Ok(None);
        }
    }
    Ok(Some(answer.finish()))
}

/// Whether a request's pairs are answered in another order than that of their keys, which is known only when
/// all of them are there.
pub fn is_sorted(request: &RangeRequest) -> bool {
    Answer::new(request).order != Order::Found
}

/// The revisions that a request's pairs must have; 0 where it asks for none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Filters {
    modified: [i64; 2],
    created: [i64; 2],
}

impl Filters {
    pub(super) fn of(request: &RangeRequest) -> Self {
        Self {
            modified: [request.min_mod_revision, request.max_mod_revision],
            created: [request.min_create_revision, request.max_create_revision],
        }
    }

    pub(super) fn are_asked(&self) -> bool {
        (self.modified, self.created) != ([0; 2], [0; 2])
    }

    pub(super) fn pass(&self, version: &Version<'_>) -> bool {
        let within =
            |number: i64, [min, max]: [i64; 2]| number >= min && (max == 0 || number <= max);
        within(version.revision.main, self.modified) && within(version.put.create, self.created)
    }
}

/// What a request makes of the versions found, apart from where they are read.
struct Answer<'a> {
    request: &'a RangeRequest,
    /// The most pairs that may be answered.
    limit: usize,
    /// The most pairs that are looked at, of those that pass the filters.
    matched_max: usize,
    order: Order,
    filters: Filters,
    count: i64,
    /// Pairs that passed the filters.
    matched: usize,
    kvs: Vec<KeyValue>,
    /// Of the keys and values of all pairs taken.
    bytes: usize,
    /// What is looked at ends above so many.
    bytes_max: usize,
}

/// How the pairs, which come by ascending key, are to be sorted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Found,
    By(SortTarget, SortOrder),
}

impl<'a> Answer<'a> {
    fn new(request: &'a RangeRequest) -> Self {
        // Unknown numbers are refused before they come here.
        let target = SortTarget::try_from(request.sort_target).unwrap_or_default();
        let asked_order = SortOrder::try_from(request.sort_order).unwrap_or_default();
        let order = match asked_order {
            SortOrder::None | SortOrder::Ascend if target == SortTarget::Key => Order::Found,
            SortOrder::None => Order::By(target, SortOrder::Ascend),
            order => Order::By(target, order),
        };
        let filters = Filters::of(request);
        let limit = match usize::try_from(request.limit) {
            Ok(limit) if limit > 0 => limit,
            _ => usize::MAX,
        };
        // With a sort target but no order etcd sorts only the keys that it would answer anyway, and
        // one more: it has looked for that to see whether there are more.
        let takes_first = asked_order == SortOrder::None || order == Order::Found;
        let matched_max =
            if takes_first && !filters.are_asked() { limit.saturating_add(1) } else { usize::MAX };
        Self {
            request,
            limit,
            matched_max,
            order,
            filters,
            count: 0,
            matched: 0,
            kvs: vec![],
            bytes: 0,
            bytes_max: usize::MAX,
        }
    }

    /// Answers for the one key.
    fn look(&mut self, source: Source<'_>, at: i64) -> Result<(), Fatal> {
        self.kvs.reserve_exact(1);
        let user_key = &self.request.key;
        newest(source, user_key, at, |version| {
            self.count = 1;
            self.take(&version, |with_value| {
                let key = user_key.clone();
                Ok(if with_value { version.to_key_value(key) } else { version.to_metadata(key) })
            })
        })?
        .transpose()?;
        Ok(())
    }

    fn walk(&self, at: i64) -> Walk {
        let (start, end) = (self.request.key.clone(), self.request.range_end.clone());
        Walk::new(&KeyRange::new(start, end), at)
    }

    /// Takes what one engine scan finds, and stops where the answer becomes too large.
    fn advance(
        &mut self,
        source: Source<'_>,
        walk: &mut Walk,
        arena: &mut Arena,
    ) -> Result<(), Fatal> {
        walk.advance(source, &mut |found| {
            self.count += 1;
            if !self.is_full() {
                let (escaped, version) = (found.escaped(), found.version()?);
                self.take(&version, |with_value| arena.pair_of(escaped, &version, with_value))?;
            }
            Ok(self.bytes <= self.bytes_max)
        })
    }

    /// Whether further pairs would only be counted.
    fn is_full(&self) -> bool {
        self.request.count_only || self.matched == self.matched_max
    }

    /// Takes a version into the answer if it belongs there; `to_pair` makes the pair, with its
    /// value or without.
    fn take(
        &mut self,
        version: &Version<'_>,
        to_pair: impl FnOnce(bool) -> Result<KeyValue, Fatal>,
    ) -> Result<(), Fatal> {
        if self.request.count_only || !self.filters.pass(version) {
            return Ok(());
        }
        self.matched += 1;
        if self.order == Order::Found && self.matched > self.limit {
            return Ok(());
        }
        let by_value = matches!(self.order, Order::By(SortTarget::Value, _));
        let kv = to_pair(by_value || !self.request.keys_only)?;
        self.bytes += kv.key.len() + kv.value.len();
        self.kvs.push(kv);
        if self.kvs.len() >= self.limit.saturating_mul(2).max(SURPLUS_MIN) {
            self.sort_and_cut();
        }
        Ok(())
    }

    fn sort_and_cut(&mut self) {
        if let Order::By(target, order) = self.order {
            self.kvs.sort_by(|a, b| {
                let ascending = compare(target, a, b);
                if order == SortOrder::Descend { ascending.reverse() } else { ascending }
            });
        }
        self.kvs.truncate(self.limit);
    }

    fn finish(mut self) -> RangeResponse {
        self.sort_and_cut();
        if self.request.keys_only {
            for kv in &mut self.kvs {
                kv.value.clear();
            }
        }
        RangeResponse {
            header: None,
            more: self.matched > self.limit,
            count: self.count,
            kvs: self.kvs,
        }
    }
}

fn compare(target: SortTarget, a: &KeyValue, b: &KeyValue) -> Ordering {
    match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    }
}
