//! Test cases and environments: created, read, listed, changed and deleted, with versions.

use super::Services;
use super::answer::{Problem, located, ok, stored};
use super::ask::{Asked, Expected, InPath, Object, Part, check_known, token};
use super::runs::now_ms;
use crate::scheduler::analysis::{FlakeRule, FlakeScore, Stats, Trend};
use crate::scheduler::catalog::{self, Definition, Listed, Stored};
use crate::scheduler::checks::{Checked, check_case, check_places};
use crate::scheduler::client::Client;
use crate::scheduler::keys;
use crate::scheduler::model::{Environment, Refusal, TestCase};
use crate::scheduler::steer;
use crate::scheduler::submit::check_room;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// A definition that has a place under `/v1/`.
pub(super) trait Served: Definition {
    const PATH: &'static str;

    /// What must hold beside other definitions.
    async fn check_beside(&self, services: &Services) -> Result<(), Problem>;
}

impl Served for TestCase {
    const PATH: &'static str = "/v1/testcases/";

    async fn check_beside(&self, services: &Services) -> Result<(), Problem> {
        check_case(self, &services.inner.targets)?;
        Ok(catalog::check_order(&services.store().await?, std::slice::from_ref(self)).await?)
    }
}

impl Served for Environment {
    const PATH: &'static str = "/v1/environments/";

    async fn check_beside(&self, services: &Services) -> Result<(), Problem> {
        Ok(check_places(self, &services.inner.targets)?)
    }
}

/// The definition that a body holds; the name in the path counts if there is one.
fn parse<T: Served>(mut body: Object, id: Option<&str>) -> Result<T, Refusal> {
    if let Some(id) = id {
        let in_body = body.0.insert("id".into(), id.into());
        if in_body.is_some_and(|found| found != *id && !found.is_null() && found != "") {
            return Err(Refusal::new(400, "the body has another id than the path"));
        }
    }
    // These are not the caller's to say.
    for name in ["gmt_create", "gmt_modified", "isDelete"] {
        body.0.remove(name);
    }
    let value: T = body.parse(&format!("a valid {}", T::WHAT))?;
    value.check()?;
    Ok(value)
}

pub(super) async fn create<T: Served>(
    services: Services,
    mut body: Object,
) -> Result<Response, Problem> {
    body.take_version()?;
    let value: T = parse(body, None)?;
    value.check_beside(&services).await?;
    check_room(&services.store().await?).await?;
    let made = catalog::create(&services.store().await?, value).await?;
    Ok(created(&made))
}

/// Says where one is that was made.
fn created<T: Served>(made: &Stored<T>) -> Response {
    let path = format!("{}{}", T::PATH, urlencoded(made.value.id()));
    located(stored(StatusCode::CREATED, made), &path)
}

pub(super) async fn get<T: Served>(
    services: Services,
    InPath(id): InPath<String>,
) -> Result<Response, Problem> {
    Ok(stored(StatusCode::OK, &catalog::get::<T>(&services.store().await?, &id).await?))
}

pub(super) async fn put<T: Served>(
    services: Services,
    InPath(id): InPath<String>,
    expected: Expected,
    mut body: Object,
) -> Result<Response, Problem> {
    let is_there = expected.is_there;
    let version = expected.or(body.take_version()?)?;
    let value: T = parse(body, Some(&id))?;
    value.check_beside(&services).await?;
    check_room(&services.store().await?).await?;
    let was_there = AtomicBool::new(false);
    let written = |before: Option<&T>| {
        let found = before.is_some_and(|before| !before.is_deleted());
        was_there.store(found, Ordering::Relaxed);
        match is_there {
            Some(true) if !found => Err(Refusal::new(412, format!("there is no {} {id}", T::WHAT))),
            Some(false) if found => Err(Refusal::new(412, catalog::there_is::<T>(&id))),
            _ => Ok(value.clone()),
        }
    };
    value.check()?;
    let written = catalog::change(&services.store().await?, &id, version, written).await?;
    Ok(match was_there.into_inner() {
        true => stored(StatusCode::OK, &written),
        false => created(&written),
    })
}

/// Changes the fields that the body names; null takes one away.
pub(super) async fn patch<T: Served>(
    services: Services,
    InPath(id): InPath<String>,
    expected: Expected,
    mut body: Object,
) -> Result<Response, Problem> {
    let expected = expected.or(body.take_version()?)?;
    let merged = |before: Option<&T>| {
        let before = before.ok_or_else(|| Refusal::new(404, format!("unknown {} {id}", T::WHAT)));
        let mut fields = match serde_json::to_value(before?) {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        merge(&mut fields, &body.0);
        parse::<T>(Object(fields), Some(&id))
    };
    let client = services.store().await?;
    let before = catalog::get::<T>(&client, &id).await?;
    merged(Some(&before.value))?.check_beside(&services).await?;
    check_room(&client).await?;
    let written = catalog::change(&client, &id, expected, merged).await?;
    Ok(stored(StatusCode::OK, &written))
}

fn merge(fields: &mut Map<String, Value>, changes: &Map<String, Value>) {
    for (name, change) in changes {
        match (fields.get_mut(name), change) {
            (_, Value::Null) => {
                fields.remove(name);
            }
            (Some(Value::Object(inner)), Value::Object(change)) => merge(inner, change),
            _ => {
                fields.insert(name.clone(), change.clone());
            }
        }
    }
}

pub(super) async fn delete<T: Served>(
    services: Services,
    InPath(id): InPath<String>,
    expected: Expected,
) -> Result<Response, Problem> {
    let deleted = catalog::delete::<T>(&services.store().await?, &id, expected.version).await?;
    Ok(stored(StatusCode::OK, &deleted))
}

/// Which cases are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CaseFilter {
    limit: Option<String>,
    next: Option<String>,
    owner: Option<String>,
    /// enabled, muted or skipped.
    state: Option<String>,
    kind: Option<String>,
    tag: Option<String>,
    /// name=value
    label: Option<String>,
    /// Anywhere in id, name or owner, whatever the case of its letters.
    text: Option<String>,
    /// With what is known of each case's past.
    history: Option<bool>,
}

impl CaseFilter {
    /// Whether a case is one of those at a time, in milliseconds since 1970.
    fn fits(&self, case: &TestCase, now: u64) -> bool {
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == found)
        };
        let has_label = |wanted: &String| match wanted.split_once('=') {
            Some((name, value)) => case.labels.get(name).is_some_and(|found| found == value),
            None => case.labels.contains_key(wanted),
        };
        let has_tag = |wanted: &String| case.mutual_tag.iter().any(|used| used.tag == *wanted);
        !case.is_deleted
            && is(&self.owner, &case.owner)
            && is(&self.state, &word(case.state_at(now)))
            && is(&self.kind, &word(case.kind))
            && self.tag.as_ref().is_none_or(has_tag)
            && self.label.as_ref().is_none_or(has_label)
            && has_text(self.text.as_deref(), &[&case.id, &case.name, &case.owner])
    }
}

pub(super) fn has_text(wanted: Option<&str>, texts: &[&str]) -> bool {
    let wanted = wanted.unwrap_or_default().to_lowercase();
    wanted.is_empty() || texts.iter().any(|text| text.to_lowercase().contains(&wanted))
}

pub(super) async fn list_cases(
    services: Services,
    Asked(mut filter): Asked<CaseFilter>,
) -> Result<Response, Problem> {
    let part = Part::new(filter.limit.take(), filter.next.take());
    check_known("state", filter.state.as_deref(), &["enabled", "muted", "skipped"])?;
    check_known("kind", filter.kind.as_deref(), &["http", "command", "manual"])?;
    let now = super::runs::now_ms();
    let found = list::<TestCase>(&services, &part, |case| filter.fits(case, now)).await?;
    if filter.history == Some(true) {
        let client = services.store().await?;
        let ids = found.items.iter().map(|case| stats_of(&client, &case.value.id));
        let stats = futures_util::future::try_join_all(ids).await?;
        let mut shown = show(&found);
        if let Some(items) = shown["items"].as_array_mut() {
            for (item, stats) in items.iter_mut().zip(stats) {
                item["stats"] = stats.into();
            }
        }
        return Ok(ok(&shown));
    }
    Ok(ok(&show(&found)))
}

/// What is known of a case's past, by environment.
async fn stats_of(client: &Client, case: &str) -> Result<Map<String, Value>, etcd_client::Error> {
    let prefix = format!("{}{case}/", keys::STATS);
    let found = client.prefix(&prefix, 0).await?.0.into_iter().map(|kv| {
        let environment = kv.key.strip_prefix(&prefix).unwrap_or_default().to_owned();
        (environment, serde_json::from_slice(&kv.value).unwrap_or_default())
    });
    Ok(found.collect())
}

/// Which environments are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct EnvironmentFilter {
    limit: Option<String>,
    next: Option<String>,
    health: Option<String>,
    text: Option<String>,
    /// With what came of each one's last check.
    checks: Option<bool>,
}

pub(super) async fn list_environments(
    services: Services,
    Asked(mut filter): Asked<EnvironmentFilter>,
) -> Result<Response, Problem> {
    let part = Part::new(filter.limit.take(), filter.next.take());
    let known = ["unknown", "good", "bad", "looping", "maintenance", "retired"];
    check_known("health", filter.health.as_deref(), &known)?;
    let found = list::<Environment>(&services, &part, |found| {
        let health = filter.health.as_ref();
        !found.is_deleted
            && health.is_none_or(|wanted| *wanted == word(found.health))
            && has_text(filter.text.as_deref(), &[&found.id, &found.name])
    });
    let found = found.await?;
    let mut shown = show(&found);
    if filter.checks == Some(true)
        && let Some(items) = shown["items"].as_array_mut()
    {
        let client = services.store().await?;
        let keys: Vec<String> = found.items.iter().map(|one| keys::check(&one.value.id)).collect();
        let checks = futures_util::future::try_join_all(keys.iter().map(|key| client.get(key)));
        for (item, check) in items.iter_mut().zip(checks.await?) {
            let check = check.and_then(|kv| serde_json::from_slice::<Checked>(&kv.value).ok());
            item["checked"] = serde_json::to_value(check).unwrap_or_default();
        }
    }
    Ok(ok(&shown))
}

/// Has an environment checked, and tells what came of it.
pub(super) async fn check(
    services: Services,
    InPath(id): InPath<String>,
    _: Object,
) -> Result<Response, Problem> {
    Ok(ok(&steer::check(&services.store().await?, &id).await?))
}

/// What came of the last check.
pub(super) async fn checked(
    services: Services,
    InPath(id): InPath<String>,
) -> Result<Response, Problem> {
    let found = services.store().await?.get(&keys::check(&id)).await?;
    let found = found.and_then(|kv| serde_json::from_slice::<Checked>(&kv.value).ok());
    found
        .map(|found| ok(&found))
        .ok_or_else(|| Problem::new(404, format!("environment {id} was never checked")))
}

async fn list<T: Served>(
    services: &Services,
    part: &Part,
    fits: impl Fn(&T) -> bool,
) -> Result<Listed<T>, Problem> {
    let (limit, after) = (part.limit()?, part.after()?);
    Ok(catalog::list::<T>(&services.store().await?, after.as_deref(), limit, fits).await?)
}

fn show<T: Served>(listed: &Listed<T>) -> Value {
    let next = listed.next.as_deref().map(token);
    json!({"items": listed.items, "next": next, "left": listed.left})
}

/// What is known of a case's past, by environment.
pub(super) async fn history(
    services: Services,
    InPath(case): InPath<String>,
) -> Result<Response, Problem> {
    let client = services.store().await?;
    let prefix = format!("{}{case}/", keys::RESULTS);
    let (stats, results) = tokio::join!(stats_of(&client, &case), client.prefix(&prefix, 0));
    if client.get(&format!("{}{case}", keys::CASES)).await?.is_none() {
        return Err(Problem::unknown("case", &case));
    }
    let results: Map<String, Value> = results?
        .0
        .into_iter()
        .map(|kv| {
            let environment = kv.key.strip_prefix(&prefix).unwrap_or_default().to_owned();
            (environment, serde_json::from_slice(&kv.value).unwrap_or_default())
        })
        .collect();
    let stats = stats?;
    let score = |(environment, stats): (&String, &Value)| {
        let stats = serde_json::from_value::<Stats>(stats.clone()).ok()?;
        Some((environment.clone(), FlakeRule::default().score(&stats, now_ms())))
    };
    let scores: BTreeMap<String, FlakeScore> = stats.iter().filter_map(score).collect();
    let trend = |(environment, stats): (&String, &Value)| {
        let stats = serde_json::from_value::<Stats>(stats.clone()).ok()?;
        Some((environment.clone(), stats.trend()))
    };
    let trends: BTreeMap<String, Trend> = stats.iter().filter_map(trend).collect();
    Ok(ok(&json!({"stats": stats, "results": results, "scores": scores, "trends": trends})))
}

/// A name as part of a path.
pub(super) fn urlencoded(name: &str) -> String {
    url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20")
}

/// The word of an enumeration, as JSON has it.
fn word(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}
