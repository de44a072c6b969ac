//! The page for collectors of metrics, in Prometheus' form.

use super::Services;
use super::answer::Problem;
use crate::metrics::text;
use crate::scheduler::coordinator::{RunStatus, WorkerInfo};
use crate::scheduler::keys;
use crate::scheduler::model::{Claim, RunSpec};
use crate::scheduler::store::Kv;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus::core::Collector as _;
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// What is counted here, and, from whoever leads, what the store holds.
pub(super) async fn page(services: Services) -> Result<Response, Problem> {
    let numbers = &services.inner.numbers;
    let mut families = numbers.families();
    if numbers.is_leading() {
        families.extend(in_store(&services).await?);
    }
    Ok(([(CONTENT_TYPE, text::CONTENT_TYPE)], text::write(&families)).into_response())
}

fn parse<T: DeserializeOwned + Default>(kv: &Kv) -> T {
    serde_json::from_slice(&kv.value).unwrap_or_default()
}

async fn in_store(services: &Services) -> Result<Vec<MetricFamily>, Problem> {
    let client = services.store().await?;
    let (open, revision) = client.prefix(keys::OPEN, 0).await?;
    let runs = Gauge::new("open_runs", "Runs that have not ended.", &["queue", "state"])?;
    let tasks = Gauge::new("open_tasks", "Tasks of these that have not ended.", &["queue"])?;
    let given =
        Gauge::new("given_tasks", "Of these, tasks in claims of workers or people.", &["queue"])?;
    let mut queues: BTreeMap<String, String> = BTreeMap::new();
    for run in open.iter().filter_map(|kv| kv.key.strip_prefix(keys::OPEN)) {
        let spec = client.get_at(&keys::run(run), revision).await?;
        let queue = spec.as_ref().map(parse::<RunSpec>).unwrap_or_default().queue;
        let status = client.get_at(&keys::status(run), revision).await?;
        let status = status.as_ref().map(parse::<RunStatus>).unwrap_or_default();
        let state = if status.state.is_empty() { "accepted" } else { &*status.state };
        runs.add(&[&queue, state], 1);
        tasks.add(&[&queue], status.totals.total.saturating_sub(status.totals.ended()));
        queues.insert(run.to_owned(), queue);
    }
    for kv in client.prefix(keys::CLAIMS, revision).await?.0 {
        let claim: Claim = parse(&kv);
        let count = claim.items.iter().map(|item| u64::from(item.count())).sum();
        given.add(&[queues.get(&claim.run).map_or("", |queue| queue)], count);
    }
    let workers = Gauge::new("workers", "Workers that are there.", &["state"])?;
    let slots = Gauge::new("slots", "Their slots.", &["state"])?;
    for kv in client.prefix(keys::WORKERS, revision).await?.0 {
        let info: WorkerInfo = parse(&kv);
        let state = match (info.draining, &info.resting) {
            (true, _) => "draining",
            (false, Some(_)) => "resting",
            (false, None) => "serving",
        };
        workers.add(&[state], 1);
        slots.add(&[state], info.max_task_num.into());
    }
    let tags = Gauge::new("tags_held", "Units of tags that somebody holds.", &[])?;
    tags.add(&[], client.keys(keys::TAGS, revision).await?.0.len() as u64);
    Ok([runs, tasks, given, workers, slots, tags].iter().flat_map(|one| one.0.collect()).collect())
}

struct Gauge(IntGaugeVec);

impl Gauge {
    fn new(name: &str, help: &str, labels: &[&str]) -> Result<Self, Problem> {
        let opts = Opts::new(format!("quoin_scheduler_{name}"), help);
        let made = IntGaugeVec::new(opts, labels);
        Ok(Self(made.map_err(|error| Problem::new(500, error.to_string()))?))
    }

    fn add(&self, labels: &[&str], count: u64) {
        self.0.with_label_values(labels).add(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
