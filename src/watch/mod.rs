//! Watching keys: from applied commits to the messages of each watch stream.
//!
//! A watch is one number, the next revision that it needs. The *hub* (one task) feeds
//! the watches that need exactly the next revision, as the [`registry`] knows them, through
//! one bounded queue per stream. All other watches read history by themselves, in their
//! stream's own time, until they have caught up and are fed again: at their start, after their queue
//! was full, after the hub itself lost commits, after a snapshot. So one slow stream costs nobody else
//! anything, and nothing here grows with what a client leaves unread.
//!
//! Pure: [`catch_up`], [`index`], [`message`], [`queue`], [`registry`], [`session`] (one stream's brain).
//! Shell: [`hub`] and [`stream`]. gRPC itself is `server::watch`.

pub mod catch_up;
pub mod hub;
pub mod index;
pub mod message;
pub mod queue;
pub mod registry;
pub mod session;
pub mod stream;

#[cfg(test)]
mod scripts;
#[cfg(test)]
mod store;
#[cfg(test)]
mod tests;

pub use hub::{Counts, Handle, Hub};
pub use stream::WatchStream;

use std::time::Duration;

/// Bounds on memory and on the length of a step.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Events waiting for one stream. Enough for some 10 ms of a busy store, so that a stream which is merely
    /// descheduled does not have to read history; small enough for 10,000 streams to lag at once.
    pub queue_bytes_max: usize,
    /// Commits waiting for the hub. When it is that far behind, they are dropped and
    /// everybody reads history, which is bounded.
    pub inbox_bytes_max: usize,
    /// Pairs of watch and event in one revision that are handed out at once (24 bytes each).
    pub matches_max: usize,
    /// Events, and bytes of them, in one step of reading history. Whole revisions: one may exceed them.
    pub history_events_max: usize,
    pub history_bytes_max: usize,
}

/// What an operator may set for watch streams.
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// Time between progress notifications of watches that asked for them, before jitter; zero
    /// stands for ten minutes, and less than 100 ms is raised to that.
    pub progress_interval: Duration,
    /// A response with `fragment` set is split when it is not smaller: what a client that may send
    /// requests of the maximum size is sure to be able to receive.
    pub fragment_bytes: usize,
    /// Streams that insist on a leader live three of these without one.
    pub election_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        const KIB: usize = 1024;
        Self {
            queue_bytes_max: 512 * KIB,
            inbox_bytes_max: 64 * KIB * KIB,
            matches_max: 1 << 20,
            history_events_max: 1000,
            history_bytes_max: 512 * KIB,
        }
    }
}

impl Default for StreamOptions {
    /// etcd's defaults.
    fn default() -> Self {
        Self {
            progress_interval: Duration::from_secs(600),
            fragment_bytes: 2 * 1024 * 1024,
            election_timeout: Duration::from_secs(1),
        }
    }
}
