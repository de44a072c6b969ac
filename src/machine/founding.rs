//! The tables of a new cluster's state that takes its data from a backup.
//!
//! Every member of the new cluster makes the same state from the same backup and the same list of
//! members, so they agree on it as on an entry that all have applied: index 1, term 1. Written to
//! a store that nobody has open; versions of keys are `mvcc::versions`'.

use super::lease::attachment;
use super::{
    FORMAT, META_APPLIED, META_CLUSTER_VERSION, META_CONFIGURATION, META_FORMAT, encode_applied,
};
use crate::pb::etcdserverpb::Member;
use crate::pb::quoinpb::Configuration;
use crate::storage::{Space, WriteBatch};
use crate::types::{Index, Term};
use bytes::Bytes;
use prost::Message;

/// What a founded state has applied.
pub const FOUNDED_AT: (Index, Term) = (1, 1);

/// Adds a lease with its TTL in seconds.
pub fn found_lease(batch: &mut WriteBatch, id: i64, ttl: i64) {
    batch.put(Space::Lease, id.to_be_bytes().to_vec(), ttl.to_be_bytes().to_vec());
}

/// Attaches a key to a lease that exists. The key's current version must name the lease.
pub fn found_attachment(batch: &mut WriteBatch, id: i64, key: &[u8]) {
    batch.put(Space::LeaseKey, attachment(id, key), Bytes::new());
}

/// Completes the state: from now on it opens as one that has applied [`FOUNDED_AT`]. All members
/// vote.
pub fn found(batch: &mut WriteBatch, members: &[Member], cluster_version: Option<&str>) {
    let mut voters: Vec<u64> = members.iter().map(|member| member.id).collect();
    voters.sort_unstable();
    let configuration = Configuration { voters, learners: vec![] };
    for member in members {
        batch.put(Space::Member, member.id.to_be_bytes().to_vec(), member.encode_to_vec());
    }
    if let Some(version) = cluster_version {
        batch.put(Space::Meta, META_CLUSTER_VERSION, version.to_owned().into_bytes());
    }
    batch.put(Space::Meta, META_FORMAT, FORMAT.to_be_bytes().to_vec());
    batch.put(Space::Meta, META_CONFIGURATION, configuration.encode_to_vec());
    batch.put(Space::Meta, META_APPLIED, encode_applied(FOUNDED_AT.0, FOUNDED_AT.1));
}
