//! Random requests, each answer compared whole with the naive model of the checker.

use crate::checker::{Commit, Request, Response, Store};
use crate::cluster::{Cluster, Engine, Raw, product};
use crate::on_each_engine;
use crate::requests::{delete_range, op, put, range};
use bytes::Bytes;
use quoin::pb::etcdserverpb::compare::TargetUnion;
use quoin::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use tonic::Status;

on_each_engine![random_requests_are_answered_as_by_the_model];

const REQUESTS: usize = 1500;
const LEASES: [i64; 3] = [0, 5, 6];

async fn random_requests_are_answered_as_by_the_model(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    for id in &LEASES[1..] {
        let request = LeaseGrantRequest { id: *id, ttl: 600 };
        raw.lease.clone().lease_grant(request).await.unwrap();
    }
    let mut store = Store::default();
    let mut random = Random { state: 20_26, keeps: false };
    let (mut changes, mut refused) = (0, 0);
    for number in 0..REQUESTS {
        let request = random.request(store.revision());
        let answer = send(&raw, request.clone()).await;
        let expected = store.apply(&request, store.revision());
        match (answer, expected) {
            (Ok(answer), Some(applied)) => {
                let answer = answer.without_member();
                assert_eq!(answer, applied.response, "request {number}: {request:#?}");
                if !applied.events.is_empty() {
                    changes += 1;
                    let revision = store.revision() + 1;
                    store.commit(&Commit { revision, events: applied.events }).unwrap();
                }
            }
            (Err(_), None) => refused += 1,
            // The model knows of no duplicate keys; nothing was changed then.
            (Err(status), Some(_)) if status.message().contains("duplicate key") => refused += 1,
            (answer, expected) => panic!("{answer:#?}, not {expected:#?} for {request:#?}"),
        }
    }
    assert!(changes > REQUESTS / 4 && refused > 0, "{changes} changes, {refused} refused");
}

async fn send(raw: &Raw, request: Request) -> Result<Response, Status> {
    let mut kv = raw.kv.clone();
    Ok(match request {
        Request::Range(request) => Response::Range(kv.range(request).await?.into_inner()),
        Request::Put(request) => Response::Put(kv.put(request).await?.into_inner()),
        Request::DeleteRange(request) => {
            Response::DeleteRange(kv.delete_range(request).await?.into_inner())
        }
        Request::Txn(request) => Response::Txn(kv.txn(request).await?.into_inner()),
        other => panic!("{other:?}"),
    })
}

/// The same requests in every run.
struct Random {
    state: u64,
    /// Whether puts may keep what is there; then nothing else in the same Txn may delete it,
    /// which etcd itself does not survive.
    keeps: bool,
}

impl Random {
    fn below(&mut self, n: i64) -> i64 {
        self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.state >> 33) % n as u64) as i64
    }

    fn one_in(&mut self, n: i64) -> bool {
        self.below(n) == 0
    }

    fn key(&mut self) -> &'static str {
        ["a", "aa", "b", "c", "c\0", "d", "e"][self.below(7) as usize]
    }

    fn end(&mut self) -> &'static str {
        ["", "", "", "\0", "b", "c", "d", "z"][self.below(8) as usize]
    }

    fn value(&mut self) -> String {
        ["", "x", "y", "yy"][self.below(4) as usize].to_owned()
    }

    fn request(&mut self, revision: i64) -> Request {
        self.keeps = self.one_in(2);
        match self.below(10) {
            0..=2 => Request::Range(self.range(revision)),
            3..=5 => Request::Put(self.put()),
            6 => Request::DeleteRange(self.delete()),
            _ => Request::Txn(self.txn(revision, 0)),
        }
    }

    fn range(&mut self, revision: i64) -> RangeRequest {
        let mut request = range(self.key(), self.end());
        if self.one_in(3) {
            request.revision = 1 + self.below(revision);
        }
        if self.one_in(3) {
            request.limit = self.below(4);
        }
        if self.one_in(3) {
            // Keys have no equals, so their order is determined.
            request.sort_order = self.below(3) as i32;
        }
        if self.one_in(6) {
            request.min_mod_revision = self.below(revision + 1);
        }
        if self.one_in(6) {
            request.max_create_revision = self.below(revision + 1);
        }
        request.count_only = self.one_in(10);
        // Older servers return the lease with a key that has no value.
        request.keys_only = product().at_least(3, 7) && self.one_in(10);
        request
    }

    fn put(&mut self) -> PutRequest {
        let mut request = put(self.key(), &self.value());
        request.prev_kv = self.one_in(2);
        request.lease = LEASES[self.below(3) as usize];
        if self.keeps && self.one_in(4) {
            request.ignore_value = true;
            request.value = Bytes::new();
        }
        if self.keeps && self.one_in(4) {
            request.ignore_lease = true;
            request.lease = 0;
        }
        request
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        DeleteRangeRequest { prev_kv: self.one_in(2), ..delete_range(self.key(), self.end()) }
    }

    fn txn(&mut self, revision: i64, depth: u32) -> TxnRequest {
        TxnRequest {
            compare: (0..self.below(3)).map(|_| self.compare(revision)).collect(),
            success: self.branch(revision, depth),
            failure: self.branch(revision, depth),
        }
    }

    fn branch(&mut self, revision: i64, depth: u32) -> Vec<RequestOp> {
        let count = self.below(4);
        let ops = (0..count).map(|_| match self.below(if depth < 2 { 5 } else { 4 }) {
            0 => op(self.range(revision)),
            1 | 2 => op(self.put()),
            3 if !self.keeps => op(self.delete()),
            3 => op(self.put()),
            _ => op(self.txn(revision, depth + 1)),
        });
        ops.collect()
    }

    fn compare(&mut self, revision: i64) -> Compare {
        let number = self.below(revision.min(8));
        let (target, union) = match self.below(5) {
            0 => (0, TargetUnion::Version(number)),
            1 => (1, TargetUnion::CreateRevision(self.below(revision))),
            2 => (2, TargetUnion::ModRevision(self.below(revision))),
            3 => (3, TargetUnion::Value(self.value().into())),
            _ => (4, TargetUnion::Lease(LEASES[self.below(3) as usize])),
        };
        Compare {
            result: self.below(4) as i32,
            target,
            key: self.key().into(),
            range_end: if self.one_in(3) { self.end().into() } else { Bytes::new() },
            target_union: Some(union),
        }
    }
}
