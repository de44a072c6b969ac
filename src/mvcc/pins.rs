//! Who holds revisions against physical removal.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A revision and a number that no other pin has had.
type PinId = (i64, u64);

#[derive(Default)]
pub(super) struct Pins {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    made: u64,
    /// With the number of times that each has been found still there; `None` for those that may
    /// stay for ever.
    pins: BTreeMap<PinId, Option<u32>>,
}

/// Holds the physical removal of versions back, until dropped: what is visible at this revision
/// or later stays readable.
///
/// Only a pin at or above the compacted revision of that moment promises this: pin first, then
/// look at the compacted revision. A pin at 0 stops all removal.
pub struct Pin {
    pins: Arc<Pins>,
    id: PinId,
}

impl Pins {
    pub(super) fn pin(self: &Arc<Self>, revision: i64, may_age: bool) -> Pin {
        let mut held = self.held.lock();
        held.made += 1;
        let id = (revision, held.made);
        held.pins.insert(id, may_age.then_some(0));
        Pin { pins: self.clone(), id }
    }

    pub(super) fn count(&self) -> usize {
        self.held.lock().pins.len()
    }

    /// The lowest pinned revision.
    pub(super) fn oldest(&self) -> Option<i64> {
        self.held.lock().pins.first_key_value().map(|((revision, _), _)| *revision)
    }

    /// Releases the pins that may age and have seen `ages_max` calls before this one.
    pub(super) fn age(&self, ages_max: u32) {
        self.held.lock().pins.retain(|_, age| match age {
            Some(age) if *age >= ages_max => false,
            Some(age) => {
                *age += 1;
                true
            }
            None => true,
        });
    }
}

impl Pin {
    /// Whether it has not been released for its age.
    pub(super) fn is_held(&self) -> bool {
        self.pins.held.lock().pins.contains_key(&self.id)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.held.lock().pins.remove(&self.id);
    }
}
