//! Histograms of fixed buckets: an observation is two additions, without lock or memory of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts observations by size. What is observed is a whole number of units: nanoseconds where it
/// is a time, seconds where it is a lease's TTL.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds as the page shows them, ascending.
    bounds: Box<[f64]>,
    /// The same in units.
    limits: Box<[u64]>,
    /// What one unit is worth on the page.
    unit: f64,
    /// One more than there are bounds: the last holds what is above all of them.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// What a histogram held at one moment.
#[derive(Debug, PartialEq)]
pub struct Counted {
    /// Bound and how many were not above it.
    pub cumulative: Vec<(f64, u64)>,
    pub count: u64,
    pub sum: f64,
}

/// `count` bounds, each `factor` times the one before.
pub fn exponential(first: f64, factor: f64, count: i32) -> Vec<f64> {
    (0..count).map(|power| first * factor.powi(power)).collect()
}

impl Histogram {
    /// Of times, shown in seconds.
    pub fn of_seconds(bounds: Vec<f64>) -> Self {
        Self::new(bounds, 1e-9)
    }

    /// Of times, shown in milliseconds.
    pub fn of_milliseconds(bounds: Vec<f64>) -> Self {
        Self::new(bounds, 1e-6)
    }

    /// Of whole numbers.
    pub fn of_numbers(bounds: Vec<f64>) -> Self {
        Self::new(bounds, 1.0)
    }

    fn new(bounds: Vec<f64>, unit: f64) -> Self {
        Self {
            limits: bounds.iter().map(|bound| (bound / unit).round() as u64).collect(),
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            bounds: bounds.into(),
            unit,
            sum: AtomicU64::new(0),
        }
    }

    pub fn observe(&self, units: u64) {
        let bucket = self.limits.partition_point(|limit| *limit < units);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(units, Ordering::Relaxed);
    }

    pub fn observe_time(&self, time: Duration) {
        self.observe(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| count.load(Ordering::Relaxed) == 0)
    }

    pub fn counted(&self) -> Counted {
        let mut count = 0;
        let mut cumulative = Vec::with_capacity(self.bounds.len());
        for (position, in_bucket) in self.counts.iter().enumerate() {
            count += in_bucket.load(Ordering::Relaxed);
            cumulative.extend(self.bounds.get(position).map(|bound| (*bound, count)));
        }
        Counted { cumulative, count, sum: self.sum.load(Ordering::Relaxed) as f64 * self.unit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::of_seconds(exponential(0.001, 2.0, 3));
        for micros in [0, 1_000, 1_001, 4_000, 4_001, 9_000_000] {
            histogram.observe_time(Duration::from_micros(micros));
        }
        let Counted { cumulative, count, sum } = histogram.counted();
        assert_eq!(cumulative, [(0.001, 2), (0.002, 3), (0.004, 4)]);
        assert_eq!(count, 6);
        assert!((sum - 9.010_002).abs() < 1e-9, "{sum}");
        assert!(!histogram.is_empty());
        assert!(Histogram::of_numbers(vec![1.0]).is_empty());
    }

    #[test]
    fn milliseconds_are_shown_as_such() {
        let histogram = Histogram::of_milliseconds(exponential(0.5, 2.0, 2));
        histogram.observe_time(Duration::from_micros(700));
        let counted = histogram.counted();
        assert_eq!(counted.cumulative, [(0.5, 0), (1.0, 1)]);
        assert!((counted.sum - 0.7).abs() < 1e-9);
    }
}
