//! Short ways to write requests, and to look at what came back.

use quoin::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quoin::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op,
};
use quoin::pb::mvccpb::KeyValue;
use std::fmt::Debug;
use tonic::{Code, Response, Status};

pub fn put(key: &str, value: &str) -> PutRequest {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    PutRequest { key, value, ..Default::default() }
}

pub fn get(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

pub fn range(key: &str, range_end: &str) -> RangeRequest {
    RangeRequest { range_end: range_end.to_owned().into(), ..get(key) }
}

pub fn delete(key: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() }
}

pub fn delete_range(key: &str, range_end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { range_end: range_end.to_owned().into(), ..delete(key) }
}

pub fn txn(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { compare, success, failure }
}

/// A Txn without a condition.
pub fn all_of(success: Vec<RequestOp>) -> TxnRequest {
    txn(vec![], success, vec![])
}

pub fn op(request: impl Into<Op>) -> RequestOp {
    RequestOp { request: Some(request.into().0) }
}

pub struct Op(request_op::Request);

impl From<PutRequest> for Op {
    fn from(request: PutRequest) -> Op {
        Op(request_op::Request::RequestPut(request))
    }
}

impl From<RangeRequest> for Op {
    fn from(request: RangeRequest) -> Op {
        Op(request_op::Request::RequestRange(request))
    }
}

impl From<DeleteRangeRequest> for Op {
    fn from(request: DeleteRangeRequest) -> Op {
        Op(request_op::Request::RequestDeleteRange(request))
    }
}

impl From<TxnRequest> for Op {
    fn from(request: TxnRequest) -> Op {
        Op(request_op::Request::RequestTxn(request))
    }
}

pub fn compare(
    key: &str,
    target: CompareTarget,
    result: CompareResult,
    union: Option<TargetUnion>,
) -> Compare {
    Compare {
        key: key.to_owned().into(),
        target: target as i32,
        result: result as i32,
        target_union: union,
        ..Default::default()
    }
}

pub fn keys(kvs: &[KeyValue]) -> Vec<String> {
    kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

/// The code and text that a call was refused with.
pub fn refusal<T: Debug>(result: Result<Response<T>, Status>) -> (Code, String) {
    let status = result.expect_err("the call is refused");
    (status.code(), status.message().to_owned())
}
