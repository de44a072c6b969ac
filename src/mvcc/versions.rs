//! All retained versions in the order of their revisions: read out for a backup, taken in from one.
//!
//! What is read out is what is left when compaction has done all its work: everything above the
//! compacted revision, the changes at that revision, and of each key that exists there the version
//! that holds. How far removal has really come makes no difference.

use super::compaction::COMPACTED;
use super::key;
use super::reader::newest_revision;
use crate::error::Fatal;
use crate::pb::mvccpb::KeyValue;
use crate::storage::{Engine, Flow, Read, Space, WriteBatch};
use crate::types::Revision;
use bytes::Bytes;

/// The meta key of the revision that was raised by hand; see [`take_in_mark`].
pub const MARK: &[u8] = b"mvcc/mark";

/// Changes that one engine scan looks at.
const SCAN_ENTRIES_MAX: usize = if cfg!(test) { 3 } else { 512 };

/// A version as it was written. A tombstone is a `kv` with a key and nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    pub revision: Revision,
    pub is_tombstone: bool,
    pub kv: KeyValue,
}

/// Reads the versions up to one revision, in pieces. Its owner holds a pin.
#[derive(Clone)]
pub struct Versions {
    until: i64,
    compacted: i64,
    /// The first change that has not been looked at.
    next: Option<Revision>,
}

impl Versions {
    /// `compacted` is -1 before the first compaction.
    pub fn new(until: i64, compacted: i64) -> Self {
        Self { until, compacted, next: Some(Revision::new(0, 0)) }
    }

    /// Hands the versions of the next changes to `visit`, maybe none; false after the last change.
    ///
    /// # Errors
    /// When the engine fails, or a version is missing that the log of changes names: the content
    /// is damaged or was replaced meanwhile. What `visit` returns.
    pub fn next_piece(
        &mut self,
        engine: &dyn Engine,
        visit: &mut dyn FnMut(Version) -> Result<(), Fatal>,
    ) -> Result<bool, Fatal> {
        if self.next.is_none() {
            return Ok(false);
        }
        let changes = next_changes(engine, &mut self.next, self.until)?;
        for (revision, user_key) in changes {
            if let Some(version) = self.retained(engine, revision, user_key)? {
                visit(version)?;
            }
        }
        Ok(true)
    }

    /// The version that a change made, if compaction leaves it.
    fn retained(
        &self,
        engine: &dyn Engine,
        revision: Revision,
        user_key: Bytes,
    ) -> Result<Option<Version>, Fatal> {
        let is_old = revision.main < self.compacted;
        if is_old && newest_revision(engine, &user_key, self.compacted)? != Some(revision) {
            return Ok(None);
        }
        let record = engine.get(Space::Kv, &key::version_key(&user_key, revision))?;
        let Some(record) = record else {
            // A tombstone below the compacted revision may have gone since it was found.
            if is_old {
                return Ok(None);
            }
            return Err(Fatal::new(format!("read version {revision}: it is missing")));
        };
        let Some(put) = key::decode_record(&record)? else {
            let kv = KeyValue { key: user_key, ..KeyValue::default() };
            return Ok((!is_old).then_some(Version { revision, is_tombstone: true, kv }));
        };
        let kv = KeyValue {
            key: user_key,
            create_revision: put.create,
            mod_revision: revision.main,
            version: put.version,
            value: record.slice(put.value_at..),
            lease: put.lease,
        };
        Ok(Some(Version { revision, is_tombstone: false, kv }))
    }
}

/// The revisions and keys of the next changes, from `next` on and up to a main revision: as many as one engine
/// scan may look at. `next` becomes the first change behind them, if there is one.
pub(super) fn next_changes(
    engine: &dyn Read,
    next: &mut Option<Revision>,
    until: i64,
) -> Result<Vec<(Revision, Bytes)>, Fatal> {
    let Some(start) = next.take() else { return Ok(Vec::new()) };
    let mut changes = Vec::with_capacity(SCAN_ENTRIES_MAX);
    let mut found = Ok(None);
    let end = key::log_key(Revision::new(until + 1, 0));
    engine.scan(Space::Log, &key::log_key(start), Some(&end), &mut |log_key, user_key| {
        match key::decode_log_key(log_key) {
            Ok(revision) if changes.len() < SCAN_ENTRIES_MAX => {
                changes.push((revision, user_key.to_bytes()));
                return Flow::Next;
            }
            other => found = other.map(Some),
        }
        Flow::Stop
    })?;
    *next = found?;
    Ok(changes)
}

/// Adds a version to a store that nobody has open.
///
/// # Errors
/// When it is none that a store can hold; the message says why.
pub fn take_in(batch: &mut WriteBatch, version: &Version) -> Result<(), Fatal> {
    let Version { revision, is_tombstone, kv } = version;
    let fits = if *is_tombstone {
        revision.main > 0
    } else {
        kv.mod_revision == revision.main
            && (1..=revision.main).contains(&kv.create_revision)
            && kv.version > 0
    };
    if !fits || kv.key.is_empty() {
        return Err(Fatal::new(format!(
            "take in revision {revision}: key \"{}\", created at {}, changed at {}, version {}",
            kv.key.escape_ascii(),
            kv.create_revision,
            kv.mod_revision,
            kv.version
        )));
    }
    let record = if *is_tombstone {
        key::TOMBSTONE
    } else {
        key::encode_put(kv.create_revision, kv.version, kv.lease, &kv.value).0
    };
    batch.put(Space::Kv, key::version_key(&kv.key, *revision), record);
    batch.put(
        Space::Log,
        Bytes::copy_from_slice(&key::log_key(*revision)),
        Bytes::copy_from_slice(&kv.key),
    );
    Ok(())
}

/// Makes everything below `revision` unreadable in a store that nobody has open; it is the present
/// revision if there is no later change.
pub fn take_in_compacted(batch: &mut WriteBatch, revision: i64) {
    batch.put(Space::Meta, COMPACTED, Bytes::copy_from_slice(&revision.to_be_bytes()));
}

/// Notes that the present revision was raised to `revision` by hand. etcd has a record there that belongs
/// to no key, counts it in its hashes and never drops the last such.
pub fn take_in_mark(batch: &mut WriteBatch, revision: Revision) {
    batch.put(Space::Meta, MARK, Bytes::copy_from_slice(&key::log_key(revision)));
}

/// What [`take_in_mark`] noted, as it is stored below [`MARK`].
///
/// # Errors
/// When it is none.
pub fn decode_mark(stored: &[u8]) -> Result<Revision, Fatal> {
    key::decode_log_key(stored)
}

/// Hands every key that exists and has a lease to `visit`, with the lease, in the order of keys.
///
/// # Errors
/// When the engine fails or a record is damaged; what `visit` returns.
pub fn attachments(
    engine: &dyn Engine,
    visit: &mut dyn FnMut(&[u8], i64) -> Result<(), Fatal>,
) -> Result<(), Fatal> {
    let mut start = Some(Vec::new());
    let mut last = Vec::new();
    while let Some(from) = start.take() {
        let mut pairs = 0;
        let mut failure = None;
        let mut found: Vec<(Bytes, i64)> = Vec::new();
        engine.scan(Space::Kv, &from, None, &mut |kv_key, record| {
            if pairs == SCAN_ENTRIES_MAX {
                start = Some(kv_key.to_vec());
                return Flow::Stop;
            }
            pairs += 1;
            match attachment(&mut last, kv_key, record.as_slice()) {
                Ok(attachment) => found.extend(attachment),
                Err(fatal) => failure = Some(fatal),
            }
            if failure.is_none() { Flow::Next } else { Flow::Stop }
        })?;
        if let Some(fatal) = failure {
            return Err(fatal);
        }
        for (user_key, lease) in found {
            visit(&user_key, lease)?;
        }
    }
    Ok(())
}

/// The key and its lease, if this is the first version of a key and holds one.
fn attachment(
    last: &mut Vec<u8>,
    kv_key: &[u8],
    record: &[u8],
) -> Result<Option<(Bytes, i64)>, Fatal> {
    let (escaped, _) = key::split(kv_key)?;
    if last == escaped {
        return Ok(None);
    }
    last.clear();
    last.extend_from_slice(escaped);
    match key::decode_record(record)? {
        Some(put) if put.lease != 0 => {
            Ok(Some((key::with_user_key(escaped, Bytes::copy_from_slice)?, put.lease)))
        }
        _ => Ok(None),
    }
}
