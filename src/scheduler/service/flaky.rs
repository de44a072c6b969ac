//! Cases that come and go, and those that are muted or skipped meanwhile.

use super::Services;
use super::answer::{Problem, ok};
use super::ask::{Asked, Part};
use super::runs::now_ms;
use super::views::Cut;
use crate::scheduler::analysis::Stats;
use crate::scheduler::catalog;
use crate::scheduler::client::Client;
use crate::scheduler::keys;
use crate::scheduler::model::{CaseState, TestCase};
use crate::scheduler::view::flaky;
use axum::response::Response;
use std::collections::{BTreeMap, BTreeSet};

/// Histories are read in parts of so many.
const PAGE: i64 = 1_000;

/// The flakiest first.
pub(super) async fn list(
    services: Services,
    Asked(part): Asked<Part>,
) -> Result<Response, Problem> {
    let cut = Cut::new(&part)?;
    let client = services.store().await?;
    let (now, mut cases) = (now_ms(), set_apart(&client).await?);
    let known: BTreeSet<String> = cases.keys().cloned().collect();
    let (histories, revision) =
        histories(&client, |case, stats| known.contains(case) || flaky_alone(case, stats, now))
            .await?;
    for (case, ..) in &histories {
        if !cases.contains_key(case) {
            // One that is deleted has a past all the same.
            if let Ok(found) = catalog::get::<TestCase>(&client, case).await {
                cases.insert(case.clone(), (found.value, found.version));
            }
        }
    }
    Ok(ok(&cut.page(&flaky(&cases, histories, now), revision)))
}

fn flaky_alone(case: &str, stats: &Stats, now: u64) -> bool {
    let history = (case.to_owned(), String::new(), stats.clone());
    !flaky(&BTreeMap::new(), [history], now).is_empty()
}

/// Cases that are muted or skipped, with their versions.
async fn set_apart(client: &Client) -> Result<BTreeMap<String, (TestCase, i64)>, Problem> {
    let (mut found, mut after) = (BTreeMap::new(), None);
    loop {
        let is_apart = |case: &TestCase| !case.is_deleted && case.state != CaseState::Enabled;
        let listed =
            catalog::list::<TestCase>(client, after.as_deref(), PAGE as usize, is_apart).await?;
        found.extend(
            listed
                .items
                .into_iter()
                .map(|case| (case.value.id.clone(), (case.value, case.version))),
        );
        match listed.next {
            Some(next) => after = Some(next),
            None => return Ok(found),
        }
    }
}

type Histories = Vec<(String, String, Stats)>;

/// Histories that are wanted: case, environment and what is known.
async fn histories(
    client: &Client,
    is_wanted: impl Fn(&str, &Stats) -> bool,
) -> Result<(Histories, i64), Problem> {
    let mut found = Vec::new();
    let revision = each_history(client, |case, environment, stats| {
        if is_wanted(&case, &stats) {
            found.push((case, environment, stats));
        }
    });
    let revision = revision.await?;
    Ok((found, revision))
}

/// Tells every history: case, environment (empty for none) and what is known. Returns the revision of the last part.
pub(super) async fn each_history(
    client: &Client,
    mut tell: impl FnMut(String, String, Stats),
) -> Result<i64, Problem> {
    let mut from = keys::STATS.to_owned();
    let end = keys::range_end(keys::STATS);
    loop {
        let page = client.page(&from, &end, PAGE, false).await?;
        for kv in &page.kvs {
            let name = kv.key.strip_prefix(keys::STATS).and_then(|name| name.split_once('/'));
            let (Some((case, environment)), Ok(stats)) =
                (name, serde_json::from_slice::<Stats>(&kv.value))
            else {
                continue;
            };
            let environment = if environment == keys::NO_ENVIRONMENT { "" } else { environment };
            tell(case.to_owned(), environment.to_owned(), stats);
        }
        match page.kvs.last() {
            Some(last) if page.has_more => from = format!("{}\0", last.key),
            _ => return Ok(page.revision),
        }
    }
}
