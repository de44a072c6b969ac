//! Calls that take long, in the log, under the name by which tools of etcd look for them.
//!
//! Neither keys nor values are told: they may be nobody's business. Costs each call two looks at
//! the clock.

use std::time::{Duration, Instant, SystemTime};

/// Calls that last as long as their clients like.
const STREAMS: [&str; 5] = [
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Maintenance/Snapshot",
    "/v3electionpb.Election/Observe",
];

/// From when on a call is slow.
#[derive(Clone, Copy, Debug)]
pub struct Slow {
    pub after: Duration,
}

impl Slow {
    /// Reports a call that has ended, unless it is a stream; on level debug each one.
    pub(super) fn report(self, method: &str, begun: Instant) {
        let spent = begun.elapsed();
        if spent > self.after && !STREAMS.contains(&method) {
            let (start, spent) = times(spent);
            tracing::warn!(
                "start time" = start,
                "time spent" = spent,
                "response type" = method,
                "request stats"
            );
        } else if tracing::enabled!(tracing::Level::DEBUG) && !STREAMS.contains(&method) {
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
