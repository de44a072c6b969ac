//! The changes of one request, all at one new revision.

use super::key::{self, Record};
use super::range::range;
use super::scan::VersionScan;
use super::{Commit, META_REVISION, Mvcc};
use crate::error::{Fatal, RequestError};
use crate::pb::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    ResponseHeader,
};
use crate::pb::mvccpb::event::EventType;
use crate::pb::mvccpb::{Event, KeyValue};
use crate::storage::{Overlay, Space, WriteBatch};
use crate::types::{KeyEnd, KeyRange, Revision};
use bytes::Bytes;

/// A key that moved from one lease to another; 0 stands for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseChange {
    pub key: Bytes,
    pub old: i64,
    pub new: i64,
}

/// What a request came to.
#[derive(Debug)]
pub struct Finished {
    /// The new revision if anything changed, else the present one.
    pub revision: i64,
    pub commit: Option<Commit>,
    pub lease_changes: Vec<LeaseChange>,
}

/// See the module's comment. Reads see the request's own changes.
pub struct WriteTxn<'a> {
    pub(super) mvcc: &'a mut Mvcc,
    batch: &'a mut WriteBatch,
    events: Vec<Event>,
    lease_changes: Vec<LeaseChange>,
}

/// The present version of a key.
pub(super) struct Present {
    pub(super) revision: i64,
    pub(super) create: i64,
    pub(super) version: i64,
    pub(super) lease: i64,
    record: Bytes,
    value_at: usize,
}

impl Present {
    pub(super) fn value(&self) -> Bytes {
        self.record.slice(self.value_at..)
    }

    fn key_value(&self, key: Bytes) -> KeyValue {
        KeyValue {
            key,
            create_revision: self.create,
            mod_revision: self.revision,
            version: self.version,
            value: self.value(),
            lease: self.lease,
        }
    }
}

impl<'a> WriteTxn<'a> {
    pub(super) fn new(mvcc: &'a mut Mvcc, batch: &'a mut WriteBatch) -> Self {
        Self { mvcc, batch, events: Vec::new(), lease_changes: Vec::new() }
    }

    /// The revision that changes get.
    fn next(&self) -> i64 {
        self.mvcc.revision + 1
    }

    /// The revision to tell in a header at this point of the request.
    pub(super) fn header(&self) -> Option<ResponseHeader> {
        let revision = if self.events.is_empty() { self.mvcc.revision } else { self.next() };
        Some(ResponseHeader { revision, ..ResponseHeader::default() })
    }

    pub(super) fn present(&self, user_key: &Bytes) -> Result<Option<Present>, Fatal> {
        let range = KeyRange { start: user_key.clone(), end: KeyEnd::Single };
        let mut found = None;
        self.scan(&range, &mut |_, present| {
            found = Some(present);
            Ok(false)
        })?;
        Ok(found)
    }

    /// Visits the present keys of a range in order.
    pub(super) fn scan(
        &self,
        range: &KeyRange,
        visit: &mut dyn FnMut(Bytes, Present) -> Result<bool, Fatal>,
    ) -> Result<(), Fatal> {
        let reader = Overlay::new(self.mvcc.engine.as_ref(), self.batch);
        let mut scan = VersionScan::new(range, i64::MAX);
        let mut go_on = true;
        while go_on
            && scan.piece(&reader, &mut |visible| {
                let record = visible.record.to_bytes();
                if let Record::Put { create, version, lease, value_at } = key::decode(&record)? {
                    let revision = visible.revision.main;
                    let present = Present { revision, create, version, lease, record, value_at };
                    go_on = visit(key::user_key(visible.prefix), present)?;
                }
                Ok(go_on)
            })?
        {}
        Ok(())
    }

    /// A range as of this point of the request, or of an earlier revision.
    pub(super) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Fatal> {
        let at = if request.revision > 0 { request.revision } else { i64::MAX };
        let header = self.header().map_or(0, |header| header.revision);
        range(&Overlay::new(self.mvcc.engine.as_ref(), self.batch), request, at, header)
    }

    /// Puts one pair. `leases` tells which leases exist.
    ///
    /// # Errors
    /// `LeaseNotFound`; `KeyNotFound` when the old value or lease is to be kept and there is none.
    pub fn put(
        &mut self,
        request: &PutRequest,
        leases: &dyn Fn(i64) -> bool,
    ) -> Result<Result<PutResponse, RequestError>, Fatal> {
        if request.lease != 0 && !leases(request.lease) {
            return Ok(Err(RequestError::LeaseNotFound));
        }
        let present = self.present(&request.key)?;
        if (request.ignore_value || request.ignore_lease) && present.is_none() {
            return Ok(Err(RequestError::KeyNotFound));
        }
        let (create, version, old_lease) =
            present.as_ref().map_or((self.next(), 1, 0), |p| (p.create, p.version + 1, p.lease));
        let value = match &present {
            Some(present) if request.ignore_value => present.value(),
            _ => request.value.clone(),
        };
        let lease = if request.ignore_lease { old_lease } else { request.lease };
        let record = key::encode_put(create, version, lease, &value);
        self.write(&request.key, record.clone());
        let kv = key::key_value(request.key.clone(), self.next(), &record)?;
        self.events.push(Event { r#type: EventType::Put.into(), kv, prev_kv: None });
        self.change_lease(&request.key, old_lease, lease);
        let prev_kv = match present {
            Some(present) if request.prev_kv => Some(present.key_value(request.key.clone())),
            _ => None,
        };
        Ok(Ok(PutResponse { header: self.header(), prev_kv }))
    }

    /// Deletes a range of keys.
    pub fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Fatal> {
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        let mut doomed = Vec::new();
        self.scan(&range, &mut |key, present| {
            let kv = request.prev_kv.then(|| present.key_value(key.clone()));
            doomed.push((key, present.lease, kv));
            Ok(true)
        })?;
        let deleted = doomed.len() as i64;
        let mut prev_kvs = Vec::new();
        for (key, lease, kv) in doomed {
            self.delete(key, lease);
            prev_kvs.extend(kv);
        }
        Ok(DeleteRangeResponse { header: self.header(), deleted, prev_kvs })
    }

    /// Deletes these keys as far as they exist, in the given order.
    pub fn delete_keys(&mut self, keys: &[Bytes]) -> Result<(), Fatal> {
        for key in keys {
            if let Some(present) = self.present(key)? {
                self.delete(key.clone(), present.lease);
            }
        }
        Ok(())
    }

    fn delete(&mut self, key: Bytes, lease: i64) {
        self.write(&key, key::encode_tombstone());
        self.change_lease(&key, lease, 0);
        let kv = KeyValue { key, mod_revision: self.next(), ..KeyValue::default() };
        self.events.push(Event { r#type: EventType::Delete.into(), kv: Some(kv), prev_kv: None });
    }

    fn write(&mut self, user_key: &Bytes, record: Bytes) {
        let revision = Revision::new(self.next(), self.events.len() as u32);
        self.batch.put(Space::Kv, key::version_key(user_key, revision), record);
        // A copy: the request's buffer shall not live as long as the key's history.
        self.batch.put(Space::Log, key::log_key(revision), Bytes::copy_from_slice(user_key));
    }

    fn change_lease(&mut self, key: &Bytes, old: i64, new: i64) {
        if old != new {
            self.lease_changes.push(LeaseChange { key: key.clone(), old, new });
        }
    }

    /// Ends the request: the revision moves if anything changed.
    pub fn finish(self) -> Finished {
        let lease_changes = self.lease_changes;
        if self.events.is_empty() {
            return Finished { revision: self.mvcc.revision, commit: None, lease_changes };
        }
        self.mvcc.revision += 1;
        let revision = self.mvcc.revision;
        self.batch.put(Space::Meta, META_REVISION, revision.to_be_bytes().to_vec());
        let commit = Some(Commit { revision, events: self.events });
        Finished { revision, commit, lease_changes }
    }
}
