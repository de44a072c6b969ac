//! Cases by the time that they take, and where that is going.

use super::Services;
use super::answer::{Problem, ok};
use super::ask::{Asked, Part};
use super::views::Cut;
use crate::scheduler::analysis::{Stats, Trend};
use crate::scheduler::view::read::each_history;
use axum::response::Response;
use serde::Serialize;
use std::cmp::Reverse;

/// So many are told at all: nobody reads on to the quick ones.
const SLOW_MAX: usize = 1_000;

/// A case in an environment that has run.
#[derive(Debug, Serialize)]
struct Slow {
    case: String,
    /// Empty where its runs name none.
    environment: String,
    n: u64,
    p50: u64,
    p90: u64,
    durations: Vec<u64>,
    trend: Trend,
}

/// The slowest first, by what nine of ten of the last tasks did not exceed.
pub(super) async fn list(
    services: Services,
    Asked(part): Asked<Part>,
) -> Result<Response, Problem> {
    let cut = Cut::new(&part)?;
    let mut found: Vec<(String, String, Stats)> = Vec::new();
    let client = services.store().await?;
    let revision = each_history(&client, |case, environment, stats| {
        if stats.n > 0 && !stats.durations.is_empty() {
            found.push((case, environment, stats));
        }
        if found.len() > SLOW_MAX * 2 {
            keep_slowest(&mut found);
        }
    });
    let revision = revision.await?;
    keep_slowest(&mut found);
    let show = |(case, environment, stats): (String, String, Stats)| {
        let trend = stats.trend();
        let Stats { n, p50, p90, durations, .. } = stats;
        Slow { case, environment, n, p50, p90, durations, trend }
    };
    let shown: Vec<Slow> = found.into_iter().map(show).collect();
    Ok(ok(&cut.page(&shown, revision)))
}

fn keep_slowest(found: &mut Vec<(String, String, Stats)>) {
    found.sort_by_key(|(.., stats)| Reverse(stats.p90));
    found.truncate(SLOW_MAX);
}
