//! The newest versions of keys in recent use, for engines whose seeks are dear.
//!
//! The writer enters each version that it writes, before readers may see it; a reader enters what
//! it had to seek, if the writer has written nothing above the revision that it read at. So an
//! entry is always the newest version there is, and it holds at every revision from its own
//! on. Bounded in bytes: entries live in two generations, and the older one goes as a whole.

use crate::types::Revision;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

/// Keys are spread over so many locks, that readers on several threads rarely meet.
const SHARDS: usize = 16;
/// What an entry costs beside its key and record.
const ENTRY_OVERHEAD: usize = 120;
/// Records above this are worth a seek.
const RECORD_MAX: usize = 16 << 10;

/// See the module's comment.
pub(super) struct NewestCache {
    /// Bytes of one generation of one shard; 0 turns the cache off.
    generation_bytes: usize,
    /// The highest revision that the writer has begun to write; set before the entry's lock is
    /// taken, and read by readers under that lock.
    written: AtomicI64,
    shards: [Mutex<Shard>; SHARDS],
}

type Generation = BTreeMap<Bytes, (Revision, Bytes)>;

#[derive(Default)]
struct Shard {
    young: Generation,
    old: Generation,
    young_bytes: usize,
}

impl NewestCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            generation_bytes: bytes_max / SHARDS / 2,
            written: AtomicI64::new(0),
            shards: Default::default(),
        }
    }

    fn shard(&self, user_key: &[u8]) -> &Mutex<Shard> {
        // Neighbours differ in their last bytes.
        let hash = crc32c::crc32c(user_key) as usize;
        &self.shards[hash % SHARDS]
    }

    /// The version that holds at `at`, if it is the newest and here.
    pub(super) fn look(&self, user_key: &[u8], at: i64) -> Option<(Revision, Bytes)> {
        if self.generation_bytes == 0 {
            return None;
        }
        let mut shard = self.shard(user_key).lock();
        let shard = &mut *shard;
        let found = match shard.young.get(user_key) {
            Some(entry) => entry.clone(),
            None => {
                let (key, entry) = shard.old.remove_entry(user_key)?;
                shard.insert(key, entry.clone(), self.generation_bytes);
                entry
            }
        };
        // A younger one does not tell what held at the revision asked for.
        Some(found).filter(|(revision, _)| revision.main <= at)
    }

    /// The writer has a new version.
    pub(super) fn written(&self, user_key: &Bytes, revision: Revision, record: &Bytes) {
        if self.generation_bytes == 0 {
            return;
        }
        self.written.store(revision.main, Ordering::SeqCst);
        let mut shard = self.shard(user_key).lock();
        shard.remove(user_key);
        if record.len() <= RECORD_MAX {
            let entry = (revision, record.clone());
            shard.insert(user_key.clone(), entry, self.generation_bytes);
        }
    }

    /// A seek at the published revision `at` found this version.
    pub(super) fn sought(
        &self,
        user_key: &[u8],
        at: i64,
        revision: Revision,
        record: impl FnOnce() -> Bytes,
    ) {
        if self.generation_bytes == 0 {
            return;
        }
        let mut shard = self.shard(user_key).lock();
        let is_known = shard.young.contains_key(user_key) || shard.old.contains_key(user_key);
        // Above `at` there may be a newer version, that the seek could not see.
        if is_known || self.written.load(Ordering::SeqCst) > at {
            return;
        }
        let record = record();
        if record.len() <= RECORD_MAX {
            let key = Bytes::copy_from_slice(user_key);
            shard.insert(key, (revision, record), self.generation_bytes);
        }
    }

    /// The store's content is being replaced: nothing is entered until [`NewestCache::open`].
    pub(super) fn close(&self) {
        self.written.store(i64::MAX, Ordering::SeqCst);
        for shard in &self.shards {
            *shard.lock() = Shard::default();
        }
    }

    /// The store's content is that of `revision`; what is still being read from before is not entered.
    pub(super) fn open(&self, revision: i64) {
        self.written.store(revision, Ordering::SeqCst);
    }
}

impl Shard {
    fn insert(&mut self, key: Bytes, entry: (Revision, Bytes), generation_bytes: usize) {
        self.young_bytes += key.len() + entry.1.len() + ENTRY_OVERHEAD;
        self.young.insert(key, entry);
        if self.young_bytes > generation_bytes {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }

    fn remove(&mut self, user_key: &[u8]) {
        if let Some((key, (_, record))) = self.young.remove_entry(user_key) {
            self.young_bytes -= key.len() + record.len() + ENTRY_OVERHEAD;
        }
        self.old.remove(user_key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(cache: &NewestCache, key: &str, at: i64) -> Option<i64> {
        cache.look(key.as_bytes(), at).map(|(revision, _)| revision.main)
    }

    fn written(cache: &NewestCache, key: &'static str, main: i64) {
        let key = Bytes::from_static(key.as_bytes());
        cache.written(&key, Revision::new(main, 0), &Bytes::from_static(b"record"));
    }

    #[test]
    fn an_entry_holds_from_its_own_revision_on() {
        let cache = NewestCache::new(1 << 20);
        written(&cache, "a", 5);
        assert_eq!(revision(&cache, "a", 4), None);
        assert_eq!(revision(&cache, "a", 5), Some(5));
        assert_eq!(revision(&cache, "a", 9), Some(5));
        written(&cache, "a", 7);
        assert_eq!(revision(&cache, "a", 6), None);
        assert_eq!(revision(&cache, "a", 9), Some(7));
        cache.close();
        assert_eq!(revision(&cache, "a", 9), None);
    }

    #[test]
    fn what_was_sought_gives_way_to_the_writer() {
        let cache = NewestCache::new(1 << 20);
        let sought = |at| {
            cache.sought(b"a", at, Revision::new(3, 0), || Bytes::from_static(b"old"));
        };
        written(&cache, "b", 4);
        sought(3);
        assert_eq!(revision(&cache, "a", 9), None, "above 3 there may be a newer one");
        sought(4);
        assert_eq!(revision(&cache, "a", 9), Some(3));
        written(&cache, "a", 5);
        sought(5);
        assert_eq!(revision(&cache, "a", 9), Some(5), "the writer's entry stays");
        cache.close();
        sought(5);
        assert_eq!(revision(&cache, "a", 9), None, "the content is being replaced");
        cache.open(8);
        sought(5);
        assert_eq!(revision(&cache, "a", 9), None, "read before it was replaced");
        sought(8);
        assert_eq!(revision(&cache, "a", 9), Some(3));
    }

    #[test]
    fn memory_is_bounded_and_recent_use_keeps() {
        let cache = NewestCache::new(SHARDS * 2 * 10 * (ENTRY_OVERHEAD + 8 + 100));
        for n in 0..10_000 {
            let key = Bytes::from(format!("{n:08}"));
            cache.written(&key, Revision::new(n, 0), &Bytes::from(vec![0; 100]));
            assert!(cache.look(b"00000000", n).is_some(), "used all the time");
        }
        let in_shard = |shard: &Mutex<Shard>| {
            let shard = shard.lock();
            shard.young.len() + shard.old.len()
        };
        let entries: usize = cache.shards.iter().map(in_shard).sum();
        assert!(entries <= SHARDS * 2 * 11, "{entries} entries");
    }
}
