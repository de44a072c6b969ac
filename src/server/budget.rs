//! What large answers may hold in memory, all together.
//!
//! Of an answer in the order of its keys only as much is held as there is room for: the rest is read again while it is
//! sent, so it is never waited for. Any other must be held as a whole before a byte of it can be sent, and is
//! made only while there is room left: it waits for that as long as others give room back, and is refused when they do
//! not. What it weighs is known only when it is made, so those that are made at the same time may go beyond the
//! budget: one for each turn of [`Kind::Whole`], and as many of writes as there are places.

use super::long_work::{Kind, Turn, turn};
use crate::error::RequestError;
use bytes::Bytes;
use futures_util::TryFutureExt as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore};

/// How long an answer waits for room while nobody gives any back: clients that do not take theirs must not make
/// others wait for ever, and those who wait have often set themselves a few seconds.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 4_000 });

/// Writes under way whose answers tell of many pairs: what those weigh is known only when they are applied.
const PLACES: usize = 8;

/// Room for so many bytes.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: i64,
    /// Below zero while more is held than there was room for.
    left: AtomicI64,
    /// How often room was given back.
    returns: AtomicU64,
    /// Tells the first in each queue when there is room again.
    freed: Notify,
    /// Those who wait for room, in order.
    reads: Mutex<()>,
    writes: Mutex<()>,
    /// Writes that may be under way.
    places: Arc<Semaphore>,
}

/// What one answer holds of a budget; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: AtomicUsize,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        Arc::new(Self {
            bytes,
            left: AtomicI64::new(bytes),
            returns: AtomicU64::new(0),
            freed: Notify::new(),
            reads: Mutex::new(()),
            writes: Mutex::new(()),
            places: Arc::new(Semaphore::new(PLACES)),
        })
    }

    pub(super) fn share(self: &Arc<Self>) -> Share {
        Share { budget: self.clone(), bytes: AtomicUsize::new(0) }
    }

    /// What those that must be held as a whole find left, however many others there are.
    fn reserve(&self) -> i64 {
        self.bytes / 4
    }

    fn has_room(&self) -> bool {
        let left = self.left.load(Ordering::SeqCst);
        // Where nothing is held, an answer is made however small the budget is.
        left > 0 || left == self.bytes
    }

    /// Waits for the turn to make an answer that must be held as a whole, and for room.
    ///
    /// # Errors
    /// `TooManyRequests` when there is no room and none is given back for a while, `Stopped` in a node that stops.
    pub(super) async fn turn(&self) -> Result<Turn, RequestError> {
        self.with_patience(self.next(&self.reads, || turn(Kind::Whole)), || !self.has_room()).await
    }

    /// Waits until a write may be proposed whose answer tells of many pairs, and for room.
    ///
    /// # Errors
    /// As those of [`Budget::turn`].
    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, RequestError> {
        let take = || {
            let place = self.places.clone().acquire_owned();
            place.map_err(|_| RequestError::Stopped)
        };
        // Where no write ends, as without a quorum, nobody waits for those before him.
        self.with_patience(self.next(&self.writes, take), || true).await
    }

    async fn with_patience<T>(
        &self,
        next: impl Future<Output = Result<T, RequestError>>,
        is_stuck: impl Fn() -> bool,
    ) -> Result<T, RequestError> {
        let mut next = pin!(next);
        loop {
            let returns = self.returns.load(Ordering::Relaxed);
            tokio::select! {
                biased;
                next = &mut next => return next,
                () = tokio::time::sleep(PATIENCE) => {}
            }
            if is_stuck() && self.returns.load(Ordering::Relaxed) == returns {
                return Err(RequestError::TooManyRequests);
            }
        }
    }

    async fn next<T, F: Future<Output = Result<T, RequestError>>>(
        &self,
        queue: &Mutex<()>,
        take: impl Fn() -> F,
    ) -> Result<T, RequestError> {
        let _first = queue.lock().await;
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.has_room() {
                let taken = take().await?;
                // It may have waited.
                if self.has_room() {
                    return Ok(taken);
                }
            }
            freed.await;
        }
    }
}

impl Share {
    /// Takes so many bytes more, if there are as many left and a reserve.
    pub(super) fn grow(&self, bytes: usize) -> bool {
        let reserve = self.budget.reserve();
        let take = |left: i64| Some(left - bytes as i64).filter(|after| *after >= reserve);
        let is_taken =
            self.budget.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok();
        if is_taken {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        is_taken
    }

    /// Holds so many bytes more, whether there is room or not.
    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.budget.left.fetch_sub(bytes as i64, Ordering::SeqCst);
    }

    /// Holds exactly so many bytes from now on, whether there is room or not.
    pub(super) fn hold(&self, bytes: usize) {
        let held = self.bytes.swap(bytes, Ordering::Relaxed);
        if bytes > held {
            self.budget.left.fetch_sub((bytes - held) as i64, Ordering::SeqCst);
        } else {
            self.give_back(held - bytes);
        }
    }

    /// Splits so many bytes off, or all.
    pub(super) fn split(&self, bytes: usize) -> Share {
        let held = self.bytes.load(Ordering::Relaxed);
        let bytes = bytes.min(held);
        self.bytes.store(held - bytes, Ordering::Relaxed);
        Share { budget: self.budget.clone(), bytes: AtomicUsize::new(bytes) }
    }

    /// Bytes that hold this share for as long as any part of them is there.
    pub(super) fn attach(self, bytes: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        Bytes::from_owner(Counted { bytes, _share: self })
    }

    fn give_back(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let budget = &self.budget;
        budget.left.fetch_add(bytes as i64, Ordering::SeqCst);
        budget.returns.fetch_add(1, Ordering::Relaxed);
        if budget.has_room() {
            budget.freed.notify_waiters();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back(self.bytes.load(Ordering::Relaxed));
    }
}

/// Bytes and what they hold.
struct Counted<B> {
    bytes: B,
    _share: Share,
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Counted<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn left(budget: &Budget) -> i64 {
        budget.left.load(Ordering::SeqCst)
    }

    #[test]
    fn shares_leave_a_reserve_and_give_back_what_they_took() {
        let budget = Budget::new(100);
        let (one, other) = (budget.share(), budget.share());
        assert!(one.grow(60) && other.grow(15));
        assert!(!one.grow(1) && !other.grow(1));
        let part = one.split(10);
        assert!(!other.grow(10));
        drop(part);
        assert!(!other.grow(11) && other.grow(10));
        drop((one, other));
        assert_eq!(left(&budget), 100);
    }

    #[test]
    fn bytes_hold_their_share_until_the_last_part_of_them_is_gone() {
        let budget = Budget::new(100);
        let share = budget.share();
        share.hold(150);
        assert_eq!(left(&budget), -50);
        share.hold(120);
        let bytes = share.split(90).attach(vec![7; 90]);
        drop(share);
        assert_eq!(left(&budget), 10);
        let part = bytes.slice(80..);
        drop(bytes);
        assert_eq!((left(&budget), &part[..]), (10, &[7; 10][..]));
        drop(part);
        assert_eq!(left(&budget), 100);
    }

    #[tokio::test]
    async fn what_finds_no_room_waits_while_any_is_given_back_and_is_refused_then() {
        let budget = Budget::new(100);
        let held = budget.share();
        held.hold(100 + 20);
        assert_eq!(budget.turn().await.err(), Some(RequestError::TooManyRequests));
        assert_eq!(budget.place().await.err(), Some(RequestError::TooManyRequests));

        let waiting = [true, false].map(|reads| {
            let budget = budget.clone();
            tokio::spawn(async move {
                match reads {
                    true => budget.turn().await.map(drop),
                    false => budget.place().await.map(drop),
                }
            })
        });
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE * 4 {
            held.hold(101);
            held.hold(100);
            tokio::task::yield_now().await;
        }
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
        held.hold(99);
        for waiting in waiting {
            assert_eq!(waiting.await.expect("no panic"), Ok(()));
        }
    }

    #[tokio::test]
    async fn an_answer_alone_is_made_however_small_the_budget_is() {
        let budget = Budget::new(0);
        assert!(budget.turn().await.is_ok());
        assert!(!budget.share().grow(1));
    }
}
