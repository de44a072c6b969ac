//! What a member counts and measures about itself, and the page that shows it.
//!
//! Recording is the business of the part that something happens in: it holds a group of [`parts`], [`services`] or [`outside`],
//! or [`calls::Calls`], and adds to plain atomics, which costs neither lock nor memory. What is known
//! elsewhere anyway is not counted a second time but read when somebody asks for the page
//! ([`Metrics::gauge`] and its like). Names, types and labels are etcd's; `docs/compatibility.md` says
//! where a number means something else here. It leaves out who serves the page.

pub mod calls;
mod clients;
mod families;
pub mod histogram;
pub mod outside;
pub mod parts;
pub mod process;
pub mod services;
pub mod text;

pub use families::{Labelled, Sample};

use calls::Calls;
use families::{About, Histograms, Reading};
use histogram::Histogram;
use outside::{Peers, Probes};
use parts::{Log, Number, Proposals, State, Store};
use prometheus::Registry;
use prometheus::core::Collector;
use prometheus::proto::MetricType;
use services::{Reads, Snapshots, Watching};
use std::sync::Arc;

/// All that a member records, and the registry of the families that its page consists of.
pub struct Metrics {
    registry: Registry,
    pub calls: Arc<Calls>,
    pub log: Log,
    pub peers: Peers,
    pub probes: Probes,
    pub proposals: Proposals,
    pub reads: Reads,
    pub snapshots: Snapshots,
    pub state: State,
    pub store: Store,
    pub watching: Watching,
    /// Answered requests for the page, and those under way.
    pub pages: Number,
    pub pages_under_way: Number,
}

const DISTINCT: &str = "names are well formed and distinct, as a test shows by making the page";

impl Metrics {
    /// With `extensive`, the time that each call takes is recorded too.
    pub fn new(extensive: bool) -> Self {
        let metrics = Self {
            registry: Registry::new(),
            calls: Arc::new(Calls::new(extensive)),
            log: Log::default(),
            peers: Peers::default(),
            probes: Probes::default(),
            proposals: Proposals::default(),
            reads: Reads::default(),
            snapshots: Snapshots::default(),
            state: State::default(),
            store: Store::default(),
            watching: Watching::default(),
            pages: Number::default(),
            pages_under_way: Number::default(),
        };
        metrics.calls.register(&metrics);
        metrics.log.register(&metrics);
        metrics.peers.register(&metrics);
        metrics.probes.register(&metrics);
        metrics.proposals.register(&metrics);
        metrics.reads.register(&metrics);
        metrics.snapshots.register(&metrics);
        metrics.state.register(&metrics);
        metrics.store.register(&metrics);
        metrics.watching.register(&metrics);
        process::register(&metrics);
        metrics.register_own();
        metrics
    }

    /// What etcd's library tells of its own page. Here it never fails.
    fn register_own(&self) {
        let under_way = self.pages_under_way.gauge();
        self.gauge(
            "promhttp_metric_handler_requests_in_flight",
            "Requests for this page that are being answered.",
            under_way,
        );
        let pages = self.pages.reader();
        self.counters(
            "promhttp_metric_handler_requests_total",
            "Requests for this page that were answered.",
            &["code"],
            move || {
                let answered = [("200", pages() as f64), ("500", 0.0), ("503", 0.0)];
                answered.map(|(code, count)| (vec![code.to_owned()], count)).into()
            },
        );
    }

    /// The page as it stands now.
    pub fn page(&self) -> String {
        text::write(&self.registry.gather())
    }

    fn add(&self, collector: impl Collector + 'static) {
        self.registry.register(Box::new(collector)).expect(DISTINCT);
    }

    fn family(
        &self,
        kind: MetricType,
        name: &str,
        help: &str,
        labels: &'static [&'static str],
        read: impl Fn() -> Vec<Sample> + Send + Sync + 'static,
    ) {
        let about = About::new(kind, name, help, labels).expect(DISTINCT);
        self.add(Reading { about, read: Box::new(read) });
    }

    /// A number that goes up and down.
    pub fn gauge(&self, name: &str, help: &str, read: impl Fn() -> f64 + Send + Sync + 'static) {
        self.gauges(name, help, &[], move || vec![(vec![], read())]);
    }

    /// A number that only grows.
    pub fn counter(&self, name: &str, help: &str, read: impl Fn() -> u64 + Send + Sync + 'static) {
        self.counters(name, help, &[], move || vec![(vec![], read() as f64)]);
    }

    /// Numbers that go up and down, told apart by labels. Without any, the page leaves the name out.
    pub fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &'static [&'static str],
        read: impl Fn() -> Vec<Sample> + Send + Sync + 'static,
    ) {
        self.family(MetricType::GAUGE, name, help, labels, read);
    }

    /// Numbers that only grow, told apart by labels. Without any, the page leaves the name out.
    pub fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &'static [&'static str],
        read: impl Fn() -> Vec<Sample> + Send + Sync + 'static,
    ) {
        self.family(MetricType::COUNTER, name, help, labels, read);
    }

    /// A summary of something that never happens here.
    pub fn empty_summary(&self, name: &str, help: &str) {
        self.family(MetricType::SUMMARY, name, help, &[], || vec![(vec![], 0.0)]);
    }

    pub fn histogram(&self, name: &str, help: &str, histogram: Arc<Histogram>) {
        self.histograms(name, help, &[], move || vec![(vec![], histogram.clone())]);
    }

    /// Histograms that are told apart by labels. Without any, the page leaves the name out.
    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &'static [&'static str],
        list: impl Fn() -> Vec<Labelled> + Send + Sync + 'static,
    ) {
        let about = About::new(MetricType::HISTOGRAM, name, help, labels).expect(DISTINCT);
        self.add(Histograms { about, list: Box::new(list) });
    }
}
