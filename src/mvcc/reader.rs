//! Reading versions at a revision: the newest of one key, or a walk over many keys.
//!
//! One rule serves present and past: of each key's versions, newest first, the first one that
//! is not younger than the revision holds; a tombstone means that the key does not exist. A
//! [`Walk`] goes on in bounded engine scans, so that it never holds up the writer for long.

use super::key::{self, Put};
use super::newest_cache::NewestCache;
use crate::error::Fatal;
use crate::pb::mvccpb::KeyValue;
use crate::storage::{Flow, Read, Space, Value};
use crate::types::{KeyEnd, KeyRange, Revision};
use bytes::{Bytes, BytesMut};

/// Pairs that one engine scan looks at. On the memory engine some 20 us, for which a writer may
/// have to wait; starting a scan costs less than a hundredth of that.
const SCAN_PAIRS_MAX: usize = if cfg!(test) { 3 } else { 512 };

/// Unwanted versions of one key that are stepped over before a seek is cheaper.
const STEPS_MAX: usize = if cfg!(test) { 2 } else { 8 };

/// Keys of a walk's pairs share buffers of this size.
const KEYS_LEN: usize = 8 << 10;
/// Values that have to be copied share buffers of this size, unless they are large themselves.
const VALUES_LEN: usize = 256 << 10;

/// Where versions are read: a store, and the cache beside it.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) store: &'a dyn Read,
    pub(super) cache: &'a NewestCache,
}

/// A stored version that is a put.
pub(super) struct Version<'a> {
    pub(super) revision: Revision,
    pub(super) put: Put,
    record: Value<'a>,
}

impl<'a> Version<'a> {
    /// `None` for a tombstone.
    fn decode(revision: Revision, record: Value<'a>) -> Result<Option<Self>, Fatal> {
        let put = key::decode_record(record.as_slice())?;
        Ok(put.map(|put| Self { revision, put, record }))
    }

    /// The value: shared where the engine keeps it in memory, else copied.
    fn value(&self, copy: impl FnOnce(&[u8]) -> Bytes) -> Bytes {
        match self.record {
            Value::Shared(record) => record.slice(self.put.value_at..),
            Value::Borrowed(record) => copy(&record[self.put.value_at..]),
        }
    }

    pub(super) fn value_slice(&self) -> &[u8] {
        &self.record.as_slice()[self.put.value_at..]
    }

    pub(super) fn to_key_value(&self, key: Bytes) -> KeyValue {
        self.to_pair(key, Bytes::copy_from_slice)
    }

    /// Like [`Version::to_key_value`]; `copy` makes a value owned that the engine only lends.
    pub(super) fn to_pair(&self, key: Bytes, copy: impl FnOnce(&[u8]) -> Bytes) -> KeyValue {
        KeyValue { lease: self.put.lease, value: self.value(copy), ..self.to_metadata(key) }
    }

    /// Without value and lease, as etcd answers from its index.
    pub(super) fn to_metadata(&self, key: Bytes) -> KeyValue {
        KeyValue {
            key,
            create_revision: self.put.create,
            mod_revision: self.revision.main,
            version: self.put.version,
            ..Default::default()
        }
    }
}

/// Finds the version of one key that holds at revision `at`, with one seek at most, and hands
/// it to `then`. `None` when the key does not exist there.
pub(super) fn newest<T>(
    source: Source<'_>,
    user_key: &[u8],
    at: i64,
    then: impl FnOnce(Version<'_>) -> T,
) -> Result<Option<T>, Fatal> {
    let mut then = Some(then);
    let cached = source.cache.look(user_key, at, |entry| {
        let (revision, record) = (entry.revision, Value::Shared(&entry.record));
        entry.put.and_then(|put| Some(then.take()?(Version { revision, put, record })))
    });
    if let Some(version) = cached {
        return Ok(version);
    }
    let start = key::newest_at(user_key, at);
    let mut found = Ok(None);
    source.store.first(Space::Kv, &start, key::shared_len(&start), &mut |kv_key, record| {
        let version = key::split(kv_key).and_then(|(_, revision)| {
            let put = key::decode_record(record.as_slice())?;
            source.cache.sought(user_key, at, revision, put, || record.to_bytes());
            Ok(put.map(|put| Version { revision, put, record }))
        });
        found = version.map(|version| Some(then.take()?(version?)));
    })?;
    found
}

/// The revision of the newest version of a key at or below `at`, be it a tombstone.
pub(super) fn newest_revision(
    store: &dyn Read,
    user_key: &[u8],
    at: i64,
) -> Result<Option<Revision>, Fatal> {
    let start = key::newest_at(user_key, at);
    let mut found = Ok(None);
    store.first(Space::Kv, &start, key::shared_len(&start), &mut |kv_key, _| {
        found = key::split(kv_key).map(|(_, revision)| Some(revision));
    })?;
    found
}

/// What a walk finds of a key that exists.
pub(super) struct Found<'a> {
    escaped: &'a [u8],
    revision: Revision,
    record: Value<'a>,
}

impl<'a> Found<'a> {
    pub(super) fn escaped(&self) -> &'a [u8] {
        self.escaped
    }

    pub(super) fn version(self) -> Result<Version<'a>, Fatal> {
        let version = Version::decode(self.revision, self.record)?;
        version.ok_or_else(|| key::corrupt("version record", self.record.as_slice()))
    }
}

/// Gets what was found; returns whether to go on.
pub(super) type Visit<'a> = dyn FnMut(Found<'_>) -> Result<bool, Fatal> + 'a;

/// Visits the keys of a range that exist at one revision, in key order.
pub(super) struct Walk {
    at: i64,
    /// The first `Kv` key not looked at.
    next: Vec<u8>,
    /// Where the range ends; `None` is the end of the store.
    end: Option<Vec<u8>>,
    /// The escaped key whose holding version has been found: its older versions are passed over.
    settled: Vec<u8>,
    is_begun: bool,
    is_done: bool,
}

impl Walk {
    pub(super) fn new(range: &KeyRange, at: i64) -> Self {
        let (next, end) = match &range.end {
            KeyEnd::Single => {
                let mut end = key::escape(&range.start);
                key::step_over(&mut end);
                (key::newest_at(&range.start, at), Some(end))
            }
            KeyEnd::Before(end) => (key::escape(&range.start), Some(key::escape(end))),
            KeyEnd::Unbounded => (key::escape(&range.start), None),
        };
        let is_done = range.is_empty();
        Self { at, next, end, settled: Vec::new(), is_begun: false, is_done }
    }

    /// Whether every key has been visited.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Goes on for one engine scan, or until `visit` returns false.
    pub(super) fn advance(
        &mut self,
        source: Source<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fatal> {
        if self.is_done {
            return Ok(());
        }
        let start = std::mem::take(&mut self.next);
        let end = self.end.take();
        let is_begun = std::mem::replace(&mut self.is_begun, true);
        let mut steps = Steps { walk: self, pairs: 0, unwanted: 0, is_cut: false };
        let mut failure = None;
        let mut step = |kv_key: &[u8], record: Value<'_>| {
            steps.step(kv_key, record, visit).unwrap_or_else(|fatal| {
                failure = Some(fatal);
                Flow::Stop
            })
        };
        if is_begun {
            source.store.scan_past_cache(Space::Kv, &start, end.as_deref(), &mut step)?;
        } else {
            source.store.scan(Space::Kv, &start, end.as_deref(), &mut step)?;
        }
        self.is_done = !steps.is_cut;
        self.end = end;
        failure.map_or(Ok(()), Err)
    }
}

/// One engine scan of a walk.
struct Steps<'a> {
    walk: &'a mut Walk,
    pairs: usize,
    /// Versions passed over since the last that was wanted.
    unwanted: usize,
    /// Whether it stopped before the end of the range.
    is_cut: bool,
}

impl Steps<'_> {
    fn step(
        &mut self,
        kv_key: &[u8],
        record: Value<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<Flow, Fatal> {
        let (escaped, revision) = key::split(kv_key)?;
        if self.pairs == SCAN_PAIRS_MAX {
            self.cut(kv_key.to_vec());
            return Ok(Flow::Stop);
        }
        self.pairs += 1;
        if self.walk.settled == escaped {
            return Ok(self.pass(|| behind(escaped)));
        }
        if revision.main > self.walk.at {
            let at = self.walk.at;
            return Ok(self.pass(|| key::newest_at_escaped(escaped, at)));
        }
        self.unwanted = 0;
        self.walk.settled.clear();
        self.walk.settled.extend_from_slice(escaped);
        if key::is_tombstone(record.as_slice()) || visit(Found { escaped, revision, record })? {
            return Ok(Flow::Next);
        }
        self.cut(behind(escaped));
        Ok(Flow::Stop)
    }

    fn pass(&mut self, seek: impl FnOnce() -> Vec<u8>) -> Flow {
        self.unwanted += 1;
        if self.unwanted < STEPS_MAX {
            return Flow::Next;
        }
        self.unwanted = 0;
        Flow::Seek(seek())
    }

    fn cut(&mut self, next: Vec<u8>) {
        self.walk.next = next;
        self.is_cut = true;
    }
}

fn behind(escaped: &[u8]) -> Vec<u8> {
    let mut behind = escaped.to_vec();
    key::step_over(&mut behind);
    behind
}

/// Makes the keys and values of a walk's pairs owned, many to an allocation.
#[derive(Default)]
pub(super) struct Arena {
    keys: BytesMut,
    values: BytesMut,
}

impl Arena {
    /// What was found, with its value or without.
    pub(super) fn pair(&mut self, found: Found<'_>, with_value: bool) -> Result<KeyValue, Fatal> {
        let escaped = found.escaped();
        self.pair_of(escaped, &found.version()?, with_value)
    }

    pub(super) fn pair_of(
        &mut self,
        escaped: &[u8],
        version: &Version<'_>,
        with_value: bool,
    ) -> Result<KeyValue, Fatal> {
        let key = self.user_key(escaped)?;
        if with_value {
            Ok(version.to_pair(key, |value| self.value(value)))
        } else {
            Ok(version.to_metadata(key))
        }
    }

    pub(super) fn user_key(&mut self, escaped: &[u8]) -> Result<Bytes, Fatal> {
        if self.keys.capacity() < escaped.len() {
            self.keys.reserve(KEYS_LEN.max(escaped.len()));
        }
        key::with_user_key(escaped, |user_key| self.keys.extend_from_slice(user_key))?;
        Ok(self.keys.split().freeze())
    }

    fn value(&mut self, value: &[u8]) -> Bytes {
        if value.len() > VALUES_LEN / 8 {
            return Bytes::copy_from_slice(value);
        }
        if self.values.capacity() < value.len() {
            self.values.reserve(VALUES_LEN);
        }
        self.values.extend_from_slice(value);
        self.values.split().freeze()
    }
}
