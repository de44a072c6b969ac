//! What a Txn decides before it changes anything: its path through the compares, and whether
//! every op on that path can be carried out.
//!
//! All compares, those of nested Txns too, and all checks look at the state before the Txn. A
//! Txn that passes the checks cannot fail any more.

use super::reader::{Source, Version, Walk, newest};
use crate::error::{Fatal, RequestError};
use crate::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};
use crate::types::KeyRange;
use std::cmp::Ordering;

/// The state that a Txn finds.
pub(super) struct State<'a> {
    pub(super) source: Source<'a>,
    pub(super) revision: i64,
    pub(super) compacted: i64,
}

/// For each Txn on the chosen path, outer before inner, whether its compares hold.
pub(super) struct Path {
    taken: Vec<bool>,
    next: usize,
}

impl Path {
    pub(super) fn choose(state: &State<'_>, request: &TxnRequest) -> Result<Self, Fatal> {
        let mut path = Self { taken: Vec::new(), next: 0 };
        path.extend(state, request)?;
        Ok(path)
    }

    fn extend(&mut self, state: &State<'_>, request: &TxnRequest) -> Result<(), Fatal> {
        let mut holds = true;
        for compare in &request.compare {
            if !compare_holds(state, compare)? {
                holds = false;
                break;
            }
        }
        self.taken.push(holds);
        for op in branch(request, holds) {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                self.extend(state, nested)?;
            }
        }
        Ok(())
    }

    /// Goes on to the next Txn of the path: whether its compares hold, and its ops.
    pub(super) fn enter<'r>(&mut self, request: &'r TxnRequest) -> (bool, &'r [RequestOp]) {
        let holds = self.taken.get(self.next).copied().unwrap_or_default();
        self.next += 1;
        (holds, branch(request, holds))
    }

    /// Goes back to the outermost Txn.
    pub(super) fn rewind(&mut self) {
        self.next = 0;
    }
}

fn branch(request: &TxnRequest, holds: bool) -> &[RequestOp] {
    if holds { &request.success } else { &request.failure }
}

/// Checks every op on the path, in order; afterwards the path is at its begin again.
pub(super) fn check(
    state: &State<'_>,
    request: &TxnRequest,
    path: &mut Path,
    leases: &dyn Fn(i64) -> bool,
) -> Result<Result<(), RequestError>, Fatal> {
    let mut check = Check { state, leases, deleted: Vec::new() };
    let checked = check.txn(request, path);
    path.rewind();
    checked
}

struct Check<'a> {
    state: &'a State<'a>,
    leases: &'a dyn Fn(i64) -> bool,
    /// What ops before the present one delete.
    deleted: Vec<KeyRange>,
}

impl Check<'_> {
    fn txn(
        &mut self,
        request: &TxnRequest,
        path: &mut Path,
    ) -> Result<Result<(), RequestError>, Fatal> {
        let (_, ops) = path.enter(request);
        for op in ops {
            let checked = match &op.request {
                Some(Request::RequestRange(range)) => check_revision(self.state, range),
                Some(Request::RequestPut(put)) => self.put(put)?,
                Some(Request::RequestDeleteRange(delete)) => {
                    let range = KeyRange::new(delete.key.clone(), delete.range_end.clone());
                    self.deleted.push(range);
                    Ok(())
                }
                Some(Request::RequestTxn(nested)) => self.txn(nested, path)?,
                None => Ok(()),
            };
            if checked.is_err() {
                return Ok(checked);
            }
        }
        Ok(Ok(()))
    }

    fn put(&self, put: &PutRequest) -> Result<Result<(), RequestError>, Fatal> {
        if put.lease != 0 && !(self.leases)(put.lease) {
            return Ok(Err(RequestError::LeaseNotFound));
        }
        if put.ignore_value || put.ignore_lease {
            // Validation does not see that an open-ended delete takes the key away. etcd panics here.
            let is_deleted = self.deleted.iter().any(|range| range.contains(&put.key));
            if is_deleted
                || newest(self.state.source, &put.key, self.state.revision, |_| ())?.is_none()
            {
                return Ok(Err(RequestError::KeyNotFound));
            }
        }
        Ok(Ok(()))
    }
}

/// As etcd's check of a Txn, which knows no "negative means current".
fn check_revision(state: &State<'_>, range: &RangeRequest) -> Result<(), RequestError> {
    match range.revision {
        0 => Ok(()),
        revision if revision > state.revision => Err(RequestError::FutureRevision),
        revision if revision < state.compacted => Err(RequestError::Compacted),
        _ => Ok(()),
    }
}

fn compare_holds(state: &State<'_>, compare: &Compare) -> Result<bool, Fatal> {
    let range = KeyRange::new(compare.key.clone(), compare.range_end.clone());
    if range.is_single() {
        let holds = newest(state.source, &compare.key, state.revision, |version| {
            version_holds(compare, &version)
        })?;
        return Ok(holds.unwrap_or_else(|| absence_holds(compare)));
    }
    let mut walk = Walk::new(&range, state.revision);
    let (mut is_absent, mut holds) = (true, true);
    while holds && !walk.is_done() {
        walk.advance(state.source, &mut |found| {
            is_absent = false;
            holds = version_holds(compare, &found.version()?);
            Ok(holds)
        })?;
    }
    Ok(if is_absent { absence_holds(compare) } else { holds })
}

/// A missing key has no value that could compare in any way; its numbers are 0.
fn absence_holds(compare: &Compare) -> bool {
    let is_value = compare.target == CompareTarget::Value as i32;
    !is_value && result_holds(compare, compare_number(compare, 0, 0, 0, 0))
}

fn version_holds(compare: &Compare, version: &Version<'_>) -> bool {
    let ordering = if compare.target == CompareTarget::Value as i32 {
        match &compare.target_union {
            Some(TargetUnion::Value(value)) => version.value_slice().cmp(value),
            _ => version.value_slice().cmp(&[]),
        }
    } else {
        let put = &version.put;
        compare_number(compare, put.version, put.create, version.revision.main, put.lease)
    };
    result_holds(compare, ordering)
}

/// A number that the client did not give, or gave for another target, is 0.
fn compare_number(
    compare: &Compare,
    version: i64,
    create: i64,
    modified: i64,
    lease: i64,
) -> Ordering {
    let given = &compare.target_union;
    match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Version) => version.cmp(&match given {
            Some(TargetUnion::Version(given)) => *given,
            _ => 0,
        }),
        Ok(CompareTarget::Create) => create.cmp(&match given {
            Some(TargetUnion::CreateRevision(given)) => *given,
            _ => 0,
        }),
        Ok(CompareTarget::Mod) => modified.cmp(&match given {
            Some(TargetUnion::ModRevision(given)) => *given,
            _ => 0,
        }),
        Ok(CompareTarget::Lease) => lease.cmp(&match given {
            Some(TargetUnion::Lease(given)) => *given,
            _ => 0,
        }),
        Ok(CompareTarget::Value) | Err(_) => Ordering::Equal,
    }
}

/// An unknown operator holds, as in etcd.
fn result_holds(compare: &Compare, ordering: Ordering) -> bool {
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}
