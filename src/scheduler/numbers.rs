//! Numbers of a scheduler for collectors of metrics: what it did while it led, and what it wants now.
//!
//! A process that waits to lead shows zeros, so that sums over all schedulers are right.

use super::coordinator::{Coordinator, Counts};
use super::model::{Labels, Status};
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use std::time::Duration;

/// What a scheduler shows of itself.
#[derive(Debug)]
pub struct Numbers {
    registry: Registry,
    leading: IntGauge,
    claims: IntCounter,
    tasks: IntCounter,
    attempts: IntCounterVec,
    late: IntCounter,
    runs: IntCounterVec,
    efficiency: Histogram,
    transactions: Histogram,
    wanted: IntGaugeVec,
}

/// How near runs come to the least time: most are beyond nine tenths.
const EFFICIENCIES: [f64; 9] = [0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0];
/// Seconds: a commit of three members takes a millisecond or two.
const SECONDS: [f64; 12] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 5.0];
const DISTINCT: &str = "names are well formed and distinct, as a test shows by making the page";

impl Default for Numbers {
    fn default() -> Self {
        Self::new()
    }
}

impl Numbers {
    pub fn new() -> Self {
        let opts = |name: &str, help: &str| Opts::new(format!("quoin_scheduler_{name}"), help);
        let counter = |name, help| IntCounter::with_opts(opts(name, help)).expect(DISTINCT);
        let counters =
            |name, help, label| IntCounterVec::new(opts(name, help), &[label]).expect(DISTINCT);
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
            Histogram::with_opts(opts).expect(DISTINCT)
        };
        let leading = opts("leading", "1 for the scheduler that gives tasks out, 0 for others.");
        let wanted = "Slots that tasks could use which wait for nothing else, by what they require of a worker.";
        let numbers = Self {
            registry: Registry::new(),
            leading: IntGauge::with_opts(leading).expect(DISTINCT),
            claims: counter("claims_total", "Claims that this leader gave out."),
            tasks: counter("tasks_given_total", "Tasks in these claims."),
            attempts: counters(
                "attempts_total",
                "Ends of attempts that this leader counted; lost are those whose worker was.",
                "status",
            ),
            late: counter(
                "late_results_total",
                "Bundles of results that came when others had their claim: they do not count.",
            ),
            runs: counters("runs_total", "Runs that ended under this leader.", "state"),
            efficiency: histogram(
                "run_efficiency_ratio",
                "Of runs that ended, the least time in which they could be done by the time that they took.",
                &EFFICIENCIES,
            ),
            transactions: histogram(
                "transaction_duration_seconds",
                "How long the store took for a transaction of this leader.",
                &SECONDS,
            ),
            wanted: IntGaugeVec::new(opts("wanted_slots", wanted), &["requires"]).expect(DISTINCT),
        };
        for status in Status::ALL.into_iter().filter(|status| status.is_terminal()) {
            numbers.attempts.with_label_values(&[status.word()]);
        }
        numbers.register();
        numbers
    }

    fn register(&self) {
        let all: [Box<dyn Collector>; 9] = [
            Box::new(self.leading.clone()),
            Box::new(self.claims.clone()),
            Box::new(self.tasks.clone()),
            Box::new(self.attempts.clone()),
            Box::new(self.late.clone()),
            Box::new(self.runs.clone()),
            Box::new(self.efficiency.clone()),
            Box::new(self.transactions.clone()),
            Box::new(self.wanted.clone()),
        ];
        all.into_iter().for_each(|one| self.registry.register(one).expect(DISTINCT));
    }

    pub fn families(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    pub fn is_leading(&self) -> bool {
        self.leading.get() == 1
    }

    /// It leads until what this gives is dropped.
    pub(super) fn lead(&self) -> Leading<'_> {
        self.leading.set(1);
        Leading(self)
    }

    /// What happened, and what is wanted now.
    pub(super) fn see(&self, coordinator: &mut Coordinator) {
        let Counts { claims, tasks, attempts, late, runs } = coordinator.take_counts();
        self.claims.inc_by(claims);
        self.tasks.inc_by(tasks);
        self.late.inc_by(late);
        for (status, count) in attempts {
            self.attempts.with_label_values(&[status.word()]).inc_by(count);
        }
        for (state, efficiency) in runs {
            self.runs.with_label_values(&[&*state]).inc();
            self.efficiency.observe(efficiency);
        }
        self.wanted.reset();
        for wanted in coordinator.wanted_slots() {
            let slots = i64::try_from(wanted.slots).unwrap_or(i64::MAX);
            self.wanted.with_label_values(&[&*shown(&wanted.requires)]).add(slots);
        }
    }

    pub(super) fn transaction(&self, took: Duration) {
        self.transactions.observe(took.as_secs_f64());
    }
}

fn shown(requires: &Labels) -> String {
    let of_label = |(name, value): (&String, &String)| match value.is_empty() {
        true => name.clone(),
        false => format!("{name}={value}"),
    };
    requires.iter().map(of_label).collect::<Vec<_>>().join(",")
}

/// See [`Numbers::lead`].
pub(super) struct Leading<'n>(&'n Numbers);

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        self.0.leading.set(0);
        self.0.wanted.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::text;

    #[test]
    fn all_numbers_are_on_the_page_while_one_leads() {
        let numbers = Numbers::new();
        let leading = numbers.lead();
        numbers.transaction(Duration::from_millis(3));
        let page = text::write(&numbers.families());
        for line in [
            "quoin_scheduler_leading 1",
            "quoin_scheduler_tasks_given_total 0",
            "quoin_scheduler_attempts_total{status=\"timed out\"} 0",
            "quoin_scheduler_transaction_duration_seconds_bucket{le=\"0.004\"} 1",
            "quoin_scheduler_run_efficiency_ratio_count 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line}: {page}");
        }
        drop(leading);
        assert!(!numbers.is_leading());
    }

    #[test]
    fn labels_are_shown_in_one_line() {
        let labels = [("@commands", ""), ("os", "linux")].map(|(n, v)| (n.into(), v.into()));
        assert_eq!(shown(&labels.into()), "@commands,os=linux");
    }
}
