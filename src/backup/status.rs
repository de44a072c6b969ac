//! What etcd's tools tell of a database.

use super::schema;
use crate::bolt::Database;
use crate::error::Fatal;
use std::collections::BTreeSet;

/// A database, summed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// CRC-32C over the names of the buckets and all keys and values.
    pub hash: u32,
    /// The last revision that has a version.
    pub revision: i64,
    /// Keys that exist at that revision.
    pub keys: u64,
    /// Bytes of all pages.
    pub size: u64,
    /// The storage version; empty where none is stored, as before etcd 3.6.
    pub version: String,
}

/// Reads the whole database, which must be sound.
///
/// # Errors
/// When it is damaged, or a version in it cannot be decoded.
pub fn status(database: &Database<'_>) -> Result<Status, Fatal> {
    let mut status =
        Status { hash: 0, revision: 0, keys: 0, size: database.len(), version: String::new() };
    let mut exists = BTreeSet::new();
    // A bucket without pairs counts too, so they are walked one by one.
    for bucket in database.buckets()? {
        status.hash = crc32c::crc32c_append(status.hash, &bucket);
        database.walk(Some(&bucket), &mut |_, key, value| {
            status.hash = crc32c::crc32c_append(status.hash, key);
            status.hash = crc32c::crc32c_append(status.hash, value);
            if bucket == schema::META && key == schema::STORAGE_VERSION {
                status.version = String::from_utf8_lossy(value).into_owned();
            }
            if bucket == schema::KEY {
                status.revision = count(&mut exists, key, value)?;
            }
            Ok(())
        })?;
    }
    status.keys = exists.len() as u64;
    Ok(status)
}

/// Notes whether the version makes its key exist or not; returns the revision.
fn count(exists: &mut BTreeSet<Vec<u8>>, key: &[u8], value: &[u8]) -> Result<i64, Fatal> {
    let Some((revision, is_tombstone)) = schema::decode_revision_key(key) else {
        return Err(Fatal::new(format!("\"{}\" is no revision", key.escape_ascii())));
    };
    let user_key = match schema::decode_version(key, value)? {
        Some(version) => version.kv.key.to_vec(),
        None => Vec::new(),
    };
    match is_tombstone {
        true => exists.remove(&user_key),
        false => exists.insert(user_key),
    };
    Ok(revision.main)
}
