//! Where work goes that takes too long for a connection's task: reads of many keys, hashes, long JSON.
//!
//! A few at a time: processors cannot do more at once, and each thread that has worked keeps memory of its own. What
//! is done in pieces does not wait for what is done at once: each kind of work has turns of its own, in the order in
//! which they were asked for.

use crate::error::RequestError;
use std::sync::LazyLock;
use std::thread::available_parallelism;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How long work takes, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A few milliseconds, for a few hundred kilobytes.
    Piece,
    /// As long as it is to walk over a range; what it holds has been found to have room.
    Walk,
    /// As long as it is, for all of what it makes.
    Whole,
}

/// Works at the same time for each processor: some wait for the disk.
const WALKS: usize = 2;
const PIECES: usize = 2;
const WHOLES: usize = 4;

static TURNS: LazyLock<[Semaphore; 3]> = LazyLock::new(|| {
    let processors = available_parallelism().map_or(1, usize::from);
    [PIECES, WALKS, WHOLES].map(|turns| Semaphore::new(processors * turns))
});

/// The right to do one work.
pub(super) struct Turn {
    _permit: SemaphorePermit<'static>,
}

/// Waits for a turn.
///
/// # Errors
/// `Stopped` in a node that stops.
pub(super) async fn turn(kind: Kind) -> Result<Turn, RequestError> {
    let turn = TURNS[kind as usize].acquire().await;
    turn.map(|_permit| Turn { _permit }).map_err(|_| RequestError::Stopped)
}

impl Turn {
    /// Does the work on another thread.
    ///
    /// # Errors
    /// `Stopped` in a node that stops.
    pub(super) async fn apart<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RequestError> {
        // Whoever stops to wait does not stop the work, so the turn ends with the work.
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(self);
            result
        });
        done.await.map_err(|_| RequestError::Stopped)
    }
}

/// Does the work on another thread, when it is its turn.
///
/// # Errors
/// `Stopped` in a node that stops.
pub(super) async fn apart<T: Send + 'static>(
    kind: Kind,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RequestError> {
    turn(kind).await?.apart(work).await
}

/// Like [`apart`], for a caller that may look after it late or never: as the answers of streams do, which are asked to go
/// on only when the client has room for them. A turn that such a one had been given would be lost to all others.
///
/// # Errors
/// `Stopped` in a node that stops.
pub(super) async fn apart_unattended<T: Send + 'static>(
    kind: Kind,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RequestError> {
    tokio::spawn(apart(kind, work)).await.map_err(|_| RequestError::Stopped)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;
    use tokio::task::JoinSet;

    #[tokio::test]
    async fn no_more_work_is_done_at_once_than_there_are_turns() {
        let most = available_parallelism().map_or(1, usize::from) * WALKS;
        let (running, highest) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut works = JoinSet::new();
        for n in 0..most * 10 {
            let (running, highest) = (running.clone(), highest.clone());
            works.spawn(apart(Kind::Walk, move || {
                highest.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                running.fetch_sub(1, Ordering::SeqCst);
                n
            }));
        }
        let mut done: Vec<usize> = works.join_all().await.into_iter().map(Result::unwrap).collect();
        done.sort_unstable();
        assert_eq!(done, (0..most * 10).collect::<Vec<_>>());
        assert!(highest.load(Ordering::SeqCst) <= most);
    }

    #[tokio::test]
    async fn pieces_do_not_wait_for_what_is_done_at_once() {
        let most = available_parallelism().map_or(1, usize::from) * WHOLES;
        let mut works = JoinSet::new();
        let mut ends = vec![];
        for _ in 0..most * 2 {
            let (end, until) = mpsc::channel::<()>();
            ends.push(end);
            works.spawn(apart(Kind::Whole, move || until.recv().is_err()));
        }
        // All turns are taken, and as many wait for one.
        while TURNS[Kind::Whole as usize].available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(apart(Kind::Piece, || 1).await, Ok(1));
        assert_eq!(apart(Kind::Walk, || 2).await, Ok(2));
        // Whoever is not looked after takes no turn away.
        let mut left_alone: Vec<_> =
            (0..most).map(|n| Box::pin(apart_unattended(Kind::Piece, move || n))).collect();
        for call in &mut left_alone {
            assert_eq!(call.now_or_never(), None);
        }
        let next = tokio::time::timeout(Duration::from_secs(20), apart(Kind::Piece, || 3)).await;
        assert_eq!(next, Ok(Ok(3)));
        drop(ends);
        assert!(works.join_all().await.into_iter().all(|result| result == Ok(true)));
    }
}
