//! Tokens whose signatures were found right, so that each is checked once and not at every call.
//!
//! For signatures of public keys only, which cost as much as several calls. A token is known by its
//! digest: nobody can make another with the same one, and it is of no use to whom it is shown.
//! Times are compared at each use; the auth revision is compared by whoever asks.

use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Tokens beyond these prove themselves again. An entry is about 150 bytes.
const ENTRIES_MAX: usize = 8192;

/// What a token says, once its signature was found right.
#[derive(Clone, Debug)]
pub(super) struct Proof {
    pub(super) user: Arc<str>,
    pub(super) revision: u64,
    /// Seconds of Unix time.
    pub(super) ends: f64,
    pub(super) begins: Option<f64>,
}

impl Proof {
    /// The user and auth revision, if the token counts at this time.
    pub(super) fn at(&self, now: Duration) -> Option<(Arc<str>, u64)> {
        let now = now.as_secs_f64();
        let is_now = now < self.ends && self.begins.is_none_or(|begins| begins <= now);
        (is_now && !self.user.is_empty()).then(|| (self.user.clone(), self.revision))
    }
}

/// See the module's comment.
#[derive(Default)]
pub(super) struct Proven {
    by_digest: Mutex<HashMap<[u8; 32], Proof>>,
}

impl Proven {
    pub(super) fn name(token: &str) -> [u8; 32] {
        let mut name = [0; 32];
        name.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        name
    }

    pub(super) fn get(&self, name: &[u8; 32]) -> Option<Proof> {
        self.by_digest.lock().get(name).cloned()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_digest.lock().len()
    }

    pub(super) fn insert(&self, name: [u8; 32], proof: Proof, now: Duration) {
        let mut by_digest = self.by_digest.lock();
        if by_digest.len() >= ENTRIES_MAX {
            by_digest.retain(|_, proof| proof.at(now).is_some());
        }
        if by_digest.len() >= ENTRIES_MAX {
            by_digest.clear();
        }
        by_digest.insert(name, proof);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(ends: f64) -> Proof {
        Proof { user: "ann".into(), revision: 7, ends, begins: None }
    }

    #[test]
    fn what_has_ended_gives_way_first_and_then_all() {
        let proven = Proven::default();
        let now = Duration::from_secs(100);
        for number in 0..ENTRIES_MAX {
            let ends = if number == 0 { 200.0 } else { 99.0 };
            proven.insert(Proven::name(&number.to_string()), proof(ends), now);
        }
        assert_eq!(proven.len(), ENTRIES_MAX);
        for number in ENTRIES_MAX..2 * ENTRIES_MAX - 1 {
            proven.insert(Proven::name(&number.to_string()), proof(200.0), now);
        }
        assert_eq!(proven.len(), ENTRIES_MAX, "those that had ended are gone");
        assert!(proven.get(&Proven::name("0")).is_some());
        proven.insert(Proven::name("one more"), proof(200.0), now);
        assert_eq!(proven.len(), 1);
    }

    #[test]
    fn a_token_counts_between_its_times() {
        let at =
            |seconds, begins| Proof { begins, ..proof(100.0) }.at(Duration::from_secs(seconds));
        assert_eq!(at(99, None), Some(("ann".into(), 7)));
        assert_eq!(at(100, None), None);
        assert_eq!(at(50, Some(50.0)), Some(("ann".into(), 7)));
        assert_eq!(at(49, Some(50.0)), None);
        let nobody = Proof { user: "".into(), ..proof(100.0) };
        assert_eq!(nobody.at(Duration::ZERO), None);
    }
}
