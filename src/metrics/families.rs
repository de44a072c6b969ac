//! Families of the page as the registry wants them: those read when somebody asks, and those of
//! histograms.

use super::histogram::Histogram;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    self, Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType, Quantile, Summary,
};
use std::collections::HashMap;
use std::sync::Arc;

/// Labels' values, in the order of the family's names, and the number that they have.
pub type Sample = (Vec<String>, f64);

/// How a family is described.
pub(super) struct About {
    desc: Desc,
    kind: MetricType,
    /// In the order of samples; printed in alphabetical order.
    labels: &'static [&'static str],
}

impl About {
    pub(super) fn new(
        kind: MetricType,
        name: &str,
        help: &str,
        labels: &'static [&'static str],
    ) -> prometheus::Result<Self> {
        let names = labels.iter().map(|label| (*label).to_owned()).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), names, HashMap::new())?;
        Ok(Self { desc, kind, labels })
    }

    fn family(&self, metrics: Vec<Metric>) -> Vec<MetricFamily> {
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(self.kind);
        family.set_metric(metrics);
        vec![family]
    }

    fn metric(&self, values: &[String]) -> Metric {
        let mut pairs: Vec<LabelPair> =
            self.labels.iter().zip(values).map(|(name, value)| label(name, value)).collect();
        pairs.sort_by(|a, b| a.name().cmp(b.name()));
        Metric::from_label(pairs)
    }
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

/// A family whose numbers exist elsewhere, and are read when the page is asked for.
pub(super) struct Reading {
    pub(super) about: About,
    pub(super) read: Box<dyn Fn() -> Vec<Sample> + Send + Sync>,
}

impl Collector for Reading {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.about.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metric = |(values, value): Sample| {
            let mut metric = self.about.metric(&values);
            match self.about.kind {
                MetricType::COUNTER => {
                    let mut counter = Counter::default();
                    counter.set_value(value);
                    metric.set_counter(counter);
                }
                MetricType::SUMMARY => metric.set_summary(no_observations()),
                _ => {
                    let mut gauge = Gauge::default();
                    gauge.set_value(value);
                    metric.set_gauge(gauge);
                }
            }
            metric
        };
        self.about.family((self.read)().into_iter().map(metric).collect())
    }
}

/// The summary of something that never happens.
fn no_observations() -> Summary {
    let quantile = |position: f64| {
        let mut quantile = Quantile::default();
        quantile.set_quantile(position);
        quantile
    };
    let mut summary = Summary::default();
    summary.set_quantile([0.0, 0.25, 0.5, 0.75, 1.0].map(quantile).into());
    summary
}

/// A histogram with the values of its family's labels.
pub type Labelled = (Vec<String>, Arc<Histogram>);

/// A family of histograms, listed when the page is asked for.
pub(super) struct Histograms {
    pub(super) about: About,
    pub(super) list: Box<dyn Fn() -> Vec<Labelled> + Send + Sync>,
}

impl Collector for Histograms {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.about.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metric = |(values, histogram): Labelled| {
            let mut metric = self.about.metric(&values);
            metric.set_histogram(shown(&histogram));
            metric
        };
        self.about.family((self.list)().into_iter().map(metric).collect())
    }
}

fn shown(histogram: &Histogram) -> proto::Histogram {
    let counted = histogram.counted();
    let bucket = |(bound, count): (f64, u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut shown = proto::Histogram::default();
    shown.set_bucket(counted.cumulative.into_iter().map(bucket).collect());
    shown.set_sample_count(counted.count);
    shown.set_sample_sum(counted.sum);
    shown
}
