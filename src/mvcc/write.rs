//! The changes of one request, which take one revision together.

use super::key::{self, Put, TOMBSTONE};
use super::range::{answer, header};
use super::reader::{Arena, Source, Walk, newest};
use super::txn::{Path, State, check};
use super::{Commit, Mvcc};
use crate::error::{Fatal, RequestError};
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::response_op::Response;
use crate::pb::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    RequestOp, ResponseOp, TxnRequest, TxnResponse,
};
use crate::pb::mvccpb::event::EventType;
use crate::pb::mvccpb::{Event, KeyValue};
use crate::planted::{self, Bug};
use crate::storage::{Engine, Overlay, Space, WriteBatch};
use crate::types::{KeyRange, Revision};
use bytes::Bytes;

/// A key was attached to a lease, or detached from one, or both. 0 is no lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseChange {
    pub key: Bytes,
    pub old: i64,
    pub new: i64,
}

/// What one request changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// The new revision if anything changed, else the present one.
    pub revision: i64,
    pub commit: Option<Commit>,
    /// In the order in which they happened.
    pub lease_changes: Vec<LeaseChange>,
}

/// Writes the changes of one request to a batch and reads through that batch.
///
/// Every op sees what ops before it did. A request that is answered with an error has written
/// nothing. [`WriteTxn::finish`] must be called if the batch is to be used.
#[must_use = "a transaction counts only when it is finished"]
pub struct WriteTxn<'a> {
    mvcc: &'a mut Mvcc,
    batch: &'a mut WriteBatch,
    events: Vec<Event>,
    lease_changes: Vec<LeaseChange>,
    /// Operations that were counted before this request.
    operations_before: u64,
}

/// The version that a change replaces.
struct Previous {
    put: Put,
    /// The whole pair, where it was asked for.
    kv: Option<KeyValue>,
}

impl<'a> WriteTxn<'a> {
    pub(super) fn new(mvcc: &'a mut Mvcc, batch: &'a mut WriteBatch) -> Self {
        let operations_before = mvcc.tally.operations();
        Self { mvcc, batch, events: Vec::new(), lease_changes: Vec::new(), operations_before }
    }

    /// `leases` says whether a lease exists.
    ///
    /// # Errors
    /// `LeaseNotFound`; `KeyNotFound` when value or lease of a missing key are to be kept.
    pub fn put(
        &mut self,
        request: &PutRequest,
        leases: &dyn Fn(i64) -> bool,
    ) -> Result<Result<PutResponse, RequestError>, Fatal> {
        if request.lease != 0 && !leases(request.lease) {
            return Ok(Err(RequestError::LeaseNotFound));
        }
        let previous = self.previous_of_put(request)?;
        if previous.is_none() && (request.ignore_value || request.ignore_lease) {
            return Ok(Err(RequestError::KeyNotFound));
        }
        Ok(Ok(self.put_over(request, previous)))
    }

    /// Deletes what exists of a range, in key order.
    pub fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Fatal> {
        self.mvcc.tally.deletes += 1;
        self.mvcc.tally.ranges += u64::from(request.prev_kv);
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        let mut doomed = Vec::new();
        let mut walk = Walk::new(&range, self.read_revision());
        let mut arena = Arena::default();
        while !walk.is_done() {
            let overlay = self.overlay();
            walk.advance(self.source(&overlay), &mut |found| {
                let user_key = arena.user_key(found.escaped())?;
                let version = found.version()?;
                let kv = request.prev_kv.then(|| version.to_key_value(user_key.clone()));
                doomed.push((user_key, Previous { put: version.put, kv }));
                Ok(true)
            })?;
        }
        let deleted = doomed.len();
        let mut prev_kvs = Vec::with_capacity(if request.prev_kv { deleted } else { 0 });
        for (user_key, previous) in doomed {
            self.delete_one(&user_key, &previous.put);
            prev_kvs.extend(previous.kv);
        }
        let header = header(self.read_revision());
        Ok(DeleteRangeResponse { header, deleted: deleted as i64, prev_kvs })
    }

    /// Deletes those of these keys that exist, in the order given.
    pub fn delete_keys(&mut self, keys: &[Bytes]) -> Result<(), Fatal> {
        for user_key in keys {
            self.mvcc.tally.deletes += 1;
            if let Some(previous) = self.previous(user_key, false)? {
                self.delete_one(user_key, &previous.put);
            }
        }
        Ok(())
    }

    /// Carries out one branch. `leases` says whether a lease exists.
    ///
    /// # Errors
    /// Those of the ops on the chosen path, found before any of them is carried out: `KeyNotFound`,
    /// `LeaseNotFound`, `FutureRevision`, `Compacted`.
    pub fn txn(
        &mut self,
        request: &TxnRequest,
        leases: &dyn Fn(i64) -> bool,
    ) -> Result<Result<TxnResponse, RequestError>, Fatal> {
        let overlay = self.overlay();
        let state = State {
            source: self.source(&overlay),
            revision: self.read_revision(),
            compacted: self.mvcc.compacted,
        };
        let mut path = Path::choose(&state, request)?;
        if let Err(error) = check(&state, request, &mut path, leases)? {
            return Ok(Err(error));
        }
        let mut response = self.run(request, &mut path)?;
        response.header = header(self.read_revision());
        Ok(Ok(response))
    }

    /// Ends the request. The writer is at the new revision; readers are when it is published.
    pub fn finish(self) -> Finished {
        if self.mvcc.tally.operations() > self.operations_before + 1 {
            self.mvcc.tally.txns += 1;
        }
        if self.events.is_empty() {
            let revision = self.mvcc.revision;
            return Finished { revision, commit: None, lease_changes: self.lease_changes };
        }
        let revision = self.revision();
        self.mvcc.revision = revision;
        if planted::has(Bug::RevisionPerOp) {
            self.mvcc.revision += self.events.len() as i64 - 1;
        }
        let commit = Some(Commit { revision, events: self.events });
        Finished { revision, commit, lease_changes: self.lease_changes }
    }

    /// The revision that changes get.
    fn revision(&self) -> i64 {
        self.mvcc.revision + 1
    }

    /// The revision that reads see now.
    fn read_revision(&self) -> i64 {
        if self.events.is_empty() { self.mvcc.revision } else { self.revision() }
    }

    fn overlay(&self) -> Overlay<'_, dyn Engine> {
        Overlay::new(&*self.mvcc.shared.engine, self.batch)
    }

    fn source<'s>(&'s self, overlay: &'s Overlay<'_, dyn Engine>) -> Source<'s> {
        Source { store: overlay, cache: &self.mvcc.shared.cache }
    }

    fn previous(&self, user_key: &Bytes, with_kv: bool) -> Result<Option<Previous>, Fatal> {
        let overlay = self.overlay();
        newest(self.source(&overlay), user_key, self.read_revision(), |version| Previous {
            put: version.put,
            kv: with_kv.then(|| version.to_key_value(user_key.clone())),
        })
    }

    /// Runs the ops of a checked Txn. The header is the caller's: that of a nested Txn stays empty.
    fn run(&mut self, request: &TxnRequest, path: &mut Path) -> Result<TxnResponse, Fatal> {
        let (succeeded, ops) = path.enter(request);
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            responses.push(ResponseOp { response: self.op(op, path)? });
        }
        Ok(TxnResponse { header: header(0), succeeded, responses })
    }

    fn op(&mut self, op: &RequestOp, path: &mut Path) -> Result<Option<Response>, Fatal> {
        let response = match &op.request {
            Some(Request::RequestRange(range)) => Response::ResponseRange(self.range(range)?),
            Some(Request::RequestPut(put)) => {
                // etcd looks once more before it carries any of the operations out.
                self.mvcc.tally.ranges += u64::from(is_read_before(put));
                let previous = self.previous_of_put(put)?;
                Response::ResponsePut(self.put_over(put, previous))
            }
            Some(Request::RequestDeleteRange(delete)) => {
                Response::ResponseDeleteRange(self.delete_range(delete)?)
            }
            Some(Request::RequestTxn(nested)) => Response::ResponseTxn(self.run(nested, path)?),
            None => return Ok(None),
        };
        Ok(Some(response))
    }

    fn range(&mut self, request: &RangeRequest) -> Result<RangeResponse, Fatal> {
        self.mvcc.tally.ranges += 1;
        let current = self.read_revision();
        let at = if request.revision > 0 { request.revision } else { current };
        let overlay = self.overlay();
        let response = answer(self.source(&overlay), request, at)?;
        Ok(RangeResponse { header: header(current), ..response })
    }

    /// What a put replaces, with its value if that is asked for.
    fn previous_of_put(&mut self, put: &PutRequest) -> Result<Option<Previous>, Fatal> {
        self.mvcc.tally.ranges += u64::from(is_read_before(put));
        self.previous(&put.key, put.prev_kv || put.ignore_value)
    }

    fn put_over(&mut self, request: &PutRequest, previous: Option<Previous>) -> PutResponse {
        let revision = self.next_change();
        let old = previous.as_ref().map(|previous| previous.put);
        let kept_kv = previous.and_then(|previous| previous.kv);
        let (create, version) = old.map_or((revision.main, 1), |old| (old.create, old.version + 1));
        let old_lease = old.map_or(0, |old| old.lease);
        let lease = if request.ignore_lease { old_lease } else { request.lease };
        let value = match &kept_kv {
            Some(kv) if request.ignore_value => &kv.value,
            _ => &request.value,
        };
        self.mvcc.tally.puts += 1;
        self.mvcc.tally.put_bytes += (request.key.len() + value.len()) as u64;
        if old.is_none() {
            self.mvcc.size.key_created();
        }
        let (record, value_at) = key::encode_put(create, version, lease, value);
        let value = record.slice(value_at..);
        let put = Put { create, version, lease, value_at };
        let user_key = self.write(&request.key, revision, Some(put), record);
        self.change_lease(&user_key, old_lease, lease);
        self.tell(Event {
            r#type: EventType::Put as i32,
            kv: Some(KeyValue {
                key: user_key,
                create_revision: create,
                mod_revision: revision.main,
                version,
                value,
                lease,
            }),
            prev_kv: None,
        });
        let prev_kv = if request.prev_kv { kept_kv } else { None };
        PutResponse { header: header(revision.main), prev_kv }
    }

    fn delete_one(&mut self, user_key: &[u8], old: &Put) {
        self.mvcc.size.key_deleted();
        let revision = self.next_change();
        let user_key = self.write(user_key, revision, None, TOMBSTONE);
        self.change_lease(&user_key, old.lease, 0);
        self.tell(Event {
            r#type: EventType::Delete as i32,
            kv: Some(KeyValue { key: user_key, mod_revision: revision.main, ..Default::default() }),
            prev_kv: None,
        });
    }

    fn next_change(&self) -> Revision {
        Revision::new(self.revision(), self.events.len() as u32)
    }

    /// Stores a version and returns the user key in memory of its own: the request's is a part of
    /// a buffer that may be much larger, and the engine takes over that of the version's key.
    fn write(
        &mut self,
        user_key: &[u8],
        revision: Revision,
        put: Option<Put>,
        record: Bytes,
    ) -> Bytes {
        let owned = Bytes::copy_from_slice(user_key);
        self.mvcc.shared.cache.written(&owned, revision, put, &record);
        self.mvcc.size.grow(user_key, &record);
        self.batch.put(Space::Kv, key::version_key(user_key, revision), record);
        self.batch.put(Space::Log, Bytes::copy_from_slice(&key::log_key(revision)), owned.clone());
        owned
    }

    fn tell(&mut self, event: Event) {
        if self.events.is_empty() {
            // Most requests change one key, and events are large.
            self.events.reserve_exact(1);
        }
        self.events.push(event);
    }

    fn change_lease(&mut self, user_key: &Bytes, old: i64, new: i64) {
        if old != new {
            self.lease_changes.push(LeaseChange { key: user_key.clone(), old, new });
        }
    }
}
/// Whether etcd reads, and counts, what a put replaces.
fn is_read_before(put: &PutRequest) -> bool {
    put.prev_kv || put.ignore_value || put.ignore_lease
}
