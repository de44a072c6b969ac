//! Where work goes that takes too long for a connection's task: reads of many keys, hashes, long JSON.
//!
//! A few at a time: processors cannot do more at once, and each thread that has worked keeps memory of its own.

use crate::error::RequestError;
use std::sync::LazyLock;
use std::thread::available_parallelism;
use tokio::sync::Semaphore;

/// Works at the same time for each processor: some wait for the disk.
const PER_PROCESSOR: usize = 4;

static TURNS: LazyLock<Semaphore> = LazyLock::new(|| {
    let processors = available_parallelism().map_or(1, usize::from);
    Semaphore::new(processors * PER_PROCESSOR)
});

/// Does the work on another thread, when it is its turn.
///
/// # Errors
/// `Stopped` in a node that stops.
pub(super) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RequestError> {
    let turn = TURNS.acquire().await.map_err(|_| RequestError::Stopped)?;
    // Whoever stops to wait does not stop the work, so the turn ends with the work.
    let done = tokio::task::spawn_blocking(move || {
        let result = work();
        drop(turn);
        result
    });
    done.await.map_err(|_| RequestError::Stopped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::task::JoinSet;

    #[tokio::test]
    async fn no_more_work_is_done_at_once_than_there_are_turns() {
        let most = available_parallelism().map_or(1, usize::from) * PER_PROCESSOR;
        let (running, highest) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut works = JoinSet::new();
        for n in 0..most * 10 {
            let (running, highest) = (running.clone(), highest.clone());
            works.spawn(apart(move || {
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
}
