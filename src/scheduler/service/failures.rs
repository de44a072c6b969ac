//! What a run's failures come to: groups of those that are alike, what differs from another run, and
//! the run's report as a file.

use super::Services;
use super::answer::{Problem, ok};
use super::ask::{Asked, InPath};
use super::runs::now_ms;
use crate::scheduler::analysis::{self, FlakeRule, Stats, Trial};
use crate::scheduler::client::Client;
use crate::scheduler::keys;
use crate::scheduler::record::{Past, Report};
use crate::scheduler::view::{FailedLane, FailureKind, RunBook, read};
use crate::scheduler::{junit, report};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::future::try_join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

/// Groups that are told.
const GROUPS_MAX: usize = 100;
/// Lanes of a group whose past is looked at.
const PASTS_MAX: usize = 5;

fn cut_off<E>(_: E) -> Problem {
    Problem::new(500, "reading the run was cut off")
}

/// Failures that are alike, the largest group first, each with what it looks like.
pub(super) async fn groups(
    services: Services,
    InPath(run): InPath<String>,
) -> Result<Response, Problem> {
    let client = services.store().await?;
    let found = services.shelved(&run).await?;
    let revision = found.book.revision;
    let looking = found.clone();
    spawn_blocking(move || looking.groups().len()).await.map_err(cut_off)?;
    // They are known by now.
    let groups = found.groups();
    let total = groups.len();
    let mut items = Vec::new();
    let known = known_pasts(&client, &run).await?;
    for group in groups.iter().take(GROUPS_MAX) {
        let lanes = group.lanes.iter().take(PASTS_MAX);
        let pasts = lanes.map(async |lane| match known.get(&lane.lane) {
            Some(past) => Ok(*past == Past::Flaky),
            None => is_flaky(&client, lane).await,
        });
        let is_flaky = try_join_all(pasts).await?.into_iter().any(|is_flaky| is_flaky);
        let mut shown = serde_json::to_value(group).unwrap_or_default();
        let kind = FailureKind::of(&group.by_status, is_flaky);
        shown["kind"] = serde_json::to_value(kind).unwrap_or_default();
        shown["is_flaky"] = is_flaky.into();
        items.push(shown);
    }
    Ok(ok(&json!({"items": items, "groups": total, "revision": revision})))
}

/// What was known of failures, by lane, when the run had ended: what became of the cases since says
/// nothing of it.
async fn known_pasts(
    client: &Client,
    run: &str,
) -> Result<BTreeMap<u32, Past>, etcd_client::Error> {
    let report = client.get(&format!("{}{run}", keys::REPORTS)).await?;
    let report = report.and_then(|kv| serde_json::from_slice::<Report>(&kv.value).ok());
    let failures = report.map(|report| report.failures).unwrap_or_default();
    Ok(failures.into_iter().map(|failure| (failure.lane, failure.past)).collect())
}

async fn is_flaky(client: &Client, lane: &FailedLane) -> Result<bool, etcd_client::Error> {
    let found = client.get(&keys::stats(&lane.case, &lane.environment)).await?;
    let stats = found.and_then(|kv| serde_json::from_slice::<Stats>(&kv.value).ok());
    Ok(stats.is_some_and(|stats| FlakeRule::default().score(&stats, now_ms()).is_flaky))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Other {
    /// The earlier run.
    with: String,
    /// As it was at this revision, which the store must still have.
    at: Option<i64>,
}

/// What had come of a run at a revision.
async fn trials_at(services: &Services, run: &str, revision: i64) -> Result<Vec<Trial>, Problem> {
    if revision <= 0 {
        return Err(Problem::new(400, "a revision is above 0"));
    }
    let (client, run, handle) = (services.store().await?, run.to_owned(), Handle::current());
    let reading = move || handle.block_on(read::book_at(&client, &run, revision));
    let book = spawn_blocking(move || reading().map(|book| book.trials()));
    Ok(book.await.map_err(cut_off)??)
}

/// What a run does otherwise than an earlier one, or than itself at an earlier revision.
pub(super) async fn compare(
    services: Services,
    InPath(run): InPath<String>,
    Asked(Other { with, at }): Asked<Other>,
) -> Result<Response, Problem> {
    let second = services.shelved(&run).await?;
    let first = match at {
        None => {
            let first = services.shelved(&with).await?;
            spawn_blocking(move || first.book.trials()).await.map_err(cut_off)?
        }
        Some(revision) => trials_at(&services, &with, revision).await?,
    };
    let found = spawn_blocking(move || analysis::compare(&first, &second.book.trials()));
    let found = found.await.map_err(cut_off)?;
    let names = |names: &[(String, String)]| -> Vec<Value> {
        let show = |(case, place): &(String, String)| json!({"case": case, "environment": place});
        names.iter().map(show).collect()
    };
    let timed = |names: &[(String, String, u64, u64)]| -> Vec<Value> {
        let show = |(case, place, before, after): &(String, String, u64, u64)| json!({"case": case, "environment": place, "before_ms": before, "after_ms": after});
        names.iter().map(show).collect()
    };
    Ok(ok(&json!({
        "run": run, "with": with, "at": at, "broken": names(&found.broken), "fixed": names(&found.fixed),
        "slower": timed(&found.slower), "quicker": timed(&found.quicker),
        "added": names(&found.added), "gone": names(&found.gone),
    })))
}

/// In which form a report is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    Html,
    Junit,
    Json,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    form: Form,
}

/// A run's report as a file, all of it cut at one revision.
pub(super) async fn download(
    services: Services,
    InPath(run): InPath<String>,
    Asked(Wanted { form }): Asked<Wanted>,
) -> Result<Response, Problem> {
    let found = services.shelved(&run).await?;
    let (kind, ending, write): (_, _, fn(&RunBook) -> String) = match form {
        Form::Html => ("text/html; charset=utf-8", "html", report::html),
        Form::Junit => ("application/xml", "xml", |book| junit::write(&report::junit(book))),
        Form::Json => ("application/json", "json", report::json),
    };
    let text = spawn_blocking(move || write(&found.book)).await.map_err(cut_off)?;
    // Runs are named by the scheduler, but by hand anything may be.
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || "-_.".contains(*c);
    let name: String = run.chars().filter(is_plain).collect();
    let file = format!("attachment; filename=\"run-{name}.{ending}\"");
    let file = HeaderValue::from_str(&file).map_err(cut_off)?;
    let headers: [(HeaderName, HeaderValue); 2] =
        [(CONTENT_TYPE, HeaderValue::from_static(kind)), (CONTENT_DISPOSITION, file)];
    Ok((headers, text).into_response())
}
