//! The clock beside the state machine: how long each entry takes to be applied, each step of
//! compaction and each installed snapshot; and the log line about entries that take too long.
//!
//! An entry's time ends where that of the next one begins. The engine's own time, for the batch as a
//! whole, is not in it.

use crate::describe;
use crate::machine::{Observer, Operation, Outcome, Response, decode_command};
use crate::metrics::Metrics;
use crate::metrics::histogram::{Histogram, exponential};
use crate::metrics::parts::State;
use crate::mvcc::CompactionProgress;
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Failed and successful entries of one kind.
type Outcomes = [Arc<Histogram>; 2];

/// See the module's comment.
pub struct Stopwatch {
    numbers: State,
    /// By operation.
    applied: Vec<Outcomes>,
    /// What may take no longer without being told.
    warning: Duration,
    began: Instant,
    compaction_began: Option<Instant>,
}

impl Stopwatch {
    /// Warns of entries that take longer than `warning`.
    pub fn new(metrics: &Metrics, warning: Duration) -> Self {
        let times = || Arc::new(Histogram::of_seconds(exponential(0.0001, 2.0, 20)));
        let applied: Vec<Outcomes> = Operation::NAMES.map(|_| [times(), times()]).into();
        let shown = applied.clone();
        metrics.histograms(
            "etcd_server_apply_duration_seconds",
            "Time that entries take to be applied, without the engine's time for their batch.",
            &["op", "success", "version"],
            move || {
                let outcomes = |(name, [failed, done]): (&str, &Outcomes)| {
                    [("false", failed.clone()), ("true", done.clone())].map(|(is_ok, times)| {
                        let labels = [name, is_ok, "v3"].map(str::to_owned);
                        (labels.to_vec(), times)
                    })
                };
                let all = Operation::NAMES.into_iter().zip(&shown).flat_map(outcomes);
                all.filter(|(_, times)| !times.is_empty()).collect()
            },
        );
        Self {
            numbers: metrics.state.clone(),
            applied,
            warning,
            began: Instant::now(),
            compaction_began: None,
        }
    }

    fn warn(&self, took: Duration, command: &Bytes, outcome: &Outcome) {
        self.numbers.slow_applies.add(1);
        // What was applied can be decoded.
        let request = decode_command(command.clone());
        let request = request.map(|(_, request)| describe::command(&request));
        tracing::warn!(
            took = describe::duration(took),
            "expected-duration" = describe::duration(self.warning),
            prefix = "",
            request = request.unwrap_or_default(),
            response = "",
            error = outcome.result.as_ref().err().map(|error| format!("{error:?}")),
            "apply request took too long"
        );
    }
}

impl Observer for Stopwatch {
    fn begins(&mut self) {
        self.began = Instant::now();
    }

    fn applied(&mut self, operation: Operation, command: &Bytes, outcome: &Outcome) {
        let now = Instant::now();
        let took = now.duration_since(self.began);
        self.began = now;
        let is_ok = outcome.result.is_ok();
        self.applied[operation.index()][usize::from(is_ok)].observe_time(took);
        if let Ok(Response::LeaseGrant(granted)) = &outcome.result {
            self.numbers.lease_ttls.observe(granted.ttl.max(0).cast_unsigned());
        }
        if took > self.warning {
            self.warn(took, command, outcome);
        }
    }

    fn compacted(&mut self, progress: CompactionProgress) {
        let now = Instant::now();
        self.numbers.compaction_pauses.observe_time(now.duration_since(self.began));
        let began = *self.compaction_began.get_or_insert(self.began);
        if progress == CompactionProgress::Done {
            self.compaction_began = None;
            self.numbers.compaction_totals.observe_time(now.duration_since(began));
            let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.numbers.compacted_last.set(since_1970.as_secs());
        }
    }

    fn restoring(&mut self, is_under_way: bool) {
        self.numbers.installing.set(u64::from(is_under_way));
    }
}
