//! Time for coordinators and agents: milliseconds since 1970 when the process started, and from
//! there on by a clock that is never set back.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    started: Instant,
    at: Duration,
}

impl Clock {
    pub(super) fn new() -> Self {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), at }
    }

    pub(super) fn now(&self) -> u64 {
        (self.at + self.started.elapsed()).as_millis() as u64
    }

    /// A moment of this process in milliseconds since 1970.
    pub(super) fn at(&self, moment: tokio::time::Instant) -> u64 {
        let ahead = moment.into_std().saturating_duration_since(self.started);
        (self.at + ahead).as_millis() as u64
    }

    /// How long it takes until a time.
    pub(super) fn until(&self, at: u64) -> Duration {
        Duration::from_millis(at).saturating_sub(self.at + self.started.elapsed())
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
