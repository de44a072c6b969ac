//! Calls that take long, in the log, under the name by which tools of etcd look for them.
//!
//! Neither keys nor values are told: they may be nobody's business. Costs each call two looks at
//! the clock.

use std::time::{Duration, Instant, SystemTime};

/// From when on a call is slow.
#[derive(Clone, Copy, Debug)]
pub struct Slow {
    pub after: Duration,
}

impl Slow {
    /// Reports a unary call that has ended; on level debug each one.
    pub(super) fn report(self, method: &str, begun: Instant) {
        let spent = begun.elapsed();
        if spent > self.after {
            let (start, spent) = times(spent);
            tracing::warn!(
                "start time" = start,
                "time spent" = spent,
                "response type" = method,
                "request stats"
            );
        } else if tracing::enabled!(tracing::Level::DEBUG) {
            let (start, spent) = times(spent);
            tracing::debug!(
                "start time" = start,
                "time spent" = spent,
                "response type" = method,
                "request stats"
            );
        }
    }
}

fn times(spent: Duration) -> (String, String) {
    let start = SystemTime::now().checked_sub(spent).unwrap_or(SystemTime::UNIX_EPOCH);
    (humantime::format_rfc3339_micros(start).to_string(), format!("{spent:?}"))
}
