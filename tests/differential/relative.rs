//! Revisions and leases of requests made absolute, and those of responses made relative again,
//! so that the same sequence reads the same wherever it begins.

use crate::generate::{FIRST, GIVEN};
use quoin::pb::etcdserverpb::compare::TargetUnion;
use quoin::pb::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp,
    TxnRequest, TxnResponse, request_op, response_op,
};
use quoin::pb::mvccpb::{Event, KeyValue};

/// Where a sequence began, and which leases it was given.
pub struct Frame {
    pub base: i64,
    pub given: Vec<i64>,
}

impl Frame {
    pub fn absolute(&self, revision: &mut i64) {
        if *revision >= FIRST {
            *revision = *revision - FIRST + self.base;
        }
    }

    pub fn relative(&self, revision: &mut i64) {
        if *revision != 0 {
            *revision = *revision - self.base + FIRST;
        }
    }

    /// A lease that was not given is one that nobody has.
    pub fn lease(&self, id: i64) -> i64 {
        match id {
            GIVEN..FIRST => self.given.get((id - GIVEN) as usize).copied().unwrap_or(0x7777),
            id => id,
        }
    }

    pub fn lease_name(&self, id: i64) -> i64 {
        let place = self.given.iter().position(|given| *given == id);
        place.map_or(id, |place| GIVEN + place as i64)
    }

    pub fn range(&self, request: &mut RangeRequest) {
        self.absolute(&mut request.revision);
        self.absolute(&mut request.min_mod_revision);
        self.absolute(&mut request.max_mod_revision);
        self.absolute(&mut request.min_create_revision);
        self.absolute(&mut request.max_create_revision);
    }

    pub fn put(&self, request: &mut PutRequest) {
        request.lease = self.lease(request.lease);
    }

    pub fn txn(&self, request: &mut TxnRequest) {
        request.compare.iter_mut().for_each(|compare| self.compare(compare));
        let operations = request.success.iter_mut().chain(&mut request.failure);
        for RequestOp { request } in operations {
            match request {
                Some(request_op::Request::RequestRange(range)) => self.range(range),
                Some(request_op::Request::RequestPut(put)) => self.put(put),
                Some(request_op::Request::RequestTxn(txn)) => self.txn(txn),
                Some(request_op::Request::RequestDeleteRange(_)) | None => {}
            }
        }
    }

    fn compare(&self, compare: &mut Compare) {
        match &mut compare.target_union {
            Some(TargetUnion::CreateRevision(revision) | TargetUnion::ModRevision(revision)) => {
                self.absolute(revision);
            }
            Some(TargetUnion::Lease(id)) => *id = self.lease(*id),
            _ => {}
        }
    }

    /// Leaves only the revision: everything else says who answered, and when.
    pub fn header(&self, header: &mut Option<ResponseHeader>) {
        if let Some(header) = header {
            let mut revision = header.revision;
            self.relative(&mut revision);
            *header = ResponseHeader { revision, ..Default::default() };
        }
    }

    pub fn kv(&self, kv: &mut KeyValue) {
        self.relative(&mut kv.create_revision);
        self.relative(&mut kv.mod_revision);
        kv.lease = self.lease_name(kv.lease);
    }

    pub fn event(&self, event: &mut Event) {
        event.kv.iter_mut().chain(&mut event.prev_kv).for_each(|kv| self.kv(kv));
    }

    pub fn ranged(&self, response: &mut RangeResponse) {
        self.header(&mut response.header);
        response.kvs.iter_mut().for_each(|kv| self.kv(kv));
    }

    pub fn done(&self, response: &mut TxnResponse) {
        self.header(&mut response.header);
        for ResponseOp { response } in &mut response.responses {
            match response {
                Some(response_op::Response::ResponseRange(range)) => self.ranged(range),
                Some(response_op::Response::ResponsePut(put)) => {
                    self.header(&mut put.header);
                    put.prev_kv.iter_mut().for_each(|kv| self.kv(kv));
                }
                Some(response_op::Response::ResponseDeleteRange(deleted)) => {
                    self.header(&mut deleted.header);
                    deleted.prev_kvs.iter_mut().for_each(|kv| self.kv(kv));
                }
                Some(response_op::Response::ResponseTxn(txn)) => self.done(txn),
                None => {}
            }
        }
    }
}
