//! Passwords that were found right a short while ago, so that the next login need not be hashed again.
//!
//! What is kept is no password: it is a digest of password and stored hash under a key that is drawn at
//! each start of the process. An entry counts for one stored hash only, so a new password makes it
//! worthless at once; besides, all entries go with any change of auth, when they were not used for
//! a while, and the oldest ones when there are too many. What was found wrong is not remembered.

use aws_lc_rs::hmac::{HMAC_SHA256, Key, Tag, sign, verify};
use aws_lc_rs::rand::SystemRandom;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Users beyond these are hashed each time. An entry is about 200 bytes.
const ENTRIES_MAX: usize = 4096;
/// As long as a simple token lives unused: clients come back about so often.
const UNUSED_MAX: Duration = Duration::from_secs(600);

struct Entry {
    tag: Tag,
    used: Instant,
}

#[derive(Default)]
struct Entries {
    /// The auth revision for which they count.
    revision: u64,
    by_hash: BTreeMap<Vec<u8>, Entry>,
}

/// See the module's comment.
pub(super) struct Verified {
    /// None where the system has no random numbers; then nothing is remembered.
    key: Option<Key>,
    entries: Mutex<Entries>,
    entries_max: usize,
}

impl Verified {
    pub(super) fn new() -> Self {
        let key = Key::generate(HMAC_SHA256, &SystemRandom::new()).ok();
        Self { key, entries: Mutex::default(), entries_max: ENTRIES_MAX }
    }

    /// Whether this password was found right for this hash, at this auth revision.
    pub(super) fn contains(&self, password: &str, hash: &[u8], revision: u64) -> bool {
        self.contains_at(password, hash, revision, Instant::now())
    }

    fn contains_at(&self, password: &str, hash: &[u8], revision: u64, now: Instant) -> bool {
        let Some(key) = &self.key else { return false };
        let text = text(password, hash);
        let mut entries = self.entries.lock();
        if entries.revision != revision {
            return false;
        }
        let Some(entry) = entries.by_hash.get_mut(hash) else { return false };
        // Takes as long wherever the difference is.
        let is_right =
            now - entry.used < UNUSED_MAX && verify(key, &text, entry.tag.as_ref()).is_ok();
        if is_right {
            entry.used = now;
        }
        is_right
    }

    /// Remembers that this password was found right for this hash, which was the user's at this
    /// auth revision.
    pub(super) fn insert(&self, password: &str, hash: &[u8], revision: u64) {
        self.insert_at(password, hash, revision, Instant::now());
    }

    fn insert_at(&self, password: &str, hash: &[u8], revision: u64, used: Instant) {
        let Some(key) = &self.key else { return };
        let tag = sign(key, &text(password, hash));
        let mut entries = self.entries.lock();
        if revision < entries.revision {
            return;
        }
        if revision > entries.revision {
            *entries = Entries { revision, by_hash: BTreeMap::new() };
        }
        let by_hash = &mut entries.by_hash;
        by_hash.retain(|_, entry| used.saturating_duration_since(entry.used) < UNUSED_MAX);
        if by_hash.len() >= self.entries_max && !by_hash.contains_key(hash) {
            let oldest = by_hash.iter().min_by_key(|(_, entry)| entry.used);
            if let Some(hash) = oldest.map(|(hash, _)| hash.clone()) {
                by_hash.remove(&hash);
            }
        }
        by_hash.insert(hash.to_vec(), Entry { tag, used });
    }
}

/// The length in front keeps what belongs to the hash apart from what belongs to the password.
fn text(password: &str, hash: &[u8]) -> Vec<u8> {
    [&(hash.len() as u64).to_be_bytes(), hash, password.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_known_for_its_hash_and_revision_only() {
        let verified = Verified::new();
        verified.insert("right", b"hash", 7);
        for (password, hash, revision, expected) in [
            ("right", &b"hash"[..], 7, true),
            ("right", b"hash", 6, false),
            ("right", b"hash", 8, false),
            ("right", b"hash2", 7, false),
            ("2right", b"hash", 7, false),
            ("wrong", b"hash", 7, false),
            ("", b"hashright", 7, false),
            ("", b"", 7, false),
        ] {
            let known = verified.contains(password, hash, revision);
            assert_eq!(known, expected, "{password} {revision}");
        }
        let other = Verified::new();
        other.insert("right", b"hash", 7);
        let tag = |verified: &Verified| {
            verified.entries.lock().by_hash[&b"hash"[..]].tag.as_ref().to_vec()
        };
        assert_ne!(tag(&verified), tag(&other), "each process has a key of its own");
    }

    #[test]
    fn a_change_of_auth_drops_all_entries() {
        let verified = Verified::new();
        verified.insert("a", b"hash of a", 7);
        verified.insert("b", b"hash of b", 8);
        assert!(!verified.contains("a", b"hash of a", 7));
        assert!(!verified.contains("a", b"hash of a", 8));
        assert!(verified.contains("b", b"hash of b", 8));
        // Hashed for long, and found right when the user may have another password already.
        verified.insert("a", b"hash of a", 7);
        assert!(!verified.contains("a", b"hash of a", 7));
        assert_eq!(verified.entries.lock().by_hash.len(), 1);
    }

    #[test]
    fn entries_end_unused_and_the_oldest_give_way() {
        let verified = Verified { entries_max: 2, ..Verified::new() };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        verified.insert_at("a", b"a", 1, at(0));
        verified.insert_at("b", b"b", 1, at(1));
        assert!(verified.contains_at("a", b"a", 1, at(2)));
        verified.insert_at("b", b"b", 1, at(3));
        verified.insert_at("c", b"c", 1, at(4));
        assert!(!verified.contains_at("a", b"a", 1, at(4)), "it was the oldest");
        assert!(verified.contains_at("b", b"b", 1, at(602)));
        assert!(!verified.contains_at("c", b"c", 1, at(604)), "nobody used it");
        verified.insert_at("d", b"d", 1, at(605));
        let left: Vec<Vec<u8>> = verified.entries.lock().by_hash.keys().cloned().collect();
        assert_eq!(left, [b"b", b"d"], "what ended is gone");
    }
}
