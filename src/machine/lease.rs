//! Leases as the log decides them: id, granted TTL and attached keys, without any clock.
//!
//! The table in memory mirrors the spaces `lease` and `lease_key`; both change together,
//! in the batch of the entry that causes it.

use super::table::read_all;
use super::{Applied, Machine, Response};
use crate::error::{Fatal, RequestError};
use crate::pb::etcdserverpb::{LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeResponse};
use crate::pb::quoinpb::LeaseRevokeBatch;
use crate::storage::{Engine, Space, WriteBatch};
use bytes::{BufMut, Bytes};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
struct Lease {
    /// Seconds.
    ttl: i64,
    keys: BTreeSet<Bytes>,
}

/// All leases of the cluster. Invariant: a key is attached to one lease at most, and exactly
/// when its current version names that lease.
#[derive(Debug, Default)]
pub struct LeaseTable {
    leases: BTreeMap<i64, Lease>,
}

impl LeaseTable {
    pub(super) fn open(engine: &dyn Engine) -> Result<Self, Fatal> {
        let mut leases = BTreeMap::<i64, Lease>::new();
        read_all(engine, Space::Lease, "leases", &mut |key, value| {
            let (id, ttl) = (decode_i64(key)?, decode_i64(value.as_slice())?);
            leases.insert(id, Lease { ttl, keys: BTreeSet::new() });
            Some(())
        })?;
        read_all(engine, Space::LeaseKey, "leases", &mut |key, _| {
            let (id, key) = key.split_at_checked(8)?;
            leases.get_mut(&decode_i64(id)?)?.keys.insert(Bytes::copy_from_slice(key));
            Some(())
        })?;
        Ok(Self { leases })
    }

    pub fn contains(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    /// The granted TTL in seconds.
    pub fn ttl(&self, id: i64) -> Option<i64> {
        self.leases.get(&id).map(|lease| lease.ttl)
    }

    /// The attached keys in key order.
    pub fn keys(&self, id: i64) -> Option<impl Iterator<Item = &Bytes>> {
        self.leases.get(&id).map(|lease| lease.keys.iter())
    }

    /// Every lease as (id, TTL in seconds).
    pub fn iter(&self) -> impl Iterator<Item = (i64, i64)> {
        self.leases.iter().map(|(id, lease)| (*id, lease.ttl))
    }

    pub fn len(&self) -> usize {
        self.leases.len()
    }

    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    pub(super) fn grant(
        &mut self,
        id: i64,
        ttl: i64,
        batch: &mut WriteBatch,
    ) -> Result<(), RequestError> {
        if id == 0 {
            // The receiving member picks an id before it replicates the request.
            return Err(RequestError::LeaseNotFound);
        }
        if self.contains(id) {
            return Err(RequestError::LeaseExists);
        }
        batch.put(Space::Lease, id.to_be_bytes().to_vec(), ttl.to_be_bytes().to_vec());
        self.leases.insert(id, Lease { ttl, keys: BTreeSet::new() });
        Ok(())
    }

    /// Removes a lease and gives its keys in key order; `None` when there is no such lease.
    pub(super) fn revoke(&mut self, id: i64, batch: &mut WriteBatch) -> Option<Vec<Bytes>> {
        let lease = self.leases.remove(&id)?;
        batch.delete(Space::Lease, id.to_be_bytes().to_vec());
        for key in &lease.keys {
            batch.delete(Space::LeaseKey, attachment(id, key));
        }
        Some(lease.keys.into_iter().collect())
    }

    /// Moves a key from one lease to another; 0 stands for none.
    pub(super) fn reattach(&mut self, key: &Bytes, old: i64, new: i64, batch: &mut WriteBatch) {
        if old == new {
            return;
        }
        if let Some(lease) = self.leases.get_mut(&old) {
            lease.keys.remove(key);
            batch.delete(Space::LeaseKey, attachment(old, key));
        }
        if let Some(lease) = self.leases.get_mut(&new) {
            // A copy: the key may be a slice of a whole request.
            lease.keys.insert(Bytes::copy_from_slice(key));
            batch.put(Space::LeaseKey, attachment(new, key), Bytes::new());
        }
    }
}

impl Machine {
    pub(super) fn grant(
        &mut self,
        request: &LeaseGrantRequest,
        batch: &mut WriteBatch,
        applied: &mut Applied,
    ) -> Result<Response, RequestError> {
        self.leases.grant(request.id, request.ttl, batch)?;
        applied.granted.push((request.id, request.ttl));
        Ok(Response::LeaseGrant(LeaseGrantResponse {
            header: Some(self.header()),
            id: request.id,
            ttl: request.ttl,
            error: String::new(),
        }))
    }

    pub(super) fn revoke_all(
        &mut self,
        request: &LeaseRevokeBatch,
        batch: &mut WriteBatch,
        applied: &mut Applied,
    ) -> Result<Result<Response, RequestError>, Fatal> {
        let revoked_before = applied.revoked.len();
        let mut result = Ok(());
        for lease in &request.ids {
            let revoked = self.revoke(*lease, batch, applied)?;
            // An expired lease may have been revoked by its client meanwhile.
            if !request.expired {
                result = revoked;
            }
        }
        if request.expired {
            applied.expired += applied.revoked.len() - revoked_before;
        }
        let header = Some(self.header());
        Ok(result.map(|()| Response::LeaseRevoke(LeaseRevokeResponse { header })))
    }

    /// Removes the lease and, in one revision of its own, all its keys.
    fn revoke(
        &mut self,
        lease: i64,
        batch: &mut WriteBatch,
        applied: &mut Applied,
    ) -> Result<Result<(), RequestError>, Fatal> {
        let Some(keys) = self.leases.revoke(lease, batch) else {
            return Ok(Err(RequestError::LeaseNotFound));
        };
        let mut txn = self.mvcc.begin(batch);
        txn.delete_keys(&keys)?;
        // The lease is gone, so the changes it reports need no bookkeeping.
        applied.commits.extend(txn.finish().commit);
        applied.revoked.push(lease);
        Ok(Ok(()))
    }
}

pub(super) fn attachment(id: i64, key: &[u8]) -> Vec<u8> {
    let mut attachment = Vec::with_capacity(8 + key.len());
    attachment.put_i64(id);
    attachment.extend_from_slice(key);
    attachment
}

fn decode_i64(bytes: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(bytes.try_into().ok()?))
}
