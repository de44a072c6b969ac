//! The newest versions of keys in recent use, for engines whose seeks are dear.
//!
//! The writer enters each version that it writes, before readers may see it; a reader enters what
//! it had to seek, if the writer has written nothing above the revision that it read at. So an
//! entry is always the newest version there is, and it holds at every revision from its own
//! on. Bounded in bytes: entries live in two generations, and the older one goes as a whole.

use super::key::Put;
use crate::storage::compact::Key;
use crate::types::Revision;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, btree_map};
use std::sync::atomic::{AtomicI64, Ordering};

/// Keys are spread over so many locks, that readers on several threads rarely meet.
const SHARDS: usize = 16;
/// What an entry costs beside its key and record.
const ENTRY_OVERHEAD: usize = 200;
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

/// By the hash of the user key: comparing keys would miss the processor's cache at every step
/// down the tree. Of two keys with one hash the later one stays; in a full cache that concerns
/// one key in ten thousand.
type Generation = BTreeMap<u32, Entry>;

/// A version as it is kept, and as it is handed out.
pub(super) struct Entry {
    key: Key,
    pub(super) revision: Revision,
    /// What the record says: the writer needs no more of it, and the record itself is often not
    /// in the processor's cache. `None` for a tombstone.
    pub(super) put: Option<Put>,
    pub(super) record: Bytes,
}

impl Entry {
    fn weight(&self) -> usize {
        self.key.as_slice().len() + self.record.len() + ENTRY_OVERHEAD
    }
}

/// A hash is in one generation at most.
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

    fn shard(&self, hash: u32) -> &Mutex<Shard> {
        &self.shards[hash as usize % SHARDS]
    }

    /// Hands on the version that holds at `at`, if it is the newest and here. `then` runs under a
    /// lock and must be short.
    pub(super) fn look<T>(
        &self,
        user_key: &[u8],
        at: i64,
        then: impl FnOnce(&Entry) -> T,
    ) -> Option<T> {
        if self.generation_bytes == 0 {
            return None;
        }
        let hash = crc32c::crc32c(user_key);
        let mut shard = self.shard(hash).lock();
        let entry = shard.find(hash, user_key, self.generation_bytes)?;
        // A younger one does not tell what held at the revision asked for.
        (entry.revision.main <= at).then(|| then(entry))
    }

    /// The writer has a new version.
    pub(super) fn written(
        &self,
        user_key: &Bytes,
        revision: Revision,
        put: Option<Put>,
        record: &Bytes,
    ) {
        if self.generation_bytes == 0 {
            return;
        }
        self.written.store(revision.main, Ordering::SeqCst);
        let hash = crc32c::crc32c(user_key);
        let mut shard = self.shard(hash).lock();
        if record.len() <= RECORD_MAX {
            let key = Key::copied(user_key);
            let entry = Entry { key, revision, put, record: record.clone() };
            shard.insert(hash, entry, self.generation_bytes);
        } else {
            shard.remove(hash);
        }
    }

    /// A seek at the published revision `at` found this version.
    pub(super) fn sought(
        &self,
        user_key: &[u8],
        at: i64,
        revision: Revision,
        put: Option<Put>,
        record: impl FnOnce() -> Bytes,
    ) {
        if self.generation_bytes == 0 {
            return;
        }
        let hash = crc32c::crc32c(user_key);
        let mut shard = self.shard(hash).lock();
        let is_known = shard.find(hash, user_key, self.generation_bytes).is_some();
        // Above `at` there may be a newer version, that the seek could not see.
        if is_known || self.written.load(Ordering::SeqCst) > at {
            return;
        }
        let record = record();
        if record.len() <= RECORD_MAX {
            let entry = Entry { key: Key::copied(user_key), revision, put, record };
            shard.insert(hash, entry, self.generation_bytes);
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
    /// The key's entry; one of the older generation moves to the younger.
    fn find(&mut self, hash: u32, user_key: &[u8], generation_bytes: usize) -> Option<&Entry> {
        self.turn_over(generation_bytes);
        let entry = match self.young.entry(hash) {
            btree_map::Entry::Occupied(place) => &*place.into_mut(),
            btree_map::Entry::Vacant(place) => {
                let entry = self.old.remove(&hash)?;
                self.young_bytes += entry.weight();
                place.insert(entry)
            }
        };
        (entry.key.as_slice() == user_key).then_some(entry)
    }

    fn insert(&mut self, hash: u32, entry: Entry, generation_bytes: usize) {
        self.turn_over(generation_bytes);
        self.young_bytes += entry.weight();
        match self.young.entry(hash) {
            btree_map::Entry::Occupied(mut place) => {
                self.young_bytes -= place.insert(entry).weight();
            }
            btree_map::Entry::Vacant(place) => {
                place.insert(entry);
                self.old.remove(&hash);
            }
        }
    }

    /// A full younger generation becomes the older one, which goes.
    fn turn_over(&mut self, generation_bytes: usize) {
        if self.young_bytes > generation_bytes {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }

    fn remove(&mut self, hash: u32) {
        if let Some(entry) = self.young.remove(&hash) {
            self.young_bytes -= entry.weight();
        }
        self.old.remove(&hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(cache: &NewestCache, key: &str, at: i64) -> Option<i64> {
        cache.look(key.as_bytes(), at, |entry| entry.revision.main)
    }

    fn written(cache: &NewestCache, key: &'static str, main: i64) {
        let key = Bytes::from_static(key.as_bytes());
        cache.written(&key, Revision::new(main, 0), None, &Bytes::from_static(b"record"));
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
    fn of_two_keys_with_one_hash_each_finds_only_its_own() {
        // Found by trying many.
        let (one, other) = ("key-5a142a5546", "key-5f9e54009d");
        assert_eq!(crc32c::crc32c(one.as_bytes()), crc32c::crc32c(other.as_bytes()));
        let cache = NewestCache::new(1 << 20);
        written(&cache, one, 4);
        assert_eq!(revision(&cache, other, 9), None);
        cache.sought(other.as_bytes(), 4, Revision::new(2, 0), None, || Bytes::from_static(b"old"));
        assert_eq!(revision(&cache, other, 9), Some(2));
        assert_eq!(revision(&cache, one, 9), None);
        written(&cache, one, 5);
        assert_eq!(revision(&cache, one, 9), Some(5));
        assert_eq!(revision(&cache, other, 9), None);
    }

    #[test]
    fn what_was_sought_gives_way_to_the_writer() {
        let cache = NewestCache::new(1 << 20);
        let sought = |at| {
            cache.sought(b"a", at, Revision::new(3, 0), None, || Bytes::from_static(b"old"));
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
            cache.written(&key, Revision::new(n, 0), None, &Bytes::from(vec![0; 100]));
            assert!(cache.look(b"00000000", n, |_| ()).is_some(), "used all the time");
        }
        let in_shard = |shard: &Mutex<Shard>| {
            let shard = shard.lock();
            shard.young.len() + shard.old.len()
        };
        let entries: usize = cache.shards.iter().map(in_shard).sum();
        assert!(entries <= SHARDS * 2 * 11, "{entries} entries");
    }
}
