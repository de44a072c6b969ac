//! What lies behind a run's totals: its tasks and lanes page by page, why they wait, the bound and what
//! was lost against it, the timeline of slots, the audit; and the same again as a new run.

use super::Services;
use super::answer::{Problem, ok};
use super::ask::{Asked, InPath, Object, Part, token};
use super::runs::{now_ms, submit_spec};
use super::shelf::Waiters;
use crate::scheduler::model::{Refusal, RunSpec, Status};
use crate::scheduler::view::{self, Again, Attempt, Filter, Gap, Pace, read, slots, story};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio::runtime::Handle;

/// Attempts in one picture.
const TIMELINE_MAX: usize = 20_000;
/// Cases that a picture names.
const CASES_MAX: usize = 1_000;
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
    let task = found.book.find_task(lane, ordinal);
    let task = task.ok_or_else(|| Problem::new(404, format!("run {run} has no such task")))?;
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
    let found = services.shelved(&run).await?;
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
    let pace = Pace::of(&found.book, &found.numbers, now_ms());
    if let (Some(shown), Ok(Value::Object(pace))) =
        (shown.as_object_mut(), serde_json::to_value(pace))
    {
        shown.extend(pace);
    }
    shown["revision"] = found.book.revision.into();
    Ok(ok(&shown))
}

/// Attempts as stretches of time: worker, lane, ordinal, attempt, status, start, duration. The last
/// ones, where there are too many for a picture. What runs has no end: worker, lane, ordinal, attempt, since.
/// `widths` are of lanes whose tasks take more than one slot.
pub(super) async fn timeline(
    services: Services,
    InPath(run): InPath<String>,
) -> Result<Response, Problem> {
    let found = services.shelved(&run).await?;
    let looking = found.clone();
    let gaps = tokio::task::spawn_blocking(move || looking.gaps().to_vec());
    let gaps = gaps.await.map_err(|_| Problem::new(500, "reading the run was cut off"))?;
    let attempts = &found.book.attempts;
    let left_out = attempts.len().saturating_sub(TIMELINE_MAX);
    let mut workers: BTreeMap<&str, usize> = BTreeMap::new();
    for attempt in attempts {
        let next = workers.len();
        workers.entry(&attempt.worker).or_insert(next);
    }
    let show = |attempt: &Attempt| {
        let row = &attempt.row;
        let worker = workers.get(&*attempt.worker);
        json!([worker, row.lane, row.ordinal, row.attempt, row.status, row.start, row.duration])
    };
    let rows: Vec<Value> = attempts.iter().skip(left_out).map(show).collect();
    let gap = |gap: &Gap| json!([gap.from / 1_000, gap.to.div_ceil(1_000), gap.cause]);
    let idle: Vec<Value> = gaps.iter().take(TIMELINE_MAX).map(gap).collect();
    let of_workers = slots(&found.book);
    // Those that had nothing of it take part in the picture, too.
    for worker in of_workers.keys() {
        let next = workers.len();
        workers.entry(worker).or_insert(next);
    }
    let running: Vec<Value> = found
        .book
        .running_tasks()
        .map(|(lane, ordinal, worker, since)| {
            let attempt = found.book.attempts_of(lane, ordinal).count() + 1;
            json!([workers.get(worker), lane, ordinal, attempt, since])
        })
        .collect();
    let mut names: Vec<(&str, usize)> = workers.iter().map(|(name, at)| (*name, *at)).collect();
    names.sort_by_key(|(_, at)| *at);
    let names: Vec<&str> = names.into_iter().map(|(name, _)| name).collect();
    let slots: Vec<Option<&u64>> = names.iter().map(|name| of_workers.get(name)).collect();
    let lanes: Vec<_> = found.book.plan.lanes.iter().take(CASES_MAX).map(|l| &*l.case).collect();
    let wide = (0..).zip(&found.book.plan.lanes).filter(|(_, lane)| lane.slots > 1);
    let widths: BTreeMap<u32, u32> =
        wide.take(CASES_MAX).map(|(at, lane)| (at, lane.slots)).collect();
    Ok(ok(&json!({
        "workers": names, "slots": slots, "cases": lanes, "widths": widths, "rows": rows, "running": running,
        "gaps": idle, "left_out": left_out,
    })))
}

/// What happened, in order.
pub(super) async fn replay(
    services: Services,
    InPath(run): InPath<String>,
    Asked(part): Asked<Part>,
) -> Result<Response, Problem> {
    let cut = Cut::new(&part)?;
    let found = services.shelved(&run).await?;
    let telling =
        tokio::task::spawn_blocking(move || cut.page(&story(&found.book), found.book.revision));
    Ok(ok(&telling.await.map_err(|_| Problem::new(500, "telling the run was cut off"))?))
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
