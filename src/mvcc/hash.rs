//! The hash of all retained versions up to a revision, as etcd computes it.
//!
//! Members that hold the same history give the same hash, however far physical removal has come
//! on each, and so does an etcd that holds it: CRC-32C over the bucket's name and, in order of
//! revision, etcd's key and value of each version. Of the versions up to the compacted revision
//! only those count that still hold at the revision of the hash - or, if no key exists there, at the
//! compacted one - and no tombstones. A revision that was raised by hand counts as the record without a key that
//! etcd's tool writes there. At the compacted revision itself etcd may answer with the hash
//! that it took before that compaction, and after a restart it does not; here it is never so.

use super::key;
use super::reader::{Source, Walk, newest_revision};
use super::versions::{MARK, decode_mark, next_changes};
use super::view::View;
use crate::error::{Fatal, RequestError};
use crate::pb::mvccpb::KeyValue;
use crate::storage::Space;
use crate::types::{KeyEnd, KeyRange, Revision};
use bytes::Bytes;
use prost::Message;

/// Where etcd's database has versions: with this name each hash begins.
const BUCKET: &[u8] = b"key";

/// A hash and what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    pub hash: u32,
    /// The hash is that of revisions up to this one.
    pub revision: i64,
    /// -1 before the first compaction.
    pub compacted: i64,
    /// The present revision.
    pub current: i64,
}

impl View {
    /// Hashes the versions up to `requested`, the present revision if it is 0. Up to a negative one there are none.
    ///
    /// # Errors
    /// `FutureRevision`, `Compacted`.
    pub fn hash_kv(&self, requested: i64) -> Result<Result<HashKv, RequestError>, Fatal> {
        loop {
            let replacements = self.replacements();
            if !replacements.is_multiple_of(2) {
                return Ok(Err(RequestError::TimeoutWaitAppliedIndex));
            }
            let compacted = self.compacted();
            // Holds what is hashed; in vain if more was compacted before.
            let _pin = self.pin(compacted.max(0));
            if self.compacted() != compacted {
                continue;
            }
            let current = self.revision();
            let revision = if requested == 0 { current } else { requested };
            if revision > current {
                return Ok(Err(RequestError::FutureRevision));
            }
            if revision > 0 && revision < compacted {
                return Ok(Err(RequestError::Compacted));
            }
            let hash = match revision {
                ..0 => Some(crc32c::crc32c(BUCKET)),
                _ => self.hash_versions(revision, compacted)?,
            };
            if self.replacements() != replacements {
                continue;
            }
            let Some(hash) = hash else {
                return Err(Fatal::new(
                    "hash versions: one is missing that the log of changes names",
                ));
            };
            return Ok(Ok(HashKv { hash, revision, compacted, current }));
        }
    }

    /// `None` if a version is missing, as when the content is replaced meanwhile.
    fn hash_versions(&self, until: i64, compacted: i64) -> Result<Option<u32>, Fatal> {
        let engine = &*self.shared().engine;
        let mut mark = match engine.get(Space::Meta, MARK)? {
            Some(stored) => Some(decode_mark(&stored)?).filter(|mark| mark.main <= until),
            None => None,
        };
        let exists_any = mark.is_some() || exists_any(self.shared().source(), until)?;
        let holds_at = if exists_any { until } else { compacted };
        let mut hash = crc32c::crc32c(BUCKET);
        let mut next = Some(Revision::new(0, 0));
        while next.is_some() {
            for (revision, user_key) in next_changes(engine, &mut next, until)? {
                if revision.main <= compacted
                    && newest_revision(engine, &user_key, holds_at)? != Some(revision)
                {
                    continue;
                }
                let record = engine.get(Space::Kv, &key::version_key(&user_key, revision))?;
                let Some(record) = record else {
                    // A tombstone up to there may have gone since it was found.
                    if revision.main <= compacted {
                        continue;
                    }
                    return Ok(None);
                };
                let put = key::decode_record(&record)?;
                if put.is_none() && revision.main <= compacted {
                    continue;
                }
                if let Some(mark) = mark.take_if(|mark| *mark < revision) {
                    hash = crc32c::crc32c_append(hash, &revision_key(mark));
                }
                let (etcd_key, value) = as_etcd(revision, user_key, put, &record);
                hash = crc32c::crc32c_append(hash, &etcd_key);
                hash = crc32c::crc32c_append(hash, &value.encode_to_vec());
            }
        }
        if let Some(mark) = mark {
            hash = crc32c::crc32c_append(hash, &revision_key(mark));
        }
        Ok(Some(hash))
    }
}

fn exists_any(source: Source<'_>, at: i64) -> Result<bool, Fatal> {
    let mut walk = Walk::new(&KeyRange { start: Bytes::new(), end: KeyEnd::Unbounded }, at);
    let mut exists = false;
    while !walk.is_done() && !exists {
        walk.advance(source, &mut |_| {
            exists = true;
            Ok(false)
        })?;
    }
    Ok(exists)
}

/// The key of a revision in etcd's database, with room for a tombstone's mark.
fn revision_key(revision: Revision) -> Vec<u8> {
    let mut key = Vec::with_capacity(18);
    key.extend_from_slice(&revision.main.to_be_bytes());
    key.push(b'_');
    key.extend_from_slice(&i64::from(revision.sub).to_be_bytes());
    key
}

/// How etcd's database has a version: its key there, and the message that is its value.
fn as_etcd(
    revision: Revision,
    user_key: Bytes,
    put: Option<key::Put>,
    record: &Bytes,
) -> (Vec<u8>, KeyValue) {
    let mut etcd_key = revision_key(revision);
    match put {
        Some(put) => {
            let kv = KeyValue {
                key: user_key,
                create_revision: put.create,
                mod_revision: revision.main,
                version: put.version,
                value: record.slice(put.value_at..),
                lease: put.lease,
            };
            (etcd_key, kv)
        }
        None => {
            etcd_key.push(b't');
            (etcd_key, KeyValue { key: user_key, ..KeyValue::default() })
        }
    }
}
