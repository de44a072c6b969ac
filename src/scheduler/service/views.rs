//! What lies behind a run's totals: its tasks and lanes page by page, why they wait, the bound and what
//! was lost against it, the audit; and the same again as a new run.

use super::Services;
use super::answer::{Problem, ok};
use super::ask::{Asked, InPath, Object, Part, token};
use super::runs::submit_spec;
use super::shelf::Waiters;
use crate::scheduler::model::{Refusal, RunSpec, Status};
use crate::scheduler::view::{self, Again, Attempt, Filter, read};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::runtime::Handle;

/// How far the clocks of workers may be apart.
const SKEW_MS: u64 = 50;

/// Which tasks are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TaskFilter {
    limit: Option<String>,
    next: Option<String>,
    /// Codes with commas between them, or `failures`.
    status: Option<String>,
    case: Option<String>,
    environment: Option<String>,
    tag: Option<String>,
    flaky: Option<bool>,
    /// As groups of failures tell it.
    fingerprint: Option<String>,
}

fn statuses(asked: &str) -> Result<Vec<Status>, Problem> {
    if asked == "failures" {
        return Ok(Filter::failures().statuses);
    }
    let find = |asked: &str| {
        let is_meant = |status: &Status| status.code() == asked || status.word() == asked;
        let found = Status::ALL.into_iter().find(is_meant);
        found.ok_or_else(|| {
            let known = Status::ALL.map(|status| format!("{} ({})", status.word(), status.code()));
            let known = known.join(", ");
            Problem::new(400, format!("unknown status {asked:?}: known are failures, {known}"))
        })
    };
    asked.split(',').map(find).collect()
}

/// Two numbers as a place in a list.
fn place(text: &str) -> Result<(u32, u32), Problem> {
    let numbers = text.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    numbers.ok_or_else(|| Problem::new(400, "next is not what a list has said"))
}

/// A part of a list that is made as a whole.
pub(super) struct Cut {
    from: usize,
    limit: usize,
}

impl Cut {
    pub(super) fn new(part: &Part) -> Result<Self, Problem> {
        let limit = part.limit()?;
        let from = part.after()?.as_deref().map_or(Ok((0, 0)), place)?.0 as usize;
        Ok(Self { from, limit })
    }

    pub(super) fn page<T: Serialize>(&self, all: &[T], revision: i64) -> Value {
        let shown: Vec<_> = all.iter().skip(self.from).take(self.limit).collect();
        let end = self.from.saturating_add(shown.len());
        let next = (end < all.len()).then(|| token(&format!("{end}-0")));
        json!({"items": shown, "next": next, "revision": revision})
    }
}

pub(super) async fn tasks(
    services: Services,
    InPath(run): InPath<String>,
    Asked(asked): Asked<TaskFilter>,
) -> Result<Response, Problem> {
    let part = Part::new(asked.limit, asked.next);
    let (limit, after) = (part.limit()?, part.after()?);
    let from = after.as_deref().map_or(Ok((0, 0)), place)?;
    let filter = Filter {
        statuses: asked.status.as_deref().map_or(Ok(Vec::new()), statuses)?,
        case: asked.case,
        environment: asked.environment,
        tag: asked.tag,
        flaky: asked.flaky.unwrap_or_default(),
        fingerprint: asked.fingerprint,
    };
    let found = services.shelved(&run).await?;
    let page = found.book.tasks(&filter, from, limit);
    let next = page.next.map(|(lane, ordinal)| token(&format!("{lane}-{ordinal}")));
    Ok(ok(&json!({"items": page.tasks, "next": next, "revision": found.book.revision})))
}

/// A task with all its attempts.
pub(super) async fn task(
    services: Services,
    InPath((run, lane, ordinal)): InPath<(String, u32, u32)>,
) -> Result<Response, Problem> {
    let found = services.shelved(&run).await?;
    let task = found.task(lane, ordinal)?;
    let attempts: Vec<Value> = found.book.attempts_of(lane, ordinal).map(show_attempt).collect();
    Ok(ok(&json!({"task": task, "attempts": attempts, "case": found.book.case_of(lane)})))
}

fn show_attempt(attempt: &Attempt) -> Value {
    json!({
        "attempt": attempt.row.attempt, "status": attempt.row.status, "start": attempt.row.start,
        "duration": attempt.row.duration, "detail": attempt.row.detail, "worker": &*attempt.worker,
        "fence": attempt.claim, "revision": attempt.revision,
    })
}

/// Cases in environments, each with how its tasks ended so far.
pub(super) async fn lanes(
    services: Services,
    InPath(run): InPath<String>,
    Asked(part): Asked<Part>,
) -> Result<Response, Problem> {
    let cut = Cut::new(&part)?;
    let found = services.shelved(&run).await?;
    Ok(ok(&cut.page(&found.book.lanes(), found.book.revision)))
}

/// Why what has not started has not started.
pub(super) async fn waiting(
    services: Services,
    InPath(run): InPath<String>,
) -> Result<Response, Problem> {
    let found = services.shelved_waiting(&run).await?;
    let Waiters { first, lanes, tasks, .. } = &found.waiting;
    let revision = found.book.revision;
    Ok(ok(&json!({"items": first, "lanes": lanes, "tasks": tasks, "revision": revision})))
}

/// The bound, how near the run came to it, and what it lost where.
pub(super) async fn bound(
    services: Services,
    InPath(run): InPath<String>,
) -> Result<Response, Problem> {
    let found = services.shelved(&run).await?;
    let mut shown = serde_json::to_value(&found.numbers).unwrap_or_default();
    shown["state"] = found.book.state().into();
    shown["running"] = found.book.running().into();
    shown["assigned"] = found.book.assigned().into();
    if let (Some(shown), Ok(Value::Object(pace))) =
        (shown.as_object_mut(), serde_json::to_value(found.pace))
    {
        shown.extend(pace);
    }
    shown["revision"] = found.book.revision.into();
    Ok(ok(&shown))
}

/// Whether the record holds what the scheduler promises.
pub(super) async fn audit(
    services: Services,
    InPath(run): InPath<String>,
) -> Result<Response, Problem> {
    let (client, handle) = (services.store().await?, Handle::current());
    let reading = tokio::task::spawn_blocking(move || {
        handle
            .block_on(read::verify(&client, &run, SKEW_MS))
            .map(|(_, audit, whole)| (audit, whole))
    });
    let read = reading.await.map_err(|_| Problem::new(500, "reading the run was cut off"))?;
    let (audit, with_history) = read?;
    let is_clean = audit.is_clean();
    let mut shown = serde_json::to_value(&audit).unwrap_or_default();
    shown["is_clean"] = is_clean.into();
    shown["with_history"] = with_history.into();
    Ok(ok(&shown))
}

/// What of a run is run again, as `Again` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Which {
    #[default]
    Failed,
    Lost,
    Unstarted,
    All,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rerun {
    which: Which,
    request_id: Option<String>,
}

/// A new run that links back. Predecessors that are not run again count as ended.
pub(super) async fn rerun(
    services: Services,
    InPath(run): InPath<String>,
    body: Object,
) -> Result<Response, Problem> {
    let Rerun { which, request_id } = body.parse("a valid rerun")?;
    let again = match which {
        Which::Failed => Again { failed: true, ..Again::default() },
        Which::Lost => Again { lost: true, ..Again::default() },
        Which::Unstarted => Again { unstarted: true, ..Again::default() },
        Which::All => Again { all: true, ..Again::default() },
    };
    let found = services.shelved(&run).await?;
    let spec = view::rerun(&found.book, again);
    let spec = spec.ok_or_else(|| {
        Refusal::new(422, format!("run {} has nothing to run again", found.book.spec.id))
    })?;
    submit_spec(&services, RunSpec { request_id, ..spec }).await
}
