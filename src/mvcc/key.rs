//! How versions of user keys lie in the engine.
//!
//! `Kv`: the user key, escaped so that order is preserved and no key is a prefix of another,
//! then main and sub revision inverted, so that a key's newest version comes first. `Log`: main and sub
//! revision to user key. Version record: a tag, and for a put create revision, version and lease
//! as varints before the value.

use crate::error::Fatal;
use crate::pb::mvccpb::KeyValue;
use crate::types::{KeyEnd, KeyRange, Revision};
use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of the revision behind an escaped key.
pub const SUFFIX: usize = 12;

const TOMBSTONE: u8 = 0;
const PUT: u8 = 1;

/// The escaped user key: the common prefix of all its versions.
pub fn prefix(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 2 + SUFFIX);
    let mut rest = key;
    while let Some(zero) = rest.iter().position(|byte| *byte == 0) {
        out.extend_from_slice(&rest[..zero]);
        out.extend_from_slice(&[0, 0xFF]);
        rest = &rest[zero + 1..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(&[0, 0]);
    out
}

/// The place of one version.
pub fn version_key(key: &[u8], revision: Revision) -> Vec<u8> {
    let mut out = prefix(key);
    push_revision(&mut out, revision);
    out
}

/// Completes a prefix.
pub fn push_revision(prefix: &mut Vec<u8>, revision: Revision) {
    prefix.put_u64(!(revision.main as u64));
    prefix.put_u32(!revision.sub);
}

/// A place behind all versions of the prefix's key and before any other key.
pub fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(prefix.len() + SUFFIX + 1);
    out.extend_from_slice(prefix);
    out.extend_from_slice(&[0xFF; SUFFIX + 1]);
    out
}

/// Splits a place into prefix and revision.
pub fn split(place: &[u8]) -> Result<(&[u8], Revision), Fatal> {
    let Some((prefix, suffix)) = place.split_last_chunk::<SUFFIX>() else {
        return Err(Fatal::new("read version: its key is too short"));
    };
    if !prefix.ends_with(&[0, 0]) {
        return Err(Fatal::new("read version: its key has no terminator"));
    }
    Ok((prefix, decode_suffix(suffix)))
}

fn decode_suffix(suffix: &[u8; SUFFIX]) -> Revision {
    let (main, sub) = suffix.split_at(8);
    let main = !u64::from_be_bytes(main.try_into().unwrap_or_default());
    let sub = !u32::from_be_bytes(sub.try_into().unwrap_or_default());
    Revision::new(main as i64, sub)
}

/// The user key in a prefix.
pub fn user_key(prefix: &[u8]) -> Bytes {
    let escaped = &prefix[..prefix.len().saturating_sub(2)];
    if !escaped.contains(&0) {
        return Bytes::copy_from_slice(escaped);
    }
    let mut out = BytesMut::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(byte) = bytes.next() {
        out.put_u8(*byte);
        if *byte == 0 {
            bytes.next();
        }
    }
    out.freeze()
}

/// Main revision of a place in `Kv`; 0 for what is none.
pub fn revision_in(place: &[u8]) -> i64 {
    place.split_last_chunk::<SUFFIX>().map_or(0, |(_, suffix)| decode_suffix(suffix).main)
}

/// Main revision of a place in `Log`; 0 for what is none.
pub fn log_revision_in(place: &[u8]) -> i64 {
    split_log(place).map_or(0, |revision| revision.main)
}

pub fn log_key(revision: Revision) -> Vec<u8> {
    let mut out = Vec::with_capacity(SUFFIX);
    out.put_u64(revision.main as u64);
    out.put_u32(revision.sub);
    out
}

pub fn split_log(place: &[u8]) -> Result<Revision, Fatal> {
    let (Some(main), Some(sub), SUFFIX) =
        (place.first_chunk::<8>(), place.last_chunk::<4>(), place.len())
    else {
        return Err(Fatal::new("read revision: its key has a wrong length"));
    };
    Ok(Revision::new(u64::from_be_bytes(*main) as i64, u32::from_be_bytes(*sub)))
}

/// The interval of places that a range of user keys covers; `None` end: to the last.
pub fn bounds(range: &KeyRange) -> (Vec<u8>, Option<Vec<u8>>) {
    let start = prefix(&range.start);
    let end = match &range.end {
        KeyEnd::Single => Some(behind(&start)),
        KeyEnd::Before(end) => Some(prefix(end)),
        KeyEnd::Unbounded => None,
    };
    (start, end)
}

/// What a version record says. `value_at` is where the value begins in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    Tombstone,
    Put { create: i64, version: i64, lease: i64, value_at: usize },
}

pub fn encode_put(create: i64, version: i64, lease: i64, value: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + 5 + 3 + 10 + value.len());
    out.put_u8(PUT);
    for number in [create, version, lease] {
        prost::encoding::encode_varint(number as u64, &mut out);
    }
    out.put_slice(value);
    out.freeze()
}

pub fn encode_tombstone() -> Bytes {
    Bytes::from_static(&[TOMBSTONE])
}

pub fn decode(record: &[u8]) -> Result<Record, Fatal> {
    match record.split_first() {
        Some((&TOMBSTONE, [])) => Ok(Record::Tombstone),
        Some((&PUT, mut rest)) => {
            let mut number = || {
                prost::encoding::decode_varint(&mut rest)
                    .map(|number| number as i64)
                    .map_err(|e| Fatal::with("read version record", e))
            };
            let (create, version, lease) = (number()?, number()?, number()?);
            Ok(Record::Put { create, version, lease, value_at: record.len() - rest.len() })
        }
        _ => Err(Fatal::new("read version record: its tag is unknown")),
    }
}

/// The pair as a client sees it, or `None` for a tombstone.
pub fn key_value(key: Bytes, revision: i64, record: &Bytes) -> Result<Option<KeyValue>, Fatal> {
    Ok(match decode(record)? {
        Record::Tombstone => None,
        Record::Put { create, version, lease, value_at } => Some(KeyValue {
            key,
            create_revision: create,
            mod_revision: revision,
            version,
            value: record.slice(value_at..),
            lease,
        }),
    })
}
