//! Runs: submitted, looked at, paused, resumed and canceled.

use super::Services;
use super::answer::{Problem, answer, located, ok};
use super::ask::{Asked, InPath, Object, Part, check_known, token};
use super::definitions::has_text;
use crate::scheduler::client::{Client, Page};
use crate::scheduler::coordinator::Control;
use crate::scheduler::keys;
use crate::scheduler::model::{Refusal, Row, RunSpec, Status};
use crate::scheduler::store::Kv;
use crate::scheduler::view::{STATES, read, state_of};
use crate::scheduler::{steer, submit};
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::future::try_join_all;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

/// Reads of the store for one page of a list; with a filter few runs may fit.
const PAGES_MAX: usize = 20;

/// Submits a run. The answer is 201 with its id, or 200 if the same was submitted before under the same
/// request id.
pub(super) async fn submit(services: Services, mut body: Object) -> Result<Response, Problem> {
    for name in ["id", "gmt_create", "submitted"] {
        if body.0.remove(name).is_some() {
            return Err(Problem::new(400, format!("{name} is given by the scheduler")));
        }
    }
    let spec: RunSpec = body.parse("a valid run")?;
    submit_spec(&services, spec).await
}

pub(super) async fn submit_spec(services: &Services, spec: RunSpec) -> Result<Response, Problem> {
    let now = SystemTime::now();
    let submitted = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let spec = RunSpec {
        id: format!("{submitted:011x}{:05x}", rand::random::<u32>() & 0xf_ffff),
        gmt_create: humantime::format_rfc3339_seconds(now).to_string(),
        submitted,
        ..spec
    };
    let made = submit::submit(&services.store().await?, &spec).await?;
    let path = format!("/v1/runs/{}", made.run);
    let (status, text) = match made.is_new {
        false => (StatusCode::OK, json!({"run": made.run, "is_new": false})),
        true => {
            let text = json!({
                "run": made.run, "is_new": true, "tasks": made.tasks, "lanes": made.lanes,
                "warnings": made.warnings,
            });
            (StatusCode::CREATED, text)
        }
    };
    Ok(located(answer(status, &text), &path))
}

/// Which runs are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RunFilter {
    limit: Option<String>,
    next: Option<String>,
    /// open, ended, or how they ended: passed, failed, canceled, incomplete.
    state: Option<String>,
    owner: Option<String>,
    queue: Option<String>,
    /// Part of id, name or owner.
    text: Option<String>,
}

impl RunFilter {
    fn fits(&self, run: &Map<String, Value>) -> bool {
        let text = |name: &str| run.get(name).and_then(Value::as_str).unwrap_or_default();
        let is = |wanted: &Option<String>, name: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == text(name))
        };
        let state = self.state.as_deref().unwrap_or("open");
        let is_in_state = matches!(state, "open" | "ended") || state == text("state");
        is_in_state
            && is(&self.owner, "owner")
            && is(&self.queue, "queue")
            && has_text(self.text.as_deref(), &[text("run"), text("name"), text("owner")])
    }
}

/// Open runs, and behind them those that have ended, each the newest first.
pub(super) async fn list(
    services: Services,
    Asked(mut filter): Asked<RunFilter>,
) -> Result<Response, Problem> {
    let part = Part::new(filter.limit.take(), filter.next.take());
    let (limit, after) = (part.limit()?, part.after()?);
    check_known("state", filter.state.as_deref(), &[&["open", "ended"], &STATES[..]].concat())?;
    let client = services.store().await?;
    let held = read::held(&client, 0).await?;
    let mut items = Vec::new();
    let mut after = after.unwrap_or_else(|| keys::OPEN.to_owned());
    let (with_open, with_ended) = match filter.state.as_deref() {
        None => (true, true),
        Some("open" | "accepted" | "waiting" | "running" | "paused" | "canceling") => (true, false),
        Some(_) => (false, true),
    };
    if !after.starts_with(keys::OPEN) && !after.starts_with(keys::ENDED) {
        return Err(Problem::new(400, "next is not what a list has said"));
    }
    if !with_open && after.starts_with(keys::OPEN) {
        after = keys::ENDED.to_owned();
    }
    for _ in 0..PAGES_MAX {
        let is_open = after.starts_with(keys::OPEN);
        let (page, prefix) = read_page(&client, &after, limit - items.len()).await?;
        let shown: Vec<_> = match is_open {
            true => {
                try_join_all(page.kvs.iter().map(|kv| show_open(&client, kv, held.as_ref())))
                    .await?
            }
            false => page.kvs.iter().map(show_ended).collect(),
        };
        items.extend(shown.into_iter().flatten().filter(|run| filter.fits(run)));
        match page.kvs.last() {
            Some(last) if page.has_more => after = last.key.clone(),
            _ if prefix == keys::OPEN && with_ended => after = keys::ENDED.to_owned(),
            _ => return Ok(ok(&json!({"items": items, "next": null}))),
        }
        if items.len() >= limit {
            break;
        }
    }
    Ok(ok(&json!({"items": items, "next": token(&after)})))
}

/// Keys behind a place: of open runs backwards, since their ids grow with time.
async fn read_page(
    client: &Client,
    after: &str,
    limit: usize,
) -> Result<(Page, &'static str), Problem> {
    let limit = limit as i64;
    if after.starts_with(keys::OPEN) {
        let end = match after == keys::OPEN {
            true => keys::range_end(keys::OPEN),
            false => after.as_bytes().to_vec(),
        };
        return Ok((client.page(keys::OPEN, &end, limit, true).await?, keys::OPEN));
    }
    let (from, end) = (format!("{after}\0"), keys::range_end(keys::ENDED));
    Ok((client.page(&from, &end, limit, false).await?, keys::ENDED))
}

async fn show_open(
    client: &Client,
    kv: &Kv,
    held: Option<&BTreeSet<String>>,
) -> Result<Option<Map<String, Value>>, etcd_client::Error> {
    let run = kv.key.strip_prefix(keys::OPEN).unwrap_or_default();
    let (spec_key, status_key) = (keys::run(run), keys::status(run));
    let control_key = keys::control(run);
    let (spec, status, control) =
        tokio::join!(client.get(&spec_key), client.get(&status_key), client.get(&control_key));
    let Some(spec) = spec? else { return Ok(None) };
    let spec: RunSpec = serde_json::from_slice(&spec.value).unwrap_or_default();
    let is_held = held.map(|held| held.contains(run));
    let mut shown = status_of(status?.as_ref(), control?.as_ref(), is_held);
    for (name, value) in
        [("run", run), ("name", &spec.name), ("queue", &spec.queue), ("owner", &spec.owner)]
    {
        shown.insert(name.into(), value.into());
    }
    shown.entry("started").or_insert(spec.submitted.into());
    shown.insert("rerun_of".into(), spec.rerun_of.into());
    Ok(Some(shown))
}

fn show_ended(kv: &Kv) -> Option<Map<String, Value>> {
    let (_, run) = keys::parse_ended(&kv.key)?;
    match serde_json::from_slice(&kv.value) {
        Ok(Value::Object(mut fields)) => {
            fields.insert("run".into(), run.into());
            Some(fields)
        }
        _ => None,
    }
}

/// What was submitted, and how far it is.
pub(super) async fn get(
    services: Services,
    InPath(run): InPath<String>,
) -> Result<Response, Problem> {
    let client = services.store().await?;
    let (spec_key, status_key) = (keys::run(&run), keys::status(&run));
    let control_key = keys::control(&run);
    let held = read::held(&client, 0).await?;
    let (spec, status, control) =
        tokio::join!(client.get(&spec_key), client.get(&status_key), client.get(&control_key));
    let spec = spec?.ok_or_else(|| Problem::unknown("run", &run))?;
    let spec: Value = serde_json::from_slice(&spec.value)
        .map_err(|error| Problem::new(422, format!("{spec_key} holds no run: {error}")))?;
    let is_held = held.map(|held| held.contains(&run));
    let status = status_of(status?.as_ref(), control?.as_ref(), is_held);
    Ok(ok(&json!({"run": run, "spec": spec, "status": status})))
}

/// What the leader has written of a run, with the version of that and of what is wanted since: the
/// leader writes when results change, and what was asked for is told at once. A run of which nothing
/// was written is accepted. `is_held` tells whether workers have something of it, where that is known.
pub(super) fn status_of(
    status: Option<&Kv>,
    control: Option<&Kv>,
    is_held: Option<bool>,
) -> Map<String, Value> {
    let fields = status.and_then(|kv| match serde_json::from_slice(&kv.value) {
        Ok(Value::Object(fields)) => Some(fields),
        _ => None,
    });
    let mut fields = fields.unwrap_or_default();
    let wanted = control.and_then(|kv| serde_json::from_slice(&kv.value).ok()).unwrap_or_default();
    let written = fields.get("state").and_then(Value::as_str).unwrap_or_default();
    let state = state_of(written, wanted, is_held).to_owned();
    fields.insert("state".into(), state.into());
    let versions = [status, control].into_iter().flatten().map(|kv| kv.mod_revision);
    fields.insert("version".into(), versions.max().unwrap_or(0).into());
    fields
}

pub(super) async fn pause(
    services: Services,
    run: InPath<String>,
    _: Object,
) -> Result<Response, Problem> {
    control(services, run, Control::Paused).await
}

pub(super) async fn resume(
    services: Services,
    run: InPath<String>,
    _: Object,
) -> Result<Response, Problem> {
    control(services, run, Control::Running).await
}

pub(super) async fn cancel(
    services: Services,
    run: InPath<String>,
    _: Object,
) -> Result<Response, Problem> {
    control(services, run, Control::Canceled).await
}

async fn control(
    services: Services,
    InPath(run): InPath<String>,
    wanted: Control,
) -> Result<Response, Problem> {
    let client = services.store().await?;
    if wanted != Control::Canceled
        && let Some(kv) = client.get(&keys::control(&run)).await?
        && matches!(serde_json::from_slice(&kv.value), Ok(Control::Canceled))
    {
        return Err(Refusal::new(409, format!("run {run} is canceled")).into());
    }
    steer::control(&client, &run, wanted).await?;
    Ok(answer(StatusCode::ACCEPTED, &json!({"run": run, "control": wanted})))
}

/// What a person says of a task of a manual case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Opinion {
    /// passed, failed or error
    verdict: String,
    /// What was seen.
    #[serde(default)]
    message: String,
    /// Whose verdict it is.
    #[serde(default)]
    by: String,
}

pub(super) async fn verdict(
    services: Services,
    InPath((run, lane, ordinal)): InPath<(String, u32, u32)>,
    body: Object,
) -> Result<Response, Problem> {
    let opinion: Opinion = body.parse("a verdict")?;
    let known = [Status::Passed, Status::Failed, Status::Error];
    let status = known.into_iter().find(|status| status.word() == opinion.verdict);
    let status = status.ok_or_else(|| Problem::new(400, "a verdict is passed, failed or error"))?;
    let detail = Some(json!({"message": opinion.message, "by": opinion.by}));
    let start = now_ms();
    let row = Row { lane, ordinal, attempt: 0, status, start, duration: 0, detail };
    let client = services.store().await?;
    if client.get(&keys::run(&run)).await?.is_none() {
        return Err(Problem::unknown("run", &run));
    }
    if let Err(refused) = steer::verdict(&client, &run, &row).await {
        // Only here, since reading a large run takes its time.
        services.shelved(&run).await?.task(lane, ordinal)?;
        return Err(refused.into());
    }
    Ok(answer(StatusCode::ACCEPTED, &json!({"run": run, "lane": lane, "ordinal": ordinal})))
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
