//! How versions of user keys are laid out in the engine.
//!
//! `Space::Kv` holds `escape(user key) ++ !main ++ !sub` (the numbers big-endian and inverted),
//! so that keys keep their order and the newest version of a key comes first. `Space::Log` holds
//! `main ++ sub`, so that changes come in the order in which they were made. In `escape`, a zero
//! byte becomes `00 FF` and the end is marked by `00 00`: no escaped key is a prefix of another,
//! and the order of escaped keys is the order of user keys.
//!
//! Whatever is decoded is checked; what does not fit is a [`Fatal`].

use crate::error::Fatal;
use crate::storage::KV_SUFFIX_LEN;
use crate::types::Revision;
use bytes::Bytes;

/// Bytes of a revision behind an escaped key, and of a log key.
const REVISION_LEN: usize = KV_SUFFIX_LEN;

/// Marks the end of an escaped key.
const TERMINATOR: [u8; 2] = [0, 0];

/// The escaped form with its terminator: lies before every version of this key, and after every
/// version of the keys before it.
pub(super) fn escape(user_key: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(user_key.len() + TERMINATOR.len() + REVISION_LEN);
    push_escaped(&mut escaped, user_key);
    escaped
}

/// The `Kv` key of one version.
pub(super) fn version_key(user_key: &[u8], revision: Revision) -> Vec<u8> {
    let mut key = escape(user_key);
    push_revision(&mut key, revision);
    key
}

/// How much of a version's key all versions of the user key share.
pub(super) fn shared_len(version_key: &[u8]) -> usize {
    version_key.len() - REVISION_LEN
}

/// The first `Kv` key of the versions at or below main revision `at`, newest first.
pub(super) fn newest_at(user_key: &[u8], at: i64) -> Vec<u8> {
    version_key(user_key, Revision::new(at, u32::MAX))
}

/// Like [`newest_at`], of an already escaped key.
pub(super) fn newest_at_escaped(escaped: &[u8], at: i64) -> Vec<u8> {
    let mut key = Vec::with_capacity(escaped.len() + REVISION_LEN);
    key.extend_from_slice(escaped);
    push_revision(&mut key, Revision::new(at, u32::MAX));
    key
}

/// Turns an escaped key into what lies behind all its versions and before all other keys.
pub(super) fn step_over(escaped: &mut [u8]) {
    if let Some(last) = escaped.last_mut() {
        *last = 1;
    }
}

/// Splits a `Kv` key into the escaped key, with its terminator, and the revision.
pub(super) fn split(kv_key: &[u8]) -> Result<(&[u8], Revision), Fatal> {
    let parts = kv_key.split_last_chunk::<REVISION_LEN>();
    let Some((escaped, suffix)) = parts.filter(|(escaped, _)| escaped.ends_with(&TERMINATOR))
    else {
        return Err(corrupt("version key", kv_key));
    };
    let [a, b, c, d, e, f, g, h, sub @ ..] = *suffix;
    let main = !u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let main = i64::try_from(main).map_err(|_| corrupt("version key", kv_key))?;
    Ok((escaped, Revision::new(main, !u32::from_be_bytes(sub))))
}

/// The user key in an escaped key where it stands there as it is, without a zero byte.
pub(super) fn plain(escaped: &[u8]) -> Option<&[u8]> {
    let body = &escaped[..escaped.len().saturating_sub(TERMINATOR.len())];
    (!body.contains(&0)).then_some(body)
}

/// Hands on the user key of an escaped key; copies only what has zero bytes.
pub(super) fn with_user_key<T>(escaped: &[u8], then: impl FnOnce(&[u8]) -> T) -> Result<T, Fatal> {
    match plain(escaped) {
        Some(user_key) => Ok(then(user_key)),
        None => unescape(escaped).map(|user_key| then(&user_key)),
    }
}

fn unescape(escaped: &[u8]) -> Result<Vec<u8>, Fatal> {
    let mut user_key = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(zero) = rest.iter().position(|byte| *byte == 0) {
        user_key.extend_from_slice(&rest[..zero]);
        match rest[zero + 1..].split_first() {
            Some((0xFF, tail)) => {
                user_key.push(0);
                rest = tail;
            }
            Some((0, [])) => return Ok(user_key),
            _ => break,
        }
    }
    Err(corrupt("escaped key", escaped))
}

fn push_escaped(out: &mut Vec<u8>, user_key: &[u8]) {
    if user_key.contains(&0) {
        for &byte in user_key {
            out.push(byte);
            if byte == 0 {
                out.push(0xFF);
            }
        }
    } else {
        out.extend_from_slice(user_key);
    }
    out.extend_from_slice(&TERMINATOR);
}

fn push_revision(out: &mut Vec<u8>, revision: Revision) {
    out.extend_from_slice(&(!revision.main.cast_unsigned()).to_be_bytes());
    out.extend_from_slice(&(!revision.sub).to_be_bytes());
}

/// The `Log` key of a change.
pub(super) fn log_key(revision: Revision) -> [u8; REVISION_LEN] {
    let mut key = [0; REVISION_LEN];
    key[..8].copy_from_slice(&revision.main.to_be_bytes());
    key[8..].copy_from_slice(&revision.sub.to_be_bytes());
    key
}

pub(super) fn decode_log_key(key: &[u8]) -> Result<Revision, Fatal> {
    let whole: Option<&[u8; REVISION_LEN]> = key.try_into().ok();
    let Some([a, b, c, d, e, f, g, h, sub @ ..]) = whole else {
        return Err(corrupt("log key", key));
    };
    let main = i64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
    if main < 0 {
        return Err(corrupt("log key", key));
    }
    Ok(Revision::new(main, u32::from_be_bytes(*sub)))
}

/// The main revision in a `Kv` key; 0 for what is none.
pub fn revision_in(kv_key: &[u8]) -> i64 {
    split(kv_key).map_or(0, |(_, revision)| revision.main)
}

/// The main revision in a `Log` key; 0 for what is none.
pub fn log_revision_in(log_key: &[u8]) -> i64 {
    decode_log_key(log_key).map_or(0, |revision| revision.main)
}

const TAG_TOMBSTONE: u8 = 0;
const TAG_PUT: u8 = 1;

/// The record of a deletion. Any other is longer.
pub(super) const TOMBSTONE: Bytes = Bytes::from_static(&[TAG_TOMBSTONE]);
const TOMBSTONE_LEN: usize = 1;

/// What a put's record holds beside the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Put {
    /// Main revision of the put that began the key's present life.
    pub(super) create: i64,
    /// Puts in the key's present life, this one included.
    pub(super) version: i64,
    /// 0 without a lease.
    pub(super) lease: i64,
    /// Where the value begins in the record. It ends where the record ends.
    pub(super) value_at: usize,
}

/// Most bytes of a varint that holds 64 bits.
const VARINT_LEN_MAX: usize = 10;

/// The record of a put, and where the value begins in it.
pub(super) fn encode_put(create: i64, version: i64, lease: i64, value: &[u8]) -> (Bytes, usize) {
    let mut head = [TAG_PUT; 1 + 3 * VARINT_LEN_MAX];
    let mut value_at = 1;
    for number in [create, version, lease] {
        value_at += put_varint(&mut head[value_at..], number.cast_unsigned());
    }
    let mut record = Vec::with_capacity(value_at + value.len());
    record.extend_from_slice(&head[..value_at]);
    record.extend_from_slice(value);
    (record.into(), value_at)
}

/// Whether a record is a tombstone, told by its length alone: the record itself is often the one
/// thing of a pair that is not yet in the processor's cache.
pub(super) fn is_tombstone(record: &[u8]) -> bool {
    record.len() == TOMBSTONE_LEN
}

/// What a record says; nothing if it is a tombstone.
pub(super) fn decode_record(record: &[u8]) -> Result<Option<Put>, Fatal> {
    match record {
        [TAG_TOMBSTONE] => Ok(None),
        [TAG_PUT, ..] => {
            let mut value_at = 1;
            let mut number = || {
                let (number, len) = get_varint(&record[value_at..])?;
                value_at += len;
                Some(number.cast_signed())
            };
            let numbers = (|| Some((number()?, number()?, number()?)))();
            match numbers {
                Some((create, version, lease)) if create > 0 && version > 0 => {
                    Ok(Some(Put { create, version, lease, value_at }))
                }
                _ => Err(corrupt("version record", &record[..record.len().min(32)])),
            }
        }
        _ => Err(corrupt("version record", &record[..record.len().min(32)])),
    }
}

fn put_varint(out: &mut [u8], mut number: u64) -> usize {
    let mut len = 0;
    while number >= 0x80 {
        out[len] = (number & 0x7F) as u8 | 0x80;
        number >>= 7;
        len += 1;
    }
    out[len] = number as u8;
    len + 1
}

/// The number and how many bytes it took.
fn get_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut number = 0;
    for (at, &byte) in bytes.iter().take(VARINT_LEN_MAX).enumerate() {
        if at == VARINT_LEN_MAX - 1 && byte > 1 {
            return None;
        }
        number |= u64::from(byte & 0x7F) << (7 * at);
        if byte < 0x80 {
            return Some((number, at + 1));
        }
    }
    None
}

pub(super) fn corrupt(what: &str, bytes: &[u8]) -> Fatal {
    Fatal::new(format!("decode {what} {}: data is corrupt", bytes.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Keys rich in the bytes that escaping is about.
    fn user_key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0, 1, 0xFE, 0xFF, b'a']), 0..6)
    }

    fn revision() -> impl Strategy<Value = Revision> {
        (prop_oneof![0..4i64, 254..258i64, Just(i64::MAX)], prop_oneof![0..3u32, Just(u32::MAX)])
            .prop_map(|(main, sub)| Revision::new(main, sub))
    }

    proptest! {
        #[test]
        fn order_is_by_key_then_newest_first(
            a in (user_key(), revision()),
            b in (user_key(), revision()),
        ) {
            let encoded = version_key(&a.0, a.1).cmp(&version_key(&b.0, b.1));
            let expected = a.0.cmp(&b.0).then(b.1.cmp(&a.1));
            prop_assert_eq!(encoded, expected);
        }

        #[test]
        fn log_order_is_oldest_first(a in revision(), b in revision()) {
            prop_assert_eq!(log_key(a).cmp(&log_key(b)), a.cmp(&b));
            prop_assert_eq!(decode_log_key(&log_key(a)).unwrap(), a);
        }

        #[test]
        fn keys_come_back(user_key in user_key(), revision in revision()) {
            let kv_key = version_key(&user_key, revision);
            let (escaped, found) = split(&kv_key).unwrap();
            prop_assert_eq!(found, revision);
            prop_assert_eq!(escaped, escape(&user_key));
            prop_assert_eq!(with_user_key(escaped, <[u8]>::to_vec).unwrap(), user_key);
        }

        #[test]
        fn a_step_over_a_key_lands_before_the_next(
            key in user_key(), other in user_key(), revision in revision(),
        ) {
            let mut behind = escape(&key);
            step_over(&mut behind);
            let version = version_key(&other, revision);
            prop_assert_eq!(version < behind, other <= key);
            prop_assert_eq!(version < escape(&key), other < key);
        }

        #[test]
        fn records_come_back(
            create in 1..i64::MAX, version in 1..300i64, lease: i64,
            value in prop::collection::vec(any::<u8>(), 0..4),
        ) {
            let (record, value_at) = encode_put(create, version, lease, &value);
            let put = Put { create, version, lease, value_at };
            prop_assert_eq!(decode_record(&record).unwrap(), Some(put));
            prop_assert_eq!(&record[value_at..], &value[..]);
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok((escaped, _)) = split(&bytes) {
                let _ = with_user_key(escaped, <[u8]>::to_vec);
            }
            let _ = decode_log_key(&bytes);
            if let Ok(Some(put)) = decode_record(&bytes) {
                prop_assert!(put.value_at <= bytes.len());
            }
        }
    }

    #[test]
    fn damage_is_refused() {
        let kv_key = version_key(b"a", Revision::new(5, 0));
        assert!(split(&kv_key[1..]).is_ok(), "an empty user key is a key");
        for bytes in [&b""[..], &kv_key[2..], &[b'a', 0, 0xFF, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]]
        {
            assert!(split(bytes).is_err(), "{bytes:?}");
        }
        let mut negative = kv_key;
        negative[3] = 0;
        assert!(split(&negative).is_err());

        for bytes in [&b"a\0\x01b\0\0"[..], b"\0\0\0\0", b"a\0\0b\0\0"] {
            assert!(with_user_key(bytes, <[u8]>::to_vec).is_err(), "{bytes:?}");
        }
        for bytes in [&b""[..], &[0; 11], &[0; 13], &[0xFF; 12]] {
            assert!(decode_log_key(bytes).is_err(), "{bytes:?}");
        }
        for bytes in [&b""[..], &[0, 0], &[2], &[1], &[1, 2, 1], &[1, 0, 1, 0], &[1, 2, 0, 0]] {
            assert!(decode_record(bytes).is_err(), "{bytes:?}");
        }
        assert!(decode_record(&[&[1, 2][..], &[0xFF; 12]].concat()).is_err());
    }
}
