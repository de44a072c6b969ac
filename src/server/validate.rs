//! Checks of a request that need nothing but the request: the first step of each call.
//!
//! Which error a client gets when several would fit is part of etcd's behaviour, so the order
//! of checks here is too. What depends on stored data (does the lease exist, is the revision
//! compacted) is the state machine's to check. Every walk into a Txn is bounded in depth.

use crate::error::RequestError;
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::{
    DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use std::collections::{BTreeMap, BTreeSet};
use tonic::metadata::MetadataMap;

/// Seconds. Above it, deadlines would leave what clients can count.
pub const LEASE_TTL_MAX: i64 = 9_000_000_000;

/// Txns within Txns, the outermost not counted.
///
/// A decoder gives up at 100 nested messages and a level of Txn takes two, in the request and
/// once more in the replicated command: whatever passes here can be decoded by every member.
pub const TXN_NESTING_MAX: usize = 32;

type Checked = Result<(), RequestError>;

pub fn range(request: &RangeRequest) -> Checked {
    if request.key.is_empty() {
        return Err(RequestError::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err()
        || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(RequestError::InvalidSortOption);
    }
    Ok(())
}

/// What [`range`] checks, and that nothing is asked for that etcd does not give in pieces.
pub fn range_stream(request: &RangeRequest) -> Checked {
    range(request)?;
    let by_key = request.sort_target == SortTarget::Key as i32;
    // A target without an order is no order in etcd's eyes, though it sorts by it.
    let is_unsorted = request.sort_order == SortOrder::None as i32;
    if !is_unsorted && (!by_key || request.sort_order == SortOrder::Descend as i32) {
        return Err(RequestError::StreamSortUnsupported);
    }
    let filters = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    if filters != [0; 4] {
        return Err(RequestError::StreamFilterUnsupported);
    }
    Ok(())
}

pub fn put(request: &PutRequest) -> Checked {
    if request.key.is_empty() {
        return Err(RequestError::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(RequestError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(RequestError::LeaseProvided);
    }
    Ok(())
}

pub fn delete_range(request: &DeleteRangeRequest) -> Checked {
    if request.key.is_empty() { Err(RequestError::EmptyKey) } else { Ok(()) }
}

pub fn lease_grant(request: &LeaseGrantRequest) -> Checked {
    if request.ttl > LEASE_TTL_MAX { Err(RequestError::LeaseTtlTooLarge) } else { Ok(()) }
}

/// `ops_max` bounds the longest of the three lists at the top; a nested Txn may use what its
/// parent's longest list left of it.
pub fn txn(request: &TxnRequest, ops_max: usize) -> Checked {
    txn_ops(request, ops_max, 0)?;
    for branch in [&request.success, &request.failure] {
        if may_overlap(branch) {
            branch_changes(branch)?;
        }
    }
    Ok(())
}

/// `encoded` is the length in bytes of the command as it will be replicated.
pub fn size(encoded: usize, request_bytes_max: usize) -> Checked {
    if encoded > request_bytes_max { Err(RequestError::RequestTooLarge) } else { Ok(()) }
}

/// Whether the Txn can be answered as a read: no op, taken or not, but Range.
///
/// A nested Txn makes it a write even if it only reads.
pub fn is_read_only_txn(request: &TxnRequest) -> bool {
    ops(request).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether local state is enough to answer: every op is a serializable Range, or there is none.
pub fn is_serializable_txn(request: &TxnRequest) -> bool {
    ops(request)
        .all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

/// Whether a read-only Txn looks at no more keys than it names.
pub fn reads_single_keys(request: &TxnRequest) -> bool {
    let is_single = |op: &RequestOp| !matches!(&op.request, Some(Request::RequestRange(range)) if !range.range_end.is_empty());
    request.compare.iter().all(|compare| compare.range_end.is_empty())
        && ops(request).all(is_single)
}

/// Whether the answer may tell of many pairs.
pub fn tells_of_ranges(request: &TxnRequest) -> bool {
    ops(request).any(|op| match &op.request {
        Some(Request::RequestRange(range)) => {
            !range.range_end.is_empty() && !range.count_only && range.limit != 1
        }
        Some(Request::RequestDeleteRange(delete)) => !delete.range_end.is_empty() && delete.prev_kv,
        Some(Request::RequestTxn(nested)) => tells_of_ranges(nested),
        _ => false,
    })
}

/// The API version that a client says it speaks; "unknown" if it says nothing.
pub fn client_api_version(metadata: &MetadataMap) -> Result<&str, RequestError> {
    match metadata.get("client-api-version") {
        None => Ok("unknown"),
        Some(version) => std::str::from_utf8(version.as_bytes())
            .map_err(|_| RequestError::InvalidClientApiVersion),
    }
}

/// Whether the client wants an error at once, and its streams ended, when there is no leader.
pub fn requires_leader(metadata: &MetadataMap) -> bool {
    metadata.get("hasleader").is_some_and(|value| value.as_bytes() == b"true")
}

fn ops(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

fn txn_ops(request: &TxnRequest, budget: usize, depth: usize) -> Checked {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    if longest > budget || depth > TXN_NESTING_MAX {
        return Err(RequestError::TooManyOps);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(RequestError::EmptyKey);
    }
    ops(request).try_for_each(|op| match &op.request {
        Some(Request::RequestRange(request)) => range(request),
        Some(Request::RequestPut(request)) => put(request),
        Some(Request::RequestDeleteRange(request)) => delete_range(request),
        Some(Request::RequestTxn(request)) => txn_ops(request, budget - longest, depth + 1),
        None => Err(RequestError::KeyNotFound),
    })
}

/// The usual Txn changes one key and needs no sets to be built.
fn may_overlap(branch: &[RequestOp]) -> bool {
    let is_nested = |op: &RequestOp| matches!(op.request, Some(Request::RequestTxn(_)));
    let changes = |op: &&RequestOp| !matches!(op.request, Some(Request::RequestRange(_)));
    branch.iter().any(is_nested) || branch.iter().filter(changes).count() > 1
}

/// Keys that a branch may change.
#[derive(Default)]
struct Changes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deleted_keys: BTreeSet<&'a [u8]>,
    /// Start to end, never overlapping.
    deleted_ranges: BTreeMap<&'a [u8], &'a [u8]>,
}

impl<'a> Changes<'a> {
    fn deletes(&self, key: &'a [u8]) -> bool {
        let last_before = self.deleted_ranges.range(..=key).next_back();
        self.deleted_keys.contains(key) || last_before.is_some_and(|(_, end)| key < *end)
    }

    fn add_delete(&mut self, key: &'a [u8], range_end: &'a [u8]) {
        if range_end.is_empty() {
            self.deleted_keys.insert(key);
        } else {
            self.add_deleted_range(key, range_end);
        }
    }

    /// An end of one zero byte lies before every start, so an open-ended delete is recorded as
    /// nothing and conflicts with no put. etcd does the same, and clients may rely on it.
    fn add_deleted_range(&mut self, mut start: &'a [u8], mut end: &'a [u8]) {
        if end <= start {
            return;
        }
        while let Some((&s, &e)) = self.deleted_ranges.range(..=end).next_back() {
            if e < start {
                break;
            }
            self.deleted_ranges.remove(s);
            start = start.min(s);
            end = end.max(e);
        }
        self.deleted_ranges.insert(start, end);
    }

    fn add_put(&mut self, key: &'a [u8]) -> Checked {
        if self.deletes(key) || !self.puts.insert(key) {
            return Err(RequestError::DuplicateKey);
        }
        Ok(())
    }

    /// Only one of the branches is taken, so they may change the same keys.
    fn add_nested(&mut self, success: Changes<'a>, failure: Changes<'a>) -> Checked {
        let puts = || success.puts.iter().chain(&failure.puts);
        if puts().any(|key| self.puts.contains(key) || self.deletes(key)) {
            return Err(RequestError::DuplicateKey);
        }
        for branch in [success, failure] {
            absorb(&mut self.puts, branch.puts);
            absorb(&mut self.deleted_keys, branch.deleted_keys);
            for (start, end) in branch.deleted_ranges {
                self.add_deleted_range(start, end);
            }
        }
        Ok(())
    }
}

/// Moves the smaller set into the larger: deep nesting does not make the work quadratic.
fn absorb<'a>(into: &mut BTreeSet<&'a [u8]>, mut from: BTreeSet<&'a [u8]>) {
    if into.len() < from.len() {
        std::mem::swap(into, &mut from);
    }
    into.extend(from);
}

/// Refuses a branch that puts a key twice, or puts what it also deletes.
///
/// As in etcd: this level's deletes count for all nested Txns, nested deletes only for the
/// nested Txns after them and for this level's puts.
fn branch_changes(ops: &[RequestOp]) -> Result<Changes<'_>, RequestError> {
    let mut changes = Changes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            changes.add_delete(&delete.key, &delete.range_end);
        }
    }
    for op in ops {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            let success = branch_changes(&nested.success)?;
            let failure = branch_changes(&nested.failure)?;
            changes.add_nested(success, failure)?;
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request {
            changes.add_put(&put.key)?;
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::etcdserverpb::Compare;
    use RequestError as E;
    use proptest::prelude::*;

    const OPS_MAX: usize = 128;

    fn put_op(key: &'static str) -> RequestOp {
        let put = PutRequest { key: key.into(), value: "v".into(), ..Default::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn delete_op(key: &'static str, range_end: &'static str) -> RequestOp {
        let (key, range_end) = (key.into(), range_end.into());
        let delete = DeleteRangeRequest { key, range_end, prev_kv: false };
        RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
    }

    fn range_op(key: &'static str, serializable: bool) -> RequestOp {
        let range = RangeRequest { key: key.into(), serializable, ..Default::default() };
        RequestOp { request: Some(Request::RequestRange(range)) }
    }

    fn branches(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
        TxnRequest { compare: vec![], success, failure }
    }

    fn txn_op(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        RequestOp { request: Some(Request::RequestTxn(branches(success, failure))) }
    }

    fn compare(key: &'static str) -> Compare {
        Compare { key: key.into(), ..Default::default() }
    }

    /// A Txn with `depth` Txns inside one another, the innermost with one put.
    fn nested(depth: usize) -> TxnRequest {
        let mut ops = vec![put_op("a")];
        for _ in 0..depth {
            ops = vec![txn_op(ops, vec![])];
        }
        branches(ops, vec![])
    }

    #[test]
    fn range_wants_a_key_and_known_sort_options() {
        let request = |key: &'static str, sort_order, sort_target| RangeRequest {
            key: key.into(),
            sort_order,
            sort_target,
            ..Default::default()
        };
        let table = [
            (request("a", 0, 0), Ok(())),
            (request("a", 2, 4), Ok(())),
            (request("", 0, 0), Err(E::EmptyKey)),
            (request("", 9, 9), Err(E::EmptyKey)),
            (request("a", 3, 0), Err(E::InvalidSortOption)),
            (request("a", -1, 0), Err(E::InvalidSortOption)),
            (request("a", 0, 5), Err(E::InvalidSortOption)),
            (request("a", 0, -1), Err(E::InvalidSortOption)),
            (RangeRequest { range_end: "b".into(), ..Default::default() }, Err(E::EmptyKey)),
        ];
        for (request, expected) in table {
            assert_eq!(range(&request), expected, "{request:?}");
        }
    }

    #[test]
    fn transactions_that_tell_of_ranges_are_known() {
        let range = |range_end: &'static str| RangeRequest {
            key: "a".into(),
            range_end: range_end.into(),
            ..Default::default()
        };
        let delete = |range_end: &'static str, prev_kv| DeleteRangeRequest {
            key: "a".into(),
            range_end: range_end.into(),
            prev_kv,
        };
        let txn = |request| TxnRequest {
            failure: vec![RequestOp { request: Some(request) }],
            ..Default::default()
        };
        let table = [
            (Request::RequestRange(range("")), false),
            (Request::RequestRange(range("b")), true),
            (Request::RequestRange(RangeRequest { limit: 1, ..range("b") }), false),
            (Request::RequestRange(RangeRequest { limit: 2, ..range("b") }), true),
            (Request::RequestRange(RangeRequest { count_only: true, ..range("b") }), false),
            (Request::RequestDeleteRange(delete("b", false)), false),
            (Request::RequestDeleteRange(delete("b", true)), true),
            (Request::RequestDeleteRange(delete("", true)), false),
            (Request::RequestTxn(txn(Request::RequestRange(range("b")))), true),
            (Request::RequestTxn(txn(Request::RequestRange(range("")))), false),
        ];
        for (request, expected) in table {
            assert_eq!(tells_of_ranges(&txn(request.clone())), expected, "{request:?}");
        }
    }

    #[test]
    fn range_stream_is_in_key_order_and_without_filters() {
        let plain = || RangeRequest { key: "a".into(), ..Default::default() };
        let table = [
            (plain(), Ok(())),
            (RangeRequest { sort_order: 1, ..plain() }, Ok(())),
            (RangeRequest { limit: 3, revision: 4, keys_only: true, ..plain() }, Ok(())),
            (RangeRequest { sort_order: 2, ..plain() }, Err(E::StreamSortUnsupported)),
            (RangeRequest { sort_target: 1, ..plain() }, Ok(())),
            (
                RangeRequest { sort_target: 1, sort_order: 1, ..plain() },
                Err(E::StreamSortUnsupported),
            ),
            (RangeRequest { min_mod_revision: 1, ..plain() }, Err(E::StreamFilterUnsupported)),
            (RangeRequest { max_mod_revision: 1, ..plain() }, Err(E::StreamFilterUnsupported)),
            (RangeRequest { min_create_revision: 1, ..plain() }, Err(E::StreamFilterUnsupported)),
            (RangeRequest { max_create_revision: 1, ..plain() }, Err(E::StreamFilterUnsupported)),
            (RangeRequest { sort_target: 7, ..plain() }, Err(E::InvalidSortOption)),
            (RangeRequest { sort_order: 2, ..Default::default() }, Err(E::EmptyKey)),
        ];
        for (request, expected) in table {
            assert_eq!(range_stream(&request), expected, "{request:?}");
        }
    }

    #[test]
    fn put_takes_no_value_or_lease_that_it_shall_ignore() {
        let request =
            |key: &'static str, value: &'static str, lease, ignore_value, ignore_lease| {
                let (key, value) = (key.into(), value.into());
                PutRequest { key, value, lease, prev_kv: false, ignore_value, ignore_lease }
            };
        let table = [
            (request("a", "", 0, false, false), Ok(())),
            (request("a", "v", 7, false, false), Ok(())),
            (request("a", "", 7, true, false), Ok(())),
            (request("a", "v", 0, false, true), Ok(())),
            (request("a", "", 0, true, true), Ok(())),
            (request("", "v", 7, true, true), Err(E::EmptyKey)),
            (request("a", "v", 7, true, true), Err(E::ValueProvided)),
            (request("a", "", 7, true, true), Err(E::LeaseProvided)),
            (request("a", "v", -7, false, true), Err(E::LeaseProvided)),
        ];
        for (request, expected) in table {
            assert_eq!(put(&request), expected, "{request:?}");
        }
    }

    #[test]
    fn delete_lease_and_size_have_one_check_each() {
        let delete =
            |key: &'static str| DeleteRangeRequest { key: key.into(), ..Default::default() };
        assert_eq!(delete_range(&delete("a")), Ok(()));
        assert_eq!(delete_range(&delete("")), Err(E::EmptyKey));

        let grant = |ttl| lease_grant(&LeaseGrantRequest { ttl, id: 0 });
        assert_eq!(grant(i64::MIN), Ok(()));
        assert_eq!(grant(9_000_000_000), Ok(()));
        assert_eq!(grant(9_000_000_001), Err(E::LeaseTtlTooLarge));

        assert_eq!(size(1_572_864, 1_572_864), Ok(()));
        assert_eq!(size(1_572_865, 1_572_864), Err(E::RequestTooLarge));
    }

    #[test]
    fn txn_counts_the_longest_list_and_gives_the_rest_to_nested_txns() {
        let ranges = |n| vec![range_op("a", false); n];
        let table = [
            (branches(vec![], vec![]), 0, Ok(())),
            (branches(ranges(128), ranges(128)), 128, Ok(())),
            (branches(ranges(129), vec![]), 128, Err(E::TooManyOps)),
            (branches(vec![], ranges(129)), 128, Err(E::TooManyOps)),
            (
                TxnRequest { compare: vec![compare("a"); 129], ..Default::default() },
                128,
                Err(E::TooManyOps),
            ),
            // One op at the top leaves three for the level below.
            (branches(vec![txn_op(ranges(3), vec![])], vec![]), 4, Ok(())),
            (branches(vec![txn_op(ranges(4), vec![])], vec![]), 4, Err(E::TooManyOps)),
            // The longest list counts, not the one that holds the nested Txn.
            (branches(vec![txn_op(ranges(2), vec![])], ranges(3)), 4, Err(E::TooManyOps)),
            (branches(vec![], vec![txn_op(vec![], ranges(4))]), 4, Err(E::TooManyOps)),
            // Siblings share nothing: each has the budget that the parent left.
            (branches(vec![txn_op(ranges(2), vec![]); 2], vec![]), 4, Ok(())),
            (nested(3), 4, Ok(())),
            (nested(4), 4, Err(E::TooManyOps)),
        ];
        for (request, ops_max, expected) in table {
            assert_eq!(txn(&request, ops_max), expected, "{ops_max} {request:?}");
        }
    }

    #[test]
    fn txn_nests_only_as_deep_as_every_member_can_decode() {
        use crate::pb::quoinpb::{Command, command};
        use prost::Message;

        let deepest = nested(TXN_NESTING_MAX);
        assert_eq!(txn(&deepest, 1000), Ok(()));
        assert_eq!(txn(&nested(TXN_NESTING_MAX + 1), 1000), Err(E::TooManyOps));

        let command =
            Command { request: Some(command::Request::Txn(deepest)), ..Default::default() };
        assert_eq!(Command::decode(&command.encode_to_vec()[..]), Ok(command));
    }

    #[test]
    fn txn_is_checked_in_the_order_of_etcd() {
        let empty_op = RequestOp { request: None };
        let bad_put = || {
            let put =
                PutRequest { key: "a".into(), lease: 1, ignore_lease: true, ..Default::default() };
            RequestOp { request: Some(Request::RequestPut(put)) }
        };
        let bad_range = {
            let range = RangeRequest { key: "a".into(), sort_order: 9, ..Default::default() };
            RequestOp { request: Some(Request::RequestRange(range)) }
        };
        let with = |compare, success, failure| TxnRequest { compare, success, failure };
        let table = [
            (with(vec![compare("")], vec![empty_op.clone()], vec![]), Err(E::EmptyKey)),
            (with(vec![compare("a"); 3], vec![put_op(""); 200], vec![]), Err(E::TooManyOps)),
            (with(vec![], vec![empty_op.clone()], vec![put_op("")]), Err(E::KeyNotFound)),
            (with(vec![], vec![put_op("")], vec![empty_op.clone()]), Err(E::EmptyKey)),
            (with(vec![], vec![], vec![delete_op("", "b")]), Err(E::EmptyKey)),
            (with(vec![], vec![bad_range.clone()], vec![]), Err(E::InvalidSortOption)),
            (with(vec![], vec![], vec![bad_put()]), Err(E::LeaseProvided)),
            // Ops of the failure branch come before overlaps of the success branch.
            (with(vec![], vec![put_op("a"), put_op("a")], vec![bad_put()]), Err(E::LeaseProvided)),
            (with(vec![], vec![put_op("a"), put_op("a")], vec![]), Err(E::DuplicateKey)),
            (with(vec![], vec![], vec![put_op("a"), put_op("a")]), Err(E::DuplicateKey)),
            (with(vec![], vec![txn_op(vec![], vec![empty_op])], vec![]), Err(E::KeyNotFound)),
            (
                with(vec![], vec![txn_op(vec![bad_range], vec![])], vec![]),
                Err(E::InvalidSortOption),
            ),
        ];
        for (request, expected) in table {
            assert_eq!(txn(&request, OPS_MAX), expected, "{request:?}");
        }
    }

    #[test]
    fn branch_may_not_put_twice_nor_put_what_it_deletes() {
        let fine: [Vec<RequestOp>; 13] = [
            vec![put_op("a"), put_op("b")],
            vec![delete_op("a", ""), delete_op("a", "c"), delete_op("b", "d")],
            vec![range_op("a", false), put_op("a"), range_op("a", false)],
            vec![delete_op("a", "c"), put_op("c")],
            vec![delete_op("b", "c"), put_op("a")],
            vec![delete_op("a", ""), put_op("a\0")],
            // Inverted and empty intervals delete nothing.
            vec![delete_op("c", "a"), put_op("b")],
            vec![delete_op("b", "b"), put_op("b")],
            // An open end is not seen as covering anything, as in etcd.
            vec![delete_op("a", "\0"), put_op("b")],
            vec![delete_op("\0", "\0"), put_op("b")],
            // Either branch of a nested Txn runs, never both.
            vec![txn_op(vec![put_op("a")], vec![put_op("a")])],
            vec![txn_op(vec![put_op("a")], vec![delete_op("a", "")])],
            // A nested delete after a sibling's put is not seen, as in etcd.
            vec![txn_op(vec![put_op("a")], vec![]), txn_op(vec![delete_op("a", "")], vec![])],
        ];
        let refused: [Vec<RequestOp>; 13] = [
            vec![put_op("a"), put_op("a")],
            vec![put_op("a"), delete_op("a", "")],
            vec![delete_op("a", "c"), put_op("a")],
            vec![put_op("b"), delete_op("a", "c")],
            // Intervals that overlap, touch or contain each other still cover all they cover.
            vec![delete_op("a", "e"), delete_op("b", "c"), put_op("d")],
            vec![delete_op("b", "c"), delete_op("a", "e"), put_op("d")],
            vec![delete_op("a", "c"), delete_op("c", "e"), put_op("b")],
            vec![delete_op("c", "e"), delete_op("a", "d"), put_op("d")],
            vec![put_op("a"), txn_op(vec![put_op("a")], vec![])],
            vec![txn_op(vec![], vec![put_op("a")]), delete_op("a", "")],
            vec![txn_op(vec![put_op("a")], vec![]), txn_op(vec![], vec![put_op("a")])],
            vec![txn_op(vec![delete_op("a", "c")], vec![]), txn_op(vec![put_op("b")], vec![])],
            vec![put_op("b"), txn_op(vec![txn_op(vec![], vec![delete_op("a", "c")])], vec![])],
        ];
        for ops in fine {
            assert_eq!(txn(&branches(ops.clone(), ops.clone()), OPS_MAX), Ok(()), "{ops:?}");
        }
        for ops in refused {
            for request in [branches(ops.clone(), vec![]), branches(vec![], ops.clone())] {
                assert_eq!(txn(&request, OPS_MAX), Err(E::DuplicateKey), "{request:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn merged_intervals_cover_what_the_single_ones_cover(
            intervals in prop::collection::vec(("[a-f]{1,2}", "[a-f]{1,2}"), 0..12),
            key in "[a-f]{1,2}",
        ) {
            let mut changes = Changes::default();
            for (start, end) in &intervals {
                changes.add_delete(start.as_bytes(), end.as_bytes());
            }
            let covered = intervals.iter().any(|(start, end)| *start <= key && key < *end);
            prop_assert_eq!(changes.deletes(key.as_bytes()), covered);
        }
    }

    #[test]
    fn txn_is_a_read_when_all_its_ops_are_ranges() {
        let nested_read = txn_op(vec![range_op("a", true)], vec![]);
        // Request, is read-only, is serializable.
        let table = [
            (branches(vec![], vec![]), true, true),
            (branches(vec![range_op("a", true)], vec![range_op("b", true)]), true, true),
            (branches(vec![range_op("a", true)], vec![range_op("b", false)]), true, false),
            (branches(vec![range_op("a", true), put_op("a")], vec![]), false, false),
            (branches(vec![], vec![delete_op("a", "")]), false, false),
            (branches(vec![nested_read], vec![]), false, false),
        ];
        for (request, read_only, serializable) in table {
            assert_eq!(is_read_only_txn(&request), read_only, "{request:?}");
            assert_eq!(is_serializable_txn(&request), serializable, "{request:?}");
        }
    }

    #[test]
    fn metadata_is_read_as_bytes() {
        let with = |name: &'static str, value: &'static [u8]| {
            let value = http::HeaderValue::from_bytes(value).expect("a legal header");
            MetadataMap::from_headers(http::HeaderMap::from_iter([(
                http::HeaderName::from_static(name),
                value,
            )]))
        };
        assert_eq!(client_api_version(&MetadataMap::new()), Ok("unknown"));
        assert_eq!(client_api_version(&with("client-api-version", b"3.7.1")), Ok("3.7.1"));
        assert_eq!(client_api_version(&with("client-api-version", "é".as_bytes())), Ok("é"));
        let invalid = with("client-api-version", b"3.\xff");
        assert_eq!(client_api_version(&invalid), Err(E::InvalidClientApiVersion));

        assert!(requires_leader(&with("hasleader", b"true")));
        assert!(!requires_leader(&with("hasleader", b"false")));
        assert!(!requires_leader(&MetadataMap::new()));
    }
}
