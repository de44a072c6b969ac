//! Who waits for the other side: so many at a time, of whom the one that came first gives way.
//!
//! Whoever opens connections and leaves it at that must not keep others out: so nobody is turned away
//! at the door, and the place of the newest is taken from the oldest. One that goes on while fewer than
//! the bound come after it is never disturbed.
//!
//! Left out: which of them come from one address. Behind a proxy that is everybody's.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How often it is said aloud that somebody had to give way: whoever floods a port shall not flood the
/// log too.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Why somebody lost its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GaveWay {
    /// Nobody was told of another within the last seconds.
    pub is_first: bool,
}

#[derive(Default)]
struct Waiting {
    /// By number, which is the order in which they came.
    places: BTreeMap<u64, oneshot::Sender<GaveWay>>,
    next: u64,
    told: Option<Instant>,
}

impl Waiting {
    /// Takes the place of the one that came first.
    fn oust(&mut self, now: Instant) {
        let Some((_, oldest)) = self.places.pop_first() else { return };
        let is_first = self.told.is_none_or(|told| now.duration_since(told) >= TOLD_EVERY);
        // An error means that it is done just now, and has nothing to tell.
        if oldest.send(GaveWay { is_first }).is_ok() && is_first {
            self.told = Some(now);
        }
    }
}

/// Places for those that wait. Clones share them.
#[derive(Clone)]
pub(super) struct Pending {
    /// At least one.
    max: usize,
    waiting: Arc<Mutex<Waiting>>,
}

/// A place, which is given back in the end.
pub(super) struct Place {
    waiting: Arc<Mutex<Waiting>>,
    number: u64,
    ousted: oneshot::Receiver<GaveWay>,
}

impl Pending {
    pub(super) fn new(max: usize) -> Self {
        Self { max, waiting: Arc::default() }
    }

    /// Gives a place at once, if need be that of another.
    pub(super) fn enter(&self) -> Place {
        self.enter_at(Instant::now())
    }

    fn enter_at(&self, now: Instant) -> Place {
        let (sender, ousted) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if waiting.places.len() >= self.max {
            waiting.oust(now);
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.places.insert(number, sender);
        Place { waiting: self.waiting.clone(), number, ousted }
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.waiting.lock().places.len()
    }
}

impl Place {
    /// What comes of `work`, unless the place is lost before.
    ///
    /// # Errors
    /// The place is another's: `work` was dropped. This is so for whatever is tried later, too.
    pub(super) async fn hold<T>(&mut self, work: impl Future<Output = T>) -> Result<T, GaveWay> {
        tokio::select! {
            // Whoever is done with its next step needs no place for it.
            biased;
            done = work => Ok(done),
            ousted = &mut self.ousted => Err(ousted.unwrap_or(GaveWay { is_first: false })),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.lock().places.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use std::future::{pending, ready};

    fn is_waiting(place: &mut Place) -> bool {
        place.hold(pending::<()>()).now_or_never().is_none()
    }

    #[tokio::test]
    async fn the_oldest_gives_way_and_it_is_said_from_time_to_time() {
        let pending = Pending::new(3);
        let [mut first, mut second, third] = [(); 3].map(|()| pending.enter());
        assert!(is_waiting(&mut first), "all have a place");
        let mut fourth = pending.enter();
        let lost = first.hold(std::future::pending::<()>()).await;
        assert_eq!(lost, Err(GaveWay { is_first: true }));
        assert!(is_waiting(&mut second) && is_waiting(&mut fourth));
        // Who leaves makes room, and nobody has to go.
        drop(third);
        let mut fifth = pending.enter();
        assert!(is_waiting(&mut second) && is_waiting(&mut fifth));
        let _sixth = pending.enter();
        let lost = second.hold(std::future::pending::<()>()).await;
        assert_eq!(lost, Err(GaveWay { is_first: false }), "said already");
        let _seventh = pending.enter_at(Instant::now() + TOLD_EVERY);
        let lost = fourth.hold(std::future::pending::<()>()).await;
        assert_eq!(lost, Err(GaveWay { is_first: true }), "once more");
        assert_eq!(pending.taken(), 3);
    }

    #[tokio::test]
    async fn what_is_done_counts_though_the_place_is_lost() {
        let pending = Pending::new(1);
        let mut first = pending.enter();
        let second = pending.enter();
        assert_eq!(first.hold(ready(7)).await, Ok(7));
        // The place of another does not go with it.
        drop(first);
        assert_eq!(pending.taken(), 1);
        drop(second);
        assert_eq!(pending.taken(), 0);
    }
}
