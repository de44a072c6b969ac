//! What the answers to long ranges may hold in memory, all together.
//!
//! The budget only says whether there is room; an answer that finds none is not refused but read again while it is
//! sent. So it is never waited for, and clients that do not take their answers hurt nobody.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Room for so many bytes.
#[derive(Debug)]
pub(super) struct Budget {
    left: AtomicUsize,
}

/// What one answer holds of a budget; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: Mutex<usize>,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes) })
    }

    pub(super) fn share(self: &Arc<Self>) -> Share {
        Share { budget: self.clone(), bytes: Mutex::new(0) }
    }
}

impl Share {
    /// Takes so many bytes more, if there are as many left.
    pub(super) fn grow(&self, bytes: usize) -> bool {
        let take = |left: usize| left.checked_sub(bytes);
        let order = Ordering::Relaxed;
        let is_taken = self.budget.left.fetch_update(order, order, take).is_ok();
        if is_taken {
            *self.bytes.lock() += bytes;
        }
        is_taken
    }

    /// Gives bytes back that are held no more.
    pub(super) fn shrink(&self, bytes: usize) {
        let mut held = self.bytes.lock();
        let bytes = bytes.min(*held);
        *held -= bytes;
        self.budget.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink(usize::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_take_more_than_there_is_and_give_back_what_they_took() {
        let budget = Budget::new(100);
        let (one, other) = (budget.share(), budget.share());
        assert!(one.grow(60) && other.grow(40));
        assert!(!one.grow(1) && !other.grow(1));
        one.shrink(10);
        assert!(!other.grow(11) && other.grow(10));
        one.shrink(usize::MAX);
        assert!(other.grow(50));
        drop((one, other));
        assert!(budget.share().grow(100));
    }
}
