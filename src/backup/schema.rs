//! Names and forms of what stands in etcd's database.

use crate::error::Fatal;
use crate::mvcc::versions::Version;
use crate::pb::etcdserverpb::Member;
use crate::pb::mvccpb::KeyValue;
use crate::types::Revision;
use prost::Message;
use serde::Serialize;

// In the order in which they stand in the database.
pub(super) const ALARM: &[u8] = b"alarm";
pub(super) const AUTH: &[u8] = b"auth";
pub(super) const AUTH_ROLES: &[u8] = b"authRoles";
pub(super) const AUTH_USERS: &[u8] = b"authUsers";
pub(super) const CLUSTER: &[u8] = b"cluster";
pub(super) const KEY: &[u8] = b"key";
pub(super) const LEASE: &[u8] = b"lease";
pub(super) const MEMBERS: &[u8] = b"members";
pub(super) const MEMBERS_REMOVED: &[u8] = b"members_removed";
/// What that bucket holds for each id.
pub(super) const REMOVED: &[u8] = b"removed";
pub(super) const META: &[u8] = b"meta";

pub(super) const AUTH_ENABLED: &[u8] = b"authEnabled";
pub(super) const AUTH_REVISION: &[u8] = b"authRevision";
pub(super) const CLUSTER_VERSION: &[u8] = b"clusterVersion";
pub(super) const CONF_STATE: &[u8] = b"confState";
pub(super) const CONSISTENT_INDEX: &[u8] = b"consistent_index";
pub(super) const COMPACTION_FINISHED: &[u8] = b"finishedCompactRev";
pub(super) const COMPACTION_SCHEDULED: &[u8] = b"scheduledCompactRev";
pub(super) const STORAGE_VERSION: &[u8] = b"storageVersion";
pub(super) const TERM: &[u8] = b"term";

// Our own records in the space of users and roles, as the state machine has them.
pub(super) const OWN_AUTH_ENABLED: &[u8] = b"enabled";
pub(super) const OWN_AUTH_REVISION: &[u8] = b"revision";
pub(super) const OWN_USER: &[u8] = b"user/";
pub(super) const OWN_ROLE: &[u8] = b"role/";

/// Of a store in which no user or role was ever changed. Stored by etcd, not by us.
pub(super) const AUTH_REVISION_FIRST: u64 = 1;

const REVISION_LEN: usize = 17;
const TOMBSTONE: u8 = b't';

/// A revision as a key of the bucket, and as a value in `meta`.
pub(super) fn revision_key(revision: Revision) -> Vec<u8> {
    let mut key = Vec::with_capacity(REVISION_LEN + 1);
    key.extend_from_slice(&revision.main.to_be_bytes());
    key.push(b'_');
    key.extend_from_slice(&i64::from(revision.sub).to_be_bytes());
    key
}

/// Reads what [`revision_key`] has written, with or without the mark of a tombstone.
pub(super) fn decode_revision_key(key: &[u8]) -> Option<(Revision, bool)> {
    let (main, rest) = key.split_first_chunk::<8>()?;
    let (sub, mark) = rest.strip_prefix(b"_")?.split_first_chunk::<8>()?;
    let main = i64::from_be_bytes(*main);
    let sub = u32::try_from(i64::from_be_bytes(*sub)).ok()?;
    let is_tombstone = match mark {
        [] => false,
        [TOMBSTONE] => true,
        _ => return None,
    };
    (main >= 0).then_some((Revision::new(main, sub), is_tombstone))
}

/// Key and value of a version.
pub(super) fn encode_version(version: &Version) -> (Vec<u8>, Vec<u8>) {
    let mut key = revision_key(version.revision);
    if version.is_tombstone {
        key.push(TOMBSTONE);
    }
    (key, version.kv.encode_to_vec())
}

/// Reads a version. `None` stands for the mark that `--bump-revision` leaves: a revision without a key.
///
/// # Errors
/// When it is none; the message names the revision.
pub(super) fn decode_version(key: &[u8], value: &[u8]) -> Result<Option<Version>, Fatal> {
    let Some((revision, is_tombstone)) = decode_revision_key(key) else {
        return Err(Fatal::new(format!("\"{}\" is no revision", key.escape_ascii())));
    };
    if value.is_empty() {
        return Ok(None);
    }
    let kv = KeyValue::decode(value)
        .map_err(|e| Fatal::with(format!("decode the value of revision {revision}"), e))?;
    Ok(Some(Version { revision, is_tombstone, kv }))
}

/// A lease as etcd stores it. The rest of its time is told only by checkpoints, and not by us.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Lease {
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
    #[prost(int64, tag = "2")]
    pub(super) ttl: i64,
    #[prost(int64, tag = "3")]
    pub(super) remaining_ttl: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonMember<'a> {
    id: u64,
    #[serde(rename = "peerURLs")]
    peer_urls: &'a [String],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(rename = "clientURLs", skip_serializing_if = "<[String]>::is_empty")]
    client_urls: &'a [String],
}

/// Key and value of a member.
///
/// # Errors
/// None in practice.
pub(super) fn encode_member(member: &Member) -> Result<(Vec<u8>, Vec<u8>), Fatal> {
    let json = JsonMember {
        id: member.id,
        peer_urls: &member.peer_ur_ls,
        is_learner: member.is_learner,
        name: &member.name,
        client_urls: &member.client_ur_ls,
    };
    let value = serde_json::to_vec(&json).map_err(|e| Fatal::with("encode member", e))?;
    Ok((format!("{:x}", member.id).into_bytes(), value))
}

#[derive(Serialize)]
struct ConfState<'a> {
    voters: &'a [u64],
    #[serde(skip_serializing_if = "<[u64]>::is_empty")]
    learners: &'a [u64],
    auto_leave: bool,
}

/// Who votes, as raft's message in JSON.
///
/// # Errors
/// None in practice.
pub(super) fn encode_conf_state(voters: &[u64], learners: &[u64]) -> Result<Vec<u8>, Fatal> {
    let state = ConfState { voters, learners, auto_leave: false };
    serde_json::to_vec(&state).map_err(|e| Fatal::with("encode configuration", e))
}
