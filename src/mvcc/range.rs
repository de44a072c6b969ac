//! Range as etcd defines it: interval, filters, order, limit, count.

use super::key::{self, Record};
use super::scan::VersionScan;
use crate::error::Fatal;
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::pb::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use crate::pb::mvccpb::KeyValue;
use crate::storage::Read;
use crate::types::KeyRange;
use bytes::Bytes;

/// Reads a range at a revision that the caller has checked. `header` is the store's revision.
pub(super) fn range<R: Read + ?Sized>(
    reader: &R,
    request: &RangeRequest,
    at: i64,
    header: i64,
) -> Result<RangeResponse, Fatal> {
    let range = KeyRange::new(request.key.clone(), request.range_end.clone());
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
    let target = request.sort_target();
    let sorts = target != SortTarget::Key || request.sort_order() == SortOrder::Descend;
    let filters = has_filters(request);
    // Without sort and filters nothing beyond the limit is ever looked at, only counted.
    let collect_max = if sorts || filters { None } else { limit };
    let (mut kvs, mut count) = (Vec::new(), 0);
    VersionScan::new(&range, at).all(reader, &mut |visible| {
        let record = visible.record.as_slice();
        let Record::Put { create, version, lease, value_at } = key::decode(record)? else {
            return Ok(true);
        };
        count += 1;
        if request.count_only || collect_max.is_some_and(|max| kvs.len() >= max) {
            return Ok(true);
        }
        let modified = visible.revision.main;
        if filters && !passes(request, create, modified) {
            return Ok(true);
        }
        let wants_value = !request.keys_only || target == SortTarget::Value;
        let value = match wants_value {
            true => visible.record.to_bytes().slice(value_at..),
            false => Bytes::new(),
        };
        kvs.push(KeyValue {
            key: key::user_key(visible.prefix),
            create_revision: create,
            mod_revision: modified,
            version,
            value,
            // etcd 3.7 answers keys_only from its index, which knows no leases.
            lease: if wants_value { lease } else { 0 },
        });
        Ok(true)
    })?;
    if sorts {
        sort(&mut kvs, target, request.sort_order() == SortOrder::Descend);
    }
    let matched = if collect_max.is_some() { count } else { kvs.len() };
    let more = !request.count_only && limit.is_some_and(|limit| matched > limit);
    if let Some(limit) = limit {
        kvs.truncate(limit);
    }
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    Ok(RangeResponse {
        header: Some(ResponseHeader { revision: header, ..ResponseHeader::default() }),
        kvs,
        more,
        count: count as i64,
    })
}

fn has_filters(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

fn passes(request: &RangeRequest, create: i64, modified: i64) -> bool {
    let within =
        |value: i64, min: i64, max: i64| (max == 0 || value <= max) && (min == 0 || value >= min);
    within(modified, request.min_mod_revision, request.max_mod_revision)
        && within(create, request.min_create_revision, request.max_create_revision)
}

fn sort(kvs: &mut [KeyValue], target: SortTarget, descending: bool) {
    match target {
        SortTarget::Key => {}
        SortTarget::Version => kvs.sort_by_key(|kv| kv.version),
        SortTarget::Create => kvs.sort_by_key(|kv| kv.create_revision),
        SortTarget::Mod => kvs.sort_by_key(|kv| kv.mod_revision),
        SortTarget::Value => kvs.sort_by(|a, b| a.value.cmp(&b.value)),
    }
    if descending {
        kvs.reverse();
    }
}
