//! Transactions: compare, check the whole chosen path, then carry it out.
//!
//! All compares, those of nested transactions too, are evaluated on the state before any
//! write; then every operation on the path is checked; only then the first one is carried out.

use super::key;
use super::write::{Present, WriteTxn};
use crate::error::{Fatal, RequestError};
use crate::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::response_op::Response;
use crate::pb::etcdserverpb::{Compare, RequestOp, ResponseOp, TxnRequest, TxnResponse};
use crate::storage::Read;
use crate::types::KeyRange;
use bytes::Bytes;
use std::cmp::Ordering;

/// Which branch each transaction takes: the outer one and, in the order of their
/// operations, those nested in the taken branch.
pub(super) struct Path {
    succeeded: bool,
    nested: Vec<Path>,
}

impl Path {
    /// The operations of the taken branch.
    fn ops<'r>(&self, request: &'r TxnRequest) -> &'r [RequestOp] {
        if self.succeeded { &request.success } else { &request.failure }
    }
}

/// What compares see of a key.
pub(super) struct Compared {
    create: i64,
    modified: i64,
    version: i64,
    lease: i64,
    /// `None`: there is no such key.
    value: Option<Bytes>,
}

impl Compared {
    fn missing() -> Self {
        Self { create: 0, modified: 0, version: 0, lease: 0, value: None }
    }
}

impl From<Present> for Compared {
    fn from(present: Present) -> Self {
        Self {
            create: present.create,
            modified: present.revision,
            version: present.version,
            lease: present.lease,
            value: Some(present.value()),
        }
    }
}

/// Visits the present pairs of a range; what a transaction compares with.
pub(super) type Pairs<'a> =
    dyn FnMut(&KeyRange, &mut dyn FnMut(Compared) -> Result<bool, Fatal>) -> Result<(), Fatal> + 'a;

/// Evaluates all compares on the path.
pub(super) fn choose(request: &TxnRequest, pairs: &mut Pairs<'_>) -> Result<Path, Fatal> {
    let mut succeeded = true;
    for compare in &request.compare {
        if !holds(compare, pairs)? {
            succeeded = false;
            break;
        }
    }
    let mut path = Path { succeeded, nested: Vec::new() };
    for op in path.ops(request) {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            path.nested.push(choose(nested, pairs)?);
        }
    }
    Ok(path)
}

/// Whether the compare holds for every key of its range; a range without keys counts as one missing key.
fn holds(compare: &Compare, pairs: &mut Pairs<'_>) -> Result<bool, Fatal> {
    let range = KeyRange::new(compare.key.clone(), compare.range_end.clone());
    let (mut any, mut all) = (false, true);
    pairs(&range, &mut |pair| {
        any = true;
        all = holds_for(compare, &pair);
        Ok(all)
    })?;
    Ok(if any { all } else { holds_for(compare, &Compared::missing()) })
}

fn holds_for(compare: &Compare, pair: &Compared) -> bool {
    let given = |wanted: fn(&TargetUnion) -> Option<i64>| {
        compare.target_union.as_ref().and_then(wanted).unwrap_or(0)
    };
    let ordering = match compare.target() {
        CompareTarget::Version => pair.version.cmp(&given(|union| match union {
            TargetUnion::Version(version) => Some(*version),
            _ => None,
        })),
        CompareTarget::Create => pair.create.cmp(&given(|union| match union {
            TargetUnion::CreateRevision(revision) => Some(*revision),
            _ => None,
        })),
        CompareTarget::Mod => pair.modified.cmp(&given(|union| match union {
            TargetUnion::ModRevision(revision) => Some(*revision),
            _ => None,
        })),
        CompareTarget::Lease => pair.lease.cmp(&given(|union| match union {
            TargetUnion::Lease(lease) => Some(*lease),
            _ => None,
        })),
        CompareTarget::Value => {
            // A missing key has no value that anything could be true of.
            let Some(value) = &pair.value else { return false };
            match &compare.target_union {
                Some(TargetUnion::Value(given)) => value.cmp(given),
                _ => value[..].cmp(&[]),
            }
        }
    };
    match compare.result() {
        CompareResult::Equal => ordering == Ordering::Equal,
        CompareResult::Greater => ordering == Ordering::Greater,
        CompareResult::Less => ordering == Ordering::Less,
        CompareResult::NotEqual => ordering != Ordering::Equal,
    }
}

/// Checks the revision that a range asks for.
pub(super) fn check_revision(
    asked: i64,
    revision: i64,
    compacted: i64,
) -> Result<(), RequestError> {
    if asked > revision {
        return Err(RequestError::FutureRevision);
    }
    if asked > 0 && asked < compacted {
        return Err(RequestError::Compacted);
    }
    Ok(())
}

impl WriteTxn<'_> {
    /// Carries out a transaction, or nothing of it.
    ///
    /// # Errors
    /// What any operation on the chosen path would be refused with.
    pub fn txn(
        &mut self,
        request: &TxnRequest,
        leases: &dyn Fn(i64) -> bool,
    ) -> Result<Result<TxnResponse, RequestError>, Fatal> {
        let path = choose(request, &mut |range, visit| {
            self.scan(range, &mut |_, present| visit(present.into()))
        })?;
        if let Err(error) = self.check(request, &path, leases)? {
            return Ok(Err(error));
        }
        let mut response = self.carry_out(request, &path, leases)?;
        response.header = self.header();
        Ok(Ok(response))
    }

    fn check(
        &self,
        request: &TxnRequest,
        path: &Path,
        leases: &dyn Fn(i64) -> bool,
    ) -> Result<Result<(), RequestError>, Fatal> {
        let mut nested = path.nested.iter();
        for op in path.ops(request) {
            let checked = match &op.request {
                Some(Request::RequestRange(range)) => {
                    check_revision(range.revision, self.mvcc.revision, self.mvcc.compacted)
                }
                Some(Request::RequestPut(put)) => {
                    let keeps = put.ignore_value || put.ignore_lease;
                    if keeps && self.present(&put.key)?.is_none() {
                        Err(RequestError::KeyNotFound)
                    } else if put.lease != 0 && !leases(put.lease) {
                        Err(RequestError::LeaseNotFound)
                    } else {
                        Ok(())
                    }
                }
                Some(Request::RequestTxn(txn)) => match nested.next() {
                    Some(path) => self.check(txn, path, leases)?,
                    None => Ok(()),
                },
                Some(Request::RequestDeleteRange(_)) | None => Ok(()),
            };
            if checked.is_err() {
                return Ok(checked);
            }
        }
        Ok(Ok(()))
    }

    fn carry_out(
        &mut self,
        request: &TxnRequest,
        path: &Path,
        leases: &dyn Fn(i64) -> bool,
    ) -> Result<TxnResponse, Fatal> {
        let mut nested = path.nested.iter();
        let mut responses = Vec::with_capacity(path.ops(request).len());
        for op in path.ops(request) {
            let response = match &op.request {
                Some(Request::RequestRange(range)) => {
                    Some(Response::ResponseRange(self.range(range)?))
                }
                Some(Request::RequestPut(put)) => match self.put(put, leases)? {
                    Ok(response) => Some(Response::ResponsePut(response)),
                    // A put behind an open-ended delete of the same transaction may find its
                    // key gone after all: etcd's checks do not see that overlap either.
                    Err(_) => Some(Response::ResponsePut(Default::default())),
                },
                Some(Request::RequestDeleteRange(delete)) => {
                    Some(Response::ResponseDeleteRange(self.delete_range(delete)?))
                }
                Some(Request::RequestTxn(txn)) => match nested.next() {
                    Some(path) => Some(Response::ResponseTxn(self.carry_out(txn, path, leases)?)),
                    None => None,
                },
                None => None,
            };
            responses.push(ResponseOp { response });
        }
        Ok(TxnResponse { header: self.header(), succeeded: path.succeeded, responses })
    }
}

/// Carries out a transaction of ranges alone at the present revision `at`.
pub(super) fn read_only<R: Read + ?Sized>(
    reader: &R,
    request: &TxnRequest,
    at: i64,
    compacted: i64,
) -> Result<Result<TxnResponse, RequestError>, Fatal> {
    let path = choose(request, &mut |range, visit| {
        super::scan::VersionScan::new(range, at).all(reader, &mut |visible| {
            let record = visible.record.to_bytes();
            match key::key_value(Bytes::new(), visible.revision.main, &record)? {
                None => Ok(true),
                Some(kv) => visit(Compared {
                    create: kv.create_revision,
                    modified: kv.mod_revision,
                    version: kv.version,
                    lease: kv.lease,
                    value: Some(kv.value),
                }),
            }
        })
    })?;
    let ranges = || {
        path.ops(request).iter().filter_map(|op| match &op.request {
            Some(Request::RequestRange(range)) => Some(range),
            _ => None,
        })
    };
    for range in ranges() {
        if let Err(error) = check_revision(range.revision, at, compacted) {
            return Ok(Err(error));
        }
    }
    let mut responses = Vec::new();
    for request in ranges() {
        let revision = if request.revision > 0 { request.revision } else { at };
        let response = super::range::range(reader, request, revision, at)?;
        responses.push(ResponseOp { response: Some(Response::ResponseRange(response)) });
    }
    let header = crate::pb::etcdserverpb::ResponseHeader { revision: at, ..Default::default() };
    Ok(Ok(TxnResponse { header: Some(header), succeeded: path.succeeded, responses }))
}
